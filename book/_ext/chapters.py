"""What other pages and the slides show of a chapter: reading time, a table for teachers, slides.

Slides are the pages themselves, cut at their headings, pictures and exercises; each page gives two
sets, one without solutions.  ``slides.css`` and ``slides.js`` in ``_static`` show them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, FileSystemLoader
from sphinx.application import Sphinx

WORDS_A_MINUTE = 180
CELL_MINUTES = 0.6  # to read a code cell and what it prints
PICTURE_MINUTES = 1.0
EXERCISE_MINUTES = 10
SLIDE_WORDS = 90  # more than this of running text goes on a slide of its own
CUT = Path(__file__).resolve().parents[2] / "_build" / "slides"
TABLE = "<!-- the chapters -->"
MINUTES = re.compile(r"\{minutes\}`([\w ]+)`")
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "_templates"), autoescape=True
)
VIEWER = re.compile(r'<div class="viewer">.*?</iframe></div>', re.S)


class Chapter(NamedTuple):
    """A notebook, as a reader's clock sees it."""

    stem: str
    title: str
    minutes: float
    exercises: int


@cache
def chapter(path: Path) -> Chapter:
    """Read a notebook: its title, how long it takes, how many exercises it has."""
    cells = nbformat.read(path, as_version=4).cells
    shown = [c for c in cells if "remove-cell" not in c.metadata.get("tags", ())]
    prose = "\n".join(c.source for c in shown if c.cell_type == "markdown")
    code = [c for c in shown if c.cell_type == "code"]
    pictures = sum("mystnb" in c.metadata for c in code)
    minutes = (
        len(prose.split()) / WORDS_A_MINUTE + len(code) * CELL_MINUTES + pictures * PICTURE_MINUTES
    )
    title = re.search(r"^# (.+)$", prose, re.M)
    exercises = len(re.findall(r"^`{3,}\{exercise(?:-start)?\}", prose, re.M))
    return Chapter(path.stem, title.group(1) if title else path.stem, minutes, exercises)


def chapters(root: Path) -> dict[str, Chapter]:
    """List the chapters by the number that their file begins with."""
    paths = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    return {path.stem[:2]: chapter(path) for path in paths}


def about(minutes: float) -> str:
    """Round a time as one would say it."""
    if minutes < 55:
        return f"{5 * max(1, round(minutes / 5))}\N{NO-BREAK SPACE}min"
    return f"{round(minutes / 30) / 2:g}\N{NO-BREAK SPACE}h"


def reading_time(request: str, known: dict[str, Chapter]) -> str:
    """Say how long chapters take: ``10 20 with exercises``."""
    words = request.split()
    numbers = [w for w in words if w.isdigit()]
    total = sum(known[n].minutes for n in numbers)
    if "exercises" in words:
        total += EXERCISE_MINUTES * sum(known[n].exercises for n in numbers)
    return about(total)


