"""The page of all participants, from records of values that were drawn: nothing is measured."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from html import unescape
from pathlib import Path

import fake_people
import numpy as np
import pandas as pd
import pytest
from test_bids import Page, call

from pvsbook import InputError, images, jobs
from pvsbook.bids import _compare, _group_page, _plots, _protocols, group, inputs
from pvsbook.bids._series import counted
from pvsbook.methods import ALL, by_name

PVS = by_name("pvs")
ILL = "Müller & <b>Söhne</b>"


def people(*labels: str | None, **columns) -> pd.DataFrame:
    index = [f"sub-{k:02d}" for k in range(1, len(labels) + 1)]
    return pd.DataFrame({"group": labels, **columns}, index=index, dtype=object)


def rows(n: int, *, seed: int = 0, **columns) -> pd.DataFrame:
    """Draw the table of n people, all of one protocol, who pass."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(1, n + 1)],
            "session_id": None,
            "outcome": "done",
            "status": "pass",
            "protocol": "A",
            "n_pvs": rng.negative_binomial(5, 0.1, n),
            "volume_mm3": rng.normal(300, 40, n),
        }
    )
    return table.assign(**columns)


def compare(table: pd.DataFrame, participants: pd.DataFrame, asked: str = "", **dictionary):
    found = _compare.find_groups(participants, dictionary, asked)
    contrasts = _compare.with_holm(_compare.compare(PVS, table, found))
    return contrasts.set_index(["figure", "other"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[Path, Path, group.Group]:
    """Ten controls and ten ill people, two of a rare kind, one of none, and one without scans."""
    top = tmp_path_factory.mktemp("group")
    labels = [f"{k:02d}" for k in range(1, 25)]
    rng = np.random.default_rng(4)
    table = pd.DataFrame(
        {
            "group": ["control"] * 10 + [ILL] * 10 + ["rare"] * 2 + [None, "control"],
            "age": [*rng.integers(30, 60, 23), 89],
            "sex": list("FM") * 12,
        },
        index=labels,
    )
    table["age"] = table["age"].astype(str)
    table.loc["24", "age"] = "89+"
    meta = {k: {"EchoTime": 0.1 if int(k) % 4 else 0.12} for k in labels}
    fake_people.write_folder(top / "bids", table, absent=("24",), meta=meta)
    images.save(
        images.make(np.ones((4, 4, 4), np.float32), np.eye(4)),
        top / "bids/sub-stray/anat/sub-stray_T2w.nii.gz",
    )

    def values(measurement):
        label = measurement.participant.removeprefix("sub-")
        k = 99 if label == "stray" else int(label)
        n = int(rng.negative_binomial(5, 0.1))
        row = {"n_pvs": n, "volume_mm3": 7.0 * n + k, "contrast_to_noise": 5 + 0.1 * (k % 7)}
        if k == 3:
            row["contrast_to_noise"] = 25.0
        if k in (2, 15):
            return row, "warn", [f"{k} voxels at {2.9 + k / 100:.2f} mm of sub-01_T2w are thick"]
        return row, "fail" if k == 5 else "pass", ["registration: 0.21 is low"] * (k == 5)

    return top / "bids", top / "out", fake_people.summarise(top / "bids", top / "out", values)


def test_the_page_compares_and_leads_on(folder):
    _, out, _ = folder
    text = (out / "group.html").read_text()
    assert "<b>Söhne" not in text
    contrasts = pd.read_csv(out / "group_comparisons.tsv", sep="\t")
    words = json.loads((out / "group_comparisons.json").read_text())
    assert list(contrasts.columns) == list(words) == list(_compare.RESULTS)
    assert contrasts["estimate"].notna().tolist() == [True, False] * 2
    assert "rare has 2 with a value that can be used; at least 5 are needed" in text
    assert contrasts["n_reference"].iloc[0] == 9, "one of ten failed"
    assert "***" not in text
    page = Page(out / "group.html")
    dots = [a for a in page.all("a") if "aria-label" in a]
    assert len(dots) == 24 * 3
    for dot in dots:
        assert (out / dot["href"]).is_file()
        assert dot["aria-label"].startswith(dot["href"].removesuffix(".html") + ": ")
    assert [d["class"] for d in dots].count("failed") == 3
    (alt, _) = [d["aria-label"] for d in page.all("div") if d.get("role") == "img"]
    estimate = contrasts.loc[0, "estimate"]
    assert f"{ILL} / control: {estimate:.3g}, from {contrasts.loc[0, 'low']:.3g} to" in alt
    assert f"{ILL} and control were compared" in (out / "group_methods.md").read_text()


def cells(out: Path, caption: str) -> list[list[str]]:
    """Return the text of a table of the page."""
    text = (out / "group.html").read_text()
    body = text.split(f"<caption>{caption}</caption>")[1].split("</table>")[0]
    lines = body.split("<tbody>")[1].split("<tr>")[1:]
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, flags=re.S) for line in lines]
    plain = [[" ".join(re.sub(r"<[^>]*>", "", cell).split()) for cell in row] for row in found]
    return [[unescape(cell) for cell in row] for row in plain]


