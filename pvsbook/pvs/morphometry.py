"""Shape of tube-like objects: length along the centreline, width, direction, and their place."""

from __future__ import annotations

import edt
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook._errors import InputError

__all__ = ["COLUMNS", "measure_centrelines", "measure_spread", "measure_ventricle_distance"]

_DIRECTION = ["direction_x", "direction_y", "direction_z"]
_CENTRE = ["x_mm", "y_mm", "z_mm"]

COLUMNS = {
    "length_mm": "Length along the centreline",
    "tortuosity": "Length along the centreline over the distance between its ends",
    "elongation": "Ratio of the longest to the second spread",
    **{f"direction_{a}": f"Unit vector along the object in the scanner, {a}" for a in "xyz"},
    **{f"{a}_mm": f"Centre in the scanner, {a}" for a in "xyz"},
}


def measure_spread(
    labels: NDArray[np.int32], weight: ArrayLike, affine: ArrayLike
) -> pd.DataFrame:
    """Measure length, direction, elongation and centre of objects from their second moments.

    A straight rod of length L has a variance of L^2 / 12 along its axis; the voxel's own is taken
    off.  This is fast and exact for straight objects; `measure_centrelines` follows bends.

    Parameters
    ----------
    labels
        Objects 1..n, shape (x, y, z).
    weight
        How much of each voxel belongs to the object, any unit, shape (x, y, z).
    affine
        Voxel index to scanner mm, 4 x 4.

    Returns
    -------
    pandas.DataFrame
        One row per object.

    Examples
    --------
    >>> labels = np.zeros((20, 5, 5), np.int32)
    >>> labels[4:14, 2, 2] = 1
    >>> measure_spread(labels, labels, np.eye(4))["length_mm"].round(2).tolist()
    [9.95]
    """
    matrix = np.asarray(affine, np.float64)
    voxels = np.argwhere(labels)
    number = labels[tuple(voxels.T)] - 1
    count = int(labels.max(initial=0))
    weights = np.maximum(np.asarray(weight)[tuple(voxels.T)], 1e-9).astype(np.float64)
    points = voxels @ matrix[:3, :3].T
    total = np.bincount(number, weights, count)
    centre = (
        np.stack([np.bincount(number, weights * p, count) for p in points.T], 1) / total[:, None]
    )
    offsets = points - centre[number]
    products = [np.bincount(number, weights * a * b, count) for a in offsets.T for b in offsets.T]
    moments = (np.array(products) / total).T.reshape(count, 3, 3)
    values, vectors = np.linalg.eigh(moments)
    voxel_variance = float(np.mean(voxel_sizes(matrix) ** 2)) / 12
    spread = np.maximum(values, 0) + voxel_variance
    return pd.DataFrame(
        {
            "length_mm": np.sqrt(12 * np.maximum(values[:, 2], 0)),
            "elongation": np.sqrt(spread[:, 2] / spread[:, 1]),
            **dict(zip(_DIRECTION, vectors[:, :, 2].T, strict=True)),
            **dict(zip(_CENTRE, (centre + matrix[:3, 3]).T, strict=True)),
        }
    )


