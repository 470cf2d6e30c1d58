"""A diffusion scan with its tensors fitted and its place found: all that needs no regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from dipy.reconst.dti import color_fa, fractional_anisotropy, mean_diffusivity
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import series, tensor
from pvsbook.alps.gradients import BvecCheck, check_bvecs, file_axes
from pvsbook.alps.regions import FLUID_MD_MM2_S, Placement, Voxels
from pvsbook.atlas.registration import Model, Registration, register

if TYPE_CHECKING:
    from pvsbook.alps.preprocess import Displacement

FREE_MD_MM2_S = 2e-3
WHITE_FA = 0.25


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a result keeps of its scan; `pvsbook.alps.AlpsResult` says what most of it is.

    Attributes
    ----------
    whole : pvsbook.images.Dwi
        The series in the storage order nearest to RAS, as are all arrays here.
    rows : ndarray of int
        Its volumes that were fitted.
    refit : Refit
    to_fluid_mm : ndarray, shape (x, y, z)
        Distance of every voxel to fluid.
    was_low : ndarray of bool, shape (x, y, z)
        Voxels with a sample at or below zero.
    lost : mapping of int to str
        Of the volumes that were left out, those that cast a doubt on the series.
    displacement : Displacement or None
        The distortion that was corrected.
    """

    registration: Registration
    bvecs: BvecCheck
    b_s_mm2: float
    n_directions: int
    n_b0: int
    shells: str
    left_out: Mapping[int, str]
    fa: nib.Nifti1Image
    colour_fa: nib.Nifti1Image
    md: nib.Nifti1Image
    placement: Placement
    whole: images.Dwi
    rows: NDArray[np.intp]
    refit: Refit
    to_fluid_mm: NDArray[np.float64]
    was_low: NDArray[np.bool_]
    lost: Mapping[int, str]
    displacement: Displacement | None

    @property
    def axes(self) -> NDArray[np.float64]:
        """Rows: the axes of the voxels."""
        return images.rotation(self.placement.affine).T

    def doubts(self, regions: Sequence[Voxels]) -> list[str]:
        """Say what of the header, the volumes and the samples of the regions is in doubt."""
        low = float(np.mean([region.mean(self.was_low[region.at]) for region in regions]))
        return [*images.header_notes(self.placement.scan), *series.doubts(self.lost, low)]

    def correction(self, regions: Sequence[Voxels]) -> list[str]:
        """Say that the distortion was corrected, and how far the regions' voxels moved."""
        if self.displacement is None:
            return []
        image = images.make(self.displacement.mm, self.placement.scan.affine)
        moved = np.abs(images.array(nib.as_closest_canonical(image)))
        mm = [float(region.mean(moved[region.at])) for region in regions]
        return [
            "distortion was corrected by an image of the opposite phase encoding; on average "
            f"voxels moved by {min(mm):.1f} to {max(mm):.1f} mm, depending on the region"
        ]


