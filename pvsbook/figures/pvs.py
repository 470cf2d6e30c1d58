"""Figures of perivascular spaces: regions and objects over the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pvsbook.atlas.perivascular import REGIONS
from pvsbook.figures.style import COLORS, show_slices
from pvsbook.pvs.objects import CLASSES
from pvsbook.pvs.pipeline import PvsResult

__all__ = ["CLASS_COLORS", "plot_objects", "summary"]

CLASS_COLORS: Mapping[str, str] = {
    "pvs": COLORS["pvs"],
    "uncertain": COLORS["uncertain"],
    "wmh_overlap": COLORS["wmh"],
    "lacune_like": COLORS["lacune"],
}
CLASS_NAMES: Mapping[str, str] = {
    "pvs": "perivascular space",
    "uncertain": "uncertain",
    "wmh_overlap": "WMH overlap",
    "lacune_like": "lacune-like",
}


def plot_objects(result: PvsResult, *, n_slices: int = 4) -> Figure:
    """Draw the axial slices that hold most objects, coloured by class.

    Parameters
    ----------
    result
        From `pvsbook.pvs.measure`.
    n_slices
        How many slices, at least 6 mm apart.

    Returns
    -------
    matplotlib.figure.Figure
    """
    heights = sorted(_busiest_heights(result, n_slices))
    _, axes = plt.subplots(1, len(heights), figsize=(2.7 * len(heights), 3.1), squeeze=False)
    return _draw_objects(result, heights, axes[0])


def summary(result: PvsResult) -> Figure:
    """Draw what to look at before the numbers are believed: regions, then objects.

    Parameters
    ----------
    result
        From `pvsbook.pvs.measure`.

    Returns
    -------
    matplotlib.figure.Figure
        Above, the regions of the atlas on the scan; below, the objects by class.
    """
    heights = _region_heights(result)
    _, axes = plt.subplots(2, len(heights), figsize=(2.2 * len(heights), 5.8), squeeze=False)
    shades = [COLORS[k] for k in ("projection", "subcortical", "association")]
    colors = {label: shades[(label - 1) // 2] for label in REGIONS}
    _draw(result, heights, axes[0], result.regions, colors)
    return _draw_objects(result, heights, axes[1])


def _draw_objects(result: PvsResult, heights: list[float], axes: Sequence[Axes]) -> Figure:
    """Draw the objects by class over axial slices, with a legend below."""
    colors = {CLASSES[name]: color for name, color in CLASS_COLORS.items()}
    figure = _draw(result, heights, axes, result.classes, colors)
    patches = [Patch(color=CLASS_COLORS[k], label=CLASS_NAMES[k]) for k in CLASSES]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(CLASSES))
    return figure


def _draw(
    result: PvsResult,
    heights: list[float],
    axes: Sequence[Axes],
    overlay: nib.Nifti1Image,
    colors: Mapping[int, str],
) -> Figure:
    """Draw labels over axial slices of the scan.

    Grey goes from nothing to three quarters of the brighter of fluid and white matter.
    """
    levels = result.segmentation.levels
    at = [("axial", z) for z in heights]
    limits = (0.0, 0.75 * levels.fluid if levels.sign > 0 else 1.2 * levels.white_matter)
    return show_slices(result.image, at, overlay=overlay, colors=colors, axes=axes, limits=limits)


def _busiest_heights(result: PvsResult, n_slices: int) -> list[float]:
    """Heights in the scanner with most objects of class pvs, at least 6 mm apart."""
    objects = result.objects[result.objects["class"] == "pvs"]
    if objects.empty:
        return _region_heights(result)[:n_slices]
    chosen: list[float] = []
    values, counts = np.unique(objects["z_mm"].round(), return_counts=True)
    for z in values[np.argsort(-counts, kind="stable")]:
        if len(chosen) < n_slices and all(abs(z - other) >= 6 for other in chosen):
            chosen.append(float(z))
    return chosen


def _region_heights(result: PvsResult) -> list[float]:
    """Heights in the scanner through midbrain, basal ganglia and centrum semiovale."""
    labels = np.asarray(result.regions.dataobj)
    heights = []
    for group, quantiles in (((5, 6), (0.5,)), ((3, 4), (0.5,)), ((1, 2), (0.25, 0.6))):
        places = np.argwhere(np.isin(labels, group))
        if len(places):
            z = nib.affines.apply_affine(result.regions.affine, places)[:, 2]
            heights += [float(np.quantile(z, q).round()) for q in quantiles]
    return heights
