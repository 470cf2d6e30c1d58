"""Fits of the tensor: weighted least squares against DIPY, robust fits, free water."""

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst import dti
from scipy.spatial.transform import Rotation

from pvsbook import InputError, alps
from pvsbook.alps import estimators, tensor
from pvsbook.atlas.registration import Registration
from pvsbook.phantoms.brain import make_brain
from pvsbook.phantoms.diffusion import WhiteMatter, gradient_scheme, make_diffusion

HERE = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


def scheme(n=20, b=1000.0, seed=0):
    rng = np.random.default_rng(seed)
    bvecs = rng.normal(size=(n + 2, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[:2] = 0
    return np.r_[0, 0, np.full(n, b)], bvecs


def noisy_data(shape=(6, 5, 4), snr=15, seed=1, **kwargs):
    rng = np.random.default_rng(seed)
    bvals, bvecs = scheme(**kwargs)
    turn = Rotation.random(np.prod(shape), rng=rng).as_matrix()
    d = turn @ np.diag([1.7e-3, 0.5e-3, 0.3e-3]) @ turn.transpose(0, 2, 1)
    clean = np.exp(-bvals * np.einsum("ki,nij,kj->nk", bvecs, d, bvecs))
    noise = rng.normal(0, 1 / snr, (2, *clean.shape))
    return np.hypot(clean + noise[0], noise[1]).reshape(*shape, -1), bvals, bvecs


@pytest.mark.parametrize("n", [6, 12, 64])
def test_equals_wls_of_dipy(n):
    data, bvals, bvecs = noisy_data(n=n)
    mask = np.ones(data.shape[:3], bool)
    mask[0, 0, 0] = False
    fit = tensor.fit_tensor(data, bvals, bvecs, mask=mask)
    table = gradient_table(bvals, bvecs=bvecs)
    low = data[mask].min()
    raw = dti.wls_fit_tensor(
        dti.design_matrix(table), np.maximum(data[mask], low), return_lower_triangular=True
    )
    raw = raw[0] if isinstance(raw, tuple) else raw
    np.testing.assert_allclose(dti.lower_triangular(fit.d_mm2_s), raw[:, :6], rtol=0, atol=1e-14)
    peer = dti.TensorModel(table, fit_method="WLS", min_signal=low).fit(data, mask=mask)
    keep = np.linalg.eigvalsh(fit.d_mm2_s)[:, 0] > 0  # DIPY clips negative eigenvalues
    eigenvalues, _ = tensor.eigen(fit.d_mm2_s[keep])
    np.testing.assert_allclose(
        dti.fractional_anisotropy(eigenvalues), peer.fa[mask][keep], atol=1e-10
    )
    np.testing.assert_allclose(dti.mode(fit.d_mm2_s[keep]), peer.mode[mask][keep], atol=1e-7)
    np.testing.assert_allclose(dti.mean_diffusivity(eigenvalues), peer.md[mask][keep], atol=1e-14)


def test_signal_without_noise_gives_the_tensor_back():
    bvals, bvecs = scheme()
    d = dti.from_lower_triangular(np.array([1.1e-3, 2e-4, 7e-4, -1e-4, 5e-5, 4e-4]))
    data = 300 * np.exp(-bvals * np.einsum("ki,ij,kj->k", bvecs, d, bvecs))
    fit = tensor.fit_tensor(data[None, None, None], bvals, bvecs, mask=np.ones((1, 1, 1), bool))
    np.testing.assert_allclose(fit.d_mm2_s[0], d, rtol=1e-10)
    assert fit.s0[0] == pytest.approx(300)
    assert fit.fill(fit.s0).shape == (1, 1, 1)


def test_wls_of_a_few_voxels_equals_the_fit_of_many():
    data, bvals, bvecs = noisy_data()
    design = tensor.design_matrix(bvals, bvecs)
    signals = data.reshape(-1, data.shape[-1])
    few = tensor.wls(signals, design, min_signal=signals.min())
    many = tensor.fit_tensor(data, bvals, bvecs, mask=np.ones(data.shape[:3], bool))
    np.testing.assert_allclose(
        dti.from_lower_triangular(few.beta[:, :6]), many.d_mm2_s, atol=1e-15
    )


def test_corrected_residuals_have_the_variance_of_the_noise():
    data, bvals, bvecs = noisy_data(shape=(20, 10, 10), snr=100, n=12)
    design = tensor.design_matrix(bvals, bvecs)
    fit = tensor.wls(data.reshape(-1, 14), design, min_signal=1e-3)
    # weights are relative to the largest predicted signal, which is about 1 here
    assert fit.residuals.std() == pytest.approx(1 / 100, rel=0.03)


def test_bad_input():
    data, bvals, bvecs = noisy_data()
    with pytest.raises(InputError, match="mask has shape"):
        tensor.fit_tensor(data, bvals, bvecs, mask=np.ones((2, 2, 2), bool))
    with pytest.raises(InputError, match="0 voxels"):
        tensor.fit_tensor(data, bvals, bvecs, mask=np.zeros(data.shape[:3], bool))
    with pytest.raises(InputError, match="no positive signal"):
        tensor.fit_tensor(-data, bvals, bvecs, mask=np.ones(data.shape[:3], bool))


def test_eigenvalues_of_noise_may_be_negative():
    d = np.diag([1.0, -0.2, 0.3])
    eigenvalues, eigenvectors = tensor.eigen(np.stack([d, 2 * d]))
    np.testing.assert_allclose(eigenvalues, [[1, 0.3, -0.2], [2, 0.6, -0.4]])
    assert np.abs(eigenvectors[0, :, 0]).tolist() == [1, 0, 0]


def signals(snr=40, n=30, outlier=False):
    rng = np.random.default_rng(3)
    bvals, bvecs = gradient_scheme(30, rng=rng, n_b0=3)
    d = np.diag([0.6e-3, 0.4e-3, 1.5e-3])
    clean = 100 * np.exp(-bvals * np.einsum("ki,ij,kj->k", bvecs, d, bvecs))
    seen = clean + rng.normal(0, 100 / snr, (n, len(bvals)))
    if outlier:
        seen[:, 8] = 5
    return seen, bvals, bvecs, d


@pytest.mark.parametrize("sigma", [None, 2.5])
def test_robust_fits_find_the_tensor(sigma):
    seen, bvals, bvecs, d = signals()
    found = estimators.fit_robust(seen, bvals, bvecs, sigma=sigma).mean(axis=0)
    np.testing.assert_allclose(found, d, atol=3e-5)


def test_restore_ignores_a_lost_slice_and_least_squares_does_not():
    seen, bvals, bvecs, d = signals(outlier=True)
    restore = estimators.fit_robust(seen, bvals, bvecs, sigma=2.5)
    wls = tensor.wls(seen, tensor.design_matrix(bvals, bvecs), min_signal=1)
    off = np.abs(dti.from_lower_triangular(wls.beta[:, :6]).mean(axis=0) - d).max()
    assert off > 1e-4
    assert np.abs(restore.mean(axis=0) - d).max() < off / 2


def test_free_water_is_taken_out():
    rng = np.random.default_rng(3)
    bvals, bvecs = gradient_scheme(24, rng=rng, n_b0=4, b_s_mm2=(700.0, 1500.0))
    d = np.diag([0.6e-3, 0.4e-3, 1.5e-3])
    tissue = np.exp(-bvals * np.einsum("ki,ij,kj->k", bvecs, d, bvecs))
    mixed = 100 * (0.8 * tissue + 0.2 * np.exp(-3e-3 * bvals))
    found, fraction = estimators.fit_free_water(mixed[None], bvals, bvecs)
    np.testing.assert_allclose(found[0], d, atol=2e-5)
    assert fraction[0] == pytest.approx(0.2, abs=0.01)


def test_free_water_is_taken_out_of_a_scan_with_two_shells():
    rng = np.random.default_rng(1)
    bvals, bvecs = gradient_scheme(24, rng=rng, n_b0=3, b_s_mm2=(700.0, 1500.0))
    tissue = WhiteMatter(free=0.2, gaussian=False, intra=0.0, perpendicular=0.4e-3)
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
        estimators.fit_free_water(seen, bvals, bvecs)


def test_variants_are_reported():
    brain = make_brain(2.5, z_range_mni_mm=(2, 50), axcodes="LPS")
    scan = make_diffusion(brain, rng=np.random.default_rng(2), snr=30)
    row = alps.measure(scan.dwi, mask=scan.mask, registration=HERE, n_bootstrap=20).to_row()
    assert row["alps_tract_nlls"] == pytest.approx(row["alps_tract_mean"], abs=0.05)
    assert row["alps_tract_restore"] == pytest.approx(row["alps_tract_mean"], abs=0.05)
    assert row["alps_tract_radius_2_5_mm"] == pytest.approx(row["alps_tract_mean"], abs=0.1)
    assert row["left_projection_fluid_distance_mm"] > 2


def test_seven_volumes_leave_nothing_to_tell_an_outlier_by():
    rng = np.random.default_rng(4)
    bvals, bvecs = gradient_scheme(6, rng=rng, n_b0=1)
    brain = make_brain(3.0, z_range_mni_mm=(10, 44))
    few = make_diffusion(brain, rng=rng, snr=30, bvals_s_mm2=bvals, bvecs_ras=bvecs)
    row = alps.measure(few.dwi, mask=few.mask, registration=HERE, n_bootstrap=20).to_row()
    assert np.isnan(row["alps_tract_restore"])
    assert row["alps_tract_nlls"] == pytest.approx(row["alps_tract_mean"], abs=0.1)
