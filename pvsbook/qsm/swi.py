"""Susceptibility-weighted images, and small round sources: microbleeds and calcifications."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook._errors import InputError

__all__ = ["find_round_sources", "minimum_projection", "weight_by_phase"]

_COLUMNS = (
    "kind", "x_voxel", "y_voxel", "z_voxel", "diameter_mm", "chi_peak_ppb", "roundness",
    "edge_distance_mm",
)  # fmt: skip
_SCALES_MM = (0.8, 1.2, 1.8, 2.6)


def weight_by_phase(
    magnitude: ArrayLike,
    phase_rad: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    smoothing_mm: float = 8.0,
    power: int = 4,
) -> NDArray[np.float32]:
    """Darken veins and bleeds: magnitude times a mask of the high-passed phase (SWI).

    Parameters
    ----------
    magnitude, phase_rad
        One echo, shape (x, y, z); phase may be wrapped.
    voxel_size_mm
        Three numbers.
    smoothing_mm
        Width of the low-pass that is divided out.  Smaller: less background, weaker veins.
    power
        How often the mask is applied; 4 is usual at 3 T.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z), float32.  A picture for the eye: it depends on orientation and echo time,
        and a calcification may look like a bleed in it.

    References
    ----------
    Haacke et al. 2004, doi:10.1002/mrm.20198.

    Examples
    --------
    >>> phase = np.zeros((9, 9, 9)); phase[4, 4, 4] = 1.5
    >>> image = weight_by_phase(np.ones(phase.shape), phase, (1, 1, 1))
    >>> bool(image[4, 4, 4] < 0.3 < 0.9 < image[0, 0, 0])
    True
    """
    mag, phase = np.asarray(magnitude, np.float32), np.asarray(phase_rad, np.float32)
    if mag.shape != phase.shape or mag.ndim != 3:
        raise InputError(f"magnitude {mag.shape} and phase {phase.shape} must be one volume each")
    width = smoothing_mm / np.asarray(voxel_size_mm, np.float64)
    signal = mag * np.exp(1j * phase)
    slow = ndimage.gaussian_filter(signal, width)
    high = np.angle(signal * np.conj(slow))
    return (mag * np.clip(1 - high / np.pi, 0, 1) ** power).astype(np.float32)


def minimum_projection(
    image: ArrayLike, voxel_size_mm: ArrayLike, *, thickness_mm: float = 8.0, axis: int = 2
) -> NDArray[np.float32]:
    """Take the minimum over a sliding slab, which joins the parts of a vein.

    Examples
    --------
    >>> image = np.ones((3, 3, 5)); image[1, 1, 2] = 0
    >>> minimum_projection(image, (1, 1, 1), thickness_mm=3)[1, 1]
    array([1., 0., 0., 0., 1.], dtype=float32)
    """
    size = float(np.asarray(voxel_size_mm, np.float64)[axis])
    n = max(1, round(thickness_mm / size))
    return ndimage.minimum_filter1d(np.asarray(image, np.float32), n, axis=axis)


def find_round_sources(
    chi_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    min_peak_ppb: float = 120.0,
    min_roundness: float = 0.4,
    min_edge_mm: float = 4.0,
    exclude: ArrayLike | None = None,
) -> pd.DataFrame:
    """List small round sources in a susceptibility map, and tell bleed from calcification.

    A source is an extreme of the scale-normalised Laplacian, over balls of about 2 to 7 mm.  Its
    three principal curvatures tell a ball from a vein, and the sign of its susceptibility tells a
    bleed from a calcification, which magnitude and SWI cannot.

    Parameters
    ----------
    chi_ppm, mask
        Shape (x, y, z).
    voxel_size_mm
        Three numbers.
    min_peak_ppb
        Smallest susceptibility above (or below) the surround.  Higher: fewer false candidates.
    min_roundness
        Smallest ratio of curvatures.  Higher: fewer veins.
    min_edge_mm
        Sources nearer to the mask's edge are left out: residual background looks like them.
    exclude
        Mask of regions not searched, such as the deep grey nuclei.

    Returns
    -------
    pandas.DataFrame
        One row a candidate, strongest first: ``kind``, bleed (paramagnetic) or calcification
        (diamagnetic); ``x_voxel``, ``y_voxel`` and ``z_voxel``, its centre along the voxel axes;
        ``diameter_mm`` of the ball that fits best; ``chi_peak_ppb``, extreme susceptibility less
        its surround; ``roundness``, smallest over largest curvature, 1 a ball and 0 a vein;
        ``edge_distance_mm`` to the mask's edge.  Candidates are for a reader to judge: vein ends,
        flow and iron-rich nuclei are among them.

    References
    ----------
    Sudre et al. 2022 (VALDO), arXiv:2208.07167.

    Examples
    --------
    >>> x, y, z = np.indices((30, 30, 30)) - 15
    >>> chi = 0.6 * np.exp(-(x**2 + y**2 + z**2) / 4) - 0.8 * np.exp(
    ...     -((x - 8) ** 2 + y**2 + z**2) / 4
    ... )
    >>> find_round_sources(chi, chi < 9, (1, 1, 1))["kind"].tolist()
    ['calcification', 'bleed']
    """
    chi, inside = np.asarray(chi_ppm, np.float32), np.asarray(mask, bool)
    size = np.asarray(voxel_size_mm, np.float64)
    if chi.shape != inside.shape or not inside.any():
        raise InputError(f"mask: has shape {inside.shape} and must fit chi_ppm, {chi.shape}")
    edge_mm = ndimage.distance_transform_edt(inside, sampling=size)
    searched = edge_mm > min_edge_mm
    if exclude is not None:
        searched &= ~np.asarray(exclude, bool)
    strength = np.zeros(chi.shape, np.float32)
    scale = np.zeros(chi.shape, np.float32)
    for sigma_mm in _SCALES_MM:
        if sigma_mm < 0.5 * size.max():
            continue
        response = _laplacian(chi, sigma_mm, size)
        better = np.abs(response) > np.abs(strength)
        strength[better], scale[better] = response[better], sigma_mm
    peaks = np.abs(strength) == ndimage.maximum_filter(np.abs(strength), size=5)
    peaks &= searched & (np.abs(strength) > 0.25e-3 * min_peak_ppb)
    rows = []
    for centre in np.argwhere(peaks):
        at = tuple(centre)
        sigma_mm = float(scale[at])
        sign = -1 if strength[at] > 0 else 1  # a bright ball has a negative Laplacian
        reach = np.ceil(3 * sigma_mm / size).astype(int) + 3
        start = np.maximum(centre - reach, 0)
        box = tuple(slice(a, b) for a, b in zip(start, centre + reach + 1, strict=True))
        curvature = np.sort(np.abs(_curvatures(chi[box], tuple(centre - start), sigma_mm, size)))
        offset_mm = (np.moveaxis(np.indices(chi[box].shape), 0, -1) - (centre - start)) * size
        near = np.linalg.norm(offset_mm, axis=-1) <= max(1.5 * sigma_mm, size.max())
        peak_ppb = 1e3 * float(
            (sign * chi[box][near]).max() - sign * np.median(chi[box][inside[box]])
        )
        if peak_ppb < min_peak_ppb or curvature[0] < min_roundness * curvature[2]:
            continue
        kind, roundness = "bleed" if sign > 0 else "calcification", curvature[0] / curvature[2]
        diameter_mm = 2 * 3**0.5 * sigma_mm
        rows.append((kind, *centre, diameter_mm, sign * peak_ppb, roundness, edge_mm[at]))
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    order = frame["chi_peak_ppb"].abs().sort_values(ascending=False).index
    return _one_each(frame.loc[order], size).reset_index(drop=True)


def _one_each(frame: pd.DataFrame, size_mm: NDArray) -> pd.DataFrame:
    """Keep the strongest of candidates that lie within each other."""
    points = frame[["x_voxel", "y_voxel", "z_voxel"]].to_numpy() * size_mm
    kept: list[int] = []
    for n, point in enumerate(points):
        reach = frame["diameter_mm"].to_numpy()[n] / 2
        if all(np.linalg.norm(point - points[m]) > reach + 1 for m in kept):
            kept.append(n)
    return frame.iloc[kept]


def _laplacian(chi: NDArray, sigma_mm: float, size_mm: NDArray) -> NDArray[np.float32]:
    """Return the Laplacian at a scale, times the scale squared."""
    out = np.zeros(chi.shape, np.float32)
    for order, size in zip(2 * np.eye(3, dtype=int), size_mm, strict=True):
        out += ndimage.gaussian_filter(chi, sigma_mm / size_mm, order=order) / np.float32(size**2)
    return out * np.float32(sigma_mm**2)


def _curvatures(
    box: NDArray, centre: tuple[int, ...], sigma_mm: float, size_mm: NDArray
) -> NDArray[np.float64]:
    hessian = np.empty((3, 3))
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        order = np.eye(3, dtype=int)[[a, b]].sum(axis=0)
        filtered = ndimage.gaussian_filter(box, sigma_mm / size_mm, order=order)
        hessian[a, b] = hessian[b, a] = filtered[centre] / (size_mm[a] * size_mm[b])
    return np.asarray(np.linalg.eigvalsh(hessian), np.float64)
