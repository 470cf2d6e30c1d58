"""`pvsbook run`: a BIDS folder of simulated people, some of them broken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import stubs
from test_methods import TOY

from pvsbook import InputError, _run_command, cli, images, jobs, methods
from pvsbook.atlas import deep_grey
from pvsbook.bids import _trends, app, group, inputs, measure, sessions
from pvsbook.methods import by_name
from pvsbook.qsm import change
from pvsbook_book.dataset import write_dataset

PEOPLE = [f"{k:02d}" for k in range(1, 11)]
BROKEN, SILENT, ODD = "03", "05", "07"  # cut file; no echo time; part-pha


def call(*arguments: object) -> int:
    """Run the command inside this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pvsbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def bids(tmp_path_factory) -> Path:
    """Ten people with a gradient echo; one file is cut, one sidecar lacks a field."""
    top = tmp_path_factory.mktemp("many") / "bids"
    write_dataset(top, PEOPLE, rng=np.random.default_rng(3), methods=["qsm"])
    cut = top / f"sub-{BROKEN}" / "anat" / f"sub-{BROKEN}_echo-2_part-phase_MEGRE.nii.gz"
    cut.write_bytes(cut.read_bytes()[:2000])
    silent = top / f"sub-{SILENT}" / "anat" / f"sub-{SILENT}_echo-3_part-phase_MEGRE.json"
    (top / "echo-3_MEGRE.json").unlink()
    for person in PEOPLE:
        beside = silent.with_name(silent.name.replace(SILENT, person))
        beside = beside.parents[2] / f"sub-{person}" / "anat" / beside.name
        if person != SILENT:
            beside.write_text(json.dumps({"EchoTime": 0.018}))
    for path in (top / f"sub-{ODD}" / "anat").iterdir():
        path.rename(path.with_name(path.name.replace("part-phase", "part-pha")))
    return top


@pytest.fixture(scope="module")
def done(bids, tmp_path_factory) -> Path:
    """The folder after the participant and the group level."""
    out = tmp_path_factory.mktemp("many") / "out"
    assert call("run", bids, out, "participant", "--methods", "qsm,pvs", "--workers", 0) == 1
    assert call("run", bids, out, "group", "--methods", "qsm,pvs") == 0
    return out


def test_a_broken_person_among_ten(done, bids, capsys):
    assert call("run", bids, done, "participant", "--methods", "qsm,pvs", "--workers", 0) == 1
    out = capsys.readouterr().out
    assert "8 done (8 by an earlier run), 1 failed, 11 skipped" in out
    assert f"failed sub-{BROKEN}_qsm: " in out
    assert "cannot be read as NIfTI" in out
    assert str(bids) not in out, "a folder of this machine, which no report should show"
    assert (
        f"skipped sub-{SILENT}_qsm: sub-{SILENT}_echo-3_part-phase_MEGRE.nii.gz: no EchoTime"
        in out
    )
    assert "skipped sub-01_pvs: no T2w and no T1w in anat/" in out
    first, *_, last = sorted((done / "logs").glob("*.log"))
    assert f"sub-{BROKEN}_qsm failed" in first.read_text()
    assert "sub-01_qsm was done" in last.read_text()


def test_group_tables_can_be_read_and_joined(done):
    table = pd.read_csv(done / "group_qsm.tsv", sep="\t")
    assert list(table["participant_id"]) == [f"sub-{p}" for p in PEOPLE]
    assert dict(table["outcome"].value_counts()) == {"done": 8, "failed": 1, "skipped": 1}
    measured = table[table["outcome"] == "done"]
    assert measured[["age", "chi_sd_ppb", "status"]].notna().all().all()
    assert table.loc[table["outcome"] != "done", "outcome_reason"].notna().all()
    assert "part-pha" in table.set_index("participant_id").loc[f"sub-{ODD}", "notes"]
    columns = json.loads((done / "group_qsm.json").read_text())
    assert list(columns) == list(table.columns)
    assert all("Description" in words for words in columns.values())
    assert columns["age"]["Units"] == "year"
    assert set(pd.read_csv(done / "group_pvs.tsv", sep="\t")["outcome"]) == {"skipped"}


