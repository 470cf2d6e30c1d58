from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from pvsbook import InputError, images
from pvsbook.pvs.rating import (
    bland_altman,
    grade,
    intraclass_correlation,
    is_high_grade,
    rate,
    simulate_raters,
    weighted_kappa,
)


def test_grades_of_the_scale():
    # Potter et al. 2015: 0 none, 1 = 1-10, 2 = 11-20, 3 = 21-40, 4 = more than 40.
    for counts, expected in (((0,), 0), ((1, 10), 1), ((11, 20), 2), ((21, 40), 3), ((41, 99), 4)):
        assert set(grade(counts).tolist()) == {expected}
    assert is_high_grade(20).tolist() is False
    assert is_high_grade(20, above=10).tolist() is True


@pytest.mark.parametrize("bad", [-1, np.nan, [3, -2]])
def test_counts_below_zero(bad):
    with pytest.raises(InputError, match="count"):
        grade(bad)


def fake_result(seen=True):
    """Five spaces in the left basal ganglia, three of them on slice 4; a short scan."""
    labels = np.zeros((10, 10, 8), np.int32)
    for n, z in enumerate((4, 4, 4, 1, 6)):
        labels[2 * n, 3, z] = n + 1
    labels[8, 8, 2] = 6
    classes = ["pvs"] * 5 + ["uncertain"]
    objects = pd.DataFrame({"class": classes, "region": ["bg_left"] * 6})
    names = [f"{g}_{s}" for g in ("cso", "bg", "midbrain") for s in ("left", "right")]
    row = {f"n_{name}": 0 for name in names} | {"n_bg_left": 5}
    if not seen:
        row |= {"n_midbrain_left": np.nan, "n_midbrain_right": np.nan}
    return SimpleNamespace(
        labels=images.make(labels, np.diag([1, 1, 2, 1])), objects=objects, to_row=lambda: row
    )


def test_worst_slice_of_the_worse_side():
    table = rate(fake_result()).set_index("region")
    assert table.loc["bg", ["side", "slice", "count", "grade"]].tolist() == ["left", 4, 3, 1]
    assert table.loc["cso", ["count", "grade"]].tolist() == [0, 0]


def test_thicker_slices_show_more():
    table = rate(fake_result(), slice_mm=8.0).set_index("region")
    assert table.loc["bg", ["slice", "count"]].tolist() == [4, 4]
    with pytest.raises(InputError, match="thinner than the scan"):
        rate(fake_result(), slice_mm=0.5)


def test_a_region_that_was_not_seen_has_no_grade():
    table = rate(fake_result(seen=False)).set_index("region")
    assert np.isnan(table.loc["midbrain", "count"])
    assert pd.isna(table.loc["midbrain", "grade"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_kappa_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 5, 40)
    b = np.clip(a + rng.integers(-1, 2, 40), 0, 4)
    found = weighted_kappa(a, b)
    expected = cohen_kappa_score(a, b, weights="quadratic", labels=range(5))
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low <= found.value <= found.high


def test_the_interval_of_kappa_covers():
    rng = np.random.default_rng(0)
    truth = grade(rng.integers(0, 50, 200_000))
    noisy = np.clip(truth + rng.choice([-1, 0, 1], truth.size, p=[0.2, 0.6, 0.2]), 0, 4)
    real = cohen_kappa_score(truth, noisy, weights="quadratic")
    covered = []
    for block in range(300):
        part = slice(block * 60, block * 60 + 60)
        found = weighted_kappa(truth[part], noisy[part])
        covered.append(found.low <= real <= found.high)
    assert 0.89 < np.mean(covered) < 0.99


def test_icc_of_shrout_and_fleiss():
    # Table 2 of Shrout and Fleiss 1979: six targets, four judges, ICC(2,1) = 0.29.
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    found = intraclass_correlation(table)
    assert found["icc"] == pytest.approx(0.29, abs=0.005)
    assert found["low"] < found["icc"] < found["high"]


def test_bland_altman_of_known_numbers():
    found = bland_altman([2.0, 4.0, 6.0, 8.0], [1.0, 2.0, 6.0, 5.0])
    # Differences 1, 2, 0, 3: mean 1.5, standard deviation sqrt(5/3).
    assert found.mean == pytest.approx(1.5)
    assert found.upper == pytest.approx(1.5 + 1.96 * np.sqrt(5 / 3))
    assert found.mean_high == pytest.approx(1.5 + 3.18245 * np.sqrt(5 / 3) / 2, rel=1e-5)


def test_simulated_raters_have_the_error_they_were_given():
    counts = np.full(4000, 20)
    seen = simulate_raters(
        np.random.default_rng(1), counts, sensitivity=(1.0, 0.7), false_per_scan=(0.0, 2.0)
    )
    assert (seen[:, 0] == 20).all()
    assert seen[:, 1].mean() == pytest.approx(16, abs=0.15)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: weighted_kappa([1, 2], [1]), "two or more pairs"),
        (lambda: weighted_kappa([0, 7], [1, 2]), "grades 0 to 7"),
        (lambda: weighted_kappa([1, 1], [1, 1]), "undefined"),
        (lambda: intraclass_correlation([[1, 2]]), "at least 5 scans"),
        (lambda: bland_altman([1, 2], [1, 2]), "three or more"),
        (
            lambda: simulate_raters(np.random.default_rng(0), [1], sensitivity=(2.0, 1.0)),
            "0 to 1",
        ),
        (
            lambda: simulate_raters(np.random.default_rng(0), [1], sensitivity=(0.5,)),
            "give one each",
        ),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
