"""Fill the page of the command line with every option of every method, from `pvsbook.methods`."""

from __future__ import annotations

from collections.abc import Iterator

from sphinx.application import Sphinx

from pvsbook import methods
from pvsbook.method import Method, Option

PAGE = "book/command_line"
MARK = "<!-- the options of the methods -->"


def describe(method: Method) -> Iterator[str]:
    """Write the options of a method as a table in Markdown."""
    yield f"### `{method.name}`: {method.title}\n"
    yield "| command line | settings | default | what it does |\n|---|---|---|---|"
    for option in method.options:
        key = "" if option.is_of_one_participant else f"`{option.name}`"
        values = [option.help.rstrip(".")]
        if option.choices and option.flag_value is None:
            or_file = ", or a NIfTI file" if option.or_file else ""
            values.append("one of " + ", ".join(f"`{c}`" for c in option.choices) + or_file)
        yield f"| `{option.command_line}` | {key} | {_default(option)} | {'; '.join(values)} |"
    yield ""


def _default(option: Option) -> str:
    return "" if option.default is None or option.default == {} else f"`{option.default}`"


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the tables where the page marks them."""
    if docname == PAGE:
        text = "\n".join(line for method in methods.ALL for line in describe(method))
        source[0] = source[0].replace(MARK, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the step."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
