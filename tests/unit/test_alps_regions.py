"""Regions of the ALPS index: spheres, drawings by hand, the search, and probability maps."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pvsbook import InputError, alps, images
from pvsbook.alps import probability, regions
from pvsbook.atlas.registration import Registration
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import make_diffusion

HERE = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


@pytest.fixture(scope="module")
def scan():
    brain = make_brain(2.5, z_range_mni_mm=(2, 50), axcodes="LPS")
    return make_diffusion(brain, rng=np.random.default_rng(2), snr=30)


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 180), st.floats(0.8, 2.5), st.floats(2, 6))
def test_weights_add_up_to_the_sphere(angle, size, radius):
    turn = Rotation.from_euler("xz", (angle, 30), degrees=True).as_matrix() * size
    affine = nib.affines.from_matvec(turn, -turn @ np.full(3, 12.3))
    found = regions.sphere_voxels((0, 0, 0), radius, affine, np.ones((25, 25, 25), bool))
    volume = found.weight.sum() * abs(np.linalg.det(turn))
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    assert found.inside == 1
    centre = nib.affines.apply_affine(affine, found.mean(found.index))
    np.testing.assert_allclose(centre, 0, atol=0.05 * size)


def test_region_cut_by_the_mask_says_so():
    allowed = np.ones((11, 11, 11), bool)
    allowed[6:] = False
    found = regions.sphere_voxels((5.5, 5, 5), 2.5, np.eye(4), allowed)
    assert found.inside == pytest.approx(0.5, abs=0.01)
    nothing = regions.sphere_voxels((50, 50, 50), 2.5, np.eye(4), allowed)
    assert nothing.inside == 0
    assert len(nothing.index) == 0


def test_81_voxels_at_1_mm():
    grid = np.ones((61, 61, 61), bool)
    found = regions.sphere_voxels((30, 30, 30), 2.5, np.eye(4), grid)
    centres_inside = ((found.index - 30) ** 2).sum(axis=1) <= 2.5**2
    assert centres_inside.sum() == 81  # as in the published masks of the same radius
    assert (found.weight[centres_inside] > 0.4).all()


def test_region_sets_are_checked():
    with pytest.raises(InputError, match="one centre for each"):
        regions.RoiSet({"left": (0, 0, 0)}, 2.5)
    with pytest.raises(InputError, match="radius_mm is 0"):
        regions.RoiSet(regions.SPHERES_2_5_MM.centres_mm, 0)


def test_regions_by_hand_give_what_spheres_give(scan):
    spheres = alps.measure(scan.dwi, mask=scan.mask, registration=HERE, n_bootstrap=20)
    drawn = alps.measure(
        scan.dwi, mask=scan.mask, registration=HERE, rois=spheres.labels, n_bootstrap=20
    )
    assert drawn.rois[0].n_voxels == (np.asarray(spheres.labels.dataobj) == 1).sum()
    assert drawn.to_row()["alps_tract_mean"] == pytest.approx(
        spheres.to_row()["alps_tract_mean"], abs=0.1
    )
    assert np.isnan(drawn.variants["radius_2_5_mm"])
    assert np.isnan(drawn.indices["tract"]["mean"].placement_sd), "a drawing stays where it is"


def test_coordinates_in_the_scanner():
    to_world = pose((10, 5, -8), (4, 9, -30))
    brain = make_brain(2.5, mni_to_world=to_world, z_range_mni_mm=(10, 44))
    rng = np.random.default_rng(6)
    found = make_diffusion(brain, rng=rng, snr=30)
    centres = {
        n: tuple((to_world @ [*c, 1])[:3]) for n, c in regions.SPHERES_2_5_MM.centres_mm.items()
    }
    by_hand = regions.RoiSet(centres, 2.5, space="scanner")
    known = Registration(np.linalg.inv(to_world), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    one = alps.measure(
        found.dwi, mask=found.mask, registration=known, rois=alps.SPHERES_2_5_MM, n_bootstrap=10
    )
    other = alps.measure(
        found.dwi, mask=found.mask, registration=known, rois=by_hand, n_bootstrap=10
    )
    for a, b in zip(one.rois, other.rois, strict=True):
        np.testing.assert_allclose(a.d_mm2_s, b.d_mm2_s, rtol=1e-6)


def test_search_finds_the_tract_again(scan):
    """A registration that is 3 mm off to the side puts association regions at a tract's edge."""
    off = np.eye(4)
    off[0, 3] = -2.0
    wrong = Registration(off, "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    rois = regions.RoiSet(
        {n: (c[0] * 1.12, c[1], c[2]) for n, c in regions.SPHERES_2_5_MM.centres_mm.items()}, 2.5
    )
    still = alps.measure(scan.dwi, mask=scan.mask, registration=wrong, rois=rois, n_bootstrap=10)
    moved = alps.measure(
        scan.dwi, mask=scan.mask, registration=wrong, rois=rois, search_mm=3, n_bootstrap=10
    )
    assert all(r.displacement_mm == 0 for r in still.rois)
    assert max(r.displacement_mm for r in moved.rois) > 1
    assert max(r.displacement_mm for r in moved.rois) <= 3
    for a, b in zip(moved.rois, still.rois, strict=True):
        assert a.fa >= b.fa - 0.02


