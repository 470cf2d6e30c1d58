"""An executed notebook as one HTML page: the book's Markdown, code and outputs, no scripts."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from pvsbook._version import __version__

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["render"]

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; }
main { margin: 2rem auto; max-width: 50rem; padding: 0 1rem; }
img { background: #fff; height: auto; max-width: 100%; }
figure { margin: 1.5rem 0; }
iframe { border: 0; max-width: 100%; }
pre { overflow-x: auto; padding: .5rem .75rem; }
pre.code { background: #8882; }
aside { border-left: .3rem solid #E69F00; margin: 1rem 0; padding: .1rem 1rem; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid #8888; padding: .2rem .7rem; text-align: right; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<main>
{% for cell in cells %}
{% if cell.text is not none %}
{{ cell.text | safe }}
{% else %}
<pre class="code" tabindex="0"><code>{{ cell.code }}</code></pre>
{% for output in cell.outputs %}
{% if output.kind == "png" %}
<figure><img src="data:image/png;base64,{{ output.content | trim }}" alt="{{ cell.alt }}">
<figcaption>{{ cell.caption }}</figcaption></figure>
{% elif output.kind == "html" %}
<div class="wide" tabindex="0" role="region" aria-label="Output">{{ output.content | safe }}</div>
{% else %}
<pre tabindex="0">{{ output.content }}</pre>
{% endif %}
{% endfor %}
{% endif %}
{% endfor %}
<p>Made by pvsbook {{ version }}. For teaching and research; not a medical device.</p>
</main>
</body>
</html>
"""
)


def render(notebook: NotebookNode, title: str) -> str:
    """Render an executed notebook as one HTML page.

    Parameters
    ----------
    notebook
        As read by nbformat, with its outputs.
    title
        What was measured, for the heading.

    Returns
    -------
    str
        A page with its pictures inside, without scripts of its own or outside requests.
    """
    glued = _glued(notebook)
    markdown = _markdown(json.dumps(glued, sort_keys=True))
    cells = [
        {
            "text": markdown.render(cell.source) if cell.cell_type == "markdown" else None,
            "code": cell.source,
            "outputs": [o for o in map(_output, cell.get("outputs", ())) if o],
            **_words(cell),
        }
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", ()) or cell.source.strip()
    ]
    heading = re.search(r"^# (.+)$", notebook.cells[0].source, re.M)
    return _PAGE.render(
        title=f"{heading[1] if heading else 'Notebook'} ({title})",
        cells=cells,
        version=__version__,
    )


def _words(cell: NotebookNode) -> dict[str, str]:
    meta = cell.metadata.get("mystnb", {})
    return {
        "alt": meta.get("image", {}).get("alt", "a figure."),
        "caption": meta.get("figure", {}).get("caption", ""),
    }


def _glued(notebook: NotebookNode) -> dict[str, Any]:
    """Collect the values that cells gave to the text."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                text = next(iter(output.data.values()))
                try:
                    found[name] = ast.literal_eval(text)
                except (ValueError, SyntaxError):
                    found[name] = text
    return found


def _output(output: Mapping[str, Any]) -> dict[str, str] | None:
    if "scrapbook" in output.get("metadata", {}):
        return None
    if output["output_type"] == "stream":
        return {"kind": "text", "content": output["text"]} if output["name"] == "stdout" else None
    data = output.get("data", {})
    for mime, kind in (("image/png", "png"), ("text/html", "html"), ("text/plain", "text")):
        if mime in data:
            return {"kind": kind, "content": data[mime]}
    return None


def _surname_year(key: re.Match[str]) -> str:
    """Write a citation's key as the bibliography labels it: Taoka 2022."""
    return f"{key[1].capitalize()} {key[2]}"


@functools.lru_cache(maxsize=4)
def _markdown(glued: str) -> Any:
    """Make a renderer of the book's MyST Markdown: roles, directives, formulas."""
    from html import escape

    from latex2mathml.converter import convert
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.myst_blocks import myst_block_plugin
    from mdit_py_plugins.myst_role import myst_role_plugin

    values = json.loads(glued)

    def formula(text: str, options: dict[str, Any]) -> str:
        return convert(text, display="block" if options["display_mode"] else "inline")

    def role(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        name, text = tokens[index].meta["name"], tokens[index].content
        if name == "glue:text":
            key, _, form = text.partition(":")
            value = values.get(key)
            return "n/a" if value is None else escape(format(value, form))
        if name.startswith("cite"):
            sources = [
                re.sub(r"^([a-z]+)(\d{4}).*", _surname_year, k.strip()) for k in text.split(",")
            ]
            return escape(f"({'; '.join(sources)})" if name == "cite:p" else ", ".join(sources))
        if name in ("ref", "numref") and "<" not in text:
            what = "the figure" if text.startswith("fig-") else "the page of the book on"
            return escape(
                f"{what} {text.removeprefix('fig-').removeprefix('nb-').replace('-', ' ')}"
            )
        return escape(text.split("<")[0].strip())

    def fence(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        info, content = tokens[index].info.strip(), tokens[index].content
        match = re.match(r"\{([\w-]+)\}\s*(.*)", info)
        if not match:
            return f"<pre><code>{escape(content)}</code></pre>\n"
        kind, heading = match[1], escape(match[2])
        body = engine.render(re.sub(r"\A(:[\w-]+:.*\n)+", "", content))
        if kind.endswith("-end"):
            return ""
        if kind.endswith("-start"):
            word = kind.removesuffix("-start").capitalize()
            known = "" if word == "Solution" else f": {heading}"  # a solution names a label
            return f"<h3>{word}{known}</h3>\n{body}"
        if kind == "dropdown":
            return f"<details><summary>{heading}</summary>{body}</details>\n"
        return f"<aside><p><strong>{heading}</strong></p>{body}</aside>\n"

    engine = MarkdownIt("commonmark", {"html": False}).enable("table")
    engine.use(dollarmath_plugin, renderer=formula).use(myst_role_plugin).use(myst_block_plugin)
    for rule, draw in (
        ("myst_role", role),
        ("fence", fence),
        ("myst_target", lambda *_: ""),
        ("myst_line_comment", lambda *_: ""),
    ):
        engine.add_render_rule(rule, draw)
    return engine
