"""Two gradient echoes of one person: what changed, and how far the pair can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pvsbook import derivatives, images, report
from pvsbook.atlas import deep_grey
from pvsbook.bids.measure import Done
from pvsbook.figures import people
from pvsbook.qsm import change

__all__ = ["CHANGE_LIMITS", "CHANGE_ROW", "measure_qsm_change"]

CHANGE_LIMITS = (
    "The nuclei are simple shapes brought over from MNI space, the same at both visits: their "
    "change means more than their value.",
    "Change is relative to the whole brain; when the whole brain changes, this cannot show it.",
    "The error is of thermal noise only; repositioning and motion add to it.",
)


def _columns() -> dict[str, dict[str, str]]:
    columns = {
        "first_session": {"Description": "session that counts as the first visit"},
        "status": {"Description": "pass, warn (read the reasons) or fail"},
        "reasons": {"Description": "what was found, separated by semicolons"},
        "overlap": {"Description": "Dice overlap of the two brain masks once aligned"},
        "rotation_deg": {"Description": "rotation between the visits", "Units": "deg"},
        "tilt_difference_deg": {
            "Description": "angle between the static fields as the head saw them",
            "Units": "deg",
        },
        "registration_correlation": {
            "Description": "correlation of the first visit with the template"
        },
    }
    for _, region, side in deep_grey.table().itertuples(index=False):
        name = f"{region}_{side}".replace(" ", "_")
        columns[f"{name}_change_ppb"] = {
            "Description": f"change of {region}, {side}: later visit less first",
            "Units": "ppb",
        }
        columns[f"{name}_error_ppb"] = {
            "Description": f"standard error of that from thermal noise, {region}, {side}",
            "Units": "ppb",
        }
    return columns


CHANGE_ROW = _columns()


def measure_qsm_change(
    first: tuple[Sequence[images.PathLike], Sequence[images.PathLike]],
    second: tuple[Sequence[images.PathLike], Sequence[images.PathLike]],
    out: images.PathLike,
    *,
    first_session: str = "first",
    echo_times_s: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    field_strength_t: tuple[float | None, float | None] = (None, None),
    phase_period: float | None = None,
    phase_sign: int = 1,
    background: str = change.SETTINGS["background"],
    inversion: str = change.SETTINGS["inversion"],
    regularisation: float = change.SETTINGS["inversion_options"]["regularisation"],
) -> Done:
    """Measure the change of susceptibility between two visits, and write it to a folder.

    By `pvsbook.qsm.change.measure_visits`: both visits are reconstructed alike and aligned
    halfway; nuclei come from MNI space by an affine registration of the first visit's last echo.

    Parameters
    ----------
    first, second
        Magnitude and phase files of each visit, as in `pvsbook.bids.measure_qsm`.
    out
        Folder for the BIDS-Derivatives; the result is named after the second visit.
    first_session
        Label of the first visit, for the table.
    echo_times_s, field_strength_t
        One for each visit.
    phase_period, phase_sign
        As in `pvsbook.bids.measure_qsm`.
    background, inversion, regularisation
        As in `pvsbook.qsm.reconstruct`; by default `pvsbook.qsm.change.SETTINGS`, which differ
        from those of a single scan.  `regularisation` goes to TV.

    Returns
    -------
    Done

    Raises
    ------
    InputError
        See `pvsbook.images.load_gre`, `pvsbook.qsm.reconstruct` and
        `pvsbook.atlas.registration.register_to_mni`.
    """
    settings = {
        "background": background,
        "inversion": inversion,
        "inversion_options": {"regularisation": regularisation} if "tv" in inversion else {},
        "phase_sign": phase_sign,
    }
    visits = [
        images.load_gre(
            list(magnitude),
            list(phase),
            echo_times_s=times,
            field_strength_t=field,
            phase_period=phase_period,
        )
        for (magnitude, phase), times, field in zip(
            (first, second), echo_times_s, field_strength_t, strict=True
        )
    ]
    found = change.measure_visits(
        visits[0],
        visits[1],
        deep_grey.labels(),
        deep_grey.table(),
        np.random.default_rng(0),
        settings=settings,
    )
    row = {"first_session": first_session, **found.to_row()}
    return _save(found.table, row, second, out, first, status=found.status, reasons=found.reasons)


def _save(
    table: pd.DataFrame,
    row: dict[str, Any],
    second: tuple[Sequence[images.PathLike], Sequence[images.PathLike]],
    out: images.PathLike,
    first: tuple[Sequence[images.PathLike], Sequence[images.PathLike]],
    *,
    status: str,
    reasons: tuple[str, ...],
) -> Done:
    sources = [Path(p).name for files in (*first, *second) for p in files]
    prefix = derivatives.prefix_from(second[0][0])
    writer = derivatives.Writer(out, prefix=prefix, datatype="anat", sources=sources)
    writer.table(row, CHANGE_ROW, "qsm", desc="change")
    writer.table(table, change.CHANGE_COLUMNS, "qsm", desc="changeregions")
    known = table.dropna(subset=["change_ppb"])
    beyond = known[known["change_ppb"].abs() > 1.96 * known["error_ppb"]]
    summary = (
        f"Of {len(known)} nuclei, {len(beyond)} changed by more than 1.96 standard errors of "
        f"thermal noise between {row['first_session']} and the later visit."
    )
    if status == "fail":
        summary = "These scans do not support a change of susceptibility; see the reasons."
    figure = people.change(table)
    alt = (
        f"Change of each nucleus with its 95 % interval of thermal noise; {len(beyond)} of "
        f"{len(known)} intervals leave out zero."
    )
    page = report.html_page(
        f"Change of susceptibility: {prefix}",
        summary=summary,
        row=row,
        columns=CHANGE_ROW,
        figures=[(figure, alt, "Later visit less first, with 95 % intervals of thermal noise.")],
        limits=CHANGE_LIMITS,
        sources=sources,
        status=status,
        reasons=reasons,
    )
    plt.close(figure)
    return Done(
        summary, status, reasons, row, writer.text(page, "qsm", ".html", desc="changereport")
    )
