import numpy as np
import pytest

from pvsbook import InputError
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.perivascular import (
    Pvs,
    _fill_tube,
    make_phantom,
    place_pvs,
    place_spheroids,
)

FEW = {"cso_left": 4, "bg_right": 2}


def phantom(**options):
    return make_phantom(
        np.random.default_rng(3), **{"voxel_size_mm": 1.5, "counts": FEW, **options}
    )


@pytest.mark.parametrize("diameter", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("direction", [(1, 0, 0), (1, 2, 3)])
def test_a_drawn_tube_has_the_volume_of_a_cylinder(diameter, direction):
    direction = np.array(direction) / np.linalg.norm(direction)
    points = 8.3 + np.linspace(-5, 5, 21)[:, None] * direction
    filled = _fill_tube(points, diameter / 2, np.eye(3), (18, 18, 18), 20)
    assert filled.max() <= 1
    assert filled.sum() == pytest.approx(np.pi / 4 * diameter**2 * 10, rel=0.03)


def test_truth_and_image_agree():
    made = phantom()
    voxel = np.prod(made.brain.voxel_size_mm)
    assert made.fraction.sum() * voxel == pytest.approx(made.truth["volume_mm3"].sum(), rel=0.05)
    assert made.truth["region"].value_counts().to_dict() == FEW
    labels = np.asarray(made.labels.dataobj)
    assert set(np.unique(labels)) == set(range(len(made.truth) + 1))
    scan = np.asarray(made.scans["T2w"].dataobj)
    inside = (made.fraction > 0.9) & (made.brain.wm > 0.5)
    assert scan[inside].mean() == pytest.approx(300, abs=15)


def test_one_seed_is_the_same_brain_on_every_grid():
    coarse, fine = phantom(), phantom(voxel_size_mm=(1.0, 1.2, 1.4), axcodes="LPI")
    for a, b in zip(coarse.spaces, fine.spaces, strict=True):
        np.testing.assert_array_equal(a.centreline_mni_mm, b.centreline_mni_mm)
    total = [p.fraction.sum() * np.prod(p.brain.voxel_size_mm) for p in (coarse, fine)]
    assert total[0] == pytest.approx(total[1], rel=0.03)


def test_turning_the_head_turns_the_directions():
    turned = pose((0, 0, 90))
    there = phantom(mni_to_world=turned).truth
    here = phantom().truth
    columns = ["direction_x", "direction_y", "direction_z"]
    np.testing.assert_allclose(there[columns], here[columns] @ turned[:3, :3].T, atol=1e-9)


def test_contrast_and_strength():
    weak = phantom(strength="weak", contrasts=("T2w", "T1w", "FLAIR"), snr=1000)
    full = (weak.fraction > 0.99) & (weak.brain.wm > 0.999)
    assert np.asarray(weak.scans["T2w"].dataobj)[full].mean() == pytest.approx(138, abs=1.5)
    assert np.asarray(weak.scans["T1w"].dataobj)[full].mean() == pytest.approx(80, abs=1)
    assert np.asarray(weak.scans["FLAIR"].dataobj)[full].mean() == pytest.approx(90, abs=1)


def test_noise_is_rician():
    made = phantom(snr=20.0)
    tissue = made.brain.wm + made.brain.gm + made.brain.csf
    air = np.asarray(made.scans["T2w"].dataobj)[tissue == 0]
    assert air.mean() == pytest.approx(5 * np.sqrt(np.pi / 2), rel=0.01)


def test_spaces_keep_their_distance():
    lesions = place_spheroids(np.random.default_rng(1), n_wmh=5, n_lacunes=2)
    assert [lesion.kind for lesion in lesions] == 5 * ["wmh"] + 2 * ["lacune"]
    spaces = place_pvs(np.random.default_rng(1), counts={"cso_right": 12}, avoid=lesions)
    for n, one in enumerate(spaces):
        for other in spaces[:n]:
            apart = np.linalg.norm(
                one.centreline_mni_mm[:, None] - other.centreline_mni_mm, axis=-1
            )
            assert apart.min() >= 2.5 + (one.diameter_mm + other.diameter_mm) / 2
        steps = np.linalg.norm(np.diff(one.centreline_mni_mm, axis=0), axis=1)
        assert steps.sum() == pytest.approx(one.length_mm, rel=1e-3)


def test_volume_of_a_tube():
    tube = Pvs(np.zeros((2, 3)), diameter_mm=2.0, length_mm=10.0, region="cso_left")
    assert tube.volume_mm3 == pytest.approx(31.4159, rel=1e-5)


def test_lesions_are_drawn():
    made = phantom(n_wmh=4, n_lacunes=2, snr=1000)
    scan = np.asarray(made.scans["T2w"].dataobj)
    assert scan[np.asarray(made.wmh.dataobj) > 0].mean() == pytest.approx(165, abs=20)
    assert scan[np.asarray(made.lacunes.dataobj) > 0].mean() == pytest.approx(260, abs=45)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"contrasts": ("PD",)}, "PD"),
        ({"strength": "faint"}, "faint"),
        ({"snr": 0}, "snr"),
        ({"counts": {"cerebellum": 1}}, "cerebellum"),
        ({"counts": {"midbrain_left": 60}}, "no room"),
        ({"n_lacunes": 4000}, "no room"),
    ],
)
def test_bad_input_is_named(options, says):
    with pytest.raises(InputError, match=says):
        phantom(**options)
