"""Places of dots and intervals on a page, in percent of its width: HTML draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

MARGIN = 4.0  # percent that stay free at both ends
RATIOS = np.outer(10.0 ** np.arange(-4, 5), (1, 2, 5)).ravel()


class Axis:
    """Maps values to percent of the width, with its ticks."""

    def __init__(self, values: Iterable[float], *, is_ratio: bool = False) -> None:
        known = np.array([v for v in values if np.isfinite(v)], dtype=np.float64)
        self.is_ratio = is_ratio
        if is_ratio:  # on a logarithmic axis, no further than a hundredfold
            known = np.clip(known, 0.01, 100)
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        if is_ratio:
            at = RATIOS[(low <= RATIOS) & (high >= RATIOS)]
            if len(at) < 3:
                at = MaxNLocator(4).tick_values(low, high)
        else:
            if high - low < 1e-9 * max(abs(high), 1e-300):
                low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
            at = MaxNLocator(5).tick_values(low, high)
        self.low, self.high = self._scaled(low), self._scaled(high)
        if self.high == self.low:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        inside = [float(t) for t in at if low <= t <= high and (t > 0 or not is_ratio)]
        self.ticks = [{"x": self(t), "text": f"{t:.4g}"} for t in inside]

    def _scaled(self, value: float) -> float:
        return float(np.log(max(value, 1e-9))) if self.is_ratio else float(value)

    def __call__(self, value: float) -> float:
        """Return the place of a value, at the edge for what lies beyond."""
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return round(MARGIN + (100 - 2 * MARGIN) * min(max(share, -0.03), 1.03), 2)


def dots(
    label: str,
    values: pd.Series,
    *,
    lanes: pd.Series,
    names: Sequence[str],
    links: Sequence[str],
    kinds: Sequence[str],
) -> dict[str, Any]:
    """Draw every value as a dot that leads to a page, with median and quartiles of each lane.

    Parameters
    ----------
    label
        Of the axis, with the unit.
    values
        One for each visit.
    lanes
        Name of the row of each, same index.
    names, links, kinds
        Of each visit in the same order: what is read out, the page, and ``plain``, ``odd`` or
        ``failed``.
    """
    axis = Axis(values)
    drawn = []
    for lane in dict.fromkeys(lanes):
        places = [k for k, v in enumerate(values) if lanes.iloc[k] == lane and np.isfinite(v)]
        part = values.iloc[places]
        # Spread along y by a fixed sequence, so that the same table gives the same page.
        heights = {k: 12 + 76 * (n * 0.618034 % 1) for n, k in enumerate(places)}
        marks = [
            {
                "x": axis(values.iloc[k]),
                "y": round(heights[k], 1),
                "text": f"{names[k]}: {values.iloc[k]:.4g}",
                "href": links[k],
                "kind": kinds[k],
            }
            for k in sorted(places, key=lambda k: values.iloc[k])
        ]
        low, middle, high = part.quantile([0.25, 0.5, 0.75]) if len(part) else [np.nan] * 3
        bar = {"low": axis(low), "middle": axis(middle), "high": axis(high)} if len(part) else {}
        words = f"{lane}: " if lane else ""
        visits = f"{len(part)} visit{'s' if len(part) > 1 else ''}"
        text = f"{words}{visits}, median {middle:.3g}" if len(part) else f"{words}none"
        drawn.append({"name": text, "dots": marks, "bar": bar})
    return {"label": label, "lanes": drawn, "ticks": axis.ticks, "alt": ""}


def forest(label: str, rows: Sequence[Mapping[str, Any]], *, is_ratio: bool) -> dict[str, Any]:
    """Draw estimates with their intervals around the line of no difference.

    Parameters
    ----------
    label
        Of the axis, with the unit.
    rows
        Each with ``name`` and ``intervals``: estimate, low and high by kind, ``main`` the first.
    is_ratio
        Whether no difference is 1 on a logarithmic axis, and not 0.
    """
    none = 1.0 if is_ratio else 0.0
    axis = Axis(
        [none, *(v for row in rows for ends in row["intervals"].values() for v in ends)],
        is_ratio=is_ratio,
    )
    lanes, words = [], []
    for row in rows:
        places = [
            {"kind": kind, "x": axis(estimate), "low": axis(low), "high": axis(high), "y": y}
            for y, (kind, (estimate, low, high)) in zip(
                (25, 55, 80), row["intervals"].items(), strict=False
            )
        ]
        estimate, low, high = row["intervals"]["main"]
        words.append(f"{row['name']}: {estimate:.3g}, from {low:.3g} to {high:.3g}")
        lanes.append({"name": row["name"], "intervals": places})
    return {
        "label": label,
        "lanes": lanes,
        "ticks": axis.ticks,
        "zero": axis(none),
        "alt": f"{label}: estimates with 95 % intervals. {'; '.join(words)}.",
    }
