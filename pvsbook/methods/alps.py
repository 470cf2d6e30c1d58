"""The ALPS index, as a method of the command line and the BIDS App."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvsbook._errors import InputError
from pvsbook.method import Input, Method, Option, Shown
from pvsbook.methods import _looks, _prose
from pvsbook.methods._find_dwi import DIRECTION, find, opposite

if TYPE_CHECKING:
    from pvsbook.alps.pipeline import AlpsResult
    from pvsbook.images import PathLike

__all__ = ["METHOD"]

SPHERES = ("2.5mm", "5mm")


def validate(options: Mapping[str, Any]) -> None:
    """Refuse what the library would refuse of every scan."""
    from pvsbook.alps import pipeline

    by_hand = str(options["rois"]) not in SPHERES
    pipeline.check_options(options["search_mm"], options["n_bootstrap"], by_hand=by_hand)
    if options["phase_encoding"] is not None and options["reverse"] is None:
        raise InputError(
            "phase_encoding: is read with reverse alone; give reverse, or leave it out"
        )


def measure(
    dwi: Sequence[PathLike],
    bval: Sequence[PathLike],
    bvec: Sequence[PathLike],
    *,
    brain_mask: PathLike | None,
    rois: str | PathLike,
    b0_threshold: float,
    denoise: str | None,
    gibbs: bool,
    motion: bool,
    reverse: PathLike | None,
    phase_encoding: str | None,
    corrected_by: str | None,
    **options: Any,
) -> AlpsResult:
    """Correct a diffusion series as asked, and measure (see `pvsbook.alps.pipeline.measure`)."""
    from pvsbook import images
    from pvsbook.alps import pipeline, preprocess, regions

    spheres = dict(zip(SPHERES, (regions.SPHERES_2_5_MM, regions.SPHERES_5_MM), strict=True))
    chosen = spheres[str(rois)] if str(rois) in spheres else images.load(rois)
    mask = None if brain_mask is None else images.load(brain_mask)
    series = images.load_dwi(dwi[0], bval[0], bvec[0], b0_below_s_mm2=b0_threshold)
    raw, before, displacement = series, None, None
    if reverse is not None:  # before what takes minutes
        back, axis = images.load(reverse), phase_encoding_axis(dwi[0], reverse, phase_encoding)
    if denoise is not None:
        series = preprocess.denoise(series, method=denoise, mask=mask)
        before = raw  # its noise is what the index still has
    if gibbs:
        series = preprocess.remove_ringing(series)
    if reverse is not None:
        displacement = preprocess.find_displacement(series, back, phase_encoding=axis, mask=mask)
        before = displacement.correct(raw, order=0)  # interpolation hides noise
    if motion:
        series = preprocess.correct_motion(series, mask=mask, displacement=displacement).dwi
    elif displacement is not None:
        series = displacement.correct(series)
    if mask is not None and displacement is not None:
        inside = images.load_mask(mask, series.image).astype("float32")
        mask = images.make(displacement.undo(inside, order=0) > 0, mask.affine)
    result = pipeline.measure(
        series,
        mask=mask,
        rois=chosen,
        before_denoising=before,
        displacement=displacement,
        **options,
    )
    return replace(result, corrected_by=corrected_by or "nothing before")


def phase_encoding_axis(dwi: PathLike, reverse: PathLike, given: str | None) -> str:
    """Read from sidecars along which axis phase was encoded, and that `reverse` is the reverse.

    Raises
    ------
    InputError
        No sidecar says it and `given` neither, they contradict each other, or the two images have
        one direction or two readout times.
    """
    from pvsbook import images

    ours, theirs = images.sidecar(dwi), images.sidecar(reverse)
    known = str(ours.get(DIRECTION, ours.get("PhaseEncodingAxis", "")))
    if given is None and not known:
        raise InputError(
            f"{dwi}: no sidecar with {DIRECTION} beside it; give --phase-encoding i, j or k, "
            "the axis of the stored voxels"
        )
    if given is not None and known and known[0] != given:
        raise InputError(
            f"phase_encoding is {given!r}, but the sidecar of {dwi} says {known!r}; correct the "
            "one that is wrong"
        )
    if DIRECTION in ours and DIRECTION in theirs and theirs[DIRECTION] != opposite(known):
        raise InputError(
            f"{reverse}: {DIRECTION} is {theirs[DIRECTION]!r}, but {dwi} has {known!r}; give an "
            f"image with {opposite(known)!r}"
        )
    readout, other = (meta.get("TotalReadoutTime") for meta in (ours, theirs))
    if readout and other and abs(readout - other) > 0.01 * readout:
        raise InputError(
            f"{reverse}: TotalReadoutTime is {other} s, but {dwi} has {readout} s; only images of "
            "one readout time can be compared"
        )
    return given or known[0]


def show(result: AlpsResult) -> Shown:
    """Say the index of each side with its interval, and draw the regions."""
    import math

    from pvsbook.figures import alps as figures

    indices = result.indices["tract"]
    if math.isfinite(indices["mean"].value):
        values = ", ".join(
            f"{side} {e.value:.2f} ({e.low:.2f} to {e.high:.2f})" for side, e in indices.items()
        )
        summary = (
            "ALPS index in the frame of the tracts, with 95 % intervals (noise, place of the "
            f"regions, registration): {values}."
        )
        if "," in result.shells.partition(",")[2]:
            summary += f" Of the shells ({result.shells}) b={result.b_s_mm2:g} was used."
        if result.notes:
            summary += f" Note: {'; '.join(result.notes)}."
        if result.left_out:
            numbers = ", ".join(map(str, result.left_out))
            summary += f" Volumes left out (numbered from 0): {numbers}."
    else:
        summary = "No index: the regions could not be placed."
    shown = [
        (
            figures.summary(result),
            "Colour map of the fibre directions with the four regions, and the indices: "
            f"{summary}",
            "Regions on the colour map, and the index in three frames with 95 % intervals.",
        ),
        (
            figures.regions_close_up(result),
            "Regions of each side, enlarged, in axial, coronal and sagittal planes.",
            "Regions enlarged (white: projection, yellow: association) with the fibre direction "
            "of each voxel. Projection fibres should run up and down (blue), association fibres "
            "front to back (green); sagittal planes go through the projection region.",
        ),
    ]
    by_place = figures.index_by_place(result)
    if by_place is not None:
        shown.append(
            (
                by_place,
                "Lines of the index of each side against the shift and the radius of the regions.",
                "Index when all four regions are moved or have another radius (dotted: as "
                "measured); the band is the 95 % interval of the mean. Steep lines: the index "
                "depends on the place.",
            )
        )
    return Shown(summary, shown)


METHOD = Method(
    name="alps",
    title="ALPS index",
    help="Measure the ALPS index of one diffusion scan.",
    inputs=(
        Input("dwi", "Diffusion series (4D NIfTI).", is_option=False),
        Input("bval", "b-values, FSL format."),
        Input("bvec", "b-vectors, FSL format."),
    ),
    options=(
        Option("brain_mask", None, "Brain, on the same grid.", kind=Path, is_found=True),
        Option(
            "rois",
            "5mm",
            "5mm or 2.5mm spheres, or a label image drawn by hand (labels 1 to 4).",
            choices=SPHERES,
            or_file=True,
        ),
        Option(
            "search_mm",
            0.0,
            "Move each sphere by up to this many mm, to where fibres run as expected; the shift "
            "is reported.",
        ),
        Option(
            "registration",
            "affine",
            "syn: refine the registration of the FA map (SyN); 10 s more.",
            choices=("affine", "syn"),
        ),
        Option(
            "b0_threshold",
            50.0,
            "b-values below this many s/mm2 count as b=0 (50 to 250).",
        ),
        Option(
            "denoise",
            None,
            "Denoise first; off by default.",
            choices=("mppca", "patch2self"),
        ),
        Option("gibbs", False, "Remove Gibbs ringing; minutes for a whole brain."),
        Option("motion", False, "Align the volumes and turn the b-vectors."),
        Option(
            "reverse",
            None,
            "Correct the distortion by this image at b=0 of the opposite phase encoding, on the "
            "same grid; minutes, needs the package unpile.",
            kind=Path,
        ),
        Option(
            "phase_encoding",
            None,
            "With reverse: axis of the stored voxels; by default from the sidecar of the series.",
            kind=str,
            choices=("i", "j", "k"),
            of_one_participant=True,
        ),
        Option(
            "corrected_by",
            None,
            "Software that corrected the series and turned its b-vectors before, for the record.",
            kind=str,
            is_found=True,
            of_one_participant=True,
        ),
        Option("n_bootstrap", 1000, "Repeats of the wild bootstrap behind the intervals."),
    ),
    measure=measure,
    validate=validate,
    columns_at="pvsbook.alps.pipeline.COLUMNS",
    show=show,
    prose=_prose.alps,
    find=find,
    look=_looks.alps,
    preference="corrected before, most weighted volumes, then name",
    limits=(
        "The index is a ratio of diffusivities at one site; write 'lower ALPS index', not "
        "'glymphatic dysfunction'.",
        "White matter is not symmetric around its fibres even without perivascular spaces, so "
        "axons contribute to the index.",
        "It depends on echo time, head position, directions, region size and free water.",
    ),
    key_columns={
        "alps_tract_mean": "ALPS index, mean of sides",
        "alps_tract_left": "ALPS index, left",
        "alps_tract_right": "ALPS index, right",
        "registration_correlation": "correlation with the template",
    },
    compared={"alps_tract_mean": "mean"},
    datatype="dwi",
    suffix="alps",
    core="pvsbook.alps.pipeline.measure",
    kept_back={
        "mask": "is the option brain_mask, a file",
        "before_denoising": "is the series as given, where denoise or reverse is used",
        "displacement": "is found from the option reverse, an image",
        "rng": "a fixed seed, so that the same scan gives the same number",
    },
)
