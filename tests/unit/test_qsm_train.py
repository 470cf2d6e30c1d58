"""Two sources, small objects and lesions of one echo train, against planted truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from pvsbook import InputError, qsm
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import lesions, microbleeds, r2s, separation

SHAPE = (64, 60, 56)
GRID = np.indices(SHAPE)
INSIDE = np.linalg.norm([(g - n / 2) / n for g, n in zip(GRID, SHAPE, strict=True)], axis=0) < 0.49
KNOWN = {"measured": INSIDE}


def blob(centre, width_mm=1.5):
    """A smooth spot of height 1; widths may differ by axis."""
    widths = np.broadcast_to(np.asarray(width_mm, float), 3)
    parts = zip(GRID, centre, widths, strict=True)
    return np.exp(-sum(((g - c) / w) ** 2 for g, c, w in parts) / 2)


def world(seed=0, noise_ppm=0.01):
    rng = np.random.default_rng(seed)
    return rng.normal(0, noise_ppm, SHAPE), 20 + rng.normal(0, 1, SHAPE)


def find(chi, rate, **more):
    found = microbleeds.find_small_sources(
        chi, INSIDE, rate, np.diag([1, 1, 1, 1.0]), **(KNOWN | more)
    )
    return found, found.table.set_index("class")


def test_each_kind_of_object_is_told_from_the_others():
    chi, rate = world()
    bleed, stone = blob((20, 30, 28)), blob((44, 30, 28))
    vein = blob((32, 44, 28), (8, 0.8, 0.8))
    chi = chi + 0.6 * bleed - 0.8 * stone + 0.4 * vein
    found, table = find(chi, rate + 60 * (bleed + stone + vein))
    assert sorted(table.index) == ["calcification", "microbleed", "vein"]
    place = table.loc[["microbleed"], ["x_mm", "y_mm", "z_mm"]].to_numpy()[0]
    assert np.abs(place - (20, 30, 28)).max() < 0.3
    assert table.loc["calcification", "mean_ppb"] < -400
    assert (found.labels > 0).sum() == table["volume_mm3"].sum()
    row = found.to_row()
    assert row["n_microbleeds"] == row["n_calcifications"] == 1
    assert row["n_microbleeds_false"] == row["n_uncertain_objects"] == 0
    turned, other = find(-chi, rate + 60 * (bleed + stone + vein))
    assert other.loc["microbleed", "mean_ppb"] > 400, "the other sign is the other kind"
    assert turned.table["class"].tolist().count("vein") == 0


@pytest.mark.parametrize(
    ("centre", "width_mm", "rises", "more", "words"),
    [
        ((20, 30, 28), 1.5, False, {}, "R2* does not rise"),
        ((20, 30, 28), 0.4, True, {}, "smaller than 2 mm"),
        ((20, 30, 28), 6.0, True, {}, "larger than 10 mm"),
        ((3, 30, 28), 1.2, True, {}, "near the edge"),
        ((20, 30, 28), 1.5, True, {"nuclei": blob((20, 30, 28), 3) > 0.5}, "deep grey nucleus"),
    ],
)
def test_what_misses_one_rule_is_uncertain_and_says_which(centre, width_mm, rises, more, words):
    chi, rate = world(1)
    spot = blob(centre, width_mm)
    _, table = find(chi + 1.2 * spot, rate + rises * 80 * spot, **more)
    assert "microbleed" not in table.index
    assert any(words in text for text in table["reasons"])


def test_an_artefact_beside_a_strong_source_is_no_source_of_its_own():
    chi, rate = world(2)
    strong, beside = blob((30, 30, 28)), blob((30, 30, 35), 1.2)
    rate = rate + 60 * strong + 60 * beside
    _, table = find(chi - 1.5 * strong + 0.4 * beside, rate)
    assert list(table.index) == ["uncertain", "calcification"]
    assert table.loc["uncertain", "reasons"] == "beside a stronger source"
    _, alone = find(chi + 0.4 * beside, rate)
    assert list(alone.index) == ["microbleed"]


def test_a_source_too_strong_to_be_measured_counts_as_one_where_r2s_rises():
    chi, rate = world(3)
    spot = blob((20, 30, 28))
    _, table = find(chi + 1.5 * spot, rate, measured=INSIDE & (spot < 0.02))
    assert list(table.index) == ["microbleed"]


def test_false_ones_are_expected_where_candidates_are_not_confirmed():
    columns = {"class": ["uncertain"] * 4, "peak_ppb": [200, 180, 160, -170.0]}
    table = pd.DataFrame(columns | {"reasons": [microbleeds.NO_RISE] * 4})
    row = microbleeds.SmallSources(table, np.zeros((1, 1, 1), np.int32), 0.2).to_row()
    assert row["n_microbleeds_false"] == pytest.approx(3 * 0.2 / 0.8)
    assert row["n_calcifications_false"] == pytest.approx(1 * 0.2 / 0.8)
    assert row["n_uncertain_objects"] == 4


def test_an_empty_mask_holds_no_object():
    nothing = np.zeros(SHAPE, bool)
    found = microbleeds.find_small_sources(
        np.zeros(SHAPE), nothing, np.zeros(SHAPE), np.eye(4), measured=nothing
    )
    assert found.table.empty
    assert found.to_row()["n_microbleeds"] == 0


def radius(centre):
    return np.linalg.norm([g - c for g, c in zip(GRID, centre, strict=True)], axis=0)


@pytest.mark.parametrize(
    ("draw", "rim"),
    [
        (lambda r: 0.05 * ((r > 3) & (r < 5)), "yes"),
        (lambda r: 0.05 * (r < 5), "no"),  # bright all over
        (lambda r: -0.05 * (r < 3.4), "no"),  # a dark core alone: the rim is like what is around
        (lambda r: 0.05 * ((r > 3) & (r < 5) & (GRID[0] > 32)), "no"),  # half of the edge
        (lambda r: 0.0 * r, "no"),
    ],
)
def test_a_rim_stands_out_from_centre_and_surround_along_two_thirds(draw, rim):
    chi, _ = world(4)
    r = radius((32, 30, 28))
    found = lesions.measure_lesions(
        chi + draw(r), r < 5, INSIDE, np.eye(4), np.random.default_rng(0), white_matter=INSIDE
    )
    row = found.table.iloc[0]
    assert row["rim"] == rim
    assert row["rim_ppb"] == min(row["rim_centre_ppb"], row["rim_around_ppb"])
    assert row["mean_white_ppb"] == pytest.approx(row["mean_ppb"], abs=1), "white matter is at 0"
    assert found.to_row()["n_rim_lesions"] == (rim == "yes")
    assert found.n_false < 0.1


@pytest.mark.parametrize(("texture_ppm", "rim"), [(0.030, "no"), (0.005, "yes")])
def test_a_faint_rim_is_none_where_white_matter_varies_as_much(texture_ppm, rim):
    chi = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.5)
    chi *= texture_ppm / chi.std()
    r = radius((32, 30, 28))
    chi = np.where(r < 9, 0.006 * chi / texture_ppm, chi) + 0.012 * ((r > 3) & (r < 5))
    found = lesions.measure_lesions(
        chi, r < 5, INSIDE, np.eye(4), np.random.default_rng(0), white_matter=INSIDE
    )
    assert found.table["rim_cover"].item() > 2 / 3
    assert found.table["rim"].tolist() == [rim]


def test_small_lesions_have_a_mean_but_no_rim_and_specks_are_left_out():
    chi, _ = world(5)
    small, speck = radius((20, 30, 28)) < 2, radius((44, 30, 28)) < 1.1
    found = lesions.measure_lesions(
        chi + 0.04 * small, small | speck, INSIDE, np.eye(4), np.random.default_rng(0)
    )
    assert found.table["rim"].tolist() == ["n/a"]
    assert found.table["mean_ppb"].item() == pytest.approx(40, abs=6)
    assert found.table["mean_around_ppb"].item() == pytest.approx(40, abs=6)
    assert np.isnan(found.table["mean_white_ppb"].item()), "no white matter was given"
    assert found.to_row()["n_rim_unknown"] == 1


def test_too_little_tissue_to_compare_with_gives_no_verdict():
    chi, _ = world(6)
    r = radius((32, 30, 28))
    found = lesions.measure_lesions(
        chi + 0.05 * ((r > 3) & (r < 5)), r < 5, INSIDE, np.eye(4), np.random.default_rng(0),
        white_matter=radius((50, 30, 28)) < 4,
    )  # fmt: skip
    assert found.table["rim"].tolist() == ["n/a"]
    assert found.table["rim_ppb"].item() > 20


def test_a_lesion_at_the_rim_of_the_volume_has_a_mean_alone():
    chi, _ = world(7)
    r = radius((5, 30, 28))
    found = lesions.measure_lesions(
        chi, r < 5, np.ones(SHAPE, bool), np.eye(4), np.random.default_rng(0)
    )
    assert found.table["rim"].tolist() == ["n/a"]
    assert np.isfinite(found.table["mean_ppb"].item())
    assert np.isnan(found.table["mean_around_ppb"].item())


@pytest.fixture(scope="module")
def scan():
    head = make_gre(
        np.random.default_rng(8), voxel_size_mm=2.5, sources=True, chi_ppb={"csf": 0.0}
    )
    result = qsm.reconstruct(head.gre)
    return head, result, r2s.fit_r2s(head.gre.magnitude, head.gre.echo_times_s, result.mask)


def test_sources_pass_with_a_map_of_r2_and_warn_with_an_assumed_one(scan):
    head, result, rate = scan
    given, status = separation.separate_scan(head.gre, result, rate, head.r2_hz)
    assert status == "pass"
    assert given.about["R2Hz"] == "map given"
    assumed, status = separation.separate_scan(head.gre, result, rate)
    assert status.startswith("warn: R2 was not measured, 12.5")
    inside = result.local_field.mask & (head.labels == 0) & (head.myelin_ppm > 0.04)
    assert given.myelin_ppm[inside].mean() == pytest.approx(0.055, abs=0.02)
    moved = assumed.iron_ppm[inside].mean() - given.iron_ppm[inside].mean()
    assert abs(moved) < 0.005, "the phantom's R2 is 12.5 in white matter"


@pytest.mark.parametrize("case", ["echoes", "strength", "fluid", "map"])
def test_sources_are_withheld_with_the_reason(scan, case):
    head, result, rate = scan
    gre = head.gre
    words = {"echoes": "3 echoes, and there are 2", "strength": "R2 at 7 T is not assumed",
             "fluid": "no CSF was found", "map": "not supported"}  # fmt: skip
    if case == "echoes":
        gre = replace(
            gre,
            echo_times_s=gre.echo_times_s[:2],
            magnitude=gre.magnitude[..., :2],
            phase_rad=gre.phase_rad[..., :2],
        )
    if case == "strength":
        gre = replace(gre, field_strength_t=7.0)
    if case == "fluid":
        result = replace(result, references=result.references.assign(reference_value_ppb=np.nan))
    if case == "map":
        flag = qsm.quality.Flag("crop", "cut", ("inversion",))
        result = replace(result, flags=(flag,))
    sources, status = separation.separate_scan(gre, result, rate)
    assert sources is None
    assert status.startswith("withheld")
    assert words[case] in status
    if case == "strength":
        assert separation.separate_scan(gre, result, rate, head.r2_hz)[0] is not None


def test_a_map_of_t2_in_ms_is_refused(scan):
    head, result, rate = scan
    with pytest.raises(InputError, match="1000 over T2"):
        separation.separate_scan(head.gre, result, rate, np.full(rate.shape, 80.0))
