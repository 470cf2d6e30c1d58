"""Judge a scan's ALPS index: its b-vectors, its quality figures, and suspect volumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from pvsbook._errors import InputError
from pvsbook.alps.regions import Voxels
from pvsbook.atlas.registration import MIN_CORRELATION, Registration, is_placed

if TYPE_CHECKING:
    from pvsbook.alps.pipeline import AlpsResult

__all__ = ["LIMITS", "BvecCheck", "check_bvecs", "judge"]

LIMITS: Mapping[str, tuple[float, float, str]] = {
    "bvec_z": (1.0, 3.0, "fibres line up better than with those given, z ="),
    "registration_correlation": (0.5, MIN_CORRELATION["fa"], "FA correlates with the template"),
    "registration_overlap": (0.9, 0.8, "fraction of the brain on the template"),
    "left_minus_right": (0.3, 0.6, "left and right index differ by"),
    "head_tilt_deg": (10.0, np.inf, "degrees between voxel and head axes (classic index)"),
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
    "tract_angle_deg": (60.0, 40.0, "degrees between the tracts"),
}
"""Where a quality figure warns, where it fails (which side is worse follows from the order), and
what it is in words."""

ADULTS = (1.37, 0.21)
"""Mean and standard deviation that are taken for healthy adults; an index more than two of them
away is warned about.  A coarse check: the figures depend on protocol, frame and age, and a paper
that reports them is not at hand."""

STEADY_DIRECTIONS = 15
SAME_B0 = 0.85  # correlation of b = 0 volumes within the brain; real ones reach 0.96 and more
LOST_SIGNAL = 0.6  # of what the other volumes have in a slice; directions alone change less
ROBUST_DIFFERENCE = 0.08  # of the index, between the plain and the robust fit

Change = tuple[tuple[int, ...], tuple[int, ...]]

_CHANGES: list[Change] = [
    (order, signs)
    for order in permutations(range(3))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
]
_NEIGHBOURS = [n for n in product((-1, 0, 1), repeat=3) if n > (0, 0, 0)]
_BLOCK_MM = 16.0


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


def judge(
    result: AlpsResult, *, head_tilt_deg: float, doubts: Sequence[str] = ()
) -> tuple[str, tuple[str, ...]]:
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
    """
    doubts = [*doubts, *_outliers(result)]
    worse: dict[tuple[bool, str], list[tuple[str, float]]] = {}
    for key, where, value in _figures(result, head_tilt_deg):
        warn, fail, _ = LIMITS[key]
        sign = 1 if fail > warn else -1
        if not sign * value < sign * warn:  # NaN fails
            worse.setdefault((not sign * value < sign * fail, key), []).append((where, value))
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
    odd = [f"{side} {v:.2f}" for side, v in values.items() if abs(v - mean) > 2 * sd]
    if odd:
        warned.append(
            f"index {' and '.join(odd)}: more than two standard deviations from what is assumed "
            f"for adults ({mean} +- {sd}); look at the regions before you believe it"
        )
    if result.n_directions < STEADY_DIRECTIONS:
        warned.append(
            f"{result.n_directions} directions; {STEADY_DIRECTIONS} or more give a steadier tensor"
        )
    status = "fail" if failed else "warn" if warned or doubts else "pass"
    return status, (*doubts, *failed, *warned)


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
    if not result.bvecs.as_given:
        yield "bvec_z", f"b-vectors {result.bvecs.best}: ", result.bvecs.z
    yield "registration_correlation", "", result.registration.correlation
    yield "registration_overlap", "", result.registration.overlap
    yield "left_minus_right", "", abs(sides["left"].value - sides["right"].value)
    yield "head_tilt_deg", "", head_tilt_deg
    yield "b_s_mm2", "", result.b_s_mm2
    for roi in result.rois:
        where = f"{roi.name.replace('_', ' ')}: "
        yield "inside", where, roi.voxels.inside
        for key in ("n_voxels", "fa", "angle_deg", "fluid_fraction", "mode"):
            yield key, where, getattr(roi, key)
    for side, angle in result.tract_angle_deg.items():
        yield "tract_angle_deg", f"{side}: ", angle


def _outliers(result: AlpsResult) -> list[str]:
    """Say whether a robust fit finds another index, as outliers make it."""
    plain, robust = result.indices["tract"]["mean"].value, result.variants["restore"]
    if not abs(plain - robust) > ROBUST_DIFFERENCE:  # NaN: nothing to compare
        return []
    return [
        f"outliers: a robust fit (RESTORE) gives {robust:.2f}, the plain one {plain:.2f}; some "
        "measurements do not fit the tensor"
    ]


def suspect_volumes(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    is_b0: NDArray[np.bool_],
    numbers: NDArray[np.intp],
) -> list[str]:
    """Name volumes that are not what the tables say, and slices that lost their signal.

    Parameters
    ----------
    data : ndarray, shape (x, y, z, volumes)
    mask : ndarray of bool, shape (x, y, z)
    is_b0 : ndarray of bool, shape (volumes,)
    numbers : ndarray of int, shape (volumes,)
        What each volume is called in the file.
    """
    reasons = []
    unweighted = data[mask][:, is_b0]
    if unweighted.shape[1] > 1:
        correlations = np.corrcoef(unweighted.T)
        best = np.sort(correlations, axis=0)[-2]  # with the volume that is most like it
        for k in np.flatnonzero(best < SAME_B0):
            reasons.append(
                f"b=0: volume {numbers[is_b0][k]} looks like no other b=0 volume (correlation "
                f"{best[k]:.2f}); is it a map that the scanner made, such as ADC?"
            )
    weighted = data[..., ~is_b0] * mask[..., None]
    counts = mask.sum(axis=(0, 1))
    slices = np.flatnonzero(counts > 0.2 * counts.max())  # slices through enough of the brain
    means = weighted.sum(axis=(0, 1))[slices] / counts[slices, None]
    share = means / np.maximum(np.median(means, axis=1, keepdims=True), 1e-12)
    for k in np.flatnonzero((share < LOST_SIGNAL).any(axis=0)):
        lost = slices[share[:, k] < LOST_SIGNAL]
        reasons.append(
            f"signal: volume {numbers[~is_b0][k]} has down to {100 * share[:, k].min():.0f} % of "
            f"what the others have, in {len(lost)} slices (the {lost[0] + 1}. to {lost[-1] + 1}. "
            "from below); motion during the pulse does that, so leave the volume out"
        )
    return reasons


