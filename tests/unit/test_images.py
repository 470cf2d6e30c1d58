"""The door: what comes in is checked, what goes out is whole."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pvsbook import InputError, images


@pytest.fixture
def volume() -> nib.Nifti1Image:
    values = np.random.default_rng(1).random((6, 7, 8)).astype(np.float32)
    return images.make(values, np.diag([1.0, 1.0, 2.0, 1.0]))


# --- load ------------------------------------------------------------------------------------


def test_load_gives_back_the_same_voxels(volume, tmp_path):
    path = images.save(volume, tmp_path / "a" / "scan.nii.gz")
    again = images.load(path)
    np.testing.assert_array_equal(images.array(again), images.array(volume))
    np.testing.assert_array_equal(again.affine, volume.affine)


def test_a_trailing_axis_of_one_is_dropped(volume):
    series = images.make(images.array(volume)[..., None], volume.affine)
    assert images.load(series).shape == volume.shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.fill(np.nan), "NaN or infinite"),
        (lambda v: v.fill(3), "every voxel is 3"),
        (lambda v: v.__setitem__((0, 0, 0), np.inf), "1 of 336 voxels"),
    ],
)
def test_bad_values_are_refused(volume, change, words):
    values = images.array(volume).copy()
    change(values)
    with pytest.raises(InputError, match=words):
        images.load(images.make(values, volume.affine))


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([0.0, 1, 1, 1]), "cannot be inverted"),
        (np.diag([np.nan, 1, 1, 1]), "cannot be inverted"),
        (np.diag([100.0, 1, 1, 1]), "not plausible"),
    ],
)
def test_bad_affines_are_refused(volume, affine, words):
    bad = nib.Nifti1Image(images.array(volume), np.eye(4))
    bad._affine = affine
    with pytest.raises(InputError, match=words):
        images.load(bad)


def test_wrong_dimensions_and_files_are_refused(volume, tmp_path):
    with pytest.raises(InputError, match=r"has 3 dimensions \(6 x 7 x 8\), but 4 are needed"):
        images.load(volume, ndim=4)
    with pytest.raises(InputError, match="is empty"):
        images.load(nib.Nifti1Image(np.zeros((0, 3, 3), np.float32), np.eye(4)))
    with pytest.raises(InputError, match="does not exist"):
        images.load(tmp_path / "none.nii")
    with pytest.raises(InputError, match="is a folder"):
        images.load(tmp_path)
    text = tmp_path / "text.nii"
    text.write_text("not an image")
    with pytest.raises(InputError, match=r"text\.nii: cannot be read as NIfTI"):
        images.load(text)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_file_cut_short_is_refused(volume, tmp_path, name):
    path = images.save(volume, tmp_path / name)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        images.load(path)


def test_another_format_becomes_nifti(volume):
    other = nib.MGHImage(images.array(volume), volume.affine)
    loaded = images.load(other)
    assert isinstance(loaded, nib.Nifti1Image)
    np.testing.assert_array_equal(images.array(loaded), images.array(volume))


# --- geometry --------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180) for _ in range(3)]),
    zooms=st.tuples(*[st.floats(0.3, 4) for _ in range(3)]),
    flip=st.booleans(),
)
def test_rotation_is_found_in_any_affine(angles, zooms, flip):
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    if flip:
        turn = turn @ np.diag([-1, 1, 1])
    affine = np.eye(4)
    affine[:3, :3] = turn * zooms
    np.testing.assert_allclose(images.rotation(affine), turn, atol=1e-9)


def test_grids_that_differ_are_refused(volume):
    moved = volume.affine.copy()
    moved[0, 3] += 0.5
    with pytest.raises(InputError, match=r"0\.5 mm away"):
        images.same_grid(images.make(images.array(volume), moved), volume)
    images.same_grid(volume, volume)


# --- diffusion -------------------------------------------------------------------------------


def _series(affine: np.ndarray, n: int = 8) -> nib.Nifti1Image:
    return images.make(np.random.default_rng(0).random((3, 3, 3, n)), affine)


def _directions(n: int = 7) -> np.ndarray:
    vectors = np.random.default_rng(3).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-30, 30) for _ in range(3)]),
    axcodes=st.sampled_from(["RAS", "LAS", "LPS", "ASR", "PIR", "SRA"]),
)
def test_b_vectors_reach_scanner_axes_from_every_storage_order(angles, axcodes):
    """Write directions as FSL does for an image stored in any order; they must come back."""
    truth = _directions()
    orientation = nib.orientations.axcodes2ornt(tuple(axcodes))
    axes = np.zeros((3, 3))
    for column, (world, sign) in enumerate(orientation):
        axes[int(world), column] = sign
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes * [2, 2, 3]
    stored = truth @ axes  # along the image's own axes
    if np.linalg.det(affine[:3, :3]) > 0:
        stored[:, 0] *= -1  # the convention of FSL
    dwi = images.load_dwi(_series(affine), [0] + 7 * [1000], np.c_[np.zeros(3), stored.T])
    np.testing.assert_allclose(dwi.bvecs_ras[1:], truth, atol=1e-12)
    assert dwi.is_b0.tolist() == [True] + 7 * [False]


@pytest.mark.parametrize(
    ("bvals", "bvecs", "words"),
    [
        ([0] + 6 * [1000], None, "7 b-values, but dwi has 8 volumes"),
        ([100] + 7 * [1000], None, "a volume with b < 50 is needed"),
        ([-1] + 7 * [1000], None, "b-values from -1"),
        ([0] + 7 * [np.nan], None, "holds NaN"),
        (
            None,
            np.r_[np.zeros((1, 3)), _directions()],
            r"is 8 x 3, but dwi needs 3 rows of 8 .*transpose it",
        ),
        (None, np.zeros((3, 5)), "is 3 x 5"),
        (None, np.c_[np.zeros(3), 0.5 * _directions().T], "7 directions are not unit vectors"),
        (None, np.c_[np.zeros(3), np.eye(3), np.eye(3), np.eye(3)[:, :1]], "3 directions"),
    ],
)
def test_bad_gradients_are_refused(bvals, bvecs, words):
    good_bvals = [0] + 7 * [1000]
    good_bvecs = np.c_[np.zeros(3), _directions().T]
    with pytest.raises(InputError, match=words):
        images.load_dwi(
            _series(np.eye(4)),
            good_bvals if bvals is None else bvals,
            good_bvecs if bvecs is None else bvecs,
        )


def test_gradient_files(tmp_path):
    bval, bvec = tmp_path / "a.bval", tmp_path / "a.bvec"
    bval.write_text("0 " + "1000 " * 7)
    np.savetxt(bvec, np.c_[np.zeros(3), _directions().T])
    assert images.load_dwi(_series(np.eye(4)), bval, bvec).bvals_s_mm2[1] == 1000
    with pytest.raises(InputError, match="swapped"):
        images.load_dwi(_series(np.eye(4)), bvec, bval)
    bvec.write_text("one two three")
    with pytest.raises(InputError, match=r"a\.bvec: is not a table of numbers"):
        images.load_dwi(_series(np.eye(4)), bval, bvec)
    with pytest.raises(InputError, match="does not exist"):
        images.load_dwi(_series(np.eye(4)), bval, tmp_path / "none.bvec")


# --- gradient echo ---------------------------------------------------------------------------


def _gre(
    stored: np.ndarray, *, magnitude: np.ndarray | None = None, **options: object
) -> images.Gre:
    options = {"echo_times_s": [0.005, 0.01], "field_strength_t": 3.0, **options}
    if magnitude is None:
        magnitude = np.ones(stored.shape) * 0.8 ** np.arange(stored.shape[3])
    return images.load_gre(
        images.make(magnitude, np.eye(4)), nib.Nifti1Image(stored, np.eye(4)), **options
    )


@pytest.fixture
def radians() -> np.ndarray:
    return np.random.default_rng(5).uniform(-np.pi, np.pi, (12, 12, 12, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "offset", "dtype", "name"),
    [
        (1.0, 0.0, np.float32, "radians"),
        (1.0, np.pi, np.float32, "radians"),
        (180 / np.pi, 0.0, np.float32, "degrees"),
        (1000.0, 0.0, np.int16, "milliradians"),
        (2048 / np.pi, 2048, np.int16, "12-bit integers"),
        (2048 / np.pi, 0, np.int16, "12-bit integers"),
        (4096 / np.pi, 0, np.int16, "13-bit integers"),
        (32767 / np.pi, 0, np.int16, "16-bit integers"),
    ],
)
def test_phase_comes_back_in_radians_from_every_scale(radians, scale, offset, dtype, name):
    gre = _gre((radians * scale + offset).astype(dtype))
    assert gre.phase_stored_as == name
    shift = offset / scale
    off = np.angle(np.exp(1j * (gre.phase_rad - radians - shift)))
    assert np.abs(off).max() < 1.01 / scale + 1e-4  # at most the unit that was cut off
    assert np.abs(gre.phase_rad).max() <= np.float32(np.pi)


def test_a_wrong_scale_factor_is_seen_through(radians, tmp_path):
    image = nib.Nifti1Image(radians, np.eye(4))
    image.header.set_slope_inter(1 / 855, 0)
    path = tmp_path / "phase.nii"
    images.write_bytes(image.to_bytes(), path)
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(1 / 855).tobytes()  # scl_slope, as the public file has it
    content[352:] = radians.tobytes(order="F")
    path.write_bytes(content)
    gre = images.load_gre(
        images.make(np.ones(radians.shape) * [1, 0.8], np.eye(4)),
        path,
        echo_times_s=[0.005, 0.01],
        field_strength_t=3,
    )
    assert "scale factor ignored" in gre.phase_stored_as
    np.testing.assert_allclose(gre.phase_rad, radians, atol=1e-5)


@pytest.mark.public
def test_the_public_crop_has_phase_in_radians(public_file):
    gre = images.load_gre(
        public_file("gre_small_romeo", "Mag.nii"),
        public_file("gre_small_romeo", "Phase.nii"),
        echo_times_s=[0.004, 0.008, 0.012],
        field_strength_t=3,
    )
    assert gre.phase_rad.shape == (51, 51, 41, 3)
    assert np.abs(gre.phase_rad).max() == pytest.approx(np.pi, abs=1e-3)
    np.testing.assert_allclose(gre.b0_direction, [0, 0, 1])


def test_unwrapped_phase_is_refused(radians):
    with pytest.raises(InputError, match=r"fits no known scale.*unwrapped"):
        _gre(radians * 7.3)
    assert _gre(radians * 7.3, phase_period=7.3 * 2 * np.pi).phase_stored_as.startswith("units")
    with pytest.raises(InputError, match="phase_period: -1"):
        _gre(radians, phase_period=-1)


@pytest.fixture
def smooth() -> np.ndarray:
    """Two echoes of a field that rises through the volume, in turns, not wrapped."""
    x, y, z = np.meshgrid(*[np.linspace(-0.5, 0.5, 24, dtype=np.float32)] * 3, indexing="ij")
    return (x + 0.4 * y**2 - 0.3 * z)[..., None] * np.float32([0.5, 1.0])


def _wrap(turns: np.ndarray) -> np.ndarray:
    return (turns - np.round(turns)).astype(np.float32)


def test_short_echoes_that_do_not_fill_a_turn_are_radians(smooth):
    assert _gre(smooth * 3).phase_stored_as == "radians"
    assert _gre(smooth * 500, phase_period=1000).phase_stored_as == "units of 1000 a turn"


@pytest.mark.parametrize(
    ("change", "period", "words"),
    [
        (lambda turns: _wrap(turns) * 8192, 4096, "2 turns of 4096"),
        (lambda turns: _wrap(turns) * 4 * np.pi, 2 * np.pi, "2 turns of 6.28319"),
        (lambda turns: turns / np.ptp(turns) * 4096 * 3, 4096, "3 turns of 4096"),
        (lambda turns: _wrap(turns) * 4096, 8192, "wraps there, but one turn is taken to be 8192"),
        (lambda turns: _wrap(turns) * np.pi, None, "echo 1 jumps .* range of 3.1"),
        (lambda turns: _wrap(turns) * np.float32([2 * np.pi, 4096]), None, "echo 1 jumps"),
        (lambda turns: (turns / np.ptp(turns) + 0.5) * 8191, None, "is unwrapped"),
        (lambda turns: turns / np.ptp(turns) * 1000, 1000, "is unwrapped"),
    ],
)
def test_a_wrapped_phase_fills_one_turn(smooth, change, period, words):
    """Two turns in one period, one turn in two, echoes of two scales, and no wrap at all."""
    with pytest.raises(InputError, match=words):
        _gre(change(3 * smooth), phase_period=period)
    advised = _wrap(3 * smooth) * 8192
    gre = _gre(advised, phase_period=float(np.ptp(advised)))
    assert np.abs(np.exp(1j * gre.phase_rad) - np.exp(2j * np.pi * 3 * smooth)).max() < 0.02


def test_a_magnitude_given_as_phase_is_told(smooth):
    x = np.linspace(0, 1, 24, dtype=np.float32)[:, None, None, None]
    magnitude = np.broadcast_to(900 * (1 + x), smooth.shape) * np.float32([1, 0.8])
    for phase in (_wrap(3 * smooth) * 6.28, (_wrap(3 * smooth) + 0.5) * 4095):
        assert _gre(phase, magnitude=magnitude).echo_times_s.size == 2
        with pytest.raises(InputError, match="phase are exchanged, so give them the other way"):
            _gre(magnitude, magnitude=phase)
    with pytest.raises(InputError, match="as a magnitude does; give the phase of these echoes"):
        _gre(magnitude, magnitude=magnitude)


@pytest.mark.public
def test_exchanged_files_of_the_public_crop_are_told(public_file):
    one, other = (public_file("gre_small_romeo", f"{part}.nii") for part in ("Phase", "Mag"))
    with pytest.raises(InputError, match=r"Mag\.nii: is given as phase.* are exchanged"):
        images.load_gre(one, other, echo_times_s=[0.004, 0.008, 0.012], field_strength_t=7)


def test_nan_outside_the_brain_is_set_to_zero_and_inside_refused(radians):
    magnitude = np.ones(radians.shape) * 0.8 ** np.arange(radians.shape[3])
    magnitude[:3] = 0
    stored = radians.copy()
    stored[:3] = np.nan
    assert (_gre(stored, magnitude=magnitude).phase_rad[:3] == 0).all()
    stored[5, 5, 5] = np.nan
    with pytest.raises(InputError, match="2 voxels of the phase are NaN"):
        _gre(stored, magnitude=magnitude)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"echo_times_s": [5, 10]}, "look like milliseconds"),
        ({"echo_times_s": [0.01, 0.005]}, "positive and rising"),
        ({"echo_times_s": [0.01]}, "but there are 2 echoes"),
        ({"echo_times_s": None}, "sidecars hold 0 EchoTime for 2 echoes"),
        ({"field_strength_t": None}, "field strength: not given"),
        ({"field_strength_t": 300}, "300 T is not plausible"),
        ({"magnitude": -np.ones((12, 12, 12, 2))}, "cannot be negative"),
        ({"magnitude": np.full((12, 12, 12, 2), np.nan)}, "holds no finite number"),
        ({"magnitude": np.ones((12, 12, 12, 3))}, "2 echoes, but magnitude has 3"),
        ({"magnitude": np.ones((12, 12, 11, 2))}, "its grid is 12 x 12 x 12"),
    ],
)
def test_bad_gradient_echoes_are_refused(radians, options, words):
    with pytest.raises(InputError, match=words):
        _gre(radians, **options)


def test_sidecars_and_one_file_an_echo(radians, tmp_path):
    for k, time in enumerate((0.005, 0.01)):
        for part, values in (("mag", np.ones(radians.shape) * [1, 0.8]), ("phase", radians)):
            stem = tmp_path / f"sub-1_echo-{k + 1}_part-{part}_MEGRE"
            images.save(images.make(values[..., k], np.eye(4)), f"{stem}.nii.gz")
            meta = {"EchoTime": time, "MagneticFieldStrength": 7}
            stem.with_suffix(".json").write_text(json.dumps(meta))
    files = {p: sorted(tmp_path.glob(f"*part-{p}*.nii.gz")) for p in ("mag", "phase")}
    gre = images.load_gre(files["mag"], files["phase"])
    assert gre.echo_times_s.tolist() == [0.005, 0.01]
    assert gre.field_strength_t == 7
    np.testing.assert_allclose(gre.phase_rad, radians, atol=1e-6)
    with pytest.raises(InputError, match="at least one file"):
        images.load_gre([], files["phase"])
    stem.with_suffix(".json").write_text("[1]")
    with pytest.raises(InputError, match="holds a list"):
        images.load_gre(files["mag"], files["phase"])
    stem.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        images.load_gre(files["mag"], files["phase"])


@pytest.mark.parametrize("tilt_deg", [0, 20, 70])
def test_field_direction_follows_the_affine(radians, tilt_deg):
    turn = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, 0.5, 1])
    gre = images.Gre(radians, radians, np.array([0.01, 0.02]), 3.0, affine)
    np.testing.assert_allclose(turn @ gre.b0_direction, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(gre.voxel_size_mm, [0.5, 0.5, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"echo_times_s": np.array([5.0, 10.0])}, "look like milliseconds; give seconds"),
        ({"echo_times_s": np.array([0.01, 0.005])}, "positive and rising"),
        ({"echo_times_s": np.array([0.0, 0.005])}, "positive and rising"),
        ({"echo_times_s": np.array([0.01])}, "but there are 2 echoes"),
        ({"magnitude": np.ones((3, 3, 3, 2))}, "phase: has shape"),
        ({"field_strength_t": 300.0}, "300 T is not plausible"),
    ],
)
def test_a_gradient_echo_made_of_arrays_is_checked_too(radians, change, words):
    scan = {
        "magnitude": np.ones_like(radians),
        "phase_rad": radians,
        "echo_times_s": np.array([0.005, 0.01]),
        "field_strength_t": 3.0,
        "affine": np.eye(4),
    }
    assert images.Gre(**scan).voxel_size_mm.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=words):
        images.Gre(**scan | change)


# --- save ------------------------------------------------------------------------------------


def test_the_same_image_gives_the_same_bytes(volume, tmp_path):
    first = images.save(volume, tmp_path / "a.nii.gz").read_bytes()
    assert images.save(volume, tmp_path / "b.nii.gz").read_bytes() == first


def test_nothing_is_left_where_writing_fails(volume, tmp_path, monkeypatch):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"before")

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        images.save(volume, path)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii"]
    assert path.read_bytes() == b"before"


def test_save_names_and_modes(volume, tmp_path):
    with pytest.raises(InputError, match=r"written as \.nii"):
        images.save(volume, tmp_path / "scan.mgz")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        images.save(volume, blocked / "scan.nii")
    old = os.umask(0o022)
    try:
        path = images.save(volume, tmp_path / "scan.nii")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("dtype", "kept"), [(bool, np.uint8), (np.int64, np.int32), (float, np.float32)]
)
def test_make_keeps_files_small(dtype, kept):
    assert images.make(np.ones((2, 2, 2), dtype), np.eye(4)).get_data_dtype() == kept


# --- damage and what headers leave open --------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> tuple[bytes, Path]:
    """A compressed scan of noise, as bytes, and a folder for damaged copies."""
    folder = tmp_path_factory.mktemp("damage")
    values = np.random.default_rng(0).integers(0, 4000, (12, 14, 10)).astype(np.int16)
    path = images.save(images.make(values, np.diag([2, 2, 2, 1])), folder / "whole.nii.gz")
    return path.read_bytes(), folder


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_one_flipped_bit_of_a_compressed_scan_is_noticed(packed, data):
    content, folder = packed
    bit = data.draw(st.integers(80, 8 * len(content) - 1))  # behind the header of gzip itself
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << (bit % 8)
    path = folder / "damaged.nii.gz"
    path.write_bytes(damaged)
    found, refusal = _tried(lambda: images.load(path))
    if found is None:
        assert "cannot be read as NIfTI" in refusal
    else:  # a bit that the decompressor does not use
        assert np.array_equal(found.dataobj, images.load(folder / "whole.nii.gz").dataobj)


def test_a_compressed_scan_without_its_checksum_is_refused(packed):
    content, folder = packed
    path = folder / "cut.nii.gz"
    path.write_bytes(content[:-9])
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        images.load(path)


@given(
    where=st.integers(0, 347),
    new=st.binary(min_size=1, max_size=8),
    kind=st.sampled_from([np.int16, np.float32, np.uint8]),
)
@settings(max_examples=400, deadline=None)
def test_a_damaged_header_is_refused_or_read(tmp_path_factory, where, new, kind):
    """Whatever stands in the header: one sentence that names the file, or a valid image."""
    folder = tmp_path_factory.getbasetemp() / "headers"
    folder.mkdir(exist_ok=True)
    values = np.arange(60).reshape(3, 4, 5).astype(kind)
    raw = bytearray(nib.Nifti1Image(values, np.eye(4)).to_bytes())
    raw[where : where + len(new)] = new
    path = folder / "header.nii"
    path.write_bytes(raw)
    found, refusal = _tried(lambda: images.load(path))
    if found is None:
        assert "header.nii" in refusal
    else:
        assert np.isfinite(images.array(found)).all()
        images.header_notes(found)


def _tried(load):
    """Return what a door gives, or why it is shut; another exception is a fault of ours."""
    try:
        return load(), ""
    except InputError as error:
        return None, str(error)


def test_a_link_to_nothing_is_named(tmp_path):
    link = tmp_path / "scan.nii.gz"
    link.symlink_to("../.git/annex/objects/none.nii.gz")
    with pytest.raises(InputError, match="datalad get"):
        images.load(link)


def test_a_key_twice_in_a_sidecar_is_refused(tmp_path):
    path = tmp_path / "scan.json"
    path.write_text('{"MagneticFieldStrength": 3, "a": {"b": 1}, "MagneticFieldStrength": 1.5}')
    with pytest.raises(InputError, match="MagneticFieldStrength stands there twice"):
        images.read_json(path)


NUMBERS = st.one_of(
    st.floats(allow_nan=True), st.integers(), st.booleans(), st.none(), st.text(max_size=4),
    st.lists(st.one_of(st.floats(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)  # fmt: skip


@given(time=NUMBERS, field=NUMBERS)
@settings(max_examples=200, deadline=None)
def test_a_sidecar_holds_numbers_or_is_named(tmp_path_factory, time, field):
    folder = tmp_path_factory.getbasetemp() / "sidecars"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    mag = images.save(images.make(1 + rng.random((4, 4, 4)), np.eye(4)), folder / "mag.nii")
    turns = rng.uniform(-np.pi, np.pi, (4, 4, 4))
    turns[0, 0, :2] = -np.pi, np.pi
    phase = images.save(images.make(turns, np.eye(4)), folder / "phase.nii")
    (folder / "phase.json").write_text(
        json.dumps({"EchoTime": time, "MagneticFieldStrength": field})
    )
    gre, refusal = _tried(lambda: images.load_gre(mag, phase))
    if gre is None:
        words = ("EchoTime", "MagneticFieldStrength", "echo times", "field strength")
        assert any(word in refusal for word in words)
    else:
        assert gre.echo_times_s.shape == (1,)
        assert not isinstance(field, bool)


def test_a_field_strength_that_differs_between_echoes_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    files: dict[str, list[Path]] = {"mag": [], "phase": []}
    for echo, field in enumerate((3, 7)):
        for part, values in (
            ("mag", rng.random((4, 4, 4))),
            ("phase", rng.uniform(-3.14, 3.14, (4, 4, 4))),
        ):
            path = images.save(images.make(values, np.eye(4)), tmp_path / f"{part}{echo}.nii")
            files[part].append(path)
        meta = {"EchoTime": 0.005 * (echo + 1), "MagneticFieldStrength": field}
        (tmp_path / f"phase{echo}.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="MagneticFieldStrength: 3, 7 T"):
        images.load_gre(files["mag"], files["phase"])
    assert images.load_gre(files["mag"], files["phase"], field_strength_t=3).field_strength_t == 3


def test_complex_numbers_and_colours_are_refused():
    rng = np.random.default_rng(0)
    values = rng.random((4, 4, 4)) * np.exp(1j * rng.random((4, 4, 4)))
    with pytest.raises(InputError, match="complex numbers; give the magnitude"):
        images.load(nib.Nifti1Image(values.astype(np.complex64), np.eye(4)))
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match="holds colours"):
        images.load(nib.Nifti1Image(colours, np.eye(4)))


def test_what_a_header_leaves_open_is_said():
    scan = images.make(np.random.default_rng(0).random((4, 4, 4)), np.eye(4))
    assert images.header_notes(scan) == ()
    mirrored = nib.Nifti1Image(scan.dataobj, np.eye(4))
    mirrored.set_sform(np.eye(4), 2)
    mirrored.set_qform(np.diag([-1, 1, 1, 1]), 1)
    assert "left and right exchanged" in images.header_notes(mirrored)[0]
    turned = nib.Nifti1Image(scan.dataobj, np.eye(4))
    turned.set_sform(np.eye(4), 1)
    turned.set_qform(nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1)), 1)
    assert "6 degrees apart" in images.header_notes(turned)[0]
    template = nib.Nifti1Image(scan.dataobj, np.eye(4))
    template.set_sform(np.eye(4), 4)
    template.set_qform(np.eye(4), 4)
    assert "template's space" in images.header_notes(template)[0]
    unknown = nib.Nifti1Image(scan.dataobj, np.eye(4))
    unknown.header["sform_code"] = unknown.header["qform_code"] = 0
    assert "both codes of the header are 0" in images.header_notes(unknown)[0]


def test_an_affine_that_was_rounded_is_the_same_grid():
    turn = nib.eulerangles.euler2mat(0.1, -0.07, 0.3)
    affine = nib.affines.from_matvec(turn @ np.diag([0.7, 0.7, 0.7]), (-90, -120, -60))
    scan = nib.Nifti1Image(np.zeros((256, 320, 256), np.uint8), affine)
    images.same_grid(nib.Nifti1Image(scan.dataobj, np.round(affine, 4)), scan)
    shifted = affine.copy()
    shifted[0, 3] += 0.1
    with pytest.raises(InputError, match=r"puts a corner 0\.1 mm away"):
        images.same_grid(nib.Nifti1Image(scan.dataobj, shifted), scan)


def test_a_direction_of_nan_counts_only_where_there_is_a_direction():
    rng = np.random.default_rng(0)
    series = images.make(rng.random((4, 4, 4, 8)), np.eye(4))
    vectors = rng.normal(size=(3, 8))
    vectors /= np.linalg.norm(vectors, axis=0)
    bvals = np.r_[0, [1000] * 7]
    vectors[:, 0] = np.nan
    assert (images.load_dwi(series, bvals, vectors).bvecs_ras[0] == 0).all()
    vectors[1, 3] = np.nan
    with pytest.raises(InputError, match="volume 3, b = 1000 s/mm2, has length nan"):
        images.load_dwi(series, bvals, vectors)
    with pytest.raises(InputError, match="look like ms/um2; give s/mm2"):
        images.load_dwi(series, bvals / 1000, np.nan_to_num(vectors))


def test_a_mask_is_a_mask_however_it_was_stored(volume):
    inside = np.zeros(volume.shape, bool)
    inside[2:5, 2:5, 2:6] = True
    rng = np.random.default_rng(0)
    soft = np.clip(inside + rng.normal(0, 0.1, volume.shape), 0, 1)
    for values in (
        inside,
        inside * 255,
        soft,
        np.round(255 * soft),
        inside * rng.integers(1, 40, volume.shape),
        inside * 1e-9 + inside,
    ):
        mask = images.make(np.asarray(values, np.float32), volume.affine)
        assert np.array_equal(images.load_mask(mask, volume), inside)
    for bad in (np.where(inside, np.nan, 0), inside * -1.0):
        with pytest.raises(InputError, match="NaN or negative"):
            images.load_mask(images.make(bad, volume.affine), volume)


def _complex(values, parts):
    """Store a complex series as magnitude and phase, or as real and imaginary part."""
    both = (np.abs(values), np.angle(values)) if parts == "polar" else (values.real, values.imag)
    return [images.make(v.astype(np.float32), np.eye(4)) for v in both]


@pytest.fixture
def signal() -> np.ndarray:
    """Three echoes of a field with a coil's phase, shape (x, y, z, echo)."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 22, 18)], indexing="ij")
    field_hz = 60 * x * y + 40 * z
    times = np.array([0.005, 0.01, 0.015])
    rng = np.random.default_rng(2)
    clean = np.exp(1j * (2 * np.pi * field_hz[..., None] * times + 3 * x[..., None])) * np.exp(
        -30 * times
    )
    return 100 * clean + rng.standard_normal((*clean.shape, 2)) @ [1, 1j]


