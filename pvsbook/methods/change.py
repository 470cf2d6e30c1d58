"""Change of susceptibility between two visits, as a method of the BIDS App."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pvsbook._errors import InputError
from pvsbook.method import Input, Method, Option, Shown
from pvsbook.methods import _prose, qsm
from pvsbook.visit import Found

if TYPE_CHECKING:
    import pandas as pd

    from pvsbook.images import PathLike
    from pvsbook.qsm.change import Change

__all__ = ["METHOD"]


def validate(options: Mapping[str, Any]) -> None:
    """Refuse what the library would refuse of every pair of scans."""
    from pvsbook import images
    from pvsbook.qsm import pipeline

    inversion, regularisation = options["inversion"], options["regularisation"]
    if "tv" not in inversion and regularisation != METHOD.defaults["regularisation"]:
        raise InputError(
            f"regularisation: is {regularisation:g}, but belongs to TV and the inversion is "
            f"{inversion}; leave it out"
        )
    for visit in zip(*(_of_both(options[name]) for name in qsm.SCANNER), strict=True):
        images.check_acquisition(*visit)
    of_inversion = _inversion_options(inversion, regularisation)
    pipeline.check_steps(options["background"], inversion, {}, of_inversion)


def _inversion_options(inversion: str, regularisation: float) -> dict[str, Any]:
    return {"regularisation": regularisation} if "tv" in inversion else {}


def measure(
    first_magnitude: Sequence[PathLike],
    first_phase: Sequence[PathLike],
    second_magnitude: Sequence[PathLike],
    second_phase: Sequence[PathLike],
    *,
    first_session: str,
    echo_times_s: Any,
    field_strength_t: Any,
    phase_period: float | None,
    real_imaginary: Any,
    phase_sign: int,
    background: str,
    inversion: str,
    regularisation: float,
    atlas: str,
) -> Change:
    """Measure change between two visits (see `pvsbook.qsm.change.measure_visits`)."""
    import numpy as np

    from pvsbook import images
    from pvsbook.atlas import deep_grey
    from pvsbook.qsm import change, nuclei

    scanner = (_of_both(o) for o in (echo_times_s, field_strength_t, real_imaginary))
    files = (first_magnitude, first_phase), (second_magnitude, second_phase)
    visits = [
        images.load_gre(
            *scan,
            echo_times_s=seconds,
            field_strength_t=tesla,
            phase_period=phase_period,
            real_imaginary=are_parts,
        )
        for scan, seconds, tesla, are_parts in zip(files, *scanner, strict=True)
    ]
    options = _inversion_options(inversion, regularisation)
    settings: Mapping[str, Any] = {
        "background": background,
        "inversion": inversion,
        "inversion_options": options,
        "phase_sign": phase_sign,
    }
    found = change.measure_visits(
        visits[0],
        visits[1],
        *deep_grey.nuclei("schematic" if atlas == "auto" else atlas),
        np.random.default_rng(0),
        settings=settings,
        first_session=first_session,
    )
    doubt = (f"atlas: {nuclei.SCHEMATIC}",) if atlas == "auto" else ()
    return replace(found, reasons=(*found.reasons, *doubt))


def show(result: Change) -> Shown:
    """Count the nuclei that changed by more than their error, and draw every change."""
    from pvsbook.figures import people as figures

    known = result.table.dropna(subset=["change_ppb"])
    beyond = known[known["change_ppb"].abs() > 1.96 * known["error_ppb"]]
    if result.status == "fail":
        summary = "These scans do not support a change of susceptibility; see the reasons."
    else:
        summary = (
            f"Of {len(known)} nuclei, {len(beyond)} changed by more than 1.96 standard errors of "
            f"noise, placement, registration and pose since {result.first_session}."
        )
    return Shown(
        summary,
        [
            (
                figures.change(result.table),
                f"Change of each nucleus with its 95 % interval; {len(beyond)} of {len(known)} "
                "intervals leave out zero.",
                "Later visit minus first, with 95 % intervals: noise, placement, registration and "
                "pose.",
            )
        ],
    )


def pair(first: Found, later: Found, first_session: str) -> Found:
    """Put the files and parameters of two visits together."""
    inputs = {
        f"{which}_{role}": paths
        for which, found in (("first", first), ("second", later))
        for role, paths in found.inputs.items()
    }
    both = {
        name: (value, later.parameters[name])
        for name, value in first.parameters.items()
        if name in METHOD.shares
    }
    n_echoes = min(len(times) for times in both["echo_times_s"])
    few = f"{n_echoes} echoes; the error of a change needs three or more"
    parameters = {"first_session": first_session, **both}
    return Found(inputs, parameters, lacks=() if n_echoes > 2 else (few,))


def trend(visits: Sequence[tuple[float, Mapping[str, Any]]]) -> pd.DataFrame:
    """Fit the change per year of each nucleus (see `pvsbook.qsm._slopes.slopes`)."""
    from pvsbook.qsm import _slopes

    return _slopes.slopes(visits)


def _of_both(value: Any) -> Any:
    """Return the value of each visit: a pair as it is, and else the same for both."""
    is_pair = isinstance(value, tuple) and len(value) == 2
    return value if is_pair else (value, value)


METHOD = Method(
    name="qsmchange",
    title="Change of susceptibility",
    help="Measure the change of susceptibility between two visits.",
    inputs=(
        Input("first_magnitude", "Magnitude of the first visit.", is_several=True),
        Input("first_phase", "Phase of the first visit.", is_several=True),
        Input("second_magnitude", "Magnitude of the later visit.", is_several=True),
        Input("second_phase", "Phase of the later visit.", is_several=True),
    ),
    options=(
        Option(
            "first_session",
            "first",
            "Label of the first visit, for the table.",
            is_found=True,
            of_one_participant=True,
        ),
        *qsm.ECHO_OPTIONS,
        Option("background", "smv", "Background removal.", choices=qsm.BACKGROUNDS),
        Option("inversion", "tv", "Dipole inversion.", choices=qsm.INVERSIONS),
        Option("regularisation", 1e-4, "Of TV: half of that of a single scan."),
        Option(
            "atlas",
            "auto",
            "Nuclei: Melbourne (Tian), our schematic ones, or the first that is at hand.",
            choices=("auto", "melbourne", "schematic"),
        ),
    ),
    measure=measure,
    validate=validate,
    settle=qsm.settle,
    columns_at="pvsbook.qsm.change.COLUMNS",
    show=show,
    prose=_prose.qsmchange,
    find=None,
    limits=(
        "The nuclei are those of an atlas, brought over from MNI space, the same at both visits: "
        "their change means more than their value.",
        "Change is relative to the whole brain; when the whole brain changes, this cannot show "
        "it.",
        "The error holds noise, labels 1 mm off, visits aligned 0.1 mm off, and pose as found on "
        "simulated heads; motion, another scanner and labels further off, above all where the "
        "head is tilted, add to it.",
    ),
    key_columns={
        "putamen_left_change_ppb": "putamen, left (ppb)",
        "putamen_right_change_ppb": "putamen, right (ppb)",
        "overlap": "overlap of the visits",
        "tilt_difference_deg": "difference of tilt (degrees)",
    },
    compared={"putamen_left_change_ppb": "mean", "putamen_right_change_ppb": "mean"},
    datatype="anat",
    suffix="qsm",
    desc="change",
    compares="qsm",
    pair=pair,
    trend=trend,
    trend_columns_at="pvsbook.qsm._slopes.COLUMNS",
    shares=("echo_times_s", "field_strength_t", "phase_period", "real_imaginary", "phase_sign"),
    core="pvsbook.qsm.change.measure_visits",
    kept_back={
        "labels": "the nuclei of the atlas",
        "table": "the nuclei of the atlas",
        "rng": "a fixed seed, so that the same scans give the same number",
        "settings": "made of background, inversion, regularisation and phase_sign",
        "start": "a first guess of the registration, for simulated heads",
        "control": "for studies that name a control region",
        "erode": "one voxel, as the errors were tried with",
        "n_repeats": "two, enough for the error of a mean over a nucleus",
    },
)
