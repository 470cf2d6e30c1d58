"""What `pvs.measure` refuses, warns of, and writes."""

from dataclasses import replace

import edt
import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.special import ndtr

from pvsbook import InputError, images, pvs
from pvsbook.atlas.registration import Registration
from pvsbook.figures.pvs import plot_objects, summary
from pvsbook.phantoms.perivascular import make_phantom
from pvsbook.pvs.anatomy import locate_regions, measure_levels
from pvsbook.pvs.quality import judge
from pvsbook.pvs.segmentation import _levels_inside, _lowest_pure, default_scales

mpl.use("Agg")

REGISTRATION = Registration(np.eye(4), "t2", "affine", "known", 1.0, 1.0, 1.0, 1.0)
LESIONS_KNOWN = ((), {"flair": 1.0})  # else the lesions of the phantom are a warning of their own


@pytest.fixture(scope="module")
def phantom():
    """A coarse head with wide PVS, in MNI space: two CPU seconds for it and its result."""
    return make_phantom(
        np.random.default_rng(2101),
        voxel_size_mm=1.5,
        contrasts=("T2w", "T1w"),
        counts={"cso_left": 7, "cso_right": 5, "bg_left": 3, "bg_right": 2},
        diameters_mm=(1.5, 3.0),
        n_wmh=6,
    )


@pytest.fixture(scope="module")
def scan(phantom):
    return phantom.scans["T2w"]


@pytest.fixture(scope="module")
def result(scan):
    return measured(scan)


def measured(scan, **options):
    return pvs.measure(scan, registration=REGISTRATION, **options)


def spoilt(image, change):
    data = images.array(image).copy()
    change(data)
    return images.make(data, image.affine)


def test_the_unit_of_intensity_does_not_matter(scan, result):
    again = measured(images.make(1000 * images.array(scan), scan.affine))
    assert again.objects["class"].tolist() == result.objects["class"].tolist()
    assert again.to_row()["volume_mm3"] == pytest.approx(result.to_row()["volume_mm3"], rel=1e-3)


@pytest.mark.parametrize(("named", "given"), [("t2", "T1w"), ("t1", "T2w")])
def test_inverted_contrast_is_said(phantom, named, given):
    with pytest.raises(InputError, match="use contrast="):
        measured(phantom.scans[given], contrast=named)


def test_a_scan_that_lies_elsewhere_is_not_called_another_contrast(phantom):
    """Fluid is looked for where the registration puts it; the true cause comes first."""
    elsewhere = replace(REGISTRATION, correlation=0.1)
    with pytest.raises(InputError, match=r"correlates with the template by 0\.10"):
        pvs.measure(phantom.scans["T2w"], contrast="t1", registration=elsewhere)


def test_a_head_that_lies_across_its_header_is_told(scan):
    """The registration turns it back, but may mirror it: the sides of the counts are in doubt."""
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    there = replace(REGISTRATION, native_to_mni=np.linalg.inv(turned))
    found = pvs.measure(images.make(images.array(scan), turned @ scan.affine), registration=there)
    assert any("the head lies 90 degrees from where the header says" in r for r in found.reasons)
    assert not any("the header says" in r for r in measured(scan).reasons)


def test_a_flair_is_no_t1w(phantom):
    t1w = images.array(phantom.scans["T1w"])
    brain = phantom.brain
    grey = brain.gm > 0.5
    flair = np.where(grey, 1.4 * t1w[brain.wm > 0.9].mean(), t1w)
    image = images.make(flair.astype(np.float32), phantom.scans["T1w"].affine)
    with pytest.raises(InputError, match="as on FLAIR"):
        measured(image, contrast="t1")


def test_a_header_that_leaves_the_side_open_is_told(scan):
    image = images.make(images.array(scan), scan.affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), 1)
    found = measured(image)
    assert found.status == "warn"
    assert found.reasons[0].startswith("orientation: qform and sform disagree")


