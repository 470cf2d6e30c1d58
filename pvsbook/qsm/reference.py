"""Which tissue counts as zero: susceptibility is known up to a constant only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cc3d
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.method import describe_columns
from pvsbook.qsm._solve import distance_inside
from pvsbook.qsm.r2s import fit_r2s

__all__ = [
    "REFERENCE_COLUMNS",
    "Susceptibility",
    "find_csf",
    "list_references",
    "subtract_reference",
]

MIN_VOXELS = 20
CSF_R2S_HZ = 5.0

REFERENCE_COLUMNS = describe_columns(
    ("reference", "region whose mean susceptibility counts as zero"),
    ("reference_value_ppb", "what is subtracted, on the scale of the map as it came", "ppb"),
    (
        "standard_error_ppb",
        "of that value, from the spread of the region's voxels as if independent",
        "ppb",
    ),
    ("n_voxels", "voxels of the region in the mask"),
    ("mean_ppb", "mean of the whole map, by this reference", "ppb"),
    ("note", "how the region was found, or why it is missing"),
)


@dataclass(frozen=True, eq=False)
class Susceptibility:
    """Susceptibility relative to a named region.

    Attributes
    ----------
    chi_ppm
        Shape (x, y, z), float32; zero outside the mask.
    reference
        What counts as zero; it belongs beside every number.
    value_ppm
        What was subtracted.
    n_voxels
        Voxels in the reference.
    """

    chi_ppm: NDArray[np.float32]
    reference: str
    value_ppm: float
    n_voxels: int


def check_reference(reference: str | ArrayLike) -> None:
    """Refuse a reference by a name that is unknown, before anything is computed."""
    if isinstance(reference, str) and reference not in ("whole brain", "none"):
        raise InputError(
            f"reference: {reference!r}; give 'whole brain', 'none', or a mask of a region"
        )


def subtract_reference(
    chi_ppm: ArrayLike, mask: ArrayLike, reference: str | ArrayLike = "whole brain"
) -> Susceptibility:
    """Subtract the mean of a reference region.

    Parameters
    ----------
    chi_ppm
        Shape (x, y, z).
    mask
        Where susceptibility is known.
    reference
        ``"whole brain"`` (the mask), ``"none"`` (leave the inversion's own zero), or a mask of a
        region, shape (x, y, z).  The whole brain is there in every scan and has the least noise;
        a small region such as ventricular CSF adds its own error to every value, and whole-brain
        change hides in the whole brain.

    Returns
    -------
    Susceptibility

    Raises
    ------
    InputError
        Another name, a region of another shape, or one with fewer than 20 voxels in the mask.

    References
    ----------
    QSM Consensus Organization Committee 2024, doi:10.1002/mrm.30006.

    Examples
    --------
    >>> chi = np.full((3, 3, 3), 0.05, np.float32)
    >>> subtract_reference(chi, np.ones(chi.shape)).chi_ppm.max()
    np.float32(0.0)
    """
    check_reference(reference)
    chi, inside = np.asarray(chi_ppm, np.float32), np.asarray(mask, bool)
    if isinstance(reference, str):
        if reference == "none":
            return Susceptibility(np.where(inside, chi, np.float32(0)), "none", 0.0, 0)
        region, name = inside, reference
    else:
        region, name = np.asarray(reference, bool), "custom region"
        if region.shape != chi.shape:
            raise InputError(
                f"reference: has shape {region.shape}, but susceptibility has {chi.shape}; "
                "resample it to the scan (nearest neighbour)"
            )
        region = region & inside
    n = int(region.sum())
    if n < MIN_VOXELS:
        raise InputError(
            f"reference: {n} voxels lie inside the mask, but {MIN_VOXELS} are needed; "
            "give a larger region, or refer to the whole brain"
        )
    value = float(chi[region].mean(dtype=np.float64))
    return Susceptibility(np.where(inside, chi - np.float32(value), np.float32(0)), name, value, n)


def find_csf(
    magnitude: ArrayLike,
    echo_times_s: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    r2s_below_hz: float = CSF_R2S_HZ,
    within_mm: float = 30.0,
    depth_mm: float = 10.0,
    n_pieces: int = 3,
) -> NDArray[np.bool_]:
    """Mark ventricular CSF by its slow decay, near the middle of the brain.

    Parameters
    ----------
    magnitude
        Shape (x, y, z, echo), at least two echoes.
    echo_times_s
        Shape (echo,).
    mask
        Brain, shape (x, y, z).
    voxel_size_mm
        Three numbers.
    r2s_below_hz
        R2* of what counts as CSF.  Tissue decays at 15 Hz and more at 3 T; raise it only where
        the echoes are too short or too noisy to tell, and look at what is found.
    within_mm
        Distance from the mask's centre of mass.
    depth_mm
        Distance from the mask's surface, which keeps the fluid around the brain out.
    n_pieces
        How many of the largest pieces (connected by faces) are kept, none below 20 voxels.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z), bool; empty where nothing of that kind is found.  It is found without
        anatomy: look at it before a study takes it as its reference.

    References
    ----------
    Liu et al. 2018 (MEDI+0), doi:10.1002/mrm.26946, whose rule and numbers these are; Dimov et
    al. 2021, doi:10.1111/jon.12923, set it beside a mask of all CSF.

    Examples
    --------
    >>> x, y, z = np.indices((48, 48, 48)) - 23.5
    >>> r2s = np.where(x**2 + y**2 + z**2 < 25, 2.0, 20.0)
    >>> times = np.array([0.005, 0.015, 0.025])
    >>> found = find_csf(np.exp(-r2s[..., None] * times), times, r2s > 0, (1, 1, 1))
    >>> bool((found == (r2s < 5)).all())
    True
    """
    inside, size = np.asarray(mask, bool), np.asarray(voxel_size_mm, np.float64)
    if not inside.any():
        raise InputError("mask: is empty; give a mask that holds the brain")
    axes = np.ogrid[tuple(map(slice, inside.shape))]
    centre = ndimage.center_of_mass(inside)
    from_centre = (np.square((i - c) * s) for i, c, s in zip(axes, centre, size, strict=True))
    near = sum(from_centre) <= within_mm**2
    central = near & (distance_inside(inside, size, rim_is_outside=False) > depth_mm)
    slow = central & (fit_r2s(magnitude, echo_times_s, central) < r2s_below_hz)
    pieces = cc3d.dust(slow, threshold=MIN_VOXELS, connectivity=6)
    return cc3d.largest_k(pieces, k=n_pieces, connectivity=6) > 0


def list_references(
    chi_ppm: ArrayLike,
    mask: ArrayLike,
    gre: images.Gre,
    *,
    given: Mapping[str, ArrayLike] = MappingProxyType({}),
) -> pd.DataFrame:
    """Tabulate what every reference would subtract from one map, and how its region was found.

    Parameters
    ----------
    chi_ppm
        Shape (x, y, z).
    mask
        Where susceptibility is known.
    gre
        The scan: CSF is looked for in it (`find_csf`).
    given
        Name to mask, such as ``{"white matter": mask}``.  White matter is not looked for: by
        magnitude and phase alone it cannot be told from grey matter with any certainty.

    Returns
    -------
    pandas.DataFrame
        One row a reference, columns as `REFERENCE_COLUMNS`.  A reference that was not found is
        NaN, and its ``note`` says why.

    Raises
    ------
    InputError
        As `subtract_reference`.

    Examples
    --------
    >>> from pvsbook.phantoms.gradient_echo import make_gre
    >>> head = make_gre(np.random.default_rng(0), voxel_size_mm=2)
    >>> table = list_references(head.chi_ppm, head.brain, head.gre)
    >>> table["reference"].tolist()
    ['none', 'whole brain', 'CSF', 'white matter']
    >>> print(table["reference_value_ppb"].round().tolist())  # CSF is 19 in the phantom
    [0.0, 2.0, 19.0, nan]
    """
    inside = np.asarray(mask, bool)
    notes = {"none": "the inversion's own zero", "whole brain": "the mask of the map"}
    regions = {name: np.asarray(region, bool) for name, region in given.items()}
    notes |= dict.fromkeys(regions, "mask given")
    if "CSF" not in regions and gre.echo_times_s.size < 2:
        notes["CSF"] = "not looked for: R2* needs two echoes"
    elif "CSF" not in regions:
        fluid = find_csf(gre.magnitude, gre.echo_times_s, inside, gre.voxel_size_mm)
        notes["CSF"] = (
            f"not found: no {MIN_VOXELS} voxels that hang together near the middle of the mask "
            f"have R2* below {CSF_R2S_HZ:g} Hz"
        )
        if fluid.any():
            regions["CSF"] = fluid
            notes["CSF"] = f"found by R2* below {CSF_R2S_HZ:g} Hz; check where it lies"
    notes.setdefault("white matter", "no mask of it was given")
    choices: dict[str, Any] = {"none": "none", "whole brain": "whole brain", **regions}
    chi = np.asarray(chi_ppm, np.float64)
    rows = [
        {"reference": name, **measure_reference(chi, inside, choices.get(name)), "note": note}
        for name, note in notes.items()
    ]
    table = pd.DataFrame(rows, columns=list(REFERENCE_COLUMNS))
    return table.astype({"n_voxels": "Int64"})


def measure_reference(
    chi: NDArray[np.float64], inside: NDArray[np.bool_], choice: Any
) -> dict[str, Any]:
    """Measure what a reference subtracts; an empty row where there is none."""
    if choice is None:
        return {}
    zero = subtract_reference(chi, inside, choice)
    error = 0.0
    if zero.n_voxels:
        voxels = inside if isinstance(choice, str) else choice & inside
        error = 1e3 * float(chi[voxels].std(ddof=1)) / zero.n_voxels**0.5
    return {
        "reference_value_ppb": 1e3 * zero.value_ppm,
        "standard_error_ppb": error,
        "n_voxels": zero.n_voxels,
        "mean_ppb": 1e3 * (chi[inside].mean() - zero.value_ppm),
    }


def with_white_matter(
    table: pd.DataFrame,
    found: Susceptibility,
    mask: NDArray[np.bool_],
    white: NDArray[np.bool_],
    image: str,
) -> pd.DataFrame:
    """Return the table of references with the template's white matter, where none was given."""
    row = table["reference"] == "white matter"
    if table.loc[row, "n_voxels"].notna().any() or white.sum() < MIN_VOXELS:
        return table
    chi = found.chi_ppm.astype(np.float64) + found.value_ppm
    measured = measure_reference(chi, mask, white) | {
        "note": f"of the template, placed by the registration of the {image}"
    }
    return table.assign(**{name: table[name].mask(row, v) for name, v in measured.items()})
