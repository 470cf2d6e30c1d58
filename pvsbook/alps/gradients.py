"""Tell from the images whether b-vectors belong to them.

Two checks complete each other.  A flip, an exchange of axes or a rotation of all b-vectors leaves
every tensor fit as good as it was, but fibres no longer line up (`check_bvecs`).  A wrong row, or
rows in another order than the volumes, leaves no tensor that fits all volumes (`check_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from pvsbook import images
from pvsbook.alps import tensor

__all__ = ["BvecCheck", "check_bvecs", "check_rows"]

Change = tuple[tuple[int, ...], tuple[int, ...]]

_CHANGES: list[Change] = [
    (order, signs)
    for order in permutations(range(3))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
]
_NEIGHBOURS = [n for n in product((-1, 0, 1), repeat=3) if n > (0, 0, 0)]
_BLOCK_MM = 16.0
_MOST_VOXELS = 6_000  # to fit one direction to; more cost time and change no degree
_HIGHER = 2.1  # times the fitted shell; beyond it noise and kurtosis decide
_KURTOSIS = 1.3e-4  # mm2/s: white matter of D = 0.8e-3 and K = 1 falls slower, by K D / 6
_MAX_LEVERAGE = 0.95  # above it the other volumes say too little of what this one should be


@dataclass(frozen=True)
class BvecCheck:
    """The change of the b-vectors under which fibres are most coherent, and how sure that is.

    Attributes
    ----------
    best : str
        ``"as given"``, or the change of the rows of the file under which fibres line up best.
    certainty : float
        Probability that `best` beats the b-vectors as given or, where they are best, the
        runner-up: from the spread of the difference over blocks of 16 mm.
    z : float
        The same as a z-score.
    coherence : mapping of str to float
        Of all 24 changes, relative to the best.
    turn_deg, turn_z, turn_gain : float
        The rotation of all b-vectors by which fibres would line up best; how sure it is that they
        do better than with the b-vectors as given, as a z-score; and by what share of the
        coherence.
    rows_deg, rows_b : mapping of int to float
        What `check_rows` found, by the number of the volume in the file; empty where it was not
        asked.
    """

    best: str
    certainty: float
    z: float
    coherence: dict[str, float]
    turn_deg: float = float("nan")
    turn_z: float = float("nan")
    turn_gain: float = float("nan")
    rows_deg: Mapping[int, float] = field(default_factory=dict)
    rows_b: Mapping[int, float] = field(default_factory=dict)

    @property
    def as_given(self) -> bool:
        """Whether no change of the b-vectors lines fibres up better."""
        return self.best == "as given"

    @property
    def row_deg(self) -> float:
        """Largest angle between a row and the direction that its volume fits; NaN if unknown."""
        return max(self.rows_deg.values(), default=float("nan"))

    @property
    def row_b(self) -> float:
        """Largest factor between a b-value and that which its volume fits; NaN if unknown."""
        return max(map(_factor, self.rows_b.values()), default=float("nan"))

    def odd_rows(self, *, deg: float = np.inf, factor: float = np.inf) -> list[int]:
        """Return the volumes that are further off than a limit, the worst first."""
        turned = [k for k, angle in self.rows_deg.items() if angle > deg]
        scaled = [k for k, ratio in self.rows_b.items() if _factor(ratio) > factor]
        turned.sort(key=lambda k: -self.rows_deg[k])
        return turned + sorted(scaled, key=lambda k: -_factor(self.rows_b[k]))

    def with_rows(
        self,
        signals: ArrayLike,
        bvals_s_mm2: ArrayLike,
        bvecs: ArrayLike,
        numbers: ArrayLike,
        *,
        fitted: ArrayLike | None = None,
    ) -> BvecCheck:
        """Add what `check_rows` finds in volumes of these numbers."""
        rows = check_rows(signals, bvals_s_mm2, bvecs, fitted=fitted)
        found = zip(np.asarray(numbers), *rows, strict=True)
        known = [(int(k), float(a), float(b)) for k, a, b in found if np.isfinite(a)]
        return replace(
            self, rows_deg={k: a for k, a, _ in known}, rows_b={k: b for k, _, b in known}
        )


def _factor(ratio: float) -> float:
    """How many times too large or too small."""
    return max(ratio, 1 / ratio) if ratio > 0 else np.inf


def check_bvecs(
    directions: ArrayLike,
    fa: ArrayLike,
    where: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    to_file: ArrayLike | None = None,
) -> BvecCheck:
    """Compare flips, permutations and rotations of the b-vectors by how fibres line up.

    A fibre that points at the next voxel should find a fibre there that points back.  Flip or
    swap an axis of the b-vectors and fibres that run obliquely lose their neighbours: at the
    walls of a tract, where its fibres meet those of others, the loss shows.  Changing the
    b-vectors changes the tensors by the same turn, so one fit serves all 24, and all rotations
    near the b-vectors as they are.  A change of sign of all three axes cannot be seen, and does
    not matter: diffusion has no sign.

    Parameters
    ----------
    directions : array_like, shape (x, y, z, 3)
        Principal directions in *voxel* axes.
    fa : array_like, shape (x, y, z)
        Weights: directions of anisotropic voxels are sure.
    where : array_like of bool, shape (x, y, z)
        White matter.
    voxel_size_mm : array_like, shape (3,)
    to_file : array_like, shape (3, 3), optional
        Takes a vector in voxel axes to the rows of the b-vector file, which the answer names
        (see `file_axes`); the same by default.

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
    'row 1 (x) with the other sign'
    """
    where, size = np.asarray(where, bool), np.asarray(voxel_size_mm, float)
    file = np.eye(3) if to_file is None else np.asarray(to_file, float)
    index = np.argwhere(where)
    number = np.pad(np.full(where.shape, -1), 1, constant_values=-1)
    number[tuple(index.T + 1)] = np.arange(len(index))
    vectors = np.asarray(directions, np.float64)[where]
    weight = np.asarray(fa, np.float64)[where]
    blocks = np.unique((index * size // _BLOCK_MM).astype(int), axis=0, return_inverse=True)[1]
    pairs = [(*_pairs(number, index, np.array(n)), np.array(n) * size) for n in _NEIGHBOURS]

    def coherence(change: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum the agreement of neighbours under a change of the axes, for each block."""
        changed = vectors @ (file.T @ change @ file).T
        total = np.zeros(len(vectors))
        for first, second, step_mm in pairs:
            squared = np.square(changed @ (step_mm / np.linalg.norm(step_mm)))
            towards = squared * squared * weight
            total[first] += towards[first] * towards[second]
        return np.bincount(blocks.ravel(), total).astype(np.float64)

    sums = {_label(c): coherence(_matrix(c)) for c in _CHANGES}
    ranked = sorted(sums, key=lambda name: -sums[name].sum())
    given = sums["as given"]
    best = "as given" if given.sum() >= sums[ranked[0]].sum() * (1 - 1e-12) else ranked[0]
    rival = next(name for name in ranked if name != best) if best == "as given" else "as given"
    z = _z(sums[best] - sums[rival])
    top = max(float(sums[best].sum()), 1e-12)
    relative = {name: float(sums[name].sum()) / top for name in ranked}
    turn = (float("nan"), float("nan"), float("nan"))
    if len(index):
        # the sign of all three axes is free, so that every change is a rotation
        change = next(_matrix(c) for c in _CHANGES if _label(c) == best)
        starts = {"as given": np.eye(3), best: change * np.linalg.det(change)}
        found = [
            minimize(
                lambda r: -coherence(Rotation.from_rotvec(r).as_matrix()).sum() / top,
                Rotation.from_matrix(start).as_rotvec(),
                method="Powell",
                options={"xtol": 0.02, "ftol": 1e-4, "maxfev": 80},
            )
            for start in starts.values()
        ]
        rotation = Rotation.from_rotvec(min(found, key=lambda f: f.fun).x)
        gain = coherence(rotation.as_matrix()) - given
        share = float(gain.sum() / max(given.sum(), 1e-12))
        turn = float(np.rad2deg(rotation.magnitude())), _z(gain), share
    return BvecCheck(best, float(norm.cdf(z)), z, relative, *turn)


