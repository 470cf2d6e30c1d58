"""Spatial phase unwrapping by quality-guided region growing, after ROMEO."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage
from scipy.sparse.linalg import LinearOperator, cg

from pvsbook._constants import TWO_PI
from pvsbook._errors import InputError

__all__ = [
    "Unwrapped",
    "count_jumps",
    "count_open_loops",
    "laplacian",
    "romeo",
    "without_jumps",
    "wrap",
]

N_BINS = 256
CHUNK = 64
ROW = 1024
# Of least squares in a mask: stop when the residual has fallen to this share, or after so many.
TOLERANCE, MAX_ITERATIONS = 1e-4, 100


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """Phase without wraps inside a mask.

    Attributes
    ----------
    phase_rad
        Shape (x, y, z), float32; zero outside the mask.
    n_regions
        Connected pieces of the mask.  Each has a multiple of 2 pi of its own, which no
        unwrapping can know; it is set so that the median of the piece is nearest to zero.
    """

    phase_rad: NDArray[np.float32]
    n_regions: int


def wrap(phase_rad: ArrayLike) -> NDArray:
    """Bring phase to [-pi, pi].

    Examples
    --------
    >>> wrap(np.array([0.0, 4.0, -7.0])).round(3)
    array([ 0.   , -2.283, -0.717])
    """
    phase = np.asarray(phase_rad)
    return phase - phase.dtype.type(TWO_PI) * np.round(phase / phase.dtype.type(TWO_PI))


def romeo(
    phase_rad: ArrayLike, mask: ArrayLike, *, magnitude: ArrayLike | None = None
) -> Unwrapped:
    r"""Unwrap a phase volume along its most reliable edges first.

    Every pair of face-neighbours is an edge with a quality between 0 and 1: the product of phase
    coherence (:math:`1 - |\Delta\varphi| / \pi`), and, where given, of magnitude coherence and
    magnitude weight.  The region grows over the best edge seen so far, held in a queue of 256
    buckets.

    Parameters
    ----------
    phase_rad
        Wrapped phase in radians, shape (x, y, z).
    mask
        Where to unwrap, shape (x, y, z).
    magnitude
        Same shape.  Leave it out only where none was saved: it is what keeps the path away from
        veins and air.

    Returns
    -------
    Unwrapped

    Raises
    ------
    InputError
        Shapes differ, the mask is empty, or the phase leaves [-pi, pi].

    References
    ----------
    Dymerska et al. 2021, doi:10.1002/mrm.28563.

    Examples
    --------
    >>> truth = np.linspace(0, 10, 64, dtype=np.float32).reshape(4, 4, 4)
    >>> steps = romeo(wrap(truth), np.ones(truth.shape, bool)).phase_rad - truth
    >>> bool(np.ptp(steps) < 1e-5)  # one multiple of 2 pi for the whole piece
    True
    """
    phase = np.ascontiguousarray(phase_rad, dtype=np.float32)
    inside = _same_shape(mask, phase, "mask").astype(bool)
    if not inside.any():
        raise InputError("mask: is empty; give a mask that holds the tissue to unwrap")
    largest = float(np.abs(phase[inside]).max())
    if largest > math.pi * 1.001:
        raise InputError(
            f"phase_rad: reaches {largest:.4g}, but wrapped phase lies in -pi to pi; "
            "load it with pvsbook.images.load_gre, which recognises the stored scale"
        )
    none = np.zeros((1, 1, 1), np.float32)
    mag = none if magnitude is None else _same_shape(magnitude, phase, "magnitude")
    half_max = float(0.5 * np.quantile(mag[inside], 0.95)) if magnitude is not None else 0.0
    box = ndimage.find_objects(inside.view(np.uint8))[0]
    waiting = np.pad(inside[box], 1)
    grown, mag = (np.pad(a[box], 1) if a.shape == phase.shape else a for a in (phase, mag))
    bins = _weigh(grown, mag, half_max)
    n_regions = _grow(grown, waiting.view(np.uint8), bins, int(inside.sum()))
    out = np.zeros_like(phase)
    np.copyto(out[box], grown[1:-1, 1:-1, 1:-1], where=inside[box])
    return Unwrapped(out, n_regions)


def laplacian(
    phase_rad: ArrayLike, voxel_size_mm: ArrayLike, *, mask: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Unwrap by least squares: Poisson's equation for the Laplacian of the wrapped steps.

    Steps between neighbours, wrapped, are those of the true phase wherever that is smooth; the
    volume whose steps fit them best is found with one cosine transform, or, in a mask, with
    conjugate gradients that the cosine transform preconditions.

    Parameters
    ----------
    phase_rad
        Wrapped phase in radians, shape (x, y, z).
    voxel_size_mm
        Three numbers: long steps count less.
    mask
        Where steps count, shape (x, y, z).  By default everywhere, noise outside the head
        included.  Phase set to zero outside a mask is no mask: it makes false steps at the rim.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z), float32, up to a constant in each connected piece; zero outside the mask.
        Where all loops are closed (`count_open_loops`) it is the wrapped phase plus whole turns.
        An open loop is not left out but spread over its surroundings, where the values then
        differ from the wrapped phase by more than whole turns.

    Raises
    ------
    InputError
        The phase is no single volume or is not finite (in the mask), or shapes differ.

    References
    ----------
    Ghiglia and Romero 1994, doi:10.1364/JOSAA.11.000107: unweighted and weighted least squares,
    here in three dimensions.  Schofield and Zhu 2003, doi:10.1364/OL.28.001194, solve for the
    Laplacian with Fourier transforms.

    Examples
    --------
    >>> truth = np.linspace(0, 12, 216).reshape(6, 6, 6) / 4
    >>> bool(np.ptp(laplacian(wrap(truth), (1, 1, 1)) - truth) < 1e-3)
    True
    >>> inside = np.indices(truth.shape)[0] < 4
    >>> noisy = np.where(inside, truth, np.random.default_rng(0).uniform(-3, 3, truth.shape))
    >>> error = laplacian(wrap(noisy), (1, 1, 1), mask=inside) - truth
    >>> bool(np.ptp(error[inside]) < 1e-3)
    True
    """
    phase = np.asarray(phase_rad, np.float32)
    size = np.asarray(voxel_size_mm, np.float64)
    inside = None if mask is None else _same_shape(mask, phase, "mask").astype(bool)
    if inside is not None:
        phase = np.where(inside, phase, np.float32(0))
    if phase.ndim != 3 or not np.isfinite(phase).all():
        raise InputError(f"phase_rad: one volume without NaN is needed, not shape {phase.shape}")
    counts: list[NDArray] = []  # of each step along each axis: how much it counts
    power = np.zeros(phase.shape)
    for axis, (n, s) in enumerate(zip(phase.shape, size, strict=True)):
        counts.append(
            _steps(np.ones(phase.shape, bool) if inside is None else inside, axis) / s**2
        )
        wave = (2 - 2 * np.cos(np.pi * np.arange(n) / n)) / s**2
        power += wave.reshape([-1 if a == axis else 1 for a in range(3)])
    power[0, 0, 0] = np.inf  # the mean is arbitrary: zero

    def poisson(source: NDArray) -> NDArray:
        return fft.idctn(fft.dctn(source, norm="ortho") / power, norm="ortho")

    def divergence(volume: NDArray, of_step: Callable[[NDArray], NDArray]) -> NDArray:
        return -sum(
            np.diff(count * of_step(np.diff(volume, axis=axis)), axis=axis, prepend=0, append=0)
            for axis, count in enumerate(counts)
        )

    source = divergence(phase.astype(np.float64), wrap)
    if inside is None:
        return poisson(source).astype(np.float32)

    def on_vectors(operator: Callable[[NDArray], NDArray]) -> LinearOperator:
        return LinearOperator(
            (phase.size, phase.size), lambda v: operator(v.reshape(phase.shape)).ravel()
        )

    normal = on_vectors(lambda volume: divergence(volume, lambda step: step))
    solution, _ = cg(
        normal, source.ravel(), M=on_vectors(poisson), rtol=TOLERANCE, maxiter=MAX_ITERATIONS
    )
    return np.where(inside, solution.reshape(phase.shape), 0).astype(np.float32)


