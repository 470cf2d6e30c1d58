"""The objects of a segmentation: their shape, content and place, and the class of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import cc3d
import edt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook._errors import InputError
from pvsbook.atlas import perivascular
from pvsbook.method import describe_columns
from pvsbook.pvs.anatomy import MIN_DEPTH_MM, Levels, PvsAnatomy
from pvsbook.pvs.morphometry import COLUMNS as MORPHOMETRY
from pvsbook.pvs.morphometry import measure_centrelines, measure_ventricle_distance

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

__all__ = ["CLASSES", "Rules"]

_RING_MM = 4.0  # tissue around an object that its background is measured in
_LACUNE_MM = 3.0  # smaller ones are not called lacune-like
ROUND_MM3 = 15.0  # and not slender: a lesion rather than a space
_MIN_RING = 30  # voxels of it; with fewer, the smooth background stands

_SCALED = ("min_contrast", "min_depth_mm", "min_length_mm", "min_elongation")

CLASSES: Mapping[str, int] = {"pvs": 1, "uncertain": 2, "wmh_overlap": 3, "lacune_like": 4}
# The rule that limits each column, and whether from above.
LIMITS: Mapping[str, tuple[str, bool]] = {
    "depth_mm": ("min_depth_mm", False),
    "width_mm": ("max_width_mm", True),
    "elongation": ("min_elongation", False),
    "length_mm": ("min_length_mm", False),
    "contrast": ("min_contrast", False),
}


@dataclass(frozen=True)
class Rules:
    """What makes an object a perivascular space.

    Attributes
    ----------
    expected_false
        False objects a scan that noise alone may make; lower it for fewer and larger objects.
    min_contrast
        The threshold is at least the response to a tube that stands out by this fraction of the
        contrast of fluid.  On fine or quiet scans noise alone would allow far fainter ones, and
        these are texture and strands of grey matter.  The default is where noise puts the
        threshold of a 1 mm scan with a signal-to-noise ratio of 20.  An object that nowhere
        stands out by as much is *uncertain*.
    low_to_high
        Hysteresis: an object grows from its seed down to this fraction of the seed's threshold.
    min_length_mm, min_elongation, max_width_mm
        Shape of a tube.  Shorter or rounder objects are *uncertain*, wider ones *lacune-like*
        when they are as bright as fluid, else *uncertain*.
    blob_mm
        Bright structures that hold a ball of this diameter are taken whole, so that their rims
        are not counted as tubes.
    fluid_like
        Fraction of the contrast of fluid above which a wide object is *lacune-like*.
    space_contrast
        Contrast of the fluid in perivascular spaces, as a fraction of that in the ventricles.
        Volumes are divided by it: 1 gives the volume of ventricle-like fluid, which is too little
        where spaces are fainter.  Set it where it is known, from wide spaces or thinner slices.
    min_depth_mm
        Depth in white matter or a deep nucleus that half of an object must have: what lies
        against cortex, sulci or ventricles is *uncertain*.
    """

    expected_false: float = 1.0
    min_contrast: float = 0.11
    low_to_high: float = 0.4
    min_length_mm: float = 2.5
    min_elongation: float = 1.6
    max_width_mm: float = 3.0
    blob_mm: float = 3.6
    fluid_like: float = 0.6
    space_contrast: float = 1.0
    min_depth_mm: float = MIN_DEPTH_MM

    def scaled(self, by: float) -> Rules:
        """Return rules of contrast, depth and shape that ask for so many times as much."""
        changed = {name: getattr(self, name) * by for name in _SCALED}
        return replace(self, **changed, max_width_mm=self.max_width_mm / by)

    def __post_init__(self) -> None:
        """Refuse a rule that no object, or every object, would meet."""
        for name, value in vars(self).items():
            least = 0.0 if name in ("expected_false", "min_length_mm", "blob_mm") else 1e-6
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and least <= value < np.inf):
                raise InputError(f"rules: {name} is {value!r}; give a number above 0")


def describe(
    labels: NDArray[np.int32],
    excess: Floats,
    response: Floats,
    *,
    anatomy: PvsAnatomy,
    levels: Levels,
    depth_mm: Floats,
    searched: Mask,
    lesions: Mask,
    rules: Rules,
) -> pd.DataFrame:
    """Measure class, shape, content and place of each object.

    Parameters
    ----------
    labels
        Objects 1..n, shape (x, y, z).
    excess, response
        Signal above the background, of the contrast that is searched, and its vesselness.
    anatomy, levels
        Of the scan.
    depth_mm
        Distance to cortex, sulci or ventricles.
    searched
        Tissue of the regions without the rim of these.
    lesions
        White-matter hyperintensities with their rim: objects in them are *WMH overlap*.
    rules
        What makes an object a perivascular space.

    Returns
    -------
    pandas.DataFrame
        One row per object.
    """
    size = anatomy.voxel_size_mm
    voxel_mm3 = float(np.prod(size))
    fluid = levels.fluid_contrast
    table = measure_centrelines(labels, excess, anatomy.image.affine)
    count = len(table)

    def total(where: NDArray, values: NDArray | None = None) -> NDArray:
        """Voxels of each object, or the sum of their values."""
        return np.bincount(where.ravel(), values, count + 1)[1:]

    voxels, grown = total(labels), dilate(labels)
    filled = total(grown)
    around, n_around = _tissue_around(grown, excess, searched, size)
    content = total(grown, np.maximum(excess, -fluid).ravel()) - filled * around
    table["volume_voxels_mm3"] = voxels * voxel_mm3
    per_unit = voxel_mm3 / (fluid * rules.space_contrast)
    table["volume_mm3"] = np.maximum(content, 0) * per_unit
    table["width_mm"] = np.sqrt(
        4 / np.pi * table["volume_mm3"] / np.maximum(table["length_mm"], size.min())
    )
    table["volume_se_mm3"] = per_unit * _volume_error(filled, n_around, levels)
    numbers = np.arange(1, count + 1)
    table["contrast"] = np.float32(ndimage.maximum(excess, labels, numbers)) / fluid
    table["response"] = np.float32(ndimage.maximum(response, labels, numbers))
    table["depth_mm"] = np.float32(ndimage.median(depth_mm, labels, numbers))
    ventricles = anatomy.ventricles > 0.5
    place = measure_ventricle_distance(table, ventricles, anatomy.image.affine)
    table = pd.concat([table, place], axis=1)
    table["region"] = _regions_of(labels, anatomy.regions, count)
    table.insert(0, "class", classify(table, total(labels[lesions]) > 0, rules))
    return table


def components(mask: Mask, connectivity: Literal[6, 26] = 26) -> NDArray[np.int32]:
    """Label the connected parts of a mask from 1."""
    return np.asarray(cc3d.connected_components(mask, connectivity=connectivity), np.int32)


def hysteresis(response: Floats, high: float, low_to_high: float) -> Mask:
    """Return the components above the low threshold that reach the high one."""
    labels = components(response > low_to_high * high)
    seeded = np.zeros(int(labels.max()) + 1, bool)
    seeded[labels[response > high]] = True
    seeded[0] = False
    return seeded[labels]


def _tissue_around(
    grown: NDArray[np.int32], excess: Floats, tissue: Mask, size: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Median excess of the tissue around each object, and over how many voxels.

    The smooth background of the scan mixes white matter with what lies some millimetres away;
    over an object of a hundred voxels, one per cent of it is as much as a faint space.
    """
    count = int(grown.max(initial=0))
    medians, voxels = np.zeros(count), np.zeros(count, np.int64)
    margin = np.ceil(_RING_MM / size).astype(int)
    for n, bounds in enumerate(ndimage.find_objects(grown)):
        if bounds is None:
            continue
        box = tuple(
            slice(max(0, s.start - m), s.stop + m) for s, m in zip(bounds, margin, strict=True)
        )
        near = edt.edt(grown[box] != n + 1, anisotropy=tuple(size)) <= _RING_MM
        sample = excess[box][near & (grown[box] == 0) & tissue[box]]
        voxels[n] = sample.size
        if sample.size >= _MIN_RING:
            medians[n] = np.median(sample)
    return medians, voxels


