"""Visual rating of a measured scan: the published grades, from counts on one slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError
from pvsbook.pvs.pipeline import PvsResult

__all__ = ["GRADE_TEXT", "grade", "rate"]

POTTER_LIMITS = (0, 10, 20, 40)  # the largest count of grades 0 to 3
GRADE_TEXT: Mapping[int, str] = {0: "none", 1: "1-10", 2: "11-20", 3: "21-40", 4: "more than 40"}


def grade(count: ArrayLike) -> NDArray[np.int64]:
    """Return Potter's grade of counts in the centrum semiovale or the basal ganglia.

    0 none, 1 one to 10, 2 eleven to 20, 3 twenty-one to 40, 4 more than 40, on the slice and in
    the hemisphere that show most.  The midbrain has 0 and 1 only: use ``count > 0``.

    Raises
    ------
    InputError
        A negative count, NaN, or what is not a whole number: the mean of two readers has no
        grade.

    References
    ----------
    Potter et al. 2015, doi:10.1159/000375153.

    Examples
    --------
    >>> grade([0, 1, 10, 11, 20, 21, 40, 41]).tolist()
    [0, 1, 1, 2, 2, 3, 3, 4]
    """
    try:
        counts = np.asarray(count, np.float64)
    except (TypeError, ValueError):
        counts = np.array(np.nan)
    if not np.all((counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)):
        raise InputError(f"count: {count!r}; give whole numbers from 0, and no NaN")
    return np.searchsorted(POTTER_LIMITS, counts, side="left")


def rate(result: PvsResult, *, slice_mm: float | None = None) -> pd.DataFrame:
    """Rate a measured scan as a reader would: the slice and the side with most PVS.

    Parameters
    ----------
    result
        From `pvsbook.pvs.measure`.
    slice_mm
        Thickness of the slices that the reader looks at.  Thin slices cut fewer PVS each: the
        same brain has lower grades at 1 mm than at 5 mm.  Rounded to whole slices of the scan,
        which are the default.

    Returns
    -------
    pandas.DataFrame
        One row per region (``cso``, ``bg``, ``midbrain``): side, slice (index of the first slice
        of the scan), count on it, grade; the count is missing where the field of view does not
        hold the region.

    Raises
    ------
    InputError
        Slices thinner than those of the scan.
    """
    labels = np.asarray(result.labels.dataobj)
    affine = result.labels.affine
    axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
    step = float(voxel_sizes(affine)[axis])
    slice_mm = step if slice_mm is None else slice_mm
    if not 0.99 * step <= slice_mm < np.inf:
        raise InputError(f"slice_mm: {slice_mm} mm is thinner than the scan's {step:.2g} mm")
    n_together = round(slice_mm / step)
    voxels = np.argwhere(labels > 0)
    objects = result.objects.iloc[labels[tuple(voxels.T)] - 1]
    on_slice = objects.assign(slice=voxels[:, axis] // n_together, object=objects.index)
    on_slice = on_slice[on_slice["class"] == "pvs"]
    row, rows = result.to_row(), []
    for group in ("cso", "bg", "midbrain"):
        worst: dict[str, Any] = {"region": group, "side": "", "slice": -1, "count": np.nan}
        for side in ("left", "right"):
            if np.isnan(row[f"n_{group}_{side}"]):
                continue
            in_region = on_slice[on_slice["region"] == f"{group}_{side}"]
            counts = in_region.groupby("slice")["object"].nunique()
            count = counts.max() if len(counts) else 0
            if not count <= worst["count"]:  # also where no side was counted before
                first = counts.index[int(counts.argmax())] * n_together if len(counts) else -1
                worst |= {"side": side, "slice": first, "count": count}
        highest = 1 if group == "midbrain" else 4
        grades = np.minimum(grade(worst["count"]), highest) if worst["side"] else pd.NA
        rows.append(worst | {"grade": grades})
    return pd.DataFrame(rows).astype({"grade": "Int64"})
