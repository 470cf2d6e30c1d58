"""ALPS from series to result: phantoms with truth, invariances, quality, bad input, real scans."""

import csv
import json
from dataclasses import replace

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.contour import QuadContourSet

from pvsbook import InputError, alps, images
from pvsbook.alps import quality, regions
from pvsbook.alps.pipeline import COLUMNS, ESTIMATORS
from pvsbook.atlas.registration import Registration
from pvsbook.figures import alps as figures
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import WhiteMatter, fsl_bvecs, make_diffusion


@pytest.fixture(scope="module")
def phantom():
    return make_diffusion(
        make_brain(2.5, axcodes="LAS", z_range_mni_mm=(-10, 62)),
        rng=np.random.default_rng(11),
        snr=30,
    )


@pytest.fixture(scope="module")
def result(phantom):
    return alps.measure(phantom.dwi, mask=phantom.mask)


def known(mni_to_world=None):
    """Registration that is right by construction."""
    to_mni = np.eye(4) if mni_to_world is None else np.linalg.inv(mni_to_world)
    return Registration(to_mni, "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


def test_phantom_gives_its_truth(phantom, result):
    assert result.status == "pass", result.reasons
    assert result.indices["tract"]["mean"].value == pytest.approx(phantom.index, abs=0.05)
    for side in ("left", "right", "mean"):
        found = result.indices["tract"][side]
        assert found.low < found.value < found.high
        assert found.high - found.low < 0.45
        assert 0.005 < found.noise_sd < 0.03
    assert result.registration.correlation > 0.5
    for roi in result.rois:
        assert roi.angle_deg < 5
        assert roi.dispersion_deg < 15


@pytest.mark.parametrize("axcodes", ["RPI", "SAL"])
def test_storage_order_changes_nothing(phantom, result, axcodes):
    dwi = phantom.dwi
    start = nib.io_orientation(dwi.image.affine)
    change = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axcodes))
    stored = dwi.image.as_reoriented(change)
    moved = images.Dwi(stored, dwi.bvals_s_mm2, dwi.bvecs_ras)
    again = images.load_dwi(stored, dwi.bvals_s_mm2, fsl_bvecs(moved))
    mask = phantom.mask.as_reoriented(change)
    found = alps.measure(again, mask=mask)
    for estimator in ESTIMATORS:
        for side, expected in result.indices[estimator].items():
            assert found.indices[estimator][side].value == pytest.approx(expected.value, abs=1e-6)
    assert found.labels.shape == stored.shape[:3]
    np.testing.assert_allclose(found.labels.affine, stored.affine, atol=1e-6)


def test_tilted_head_fools_only_the_classic_index():
    turn = pose((20, 0, 0))
    brain = make_brain(2.0, mni_to_world=turn, z_range_mni_mm=(10, 44))
    tissue = WhiteMatter(perivascular_along=3e-3)
    found = make_diffusion(brain, rng=np.random.default_rng(2), tissue=tissue, snr=np.inf)
    result = alps.measure(found.dwi, mask=found.mask, registration=known(turn), n_bootstrap=50)
    value = {e: result.indices[e]["mean"].value for e in ESTIMATORS}
    assert value["reoriented"] == pytest.approx(found.index, abs=0.02)
    assert value["tract"] == pytest.approx(found.index, abs=0.02)
    assert value["classic"] < found.index - 0.15
    assert "classic index" in " ".join(result.notes)


def test_no_vessels_gives_one():
    found = make_diffusion(
        make_brain(2.0, z_range_mni_mm=(10, 44)),
        rng=np.random.default_rng(4),
        tissue=WhiteMatter(perivascular=0),
        snr=40,
    )
    result = alps.measure(found.dwi, mask=found.mask, registration=known())
    for estimator in ESTIMATORS:
        assert result.indices[estimator]["mean"].value == pytest.approx(1, abs=0.04)


def test_flipped_x_is_flagged(phantom):
    dwi = images.Dwi(
        phantom.dwi.image, phantom.dwi.bvals_s_mm2, phantom.dwi.bvecs_ras * [-1, 1, 1]
    )
    result = alps.measure(dwi, mask=phantom.mask, registration=known(), n_bootstrap=10)
    assert result.status == "fail"
    assert result.reasons[0].startswith("b-vectors, row 1 (x) with the other sign: ")
    assert result.bvecs.certainty > 0.99


def test_failed_registration_is_a_fail_and_no_number(phantom):
    wrong = Registration(
        np.diag([-1.0, -1, 1, 1]),
        "fa",
        "affine",
        "given",
        0.1,
        correlation=0.05,
        overlap=0.7,
        coverage=0.7,
    )
    result = alps.measure(phantom.dwi, mask=phantom.mask, registration=wrong, n_bootstrap=10)
    assert result.status == "fail"
    assert np.isnan(result.to_row()["alps_tract_mean"])
    assert "template" in " ".join(result.reasons)
    assert "no index on the left and right" in result.reasons
    assert not any("nan" in text for text in result.reasons)
    with pytest.raises(InputError, match="registration: the scan was not found"):
        result.index_at()


def test_regions_in_fluid_fail(phantom):
    y = {"projection": -2.0, "association": -12.0}
    moved = {n: (np.sign(c[0]) * 12, y[n.split("_")[1]], 21.0) for n, c in _centres().items()}
    rois = regions.RoiSet(moved, 2.5)
    result = alps.measure(
        phantom.dwi, mask=phantom.mask, rois=rois, registration=known(), n_bootstrap=10
    )
    assert result.status == "fail"
    assert "fluid" in " ".join(result.reasons)


def _centres():
    return regions.SPHERES_2_5_MM.centres_mm


def test_one_shell_is_chosen_and_recorded(phantom):
    dwi = phantom.dwi
    data = images.array(dwi.image)
    two = images.Dwi(
        images.make(np.concatenate([data, 0.5 * data[..., 3:]], -1), dwi.image.affine),
        np.r_[dwi.bvals_s_mm2, np.full(32, 2500.0)],
        np.vstack([dwi.bvecs_ras, dwi.bvecs_ras[3:]]),
    )
    result = alps.measure(two, mask=phantom.mask, registration=known(), n_bootstrap=10)
    assert (result.b_s_mm2, result.n_directions, result.n_b0) == (1000, 32, 3)
    one = alps.measure(dwi, mask=phantom.mask, registration=known(), n_bootstrap=10)
    assert result.to_row()["alps_tract_mean"] == pytest.approx(one.to_row()["alps_tract_mean"])


def test_mask_is_found(phantom):
    result = alps.measure(phantom.dwi, registration=known(), n_bootstrap=10)
    assert result.indices["tract"]["mean"].value == pytest.approx(phantom.index, abs=0.06)


def test_row_and_files(tmp_path, result):
    row = result.to_row()
    assert set(row) <= set(COLUMNS)
    result.save(tmp_path, prefix="sub-01_ses-2", sources=["dwi.nii.gz"])
    folder = tmp_path / "sub-01" / "ses-2" / "dwi"
    with (folder / "sub-01_ses-2_alps.tsv").open() as file:
        stored = next(csv.DictReader(file, delimiter="\t"))
    assert list(stored) == list(row)
    assert float(stored["alps_tract_mean"]) == pytest.approx(row["alps_tract_mean"])
    columns = json.loads((folder / "sub-01_ses-2_alps.json").read_text())
    assert columns["left_projection_md_mm2_s"]["Units"] == "mm2/s"
    labels = nib.load(next(folder.glob("*dseg.nii.gz")))
    assert set(np.unique(labels.dataobj)) == {0, 1, 2, 3, 4}
    assert (tmp_path / "dataset_description.json").exists()


