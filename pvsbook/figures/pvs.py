"""Figures of perivascular spaces: regions and objects over the scan, slice by slice for a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageColor
from scipy import ndimage

from pvsbook import images
from pvsbook.atlas.perivascular import REGIONS
from pvsbook.figures.style import COLORS, show_slices
from pvsbook.pvs.objects import CLASSES, LIMITS, Rules, shortfalls
from pvsbook.pvs.pipeline import PvsResult

__all__ = ["CLASS_COLORS", "object_viewer", "plot_objects", "summary"]

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
REGION_NAMES = {"cso": "centrum semiovale", "bg": "basal ganglia", "midbrain": "midbrain"}
_PLANES = ("sagittal", "coronal", "axial")
_SIDES = (("P", "A"), ("R", "L"), ("R", "L"))  # left and right of a slice, by plane
_GREYS = 64  # noise hides finer steps, and they double the size of a page
_FINE = 4  # outlines are drawn on a grid so many times as fine, half a voxel wide
_CROP_MM = 20.0
_N_SHOWN = 10  # in each gallery


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
    at = [("axial", z) for z in heights]
    limits = (0.0, _white(result))
    return show_slices(result.image, at, overlay=overlay, colors=colors, axes=axes, limits=limits)


def _white(result: PvsResult) -> float:
    """Signal that is drawn white."""
    levels = result.segmentation.levels
    return 0.75 * levels.fluid if levels.sign > 0 else 1.2 * levels.white_matter


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


def object_viewer(result: PvsResult, *, max_bytes: int = 1_600_000) -> dict[str, Any] | None:
    """Collect the slices that hold objects, and the objects to look at first, for a page.

    Slices are axial, or those of the acquisition where these are more than 1.5 times as thick
    as a voxel is wide.

    Parameters
    ----------
    result
        From `pvsbook.pvs.measure`.
    max_bytes
        Slices are left out beyond this size of their pictures; those that show objects which no
        other slice shows are taken first.

    Returns
    -------
    dict or None
        What `pvsbook.report.html_page` takes as ``viewer``; None where there are no objects.
    """
    objects = result.objects
    if objects.empty:
        return None
    scan = nib.as_closest_canonical(result.anatomy.image)
    rules = result.segmentation.rules
    stack = _Stack.of(result)
    order = _order(stack)
    pictures: dict[int, dict[str, bytes]] = {}
    for k in order:
        pair = {
            "picture": _png(stack.plane(stack.grey, k)),
            "outlines": _outlines(stack.codes[stack.plane(stack.labels, k)]),
        }
        used = sum(len(png) for each in [pair, *pictures.values()] for png in each.values())
        if pictures and used > max_bytes:
            break
        pictures[k] = pair
    shown = sorted(pictures)
    places = {k: stack.name(k, scan.affine) for k in shown}
    slices = [
        {
            "name": places[k],
            "alt": f"{stack.view.capitalize()} slice of the scan at {places[k]}",
            "text": _by_class(stack.numbers(k), objects["class"]),
            "marks": [{"number": n, "place": stack.place(k, n)} for n in stack.numbers(k)],
            **pictures[k],
        }
        for k in shown
    ]
    left_out = ""
    if len(shown) < len(order):
        n_seen = len({n for k in shown for n in stack.numbers(k)})
        left_out = (
            f" To keep the page small, these are {len(shown)} of {len(order)} slices; "
            f"{n_seen} of {len(objects)} objects are on them."
        )
    left, right = _SIDES[stack.axis]
    return {
        "title": "Every object, slice by slice",
        "text": f"The {stack.view} slices that hold objects, at the resolution of the scan, "
        "around the regions that were searched. The number of an object is its row in the table "
        f"of objects.{left_out} {left} and {right}: "
        f"{'back and front' if left == 'P' else 'right and left'} of the person.",
        "legend": [(CLASS_NAMES[c], CLASS_COLORS[c]) for c in CLASSES],
        "sides": (left, right),
        "shape": stack.shape_mm,
        "slices": slices,
        "galleries": [
            {
                "title": title,
                "text": text,
                "items": [_item(objects, rules, n, stack, shown) for n in some],
            }
            for title, text, some in _galleries(objects, rules)
        ],
    }


@dataclass(frozen=True, eq=False)
class _Stack:
    """Slices of the box around the regions: grey values and objects in RAS order."""

    grey: NDArray[np.uint8]
    labels: NDArray[np.int32]
    codes: NDArray[np.uint8]  # class of each object, from 1
    size: NDArray[np.float64]
    axis: int  # across the slices

    @classmethod
    def of(cls, result: PvsResult) -> _Stack:
        scan = result.anatomy.image
        on_grid = images.make(result.segmentation.labels, scan.affine)
        labels = np.asarray(nib.as_closest_canonical(on_grid).dataobj).astype(np.int32)
        scan = nib.as_closest_canonical(scan)
        size = images.voxel_size_mm(scan)
        steps = np.clip(images.array(scan) / max(_white(result), 1e-12), 0, 1) * (_GREYS - 1)
        grey = np.round(np.round(steps) * (255 / (_GREYS - 1))).astype(np.uint8)
        codes = np.array([0, *(CLASSES[c] for c in result.objects["class"])], np.uint8)
        axis = int(size.argmax()) if _is_thick(size) else 2
        return cls(grey, labels, codes, size, axis)

    @property
    def view(self) -> str:
        return _PLANES[self.axis]

    @property
    def shape_mm(self) -> tuple[float, ...]:
        """Width and height of a slice."""
        return tuple(np.delete(np.array(self.grey.shape) * self.size, self.axis))

    def name(self, k: int, affine: NDArray) -> str:
        """Position of a slice in the scanner, at the middle of the box."""
        middle = (np.array(self.grey.shape) - 1) / 2
        middle[self.axis] = k
        position = round(float(apply_affine(affine, middle)[self.axis]), 2) + 0.0  # no -0
        return f"{'xyz'[self.axis]} = {position:g} mm"

    def plane(self, volume: NDArray, k: int, axis: int | None = None) -> NDArray:
        """Rows and columns of the picture of a slice, the person's left on the right."""
        axis = self.axis if axis is None else axis
        rows = np.take(volume, k, axis).T[::-1]
        return rows if axis == 0 else rows[:, ::-1]

    def numbers(self, k: int) -> list[int]:
        """Objects in a slice."""
        return [int(n) for n in np.unique(np.take(self.labels, k, self.axis)) if n]

    def place(self, k: int, number: int) -> tuple[float, float]:
        """Where an object lies in the picture of a slice, in percent from left and from top."""
        inside = self.plane(self.labels, k) == number
        row, column = (np.argwhere(inside).mean(axis=0) + 0.5) / inside.shape * 100
        return round(float(column), 1), round(float(row), 1)


