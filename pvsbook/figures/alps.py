"""Pictures of ALPS results: regions on the colour map, index, and what moving the regions does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps.regions import WHITE_FA, RoiSet
from pvsbook.alps.tensor import eigen
from pvsbook.figures.style import COLORS, show_slices

if TYPE_CHECKING:
    from pvsbook.alps.pipeline import AlpsResult

__all__ = ["index_by_place", "regions_close_up", "summary"]

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


def regions_close_up(result: AlpsResult, *, zoom_mm: float = 48.0) -> Figure:
    """Draw the regions of each side enlarged in three planes, with the direction of the fibres.

    The colour map as in `summary`; a line in each voxel is the part of the principal direction
    that lies in the plane, and the outlines are the regions (white: projection, yellow:
    association).  The sagittal plane goes through the projection region.

    Parameters
    ----------
    result : AlpsResult
    zoom_mm : float
        Edge of each picture.
    """
    colour = nib.as_closest_canonical(result.colour_fa)
    labels = np.asarray(nib.as_closest_canonical(result.labels).dataobj)
    bright = np.clip(1.3 * images.array(colour), 0, 1)
    size = images.voxel_size_mm(colour)
    # tensors are in the axes of the head; lines are drawn along those of the voxels
    to_voxel = images.rotation(colour.affine).T @ result.registration.rotation.T
    figure, grid = plt.subplots(3, 2, figsize=(5.6, 8.6))
    for column, (side, numbers) in zip((1, 0), (("left", (1, 2)), ("right", (3, 4))), strict=True):
        places = [np.argwhere(labels == n) for n in numbers]
        for row, (plane, axis) in enumerate((("axial", 2), ("coronal", 1), ("sagittal", 0))):
            ax = grid[row, column]
            ax.set_axis_off()
            ax.set_title(f"{side}, {plane}")
            if not all(len(p) for p in places):
                continue
            centre = places[0].mean(axis=0) if axis == 0 else np.vstack(places).mean(axis=0)
            k = round(float(centre[axis]))
            across = [a for a in range(3) if a != axis]
            shown = np.take(bright, k, axis=axis).swapaxes(0, 1)
            ax.imshow(shown, origin="lower", aspect=float(size[across[1]] / size[across[0]]))
            for number in numbers:
                outline = np.take(labels == number, k, axis=axis).T
                if outline.any():
                    ax.contour(outline, [0.5], colors=[_LABEL_COLORS[number]], linewidths=2)
            x, y = zoom_mm / 2 / size[across]
            ax.set(
                xlim=(centre[across[0]] - x, centre[across[0]] + x),
                ylim=(centre[across[1]] - y, centre[across[1]] + y),
            )
            _draw_fibres(ax, result, to_voxel, axis, k)
            if axis != 0:
                ax.invert_xaxis()  # the person's left is on the right, as in `show_slices`
    return figure


def _draw_fibres(ax: Axes, result: AlpsResult, to_voxel: NDArray, axis: int, k: int) -> None:
    """Draw the in-plane part of the principal direction of white-matter voxels in view."""
    place = result.placement
    fa = np.take(place.fa, k, axis=axis)
    at = np.argwhere(fa >= WHITE_FA)
    (left, right), (low, high) = (sorted(limit) for limit in (ax.get_xlim(), ax.get_ylim()))
    at = at[(at[:, 0] > left) & (at[:, 0] < right) & (at[:, 1] > low) & (at[:, 1] < high)]
    if not len(at):
        return
    tensors = np.take(place.d_mm2_s, k, axis=axis)[tuple(at.T)]
    direction = eigen(tensors)[1][..., 0] @ to_voxel.T
    half = 0.45 * np.delete(direction, axis, axis=1)
    ends = list(np.stack([at - half, at + half], axis=1))
    lines = LineCollection(ends, colors="white", linewidths=1.1)
    ax.add_collection(lines)


def index_by_place(result: AlpsResult) -> Figure | None:
    """Draw the tract index against a shift of all four spheres, and against their radius.

    Steep lines say that the index depends on where exactly the regions lie.  The band is the
    95 % interval of the mean of both sides.

    Returns
    -------
    Figure or None
        None where regions were drawn by hand or could not be placed.
    """
    if result.spheres is None or not np.isfinite(result.indices["tract"]["mean"].value):
        return None
    figure, axes = plt.subplots(2, 2, figsize=(5.6, 4.8), sharey=True)
    found = result.indices["tract"]["mean"]
    steps = np.arange(-6.0, 7.0, 2.0)
    panels = [
        (f"shift {words} (mm)", steps, [(result.spheres, step * along) for step in steps])
        for words, along in zip(
            ("to the right", "to the front", "upwards"), np.eye(3), strict=True
        )
    ]
    radii = np.array([2.5, 3.0, 4.0, 5.0, 6.0, 7.0])
    spheres = [replace(result.spheres, radius_mm=float(radius)) for radius in radii]
    panels.append(("radius (mm)", radii, [(s, np.zeros(3)) for s in spheres]))
    for ax, (label, values, places) in zip(axes.flat, panels, strict=True):
        curves = [_index_or_nan(result, spheres, shift) for spheres, shift in places]
        for side, marker in (("left", "o"), ("right", "s")):
            ax.plot(values, [c[side] for c in curves], marker=marker, markersize=4, label=side)
        ax.axhspan(found.low, found.high, color=COLORS["estimate"], alpha=0.15, linewidth=0)
        ax.axvline(result.spheres.radius_mm if places[0][0] is not result.spheres else 0,
                   color=COLORS["reference"], linewidth=0.8, linestyle=":")  # fmt: skip
        ax.set_xlabel(label)
    for ax in axes[:, 0]:
        ax.set_ylabel("ALPS index (no unit)")
    axes[0, 0].legend(fontsize="small")
    return figure


def _index_or_nan(result: AlpsResult, spheres: RoiSet, shift_mm: NDArray) -> dict[str, float]:
    try:
        return result.index_at(spheres, shift_mm=shift_mm)["tract"]
    except InputError:  # the spheres left the brain
        return {"left": float("nan"), "right": float("nan")}


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
