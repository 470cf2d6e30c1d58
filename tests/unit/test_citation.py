"""The paragraph on methods: what it says, and its references."""

import re
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from pybtex.database import parse_string

from pvsbook import report
from pvsbook.bids.citation import methods_text
from pvsbook.methods import ALL, _prose, by_name

PVS = {
    "contrast": "t2", "voxel_mm3": 1.0, "wmh_from": "none", "n_mirrored": 1, "n_pvs": 12,
    "status": "pass",
}  # fmt: skip
PACKAGED = parse_string(
    files("pvsbook").joinpath("templates", "references.bib").read_text("utf-8"), "bibtex"
).entries
BOOK = parse_string(
    Path(__file__).parents[2].joinpath("book", "references.bib").read_text("utf-8"), "bibtex"
).entries


def written(name, rows, **options):
    method = by_name(name)
    return methods_text([(method, {**method.defaults, **options}, pd.DataFrame(rows))])


def test_options_and_results_are_said():
    text, _ = written("pvs", [PVS], rules={"min_length_mm": 4.0}, registration="syn")
    assert "T2-weighted scans with voxels of 1 mm3" in text
    assert "(syn)" in text
    assert "at least 4 mm long and 1.6 times as long as wide, at most 3 mm wide" in text
    assert "No lesions were masked" in text
    assert "Of 1 scan, 1 passed the checks of quality, 0 passed with warnings" in text
    assert re.search(r"pvsbook [\d.]+ \(numpy \d", text)


def test_unlike_scans_are_counted_and_ranges_are_given():
    other = {**PVS, "contrast": "t1", "voxel_mm3": 2.0, "wmh_from": "mask", "status": "fail"}
    rows = [PVS | {"outcome": "done"}, other | {"outcome": "done"}, {"outcome": "failed"}]
    text, _ = written("pvs", rows)
    assert "T2-weighted (1 scan) and T1-weighted (1 scan)" in text
    assert "1.5 (1 to 2) mm3" in text
    assert "1 failed, and 1 of 3 could not be measured" in text


def test_nothing_measured_says_nothing_of_the_method():
    text, references = written("pvs", [{"outcome": "failed"}])
    assert "Perivascular" not in text
    assert references == ""


@pytest.mark.parametrize("background", ["smv", "lbv", "vsharp", "resharp", "pdf"])
def test_steps_of_qsm_are_cited(background):
    row = {"field_strength_t": 3.0, "n_echoes": 3, "reference_value_ppb": 2.0, "status": "warn"}
    options = {"background": background, "echo_times_s": [0.004, 0.012]}
    text, references = written("qsm", [row], **options)
    assert _prose.STEPS[background] in text
    assert "3 T with 3 echoes (4, 12 ms)" in text
    assert "whose mean (2.0 ppb, SD 0.0 between scans) was subtracted" in text
    assert "No reference was subtracted." in written("qsm", [row], reference="none")[0]
    keys = set(re.findall(r"\[@(\w+)\]", text))
    assert set(parse_string(references, "bibtex").entries) == keys


@pytest.mark.parametrize("method", [m.name for m in ALL])
def test_every_method_has_its_paragraph(method):
    text, _ = written(method, [{"status": "pass"}])
    assert text.count("\n\n") == 1, "the method's paragraph and that of the versions"
    assert set(re.findall(r"\[@(\w+)\]", text)) <= set(PACKAGED)


def test_references_are_those_of_the_book():
    source = Path(_prose.__file__).read_text("utf-8")
    assert set(re.findall(r"\[@(\w+)\]", source)) - {"key"} == set(PACKAGED)
    for key in set(PACKAGED) & set(BOOK):
        assert PACKAGED[key].fields["doi"] == BOOK[key].fields["doi"], key


def test_options_of_steps_are_all_known():
    known = {o.name: o.choices for o in by_name("qsm").options}
    assert set(_prose.STEPS) == {*known["background"], *known["inversion"]}


def test_a_button_copies_the_paragraph(browser, tmp_path):
    text, references = written("pvs", [PVS])
    page_at = tmp_path / "page.html"
    page_at.write_text(
        report.html_page(
            "Scan", summary="", row={}, columns={}, figures=[], limits=[], sources=[],
            methods=(text, references),
        ),
        encoding="utf-8",
    )  # fmt: skip
    page = browser.new_page()
    page.goto(page_at.as_uri())
    page.get_by_role("button", name="Copy the text").click()
    assert page.get_by_role("button", name="Copied").is_visible()
    assert page.evaluate("getSelection().toString()").strip() == text.strip()
    page.close()
    silent = browser.new_context(java_script_enabled=False).new_page()
    silent.goto(page_at.as_uri())
    assert not silent.get_by_role("button").count(), "a button that does nothing is not shown"
    assert silent.get_by_label("Text to copy").is_visible()
    silent.close()
