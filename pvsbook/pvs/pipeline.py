"""One scan to counts and volumes of perivascular spaces, region by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, owens_t

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import perivascular
from pvsbook.atlas.registration import Model, Registration, check_model, is_placed
from pvsbook.derivatives import Writer
from pvsbook.method import describe_columns
from pvsbook.pvs import _contrasts
from pvsbook.pvs.anatomy import Contrast, PvsAnatomy, Strip, above_zero, locate_regions
from pvsbook.pvs.objects import CLASSES, OBJECT_COLUMNS, Rules, is_round
from pvsbook.pvs.quality import MIN_COVERAGE, judge
from pvsbook.pvs.segmentation import Segmentation, segment

__all__ = ["COLUMNS", "PvsResult", "measure"]


@dataclass(frozen=True, eq=False)
class PvsResult:
    """Perivascular spaces of one scan.

    Attributes
    ----------
    image
        The scan.
    objects
        One row per object, whatever its class (see `pvsbook.pvs.segmentation.Segmentation`).
    labels
        Image on the grid of the scan: the index of `objects` plus one.
    classes
        Image on the grid of the scan: see `pvsbook.pvs.objects.CLASSES`.
    regions
        Image on the grid of the scan: see `pvsbook.atlas.perivascular.REGIONS`.
    response
        Vesselness on the grid of the scan.
    segmentation, anatomy
        What the result was made from, on a box around the regions.
    contrast
        ``"t2"`` or ``"t1"``.
    has_wmh_mask
        Whether a mask of white-matter hyperintensities was given.
    wmh
        Where lesions are, shape of the anatomy: given, found on FLAIR, or None.
    wmh_false_ml
        Volume that the search for lesions finds where there is none (NaN without a search).
    contrasts
        The scan and the other contrasts of this head, by name (``"t2"``, ``"t1"``, ``"flair"``),
        each of the shape of the anatomy.
    agreement
        How well edges of ``"other"`` and ``"flair"`` agree with those of the scan: 1 at best, 0.33
        by chance.
    status
        ``"pass"``, ``"warn"`` or ``"fail"``.
    reasons
        Why the status is not a pass: what to look at before the numbers are believed.
    note
        What else to know of how it was measured.
    """

    image: nib.Nifti1Image
    objects: pd.DataFrame
    labels: nib.Nifti1Image
    classes: nib.Nifti1Image
    regions: nib.Nifti1Image
    response: nib.Nifti1Image
    segmentation: Segmentation
    anatomy: PvsAnatomy
    contrast: Contrast
    has_wmh_mask: bool
    wmh: NDArray[np.bool_] | None
    wmh_false_ml: float
    contrasts: Mapping[str, NDArray[np.float32]]
    agreement: Mapping[str, float]
    status: str
    reasons: tuple[str, ...]
    note: str = ""

    def to_row(self) -> dict[str, Any]:
        """Return counts, volumes and quality figures as one flat row (see `COLUMNS`)."""
        found = self.objects[self.objects["class"] == "pvs"]
        size_mm, noise = self.anatomy.voxel_size_mm, self.segmentation.noise_variance
        levels, match = self.segmentation.levels, self.anatomy.registration
        searched = np.bincount(self.anatomy.regions.ravel(), minlength=7)
        voxel_ml = float(np.prod(size_mm)) / 1000
        values = vars(self.segmentation) | vars(self)
        values |= {f"registration_{name}": value for name, value in vars(match).items()}
        for label, name in perivascular.REGIONS.items():
            coverage = self.anatomy.coverage[label]
            tissue_ml = float(searched[label]) * voxel_ml
            share = searched[label] / max(searched[1:].sum(), 1)
            totals = _totals(found[found["region"] == name], noise * share)
            if coverage < MIN_COVERAGE:
                totals = (np.nan,) * 4
            fraction = totals[2] / (1000 * tissue_ml) if tissue_ml else np.nan
            keys = (key.format(name) for key, *_ in _OF_REGION)
            values |= zip(keys, (*totals, tissue_ml, fraction, coverage), strict=True)
        totals = _totals(found, noise)
        values |= zip(("n_pvs", "n_pvs_se", "volume_mm3", "volume_se_mm3"), totals, strict=True)
        volumes = found["volume_mm3"]
        values |= {
            "median_volume_mm3": float(volumes.median()),
            "largest_volume_mm3": float(volumes.max()),
        }
        for kind in ("strict", "loose"):
            table = getattr(self.segmentation, kind)
            table = table[table["class"] == "pvs"]
            values |= {
                f"n_pvs_{kind}": len(table),
                f"volume_{kind}_mm3": float(table["volume_mm3"].sum()),
            }
        for shape in ("length_mm", "width_mm", "tortuosity", "ventricle_angle_deg"):
            values[f"median_{shape}"] = float(found[shape].median())
        for kind in CLASSES:
            values[f"n_{kind}"] = int((self.objects["class"] == kind).sum())
        wmh, inside, n_contrasts = self.wmh, self.anatomy.regions > 0, len(self.contrasts)
        is_fluid = found["n_csf_like"] == n_contrasts
        values |= {
            "wmh_ml": np.nan if wmh is None else float((wmh & inside).sum() * voxel_ml),
            "wmh_from": "mask" if self.has_wmh_mask else "none" if wmh is None else "FLAIR",
            "n_contrasts": n_contrasts,
            "n_csf_like": np.nan if n_contrasts < 2 else int(is_fluid.sum()),
            "contrast_agreement": min(self.agreement.values(), default=np.nan),
            "n_round": int(is_round(self.objects).sum()),
            "volume_voxels_mm3": float(found["volume_voxels_mm3"].sum()),
            "snr": levels.white_matter / levels.noise_sd,
            "contrast_to_noise": levels.contrast_to_noise,
            "voxel_mm3": 1000 * voxel_ml,
            "thickest_voxel_side_mm": float(size_mm.max()),
            "registration": match.model if match.warp is None else f"{match.model}, SyN",
            "reasons": "; ".join(self.reasons),
        }
        return {name: values[name] for name in COLUMNS}

    def save(
        self,
        folder: images.PathLike,
        *,
        prefix: str = "sub-scan",
        sources: Sequence[str] = (),
    ) -> None:
        """Write maps, the row and the table of objects as BIDS-Derivatives.

        Parameters
        ----------
        folder
            Top of the data set.
        prefix
            Entities of the scan (see `pvsbook.derivatives.prefix_from`).
        sources
            Names of the input files.
        """
        writer = Writer(folder, prefix=prefix, datatype="anat", sources=sources)
        classes = {number: name for name, number in CLASSES.items()}
        writer.segmentation(self.classes, classes, desc="pvs")
        objects = dict(enumerate(self.objects["class"], 1))
        writer.segmentation(self.labels, objects, desc="pvsobjects")
        writer.segmentation(self.regions, perivascular.REGIONS, desc="pvsregions")
        writer.image(self.response, "vesselness", desc="pvs")
        if self.wmh is not None and not self.has_wmh_mask:
            lesions = _whole(self.wmh.astype(np.uint8), self.anatomy, self.image)
            writer.image(lesions, "mask", desc="wmh")
        writer.table(self.to_row(), COLUMNS, "pvs", desc="counts")
        writer.table(self.objects, OBJECT_COLUMNS, "pvs", desc="objects")


def _totals(found: pd.DataFrame, noise_variance: float) -> tuple[float, float, float, float]:
    """Return count and volume of objects, each with its standard deviation under new noise.

    Objects come and go.  PVS just below the threshold appear as often as those just above it
    disappear, so the latter count twice; most objects below it are noise, of which few pass at
    random.  A volume has the noise within each object too.
    """
    flips, volume = 2 * _flips(found["repeat_probability"]), found["volume_mm3"]
    n_error = float(np.sqrt(flips.sum() + noise_variance))
    volume_error = float(np.sqrt((found["volume_se_mm3"] ** 2 + flips * volume**2).sum()))
    return len(found), n_error, float(volume.sum()), volume_error


def _flips(repeat_probability: ArrayLike) -> NDArray[np.float64]:
    """Return the variance of whether each object is found, over scans with new noise.

    An object passes with probability q = Phi((m - t) / s), m its response without noise, and the
    variance is q (1 - q).  Only m plus noise was measured, and `repeat_probability` is the mean p
    of q over what m may be; p (1 - p) would count the doubt about m as if it were noise.  The mean
    of q (1 - q) is twice Owen's T.
    """
    p = np.clip(np.asarray(repeat_probability, np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(2 * owens_t(ndtri(p), 1 / np.sqrt(3)))


def measure(
    image: images.ImageLike,
    *,
    contrast: Contrast = "t2",
    flair: images.ImageLike | None = None,
    other: images.ImageLike | None = None,
    wmh_mask: images.ImageLike | None = None,
    brain_mask: images.ImageLike | None = None,
    registration: Registration | Model = "affine",
    strip: Strip = "opening",
    rules: Rules | None = None,
    rng: np.random.Generator | None = None,
) -> PvsResult:
    """Count and measure perivascular spaces in one scan.

    Regions and tissue priors come from MNI by a registration; the objects are found as
    `pvsbook.pvs.segment` describes.  The unit of the intensities and the storage order do not
    matter.

    Parameters
    ----------
    image
        T2w or T1w scan, 3D, skull-stripped or whole head: a path or an image.
    contrast
        ``"t2"``: fluid is bright; ``"t1"``: fluid is dark.
    flair
        FLAIR of the same head on any grid; it is aligned rigidly, and not used where
        it does not fit (the status fails).  Lesions are found on it where
        no `wmh_mask` is given, and objects that are bright on it are *WMH overlap*.
    other
        The T1w scan beside a T2w scan, or the T2w scan beside a T1w scan, like `flair`.  It
        changes no class: it says of each object whether it looks like CSF there too.
    wmh_mask
        Mask of white-matter hyperintensities on the grid of the scan (fractions count from
        0.5).  Give it, or a FLAIR, wherever there is one: no vesselness filter tells
        lesions from spaces (Bernal et al. 2022, Magn Reson Imaging 93:33).
    brain_mask
        Brain mask on the grid of the scan; found by itself by default.  Give it for whole-head
        scans where the registration figure looks wrong.
    registration
        ``"affine"``; ``"syn"`` where ventricles are wide or the brain is far from the template's
        shape (20 s more); or where the scan lies in MNI space, if that is known already.
    strip
        How the brain is cut out of a whole head: ``"opening"`` cuts the bridges through the
        skull; ``"deepbet"`` takes the network of that name (``pip install 'pvsbook[strip]'``).
    rules
        Rules other than the default.
    rng
        Random numbers of the noise simulation that sets the threshold; a fixed seed by default.

    Returns
    -------
    PvsResult

    Notes
    -----
    Objects are found in one scan.  To search the sum of contrasts was tried on simulated brains
    of 1 mm, with weights that know the contrast of a space, and left out: nothing to gain where
    spaces are as bright as CSF (every one is found), and F1 .99, .96, .96 and .84 for T2w alone,
    with FLAIR, with T1w, and for T1w over T2w where they are faint
    (``benchmarks/pvs_accuracy.py --channels``).  So the others only say what an object is: bright
    on FLAIR, it is a lesion.  An object that is not CSF-like on T1w stays what it is, since thin
    spaces have little contrast there (``benchmarks/pvs_people.py``).

    Standard errors are of noise alone, not of registration, movement or tissue.  Over 20 scans of
    a simulated brain (1.2 mm), they were 1.4 times the standard deviation of the count for faint
    spaces (by region 0.8 to 1.7), and 0.5 where no count changed, for spaces as bright as CSF;
    for the volume, 1.2 times for both (by region 0.8 to 1.6).  Brains differ: three scans of
    another, of faint spaces at 1 mm, scattered in volume 2.4 times as much as stated.

    Raises
    ------
    InputError
        A scan that cannot be used, masks on another grid, a contrast other than the one named,
        or a field of view without the regions.

    Examples
    --------
    >>> from pvsbook.phantoms.perivascular import make_phantom
    >>> phantom = make_phantom(np.random.default_rng(1), voxel_size_mm=1.2, counts={"cso_left": 4})
    >>> row = measure(phantom.scans["T2w"]).to_row()
    >>> bool(abs(row["n_cso_left"] - 4) <= 1), row["status"]
    (True, 'pass')
    """
    if contrast not in ("t2", "t1"):
        raise InputError(f"contrast: {contrast!r}; choose 't2' (bright fluid) or 't1' (dark)")
    check_model(registration)
    loaded = images.load(image, name="image")
    scan = above_zero(loaded)
    wmh = _load_mask(wmh_mask, scan, "wmh_mask")
    mask = _load_mask(brain_mask, scan, "brain_mask")
    if mask is not None and not np.any(mask.dataobj):
        raise InputError("brain_mask: is empty; give a mask of the brain, or none")
    more = [
        None if source is None else images.load(source, name=name)
        for source, name in ((flair, "flair"), (other, "other"))
    ]
    place: dict[str, Any] = {"mask": mask, "registration": registration, "strip": strip}
    anatomy = locate_regions(scan, contrast=contrast, **place)
    contrasts = _contrasts.gather(anatomy, contrast, *more)
    inside, false_ml = None, np.nan
    if wmh is not None:
        inside = np.asarray(wmh.dataobj)[anatomy.box] != 0
    elif "flair" in contrasts.values:
        inside, false_ml = _contrasts.find_lesions(contrasts, anatomy)
    segmentation = segment(anatomy, wmh=inside, rules=rules, rng=rng)
    levels = segmentation.levels
    measured: Contrast = "t2" if levels.sign > 0 else "t1"
    found = anatomy.registration
    if measured != contrast and not is_placed(found):
        # Where the ventricles are not, fluid says nothing of the contrast.
        again = locate_regions(scan, contrast=measured, **place)
        if not is_placed(again.registration):
            raise InputError(
                f"image: correlates with the template by {found.correlation:.2f}, so ventricles "
                "and regions lie elsewhere; give a brain mask, and check the orientation in the "
                "header"
            )
    if levels.sign < 0 and levels.grey_matter > levels.white_matter:
        raise InputError(
            f"image: fluid is dark and grey matter ({levels.grey_matter:.3g}) brighter than white "
            f"({levels.white_matter:.3g}), as on FLAIR; give a T2w or T1w scan, and this one as "
            "flair"
        )
    if measured != contrast:
        raise InputError(
            f"image: fluid in the ventricles is {'brighter' if levels.sign > 0 else 'darker'} "
            f"than white matter ({levels.fluid:.3g} against {levels.white_matter:.3g}), but "
            f"contrast is {contrast!r}; is this another scan?  Else use "
            f"contrast={measured!r} (in a BIDS folder the name says it: {measured.upper()}w)"
        )
    look = partial(_contrasts.describe, contrasts=contrasts, anatomy=anatomy, lesions=inside)
    objects = look(segmentation.objects, segmentation.labels)
    segmentation = replace(segmentation, objects=objects)
    if "flair" in contrasts.values:  # what is bright on it is no perivascular space by any rules
        strict = objects.loc[segmentation.strict.index]
        loose = look(segmentation.loose, segmentation.loose_labels)
        segmentation = replace(segmentation, strict=strict, loose=loose)
    codes = np.array([0, *(CLASSES[c] for c in objects["class"])], np.uint8)
    given = None if wmh is None else inside  # what is found on FLAIR lies inside the brain
    doubts = (images.header_notes(loaded), contrasts.agreement, contrasts.covered)
    status, reasons = judge(segmentation, anatomy, given, *doubts)
    return PvsResult(
        image=scan,
        objects=objects,
        labels=_whole(segmentation.labels, anatomy, scan),
        classes=_whole(codes[segmentation.labels], anatomy, scan),
        regions=_whole(anatomy.regions, anatomy, scan),
        response=_whole(segmentation.response, anatomy, scan),
        segmentation=segmentation,
        anatomy=anatomy,
        contrast=contrast,
        has_wmh_mask=wmh is not None,
        wmh=inside,
        wmh_false_ml=false_ml,
        contrasts=contrasts.values,
        agreement=contrasts.agreement,
        status=status,
        reasons=reasons,
    )


def _load_mask(
    source: images.ImageLike | None, scan: nib.Nifti1Image, name: str
) -> nib.Nifti1Image | None:
    if source is None:
        return None
    return images.make(images.load_mask(source, scan, name=name), scan.affine)


def _whole(part: NDArray, anatomy: PvsAnatomy, scan: nib.Nifti1Image) -> nib.Nifti1Image:
    """Put an array of the box back on the grid of the scan."""
    whole = np.zeros(scan.shape, part.dtype)
    whole[anatomy.box] = part
    return images.make(whole, scan.affine)


_OF_REGION = (
    ("n_{}", "Perivascular spaces in {}; n/a if not seen"),
    ("n_{}_se", "Standard error that noise gives n_{}; says nothing of bias"),
    ("volume_{}_mm3", "Their volume in {}, corrected for partial volume", "mm^3"),
    ("volume_{}_se_mm3", "Standard error that noise gives volume_{}_mm3", "mm^3"),
    ("tissue_{}_ml", "Volume of {} inside brain and field of view", "mL"),
    ("fraction_{}", "Their volume over that of {}"),
    ("coverage_{}", "Fraction of {} inside field of view and brain mask"),
)
COLUMNS: Mapping[str, Mapping[str, str]] = describe_columns(
    *(
        (key.format(name), words.format(name), *unit)
        for name in perivascular.REGIONS.values()
        for key, words, *unit in _OF_REGION
    ),
    ("n_pvs", "Objects of class pvs"),
    ("n_pvs_se", "Standard error that noise gives n_pvs; says nothing of bias"),
    ("volume_mm3", "Volume of class pvs, corrected for partial volume", "mm^3"),
    ("volume_se_mm3", "Standard error that noise gives volume_mm3", "mm^3"),
    (
        "n_pvs_strict",
        "Objects of class pvs under rules a quarter stricter",
    ),
    ("n_pvs_loose", "Objects of class pvs under rules a fifth looser"),
    ("volume_strict_mm3", "Volume of class pvs under rules a quarter stricter", "mm^3"),
    ("volume_loose_mm3", "Volume of class pvs under rules a fifth looser", "mm^3"),
    ("median_volume_mm3", "Median volume of class pvs", "mm^3"),
    ("largest_volume_mm3", "Volume of the largest of class pvs, part of volume_mm3", "mm^3"),
    ("median_length_mm", "Median length along the centreline", "mm"),
    ("median_width_mm", "Median width", "mm"),
    ("median_tortuosity", "Median length over the distance between the ends"),
    ("median_ventricle_angle_deg", "Median angle to the way to the ventricles", "deg"),
    ("volume_voxels_mm3", "Volume of class pvs, voxels counted", "mm^3"),
    ("n_uncertain", "Objects too short, too round or too near cortex to be called"),
    ("n_wmh_overlap", "Objects inside the mask of white-matter hyperintensities"),
    ("n_lacune_like", "Objects too wide for a perivascular space, as bright as fluid"),
    (
        "expected_false",
        "False objects that noise alone makes, expected; no limit: the threshold sets it",
    ),
    (
        "n_mirrored",
        "Objects of the wrong sign (dark on T2w) that pass the same rules: what texture, "
        "vessels and artefacts may add to n_pvs",
    ),
    ("threshold", "Vesselness that a counted object reaches, from noise and n_mirrored"),
    ("searched_ml", "Volume searched; no limit: see coverage", "mL"),
    ("contrast", "t2: bright fluid, t1: dark fluid"),
    ("has_wmh_mask", "Whether a mask of white-matter hyperintensities was given"),
    *_contrasts.COLUMNS,
    (
        "snr",
        "White matter over the standard deviation of noise and texture; no limit: see "
        "contrast_to_noise",
    ),
    ("contrast_to_noise", "Fluid minus white matter, in standard deviations"),
    ("voxel_mm3", "Voxel volume; no limit: see thickest_voxel_side_mm", "mm^3"),
    ("thickest_voxel_side_mm", "Largest voxel side", "mm"),
    ("registration", "Model of the registration to MNI space"),
    ("registration_correlation", "Correlation of the scan with the template of its contrast"),
    ("registration_overlap", "Fraction of the brain that lies on the template"),
    ("status", "pass, warn or fail"),
    ("reasons", "What to look at before the numbers are believed"),
)
