"""Complex images in parts: real and imaginary, and one from each receive coil."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pvsbook._errors import InputError

CENTRE = 2  # voxels on each side of the centre, where the coils are put in phase


def from_parts(
    real: NDArray[np.float32], imaginary: NDArray[np.float32], labels: tuple[str, str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turn real and imaginary parts into magnitude and phase (radians).

    Raises
    ------
    InputError
        One of them has no negative value, as a magnitude or a part that was stored from zero.
    """
    for label, what, part in zip(labels, ("real", "imaginary"), (real, imaginary), strict=True):
        if not np.nanmin(part) < 0 < np.nanmax(part):
            raise InputError(
                f"{label}: goes from {np.nanmin(part):g} to {np.nanmax(part):g}, but a {what} "
                "part is negative in some places and positive in others; if the files are "
                "magnitude and phase leave out --real-imaginary, else subtract their zero"
            )
    return np.hypot(real, imaginary), np.arctan2(imaginary, real)


def combine_coils(
    magnitude: NDArray[np.float32], phase_rad: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Combine coils by their phase differences to the first echo, which no coil's phase is in.

    The differences are summed over the coils with the weights of both magnitudes; the magnitude
    is the root of the sum of squares.  A phase that is the same in all echoes of a voxel changes
    no field, so the first echo's may come from coils that are merely put in phase at the centre.

    Parameters
    ----------
    magnitude, phase_rad
        Shape (x, y, z, echo, coil).

    Returns
    -------
    magnitude, phase_rad
        Shape (x, y, z, echo); the phase is wrapped.

    References
    ----------
    Robinson et al. 2017 (Hermitian product; coils in phase at the centre), doi:10.1002/nbm.3601.
    """
    first = magnitude[..., 0, :] * np.exp(1j * phase_rad[..., 0, :])
    strength = np.abs(first).sum(axis=-1)
    places = np.indices(strength.shape)
    centre = [round(float((p * strength).sum() / max(strength.sum(), 1e-30))) for p in places]
    box = first[tuple(slice(max(c - CENTRE, 0), c + CENTRE + 1) for c in centre)]
    loudest = np.abs(box).sum(axis=(0, 1, 2)).argmax()
    turns = (box * np.conj(box[..., loudest : loudest + 1])).sum(axis=(0, 1, 2))
    start = np.angle((first * np.exp(-1j * np.angle(turns))).sum(axis=-1))
    phase = np.empty(magnitude.shape[:4], np.float32)
    for e in range(magnitude.shape[3]):
        echo = magnitude[..., e, :] * np.exp(1j * phase_rad[..., e, :])
        gained = np.angle((echo * np.conj(first)).sum(axis=-1))
        phase[..., e] = np.angle(np.exp(1j * (gained + start)))
    return np.sqrt((magnitude**2).sum(axis=-1)), phase
