"""Small strong sources of a susceptibility map: microbleeds, calcifications and veins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import apply_hysteresis_threshold

from pvsbook._errors import InputError
from pvsbook.images._smooth import smooth_within
from pvsbook.method import describe_columns
from pvsbook.qsm._solve import distance_inside

__all__ = ["OBJECT_COLUMNS", "SmallSources", "find_small_sources"]

AROUND_MM = 4.0  # width of the smooth map that an object must stand out from
SEED_PPB, GROWN_PPB = 250.0, 75.0  # an object grows from the first; at 150 veins pass for bleeds
DIAMETER_MM = (2.0, 10.0)  # of a microbleed, Greenberg et al. 2009
MAX_ELONGATION = 2.5  # longest over middle axis; beyond it an object is a vein
MIN_EDGE_MM = 4.0
MIN_R2S_RISE_HZ = 10.0
LOBE_MM, LOBE_RATIO = 10.0, 2.0  # so near a source so much stronger, it may be its artefact
CLASSES: Mapping[str, int] = {"microbleed": 1, "calcification": 2, "vein": 3, "uncertain": 4}

OBJECT_COLUMNS = describe_columns(
    ("label", "number in the label image of objects"),
    ("class", "microbleed, calcification, vein, or uncertain"),
    ("x_mm", "centre, scanner axis to the right", "mm"),
    ("y_mm", "centre, scanner axis to the front", "mm"),
    ("z_mm", "centre, scanner axis to the top", "mm"),
    ("volume_mm3", "volume above half of its peak; blur makes small sources too large", "mm3"),
    ("diameter_mm", "of a ball of that volume", "mm"),
    ("elongation", "longest over middle axis, weighted by susceptibility; 1 is a ball"),
    ("mean_ppb", "mean susceptibility there, by the reference of the map", "ppb"),
    ("peak_ppb", "extreme susceptibility less the smooth map around", "ppb"),
    ("r2s_rise_hz", "R2* there less the smooth R2* around; n/a: no voxel has signal", "1/s"),
    ("edge_mm", "from its voxels to the edge of the map, mean", "mm"),
    ("in_nucleus", "whether most of it lies in a deep grey nucleus"),
    ("reasons", "what kept it from a class"),
)  # fmt: skip
COUNT_COLUMNS = describe_columns(
    ("n_microbleeds", "candidates for a reader to judge; n/a: one echo, or no supported map"),
    ("n_microbleeds_false", "of these, the least expected from artefacts; veins are not in it"),
    ("n_calcifications", "candidates for a reader to judge"),
    ("n_calcifications_false", "of these, the least expected from artefacts"),
    ("n_uncertain_objects", "objects that meet some of the rules; the table of objects says why"),
)


@dataclass(frozen=True, eq=False)
class SmallSources:
    """Objects of one susceptibility map.

    Attributes
    ----------
    table
        One row an object, columns as `OBJECT_COLUMNS`.
    labels
        Their numbers, shape (x, y, z).
    chance
        Share of the places searched where R2* rises as much as in a microbleed without one.
    """

    table: pd.DataFrame
    labels: NDArray[np.int32]
    chance: float

    def to_row(self) -> dict[str, Any]:
        """Return counts, and how many of each kind are to be expected without any source.

        An artefact of the map does not raise R2*.  So the candidates that R2* does not confirm
        say how many artefacts there are, and the chance of a rise at any place says how many of
        them it confirms.  Pieces of veins and iron, which raise both, are not in that number, so
        it is the least to expect.
        """
        row: dict[str, Any] = {}
        for kind, sign in (("microbleed", 1), ("calcification", -1)):
            same = np.sign(self.table["peak_ppb"]) == sign
            doubted = int((same & (self.table["reasons"] == NO_RISE)).sum())
            row[f"n_{kind}s"] = int((self.table["class"] == kind).sum())
            row[f"n_{kind}s_false"] = doubted * self.chance / max(1 - self.chance, 0.1)
        row["n_uncertain_objects"] = int((self.table["class"] == "uncertain").sum())
        return row


NO_RISE = "R2* does not rise"


def find_small_sources(
    chi_ppm: ArrayLike,
    mask: ArrayLike,
    r2s_hz: ArrayLike,
    affine: ArrayLike,
    *,
    measured: ArrayLike,
    nuclei: ArrayLike | None = None,
) -> SmallSources:
    """Find small strong sources, and tell microbleeds from calcifications and veins.

    An object stands out from the smooth map around it by 250 ppb, and grows down to 75 ppb.  The
    sign of susceptibility tells a microbleed from a calcification, which magnitude and SWI cannot;
    its elongation tells it from a vein; and R2* must rise, which streaks and noise of the
    inversion do not make it do.  What meets some of these rules is *uncertain*, and says why.

    On three simulated heads that chose no limit, it found all 13 bleeds wider than 4.4 mm, 8 of
    10 of 3 to 4.4 mm, 1 of 7 smaller ones and 17 of 18 calcifications, and nothing false
    (``benchmarks/qsm_objects.py --report``).  Veins of more than 250 ppb, iron in cortex and flow
    are rarer there than in people.

    Parameters
    ----------
    chi_ppm, mask
        Susceptibility, and where it is known; shape (x, y, z).
    r2s_hz
        R2* (`pvsbook.qsm.r2s.fit_r2s`).
    affine
        Voxel index to scanner mm.
    measured
        Where phase and R2* were measured.  A source so strong that nothing was measured in it
        counts as one where R2* rises.
    nuclei
        Labels of the deep grey nuclei, whose iron looks like a bleed.

    Returns
    -------
    SmallSources
        Candidates for a reader to judge, not diagnoses.

    Raises
    ------
    InputError
        Arrays of different shapes.

    References
    ----------
    Greenberg et al. 2009 (what a microbleed is), doi:10.1016/S1474-4422(09)70013-4; Liu et al.
    2012 (microbleeds in QSM), doi:10.1148/radiol.11110251; Chen et al. 2014 (calcification and
    bleed by QSM), doi:10.1148/radiol.13122640.

    Examples
    --------
    >>> x, y, z = np.indices((40, 40, 40)) - 20
    >>> ball = np.exp(-(x**2 + y**2 + z**2) / 4)
    >>> found = find_small_sources(0.6 * ball, ball < 9, 20 + 60 * ball, np.eye(4),
    ...                            measured=ball < 9)
    >>> found.table["class"].tolist()
    ['microbleed']
    """
    chi, inside = np.asarray(chi_ppm, np.float32), np.asarray(mask, bool)
    r2s, known = np.asarray(r2s_hz, np.float32), np.asarray(measured, bool)
    if not (chi.shape == inside.shape == r2s.shape == known.shape):
        raise InputError(
            f"chi_ppm {chi.shape}, mask {inside.shape}, r2s_hz {r2s.shape}, measured "
            f"{known.shape}: one grid is needed; resample them to the susceptibility map"
        )
    known = known & inside
    size = nib.affines.voxel_sizes(np.asarray(affine))
    labels = np.zeros(chi.shape, np.int32)
    if not inside.any():
        return SmallSources(pd.DataFrame(columns=list(OBJECT_COLUMNS)), labels, 0.0)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    excess = 1e3 * _above_surround(chi[box], inside[box], size)
    rise = _above_surround(r2s[box], known[box], size)
    edge = distance_inside(inside[box], size)
    iron = np.zeros(edge.shape, bool) if nuclei is None else np.asarray(nuclei)[box] > 0
    count, rows = 0, []
    for sign in (1, -1):
        own = sign * excess
        grown, n = ndimage.label(apply_hysteresis_threshold(own, GROWN_PPB, SEED_PPB),
                                 np.ones((3, 3, 3)))  # fmt: skip
        for number, place in enumerate(ndimage.find_objects(grown), 1):
            here = grown[place] == number
            core = here & (own[place] >= own[place][here].max() / 2)
            labels[box][place][core] = count + number
            rows.append(
                _describe(place, here, core, own, size)
                | {
                    "label": count + number,
                    "mean_ppb": 1e3 * float(chi[box][place][core].mean()),
                    "peak_ppb": sign * float(own[place][here].max()),
                    "r2s_rise_hz": _mean(rise[place], core & known[box][place]),
                    "edge_mm": float(edge[place][core].mean()),
                    "in_nucleus": bool(iron[place][core].mean() > 0.5),
                }
            )
        count += n
    table = pd.DataFrame(rows, columns=["x", "y", "z", *OBJECT_COLUMNS])
    start = [s.start for s in box]
    centres = nib.affines.apply_affine(np.asarray(affine), table[["x", "y", "z"]] + start)
    table[["x_mm", "y_mm", "z_mm"]] = centres
    table["diameter_mm"] = (6 / np.pi * table["volume_mm3"].astype(float)) ** (1 / 3)
    table["class"], table["reasons"] = _classify(table)
    small = ndimage.uniform_filter(rise, 3)[known[box] & (edge > MIN_EDGE_MM)]
    chance = float((small > MIN_R2S_RISE_HZ).mean()) if small.size else 0.0
    return SmallSources(table[list(OBJECT_COLUMNS)], labels, chance)


def _above_surround(values: NDArray, inside: NDArray, size: NDArray) -> NDArray[np.float32]:
    """Subtract the smooth part of a map, which is known in a mask only."""
    smooth = smooth_within(values, inside, AROUND_MM / size, truncate=3)
    return np.where(inside, values - smooth, np.float32(0))


def _mean(values: NDArray, where: NDArray) -> float:
    return float(values[where].mean()) if where.any() else np.nan


def _describe(
    place: tuple[slice, ...], here: NDArray, core: NDArray, own: NDArray, size: NDArray
) -> dict[str, Any]:
    """Measure place, volume and elongation; moments are weighted, as few voxels have no shape."""
    index = np.argwhere(here) + [s.start for s in place]
    weight = own[place][here]
    centre = np.average(index, axis=0, weights=weight)
    spread = np.cov(index.T * size[:, None], aweights=weight, ddof=0) + np.diag(size**2 / 12)
    axes = np.sqrt(np.linalg.eigvalsh(spread))
    return {
        **dict(zip("xyz", centre, strict=True)),
        "volume_mm3": float(core.sum() * np.prod(size)),
        "elongation": float(axes[2] / axes[1]),
    }


def _classify(table: pd.DataFrame) -> tuple[NDArray[np.str_], list[str]]:
    """Return the class of each object, and what kept the uncertain ones from a class."""
    is_long = table["elongation"] > MAX_ELONGATION
    is_iron = table["peak_ppb"] > 0
    least, most = DIAMETER_MM
    faults: dict[str, pd.Series] = {
        "smaller than 2 mm": table["diameter_mm"] < least,
        "larger than 10 mm": table["diameter_mm"] > most,
        "near the edge": table["edge_mm"] < MIN_EDGE_MM,
        "in a deep grey nucleus": table["in_nucleus"].astype(bool),
        "elongated, but not paramagnetic": is_long & ~is_iron,
        "beside a stronger source": pd.Series(_is_beside(table), table.index),
        NO_RISE: table["r2s_rise_hz"] < MIN_R2S_RISE_HZ,
    }
    reasons = ["; ".join(name for name, bad in faults.items() if bad[n]) for n in table.index]
    is_vein = is_long & is_iron & ~faults["beside a stronger source"]
    sound = np.array([not text for text in reasons], bool)
    named = np.select([is_vein, sound & is_iron, sound], ["vein", "microbleed", "calcification"],
                      "uncertain")  # fmt: skip
    return named, ["" if v else text for v, text in zip(is_vein, reasons, strict=True)]


def _is_beside(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which objects lie beside a much stronger one, whose dipole field is not inverted."""
    points = table[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    pairs = cKDTree(points).query_pairs(LOBE_MM, output_type="ndarray") if len(table) else []
    strong = table["peak_ppb"].abs().to_numpy()
    out = np.zeros(len(table), bool)
    for a, b in pairs:
        out[a] |= strong[b] > LOBE_RATIO * strong[a]
        out[b] |= strong[a] > LOBE_RATIO * strong[b]
    return out
