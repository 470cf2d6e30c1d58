"""Pictures of ALPS results: the regions on the colour map, and the index with its interval."""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["draw_indices", "draw_map", "draw_quality", "draw_regions", "summary"]

# white on blue, yellow on green: the usual colours of the tracts vanish on the colour map
_LABEL_COLORS = {n: "#FFFFFF" if n % 2 else COLORS["uncertain"] for n in (1, 2, 3, 4)}


def draw_regions(result: AlpsResult, axes: list[Axes]) -> None:
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


def draw_map(
    probability: nib.Nifti1Image,
    background: nib.Nifti1Image,
    ax: Axes,
    *,
    z_mm: float,
    levels: Sequence[float] = (0.05, 0.25, 0.5),
    margin_mm: float = 25.0,
) -> None:
    """Draw an axial slice of the colour map with contours of a probability map.

    Parameters
    ----------
    probability : Nifti1Image
        Fraction of people who cover each voxel, on the grid of the background.
    background : Nifti1Image
        Direction-coloured anisotropy, as `AlpsResult.colour_fa`.
    ax : Axes
    z_mm : float
        Which slice.
    levels : sequence of float
        Fractions to draw, each with its own line.
    margin_mm : float
        How much to show around the outermost contour.

    Examples
    --------
    >>> covered = np.zeros((40, 40, 5), np.float32)
    >>> covered[10:14, 20:24], covered[11:13, 21:23] = 0.3, 0.6
    >>> ax = plt.figure().add_subplot()
    >>> colours = images.make(np.ones((40, 40, 5, 3)), np.eye(4))
    >>> draw_map(images.make(covered, np.eye(4)), colours, ax, z_mm=2, margin_mm=5)
    >>> [text.get_text() for text in ax.get_legend().get_texts()][1]
    '25% of the drawings'
    """
    images.same_grid(probability, background, name="probability", other_name="background")
    show_slices(background, [("axial", z_mm)], axes=[ax], limits=(0, 1))
    canonical = nib.as_closest_canonical(probability)
    level_z = nib.affines.apply_affine(np.linalg.inv(canonical.affine), (0, 0, z_mm))[2]
    plane = images.array(canonical)[..., round(float(level_z))]
    styles = (":", "--", "-")[-len(levels) :]
    drawn = ax.contour(
        plane.T, levels=list(levels), colors="white", linestyles=styles, linewidths=1.4
    )
    handles = drawn.legend_elements()[0]
    names = [f"{level:.0%} of the drawings" for level in levels]
    legend = ax.legend(handles, names, loc="lower center", fontsize="small", labelcolor="white")
    legend.get_frame().set(facecolor="black", alpha=0.7)
    size = images.voxel_size_mm(canonical)
    (left, low), (right, high) = (f(np.argwhere(plane > 0), axis=0) for f in (np.min, np.max))
    ax.set_xlim(right + margin_mm / size[0], left - margin_mm / size[0])
    ax.set_ylim(low - 1.6 * margin_mm / size[1], high + margin_mm / size[1])


def draw_indices(result: AlpsResult, ax: Axes, *, truth: float | None = None) -> None:
    """Draw the index of each side in each frame with its 95 % interval.

    Parameters
    ----------
    result : AlpsResult
    ax : Axes
    truth : float, optional
        A line where the index is known, as in a phantom.
    """
    sides = ("left", "right", "mean")
    markers = dict(zip(sides, ("o", "s", "D"), strict=True))
    for place, (frame, of_side) in enumerate(result.indices.items()):
        for shift, side in zip((-0.2, 0, 0.2), sides, strict=True):
            found = of_side[side]
            ax.errorbar(
                place + shift,
                found.value,
                [[found.value - found.low], [found.high - found.value]],
                fmt=markers[side],
                color=COLORS["estimate" if frame == "tract" else "reference"],
                label=side if place == 2 else None,
                capsize=3,
            )
    if truth is not None:
        ax.axhline(truth, color=COLORS["truth"], linestyle="--", label="truth")
    ax.axhline(1, color=COLORS["reference"], linewidth=0.8)
    ax.set_xticks(range(3), list(result.indices))
    ax.set_xlabel("frame")
    ax.set_ylabel("ALPS index (no unit)")
    ax.legend(fontsize="small", ncols=2)


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
    draw_regions(result, [axes["axial"], axes["coronal"]])
    draw_indices(result, axes["index"], truth=truth)
    draw_quality(result, axes["quality"])
    return figure


def draw_quality(result: AlpsResult, ax: Axes) -> None:
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
