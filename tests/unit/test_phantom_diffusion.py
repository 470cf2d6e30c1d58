"""The diffusion phantom: its truth in closed form, its geometry, its signal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvsbook import InputError, images
from pvsbook.atlas.projection_association import ALPS_CENTRES_MNI_MM
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import (
    WhiteMatter,
    fsl_bvecs,
    gradient_scheme,
    make_diffusion,
    true_index,
)


def test_index_in_closed_form():
    tissue = WhiteMatter(dispersion_deg=0)
    across = 0.92 * 0.5 * 0.8e-3
    expected = (across + 0.08 * 2.4e-3) / (across + 0.08 * 0.4e-3)
    assert true_index(tissue) == pytest.approx(expected, rel=1e-12)


def test_free_water_lowers_the_index_by_the_formula():
    across = 0.82 * 0.5 * 0.8e-3 + 0.1 * 3e-3
    expected = (across + 0.08 * 2.4e-3) / (across + 0.08 * 0.4e-3)
    assert true_index(WhiteMatter(dispersion_deg=0, free=0.1)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("dispersion", [0, 8, 20])
def test_no_vessels_no_excess(gaussian, dispersion):
    tissue = WhiteMatter(perivascular=0, gaussian=gaussian, dispersion_deg=dispersion)
    assert true_index(tissue) == pytest.approx(1, abs=1e-5)


def test_crossing_fibres_raise_the_index_without_vessels():
    assert true_index(WhiteMatter(perivascular=0, crossing=0.1)) > 1.2


def test_compartments_agree_with_the_mean_tensor_at_low_b():
    tissue = WhiteMatter(gaussian=False)
    at_once = true_index(WhiteMatter())
    assert true_index(tissue, b_s_mm2=1) == pytest.approx(at_once, abs=1e-3)
    assert true_index(tissue, b_s_mm2=1000) < at_once - 0.05


@settings(max_examples=25)
@given(st.floats(-60, 60))
def test_truth_does_not_depend_on_the_tilt(tilt):
    assert true_index(WhiteMatter(tilt_deg=tilt)) == pytest.approx(
        true_index(WhiteMatter()), rel=1e-9
    )


def test_signal_at_the_sites_is_the_model():
    tissue = WhiteMatter(dispersion_deg=0)
    turn = pose((12, -7, 20), (3, 4, 5))
    brain = make_brain(3.0, mni_to_world=turn, axcodes="PIR")
    phantom = make_diffusion(brain, rng=np.random.default_rng(0), tissue=tissue, snr=np.inf)
    dwi = phantom.dwi
    fibre = {"projection": [0.0, 0, 1], "association": [0.0, 1, 0]}
    for name, centre in ALPS_CENTRES_MNI_MM.items():
        voxel = np.linalg.inv(brain.affine) @ turn @ [*centre, 1]
        signal = images.array(dwi.image)[tuple(np.rint(voxel[:3]).astype(int))]
        direction = turn[:3, :3] @ fibre[name.split("_")[1]]
        vessel = turn[:3, 0]
        d = 0.92 * (0.5 * 0.8e-3) * np.eye(3) + 0.08 * 0.4e-3 * np.eye(3)
        d += 0.92 * (1.7e-3 - 0.4e-3) * np.outer(direction, direction)
        d += 0.08 * 2e-3 * np.outer(vessel, vessel)
        b, g = dwi.bvals_s_mm2, dwi.bvecs_ras
        expected = 1000 * np.exp(-b * np.einsum("ki,ij,kj->k", g, d, g))
        np.testing.assert_allclose(signal, expected, rtol=1e-4)


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "LPS", "SPR"])
def test_fsl_vectors_come_back_through_the_door(axcodes):
    rng = np.random.default_rng(0)
    phantom = make_diffusion(make_brain(5.0, axcodes=axcodes), rng=rng)
    dwi = phantom.dwi
    again = images.load_dwi(dwi.image, dwi.bvals_s_mm2, fsl_bvecs(dwi))
    np.testing.assert_allclose(again.bvecs_ras, dwi.bvecs_ras, atol=1e-12)


def test_voxels_on_the_midline_have_a_signal():
    brain = make_brain(3.0, margin_mm=2, z_range_mni_mm=(-8, 40))
    brain = replace(brain, affine=brain.affine - np.eye(4)[:, [0]] * np.eye(4)[3] * offset(brain))
    assert (brain.mni_coordinates()[..., 0] == 0).any()
    phantom = make_diffusion(brain, rng=np.random.default_rng(0), snr=np.inf)
    assert np.isfinite(images.array(phantom.dwi.image)).all()


def offset(brain):
    """Smallest shift along x that puts a plane of voxels at x = 0."""
    x = brain.mni_coordinates()[:, 0, 0, 0]
    return float(x[np.abs(x).argmin()])


def test_noise_is_rician_with_the_given_sigma():
    brain = make_brain(5.0)
    phantom = make_diffusion(brain, rng=np.random.default_rng(0), snr=20)
    assert phantom.noise_sigma == 50
    air = images.array(phantom.dwi.image)[brain.brain == 0]
    assert air.mean() == pytest.approx(50 * np.sqrt(np.pi / 2), rel=0.01)


def test_same_seed_same_phantom():
    one, two = (
        make_diffusion(make_brain(5.0), rng=np.random.default_rng(3)).dwi.image.dataobj
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("n", [6, 12, 30])
def test_directions_are_spread(n):
    bvals, bvecs = gradient_scheme(n, rng=np.random.default_rng(1), n_b0=2)
    assert bvals.tolist() == [0, 0] + [1000] * n
    g = bvecs[2:]
    np.testing.assert_allclose(np.linalg.norm(g, axis=1), 1)
    np.fill_diagonal(gram := np.abs(g @ g.T), 0)
    closest = np.rad2deg(np.arccos(gram.max()))
    assert closest > {6: 60, 12: 35, 30: 22}[n]


def test_bad_input():
    with pytest.raises(InputError, match=r"perivascular=0\.8"):
        WhiteMatter(perivascular=0.8, free=0.4)
    with pytest.raises(InputError, match="n_directions=5"):
        gradient_scheme(5, rng=np.random.default_rng(0))
