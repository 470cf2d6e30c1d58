"""From files to results on disk: one scan through its method, its tables, its maps and its page.

One scan and a thousand take this path: the command line and the notebooks call the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pvsbook import derivatives, images, report
from pvsbook.alps import pipeline as alps_pipeline
from pvsbook.alps import preprocess, regions
from pvsbook.figures import alps as alps_figures
from pvsbook.figures import pvs as pvs_figures
from pvsbook.figures import qsm as qsm_figures
from pvsbook.figures import use_style
from pvsbook.pvs import pipeline as pvs_pipeline
from pvsbook.qsm import pipeline as qsm_pipeline

__all__ = ["Done", "measure_alps", "measure_pvs", "measure_qsm"]

REFERENCES = ("whole brain", "none")
ROI_SETS = {"2.5mm": regions.SPHERES_2_5_MM, "5mm": regions.SPHERES_5_MM}
PVS_LIMITS = (
    "A bright thread is not always a perivascular space: white-matter hyperintensities and "
    "lacunes look alike to any filter.",
    "Counts depend on voxel size, contrast and noise; compare scans of one protocol only.",
    "A larger space does not tell why it is larger, nor how fluid moves in it.",
)
ALPS_LIMITS = (
    "The index is a ratio of diffusivities at one site; write 'lower ALPS index', not "
    "'glymphatic dysfunction'.",
    "White matter is not symmetric around its fibres even without perivascular spaces, so axons "
    "contribute to the index.",
    "It depends on echo time, head position, directions, region size and free water.",
)
QSM_LIMITS = (
    "Susceptibility is relative: a value means something only with its reference region.",
    "Iron raises it, myelin and calcium lower it; one map cannot tell them apart.",
    "Values near the brain's edge and near air are the least sure.",
)


@dataclass(frozen=True)
class Done:
    """What a scan gave.

    Attributes
    ----------
    summary
        The result in one or two sentences, with its uncertainty.
    status
        ``"pass"``, ``"warn"`` or ``"fail"``.
    reasons
        Why the status is not a pass.
    row
        Every value, as in the table.
    report
        Path of the HTML page.
    """

    summary: str
    status: str
    reasons: tuple[str, ...]
    row: Mapping[str, Any]
    report: Path


def measure_pvs(
    image: images.PathLike,
    out: images.PathLike,
    *,
    contrast: pvs_pipeline.Contrast = "t2",
    wmh_mask: images.PathLike | None = None,
    brain_mask: images.PathLike | None = None,
    registration: pvs_pipeline.Model = "affine",
) -> Done:
    """Count and measure perivascular spaces in a scan, and write everything to a folder.

    Parameters
    ----------
    image
        T2w (or T1w) NIfTI file.
    out
        Folder for the BIDS-Derivatives.
    contrast
        ``"t2"`` or ``"t1"``.
    wmh_mask, brain_mask
        Masks on the same grid.
    registration
        ``"affine"`` or ``"syn"``, as in `pvsbook.pvs.measure`.

    Returns
    -------
    Done

    Raises
    ------
    InputError
        See `pvsbook.images.load` and `pvsbook.pvs.measure`.
    """
    sources = [p for p in (image, wmh_mask, brain_mask) if p is not None]
    _claim(out, [image], datatype="anat", suffix="pvs")
    result = pvs_pipeline.measure(
        image,
        contrast=contrast,
        wmh_mask=wmh_mask,
        brain_mask=brain_mask,
        registration=registration,
    )
    row = result.to_row()
    summary = (
        f"{row['n_pvs']} perivascular spaces (noise alone: +-{row['n_pvs_se']:.1f}) with a volume "
        f"of {row['volume_mm3']:.0f} mm3 (+-{row['volume_se_mm3']:.0f}). Threads of the wrong "
        f"sign that pass the same rules, an estimate of the false ones: {row['n_mirrored']}. "
        f"{row['n_uncertain']} more objects are uncertain."
    )
    pictures = [
        (
            _styled(pvs_figures.summary, result),
            "Four axial slices, twice: above with the searched regions, below with the objects "
            f"found; {row['n_pvs']} are perivascular spaces.",
            "Above: the regions that were searched. Below: the objects, by class.",
        ),
        (
            _styled(pvs_figures.plot_objects, result),
            "Axial slices with many objects, drawn on the scan in the colour of their class.",
            "The slices with the most objects, by class.",
        ),
    ]
    return _finish(
        result,
        out,
        datatype="anat",
        suffix="pvs",
        title="Perivascular spaces",
        sources=sources,
        summary=summary,
        status=result.status,
        reasons=result.reasons,
        columns=pvs_pipeline.COLUMNS,
        figures=pictures,
        limits=PVS_LIMITS,
        n_scan_files=1,
    )


def measure_alps(
    dwi: images.PathLike,
    bval: images.PathLike,
    bvec: images.PathLike,
    out: images.PathLike,
    *,
    brain_mask: images.PathLike | None = None,
    rois: str | images.PathLike = "2.5mm",
    search_mm: float = 0.0,
    nonlinear: bool = False,
    denoise: str | None = None,
    gibbs: bool = False,
    motion: bool = False,
) -> Done:
    """Measure the ALPS index of a diffusion scan, and write everything to a folder.

    Parameters
    ----------
    dwi, bval, bvec
        4D NIfTI file and its FSL gradient files.
    out
        Folder for the BIDS-Derivatives.
    brain_mask
        Mask on the same grid.
    rois
        ``"2.5mm"`` or ``"5mm"`` spheres, or a label image of regions drawn by hand.
    search_mm, nonlinear
        As in `pvsbook.alps.measure`.
    denoise, gibbs, motion
        Corrections before the tensor, in this order (see `pvsbook.alps.preprocess`).

    Returns
    -------
    Done

    Raises
    ------
    InputError
        See `pvsbook.images.load_dwi`, `pvsbook.alps.preprocess` and `pvsbook.alps.measure`.
    """
    sources = [p for p in (dwi, bval, bvec, brain_mask) if p is not None]
    _claim(out, [dwi, bval, bvec], datatype="dwi", suffix="alps")
    mask = None if brain_mask is None else images.load(brain_mask)
    series = images.load_dwi(dwi, bval, bvec)
    if denoise is not None:
        series = preprocess.denoise(series, method=denoise, mask=mask)
    if gibbs:
        series = preprocess.remove_ringing(series)
    if motion:
        series = preprocess.correct_motion(series, mask=mask).dwi
    result = alps_pipeline.measure(
        series,
        mask=mask,
        rois=ROI_SETS[str(rois)] if str(rois) in ROI_SETS else images.load(rois),
        search_mm=search_mm,
        nonlinear=nonlinear,
    )
    found = result.indices["tract"]
    parts = [f"{side} {e.value:.2f} ({e.low:.2f} to {e.high:.2f})" for side, e in found.items()]
    if np.isfinite(found["mean"].value):
        summary = (
            f"ALPS index in the frame of the tracts, with 95 % intervals: {', '.join(parts)}."
        )
    else:
        summary = "No index: the regions could not be placed."
    alt = f"Colour map of the fibre directions with the four regions, and the indices: {summary}"
    caption = "Regions on the colour map, and the index in three frames with 95 % intervals."
    return _finish(
        result,
        out,
        datatype="dwi",
        suffix="alps",
        title="ALPS index",
        sources=sources,
        summary=summary,
        status=result.status,
        reasons=result.reasons,
        columns=alps_pipeline.COLUMNS,
        figures=[(_styled(alps_figures.summary, result), alt, caption)],
        limits=ALPS_LIMITS,
        n_scan_files=3,
    )


def measure_qsm(
    magnitude: Sequence[images.PathLike],
    phase: Sequence[images.PathLike],
    out: images.PathLike,
    *,
    echo_times_s: ArrayLike | None = None,
    field_strength_t: float | None = None,
    phase_period: float | None = None,
    phase_sign: int = 1,
    background: str = "lbv",
    inversion: str = "tv",
    reference: str | images.PathLike = "whole brain",
    brain_mask: images.PathLike | None = None,
    white_matter: images.PathLike | None = None,
) -> Done:
    """Map susceptibility from a gradient echo, and write everything to a folder.

    Parameters
    ----------
    magnitude, phase
        Files, one an echo or one with all.
    out
        Folder for the BIDS-Derivatives.
    echo_times_s, field_strength_t, phase_period
        As in `pvsbook.images.load_gre`.
    phase_sign
        -1 where the scanner's phase falls in a stronger field.
    background, inversion
        As in `pvsbook.qsm.reconstruct`.
    reference
        ``"whole brain"``, ``"none"``, or a mask of the region that is to be zero.
    brain_mask, white_matter
        Masks on the same grid; white matter only adds a row to the table of references.

    Returns
    -------
    Done

    Raises
    ------
    InputError
        See `pvsbook.images.load_gre` and `pvsbook.qsm.reconstruct`.
    """
    sources = [*magnitude, *phase, *([brain_mask] if brain_mask is not None else [])]
    _claim(out, [*magnitude, *phase], datatype="anat", suffix="qsm")
    gre = images.load_gre(
        list(magnitude),
        list(phase),
        echo_times_s=echo_times_s,
        field_strength_t=field_strength_t,
        phase_period=phase_period,
    )
    grid = images.make(gre.magnitude[..., 0], gre.affine)
    result = qsm_pipeline.reconstruct(
        gre,
        mask=None if brain_mask is None else images.load_mask(brain_mask, grid),
        reference=str(reference) if reference in REFERENCES else images.load_mask(reference, grid),
        white_matter=None if white_matter is None else images.load_mask(white_matter, grid),
        background=background,
        inversion=inversion,
        phase_sign=phase_sign,
    )
    row = result.to_row()
    if result.unsupported_steps:
        steps = " and ".join(result.unsupported_steps)
        summary = f"This scan does not support {steps}; what follows from it is not a measurement."
    else:
        summary = (
            f"Susceptibility of the whole brain spreads by {row['chi_sd_ppb']:.0f} ppb (SD), "
            f"relative to {row['reference']}; the field's median standard error is "
            f"{row['field_se_median_ppb']:.1f} ppb."
        )
    summary += f" Phase was stored as {gre.phase_stored_as}."
    alt = "Four maps of one slice: total field, misfit, local field and susceptibility."
    caption = "From the total field to susceptibility, in one axial slice."
    return _finish(
        result,
        out,
        datatype="anat",
        suffix="qsm",
        title="Quantitative susceptibility mapping",
        sources=sources,
        summary=summary,
        status=result.status,
        reasons=result.reasons,
        columns=qsm_pipeline.COLUMNS,
        figures=[(_styled(qsm_figures.summary, result), alt, caption)],
        limits=QSM_LIMITS,
        n_scan_files=len(magnitude) + len(phase),
    )


def _styled(draw: Callable[[Any], Figure], result: Any) -> Figure:
    """Draw in the book's style and leave the caller's alone."""
    with plt.rc_context():
        use_style()
        return draw(result)


def _claim(
    out: images.PathLike, sources: Sequence[images.PathLike], *, datatype: str, suffix: str
) -> None:
    """Look at the folder first: it can be written, and holds nothing of other scans."""
    missing = [str(path) for path in sources if not Path(path).is_file()]
    if missing:
        return  # the door names it, with what to do
    prefix = derivatives.prefix_from(sources[0])
    writer = derivatives.Writer(out, prefix=prefix, datatype=datatype)
    derivatives.claim(writer, suffix, derivatives.sources_of(sources))


def _finish(
    result: Any,
    out: images.PathLike,
    *,
    datatype: str,
    suffix: str,
    title: str,
    sources: Sequence[images.PathLike],
    summary: str,
    status: str,
    reasons: tuple[str, ...],
    columns: derivatives.Columns,
    figures: Sequence[tuple[Figure, str, str]],
    limits: Sequence[str],
    n_scan_files: int,
) -> Done:
    """Save maps and tables, then the page that shows them."""
    names = [Path(os.fspath(source)).name for source in sources]
    prefix = derivatives.prefix_from(sources[0])
    result.save(out, prefix=prefix, sources=names)
    row = result.to_row()
    page = report.html_page(
        f"{title}: {prefix}",
        summary=summary,
        row=row,
        columns=columns,
        figures=figures,
        limits=limits,
        sources=names,
        status=status,
        reasons=reasons,
    )
    for figure, _, _ in figures:
        plt.close(figure)
    writer = derivatives.Writer(out, prefix=prefix, datatype=datatype)
    scan = derivatives.sources_of(sources[:n_scan_files])  # a mask may change, the scan may not
    writer.json(scan, suffix, desc="sources")
    return Done(summary, status, reasons, row, writer.text(page, suffix, ".html", desc="report"))
