"""The book's own tools: links inside the repository, slides cut from a page, reading times."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return importlib.import_module


def test_links_inside_that_lead_nowhere_are_named(tool, monkeypatch, tmp_path):
    links = tool("links")
    book = tmp_path / "book"
    book.mkdir()
    (book / "references.bib").write_text("@article{potter2015,\n}\n")
    (book / "glossary.md").write_text("```{glossary}\nvoxel\n  One element.\n```\n")
    (tmp_path / "README.md").write_text("[there](book/a.md#here) [not](book/b.md)\n")
    (book / "a.md").write_text(
        "(page-a)=\n# Here\n{term}`voxel` {term}`Voxels <voxel>`\n"
        "{ref}`page-a` {cite:p}`potter2015`\n"
        "{term}`pixel` {ref}`page-b` {cite:t}`nobody2001` {doc}`../notebooks/99_none`\n"
        "```console\n$ echo {ref}`not-meant`\n```\n"
    )
    monkeypatch.setattr(links, "ROOT", tmp_path)
    faults = " ".join(links.inside())
    for wrong in ("pixel", "page-b", "nobody2001", "99_none", "book/b.md"):
        assert wrong in faults
    assert len(links.inside()) == 5


BODY = """
<section><span id="nb"></span><h1 id="t">Title<a class="headerlink" href="#t">#</a></h1>
<p>Promise.</p><div class="viewer"><iframe srcdoc="much"></iframe></div>
<section><h2>Part</h2><p>See <a href="13_x.html#y">there</a> and <a href="#z">here</a>.</p>
<div class="cell"><div class="cell_input"><pre>x = 1</pre></div>
<div class="cell_output"><figure><img src="../_images/a.png" alt="A"></figure></div></div>
<div class="exercise admonition"><p>Ask.</p></div>
<div class="solution admonition"><p>Answer.</p></div></section></section>
"""


@pytest.mark.parametrize("solutions", [False, True])
def test_slides_are_cut_at_headings_pictures_and_exercises(tool, solutions):
    cut = tool("chapters").slides(BODY, "10_x", solutions=solutions)
    assert len(cut) == (5 if solutions else 4)
    assert "<h1>Title</h1>" in cut[0]
    assert "headerlink" not in "".join(cut)
    assert "iframe" not in "".join(cut)
    assert 'href="../notebooks/13_x.html#y"' in cut[1]
    assert 'href="../notebooks/10_x.html#z"' in cut[1]
    assert "<summary>Code</summary>" in cut[2]
    assert ("Answer." in "".join(cut)) is solutions


def test_reading_times_grow_with_what_is_read(tool):
    chapters = tool("chapters")
    one = chapters.Chapter("10_a", "A", 12.0, 3)
    known = {"10": one, "11": one}
    assert chapters.reading_time("10", known) == "10\N{NO-BREAK SPACE}min"
    assert chapters.reading_time("10 11", known) == "25\N{NO-BREAK SPACE}min"
    assert chapters.reading_time("10 11 with exercises", known) == "1.5\N{NO-BREAK SPACE}h"