SCANNER = {"echo_times_s": [0.005, 0.01, 0.015], "field_strength_t": 3}


def test_real_and_imaginary_parts_are_the_same_scan(signal):
    polar = images.load_gre(*_complex(signal, "polar"), **SCANNER)
    parts = images.load_gre(*_complex(signal, "parts"), **SCANNER, real_imaginary=True)
    assert parts.phase_stored_as == "real and imaginary parts"
    np.testing.assert_allclose(parts.magnitude, polar.magnitude, rtol=1e-5)
    difference = np.angle(np.exp(1j * (parts.phase_rad - polar.phase_rad)))
    assert np.abs(difference).max() < 1e-5


def test_parts_that_are_none_are_refused(signal):
    real, imaginary = _complex(signal, "parts")
    with pytest.raises(InputError, match=r"cannot be negative.*say --real-imaginary"):
        images.load_gre(real, imaginary, **SCANNER)
    for stored in (_complex(signal, "polar"), (real, images.make(np.abs(signal), np.eye(4)))):
        with pytest.raises(InputError, match=r"a (real|imaginary) part is negative in some"):
            images.load_gre(*stored, **SCANNER, real_imaginary=True)
    with pytest.raises(InputError, match="in other units"):
        images.load_gre(real, real, **SCANNER, real_imaginary=True)


