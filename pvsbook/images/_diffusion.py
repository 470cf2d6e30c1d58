"""Diffusion series whose gradients are in scanner axes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError
from pvsbook.images._files import PathLike
from pvsbook.images._volumes import ImageLike, label_of, load, rotation, times_text

__all__ = ["Dwi", "load_dwi"]

B0_BELOW_S_MM2 = 50.0
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
    >>> from pvsbook.images import make
    >>> rng = np.random.default_rng(0)
    >>> series = make(rng.random((4, 4, 4, 7)), np.eye(4))
    >>> bvec = np.c_[np.zeros(3), np.eye(3), np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]]).T / 2**.5]
    >>> dwi = load_dwi(series, [0] + 6 * [1000], bvec)
    >>> dwi.bvecs_ras[1]  # x is negated, since det(affine) > 0
    array([-1.,  0.,  0.])
    """
    volumes = load(image, ndim=4, name="dwi")
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
    is_b0 = bvals < B0_BELOW_S_MM2
    if not is_b0.any():
        raise InputError(
            f"{bval_name}: the smallest b-value is {bvals.min():g} s/mm2, but a volume with "
            f"b < {B0_BELOW_S_MM2:g} is needed; include the b=0 volume of the series"
        )
    vectors = np.where(is_b0, 0.0, vectors)  # some converters write NaN where there is none
    length = np.linalg.norm(vectors, axis=0)
    odd = ~is_b0 & ~(np.abs(length - 1) <= 0.05)  # NaN too
    if odd.any():
        k = int(np.flatnonzero(odd)[0])
        if odd[-odd.sum() :].all() and not length[odd].any():
            raise InputError(
                f"{bvec_name}: volume {k} has b = {bvals[k]:g} s/mm2 and no direction, as a mean "
                "or ADC map has that a scanner appends; leave it out of image, bval and bvec"
            )
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


def _count_directions(vectors: NDArray[np.float64]) -> int:
    """Count directions that differ by more than about 5 degrees; opposite ones are one."""
    kept: list[NDArray[np.float64]] = []
    for vector in vectors:
        if all(abs(vector @ other) < 0.996 for other in kept):
            kept.append(vector)
    return len(kept)
