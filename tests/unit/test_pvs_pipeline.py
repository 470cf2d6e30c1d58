import edt
import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.special import ndtr

from pvsbook import InputError, images, pvs
from pvsbook.atlas import register_to_mni
from pvsbook.atlas.perivascular import REGIONS
from pvsbook.atlas.registration import Registration
from pvsbook.figures.pvs import plot_counts, plot_objects, summary
from pvsbook.phantoms.brain import brain_grid, make_brain, pose
from pvsbook.phantoms.perivascular import SCANNERS, make_phantom
from pvsbook.pvs import anatomy
from pvsbook.pvs.anatomy import brain_mask, locate, measure_levels
from pvsbook.pvs.pipeline import _flips, _judge
from pvsbook.pvs.segmentation import default_scales

mpl.use("Agg")

COUNTS = {"cso_left": 7, "cso_right": 5, "bg_left": 3, "bg_right": 2}


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(
        np.random.default_rng(2101),
        contrasts=("T2w", "T1w"),
        counts=COUNTS,
        n_wmh=6,
        n_lacunes=2,
        mni_to_world=pose((8, -4, 5), (3, -6, 10)),
        axcodes="LAS",
    )


@pytest.fixture(scope="module")
def registration(phantom):
    scan = phantom.scans["T2w"]
    return register_to_mni(scan, contrast="t2", mask=brain_mask(scan))


@pytest.fixture(scope="module")
def result(phantom, registration):
    return pvs.measure(phantom.scans["T2w"], registration=registration)


def spoilt(image, change):
    data = images.array(image).copy()
    change(data)
    return images.make(data, image.affine)


def matched(phantom, result):
    """Pairs of (truth, object): most of the object's voxels lie within a voxel of the truth."""
    truth = np.asarray(phantom.labels.dataobj)
    labels = np.asarray(result.labels.dataobj)
    affine = phantom.brain.affine
    points = {
        k: nib.affines.apply_affine(affine, np.argwhere(truth == k + 1))
        for k in range(len(phantom.truth))
    }
    pairs = []
    for n in np.flatnonzero(result.objects["class"] == "pvs"):
        mine = nib.affines.apply_affine(affine, np.argwhere(labels == n + 1))
        for k, theirs in points.items():
            near = np.linalg.norm(mine[:, None] - theirs, axis=-1).min(axis=1) <= 1.5
            if near.mean() >= 0.5:
                pairs.append((k, n))
    return pairs


def test_finds_what_was_placed(phantom, result):
    pairs = matched(phantom, result)
    found = {k for k, _ in pairs}
    assert len(found) >= len(phantom.truth) - 1
    assert (result.objects["class"] == "pvs").sum() - len(pairs) <= 5
    assert result.segmentation.expected_false <= 1
    row = result.to_row()
    for name, count in COUNTS.items():
        assert abs(row[f"n_{name}"] - count) <= 2
    assert row["status"] == "pass"


def test_shapes_of_wide_spaces(phantom, result):
    pairs = [(k, n) for k, n in matched(phantom, result) if phantom.truth.diameter_mm[k] >= 1]
    truth = phantom.truth.iloc[[k for k, _ in pairs]].reset_index()
    found = result.objects.iloc[[n for _, n in pairs]].reset_index()
    assert found.volume_mm3.sum() / truth.volume_mm3.sum() == pytest.approx(1, abs=0.15)
    assert np.median(found.length_mm / truth.length_mm) == pytest.approx(1, abs=0.06)
    axes = ["direction_x", "direction_y", "direction_z"]
    cosine = np.abs((truth[axes].to_numpy() * found[axes].to_numpy()).sum(axis=1))
    assert np.rad2deg(np.median(np.arccos(cosine))) < 3


def test_counting_voxels_overestimates(result):
    row = result.to_row()
    assert row["volume_voxels_mm3"] > 1.5 * row["volume_mm3"]


def test_lesions_and_lacunes_are_not_counted(phantom, result):
    labels = np.asarray(result.labels.dataobj)
    kinds = result.objects["class"].to_numpy()
    for mask in (phantom.wmh, phantom.lacunes):
        touched = np.unique(labels[np.asarray(mask.dataobj) > 0])
        assert "pvs" not in kinds[touched[touched > 0] - 1]
    assert (kinds == "lacune_like").sum() >= 1


