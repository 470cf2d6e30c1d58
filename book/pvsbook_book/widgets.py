"""Parts of a page: a chapter in one picture, sliders, and the rating trainer.

The last two are HTML that works without a server, by keyboard and by screen reader.  Pictures are
embedded; nothing is fetched and nothing leaves the browser.  A page shows the same as a still
figure too, for print and for readers without scripts.
"""

from __future__ import annotations

import base64
import hashlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from pvsbook._errors import InputError
from pvsbook.figures.style import COLORS

if TYPE_CHECKING:
    from IPython.display import HTML
    from numpy.typing import ArrayLike
    from PIL.Image import Image

__all__ = ["at_a_glance", "rating_trainer", "slider"]

_TEMPLATES = Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader("pvsbook_book")
)
# White in both themes, as the pictures are; themes colour labels and captions of their own.
_BOX = (
    "margin:1rem 0;padding:.75rem;background:#fff;color:#1c1c1c;border:1px solid #767676;"
    "border-radius:4px;color-scheme:light"
)


def at_a_glance(steps: Sequence[tuple[str, str]], *, color: str = "reference") -> Figure:
    """Draw a chapter as a way from its question to its answer, readable at phone width.

    Parameters
    ----------
    steps
        A word or two and a short sentence, for each step.
    color
        A name in `COLORS`: that of the chapter's method.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = at_a_glance([("scan", "one T2w volume"), ("count", "PVS in each region")])
    >>> len(figure.axes)
    1
    """
    import matplotlib.pyplot as plt

    lines = [textwrap.wrap(text, 35) for _, text in steps]
    heights = np.array([0.34 + 0.22 * len(each) for each in lines])
    tops = np.concatenate([[0.0], np.cumsum(heights + 0.2)])
    figure = plt.figure(figsize=(5.6, tops[-1] - 0.1), layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    for (name, _), each, top, height in zip(steps, lines, tops, heights, strict=False):
        ax.add_patch(plt.Rectangle((0, top), 5.5, height, fc="white", ec=COLORS[color], lw=1.4))
        ax.add_patch(plt.Rectangle((0, top), 0.1, height, fc=COLORS[color], ec="none"))
        middle = top + height / 2
        ax.text(0.25, middle, name, va="center", weight="bold", fontsize=12.5)
        ax.text(1.95, middle, "\n".join(each), va="center", linespacing=1.25, fontsize=12.5)
        if top != tops[-2]:
            ax.annotate(
                "",
                (1.0, top + height + 0.2),
                (1.0, top + height),
                arrowprops={"arrowstyle": "-|>", "color": COLORS[color], "shrinkA": 0},
            )
    ax.set(xlim=(-0.05, 5.55), ylim=(tops[-1] - 0.15, -0.05))
    ax.set_axis_off()
    return figure


def slider(
    frames: Sequence[Figure], *, label: str, values: Sequence[str], texts: Sequence[str]
) -> HTML:
    """Make a slider through figures that were drawn beforehand; the figures are closed.

    Parameters
    ----------
    frames
        One matplotlib figure for each place of the slider, of one size.
    label
        What the slider changes, with its unit.
    values
        The value at each place, in words.
    texts
        What each frame shows, in a sentence: read out, and written below the picture.

    Returns
    -------
    IPython.display.HTML
        A labelled range input and its picture.

    Raises
    ------
    InputError
        Lists of different length, or fewer than two frames.

    Examples
    --------
    >>> frames = [at_a_glance([("one", "step"), ("two", f"{k}")]) for k in range(3)]
    >>> page = slider(frames, label="Step", values="012", texts=["at " + k for k in "012"])
    >>> 'type="range"' in page.data
    True
    """
    import matplotlib.pyplot as plt

    if not len(frames) == len(values) == len(texts) >= 2:
        raise InputError(
            f"frames: {len(frames)} frames, {len(values)} values and {len(texts)} texts; "
            "give two or more, and as many of each"
        )
    places = []
    for figure, value, text in zip(frames, values, texts, strict=True):
        picture = _embedded(_drawn(figure), colors=64)
        places.append({"picture": picture, "value": value, "text": text})
        plt.close(figure)
    return _fill("slider", label, places, label=label, width=round(96 * frames[0].get_figwidth()))


def rating_trainer(
    slices: Sequence[ArrayLike],
    counts: Sequence[int],
    grades: Sequence[int],
    *,
    texts: Mapping[int, str],
    limits: tuple[float, float],
    title: str,
) -> HTML:
    """Make a trainer: grade slices one by one, see the truth of each and the agreement at the end.

    A reader's grades stay in this browser (``localStorage``), so a reader can go on later.

    Parameters
    ----------
    slices
        Grey pictures, shape (x, y), in RAS order: drawn with the front up.
    counts
        How many perivascular spaces each slice truly holds.
    grades
        The true grade of each.
    texts
        The scale: each grade and what it stands for.
    limits
        Grey-value window.
    title
        Names the trainer for screen readers, and its place in the browser's storage.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    InputError
        Lists of different length, or a grade that is not on the scale.

    Examples
    --------
    >>> page = rating_trainer([np.eye(20)] * 2, [3, 12], [1, 2],
    ...     texts={1: "1-10", 2: "11-20"}, limits=(0, 1), title="Two slices")
    >>> page.data.count('type="radio"')
    2
    """
    from PIL import Image as pil

    if not len(slices) == len(counts) == len(grades) >= 2:
        raise InputError(
            f"slices: {len(slices)} slices, {len(counts)} counts and {len(grades)} grades; "
            "give two or more, and as many of each"
        )
    if unknown := set(grades) - set(texts):
        raise InputError(f"grades: {sorted(unknown)} are not on the scale {sorted(texts)}")
    low, high = limits
    places = []
    for picture, count, grade in zip(slices, counts, grades, strict=True):
        grey = np.clip((np.asarray(picture, float).T[::-1] - low) / (high - low), 0, 1)
        image = pil.fromarray((255 * grey).astype(np.uint8))
        places.append({"picture": _embedded(image), "count": int(count), "grade": int(grade)})
    return _fill("trainer", title, places, title=title, scale=texts)


def _drawn(figure: Figure) -> Image:
    from PIL import Image as pil

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, facecolor="white")
    return pil.open(file).convert("RGB")


def _embedded(image: Image, *, colors: int = 0) -> str:
    """Compress without loss, after cutting down to so many colours where a number is given."""
    if colors:
        image = image.quantize(colors, dither=0).convert("RGB")  # type: ignore[arg-type]
    file = io.BytesIO()
    image.save(file, "webp", lossless=True, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _fill(template: str, name: str, places: list[dict[str, Any]], **values: Any) -> HTML:
    """Fill a template of this package; the key tells apart what stands on one page."""
    from IPython.display import HTML

    key = f"{template}-{hashlib.sha256(f'{name}{places}'.encode()).hexdigest()[:8]}"
    page = _TEMPLATES.get_template(f"{template}.html")
    return HTML(page.render(key=key, places=places, box=_BOX, **values))
