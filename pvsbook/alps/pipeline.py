"""From a diffusion series to the ALPS index, with its uncertainty and its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from dipy.segment.mask import median_otsu
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import estimators, sensitivity, tensor
from pvsbook.alps.coherence import BvecCheck, check_bvecs
from pvsbook.alps.estimators import Estimate
from pvsbook.alps.regions import (
    NAMES,
    SPHERES_2_5_MM,
    RoiSet,
    Voxels,
    label_voxels,
    sphere_voxels,
)
from pvsbook.atlas.registration import Registration, refine_nonlinear, register_to_mni
from pvsbook.derivatives import Writer

__all__ = ["COLUMNS", "LIMITS", "AlpsResult", "RoiMeasure", "brain_mask", "measure"]

SIDES = ("left", "right", "mean")
ESTIMATORS = ("classic", "reoriented", "tract")
EXPECTED = {"projection": 2, "association": 1}  # the axis of the head along which each runs

LIMITS: Mapping[str, tuple[float, float]] = {
    "registration_correlation": (0.5, 0.35),
    "registration_overlap": (0.9, 0.8),
    "inside": (0.9, 0.5),
    "n_voxels": (3.0, 1.5),
    "fa": (0.25, 0.15),
    "angle_deg": (30.0, 45.0),
    "fluid_fraction": (0.2, 0.5),
    "mode": (0.3, -np.inf),
    "tract_angle_deg": (60.0, 40.0),
    "left_minus_right": (0.3, 0.6),
    "head_tilt_deg": (10.0, np.inf),
    "bvec_z": (1.0, 3.0),
}
"""Where a quality figure warns and where it fails; which side is worse follows from the order."""

ADULTS = (1.37, 0.21)
"""Mean and standard deviation that are taken for healthy adults; an index more than two of them
away is warned about.  A coarse check: the figures depend on protocol, frame and age, and a paper
that reports them is not at hand."""

N_PARAMETERS = 7  # of a tensor and its signal at b = 0
VARIANTS = ("nlls", "restore", "free_water", "radius_5_mm", "shift_sd")
FLUID_MD_MM2_S = 1.1e-3
FREE_MD_MM2_S = 2e-3
MAX_VOXEL_MM = 3.0
MAX_B_S_MM2 = 1500.0
B_TOLERANCE = 0.03  # scanners report 1490 to 1510 for b = 1500
SAME_B0 = 0.85  # correlation of b = 0 volumes within the brain; real ones reach 0.96 and more
LOST_SIGNAL = 0.6  # of what the other volumes have in a slice; directions alone change less
ROBUST_APART = 0.08  # between the plain and the robust fit of the index


@dataclass(frozen=True, eq=False)
class RoiMeasure:
    """What one region holds.  Tensors are in the axes of the head (MNI), diffusivities in mm2/s.

    Attributes
    ----------
    name : str
        One of `pvsbook.alps.regions.NAMES`.
    voxels : Voxels
        Grid indices (canonical storage order) and weights.
    d_mm2_s : ndarray, shape (3, 3)
        Mean tensor.
    n_voxels : float
        Sum of the weights.
    fa, md_mm2_s, mode : float
        Of the mean tensor.
    eigenvalues_mm2_s : ndarray, shape (3,)
        Descending.
    angle_deg : float
        Of the principal direction to the axis along which the tract should run.
    dispersion_deg : float
        Root mean square angle of the voxels' principal directions to that of the mean tensor.
    fluid_fraction : float
        Fraction of the region with a mean diffusivity above 1.1e-3, as near ventricles.
    fluid_distance_mm : float
        From the middle of the region to the nearest voxel above 2e-3.
    displacement_mm : float
        How far the search moved the region; 0 without one.
    """

    name: str
    voxels: Voxels
    d_mm2_s: NDArray[np.float64]
    n_voxels: float
    fa: float
    md_mm2_s: float
    mode: float
    eigenvalues_mm2_s: NDArray[np.float64]
    angle_deg: float
    dispersion_deg: float
    fluid_fraction: float
    fluid_distance_mm: float
    displacement_mm: float


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
        Volumes of that shell, and without weighting.
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
    fa: nib.Nifti1Image
    colour_fa: nib.Nifti1Image
    md: nib.Nifti1Image
    labels: nib.Nifti1Image

    def to_row(self) -> dict[str, Any]:
        """Give the result as one flat row; `COLUMNS` describes each column."""
        row: dict[str, Any] = {}
        for estimator in ESTIMATORS:
            for side in SIDES:
                found = self.indices[estimator][side]
                name = f"alps_{estimator}_{side}"
                row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        row |= {"status": self.status, "reasons": "; ".join(self.reasons)}
        for roi in self.rois:
            largest, middle, smallest = roi.eigenvalues_mm2_s
            row |= {
                f"{roi.name}_n_voxels": roi.n_voxels,
                f"{roi.name}_inside": roi.voxels.inside,
                f"{roi.name}_fa": roi.fa,
                f"{roi.name}_md_mm2_s": roi.md_mm2_s,
                f"{roi.name}_l1_mm2_s": largest,
                f"{roi.name}_l2_mm2_s": middle,
                f"{roi.name}_l3_mm2_s": smallest,
                f"{roi.name}_mode": roi.mode,
                f"{roi.name}_dxx_mm2_s": roi.d_mm2_s[0, 0],
                f"{roi.name}_dyy_mm2_s": roi.d_mm2_s[1, 1],
                f"{roi.name}_dzz_mm2_s": roi.d_mm2_s[2, 2],
                f"{roi.name}_angle_deg": roi.angle_deg,
                f"{roi.name}_dispersion_deg": roi.dispersion_deg,
                f"{roi.name}_fluid_fraction": roi.fluid_fraction,
                f"{roi.name}_fluid_distance_mm": roi.fluid_distance_mm,
                f"{roi.name}_displacement_mm": roi.displacement_mm,
            }
        pitch, roll, yaw = self.registration.angles_deg
        return row | {
            **{f"alps_tract_{name}": value for name, value in self.variants.items()},
            "left_tract_angle_deg": self.tract_angle_deg["left"],
            "right_tract_angle_deg": self.tract_angle_deg["right"],
            "pitch_deg": pitch,
            "roll_deg": roll,
            "yaw_deg": yaw,
            "registration_correlation": self.registration.correlation,
            "registration_overlap": self.registration.overlap,
            "registration_coverage": self.registration.coverage,
            "registration_model": self.registration.model,
            "bvecs_best": self.bvecs.best,
            "bvecs_certainty": self.bvecs.certainty,
            "bvecs_z": self.bvecs.z,
            "b_s_mm2": self.b_s_mm2,
            "n_directions": self.n_directions,
            "n_b0": self.n_b0,
        }

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


def measure(
    dwi: images.Dwi,
    *,
    mask: nib.Nifti1Image | None = None,
    rois: RoiSet | nib.Nifti1Image = SPHERES_2_5_MM,
    search_mm: float = 0.0,
    registration: Registration | None = None,
    nonlinear: bool = False,
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
    registration : Registration, optional
        Give one to use a registration of your own, or to save time.
    nonlinear : bool
        Refine the registration with SyN, for wide ventricles; some ten seconds more.
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
        Voxels over 3 mm, no shell up to 1500 s/mm2 with six directions, a mask on another grid,
        or a field of view that does not hold the regions.

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
    >>> apart = result.indices["tract"]["mean"].value - phantom.index
    >>> result.status, abs(apart) < 0.1
    ('pass', True)
    """
    rng = np.random.default_rng(0) if rng is None else rng
    size = images.voxel_size_mm(dwi.image)
    if size.max() > MAX_VOXEL_MM + 0.05:
        raise InputError(
            f"dwi: voxels of {' x '.join(f'{s:.2g}' for s in size)} mm; above 3 mm the regions "
            "mix projection and association fibres, so the index means nothing"
        )
    if not 0 <= search_mm <= 3:
        raise InputError(f"search_mm is {search_mm}; use 0 (no search) to 3 mm")
    stored, whole = dwi.image, _canonical(dwi)
    shell = _one_shell(whole.bvals_s_mm2)
    data, affine = images.array(whole.image)[..., shell], whole.image.affine
    bvals, bvecs, is_b0 = whole.bvals_s_mm2[shell], whole.bvecs_ras[shell], whole.is_b0[shell]
    if mask is None:
        inside = brain_mask(whole)
    else:
        given = images.make(images.load_mask(mask, stored), stored.affine)
        inside = np.asarray(nib.as_closest_canonical(given).dataobj) > 0
    _check_order(data, inside, bvals, shell)
    floor = _floor(data, inside)
    fit = tensor.fit_tensor(data, bvals, bvecs, mask=inside, min_signal=floor)
    fa = fit.fill(tensor.fractional_anisotropy(fit.d_mm2_s))
    md = fit.fill(tensor.mean_diffusivity(fit.d_mm2_s))
    axes = images.rotation(affine).T
    directions = fit.fill(tensor.principal_direction(fit.d_mm2_s) @ axes.T)
    white = inside & (fa > 0.25) & (md < FLUID_MD_MM2_S)
    check = check_bvecs(directions, fa, white, size)
    if registration is None:
        maps = images.make(fa, affine), images.make(inside, affine)
        registration = register_to_mni(maps[0], contrast="fa", mask=maps[1])
        if nonlinear:
            registration = refine_nonlinear(registration, maps[0], mask=maps[1])
    turn = registration.rotation
    d = np.zeros((*inside.shape, 3, 3))
    d[inside] = fit.d_mm2_s
    site = _Site(registration, affine, inside, turn @ d @ turn.T, stored)
    voxels, moved = site.search(rois, search_mm) if search_mm else (site.place(rois), {})
    design = tensor.design_matrix(bvals, bvecs)
    fits = {n: tensor.wls(data[v.at], design, min_signal=floor) for n, v in voxels.items()}
    to_fluid = ndimage.distance_transform_edt(~(inside & (md > FREE_MD_MM2_S)), sampling=size)
    measures = tuple(
        _measure_roi(name, voxels[name], fits[name], turn, to_fluid, moved.get(name, 0.0))
        for name in NAMES
    )
    if _registered(registration):
        indices = _indices(fits, voxels, axes, turn, n_bootstrap, rng)
        signals = {n: images.array(whole.image)[v.at] for n, v in voxels.items()}
        variants = _variants(signals, fits, voxels, whole, shell)
        variants |= site.variants(rois, float(size.mean()))
    else:
        unknown = Estimate(np.nan, np.nan, np.nan)
        indices = {e: dict.fromkeys(SIDES, unknown) for e in ESTIMATORS}
        variants = dict.fromkeys(VARIANTS, float("nan"))
    tract_angle = _tract_angles(measures)
    n_directions = int((~is_b0).sum())
    status, reasons = _judge(
        registration, measures, tract_angle, check, indices, n_directions, axes @ turn.T
    )
    doubts = (
        *images.header_notes(stored),
        *_series_doubts(data, inside, is_b0, shell, stored),
        *_robust_doubts(indices, variants),
    )
    status, reasons = "warn" if doubts and status == "pass" else status, (*doubts, *reasons)
    return AlpsResult(
        indices=indices,
        rois=measures,
        registration=registration,
        bvecs=check,
        tract_angle_deg=tract_angle,
        variants=variants,
        status=status,
        reasons=reasons,
        b_s_mm2=float(np.median(bvals[~is_b0])),
        n_directions=n_directions,
        n_b0=int(is_b0.sum()),
        fa=_as_stored(fa, affine, stored),
        colour_fa=_as_stored(fit.fill(tensor.colour_fa(fit.d_mm2_s)), affine, stored),
        md=_as_stored(md, affine, stored),
        labels=_as_stored(_labels(voxels, inside.shape), affine, stored),
    )


