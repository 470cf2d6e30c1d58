"""Several series of a visit, and what other pipelines made of them: measured, named, counted."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import stubs
from test_alps_files import BVALS, write
from test_methods import TOY

from pvsbook import InputError, cli, images, jobs, methods
from pvsbook.bids import app, citation, group, inputs
from pvsbook.methods import by_name
from pvsbook.pvs import pipeline
from pvsbook.visit import BidsFile, Found, Sidecars


def find_each(visit):
    """Every FLAIR of a visit, as a method of several series does."""
    return [Found({"image": [str(f.path)]}) for f in visit.select("anat", "FLAIR")] or [
        Found(lacks=("no FLAIR",))
    ]


def put(top: Path, name: str, level: float = 2.0, n: int = 5) -> Path:
    cube = np.zeros((10, 10, 10), np.float32)
    cube[:n] = level
    person = name.split("_")[0]
    return images.save(images.make(cube, np.eye(4)), top / f"{person}/anat/{name}.nii.gz")


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Two people; one has two runs."""
    several = replace(TOY, find=find_each, preference="name")
    monkeypatch.setattr(methods, "ALL", (*methods.ALL, several))
    top = tmp_path / "bids"
    put(top, "sub-a_acq-iso_run-1_FLAIR")
    put(top, "sub-a_acq-iso_run-2_FLAIR", n=9)
    put(top, "sub-b_FLAIR", n=3)
    return tmp_path


def run(top: Path, **options) -> dict[str, jobs.Record]:
    folder = inputs.find(top / "bids", methods=["toy"], **options)
    return {record.name: record for record in app.run_participants(folder, top / "out")}


def table_of(top: Path) -> pd.DataFrame:
    group.summarise(inputs.find(top / "bids", methods=["toy"]), top / "out")
    return pd.read_csv(top / "out" / "group_toy.tsv", sep="\t")


def test_each_series_has_results_a_row_and_a_line_of_its_own(toy):
    records = run(toy)
    assert {name: r.status for name, r in records.items()} == {
        "sub-a_acq-iso_run-1_toy": "done",
        "sub-a_acq-iso_run-2_toy": "done",
        "sub-b_toy": "done",
    }
    found = {p.name for p in (toy / "out").rglob("*_toy.tsv")}
    assert found == {"sub-a_acq-iso_run-1_toy.tsv", "sub-a_acq-iso_run-2_toy.tsv", "sub-b_toy.tsv"}
    table = table_of(toy)
    assert table["run"].tolist()[:2] == [1, 2]
    assert table["acq"].tolist()[:2] == ["iso", "iso"]
    assert table["for_statistics"].tolist() == [True, False, True]
    about = json.loads((toy / "out" / "group_toy.json").read_text())
    assert list(about) == list(table.columns)
    assert "the one row of a visit that statistics take" in about["for_statistics"]["Description"]
    page = (toy / "out" / "group.html").read_text()
    assert "1 visit had several series" in page
    assert "1 of 3 series are left out" in page
    _, _, after = page.partition("Bright volume: distribution")
    distribution = after[: after.index("</table>")]
    assert "0.5</td>" in distribution
    assert "0.9" not in distribution, "of run-2, which statistics leave out"
    person = (toy / "out" / "sub-a.html").read_text()
    assert "Bright volume (acq-iso, run-2)" in person
    assert "one of 2 series; sub-a_acq-iso_run-1_FLAIR.nii.gz comes before it" in person


def test_what_is_done_stays_when_a_series_comes_or_is_narrowed_away(toy):
    run(toy)
    before = stubs.tree(toy / "out")
    put(toy / "bids", "sub-a_acq-iso_run-3_FLAIR", n=2)
    records = run(toy)
    assert [r.is_cached for r in records.values()] == [True, True, False, True]
    kept = stubs.tree(toy / "out")
    changed = {name for name, digest in before.items() if kept[name] != digest}
    assert {name for name in changed if name.startswith("sub-")} <= {"sub-a.html"}
    narrowed = run(toy, filters={"flair": {"run": "2"}}, participants=["a"])
    assert {n: r.is_cached for n, r in narrowed.items()} == {"sub-a_acq-iso_run-2_toy": True}
    assert "run-3" in (toy / "out" / "sub-a.html").read_text(), "measured before, and still there"


