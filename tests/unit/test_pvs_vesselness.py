import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d, gaussian_filter

from pvsbook import InputError
from pvsbook.pvs import vesselness_filter
from pvsbook.pvs._hessian import eigenvalues
from pvsbook.pvs.vesselness import METHODS, derivative_taps

SCALES = (0.8, 1.2, 1.6, 2.0)


def texture(shape=(34, 41, 29), seed=0):
    rng = np.random.default_rng(seed)
    return (100 * gaussian_filter(rng.standard_normal(shape), 1.0)).astype(np.float32)


def reference(image, voxel, scales, c, method, sign=-1.0):
    """Double precision, LAPACK eigenvalues, and the formulas as printed in the papers."""
    best = np.zeros(image.shape)
    for scale in scales:
        taps = derivative_taps(scale, voxel).astype(float)
        hessian = np.empty((*image.shape, 3, 3))
        for i in range(3):
            for j in range(3):
                out = image.astype(float)
                for axis in range(3):
                    order = (i == axis) + (j == axis)
                    half = taps[axis, order]
                    left = -half[:0:-1] if order == 1 else half[:0:-1]
                    out = correlate1d(out, np.r_[left, half], axis=axis, mode="reflect")
                hessian[..., i, j] = out
        values = np.linalg.eigvalsh(sign * hessian)
        by_size = np.take_along_axis(values, np.abs(values).argsort(axis=-1), axis=-1)
        l1, l2, l3 = np.moveaxis(by_size, -1, 0)
        tube = (l2 > 0) & (l3 > 0)
        with np.errstate(all="ignore"):
            if method == "frangi":
                ra, rb = np.abs(l2) / np.abs(l3), np.abs(l1) / np.sqrt(np.abs(l2 * l3))
                s = np.sqrt(l1**2 + l2**2 + l3**2)
                value = (1 - np.exp(-(ra**2) / 0.5)) * np.exp(-(rb**2) / 0.5)
                value = value * (1 - np.exp(-(s**2) / (2 * c**2)))
            elif method == "sato":
                value = l2 * np.exp(-(l1**2) / (2 * (np.where(l1 > 0, 0.5, 2.0) * l2) ** 2))
            else:
                rho = np.maximum(l3, c)
                value = l2**2 * (rho - l2) * (3 / (l2 + rho)) ** 3
                value = np.where(l2 >= rho / 2, 1.0, value)
        best = np.maximum(best, np.where(tube, value, 0))
    return best


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (0.7, 1.0, 1.5)])
@pytest.mark.parametrize("polarity", ["bright", "dark"])
def test_equal_to_a_double_precision_reference(method, voxel, polarity):
    image = texture()
    found = vesselness_filter(
        image, voxel_size_mm=voxel, scales_mm=SCALES, method=method, polarity=polarity, c=4.0
    )
    expected = reference(image, voxel, SCALES, 4.0, method, -1.0 if polarity == "bright" else 1.0)
    assert np.corrcoef(found.response.ravel(), expected.ravel())[0, 1] >= 0.9999
    # Sato and Jerman jump where a structure stops being a tube: a rounding error may cross there.
    off = np.abs(found.response - expected) > 2e-3 * expected.max()
    assert off.mean() < 1e-4


@pytest.mark.parametrize("scale", [0.4, 0.6, 1.0, 2.3])
def test_derivatives_are_exact_on_constants_ramps_and_parabolas(scale):
    taps = derivative_taps(scale, (1.0, 0.8, 1.7)).astype(np.float64)
    for axis, voxel in enumerate((1.0, 0.8, 1.7)):
        x = voxel * np.arange(-taps.shape[2] + 1, taps.shape[2])
        smooth, slope, curve = (
            np.r_[s * t[:0:-1], t] for s, t in zip((1, -1, 1), taps[axis], strict=True)
        )
        assert smooth.sum() == pytest.approx(1, abs=1e-6)
        assert (slope * x).sum() == pytest.approx(scale, rel=1e-5)
        assert curve.sum() == pytest.approx(0, abs=1e-5)
        assert (curve * x**2).sum() == pytest.approx(2 * scale**2, rel=1e-5)


