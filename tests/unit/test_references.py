"""Every source that the book cites is real, is cited for what it holds, and can be looked up."""

import json
import re
import sys
from pathlib import Path

import pytest
from pybtex.database import Entry, parse_string

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import bibliography  # noqa: E402

BIB = ROOT / "book" / "references.bib"
ENTRIES: dict[str, Entry] = dict(parse_string(BIB.read_text("utf-8"), "bibtex").entries.items())

READ = {"abstract", "full text", "record", "documentation", "press"}
PLACE = re.compile(  # where in the source it stands
    r"abstract|title|table|figure|legend|section|method|results|theory|definition|documentation"
    r"|description|commentary|review"
)
GROUPS = {  # authors that are no persons, and records that show none
    "Dipy Contributors",
    "QSM Challenge 2.0 Organization Committee",
    "QSM Consensus Organization Committee",
    "Authors not seen (bioRxiv)",
}
CITED = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
DOI = re.compile(r"10\.\d{4,}/[^\s)\]>`\"']+")


def pages() -> dict[str, str]:
    """Return the text of every page: the Markdown, without code and output."""
    found = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "book").glob("*.md"))}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        found[path.name] = "\n\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
    return found


def plain(text: str) -> str:
    return text.replace("{", "").replace("}", "")


def faults(entry: Entry) -> list[str]:
    """Say what is wrong with an entry."""
    found = [f"no {name}" for name in ("title", "year") if not entry.fields.get(name)]
    persons = entry.persons.get("author", [])
    names = [plain(" ".join(person.prelast_names + person.last_names)) for person in persons]
    if not names or names[0] == "others":
        found.append("no author")
    for person, name in zip(persons, names, strict=True):
        alone = not person.first_names and name != "others"
        if alone and name not in GROUPS:
            found.append(f"{name}: no person and no known group")
    title = plain(entry.fields.get("title", ""))
    if re.search(r"\b\d+ (people|patients|participants|controls|subjects)\b", title):
        found.append(f"{title}: a description, not a title")
    if re.search(r"https?:|\bread\b|PMC\d", entry.fields.get("howpublished", "")):
        found.append("how it was read stands where it was published")
    supports = entry.fields.get("supports", "")
    if len(supports) < 40:
        found.append("what it is cited for is missing")
    elif not PLACE.search(supports):
        found.append("where in the source that stands is missing")
    seen = entry.fields.get("seen", "")
    if seen not in READ:
        found.append(f"seen: {seen!r}")
    if seen == "record" and re.search(r"(?<![\w+])\d+(\.\d+)?(?!\w)", supports):
        found.append("a number from a source of which only the record was read")
    return found


@pytest.mark.parametrize("key", sorted(ENTRIES))
def test_entry_is_real_and_says_what_it_is_cited_for(key: str) -> None:
    assert faults(ENTRIES[key]) == []


def test_faulty_entries_are_found() -> None:
    """An accession number for an author, a description for a title, an index for a journal."""
    text = """
    @misc{a, author = {{PMC6219694}}, year = {2018},
      title = {Deep gray matter susceptibility of 600 people with multiple sclerosis},
      howpublished = {Radiology; abstract read as PMC6219694}}
    @misc{b, author = {others}, title = {A title}, year = {2020}, seen = {record},
      supports = {Something that was found in 120 people, with no word for its place}}
    """
    first, second = parse_string(text, "bibtex").entries.values()
    assert len(faults(first)) == 5
    assert len(faults(second)) == 3


def test_what_is_cited_is_there_and_what_is_there_is_cited() -> None:
    cited = {
        key.strip()
        for text in pages().values()
        for keys in CITED.findall(text)
        for key in keys.split(",")
    }
    assert cited - set(ENTRIES) == set(), "cited, but not in references.bib"
    assert set(ENTRIES) - cited == set(), "in references.bib, but cited by no page"


def test_a_source_with_an_entry_is_cited_by_it() -> None:
    """A bare DOI in the text would keep a source out of the bibliography."""
    entries = {entry.fields["doi"].lower() for entry in ENTRIES.values() if "doi" in entry.fields}
    bare = [
        (page, doi)
        for page, text in pages().items()
        for doi in DOI.findall(text)
        if doi.lower().rstrip(".,;") in entries
    ]
    assert bare == []


def test_no_source_stands_twice() -> None:
    for name in ("doi", "title"):
        values = [
            plain(entry.fields[name]).lower() for entry in ENTRIES.values() if name in entry.fields
        ]
        assert sorted(values) == sorted(set(values)), name


def test_bibliography_is_sorted_and_labelled_as_the_text_cites() -> None:
    style = bibliography.Style()
    formatted = list(style.format_entries(ENTRIES.values()))
    labels = [entry.label for entry in formatted]
    assert labels == sorted(labels, key=str.casefold)
    assert len(labels) == len(set(labels)), "two sources with one label: add a letter to the years"
    assert all(re.fullmatch(r"[^{}]+, (\d{4}[a-z]?|n\.d\.)", label) for label in labels)
    for entry in formatted:
        source, reason = str(entry.text).split("Cited for: ")
        assert reason.endswith("."), entry.key
        assert "others" not in source, entry.key
    assert ":style: authoryear" in (ROOT / "book" / "bibliography.md").read_text("utf-8")


def test_small_print_is_marked() -> None:
    bibliography.setup(None)  # type: ignore[arg-type]
    entry = next(iter(bibliography.Style().format_entries(ENTRIES.values())))
    paragraph = bibliography.Backend().paragraph(entry)
    assert paragraph.children[-1]["classes"] == ["supports", "d-block"]
    assert paragraph.children[-1].astext().startswith("Cited for: ")