def test_a_page_does_not_keep_that_nothing_was_there(toy):
    scan = toy / "bids/sub-b/anat/sub-b_FLAIR.nii.gz"
    elsewhere = scan.rename(scan.with_name("sub-b_T2w.nii.gz"))
    assert run(toy)["sub-b_toy"].status == "skipped"
    elsewhere.rename(scan.with_name("sub-b_run-1_FLAIR.nii.gz"))
    assert run(toy)["sub-b_run-1_toy"].status == "done"
    assert "no FLAIR" not in (toy / "out" / "sub-b.html").read_text()


def test_series_that_only_the_suffix_or_a_rare_entity_tells_apart_have_own_names(toy):
    for k in (1, 2):
        put(toy / "bids", f"sub-c_acq-x_inv-{k}_FLAIR", n=k)
    records = run(toy, participants=["c"])
    assert set(records) == {"sub-c_acq-xinv1_toy", "sub-c_acq-xinv2_toy"}
    names = {p.name for p in (toy / "out/sub-c").rglob("*_toy.tsv")}
    assert names == {"sub-c_acq-xinv1_toy.tsv", "sub-c_acq-xinv2_toy.tsv"}
    assert all(r.is_cached for r in run(toy, participants=["c"]).values())


@pytest.mark.parametrize(
    ("outcomes", "statuses", "counts"),
    [
        (["done", "done"], ["warn", "pass"], [True, False]),
        (["done", "done"], ["fail", "warn"], [False, True]),
        (["done", "done"], ["fail", "fail"], [True, False]),
        (["failed", "done"], [None, "fail"], [False, True]),
        (["failed", "skipped"], [None, None], [True, False]),
    ],
)
def test_one_row_of_each_visit_counts(outcomes, statuses, counts):
    from pvsbook.bids._series import counted

    rows = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-1", "sub-2"],
            "session_id": [None, None, None],
            "for_statistics": [0, 1, 0],
            "outcome": [*outcomes, "failed"],
            "status": [*statuses, None],
        }
    )
    assert counted(rows).tolist() == [*counts, True], "and nobody is without a row"


def test_the_paragraph_counts_one_series_a_visit_and_says_so():
    alps = by_name("alps")
    rows = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-1", "sub-2"],
            "session_id": [None] * 3,
            "for_statistics": [True, False, True],
            "outcome": "done",
            "status": "pass",
            "corrected_by": ["QSIPrep 0.21.4", "nothing before", "nothing before"],
        }
    )
    text, _ = citation.methods_text([(alps, {"denoise": "mppca"}, rows)])
    assert "Of 2 scans, 2 passed" in text
    assert "1 visit had several series" in text
    assert "corrected before by QSIPrep 0.21.4" in text
    assert "the others were denoised (mppca)" in text


# --- diffusion --------------------------------------------------------------------------------


def diffusion(top: Path, *stems: str, bvals=BVALS, **meta) -> None:
    for stem in stems:
        scan = write(top / "sub-01" / "dwi", stem)
        np.savetxt(scan.with_name(f"{stem}.bval"), bvals[None], fmt="%g")
        scan.with_name(f"{stem}.json").write_text(json.dumps(meta))


def alps_of(top: Path, **options):
    folder = inputs.find(top, methods=["alps"], **options)
    return {m.series: m for m in folder.measurements}, folder