def test_bad_input(phantom):
    dwi = phantom.dwi
    with pytest.raises(InputError, match="mask"):
        alps.measure(dwi, mask=images.make(np.ones((3, 3, 3)), np.eye(4)))
    thick = images.make(images.array(dwi.image), dwi.image.affine @ np.diag([1, 1, 2, 1]))
    with pytest.raises(InputError, match="5 mm; above 3 mm"):
        alps.measure(images.Dwi(thick, dwi.bvals_s_mm2, dwi.bvecs_ras))
    with pytest.raises(InputError, match="32 at b=6000"):
        alps.measure(images.Dwi(dwi.image, 6 * dwi.bvals_s_mm2, dwi.bvecs_ras))
    low = phantom.brain.mni_coordinates()[..., 2] < 20
    cut = images.make(low & (images.array(phantom.mask) > 0), dwi.image.affine)
    with pytest.raises(InputError, match="mask holds 0% of the region"):
        alps.measure(dwi, mask=cut, registration=known())
    late = np.roll(images.array(dwi.image), -4, axis=3)  # the b=0 volumes now come last
    with pytest.raises(InputError, match="b-values are in another order than the volumes"):
        alps.measure(
            images.Dwi(images.make(late, dwi.image.affine), dwi.bvals_s_mm2, dwi.bvecs_ras),
            mask=phantom.mask,
        )
    dark = images.make(np.zeros(dwi.image.shape, np.float32), dwi.image.affine)
    with pytest.raises(InputError, match="no positive signal"):
        alps.measure(images.Dwi(dark, dwi.bvals_s_mm2, dwi.bvecs_ras), mask=phantom.mask)
    with pytest.raises(InputError, match="no brain"):
        alps.measure(images.Dwi(dark, dwi.bvals_s_mm2, dwi.bvecs_ras))


@pytest.fixture(scope="module")
def slab(public_file):
    stem = "701_DTI_Biobank_2mm_MB3S2_EPI"
    image, bval, bvec = (
        public_file("dwi_philips_slab", f"{stem}.{ending}")
        for ending in ("nii.gz", "bval", "bvec")
    )
    return image, bval, np.loadtxt(bvec)


@pytest.mark.public
def test_real_slab_is_plausible(slab):
    image, bval, bvec = slab
    result = alps.measure(images.load_dwi(image, bval, bvec))
    assert result.status == "warn"  # twelve directions, tilted head
    assert result.bvecs.as_given
    assert result.bvecs.certainty > 0.999
    assert result.registration.model == "scaling"
    for side in ("left", "right"):  # an implausible index is allowed, but not in silence
        plausible = 1.1 < result.indices["tract"][side].value < 1.8
        flagged = any(r.startswith("index ") and side in r for r in result.reasons)
        assert plausible or flagged
    assert any("fibres cross" in reason for reason in result.reasons)


@pytest.mark.public
def test_larger_spheres_on_the_real_slab_give_an_index_in_the_usual_range(slab):
    image, bval, bvec = slab
    dwi = images.load_dwi(image, bval, bvec)
    result = alps.measure(dwi, rois=regions.SPHERES_5_MM, n_bootstrap=10)
    for frame in ("classic", "reoriented"):
        for side in ("left", "right"):
            assert 1.1 < result.indices[frame][side].value < 1.8


@pytest.mark.public
def test_real_slab_with_flipped_x_is_flagged(slab):
    image, bval, bvec = slab
    result = alps.measure(images.load_dwi(image, bval, bvec * [[-1], [1], [1]]), n_bootstrap=10)
    assert result.status == "fail"
    assert result.reasons[0].startswith("b-vectors, row 1 (x) with the other sign: ")


@pytest.fixture(scope="module")
def scanned():
    """A scan of 2.5 mm with several b = 0 volumes."""
    return make_diffusion(make_brain(2.5), rng=np.random.default_rng(0))


def _with_data(scanned, change):
    data = images.array(scanned.dwi.image).copy()
    change(data)
    return replace(scanned.dwi, image=images.make(data, scanned.dwi.image.affine))


def test_a_volume_that_lost_its_signal_is_named(scanned):
    volume = int(np.flatnonzero(~scanned.dwi.is_b0)[8])

    def lose(data):
        centre = data.shape[2] // 2
        data[:, :, centre - 3 : centre + 4, volume] *= 0.3

    found = alps.measure(_with_data(scanned, lose), n_bootstrap=10)
    assert found.status == "warn"
    assert found.reasons[0].startswith(f"volume {volume} has down to")
    assert found.to_row()["left_out"] == str(volume)
    assert found.n_directions == 31
    for text in found.reasons[1:]:
        assert "outliers" not in text, "what was left out still moves the fit"
    clean = alps.measure(scanned.dwi, n_bootstrap=10)
    assert clean.status == "pass"


