"""Regions and tissue priors of one scan, taken from MNI, and its levels of signal and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cc3d
import edt
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.transform import downscale_local_mean

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import perivascular, templates
from pvsbook.atlas.registration import Model, Registration, register
from pvsbook.images._smooth import smooth_within
from pvsbook.pvs._spread import correlation, far_side, robust_spread

Floats = NDArray[np.float32]
Contrast = Literal["t2", "t1"]
Strip = Literal["opening", "deepbet"]

__all__ = ["Levels", "PvsAnatomy", "foreground_mask", "locate_regions", "measure_levels"]

LARGEST_BRAIN_ML = 2200.0  # with ventricles and sulci; a mask that holds more holds scalp
_SMALLEST_BRAIN_ML = 700.0
_OVERSHOOTS = 0.01  # of what is not zero
_SCALP = 0.9  # of what is not air; a brain without scalp keeps .98 and more
_HEIGHT_MM = 130.0  # of a whole brain; of less, the smallest brain is smaller
_DEEP_MM = 25.0  # below the skin: brain, whatever the scalp looks like
_TISSUE = 0.5  # of the median there
_BRIDGES_MM = range(3, 9)  # radii at which brain and scalp may come apart
_SULCI_MM = 8.0  # closed over, since their fluid is dark on T1
MARGIN_MM = 12.0  # kept around the regions
_NO_REGION = (
    "image: its field of view holds neither centrum semiovale, basal ganglia nor midbrain; check "
    "the orientation in the header, and that this is a brain"
)
MIN_DEPTH_MM = 2.2  # of what is surely inside white matter
_GREY_WHITE_MM = 1.0  # where they mix
_BACKGROUND_MM = 4.0  # smoothness of the tissue background


@dataclass(frozen=True, eq=False)
class PvsAnatomy:
    """Regions and tissue priors on the part of a scan that holds them.

    Attributes
    ----------
    image
        The scan, cut to a box around the regions.
    box
        Where the box lies in the scan.
    regions
        Labels of `pvsbook.atlas.perivascular.REGIONS`, shape of `image`.
    wm, gm, ventricles
        Prior fractions of tissue, resampled from MNI, float32.
    brain
        The brain of this scan, bool.
    coverage
        Fraction of each region that field of view and brain mask hold, by label.
    mask_ml
        Volume of the whole mask that the registration used.
    registration
        From the scan to MNI space.
    stripped_by
        How the brain was cut out of a whole head; empty where the scan held no more.
    """

    image: nib.Nifti1Image
    box: tuple[slice, slice, slice]
    regions: NDArray[np.uint8]
    wm: Floats
    gm: Floats
    ventricles: Floats
    brain: NDArray[np.bool_]
    coverage: dict[int, float]
    mask_ml: float
    registration: Registration
    stripped_by: str = ""

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel size in mm, shape (3,)."""
        return images.voxel_size_mm(self.image)


@dataclass(frozen=True, eq=False)
class Levels:
    """Signal levels of one scan, in its own unit.

    Attributes
    ----------
    white_matter, grey_matter, fluid
        Medians of normal-appearing white matter, cortex, and ventricular fluid.
    noise_sd
        Robust standard deviation of normal-appearing white matter about its smooth background.
    smoothness
        Correlation of neighbouring voxels of that residual along the three axes; the threshold
        holds against all of it, anatomy too.
    noise_correlation
        The same of the noise alone, for standard errors: what neighbours share beyond what
        voxels two apart share, which is anatomy.
    background
        Smooth tissue signal, shape of the anatomy.
    """

    white_matter: float
    grey_matter: float
    fluid: float
    noise_sd: float
    smoothness: tuple[float, ...]
    noise_correlation: tuple[float, ...]
    background: Floats

    @property
    def sign(self) -> float:
        """+1 where fluid is bright (T2w), -1 where it is dark (T1w)."""
        return 1.0 if self.fluid > self.white_matter else -1.0

    @property
    def fluid_contrast(self) -> float:
        """Difference of fluid and white matter, positive."""
        return abs(self.fluid - self.white_matter)

    @property
    def contrast_to_noise(self) -> float:
        """Fluid against white matter, in standard deviations of the noise."""
        return self.fluid_contrast / self.noise_sd


