"""A head in a gradient-echo scan, with its susceptibility known: simulated, no person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import edt
import nibabel as nib
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey, templates
from pvsbook.phantoms.brain import brain_grid, trilinear

__all__ = ["CHI_PPB", "GrePhantom", "make_gre"]

GAMMA_MHZ_T = 42.577478518  # proton, CODATA 2018

# Susceptibility relative to water.  Tissue: the values of the challenge-style heads in use; bone
# and air: Schenck 1996, doi:10.1118/1.597854, less water's -9.05 ppm.
CHI_PPB = {
    "caudate": 44.0,
    "putamen": 38.0,
    "pallidum": 130.0,
    "thalamus": 20.0,
    "pulvinar": 35.0,
    "red nucleus": 100.0,
    "substantia nigra": 111.0,
    "dentate": 152.0,
    "white matter": -30.0,
    "grey matter": 20.0,
    "csf": 19.0,
    "blood": 190.0,
    "calcification": -1500.0,
    "bleed": 900.0,
    "bone": -2100.0,
    "air": 9400.0,
}
# Iron (paramagnetic) and myelin (diamagnetic) of a tissue: their difference is its susceptibility.
MYELIN_PPB = {
    "caudate": 18.0,
    "putamen": 18.0,
    "pallidum": 30.0,
    "thalamus": 35.0,
    "pulvinar": 30.0,
    "red nucleus": 25.0,
    "substantia nigra": 20.0,
    "dentate": 25.0,
    "white matter": 55.0,
    "grey matter": 12.0,
    "csf": 0.0,
}
R2_HZ = {"wm": 12.5, "gm": 12.0, "csf": 4.0}
RELAXIVITY_HZ_PPM = 137.0  # R2' of 1 ppm of either source at 3 T (Shin et al. 2021)
# Signal at echo time zero, relative, and R2* at 3 T in 1/s.
SIGNAL = {"wm": 0.70, "gm": 0.85, "csf": 1.0, "bone": 0.04, "scalp": 0.8}
R2S_HZ = {
    "wm": 21.0,
    "gm": 17.0,
    "csf": 4.0,
    "bone": 400.0,
    "scalp": 30.0,
    "blood": 55.0,
    "calcification": 150.0,
    "bleed": 150.0,
    "caudate": 22.0,
    "putamen": 26.0,
    "pallidum": 40.0,
    "thalamus": 20.0,
    "pulvinar": 22.0,
    "red nucleus": 33.0,
    "substantia nigra": 38.0,
    "dentate": 36.0,
}
BONE_MM, SCALP_MM, AIR_MM = 2.0, 7.0, 12.0  # distance from the brain at which each begins
# Air-filled cavities: centre and half axes in MNI mm.
CAVITIES_MM = (
    ((0.0, 34.0, -36.0), (14.0, 16.0, 11.0)),
    ((0.0, 80.0, 2.0), (12.0, 6.0, 8.0)),
    ((52.0, -20.0, -42.0), (8.0, 11.0, 10.0)),
    ((-52.0, -20.0, -42.0), (8.0, 11.0, 10.0)),
)
CALCIFICATION_MM = ((-24.0, -38.0, 26.0), 2.5)
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
    mni_to_world: ArrayLike | None = None,
    axcodes: str = "RAS",
    oblique: ArrayLike | None = None,
    margin_mm: float = 12.0,
    chi_ppb: Mapping[str, float] | None = None,
    myelin_ppb: Mapping[str, float] | None = None,
    sources: bool = False,
    anisotropy_ppb: float = 0.0,
    texture: float = 0.15,
    n_veins: int = 60,
    n_microbleeds: int = 0,
    snr: float = 60.0,
    anatomy: np.random.Generator | None = None,
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
    mni_to_world
        Pose of the head (`pvsbook.phantoms.brain.pose`): a tilted head, fixed field.
    axcodes, oblique
        Storage order and tilt of the slices, as in `pvsbook.phantoms.brain.brain_grid`.
    margin_mm
        Field of view around the brain.
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
    extra = np.ceil(max(SURROUND_MM + 4 - margin_mm, 0) / size).astype(int)
    whole = brain_grid(
        size,
        mni_to_world=mni_to_world,
        axcodes=axcodes,
        oblique=oblique,
        margin_mm=margin_mm + float((extra * size).max()),
    )
    to_mni = np.linalg.inv(whole.mni_to_world) @ whole.affine @ HALVES
    shape = tuple(2 * n for n in whole.shape)
    b0 = images.rotation(whole.affine)[2]
    up = images.rotation(np.linalg.inv(whole.mni_to_world))[:, 2]  # the field, in the head
    head = _draw(
        shape,
        to_mni,
        size / 2,
        values,
        myelin,
        rng if anatomy is None else anatomy,
        texture=texture,
        counts=(n_veins, n_microbleeds),
        sources=sources,
        anisotropy=(anisotropy_ppb * 1e-3, up),
    )
    local = _dipole_field(np.where(head.brain, head.chi_ppm, np.float32(0)), size / 2, b0)
    total = _dipole_field(head.chi_ppm, size / 2, b0)
    box = tuple(slice(2 * e, n - 2 * e) for e, n in zip(extra, shape, strict=True))
    affine = whole.affine @ nib.affines.from_matvec(np.eye(3), extra)
    head = _Head(*(np.ascontiguousarray(a[box]) for a in vars(head).values()))
    total = total[box] - _shim(total[box], head.brain, size / 2, rng)
    offset = _coil_phase(tuple(n // 2 for n in total.shape), rng)
    omega = 2 * math.pi * GAMMA_MHZ_T * field_strength_t
    clean = np.empty((*offset.shape, times.size), np.complex64)
    _average(total, head.signal, head.r2s_hz, offset, times, omega, clean)
    noise = SIGNAL["wm"] * math.exp(-R2S_HZ["wm"] * times[0]) / snr
    parts = rng.standard_normal((*clean.shape, 2), np.float32)  # real and imaginary
    scan = clean + np.float32(noise) * parts.view(np.complex64)[..., 0]
    gre = images.Gre(
        np.abs(scan), np.angle(scan), times, float(field_strength_t), affine, "radians"
    )
    return GrePhantom(
        gre=gre,
        chi_ppm=_mean_of_parts(head.chi_ppm),
        local_field_ppm=_mean_of_parts(local[box]),
        field_ppm=_mean_of_parts(total),
        brain=_mean_of_parts(head.brain) > 0.5,
        labels=_most_of_parts(head.label),
        r2s_hz=_mean_of_parts(head.r2s_hz),
        veins=_mean_of_parts(head.veins),
        calcification=_mean_of_parts(head.stone),
        bleeds=_mean_of_parts(head.bleeds),
        iron_ppm=_mean_of_parts(head.iron_ppm),
        myelin_ppm=_mean_of_parts(head.myelin_ppm),
        r2_hz=_mean_of_parts(head.r2_hz),
        mni_to_world=whole.mni_to_world,
    )


def _replaced(
    values: Mapping[str, float], given: Mapping[str, float] | None, name: str
) -> dict[str, float]:
    unknown = [key for key in given or {} if key not in values]
    if unknown:
        raise InputError(f"{name}: {unknown[0]!r} is unknown; known are {', '.join(values)}")
    return {**values, **(given or {})}


@dataclass(frozen=True, eq=False)
class _Head:
    """Everything drawn on the fine grid."""

    chi_ppm: NDArray[np.float32]
    signal: NDArray[np.float32]
    r2s_hz: NDArray[np.float32]
    brain: NDArray[np.bool_]
    label: NDArray[np.uint8]
    veins: NDArray[np.float32]
    stone: NDArray[np.float32]
    bleeds: NDArray[np.float32]
    iron_ppm: NDArray[np.float32]
    myelin_ppm: NDArray[np.float32]
    r2_hz: NDArray[np.float32]


def _draw(
    shape: tuple[int, ...],
    to_mni: NDArray,
    size_mm: NDArray,
    values: Mapping[str, float],
    myelin_ppb: Mapping[str, float],
    rng: np.random.Generator,
    *,
    texture: float,
    counts: tuple[int, int],
    sources: bool,
    anisotropy: tuple[float, NDArray],
) -> _Head:
    half = float(size_mm.mean())
    outside = _sample(*_distance_outside_mni(), shape, to_mni)
    wm, gm, ventricles = (
        _sample(images.array(m), m.affine, shape, to_mni)
        for m in map(templates.mni, ("wm", "gm", "ventricles"))
    )
    fluid = np.clip(1 - wm - gm, 0, 1)

    def mix(in_wm: float, in_gm: float, in_csf: float) -> NDArray[np.float32]:
        return np.float32(in_wm) * wm + np.float32(in_gm) * gm + np.float32(in_csf) * fluid

    chi = mix(*(values[k] * 1e-3 for k in ("white matter", "grey matter", "csf")))
    signal = mix(*(SIGNAL[k] for k in ("wm", "gm", "csf")))
    r2s = mix(*(R2S_HZ[k] for k in ("wm", "gm", "csf")))
    r2 = mix(*(R2_HZ[k] for k in ("wm", "gm", "csf")))
    myelin = mix(*(myelin_ppb[k] * 1e-3 for k in ("white matter", "grey matter", "csf")))
    slow = _noise(shape, to_mni, rng, 12.0)
    chi += np.float32(0.006) * slow * (1 - fluid)  # tissue is not uniform
    r2s *= 1 + np.float32(0.05) * _noise(shape, to_mni, rng, 10.0)
    label = np.zeros(shape, np.uint8)
    grain = _noise(shape, to_mni, rng, 2.5)
    grain_r2s = _noise(shape, to_mni, rng, 3.0)
    shift_mm = rng.normal(0, 0.7, 3)
    moved = to_mni.copy()
    moved[:3, 3] += shift_mm  # magnitude edges lie elsewhere than susceptibility edges
    region = deep_grey.table().set_index("label")["region"]
    for number, (box, level) in deep_grey.distances_on_grid(shape, to_mni).items():
        part = np.clip(0.5 - level / half, 0, 1) * (ventricles[box] < 0.5)
        inside = values[region[number]] * 1e-3 * (1 + texture * grain[box])
        chi[box] += part * (inside - chi[box])
        myelin[box] += part * (np.float32(myelin_ppb[region[number]] * 1e-3) - myelin[box])
        label[box][part > 0.5] = number
    for number, (box, level) in deep_grey.distances_on_grid(shape, moved).items():
        part = np.clip(0.5 - (level + 0.3) / (2 * half), 0, 1)
        r2s[box] += part * (R2S_HZ[region[number]] * (1 + 0.1 * grain_r2s[box]) - r2s[box])
    iron = np.maximum(chi + myelin, 0)
    myelin = iron - chi  # where texture asked for less than none
    if sources:
        r2s = r2 + np.float32(RELAXIVITY_HZ_PPM) * (iron + myelin)
    strength, up = anisotropy
    if strength:
        chi += np.float32(strength) * wm * (label == 0) * _along_fibres(shape, to_mni, up)
    veins = _draw_veins(to_mni, size_mm, rng, counts[0], wm)
    chi += veins * (np.float32(values["blood"] * 1e-3) - chi)
    r2s += veins * (R2S_HZ["blood"] - r2s)
    stone = np.zeros(shape, np.float32)
    centre, radius = CALCIFICATION_MM
    box, level = _ball(shape, to_mni, centre, (radius,) * 3)
    stone[box] = np.clip(0.5 - level / half, 0, 1)
    chi += stone * (np.float32(values["calcification"] * 1e-3) - chi)
    r2s += stone * (R2S_HZ["calcification"] - r2s)
    signal *= 1 - 0.5 * stone
    bleeds = np.zeros(shape, np.float32)
    for _ in range(counts[1]):
        side = rng.choice((-1.0, 1.0))
        spot = (side * rng.uniform(20, 42), rng.uniform(-60, 35), rng.uniform(14, 40))
        box, level = _ball(shape, to_mni, spot, (rng.uniform(1, 2),) * 3)
        bleeds[box] = np.maximum(bleeds[box], np.clip(0.5 - level / half, 0, 1))
    chi += bleeds * (np.float32(values["bleed"] * 1e-3) - chi)
    r2s += bleeds * (R2S_HZ["bleed"] - r2s)
    _draw_surround(shape, to_mni, outside, chi, signal, r2s, values, 2 * half)
    signal *= 1 + np.float32(0.15) * _noise(shape, to_mni, rng, 45.0)  # coil sensitivity
    return _Head(chi, signal, r2s, outside <= 0, label, veins, stone, bleeds, iron, myelin, r2)


def _draw_surround(
    shape: tuple[int, ...],
    to_mni: NDArray,
    outside: NDArray,
    chi: NDArray,
    signal: NDArray,
    r2s: NDArray,
    values: Mapping[str, float],
    soft_mm: float,
) -> None:
    """Put fluid, bone, scalp, neck, cavities and air around the brain, in place."""
    height = _plane(shape, to_mni, 2)
    across = np.hypot(_plane(shape, to_mni, 0), _plane(shape, to_mni, 1) + 35)
    neck = np.clip((-50 - height) / soft_mm, 0, 1) * np.clip((60 - across) / soft_mm, 0, 1)

    def beyond(distance_mm: float) -> NDArray[np.float32]:
        return np.clip((outside - distance_mm) / soft_mm + 0.5, 0, 1)

    # Edges are soft over a voxel: a sharp step of 9 ppm would ring through the whole head.
    layers = (
        (beyond(0.5 * soft_mm), values["csf"], SIGNAL["csf"], R2S_HZ["csf"]),
        (beyond(BONE_MM), values["bone"], SIGNAL["bone"], R2S_HZ["bone"]),
        (beyond(SCALP_MM), 0.0, SIGNAL["scalp"], R2S_HZ["scalp"]),
        (beyond(AIR_MM), values["air"], 0.0, 0.0),
        (beyond(SCALP_MM) * neck, 0.0, SIGNAL["scalp"], R2S_HZ["scalp"]),
    )
    for part, ppb, brightness, rate in layers:
        for volume, value in ((chi, ppb * 1e-3), (signal, brightness), (r2s, rate)):
            volume += part * (np.float32(value) - volume)
    for centre, half_axes in CAVITIES_MM:
        box, level = _ball(shape, to_mni, centre, half_axes)
        part = np.clip(0.5 - level / soft_mm, 0, 1)
        part *= np.clip((outside[box] - 3) / soft_mm + 0.5, 0, 1)
        for volume, value in ((chi, values["air"] * 1e-3), (signal, 0.0), (r2s, 0.0)):
            volume[box] += part * (np.float32(value) - volume[box])


def _along_fibres(shape: tuple[int, ...], to_mni: NDArray, up: NDArray) -> NDArray[np.float32]:
    """Return cos^2 - 1/3 of the angle from schematic white-matter fibres to the field."""
    lateral = np.abs(_plane(shape, to_mni, 0))
    squares = [np.float32(u * u - 1 / 3) for u in up]
    out = np.where(lateral < 33, squares[2], squares[1])
    return np.where(lateral < 14, squares[0], out)


def _plane(shape: tuple[int, ...], to_mni: NDArray, axis: int) -> NDArray[np.float32]:
    """Return one MNI coordinate of every voxel."""
    i, j, k = (np.arange(n, dtype=np.float32) for n in shape)
    a, b, c, d = to_mni[axis].astype(np.float32)
    return a * i[:, None, None] + b * j[None, :, None] + (c * k + d)[None, None, :]


def _ball(
    shape: tuple[int, ...], to_mni: NDArray, centre_mm: ArrayLike, half_axes_mm: ArrayLike
) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
    """Return a box and about how far its voxels lie from an ellipsoid's surface, in mm."""
    centre, axes = np.asarray(centre_mm, float), np.asarray(half_axes_mm, float)
    corners = centre + np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T * (axes + 3)
    voxels = nib.affines.apply_affine(np.linalg.inv(to_mni), corners)
    start = np.clip(np.floor(voxels.min(axis=0)), 0, shape).astype(int)
    stop = np.clip(np.ceil(voxels.max(axis=0)) + 1, 0, shape).astype(int)
    box = tuple(slice(a, max(a, b)) for a, b in zip(start, stop, strict=True))
    points = nib.affines.apply_affine(to_mni, np.moveaxis(np.mgrid[box], 0, -1))
    level = (np.linalg.norm((points - centre) / axes, axis=-1) - 1) * axes.min()
    return box, level.astype(np.float32)