@dataclass(frozen=True)
class BvecCheck:
    """The change of the b-vectors under which fibres are most coherent, and how sure that is.

    Attributes
    ----------
    best : str
        ``"as given"``, or the change of the voxel axes under which fibres line up best.
    certainty : float
        Probability that `best` beats the b-vectors as given or, where they are best, the
        runner-up: from the spread of the difference over blocks of 16 mm.
    z : float
        The same as a z-score.
    coherence : mapping of str to float
        Of all 24 changes, relative to the best.
    """

    best: str
    certainty: float
    z: float
    coherence: dict[str, float]

    @property
    def as_given(self) -> bool:
        """Whether no change of the b-vectors lines fibres up better."""
        return self.best == "as given"


def check_bvecs(
    directions: ArrayLike, fa: ArrayLike, where: ArrayLike, voxel_size_mm: ArrayLike
) -> BvecCheck:
    """Compare the 24 flips and permutations of the axes by how fibres line up.

    A fibre that points at the next voxel should find a fibre there that points back.  Flip or
    swap an axis of the b-vectors and fibres that run obliquely lose their neighbours: at the
    walls of a tract, where its fibres meet those of others, the loss shows.  Changing the
    b-vectors changes the tensors by the same turn, so one fit serves all 24.  A change of sign
    of all three axes cannot be seen, and does not matter: diffusion has no sign.

    Parameters
    ----------
    directions : array_like, shape (x, y, z, 3)
        Principal directions in *voxel* axes.
    fa : array_like, shape (x, y, z)
        Weights: directions of anisotropic voxels are sure.
    where : array_like of bool, shape (x, y, z)
        White matter.
    voxel_size_mm : array_like, shape (3,)

    Returns
    -------
    BvecCheck

    References
    ----------
    Schilling et al. 2019, Magn Reson Imaging 58:82, doi:10.1016/j.mri.2019.01.018;
    Jeurissen et al. 2014, Med Image Anal 18:953, doi:10.1016/j.media.2014.05.012.

    Examples
    --------
    A fibre that runs diagonally through the first two axes:

    >>> where = np.eye(9, dtype=bool)[:, :, None]
    >>> directions = np.broadcast_to([0.5**0.5, 0.5**0.5, 0.0], (*where.shape, 3))
    >>> check_bvecs(directions, where.astype(float), where, (2, 2, 2)).best
    'as given'
    >>> check_bvecs(directions * [-1, 1, 1], where.astype(float), where, (2, 2, 2)).best
    'x flipped'
    """
    where, size = np.asarray(where, bool), np.asarray(voxel_size_mm, float)
    index = np.argwhere(where)
    number = np.pad(np.full(where.shape, -1), 1, constant_values=-1)
    number[tuple(index.T + 1)] = np.arange(len(index))
    vectors, weight = np.asarray(directions)[where], np.asarray(fa)[where]
    blocks = np.unique((index * size // _BLOCK_MM).astype(int), axis=0, return_inverse=True)[1]
    pairs = [(*_pairs(number, index, np.array(n)), np.array(n) * size) for n in _NEIGHBOURS]
    sums = {_label(c): _coherence(c, vectors, weight, pairs, blocks.ravel()) for c in _CHANGES}
    ranked = sorted(sums, key=lambda name: -sums[name].sum())
    as_given = "as given"
    best = as_given if sums[as_given].sum() >= sums[ranked[0]].sum() * (1 - 1e-12) else ranked[0]
    rival = next(name for name in ranked if name != best) if best == as_given else as_given
    differences = sums[best] - sums[rival]
    z = float(differences.sum() / max(np.sqrt((differences**2).sum()), 1e-12))
    top = max(float(sums[best].sum()), 1e-12)
    relative = {name: float(sums[name].sum()) / top for name in ranked}
    return BvecCheck(best, float(norm.cdf(z)), z, relative)


def _pairs(
    number: NDArray, index: NDArray, step: NDArray
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of voxels and of their neighbours one step on, where both are white matter."""
    neighbour = number[tuple((index + step + 1).T)]  # numbers are padded by a voxel
    first = np.flatnonzero(neighbour >= 0)
    return first, neighbour[first]


def _coherence(
    change: Change, vectors: NDArray, weight: NDArray, pairs: list, blocks: NDArray
) -> NDArray[np.float64]:
    """Sum the agreement of neighbours under a change of the axes, for each block."""
    order, signs = change
    changed = vectors[:, order] * signs
    total = np.zeros(len(vectors))
    for first, second, step_mm in pairs:
        squared = np.square(changed @ (step_mm / np.linalg.norm(step_mm)))
        towards = squared * squared * weight
        total[first] += towards[first] * towards[second]
    return np.bincount(blocks, total).astype(np.float64)


def _label(change: Change) -> str:
    order, signs = change
    words = [f"{'xyz'[k]} flipped" for k in range(3) if signs[k] < 0]
    if order != (0, 1, 2):
        words.insert(0, "axes " + "".join("xyz"[k] for k in order))
    return ", ".join(words) or "as given"