def check_rows(
    signals: ArrayLike,
    bvals_s_mm2: ArrayLike,
    bvecs: ArrayLike,
    *,
    fitted: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure how far each row of the tables is from what its volume's signals fit.

    Each volume is left out in turn: the tensors of the others predict it along any direction g,
    log S = log S0 - b g'Dg, which is linear in the six products of the components of g.
    Thousands of voxels, whose fibres run in many directions, determine them; their principal
    eigenvector is the direction along which the volume was measured, and their trace is its
    b-value over that of the table.

    Parameters
    ----------
    signals : array_like, shape (voxels, volumes)
        Of white matter.
    bvals_s_mm2 : array_like, shape (volumes,)
    bvecs : array_like, shape (volumes, 3)
    fitted : array_like of bool, shape (volumes,), optional
        b=0 and the shell that the tensors are fitted to; all volumes by default.  Other shells
        are compared up to twice its b-value, allowing for the kurtosis of white matter.

    Returns
    -------
    angles_deg : ndarray, shape (volumes,)
        NaN at b=0 and where too few other volumes predict this one, as in a series of six
        directions.
    b_ratios : ndarray, shape (volumes,)
        b-value that the signals fit over that of the table; NaN likewise.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bvecs = rng.normal(size=(16, 3)) * (np.arange(16) > 0)[:, None]
    >>> bvecs /= np.maximum(np.linalg.norm(bvecs, axis=1, keepdims=True), 1e-9)
    >>> bvals = np.r_[0, np.full(15, 1000)]
    >>> fibres = rng.normal(size=(500, 3))
    >>> fibres /= np.linalg.norm(fibres, axis=1, keepdims=True)
    >>> signals = np.exp(-bvals * (4e-4 + 1.2e-3 * (fibres @ bvecs.T) ** 2))
    >>> bool(np.nanmax(check_rows(signals, bvals, bvecs)[0]) < 0.1)
    True
    >>> wrong = bvecs * np.where(np.arange(16) == 3, -1, 1)[:, None] ** [[1, 0, 0]]
    >>> int(np.nanargmax(check_rows(signals, bvals, wrong)[0]))
    3
    >>> too_low = bvals * np.where(np.arange(16) == 5, 0.5, 1)
    >>> bool(check_rows(signals, too_low, bvecs)[1][5] > 1.5)
    True
    """
    values, b = np.asarray(signals, np.float64), np.asarray(bvals_s_mm2, np.float64)
    directions = np.asarray(bvecs, np.float64)
    angles, ratios = np.full((2, len(b)), np.nan)
    values = values[:: max(1, len(values) // _MOST_VOXELS)]
    values = values[(values > 0).all(axis=1)]
    if len(values) < 6:
        return angles, ratios
    logs = np.log(values)
    use = np.ones(len(b), bool) if fitted is None else np.asarray(fitted, bool)
    design = tensor.design_matrix(b, directions)
    scale = tensor._scale(design[use])
    scaled = design * scale
    beta, _, normal = tensor._solve(scaled[use], logs[:, use])
    inverse = np.linalg.inv(normal)
    predicted = beta @ scaled.T
    residuals = logs - predicted
    weights = np.exp(predicted - predicted.max(axis=1, keepdims=True))
    shell = float(np.median(b[use & (b >= images.B0_BELOW_S_MM2)]))
    twice = np.array([1.0, 2, 1, 2, 2, 1])  # off-diagonal products count twice
    for k in np.flatnonzero((b >= images.B0_BELOW_S_MM2) & (b < _HIGHER * shell)):
        back = inverse @ scaled[k]
        leverage = use[k] * weights[:, k] ** 2 * (back @ scaled[k])
        usable = leverage < _MAX_LEVERAGE
        if usable.mean() < 0.5:
            continue
        left = use[k] * weights[usable, k] ** 2 / (1 - leverage[usable])
        without = (beta[usable] - back[usable] * (left * residuals[usable, k])[:, None]) * scale
        fall = without[:, 6] - logs[usable, k]
        products = without[:, :6] * b[k] * twice
        weight = weights[usable, k] ** 2 * (1 - leverage[usable])
        root = np.sqrt(weight)[:, None]
        found = np.linalg.lstsq(products * root, fall * root[:, 0], rcond=None)[0]
        values_k, axes = tensor.eigen(tensor.from_lower_triangular(found))
        cosine = abs(float(axes[:, 0] @ directions[k]))
        angles[k] = np.rad2deg(np.arccos(min(cosine, 1.0)))
        ratios[k] = values_k.sum() * np.exp(_KURTOSIS * (b[k] - shell))
    return angles, ratios


def file_axes(stored: ArrayLike, canonical: ArrayLike) -> NDArray[np.float64]:
    """Return the matrix from the voxel axes of an array to the rows of the file's b-vectors.

    Parameters
    ----------
    stored : array_like, shape (4, 4)
        Affine of the image as it is stored.
    canonical : array_like, shape (4, 4)
        Affine of the array, whose axes are those of the stored one in another order.

    Examples
    --------
    >>> file_axes(np.diag([-2, 2, 2, 1]), np.diag([2, 2, 2, 1])).astype(int)[0]
    array([-1,  0,  0])
    """
    axes = np.round(images.rotation(stored).T @ images.rotation(canonical))
    if np.linalg.det(images.rotation(stored)) > 0:  # FSL negates x there
        axes[0] *= -1
    return axes


def _pairs(
    number: NDArray, index: NDArray, step: NDArray
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of voxels and of their neighbours one step on, where both are white matter."""
    neighbour = number[tuple((index + step + 1).T)]  # numbers are padded by a voxel
    first = np.flatnonzero(neighbour >= 0)
    return first, neighbour[first]


def _z(differences: NDArray[np.float64]) -> float:
    """Sum over blocks as a z-score, from the spread of the blocks."""
    return float(differences.sum() / max(np.sqrt((differences**2).sum()), 1e-12))


def _matrix(change: Change) -> NDArray[np.float64]:
    order, signs = change
    return np.eye(3)[list(order)] * np.array(signs, float)[:, None]


def _label(change: Change) -> str:
    order, signs = change
    words = [f"row {k + 1} ({'xyz'[k]}) with the other sign" for k in range(3) if signs[k] < 0]
    if order != (0, 1, 2):
        words.insert(0, f"rows in the order {', '.join(str(k + 1) for k in order)}")
    return ", ".join(words) or "as given"
