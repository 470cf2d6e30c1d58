"""Links inside the site lead somewhere, and no page names the machine that built it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from conftest import SITE


def test_links(site: Path, page_path: str) -> None:
    broken = broken_links(site / page_path)
    assert not broken, "\n".join(broken)


def test_links_of_slides(site: Path, slides_path: str) -> None:
    broken = broken_links(site / slides_path)
    assert not broken, "\n".join(broken)


def broken_links(page: Path) -> list[str]:
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    broken = []
    for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
        for element in soup.find_all(tag):
            target = urlsplit(element.get(attribute) or "")
            if target.scheme or target.netloc or not (target.path or target.fragment):
                continue
            path = unquote(target.path)
            top = SITE if path.startswith("/") else page.parent  # 404.html counts from the root
            file = (top / path.lstrip("/")).resolve() if path else page
            if file.is_dir():
                file = file / "index.html"
            if not file.is_file():
                broken.append(f"{tag} {element.get(attribute)}")
            elif target.fragment and file.suffix == ".html":
                text = file.read_text(encoding="utf-8")
                name = unquote(target.fragment)
                if f'id="{name}"' not in text and f'name="{name}"' not in text:
                    broken.append(f"{tag} {element.get(attribute)}: no such place on the page")
    return sorted(set(broken))


def test_no_machine_path(site: Path, page_path: str) -> None:
    text = (site / page_path).read_text(encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    assert root not in text
    assert str(Path.home()) + "/" not in text
