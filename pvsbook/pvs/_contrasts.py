"""Other contrasts of the same head: lesions on FLAIR, and in how many an object is like CSF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import edt
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine, from_matvec
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.registration import is_placed, rigid_between
from pvsbook.images._smooth import smooth_within
from pvsbook.pvs._spread import robust_spread
from pvsbook.pvs.anatomy import Contrast, PvsAnatomy, above_zero, brain_mask
from pvsbook.pvs.objects import components

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Of one head, even in slices of 4 mm, 0.77 to 0.91; 2 mm off, 0.63 to 0.70; of another head that
# was aligned to the same template, 0.46 to 0.49 (three people; all of T1w, T2w and FLAIR).
MIN_AGREEMENT = 0.6
MIN_COVERED = 0.5  # of the regions; a contrast that shows less of them is not used
RESAMPLED_GAIN = 0.02  # of agreement, by blur alone
CLEAR_SHARE = 0.3  # of the voxels, those with the strongest edges: the rest is noise
EDGE_MM = 1.2  # standard deviation of the Gaussian whose gradient is compared
BACKGROUND_MM = 15.0  # wider than most lesions, which must not hide in it
NORMAL_SD = 2.5  # white matter further from its median is no part of the background
LESION_SD = 3.0  # on FLAIR, above the person's own white matter
CONFIRM_SD = 1.0  # on the scan, in the direction of fluid
LESION_MM3 = 5.0
LESION_DEPTH_MM = 2.2  # median over a lesion, in the white matter and nuclei of the atlas
AROUND_MM = (2.0, 8.0)  # white matter that an object is compared with
CSF_SD = 1.5  # an object of fluid differs from it by so much
_MIN_AROUND = 30  # voxels of it
_MIN_SHARED = 1000  # voxels of brain in both fields of view
GREY_SHARE = 0.15  # of the contrast of fluid: cortex is darker by more on T1w, not on FLAIR
NAMES: Mapping[str, str] = {"t2": "T2w", "t1": "T1w", "flair": "FLAIR"}
DIRECTION: Mapping[str, int] = {"t2": 1, "t1": -1, "flair": 1}
COLUMNS = (  # of a row: see `pvsbook.pvs.pipeline.COLUMNS`
    (
        "wmh_ml",
        "Mask of white-matter hyperintensities in the regions, with rims where it was found on "
        "FLAIR; n/a without mask and FLAIR",
        "mL",
    ),
    ("wmh_from", "mask: given; FLAIR: found on it; none"),
    (
        "wmh_false_ml",
        "What noise alone adds to wmh_ml: the search with both contrasts upside down; holds "
        "neither rims nor cortex (0.01 to 0.35 ml beyond what experts drew, in two people); n/a "
        "without a FLAIR; no limit: see wmh_ml",
        "mL",
    ),
    ("n_contrasts", "Contrasts of this head that were looked at"),
    (
        "n_csf_like",
        "Objects of class pvs that look like CSF on every contrast (T2w bright, T1w dark, FLAIR "
        "not bright); n/a with one contrast",
    ),
    (
        "contrast_agreement",
        "Mean squared cosine between edges of the scan and of another contrast, the lowest; n/a "
        "with one contrast",
    ),
    (
        "n_round",
        "Bright objects deep in white matter that are not slender: lesions rather than "
        "perivascular spaces",
    ),
)


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Contrasts of one head on the box of its anatomy.

    Attributes
    ----------
    values
        By contrast (``"t2"``, ``"t1"``, ``"flair"``), shape of the anatomy, each in its own unit;
        the scan itself comes first.
    agreement
        How well edges of each other contrast run along those of the scan: the mean squared
        cosine of the angle between both gradients, whatever their signs, where edges are strong
        (normalised gradients, Haber and Modersitzki 2006, doi:10.1007/11866763_89); 0.33 by
        chance.
    covered
        Share of the regions that each other contrast shows.
    """

    values: Mapping[str, Floats]
    agreement: Mapping[str, float]
    covered: Mapping[str, float]


def gather(
    anatomy: PvsAnatomy,
    contrast: Contrast,
    flair: nib.Nifti1Image | None,
    other: nib.Nifti1Image | None,
) -> Contrasts:
    """Align the other contrasts of a head to its scan (`align`).

    What agrees with the scan by less than `MIN_AGREEMENT` is left out of the values: it is of
    another head, or lies elsewhere.  So is what shows less than `MIN_COVERED` of the regions.

    Raises
    ------
    InputError
        Another contrast than the one named, or no brain.
    """
    values: dict[str, Floats] = {contrast: images.array(anatomy.image)}
    agreement: dict[str, float] = {}
    covered: dict[str, float] = {}
    second = "t1" if contrast == "t2" else "t2"
    for name, role, image in ((second, "other", other), ("flair", "flair", flair)):
        if image is None:
            continue
        try:
            aligned, agreement[role] = align(above_zero(image), anatomy)
        except InputError as error:
            raise InputError(f"{role}: {error}; or leave it out") from error
        covered[role] = float((aligned > 0)[anatomy.regions > 0].mean())
        if agreement[role] < MIN_AGREEMENT or covered[role] < MIN_COVERED:
            continue
        looks = _looks_like(aligned, anatomy)
        if is_placed(anatomy.registration) and looks not in ("", name):
            raise InputError(
                f"{role}: fluid and grey matter look as on {NAMES[looks]}, where {NAMES[name]} is "
                "expected; give the right file, or leave it out"
            )
        values[name] = aligned
    return Contrasts(values, agreement, covered)


