"""Answers are told right from wrong, and slips are named; nothing is raised."""

from __future__ import annotations

import json
import math
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvsbook import InputError, exercises
from pvsbook.exercises import check, seal


@pytest.fixture
def answers(monkeypatch):
    """Three sealed answers of this test alone."""
    sealed = {
        "width": seal("width", 2.5, tolerance=0.1, unit="mm"),
        "angle": seal("angle", math.pi / 6, tolerance=0.01, unit="rad"),
        "count": seal("count", 29),
        "three": seal("three", [1.0, -2.0, 4.0], tolerance=0.05),
        "sign": seal(
            "sign",
            "it falls",
            options=["it falls", "it rises", "it stays"],
            why={"it rises": "fluid pulls the ratio towards one."},
        ),
        "which": seal("which", ["a", "c"], options=["a", "b", "c"]),
    }
    monkeypatch.setattr(exercises, "_answers", lambda: sealed)
    return sealed


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("width", 2.5),
        ("width", 2.401),
        ("width", np.float32(2.59)),
        ("count", 29.0),
        ("three", [1.04, -1.96, 4]),
        ("three", np.array([1, -2, 4])),
        ("sign", " It  falls. "),
        ("which", {"c", "a"}),
        ("which", ["c", "a"]),
    ],
)
def test_a_right_answer_is_right(answers, name, answer):
    found = check(name, answer)
    assert found
    assert found.message.startswith("Right")


@pytest.mark.parametrize(
    ("name", "answer", "word"),
    [
        ("width", ..., "No answer yet"),
        ("width", None, "No answer yet"),
        ("width", 2500, "1000 times too large: look at the unit, mm"),
        ("width", 0.0025, "1000 times too small"),
        ("width", 250, "100 times too large"),
        ("width", 0.025, "100 times too small"),
        ("width", 25, "10 times too large"),
        ("width", 0.25, "10 times too small"),
        ("width", -2.5, "sign"),
        ("width", 5, "twice"),
        ("width", 1.25, "half"),
        ("width", 0.4, "upside down"),
        ("width", 6.25, "square"),
        ("width", 1.581, "root"),
        ("width", 2.5 * 2 * math.pi, "2 pi"),
        ("angle", 1 / 12, "2 pi"),
        ("angle", 30, "in degrees"),
        ("width", 2.65, "close, but not within 0.1 mm"),
        ("width", 77, "within 0.1 mm"),
        ("width", 0, "within 0.1 mm"),
        ("width", math.nan, "not finite"),
        ("width", "2.5", "of type str"),
        ("width", True, "of type bool"),
        ("width", [2.5], "a number is asked for, and this is a list of 1"),
        ("count", 28, "off by one"),
        ("count", 29.4, "exactly"),
        ("three", [4, -2, 1], "reverse"),
        ("three", [1, 2, 4], "right are number 1, 3"),
        ("three", [-1, 2, -4], "sign"),
        ("three", 1, "3 numbers are asked for, and this is one number"),
        ("three", [[1], [2, 3]], "of type list"),
        ("sign", "it rises", "Not 'it rises': fluid pulls"),
        ("sign", "it stays", "think again"),
        ("sign", 3, "not one of the answers offered: 'it falls', 'it rises', 'it stays'"),
        ("which", "a", "missing"),
        ("which", ["a", "b"], "Not 'b'"),
        ("widt", 1, "Do you mean 'width'?"),
        ("zzz", 1, "There is no exercise 'zzz'."),
    ],
)
def test_a_wrong_answer_is_told_why(answers, name, answer, word):
    found = check(name, answer)
    assert not found
    assert word in repr(found)


@given(
    answer=st.floats(1, 1e6),
    share=st.floats(0.001, 0.2),
    off=st.floats(-0.98, 0.98),
    sign=st.sampled_from([-1, 1]),
)
def test_the_tolerance_is_the_tolerance(answer, share, off, sign):
    tolerance = share * answer
    entry = seal("x", sign * answer, tolerance=tolerance)
    assert exercises._judge("x", entry, sign * answer + off * tolerance)
    assert not exercises._judge("x", entry, sign * answer + (2 + off) * tolerance)


@given(st.one_of(st.none(), st.text(), st.binary(), st.floats(), st.lists(st.text()), st.sets(
    st.integers()), st.dictionaries(st.text(), st.text()), st.complex_numbers()))  # fmt: skip
def test_nothing_is_raised(answer):
    for name in exercises._answers():
        check(name, answer)


def test_no_answer_can_be_read_from_its_entry(answers):
    text = json.dumps(answers)
    assert "2.5" not in text
    assert "29" not in [str(v) for v in answers["count"].values()]
    assert seal("one", 2.5, tolerance=0.1)["seals"] != seal("two", 2.5, tolerance=0.1)["seals"]
    with pytest.raises(InputError, match="would show the answer"):
        seal("x", 0.3, tolerance=0.1)
    with pytest.raises(InputError, match="not among the options"):
        seal("x", "d", options=["a", "b"])


def test_the_stored_answers_are_whole():
    path = resources.files("pvsbook").joinpath("answers.json")
    stored = json.loads(path.read_text())
    assert list(stored) == sorted(stored)
    for name, entry in stored.items():
        assert name.startswith("ex-")
        if "options" in entry:
            assert len(entry["options"]) >= 2
            right = set(entry["seals"])
            known = {exercises._hash(name, exercises._word(o)) for o in entry["options"]}
            assert right < known, name
            assert set(entry["why"]) == known - right, f"{name}: a wrong choice is not explained"
