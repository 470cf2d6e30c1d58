"""A head in a gradient-echo scan, with its susceptibility known: simulated, no person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import nibabel as nib
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from pvsbook import images
from pvsbook._constants import GAMMA_MHZ_T
from pvsbook._errors import InputError
from pvsbook.phantoms._head import CHI_PPB, MYELIN_PPB, R2S_HZ, SIGNAL, FineGrid, draw_head
from pvsbook.phantoms.brain import GridOptions, brain_grid

__all__ = ["CHI_PPB", "MYELIN_PPB", "GrePhantom", "make_gre"]

SURROUND_MM = 14.0  # scalp and some air around it
HALVES = nib.affines.from_matvec(np.eye(3) / 2, np.full(3, -0.25))  # half-voxel index to voxel


@dataclass(frozen=True, eq=False)
class GrePhantom:
    """A simulated scan and what it was made of.

    Attributes
    ----------
    gre
        The scan, as `pvsbook.images.load_gre` would give it.
    chi_ppm
        True susceptibility, mean over each voxel, relative to water; shape (x, y, z).
    local_field_ppm
        Field of the sources inside the brain alone.
    field_ppm
        Whole field, after shimming.
    brain
        Mask of the brain.
    labels
        Voxels that lie mostly in a nucleus, numbered as `pvsbook.atlas.deep_grey.table`.
    r2s_hz
        True R2*.
    veins, calcification, bleeds
        Fraction of each voxel that is vein, calcification, or microbleed.
    iron_ppm, myelin_ppm
        The two sources in tissue: susceptibility there is iron less myelin.
    r2_hz
        The part of R2* that is not theirs.
    mni_to_world
        Pose of the head, 4 x 4.
    """

    gre: images.Gre
    chi_ppm: NDArray[np.float32]
    local_field_ppm: NDArray[np.float32]
    field_ppm: NDArray[np.float32]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    r2s_hz: NDArray[np.float32]
    veins: NDArray[np.float32]
    calcification: NDArray[np.float32]
    bleeds: NDArray[np.float32]
    iron_ppm: NDArray[np.float32]
    myelin_ppm: NDArray[np.float32]
    r2_hz: NDArray[np.float32]
    mni_to_world: NDArray[np.float64]

    def image(self, data: ArrayLike) -> nib.Nifti1Image:
        """Make an image of an array on this grid."""
        return images.make(data, self.gre.affine)


def make_gre(
    rng: np.random.Generator,
    *,
    voxel_size_mm: float | ArrayLike = 1.0,
    echo_times_s: ArrayLike = (0.005, 0.010, 0.015, 0.020, 0.025),
    field_strength_t: float = 3.0,
    chi_ppb: Mapping[str, float] | None = None,
    myelin_ppb: Mapping[str, float] | None = None,
    sources: bool = False,
    anisotropy_ppb: float = 0.0,
    texture: float = 0.15,
    n_veins: int = 60,
    n_microbleeds: int = 0,
    snr: float = 60.0,
    anatomy: np.random.Generator | None = None,
    **grid: Unpack[GridOptions],
) -> GrePhantom:
    """Simulate a gradient-echo scan of a head.

    The head is drawn on a grid of half the voxel size, its field is computed there from the
    dipole kernel, with air and bone around the brain, and each voxel's signal is the complex sum
    of its eight parts.  So the forward model is not the one that an inversion on the scan's own
    grid would undo exactly.

    Parameters
    ----------
    rng
        Draws coil phase, shim and noise, and, where `anatomy` is None, the head itself.
    voxel_size_mm
        One number or three, 0.6 to 5 mm.
    echo_times_s
        Seconds.
    field_strength_t
        Tesla; the field lies along scanner z.
    chi_ppb
        Replaces entries of `CHI_PPB`.
    myelin_ppb
        Replaces entries of `MYELIN_PPB`; susceptibility falls by as much as myelin rises.
    sources
        Let iron and myelin make R2*, by `RELAXIVITY_HZ_PPM` each; by default R2* has values,
        texture and edges of its own.
    anisotropy_ppb
        Susceptibility of white matter along its fibres less that across.  Fibres run left-right
        near the midline, up-down beside the ventricles and front-back further out, so that the
        truth depends on the pose.
    texture
        Relative standard deviation of susceptibility inside nuclei; R2* has a texture and edges
        of its own, so that magnitude does not give the truth away.
    n_veins
        Deep white-matter veins; zero for none.
    n_microbleeds
        Paramagnetic balls of 1 to 2 mm radius in white matter.
    snr
        White-matter magnitude in the first echo over the noise of one channel.
    anatomy
        Draws texture, veins and bleeds.  Two scans whose generators have one seed are of the same
        head: change `rng`, pose and `chi_ppb` between them for a second visit.
    **grid
        Pose of the head (the field stays where it is), storage order and tilt of the slices: see
        `pvsbook.phantoms.brain.GridOptions`.  The margin is 12 mm by default.

    Returns
    -------
    GrePhantom

    Raises
    ------
    InputError
        An unknown tissue in `chi_ppb`, or a voxel size out of range.

    References
    ----------
    Marques et al. 2021 (realistic QSM head), doi:10.1002/mrm.28716.

    Examples
    --------
    >>> phantom = make_gre(np.random.default_rng(0), voxel_size_mm=4)
    >>> phantom.gre.phase_rad.shape == (*phantom.chi_ppm.shape, 5)
    True
    """
    values = _replaced(CHI_PPB, chi_ppb, "chi_ppb")
    myelin = _replaced(MYELIN_PPB, myelin_ppb, "myelin_ppb")
    for name in myelin:
        values[name] -= myelin[name] - MYELIN_PPB[name]
    size = np.broadcast_to(np.asarray(voxel_size_mm, np.float64), (3,))
    times = np.atleast_1d(np.asarray(echo_times_s, np.float64))
    margin_mm = grid.get("margin_mm", 12.0)
    extra = np.ceil(max(SURROUND_MM + 4 - margin_mm, 0) / size).astype(int)
    grid["margin_mm"] = margin_mm + float((extra * size).max())
    whole = brain_grid(size, **grid)
    shape = tuple(2 * n for n in whole.shape)
    b0 = images.rotation(whole.affine)[2]
    head = draw_head(
        FineGrid(shape, whole.to_mni @ HALVES, size / 2),
        values,
        myelin,
        rng if anatomy is None else anatomy,
        texture=texture,
        n_veins=n_veins,
        n_microbleeds=n_microbleeds,
        sources=sources,
        anisotropy_ppb=anisotropy_ppb,
        up=images.rotation(np.linalg.inv(whole.mni_to_world))[:, 2],
    )
    inside = np.where(head["brain"], head["chi_ppm"], np.float32(0))
    head["local_field_ppm"] = _dipole_field(inside, size / 2, b0)
    head["field_ppm"] = _dipole_field(head["chi_ppm"], size / 2, b0)
    box = tuple(slice(2 * e, n - 2 * e) for e, n in zip(extra, shape, strict=True))
    head = {name: np.ascontiguousarray(volume[box]) for name, volume in head.items()}
    head["field_ppm"] -= _shim(head["field_ppm"], head["brain"], size / 2, rng)
    labels, signal = _most_of_parts(head.pop("labels")), head.pop("signal")
    offset = _coil_phase(labels.shape, rng)
    omega = 2 * math.pi * GAMMA_MHZ_T * field_strength_t
    clean = np.empty((*offset.shape, times.size), np.complex64)
    _average(head["field_ppm"], signal, head["r2s_hz"], offset, times, omega, clean)
    noise = SIGNAL["white matter"] * math.exp(-R2S_HZ["white matter"] * times[0]) / snr
    parts = rng.standard_normal((*clean.shape, 2), np.float32)  # real and imaginary
    scan = clean + np.float32(noise) * parts.view(np.complex64)[..., 0]
    affine = whole.affine @ nib.affines.from_matvec(np.eye(3), extra)
    gre = images.Gre(
        np.abs(scan), np.angle(scan), times, float(field_strength_t), affine, "radians"
    )
    truth: dict[str, Any] = {name: _mean_of_parts(volume) for name, volume in head.items()}
    truth["brain"] = truth["brain"] > 0.5
    return GrePhantom(gre=gre, labels=labels, mni_to_world=whole.mni_to_world, **truth)


def _replaced(
    values: Mapping[str, float], changes: Mapping[str, float] | None, name: str
) -> dict[str, float]:
    unknown = [key for key in changes or {} if key not in values]
    if unknown:
        raise InputError(f"{name}: {unknown[0]!r} is unknown; known are {', '.join(values)}")
    return {**values, **(changes or {})}


def _dipole_field(chi_ppm: NDArray, size_mm: NDArray, b0: NDArray) -> NDArray[np.float32]:
    """Return the field of a map.  What lies beyond the grid is taken to be like its rim.

    The grid's rim is air nearly everywhere, and uniform air makes no field that matters here:
    subtracting it leaves the head alone, in empty space.
    """
    rim = np.float32(np.median(chi_ppm[:, :, -1]))
    big = [fft.next_fast_len(int(n * 1.25), real=True) for n in chi_ppm.shape]
    spectrum = fft.rfftn(chi_ppm - rim, s=big, workers=2)
    frequencies = (fft.fftfreq, fft.fftfreq, fft.rfftfreq)
    axes = zip(frequencies, big, size_mm, strict=True)
    kx, ky, kz = (along(n, s).astype(np.float32) for along, n, s in axes)
    a, b, c = b0.astype(np.float32)
    for x, plane in zip(kx, spectrum, strict=True):  # a plane at a time keeps memory low
        square = x * x + ky[:, None] ** 2 + kz**2
        along = a * x + b * ky[:, None] + c * kz
        plane *= np.float32(1 / 3) - along * along / np.maximum(square, np.float32(1e-12))
    spectrum[0, 0, 0] = 0
    x, y, z = chi_ppm.shape
    return fft.irfftn(spectrum, s=big, overwrite_x=True, workers=2)[:x, :y, :z]


def _shim(
    field_ppm: NDArray, brain: NDArray, size_mm: NDArray, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return what shims of first and second order, all harmonic, take away, with a small error."""
    x, y, z = np.meshgrid(
        *[np.float32(s / 100) * (np.arange(n, dtype=np.float32) - n / 2)
          for n, s in zip(field_ppm.shape, size_mm, strict=True)],
        indexing="ij", sparse=True,
    )  # fmt: skip
    terms = (1, x, y, z, x * y, y * z, x * z, x * x - y * y, 2 * z * z - x * x - y * y)
    step = tuple(slice(None, None, 4) for _ in range(3))
    inside = brain[step]
    basis = np.stack([np.broadcast_to(t, field_ppm.shape)[step][inside] for t in terms], axis=1)
    weights = np.linalg.lstsq(basis, field_ppm[step][inside], rcond=None)[0]
    weights[1:4] += rng.normal(0, 0.05, 3)
    out = np.zeros(field_ppm.shape, np.float32)
    for weight, term in zip(weights, terms, strict=True):
        out += np.float32(weight) * term
    return out


