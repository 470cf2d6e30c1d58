"""Change between two visits: align the heads halfway, resample the labels, never the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey
from pvsbook.atlas.registration import (
    MIN_CORRELATION,
    is_placed,
    register_to_mni,
)
from pvsbook.derivatives import Writer
from pvsbook.method import describe_columns
from pvsbook.qsm._change_error import (
    REGISTRATION_MM,
    Visit,
    errors_ppb,
    in_both,
    region_points,
)
from pvsbook.qsm._visits import compare_protocols, compare_signs, one_scan
from pvsbook.qsm.alignment import Alignment, align_visits
from pvsbook.qsm.nuclei import PLACEMENT_MM, contrast_flag, contrast_ppb
from pvsbook.qsm.pipeline import QsmResult, reconstruct
from pvsbook.qsm.regions import noise_of

__all__ = [
    "COLUMNS",
    "REGION_COLUMNS",
    "SETTINGS",
    "Change",
    "measure_change",
    "measure_visits",
]

# How to reconstruct visits that are to be compared: ``qsm.reconstruct(gre, **SETTINGS)``.  The
# slow field of tissue cannot be told from background.  LBV sets its part of it to zero and V-SHARP
# guesses it, each in a way that turns with the head; with ``smv`` the inversion is told what is
# missing, and no guess is made.
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "background": "smv",
        "inversion": "tv",
        # Half of the default: at the default a change of 4 ppb in the thalamus shrinks to 2.5.
        "inversion_options": MappingProxyType({"regularisation": 1e-4}),
    }
)

MIN_OVERLAP = 0.9
MAX_TILT_DEG = 12.0

REGION_COLUMNS = describe_columns(
    ("region", "name of the nucleus"),
    ("side", "left or right"),
    ("atlas", "Melbourne (Tian et al. 2020), or schematic: simple shapes of our own"),
    ("first_ppb", "mean susceptibility at the first visit", "ppb"),
    ("second_ppb", "mean susceptibility at the second visit", "ppb"),
    ("change_ppb", "second less first", "ppb"),
    ("error_ppb", "standard error of the change: the four below together", "ppb"),
    ("noise_error_ppb", "from thermal noise of both visits", "ppb"),
    ("placement_error_ppb",
     f"from labels {PLACEMENT_MM:g} mm off at both visits alike (SD along each axis)", "ppb"),
    ("registration_error_ppb",
     f"from visits aligned {REGISTRATION_MM:g} mm off (SD along each axis)", "ppb"),
    ("pose_error_ppb", "from what background, inversion and misplaced labels leave, more where "
     "the head lay differently in the field: as found on simulated heads", "ppb"),
    ("median_change_ppb", "change of the median", "ppb"),
    ("first_sd_ppb", "spread over voxels, first visit", "ppb"),
    ("second_sd_ppb", "spread over voxels, second visit", "ppb"),
    ("n_voxels", "voxels measured, of the size of the first visit's"),
    ("volume_mm3", "volume measured, the same at both visits", "mm3"),
    ("is_control", "region that is not expected to change"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Change:
    """Susceptibility of each region at two visits.

    Attributes
    ----------
    table
        One row a region, columns as `REGION_COLUMNS`.
    alignment
        How the visits lie to each other.
    tilt_difference_deg
        Angle between the static fields as the head saw them.
    reasons
        What casts doubt on the change.
    is_supported
        False where a step of a reconstruction, or the place of the nuclei, is not supported; the
        table then holds no change.
    registration_correlation
        Of the first visit with the template; NaN where `measure_change` was given the labels'
        place.
    contrast_ppb
        Pallidum less white matter at the first visit; NaN as above.
    first_session
        Label of the first visit.
    """

    table: pd.DataFrame
    alignment: Alignment
    tilt_difference_deg: float
    reasons: tuple[str, ...]
    is_supported: bool = True
    registration_correlation: float = float("nan")
    contrast_ppb: float = float("nan")
    first_session: str = "first"

    @property
    def status(self) -> str:
        """``"pass"``, ``"warn"``, or ``"fail"`` where the scans support no change."""
        return "fail" if not self.is_supported else "warn" if self.reasons else "pass"

    def to_row(self) -> dict[str, Any]:
        """Return one flat row: the change of each region and the quality of the pair."""
        row: dict[str, Any] = {
            "first_session": self.first_session,
            "status": self.status,
            "reasons": "; ".join(self.reasons),
            "overlap": self.alignment.overlap,
            "rotation_deg": self.alignment.rotation_deg,
            "tilt_difference_deg": self.tilt_difference_deg,
            "registration_correlation": self.registration_correlation,
            "pallidum_contrast_ppb": self.contrast_ppb,
        }
        for r in self.table.to_dict("records"):
            name = deep_grey.column(r["region"], r["side"])
            row[f"{name}_change_ppb"] = r["change_ppb"]
            row[f"{name}_error_ppb"] = r["error_ppb"]
        return row

    def save(
        self, folder: images.PathLike, *, prefix: str = "sub-scan", sources: Sequence[str] = ()
    ) -> None:
        """Write the row and the table of regions as BIDS-Derivatives.

        Parameters
        ----------
        folder
            Top of the derivatives data set.
        prefix
            Entities of the later scan, such as ``sub-01_ses-2``.
        sources
            Names of the input files of both visits.
        """
        writer = Writer(folder, prefix=prefix, datatype="anat", sources=sources)
        writer.table(self.to_row(), COLUMNS, "qsm", desc="change")
        writer.table(self.table, REGION_COLUMNS, "qsm", desc="changeregions")


def measure_visits(
    first: images.Gre,
    second: images.Gre,
    labels: nib.Nifti1Image,
    table: pd.DataFrame,
    rng: np.random.Generator,
    *,
    settings: Mapping[str, Any] = SETTINGS,
    start: ArrayLike | None = None,
    control: str | None = None,
    erode: int = 1,
    n_repeats: int = 2,
    first_session: str = "first",
) -> Change:
    """Measure change from two scans: reconstruct, align halfway, place the labels, subtract.

    This is the one recipe: the command, the virtual study and the chapter call it.

    Parameters
    ----------
    first, second
        Gradient echoes of one person, from `pvsbook.images.load_gre`.
    labels
        Label image in MNI space.
    table
        Columns ``label``, ``region``, ``side``.
    rng
        Draws noise for the error.
    settings
        Keyword arguments of `pvsbook.qsm.reconstruct`, the same for both visits.
    start
        First guess of the registration to MNI space, as in
        `pvsbook.atlas.registration.register_to_mni`.
    control, erode, n_repeats
        As in `measure_change`.
    first_session
        Label of the first visit, for the table.

    Returns
    -------
    Change
        Without numbers, and with the status ``"fail"``, where the scans do not support
        background removal or inversion, share an image, or do not fit the template.

    Raises
    ------
    InputError
        An unknown control; see `pvsbook.qsm.reconstruct` and
        `pvsbook.atlas.registration.register_to_mni`.
    """
    _check_control(control, table)
    results = [reconstruct(gre, **settings) for gre in (first, second)]
    last = [images.make(gre.magnitude[..., -1], gre.affine) for gre in (first, second)]
    alignment = align_visits(last[0], last[1], results[0].mask, results[1].mask)
    brain = images.make(np.asarray(results[0].mask, np.uint8), first.affine)
    to_mni = register_to_mni(last[0], contrast="t2", mask=brain, start=start)
    change = measure_change(
        (first, results[0]),
        (second, results[1]),
        labels,
        alignment.first_to_halfway @ np.linalg.inv(to_mni.native_to_mni),
        table,
        rng,
        alignment=alignment,
        control=control,
        erode=erode,
        n_repeats=n_repeats,
    )
    change = replace(
        change, registration_correlation=to_mni.correlation, first_session=first_session
    )
    reason = one_scan(first, second)
    if not reason and not is_placed(to_mni):
        reason = (
            "registration: the first visit correlates with the template by "
            f"{to_mni.correlation:.2f} (limit {MIN_CORRELATION['t2']}), so the nuclei cannot be "
            "placed; check the orientation in the header and the field of view"
        )
    if not reason and change.is_supported and "pallidum" in set(table["region"]):
        contrast = contrast_ppb(first, results[0], labels, table, to_mni)
        change = replace(change, contrast_ppb=contrast)
        doubt = contrast_flag(contrast)
        reason = f"{doubt.code}: {doubt.message}" if doubt else ""
    if not reason:
        return change
    return replace(
        change,
        table=_without_numbers(change.table),
        reasons=(reason, *change.reasons),
        is_supported=False,
    )


def measure_change(
    first: tuple[images.Gre, QsmResult],
    second: tuple[images.Gre, QsmResult],
    labels: nib.Nifti1Image,
    labels_to_halfway: ArrayLike,
    table: pd.DataFrame,
    rng: np.random.Generator,
    *,
    alignment: Alignment,
    control: str | None = None,
    erode: int = 1,
    n_repeats: int = 2,
) -> Change:
    """Measure the change of each region, on each visit's own grid.

    Labels are carried to each visit, and every voxel counts by the share of it that the label
    holds, so that both visits are measured in one region of the head.

    Parameters
    ----------
    first, second
        Scan and reconstruction of each visit, with the same settings and reference: those of
        `SETTINGS`, unless there is a reason.  On simulated heads tilted by 8 degrees between
        visits they err by about 1.2 ppb, V-SHARP by 2 to 2.6 and LBV by 6 to 8; in the same pose
        by 0.8, and the others by half a ppb (``python benchmarks/qsm.py change``).
        Of a change of 4 to 5 ppb, 70 to 116 % was found: regularisation can shrink it.
    labels
        Label image in its own space.
    labels_to_halfway
        mm of the labels' space to halfway mm, 4 x 4: from a registration of the two visits' mean
        to the atlas, say.
    table
        Columns ``label``, ``region``, ``side``.
    rng
        Draws noise for the error.
    alignment
        From `align_visits`.
    control
        Region that is not expected to change; its change is a measure of the pair.
    erode
        Voxels of the label image taken off each label, 1 mm each for the atlases here.  Without
        it, a shift of half a millimetre shows as change.
    n_repeats
        As in `pvsbook.qsm.regions.noise_ppb`.

    Returns
    -------
    Change

    Raises
    ------
    InputError
        The two reconstructions differ in settings or reference, or `control` is not in `table`.
    """
    results = first[1], second[1]
    if dict(results[0].settings) != dict(results[1].settings) or (
        results[0].susceptibility.reference != results[1].susceptibility.reference
    ):
        raise InputError(
            "settings: the two visits were reconstructed differently; use the same methods, "
            "options and reference for both, or the difference is of method"
        )
    _check_control(control, table)
    to_halfway = alignment.first_to_halfway, alignment.second_to_halfway
    to_world = [np.linalg.inv(m) @ np.asarray(labels_to_halfway, float) for m in to_halfway]
    points, point_mm3 = region_points(labels, table, erode)
    visits = [Visit(r, matrix, point_mm3) for r, matrix in zip(results, to_world, strict=True)]
    points = in_both(visits, points)
    measured, noise = [], []
    for (gre, result), visit in zip((first, second), visits, strict=True):

        def measure(chi_ppm: NDArray, visit: Visit = visit) -> pd.DataFrame:
            return visit.measure(chi_ppm, points)

        measured.append(measure(visit.chi_ppm))
        noise.append(noise_of(gre, result, measure, rng, n_repeats))
    moved = [visit.moved_ppb(points) for visit in visits]
    one, two = measured
    tilt = tilt_deg(alignment)
    errors = errors_ppb(noise, moved, tilt)
    scale = point_mm3 * abs(np.linalg.det(to_world[0][:3, :3]))
    rows = pd.DataFrame(
        {
            "region": table["region"].to_numpy(),
            "side": table["side"].to_numpy(),
            "atlas": table["atlas"].to_numpy() if "atlas" in table else None,
            "first_ppb": one["mean_ppb"],
            "second_ppb": two["mean_ppb"],
            "change_ppb": two["mean_ppb"] - one["mean_ppb"],
            "error_ppb": np.linalg.norm(list(errors.values()), axis=0),
            **errors,
            "median_change_ppb": two["median_ppb"] - one["median_ppb"],
            "first_sd_ppb": one["sd_ppb"],
            "second_sd_ppb": two["sd_ppb"],
            "n_voxels": one["n_voxels"],
            "volume_mm3": [len(p) * scale for p in points],
            "is_control": table["region"].to_numpy() == control,
        }
    )
    unsupported = tuple(
        f"{name} visit: {step} is not supported, so its change is not a measurement"
        for name, result in zip(("first", "second"), results, strict=True)
        for step in result.unsupported_steps
    ) or compare_signs(results, alignment)
    reasons = (
        unsupported
        + compare_protocols((first[0], second[0]))
        + _doubts(results, alignment, tilt, rows)
        + (() if rows["change_ppb"].notna().any() else ("regions: no nucleus could be measured",))
    )
    rows = _without_numbers(rows) if unsupported else rows
    return Change(rows, alignment, tilt, reasons, is_supported=not unsupported)


def _without_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = [c for c in rows.columns if c.endswith("_ppb")]
    return rows.assign(**dict.fromkeys(numbers, np.nan))


def _check_control(control: str | None, table: pd.DataFrame) -> None:
    if control is not None and control not in set(table["region"]):
        raise InputError(f"control: {control!r} is not a region of the table")


def tilt_deg(alignment: Alignment) -> float:
    """Return the angle between the fields, scanner z in both visits, as the head saw them."""
    return float(np.degrees(np.arccos(np.clip(alignment.first_to_second[2, 2], -1, 1))))


def _doubts(
    results: tuple[QsmResult, QsmResult], alignment: Alignment, tilt: float, rows: pd.DataFrame
) -> tuple[str, ...]:
    reasons = [f"{w} visit: {r}" for w, q in zip(("first", "second"), results, strict=True)
               for r in q.reasons]  # fmt: skip
    if alignment.overlap < MIN_OVERLAP:
        reasons.append(f"overlap: the aligned brains share {100 * alignment.overlap:.0f} %")
    if tilt > MAX_TILT_DEG:
        reasons.append(
            f"tilt: the head lay {tilt:.0f} degrees differently in the field, more than the error "
            "of pose was tried at; compare with a visit in a like pose"
        )
    misfit = [float(np.percentile(r.field.residual_rad[r.mask], 95)) for r in results]
    if max(misfit) > 1.5 * min(misfit):
        reasons.append(
            f"misfit: {misfit[0]:.3f} and {misfit[1]:.3f} rad; one visit is noisier, or moved"
        )
    control = rows[rows["is_control"]]
    moved = control["change_ppb"].abs() > 3 * np.hypot(control["error_ppb"], 1.0)
    if moved.any():
        reasons.append(
            f"control: {control['region'].iloc[0]} changed by "
            f"{control['change_ppb'].abs().max():.1f} ppb"
        )
    return tuple(reasons)


COLUMNS: Mapping[str, Mapping[str, str]] = describe_columns(
    ("first_session", "session that counts as the first visit"),
    ("status", "pass, warn (read the reasons) or fail"),
    ("reasons", "what was found, separated by semicolons"),
    ("overlap", "Dice overlap of the two brain masks once aligned"),
    ("rotation_deg", "rotation between the visits; no limit: see tilt_difference_deg", "deg"),
    ("tilt_difference_deg", "angle between the static fields as the head saw them", "deg"),
    ("registration_correlation", "correlation of the first visit with the template"),
    ("pallidum_contrast_ppb", "pallidum less white matter at the first visit", "ppb"),
    *(
        row
        for _, region, side in deep_grey.table().itertuples(index=False)
        for name in [deep_grey.column(region, side)]
        for row in (
            (f"{name}_change_ppb", f"change of {region}, {side}: later visit minus first", "ppb"),
            (f"{name}_error_ppb",
             f"its standard error from noise, placement, registration and pose, {region}, {side}",
             "ppb"),
        )
    ),
)  # fmt: skip
"""What each column of `Change.to_row` is, where the nuclei of `pvsbook.atlas.deep_grey` are
measured."""
