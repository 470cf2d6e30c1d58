"""A folded brain: what the average brain cannot show."""

import edt
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pvsbook.phantoms import _folds
from pvsbook.phantoms._shapes import onto_spaces
from pvsbook.phantoms.brain import Grid, brain_grid, make_brain, pose
from pvsbook.phantoms.perivascular import make_phantom

OPTIONS = {"voxel_size_mm": 2.4, "n_wmh": 4, "snr": 1000, "contrasts": ("T2w", "T1w")}
COUNTS = {"cso_left": 3, "bg_right": 2}


@pytest.fixture(scope="module")
def folded():
    return make_phantom(np.random.default_rng(8), folded=True, counts=COUNTS, **OPTIONS)


@pytest.fixture(scope="module")
def person():
    return _folds.draw_person(np.random.default_rng(8))


def depth_of_sulci_mm(brain):
    """How far below the hull (the brain closed over 12 mm) half of the outer fluid lies."""
    fluid = (brain.csf - brain.ventricles > 0.3) & (brain.brain > 0.5)
    outside = edt.edt(brain.brain > 0.5, anisotropy=tuple(brain.voxel_size_mm))
    above = (np.arange(brain.shape[2]) * 2.4 + brain.affine[2, 3] > 20)[None, None]
    return np.quantile(outside[fluid & above], 0.75)


def test_sulci_reach_the_white_matter(folded):
    """Outer fluid lies deeper than in the average brain, and near the centrum semiovale."""
    brain, average = folded.brain, make_brain(2.4)
    assert depth_of_sulci_mm(brain) > depth_of_sulci_mm(average) + 3
    near = []
    for one in (brain, average):
        white = (one.wm > 0.8) & (one.mni_coordinates()[..., 2] > 22)
        near.append(np.median(2.4 * edt.edt(one.csf - one.ventricles < 0.3)[white]))
    assert near[0] < near[1] - 2
    assert near[0] < 7


def test_fractions_fill_the_brain(folded):
    brain = folded.brain
    np.testing.assert_allclose(brain.wm + brain.gm + brain.csf, brain.brain, atol=1e-5)
    for share in (brain.wm, brain.gm, brain.csf, brain.ventricles, *brain.nuclei.values()):
        assert share.min() >= 0
        assert share.max() <= 1 + 1e-6
    assert (sum(brain.nuclei.values()) <= brain.gm + 1e-6).all()
    assert (brain.ventricles <= brain.csf + 1e-6).all()
    edge = np.ones(brain.shape, bool)
    edge[1:-1, 1:-1, :-1] = False  # the brainstem goes on below
    assert not brain.brain[edge].any()


def test_cortex_lies_between_fluid_and_white_matter(folded):
    """Next to a sulcus in the upper brain, grey matter comes first, for 1 to 4 mm."""
    brain = folded.brain
    fluid = brain.csf - brain.ventricles > 0.5
    above = brain.mni_coordinates()[..., 2] > 22
    away = 2.4 * edt.edt(~fluid)
    rim = above & (away < 2.5) & ~fluid & (brain.brain > 0.9)
    assert brain.gm[rim].mean() > 2 * brain.wm[rim].mean()
    inner = above & (away > 6) & (brain.brain > 0.9) & (brain.ventricles < 0.01)
    assert brain.wm[inner].mean() > 0.7


def test_nuclei_have_their_own_signals(folded):
    t2, t1 = (np.asarray(folded.scans[k].dataobj) for k in ("T2w", "T1w"))
    free = folded.fraction + folded.lesions["wmh"] == 0
    for name, on_t2, on_t1 in (("pallidum", 75, 95), ("putamen", 105, 83), ("thalamus", 105, 90)):
        inside = (folded.brain.nuclei[name] > 0.98) & free
        assert inside.sum() >= 5
        assert t2[inside].mean() == pytest.approx(on_t2, abs=1.5)
        assert t1[inside].mean() == pytest.approx(on_t1, abs=1.5)


def test_spaces_lie_in_tissue_and_lesions_lie_on_them(folded):
    tissue = folded.brain.wm + sum(folded.brain.nuclei.values())
    inside = folded.fraction > 0.3
    assert inside.sum() > 10
    assert tissue[inside].mean() > 0.9
    grown = ndimage.binary_dilation(folded.fraction > 0)
    labels, n = ndimage.label(folded.lesions["wmh"] > 0)
    assert n >= 2
    assert 1 <= len(np.unique(labels[grown & (labels > 0)])) < n
    spaces, lesions = list(folded.spaces), folded.lesions
    assert onto_spaces(np.random.default_rng(0), [], spaces) == []
    assert (folded.fraction * lesions["wmh"]).max() > 0


def test_one_seed_is_one_person_and_another_is_another(folded, person):
    brain = folded.brain
    slab = Grid(
        (*brain.shape[:2], 2),
        brain.affine @ nib.affines.from_matvec(np.eye(3), (0, 0, 40)),
        np.eye(4),
    )
    again = _folds.draw_brain(person, slab)
    np.testing.assert_allclose(again.gm, brain.gm[:, :, 40:42], atol=1e-3)
    other = _folds.draw_person(np.random.default_rng(9))
    for name, level in person.levels.items():
        assert np.abs(level - other.levels[name]).max() > 0.3


def test_a_turned_head_is_the_same_head(person):
    turned = brain_grid(4.0, mni_to_world=pose((10, 5, -20)), axcodes="LPI", margin_mm=10)
    upright = brain_grid(4.0, margin_mm=10)
    volumes = [
        [getattr(made, kind).sum() for kind in ("wm", "gm", "csf")]
        for made in (_folds.draw_brain(person, grid, 1.4) for grid in (turned, upright))
    ]
    np.testing.assert_allclose(*volumes, rtol=0.03)


def test_a_thin_sulcus_keeps_its_volume(person):
    """Partial volume: coarse voxels hold as much fluid as fine ones."""
    slab = {"z_range_mni_mm": (34, 40), "margin_mm": 0}
    coarse, fine = (_folds.draw_brain(person, brain_grid(size, **slab)) for size in (2.0, 1.0))
    assert coarse.csf.sum() * 8 == pytest.approx(fine.csf.sum(), rel=0.03)


def test_the_average_brain_stays_as_it_is():
    plain = make_phantom(np.random.default_rng(8), voxel_size_mm=4.0, counts=COUNTS)
    assert not plain.brain.nuclei
