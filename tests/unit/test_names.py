"""Names of files: malformed ones, and files that do not belong together by their names."""

from pathlib import Path

import numpy as np
import pytest

from pvsbook import InputError, alps, images, methods, pvs, qsm
from pvsbook._names import check_names, fault_of
from pvsbook.alps import preprocess
from pvsbook.atlas import registration
from pvsbook.bids import inputs
from pvsbook.bids.measure import measure_files
from pvsbook.phantoms.gradient_echo import make_gre


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sub-_T2w.nii.gz", "sub- has no label"),
        ("sub-.nii", "sub- has no label"),
        ("sub-01_ses-_T2w.nii.gz", "ses- has no label"),
        ("sub-01_run-_T2w.nii.gz", "run- has no label"),
        ("sub-01_run-a_T2w.nii.gz", "run-a: must be a number"),
        ("sub-01_echo-two_MEGRE.nii.gz", "echo-two: must be a number"),
        ("sub-01-02_T2w.nii.gz", "letters and digits only, as in sub-0102"),
        ("sub-a.b_T2w.nii.gz", "letters and digits only, as in sub-ab"),
        ("sub-01 _T2w.nii.gz", "letters and digits only"),
        ("sub-é_T2w.nii.gz", "letters and digits only, as in sub-01"),
        ("sub-01_ses-1_ses-2_T2w.nii.gz", "ses- stands there twice"),
        ("sub-01_ses_T2w.nii.gz", "ses has no hyphen; write ses-01"),
        ("sub-01_run2_T2w.nii.gz", "run2 has no hyphen; write run-2"),
        ("sub-01__T2w.nii.gz", "'' between two underscores"),
        ("sub-01_-1_T2w.nii.gz", "'-1' between two underscores"),
        ("sub-01_acq-_dwi.bval", "acq- has no label"),
    ],
)
def test_a_malformed_name_is_refused(tmp_path, name, words):
    assert words in fault_of(name)
    with pytest.raises(InputError, match="rename the file"):
        check_names({"image": [tmp_path / name]})
    images.save(images.make(np.ones((4, 4, 4)), np.eye(4)), tmp_path / "scan.nii.gz")
    path = (tmp_path / "scan.nii.gz").rename(tmp_path / name)
    with pytest.raises(InputError, match="rename the file"):
        measure_files(methods.by_name("pvs"), {"image": path}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["T2w.nii", "my-scan_ses-_x.nii", "sub-01_T2w_brain.nii.gz", "sub-01_desc-a-b_T2w.nii.gz",
     "sub-01+a_ses-M12_run-02_echo-1_part-mag_MEGRE.nii.gz", "sub-01_T2w_N4.nii.gz"],
)  # fmt: skip
def test_other_names_are_free(name):
    assert fault_of(name) == ""


def test_a_bids_folder_with_malformed_names(tmp_path):
    for name in ("sub-/anat/sub-_T2w", "sub-01/anat/sub-01_run-_T2w", "sub-02/anat/sub-02_T2w"):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    found = {m.participant: m.lacks for m in inputs.find(tmp_path, methods=["pvs"]).measurements}
    assert found["sub-02"] == ()
    assert "run- has no label" in found["sub-01"][0]
    assert "sub- has no label" in found["sub-"][0]


MAG, PHASE = "sub-01_ses-1_part-mag_GRE.nii", "sub-01_ses-1_part-phase_GRE.nii"


