"""What a scanner adds to a picture of the brain: texture, shading, ringing, ghosts and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft, ndimage

from pvsbook._errors import InputError
from pvsbook.phantoms.brain import Brain


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


def scan(
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
