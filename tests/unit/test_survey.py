"""What a look before a run foretells is what the run then says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pvsbook import InputError, bids, images
from pvsbook.bids import survey
from pvsbook.pvs.quality import LIMITS
from pvsbook_book.dataset import write_dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    top = tmp_path_factory.mktemp("survey") / "bids"
    write_dataset(top, ["1"], rng=np.random.default_rng(8), methods=["alps", "qsm"])
    return top


def look(top, method, **options):
    """Say whether all is whole, and the lines after the protocols, for one method."""
    lines, is_whole = survey.survey(bids.find(top, methods=[method], **options))
    return is_whole, "\n".join(lines)


def run(top, out, method):
    """Return how the run of one visit ends."""
    folder = bids.find(top, methods=[method])
    (record,) = bids.run_participants(folder, out, settings={"qsm": {"atlas": "none"}})
    return record


def put(top, name, shape, size_mm=1.0, **sidecar):
    rng = np.random.default_rng(0)
    path = top / "sub-1" / name
    affine = np.diag([*np.broadcast_to(size_mm, 3), 1.0])
    images.save(images.make(rng.random(shape).astype("f4"), affine), path.with_suffix(".nii"))
    if sidecar:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path.with_suffix(".nii")


def gradients(top, bvals, vectors):
    stem = top / "sub-1" / "dwi" / "sub-1_dwi"
    np.savetxt(stem.with_suffix(".bval"), np.atleast_2d(bvals), fmt="%g")
    np.savetxt(stem.with_suffix(".bvec"), np.asarray(vectors, float).T, fmt="%.6f")


AXES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], float)
AXES /= np.linalg.norm(AXES, axis=1, keepdims=True)


def test_echo_times_that_a_run_refuses_are_foretold(whole, tmp_path):
    assert look(whole, "qsm") == (True, "qsm: 1 of 1 visits can be measured\n  1 x 4 x 4 x 4 mm"
                                  " (sub-1_qsm)")  # fmt: skip
    sidecar = whole / "echo-3_MEGRE.json"
    before = sidecar.read_text()
    try:
        sidecar.write_text('{"EchoTime": 18}')
        is_whole, text = look(whole, "qsm")
        assert not is_whole
        assert "look like milliseconds" in text
        assert "look like milliseconds" in run(whole, tmp_path, "qsm").reason
    finally:
        sidecar.write_text(before)


def test_phase_that_is_the_magnitude_is_foretold(whole, tmp_path):
    anat = whole / "sub-1" / "anat"
    phase = anat / "sub-1_echo-1_part-phase_MEGRE.nii.gz"
    before = phase.read_bytes()
    try:
        phase.write_bytes((anat / "sub-1_echo-2_part-phase_MEGRE.nii.gz").read_bytes())
        is_whole, text = look(whole, "qsm")
        assert not is_whole
        reason = run(whole, tmp_path, "qsm").reason
        assert "hold the same image" in text
        assert reason in text
    finally:
        phase.write_bytes(before)


def test_a_damaged_t1w_refuses_no_gradient_echo(whole):
    t1w = whole / "sub-1" / "anat" / "sub-1_T1w.nii"
    t1w.write_bytes(b"no image")
    try:
        is_whole, text = look(whole, "qsm")
        assert is_whole
        assert "1 of 1 visits can be measured; 1 of them will warn" in text
        assert "will warn: sub-1_T1w.nii: cannot be read as NIfTI" in text
    finally:
        t1w.unlink()


def test_a_mask_that_is_no_mask_of_the_scan_is_foretold(whole, tmp_path):
    scan = images.load(whole / "sub-1/anat/sub-1_echo-1_part-mag_MEGRE.nii.gz")
    mask = np.zeros(scan.shape, np.uint8)
    mask[0, 0, 0] = 1
    where = tmp_path / "sub-1" / "anat" / "sub-1_desc-brain_mask.nii.gz"
    images.save(images.make(mask, scan.affine), where)
    is_whole, text = look(whole, "qsm", derivatives=[tmp_path])
    assert not is_whole
    assert "at least 1 cm3 are needed" in text
    assert look(whole, "alps", derivatives=[tmp_path])[0]  # it lies on another grid


def test_few_echoes_are_foretold(tmp_path):
    write_dataset(tmp_path / "b", ["1"], rng=np.random.default_rng(2), methods=["qsm"])
    for path in (tmp_path / "b" / "sub-1" / "anat").glob("*echo-[23]*"):
        path.unlink()
    is_whole, text = look(tmp_path / "b", "qsm")
    assert is_whole
    assert "will warn: the coil's phase cannot be told from the field" in text


@pytest.mark.parametrize(
    ("bvals", "vectors", "size_mm", "text"),
    [
        ([0, *6 * [1000]], [[0, 0, 0], *AXES], 2, "will warn: 6 directions; 15 or more"),
        ([0, *6 * [2000]], [[0, 0, 0], *AXES], 2, "b = 2000 (limit 1550)"),
        ([0, *6 * [1000]], [[0, 0, 0], *AXES], 4, "above 3 mm the regions mix"),
        ([0, *5 * [1000]], [[0, 0, 0], *AXES[:5]], 2, "6 b-values, but sub-1_dwi.nii has 7"),
        ([0, *6 * [5000]], [[0, 0, 0], *AXES], 2, "at one b-value up to 3000 s/mm2"),
        ([900, *6 * [1000]], [AXES[0], *AXES], 2, "the smallest b-value is 900"),
    ],
)
def test_gradients_and_voxels_of_a_series_are_judged(tmp_path, bvals, vectors, size_mm, text):
    put(tmp_path, "dwi/sub-1_dwi", (6, 6, 6, 7), size_mm)
    gradients(tmp_path, bvals, vectors)
    is_whole, lines = look(tmp_path, "alps")
    assert text in lines
    assert is_whole == ("will warn" in lines)
    if not is_whole:
        assert run(tmp_path, tmp_path / "out", "alps").reason in lines


def test_the_voxels_of_a_series_are_not_read(tmp_path):
    path = put(tmp_path, "dwi/sub-1_dwi", (6, 6, 6, 7), 2)
    gradients(tmp_path, [0, *6 * [1000]], [[0, 0, 0], *AXES])
    nothing = images.make(np.zeros((6, 6, 6, 7)), np.diag([2, 2, 2, 1]))
    images.save(nothing, path)
    given = (path, path.with_suffix(".bval"), path.with_suffix(".bvec"))
    with pytest.raises(InputError, match="every voxel is 0"):
        images.load_dwi(*given)
    assert images.load_dwi(*given, check_values=False).image.shape == (6, 6, 6, 7)


def test_thick_slices_and_open_headers_are_foretold(tmp_path):
    limit = LIMITS["thickest_voxel_side_mm"][0]
    put(tmp_path, "anat/sub-1_T2w", (16, 16, 16), (1, 1, limit))
    assert "thick" not in look(tmp_path, "pvs")[1]
    put(tmp_path, "anat/sub-1_T2w", (16, 16, 16), (1, 1, limit + 0.5))
    is_whole, text = look(tmp_path, "pvs")
    assert is_whole
    assert "will warn: voxels are 3 mm thick" in text
    assert "1 of them will warn" in text


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_integers_that_overflowed_are_foretold_and_refused(tmp_path, kind):
    ball = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    bright = 1.2 * np.iinfo(kind).max * np.exp(-((ball / 9) ** 2))
    path = put(tmp_path, "anat/sub-1_T2w", (24, 24, 24))
    for values, is_sound in ((bright.astype(np.int64).astype(kind), False), (bright, True)):
        images.save(images.make(values, np.eye(4)), path)
        is_whole, text = look(tmp_path, "pvs")
        assert is_whole is is_sound
        assert ("integers overflowed" in text) is not is_sound
        assert ("integers overflowed" in run(tmp_path, tmp_path / "out", "pvs").reason) is not (
            is_sound
        )


@pytest.mark.parametrize("folder", ["anat", "masks"])
def test_what_lies_beside_a_scan_is_judged_as_it(tmp_path, folder):
    put(tmp_path, "anat/sub-1_T2w", (16, 16, 16))
    if folder == "anat":
        flair = images.make(np.full((16, 16, 16), np.nan, np.float32), np.eye(4))
        images.save(flair, tmp_path / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz")
        is_whole, text = look(tmp_path, "pvs")
        assert "will warn: sub-1_FLAIR.nii.gz" in text
    else:
        mask = images.make(np.full((16, 16, 16), -1, np.int16), np.eye(4))
        images.save(mask, tmp_path / "made/sub-1/anat/sub-1_desc-brain_mask.nii.gz")
        is_whole, text = look(tmp_path, "pvs", derivatives=[tmp_path / "made"])
    assert is_whole is (folder == "anat")  # a scan is measured without its FLAIR
    assert "NaN" in text


@pytest.mark.parametrize(
    ("sidecar", "is_flair"),
    [
        ({"InversionTime": 1.8}, True),
        ({"InversionTime": 0.2}, False),  # STIR
        ({"SeriesDescription": "t2_tse_dark-fluid_FLAIR"}, True),
        ({"ProtocolName": "T2 FLAIR"}, True),
        ({"ProtocolName": "t2_space", "InversionTime": "1.8"}, False),
    ],
)
def test_a_flair_that_is_named_t2w_is_known_by_its_sidecar(tmp_path, sidecar, is_flair):
    put(tmp_path, "anat/sub-1_acq-a_T2w", (16, 16, 16), **sidecar)
    is_whole, text = look(tmp_path, "pvs")
    assert is_whole is not is_flair
    assert ("sub-1_acq-a_T2w.nii is a FLAIR, which does not show them" in text) is is_flair
    put(tmp_path, "anat/sub-1_acq-b_T2w", (16, 16, 16))
    measurements = bids.find(tmp_path, methods=["pvs"]).measurements
    assert len(measurements) == 2 - is_flair
    beside = {Path(m.found.parameters.get("flair", "")).name for m in measurements}
    assert beside == ({"sub-1_acq-a_T2w.nii"} if is_flair else {""})


def test_files_cut_short_or_empty_are_named_once_each(tmp_path):
    path = put(tmp_path, "dwi/sub-1_dwi", (6, 6, 6, 7), 2)
    gradients(tmp_path, [0, *6 * [1000]], [[0, 0, 0], *AXES])
    header = bytearray(path.read_bytes())
    header[42:44] = b"\0\0"  # no voxel along x
    path.write_bytes(bytes(header))
    is_whole, text = look(tmp_path, "alps")
    assert not is_whole
    assert text.count("sub-1_dwi.nii: is empty") == 1
