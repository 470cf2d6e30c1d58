"""The three virtual studies: declared, drawn, measured without the truth, recovered."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pvsbook import InputError
from pvsbook.stats import groups
from pvsbook_book import statistics_figures as draw
from pvsbook_book.studies import migraine, model, ms, nmosd, persons, published, repeat

MODULES = {"nmosd": nmosd, "migraine": migraine, "ms": ms}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    found = {}
    for name, module in MODULES.items():
        rng = np.random.default_rng(21)
        found[name] = module.observe(rng, module.draw(rng))
    return found


@pytest.fixture(scope="module")
def many_nmosd() -> pd.DataFrame:
    rng = np.random.default_rng(22)
    declared = nmosd.Model(n_patients=4000, n_controls=4000)
    return nmosd.draw(rng, declared)


# --- declarations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_has_a_source(name):
    table = model.describe(MODULES[name].Model())
    assert len(table) == len(fields(MODULES[name].Model))
    for source in table["source"]:
        known = ("assumed", "measured: benchmarks/", "measured on simulated images, seed")
        assert source.startswith(known) or any(
            word in source for word in ("abstract", "adults", "doi:", "controls of the same")
        ), source


def test_the_printed_study_sizes():
    assert [len(m.draw(np.random.default_rng(0))) for m in MODULES.values()] == [80, 25, 160]


def test_no_truth_reaches_a_table(tables):
    for table in tables.values():
        assert not any(c.startswith("true_") for c in table)


def test_the_same_seed_gives_the_same_study():
    a, b = (repeat.run_once("migraine", seed=4, number=2) for _ in range(2))
    pd.testing.assert_frame_equal(a, b)
    assert repeat.run_once("migraine", seed=5, number=2)["estimate"][0] != a["estimate"][0]


# --- what was declared is in the people ----------------------------------------------------------


def test_nmosd_people_follow_the_declaration(many_nmosd):
    declared, people = nmosd.Model(), many_nmosd
    ill = people["group"] == "NMOSD"
    severe = people["true_pvs"] > declared.severe_above
    assert severe[ill].mean() == pytest.approx(10 / 34, abs=0.025)
    assert severe[~ill].mean() == pytest.approx(4 / 46, abs=0.02)
    difference = people.loc[ill, "true_alps"].mean() - people.loc[~ill, "true_alps"].mean()
    assert difference == pytest.approx(nmosd.truths()["ALPS difference"], abs=0.015)
    healthy = people[~ill]
    assert healthy["true_alps"].mean() == pytest.approx(1.37, abs=0.012)
    assert healthy["true_alps"].std() == pytest.approx(0.21, abs=0.01)
    assert healthy["true_alps"].corr(healthy["age_years"]) == pytest.approx(-0.45, abs=0.04)
    for name in ("true_deep_grey_z", "cognition_z"):
        r = people.loc[ill, "true_pvs"].corr(people.loc[ill, name], method="spearman")
        assert r == pytest.approx(-0.40, abs=0.05)


def test_migraine_and_ms_people_follow_the_declaration():
    rng = np.random.default_rng(23)
    some = migraine.draw(rng, migraine.Model(n_chronic=3000, n_episodic=3000, n_controls=3000))
    means = some.groupby("group")["true_cso"].mean()
    assert means["chronic"] / means["controls"] == pytest.approx(1.8, rel=0.05)
    assert some["age_years"].between(25, 60).all()
    people = ms.draw(rng, ms.Model(n_patients=4000, n_controls=4000))
    means = people.groupby("group").mean(numeric_only=True)
    gap = means.loc["MS"] - means.loc["controls"]
    assert gap["true_thalamus_1_ppb"] == pytest.approx(-6.4, abs=0.9)
    rise = means["true_caudate_2_ppb"] - means["true_caudate_1_ppb"]
    assert rise.to_numpy() == pytest.approx(2.0, abs=0.15)


def test_atrophy_concentrates_iron_without_new_iron():
    rng = np.random.default_rng(24)
    kept = ms.Model(iron_kept=1.0, n_patients=2000, n_controls=2000)
    people = ms.draw(rng, kept)
    rise = (people["true_caudate_2_ppb"] - people["true_caudate_1_ppb"]).groupby(people["group"])
    assert rise.mean()["MS"] > rise.mean()["controls"] > kept.caudate_change_ppb


# --- analyses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_the_primary_effects_have_the_names_of_what_was_declared(name, tables):
    found = MODULES[name].primary(tables[name])
    assert found["term"].tolist() == list(MODULES[name].truths())
    assert (found["low"] < found["estimate"]).all()
    assert (found["estimate"] < found["high"]).all()


def test_odds_and_rate_ratios_are_given_as_logarithms(tables):
    table = tables["nmosd"]
    events, n = (table.groupby("group")["severe"].agg(how) for how in ("sum", "size"))
    odds = events / (n - events)
    found = nmosd.primary(table).set_index("term").loc["log odds ratio"]
    assert found["estimate"] == pytest.approx(np.log(odds["NMOSD"] / odds["controls"]))
    rate = migraine.primary(tables["migraine"]).loc[0]
    assert rate["measure"] == "rate ratio"
    assert abs(rate["estimate"]) < 1.5


def test_seven_tesla_sees_more_of_the_same_people():
    people = migraine.draw(np.random.default_rng(1))
    seen = [
        migraine.observe(np.random.default_rng(2), people, field=f)["cso"] for f in ("3t", "7t")
    ]
    assert seen[0].mean() < seen[1].mean()


def test_the_reference_moves_a_difference_of_the_groups():
    people = ms.draw(np.random.default_rng(26))
    gaps = {}
    for reference in ms.REFERENCES:
        table = ms.observe(np.random.default_rng(1), people, reference=reference)
        assert table["chi_ppb"].notna().all()
        means = table[table["structure"] == "thalamus"].groupby("group")["chi_ppb"].mean()
        gaps[reference] = means["MS"] - means["controls"]
    declared = ms.Model()
    higher = declared.white_d_ppb + declared.white_change_ppb / 2  # averaged over two visits
    assert gaps["whole brain"] - gaps["white matter"] == pytest.approx(higher)
    with pytest.raises(InputError, match="reference, background"):
        ms.observe(np.random.default_rng(0), people, reference="bone")


# --- recovery ------------------------------------------------------------------------------------


def test_recovery_of_a_clean_migraine_study():
    clean = migraine.Model(
        n_chronic=40, n_episodic=40, n_controls=40, false_7t=0.0, wmh_called_pvs=0.0
    )
    found = repeat.recovery(repeat.repeat("migraine", n_studies=30, seed=31, model=clean)).loc[0]
    assert found["low"] - 0.05 < found["declared"] < found["high"] + 0.05
    assert found["coverage_high"] > 0.9


def test_false_spaces_pull_the_ratio_towards_one():
    many = migraine.Model(n_chronic=200, n_episodic=200, n_controls=200)
    clean = replace(many, false_7t=0.0, wmh_called_pvs=0.0)
    a, b = (repeat.run_once("migraine", seed=1, model=m)["estimate"][0] for m in (many, clean))
    assert a < b


def test_a_study_without_an_estimate_counts_as_one_that_misses():
    rows = repeat.repeat("nmosd", n_studies=4, seed=1)
    rows.loc[rows["study"] == 0, ["estimate", "low", "high", "p"]] = np.nan
    found = repeat.recovery(rows).set_index("term").loc["ALPS difference"]
    assert found["failed"] == 1
    assert found["coverage"] <= 0.75
    with pytest.raises(InputError, match="study: 'stroke'"):
        repeat.find_study("stroke")


# --- published counts ----------------------------------------------------------------------------


def test_yuan_is_recomputed_to_the_printed_digits():
    found = published.recompute_yuan()
    for row in found.itertuples():
        digits = len(row.p_printed.split(".")[1])
        assert f"{row.p:.{digits}f}" == row.p_printed
    printed = found["percent_first"].round(2).tolist()[:2]
    assert printed == [64.94, 55.75]
    assert found["percent_second"].round(2).tolist()[:2] == [42.11, 29.82]


def test_the_impossible_percentage_is_found():
    assert published.possible_counts("42.11", 57) == [24]
    assert published.possible_counts("69.49", 59) == [41]
    assert published.possible_counts("69.94", 59) == []
    assert published.possible_counts("50", 2) == [1]
    with pytest.raises(InputError, match="give text such as"):
        published.possible_counts("many", 59)


def test_printed_nmosd_percentages_allow_one_count_each():
    counts = published.NMOSD_SEVERE
    assert published.possible_counts("29.4", counts.n["NMOSD"]) == [counts.events["NMOSD"]]
    assert published.possible_counts("8.7", counts.n["controls"]) == [counts.events["controls"]]


def test_the_summaries_of_the_non_replication():
    s = published.ALPS_WITHOUT_LESIONS
    (m1, m2), (sd1, sd2), (n1, n2) = s["mean"], s["sd"], s["n"]
    found = stats.ttest_ind_from_stats(m1, sd1, n1, m2, sd2, n2, equal_var=False)
    assert round(found.pvalue, 2) == 0.62 != s["p_printed"]


# --- image level ---------------------------------------------------------------------------------


def test_a_person_outside_the_cohort_is_refused():
    with pytest.raises(InputError, match="people 0 to 24"):
        persons.measure_person("migraine", seed=3, number=25)


def test_the_two_visits_are_scans_of_their_own(monkeypatch):
    monkeypatch.setattr(ms, "GRE_MM", 5.0)
    rng = np.random.default_rng(5)
    first, second = ms.scan(rng, ms.draw(rng).iloc[0])
    assert first.magnitude.shape[-1] == 3
    assert first.phase_rad.shape != second.phase_rad.shape or not np.array_equal(
        first.phase_rad, second.phase_rad
    )


def test_tissue_has_the_index_of_the_person():
    for index in (0.6, 0.95, 1.0, 1.1, 1.37, 1.7):
        tissue = nmosd._tissue(index, 0.0)
        assert nmosd.true_index(tissue) == pytest.approx(index, abs=1e-6)
    assert nmosd._tissue(0.01, 0.0).perivascular == nmosd._tissue(9.0, 0.0).perivascular == 0.35


# --- figures -------------------------------------------------------------------------------------


def test_figures_draw_every_row(tables):
    found = nmosd.primary(tables["nmosd"])
    figure, axes = plt.subplots(2, 2)
    draw.draw_forest(found, axes[0, 0], truth=-0.168)
    assert len(axes[0, 0].get_yticklabels()) == 2
    odds = groups.compare_counts((10, 4), (34, 46))
    draw.draw_forest(odds, axes[0, 1], label="test", null=1, log=True)
    rows = repeat.repeat("nmosd", n_studies=3, seed=2)
    rows = rows[rows["term"] == "ALPS difference"].reset_index(drop=True)
    draw.draw_repeats(rows, axes[1, 0], truth=-0.168)
    estimate = np.arange(4.0) - 1
    many = pd.DataFrame({"estimate": estimate, "low": estimate - 1, "high": estimate + 1})
    many = many.assign(p=[0.2, 0.6, 0.04, 0.01], mask=list("aabb"), covariate=list("xyxy"))
    draw.draw_specifications(many, (axes[1, 0], axes[1, 1]), choices=["mask", "covariate"])
    assert len(axes[1, 1].get_yticklabels()) == 4
    plt.close(figure)


@pytest.mark.parametrize("setting", repeat.SETTINGS)
def test_a_stored_repeat_comes_out_again(setting):
    stored = repeat.load_stored(setting)
    draw = time.time_ns() % 2**32
    number = int(np.random.default_rng(draw).integers(stored["study"].max() + 1))
    print(f"drawn with {draw}: {setting}, study {number}")
    study = repeat.SETTINGS[setting][0]
    again = repeat.run_once(study, seed=repeat.SEED, number=number, model=repeat.declared(setting))
    row = stored[stored["study"] == number].reset_index(drop=True)
    assert list(row["term"]) == list(again["term"])
    for name in ("estimate", "low", "high", "p"):
        np.testing.assert_allclose(
            row[name].astype(float), again[name].astype(float), rtol=1e-3, atol=1e-4
        )


def test_stored_repeats_are_two_hundred_of_each_setting():
    for setting in repeat.SETTINGS:
        stored = repeat.load_stored(setting)
        truths = repeat.find_study(repeat.SETTINGS[setting][0]).truths(repeat.declared(setting))
        assert stored.groupby("term").size().to_dict() == dict.fromkeys(truths, 200)
        assert stored.groupby("term")["truth"].first().to_dict() == pytest.approx(truths, rel=1e-5)
    with pytest.raises(InputError, match="setting: 'stroke'; one of nmosd"):
        repeat.load_stored("stroke")
