"""What FLAIR and a second contrast of the same head say of lesions and of each object."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to

from pvsbook import InputError, images, pvs
from pvsbook._names import entities_of
from pvsbook.atlas.registration import Registration
from pvsbook.methods import by_name
from pvsbook.phantoms.perivascular import make_phantom
from pvsbook.pvs import _contrasts
from pvsbook.pvs.quality import judge
from pvsbook.visit import BidsFile, Sidecars, Visit

REGISTRATION = Registration(np.eye(4), "t2", "affine", "known", 1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(
        np.random.default_rng(2102),
        voxel_size_mm=1.5,
        contrasts=("T2w", "T1w", "FLAIR"),
        counts={"cso_left": 7, "cso_right": 5, "bg_left": 3, "bg_right": 2},
        diameters_mm=(1.5, 3.0),
        n_wmh=8,
    )


@pytest.fixture(scope="module")
def scan(phantom):
    return phantom.scans["T2w"]


@pytest.fixture(scope="module")
def flair(phantom):
    return phantom.scans["FLAIR"]


def measured(scan, **options):
    return pvs.measure(scan, registration=REGISTRATION, **options)


@pytest.fixture(scope="module")
def alone(scan):
    return measured(scan)


@pytest.fixture(scope="module")
def together(phantom, scan, flair):
    """With both contrasts; the FLAIR's header is 7 mm off, and its slices are thick."""
    thick = nib.affines.from_matvec(np.diag([1.5, 1.5, 3.0]), flair.affine[:3, 3])
    shape = (*flair.shape[:2], flair.shape[2] // 2)
    coarse = resample_from_to(flair, (shape, thick), order=1)
    elsewhere = nib.affines.from_matvec(np.eye(3), [5, -4, 3]) @ thick
    moved = images.make(images.array(coarse), elsewhere)
    return measured(scan, flair=moved, other=phantom.scans["T1w"])


def dice(one, two):
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def test_lesions_are_found_on_a_flair_that_lies_elsewhere(phantom, together):
    box, regions = together.anatomy.box, together.anatomy.regions > 0
    truth = (np.asarray(phantom.wmh.dataobj)[box] > 0) & regions
    assert dice(together.wmh, truth) > 0.5
    row = together.to_row()
    assert row["wmh_from"] == "FLAIR"
    assert (together.wmh & truth).sum() > 0.9 * truth.sum()
    assert row["wmh_ml"] == pytest.approx(together.wmh.sum() * 1.5**3 / 1000)
    assert row["wmh_false_ml"] < 0.2 * row["wmh_ml"]
    assert row["contrast_agreement"] > 0.72


def test_what_is_bright_on_flair_is_a_lesion(phantom, alone, together):
    lesion = np.asarray(phantom.wmh.dataobj)[together.anatomy.box] > 0
    objects, labels = together.objects, together.segmentation.labels
    share = np.array([lesion[labels == k + 1].mean() for k in objects.index])
    assert (objects["class"][share > 0.5] == "wmh_overlap").all()
    assert not (objects["excess_flair"][objects["class"] == "pvs"] > 1.5).any()
    assert together.to_row()["n_pvs"] >= alone.to_row()["n_pvs"] - 1


def test_spaces_look_like_csf_on_every_contrast(together):
    row = together.to_row()
    assert row["n_contrasts"] == 3
    assert row["n_csf_like"] >= 0.8 * row["n_pvs"]


def test_one_contrast_says_nothing_of_others(alone):
    row = alone.to_row()
    assert (row["n_contrasts"], row["wmh_from"]) == (1, "none")
    unknown = ("n_csf_like", "wmh_ml", "wmh_false_ml", "contrast_agreement")
    assert all(np.isnan(row[name]) for name in unknown)
    assert alone.objects["excess_flair"].isna().all()
    assert (alone.objects["excess_t2"][alone.objects["class"] == "pvs"] > 0).all()


def test_what_is_bright_on_flair_is_counted_by_no_rules(together):
    row = together.to_row()
    assert row["n_pvs_strict"] <= row["n_pvs"] <= row["n_pvs_loose"]
    for table in (together.segmentation.strict, together.segmentation.loose):
        counted = table[table["class"] == "pvs"]
        assert not (counted["excess_flair"] > _contrasts.CSF_SD).any()


def test_a_given_mask_wins(phantom, scan, flair, tmp_path):
    found = measured(scan, flair=flair, wmh_mask=phantom.wmh)
    row = found.to_row()
    assert row["wmh_from"] == "mask"
    assert np.isnan(row["wmh_false_ml"])
    inside = (np.asarray(phantom.wmh.dataobj)[found.anatomy.box] > 0) & (found.anatomy.regions > 0)
    assert row["wmh_ml"] == pytest.approx(inside.sum() * 1.5**3 / 1000)
    found.save(tmp_path)
    assert not list(tmp_path.rglob("*desc-wmh_mask.nii.gz"))


def test_lesions_that_were_found_are_written(together, tmp_path):
    together.save(tmp_path)
    mask = nib.load(next(tmp_path.rglob("*desc-wmh_mask.nii.gz")))
    assert mask.shape == together.image.shape
    assert np.count_nonzero(mask.dataobj) == together.wmh.sum()


def test_the_wrong_contrast_is_refused(phantom, scan, alone):
    with pytest.raises(InputError, match=r"flair: .* look as on T1w, where FLAIR is expected"):
        _contrasts.gather(alone.anatomy, "t2", phantom.scans["T1w"], None)
    with pytest.raises(InputError, match=r"other: .* look as on T2w, where T1w is expected"):
        _contrasts.gather(alone.anatomy, "t2", None, scan)


def test_another_head_is_not_used_and_fails(flair, alone):
    backwards = images.make(images.array(flair)[:, ::-1], flair.affine)
    found = _contrasts.gather(alone.anatomy, "t2", backwards, None)
    assert list(found.values) == ["t2"]
    status, reasons = judge(alone.segmentation, alone.anatomy, None, (), found.agreement)
    assert status == "fail"
    assert reasons[0].startswith("flair was not used: its edges agree")
    assert any("not slender" in reason for reason in reasons), "lesions are not known"


@pytest.mark.parametrize(("slices", "is_used"), [((None, None), True), ((0, 50), False)])
def test_a_flair_that_shows_part_of_the_regions_is_told(alone, flair, slices, is_used):
    part = flair.slicer[:, :, slice(*slices)]
    found = _contrasts.gather(alone.anatomy, "t2", part, None)
    assert ("flair" in found.values) == is_used
    told = (found.agreement, found.covered)
    status, reasons = judge(alone.segmentation, alone.anatomy, None, (), *told)
    assert any("flair was not used, as it shows" in text for text in reasons) != is_used
    assert any("not slender" in text for text in reasons) != is_used
    assert (status == "fail") != is_used
    partly = judge(alone.segmentation, alone.anatomy, None, (), {"flair": 0.9}, {"flair": 0.8})
    assert "flair shows 80% of the regions: elsewhere it says nothing" in partly[1]


def test_a_standardised_flair_is_like_the_same_flair(alone, flair):
    values = images.array(flair)
    standard = images.make((values - values.mean()) / values.std(), flair.affine)
    (one, two) = (
        _contrasts.gather(alone.anatomy, "t2", image, None) for image in (flair, standard)
    )
    assert two.agreement["flair"] == pytest.approx(one.agreement["flair"], abs=0.01)
    lesions = [_contrasts.find_lesions(c, alone.anatomy)[0] for c in (one, two)]
    assert dice(*lesions) > 0.99


def test_a_flair_without_a_brain_is_named(alone, flair):
    with pytest.raises(InputError, match=r"flair: .*; or leave it out"):
        _contrasts.gather(alone.anatomy, "t2", flair.slicer[30:40, 30:40, 30:40], None)


def test_a_doubtful_place_is_told(together):
    def judged(agreement):
        place = {"flair": agreement}
        return judge(together.segmentation, together.anatomy, None, (), place)[1]

    assert any("edges of flair agree" in reason for reason in judged(0.7))
    assert not any("edges of flair agree" in reason for reason in judged(0.8))


def test_many_round_objects_are_told_as_lesions(phantom, alone):
    assert alone.to_row()["n_round"] > 3
    assert any("not slender, as lesions are" in reason for reason in alone.reasons)
    lesions = np.asarray(phantom.wmh.dataobj)[alone.anatomy.box] > 0
    for mask, place in ((lesions, None), (None, {"flair": 0.9})):
        reasons = judge(alone.segmentation, alone.anatomy, mask, (), place)[1]
        assert not any("not slender" in reason for reason in reasons)
    few = replace(alone.segmentation, objects=alone.objects[alone.objects["class"] == "pvs"])
    assert not any("not slender" in reason for reason in judge(few, alone.anatomy, None)[1])


def test_an_image_that_shares_no_brain_does_not_agree(alone, flair):
    far = images.make(images.array(flair), nib.affines.from_matvec(np.eye(3), [500, 0, 0]))
    assert _contrasts._moved(far, np.eye(4), alone.anatomy)[1] == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("T2w", "T1w", "FLAIR"), {"flair": "sub-1_FLAIR.nii.gz", "other": "sub-1_T1w.nii.gz"}),
        (("T1w", "FLAIR"), {"flair": "sub-1_FLAIR.nii.gz"}),
        (("T2w", "ce-gd_T1w"), {}),
        (("T2w", "acq-flair_T2w"), {"flair": "sub-1_acq-flair_T2w.nii.gz"}),
    ],
)
def test_other_contrasts_of_a_visit_are_taken(tmp_path, names, expected):
    files = [tmp_path / f"sub-1_{name}.nii.gz" for name in names]
    visit = Visit([BidsFile(f, "anat", entities_of(f.name)) for f in files], Sidecars(tmp_path))
    found = by_name("pvs").find(visit)[0]
    taken = {k: v for k, v in found.parameters.items() if k != "contrast"}
    assert taken == {name: str(tmp_path / file) for name, file in expected.items()}
    assert [n.split()[0] for n in found.notes if "beside" in n] == list(expected.values())
