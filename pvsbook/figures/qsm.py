"""Figures of susceptibility maps and of what they were made from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook.figures.style import COLORS, show_slices
from pvsbook.qsm.regions import erode_labels

if TYPE_CHECKING:
    from pvsbook.qsm.nuclei import Nuclei
    from pvsbook.qsm.pipeline import QsmResult

__all__ = ["nuclei", "sources", "summary", "tiles"]

N_TILES = 8
CHI_LIMITS_PPB = (-100.0, 150.0)
TONES = tuple(COLORS.values())  # of neighbouring nuclei


def summary(result: QsmResult, *, at: tuple[str, float] | None = None) -> Figure:
    """Draw the field, its misfit, the local field and susceptibility, in one slice.

    Panels of a step that the scan cannot support say so in their title.

    Parameters
    ----------
    result
        From `pvsbook.qsm.reconstruct`.
    at
        Plane and position in scanner mm; by default axial, through the middle of the mask.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from pvsbook import phantoms, qsm
    >>> head = phantoms.gradient_echo.make_gre(np.random.default_rng(0), voxel_size_mm=4)
    >>> figure = summary(qsm.reconstruct(head.gre, mask=head.brain))
    >>> figure.axes[0].get_title()
    'Total field (Hz)'
    """
    if at is None:
        middle = np.argwhere(result.mask).mean(axis=0)
        at = ("axial", float(result.affine[2, :3] @ middle + result.affine[2, 3]))
    reach = float(np.quantile(np.abs(result.field.field_hz[result.mask]), 0.98)) or 1.0
    local_ppb = 1e3 * result.local_field.field_ppm
    chi_ppb = 1e3 * result.susceptibility.chi_ppm
    panels = (
        ("Total field (Hz)", None, result.field.field_hz, (-reach, reach)),
        ("Misfit of the line (rad)", None, result.field.residual_rad, (0.0, 0.3)),
        ("Local field (ppb)", "background removal", local_ppb, (-40.0, 40.0)),
        ("Susceptibility (ppb)", "inversion", chi_ppb, CHI_LIMITS_PPB),
    )
    figure, axes = plt.subplots(2, 2, figsize=(7.0, 8.4))
    for ax, (title, step, values, limits) in zip(axes.flat, panels, strict=True):
        show_slices(images.make(values, result.affine), [at], axes=[ax], limits=limits)
        ax.set_title(title + ("\nnot supported" if step in result.unsupported_steps else ""))
        figure.colorbar(ax.images[0], ax=ax, location="bottom", shrink=0.8)
    flags = "; ".join(f.code for f in result.flags) or "none"
    figure.suptitle(
        f"Quality: {result.status}.  Flags: {flags}.  Reference: "
        f"{result.susceptibility.reference}.",
        fontsize="medium",
    )
    return figure


def _plane(where: NDArray[np.bool_], affine: NDArray, name: str) -> tuple[str, float]:
    """Return a plane through the middle of a mask, as `show_slices` takes it."""
    axis = ("sagittal", "coronal", "axial").index(name)
    shown = nib.as_closest_canonical(images.make(where.astype(np.uint8), affine))
    voxels = np.argwhere(np.asarray(shown.dataobj))
    middle = (np.array(shown.shape) - 1) / 2
    world = nib.affines.apply_affine(shown.affine, middle)[axis]
    offset = (voxels.mean(axis=0) - middle)[axis] * shown.affine[axis, axis]
    return name, float(world + offset)


def sources(result: Nuclei) -> Figure:
    """Draw para- and diamagnetic susceptibility of one slice.

    Parameters
    ----------
    result
        From `pvsbook.qsm.nuclei.measure_nuclei`, with sources.

    Returns
    -------
    matplotlib.figure.Figure
    """
    assert result.sources is not None
    affine = result.map.affine
    at = _plane(result.labels > 0 if result.labels.any() else result.map.mask, affine, "axial")
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 4.6), layout="constrained")
    for ax, title, values in zip(
        axes,
        ("Paramagnetic (mostly iron)", "Diamagnetic (mostly myelin)"),
        (result.sources.iron_ppm, result.sources.myelin_ppm),
        strict=True,
    ):
        show_slices(images.make(1e3 * values, affine), [at], axes=[ax], limits=(0.0, 150.0))
        ax.set_title(title)
    figure.colorbar(ax.images[0], ax=list(axes), location="bottom", shrink=0.5, label="ppb")
    return figure


def tiles(result: Nuclei, kind: str) -> Figure:
    """Draw susceptibility around each small source, or each lesion, the clearest first.

    Parameters
    ----------
    result
        From `pvsbook.qsm.nuclei.measure_nuclei`.
    kind
        ``"objects"`` (microbleeds and calcifications) or ``"lesions"``.

    Returns
    -------
    matplotlib.figure.Figure
        Up to eight axial tiles of 36 mm, each with the outline of what was measured.
    """
    part = result.objects if kind == "objects" else result.lesions
    assert part is not None
    rows = part.table
    if kind == "objects":
        rows = rows[rows["class"].isin(["microbleed", "calcification"])]
        rows = rows.reindex(rows["peak_ppb"].abs().sort_values(ascending=False).index)
        limits, gap = (-400.0, 400.0), 2
    else:
        rows = rows.sort_values("rim_score", ascending=False)
        limits, gap = (-60.0, 90.0), 0
    rows = rows.head(N_TILES)
    n_rows = -(-len(rows) // 4)
    size = (7.2, 2.5 * n_rows + 0.7)
    figure, axes = plt.subplots(n_rows, 4, figsize=size, squeeze=False, layout="none")
    chi = images.make(1e3 * result.map.susceptibility.chi_ppm, result.map.affine)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, rows.to_dict("records"), strict=False):
        own = part.labels == row["label"]
        inner = ndimage.binary_dilation(own, iterations=gap) if gap else own
        ring = ndimage.binary_dilation(inner) & ~inner
        show_slices(
            chi, [_plane(own, result.map.affine, "axial")], axes=[ax], limits=limits,
            overlay=images.make(ring.astype(np.uint8), result.map.affine), zoom_mm=36,
        )  # fmt: skip
        if kind == "objects":
            title = f"{row['class']} {row['label']}\n{row['peak_ppb']:+.0f} ppb"
        elif row["rim"] == "n/a":
            title = f"lesion {row['label']}\nrim not known"
        else:
            title = f"lesion {row['label']}, rim: {row['rim']}\nscore {row['rim_score']:.1f}"
        ax.set_title(title, fontsize="small")
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.5 / size[1], bottom=0.9 / size[1],
                           wspace=0.05, hspace=0.3)  # fmt: skip
    bar = figure.add_axes((0.3, 0.55 / size[1], 0.4, 0.12 / size[1]))
    figure.colorbar(axes.flat[0].images[0], cax=bar, orientation="horizontal", label="ppb")
    return figure


def nuclei(result: Nuclei) -> Figure:
    """Draw the map with outlines of the nuclei in three planes, and the mean of each nucleus.

    Parameters
    ----------
    result
        From `pvsbook.qsm.nuclei.measure_nuclei`, with values.

    Returns
    -------
    matplotlib.figure.Figure
    """
    affine = result.map.affine
    pallidum = result.table.loc[result.table["region"] == "pallidum", "label"]
    both = [label for label in pallidum if (result.labels == label).any()]
    planes = [
        _plane(np.isin(result.labels, labels), affine, name)
        for name, labels in (("axial", both), ("coronal", both), ("sagittal", both[-1:]))
    ]
    figure = plt.figure(figsize=(7.0, 6.6), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=(1.0, 1.5))
    top, bottom = (figure.add_subfigure(halves[row]) for row in range(2))
    axes = list(top.subplots(1, 3))
    chi_ppb = images.make(1e3 * result.map.susceptibility.chi_ppm, affine)
    rim = np.where(erode_labels(result.labels) == 0, result.labels, 0)
    tones = dict(zip(result.table["label"], itertools.cycle(TONES), strict=False))
    show_slices(
        chi_ppb, planes, axes=axes, limits=CHI_LIMITS_PPB, zoom_mm=90,
        overlay=images.make(rim, affine), colors=tones,
    )  # fmt: skip
    for ax, (name, _) in zip(axes, planes, strict=True):
        ax.set_title(name)
    below = bottom.subplots()
    rows = result.table.dropna(subset=["mean_ppb"]).reset_index(drop=True)
    for side, marker, shift in (("left", "o", 0.15), ("right", "s", -0.15)):
        own = rows[rows["side"] == side]
        y = own["region"].map({r: k for k, r in enumerate(rows["region"].unique())}) + shift
        below.errorbar(
            own["mean_ppb"], y, xerr=1.96 * own["se_ppb"].fillna(own["se_placement_ppb"]),
            fmt=marker, label=side,
        )  # fmt: skip
    below.set_yticks(range(rows["region"].nunique()), rows["region"].unique())
    below.invert_yaxis()
    below.set_xlabel(f"Susceptibility (ppb), reference: {result.map.susceptibility.reference}")
    below.legend()
    return figure
