"""The page of a scan shows every object: all slices with any, and those to look at first."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image as pil
from scipy import ndimage

from pvsbook import images, pvs, report
from pvsbook.atlas.registration import Registration
from pvsbook.figures.pvs import CLASS_COLORS, object_viewer
from pvsbook.methods import by_name
from pvsbook.phantoms.perivascular import make_phantom
from pvsbook.pvs.objects import CLASSES, Rules, shortfalls

REGISTRATION = Registration(np.eye(4), "t2", "affine", "known", 1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(
        np.random.default_rng(2102),
        voxel_size_mm=1.5,
        counts={"cso_left": 7, "cso_right": 5, "bg_left": 3, "bg_right": 2},
        diameters_mm=(1.5, 3.0),
        n_wmh=4,
    )


@pytest.fixture(scope="module")
def result(phantom):
    rules = Rules(max_width_mm=1.9, min_length_mm=4.0)
    return pvs.measure(phantom.scans["T2w"], registration=REGISTRATION, rules=rules)


@pytest.fixture(scope="module")
def shown(result):
    return object_viewer(result)


def page_of(result):
    method = by_name("pvs")
    shown = method.show(result)
    for figure, _, _ in shown.figures:
        plt.close(figure)
    return report.html_page(
        "Scan",
        summary=shown.summary,
        row=result.to_row(),
        columns=method.columns,
        figures=shown.figures,
        viewer=shown.viewer,
        limits=method.limits,
        sources=["a.nii"],
        status=result.status,
        reasons=result.reasons,
    )


def decoded(png):
    return np.asarray(pil.open(io.BytesIO(png)))


def numbers_of(shown):
    return {mark["number"] for part in shown["slices"] for mark in part["marks"]}


def test_every_object_is_drawn_in_each_of_its_slices(result, shown):
    labels = result.segmentation.labels
    assert numbers_of(shown) == set(range(1, len(result.objects) + 1))
    heights = np.flatnonzero(labels.any(axis=(0, 1)))
    assert len(shown["slices"]) == len(heights)
    for k, part in zip(heights, shown["slices"], strict=True):
        plane = labels[:, ::-1, k].T[:, ::-1]  # the phantom is stored in RAS order
        lines = decoded(part["outlines"])
        fine = plane.repeat(4, 0).repeat(4, 1)
        assert not lines[fine > 0].any(), "an outline covers its object"
        for mark in part["marks"]:
            inside = fine == mark["number"]
            ring = ndimage.binary_dilation(inside, np.ones((5, 5))) & (fine == 0)
            code = CLASSES[result.objects["class"].iloc[mark["number"] - 1]]
            assert (lines[ring] == code).mean() > 0.5
            assert (lines[ring] > 0).all()
            left, top = np.array(mark["place"]) / 100 * np.array(plane.shape[::-1]) - 0.5
            row, column = np.argwhere(plane == mark["number"]).mean(axis=0)
            assert (left, top) == pytest.approx((column, row), abs=0.1)
            assert str(mark["number"]) in part["text"]
    assert pil.open(io.BytesIO(part["outlines"])).convert("RGBA").getextrema()[3] == (0, 255)


def test_slices_have_the_resolution_of_the_scan_and_its_height(result, shown):
    scan = images.array(result.anatomy.image)
    white = 0.75 * result.segmentation.levels.fluid
    heights = np.flatnonzero(result.segmentation.labels.any(axis=(0, 1)))
    for k, part in zip(heights, shown["slices"], strict=True):
        plane = scan[:, ::-1, k].T[:, ::-1]
        picture = decoded(part["picture"])
        assert picture.shape == plane.shape
        assert np.abs(picture / 255 - np.clip(plane / white, 0, 1)).max() < 0.5 / 63 + 0.51 / 255
        z = nib.affines.apply_affine(result.anatomy.image.affine, (0, 0, k))[2]
        assert part["name"] == f"z = {z:g} mm"
    assert shown["shape"] == pytest.approx(np.array(scan.shape[:2]) * 1.5)


def test_the_storage_order_does_not_matter(result, shown):
    """The left is drawn on the right."""
    scan = result.anatomy.image
    stored = scan.as_reoriented(np.array([[0, -1], [2, -1], [1, 1]]))  # x and y turned, y last
    labels = np.ascontiguousarray(result.segmentation.labels[::-1, ::-1].transpose(0, 2, 1))
    other = replace(
        result,
        anatomy=replace(result.anatomy, image=stored),
        segmentation=replace(result.segmentation, labels=labels),
    )
    assert object_viewer(other)["slices"] == shown["slices"]
    at_left = [m["place"][0] for m in shown["slices"][0]["marks"]]
    for place, mark in zip(at_left, shown["slices"][0]["marks"], strict=True):
        x = result.objects["x_mm"].iloc[mark["number"] - 1]
        assert abs(x) < 8 or (x < 0) == (place > 50)


def test_thick_slices_are_shown_as_they_were_acquired(result):
    scan = result.anatomy.image
    affine = scan.affine @ np.diag([1, 3, 1, 1])
    thick = replace(result.anatomy, image=images.make(images.array(scan), affine))
    shown = object_viewer(replace(result, anatomy=thick))
    assert shown["slices"][0]["alt"].startswith("Coronal slice of the scan at y = ")
    assert len(shown["slices"]) == result.segmentation.labels.any(axis=(0, 2)).sum()
    assert shown["shape"] == pytest.approx(np.array(scan.shape)[[0, 2]] * 1.5)
    items = [i for g in shown["galleries"] for i in g["items"]]
    assert all("drawn coronal" in i["texts"][0] for i in items)
    usual = {i["alt"].split()[-1] for g in object_viewer(result)["galleries"] for i in g["items"]}
    assert len(usual) > 1, "each in the plane that shows most of it"


def test_a_page_stays_small_and_says_what_it_leaves_out(result, shown):
    size = sum(len(s["picture"]) + len(s["outlines"]) for s in shown["slices"])
    part = object_viewer(result, max_bytes=size * 2 // 3)
    kept = sum(len(s["picture"]) + len(s["outlines"]) for s in part["slices"])
    assert size / 3 < kept <= size * 2 / 3
    assert numbers_of(part) == numbers_of(shown), "what no other slice shows comes first"
    n = len(part["slices"])
    assert f"these are {n} of {len(shown['slices'])} slices" in part["text"]
    assert "these are" not in shown["text"]
    one = object_viewer(result, max_bytes=1)
    assert len(one["slices"]) == 1
    assert f"{len(numbers_of(one))} of {len(result.objects)} objects are on them" in one["text"]
    items = [item for gallery in one["galleries"] for item in gallery["items"]]
    assert {item["slice"] for item in items} == {0, None}
    assert page_of(result).count('class="slice"') == len(shown["slices"])


def test_galleries_hold_the_largest_and_the_least_certain(result, shown):
    found = result.objects[result.objects["class"] == "pvs"]
    largest, doubtful = ([i["title"] for i in g["items"]] for g in shown["galleries"])
    order = found.sort_values("volume_mm3", ascending=False).index[:10] + 1
    assert largest == [f"Object {n}: perivascular space" for n in order]
    first = found["repeat_probability"].idxmin() + 1
    assert doubtful[0] == f"Object {first}: perivascular space"
    assert len(doubtful) == min(10, len(result.objects))
    missed = result.objects[result.objects["class"] != "pvs"]
    rules = Rules(max_width_mm=1.9, min_length_mm=4.0)
    nearest = shortfalls(missed, rules).max(axis=1).idxmin() + 1
    assert any(title.startswith(f"Object {nearest}: ") for title in doubtful)
    for gallery in shown["galleries"]:
        for item in gallery["items"]:
            number = int(item["title"].split()[1].rstrip(":"))
            lines, picture = decoded(item["outlines"]), decoded(item["picture"])
            assert lines.shape == tuple(4 * n for n in picture.shape)
            row = result.objects.iloc[number - 1]
            assert set(np.unique(lines)) == {0, CLASSES[row["class"]]}
            assert max(item["shape"]) >= 20
            assert f"{row['length_mm']:.1f} mm" in item["texts"][1]
            assert number in {m["number"] for m in shown["slices"][item["slice"]]["marks"]}


def test_what_is_not_counted_says_why(result, shown):
    """By the rules that the scan was measured with, not by the default ones."""
    items = [i for g in shown["galleries"] for i in g["items"]]
    reasons = [t for i in items for t in i["texts"] if t.startswith("Not counted")]
    assert len(reasons) == sum("perivascular space" not in i["title"] for i in items) > 0
    assert any("above 1.9 mm" in r or "below 4 mm" in r for r in reasons)


def test_an_object_that_only_the_opposite_contrast_refuses_says_so(result):
    counted = result.objects["class"] == "pvs"
    faint = result.objects["class"].where(~counted, "uncertain")
    objects = result.objects.assign(**{"class": faint})
    viewer = object_viewer(replace(result, objects=objects))
    texts = [t for gallery in viewer["galleries"] for i in gallery["items"] for t in i["texts"]]
    assert "Not counted: no clearer than objects of the opposite contrast." in texts


def test_every_rule_is_met_or_missed_by_so_much():
    met = {"depth_mm": 2.2, "width_mm": 3.0, "elongation": 1.6, "length_mm": 2.5, "contrast": 0.11}
    for column in met:
        factor = 1.1 if column == "width_mm" else 0.9
        missed = {**met, column: factor * met[column]}
        both = shortfalls(pd.DataFrame([met, missed, {**met, column: np.nan}]), Rules())
        assert both.loc[0].tolist() == [0] * 5
        assert both.loc[1, column] == pytest.approx(0.1)
        assert (both.loc[1:] > 0).sum(axis=1).tolist() == [1, 1]


def test_without_objects_there_is_nothing_to_scroll_through(result):
    empty = replace(result, objects=result.objects[:0])
    assert object_viewer(empty) is None
    assert "<script>" not in page_of(empty)


@pytest.fixture(scope="module")
def path(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "scan.html"
    path.write_text(page_of(result), "utf-8")
    return path


def visible(page):
    return page.locator(".slice:visible")


def test_slices_are_scrolled_by_keyboard(browser, path, shown):
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(path.as_uri())
    n = len(shown["slices"])
    at = page.get_by_label("Slice", exact=True)
    at.focus()
    for key, expected in (
        ("Home", 0),
        ("ArrowDown", 0),
        ("ArrowRight", 1),
        ("PageUp", 6),
        ("ArrowLeft", 5),
        ("PageDown", 0),
        ("End", n - 1),
        ("ArrowUp", n - 1),
    ):
        page.keyboard.press(key)
        assert visible(page).count() == 1
        assert visible(page).get_attribute("id") == f"slice-{expected + 1}"
        name = shown["slices"][expected]["name"]
        assert at.get_attribute("aria-valuetext") == f"{name}, {expected + 1} of {n}"
        assert name in visible(page).locator("figcaption").inner_text()
    visible(page).click()  # the picture takes the keys as well, and keeps them
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert visible(page).get_attribute("id") == "slice-2"
    assert page.evaluate("document.activeElement.id") == "slice-2"
    lines = page.locator("#slice-2 .outlines")
    assert lines.is_visible()
    page.keyboard.press("o")
    assert not lines.is_visible()
    page.keyboard.press("o")
    assert lines.is_visible()
    assert errors == []
    page.close()


def test_a_chosen_object_leads_to_its_slice(browser, path, shown):
    page = browser.new_page()
    page.goto(path.as_uri())
    items = [i for g in shown["galleries"] for i in g["items"]]
    links = page.locator(".gallery a")
    assert links.count() == len(items)
    links.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert visible(page).get_attribute("id") == f"slice-{items[1]['slice'] + 1}"
    assert visible(page).bounding_box()["y"] < 200
    ring = visible(page).locator(".ring").bounding_box()
    picture = visible(page).locator(".picture").bounding_box()
    left, top = items[1]["place"]
    assert ring["x"] + ring["width"] / 2 == pytest.approx(
        picture["x"] + picture["width"] * left / 100, abs=2
    )
    assert ring["y"] + ring["height"] / 2 == pytest.approx(
        picture["y"] + picture["height"] * top / 100, abs=2
    )
    page.keyboard.press("ArrowUp")
    assert page.locator(".ring").count() == 0
    page.goto(f"{path.as_uri()}#slice-3")
    page.reload()
    assert visible(page).get_attribute("id") == "slice-3"
    page.close()


def test_without_scripts_it_is_a_list_whose_outlines_can_be_switched(browser, path, shown):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert visible(page).count() == len(shown["slices"])
    assert not page.get_by_label("Slice", exact=True).is_visible()
    assert page.locator("#slice-1 .outlines").is_visible()
    page.get_by_label("Outlines and numbers").uncheck()
    assert not page.locator("#slice-1 .outlines").is_visible()
    assert page.locator("#slice-1 img").first.is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read_on_a_phone_by_everyone_and_asks_nobody(browser, path, scheme):
    from axe_playwright_python.sync_playwright import Axe

    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    requests: list[str] = []
    phone.on("request", lambda request: requests.append(request.url))
    phone.goto(path.as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [v["id"] for v in Axe().run(phone).response["violations"]] == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert phone.evaluate(
        "[...document.images].every(i => i.complete && i.naturalWidth > 0 "
        "&& (i.alt.length > 20 || i.closest('.outlines')))"
    )
    phone.close()


def test_colours_of_classes_differ():
    assert set(CLASS_COLORS) == set(CLASSES)
    assert len(set(CLASS_COLORS.values())) == len(CLASSES)
