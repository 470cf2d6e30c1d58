"""What belongs to the site and to no page: search, weights, keyboard, slides, 404, sitemap."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from conftest import pages

MB = 1e6


def weight(page: Path) -> int:
    """Bytes of a page with all that it names: scripts, styles and pictures, nothing compressed."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    named = [e.get("src") for e in soup.find_all(["img", "script"])]
    named += [e.get("href") for e in soup.find_all("link") if "stylesheet" in e.get("rel", ())]
    files = {
        (page.parent / unquote(urlsplit(n).path)).resolve()
        for n in named
        if n and not n.startswith("data:")
    }
    return page.stat().st_size + sum(f.stat().st_size for f in files)


def test_weights(site: Path) -> None:
    own = {p: weight(site / p) for p in pages()}
    assert median(own.values()) < 2 * MB, f"the median page weighs {median(own.values())} bytes"
    heavy = {p: w for p, w in own.items() if w > 6 * MB}
    assert not heavy


def test_what_stands_beside_the_pages(site: Path) -> None:
    sitemap = (site / "sitemap.xml").read_text("utf-8")
    places = re.findall(r"<loc>(.*?)</loc>", sitemap)
    listed = {re.sub(r"^.*/((?:book|notebooks)/[^/]+)$", r"\1", place) for place in places}
    assert listed == {p for p in pages() if "/" in p}
    assert "Sitemap: http" in (site / "robots.txt").read_text()

    # A missing page may be asked for at any depth: nothing in 404.html hangs on where it is.
    lost = BeautifulSoup((site / "404.html").read_text("utf-8"), "html.parser")
    assert not lost.find_all(["img", "script"])
    assert [link["href"] for link in lost.find_all("link")] == ["data:,"]
    links = [a["href"] for a in lost.find_all("a")]
    assert len(links) > 5
    assert all(link.startswith("/") for link in links)


def test_downloads_begin_with_their_installation(site: Path) -> None:
    copies = sorted(site.glob("_sources/notebooks/*.ipynb"))
    assert copies
    for copy in copies:
        assert "find_spec" in copy.read_text("utf-8")[:600], copy.name


def test_chapters_can_be_cited(site: Path) -> None:
    for page in pages():
        if page.startswith("notebooks/"):
            assert "@incollection{pvsbook-" in (site / page).read_text("utf-8"), page


def test_search(browser, site_url) -> None:
    page = browser.new_page()
    outside: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(site_url) else outside.append(r.url))
    page.goto(site_url + "search.html?q=vesselness")
    page.locator("#search-results a[href*='notebooks/13_pvs_vesselness']").first.wait_for()
    page.close()
    assert not outside


WANTED = {
    "skip": "#pst-skip-link a",
    "sidebar": ".bd-sidebar-primary nav a",
    "search": ".search-button, .search-button-field, .bd-search input",
    "theme": ".theme-switch-button",
    "download": ".dropdown-download-buttons button",
    "viewer": "iframe[title]",
    "hint": ".toggle-button, details.sd-dropdown summary",
    "cite": ".cite-page summary",
}


def test_keyboard(browser, site_url) -> None:
    """Tab reaches what a mouse does, in this order of the page, and each stop can be seen."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(site_url + "notebooks/10_pvs_count.html", wait_until="networkidle")
    reached: dict[str, int] = {}
    unseen = []
    for stop in range(400):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """wanted => {
              const e = document.activeElement;
              if (e === document.body) return null;
              const s = getComputedStyle(e);
              const drawn = s.outlineStyle !== "none" || s.boxShadow !== "none";
              const names = Object.keys(wanted).filter((n) => e.matches(wanted[n]));
              return [names, drawn || e.tagName === "IFRAME", e.outerHTML.slice(0, 120)];
            }""",
            WANTED,
        )
        if at is None:
            break
        names, drawn, html = at
        for name in names:
            reached.setdefault(name, stop)
        if not drawn:
            unseen.append(html)
    page.close()
    assert set(WANTED) == set(reached), f"not reached: {set(WANTED) - set(reached)}"
    assert reached["skip"] == 0
    assert reached["sidebar"] < reached["viewer"] < reached["hint"] < reached["cite"]
    assert not unseen, unseen


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_slides(browser, site_url, theme: str) -> None:
    context = browser.new_context(color_scheme=theme, viewport={"width": 1280, "height": 720})
    page = context.new_page()
    outside: list[str] = []
    errors: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(site_url) else outside.append(r.url))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(site_url + "slides/10_pvs_count.html", wait_until="networkidle")
    assert page.locator("nav output").inner_text().startswith("1 of")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('nav output').textContent.startsWith('2 of')")
    chapter = next(Path(__file__).parents[2].glob("notebooks/10_*.ipynb"))
    exercises = chapter.read_text("utf-8").count("{exercise-start}")
    assert exercises >= 3
    assert page.locator(".exercise").count() == exercises
    assert page.locator(".solution").count() == 0
    options = {"resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    page.goto(site_url + "slides/10_pvs_count_solutions.html")
    assert page.locator(".solution").count() == exercises
    context.close()
    assert not outside
    assert not errors
    assert not found, [(v["id"], v["nodes"][0]["html"][:200]) for v in found]
