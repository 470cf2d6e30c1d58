"""Iron and myelin told apart: chi-separation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._constants import RELAXIVITY_HZ_PPM
from pvsbook._errors import InputError
from pvsbook.method import describe_columns
from pvsbook.qsm.lesions import COUNT_COLUMNS as LESION_COUNTS
from pvsbook.qsm.lesions import measure_lesions
from pvsbook.qsm.microbleeds import COUNT_COLUMNS as OBJECT_COUNTS
from pvsbook.qsm.microbleeds import find_small_sources

if TYPE_CHECKING:
    from pvsbook.qsm.pipeline import QsmResult

__all__ = ["Sources", "separate", "separate_scan"]

TRAIN_COLUMNS = describe_columns(
    ("sources_status", "chi-separation: pass; warn, as R2 is assumed; or withheld, and why"),
    ("sources_clipped", "share of the brain where a source came out negative and was set to zero; "
     "no limit: not known of people"),
) | OBJECT_COUNTS | LESION_COUNTS  # fmt: skip
MIN_ECHOES = 3
ASSUMED_R2_HZ = 12.5  # of grey and white matter at 3 T; they differ by about 2 per second
ASSUMED_AT_T = (2.8, 3.2)


@dataclass(frozen=True, eq=False)
class Sources:
    """Paramagnetic and diamagnetic susceptibility, both counted positive.

    Attributes
    ----------
    iron_ppm, myelin_ppm
        Shape (x, y, z), float32; zero outside the mask.  Named after what makes most of them in
        tissue: the measurement knows para- and diamagnetic, not iron and myelin.
    share_clipped
        Share of the mask where an equation asked for a negative source, which was set to zero.
    about
        What was assumed, for the sidecars of the maps.
    """

    iron_ppm: NDArray[np.float32]
    myelin_ppm: NDArray[np.float32]
    share_clipped: float
    about: Mapping[str, Any] = field(default_factory=dict)


def separate(
    chi_ppm: ArrayLike,
    r2_prime_hz: ArrayLike,
    mask: ArrayLike,
    *,
    field_strength_t: float = 3.0,
    relaxivity_hz_ppm: float = RELAXIVITY_HZ_PPM,
    zero_ppm: float = 0.0,
) -> Sources:
    r"""Split susceptibility by the decay that both kinds of source add to.

    .. math:: \chi = \chi_+ - \chi_-, \qquad R_2' = D_r (\chi_+ + \chi_-)

    Parameters
    ----------
    chi_ppm
        Susceptibility, shape (x, y, z).
    r2_prime_hz
        R2* less R2, in 1/s.  Where R2 was not measured, R2* less an assumed R2 may stand in; say
        so, since an error of 1/s moves both sources by 4 ppb.
    mask
        Where to separate.
    field_strength_t
        The relaxivity grows in proportion to it.
    relaxivity_hz_ppm
        D_r at 3 T.  It is taken to be the same for both sources and all tissue, which holds at
        best roughly: the result is only as right as this number.
    zero_ppm
        Susceptibility of tissue without sources on the scale of `chi_ppm`: the CSF's value where
        that is at hand.  A map referred to the whole brain is off by it.

    Returns
    -------
    Sources

    Raises
    ------
    InputError
        Shapes differ, or numbers that are not positive.

    References
    ----------
    Shin et al. 2021, doi:10.1016/j.neuroimage.2021.118371.

    Examples
    --------
    >>> one = np.ones((1, 1, 1))
    >>> sources = separate(0.02 * one, 137 * 0.08 * one, one)
    >>> print(sources.iron_ppm.round(3), sources.myelin_ppm.round(3))
    [[[0.05]]] [[[0.03]]]
    """
    chi = np.asarray(chi_ppm, np.float64) - zero_ppm
    decay, inside = np.asarray(r2_prime_hz, np.float64), np.asarray(mask, bool)
    if not (chi.shape == decay.shape == inside.shape):
        raise InputError(
            f"chi_ppm {chi.shape}, r2_prime_hz {decay.shape}, mask {inside.shape}: one grid is "
            "needed; resample R2 to the susceptibility map"
        )
    if not (field_strength_t > 0 and relaxivity_hz_ppm > 0) or not inside.any():
        raise InputError("field strength and relaxivity must be positive, and the mask not empty")
    total = decay / (relaxivity_hz_ppm * field_strength_t / 3.0)
    iron, myelin = (total + chi) / 2, (total - chi) / 2
    clipped = float(((iron < 0) | (myelin < 0))[inside].mean())
    iron, myelin = (np.where(inside, np.maximum(s, 0), 0) for s in (iron, myelin))
    return Sources(iron.astype(np.float32), myelin.astype(np.float32), clipped)


def separate_scan(
    gre: images.Gre,
    result: QsmResult,
    r2s_hz: NDArray[np.float32] | None,
    r2_hz: ArrayLike | None = None,
) -> tuple[Sources | None, str]:
    """Separate the sources of a scan, with the CSF of its ventricles as zero.

    On three simulated heads that obey the two equations, means of nuclei err by 3 ppb (at worst
    by 8), with R2 known; with an R2 that is 4 per second off, iron by 18 and myelin by 11 ppb;
    where myelin decays the signal 0.6 times as fast as iron, iron by 8 ppb
    (``benchmarks/qsm_objects.py --sources``).  So the accuracy is that of a model, not of people.

    Parameters
    ----------
    gre, result
        Scan and its map (`pvsbook.qsm.reconstruct`).
    r2s_hz
        R2* (`pvsbook.qsm.r2s.fit_r2s`); None where there is none.
    r2_hz
        R2 in 1/s, shape (x, y, z), from a spin echo.  Where None, 12.5/s is assumed at 3 T.

    Returns
    -------
    sources
        None where they are withheld.
    status
        ``"pass"``; ``"warn: ..."`` where R2 is assumed; ``"withheld: ..."``, with the reason.

    Raises
    ------
    InputError
        An R2 of another shape, or with values that are none of tissue.
    """
    zero = result.references.set_index("reference")["reference_value_ppb"]["CSF"]
    if result.unsupported_steps:
        return None, "withheld: the map is not supported"
    if r2s_hz is None or gre.echo_times_s.size < MIN_ECHOES:
        n = gre.echo_times_s.size
        return None, f"withheld: R2* needs {MIN_ECHOES} echoes, and there are {n}"
    if not np.isfinite(zero):
        return None, "withheld: no CSF was found in the ventricles, so nothing says what is zero"
    low, high = ASSUMED_AT_T
    if r2_hz is None and not low <= gre.field_strength_t <= high:
        return None, (
            f"withheld: R2 at {gre.field_strength_t:g} T is not assumed; give a map of it (--r2)"
        )
    inside = result.local_field.mask & (r2s_hz > 0)
    slow = np.full(inside.shape, ASSUMED_R2_HZ) if r2_hz is None else np.asarray(r2_hz, float)
    if slow.shape == inside.shape:
        middle = float(np.median(slow[inside]))
        if not 4 <= middle <= 50:
            raise InputError(
                f"r2: the median in the brain is {middle:.3g}, but R2 of tissue is 8 to 30 per "
                "second; give 1/s, that is 1000 over T2 in ms"
            )
    sources = separate(
        result.susceptibility.chi_ppm + np.float32(result.susceptibility.value_ppm),
        r2s_hz - slow, inside, field_strength_t=gre.field_strength_t, zero_ppm=1e-3 * zero,
    )  # fmt: skip
    about = {
        "Model": "chi = para - dia, R2* - R2 = D (para + dia); both counted positive",
        "RelaxivityHzPerPpm": RELAXIVITY_HZ_PPM * gre.field_strength_t / 3.0,
        "MagneticFieldStrength": gre.field_strength_t,
        "R2Hz": "map given" if r2_hz is not None else f"{ASSUMED_R2_HZ:g}, assumed everywhere",
        "Zero": f"CSF of the ventricles, {zero:.1f} ppb on the scale of the inversion",
        "Assumptions": "one relaxivity for both sources and all tissue; CSF holds neither source",
    }
    assumed = f"warn: R2 was not measured, {ASSUMED_R2_HZ:g} per second is assumed everywhere"
    status = "pass" if r2_hz is not None else assumed
    return replace(sources, about=MappingProxyType(about)), status


def rest_of_train(
    gre: images.Gre,
    result: QsmResult,
    pictures: Mapping[str, Any],
    labels: NDArray[np.int32] | None,
    white: NDArray[np.bool_] | None,
    r2_hz: ArrayLike | None,
    lesions: ArrayLike | None,
) -> dict[str, Any]:
    """Measure what else a supported map gives: two sources, small objects, lesions."""
    r2s_hz = pictures.get("r2s_hz")
    sources, status = separate_scan(gre, result, r2s_hz, r2_hz)
    train: dict[str, Any] = {"sources": sources, "sources_status": status}
    if result.unsupported_steps:
        return train
    about = result.susceptibility.chi_ppm, result.local_field.mask
    if r2s_hz is not None:
        train["objects"] = find_small_sources(
            *about, r2s_hz, gre.affine, measured=result.mask, nuclei=labels
        )
    if lesions is not None:
        rng = np.random.default_rng(0)  # fixed: the same scan gives the same error
        train["lesions"] = measure_lesions(
            about[0], lesions, about[1], gre.affine, rng, white_matter=white
        )
    return train
