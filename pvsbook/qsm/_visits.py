"""Whether two gradient echoes are two visits of one person that can be compared."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook.qsm.alignment import Alignment
from pvsbook.qsm.pipeline import QsmResult

SAME_PHASE_RAD = 0.005  # median difference of one scan in two units; noise alone is more


def one_scan(first: images.Gre, second: images.Gre) -> str:
    """Say which image two visits share, in any storage order: noise is never the same twice."""
    for what, one, two in (
        ("phase", first.phase_rad, second.phase_rad),
        ("magnitude", first.magnitude, second.magnitude),
    ):
        sums = [[_sums(echo) for echo in np.moveaxis(visit, -1, 0)] for visit in (one, two)]
        for i, j in product(range(one.shape[3]), range(two.shape[3])):
            is_same = np.allclose(sums[0][i], sums[1][j], rtol=1e-7, atol=0)
            if what == "phase" and i == j and one.shape[:3] == two.shape[:3]:
                is_same |= _differs_by_rounding(one[..., i], two[..., j])
            if is_same:
                return (
                    f"visits: echo {i + 1} of the first and echo {j + 1} of the second hold the "
                    f"same {what}, so no change can be measured; give the files of two visits"
                )
    return ""


def _sums(echo: NDArray) -> tuple[float, float, float]:
    """Sum up an image in a way that neither storage order, nor sign, nor unit changes."""
    size = np.abs(echo, dtype=np.float64)
    total = max(float(size.sum()), 1e-30)
    return echo.size, float((size**2).sum()) / total**2, float((size**3).sum()) / total**3


def _differs_by_rounding(one: NDArray, two: NDArray) -> bool:
    """Whether two phases are one in two units, from two zeros; every seventh voxel will do."""
    a, b = one.ravel()[::7], two.ravel()[::7]
    known = (a != 0) & (b != 0)
    turned = np.exp(1j * (a[known] - b[known]))
    apart = np.abs(np.angle(turned * np.conj(turned.sum())))
    return bool(known.any() and np.median(apart) < SAME_PHASE_RAD)


def compare_protocols(visits: tuple[images.Gre, images.Gre]) -> tuple[str, ...]:
    """Compare how two visits were scanned, before their values are compared."""
    one, two = visits
    reasons = []
    if abs(one.field_strength_t - two.field_strength_t) > 0.05 * one.field_strength_t:
        reasons.append(
            f"protocol: {one.field_strength_t:g} T at the first visit and "
            f"{two.field_strength_t:g} T at the second; check the sidecars"
        )
    times = one.echo_times_s, two.echo_times_s
    if times[0].shape != times[1].shape or not np.allclose(*times, rtol=0.02):
        texts = [", ".join(f"{1e3 * t:.3g}" for t in visit) for visit in times]
        reasons.append(f"protocol: echo times of {texts[0]} and {texts[1]} ms")
    sizes = one.voxel_size_mm, two.voxel_size_mm
    if not np.allclose(np.sort(sizes[0]), np.sort(sizes[1]), rtol=0.05):
        texts = [" x ".join(f"{v:.3g}" for v in size) for size in sizes]
        reasons.append(f"protocol: voxels of {texts[0]} and {texts[1]} mm")
    return tuple(reasons)


def compare_signs(results: tuple[QsmResult, QsmResult], alignment: Alignment) -> tuple[str, ...]:
    """Compare the maps of two visits: one brain has one contrast, whatever changed in it."""
    one, two = results
    there = np.linalg.inv(two.affine) @ alignment.first_to_second @ one.affine
    chi, inside = (
        ndimage.affine_transform(
            np.asarray(values, np.float32), there, output_shape=one.mask.shape, order=1
        )
        for values in (two.susceptibility.chi_ppm, two.local_field.mask)
    )
    both = one.local_field.mask & (inside > 0.99)
    if both.sum() < 100:  # a share that small is told by the overlap
        return ()
    r = float(np.corrcoef(one.susceptibility.chi_ppm[both], chi[both])[0, 1])
    if r >= 0:
        return ()
    return (
        f"sign: where one visit is bright the other is dark (correlation of the maps {r:.2f}); "
        "the phase of one has the other sign: negate it, and measure again",
    )
