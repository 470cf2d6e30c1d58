"""Figures of susceptibility maps and of what they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from pvsbook import images
from pvsbook.figures.style import show_slices

if TYPE_CHECKING:
    from pvsbook.qsm.pipeline import QsmResult

__all__ = ["summary"]

CHI_LIMITS_PPB = (-100.0, 150.0)


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
