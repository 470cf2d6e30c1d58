"""What a run says of itself: source data sets, activities, software, container and log."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import pytest
from test_methods import TOY

from pvsbook import InputError, __version__, derivatives, images, jobs, methods
from pvsbook.bids import _log, _provenance, app, inputs


@pytest.fixture
def toy(monkeypatch, tmp_path) -> Path:
    """A data set of two with a DOI, and a method that takes no time."""
    monkeypatch.setattr(methods, "ALL", (*methods.ALL, TOY))
    for label in ("a", "b"):
        cube = np.zeros((10, 10, 10), np.float32)
        cube[: 5 + (label == "b")] = 2
        path = tmp_path / f"bids/sub-{label}/anat/sub-{label}_FLAIR.nii.gz"
        images.save(images.make(cube, np.eye(4)), path)
    described = {"Name": "two", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.1/x.v2"}
    (tmp_path / "bids/dataset_description.json").write_text(json.dumps(described))
    return tmp_path


def run(top: Path, **options) -> dict[str, jobs.Record]:
    folder = inputs.find(top / "bids", methods=["toy"])
    settings = {"toy": options}
    records = app.run_participants(folder, top / "out", settings=settings, asked="pvsbook run x")
    return {record.name: record for record in records}


def read(top: Path, part: str) -> list[dict]:
    content = json.loads((top / f"out/prov/prov-suba/prov-suba_{part}.json").read_text())
    (objects,) = content.values()
    return objects


def test_a_sidecar_leads_to_its_activity_inputs_software_and_environment(toy):
    run(toy, threshold=0.5)
    sidecar = json.loads((toy / "out/sub-a/anat/sub-a_toy.json").read_text())
    (activity,) = read(toy, "act")
    assert sidecar["GeneratedBy"] == [activity["Id"]]
    scan = "bids:raw:sub-a/anat/sub-a_FLAIR.nii.gz"
    assert sidecar["Sources"] == [scan]
    words = shlex.split(activity["Command"])
    assert words[:2] == ["pvsbook", "toy"]
    assert scan in words
    assert words[-2:] == ["--threshold", "0.5"]
    assert activity["StartedAtTime"] <= activity["EndedAtTime"]
    (file,), (software,), (environment,) = (read(toy, part) for part in ("io", "soft", "env"))
    assert file["Id"] == scan
    assert file["Checksum"][0]["ChecksumValue"] in json.dumps(
        json.loads((toy / "out/sub-a/anat/sub-a_desc-sources_toy.json").read_text())
    )
    assert activity["AssociatedWith"] == [software["Id"]]
    assert activity["Used"] == [scan, environment["Id"]]
    assert (software["Label"], software["Version"]) == ("pvsbook", __version__)
    assert {"python", "numpy"} <= set(environment["Dependencies"])
    table = (toy / "out/prov/provenance.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in table] == ["provenance_id", "prov-suba", "prov-subb"]
    assert str(toy) not in "".join(p.read_text() for p in (toy / "out/prov").rglob("*.json"))


def test_what_an_earlier_run_did_keeps_its_times_and_a_new_option_has_a_new_activity(toy):
    run(toy, threshold=0.5)
    (before,) = read(toy, "act")
    assert run(toy, threshold=0.5)["sub-a_toy"].is_cached
    assert read(toy, "act") == [before]
    run(toy, threshold=1.0)
    (after,) = read(toy, "act")
    assert after["Id"] != before["Id"]


def test_provenance_of_the_user_is_refused_before_anything_is_measured(toy):
    mine = toy / "out/prov/provenance.tsv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"provenance\.tsv: is there, and is not as pvsbook"):
        run(toy)
    assert [p.name for p in (toy / "out").rglob("*")] == ["prov", "provenance.tsv"]


def test_names_of_data_sets(tmp_path):
    paths = [tmp_path / "a/x/sub-1/anat/sub-1_m.nii", tmp_path / "b/x/sub-1/anat/sub-1_n.nii"]
    names = _provenance.name_data_sets(tmp_path / "raw", map(str, paths))
    assert names == {
        tmp_path / "raw": "raw", tmp_path / "a/x": "x", tmp_path / "b/x": "x2"
    }  # fmt: skip
    outside = str(tmp_path / "atlas.nii")
    uris = _provenance.uris_of({"mask": [str(paths[1])], "atlas": [outside]}, names)
    assert uris["mask"] == {"sub-1_n.nii": "bids:x2:sub-1/anat/sub-1_n.nii"}
    assert uris["atlas"] == {"atlas.nii": "bids::prov#entity-atlas.nii"}


def test_commands_are_written_as_the_command_line_has_them(tmp_path):
    qsm = methods.by_name("qsm")
    options = {**qsm.defaults, "echo_times_s": [0.01, 0.02], "brain_mask": str(tmp_path / "m.nii"),
               "background_options": {"a": 1}, "real_imaginary": True}  # fmt: skip
    uris = {"magnitude": {"m1": "u1", "m2": "u2"}, "option brain_mask": {"m.nii": "bids:x:m.nii"}}
    words = _provenance._command(qsm, uris, options)
    assert words[:5] == ["pvsbook", "qsm", "--magnitude", "u1", "u2"]
    assert words[words.index("--echo-times") + 1] == "0.01,0.02"
    assert words[words.index("--brain-mask") + 1] == "bids:x:m.nii"
    assert words[words.index("--background-options") + 1] == '{"a": 1}'
    assert "--real-imaginary" in words
    assert str(tmp_path) not in " ".join(words)
    assert _provenance._words("--tidy", None, False) == ["--no-tidy"]
    assert _provenance._words("--real", "yes", "yes") == ["--real"]


# --- dataset_description.json ------------------------------------------------------------------


def described(top: Path, *sources: Path) -> dict:
    derivatives.describe(top, {path: path.name for path in sources})
    return json.loads((top / "dataset_description.json").read_text())


def test_source_data_sets_by_doi_address_and_relative_path(toy):
    plain, site = toy / "plain one", toy / "site"
    for path in (plain, site):
        path.mkdir()
    (site / "dataset_description.json").write_text(
        json.dumps({"Name": "s", "URL": "https://example.org/s", "DatasetVersion": "3"})
    )
    for _ in range(2):
        found = described(toy / "out", toy / "bids", plain, site)
    assert found["SourceDatasets"] == [
        {"DOI": "doi:10.1/x.v2", "URL": "https://doi.org/10.1/x.v2"},
        {"URL": "bids:plain one:."},
        {"URL": "https://example.org/s", "Version": "3"},
    ]
    assert found["DatasetLinks"]["plain one"] == "../plain%20one"
    assert str(toy) not in json.dumps(found)


def test_a_container_is_named_while_it_is_true(tmp_path, monkeypatch):
    assert "Container" not in described(tmp_path)["GeneratedBy"][0]
    monkeypatch.setenv("PVSBOOK_CONTAINER_TYPE", "docker")
    monkeypatch.setenv("PVSBOOK_CONTAINER_TAG", "pvsbook:0.1.0")
    monkeypatch.setenv("PVSBOOK_CONTAINER_URI", "")
    (maker,) = described(tmp_path)["GeneratedBy"]
    assert maker["Container"] == {"Type": "docker", "Tag": "pvsbook:0.1.0"}
    assert _provenance.environment()["Label"] == "pvsbook:0.1.0"
    monkeypatch.setenv("PVSBOOK_CONTAINER_URI", "docker://example.org/pvsbook")
    known = _provenance.environment()["AlternativeIdentifier"]
    assert known == ["docker://example.org/pvsbook"]
    monkeypatch.delenv("PVSBOOK_CONTAINER_TYPE")
    monkeypatch.delenv("PVSBOOK_CONTAINER_TAG")
    monkeypatch.delenv("PVSBOOK_CONTAINER_URI")
    assert "Container" not in described(tmp_path)["GeneratedBy"][0]


def test_the_address_of_the_code_is_that_of_the_package(tmp_path, monkeypatch):
    known = metadata("pvsbook")
    known["Project-URL"] = "Repository, https://example.org/pvsbook"
    monkeypatch.setattr(derivatives, "metadata", lambda name: known)
    assert described(tmp_path)["GeneratedBy"][0]["CodeURL"] == "https://example.org/pvsbook"


# --- the log -----------------------------------------------------------------------------------


def test_each_run_has_a_log_of_its_own_that_says_what_was_asked_and_how_it_ended(toy, monkeypatch):
    monkeypatch.setattr(_log.time, "strftime", lambda *_: "run-in-one-second")
    run(toy, threshold=0.5)
    run(toy, threshold=0.5)
    first, second = sorted((toy / "out/logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    text = first.read_text()
    assert f"pvsbook {__version__}, Python 3" in text
    assert "numpy " in text
    assert "asked: pvsbook run x" in text
    assert "'threshold': 0.5" in text
    assert "sub-a_toy done (" in text
    assert "ended after" in text.splitlines()[-1]
    assert text.endswith("s: 2 done\n")
    assert "sub-b_toy was done" in second.read_text()


def test_a_log_says_that_a_run_was_stopped(toy):
    folder = inputs.find(toy / "bids", methods=["toy"])
    steps = app.run_participants(folder, toy / "out")
    next(steps)
    steps.close()
    (log,) = (toy / "out/logs").iterdir()
    assert log.read_text().endswith("1 done; stopped, 1 scans before the end\n")
