import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pvsbook import InputError
from pvsbook.phantoms.perivascular import draw_tube
from pvsbook.pvs.morphometry import (
    measure_centrelines,
    measure_spread,
    measure_ventricle_distance,
)

AXES = ["direction_x", "direction_y", "direction_z"]


def arc(length, curvature, direction, across, middle):
    angle = curvature * np.linspace(-0.5, 0.5, 60) * length
    return middle + (
        np.sin(angle)[:, None] * direction + (1 - np.cos(angle))[:, None] * across
    ) / (curvature)


def drawn(points, diameter, voxel):
    """Labels and fractions of a tube on a grid of this voxel size."""
    shape = tuple(np.ceil((points.max(axis=0) + 4) / voxel).astype(int))
    filled = draw_tube(points, diameter_mm=diameter, shape=shape, voxel_size_mm=voxel)
    return (filled > 0.05).astype(np.int32), filled, np.diag([*voxel, 1.0])


@settings(max_examples=25, deadline=None)
@given(
    length=st.floats(6, 16),
    curvature=st.floats(0.001, 0.06),
    diameter=st.floats(1.0, 3.0),
    turn=st.integers(0, 10_000),
    voxel=st.sampled_from([(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.7, 0.7, 1.2)]),
)
def test_length_and_direction_of_bent_tubes(length, curvature, diameter, turn, voxel):
    turn = Rotation.random(random_state=turn).as_matrix()
    points = arc(length, curvature, turn[0], turn[1], np.full(3, 14.0))
    labels, filled, affine = drawn(points, diameter, np.array(voxel))
    found = measure_centrelines(labels, filled, affine).iloc[0]
    chord = points[-1] - points[0]
    assert found["length_mm"] == pytest.approx(length, rel=0.08)
    assert found["tortuosity"] == pytest.approx(length / np.linalg.norm(chord), abs=0.03)
    cosine = abs(found[AXES].to_numpy(float) @ chord) / np.linalg.norm(chord)
    assert np.rad2deg(np.arccos(min(cosine, 1.0))) < 4


def test_a_straight_estimate_misses_the_bend():
    points = arc(16, 0.09, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.full(3, 14.0))
    labels, filled, affine = drawn(points, 1.5, np.ones(3))
    straight = measure_spread(labels, filled, affine)["length_mm"][0]
    bent = measure_centrelines(labels, filled, affine)["length_mm"][0]
    assert abs(bent - 16) < abs(straight - 16)
    assert bent == pytest.approx(16, rel=0.06)


def test_centre_and_elongation_follow_the_affine():
    labels = np.zeros((12, 12, 12), np.int32)
    labels[2:10, 5, 5] = 1
    labels[8, 8:10, 8:10] = 2
    affine = np.diag([-2.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = 30, 20, 10
    found = measure_centrelines(labels, labels > 0, affine)
    assert found[["x_mm", "y_mm", "z_mm"]].iloc[0].tolist() == pytest.approx([19, 25, 15])
    assert found["elongation"][0] > 6
    assert abs(found["direction_x"][0]) == pytest.approx(1)
    assert found["tortuosity"][1] == 1


def test_no_objects_give_an_empty_table():
    found = measure_centrelines(np.zeros((4, 4, 4), np.int32), np.zeros((4, 4, 4)), np.eye(4))
    assert len(found) == 0
    assert {"length_mm", "tortuosity", *AXES} <= set(found.columns)


@pytest.mark.parametrize(
    ("direction", "angle"), [((1, 0, 0), 0), ((0, 1, 0), 90), ((1, 1, 0), 45)]
)
def test_angle_and_distance_to_a_wall(direction, angle):
    mask = np.zeros((40, 20, 20), bool)
    mask[:10] = True
    affine = np.diag([0.5, 1.0, 1.0, 1.0])
    unit = np.array(direction) / np.linalg.norm(direction)
    table = pd.DataFrame(
        [{"x_mm": 12.0, "y_mm": 9.0, "z_mm": 9.0, **dict(zip(AXES, unit, strict=True))}]
    )
    found = measure_ventricle_distance(table, mask, affine).iloc[0]
    assert found["ventricle_distance_mm"] == pytest.approx(12 - 4.5, abs=0.51)
    assert found["ventricle_angle_deg"] == pytest.approx(angle, abs=1)


def test_empty_ventricles_are_refused():
    table = pd.DataFrame([{"x_mm": 1.0, "y_mm": 1.0, "z_mm": 1.0, **dict.fromkeys(AXES, 1.0)}])
    with pytest.raises(InputError, match="ventricles"):
        measure_ventricle_distance(table, np.zeros((3, 3, 3), bool), np.eye(4))