def test_what_a_mask_removes_is_not_covered(phantom, scan):
    half = phantom.brain.brain > 0.5
    x = nib.affines.apply_affine(scan.affine, np.argwhere(half))[:, 0]
    half[tuple(np.argwhere(half)[x > -5].T)] = False
    found = measured(scan, brain_mask=images.make(half.astype(np.uint8), scan.affine))
    row = found.to_row()
    assert row["coverage_cso_right"] < 0.2 < 0.9 < row["coverage_cso_left"]
    assert np.isnan(row["n_cso_right"])
    assert found.status != "pass"


def brightened(scan, phantom, mask):
    """The scan with the signal of fluid in a mask."""
    values = images.array(scan).copy()
    values[mask] = np.percentile(values[phantom.brain.csf > 0.9], 50)
    return images.make(values, scan.affine)


def test_a_space_that_touches_a_lesion_is_kept(phantom, scan, result):
    """The mask is cut out before objects are formed."""
    places = result.objects.index[
        (result.objects["class"] == "pvs")
        & (result.objects["length_mm"] > 6)
        & result.objects["region"].str.startswith("cso")
    ]
    voxels = np.argwhere(np.asarray(result.labels.dataobj) == places[0] + 1)
    axis = int(np.argmax(np.ptp(voxels, axis=0)))
    end = voxels[np.argmax(voxels[:, axis])]
    size = images.voxel_size_mm(scan)
    offset = (np.indices(scan.shape).T - end).T * size[:, None, None, None]
    lesion = np.linalg.norm(offset, axis=0) < 3.5
    found = measured(
        brightened(scan, phantom, lesion), wmh_mask=images.make(lesion.astype("u1"), scan.affine)
    )
    assert found.to_row()["n_pvs"] == result.to_row()["n_pvs"]
    assert found.to_row()["n_wmh_overlap"] >= 1


def test_what_lies_against_cortex_is_uncertain(result):
    rules = result.objects["depth_mm"] < pvs.Rules().min_depth_mm
    assert not (result.objects["class"][rules] == "pvs").any()
    assert result.objects["depth_mm"][result.objects["class"] == "pvs"].min() > 2.2


@pytest.mark.parametrize("contrast", ["t2", "t1"])
def test_sulci_where_the_atlas_has_white_matter_do_not_raise_the_noise(phantom, contrast):
    """Cortex in a third of what the atlas calls white; the noise stays that of the scan."""
    scan = phantom.scans["T2w" if contrast == "t2" else "T1w"]
    clean, _, _ = _levels_inside(
        locate_regions(scan, contrast=contrast, registration=REGISTRATION)
    )
    x = nib.affines.apply_affine(scan.affine, np.moveaxis(np.indices(scan.shape), 0, -1))[..., 0]
    ribbon = ndimage.gaussian_filter((np.abs(x) % 12 < 4.5).astype(float), 0.5)
    share = ribbon * (phantom.brain.wm > 0.5)
    values = images.array(scan) + share * (clean.grey_matter - clean.white_matter)
    anatomy = locate_regions(
        images.make(np.float32(values), scan.affine), contrast=contrast, registration=REGISTRATION
    )
    found, _, _ = _levels_inside(anatomy)
    assert found.noise_sd == pytest.approx(clean.noise_sd, rel=0.1)
    assert found.white_matter == pytest.approx(clean.white_matter, rel=0.02)
    assert measure_levels(anatomy).noise_sd > 1.5 * clean.noise_sd  # at the first look


def test_a_sulcus_too_thin_for_cortex_is_outside(phantom, scan, result):
    """A sheet of fluid that runs from the surface into white matter is no space, nor its end."""
    brain = phantom.brain
    depth = edt.edt(brain.brain > 0.5, anisotropy=tuple(images.voxel_size_mm(scan)))
    world = nib.affines.apply_affine(scan.affine, np.moveaxis(np.indices(scan.shape), 0, -1))
    sheet = (np.abs(world[..., 1] - 10) < 0.7) & (np.abs(world[..., 2] - 40) < 2.5)
    sheet &= (world[..., 0] > 22) & (depth < 40)
    found = measured(brightened(scan, phantom, sheet))
    labels = np.asarray(found.labels.dataobj)
    counted = np.flatnonzero(found.objects["class"] == "pvs") + 1
    assert not np.isin(labels[sheet], counted).any()


