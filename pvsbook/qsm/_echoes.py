"""Whether the echoes of a scan fit together: one moved, one with the other sign."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook.qsm.unwrap import wrap

SIDE_VOXELS = 80  # of the box in the middle of the mask that is looked at
RIM_VOXELS = 3
MIN_VOXELS = 5000
# Correlation of the fine structure (second differences) of echoes that follow each other, as
# ``benchmarks/qsm_inputs.py echoes`` prints it.  Where one is moved or negated the figures change
# places or sign.
GAIN = 0.02
OPPOSITE = -0.05
SURE = 5.0  # standard errors that noise gives a correlation
# Voxels per independent one: sum of the squared autocorrelation of a Laplacian of white noise.
SHARED = 2682 / 1764
STEPS = [
    (0, 0, 0),
    *[tuple(s * n for n in axis) for axis in np.eye(3, dtype=int) for s in (1, -1)],
]


def odd_echo(gre: images.Gre, inside: NDArray[np.bool_]) -> str:
    """Say which echoes do not lie on each other, or have opposite phase; empty where all agree.

    The fine structure of an image is that of the tissue, in every echo: what the coil and the
    background add is smooth.

    Parameters
    ----------
    gre
        Scan.
    inside
        Mask of the brain, shape (x, y, z).
    """
    for what, echo, still, moved, error in agreement(gre, inside):
        if moved > max(still, 0) + max(GAIN, SURE * error):
            return f"the {what} of echo {echo + 1} fits that of echo {echo} when moved by a voxel"
        if what == "phase" and still < min(OPPOSITE, -SURE * error):
            return f"the phase of echo {echo + 1} has the other sign than that of echo {echo}"
    return ""


def agreement(
    gre: images.Gre, inside: NDArray[np.bool_]
) -> Iterator[tuple[str, int, float, float, float]]:
    """Yield image, echo, and how it correlates with the next one: in place, and best if moved.

    The last is the standard error that noise alone gives these correlations.
    """
    core = ndimage.binary_erosion(inside, iterations=RIM_VOXELS)
    if core.sum() < MIN_VOXELS:
        return
    centre = [int(np.median(along)) for along in np.nonzero(core)]
    box = tuple(slice(max(c - SIDE_VOXELS // 2, 0), c + SIDE_VOXELS // 2) for c in centre)
    core = core[box]
    error = float(np.sqrt(SHARED / max(core.sum(), 1)))
    for what, series in (("magnitude", gre.magnitude), ("phase", gre.phase_rad)):
        fine = [
            _fine_structure(series[box][..., e], core, is_phase=what == "phase")
            for e in range(series.shape[3])
        ]
        for e in range(1, len(fine)):
            still, *moved = (
                float(
                    np.corrcoef(fine[e - 1][core], np.roll(fine[e], step, (0, 1, 2))[core])[0, 1]
                )
                for step in STEPS
            )
            yield what, e, still, max(moved), error


def _fine_structure(
    volume: NDArray[np.float32], core: NDArray[np.bool_], *, is_phase: bool
) -> NDArray[np.float32]:
    """Add up the second differences along the axes, without the largest and smallest hundredth."""
    total = np.zeros(volume.shape, np.float32)
    for axis in range(3):
        step = np.diff(volume, axis=axis)
        bend = np.diff(wrap(step) if is_phase else step, axis=axis)
        inner = [slice(1, -1) if a == axis else slice(None) for a in range(3)]
        total[tuple(inner)] += wrap(bend) if is_phase else bend
    return np.clip(total, *np.quantile(total[core], (0.01, 0.99)))
