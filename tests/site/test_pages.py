"""Each page in a real browser: nothing from outside, no error, no image without words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe


@pytest.fixture
def visit(browser, site_url, page_path) -> Iterator[dict]:
    """Open a page, scroll it to its end, and keep what it asked for and what it said."""
    outside: list[str] = []
    errors: list[str] = []
    missing: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def on_request(request) -> None:
        if urlsplit(request.url).scheme in ("http", "https") and not request.url.startswith(
            site_url
        ):
            outside.append(request.url)

    def on_response(response) -> None:
        if response.status >= 400:
            missing.append(f"{response.status} {response.url}")

    page = context.new_page()
    context.on("request", on_request)
    page.on("response", on_response)
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(site_url + page_path, wait_until="load")
    page.evaluate(
        "async () => { for (let y = 0; y < document.body.scrollHeight; y += 600) "
        "{ window.scrollTo(0, y); await new Promise(r => setTimeout(r, 30)); } }"
    )
    page.wait_for_load_state("networkidle")
    yield {"page": page, "outside": outside, "errors": errors, "missing": missing}
    context.close()


def test_page(visit: dict, page_path: str) -> None:
    page = visit["page"]
    assert visit["outside"] == [], "the page asks for something outside the site"
    assert visit["missing"] == []
    assert visit["errors"] == []
    assert page.title().strip()
    if page_path != "search.html":
        assert page.locator("article h1").count() == 1

    images = page.evaluate(
        "() => [...document.querySelectorAll('main img')].map(i => "
        "({src: i.getAttribute('src').slice(0, 80), alt: i.getAttribute('alt') || '', "
        "drawn: i.complete && i.naturalWidth > 0}))"
    )
    for image in images:
        assert image["drawn"], f"{image['src']} is not there"
        named_by_hash = re.search(r"[0-9a-f]{20}|\.(png|svg|jpe?g)$|^_images", image["alt"])
        assert len(image["alt"]) >= 20, f"{image['src']}: alt text {image['alt']!r} says nothing"
        assert not named_by_hash, f"{image['src']}: alt text is a file name"
    empty = page.locator("i[class*='fa-']:not(svg)").evaluate_all("l => l.map(e => e.className)")
    assert not empty, f"icons that were not drawn: {set(empty)}"
    frames = page.evaluate("() => [...document.querySelectorAll('iframe')].map(f => f.title)")
    assert all(frames), "a viewer has no title"


def test_accessibility(browser, site_url, page_path: str) -> None:
    """axe in both themes and at three widths, on a page that is loaded once.

    Colours hang on the theme and not on the width: their contrast, three quarters of the time, is
    measured in both themes at one width.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(site_url + page_path, wait_until="load")
    page.wait_for_load_state("networkidle")
    # The insides of a viewer belong to the package that made it; its frame has a title.
    options: dict = {"resultTypes": ["violations"], "iframes": False}
    faults = []
    for width, themes in ((1280, ("light", "dark")), (768, ("light",)), (390, ("dark",))):
        page.set_viewport_size({"width": width, "height": 900})
        if width != 1280:
            options["rules"] = {"color-contrast": {"enabled": False}}
            page.wait_for_timeout(500)  # the theme makes what scrolls focusable a moment after
        over = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
        if over > 1:
            faults.append(f"{over} px of the page are cut off at a width of {width} px")
        for theme in themes:
            page.evaluate(
                "t => Object.assign(document.documentElement.dataset, {mode: t, theme: t})", theme
            )
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            found = Axe().run(page, context={"exclude": [["iframe"]]}, options=options)
            faults += [
                f"{width} px, {theme}: {violation['id']}: {node['html'][:160]} | "
                f"{node.get('failureSummary', '')[:200]}"
                for violation in found.response["violations"]
                for node in violation["nodes"]
            ]
    context.close()
    assert not faults, "\n".join(faults)
