"""Corrections, variants, regions by hand, search, and probability maps."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pvsbook import InputError, alps, images
from pvsbook.alps import preprocess, probability, regions, sensitivity, tensor
from pvsbook.atlas.registration import Registration
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import (
    Tissue,
    add_distortion,
    add_motion,
    add_noise,
    gradient_scheme,
    make_diffusion,
)

HERE = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


@pytest.fixture(scope="module")
def slab():
    """Noise-free two-shell slab."""
    rng = np.random.default_rng(1)
    bvals, bvecs = gradient_scheme(16, rng=rng, n_b0=3, b_s_mm2=(1000.0, 2000.0))
    brain = make_brain(2.5, z_range_mni_mm=(2, 50), axcodes="LPS")
    tissue = Tissue(free=0.1)
    return make_diffusion(
        brain, rng=rng, snr=np.inf, tissue=tissue, bvals_s_mm2=bvals, bvecs_ras=bvecs
    )


@pytest.fixture(scope="module")
def scan(slab):
    return add_noise(slab, snr=30, rng=np.random.default_rng(2))


# variants of the fit


def signals(snr=40, n=30, outlier=False):
    rng = np.random.default_rng(3)
    bvals, bvecs = gradient_scheme(30, rng=rng, n_b0=3)
    d = np.diag([0.6e-3, 0.4e-3, 1.5e-3])
    clean = 100 * np.exp(-bvals * np.einsum("ki,ij,kj->k", bvecs, d, bvecs))
    seen = clean + rng.normal(0, 100 / snr, (n, len(bvals)))
    if outlier:
        seen[:, 8] = 5
    return seen, bvals, bvecs, d


@pytest.mark.parametrize("method", ["nlls", "restore"])
def test_robust_fits_find_the_tensor(method):
    seen, bvals, bvecs, d = signals()
    found = sensitivity.fit_robust(seen, bvals, bvecs, method=method, sigma=2.5).mean(axis=0)
    np.testing.assert_allclose(found, d, atol=3e-5)


def test_restore_ignores_a_lost_slice_and_least_squares_does_not():
    seen, bvals, bvecs, d = signals(outlier=True)
    restore = sensitivity.fit_robust(seen, bvals, bvecs, method="restore", sigma=2.5)
    wls = tensor.wls(seen, tensor.design_matrix(bvals, bvecs), min_signal=1)
    off = np.abs(tensor.from_six(wls.beta[:, :6]).mean(axis=0) - d).max()
    assert off > 1e-4
    assert np.abs(restore.mean(axis=0) - d).max() < off / 2


def test_free_water_is_taken_out():
    rng = np.random.default_rng(3)
    bvals, bvecs = gradient_scheme(24, rng=rng, n_b0=4, b_s_mm2=(700.0, 1500.0))
    d = np.diag([0.6e-3, 0.4e-3, 1.5e-3])
    tissue = np.exp(-bvals * np.einsum("ki,ij,kj->k", bvecs, d, bvecs))
    mixed = 100 * (0.8 * tissue + 0.2 * np.exp(-3e-3 * bvals))
    found, fraction = sensitivity.fit_free_water(mixed[None], bvals, bvecs)
    np.testing.assert_allclose(found[0], d, atol=2e-5)
    assert fraction[0] == pytest.approx(0.2, abs=0.01)


def test_free_water_is_taken_out_of_a_scan_with_two_shells():
    rng = np.random.default_rng(1)
    bvals, bvecs = gradient_scheme(24, rng=rng, n_b0=3, b_s_mm2=(700.0, 1500.0))
    tissue = Tissue(free=0.2, gaussian=False, intra=0.0, perpendicular=0.4e-3)
    clean = make_diffusion(
        make_brain(2.5, z_range_mni_mm=(14, 40)),
        rng=rng,
        tissue=tissue,
        bvals_s_mm2=bvals,
        bvecs_ras=bvecs,
        snr=60,
    )
    result = alps.measure(clean.dwi, mask=clean.mask, registration=HERE, n_bootstrap=20)
    assert result.b_s_mm2 == 700
    assert result.variants["free_water"] > result.indices["tract"]["mean"].value + 0.05


def test_one_shell_cannot_tell_free_water():
    seen, bvals, bvecs, _ = signals()
    with pytest.raises(InputError, match="only shell is at"):
        sensitivity.fit_free_water(seen, bvals, bvecs)


def test_variants_are_reported(scan):
    row = alps.measure(scan.dwi, mask=scan.mask, registration=HERE, n_bootstrap=20).to_row()
    assert row["alps_tract_nlls"] == pytest.approx(row["alps_tract_mean"], abs=0.05)
    assert row["alps_tract_restore"] == pytest.approx(row["alps_tract_mean"], abs=0.05)
    assert row["alps_tract_radius_5_mm"] == pytest.approx(row["alps_tract_mean"], abs=0.1)
    assert 0 < row["alps_tract_shift_sd"] < 0.1
    assert row["left_projection_fluid_distance_mm"] > 2


def test_seven_volumes_leave_nothing_to_tell_an_outlier_by():
    rng = np.random.default_rng(4)
    bvals, bvecs = gradient_scheme(6, rng=rng, n_b0=1)
    brain = make_brain(3.0, z_range_mni_mm=(10, 44))
    few = make_diffusion(brain, rng=rng, snr=30, bvals_s_mm2=bvals, bvecs_ras=bvecs)
    row = alps.measure(few.dwi, mask=few.mask, registration=HERE, n_bootstrap=20).to_row()
    assert np.isnan(row["alps_tract_restore"])
    assert row["alps_tract_nlls"] == pytest.approx(row["alps_tract_mean"], abs=0.1)


def test_robust_fit_refuses():
    seen, bvals, bvecs, _ = signals()
    with pytest.raises(InputError, match="method is 'ols'"):
        sensitivity.fit_robust(seen, bvals, bvecs, method="ols")
    with pytest.raises(InputError, match="sigma is missing"):
        sensitivity.fit_robust(seen, bvals, bvecs, method="restore")


# regions


def test_regions_by_hand_give_what_spheres_give(scan):
    spheres = alps.measure(scan.dwi, mask=scan.mask, registration=HERE, n_bootstrap=20)
    drawn = alps.measure(
        scan.dwi, mask=scan.mask, registration=HERE, rois=spheres.labels, n_bootstrap=20
    )
    assert drawn.rois[0].n_voxels == (np.asarray(spheres.labels.dataobj) == 1).sum()
    assert drawn.to_row()["alps_tract_mean"] == pytest.approx(
        spheres.to_row()["alps_tract_mean"], abs=0.1
    )
    assert np.isnan(drawn.variants["radius_5_mm"])


def test_coordinates_in_the_scanner():
    to_world = pose((10, 5, -8), (4, 9, -30))
    brain = make_brain(2.5, mni_to_world=to_world, z_range_mni_mm=(10, 44))
    rng = np.random.default_rng(6)
    found = make_diffusion(brain, rng=rng, snr=30)
    centres = {
        n: tuple((to_world @ [*c, 1])[:3]) for n, c in regions.SPHERES_2_5_MM.centres_mm.items()
    }
    by_hand = regions.RoiSet(centres, 2.5, space="scanner")
    known = Registration(np.linalg.inv(to_world), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    one = alps.measure(found.dwi, mask=found.mask, registration=known, n_bootstrap=10)
    other = alps.measure(
        found.dwi, mask=found.mask, registration=known, rois=by_hand, n_bootstrap=10
    )
    for a, b in zip(one.rois, other.rois, strict=True):
        np.testing.assert_allclose(a.d_mm2_s, b.d_mm2_s, rtol=1e-6)


def test_search_finds_the_tract_again(scan):
    """A registration that is 3 mm off to the side puts association regions at a tract's edge."""
    off = np.eye(4)
    off[0, 3] = -2.0
    wrong = Registration(off, "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    rois = regions.RoiSet(
        {n: (c[0] * 1.12, c[1], c[2]) for n, c in regions.SPHERES_2_5_MM.centres_mm.items()}, 2.5
    )
    still = alps.measure(scan.dwi, mask=scan.mask, registration=wrong, rois=rois, n_bootstrap=10)
    moved = alps.measure(
        scan.dwi, mask=scan.mask, registration=wrong, rois=rois, search_mm=3, n_bootstrap=10
    )
    assert all(r.displacement_mm == 0 for r in still.rois)
    assert max(r.displacement_mm for r in moved.rois) > 1
    assert max(r.displacement_mm for r in moved.rois) <= 3
    for a, b in zip(moved.rois, still.rois, strict=True):
        assert a.fa >= b.fa - 0.02


