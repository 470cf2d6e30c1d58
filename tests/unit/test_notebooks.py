"""The rules that every notebook keeps, checked on the stored files."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import nbformat
import pytest
import yaml

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


def test_a_glued_value_is_a_plain_number_or_text(notebook):
    """A NumPy scalar has no format that the text could use."""
    for cell in _code(notebook):
        for output in cell.outputs:
            if "scrapbook" in output.get("metadata", {}):
                name = output.metadata["scrapbook"]["name"]
                text = output.data.get("text/plain", "")
                assert not re.match(r"np\.|nan|inf", text), f"{name}: {text}"


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


def _text(notebook: nbformat.NotebookNode) -> str:
    """The whole page, code between marks."""
    return "\n".join(
        c.source if c.cell_type == "markdown" else f"<code>\n{c.source}\n</code>"
        for c in notebook.cells
    )


def _exercises(text: str) -> dict[str, str]:
    """Each exercise with all that belongs to it, by its label."""
    found = re.findall(
        r"\{exercise-start\}[^\n]*\n:label: (\S+)\n(.*?)(?=`{3,}\{exercise-start\}|\n## |\Z)",
        text,
        re.DOTALL,
    )
    return dict(found)


def _objectives(notebook: nbformat.NotebookNode) -> int:
    return len(re.findall(r"^(?:-|\d\.) ", notebook.cells[0].source, re.M))


def test_each_objective_has_an_exercise(notebook):
    exercises = _exercises(_text(notebook))
    named = [
        int(number)
        for text in exercises.values()
        for these in re.findall(r"\(objectives? (\d(?: and \d)*)\)", text)
        for number in these.split(" and ")
    ]
    wanted = set(range(1, _objectives(notebook) + 1))
    assert exercises
    assert set(named) == wanted


def test_each_exercise_has_hint_check_and_a_solution_that_asserts(notebook):
    for label, text in _exercises(_text(notebook)).items():
        question, solution = text.split(f"{{solution-start}} {label}\n")
        assert "Hint" in question, f"{label}: no hint"
        asked = question.split("{exercise-end}")[0]
        assert "{term}" not in asked, f"{label}: a link is too pale on the blue of an exercise"
        assert "{solution-end}" in solution
        assert re.search(r"<code>.*\bassert ", solution, re.DOTALL), f"{label} asserts nothing"
        assert f'<code>\ncheck("{label}", ...)\n</code>' in question, f"{label}: no check"
        assert f'assert check("{label}", ' in solution, f"{label}: the answer is not checked"


def test_every_answer_belongs_to_an_exercise_of_its_chapter(notebook, request):
    stem = request.node.callspec.params["notebook"].stem
    file = resources.files("pvsbook_book").joinpath("answers", f"{stem}.yml")
    assert sorted(_exercises(_text(notebook))) == sorted(yaml.safe_load(file.read_text("utf-8")))


def test_the_quiz_explains_every_answer(notebook):
    found = re.search(r"^## Quiz\n(.*?)^## ", _text(notebook), re.DOTALL | re.MULTILINE)
    questions = re.split(r"^\*\*\d\. ", found[1], flags=re.M)[1:]
    assert 2 <= len(questions) <= 4
    for question in questions:
        answers = re.findall(r"```\{dropdown\} [^\n]+\n\*\*(Right|No)\.\*\* (.+?)\n```", question)
        assert len(answers) == question.count("{dropdown}") >= 2
        assert [word for word, _ in answers].count("Right") == 1, question
        assert all(len(why) > 10 for _, why in answers), question


def test_it_opens_with_one_picture_and_ends_with_what_to_take_home(notebook):
    first = next(k for k, c in enumerate(notebook.cells) if c.source.lstrip().startswith("## "))
    names = [
        c.metadata.get("mystnb", {}).get("figure", {}).get("name", "")
        for c in notebook.cells[:first]
    ]
    assert any(name.endswith("-glance") for name in names), "no picture of the whole page"
    end = re.search(r"^## Take[ -]home\n(.*)", _text(notebook), re.DOTALL | re.MULTILINE)[1]
    taken = len(re.findall(r"^- ", re.split(r"Limits", end)[0], re.M))
    assert taken >= _objectives(notebook), "less to take home than was promised"
    assert re.search(r"\*\*Next:?\*\*", end), "no next step"


def test_it_says_what_could_fool_you_and_what_to_take_home(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown").lower()
    for words in ("fool", "take home", "limits", "simulated"):
        assert words in text.replace("take-home", "take home"), f"nothing on {words!r}"
