"""Pictures of ALPS results: the regions on the colour map, and the index with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pvsbook import images
from pvsbook.figures.style import COLORS, show_slices

if TYPE_CHECKING:
    from pvsbook.alps.pipeline import AlpsResult

__all__ = ["summary"]

# white on blue, yellow on green: the usual colours of the tracts vanish on the colour map
_LABEL_COLORS = {n: "#FFFFFF" if n % 2 else COLORS["uncertain"] for n in (1, 2, 3, 4)}


def summary(result: AlpsResult, *, truth: float | None = None) -> Figure:
    """Draw the four panels of a report: regions (two slices), index, quality.

    Parameters
    ----------
    result : AlpsResult
    truth : float, optional
        Known index of a phantom.
    """
    figure, axes = plt.subplot_mosaic(
        [["axial", "coronal"], ["index", "index"], ["quality", "quality"]],
        figsize=(7.0, 8.6),
        height_ratios=(5, 4, 3),
        layout="constrained",
    )
    _draw_regions(result, [axes["axial"], axes["coronal"]])
    _draw_indices(result, axes["index"], truth)
    _draw_quality(result, axes["quality"])
    return figure


def _draw_regions(result: AlpsResult, axes: list[Axes]) -> None:
    """Draw an axial and a coronal slice of the colour map with the regions.

    Red is left-right, green back-front, blue feet-head; projection regions are white,
    association regions yellow.
    """
    labels = np.asarray(result.labels.dataobj)
    centre = nib.affines.apply_affine(result.labels.affine, np.argwhere(labels > 0).mean(axis=0))
    bright = np.clip(1.3 * images.array(result.colour_fa), 0, 1)
    show_slices(
        images.make(bright, result.colour_fa.affine),
        [("axial", round(float(centre[2]))), ("coronal", round(float(centre[1])))],
        overlay=result.labels,
        colors=_LABEL_COLORS,
        axes=axes,
        zoom_mm=130,
    )


def _draw_indices(result: AlpsResult, ax: Axes, truth: float | None) -> None:
    """Draw the index of each side in each frame with its 95 % interval."""
    marks = ((-0.2, "left", "o"), (0, "right", "s"), (0.2, "mean", "D"))
    for position, (frame, estimates) in enumerate(result.indices.items()):
        for shift, side, marker in marks:
            index = estimates[side]
            ax.errorbar(
                position + shift,
                index.value,
                [[index.value - index.low], [index.high - index.value]],
                fmt=marker,
                color=COLORS["estimate" if frame == "tract" else "reference"],
                label=side if position == 2 else None,
                capsize=3,
            )
    if truth is not None:
        ax.axhline(truth, color=COLORS["truth"], linestyle="--", label="truth")
    ax.axhline(1, color=COLORS["reference"], linewidth=0.8)
    ax.set_xticks(range(3), list(result.indices))
    ax.set_xlabel("frame")
    ax.set_ylabel("ALPS index (no unit)")
    ax.legend(fontsize="small", ncols=2)


def _draw_quality(result: AlpsResult, ax: Axes) -> None:
    """Write the status, its reasons and the figures of each region."""
    lines = [f"status: {result.status}"]
    lines += [f"  {reason}" for reason in result.reasons[:4]] + [""]
    lines.append(f"{'region':<18}{'FA':>6}{'MD':>7}{'angle':>7}{'voxels':>8}")
    for roi in result.rois:
        lines.append(
            f"{roi.name.replace('_', ' '):<18}{roi.fa:>6.2f}{1e3 * roi.md_mm2_s:>7.2f}"
            f"{roi.angle_deg:>7.0f}{roi.n_voxels:>8.1f}"
        )
    lines += ["", "MD in 1e-3 mm2/s, angle to the expected tract in degrees"]
    lines.append(f"template correlation {result.registration.correlation:.2f}")
    lines.append(f"b-vectors: {result.bvecs.best} (z = {result.bvecs.z:.1f})")
    ax.set_axis_off()
    ax.text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=9.5, wrap=True)
