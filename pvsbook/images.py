"""Checked images in, whole files out: the door that every scan comes through."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import os
import reprlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pvsbook._errors import InputError

__all__ = [
    "Dwi",
    "Gre",
    "array",
    "header_notes",
    "load",
    "load_dwi",
    "load_gre",
    "load_mask",
    "make",
    "number",
    "read_json",
    "rotation",
    "same_acquisition",
    "same_grid",
    "save",
    "sidecar",
    "voxel_size_mm",
    "write_bytes",
]

PathLike = str | os.PathLike[str]
ImageLike = PathLike | nib.spatialimages.SpatialImage

PLAUSIBLE_VOXEL_MM = (0.05, 20.0)
B0_BELOW_S_MM2 = 50.0
MIN_DIRECTIONS = 6

# One full turn of phase in the units that scanners and converters store.
PHASE_PERIODS = {
    "radians": 2 * np.pi,
    "degrees": 360.0,
    "12-bit integers": 4096.0,
    "milliradians": 2000 * np.pi,
    "13-bit integers": 8192.0,
    "16-bit integers": 65536.0,
}


def load(
    source: ImageLike, *, ndim: int = 3, name: str = "image", check_values: bool = True
) -> nib.Nifti1Image:
    """Load an image and refuse what no method can use.

    Parameters
    ----------
    source
        A path to a NIfTI file, or a nibabel image already in memory.
    ndim
        The number of dimensions that the method needs: 3 for a volume, 4 for a series.
        A trailing dimension of length one is dropped.
    name
        What to call the image in an error, where it has no file name.
    check_values
        Read the voxels and refuse NaN, infinity and a constant image.

    Returns
    -------
    nibabel.Nifti1Image

    Raises
    ------
    InputError
        Missing or damaged file, wrong number of dimensions, empty image, an affine that cannot
        be inverted, a voxel size outside 0.05 to 20 mm, NaN or infinity.

    Examples
    --------
    >>> import nibabel as nib, numpy as np
    >>> scan = nib.Nifti1Image(np.arange(8.0).reshape(2, 2, 2), np.diag([1, 1, 2, 1]))
    >>> load(scan).shape
    (2, 2, 2)
    >>> load(scan, ndim=4, name="dwi")
    Traceback (most recent call last):
    pvsbook._errors.InputError: dwi: has 3 dimensions (2 x 2 x 2), but 4 are needed...
    """
    label, image = _open(source, name)
    shape = tuple(int(n) for n in image.shape)
    seen = " x ".join(map(str, shape))
    if 0 in shape:
        raise InputError(f"{label}: is empty (shape {seen}); export the series again")
    while len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != ndim:
        hint = (
            "give the whole 4D series, not one volume of it"
            if ndim == 4
            else "give one volume: extract it from the series first"
        )
        raise InputError(
            f"{label}: has {len(image.shape)} dimensions ({seen}), but {ndim} are needed; {hint}"
        )
    if shape != image.shape:
        image = nib.Nifti1Image(
            np.asanyarray(image.dataobj).reshape(shape), image.affine, image.header
        )
    _check_affine(image.affine, label)
    _check_kind(image, label)
    if check_values:
        try:
            values = array(image)
        except Exception as error:  # scale factors beyond all bounds, memory
            raise InputError(
                f"{label}: its voxels cannot be read ({error}); convert or download it again"
            ) from error
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            raise InputError(
                f"{label}: {bad} of {values.size} voxels are NaN or infinite; "
                "set them to zero, or find out which step made them"
            )
        if values.min() == values.max():
            raise InputError(
                f"{label}: every voxel is {values.flat[0]:g}, so there is nothing to measure; "
                "check that the file holds the scan"
            )
    return image


def _open(source: ImageLike, name: str) -> tuple[str, nib.Nifti1Image]:
    if isinstance(source, nib.spatialimages.SpatialImage):
        return name, _nifti(source)
    path = Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path}: {what}; give the path of a NIfTI file (.nii or .nii.gz)")
    try:
        with _without_warnings():
            image = _nifti(nib.load(path))
            np.asanyarray(image.dataobj[..., -1:])  # a file cut short fails here, not much later
        for part in {path, *(Path(h.filename) for h in image.file_map.values() if h.filename)}:
            _check_stream(part)
    except Exception as error:  # whatever a damaged file makes the library say
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: cannot be read as NIfTI ({reason}); convert or download it again"
        ) from error
    return str(path), image


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep what libraries say of a header on the way from the reader: we say it ourselves."""
    level = nib.imageglobals.logger.level
    nib.imageglobals.logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        nib.imageglobals.logger.setLevel(level)


