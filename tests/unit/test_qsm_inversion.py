"""Dipole kernel, background removal and inversion against analytic fields and float64 code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pvsbook import InputError, images
from pvsbook.qsm import _solve, background, dipole, harmonic, inversion, reference

DIRECTION = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda b: np.linalg.norm(b) > 0.1)
SHAPE = st.tuples(*[st.integers(4, 11)] * 3)
SIZE = st.tuples(*[st.floats(0.4, 3.0)] * 3)


def kernel_float64(shape, size_mm, b0):
    """Return the kernel on the whole transform, made even at the Nyquist frequencies."""
    k = np.meshgrid(*map(np.fft.fftfreq, shape, size_mm), indexing="ij")
    b = np.asarray(b0) / np.linalg.norm(b0)
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1
    kernel = 1 / 3 - (b[0] * k[0] + b[1] * k[1] + b[2] * k[2]) ** 2 / square
    kernel[0, 0, 0] = 0
    # Each even axis: f(-N/2) stands for f(+N/2) as well.
    for axis, n in enumerate(shape):
        if n % 2 == 0:
            for other in range(3):
                if other == axis:
                    continue
                at = [slice(None)] * 3
                at[axis] = n // 2
                cross = 2 * b[axis] * b[other] * k[axis] * k[other] / square
                both = shape[other] % 2 == 0
                weight = np.ones(shape)
                if both:  # the pair is met twice where both axes are at their Nyquist frequency
                    corner = [slice(None)] * 3
                    corner[axis], corner[other] = n // 2, shape[other] // 2
                    weight[tuple(corner)] = 0.5
                kernel[tuple(at)] += (weight * cross)[tuple(at)]
    return kernel


@settings(max_examples=60, deadline=None)
@given(shape=SHAPE, size=SIZE, b0=DIRECTION)
def test_kernel_equals_an_independent_one_for_any_matrix_voxel_and_direction(shape, size, b0):
    expected = kernel_float64(shape, size, b0)[..., : shape[2] // 2 + 1]
    assert np.abs(dipole.dipole_kernel(shape, size, b0) - expected).max() < 2e-6


@pytest.mark.parametrize("b0", [(0, 0, 1), (0, 1, 0), (0.3, -0.4, 0.866)])
def test_field_of_a_ball_is_the_analytic_dipole(b0):
    # Outside a ball: chi/3 (a/r)^3 (3 cos^2 - 1); inside: zero, with the sphere of Lorentz.
    b0 = np.array(b0) / np.linalg.norm(b0)
    size = np.array([1.0, 0.8, 1.25])
    grid = (np.indices((72, 90, 58)) - np.array([36, 45, 29]).reshape(3, 1, 1, 1)) * size.reshape(
        3, 1, 1, 1
    )
    r = np.maximum(np.linalg.norm(grid, axis=0), 1e-9)
    fraction = np.clip((8 - r) / 4 + 0.5, 0, 1)  # a soft edge: little at the highest frequencies
    field = dipole.dipole_field(fraction, size, b0, pad_mm=80)
    cosine = np.einsum("i,i...->...", b0, grid) / r
    volume = fraction.sum() * size.prod()
    expected = volume / (4 * np.pi * r**3) * (3 * cosine**2 - 1)
    ring = (r > 12) & (r < 24)
    # 2 %: at the highest frequencies an oblique kernel is cut where it has not fallen to zero
    assert np.abs(field - expected)[ring].max() < 0.02 * np.abs(expected[ring]).max()
    assert np.abs(field[r < 5]).max() < 0.005


@settings(max_examples=25, deadline=None)
@given(shape=SHAPE, size=SIZE, b0=DIRECTION, seed=st.integers(0, 2**31))
def test_tkd_equals_an_independent_float64_inversion(shape, size, b0, seed):
    rng = np.random.default_rng(seed)
    field, mask = rng.normal(0, 0.1, shape), rng.random(shape) > 0.2
    mask[0, 0, 0] = True
    kernel = kernel_float64(shape, size, b0)
    held = np.where(np.abs(kernel) < 0.15, np.where(kernel < 0, -0.15, 0.15), kernel)
    spectrum = np.fft.fftn(np.where(mask, field, 0)) / held
    spectrum[0, 0, 0] = 0
    expected = np.where(mask, np.fft.ifftn(spectrum).real, 0)
    # a kernel value within rounding of zero or of the threshold may fall on either side
    near = (np.abs(kernel) < 1e-5) | (np.abs(np.abs(kernel) - 0.15) < 1e-5)
    near[0, 0, 0] = False
    found = inversion.tkd(field, mask, size, b0, threshold=0.15, pad_mm=0)
    if dipole.padded_shape(shape, size, 0) == tuple(shape) and not near.any():
        assert np.abs(found - expected).max() < 1e-5


def test_tkd_underestimates_by_the_known_factor():
    # White chi: the recovered share is the mean over k-space of D / held(D).
    rng = np.random.default_rng(1)
    chi = rng.standard_normal((40, 36, 32)).astype(np.float32)
    field = dipole.dipole_field(chi, (1, 1, 1), pad_mm=0)
    kernel = kernel_float64(chi.shape, (1, 1, 1), (0, 0, 1))
    for threshold in (0.1, 0.2, 0.3):
        held = np.where(np.abs(kernel) < threshold, np.copysign(threshold, kernel), kernel)
        found = inversion.tkd(field, np.ones(chi.shape), (1, 1, 1), threshold=threshold, pad_mm=0)
        slope = (found * chi).sum() / (chi * chi).sum()
        assert slope == pytest.approx((kernel / held).mean(), abs=0.01)


def test_tilted_field_must_be_told():
    grid = np.indices((48, 48, 48)) - 24
    ball = (np.linalg.norm(grid, axis=0) < 6).astype(np.float32) * 0.1
    b0 = (0, np.sin(0.26), np.cos(0.26))  # 15 degrees
    field = dipole.dipole_field(ball, (1, 1, 1), b0, pad_mm=48)
    mask = np.linalg.norm(grid, axis=0) < 20
    told = inversion.tkd(field, mask, (1, 1, 1), b0)
    ignored = inversion.tkd(field, mask, (1, 1, 1))
    error = [np.linalg.norm((found - ball)[mask]) for found in (told, ignored)]
    assert error[0] < 0.8 * error[1]


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (0.6, 0.6, 2.0), (1.1, 0.9, 1.7)])
def test_vsharp_mask_is_the_erosion_by_the_smallest_ball(size):
    rng = np.random.default_rng(2)
    mask = ndimage.gaussian_filter(rng.standard_normal((41, 36, 27)), 4) > -0.02
    local = background.vsharp(rng.standard_normal(mask.shape), mask, size, radii_mm=(6, 2.2))
    ball = _solve.sphere(2.2, size) > 0
    assert (local.mask == ndimage.binary_erosion(mask, ball)).all()


def test_vsharp_removes_the_field_of_a_source_outside_and_keeps_one_inside():
    grid = np.indices((64, 64, 90)) - 32.0
    brain = np.linalg.norm(grid, axis=0) < 26
    inside = (np.linalg.norm(grid - np.array([4, 0, 0]).reshape(3, 1, 1, 1), axis=0) < 4) * 0.1
    outside = (np.linalg.norm(grid - np.array([0, 0, 36]).reshape(3, 1, 1, 1), axis=0) < 6) * 9.0
    near, far = (dipole.dipole_field(chi, (1, 1, 1), pad_mm=64) for chi in (inside, outside))
    local = background.vsharp(near + far, brain, (1, 1, 1))
    alone = background.vsharp(near, brain, (1, 1, 1))
    deep = ndimage.binary_erosion(brain, iterations=10)
    assert np.abs(far[deep]).max() > 0.1
    assert np.abs((local.field_ppm - alone.field_ppm)[deep]).max() < 2e-3
    assert np.corrcoef(local.field_ppm[deep], near[deep])[0, 1] > 0.98


def test_vsharp_is_blind_to_what_the_voxels_outside_hold():
    rng = np.random.default_rng(6)
    grid = np.indices((32, 32, 32)) - 16
    mask = np.linalg.norm(grid, axis=0) < 13
    field = rng.standard_normal(mask.shape).astype(np.float32)
    other = np.where(mask, field, np.nan)
    assert (
        background.vsharp(field, mask, (1, 1, 1)).field_ppm
        == background.vsharp(other, mask, (1, 1, 1)).field_ppm
    ).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: inversion.tkd(np.zeros((8, 8, 8)), m, (1, 1, 1), threshold=0.7), "threshold"),
        (lambda m: inversion.tkd(np.zeros((8, 8, 9)), m, (1, 1, 1)), "mask: has shape"),
        (lambda m: inversion.tkd(np.zeros((8, 8, 8)), 0 * m, (1, 1, 1)), "mask: is empty"),
        (lambda m: inversion.tkd(np.full((8, 8, 8), np.nan), m, (1, 1, 1)), "NaN"),
        (lambda m: dipole.dipole_kernel((8, 8, 8), (1, 1, 0)), "voxel_size_mm"),
        (lambda m: dipole.dipole_kernel((8, 8, 8), (1, 1, 1), (0, 0, 0)), "b0_direction"),
        (lambda m: background.vsharp(np.zeros((8, 8, 8)), m, (1, 1, 1), radii_mm=(9,)), "no ball"),
        (
            lambda m: reference.subtract_reference(np.zeros((8, 8, 8)), m, "csf"),
            "reference: 'csf'",
        ),
        (lambda m: reference.subtract_reference(np.zeros((8, 8, 8)), m, m[:4]), "has shape"),
        (lambda m: reference.subtract_reference(np.zeros((8, 8, 8)), m, 0 * m), "0 voxels"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(np.ones((8, 8, 8), bool) * 1)


def test_references():
    rng = np.random.default_rng(9)
    chi, mask = rng.normal(0.03, 0.01, (10, 10, 10)), np.ones((10, 10, 10), bool)
    mask[0] = False
    region = np.zeros(mask.shape, bool)
    region[:5] = True
    whole, none, custom = (
        reference.subtract_reference(chi, mask, r) for r in ("whole brain", "none", region)
    )
    assert whole.chi_ppm[mask].mean() == pytest.approx(0, abs=1e-7)
    assert none.chi_ppm[mask] == pytest.approx(chi[mask], abs=1e-7)
    assert custom.chi_ppm[region & mask].mean() == pytest.approx(0, abs=1e-7)
    assert custom.n_voxels == 400  # voxels of the region that the mask leaves out do not count
    assert custom.reference == "custom region"


def test_references_side_by_side_differ_by_one_number():
    rng = np.random.default_rng(10)
    chi, mask = rng.normal(0.02, 0.01, (9, 9, 9)), np.ones((9, 9, 9), bool)
    fluid, one, two = (np.zeros(mask.shape, bool) for _ in range(3))
    fluid[:2], one[3:5], two[6:] = True, True, True
    echo = np.ones((*mask.shape, 1), np.float32)
    gre = images.Gre(echo, echo, np.array([0.01]), 3.0, np.eye(4), "radians")
    given = {"CSF": fluid, "one": one, "two": two}
    table = reference.list_references(chi, mask, gre, given=given)
    assert list(table.columns) == list(reference.REFERENCE_COLUMNS)
    table = table.set_index("reference")
    zero_ppb = table["reference_value_ppb"]
    on_one_scale = (table["mean_ppb"] + zero_ppb).drop("white matter")
    assert on_one_scale.to_numpy() == pytest.approx(1e3 * chi.mean(), abs=1e-4)
    assert zero_ppb["two"] - zero_ppb["one"] == pytest.approx(
        1e3 * (chi[two].mean() - chi[one].mean()), abs=1e-4
    )
    error_ppb = table.loc["CSF", "standard_error_ppb"]
    assert error_ppb == pytest.approx(1e3 * chi[fluid].std(ddof=1) / 162**0.5)


@pytest.mark.parametrize("chi_ppm", [0.5, 1.0, -1.7])
@pytest.mark.parametrize("method", ["tikhonov", "ndi", "tv", "tv with weight"])
def test_strong_sources_at_7_t_and_late_echoes_keep_their_susceptibility(method, chi_ppm):
    grid = np.indices((40, 40, 40)) - 20
    source = (grid[0] ** 2 + grid[1] ** 2 < 9) & (np.abs(grid[2]) < 12)
    inside = (grid**2).sum(0) < 18**2
    field = dipole.dipole_field(source * chi_ppm, (1, 1, 1)) * inside
    radians = 2 * np.pi * 42.58 * 7 * 0.03
    assert np.abs(field).max() * radians > 2 * np.pi
    found = {
        "tikhonov": lambda f, m, s: inversion.tikhonov(f, m, s),
        "ndi": lambda f, m, s: inversion.ndi(f, m, s, radians_per_ppm=radians),
        "tv": lambda f, m, s: inversion.tv(f, m, s),
        "tv with weight": lambda f, m, s: inversion.tv(f, m, s, weight=m),
    }[method](field, inside, (1, 1, 1))
    assert found.change < 0.011
    assert found.chi_ppm[source].mean() / chi_ppm == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("b0", [(0, 0, 1), (0.3, -0.2, 0.9)])
@pytest.mark.parametrize("degree", [2, 3, 5])
def test_harmonic_polynomials_make_a_field_without_sources_inside(b0, degree):
    exponents, terms = harmonic.harmonic_polynomials(degree, b0)
    assert terms.shape[1] == 2 * degree + 1
    grid = (np.indices((64, 64, 64)) - 31.5) / 24
    r = np.sqrt((grid**2).sum(0))
    ball = np.clip((1 - r) * 2 + 0.5, 0, 1)  # a hard edge would ring, with a tilted kernel
    total = np.zeros((degree + 1,) * 3)
    total[tuple(np.transpose(exponents))] = terms @ np.random.default_rng(3).normal(
        size=terms.shape[1]
    )
    chi = np.polynomial.polynomial.polyval3d(*grid, total) * ball
    field = dipole.dipole_field(chi, (1, 1, 1), b0, pad_mm=32)
    # The highest frequency of a tilted kernel stands for both of its signs: smooth it away.
    sources = ndimage.laplace(ndimage.gaussian_filter(field, 1.5))
    assert sources[r < 0.5].std() < 0.02 * sources[(r > 0.75) & (r < 1.25)].std()


def test_the_slow_map_that_background_removal_leaves_is_removed_and_edges_stay():
    b0 = np.array([0.2, -0.1, 0.97])
    size = np.array([1.0, 1.2, 0.9])
    at = (np.indices((60, 56, 64)) - np.array([30, 28, 32]).reshape(3, 1, 1, 1)) * size.reshape(
        3, 1, 1, 1
    )
    inside = (at**2).sum(0) < 27**2
    nucleus = ((at - np.array([6, 4, -5]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 36
    bowl = 5e-5 * (at**2).sum(0) + 2e-4 * at[0]
    rng = np.random.default_rng(8)
    chi = (0.1 * nucleus + bowl + rng.normal(0, 1e-3, inside.shape)) * inside
    found = harmonic.remove_harmonic(chi, inside, size, b0)
    contrast = found[nucleus].mean() - found[inside & ~nucleus].mean()
    assert contrast == pytest.approx(0.1, abs=2e-3)
    assert np.ptp(bowl[inside]) > 0.03
    assert found[inside & ~nucleus].std() < 2e-3
    assert not found[~inside].any()
    again = harmonic.remove_harmonic(found, inside, size, b0)
    assert np.abs(again - found)[inside].max() < 1e-3


def test_few_voxels_carry_no_polynomial():
    inside = np.ones((9, 9, 9), bool)
    chi = np.random.default_rng(0).normal(size=inside.shape).astype(np.float32)
    assert (harmonic.remove_harmonic(chi, inside, (1, 1, 1)) == chi).all()
    large = np.ones((24, 24, 24), bool)
    chi = np.random.default_rng(0).normal(size=large.shape).astype(np.float32)
    assert (harmonic.remove_harmonic(chi, large, (1, 1, 1), degree=0) == chi).all()
