"""Tables with a mistake: each is refused in one sentence, warned of, or gives the right numbers.

``python benchmarks/stats.py wrong`` prints what came of each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError
from pvsbook.pvs.rating import grade
from pvsbook.stats import agreement, classify, groups, longitudinal, tables

T = pd.DataFrame
PLAN = {"value": "chi", "group": "group", "time": "visit", "person": "person", "order": (1, 2)}
PAIR = ("MS", "control")
TWICE = "warns:the same in every column"
COMPARED = ["estimate", "low", "high", "p", "n"]


def people(n: int = 24) -> T:
    rng = np.random.default_rng(1)
    table = T({"group": np.repeat(PAIR, n), "age": rng.normal(45, 10, 2 * n).round(0)})
    table["sex"] = rng.choice(["F", "M"], 2 * n)
    ill = (table["group"] == "MS").to_numpy()
    table["alps"] = 1.4 - 0.08 * ill + rng.normal(0, 0.08, 2 * n)
    table["pvs"] = rng.negative_binomial(3, 3 / (3 + 10.0 + 5 * ill))
    return table


def visits(n: int = 40) -> T:
    rng = np.random.default_rng(3)
    group = np.where(np.arange(n) < 28, *PAIR)
    first = rng.normal(40, 6, n)
    second = first + 2 * (group == "MS") + rng.normal(0, 1, n)
    table = T({"person": np.repeat([f"p{k:02d}" for k in range(n)], 2), "visit": [1, 2] * n})
    table["group"], table["chi"] = np.repeat(group, 2), np.stack([first, second], 1).ravel()
    table["age"] = np.repeat(rng.normal(45, 9, n).round(), 2)
    return table


def ancova(table: T, **more: Any) -> T:
    plan = {"value": "alps", "group": "group", "reference": "control", "covariates": ["age"]}
    return groups.ancova(table, **plan | more)


def counts(table: T, **more: Any) -> T:
    plan = {"value": "pvs", "group": "group", "reference": "control", "covariates": ["age"]}
    return groups.negative_binomial(table, **plan | more)


def model(table: T, **more: Any) -> T:
    return longitudinal.mixed_model(table, **PLAN | {"groups": PAIR} | more)


def change(table: T, **more: Any) -> T:
    return longitudinal.change_regression(table, **PLAN | {"groups": PAIR} | more)


def anova(table: T, **more: Any) -> T:
    return longitudinal.mixed_anova(table, **PLAN | more)


def logistic(table: T, **more: Any) -> T:
    plan = {"group": "group", "positive": "MS", "predictors": ["alps"], "n_repeats": 1}
    rng = np.random.default_rng(0)
    return classify.logistic(table, rng=rng, n_bootstrap=5, **plan | more).coefficients


def set_at(table: T, column: str, row: int, value: Any) -> T:
    table = table.astype({column: object}) if isinstance(value, str) else table.copy()
    table.loc[row, column] = value
    return table


P, V = people(), visits()
OTHER = V.assign(group="other", person="q" + V["person"])
SHIFT = 1.7e18 + 1e16 * P["age"]

# name, call, and what is right: words of the error, words of the warning after "warns:", or the
# call that gives the same numbers
CASES: list[tuple[str, Callable[[], T], str | Callable[[], T]]] = [
    # found before
    ("third group in the table", lambda: change(pd.concat([V, OTHER])), lambda: change(V)),
    ("third group, mixed model", lambda: model(pd.concat([V, OTHER])), lambda: model(V)),
    ("outcome all 0", lambda: counts(P.assign(pvs=0)), "pvs: does not vary"),
    ("outcome constant", lambda: ancova(P.assign(alps=1.4)), "alps: does not vary"),
    ("outcome constant at both visits", lambda: anova(V.assign(chi=3.1)), "chi: does not vary"),
    (
        "no one changes",
        lambda: anova(V.assign(chi=V.groupby("person")["chi"].transform("first"))),
        "nothing is left to vary",
    ),
    (
        "ages with a decimal comma",
        lambda: ancova(P.assign(age=[f"{a:.1f}".replace(".", ",") for a in P["age"]])),
        "age: text, such as",
    ),
    ("one age is n/a", lambda: ancova(set_at(P, "age", 3, "n/a")), "such as 'n/a', in rows 3"),
    ("infinite age", lambda: ancova(set_at(P, "age", 3, np.inf)), "age: infinite in rows 3"),
    (
        "covariate called change",
        lambda: change(V.rename(columns={"age": "change"}), covariates=["change"]),
        "which is the name of a result",
    ),
    (
        "group called first",
        lambda: anova(V.rename(columns={"group": "first"}), group="first"),
        "which is the name of a result",
    ),
    (
        "value called second",
        lambda: anova(V.rename(columns={"chi": "second"}), value="second"),
        lambda: anova(V),
    ),
    ("everyone twice", lambda: ancova(pd.concat([P, P])), TWICE),
    ("everyone twice, counts", lambda: counts(pd.concat([P, P])), TWICE),
    (
        "everyone twice, with person",
        lambda: ancova(pd.concat([P.assign(id=P.index)] * 2), person="id"),
        "id: the same in rows",
    ),
    ("counts alone, everyone twice", lambda: counts(pd.concat([P[["group", "pvs"]]] * 2),
     covariates=[]), TWICE),
    ("counts alone, alike by chance", lambda: counts(P[["group", "pvs"]], covariates=[]),
     lambda: counts(P.assign(id=P.index), covariates=[], person="id")),
    ("one pasted twice", lambda: logistic(pd.concat([P, P[:1]])), TWICE),
    (
        "a blank after a label",
        lambda: ancova(set_at(P, "group", 2, "MS ")),
        lambda: ancova(P),
    ),
    (
        "one group without events",
        lambda: counts(P.assign(pvs=P["pvs"].where(P["group"] == "MS", 0))),
        "every count of control is 0",
    ),
    (
        "index repeats",
        lambda: ancova(pd.concat([P[:24].reset_index(drop=True), P[24:].reset_index(drop=True)])),
        lambda: ancova(P),
    ),
    (
        "quote, newline and backslash in labels",
        lambda: ancova(P.replace({"control": "Sj'\n\\"}), reference="Sj'\n\\"),
        lambda: ancova(P),
    ),
    (
        "groups are 0 and 1",
        lambda: ancova(P.assign(group=(P["group"] == "MS") * 1), reference=0),
        lambda: ancova(P),
    ),
    (
        "column called C",
        lambda: ancova(P.rename(columns={"age": "C"}), covariates=["C"]),
        lambda: ancova(P),
    ),
    ("counts as floats", lambda: groups.compare_counts([3.0, 4.0], [20.0, 20.0]),
     lambda: groups.compare_counts([3, 4], [20, 20])),
    ("a count is NaN", lambda: groups.compare_counts([np.nan, 4], [20, 20]), "give whole numbers"),
    ("counts as text", lambda: groups.compare_counts(["a", 4], [20, 20]), "give whole numbers"),
    (
        "two columns called age",
        lambda: ancova(pd.concat([P, P[["age"]]], axis=1)),
        "2 columns are called 'age'",
    ),
    (
        "columns have numbers for names",
        lambda: ancova(P.set_axis(range(5), axis=1), value=3, group=0, covariates=[1, 2]),
        lambda: ancova(P, covariates=["age", "sex"]),
    ),
    (
        "visits, columns with numbers for names",
        lambda: model(V.set_axis(range(5), axis=1), person=0, time=1, group=2, value=3,
                      covariates=[4]),
        lambda: model(V, covariates=["age"]),
    ),
    ("covariate twice its fellow", lambda: model(V.assign(old=2 * V["age"]),
     covariates=["age", "old"]), "repeat each other"),
    (
        "covariate tells the groups",
        lambda: model(V.assign(ill=(V["group"] == "MS") * 1.0), covariates=["ill"]),
        "repeat each other",
    ),
    (
        "outcome computed from a covariate",
        lambda: ancova(P.assign(alps=2 * P["age"])),
        "nothing is left to vary",
    ),
    ("NaN in a pair", lambda: agreement.repeatability([*V["chi"][:9], np.nan], V["chi"][3:13]),
     lambda: agreement.repeatability(list(V["chi"][:9]), list(V["chi"][3:12]))),
    ("three tests as a family", lambda: tables.adjust(groups.compare_counts((10, 4), (34, 46))),
     "test one question"),
    ("types II and III as a family", lambda: tables.adjust(anova(V)), "test one question"),
    # made up
    ("reference has a blank", lambda: ancova(P, reference=" control "), lambda: ancova(P)),
    (
        "blank in a label of dtype category",
        lambda: ancova(set_at(P, "group", 2, "MS ").astype({"group": "category"})),
        lambda: ancova(P),
    ),
    ("MS and ms", lambda: ancova(set_at(P, "group", 2, "ms")), "'MS' and 'ms' are different"),
    ("sex is F, f", lambda: ancova(set_at(P, "sex", list(P["sex"]).index("F"), "f"),
     covariates=["sex"]), "are different labels"),
    ("group is 1 and '1'", lambda: ancova(P.assign(group=[1, "1", 0] * 16), reference=0),
     "are different labels"),
    ("empty group label", lambda: ancova(set_at(P, "group", 2, " ")), "group: missing in rows 2"),
    ("the same visit twice", lambda: change(V, order=(1, 1)), "order: (1, 1); name two"),
    ("the same group twice", lambda: model(V, groups=("MS", "MS")), "groups: ('MS', 'MS')"),
    ("visits are text", lambda: model(V.astype({"visit": str})), "visit: no 1, 2 in the"),
    ("no value at visit 2", lambda: change(V.assign(chi=V["chi"].where(V["visit"] == 1))),
     "0 group in the complete rows"),
    ("no value at visit 2, model", lambda: model(V.assign(chi=V["chi"].where(V["visit"] == 1))),
     "not all of [1, 2]"),
    ("no one came twice", lambda: model(V[V["visit"].eq(1) == (V.index // 2 % 2 == 0)]),
     "0 of 40 participants have both visits"),
    ("one group lost at visit 2", lambda: change(V[~((V["group"] == "MS") & (V["visit"] == 2))]),
     "1 group in the complete rows"),
    ("missing group in a row of no interest",
     lambda: change(set_at(pd.concat([V, OTHER], ignore_index=True), "group", 90, None)),
     "group: missing in rows 90"),
    ("the value is a covariate too", lambda: ancova(P, covariates=["alps"]), "stands there twice"),
    ("the group is a covariate", lambda: ancova(P, covariates=["group"]), "stands there twice"),
    ("value and group are one", lambda: ancova(P, value="pvs", group="pvs"), "stands there twice"),
    ("covariate given as a word", lambda: ancova(P, covariates="age"), lambda: ancova(P)),
    ("complex values", lambda: ancova(P.assign(alps=P["alps"] * (1 + 2j))), "complex numbers"),
    ("dates as values", lambda: ancova(P.assign(alps=pd.Timestamp("2020-01-01"))),
     "alps: not a number"),
    ("dates as a covariate", lambda: ancova(P.assign(
        age=pd.Timestamp("2020-01-01") + pd.to_timedelta(P["age"], "D"))), "age: text, such as"),
    ("nullable integers with NA",
     lambda: counts(P.astype({"pvs": "Int64"}).assign(pvs=lambda t: t["pvs"].mask(t.index == 5))),
     lambda: counts(P.drop(index=5))),
    ("nullable floats", lambda: ancova(P.astype({"alps": "Float64", "age": "Int64"})),
     lambda: ancova(P)),
    ("-999 for missing", lambda: ancova(set_at(P, "alps", 4, -999)), "warns:if it means missing"),
    ("-9 for a missing age", lambda: ancova(set_at(P, "age", 4, -9)), "warns:if it means missing"),
    ("date of birth in nanoseconds", lambda: ancova(P.assign(age=SHIFT)), lambda: ancova(P)),
    ("values in 1e-12", lambda: model(V.assign(chi=1e-12 * V["chi"])),
     lambda: model(V).pipe(lambda t: t.assign(**{
         c: t[c].where(t["low"].isna(), 1e-12 * t[c]) for c in ("estimate", "low", "high")}))),
    ("columns with levels", lambda: ancova(pd.concat({"a": P}, axis=1)), "several levels"),
    ("index with levels", lambda: ancova(P.set_index(["sex", "pvs"], drop=False)),
     lambda: ancova(P)),
    ("unused levels", lambda: ancova(P.assign(group=pd.Categorical(P["group"],
     ["MS", "control", "none"]))), lambda: ancova(P)),
    ("age given as group", lambda: ancova(P, group="age", covariates=[], reference=45.0),
     "at least 2 participants"),
    ("constant predictor", lambda: logistic(P.assign(one=1), predictors=["alps", "one"]),
     "one: does not vary"),
    ("predictor twice another", lambda: logistic(P.assign(b=2 * P["alps"]),
     predictors=["alps", "b"]), "repeat each other"),
    ("a predictor that only patients have", lambda: logistic(P.assign(
        lesion=(P["group"] == "MS") & (P.index % 3 == 0)), predictors=["lesion"]),
     "without error (but for ties)"),
    ("three groups to tell apart", lambda: logistic(P.assign(group=["a", "b", "MS"] * 16)),
     "two groups are needed"),
    ("predictor given as a word", lambda: logistic(P, predictors="alps"), lambda: logistic(P)),
    ("one fold", lambda: logistic(P, n_folds=1), "n_folds: 1"),
    ("counts are means of readers", lambda: counts(P.assign(pvs=P["pvs"] + 0.5)), "not counts"),
    ("one scan given twice", lambda: agreement.repeatability(V["chi"], V["chi"]),
     "nothing is left to vary"),
    ("second scan is the first plus a constant",
     lambda: agreement.repeatability(1e3 + V["chi"], 1e3 + V["chi"] + 0.1),
     "nothing is left to vary"),
    ("pairs in another order",
     lambda: agreement.repeatability(V["chi"], V["chi"].sample(frac=1, random_state=0)),
     "indices differ"),
    ("pairs hold text", lambda: agreement.repeatability(list("abcdef"), range(6)), "not a number"),
    ("counts in a labelled series",
     lambda: groups.compare_counts(pd.Series({"MS": 10, "c": 4}), pd.Series({"MS": 34, "c": 46})),
     lambda: groups.compare_counts((10, 4), (34, 46))),
    ("infinitely many participants", lambda: groups.compare_counts((1, 2), (np.inf, 5)),
     "give whole numbers"),
    ("not a table of results", lambda: tables.adjust(P), "not a table of results"),
    ("p above 1", lambda: tables.adjust(ancova(P).assign(p=1.2)), "p: 1.2"),
    ("mean of two readers graded", lambda: grade([10.5, 3]), "give whole numbers"),
    ("lists for groups", lambda: ancova(P.assign(group=[["a"], ["b"]] * 24)),
     "a list or the like"),
    ("no group", lambda: ancova(P, group=None), "group: None; name the column"),
    ("no group at two visits", lambda: model(V, group=None), "group: None; name the column"),
    ("no time", lambda: anova(V, time=None), "time: None; name the column"),
    ("no predictor", lambda: logistic(P, predictors=[]), "predictors: []; name the column"),
    ("one count only", lambda: groups.compare_counts(3, 10), "two groups are compared"),
    ("nothing to adjust", lambda: tables.adjust(None), "not a table of results"),
    ("p as text", lambda: tables.adjust(ancova(P).assign(p="0.03")), "not a table of results"),
    ("folds as text", lambda: logistic(P, n_folds="10"), "n_folds: 10; give a whole"),
    ("infinite count graded", lambda: grade(np.inf), "give whole numbers"),
]  # fmt: skip


def outcome(call: Callable[[], T], right: str | Callable[[], T]) -> tuple[str, str]:
    """Return what came (refused, warned, right, WRONG or CRASH), and the words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = call()
        except InputError as error:
            words = str(error)
            expected = isinstance(right, str) and right in words and "\n" not in words
            return ("refused" if expected else "WRONG"), words
        except Exception as error:
            return "CRASH", f"{type(error).__name__}: {error}"
    if caught:
        words = str(caught[0].message)
        ours = isinstance(right, str) and right.startswith("warns:") and right[6:] in words
        return ("warned" if ours else "WRONG"), words
    if isinstance(right, str):
        return "WRONG", f"came: {found['estimate'].iloc[0]:.4g}, p {found['p'].iloc[0]:.3g}"
    wanted = right()
    alike = all(
        np.allclose(found[c].to_numpy(float), wanted[c].to_numpy(float), rtol=1e-5, atol=0,
                    equal_nan=True) for c in COMPARED
    )  # fmt: skip
    people = f"{found['n'].iloc[0]} participants, {found['dropped'].iloc[0]} rows left out"
    return ("right" if alike else "WRONG"), people


@pytest.mark.parametrize(("call", "right"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_table_with_a_mistake_gives_no_wrong_number(call, right):
    came, words = outcome(call, right)
    assert came in ("refused", "warned", "right"), words