def test_a_map_among_the_volumes_without_weighting_is_named(scanned):
    weighted = images.array(scanned.dwi.image)[..., ~scanned.dwi.is_b0].mean(axis=-1)
    volume = int(np.flatnonzero(scanned.dwi.is_b0)[-1])

    def put_map(data):
        fast = weighted.max() - weighted  # bright where diffusion is fast
        brain = np.asarray(scanned.mask.dataobj) > 0
        data[..., volume] = fast * data[brain, volume].mean() / fast[brain].mean()

    found = alps.measure(_with_data(scanned, put_map), n_bootstrap=10)
    assert any(f"volume {volume} looks like no other b=0" in text for text in found.reasons)
    assert found.n_b0 == scanned.dwi.is_b0.sum() - 1


def test_one_cause_is_one_sentence(scanned):
    """Four regions of too few voxels are one finding, not four."""
    seen = [(f"{name.replace('_', ' ')}: ", 2.5) for name in regions.NAMES]
    seen[0] = (seen[0][0], 2.41)
    text = quality._sentence("n_voxels", seen, False)
    assert text == (
        "left projection, left association, right projection, right association: "
        "voxels 2.41 to 2.50 (limit 3.0)"
    )
    found = alps.measure(scanned.dwi, n_bootstrap=10)
    causes = [text.partition(": ")[2].split(" ")[0] for text in found.reasons if ": " in text]
    assert len(causes) == len(set(causes))


def test_a_shell_of_2000_is_measured_with_a_word(scanned):
    """The index is a ratio, so scaled b-values leave it; what they mean changes."""
    scaled = replace(scanned.dwi, bvals_s_mm2=2 * np.asarray(scanned.dwi.bvals_s_mm2))
    plain, high = (alps.measure(dwi, n_bootstrap=10) for dwi in (scanned.dwi, scaled))
    assert high.indices["tract"]["mean"].value == pytest.approx(
        plain.indices["tract"]["mean"].value, abs=0.02
    )
    assert any("no longer falls as a tensor's does" in text for text in high.reasons)
    assert not any("no longer falls" in text for text in plain.reasons)
    with pytest.raises(InputError, match="up to 3000"):
        alps.measure(replace(scanned.dwi, bvals_s_mm2=4 * np.asarray(scanned.dwi.bvals_s_mm2)))


def test_a_header_that_leaves_the_side_open_is_told(scanned):
    image = images.make(images.array(scanned.dwi.image), scanned.dwi.image.affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), 1)
    found = alps.measure(replace(scanned.dwi, image=image), n_bootstrap=10)
    assert found.reasons[0].startswith("orientation: qform and sform disagree")


def test_a_row_that_does_not_belong_to_its_volume_is_named(scanned):
    """Two exchanged rows, then a wrong b-value: each is named by its volume in the file."""
    one, two = np.flatnonzero(~scanned.dwi.is_b0)[[4, 19]]
    bvecs = scanned.dwi.bvecs_ras.copy()
    bvecs[[one, two]] = bvecs[[two, one]]
    found = alps.measure(replace(scanned.dwi, bvecs_ras=bvecs), n_bootstrap=10)
    assert found.status == "fail"
    assert set(found.bvecs.odd_rows(deg=22)) == {one, two}
    assert any(t.startswith("b-vectors, volumes ") and str(one) in t for t in found.reasons)
    bvals = scanned.dwi.bvals_s_mm2.copy()
    bvals[two] *= 0.92
    near = alps.measure(replace(scanned.dwi, bvals_s_mm2=bvals), n_bootstrap=10)
    assert near.status == "pass", near.reasons


def test_the_hint_names_the_row_of_the_file(scanned):
    """In sagittal storage the second row runs along another axis than in axial storage."""
    image = scanned.dwi.image
    change = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SAL")
    )
    stored = image.as_reoriented(change)
    table = fsl_bvecs(images.Dwi(stored, scanned.dwi.bvals_s_mm2, scanned.dwi.bvecs_ras))
    for row, name in ((0, "x"), (2, "z")):
        wrong = table * np.where(np.arange(3) == row, -1, 1)[:, None]
        dwi = images.load_dwi(stored, scanned.dwi.bvals_s_mm2, wrong)
        found = alps.measure(dwi, registration=known(), n_bootstrap=10)
        assert found.bvecs.best == f"row {row + 1} ({name}) with the other sign"


