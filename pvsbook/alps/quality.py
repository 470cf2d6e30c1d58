"""Judge a scan's ALPS index by its quality figures, and regions by where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike

from pvsbook._errors import InputError
from pvsbook.alps.gradients import BvecCheck
from pvsbook.alps.regions import NAMES, Voxels
from pvsbook.atlas.registration import MIN_CORRELATION, Registration, is_placed

if TYPE_CHECKING:
    from pvsbook.alps.pipeline import AlpsResult

__all__ = ["LIMITS", "judge"]

LIMITS: Mapping[str, tuple[float, float, str]] = {
    "bvec_z": (2.0, 3.0, "fibres line up better than with the file as it is, z ="),
    "bvec_turn_deg": (10.0, np.inf, "fibres line up better when all are rotated, by degrees"),
    "bvec_row_deg": (22.0, 35.0, "degrees between the table and the direction that signals fit"),
    "bvec_row_b": (1.25, 1.6, "factor between the b-value of the table and that signals fit"),
    "registration_correlation": (0.42, MIN_CORRELATION["fa"], "FA correlates with the template"),
    "registration_overlap": (0.9, 0.8, "fraction of the brain on the template"),
    "left_minus_right": (0.3, 0.6, "left and right index differ by"),
    "head_tilt_deg": (
        10.0,
        np.inf,
        "the head is tilted in the scan, which changes only the classic index; tilt in degrees",
    ),
    "inside": (0.9, 0.5, "fraction inside mask and field of view"),
    "n_voxels": (3.0, 1.5, "voxels"),
    "fa": (0.25, 0.15, "FA"),
    "b_s_mm2": (
        1550.0,
        np.inf,
        "b-value, s/mm2: the signal no longer falls as a tensor's does, so compare the index with "
        "others of this b-value alone; b =",
    ),
    "angle_deg": (30.0, 45.0, "degrees from the expected direction"),
    "fluid_fraction": (0.2, 0.5, "fraction like fluid"),
    "mode": (0.3, -np.inf, "fibres cross, which raises the index; mode"),
    "tract_angle_deg": (50.0, 40.0, "degrees between the tracts"),
}
"""Where a quality figure warns, where it fails (which side is worse follows from the order), and
what it is in words.  Real series in place correlate by 0.46 and 0.6 with the template; places
that are wrong by 0.33 at most; tracts meet at 55 degrees or more in people."""

NOTED = ("head_tilt_deg",)
"""Said beside the index and no warning: they do not touch the index in the frame of the tracts."""

ADULTS = (1.37, 0.21)
"""Mean and standard deviation that are taken for healthy adults; an index more than two of them
away is warned about.  A coarse check: the figures depend on protocol, frame and age, and a paper
that reports them is not at hand."""

STEADY_DIRECTIONS = 15
TURN_Z = 2.5  # below it a rotation is no finding
# Coherence lost to a rotation grows as the square of its sine: by 0.12 times that or more in real
# series, while right phantoms whose fibres line up better elsewhere gain 0.09 (one: 0.12).
TURN_GAIN = 0.1
MANY_ROWS = 3  # more than these have one cause
MIDLINE_MM = 5.0  # a region nearer to it may be on either side by the error of registration
ORDER_MM = 3.0  # the two regions of a side lie 12 mm apart
ROBUST_DIFFERENCE = 0.08  # of the index, between the plain and the robust fit


def is_registered(registration: Registration) -> bool:
    """Whether a registration is good enough to place regions by it."""
    return is_placed(registration) and registration.overlap >= LIMITS["registration_overlap"][1]


def check_coverage(voxels: Mapping[str, Voxels], registration: Registration) -> None:
    """Refuse a scan whose field of view or mask holds too little of a region."""
    worst = min(voxels, key=lambda name: voxels[name].inside)
    if not is_registered(registration):
        if not min(len(region.weight) for region in voxels.values()):
            raise InputError(
                f"dwi: FA correlates with the template by {registration.correlation:.2f}, and no "
                f"voxel of {worst.replace('_', ' ')} lies in the brain; check orientation and "
                "voxel size in the header, the mask, and the b-vectors"
            )
        return
    if voxels[worst].inside < LIMITS["inside"][1]:
        raise InputError(
            f"dwi: the field of view or mask holds {voxels[worst].inside:.0%} of the region "
            f"{worst.replace('_', ' ')}; the index needs all four regions"
        )


def check_sides(
    voxels: Mapping[str, Voxels], registration: Registration, affine: ArrayLike
) -> None:
    """Refuse regions drawn by hand whose labels are exchanged.

    Parameters
    ----------
    voxels : mapping of str to Voxels
        By name of the region.
    registration : Registration
    affine : array_like, shape (4, 4)
        Of the grid of the voxels.

    Raises
    ------
    InputError
        A left region lies on the right, or a projection region outside its association region.
    """
    if not is_registered(registration):
        return
    to_mni = registration.native_to_mni @ np.asarray(affine, float)
    x_mm = {name: float(apply_affine(to_mni, v.mean(v.index))[0]) for name, v in voxels.items()}
    numbers = ", ".join(f"{k} {name.replace('_', ' ')}" for k, name in enumerate(NAMES, 1))
    for name, x in x_mm.items():
        side = "left" if x < 0 else "right"
        if abs(x) > MIDLINE_MM and not name.startswith(side):
            raise InputError(
                f"rois: the label of {name.replace('_', ' ')} lies on the {side} (MNI x = "
                f"{x:.0f} mm); labels are {numbers}, by the side of the body: exchange them"
            )
    for side in ("left", "right"):
        inner, outer = (abs(x_mm[f"{side}_{tract}"]) for tract in ("projection", "association"))
        if inner > outer + ORDER_MM:
            raise InputError(
                f"rois: {side} projection lies {inner - outer:.0f} mm further from the midline "
                f"than {side} association, but projection fibres run inside; labels are "
                f"{numbers}: exchange them"
            )


def judge(
    result: AlpsResult, *, head_tilt_deg: float, doubts: Sequence[str] = ()
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Compare the quality figures of a result with `LIMITS`.

    Parameters
    ----------
    result : AlpsResult
        Its status and reasons are not read.
    head_tilt_deg : float
        Between the axes of the voxels and those of the head.
    doubts : sequence of str
        What is odd about the scan itself: a warning each.

    Returns
    -------
    status : {"pass", "warn", "fail"}
    reasons : tuple of str
        Doubts about the scan, then what fails, then what warns.
    notes : tuple of str
        What to know of the other two frames.
    """
    doubts = [*doubts, *_outliers(result)]
    worse: dict[tuple[bool, str], list[tuple[str, float]]] = {}
    for key, where, value in _figures(result, head_tilt_deg):
        warn, fail, _ = LIMITS[key]
        sign = 1 if fail > warn else -1
        if not sign * value < sign * warn:  # NaN fails
            worse.setdefault((not sign * value < sign * fail, key), []).append((where, value))
    notes = tuple(_sentence(key, worse.pop((False, key)), False) for key in NOTED if
                  (False, key) in worse)  # fmt: skip
    failed, warned = (
        [
            _sentence(key, seen, is_fail)
            for (is_fail, key), seen in worse.items()
            if is_fail is which
        ]
        for which in (True, False)
    )
    mean, sd = ADULTS
    values = {side: result.indices["tract"][side].value for side in ("left", "right")}
    absent = [side for side, v in values.items() if not np.isfinite(v)]
    if absent:
        failed.append(f"no index on the {' and '.join(absent)}")
    odd = [f"{side} {v:.2f}" for side, v in values.items() if abs(v - mean) > 2 * sd]
    if odd:
        warned.append(
            f"index {' and '.join(odd)}: more than two standard deviations from what is assumed "
            f"for adults ({mean} +- {sd}); look at the regions before you believe it"
        )
    if result.n_directions < STEADY_DIRECTIONS:
        warned.append(few_directions(result.n_directions))
    status = "fail" if failed else "warn" if warned or doubts else "pass"
    return status, (*doubts, *failed, *warned), notes