@pytest.mark.parametrize(
    ("magnitude", "phase", "words"),
    [
        (MAG, PHASE.replace("ses-1", "ses-2"), "are of two scans by their names .ses-1 and ses-2"),
        (MAG, PHASE.replace("sub-01", "sub-02"), "are of two scans .*sub-01 and sub-02"),
        ("sub-1_run-1_mag.nii", "sub-1_run-2_phase.nii", "run-1 and run-2"),
        ("sub-1/ses-1/mag.nii", "sub-1/ses-2/phase.nii", "ses-1 and ses-2"),
        ("sub-1_echo-1_mag.nii", "sub-1_echo-2_phase.nii", "are of two echoes"),
        (PHASE, MAG, "is given as magnitude, but its name says part-phase"),
        (MAG, MAG, "is given as phase, but its name says part-mag"),
        ("scan.nii", "scan.nii", "is given for magnitude and phase"),
    ],
)
def test_magnitude_and_phase_of_one_scan_have_one_identity(magnitude, phase, words):
    with pytest.raises(InputError, match=words):
        check_names({"magnitude": [magnitude], "phase": [phase]})
    with pytest.raises(InputError, match=words):
        check_names(
            {
                "first_magnitude": ["a.nii"], "first_phase": ["b.nii"],
                "second_magnitude": [magnitude], "second_phase": [phase],
            }
        )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("sub-01_ses-1", "sub-02_ses-2", "two participants by their names .sub-01 and sub-02"),
        ("sub-01/ses-1/x", "sub-02/ses-1/y", "two participants"),
        ("v1/sub-01_ses-1", "v2/sub-01_ses-1", "are of one visit by their names"),
        ("same", "same", "is given for both visits"),
    ],
)
def test_two_visits_are_of_one_person_and_two(first, second, words):
    with pytest.raises(InputError, match=words):
        check_names(_visits(first, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sub-01_ses-1", "sub-01_ses-2"),
        ("sub-01_ses-1_run-1", "sub-01_ses-1_run-2"),
        ("v1/sub-01", "v2/sub-01"),
        ("sub-01_ses-1", "later"),
        ("a", "b"),
        ("sub-01/ses-1/anat/x", "sub-01/ses-2/anat/x"),
    ],
)
def test_visits_that_names_allow(first, second):
    check_names(_visits(first, second))


def _visits(first: str, second: str) -> dict[str, list[str]]:
    return {
        f"{visit}_{role}": [f"{stem}_{short}.nii"]
        for visit, stem in (("first", first), ("second", second))
        for role, short in (("magnitude", "m"), ("phase", "p"))
    }


def test_tables_and_masks_of_a_scan_are_of_its_person():
    files = {"dwi": ["sub-01_dir-AP_dwi.nii"], "bval": ["dwi.bval"], "bvec": ["dwi.bvec"]}
    check_names(files, ["sub-01_acq-x_mask.nii"])
    with pytest.raises(InputError, match="do not belong together by their names"):
        check_names(files, ["sub-02_mask.nii"])
    with pytest.raises(InputError, match="dir-AP and dir-PA"):
        check_names({**files, "bvec": ["sub-01_dir-PA_dwi.bvec"]})


# --- options are checked before anything is computed -------------------------------------------


def test_an_option_is_checked_before_files_are_read(tmp_path):
    for name, option, value in (
        ("alps", "registration", "afine"),
        ("alps", "denoise", "mpca"),
        ("pvs", "contrast", "T2"),
        ("qsm", "inversion", "tvv"),
        ("qsm", "field_strength_t", "3"),
        ("qsmchange", "field_strength_t", (3.0, "3")),
        ("qsmchange", "background", Path("smw")),
    ):
        method = methods.by_name(name)
        files = {i.name: tmp_path / "none.nii" for i in method.inputs}
        with pytest.raises(InputError, match=f"{name}: {option} is "):
            measure_files(method, files, tmp_path, **{option: value})


def test_the_library_checks_names_before_it_computes(monkeypatch):
    """A typing error costs no minutes of fitting, registering or unwrapping."""
    for place, name in (
        (alps.tensor, "fit_tensor"),
        (registration, "register_to_mni"),
        (qsm.pipeline, "mask_from_gre"),
        (pvs.pipeline, "locate_regions"),
    ):
        monkeypatch.setattr(place, name, None)
    volume = images.make(np.ones((8, 8, 8)), np.eye(4))
    for call, words in (
        (lambda: alps.measure(None, registration="afine"), "registration: 'afine'"),
        (lambda: alps.measure(None, rois="5mm"), "rois: '5mm'; give pvsbook"),
        (lambda: pvs.measure(volume, registration="afine"), "registration: 'afine'"),
        (lambda: pvs.measure(volume, contrast="T2"), "contrast: 'T2'"),
        (lambda: qsm.reconstruct(_gre(), reference="brain"), "reference: 'brain'"),
        (lambda: qsm.reconstruct(_gre(), inversion="TV"), "inversion: 'TV'"),
        (lambda: qsm.reconstruct(_gre(), background="LBV"), "background: 'LBV'"),
        (lambda: preprocess.denoise(None, method="mpca"), "method is 'mpca'"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def _gre():
    return make_gre(np.random.default_rng(0), voxel_size_mm=5).gre


def test_regions_that_are_no_file_are_told_before_corrections(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "load_dwi", None)
    files = [[tmp_path / "a.nii"], [tmp_path / "a.bval"], [tmp_path / "a.bvec"]]
    options = {option.name: option.default for option in methods.by_name("alps").options}
    with pytest.raises(InputError, match="4mm"):
        methods.by_name("alps").measure(*files, **options | {"rois": "4mm"})
