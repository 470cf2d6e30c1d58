"""Whether a gradient echo can be mapped, and what a reader of the map must know."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage
from scipy.stats import rankdata
from skimage.transform import downscale_local_mean

from pvsbook import images
from pvsbook._constants import TWO_PI
from pvsbook._errors import InputError
from pvsbook.qsm._echoes import odd_echo
from pvsbook.qsm._solve import distance_inside
from pvsbook.qsm.background import LocalField
from pvsbook.qsm.field import FieldMap, hz_to_ppm

__all__ = ["Flag", "check_magnitude"]

MIN_MASK_CM3 = 1.0
BRAIN_CM3 = 400.0
BORDER_SHARE = 0.2
RESIDUAL_RAD = 0.1
STRONG_MM3, STRONG_VOXELS = 100.0, 20  # left out in one piece
STRONG_DEPTH_MM = 8.0
STRONG_SHARE = 0.5  # of the piece lies that deep; of what air leaves out below the brain 0.2
DROPPED_SHARE = 0.02  # next to air the field itself is that steep
CHI_SD_PPB = (8.0, 80.0)  # of a brain; ten times the echo times, or a tenth, lie far outside
ECHO_RISE = 1.05  # the signal decays: the median of a later echo may exceed an earlier one by this
MIN_BLOCKS = 500
SILENT_SHARE = 0.01  # of the first echo's median: an echo below it holds no signal
# Phase is noisy where the magnitude is low; if it fits the magnitude better when moved, it is of
# another scan, some 4 mm or more away; a nearer one need not show.  Pairs of stripped brains gain
# too, but stay below PAIR_FIT.
PAIR_MM = 2.0  # of the blocks that are compared
PAIR_REACH_MM = 20.0  # how far the phase is moved
PAIR_GAIN = 0.02  # of the correlation, when moved
PAIR_FIT = 0.2  # of the correlation, when moved: below it, the noise says nothing
PAIR_NOISE_RAD = 0.003  # less is no noise, so that nothing can be said
# SD of the background's field over the local one's: ten and more in a head, above one where a
# high-pass filter has passed over the phase.
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
    "other scan": (
        "unwrapping",
        "the noise of the phase fits the magnitude best when it is moved by {:.0f} mm; are they "
        "of one scan?",
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
    "odd echo": (
        "unwrapping",
        "{}; take it as the scanner stored it, and convert the series anew",
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
    "strong source": (
        None,
        "{:.0f} mm3 left out in one piece inside the brain, where the field is too steep for the "
        "echo times; a source there, as a calcification, comes out too weak",
    ),
    "unsettled": (
        None,
        "{} stopped before its tolerance was met; raise its max_iterations (of LBV: max_sweeps)",
    ),
    "residual": (None, "95 % of the line fits miss by up to {:.2f} rad"),
    "bipolar": (None, "odd and even echoes differ by a smooth phase, which was taken out"),
    "one echo": (
        None,
        "the coil's phase cannot be told from the field, so its slow part is wrong, noise has no "
        "measure, and there is no R2*",
    ),
    "two echoes": (
        None,
        "any two echoes fit a line, so noise has no measure, and nothing tells a bipolar readout",
    ),
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


def flag(code: str, *found: object) -> Flag:
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


def check_magnitude(gre: images.Gre) -> tuple[Flag, ...]:
    """Flag a magnitude that is a wrapped phase; the last echo has the most wraps."""
    return (flag("exchanged"),) if images.is_wrapped(gre.magnitude[..., -1]) else ()


def check_pair(gre: images.Gre) -> tuple[Flag, ...]:
    """Flag a phase whose noise lies elsewhere than the magnitude says, as that of another scan.

    The rank correlation of the magnitude with the noise of the phase is compared with that after
    moving one of them along the axes.  With fewer than three echoes noise cannot be told from
    tissue, and nothing is flagged.
    """
    if gre.echo_times_s.size < 3:
        return ()
    still, best, moved_mm = _fit_of_noise(gre)
    is_other = best > max(still + PAIR_GAIN, PAIR_FIT)
    return (flag("other scan", moved_mm),) if is_other else ()


def _fit_of_noise(gre: images.Gre) -> tuple[float, float, float]:
    """Return the correlation in place, the largest, and how far that is moved, in mm."""
    step = np.maximum(np.round(PAIR_MM / gre.voxel_size_mm), 1).astype(int)
    size_mm = step * gre.voxel_size_mm
    magnitude = gre.magnitude.mean(axis=3)
    known = downscale_local_mean(magnitude > 0, tuple(step)) > 0.99
    known_phase = downscale_local_mean((gre.phase_rad != 0).any(axis=3), tuple(step)) > 0.99
    noise = downscale_local_mean(_phase_noise(gre), tuple(step))
    if min(known.sum(), known_phase.sum()) < MIN_BLOCKS:
        return 0.0, 0.0, 0.0
    if np.median(noise[known_phase]) < PAIR_NOISE_RAD:
        return 0.0, 0.0, 0.0
    sides = []
    dark = -downscale_local_mean(magnitude, tuple(step))
    for values, inside in ((dark, known), (noise, known_phase)):
        ranks = np.zeros(inside.shape)
        ranks[inside] = rankdata(values[inside])
        ranks[inside] -= ranks[inside].mean()
        sides.append((ranks, inside.astype(float)))
    reach = np.minimum(PAIR_REACH_MM // size_mm, np.array(known.shape) // 3).astype(int)
    shape = [int(n) for n in known.shape + reach]

    def moved(one: NDArray, other: NDArray) -> NDArray[np.float64]:
        product = fft.rfftn(one, shape) * np.conj(fft.rfftn(other, shape))
        return fft.irfftn(product, shape)[np.ix_(*[np.r_[0 : r + 1, -r:0] for r in reach])]

    (a, in_a), (b, in_b) = sides
    norm = moved(a * a, in_b) * moved(in_a, b * b)
    few = moved(in_a, in_b) < MIN_BLOCKS
    r = np.where(few, -1, moved(a, b) / np.sqrt(np.maximum(norm, 1)))
    best = np.unravel_index(np.argmax(r), r.shape)
    shift = [i if i <= n else i - 2 * n - 1 for i, n in zip(best, reach, strict=True)]
    return float(r[0, 0, 0]), float(r[best]), float(np.linalg.norm(shift * size_mm))


def _phase_noise(gre: images.Gre) -> NDArray[np.float32]:
    """Return how far three echoes are from a line, compared with the voxels around, in rad."""
    z = np.exp(1j * gre.phase_rad[..., :3])
    bend = z[..., 0] * np.conj(z[..., 1]) ** 2 * z[..., 2]
    smooth = ndimage.uniform_filter(bend.real, 3) + 1j * ndimage.uniform_filter(bend.imag, 3)
    return np.abs(np.angle(bend * np.conj(smooth))).astype(np.float32)


def check_echoes(
    gre: images.Gre, inside: NDArray[np.bool_], before: tuple[Flag, ...] = ()
) -> tuple[Flag, ...]:
    """Flag echoes whose magnitude does not decay, as that of tissue must, or that do not agree."""
    medians = np.array([np.median(echo[inside]) for echo in np.moveaxis(gre.magnitude, -1, 0)])
    values = ", ".join(f"{m:.3g}" for m in medians)
    if (medians < SILENT_SHARE * medians[0]).any():
        found: tuple[Flag, ...] = (flag("silent echo", values),)
    elif (medians[1:] > ECHO_RISE * medians[:-1]).any():
        found = (flag("decay", values),)
    else:
        words = odd_echo(gre, inside)
        found = (flag("odd echo", words),) if words else ()
    # Such an echo makes the noise of the phase fit the magnitude elsewhere, too.
    is_cause = bool(found) and any(flag.code == "other scan" for flag in before)
    return found if is_cause else before + found


def check_extent(mask: NDArray[np.bool_], gre: images.Gre) -> tuple[Flag, ...]:
    """Flag a mask that reaches through the faces of the volume, or is less than a brain."""
    faces = [np.take(mask, end, axis).mean() for axis in range(3) for end in (0, -1)]
    n_cut = sum(share > BORDER_SHARE for share in faces)
    volume_cm3 = _volume_cm3(mask, gre)
    cut = (flag("crop", n_cut),) if n_cut else ()
    return cut + ((flag("small mask", volume_cm3),) if volume_cm3 < BRAIN_CM3 else ())


def check_map(
    gre: images.Gre,
    known: NDArray[np.bool_],
    field: FieldMap,
    local: LocalField,
    chi_ppm: NDArray[np.float32],
    *,
    dropped: NDArray[np.bool_],
    is_bipolar: bool,
    is_settled: bool = True,
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
    dropped
        Voxels left out of the mask.
    is_bipolar
        Whether a difference of odd and even echoes was taken out.
    is_settled
        Whether the inversion met its tolerance.
    """
    n_echoes = gre.echo_times_s.size
    extent = check_extent(known, gre)
    is_cut = any(flag.code == "crop" for flag in extent)
    n_dropped = int(dropped.sum())
    depth_mm = distance_inside(known | dropped, gre.voxel_size_mm, rim_is_outside=False)
    left_out = cc3d.connected_components(dropped, connectivity=26)
    sizes = np.bincount(left_out.ravel(), minlength=2)
    deep = np.bincount(left_out[depth_mm > STRONG_DEPTH_MM], minlength=sizes.size)
    largest_deep = np.where(deep > STRONG_SHARE * sizes, deep, 0)[1:].max()
    strong_mm3 = float(largest_deep * np.prod(gre.voxel_size_mm))
    is_strong = strong_mm3 > STRONG_MM3 and largest_deep > STRONG_VOXELS
    pieces = cc3d.connected_components(known, connectivity=6)
    largest = np.bincount(pieces.ravel())[1:].max()
    residual_rad = float(np.percentile(field.residual_rad[known], 95))
    is_exact = n_echoes > 2 and not (field.standard_error_hz[known] > 0).any()
    own = local.field_ppm[local.mask]
    total = hz_to_ppm(field.field_hz[local.mask], gre.field_strength_t)
    error_hz = np.nan_to_num(field.standard_error_hz[local.mask])
    noise = hz_to_ppm(np.sqrt(np.mean(error_hz**2)), gre.field_strength_t)
    tissue = np.sqrt(max(own.var() - noise**2, 1e-12))  # a noisy phase is no filtered one
    slow = float((total - own).std() / tissue)
    # A coil's phase is smooth.  With the phase images in reverse order the slope is -f, and what
    # is taken for the coil's phase holds the field's over the first and the last echo time.
    span_s = float(gre.echo_times_s[0] + gre.echo_times_s[-1])
    is_reversed = n_echoes > 1 and _coherence(field, known, span_s) > _coherence(field, known, 0)
    first = (
        (is_reversed, "echo order", None),
        (not is_cut and slow < SLOW_SPREAD, "filtered", slow),
        (is_exact, "no noise", None),
    )
    then = (
        (largest < 0.99 * known.sum(), "pieces", field.n_regions),
        (n_dropped > DROPPED_SHARE * known.sum(), "jumps", n_dropped),
        (is_strong, "strong source", strong_mm3),
        (not local.is_settled, "unsettled", "background removal"),
        (not is_settled, "unsettled", "the inversion"),
        (residual_rad > RESIDUAL_RAD, "residual", residual_rad),
        (is_bipolar, "bipolar", None),
        (n_echoes == 1, "one echo", None),
        (n_echoes == 2, "two echoes", None),
    )
    before, after = (
        tuple(flag(code, found) for is_raised, code, found in flags if is_raised)
        for flags in (first, then)
    )
    spread = _check_spread(1e3 * float(chi_ppm.std()), residual_rad > RESIDUAL_RAD)
    return before + extent + after + spread


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
