"""Print the built site into one PDF: ``python book/_ext/pdf.py`` writes ``_build/pvsbook.pdf``.

The articles of all pages become one page, in the order of the contents, which a headless Chromium
prints.  It prints twice: the page numbers of the contents are known after the first time.  The API
reference stays on the site, where it can be searched.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag

import yaml
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, FileSystemLoader

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
SITE, FOLDER, PDF = BUILD / "html", BUILD / "pdf", BUILD / "pvsbook.pdf"
LEFT_OUT = ("book/api", "book/execution")  # how their names begin
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VIEWER = re.compile(r'<div class="viewer">.*?</iframe></div>', re.S)
ON_SCREEN_ONLY = (
    "a.headerlink, script, style, .sd-card > a, button, .sd-dropdown, details.hide > summary, "
    "details.hide > p, figure.slider, section.trainer"
)
FOOTER = (
    '<div style="width:100%;font:8px sans-serif;text-align:center">'
    '<span class="pageNumber"></span></div>'
)


class Page(NamedTuple):
    """A page of the book: where it is, what it is called, and its article."""

    slug: str
    title: str
    html: str


def slug(name: str) -> str:
    """Name a page as an anchor."""
    return name.replace("/", "-")


def contents() -> list[tuple[str, list[str]]]:
    """Return the parts of the book with the names of their pages."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    parts = [(p["caption"], [c["file"] for c in p["chapters"]]) for p in toc["parts"]]
    parts[0][1].insert(0, toc["root"])
    kept = [(part, [n for n in names if not n.startswith(LEFT_OUT)]) for part, names in parts]
    return [(part, names) for part, names in kept if names]


def article(name: str, known: set[str]) -> Page:
    """Take the article out of a built page, fit to stand beside the others."""
    text = VIEWER.sub("", (SITE / f"{name}.html").read_text("utf-8"))
    body = BeautifulSoup(text, "html.parser").find("article")
    assert isinstance(body, Tag)
    for element in body.select(ON_SCREEN_ONLY):
        element.decompose()
    for tag in body.find_all(id=True):
        tag["id"] = f"{slug(name)}--{tag['id']}"
    body["id"] = slug(name)
    folder = posixpath.dirname(name)
    for link in body.find_all("a", href=True):
        path, anchor = urldefrag(str(link["href"]))
        if re.match(r"[a-z]+:", path):
            continue
        page = posixpath.normpath(posixpath.join(folder, path)) if path else f"{name}.html"
        target = page.removesuffix(".html")
        if target in known:
            link["href"] = f"#{slug(target)}" + (f"--{unquote(anchor)}" if anchor else "")
        else:
            link.unwrap()  # slides and the like are on the site only
    for image in body.find_all("img", src=True):
        image["src"] = "../html/" + posixpath.normpath(posixpath.join(folder, str(image["src"])))
    for details in body.find_all("details"):
        details["open"] = ""
    title = body.find("h1")
    for level in (4, 3, 2, 1):
        for heading in body.find_all(f"h{level}"):
            heading.name = f"h{level + 1}"
    return Page(slug(name), title.get_text() if title else name, str(body))


def assemble(parts: list[tuple[str, list[Page]]], numbers: dict[str, int]) -> str:
    """Write the book as one page: cover, contents, parts."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    folder = FileSystemLoader(ROOT / "book" / "_templates")
    template = Environment(loader=folder, autoescape=True).get_template("pdf.html")
    return template.render(cff=cff, parts=parts, numbers=numbers)


def serve() -> Iterator[str]:
    """Serve the build folder on loopback while the caller prints."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(BUILD)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/pdf/book.html"
    server.shutdown()
    server.server_close()


def print_page(url: str) -> None:
    """Let a Chromium print the assembled page."""
    from playwright.sync_api import sync_playwright

    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(url, wait_until="load")
        page.wait_for_function("window.MathJax?.startup?.promise")
        page.evaluate("() => MathJax.startup.promise.then(() => document.fonts.ready)")
        page.pdf(
            path=PDF, format="A4", print_background=True, outline=True, tagged=True,
            display_header_footer=True, header_template="<span></span>", footer_template=FOOTER,
            margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
        )  # fmt: skip
        browser.close()


def destinations() -> dict[str, int]:
    """Read from the PDF on which page each anchor lies."""
    listed = subprocess.run(["pdfinfo", "-dests", PDF], capture_output=True, text=True, check=True)
    found = re.findall(r'^\s*(\d+)\s+\[.*?\]\s+"(.*)"\s*$', listed.stdout, re.M)
    return {name: int(number) for number, name in found}


def main() -> int:
    """Assemble and print, twice."""
    if not (SITE / "index.html").is_file():
        sys.exit(f"{SITE} holds no site; run: make book")
    if shutil.which("pdfinfo") is None:
        sys.exit("pdfinfo was not found; on Debian and Ubuntu: apt-get install poppler-utils")
    known = {name for _, names in contents() for name in names}
    parts = [(part, [article(name, known) for name in names]) for part, names in contents()]
    FOLDER.mkdir(exist_ok=True)
    numbers: dict[str, int] = {}
    for url in serve():
        for _ in range(2):
            (FOLDER / "book.html").write_text(assemble(parts, numbers), "utf-8")
            print_page(url)
            numbers = destinations()
    listed = subprocess.run(["pdfinfo", PDF], capture_output=True, text=True, check=True).stdout
    count = re.search(r"^Pages:\s+(\d+)", listed, re.M)
    print(f"{PDF.relative_to(ROOT)}: {count.group(1) if count else '?'} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
