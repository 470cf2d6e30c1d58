"""Whether a gradient echo can be mapped, and what a reader of the map must know."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._constants import TWO_PI
from pvsbook._errors import InputError
from pvsbook.qsm.background import LocalField
from pvsbook.qsm.field import FieldMap, hz_to_ppm

__all__ = ["Flag", "check_magnitude"]

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
# SD of the background's field over the local one's: 20 to 22 in simulated heads, 14 in a crop of a
# real one, 2.6 to 3.1 in the simulated heads after a high-pass filter of 6 mm.
SLOW_SPREAD = 4.0
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
    "echo order": (
        "unwrapping",
        "at echo time zero the phase is smoother if the phase images are taken in reverse order; "
        "are they in the order of the echoes, as the magnitude is?",
    ),
    "filtered": (
        "background removal",
        "the field of all outside the brain spreads {:.2g} times as wide as the brain's own, in a "
        "head 10 times or more; is the phase high-pass filtered? Export it without",
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
    local: LocalField,
    chi_ppm: NDArray[np.float32],
    *,
    n_dropped: int,
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
    local
        What background removal made of it.
    chi_ppm
        Susceptibility of the voxels where it is known, one after the other.
    n_dropped
        Voxels left out of the mask.
    is_bipolar
        Whether a difference of odd and even echoes was taken out.
    """
    n_echoes = gre.echo_times_s.size
    faces = [np.take(known, end, axis).mean() for axis in range(3) for end in (0, -1)]
    n_cut = sum(share > BORDER_SHARE for share in faces)
    volume_cm3 = _volume_cm3(known, gre)
    pieces = cc3d.connected_components(known, connectivity=6)
    largest = np.bincount(pieces.ravel())[1:].max()
    residual_rad = float(np.percentile(field.residual_rad[known], 95))
    is_exact = n_echoes > 2 and not (field.standard_error_hz[known] > 0).any()
    own = local.field_ppm[local.mask]
    total = hz_to_ppm(field.field_hz[local.mask], gre.field_strength_t)
    slow = float((total - own).std() / own.std())
    # A coil's phase is smooth.  With the phase images in reverse order the slope is -f, and what
    # is taken for the coil's phase holds the field's over the first and the last echo time.
    span_s = float(gre.echo_times_s[0] + gre.echo_times_s[-1])
    is_reversed = n_echoes > 1 and _coherence(field, known, span_s) > _coherence(field, known, 0)
    flags = (
        (is_reversed, "echo order", None),
        (n_cut == 0 and slow < SLOW_SPREAD, "filtered", slow),
        (is_exact, "no noise", None),
        (n_cut > 0, "crop", n_cut),
        (volume_cm3 < BRAIN_CM3, "small mask", volume_cm3),
        (largest < 0.99 * known.sum(), "pieces", field.n_regions),
        (n_dropped > DROPPED_SHARE * known.sum(), "jumps", n_dropped),
        (residual_rad > RESIDUAL_RAD, "residual", residual_rad),
        (is_bipolar, "bipolar", None),
        (n_echoes == 1, "one echo", None),
    )
    raised = tuple(_flag(code, found) for is_raised, code, found in flags if is_raised)
    return raised + _check_spread(1e3 * float(chi_ppm.std()), residual_rad > RESIDUAL_RAD)


def _coherence(field: FieldMap, known: NDArray[np.bool_], later_s: float) -> float:
    """Mean cosine between neighbours of the phase at echo time zero, moved by a time."""
    phase_rad = field.offset_rad + np.float32(TWO_PI * later_s) * field.field_hz
    pairs = [(np.diff(phase_rad, axis=a), np.diff(known, axis=a)) for a in range(3)]
    inner = [known.take(range(1, n), a) for a, n in enumerate(known.shape)]
    cosines = [np.cos(d[i & ~edge]) for (d, edge), i in zip(pairs, inner, strict=True)]
    return float(np.concatenate(cosines).mean())


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