def _draw_veins(
    to_mni: NDArray, size_mm: NDArray, rng: np.random.Generator, n_veins: int, wm: NDArray
) -> NDArray[np.float32]:
    """Draw veins that leave the ventricles' wall and run through white matter, gently bent."""
    out = np.zeros(wm.shape, np.float32)
    half = float(size_mm.mean())
    back = np.linalg.inv(to_mni)
    for _ in range(n_veins):
        side = rng.choice((-1.0, 1.0))
        start = np.array([side * rng.uniform(14, 20), rng.uniform(-45, 30), rng.uniform(18, 28)])
        along = np.array([side * rng.uniform(0.5, 1.0), rng.normal(0, 0.4), rng.normal(0.5, 0.3)])
        along /= np.linalg.norm(along)
        bend = rng.normal(0, 0.01, 3)
        radius = rng.uniform(0.3, 0.7)
        t = np.arange(0, rng.uniform(12, 30), 0.5 * half)[:, None]
        path = nib.affines.apply_affine(back, start + t * along + t**2 * bend)
        _stamp(out, path, size_mm, radius)
    return out * (wm > 0.3)


@numba.njit(cache=True)
def _stamp(out, path, size, radius):  # type: ignore[no-untyped-def]
    """Raise each voxel to the share of it that a tube of this radius (mm) along the path fills."""
    half = size.mean()
    peak = min(1.0, (radius / half) ** 2 * 3.14159 / 4 + 0.2)
    reach = int(np.ceil((radius + half) / size.min())) + 1
    for p in path:
        c = np.rint(p).astype(np.int64)
        for i in range(max(c[0] - reach, 0), min(c[0] + reach + 1, out.shape[0])):
            for j in range(max(c[1] - reach, 0), min(c[1] + reach + 1, out.shape[1])):
                for k in range(max(c[2] - reach, 0), min(c[2] + reach + 1, out.shape[2])):
                    d2 = ((i - p[0]) * size[0]) ** 2
                    d2 += ((j - p[1]) * size[1]) ** 2 + ((k - p[2]) * size[2]) ** 2
                    part = min(max(0.5 - (np.sqrt(d2) - radius) / half, 0.0), peak)
                    out[i, j, k] = max(out[i, j, k], part)