def _steps(inside: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Mark the steps along an axis that begin and end inside a mask."""
    n = inside.shape[axis]
    return np.take(inside, range(n - 1), axis) & np.take(inside, range(1, n), axis)


def _same_shape(values: ArrayLike, like: NDArray, name: str) -> NDArray:
    array = np.asarray(values)
    if array.shape != like.shape:
        raise InputError(
            f"{name}: has shape {array.shape}, but the phase has {like.shape}; "
            "both must be one volume on the same grid"
        )
    return array if array.dtype == bool else np.ascontiguousarray(array, dtype=np.float32)


@numba.njit(cache=True, inline="always")
def _step(a: float, b: float) -> float:
    d = a - b
    return d - TWO_PI * np.rint(d / TWO_PI)


@numba.njit(cache=True, fastmath=True)
def _weigh(phase3, mag3, half_max):  # type: ignore[no-untyped-def]
    """Return the buckets of each voxel's six edges, side by side: 0 is the best edge.

    Both arrays have a rim; `mag3` may be of one voxel, and is then left out.
    """
    _, ny, nz = phase3.shape
    phase, mag = phase3.ravel(), mag3.ravel()
    bins = np.empty((phase.size, 8), np.uint8)  # two unused: eight bytes share a cache line
    quality = np.empty(ROW)
    for axis, offset in enumerate((1, nz, ny * nz)):
        for start in range(0, phase.size - offset, ROW):
            # One simple loop for each factor: the compiler vectorises them.
            q = quality[: min(ROW, phase.size - offset - start)]
            here = slice(start, start + q.size)
            there = slice(start + offset, start + offset + q.size)
            a, b = phase[here], phase[there]
            for i in range(q.size):
                q[i] = 1.0 - abs(_step(a[i], b[i])) / math.pi
            if mag.size > 1:
                a, b = mag[here], mag[there]
                for i in range(q.size):
                    small = min(a[i], b[i])
                    big = max(a[i], b[i])
                    coherence = small / big if big > 0 else 0.0
                    q[i] *= 0.1 + 0.9 * coherence * coherence
                    q[i] *= 0.5 + 0.5 * min(1.0, small / half_max if half_max > 0 else 1.0)
            for i in range(q.size):
                bucket = min(max(int((1.0 - q[i]) * (N_BINS - 1)), 0), N_BINS - 1)
                bins[start + i, 2 * axis] = bucket
                bins[start + i + offset, 2 * axis + 1] = bucket
    return bins


@numba.njit(cache=True)
def _grow(phase3, waiting3, bins, n_inside):  # type: ignore[no-untyped-def]
    """Unwrap `phase3` in place, where `waiting3`; all arrays have a rim.

    Each bucket is a stack of edges, kept in chunks: the next edge is mostly in the cache already.
    """
    _, ny, nz = phase3.shape
    phase = phase3.ravel()
    waiting = waiting3.ravel()
    offsets = np.array([1, -1, nz, -nz, ny * nz, -ny * nz])
    n_chunks = 3 * n_inside // CHUNK + N_BINS + 1
    chunks = np.empty((n_chunks, CHUNK), np.int64)  # 8 source + direction
    below = np.empty(n_chunks, np.int32)  # the chunk under each, or the next free one
    free = -1
    used = 0
    top = np.full(N_BINS, -1, np.int32)  # chunk
    filled = np.full(N_BINS, CHUNK, np.int32)  # entries in it
    order = np.empty(n_inside, np.int64)
    n_regions = 0
    scan = 0
    done = 0
    while done < n_inside:
        while waiting[scan] == 0:
            scan += 1
        first = done
        voxel = scan
        n_regions += 1
        lowest = N_BINS
        while voxel >= 0:
            waiting[voxel] = 0
            order[done] = voxel
            done += 1
            for k in range(6):
                if waiting[voxel + offsets[k]] != 0:
                    b = int(bins[voxel, k])
                    if filled[b] == CHUNK:
                        if free >= 0:
                            new = free
                            free = below[new]
                        else:
                            new = used
                            used += 1
                        below[new] = top[b]
                        top[b] = new
                        filled[b] = 0
                    chunks[top[b], filled[b]] = 8 * voxel + k
                    filled[b] += 1
                    lowest = min(lowest, b)
            voxel = -1
            while lowest < N_BINS:
                if top[lowest] < 0:
                    lowest += 1
                    continue
                filled[lowest] -= 1
                entry = chunks[top[lowest], filled[lowest]]
                if filled[lowest] == 0:
                    empty = top[lowest]
                    top[lowest] = below[empty]
                    filled[lowest] = CHUNK
                    below[empty] = free
                    free = empty
                source = entry >> 3
                target = source + offsets[entry & 7]
                if waiting[target] != 0:
                    voxel = target
                    d = phase[voxel] - phase[source]
                    phase[voxel] -= TWO_PI * np.rint(d / TWO_PI)
                    break
        region = order[first:done]
        turns = np.rint(np.median(phase[region]) / TWO_PI)
        if turns != 0:
            for i in region:
                phase[i] -= TWO_PI * turns
    return n_regions


def count_jumps(phase_rad: ArrayLike, mask: ArrayLike) -> int:
    """Count face-neighbours inside the mask whose phase differs by more than pi.

    A correct unwrapping of a smooth field has none.  What is left marks a vein, air, or a loop
    around which the wrapped phase itself does not add up to zero.

    Examples
    --------
    >>> count_jumps(np.array([[[0.0, 1.0, 5.0]]]), np.ones((1, 1, 3), bool))
    1
    """
    return sum(int(jump.sum()) for _, jump in _jumps(phase_rad, mask))


def count_open_loops(phase_rad: ArrayLike, mask: ArrayLike) -> int:
    """Count squares of four neighbours around which the wrapped steps do not add up to zero.

    Around such a loop no unwrapping can be free of jumps: the true phase is steeper than half a
    turn somewhere on it, or it winds around a vein.

    Examples
    --------
    >>> vortex = np.array([[[0.0], [1.6]], [[-1.6], [3.1]]])
    >>> count_open_loops(vortex, np.ones(vortex.shape)), count_open_loops(0 * vortex, vortex < 9)
    (1, 0)
    """
    phase, inside = np.asarray(phase_rad), np.asarray(mask, dtype=bool)
    total = 0
    for first, second in itertools.combinations(range(3), 2):
        across = np.diff(wrap(np.diff(phase, axis=second)), axis=first)
        turned = across - np.diff(wrap(np.diff(phase, axis=first)), axis=second)
        square = _steps(_steps(inside, first), second)
        total += int((np.abs(turned) > 1)[square].sum())
    return total


def without_jumps(phase_rad: ArrayLike, mask: ArrayLike) -> NDArray[np.bool_]:
    """Take the voxels on both sides of every jump beyond pi out of a mask.

    Examples
    --------
    >>> without_jumps(np.array([[[0.0, 1.0, 5.0]]]), np.ones((1, 1, 3), bool))
    array([[[ True, False, False]]])
    """
    kept = np.array(mask, dtype=bool)
    for axis, jump in _jumps(phase_rad, mask):
        pad = [(0, 0)] * 3
        for sides in ((0, 1), (1, 0)):
            pad[axis] = sides
            kept &= ~np.pad(jump, pad)
    return kept


def _jumps(phase_rad: ArrayLike, mask: ArrayLike) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    phase, inside = np.asarray(phase_rad), np.asarray(mask, dtype=bool)
    for axis in range(3):
        yield axis, (np.abs(np.diff(phase, axis=axis)) > math.pi) & _steps(inside, axis)
