"""Whether a gradient echo can be mapped, and what a reader of the map must know."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.qsm.field import FieldMap

__all__ = [
    "Flag",
    "check_echoes",
    "check_magnitude",
    "check_map",
    "check_mask",
    "check_scan",
    "check_steps",
    "wrap_shares",
]

MIN_MASK_CM3 = 1.0
BRAIN_CM3 = 400.0
BORDER_SHARE = 0.2
RESIDUAL_RAD = 0.1
DROPPED_SHARE = 0.02  # next to air the field itself is that steep
CHI_SD_PPB = (8.0, 80.0)  # of a brain; ten times the echo times, or a tenth, lie far outside
ECHO_RISE = 1.05  # the signal decays: the median of a later echo may exceed an earlier one by this
SILENT_SHARE = 0.01  # of the first echo's median: an echo below it holds no signal
# Of a magnitude that is a wrapped phase.  Of simulated heads, stripped and piecewise-constant
# brains that no limit was chosen on, none of 108 magnitudes passed both, and 25 of 27 wrapped
# phases did; the other two have fewer than two jumps in a thousand neighbours.
JUMP = 0.8  # of the range
JUMPS_SHARE = 0.002  # of neighbours
WRAPS_SHARE = 0.7  # of jumps
EVERY_STEP = ("unwrapping", "background removal", "inversion")


@dataclass(frozen=True)
class Flag:
    """Something a reader of the result must know.

    Attributes
    ----------
    code
        Short and fixed, to count by: ``"crop"``, ``"jumps"``, ``"residual"`` ...
    message
        What was seen and what it means.
    steps
        Steps whose result cannot be used.
    """

    code: str
    message: str
    steps: tuple[str, ...] = ()


def check_scan(gre: images.Gre) -> None:
    """Refuse a scan whose arrays and echo times do not belong together.

    Raises
    ------
    InputError
        Shapes that differ, echo times that are not seconds or not rising, no signal.
    """
    times = np.asarray(gre.echo_times_s, np.float64)
    if gre.magnitude.ndim != 4 or gre.magnitude.shape != gre.phase_rad.shape:
        raise InputError(
            f"phase: has shape {gre.phase_rad.shape}, but magnitude has {gre.magnitude.shape}; "
            "both must be (x, y, z, echo), from the same series"
        )
    values = ", ".join(f"{t:g}" for t in times)
    if times.shape != gre.magnitude.shape[3:]:
        raise InputError(
            f"echo_times_s: {times.size} ({values}), but there are {gre.magnitude.shape[3]} echoes"
        )
    if times.max() >= 0.5:
        raise InputError(f"echo_times_s: {values} look like milliseconds; give seconds")
    if times.min() < 1e-4 or (np.diff(times) <= 0).any():
        raise InputError(f"echo_times_s: {values}; they must be positive and rising, in seconds")


def check_mask(mask: ArrayLike, gre: images.Gre) -> NDArray[np.bool_]:
    """Return the part of a mask that has signal; refuse one that does not fit the scan.

    Raises
    ------
    InputError
        Another shape, values beside 0 and 1, or less than 1 cm3.
    """
    inside = np.asarray(mask)
    if inside.shape != gre.magnitude.shape[:3]:
        raise InputError(
            f"mask: has shape {inside.shape}, but the scan has {gre.magnitude.shape[:3]}; "
            "resample it to the scan (nearest neighbour)"
        )
    if not np.isin(np.unique(inside), (0, 1)).all():
        raise InputError(
            f"mask: holds values from {inside.min():g} to {inside.max():g}; give 0 and 1 only"
        )
    inside = inside.astype(bool) & (gre.magnitude[..., 0] > 0)
    volume_cm3 = _volume_cm3(inside, gre)
    if volume_cm3 < MIN_MASK_CM3:
        raise InputError(
            f"mask: holds {volume_cm3:.3g} cm3 with signal; at least {MIN_MASK_CM3:g} cm3 are "
            "needed, so check that it belongs to this scan"
        )
    return inside


def _volume_cm3(inside: NDArray[np.bool_], gre: images.Gre) -> float:
    return float(inside.sum() * abs(np.linalg.det(gre.affine[:3, :3])) / 1000)


def wrap_shares(volume: ArrayLike) -> tuple[float, float]:
    """Return how often neighbours differ by most of the range, and how often that is a wrap.

    A wrapped phase climbs to the top of its range, drops to the bottom and climbs on: the steps
    before and after a jump are opposite to it.  At the edge of a brain they are not: on flat
    tissue they are noise, opposite on both sides in one case of four, and a blurred edge rises
    before and after its steepest step.

    Parameters
    ----------
    volume
        Shape (x, y, z); voxels of zero are left out.

    Returns
    -------
    jumps_share
        Share of neighbours that differ by more than 0.8 of the range.
    wraps_share
        Share of those jumps, with signal on both sides, that are wraps.

    Examples
    --------
    >>> ramp = np.arange(1.0, 31.0)[:, None, None] * np.ones((1, 2, 2))
    >>> [round(share, 2) for share in wrap_shares((ramp - 1) % 10 + 1)]
    [0.03, 1.0]
    >>> wrap_shares(np.where(ramp < 15, 1.0, 100.0))[1]  # an edge is no wrap
    0.0
    """
    values = np.asarray(volume)
    if not (values > 0).any():
        return 0.0, 0.0
    low, high = np.quantile(values[values > 0], (0.001, 0.999))
    n_pairs = n_jumps = n_inner = n_wraps = 0
    for axis in range(3):
        along = np.moveaxis(values, axis, 0)
        pair = (along[1:] > 0) & (along[:-1] > 0)
        step = np.diff(along, axis=0)
        jump = pair & (np.abs(step) > JUMP * (high - low))
        inner = jump[1:-1] & pair[:-2] & pair[2:]
        direction = np.sign(step[1:-1])
        wraps = inner & (step[:-2] * direction < 0) & (step[2:] * direction < 0)
        n_pairs, n_jumps = n_pairs + pair.sum(), n_jumps + jump.sum()
        n_inner, n_wraps = n_inner + inner.sum(), n_wraps + wraps.sum()
    return float(n_jumps / max(n_pairs, 1)), float(n_wraps / max(n_inner, 1))


def check_magnitude(gre: images.Gre) -> tuple[Flag, ...]:
    """Flag a magnitude that is a wrapped phase; the last echo has the most wraps."""
    jumps_share, wraps_share = wrap_shares(gre.magnitude[..., -1])
    if jumps_share <= JUMPS_SHARE or wraps_share <= WRAPS_SHARE:
        return ()
    return (
        Flag(
            "exchanged",
            "the magnitude jumps by nearly its whole range between neighbours, as a wrapped "
            "phase does; are magnitude and phase exchanged?",
            EVERY_STEP,
        ),
    )


def check_echoes(gre: images.Gre, inside: NDArray[np.bool_]) -> tuple[Flag, ...]:
    """Flag a magnitude that does not decay from echo to echo, as that of tissue must."""
    medians = np.array([np.median(echo[inside]) for echo in np.moveaxis(gre.magnitude, -1, 0)])
    values = ", ".join(f"{m:.3g}" for m in medians)
    if (medians < SILENT_SHARE * medians[0]).any():
        message = f"the magnitude in the brain is {values}: an echo is empty"
        return (Flag("silent echo", message, EVERY_STEP),)
    if (medians[1:] > ECHO_RISE * medians[:-1]).any():
        message = (
            f"the magnitude in the brain is {values} from echo to echo, but it must fall with "
            "echo time; are the files in the order of the echoes?"
        )
        return (Flag("decay", message, EVERY_STEP),)
    return ()


def check_steps(
    gre: images.Gre, inside: NDArray[np.bool_], field: FieldMap, n_dropped: int, is_bipolar: bool
) -> tuple[Flag, ...]:
    """Flag what mask, unwrapping and the line fit over the echoes say of a scan."""
    flags = []
    if gre.echo_times_s.size > 2 and not (field.standard_error_hz[inside] > 0).any():
        message = "the line fits all echoes without any error, as copies do"
        flags.append(Flag("no noise", message, EVERY_STEP))
    faces = [np.take(inside, end, axis).mean() for axis in range(3) for end in (0, -1)]
    cut = sum(share > BORDER_SHARE for share in faces)
    if cut:
        message = (
            f"the mask reaches through {cut} of the volume's 6 faces, so field from tissue "
            "that was not scanned cannot be told from its own"
        )
        flags.append(Flag("crop", message, EVERY_STEP[1:]))
    volume_cm3 = _volume_cm3(inside, gre)
    if volume_cm3 < BRAIN_CM3:
        flags.append(Flag("small mask", f"{volume_cm3:.0f} cm3, less than a brain"))
    pieces = cc3d.connected_components(inside, connectivity=6)
    if np.bincount(pieces.ravel())[1:].max() < 0.99 * inside.sum():
        message = f"the mask is in {field.n_regions} pieces; each is off by a constant"
        flags.append(Flag("pieces", message))
    if n_dropped > DROPPED_SHARE * inside.sum():
        message = f"{n_dropped} voxels left out, where unwrapping or the line fit failed"
        flags.append(Flag("jumps", message))
    residual = _residual_rad(field, inside)
    if residual > RESIDUAL_RAD:
        flags.append(Flag("residual", f"95 % of the line fits miss by up to {residual:.2f} rad"))
    if is_bipolar:
        message = "odd and even echoes differ by a smooth phase, which was taken out"
        flags.append(Flag("bipolar", message))
    if gre.echo_times_s.size == 1:
        flags.append(Flag("one echo", "the coil's phase cannot be told from the field"))
    return tuple(flags)


def _residual_rad(field: FieldMap, inside: NDArray[np.bool_]) -> float:
    return float(np.percentile(field.residual_rad[inside], 95))


def check_map(
    chi_ppm: NDArray[np.float32], inside: NDArray[np.bool_], field: FieldMap
) -> tuple[Flag, ...]:
    """Flag values of susceptibility that spread as those of no brain do."""
    spread_ppb = 1e3 * float(chi_ppm.std())
    low, high = CHI_SD_PPB
    if low <= spread_ppb <= high:
        return ()
    words = (
        f"susceptibility spreads by {spread_ppb:.3g} ppb (SD), in a brain by {low:g} to {high:g}"
    )
    if spread_ppb > high and _residual_rad(field, inside) > RESIDUAL_RAD:
        return (Flag("spread", f"{words}: the noise of the phase is in it"),)
    words += "; check the echo times, the field strength and the scale of the phase"
    return (Flag("spread", words, ("inversion",)),)
