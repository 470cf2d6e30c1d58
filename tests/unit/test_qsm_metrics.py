"""The metrics against their definitions, written out, and analytic values."""

import numpy as np
import pytest
import qsm_metrics as metrics
from scipy import ndimage

from pvsbook import InputError

RNG = np.random.default_rng(0)
TRUTH = ndimage.gaussian_filter(RNG.normal(size=(20, 22, 18)), 1.2) * 0.2
MASK = np.linalg.norm(np.indices(TRUTH.shape) - np.array([10, 11, 9]).reshape(3, 1, 1, 1), axis=0)
MASK = MASK < 8
NOISY = TRUTH + RNG.normal(0, 0.02, TRUTH.shape)


def test_nrmse_is_blind_to_the_mean_and_detrended_to_the_scale():
    error = NOISY[MASK] - NOISY[MASK].mean() - TRUTH[MASK] + TRUTH[MASK].mean()
    expected = 100 * np.sqrt((error**2).sum() / ((TRUTH[MASK] - TRUTH[MASK].mean()) ** 2).sum())
    assert metrics.nrmse_percent(NOISY + 3, TRUTH, MASK) == pytest.approx(expected)
    assert metrics.nrmse_percent(0.7 * TRUTH, TRUTH, MASK) == pytest.approx(30)
    line = np.polyfit(TRUTH[MASK], NOISY[MASK], 1)  # found = slope * truth + intercept, undone
    undone = (NOISY - line[1]) / line[0]
    assert metrics.nrmse_percent(NOISY, TRUTH, MASK, detrend=True) == pytest.approx(
        metrics.nrmse_percent(undone, TRUTH, MASK)
    )


def test_hfen_is_that_of_the_kernel_of_the_challenge():
    # the 15 x 15 x 15 Laplacian of a Gaussian of 1.5 voxels, as a convolution written out
    grid = np.arange(-7, 8)
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")
    square = x**2 + y**2 + z**2
    kernel = np.exp(-square / (2 * 1.5**2))
    kernel *= (square - 3 * 1.5**2) / 1.5**4 / kernel.sum()
    kernel -= kernel.mean()
    a, b = (ndimage.convolve(v * MASK, kernel, mode="constant") for v in (NOISY, TRUTH))
    expected = 100 * np.linalg.norm(a - b) / np.linalg.norm(b)
    assert metrics.hfen_percent(NOISY, TRUTH, MASK) == pytest.approx(expected, rel=0.02)
    smooth = metrics.hfen_percent(TRUTH + 0.1, TRUTH, np.ones_like(MASK))
    assert smooth < 1  # a constant has no edges, but at the array's end


def test_xsim_is_that_of_the_paper():
    # Gaussian window of 1.5 voxels, 7 long; L = 1 ppm, K = 0.01 and 0.001
    grid = np.arange(-3, 4)
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")
    window = np.exp(-(x**2 + y**2 + z**2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = NOISY * MASK, TRUTH * MASK
    ma, mb, aa, bb, ab = (
        ndimage.convolve(v, window, mode="constant") for v in (a, b, a * a, b * b, a * b)
    )
    score = (2 * ma * mb + 1e-4) * (2 * (ab - ma * mb) + 1e-6)
    score /= (ma**2 + mb**2 + 1e-4) * (aa - ma**2 + bb - mb**2 + 1e-6)
    assert metrics.xsim(NOISY, TRUTH, MASK) == pytest.approx(score[MASK].mean(), abs=1e-9)
    one_voxel = np.where(np.arange(TRUTH.size).reshape(TRUTH.shape) == 4000, 50.0, 0) + NOISY
    assert metrics.xsim(one_voxel, TRUTH, MASK) <= metrics.xsim(NOISY, TRUTH, MASK)


def test_stone_keeps_its_moment_when_blurred_and_streaks_are_seen():
    grid = np.indices((31, 31, 31)) - 15
    core = np.linalg.norm(grid, axis=0) < 2.5
    truth = 0.03 - 1.5 * core
    blurred = ndimage.gaussian_filter(truth, 0.6)
    found = metrics.calcification_error(blurred, truth, core, np.ones_like(core))
    assert found.moment_ratio == pytest.approx(1, abs=0.01)
    assert found.streaking_ppb < 2
    streak = 0.05 * np.sign(grid[2])
    assert metrics.calcification_error(truth + streak, truth, core, core < 2).streaking_ppb > 40


def test_linearity_of_a_known_line():
    labels = np.zeros(TRUTH.shape, int)
    for k in range(1, 5):
        labels[2 * k : 2 * k + 2] = k
    truth = labels * 0.03
    found = metrics.linearity(0.8 * truth + 0.5, truth, labels, np.ones_like(MASK))
    assert (found.slope, found.intercept_ppb) == pytest.approx((0.8, 0), abs=1e-9)
    mean = 1e3 * truth.mean()
    expected = 0.2 * np.abs(30.0 * np.arange(1, 5) - mean)
    assert found.bias_mean_ppb == pytest.approx(expected.mean())
    assert found.bias_max_ppb == pytest.approx(expected.max())


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.nrmse_percent(NOISY, TRUTH, MASK[1:]),
        lambda: metrics.nrmse_percent(NOISY, 0 * TRUTH, MASK),
        lambda: metrics.nrmse_percent(0 * NOISY, TRUTH, MASK, detrend=True),
        lambda: metrics.xsim(NOISY, TRUTH, MASK & False),
        lambda: metrics.linearity(NOISY, TRUTH, MASK.astype(int), MASK),
        lambda: metrics.calcification_error(NOISY, TRUTH, 0 * TRUTH, MASK),
    ],
)
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(InputError):
        call()
