"""Whether a gradient echo can be mapped, and what a reader of the map must know."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.qsm._solve import distance_inside
from pvsbook.qsm.field import FieldMap

__all__ = ["Flag", "check_magnitude"]

MIN_MASK_CM3 = 1.0
BRAIN_CM3 = 400.0
BORDER_SHARE = 0.2
RESIDUAL_RAD = 0.1
STRONG_MM3, STRONG_VOXELS = 100.0, 20  # left out in one piece, deeper than air's own field reaches
STRONG_DEPTH_MM = 8.0
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
STEPS = ("unwrapping", "background removal", "inversion")
# What is flagged: the first step whose result cannot be used (those after it cannot be either;
# None where all can), and what was seen and what it means.
FLAGS: dict[str, tuple[str | None, str]] = {
    "exchanged": (
        "unwrapping",
        "the magnitude jumps by nearly its whole range between neighbours, as a wrapped "
        "phase does; are magnitude and phase exchanged?",
    ),
    "silent echo": ("unwrapping", "the magnitude in the brain is {}: an echo is empty"),
    "decay": (
        "unwrapping",
        "the magnitude in the brain is {} from echo to echo, but it must fall with "
        "echo time; are the files in the order of the echoes?",
    ),
    "no noise": ("unwrapping", "the line fits all echoes without any error, as copies do"),
    "crop": (
        "background removal",
        "the mask reaches through {} of the volume's 6 faces, so field from tissue "
        "that was not scanned cannot be told from its own",
    ),
    "small mask": (None, "{:.0f} cm3, less than a brain"),
    "pieces": (None, "the mask is in {} pieces; each is off by a constant"),
    "jumps": (None, "{} voxels left out, where unwrapping or the line fit failed"),
    "strong source": (
        None,
        "{:.0f} mm3 left out in one piece inside the brain, where the field is too steep for the "
        "echo times; a source there, as a calcification, comes out too weak",
    ),
    "residual": (None, "95 % of the line fits miss by up to {:.2f} rad"),
    "bipolar": (None, "odd and even echoes differ by a smooth phase, which was taken out"),
    "one echo": (None, "the coil's phase cannot be told from the field"),
}


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


def _flag(code: str, *found: object) -> Flag:
    first, message = FLAGS[code]
    return Flag(code, message.format(*found), STEPS[STEPS.index(first) :] if first else ())


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


def _wrap_shares(volume: ArrayLike) -> tuple[float, float]:
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
    >>> [round(share, 2) for share in _wrap_shares((ramp - 1) % 10 + 1)]
    [0.03, 1.0]
    >>> _wrap_shares(np.where(ramp < 15, 1.0, 100.0))[1]  # an edge is no wrap
    0.0
    """
    values = np.asarray(volume)
    if not (values > 0).any():
        return 0.0, 0.0
    low, high = np.quantile(values[values > 0], (0.001, 0.999))
    counts = np.zeros(4)
    for axis in range(3):
        along = np.moveaxis(values, axis, 0)
        pair = (along[1:] > 0) & (along[:-1] > 0)
        step = np.diff(along, axis=0)
        jump = pair & (np.abs(step) > JUMP * (high - low))
        inner = jump[1:-1] & pair[:-2] & pair[2:]
        direction = np.sign(step[1:-1])
        wraps = inner & (step[:-2] * direction < 0) & (step[2:] * direction < 0)
        counts += pair.sum(), jump.sum(), inner.sum(), wraps.sum()
    n_pairs, n_jumps, n_inner, n_wraps = counts
    return float(n_jumps / max(n_pairs, 1)), float(n_wraps / max(n_inner, 1))


def check_magnitude(gre: images.Gre) -> tuple[Flag, ...]:
    """Flag a magnitude that is a wrapped phase; the last echo has the most wraps."""
    jumps_share, wraps_share = _wrap_shares(gre.magnitude[..., -1])
    is_wrapped = jumps_share > JUMPS_SHARE and wraps_share > WRAPS_SHARE
    return (_flag("exchanged"),) if is_wrapped else ()


def check_echoes(gre: images.Gre, inside: NDArray[np.bool_]) -> tuple[Flag, ...]:
    """Flag a magnitude that does not decay from echo to echo, as that of tissue must."""
    medians = np.array([np.median(echo[inside]) for echo in np.moveaxis(gre.magnitude, -1, 0)])
    values = ", ".join(f"{m:.3g}" for m in medians)
    if (medians < SILENT_SHARE * medians[0]).any():
        return (_flag("silent echo", values),)
    return (_flag("decay", values),) if (medians[1:] > ECHO_RISE * medians[:-1]).any() else ()


def check_map(
    gre: images.Gre,
    known: NDArray[np.bool_],
    field: FieldMap,
    chi_ppm: NDArray[np.float32],
    *,
    dropped: NDArray[np.bool_],
    is_bipolar: bool,
) -> tuple[Flag, ...]:
    """Flag what mask, unwrapping, the line fit over the echoes and susceptibility say of a scan.

    Parameters
    ----------
    gre
        The scan.
    known
        Mask of the voxels that were measured.
    field
        Their field.
    chi_ppm
        Susceptibility of the voxels where it is known, one after the other.
    dropped
        Voxels left out of the mask.
    is_bipolar
        Whether a difference of odd and even echoes was taken out.
    """
    n_echoes = gre.echo_times_s.size
    faces = [np.take(known, end, axis).mean() for axis in range(3) for end in (0, -1)]
    n_cut = sum(share > BORDER_SHARE for share in faces)
    volume_cm3 = _volume_cm3(known, gre)
    n_dropped = int(dropped.sum())
    depth_mm = distance_inside(known | dropped, gre.voxel_size_mm, rim_is_outside=False)
    deep = cc3d.connected_components(dropped & (depth_mm > STRONG_DEPTH_MM), connectivity=26)
    largest_deep = np.bincount(deep.ravel(), minlength=2)[1:].max()
    strong_mm3 = float(largest_deep * np.prod(gre.voxel_size_mm))
    is_strong = strong_mm3 > STRONG_MM3 and largest_deep > STRONG_VOXELS
    pieces = cc3d.connected_components(known, connectivity=6)
    largest = np.bincount(pieces.ravel())[1:].max()
    residual_rad = float(np.percentile(field.residual_rad[known], 95))
    is_exact = n_echoes > 2 and not (field.standard_error_hz[known] > 0).any()
    flags = (
        (is_exact, "no noise", None),
        (n_cut > 0, "crop", n_cut),
        (volume_cm3 < BRAIN_CM3, "small mask", volume_cm3),
        (largest < 0.99 * known.sum(), "pieces", field.n_regions),
        (n_dropped > DROPPED_SHARE * known.sum(), "jumps", n_dropped),
        (is_strong, "strong source", strong_mm3),
        (residual_rad > RESIDUAL_RAD, "residual", residual_rad),
        (is_bipolar, "bipolar", None),
        (n_echoes == 1, "one echo", None),
    )
    raised = tuple(_flag(code, found) for is_raised, code, found in flags if is_raised)
    return raised + _check_spread(1e3 * float(chi_ppm.std()), residual_rad > RESIDUAL_RAD)


def _check_spread(spread_ppb: float, is_noisy: bool) -> tuple[Flag, ...]:
    """Flag values of susceptibility that spread as those of no brain do."""
    low, high = CHI_SD_PPB
    if low <= spread_ppb <= high:
        return ()
    words = (
        f"susceptibility spreads by {spread_ppb:.3g} ppb (SD), in a brain by {low:g} to {high:g}"
    )
    if spread_ppb > high and is_noisy:
        return (Flag("spread", f"{words}: the noise of the phase is in it"),)
    words += "; check the echo times, the field strength and the scale of the phase"
    return (Flag("spread", words, ("inversion",)),)
