"""The bibliography's style: sorted by author, labelled as the text cites, with what was read.

Beneath each entry stands, in small print, what the book cites it for (the field ``supports`` of
``references.bib``) and how much of it was read (``seen``).
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from pybtex.database import Entry, Person
from pybtex.plugin import register_plugin
from pybtex.richtext import Tag, Text
from pybtex.style.formatting import toplevel
from pybtex.style.formatting.unsrt import Style as UnsrtStyle
from pybtex.style.template import FieldIsMissing, node, sentence
from pybtex_docutils import Backend
from sphinx.application import Sphinx

SHOWN = 8  # of more authors, the first six are named
NAMED = 6
OTHERS = Person("others")


def small(rawsource: str, text: str, *children: nodes.Node) -> nodes.inline:
    """Make a line of small print; ``d-block`` is the theme's class, ``supports`` the book's."""
    return nodes.inline(rawsource, text, *children, classes=["supports", "d-block"])


def label(entry: Entry) -> str:
    """Give surname and year, as the author-year style writes them in the text."""
    names = [
        " ".join(person.prelast_names + person.last_names).replace("{", "").replace("}", "")
        for person in entry.persons["author"]
    ]
    many = len(names) > 2 or names[-1] == "others"
    who = f"{names[0]} et al." if many else " and ".join(names)
    return f"{who}, {entry.fields['year']}"


@node
def people(children: list[Any], data: dict[str, Any], role: str) -> Text:
    """Name the authors: all of a few, the first six of many; pybtex passes no children here."""
    persons = list(data["entry"].persons.get(role, ()))
    if not persons:  # pybtex leaves the part out
        raise FieldIsMissing(role, data["entry"])
    more = OTHERS in persons
    persons = [person for person in persons if person != OTHERS]
    if len(persons) > SHOWN:
        persons, more = persons[:NAMED], True
    style = data["style"]
    names = [style.format_name(person, True).format_data(data) for person in persons]
    if more:
        return Text(Text(", ").join(names), " et al.")
    if len(names) == 1:
        return Text(names[0])
    return Text(Text(", ").join(names[:-1]), " and ", names[-1])


class Style(UnsrtStyle):
    """Articles and the rest as usual, then what they are cited for."""

    default_name_style = "lastfirst"

    def __init__(self, **settings: Any) -> None:
        """Take the settings of pybtex, but for labels and order."""
        super().__init__(**settings)
        self.format_labels = lambda entries: map(label, entries)
        self.sort = lambda entries: sorted(entries, key=lambda entry: label(entry).casefold())

    def format_names(self, role: str, as_sentence: bool = True) -> Any:
        """Name the authors."""
        named = people(role)
        return sentence[named] if as_sentence else named

    def format_entry(self, label: str, entry: Entry, bib_data: Any = None) -> Any:
        """Add the line of small print."""
        formatted = super().format_entry(label, entry, bib_data=bib_data)
        text = Text.from_latex(entry.fields["supports"])
        read = Text.from_latex(entry.fields["seen"])
        small_print = Tag("small", "Cited for: ", text, " Read: ", read, ".")
        formatted.text = toplevel[formatted.text, small_print].format_data({})
        return formatted


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the style under the name ``authoryear``."""
    Backend.tags["small"] = small
    register_plugin("pybtex.style.formatting", "authoryear", Style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
