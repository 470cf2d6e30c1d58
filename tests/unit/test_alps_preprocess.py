"""Corrections before the tensor: noise, ringing and motion, on scans with known truth."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pvsbook import InputError, images
from pvsbook.alps import preprocess
from pvsbook.phantoms.brain import make_brain
from pvsbook.phantoms.diffusion import WhiteMatter, add_noise, gradient_scheme, make_diffusion

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from alps_accuracy import add_distortion, add_motion


@pytest.fixture(scope="module")
def slab():
    """Noise-free two-shell slab."""
    rng = np.random.default_rng(1)
    bvals, bvecs = gradient_scheme(16, rng=rng, n_b0=3, b_s_mm2=(1000.0, 2000.0))
    brain = make_brain(2.5, z_range_mni_mm=(2, 50), axcodes="LPS")
    tissue = WhiteMatter(free=0.1)
    return make_diffusion(
        brain, rng=rng, snr=np.inf, tissue=tissue, bvals_s_mm2=bvals, bvecs_ras=bvecs
    )


@pytest.fixture(scope="module")
def scan(slab):
    return add_noise(slab, snr=30, rng=np.random.default_rng(2))


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_denoising_comes_closer_to_the_truth(slab, scan, method):
    crop = np.s_[20:36, 30:46, 6:14]
    inside = np.asarray(scan.mask.dataobj)[crop] > 0
    clean, noisy = (images.array(x.dwi.image)[crop] for x in (slab, scan))
    dwi = images.Dwi(
        images.make(noisy, scan.dwi.image.affine), scan.dwi.bvals_s_mm2, scan.dwi.bvecs_ras
    )
    mask = images.make(inside, scan.dwi.image.affine) if method == "mppca" else None
    found = images.array(preprocess.denoise(dwi, method=method, mask=mask).image)
    middle = np.s_[3:-3, 3:-3, 3:-3]
    assert inside[middle].mean() > 0.5
    assert np.std((found - clean)[middle]) < 0.8 * np.std((noisy - clean)[middle])


def test_ringing_is_removed():
    edge = np.zeros((64, 64), complex)
    edge[20:44, 20:44] = 100
    spectrum = np.fft.fftshift(np.fft.fft2(edge))
    low = np.fft.ifft2(np.fft.ifftshift(spectrum[16:48, 16:48])).real / 4
    series = np.repeat(low[:, :, None, None], 2, axis=2).repeat(2, axis=3)
    dwi = images.Dwi(images.make(series, np.eye(4)), np.array([0.0, 1000]), np.eye(3)[:2])
    found = images.array(preprocess.remove_ringing(dwi).image)
    flat = np.s_[13:19, 13:19, 0, 0]
    assert found[flat].std() < 0.5 * low[13:19, 13:19].std()


def test_motion_is_undone_and_b_vectors_follow():
    rng = np.random.default_rng(4)
    bvals, bvecs = gradient_scheme(8, rng=rng, n_b0=2)
    brain = make_brain(3.0, z_range_mni_mm=(-20, 70))
    clean = make_diffusion(brain, rng=rng, snr=np.inf, bvals_s_mm2=bvals, bvecs_ras=bvecs)
    moved = add_motion(clean, rotation_deg=4, translation_mm=2, rng=np.random.default_rng(7))
    again = np.random.default_rng(7)
    angles = again.normal(0, 4, (10, 3)) * (np.arange(10) > 0)[:, None]
    turns = Rotation.from_euler("xyz", angles, degrees=True)
    noisy = add_noise(moved, snr=40, rng=rng)
    found = preprocess.correct_motion(noisy.dwi, mask=noisy.mask)
    np.testing.assert_allclose(found.rotation_deg, np.rad2deg(turns.magnitude()), atol=1.0)
    head = np.einsum("kij,kj->ki", turns.inv().as_matrix(), bvecs)
    apart = np.rad2deg(np.arccos(np.clip(np.abs((found.dwi.bvecs_ras * head).sum(1)[2:]), 0, 1)))
    assert apart.max() < 1.5
    true, before, after = (
        images.array(x)[np.asarray(noisy.mask.dataobj) > 0]
        for x in (clean.dwi.image, noisy.dwi.image, found.dwi.image)
    )
    assert np.std(after - true) < 0.6 * np.std(before - true)


def test_corrections_refuse(scan):
    with pytest.raises(InputError, match="method is 'nlm'"):
        preprocess.denoise(scan.dwi, method="nlm")
    few = images.Dwi(images.make(np.ones((4, 4, 4, 7)), np.eye(4)), np.zeros(7), np.zeros((7, 3)))
    with pytest.raises(InputError, match="7 volumes are too few"):
        preprocess.denoise(few)
    with pytest.raises(InputError, match="has noise already"):
        add_motion(scan, rotation_deg=1, translation_mm=1, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="has noise already"):
        add_distortion(scan, shift_mm=1)


def test_distortion_moves_the_front_and_keeps_the_signal(slab):
    bent = images.array(add_distortion(slab, shift_mm=6).dwi.image)
    straight = images.array(slab.dwi.image)
    y = slab.brain.mni_coordinates()[..., 1]
    front, back = (y > 30) & (y < 50), y < -50
    change = np.abs(bent - straight)[..., 0]
    assert change[front].mean() > 20 * change[back].mean()
    assert bent.sum() == pytest.approx(straight.sum(), rel=0.02)
