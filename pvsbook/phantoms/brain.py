"""Tissue fractions of the MNI152 brain on any grid, in any pose: what all phantoms start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

import nibabel as nib
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey as deep_grey_atlas
from pvsbook.atlas import templates

__all__ = [
    "Brain",
    "Grid",
    "GridOptions",
    "grey_ml",
    "make_brain",
    "pose",
    "resize_grey",
]

TISSUES = ("wm", "gm", "csf", "ventricles", "brain")


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a scan lie, and where the head lies in the scanner.

    Attributes
    ----------
    shape
        Grid size in voxels.
    affine
        Voxel index to scanner mm, 4 x 4.
    mni_to_world
        MNI mm to scanner mm, 4 x 4: where the head lies in the scanner.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    mni_to_world: NDArray[np.float64]

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel size in mm, shape (3,)."""
        return nib.affines.voxel_sizes(self.affine)

    @property
    def to_mni(self) -> NDArray[np.float64]:
        """Voxel index to MNI mm, 4 x 4."""
        return np.linalg.inv(self.mni_to_world) @ self.affine

    def mni_coordinates(self) -> NDArray[np.float32]:
        """MNI coordinates in mm of every voxel centre, shape (x, y, z, 3)."""
        matrix = self.to_mni.astype(np.float32)
        i, j, k = (np.arange(n, dtype=np.float32) for n in self.shape)
        return (
            i[:, None, None, None] * matrix[:3, 0]
            + j[None, :, None, None] * matrix[:3, 1]
            + k[None, None, :, None] * matrix[:3, 2]
            + matrix[:3, 3]
        )

    def image(self, data: ArrayLike) -> nib.Nifti1Image:
        """Make an image of an array on this grid."""
        return images.make(data, self.affine)


@dataclass(frozen=True, eq=False)
class Brain(Grid):
    """Tissue fractions of the MNI152 brain, or of one person's, on a scanner grid.

    Attributes
    ----------
    wm, gm, csf, ventricles, brain
        Fractions 0..1, shape (x, y, z), float32; `csf` includes `ventricles`.
    nuclei
        Parts of `gm` by name, where a phantom knows them (``folded`` in
        `pvsbook.phantoms.perivascular.make_phantom`).
    """

    wm: NDArray[np.float32]
    gm: NDArray[np.float32]
    csf: NDArray[np.float32]
    ventricles: NDArray[np.float32]
    brain: NDArray[np.float32]
    nuclei: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def pose(
    rotation_deg: ArrayLike = (0, 0, 0), translation_mm: ArrayLike = (0, 0, 0)
) -> NDArray[np.float64]:
    """Return the rigid transform from MNI mm to scanner mm of a head that is turned and moved.

    Parameters
    ----------
    rotation_deg
        Pitch (about the left-right axis), roll (about the front-back axis) and yaw (about the
        feet-head axis), applied in this order, in degrees.
    translation_mm
        Shift after the rotation, along scanner x, y, z.

    Examples
    --------
    >>> pose((90, 0, 0)) @ [0, 0, 1, 1]  # pitch takes up to back
    array([ 0., -1.,  0.,  1.])
    """
    matrix = np.eye(4)
    turns = np.asarray(rotation_deg, float)
    matrix[:3, :3] = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    matrix[:3, 3] = translation_mm
    return matrix.round(15) + 0.0


class GridOptions(TypedDict, total=False):
    """Where the voxels lie and where the head lies: what all phantoms take.

    Attributes
    ----------
    mni_to_world
        Pose of the head, 4 x 4 (see `pose`); an affine with scaling gives a larger or smaller
        head.  Default: MNI and scanner axes agree.
    axcodes
        Storage order: where the first, second and third voxel axis point, such as ``"LAS"``.
    oblique
        Rotation matrix, 3 x 3, that tilts the *slices* while the head stays where it is.
    margin_mm
        Air kept around the brain.
    z_range_mni_mm
        Keep a slab between two heights in MNI mm, as a scan with a small field of view does.
    """

    mni_to_world: ArrayLike | None
    axcodes: str
    oblique: ArrayLike | None
    margin_mm: float
    z_range_mni_mm: tuple[float, float] | None