def test_nonlinear_registration_carries_the_regions(scan):
    result = alps.measure(scan.dwi, mask=scan.mask, nonlinear=True, n_bootstrap=10)
    assert result.registration.warp is not None
    assert result.registration.correlation > 0.6
    assert result.indices["tract"]["mean"].value == pytest.approx(scan.index, abs=0.08)


def test_regions_refuse(scan):
    dwi, mask = scan.dwi, scan.mask
    labels = images.make(np.zeros(dwi.image.shape[:3], np.uint8), dwi.image.affine)
    with pytest.raises(InputError, match="no voxel has label 1"):
        alps.measure(dwi, mask=mask, registration=HERE, rois=labels)
    small = images.make(np.ones((3, 3, 3), np.uint8), np.eye(4))
    with pytest.raises(InputError, match="rois: its grid"):
        alps.measure(dwi, mask=mask, registration=HERE, rois=small)
    with pytest.raises(InputError, match="search_mm is 8"):
        alps.measure(dwi, mask=mask, registration=HERE, search_mm=8)
    with pytest.raises(InputError, match="stay where they are"):
        alps.measure(dwi, mask=mask, registration=HERE, rois=labels, search_mm=1)
    with pytest.raises(InputError, match="space is 'native'"):
        regions.RoiSet(regions.SPHERES_2_5_MM.centres_mm, 2.5, space="native")


