"""The methods of background removal and inversion by name, and what each can be told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvsbook._errors import InputError
from pvsbook.qsm._solve import distance_inside
from pvsbook.qsm.background import LocalField, lbv, pdf, resharp, smv, vsharp
from pvsbook.qsm.field import FieldMap
from pvsbook.qsm.inversion import Inversion, closed_form_l2, ndi, tikhonov, tkd, tv

BACKGROUNDS: Mapping[str, Callable[..., LocalField]] = MappingProxyType(
    {"lbv": lbv, "smv": smv, "vsharp": vsharp, "resharp": resharp, "pdf": pdf}
)
INVERSIONS: Mapping[str, Callable[..., Inversion | NDArray[np.float32]]] = MappingProxyType(
    {"tv": tv, "edge tv": tv, "tkd": tkd, "l2": closed_form_l2, "tikhonov": tikhonov, "ndi": ndi}
)
MAX_DEGREE = 9  # of harmonic polynomials: the points that are compared tell no more apart
# What follows from the scan and the steps before.
_OF_THE_SCAN = ("ball_mm", "radians_per_ppm", "b0_direction")
# From here on a tolerance stops before the first step, and a threshold leaves nothing: the dipole
# kernel goes up to 2/3, the spectrum of a ball's rim up to about 1.
_BELOW = {("tkd", "threshold"): 2 / 3, ("vsharp", "threshold"): 1.0}


def check_steps(
    background: str,
    inversion: str,
    background_options: Mapping[str, Any],
    inversion_options: Mapping[str, Any],
    harmonic_degree: int = 0,
) -> None:
    """Refuse methods that are unknown or do not fit together, and options that they cannot have.

    Raises
    ------
    InputError
        Names the method, the option, and what is possible.
    """
    if harmonic_degree not in range(MAX_DEGREE + 1):
        raise InputError(f"harmonic_degree: {harmonic_degree}; give 0 (none) to {MAX_DEGREE}")
    _check_method("background", background, BACKGROUNDS, background_options)
    _check_method("inversion", inversion, INVERSIONS, inversion_options)
    if background == "smv" and inversion not in ("tv", "edge tv"):
        raise InputError(
            f"inversion: {inversion!r} cannot undo the ball mean that background 'smv' subtracts; "
            "use 'tv' or 'edge tv', or background 'vsharp'"
        )


def _check_method(
    step: str, name: str, methods: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]
) -> None:
    if name not in methods:
        raise InputError(f"{step}: {name!r}; known are {', '.join(methods)}")
    parameters = inspect.signature(methods[name]).parameters.values()
    known = {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in _OF_THE_SCAN
    }
    unknown = [str(option) for option in options if option not in known]
    if unknown:
        raise InputError(
            f"{step}_options: {name} has no option {', '.join(unknown)}; it has {', '.join(known)}"
        )
    for option, value in options.items():
        is_right, wanted = _is_possible(name, option, value, known[option])
        if not is_right:
            raise InputError(f"{step}_options: {option} of {name} is {value!r}; give {wanted}")


def _is_possible(name: str, option: str, value: Any, default: Any) -> tuple[bool, str]:
    """Tell whether an option can have a value, and say what it can have."""
    if option in ("weight", "magnitude"):
        return np.ndim(value) == 3, "an array, shape (x, y, z)"
    is_whole, is_several = isinstance(default, int), isinstance(default, tuple)
    wanted = "a whole number above 0" if is_whole else "a number above 0"
    wanted = "numbers above 0" if is_several else wanted
    below = _BELOW.get((name, option), 1.0 if option == "tolerance" else np.inf)
    if below < np.inf:
        wanted += f" and below {below:.3g}"
    try:
        numbers = np.asarray(value)
    except ValueError:
        numbers = np.array("")
    if not numbers.size or numbers.dtype.kind not in ("i" if is_whole else "iuf"):
        return False, wanted
    least = 0 if option == "pad_mm" else np.nextafter(0, 1)
    is_right = numbers.ndim == is_several and ((numbers >= least) & (numbers < below)).all()
    return bool(is_right), wanted


# Chosen on the heads of benchmarks/qsm_worlds.py by the worst.  Passes of up to 40 iterations took
# more than twice as long and moved the mean error of three heads by less than 1 ppb.
TV_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"regularisation": 8e-4, "passes": 3, "max_iterations": 14, "tolerance": 0.003}
)
RIM_MM = (
    2.0  # of the field after LBV or PDF, which does not count: what they leave there is a guess
)


def options_of_tv(
    mask: NDArray[np.bool_],
    known: NDArray[np.bool_],
    field: FieldMap,
    voxel_size_mm: NDArray[np.float64],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return weight and strength for TV of a field in `mask` that was measured where `known`."""
    depth_mm = distance_inside(mask, voxel_size_mm, rim_is_outside=False)
    sure = known & (depth_mm > max(RIM_MM, voxel_size_mm.max()))
    error = np.nan_to_num(field.standard_error_hz, nan=1.0)  # unknown with two echoes: the same
    weight = np.divide(sure, error, out=np.zeros_like(error), where=error > 0)
    strength = {"tolerance": 0.01} if "regularisation" in options else TV_OPTIONS
    return {"weight": weight if weight.any() else mask & known, **strength}
