"""One version in the package, the citation and the changelog; a release that lacks nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import release

from pvsbook import InputError, __version__

ROOT = Path(__file__).resolve().parents[2]
FILES = ("CHANGELOG.md", "CITATION.cff", "pyproject.toml", "pvsbook/_version.py")


@pytest.fixture
def copy(tmp_path):
    """A copy of what a release reads, with an address."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write('\n[project.urls]\nRepository = "https://example.org/pvsbook"\n')
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_package_citation_and_changelog_have_one_version():
    assert release.find_faults() == []


def test_a_release_that_is_whole_has_no_faults(copy):
    assert release.find_faults(f"v{__version__}", copy) == []


def test_another_tag_is_told(copy):
    (fault,) = release.find_faults("v9.9.9", copy)
    assert "tag v9.9.9" in fault
    assert f"v{__version__}" in fault


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("CITATION.cff", f"version: {__version__}", "version: 9.9.9", "CITATION.cff: version 9.9"),
        ("CITATION.cff", 'date-released: "2', 'date-released: "1', "CITATION.cff: date-released"),
        ("CHANGELOG.md", f"## [{__version__}]", "## [9.9.9]", "CHANGELOG.md: no section"),
        ("pyproject.toml", "https://example.org/pvsbook", "", "[project.urls]"),
    ],
)
def test_what_a_release_lacks_is_one_sentence(copy, file, old, new, words):
    change(copy / file, old, new)
    (fault,) = release.find_faults(f"v{__version__}", copy)
    assert words in fault


def test_the_notes_are_the_section_of_the_version(copy):
    _, notes = release.read_notes(__version__, copy)
    assert notes.startswith("### ")
    assert "## [" not in notes
    with pytest.raises(InputError, match="no section"):
        release.read_notes("9.9.9", copy)


def test_the_command_prints_faults_and_returns_1(capsys):
    assert release.main(["v9.9.9"]) == 1
    assert "tag v9.9.9" in capsys.readouterr().err
    assert release.main([f"v{__version__}", "--notes"]) == 0
    assert capsys.readouterr().out.startswith("### ")
    assert release.main([]) == 2