# several people


def test_probability_maps_find_the_common_core(scan):
    rng = np.random.default_rng(9)
    grid = scan.dwi.image
    drawn = []
    for _ in range(8):
        labels = np.zeros(grid.shape[:3], np.uint8)
        for k, centre in enumerate(regions.SPHERES_2_5_MM.centres_mm.values(), 1):
            found = regions.sphere_voxels(
                np.add(centre, rng.normal(0, 1, 3)), 4, grid.affine, labels == 0
            )
            labels[tuple(found.index[found.weight > 0.5].T)] = k
        drawn.append((images.make(labels, grid.affine), HERE))
    maps = probability.probability_maps(drawn)
    core = probability.threshold_maps(maps, at_least=0.25)
    mine = probability.carry_to(core, HERE, grid)
    for k, centre in enumerate(regions.SPHERES_2_5_MM.centres_mm.values(), 1):
        where = np.argwhere(np.asarray(mine.dataobj) == k)
        middle = (grid.affine @ [*where.mean(axis=0), 1])[:3]
        np.testing.assert_allclose(middle, centre, atol=1.5)
    result = alps.measure(scan.dwi, mask=scan.mask, registration=HERE, rois=mine, n_bootstrap=20)
    assert result.indices["tract"]["mean"].value == pytest.approx(scan.index, abs=0.06)
    with pytest.raises(InputError, match="reaches only"):
        probability.threshold_maps(maps, at_least=1.5)
    with pytest.raises(InputError, match="is empty"):
        probability.probability_maps([])
    nothing = images.make(np.zeros(grid.shape[:3], np.uint8), grid.affine)
    with pytest.raises(InputError, match="person 1 has no label 1"):
        probability.probability_maps([(nothing, HERE)])


# corrections


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
