"""Every scan gives a value for each nucleus, or says why it gives none."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, bids, images, qsm
from pvsbook.atlas import deep_grey
from pvsbook.figures import qsm as figures
from pvsbook.methods import by_name
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import nuclei


@pytest.fixture(scope="module")
def head():
    turned = pose((4, -6, 3), (3, 2, -4))
    return make_gre(np.random.default_rng(5), voxel_size_mm=2.5, mni_to_world=turned)


@pytest.fixture(scope="module")
def found(head):
    at = np.moveaxis(np.indices(head.brain.shape), 0, -1) @ head.gre.affine[:3, :3].T
    lesion = np.linalg.norm(at + head.gre.affine[:3, 3] - (30, -20, 30), axis=-1) < 7
    return nuclei.measure_nuclei(
        head.gre, qsm.reconstruct(head.gre), np.random.default_rng(0), atlas="schematic",
        lesions=lesion,
    )  # fmt: skip


def test_nuclei_of_a_turned_head_are_near_the_truth(head, found):
    assert found.status == "pass"
    rows = found.table.set_index(["region", "side"])
    true_ppb = {
        key: 1e3 * (head.chi_ppm[head.labels == label].mean() - head.chi_ppm[head.brain].mean())
        for key, label in rows["label"].items()
    }
    for region in ("caudate", "putamen", "pallidum", "thalamus"):
        for side in ("left", "right"):
            row = rows.loc[region, side]
            assert abs(row["mean_ppb"] - true_ppb[region, side]) < 25, (region, side)
            assert 0 < row["se_placement_ppb"] < 15
            assert np.hypot(row["se_noise_ppb"], row["se_placement_ppb"]) == pytest.approx(
                row["se_ppb"]
            )
    assert found.contrast_ppb > 90


def test_every_reference_moves_all_nuclei_alike(found):
    table = found.table.dropna(subset=["mean_ppb"])
    zeros = found.map.references.set_index("reference")
    for column, name in (("mean_csf_ppb", "CSF"), ("mean_white_ppb", "white matter")):
        moved = table[column] - table["mean_ppb"]
        assert np.ptp(moved) < 1e-6
        expected = zeros.loc["whole brain", "reference_value_ppb"]
        assert moved.iloc[0] == pytest.approx(expected - zeros.loc[name, "reference_value_ppb"])
    assert "registration" in zeros.loc["white matter", "note"]


def test_a_row_holds_what_its_dictionary_says(found):
    assert list(found.to_row()) == list(nuclei.COLUMNS)
    assert list(found.table.columns) == list(nuclei.REGION_COLUMNS)


def test_one_command_writes_all_that_the_echoes_hold(found, tmp_path):
    row = found.to_row()
    assert row["sources_status"].startswith("warn: R2 was not measured")
    assert row["n_calcifications"] == 1, "the phantom's own"
    assert row["n_lesions"] == 1
    means = found.table.set_index(["region", "side"])
    pallidum = means.loc[("pallidum", "left")]
    assert pallidum["paramagnetic_ppb"] > pallidum["diamagnetic_ppb"] > 0
    found.save(tmp_path, prefix="sub-1")
    for desc in ("paramagnetic", "diamagnetic"):
        about = images.read_json(tmp_path / f"sub-1/anat/sub-1_desc-{desc}_Chimap.json")
        assert about["Units"] == "ppm"
        assert about["Status"] == row["sources_status"]
        assert "12.5" in about["R2Hz"]
    for desc, table in (("objects", found.objects.table), ("lesions", found.lesions.table)):
        path = tmp_path / f"sub-1/anat/sub-1_desc-{desc}_qsm.tsv"
        assert len(pd.read_csv(path, sep="\t")) == len(table)
        assert path.with_name(f"sub-1_desc-{desc}_dseg.nii.gz").exists()
        assert len(pd.read_csv(path.with_name(f"sub-1_desc-{desc}_dseg.tsv"), sep="\t")) == len(
            table
        )
    shown = by_name("qsm").show(found)
    assert "candidates of microbleeds" in shown.summary
    assert "0 of 1 lesions" in shown.summary
    assert len(shown.figures) == 5
    plt.close("all")


def test_a_map_of_r2_on_another_grid_is_named(head, tmp_path):
    from pvsbook.methods import qsm as method

    grid = images.make(head.gre.magnitude[..., 0], head.gre.affine)
    path = images.save(images.make(head.r2_hz[1:], head.gre.affine), tmp_path / "r2.nii.gz")
    with pytest.raises(InputError, match=r"r2\.nii\.gz: its grid is"):
        method._on_grid(path, grid)
    path = images.save(images.make(head.r2_hz, head.gre.affine), path)
    assert method._on_grid(path, grid).shape == head.r2_hz.shape


def test_a_phase_of_the_other_sign_is_told_by_the_nuclei(head):
    gre = replace(head.gre, phase_rad=-head.gre.phase_rad)
    turned = nuclei.measure_nuclei(
        gre, qsm.reconstruct(gre), np.random.default_rng(0), atlas="schematic"
    )
    assert turned.status == "fail"
    assert "the phase has the other sign" in turned.reasons[-1]
    assert turned.table["mean_ppb"].isna().all()
    row = turned.to_row()
    assert np.isnan(row["chi_mean_ppb"])
    assert np.isnan(row["n_microbleeds"]), "of the other sign they would be calcifications"
    assert row["sources_status"] == "withheld: the map is not supported"
    mended = qsm.reconstruct(gre, phase_sign=-1)
    again = nuclei.measure_nuclei(gre, mended, np.random.default_rng(0), atlas="schematic")
    assert again.status == "pass", "what the message advises works"


def test_a_head_upside_down_gives_no_nuclei(head):
    gre = head.gre
    over = replace(
        gre, magnitude=gre.magnitude[:, :, ::-1].copy(), phase_rad=gre.phase_rad[:, :, ::-1].copy()
    )
    result = qsm.reconstruct(over)
    nothing = nuclei.measure_nuclei(over, result, np.random.default_rng(0), atlas="schematic")
    assert nothing.table["mean_ppb"].isna().all()
    assert nothing.status != "pass"


def test_a_scan_too_small_to_place_says_so(head):
    gre = head.gre
    middle = tuple(slice(n // 2 - 10, n // 2 + 10) for n in gre.phase_rad.shape[:3])
    crop = replace(gre, magnitude=gre.magnitude[middle], phase_rad=gre.phase_rad[middle])
    result = qsm.reconstruct(crop)
    nothing = nuclei.measure_nuclei(crop, result, np.random.default_rng(0), atlas="schematic")
    assert nothing.status == "fail"
    assert nothing.registration is None
    with_flags_off = replace(result, flags=())
    tried = nuclei.measure_nuclei(
        crop, with_flags_off, np.random.default_rng(0), atlas="schematic"
    )
    assert any("nuclei: " in reason for reason in tried.reasons)


def test_without_enough_white_matter_the_scan_is_measured_and_says_so(head, found, monkeypatch):
    monkeypatch.setattr(nuclei, "MIN_WHITE", 1.1)
    few = nuclei.measure_nuclei(
        head.gre, qsm.reconstruct(head.gre), np.random.default_rng(0), atlas="schematic"
    )
    assert few.table["mean_ppb"].isna().all()
    assert "lies outside the map" in few.reasons[-1]
    assert few.r2s_hz is not None


@pytest.mark.parametrize(("contrast", "words"), [(np.nan, "outside the map"), (5.0, "elsewhere")])
def test_why_a_pallidum_is_not_believed(contrast, words):
    flag = nuclei.contrast_flag(contrast)
    assert words in flag.message
    assert not flag.steps, "the map may be right"


def test_without_the_atlas_the_shapes_are_named_as_such(head, found, monkeypatch):
    monkeypatch.setattr(deep_grey, "has_tian", lambda: False)
    result = replace(found.map, flags=())
    seen = nuclei.measure_nuclei(head.gre, result, np.random.default_rng(0), n_repeats=1)
    assert seen.status == "warn"
    assert "pvsbook data fetch atlas_tian" in seen.reasons[0]
    assert seen.table["atlas"].unique().tolist() == ["schematic"]


@pytest.mark.public
def test_the_melbourne_nuclei_stand_where_the_atlas_has_them(public_file):
    for name in deep_grey.TIAN_FILES:
        public_file("atlas_tian", name)
    assert deep_grey.has_tian()
    image, table = deep_grey.nuclei("melbourne")
    theirs, names = deep_grey.tian()
    numbers = images.array(image).astype(int)
    assert table["label"].tolist() == deep_grey.table()["label"].tolist()
    by_atlas = table.groupby("atlas")["region"].unique()
    assert set(by_atlas["Melbourne"]) == {"caudate", "putamen", "pallidum", "thalamus"}
    label = table.set_index(["region", "side"])["label"]
    for region, side in (("caudate", "left"), ("pallidum", "right")):
        their = names[(names["region"] == region) & (names["side"] == side)]["label"].iloc[0]
        volumes = [
            (numbers == label[region, side]).sum(),
            8 * (images.array(theirs) == their).sum(),
        ]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05)
    assert (numbers == label["pulvinar", "left"]).sum() > 200


def test_the_picture_names_every_nucleus_measured(found):
    figure = figures.nuclei(found)
    axes = [ax for ax in figure.axes if ax.get_yticklabels()]
    shown = {text.get_text() for ax in axes for text in ax.get_yticklabels()}
    assert {"pallidum", "thalamus"} <= shown
    plt.close(figure)


def test_the_command_writes_nuclei_labels_and_references(head, tmp_path):
    files = {"magnitude": [], "phase": []}
    for role, values in (("magnitude", head.gre.magnitude), ("phase", head.gre.phase_rad)):
        path = tmp_path / f"sub-1_part-{'mag' if role == 'magnitude' else 'phase'}_MEGRE.nii.gz"
        files[role].append(images.save(images.make(values, head.gre.affine), path))
    out = tmp_path / "out"
    done = bids.measure_files(
        by_name("qsm"), files, out, atlas="schematic",
        echo_times_s=head.gre.echo_times_s.tolist(), field_strength_t=3.0,
    )  # fmt: skip
    anat = out / "sub-1" / "anat"
    table = pd.read_csv(anat / "sub-1_desc-nuclei_qsm.tsv", sep="\t")
    assert len(table) == 16
    assert done.row["pallidum_left_ppb"] == pytest.approx(
        table.set_index(["region", "side"]).loc[("pallidum", "left"), "mean_ppb"]
    )
    assert (anat / "sub-1_desc-nuclei_dseg.nii.gz").is_file()
    r2s, swi, lowest = (
        images.array(images.load(anat / f"sub-1_{suffix}.nii.gz"))
        for suffix in ("R2starmap", "swi", "minIP")
    )
    assert (lowest <= swi + 1e-6).all()
    white = head.brain & (head.chi_ppm < -0.02) & (r2s > 0)
    iron = np.isin(head.labels, (5, 6)) & (r2s > 0)
    assert np.median(r2s[iron]) > np.median(r2s[white]) > 5
    pallidum = table[table["region"] == "pallidum"]["r2s_hz"]
    assert pallidum.to_numpy() == pytest.approx(np.median(r2s[iron]), rel=0.4)
    assert "16 nuclei were measured" in done.summary
