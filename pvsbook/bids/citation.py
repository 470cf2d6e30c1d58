"""A paragraph on methods with its references, made from what was run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import pandas as pd

from pvsbook._version import __version__
from pvsbook.bids._series import COUNTED, of_several
from pvsbook.method import Method

__all__ = ["methods_text"]

LIBRARIES = ("numpy", "scipy", "nibabel", "dipy", "scikit-image")
Part = tuple[Method, Mapping[str, Any], pd.DataFrame]


def methods_text(parts: Iterable[Part]) -> tuple[str, str]:
    """Write the paragraph that a paper's section on methods needs, and its references.

    Parameters
    ----------
    parts
        For each method its options and the rows of what was measured: as `Result.to_row` has
        them, or the table of a group with the column ``outcome``.

    Returns
    -------
    text, references
        Markdown, a paragraph a method, with ``[@key]`` for a reference; and the BibTeX of these.

    Examples
    --------
    >>> from pvsbook.methods import by_name
    >>> alps = by_name("alps")
    >>> row = {"b_s_mm2": 1000, "n_directions": 30, "pitch_deg": 4.0, "status": "pass"}
    >>> text, references = methods_text([(alps, alps.defaults, pd.DataFrame([row]))])
    >>> "30 directions at 1000 s/mm2" in text, "@article{taoka2017" in references
    (True, True)
    """
    paragraphs = []
    for method, options, table in parts:
        if method.prose is None:
            continue
        counts = table[table[COUNTED]] if COUNTED in table else table
        done = counts[counts["outcome"] == "done"] if "outcome" in counts else counts
        if len(done):
            words = method.prose({**method.defaults, **options}, done)
            several = of_several(table, method)
            paragraphs.append(
                f"{words}{several}{' ' * bool(several)}{_quality(done, len(counts))}"
            )
    made = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    paragraphs.append(f"Everything was measured with pvsbook {__version__} ({made}).")
    text = "\n\n".join(paragraphs) + "\n"
    return text, _references(re.findall(r"\[@(\w+)\]", text))


def _quality(done: pd.DataFrame, n: int) -> str:
    """Say how many scans passed; who was left out has to be said by the authors."""
    count = {status: int((done["status"] == status).sum()) for status in ("pass", "warn", "fail")}
    left = f", and {n - len(done)} of {n} could not be measured" if n > len(done) else ""
    return (
        f"Of {len(done)} {'scan' if len(done) == 1 else 'scans'}, {count['pass']} passed the "
        f"checks of quality, {count['warn']} passed with warnings and {count['fail']} failed"
        f"{left}."
    )


def _references(keys: Iterable[str]) -> str:
    """Return the BibTeX entries of some keys, in the order of the file."""
    text = files("pvsbook").joinpath("templates", "references.bib").read_text("utf-8")
    wanted = set(keys)
    entries = re.findall(r"(@\w+\{(\w+),.*?\n\}\n)", text, flags=re.S)
    return "\n".join(entry for entry, key in entries if key in wanted)