def _looks_like(values: Floats, anatomy: PvsAnatomy) -> str:
    """Tell the contrast by the signal of ventricles and cortex against white matter."""
    cortex = (anatomy.gm > 0.8) & (anatomy.regions == 0)
    places = (_centrum(anatomy), anatomy.ventricles > 0.8, cortex)
    samples = [values[place & anatomy.brain & (values > 0)] for place in places]
    if min(map(len, samples)) < _MIN_AROUND:
        return ""  # out of sight
    white, fluid, grey = map(np.median, samples)
    if fluid > white:
        return "t2"
    return "t1" if white - grey > GREY_SHARE * (white - fluid) else "flair"


def align(image: nib.Nifti1Image, anatomy: PvsAnatomy) -> tuple[Floats, float]:
    """Resample another contrast of the same head, once, to the box of a scan.

    The place that the headers give is compared with that of a rigid registration by mutual
    information, and the one whose edges agree better with those of the scan is taken; where
    neither agrees, the registration starts from where the centres of both brains meet.  On the
    grid of the scan the headers' place needs no resampling.

    Parameters
    ----------
    image
        3D, any grid, skull-stripped or whole head.
    anatomy
        Of the scan.

    Returns
    -------
    values
        Shape of the anatomy; 0 outside the field of view of the image.
    agreement
        See `Contrasts`.
    """
    affine = anatomy.image.affine
    static = images.make(np.where(anatomy.brain, images.array(anatomy.image), 0), affine)
    mask = np.asarray(brain_mask(image)[0].dataobj) != 0
    moving = images.make(np.where(mask, images.array(image), 0), image.affine)
    values, agreement = _moved(image, np.eye(4), anatomy)
    tried = [(values, agreement + RESAMPLED_GAIN)]
    for start in (np.eye(4), _between_centres(static, moving)):
        to_image = rigid_between(static, moving, start=start)
        tried.append(_moved(image, np.linalg.inv(to_image), anatomy))
        if max(found for _, found in tried) >= MIN_AGREEMENT + RESAMPLED_GAIN:
            break
    best = max(range(len(tried)), key=lambda k: tried[k][1])
    return tried[best] if best else (values, agreement)


def _between_centres(one: nib.Nifti1Image, other: nib.Nifti1Image) -> NDArray[np.float64]:
    """Shift from the centre of one brain to that of another, scanner mm."""
    first, second = (
        apply_affine(image.affine, np.argwhere(images.array(image) > 0).mean(axis=0))
        for image in (one, other)
    )
    return from_matvec(np.eye(3), second - first)


def _moved(image: nib.Nifti1Image, to_scan: NDArray, anatomy: PvsAnatomy) -> tuple[Floats, float]:
    """Resample an image on the box of a scan, and tell how well their edges agree."""
    there = nib.Nifti1Image(images.array(image), to_scan @ image.affine)
    like = (anatomy.image.shape, anatomy.image.affine)
    values = np.asarray(resample_from_to(there, like, order=1).dataobj, np.float32)
    size = anatomy.voxel_size_mm
    inside = edt.edt(anatomy.brain & (values > 0), anisotropy=tuple(size)) > 2 * EDGE_MM
    if inside.sum() < _MIN_SHARED:
        return values, 0.0
    one, two = (
        [ndimage.gaussian_filter(v, EDGE_MM / size, order=o)[inside] / s
         for o, s in zip(np.eye(3, dtype=int), size, strict=True)]
        for v in (images.array(anatomy.image), values)
    )  # fmt: skip
    across = sum(a * b for a, b in zip(one, two, strict=True)) ** 2
    lengths = sum(a * a for a in one) * sum(b * b for b in two)
    clear = lengths > np.quantile(lengths, 1 - CLEAR_SHARE)
    return values, float(np.mean(across[clear] / lengths[clear]))