class Page(HTMLParser):
    """Collects what accessibility and self-containment hang on."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_pages_are_accessible_lead_on_and_ask_for_nothing_outside(done):
    pages = [done / "group.html", *done.glob("sub-*.html")]
    assert len(pages) == 1 + len(PEOPLE)
    for path in pages:
        page = Page(path)
        assert page.all("html")[0]["lang"] == "en"
        assert len(page.all("h1")) == 1
        assert len(page.all("caption")) == len(page.all("table"))
        assert all(th["scope"] in ("col", "row") for th in page.all("th"))
        assert all(len(img["alt"]) > 40 for img in page.all("img"))
        assert all(img["src"].startswith("data:") for img in page.all("img"))
        assert not {tag for tag, _ in page.tags} & {"link", "iframe"}
        assert not any("src" in script for script in page.all("script"))
        labels = [div["aria-label"] for div in page.all("div") if "aria-label" in div]
        assert len(set(labels)) == len(labels)
        ids = {a["id"] for _, a in page.tags if "id" in a}
        for link in page.all("a"):
            target = link["href"]
            assert target[1:] in ids if target[0] == "#" else (done / target).is_file()
    text = (done / "group.html").read_text()
    assert "cannot be read as NIfTI" in text
    assert "What this does not show" in text
    assert "Of 8 scans," in text
    assert "2 of 10 could not be measured" in text
    words = (done / "group_methods.md").read_text()
    assert "Susceptibility was mapped from gradient echoes at 3 T with 3 echoes" in words
    assert "@article{bilgic2024," in (done / "group_methods.bib").read_text()


def validate(folder: Path) -> list[dict]:
    """Run the BIDS validator; return what it finds, but that only a user can name authors."""
    command = Path(sys.executable).with_name("bids-validator-deno")
    if not command.is_file():
        pytest.skip("needs bids-validator-deno")
    ran = subprocess.run(
        [command, folder, "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(ran.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["code"] != "TOO_FEW_AUTHORS"]


@pytest.fixture(scope="module")
def visits(tmp_path_factory) -> tuple[Path, Path]:
    """One person with all scans at one visit, and a gradient echo at a second."""
    top = tmp_path_factory.mktemp("visits") / "bids"
    write_dataset(top, ["a"], rng=np.random.default_rng(4), sessions=["1", "2"])
    (top / "sub-a" / "ses-2" / "anat" / "sub-a_ses-2_T2w.nii.gz").unlink()
    shutil.rmtree(top / "sub-a" / "ses-2" / "dwi")
    out = top.parent / "out"
    assert call("run", top, out, "participant", "--workers", 0) == 0
    assert call("run", top, out, "group") == 0
    return top, out


def test_all_methods_and_change_between_visits(visits):
    _, out = visits
    for method, n_done in (("pvs", 1), ("alps", 1), ("qsm", 2), ("qsmchange", 1)):
        table = pd.read_csv(out / f"group_{method}.tsv", sep="\t")
        assert (table["outcome"] == "done").sum() == n_done, method
    change = pd.read_csv(out / "group_qsmchange.tsv", sep="\t").iloc[0]
    assert (change["session_id"], change["first_session"]) == ("ses-2", "ses-1")
    assert change["overlap"] > 0.9
    assert abs(change["putamen_left_change_ppb"]) < 5 * change["putamen_left_error_ppb"]
    regions = next(out.rglob("*desc-changeregions_qsm.tsv"))
    assert pd.read_csv(regions, sep="\t")["change_ppb"].notna().any()


def test_every_declared_column_is_written_and_no_other(visits):
    _, out = visits
    for method in methods.ALL:
        session = "ses-2_from-1" if method.compares else "ses-1"
        record = jobs.read_record(out, f"sub-a_{session}_{method.name}")
        assert set(record.result["row"]) == set(method.columns), method.name


def test_the_page_of_a_participant_keeps_the_visits_not_asked_for(visits, tmp_path):
    top, out = visits
    copy = shutil.copytree(out, tmp_path / "out")
    words = ("--session-label", "2", "--methods", "qsm", "--workers", 0)
    assert call("run", top, copy, "participant", *words) == 0
    page = (copy / "sub-a.html").read_text()
    assert "ses-1" in page
    assert page.count("ALPS index") == (out / "sub-a.html").read_text().count("ALPS index") > 0


def test_the_derivatives_pass_the_validator(visits, done):
    for folder in (visits[1], done):
        assert validate(folder) == []
    wrong = visits[1] / "sub-a" / "ses-1" / "anat" / "sub-a_ses-1_nonsense.nii.gz"
    wrong.write_bytes(b"")
    try:
        assert validate(visits[1]), "the validator sees nothing"
    finally:
        wrong.unlink()


def test_no_file_is_hidden_but_the_state(visits):
    hidden = {p.relative_to(visits[1]).parts[0] for p in visits[1].rglob(".*")}
    assert hidden <= {".bidsignore", ".pvsbook"}
    assert not (visits[1] / ".pvsbook" / "work").exists()


def test_a_changed_sidecar_or_setting_runs_just_that_again(visits, tmp_path, capsys):
    top, out = visits
    before = stubs.tree(out)
    options = ["--methods", "qsm", "--workers", 0]
    assert call("run", top, out, "participant", *options) == 0
    assert "3 done (3 by an earlier run)" in capsys.readouterr().out
    settings = tmp_path / "settings.yml"
    settings.write_text("qsm: {inversion: tkd}\nqsmchange: {background: smv}\n")
    assert call("run", top, out, "participant", *options, "--settings", settings) == 0
    assert "3 done (1 by an earlier run)" in capsys.readouterr().out
    assert call("run", top, out, "participant", *options) == 0
    # a default that is written out, as smv here, is no change; all is as it was
    assert stubs.tree(out) == before


PARTS = ("magnitude", "phase")


def test_the_command_measures_change_by_the_recipe_of_the_library(tmp_path):
    """One head at two visits: the row of the command is that of `change.measure_visits`."""
    write_dataset(tmp_path, ["a"], rng=np.random.default_rng(4), sessions=["1", "2"])
    scans = inputs.find(tmp_path, methods=["qsm"]).measurements
    gres = [
        images.load_gre(s.found.inputs["magnitude"], s.found.inputs["phase"], **s.found.parameters)
        for s in scans
    ]
    wanted = change.measure_visits(
        *gres, *deep_grey.nuclei("schematic"), np.random.default_rng(0)
    ).to_row()
    pairs = zip(("first", "second"), scans, strict=True)
    row = measure.measure_files(
        by_name("qsmchange"),
        {f"{visit}_{role}": s.found.inputs[role] for visit, s in pairs for role in PARTS},
        tmp_path / "out",
        atlas="schematic",
        **{
            key: tuple(s.found.parameters[key] for s in scans) for key in scans[0].found.parameters
        },
    ).row
    assert row == pytest.approx(wanted, nan_ok=True)


def test_labels_choose(visits, tmp_path):
    top, _ = visits
    assert [
        s.name for s in inputs.find(top, sessions=["ses-2"], methods=["qsm"]).measurements
    ] == ["sub-a_ses-2_qsm"]
    assert inputs.find(top, participants=["a"]).labels == ["sub-a"]
    for options, message in (
        ({"participants": ["b"]}, "sub-b not in"),
        ({"sessions": ["9"]}, "ses-9 not in .* it has ses-1, ses-2"),
        ({"methods": ["mri"]}, "mri; choose from pvs,alps,qsm"),
        ({"participants": ["../x"]}, "letters and digits only"),
    ):
        with pytest.raises(InputError, match=message):
            inputs.find(top, **options)


def touch(top: Path, *names: str) -> None:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if name.endswith(".json") else "0 1000 1000")


def scans_of(top: Path) -> dict[str, inputs.Scan]:
    return {s.method: s for s in inputs.find(top).measurements if s.rank == 0}


def test_what_is_chosen_and_what_is_missing(tmp_path):
    """Rules of the search, on files that are only names."""
    one = tmp_path / "one"
    touch(one, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_acq-FLAIR_T2w.nii.gz")
    touch(one, "sub-1/dwi/sub-1_dir-AP_dwi.nii.gz", "sub-1/anat/sub-1_part-mag_T2starw.nii.gz")
    found = scans_of(one)
    flair = str(one / "sub-1/anat/sub-1_acq-FLAIR_T2w.nii.gz")
    assert found["pvs"].found.parameters == {"contrast": "t1", "flair": flair}
    assert "fewer perivascular spaces" in found["pvs"].found.notes[0]
    assert found["alps"].lacks == ("sub-1_dir-AP_dwi.nii.gz: no .bval and no .bvec",)
    assert "no phase (part-phase)" in found["qsm"].lacks[0]

    touch(one, "dwi.bval", "dwi.bvec", "sub-1/dwi/sub-1_dir-PA_dwi.nii.gz")
    (one / "sub-1/dwi/sub-1_dir-PA_dwi.bval").write_text("0 1000 1000 1000")
    touch(one, "sub-1/anat/sub-1_run-2_T2w.nii.gz", "sub-1/anat/sub-1_run-1_T2w.nii.gz")
    touch(one, "sub-1/anat/sub-1_part-phase_T2starw.nii.gz")
    found = scans_of(one)
    assert Path(found["alps"].found.inputs["dwi"][0]).name == "sub-1_dir-PA_dwi.nii.gz"
    assert Path(found["alps"].found.inputs["bvec"][0]) == one / "dwi.bvec"
    assert Path(found["alps"].found.inputs["bval"][0]).name == "sub-1_dir-PA_dwi.bval"
    assert "the first of 2 series for statistics" in found["alps"].found.notes[0]
    assert found["pvs"].found.notes == (
        "the first of 2 series for statistics, by: without contrast agent, then name",
        "sub-1_acq-FLAIR_T2w.nii.gz beside it",
        "sub-1_T1w.nii.gz beside it",
    )
    assert "no EchoTime and no MagneticFieldStrength" in found["qsm"].lacks[0]

    (one / "T2starw.json").write_text('{"EchoTime": 0.1, "MagneticFieldStrength": 3}')
    (one / "sub-1/anat/sub-1_T2starw.json").write_text('{"EchoTime": 0.02}')
    (one / "sub-1/anat/sub-1_part-phase_T2starw.json").write_text('{"EchoTime": 0.02}')
    assert scans_of(one)["qsm"].found.parameters == {
        "echo_times_s": [0.02],
        "field_strength_t": 3,
        "real_imaginary": False,
        "t1w": str(one / "sub-1/anat/sub-1_T1w.nii.gz"),
    }
    (one / "sub-1/anat/sub-1_part-phase_T2starw.json").write_text("{")
    assert "sub-1_part-phase_T2starw.json: is not JSON" in scans_of(one)["qsm"].lacks[0]
    for path in (one / "sub-1/anat").glob("*T2starw*"):
        path.unlink()
    touch(one, "sub-1/anat/sub-1_echo-1_part-mag_MEGRE.nii.gz")
    touch(one, "sub-1/anat/sub-1_echo-2_part-phase_MEGRE.nii.gz")
    assert "echoes 1 of mag, but 2 of phase" in scans_of(one)["qsm"].lacks[0]


def test_folders_that_are_no_bids_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "json/sub-1/anat/sub-1_T2w.json", "renamed/sub-2/anat/sub-1_T2w.nii.gz")
    for name, message in (
        ("gone", "does not exist"),
        ("empty", "has no sub-"),
        ("json", "holds no image"),
        ("renamed", "in its place .sub-1_T2w.nii.gz lies in sub-2/anat/: folder and name"),
    ):
        with pytest.raises(InputError, match=message):
            inputs.find(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qsm: [", "cannot be read"),
        ("[1]", "must hold options by method"),
        ("mri: {}", "'mri' is no method"),
        ("qsm: {wings: 2}", "qsm has no option wings; it has .*inversion"),
        ("pvs: {brain_mask: a.nii}", "pvs has no option brain_mask"),
        ("qsm: {inversion: tkdd}", "inversion is 'tkdd'; choose from tv"),
        ("qsm: {phase_period: '4096'}", "phase_period is '4096'; give a number"),
        ("qsm: {reference: 5}", "reference is 5; choose from"),
        ("qsm: {reference: no.nii.gz}", "there is no such file"),
        ("alps: {gibbs: 1}", "gibbs is 1; give true or false"),
        ("pvs: {contrast: 2026-01-01}", "contrast is datetime.date"),
    ],
)
def test_bad_settings(tmp_path, text, message):
    path = tmp_path / "s.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        app.read_settings(path)


def test_exit_codes_are_those_of_the_bids_execution_specification(bids, tmp_path, capsys):
    def ends(code, message, *words):
        assert call("run", *words) == code
        assert message in capsys.readouterr().err

    new = tmp_path / "o"
    empty, odd = tmp_path / "empty", tmp_path / "odd"
    empty.mkdir()
    (odd / "sub-01").mkdir(parents=True)
    table = tmp_path / "table"
    shutil.copytree(bids / "sub-01", table / "sub-01")
    (table / ".bidsignore").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "nobody.json").write_text('{"megre": {"acquisition": "none"}}')
    ends(16, "has no sub-* folder", empty, new, "participant")
    ends(17, "choose participant or group", bids, new, "subject")
    ends(18, "sub-99 not in", bids, new, "participant", "--participant_label", "99")
    ends(18, "ses-9 not in", bids, new, "participant", "--session_label", "9")
    ends(18, "megre selects no file", bids, new, "participant", "--bids-filter-file",
         tmp_path / "nobody.json")  # fmt: skip
    ends(64, "No such option", bids, new, "participant", "--no-such-option")
    ends(64, "Missing argument", bids)
    ends(64, "choose from pvs", bids, new, "participant", "--methods", "mri")
    ends(64, "not both", bids, new, "participant", "--mem-gb", 8, "--memory-gb", 4)
    ends(64, "is the data set itself", bids, bids, "participant", "--workers", 0)
    ends(65, ".bidsignore: cannot be read", table, new, "participant")
    ends(65, "run the participant level first", bids, new, "group")
    ends(66, "does not exist", tmp_path / "no", new, "participant")
    ends(66, "holds no image", odd, new, "participant")
    qsm = ("--methods", "alps", "--workers", 0)
    ends(66, "no scan has what a method needs", bids, new, "participant", *qsm)
    ends(73, "cannot be written", bids, tmp_path / "file" / "o", "participant", "--workers", 0)
    ends(73, "--work-dir", bids, new, "participant", "-w", tmp_path / "file" / "w")
    with jobs._lock(new):
        ends(75, "another run is writing there", bids, new, "participant", "--workers", 0)
    assert call("run", "--version") == 0


def test_a_filter_file_says_which_scans_to_take(tmp_path):
    path = tmp_path / "filter.json"
    for name in ("acq-iso_run-01_T2w", "acq-fast_run-02_T2w", "run-2_FLAIR"):
        scan = tmp_path / "bids" / "sub-01" / "anat" / f"sub-01_{name}.nii"
        images.save(images.make(np.ones((2, 2, 2), np.uint8), np.eye(4)), scan)

    def image(filters):
        path.write_text(json.dumps(filters))
        folder = inputs.find(tmp_path / "bids", methods=["pvs"], filters=inputs.read_filters(path))
        first, *others = folder.measurements
        assert [m.series for m in others] == ([] if filters else ["acq-iso_run-01"])
        return Path(first.found.inputs["image"][0]).name

    assert image({}) == "sub-01_acq-fast_run-02_T2w.nii"
    assert image({"t2w": {"acquisition": "iso"}}) == "sub-01_acq-iso_run-01_T2w.nii"
    assert image({"T2w": {"acq": ["iso", "none"], "run": 1}}) == "sub-01_acq-iso_run-01_T2w.nii"
    with pytest.raises(InputError, match="t2w selects no file"):
        image({"t2w": {"acquisition": None}})
    with pytest.raises(InputError, match="dwi has no file of this suffix"):
        image({"dwi": {"run": 1}})
    with pytest.raises(InputError, match="must hold entities by suffix"):
        image({"t2w": "iso"})
    with pytest.raises(InputError, match="acquisitions: BIDS has no such entity"):
        image({"t2w": {"acquisitions": None}})
    with pytest.raises(InputError, match=r"no\.json does not exist"):
        inputs.read_filters(tmp_path / "no.json")


def test_a_look_before_the_run_names_who_lacks_what(bids, tmp_path, capsys):
    assert call("doctor", bids) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "qsm: 8 of 10 visits can be measured" in lines
    assert any(
        f"sub-{BROKEN}_qsm: " in line and "cannot be read as NIfTI" in line for line in lines
    )
    assert f"  sub-{SILENT}_qsm: " in "\n".join(lines)
    assert any(line.startswith("  10 x ") and " mm" in line for line in lines)
    assert "pvs: 0 of 10 visits can be measured" in lines
    odd = tmp_path / "bids" / "sub-1" / "anat" / "sub-1_T2w.nii"
    images.save(images.make(np.ones((3, 3, 3), np.uint8), np.diag([30.0, 30, 30, 1])), odd)
    assert call("doctor", tmp_path / "bids") == 1
    assert "  sub-1_pvs: sub-1_T2w.nii: " in capsys.readouterr().out
    odd.write_bytes(b"no image")
    assert call("doctor", tmp_path / "bids") == 1
    assert "sub-1_T2w.nii: cannot be read as NIfTI" in capsys.readouterr().out
    images.save(images.make(np.ones((3, 3, 3, 2), np.uint8), np.eye(4)), odd)
    odd.with_name("sub-1_FLAIR.nii").write_bytes(b"no image")
    assert call("doctor", tmp_path / "bids") == 1
    out = capsys.readouterr().out
    assert "sub-1_T2w.nii: has 4 dimensions" in out
    assert "sub-1_FLAIR.nii: cannot be read as NIfTI" in out
    assert call("doctor", tmp_path / "nothing") == 2


def test_masks_of_other_pipelines_are_taken_where_their_grid_fits(tmp_path, capsys):
    def put(where, name, n=4):
        image = images.make(np.ones((n, n, n), np.uint8), np.diag([2.0, 2, 2, 1]))
        return images.save(image, tmp_path / where / f"sub-01_{name}.nii")

    put("bids/sub-01/anat", "T2w")
    put("bids/sub-01/dwi", "dwi")
    for end in ("bval", "bvec"):
        (tmp_path / f"bids/sub-01/dwi/sub-01_dwi.{end}").write_text("0 1000")
    for part in ("mag", "phase"):
        put("bids/sub-01/anat", f"part-{part}_MEGRE")
    (tmp_path / "bids/MEGRE.json").write_text('{"EchoTime": 0.01, "MagneticFieldStrength": 3}')
    made = "out/sub-01/anat"
    brain = put(made, "desc-brain_mask")
    put(made, "space-MNI152NLin2009cAsym_desc-brain_mask", 5)
    lesion = put(made, "label-WMH_mask")
    put(made, "label-lesion_roi", 5)
    put(made, "space-orig_desc-brain_mask")
    put(made, "desc-preproc_T2w")
    folder = inputs.find(tmp_path / "bids", derivatives=[tmp_path / "out"])
    found = {m.method: m.found for m in folder.measurements}
    assert not any(f.lacks for f in found.values())
    assert found["pvs"].inputs["image"][0].endswith("bids/sub-01/anat/sub-01_T2w.nii")
    assert {found[m].parameters["brain_mask"] for m in ("pvs", "alps", "qsm")} == {str(brain)}
    assert found["pvs"].parameters["wmh_mask"] == str(lesion)
    assert found["qsm"].parameters["lesions"] == str(lesion)
    assert "brain mask of sub-01_desc-brain_mask.nii" in found["pvs"].notes
    (other,) = (note for note in found["pvs"].notes if "another grid" in note)
    assert other.startswith("sub-01_label-lesion_roi.nii lies on another grid than sub-01_T2w.nii")
    assert any("not used, as it is the second brain mask" in note for note in found["pvs"].notes)
    plain = {m.method: m.found for m in inputs.find(tmp_path / "bids").measurements}
    assert "brain_mask" not in plain["pvs"].parameters
    words = ("run", tmp_path / "bids", tmp_path / "o", "participant", "-d", tmp_path / "no")
    assert call(*words) == 66
    assert "--derivatives" in capsys.readouterr().err


def test_a_run_ends_at_the_first_failure_and_goes_on_later(bids, tmp_path, capsys):
    some = ("--participant_label", BROKEN, "08", "--methods", "qsm", "--n_cpus", 0)
    temporary = ("--work-dir", tmp_path / "w")
    out = tmp_path / "o"
    assert call("run", bids, out, "participant", *some, *temporary, "--stop-on-first-crash") == 1
    assert "stopped at the first failure, 1 scans before the end" in capsys.readouterr().out
    assert not (out / "sub-08").exists()
    assert call("run", bids, out, "participant", *some) == 1
    assert "1 done, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ((2, None, 6.0), (2, 3.0)),
        ((None, 3.0, None), (None, 3.0)),
        ((None, None, 4.0), (1, 4.0)),
        ((0, None, None), (0, None)),
    ],
)
def test_a_bound_of_all_processes_is_shared(given, shared):
    assert _run_command._share(*given) == shared


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((None, None, 0.5), "--mem-gb: 0.5; give 1 GB at least"),
        ((0, None, 4.0), "--mem-gb: bounds no process"),
        ((0, 4.0, None), "--memory-gb: bounds no process"),
    ],
)
def test_a_bound_that_bounds_nothing_is_refused(given, text):
    with pytest.raises(InputError, match=text):
        _run_command._share(*given)


def test_robust_distance_marks_the_odd_one():
    rng = np.random.default_rng(2)
    values = rng.normal(10, 2, 2001)
    z = group.robust_z(values)
    np.testing.assert_allclose(z.std(), 1, atol=0.08)  # as standard deviations, for a normal
    assert group.robust_z([*values[:50], 40.0])[-1] > group.OUTLYING
    assert np.isnan(group.robust_z([1, 2, 3, 4])).all()
    assert np.isnan(group.robust_z([1, 1, 1, 1, 1, 9])).all()
    assert np.isfinite(group.robust_z([1, 2, 3, 4, 5, np.nan])[:5]).all()


def test_outliers_are_named_in_the_table(done, bids, tmp_path):
    """A value far out, put into a record, is named in table and page."""
    out = tmp_path / "out"
    shutil.copytree(done, out)
    record = jobs.read_record(out, "sub-01_qsm")
    row = {**record.result["row"], "chi_sd_ppb": 500.0}
    stored = jobs.Record(**{**vars(record), "result": {**record.result, "row": row}})
    jobs.write_record(out, stored)
    result = group.summarise(inputs.find(bids, methods=["qsm"]), out)
    table = result.tables["qsm"].set_index("participant_id")
    assert table.loc["sub-01", "outliers"].startswith("chi_sd_ppb +")
    assert "spread of susceptibility (ppb) 500 (+" in result.report.read_text()


def test_a_table_holds_no_number_of_other_settings_or_files(done, bids, tmp_path):
    out, people = tmp_path / "out", tmp_path / "bids"
    shutil.copytree(done, out)
    shutil.copytree(bids, people)
    record = jobs.read_record(out, "sub-01_qsm")
    options = {**record.parameters["options"], "inversion": "tkd"}
    other = jobs.Record(**{**vars(record), "parameters": {"method": "qsm", "options": options}})
    jobs.write_record(out, other)
    echo = sorted(people.glob("sub-02/anat/*.nii.gz"))[0]
    shutil.copyfile(sorted(people.glob("sub-03/anat/*.nii.gz"))[0], echo)
    result = group.summarise(inputs.find(people, methods=["qsm"]), out)
    table = result.tables["qsm"].set_index("participant_id")
    assert list(table.index[table["outcome"] == "out of date"]) == ["sub-01", "sub-02"]
    assert "another inversion;" in table.loc["sub-01", "outcome_reason"]
    assert echo.name in table.loc["sub-02", "outcome_reason"]
    assert table.loc[["sub-01", "sub-02"], "chi_sd_ppb"].isna().all()
    others = table["outcome"] == "done"
    assert others.sum() == 6
    assert np.isfinite(table.loc[others, "chi_sd_ppb"]).all()
    settings = app.read_settings(None)
    settings["qsm"] = {"inversion": "l2"}
    with pytest.raises(InputError, match="with these files and settings"):
        group.summarise(inputs.find(people, methods=["qsm"]), out, settings=settings)
    echo.unlink()
    table = group.summarise(inputs.find(people, methods=["qsm"]), out).tables["qsm"]
    assert "measured before; now" in table.set_index("participant_id").loc["sub-02", "notes"]


@pytest.mark.public
def test_real_scans(public_file, tmp_path):
    """The diffusion slab, a person with two visits, and a crop of a gradient echo."""
    top = tmp_path / "bids"
    slab = "701_DTI_Biobank_2mm_MB3S2_EPI"
    for end in ("nii.gz", "bval", "bvec"):
        source = public_file("dwi_philips_slab", f"{slab}.{end}")
        touch(top, f"sub-slab/dwi/sub-slab_dwi.{end}")
        shutil.copyfile(source, top / f"sub-slab/dwi/sub-slab_dwi.{end}")
    for visit in (1, 2):
        for weighting, name in (("FLAIR", "FLAIR"), ("T1W", "T1w"), ("T2W", "T2w")):
            source = public_file("openms_longitudinal_p01", f"study{visit}_{weighting}.nii.gz")
            target = f"sub-ms/ses-{visit}/anat/sub-ms_ses-{visit}_{name}.nii.gz"
            touch(top, target)
            shutil.copyfile(source, top / target)
    meta = json.dumps({"EchoTime": [0.004, 0.008, 0.012], "MagneticFieldStrength": 7})
    for part, name in (("mag", "Mag.nii"), ("phase", "Phase.nii")):
        target = top / f"sub-crop/anat/sub-crop_part-{part}_T2starw.nii"
        touch(top, str(target.relative_to(top)))
        shutil.copyfile(public_file("gre_small_romeo", name), target)
        target.with_suffix(".json").write_text(meta)
    out = tmp_path / "out"
    code = call("run", top, out, "participant", "--workers", 0)
    assert code == 0
    assert call("run", top, out, "group") == 0
    alps = pd.read_csv(out / "group_alps.tsv", sep="\t").set_index("participant_id")
    assert alps.loc["sub-slab", "registration_model"] == "scaling"
    assert alps.loc["sub-slab", "status"] == "warn"
    pvs = pd.read_csv(out / "group_pvs.tsv", sep="\t").set_index(["participant_id", "session_id"])
    assert list(pvs.loc["sub-ms", "outcome"]) == ["done", "done"]
    assert set(pvs.loc["sub-ms", "status"]) <= {"warn", "fail"}, "slices are thick"
    qsm = pd.read_csv(out / "group_qsm.tsv", sep="\t").set_index("participant_id")
    assert qsm.loc["sub-crop", "status"] == "fail"
    assert np.isnan(qsm.loc["sub-crop", "chi_sd_ppb"]), "a crop holds no susceptibility"
    assert validate(out) == []


# --- who is who, and when -----------------------------------------------------------------------


def names(dataset: inputs.Dataset) -> list[str]:
    return [scan.name for scan in dataset.measurements]


def test_a_folder_may_have_any_name(tmp_path):
    for name in ("ds-1.0.2", "study [1]", "a?b*", "Übung"):
        touch(tmp_path, f"{name}/sub-1/anat/sub-1_T2w.nii.gz")
        assert names(inputs.find(tmp_path / name, methods=["pvs"])) == ["sub-1_pvs"]


def test_folder_and_name_must_agree(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-2_T2w.nii.gz", "sub-2/anat/sub-2_T2w.nii.gz")
    touch(tmp_path, "sub-3/ses-2/anat/sub-3_ses-1_T2w.nii.gz")
    found = {s.participant: s for s in inputs.find(tmp_path, methods=["pvs"]).measurements}
    assert not found["sub-2"].lacks
    assert found["sub-2"].found.inputs["image"] == [str(tmp_path / "sub-2/anat/sub-2_T2w.nii.gz")]
    assert "lies in sub-1/anat/" in found["sub-1"].lacks[0]
    assert "lies in sub-3/ses-2/anat/" in found["sub-3"].lacks[0]


def test_who_is_expected_and_has_no_image_is_a_row_with_a_reason(tmp_path, capsys):
    write_dataset(tmp_path / "bids", ["01"], rng=np.random.default_rng(3), methods=["qsm"])
    (tmp_path / "bids" / "sub-02").mkdir()
    table = tmp_path / "bids" / "participants.tsv"
    table.write_text("participant_id\tage\nsub-01\t30\nsub-03\t31\n")
    dataset = inputs.find(tmp_path / "bids", methods=["qsm"])
    lacks = {s.participant: s.lacks for s in dataset.measurements}
    assert lacks["sub-01"] == ()
    assert "no image" in lacks["sub-02"][0]
    assert "named in participants.tsv, but there is no folder" in lacks["sub-03"][0]
    assert call("run", tmp_path / "bids", tmp_path / "out", "participant", "--methods", "qsm",
                "--workers", 0) == 1  # fmt: skip
    told = capsys.readouterr().out
    assert "nothing could be measured in sub-02, sub-03" in told
    assert call("run", tmp_path / "bids", tmp_path / "out", "group", "--methods", "qsm") == 0
    rows = pd.read_csv(tmp_path / "out" / "group_qsm.tsv", sep="\t").set_index("participant_id")
    assert rows["outcome"].to_dict() == {
        "sub-01": "done", "sub-02": "skipped", "sub-03": "skipped",
    }  # fmt: skip
    page = (tmp_path / "out" / "group.html").read_text()
    assert "sub-02 without a row in participants.tsv" in page
    table.write_text("participant_id\tage\n1\t30\n2\t31\n")
    capsys.readouterr()
    assert call("run", tmp_path / "bids", tmp_path / "out", "group", "--methods", "qsm") == 1
    assert "participants.tsv matches nobody" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "out" / "group_qsm.tsv", sep="\t")
    assert "age" not in rows
    assert len(rows) == 2, "nobody is expected by a table of other labels"


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ("sub-02/\n", ["sub-01", "sub-10"]),
        ("# withdrawn\nsub-1*\n", ["sub-01", "sub-02"]),
        ("**/*_T2w.nii.gz\n!sub-02/anat/*\n", ["sub-02"]),
        ("/sub-01/anat/sub-01_T2w.nii.gz\n", ["sub-02", "sub-10"]),
        ("sub-1/**\nsub-0*/x\n", ["sub-01", "sub-02", "sub-10"]),
        ("\ufeffsub-02\n", ["sub-01", "sub-10"]),
    ],
)
def test_bidsignore_is_read(tmp_path, patterns, kept):
    for person in ("01", "02", "10"):
        touch(tmp_path, f"sub-{person}/anat/sub-{person}_T2w.nii.gz")
    (tmp_path / ".bidsignore").write_text(patterns)
    dataset = inputs.find(tmp_path, methods=["pvs"])
    assert [s.participant for s in dataset.measurements if not s.lacks] == kept
    told = any("left out by .bidsignore" in note for note in dataset.notes)
    assert told == (len(kept) < 3)


def test_a_bidsignore_that_cannot_be_read_stops(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    (tmp_path / ".bidsignore").write_bytes("sub-01 # zurückgezogen".encode("latin-1"))
    with pytest.raises(InputError, match=r"\.bidsignore: cannot be read"):
        inputs.find(tmp_path)


def test_a_visit_without_an_image_is_a_row_with_a_reason(tmp_path):
    touch(tmp_path, "sub-1/ses-1/anat/sub-1_ses-1_T2w.nii.gz")
    (tmp_path / "sub-1" / "ses-2").mkdir()
    touch(tmp_path, "sub-1/ses-3/anat/sub-1_ses-1_T2w.nii.gz")
    lacks = {s.session: s.lacks for s in inputs.find(tmp_path, methods=["pvs"]).measurements}
    assert lacks["ses-1"] == ()
    assert "no image" in lacks["ses-2"][0]
    assert "lies in sub-1/ses-3/anat/" in lacks["ses-3"][0]
    asked = inputs.find(tmp_path, methods=["pvs"], sessions=["1"])
    assert [s.session for s in asked.measurements] == ["ses-1"]


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        ("participant_id\tsite\tage\nsub-1\t02\t30\t\nsub-2\t01\t70\t\n", ["02", "01"]),
        ("participant_id\tsite\tage\nsub-1\t02\t30\nsub-2\tNone\t70\n\t\t\n", ["02", "None"]),
        ('participant_id\tsite\tage\nsub-1\t"02\t30\nsub-2\t01\t70\n', ['"02', "01"]),
        ("\ufeffparticipant_id\tsite\tage\n1\tn/a\t30\n2\t01\t70\n", [None, "01"]),
    ],
)
def test_a_row_of_participants_belongs_to_its_person(tmp_path, text, sites):
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", "sub-2/anat/sub-2_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_text(text)
    table = inputs.find(tmp_path, methods=["pvs"]).participants
    found = table["site"].astype(object).where(table["site"].notna(), None)
    assert found.to_dict() == dict(zip(["sub-1", "sub-2"], sites, strict=True))
    assert table["age"].tolist() == ["30", "70"]


def test_a_label_that_leads_elsewhere_is_not_used(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-1\nsub-a/../../x\n")
    dataset = inputs.find(tmp_path, methods=["pvs"])
    assert dataset.labels == ["sub-1"]
    assert "is no BIDS label" in dataset.notes[0]


def test_a_result_that_the_user_edited_is_kept(tmp_path):
    top = write_dataset(tmp_path / "b", ["1"], rng=np.random.default_rng(3), methods=["qsm"])
    run = ("run", top, tmp_path / "o", "participant", "--methods", "qsm", "--workers", 0)
    assert call(*run) == 0
    table = next((tmp_path / "o").rglob("*1_qsm.tsv"))
    whole = table.read_bytes()
    table.write_text("my own notes")
    assert call(*run) == 0
    assert table.read_bytes() == whole
    assert table.with_name(f"{table.name}.changed").read_text() == "my own notes"
    table.write_text("more notes")
    assert call(*run) == 0
    assert table.with_name(f"{table.name}.changed").read_text() == "my own notes"
    assert table.with_name(f"{table.name}.1.changed").read_text() == "more notes"


@pytest.mark.parametrize("name", ["Sub-02", "sub02", "sub_02", "SUB-b"])
def test_a_folder_that_means_a_participant_is_a_row(tmp_path, name):
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", f"{name}/anat/{name}_T2w.nii.gz")
    (tmp_path / "subtracted").mkdir()
    lacks = {m.participant: m.found.lacks for m in inputs.find(tmp_path).measurements}
    assert set(lacks) == {"sub-1", name}
    assert f"the folder {name} is no BIDS name; rename it sub-" in lacks[name][0]


def test_an_image_stored_twice_is_named(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", "sub-1/anat/sub-1_T2w.nii")
    scan = inputs.find(tmp_path, methods=["pvs"]).measurements[0]
    assert "the same name stands there with another ending; keep one" in scan.found.lacks[0]


def test_of_two_gradient_echoes_the_one_of_most_echoes_comes_first(tmp_path):
    for run, n_echoes in (("1", 2), ("2", 3)):
        for echo in range(1, n_echoes + 1):
            for part in ("mag", "phase"):
                stem = f"sub-1/anat/sub-1_run-{run}_echo-{echo}_part-{part}_MEGRE"
                touch(tmp_path, f"{stem}.nii.gz")
                meta = {"EchoTime": 0.005 * echo, "MagneticFieldStrength": 3}
                (tmp_path / f"{stem}.json").write_text(json.dumps(meta))
    scan, other = inputs.find(tmp_path, methods=["qsm"]).measurements
    assert [len(s.found.inputs["phase"]) for s in (scan, other)] == [3, 2]
    assert [s.name for s in (scan, other)] == ["sub-1_run-2_qsm", "sub-1_run-1_qsm"]
    assert "the first of 2 series for statistics, by: most echoes" in scan.found.notes[0]
    magnitude = "sub-1_run-2_echo-1_part-mag_MEGRE.nii.gz"
    assert f"one of 2 series; {magnitude} comes before it" in other.found.notes[0]


def test_a_row_with_a_cell_too_many_is_told(tmp_path):
    """Else its last cells are cut, and a value stands under its neighbour's name."""
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\tMS\t41\n")
    dataset = inputs.find(tmp_path, methods=["pvs"])
    assert "a row has more cells than its head" in dataset.notes[0]
    assert "age" not in dataset.participants


