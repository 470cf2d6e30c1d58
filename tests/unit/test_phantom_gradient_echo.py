"""The simulated head obeys the physics that it is meant to teach."""

import numpy as np
import pytest
from scipy import ndimage

from pvsbook import InputError
from pvsbook.atlas import deep_grey
from pvsbook.phantoms import gradient_echo
from pvsbook.phantoms.brain import pose
from pvsbook.qsm import dipole, unwrap

GAMMA = 42.577478518e6


@pytest.fixture(scope="module")
def head():
    return gradient_echo.make_gre(np.random.default_rng(11), voxel_size_mm=3, snr=1e4)


def test_phase_grows_with_the_field_and_magnitude_falls_with_r2s(head):
    deep = ndimage.binary_erosion(head.brain, iterations=3) & (head.labels == 0)
    times = head.gre.echo_times_s
    step = unwrap.wrap(head.gre.phase_rad[..., 1] - head.gre.phase_rad[..., 0])
    expected = 2 * np.pi * GAMMA * 3.0 * 1e-6 * head.field_ppm * (times[1] - times[0])
    error = unwrap.wrap(step - expected)[deep]
    assert np.abs(np.median(error)) < 2e-3
    assert np.quantile(np.abs(error), 0.95) < 0.05
    decay = np.log(head.gre.magnitude[..., 0] / head.gre.magnitude[..., 4])[deep]
    r2s = decay / (times[4] - times[0])
    assert np.median(np.abs(r2s - head.r2s_hz[deep])) < 1.0


def test_local_field_is_the_dipole_of_the_true_map_and_outside_is_background(head):
    size, b0 = head.gre.voxel_size_mm, head.gre.b0_direction
    inside = np.where(head.brain, head.chi_ppm, 0)
    field = dipole.dipole_field(inside, size, b0, pad_mm=100)
    deep = ndimage.binary_erosion(head.brain, iterations=2)
    assert np.corrcoef(field[deep], head.local_field_ppm[deep])[0, 1] > 0.97
    background = (head.field_ppm - head.local_field_ppm).astype(float)
    laplacian = ndimage.laplace(background)[ndimage.binary_erosion(head.brain, iterations=3)]
    own = ndimage.laplace(head.local_field_ppm.astype(float))[
        ndimage.binary_erosion(head.brain, iterations=3)
    ]
    assert laplacian.std() < 0.1 * own.std()  # harmonic, up to sampling


def test_truth_holds_what_was_asked_for():
    chi = {"pallidum": 200.0, "caudate": 90.0}
    head = gradient_echo.make_gre(
        np.random.default_rng(0), voxel_size_mm=2.5, chi_ppb=chi, texture=0.0, n_veins=0
    )
    for label, region, _ in deep_grey.table().itertuples(index=False):
        core = ndimage.binary_erosion(head.labels == label)
        if core.any():
            expected = (gradient_echo.CHI_PPB | chi)[region]
            assert 1e3 * np.median(head.chi_ppm[core]) == pytest.approx(expected, rel=0.03)
    assert not head.veins.any()
    assert 1e3 * head.chi_ppm.min() < -1000  # the calcification, and bone


def test_the_same_generator_gives_the_same_head_and_another_does_not():
    heads = [
        gradient_echo.make_gre(np.random.default_rng(seed), voxel_size_mm=5) for seed in (1, 1, 2)
    ]
    assert (heads[0].gre.phase_rad == heads[1].gre.phase_rad).all()
    assert not (heads[0].chi_ppm == heads[2].chi_ppm).all()


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SRA"])
def test_pose_turns_the_head_in_a_field_that_stays(axcodes):
    turned = gradient_echo.make_gre(
        np.random.default_rng(3), voxel_size_mm=4, mni_to_world=pose((15, 0, 0)), axcodes=axcodes
    )
    still = gradient_echo.make_gre(np.random.default_rng(3), voxel_size_mm=4, axcodes=axcodes)
    up = np.abs(turned.gre.affine[:3, :3].T @ [0, 0, 1]) / 4
    assert np.allclose(np.abs(turned.gre.b0_direction), up)
    # voxel axes follow the scanner, so the head moves through the grid
    centre = [
        np.linalg.inv(h.mni_to_world)
        @ h.gre.affine
        @ np.append(np.argwhere(h.labels == 16).mean(axis=0), 1)
        for h in (turned, still)
    ]
    assert np.allclose(centre[0][:3], centre[1][:3], atol=1.5)  # the right dentate, in MNI
    ratio = turned.local_field_ppm[turned.labels > 0].std() / 1e-9
    assert ratio > 0


def test_noise_is_what_was_asked_for():
    quiet, loud = (
        gradient_echo.make_gre(np.random.default_rng(5), voxel_size_mm=4, snr=snr)
        for snr in (1e6, 30)
    )
    white = ndimage.binary_erosion(quiet.brain) & (quiet.chi_ppm < -0.02)
    spread = (loud.gre.magnitude - quiet.gre.magnitude)[..., 0][white].std()
    level = np.median(quiet.gre.magnitude[..., 0][white])
    assert level / spread == pytest.approx(30, rel=0.15)


def test_unknown_tissue_is_refused():
    with pytest.raises(InputError, match="'claustrum' is unknown"):
        gradient_echo.make_gre(np.random.default_rng(0), chi_ppb={"claustrum": 1.0})
