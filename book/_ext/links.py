"""Check links: ``links.py`` those inside the repository, ``links.py --external`` those outside.

The first needs neither a network nor a built site and is a part of ``make check``; the site tests
then follow every link of the rendered pages.  The second asks each address once (``make links``).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import requests

ROOT = Path(__file__).resolve().parents[2]
ROLE = re.compile(r"\{(ref|doc|term|cite(?::\w+)?)\}`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
IMAGE = re.compile(r"(?:src=\"|\{(?:figure|image|include)\}\s+)([^\"\s]+)")
URL = re.compile(r"https?://[^\s<>()\"'`\]}|\\]+[^\s<>()\"'`\]}|\\.,;:*]")
AGENT = {"User-Agent": "Mozilla/5.0 (link check of an open book)"}
# Addresses of examples, of this machine, and of names that are no pages.
NOT_ASKED = re.compile(
    r"127\.0\.0\.1|localhost|10\.0\.0|example\.|w3\.org|sitemaps\.org|mybinder\.org/v2|/\{|\$"
    # Files of data sets: checked by size and checksum when they are fetched.
    r"|s3\.amazonaws\.com/|/raw/|githubusercontent\.com/.+/[0-9a-f]{40}/|githubusercontent\.com/\w+$"
)


def texts() -> Iterator[tuple[Path, str]]:
    """Give the prose of the repository, file by file."""
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")]):
        yield path, path.read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        yield path, "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def without_code(text: str) -> str:
    """Drop code that is shown, not meant: fenced consoles and listings."""
    return re.sub(r"^(`{3,})(?!\{)[^\n]*\n.*?^\1", "", text, flags=re.M | re.S)


def targets(pages: list[tuple[Path, str]]) -> tuple[set[str], set[str], set[str]]:
    """Collect what can be referred to: labels, glossary terms, and keys of the bibliography."""
    labels = {"search", "genindex"}
    for path, text in pages:
        labels |= set(re.findall(r"^\(([\w-]+)\)=\s*$", text, re.M))
        labels |= set(re.findall(r"^:(?:label|name):\s*(\S+)", text, re.M))
        if path.suffix == ".ipynb":
            for cell in nbformat.read(path, as_version=4).cells:
                label = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
                labels |= {label} if label else set()
    glossary = (ROOT / "book" / "glossary.md").read_text("utf-8")
    body = re.search(r"```\{glossary\}(.*?)^```", glossary, re.S | re.M)
    terms = set(re.findall(r"^(?![ :])(\S.*)$", body.group(1) if body else "", re.M))
    bib = (ROOT / "book" / "references.bib").read_text("utf-8")
    return (
        labels,
        {t.strip().lower() for t in terms},
        set(re.findall(r"^@\w+\{([^,]+),", bib, re.M)),
    )


def inside() -> list[str]:
    """Return what leads nowhere inside the repository."""
    pages = [(path, without_code(text)) for path, text in texts()]
    labels, terms, keys = targets(pages)
    faults = []
    for path, text in pages:
        name = path.relative_to(ROOT)
        for role, content in ROLE.findall(text):
            explicit = re.search(r"<([^<>]+)>\s*$", content, re.S)
            wanted = " ".join((explicit.group(1) if explicit else content).split())
            if role == "doc":
                base = (path.parent / wanted).resolve()
                exists = any(
                    base.with_name(base.name + end).is_file() for end in (".md", ".ipynb")
                )
            elif role == "term":
                exists = wanted.lower() in terms
            elif role == "ref":
                exists = wanted in labels
            else:
                exists = all(key.strip() in keys for key in wanted.split(","))
            if not exists:
                faults.append(f"{name}: {{{role}}}`{wanted}` leads nowhere")
        for link in (*LINK.findall(text), *IMAGE.findall(text)):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or target.startswith(("../_static/", "../slides/")):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.exists():
                faults.append(f"{name}: {link} is not there")
            elif anchor and file.suffix == ".md":
                heads = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
                slugs = {
                    re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in heads
                }
                if anchor not in slugs | labels:
                    faults.append(f"{name}: {link} has no such heading")
    return faults


def addresses() -> dict[str, set[str]]:
    """Collect every outside address with the files that name it."""
    found: dict[str, set[str]] = defaultdict(set)
    more = [
        *(ROOT / "data_manifest").glob("*.yml"),
        *(ROOT / "pvsbook").rglob("*.py"),
        *(ROOT / "book" / "pvsbook_book").rglob("*.py"),
    ]
    plain = [(path, path.read_text("utf-8")) for path in more]
    for path, text in (*texts(), *plain):
        for url in URL.findall(text):
            if not NOT_ASKED.search(url):
                found[url.split("#")[0]].add(str(path.relative_to(ROOT)))
        for doi in re.findall(r"\bdoi:\s?(10\.\d{4,}/[^\s;,)\]]*[\w])", text):
            found[f"https://doi.org/{doi}"].add(str(path.relative_to(ROOT)))
    bib = (ROOT / "book" / "references.bib").read_text("utf-8")
    for doi in re.findall(r"^\s*doi\s*=\s*[{\"](.+?)[}\"],?\s*$", bib, re.M):
        found[f"https://doi.org/{doi}"].add("book/references.bib")
    return found


def ask(url: str) -> str | None:
    """Return what is wrong with an address, or nothing.

    A host that refuses robots (401, 403, 429) says nothing about the page.
    """
    try:
        with requests.get(url, headers=AGENT, timeout=30, stream=True) as answer:
            status = answer.status_code
    except requests.RequestException as error:
        return type(error).__name__
    return None if status < 400 or status in (401, 403, 405, 429) else str(status)


def main() -> int:
    """Check; print what is wrong; fail if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--external", action="store_true", help="ask the addresses outside")
    if parser.parse_args().external:
        known = addresses()
        with ThreadPoolExecutor(8) as pool:
            answers = zip(known, pool.map(ask, known), strict=True)
            faults = [f"{u}: {e} ({', '.join(sorted(known[u]))})" for u, e in answers if e]
        print(f"{len(known)} addresses asked, {len(faults)} do not answer as they should")
    else:
        faults = inside()
        print(f"links inside the repository: {len(faults)} lead nowhere")
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