@pytest.mark.parametrize("person", ["sub-1", "sub-2"])
def test_results_do_not_go_into_the_folder_of_a_participant(tmp_path, person):
    """Asked for or not."""
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", "sub-2/anat/sub-2_T2w.nii.gz")
    folder = inputs.find(tmp_path, methods=["pvs"], participants=["1"])
    with pytest.raises(InputError, match="lies in the folder of a participant"):
        next(app.run_participants(folder, tmp_path / person / "out"))
    assert not (tmp_path / "sub-1" / "out").exists()


def test_a_setting_does_not_contradict_what_files_say(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz")
    folder = inputs.find(tmp_path, methods=["pvs"])
    for settings in ({}, {"contrast": "t2"}):
        ((_, task),) = app.plan(folder, {**app.read_settings(None), "pvs": settings})
        assert task.parameters["options"]["contrast"] == "t2"
    ((_, record),) = app.plan(folder, {**app.read_settings(None), "pvs": {"contrast": "t1"}})
    assert "contrast is t1 in the settings, but the files of this scan say t2" in record.reason


def test_settings_from_python_are_stored_as_a_file_would_have_them(bids):
    folder = inputs.find(bids, methods=["qsm"], participants=["01"])
    given = {"echo_times_s": np.array([0.006, 0.012, 0.018]), "harmonic_degree": np.int64(4)}
    ((_, task),) = app.plan(folder, {"qsm": given})
    assert task.parameters["options"]["harmonic_degree"] == 4
    json.dumps(task.parameters)


@pytest.mark.parametrize(
    ("removed", "settings", "message"),
    [
        ({"EchoTime"}, {}, "as qsm: {echo_times_s: [0.004, 0.008, 0.012]}"),
        ({"EchoTime"}, {"field_strength_t": 3}, "no EchoTime in its sidecars; write it there"),
        ({"EchoTime"}, {"echo_times_s": [0.006, 0.012, 0.018]}, ""),
        ({"MagneticFieldStrength"}, {"field_strength_t": 3}, ""),
        (set(), {"echo_times_s": [0.006, 0.012, 0.01801], "field_strength_t": 3.0}, ""),
        ({"EchoTime"}, {"field_strength_t": 7}, "field_strength_t is 7 in the settings, but the"),
        (set(), {"echo_times_s": [0.006, 0.012, 0.02]}, "0.006, 0.012, 0.02 in the settings, but"),
        (set(), {"echo_times_s": [0.006, 0.012]}, "files of this scan say 0.006, 0.012, 0.018"),
        ({"one"}, {"echo_times_s": [0.006, 0.012, 0.018]}, ""),
        ({"one"}, {"echo_times_s": [0.006, 0.013, 0.018]}, "say nothing, 0.012, 0.018"),
        ({"EchoTime", "MagneticFieldStrength"}, {"field_strength_t": 3}, "no EchoTime and no"),
        (
            {"EchoTime", "MagneticFieldStrength"},
            {"field_strength_t": 3, "echo_times_s": [0.006, 0.012, 0.018]},
            "",
        ),
    ],
)
def test_settings_give_what_sidecars_lack(tmp_path, removed, settings, message):
    top = tmp_path / "bids"
    write_dataset(top, ["1"], rng=np.random.default_rng(3), methods=["qsm"], sessions=["1", "2"])
    for path in top.glob("*MEGRE.json"):
        content = json.loads(path.read_text())
        gone = {"EchoTime"} if removed == {"one"} and "echo-1" in path.name else removed
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in gone}))
    written = tmp_path / "s.yml"
    written.write_text(json.dumps({"qsm": settings}))
    planned = list(app.plan(inputs.find(top, methods=["qsm"]), app.read_settings(written)))
    if message:
        assert len(planned) == 2
        assert all(message in record.reason for _, record in planned)
        return
    (*_, (_, single), (_, pair)) = planned
    options = single.parameters["options"]
    assert options["echo_times_s"] == pytest.approx([0.006, 0.012, 0.018], rel=0.01)
    assert options["field_strength_t"] == 3
    assert pair.name == "sub-1_ses-2_from-1_qsmchange"
    assert pair.parameters["options"]["field_strength_t"] == (3, 3)


