"""A brain with perivascular spaces of known shape, and with what looks like them.

Everything is placed in MNI mm and drawn on the scanner's grid with sub-voxel partial volume, so
that one seed gives the same brain at every voxel size, in every pose and storage order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import edt
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numba import njit
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from pvsbook._errors import InputError
from pvsbook.atlas import perivascular, templates
from pvsbook.phantoms.brain import Brain, make_brain

__all__ = [
    "LESIONS",
    "SCANNERS",
    "SIGNALS",
    "Look",
    "Pvs",
    "PvsPhantom",
    "Spheroid",
    "draw_scan",
    "draw_tube",
    "make_phantom",
    "place_pvs",
    "place_spheroids",
]

# Signal relative to normal white matter.  Background (air) is 0.  After STRIVE (Wardlaw et al.
# 2013, doi:10.1016/S1474-4422(13)70124-8): fluid stands out on T2w, T1w and FLAIR but not on
# T2*-weighted scans, a microbleed on those alone.  A lesion of exactly 1.0 is isointense: it
# shows the tissue that it lies in.
_T2W = {"wm": 1.0, "gm": 1.3, "csf": 3.0, "wmh": 1.8, "rim": 1.3, "lacune": 3.0, "microbleed": 1.0}
_T1W = {
    "wm": 1.0,
    "gm": 0.75,
    "csf": 0.3,
    "wmh": 0.85,
    "rim": 0.9,
    "lacune": 0.3,
    "microbleed": 1.0,
}
_FLAIR = {
    "wm": 1.0,
    "gm": 1.15,
    "csf": 0.2,
    "wmh": 1.8,
    "rim": 1.6,
    "lacune": 0.2,
    "microbleed": 1.0,
}
_SWI = {
    "wm": 1.0,
    "gm": 0.95,
    "csf": 1.0,
    "wmh": 1.05,
    "rim": 1.0,
    "lacune": 1.0,
    "microbleed": 0.1,
}
SIGNALS: Mapping[str, Mapping[str, float]] = {
    "T2w": _T2W,
    "T1w": _T1W,
    "FLAIR": _FLAIR,
    "SWI": _SWI,
}
# Signal of a perivascular space: that of CSF, or so many times the tissue around it.
WEAK: Mapping[str, float] = {"T2w": 1.38, "T1w": 0.8, "FLAIR": 0.9, "SWI": 1.0}
STRENGTHS = ("csf", "weak")
LESIONS = ("wmh", "rim", "lacune", "microbleed")  # in the order in which they cover each other

# What a scanner does to the picture; pass one to `make_phantom` with ``**SCANNERS["7T"]``.
SCANNERS: Mapping[str, Mapping[str, float]] = {
    "3T": {"voxel_size_mm": 1.0, "snr": 20.0, "bias": 0.1, "texture": 0.02, "gibbs": 0.1},
    "7T": {"voxel_size_mm": 0.5, "snr": 20.0, "bias": 0.3, "texture": 0.02, "gibbs": 0.1},
}
DEFAULT_COUNTS: Mapping[str, int] = {
    "cso_left": 12,
    "cso_right": 12,
    "bg_left": 5,
    "bg_right": 5,
    "midbrain_left": 1,
    "midbrain_right": 1,
}


@dataclass(frozen=True, eq=False)
class Pvs:
    """One perivascular space: a tube with flat ends.

    Attributes
    ----------
    centreline_mni_mm
        Points along the middle, shape (n, 3).
    diameter_mm, length_mm
        Of the tube, from end to end along the centreline.
    region
        One of `pvsbook.atlas.perivascular.REGIONS`, at the middle of the centreline.
    """

    centreline_mni_mm: NDArray[np.float64]
    diameter_mm: float
    length_mm: float
    region: str

    @property
    def volume_mm3(self) -> float:
        """Volume of the tube."""
        return np.pi / 4 * self.diameter_mm**2 * self.length_mm


@dataclass(frozen=True, eq=False)
class Spheroid:
    """A white-matter hyperintensity, a lacune, its rim, or a microbleed.

    Attributes
    ----------
    centre_mni_mm, half_axes_mm
        Shape (3,) each, along MNI x, y, z.
    kind
        One of `LESIONS`.
    """

    centre_mni_mm: NDArray[np.float64]
    half_axes_mm: NDArray[np.float64]
    kind: str


@dataclass(frozen=True, eq=False)
class PvsPhantom:
    """Scans of a brain with perivascular spaces, and the truth.

    Attributes
    ----------
    scans
        Images by contrast: ``"T2w"``, ``"T1w"``, ``"FLAIR"``; intensities in units of 100 times
        the signal of normal white matter.
    labels
        Label image of the perivascular spaces: the row of `truth` plus one, where an object fills
        at least a tenth of the voxel (of two, the one that fills more).
    fraction
        Fraction of each voxel that is perivascular space, shape (x, y, z), float32.
    lesions
        Fraction of each voxel that is one of `LESIONS`.
    truth
        One row an object: region, side, diameter_mm, length_mm, volume_mm3, and the direction in
        scanner axes from end to end.
    spaces
        The objects behind `truth`.
    brain
        The tissue fractions beneath.
    """

    scans: Mapping[str, nib.Nifti1Image]
    labels: nib.Nifti1Image
    fraction: NDArray[np.float32]
    lesions: Mapping[str, NDArray[np.float32]]
    truth: pd.DataFrame
    spaces: tuple[Pvs, ...]
    brain: Brain

    @property
    def wmh(self) -> nib.Nifti1Image:
        """Mask of the white-matter hyperintensities: at least half of the voxel."""
        return self.brain.image(self.lesions["wmh"] >= 0.5)

    @property
    def lacunes(self) -> nib.Nifti1Image:
        """Mask of the lacunes: at least half of the voxel."""
        return self.brain.image(self.lesions["lacune"] >= 0.5)

    def scan_again(
        self,
        rng: Generator,
        *,
        contrast: str = "T2w",
        strength: str = "csf",
        look: Look | None = None,
    ) -> nib.Nifti1Image:
        """Scan the same brain once more, with new noise and other settings (`draw_scan`)."""
        return draw_scan(
            rng,
            self.brain,
            self.fraction,
            self.lesions,
            contrast=contrast,
            strength=strength,
            look=look,
        )


@dataclass(frozen=True)
class Look:
    """Noise and artefacts of a scan; see `make_phantom`."""

    snr: float = 20.0
    bias: float = 0.0
    texture: float = 0.0
    ghosting: float = 0.0
    gibbs: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.snr) and self.snr > 0):
            raise InputError(f"snr: {self.snr}; give a positive ratio, such as 20")
        for name in ("bias", "texture", "ghosting", "gibbs"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise InputError(f"{name}: {getattr(self, name)}; give a fraction from 0 to 0.5")


def make_phantom(
    rng: Generator,
    *,
    voxel_size_mm: float | Sequence[float] = 1.0,
    contrasts: Sequence[str] = ("T2w",),
    strength: str = "csf",
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    diameters_mm: tuple[float, float] = (0.75, 3.0),
    lengths_mm: tuple[float, float] = (5.0, 16.0),
    n_crossing: int = 0,
    n_touching: int = 0,
    n_wmh: int = 0,
    n_periventricular: int = 0,
    n_lacunes: int = 0,
    n_microbleeds: int = 0,
    snr: float = 20.0,
    bias: float = 0.0,
    texture: float = 0.0,
    ghosting: float = 0.0,
    gibbs: float = 0.0,
    mni_to_world: NDArray | None = None,
    axcodes: str = "RAS",
    oblique: NDArray | None = None,
    z_range_mni_mm: tuple[float, float] | None = None,
) -> PvsPhantom:
    """Make scans of a simulated brain whose perivascular spaces are known.

    Parameters
    ----------
    rng
        Random numbers: places, sizes, then noise.
    voxel_size_mm
        One number or three, 0.3 to 5 mm.
    contrasts
        Which scans to make: ``"T2w"``, ``"T1w"``, ``"FLAIR"``, ``"SWI"``, each with noise of its
        own.
    strength
        ``"csf"``: the spaces are as bright as CSF; ``"weak"``: 38 % brighter than the
        tissue around them on T2w.
    counts
        How many spaces each region holds.
    diameters_mm, lengths_mm
        Ranges that diameters and lengths are drawn from, evenly.
    n_crossing, n_touching
        How many of the spaces in the centrum semiovale get a second one across their middle, or
        alongside with no gap.  These come on top of `counts`.
    n_wmh, n_periventricular, n_lacunes, n_microbleeds
        How many confounders: deep and periventricular white-matter hyperintensities, lacunes
        with a rim (bright on FLAIR), microbleeds (dark on ``"SWI"``).
    snr
        Signal of white matter over the standard deviation of the noise in each channel.
    bias
        Strength of the smooth receive field: 0.3 makes places 30 % brighter or darker.
    texture
        Standard deviation of tissue about its mean, smooth over 3 mm, as a fraction.
    ghosting
        Strength of a ghost half a field of view away along the second axis, as motion makes it.
    gibbs
        Outer part of k-space that was not measured, 0 to 0.5: edges ring.
    mni_to_world, axcodes, oblique, z_range_mni_mm
        Pose and grid, as in `pvsbook.phantoms.brain.make_brain`.

    Returns
    -------
    PvsPhantom

    Raises
    ------
    InputError
        An unknown contrast, strength or region, or so many objects that they do not fit.

    References
    ----------
    After the digital phantom of Bernal et al. 2022, Magn Reson Imaging 93:33.

    Examples
    --------
    >>> phantom = make_phantom(np.random.default_rng(0), counts={"bg_left": 3})
    >>> phantom.truth["region"].tolist()
    ['bg_left', 'bg_left', 'bg_left']
    """
    for contrast in contrasts:
        if contrast not in SIGNALS:
            raise InputError(f"contrasts: {contrast!r} is not one of {', '.join(SIGNALS)}")
    if strength not in STRENGTHS:
        raise InputError(f"strength: {strength!r} is not one of {', '.join(STRENGTHS)}")
    look = Look(snr=snr, bias=bias, texture=texture, ghosting=ghosting, gibbs=gibbs)
    brain = make_brain(
        voxel_size_mm,
        mni_to_world=mni_to_world,
        axcodes=axcodes,
        oblique=oblique,
        z_range_mni_mm=z_range_mni_mm,
    )
    spheroids = place_spheroids(
        rng,
        n_wmh=n_wmh,
        n_periventricular=n_periventricular,
        n_lacunes=n_lacunes,
        n_microbleeds=n_microbleeds,
    )
    spaces = place_pvs(
        rng, counts=counts, diameters_mm=diameters_mm, lengths_mm=lengths_mm, avoid=spheroids
    )
    spaces += _beside(rng, spaces, n_crossing=n_crossing, n_touching=n_touching)
    labels, fraction = _draw_tubes(brain, spaces)
    lesions = {kind: _draw_spheroids(brain, spheroids, kind) for kind in LESIONS}
    scans = {
        contrast: draw_scan(
            rng, brain, fraction, lesions, contrast=contrast, strength=strength, look=look
        )
        for contrast in contrasts
    }
    return PvsPhantom(
        scans=scans,
        labels=brain.image(labels),
        fraction=fraction,
        lesions=lesions,
        truth=_truth_table(spaces, brain),
        spaces=tuple(spaces),
        brain=brain,
    )


def draw_scan(
    rng: Generator,
    brain: Brain,
    fraction: NDArray[np.float32],
    lesions: Mapping[str, NDArray[np.float32]],
    *,
    contrast: str,
    strength: str = "csf",
    look: Look | None = None,
) -> nib.Nifti1Image:
    """Mix the signals of the tissues by their fractions and do to them what a scanner does.

    Parameters
    ----------
    rng
        Random numbers for texture, receive field and noise.
    brain
        Tissue fractions.
    fraction
        Fraction of perivascular space, shape (x, y, z).
    lesions
        Fractions of `LESIONS`, shape (x, y, z).
    contrast, strength
        As in `make_phantom`.
    look
        Noise and artefacts.
    """
    look = Look() if look is None else look
    signal = SIGNALS[contrast]
    mixed = sum(signal[t] * getattr(brain, t) for t in ("wm", "gm", "csf"))
    for kind in LESIONS:
        if signal[kind] != 1.0:
            mixed += lesions[kind] * (signal[kind] - mixed)
    inside = signal["csf"] if strength == "csf" else WEAK[contrast] * mixed
    mixed += fraction * (inside - mixed)
    if look.texture:
        grain = rng.standard_normal(brain.shape, dtype=np.float32)
        grain = ndimage.gaussian_filter(grain, 1.3 / brain.voxel_size_mm)
        mixed *= 1 + np.float32(look.texture) * grain / grain.std()
    if look.bias:
        mixed *= _receive_field(rng, brain, look.bias)
    if look.gibbs:
        mixed = _truncate(mixed, look.gibbs)
    if look.ghosting:
        mixed += np.float32(look.ghosting) * np.roll(mixed, mixed.shape[1] // 2, axis=1)
    noise = rng.standard_normal((2, *brain.shape), dtype=np.float32) / np.float32(look.snr)
    return brain.image(100 * np.hypot(mixed + noise[0], noise[1]))


def _receive_field(rng: Generator, brain: Brain, strength: float) -> NDArray[np.float32]:
    """Smooth field about 1 inside the brain, from a random quadratic in MNI coordinates."""
    x, y, z = np.moveaxis(brain.mni_coordinates() / np.float32(75), -1, 0)
    a = rng.standard_normal(6).astype(np.float32)
    field = a[0] * x + a[1] * y + a[2] * z + a[3] * x * x + a[4] * y * y + a[5] * z * z
    inside = field[brain.brain > 0.5]
    field -= inside.mean()
    return 1 + np.clip(field * np.float32(strength / np.abs(inside).max()), -0.9, 0.9)


def _truncate(image: NDArray[np.float32], missing: float) -> NDArray[np.float32]:
    """Drop the outer part of k-space along each axis, as a zero-filled scan does."""
    spectrum = fft.rfftn(image)
    for axis, n in enumerate(image.shape):
        frequency = np.abs(fft.rfftfreq(n) if axis == 2 else fft.fftfreq(n))
        drop = frequency > 0.5 * (1 - missing)
        spectrum[(slice(None),) * axis + (drop,)] = 0
    return np.abs(fft.irfftn(spectrum, image.shape)).astype(np.float32)


def _beside(
    rng: Generator, spaces: Sequence[Pvs], *, n_crossing: int, n_touching: int
) -> list[Pvs]:
    """Second spaces that cross, or touch along their length, spaces of the centrum semiovale."""
    hosts = [space for space in spaces if space.region.startswith("cso")]
    if n_crossing + n_touching > len(hosts):
        raise InputError(
            f"n_crossing + n_touching: {n_crossing + n_touching}, but only {len(hosts)} spaces "
            "lie in the centrum semiovale; ask for more there, or for fewer pairs"
        )
    added = []
    for n, host in enumerate(hosts[: n_crossing + n_touching]):
        line = host.centreline_mni_mm
        along = line[-1] - line[0]
        across = np.cross(along, rng.standard_normal(3))
        across /= np.linalg.norm(across)
        if n < n_crossing:
            turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(50, 90)) * across)
            middle = line[len(line) // 2]
            moved = middle + turn.apply(line - middle)
        else:
            moved = line + host.diameter_mm * across
        added.append(Pvs(moved, host.diameter_mm, host.length_mm, host.region))
    return added


def place_pvs(
    rng: Generator,
    *,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    diameters_mm: tuple[float, float] = (0.75, 3.0),
    lengths_mm: tuple[float, float] = (5.0, 16.0),
    gap_mm: float = 2.5,
    avoid: Sequence[Spheroid] = (),
) -> list[Pvs]:
    """Place curved tubes: radial to the ventricles, fanning upwards in the basal ganglia.

    Parameters
    ----------
    rng
        Random numbers.
    counts, diameters_mm, lengths_mm
        As in `make_phantom`.
    gap_mm
        Free tissue between two spaces, and between a space and a lesion.
    avoid
        Lesions to stay away from.

    Raises
    ------
    InputError
        An unknown region, or no room left.
    """
    atlas = perivascular.regions()
    names = {name: label for label, name in perivascular.REGIONS.items()}
    unknown = set(counts) - set(names)
    if unknown:
        raise InputError(f"counts: {', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    labels, depth = _depth_in_regions()
    away = _from_ventricles()
    to_voxel = np.linalg.inv(atlas.affine)
    spaces: list[Pvs] = []
    for region, count in counts.items():
        inside = labels == names[region]
        candidates = np.argwhere(inside & (depth > 2.5))
        for _ in range(count):
            for _attempt in range(2000):
                start = candidates[rng.integers(len(candidates))] + rng.uniform(-0.5, 0.5, 3)
                start_mm = apply_affine(atlas.affine, start)
                along = _direction(
                    region, start_mm, _gradient(away, tuple(start.round().astype(int)))
                )
                length = rng.uniform(*lengths_mm)
                space = Pvs(
                    _bend(rng, start_mm, along, length), rng.uniform(*diameters_mm), length, region
                )
                voxels = apply_affine(to_voxel, space.centreline_mni_mm).round().astype(int)
                if inside[tuple(voxels.T)].all() and _is_free(space, spaces, avoid, gap_mm):
                    spaces.append(space)
                    break
            else:
                raise InputError(
                    f"counts: no room for {count} spaces in {region}; ask for fewer, or shorter"
                )
    return spaces


@lru_cache(maxsize=1)
def _depth_in_regions() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the labels of the regions, and how deep inside its region each MNI voxel lies."""
    labels = np.asarray(perivascular.regions().dataobj)
    return labels, edt.edt(labels)


