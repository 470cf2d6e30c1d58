"""From a diffusion series to the ALPS index, with its uncertainty and its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import _fitted, estimators, published, uncertainty
from pvsbook.alps._columns import COLUMNS, ESTIMATORS, SHARES, SIDES, figures_of
from pvsbook.alps.estimators import Estimate
from pvsbook.alps.quality import check_coverage, check_sides, is_registered, judge
from pvsbook.alps.regions import NAMES, SPHERES_5_MM, RoiMeasure, RoiSet, measure_roi
from pvsbook.atlas.registration import Model, Registration, check_model
from pvsbook.derivatives import Writer

if TYPE_CHECKING:
    from pvsbook.alps.preprocess import Displacement

__all__ = ["COLUMNS", "AlpsResult", "measure"]

MAX_VOXEL_MM = 3.0
LEAST_BOOTSTRAP = 10  # repeats; fewer give no interval


@dataclass(frozen=True, eq=False)
class AlpsResult(_fitted.Fitted):
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
        fits, ``"free_water"`` removed (NaN with one shell), and ``"radius_2_5_mm"`` (NaN for
        regions drawn by hand).
    status : {"pass", "warn", "fail"}
    reasons : tuple of str
        Why it is not a pass; those that fail come first.
    notes : tuple of str
        What to know of the index in the other two frames.
    b_s_mm2 : float
        b-value of the shell that was used.
    n_directions, n_b0 : int
        Volumes of that shell, and without weighting, that were used.
    shells : str
        What the series holds.
    left_out : mapping of int to str
        Volumes of the file that are no measurement: by number from 0, and why.
    fa, colour_fa, md, labels : Nifti1Image
        Maps on the grid of the scan; md in mm2/s; labels 1 to 4 in the order of `NAMES`.
    spheres : RoiSet or None
        The regions as they were asked for; None where they were drawn by hand.
    placement : Placement
        The tensors and where they lie, from which `index_at` measures other places.
    corrected_by : str
        Pipeline and version that corrected the series before; ``"nothing before"`` if none did.
    """

    indices: Mapping[str, Mapping[str, Estimate]]
    rois: tuple[RoiMeasure, ...]
    tract_angle_deg: Mapping[str, float]
    variants: Mapping[str, float]
    status: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    labels: nib.Nifti1Image
    spheres: RoiSet | None
    corrected_by: str = "nothing before"

    def remeasure(
        self,
        rois: RoiSet | nib.Nifti1Image,
        *,
        search_mm: float = 0.0,
        n_bootstrap: int = 1000,
        rng: np.random.Generator | None = None,
    ) -> AlpsResult:
        """Measure other regions of the same scan, as `measure` would, without fitting again.

        Parameters
        ----------
        rois, search_mm, n_bootstrap, rng
            As in `measure`.

        Returns
        -------
        AlpsResult
            Index, interval, status and reasons are those of `measure` with these regions.

        Raises
        ------
        InputError
            Regions that `measure` refuses as well.
        """
        _check_rois(rois)
        check_options(search_mm, n_bootstrap, by_hand=not isinstance(rois, RoiSet))
        return _measure_regions(self, rois, search_mm, n_bootstrap, rng)

    def index_at(
        self, rois: RoiSet | nib.Nifti1Image = SPHERES_5_MM, *, shift_mm: ArrayLike = (0, 0, 0)
    ) -> dict[str, dict[str, float]]:
        """Measure the index alone of other regions, or of these elsewhere, in milliseconds.

        `remeasure` gives the interval and the quality too.

        Parameters
        ----------
        rois : RoiSet or Nifti1Image
            As in `measure`.  `dataclasses.replace` changes the radius of a set.
        shift_mm : array_like, shape (3,)
            Moves all four spheres along the axes of MNI space.

        Returns
        -------
        dict of str to dict of str to float
            Frame, then side.

        Raises
        ------
        InputError
            If the scan could not be registered, a region holds nothing of the brain, or its image
            has another grid.
        """
        if not is_registered(self.registration):
            raise InputError(
                "registration: the scan was not found in MNI space, so it has no index elsewhere"
            )
        to_head = self.registration.rotation
        places = self.placement.place(rois, dict.fromkeys(NAMES, shift_mm))
        for name, region in places.items():
            if not region.weight.sum():
                raise InputError(f"rois: nothing of {name.replace('_', ' ')} lies in the brain")
        means = {
            n: to_head.T @ v.mean(self.placement.d_mm2_s[v.at]) @ to_head
            for n, v in places.items()
        }
        return {
            frame: {side: float(value) for side, value in uncertainty.by_side(f, means).items()}
            for frame, f in uncertainty.frames(self.axes, to_head).items()
        }

    def published(self) -> pd.DataFrame:
        """Give the index by every published estimator (see `pvsbook.alps.published`)."""
        return published.published_indices(
            self.rois, axes=self.axes, to_head=self.registration.rotation
        )

    def to_row(self) -> dict[str, Any]:
        """Give the result as one flat row; `COLUMNS` describes each column."""
        values = vars(self) | {"reasons": "; ".join(self.reasons)}
        values["notes"] = "; ".join(self.notes) or "none"
        values["left_out"] = ", ".join(map(str, self.left_out)) or "none"
        for frame, sides in self.indices.items():
            for side, index in sides.items():
                name = f"alps_{frame}_{side}"
                values |= {name: index.value, f"{name}_low": index.low, f"{name}_high": index.high}
                values |= {f"{name}_{share}": getattr(index, share) for share, _ in SHARES}
        for roi in self.rois:
            values |= {f"{roi.name}_{key}": value for key, value in figures_of(roi).items()}
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
        """Write the row, the table of all estimators, the maps and the regions.

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
        writer.table(self.published(), published.COLUMNS, "alps", desc="estimators")
        writer.image(self.fa, "dwimap", model="DTI", param="FA")
        writer.image(self.md, "dwimap", model="DTI", param="MD", meta={"Units": "mm2/s"})
        writer.image(self.colour_fa, "dwimap", model="DTI", param="FA", desc="colour")
        writer.segmentation(self.labels, dict(enumerate(NAMES, 1)), desc="alps")


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
    rois: RoiSet | nib.Nifti1Image = SPHERES_5_MM,
    search_mm: float = 0.0,
    registration: Registration | Model = "affine",
    n_bootstrap: int = 1000,
    before_denoising: images.Dwi | None = None,
    displacement: Displacement | None = None,
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
        The regions; `SPHERES_2_5_MM` makes values comparable with tools since 2025, and is less
        reliable on real scans (benchmarks/alps_places.py).  Regions drawn by hand come as labels
        1 to 4 (the order of `pvsbook.alps.regions.NAMES`) on the grid of the series, or as a
        `RoiSet` in scanner mm.
    search_mm : float
        Move each sphere by up to this much, at most 3 mm, to where the fibres run as expected
        and no fluid is near.  Use it where anatomy is unusual; the index itself plays no part
        in the choice, and the displacement is reported.
    registration : {"affine", "syn"} or Registration
        How the FA map is registered: ``"syn"`` adds a nonlinear step, for wide ventricles, in
        some ten seconds more.  Or where the scan lies in MNI space, if that is known already.
    n_bootstrap : int
        Draws of the wild bootstrap; fewer are faster and leave the interval noisy.
    before_denoising : pvsbook.images.Dwi, optional
        The same series as it was acquired, if `dwi` was denoised: a denoised one no longer shows
        the noise that its index has, so that its interval would be far too short.  The
        interval is then somewhat too long (benchmarks/alps_places.py denoised).
    displacement : Displacement, optional
        The distortion that was corrected in `dwi` (see `pvsbook.alps.preprocess`), for a note.
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
    The intervals hold the noise of the scan, the place of each region and the registration (see
    `pvsbook.alps.uncertainty`); for labels drawn by hand, noise alone.  They do not hold motion,
    distortion, or what a tensor leaves out.  The result keeps the series, so that
    `AlpsResult.remeasure` can fit other regions.  Read `AlpsResult.variants` beside them.

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
    _check_rois(rois)
    check_size(dwi)
    check_options(search_mm, n_bootstrap, by_hand=not isinstance(rois, RoiSet))
    scan = _fitted.fit(dwi, mask, registration, before_denoising, displacement)
    return _measure_regions(scan, rois, search_mm, n_bootstrap, rng)


def check_size(dwi: images.Dwi) -> None:
    """Refuse voxels that are larger than the tracts are wide."""
    size = images.voxel_size_mm(dwi.image)
    if size.max() > MAX_VOXEL_MM + 0.05:
        raise InputError(
            f"dwi: voxels of {' x '.join(f'{s:.2g}' for s in size)} mm; above 3 mm the regions "
            "mix projection and association fibres, so the index means nothing"
        )


def _check_rois(rois: object) -> None:
    if not isinstance(rois, RoiSet | nib.Nifti1Image):
        raise InputError(
            f"rois: {rois!r}; give pvsbook.alps.SPHERES_2_5_MM, another RoiSet, or an image"
        )


def _measure_regions(
    scan: _fitted.Fitted,
    rois: RoiSet | nib.Nifti1Image,
    search_mm: float,
    n_bootstrap: int,
    rng: np.random.Generator | None,
) -> AlpsResult:
    """Measure the index of four regions of a scan whose tensors are fitted."""
    rng = np.random.default_rng(0) if rng is None else rng
    placement, registration = scan.placement, scan.registration
    shifts = placement.search(rois, search_mm) if search_mm else dict.fromkeys(NAMES, np.zeros(3))
    voxels = placement.place(rois, shifts)
    check_coverage(voxels, registration)
    if not isinstance(rois, RoiSet):
        check_sides(voxels, registration, placement.affine)
    to_head = registration.rotation
    measures = []
    for name, region in voxels.items():
        moved_mm = float(np.linalg.norm(shifts[name]))
        fit = scan.refit(region)
        measures.append(measure_roi(name, region, fit, to_head, scan.to_fluid_mm, moved_mm))
    variants = dict.fromkeys(estimators.VARIANTS, float("nan"))
    if is_registered(registration):
        indices = uncertainty.estimate_indices(
            measures, placement, rois, shifts, scan.refit, axes=scan.axes,
            n_bootstrap=n_bootstrap, rng=rng,
        )  # fmt: skip
        variants |= estimators.other_fits(scan.whole, scan.rows, measures)
        variants |= estimators.small_spheres(placement, rois)
    else:
        unknown = Estimate(np.nan, np.nan, np.nan)
        indices = {frame: dict.fromkeys(SIDES, unknown) for frame in ESTIMATORS}
    labels = _labels(measures, placement.mask.shape)
    result = AlpsResult(
        **{field.name: getattr(scan, field.name) for field in fields(_fitted.Fitted)},
        indices=indices,
        rois=tuple(measures),
        tract_angle_deg=_tract_angles(measures),
        variants=variants,
        status="pass",
        reasons=(),
        notes=(),
        labels=_fitted.as_stored(labels, placement.affine, placement.scan),
        spheres=rois if isinstance(rois, RoiSet) else None,
    )
    tilt_deg = float(np.rad2deg(Rotation.from_matrix(scan.axes @ to_head.T).magnitude()))
    regions = [m.voxels for m in measures]
    status, reasons, notes = judge(result, head_tilt_deg=tilt_deg, doubts=scan.doubts(regions))
    notes = (*scan.correction(regions), *notes)
    return replace(result, status=status, reasons=reasons, notes=notes)


def _tract_angles(measures: Sequence[RoiMeasure]) -> dict[str, float]:
    d = {m.name: m.d_mm2_s for m in measures}
    angles = {}
    for side in ("left", "right"):
        _, *tracts = estimators.tract_frame(d[f"{side}_projection"], d[f"{side}_association"])
        cosine = abs(float(np.dot(*tracts)))
        angles[side] = float(np.rad2deg(np.arccos(min(cosine, 1.0))))
    return angles


def _labels(rois: Sequence[RoiMeasure], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    for number, roi in enumerate(rois, 1):
        labels[tuple(roi.voxels.index[roi.voxels.weight >= 0.5].T)] = number
    return labels