def test_nonlinear_registration_moves_the_regions(scan):
    result = alps.measure(scan.dwi, mask=scan.mask, registration="syn", n_bootstrap=10)
    assert result.registration.warp is not None
    assert result.registration.correlation > 0.6
    assert result.indices["tract"]["mean"].value == pytest.approx(scan.index, abs=0.08)


def test_regions_refuse(scan):
    dwi, mask = scan.dwi, scan.mask
    labels = images.make(np.zeros(dwi.image.shape[:3], np.uint8), dwi.image.affine)
    with pytest.raises(InputError, match="no voxel has label 1"):
        alps.measure(dwi, mask=mask, registration=HERE, rois=labels)
    small = images.make(np.ones((3, 3, 3), np.uint8), np.eye(4))
    with pytest.raises(InputError, match="rois: its grid"):
        alps.measure(dwi, mask=mask, registration=HERE, rois=small)
    with pytest.raises(InputError, match="search_mm is 8"):
        alps.measure(dwi, mask=mask, registration=HERE, search_mm=8)
    with pytest.raises(InputError, match="registration: 'bspline'; choose 'affine' or 'syn'"):
        alps.measure(dwi, mask=mask, registration="bspline")
    with pytest.raises(InputError, match="stay where they are"):
        alps.measure(dwi, mask=mask, registration=HERE, rois=labels, search_mm=1)
    with pytest.raises(InputError, match="space is 'native'"):
        regions.RoiSet(regions.SPHERES_2_5_MM.centres_mm, 2.5, space="native")


def test_probability_maps_find_the_common_core(scan):
    rng = np.random.default_rng(9)
    grid = scan.dwi.image
    drawn = []
    for _ in range(8):
        labels = np.zeros(grid.shape[:3], np.uint8)
        for k, centre in enumerate(regions.SPHERES_2_5_MM.centres_mm.values(), 1):
            found = regions.sphere_voxels(
                np.add(centre, rng.normal(0, 1, 3)), 4, grid.affine, labels == 0
            )
            labels[tuple(found.index[found.weight > 0.5].T)] = k
        drawn.append((images.make(labels, grid.affine), HERE))
    maps = probability.probability_maps(drawn)
    core = probability.threshold_maps(maps, at_least=0.25)
    labels = HERE.to_native(core, grid)
    for k, centre in enumerate(regions.SPHERES_2_5_MM.centres_mm.values(), 1):
        where = np.argwhere(np.asarray(labels.dataobj) == k)
        middle = (grid.affine @ [*where.mean(axis=0), 1])[:3]
        np.testing.assert_allclose(middle, centre, atol=1.5)
    result = alps.measure(scan.dwi, mask=scan.mask, registration=HERE, rois=labels, n_bootstrap=20)
    assert result.indices["tract"]["mean"].value == pytest.approx(scan.index, abs=0.06)
    with pytest.raises(InputError, match="reaches only"):
        probability.threshold_maps(maps, at_least=1.5)
    with pytest.raises(InputError, match="is empty"):
        probability.probability_maps([])
    nothing = images.make(np.zeros(grid.shape[:3], np.uint8), grid.affine)
    with pytest.raises(InputError, match="drawing 1 has no label 1"):
        probability.probability_maps([(nothing, HERE)])