def test_saved_as_bids_derivatives(result, tmp_path):
    result.save(tmp_path, prefix="sub-01", sources=["T2w.nii.gz"])
    row = pd.read_csv(tmp_path / "sub-01/anat/sub-01_desc-counts_pvs.tsv", sep="\t")
    assert row["n_pvs"][0] == (result.objects["class"] == "pvs").sum()
    names = pd.read_csv(tmp_path / "sub-01/anat/sub-01_desc-pvs_dseg.tsv", sep="\t")
    assert names.to_dict("list") == {"index": [1, 2, 3, 4], "name": list(pvs.CLASSES)}
    objects = pd.read_csv(tmp_path / "sub-01/anat/sub-01_desc-pvsobjects_dseg.tsv", sep="\t")
    assert list(objects["name"]) == list(result.objects["class"])
    classes = nib.load(tmp_path / "sub-01/anat/sub-01_desc-pvs_dseg.nii.gz")
    assert classes.shape == result.classes.shape
    assert (tmp_path / "dataset_description.json").is_file()


def test_a_slab_says_what_it_cannot_count(scan):
    z = (nib.affines.apply_affine(scan.affine, [0, 0, 0])[2], scan.affine[2, 2])
    first = int((5 - z[0]) / z[1])
    row = measured(scan.slicer[:, :, first:]).to_row()
    assert np.isnan(row["n_midbrain_left"])
    assert "midbrain_left is outside the field of view" in row["reasons"]


def test_thick_slices_warn(scan):
    data = images.array(scan)
    n = data.shape[2] // 4
    thick = data[:, :, : 4 * n].reshape(*data.shape[:2], n, 4).mean(axis=3)
    affine = scan.affine @ np.diag([1, 1, 4, 1])
    affine[:3, 3] += scan.affine[:3, 2] * 1.5
    assert "6 mm thick" in measured(images.make(thick, affine)).to_row()["reasons"]


def test_a_mask_larger_than_a_brain_is_said(scan):
    whole = images.make(np.ones(scan.shape, np.uint8), scan.affine)
    result = measured(scan, brain_mask=whole)
    assert result.status == "warn"
    assert "more than a brain" in result.reasons[0]


@pytest.fixture(scope="module")
def empty_scan(phantom):
    """Noise and ventricles, without any PVS, and its brain mask."""

    def erase(data):
        data[:] = np.random.default_rng(0).normal(100, 5, data.shape)
        data[phantom.brain.ventricles > 0.3] = 300

    return spoilt(phantom.scans["T2w"], erase), phantom.brain.image(phantom.brain.brain > 0.5)


def test_zero_is_never_silent(empty_scan):
    scan, brain = empty_scan
    # a threshold far above noise, so that nothing is found for sure
    row = measured(scan, brain_mask=brain, rules=pvs.Rules(min_contrast=0.6)).to_row()
    assert (row["n_pvs"], row["status"]) == (0, "warn")
    assert "no perivascular space was found" in row["reasons"]


def test_noise_makes_no_more_false_objects_than_expected(empty_scan):
    scan, brain = empty_scan
    row = measured(scan, brain_mask=brain).to_row()
    assert row["n_pvs"] <= 2
    assert row["expected_false"] <= 1


def test_masks_on_another_grid_and_empty_masks(phantom, scan):
    with pytest.raises(InputError, match="wmh_mask: its grid"):
        measured(scan, wmh_mask=phantom.wmh.slicer[1:])
    empty = images.make(np.zeros(scan.shape, np.uint8), scan.affine)
    with pytest.raises(InputError, match="brain_mask: is empty"):
        measured(scan, brain_mask=empty)
    holes = images.make(np.full(scan.shape, np.nan, np.float32), scan.affine)
    with pytest.raises(InputError, match="wmh_mask: holds NaN"):
        measured(scan, wmh_mask=holes)
    with pytest.raises(InputError, match="contrast"):
        pvs.measure(scan, contrast="pd")


