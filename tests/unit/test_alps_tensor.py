"""The tensor fit against DIPY, closed forms, and the properties that scalars of it must have."""

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst import dti
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from pvsbook import InputError
from pvsbook.alps import tensor

FINITE = st.floats(-1, 1, allow_nan=False)


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
    np.testing.assert_allclose(tensor.to_six(fit.d_mm2_s), raw[:, :6], rtol=0, atol=1e-14)
    peer = dti.TensorModel(table, fit_method="WLS", min_signal=low).fit(data, mask=mask)
    keep = np.linalg.eigvalsh(fit.d_mm2_s)[:, 0] > 0  # DIPY clips negative eigenvalues
    np.testing.assert_allclose(
        tensor.fractional_anisotropy(fit.d_mm2_s)[keep], peer.fa[mask][keep], atol=1e-10
    )
    np.testing.assert_allclose(tensor.mode(fit.d_mm2_s)[keep], peer.mode[mask][keep], atol=1e-7)
    np.testing.assert_allclose(
        tensor.mean_diffusivity(fit.d_mm2_s)[keep], peer.md[mask][keep], atol=1e-14
    )


def test_signal_without_noise_gives_the_tensor_back():
    bvals, bvecs = scheme()
    d = tensor.from_six([1.1e-3, 2e-4, 7e-4, -1e-4, 5e-5, 4e-4])
    data = 300 * np.exp(-bvals * np.einsum("ki,ij,kj->k", bvecs, d, bvecs))
    fit = tensor.fit_tensor(data[None, None, None], bvals, bvecs, mask=np.ones((1, 1, 1), bool))
    np.testing.assert_allclose(fit.d_mm2_s[0], d, rtol=1e-10)
    assert fit.s0[0] == pytest.approx(300)
    assert fit.fill(fit.s0).shape == (1, 1, 1)


@given(arrays(float, 6, elements=FINITE))
def test_six_components_survive_the_round_trip(six):
    matrix = tensor.from_six(six)
    np.testing.assert_array_equal(tensor.to_six(matrix), six)
    np.testing.assert_array_equal(matrix, matrix.T)


@given(arrays(float, 3, elements=st.floats(0.01, 3)), st.integers(0, 2**32 - 1))
def test_scalars_do_not_depend_on_the_frame(values, seed):
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    d = turn @ np.diag(values) @ turn.T
    for scalar in (tensor.mean_diffusivity, tensor.fractional_anisotropy):
        np.testing.assert_allclose(scalar(d), scalar(np.diag(values)), atol=1e-7)
    if np.ptp(values) > 0.01:
        np.testing.assert_allclose(tensor.mode(d), tensor.mode(np.diag(values)), atol=1e-6)


def test_isotropy_has_no_anisotropy_and_zero_is_no_error():
    assert tensor.fractional_anisotropy(np.eye(3)) == pytest.approx(0, abs=1e-7)
    assert tensor.fractional_anisotropy(np.zeros((3, 3))) == 0
    assert tensor.mode(np.eye(3)) == 0
    assert tensor.mode(np.diag([2.0, 2.0, 1.0])) == pytest.approx(-1)


def test_colours_name_the_axes():
    d = np.array([np.diag(v) for v in ([9.0, 1, 1], [1, 9.0, 1], [1, 1, 9.0])])
    assert tensor.colour_fa(d).argmax(axis=1).tolist() == [0, 1, 2]


def test_wls_of_a_few_voxels_equals_the_fit_of_many():
    data, bvals, bvecs = noisy_data()
    design = tensor.design_matrix(bvals, bvecs)
    signals = data.reshape(-1, data.shape[-1])
    few = tensor.wls(signals, design, min_signal=signals.min())
    many = tensor.fit_tensor(data, bvals, bvecs, mask=np.ones(data.shape[:3], bool))
    np.testing.assert_allclose(tensor.from_six(few.beta[:, :6]), many.d_mm2_s, atol=1e-15)


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
