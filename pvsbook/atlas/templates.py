"""The MNI152 maps that the nilearn wheel carries: 1 mm, symmetric, 2009a."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files

import nibabel as nib
import numpy as np
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError

__all__ = ["KINDS", "mni"]

KINDS = ("t1", "gm", "wm", "csf", "brain", "ventricles")

# Boxes in MNI mm (x, y, z).  Near the midline only the third ventricle counts: what else is fluid
# there lies around the corpus callosum or in the cisterns.
_VENTRICLES_MM = ((-42, 42), (-52, 34), (-12, 32))
_MIDLINE_MM = ((-4, 5), (-60, 40), (-20, 40))
_THIRD_VENTRICLE_MM = ((-4, 5), (-26, 6), (-12, 12))
_CISTERN_MM = ((-24, 25), (-60, -22), (-20, 6))


@lru_cache(maxsize=len(KINDS))
def mni(kind: str = "t1") -> nib.Nifti1Image:
    """Return one of the MNI152 (2009a, symmetric, 1 mm) maps.

    Parameters
    ----------
    kind
        ``"t1"`` the skull-stripped T1w template, 0..1; ``"gm"``, ``"wm"``, ``"csf"`` tissue
        fractions, 0..1, where CSF is what grey and white matter leave of the brain;
        ``"brain"`` its mask; ``"ventricles"`` the CSF fraction of the lateral and third
        ventricles.

    Returns
    -------
    nibabel.Nifti1Image
        Shape (197, 233, 189), float32, RAS.

    Raises
    ------
    InputError
        Another kind.

    Notes
    -----
    The template was made by the Montreal Neurological Institute
    (ICBM 152 nonlinear symmetric 2009a) and comes inside nilearn.

    Examples
    --------
    >>> mni("wm").shape
    (197, 233, 189)
    """
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    if kind in ("t1", "gm", "wm"):
        source = files("nilearn") / "datasets" / "data"  # importing nilearn.datasets takes 2 s
        with as_file(source / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz") as path:
            stored = images.load(path)
            values = images.array(stored) / np.float32(255)
        return images.make(values, stored.affine)
    t1 = mni("t1")
    if kind == "brain":
        filled = ndimage.binary_fill_holes(images.array(t1) > 0)
        return images.make(filled.astype(np.float32), t1.affine)
    tissue = images.array(mni("gm")) + images.array(mni("wm"))
    csf = np.clip(images.array(mni("brain")) - tissue, 0, 1)
    if kind == "csf":
        return images.make(csf, t1.affine)
    return images.make(csf * _ventricle_mask(csf, t1.affine), t1.affine)


def box(limits_mm: Sequence[tuple[int, int]], affine: np.ndarray) -> tuple[slice, ...]:
    """Return the voxels of a 1 mm map between limits in MNI mm, one pair an axis."""
    corner = affine[:3, 3]
    return tuple(
        slice(int(a - c), int(b - c)) for (a, b), c in zip(limits_mm, corner, strict=True)
    )


def _ventricle_mask(csf: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Mask the large CSF objects inside the boxes, grown by a voxel to keep their soft rim."""
    inside = np.zeros(csf.shape, bool)
    inside[box(_VENTRICLES_MM, affine)] = True
    inside[box(_MIDLINE_MM, affine)] = False
    inside[box(_THIRD_VENTRICLE_MM, affine)] = True
    inside[box(_CISTERN_MM, affine)] = False
    labels, _ = ndimage.label((csf > 0.5) & inside)
    large = np.flatnonzero(np.bincount(labels.ravel()) >= 300)[1:]
    centres = ndimage.center_of_mass(labels > 0, labels, large)
    above = [k for k, c in zip(large, centres, strict=True) if c[2] + affine[2, 3] > -6]
    return ndimage.binary_dilation(np.isin(labels, above)) & inside