def measure_centrelines(
    labels: NDArray[np.int32], weight: ArrayLike, affine: ArrayLike
) -> pd.DataFrame:
    """Measure objects along a smooth centreline: a parabola through the weighted voxels.

    The parabola runs in the longest direction of the object and bends across it.  Its ends lie
    where a rod of the same weighted variance would end, so that a part-filled last voxel counts
    for its part.  Objects that branch or turn back are too much for a parabola; their `tortuosity`
    is too small.

    Parameters
    ----------
    labels, weight, affine
        As in `measure_spread`.

    Returns
    -------
    pandas.DataFrame
        One row per object, with the columns of `COLUMNS`.

    Examples
    --------
    >>> angle = np.linspace(0, 1, 200)
    >>> points = np.round(20 * np.c_[np.sin(angle), 1 - np.cos(angle)] + 5).astype(int)
    >>> labels = np.zeros((30, 20, 9), np.int32)
    >>> labels[points[:, 0], points[:, 1], 4] = 1
    >>> found = measure_centrelines(labels, labels, np.eye(4)).iloc[0]
    >>> bool(abs(found["length_mm"] - 20) < 1.2), bool(found["tortuosity"] > 1.02)
    (True, True)
    """
    table = measure_spread(labels, weight, affine)
    matrix = np.asarray(affine, np.float64)
    table.insert(1, "tortuosity", 1.0)
    lengths = table["length_mm"].to_numpy(np.float64, copy=True)
    for n, box in enumerate(ndimage.find_objects(labels)):
        inside = labels[box] == n + 1
        voxels = np.argwhere(inside)
        if len(voxels) < 4:
            continue
        weights = np.maximum(np.asarray(weight)[box][inside], 1e-9).astype(np.float64)
        corner = np.array([s.start for s in box])
        points = (voxels + corner) @ matrix[:3, :3].T + matrix[:3, 3]
        axis = table.loc[n, _DIRECTION].to_numpy(float)
        offsets = points - table.loc[n, _CENTRE].to_numpy(float)
        along = offsets @ axis
        half = 0.5 * float(lengths[n])
        if half < voxel_sizes(matrix).max():
            continue
        parabola = polynomial.polyfit(along, offsets, 2, w=np.sqrt(weights))
        line = polynomial.polyval(np.linspace(-half, half, 41), parabola).T
        length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        chord = float(np.linalg.norm(line[-1] - line[0]))
        table.loc[n, "length_mm"] = length
        table.loc[n, "tortuosity"] = length / chord
        table.loc[n, _DIRECTION] = (line[-1] - line[0]) / chord
    return table


def measure_ventricle_distance(
    table: pd.DataFrame, ventricles: NDArray[np.bool_], affine: ArrayLike
) -> pd.DataFrame:
    """Measure how far objects lie from the ventricles, and how far they are from radial.

    Parameters
    ----------
    table
        Objects, with centres and directions as `measure_centrelines` gives them.
    ventricles
        Mask, shape (x, y, z).
    affine
        Voxel index to scanner mm, 4 x 4.

    Returns
    -------
    pandas.DataFrame
        ``ventricle_distance_mm`` of the centre, and ``ventricle_angle_deg`` between the object
        and the shortest way to the ventricles: 0 is radial, 90 along the wall.

    Raises
    ------
    InputError
        The mask is empty.

    Examples
    --------
    >>> mask = np.zeros((20, 9, 9), bool)
    >>> mask[:4] = True
    >>> rod = pd.DataFrame({"x_mm": [12.0], "y_mm": [4.0], "z_mm": [4.0],
    ...                     "direction_x": [1.0], "direction_y": [0.0], "direction_z": [0.0]})
    >>> measure_ventricle_distance(rod, mask, np.eye(4)).round(1).values.tolist()
    [[9.0, 0.0]]
    """
    if not ventricles.any():
        raise InputError("ventricles: the mask is empty; give the ventricles of this scan")
    matrix = np.asarray(affine, np.float64)
    size = voxel_sizes(matrix)
    distance = edt.edt(~ventricles, anisotropy=tuple(size))
    centres = table[_CENTRE].to_numpy(float)
    voxels = np.linalg.solve(matrix[:3, :3], (centres - matrix[:3, 3]).T)
    smooth = ndimage.gaussian_filter(distance, 1.5 / size)
    slopes = [
        ndimage.map_coordinates(slope, voxels, order=1, mode="nearest")
        for slope in np.gradient(smooth)
    ]
    outward = np.linalg.solve(matrix[:3, :3].T, np.array(slopes)).T
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
    along = table[_DIRECTION].to_numpy(float)
    cosine = np.abs((outward * along).sum(axis=1)).clip(0, 1)
    return pd.DataFrame(
        {
            "ventricle_distance_mm": ndimage.map_coordinates(
                distance, voxels, order=1, mode="nearest"
            ),
            "ventricle_angle_deg": np.rad2deg(np.arccos(cosine)),
        }
    )
