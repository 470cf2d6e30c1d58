"""Say whether an answer to an exercise of the book is right, without showing the right one.

``check("ex-alps-null", 1.02)`` gives `Feedback` that says *right*, or which mistake may have been
made: a sign, a unit, degrees for radians, the reverse order.  It never raises, and its message is
never the answer: it does not say whether a number is too large or too small.

The answers stand in ``answers/``, one YAML file per chapter.  An entry has ``answer`` (a number,
a list of numbers, one of the ``options``, or a list of them) and for numbers ``tolerance`` and
``unit``, for choices ``options`` and ``why`` (what to tell readers who choose a wrong one).
``mistakes`` maps known wrong numbers to the sentence that explains them.  Each solution of the
book ends in ``assert check(...)``, so an answer that the page no longer reaches fails the build.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import yaml

__all__ = ["Feedback", "answers", "check"]

# A sentence, and what would make the wrong number right; in the order of asking.
_MISTAKES: Mapping[str, tuple[Callable[[Any], Any], ...]] = {
    "look at the sign.": (np.negative,),
    "a factor of 1000 is off{at_unit}.": (lambda x: x / 1000, lambda x: x * 1000),
    "a factor of 100 is off: a share or a percentage?": (lambda x: x / 100, lambda x: x * 100),
    "a factor of 10 is off{at_unit}.": (lambda x: x / 10, lambda x: x * 10),
    "a factor of 2 is off.": (lambda x: x / 2, lambda x: x * 2),
    "which quantity is divided by which?": (np.reciprocal,),
    "a variance or a standard deviation?": (np.sqrt, np.square),
    "degrees or radians?": (np.radians, np.degrees),
    "turns or radians?": (lambda x: x / (2 * np.pi), lambda x: x * (2 * np.pi)),
}
# These are met by chance where the tolerance is wide, more than this share of the answer.
_NARROW = 0.1
_NARROW_ONLY = (
    "a factor of 2 is off.",
    "which quantity is divided by which?",
    "a variance or a standard deviation?",
)


@dataclass(frozen=True, repr=False)
class Feedback:
    """What `check` says of an answer: true when it is right, and shown as its message."""

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.message


def check(name: str, answer: Any) -> Feedback:
    """Say whether `answer` is right, or which mistake may have been made.

    Parameters
    ----------
    name
        Label of the exercise, as on its page.
    answer
        A number, a list or array of numbers, one of the words offered, or a list of them; what
        the exercise asks for.  Three dots for no answer yet.  Of an option, words that occur in
        no other option are enough.

    Returns
    -------
    Feedback
        True or false, and a sentence.  Nothing is raised.

    Examples
    --------
    >>> check("ex-alps-null", ...)
    No answer yet: put yours in the place of the three dots.
    >>> check("ex-alps-null", "one")
    Not yet: a number is asked for, and this is of type str.
    >>> check("ex-alps-nul", 1)
    There is no exercise 'ex-alps-nul'. Do you mean 'ex-alps-null'?
    """
    entries = answers()
    entry = entries.get(str(name))
    if entry is None:
        close = difflib.get_close_matches(str(name), list(entries), n=1)
        question = f" Do you mean {close[0]!r}?" if close else ""
        return Feedback(False, f"There is no exercise {name!r}.{question}")
    if answer is None or answer is ...:
        return Feedback(False, "No answer yet: put yours in the place of the three dots.")
    return (_check_choice if "options" in entry else _check_numbers)(entry, answer)


@functools.cache
def answers() -> dict[str, dict[str, Any]]:
    """Read the answers of all chapters, by the label of their exercise."""
    folder = resources.files("pvsbook_book").joinpath("answers")
    entries: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yml"):
            entries |= yaml.safe_load(file.read_text(encoding="utf-8"))
    return entries


def _words(text: object) -> str:
    return " ".join(str(text).casefold().split()).strip(".")


def _find_option(answer: object, options: Iterable[str]) -> str | None:
    """Find the option that is meant: its words, or some that no other option has."""
    words = _words(answer)
    if words in options:
        return words
    if len(words) < 3:
        return None
    pattern = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
    matches = [option for option in options if pattern.search(option)]
    return matches[0] if len(matches) == 1 else None


def _check_choice(entry: Mapping[str, Any], answer: Any) -> Feedback:
    options = {_words(option): str(option) for option in entry["options"]}
    right = {_words(option) for option in np.atleast_1d(np.asarray(entry["answer"], object))}
    is_list = isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping)
    chosen = []
    for item in answer if is_list else [answer]:
        option = _find_option(item, options)
        if option is None:
            offered = ", ".join(repr(o) for o in options.values())
            return Feedback(False, f"{item!r} is not one of the answers offered: {offered}.")
        chosen.append(option)
    if not chosen:
        return Feedback(False, "Not yet: the list is empty.")
    if set(chosen) == right:
        return Feedback(True, "Right.")
    if set(chosen) < right:
        return Feedback(False, "What you named is right, and something is missing.")
    wrong = next(option for option in chosen if option not in right)
    why = {_words(option): text for option, text in entry.get("why", {}).items()}
    hint = why.get(wrong, "think again, or open the hint.")
    return Feedback(False, f"Not {options[wrong]!r}: {hint}")


def _check_numbers(entry: Mapping[str, Any], answer: Any) -> Feedback:
    right = np.asarray(entry["answer"], float)
    asked = f"{right.size} numbers are asked for" if right.ndim else "a number is asked for"
    try:
        if np.asarray(answer).dtype.kind not in "iufUO" or isinstance(answer, bool | bytes | dict):
            raise TypeError
        values = np.asarray(answer, float)
    except (TypeError, ValueError, OverflowError):
        kind = type(answer).__name__
        return Feedback(False, f"Not yet: {asked}, and this is of type {kind}.")
    if values.shape != right.shape:
        shape = " x ".join(map(str, values.shape))
        kind = f"a list of {shape}" if shape else "one number"
        return Feedback(False, f"Not yet: {asked}, and this is {kind}.")
    if not np.isfinite(values).all():
        return Feedback(False, "Not yet: there is a value that is not finite.")
    if _near(values, right, entry.get("tolerance", 0)).all():
        return Feedback(True, f"Right ({_precision(entry)}).")
    return Feedback(False, f"Not yet: {_name_mistake(entry, values, right)}")


def _name_mistake(entry: Mapping[str, Any], values: Any, right: Any) -> str:
    tolerance = entry.get("tolerance", 0)
    for wrong, sentence in entry.get("mistakes", {}).items():
        if not right.ndim and _near(values, wrong, max(tolerance, abs(wrong) * 0.005)):
            return sentence
    if tolerance and _near(values, right, 2 * tolerance).all():
        return f"close, but not {_precision(entry)}."
    if right.size > 1 and _near(values[::-1], right, tolerance).all():
        return "look at the order of the numbers."
    is_wide = tolerance > _NARROW * np.abs(right).min()
    at_unit = f": look at the unit, {entry['unit']}" if entry.get("unit") else ""
    for sentence, mends in _MISTAKES.items():
        for mend in () if is_wide and sentence in _NARROW_ONLY else mends:
            with np.errstate(all="ignore"):
                mended = mend(values)
            if _near(mended, right, tolerance).all():
                return sentence.format(at_unit=at_unit)
    hits = np.flatnonzero(_near(values, right, tolerance))
    if hits.size:
        places = ", ".join(str(k + 1) for k in hits)
        return f"of {right.size} numbers, right are number {places}."
    return f"the answer is wanted {_precision(entry)}. There is a hint."


def _precision(entry: Mapping[str, Any]) -> str:
    tolerance, unit = entry.get("tolerance", 0), entry.get("unit")
    return (f"within {tolerance:g}" + (f" {unit}" if unit else "")) if tolerance else "exactly"


def _near(values: Any, right: Any, tolerance: float) -> Any:
    """Tell which values lie within the tolerance, give or take the last digit of a float."""
    with np.errstate(invalid="ignore"):
        return np.abs(values - right) <= tolerance + 1e-9 * np.maximum(np.abs(right), 1)