def above_zero(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Lift a standardised image, whose signal is in part negative; exact zeros are outside it.

    A few negative voxels are overshoots of an interpolation, and stay.

    Raises
    ------
    InputError
        Integers that overflowed when the scan was stored.
    """
    values = images.array(image)
    if image.get_data_dtype().kind in "iu" and images.is_wrapped(values):
        raise InputError(
            "image: neighbours differ by nearly the whole range of its values, as where integers "
            "overflowed; convert the scan again, as floating point or with a scale factor"
        )
    if (values < 0).sum() <= _OVERSHOOTS * np.count_nonzero(values):
        return image
    lowest = float(values.min())
    return images.make(np.where(values != 0, values - 1.01 * lowest, 0), image.affine)


def foreground_mask(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Find the brain in a skull-stripped scan, or the head in a whole one.

    Where a fifth or more of the voxels have exactly the value of the corner voxel, the scan has
    been skull-stripped and the rest is brain.  Otherwise Otsu's threshold separates the head from
    air, and an opening of 5 mm cuts thin bridges to scalp.

    Parameters
    ----------
    image
        3D scan.

    Returns
    -------
    nibabel.Nifti1Image
        Mask on the same grid.

    Examples
    --------
    >>> stripped = np.zeros((20, 20, 20), np.float32)
    >>> stripped[5:15, 5:15, 5:15] = np.random.default_rng(0).random((10, 10, 10)) + 1
    >>> int(np.asarray(foreground_mask(images.make(stripped, np.eye(4))).dataobj).sum())
    1000
    """
    values = images.array(image)
    stripped = np.isclose(values, values[0, 0, 0], rtol=0, atol=1e-6 * np.ptp(values))
    if stripped.mean() >= 0.2:
        mask = _largest(~stripped)
    else:
        mask = _head(values, images.voxel_size_mm(image))
    return images.make(ndimage.binary_fill_holes(mask), image.affine)


def brain_mask(image: nib.Nifti1Image, strip: Strip = "opening") -> tuple[nib.Nifti1Image, bool]:
    """Return the `foreground_mask` without the scalp, and whether there was scalp to cut off.

    Beside deepbet (Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845), on seven whole heads
    of two people, T2w, T1w and FLAIR, opening overlaps by .97 to .98 (Dice); by .93 on a T2w with
    open eyes and by .88 on a T1w with 3 mm slices, whose vertex it cuts off.
    """
    if strip not in ("opening", "deepbet"):
        raise InputError(f"strip: {strip!r}; choose 'opening' or 'deepbet'")
    head = foreground_mask(image)
    brain = _strip(image, head)
    is_head = _volume_ml(brain) < _SCALP * _volume_ml(head)
    if is_head and strip == "deepbet":
        brain = _deepbet(image)
    return (brain if is_head else head), is_head


def _deepbet(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Cut the brain out of a whole head by the network of deepbet, on the processor."""
    try:
        from deepbet import BrainExtraction
    except ImportError as error:
        raise InputError(
            f"strip: 'deepbet' cannot be loaded ({error}); run: pip install 'pvsbook[strip]'"
        ) from error
    _, mask, _ = BrainExtraction(no_gpu=True).run(image)
    inside = np.asarray(mask.dataobj) > 0
    if not inside.any():
        raise InputError("image: deepbet finds no brain in it; give a brain mask")
    return images.make(inside.astype(np.uint8), image.affine)


def _head(values: Floats, size: NDArray) -> NDArray[np.bool_]:
    """Separate the head from air, without thin bridges, on blocks of about 2 mm."""
    step = np.maximum(1, np.round(2 / size)).astype(int)
    mean = ndimage.gaussian_filter(downscale_local_mean(values, tuple(step)), 0.7)
    coarse = mean > threshold_otsu(mean)
    spacing = tuple(size * step)
    inner = edt.edt(coarse, anisotropy=spacing) > 5
    if inner.any():
        coarse &= edt.edt(~_largest(inner), anisotropy=spacing) <= 5
    for axis, k in enumerate(step):
        coarse = np.repeat(coarse, k, axis=axis)
    return coarse[tuple(slice(n) for n in values.shape)]


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest part of a mask that hangs together by faces."""
    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=6)) > 0


def locate_regions(
    image: nib.Nifti1Image,
    *,
    contrast: Contrast = "t2",
    mask: nib.Nifti1Image | None = None,
    registration: Registration | Model = "affine",
    strip: Strip = "opening",
) -> PvsAnatomy:
    """Register a scan to MNI space, and resample regions and tissue priors to its grid.

    Parameters
    ----------
    image
        3D scan, skull-stripped or whole head, any storage order.
    contrast
        ``"t2"`` or ``"t1"``.
    mask
        Brain mask on the grid of the scan; by default the `foreground_mask`, without the scalp.
    registration
        ``"affine"``; ``"syn"`` for an affine one followed by SyN (see
        `pvsbook.atlas.registration.refine_nonlinear`), where ventricles are wide or the brain is
        far from the template's shape; or where the scan lies in MNI space, if known already.
    strip
        How the brain is cut out of a whole head (see `pvsbook.pvs.pipeline.measure`).

    Raises
    ------
    InputError
        An unknown registration, or a field of view that holds none of the regions.
    """
    whole_head = False
    if mask is None:
        mask, whole_head = brain_mask(image, strip)
    registration = register(image, registration, contrast=contrast, mask=mask)
    atlas = _warped(perivascular.regions(), registration, order=0)
    box = _box_around(atlas, registration, image)
    cut = image.slicer[box]
    labels = np.asarray(registration.to_native(atlas, cut).dataobj).astype(np.uint8)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    expected_ml = np.bincount(np.asarray(atlas.dataobj).ravel(), minlength=7) / 1000
    expected_ml = expected_ml / np.linalg.det(registration.native_to_mni[:3, :3])
    brain = np.asarray(mask.dataobj)[box] != 0
    inside_ml = np.bincount(labels[brain], minlength=7) * voxel_ml
    coverage = {k: float(min(1.0, inside_ml[k] / expected_ml[k])) for k in perivascular.REGIONS}
    if max(coverage.values()) < 0.05:
        raise InputError(_NO_REGION)
    priors = {}
    for kind in ("wm", "gm", "ventricles"):
        prior = _warped(templates.mni(kind), registration, order=1)
        priors[kind] = images.array(registration.to_native(prior, cut, order=1))
    return PvsAnatomy(
        image=cut,
        box=box,
        regions=np.where(brain, labels, 0).astype(np.uint8),
        **priors,
        brain=brain,
        coverage=coverage,
        mask_ml=_volume_ml(mask),
        registration=registration,
        stripped_by=strip if whole_head else "",
    )


def _warped(
    mni_image: nib.Nifti1Image, registration: Registration, *, order: int
) -> nib.Nifti1Image:
    """Apply the nonlinear part of a registration, if it has one."""
    warp = registration.warp
    return mni_image if warp is None else warp.apply(mni_image, order=order)


def _volume_ml(mask: nib.Nifti1Image) -> float:
    voxel_ml = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    return float(np.count_nonzero(mask.dataobj) * voxel_ml)


def _strip(image: nib.Nifti1Image, head: nib.Nifti1Image) -> nib.Nifti1Image:
    """Cut the brain out of a whole head, where it comes apart from the scalp.

    Skull is dark in both contrasts.  Bright tissue is opened by one radius after the other; once
    the bridges through the skull are cut, the largest part hardly changes from one radius to the
    next, and that plateau is the brain.
    """
    size = tuple(images.voxel_size_mm(image))
    height_mm = np.abs(image.affine[2, :3]) @ np.array(image.shape)
    smallest_ml = _SMALLEST_BRAIN_ML * min(1, height_mm / _HEIGHT_MM)
    values, inside = images.array(image), np.asarray(head.dataobj) != 0
    deep = edt.edt(inside, anisotropy=size, black_border=True) > _DEEP_MM
    if not deep.any():
        return head
    bright = inside & (values > _TISSUE * np.median(values[deep]))
    depth = edt.edt(bright, anisotropy=size, black_border=True)
    voxel_ml = float(np.prod(size)) / 1000
    parts: list[NDArray[np.bool_]] = []
    for radius in _BRIDGES_MM:
        labels = np.asarray(cc3d.connected_components(depth > radius, connectivity=6))
        core = labels == np.bincount(labels[deep & (labels > 0)], minlength=1).argmax()
        core &= labels > 0
        if core.sum() * voxel_ml < smallest_ml / 10:
            break
        parts.append(bright & (edt.edt(~core, anisotropy=size) <= radius + 1))
    volumes = np.array([part.sum() * voxel_ml for part in parts])
    fits = (volumes[:-1] <= LARGEST_BRAIN_ML) & (volumes[1:] >= smallest_ml)
    if not fits.any():
        return head
    change = np.where(fits, 1 - volumes[1:] / np.maximum(volumes[:-1], 1), np.inf)
    near = edt.edt(~parts[int(np.argmin(change)) + 1], anisotropy=size) <= _SULCI_MM
    closed = edt.edt(near, anisotropy=size, black_border=False) > _SULCI_MM
    for axis in range(3):  # nuclei that hold iron are as dark as skull on T2
        for section in np.moveaxis(closed, axis, 0):
            section[:] = ndimage.binary_fill_holes(section)
    return images.make(closed.astype(np.uint8), head.affine)


def _box_around(
    atlas: nib.Nifti1Image, registration: Registration, image: nib.Nifti1Image
) -> tuple[slice, slice, slice]:
    """Part of the scan that holds the regions and a margin."""
    places = np.argwhere(np.asarray(atlas.dataobj))[::50]
    scanner_mm = registration.points_to_native(nib.affines.apply_affine(atlas.affine, places))
    voxels = nib.affines.apply_affine(np.linalg.inv(image.affine), scanner_mm)
    margin = MARGIN_MM / images.voxel_size_mm(image)
    low = np.maximum(np.floor(voxels.min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(voxels.max(axis=0) + margin) + 1, image.shape).astype(int)
    if np.any(high - low < 2):
        raise InputError(_NO_REGION)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def measure_levels(anatomy: PvsAnatomy, depth_mm: Floats | None = None) -> Levels:
    """Measure the signal of white matter, grey matter and fluid, and the noise.

    Parameters
    ----------
    anatomy
        Of the scan.
    depth_mm
        Distance to this person's cortex, sulci and ventricles, shape of `anatomy`.  The atlas puts
        white matter where the person may have a sulcus; what lies near one is then left out, as
        long as 500 voxels remain.

    Raises
    ------
    InputError
        No white matter where it is expected, or a scan without noise or contrast.
    """
    values = images.array(anatomy.image)
    size = anatomy.voxel_size_mm
    core = (anatomy.wm > 0.9) & (anatomy.regions > 0) & (anatomy.regions <= 2)
    if core.sum() < 500:
        core = (anatomy.wm > 0.8) & anatomy.brain
    if core.sum() < 500:
        raise InputError(
            "image: fewer than 500 voxels of white matter lie in the field of view; "
            "check the mask and the orientation in the header"
        )
    beside = np.zeros_like(core) if depth_mm is None else depth_mm <= _GREY_WHITE_MM
    deep = core if depth_mm is None else core & (depth_mm > MIN_DEPTH_MM)
    if deep.sum() >= 500:
        core = deep
    white, spread = robust_spread(values[core])
    fluid = _fluid_level(values, anatomy, white)
    if depth_mm is None:
        white, spread = far_side(values[core], spread, fluid)
    cortex = (anatomy.gm > 0.8) & anatomy.brain & (anatomy.regions == 0)
    grey = float(np.median(values[cortex])) if cortex.sum() > 500 else white
    normal = anatomy.brain & ~beside & (np.abs(values - white) < 3 * spread)
    background = smooth_within(values, normal, _BACKGROUND_MM / size, default=white)
    residual = np.where(core & normal, values - background, 0)
    _, noise = robust_spread((values - background)[core])
    if not noise > 1e-6 * abs(fluid - white):
        raise InputError(
            "image: white matter is constant; give the scan itself, not a mask of it, and a brain "
            "mask, if any, that lies on the brain"
        )
    pairs = core & normal
    nearest = tuple(correlation(residual, pairs, axis, lag=1) for axis in range(3))
    second = tuple(correlation(residual, pairs, axis, lag=2) for axis in range(3))
    of_noise = tuple(max(a - b, 0) / (1 - b) for a, b in zip(nearest, second, strict=True))
    return Levels(white, grey, fluid, noise, nearest, of_noise, background)


def _fluid_level(values: Floats, anatomy: PvsAnatomy, white: float) -> float:
    """Signal of ventricular fluid: the side of white matter on which the ventricles lie."""
    ventricles = anatomy.ventricles > 0.8
    inside = values[ventricles & anatomy.brain]
    if inside.size < 50 <= ventricles.sum():
        raise InputError(
            "brain_mask: given, or found in the scan, it leaves the lateral ventricles out, so "
            "the signal of fluid is unknown; give a brain mask that holds them"
        )
    if inside.size < 50:
        raise InputError(
            "image: fewer than 50 voxels of the ventricles lie in the field of view, so the "
            "signal of fluid is unknown; use a scan that holds the lateral ventricles"
        )
    sign = 1 if np.median(inside) > white else -1
    return float(np.median(sign * np.sort(sign * inside)[inside.size // 2 :]))