def brain_mask(dwi: images.Dwi) -> NDArray[np.bool_]:
    """Find the brain on the mean b=0 image by median filtering and Otsu's threshold.

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> from pvsbook.phantoms.diffusion import make_diffusion
    >>> phantom = make_diffusion(make_brain(4.0), rng=np.random.default_rng(0))
    >>> bool(brain_mask(phantom.dwi)[phantom.brain.wm > 0.9].mean() > 0.99)
    True
    """
    mean = images.array(dwi.image)[..., dwi.is_b0].mean(axis=-1)
    _, mask = median_otsu(mean, median_radius=2, numpass=1)
    labels, n = ndimage.label(mask)
    if n == 0:
        raise InputError("dwi: no brain was found on the b=0 volumes; give a mask")
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(largest)


def _series_doubts(
    data: NDArray[np.float32],
    inside: NDArray[np.bool_],
    is_b0: NDArray[np.bool_],
    shell: NDArray[np.intp],
    stored: nib.Nifti1Image,
) -> list[str]:
    """Name volumes that are not what the tables say, and slices that lost their signal."""
    doubts = []
    still = data[inside][:, is_b0]
    if still.shape[1] > 1:
        alike = np.corrcoef(still.T)
        best = np.sort(alike, axis=0)[-2]  # with the volume that is most like it
        for k in np.flatnonzero(best < SAME_B0):
            doubts.append(
                f"b=0: volume {shell[is_b0][k]} looks like no other b=0 volume (correlation "
                f"{best[k]:.2f}); is it a map that the scanner made, such as ADC?"
            )
    weighted = data[..., ~is_b0] * inside[..., None]
    counts = inside.sum(axis=(0, 1))
    slices = np.flatnonzero(counts > 0.2 * counts.max())  # slices through enough of the brain
    means = weighted.sum(axis=(0, 1))[slices] / counts[slices, None]
    share = means / np.maximum(np.median(means, axis=1, keepdims=True), 1e-12)
    for k in np.flatnonzero((share < LOST_SIGNAL).any(axis=0)):
        lost = slices[share[:, k] < LOST_SIGNAL]
        doubts.append(
            f"signal: volume {shell[~is_b0][k]} has down to {100 * share[:, k].min():.0f} % of "
            f"what the others have, in {len(lost)} slices (the {lost[0] + 1}. to {lost[-1] + 1}. "
            "from below); motion during the pulse does that, so leave the volume out"
        )
    return doubts


