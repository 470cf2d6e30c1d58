"""Figures of perivascular spaces: objects over the scan, and counts by region."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pvsbook.atlas.perivascular import REGIONS
from pvsbook.figures.style import COLORS, show_slices
from pvsbook.pvs.pipeline import PvsResult
from pvsbook.pvs.segmentation import CLASSES

__all__ = ["CLASS_COLORS", "plot_counts", "plot_objects", "summary"]

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
REGION_NAMES: Mapping[str, str] = {
    "cso": "Centrum semiovale",
    "bg": "Basal ganglia",
    "midbrain": "Midbrain",
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
    heights = _busiest_heights(result, n_slices)
    figure = show_slices(
        result.image,
        [("axial", z) for z in sorted(heights)],
        overlay=result.classes,
        colors={CLASSES[name]: color for name, color in CLASS_COLORS.items()},
        limits=_window(result),
    )
    figure.legend(
        handles=[Patch(color=CLASS_COLORS[k], label=CLASS_NAMES[k]) for k in CLASSES],
        loc="outside lower center",
        ncols=len(CLASSES),
    )
    return figure


def plot_counts(result: PvsResult, *, truth: Mapping[str, int] | None = None) -> Figure:
    """Draw the counts of each region, left beside right, with the truth where it is known.

    Parameters
    ----------
    result
        From `pvsbook.pvs.measure`.
    truth
        True counts by region name, for a phantom.

    Returns
    -------
    matplotlib.figure.Figure
    """
    row = result.to_row()
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    places = np.arange(len(REGION_NAMES))
    for offset, side, shade in ((-0.2, "left", 1.0), (0.2, "right", 0.55)):
        counts = [row[f"n_{region}_{side}"] for region in REGION_NAMES]
        ax.bar(places + offset, counts, 0.36, color=COLORS["estimate"], alpha=shade, label=side)
        if truth is not None:
            true = [truth.get(f"{region}_{side}", 0) for region in REGION_NAMES]
            ax.plot(places + offset, true, "_", color=COLORS["truth"], ms=26, mew=2)
    if truth is not None:
        ax.plot([], [], "_", color=COLORS["truth"], ms=14, mew=2, label="truth")
    ax.set_xticks(places, list(REGION_NAMES.values()))
    ax.set_ylabel("perivascular spaces")
    ax.legend()
    return figure


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
    levels = _region_heights(result)
    size = (2.2 * len(levels), 5.8)
    figure, axes = plt.subplots(2, len(levels), figsize=size, squeeze=False)
    window = _window(result)
    shades = [COLORS[k] for k in ("projection", "subcortical", "association")]
    palette = {label: shades[(label - 1) // 2] for label in REGIONS}
    show_slices(
        result.image,
        [("axial", z) for z in levels],
        overlay=result.regions,
        colors=palette,
        axes=list(axes[0]),
        limits=window,
    )
    show_slices(
        result.image,
        [("axial", z) for z in levels],
        overlay=result.classes,
        colors={CLASSES[name]: color for name, color in CLASS_COLORS.items()},
        axes=list(axes[1]),
        limits=window,
    )
    figure.legend(
        handles=[Patch(color=CLASS_COLORS[k], label=CLASS_NAMES[k]) for k in CLASSES],
        loc="outside lower center",
        ncols=len(CLASSES),
    )
    return figure


def _window(result: PvsResult) -> tuple[float, float]:
    """Grey values from nothing to three quarters of the brighter of fluid and white matter."""
    levels = result.segmentation.levels
    return (0.0, 0.75 * levels.fluid if levels.sign > 0 else 1.2 * levels.white_matter)


def _busiest_heights(result: PvsResult, n_slices: int) -> list[float]:
    found = result.objects[result.objects["class"] == "pvs"]
    if found.empty:
        return _region_heights(result)[:n_slices]
    heights = found["z_mm"].round().to_numpy()
    chosen: list[float] = []
    values, counts = np.unique(heights, return_counts=True)
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
