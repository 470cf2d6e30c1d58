"""Self-contained HTML pages: of one scan, of one person, of all people."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import DictLoader, Environment
from matplotlib.figure import Figure

from pvsbook._version import __version__

__all__ = ["group_page", "html_page", "person_page"]

_BASE = """<!doctype html>
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
nav { margin: 1rem 0; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% block content %}{% endblock %}
<p>Made by pvsbook {{ version }}{% if sources %} from {{ sources | join(", ") }}{% endif %}.
For teaching and research; not a medical device.</p>
</main>
</body>
</html>
"""
_MACROS = """{% macro pictures(figures) %}
{% for figure in figures %}
<figure><img src="data:image/png;base64,{{ figure.png }}" alt="{{ figure.alt }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% endmacro %}
{% macro grid(caption, head, rows) %}
<div class="wide" tabindex="0" role="region" aria-label="{{ caption }}">
<table><caption>{{ caption }}</caption>
<thead><tr>{% for name in head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}
{% if loop.first %}<th scope="row">{{ link(cell) }}</th>
{% else %}<td{% if cell is number %} class="number"{% endif %}>{{ link(cell) }}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro link(cell) %}
{% if cell is mapping %}<a href="{{ cell.href }}">{{ cell.text }}</a>
{% else %}{{ cell }}{% endif %}
{% endmacro %}
"""
_SCAN = """{% extends "base" %}{% from "macros" import pictures %}
{% block content %}
<p>{{ summary }}</p>
{% if status %}
<div class="status {{ status }}"><p><strong>Quality: {{ status }}</strong></p>
{% if reasons %}<ul>{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul>{% endif %}
</div>
{% endif %}
{{ pictures(figures) }}
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
{% endblock %}
"""
_PERSON = """{% extends "base" %}{% from "macros" import grid %}
{% block content %}
<p>{{ summary }}</p>
{% for visit in visits %}
<h2>{{ visit.title }}</h2>
{{ grid("Methods, " ~ visit.title, ["Method", "Outcome", "Quality", "Result", "What to know"],
        visit.rows) }}
{% endfor %}
{% endblock %}
"""
_GROUP = """{% extends "base" %}{% from "macros" import grid, pictures %}
{% block content %}
<p>{{ summary }}</p>
<nav aria-label="Sections"><ul>
{% for s in sections %}<li><a href="#{{ s.id }}">{{ s.title }}</a></li>{% endfor %}
</ul></nav>
{{ grid("What came of each method", overview.head, overview.rows) }}
{% if notes %}
<p>Of the data set:</p>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
{% for s in sections %}
<h2 id="{{ s.id }}">{{ s.title }}</h2>
{% for text in s.texts %}<p>{{ text }}</p>{% endfor %}
{{ pictures(s.figures) }}
{% for table in s.tables %}
{% if table.rows %}{{ grid(table.caption, table.head, table.rows) }}
{% else %}<p>{{ table.caption }}: none.</p>{% endif %}
{% endfor %}
{% endfor %}
<h2>What this does not show</h2>
<ul>{% for limit in limits %}<li>{{ limit }}</li>{% endfor %}</ul>
{% endblock %}
"""
_PAGES = Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    loader=DictLoader(
        {"base": _BASE, "macros": _MACROS, "scan": _SCAN, "person": _PERSON, "group": _GROUP}
    ),
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
    return _PAGES.get_template("scan").render(
        title=title,
        summary=summary,
        status=status,
        reasons=reasons,
        figures=_pictures(figures),
        values=values,
        limits=limits,
        sources=sources,
        version=__version__,
    )


def person_page(
    title: str, *, summary: str, visits: Sequence[tuple[str, Sequence[Sequence[Any]]]]
) -> str:
    """Render the page of one person, which leads to the pages of the scans.

    Parameters
    ----------
    title, summary
        Heading, and what came of it in a sentence.
    visits
        Pairs of a visit's name and its rows: method, outcome, quality, result, what to know.  A
        cell that is a mapping of ``text`` and ``href`` becomes a link.

    Returns
    -------
    str
        A whole HTML page.

    Examples
    --------
    >>> cell = {"text": "alps", "href": "sub-1/a.html"}
    >>> page = person_page("sub-1", summary="One scan.", visits=[("Only visit", [[cell, "done"]])])
    >>> '<a href="sub-1/a.html">alps</a>' in page
    True
    """
    return _PAGES.get_template("person").render(
        title=title,
        summary=summary,
        visits=[{"title": name, "rows": rows} for name, rows in visits],
        version=__version__,
    )


def group_page(
    title: str,
    *,
    summary: str,
    overview: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
    limits: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """Render the page of all people.

    Parameters
    ----------
    title, summary
        Heading, and what came of it in a sentence.
    overview
        ``head`` and ``rows`` of the first table.
    sections
        Each with ``id``, ``title``, ``texts``, ``figures`` (triples as in `html_page`) and
        ``tables`` (each with ``caption``, ``head`` and ``rows``).
    limits
        Sentences on what such a page cannot show.
    notes
        What was found of the data set as a whole.

    Returns
    -------
    str
        A whole HTML page with its pictures inside; it asks for nothing outside.

    Examples
    --------
    >>> page = group_page("All", summary="Two.", overview={"head": ["a"], "rows": [["b"]]},
    ...                   sections=[], limits=["Little."])
    >>> '<th scope="col">a</th>' in page
    True
    """
    return _PAGES.get_template("group").render(
        title=title,
        summary=summary,
        overview=overview,
        sections=[{**s, "figures": _pictures(s["figures"])} for s in sections],
        limits=limits,
        notes=notes,
        version=__version__,
    )


def _pictures(figures: Sequence[tuple[Figure, str, str]]) -> list[dict[str, str]]:
    return [{"png": _png(f), "alt": alt, "caption": caption} for f, alt, caption in figures]


def _png(figure: Figure) -> str:
    """Draw a figure as base64 text, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if value != value else f"{value:.4g}"
    return str(value)
