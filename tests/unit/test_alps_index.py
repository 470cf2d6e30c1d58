"""The ALPS index of two tensors, its bootstrap, and the check of the b-vectors."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pvsbook.alps import estimators, tensor
from pvsbook.alps.gradients import check_bvecs
from pvsbook.alps.quality import bvec_figures

PROJECTION, ASSOCIATION = np.diag([0.6, 0.4, 1.5]), np.diag([0.6, 1.5, 0.4])
ANGLES = st.floats(-180, 180)


def test_formula():
    assert estimators.alps_in_axes(PROJECTION, ASSOCIATION, np.eye(3)) == pytest.approx(1.5)
    assert estimators.alps_in_tracts(PROJECTION, ASSOCIATION) == pytest.approx(1.5)


@given(ANGLES, ANGLES, ANGLES)
def test_tract_frame_turns_with_the_head(a, b, c):
    turn = Rotation.from_euler("xyz", (a, b, c), degrees=True).as_matrix()
    pair = turn @ PROJECTION @ turn.T, turn @ ASSOCIATION @ turn.T
    assert estimators.alps_in_tracts(*pair) == pytest.approx(1.5, rel=1e-9)
    assert estimators.alps_in_axes(*pair, turn.T) == pytest.approx(1.5, rel=1e-9)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_tract_frame_does_not_notice_mirrors(order, signs):
    mirror = np.eye(3)[list(order)] * signs
    pair = mirror @ PROJECTION @ mirror.T, mirror @ ASSOCIATION @ mirror.T
    assert estimators.alps_in_tracts(*pair) == pytest.approx(1.5, rel=1e-9)


@settings(max_examples=30)
@given(st.floats(5, 40))
def test_pitch_lowers_the_classic_index_by_the_formula(tilt):
    turn = Rotation.from_euler("x", tilt, degrees=True).as_matrix()
    pair = turn @ PROJECTION @ turn.T, turn @ ASSOCIATION @ turn.T
    across = 0.4 * np.cos(np.deg2rad(tilt)) ** 2 + 1.5 * np.sin(np.deg2rad(tilt)) ** 2
    assert estimators.alps_in_axes(*pair, np.eye(3)) == pytest.approx(0.6 / across, rel=1e-9)


def test_parallel_tracts_have_no_frame():
    assert np.isnan(estimators.alps_in_tracts(PROJECTION, PROJECTION))


@pytest.mark.parametrize("n_b0", [1, 4])
def test_wild_bootstrap_has_the_spread_of_repeated_noise(n_b0):
    rng = np.random.default_rng(5)
    bvecs = rng.normal(size=(n_b0 + 32, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    design = tensor.design_matrix(np.r_[np.zeros(n_b0), np.full(32, 1000)], bvecs)
    clean = np.exp(design @ [0.6e-3, 0, 0.4e-3, 0, 0, 1.5e-3, 0])
    weight = np.linspace(0.3, 1, 8)
    means, spreads = [], []
    for _ in range(300):
        fit = tensor.wls(clean + rng.normal(0, 1 / 30, (8, n_b0 + 32)), design, min_signal=1e-3)
        means.append(np.average(fit.beta[:, 0], weights=weight))
        spreads.append(estimators.wild_bootstrap(fit, weight, 200, rng)[:, 0, 0].std())
    assert np.mean(spreads) == pytest.approx(np.std(means), rel=0.12)


def helix():
    """A helix of fibres in a tube, which knows all three axes: where it is, and its directions."""
    t = np.linspace(0, 4 * np.pi, 900)
    path = np.stack([12 + 8 * np.cos(t), 12 + 8 * np.sin(t), 3 + 1.7 * t], -1)
    slope = np.stack([-8 * np.sin(t), 8 * np.cos(t), np.full(t.size, 1.7)], -1)
    slope /= np.linalg.norm(slope, axis=1, keepdims=True)
    voxel = np.rint(path).astype(int)
    where = np.zeros((25, 25, 30), bool)
    directions = np.zeros((*where.shape, 3))
    where[tuple(voxel.T)] = True
    directions[tuple(voxel.T)] = slope
    return where, directions


def test_b_vectors_that_were_not_rotated_with_the_slices_are_told():
    where, directions = helix()
    for degrees in (25, 60):
        turn = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, 0.8, 0])).as_matrix()
        check = check_bvecs(directions @ turn.T, where.astype(float), where, (2, 2, 2))
        assert check.turn_deg == pytest.approx(degrees, abs=4)
        told = {key for key, _, _ in bvec_figures(check)}
        assert told & {"bvec_turn_deg", "bvec_z"}
    right = check_bvecs(directions, where.astype(float), where, (2, 2, 2))
    assert right.as_given
    assert not list(bvec_figures(right)), "nothing is said of right b-vectors"
    faint = replace(right, turn_deg=25.0, turn_z=3.0, turn_gain=0.01)
    assert not list(bvec_figures(faint)), "too small a gain for its angle"
    sure = replace(right, turn_deg=25.0, turn_z=3.0, turn_gain=0.03)
    assert [key for key, _, _ in bvec_figures(sure)] == ["bvec_turn_deg"]


@settings(max_examples=24, deadline=None)
@given(
    st.permutations(range(3)),
    st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)]),
)
def test_every_change_of_the_axes_is_found(order, signs):
    """The change is undone exactly."""
    where, directions = helix()
    wrong = directions[..., list(order)] * signs
    check = check_bvecs(wrong, where.astype(float), where, (2, 2, 2))
    changed = order != [0, 1, 2] or signs != (1, 1, 1)
    assert check.as_given == (not changed)
    assert check.coherence[check.best] == max(check.coherence.values()) == 1