def test_a_misplaced_mask_of_lesions_is_said(phantom, result):
    anatomy, wmh = result.anatomy, np.asarray(phantom.wmh.dataobj)[result.anatomy.box] > 0
    without = judge(result.segmentation, anatomy, None, *LESIONS_KNOWN)
    assert judge(result.segmentation, anatomy, wmh) == without
    _, reasons = judge(result.segmentation, anatomy, ~anatomy.brain)
    assert "outside the brain" in reasons[-1]
    _, reasons = judge(result.segmentation, anatomy, anatomy.brain)
    assert "of the regions" in reasons[-1]


@pytest.mark.parametrize(
    ("contrast", "correlation", "status"),
    [("t2", 0.5, "pass"), ("t2", 0.4, "warn"), ("t2", 0.3, "fail"), ("t2", np.nan, "fail"),
     ("t1", 0.65, "pass"), ("t1", 0.58, "warn"), ("t1", 0.5, "fail")],
)  # fmt: skip
def test_a_scan_unlike_the_template_warns_then_fails(result, contrast, correlation, status):
    registration = replace(REGISTRATION, contrast=contrast, correlation=correlation)
    anatomy = replace(result.anatomy, registration=registration)
    given, reasons = judge(result.segmentation, anatomy, None, *LESIONS_KNOWN)
    assert given == status
    assert ("correlates with the template" in " ".join(reasons)) == (status != "pass")


@pytest.mark.parametrize(("overlap", "status"), [(0.95, "pass"), (0.8, "warn"), (0.6, "fail")])
def test_a_poor_registration_warns_then_fails(result, overlap, status):
    registration = replace(REGISTRATION, overlap=overlap)
    anatomy = replace(result.anatomy, registration=registration)
    given, reasons = judge(result.segmentation, anatomy, None, *LESIONS_KNOWN)
    assert given == status
    assert all("on the template" in reason for reason in reasons)


@pytest.mark.parametrize(("raised", "status"), [(1.2, "pass"), (1.3, "warn"), (4.1, "fail")])
def test_a_threshold_that_the_opposite_contrast_raises_warns_then_fails(result, raised, status):
    segmentation = replace(result.segmentation, raised=raised)
    given, reasons = judge(segmentation, result.anatomy, None, *LESIONS_KNOWN)
    assert given == status
    assert len(reasons) == (status != "pass")


@pytest.mark.parametrize(
    ("counted", "opposite", "threshold"),
    [
        ([5, 4], [3, 2], 1),  # one or two say little
        ([5, 4], [3, 2, 1.5], 1.5),
        (range(2, 18), [9, 8, 7, 6], 1),  # a quarter
        (range(2, 18), [9, 8, 7, 6, 5], 7),
        ([], [4, 3, 2], 2),
    ],
)
def test_the_opposite_contrast_raises_the_threshold(counted, opposite, threshold):
    tables = [pd.DataFrame({"response": list(r), "class": "pvs"}) for r in (counted, opposite)]
    found, n_opposite = _lowest_pure(*tables, 1.0)
    assert found == threshold
    assert n_opposite == sum(r > threshold for r in opposite)


@pytest.mark.parametrize(("largest", "warns"), [(50.0, True), (5.0, False)])
def test_one_object_that_is_most_of_the_volume_is_named(result, largest, warns):
    few = result.objects[result.objects["class"] == "pvs"][:1]
    objects = pd.concat([few] * 8, ignore_index=True).assign(volume_mm3=[largest] + [5.0] * 7)
    segmentation = replace(result.segmentation, objects=objects)
    status, reasons = judge(segmentation, result.anatomy, None)
    assert (status, len(reasons)) == (("warn", 1) if warns else ("pass", 0))
    assert not warns or reasons[0].startswith("one object is 59% of the volume")


@pytest.mark.parametrize(("factor", "warns"), [(1.0, 0), (1.4, 2), (0.7, 2)])
def test_a_centrum_semiovale_unlike_an_adults_is_named(result, factor, warns):
    image = result.anatomy.image
    affine = image.affine @ np.diag([factor] * 3 + [1])
    anatomy = replace(result.anatomy, image=images.make(np.asarray(image.dataobj), affine))
    _, reasons = judge(result.segmentation, anatomy, None)
    assert sum("unlike that of an adult (30 to 90)" in reason for reason in reasons) == warns


