"""Regions, brain and levels of a scan."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import edt
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pvsbook import InputError, images
from pvsbook.atlas import registration
from pvsbook.atlas.registration import Registration
from pvsbook.phantoms.brain import make_brain
from pvsbook.pvs.anatomy import LARGEST_BRAIN_ML, brain_mask, foreground_mask, locate_regions


def known_registration(contrast):
    """Where the phantom lies if nothing moved it."""
    return Registration(np.eye(4), contrast, "affine", "known", 1.0, 1.0, 1.0, 1.0)


@pytest.mark.accuracy
def test_nonlinear_registration_follows_bent_anatomy(monkeypatch):
    with pytest.raises(InputError, match="choose 'affine'"):
        locate_regions(make_brain(4.0).image(make_brain(4.0).brain), registration="bspline")
    where = known_registration("t1")  # what an affine transform cannot follow is left
    monkeypatch.setattr(registration, "register_to_mni", lambda *args, **kwargs: where)
    brain = make_brain(2.0)
    scan = images.array(brain.image(100 * brain.wm + 70 * brain.gm + 30 * brain.csf))
    grid = np.indices(brain.shape).astype(float)
    x, _, z = (2 * np.pi * grid[k] / brain.shape[k] for k in range(3))
    grid[1] += 3 * np.sin(x) * np.sin(z)  # voxels of 2 mm: 6 mm either way
    bent = brain.image(ndimage.map_coordinates(scan, grid, order=1))
    straight = locate_regions(brain.image(scan), contrast="t1", registration=where)
    truth = ndimage.map_coordinates(whole(straight.regions, straight), grid, order=0)
    overlap = {}
    for model in ("affine", "syn"):
        found = locate_regions(bent, contrast="t1", registration=model)
        regions = whole(found.regions, found)
        both = ((regions > 0) & (regions == truth)).sum()
        overlap[model] = 2 * both / ((regions > 0).sum() + (truth > 0).sum())
    assert found.registration.warp is not None
    assert overlap["syn"] > overlap["affine"] + 0.03


def whole(part, found):
    """Array of the box on the grid of the scan."""
    out = np.zeros(make_brain(2.0).shape, part.dtype)
    out[found.box] = part
    return out


def whole_head(brain, contrast):
    """Signal of a brain on a grid of 2 mm, with a skull, scalp, and a bridge to it."""
    levels = {"t2": (100, 130, 300), "t1": (200, 140, 40)}[contrast]
    parts = (brain.wm, brain.gm, brain.csf)
    values = sum(level * part for level, part in zip(levels, parts, strict=True))
    away = edt.edt(brain.brain < 0.5, anisotropy=(2.0, 2.0, 2.0))
    values[(away >= 8) & (away < 24)] = 500  # scalp and muscle; the skull below is dark
    x, y, z = (n // 2 for n in brain.shape)
    values[x - 1 : x + 2, y:, z - 1 : z + 2][away[x - 1 : x + 2, y:, z - 1 : z + 2] < 9] = 250
    values = np.abs(values + np.random.default_rng(0).normal(5, 3, brain.shape))
    return values


def test_a_network_cuts_the_brain_out_where_it_is_asked_for(monkeypatch):
    brain = make_brain(2.0, margin_mm=30)
    image = brain.image(whole_head(brain, "t2"))
    found = brain.brain > 0.5
    monkeypatch.setitem(sys.modules, "deepbet", None)
    with pytest.raises(InputError, match=r"run: pip install 'pvsbook\[strip\]'"):
        brain_mask(image, "deepbet")

    class BrainExtraction:
        def __init__(self, no_gpu):
            assert no_gpu

        def run(self, scan):
            return scan, images.make(found.astype(np.uint8), scan.affine), 0.0

    monkeypatch.setitem(sys.modules, "deepbet", SimpleNamespace(BrainExtraction=BrainExtraction))
    mask, is_head = brain_mask(image, "deepbet")
    assert is_head
    assert np.array_equal(np.asarray(mask.dataobj) > 0, found)
    found = np.zeros_like(found)
    with pytest.raises(InputError, match="deepbet finds no brain"):
        brain_mask(image, "deepbet")
    with pytest.raises(InputError, match="choose 'opening' or 'deepbet'"):
        brain_mask(image, "bet")


@pytest.mark.parametrize("contrast", ["t2", "t1"])
def test_a_brain_is_cut_out_of_a_whole_head(monkeypatch, contrast):
    where = known_registration(contrast)
    monkeypatch.setattr(registration, "register_to_mni", lambda *args, **named: where)
    brain = make_brain(2.0, margin_mm=30)
    values = whole_head(brain, contrast)
    found = locate_regions(brain.image(values), contrast=contrast)
    assert found.stripped_by
    inside = (brain.brain > 0.5)[found.box]
    assert 2 * (found.brain & inside).sum() / (found.brain.sum() + inside.sum()) > 0.93
    again = locate_regions(brain.image(values), contrast=contrast, registration=where)
    assert np.array_equal(again.brain, found.brain)
    # of a small person, head and scalp hold no more than a large brain may
    small = images.make(values, np.diag([0.75, 0.75, 0.75, 1]) @ brain.affine)
    assert np.count_nonzero(foreground_mask(small).dataobj) * 1.5**3 / 1000 < LARGEST_BRAIN_ML
    there = replace(where, native_to_mni=np.diag([4 / 3, 4 / 3, 4 / 3, 1]))
    assert locate_regions(small, contrast=contrast, registration=there).stripped_by


def test_a_head_that_does_not_come_apart_is_kept_whole():
    ball = np.linalg.norm(np.indices((90, 90, 90)) - 45, axis=0) < 42
    affine = nib.affines.from_matvec(2.5 * np.eye(3), [-112.5] * 3)
    head = images.make(np.where(ball, 100.0, 1), affine)
    found = locate_regions(head, registration=known_registration("t2"))
    assert not found.stripped_by
    assert found.mask_ml > LARGEST_BRAIN_ML  # which warns
    assert np.array_equal(found.brain, ball[found.box])


def test_a_whole_head_is_told_from_air():
    head = np.random.default_rng(0).normal(10, 3, (40, 40, 40))
    head[8:32, 8:32, 8:32] += 100
    mask = np.asarray(foreground_mask(images.make(np.abs(head), np.diag([2, 2, 2, 1]))).dataobj)
    assert mask[10:30, 10:30, 10:30].all()
    assert not mask[:6].any()
