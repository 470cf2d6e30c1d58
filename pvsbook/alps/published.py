"""Every published estimator of the ALPS index, on the same voxels.

All are ratios of a diffusivity along the vessels to one across them and the tract, both averaged
over the projection and the association region of a side.  They differ in which directions those
are: fixed ones, ones of the two tracts, or ones of each voxel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from dipy.reconst.dti import fractional_anisotropy, linearity, planarity
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from pvsbook.alps import estimators, tensor
from pvsbook.alps.regions import RoiMeasure
from pvsbook.method import describe_columns

__all__ = ["COLUMNS", "ESTIMATORS", "published_indices"]

ESTIMATORS: Mapping[str, tuple[str, str]] = {
    "classic": ("axes of the voxels", "doi:10.1007/s11604-017-0617-z"),
    "reoriented": ("axes of the head", "doi:10.1007/s11604-022-01370-2"),
    "pas": (
        "in each voxel, whichever of the second and third eigenvector is nearer to x of the "
        "voxels (ALPS-PAS)",
        "github.com/rmoskwa/auto-DTI-ALPS",
    ),
    "tract": (
        "vessels along the cross product of the two tracts, of the mean tensors",
        "github.com/snhwang/dti-alps-refined (cross, Refined)",
    ),
    "ld": (
        "the same with each voxel's own direction, after those that stray are left out (LD-ALPS)",
        "doi:10.3390/neurosci6040101",
    ),
    "refined_plus": (
        "vessels along the mean, weighted by FA, of the directions of all voxels",
        "github.com/snhwang/dti-alps-refined (Refined+)",
    ),
    "measured": (
        "vessels along the mean second eigenvector, weighted by planarity",
        "github.com/snhwang/dti-alps-refined (measured)",
    ),
    "anatomical": (
        "vessels along x of the head, tracts as they run",
        "github.com/snhwang/dti-alps-refined (anatomical)",
    ),
    "radial": (
        "second over third eigenvalue of each voxel: no direction at all",
        "github.com/snhwang/dti-alps-refined (voxelwise)",
    ),
}
"""What each estimator takes for the direction of the vessels, and where it was described."""

COLUMNS: Mapping[str, Mapping[str, str]] = describe_columns(
    ("estimator", "name of the estimator"),
    ("left", "ALPS index, left"),
    ("right", "ALPS index, right"),
    ("mean", "ALPS index, mean of the sides"),
    ("directions", "what it takes for the direction of the vessels"),
    ("source", "where it was described, or the tool that has it"),
)
"""What each column of `published_indices` is, as BIDS writes it."""

LD_REACH = 0.5  # radians between neighbours of a cluster, as in LD-ALPS
LD_LEAST = (5, 10, 15, 20)  # directions of a cluster's core: more are asked for while it is wide
LD_WIDE = 1.0  # mean distance in radians above which a cluster is too wide
LD_OUTLYING = 3.5  # z-score of the mean distance above which a direction is left out


@dataclass(frozen=True, eq=False)
class _Region:
    """Tensors of a region's voxels, (n, 3, 3), with weights, eigenvalues and eigenvectors."""

    d: NDArray[np.float64]
    weight: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    def mean(self, values: NDArray[np.float64]) -> float:
        return float(np.average(values, weights=self.weight))

    def along(self, directions: NDArray[np.float64]) -> float:
        """Mean diffusivity along one direction, or along one of each voxel."""
        return self.mean(np.einsum("...i,...ij,...j->...", directions, self.d, directions))


def published_indices(
    rois: Sequence[RoiMeasure], *, axes: NDArray[np.float64], to_head: NDArray[np.float64]
) -> pd.DataFrame:
    """Calculate the index by every published estimator.

    Parameters
    ----------
    rois : sequence of RoiMeasure
        The four regions.
    axes : ndarray, shape (3, 3)
        Rows: the axes of the voxels, x, y and z, in the scanner.
    to_head : ndarray, shape (3, 3)
        Rows: the axes of the head.

    Returns
    -------
    pandas.DataFrame
        One row per estimator; `COLUMNS` describes the columns.  NaN where an estimator finds no
        directions, as LD-ALPS in regions of fewer than five voxels.

    Notes
    -----
    LD-ALPS interpolates the measured diffusivities between gradient directions; here the tensor
    gives them, as to all other estimators.

    References
    ----------
    Taoka et al. 2017, doi:10.1007/s11604-017-0617-z; Tatekawa et al. 2023,
    doi:10.1007/s11604-022-01370-2; Burles et al. 2025, doi:10.3390/neurosci6040101.
    """
    regions = {}
    for roi in rois:
        d = roi.fit.d_mm2_s
        regions[roi.name] = _Region(d, roi.voxels.weight, *tensor.eigen(d))
    sides = {
        side: _of_side(
            regions[f"{side}_projection"], regions[f"{side}_association"], axes, to_head
        )
        for side in ("left", "right")
    }
    rows = []
    for name, (directions, source) in ESTIMATORS.items():
        left, right = sides["left"][name], sides["right"][name]
        row = {"estimator": name, "left": left, "right": right, "mean": (left + right) / 2}
        rows.append(row | {"directions": directions, "source": source})
    return pd.DataFrame(rows)


