"""Right answers are confirmed, mistakes are named, and no answer is given away."""

from __future__ import annotations

import math
import re
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvsbook_book import exercises
from pvsbook_book.exercises import check

WIDTH = {
    "answer": 2.5,
    "tolerance": 0.1,
    "unit": "mm",
    "mistakes": {7.7: "that is the radius of 7.7?"},
}


@pytest.fixture
def answers(monkeypatch):
    """Answers of this test alone."""
    stored = {
        "width": WIDTH,
        "wide": {"answer": 2.5, "tolerance": 0.6},
        "angle": {"answer": math.pi / 6, "tolerance": 0.01, "unit": "rad"},
        "count": {"answer": 29},
        "three": {"answer": [1.0, -2.0, 4.0], "tolerance": 0.05},
        "sign": {
            "answer": "it falls",
            "options": ["it falls", "it rises", "it stays the same"],
            "why": {"it rises": "fluid pulls the ratio towards one."},
        },
        "which": {"answer": ["a", "c"], "options": ["a", "b", "c"]},
    }
    monkeypatch.setattr(exercises, "answers", lambda: stored)
    return stored


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("width", 2.5),
        ("width", 2.401),
        ("width", "2.5"),
        ("width", np.float32(2.59)),
        ("count", 29.0),
        ("three", [1.04, -1.96, 4]),
        ("three", np.array([1, -2, 4])),
        ("sign", " It  falls. "),
        ("sign", "falls"),
        ("which", {"c", "a"}),
        ("which", ["c", "a"]),
        ("which", pd.Index(["a", "c"])),
        ("three", pd.Series([1, -2, 4])),
    ],
)
def test_a_right_answer_is_right(answers, name, answer):
    feedback = check(name, answer)
    assert feedback
    assert feedback.message.startswith("Right")


@pytest.mark.parametrize(
    ("name", "answer", "word"),
    [
        ("width", ..., "No answer yet"),
        ("width", None, "No answer yet"),
        ("width", 2500, "1000 is off: look at the unit, mm"),
        ("width", 0.0025, "1000 is off"),
        ("width", 250, "100 is off: a share or a percentage?"),
        ("width", 0.025, "100 is off"),
        ("width", 25, "10 is off"),
        ("width", 0.25, "10 is off"),
        ("width", -2.5, "sign"),
        ("width", 5, "a factor of 2"),
        ("width", 1.25, "a factor of 2"),
        ("width", 0.4, "divided by which?"),
        ("width", 6.25, "a variance or a standard deviation?"),
        ("width", 1.581, "a variance or a standard deviation?"),
        ("width", 2.5 * 2 * math.pi, "turns or radians?"),
        ("width", 7.7, "that is the radius"),
        ("wide", 6.25, "the answer is wanted within 0.6"),
        ("angle", 1 / 12, "turns or radians?"),
        ("angle", 30, "degrees or radians?"),
        ("width", 2.65, "close, but not within 0.1 mm"),
        ("width", 77, "within 0.1 mm"),
        ("width", 0, "within 0.1 mm"),
        ("width", math.nan, "not finite"),
        ("width", "wide", "of type str"),
        ("width", True, "of type bool"),
        ("width", 10**400, "of type int"),
        ("width", [2.5], "a number is asked for, and this is a list of 1"),
        ("count", 28, "wanted exactly"),
        ("count", 29.4, "exactly"),
        ("three", [4, -2, 1], "order"),
        ("three", [1, 2, 4], "right are number 1, 3"),
        ("three", [-1, 2, -4], "sign"),
        ("three", 1, "3 numbers are asked for, and this is one number"),
        ("three", [[1], [2, 3]], "of type list"),
        ("sign", "it rises", "Not 'it rises': fluid pulls"),
        ("sign", "it stays", "think again"),
        ("sign", "it", "not one of the answers"),
        ("sign", 3, "not one of the answers offered: 'it falls', 'it rises', 'it stays the same'"),
        ("which", "a", "missing"),
        ("which", [], "the list is empty"),
        ("which", ["a", "b"], "Not 'b'"),
        ("widt", 1, "Do you mean 'width'?"),
        ("zzz", 1, "There is no exercise 'zzz'."),
    ],
)
def test_a_wrong_answer_is_told_why(answers, name, answer, word):
    feedback = check(name, answer)
    assert not feedback
    assert word in repr(feedback)


@given(
    answer=st.floats(1, 1e6),
    share=st.floats(0.001, 0.2),
    off=st.floats(-0.98, 0.98),
    sign=st.sampled_from([-1, 1]),
)
def test_the_tolerance_is_the_tolerance(answer, share, off, sign):
    tolerance = share * answer
    entry = {"answer": sign * answer, "tolerance": tolerance}
    with mock.patch.object(exercises, "answers", return_value={"ex": entry}):
        assert check("ex", sign * answer + off * tolerance)
        assert not check("ex", sign * answer + (2 + off) * tolerance)


@given(st.one_of(st.none(), st.text(), st.binary(), st.floats(), st.lists(st.text()), st.sets(
    st.integers()), st.dictionaries(st.text(), st.text()), st.complex_numbers()))  # fmt: skip
def test_nothing_is_raised(answer):
    for name in exercises.answers():
        check(name, answer)


@given(answer=st.floats(0.5, 1e4), times=st.sampled_from([-1, 0.001, 0.01, 0.1, 0.5, 2, 10, 1000]))
def test_no_message_says_whether_a_number_is_too_large(answer, times):
    entry = {"answer": answer, "tolerance": 0.02 * answer, "unit": "ppb"}
    with mock.patch.object(exercises, "answers", return_value={"ex": entry}):
        message = check("ex", answer * times).message
    assert not re.search(r"too (?:large|small)|half of|twice|upside down|off by one", message)


STORED = exercises.answers()


def words(text: object) -> str:
    return " ".join(str(text).casefold().split()).strip(".")


@pytest.mark.parametrize("label", sorted(STORED))
def test_a_stored_answer_is_whole_and_no_message_gives_it_away(label):
    entry = STORED[label]
    assert label.startswith("ex-")
    if "options" in entry:
        options = {words(o) for o in entry["options"]}
        right = {words(o) for o in np.atleast_1d(np.asarray(entry["answer"], object))}
        assert len(options) >= 2
        assert right < options
        explained = {words(o): why for o, why in entry["why"].items()}
        assert set(explained) == options - right, "a wrong choice is not explained"
        for why in explained.values():
            assert not any(option in words(why) for option in right if " " in option)
        return
    values = np.atleast_1d(np.asarray(entry["answer"], float))
    tolerance = entry.get("tolerance", 0)
    assert 0 <= tolerance <= np.abs(values).min() / 4 or not tolerance
    if not tolerance:
        assert (values == np.rint(values)).all(), "a number that is not whole needs a tolerance"
    for wrong, sentence in entry.get("mistakes", {}).items():
        assert not check(label, wrong)
        numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", sentence)]
        assert not any(check(label, n) for n in numbers), "the message holds the answer"