def test_a_mask_of_lesions_is_used(phantom, registration):
    with_mask = pvs.measure(phantom.scans["T2w"], wmh_mask=phantom.wmh, registration=registration)
    row = with_mask.to_row()
    assert row["has_wmh_mask"]
    assert row["n_wmh_overlap"] >= 4


def test_the_unit_of_intensity_does_not_matter(phantom, registration, result):
    scan = phantom.scans["T2w"]
    louder = images.make(1000 * images.array(scan), scan.affine)
    again = pvs.measure(louder, registration=registration)
    assert again.objects["class"].tolist() == result.objects["class"].tolist()
    assert again.to_row()["volume_mm3"] == pytest.approx(result.to_row()["volume_mm3"], rel=1e-3)


def test_the_storage_order_does_not_matter(phantom, result):
    scan = phantom.scans["T2w"]
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(scan.affine), nib.orientations.axcodes2ornt("SRP")
    )
    turned = scan.as_reoriented(turn)
    turned = images.make(np.asarray(turned.dataobj), turned.affine)
    again = pvs.measure(turned)
    mine, theirs = result.to_row(), again.to_row()
    for name in REGIONS.values():
        assert abs(mine[f"n_{name}"] - theirs[f"n_{name}"]) <= 1
    assert theirs["volume_mm3"] == pytest.approx(mine["volume_mm3"], rel=0.05)


def test_dark_fluid_on_t1(phantom, registration):
    result = pvs.measure(phantom.scans["T1w"], contrast="t1", registration=registration)
    assert len({k for k, _ in matched(phantom, result)}) >= 0.8 * len(phantom.truth)


@pytest.mark.parametrize(("named", "given"), [("t2", "T1w"), ("t1", "T2w")])
def test_inverted_contrast_is_said(phantom, registration, named, given):
    with pytest.raises(InputError, match="use contrast="):
        pvs.measure(phantom.scans[given], contrast=named, registration=registration)


def test_saved_as_bids_derivatives(result, tmp_path):
    result.save(tmp_path, prefix="sub-01", sources=["T2w.nii.gz"])
    row = pd.read_csv(tmp_path / "sub-01/anat/sub-01_desc-counts_pvs.tsv", sep="\t")
    assert row["n_pvs"][0] == (result.objects["class"] == "pvs").sum()
    classes = nib.load(tmp_path / "sub-01/anat/sub-01_desc-pvs_dseg.nii.gz")
    assert classes.shape == result.classes.shape
    assert (tmp_path / "dataset_description.json").is_file()


def test_a_slab_says_what_it_cannot_count(phantom, registration):
    scan = phantom.scans["T2w"]
    z = (nib.affines.apply_affine(scan.affine, [0, 0, 0])[2], scan.affine[2, 2])
    first = int((5 - z[0]) / z[1])
    slab = pvs.measure(scan.slicer[:, :, first:], registration=registration)
    row = slab.to_row()
    assert np.isnan(row["n_midbrain_left"])
    assert "midbrain_left is outside the field of view" in row["reasons"]


def test_thick_slices_warn(phantom, registration):
    data = images.array(phantom.scans["T2w"])
    n = data.shape[2] // 4
    thick = data[:, :, : 4 * n].reshape(*data.shape[:2], n, 4).mean(axis=3)
    affine = phantom.brain.affine @ np.diag([1, 1, 4, 1])
    affine[:3, 3] += phantom.brain.affine[:3, 2] * 1.5
    row = pvs.measure(images.make(thick, affine), registration=registration).to_row()
    assert "4 mm thick" in row["reasons"]


def test_a_mask_larger_than_a_brain_is_said(phantom, registration):
    scan = phantom.scans["T2w"]
    whole = images.make(np.ones(scan.shape, np.uint8), scan.affine)
    result = pvs.measure(scan, brain_mask=whole, registration=registration)
    assert result.status == "warn"
    assert "more than a brain" in result.reasons[0]


def test_zero_is_never_silent(phantom, registration):
    def blur(data):
        data[:] = np.random.default_rng(0).normal(100, 5, data.shape)
        data[phantom.brain.ventricles > 0.3] = 300

    scan = spoilt(phantom.scans["T2w"], blur)
    brain = phantom.brain.image(phantom.brain.brain > 0.5)
    row = pvs.measure(scan, brain_mask=brain, registration=registration).to_row()
    assert row["n_pvs"] <= 2
    if row["n_pvs"] == 0:
        assert "no perivascular space was found" in row["reasons"]
    assert row["expected_false"] <= 1