def _coil_phase(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a smooth phase at echo time zero, a few radians across the head."""
    x, y, z = np.meshgrid(
        *[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True
    )
    a = rng.normal(0, 1, 7).astype(np.float32)
    return (
        a[0] + a[1] * x + a[2] * y + a[3] * z + 0.5 * (a[4] * x * y + a[5] * y * z + a[6] * x * x)
    )


@numba.njit(cache=True, fastmath=True)
def _average(field, signal, r2s, offset, times, omega, out):  # type: ignore[no-untyped-def]
    for i, j, k, e in np.ndindex(out.shape):
        re = 0.0
        im = 0.0
        for p in range(8):
            a = 2 * i + (p >> 2)
            b = 2 * j + ((p >> 1) & 1)
            c = 2 * k + (p & 1)
            s = signal[a, b, c]
            if s > 0:
                s *= math.exp(-r2s[a, b, c] * times[e])
                angle = omega * field[a, b, c] * times[e] + offset[i, j, k]
                re += s * math.cos(angle)
                im += s * math.sin(angle)
        out[i, j, k, e] = complex(re / 8, im / 8)


def _parts(fine: NDArray) -> list[NDArray]:
    """Take the eight voxels of each 2 x 2 x 2 block."""
    return [fine[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]


def _mean_of_parts(fine: NDArray) -> NDArray[np.float32]:
    """Return the mean of each 2 x 2 x 2 block."""
    return np.asarray(sum(_parts(fine), np.float32(0)) / np.float32(8))


def _most_of_parts(fine: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the label that more than half of each 2 x 2 x 2 block has; else zero."""
    ordered = np.sort(_parts(fine), axis=0)  # such a label fills five places, the fourth too
    return np.where((ordered[:4] == ordered[4:]).any(axis=0), ordered[3], 0)
