"""Pictures of ALPS results: the regions on the colour map, and the index with its interval."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import tensor
from pvsbook.alps.regions import SPHERES_5_MM
from pvsbook.figures.style import COLORS, show_slices

if TYPE_CHECKING:
    from pvsbook.alps.pipeline import AlpsResult

__all__ = ["summary"]

# white on blue, yellow on green: the usual colours of the tracts vanish on the colour map
_LABEL_COLORS = {n: "#FFFFFF" if n % 2 else COLORS["uncertain"] for n in (1, 2, 3, 4)}


def summary(result: AlpsResult, *, truth: float | None = None) -> Figure:
    """Draw the panels of a report: regions in three planes, index, other places, quality.

    Parameters
    ----------
    result : AlpsResult
    truth : float, optional
        Known index of a phantom.
    """
    figure, axes = plt.subplot_mosaic(
        [
            ["axial", "axial", "coronal", "coronal", "sagittal", "sagittal"],
            ["index"] * 6,
            [*["radius"] * 3, *["shift"] * 3],
            ["quality"] * 6,
        ],
        figsize=(8.4, 11.5),
        height_ratios=(5, 4, 3.4, 3.4),
        layout="constrained",
    )
    _draw_regions(result, {plane: axes[plane] for plane in ("axial", "coronal", "sagittal")})
    _draw_indices(result, axes["index"], truth)
    _draw_places(result, axes["radius"], axes["shift"])
    _draw_quality(result, axes["quality"])
    return figure


def _draw_regions(result: AlpsResult, axes: dict[str, Axes]) -> None:
    """Outline the regions on the colour map, enlarged, with the direction of the fibres.

    Red is left-right, green back-front, blue feet-head; projection regions are white,
    association regions yellow.  Outlines are seen through the slice; the sagittal one
    is that of the left projection region.
    """
    labels = np.asarray(nib.as_closest_canonical(result.labels).dataobj)
    place = result.placement
    middle = np.argwhere(labels > 0).mean(axis=0)
    left = np.argwhere(labels == 1) if (labels == 1).any() else np.argwhere(labels > 0)
    middle_mm, left_mm = (
        nib.affines.apply_affine(place.affine, voxel) for voxel in (middle, left.mean(axis=0))
    )
    positions = {"axial": middle_mm[2], "coronal": middle_mm[1], "sagittal": left_mm[0]}
    bright = images.make(np.clip(1.3 * images.array(result.colour_fa), 0, 1), result.fa.affine)
    size = images.voxel_size_mm(result.labels)
    for (plane, ax), axis in zip(axes.items(), (2, 1, 0), strict=True):
        position = round(float(positions[plane]))
        show_slices(bright, [(plane, position)], axes=[ax])
        at = nib.affines.apply_affine(np.linalg.inv(place.affine), np.where(
            np.arange(3) == axis, position, middle_mm))  # fmt: skip
        index = int(np.clip(round(at[axis]), 0, labels.shape[axis] - 1))
        across = [k for k in range(3) if k != axis]
        shown = labels if axis else np.where(labels == 1, 1, 0)
        flat = shown.max(axis=axis).T  # a tilted head has no slice through all four
        for number, color in _LABEL_COLORS.items():
            if (flat == number).any():
                ax.contour(flat == number, levels=[0.5], colors=[color], linewidths=1.2)
        centre = (left.mean(axis=0) if plane == "sagittal" else middle)[across]
        half = (55 if plane != "sagittal" else 30) / size[across]
        _draw_directions(result, ax, axis, index)
        low, high = centre - half, centre + half
        ax.set(xlim=(high[0], low[0]) if axis else (low[0], high[0]), ylim=(low[1], high[1]))


def _draw_directions(result: AlpsResult, ax: Axes, axis: int, index: int) -> None:
    """Draw a line along the fibres of each voxel of white matter, in the plane of a slice."""
    place = result.placement
    tensors, fa = (np.take(x, index, axis=axis) for x in (place.d_mm2_s, place.fa))
    rows, columns = np.nonzero(fa > 0.2)
    to_voxels = images.rotation(place.affine).T @ place.registration.rotation.T
    fibres = tensor.eigen(tensors[rows, columns])[1][..., 0] @ to_voxels.T
    u, v = (np.delete(fibres, axis, axis=1) * 0.8).T
    ax.quiver(
        rows, columns, u, v, angles="xy", scale_units="xy", scale=1, pivot="mid",
        headwidth=0, headlength=0, headaxislength=0, width=0.003, color="w", alpha=0.55,
    )  # fmt: skip


def _draw_places(result: AlpsResult, by_radius: Axes, by_shift: Axes) -> None:
    """Draw the tract index by radius and by shift of the spheres at the MNI sites."""
    index = result.indices["tract"]["mean"]
    for ax in (by_radius, by_shift):
        ax.axhspan(index.low, index.high, color="k", alpha=0.1, linewidth=0)
    if np.isfinite(index.value):
        radii = np.array([2.5, 3, 3.5, 4, 4.5, 5, 6])
        at = [result.index_at(replace(SPHERES_5_MM, radius_mm=r))["tract"]["mean"] for r in radii]
        by_radius.plot(radii, at, "D-", color=COLORS["estimate"], markersize=4)
        steps = np.arange(-4, 5, 2)
        looks = (("left-right", "o"), ("back-front", "s"), ("feet-head", "^"))
        for direction, (words, marker) in zip(np.eye(3), looks, strict=True):
            moved = [_index_at(result, step * direction) for step in steps]
            by_shift.plot(steps, moved, marker=marker, markersize=4, label=words)
        by_shift.legend(fontsize="x-small")
    by_radius.set(xlabel="radius of the spheres (mm)", ylabel="ALPS index, tract")
    by_shift.set(xlabel="shift of all spheres (mm); grey: 95 % interval")


def _index_at(result: AlpsResult, shift_mm: NDArray[np.float64]) -> float:
    try:
        return result.index_at(shift_mm=shift_mm)["tract"]["mean"]
    except InputError:  # out of the slab
        return float("nan")


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
