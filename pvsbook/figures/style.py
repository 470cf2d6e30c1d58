"""The book's plotting style, slices in anatomical orientation, and the slice viewer."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from pvsbook import images
from pvsbook._errors import InputError

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["COLORS", "show_slices", "use_style", "viewer"]

COLORS: Mapping[str, str] = {
    "projection": "#0072B2",
    "association": "#009E73",
    "subcortical": "#D55E00",
    "pvs": "#CC79A7",
    "wmh": "#E69F00",
    "lacune": "#56B4E9",
    "uncertain": "#F0E442",
    "iron": "#D55E00",
    "myelin": "#0072B2",
    "truth": "#000000",
    "estimate": "#CC79A7",
    "reference": "#767676",
    "patients": "#D55E00",
    "controls": "#0072B2",
}

_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def use_style() -> None:
    """Set matplotlib's defaults to the book's style; call it once at the top of a notebook.

    Examples
    --------
    >>> use_style()
    """
    mpl.rcParams.update(
        {
            "axes.grid": False,
            "axes.prop_cycle": cycler(
                color=[COLORS[k] for k in ("projection", "subcortical", "association", "pvs")]
            ),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.figsize": (7.0, 4.0),
            "font.size": 11.0,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "savefig.dpi": 110,
        }
    )


def show_slices(
    image: nib.Nifti1Image,
    at: Sequence[tuple[str, float]],
    *,
    overlay: nib.Nifti1Image | None = None,
    colors: Mapping[int, str] | None = None,
    axes: Sequence[Axes] | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "gray",
    zoom_mm: float | None = None,
    label: str | None = None,
) -> Figure:
    """Draw slices with the front or top of the head up and the participant's left on the right.

    The image is turned into the nearest RAS order first, so that every storage order is drawn
    the same way.  It is not resampled: slices of an oblique scan are drawn as acquired.

    Parameters
    ----------
    image
        3D image, or 4D with a last axis of 3 (red, green, blue; 0..1).
    at
        What to draw: pairs of ``"axial"``, ``"coronal"`` or ``"sagittal"`` and a position in
        world mm along that axis.
    overlay
        Label image on the same grid; zero is transparent.
    colors
        Colour of each label of `overlay`.
    axes
        Where to draw, one per slice; a new figure by default.
    limits
        Grey-value window; by default the 1st and 99th percentile of what is not zero.
    cmap
        matplotlib map of the image.
    zoom_mm
        Crop to this much around the overlay's centre.
    label
        Text of a colour bar, with the unit; none by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        An unknown plane, or a position outside the image.

    Examples
    --------
    >>> scan = images.make(np.random.default_rng(0).random((8, 9, 10)), np.eye(4))
    >>> figure = show_slices(scan, [("axial", 4), ("coronal", 3)])
    >>> len(figure.axes)
    2
    """
    if axes is None:
        figure, grid = plt.subplots(1, len(at), figsize=(2.7 * len(at), 3.1), squeeze=False)
        axes = list(grid[0])
    else:
        figure = axes[0].figure  # type: ignore[assignment]
    canonical = nib.as_closest_canonical(image)
    values = images.array(canonical)
    labels = None if overlay is None else np.asarray(nib.as_closest_canonical(overlay).dataobj)
    if limits is None:
        signal = values[values != 0]
        limits = tuple(np.percentile(signal, (1, 99))) if signal.size else (0.0, 1.0)
    size = images.voxel_size_mm(canonical)
    for ax, (plane, position) in zip(axes, at, strict=True):
        if plane not in _PLANES:
            raise InputError(f"at: {plane!r} is not one of {', '.join(_PLANES)}")
        axis = _PLANES[plane]
        index = _slice_index(canonical, axis, position)
        across = [k for k in range(3) if k != axis]
        shown = np.take(values, index, axis=axis)
        options: Any = {"origin": "lower", "aspect": float(size[across[1]] / size[across[0]])}
        vmin, vmax = limits
        drawn = ax.imshow(np.swapaxes(shown, 0, 1), cmap=cmap, vmin=vmin, vmax=vmax, **options)
        if labels is not None:
            plane_labels = np.take(labels, index, axis=axis).T
            palette = colors or {1: COLORS["pvs"]}
            rgba = np.zeros((*plane_labels.shape, 4))
            for value, color in palette.items():
                rgba[plane_labels == value] = mpl.colors.to_rgba(color, 0.85)
            ax.imshow(rgba, **options)
            if zoom_mm is not None and plane_labels.any():
                row, column = np.argwhere(plane_labels).mean(axis=0)
                x, y = zoom_mm / 2 / size[across]
                ax.set(xlim=(column - x, column + x), ylim=(row - y, row + y))
        if axis != 0:
            ax.invert_xaxis()  # radiological: the person's left is on the right
        ax.set_title(f"{plane}, {'xyz'[axis]} = {position:g} mm")
        ax.set_axis_off()
    if label is not None:
        figure.colorbar(drawn, ax=list(axes), label=label, shrink=0.8)
    return figure


def _slice_index(image: nib.Nifti1Image, axis: int, position_mm: float) -> int:
    centre = (np.array(image.shape[:3]) - 1) / 2
    middle = nib.affines.apply_affine(image.affine, centre)
    step = image.affine[axis, axis]
    index = round(float(centre[axis] + (position_mm - middle[axis]) / step))
    if not 0 <= index < image.shape[axis]:
        ends = nib.affines.apply_affine(image.affine, [[0, 0, 0], np.array(image.shape[:3]) - 1])
        raise InputError(
            f"at: {'xyz'[axis]} = {position_mm:g} mm lies outside the image "
            f"({ends[0, axis]:.0f} to {ends[1, axis]:.0f} mm)"
        )
    return index


def viewer(
    image: nib.Nifti1Image,
    *,
    title: str,
    background: nib.Nifti1Image | None = None,
    **options: Any,
) -> HTML:
    """Make a slice viewer that works without a server (nilearn's `view_img`).

    Parameters
    ----------
    image
        3D image: a label map or a response over `background`.
    title
        What the viewer shows; read out by screen readers.
    background
        The anatomy beneath; none by default.
    **options
        Passed to `nilearn.plotting.view_img` (``threshold``, ``vmax``, ``cmap``, ``cut_coords``).

    Returns
    -------
    IPython.display.HTML
        A titled iframe that loads when it is scrolled to.
    """
    from IPython.display import HTML
    from nilearn import plotting

    options = {"colorbar": False, "resampling_interpolation": "nearest", **options}
    with warnings.catch_warnings():  # nilearn resamples with code that newer numpy warns about
        warnings.simplefilter("ignore")
        view = plotting.view_img(
            image, bg_img=False if background is None else background, title=None, **options
        )
        page = view.get_standalone()
    page = re.sub(r"<link rel=.icon.[^>]*>", "", page)  # it asks a host outside the site
    page = page.replace("<html", '<html lang="en"', 1) if "<html lang" not in page else page
    return HTML(
        f'<div class="viewer"><iframe title="{escape(title)}" loading="lazy" width="100%" '
        f'height="300" style="border: 0" srcdoc="{escape(page)}"></iframe></div>'
    )
