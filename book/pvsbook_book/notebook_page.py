"""An executed notebook as one HTML page, written by the parser that builds the book (myst-nb)."""

from __future__ import annotations

import re
import tempfile
from html import escape
from typing import Any

import nbformat
from docutils import nodes
from docutils.core import publish_parts
from docutils.parsers.rst import Directive
from docutils.writers import html5_polyglot
from myst_nb.docutils_ import Parser, get_nb_roles_directives

from pvsbook import report

__all__ = ["render"]

_SETTINGS = {
    "nb_builder_name": "html",
    "nb_execution_mode": "off",
    "nb_output_stderr": "remove",
    "myst_enable_extensions": ["colon_fence", "deflist", "dollarmath"],
    "math_output": "MathML",  # needs no script
    "image_loading": "embed",
    "embed_stylesheet": False,
    "stylesheet_path": [],
    "myst_highlight_code_blocks": False,
    "warning_stream": False,  # a warning stands on the page
}

_BOXES = ("dropdown", "exercise-start", "exercise-end", "solution-start", "solution-end")


def render(notebook: nbformat.NotebookNode, title: str) -> str:
    """Render an executed notebook as one HTML page.

    Parameters
    ----------
    notebook
        As read by nbformat, with its outputs.
    title
        What was measured, for the title of the page.

    Returns
    -------
    str
        A page with its pictures inside, without scripts of its own or outside requests.
    """
    page = _without_lost_values(notebook)
    sphinx_only = get_nb_roles_directives()  # known to docutils while myst-nb parses
    sphinx_only.roles |= dict.fromkeys(("term", "ref", "numref", "doc"), _reference)
    sphinx_only.roles |= dict.fromkeys(("cite:p", "cite:t"), _citation)
    sphinx_only.directives |= dict.fromkeys(_BOXES, _Box)
    writer = html5_polyglot.Writer()
    writer.translator_class = _Translator
    with tempfile.TemporaryDirectory() as folder:  # for pictures, until they are embedded
        parts = publish_parts(
            nbformat.writes(page),
            parser=Parser(),
            writer=writer,
            settings_overrides=_SETTINGS | {"nb_output_folder": folder},
        )
    return report.render("notebook.html", title, heading=parts["title"], body=parts["fragment"])


def _without_lost_values(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Write n/a for a number of the text whose cell is not among those that ran."""
    page = nbformat.from_dict(notebook)
    values = {
        output.get("metadata", {}).get("scrapbook", {}).get("name")
        for cell in page.cells
        for output in cell.get("outputs", ())
    }
    for cell in page.cells:
        tags = set(cell.metadata.get("tags", ()))
        cell.metadata["tags"] = sorted(tags - {"remove-cell"})  # what ran is shown
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"\{glue:text\}`([\w-]+)[^`]*`",
                lambda role: role[0] if role[1] in values else "n/a",
                cell.source,
            )
    return page


def _reference(name: str, rawtext: str, text: str, *_: Any, **__: Any) -> tuple[list, list]:
    """Write what a link of the book leads to, in words: the other pages are not here."""
    label = text.split("<")[0].strip()
    if name in ("ref", "numref") and "<" not in text:
        kind = "the figure" if label.startswith("fig-") else "the page of the book on"
        label = f"{kind} {re.sub('^(fig|nb)-', '', label).replace('-', ' ')}"
    return [nodes.Text(label)], []


def _citation(name: str, rawtext: str, text: str, *_: Any, **__: Any) -> tuple[list, list]:
    """Write the key of a citation as the bibliography labels it: Taoka 2022."""
    sources = [
        re.sub(r"^([a-z]+)(\d{4}).*", lambda key: f"{key[1].capitalize()} {key[2]}", one.strip())
        for one in text.split(",")
    ]
    label = f"({'; '.join(sources)})" if name == "cite:p" else ", ".join(sources)
    return [nodes.Text(label)], []


class _Box(Directive):
    """A directive that only Sphinx knows: a dropdown, an exercise or its solution."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"label": str, "class": str}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        words, problems = self.state.inline_text(" ".join(self.arguments), self.lineno)
        content = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, content)
        parts = [*problems, *content.children]
        if self.name == "dropdown":
            return [_html("<details><summary>"), *words, _html("</summary>"), *parts,
                    _html("</details>")]  # fmt: skip
        if self.name == "exercise-start":
            colon = ": " if words else ""
            return [_html(f"<h3>Exercise{colon}"), *words, _html("</h3>"), *parts]
        if self.name == "solution-start":  # its argument is a label
            return [_html("<h3>Solution</h3>"), *parts]
        return []


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


class _Translator(html5_polyglot.HTMLTranslator):
    """Wide parts of a page can be scrolled by keyboard, and imports are folded as in the book."""

    def starttag(self, node: Any, tagname: str, *rest: Any, **attributes: Any) -> str:
        if tagname == "pre":
            attributes["tabindex"] = "0"
        return super().starttag(node, tagname, *rest, **attributes)

    def visit_raw(self, node: nodes.raw) -> None:
        if "cell_output" in node.parent["classes"]:
            table = node.astext().replace("<th></th>", "<td></td>")  # an empty corner is no header
            self.body.append(f'<div class="wide" tabindex="0">{table}</div>\n')
            raise nodes.SkipNode
        super().visit_raw(node)

    def visit_container(self, node: nodes.container) -> None:
        super().visit_container(node)
        if node.get("nb_element") == "cell_code_source" and "hide_mode" in node.parent:
            summary = node.parent["prompt_show"].replace("{type}", "source")
            self.body.append(f"<details><summary>{escape(summary)}</summary>")

    def depart_container(self, node: nodes.container) -> None:
        if node.get("nb_element") == "cell_code_source" and "hide_mode" in node.parent:
            self.body.append("</details>")
        super().depart_container(node)
