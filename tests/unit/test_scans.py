"""Scans of the manifest: found, loaded, and added from an OpenNeuro clone."""

import json
import subprocess

import openneuro
import pytest
import yaml

from pvsbook import InputError, manifest, methods
from pvsbook_book import scans

DESCRIPTION = "dataset_description.json"
S3 = "https://s3.amazonaws.com/openneuro.org/ds1"


def test_every_data_set_of_openneuro_has_scans_with_sidecars_beside_them():
    for name in manifest.datasets():
        data = manifest.describe(name)
        if not name.startswith("ds0"):
            continue
        assert data.scans, name
        for scan in data.scans:
            files = [f.path for f in manifest.describe(name).files_of(scan)]
            assert set(scan.paths) <= set(files)
        names = [scan.method for scan in data.scans]
        assert names == sorted(names)
        assert len({(scan.method, scan.label) for scan in data.scans}) == len(names)


def test_every_scan_of_the_project_has_what_its_method_reads():
    for name in manifest.datasets():
        for scan in manifest.describe(name).scans:
            method = methods.by_name(scan.method)
            needed = {i.name for i in method.inputs}
            options = {option.name for option in method.options}
            assert needed <= set(scan.files) <= needed | options, (name, scan.label)
            assert set(scan.options) <= options, (name, scan.label)


@pytest.mark.parametrize(
    ("load", "scan", "said"),
    [
        (
            "anatomy",
            {"method": "pvs", "files": {"image": 0}},
            "has image; needed: contrast, image",
        ),
        ("diffusion", {"method": "alps", "files": {"dwi": 0}}, "has dwi; needed: bval, bvec, dwi"),
        (
            "gradient_echo",
            {"method": "qsm", "files": {"magnitude": 0, "phase": 0}, "options": {"gain": 1}},
            "has gain, magnitude, phase; needed: magnitude, phase; correct",
        ),
    ],
)
def test_an_entry_that_does_not_fit_its_method_is_named(entry, load, scan, said, monkeypatch):
    scan = scan | {"files": dict.fromkeys(scan["files"], DESCRIPTION)}
    content = yaml.safe_load(entry.read_text()) | {"scans": [scan]}
    entry.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(manifest, "fetch", lambda name, files, **_: dict.fromkeys(files))
    with pytest.raises(InputError, match=said):
        getattr(scans, load)("ds1")


def test_scans_of_a_clone_are_those_that_the_methods_find(tmp_path):
    """Images are links to nowhere, as in a clone without their bytes."""
    (tmp_path / "dataset_description.json").write_text('{"Name": "n", "BIDSVersion": "1.8.0"}')
    (tmp_path / "dwi.bval").write_text("0 1000\n")
    names = ["dwi/sub-1_dwi.nii.gz", "anat/sub-1_acq-FLAIR_T2w.nii.gz", "anat/sub-1_T1w.nii.gz"]
    names += [
        f"anat/sub-1_echo-{k}_part-{part}_MEGRE.nii.gz"
        for part in ("mag", "phase")
        for k in range(1, 13)
    ]
    for name in names:
        image = tmp_path / "sub-1" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        image.symlink_to("../../.git/annex/objects/none")
        if "echo" in name:
            times = {"EchoTime": 0.004 * int(name.split("-")[2].split("_")[0])}
            content = json.dumps(times | {"MagneticFieldStrength": 3})
            image.with_name(image.name.replace(".nii.gz", ".json")).write_text(content)
    pvs, qsm = openneuro.find_scans(tmp_path, "sub-1")  # without b-vectors no diffusion
    assert (pvs.files, pvs.options) == ({"image": f"sub-1/{names[2]}"}, {"contrast": "t1"})
    assert qsm.files["magnitude"] == tuple(f"sub-1/{name}" for name in names[3:15])  # 2 before 10
    assert qsm.options["field_strength_t"] == 3
    (tmp_path / "dwi.bvec").write_text("0 1\n0 0\n0 0\n")
    scans_found = {scan.method: scan for scan in openneuro.find_scans(tmp_path, "1")}
    assert scans_found["alps"].files["bvec"] == "dwi.bvec"


def key_line(path, **changes):
    entry = {
        "file": path,
        "key": f"MD5E-s12--{'0' * 32}.nii.gz",
        "whereis": [{"urls": []}, {"urls": [f"http://{S3[8:]}/{path}?versionId=x"]}],
    }
    return json.dumps(entry | changes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "not a line of `git annex whereis --json`: 'not json'"),
        ('{"file": "a"}', "not a line of"),
        (key_line("a.nii.gz", key="WORM-s1-m2--a"), "holds no size and md5 or sha256"),
        (key_line("a.nii.gz", whereis=[{"urls": ["https://a"]}]), "no address with a versionId"),
        (key_line("../a.nii.gz"), "not a path inside"),
    ],
)
def test_a_bad_listing_is_named_with_its_line(line, said):
    with pytest.raises(InputError, match=r"keys, line 2") as caught:
        openneuro.read_keys(["", line])
    assert said in str(caught.value)


@pytest.fixture
def clone(tmp_path):
    """A clone with one sidecar of its own bytes and one annexed scan."""
    folder = tmp_path / "ds1"
    anat = folder / "sub-2" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-2_T2w.json").write_text("{}\n")
    (anat / "sub-2_T2w.nii.gz").symlink_to("../../.git/annex/objects/none")
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "data"], check=True)
    return folder