def test_masks_on_another_grid_and_empty_masks(phantom, registration):
    scan = phantom.scans["T2w"]
    with pytest.raises(InputError, match="wmh_mask: its grid"):
        pvs.measure(scan, wmh_mask=phantom.wmh.slicer[1:], registration=registration)
    empty = images.make(np.zeros(scan.shape, np.uint8), scan.affine)
    with pytest.raises(InputError, match="brain_mask: is empty"):
        pvs.measure(scan, brain_mask=empty, registration=registration)
    with pytest.raises(InputError, match="mask: is empty"):
        locate(scan, mask=empty, registration=registration)
    holes = images.make(np.full(scan.shape, np.nan, np.float32), scan.affine)
    with pytest.raises(InputError, match="wmh_mask: holds NaN"):
        pvs.measure(scan, wmh_mask=holes, registration=registration)
    with pytest.raises(InputError, match="contrast"):
        pvs.measure(scan, contrast="pd")


def test_a_misplaced_mask_of_lesions_is_said(phantom, result):
    found, inside = result.segmentation, np.asarray(phantom.wmh.dataobj)[result.anatomy.box] > 0
    assert _judge(found, result.anatomy, inside) == _judge(found, result.anatomy, None)
    assert "outside the brain" in _judge(found, result.anatomy, ~result.anatomy.brain)[1][0]
    assert "of the regions" in _judge(found, result.anatomy, result.anatomy.brain)[1][0]


def test_nan_four_dimensions_and_constants(phantom):
    scan = phantom.scans["T2w"]

    def poison(data):
        data[3, 3, 3] = np.nan

    with pytest.raises(InputError, match="NaN"):
        pvs.measure(spoilt(scan, poison))
    with pytest.raises(InputError, match="4 dimensions"):
        pvs.measure(images.make(np.ones((4, 4, 4, 2)), np.eye(4)))
    with pytest.raises(InputError, match="nothing to measure"):
        pvs.measure(images.make(np.ones((4, 4, 4)), np.eye(4)))


def test_regions_outside_the_field_of_view(phantom, registration):
    low = phantom.scans["T2w"].slicer[:, :, :25]
    with pytest.raises(InputError, match="field of view"):
        pvs.measure(low, registration=registration)


def test_levels_refuse_what_is_not_a_scan(phantom, registration):
    scan = phantom.scans["T2w"]

    def flat(data):
        data[phantom.brain.wm > 0.3] = 100

    with pytest.raises(InputError, match="white matter is constant"):
        measure_levels(locate(spoilt(scan, flat), registration=registration))
    top = int(nib.affines.apply_affine(np.linalg.inv(scan.affine), [0, 0, 55])[2])
    with pytest.raises(InputError, match="ventricles"):
        measure_levels(locate(scan.slicer[:, :, top:], registration=registration))


@pytest.mark.parametrize(
    ("preset", "change", "contrast"),
    [
        ("3T", {"axcodes": "LAS", "voxel_size_mm": (1.2, 1.2, 1.5)}, "t2"),
        ("7T", {"axcodes": "PIL", "voxel_size_mm": 1.0, "ghosting": 0.03}, "t2"),
        ("7T", {"axcodes": "RAS", "voxel_size_mm": 1.2, "gibbs": 0.3}, "t1"),
    ],
)
def test_scanners_artefacts_and_storage_orders(preset, change, contrast):
    tilt = Rotation.from_euler("xyz", (12, -5, 8), degrees=True).as_matrix()
    phantom = make_phantom(
        np.random.default_rng(2110),
        contrasts=("T2w" if contrast == "t2" else "T1w",),
        counts={"cso_left": 6, "bg_right": 2},
        diameters_mm=(1.5, 3.0),
        n_wmh=3,
        oblique=tilt,
        **{**SCANNERS[preset], **change},
    )
    (scan,) = phantom.scans.values()
    result = pvs.measure(scan, contrast=contrast, registration=known_registration(contrast))
    row = result.to_row()
    assert len({k for k, _ in matched(phantom, result)}) >= 6
    assert row["n_pvs"] - 8 <= 4 + row["n_mirrored"]
    assert row["status"] in ("pass", "warn")
    assert np.isfinite([row["n_pvs_se"], row["volume_se_mm3"], row["snr"]]).all()


