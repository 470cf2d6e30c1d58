"""Distortion of echo-planar images, undone by an image of the opposite phase encoding."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from alps_distortion import distort
from scipy.spatial.transform import Rotation
from test_alps_files import dataset, found_in, write

from pvsbook import InputError, alps, images
from pvsbook.alps import preprocess
from pvsbook.alps.preprocess import Displacement, find_displacement
from pvsbook.atlas.registration import Registration
from pvsbook.methods import alps as method
from pvsbook.phantoms.brain import make_brain
from pvsbook.phantoms.diffusion import add_noise, fsl_bvecs, gradient_scheme, make_diffusion

OPTIONS = {o.name: o.default for o in method.METHOD.options} | {"n_bootstrap": 10}
KNOWN = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


@pytest.fixture(scope="module")
def head():
    """A head without noise, and a displacement that differs between the regions."""
    brain = make_brain(2.5, axcodes="LPS", z_range_mni_mm=(10, 44), margin_mm=8)
    mm = brain.mni_coordinates()
    shift_mm = 5 * np.exp(-((mm[..., :2] - (15, 0)) ** 2).sum(axis=-1) / (2 * 35.0**2))
    rng = np.random.default_rng(5)
    bvals, bvecs = gradient_scheme(15, rng=rng, n_b0=1)
    clean = make_diffusion(brain, rng=rng, bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=np.inf)
    return clean, Displacement(shift_mm.astype(float), 1, 2.5)


@pytest.fixture(scope="module")
def there(head):
    """The head, distorted."""
    clean, displacement = head
    data = np.moveaxis(images.array(clean.dwi.image), -1, 0)
    moved = np.stack([distort(v, displacement.mm / displacement.voxel_mm) for v in data], -1)
    return replace(clean, dwi=replace(clean.dwi, image=clean.brain.image(moved)))


@pytest.fixture(scope="module")
def back(head):
    """Its first volume with the opposite phase encoding."""
    clean, displacement = head
    volume = images.array(clean.dwi.image)[..., 0]
    return clean.brain.image(distort(volume, -displacement.mm / displacement.voxel_mm))


def b0(scan):
    return scan.brain.image(images.array(scan.dwi.image)[..., 0])


@pytest.fixture
def unpile(monkeypatch):
    """Stand in for the package: it finds the field that it is told to."""
    fake = SimpleNamespace(mm=None, command=[])

    def run(command, threads):
        fake.command, fake.threads = command, threads
        named = dict(zip(command[1::2], command[2::2], strict=True))
        epi = nib.load(named["--epi"])
        fake.codes = nib.aff2axcodes(epi.affine)
        assert nib.load(named["--reverse-epi"]).shape == nib.load(named["--mask"]).shape
        nib.save(
            nib.Nifti1Image(fake.mm.astype(np.float32), epi.affine),
            Path(named["--out"], "disp_pe_mm.nii.gz"),
        )

    fake.run = run
    monkeypatch.setitem(sys.modules, "unpile", fake)
    return fake


def index(dwi, mask, **options):
    found = alps.measure(dwi, mask=mask, registration=KNOWN, n_bootstrap=10, **options)
    return found.indices["tract"]["mean"].value


def test_signal_comes_back_to_its_place(head, there):
    clean, displacement = head
    fixed = displacement.correct(there.dwi)
    brain = clean.brain.wm > 0.9
    true, before, after = (images.array(dwi.image)[brain] for dwi in (clean.dwi, there.dwi, fixed))
    assert np.std(after - true) < 0.5 * np.std(before - true)


def test_displacement_is_found_in_the_axes_of_the_voxels(head, there, back, unpile, monkeypatch):
    clean, displacement = head
    unpile.mm = displacement.mm
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = find_displacement(there.dwi, back, phase_encoding="j-", mask=clean.mask)
    np.testing.assert_allclose(found.mm, displacement.mm, atol=1e-5)
    assert (found.axis, found.voxel_mm) == (1, 2.5)
    assert unpile.codes == ("L", "A", "S")
    assert unpile.threads == 1
    said = " ".join(unpile.command)
    assert "--pe-dir j " in said
    assert "--lam-mm 60 --levels 24,12,6" in said


def test_a_correction_that_gains_nothing_is_refused(head, there, back, unpile):
    clean, displacement = head
    for wrong in (-displacement.mm, 0 * displacement.mm):  # moved away, or not at all
        unpile.mm = wrong
        with pytest.raises(InputError, match=r"too little is gained; check .* that j is the axis"):
            find_displacement(there.dwi, back, phase_encoding="j", mask=clean.mask)


def test_what_cannot_be_corrected_is_refused(head, unpile, monkeypatch):
    clean, _ = head
    with pytest.raises(InputError, match="phase_encoding is 'y'; use i, j or k"):
        find_displacement(clean.dwi, b0(clean), phase_encoding="y", mask=clean.mask)
    half = images.make(np.ones((4, 4, 4)), np.eye(4))
    with pytest.raises(InputError, match="reverse: its grid is 4 x 4 x 4, but dwi has"):
        find_displacement(clean.dwi, half, phase_encoding="j", mask=clean.mask)

    def run(command, threads):
        raise subprocess.CalledProcessError(1, command, stderr="reading\nno such metric\n")

    unpile.run = run
    with pytest.raises(InputError, match=r"unpile failed \(no such metric\)"):
        find_displacement(clean.dwi, b0(clean), phase_encoding="j", mask=clean.mask)

    def absent(command, threads):
        raise FileNotFoundError("neither here\nnor on PATH; set UNPILE_BIN to its path")

    unpile.run = absent
    with pytest.raises(InputError, match=r"unpile failed \(neither here nor on PATH; set"):
        find_displacement(clean.dwi, b0(clean), phase_encoding="j", mask=clean.mask)
    monkeypatch.setitem(sys.modules, "unpile", None)
    with pytest.raises(
        InputError, match=r"unpile, which is missing here; run: pip install unpile"
    ):
        find_displacement(clean.dwi, b0(clean), phase_encoding="j", mask=clean.mask)


def test_motion_and_distortion_are_undone_in_one_step(head, monkeypatch):
    """The head turned and moved in one volume; the signal moved along the scanner's axis."""
    clean, displacement = head
    turn = Rotation.from_euler("z", 6, degrees=True).as_matrix()
    centre = nib.affines.apply_affine(clean.brain.affine, (np.array(clean.brain.shape) - 1) / 2)
    to_first = nib.affines.from_matvec(turn, centre - turn @ centre + (3, 0, 0))
    data = images.array(clean.dwi.image)[..., :8]
    moved = preprocess._resampled(data[..., 5], clean.brain.affine, np.linalg.inv(to_first))
    steps = displacement.mm / displacement.voxel_mm
    series = np.stack([distort(v, steps) for v in [*np.moveaxis(data, -1, 0)[:5], moved]], -1)
    dwi = images.Dwi(clean.brain.image(series), clean.dwi.bvals_s_mm2[:6], clean.dwi.bvecs_ras[:6])
    last = dwi.image.dataobj[20, 20, 5, 5]

    def rigid_between(image, _, start=None):
        return to_first if image.dataobj[20, 20, 5] == last else np.eye(4)

    monkeypatch.setattr(preprocess, "rigid_between", rigid_between)
    found = preprocess.correct_motion(dwi, displacement=displacement)
    white = clean.brain.wm > 0.9
    error = (images.array(found.dwi.image)[..., 5] - data[..., 5])[white]
    alone = (images.array(preprocess.correct_motion(dwi).dwi.image)[..., 5] - data[..., 5])[white]
    assert np.std(error) < 0.6 * np.std(alone)
    np.testing.assert_allclose(found.dwi.bvecs_ras[5], turn @ dwi.bvecs_ras[5])


