"""A brain with perivascular spaces of known shape, and with what looks like them.

Everything is placed in MNI mm and drawn on the scanner's grid with sub-voxel partial volume, so
that one seed gives the same brain at every voxel size, in every pose and storage order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, Unpack

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft, ndimage

from pvsbook._errors import InputError
from pvsbook.phantoms._folds import draw_brain, draw_person, places_of
from pvsbook.phantoms._shapes import (
    DEFAULT_COUNTS,
    LESIONS,
    Pvs,
    draw_spheroids,
    draw_tube,
    draw_tubes,
    onto_spaces,
    place_lesions,
    place_pvs,
)
from pvsbook.phantoms.brain import Brain, GridOptions, brain_grid, make_brain

__all__ = [
    "LESIONS",
    "SCANNERS",
    "SIGNALS",
    "Artefacts",
    "Pvs",
    "PvsPhantom",
    "draw_scan",
    "draw_tube",
    "make_phantom",
    "place_pvs",
]

# Signal relative to normal white matter.  Background (air) is 0.  After STRIVE (Wardlaw et al.
# 2013, doi:10.1016/S1474-4422(13)70124-8): fluid stands out on T2w, T1w and FLAIR but not on
# T2*-weighted scans, a microbleed on those alone.  A lesion of exactly 1.0 is isointense: it
# shows the tissue that it lies in.
_COLUMNS = ("wm", "gm", "csf", "wmh", "rim", "lacune", "microbleed")
SIGNALS: Mapping[str, Mapping[str, float]] = {
    contrast: dict(zip(_COLUMNS, values, strict=True))
    for contrast, values in {
        "T2w": (1.0, 1.3, 3.0, 1.8, 1.3, 3.0, 1.0),
        "T1w": (1.0, 0.75, 0.3, 0.85, 0.9, 0.3, 1.0),
        "FLAIR": (1.0, 1.15, 0.2, 1.8, 1.6, 0.2, 1.0),
        "SWI": (1.0, 0.95, 1.0, 1.05, 1.0, 1.0, 0.1),
    }.items()
}
# Signal of the nuclei, where a brain knows them.  Iron shortens T2, most in the pallidum (Hallgren
# & Sourander 1958, doi:10.1111/j.1471-4159.1958.tb12607.x); myelin makes pallidum and thalamus
# whiter on T1w than caudate and putamen.  `benchmarks/pvs_heads.py` prints those of two people.
_NUCLEI: Mapping[str, Mapping[str, float]] = {
    contrast: dict(zip(("caudate", "putamen", "pallidum", "thalamus"), values, strict=True))
    for contrast, values in {
        "T2w": (1.1, 1.05, 0.75, 1.05),
        "T1w": (0.8, 0.83, 0.95, 0.9),
        "FLAIR": (1.05, 1.05, 0.8, 1.05),
        "SWI": (0.85, 0.8, 0.6, 0.9),
    }.items()
}
# Signal of a perivascular space: that of CSF, or so many times the tissue around it.
WEAK: Mapping[str, float] = {"T2w": 1.38, "T1w": 0.8, "FLAIR": 0.9, "SWI": 1.0}
STRENGTHS = ("csf", "weak")


@dataclass(frozen=True)
class Artefacts:
    """Artefacts of a scan, each as a fraction from 0 (none) to 0.5.

    Attributes
    ----------
    bias
        Strength of the smooth receive field: 0.3 makes places 30 % brighter or darker.
    texture
        Standard deviation of tissue about its mean, smooth over 3 mm.
    ghosting
        Strength of a ghost half a field of view away along the second axis, as motion makes it.
    gibbs
        Outer part of k-space that was not measured: edges ring.
    """

    bias: float = 0.0
    texture: float = 0.0
    ghosting: float = 0.0
    gibbs: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 0.5:
                raise InputError(f"{name}: {value}; give a fraction from 0 to 0.5")


# What a scanner does to the picture; pass one to `make_phantom` with ``**SCANNERS["7T"]``.
SCANNERS: Mapping[str, Mapping[str, Any]] = {
    "3T": {"voxel_size_mm": 1.0, "snr": 20.0, "artefacts": Artefacts(0.1, 0.02, gibbs=0.1)},
    "7T": {"voxel_size_mm": 0.5, "snr": 20.0, "artefacts": Artefacts(0.3, 0.02, gibbs=0.1)},
}


class ScanSettings(TypedDict, total=False):
    """Settings of a scan, as of `draw_scan`."""

    contrast: str
    strength: str
    snr: float
    artefacts: Artefacts | None


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

    def scan_again(self, rng: Generator, **settings: Unpack[ScanSettings]) -> nib.Nifti1Image:
        """Scan the same brain once more, with new noise and other settings (`draw_scan`)."""
        return draw_scan(rng, self.brain, self.fraction, self.lesions, **settings)


def make_phantom(
    rng: Generator,
    *,
    voxel_size_mm: float | Sequence[float] = 1.0,
    contrasts: Sequence[str] = ("T2w",),
    strength: str = "csf",
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    diameters_mm: tuple[float, float] = (0.75, 3.0),
    lengths_mm: tuple[float, float] = (5.0, 16.0),
    n_wmh: int = 0,
    n_periventricular: int = 0,
    n_lacunes: int = 0,
    n_microbleeds: int = 0,
    folded: bool = False,
    snr: float = 20.0,
    artefacts: Artefacts | None = None,
    **grid: Unpack[GridOptions],
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
    n_wmh, n_periventricular, n_lacunes, n_microbleeds
        How many confounders: deep and periventricular white-matter hyperintensities, lacunes
        with a rim (bright on FLAIR), microbleeds (dark on ``"SWI"``).
    folded
        A person's brain, drawn from `rng`, instead of the average of many: sulci 0.2 to 3 mm wide
        that reach the white matter, a blurred border of grey and white matter, caudate, putamen,
        pallidum and thalamus with their own signals, a shape and atrophy of its own; and every
        second hyperintensity is crossed or touched by a space.
    snr
        Signal of white matter over the standard deviation of the noise in each channel.
    artefacts
        Texture, receive field, ringing and ghosts; none by default.
    **grid
        Pose, storage order and field of view: see `pvsbook.phantoms.brain.GridOptions`.

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
    if folded:
        person = draw_person(rng)
        places = places_of(person)
        grid["margin_mm"] = grid.get("margin_mm", 4.0) + 4.0  # the shape is its own
        brain = draw_brain(person, brain_grid(voxel_size_mm, **grid))
    else:
        places, brain = None, make_brain(voxel_size_mm, **grid)
    placed = place_lesions(rng, n_wmh, n_periventricular, n_lacunes, n_microbleeds, places)
    spaces = place_pvs(
        rng,
        counts=counts,
        diameters_mm=diameters_mm,
        lengths_mm=lengths_mm,
        avoid=placed,
        places=places,
    )
    if folded:
        placed = onto_spaces(rng, placed, spaces)
    labels, fraction = draw_tubes(brain, spaces)
    lesions = {kind: draw_spheroids(brain, placed, kind) for kind in LESIONS}
    settings: ScanSettings = {"strength": strength, "snr": snr, "artefacts": artefacts}
    draw = partial(draw_scan, rng, brain, fraction, lesions, **settings)
    return PvsPhantom(
        scans={contrast: draw(contrast=contrast) for contrast in contrasts},
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
    contrast: str = "T2w",
    strength: str = "csf",
    snr: float = 20.0,
    artefacts: Artefacts | None = None,
) -> nib.Nifti1Image:
    """Mix the signals of the tissues by their fractions and do to them what a scanner does.

    Parameters
    ----------
    rng
        Random numbers for texture, receive field and noise, in this order.
    brain
        Tissue fractions.
    fraction
        Fraction of perivascular space, shape (x, y, z).
    lesions
        Fractions of `LESIONS`, shape (x, y, z).
    contrast, strength, snr, artefacts
        As in `make_phantom`.

    Raises
    ------
    InputError
        An unknown contrast or strength, or an SNR that is not positive.
    """
    if contrast not in SIGNALS:
        raise InputError(f"contrast: {contrast!r} is not one of {', '.join(SIGNALS)}")
    if strength not in STRENGTHS:
        raise InputError(f"strength: {strength!r} is not one of {', '.join(STRENGTHS)}")
    signal = SIGNALS[contrast]
    mixed = sum(signal[t] * getattr(brain, t) for t in ("wm", "gm", "csf"))
    for nucleus, share in brain.nuclei.items():
        mixed += share * (_NUCLEI[contrast][nucleus] - signal["gm"])
    for kind in LESIONS:
        if signal[kind] != 1.0:
            mixed += lesions[kind] * (signal[kind] - mixed)
    inside = signal["csf"] if strength == "csf" else WEAK[contrast] * mixed
    mixed += fraction * (inside - mixed)
    return brain.image(100 * _scan(rng, brain, mixed, snr, artefacts or Artefacts()))


def _scan(
    rng: Generator, brain: Brain, signal: NDArray[np.float32], snr: float, artefacts: Artefacts
) -> NDArray[np.float32]:
    """Return the magnitude image of a signal: artefacts, then Rician noise of 1 / `snr`."""
    if not (np.isfinite(snr) and snr > 0):
        raise InputError(f"snr: {snr}; give a positive ratio, such as 20")
    if artefacts.texture:
        grain = rng.standard_normal(brain.shape, dtype=np.float32)
        grain = ndimage.gaussian_filter(grain, 1.3 / brain.voxel_size_mm)
        signal = signal * (1 + np.float32(artefacts.texture) * grain / grain.std())
    if artefacts.bias:
        signal = signal * _receive_field(rng, brain, artefacts.bias)
    if artefacts.gibbs:
        signal = _truncate(signal, artefacts.gibbs)
    if artefacts.ghosting:
        ghost = np.roll(signal, signal.shape[1] // 2, axis=1)
        signal = signal + np.float32(artefacts.ghosting) * ghost
    noise = rng.standard_normal((2, *brain.shape), dtype=np.float32) / np.float32(snr)
    return np.hypot(signal + noise[0], noise[1])


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
