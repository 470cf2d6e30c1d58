"""Check the b-vectors: with right ones, fibres line up with those of neighbouring voxels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

__all__ = ["BvecCheck", "check_bvecs"]

Change = tuple[tuple[int, ...], tuple[int, ...]]

_CHANGES: list[Change] = [
    (order, signs)
    for order in permutations(range(3))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
]
_NEIGHBOURS = [n for n in product((-1, 0, 1), repeat=3) if n > (0, 0, 0)]
_BLOCK_MM = 16.0


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