def test_series_of_other_directions_are_measured_and_what_is_at_b0_is_a_part(tmp_path):
    diffusion(tmp_path, "sub-01_acq-a_dir-AP_dwi", PhaseEncodingDirection="j-")
    diffusion(tmp_path, "sub-01_acq-b_dir-AP_dwi", PhaseEncodingDirection="j-")
    zero = np.zeros(8)
    diffusion(tmp_path, "sub-01_dir-PA_dwi", bvals=zero, PhaseEncodingDirection="j")
    found, _ = alps_of(tmp_path)
    assert list(found) == ["acq-a_dir-AP", "acq-b_dir-AP"]
    notes = "; ".join(found["acq-a_dir-AP"].found.notes)
    assert "sub-01_dir-PA_dwi.nii.gz: opposite phase encoding, not used; to correct" in notes
    assert "sub-01_dir-PA_dwi.nii.gz: too few directions, so a part of this one" in notes
    (tmp_path / "sub-01/dwi/sub-01_dir-PA_dwi.bval").write_text("0 no number")
    assert "dir-PA" in alps_of(tmp_path)[0], "what cannot be read fails, and is not passed over"
    diffusion(tmp_path, "sub-01_dir-PA_dwi", PhaseEncodingDirection="j")
    found, _ = alps_of(tmp_path)
    assert "each is measured as it was acquired" in "; ".join(found["dir-PA"].found.notes)


def test_parts_and_echoes_of_a_series_are_one(tmp_path):
    diffusion(tmp_path, "sub-01_part-mag_dwi", "sub-01_part-phase_dwi")
    found, _ = alps_of(tmp_path)
    assert list(found) == [""]
    for k in (1, 2):
        put(tmp_path, f"sub-01_echo-{k}_T2w")
    (scan,) = inputs.find(tmp_path, methods=["pvs"]).measurements
    assert Path(scan.found.inputs["image"][0]).name == "sub-01_echo-2_T2w.nii.gz"
    assert "of several echoes" in scan.found.notes[0]


def derivative(top: Path, *stems: str, **about) -> None:
    diffusion(top, *stems)
    about = about or {"GeneratedBy": [{"Name": "QSIPrep", "Version": "0.21.4"}]}
    (top / "dataset_description.json").write_text(json.dumps({"Name": "x", **about}))


def test_a_corrected_series_of_another_pipeline_comes_in_place_of_the_raw_one(tmp_path):
    raw, made = tmp_path / "bids", tmp_path / "qsiprep"
    diffusion(raw, "sub-01_run-1_dwi", "sub-01_run-2_dwi", "sub-01_acq-x_run-3_dwi")
    stem = "sub-01_run-1_space-ACPC_desc-preproc_dwi"
    derivative(made, stem, "sub-01_space-MNI152NLin2009cAsym_desc-preproc_dwi")
    derivative(made, "sub-01_run-9_desc-preproc_dwi", "sub-01_run-1_desc-eddy_dwi")
    mask = images.make(np.ones((2, 2, 2), np.uint8), np.diag([-2, 2, 2, 1]))
    for name in ("run-1_space-ACPC", "run-2", "run-1"):
        images.save(mask, made / f"sub-01/dwi/sub-01_{name}_desc-brain_mask.nii.gz")
    found, folder = alps_of(raw, derivatives=[made])
    assert list(found) == ["run-1", "acq-x_run-3", "run-2"]
    one = found["run-1"].found
    assert [Path(one.inputs[k][0]).name for k in ("dwi", "bvec", "bval")] == [
        f"{stem}.nii.gz", f"{stem}.bvec", f"{stem}.bval"
    ]  # fmt: skip
    assert one.parameters["corrected_by"] == "QSIPrep 0.21.4"
    assert "in space-ACPC, so the classic index is along its axes" in "; ".join(one.notes)
    assert one.parameters["brain_mask"].endswith("sub-01_run-1_space-ACPC_desc-brain_mask.nii.gz")
    notes = "; ".join(one.notes)
    assert "sub-01_run-1_dwi.nii.gz not measured: a corrected series has the same" in notes
    assert "sub-01_run-9_desc-preproc_dwi.nii.gz not used: no series of this visit" in notes
    assert "space-MNI152NLin2009cAsym is not of this head" in notes
    assert "sub-01_run-1_desc-eddy_dwi.nii.gz not used, as sub-01_run-1_space-ACPC" in notes
    assert found["run-2"].found.parameters["brain_mask"].endswith("run-2_desc-brain_mask.nii.gz")
    assert "brain_mask" not in found["acq-x_run-3"].found.parameters
    settings = app.read_settings(None) | {"alps": {"denoise": "mppca", "motion": True}}
    tasks = {m.series: (m, task) for m, task in app.plan(folder, settings)}
    measurement, task = tasks["run-1"]
    steps = [task.parameters["options"][name] for name in ("denoise", "gibbs", "motion")]
    assert steps == [None, False, False]
    assert "denoise, motion of the settings left out, as that was done before" in (
        measurement.found.notes
    )
    assert tasks["run-2"][1].parameters["options"]["denoise"] == "mppca"
    row = replace(by_name("alps"), measure=None).columns["corrected_by"]
    assert "pipeline that corrected" in row["Description"]


