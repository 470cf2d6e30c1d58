"""The command line: what a user sees, and the exit code that a script sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pvsbook import cli

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would, with a wide terminal and no colours."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pvsbook", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command inside this process; give its exit code, output and error text."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pvsbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def test_version_and_help(call):
    assert call("--version")[:2] == (0, "pvsbook 0.1.0\n")
    for command in ((), ("data",), ("pvs",), ("alps",), ("qsm",), ("doctor",), ("simulate",)):
        code, out, _ = call(*command, "--help")
        assert code == 0
        assert "Usage: pvsbook" in out


def test_wrong_words_are_exit_code_2():
    done = run("nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_doctor_names_versions_and_cache(call, tmp_path, monkeypatch):
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path / "deep" / "cache"))
    code, out, _ = call("doctor")
    assert code == 0
    for words in ("numpy", "dipy", "memory", "deep", "nothing"):
        assert words in out


def test_doctor_shows_what_another_package_says_letter_by_letter(call, monkeypatch):
    hint = "no; pip install 'pvsbook[book]'"
    point = SimpleNamespace(name="rerun", load=lambda: lambda: hint)
    monkeypatch.setattr(
        cli, "entry_points", lambda group: [point] if group == "pvsbook.doctor" else []
    )
    assert hint in call("doctor")[1]


def test_our_fault_is_exit_code_1_and_no_traceback(call, monkeypatch):
    from pvsbook import manifest

    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(manifest, "datasets", broken)
    code, _, err = call("data", "list")
    assert code == 1
    assert "our fault" in err
    assert "Traceback" not in err
    monkeypatch.setenv("PVSBOOK_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["pvsbook", "data", "list"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_stopped_by_the_user(call, monkeypatch, heeds_interrupts):
    from pvsbook import manifest

    for number in (signal.SIGINT, signal.SIGTERM):
        monkeypatch.setattr(manifest, "datasets", lambda n=number: os.kill(os.getpid(), n))
        code, out, err = call("data", "list")
        assert (code, out) == (128 + number, "")
        assert err == "pvsbook: stopped; run the same command again to go on\n"


# --- data ------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A manifest of one small file and a mirror that holds it."""
    folder, held = tmp_path / "manifest", tmp_path / "mirror" / "tiny"
    folder.mkdir()
    held.mkdir(parents=True)
    (held / "a.txt").write_bytes(b"abc")
    (folder / "tiny.yml").write_text(
        "name: tiny\ntitle: Three letters\ndescription: For a test.\nlicence: CC0-1.0\n"
        "citation: Nobody 2026\nauthors: [Nobody]\nversion: '1'\nrepository: https://example.org\n"
        "files:\n  - path: a.txt\n    size: 3\n    url: https://example.org/a.txt\n    sha256: "
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
    )
    monkeypatch.setenv("PVSBOOK_MANIFEST", str(folder))
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PVSBOOK_MIRROR", str(tmp_path / "mirror"))
    return held


def test_list_fetch_verify_cite(call, mirror):
    assert "0/1" in call("data", "list")[1]
    code, out, _ = call("data", "fetch")
    assert code == 0
    assert "mirrored   a.txt" in out
    assert "1/1" in call("data", "list")[1]
    assert "tiny: 1 good, 0 not here" in call("data", "verify")[1]
    assert "cached     a.txt" in call("data", "fetch", "tiny", "--file", "*.txt")[1]
    assert "Nobody 2026" in call("data", "cite", "tiny")[1]


def test_a_flipped_byte_is_refused(call, mirror, tmp_path):
    (mirror / "a.txt").write_bytes(b"abd")
    code, _, err = call("data", "fetch")
    assert code == 2
    assert "a.txt" in err
    assert not list((tmp_path / "cache").rglob("a.txt"))


def test_a_spoilt_cache_is_named(call, mirror, tmp_path):
    call("data", "fetch")
    next((tmp_path / "cache").rglob("a.txt")).write_bytes(b"abd")
    code, _, err = call("data", "verify")
    assert code == 2
    assert "tiny/a.txt: sha256" in err


def test_fetch_without_name_or_mirror_asks_for_one(call, mirror, monkeypatch):
    monkeypatch.delenv("PVSBOOK_MIRROR")
    code, _, err = call("data", "fetch")
    assert code == 2
    assert "name one of: tiny" in err


# --- machines that lack something ----------------------------------------------------------------


def test_a_path_that_the_locale_cannot_spell_is_told(call):
    code, _, err = call("pvs", "scan\udcc3\udca9.nii.gz", "--out", "o")
    assert code == 2
    assert "LC_ALL=C.UTF-8" in err
    assert "scan" in err


def test_a_terminal_that_cannot_spell_gets_escapes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pvsbook", "pvs", "é.nii.gz", "--out", str(tmp_path / "é")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert "\\xe9.nii.gz: does not exist" in done.stderr


def test_numba_gets_a_folder_of_its_own_where_it_has_none(monkeypatch):
    from pvsbook import _environment

    monkeypatch.setenv("NUMBA_CACHE_DIR", "put back at the end")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    _environment.place_numba_cache()
    assert "NUMBA_CACHE_DIR" not in os.environ, "the package folder can be written"
    monkeypatch.setattr(os, "access", lambda *_: False)
    _environment.place_numba_cache()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0, "nobody else can put code there"
