"""Bad tables stop with one sentence that names column, rows and fix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError
from pvsbook.stats import _regression, agreement, groups, longitudinal, tables

GOOD = pd.DataFrame(
    {
        "person": np.repeat(np.arange(8), 2),
        "visit": [1, 2] * 8,
        "group": np.repeat(["MS", "control"], 8),
        "chi": np.arange(16.0) ** 1.1,
    }
)
KEYS = {"value": "chi", "person": "person", "time": "visit", "group": "group"}


def broken(**columns) -> pd.DataFrame:
    return GOOD.assign(**columns)


def at(column: str, row: int, value) -> pd.DataFrame:
    table = GOOD.astype({column: object}) if isinstance(value, str) else GOOD.copy()
    table.loc[row, column] = value
    return table


def test_a_good_table_passes_unchanged():
    found = tables.check(GOOD, **KEYS)
    assert len(found.table) == 16
    assert found.dropped.empty


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([1, 2, 3], "a list; give a pandas DataFrame"),
        (GOOD.drop(columns="chi"), "no column 'chi'; it has person, visit, group"),
        (at("chi", 3, "n/a"), "chi: not a number in rows 3"),
        (at("chi", 3, np.inf), "chi: infinite in rows 3"),
        (at("group", 5, None), "group: missing in rows 5"),
        (
            pd.concat([GOOD, GOOD.iloc[[2]]], ignore_index=True),
            "person and visit: the same in rows 2, 16; keep one row per part",
        ),
        (at("group", 1, "control"), "group: changes within a participant in rows 0, 1"),
        (broken(group="MS"), "group: 1 group in the complete rows; two are needed"),
        (GOOD[GOOD["person"] < 6], "'control' has 2; at least 3"),
        (broken(chi=list("abcdefghijklmnop")), "rows 0, 1, 2, 3, 4 and 11 more"),
    ],
)
def test_bad_tables_are_named(table, says):
    with pytest.raises(InputError) as caught:
        tables.check(table, **KEYS)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_time_needs_person_and_short_tables_stop():
    with pytest.raises(InputError, match="name the column of participants"):
        tables.check(GOOD, value="chi", time="visit")
    with pytest.raises(InputError, match="2 complete rows; at least 3"):
        tables.check(GOOD.head(2), value="chi")


def test_the_order_of_rows_does_not_matter():
    design = {"group": "group", "time": "visit", "person": "person", "order": (1, 2)}
    mixed = GOOD.sample(frac=1, random_state=1)
    a, b = (longitudinal.mixed_anova(t, value="chi", **design)["statistic"] for t in (GOOD, mixed))
    assert a.to_numpy() == pytest.approx(b.to_numpy(), rel=1e-9)


def test_who_was_dropped_and_why():
    found = tables.check(at("chi", 4, np.nan), **KEYS, complete=True)
    assert found.dropped[["row", "person", "reason"]].to_numpy().tolist() == [
        [4, 2, "chi is missing"],
        [5, 2, "2 lacks visit 1"],
    ]
    assert len(found.table) == 14


def test_adjust_counts_its_family_and_leaves_estimates_alone():
    rows = [tables.result(t, "d", 1, n=9, p=p) for t, p in zip("abc", (0.01, 0.02, np.nan))]  # noqa: B905
    parts = [pd.DataFrame(rows[:1]), pd.DataFrame(rows[1:])]
    found = tables.adjust(parts)
    assert found["p_adjusted"][:2].tolist() == [0.02, 0.02]
    assert found["correction"].tolist() == ["Holm over 2", "Holm over 2", "none"]
    assert tables.adjust(parts, method="fdr_bh")["p_adjusted"][:2].tolist() == [0.02, 0.02]
    with pytest.raises(InputError, match="no row has a p-value"):
        tables.adjust(pd.DataFrame(rows[2:]))
    with pytest.raises(InputError, match="method: 'none'"):
        tables.adjust(parts, method="none")


FLAT = pd.DataFrame({"g": list("aaabbb"), "n": [1.0] * 6, "m": np.arange(6.0)})


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: groups.compare_counts((5, 1), (3, 4)), "[5, 1] of [3, 4]"),
        (lambda: groups.compare_counts((1, 2, 3), (4, 5, 6)), "two groups are compared"),
        (
            lambda: groups.ancova(FLAT, value="m", group="g", reference="z"),
            "no 'z' in the table",
        ),
        (lambda: groups.ancova(FLAT, value="n", group="h", reference="a"), "no column 'h'"),
        (
            lambda: groups.ancova(
                FLAT.assign(k=FLAT["m"], n=[0, 4, 1, 7, 5, 3]), value="n", group="g",
                reference="a", covariates=["m", "k"],
            ),
            "repeat each other",
        ),
        (
            lambda: groups.negative_binomial(
                FLAT.assign(n=FLAT["m"] + 0.5), value="n", group="g", reference="a"
            ),
            "not counts",
        ),
        (
            lambda: groups.negative_binomial(
                FLAT.assign(n=[0, 0, 0, 0, 1, 0]), value="n", group="g", reference="a"
            ),
            "every count of a is 0",
        ),
        (
            lambda: groups.negative_binomial(
                pd.DataFrame(
                    {"n": [0, 0, 3, 4, 0, 0, 5, 2], "g": list("aaaabbbb"), "s": list("xxyyxxyy")}
                ),
                value="n", group="g", reference="a", covariates=["s"],
            ),
            "did not converge",
        ),
        (
            lambda: groups.negative_binomial(
                pd.DataFrame(
                    {"n": [0, 0, 3, 3, 0, 0, 3, 3], "g": list("aaaabbbb"), "s": list("xxyyxxyy")}
                ),
                value="n", group="g", reference="a", covariates=["s"],
            ),
            "did not converge",
        ),
        (lambda: tables.adjust([]), "no table"),
        (
            lambda: longitudinal.change_scores(
                GOOD, value="chi", group="group", time="visit", person="person", order=(1, 3)
            ),
            "visit: no 3 in the table",
        ),
        (
            lambda: longitudinal.change_scores(
                GOOD, value="chi", group="group", time="visit", person="person", order=(1,)
            ),
            "name two of them",
        ),
        (
            lambda: longitudinal.mixed_model(
                GOOD, value="chi", group="group", time="visit", person="person", order=(1, 2),
                groups=("MS",),
            ),
            "name two of them",
        ),
        (
            lambda: longitudinal.mixed_model(
                GOOD, value="chi", group="group", time="visit", person="person", order=(1, 2),
                groups=("MS", "none"),
            ),
            "no ",
        ),
        (lambda: agreement.repeatability([1], [2]), "five or more pairs"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)


# --- tables as people bring them ---------------------------------------------------------------


def people(seed: int = 1, n: int = 24) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"group": ["MS"] * n + ["control"] * n})
    table["age"] = rng.normal(45, 10, 2 * n).round(0)
    table["sex"] = rng.choice(["F", "M"], 2 * n)
    table["alps"] = 1.4 - 0.08 * (table["group"] == "MS") + rng.normal(0, 0.08, 2 * n)
    return table


def two_visits(seed: int = 3, n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = np.where(np.arange(n) < 28, "MS", "control")
    first = rng.normal(40, 6, n)
    second = first + 2 * (group == "MS") + rng.normal(0, 1, n)
    return pd.DataFrame(
        {
            "person": np.repeat(np.arange(n), 2),
            "visit": [1, 2] * n,
            "group": np.repeat(group, 2),
            "chi": np.stack([first, second], 1).ravel(),
            "age": np.repeat(rng.normal(45, 9, n).round(), 2),
        }
    )


PLAN = {"value": "chi", "group": "group", "time": "visit", "person": "person", "order": (1, 2)}
CONTRAST = {"value": "alps", "group": "group", "covariates": ["age"]}


@pytest.mark.parametrize(
    ("codes", "reference"),
    [
        ({"MS": 1, "control": 0}, 0),
        ({"MS": True, "control": False}, False),
        ({"MS": "MS", "control": "Sjögren's"}, "Sjögren's"),
        ({"MS": 'a"b', "control": "C(x) ~ y"}, "C(x) ~ y"),
        ({"MS": " MS", "control": "control "}, "control"),
    ],
)
def test_group_labels_may_be_anything(codes, reference):
    table = people()
    wanted = groups.ancova(table, reference="control", **CONTRAST)
    table["group"] = table["group"].map(codes)
    found = groups.ancova(table, reference=reference, **CONTRAST)
    assert found["estimate"].to_numpy() == pytest.approx(wanted["estimate"].to_numpy())
    table["n"] = np.random.default_rng(0).negative_binomial(3, 0.2, len(table))
    rates = groups.negative_binomial(
        table, value="n", group="group", reference=reference, covariates=["age"]
    )
    assert len(rates) == 2


@pytest.mark.parametrize("name", ["Young's y", "a ~ b", "C(age)", "const", "Intercept", "alpha"])
def test_columns_may_have_any_name(name):
    table = people().rename(columns={"age": name})
    wanted = groups.ancova(people(), reference="control", **CONTRAST)["estimate"]
    found = groups.ancova(
        table, value="alps", group="group", reference="control", covariates=[name]
    )
    assert found["estimate"].to_numpy() == pytest.approx(wanted.to_numpy())
    _, terms, _ = _regression.design(table, [name, "sex"])
    assert terms == [name, "sex: M - F"]


@pytest.mark.parametrize("name", ["time", "value", "subject", "Source", "mean_", "variable"])
def test_columns_of_visits_may_have_any_name(name):
    table = two_visits()
    wanted = longitudinal.mixed_anova(table, **PLAN)["statistic"].to_numpy()
    for role in ("group", "person", "time"):
        plan = PLAN | {role: name}
        renamed = table.rename(columns={PLAN[role]: name})
        assert longitudinal.mixed_anova(renamed, **plan)["statistic"].to_numpy() == pytest.approx(
            wanted
        )


@pytest.mark.parametrize("name", ["first", "second", "mean", "change"])
def test_a_column_with_the_name_of_a_result_is_refused(name):
    table = two_visits().rename(columns={"age": name})
    with pytest.raises(InputError, match=f"'{name}', which is the name of a result"):
        longitudinal.change_scores(table, **PLAN, covariates=[name])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda ages: [f"{a:.1f}".replace(".", ",") for a in ages], "holds '45,0'|text"),
        (lambda ages: ["n/a", *ages[1:].astype(str)], "in rows"),
        (lambda ages: [f"<{a}" for a in ages], "text"),
        (lambda ages: [f"19{a:02.0f}-01-01" for a in ages], "text"),
        (lambda ages: [f"p{k}" for k in range(len(ages))], "different words"),
        (lambda ages: [np.inf, *ages[1:]], "infinite"),
    ],
)
def test_a_covariate_of_numbers_written_as_text_is_refused(spoil, words):
    table = people()
    table["age"] = spoil(table["age"].to_numpy())
    with pytest.raises(InputError, match=f"age: .*({words})"):
        groups.ancova(table, reference="control", **CONTRAST)


def test_a_declared_category_is_a_category():
    table = people()
    table["site"] = pd.Categorical(np.arange(len(table)) % 2 + 1, categories=[1, 2, 9])
    checked = tables.check(table, value="alps", covariates=["site"])
    assert _regression.design(checked.table, ["site"])[1] == ["site: 2 - 1"], "level 9 is not used"


OF_TWO_VISITS = (longitudinal.mixed_model, longitudinal.change_regression)


@pytest.mark.parametrize("function", OF_TWO_VISITS)
def test_a_covariate_written_at_one_visit_is_carried_to_the_other(function):
    table = two_visits()
    plan = PLAN | {"groups": ("MS", "control"), "covariates": ["age"]}
    wanted = function(table, **plan)
    for lacking in (table["visit"] == 2, table["visit"] == 1, table.index % 4 == 1):
        once = table.assign(age=table["age"].mask(lacking))
        found = function(once, **plan)
        assert found["estimate"].to_numpy() == pytest.approx(wanted["estimate"].to_numpy())
        assert found["n"].tolist() == wanted["n"].tolist()


@pytest.mark.parametrize("function", OF_TWO_VISITS)
def test_a_third_group_is_no_part_of_the_contrast(function):
    table = two_visits()
    more = two_visits(seed=9).assign(group="other")
    more["person"] += 1000
    plan = PLAN | {"groups": ("MS", "control")}
    wanted = function(table, **plan)
    found = function(pd.concat([table, more]), **plan)
    assert found["estimate"].to_numpy() == pytest.approx(wanted["estimate"].to_numpy())
    assert found["n"].tolist() == wanted["n"].tolist()
    with pytest.raises(InputError, match="group: no 'nobody' in the table"):
        function(table, **PLAN, groups=("MS", "nobody"))
    lonely = pd.concat([table, more.head(1)])  # a group that cannot be compared is not asked for
    assert len(function(lonely, **plan)) == len(wanted)
    blank = table.assign(group=table["group"] + " ", visit=table["visit"].astype(str) + " ")
    found = function(blank, **plan | {"order": ("1", "2")})
    assert found["n"].tolist() == wanted["n"].tolist()


def test_terms_that_repeat_each_other_are_refused():
    table = people()
    table["patient"] = (table["group"] == "MS").astype(int)
    table["months"] = 12 * table["age"]
    table["constant"] = 3.0
    for covariates, words in (
        (["patient"], "repeat each other"),
        (["age", "months"], "repeat each other"),
        (["constant"], "constant does not vary"),
        (["age", "age"], "stands there twice"),
    ):
        with pytest.raises(InputError, match=words):
            groups.ancova(table, value="alps", group="group", reference="control",
                          covariates=covariates)  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 365.25, 1e6, 1e-2])
def test_a_unit_changes_nothing_but_the_number(scale):
    rng = np.random.default_rng(2)
    table = people(n=40)
    table["n"] = rng.negative_binomial(3, 3 / (3 + 10 + 5 * (table["group"] == "MS")))
    plan = {"group": "group", "reference": "control", "covariates": ["age"]}
    one = groups.negative_binomial(table, value="n", **plan)
    other = groups.negative_binomial(table.assign(age=scale * table["age"]), value="n", **plan)
    assert other["p"].to_numpy() == pytest.approx(one["p"].to_numpy(), rel=1e-3)
    adjusted = [groups.ancova(t, value="alps", **plan)["estimate"].iloc[0]
                for t in (table, table.assign(age=scale * table["age"]))]  # fmt: skip
    assert adjusted[0] == pytest.approx(adjusted[1])