@lru_cache(maxsize=1)
def _from_ventricles() -> NDArray[np.float32]:
    """Smooth distance to the ventricles in MNI voxels of 1 mm."""
    away = edt.edt(np.asarray(templates.mni("ventricles").dataobj) < 0.5)
    return ndimage.gaussian_filter(away, 2.0)


def _gradient(values: NDArray, at: tuple[int, int, int]) -> NDArray[np.float64]:
    i, j, k = at
    return (
        np.array(
            [
                values[i + 1, j, k] - values[i - 1, j, k],
                values[i, j + 1, k] - values[i, j - 1, k],
                values[i, j, k + 1] - values[i, j, k - 1],
            ],
            np.float64,
        )
        / 2
    )


def _direction(region: str, at_mm: NDArray, outward: NDArray) -> NDArray:
    """Direction in which a vessel runs here."""
    if region.startswith("cso"):
        along = outward + np.array([0, 0, 0.15])
    elif region.startswith("bg"):
        along = at_mm - np.array([np.sign(at_mm[0]) * 18.0, 4.0, -28.0])
    else:
        along = np.array([np.sign(at_mm[0]) * 0.4, 0.5, 1.0])
    return along / max(float(np.linalg.norm(along)), 1e-6)


def _bend(
    rng: Generator, start_mm: NDArray, along: NDArray, length_mm: float
) -> NDArray[np.float64]:
    """Points every half millimetre or less along an arc whose middle is `start_mm`."""
    along = along + rng.normal(0, 0.2, 3)
    along /= np.linalg.norm(along)
    across = np.cross(along, rng.standard_normal(3))
    across /= np.linalg.norm(across)
    curvature = abs(rng.normal(0, 0.03)) + 1e-4  # 1 / mm
    angle = curvature * np.linspace(-0.5, 0.5, int(np.ceil(length_mm / 0.5)) + 1) * length_mm
    steps = np.sin(angle)[:, None] * along + (1 - np.cos(angle))[:, None] * across
    return start_mm + steps / curvature


