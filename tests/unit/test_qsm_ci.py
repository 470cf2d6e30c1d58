"""The folders of benchmarks/qsm_ci keep the contract of QSM-CI."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from pvsbook.qsm import background, inversion
from pvsbook.qsm.dipole import dipole_field

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "benchmarks/qsm_ci"
# Stage: what it reads and writes, from the contract of QSM-CI (stages.yml).
STAGES = {
    "field-mapping": ({"phase", "magnitude", "mask", "params"}, "totalfield"),
    "bfr": ({"totalfield", "mask", "params"}, "localfield"),
    "dipole": ({"localfield", "mask", "params"}, "chimap"),
    "bfr+dipole": ({"totalfield", "mask", "params", "magnitude"}, "chimap"),
    "end-to-end": ({"phase", "magnitude", "mask", "params"}, "chimap"),
}
FOLDERS = sorted(p.parent for p in HERE.glob("*/algorithm.yml"))
SIZE, B0, TIMES_S = (1.5, 1.5, 2.0), np.array([0.0, 0.6, 0.8]), (0.004, 0.012, 0.020)
AFFINE = nib.affines.from_matvec(np.diag(SIZE), (-30, -40, 10))


@pytest.fixture(scope="module")
def phantom() -> dict[str, np.ndarray]:
    """A ball with two sources in a strong field from far outside, B0 oblique in the grid."""
    x, y, z = np.indices((36, 36, 30)) - np.array([18, 18, 15])[:, None, None, None]
    mask = (x * 1.5) ** 2 + (y * 1.5) ** 2 + (z * 2.0) ** 2 < 22**2
    chi = 0.1 * ((x + 4) ** 2 + y**2 + z**2 < 20) - 0.05 * ((x - 5) ** 2 + y**2 + z**2 < 16)
    local = dipole_field(chi.astype(np.float32), SIZE, B0)
    mm = [1.5 * x, 1.5 * y, 2.0 * z]
    outer = 20 * mm[0] - 12 * mm[2] + mm[0] ** 2 - mm[1] ** 2
    total = local + 15 * local[mask].std() / outer[mask].std() * outer
    omega = 2 * np.pi * 42.577 * 3.0
    phase = np.stack([np.angle(np.exp(1j * omega * t * total)) for t in TIMES_S], -1)
    magnitude = np.stack([100 * np.exp(-20 * t) * (0.1 + mask) for t in TIMES_S], -1)
    rng = np.random.default_rng(0)
    phase = np.angle(np.exp(1j * (phase + rng.normal(0, 0.01, phase.shape))))
    return {
        "mask": mask, "chimap": chi, "localfield": local, "totalfield": total, "phase": phase,
        "magnitude": magnitude + rng.normal(0, 0.1, magnitude.shape),
    }  # fmt: skip


def give(phantom: dict[str, np.ndarray], names: set[str], folder: Path) -> Path:
    """Write what a stage is given, and nothing else."""
    folder.mkdir()
    for name in names - {"params"}:
        image = nib.Nifti1Image(phantom[name].astype(np.float32), AFFINE)
        nib.save(image, folder / f"{name}.nii.gz")
    params = {"TE": TIMES_S, "B0": 3.0, "B0_dir": B0.tolist(), "voxel_size": SIZE}
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def run(monkeypatch, folder: Path, given: Path, out: Path) -> None:
    """Run what a folder's script runs, in this process."""
    monkeypatch.setattr(sys, "argv", ["recon.py", str(folder), str(given), str(out)])
    runpy.run_path(str(HERE / "_base/recon.py"), run_name="__main__")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_reads_and_writes_what_its_stage_names(folder, phantom, tmp_path, monkeypatch):
    about = yaml.safe_load((folder / "algorithm.yml").read_text())
    reads, writes = STAGES[about["stage"]]
    assert about["slug"] == folder.name
    assert set(about["inputs"]) <= reads
    given = give(phantom, set(about["inputs"]), tmp_path / "in")
    before = {p.name: p.read_bytes() for p in given.iterdir()}
    run(monkeypatch, folder, given, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{writes}.nii.gz"]
    assert before == {p.name: p.read_bytes() for p in given.iterdir()}
    image = nib.load(tmp_path / "out" / f"{writes}.nii.gz")
    assert image.shape == phantom["mask"].shape
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    found, mask = image.get_fdata(), phantom["mask"]
    assert np.isfinite(found).all()
    assert (found[~mask] == 0).all()
    deep = mask & (found != 0)
    # The right unit, sign and B0 direction: no more is asked of so small a ball.
    fit = np.polyfit(phantom[writes][deep], found[deep], 1)
    assert 0.3 < fit[0] < 1.5
    assert np.corrcoef(phantom[writes][deep], found[deep])[0, 1] > 0.7


def test_config_changes_the_result(phantom, tmp_path, monkeypatch):
    folder = HERE / "pvsbook-tkd"
    given = give(phantom, STAGES["dipole"][0], tmp_path / "in")
    maps = []
    for threshold in (None, 0.4):
        if threshold:
            (given / "config.json").write_text(json.dumps({"threshold": threshold}))
        out = tmp_path / f"out{threshold}"
        run(monkeypatch, folder, given, out)
        maps.append(nib.load(out / "chimap.nii.gz").get_fdata())
    assert maps[1].std() < 0.95 * maps[0].std()


def test_declared_parameters_are_the_defaults_of_the_package():
    for folder in FOLDERS:
        about = yaml.safe_load((folder / "algorithm.yml").read_text())
        function = getattr(background, about["algorithm"], None) or getattr(
            inversion, about["algorithm"], None
        )
        for parameter in about.get("parameters", []):
            known = inspect.signature(function).parameters[parameter["name"]]
            assert parameter["default"] == known.default, folder.name


def test_the_recipe_names_what_it_copies():
    """It is not built here; its instructions are read."""
    recipe = (HERE / "_base/Dockerfile").read_text()
    lines = [x for x in recipe.splitlines() if x and not x.startswith("#")]
    assert {x.split()[0] for x in lines} <= {"FROM", "ARG", "RUN", "COPY", "ENV"}
    assert lines[0].startswith("FROM python:3.12")
    copied = re.findall(r"^COPY (\S+) (\S+)$", recipe, re.M)
    assert copied == [("recon.py", "/opt/pvsbook/recon.py")]
    for folder in FOLDERS:
        script = (folder / "run.sh").read_text()
        assert copied[0][1] in script
        assert script == (FOLDERS[0] / "run.sh").read_text(), "one script, in each folder"
        assert os.access(folder / "run.sh", os.X_OK)


def test_the_script_runs_from_another_folder(phantom, tmp_path):
    given = give(phantom, STAGES["dipole"][0], tmp_path / "in")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    out = tmp_path / "out"
    subprocess.run(
        ["bash", str(HERE / "pvsbook-tkd/run.sh"), str(given), str(out)],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert (out / "chimap.nii.gz").is_file()


def test_alone_in_its_container_the_script_takes_the_baked_recon(tmp_path):
    alone = tmp_path / "algo"
    shutil.copytree(HERE / "pvsbook-tkd", alone)
    done = subprocess.run(
        ["bash", "-x", str(alone / "run.sh"), "/a", "/b"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert f"exec python3 /opt/pvsbook/recon.py {alone} /a /b" in done.stderr
