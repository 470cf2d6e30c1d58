"""What casts doubt on a change between two visits: protocol, pose, sign and misfit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from pvsbook import images

if TYPE_CHECKING:
    from pvsbook.qsm.change import Alignment
    from pvsbook.qsm.pipeline import QsmResult

MIN_OVERLAP = 0.9
MAX_TILT_DEG = 12.0


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
    if one.phase_rad.shape == two.phase_rad.shape and np.array_equal(one.phase_rad, two.phase_rad):
        reasons.append("visits: both hold the same phase, so this is one scan given twice")
    return tuple(reasons)


def tilt_difference_deg(alignment: Alignment) -> float:
    """Return the angle between the fields, scanner z in both visits, as the head saw them."""
    back = alignment.first_to_second[:3, :3].T @ np.array([0.0, 0.0, 1.0])
    return float(np.degrees(np.arccos(np.clip(back[2], -1, 1))))


def compare_signs(results: tuple[QsmResult, QsmResult], alignment: Alignment) -> tuple[str, ...]:
    """Compare the maps of two visits: one brain has one contrast, whatever changed in it."""
    one, two = results
    there = np.linalg.inv(two.affine) @ alignment.first_to_second @ one.affine
    chi, inside = (
        ndimage.affine_transform(
            np.asarray(values, np.float32), there[:3, :3], there[:3, 3],
            output_shape=one.mask.shape, order=1,
        )
        for values in (two.susceptibility.chi_ppm, two.local_field.mask)
    )  # fmt: skip
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


def doubts(
    results: tuple[QsmResult, QsmResult], alignment: Alignment, tilt: float, rows: pd.DataFrame
) -> tuple[str, ...]:
    reasons = [f"{w} visit: {r}" for w, q in zip(("first", "second"), results, strict=True)
               for r in q.reasons]  # fmt: skip
    if alignment.overlap < MIN_OVERLAP:
        reasons.append(f"overlap: the aligned brains share {100 * alignment.overlap:.0f} %")
    if tilt > MAX_TILT_DEG:
        reasons.append(
            f"tilt: the head lay {tilt:.0f} degrees differently in the field; change by less than "
            "about 3 ppb may be tilt"
        )
    misfit = [float(np.percentile(r.field.residual_rad[r.mask], 95)) for r in results]
    if max(misfit) > 1.5 * min(misfit):
        reasons.append(
            f"misfit: {misfit[0]:.3f} and {misfit[1]:.3f} rad; one visit is noisier, or moved"
        )
    control = rows[rows["is_control"]]
    moved = control["change_ppb"].abs() > 3 * np.hypot(control["error_ppb"], 1.0)
    if moved.any():
        reasons.append(
            f"control: {control['region'].iloc[0]} changed by "
            f"{control['change_ppb'].abs().max():.1f} ppb"
        )
    return tuple(reasons)