def _check_stream(path: Path) -> None:
    """Read a compressed file to its end, where its checksum stands: nibabel stops before."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if is_gzip:
        with gzip.open(path) as stream:
            while stream.read(1 << 22):
                pass


def _nifti(image: Any) -> nib.Nifti1Image:
    """Keep a NIfTI image as it is; turn another spatial format into one."""
    return image if isinstance(image, nib.Nifti1Image) else nib.Nifti1Image.from_image(image)


def _check_kind(image: nib.Nifti1Image, label: str) -> None:
    """Refuse voxels that are no single real number."""
    kind = image.get_data_dtype()
    if kind.kind == "c":
        raise InputError(
            f"{label}: holds complex numbers; give the magnitude, and for QSM the phase, as files "
            "of their own (numpy.abs and numpy.angle of the data)"
        )
    if kind.kind not in "biuf":
        raise InputError(
            f"{label}: holds colours ({kind}), which is a picture of a map; give the map itself"
        )


def header_notes(image: nib.Nifti1Image) -> tuple[str, ...]:
    """Say what the header of an image leaves open about where its voxels lie.

    Parameters
    ----------
    image
        As `load` returns it.

    Returns
    -------
    tuple of str
        Empty where the header says one thing.

    Examples
    --------
    >>> scan = make(np.ones((3, 3, 3)), np.eye(4))
    >>> header_notes(scan)
    ()
    >>> scan.set_qform(np.diag([-1, 1, 1, 1]), 1)
    >>> header_notes(scan)[0][:43]
    'orientation: qform and sform disagree (left'
    """
    header = image.header
    if not hasattr(header, "get_qform"):
        return ()
    q_code, s_code = int(header["qform_code"]), int(header["sform_code"])
    if q_code == 0 and s_code == 0:
        return (
            "orientation: both codes of the header are 0, so left and right are not certain; "
            "convert the scan again from DICOM",
        )
    notes = []
    if q_code > 0 and s_code > 0:
        try:
            qform, sform = header.get_qform(), header.get_sform()
            mirrored = np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0
            turn = rotation(qform).T @ rotation(sform)
        except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
            return ("orientation: the qform of the header cannot be read; sform was used",)
        angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        sizes = [np.sort(nib.affines.voxel_sizes(form)) for form in (qform, sform)]
        if not np.allclose(sizes[0], sizes[1], rtol=0.01):
            texts = [" x ".join(f"{v:.3g}" for v in size) for size in sizes]
            notes.append(
                f"orientation: qform and sform disagree (voxels of {texts[0]} and {texts[1]} mm); "
                "sform was used, so compare the voxel size with the protocol"
            )
        if mirrored or angle > 1 or not np.isfinite(angle):
            how = "left and right exchanged" if mirrored else f"{angle:.0f} degrees apart"
            notes.append(
                f"orientation: qform and sform disagree ({how}); sform was used, so compare the "
                "picture with the scanner's"
            )
    if s_code in (3, 4) or (s_code == 0 and q_code in (3, 4)):
        notes.append(
            "orientation: the header says that the scan lies in a template's space, so the "
            "direction of the scanner's field and the head's tilt are not those of the scan"
        )
    return tuple(notes)


def _check_affine(affine: ArrayLike, label: str) -> None:
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise InputError(
            f"{label}: its affine cannot be inverted, so voxels have no place in the scanner; "
            "convert the file again from DICOM"
        )
    size = nib.affines.voxel_sizes(matrix)
    low, high = PLAUSIBLE_VOXEL_MM
    if size.min() < low or size.max() > high:
        seen = " x ".join(f"{s:.3g}" for s in size)
        raise InputError(
            f"{label}: voxels of {seen} mm are not plausible ({low} to {high} mm); "
            "check the header's units (mm, not m or um)"
        )


def array(image: nib.Nifti1Image, dtype: DTypeLike = np.float32) -> NDArray:
    """Return the scaled voxel values of an image as an array.

    Examples
    --------
    >>> array(make(np.ones((2, 2, 2), np.uint8), np.eye(4))).dtype
    dtype('float32')
    """
    return np.asarray(image.dataobj, dtype=dtype)


def make(data: ArrayLike, affine: ArrayLike) -> nib.Nifti1Image:
    """Make an image of an array: bool becomes uint8, float64 becomes float32, units are mm.

    Parameters
    ----------
    data
        Voxel values, 3D or 4D.
    affine
        Voxel index to scanner mm, 4 x 4.

    Examples
    --------
    >>> make(np.zeros((2, 3, 4), bool), np.eye(4)).get_data_dtype()
    dtype('uint8')
    """
    data = np.asarray(data)
    narrow = {"b": np.uint8, "f": np.float32}.get(data.dtype.kind, data.dtype)
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        narrow = np.dtype(np.int32)
    image = nib.Nifti1Image(data.astype(narrow, copy=False), np.asarray(affine, np.float64))
    image.header.set_xyzt_units("mm", "sec")
    return image


def voxel_size_mm(image: nib.Nifti1Image) -> NDArray[np.float64]:
    """Return the voxel size in mm along the three axes, from the affine."""
    return nib.affines.voxel_sizes(image.affine)


def load_mask(
    source: ImageLike, grid: nib.Nifti1Image, *, name: str = "mask"
) -> NDArray[np.bool_]:
    """Load a mask on the grid of a scan, however it was stored.

    Fractions (0 to 1, as an interpolator leaves them) and 8-bit probabilities (0 to 255) count
    from the half; whole numbers from 1 are labels, and all of them are inside.

    Parameters
    ----------
    source
        A path or an image.
    grid
        The scan.
    name
        What to call the mask in an error.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z).

    Raises
    ------
    InputError
        Another grid, NaN, or negative values.

    Examples
    --------
    >>> scan = make(np.ones((2, 2, 2)), np.eye(4))
    >>> soft = make(np.full((2, 2, 2), 0.2), np.eye(4))
    >>> load_mask(soft, scan).any()
    np.False_
    """
    label = str(source) if isinstance(source, str | os.PathLike) else name
    mask = load(source, name=name, check_values=False)
    same_grid(mask, grid, name=label)
    values = array(mask)
    if np.isnan(values).any() or values.min() < 0:
        raise InputError(f"{label}: holds NaN or negative values; set what is outside to 0")
    highest = float(values.max())
    is_whole = bool((values == np.round(values)).all())
    if highest <= 1 or not is_whole:
        return values >= 0.5 * max(highest, 1.0)
    if highest == 255 and len(np.unique(values)) > 32:
        return values >= 127.5
    return values > 0


def rotation(affine: ArrayLike) -> NDArray[np.float64]:
    """Return the orthogonal matrix nearest to the affine's directions (polar decomposition).

    Columns are the voxel axes in scanner coordinates (RAS).  Its determinant is -1 for an image
    stored in a left-handed order such as LAS.

    Examples
    --------
    >>> rotation(np.diag([-2.0, 2.0, 3.0, 1.0]))
    array([[-1.,  0.,  0.],
           [ 0.,  1.,  0.],
           [ 0.,  0.,  1.]])
    """
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    u, _, vt = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
    return u @ vt + 0.0  # + 0.0 turns -0 into 0


def same_grid(
    image: nib.Nifti1Image,
    other: nib.Nifti1Image,
    *,
    name: str = "mask",
    other_name: str = "image",
    tolerance_mm: float | None = None,
) -> None:
    """Refuse two images whose voxels do not lie in the same places.

    Parameters
    ----------
    image, other
        To compare.
    name, other_name
        What to call them in an error.
    tolerance_mm
        How far a corner of the grid may lie apart; by default a tenth of the smallest voxel edge,
        which the rounding of a header can reach.

    Raises
    ------
    InputError
        Shapes differ, or a corner of the grid lies further than `tolerance_mm` apart.

    Examples
    --------
    >>> a, b = make(np.ones((4, 4, 4)), np.eye(4)), make(np.ones((4, 4, 5)), np.eye(4))
    >>> same_grid(b, a)
    Traceback (most recent call last):
    pvsbook._errors.InputError: mask: its grid is 4 x 4 x 5, but image has 4 x 4 x 4...
    """
    mine, theirs = image.shape[:3], other.shape[:3]
    if mine != theirs:
        raise InputError(
            f"{name}: its grid is {' x '.join(map(str, mine))}, but {other_name} has "
            f"{' x '.join(map(str, theirs))}; resample it to {other_name} (labels: nearest)"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in mine])).reshape(3, -1).T
    apart = nib.affines.apply_affine(image.affine, corners) - nib.affines.apply_affine(
        other.affine, corners
    )
    worst = float(np.linalg.norm(apart, axis=1).max())
    if tolerance_mm is None:
        tolerance_mm = 0.1 * float(voxel_size_mm(other).min())
    if not worst <= tolerance_mm:
        raise InputError(
            f"{name}: its affine puts a corner {worst:.3g} mm away from where {other_name} has "
            f"it; resample it to {other_name} (labels: nearest)"
        )


@dataclass(frozen=True, eq=False)
class Dwi:
    """A diffusion series whose gradients are in scanner axes.

    Attributes
    ----------
    image
        4D image, the last axis is the volume.
    bvals_s_mm2
        b-value of each volume, s/mm2, shape (n,).
    bvecs_ras
        Unit gradient direction of each volume in scanner RAS axes, shape (n, 3); zero at b=0.
    """

    image: nib.Nifti1Image
    bvals_s_mm2: NDArray[np.float64]
    bvecs_ras: NDArray[np.float64]

    @property
    def is_b0(self) -> NDArray[np.bool_]:
        """Volumes without diffusion weighting: b below 50 s/mm2."""
        return self.bvals_s_mm2 < B0_BELOW_S_MM2


def load_dwi(image: ImageLike, bval: PathLike | ArrayLike, bvec: PathLike | ArrayLike) -> Dwi:
    """Load a diffusion series and turn its FSL b-vectors into scanner axes.

    An FSL ``bvec`` file is written along the image's own axes, with x negated where the affine
    has a positive determinant.  Both are undone here, so that everything after this door works
    in RAS, whatever the storage order and however oblique the slices.

    Parameters
    ----------
    image
        4D NIfTI.
    bval
        FSL text file with n b-values in s/mm2, or an array of shape (n,).
    bvec
        FSL text file with 3 rows of n numbers, or an array of shape (3, n).

    Returns
    -------
    Dwi

    Raises
    ------
    InputError
        Counts that differ, transposed or swapped files, vectors that are not of unit length,
        no volume at b=0, fewer than six directions that are not collinear.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> series = make(rng.random((4, 4, 4, 7)), np.eye(4))
    >>> bvec = np.c_[np.zeros(3), np.eye(3), np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]]).T / 2**.5]
    >>> dwi = load_dwi(series, [0] + 6 * [1000], bvec)
    >>> dwi.bvecs_ras[1]  # x is negated, since det(affine) > 0
    array([-1.,  0.,  0.])
    """
    volumes = load(image, ndim=4, name="dwi")
    label = str(image) if isinstance(image, str | os.PathLike) else "dwi"
    n = volumes.shape[3]
    bvals, bval_name = _numbers(bval, "bval")
    vectors, bvec_name = _numbers(bvec, "bvec", may_be_nan=True)
    if bvals.ndim == 2 and bvals.shape[0] == 3 and vectors.size == n:
        raise InputError(f"{bval_name}: holds three rows, so bval and bvec are swapped; swap them")
    bvals = bvals.ravel()
    if bvals.size != n:
        raise InputError(
            f"{bval_name}: {bvals.size} b-values, but {label} has {n} volumes; "
            "use the files that the same conversion wrote"
        )
    if vectors.shape == (n, 3) and n != 3:
        raise InputError(
            f"{bvec_name}: {n} rows of 3, but FSL's format is 3 rows of {n}; transpose it"
        )
    if vectors.shape != (3, n):
        shape = " x ".join(map(str, vectors.shape))
        raise InputError(f"{bvec_name}: is {shape}, but {label} needs 3 rows of {n} numbers")
    if (bvals < 0).any() or bvals.max() > 50_000:
        raise InputError(
            f"{bval_name}: b-values from {bvals.min():g} to {bvals.max():g}; s/mm2 are needed"
        )
    if 0 < bvals.max() < B0_BELOW_S_MM2:
        raise InputError(
            f"{bval_name}: b-values up to {bvals.max():g} look like ms/um2; give s/mm2 "
            f"({1000 * bvals.max():g})"
        )
    is_b0 = bvals < B0_BELOW_S_MM2
    if not is_b0.any():
        raise InputError(
            f"{bval_name}: the smallest b-value is {bvals.min():g} s/mm2, but a volume with "
            f"b < {B0_BELOW_S_MM2:g} is needed; include the b=0 volume of the series"
        )
    vectors = np.where(is_b0, 0.0, vectors)  # some converters write NaN where there is none
    if np.isnan(vectors).any():
        k = int(np.flatnonzero(np.isnan(vectors).any(axis=0))[0])
        raise InputError(
            f"{bvec_name}: volume {k} has b = {bvals[k]:g} s/mm2 and NaN for its direction; "
            "convert the series again"
        )
    length = np.linalg.norm(vectors, axis=0)
    odd = ~is_b0 & (np.abs(length - 1) > 0.05)
    if odd.any():
        k = int(np.flatnonzero(odd)[0])
        raise InputError(
            f"{bvec_name}: {odd.sum()} directions are not unit vectors (volume {k} has length "
            f"{length[k]:.3g}); a length that encodes b must be undone, zeros mean a wrong file"
        )
    axes = rotation(volumes.affine)
    stored = vectors.T.copy()
    if np.linalg.det(axes) > 0:
        stored[:, 0] *= -1
    stored[is_b0] = 0
    stored[~is_b0] /= length[~is_b0, None]
    bvecs_ras = stored @ axes.T + 0.0
    distinct = _count_directions(bvecs_ras[~is_b0])
    if distinct < MIN_DIRECTIONS:
        raise InputError(
            f"{bvec_name}: {distinct} directions that are not collinear, but a tensor needs "
            f"{MIN_DIRECTIONS}; a trace-weighted series cannot be used"
        )
    return Dwi(volumes, bvals, bvecs_ras)


def _numbers(
    source: PathLike | ArrayLike, name: str, *, may_be_nan: bool = False
) -> tuple[NDArray[np.float64], str]:
    """Read numbers from a text file or an array; say which it was."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            rows = [line.replace(",", " ").split() for line in lines]
            values = np.array([[float(x) for x in row] for row in rows if row])
        except FileNotFoundError:
            raise InputError(f"{path}: does not exist; give the .{name} file") from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: is not a table of numbers ({error}); give the .{name} text file"
            ) from error
        name = str(path)
    else:
        try:
            values = np.asarray(source, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: is not an array of numbers ({error})") from error
    if values.size == 0:
        raise InputError(f"{name}: is empty; convert the series again")
    if np.isinf(values).any() or (np.isnan(values).any() and not may_be_nan):
        raise InputError(f"{name}: holds NaN or infinity; convert the series again")
    return values, name


def _count_directions(vectors: NDArray[np.float64]) -> int:
    """Count directions that differ by more than about 5 degrees; opposite ones are one."""
    kept: list[NDArray[np.float64]] = []
    for vector in vectors:
        if all(abs(vector @ other) < 0.996 for other in kept):
            kept.append(vector)
    return len(kept)


@dataclass(frozen=True, eq=False)
class Gre:
    """A gradient-echo scan with its phase in radians.

    Attributes
    ----------
    magnitude, phase_rad
        Shape (x, y, z, echo), float32; phase is wrapped to [-pi, pi].
    echo_times_s
        Shape (echo,), rising.
    field_strength_t
        Tesla.
    affine
        Voxel index to scanner mm, 4 x 4.
    phase_stored_as
        How the file held its phase, such as ``"radians"`` or ``"12-bit integers"``.
    """

    magnitude: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    echo_times_s: NDArray[np.float64]
    field_strength_t: float
    affine: NDArray[np.float64]
    phase_stored_as: str = "radians"

    @property
    def b0_direction(self) -> NDArray[np.float64]:
        """Unit vector along the scanner's field (world z) in voxel axes, shape (3,)."""
        return rotation(self.affine)[2].copy()

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel size in mm, shape (3,)."""
        return nib.affines.voxel_sizes(self.affine)


def load_gre(
    magnitude: ImageLike | Sequence[ImageLike],
    phase: ImageLike | Sequence[ImageLike],
    *,
    echo_times_s: ArrayLike | None = None,
    field_strength_t: float | None = None,
    phase_period: float | None = None,
) -> Gre:
    """Load gradient-echo magnitude and phase, whatever the scale the phase was stored in.

    Parameters
    ----------
    magnitude, phase
        One 4D file, or one 3D file an echo, in the order of the echoes.
    echo_times_s
        Seconds, one an echo.  Where None, ``EchoTime`` of the BIDS sidecars beside the phase.
    field_strength_t
        Tesla.  Where None, ``MagneticFieldStrength`` of the sidecars.
    phase_period
        Stored units in one full turn (4096, say).  Give it where the range does not tell; by
        default it is recognised from the range of the values.

    Returns
    -------
    Gre
        NaN outside the brain (where the magnitude is zero or NaN too) is set to zero.

    Raises
    ------
    InputError
        Shapes or grids that differ, echo times missing, falling or in ms, no field strength,
        a phase range that fits no known scale (an unwrapped phase, say).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mag = make(1 + rng.random((8, 8, 8, 2)), np.eye(4))
    >>> stored = make(rng.integers(0, 4096, (8, 8, 8, 2)).astype(np.int16), np.eye(4))
    >>> gre = load_gre(mag, stored, echo_times_s=[0.005, 0.010], field_strength_t=3)
    >>> gre.phase_stored_as
    '12-bit integers'
    >>> bool(abs(gre.phase_rad).max() <= np.float32(np.pi))
    True
    """
    mag_sources, phase_sources = _as_list(magnitude), _as_list(phase)
    mags = [_open_echoes(m, f"magnitude {k + 1}") for k, m in enumerate(mag_sources)]
    phases = [_open_echoes(p, f"phase {k + 1}") for k, p in enumerate(phase_sources)]
    first_name, first = mags[0]
    for name, image in mags[1:] + phases:
        same_grid(image, first, name=name, other_name=first_name)
    mag = np.concatenate([_four(array(image)) for _, image in mags], axis=3)
    raw, stored_as, period = _read_phase(phases, phase_period)
    if mag.shape != raw.shape:
        raise InputError(
            f"phase: has {raw.shape[3]} echoes, but magnitude has {mag.shape[3]}; "
            "give both for the same echoes, in the same order"
        )
    if np.nanmin(mag) < 0:
        raise InputError(
            f"{first_name}: magnitude goes down to {np.nanmin(mag):g}, but it cannot be "
            "negative; are magnitude and phase swapped?"
        )
    outside = ~np.isfinite(mag) | (mag == 0)
    lost = int((~np.isfinite(raw) & ~outside).sum())
    if lost:
        raise InputError(
            f"{phases[0][0]}: {lost} voxels of the phase are NaN or infinite where the magnitude "
            "is not zero; export the phase again"
        )
    mag[outside] = 0
    raw[~np.isfinite(raw)] = 0
    for first_echo, second_echo in itertools.combinations(range(mag.shape[3]), 2):
        for what, values in (("magnitude", mag), ("phase", raw)):
            if np.array_equal(values[..., first_echo], values[..., second_echo]):
                raise InputError(
                    f"{what}: echoes {first_echo + 1} and {second_echo + 1} hold the same image; "
                    "give the file of each echo once"
                )
    radians = raw * np.float32(2 * np.pi / period)
    radians -= np.float32(2 * np.pi) * np.round(radians / np.float32(2 * np.pi))
    np.clip(radians, -np.float32(np.pi), np.float32(np.pi), out=radians)
    meta = [sidecar(p) if isinstance(p, str | os.PathLike) else {} for p in phase_sources]
    for source, other, own in zip(mag_sources, phase_sources, meta, strict=False):
        if isinstance(source, str | os.PathLike):
            same_acquisition(sidecar(source), own, name=source, other_name=other)
    times = _echo_times(echo_times_s, meta, phase_sources, mag.shape[3])
    field = _field_strength(field_strength_t, meta, phase_sources)
    return Gre(mag, radians, times, field, np.asarray(first.affine, np.float64), stored_as)


def _as_list(source: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    if isinstance(source, str | os.PathLike | nib.spatialimages.SpatialImage):
        return [source]
    if not source:
        raise InputError("magnitude and phase: at least one file each is needed")
    return list(source)


def _open_echoes(source: ImageLike, name: str) -> tuple[str, nib.Nifti1Image]:
    label, image = _open(source, name)
    ndim = 4 if len(image.shape) == 4 else 3
    return label, load(image, ndim=ndim, name=label, check_values=False)


def _four(values: NDArray) -> NDArray:
    return values[..., None] if values.ndim == 3 else values


def _read_phase(
    phases: list[tuple[str, nib.Nifti1Image]], period: float | None
) -> tuple[NDArray[np.float32], str, float]:
    """Stack the echoes and find what one turn is in stored units.

    A header's scale factor can be wrong: where the scaled values fit no known range, the
    unscaled ones are tried, and what was used is said in the name that comes back.
    """
    scaled = np.concatenate([_four(array(image)) for _, image in phases], axis=3)
    if period is not None:
        if not period > 0:
            raise InputError(f"phase_period: {period:g}, but it must be positive")
        return scaled, f"units of {period:g} a turn", float(period)
    name = _recognise_phase(scaled)
    if name is not None:
        return scaled, name, PHASE_PERIODS[name]
    proxies: list[Any] = [image.dataobj for _, image in phases]
    if all(hasattr(proxy, "get_unscaled") for proxy in proxies):
        unscaled = np.concatenate(
            [_four(proxy.get_unscaled()).astype(np.float32) for proxy in proxies], axis=3
        )
        name = _recognise_phase(unscaled)
        if name is not None:
            return unscaled, f"{name} (the header's scale factor ignored)", PHASE_PERIODS[name]
    if _partial_turn(scaled):
        return scaled, "radians", PHASE_PERIODS["radians"]
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    raise InputError(
        f"{phases[0][0]}: phase from {low:.6g} to {high:.6g} fits no known scale (radians, "
        "degrees, 12-, 13- or 16-bit integers); if it is unwrapped give the wrapped phase, else "
        "say how many stored units make one turn (--phase-period)"
    )


def _recognise_phase(values: NDArray[np.float32]) -> str | None:
    """Name the scale whose full turn the values fill; None where none fits."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    for name, period in PHASE_PERIODS.items():
        for start in (-period / 2, 0.0):
            inside = low >= start - 1e-3 * period and high <= start + period * 1.001
            if inside and high - low > 0.9 * period:
                return name
    return None


def _partial_turn(values: NDArray[np.float32]) -> bool:
    """Tell radians that do not fill a turn, as short echoes inside a mask: fractions within pi."""
    fractional = bool(np.any(np.mod(values[np.isfinite(values)], 1) != 0))
    return fractional and 1 < np.nanmax(np.abs(values)) <= np.pi * 1.001


def _field_strength(given: float | None, meta: list[dict], sources: Sequence[ImageLike]) -> float:
    stored = [
        number(m, "MagneticFieldStrength", source=source)[0]
        for m, source in zip(meta, sources, strict=True)
        if "MagneticFieldStrength" in m
    ]
    if given is None and not stored:
        raise InputError(
            "field strength: not given, and no sidecar holds MagneticFieldStrength; give it in "
            "tesla (--field-strength 3), since susceptibility scales with it"
        )
    if given is None and len(set(stored)) > 1:
        raise InputError(
            f"MagneticFieldStrength: {', '.join(f'{b:g}' for b in stored)} T in the sidecars of "
            "one scan; correct them, or give the right one (--field-strength 3)"
        )
    field = stored[0] if given is None else number({"": given}, "", source="field strength")[0]
    if not 0.05 <= field <= 25:
        raise InputError(f"field strength: {field:g} T is not plausible; give it in tesla")
    return field


def number(content: Mapping[str, Any], key: str, *, source: object) -> tuple[float, ...]:
    """Read a number, or a list of them, from what a sidecar holds.

    Parameters
    ----------
    content
        As `sidecar` returns it.
    key
        Of the number; it is there.
    source
        What to name in an error: the image, or the sidecar.

    Raises
    ------
    InputError
        Text, a truth value, nothing, or a number that is not finite.

    Examples
    --------
    >>> number({"EchoTime": 0.006}, "EchoTime", source="scan.json")
    (0.006,)
    >>> number({"MagneticFieldStrength": "3T"}, "MagneticFieldStrength", source="scan.json")
    Traceback (most recent call last):
    pvsbook._errors.InputError: scan.json: MagneticFieldStrength is '3T', but a number is needed...
    """
    value = content[key]
    values = value if isinstance(value, list | tuple | np.ndarray) else [value]
    for one in values:
        plain = isinstance(one, int | float | np.integer | np.floating)
        if not plain or isinstance(one, bool) or not abs(one) < 1e300:
            where = source if isinstance(source, str | os.PathLike) else "the sidecar"
            what = f"{key} is " if key else ""
            raise InputError(
                f"{where}: {what}{reprlib.repr(value)}, but a number is needed; write it without "
                "unit or quotes"
            )
    if len(values) == 0:
        raise InputError(f"{source}: {key} is empty; give the number")
    return tuple(float(one) for one in values)


def same_acquisition(
    magnitude: Mapping[str, Any], phase: Mapping[str, Any], *, name: object, other_name: object
) -> None:
    """Refuse magnitude and phase of one echo whose sidecars do not name the same acquisition.

    Raises
    ------
    InputError
        ``EchoTime`` or ``MagneticFieldStrength`` stand in both and differ by more than 1 %.

    Examples
    --------
    >>> same_acquisition({"EchoTime": 0.006}, {"EchoTime": 0.006}, name="a", other_name="b")
    """
    for key in ("EchoTime", "MagneticFieldStrength"):
        if key not in magnitude or key not in phase:
            continue
        one, other = number(magnitude, key, source=name), number(phase, key, source=other_name)
        if len(one) == len(other) and not np.allclose(one, other, rtol=0.01, atol=0):
            a, b = (", ".join(f"{v:g}" for v in values) for values in (one, other))
            raise InputError(
                f"{name}: {key} is {a}, but {b} for {other_name}; correct the wrong sidecar"
            )


def _echo_times(
    given: ArrayLike | None, meta: list[dict], sources: Sequence[ImageLike], n_echoes: int
) -> NDArray[np.float64]:
    if given is None:
        found = [
            time
            for m, source in zip(meta, sources, strict=True)
            if "EchoTime" in m
            for time in number(m, "EchoTime", source=source)
        ]
        if len(found) != n_echoes:
            raise InputError(
                f"echo times: not given, and sidecars hold {len(found)} EchoTime for {n_echoes} "
                "echoes; give them in seconds (--echo-times 0.004,0.008)"
            )
        given = found
    else:
        given = number({"": np.atleast_1d(np.asarray(given)).tolist()}, "", source="echo times")
    times = np.atleast_1d(np.asarray(given, dtype=np.float64))
    seen = ", ".join(f"{t:g}" for t in times)
    if times.shape != (n_echoes,):
        raise InputError(f"echo times: {times.size} ({seen}), but there are {n_echoes} echoes")
    if times.max() >= 0.5:
        raise InputError(
            f"echo times: {seen} look like milliseconds; give seconds ({times[0] / 1000:g}, ...)"
        )
    if times.min() <= 0 or (np.diff(times) <= 0).any():
        raise InputError(f"echo times: {seen}; they must be positive and rising")
    return times


def sidecar(path: PathLike) -> dict:
    """Read the BIDS JSON sidecar beside an image; an empty dict where there is none.

    Raises
    ------
    InputError
        The sidecar is there, but is not a JSON object.

    Examples
    --------
    >>> sidecar("no_such_scan.nii.gz")
    {}
    """
    image = Path(path)
    beside = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    return read_json(beside) if beside.is_file() else {}


def read_json(path: PathLike) -> dict:
    """Read a JSON object.

    Raises
    ------
    InputError
        It cannot be read, is not JSON, or holds something else.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: is not JSON ({reason}); repair or remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, but an object is needed")
    return content


def save(image: nib.Nifti1Image, path: PathLike) -> Path:
    """Write an image whole or not at all; the same image gives the same bytes.

    Parameters
    ----------
    image
        What to write.
    path
        Ends in ``.nii`` or ``.nii.gz``; its folder is made.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        Another ending, or the folder cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: images are written as .nii or .nii.gz; change the name")
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    return write_bytes(content, path)


def write_bytes(content: bytes, path: PathLike) -> Path:
    """Write a file under a temporary name in the same folder, then rename it.

    Raises
    ------
    InputError
        The folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another folder or free space"
        ) from error
    return path