@pytest.mark.parametrize(
    ("about", "maker"),
    [
        ({"PipelineDescription": {"Name": "snakedwi", "Version": "0.2"}}, "snakedwi 0.2"),
        ({"GeneratedBy": [{"Name": "dMRIPrep"}]}, "dMRIPrep (version not recorded)"),
        ({"GeneratedBy": ["x"]}, "made (version not recorded)"),
    ],
)
def test_a_merged_series_names_its_maker(tmp_path, about, maker):
    diffusion(tmp_path / "bids", "sub-01_run-1_dwi", "sub-01_run-2_dwi")
    derivative(tmp_path / "made", "sub-01_space-T1w_desc-eddy_dwi", **about)
    found, _ = alps_of(tmp_path / "bids", derivatives=[tmp_path / "made"])
    assert list(found) == [""], "one series was made of both runs"
    assert found[""].found.parameters["corrected_by"] == maker


def test_a_corrected_series_without_vectors_of_its_own_is_not_used(tmp_path):
    diffusion(tmp_path / "bids", "sub-01_dwi")
    derivative(tmp_path / "made", "sub-01_desc-preproc_dwi")
    vectors = tmp_path / "made/sub-01/dwi/sub-01_desc-preproc_dwi.bvec"
    vectors.rename(tmp_path / "made" / "dwi.bvec")
    found, _ = alps_of(tmp_path / "bids", derivatives=[tmp_path / "made"])
    assert "corrected_by" not in found[""].found.parameters
    assert "it has no .bvec of its own" in "; ".join(found[""].found.notes)
    (tmp_path / "made" / "dwi.bvec").unlink()
    found, _ = alps_of(tmp_path / "bids", derivatives=[tmp_path / "made"])
    assert "desc-preproc_dwi.nii.gz: no .bvec, so not used" in "; ".join(found[""].found.notes)


def test_sidecars_above_a_data_set_do_not_apply_to_it(tmp_path):
    diffusion(tmp_path / "bids", "sub-01_dwi")
    derivative(tmp_path / "made", "sub-01_desc-preproc_dwi")
    (tmp_path / "made/sub-01/dwi/sub-01_desc-preproc_dwi.bval").rename(tmp_path / "dwi.bval")
    scan = BidsFile(
        tmp_path / "made/sub-01/dwi/sub-01_desc-preproc_dwi.nii.gz",
        "dwi",
        {"sub": "01", "desc": "preproc", "suffix": "dwi"},
    )
    assert list(Sidecars(tmp_path / "bids").files(scan, ".bval")) == []


