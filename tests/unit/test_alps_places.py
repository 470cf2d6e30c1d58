"""Where the ALPS index is measured, how sure it is, and every published estimator."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, alps, images
from pvsbook.alps import preprocess, published
from pvsbook.alps.regions import NAMES, SPHERES_2_5_MM, SPHERES_5_MM, RoiSet
from pvsbook.atlas.registration import Registration
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import WhiteMatter, add_noise, gradient_scheme, make_diffusion

SLAB_MM = (15, 39)


def known(mni_to_world=None):
    to_mni = np.eye(4) if mni_to_world is None else np.linalg.inv(mni_to_world)
    return Registration(to_mni, "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


def phantom(*, ridge=False, turn=None, voxel_mm=2.5, snr=np.inf, **tissue):
    place = {} if turn is None else {"mni_to_world": turn}
    brain = make_brain(voxel_mm, z_range_mni_mm=SLAB_MM, margin_mm=2, **place)
    vessels = np.exp(-((brain.mni_coordinates()[..., 2] - 27) ** 2) / 50) if ridge else None
    return make_diffusion(
        brain, rng=np.random.default_rng(3), tissue=WhiteMatter(**tissue), vessels=vessels, snr=snr
    )


def measure(scan, **options):
    options = {"registration": known(), "n_bootstrap": 200} | options
    return alps.measure(scan.dwi, mask=scan.mask, **options)


@pytest.fixture(scope="module")
def ridge():
    return phantom(ridge=True)


@pytest.fixture(scope="module")
def measured(ridge):
    return measure(add_noise(ridge, snr=25, rng=np.random.default_rng(1)))


def test_shares_of_the_interval_stand_in_the_row(measured):
    row = measured.to_row()
    for side in ("left", "right", "mean"):
        e = measured.indices["tract"][side]
        assert row[f"alps_tract_{side}_noise_sd"] == e.noise_sd > 0.003
        assert row[f"alps_tract_{side}_placement_sd"] == e.placement_sd > 0.005
        assert row[f"alps_tract_{side}_registration_sd"] == e.registration_sd > 0.005
        whole = np.sqrt(e.noise_sd**2 + e.placement_sd**2 + e.registration_sd**2)
        assert e.high - e.low == pytest.approx(3.9 * whole, rel=0.5)


def test_noise_is_not_counted_again_as_place():
    """Where every place has one index, moved regions differ by noise alone."""
    rng = np.random.default_rng(2)
    shares = []
    for seed in range(4):
        scan = add_noise(phantom(), snr=10, rng=np.random.default_rng(seed))
        e = measure(scan, rois=SPHERES_2_5_MM, rng=rng).indices["tract"]["mean"]
        shares.append(e.registration_sd / e.noise_sd)
    assert np.mean(shares) < 0.75  # about 1.1 if noise were not taken out


def test_interval_holds_what_misplaced_regions_miss(ridge):
    truth = measure(ridge, n_bootstrap=10).indices["tract"]["mean"].value
    rng, held, by_noise = np.random.default_rng(4), 0, 0
    for _ in range(6):
        scan, shift = add_noise(ridge, snr=40, rng=rng), rng.normal((0, 0, 2), 1)
        moved = RoiSet({n: tuple(np.add(c, shift)) for n, c in SPHERES_5_MM.centres_mm.items()}, 5)
        e = measure(scan, rois=moved).indices["tract"]["mean"]
        held += e.low <= truth <= e.high
        by_noise += abs(e.value - truth) < 1.96 * e.noise_sd
    assert held >= 5
    assert by_noise <= 4


def test_spheres_placed_by_hand_need_no_registration(ridge):
    by_hand = replace(SPHERES_5_MM, space="scanner")
    e = measure(ridge, rois=by_hand, n_bootstrap=10).indices["tract"]["mean"]
    assert np.isnan(e.registration_sd)
    assert e.placement_sd > 0


def test_denoised_series_keeps_the_noise_of_the_raw_one():
    bvals, bvecs = gradient_scheme(40, rng=np.random.default_rng(5), n_b0=3)
    brain = make_brain(3.0, z_range_mni_mm=SLAB_MM, margin_mm=2)
    raw = make_diffusion(
        brain, rng=np.random.default_rng(6), bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=20
    )
    mm = brain.mni_coordinates()
    centres = SPHERES_5_MM.centres_mm.values()
    near = [np.linalg.norm(mm - np.array(c), axis=-1) < 11 for c in centres]
    box = brain.image(np.any(near, axis=0).astype(np.uint8))
    less = preprocess.denoise(raw.dwi, mask=box)
    sd = {}
    for name, before in (("told", raw.dwi), ("not told", None)):
        found = alps.measure(
            less, mask=raw.mask, registration=known(), before_denoising=before, n_bootstrap=200
        )
        sd[name] = found.indices["tract"]["mean"].noise_sd
    plain = measure(raw).indices["tract"]["mean"].noise_sd
    assert sd["told"] == pytest.approx(plain, rel=0.3)
    assert sd["not told"] < 0.7 * plain
    few = images.make(images.array(raw.dwi.image)[..., :9], raw.dwi.image.affine)
    short = images.Dwi(few, bvals[:9], bvecs[:9])
    with pytest.raises(InputError, match="before_denoising: 9 volumes"):
        alps.measure(less, mask=raw.mask, registration=known(), before_denoising=short)


def test_index_elsewhere_needs_no_fit(measured, monkeypatch):
    monkeypatch.setattr("pvsbook.alps.tensor.wls", None)
    here = measured.index_at()
    for frame, sides in measured.indices.items():
        for side, e in sides.items():
            assert here[frame][side] == pytest.approx(e.value, abs=1e-4)
    drawn = measured.index_at(measured.labels)
    assert drawn["tract"]["mean"] == pytest.approx(here["tract"]["mean"], abs=0.05)
    up = measured.index_at(shift_mm=(0, 0, 5))
    assert up["tract"]["mean"] < here["tract"]["mean"] - 0.02, "off the ridge"
    small = measured.index_at(SPHERES_2_5_MM)["tract"]["mean"]
    assert small == pytest.approx(measured.variants["radius_2_5_mm"], abs=1e-4)
    with pytest.raises(InputError, match="rois: nothing of left projection"):
        measured.index_at(shift_mm=(0, 0, 60))


@pytest.mark.parametrize(
    ("rois", "search_mm"), [(SPHERES_2_5_MM, 0.0), (SPHERES_5_MM, 1.0), ("drawn", 0.0)]
)
def test_remeasured_is_measured_without_a_fit(ridge, measured, monkeypatch, rois, search_mm):
    """Every figure, to the last digit."""
    if rois == "drawn":
        rois = measured.labels
    scan = add_noise(ridge, snr=25, rng=np.random.default_rng(1))
    options = {"rois": rois, "search_mm": search_mm, "n_bootstrap": 50}
    whole = measure(scan, **options)
    for place in ("tensor.fit_tensor", "_fitted.register"):
        monkeypatch.setattr(f"pvsbook.alps.{place}", None)
    again = measured.remeasure(**options)
    np.testing.assert_equal(again.to_row(), whole.to_row())
    pd.testing.assert_frame_equal(again.published(), whole.published())
    np.testing.assert_array_equal(again.labels.dataobj, whole.labels.dataobj)
    assert again.spheres == whole.spheres
    same = measured.remeasure(SPHERES_5_MM, n_bootstrap=200)
    np.testing.assert_equal(same.to_row(), measured.to_row())


def test_remeasuring_refuses_what_measuring_refuses(measured):
    swapped = images.make(np.asarray(measured.labels.dataobj)[::-1], measured.labels.affine)
    for rois, options, error in (
        (swapped, {}, "exchange them"),
        ("2.5mm", {}, "rois: '2.5mm'; give"),
        (measured.labels, {"search_mm": 1}, "search_mm: regions drawn by hand stay"),
        (SPHERES_5_MM, {"n_bootstrap": 2}, "n_bootstrap is 2"),
    ):
        with pytest.raises(InputError, match=error):
            measured.remeasure(rois, **options)


def test_only_white_matter_is_measured():
    """Fluid that reaches into a sphere is seen and left out."""
    scan = phantom()
    data = images.array(scan.dwi.image).copy()
    mm = scan.brain.mni_coordinates()
    fluid = (np.abs(mm[..., 0]) < 24) & (np.abs(mm[..., 0]) > 10)
    data[fluid] = 2500 * np.exp(-3e-3 * scan.dwi.bvals_s_mm2)
    wide = replace(scan, dwi=replace(scan.dwi, image=scan.brain.image(data)))
    plain, found = (measure(s, n_bootstrap=10) for s in (scan, wide))
    first, second = plain.rois[0], found.rois[0]
    assert first.fluid_fraction == 0
    assert first.voxels.white == pytest.approx(1)
    assert second.fluid_fraction == pytest.approx(1 - second.voxels.white)
    assert 0.1 < second.fluid_fraction < 0.5
    assert second.n_voxels < 0.9 * first.n_voxels
    values = [r.indices["tract"]["mean"].value for r in (plain, found)]
    assert values[0] == pytest.approx(values[1], abs=0.01)


def test_sphere_without_white_matter_is_measured_whole():
    scan = phantom()
    placement = measure(scan, n_bootstrap=10).placement
    grey = replace(placement, fa=np.zeros_like(placement.fa))
    voxels = grey.place(SPHERES_5_MM, dict.fromkeys(NAMES, (0, 0, 0)))
    assert {v.white for v in voxels.values()} == {0}
    assert min(v.weight.sum() for v in voxels.values()) > 25
    nothing = grey.place(SPHERES_5_MM, dict.fromkeys(NAMES, (0, 0, 90)))["left_projection"]
    assert (nothing.white, nothing.fluid) == (0, 0)


def _published(**options):
    scan = phantom(**options)
    found = measure(scan, registration=known(options.get("turn")), n_bootstrap=10)
    return scan.index, found.published().set_index("estimator")["mean"]


def test_every_estimator_gives_the_truth_of_a_straight_head():
    truth, found = _published(dispersion_deg=0.0)
    assert list(found.index) == list(published.ESTIMATORS)
    np.testing.assert_allclose(found, truth, atol=0.01)


def test_turned_head_moves_those_of_fixed_axes():
    truth, found = _published(turn=pose((20, 0, 15)), voxel_mm=2.0)
    fixed = ["classic"]
    assert (found[fixed] < truth - 0.15).all()
    assert (found.drop([*fixed, "pas"]) - truth).abs().max() < 0.02


def test_tracts_at_sixty_degrees_fool_the_axes_of_the_head():
    truth, found = _published(tilt_deg=30.0)
    assert found["reoriented"] < truth - 0.1
    assert found["tract"] == pytest.approx(truth, abs=0.02)
    assert found["anatomical"] == pytest.approx(found["tract"], abs=0.02)


def test_noise_alone_raises_the_ratio_of_eigenvalues():
    truth, found = _published(perivascular=0.0, snr=12)
    assert found["radial"] > truth + 0.15
    assert abs(found["tract"] - truth) < 0.08


def test_ld_alps_needs_five_directions_that_agree():
    straight = np.tile([0, 0, 1.0], (8, 1))
    inside, centre = published._consistent(np.vstack([straight, [[1, 0, 0]]]))
    assert inside.tolist() == [True] * 8 + [False]
    assert centre.tolist() == [0, 0, 1]
    assert published._consistent(straight[:4]) is None


def test_table_of_estimators_is_written(tmp_path, measured):
    measured.save(tmp_path, prefix="sub-01")
    path = tmp_path / "sub-01" / "dwi" / "sub-01_desc-estimators_alps.tsv"
    table = pd.read_csv(path, sep="\t")
    assert table["estimator"].tolist() == list(published.ESTIMATORS)
    row = measured.to_row()
    for name in ("classic", "reoriented", "tract"):
        value = table.set_index("estimator").loc[name, "mean"]
        assert value == pytest.approx(row[f"alps_{name}_mean"])
    assert table.notna().all(axis=None)