def known_registration(contrast):
    """Where the phantom lies if nothing moved it."""
    return Registration(np.eye(4), contrast, "affine", "known", 1.0, 1.0, 1.0, 1.0)


def test_fine_scans_do_not_count_grey_strands():
    # a quiet scan: noise alone would let threads of a fiftieth of fluid's contrast pass
    phantom = make_phantom(
        np.random.default_rng(2111), counts={"cso_left": 4}, diameters_mm=(1.5, 3), snr=80
    )
    scan, where = phantom.scans["T2w"], known_registration("t2")
    plain = pvs.measure(scan, registration=where, rules=pvs.Rules(min_contrast=0.01))
    found = pvs.measure(scan, registration=where)
    assert plain.to_row()["n_pvs"] > found.to_row()["n_pvs"]
    assert abs(found.to_row()["n_pvs"] - 4) <= 2
    assert plain.segmentation.n_mirrored >= found.segmentation.n_mirrored
    # where the threshold lets texture in, the scan upside down tells of it
    assert plain.segmentation.n_mirrored >= 0.3 * (plain.to_row()["n_pvs"] - 4)


def test_faint_spaces_keep_their_volume(phantom, registration):
    scan = phantom.scan_again(np.random.default_rng(5), strength="weak")
    result = pvs.measure(scan, registration=registration)
    pairs = [
        (k, n)
        for k, n in matched(phantom, result)
        if phantom.truth.diameter_mm[k] >= 1 and phantom.truth.region[k].startswith("cso")
    ]
    true = phantom.truth.volume_mm3[[k for k, _ in pairs]].sum()
    found = result.objects.volume_mm3[[n for _, n in pairs]].sum()
    assert found / (0.38 / 2) / true == pytest.approx(1, abs=0.1)


def test_new_noise_moves_counts_and_volumes_as_stated(phantom, registration):
    rows = []
    for seed in range(3):
        scan = phantom.scan_again(np.random.default_rng(seed), strength="weak")
        rows.append(pvs.measure(scan, registration=registration).to_row())
    table = pd.DataFrame(rows)
    for name, se in (("n_pvs", "n_pvs_se"), ("volume_mm3", "volume_se_mm3")):
        assert table[name].std() < 2.5 * table[se].mean()
        assert (table[se] > 0).all()


def test_white_noise_is_told_from_anatomy(result):
    levels = result.segmentation.levels
    assert max(levels.noise_correlation) < 0.05 < min(levels.smoothness)


def test_the_doubt_about_an_object_is_no_noise():
    rng = np.random.default_rng(0)
    for seen in (-1.0, 0.0, 0.7, 2.5):  # above the threshold, in standard deviations
        passes = ndtr(seen + rng.standard_normal(200_000))
        expected = (passes * (1 - passes)).mean()
        assert _flips(passes.mean()) == pytest.approx(expected, abs=2e-3)


def test_nonlinear_registration_follows_bent_anatomy(monkeypatch):
    with pytest.raises(InputError, match="choose 'affine'"):
        locate(make_brain(4.0).image(make_brain(4.0).brain), registration="bspline")
    where = known_registration("t1")  # what an affine transform cannot follow is left
    monkeypatch.setattr(anatomy, "register_to_mni", lambda *args, **kwargs: where)
    brain = make_brain(2.0)
    scan = images.array(brain.image(100 * brain.wm + 70 * brain.gm + 30 * brain.csf))
    grid = np.indices(brain.shape).astype(float)
    x, _, z = (2 * np.pi * grid[k] / brain.shape[k] for k in range(3))
    grid[1] += 3 * np.sin(x) * np.sin(z)  # voxels of 2 mm: 6 mm either way
    bent = brain.image(ndimage.map_coordinates(scan, grid, order=1))
    straight = locate(brain.image(scan), contrast="t1", registration=where)
    truth = ndimage.map_coordinates(whole(straight.regions, straight), grid, order=0)
    overlap = {}
    for model in ("affine", "syn"):
        found = locate(bent, contrast="t1", registration=model)
        regions = whole(found.regions, found)
        both = ((regions > 0) & (regions == truth)).sum()
        overlap[model] = 2 * both / ((regions > 0).sum() + (truth > 0).sum())
    assert found.registration.warp is not None
    assert overlap["syn"] > overlap["affine"] + 0.03


