"""Registration to MNI: known poses, storage orders, slabs, and what must be refused."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import InputError, images
from pvsbook.atlas.registration import Registration, refine_nonlinear, register_to_mni
from pvsbook.phantoms.brain import make_brain, pose

POINTS_MM = np.array([[26, -16, 27], [-26, -16, 27], [38, -16, 27], [-38, -16, 27]], float)


def scan(brain, contrast, seed=0):
    """Noisy image of a brain, weighted by tissue as no template is."""
    weights = {"t1": (0.9, 0.55, 0.2), "t2": (0.35, 0.5, 1.0), "fa": (0.55, 0.1, 0.08)}[contrast]
    data = weights[0] * brain.wm + weights[1] * brain.gm + weights[2] * brain.csf
    noise = np.random.default_rng(seed).normal(0, 0.04, data.shape)
    return brain.image(np.clip(data + noise, 1e-3, None) * (brain.brain > 0.5))


@pytest.fixture(scope="module")
def found_fa(head):
    return register_to_mni(scan(head, "fa"), contrast="fa")


def error_mm(found, mni_to_world):
    there = apply_affine(mni_to_world, POINTS_MM)
    return np.linalg.norm(found.points_to_native(POINTS_MM) - there, axis=1).max()


@pytest.fixture(scope="module")
def head():
    to_world = pose((20, -10, 15), (12, -20, 35)) @ np.diag([0.92, 0.9, 0.88, 1])
    return make_brain(3.0, mni_to_world=to_world, axcodes="LAS")


@pytest.mark.parametrize("contrast", ["t2", "fa"])
def test_finds_a_turned_small_head(head, found_fa, contrast):
    found = found_fa if contrast == "fa" else register_to_mni(scan(head, "t2"), contrast="t2")
    assert error_mm(found, head.mni_to_world) < 1.5
    assert found.model == "affine"
    assert found.correlation > 0.6
    assert found.overlap > 0.9
    assert found.coverage == pytest.approx(1, abs=0.08)
    np.testing.assert_allclose(found.scales, [1 / 0.92, 1 / 0.9, 1 / 0.88], rtol=0.03)


def test_angles_are_those_of_the_pose():
    brain = make_brain(3.0, mni_to_world=pose((18, -7, 11)))
    found = register_to_mni(scan(brain, "t1"))
    np.testing.assert_allclose(found.angles_deg, (18, -7, 11), atol=1)
    np.testing.assert_allclose(found.rotation, pose((18, -7, 11))[:3, :3].T, atol=0.02)


def test_slab_of_64_mm_does_not_run_away():
    brain = make_brain(2.5, mni_to_world=pose((2, 3, -5), (0, 5, 60)), z_range_mni_mm=(-2, 62))
    found = register_to_mni(scan(brain, "fa"), contrast="fa")
    assert found.model == "scaling"
    assert error_mm(found, brain.mni_to_world) < 1.5
    assert found.coverage == pytest.approx(0.75, abs=0.05)


def test_storage_order_changes_nothing(head, found_fa):
    flipped = scan(head, "fa").as_reoriented(nib.orientations.axcodes2ornt("IRP"))
    found = register_to_mni(flipped, contrast="fa").native_to_mni
    np.testing.assert_allclose(found, found_fa.native_to_mni, atol=1e-6)


def test_header_that_turns_the_head_leaves_it_where_it_is(head, found_fa):
    image = scan(head, "fa")
    points = found_fa.points_to_native(POINTS_MM)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (-25, 20, 25), degrees=True).as_matrix()
    turned = images.make(images.array(image), turn @ image.affine)
    found = register_to_mni(turned, contrast="fa").points_to_native(POINTS_MM)
    np.testing.assert_allclose(found, apply_affine(turn, points), atol=0.3)


def test_nonlinear_refinement_follows_a_bent_brain():
    """Tissue is pushed 4 mm to the front around one site; the affine cannot follow, SyN does."""
    brain = make_brain(3.0)
    mm = brain.mni_coordinates().astype(np.float64)
    site = np.array([30.0, -16, 27])
    push = 4 * np.exp(-((mm - site) ** 2).sum(axis=-1) / (2 * 18**2))
    source = mm - push[..., None] * [0, 1, 0]
    voxel = np.moveaxis(apply_affine(np.linalg.inv(brain.affine), source), -1, 0)
    straight = images.array(scan(brain, "fa"))
    bent = brain.image(ndimage.map_coordinates(straight, voxel, order=1))
    affine = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    warped = refine_nonlinear(affine, bent)
    assert warped.correlation == affine.correlation, "else one that is upside down would pass"
    there = site + np.array([0, 4, 0])
    assert np.linalg.norm(affine.points_to_native(site) - there) == pytest.approx(4)
    assert np.linalg.norm(warped.points_to_native(site) - there) < 2
    far = np.array([-30.0, -60, 20])
    assert np.linalg.norm(warped.points_to_native(far) - far) < 1


def test_mask_removes_the_scalp(head, capfd):
    bare = scan(head, "t1")
    outside = head.brain < 0.5
    scalp = np.where(
        outside, np.random.default_rng(1).uniform(0, 1.5, outside.shape), bare.dataobj
    )
    mask = head.image((~outside).astype(np.uint8))
    found = register_to_mni(head.image(scalp), mask=mask)
    assert error_mm(found, head.mni_to_world) < 1.5
    assert capfd.readouterr() == ("", "")


def test_labels_reach_the_scan(head, found_fa):
    label = np.zeros((60, 60, 60), np.uint8)
    label[25:35, 25:35, 25:35] = 3
    mni_image = images.make(label, nib.affines.from_matvec(np.eye(3), (-50, -45, 0)))
    native = found_fa.to_native(mni_image, head.image(head.wm))
    values = np.asarray(native.dataobj)
    assert set(np.unique(values)) == {0, 3}
    centre = apply_affine(native.affine, np.argwhere(values == 3).mean(axis=0))
    in_mni = apply_affine(found_fa.native_to_mni, centre)
    np.testing.assert_allclose(in_mni, (-20.5, -15.5, 29.5), atol=0.7)


def test_bad_input(head):
    image = scan(head, "t1")
    with pytest.raises(InputError, match="contrast is 'pd'"):
        register_to_mni(image, contrast="pd")
    with pytest.raises(InputError, match="mask"):
        register_to_mni(image, mask=images.make(np.ones((4, 4, 4)), np.eye(4)))
    empty = images.make(np.zeros(image.shape, np.uint8), image.affine)
    with pytest.raises(InputError, match="0 ml"):
        register_to_mni(image, mask=empty)