def make_brain(voxel_size_mm: float | ArrayLike = 1.0, **options: Unpack[GridOptions]) -> Brain:
    """Sample the MNI152 tissue maps on a scanner grid.

    Parameters
    ----------
    voxel_size_mm
        One number or three, 0.3 to 5 mm, along the axes named by `axcodes`.
    **options
        Pose, storage order and field of view: see `GridOptions`.

    Returns
    -------
    Brain

    Raises
    ------
    InputError
        A voxel size or storage order that no scanner gives.

    Examples
    --------
    >>> brain = make_brain(4.0, axcodes="LAS")
    >>> brain.affine.diagonal()[:3]
    array([-4.,  4.,  4.])
    >>> bool(np.all(brain.wm + brain.gm + brain.csf <= 1.001))
    True
    """
    grid = brain_grid(voxel_size_mm, **options)
    wm, gm, csf, ventricles, brain = (_voxel_mean(templates.mni(kind), grid) for kind in TISSUES)
    return Brain(grid.shape, grid.affine, grid.mni_to_world, wm, gm, csf, ventricles, brain)


def grey_ml(brain: Brain) -> tuple[float, float]:
    """Return the grey matter of a brain in ml: deep, and all the rest.

    Examples
    --------
    >>> deep, rest = grey_ml(make_brain(4.0))
    >>> deep < 50 < 800 < rest
    True
    """
    deep = _deep_share(brain)
    voxel_ml = float(np.prod(brain.voxel_size_mm)) / 1000
    in_deep = float((deep * brain.gm).sum(dtype=np.float64))
    return voxel_ml * in_deep, voxel_ml * (float(brain.gm.sum(dtype=np.float64)) - in_deep)


