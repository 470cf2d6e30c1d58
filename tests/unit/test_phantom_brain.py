"""The phantom brain is the same brain on every grid."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvsbook import InputError
from pvsbook.phantoms import brain


@settings(max_examples=8, deadline=None)
@given(
    axcodes=st.sampled_from(["RAS", "LAS", "LPS", "PSR"]),
    angles=st.tuples(*[st.floats(-25, 25) for _ in range(3)]),
    turn_slices=st.booleans(),
)
def test_the_phantom_brain_is_the_same_brain_in_every_grid(axcodes, angles, turn_slices):
    """Tissue volumes and their centre in MNI mm do not depend on storage, pose or slices."""
    upright = brain.make_brain(4.0)
    turn = brain.pose(angles)
    options = {"oblique": turn[:3, :3]} if turn_slices else {"mni_to_world": turn}
    other = brain.make_brain(4.0, axcodes=axcodes, **options)
    for tissue in ("wm", "gm", "csf"):
        a, b = getattr(upright, tissue), getattr(other, tissue)
        assert b.sum() == pytest.approx(a.sum(), rel=0.005)
        centre = [
            (x.mni_coordinates() * getattr(x, tissue)[..., None]).sum((0, 1, 2)) / t.sum()
            for x, t in ((upright, a), (other, b))
        ]
        np.testing.assert_allclose(centre[0], centre[1], atol=0.2)
    assert "".join(nib.aff2axcodes(other.affine)) == axcodes


def test_a_slab_and_bad_grids():
    slab = brain.make_brain(2.0, z_range_mni_mm=(0, 40), margin_mm=0)
    assert slab.shape[2] == 20
    np.testing.assert_allclose(slab.voxel_size_mm, 2)
    assert slab.image(slab.wm).shape == slab.shape
    with pytest.raises(InputError, match="voxel_size_mm"):
        brain.make_brain(0.1)
    for wrong in ("RAX", "RRS", "RA"):
        with pytest.raises(InputError, match="axcodes"):
            brain.make_brain(4.0, axcodes=wrong)
