from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, images
from pvsbook.pvs.rating import grade, rate


def test_grades_of_the_scale():
    # Potter et al. 2015: 0 none, 1 = 1-10, 2 = 11-20, 3 = 21-40, 4 = more than 40.
    for counts, expected in (((0,), 0), ((1, 10), 1), ((11, 20), 2), ((21, 40), 3), ((41, 99), 4)):
        assert set(grade(counts).tolist()) == {expected}


@pytest.mark.parametrize("bad", [-1, np.nan, [3, -2], 10.5, np.inf, "many"])
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
        rate(fake_result(), slice_mm=0.9)
    with pytest.raises(InputError, match="thinner than the scan"):
        rate(fake_result(), slice_mm=np.nan)


def test_a_region_that_was_not_seen_has_no_grade():
    table = rate(fake_result(seen=False)).set_index("region")
    assert np.isnan(table.loc["midbrain", "count"])
    assert pd.isna(table.loc["midbrain", "grade"])
