"""What a machine may lack."""

from __future__ import annotations

import sys

import pytest

import pvsbook
from pvsbook import cli


@pytest.mark.parametrize(
    ("command", "code"), [("run . out participant", 64), ("simulate ms --out out", 2)]
)
def test_windows_is_refused_in_one_sentence(command, code, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(pvsbook, "jobs", raising=False)  # asked for, it is imported
    monkeypatch.delitem(sys.modules, "pvsbook.jobs", raising=False)
    for name in [n for n in sys.modules if n.startswith("pvsbook_book")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["pvsbook", *command.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "Windows Subsystem for Linux (WSL)" in sentence
