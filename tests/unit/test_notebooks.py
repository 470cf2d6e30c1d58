"""The rules that every notebook keeps, checked on the stored files."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|home/\w+|Users/\w+|tmp|opt|usr)/\w")


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def test_there_is_a_notebook_for_each_method():
    stems = " ".join(p.stem for p in NOTEBOOKS)
    assert all(method in stems for method in ("_pvs_", "_alps_", "_qsm_"))


def test_it_was_run_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in _code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_only_text_outputs_are_stored(notebook):
    for cell in _code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", f"a warning: {output.get('text')}"
            kinds = set(output.get("data", {}))
            assert not any(k.startswith("image/") for k in kinds)
            html = output.get("data", {}).get("text/html", "")
            assert "<iframe" not in html
            assert "<script" not in html


def test_no_machine_path_and_no_skipped_cell(notebook):
    assert not MACHINE_PATH.search(nbformat.writes(notebook))
    for cell in notebook.cells:
        assert "nbval-skip" not in cell.metadata.get("tags", [])


def test_it_opens_with_target_title_and_objectives(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"\(nb-[a-z0-9-]+\)=\n+# \S", first.source)
    found = re.findall(r"^(?:-|\d\.) ", first.source, re.M)
    assert len(found) >= 3, "fewer than three objectives"
    assert re.search("need|prerequisite|before", first.source, re.I), "no prerequisites"
    assert re.search(r"seconds|\d s\b", first.source), "no run time"


def test_code_cells_are_short(notebook):
    for cell in _code(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= 15, f"{len(lines)} lines: {lines[0]}"
        assert max(map(len, lines)) <= 79


def test_every_figure_has_words(notebook):
    names = set()
    for cell in _code(notebook):
        if "plt.show()" not in cell.source:
            continue
        meta = cell.metadata.get("mystnb", {})
        alt = meta.get("image", {}).get("alt", "")
        caption = meta.get("figure", {}).get("caption", "")
        name = meta.get("figure", {}).get("name", "")
        assert len(alt) >= 40, f"alt text {alt!r}"
        assert len(caption) >= 40, f"caption {caption!r}"
        assert name not in names
        assert name
        names.add(name)
    assert names, "no figure"


def test_it_has_an_exercise_with_a_solution_that_asserts(notebook):
    text = nbformat.writes(notebook)
    exercises = re.findall(r"\{exercise(?:-start)?\}", text)
    solutions = re.findall(r"\{solution-start\}", text)
    assert exercises
    assert len(solutions) == len(exercises)
    asserted: list[bool] = []
    inside = False
    for cell in notebook.cells:
        for mark in re.findall(r"\{solution-(start|end)\}", cell.source):
            inside = mark == "start"
            asserted += [False] * inside
        if inside and cell.cell_type == "code" and "assert" in cell.source:
            asserted[-1] = True
    assert all(asserted), "a solution asserts nothing"


def test_it_says_what_could_fool_you_and_what_to_take_home(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown").lower()
    for words in ("fool", "take home", "limits", "simulated"):
        assert words in text.replace("take-home", "take home"), f"nothing on {words!r}"