@pytest.mark.parametrize("parts", ["polar", "parts"])
def test_coils_are_combined_so_that_the_field_stays(signal, parts):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in signal.shape[:3]], indexing="ij")
    coils = [
        np.exp(-((x - a) ** 2) - (y - b) ** 2) * np.exp(1j * (3 * a * y + 2 * b * z + 5 * c))
        for c, (a, b) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)])
    ]
    rng = np.random.default_rng(3)
    noisy = signal[..., None] * np.stack(coils, -1)[..., None, :]
    noisy += 0.5 * rng.standard_normal((*noisy.shape, 2)) @ [1, 1j]
    gre = images.load_gre(*_complex(noisy, parts), **SCANNER, real_imaginary=parts == "parts")
    assert gre.phase_stored_as.endswith(", 4 coils combined")
    for e in (1, 2):
        gained = np.exp(1j * (gre.phase_rad[..., e] - gre.phase_rad[..., 0]))
        true = signal[..., e] * np.conj(signal[..., 0])
        assert np.std(np.angle(gained * np.conj(true))) < 0.03
        ratio = gre.magnitude[..., e] / gre.magnitude[..., 0]
        assert abs(np.median(ratio) - np.exp(-30 * 0.005 * e)) < 0.01
    one_echo = _complex(noisy[..., :1, :], parts)
    with pytest.raises(InputError, match=r"4 coils of one echo.*combine the coils first"):
        images.load_gre(
            *one_echo, echo_times_s=[0.01], field_strength_t=3, real_imaginary=parts == "parts"
        )
    with pytest.raises(InputError, match="same echoes and coils"):
        images.load_gre(
            _complex(noisy, parts)[0], one_echo[1], **SCANNER, real_imaginary=parts == "parts"
        )


