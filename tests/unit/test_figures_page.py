"""Sliders, the rating trainer and HTML reports: without a server, by keyboard, on a phone."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sklearn.metrics import cohen_kappa_score

from pvsbook import InputError, report
from pvsbook.bids import _plots
from pvsbook.pvs import rating
from pvsbook_book import notebook_page, widgets

GRADES = [0, 1, 2, 3, 4, 2, 1]
GIVEN = [0, 2, 2, 4, 3, 2, 0]
SCALE = dict(rating.GRADE_TEXT)


def a_slider():
    frames = []
    for tilt in (-10, 0, 10):
        figure, ax = plt.subplots()
        ax.plot([0, 1], [0, tilt])
        frames.append(figure)
    return widgets.slider(
        frames,
        label="Tilt (degrees)",
        values=["-10", "0", "10"],
        texts=["it falls by <3", "it is true", "it falls by 4"],
    )


def a_trainer():
    rng = np.random.default_rng(0)
    return widgets.rating_trainer(
        [rng.random((30, 20)) for _ in GRADES],
        [10 * g for g in GRADES],
        GRADES,
        texts=SCALE,
        limits=(0, 1),
        title="Seven slices to grade",
    )


def test_they_ask_nobody_and_are_the_same_each_time():
    for make in (a_slider, a_trainer):
        page = make().data
        assert page == make().data
        assert not re.search(r"(src|href)=\"(?!data:)", page)
        assert len(page) < 600_000
    assert plt.get_fignums() == []
    assert "<3" not in a_slider().data.replace("&lt;3", "")


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="1 frames, 2 values"):
        widgets.slider([plt.figure()], label="x", values=["1", "2"], texts=["a", "b"])
    plt.close("all")
    with pytest.raises(InputError, match="2 slices, 1 counts"):
        widgets.rating_trainer([np.eye(3)] * 2, [1], [1, 1], texts=SCALE, limits=(0, 1), title="t")
    with pytest.raises(InputError, match=r"\[9\] are not on the scale"):
        widgets.rating_trainer(
            [np.eye(3)] * 2, [1, 2], [1, 9], texts=SCALE, limits=(0, 1), title="t"
        )


def test_a_glance_fits_its_boxes():
    figure = widgets.at_a_glance([("one", "w" * 10), ("two", "a few words more " * 6)])
    figure.draw_without_rendering()
    (ax,) = figure.axes
    for text in ax.texts:
        box = text.get_window_extent()
        assert box.x1 < ax.get_window_extent().x1
    plt.close(figure)


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A file with both on it; files have a storage of their own."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(
        "<!doctype html><html lang=en><title>Parts of a page</title>"
        f"<main><h1>Parts</h1>{a_slider().data}{a_trainer().data}</main>"
    )
    opened = browser.new_page()
    opened.goto(path.as_uri())
    yield opened
    opened.close()


def test_a_slider_moves_by_the_arrow_keys(page):
    at, picture = page.get_by_label("Tilt (degrees)"), page.locator(".slider img")
    first = picture.get_attribute("src")
    at.focus()
    page.keyboard.press("ArrowRight")
    assert picture.get_attribute("src") != first
    assert picture.get_attribute("alt") == "Tilt (degrees) 0: it is true"
    assert page.locator(".slider output").inner_text() == "0"
    assert at.get_attribute("aria-valuetext") == "0"
    page.keyboard.press("End")
    assert page.locator(".slider figcaption").inner_text() == "it falls by 4"


def test_the_trainer_works_by_keyboard_remembers_and_gives_kappa(page):
    status, go = page.locator(".trainer [role=status]"), page.locator(".trainer .go")
    go.press("Enter")
    assert status.inner_text() == "Choose a grade first."
    for k, (given, grade) in enumerate(zip(GIVEN, GRADES, strict=True)):
        if k == 3:  # a reader comes back later
            page.reload()
        page.locator(f".trainer input[value='{given}']").focus()
        page.keyboard.press("Space")
        go.press("Enter")
        word = "Right" if given == grade else "Not quite"
        assert status.inner_text().startswith(f"{word}: {10 * grade} PVS, grade {grade}")
        go.press("Enter")
    kappa = cohen_kappa_score(GIVEN, GRADES, weights="quadratic", labels=range(5))
    assert f"agree on 3 of 7; weighted kappa is {kappa:.2f}" in status.inner_text()
    assert "as high as the truth" in status.inner_text()
    page.reload()
    assert "agree on 3 of 7" in status.inner_text()
    page.locator(".trainer .anew").press("Enter")
    assert page.locator(".trainer .at").inner_text() == "Slice 1 of 7"


def test_a_slider_starts_where_scripts_run_before_the_output_is_on_the_page(page):
    page.evaluate(
        """(html) => {
          const host = document.createElement("div"), code = document.createElement("script");
          host.innerHTML = html;  // as JupyterLab does
          code.textContent = host.querySelector("script").textContent;
          document.head.append(code);
          document.querySelector("main").append(host);
        }""",
        a_slider().data.replace("Tilt", "Later tilt").replace("slider-", "later-"),
    )
    page.wait_for_timeout(200)
    at = page.get_by_label("Later tilt (degrees)")
    at.press("ArrowRight")
    assert at.get_attribute("aria-valuetext") == "0"


def test_both_pass_axe(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert [v["id"] for v in found.response["violations"]] == []


def reports():
    """Pages that are read as files: a scan's, a group's, and that of a notebook run again."""
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    plt.close(figure)
    figures = [(figure, "a line that rises", "Simulated: it rises.")]
    values = pd.Series(np.arange(40.0))
    interval = {"main": (1.0, 0.5, 2.0), "plain": (1.2, 0.6, 2.4)}
    plots = [
        (_plots.forest("Ratio", [{"name": "n" * 60, "intervals": interval}], is_ratio=True), ""),
        (
            _plots.dots(
                "volume (ml)",
                values,
                lanes=values.map(lambda v: "a long name of a group" if v % 2 else "b"),
                names=[f"sub-{k}" for k in range(40)],
                links=["sub-1.html"] * 39 + [""],
                kinds=["plain", "odd", "failed", "plain"] * 10,
            ),
            "Simulated.",
        ),
    ]
    wide = {
        "head": ["Method", *(f"column {k}" for k in range(20))],
        "rows": [["alps", *range(20)]],
    }
    cells = [
        new_markdown_cell(
            "# A page\n\nA formula $x_1^2$ and `code`.\n\n```{dropdown} Hint\nNo.\n```"
        ),
        new_code_cell(
            f"x = {' + '.join('1' * 60)}",
            outputs=[
                new_output(
                    "display_data", data={"text/html": pd.DataFrame([range(30)]).to_html()}
                ),
                new_output("stream", name="stdout", text="1 " * 80),
            ],
        ),
    ]
    return {
        "scan": report.html_page(
            "Scan",
            summary="Three.",
            row={"a_long_name_of_a_column_of_the_table_mm3": 1.5, "b": "x"},
            columns={"b": {"Description": "what it means " * 9}},
            figures=figures,
            limits=["No diagnosis."],
            sources=["a.nii"],
            status="warn",
            reasons=["tilted"],
        ),
        "participant": report.person_page(
            "sub-1", summary="One.", visits=[("ses-1", [["alps", "done", "pass", 1.3, "-"]])]
        ),
        "group": report.group_page(
            "All",
            summary="Two.",
            overview=wide,
            sections=[{"id": "a", "title": "ALPS", "texts": ["x"], "plots": plots, "tables": []}],
            limits=["Little."],
        ),
        "notebook": notebook_page.render(new_notebook(cells=cells), "simulated"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reports_can_be_read_on_a_phone_by_everyone_and_ask_nobody(page, tmp_path, scheme):
    from axe_playwright_python.sync_playwright import Axe

    phone = page.context.browser.new_page(
        viewport={"width": 360, "height": 700}, color_scheme=scheme
    )
    requests: list[str] = []
    phone.on("request", lambda request: requests.append(request.url))
    for name, html in reports().items():
        path = tmp_path / f"{name}.html"
        path.write_text(html, "utf-8")
        phone.goto(path.as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        violations = Axe().run(phone).response["violations"]
        assert [v["id"] for v in violations] == [], name
    phone.close()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