@pytest.mark.parametrize("spread", [0.9, 1.4, 2.0])
def test_best_scale_of_a_gaussian_tube_is_its_own_width(spread):
    # The smoothed tube has lambda = -A s^2 t^2 / (s^2 + t^2)^2 at scale t: largest at t = s.
    x, y, _ = np.meshgrid(*[np.arange(-16.0, 17)] * 2, np.arange(9.0), indexing="ij")
    tube = np.exp(-(x**2 + y**2) / (2 * spread**2))
    scales = (0.6, 0.9, 1.4, 2.0, 2.6)
    found = vesselness_filter(tube, scales_mm=scales, method="sato")
    assert found.scale_mm[16, 16, 4] == pytest.approx(spread)
    assert found.response[16, 16, 4] == pytest.approx(0.25, rel=0.02)


def test_the_order_of_scales_does_not_matter():
    image = texture()
    one = vesselness_filter(image, scales_mm=SCALES, c=3.0)
    two = vesselness_filter(image, scales_mm=SCALES[::-1], c=3.0)
    np.testing.assert_array_equal(one.response, two.response)
    np.testing.assert_array_equal(one.scale_mm, two.scale_mm)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flip", [0, 2])
def test_turning_the_image_turns_the_response(axes, flip):
    image, voxel = texture(), np.array([0.8, 1.0, 1.3])
    plain = vesselness_filter(image, voxel_size_mm=voxel, c=3.0, scales_mm=(0.8, 1.5)).response
    turned = np.flip(image.transpose(axes), flip)
    other = vesselness_filter(turned, voxel_size_mm=voxel[list(axes)], c=3.0, scales_mm=(0.8, 1.5))
    np.testing.assert_allclose(other.response, np.flip(plain.transpose(axes), flip), atol=2e-4)


def test_equal_inside_a_mask_with_and_without_it():
    image = texture()
    mask = texture(seed=1) > 2
    whole = vesselness_filter(image, scales_mm=SCALES)
    inside = vesselness_filter(image, scales_mm=SCALES, mask=mask)
    assert whole.c == inside.c
    assert not inside.response[~mask].any()
    # The vector unit rounds the ends of a row differently: one unit in the last place.
    np.testing.assert_allclose(inside.response[mask], whole.response[mask], rtol=0, atol=5e-7)
    assert (inside.scale_mm == whole.scale_mm)[mask].mean() > 0.999


@pytest.mark.parametrize("method", ["frangi", "jerman"])
def test_the_unit_of_intensity_does_not_matter(method):
    image = texture()
    one = vesselness_filter(image, method=method).response
    np.testing.assert_allclose(
        vesselness_filter(1000 * image, method=method).response, one, atol=1e-4
    )
    np.testing.assert_allclose(
        vesselness_filter(-image, method=method, polarity="dark").response, one, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(1, 40, 7), (3, 2, 40), (120, 3, 3)])
def test_small_and_thin_volumes(shape):
    image = texture(shape)
    found = vesselness_filter(image, scales_mm=SCALES, c=3.0).response
    expected = reference(image, (1, 1, 1), SCALES, 3.0, "frangi")
    np.testing.assert_allclose(found, expected, atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6))
def test_closed_form_eigenvalues(entries):
    xx, xy, xz, yy, yz, zz = map(np.float32, entries)
    expected = np.linalg.eigvalsh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], float))
    found = eigenvalues(xx, xy, xz, yy, yz, zz)
    scale = np.abs(expected).max() + 1e-6
    np.testing.assert_allclose(np.array(found) / scale, expected[::-1] / scale, atol=1.5e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": np.zeros((4, 4))}, "3-D"),
        ({"image": np.full((4, 4, 4), np.nan)}, "NaN"),
        ({"image": np.ones((4, 4, 4))}, "constant"),
        ({"voxel_size_mm": (1, 0, 1)}, "three positive"),
        ({"scales_mm": ()}, "one or more"),
        ({"scales_mm": (0.2,)}, "a third of the smallest voxel"),
        ({"method": "hessian"}, "frangi"),
        ({"polarity": "grey"}, "bright"),
        ({"alpha": 0}, "alpha"),
        ({"c": -1}, "positive contrast"),
        ({"mask": np.ones((2, 2, 2))}, "one grid"),
        ({"mask": np.zeros((8, 8, 8))}, "empty"),
    ],
)
def test_bad_input_is_named(change, says):
    arguments = {"image": texture((8, 8, 8)), **change}
    with pytest.raises(InputError, match=says):
        vesselness_filter(arguments.pop("image"), **arguments)