def few_directions(n: int) -> str:
    """Say that a tensor has few directions."""
    return f"{n} directions; {STEADY_DIRECTIONS} or more give a steadier tensor"


def _sentence(key: str, seen: Sequence[tuple[str, float]], is_fail: bool) -> str:
    """Say one cause once, wherever it was seen: places, range of values, limit that it passed."""
    warn, fail, words = LIMITS[key]
    places, values = zip(*seen, strict=True)
    ends = dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values)))
    where = ", ".join(place.removesuffix(": ") for place in places if place)
    limit = fail if is_fail else warn
    return f"{where}{': ' * bool(where)}{words} {' to '.join(ends)} (limit {limit})"


def _figures(result: AlpsResult, head_tilt_deg: float) -> Iterator[tuple[str, str, float]]:
    """Give each quality figure: its key in `LIMITS`, where it was measured, its value."""
    sides = result.indices["tract"]
    yield from bvec_figures(result.bvecs)
    yield "registration_correlation", "", result.registration.correlation
    yield "registration_overlap", "", result.registration.overlap
    difference = abs(sides["left"].value - sides["right"].value)
    if np.isfinite(difference):  # else `judge` says which side has no index
        yield "left_minus_right", "", difference
    yield "head_tilt_deg", "", head_tilt_deg
    yield "b_s_mm2", "", result.b_s_mm2
    for roi in result.rois:
        where = f"{roi.name.replace('_', ' ')}: "
        yield "inside", where, roi.voxels.inside
        for key in ("n_voxels", "fa", "angle_deg", "fluid_fraction", "mode"):
            yield key, where, getattr(roi, key)
    for side, angle in result.tract_angle_deg.items():
        yield "tract_angle_deg", f"{side}: ", angle


