"""Tell readers whether their answer to an exercise of the book is right, without showing it.

``check("ex-alps-null", 1.02)`` gives a `Verdict` that says *right*, or what kind of slip may have
been made: a sign, a unit, degrees for radians, the reverse order.  It never raises, and its
message is never the answer: it does not say which way a factor goes.

The answers stand in ``answers/``, one YAML file per chapter.  An entry has ``answer`` (a number,
a list of numbers, one of the ``options``, or a list of them) and for numbers ``tolerance`` and
``unit``, for choices ``options`` and ``why`` (what to tell readers who choose a wrong one).
``slips`` maps known wrong numbers to the sentence that explains them.  Each solution of the book
ends in ``assert check(...)``, so an answer that the page no longer reaches fails the build.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import yaml

__all__ = ["Verdict", "check"]

# What a wrong number may have in common with the right one.  Some are asked for only where the
# tolerance is narrow, since a wide one is hit by chance.
_SLIPS: tuple[tuple[str, bool, tuple[Callable[[float], float], ...]], ...] = (
    ("look at the sign", False, (lambda x: -x,)),
    ("a factor of 1000 is off{unit}", False, (lambda x: x / 1000, lambda x: x * 1000)),
    ("a factor of 100 is off: a share or a percentage?", False,
     (lambda x: x / 100, lambda x: x * 100)),
    ("a factor of 10 is off{unit}", False, (lambda x: x / 10, lambda x: x * 10)),
    ("a factor of 2 is off", True, (lambda x: x / 2, lambda x: x * 2)),
    ("which quantity is divided by which?", True, (lambda x: 1 / x,)),
    ("a variance or a standard deviation?", True, (math.sqrt, lambda x: x * x)),
    ("degrees or radians?", False, (math.radians, math.degrees)),
    ("turns or radians?", False, (lambda x: x / math.tau, lambda x: x * math.tau)),
)  # fmt: skip
_NARROW = 0.1  # tolerance as a share of the answer


@dataclass(frozen=True, repr=False)
class Verdict:
    """What `check` found: true when the answer is right, and shown as its message."""

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.message


def check(name: str, answer: Any) -> Verdict:
    """Say whether `answer` is right, or what kind of slip may have been made.

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
    Verdict
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
    entry = _answers().get(str(name))
    if entry is None:
        close = difflib.get_close_matches(str(name), list(_answers()), n=1)
        return Verdict(
            False,
            f"There is no exercise {name!r}." + (f" Do you mean {close[0]!r}?" if close else ""),
        )
    if answer is None or answer is ...:
        return Verdict(False, "No answer yet: put yours in the place of the three dots.")
    return (_choice if "options" in entry else _number)(entry, answer)


@functools.cache
def _answers() -> dict[str, dict[str, Any]]:
    folder = resources.files("pvsbook_book").joinpath("answers")
    known: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yml"):
            known |= yaml.safe_load(file.read_text(encoding="utf-8"))
    return known


def _words(text: object) -> str:
    return " ".join(str(text).casefold().split()).strip(".")


def _option(given: object, options: Mapping[str, str]) -> str | None:
    """Find the option that is meant: its words, or some that no other option has."""
    words = _words(given)
    if words in options:
        return words
    if len(words) < 3:
        return None
    pattern = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
    matches = [option for option in options if pattern.search(option)]
    return matches[0] if len(matches) == 1 else None


def _choice(entry: Mapping[str, Any], answer: Any) -> Verdict:
    options = {_words(option): str(option) for option in entry["options"]}
    right = {_words(one) for one in np.atleast_1d(np.asarray(entry["answer"], object))}
    is_list = isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping)
    given = list(answer) if is_list else [answer]
    if not given:
        return Verdict(False, "Not yet: the list is empty.")
    chosen = []
    for one in given:
        option = _option(one, options)
        if option is None:
            offered = ", ".join(repr(o) for o in options.values())
            return Verdict(False, f"{one!r} is not one of the answers offered: {offered}.")
        chosen.append(option)
    if set(chosen) == right:
        return Verdict(True, "Right.")
    if set(chosen) < right:
        return Verdict(False, "What you named is right, and something is missing.")
    wrong = next(option for option in chosen if option not in right)
    why = {_words(option): text for option, text in entry.get("why", {}).items()}
    return Verdict(
        False, f"Not {options[wrong]!r}: {why.get(wrong, 'think again, or open the hint.')}"
    )


def _number(entry: Mapping[str, Any], answer: Any) -> Verdict:
    target = np.asarray(entry["answer"], float)
    shape = target.shape
    wanted = "a number" if not shape else f"{' x '.join(map(str, shape))} numbers"
    verb = "is" if not shape else "are"
    unit = f" {entry['unit']}" if entry.get("unit") else ""
    try:
        if np.asarray(answer).dtype.kind not in "iufUO" or isinstance(answer, bool | bytes | dict):
            raise TypeError
        values = np.asarray(answer, float)
    except (TypeError, ValueError, OverflowError):
        kind = type(answer).__name__
        return Verdict(False, f"Not yet: {wanted} {verb} asked for, and this is of type {kind}.")
    if values.shape != shape:
        got = f"a list of {' x '.join(map(str, values.shape))}" if values.shape else "one number"
        return Verdict(False, f"Not yet: {wanted} {verb} asked for, and this is {got}.")
    if not np.isfinite(values).all():
        return Verdict(False, "Not yet: there is a value that is not finite.")
    tolerance = float(entry.get("tolerance", 0))
    hits = _hits(values, target, tolerance)
    if hits.all():
        return Verdict(
            True, f"Right ({f'within {tolerance:g}{unit}' if tolerance else 'exactly'})."
        )
    for wrong, words in entry.get("slips", {}).items():
        if not shape and _hits(values, float(wrong), max(tolerance, abs(wrong) * 0.005)):
            return Verdict(False, f"Not yet: {words}")
    if tolerance and _hits(values, target, 2 * tolerance).all():
        return Verdict(False, f"Not yet: close, but not within {tolerance:g}{unit}.")
    if values.size > 1 and _hits(values.ravel()[::-1].reshape(shape), target, tolerance).all():
        return Verdict(False, "Not yet: look at the order of the numbers.")
    wide = tolerance > _NARROW * np.abs(target).min()
    at_unit = f": look at the unit,{unit}" if unit else ""
    for words, needs_narrow, mends in _SLIPS:
        if needs_narrow and wide:
            continue
        for mend in mends:
            mended = [_tried(mend, value) for value in values.ravel()]
            if _hits(np.reshape(mended, shape), target, tolerance).all():
                sentence = words.format(unit=at_unit)
                return Verdict(False, f"Not yet: {sentence}{'' if sentence[-1] == '?' else '.'}")
    if hits.any():
        places = ", ".join(str(k + 1) for k in np.flatnonzero(hits.ravel()))
        return Verdict(False, f"Not yet: of {values.size} numbers, right are number {places}.")
    within = f"within {tolerance:g}{unit}" if tolerance else "exactly"
    return Verdict(False, f"Not yet: the answer is wanted {within}. There is a hint.")


def _hits(values: Any, target: Any, tolerance: float) -> Any:
    """Tell which values lie within the tolerance, give or take the last digit of a float."""
    with np.errstate(invalid="ignore"):
        return np.abs(values - target) <= tolerance + 1e-9 * np.maximum(np.abs(target), 1)


def _tried(mend: Callable[[float], float], value: float) -> float:
    try:
        return mend(float(value))
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan
