"""Diffusion series whose gradients are in scanner axes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError
from pvsbook.images._files import PathLike
from pvsbook.images._volumes import ImageLike, label_of, load, make, rotation, times_text

__all__ = ["Dwi", "load_dwi"]

B0_BELOW_S_MM2 = 50.0
HIGHEST_B0_S_MM2 = 250.0  # the tensor's S0 absorbs this much weighting, not more
MIN_DIRECTIONS = 6


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
    left_out
        Volumes at the end of the file that are not in the image, by number, and what they are.
    """

    image: nib.Nifti1Image
    bvals_s_mm2: NDArray[np.float64]
    bvecs_ras: NDArray[np.float64]
    left_out: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_b0(self) -> NDArray[np.bool_]:
        """Volumes without diffusion weighting: b below 50 s/mm2."""
        return self.bvals_s_mm2 < B0_BELOW_S_MM2


def load_dwi(
    image: ImageLike,
    bval: PathLike | ArrayLike,
    bvec: PathLike | ArrayLike,
    *,
    b0_below_s_mm2: float = B0_BELOW_S_MM2,
    check_values: bool = True,
) -> Dwi:
    """Load a diffusion series and turn its FSL b-vectors into scanner axes.

    The vectors of an FSL ``bvec`` file are given along the image's own axes, with x negated where
    the affine has a positive determinant.  This function returns them in the scanner's axes (RAS:
    right, anterior, superior), whatever the storage order and however oblique the slices.

    Parameters
    ----------
    image
        4D NIfTI.
    bval
        FSL text file with n b-values in s/mm2, or an array of shape (n,).
    bvec
        FSL text file with 3 rows of n numbers, or an array of shape (3, n).  Volumes at the end
        that are weighted and have no direction, such as trace and ADC maps, are left out.
    b0_below_s_mm2
        b-values below it count as b=0: 50 to 250 s/mm2.
    check_values
        Read the voxels and refuse NaN, infinity and a constant image.

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
    >>> from pvsbook.images import make
    >>> rng = np.random.default_rng(0)
    >>> series = make(rng.random((4, 4, 4, 7)), np.eye(4))
    >>> bvec = np.c_[np.zeros(3), np.eye(3), np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]]).T / 2**.5]
    >>> dwi = load_dwi(series, [0] + 6 * [1000], bvec)
    >>> dwi.bvecs_ras[1]  # x is negated, since det(affine) > 0
    array([-1.,  0.,  0.])
    """
    if not B0_BELOW_S_MM2 <= b0_below_s_mm2 <= HIGHEST_B0_S_MM2:
        raise InputError(
            f"b0_threshold is {b0_below_s_mm2:g} s/mm2; use {B0_BELOW_S_MM2:g} to "
            f"{HIGHEST_B0_S_MM2:g}"
        )
    volumes = load(image, ndim=4, name="dwi", check_values=check_values)
    label = label_of(image, "dwi")
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
    if vectors.shape != (3, n):
        hint = "; transpose it" * (vectors.shape == (n, 3))
        raise InputError(
            f"{bvec_name}: is {times_text(vectors.shape)}, but {label} needs 3 rows of {n} "
            f"numbers (FSL's format){hint}"
        )
    if (bvals < 0).any() or bvals.max() > 50_000:
        raise InputError(
            f"{bval_name}: b-values from {bvals.min():g} to {bvals.max():g}; s/mm2 are needed"
        )
    if 0 < bvals.max() < B0_BELOW_S_MM2:
        raise InputError(
            f"{bval_name}: b-values up to {bvals.max():g} look like ms/um2; give s/mm2 "
            f"({1000 * bvals.max():g})"
        )
    if b0_below_s_mm2 > B0_BELOW_S_MM2:
        bvals = np.where(bvals < b0_below_s_mm2, 0.0, bvals)
    is_b0 = bvals < B0_BELOW_S_MM2
    if not is_b0.any():
        hint = ", or raise b0_threshold" if bvals.min() < HIGHEST_B0_S_MM2 else ""
        raise InputError(
            f"{bval_name}: the smallest b-value is {bvals.min():g} s/mm2, but a volume with "
            f"b < {b0_below_s_mm2:g} is needed; include the b=0 volume of the series{hint}"
        )
    vectors = np.where(is_b0, 0.0, vectors)  # some converters write NaN where there is none
    length = np.linalg.norm(vectors, axis=0)
    has_direction = is_b0 | (length != 0)  # NaN is no direction either way, and is refused below
    end = n - int(np.argmax(has_direction[::-1]))
    left_out = {
        k: f"b={bvals[k]:g} without direction, as a trace or ADC map" for k in range(end, n)
    }
    if left_out:
        volumes = make(volumes.dataobj[..., :end], volumes.affine)
        bvals, is_b0, length = bvals[:end], is_b0[:end], length[:end]
        vectors = vectors[:, :end]
    odd = ~is_b0 & ~(np.abs(length - 1) <= 0.05)  # NaN too
    if odd.any():
        k = int(np.flatnonzero(odd)[0])
        raise InputError(
            f"{bvec_name}: {odd.sum()} directions are not unit vectors (volume {k}, b = "
            f"{bvals[k]:g} s/mm2, has length {length[k]:.3g}); undo a length that encodes b; "
            "zeros and NaN mean a wrong file"
        )
    axes = rotation(volumes.affine)
    stored = (vectors / np.where(is_b0, 1.0, length)).T.copy()
    if np.linalg.det(axes) > 0:
        stored[:, 0] *= -1
    bvecs_ras = stored @ axes.T + 0.0
    distinct = count_directions(bvecs_ras[~is_b0])
    if distinct < MIN_DIRECTIONS:
        raise InputError(
            f"{bvec_name}: {distinct} directions that are not collinear, but a tensor needs "
            f"{MIN_DIRECTIONS}; a trace-weighted series cannot be used"
        )
    return Dwi(volumes, bvals, bvecs_ras, left_out)


def _numbers(
    source: PathLike | ArrayLike, name: str, *, may_be_nan: bool = False
) -> tuple[NDArray[np.float64], str]:
    """Read numbers from a text file or an array; say which it was."""
    label = label_of(source, name)
    try:
        if isinstance(source, str | os.PathLike):
            text = Path(source).read_text(encoding="utf-8-sig").replace(",", " ")
            source = [line.split() for line in text.splitlines() if line.strip()]
        values = np.asarray(source, dtype=np.float64)
    except FileNotFoundError:
        raise InputError(f"{label}: does not exist; give the .{name} file") from None
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{label}: is not a table of numbers ({error}); give the {name} of the series"
        ) from error
    if values.size == 0:
        raise InputError(f"{label}: is empty; convert the series again")
    if np.isinf(values).any() or (np.isnan(values).any() and not may_be_nan):
        raise InputError(f"{label}: holds NaN or infinity; convert the series again")
    return values, label


def count_directions(vectors: NDArray[np.float64]) -> int:
    """Count directions that differ by more than about 5 degrees; opposite ones are one."""
    kept: list[NDArray[np.float64]] = []
    for vector in vectors:
        if all(abs(vector @ other) < 0.996 for other in kept):
            kept.append(vector)
    return len(kept)