def bvec_figures(check: BvecCheck) -> Iterator[tuple[str, str, float]]:
    """Give the figures of the b-vectors as `LIMITS` reads them, with what the file should be."""
    if not check.as_given and check.z > LIMITS["bvec_z"][0]:
        yield "bvec_z", f"b-vectors, {check.best}: ", check.z
    elif check.turn_z > TURN_Z and check.turn_gain > TURN_GAIN * _sine_squared(check.turn_deg):
        yield "bvec_turn_deg", "b-vectors: ", check.turn_deg
    angle, factor = (LIMITS[key][0] for key in ("bvec_row_deg", "bvec_row_b"))
    if check.row_deg > angle:
        yield "bvec_row_deg", f"b-vectors, {_rows(check.odd_rows(deg=angle))}: ", check.row_deg
    elif check.row_b > factor:
        yield "bvec_row_b", f"b-values, {_rows(check.odd_rows(factor=factor))}: ", check.row_b


def _sine_squared(degrees: float) -> float:
    return float(np.sin(np.deg2rad(min(degrees, 90.0))) ** 2)


def _rows(odd: Sequence[int]) -> str:
    """Name the volumes whose rows do not fit them, or say that many do not."""
    if len(odd) > MANY_ROWS:
        return f"{len(odd)} rows (in another order than the volumes, or of another scan)"
    return f"volume{'s' * (len(odd) > 1)} {', '.join(map(str, odd))}"


def _outliers(result: AlpsResult) -> list[str]:
    """Say whether a robust fit finds another index, as outliers make it."""
    plain, robust = result.indices["tract"]["mean"].value, result.variants["restore"]
    if not abs(plain - robust) > ROBUST_DIFFERENCE:  # NaN: nothing to compare
        return []
    return [
        f"outliers: a robust fit (RESTORE) gives {robust:.2f}, the plain one {plain:.2f}; some "
        "measurements do not fit the tensor"
    ]