def test_results_name_both_visits_of_a_change(visits, tmp_path):
    """Three visits: what is asked for by label has a name of its own."""
    one, _ = visits
    top, out = tmp_path / "bids", tmp_path / "out"
    shutil.copytree(one, top)
    shutil.copytree(top / "sub-a/ses-2", top / "sub-a/ses-3")
    for path in (top / "sub-a/ses-3").rglob("*.*"):
        path.rename(path.with_name(path.name.replace("ses-2", "ses-3")))
    rng = np.random.default_rng(9)
    for path in (top / "sub-a/ses-3").rglob("*.nii.gz"):  # another scan, not a copy
        image = images.load(path)
        data = images.array(image)
        noise = rng.uniform(0.99, 1.01, data.shape) if data.min() >= 0 else 1.0
        inner = np.abs(data) < 0.9 * np.abs(data).max()
        turned = np.where(inner, rng.integers(-9, 10, data.shape), 0)
        other = data * noise + (turned if data.min() < 0 else 0)
        images.save(images.make(other, image.affine), path)
    words = ("run", top, out, "participant", "--methods", "qsm", "--workers", 0)
    assert call(*words) == 0
    first = next(out.rglob("sub-a_ses-3_from-1_desc-change_qsm.tsv")).read_bytes()
    assert call(*words, "--session-label", "2", "3") == 0
    names = {p.name for p in out.rglob("*desc-change_qsm.tsv")}
    assert names == {
        f"sub-a_{pair}_desc-change_qsm.tsv"
        for pair in ("ses-2_from-1", "ses-3_from-1", "ses-3_from-2")
    }
    assert next(out.rglob("sub-a_ses-3_from-1_desc-change_qsm.tsv")).read_bytes() == first
    page = (out / "sub-a.html").read_text()
    assert "no acq_time and no age for all of ses-1, ses-2, ses-3" in page
    dates = "".join(f"ses-{k}\t{40 + k}\n" for k in (1, 2, 3))
    (top / "sub-a" / "sub-a_sessions.tsv").write_text(f"session_id\tage\n{dates}")
    assert call(*words) == 0
    assert call("run", top, out, "group", "--methods", "qsm") == 0
    slopes = pd.read_csv(out / "group_qsmchangeslopes.tsv", sep="\t")
    assert set(slopes["participant_id"]) == {"sub-a"}
    assert (slopes["slope_ppb_per_year"].abs() < 3 * slopes["se_ppb_per_year"]).any()
    page = (out / "sub-a.html").read_text()
    assert "Change of susceptibility per year" in page
    assert "Change of susceptibility since ses-1" in page
    assert "Change of susceptibility since ses-2" in page
    assert call("run", top, out, "group", "--methods", "qsm", "--session-label", "2", "3") == 0
    row = pd.read_csv(out / "group_qsmchange.tsv", sep="\t").iloc[0]
    assert (row["session_id"], row["first_session"]) == ("ses-3", "ses-2")
    assert "sub-a_ses-3_from-2_desc-changereport_qsm.html" in (out / "group.html").read_text()


