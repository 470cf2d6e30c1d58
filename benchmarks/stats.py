"""Statistics against other software and hand formulas, on wrong tables, and without any effect.

python benchmarks/stats.py agree        # the same numbers as scipy, statsmodels, pingouin ...
python benchmarks/stats.py wrong        # tables with a mistake: refused, warned of, or right
python benchmarks/stats.py null         # false positives, and the AUC without an effect
"""

from __future__ import annotations

import argparse
import math
import runpy
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from pvsbook import InputError
from pvsbook.stats import agreement, classify, groups, longitudinal, tables

PLAN = {"value": "chi", "group": "group", "time": "visit", "person": "person", "order": (1, 2)}
PAIR = ("MS", "control")
T = pd.DataFrame


def people(seed: int, n: tuple[int, int] = (24, 20)) -> T:
    """Draw two groups with age, sex, a continuous value and a count."""
    rng = np.random.default_rng(seed)
    table = T({"group": np.repeat(PAIR, n), "age": rng.normal(45, 10, sum(n)).round(1)})
    table["sex"] = rng.choice(["F", "M"], sum(n))
    ill = (table["group"] == "MS").to_numpy()
    table["alps"] = 1.4 - 0.08 * ill - 0.004 * (table["age"] - 45) + rng.normal(0, 0.1, sum(n))
    table["pvs"] = rng.negative_binomial(3, 3 / (3 + 10.0 + 5 * ill))
    return table