@lru_cache(maxsize=1)
def _distance_outside_mni() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the distance in mm from the template's brain, negative inside, and the affine."""
    brain = templates.mni("brain")
    mask = images.array(brain) > 0.5
    distance = edt.edt(~mask) - edt.edt(mask)
    return ndimage.gaussian_filter(distance, 1.5).astype(np.float32), brain.affine


def _sample(
    values: NDArray[np.float32], affine: NDArray, shape: tuple[int, ...], to_mni: NDArray
) -> NDArray[np.float32]:
    """Sample a volume in MNI space on the fine grid; beyond its edge the nearest value holds."""
    matrix = (np.linalg.inv(affine) @ to_mni).astype(np.float32)
    out = np.empty(shape, np.float32)
    _clamped(np.ascontiguousarray(values), matrix, out)
    return out


@numba.njit(cache=True, fastmath=True)
def _clamped(values, m, out):  # type: ignore[no-untyped-def]
    nx, ny, nz = values.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
                y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
                z = m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3]
                x = min(max(x, np.float32(0)), np.float32(nx - 1.001))
                y = min(max(y, np.float32(0)), np.float32(ny - 1.001))
                z = min(max(z, np.float32(0)), np.float32(nz - 1.001))
                out[i, j, k] = trilinear(values, x, y, z)


