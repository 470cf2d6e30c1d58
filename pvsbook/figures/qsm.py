"""Figures of susceptibility maps and of what they were made from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from pvsbook import images
from pvsbook.figures.style import COLORS, show_slices
from pvsbook.qsm.regions import erode_labels

if TYPE_CHECKING:
    from pvsbook.qsm.nuclei import Nuclei
    from pvsbook.qsm.pipeline import QsmResult

__all__ = ["nuclei", "summary"]

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
    shown = nib.as_closest_canonical(images.make(result.labels, affine))
    numbers = np.asarray(shown.dataobj)
    middle = (np.array(numbers.shape) - 1) / 2
    world = nib.affines.apply_affine(shown.affine, middle)

    def plane(name: str, axis: int, labels: Sequence[int]) -> tuple[str, float]:
        index = np.argwhere(np.isin(numbers, labels)).mean(axis=0)[axis]
        return name, float(world[axis] + (index - middle[axis]) * shown.affine[axis, axis])

    both = [label for label in pallidum if (numbers == label).any()]
    planes = [plane("axial", 2, both), plane("coronal", 1, both)]
    planes += [plane("sagittal", 0, both[-1:])]
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
