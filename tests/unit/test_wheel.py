"""What is shipped is what is tested: the wheel, outside of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "pvsbook",
         "book/pvsbook_book", "data_manifest", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", folder, source],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def call(wheel, tmp_path_factory):
    """Run the command of the unpacked wheel, in an empty folder."""
    top = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(top / "lib")
    (top / "work").mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PVSBOOK")}

    def run(*arguments: str, code: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        what = ["-c", code] if code else ["-m", "pvsbook", *arguments]
        return subprocess.run(
            [sys.executable, *what],
            cwd=top / "work",
            env=kept
            | {
                "PYTHONPATH": str(top / "lib"),
                "PVSBOOK_DATA": str(top / "cache"),
                "PVSBOOK_OFFLINE": "1",
            }
            | more,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = find_packages(str(ROOT), include=["pvsbook*"])
    found += find_packages(str(ROOT / "book"), include=["pvsbook_book*"])
    assert sorted(listed) == sorted([*found, "pvsbook.data_manifest"])


def test_the_wheel_carries_what_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    book = ROOT / "book"
    for top, pattern, inside in (
        (ROOT, "data_manifest/*.yml", "pvsbook/"),
        (ROOT, "pvsbook/templates/*.html", ""),
        (book, "pvsbook_book/answers/*.yml", ""),
        (book, "pvsbook_book/templates/*.html", ""),
        (book, "pvsbook_book/studies/tables/*", ""),
    ):
        paths = sorted(top.glob(pattern))
        assert paths
        assert {f"{inside}{path.relative_to(top).as_posix()}" for path in paths} <= names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"pvsbook", "pvsbook_book"}


def test_the_installed_command_works_away_from_the_repository(call):
    where = call(code="import pvsbook; print(pvsbook.__file__)").stdout
    assert str(ROOT) not in where
    listed = call("data", "list")
    assert listed.returncode == 0, listed.stderr
    assert "ds000221" in listed.stdout
    assert "10.18112" in call("data", "cite", "ds000221").stdout
    assert call("--help").returncode == 0
    looked = call("doctor")
    assert looked.returncode == 0, looked.stderr
    for words in ("16 data sets", "no notebooks here: rerun takes them from a copy", "nothing"):
        assert words in " ".join(looked.stdout.split())
    code = "from pvsbook.atlas import deep_grey; deep_grey.tian()"
    assert "PVSBOOK_OFFLINE" in call(code=code).stderr, "the atlas is known, and not downloaded"


def test_the_installed_command_fetches_what_its_manifest_names(call, tmp_path):
    """From a mirror, offline: the file is so small that its bytes can stand here."""
    file = "sub-01/dwi/sub-01_run-02_dwi.bval"
    (tmp_path / "ds005713" / file).parent.mkdir(parents=True)
    (tmp_path / "ds005713" / file).write_bytes(b"0 \n")
    done = call("data", "fetch", "ds005713", "--file", file, PVSBOOK_MIRROR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert file in done.stdout
    other = call("data", "fetch", "ds005713", "--file", file.replace("02", "03"))
    assert other.returncode == 2
    assert "PVSBOOK_OFFLINE" in other.stderr
