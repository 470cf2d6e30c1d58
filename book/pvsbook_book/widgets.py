"""Parts of a page: a chapter in one picture, sliders, and the rating trainer.

The last two are HTML that works without a server, by keyboard and by screen reader.  Pictures are
embedded; nothing is fetched and nothing leaves the browser.  A page shows the same as a still
figure too, for print and for readers without scripts.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from pvsbook._errors import InputError
from pvsbook.figures.style import COLORS

if TYPE_CHECKING:
    from IPython.display import HTML
    from numpy.typing import ArrayLike
    from PIL.Image import Image

__all__ = ["at_a_glance", "rating_trainer", "slider"]


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
    >>> figure = at_a_glance([("scan", "one T2w volume"), ("count", "spaces in each region")])
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
        What the slider turns, with its unit.
    values
        The place in words, one a frame.
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
    from IPython.display import HTML

    if not len(frames) == len(values) == len(texts) >= 2:
        raise InputError(
            f"frames: {len(frames)} frames, {len(values)} values and {len(texts)} texts; "
            "give two or more, and as many of each"
        )
    width = round(96 * frames[0].get_figwidth())
    pictures = []
    for figure in frames:
        pictures.append(_embedded(_drawn(figure), colors=64))
        plt.close(figure)
    key = "slider-" + hashlib.sha256(f"{label}{values}{texts}".encode()).hexdigest()[:8]
    places = [{"p": p, "v": v, "t": t} for p, v, t in zip(pictures, values, texts, strict=True)]
    return HTML(
        f'<figure class="slider" id="{key}" style="{_BOX};max-width:{width}px">'
        '<div style="display:flex;gap:.8rem;align-items:center;flex-wrap:wrap">'
        f'<label for="{key}-at">{escape(label)}</label>'
        f'<input type="range" id="{key}-at" min="0" max="{len(frames) - 1}" step="1" value="0" '
        f'aria-valuetext="{escape(values[0])}" style="flex:1 1 9rem;min-height:1.75rem">'
        f'<output for="{key}-at" style="min-width:4rem">{escape(values[0])}</output></div>'
        f'<img alt="{escape(f"{label} {values[0]}: {texts[0]}")}" src="{pictures[0]}" '
        'style="width:100%;height:auto;margin-top:.5rem">'
        f'<figcaption aria-live="polite" style="color:inherit">{escape(texts[0])}</figcaption>'
        "<noscript>Without scripts the slider stands still; the figure beside it shows the same."
        f"</noscript><script>({_SLIDE})({json.dumps(key)}, {_in_script(places)})</script></figure>"
    )


def rating_trainer(
    slices: Sequence[ArrayLike],
    counts: Sequence[int],
    grades: Sequence[int],
    *,
    texts: Mapping[int, str],
    limits: tuple[float, float],
    title: str,
) -> HTML:
    """Make a trainer: look at a slice, grade it, be told, and see the agreement at the end.

    The grades given stay in this browser (``localStorage``), so a reader can go on later.

    Parameters
    ----------
    slices
        Grey pictures, shape (x, y), in RAS order: drawn with the front up.
    counts
        How many spaces each one truly holds.
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
    from IPython.display import HTML
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
        places.append({"p": _embedded(image), "n": int(count), "g": int(grade)})
    key = "trainer-" + hashlib.sha256(f"{title}{places}".encode()).hexdigest()[:8]
    radios = "".join(
        f'<label style="display:inline-block;margin-right:1.2rem;min-height:1.75rem">'
        f'<input type="radio" name="{key}" value="{grade}"> {grade} ({escape(text)})</label>'
        for grade, text in texts.items()
    )
    return HTML(
        f'<section class="trainer" id="{key}" aria-label="{escape(title)}" '
        f'style="{_BOX}">'
        f'<p class="at"></p><img alt="Slice 1 of {len(places)}, to be graded" '
        f'src="{places[0]["p"]}" style="height:26rem;max-height:60vh;max-width:100%;width:auto">'
        f'<fieldset style="margin:.5rem 0"><legend style="font-size:1rem">Your grade</legend>'
        f'{radios}</fieldset><p class="says" role="status" style="min-height:1.6em"></p>'
        '<button type="button" class="go" style="min-height:2rem">Grade it</button> '
        '<button type="button" class="anew" style="min-height:2rem">Start again</button>'
        "<noscript>The trainer needs scripts; the figure below shows the same slices.</noscript>"
        f"<script>({_TRAIN})({json.dumps(key)}, {_in_script(places)}, {max(texts) + 1})</script>"
        "</section>"
    )


