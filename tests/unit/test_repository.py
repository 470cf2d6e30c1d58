"""What holds for the repository as a whole."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SPOKEN_OF_ELSEWHERE = {"pvsbook", "pvsbook.cli"}  # the package itself; book/command_line.md


def test_the_lock_pins_every_declared_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = list(project["dependencies"])
    for extra in ("book", "test", "dev"):
        declared += project["optional-dependencies"][extra]
    locked = {}
    lines = (ROOT / "requirements.txt").read_text().replace("\\\n", "").splitlines()
    for line in lines:
        pin, *hashes = line.split(" --hash=")
        requirement = Requirement(pin)
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), f"{pin} is not pinned"
        assert hashes, f"{pin} has no hash; run: make lock"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes), pin
        name = canonicalize_name(requirement.name)
        locked[name] = str(requirement.specifier).removeprefix("==")
    for line in declared:
        wanted = Requirement(line)
        version = locked.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not in requirements.txt; run: make lock"
        assert version in wanted.specifier, f"{wanted.name} {version} is not {wanted.specifier}"


def test_every_action_is_pinned_to_a_commit():
    """A tag of somebody else's repository can be moved; a commit cannot."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert yaml.safe_load(path.read_text())["jobs"]
        for used in re.findall(r"uses: (.*)", path.read_text()):
            pinned = re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v[\d.]+", used)
            assert pinned, f"{path.name}: {used} has no commit, or no version behind it"


def test_every_notebook_and_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text()))
    pages = {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md") if "LICENSE" not in p.name}
    pages |= {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert listed == pages


def test_the_api_pages_document_every_public_module():
    pages = "".join(p.read_text() for p in (ROOT / "book").glob("api_*.md"))
    package, book = ROOT / "pvsbook", ROOT / "book" / "pvsbook_book"
    for path in (*package.rglob("*.py"), *book.rglob("*.py")):
        top = ROOT if path.is_relative_to(package) else ROOT / "book"
        module = ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")
        private = any(part.startswith("_") for part in module.split("."))
        if "__all__ = [" in path.read_text() and not private and module not in SPOKEN_OF_ELSEWHERE:
            assert f"automodule:: {module}\n" in pages, f"book/api_*.md lack {module}"


def test_contributing_and_readme_name_the_modules_of_the_layers():
    """The contract that `make check` holds is the one that contributors read."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    layers = [
        {name.strip().removeprefix("pvsbook.") for name in layer.split("|")}
        for layer in tools["importlinter"]["contracts"][0]["layers"]
    ]
    public = [layer for layer in layers if not any(name.startswith("_") for name in layer)]
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| layer | holds |\n|---|---|\n")[2]
    rows = table.partition("\n\n")[0].splitlines()
    assert [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows] == public
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in set().union(*public) if name not in readme]
    assert not missing, f"README.md: 'What is where' lacks {', '.join(missing)}"


def test_the_first_screen_of_the_readme_has_the_two_commands():
    top = (ROOT / "README.md").read_text().splitlines()[:20]
    assert any("make book" in line for line in top)
    assert any("make test" in line for line in top)


def test_manifest_and_citation_parse():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["cff-version"] == "1.2.0"
    for path in (ROOT / "data_manifest").iterdir():
        assert path.suffix == ".yml"


FOLDERS = ("pvsbook", "tests", "benchmarks", "book", "notebooks", "tools")


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_left_for_later(folder):
    words = re.compile(r"\b(?:TO" + "DO|FIX" + "ME)\\b|raise NotImplemented" + "Error")
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".py", ".md", ".ipynb"):
            assert not words.search(path.read_text(encoding="utf-8")), path
