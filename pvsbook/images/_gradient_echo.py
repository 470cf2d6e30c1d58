"""Gradient echoes whose phase is in radians."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError
from pvsbook.images._files import check_scanner, number, same_acquisition, sidecar
from pvsbook.images._parts import combine_coils, from_parts
from pvsbook.images._phase import PHASE_PERIODS, check_period, check_roles, recognise
from pvsbook.images._volumes import (
    ImageLike,
    array,
    header_notes,
    load,
    open_image,
    rotation,
    same_grid,
)

__all__ = ["Gre", "load_gre"]

COPY_CORRELATION = 0.99  # of magnitude and phase: one is the other in other units


@dataclass(frozen=True, eq=False)
class Gre:
    """A gradient-echo scan with its phase in radians.

    Attributes
    ----------
    magnitude, phase_rad
        Shape (x, y, z, echo), float32; phase is wrapped to [-pi, pi].
    echo_times_s
        Shape (echo,), rising.
    field_strength_t
        Tesla.
    affine
        Voxel index to scanner mm, 4 x 4.
    phase_stored_as
        How the file held its phase, such as ``"radians"`` or ``"12-bit integers"``.
    notes
        What the headers leave open, see `pvsbook.images.header_notes`.

    Raises
    ------
    InputError
        Shapes that differ, echo times that are missing, in ms or not rising, a field strength
        that no scanner has.
    """

    magnitude: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    echo_times_s: NDArray[np.float64]
    field_strength_t: float
    affine: NDArray[np.float64]
    phase_stored_as: str = "radians"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays, echo times and a field strength that do not make a scan."""
        shape, times = self.magnitude.shape, np.asarray(self.echo_times_s)
        text = ", ".join(f"{t:g}" for t in times)
        if len(shape) != 4 or self.phase_rad.shape != shape:
            raise InputError(
                f"phase: has shape {self.phase_rad.shape}, but magnitude has {shape}; both must "
                "be (x, y, z, echo), from the same series"
            )
        if times.shape != shape[3:]:
            raise InputError(f"echo times: {times.size} ({text}), but there are {shape[3]} echoes")
        check_acquisition(times, self.field_strength_t)

    @property
    def b0_direction(self) -> NDArray[np.float64]:
        """Unit vector along the scanner's field (world z) in voxel axes, shape (3,)."""
        return rotation(self.affine)[2].copy()

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel size in mm, shape (3,)."""
        return nib.affines.voxel_sizes(self.affine)


def check_acquisition(
    echo_times_s: ArrayLike | None = None,
    field_strength_t: float | None = None,
    phase_period: float | None = None,
) -> None:
    """Refuse numbers that no gradient echo has; what is None is not looked at.

    Raises
    ------
    InputError
        Echo times that fall or look like milliseconds, a field strength that no scanner has, a
        turn that is not positive.
    """
    if echo_times_s is not None:
        times = np.asarray(echo_times_s, np.float64)
        text = ", ".join(f"{t:g}" for t in times)
        if times.max() >= 0.5:
            raise InputError(
                f"echo times: {text} look like milliseconds; give seconds "
                f"({times[0] / 1000:g}, ...)"
            )
        if not (times.min() >= 1e-4 and (np.diff(times) > 0).all()):  # NaN too
            raise InputError(f"echo times: {text}; they must be positive and rising, in seconds")
    if field_strength_t is not None and not 0.05 <= field_strength_t <= 25:
        raise InputError(
            f"field strength: {field_strength_t:g} T is not plausible; give it in tesla"
        )
    if phase_period is not None and not 0 < phase_period < np.inf:
        raise InputError(f"phase_period: {phase_period:g}, but it must be positive")


def load_gre(
    magnitude: ImageLike | Sequence[ImageLike],
    phase: ImageLike | Sequence[ImageLike],
    *,
    echo_times_s: ArrayLike | None = None,
    field_strength_t: float | None = None,
    phase_period: float | None = None,
    real_imaginary: bool = False,
) -> Gre:
    """Load gradient-echo magnitude and phase, whatever the scale the phase was stored in.

    Parameters
    ----------
    magnitude, phase
        One 4D file, or one 3D file an echo, in the order of the echoes.  Coils that are not
        combined yet are one 5D file (x, y, z, echo, coil), see `combine_coils` in
        ``pvsbook/images/_parts.py``.
    echo_times_s
        Seconds, one an echo.  Where None, ``EchoTime`` of the BIDS sidecars beside the phase.
    field_strength_t
        Tesla.  Where None, ``MagneticFieldStrength`` of the sidecars.
    phase_period
        Stored units in one full turn (4096, say).  Give it where the range does not tell; by
        default it is recognised from the range of the values.
    real_imaginary
        The files hold the real part (in the place of the magnitude) and the imaginary part (in
        that of the phase).

    Returns
    -------
    Gre
        NaN outside the brain (where the magnitude is zero or NaN too) is set to zero.

    Raises
    ------
    InputError
        Shapes or grids that differ, echo times missing, falling or in ms, no field strength,
        a phase range that fits no known scale (an unwrapped phase, say) or not the period given,
        magnitude and phase exchanged, echo times or a field strength that the sidecars'
        ``RepetitionTime`` or ``ImagingFrequency`` contradict.

    Examples
    --------
    >>> from pvsbook.images import make
    >>> rng = np.random.default_rng(0)
    >>> mag = make(1 + rng.random((8, 8, 8, 2)), np.eye(4))
    >>> stored = make(rng.integers(0, 4096, (8, 8, 8, 2)).astype(np.int16), np.eye(4))
    >>> gre = load_gre(mag, stored, echo_times_s=[0.005, 0.010], field_strength_t=3)
    >>> gre.phase_stored_as
    '12-bit integers'
    >>> bool(abs(gre.phase_rad).max() <= np.float32(np.pi))
    True
    """
    mags, phases = _open_echoes(magnitude, "magnitude"), _open_echoes(phase, "phase")
    first = mags[0]
    for echo in mags[1:] + phases:
        same_grid(echo.image, first.image, name=echo.label, other_name=first.label)
    mag = _stack([array(echo.image) for echo in mags])
    scaled = _stack([array(echo.image) for echo in phases])
    if mag.ndim == 5 and mag.shape == scaled.shape and mag.shape[3] < 2:
        raise InputError(
            f"{first.label}: holds {mag.shape[4]} coils of one echo, which only echoes can "
            "combine; give two echoes or more, or combine the coils first"
        )
    if mag.shape != scaled.shape:
        raise InputError(
            f"phase: has {scaled.shape[3]} echoes, but magnitude has {mag.shape[3]}; "
            "give both for the same echoes, in the same order"
            if mag.ndim == scaled.ndim == 4
            else f"phase: has shape {scaled.shape}, but magnitude has {mag.shape}; give both for "
            "the same echoes and coils"
        )
    for label, values in ((first.label, mag), (phases[0].label, scaled)):
        if not np.isfinite(values).any():
            raise InputError(f"{label}: holds no finite number; export it again")
    labels = first.label, phases[0].label
    if real_imaginary:
        _refuse_copies(mag, scaled, labels)
        mag, raw = from_parts(mag, scaled, labels)
        stored_as, period = "real and imaginary parts", 2 * np.pi
    else:
        coil = (..., int(np.nansum(mag, axis=(0, 1, 2, 3)).argmax())) if mag.ndim == 5 else ...
        check_roles(mag[coil], scaled[coil], labels)
        if np.nanmin(mag) < 0:
            raise InputError(
                f"{first.label}: magnitude goes down to {np.nanmin(mag):g}, but it cannot be "
                "negative; are magnitude and phase swapped? If the files are real and imaginary "
                "parts, say --real-imaginary"
            )
        raw, stored_as, period = _read_phase(phases, scaled, phase_period)
        check_period(raw.reshape(*raw.shape[:3], -1), period, phases[0].label)
        _refuse_copies(mag, raw, labels)
    outside = ~np.isfinite(mag) | (mag == 0)
    n_missing = int((~np.isfinite(raw) & ~outside).sum())
    if n_missing:
        raise InputError(
            f"{phases[0].label}: {n_missing} voxels of the phase are NaN or infinite where the "
            "magnitude is not zero; export the phase again"
        )
    mag[outside] = 0
    raw[~np.isfinite(raw)] = 0
    radians = raw * np.float32(2 * np.pi / period)
    radians -= np.float32(2 * np.pi) * np.round(radians / np.float32(2 * np.pi))
    np.clip(radians, -np.float32(np.pi), np.float32(np.pi), out=radians)
    if mag.ndim == 5:
        stored_as += f", {mag.shape[4]} coils combined"
        mag, radians = combine_coils(mag, radians)
    for (i, j), (what, values) in itertools.product(
        itertools.combinations(range(mag.shape[3]), 2), [("magnitude", mag), ("phase", radians)]
    ):
        if np.array_equal(values[..., i], values[..., j]):
            raise InputError(
                f"{what}: echoes {i + 1} and {j + 1} hold the same image; "
                "give the file of each echo once"
            )
    for one, other in zip(mags, phases, strict=False):
        same_acquisition(one.sidecar, other.sidecar, name=one.label, other_name=other.label)
    times = _echo_times(echo_times_s, phases, mag.shape[3])
    field = _field_strength(field_strength_t, phases)
    for echo in mags + phases:
        check_scanner(
            echo.sidecar, last_echo_s=max(times), field_strength_t=field, source=echo.label
        )
    notes = (note for echo in mags + phases for note in header_notes(echo.image))
    affine = np.asarray(first.image.affine, np.float64)
    return Gre(mag, radians, times, field, affine, stored_as, tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Echoes:
    """One file of a gradient echo: one echo or all of them."""

    label: str
    image: nib.Nifti1Image
    sidecar: dict[str, Any]


def _open_echoes(source: ImageLike | Sequence[ImageLike], name: str) -> list[_Echoes]:
    is_one = isinstance(source, str | os.PathLike | nib.spatialimages.SpatialImage)
    files: Sequence[Any] = [source] if is_one else source  # type: ignore[assignment]
    if not files:
        raise InputError(f"{name}: at least one file is needed")
    echoes = []
    for k, file in enumerate(files):
        label, image = open_image(file, f"{name} {k + 1}")
        ndim = min(max(len(image.shape), 3), 5)
        if ndim > 3 and len(files) > 1 and math.prod(image.shape[3:]) > 1:
            raise InputError(
                f"{label}: is {ndim}D, but one of {len(files)} files of the {name}; give one 3D "
                "file an echo, or all in one file: 4D (x, y, z, echo), or 5D (x, y, z, echo, "
                "coil) where coils are not combined"
            )
        image = load(image, ndim=ndim, name=label, check_values=False)
        beside = sidecar(file) if isinstance(file, str | os.PathLike) else {}
        echoes.append(_Echoes(label, image, beside))
    return echoes


def _stack(arrays: list[NDArray]) -> NDArray:
    """Join volumes and series along the axis of the echoes."""
    return np.concatenate([a[..., None] if a.ndim == 3 else a for a in arrays], axis=3)


def _refuse_copies(mag: NDArray, phase: NDArray, labels: tuple[str, str]) -> None:
    """Refuse a phase that is the magnitude in other units, by the first echo."""
    one, other = (v.reshape(*v.shape[:3], -1)[..., 0] for v in (mag, phase))
    both = np.isfinite(one) & np.isfinite(other)
    pair = np.stack([one[both], other[both]])
    if (np.ptp(pair, axis=1) > 0).all() and abs(np.corrcoef(pair)[0, 1]) > COPY_CORRELATION:
        raise InputError(
            f"{labels[1]}: is {labels[0]} in other units; give the magnitude of an echo and its "
            "phase"
        )


def _read_phase(
    phases: list[_Echoes], scaled: NDArray[np.float32], period: float | None
) -> tuple[NDArray[np.float32], str, float]:
    """Return the echoes, the name of their scale, and one turn in stored units.

    A header's scale factor can be wrong: where the scaled values fit no known range, the
    unscaled ones are tried, and the name says so.
    """
    if period is not None:
        check_acquisition(phase_period=period)
        return scaled, f"units of {period:g} a turn", float(period)
    if name := recognise(scaled):
        return scaled, name, PHASE_PERIODS[name]
    proxies: list[Any] = [echo.image.dataobj for echo in phases]
    if all(hasattr(proxy, "get_unscaled") for proxy in proxies):
        unscaled = _stack([proxy.get_unscaled().astype(np.float32) for proxy in proxies])
        if name := recognise(unscaled):
            return unscaled, f"{name} (the header's scale factor ignored)", PHASE_PERIODS[name]
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    has_fractions = bool(np.any(np.mod(scaled[np.isfinite(scaled)], 1) != 0))
    is_signed = low < 0 < high
    if has_fractions and is_signed and 1 < max(-low, high) <= np.pi * 1.001:  # short echoes
        return scaled, "radians", PHASE_PERIODS["radians"]
    raise InputError(
        f"{phases[0].label}: phase from {low:.6g} to {high:.6g} fits no known scale (radians, "
        "degrees, 12-, 13- or 16-bit integers); if it is unwrapped give the wrapped phase, else "
        "say how many stored units make one turn (--phase-period)"
    )


def _stored(key: str, phases: list[_Echoes]) -> list[float]:
    """Collect a number from the sidecars that hold it."""
    holders = [echo for echo in phases if key in echo.sidecar]
    return [n for echo in holders for n in number(echo.sidecar, key, source=echo.label)]


def _field_strength(given: float | None, phases: list[_Echoes]) -> float:
    if given is None:
        stored = list(dict.fromkeys(_stored("MagneticFieldStrength", phases)))
        if not stored:
            raise InputError(
                "field strength: not given, and no sidecar holds MagneticFieldStrength; give it "
                "in tesla (--field-strength 3), since susceptibility scales with it"
            )
        if len(stored) > 1:
            raise InputError(
                f"MagneticFieldStrength: {', '.join(f'{b:g}' for b in stored)} T in the sidecars "
                "of one scan; correct them, or give the right one (--field-strength 3)"
            )
        given = stored[0]
    (field,) = number({"": given}, "", source="field strength")
    return field


def _echo_times(
    given: ArrayLike | None, phases: list[_Echoes], n_echoes: int
) -> NDArray[np.float64]:
    if given is not None:
        listed = np.atleast_1d(np.asarray(given)).tolist()
        return np.array(number({"": listed}, "", source="echo times"))
    stored = _stored("EchoTime", phases)
    if len(stored) != n_echoes:
        raise InputError(
            f"echo times: not given, and sidecars hold {len(stored)} EchoTime for {n_echoes} "
            "echoes; give them in seconds (--echo-times 0.004,0.008)"
        )
    return np.array(stored)
