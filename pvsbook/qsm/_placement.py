"""Where a gradient echo lies in MNI space: through a T1w image of the same visit, or by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.registration import Registration, is_placed, register_to_mni, rigid_and_scales
from pvsbook.images._smooth import smooth_within
from pvsbook.qsm.quality import Flag
from pvsbook.qsm.reference import MIN_VOXELS

# An affine transform from the magnitude to a T1w image of the same simulated head stretches by 2 %
# at most, to that of another head by 6 % or more, and to one that is back to front by 11 %.  One
# that is flipped sideways needs 3.4 % where the head is not symmetric, and fits where it is.
MAX_STRETCH = 0.03
EVEN_MM = 20.0  # a receive field is smooth over this width
# R2* of white matter is about 15, 19 and 37 per second at 1.5, 3 and 7 T (Peters et al. 2007,
# doi:10.1016/j.mri.2007.02.014).  Echo times that are twice as long as they were halve it; people
# differ by a tenth or two, and field across thick voxels raises it.
WHITE_R2S_HZ = (10.0, 3.4)  # at zero field, and per tesla
R2S_SHARE = (0.65, 1.75)  # of it

Masked = tuple[nib.Nifti1Image, nib.Nifti1Image]  # image and brain mask on one grid


@dataclass(frozen=True)
class Placement:
    """A registration of a gradient echo with the template, and how it was found.

    Attributes
    ----------
    registration
        Scanner mm to MNI mm; its contrast and correlation are those of `image`.
    image
        ``"T1w"`` or ``"magnitude"``: what was compared with the template.
    doubt
        Why a T1w image that was given was not used; empty where it was, or where there is none.
    """

    registration: Registration
    image: str = "magnitude"
    doubt: str = ""


def place(magnitude: Masked, t1w: Masked | str | None) -> Placement:
    """Register a magnitude with the template, through a T1w image where there is a usable one.

    A nonlinear registration of the T1w image is not made: on three simulated heads it changed the
    overlap (Dice) of the nuclei from 0.93, 0.64 and 0.65 to 0.92, 0.67 and 0.17.

    Parameters
    ----------
    magnitude
        Last echo and its brain mask.
    t1w
        T1w image of the same person in any pose, and its brain mask; why it could not be read; or
        None.
    """
    found = t1w if t1w is None or isinstance(t1w, str) else _through(t1w, magnitude)
    if isinstance(found, Registration):
        return Placement(found, "T1w")
    doubt = found or ""
    image, mask = magnitude
    return Placement(register_to_mni(image, contrast="t2", mask=mask), doubt=doubt)


def _through(t1w: Masked, magnitude: Masked) -> Registration | str:
    """Register by the T1w image, or say why not."""
    try:
        found = register_to_mni(t1w[0], contrast="t1", mask=t1w[1])
        to_t1w, scales = rigid_and_scales(_even(*magnitude), _even(*t1w))
    except InputError as error:
        return str(error)
    if not is_placed(found):
        return f"it correlates with the template by {found.correlation:.2f}, as no T1w image does"
    stretch = float(np.abs(scales - 1).max())
    if stretch > MAX_STRETCH:
        return (
            f"it fits the magnitude only if stretched by {100 * stretch:.0f} %, as that of "
            "another person or in another orientation does"
        )
    return replace(found, native_to_mni=found.native_to_mni @ to_t1w)


def _even(image: nib.Nifti1Image, mask: nib.Nifti1Image) -> nib.Nifti1Image:
    """Cut out the brain, and divide it by what is smooth in it, as the receive field is."""
    values, inside = images.array(image), images.array(mask) > 0
    level = smooth_within(values, inside, EVEN_MM / images.voxel_size_mm(image))
    even = values / np.maximum(level, 1e-6 * level.max())
    return images.make(np.where(inside, even, 0), image.affine)


def check_decay(
    gre: images.Gre, r2s_hz: NDArray[np.float32] | None, white: NDArray[np.bool_]
) -> tuple[Flag, ...]:
    """Flag white matter that decays as it does at no such field strength."""
    if r2s_hz is None or white.sum() < MIN_VOXELS:
        return ()
    found, at_zero, per_tesla = float(np.median(r2s_hz[white])), *WHITE_R2S_HZ
    usual = at_zero + per_tesla * gre.field_strength_t
    low, high = (share * usual for share in R2S_SHARE)
    if low <= found <= high:
        return ()
    words = (
        f"R2* of white matter is {found:.3g} per second, at {gre.field_strength_t:g} T about "
        f"{usual:.0f} ({low:.0f} to {high:.0f}); check the echo times and the field strength"
    )
    return (Flag("decay rate", words),)
