"""Fill the page of data sets from ``data_manifest``, so that it cannot tell another story."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nbformat
from rich.filesize import decimal
from sphinx.application import Sphinx

from pvsbook import manifest
from pvsbook_book import rerun

PAGE = "book/data"
MARK = "<!-- the data sets -->"


def chapters(root: Path) -> dict[str, list[str]]:
    """List the notebooks that take the scans of a method, or name a data set."""
    pages = defaultdict(list)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells)
        keys = [rerun.takes_scan(notebook), *(n for n in manifest.datasets() if n in text)]
        for key in filter(None, keys):
            pages[key].append(path.stem)
    return pages


def describe(name: str, known: dict[str, list[str]]) -> Iterator[str]:
    """Write what the manifest says of a data set, as Markdown."""
    data = manifest.describe(name)
    methods = sorted({scan.method for scan in data.scans})
    pages = dict.fromkeys(p for key in (name, *methods) for p in known.get(key, ()))
    title = data.title.rstrip(". ").replace("*", r"\*")  # T2* is no emphasis
    yield f"### {name}\n\n**{title}.** {data.description}\n"
    participants = f", {len(data.subjects)} participants" if len(data.subjects) > 1 else ""
    yield f"- **Size**: {len(data.files)} files{participants}, {decimal(data.size)}"
    yield f"- **Licence**: {data.licence}"
    source = f"https://doi.org/{data.doi}" if data.doi else data.repository
    yield f"- **Source**: <{source}>, version `{data.version[:12]}`"
    yield "- **Cite**: " + re.sub(
        r"https://\S+?(?=[.,]?(\s|$))", r"<\g<0>>", data.citation.replace("*", r"\*")
    )
    if methods:
        yield "- **Scans for**: " + ", ".join(f"`{method}`" for method in methods)
    if pages:
        yield "- **Chapters**: " + ", ".join(f"{{doc}}`../notebooks/{page}`" for page in pages)
    for scan in {s.beware: s for s in data.scans if s.beware}.values():
        yield f"- **Beware**: {scan.beware}"
    yield "\n````{dropdown} Files and checksums"
    for algorithm in ("sha256", "md5"):
        lines = [f"{f.checksum[1]}  {f.path}" for f in data.files if f.checksum[0] == algorithm]
        if lines:
            yield f"For `{algorithm}sum --check`:\n\n```text\n" + "\n".join(lines) + "\n```"
    yield "````\n"


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the data sets where the page marks them."""
    if docname != PAGE:
        return
    known = chapters(Path(app.srcdir))
    for path in manifest.folder().glob("*.yml"):
        app.env.note_dependency(str(path))
    text = "\n".join(line for name in manifest.datasets() for line in describe(name, known))
    source[0] = source[0].replace(MARK, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the step."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