@pytest.mark.parametrize(
    ("where", "is_link"),
    [
        ("sub-1/anat/sub-1_desc-report_pvs.html", True),
        ("sub-1/../../etc/passwd.html", False),
        ("javascript:alert(1)", False),
        ("https://example.org/sub-1/x.html", False),
        ("/sub-1/anat/x.html", False),
        (["sub-1/anat/x.html"], False),
        (None, False),
    ],
)
def test_a_record_links_to_pages_of_its_folder_only(where, is_link):
    link = app.link_to_page("a scan", {"report": where})
    assert link == ({"text": "a scan", "href": where} if is_link else "a scan")


def test_other_contents_of_a_file_that_an_option_names_are_measured_again(tmp_path):
    zero = tmp_path / "zero.nii.gz"
    zero.write_bytes(b"x")
    write_dataset(tmp_path / "bids", ["1"], rng=np.random.default_rng(3), methods=["qsm"])
    dataset = inputs.find(tmp_path / "bids", methods=["qsm"])
    ((_, task),) = app.plan(dataset, {"qsm": {"reference": str(zero)}})
    assert task.inputs["option reference"] == [str(zero)]


def test_magnitude_and_phase_of_one_echo_have_one_echo_time(tmp_path):
    write_dataset(tmp_path, ["01", "02"], rng=np.random.default_rng(3), methods=["qsm"])
    name = "sub-02_echo-1_part-phase_MEGRE.json"
    (tmp_path / "sub-02" / "anat" / name).write_text('{"EchoTime": 0.003}')
    found = {s.participant: s for s in inputs.find(tmp_path, methods=["qsm"]).measurements}
    assert not found["sub-01"].lacks
    assert "EchoTime is 0.006, but 0.003 for sub-02_echo-1_part-phase" in found["sub-02"].lacks[0]