def test_samples_at_or_below_zero_do_not_rule_the_fit(scanned):
    plain = alps.measure(scanned.dwi, registration=known(), n_bootstrap=10)

    def lower(data):
        rng = np.random.default_rng(3)
        hit = rng.random(data.shape) < 0.01
        hit[..., scanned.dwi.is_b0] = False
        data[hit] = rng.choice([-20.0, 0.0, 1e-6], hit.sum())

    found = alps.measure(_with_data(scanned, lower), registration=known(), n_bootstrap=10)
    difference = found.to_row()["alps_tract_mean"] - plain.to_row()["alps_tract_mean"]
    assert abs(difference) < 0.12
    assert any("at or below zero" in text for text in found.reasons)


def test_regions_drawn_by_hand_on_the_wrong_side_are_refused(scanned):
    right = alps.measure(scanned.dwi, registration=known(), n_bootstrap=10)
    labels = np.asarray(right.labels.dataobj)
    again = alps.measure(scanned.dwi, rois=right.labels, registration=known(), n_bootstrap=10)
    assert again.to_row()["alps_tract_mean"] == pytest.approx(
        right.to_row()["alps_tract_mean"], abs=0.05
    )
    for order, match in (([0, 3, 4, 1, 2], "lies on the right"), ([0, 2, 1, 4, 3], "run inside")):
        drawn = images.make(np.array(order, np.uint8)[labels], scanned.dwi.image.affine)
        with pytest.raises(InputError, match=match):
            alps.measure(scanned.dwi, rois=drawn, registration=known(), n_bootstrap=10)


def test_the_page_shows_the_regions_close_up_and_the_index_by_place(result):
    """Pictures hold all regions, fibres that run as they should, and the index as measured."""
    close = figures.regions_close_up(result)
    assert [ax.get_title() for ax in close.axes[:2]] == ["right, axial", "left, axial"]
    for ax in close.axes[:2]:
        outlines = [c for c in ax.collections if isinstance(c, QuadContourSet)]
        assert len(outlines) == 2, "projection and association"
    for ax in close.axes[2:4]:  # coronal: projection fibres run up, near their outline
        lines = next(c for c in ax.collections if isinstance(c, LineCollection))
        ends = np.array(lines.get_segments())
        upright = np.abs(ends[:, 1] - ends[:, 0])
        assert (upright[:, 1] > 0.6).sum() > 20
    by_place = figures.index_by_place(result)
    curve = by_place.axes[2].lines[0]  # upwards, left
    assert curve.get_ydata()[3] == pytest.approx(result.indices["tract"]["left"].value, abs=0.01)
    drawn = figures.index_by_place(replace(result, spheres=None))
    assert drawn is None, "regions drawn by hand have no radius"
    plt.close("all")


def test_a_wrong_b_value_of_one_volume_is_told(scanned):
    """A b-value that no other volume has, and half of a shell at the wrong b-value."""
    weighted = np.flatnonzero(~scanned.dwi.is_b0)
    bvals = scanned.dwi.bvals_s_mm2.copy()
    bvals[weighted[7]] *= 0.5
    found = alps.measure(
        replace(scanned.dwi, bvals_s_mm2=bvals), registration=known(), n_bootstrap=10
    )
    assert f"volume {weighted[7]} has b=500" in found.reasons[0]
    assert found.to_row()["left_out"] == str(weighted[7])
    assert found.shells == "3 at b=0, 1 at b=500, 31 at b=1000"
    bvals = scanned.dwi.bvals_s_mm2.copy()
    bvals[weighted[::2]] *= 0.5
    half = alps.measure(
        replace(scanned.dwi, bvals_s_mm2=bvals), registration=known(), n_bootstrap=10
    )
    assert any(text.startswith("b-values, 16 rows") for text in half.reasons)