def _robust_doubts(
    indices: Mapping[str, Mapping[str, Estimate]], variants: Mapping[str, float]
) -> list[str]:
    plain, robust = indices["tract"]["mean"].value, variants["restore"]
    if not abs(plain - robust) > ROBUST_APART:  # NaN: nothing to compare
        return []
    return [
        f"outliers: a robust fit (RESTORE) gives {robust:.2f}, the plain one {plain:.2f}; some "
        "measurements do not fit the tensor"
    ]


def _one_shell(bvals: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the volumes at b=0 and of the shell nearest to 1000 s/mm2 with six directions."""
    is_b0 = bvals < images.B0_BELOW_S_MM2
    weighted = np.flatnonzero(~is_b0)
    order = weighted[np.argsort(bvals[weighted], kind="stable")]
    b = bvals[order]
    shells = np.split(order, np.flatnonzero(np.diff(b) > 0.1 * b[1:]) + 1)
    highest = MAX_B_S_MM2 * (1 + B_TOLERANCE)
    usable = [s for s in shells if len(s) >= 6 and bvals[s].max() <= highest]
    if not usable:
        seen = ", ".join(f"{len(s)} at b={np.median(bvals[s]):g}" for s in shells)
        raise InputError(
            f"dwi: shells are {seen}; the tensor needs six directions at one b-value up to "
            f"{MAX_B_S_MM2:g} s/mm2"
        )
    best = min(usable, key=lambda s: abs(float(np.median(bvals[s])) - 1000))
    return np.sort(np.concatenate([np.flatnonzero(is_b0), best]))


def _check_order(
    data: NDArray[np.float32],
    inside: NDArray[np.bool_],
    bvals: NDArray[np.float64],
    volumes: NDArray[np.intp],
) -> None:
    """Refuse b-values in another order than the volumes: weighting only ever takes signal away."""
    if not inside.any():
        return
    brightness = data[inside].mean(axis=0, dtype=np.float64)
    is_b0 = bvals < images.B0_BELOW_S_MM2
    dark, bright = np.flatnonzero(is_b0), np.flatnonzero(~is_b0)
    dark = dark[np.argmin(brightness[dark])]
    bright = bright[np.argmax(brightness[bright])]
    if bvals[bright] >= 500 and brightness[dark] < brightness[bright]:
        raise InputError(
            f"dwi: volume {volumes[bright]}, called b={bvals[bright]:g}, is brighter in the brain "
            f"than volume {volumes[dark]}, called b={bvals[dark]:g}; the b-values are in another "
            "order than the volumes: use the files that the same conversion wrote"
        )


def _canonical(dwi: images.Dwi) -> images.Dwi:
    """Bring the series into the storage order nearest to RAS; b-vectors are RAS already."""
    canonical = nib.as_closest_canonical(dwi.image)
    return images.Dwi(canonical, np.where(dwi.is_b0, 0.0, dwi.bvals_s_mm2), dwi.bvecs_ras)


def _as_stored(values: NDArray, affine: NDArray, stored: nib.Nifti1Image) -> nib.Nifti1Image:
    """Give a map in the storage order of the scan."""
    image = images.make(values, affine)
    back = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.io_orientation(stored.affine)
    )
    return image.as_reoriented(back)


def _floor(data: NDArray, inside: NDArray[np.bool_]) -> float:
    signals = data[inside]
    positive = signals[signals > 0]
    if positive.size == 0:
        raise InputError("dwi: no positive signal inside the mask; check series and mask")
    return float(positive.min())


@dataclass(frozen=True, eq=False)
class _Site:
    """Where regions are placed: a scan with its tensors (in the axes of the head)."""

    registration: Registration
    affine: NDArray[np.float64]
    inside: NDArray[np.bool_]
    d: NDArray[np.float64]
    stored: nib.Nifti1Image

    def place(
        self,
        rois: RoiSet | nib.Nifti1Image,
        shift_mm: Mapping[str, NDArray[np.float64]] | None = None,
        *,
        must_fit: bool = True,
    ) -> dict[str, Voxels]:
        """Find the voxels of each region, shifted in MNI mm where asked."""
        if isinstance(rois, RoiSet):
            placed = {name: self._sphere(rois, name, (shift_mm or {}).get(name)) for name in NAMES}
        else:
            images.same_grid(rois, self.stored, name="rois", other_name="dwi")
            labels = np.asarray(nib.as_closest_canonical(rois).dataobj)
            placed = {n: label_voxels(labels, k, self.inside) for k, n in enumerate(NAMES, 1)}
        worst = min(placed, key=lambda name: placed[name].inside)
        lost = placed[worst].inside < LIMITS["inside"][1]
        if must_fit and lost and _registered(self.registration):
            raise InputError(
                f"dwi: the field of view or mask holds {placed[worst].inside:.0%} of the region "
                f"{worst.replace('_', ' ')}; the index needs all four regions"
            )
        return placed

    def _sphere(self, rois: RoiSet, name: str, shift_mm: NDArray | None) -> Voxels:
        centre = np.array(rois.centres_mm[name], float)
        centre = centre if shift_mm is None else centre + shift_mm
        if rois.space == "scanner":
            return sphere_voxels(centre, rois.radius_mm, self.affine, self.inside)
        to_mni = self.registration.native_to_mni @ self.affine
        if self.registration.warp is not None:  # the sphere keeps its shape and goes to its place
            native = self.registration.points_to_native(centre)
            centre = nib.affines.apply_affine(self.registration.native_to_mni, native)
        return sphere_voxels(centre, rois.radius_mm, to_mni, self.inside)

    def search(
        self, rois: RoiSet | nib.Nifti1Image, search_mm: float
    ) -> tuple[dict[str, Voxels], dict[str, float]]:
        """Move each sphere to where FA along the expected axis is highest and fluid is far."""
        if not isinstance(rois, RoiSet):
            raise InputError("search_mm: regions drawn by hand stay where they are; set it to 0")
        steps = np.arange(-np.floor(search_mm), np.floor(search_mm) + 1)
        shifts = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
        shifts = shifts[np.linalg.norm(shifts, axis=1) <= search_mm]
        shifts = shifts[np.argsort(np.linalg.norm(shifts, axis=1), kind="stable")]
        best = {}
        for name in NAMES:
            scores = [self._score(name, self._sphere(rois, name, shift)) for shift in shifts]
            best[name] = shifts[int(np.argmax(scores))]
        moved = {name: float(np.linalg.norm(shift)) for name, shift in best.items()}
        return self.place(rois, best), moved

    def _score(self, name: str, voxels: Voxels) -> float:
        """Score a place by anisotropy along the expected axis; fluid or a cut costs."""
        if voxels.inside < 0.9:
            return -1.0
        tensors = self.d[voxels.at]
        mean = voxels.mean(tensors)
        along = tensor.principal_direction(mean)[EXPECTED[name.split("_")[1]]] ** 2
        fluid = voxels.mean(tensor.mean_diffusivity(tensors) > FLUID_MD_MM2_S)
        return float(tensor.fractional_anisotropy(mean) * along - fluid)

    def variants(self, rois: RoiSet | nib.Nifti1Image, voxel_mm: float) -> dict[str, float]:
        """Measure again with spheres of 5 mm, and shifted by a voxel."""
        unknown = {"radius_5_mm": float("nan"), "shift_sd": float("nan")}
        if not isinstance(rois, RoiSet):
            return unknown
        large = self.place(replace(rois, radius_mm=5.0), must_fit=False)
        means = {n: v.mean(self.d[v.at]) for n, v in large.items() if len(v.index)}

        def at(shift: NDArray) -> Mapping[str, Voxels]:
            return self.place(rois, dict.fromkeys(NAMES, shift), must_fit=False)

        spread = sensitivity.shift_spread(at, self.d, voxel_mm)
        return {"radius_5_mm": sensitivity.index_of(means), "shift_sd": spread}


def _variants(
    signals: Mapping[str, NDArray],
    fits: Mapping[str, tensor.Wls],
    voxels: Mapping[str, Voxels],
    dwi: images.Dwi,
    shell: NDArray[np.intp],
) -> dict[str, float]:
    """Fit the regions again by other methods."""
    bvals, bvecs = dwi.bvals_s_mm2, dwi.bvecs_ras
    low = bvals <= sensitivity.FREE_WATER_MAX_B_S_MM2
    two_shells = len(np.unique(np.round(bvals[low & ~dwi.is_b0], -2))) > 1
    found: dict[str, dict[str, NDArray]] = {"nlls": {}, "restore": {}, "free_water": {}}
    for name, values in signals.items():
        mean = voxels[name].mean
        one = values[:, shell], bvals[shell], bvecs[shell]
        found["nlls"][name] = mean(sensitivity.fit_robust(*one))
        if len(shell) > N_PARAMETERS:  # else nothing is left over to tell an outlier by
            sigma = max(sensitivity.noise_sigma(fits[name]), 1e-6)
            robust = sensitivity.fit_robust(*one, method="restore", sigma=sigma)
            found["restore"][name] = mean(robust)
        if two_shells:
            some = values[:, low], bvals[low], bvecs[low]
            found["free_water"][name] = mean(sensitivity.fit_free_water(*some)[0])
    return {
        name: sensitivity.index_of(means) if means else float("nan")
        for name, means in found.items()
    }


def _registered(registration: Registration) -> bool:
    return (
        registration.correlation >= LIMITS["registration_correlation"][1]
        and registration.overlap >= LIMITS["registration_overlap"][1]
    )


def _measure_roi(
    name: str,
    voxels: Voxels,
    fit: tensor.Wls,
    turn: NDArray[np.float64],
    to_fluid: NDArray[np.float64],
    displacement_mm: float,
) -> RoiMeasure:
    d = turn @ tensor.from_six(fit.beta[:, :6]) @ turn.T
    mean = voxels.mean(d)
    main, each = tensor.principal_direction(mean), tensor.principal_direction(d)
    apart = np.rad2deg(np.arccos(np.clip(np.abs(each @ main), 0, 1)))
    expected = EXPECTED[name.split("_")[1]]
    return RoiMeasure(
        name=name,
        voxels=voxels,
        d_mm2_s=mean,
        n_voxels=float(voxels.weight.sum()),
        fa=float(tensor.fractional_anisotropy(mean)),
        md_mm2_s=float(tensor.mean_diffusivity(mean)),
        mode=float(tensor.mode(mean)),
        eigenvalues_mm2_s=np.linalg.eigvalsh(mean)[::-1].astype(np.float64),
        angle_deg=float(np.rad2deg(np.arccos(min(abs(main[expected]), 1)))),
        dispersion_deg=float(np.sqrt(voxels.mean(apart**2))),
        fluid_fraction=float(voxels.mean(tensor.mean_diffusivity(d) > FLUID_MD_MM2_S)),
        fluid_distance_mm=float(voxels.mean(to_fluid[voxels.at])),
        displacement_mm=displacement_mm,
    )


def _indices(
    fits: Mapping[str, tensor.Wls],
    voxels: Mapping[str, Voxels],
    axes: NDArray[np.float64],
    turn: NDArray[np.float64],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Estimate]]:
    """Estimate the index of each side and their mean; the first draw is the value itself."""
    draws = {}
    for name in NAMES:
        value = voxels[name].mean(tensor.from_six(fits[name].beta[:, :6]))
        drawn = estimators.wild_bootstrap(fits[name], voxels[name].weight, n_bootstrap, rng)
        draws[name] = np.concatenate([value[None], drawn])
    found: dict[str, dict[str, Estimate]] = {}
    for estimator in ESTIMATORS:
        sides = {}
        for side in ("left", "right"):
            pair = draws[f"{side}_projection"], draws[f"{side}_association"]
            if estimator == "tract":
                sides[side] = estimators.alps_in_tracts(*pair)
            else:
                frame = axes if estimator == "classic" else turn
                sides[side] = estimators.alps_in_axes(*pair, frame)
        sides["mean"] = (sides["left"] + sides["right"]) / 2
        found[estimator] = {
            side: estimators.interval(values[0], values[1:]) for side, values in sides.items()
        }
    return found


def _tract_angles(measures: Sequence[RoiMeasure]) -> dict[str, float]:
    directions = {m.name: tensor.principal_direction(m.d_mm2_s) for m in measures}
    cosines = {
        side: abs(float(directions[f"{side}_projection"] @ directions[f"{side}_association"]))
        for side in ("left", "right")
    }
    return {side: float(np.rad2deg(np.arccos(min(c, 1.0)))) for side, c in cosines.items()}


def _judge(
    registration: Registration,
    measures: Sequence[RoiMeasure],
    tract_angle: Mapping[str, float],
    bvecs: BvecCheck,
    indices: Mapping[str, Mapping[str, Estimate]],
    n_directions: int,
    head_from_voxels: NDArray[np.float64],
) -> tuple[str, tuple[str, ...]]:
    """Compare quality figures with `LIMITS`; give the status and its reasons, the worst first."""
    tilt = np.rad2deg(np.arccos(np.clip((np.trace(head_from_voxels) - 1) / 2, -1, 1)))
    apart = abs(indices["tract"]["left"].value - indices["tract"]["right"].value)
    seen = [
        ("registration_correlation", registration.correlation, "FA correlates with the template"),
        ("registration_overlap", registration.overlap, "fraction of the brain on the template"),
        ("left_minus_right", apart, "left and right index differ by"),
        ("head_tilt_deg", float(tilt), "degrees between voxel and head axes (classic index)"),
    ]
    for m in measures:
        where = m.name.replace("_", " ")
        seen += [
            ("inside", m.voxels.inside, f"{where}: fraction inside mask and field of view"),
            ("n_voxels", m.n_voxels, f"{where}: voxels"),
            ("fa", m.fa, f"{where}: FA"),
            ("angle_deg", m.angle_deg, f"{where}: degrees from the expected direction"),
            ("fluid_fraction", m.fluid_fraction, f"{where}: fraction like fluid"),
            ("mode", m.mode, f"{where}: fibres cross, which raises the index; mode"),
        ]
    seen += [
        ("tract_angle_deg", value, f"{side}: degrees between the tracts")
        for side, value in tract_angle.items()
    ]
    failed, warned = [], []
    for key, value, words in seen:
        warn, fail = LIMITS[key]
        sign = 1 if fail > warn else -1
        text = f"{words} {value:.2f} (limit {{}})"
        if not sign * value < sign * fail:
            failed.append(text.format(fail))
        elif not sign * value < sign * warn:
            warned.append(text.format(warn))
    if not bvecs.as_given:
        text = f"fibres line up better with b-vectors {bvecs.best} (z = {bvecs.z:.1f})"
        warn, fail = LIMITS["bvec_z"]
        if bvecs.z > fail:
            failed.insert(0, text)
        elif bvecs.z > warn:
            warned.insert(0, text)
    middle, spread = ADULTS
    for side in ("left", "right"):
        value = indices["tract"][side].value
        if abs(value - middle) > 2 * spread:
            warned.append(
                f"{side} index {value:.2f} is more than two standard deviations from what is "
                f"assumed for adults ({middle} +- {spread}); look at the regions before you "
                "believe it"
            )
    if n_directions < 15:
        warned.append(f"{n_directions} directions; 15 or more give a steadier tensor")
    status = "fail" if failed else "warn" if warned else "pass"
    return status, (*failed, *warned)


def _labels(voxels: Mapping[str, Voxels], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    for number, name in enumerate(NAMES, 1):
        mostly = voxels[name].weight >= 0.5
        labels[tuple(voxels[name].index[mostly].T)] = number
    return labels


def _describe_columns() -> dict[str, dict[str, str]]:
    columns: dict[str, dict[str, str]] = {}
    frames = {
        "classic": "along the axes of the voxels",
        "reoriented": "along the axes of the head",
        "tract": "in the frame of the two tracts",
    }
    for estimator, words in frames.items():
        for side in SIDES:
            name = f"alps_{estimator}_{side}"
            columns[name] = {"Description": f"ALPS index {words}, {side}"}
            columns[f"{name}_low"] = {"Description": f"{name}: lower end of the 95 % interval"}
            columns[f"{name}_high"] = {"Description": f"{name}: upper end of the 95 % interval"}
    columns["status"] = {"Description": "pass, warn or fail"}
    columns["reasons"] = {"Description": "why the status is not pass, the worst first"}
    of_roi = {
        "n_voxels": ("voxels in the region, by the fraction of each inside", ""),
        "inside": ("fraction of the region inside mask and field of view", ""),
        "fa": ("fractional anisotropy of the mean tensor", ""),
        "md_mm2_s": ("mean diffusivity", "mm2/s"),
        "l1_mm2_s": ("largest eigenvalue of the mean tensor", "mm2/s"),
        "l2_mm2_s": ("middle eigenvalue of the mean tensor", "mm2/s"),
        "l3_mm2_s": ("smallest eigenvalue of the mean tensor", "mm2/s"),
        "mode": ("mode of anisotropy of the mean tensor, -1 disc to 1 stick", ""),
        "dxx_mm2_s": ("diffusivity along x (left-right) of the head", "mm2/s"),
        "dyy_mm2_s": ("diffusivity along y (back-front) of the head", "mm2/s"),
        "dzz_mm2_s": ("diffusivity along z (feet-head) of the head", "mm2/s"),
        "angle_deg": ("angle of the principal direction to the expected axis", "deg"),
        "dispersion_deg": ("root mean square angle of the voxels' directions", "deg"),
        "fluid_fraction": ("fraction with mean diffusivity above 1.1e-3 mm2/s", ""),
        "fluid_distance_mm": ("distance to the nearest fluid", "mm"),
        "displacement_mm": ("how far the search moved the region", "mm"),
    }
    rest = {
        "alps_tract_nlls": ("tract index, mean, by nonlinear least squares", ""),
        "alps_tract_restore": ("tract index, mean, by RESTORE", ""),
        "alps_tract_free_water": ("tract index, mean, with free water removed (two shells)", ""),
        "alps_tract_radius_5_mm": ("tract index, mean, with spheres of 5 mm", ""),
        "alps_tract_shift_sd": ("SD of the tract index over shifts by one voxel", ""),
        "left_tract_angle_deg": ("angle between the tracts, left", "deg"),
        "right_tract_angle_deg": ("angle between the tracts, right", "deg"),
        "pitch_deg": ("rotation of the head about x", "deg"),
        "roll_deg": ("rotation of the head about y", "deg"),
        "yaw_deg": ("rotation of the head about z", "deg"),
        "registration_correlation": ("FA with the template inside both brains, Pearson's", ""),
        "registration_overlap": ("fraction of the scan's brain on the template's", ""),
        "registration_coverage": ("fraction of the template's brain in the scan", ""),
        "registration_model": ("transform that was found: rigid, scaling or affine", ""),
        "bvecs_best": ("change of the voxel axes under which fibres line up best", ""),
        "bvecs_certainty": ("probability that it beats its rival", ""),
        "bvecs_z": ("the same as a z-score", ""),
        "b_s_mm2": ("b-value that was used", "s/mm2"),
        "n_directions": ("volumes at that b-value", ""),
        "n_b0": ("volumes without diffusion weighting", ""),
    }
    entries = {f"{name}_{key}": value for name in NAMES for key, value in of_roi.items()} | rest
    for name, (words, unit) in entries.items():
        columns[name] = {"Description": words} | ({"Units": unit} if unit else {})
    return columns


COLUMNS: Mapping[str, Mapping[str, str]] = _describe_columns()
"""What each column of `AlpsResult.to_row` is, as BIDS writes it."""
