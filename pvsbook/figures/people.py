"""Figures of tables of many participants."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pvsbook.figures.style import COLORS, use_style

__all__ = ["change", "distributions"]


def distributions(
    table: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    outlying: pd.DataFrame | None = None,
) -> Figure:
    """Draw every value of some columns, with median and quartiles; outlying ones are crosses.

    Parameters
    ----------
    table
        One row per participant and visit.
    columns
        Names of columns, and the label of the axis with the unit.
    outlying
        Which values to mark, same rows and columns.

    Returns
    -------
    matplotlib.figure.Figure
    """
    with plt.rc_context():
        use_style()
        rows = -(-len(columns) // 2)
        figure, axes = plt.subplots(rows, 2, figsize=(7.0, 1.5 * rows + 0.3), squeeze=False)
        for ax in axes.flat[len(columns) :]:
            ax.set_axis_off()
        for ax, (name, label) in zip(axes.flat, columns.items(), strict=False):
            values = table[name].to_numpy(float)
            known = np.isfinite(values)
            marked = known & (False if outlying is None else outlying[name].to_numpy(bool))
            # spread along y by a fixed sequence, so that the same table gives the same picture
            y = (np.arange(len(values)) * 0.618034) % 1 - 0.5
            plain = known & ~marked
            ax.plot(values[plain], y[plain], "o", ms=4, alpha=0.6, color=COLORS["controls"])
            ax.plot(values[marked], y[marked], "X", ms=8, color=COLORS["patients"])
            if known.any():
                low, middle, high = np.quantile(values[known], (0.25, 0.5, 0.75))
                ax.plot([low, high], [0, 0], lw=6, alpha=0.35, color=COLORS["reference"])
                ax.plot([middle], [0], "|", ms=22, mew=2, color=COLORS["truth"])
            ax.set(xlabel=label, yticks=[], ylim=(-0.8, 0.8))
            ax.spines["left"].set_visible(False)
            ax.locator_params(axis="x", nbins=4)
    return figure


def change(table: pd.DataFrame) -> Figure:
    """Draw the change of each nucleus with its 95 % interval of all its errors.

    Parameters
    ----------
    table
        Of `pvsbook.qsm.change.Change`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    with plt.rc_context():
        use_style()
        figure, ax = plt.subplots(figsize=(7.0, 3.6))
        at = np.arange(len(table))
        ax.axhline(0, color=COLORS["reference"], lw=1)
        ax.errorbar(
            at, table["change_ppb"], 1.96 * table["error_ppb"], fmt="o", color=COLORS["estimate"]
        )
        ax.set_xticks(at, table["region"] + " " + table["side"].str[0], rotation=50, ha="right")
        ax.set_ylabel("change (ppb)")
    return figure