def test_rules_a_quarter_stricter_and_a_fifth_looser_bracket_the_numbers(result):
    row = result.to_row()
    assert row["n_pvs_strict"] <= row["n_pvs"] <= row["n_pvs_loose"]
    assert row["volume_strict_mm3"] <= row["volume_mm3"]
    assert row["largest_volume_mm3"] <= row["volume_mm3"]
    strict = result.segmentation.strict
    assert (strict["depth_mm"] >= 1.25 * 2.2).all()
    assert (strict["contrast"] >= 1.25 * 0.11).all()
    loose = result.segmentation.loose
    assert (loose.loc[loose["class"] == "pvs", "length_mm"] >= 2.5 / 1.25).all()


@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_a_standardised_scan_gives_the_same_numbers(scan, result, shift):
    def standardise(data):
        inside = data != 0
        data[inside] = (data[inside] - shift * data[inside].mean()) / data[inside].std()

    row, known = measured(spoilt(scan, standardise)).to_row(), result.to_row()
    assert (row["n_pvs"], row["status"]) == (known["n_pvs"], known["status"])
    assert row["volume_mm3"] == pytest.approx(known["volume_mm3"], rel=0.01)


def test_nan_four_dimensions_and_constants(scan):
    def poison(data):
        data[3, 3, 3] = np.nan

    with pytest.raises(InputError, match="NaN"):
        pvs.measure(spoilt(scan, poison))
    with pytest.raises(InputError, match="4 dimensions"):
        pvs.measure(images.make(np.ones((4, 4, 4, 2)), np.eye(4)))
    with pytest.raises(InputError, match="nothing to measure"):
        pvs.measure(images.make(np.ones((4, 4, 4)), np.eye(4)))


def test_regions_outside_the_field_of_view(scan):
    with pytest.raises(InputError, match="field of view"):
        measured(scan.slicer[:, :, :16])


def test_levels_refuse_what_is_not_a_scan(phantom, scan):
    def flat(data):
        data[phantom.brain.wm > 0.3] = 100

    with pytest.raises(InputError, match="white matter is constant"):
        measure_levels(locate_regions(spoilt(scan, flat), registration=REGISTRATION))
    top = int(nib.affines.apply_affine(np.linalg.inv(scan.affine), [0, 0, 55])[2])
    with pytest.raises(InputError, match="ventricles"):
        measure_levels(locate_regions(scan.slicer[:, :, top:], registration=REGISTRATION))


def test_the_error_of_a_count_holds_noise_alone(result):
    """An object that is found in a share of the scans adds that share's variance twice.

    Its `repeat_probability` is uncertain too, and that doubt is no noise: it must not count.
    """
    rng = np.random.default_rng(0)
    noise = result.segmentation.noise_variance
    for above in (-1.0, 0.0, 0.7, 2.5):  # of the threshold, in standard deviations
        passes = ndtr(above + rng.standard_normal(200_000))
        one = result.objects[result.objects["class"] == "pvs"][:1]
        one = one.assign(repeat_probability=passes.mean())
        row = replace(result, objects=one).to_row()
        expected = (passes * (1 - passes)).mean()
        assert (row["n_pvs_se"] ** 2 - noise) / 2 == pytest.approx(expected, abs=2e-3)


def test_a_mask_without_ventricles_is_named(phantom, scan):
    tissue = phantom.brain.wm + phantom.brain.gm > 0.5
    with pytest.raises(InputError, match="leaves the lateral ventricles out"):
        measured(scan, brain_mask=images.make(tissue.astype("u1"), scan.affine))
    whole = images.make((phantom.brain.brain > 0.5).astype("u1"), scan.affine)
    assert measured(scan, brain_mask=whole).to_row()["n_pvs"] > 0


def test_scales_follow_the_voxel():
    assert default_scales((0.5, 0.5, 0.5)) == (0.4, 0.6, 0.9, 1.3)
    assert min(default_scales((3, 3, 3))) == pytest.approx(1.65)


def test_figures_show_regions_and_objects(result):
    assert len(summary(result).axes) == 8
    assert len(plot_objects(result, n_slices=3).axes) == 3
    plt.close("all")