def table(known: dict[str, Chapter]) -> str:
    """Write the teacher's table, one row per chapter."""
    rows = "".join(
        f'<tr><th scope="row">{number}</th>'
        f'<td><a href="../notebooks/{c.stem}.html">{escape(c.title)}</a><br>'
        f'Slides: <a href="../slides/{c.stem}.html" aria-label="page {number} without solutions">'
        f'without</a> or <a href="../slides/{c.stem}_solutions.html" '
        f'aria-label="page {number} with solutions">with solutions</a></td>'
        f"<td>{about(c.minutes)}</td><td>{c.exercises}</td></tr>\n"
        for number, c in known.items()
    )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Page", "Chapter", "To read", "<span>Exer\u00adcises</span>")
    )
    return (
        '<table class="docutils chapters">'
        '<caption class="visually-hidden">Chapters and their slides</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put times and the table where a page of ``book/`` asks for them."""
    if not docname.startswith("book/") or not (MINUTES.search(source[0]) or TABLE in source[0]):
        return
    root = Path(app.srcdir)
    known = chapters(root)
    for path in (root / "notebooks").glob("*.ipynb"):
        app.env.note_dependency(str(path))
    source[0] = MINUTES.sub(lambda m: reading_time(m.group(1), known), source[0])
    source[0] = source[0].replace(TABLE, table(known))


def blocks(section: Tag) -> Iterator[Tag]:
    """Walk through a page in its order, sections taken apart."""
    for child in section.find_all(True, recursive=False):
        if child.name == "section":
            yield from blocks(child)
        else:
            yield child


def slides(body: str, stem: str, *, solutions: bool) -> list[str]:
    """Cut a page's body into slides."""
    soup = BeautifulSoup(VIEWER.sub("", body), "html.parser")
    for element in soup.select("a.headerlink, script, style"):
        element.decompose()
    for named in soup.find_all(id=True):  # one page holds each name once
        if not named.name.startswith("h") and not named["id"].startswith("term-"):
            del named["id"]
    for link in soup.find_all("a", href=True):  # from slides/, a neighbour is a page of notebooks/
        target = str(link["href"])
        if target.startswith("#"):
            link["href"] = f"../notebooks/{stem}.html{target}"
        elif re.match(r"[\w-]+\.html", target):
            link["href"] = f"../notebooks/{target}"
    made: list[list[str]] = []
    heading, words = "", 0

    def begin(title: str) -> None:
        nonlocal words
        words = 0
        made.append([title] if title else [])

    top = soup.find("section")
    for block in blocks(top) if isinstance(top, Tag) else ():
        if block.name in ("h1", "h2", "h3"):
            block.attrs.pop("id", None)
            heading = re.sub("^h[123]", "h2", block.decode_contents())
            level = "h1" if block.name == "h1" else "h2"
            begin(f"<{level}>{heading}</{level}>")
            continue
        classes = block.get("class") or []
        empty = not block.get_text(strip=True) and not block.find("img")
        if empty or ("solution" in classes and not solutions):
            continue
        length = len(block.get_text().split())
        code = block.find("div", class_="cell_input") if "cell" in classes else None
        if code is not None:
            length = 40 if block.find(["figure", "table"]) else 15
            if (hidden := code.find_parent("details")) is not None:  # the page hides it too
                hidden.replace_with(code)
            details = soup.new_tag("details", attrs={"class": "code"})
            summary = soup.new_tag("summary")
            summary.string = "Code"
            code.wrap(details)
            details.insert(0, summary)
        alone = {"exercise", "solution"} & set(classes) or block.find("figure")
        room = SLIDE_WORDS * (1.4 if block.name in ("ul", "ol") else 1)  # stays with its lead-in
        full = words and words + length > room
        if made and (alone or full) and len(made[-1]) > 1:
            begin(f'<h2 class="again">{heading}</h2>')
        if not made:
            begin("")
        made[-1].append(str(block))
        words += SLIDE_WORDS if alone else length
    return ["\n".join(slide) for slide in made]


def write(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Write both sets of slides of a chapter."""
    folder, _, stem = pagename.partition("/")
    if folder != "notebooks" or app.builder.format != "html" or "body" not in context:
        return
    target = Path(app.outdir, "slides")
    target.mkdir(exist_ok=True)
    template = TEMPLATES.get_template("slides.html")
    title = unescape(re.sub("<[^>]+>", "", str(context.get("title", stem))))
    for solutions in (False, True):
        cut = cached_slides(context["body"], stem, solutions=solutions)
        text = template.render(title=title, solutions=solutions, stem=stem, slides=cut)
        name = f"{stem}_solutions.html" if solutions else f"{stem}.html"
        (target / name).write_text(text, "utf-8")


def cached_slides(body: str, stem: str, *, solutions: bool) -> list[str]:
    """Cut a body, unless an earlier build has cut the same one: reading it takes half a second."""
    file = CUT / f"{stem}{'_solutions' if solutions else ''}.json"
    key = hashlib.sha256(Path(__file__).read_bytes() + body.encode()).hexdigest()
    if file.is_file():
        known = json.loads(file.read_text("utf-8"))
        if known["key"] == key:
            return list(known["slides"])
    cut = slides(body, stem, solutions=solutions)
    CUT.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"key": key, "slides": cut}), "utf-8")
    return cut


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps; slides are cut after the page's body has been mended."""
    app.connect("source-read", fill)
    app.connect("html-page-context", write, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
