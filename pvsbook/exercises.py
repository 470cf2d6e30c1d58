"""Tell readers whether their answer to an exercise of the book is right, without showing it.

``check("ex-alps-null", 1.02)`` gives a `Verdict` that says *right*, or what may have gone wrong: a
sign, a factor of a thousand, degrees for radians, the reverse order.  It never raises.

The answers lie sealed in ``answers.json``.  A number is cut into bins twice as wide as its
tolerance, laid so that the answer is in the middle of one; stored is a salted hash of that bin's
number, so that an answer is right when it falls into the bin.  Slips are found by asking the same
of the answer times 1000, with the other sign, and so on.  A choice is stored as a salted hash of
its words.  That hides an answer from the eye, not from somebody who tries every number.

Each solution of the book ends in ``assert check(...)``, so an answer that the page no longer
reaches fails the build.  To write a new one, put what `seal` gives into ``answers.json``.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from pvsbook._errors import InputError

__all__ = ["Verdict", "check", "seal"]

_SLIPS: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("the size is right, the sign is not", lambda x: -x),
    ("1000 times too large{unit}", lambda x: x / 1000),
    ("1000 times too small{unit}", lambda x: x * 1000),
    ("100 times too large: a share, not per cent?", lambda x: x / 100),
    ("100 times too small: per cent, not a share?", lambda x: x * 100),
    ("10 times too large{unit}", lambda x: x / 10),
    ("10 times too small{unit}", lambda x: x * 10),
    ("twice too large", lambda x: x / 2),
    ("half of what it should be", lambda x: x * 2),
    ("upside down: the ratio the other way round", lambda x: 1 / x),
    ("the square of what it should be: a variance for a standard deviation?", math.sqrt),
    ("the root of what it should be: a standard deviation for a variance?", lambda x: x * x),
    ("in degrees, where radians are asked for", math.radians),
    ("in radians, where degrees are asked for", math.degrees),
    ("too large by 2 pi: radians for turns?", lambda x: x / (2 * math.pi)),
    ("too small by 2 pi: turns for radians?", lambda x: x * (2 * math.pi)),
)


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
    """Say whether `answer` is right, or what may have gone wrong.

    Parameters
    ----------
    name
        Label of the exercise, as on its page.
    answer
        A number, a list or array of numbers, one of the words offered, or a list of them; what
        the exercise asks for.  Three dots for no answer yet.

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
    return _judge(name, entry, answer)