def fit(
    dwi: images.Dwi,
    mask: nib.Nifti1Image | None,
    registration: Registration | Model,
    before_denoising: images.Dwi | None,
    displacement: Displacement | None,
) -> Fitted:
    """Fit the tensors of a scan, check its b-vectors, and register it."""
    stored, whole = dwi.image, series.canonical(dwi)
    shell = series.one_shell(whole.bvals_s_mm2)
    data, affine = images.array(whole.image)[..., shell], whole.image.affine
    bvals, bvecs, is_b0 = whole.bvals_s_mm2[shell], whole.bvecs_ras[shell], whole.is_b0[shell]
    if mask is None:
        inside = series.brain_mask(whole)
    else:
        loaded = images.make(images.load_mask(mask, stored), stored.affine)
        inside = np.asarray(nib.as_closest_canonical(loaded).dataobj) > 0
    series.check_order(data, inside, bvals, shell)
    unusable = series.unusable(data, inside, is_b0, bvecs)
    lost = {int(shell[k]): v for k, v in unusable.items()} | series.lone(whole.bvals_s_mm2)
    keep = np.delete(np.arange(len(shell)), list(unusable))
    shell, bvals, bvecs, is_b0 = shell[keep], bvals[keep], bvecs[keep], is_b0[keep]
    data, was_low = series.raised(data[..., keep], bvals)
    fitted = tensor.fit_tensor(data, bvals, bvecs, mask=inside)
    eigenvalues, eigenvectors = tensor.eigen(fitted.d_mm2_s)
    fa = fitted.fill(np.minimum(fractional_anisotropy(eigenvalues), 1))
    md = fitted.fill(mean_diffusivity(eigenvalues))
    size = images.voxel_size_mm(whole.image)
    directions = fitted.fill(eigenvectors[..., 0] @ images.rotation(affine))
    white = inside & (fa > WHITE_FA) & (md < FLUID_MD_MM2_S)
    check = check_bvecs(directions, fa, white, size, to_file=file_axes(stored.affine, affine))
    rows = np.delete(np.arange(len(whole.bvals_s_mm2)), list(lost))
    signals = images.array(whole.image)[..., rows][white]
    check = check.with_rows(
        signals, whole.bvals_s_mm2[rows], whole.bvecs_ras[rows], rows, fitted=np.isin(rows, shell)
    )
    brain = images.make(inside, affine)
    placed = register(images.make(fa, affine), registration, contrast="fa", mask=brain)
    d = np.zeros((*inside.shape, 3, 3))
    d[inside] = fitted.d_mm2_s
    tensors = placed.rotation @ d @ placed.rotation.T
    noise = None
    if before_denoising is not None:
        noise = _noise_of(before_denoising, stored, shell, fitted.min_signal)
    maps = {"fa": fa, "colour_fa": fitted.fill(color_fa(fa[inside], eigenvectors)), "md": md}
    return Fitted(
        registration=placed,
        bvecs=check,
        b_s_mm2=float(np.median(bvals[~is_b0])),
        n_directions=int((~is_b0).sum()),
        n_b0=int(is_b0.sum()),
        shells=series.shells_in_words(whole.bvals_s_mm2),
        left_out={**lost, **whole.left_out},
        placement=Placement(placed, stored, affine, inside, fa, md, tensors),
        whole=whole,
        rows=shell,
        refit=Refit(data, tensor.design_matrix(bvals, bvecs), fitted.min_signal, noise),
        to_fluid_mm=ndimage.distance_transform_edt(
            ~(inside & (md > FREE_MD_MM2_S)), sampling=size
        ),
        was_low=was_low,
        lost=lost,
        displacement=displacement,
        **{name: as_stored(values, affine, stored) for name, values in maps.items()},
    )


def as_stored(values: NDArray, affine: NDArray, stored: nib.Nifti1Image) -> nib.Nifti1Image:
    """Give a map in the storage order of the scan."""
    image = images.make(values, affine)
    back = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.io_orientation(stored.affine)
    )
    return image.as_reoriented(back)


@dataclass(frozen=True, eq=False)
class Refit:
    """Fits the tensors of any voxels; with `noise`, another series says what their noise is."""

    data: NDArray
    design: NDArray[np.float64]
    min_signal: float
    noise: Refit | None = None

    def __call__(self, voxels: Voxels) -> tensor.Wls:
        fitted = tensor.wls(self.data[voxels.at], self.design, min_signal=self.min_signal)
        return replace(self.noise(voxels), beta=fitted.beta) if self.noise else fitted


def _noise_of(
    before: images.Dwi, stored: nib.Nifti1Image, shell: NDArray[np.intp], min_signal: float
) -> Refit:
    """Take the noise of the series before denoising."""
    images.same_grid(before.image, stored, name="before_denoising", other_name="dwi")
    raw = series.canonical(before)
    if raw.image.shape[3] <= shell.max():
        raise InputError(
            f"before_denoising: {raw.image.shape[3]} volumes; give the series that was denoised"
        )
    design = tensor.design_matrix(raw.bvals_s_mm2[shell], raw.bvecs_ras[shell])
    return Refit(images.array(raw.image)[..., shell], design, min_signal)
