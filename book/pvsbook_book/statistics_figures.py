"""Pictures of tables of results: forests, specification curves, repeated studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pvsbook.figures.style import COLORS

__all__ = ["draw_forest", "draw_repeats", "draw_specifications"]

N_DRAWN = 60  # of repeated studies; more cannot be told apart


def draw_forest(
    table: pd.DataFrame,
    ax: Axes,
    *,
    label: str = "term",
    null: float = 0.0,
    truth: float | None = None,
    log: bool = False,
) -> None:
    """Draw estimates with their intervals, one row each, first on top.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns of `pvsbook.stats.tables.COLUMNS`.
    ax : Axes
    label : str
        Column that names the rows.
    null : float
        Where there is no effect: 1 for ratios.
    truth : float, optional
        A dashed line where the truth is known.
    log : bool
        Logarithmic axis, for ratios.
    """
    rows = np.arange(len(table))[::-1]
    left = (table["estimate"] - table["low"]).to_numpy()
    right = (table["high"] - table["estimate"]).to_numpy()
    ax.errorbar(
        table["estimate"], rows, xerr=[left, right], fmt="o", color=COLORS["estimate"], capsize=3
    )
    ax.axvline(null, color=COLORS["reference"], linewidth=0.8)
    if truth is not None:
        ax.axvline(truth, color=COLORS["truth"], linestyle="--", label="truth")
        ax.legend(fontsize="small")
    if log:
        _ratio_axis(ax)
    ax.set_yticks(rows, list(table[label]))
    ax.set_ylim(-0.6, len(table) - 0.4)


def _ratio_axis(ax: Axes) -> None:
    """Make a logarithmic axis with plain numbers."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")


def draw_repeats(repeats: pd.DataFrame, ax: Axes, *, truth: float, log: bool = False) -> None:
    """Draw intervals of repeated studies; those that miss the truth in another colour.

    Parameters
    ----------
    repeats : pandas.DataFrame
        Columns ``estimate``, ``low``, ``high``; one row per study.
    ax : Axes
    truth : float
    log : bool
        Logarithmic axis, for ratios.
    """
    shown = repeats.head(N_DRAWN)
    missed = (shown["low"] > truth) | (shown["high"] < truth)
    for group, color, name in (
        (~missed, COLORS["controls"], "covers the truth"),
        (missed, COLORS["patients"], "misses it"),
    ):
        rows = np.flatnonzero(group.to_numpy())
        ax.hlines(rows, shown["low"].to_numpy()[rows], shown["high"].to_numpy()[rows], color=color)
        ax.plot(shown["estimate"].to_numpy()[rows], rows, ".", color=color, label=name)
    ax.axvline(truth, color=COLORS["truth"], linestyle="--", label="truth")
    if log:
        _ratio_axis(ax)
    ax.set_ylabel("virtual study")
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def draw_specifications(
    table: pd.DataFrame, axes: tuple[Axes, Axes], *, choices: list[str]
) -> None:
    """Draw a multiverse: estimates in order of size above, the choices behind each below.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``estimate``, ``low``, ``high``, ``p``, and one column per choice.
    axes : two Axes
    choices : list of str
        Columns of the choices.
    """
    ordered = table.sort_values("estimate").reset_index(drop=True)
    ranks = np.arange(len(ordered))
    above, below = axes
    for group, color, name in (
        (ordered["p"] < 0.05, COLORS["patients"], "p < 0.05"),
        (ordered["p"] >= 0.05, COLORS["reference"], "p ≥ 0.05"),
    ):
        rows = ordered[group]
        bars = [rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]]
        above.errorbar(
            ranks[group], rows["estimate"], bars, fmt="o", ms=4, color=color, label=name
        )
    above.axhline(0, color=COLORS["reference"], linewidth=0.8)
    above.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    above.set_xticks([])
    names = [(c, v) for c in choices for v in pd.unique(table[c])]
    for row, (column, value) in enumerate(names[::-1]):
        chosen = (ordered[column] == value).to_numpy()
        below.plot(ranks[chosen], np.full(chosen.sum(), row), "|", color=COLORS["truth"], ms=9)
    below.set_yticks(range(len(names)), [f"{c}: {v}" for c, v in names[::-1]], fontsize="small")
    below.set_ylim(-0.6, len(names) - 0.4)
    below.set_xticks([])
    below.set_xlabel("one analysis each, ordered by its estimate")
