"""From a diffusion series to the ALPS index, with its uncertainty and its quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
from dipy.reconst.dti import color_fa, fractional_anisotropy, mean_diffusivity
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import estimators, series, tensor
from pvsbook.alps.estimators import Estimate
from pvsbook.alps.gradients import BvecCheck, check_bvecs, file_axes
from pvsbook.alps.quality import check_coverage, check_sides, is_registered, judge
from pvsbook.alps.regions import (
    FLUID_MD_MM2_S,
    NAMES,
    SPHERES_2_5_MM,
    Placement,
    RoiMeasure,
    RoiSet,
    measure_roi,
)
from pvsbook.atlas.registration import Model, Registration, check_model, register
from pvsbook.derivatives import Writer
from pvsbook.method import describe_columns

__all__ = ["COLUMNS", "AlpsResult", "measure"]

SIDES = ("left", "right", "mean")
ESTIMATORS = {
    "classic": "along the axes of the voxels",
    "reoriented": "along the axes of the head",
    "tract": "in the frame of the two tracts",
}
MAX_VOXEL_MM = 3.0
LEAST_BOOTSTRAP = 10  # repeats; fewer give no interval
FREE_MD_MM2_S = 2e-3
WHITE_FA = 0.25


@dataclass(frozen=True, eq=False)
class AlpsResult:
    """ALPS index of one scan.

    Attributes
    ----------
    indices : mapping of str to mapping of str to Estimate
        Estimator (``"classic"``, ``"reoriented"``, ``"tract"``), then side (``"left"``,
        ``"right"``, ``"mean"``).  NaN where the regions could not be placed.
    rois : tuple of RoiMeasure
    registration : Registration
    bvecs : BvecCheck
    tract_angle_deg : mapping of str to float
        Angle between the two tracts on each side.
    variants : mapping of str to float
        The tract index (mean of the sides) under other choices: ``"nlls"`` and ``"restore"``
        fits, ``"free_water"`` removed (NaN with one shell), ``"radius_5_mm"`` (NaN for regions
        drawn by hand), and ``"shift_sd"``, its SD when all regions shift by a voxel.
    status : {"pass", "warn", "fail"}
    reasons : tuple of str
        Why it is not a pass; those that fail come first.
    b_s_mm2 : float
        b-value of the shell that was used.
    n_directions, n_b0 : int
        Volumes of that shell, and without weighting, that were used.
    shells : str
        What the series holds.
    left_out : mapping of int to str
        Volumes of the file that were not used although they belong to the shell or to b=0, and
        those that are no measurement: by number from 0, and why.
    fa, colour_fa, md, labels : Nifti1Image
        Maps on the grid of the scan; md in mm2/s; labels 1 to 4 in the order of `NAMES`.
    """

    indices: Mapping[str, Mapping[str, Estimate]]
    rois: tuple[RoiMeasure, ...]
    registration: Registration
    bvecs: BvecCheck
    tract_angle_deg: Mapping[str, float]
    variants: Mapping[str, float]
    status: str
    reasons: tuple[str, ...]
    b_s_mm2: float
    n_directions: int
    n_b0: int
    shells: str
    left_out: Mapping[int, str]
    fa: nib.Nifti1Image
    colour_fa: nib.Nifti1Image
    md: nib.Nifti1Image
    labels: nib.Nifti1Image

    def to_row(self) -> dict[str, Any]:
        """Give the result as one flat row; `COLUMNS` describes each column."""
        values = vars(self) | {"reasons": "; ".join(self.reasons)}
        values["left_out"] = ", ".join(map(str, self.left_out)) or "none"
        for frame, sides in self.indices.items():
            for side, index in sides.items():
                name = f"alps_{frame}_{side}"
                values |= {name: index.value, f"{name}_low": index.low, f"{name}_high": index.high}
        for roi in self.rois:
            values |= {f"{roi.name}_{key}": value for key, value in _figures_of(roi).items()}
        values |= {f"alps_tract_{name}": value for name, value in self.variants.items()}
        values |= {f"{side}_tract_angle_deg": v for side, v in self.tract_angle_deg.items()}
        values |= {f"registration_{name}": v for name, v in vars(self.registration).items()}
        values |= {f"bvecs_{name}": value for name, value in vars(self.bvecs).items()}
        values |= {"bvecs_row_deg": self.bvecs.row_deg, "bvecs_row_b": self.bvecs.row_b}
        angles = self.registration.angles_deg
        values |= zip(("pitch_deg", "roll_deg", "yaw_deg"), angles, strict=True)
        return {name: values[name] for name in COLUMNS}

    def save(
        self, folder: images.PathLike, *, prefix: str = "sub-scan", sources: Sequence[str] = ()
    ) -> None:
        """Write the row, the FA, colour and mean-diffusivity maps and the regions.

        Parameters
        ----------
        folder : path
            Top of a BIDS-Derivatives data set; made where it is missing.
        prefix : str
            Entities of the scan, such as ``sub-01_ses-1``.
        sources : sequence of str
            Names of the input files, kept in the sidecars.
        """
        writer = Writer(folder, prefix=prefix, datatype="dwi", sources=sources)
        writer.table(self.to_row(), COLUMNS, "alps")
        writer.image(self.fa, "dwimap", model="DTI", param="FA")
        writer.image(self.md, "dwimap", model="DTI", param="MD", meta={"Units": "mm2/s"})
        writer.image(self.colour_fa, "dwimap", model="DTI", param="FA", desc="colour")
        labels = {name: number for number, name in enumerate(NAMES, 1)}
        writer.image(self.labels, "dseg", desc="alps", meta={"Labels": labels})


def check_options(search_mm: float, n_bootstrap: int, *, by_hand: bool) -> None:
    """Refuse a search that cannot be made, and a bootstrap too small for an interval.

    Raises
    ------
    InputError
        Names the option and what is possible.
    """
    if not 0 <= search_mm <= 3:
        raise InputError(f"search_mm is {search_mm}; use 0 (no search) to 3 mm")
    if search_mm and by_hand:
        raise InputError("search_mm: regions drawn by hand stay where they are; set it to 0")
    if n_bootstrap < LEAST_BOOTSTRAP:
        raise InputError(f"n_bootstrap is {n_bootstrap}; give {LEAST_BOOTSTRAP} or more")


def measure(
    dwi: images.Dwi,
    *,
    mask: nib.Nifti1Image | None = None,
    rois: RoiSet | nib.Nifti1Image = SPHERES_2_5_MM,
    search_mm: float = 0.0,
    registration: Registration | Model = "affine",
    n_bootstrap: int = 1000,
    rng: np.random.Generator | None = None,
) -> AlpsResult:
    """Measure the ALPS index of a diffusion scan.

    Tensors are fitted in native space by weighted least squares.  The FA map is registered to
    MNI space to bring the regions to the scan; tensors are never resampled.  The index comes in
    three frames: the axes of the voxels (`classic`), of the head (`reoriented`, by the rotation
    of the registration) and of the two tracts (`tract`, from the cross product of their
    directions).

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
        From `pvsbook.images.load_dwi`, after the corrections that the scan needs.
    mask : Nifti1Image, optional
        Brain mask on the grid of the series; found with median Otsu otherwise.
    rois : RoiSet or Nifti1Image
        The regions; `SPHERES_5_MM` makes values comparable with tools before 2025.  Regions
        drawn by hand come as labels 1 to 4 (the order of `pvsbook.alps.regions.NAMES`) on the
        grid of the series, or as a `RoiSet` in scanner mm.
    search_mm : float
        Move each sphere by up to this much, at most 3 mm, to where the fibres run as expected
        and no fluid is near.  Use it where anatomy is unusual; the index itself plays no part
        in the choice, and the displacement is reported.
    registration : {"affine", "syn"} or Registration
        How the FA map is registered: ``"syn"`` adds a nonlinear step, for wide ventricles, in
        some ten seconds more.  Or where the scan lies in MNI space, if that is known already.
    n_bootstrap : int
        Draws of the wild bootstrap; fewer are faster and leave the interval noisy.
    rng : numpy.random.Generator, optional
        Of the bootstrap; ``default_rng(0)`` otherwise, so that a scan gives one answer.

    Returns
    -------
    AlpsResult

    Raises
    ------
    InputError
        Voxels over 3 mm, no shell up to 3000 s/mm2 with six directions, a mask on another grid,
        an unknown registration, or a field of view that does not hold the regions.

    Notes
    -----
    The intervals hold the noise of the scan and nothing else: not where the regions lie, the
    registration, motion, or what a tensor leaves out.  Read `AlpsResult.variants` beside them.

    The index is not specific to perivascular or interstitial fluid and measures one site; write
    "lower ALPS index", not "impaired glymphatic function" (Taoka 2024).

    References
    ----------
    Taoka et al. 2017, doi:10.1007/s11604-017-0617-z; Tatekawa et al. 2023,
    doi:10.1007/s11604-022-01370-2; Taoka et al. 2024, doi:10.2463/mrms.rev.2023-0175.

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> from pvsbook.phantoms.diffusion import make_diffusion
    >>> phantom = make_diffusion(make_brain(2.5), rng=np.random.default_rng(0))
    >>> result = measure(phantom.dwi, mask=phantom.mask)
    >>> error = result.indices["tract"]["mean"].value - phantom.index
    >>> result.status, abs(error) < 0.1
    ('pass', True)
    """
    check_model(registration)
    if not isinstance(rois, RoiSet | nib.Nifti1Image):
        raise InputError(
            f"rois: {rois!r}; give pvsbook.alps.SPHERES_2_5_MM, another RoiSet, or an image"
        )
    rng = np.random.default_rng(0) if rng is None else rng
    size = images.voxel_size_mm(dwi.image)
    if size.max() > MAX_VOXEL_MM + 0.05:
        raise InputError(
            f"dwi: voxels of {' x '.join(f'{s:.2g}' for s in size)} mm; above 3 mm the regions "
            "mix projection and association fibres, so the index means nothing"
        )
    check_options(search_mm, n_bootstrap, by_hand=not isinstance(rois, RoiSet))
    stored, whole = dwi.image, series.canonical(dwi)
    shell = series.one_shell(whole.bvals_s_mm2)
    data, affine = images.array(whole.image)[..., shell], whole.image.affine
    bvals, bvecs, is_b0 = whole.bvals_s_mm2[shell], whole.bvecs_ras[shell], whole.is_b0[shell]
    if mask is None:
        inside = series.brain_mask(whole)
    else:
        loaded = images.make(images.load_mask(mask, stored), stored.affine)
        inside = np.asarray(nib.as_closest_canonical(loaded).dataobj) > 0
    series.check_order(data, inside, bvals, shell)
    unusable = series.unusable(data, inside, is_b0, bvecs)
    left_out = {int(shell[k]): what for k, what in unusable.items()}
    keep = np.delete(np.arange(len(shell)), list(unusable))
    shell, bvals, bvecs, is_b0 = shell[keep], bvals[keep], bvecs[keep], is_b0[keep]
    data, was_low = series.raised(data[..., keep], bvals)
    fit = tensor.fit_tensor(data, bvals, bvecs, mask=inside)
    eigenvalues, eigenvectors = tensor.eigen(fit.d_mm2_s)
    fa = fit.fill(np.minimum(fractional_anisotropy(eigenvalues), 1))
    md = fit.fill(mean_diffusivity(eigenvalues))
    axes = images.rotation(affine).T
    directions = fit.fill(eigenvectors[..., 0] @ axes.T)
    white = inside & (fa > WHITE_FA) & (md < FLUID_MD_MM2_S)
    check = check_bvecs(directions, fa, white, size, to_file=file_axes(stored.affine, affine))
    check = check.with_rows(data[white], bvals, bvecs, shell)
    brain = images.make(inside, affine)
    registration = register(images.make(fa, affine), registration, contrast="fa", mask=brain)
    to_head = registration.rotation
    d = np.zeros((*inside.shape, 3, 3))
    d[inside] = fit.d_mm2_s
    placement = Placement(registration, stored, affine, inside, to_head @ d @ to_head.T)
    shifts = placement.search(rois, search_mm) if search_mm else dict.fromkeys(NAMES, np.zeros(3))
    voxels = placement.place(rois, shifts)
    check_coverage(voxels, registration)
    if not isinstance(rois, RoiSet):
        check_sides(voxels, registration, affine)
    design = tensor.design_matrix(bvals, bvecs)
    to_fluid = ndimage.distance_transform_edt(~(inside & (md > FREE_MD_MM2_S)), sampling=size)
    measures = []
    for name, region in voxels.items():
        wls = tensor.wls(data[region.at], design, min_signal=fit.min_signal)
        moved_mm = float(np.linalg.norm(shifts[name]))
        measures.append(measure_roi(name, region, wls, to_head, to_fluid, moved_mm))
    variants = dict.fromkeys(estimators.VARIANTS, float("nan"))
    if is_registered(registration):
        indices = _indices(measures, axes, to_head, n_bootstrap, rng)
        variants |= estimators.other_fits(whole, shell, measures)
        variants |= estimators.other_places(placement, rois, float(size.mean()))
    else:
        unknown = Estimate(np.nan, np.nan, np.nan)
        indices = {frame: dict.fromkeys(SIDES, unknown) for frame in ESTIMATORS}
    maps: dict[str, NDArray] = {
        "fa": fa,
        "colour_fa": fit.fill(color_fa(fa[inside], eigenvectors)),
        "md": md,
        "labels": _labels(measures, inside.shape),
    }
    result = AlpsResult(
        indices=indices,
        rois=tuple(measures),
        registration=registration,
        bvecs=check,
        tract_angle_deg=_tract_angles(measures),
        variants=variants,
        status="pass",
        reasons=(),
        b_s_mm2=float(np.median(bvals[~is_b0])),
        n_directions=int((~is_b0).sum()),
        n_b0=int(is_b0.sum()),
        shells=series.shells_in_words(whole.bvals_s_mm2),
        left_out={**left_out, **whole.left_out},
        **{name: _as_stored(values, affine, stored) for name, values in maps.items()},
    )
    low = np.mean([m.voxels.mean(was_low[m.voxels.at]) for m in measures])
    doubts = (*images.header_notes(stored), *series.doubts(left_out, low))
    status, reasons = judge(result, head_tilt_deg=_angle_deg(axes @ to_head.T), doubts=doubts)
    return replace(result, status=status, reasons=reasons)


def _as_stored(values: NDArray, affine: NDArray, stored: nib.Nifti1Image) -> nib.Nifti1Image:
    """Give a map in the storage order of the scan."""
    image = images.make(values, affine)
    back = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.io_orientation(stored.affine)
    )
    return image.as_reoriented(back)


def _indices(
    rois: Sequence[RoiMeasure],
    axes: NDArray[np.float64],
    to_head: NDArray[np.float64],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Estimate]]:
    """Estimate the index of each side and their mean; the first draw is the value itself."""
    draws = {}
    for roi in rois:
        drawn = estimators.wild_bootstrap(roi.fit, roi.voxels.weight, n_bootstrap, rng)
        draws[roi.name] = np.concatenate([roi.voxels.mean(roi.fit.d_mm2_s)[None], drawn])
    frames: dict[str, Callable[..., NDArray[np.float64]]] = {
        "classic": partial(estimators.alps_in_axes, axes=axes),
        "reoriented": partial(estimators.alps_in_axes, axes=to_head),
        "tract": estimators.alps_in_tracts,
    }
    indices = {}
    for frame, index in frames.items():
        sides = {
            side: index(draws[f"{side}_projection"], draws[f"{side}_association"])
            for side in ("left", "right")
        }
        sides["mean"] = (sides["left"] + sides["right"]) / 2
        indices[frame] = {s: estimators.interval(d[0], d[1:]) for s, d in sides.items()}
    return indices


def _tract_angles(measures: Sequence[RoiMeasure]) -> dict[str, float]:
    d = {m.name: m.d_mm2_s for m in measures}
    angles = {}
    for side in ("left", "right"):
        _, *tracts = estimators.tract_frame(d[f"{side}_projection"], d[f"{side}_association"])
        cosine = abs(float(np.dot(*tracts)))
        angles[side] = float(np.rad2deg(np.arccos(min(cosine, 1.0))))
    return angles


def _angle_deg(rotation: NDArray[np.float64]) -> float:
    """Angle of a rotation, in degrees."""
    return float(np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def _labels(rois: Sequence[RoiMeasure], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    for number, roi in enumerate(rois, 1):
        labels[tuple(roi.voxels.index[roi.voxels.weight >= 0.5].T)] = number
    return labels


def _figures_of(roi: RoiMeasure) -> dict[str, Any]:
    """Give the figures of a region by the names of their columns, and more."""
    return {
        **vars(roi),
        "inside": roi.voxels.inside,
        **{f"l{k}_mm2_s": value for k, value in enumerate(roi.eigenvalues_mm2_s, 1)},
        **{f"d{a}{a}_mm2_s": value for a, value in zip("xyz", np.diag(roi.d_mm2_s), strict=True)},
    }


_OF_ROI = (
    ("n_voxels", "voxels in the region, by the fraction of each inside"),
    ("inside", "fraction of the region inside mask and field of view"),
    ("fa", "fractional anisotropy of the mean tensor"),
    ("md_mm2_s", "mean diffusivity", "mm2/s"),
    ("l1_mm2_s", "largest eigenvalue of the mean tensor", "mm2/s"),
    ("l2_mm2_s", "middle eigenvalue of the mean tensor", "mm2/s"),
    ("l3_mm2_s", "smallest eigenvalue of the mean tensor", "mm2/s"),
    ("mode", "mode of anisotropy of the mean tensor, -1 disc to 1 stick"),
    ("dxx_mm2_s", "diffusivity along x (left-right) of the head", "mm2/s"),
    ("dyy_mm2_s", "diffusivity along y (back-front) of the head", "mm2/s"),
    ("dzz_mm2_s", "diffusivity along z (feet-head) of the head", "mm2/s"),
    ("angle_deg", "angle of the principal direction to the expected axis", "deg"),
    (
        "dispersion_deg",
        "root mean square angle of the voxels' directions; no limit: see fa and mode",
        "deg",
    ),
    ("fluid_fraction", "fraction with mean diffusivity above 1.1e-3 mm2/s"),
    ("fluid_distance_mm", "distance to the nearest fluid; no limit: see fluid_fraction", "mm"),
    (
        "displacement_mm",
        "how far the search moved the region; no limit: at most what was asked for",
        "mm",
    ),
)
_OF_INDEX = (
    ("", "ALPS index {words}, {side}"),
    ("_low", "alps_{frame}_{side}: lower end of the 95 % interval"),
    ("_high", "alps_{frame}_{side}: upper end of the 95 % interval"),
)
COLUMNS: Mapping[str, Mapping[str, str]] = describe_columns(
    *(
        (f"alps_{frame}_{side}{end}", text.format(frame=frame, side=side, words=words))
        for frame, words in ESTIMATORS.items()
        for side in SIDES
        for end, text in _OF_INDEX
    ),
    ("status", "pass, warn or fail"),
    ("reasons", "why the status is not pass, the worst first"),
    *((f"{name}_{key}", *words) for name in NAMES for key, *words in _OF_ROI),
    ("alps_tract_nlls", "tract index, mean, by nonlinear least squares"),
    ("alps_tract_restore", "tract index, mean, by RESTORE"),
    ("alps_tract_free_water", "tract index, mean, with free water removed (two shells)"),
    ("alps_tract_radius_5_mm", "tract index, mean, with spheres of 5 mm"),
    (
        "alps_tract_shift_sd",
        "SD of the tract index over shifts by one voxel; no limit: read it beside the interval",
    ),
    ("left_tract_angle_deg", "angle between the tracts, left", "deg"),
    ("right_tract_angle_deg", "angle between the tracts, right", "deg"),
    ("pitch_deg", "rotation of the head about x", "deg"),
    ("roll_deg", "rotation of the head about y", "deg"),
    ("yaw_deg", "rotation of the head about z", "deg"),
    ("registration_correlation", "FA with the template inside both brains, Pearson's"),
    ("registration_overlap", "fraction of the scan's brain on the template's"),
    (
        "registration_coverage",
        "fraction of the template's brain in the scan; no limit: a slab will do, see inside",
    ),
    ("registration_model", "transform that was found: rigid, scaling or affine"),
    ("bvecs_best", "change of the rows of the file under which fibres line up best"),
    ("bvecs_certainty", "probability that it beats its rival; no limit: see bvecs_z"),
    ("bvecs_z", "the same as a z-score"),
    ("bvecs_turn_deg", "rotation of all b-vectors by which fibres line up best", "deg"),
    ("bvecs_turn_z", "how sure that is; no limit of its own: see bvecs_turn_deg"),
    ("bvecs_row_deg", "largest angle between a row and the direction its volume fits", "deg"),
    ("bvecs_row_b", "largest factor between a b-value and that which its volume fits"),
    ("b_s_mm2", "b-value that was used", "s/mm2"),
    ("n_directions", "volumes at that b-value that were used"),
    ("n_b0", "volumes without diffusion weighting that were used; no limit: one will do"),
    ("shells", "what the series holds"),
    ("left_out", "numbers (from 0) of volumes left out: lost signal, or a map; or none"),
)
"""What each column of `AlpsResult.to_row` is, as BIDS writes it."""
