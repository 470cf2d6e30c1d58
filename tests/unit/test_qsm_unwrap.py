"""Unwrapping, the field fit and the masks against phase that was known before it was wrapped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pvsbook import InputError
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import field as qsm_field
from pvsbook.qsm import mask as qsm_mask
from pvsbook.qsm import unwrap

SHAPES = st.tuples(*[st.integers(5, 17)] * 3)


def smooth(rng, shape, largest_step):
    """Return a smooth random volume whose neighbours differ by at most `largest_step`."""
    volume = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    steepest = max(np.abs(np.diff(volume, axis=a)).max() for a in range(3))
    return (volume * largest_step / steepest).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 2**31))
def test_romeo_recovers_any_phase_whose_steps_stay_below_pi(shape, seed):
    # Itoh's condition: with every neighbour closer than pi, the answer is unique up to 2 pi k.
    truth = smooth(np.random.default_rng(seed), shape, 3.0)
    found = unwrap.romeo(unwrap.wrap(truth), np.ones(shape, bool)).phase_rad
    turns = (found - truth) / (2 * np.pi)
    assert np.allclose(turns, np.round(turns[0, 0, 0]), atol=1e-4)
    assert unwrap.count_jumps(found, np.ones(shape, bool)) == 0


def test_romeo_never_changes_phase_by_anything_but_whole_turns():
    rng = np.random.default_rng(3)
    noise = rng.uniform(-np.pi, np.pi, (12, 11, 10)).astype(np.float32)
    mask = rng.random(noise.shape) > 0.4
    found = unwrap.romeo(noise, mask)
    turns = (found.phase_rad - noise)[mask] / (2 * np.pi)
    assert np.allclose(turns, np.round(turns), atol=1e-4)
    assert not found.phase_rad[~mask].any()
    assert found.n_regions == ndimage.label(mask)[1]


def test_romeo_goes_around_a_noisy_wall_that_magnitude_shows():
    # A ramp with a slab of pure noise in it, open at one side: only the detour is reliable.
    rng = np.random.default_rng(0)
    truth = np.broadcast_to(np.linspace(0, 30, 30, dtype=np.float32)[:, None, None], (30, 20, 20))
    phase, magnitude = truth.copy(), np.ones(truth.shape, np.float32)
    wall = np.zeros(truth.shape, bool)
    wall[14:16, :16] = True
    phase[wall] = rng.uniform(-np.pi, np.pi, wall.sum())
    magnitude[wall] = 0.05
    mask = np.ones(truth.shape, bool)
    found = unwrap.romeo(unwrap.wrap(phase), mask, magnitude=magnitude).phase_rad
    turns = ((found - truth) / (2 * np.pi))[~wall]
    assert np.allclose(turns, np.round(turns[0]), atol=1e-4)


def slow_romeo(phase_rad, mask, magnitude):
    """Unwrap as `unwrap.romeo` says it does, with plain lists, a voxel at a time."""
    half_max = float(0.5 * np.quantile(magnitude[mask], 0.95))
    out, waiting = np.where(mask, phase_rad, np.float32(0)), mask.copy()

    def step(phase, a, b):
        d = float(phase[a] - phase[b])
        return d - 2 * np.pi * np.rint(d / (2 * np.pi))

    def bucket(a, b):
        a, b = min(a, b), max(a, b)
        small, big = sorted((magnitude[a], magnitude[b]))
        quality = 1 - abs(step(phase_rad, a, b)) / np.pi
        quality *= 0.1 + 0.9 * float(small / big) ** 2 if big > 0 else 0.1
        quality *= 0.5 + 0.5 * min(1.0, float(small) / half_max)
        return int((1 - quality) * 255)

    for seed in zip(*np.nonzero(mask), strict=True):
        if not waiting[seed]:
            continue
        edges = [[] for _ in range(256)]
        region, voxel = [], seed
        while voxel is not None:
            waiting[voxel] = False
            region.append(voxel)
            for axis in (2, 1, 0):
                for side in (1, -1):
                    to = tuple(v + side * (a == axis) for a, v in enumerate(voxel))
                    inside = all(0 <= v < n for v, n in zip(to, mask.shape, strict=True))
                    if inside and waiting[to]:
                        edges[bucket(voxel, to)].append((voxel, to))
            voxel = None
            for pile in edges:  # the best edge that leads to a new voxel; the latest comes first
                while pile and voxel is None:
                    source, to = pile.pop()
                    if waiting[to]:
                        turns = np.rint(float(out[to] - out[source]) / (2 * np.pi))
                        out[to] = float(out[to]) - 2 * np.pi * turns
                        voxel = to
                if voxel is not None:
                    break
        at = tuple(np.transpose(region))
        turns = np.rint(float(np.median(out[at])) / (2 * np.pi))
        out[at] = out[at].astype(np.float64) - 2 * np.pi * turns
    return out


def test_romeo_equals_a_slow_one_to_the_bit():
    # The last echo of a whole head: thousands of wraps, open loops beside the sinuses, noise.
    head = make_gre(np.random.default_rng(7), voxel_size_mm=5, snr=20)
    gre, mask = head.gre, head.brain.copy()
    mask[mask.shape[0] // 2] = False  # two pieces
    scan = gre.phase_rad[..., 4].astype(np.float32), mask, gre.magnitude[..., 4]
    fast = unwrap.romeo(scan[0], mask, magnitude=scan[2])
    assert fast.n_regions == ndimage.label(mask)[1] >= 2
    assert unwrap.count_jumps(fast.phase_rad, mask) > 100  # where the order of growing shows
    assert (fast.phase_rad == slow_romeo(*scan)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((4, 4, 4), bool)}, "mask: is empty"),
        ({"mask": np.ones((4, 4, 5), bool)}, "mask: has shape"),
        ({"phase_rad": np.full((4, 4, 4), 180.0)}, "reaches 180"),
        ({"magnitude": np.ones((4, 4))}, "magnitude: has shape"),
    ],
)
def test_romeo_refuses(change, message):
    arguments = {"phase_rad": np.zeros((4, 4, 4)), "mask": np.ones((4, 4, 4), bool)} | change
    with pytest.raises(InputError, match=message):
        unwrap.romeo(**arguments)


def test_without_jumps_leaves_none():
    rng = np.random.default_rng(1)
    phase, mask = rng.normal(0, 2, (9, 8, 7)), rng.random((9, 8, 7)) > 0.2
    assert unwrap.count_jumps(phase, mask) > 0
    assert unwrap.count_jumps(phase, unwrap.without_jumps(phase, mask)) == 0


def scan(rng, shape, times, noise=0.0):
    """Return wrapped phase and magnitude of a known field and coil phase."""
    times = np.asarray(times)
    field_hz = smooth(rng, shape, 25.0)
    offset = smooth(rng, shape, 0.5)
    magnitude = np.exp(-times / 0.03) * rng.uniform(0.5, 1.5, (*shape, 1))
    signal = magnitude * np.exp(1j * (2 * np.pi * field_hz[..., None] * times + offset[..., None]))
    signal = signal + noise * (rng.standard_normal(signal.shape) * (1 + 1j))
    return field_hz, offset, np.angle(signal).astype(np.float32), np.abs(signal)


@pytest.mark.parametrize(
    "times", [(0.004, 0.008, 0.012), (0.003, 0.007, 0.009, 0.016), (0.005, 0.010)]
)
def test_field_and_coil_phase_come_back_exactly_without_noise(times):
    field_hz, offset, phase, magnitude = scan(np.random.default_rng(5), (12, 14, 9), times)
    fit = qsm_field.fit_field(phase, magnitude, times, np.ones(field_hz.shape, bool))
    # the field is known up to 1 / (echo interval): the same multiple everywhere
    turns = (fit.field_hz - field_hz) * np.diff(times).min()
    assert np.allclose(turns, np.round(turns[0, 0, 0]), atol=1e-4)
    whole_turns = np.round(turns[0, 0, 0]) == 0
    assert whole_turns
    assert np.allclose(np.exp(1j * fit.offset_rad), np.exp(1j * offset), atol=1e-3)
    assert fit.residual_rad.max() < 1e-3


def test_standard_error_of_the_field_is_the_spread_over_repeats():
    rng = np.random.default_rng(8)
    times = np.array([0.005, 0.010, 0.015, 0.020])
    magnitude = np.exp(-times / 0.03) * np.ones((30, 30, 30, 1))
    signal = magnitude * np.exp(2j * np.pi * 20 * times)
    noisy = signal + 0.03 * (
        rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape)
    )
    mask = np.ones((30, 30, 30), bool)
    fit = qsm_field.fit_field(np.angle(noisy), np.abs(noisy), times, mask)
    assert fit.field_hz.std() == pytest.approx(fit.standard_error_hz.mean(), rel=0.03)
    # and both are what the Cramer-Rao bound of a straight line gives
    weight = magnitude[0, 0, 0] ** 2 / 0.03**2
    bound = 1 / np.sqrt((weight * (times - np.average(times, weights=weight)) ** 2).sum())
    assert fit.field_hz.std() * 2 * np.pi == pytest.approx(bound, rel=0.03)


def test_one_echo_gives_a_field_and_says_what_it_cannot_know():
    field_hz, _, phase, magnitude = scan(np.random.default_rng(2), (9, 9, 9), (0.010,))
    fit = qsm_field.fit_field(phase, magnitude, (0.010,), np.ones((9, 9, 9), bool))
    assert not fit.offset_rad.any()
    assert np.isnan(fit.standard_error_hz).all()
    assert np.corrcoef(fit.field_hz.ravel(), field_hz.ravel())[0, 1] > 0.9


def test_fit_field_refuses_shapes_that_differ():
    with pytest.raises(InputError, match="one echo time an echo"):
        qsm_field.fit_field(
            np.zeros((4, 4, 4, 2)), np.zeros((4, 4, 4, 3)), (0.004, 0.008), np.ones((4, 4, 4))
        )


def test_quality_tells_noise_from_tissue_and_needs_echo_times():
    rng = np.random.default_rng(4)
    _, _, phase, _ = scan(rng, (20, 20, 20), (0.004, 0.008, 0.012))
    phase[10:] = rng.uniform(-np.pi, np.pi, phase[10:].shape)
    quality = qsm_mask.phase_quality(phase, echo_times_s=(0.004, 0.008, 0.012))
    assert np.quantile(quality[:9], 0.01) > np.quantile(quality[11:], 0.99)
    with pytest.raises(InputError, match="echo_times_s"):
        qsm_mask.phase_quality(phase)


@pytest.mark.parametrize("size", [(1, 1, 1), (0.7, 1.4, 2.1)])
def test_mask_keeps_the_brain_and_drops_the_scalp_even_when_veins_tie_them(size):
    grid = np.indices((60, 36, 24)) - np.array([29.5, 17.5, 11.5]).reshape(3, 1, 1, 1)
    position = grid * np.array(size).reshape(3, 1, 1, 1)
    radius = np.linalg.norm(position, axis=0)
    brain, scalp = radius < 11, (radius > 14) & (radius < 17)
    vein = (np.abs(position[1]) < 1.5) & (np.abs(position[2]) < 1.5) & (radius < 17)
    magnitude = (brain | scalp | vein).astype(np.float32)[..., None]
    found = qsm_mask.mask_from_gre(magnitude, np.zeros_like(magnitude), size, rim_mm=0)
    assert not (found & scalp).any()
    assert found[brain].mean() > 0.99


def test_mask_refuses_an_image_without_tissue():
    with pytest.raises(InputError, match="no voxel is bright"):
        qsm_mask.mask_from_gre(np.zeros((8, 8, 8, 1)), np.zeros((8, 8, 8, 1)), (1, 1, 1))
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, (20, 20, 20, 2))
    with pytest.raises(InputError, match="in phase with its neighbours"):
        qsm_mask.mask_from_gre(1 + 0 * noise, noise, (2, 2, 2), echo_times_s=(0.005, 0.01))
    with pytest.raises(InputError, match="echo_times_s"):
        qsm_mask.mask_from_gre(np.zeros((8, 8, 8, 2)), np.zeros((8, 8, 8, 2)), (1, 1, 1))
