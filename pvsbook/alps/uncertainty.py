"""How sure an ALPS index is: noise of the scan, place of the regions, and registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
from dipy.reconst.dti import from_lower_triangular
from numpy.typing import ArrayLike, NDArray

from pvsbook.alps import estimators, tensor
from pvsbook.alps.estimators import Estimate
from pvsbook.alps.regions import NAMES, Placement, RoiMeasure, RoiSet, Voxels

__all__ = ["PLACEMENT_MM", "REGISTRATION_MM", "estimate_indices"]

REGISTRATION_MM = 1.0
"""SD along each axis by which registration may shift all four regions."""
PLACEMENT_MM = 1.0
"""SD along each axis by which one region may miss its site in this person's anatomy."""
RADIUS_SHARE = 0.1
"""SD of the radius, as a share of it; the scales of an affine registration differ as much."""
N_PLACES = 80  # draws of each of the two
N_NOISE = 40  # draws by which the noise in the spread over places is found

Index = Callable[..., NDArray[np.float64]]


def frames(axes: NDArray[np.float64], to_head: NDArray[np.float64]) -> dict[str, Index]:
    """Give the index of a pair of tensors in each frame."""
    return {
        "classic": partial(estimators.alps_in_axes, axes=axes),
        "reoriented": partial(estimators.alps_in_axes, axes=to_head),
        "tract": estimators.alps_in_tracts,
    }


def estimate_indices(
    measures: Sequence[RoiMeasure],
    placement: Placement,
    rois: RoiSet | nib.Nifti1Image,
    shifts_mm: Mapping[str, ArrayLike],
    fit: Callable[[Voxels], tensor.Wls],
    *,
    axes: NDArray[np.float64],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Estimate]]:
    """Estimate the index of each side and their mean in each frame, with its interval.

    The interval holds, at 95 %, the index that these regions would give without noise at the
    places where they belong.  Three errors are drawn and added: the noise of the scan (wild
    bootstrap); the place of each region on its own, with its radius; and a shift of all four, as
    a registration makes it.  The index is measured again at each drawn place.  Noise alone makes
    it differ there too, so the share of noise, known from the bootstrap, is taken out.

    Parameters
    ----------
    measures : sequence of RoiMeasure
        The four regions.
    placement : Placement
    rois : RoiSet or Nifti1Image
        Labels drawn by hand stay where they are, so only noise is drawn; spheres that were
        placed by hand in scanner mm need no registration.
    shifts_mm : mapping of str to array_like
        Where a search moved each region.
    fit : callable
        Fits the tensors of any voxels.
    axes : ndarray, shape (3, 3)
        Rows: the axes of the voxels.
    n_bootstrap : int
    rng : numpy.random.Generator
    """
    noise = {
        m.name: np.concatenate(
            [
                m.voxels.mean(m.fit.d_mm2_s)[None],
                estimators.wild_bootstrap(m.fit, m.voxels.weight, n_bootstrap, rng),
            ]
        )
        for m in measures
    }
    indices = frames(axes, placement.registration.rotation)
    moves = _moves(rois, rng)
    start = {name: np.asarray(shifts_mm[name], float) for name in NAMES}
    spread = {
        kind: _spread([placement.place(r, _sum(start, s), coarse=True) for r, s in drawn],
                      fit, indices, rng)
        for kind, drawn in moves.items()
        if drawn
    }  # fmt: skip
    found: dict[str, dict[str, Estimate]] = {}
    for frame, index in indices.items():
        found[frame] = {}
        for side, values in by_side(index, noise).items():
            total, sd = values[1:].copy(), {"noise_sd": float(np.std(values[1:], ddof=1))}
            for kind, off in spread.items():
                total += off[frame][side][np.arange(n_bootstrap) % N_PLACES]
                sd[f"{kind}_sd"] = float(np.sqrt(np.mean(off[frame][side] ** 2)))
            whole = estimators.interval(values[0], total)
            low, high = min(whole.low, whole.value), max(whole.high, whole.value)
            found[frame][side] = replace(whole, low=low, high=high, **sd)
    return found


def _moves(rois: RoiSet | nib.Nifti1Image, rng: np.random.Generator) -> dict[str, list]:
    """Draw regions and the shift of each; the first of each kind is where they are."""
    if not isinstance(rois, RoiSet):
        return {}
    still = (rois, dict.fromkeys(NAMES, np.zeros(3)))
    own, common = [still], [still]
    for _ in range(N_PLACES):
        radius = float(np.clip(rois.radius_mm * (1 + rng.normal(0, RADIUS_SHARE)), 1, 10))
        shifts = {name: rng.normal(0, PLACEMENT_MM, 3) for name in NAMES}
        own.append((replace(rois, radius_mm=radius), shifts))
        common.append((rois, dict.fromkeys(NAMES, rng.normal(0, REGISTRATION_MM, 3))))
    return {"placement": own} | ({} if rois.space == "scanner" else {"registration": common})


def _sum(one: Mapping[str, NDArray], two: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: one[name] + two[name] for name in NAMES}


def _spread(
    places: Sequence[Mapping[str, Voxels]],
    fit: Callable[[Voxels], tensor.Wls],
    indices: Mapping[str, Index],
    rng: np.random.Generator,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """How far the index at each place lies from that at the first, noise taken out.

    By frame and side, shape (places - 1,).  A region that leaves the brain counts as where it was.
    """
    means, noisy = {}, {}
    for name in NAMES:
        regions = [place[name] if place[name].weight.sum() > 0 else places[0][name]
                   for place in places]  # fmt: skip
        index, number = np.unique(
            np.concatenate([r.index for r in regions]), axis=0, return_inverse=True
        )
        share = np.zeros((len(regions), len(index)))
        ends = np.cumsum([len(r.index) for r in regions])
        for k, (r, end) in enumerate(zip(regions, ends, strict=True)):
            share[k, number[end - len(r.index) : end]] = r.weight / r.weight.sum()
        fitted = fit(Voxels(index, np.ones(len(index)), 1.0))
        means[name] = from_lower_triangular(share @ fitted.beta[:, :6])
        effect = fitted.solver[:, :6] * fitted.residuals[:, None]
        signs = rng.integers(0, 2, (N_NOISE, *fitted.residuals.shape), dtype=np.int8) * 2.0 - 1.0
        errors = np.einsum("nkv,bnv->bnk", effect, signs, optimize=True)
        noisy[name] = means[name] + from_lower_triangular(share @ errors)
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for frame, of_tensors in indices.items():
        without, repeats = (by_side(of_tensors, d) for d in (means, noisy))
        found[frame] = {}
        for side, values in without.items():
            off = values[1:] - values[0]
            noise = repeats[side][:, 1:] - repeats[side][:, :1] - off
            kept = 1 - np.mean(noise**2) / max(np.mean(off**2), 1e-12)
            found[frame][side] = off * np.sqrt(max(kept, 0.0))
    return found


def by_side(index: Index, tensors: Mapping[str, NDArray]) -> dict[str, NDArray[np.float64]]:
    """Index of each side and their mean; tensors of the four regions, shape (..., 3, 3)."""
    sides = {
        side: index(tensors[f"{side}_projection"], tensors[f"{side}_association"])
        for side in ("left", "right")
    }
    return sides | {"mean": (sides["left"] + sides["right"]) / 2}
