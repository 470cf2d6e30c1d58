"""Check that a release has one version everywhere, and print what changed in it.

.. code-block:: console

   $ python tools/release.py v0.2.0            # faults, one per line; exit code 1 if there are any
   $ python tools/release.py v0.2.0 --notes    # the section of CHANGELOG.md
"""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from pathlib import Path

import yaml

from pvsbook._errors import InputError

__all__ = ["find_faults", "read_notes"]

ROOT = Path(__file__).resolve().parents[1]


def read_notes(version: str, root: Path = ROOT) -> tuple[str, str]:
    """Return the date and the text of a version's section in CHANGELOG.md.

    Raises
    ------
    InputError
        It has no such section, or one without a date or without text.
    """
    text = (root / "CHANGELOG.md").read_text("utf-8")
    heading = rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)\n(.*?)(?=^## |\Z)"
    section = re.search(heading, text, flags=re.MULTILINE | re.DOTALL)
    if section is None or not section[2].strip():
        raise InputError(
            f"CHANGELOG.md: no section '## [{version}] - YYYY-MM-DD' with text; rename "
            "'## [Unreleased]' and begin a new one above it"
        )
    return section[1], section[2].strip() + "\n"


def find_faults(tag: str | None = None, root: Path = ROOT) -> list[str]:
    """List in what package, citation and changelog differ, and for a tag what a release lacks.

    Parameters
    ----------
    tag
        Name of the git tag, such as ``v0.2.0``; None checks a repository between releases.
    root
        Top of the repository.

    Returns
    -------
    list of str
        One sentence per fault; empty if there is none.
    """
    version = runpy.run_path(str(root / "pvsbook" / "_version.py"))["__version__"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    faults = []
    if str(citation["version"]) != version:
        faults.append(
            f"CITATION.cff: version {citation['version']}, but pvsbook/_version.py has {version}"
        )
    try:
        date, _ = read_notes(version, root)
    except InputError as error:
        faults.append(str(error))
    else:
        if date != str(citation["date-released"]):
            faults.append(
                f"CITATION.cff: date-released {citation['date-released']}, but CHANGELOG.md has "
                f"{date} for {version}"
            )
    if tag is None:
        return faults
    if tag != f"v{version}":
        faults.append(f"tag {tag}: pvsbook/_version.py has {version}, whose tag is v{version}")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    if not project.get("urls", {}).get("Repository", "").startswith("https://"):
        faults.append(
            "pyproject.toml: no address of the repository; set Repository under [project.urls], "
            "as RELEASING.md says, so that PyPI and the site lead to it"
        )
    return faults


def main(arguments: list[str]) -> int:
    """Print the notes or the faults of a tag; return the exit code."""
    if not arguments or arguments[1:] not in ([], ["--notes"]):
        print("use: python tools/release.py TAG [--notes]", file=sys.stderr)
        return 2
    if "--notes" in arguments:
        print(read_notes(arguments[0].removeprefix("v"))[1], end="")
        return 0
    faults = find_faults(arguments[0])
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
