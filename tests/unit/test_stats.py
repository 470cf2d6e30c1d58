"""Statistics against outside values: published digits, R output, statsmodels, closed forms."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.model_selection import StratifiedKFold
from statsmodels.stats.anova import anova_lm

from pvsbook import InputError
from pvsbook.stats import agreement, classify, groups, longitudinal, tables

DESIGN = {"value": "value", "group": "group", "time": "visit", "person": "person", "order": (1, 2)}
PAIR = ("first", "second")


def two_visits(seed: int = 0, n=(40, 15), changes=(1.0, 0.0)) -> pd.DataFrame:
    """Two groups at two visits: levels with an SD of 5, changes with one of 2."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 5, sum(n))
    change = np.repeat(changes, n) + rng.normal(0, 2, sum(n))
    person = np.arange(sum(n))
    return pd.DataFrame(
        {
            "person": np.r_[person, person],
            "group": np.tile(np.repeat(PAIR, n), 2),
            "visit": np.repeat([1, 2], sum(n)),
            "value": np.r_[level - change / 2, level + change / 2],
        }
    )


# --- published and outside values --------------------------------------------------------------


def test_nmosd_counts_give_the_published_figures():
    found = groups.compare_counts((10, 4), (34, 46)).set_index("test")
    wald = found.loc["chi-squared"]
    assert round(wald["estimate"], 2) == 4.38
    assert (round(wald["low"], 2), round(wald["high"], 1)) == (1.24, 15.5)
    assert found["p"].dropna().round(3).tolist() == [0.016, 0.035, 0.020]


# car::Anova on mtcars, wt ~ factor(cyl) * factor(am), as printed at
# https://riptutorial.com/r/example/12989/basic-usage-of-anova--
MTCARS = """6 1 2.620;6 1 2.875;4 1 2.320;6 0 3.215;8 0 3.440;6 0 3.460;8 0 3.570;4 0 3.190
4 0 3.150;6 0 3.440;6 0 3.440;8 0 4.070;8 0 3.730;8 0 3.780;8 0 5.250;8 0 5.424;8 0 5.345
4 1 2.200;4 1 1.615;4 1 1.835;4 0 2.465;8 0 3.520;8 0 3.435;8 0 3.840;8 0 3.845;4 1 1.935
4 1 2.140;4 1 1.513;8 1 3.170;6 1 2.770;8 1 3.570;4 1 2.780"""


def test_r_type_two_of_unbalanced_cars():
    rows = [row.split() for line in MTCARS.splitlines() for row in line.split(";")]
    cars = pd.DataFrame(rows, columns=["cyl", "am", "wt"]).astype({"wt": float})
    fit = smf.ols("wt ~ C(cyl) * C(am)", cars).fit()
    two, three = anova_lm(fit, typ=2), anova_lm(fit, typ=3)
    assert two["F"].dropna().round(4).tolist() == [11.5266, 10.4758, 0.1065]
    # R's type III with treatment contrasts, a well-known trap: not the test of equal means
    assert three["F"].dropna().round(4).tolist() == [82.4254, 6.3988, 5.5463, 0.1065]
    coded = anova_lm(smf.ols("wt ~ C(cyl, Sum) * C(am, Sum)", cars).fit(), typ=3)
    assert coded["F"].round(4).tolist()[1:3] != three["F"].round(4).tolist()[1:3]


# O'Brien and Kaiser's data from R's carData (treatment, gender, 3 phases x 5 hours), and the
# type 3 table of afex::aov_ez on them as printed at
# https://www.rdocumentation.org/packages/afex/versions/1.4-1/topics/aov_car
OBRIEN = """control,M,1,2,4,2,1,3,2,5,3,2,2,3,2,4,4
control,M,4,4,5,3,4,2,2,3,5,3,4,5,6,4,1
control,M,5,6,5,7,7,4,5,7,5,4,7,6,9,7,6
control,F,5,4,7,5,4,2,2,3,5,3,4,4,5,3,4
control,F,3,4,6,4,3,6,7,8,6,3,4,3,6,4,3
A,M,7,8,7,9,9,9,9,10,8,9,9,10,11,9,6
A,M,5,5,6,4,5,7,7,8,10,8,8,9,11,9,8
A,F,2,3,5,3,2,2,4,8,6,5,6,6,7,5,6
A,F,3,3,4,6,4,4,5,6,4,1,5,4,7,5,4
B,M,4,4,5,3,4,6,7,6,8,8,8,8,9,7,8
B,M,3,3,4,2,3,5,4,7,5,4,5,6,8,6,5
B,M,6,7,8,6,3,9,10,11,9,6,8,7,10,8,7
B,F,5,5,6,8,6,4,6,6,8,6,7,7,8,10,8
B,F,2,2,3,1,2,5,6,7,5,2,6,7,8,6,3
B,F,2,2,3,4,4,6,6,7,9,7,7,7,8,6,7
B,F,4,5,7,5,4,7,7,8,6,7,7,8,10,8,7"""


def _obrien() -> pd.DataFrame:
    rows = [line.split(",") for line in OBRIEN.splitlines()]
    values = np.array([[float(v) for v in row[2:]] for row in rows]).reshape(-1, 3, 5)
    table = pd.DataFrame([row[:2] for row in rows], columns=["treatment", "gender"])
    table["mean"] = values.mean(axis=(1, 2))
    for k, phase in enumerate(("pre", "post", "fup")):
        table[phase] = values[:, k].mean(axis=1)
    return table


def test_r_type_three_of_an_unbalanced_mixed_design():
    table = _obrien()
    fit = smf.ols("mean ~ C(treatment, Sum) * C(gender, Sum)", table).fit()
    found = anova_lm(fit, typ=3)
    assert found["F"].round(2).tolist()[1:4] == [3.94, 3.66, 2.86]
    assert found["df"].tolist()[1:] == [2, 1, 2, 10]
    assert round(15 * fit.scale, 2) == 22.81  # fifteen measures behind each mean


# --- identities ----------------------------------------------------------------------------------


def test_mixed_anova_equals_statsmodels_to_ten_digits():
    table = two_visits()
    found = longitudinal.mixed_anova(table, **DESIGN).set_index(["test", "term"])["statistic"]
    wide = longitudinal.change_scores(table, **DESIGN).table
    change = (wide["first"] - wide["second"]).to_numpy()
    # type II in a 2 x 2 design by statsmodels: group on the means, weighted mean of the changes
    residual = smf.ols("change ~ C(group)", wide).fit()
    between = anova_lm(smf.ols("mean ~ C(group)", wide).fit(), typ=2)
    expected = {
        ("F, type II", "interaction"): anova_lm(residual, typ=2)["F"].iloc[0],
        ("F, type II", "group"): between["F"].iloc[0],
        ("F, type II", "time"): len(wide) * change.mean() ** 2 / residual.scale,
    }
    design = np.column_stack([np.ones(len(wide)), np.where(wide["group"] == PAIR[0], 1, -1)])
    coded = sm.OLS(wide["change"].to_numpy(), design).fit()
    expected["F, type III", "time"] = coded.tvalues[0] ** 2
    expected["F, type III", "interaction"] = coded.tvalues[1] ** 2
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-10), key


def test_type_two_of_a_mixed_anova_is_that_of_pingouin():
    table = two_visits(2)
    table.loc[table["person"] % 3 == 0, "group"] = "third"
    table["visit"] = table["visit"].map({1: "a", 2: "b"})
    ours = longitudinal.mixed_anova(table, **DESIGN | {"order": ("a", "b")}).set_index("term")
    with warnings.catch_warnings():  # pingouin 0.7 calls pandas in ways that pandas 3 deprecates
        warnings.simplefilter("ignore")
        theirs = pingouin.mixed_anova(
            table, dv="value", within="visit", subject="person", between="group"
        ).set_index("Source")
    rows = theirs.loc[["Interaction", "group", "visit"]]
    names = {"statistic": "F", "p": "p_unc", "estimate": "np2"}
    for name, column in names.items():
        found = ours.loc[ours["test"] == "F, type II", name].to_numpy()
        assert found == pytest.approx(rows[column].to_numpy(float), rel=1e-9), name


def test_interaction_is_the_t_test_of_changes_and_group_that_of_means():
    table = two_visits(3)
    found = longitudinal.mixed_anova(table, **DESIGN).set_index(["test", "term"])["statistic"]
    wide = longitudinal.change_scores(table, **DESIGN).table
    for column, row in (
        ("change", ("F, type II", "interaction")), ("mean", ("F, type III", "group"))
    ):  # fmt: skip
        parts = [wide.loc[wide["group"] == g, column] for g in PAIR]
        t = stats.ttest_ind(*parts).statistic
        assert found[row] == pytest.approx(t**2, rel=1e-10)


def test_mixed_model_equals_type_three_on_complete_data():
    table = two_visits(4, n=(30, 12))
    model = longitudinal.mixed_model(table, **DESIGN, groups=PAIR).set_index("term")
    anova = longitudinal.mixed_anova(table, **DESIGN).set_index(["test", "term"])["statistic"]
    for ours, theirs in (("time", "time"), ("difference of changes", "interaction")):
        f = anova["F, type III", theirs]
        assert model.loc[ours, "statistic"] ** 2 == pytest.approx(f, rel=1e-4)
        assert model.loc[ours, "df"] == "40", "participants less two groups"
        p = anova.loc["F, type III", theirs]
        assert model.loc[ours, "p"] == pytest.approx(stats.f.sf(p, 1, 40), rel=1e-3)
    wide = longitudinal.change_scores(table, **DESIGN).table
    changes = [wide.loc[wide["group"] == g, "change"].mean() for g in PAIR]
    difference = model.loc["difference of changes", "estimate"]
    assert difference == pytest.approx(changes[0] - changes[1], rel=1e-6)


def test_mixed_model_keeps_people_with_one_visit():
    table = two_visits(5)
    some = table.drop(index=table.index[(table["visit"] == 2) & (table["person"] < 8)])
    assert (longitudinal.mixed_model(some, **DESIGN, groups=PAIR)["n"] == 55).all()
    checked = longitudinal.change_scores(some, **DESIGN)
    assert len(checked.table) == 47
    assert checked.dropped["reason"].str.contains("lacks visit 2").sum() == 8


def test_degrees_of_freedom_are_of_what_varies_within_or_between_participants():
    table = two_visits(5).assign(age=lambda t: t["person"] % 9 + 40.0)
    table["dose"] = np.random.default_rng(0).normal(size=len(table))
    some = table.drop(index=table.index[(table["visit"] == 2) & (table["person"] < 8)])
    found = longitudinal.mixed_model(some, **DESIGN, groups=PAIR, covariates=["age", "dose"])
    df = found.set_index("term")["df"]
    assert df[["time", "difference of changes", "dose"]].tolist() == ["44"] * 3, "47 pairs, less 3"
    assert df[["group", "age"]].tolist() == ["52"] * 2, "55 participants, less 3"
    assert found["rows"].eq(102).all()
    assert found["interval"][:5].eq("t").all()


def test_a_mixed_model_at_no_variance_between_participants_is_fitted():
    """The search by gradient stops there; what follows is least squares on all rows."""
    rng = np.random.default_rng(14)
    found = []
    for _ in range(20):
        table = two_visits(0, n=(10, 5)).assign(value=rng.normal(size=30))
        found.append(longitudinal.mixed_model(table, **DESIGN, groups=PAIR)["estimate"].iloc[3])
    assert min(found) < 1e-6 < max(found)


def test_limits_of_a_standardised_difference_are_by_the_noncentral_t():
    rng = np.random.default_rng(1)
    people = pd.DataFrame({"g": ["p"] * 8 + ["c"] * 10, "y": rng.normal(size=18)})
    row = groups.ancova(people, value="y", group="g", reference="c").loc[1]
    parts = people["y"][:8], people["y"][8:]
    assert row["estimate"] == pytest.approx(pingouin.compute_effsize(*parts, eftype="cohen"))
    t, root = stats.ttest_ind(*parts).statistic, np.sqrt(1 / 8 + 1 / 10)
    assert stats.nct.cdf(t, 16, row["low"] / root) == pytest.approx(0.975, abs=1e-4)
    assert stats.nct.cdf(t, 16, row["high"] / root) == pytest.approx(0.025, abs=1e-4)
    assert row["interval"] == "noncentral t"


def test_ancova_without_covariates_is_the_t_test():
    rng = np.random.default_rng(1)
    people = pd.DataFrame({"g": ["p"] * 12 + ["c"] * 9, "y": rng.normal(size=21)})
    found = groups.ancova(people, value="y", group="g", reference="c").loc[0]
    t = stats.ttest_ind(people["y"][:12], people["y"][12:])
    assert (found["statistic"], found["p"]) == pytest.approx((t.statistic, t.pvalue), rel=1e-10)
    assert (found["low"], found["high"]) == pytest.approx(tuple(t.confidence_interval()))


def test_negative_binomial_rate_ratio_without_covariates_is_that_of_means():
    rng = np.random.default_rng(3)
    n = rng.negative_binomial(4, 0.2, 60)
    people = pd.DataFrame({"g": ["p"] * 30 + ["c"] * 30, "n": n})
    found = groups.negative_binomial(people, value="n", group="g", reference="c").loc[0]
    assert found["estimate"] == pytest.approx(n[:30].mean() / n[30:].mean(), rel=1e-3)
    known = smf.negativebinomial("n ~ C(g, Treatment('c'))", people).fit(disp=0)
    half = stats.t.ppf(0.975, 58) * known.bse.iloc[1]
    assert found["low"] == pytest.approx(np.exp(known.params.iloc[1] - half), rel=1e-3)
    assert found["high"] == pytest.approx(np.exp(known.params.iloc[1] + half), rel=1e-3)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(known.tvalues.iloc[1]), 58), rel=1e-2)


def test_a_few_counts_are_judged_by_student_and_not_by_the_normal_distribution():
    n = [2, 9, 14, 5, 22, 8, 1, 6, 3, 4]
    people = pd.DataFrame({"g": ["p"] * 5 + ["c"] * 5, "n": n})
    found = groups.negative_binomial(people, value="n", group="g", reference="c").loc[0]
    by_student = 2 * stats.t.sf(abs(found["statistic"]), 8)
    assert found["p"] == pytest.approx(by_student, rel=1e-6)
    assert by_student > 1.3 * 2 * stats.norm.sf(abs(found["statistic"]))


def test_counts_that_vary_as_poisson_are_not_refused():
    """Where the best dispersion is 0 the two models are one; false positives stay at 5 %."""
    found = []
    for seed in range(200):
        n = np.random.default_rng(seed).poisson(3, 40)
        people = pd.DataFrame({"g": ["p"] * 20 + ["c"] * 20, "n": n})
        found.append(groups.negative_binomial(people, value="n", group="g", reference="c").loc[0])
    plain = [row["test"].startswith("Poisson") for row in found]
    assert 0.4 < np.mean(plain) < 0.9
    assert np.mean([row["p"] < 0.05 for row in found]) < 0.09
    n = np.random.default_rng(plain.index(True)).poisson(3, 40)
    known = sm.Poisson(n, np.c_[np.ones(40), np.r_[np.ones(20), np.zeros(20)]]).fit(disp=0)
    row = found[plain.index(True)]
    assert row["estimate"] == pytest.approx(np.exp(known.params[1]), rel=1e-4)
    assert row["statistic"] == pytest.approx(known.tvalues[1], rel=1e-3)


def test_lords_paradox_is_in_the_table():
    rng = np.random.default_rng(5)
    level = np.r_[rng.normal(10, 3, 200), rng.normal(0, 3, 200)]
    table = pd.DataFrame(
        {
            "person": np.tile(np.arange(400), 2),
            "group": np.tile(np.repeat(PAIR, 200), 2),
            "visit": np.repeat([1, 2], 400),
            "value": np.r_[level, level] + rng.normal(0, 2, 800),
        }
    )
    found = longitudinal.change_regression(table, **DESIGN, groups=PAIR).set_index("measure")
    assert found.loc["change score", "p"] > 0.01
    assert found.loc["adjusted for the first value", "low"] > 1


def test_repeatability_of_known_noise():
    rng = np.random.default_rng(7)
    true = rng.normal(0, 2, 5000)
    found = agreement.repeatability(true + rng.normal(0, 1, 5000), true + rng.normal(1, 1, 5000))
    within = found.loc[1]
    assert found.loc[0, "estimate"] == pytest.approx(1, abs=0.08)
    assert within["low"] < 1 < within["high"]
    assert found.loc[2, "estimate"] == pytest.approx(1.96 * np.sqrt(2) * within["estimate"])
    assert found.loc[3, "estimate"] == pytest.approx(0.2, abs=0.02)
    icc = found.loc[4]  # 4 between, 1 within, and half of a shift by 1 as variance of visits
    assert (icc["term"], icc["measure"]) == ("agreement", "ICC(A,1)")
    assert icc["estimate"] == pytest.approx(4 / (4 + 1 + 0.5), abs=0.02)
    assert icc["low"] < icc["estimate"] < icc["high"]


def scanned_twice(n=60, within=0.04, seed=9):
    rng = np.random.default_rng(seed)
    who = [f"sub-{k:03d}" for k in range(n)]
    table = pd.DataFrame({"participant_id": who * 2, "session_id": ["ses-1"] * n + ["ses-2"] * n})
    table["alps"] = np.tile(rng.normal(1.4, 0.12, n), 2) + rng.normal(0, within, 2 * n)
    return table.assign(status="pass").sample(frac=1, random_state=seed).reset_index(drop=True)


def test_reliability_of_people_with_known_variance():
    """Over many cohorts: the limits hold what is true, and the detectable change follows."""
    held = {"within": 0, "icc": 0}
    for seed in range(60):
        found = agreement.reliability(scanned_twice(seed=seed), value="alps").set_index("term")
        within, icc = found.loc["within a participant"], found.loc["agreement"]
        held["within"] += within["low"] <= 0.04 <= within["high"]
        held["icc"] += icc["low"] <= 0.12**2 / (0.12**2 + 0.04**2) <= icc["high"]
        least = found.loc["smallest detectable change", "estimate"]
        assert least == pytest.approx(1.96 * np.sqrt(2) * within["estimate"])
    assert min(held.values()) >= 52


def test_reliability_leaves_out_what_failed_or_was_scanned_once():
    table = scanned_twice(n=12)
    whole = agreement.reliability(table, value="alps")
    failed = table.index[table["participant_id"] == "sub-003"][0]
    table.loc[failed, ["alps", "status"]] = [9.0, "fail"]
    once = table.drop(table.index[table["participant_id"] == "sub-007"][0])
    found = agreement.reliability(once, value="alps")
    assert found["n"].unique().tolist() == [10]
    assert found["dropped"].unique().tolist() == [3]  # the failed row, and two that are left alone
    assert found.loc[1, "estimate"] == pytest.approx(whole.loc[1, "estimate"], rel=0.6)
    third = table.assign(session_id="ses-3")
    with pytest.raises(InputError, match="session_id: holds ses-1, ses-2, ses-3; give a table of"):
        agreement.reliability(pd.concat([table, third]), value="alps")
    with pytest.raises(InputError, match="session_id: holds nothing"):
        agreement.reliability(table.assign(session_id=None), value="alps")


# --- the classifier ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    rng = np.random.default_rng(8)
    people = pd.DataFrame({"g": ["p"] * 40 + ["c"] * 40})
    for k in range(6):  # five of six are noise
        people[f"x{k}"] = rng.normal(size=80) + (k == 0) * (people["g"] == "p")
    names = [f"x{k}" for k in range(6)]
    return people, names, classify.logistic(
        people, group="g", positive="p", predictors=names, rng=rng, n_repeats=3, n_bootstrap=60
    )  # fmt: skip


def test_classifier_optimism_and_r_squared(classifier):
    people, names, found = classifier
    value = found.performance.set_index("measure")["estimate"]
    assert value["AUC, apparent"] > value["AUC, optimism taken off"]
    assert value["AUC, apparent"] > value["AUC, cross-validated"]
    assert value["calibration slope, held out"] < 1
    fit = sm.Logit((people["g"] == "p").astype(float), sm.add_constant(people[names])).fit(disp=0)
    assert value["R2, McFadden"] == pytest.approx(fit.prsquared, rel=1e-6)
    assert value["R2, Nagelkerke"] > value["R2, Cox and Snell"] > 0
    assert found.coefficients["n"].eq(80).all()
    assert found.predictions["probability"].between(0, 1).all()


def test_auc_compares_participants_who_were_held_out_together():
    people = pd.DataFrame({"g": ["p"] * 14 + ["c"] * 23})
    people["x"] = np.random.default_rng(2).normal(size=37)
    found = classify.logistic(
        people, group="g", positive="p", predictors=["x"], rng=np.random.default_rng(5),
        n_repeats=2, n_bootstrap=40,
    ).performance.set_index("measure")  # fmt: skip
    rng, y, right, pairs = np.random.default_rng(5), (people["g"] == "p").to_numpy(), 0.0, 0
    for _ in range(2):
        folds = StratifiedKFold(10, shuffle=True, random_state=int(rng.integers(2**31)))
        for learn, test in folds.split(y, y):
            fit = sm.Logit(y[learn] * 1.0, sm.add_constant(people["x"][learn])).fit(disp=0)
            score = fit.predict(sm.add_constant(people["x"]))[test]
            pairs += y[test].sum() * (~y[test]).sum()
            right += sum((score[y[test]].to_numpy()[:, None] > score[~y[test]].to_numpy()).ravel())
    row = found.loc["AUC, cross-validated"]
    assert row["estimate"] == pytest.approx(right / pairs)
    assert row["low"] < row["estimate"] < row["high"]


def test_separated_groups_are_refused():
    people = pd.DataFrame({"g": ["p"] * 20 + ["c"] * 20, "x": np.arange(40.0)})
    with pytest.raises(InputError, match="separate the groups"):
        classify.logistic(people, group="g", positive="p", predictors=["x"], rng=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two groups are needed"):
        classify.logistic(people, group="g", positive="x", predictors=["x"], rng=None)  # type: ignore[arg-type]


# --- properties ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_swapping_groups_inverts_the_odds_ratio(n1, n2, e1, e2):
    e1, e2 = min(e1, n1), min(e2, n2)
    if e1 + e2 in (0, n1 + n2):
        with pytest.raises(InputError, match="cannot differ"):
            groups.compare_counts((e1, e2), (n1, n2))
        return
    a = groups.compare_counts((e1, e2), (n1, n2))
    b = groups.compare_counts((e2, e1), (n2, n1))
    assert a["p"].dropna().to_numpy() == pytest.approx(b["p"].dropna().to_numpy())
    assert a["estimate"].iloc[-1] == pytest.approx(-b["estimate"].iloc[-1])
    if 0 < e1 < n1 and 0 < e2 < n2:
        assert a["estimate"][0] * b["estimate"][0] == pytest.approx(1)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_every_result_has_the_same_columns_and_its_estimate_inside(seed):
    rng = np.random.default_rng(seed)
    people = pd.DataFrame({"g": list("pppppcccccaaaaa"), "n": rng.integers(0, 30, 15)})
    people["age"] = rng.normal(50, 10, 15)
    visits = two_visits(seed, n=(8, 5))
    for found in (
        groups.ancova(people, value="n", group="g", reference="c", covariates=["age"]),
        groups.compare_counts((3, 5), (9, 10)),
        longitudinal.mixed_anova(visits, **DESIGN),
        longitudinal.mixed_model(visits, **DESIGN, groups=PAIR),
    ):
        assert list(found.columns[: len(tables.COLUMNS)]) == list(tables.COLUMNS)
        if found["test"].str.startswith("F").any():
            continue  # both limits from the noncentral F are 0 where F is close to 0
        inside = found["low"].isna() | (
            (found["low"] <= found["estimate"] + 1e-9)
            & (found["estimate"] <= found["high"] + 1e-9)
        )
        assert inside.all()


def test_type_three_gives_groups_equal_weight():
    """Changes of +1 in 30 people and -1 in 5 have an unweighted mean of zero."""
    rng = np.random.default_rng(0)
    change = np.r_[np.full(30, 1.0), np.full(5, -1.0)] + rng.normal(0, 0.1, 35)
    first = rng.normal(0, 1, 35)
    table = pd.DataFrame(
        {
            "person": np.tile(np.arange(35), 2),
            "visit": np.repeat([1, 2], 35),
            "group": np.tile(["a"] * 30 + ["b"] * 5, 2),
            DESIGN["value"]: np.r_[first, first + change],
        }
    )
    found = longitudinal.mixed_anova(table, **DESIGN).set_index(["test", "term"])["statistic"]
    assert found["F, type III", "time"] < 1 < found["F, type III", "interaction"]
    assert found["F, type II", "time"] > 100, "type II weighs the 30 more"


def test_held_out_probabilities_that_separate_the_groups_have_no_calibration():
    y = np.repeat([0, 1], 6)
    rows = classify._calibration(y, np.where(y == 1, 0.8, 0.3) + 0.01 * np.arange(12), {"n": 12})
    assert np.isnan([row["estimate"] for row in rows]).all()


def test_predictors_that_all_but_separate_the_groups_do_not_crash():
    people = pd.DataFrame({"g": ["p"] * 10 + ["c"] * 10, "x": np.r_[8.5:18.5, 0:10.0] * 1e3})
    found = classify.logistic(
        people, group="g", positive="p", predictors=["x"], rng=np.random.default_rng(0),
        n_repeats=1, n_bootstrap=5,
    ).performance.set_index("measure")["estimate"]  # fmt: skip
    assert found["AUC, apparent"] > 0.98
