"""Self-contained HTML pages: of one scan, of one participant, of all participants."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from pvsbook._version import __version__

__all__ = ["group_page", "html_page", "person_page", "render"]

_PAGES = Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader("pvsbook")
)


def render(template: str, title: str, **values: Any) -> str:
    """Fill a page template; its style and pictures are inside, and nothing is fetched.

    Parameters
    ----------
    template
        Name of a file in ``pvsbook/templates``.
    title
        Heading of the page.
    values
        What the template shows; text is escaped.

    Returns
    -------
    str
        A whole HTML page.

    Examples
    --------
    >>> "<h1>A &lt; B</h1>" in render("base.html", "A < B")
    True
    """
    return _PAGES.get_template(template).render(title=title, version=__version__, **values)


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
    methods: tuple[str, str] = ("", ""),
    viewer: Mapping[str, Any] | None = None,
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
    methods
        What a paper has to say, and its BibTeX (see `pvsbook.bids.citation.methods_text`).
    viewer
        Slices to scroll through, and enlarged parts of them: ``title``, ``text`` (what is shown),
        ``legend`` (pairs of a name and a colour), ``sides`` (letters left and right of a slice),
        ``shape`` (width and height of a slice, mm), ``slices`` and ``galleries``.  Each slice has
        ``name``, ``text``, ``alt``, ``picture`` and ``outlines`` (bytes of two PNG files, one over
        the other) and ``marks`` (``number`` and ``place``, percent from left and from top).
        Each gallery has ``title``, ``text`` and ``items``, and each item ``title``, ``texts``,
        ``alt``, ``shape``, ``picture``, ``outlines``, ``slice`` (its number, from 0; None where
        it is on none) and ``place``.  Without scripts the slices stand one below the other.

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
    return render(
        "scan.html",
        title,
        summary=summary,
        row=row,
        columns=columns,
        figures=figures,
        limits=limits,
        sources=sources,
        status=status,
        reasons=reasons,
        methods=methods,
        viewer=viewer,
    )


def person_page(
    title: str,
    *,
    summary: str,
    visits: Sequence[tuple[str, Sequence[Sequence[Any]]]],
    trends: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render the page of one participant, with links to the pages of the scans.

    Parameters
    ----------
    title, summary
        Heading, and what came of it in a sentence.
    visits
        Pairs of a visit's name and its rows: method, outcome, quality, result, what to know.  A
        cell that is a mapping of ``text`` and ``href`` becomes a link.
    trends
        Tables over all visits: ``title``, ``head`` and ``rows``.

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
    return render("participant.html", title, summary=summary, visits=visits, trends=trends)


def group_page(
    title: str,
    *,
    summary: str,
    overview: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
    limits: Sequence[str],
    groups: Sequence[str] = (),
    notes: Sequence[str] = (),
    methods: tuple[str, str] = ("", ""),
) -> str:
    """Render the page of all participants.

    Parameters
    ----------
    title, summary
        Heading, and what came of it in a sentence.
    overview
        ``head`` and ``rows`` of the first table.
    sections
        Each with ``id``, ``title``, ``texts``, ``plots`` (pairs of a plot and a caption) and
        ``tables`` (each with ``caption``, ``head`` and ``rows``; a cell may be a list).  A plot
        has ``label``, ``alt`` (of one without dots), ``ticks``, ``zero`` and ``lanes``; a lane
        has ``name`` and ``dots`` or ``intervals``, with places in percent.
    limits
        Sentences on what the group cannot show.
    groups
        Sentences on how groups were compared.
    notes
        Remarks on the data set as a whole.
    methods
        As in `html_page`.

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
    return render(
        "group.html",
        title,
        summary=summary,
        overview=overview,
        sections=sections,
        limits=limits,
        groups=groups,
        notes=notes,
        methods=methods,
    )


def _png(figure: Figure) -> str:
    """Draw a figure as the address of a picture, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return _png_data(buffer.getvalue())


def _png_data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _four_digits(value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if value != value else f"{value:.4g}"
    return str(value)


_PAGES.filters |= {"png": _png, "png_data": _png_data, "four_digits": _four_digits}
