import numpy as np
import pytest
from scipy import ndimage

from pvsbook.atlas import perivascular, templates


@pytest.fixture(scope="module")
def labels():
    return np.asarray(perivascular.regions().dataobj)


def test_every_region_is_there_and_on_its_side(labels):
    affine = perivascular.regions().affine
    for label, name in perivascular.REGIONS.items():
        x, _, z = (np.argwhere(labels == label) + affine[:3, 3]).T[[0, 1, 2]]
        assert x.size > 1000
        assert (x <= 0).all() if name.endswith("left") else (x > 0).all()
        if name.startswith("cso"):
            assert z.min() >= 22


@pytest.mark.parametrize("left", [1, 3, 5])
def test_left_and_right_mirror_each_other(labels, left):
    # The template is symmetric; x = 0 itself belongs to the left.
    mirrored = labels[::-1]
    off_middle = np.ones(labels.shape, bool)
    off_middle[98] = False
    same = ((labels == left) == (mirrored == left + 1)) | ~off_middle
    assert same.mean() > 0.9999


def test_regions_hold_no_fluid(labels):
    ventricles = np.asarray(templates.mni("ventricles").dataobj)
    csf = np.asarray(templates.mni("csf").dataobj)
    assert ventricles[labels > 0].max() < 0.5
    assert csf[labels >= 3].max() < 0.25


def test_a_basal_ganglia_region_is_one_piece(labels):
    assert ndimage.label(labels == 3)[1] == 1