def visits(
    seed: int, n: tuple[int, int] = (20, 12), effect: float = 1.0, within: float = 2.0
) -> T:
    """Draw two groups at two visits: levels with an SD of 5, errors of `within` at each visit."""
    rng = np.random.default_rng(seed)
    group, k = np.repeat(PAIR, n), sum(n)
    level, age = rng.normal(40, 5, k), rng.normal(45, 9, k).round(1)
    parts = [
        T({"person": np.arange(k), "visit": visit, "group": group, "age": age,
           "chi": level + effect * (visit - 1) * (group == "MS") + rng.normal(0, within, k)})
        for visit in (1, 2)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


# --- agreement --------------------------------------------------------------------------------


class Tally:
    """Counts numbers that agree, by what they are compared with."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.wrong: list[str] = []

    def __call__(self, name: str, ours: Any, theirs: Any, rel: float = 1e-7) -> None:
        for a, b in zip(np.atleast_1d(ours), np.atleast_1d(theirs), strict=True):
            self.compared[name] += 1
            if not math.isclose(a, b, rel_tol=rel, abs_tol=1e-9):
                self.wrong.append(f"{name}: {a!r} here, {b!r} there")


NUMBERS = ["estimate", "low", "high", "p"]


def agree_groups(seed: int, same: Tally) -> None:
    rng = np.random.default_rng(seed)
    table = people(seed, tuple(rng.integers(8, 40, 2)))
    parts = [table.loc[table["group"] == g, "alps"] for g in PAIR]
    plan: dict[str, Any] = {"value": "alps", "group": "group", "reference": "control"}
    ours = groups.ancova(table, **plan)
    t = stats.ttest_ind(*parts)
    same("ancova: scipy ttest_ind", ours.loc[0, NUMBERS].astype(float),
         [parts[0].mean() - parts[1].mean(), *t.confidence_interval(), t.pvalue])  # fmt: skip
    d = pingouin.compute_effsize(*parts, eftype="cohen")
    same("ancova: pingouin Cohen's d", ours.loc[1, "estimate"], d)
    root, df = np.sqrt(sum(1 / len(p) for p in parts)), len(table) - 2
    tails = [stats.nct.cdf(t.statistic, df, ours.loc[1, key] / root) for key in ("low", "high")]
    for tail, level in zip(tails, (0.975, 0.025), strict=True):
        if np.isfinite(tail):  # scipy's distribution has gaps
            same("ancova: scipy nct at the limits of d", tail, level, 1e-3)
    ours = groups.ancova(table, **plan, covariates=["age", "sex"])
    fit = smf.ols("alps ~ C(group, Treatment('control')) + age + sex", table).fit()
    theirs = [fit.params.iloc[1], *fit.conf_int().iloc[1], fit.pvalues.iloc[1]]
    same("ancova: statsmodels formula", ours.loc[0, NUMBERS].astype(float), theirs)
    f = pingouin.ancova(table.assign(m=table["sex"] == "M"), dv="alps", between="group",
                        covar=["age", "m"])["F"].iloc[0]  # fmt: skip
    same("ancova: pingouin F", ours.loc[0, "statistic"] ** 2, f)
    plan["value"] = "pvs"
    ours = groups.negative_binomial(table, **plan, covariates=["age"])
    if ours["test"][0].startswith("negative"):
        x = sm.add_constant(np.column_stack([table["group"] == "MS", table["age"] - 45]) * 1.0)
        fit = sm.NegativeBinomial(table["pvs"], x).fit(disp=0, maxiter=500)
        half = stats.t.ppf(0.975, len(table) - 3) * fit.bse.iloc[1]
        b = fit.params.iloc[1]
        same("negative_binomial: statsmodels", ours.loc[0, NUMBERS[:3]].astype(float),
             np.exp([b, b - half, b + half]), 2e-3)  # fmt: skip


def agree_counts(seed: int, same: Tally) -> None:
    rng = np.random.default_rng(seed)
    n = rng.integers(8, 60, 2)
    a, c = (int(rng.integers(1, size)) for size in n)
    b, d = n[0] - a, n[1] - c
    ours = groups.compare_counts((a, c), tuple(n))
    ratio, half = a * d / (b * c), 1.959963984540054 * np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    same("compare_counts: Wald by hand", ours.loc[0, NUMBERS[:3]].astype(float),
         [ratio, ratio * np.exp(-half), ratio * np.exp(half)])  # fmt: skip
    total = a + b + c + d
    margins = float((a + b) * (c + d) * (a + c)) * (b + d)
    for row, less in ((0, 0.0), (1, min(total / 2, abs(a * d - b * c)))):
        chi2 = total * (abs(a * d - b * c) - less) ** 2 / margins
        same("compare_counts: chi-squared by hand", ours.loc[row, "p"], stats.chi2.sf(chi2, 1))
    law = stats.hypergeom(total, a + c, a + b)
    each = law.pmf(np.arange(total + 1))
    fisher = each[each <= law.pmf(a) * (1 + 1e-7)].sum()
    same("compare_counts: Fisher by hand", ours.loc[2, "p"], fisher)
    wilson = [stats.binomtest(int(k), int(m)).proportion_ci(method="wilson")
              for k, m in ((a, n[0]), (c, n[1]))]  # fmt: skip
    p, q = a / n[0], c / n[1]
    limits = [p - q - np.hypot(p - wilson[0].low, wilson[1].high - q),
              p - q + np.hypot(wilson[0].high - p, q - wilson[1].low)]  # fmt: skip
    same("compare_counts: Newcombe by hand", ours.loc[3, ["low", "high"]].astype(float), limits)
    tests = [groups.compare_counts((a, c), tuple(n)).iloc[[k]] for k in (0, 0, 0)]
    ps = rng.uniform(0, 0.1, 3)
    tests = [test.assign(p=p) for test, p in zip(tests, ps, strict=True)]
    for ours_name in ("holm", "fdr_bh", "bonferroni"):
        same("adjust: statsmodels multipletests",
             tables.adjust(tests, method=ours_name)["p_adjusted"],
             multipletests(ps, method=ours_name)[1])  # fmt: skip


def agree_visits(seed: int, same: Tally) -> None:
    rng = np.random.default_rng(seed)
    table = visits(seed, tuple(rng.integers(6, 30, 2)))
    ours = longitudinal.mixed_anova(table, **PLAN).set_index(["test", "term"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pingouin.mixed_anova(
            table.assign(visit=table["visit"].map({1: "a", 2: "b"})), dv="chi", within="visit",
            subject="person", between="group",
        ).set_index("Source")  # fmt: skip
    for term, source in (("interaction", "Interaction"), ("group", "group"), ("time", "visit")):
        row = ours.loc[("F, type II", term)]
        same("mixed_anova: pingouin type II", row[["statistic", "p"]].astype(float),
             other.loc[source, ["F", "p_unc"]].astype(float))  # fmt: skip
    wide = longitudinal.change_scores(table, **PLAN, covariates=["age"]).table
    fit = smf.ols("change ~ C(group, Sum)", wide).fit()
    three = anova_lm(fit, typ=3)
    for term, source in (("interaction", "C(group, Sum)"), ("time", "Intercept")):
        row = ours.loc[("F, type III", term)]
        same("mixed_anova: statsmodels type III", row[["statistic", "p"]].astype(float),
             three.loc[source, ["F", "PR(>F)"]].astype(float))  # fmt: skip
    for row in ours.itertuples():
        df1, df2 = map(float, row.df.split(", "))
        for limit, level in ((row.low, 0.975), (row.high, 0.025)):
            if limit > 0:
                nc = limit * (df1 + df2 + 1) / (1 - limit)
                same("mixed_anova: scipy ncf at the limits of eta squared",
                     stats.ncf.cdf(row.statistic, df1, df2, nc), level, 1e-6)  # fmt: skip
    found = longitudinal.change_regression(table, **PLAN, groups=PAIR, covariates=["age"])
    for k, more in enumerate(("", " + first")):
        fit = smf.ols(f"change ~ C(group, Treatment('control')) + age{more}", wide).fit()
        theirs = [fit.params.iloc[1], *fit.conf_int().iloc[1], fit.pvalues.iloc[1]]
        same("change_regression: statsmodels", found.loc[k, NUMBERS].astype(float), theirs)
    model = longitudinal.mixed_model(table, **PLAN, groups=PAIR).set_index("term")
    part = table.assign(g=(table["group"] == "MS") - 0.5, t=table["visit"] - 1.5)
    fit = smf.mixedlm("chi ~ g * t", part, groups=part["person"]).fit(reml=True)
    theirs = fit.fe_params[["g", "t", "g:t"]]
    same("mixed_model: statsmodels formula", model["estimate"][:3], theirs, 1e-5)
    for term, name in (("group", "group"), ("time", "time"),
                       ("difference of changes", "interaction")):  # fmt: skip
        same("mixed_model: p of type III on complete data", model.loc[term, "p"],
             ours.loc[("F, type III", name), "p"], 2e-3)  # fmt: skip
    first, second = (table.loc[table["visit"] == v, "chi"].to_numpy() for v in (1, 2))
    found = agreement.repeatability(first, second)
    change = second - first
    within = np.sqrt(change.var(ddof=1) / 2)
    t = stats.ttest_rel(second, first)
    same("repeatability: scipy ttest_rel", found.loc[0, NUMBERS].astype(float),
         [change.mean(), *t.confidence_interval(), t.pvalue])  # fmt: skip
    limits = [within * np.sqrt((len(change) - 1) / stats.chi2.ppf(q, len(change) - 1))
              for q in (0.975, 0.025)]  # fmt: skip
    same("repeatability: by hand", found.loc[1, NUMBERS[:3]].astype(float), [within, *limits])
    same("repeatability: by hand", found.loc[2, "estimate"], 1.96 * np.sqrt(2) * within)


def agree_classifier(seed: int, same: Tally) -> None:
    table = people(seed, (25, 20))
    x, y = table[["alps", "age"]], (table["group"] == "MS").astype(int)
    found = classify.logistic(table, group="group", positive="MS", predictors=["alps", "age"],
                              rng=np.random.default_rng(seed), n_repeats=2,
                              n_bootstrap=5)  # fmt: skip
    ours = found.performance.set_index("measure")["estimate"]
    fit = sm.Logit(y, sm.add_constant((x - x.mean()) / x.std())).fit(disp=0)
    theirs = np.column_stack([np.exp(fit.params), np.exp(fit.conf_int()), fit.pvalues])[1:]
    same("logistic: statsmodels Logit", found.coefficients[NUMBERS].to_numpy(float).ravel(),
         theirs.ravel(), 1e-6)  # fmt: skip
    same("logistic: statsmodels R2", ours["R2, McFadden"], fit.prsquared)
    same("logistic: scikit-learn AUC", ours["AUC, apparent"], roc_auc_score(y, fit.predict()))
    rng, parts = np.random.default_rng(seed), []
    model = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=500))
    for _ in range(2):
        folds = StratifiedKFold(10, shuffle=True, random_state=int(rng.integers(2**31)))
        for learn, test in folds.split(x, y):
            score = model.fit(x.iloc[learn], y[learn]).predict_proba(x.iloc[test])[:, 1]
            pairs = y[test].sum() * (1 - y[test]).sum()
            parts.append((pairs * roc_auc_score(y[test], score), pairs))
    auc = sum(p for p, _ in parts) / sum(n for _, n in parts)
    same("logistic: scikit-learn AUC within folds", ours["AUC, cross-validated"], auc, 1e-6)


def agree(n_sets: int) -> None:
    same = Tally()
    for seed in range(n_sets):
        for compare in (agree_groups, agree_counts, agree_visits):
            compare(seed, same)
        if seed % 4 == 0:
            agree_classifier(seed, same)
    for name, count in same.compared.items():
        print(f"{count:6d}  {name}")
    print("\n".join(same.wrong[:20]))
    print(f"{sum(same.compared.values())} numbers compared, {len(same.wrong)} disagree")


# --- nothing to find ---------------------------------------------------------------------------


def share(name: str, hits: list[bool]) -> None:
    p, n = np.mean(hits), len(hits)
    error = 100 * np.sqrt(p * (1 - p) / n)
    print(f"{name:64s} {100 * p:5.2f} % +- {error:.2f} (Monte Carlo), {n} studies", flush=True)


def null_mixed_model(n_studies: int) -> None:
    print("\nmixed_model, difference of changes without an effect, p < .05")
    for within, lost in ((2.0, 0.0), (10.0, 0.0), (2.0, 0.2)):
        for n in ((5, 5), (10, 5), (20, 5)) if (within, lost) == (2.0, 0.0) else ((10, 5),):
            by_t, by_z, by_change, refused = [], [], [], 0
            for seed in range(n_studies):
                table = visits(seed, n, effect=0.0, within=within)
                away = np.random.default_rng(seed).random(len(table)) < lost
                table = table[~(away & (table["visit"] == 2))]
                try:
                    row = longitudinal.mixed_model(table, **PLAN, groups=PAIR).iloc[2]
                except InputError:
                    refused += 1
                    continue
                by_t.append(row["p"] < 0.05)
                by_z.append(abs(row["statistic"]) > 1.959963984540054)
                wide = table.pivot(index=["person", "group"], columns="visit", values="chi")
                change = (wide[2] - wide[1]).dropna().reset_index(level="group")
                parts = [change.loc[change["group"] == g, 0] for g in PAIR]
                by_change.append(stats.ttest_ind(*parts).pvalue < 0.05)
            icc = 25 / (25 + within**2)
            about = f"{n[0]}+{n[1]}, ICC {icc:.2f}, {100 * lost:.0f} % lost"
            share(f"{about}: t, between-within df", by_t)
            share(f"{about}: z", by_z)
            share(f"{about}: t test of changes", by_change)
            print(f"{about}: {refused} refused")


def null_counts(n_sets: int) -> None:
    print("\nnegative_binomial on counts of Poisson's, no effect")
    for mean in (1, 3, 10):
        hits, refused, plain = [], 0, 0
        for seed in range(n_sets):
            rng = np.random.default_rng([mean, seed])
            table = T({"g": np.repeat(["p", "c"], 20), "n": rng.poisson(mean, 40)})
            try:
                row = groups.negative_binomial(table, value="n", group="g", reference="c").loc[0]
            except InputError:
                refused += 1
                continue
            plain += row["test"].startswith("Poisson")
            hits.append(row["p"] < 0.05)
        share(f"mean {mean}, 20+20: p < .05", hits)
        print(f"mean {mean}: {refused} of {n_sets} refused, {plain} fitted as Poisson's")


def null_auc(n_sets: int) -> None:
    """Mean cross-validated AUC, and what models fitted to as many people get in new ones."""
    print("\nlogistic, two predictors: AUC, cross-validated")
    model = LogisticRegression(C=np.inf, max_iter=500)
    for effect in (0.0, 1.0):
        for n in (10, 20):
            found, pooled, new, limits, refused = [], [], [], [], 0
            for seed in range(n_sets):
                rng = np.random.default_rng([seed, n])
                y = np.repeat([1, 0], n)
                x = rng.normal(size=(2 * n, 2)) + np.outer(effect * y, [1, 0])
                table = T({"g": np.where(y, "p", "c"), "a": x[:, 0], "b": x[:, 1]})
                draws = 100 if seed < n_sets // 4 else 2  # for the interval
                try:
                    fit = classify.logistic(table, group="g", positive="p", predictors=["a", "b"],
                                            rng=rng, n_repeats=2, n_bootstrap=draws)  # fmt: skip
                except InputError:
                    refused += 1
                    continue
                row = fit.performance.set_index("measure").loc["AUC, cross-validated"]
                found.append(row["estimate"])
                pooled.append(roc_auc_score(y, fit.predictions["probability"]))
                most = np.r_[0 : n * 9 // 10, n : n + n * 9 // 10]
                y_new = np.repeat([1, 0], 2000)
                x_new = rng.normal(size=(4000, 2)) + np.outer(effect * y_new, [1, 0])
                score = model.fit(x[most], y[most]).predict_proba(x_new)[:, 1]
                new.append(roc_auc_score(y_new, score))
                if draws > 2:
                    limits.append((row["low"], row["high"]))
            print(f"effect {effect:.0f} SD, {n}+{n}, {len(found)} data sets, {refused} refused:")
            for name, values in (("within folds", found), ("all ranked together", pooled),
                                 ("in 4000 new people", new)):  # fmt: skip
                error = np.std(values, ddof=1) / np.sqrt(len(values))
                print(f"   {name:22s} {np.mean(values):.4f} +- {error:.4f}")
            mean = np.mean(new)  # of all data sets
            share("   interval holds the mean in new people",
                  [low <= mean <= high for low, high in limits])  # fmt: skip


# --- tables with a mistake -----------------------------------------------------------------------


def wrong() -> None:
    """Print what comes of each table of tests/unit/test_stats_wrong.py."""
    path = Path(__file__).parents[1] / "tests" / "unit" / "test_stats_wrong.py"
    cases = runpy.run_path(str(path))
    kinds: Counter[str] = Counter()
    for name, call, right in cases["CASES"]:
        came, words = cases["outcome"](call, right)
        kinds[came] += 1
        print(f"{name:42.42s} {came:8s} {words[:150]!r}")
    print(f"{sum(kinds.values())} tables: " + ", ".join(f"{n} {k}" for k, n in kinds.items()))
    print(f"{kinds['WRONG']} wrong numbers, {kinds['CRASH']} crashes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=["agree", "wrong", "null"])
    parser.add_argument("--n", type=int, default=0, help="data sets of each kind")
    options = parser.parse_args()
    if options.part == "agree":
        agree(options.n or 40)
    elif options.part == "wrong":
        wrong()
    else:
        null_counts(options.n or 360)
        null_auc(options.n or 800)
        null_mixed_model(options.n or 2000)


if __name__ == "__main__":
    main()