# White in both themes, as the pictures are; themes colour labels and captions of their own.
_BOX = (
    "margin:1rem 0;padding:.75rem;background:#fff;color:#1c1c1c;border:1px solid #767676;"
    "border-radius:4px;color-scheme:light"
)


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


def _in_script(value: object) -> str:
    return json.dumps(value).replace("</", "<\\/")


# JupyterLab runs a script before it puts the output on the page: wait for it.
_SLIDE = """function start(key, places) {
  const root = document.getElementById(key);
  if (!root) { setTimeout(start, 50, key, places); return; }
  const at = root.querySelector("input");
  const label = root.querySelector("label").textContent;
  at.addEventListener("input", () => {
    const place = places[at.value];
    root.querySelector("img").src = place.p;
    root.querySelector("img").alt = label + " " + place.v + ": " + place.t;
    root.querySelector("output").textContent = place.v;
    root.querySelector("figcaption").textContent = place.t;
    at.setAttribute("aria-valuetext", place.v);
  });
}"""

# Quadratic weights, as `pvsbook.pvs.rating.weighted_kappa`; a test holds the two together.
_TRAIN = """function start(key, places, nGrades) {
  const root = document.getElementById(key), one = (s) => root.querySelector(s);
  if (!root) { setTimeout(start, 50, key, places, nGrades); return; }
  const radios = [...root.querySelectorAll("input")];
  let given = [], told = false;
  try { given = JSON.parse(localStorage.getItem(key)) || []; } catch (error) { given = []; }
  const keep = () => {
    try { localStorage.setItem(key, JSON.stringify(given)); } catch (error) { /* private */ }
  };
  const kappa = () => {
    const n = given.length, mine = Array(nGrades).fill(0), truth = Array(nGrades).fill(0);
    let seen = 0, chance = 0;
    given.forEach((g, k) => {
      mine[g] += 1; truth[places[k].g] += 1; seen += (g - places[k].g) ** 2;
    });
    mine.forEach((a, i) => truth.forEach((b, j) => { chance += a * b * (i - j) ** 2 / n; }));
    return chance ? (1 - seen / chance).toFixed(2) : "not defined, as all grades are the same";
  };
  const show = () => {
    const k = given.length, over = k === places.length;
    told = false;
    radios.forEach((r) => { r.checked = false; r.disabled = over; });
    one(".go").disabled = over;
    one(".go").textContent = "Grade it";
    one(".anew").hidden = k === 0;
    if (!over) {
      one(".at").textContent = "Slice " + (k + 1) + " of " + places.length;
      one("img").src = places[k].p;
      one("img").alt = "Slice " + (k + 1) + " of " + places.length + ", to be graded";
      one(".says").textContent = "";
      return;
    }
    const same = given.filter((g, i) => g === places[i].g).length;
    const gap = given.reduce((sum, g, i) => sum + g - places[i].g, 0) / k;
    const side = gap > 0 ? "higher" : "lower";
    one(".at").textContent = "All " + k + " slices are graded.";
    one(".says").textContent = "You and the truth agree on " + same + " of " + k +
      "; weighted kappa is " + kappa() + ". " + (Math.abs(gap) < 0.05 ?
      "On average you grade as high as the truth." :
      "On average you grade " + Math.abs(gap).toFixed(1) + " " + side + " than the truth.");
  };
  one(".go").addEventListener("click", () => {
    if (told) { show(); return; }
    const chosen = radios.find((r) => r.checked);
    if (!chosen) { one(".says").textContent = "Choose a grade first."; return; }
    const place = places[given.length], grade = Number(chosen.value);
    given.push(grade);
    keep();
    told = true;
    radios.forEach((r) => { r.disabled = true; });
    one(".says").textContent = (grade === place.g ? "Right: " : "Not quite: ") + place.n +
      " spaces, grade " + place.g + (grade === place.g ? "." : "; you said " + grade + ".");
    one(".go").textContent = given.length === places.length ? "See the agreement" : "Next slice";
    one(".anew").hidden = false;
  });
  one(".anew").addEventListener("click", () => { given = []; keep(); show(); });
  show();
}"""
