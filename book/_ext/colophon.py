"""What the site says of itself: times and versions, how to cite, where it lives, 404 and sitemap.

The repository's address stands in one place, ``[project.urls]`` of ``pyproject.toml``; a build on
GitHub takes it from its environment where that is empty.  Without an address the site is whole,
but has no buttons for Binder and Colab.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import tomllib
from html import escape
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import nbformat
import yaml
from jinja2 import Environment, FileSystemLoader
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.config import Config

from pvsbook import __version__

ROOT = Path(__file__).parents[2]
TEMPLATES = Environment(loader=FileSystemLoader(ROOT / "book" / "_templates"), autoescape=True)

LOCAL = "http://127.0.0.1:8000/"  # where `make serve` shows the site
TIMES, VERSIONS, LAUNCH = "<!-- times -->", "<!-- versions -->", "<!-- launch -->"
CFF = "CITATION.cff"
SITE_PACKAGES = ("jupyter-book", "sphinx", "sphinx-book-theme", "sphinx-mathjax-offline")
# Pages that were renamed: the old name, without its ending, and where it leads now.
RENAMED: dict[str, str] = {}


def repository() -> str:
    """Return the public address of the repository, or nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stated = str(project.get("urls", {}).get("Repository", "")).rstrip("/")
    name = os.environ.get("GITHUB_REPOSITORY")
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    return stated or (f"{server}/{name}" if name else "")


def base_url(config: Config) -> str:
    """Return where the site will stand: as configured, GitHub Pages, or this machine."""
    if config.html_baseurl:
        return str(config.html_baseurl).rstrip("/") + "/"
    owner, _, name = urlsplit(repository()).path.strip("/").partition("/")
    return f"https://{owner.lower()}.github.io/{name}/" if name else LOCAL


def configure(app: Sphinx, config: Config) -> None:
    """Give the theme the repository's address, or take away the buttons that need one."""
    options = config.html_theme_options
    options["repository_url"] = repository()
    if not options["repository_url"]:
        options.pop("repository_url")
        options["launch_buttons"] = {}
    if (base := base_url(config)) != LOCAL:
        config.html_baseurl = base  # so that each page names its lasting address


def times(root: Path) -> str:
    """Tell how long each notebook ran, from the cache that the build fills."""
    cache = get_cache(root / "_build" / ".jupyter_cache")
    rows, total = [], 0.0
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        try:
            record = cache.match_cache_file(str(path))
        except KeyError:
            rows.append(f"| {{doc}}`../notebooks/{path.stem}` | not executed by `make book` |")
            continue
        seconds = float(record.data["execution_seconds"])
        total += seconds
        rows.append(f"| {{doc}}`../notebooks/{path.stem}` | {seconds:.1f} |")
    return "\n".join(["| page | s |", "|---|--:|", *rows, f"| **all pages** | **{total:.0f}** |"])