def seal(
    name: str,
    answer: Any,
    *,
    tolerance: float = 0.0,
    unit: str = "",
    options: Sequence[str] = (),
    why: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make the entry of ``answers.json`` for an exercise.

    Parameters
    ----------
    name
        Label of the exercise; it salts the hash.
    answer
        The right number, list of numbers, option, or list of options (in any order).
    tolerance
        How far a number may lie from the answer; 0 for whole numbers.  Widen it where the answer
        hangs on noise.
    unit
        Of the numbers, for the reader.
    options
        The words to choose from; none where numbers are asked for.
    why
        What to tell readers who chose a wrong option.

    Returns
    -------
    dict
        Ready for JSON.

    Raises
    ------
    InputError
        An answer that is not among the options, or a tolerance so wide that the entry would
        give the answer away.

    Examples
    --------
    >>> entry = seal("ex-width", 2.5, tolerance=0.1, unit="mm")
    >>> entry["step"], entry["unit"]
    (0.2, 'mm')
    """
    if options:
        right = {_word(a) for a in np.atleast_1d(np.asarray(answer, object))}
        if missing := right - {_word(o) for o in options}:
            raise InputError(f"answer: {sorted(missing)} not among the options {list(options)}")
        return {
            "options": list(options),
            "seals": sorted(_hash(name, word) for word in right),
            "why": {_hash(name, _word(option)): text for option, text in (why or {}).items()},
        }
    values = np.asarray(answer, float)
    if tolerance < 0 or (tolerance and np.abs(values).min() < 4 * tolerance):
        raise InputError(
            f"tolerance: {tolerance:g} for an answer of {np.abs(values).min():g} would show the "
            "answer; give at most a quarter of it, or ask for a choice"
        )
    step = 2.0 * tolerance or 1.0
    offsets = np.round(values % step, 12) if tolerance else np.zeros(values.shape)
    bins = np.rint((values - offsets) / step).astype(int)
    return {
        "shape": list(values.shape),
        "step": step,
        "whole": not tolerance,
        "unit": unit,
        "offsets": offsets.ravel().tolist(),
        "seals": [_hash(name, k, n) for k, n in enumerate(bins.ravel())],
    }


@functools.cache
def _answers() -> dict[str, dict[str, Any]]:
    text = resources.files("pvsbook").joinpath("answers.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _hash(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def _word(answer: object) -> str:
    return " ".join(str(answer).casefold().split()).strip(".")


def _judge(name: str, entry: Mapping[str, Any], answer: Any) -> Verdict:
    if answer is None or answer is ...:
        return Verdict(False, "No answer yet: put yours in the place of the three dots.")
    return (_choice if "options" in entry else _number)(name, entry, answer)


def _choice(name: str, entry: Mapping[str, Any], answer: Any) -> Verdict:
    options = {_word(option): option for option in entry["options"]}
    given = list(answer) if isinstance(answer, list | tuple | set | np.ndarray) else [answer]
    for one in given:
        if _word(one) not in options:
            offered = ", ".join(repr(o) for o in options.values())
            return Verdict(False, f"{one!r} is not one of the answers offered: {offered}.")
    hashes = {_hash(name, _word(one)) for one in given}
    right = set(entry["seals"])
    if hashes == right:
        return Verdict(True, "Right.")
    if hashes < right:
        return Verdict(False, "What you named is right, and something is missing.")
    wrong = next(one for one in given if _hash(name, _word(one)) not in right)
    why = entry["why"].get(_hash(name, _word(wrong)), "think again, or open the hint.")
    return Verdict(False, f"Not {options[_word(wrong)]!r}: {why}")


def _number(name: str, entry: Mapping[str, Any], answer: Any) -> Verdict:
    shape = tuple(entry["shape"])
    wanted = "a number" if not shape else f"{' x '.join(map(str, shape))} numbers"
    verb = "is" if not shape else "are"
    unit = f" {entry['unit']}" if entry["unit"] else ""
    try:
        if np.asarray(answer).dtype.kind not in "iuf":
            raise TypeError
        values = np.asarray(answer, float)
    except (TypeError, ValueError):
        kind = type(answer).__name__
        return Verdict(False, f"Not yet: {wanted} {verb} asked for, and this is of type {kind}.")
    if values.shape != shape:
        got = f"a list of {' x '.join(map(str, values.shape))}" if values.shape else "one number"
        return Verdict(False, f"Not yet: {wanted} {verb} asked for, and this is {got}.")
    if not np.isfinite(values).all():
        return Verdict(False, "Not yet: there is a value that is not finite.")
    flat = values.ravel()
    within = "exactly" if entry["whole"] else f"within {entry['step'] / 2:g}{unit}"
    hits = _hits(name, entry, flat)
    if hits.all():
        return Verdict(True, f"Right ({within}).")
    if (hits | _hits(name, entry, flat, near=True)).all():
        far = "off by one" if entry["whole"] else f"close, but not {within}"
        return Verdict(False, f"Not yet: {far}.")
    for words, mend in _SLIPS:
        mended = [_try(mend, value) for value in flat]
        if _hits(name, entry, np.array(mended)).all():
            told = words.format(unit=f": look at the unit,{unit}" if unit else "")
            return Verdict(False, f"Not yet: {told}.")
    if flat.size > 1 and _hits(name, entry, flat[::-1]).all():
        return Verdict(False, "Not yet: these are the right numbers in the reverse order.")
    if hits.any():
        found = ", ".join(str(k + 1) for k in np.flatnonzero(hits))
        return Verdict(False, f"Not yet: of {flat.size} numbers, right are number {found}.")
    return Verdict(False, f"Not yet: it should be right {within}. There is a hint.")


def _hits(
    name: str, entry: Mapping[str, Any], values: np.ndarray, *, near: bool = False
) -> np.ndarray:
    """Tell which values fall into their bin, or into one beside it."""
    with np.errstate(all="ignore"):
        places = (values - entry["offsets"]) / entry["step"]
        if entry["whole"]:
            places = np.where(np.abs(values - np.rint(values)) < 1e-6, places, np.nan)
    found = []
    for k, (place, sealed) in enumerate(zip(places, entry["seals"], strict=True)):
        if not np.isfinite(place):
            found.append(False)
            continue
        middle = round(float(place))
        bins = (middle - 1, middle + 1) if near else (middle,)
        found.append(any(_hash(name, k, n) == sealed for n in bins))
    return np.array(found)


def _try(mend: Callable[[float], float], value: float) -> float:
    try:
        return float(mend(float(value)))
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan
