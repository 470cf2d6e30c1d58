"""Make the site ask nobody outside for anything, and mend what keeps it from screen readers.

MathJax is copied out of the installed ``sphinx-mathjax-offline`` wheel into the built site, and
the thebe script, which the theme declares although it is switched off, is taken out.  Of the two
thousand icons that every page would load, those are kept that something on the site names.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx

SCRIPT = "tex-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"
# The anatomy in a slice viewer, which is only looked at; values are read from the overlay.
HEAVY = re.compile(
    r"(?<=id=&quot;)(spriteImg[^&]*&quot;\s+class=&quot;hidden&quot;\s+src=&quot;)"
    r"data:image/png;base64,([A-Za-z0-9+/=]{200000,})"
)
# One icon in fontawesome.js: name:[width,height,[other names],"code point","path" or [paths]],
ICON = re.compile(
    r'"?(?P<name>[\w-]+)"?:\[\d+,\d+,(?P<others>\[[^\]]*\]),"[0-9a-f]+",'
    r'(?:"[^"]*"|\[[^\]]*\])\],?'
)


def mathjax_folder() -> Path:
    """Return the folder of MathJax inside the installed wheel."""
    for file in distribution("sphinx-mathjax-offline").files or []:
        if file.name == SCRIPT:
            return Path(str(file.locate())).parent
    raise FileNotFoundError("sphinx-mathjax-offline carries no tex-chtml.js; run: make distclean")


MENDED = (
    # docutils still writes a role that ARIA has given up; its parent is a list.
    ('role="doc-biblioentry"', 'role="listitem"'),
    # The empty corner of a pandas table is no header.
    ("<th></th>", "<td></td>"),
)


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the one script and its fonts to where the pages look for them."""
    if error is not None or app.builder.format != "html":
        return
    source, target = mathjax_folder(), Path(app.outdir, "_static", "mathjax")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / SCRIPT, target / SCRIPT)
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def drop_icons(app: Sphinx, error: Exception | None) -> None:
    """Take out of the theme's icon script what no page and no other script names."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    script = static / "scripts" / "fontawesome.js"
    others = [*Path(app.outdir).rglob("*.html"), *static.glob("*.js"), *script.parent.glob("*.js")]
    used: set[str] = set()
    for path in others:
        if path != script:
            used |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text("utf-8")))

    def keep(icon: re.Match[str]) -> str:
        names = {icon["name"], *re.findall(r'"([^"]+)"', icon["others"])}
        return icon[0] if names & used else ""

    script.write_text(ICON.sub(keep, script.read_text("utf-8")), "utf-8")


def drop_thebe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Take the thebe scripts out of a page, inline and by file."""
    if "script_files" in context:
        context["script_files"] = [
            s
            for s in context["script_files"]
            if "thebe" not in str(getattr(s, "filename", s)).lower()
            and "THEBE" not in str(getattr(s, "attributes", {}).get("body", ""))
        ]


def lighten(picture: re.Match[str]) -> str:
    """Code the anatomy of a slice viewer as JPEG: its noise is what weighs."""
    coded = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture[2]))) as image:
        image.convert("RGB").save(coded, "JPEG", quality=80)
    return f"{picture[1]}data:image/jpeg;base64,{base64.b64encode(coded.getvalue()).decode()}"


def mend_body(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Replace the few elements that axe objects to and that no setting changes."""
    for fault, mended in MENDED:
        if "body" in context:
            context["body"] = context["body"].replace(fault, mended)
    if "srcdoc=" in context.get("body", ""):
        context["body"] = HEAVY.sub(lighten, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps; they change no document, so parallel reading stays safe."""
    app.config["mathjax_path"] = f"mathjax/{SCRIPT}"
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", mend_body)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", drop_icons, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