def find_lesions(contrasts: Contrasts, anatomy: PvsAnatomy) -> tuple[Mask, float]:
    """Find white-matter hyperintensities: what is bright on FLAIR, and like fluid on the scan.

    A voxel stands out by `LESION_SD` robust standard deviations of the person's own white matter
    (in basal ganglia and midbrain, of these) on FLAIR, and by `CONFIRM_SD` on the scan.  Clusters
    have at least `LESION_MM3`, and half of each lies `LESION_DEPTH_MM` deep in the white matter
    and nuclei of the atlas, so that cortex is none.  The same search in both contrasts upside
    down finds no lesion: what it finds in white matter estimates what noise and texture add.
    Cortex and the rims of lesions are not in this estimate, and both are in the mask: it serves
    to tell objects apart, and its volume is no measurement of lesions.

    Parameters
    ----------
    contrasts
        The scan first, and ``"flair"``.
    anatomy
        Of the scan.

    Returns
    -------
    lesions
        Mask, shape of the anatomy, inside the regions.
    false_ml
        Volume found upside down, per volume of centrum semiovale, in the regions.
    """
    size = anatomy.voxel_size_mm
    scan = next(iter(contrasts.values))
    white = (anatomy.wm > 0.9) & _centrum(anatomy)
    flair, fluid = (
        _standardised(contrasts.values[name], white, anatomy) for name in ("flair", scan)
    )
    fluid *= DIRECTION[scan]
    inside = (anatomy.regions > 0) & (contrasts.values["flair"] > 0)
    tissue = (anatomy.regions > 0) | (anatomy.ventricles > 0.1) | (anatomy.wm > 0.9)
    depth_mm = edt.edt(tissue, anisotropy=tuple(size))

    def find(side: int) -> Mask:
        labels = components(inside & (side * flair > LESION_SD) & (side * fluid > CONFIRM_SD))
        numbers = np.arange(1, int(labels.max()) + 1)
        kept = np.bincount(labels.ravel()) * np.prod(size) >= LESION_MM3
        kept[1:] &= np.asarray(ndimage.median(depth_mm, labels, numbers)) >= LESION_DEPTH_MM
        kept[0] = False
        return kept[labels]

    centrum = inside & _centrum(anatomy)
    share = (find(-1) & centrum).sum() / max(centrum.sum(), 1)
    return find(1), float(share * inside.sum() * np.prod(size) / 1000)


def _centrum(anatomy: PvsAnatomy) -> Mask:
    return anatomy.brain & (anatomy.regions > 0) & (anatomy.regions <= 2)


def _standardised(values: Floats, white: Mask, anatomy: PvsAnatomy) -> Floats:
    """Signal above smooth white matter, or above nuclei and midbrain in them, in robust SD."""
    size = anatomy.voxel_size_mm
    white = white & (values > 0)
    normal = white
    for _ in range(3):
        middle, spread = robust_spread(values[normal])
        normal = white & (np.abs(values - middle) < NORMAL_SD * spread)
    excess = values - smooth_within(values, normal, BACKGROUND_MM / size, default=middle)
    middle, spread = robust_spread(excess[normal])
    scaled = (excess - middle) / max(spread, 1e-12)
    for group in ((3, 4), (5, 6)):
        inside = np.isin(anatomy.regions, group)
        if inside.sum() >= _MIN_SHARED:
            middle, spread = robust_spread(scaled[inside])
            scaled[inside] = (scaled[inside] - middle) / max(spread, 1.0)
    return np.asarray(scaled, np.float32)


def describe(
    objects: pd.DataFrame,
    labels: NDArray[np.int32],
    contrasts: Contrasts,
    anatomy: PvsAnatomy,
    lesions: Mask | None,
) -> pd.DataFrame:
    """Say how each object looks on every contrast; what is bright on FLAIR is a lesion.

    Parameters
    ----------
    objects, labels
        Of a `pvsbook.pvs.segmentation.Segmentation`.
    contrasts, anatomy
        Of the scan.
    lesions
        White-matter hyperintensities, shape of the anatomy, or None.

    Returns
    -------
    pandas.DataFrame
        The objects with ``excess_t2``, ``excess_t1`` and ``excess_flair`` (median of the object
        less that of white matter `AROUND_MM` away, in its robust standard deviations; NaN for a
        contrast that is not there) and ``n_csf_like``: in how many it looks like CSF, by `CSF_SD`.
    """
    size = anatomy.voxel_size_mm
    excess = np.full((len(objects), len(DIRECTION)), np.nan)
    margin = np.ceil(AROUND_MM[1] / size).astype(int)
    free = ((anatomy.regions > 0) | (anatomy.wm > 0.9)) & anatomy.brain & (labels == 0)
    free &= anatomy.ventricles < 0.1
    if lesions is not None:
        free &= ~lesions
    for n, bounds in enumerate(ndimage.find_objects(labels)):
        box = tuple(
            slice(max(0, s.start - m), s.stop + m) for s, m in zip(bounds, margin, strict=True)
        )
        inside = labels[box] == n + 1
        away = edt.edt(~inside, anisotropy=tuple(size))
        around = free[box] & (away >= AROUND_MM[0]) & (away <= AROUND_MM[1])
        for k, name in enumerate(DIRECTION):
            if name not in contrasts.values:
                continue
            values = contrasts.values[name][box]
            sample = values[around & (values > 0)]
            if sample.size >= _MIN_AROUND:
                middle, spread = robust_spread(sample)
                excess[n, k] = (np.median(values[inside]) - middle) / max(spread, 1e-12)
    objects = objects.copy()
    for k, name in enumerate(DIRECTION):
        objects[f"excess_{name}"] = excess[:, k]
    is_fluid = [excess[:, 0] > CSF_SD, excess[:, 1] < -CSF_SD, excess[:, 2] < CSF_SD]
    objects["n_csf_like"] = np.sum(is_fluid, axis=0)
    objects.loc[objects["excess_flair"] > CSF_SD, "class"] = "wmh_overlap"
    return objects
