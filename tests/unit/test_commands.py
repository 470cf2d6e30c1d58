"""From files through the command line to results on disk, for each method, on phantoms."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, bids, cli, images
from pvsbook.methods import by_name
from pvsbook.phantoms import brain, diffusion, gradient_echo, perivascular


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command inside this process; give its exit code, output and error text."""
    monkeypatch.setattr(sys, "argv", ["pvsbook", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def check_derivative(folder: Path, suffix: str, sources: list[str]) -> pd.Series:
    """Check what every method writes; return the row."""
    assert json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"]
    beside = ("desc-objects", "desc-references", "desc-nuclei", "desc-estimators")
    (table,) = (
        p for p in folder.rglob(f"*_{suffix}.tsv") if not any(name in p.name for name in beside)
    )
    columns = json.loads(table.with_suffix(".json").read_text())
    row = pd.read_csv(table, sep="\t").iloc[0]
    assert all(columns[name]["Description"] for name in row.index)
    assert columns["Sources"] == sources
    for path in folder.rglob("*.nii.gz"):
        assert np.isfinite(images.array(nib.load(path))).all()
        assert path.with_name(path.name.replace(".nii.gz", ".json")).is_file()
    (page,) = folder.rglob("*.html")
    text = page.read_text()
    assert "What this does not show" in text
    assert "data:image/png;base64" in text
    assert [p.name for p in folder.rglob(".*")] == [".bidsignore"], "a temporary file is left"
    return row


def write_dwi(folder: Path, scan: diffusion.DiffusionPhantom) -> list[Path]:
    """Write a simulated diffusion scan as a converter would."""
    files = [folder / f"sub-07_dwi.{e}" for e in ("nii.gz", "bval", "bvec")]
    images.save(scan.dwi.image, files[0])
    np.savetxt(files[1], scan.dwi.bvals_s_mm2[None], fmt="%g")
    np.savetxt(files[2], diffusion.fsl_bvecs(scan.dwi), fmt="%.8f")
    return files


@pytest.fixture(scope="module")
def dwi_files(tmp_path_factory) -> tuple[list[Path], float]:
    """A simulated diffusion scan and its true index."""
    grid = brain.make_brain(2.5, axcodes="LAS")
    scan = diffusion.make_diffusion(grid, rng=np.random.default_rng(7), snr=40)
    return write_dwi(tmp_path_factory.mktemp("dwi"), scan), scan.index


def test_alps(monkeypatch, capsys, tmp_path, dwi_files):
    (dwi, bval, bvec), truth = dwi_files
    code, out, err = run(
        monkeypatch, capsys, "alps", dwi, "--bval", bval, "--bvec", bvec, "--out", tmp_path
    )
    assert (code, err) == (0, "")
    assert "ALPS index" in out
    row = check_derivative(tmp_path, "alps", [p.name for p in (dwi, bval, bvec)])
    assert row["alps_tract_mean"] == pytest.approx(truth, abs=0.1)
    assert row["alps_tract_mean_low"] < row["alps_tract_mean"] < row["alps_tract_mean_high"]
    assert (tmp_path / "sub-07" / "dwi" / "sub-07_alps.tsv").is_file()


def test_alps_with_corrections_and_regions_by_hand(tmp_path):
    """The regions that one run wrote serve the next as regions drawn by hand."""
    rng = np.random.default_rng(17)
    grid = brain.make_brain(3.0, z_range_mni_mm=(0, 50))
    bvals, bvecs = diffusion.gradient_scheme(12, rng=rng)
    scan = diffusion.make_diffusion(grid, rng=rng, bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=40)
    inputs = dict(zip(("dwi", "bval", "bvec"), write_dwi(tmp_path, scan), strict=True))
    bids.measure_files(by_name("alps"), inputs, tmp_path / "a", rois="5mm")
    labels = next((tmp_path / "a").rglob("*desc-alps_dseg.nii.gz"))
    corrections = {"denoise": "patch2self", "gibbs": True, "motion": True}
    again = bids.measure_files(by_name("alps"), inputs, tmp_path / "b", rois=labels, **corrections)
    assert again.row["alps_tract_mean"] == pytest.approx(scan.index, abs=0.2)
    with pytest.raises(
        InputError, match=r"rois is .7mm.; choose from 2.5mm, 5mm, or give the path"
    ):
        bids.measure_files(by_name("alps"), inputs, tmp_path / "c", rois="7mm")


def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, dwi_files):
    (dwi, bval, bvec), _ = dwi_files
    code, _, err = run(
        monkeypatch, capsys, "alps", dwi, "--bval", bvec, "--bvec", bval, "--out", tmp_path / "o"
    )
    assert code == 2
    assert "swapped" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_pvs(monkeypatch, capsys, tmp_path):
    scan = perivascular.make_phantom(
        np.random.default_rng(9),
        voxel_size_mm=1.2,
        diameters_mm=(1.5, 3.0),
        n_wmh=3,
        axcodes="LPS",
    )
    image = images.save(scan.scans["T2w"], tmp_path / "in" / "sub-09_T2w.nii.gz")
    mask = images.save(scan.wmh, tmp_path / "in" / "sub-09_desc-wmh_mask.nii.gz")
    code, out, err = run(
        monkeypatch, capsys, "pvs", image, "--wmh-mask", mask, "--out", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    row = check_derivative(tmp_path / "out", "pvs", [image.name, mask.name])
    assert f"{row['n_pvs']} perivascular spaces" in out
    assert row["n_pvs"] == pytest.approx(len(scan.truth), abs=0.3 * len(scan.truth))


@pytest.fixture(scope="module")
def gre_files(tmp_path_factory) -> dict[str, list[Path]]:
    """A simulated gradient echo, phase as 12-bit integers, with BIDS sidecars."""
    folder = tmp_path_factory.mktemp("gre")
    gre = gradient_echo.make_gre(np.random.default_rng(8), voxel_size_mm=3).gre
    stored = np.round(gre.phase_rad * 2048 / np.pi).clip(-2048, 2047).astype(np.int16)
    files: dict[str, list[Path]] = {"mag": [], "phase": []}
    for echo, seconds in enumerate(gre.echo_times_s):
        for part, values in (("mag", gre.magnitude), ("phase", stored)):
            stem = f"sub-08_echo-{echo + 1}_part-{part}_MEGRE"
            path = images.save(
                images.make(values[..., echo], gre.affine), folder / f"{stem}.nii.gz"
            )
            meta = {"EchoTime": float(seconds), "MagneticFieldStrength": gre.field_strength_t}
            (folder / f"{stem}.json").write_text(json.dumps(meta))
            files[part].append(path)
    return files


def test_qsm(monkeypatch, capsys, tmp_path, gre_files):
    code, out, err = run(
        monkeypatch,
        capsys,
        "qsm",
        "--magnitude",
        *gre_files["mag"],
        "--phase",
        *gre_files["phase"],
        "--out",
        tmp_path,
    )
    assert (code, err) == (0, "")
    assert "12-bit integers" in out
    names = [p.name for p in (*gre_files["mag"], *gre_files["phase"])]
    row = check_derivative(tmp_path, "qsm", names)
    assert row["status"] in ("pass", "warn")
    assert 5 < row["chi_sd_ppb"] < 100


def test_qsm_relative_to_a_region(tmp_path, gre_files):
    inputs = {"magnitude": gre_files["mag"], "phase": gre_files["phase"]}
    steps = {"background": "vsharp", "inversion": "tkd"}
    first = bids.measure_files(by_name("qsm"), inputs, tmp_path / "a", **steps)
    mask = next((tmp_path / "a").rglob("*desc-chi_mask.nii.gz"))
    again = bids.measure_files(
        by_name("qsm"),
        inputs,
        tmp_path / "b",
        **steps,
        reference=mask,
        brain_mask=next((tmp_path / "a").rglob("*desc-brain_mask.nii.gz")),
    )
    assert again.row["reference"] != first.row["reference"]
    assert again.row["chi_mean_ppb"] == pytest.approx(0, abs=1e-3)


def test_another_scan_of_the_same_name_is_refused(monkeypatch, capsys, tmp_path):
    """Before anything is measured: both scans here are no scans."""
    out = tmp_path / "out"
    mine = out / "sub-1" / "anat" / "sub-1_desc-sources_pvs.json"
    mine.parent.mkdir(parents=True)
    mine.write_text('{"Sources": ["sub-1_T2w.nii.gz"], "SourceSHA256": ["of another file"]}')
    scan = tmp_path / "sub-1_T2w.nii.gz"
    scan.write_bytes(b"no scan")
    code, _, err = run(monkeypatch, capsys, "pvs", scan, "--out", out)
    assert code == 2
    assert "holds results of another scan under the name sub-1" in err


def test_the_sign_of_the_phase_can_be_turned(monkeypatch, capsys, tmp_path):
    signs = []

    def measured(*_, **options):
        signs.append(options["phase_sign"])
        return bids.Done("", "pass", (), {}, Path("page.html"))

    monkeypatch.setattr("pvsbook.bids.measure.measure_files", measured)
    words = ("qsm", "--magnitude", "m.nii", "--phase", "p.nii", "--out", tmp_path)
    for flag in ((), ("--flip-phase",)):
        assert run(monkeypatch, capsys, *words, *flag)[0] == 0
    assert signs == [1, -1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--echo-times", "5,ten"], "'5,ten' is not a list of numbers"),
        (["--echo-times", "5,10,15,20,25"], "look like milliseconds"),
        (["--field-strength", "300"], "300 T is not plausible"),
    ],
)
def test_qsm_bad_options(monkeypatch, capsys, tmp_path, gre_files, words, message):
    files = ["--magnitude", *gre_files["mag"], "--phase", *gre_files["phase"]]
    code, _, err = run(monkeypatch, capsys, "qsm", *files, "--out", tmp_path, *words)
    assert code == 2
    assert message in err


def test_qsm_mask_on_another_grid(tmp_path, gre_files):
    path = images.save(images.make(np.eye(3)[..., None], np.eye(4)), tmp_path / "mask.nii.gz")
    inputs = {"magnitude": gre_files["mag"], "phase": gre_files["phase"]}
    with pytest.raises(InputError, match=r"mask\.nii\.gz: its grid is 3 x 3 x 1"):
        bids.measure_files(by_name("qsm"), inputs, tmp_path, brain_mask=path)