def test_a_file_of_coils_for_each_echo_is_refused(signal):
    magnitude, phase = _complex(signal, "polar")
    with pytest.raises(InputError, match=r"is 4D, but one of 2 files .* 5D \(x, y, z, echo, coil"):
        images.load_gre([magnitude, magnitude], [phase, phase], **SCANNER)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ImagingFrequency", 63.87, "as at 1.5 T, but the field strength is 3 T"),
        ("RepetitionTime", 0.012, "the last echo time is 0.015 s, but RepetitionTime is 0.012 s"),
        ("RepetitionTimeExcitation", 0.012, "before the next excitation"),
        ("ImagingFrequency", 123.25, ""),
        ("ImagingFrequency", "unknown", ""),
        ("RepetitionTime", 0.035, ""),
    ],
)
def test_what_a_sidecar_says_beside_echo_times_and_field_strength(
    signal, tmp_path, key, value, words
):
    for image, part in zip(_complex(signal, "polar"), ("mag", "phase"), strict=True):
        images.save(image, tmp_path / f"{part}.nii.gz")
    (tmp_path / "phase.json").write_text(json.dumps({key: value}))
    files = tmp_path / "mag.nii.gz", tmp_path / "phase.nii.gz"
    if words:
        with pytest.raises(InputError, match=words):
            images.load_gre(*files, **SCANNER)
    else:
        images.load_gre(*files, **SCANNER)