def test_reasons_keep_their_numbers_and_outliers_their_person(folder):
    _, out, _ = folder
    name = PVS.title
    reasons = cells(out, f"{name}: what quality checks found")
    assert reasons[0] == [
        "2 to 15 voxels at 2.92 to 3.05 mm of sub-01_T2w are thick", "2", "sub-02, sub-15",
    ]  # fmt: skip
    assert reasons[1] == ["registration: 0.21 is low", "1", "sub-05"]
    (odd,) = [row for row in cells(out, f"{name}: outliers") if row[0] == "sub-03"]
    assert re.search(r"contrast to noise 25 \(\+\d+\.\d\)", odd[1])


def test_everybody_is_counted_by_group(folder):
    _, out, _ = folder
    counts = {row[0]: row[1:7] for row in cells(out, f"{PVS.title}: groups")}
    assert counts == {
        "control (reference)": ["11", "9", "8", "1", "1", "1"],
        ILL: ["10", "10", "9", "1", "0", "0"],
        "rare": ["2", "2", "2", "0", "0", "0"],
        "no group": ["2", "0", "2", "0", "0", "0"],
    }
    protocols = cells(out, f"{PVS.title}: protocols")
    assert [row[:2] for row in protocols] == [["A", "18"], ["B", "5"], ["C", "1"], ["all", "24"]]
    assert "echo time not stated" in protocols[2][2]
    assert protocols[2][3] == "1 no group, sub-stray"
    assert "echo time 100 ms" in protocols[0][2]
    assert "measured by pvsbook" in protocols[3][2]


def test_groups_can_be_left_out_and_named(folder, tmp_path):
    top, out, _ = folder
    dataset = inputs.find(top, methods=["pvs"])
    result = group.summarise(dataset, out, compare="sex=M")
    table = pd.read_csv(out / "group_comparisons.tsv", sep="\t")
    assert table["contrast"].tolist() == ["F / M", "F - M"]
    assert table["adjusted_for"].tolist() == ["age"] * 2, "sex is the group"
    notes = table["notes"].str.contains(r"one of the groups only: 5 of M \(B\)")
    assert notes.all()
    result = group.summarise(dataset, out, compare="none")
    assert (out / "group_comparisons.tsv").read_text().count("\n") == 1, "nothing old stays"
    assert "Groups are not compared, as was asked." in result.report.read_text()
    assert call("run", top, out, "group", "--methods", "pvs", "--compare", "age2") == 64
    assert call("run", top, out, "participant", "--methods", "pvs", "--compare", "age") == 64
    with pytest.raises(InputError, match="no group healthy; there are control, Müller"):
        group.summarise(dataset, out, compare="group=healthy")