def _noise(
    shape: tuple[int, ...], to_mni: NDArray, rng: np.random.Generator, width_mm: float
) -> NDArray[np.float32]:
    """Return smooth noise of unit variance, fixed to the head: the same in every pose."""
    n = np.ceil(np.array([220, 260, 230]) / width_mm).astype(int)
    values = ndimage.gaussian_filter(rng.standard_normal(n, np.float32), 0.7, mode="wrap")
    values /= values.std()
    grid = np.diag([width_mm] * 3 + [1.0])
    grid[:3, 3] = -110, -145, -100
    return _sample(values, grid, shape, to_mni)


def _dipole_field(chi_ppm: NDArray, size_mm: NDArray, b0: NDArray) -> NDArray[np.float32]:
    """Return the field of a map.  What lies beyond the grid is taken to be like its rim.

    The grid's rim is air nearly everywhere, and uniform air makes no field that matters here:
    subtracting it leaves the head alone, in empty space.
    """
    rim = np.float32(np.median(chi_ppm[:, :, -1]))
    big = [fft.next_fast_len(int(n * 1.25), real=True) for n in chi_ppm.shape]
    spectrum = fft.rfftn(chi_ppm - rim, s=big, workers=2)
    k = [fft.fftfreq(n, s).astype(np.float32) for n, s in zip(big[:2], size_mm[:2], strict=True)]
    kx, ky = k[0][:, None, None], k[1][None, :, None]
    kz = fft.rfftfreq(big[2], size_mm[2]).astype(np.float32)[None, None, :]
    for i in range(big[0]):  # a plane at a time keeps memory low
        x = kx[i, 0, 0]
        square = x * x + ky[0] ** 2 + kz[0] ** 2
        along = np.float32(b0[0]) * x + np.float32(b0[1]) * ky[0] + np.float32(b0[2]) * kz[0]
        if i == 0:
            square[0, 0] = 1
        kernel = np.float32(1 / 3) - along * along / square
        if i == 0:
            kernel[0, 0] = 0
        spectrum[i] *= kernel
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
    nx, ny, nz = offset.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                for e in range(times.size):
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


def _mean_of_parts(fine: NDArray) -> NDArray[np.float32]:
    """Return the mean of each 2 x 2 x 2 block."""
    parts = [fine[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    out = parts[0].astype(np.float32)
    for part in parts[1:]:
        out += part
    return out / np.float32(8)


@numba.njit(cache=True)
def _most_of_parts(fine):  # type: ignore[no-untyped-def]
    """Return the label that more than half of each 2 x 2 x 2 block has; else zero."""
    nx, ny, nz = fine.shape[0] // 2, fine.shape[1] // 2, fine.shape[2] // 2
    out = np.zeros((nx, ny, nz), np.uint8)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                block = fine[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
                for label in block.flat:
                    if label > 0:
                        n = 0
                        for other in block.flat:
                            n += other == label
                        if n > 4:
                            out[i, j, k] = label
    return out