def _is_thick(size: NDArray[np.float64]) -> bool:
    return bool(size.max() > 1.5 * size.min())


def _order(stack: _Stack) -> list[int]:
    """Slices that hold objects: first those that together show every object, then the fullest."""
    held = {k: set(stack.numbers(k)) for k in range(stack.grey.shape[stack.axis])}
    left = {k: numbers for k, numbers in held.items() if numbers}
    unseen = set().union(*left.values())
    order: list[int] = []
    while left:
        best = max(left, key=lambda k: (len(left[k] & unseen), len(left[k])))
        unseen -= left.pop(best)
        order.append(best)
    return order


def _by_class(numbers: Sequence[int], classes: pd.Series) -> str:
    """List the objects of a slice by class."""
    groups = {c: [str(n) for n in numbers if classes.iloc[n - 1] == c] for c in CLASSES}
    parts = [f"{CLASS_NAMES[c]} {', '.join(group)}" for c, group in groups.items() if group]
    return f"Objects: {'; '.join(parts)}."


def _png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a grey picture."""
    file = io.BytesIO()
    pil.fromarray(picture).save(file, format="png", compress_level=9)
    return file.getvalue()


def _outlines(codes: NDArray[np.uint8]) -> bytes:
    """Encode lines just outside the voxels of each class, on a finer grid; the rest is clear."""
    fine = codes.repeat(_FINE, 0).repeat(_FINE, 1)
    lines = np.where(fine > 0, 0, ndimage.maximum_filter(fine, size=_FINE + 1))
    picture = pil.fromarray(lines.astype(np.uint8), mode="P")
    colors = [(0, 0, 0), *(ImageColor.getrgb(CLASS_COLORS[c]) for c in CLASSES)]
    picture.putpalette([level for color in colors for level in color])
    file = io.BytesIO()
    picture.save(file, format="png", transparency=0, bits=4, compress_level=9)
    return file.getvalue()


def _galleries(objects: pd.DataFrame, rules: Rules) -> list[tuple[str, str, list[int]]]:
    """Title, text and objects (by number) of each gallery."""
    missing = shortfalls(objects, rules)
    counted = objects[objects["class"] == "pvs"]["repeat_probability"]
    refused = missing[objects["class"].isin(["uncertain", "lacune_like"])].max(axis=1)
    by_noise = list((counted - 0.5).abs().sort_values(kind="stable").index)
    by_rule = list(refused.sort_values(kind="stable").index)
    n_noise = max(_N_SHOWN // 2, _N_SHOWN - len(by_rule))
    chosen = by_noise[:n_noise]
    chosen += by_rule[: _N_SHOWN - len(chosen)]
    largest = objects.sort_values("volume_mm3", ascending=False, kind="stable")
    return [
        (
            "The largest perivascular spaces",
            "By volume. One that is cortex, sulcus, lesion or vessel moves the volume most.",
            [n + 1 for n in largest.index[largest["class"] == "pvs"][:_N_SHOWN]],
        ),
        (
            "The least certain objects",
            "First the perivascular spaces that new noise would most likely hide, then the "
            "objects that are not counted and missed the rules by least.",
            [n + 1 for n in chosen],
        ),
    ]


def _item(
    objects: pd.DataFrame, rules: Rules, number: int, stack: _Stack, shown: Sequence[int]
) -> dict[str, Any]:
    """Picture and numbers of one object, and the slice that shows most of it."""
    row = objects.iloc[number - 1]
    inside = stack.labels == number
    voxels = [inside.sum(axis=tuple(np.delete(range(3), axis))) for axis in range(3)]
    face = np.prod(stack.size) / stack.size  # of a voxel, across each axis
    axis = int(np.argmax([n.max() * area for n, area in zip(voxels, face, strict=True)]))
    if _is_thick(stack.size):  # in other planes a voxel is longer than most objects
        axis = stack.axis
    k = int(voxels[axis].argmax())
    seen = stack.plane(inside, k, axis)
    across = np.delete(stack.size, axis)[::-1]  # of rows, of columns
    where = np.argwhere(seen)
    middle = (where.min(axis=0) + where.max(axis=0)) // 2
    extent = max(_CROP_MM, float(((np.ptp(where, axis=0) + 1) * across).max()) + 6)
    half = np.ceil(extent / 2 / across).astype(int)
    box = tuple(slice(m, m + 2 * h + 1) for m, h in zip(middle, half, strict=True))
    margin = [(h, h) for h in half]
    on_slices = voxels[stack.axis][list(shown)]
    best = int(on_slices.argmax()) if on_slices.any() else None
    region, side = str(row["region"]).rsplit("_", 1)
    title = f"Object {number}: {CLASS_NAMES[row['class']]}"
    return {
        "title": title,
        "alt": f"{title}, {_PLANES[axis]}",
        "texts": [
            f"{REGION_NAMES[region].capitalize()}, {side}; drawn {_PLANES[axis]}, "
            f"{extent:.0f} mm wide.",
            f"Length {row['length_mm']:.1f} mm, width {row['width_mm']:.1f} mm, volume "
            f"{row['volume_mm3']:.1f} mm\u00b3 (SE {row['volume_se_mm3']:.1f}); found again under "
            f"new noise with probability {row['repeat_probability']:.2f}.",
            *_why_not(objects.iloc[[number - 1]], rules),
        ],
        "picture": _png(np.pad(stack.plane(stack.grey, k, axis), margin)[box]),
        "outlines": _outlines(np.pad(stack.codes[number] * seen, margin)[box]),
        "shape": tuple(np.round((2 * half + 1) * across, 2)[::-1]),
        "slice": best,
        "place": (0, 0) if best is None else stack.place(shown[best], number),
    }


def _why_not(one: pd.DataFrame, rules: Rules) -> list[str]:
    """Say why an object is not counted, in a sentence; nothing of one that is."""
    kind = one["class"].item()
    if kind == "pvs":
        return []
    missing = shortfalls(one, rules).iloc[0]
    reasons = ["in a lesion, or bright on FLAIR"] if kind == "wmh_overlap" else []
    for column in missing.index[missing > 0]:
        limit, is_upper = LIMITS[column]
        unit = " mm" if column.endswith("_mm") else ""
        reasons.append(
            f"{column.removesuffix('_mm')} {one[column].item():.2f}{unit}, "
            f"{'above' if is_upper else 'below'} {getattr(rules, limit):g}{unit}"
        )
    faint = "no clearer than objects of the opposite contrast"
    return [f"Not counted: {'; '.join(reasons or [faint])}."]