def test_a_page_by_keyboard_and_for_everyone(browser, folder):
    from axe_playwright_python.sync_playwright import Axe

    top, out, _ = folder
    group.summarise(inputs.find(top, methods=["pvs"]), out)
    for width, scheme in ((1280, "light"), (390, "dark")):
        opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.goto((out / "group.html").as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert [v["id"] for v in Axe().run(opened).response["violations"]] == []
        dots = opened.locator("ul.dots").first.locator("a")
        dots.first.focus()
        opened.keyboard.press("ArrowRight")
        assert dots.nth(1).evaluate("dot => dot === document.activeElement")
        target = dots.nth(1).get_attribute("href")
        named = opened.locator("ul.dots").first.locator("li").nth(1).locator(".named")
        assert named.is_visible()
        opened.keyboard.press("Tab")
        assert not opened.locator("ul.dots").first.locator("a:focus").count(), "one stop a list"
        dots.nth(1).focus()
        opened.keyboard.press("Enter")
        opened.wait_for_url(f"**/{target}")
        opened.close()


@pytest.mark.parametrize(
    ("columns", "dictionary", "asked", "expected"),
    [
        ({"group": ["MS", "HC", "MS"]}, {}, "", ("group", "HC", ("MS",))),
        ({"Dx": ["b", "a", "b"]}, {}, "", ("Dx", "b", ("a",))),
        ({"dx": ["2", "1", "10", "1"]}, {}, "", ("dx", "1", ("2", "10"))),
        (
            {"dx": ["1", "0"]},
            {"dx": {"Levels": {"0": "Healthy Control"}}},
            "",
            ("dx", "0", ("1",)),
        ),
        ({"dx": ["x", "y"]}, {"dx": {"Levels": {"y": "", "x": ""}}}, "", ("dx", "y", ("x",))),
        ({"group": ["a", "a"], "diagnosis": ["c", "d"]}, {}, "", ("diagnosis", "c", ("d",))),
        ({"group": ["a ", "a", None, "b"]}, {}, "", ("group", "a", ("b",))),
        ({"group": ["a", "b"], "dx": ["c", "d"]}, {}, "dx=d", ("dx", "d", ("c",))),
        ({"group": ["controls", "hc", "x"]}, {}, "", ("group", "controls", ("hc", "x"))),
        ({"group": ["a", "a", "N/A"]}, {}, "", ("", "", ())),
        ({"site": ["a", "b"]}, {}, "", ("", "", ())),
        ({"group": ["Patient", "patient", "hc"]}, {}, "", ("", "", ())),
    ],
)
def test_the_column_of_groups_and_the_reference(columns, dictionary, asked, expected):
    found = _compare.find_groups(pd.DataFrame(columns), dictionary, asked)
    assert (found.column, found.reference, found.others) == expected
    assert found.words


def test_an_effect_is_found_adjusted_and_corrected():
    n = 40
    age = np.linspace(30, 70, n)
    table = rows(n)
    ill = np.arange(n) % 2 == 1
    table["volume_mm3"] += 2 * age + 100 * ill
    table["n_pvs"] = np.random.default_rng(2).poisson(np.where(ill, 40, 20))
    found = compare(
        table, people(*np.where(ill, "p", "control"), age=age.astype(str), sex=list("fFmM") * 10)
    )
    count, mean = found.loc[("n_pvs", "p")], found.loc[("volume_mm3", "p")]
    assert count["measure"] == "rate ratio"
    assert count["low"] < 2 < count["high"]
    assert abs(mean["estimate"] - 100) < 30
    assert mean["adjusted_for"] == "age, sex"
    assert mean["high"] - mean["low"] < mean["plain_high"] - mean["plain_low"]
    assert mean["p_holm"] == pytest.approx(max(2 * min(mean["p"], count["p"]), mean["p"]))
    assert mean["passed_estimate"] == pytest.approx(mean["estimate"])


def test_a_failed_scan_is_never_in_and_a_warned_one_is_told_apart():
    table = rows(24)
    who = people(*["control", "p"] * 12)
    clean = compare(table, who).loc[("volume_mm3", "p")]
    table.loc[[0, 1], "status"] = ["fail", "warn"]
    table.loc[0, "volume_mm3"] = 1e6
    found = compare(table, who).loc[("volume_mm3", "p")]
    assert (found["n_reference"], found["n_other"]) == (11, 12)
    assert abs(found["estimate"] - clean["estimate"]) < 50
    assert found["passed_estimate"] != found["estimate"]


def test_nobody_counts_twice():
    """Later visits and further series of a person change nothing."""
    table, who = rows(20), people(*["control", "p"] * 10)
    table["session_id"] = "ses-1"
    once = compare(table, who)
    later = table.assign(session_id="ses-2", n_pvs=500, volume_mm3=9e3)
    series = table.assign(protocol="B", n_pvs=500, volume_mm3=9e3)[:3]
    failed = table.assign(session_id="ses-0", status="fail")
    many = pd.concat([failed, series, table, later], ignore_index=True)
    many = many.sort_values(["participant_id", "session_id"], kind="stable", ignore_index=True)
    many["for_statistics"] = counted(many.assign(for_statistics=0))
    pd.testing.assert_frame_equal(compare(many, who), once)


def test_groups_that_are_confounded_with_the_protocol_are_not_compared():
    who = people(*["control"] * 10, *["p"] * 10)
    table = rows(20, protocol=["A"] * 10 + ["B"] * 10)
    found = compare(table, who)
    assert found["estimate"].isna().all()
    assert found["p"].isna().all()
    assert found["reason"].str.contains("cannot be told from one of the protocols").all()


def test_protocols_that_hold_both_groups_are_adjusted_for():
    n = 40
    ill = np.arange(n) % 2 == 1
    on_b = np.where(ill, np.arange(n) % 8 != 1, np.arange(n) % 8 == 0)
    table = rows(n, protocol=np.where(on_b, "B", "A"))
    table["volume_mm3"] += 400 * on_b
    table.loc[[38], "protocol"] = "C"  # a control, alone there
    found = compare(table, people(*np.where(ill, "p", "control"))).loc[("volume_mm3", "p")]
    assert found["low"] < 0 < found["high"]
    assert found["adjusted_for"] == "protocol"
    assert "their protocol holds one of the groups only: 1 of control (C)" in found["notes"]
    pooled = compare(table.assign(protocol="A"), people(*np.where(ill, "p", "control")))
    assert pooled.loc[("volume_mm3", "p"), "low"] > 0, "what pooling would have found"


def test_three_groups_are_compared_with_one_reference():
    found = compare(rows(30), people(*["hc", "MS", "NMOSD"] * 10))
    assert list(found.index.get_level_values("other")) == ["MS", "NMOSD"] * 2
    assert found["estimate"].notna().all()
    tested = found.sort_values("p")
    assert tested["p_holm"].iloc[0] == pytest.approx(min(1, 4 * tested["p"].iloc[0]))


def test_missing_ages_are_named_and_too_many_are_not_adjusted_for():
    labels = ["hc", "p"] * 10
    ages = [str(30 + k * 7 % 40) for k in range(20)]
    few = compare(rows(20), people(*labels, age=[None, "n/a?", *ages[2:]]))
    row = few.loc[("volume_mm3", "p")]
    assert "left out for want of age: sub-01, sub-02" in row["notes"]
    assert (row["n_reference"], row["n_other"], row["adjusted_for"]) == (9, 9, "age")
    many = compare(rows(20), people(*labels, age=[None] * 6 + ages[6:]))
    row = many.loc[("volume_mm3", "p")]
    assert "not adjusted for age: 70 % of hc have it, less than 80 %" in row["notes"]
    assert (row["n_reference"], row["adjusted_for"]) == (10, None)


def test_what_cannot_be_estimated_has_a_reason():
    same = rows(20, volume_mm3=5.0, n_pvs=[0, 7] * 10)
    found = compare(same, people(*["hc", "p"] * 10))
    assert "does not vary" in found.loc[("volume_mm3", "p"), "reason"]
    assert "every count of hc is 0" in found.loc[("n_pvs", "p"), "reason"]
    apart = compare(rows(20), people(*["hc", "p"] * 10, sex=["f", "m"] * 10))
    assert apart["reason"].str.contains("repeat each other").all()
    lacking = compare(rows(20, volume_mm3=[np.nan, 1.0] * 10), people(*["hc", "p"] * 10))
    assert "hc has 0" in lacking.loc[("volume_mm3", "p"), "reason"]
    assert "10 without a value" in lacking.loc[("volume_mm3", "p"), "notes"]


def test_an_unlike_spread_and_what_guards_warn_of_are_told():
    table = rows(40)
    ill = np.arange(40) % 2 == 1
    table["volume_mm3"] = np.where(ill, 3, 1) * (table["volume_mm3"] - 300) + 300
    table.loc[3, "volume_mm3"] = -999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notes = compare(table, people(*np.where(ill, "p", "hc"))).loc[("volume_mm3", "p"), "notes"]
    assert "the spread of p is" in notes
    assert "-999 stands 1 times" in notes


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_each_method_says_in_what_groups_are_compared(method):
    assert method.compared
    assert set(method.compared) <= set(method.key_columns)
    assert set(method.compared.values()) <= {"mean", "count"}


def test_alike_protocols_have_one_letter():
    plain = {"voxels": (1.0, 1.0, 2.0, "mm"), "field strength": (3.0, "T"), "scanner": "A B"}
    other = [
        plain | {"field strength": (2.89, "T"), "voxels": (1.0, 1.0, 2.0001, "mm")},
        plain | {"voxels": (0.94, 0.94, 2.0, "mm")},
        plain | {"field strength": None},
        plain | {"scanner": "A C"},
    ]
    letters, texts = _protocols.name_protocols([*other[1:], None, plain, plain, other[0]])
    assert letters == ["B", "C", "D", None, "A", "A", "A"]
    assert texts["A"]["voxels"] == "1 x 1 x 2 mm"
    assert texts["C"]["field strength"] == "not stated"
    many, _ = _protocols.name_protocols([{"scanner": str(k)} for k in range(28)])
    assert many[25:] == ["Z", "AA", "AB"]


def test_a_protocol_is_read_from_header_sidecar_and_b_values(tmp_path):
    stem = tmp_path / "sub-1/dwi/sub-1_dwi"
    images.save(
        images.make(np.ones((4, 4, 3, 5), np.float32), np.diag([2, 1.5, 3, 1])), f"{stem}.nii.gz"
    )
    stem.with_suffix(".bval").write_text("0 5 995 1005 2010")
    (tmp_path / "dwi.json").write_text('{"RepetitionTime": 3.2, "Manufacturer": "GE"}')
    stem.with_suffix(".json").write_text('{"ManufacturersModelName": "MR750 "}')
    found = inputs.Found(
        {"dwi": [f"{stem}.nii.gz"], "bval": [f"{stem}.bval"]}, {"flair": "x.nii.gz", "b": 3}
    )
    known = _protocols.protocol_of(found, inputs.Sidecars(tmp_path))
    assert known["voxels"] == (1.5, 2.0, 3.0, "mm")
    assert known["volumes"] == (5.0, "")
    assert known["b-values"] == (0, 1000, 2000, "s/mm2")
    assert known["repetition time"] == (3.2, "s")
    assert known["scanner"] == "GE MR750"
    assert known["read with"] == "flair"
    stem.with_suffix(".bval").write_text("none")
    Path(f"{stem}.nii.gz").write_bytes(b"x")
    outside = _protocols.protocol_of(found, inputs.Sidecars(tmp_path / "other"))
    assert outside["voxels"] is outside["b-values"] is None
    assert outside["scanner"] == "MR750", "of the file beside it"
    stem.with_suffix(".json").write_text("{")
    assert _protocols.protocol_of(found, inputs.Sidecars(tmp_path / "other"))["scanner"] is None


def test_a_row_of_other_code_or_site_is_another_protocol(folder, tmp_path):
    top, out, _ = folder
    dataset = inputs.find(top, methods=["pvs"])
    record = jobs.read_record(out, "sub-01_pvs")
    jobs.write_record(out, replace(record, fingerprint="of an earlier version"))
    people = dataset.participants.assign(Site=["a"] * 23 + ["b"])
    people.loc["sub-02", "Site"] = "b"
    table = group.summarise(replace(dataset, participants=people), out).tables["pvs"]
    letters = table.set_index("participant_id")["protocol"]
    assert len({letters["sub-01"], letters["sub-02"], letters["sub-03"]}) == 3
    assert "measured by other code of pvsbook" in (out / "group.html").read_text()
    jobs.write_record(out, record)


def test_outliers_are_those_of_their_protocol():
    values = pd.Series([1, 2, 3, 4, 5, 101, 102, 103, 104, 105, 150.0, 4])
    letters = pd.Series([*"AAAAA", *"BBBBBB", "C"])
    z = group._distances(values, letters)
    assert z.abs().idxmax() == 10
    assert z[10] > group.OUTLYING
    assert abs(group.robust_z(values)[10]) < group.OUTLYING
    assert z[11] == group.robust_z(values)[11], "alone in its protocol: among all"


def test_places_on_an_axis():
    axis = _plots.Axis([0.5, 1, 4], is_ratio=True)
    assert axis(0.5) == 4
    assert axis(4) == 96
    assert axis(1) == pytest.approx(4 + 92 / 3, abs=0.01)
    assert [t["text"] for t in axis.ticks] == ["0.5", "1", "2"]
    assert _plots.Axis([1, np.inf, np.nan], is_ratio=True)(np.inf) > 96
    assert _plots.Axis([7.0, 7.0])(7.0) == 50
    assert _plots.Axis([0.0])(0.0) == 50
    assert _plots.Axis([])(0.5) == 50
    assert _group_page.NUMBER.findall("12 voxels at 3.1 mm, sub-01 T1w 1e-4; -5.") == [
        "12", "3.1", "1e-4", "-5",
    ]  # fmt: skip