def resize_grey(brain: Brain, *, deep_grey: float = 1.0, cortex: float = 1.0) -> Brain:
    """Return a brain with more or less grey matter, as atrophy leaves it.

    The surface of grey matter moves: the log odds of its fraction are shifted, so it changes
    where it is mixed, and white matter and CSF take what it leaves, each in proportion.  The brain
    keeps its outline.

    Parameters
    ----------
    brain
        From `make_brain`.
    deep_grey, cortex
        Volume, times that of `brain`: in `pvsbook.atlas.deep_grey.region`, and elsewhere.

    Raises
    ------
    InputError
        A factor outside 0.6 to 1.4, or a slab without deep grey matter.

    Examples
    --------
    >>> brain = make_brain(4.0)
    >>> small = resize_grey(brain, deep_grey=0.8)
    >>> print(round(grey_ml(small)[0] / grey_ml(brain)[0], 3))
    0.8
    """
    for name, factor in (("deep_grey", deep_grey), ("cortex", cortex)):
        if not 0.6 <= factor <= 1.4:
            raise InputError(f"{name}: {factor}; give 0.6 to 1.4 times the volume")
    mixed = brain.gm > 0
    share, before = _deep_share(brain)[mixed], brain.gm[mixed].astype(np.float64)
    weights, wanted = np.array([share, 1 - share]), np.array([deep_grey, cortex])

    def resized(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        odds = before * np.exp(shift @ weights)
        return odds / (odds + 1 - before)

    usual = weights @ before
    if not usual.all():
        raise InputError("brain: holds no deep grey matter, or nothing else; give a whole brain")
    solution = optimize.root(lambda shift: weights @ resized(shift) - wanted * usual, [0.0, 0.0])
    after = resized(solution.x)
    left = np.divide(1 - after, 1 - before, out=np.ones_like(after), where=before < 1)
    maps = {kind: getattr(brain, kind).copy() for kind in ("wm", "gm", "csf", "ventricles")}
    maps["gm"][mixed] = after
    for kind in ("wm", "csf", "ventricles"):
        maps[kind][mixed] *= left
    return replace(brain, **maps)


def _deep_share(brain: Brain) -> NDArray[np.float32]:
    """Fraction of each voxel that lies in the region of deep grey matter."""
    return sample_mni(deep_grey_atlas.region(), brain.shape, brain.to_mni)


def brain_grid(
    voxel_size_mm: float | ArrayLike = 1.0,
    *,
    mni_to_world: ArrayLike | None = None,
    axcodes: str = "RAS",
    oblique: ArrayLike | None = None,
    margin_mm: float = 4.0,
    z_range_mni_mm: tuple[float, float] | None = None,
) -> Grid:
    """Return the grid of `make_brain`, which takes the same arguments, without the tissue maps.

    `GridOptions` says what each argument is.

    Examples
    --------
    >>> brain_grid(4.0).shape
    (39, 48, 41)
    """
    size = np.broadcast_to(np.asarray(voxel_size_mm, dtype=np.float64), (3,))
    if not (np.isfinite(size).all() and size.min() >= 0.3 and size.max() <= 5):
        raise InputError(f"voxel_size_mm: {size.tolist()}, but 0.3 to 5 mm are sensible")
    to_world = np.eye(4) if mni_to_world is None else np.asarray(mni_to_world, dtype=np.float64)
    axes = _axes(axcodes) if oblique is None else np.asarray(oblique, float) @ _axes(axcodes)
    corners = _brain_corners_mm(z_range_mni_mm)
    along = nib.affines.apply_affine(to_world, corners) @ axes
    low, high = along.min(axis=0) - margin_mm, along.max(axis=0) + margin_mm
    x, y, z = (int(n) for n in np.ceil((high - low) / size))
    affine = np.eye(4)
    affine[:3, :3] = axes * size
    affine[:3, 3] = axes @ (low + size / 2)
    return Grid((x, y, z), affine + 0.0, to_world)


def sample_mni(
    image: nib.Nifti1Image, shape: tuple[int, ...], to_mni: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate an MNI image linearly on a grid; zero outside the image."""
    out = np.empty(shape, np.float32)
    interpolate(images.array(image), np.linalg.inv(image.affine) @ to_mni, out, False)
    return out


@numba.njit(cache=True)
def interpolate(values, m, out, clamp):  # type: ignore[no-untyped-def]
    """Do `scipy.ndimage.affine_transform` of order 1, in a tenth of its time.

    Beyond the edge of `values`, `out` is zero or, where `clamp`, has the nearest value.
    """
    nx, ny, nz = values.shape
    for i, j, k in np.ndindex(out.shape):
        x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
        y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
        z = m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3]
        if clamp:
            x = min(max(x, np.float32(0)), np.float32(nx - 1.001))
            y = min(max(y, np.float32(0)), np.float32(ny - 1.001))
            z = min(max(z, np.float32(0)), np.float32(nz - 1.001))
        elif x < 0 or y < 0 or z < 0 or x > nx - 1 or y > ny - 1 or z > nz - 1:
            out[i, j, k] = 0
            continue
        a, b, c = min(int(x), nx - 2), min(int(y), ny - 2), min(int(z), nz - 2)
        u, v, w = x - a, y - b, z - c
        near = (values[a, b, c] * (1 - w) + values[a, b, c + 1] * w) * (1 - v) + (
            values[a, b + 1, c] * (1 - w) + values[a, b + 1, c + 1] * w
        ) * v
        far = (values[a + 1, b, c] * (1 - w) + values[a + 1, b, c + 1] * w) * (1 - v) + (
            values[a + 1, b + 1, c] * (1 - w) + values[a + 1, b + 1, c + 1] * w
        ) * v
        out[i, j, k] = near * (1 - u) + far * u


def box_around(points: NDArray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices of the part of a grid that holds points in voxels, shape (n, 3); may be empty."""
    start = np.clip(np.floor(points.min(axis=0)), 0, shape).astype(int)
    stop = np.clip(np.ceil(points.max(axis=0)) + 1, start, shape).astype(int)
    return tuple(map(slice, start, stop))


def _voxel_mean(image: nib.Nifti1Image, grid: Grid) -> NDArray[np.float32]:
    """Average an MNI map over each voxel, from samples a millimetre apart inside it."""
    parts = np.ceil(grid.voxel_size_mm - 0.25).astype(int)
    fine = grid.to_mni @ np.diag([*(1 / parts), 1])
    fine[:3, 3] = (grid.to_mni @ np.append(0.5 / parts - 0.5, 1))[:3]
    many = sample_mni(image, tuple(np.array(grid.shape) * parts), fine)
    blocks = [n for pair in zip(grid.shape, parts, strict=True) for n in pair]
    return many.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)


def _axes(axcodes: str) -> NDArray[np.float64]:
    """Columns: unit vectors of the voxel axes in scanner coordinates."""
    try:
        orientation = nib.orientations.axcodes2ornt(tuple(axcodes))
        valid = len(axcodes) == 3 and sorted(orientation[:, 0]) == [0, 1, 2]
    except (ValueError, KeyError):
        valid = False
    if not valid:
        raise InputError(f"axcodes: {axcodes!r}; give one letter each of L/R, P/A and I/S")
    return np.eye(3)[:, orientation[:, 0].astype(int)] * orientation[:, 1]


def _brain_corners_mm(z_range: tuple[float, float] | None) -> NDArray[np.float64]:
    brain = templates.mni("brain")
    box = ndimage.find_objects((images.array(brain) > 0.5).astype(np.uint8))[0]
    limits = np.array([[s.start, s.stop] for s in box]) + brain.affine[:3, 3:]
    if z_range is not None:
        limits[2] = z_range
    return np.array(np.meshgrid(*limits)).reshape(3, -1).T