def _is_free(
    space: Pvs, others: Sequence[Pvs], lesions: Sequence[Spheroid], gap_mm: float
) -> bool:
    points = space.centreline_mni_mm
    for other in others:
        apart = np.linalg.norm(points[:, None] - other.centreline_mni_mm, axis=-1).min()
        if apart < gap_mm + (space.diameter_mm + other.diameter_mm) / 2:
            return False
    for lesion in lesions:
        apart = np.linalg.norm(points - lesion.centre_mni_mm, axis=-1).min()
        if apart < gap_mm + space.diameter_mm / 2 + lesion.half_axes_mm.max():
            return False
    return True


def place_spheroids(
    rng: Generator,
    *,
    n_wmh: int = 0,
    n_periventricular: int = 0,
    n_lacunes: int = 0,
    n_microbleeds: int = 0,
) -> list[Spheroid]:
    """Place white-matter hyperintensities, lacunes with their rims, and microbleeds.

    Half axes are 1.5 to 4 mm for deep hyperintensities (each axis of its own) and for lacunes
    (nearly round; their rim is 1.5 mm thick), 3 to 6 mm beside the ventricles, and 0.75 to 2 mm
    for microbleeds.

    Parameters
    ----------
    rng
        Random numbers.
    n_wmh, n_periventricular, n_lacunes, n_microbleeds
        How many.

    Raises
    ------
    InputError
        No room left.
    """
    lesions: list[Spheroid] = []
    if n_wmh + n_periventricular + n_lacunes + n_microbleeds == 0:
        return lesions
    atlas = perivascular.regions()
    labels, depth = _depth_in_regions()
    away = _from_ventricles()
    deep = np.where(depth > 3.5, labels, 0)
    white = np.asarray(templates.mni("wm").dataobj) > 0.6
    beside = white & (away > 1) & (away < 4) & (_heights(atlas) > 5)
    for kind, name, count, places, radii_mm in (
        ("wmh", "n_wmh", n_wmh, (deep > 0) & (deep <= 2), (1.5, 4.0)),
        ("wmh", "n_periventricular", n_periventricular, beside, (3.0, 6.0)),
        ("lacune", "n_lacunes", n_lacunes, (deep > 0) & (deep <= 4), (1.5, 4.0)),
        ("microbleed", "n_microbleeds", n_microbleeds, deep > 0, (0.75, 2.0)),
    ):
        candidates = np.argwhere(places)
        for _ in range(count):
            radius = rng.uniform(*radii_mm)
            spread = rng.uniform(0.75, 1.35, 3) if kind == "wmh" else rng.uniform(0.9, 1.1, 3)
            for _attempt in range(500):
                centre = apply_affine(atlas.affine, candidates[rng.integers(len(candidates))])
                lesion = Spheroid(centre, radius * spread, kind)
                if all(
                    np.linalg.norm(centre - other.centre_mni_mm)
                    > 2 + lesion.half_axes_mm.max() + other.half_axes_mm.max()
                    for other in lesions
                ):
                    lesions.append(lesion)
                    break
            else:
                raise InputError(f"{name}: no room for {count}; ask for fewer")
    rims = [
        Spheroid(lesion.centre_mni_mm, lesion.half_axes_mm + 1.5, "rim")
        for lesion in lesions
        if lesion.kind == "lacune"
    ]
    return lesions + rims