def test_what_of_another_pipeline_has_no_use_is_named(tmp_path):
    put(tmp_path / "bids", "sub-01_T2w")
    anat = put(tmp_path / "made", "sub-01_dseg").parent
    (anat / "sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5").write_bytes(b"")
    folder = inputs.find(tmp_path / "bids", methods=["pvs"], derivatives=[tmp_path / "made"])
    (note,) = [note for note in folder.notes if "not used" in note]
    assert "dseg (sub-01_dseg.nii.gz), xfm (sub-01_from-T1w_to-MNI" in note
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"--derivatives: .*empty: has no sub-\* folder"):
        inputs.find(tmp_path / "bids", derivatives=[tmp_path / "empty"])


# --- gradient echoes --------------------------------------------------------------------------


def echoes(top: Path, session: str, *runs: str, n: int = 3, suffix: str = "MEGRE") -> None:
    for run_label in runs:
        for k in range(1, n + 1):
            for part in ("mag", "phase"):
                stem = f"sub-1_ses-{session}_{run_label}_echo-{k}_part-{part}_{suffix}"
                path = top / f"sub-1/ses-{session}/anat/{stem.replace('__', '_')}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
                meta = {"EchoTime": 0.005 * k, "MagneticFieldStrength": 3}
                path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(meta))


def test_a_change_compares_like_series_and_names_them(tmp_path):
    echoes(tmp_path, "1", "run-1", "run-2")
    echoes(tmp_path, "2", "run-1", "run-2")
    echoes(tmp_path, "3", "acq-x")
    planned = list(app.plan(inputs.find(tmp_path, methods=["qsm"]), {}))
    pairs = {m.name: (m, task) for m, task in planned if m.method == "qsmchange"}
    assert list(pairs) == [
        "sub-1_ses-2_run-1_from-1_qsmchange",
        "sub-1_ses-2_run-2_from-1_qsmchange",
        "sub-1_ses-3_acq-x_from-1_qsmchange",
    ]
    _, task = pairs["sub-1_ses-2_run-2_from-1_qsmchange"]
    assert "run-2" in task.inputs["first_phase"][0]
    other, task = pairs["sub-1_ses-3_acq-x_from-1_qsmchange"]
    assert "run-1" in task.inputs["first_phase"][0]
    assert "acq-x is compared with run-1" in other.found.notes


def test_gradient_echoes_of_two_suffixes_and_one_that_lacks_a_phase(tmp_path):
    echoes(tmp_path, "1", "", n=3)
    echoes(tmp_path, "1", "", n=2, suffix="T2starw")
    echoes(tmp_path, "1", "acq-swi", n=1, suffix="GRE")
    next(tmp_path.rglob("*acq-swi*part-phase*.nii.gz")).unlink()
    scans = inputs.find(tmp_path, methods=["qsm"]).measurements
    assert [m.series for m in scans] == ["acq-MEGRE", "acq-T2starw"]
    assert "acq-swi_echo-1_part-mag_GRE.nii.gz: no phase" in "; ".join(scans[0].found.notes)
    tasks = [task for m, task in app.plan(inputs.find(tmp_path, methods=["qsm"]), {})]
    assert [task.parameters["series"] for task in tasks] == ["acq-MEGRE", "acq-T2starw"]


def test_one_gradient_echo_with_a_broken_sidecar_stops_no_other(tmp_path):
    echoes(tmp_path, "1", "run-1", "run-2")
    for path in tmp_path.rglob("*run-2*.json"):
        path.write_text("{")
    (scan,) = inputs.find(tmp_path, methods=["qsm"]).measurements
    assert scan.series == "run-1"
    assert "is not JSON" in "; ".join(scan.found.notes)


# --- images beside the scan -------------------------------------------------------------------