def _of_side(
    first: _Region, second: _Region, axes: NDArray[np.float64], to_head: NDArray[np.float64]
) -> dict[str, float]:
    means = [np.average(r.d, axis=0, weights=r.weight) for r in (first, second)]
    pair = (first, second)
    tracts = [_mean_direction(r.vectors[..., 0], r.weight * linearity(r.values)) for r in pair]
    voxelwise = np.concatenate(
        [_unit(np.cross(r.vectors[..., 0], t)) for r, t in zip(pair, tracts[::-1], strict=True)]
    )
    of_voxels = np.concatenate([r.weight * fractional_anisotropy(r.values) for r in pair])
    planar = np.concatenate([r.weight * planarity(r.values) for r in pair])
    seconds = np.concatenate([r.vectors[..., 1] for r in pair])
    return {
        "classic": float(estimators.alps_in_axes(means[0], means[1], axes)),
        "reoriented": float(estimators.alps_in_axes(means[0], means[1], to_head)),
        "pas": _sorted_by_x(pair, axes[0]),
        "tract": float(estimators.alps_in_tracts(means[0], means[1])),
        "ld": _local(pair),
        "refined_plus": _with_vessels(pair, tracts, _mean_direction(voxelwise, of_voxels)),
        "measured": _with_vessels(pair, tracts, _mean_direction(seconds, planar)),
        "anatomical": _with_vessels(pair, tracts, to_head[0]),
        "radial": _ratio([(r.mean(r.values[:, 1]), r.mean(r.values[:, 2])) for r in pair]),
    }


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean diffusivity along the vessels over that across, of two regions."""
    along, across = np.sum(pairs, axis=0)
    return float(along / across)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _mean_direction(
    vectors: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean of directions whose sign is free: the first eigenvector of their outer products."""
    return np.linalg.eigh(np.einsum("n,ni,nj->ij", np.maximum(weight, 0), vectors, vectors))[1][
        :, -1
    ]


def _with_vessels(
    pair: Sequence[_Region], tracts: Sequence[NDArray[np.float64]], vessels: NDArray[np.float64]
) -> float:
    across = [_unit(np.cross(vessels, tract)) for tract in tracts]
    return _ratio([(r.along(vessels), r.along(a)) for r, a in zip(pair, across, strict=True)])


def _sorted_by_x(pair: Sequence[_Region], x: NDArray[np.float64]) -> float:
    found = []
    for region in pair:
        to_x = np.abs(np.einsum("nij,i->nj", region.vectors, x))
        is_second = to_x[:, 1] > to_x[:, 2]
        second, third = region.values[:, 1], region.values[:, 2]
        along, across = np.where(is_second, (second, third), (third, second))
        found.append((region.mean(along), region.mean(across)))
    return _ratio(found)


def _local(pair: Sequence[_Region]) -> float:
    """LD-ALPS: each voxel's direction is crossed with the most central one of the other region."""
    kept = [_consistent(region.vectors[..., 0]) for region in pair]
    if any(k is None for k in kept):
        return float("nan")
    found = []
    for region, (inside, _), (_, centre) in zip(pair, kept, kept[::-1], strict=True):  # type: ignore[misc]
        fibres = region.vectors[inside, :, 0]
        vessels = _unit(np.cross(fibres, centre))
        part = _Region(region.d[inside], region.weight[inside], *tensor.eigen(region.d[inside]))
        found.append((part.along(vessels), part.along(np.cross(fibres, vessels))))
    return _ratio(found)


def _consistent(
    fibres: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.float64]] | None:
    """Which directions belong to the first cluster, and the one nearest to all of them."""
    distance = np.arccos(np.clip(np.abs(fibres @ fibres.T), 0, 1))
    for least in LD_LEAST:
        labels = (
            DBSCAN(eps=LD_REACH, min_samples=least, metric="precomputed").fit(distance).labels_
        )
        inside = labels == 0
        if not inside.any():
            return None
        mean = distance[np.ix_(inside, inside)].mean(axis=0)
        if mean.max() <= LD_WIDE:
            break
    far = np.abs(mean - mean.mean()) > LD_OUTLYING * max(mean.std(), 1e-12)
    inside[np.flatnonzero(inside)[far]] = False
    mean = distance[np.ix_(inside, inside)].mean(axis=0)
    return inside, fibres[inside][mean.argmin()]
