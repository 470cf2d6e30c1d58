"""Susceptibility of lesions from a mask of them, and whether they have a paramagnetic rim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.stats import median_abs_deviation

from pvsbook._errors import InputError
from pvsbook.method import describe_columns
from pvsbook.qsm._solve import distance_inside
from pvsbook.qsm.regions import MIN_REGION_VOXELS

__all__ = ["LESION_COLUMNS", "Lesions", "measure_lesions"]

MIN_LESION_MM3 = 14.0  # a ball of 3 mm
RIM_MM = 1.6  # depth of the rim from the lesion's surface
AROUND_MM = (1.0, 4.0)  # distance of the tissue around it from that surface
RIM_HEIGHT = 1 / 3  # of the rim's mean height: what is lower does not count as covered
MIN_COVER = 2 / 3  # of the rim must be covered
MIN_SCORE = 3.0
N_PLACES = 60  # of the same shape in tissue without lesion, for the error
MIN_PLACES = 20
MIN_FREE = 0.9  # of such a place lies in that tissue

LESION_COLUMNS = describe_columns(
    ("label", "number in the label image of lesions"),
    ("x_mm", "centre, scanner axis to the right", "mm"),
    ("y_mm", "centre, scanner axis to the front", "mm"),
    ("z_mm", "centre, scanner axis to the top", "mm"),
    ("volume_mm3", "volume in the mask", "mm3"),
    ("known", "share of it where susceptibility is known"),
    ("mean_ppb", "mean susceptibility, by the reference of the map", "ppb"),
    ("mean_around_ppb", "mean, less that of the tissue 1 to 4 mm around", "ppb"),
    ("mean_white_ppb", "mean, with all white matter as zero", "ppb"),
    ("rim_centre_ppb", f"outer {RIM_MM:g} mm less the centre", "ppb"),
    ("rim_around_ppb", f"outer {RIM_MM:g} mm less the tissue 1 to 4 mm around", "ppb"),
    ("rim_ppb", "the smaller of the two", "ppb"),
    ("rim_se_ppb", "its spread, where the same shape lies in white matter without lesion", "ppb"),
    ("rim_cover", "share of the rim at least a third as high as its mean, in 3x3x3 voxels"),
    ("rim_score", "rim_ppb less its median in white matter without lesion, over rim_se_ppb"),
    ("rim", f"yes: rim_score at least {MIN_SCORE:g} and rim_cover at least 2/3; no; or n/a: the "
     "lesion has no centre of 8 voxels, or there is too little tissue to compare with"),
)  # fmt: skip
COUNT_COLUMNS = describe_columns(
    ("n_lesions", "lesions of 14 mm3 or more in the mask; n/a: none given, or no supported map"),
    ("n_rim_lesions", "of these, with a paramagnetic rim"),
    ("n_rim_lesions_false", "rims expected if no lesion had one, by tissue without lesions"),
    ("n_rim_unknown", "lesions whose rim cannot be told, as most of less than 5 mm"),
    ("lesions_white_ppb", "mean of all lesions, by volume, with white matter as zero", "ppb"),
)


@dataclass(frozen=True, eq=False)
class Lesions:
    """Lesions of one susceptibility map.

    Attributes
    ----------
    table
        One row a lesion, columns as `LESION_COLUMNS`.
    labels
        Their numbers, shape (x, y, z).
    n_false
        Rims expected without any, from the places in tissue without lesion.
    """

    table: pd.DataFrame
    labels: NDArray[np.int32]
    n_false: float

    def to_row(self) -> dict[str, Any]:
        """Return counts, and the mean of all lesions."""
        table = self.table.dropna(subset=["mean_white_ppb"])
        some = table["volume_mm3"].sum() > 0
        mean = np.average(table["mean_white_ppb"], weights=table["volume_mm3"]) if some else np.nan
        return {
            "n_lesions": len(self.table),
            "n_rim_lesions": int((self.table["rim"] == "yes").sum()),
            "n_rim_lesions_false": self.n_false,
            "n_rim_unknown": int((self.table["rim"] == "n/a").sum()),
            "lesions_white_ppb": float(mean),
        }


def measure_lesions(
    chi_ppm: ArrayLike,
    lesions: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    rng: np.random.Generator,
    *,
    white_matter: ArrayLike | None = None,
) -> Lesions:
    r"""Measure each lesion, and how far its rim stands out from its centre and from around it.

    A paramagnetic rim is rated by eye as one that lies along at least two thirds of the lesion's
    edge and stands out from the core and from the tissue outside.  Here two thirds of the rim must
    reach a third of the height :math:`d`, which must exceed what tissue without lesion shows:

    .. math:: d = \bar\chi_{rim} - \max(\bar\chi_{centre}, \bar\chi_{around}), \qquad
        score = (d - \tilde d_0) / s_0

    with median and spread (from the median absolute deviation) of :math:`d_0`, which is of the
    same shape laid in 60 places of white matter without lesion: so noise, texture and the
    correlation of voxels are in the error.

    On three simulated heads that chose no limit, 21 of 23 rims were found, and none of 22 lesions
    without one was called so; 3 of 48 were too small (``benchmarks/qsm_objects.py --report``).

    Parameters
    ----------
    chi_ppm
        Susceptibility, shape (x, y, z).
    lesions
        Mask of the lesions, as from FLAIR; each 26-connected piece of 14 mm3 or more is one.
    mask
        Where susceptibility is known.
    affine
        Voxel index to scanner mm.
    rng
        Draws the places.
    white_matter
        Where the tissue without lesion is taken from; by default all of the mask, whose grey
        matter and veins make the error larger.

    Returns
    -------
    Lesions

    Raises
    ------
    InputError
        Arrays of different shapes, or no voxel of a lesion where susceptibility is known.

    References
    ----------
    Bagnato et al. 2024 (consensus), doi:10.1093/brain/awae013.

    Examples
    --------
    >>> r = np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0)
    >>> rng = np.random.default_rng(0)
    >>> chi = 0.05 * ((r > 3) & (r < 5)) + rng.normal(0, 0.01, r.shape)
    >>> found = measure_lesions(chi, r < 5, r < 99, np.eye(4), rng)
    >>> found.table["rim"].tolist()
    ['yes']
    """
    chi, known = 1e3 * np.asarray(chi_ppm, np.float64), np.asarray(mask, bool)
    wanted = np.asarray(lesions, bool)
    white = known if white_matter is None else np.asarray(white_matter, bool)
    if not (chi.shape == wanted.shape == known.shape == white.shape):
        raise InputError(
            f"lesions: have shape {wanted.shape}, but susceptibility has {chi.shape}; resample "
            "them to the scan (nearest neighbour)"
        )
    if wanted.any() and not (wanted & known).any():
        raise InputError(
            "lesions: none lies where susceptibility is known; check that the mask belongs to "
            "this scan, and is on its grid"
        )
    size = nib.affines.voxel_sizes(np.asarray(affine))
    labels, _ = ndimage.label(wanted, np.ones((3, 3, 3)))
    volumes = np.bincount(labels.ravel()) * float(np.prod(size))
    volumes[0] = 0
    numbers = np.cumsum(volumes >= MIN_LESION_MM3) * (volumes >= MIN_LESION_MM3)
    labels = numbers[labels].astype(np.int32)
    free = white & known & ~ndimage.binary_dilation(wanted, iterations=2)
    zero = float(chi[free].mean()) if white_matter is not None and free.any() else np.nan
    rows, n_false = [], 0.0
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        lesion = _Shape(labels == number, place, size)
        inside = (labels[place] == number) & known[place]
        mean = float(chi[place][inside].mean()) if inside.any() else np.nan
        centre = np.argwhere(labels[place] == number).mean(axis=0) + [s.start for s in place]
        row = {
            "label": number,
            **dict(zip(("x_mm", "y_mm", "z_mm"),
                       nib.affines.apply_affine(np.asarray(affine), centre), strict=True)),
            "volume_mm3": float((labels[place] == number).sum() * np.prod(size)),
            "known": float(inside.sum() / (labels[place] == number).sum()),
            "mean_ppb": mean, "mean_white_ppb": mean - zero, "rim": "n/a",
        }  # fmt: skip
        usable = known & ~(wanted & (labels != number))
        row["mean_around_ppb"] = mean - lesion.mean_around(chi, usable)
        found = lesion.measure(chi, usable, lesion.start, MIN_FREE)
        if found is not None:
            row |= found
            others = _elsewhere(lesion, chi, free, rng)
            if len(others) >= MIN_PLACES:
                base = others["rim_ppb"].median()  # a vein in some places must not count
                error = median_abs_deviation(others["rim_ppb"], scale="normal")
                row |= {"rim_se_ppb": error, "rim_score": (row["rim_ppb"] - base) / error}
                score = (others["rim_ppb"] - base) / error
                row["rim"] = "yes" if _is_rim(row["rim_score"], row["rim_cover"]) else "no"
                n_false += float(_is_rim(score, others["rim_cover"]).mean())
        rows.append(row)
    return Lesions(pd.DataFrame(rows, columns=list(LESION_COLUMNS)), labels, n_false)


def _is_rim(score: Any, cover: Any) -> Any:
    return (score >= MIN_SCORE) & (cover >= MIN_COVER)


class _Shape:
    """Centre, rim and surround of a lesion in a box, which can be laid elsewhere."""

    def __init__(self, lesion: NDArray, place: tuple[slice, ...], size: NDArray) -> None:
        pad = np.ceil(AROUND_MM[1] / size).astype(int) + 1
        own = np.pad(lesion[place], [(int(p), int(p)) for p in pad])
        self.start = np.array([s.start for s in place]) - pad
        depth = distance_inside(own, size, rim_is_outside=False) - size.mean() / 2
        away = distance_inside(~own, size, rim_is_outside=False) - size.mean() / 2
        self.rim = own & (depth < RIM_MM)
        self.centre = own & ~self.rim
        self.around = ~own & (away >= AROUND_MM[0]) & (away <= AROUND_MM[1])
        self.has_centre = self.centre.sum() >= MIN_REGION_VOXELS

    def _box(self, start: NDArray, shape: Sequence[int]) -> tuple[slice, ...] | None:
        """Return the place of the box in a volume; None where it reaches out of it."""
        stop = start + self.rim.shape
        if (start < 0).any() or (stop > shape).any():
            return None
        return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))

    def mean_around(self, chi: NDArray, usable: NDArray) -> float:
        """Return the mean of the tissue around the lesion; NaN where there is too little."""
        box = self._box(self.start, chi.shape)
        near = np.empty(0) if box is None else chi[box][self.around & usable[box]]
        return float(near.mean()) if near.size >= MIN_REGION_VOXELS else np.nan

    def measure(
        self, chi: NDArray, usable: NDArray, start: NDArray, coverage: float
    ) -> dict[str, float] | None:
        """Compare the rim with centre and surround; None where too little of it is usable."""
        box = self._box(start, chi.shape)
        if not self.has_centre or box is None:
            return None
        good, values = usable[box], chi[box]
        parts = [part & good for part in (self.rim, self.centre, self.around)]
        if (
            good[self.rim | self.centre].mean() < coverage
            or min(p.sum() for p in parts) < MIN_REGION_VOXELS
        ):
            return None
        rim, centre, around = (float(values[p].mean()) for p in parts)
        rest = max(centre, around)
        near = [ndimage.uniform_filter(v, 3) for v in (values * parts[0], parts[0] * 1.0)]
        # Noise on a bare edge lies above the rest in half of it.
        least = rest + RIM_HEIGHT * max(rim - rest, 0)
        high = near[0][parts[0]] > least * near[1][parts[0]]
        return {
            "rim_centre_ppb": rim - centre, "rim_around_ppb": rim - around,
            "rim_ppb": rim - rest, "rim_cover": float(high.mean()),
        }  # fmt: skip


def _elsewhere(
    lesion: _Shape, chi: NDArray, free: NDArray, rng: np.random.Generator
) -> pd.DataFrame:
    """Lay the shape of a lesion in tissue without one, at random places."""
    candidates = np.flatnonzero(free)
    rows: list[dict[str, float]] = []
    if not lesion.has_centre or not candidates.size:
        return pd.DataFrame(rows)
    half = np.array(lesion.rim.shape) // 2
    for flat in rng.choice(candidates, 10 * N_PLACES):
        found = lesion.measure(chi, free, np.unravel_index(flat, chi.shape) - half, MIN_FREE)
        if found is not None:
            rows.append(found)
        if len(rows) == N_PLACES:
            break
    return pd.DataFrame(rows)
