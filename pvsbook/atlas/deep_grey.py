"""Deep grey nuclei in MNI space, drawn from simple shapes of our own.

Each nucleus is a chain of balls whose radius changes evenly from one to the next, flattened along
x where the nucleus is a plate.  Centres and sizes follow the MNI152 template to about 2 mm: good
enough to build a phantom and to teach, too coarse to measure people with.  For people there is the
Tian atlas (`tian`), a public file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.processing import resample_from_to
from numpy.typing import ArrayLike, NDArray

from pvsbook import images, manifest
from pvsbook._errors import InputError
from pvsbook.atlas import templates

__all__ = [
    "column", "distance_mm", "distances_on_grid", "has_tian", "labels", "nuclei", "region",
    "table", "tian",
]  # fmt: skip


@dataclass(frozen=True)
class Nucleus:
    """A chain of balls in MNI mm, on the right side; the left is its mirror image.

    Attributes
    ----------
    chain
        Rows of x, y, z, radius in mm.
    flat
        How many times thinner than the radius the chain is along x.
    without
        Nucleus that is cut out of this one, if any.
    """

    chain: tuple[tuple[float, float, float, float], ...]
    flat: float = 1.0
    without: str = ""


NUCLEI = {
    "caudate": Nucleus(
        ((11.0, 17.0, -2.0, 5.0), (13.0, 15.0, 6.0, 6.0), (14.0, 8.0, 12.0, 5.2),
         (16.0, -2.0, 17.0, 3.8), (18.0, -12.0, 19.5, 2.8), (21.0, -22.0, 19.0, 2.0)),
    ),
    "putamen": Nucleus(
        ((22.5, 14.0, -2.0, 7.5), (26.0, 6.0, 1.0, 10.5), (28.0, -4.0, 3.0, 10.0),
         (30.0, -14.0, 4.0, 6.0), (31.0, -19.0, 4.0, 3.5)),
        flat=1.9, without="pallidum",
    ),
    "pallidum": Nucleus(
        ((15.5, 1.0, -3.0, 4.5), (19.0, -3.5, -1.5, 6.5), (22.5, -10.0, 0.0, 5.0)), flat=1.5,
    ),
    "thalamus": Nucleus(
        ((7.0, -6.0, 7.0, 5.5), (10.0, -14.0, 7.5, 9.5), (13.0, -22.0, 6.5, 9.5)),
        flat=1.1, without="pulvinar",
    ),
    "pulvinar": Nucleus(((13.5, -27.5, 4.5, 6.5), (16.5, -30.5, 4.0, 5.0))),
    "red nucleus": Nucleus(((4.8, -19.0, -10.0, 3.3), (5.6, -21.0, -6.5, 3.5))),
    "substantia nigra": Nucleus(
        ((7.0, -13.0, -13.5, 2.8), (10.0, -16.0, -12.5, 3.3), (13.5, -20.0, -10.5, 2.8)),
        without="red nucleus",
    ),
    "dentate": Nucleus(
        ((10.5, -55.0, -36.0, 4.0), (14.0, -60.0, -35.0, 5.2), (18.0, -65.0, -36.0, 4.0)),
    ),
}  # fmt: skip
SIDES = ("left", "right")
CEREBRAL = ("caudate", "putamen", "pallidum", "thalamus", "pulvinar")
REGION_RIM_MM, BOX_RIM_MM = 2.5, 3.0


def table() -> pd.DataFrame:
    """Return the number, region and side of each label.

    Examples
    --------
    >>> table().head(2)
       label   region   side
    0      1  caudate   left
    1      2  caudate  right
    """
    rows = [(n, *pair) for n, pair in enumerate(itertools.product(NUCLEI, SIDES), start=1)]
    return pd.DataFrame(rows, columns=["label", "region", "side"])


def column(region: str, side: str) -> str:
    """Name a nucleus as the columns of tables do.

    Examples
    --------
    >>> column("red nucleus", "left")
    'red_nucleus_left'
    """
    return f"{region}_{side}".replace(" ", "_")


def distance_mm(points_mm: ArrayLike, region: str, side: str) -> NDArray[np.float32]:
    """Return about how far points lie from the surface of a nucleus: negative inside.

    Parameters
    ----------
    points_mm
        MNI coordinates in mm, shape (..., 3).
    region, side
        A region of `table`; ``"left"`` or ``"right"``.

    Returns
    -------
    numpy.ndarray
        Shape (...), mm, float32.

    Raises
    ------
    InputError
        Another region or side.

    Examples
    --------
    >>> points = [[19.0, -3.5, -1.5], [-19.0, -3.5, -1.5]]
    >>> print(distance_mm(points, "pallidum", "left") < 0)
    [False  True]
    """
    if region not in NUCLEI or side not in SIDES:
        raise InputError(
            f"region {region!r}, side {side!r}: known are {', '.join(NUCLEI)}, left and right"
        )
    nucleus = NUCLEI[region]
    points = np.array(points_mm, dtype=np.float32)
    if side == "left":
        points[..., 0] *= -1
    level = _distance_from_chain(points, nucleus)
    if nucleus.without:
        np.maximum(level, -_distance_from_chain(points, NUCLEI[nucleus.without]), out=level)
    return level


def _distance_from_chain(points: NDArray[np.float32], nucleus: Nucleus) -> NDArray[np.float32]:
    scale = np.array([nucleus.flat, 1, 1], np.float32)
    chain = np.array(nucleus.chain, np.float32)
    level = np.full(points.shape[:-1], np.inf, np.float32)
    for (*a, ra), (*b, rb) in itertools.pairwise(chain):
        start, along = a * scale, (np.subtract(b, a)) * scale
        from_start = points * scale - start
        t = np.clip(from_start @ along / (along @ along), 0, 1)
        distance = np.linalg.norm(from_start - t[..., None] * along, axis=-1)
        np.minimum(level, distance - (ra + t * (rb - ra)), out=level)
    return level / np.float32(nucleus.flat**0.5)


def distances_on_grid(
    shape: tuple[int, ...], grid_to_mni: ArrayLike
) -> dict[int, tuple[tuple[slice, ...], NDArray[np.float32]]]:
    """Return `distance_mm` of every nucleus on a grid, each in a box that reaches 3 mm around it.

    Parameters
    ----------
    shape
        Grid size in voxels.
    grid_to_mni
        Voxel index to MNI mm, 4 x 4.

    Returns
    -------
    dict
        Label number to (box, level); nuclei outside the grid are left out.

    Examples
    --------
    >>> mni = templates.mni("t1")
    >>> box, level = distances_on_grid(mni.shape, mni.affine)[1]
    >>> print(round((level < 0).sum() / 1000, 1), "cm3")
    3.3 cm3
    """
    matrix = np.asarray(grid_to_mni, np.float64)
    back = np.linalg.inv(matrix)
    out = {}
    for label, region, side in table().itertuples(index=False):
        chain = np.array(NUCLEI[region].chain)
        if side == "left":
            chain = chain * [-1, 1, 1, 1]
        low = (chain[:, :3] - chain[:, 3:]).min(axis=0) - BOX_RIM_MM
        high = (chain[:, :3] + chain[:, 3:]).max(axis=0) + BOX_RIM_MM
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
        voxels = nib.affines.apply_affine(back, corners)
        start = np.clip(np.floor(voxels.min(axis=0)), 0, shape).astype(int)
        stop = np.clip(np.ceil(voxels.max(axis=0)) + 1, 0, shape).astype(int)
        if (stop <= start).any():
            continue
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        index = np.moveaxis(np.mgrid[box], 0, -1).astype(np.float32)
        points = index @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
        out[int(label)] = box, distance_mm(points, region, side)
    return out


def labels() -> nib.Nifti1Image:
    """Return the nuclei as a label image on the MNI152 1 mm grid, without the ventricles.

    Examples
    --------
    >>> image = labels()
    >>> image.shape, int(np.asarray(image.dataobj).max())
    ((197, 233, 189), 16)
    """
    like = templates.mni("ventricles")
    fluid = images.array(like) > 0.5
    out = np.zeros(like.shape, np.uint8)
    for label, (box, level) in distances_on_grid(like.shape, like.affine).items():
        out[box][(level < 0) & ~fluid[box]] = label
    return images.make(out, like.affine)


@lru_cache(maxsize=1)
def region() -> nib.Nifti1Image:
    """Return where deep grey matter may lie, on the MNI152 1 mm grid: 1 inside, float32.

    Caudate, putamen, pallidum and thalamus with the pulvinar, and 2.5 mm around them, so that
    the rim of a nucleus of another size stays inside.

    Examples
    --------
    >>> print(round(images.array(region()).sum() / 1000), "ml")
    67 ml
    """
    like = templates.mni("ventricles")
    out = np.zeros(like.shape, np.float32)
    distances = distances_on_grid(like.shape, like.affine)
    names = table()
    for label in names["label"][names["region"].isin(CEREBRAL)]:
        box, level = distances[label]
        out[box][level < REGION_RIM_MM] = 1
    return images.make(out, like.affine)


TIAN_REGIONS = {
    "HIP": "hippocampus", "AMY": "amygdala", "pTHA": "posterior thalamus",
    "aTHA": "anterior thalamus", "NAc": "accumbens", "GP": "pallidum", "PUT": "putamen",
    "CAU": "caudate",
}  # fmt: skip
TIAN_SIDES = {"lh": "left", "rh": "right"}
TIAN_FILES = ("Tian_Subcortex_S1_3T_2009cAsym.nii.gz", "Tian_Subcortex_S1_3T_label.txt")


def has_tian() -> bool:
    """Return whether the Melbourne atlas is in the cache or in a mirror that is a folder."""
    return manifest.is_at_hand("atlas_tian", TIAN_FILES)


def tian() -> tuple[nib.Nifti1Image, pd.DataFrame]:
    """Return the Melbourne subcortex atlas of Tian, scale 1, and its table.

    The file in ICBM 2009c space is taken (2 mm), since `pvsbook.atlas.templates` is of that
    family; its left and right centres are mirror images about x = 0 to about half a millimetre.
    The 1 mm file of the same atlas, in FSL's MNI space, is not used: its two halves are exact
    mirror images about x = +1.5 mm, so on our template every nucleus would lie 1.5 mm too far
    to the right.

    Returns
    -------
    image
        Label numbers, 16 of them.
    table
        Columns ``label``, ``region``, ``side``, as `table`; red nucleus, substantia nigra and
        dentate are not in this atlas.

    Raises
    ------
    InputError
        The files are neither in the cache nor within reach (`pvsbook.manifest.fetch` says what
        to do); the schematic nuclei are never given instead.

    References
    ----------
    Tian et al. 2020, doi:10.1038/s41593-020-00711-6.
    """
    files = manifest.fetch("atlas_tian", TIAN_FILES)
    image_name, names = TIAN_FILES
    short = (line.split("-") for line in files[names].read_text().split())
    rows = [(k, TIAN_REGIONS[r], TIAN_SIDES[s]) for k, (r, s) in enumerate(short, start=1)]
    return images.load(files[image_name]), pd.DataFrame(rows, columns=["label", "region", "side"])


@lru_cache(maxsize=2)
def nuclei(atlas: str = "melbourne") -> tuple[nib.Nifti1Image, pd.DataFrame]:
    """Return the nuclei to measure, on the MNI152 1 mm grid, and from which atlas each is.

    Parameters
    ----------
    atlas
        ``"melbourne"``: caudate, putamen, pallidum and thalamus of `tian`; what that atlas does
        not tell apart (pulvinar, red nucleus, substantia nigra, dentate) stays schematic, the
        pulvinar within its thalamus.  ``"schematic"``: all of them from `labels`.

    Returns
    -------
    image
        Label numbers as in `table`.
    table
        As `table`, and ``atlas``.

    Raises
    ------
    InputError
        Another atlas, or `tian` cannot be had.

    Examples
    --------
    >>> nuclei("schematic")[1]["atlas"].unique().tolist()
    ['schematic']
    """
    if atlas not in ("melbourne", "schematic"):
        raise InputError(f"atlas: {atlas!r}; choose 'melbourne' or 'schematic'")
    image, rows = labels(), table().assign(atlas="schematic")
    if atlas == "schematic":
        return image, rows
    theirs, names = tian()
    resampled = resample_from_to(theirs, image, order=0)
    numbers = np.asarray(resampled.dataobj).astype(int)
    ours = np.asarray(image.dataobj).copy()
    number = rows.set_index(["region", "side"])["label"]
    names = names.assign(
        region=names["region"].str.removeprefix("anterior ").str.removeprefix("posterior ")
    )
    named = names[names["region"].isin(["caudate", "putamen", "pallidum", "thalamus"])]
    pulvinar = np.isin(ours, number["pulvinar"].to_numpy())
    replaced = [number[key] for key in named[["region", "side"]].itertuples(index=False)]
    ours[np.isin(ours, replaced) | pulvinar] = 0
    for label, region, side in named.itertuples(index=False):
        ours[numbers == label] = number[region, side]
        if region == "thalamus":
            ours[(numbers == label) & pulvinar] = number["pulvinar", side]
    is_theirs = rows["region"].isin(named["region"])
    return images.make(ours, image.affine), rows.assign(
        atlas=rows["atlas"].mask(is_theirs, "Melbourne")
    )
