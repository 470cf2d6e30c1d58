"""One self-contained HTML page a scan: numbers, quality, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from pvsbook._version import __version__

__all__ = ["html_page"]

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; }
main { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
img { background: #fff; height: auto; max-width: 100%; }
figure { margin: 1.5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
caption { font-weight: 600; text-align: left; }
th, td { border-bottom: 1px solid #8888; padding: .25rem .75rem; text-align: left; }
td.number { font-variant-numeric: tabular-nums; text-align: right; }
.status { border-left: .4rem solid; padding: .25rem 1rem; }
.pass { border-color: #009E73; } .warn { border-color: #E69F00; } .fail { border-color: #D55E00; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
{% if status %}
<div class="status {{ status }}"><p><strong>Quality: {{ status }}</strong></p>
{% if reasons %}<ul>{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul>{% endif %}
</div>
{% endif %}
{% for figure in figures %}
<figure><img src="data:image/png;base64,{{ figure.png }}" alt="{{ figure.alt }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
<div class="wide" tabindex="0" role="region" aria-label="All values">
<table><caption>All values</caption>
<thead><tr><th scope="col">Column</th><th scope="col">Value</th><th scope="col">Unit</th>
<th scope="col">Meaning</th></tr></thead>
<tbody>
{% for value in values %}
<tr><th scope="row">{{ value.name }}</th><td class="number">{{ value.value }}</td>
<td>{{ value.unit }}</td><td>{{ value.meaning }}</td></tr>
{% endfor %}
</tbody></table></div>
<h2>What this does not show</h2>
<ul>{% for limit in limits %}<li>{{ limit }}</li>{% endfor %}</ul>
<p>Made by pvsbook {{ version }} from {{ sources | join(", ") }}.
For teaching and research; not a medical device.</p>
</main>
</body>
</html>
"""
)


def html_page(
    title: str,
    *,
    summary: str,
    row: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, str]],
    figures: Sequence[tuple[Figure, str, str]],
    limits: Sequence[str],
    sources: Sequence[str],
    status: str = "",
    reasons: Sequence[str] = (),
) -> str:
    """Render the page of one scan.

    Parameters
    ----------
    title, summary
        Heading, and the result in one or two sentences.
    row
        All values, from the result's ``to_row``.
    columns
        What each column means: ``Description`` and ``Units``.
    figures
        Triples of a figure, its alternative text and its caption.
    limits
        Sentences on what the method cannot show.
    sources
        Names of the input files.
    status, reasons
        ``"pass"``, ``"warn"`` or ``"fail"``, and why.

    Returns
    -------
    str
        A whole HTML page with its pictures inside; it asks for nothing outside.

    Examples
    --------
    >>> page = html_page("Scan", summary="Three.", row={"n": 3}, columns={}, figures=[],
    ...                  limits=["It counts only."], sources=["a.nii"])
    >>> "<h1>Scan</h1>" in page
    True
    """
    values = [
        {
            "name": name,
            "value": _text(value),
            "unit": columns.get(name, {}).get("Units", ""),
            "meaning": columns.get(name, {}).get("Description", ""),
        }
        for name, value in row.items()
    ]
    pictures = [
        {"png": _png(figure), "alt": alt, "caption": caption} for figure, alt, caption in figures
    ]
    return _PAGE.render(
        title=title,
        summary=summary,
        status=status,
        reasons=reasons,
        figures=pictures,
        values=values,
        limits=limits,
        sources=sources,
        version=__version__,
    )


def _png(figure: Figure) -> str:
    """Draw a figure as base64 text, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if value != value else f"{value:.4g}"
    return str(value)