def files_of(scan, folder, **sidecar):
    folder.mkdir()
    path = folder / "sub-01_dwi.nii.gz"
    images.save(scan.dwi.image, path)
    np.savetxt(folder / "sub-01_dwi.bval", scan.dwi.bvals_s_mm2[None])
    np.savetxt(folder / "sub-01_dwi.bvec", fsl_bvecs(scan.dwi))
    if sidecar:
        (folder / "sub-01_dwi.json").write_text(json.dumps(sidecar))
    return [path], [folder / "sub-01_dwi.bval"], [folder / "sub-01_dwi.bvec"]


@pytest.mark.parametrize("motion", [False, True])
def test_option_corrects_and_says_how_far_voxels_moved(
    head, there, back, unpile, tmp_path, motion, monkeypatch
):
    clean, displacement = head
    unpile.mm = displacement.mm
    monkeypatch.setattr(preprocess, "rigid_between", lambda *_, start=None: np.eye(4))
    noisy = add_noise(there, snr=30, rng=np.random.default_rng(0))
    files = files_of(noisy, tmp_path / "in", PhaseEncodingDirection="j-")
    reverse, mask = tmp_path / "reverse.nii.gz", tmp_path / "mask.nii.gz"
    images.save(back, reverse)
    images.save(clean.mask, mask)
    options = OPTIONS | {"brain_mask": mask, "registration": KNOWN, "motion": motion}
    found = method.measure(*files, **options | {"reverse": reverse})
    truth = index(clean.dwi, clean.mask)
    assert abs(found.indices["tract"]["mean"].value - truth) < 0.03
    note = found.notes[0]
    assert note.startswith("distortion was corrected by an image of the opposite phase encoding")
    moved = nib.as_closest_canonical(clean.brain.image(displacement.mm)).get_fdata()
    mm = [roi.voxels.mean(moved[roi.voxels.at]) for roi in found.rois]
    assert f"voxels moved by {min(mm):.1f} to {max(mm):.1f} mm" in note
    assert max(mm) > min(mm) + 1
    again = found.remeasure(alps.SPHERES_2_5_MM, n_bootstrap=10)
    assert "distortion was corrected" in again.notes[0]