def imported(root: Path) -> list[str]:
    """Name the packages that the notebooks, and the modules beneath them, import."""
    modules = (root / "pvsbook", root / "book" / "pvsbook_book")
    code = [path.read_text("utf-8") for top in modules for path in top.rglob("*.py")]
    for path in (root / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code += [cell.source for cell in cells if cell.cell_type == "code"]
    names = set()
    for node in (n for text in code for n in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    sources = packages_distributions()
    return sorted({sources[n][0] for n in names if n in sources} - {"pvsbook"}, key=str.lower)


def versions(root: Path) -> str:
    """List what the pages were computed with: what is imported, not what is declared."""
    rows = [
        ("pvsbook", __version__),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in (*imported(root), *SITE_PACKAGES)),
    ]
    where = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
    table = "\n".join(f"| {name} | {number} |" for name, number in rows)
    return f"Computed on {where}.\n\n| package | version |\n|---|---|\n{table}"


def launch(url: str) -> str:
    """Write the two lines that need the repository's address."""
    if not url:
        return (
            "This copy of the site was built without the address of its repository, so it has "
            "no buttons for Binder and Colab. Whoever publishes it sets `Repository` under "
            "`[project.urls]` in `pyproject.toml`; a build on GitHub knows the address by itself."
        )
    return (
        "The rocket at the top of each chapter opens it on "
        f"[Binder](https://mybinder.org/v2/git/{quote(url, safe='')}/main) or Colab. "
        "Colab has none of the packages: run this in a first cell of its own, then restart the "
        f"session.\n\n```python\n{install(url)}\n```"
    )


def install(url: str) -> str:
    """Write the line that installs the package from its repository."""
    return f'%pip install --quiet "pvsbook[book] @ git+{url}"'


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put times, versions and the way to the repository where pages ask for them."""
    root = Path(app.srcdir)
    if TIMES in source[0]:
        app.env.note_dependency(str(root / "_build" / ".jupyter_cache" / "global.db"))
        source[0] = source[0].replace(TIMES, times(root)).replace(VERSIONS, versions(root))
    if LAUNCH in source[0]:
        source[0] = source[0].replace(LAUNCH, launch(repository()))


def cite(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give the page's footer what is needed to cite the page."""
    if doctree is None or "title" not in context:
        return
    book = yaml.safe_load(Path(app.srcdir, CFF).read_text("utf-8"))
    address = None if base_url(app.config) == LOCAL else context.get("pageurl")
    fields = {
        "author": "{" + ", ".join(a["name"] for a in book["authors"]) + "}",
        "title": re.sub("<[^>]+>", "", context["title"]),
        "booktitle": book["title"],
        "year": str(book["date-released"])[:4],
        "note": f"Version {book['version']}",
        "url": address,
    }
    key = re.sub(r"\W+", "-", pagename.rpartition("/")[2])
    lines = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items() if v)
    context["citation"] = fields | {
        "authors": fields["author"].strip("{}"),
        "bibtex": f"@incollection{{pvsbook-{key},\n{lines}\n}}",
    }


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write what stands beside the pages: 404, sitemap, robots, redirects, an install cell."""
    if error is not None or app.builder.format != "html":
        return
    out, base = Path(app.outdir), base_url(app.config)
    names = sorted(app.env.found_docs)
    titles = {n: app.env.titles[n].astext() for n in names}
    first = [app.config.root_doc, *(n for n in names if re.match(r"notebooks/\d0_", n))]
    rest = [n for n in names if n.startswith("book/") and n not in first]
    links = [(n, titles[n]) for n in (*first, *rest)]
    page = TEMPLATES.get_template("not_found.html")
    text = page.render(book=app.config.project, root=urlsplit(base).path, links=links)
    (out / "404.html").write_text(text, "utf-8")
    urls = "".join(f"<url><loc>{escape(base)}{n}.html</loc></url>\n" for n in names)
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n',
        "utf-8",
    )
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n")
    for old, new in RENAMED.items():
        target = os.path.relpath(f"{new}.html", Path(old).parent)
        text = TEMPLATES.get_template("redirect.html").render(title=titles[new], target=target)
        (out / f"{old}.html").parent.mkdir(parents=True, exist_ok=True)
        (out / f"{old}.html").write_text(text, "utf-8")
    for copy in (out / "_sources" / "notebooks").glob("*.ipynb"):
        add_install(copy, repository())


def add_install(path: Path, url: str) -> None:
    """Begin a notebook that readers download with the cell that installs what it needs."""
    notebook = nbformat.read(path, as_version=4)
    known = install(url) if url else "# The page 'How to read and rerun' tells how to install it."
    text = (
        "# Needed once, on a machine without pvsbook (Colab, say); restart the kernel after it.\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("pvsbook") is None:\n'
        f"    {known}\n"
        '    print("Install pvsbook, then restart the kernel.")'
    )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(text, id="install"))
    nbformat.write(notebook, path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps."""
    app.connect("config-inited", configure)
    app.connect("source-read", fill)
    app.connect("html-page-context", cite)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