def test_of_several_images_beside_a_scan_the_closest_is_taken_and_said(tmp_path):
    for name in ("run-1_T2w", "run-2_T2w", "run-1_FLAIR", "run-2_FLAIR", "T1w"):
        put(tmp_path, f"sub-01_{name}")
    gone = tmp_path / "sub-01/anat/sub-01_acq-z_T1w.nii.gz"
    gone.symlink_to("nowhere")
    one, two = inputs.find(tmp_path, methods=["pvs"]).measurements
    for scan, name in ((one, "run-1"), (two, "run-2")):
        assert Path(scan.found.parameters["flair"]).name == f"sub-01_{name}_FLAIR.nii.gz"
        assert (
            f"sub-01_{name}_FLAIR.nii.gz beside it, the closest of 2 by its name"
            in scan.found.notes
        )
        assert "sub-01_T1w.nii.gz beside it" in scan.found.notes
        assert "sub-01_acq-z_T1w.nii.gz not used: a link to nowhere" in scan.found.notes


def test_the_survey_counts_series_and_is_not_stopped_by_a_flair(tmp_path, capsys, monkeypatch):
    for name in ("run-1_T2w", "run-2_T2w"):
        put(tmp_path, f"sub-01_{name}")
    flair = tmp_path / "sub-01/anat/sub-01_FLAIR.nii.gz"
    flair.write_bytes(b"no image")
    monkeypatch.setattr(sys, "argv", ["pvsbook", "doctor", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    assert "pvs: 2 of 2 series of 1 visits can be measured; 2 of them will warn" in out
    assert "will warn: sub-01_FLAIR.nii.gz: cannot be read as NIfTI" in out


@dataclass(frozen=True)
class Measured:
    """What `pvsbook.pvs.pipeline.measure` was called with, in the place of its result."""

    given: dict
    stripped_by: str = ""
    status: str = "pass"
    reasons: tuple = ()
    note: str = ""

    @property
    def anatomy(self):
        return self


@pytest.fixture
def pvs(monkeypatch):
    monkeypatch.setattr(pipeline, "measure", lambda image, **given: Measured(given))
    method = by_name("pvs")
    options = {o.name: o.default for o in method.options}
    return lambda image, **more: method.measure([image], **{**options, **more})


def test_a_scan_is_measured_without_a_flair_that_cannot_be_read(tmp_path, pvs):
    scan, flair = put(tmp_path, "sub-01_T2w"), put(tmp_path, "sub-01_FLAIR")
    assert pvs(scan, flair=flair).status == "pass"
    flair.write_bytes(flair.read_bytes()[:60])
    result = pvs(scan, flair=flair, other=scan)
    assert (result.given.get("flair"), result.status) == (None, "warn")
    assert result.given["other"] is not None
    assert "flair was not used: sub-01_FLAIR.nii.gz: cannot be read" in result.reasons[0]


@pytest.mark.parametrize(
    ("name", "words", "by"),
    [
        ("flair", "", "name"),
        ("sub-01_FLAIR", "", "name"),
        ("sub-01_acq-flair_T2w", "", "name"),
        ("head", "t2_spc_dark-fluid_FLAIR", "sidecar"),
        ("head", "Ax T1 FLAIR", ""),
        ("t2_to_flair", "", ""),
        ("sub-01_space-FLAIR_T2w", "t2 tse", ""),
    ],
)
def test_a_flair_as_the_scan_is_told_what_it_is_good_for(tmp_path, pvs, name, words, by):
    scan = put(tmp_path, "sub-01_T2w")
    scan = scan.rename(scan.with_name(f"{name}.nii.gz"))
    sidecar = scan.with_name(f"{name}.json")
    sidecar.write_text(json.dumps({"SeriesDescription": words}))
    if not by:
        assert pvs(scan).status == "pass"
        sidecar.write_text("{")
        assert pvs(scan).status == "pass"
        return
    with pytest.raises(InputError, match=rf"is a FLAIR by its {by}, .* this one as flair"):
        pvs(scan)


def test_deepbet_says_where_it_did_not_run(tmp_path, pvs):
    scan = put(tmp_path, "sub-01_T2w")
    assert pvs(scan).note == ""
    assert pvs(scan, strip="deepbet").note.endswith(
        "did not run on this scan, as it holds no scalp."
    )
    note = pvs(scan, strip="deepbet", brain_mask=scan).note
    assert note.endswith("as a brain mask was given.")