def whole(part, found):
    """Array of the box on the grid of the scan."""
    out = np.zeros(brain_grid(2.0).shape, part.dtype)
    out[found.box] = part
    return out


@pytest.mark.parametrize("contrast", ["t2", "t1"])
def test_a_brain_is_cut_out_of_a_whole_head(monkeypatch, contrast):
    where = known_registration(contrast)
    monkeypatch.setattr(anatomy, "register_to_mni", lambda *args, **named: where)
    brain = make_brain(2.0, margin_mm=30)
    levels = {"t2": (100, 130, 300), "t1": (200, 140, 40)}[contrast]
    parts = (brain.wm, brain.gm, brain.csf)
    values = sum(level * part for level, part in zip(levels, parts, strict=True))
    away = edt.edt(brain.brain < 0.5, anisotropy=(2.0, 2.0, 2.0))
    values[(away >= 8) & (away < 24)] = 500  # scalp and muscle; the skull below is dark
    x, y, z = (n // 2 for n in brain.shape)
    values[x - 1 : x + 2, y:, z - 1 : z + 2][away[x - 1 : x + 2, y:, z - 1 : z + 2] < 9] = 250
    values = np.abs(values + np.random.default_rng(0).normal(5, 3, brain.shape))
    found = locate(brain.image(values), contrast=contrast)
    assert found.stripped_here
    inside = (brain.brain > 0.5)[found.box]
    assert 2 * (found.brain & inside).sum() / (found.brain.sum() + inside.sum()) > 0.93
    again = locate(brain.image(values), contrast=contrast, registration=where)
    assert np.array_equal(again.brain, found.brain)


def test_a_head_that_does_not_come_apart_is_kept_whole():
    ball = np.linalg.norm(np.indices((90, 90, 90)) - 45, axis=0) < 42
    head = images.make(np.where(ball, 100.0, 1), np.diag([2.5, 2.5, 2.5, 1]))
    mask = images.make(ball.astype(np.uint8), head.affine)
    assert np.array_equal(anatomy._strip(head, mask).dataobj, mask.dataobj)


def test_scales_follow_the_voxel():
    assert default_scales((0.5, 0.5, 0.5)) == (0.4, 0.6, 0.9, 1.3)
    assert min(default_scales((3, 3, 3))) == pytest.approx(1.65)


def test_a_whole_head_is_told_from_air():
    head = np.random.default_rng(0).normal(10, 3, (40, 40, 40))
    head[8:32, 8:32, 8:32] += 100
    mask = np.asarray(brain_mask(images.make(np.abs(head), np.diag([2, 2, 2, 1]))).dataobj)
    assert mask[10:30, 10:30, 10:30].all()
    assert not mask[:6].any()


@pytest.fixture
def openms(public_file):
    ends = {
        "T1": "T1_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI",
        "T2": "T2_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI",
        "GOLD_STANDARD": "GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI",
    }
    return {k: public_file("openms_mni_p07", f"{stem}.nii.gz") for k, stem in ends.items()}


@pytest.mark.public
def test_a_person_with_lesions(openms):
    scan = images.load(openms["T2"])
    found = register_to_mni(scan, contrast="t2", mask=brain_mask(scan))
    plain = pvs.measure(openms["T2"], registration=found)
    masked = pvs.measure(
        openms["T2"], wmh_mask=openms["GOLD_STANDARD"], registration=found
    ).to_row()
    row = plain.to_row()
    assert all("wrong sign" in reason for reason in plain.reasons)
    assert 5 < row["n_pvs"] < 120  # plausibility only: nobody has counted them
    assert masked["n_wmh_overlap"] >= 1
    assert masked["n_pvs"] <= row["n_pvs"]
    dark = pvs.measure(openms["T1"], contrast="t1", registration=found).to_row()
    assert dark["n_pvs"] > 0


def test_figures_show_regions_objects_and_counts(result):
    assert len(summary(result).axes) == 8
    assert len(plot_objects(result, n_slices=3).axes) == 3
    bars = plot_counts(result, truth=COUNTS).axes[0]
    assert [bar.get_height() for bar in bars.patches[:3]] == [
        result.to_row()[f"n_{name}_left"] for name in ("cso", "bg", "midbrain")
    ]
    plt.close("all")
