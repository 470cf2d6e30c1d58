"""Volumes: checked on the way in, on the grid of a scan, whole files on the way out."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pvsbook._errors import InputError
from pvsbook.images._files import PathLike, write_bytes

__all__ = [
    "array", "load", "load_mask", "make", "rotation", "same_grid", "save", "voxel_size_mm",
]  # fmt: skip

ImageLike = PathLike | nib.spatialimages.SpatialImage

PLAUSIBLE_VOXEL_MM = (0.05, 20.0)


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
    label, image = open_image(source, name)
    shape = tuple(int(n) for n in image.shape)
    if 0 in shape:
        raise InputError(f"{label}: is empty (shape {times_text(shape)}); export the series again")
    while len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != ndim:
        hint = "the whole 4D series, not one volume of it" if ndim == 4 else "one volume of it"
        raise InputError(
            f"{label}: has {len(image.shape)} dimensions ({times_text(image.shape)}), but {ndim} "
            f"are needed; give {hint}"
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


def times_text(values: Iterable[float], form: str = "g") -> str:
    """Write sizes as ``2 x 3 x 4``, for messages."""
    return " x ".join(format(value, form) for value in values)


def label_of(source: object, name: str) -> str:
    """Return the path of a file, or the name of what has none, for messages."""
    return str(source) if isinstance(source, str | os.PathLike) else name


def open_image(source: ImageLike, name: str) -> tuple[str, nib.Nifti1Image]:
    """Open a file, and refuse a damaged one; return its label and the image."""
    if isinstance(source, nib.spatialimages.SpatialImage):
        return name, _nifti(source)
    path = Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        if path.is_symlink():
            what = "is a link to a file that is not here (of DataLad? then: datalad get)"
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
    """Silence what libraries say of a header: `header_notes` says it in our words."""
    level = nib.imageglobals.logger.level
    nib.imageglobals.logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        nib.imageglobals.logger.setLevel(level)


def _check_stream(path: Path) -> None:
    """Read a compressed file to its end, where its checksum stands: nibabel stops before."""
    with path.open("rb") as file, gzip.open(path) as stream:
        if file.read(2) == b"\x1f\x8b":
            while stream.read(1 << 22):
                pass


def _nifti(image: Any) -> nib.Nifti1Image:
    """Keep a NIfTI image as it is; turn another spatial format into one."""
    return image if isinstance(image, nib.Nifti1Image) else nib.Nifti1Image.from_image(image)


def _check_kind(image: nib.Nifti1Image, label: str) -> None:
    """Refuse voxels that are no single real number."""
    kind = image.get_data_dtype()
    if kind.kind not in "biuf":
        what = f"colours ({kind}), which is a picture of a map; give the map itself"
        if kind.kind == "c":
            what = (
                "complex numbers; give the magnitude, and for QSM the phase, as files of their own"
            )
        raise InputError(f"{label}: holds {what}")


def header_notes(image: nib.Nifti1Image) -> tuple[str, ...]:
    """List what the header of an image leaves open about where its voxels lie.

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
    q_code, s_code = int(image.header["qform_code"]), int(image.header["sform_code"])
    if q_code == 0 and s_code == 0:
        return (
            "orientation: both codes of the header are 0, so left and right are not certain; "
            "convert the scan again from DICOM",
        )
    notes = []
    if q_code > 0 and s_code > 0:
        try:
            qform, sform = image.header.get_qform(), image.header.get_sform()
            mirrored = np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0
            turn = rotation(qform).T @ rotation(sform)
        except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
            return ("orientation: the qform of the header cannot be read; sform was used",)
        angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        sizes = [np.sort(nib.affines.voxel_sizes(form)) for form in (qform, sform)]
        faults = []
        if mirrored:
            faults.append("left and right exchanged")
        elif angle > 1 or not np.isfinite(angle):
            faults.append(f"{angle:.0f} degrees apart")
        if not np.allclose(sizes[0], sizes[1], rtol=0.01):
            faults.append(
                f"voxels of {times_text(sizes[0], '.3g')} and {times_text(sizes[1], '.3g')} mm"
            )
        if faults:
            notes.append(
                f"orientation: qform and sform disagree ({', '.join(faults)}); sform was used, so "
                "compare the picture with the scanner's and the voxel size with the protocol"
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
        raise InputError(
            f"{label}: voxels of {times_text(size, '.3g')} mm are not plausible ({low} to {high} "
            "mm); check the header's units (mm, not m or um)"
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
    label = label_of(source, name)
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
) -> None:
    """Refuse two images whose voxels do not lie in the same places.

    Parameters
    ----------
    image, other
        To compare.
    name, other_name
        What to call them in an error.

    Raises
    ------
    InputError
        Shapes differ, or a corner of the grid lies more than a tenth of the smallest voxel edge
        apart, which the rounding of a header cannot reach.

    Examples
    --------
    >>> a, b = make(np.ones((4, 4, 4)), np.eye(4)), make(np.ones((4, 4, 5)), np.eye(4))
    >>> same_grid(b, a)
    Traceback (most recent call last):
    pvsbook._errors.InputError: mask: its grid is 4 x 4 x 5, but image has 4 x 4 x 4...
    """
    shape, other_shape = image.shape[:3], other.shape[:3]
    if shape != other_shape:
        raise InputError(
            f"{name}: its grid is {times_text(shape)}, but {other_name} has "
            f"{times_text(other_shape)}; resample it to {other_name} (labels: nearest)"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    places, other_places = (nib.affines.apply_affine(i.affine, corners) for i in (image, other))
    distance_mm = float(np.linalg.norm(places - other_places, axis=1).max())
    if not distance_mm <= 0.1 * voxel_size_mm(other).min():
        raise InputError(
            f"{name}: its affine puts a corner {distance_mm:.3g} mm away from where {other_name} "
            f"has it; resample it to {other_name} (labels: nearest)"
        )


def save(image: nib.Nifti1Image, path: PathLike) -> Path:
    """Write an image as NIfTI, whole or not at all; the same image gives the same bytes.

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
