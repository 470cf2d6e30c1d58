"""Grey matter: what the phantom is given, and what a T1-weighted scan gives back."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvsbook import InputError, images
from pvsbook.atlas import deep_grey, register_to_mni, templates
from pvsbook.atlas.registration import Registration
from pvsbook.phantoms.brain import grey_ml, make_brain, pose, resize_grey
from pvsbook.phantoms.perivascular import LESIONS, draw_scan
from pvsbook.pvs.anatomy import foreground_mask
from pvsbook_book.studies import tissue

AT_HOME = Registration(np.eye(4), "t1", "affine", "header", 1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def brain():
    return make_brain(2.0, mni_to_world=pose((8, -5, 4), (3, 2, -4)), axcodes="LAS")


def t1w(brain, *, seed=0, snr=30.0):
    none = np.zeros(brain.shape, np.float32)
    rng = np.random.default_rng(seed)
    return draw_scan(rng, brain, none, dict.fromkeys(LESIONS, none), contrast="T1w", snr=snr)


def at(brain):
    return Registration(
        np.linalg.inv(brain.mni_to_world), "t1", "affine", "header", 1.0, 1.0, 1.0, 1.0
    )


# --- the phantom ---------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(deep=st.floats(0.6, 1.4), cortex=st.floats(0.6, 1.4))
def test_a_resized_brain_has_the_volumes_asked_for(brain, deep, cortex):
    usual, found = grey_ml(brain), grey_ml(resize_grey(brain, deep_grey=deep, cortex=cortex))
    assert found[0] / usual[0] == pytest.approx(deep, abs=2e-4)
    assert found[1] / usual[1] == pytest.approx(cortex, abs=2e-4)


def test_resizing_moves_a_surface_and_keeps_all_tissue(brain):
    small = resize_grey(brain, deep_grey=0.8, cortex=0.9)
    before, after = (b.wm + b.gm + b.csf for b in (brain, small))
    full = before > 0.9999
    np.testing.assert_allclose(after[full], before[full], atol=1e-4)
    assert after.max() <= before.max() + 1e-6
    assert (small.gm <= brain.gm + 1e-6).all()
    pure = brain.gm > 0.999
    np.testing.assert_allclose(small.gm[pure], brain.gm[pure], atol=5e-3)
    mixed = (brain.wm > 0.1) & (brain.csf > 0.1) & (brain.gm < 0.9)
    one, other = (b.wm[mixed] / b.csf[mixed] for b in (small, brain))
    np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_array_equal(small.brain, brain.brain)
    assert grey_ml(resize_grey(brain)) == pytest.approx(grey_ml(brain), rel=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.5, float("nan")])
def test_a_size_that_no_head_has_is_refused(brain, factor):
    with pytest.raises(InputError, match=r"cortex: .*; give 0.6 to 1.4"):
        resize_grey(brain, cortex=factor)


def test_a_slab_without_deep_grey_matter_is_refused():
    with pytest.raises(InputError, match="brain: holds no deep grey matter"):
        resize_grey(make_brain(4.0, z_range_mni_mm=(40, 60)), deep_grey=0.9)


# --- the measurement -----------------------------------------------------------------------------


def test_mixtures_without_noise_come_back():
    rng = np.random.default_rng(3)
    shape, means = (40, 40, 40), np.array([30.0, 60.0, 100.0])
    labels = np.digitize(np.arange(40), (8, 16))[:, None, None] + np.zeros(shape, int)
    values = means[labels] + rng.normal(0, 1, shape)
    values[24] = 80.0  # a sheet of half grey, half white matter
    found = tissue.classify(
        images.make(values.astype(np.float32), np.eye(4)),
        mask=images.make(np.ones(shape, np.uint8), np.eye(4)),
    )
    np.testing.assert_allclose(found.means, means, atol=1.0)
    assert found.gm[24].mean() == pytest.approx(0.5, abs=0.03)
    assert found.wm[30:].mean() > 0.95
    assert found.csf[:8].mean() > 0.95
    np.testing.assert_allclose(found.csf + found.gm + found.wm, 1, atol=1e-5)


def test_measured_volumes_follow_the_true_ones(brain):
    factors = [(0.75, 1.0), (1.0, 0.9), (1.15, 1.1), (0.9, 1.05), (1.05, 0.95)]
    rows = []
    for seed, (deep, cortex) in enumerate(factors):
        one = resize_grey(brain, deep_grey=deep, cortex=cortex)
        scan = t1w(one, seed=seed)
        found = tissue.grey_volumes(scan, mask=foreground_mask(scan), registration=at(brain))
        rows.append((*grey_ml(one), found.deep_grey_ml, found.cortex_ml, found.head_scale))
    true_deep, true_cortex, deep, cortex, scale = np.array(rows).T
    assert np.corrcoef(true_deep, deep)[0, 1] > 0.95
    assert np.corrcoef(true_cortex, cortex)[0, 1] > 0.95
    np.testing.assert_allclose(scale, 1, atol=1e-6)


def test_storage_order_does_not_matter(brain):
    scan = t1w(brain)
    turned = nib.as_closest_canonical(scan)
    assert nib.aff2axcodes(turned.affine) != nib.aff2axcodes(scan.affine)
    one, other = (
        tissue.grey_volumes(s, mask=foreground_mask(s), registration=at(brain))
        for s in (scan, turned)
    )
    assert other.deep_grey_ml == pytest.approx(one.deep_grey_ml, rel=1e-3)
    assert other.cortex_ml == pytest.approx(one.cortex_ml, rel=1e-3)


def test_a_small_head_is_scaled_to_the_template():
    small = make_brain(3.0, mni_to_world=np.diag([0.93, 0.93, 0.93, 1.0]))
    scan = t1w(small)
    mask = foreground_mask(scan)
    place = register_to_mni(scan, contrast="t1", mask=mask, start=np.eye(4))
    found = tissue.grey_volumes(scan, mask=mask, registration=place)
    assert found.head_scale == pytest.approx(0.93**-3, rel=0.03)
    assert found.cortex_ml * found.head_scale > found.cortex_ml


def test_the_region_holds_the_nuclei_and_no_more():
    region = images.array(deep_grey.region()) > 0
    labels = np.asarray(deep_grey.labels().dataobj)
    known = deep_grey.table()
    cerebral = known.loc[known["region"].isin(deep_grey.CEREBRAL), "label"]
    assert region[np.isin(labels, cerebral)].all()
    assert not region[np.isin(labels, known.loc[known["region"] == "dentate", "label"])].any()


def test_what_cannot_be_told_apart_is_refused():
    flat = images.make(np.full((9, 9, 9), 5, np.float32), np.eye(4))
    every = images.make(np.ones((9, 9, 9), np.uint8), np.eye(4))
    with pytest.raises(InputError, match="does not fall into CSF, grey and white matter"):
        tissue.classify(flat, mask=every)
    with pytest.raises(InputError, match="mask: is empty"):
        tissue.classify(flat, mask=images.make(np.zeros((9, 9, 9), np.uint8), np.eye(4)))
    with pytest.raises(InputError, match="mask"):
        tissue.classify(templates.mni("t1"), mask=every)
