"""Which files of a folder the ALPS index is measured from, above all after other tools."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pvsbook import InputError, images
from pvsbook.bids.inputs import find

BVALS = np.r_[0, np.full(7, 1000.0)]
BVECS = np.c_[
    np.zeros(3), np.eye(3), np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, -1, 0]]).T / 2**0.5
]


def write(folder, stem, *, bvec=".bvec"):
    """Write a series of eight voxels with its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    data = np.ones((2, 2, 2, 8), np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([-2, 2, 2, 1])), folder / f"{stem}.nii.gz")
    np.savetxt(folder / f"{stem}.bval", BVALS[None], fmt="%g")
    np.savetxt(folder / f"{stem}{bvec}", BVECS, fmt="%.6f")
    return folder / f"{stem}.nii.gz"


def dataset(top):
    top.mkdir(exist_ok=True)
    text = {"Name": "test", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (top / "dataset_description.json").write_text(json.dumps(text))
    return top / "sub-01" / "dwi"


def found_in(top):
    return find(top, methods=["alps"]).measurements[0].found


def test_after_qsiprep_its_vectors_and_mask_are_used(tmp_path):
    folder = dataset(tmp_path)
    stem = "sub-01_space-ACPC_desc-preproc_dwi"
    write(folder, stem)
    write(folder, "sub-01_dwi")  # not corrected
    mask = folder / "sub-01_space-ACPC_desc-brain_mask.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([-2, 2, 2, 1])), mask)
    other = folder / "sub-01_space-T1w_desc-brain_mask.nii.gz"
    other.write_bytes(mask.read_bytes())
    found = found_in(tmp_path)
    assert [Path(p).name for p in found.inputs["bvec"]] == [f"{stem}.bvec"]
    assert Path(found.parameters["brain_mask"]) == mask
    said = " ".join(found.notes)
    assert "sub-01_dwi.nii.gz not measured: a corrected series has the same entities" in said
    assert f"corrected for motion before by {tmp_path.name} (version not recorded)" in said
    assert f"b-vectors of {stem}.bvec" in said
    assert mask.name in said


def test_after_eddy_the_vectors_that_turned_with_the_head_are_used(tmp_path):
    folder = dataset(tmp_path)
    write(folder, "sub-01_dwi")
    rotated = folder / "sub-01_dwi.eddy_rotated_bvecs"
    rotated.write_text((folder / "sub-01_dwi.bvec").read_text())
    found = found_in(tmp_path)
    assert found.inputs["bvec"] == [str(rotated)]
    assert found.parameters == {"corrected_by": "eddy of FSL (version not recorded)"}
    assert "b-vectors of sub-01_dwi.eddy_rotated_bvecs" in found.notes[0]
    rotated.unlink()
    assert found_in(tmp_path).notes == ()


def test_a_corrected_series_with_the_vectors_of_the_raw_one_is_not_called_corrected(tmp_path):
    folder = dataset(tmp_path)
    write(folder, "sub-01_desc-preproc_dwi")
    for end in ("bvec", "bval"):
        (folder / f"sub-01_desc-preproc_dwi.{end}").rename(folder / f"sub-01_dwi.{end}")
    found = found_in(tmp_path)
    assert "sub-01_dwi.bvec" in found.inputs["bvec"][0]
    assert any("not turned with the head" in note for note in found.notes)


def test_maps_at_the_end_are_left_out_and_named(tmp_path):
    data = np.random.default_rng(0).random((3, 3, 3, 10)) + 1
    image = images.make(data, np.eye(4))
    bvals = np.r_[BVALS, 1000, 1000]
    dwi = images.load_dwi(image, bvals, np.c_[BVECS, np.zeros((3, 2))])
    assert dwi.image.shape == (3, 3, 3, 8)
    assert list(dwi.left_out) == [8, 9]
    assert "trace or ADC" in dwi.left_out[8]
    middle = np.c_[BVECS, BVECS[:, :2]]
    middle[:, 3] = 0
    with pytest.raises(InputError, match="volume 3, b = 1000"):
        images.load_dwi(image, np.r_[BVALS, 1000, 1000], middle)


def test_a_threshold_decides_what_counts_as_b0():
    data = np.random.default_rng(0).random((3, 3, 3, 8)) + 1
    image = images.make(data, np.eye(4))
    low = np.where(BVALS == 0, 70, BVALS)
    with pytest.raises(InputError, match="or raise b0_threshold"):
        images.load_dwi(image, low, BVECS)
    dwi = images.load_dwi(image, low, BVECS, b0_below_s_mm2=100)
    assert dwi.is_b0.tolist() == (BVALS == 0).tolist()
    with pytest.raises(InputError, match="b0_threshold is 900"):
        images.load_dwi(image, low, BVECS, b0_below_s_mm2=900)
