"""Whether an image is a phase, and how many of its stored units make one turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError

# One full turn of phase in the units that scanners and converters store.
PHASE_PERIODS = {
    "radians": 2 * np.pi,
    "degrees": 360.0,
    "12-bit integers": 4096.0,
    "milliradians": 2000 * np.pi,
    "13-bit integers": 8192.0,
    "16-bit integers": 65536.0,
}
FULL = 0.98  # of a turn: a phase that covers it and never wraps is unwrapped, by all appearance
FILLED = 0.9  # of a turn: what a wrapped phase covers at least, if it wraps at all
JUMP = 0.8  # of the range: neighbours further apart lie on both sides of a wrap
# Of a magnitude that is a wrapped phase: no magnitude of a simulated head passes both, and a
# phase that does not has next to no jumps.
JUMPS_SHARE = 0.002  # of neighbours
WRAPS_SHARE = 0.7  # of jumps
# Below the fewest jumps of an echo that fills a turn, in simulated heads and a crop of a real one.
NO_WRAP_SHARE = 1e-4
DECAY = 0.97  # of the signal of one echo: what a magnitude keeps at most at the next


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
    values = np.nan_to_num(np.asarray(volume), nan=0, posinf=0, neginf=0)
    inside = values != 0
    if not inside.any():
        return 0.0, 0.0
    low, high = np.quantile(values[inside], (0.001, 0.999))
    counts = np.zeros(4)
    for axis in range(3):
        along, known = np.moveaxis(values, axis, 0), np.moveaxis(inside, axis, 0)
        pair = known[1:] & known[:-1]
        step = np.diff(along, axis=0)
        jump = pair & (np.abs(step) > JUMP * (high - low))
        inner = jump[1:-1] & pair[:-2] & pair[2:]
        direction = np.sign(step[1:-1])
        wraps = inner & (step[:-2] * direction < 0) & (step[2:] * direction < 0)
        counts += pair.sum(), jump.sum(), inner.sum(), wraps.sum()
    n_pairs, n_jumps, n_inner, n_wraps = counts
    return float(n_jumps / max(n_pairs, 1)), float(n_wraps / max(n_inner, 1))


def _jumps(volume: ArrayLike) -> bool:
    """Whether an image that may be a phase jumps anywhere from end to end of its range."""
    return wrap_shares(volume)[0] > NO_WRAP_SHARE


def is_wrapped(volume: ArrayLike) -> bool:
    """Whether an image jumps by nearly its whole range between neighbours, as phase does."""
    jumps_share, wraps_share = wrap_shares(volume)
    return jumps_share > JUMPS_SHARE and wraps_share > WRAPS_SHARE


def is_decaying(values: NDArray[np.float32]) -> bool:
    """Whether all echoes are positive, without wraps, and each is darker than the one before.

    Parameters
    ----------
    values
        Shape (x, y, z, echo).
    """
    if not np.nanmin(values) >= 0:
        return False
    first = values[..., 0]
    bright = first > 0.2 * np.nanquantile(first, 0.99)
    if not bright.any():
        return False
    medians = np.array([np.nanmedian(echo[bright]) for echo in np.moveaxis(values, -1, 0)])
    falls = bool((medians[1:] < DECAY * medians[:-1]).all())
    return falls and all(wrap_shares(echo)[0] < JUMPS_SHARE for echo in np.moveaxis(values, -1, 0))


def recognise(values: NDArray[np.float32]) -> str | None:
    """Name the scale whose full turn the values fill; None where none fits."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    for name, period in PHASE_PERIODS.items():
        for start in (-period / 2, 0.0):
            inside = low >= start - 1e-3 * period and high <= start + period * 1.001
            if inside and high - low > FILLED * period:
                return name
    return None


def check_period(values: NDArray[np.float32], period: float, label: str) -> None:
    """Refuse a period that a wrapped phase exceeds, or that is not the one at which it wraps.

    Parameters
    ----------
    values
        Shape (x, y, z, echo), in stored units.
    period
        Stored units of one turn.
    label
        Of the phase, for the error.

    Raises
    ------
    InputError
        The values span more than one turn, span one without a wrap, or wrap at another.
    """
    span = float(np.nanmax(values) - np.nanmin(values))
    if span > 1.001 * period:
        raise InputError(
            f"{label}: phase spans {span:.6g} stored units, {span / period:.3g} turns of "
            f"{period:.6g}, but a wrapped phase spans one; give the wrapped phase, or the stored "
            f"units of one turn (--phase-period {span:.6g}, if it wraps at the ends of its range)"
        )
    echoes = np.moveaxis(values, -1, 0)
    if span > FULL * period and not any(_jumps(echo) for echo in echoes[::-1]):
        raise InputError(
            f"{label}: phase spans {span:.6g} stored units, one turn of {period:.6g}, but never "
            "jumps from one end to the other, so it is unwrapped; give the wrapped phase"
        )
    for k, echo in enumerate(echoes, 1):
        width = float(np.nanmax(echo) - np.nanmin(echo))
        if 0 < width < FILLED * period and _jumps(echo):
            raise InputError(
                f"{label}: echo {k} jumps from end to end of its range of {width:.6g} stored "
                f"units, as a phase does that wraps there, but one turn is taken to be "
                f"{period:.6g}; give the stored units of one turn (--phase-period {width:.6g}), "
                "the same for all echoes"
            )


def check_roles(
    magnitude: NDArray[np.float32], phase: NDArray[np.float32], labels: tuple[str, str]
) -> None:
    """Refuse magnitude and phase that are exchanged, and a magnitude that is given as phase.

    Parameters
    ----------
    magnitude, phase
        As given, shape (x, y, z, echo).
    labels
        Of both, for the error.

    Raises
    ------
    InputError
        The phase is a magnitude: positive, without wraps, and darker from echo to echo.
    """
    if not is_decaying(phase):
        return
    what = f"{labels[1]}: is given as phase, but is positive and without wraps"
    what += " and falls from echo to echo" if phase.shape[3] > 1 else ""
    if np.nanmin(magnitude) < 0 or is_wrapped(magnitude[..., -1]):
        raise InputError(
            f"{what}, as a magnitude does, and {labels[0]} holds a phase; magnitude and phase are "
            "exchanged, so give them the other way round"
        )
    if phase.shape[3] > 1:
        raise InputError(f"{what}, as a magnitude does; give the phase of these echoes")
