"""Susceptibility of one scan, as a method of the command line and the BIDS App."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvsbook.method import Input, Method, Option, Shown
from pvsbook.methods import _looks, _prose
from pvsbook.methods._find_gre import find

if TYPE_CHECKING:
    import nibabel as nib
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pvsbook.images import PathLike
    from pvsbook.qsm.nuclei import Nuclei

__all__ = ["ECHO_OPTIONS", "METHOD"]

NO_FILE = ("whole brain", "none")  # references that are no mask
ATLASES = ("auto", "melbourne", "schematic", "none")
SCANNER = ("echo_times_s", "field_strength_t", "phase_period")


def validate(options: Mapping[str, Any]) -> None:
    """Refuse what the library would refuse of every scan."""
    from pvsbook import images
    from pvsbook.qsm import pipeline

    images.check_acquisition(*(options[name] for name in SCANNER))
    steps = ("background", "inversion", "background_options", "inversion_options")
    pipeline.check_steps(*(options[name] for name in (*steps, "harmonic_degree")))


def settle(options: dict[str, Any]) -> dict[str, Any]:
    """Take the Melbourne atlas where it is at hand; "auto" remains where it is not."""
    from pvsbook.atlas import deep_grey

    is_theirs = options["atlas"] == "auto" and deep_grey.has_tian()
    return {**options, "atlas": "melbourne"} if is_theirs else options


def measure(
    magnitude: Sequence[PathLike],
    phase: Sequence[PathLike],
    *,
    echo_times_s: Any,
    field_strength_t: float | None,
    phase_period: float | None,
    real_imaginary: bool,
    brain_mask: PathLike | None,
    t1w: PathLike | None,
    white_matter: PathLike | None,
    r2: PathLike | None,
    lesions: PathLike | None,
    reference: str | PathLike,
    atlas: str,
    **options: Any,
) -> Nuclei:
    """Map susceptibility from files, and measure the nuclei (see `pvsbook.qsm.nuclei`)."""
    import numpy as np

    from pvsbook import images
    from pvsbook.qsm import nuclei, pipeline

    gre = images.load_gre(
        magnitude,
        phase,
        echo_times_s=echo_times_s,
        field_strength_t=field_strength_t,
        phase_period=phase_period,
        real_imaginary=real_imaginary,
    )
    grid = images.make(gre.magnitude[..., 0], gre.affine)
    zero = str(reference) if reference in NO_FILE else images.load_mask(reference, grid)
    result = pipeline.reconstruct(
        gre,
        mask=None if brain_mask is None else images.load_mask(brain_mask, grid),
        reference=zero,
        white_matter=None if white_matter is None else images.load_mask(white_matter, grid),
        **options,
    )
    # A fixed seed: the same scan gives the same error.
    return nuclei.measure_nuclei(
        gre,
        result,
        np.random.default_rng(0),
        atlas=atlas,
        t1w=_load_t1w(t1w),
        r2_hz=None if r2 is None else _on_grid(r2, grid),
        lesions=None if lesions is None else images.load_mask(lesions, grid),
    )


def _load_t1w(path: PathLike | None) -> Any:
    """Load a T1w image and find its brain, or say why it cannot be read."""
    from pvsbook import InputError, images
    from pvsbook.pvs import anatomy

    if path is None:
        return None
    try:
        image = images.load(path)
        return image, anatomy.brain_mask(image)[0]
    except InputError as error:
        return str(error)


def _on_grid(path: PathLike, grid: nib.Nifti1Image) -> NDArray[np.float32]:
    """Load a map that must lie on the grid of the scan."""
    from pvsbook import images

    image = images.load(path, name="r2")
    images.same_grid(image, grid, name=str(path))
    return images.array(image)


def show(result: Nuclei) -> Shown:
    """Say what the nuclei hold and relative to what, and draw the steps and the nuclei."""
    from pvsbook.figures import qsm as figures

    row = result.to_row()
    known = result.table["mean_ppb"].notna().sum()
    if result.map.unsupported_steps:
        steps = " and ".join(result.map.unsupported_steps)
        summary = f"This scan does not support {steps}; what follows from it is not a measurement."
    else:
        summary = (
            f"Susceptibility of the whole brain spreads by {row['chi_sd_ppb']:.0f} ppb (SD), "
            f"relative to {row['reference']}; the field's median standard error is "
            f"{row['field_se_median_ppb']:.1f} ppb. "
            f"{known} of {len(result.table)} nuclei were measured."
        )
    pictures = [
        (
            figures.summary(result.map),
            "Four maps of one slice: total field, misfit, local field and susceptibility.",
            "From the total field to susceptibility, in one axial slice.",
        )
    ]
    if known:
        pictures += [
            (
                figures.nuclei(result),
                "The map in three slices with the outline of each nucleus, and below it the mean "
                "of each nucleus with its 95 % interval of noise and placement.",
                "Look here first: do the outlines lie on the nuclei?  Below: means with 95 % "
                "intervals of noise and of a label 1 mm off.",
            )
        ]
    more, words = _train(result, row)
    summary = f"{summary} {words}".strip()
    return Shown(
        f"{summary} Phase was stored as {result.map.scan['phase_stored_as']}.", pictures + more
    )


def _train(result: Nuclei, row: Mapping[str, Any]) -> tuple[list[tuple[Figure, str, str]], str]:
    """Draw and say what else the echoes hold: two sources, small objects, lesions."""
    from pvsbook.figures import qsm as figures

    pictures, words = [], []
    if result.sources is not None:
        about = result.sources.about
        pictures.append((
            figures.sources(result),
            "Two maps of one slice: paramagnetic and diamagnetic susceptibility.",
            f"Iron and myelin by chi-separation ({result.sources_status}).  Assumed: "
            f"{about['Assumptions']}; relaxivity {about['RelaxivityHzPerPpm']:.0f} per second "
            f"and ppm; R2 (1/s): {about['R2Hz']}.",
        ))  # fmt: skip
    elif not result.map.unsupported_steps:
        words.append(f"Iron and myelin were {result.sources_status}.")
    if result.objects is not None:
        words.append(
            f"{row['n_microbleeds']} candidates of microbleeds (artefacts alone make "
            f"at least {row['n_microbleeds_false']:.1f}) and {row['n_calcifications']} of "
            f"calcifications ({row['n_calcifications_false']:.1f}); "
            f"{row['n_uncertain_objects']} objects are uncertain."
        )
        if row["n_microbleeds"] + row["n_calcifications"]:
            pictures.append((
                figures.tiles(result, "objects"),
                "Tiles of the map, each with a ring around a small bright or dark spot.",
                "Candidates for a reader to judge, the strongest first (axial, 36 mm): "
                "microbleeds are bright, calcifications dark.",
            ))  # fmt: skip
    if result.lesions is not None and row["n_lesions"]:
        words.append(
            f"{row['n_rim_lesions']} of {row['n_lesions']} lesions have a paramagnetic rim "
            f"(expected if none had: {row['n_rim_lesions_false']:.1f}; not known of "
            f"{row['n_rim_unknown']})."
        )
        pictures.append((
            figures.tiles(result, "lesions"),
            "Tiles of the map, each with the outline of a lesion.",
            "Lesions of the mask given, by rim score (axial, 36 mm).  A rim is brighter than the "
            "centre and than the tissue around, along two thirds of the edge.",
        ))  # fmt: skip
    return pictures, " ".join(words)


ECHO_OPTIONS = (
    Option(
        "echo_times_s",
        None,
        "Seconds, as 0.004,0.008,0.012; by default from the sidecars.",
        kind=list,
        flag="--echo-times",
        is_found=True,
    ),
    Option(
        "field_strength_t",
        None,
        "Tesla; by default from the sidecars.",
        kind=float,
        flag="--field-strength",
        is_found=True,
    ),
    Option(
        "phase_period",
        None,
        "Stored units of one full turn, where not recognised.",
        kind=float,
    ),
    Option(
        "real_imaginary",
        False,
        "The files hold real parts (as magnitude) and imaginary parts (as phase).",
        is_found=True,
    ),
    Option(
        "phase_sign",
        1,
        "Negative phase convention: the phase decreases with increasing field (-1 in settings).",
        choices=(1, -1),
        flag="--flip-phase",
        flag_value=-1,
    ),
)
BACKGROUNDS = ("lbv", "smv", "vsharp", "resharp", "pdf")
INVERSIONS = ("tv", "edge tv", "tkd", "l2", "tikhonov", "ndi")

METHOD = Method(
    name="qsm",
    title="Susceptibility (QSM)",
    help="Map susceptibility from gradient-echo magnitude and phase.",
    inputs=(
        Input("magnitude", "Magnitude: one file per echo, or one 4D file.", is_several=True),
        Input("phase", "Phase, in the same order.", is_several=True),
    ),
    options=(
        *ECHO_OPTIONS,
        Option("background", "lbv", "Background removal.", choices=BACKGROUNDS),
        Option("background_options", {}, "Its own settings, by name, as {radius_mm: 8}."),
        Option("inversion", "tv", "Dipole inversion.", choices=INVERSIONS),
        Option("inversion_options", {}, "Its own settings, by name, as {regularisation: 1.0e-4}."),
        Option(
            "harmonic_degree",
            6,
            "Remove slow harmonic susceptibility to this degree after lbv and pdf; 0 keeps it.",
            kind=int,
        ),
        Option(
            "reference",
            "whole brain",
            "What is zero: 'whole brain', 'none', or a mask.",
            choices=NO_FILE,
            or_file=True,
        ),
        Option(
            "atlas",
            "auto",
            "Nuclei: Melbourne (Tian), our schematic ones, none, or the first that is at hand.",
            choices=ATLASES,
        ),
        Option("brain_mask", None, "Brain, on the same grid.", kind=Path, is_found=True),
        Option(
            "t1w",
            None,
            "T1w image of the same visit, on any grid, to place the nuclei by.",
            kind=Path,
            is_found=True,
            may_fail=True,
        ),
        Option("white_matter", None, "White matter, for the table of references.", kind=Path),
        Option("r2", None, "R2 in 1/s on the same grid, for iron and myelin.", kind=Path),
        Option(
            "lesions",
            None,
            "Mask of lesions on the same grid, for their rims.",
            kind=Path,
            is_found=True,
        ),
    ),
    measure=measure,
    validate=validate,
    settle=settle,
    columns_at="pvsbook.qsm.nuclei.COLUMNS",
    show=show,
    prose=_prose.qsm,
    find=find,
    look=_looks.qsm,
    preference="most echoes, then name",
    limits=(
        "Susceptibility is relative: a value means something only with its reference region.",
        "Iron raises it, myelin and calcium lower it; one map cannot tell them apart.",
        "The error of a nucleus holds noise and a label 1 mm off, not the head's pose, nor what "
        "background removal leaves.",
        "Values near the brain's edge and near air are the least sure.",
        "Para- and diamagnetic maps are the solution of a model with assumed constants; an error "
        "of 1 per second in R2 moves both by 4 ppb at 3 T.",
        "Microbleeds, calcifications and rims are candidates, tried on simulated ones.",
    ),
    key_columns={
        "pallidum_left_ppb": "pallidum, left (ppb)",
        "pallidum_right_ppb": "pallidum, right (ppb)",
        "thalamus_left_ppb": "thalamus, left (ppb)",
        "thalamus_right_ppb": "thalamus, right (ppb)",
        "chi_sd_ppb": "spread of susceptibility (ppb)",
        "chi_p99_ppb": "99th percentile (ppb)",
        "residual_p95_rad": "misfit of the field (rad)",
        "field_se_median_ppb": "error of the field (ppb)",
    },
    compared=dict.fromkeys(
        (f"{name}_{side}_ppb" for name in ("pallidum", "thalamus") for side in ("left", "right")),
        "mean",
    ),
    datatype="anat",
    suffix="qsm",
    core="pvsbook.qsm.pipeline.reconstruct",
    kept_back={"mask": "is the option brain_mask, a file"},
)