def _volume_error(filled: NDArray, around: NDArray, levels: Levels) -> NDArray[np.float64]:
    """Return the standard error that noise gives a sum over so many voxels less its background.

    The variance of a median is pi / 2 times that of a mean.
    """
    together = float(np.prod([1 + 2 * r for r in levels.noise_correlation]))
    background = np.where(around >= _MIN_RING, np.pi / 2 * filled**2 / np.maximum(around, 1), 0)
    return levels.noise_sd * np.sqrt(together * (filled + background))


def dilate(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Label the 26 neighbours of each object like the object; objects keep their voxels."""
    grown = ndimage.maximum_filter(labels, size=3)
    return np.where(labels > 0, labels, grown)


def _regions_of(labels: NDArray, regions: NDArray, count: int) -> list[str]:
    """Region that holds most of each object."""
    both = np.bincount((7 * labels + regions).ravel(), minlength=7 * (count + 1)).reshape(-1, 7)
    return [perivascular.REGIONS[int(k)] for k in 1 + both[1:, 1:].argmax(axis=1)]


def shortfalls(objects: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Tell by how much objects break each rule: 0 where it is met, .1 for a tenth of its limit.

    Parameters
    ----------
    objects
        Columns named in `LIMITS`; rules on other columns are left out.
    rules
        What makes an object a perivascular space.

    Returns
    -------
    pandas.DataFrame
        One row per object, one column per rule.
    """
    missing = {}
    for column, (limit, is_upper) in LIMITS.items():
        if column in objects:
            ratio = objects[column] / max(getattr(rules, limit), 1e-9)
            missing[column] = (ratio - 1 if is_upper else 1 - ratio).clip(lower=0).fillna(np.inf)
    return pd.DataFrame(missing)


def is_elongated(shapes: pd.DataFrame, rules: Rules) -> pd.Series:
    """Tell which objects are as long and as slender as the rules ask for."""
    return ~shortfalls(shapes[["length_mm", "elongation"]], rules).any(axis=1)


def is_round(objects: pd.DataFrame) -> pd.Series:
    """Tell which objects look like lesions: deep in white matter, bright, not slender."""
    is_deep = objects["depth_mm"] >= Rules.min_depth_mm
    is_bright = objects["contrast"] >= Rules.min_contrast
    is_wide = objects["volume_voxels_mm3"] >= ROUND_MM3
    is_stout = objects["elongation"] < Rules.min_elongation
    return is_deep & is_bright & is_wide & is_stout & (objects["class"] != "wmh_overlap")


def classify(
    objects: pd.DataFrame, is_lesion: NDArray[np.bool_], rules: Rules
) -> NDArray[np.str_]:
    """Return the class of each object (see `CLASSES`)."""
    tube = ~shortfalls(objects, rules).any(axis=1)
    clear = objects["depth_mm"] >= rules.min_depth_mm
    fluid_like = objects["contrast"] >= rules.fluid_like
    lacune = clear & fluid_like & (objects["length_mm"] >= _LACUNE_MM)
    return np.select([is_lesion, tube, lacune], ["wmh_overlap", "pvs", "lacune_like"], "uncertain")


OBJECT_COLUMNS: Mapping[str, Mapping[str, str]] = describe_columns(
    ("class", "pvs, uncertain, wmh_overlap or lacune_like"),
    ("region", "Region that holds most of the object"),
    *MORPHOMETRY.items(),
    ("width_mm", "Diameter of the cylinder with this volume and length"),
    ("ventricle_distance_mm", "Distance of the centre from the ventricles"),
    ("ventricle_angle_deg", "Angle to the shortest way to the ventricles; 0 is radial"),
    ("volume_se_mm3", "Standard error that noise gives volume_mm3"),
    ("volume_mm3", "Volume corrected for partial volume"),
    ("volume_voxels_mm3", "Volume, voxels counted"),
    ("contrast", "Largest contrast, as a fraction of that of fluid"),
    ("response", "Largest vesselness"),
    ("repeat_probability", "Probability that it is found again under new noise"),
    ("depth_mm", "Median distance to cortex, sulci or ventricles"),
    ("excess_t2", "Median on T2w less that of white matter 2 to 8 mm away, in its robust SD"),
    ("excess_t1", "The same on T1w; n/a where it is not there"),
    ("excess_flair", "The same on FLAIR; above 1.5 the object is a lesion (wmh_overlap)"),
    ("n_csf_like", "Contrasts on which it looks like CSF, by 1.5 SD"),
)