@pytest.mark.parametrize(
    ("labels", "table", "order", "how"),
    [
        (
            ("post", "pre"),
            "ses-post\t2022-01-01\nses-pre\t2020-01-01",
            ("pre", "post"),
            "acq_time",
        ),
        (("1", "2"), "ses-1\t2022-01-01\nses-2\t2020-01-01", ("2", "1"), "acq_time"),
        (("M12", "M6"), "", ("M6", "M12"), "numbers"),
        (("day1", "week2"), "", ("day1", "week2"), "letters"),
        (("1", "2"), "1 \t2022-01-01\n 2\t2020-01-01", ("2", "1"), "acq_time"),
        (("10", "2"), "ses-10\tn/a\nses-2\t2020-01-01", ("2", "10"), "numbers"),
        (("followup", "baseline"), "", ("baseline", "followup"), "words"),
        (("A", "B"), "", ("A", "B"), "letters"),
        (("12m", "24m", "baseline"), "", ("baseline", "12m", "24m"), "words and numbers"),
        (("baseline", "m24", "y1"), "", ("baseline", "m24", "y1"), "letters"),
        (("1y", "6m"), "ses-1y\t2021-01-01\nses-6m\t2020-07-01", ("6m", "1y"), "acq_time"),
        (("1y", "6m"), "", ("1y", "6m"), "letters of their labels, which may not be that of time"),
    ],
)
def test_visits_are_ordered_by_time(tmp_path, labels, table, order, how):
    for label in labels:
        touch(tmp_path, f"sub-1/ses-{label}/anat/sub-1_ses-{label}_T2w.nii.gz")
    if table:
        (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text(f"session_id\tacq_time\n{table}\n")
    dataset = inputs.find(tmp_path, methods=["pvs"])
    assert [s.session for s in dataset.measurements] == [f"ses-{label}" for label in order]
    assert any(how in note and "sub-1" in note for note in dataset.notes)
    if not table:
        for k, label in enumerate(reversed(order)):
            folder = tmp_path / "sub-1" / f"ses-{label}"
            (folder / f"sub-1_ses-{label}_scans.tsv").write_text(
                f"filename\tacq_time\nanat/x\t202{k}-01-01T10:00:00\n"
            )
        turned = inputs.find(tmp_path, methods=["pvs"])
        assert [s.session for s in turned.measurements] == [
            f"ses-{label}" for label in reversed(order)
        ]


def test_ages_order_visits_where_no_date_is_there(tmp_path):
    for label in ("1y", "6m"):
        touch(tmp_path, f"sub-1/ses-{label}/anat/sub-1_ses-{label}_T2w.nii.gz")
    table = tmp_path / "sub-1" / "sub-1_sessions.tsv"
    table.write_text("session_id\tage\nses-1y\t41.0\nses-6m\t40.5\n")
    dataset = inputs.find(tmp_path, methods=["pvs"])
    assert [s.session for s in dataset.measurements] == ["ses-6m", "ses-1y"]
    assert any("by age of sessions.tsv" in note for note in dataset.notes)
    years, by = sessions.years_since_first(tmp_path, "sub-1", ["ses-1y", "ses-6m"])
    assert (years, by) == ({"ses-1y": 0.5, "ses-6m": 0.0}, "age of sessions.tsv")
    assert sessions.years_since_first(tmp_path, "sub-1", ["ses-1y", "ses-2y"]) == ({}, "")


def _compared(later, row, first="ses-1", status="done"):
    measurement = inputs.Measurement("sub-1", later, "qsmchange", first=first)
    return measurement, jobs.Record(measurement.name, status, result={"row": row})


def test_three_visits_with_dates_have_a_slope_and_others_a_reason(tmp_path):
    method = by_name("qsmchange")
    rows = [
        {"caudate_left_change_ppb": 2.0 * t, "caudate_left_error_ppb": 1.0} for t in (0.5, 1.5)
    ]
    ended = [_compared("ses-2", rows[0]), _compared("ses-3", rows[1])]

    def trend(some):
        return _trends.trend(method, tmp_path, "sub-1", some)

    assert "fewer than three visits" in trend(ended[:1])["reason"].item()
    failed = [*ended[:1], _compared("ses-3", rows[1], status="failed")]
    assert "fewer than three visits" in trend(failed)["reason"].item()
    assert "ses-1, ses-2, ses-3 in sub-1_sessions.tsv" in trend(ended)["reason"].item()
    (tmp_path / "sub-1").mkdir()
    table = tmp_path / "sub-1" / "sub-1_sessions.tsv"
    table.write_text("session_id\tage\nses-1\t40\nses-2\t40.5\nses-3\t41.5\n")
    found = trend(ended).set_index(["region", "side"])
    assert found.loc["caudate", "left"]["slope_ppb_per_year"] == pytest.approx(2.0)
    assert found.loc["caudate", "left"]["n_visits"] == 3
    assert found.loc["caudate", "right"]["reason"] == "fewer than 3 visits with a value"
    assert np.isnan(found.loc["caudate", "right"]["slope_ppb_per_year"])
    table.write_text("session_id\tage\nses-1\t42\nses-2\t40.5\nses-3\t41.5\n")
    assert "was not the first by its date" in trend(ended)["reason"].item()
    assert set(found.reset_index().columns) == set(method.trend_columns)


@pytest.mark.parametrize(
    "meta",
    [
        '{"EchoTime": 0.006, "MagneticFieldStrength": [3, {}]}',
        "[" * 100_000,
        '{"EchoTime": "6 ms"}',
    ],
)
def test_a_sidecar_of_one_person_stops_nobody_else(tmp_path, meta):
    write_dataset(tmp_path, ["01", "02"], rng=np.random.default_rng(3), methods=["qsm"])
    for path in list(tmp_path.glob("sub-02/anat/*part-phase*.nii.gz")):
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(meta)
    found = {s.participant: s for s in inputs.find(tmp_path, methods=["qsm"]).measurements}
    assert not found["sub-01"].lacks
    assert found["sub-02"].lacks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("participant_id\tage\nsub-1\t30\nsub-2\t40\nsub-1\t30\n", "sub-1 stands there twice"),
        ("participant_id\tage\nsub-1\t30\n1\t31\n", "sub-1 stands there twice"),
        ("participant_id\tname\nsub-1\tJosé\n".encode("latin-1"), "it is not UTF-8; save it"),
        ("participant_id\tname\nsub-1\tJos\n".encode("utf-16"), "it is not UTF-8; save it"),
        ("", "No columns to parse"),
        ("\n\n", "No columns to parse"),
        ("id\tage\nsub-1\t30\n", "no column participant_id"),
        ("participant_id,age\nsub-1,30\n", "no column participant_id"),
        ("participant_id\tage\nsub-1\t30\t1\t2\nsub-2\t4\t5\t6\t7\n", "saw 5"),
        ("\ufeffparticipant_id\tage\r\nsub-1\t30\r\nsub-2\t40\r\n", ""),
        ("participant_id\tage\rsub-1\t30\rsub-2\t40\r", ""),
        ("participant_id\nsub-1\nsub-2", ""),
        (None, "not a regular file"),
    ],
)
def test_a_table_of_participants_that_cannot_be_used(tmp_path, monkeypatch, content, message):
    """A note at the level of participants, which needs none; an error at that of the group."""
    monkeypatch.setattr(methods, "ALL", (*methods.ALL, TOY))
    top, out = tmp_path / "bids", tmp_path / "out"
    for label in ("1", "2"):
        cube = np.zeros((10, 10, 10), np.float32)
        cube[: 3 + int(label)] = 2
        image = images.make(cube, np.eye(4))
        images.save(image, top / f"sub-{label}/anat/sub-{label}_FLAIR.nii.gz")
    if content is None:
        (top / "participants.tsv").mkdir()
    else:
        content = content if isinstance(content, bytes) else content.encode()
        (top / "participants.tsv").write_bytes(content)
    folder = inputs.find(top, methods=["toy"])
    assert [r.status for r in app.run_participants(folder, out)] == ["done", "done"]
    assert any(message and message in note for note in folder.notes) == bool(message)
    if message:
        with pytest.raises(InputError, match=f"bids/participants.tsv is not used: .*{message}"):
            group.summarise(folder, out)
        assert not list(out.glob("group*"))
    else:
        (table,) = group.summarise(folder, out).tables.values()
        assert table["participant_id"].tolist() == ["sub-1", "sub-2"]