def test_interval_keeps_the_noise_that_interpolation_hides(head):
    clean, _ = head
    half = Displacement(np.full(clean.brain.shape, 1.25), 1, 2.5)
    scan = add_noise(clean, snr=25, rng=np.random.default_rng(1))
    moved = half.correct(scan.dwi, order=1)
    sd = [
        alps.measure(
            dwi, mask=scan.mask, registration=KNOWN, n_bootstrap=300, before_denoising=before
        ).indices["tract"]["mean"].noise_sd
        for dwi, before in (
            (scan.dwi, None), (moved, None), (moved, half.correct(scan.dwi, order=0))
        )
    ]  # fmt: skip
    assert sd[1] < 0.85 * sd[0]
    assert sd[2] == pytest.approx(sd[0], rel=0.12)


def test_axis_is_read_or_asked_for(tmp_path):
    dwi, reverse = tmp_path / "a_dwi.nii.gz", tmp_path / "a_epi.nii.gz"

    def axis(ours, theirs=None, given=None):
        for path, content in ((dwi, ours), (reverse, theirs)):
            Path(images.stem(path) + ".json").write_text(json.dumps(content or {}))
        return method.phase_encoding_axis(dwi, reverse, given)

    key = method.DIRECTION
    assert axis({key: "j-", "TotalReadoutTime": 0.05}, {key: "j", "TotalReadoutTime": 0.05}) == "j"
    assert axis({"PhaseEncodingAxis": "i"}) == "i"
    assert axis({}, given="k") == "k"
    for ours, theirs, given, error in (
        ({}, {}, None, "give --phase-encoding i, j or k"),
        ({key: "j"}, {}, "i", "phase_encoding is 'i', but the sidecar of .* says 'j'"),
        (
            {key: "j"},
            {key: "j"},
            None,
            "PhaseEncodingDirection is 'j', .* give an image with 'j-'",
        ),
        (
            {key: "j", "TotalReadoutTime": 0.05},
            {key: "j-", "TotalReadoutTime": 0.03},
            None,
            "only images of one readout time",
        ),
    ):
        with pytest.raises(InputError, match=error):
            axis(ours, theirs, given)
    with pytest.raises(InputError, match="phase_encoding: is read with reverse alone"):
        method.METHOD.check({"phase_encoding": "j"}, "options")


def test_image_for_a_correction_is_named_and_not_used(tmp_path):
    folder = dataset(tmp_path)
    write(folder, "sub-01_dwi")
    (folder / "sub-01_dwi.json").write_text(json.dumps({method.DIRECTION: "j-"}))
    fmap = folder.parent / "fmap"
    fmap.mkdir()

    def add(name, **sidecar):
        nib.save(
            nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), fmap / f"{name}.nii.gz"
        )
        (fmap / f"{name}.json").write_text(json.dumps(sidecar))

    add("sub-01_dir-AP_epi", **{method.DIRECTION: "j-"})
    add("sub-01_acq-fmri_dir-PA_epi", **{method.DIRECTION: "j", "IntendedFor": ["func/x.nii.gz"]})
    assert found_in(tmp_path).notes == ()
    add("sub-01_dir-PA_epi", **{method.DIRECTION: "j", "IntendedFor": "dwi/sub-01_dwi.nii.gz"})
    found = found_in(tmp_path)
    assert "reverse" not in found.parameters
    (note,) = found.notes
    assert note.startswith("sub-01_dir-PA_epi.nii.gz: opposite phase encoding, not used")


def test_with_the_package_itself():
    pytest.importorskip("unpile", reason="needs the package unpile")
    brain = make_brain(5.0, axcodes="PSR", z_range_mni_mm=(-10, 62))
    mm = brain.mni_coordinates()
    shift = 6 * np.exp(-((mm - np.array((0, 40, 0))) ** 2).sum(axis=-1) / (2 * 35.0**2))
    rng = np.random.default_rng(3)
    flat = (600 * brain.wm + 900 * brain.gm + 2200 * brain.csf).astype(float)
    # along the third axis, which `distort` takes for the second one
    there, back = (
        np.swapaxes(distort(np.swapaxes(flat, 1, 2), np.swapaxes(s * shift, 1, 2) / 5), 1, 2)
        + rng.normal(0, 20, flat.shape)
        for s in (1, -1)
    )
    dwi = images.Dwi(brain.image(there[..., None]), np.array([0.0]), np.zeros((1, 3)))
    mask = brain.image((brain.brain > 0.5).astype(np.uint8))
    found = find_displacement(dwi, brain.image(1.7 * back), phase_encoding="k", mask=mask)
    off = (found.mm - shift)[brain.brain > 0.5]
    assert np.sqrt((off**2).mean()) < 0.4 * np.sqrt((shift[brain.brain > 0.5] ** 2).mean())
    for image, axis in ((back, "i"), (there, "k")):  # a wrong axis, and the same direction
        again = image + rng.normal(0, 20, flat.shape)
        with pytest.raises(InputError, match="too little is gained"):
            find_displacement(dwi, brain.image(again), phase_encoding=axis, mask=mask)
