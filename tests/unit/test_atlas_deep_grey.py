"""The schematic nuclei lie where anatomy says, and look the same on every grid."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pvsbook import InputError, images
from pvsbook.atlas import deep_grey, templates

# Volumes of one side in adults, cm3: wide ranges, since ours are schematic.
VOLUME_CM3 = {
    "caudate": (2.5, 4.5),
    "putamen": (3.5, 6.0),
    "pallidum": (1.0, 2.2),
    "thalamus": (4.0, 7.5),
    "pulvinar": (0.8, 2.0),
    "red nucleus": (0.15, 0.45),
    "substantia nigra": (0.2, 0.7),
    "dentate": (0.5, 1.5),
}


@pytest.fixture(scope="module")
def atlas():
    return np.asarray(deep_grey.labels().dataobj)


def centre_mm(atlas, label):
    return np.argwhere(atlas == label).mean(axis=0) + deep_grey.labels().affine[:3, 3]


def test_volumes_sides_and_symmetry(atlas):
    for label, region, side in deep_grey.table().itertuples(index=False):
        low, high = VOLUME_CM3[region]
        assert low < (atlas == label).sum() / 1000 < high, region
        assert (centre_mm(atlas, label)[0] < 0) == (side == "left")
    left, right = atlas[:98][::-1], atlas[99:]
    pair = np.where(left > 0, (left - 1) // 2 + 1, 0)
    other = np.where(right > 0, (right - 1) // 2 + 1, 0)
    assert (pair != other).mean() < 1e-3


def test_nuclei_lie_in_tissue_not_in_fluid_and_where_they_belong(atlas):
    csf = images.array(templates.mni("csf"))
    for label in deep_grey.table()["label"]:
        assert csf[atlas == label].mean() < 0.05
    at = {
        region: centre_mm(atlas, label)
        for label, region, side in deep_grey.table().itertuples(index=False)
        if side == "right"
    }
    assert at["caudate"][0] < at["pallidum"][0] < at["putamen"][0]  # medial to lateral
    assert at["pulvinar"][1] < at["thalamus"][1] < at["pallidum"][1] < at["caudate"][1]
    assert at["dentate"][2] < at["substantia nigra"][2] < at["red nucleus"][2] < at["thalamus"][2]


def test_nuclei_do_not_overlap():
    mni = templates.mni("t1")
    count = np.zeros(mni.shape, np.uint8)
    for box, level in deep_grey.distances_on_grid(mni.shape, mni.affine).values():
        count[box] += level < 0
    assert count.max() == 1


def test_level_is_the_same_on_any_grid_and_measures_distance():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (20, -10, 5), degrees=True).as_matrix() * 1.5
    affine[:3, 3] = -50, -60, -30
    grid = deep_grey.distances_on_grid((70, 70, 50), affine)
    box, level = grid[6]  # right pallidum
    index = np.moveaxis(np.mgrid[box], 0, -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    assert np.allclose(level, deep_grey.distance_mm(points, "pallidum", "right"), atol=1e-3)
    inside = points[level < 0]
    assert np.allclose(
        deep_grey.distance_mm(inside * [-1, 1, 1], "pallidum", "left"),
        level[level < 0],
        atol=1e-3,
    )
    # the red nucleus is a plain chain of balls: its level is the distance to the surface
    tip = np.array([4.8, -19.0, -10.0])
    assert deep_grey.distance_mm(tip, "red nucleus", "right") == pytest.approx(-3.3, abs=0.15)


def test_grids_that_miss_the_nuclei_give_nothing_and_bad_names_are_refused():
    far = np.eye(4)
    far[0, 3] = 500
    assert deep_grey.distances_on_grid((5, 5, 5), far) == {}
    with pytest.raises(InputError, match="region 'claustrum'"):
        deep_grey.distance_mm((0, 0, 0), "claustrum", "left")
    with pytest.raises(InputError, match="side 'middle'"):
        deep_grey.distance_mm((0, 0, 0), "caudate", "middle")


def test_tian_lies_over_our_nuclei_and_left_mirrors_right(public_file, atlas):
    for name in ("Tian_Subcortex_S1_3T_2009cAsym.nii.gz", "Tian_Subcortex_S1_3T_label.txt"):
        public_file("atlas_tian", name)
    image, table = deep_grey.tian()
    values = np.asarray(image.dataobj).astype(int)
    assert sorted(table["label"]) == sorted(set(np.unique(values)) - {0})
    centre = {
        (region, side): nib.affines.apply_affine(image.affine, np.argwhere(values == k)).mean(0)
        for k, region, side in table.itertuples(index=False)
    }
    ours = deep_grey.table().set_index(["region", "side"])["label"]
    for region in ("caudate", "putamen", "pallidum"):
        left, right = (centre[region, s] for s in ("left", "right"))
        assert left[0] < 0 < right[0]
        assert abs(left[0] + right[0]) / 2 < 0.7
        for side in ("left", "right"):
            apart = centre[region, side] - centre_mm(atlas, ours[region, side])
            assert np.linalg.norm(apart) < 3.5


def test_tian_asked_for_and_absent_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path))
    monkeypatch.setenv("PVSBOOK_OFFLINE", "1")
    monkeypatch.delenv("PVSBOOK_MIRROR", raising=False)
    with pytest.raises(InputError, match="not in the cache"):
        deep_grey.tian()
