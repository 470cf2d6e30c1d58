"""What the pages say is held against what they compute; each rule is shown to catch its fault."""

from __future__ import annotations

import math

import claims
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pvsbook_book import exercises, rerun

NOTEBOOKS = sorted((claims.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_a_sentence_on_a_result_is_quoted_by_an_assert(notebook):
    assert not claims.unasserted_claims(notebook)


def test_a_direction_has_a_measurement_or_a_model(notebook):
    assert not claims.directions_without_source(notebook)


def test_a_caption_says_simulated_or_whose_data(notebook):
    assert not claims.unmarked_captions(notebook)


def test_no_impossible_number_is_printed(notebook):
    assert not claims.impossible_numbers(notebook)


def test_no_answer_stands_above_its_exercise(notebook):
    assert not claims.leaked_answers(notebook, exercises.answers())


def test_an_exercise_asks_to_look_or_to_judge(notebook):
    assert claims.asks_to_look_or_judge(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_rerun_on_a_scan_says_nothing_of_the_phantom(path):
    notebook = nbformat.read(path, as_version=4)
    if rerun.takes_scan(notebook) is not None:
        assert not claims.phantom_words_of_a_rerun(notebook)


def test_the_right_option_of_a_quiz_cannot_be_told_by_its_length():
    found = [claims.longest_and_shortest(nbformat.read(p, as_version=4)) for p in NOTEBOOKS]
    longest, shortest, chance, count = map(sum, zip(*found, strict=True))
    assert count > 60
    room = math.sqrt(chance * (1 - chance / count))  # one standard deviation of luck
    assert abs(longest - chance) <= room
    assert abs(shortest - chance) <= room


# The rules themselves, on pages of a few cells.


def page(*cells: tuple[str, str] | nbformat.NotebookNode) -> nbformat.NotebookNode:
    made = [new_markdown_cell("(nb-x)=\n# A page")]
    for cell in cells:
        if isinstance(cell, tuple):
            kind, source = cell
            cell = (new_code_cell if kind == "code" else new_markdown_cell)(source)
        made.append(cell)
    return new_notebook(cells=made)


@pytest.mark.parametrize(
    "claim",
    [
        "The order of the nuclei is right.",
        "Here every value is too small.",
        "In this phantom all nuclei move together.",
        "The index hardly moves.",
        "The error is twice the noise.",
        "Dispersion lowers the index in this model.",
        "The index survives the tilt.",
        "Here the errors are small.",
        "The estimate is unbiased.",
        "The noise doubles, as one might expect.",
        "TV beats TKD.",
    ],
)
def test_a_claim_without_an_assert_is_found(claim):
    assert claims.unasserted_claims(
        page(("text", "## Result"), ("code", "x = 1"), ("text", claim))
    )


def test_an_assert_that_quotes_the_claim_clears_it():
    code = 'assert (a < b).all(), "every value is too small"'
    told = ("text", "Here **every value** is\ntoo small.")
    assert not claims.unasserted_claims(page(("text", "## Result"), ("code", code), told))
    below = page(("text", "## Result"), told, ("code", code))
    assert claims.unasserted_claims(below), "the assert stands below"
    other = page(("text", "## A"), ("code", code), ("text", "## Result"), told)
    assert claims.unasserted_claims(other), "the assert belongs to another section"


@pytest.mark.parametrize(
    "code",
    [
        "assert True, WORDS",
        "assert 1 == 1, WORDS",
        "assert (a, b), WORDS",
        "assert x == x, WORDS",
        "assert (a < b) or True, WORDS",
        "def f():\n    assert a < b, WORDS",
        "try:\n    assert a < b, WORDS\nexcept AssertionError:\n    pass",
        "if DATASET is not None:\n    assert a < b, WORDS",
    ],
)
def test_an_assert_that_cannot_fail_clears_nothing(code):
    told = ("text", "Here every value is too small.")
    quoting = ("code", code.replace("WORDS", '"every value is too small"'))
    assert claims.unasserted_claims(page(("text", "## A"), quoting, told))


@pytest.mark.parametrize(
    "sentence",
    [
        "Is every value too small?",
        "A higher threshold would lower the value.",
        "A shorter echo time gave a larger index {cite:p}`taoka2022`.",
        "The volume of the phantom is half of it by construction.",
        "We count the voxels.",
    ],
)
def test_what_is_no_result_needs_no_assert(sentence):
    assert not claims.unasserted_claims(page(("text", "## Result"), ("text", sentence)))


def test_a_claim_on_a_method_in_general_needs_seeds_or_heads():
    told = ("text", "The filter never misses a wide tube.")
    check = 'assert found.all(), "never misses a wide tube"'
    one = page(("text", "## Result"), ("code", check), told)
    assert "over how many" in claims.unasserted_claims(one)[0]
    for constant, enough in (("SEEDS = range(20)", True), ("SEEDS = range(3)", False),
                             ("N_HEADS = 5", True), ("HEADS = [1, 2]", False)):  # fmt: skip
        name = constant.split(" ")[0]
        code = f"{constant}\nfound = run({name})\n{check}"
        assert (
            not claims.unasserted_claims(page(("text", "## R"), ("code", code), told))
        ) == enough


def test_a_solution_is_held_to_its_own_exercise():
    start = "```{exercise-start}\n:label: ex-x\n```\nIs it larger?\n```{exercise-end}\n```\n"
    solution = "```{solution-start} ex-x\n```\nIt is larger.\n```{solution-end}\n```"
    code = ("code", 'assert a > b, "is larger"')
    bare = page(("text", "## Exercises\n\n" + start + solution))
    assert claims.unasserted_claims(bare)
    assert not claims.unasserted_claims(
        page(("text", "## Exercises\n\n" + start + solution), code)
    )


def test_a_direction_in_a_take_home_or_quiz_is_found():
    point = "## Take home\n\n- Free water lowers the index."
    assert claims.directions_without_source(page(("text", point)))
    for words in (" in this phantom", " in this model", " {cite:p}`taoka2022`"):
        assert not claims.directions_without_source(page(("text", point[:-1] + words + ".")))
    quiz = "## Quiz\n\n**1. What?**\n\n```{dropdown} it falls\n**Right.** Fluid is added.\n```\n"
    assert claims.directions_without_source(page(("text", quiz)))


def test_a_caption_without_its_origin_is_found():
    def figure(caption):
        return new_code_cell("plt.show()", metadata={"mystnb": {"figure": {"caption": caption}}})

    assert claims.unmarked_captions(page(figure("The index against the angle.")))
    for caption in (
        "The index (simulated).",
        "A slice of ds000221.",
        "Counts of Yuan et al. 2023.",
        "MNI152, 1 mm.",
        "A diagram of the steps.",
    ):
        assert not claims.unmarked_captions(page(figure(caption)))


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("p = 0.000", True),
        ("p_ratio 0, p_above 0", True),
        ("mean susceptibility: nan", True),
        ("odds ratio inf", True),
        ("p-value 0.0000", True),
        ("P = .000", True),
        ("p(group) = 0.0", True),
        ("limits (1.2, Inf)", True),
        ("value ∞", True),
        ("<NA>", True),
        ("term      PR(>F)\ngroup        0.0\n", True),
        ("group    p\nA      0.0\n", True),
        ("p < .001, n = 0", False),
        ("p = 0.03", False),
        ("information, nano, 10 people", False),
    ],
)
def test_impossible_numbers_are_found(text, bad):
    cell = new_code_cell("print(x)", outputs=[new_output("stream", text=text)])
    assert bool(claims.impossible_numbers(page(cell))) == bad


def test_a_zero_in_a_column_of_p_values_is_found():
    table = "<table><tr><th>n</th><th>p_holm</th></tr><tr><td>0</td><td>{}</td></tr></table>"
    for value, bad in (("0.000", True), ("< .001", False)):
        shown = new_output("display_data", data={"text/html": table.format(value)})
        page_of_one = page(new_code_cell("x", outputs=[shown]))
        assert bool(claims.impossible_numbers(page_of_one)) == bad


def test_phantom_words_of_a_rerun_are_found():
    title = 'figures.viewer(image, title="Map of the simulated head, in ppb")'
    assert claims.phantom_words_of_a_rerun(page(("code", title)))
    apart = 'where = "the simulated head" if DATASET is None else DATASET'
    assert not claims.phantom_words_of_a_rerun(page(("code", apart)))
    home = page(("text", "## Take home\n\n- Half of the truth is found."))
    assert claims.phantom_words_of_a_rerun(home)
    home.cells[1].metadata["tags"] = ["phantom"]
    assert not claims.phantom_words_of_a_rerun(home)


def test_leaks_are_found(monkeypatch):
    answers = {
        "ex-n": {"answer": 54.7, "tolerance": 0.2},
        "ex-w": {
            "answer": "slope and error fall",
            "options": ["slope and error fall", "both rise"],
        },
    }
    monkeypatch.setattr("pvsbook_book.exercises.answers", lambda: answers)

    def asked(label, prompt):
        return ("text", f"```{{exercise-start}}\n:label: {label}\n```\n{prompt}\n"
                        "```{exercise-end}\n```\n```{solution-start} x\n```")  # fmt: skip

    prompt = asked("ex-n", "At which angle?")
    assert not claims.leaked_answers(page(("text", "A cone."), prompt), answers)
    assert claims.leaked_answers(page(("text", "A cone at 54.7 degrees."), prompt), answers)
    assert claims.leaked_answers(page(("code", "ANGLE = 54.74"), prompt), answers)
    assert claims.leaked_answers(page(asked("ex-n", "It is not 54.7 but?")), answers)
    told = ("text", "Here slope and error fall.")
    assert claims.leaked_answers(page(told, asked("ex-w", "What happens?")), answers)


def test_the_longest_option_is_counted():
    quiz = (
        "## Quiz\n\n**1. What?**\n\n```{dropdown} a\n**No.** x\n```\n\n"
        "```{dropdown} a much longer option\n**Right.** x\n```\n"
    )
    assert claims.longest_and_shortest(page(("text", quiz))) == (1, 0, 0.5, 1)
