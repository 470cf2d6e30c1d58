import numpy as np
import pytest
from scipy import ndimage

from pvsbook import InputError
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.perivascular import (
    LESIONS,
    SCANNERS,
    SIGNALS,
    Artefacts,
    Pvs,
    draw_tube,
    make_phantom,
)

FEW = {"cso_left": 4, "bg_right": 2}


def phantom(**options):
    return make_phantom(
        np.random.default_rng(3), **{"voxel_size_mm": 1.2, "counts": FEW, **options}
    )


@pytest.mark.parametrize("diameter", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("direction", [(1, 0, 0), (1, 2, 3)])
def test_a_drawn_tube_has_the_volume_of_a_cylinder(diameter, direction):
    direction = np.array(direction) / np.linalg.norm(direction)
    points = 8.3 + np.linspace(-5, 5, 21)[:, None] * direction
    filled = draw_tube(points, diameter_mm=diameter, shape=(18, 18, 18))
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
    coarse, fine = phantom(), phantom(voxel_size_mm=(1.0, 1.1, 1.25), axcodes="LPI")
    for a, b in zip(coarse.spaces, fine.spaces, strict=True):
        np.testing.assert_array_equal(a.centreline_mni_mm, b.centreline_mni_mm)
    total = [p.fraction.sum() * np.prod(p.brain.voxel_size_mm) for p in (coarse, fine)]
    assert total[0] == pytest.approx(total[1], rel=0.03)


def test_a_slab_holds_the_parts_that_cross_it():
    slab, whole = phantom(z_range_mni_mm=(20, 40), n_wmh=2), phantom(n_wmh=2)
    assert len(slab.spaces) == len(whole.spaces)
    for a, b in ((slab.fraction, whole.fraction), (slab.lesions["wmh"], whole.lesions["wmh"])):
        assert 0 < a.sum() < b.sum()


def test_turning_the_head_turns_the_directions():
    turned = pose((0, 0, 90))
    there = phantom(mni_to_world=turned).truth
    here = phantom().truth
    columns = ["direction_x", "direction_y", "direction_z"]
    np.testing.assert_allclose(there[columns], here[columns] @ turned[:3, :3].T, atol=1e-9)


def test_contrast_and_strength():
    weak = phantom(strength="weak", contrasts=("T2w", "T1w", "FLAIR"), snr=1000)
    full = weak.fraction > 0.99
    assert full.sum() >= 10
    for contrast, ratio in (("T2w", 1.38), ("T1w", 0.8), ("FLAIR", 0.9)):
        signal = SIGNALS[contrast]
        tissue = sum(signal[t] * getattr(weak.brain, t)[full] for t in ("wm", "gm", "csf"))
        scan = np.asarray(weak.scans[contrast].dataobj)[full]
        np.testing.assert_allclose(scan, 100 * ratio * tissue, atol=1)


def test_noise_is_rician():
    made = phantom(snr=20.0)
    tissue = made.brain.wm + made.brain.gm + made.brain.csf
    air = np.asarray(made.scans["T2w"].dataobj)[tissue == 0]
    assert air.mean() == pytest.approx(5 * np.sqrt(np.pi / 2), rel=0.01)


def test_spaces_keep_their_distance():
    made = phantom(counts={"cso_right": 12}, n_wmh=5, n_lacunes=2)
    counts = {kind: ndimage.label(made.lesions[kind])[1] for kind in LESIONS}
    assert counts == {"wmh": 5, "rim": 2, "lacune": 2, "microbleed": 0}
    for kind in LESIONS:
        assert not ((made.fraction > 0) & (made.lesions[kind] > 0)).any()
    spaces = made.spaces
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
    assert scan[made.lesions["lacune"] >= 0.5].mean() == pytest.approx(260, abs=45)


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


def test_confounders_have_the_contrast_they_are_known_for():
    made = phantom(
        contrasts=("FLAIR", "SWI"), n_periventricular=3, n_lacunes=2, n_microbleeds=3, snr=1000
    )
    flair, swi = (np.asarray(made.scans[k].dataobj) for k in ("FLAIR", "SWI"))
    pure = {kind: made.lesions[kind] > 0.99 for kind in LESIONS}
    ring = pure["rim"] & (made.lesions["lacune"] == 0) & (made.fraction == 0)
    assert flair[ring].mean() == pytest.approx(160, abs=1)
    assert flair[pure["lacune"]].mean() == pytest.approx(20, abs=1)
    assert flair[pure["wmh"] & (made.fraction == 0)].mean() == pytest.approx(180, abs=1)
    assert swi[pure["microbleed"]].mean() == pytest.approx(10, abs=1)


def test_artefacts_do_what_their_names_say():
    plain = phantom(snr=1e4)
    tissue = (plain.brain.wm > 0.9) & (plain.fraction == 0)
    clean = np.asarray(plain.scans["T2w"].dataobj)
    rng = np.random.default_rng(0)

    def scan(**options):
        again = plain.scan_again(rng, snr=1e4, artefacts=Artefacts(**options))
        return np.asarray(again.dataobj)

    assert (scan(texture=0.05) / clean)[tissue].std() == pytest.approx(0.05, rel=0.2)
    field = scan(bias=0.3) / clean
    assert 0.2 < np.abs(field[plain.brain.brain > 0.5] - 1).max() < 0.31
    ghost = scan(ghosting=0.1)
    n = clean.shape[1] // 2
    np.testing.assert_allclose(ghost, clean + 0.1 * np.roll(clean, n, axis=1), atol=0.2)
    ringing = scan(gibbs=0.2) - clean
    assert np.abs(ringing).max() > 20
    assert abs(ringing[tissue].mean()) < 0.5


@pytest.mark.parametrize("name", ["3T", "7T"])
def test_scanner_presets_are_complete(name):
    made = phantom(**{**SCANNERS[name], "voxel_size_mm": 3.0})
    assert SCANNERS[name]["voxel_size_mm"] in (1.0, 0.5)
    assert np.isfinite(made.scans["T2w"].dataobj).all()


@pytest.mark.parametrize("name", ["bias", "texture", "ghosting", "gibbs"])
def test_artefacts_beyond_reason(name):
    with pytest.raises(InputError, match=name):
        Artefacts(**{name: 0.7})


@pytest.mark.parametrize(
    "options",
    [
        {"centreline_mm": [[1, 2, 3]]},
        {"diameter_mm": 0},
        {"voxel_size_mm": (1, -1, 1)},
    ],
)
def test_a_tube_that_cannot_be_drawn(options):
    given = {"centreline_mm": [[1, 1, 1], [4, 1, 1]], "diameter_mm": 1, "shape": (6, 3, 3)}
    with pytest.raises(InputError):
        draw_tube(**{**given, **options})
