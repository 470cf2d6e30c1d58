"""The recipes of the images, and the descriptor of the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import boutiques_descriptor
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from pvsbook import __version__, derivatives

ROOT = Path(__file__).resolve().parents[2]
DOCKER = (ROOT / "containers/Dockerfile").read_text()
APPTAINER = (ROOT / "containers/apptainer.def").read_text()


def test_the_image_runs_without_root_and_starts_the_command():
    last = DOCKER.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.M)
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", last, re.M)[1]) == ["pvsbook", "run"]
    assert 'exec pvsbook run "$@"' in APPTAINER
    for label in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{label}=" in last
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert f'licenses="{licence}"' in last


def test_the_python_of_the_image_is_pinned_and_one_that_the_package_supports():
    version = re.search(r"^ARG BASE=python:(\d\.\d+)-slim-\w+$", DOCKER, re.M)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version in SpecifierSet(project["requires-python"])


def test_what_is_copied_exists_and_is_all_that_the_package_needs():
    copied = set(re.findall(r"^COPY (?!--)(.*) \S+$", DOCKER, re.M))
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {"pyproject.toml", *packaging["project"]["license-files"]} <= names
    assert set(packaging["tool"]["setuptools"]["package-dir"].values()) <= names


@pytest.mark.parametrize(("text", "kind"), [(DOCKER, "docker"), (APPTAINER, "apptainer")])
def test_an_image_says_what_it_is_under_the_names_that_results_read(text, kind, monkeypatch):
    for name, value in re.findall(r"(PVSBOOK_CONTAINER_\w+)=(\S+)", text):
        monkeypatch.setenv(name, value.replace("${TAG}", "t").replace("${URI}", ""))
    assert derivatives.container()["Type"] == kind


def test_the_release_builds_and_pushes_both_images():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    steps = " ".join(step.get("run", "") for step in jobs["images"]["steps"])
    for words in ("docker build", "containers/Dockerfile", "docker push", "apptainer build",
                  "containers/apptainer.def", "apptainer push"):  # fmt: skip
        assert words in steps
    assert jobs["images"]["permissions"]["packages"] == "write"


def bosh(*words: str) -> str:
    command = Path(sys.executable).with_name("bosh")
    if not command.is_file():
        pytest.skip("needs boutiques")
    ran = subprocess.run([command, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_descriptor_is_that_of_the_command():
    stored = json.loads(boutiques_descriptor.WHERE.read_text())
    again = "run: python tools/boutiques_descriptor.py"
    assert stored == boutiques_descriptor.descriptor(), again
    assert stored["tool-version"] == __version__


def test_the_descriptor_is_valid_and_makes_the_command(tmp_path):
    bosh("validate", str(boutiques_descriptor.WHERE))
    call = {"bids_dir": ".", "out_dir": "o", "level": "group", "participants": ["1", "2"]}
    (tmp_path / "call.json").write_text(json.dumps(call))
    where = (str(tmp_path / "call.json"), str(boutiques_descriptor.WHERE))
    command = bosh("exec", "simulate", "-i", *where)
    assert "pvsbook run . o group --participant-label 1 2" in command