@pytest.fixture
def entry(tmp_path, monkeypatch):
    folder = tmp_path / "manifest"
    folder.mkdir()
    content = {
        "name": "ds1",
        "title": "A title: with a colon",
        "description": "Long enough to be folded. " * 6,
        "licence": "CC0-1.0",
        "citation": "Cite.",
        "authors": ["A B"],
        "version": "1.0.0",
        "repository": "https://github.com/OpenNeuroDatasets/ds1",
        "files": [
            {
                "path": "dataset_description.json",
                "size": 2,
                "md5": "0" * 32,
                "url": None,
                "derived_from": "nothing",
            }
        ],
    }
    (folder / "ds1.yml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("PVSBOOK_MANIFEST", str(folder))
    return folder / "ds1.yml"


def test_a_person_is_added_without_any_bytes_of_scans(clone, entry):
    scan = "sub-2/anat/sub-2_T2w.nii.gz"
    for _ in range(2):  # adding again changes nothing
        assert openneuro.add("ds1", clone, [key_line(scan)], subject="sub-2") == entry
        data = manifest.describe("ds1")
        assert [f.path for f in data.files] == [
            "dataset_description.json",
            "sub-2/anat/sub-2_T2w.json",
            scan,
        ]
        assert data.files[0].url is None
        assert data.files[2].url == f"{S3}/{scan}?versionId=x"
        assert data.files[1].size == 3
        head = subprocess.check_output(["git", "-C", clone, "rev-parse", "HEAD"], text=True)
        assert f"/ds1/{head.strip()}/sub-2/" in data.files[1].url
        assert data.scan("pvs", subject="2").files == {"image": scan}


def test_the_command_adds_a_person_or_says_why_not(clone, entry, tmp_path, capsys):
    keys = tmp_path / "keys.jsonl"
    words = ["ds1", "--clone", str(clone), "--keys", str(keys), "--subject", "sub-2"]
    with pytest.raises(SystemExit, match="2"):
        openneuro.main(words)
    assert "keys.jsonl" in capsys.readouterr().err
    keys.write_text(key_line("sub-2/anat/sub-2_T2w.nii.gz") + "\n")
    openneuro.main(words)
    assert capsys.readouterr().out == f"{entry}\n"
    assert manifest.describe("ds1").subjects == ("sub-2",)


def test_what_cannot_be_added_is_said(clone, entry, tmp_path):
    before = entry.read_bytes()
    with pytest.raises(InputError, match="is annexed but not listed"):
        openneuro.add("ds1", clone, [], subject="2")
    with pytest.raises(InputError, match="nothing of sub-3 is in this clone"):
        openneuro.add("ds1", clone, [], subject="3")
    with pytest.raises(InputError, match="git cannot read it"):
        openneuro.add("ds1", tmp_path / "none", [], subject="2")
    assert entry.read_bytes() == before


@pytest.mark.parametrize(
    ("scan", "said"),
    [
        (
            {"method": "pvs", "files": {"image": "a"}},
            "scan the only one: 'a' is none of the files",
        ),
        (
            {"method": "alps", "files": {"dwi": DESCRIPTION, "bval": "b"}},
            "'b' is none of the files",
        ),
        ({"method": "pvs", "files": {}}, "scans[0].files"),
        ({"method": "", "files": {"image": DESCRIPTION}}, "needed: the name of a method"),
        ({"files": {"image": DESCRIPTION}}, "scans[0].method: Field required"),
        ({"method": "pvs", "files": {"image": DESCRIPTION}, "gain": 1}, "known here: method, sub"),
    ],
)
def test_a_wrong_scan_in_an_entry_is_explained(entry, scan, said):
    content = yaml.safe_load(entry.read_text()) | {"scans": [scan]}
    entry.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        manifest.describe("ds1")
    assert said in str(caught.value)


def test_a_scan_of_any_method_comes_from_the_yaml_alone(entry):
    """A new method needs an entry, and no change of the manifest's code."""
    text = (
        entry.read_text()
        + """
scans:
  - method: flow
    subject: "2"
    files:
      velocity: [dataset_description.json]
      mask: dataset_description.json
    options:
      venc_cm_s: 10.0
"""
    )
    entry.write_text(text)
    scan = manifest.describe("ds1").scan("flow", subject="sub-2")
    assert scan.files == {"velocity": (DESCRIPTION,), "mask": DESCRIPTION}
    assert scan.options == {"venc_cm_s": 10.0}
    assert scan.paths == (DESCRIPTION, DESCRIPTION)


def test_a_scan_is_found_by_its_labels_or_the_choice_is_listed():
    data = manifest.describe("ds000114")
    assert data.scan("alps", subject="02", session="ses-test").label == "sub-02_ses-test"
    assert data.scan("alps").label == "sub-01_ses-retest"
    with pytest.raises(InputError, match="no scan for qsm; it has scans for alps, pvs"):
        data.scan("qsm")
    with pytest.raises(InputError, match="no alps scan of sub-09; choose from: sub-01_ses"):
        data.scan("alps", subject="sub-09")
    with pytest.raises(InputError, match="it has scans for no method"):
        manifest.describe("fa_template").scan("alps")


@pytest.mark.public
def test_scans_load_from_real_bytes(public_file):
    for name in ("openms_mni_p07", "dwi_philips_slab", "gre_small_romeo"):
        entry = manifest.describe(name).scans[0]
        for file in manifest.describe(name).files_of(entry):
            public_file(name, file.path)
    found = scans.anatomy("openms_mni_p07")
    assert found.contrast == "t2"
    assert found.wmh_mask.shape == found.image.shape == (182, 218, 182)
    assert scans.diffusion("dwi_philips_slab").is_b0.sum() == 5
    assert scans.gradient_echo("gre_small_romeo").magnitude.shape == (51, 51, 41, 3)