def _heights(image: nib.Nifti1Image) -> NDArray[np.float32]:
    return (np.arange(image.shape[2]) + image.affine[2, 3]).astype(np.float32)


def draw_tube(
    centreline_mm: ArrayLike,
    *,
    diameter_mm: float,
    shape: tuple[int, int, int],
    voxel_size_mm: ArrayLike = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Fill a block with one tube: the fraction of each voxel that it takes.

    Parameters
    ----------
    centreline_mm
        Points, shape (n, 3), in mm from the centre of the first voxel.
    diameter_mm
        Of the tube; its ends are flat.
    shape, voxel_size_mm
        Of the block.

    Raises
    ------
    InputError
        Fewer than two points, or a diameter or voxel size that is not positive.

    Examples
    --------
    >>> block = draw_tube([[2, 5, 5], [12, 5, 5]], diameter_mm=2, shape=(15, 11, 11))
    >>> bool(abs(block.sum() - 10 * np.pi) < 1.5)
    True
    """
    points = np.asarray(centreline_mm, np.float64)
    size = np.broadcast_to(np.asarray(voxel_size_mm, np.float64), (3,))
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 3:
        raise InputError(f"centreline_mm: shape {points.shape}; give two or more points (n, 3)")
    if not (diameter_mm > 0 and np.all(size > 0)):
        raise InputError(f"diameter_mm, voxel_size_mm: {diameter_mm}, {size}; must be positive")
    n_sub = int(np.clip(np.ceil(16 * size.max() / diameter_mm), 6, 16))
    along = np.r_[0.0, np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()]
    steps = np.linspace(0, along[-1], int(np.ceil(along[-1] / 0.5)) + 1)
    fine = np.stack([np.interp(steps, along, column) for column in points.T], axis=1)
    return _fill_tube(fine, diameter_mm / 2, np.diag(size), shape, n_sub)


def _draw_tubes(
    brain: Brain, spaces: Sequence[Pvs]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Fill voxels with tubes: label of the fullest, and the fraction of all together."""
    labels = np.zeros(brain.shape, np.int32)
    fullest = np.zeros(brain.shape, np.float32)
    empty = np.ones(brain.shape, np.float32)
    to_voxel = np.linalg.inv(brain.affine) @ brain.mni_to_world
    scale = brain.affine[:3, :3]
    for number, space in enumerate(spaces, start=1):
        points = apply_affine(to_voxel, space.centreline_mni_mm)
        reach = (space.diameter_mm / 2 + brain.voxel_size_mm.max()) / brain.voxel_size_mm.min()
        low = np.maximum(np.floor(points.min(axis=0) - reach).astype(int), 0)
        high = np.minimum(np.ceil(points.max(axis=0) + reach).astype(int) + 1, brain.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        n_sub = int(np.clip(np.ceil(10 * brain.voxel_size_mm.max() / space.diameter_mm), 4, 20))
        filled = _fill_tube(
            (points - low) @ scale.T, space.diameter_mm / 2, scale, tuple(high - low), n_sub
        )
        wins = (filled >= 0.1) & (filled > fullest[box])
        labels[box][wins] = number
        fullest[box] = np.maximum(fullest[box], filled)
        empty[box] *= 1 - filled
    return labels, 1 - empty


@njit(cache=True)
def _fill_tube(
    points: NDArray, radius: float, scale: NDArray, shape: tuple[int, int, int], n_sub: int
) -> NDArray[np.float32]:
    """Fraction of each voxel inside a tube with flat ends; points at most 0.5 mm apart."""
    out = np.zeros(shape, np.float32)
    n_segments = len(points) - 1
    half_diagonal = 0.5 * np.sqrt((scale**2).sum())
    window = int(half_diagonal / 0.4) + 2
    at = np.empty(3)
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                for a in range(3):
                    at[a] = scale[a, 0] * i + scale[a, 1] * j + scale[a, 2] * k
                near, nearest = np.inf, 0
                for n in range(n_segments + 1):
                    d = 0.0
                    for a in range(3):
                        d += (at[a] - points[n, a]) ** 2
                    if d < near:
                        near, nearest = d, n
                if near > (radius + half_diagonal + 0.5) ** 2:
                    continue
                count = 0
                first = max(0, nearest - window)
                last = min(n_segments, nearest + window)
                for si in range(n_sub):
                    for sj in range(n_sub):
                        for sk in range(n_sub):
                            u = (si + 0.5) / n_sub - 0.5
                            v = (sj + 0.5) / n_sub - 0.5
                            w = (sk + 0.5) / n_sub - 0.5
                            best, where = np.inf, 0.0
                            for n in range(first, last):
                                dot, norm, square = 0.0, 0.0, 0.0
                                for a in range(3):
                                    p = at[a] + scale[a, 0] * u + scale[a, 1] * v + scale[a, 2] * w
                                    e = points[n + 1, a] - points[n, a]
                                    r = p - points[n, a]
                                    dot += r * e
                                    norm += e * e
                                    square += r * r
                                t = dot / norm
                                c = min(max(t, 0.0), 1.0)
                                d = square - 2 * c * dot + c * c * norm
                                if d < best:
                                    best, where = d, n + t
                            if best <= radius * radius and 0 <= where <= n_segments:
                                count += 1
                out[i, j, k] = count / n_sub**3
    return out


def _draw_spheroids(brain: Brain, lesions: Sequence[Spheroid], kind: str) -> NDArray[np.float32]:
    """Fraction of each voxel inside the lesions of one kind, with an edge one voxel wide."""
    out = np.zeros(brain.shape, np.float32)
    to_voxel = np.linalg.inv(brain.affine) @ brain.mni_to_world
    scale = (np.linalg.inv(brain.mni_to_world) @ brain.affine)[:3, :3]
    width = float(brain.voxel_size_mm.mean())
    for lesion in lesions:
        if lesion.kind != kind:
            continue
        centre = apply_affine(to_voxel, lesion.centre_mni_mm)
        reach = (lesion.half_axes_mm.max() + 2 * width) / brain.voxel_size_mm
        low = np.maximum(np.floor(centre - reach).astype(int), 0)
        high = np.minimum(np.ceil(centre + reach).astype(int) + 1, brain.shape)
        box = tuple(slice(i, j) for i, j in zip(low, high, strict=True))
        offset = np.moveaxis(np.mgrid[box], 0, -1) - centre
        radius = np.linalg.norm(offset @ scale.T / lesion.half_axes_mm, axis=-1)
        from_edge = (1 - radius) * lesion.half_axes_mm.mean()
        out[box] = np.maximum(out[box], np.clip(from_edge / width + 0.5, 0, 1))
    return out


def _truth_table(spaces: Sequence[Pvs], brain: Brain) -> pd.DataFrame:
    rows = []
    for space in spaces:
        ends = apply_affine(brain.mni_to_world, space.centreline_mni_mm[[0, -1]])
        direction = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
        middle = space.centreline_mni_mm[len(space.centreline_mni_mm) // 2]
        rows.append(
            {
                "region": space.region,
                "diameter_mm": space.diameter_mm,
                "length_mm": space.length_mm,
                "volume_mm3": space.volume_mm3,
                **{f"direction_{a}": v for a, v in zip("xyz", direction, strict=True)},
                **{f"mni_{a}_mm": v for a, v in zip("xyz", middle, strict=True)},
            }
        )
    return pd.DataFrame(rows)
