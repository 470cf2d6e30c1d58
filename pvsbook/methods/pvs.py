"""Perivascular spaces, as a method of the command line and the BIDS App."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvsbook._errors import InputError
from pvsbook._names import entities_of
from pvsbook.method import Input, Method, Option, Shown
from pvsbook.methods import _looks, _prose
from pvsbook.visit import BidsFile, Found, Visit, one_echo

if TYPE_CHECKING:
    from pvsbook.images import PathLike
    from pvsbook.pvs.pipeline import PvsResult

__all__ = ["METHOD"]

INVERSION_S = 1.0  # to null CSF at 1.5 T and more takes 1.6 s and longer


def validate(options: Mapping[str, Any]) -> None:
    """Refuse what the library would refuse of every scan."""
    from pvsbook.pvs.objects import Rules

    try:
        Rules(**options["rules"])
    except TypeError as error:
        known = ", ".join(Rules.__dataclass_fields__)
        raise InputError(f"rules: {error}; known are {known}") from None


def measure(
    image: Sequence[PathLike],
    *,
    rules: Mapping[str, Any],
    flair: PathLike | None,
    other: PathLike | None,
    **options: Any,
) -> PvsResult:
    """Count and measure perivascular spaces in a scan (see `pvsbook.pvs.pipeline.measure`)."""
    from pvsbook import images
    from pvsbook.pvs import pipeline
    from pvsbook.pvs.objects import Rules

    _refuse_flair(image[0])
    beside: dict[str, Any] = {}
    lost = []
    for name, path in (("flair", flair), ("other", other)):
        try:
            beside[name] = None if path is None else images.load(path)
        except InputError as error:  # the scan itself is sound
            lost.append(f"{name} was not used: {error}".replace(str(path), Path(str(path)).name))
    result = pipeline.measure(image[0], rules=Rules(**rules), **beside, **options)
    if lost:
        status = "warn" if result.status == "pass" else result.status
        result = replace(result, status=status, reasons=(*result.reasons, *lost))
    if options["strip"] != "opening" and not result.anatomy.stripped_by:
        why = "it holds no scalp" if options["brain_mask"] is None else "a brain mask was given"
        result = replace(result, note=f"{options['strip']} did not run on this scan, as {why}.")
    return result


def _refuse_flair(path: PathLike) -> None:
    """Refuse a FLAIR that is given as the scan: on dark fluid it would pass as T1w."""
    from pvsbook import images

    stem = images.stem(Path(path).name)
    by_name = re.search("(?i)(^|[^a-z])flair$", stem) and not re.search(
        "(?i)(to|in|on)[_-]?flair$", stem
    )
    by_name = by_name or "flair" in entities_of(stem).get("acq", "").lower()
    try:
        meta = images.sidecar(path)
    except InputError:  # nothing else is read from it
        meta = {}
    words = " ".join(str(meta.get(key, "")) for key in ("SeriesDescription", "ProtocolName"))
    by_sidecar = "flair" in words.lower() and "t1" not in words.lower()
    if by_name or by_sidecar:
        raise InputError(
            f"{path}: is a FLAIR by its {'name' if by_name else 'sidecar'}, which "
            "shows lesions and not perivascular spaces; give a T2w or T1w scan of the same head, "
            "and this one as flair (--flair)"
        )


def show(result: PvsResult) -> Shown:
    """Say the counts with their uncertainty, and draw regions and every object."""
    from pvsbook.figures import pvs as figures

    row = result.to_row()
    summary = (
        f"{row['n_pvs']} perivascular spaces (SE from noise {row['n_pvs_se']:.1f}; "
        f"{row['n_pvs_strict']} by rules a quarter stricter, {row['n_pvs_loose']} by rules a "
        f"fifth looser) with a volume of {row['volume_mm3']:.0f} mm3 (SE from noise "
        f"{row['volume_se_mm3']:.0f}; {row['volume_strict_mm3']:.0f} to "
        f"{row['volume_loose_mm3']:.0f} by these rules). Opposite-contrast "
        f"control, an estimate of the false positives: {row['n_mirrored']} "
        f"{'object' if row['n_mirrored'] == 1 else 'objects'}. {row['n_uncertain']} more objects "
        "are uncertain."
    )
    return Shown(
        f"{summary} {result.note}".strip(),
        [
            (
                figures.summary(result),
                "Four axial slices, twice: above with the searched regions, below with the "
                f"objects found; {row['n_pvs']} are perivascular spaces.",
                "Above: the regions that were searched. Below: the objects, by class.",
            ),
        ],
        figures.object_viewer(result),
    )


def find(visit: Visit) -> list[Found]:
    """Take each T2w scan, and each T1w scan where there is none."""
    for suffix, contrast in (("T2w", "t2"), ("T1w", "t1")):
        files = [f for f in visit.select("anat", suffix) if not _is_flair(f, visit)]
        scans = one_echo(files, last=contrast == "t2")  # whose weight on T2 is the largest
        scans.sort(key=lambda f: bool(f.get("ce")))
        if scans:
            return [_beside(scan, contrast, visit) for scan in scans]
    named = [f"{f.name} is a FLAIR, which" for f in _flairs(visit) if f.suffix == "T2w"]
    alone = ["FLAIR alone"] if _flairs(visit) else []
    words = "".join(f" ({said} does not show them)" for said in (named or alone)[:1])
    return [Found(lacks=(f"no T2w and no T1w in anat/{words}",))]


def _beside(scan: BidsFile, contrast: str, visit: Visit) -> Found:
    """Find what other images of the visit say of a scan."""
    notes = []
    if contrast == "t1":
        notes.append("no T2w, so T1w: fewer perivascular spaces are visible")
    if scan.get("echo"):
        notes.append(f"{scan.name} of several echoes")
    masks, said = visit.masks(scan, brain="brain_mask", lesion="wmh_mask")
    parameters = {"contrast": contrast, **masks}
    beside = {"flair": _flairs(visit)}
    if contrast == "t2":
        beside["other"] = visit.select("anat", "T1w")
    for name, files in beside.items():
        # without contrast agent, which makes vessels bright
        files = one_echo([f for f in files if not f.get("ce")])
        chosen, said_of = visit.beside(scan, files)
        notes += said_of
        if chosen is not None:
            parameters[name] = str(chosen.path)
    return Found({"image": [str(scan.path)]}, parameters, (), (*notes, *said))


def _flairs(visit: Visit) -> list[BidsFile]:
    return [f for f in visit.files if f.datatype == "anat" and _is_flair(f, visit)]


def _is_flair(file: BidsFile, visit: Visit) -> bool:
    """Tell FLAIR by its suffix; where it is filed as T2w, by its label or its sidecar."""
    if file.suffix != "T2w":
        return file.suffix == "FLAIR"
    meta = visit.sidecars.read(file)
    names = [file.get("acq"), *(meta.get(key) for key in ("SeriesDescription", "ProtocolName"))]
    seconds = meta.get("InversionTime")  # of STIR 0.2 s, of a T2w scan none
    is_inverted = isinstance(seconds, int | float) and seconds >= INVERSION_S
    return is_inverted or any("flair" in str(name).lower() for name in names)


METHOD = Method(
    name="pvs",
    title="Perivascular spaces",
    help="Count and measure perivascular spaces in one scan.",
    inputs=(Input("image", "T2w scan (NIfTI); T1w with --contrast t1.", is_option=False),),
    options=(
        Option(
            "contrast",
            "t2",
            "t2: perivascular spaces are bright; t1: dark.",
            choices=("t2", "t1"),
            is_found=True,
        ),
        Option(
            "flair",
            None,
            "FLAIR of the same head, on any grid: lesions are found on it.",
            kind=Path,
            is_found=True,
            may_fail=True,
        ),
        Option(
            "other",
            None,
            "The T1w beside a T2w, or the T2w beside a T1w, on any grid: objects that look like "
            "CSF on it too are counted.",
            kind=Path,
            is_found=True,
            may_fail=True,
        ),
        Option(
            "wmh_mask",
            None,
            "White-matter hyperintensities, on the grid of the scan.",
            kind=Path,
            is_found=True,
        ),
        Option(
            "brain_mask",
            None,
            "Brain, on the grid of the scan; for a whole head.",
            kind=Path,
            is_found=True,
        ),
        Option(
            "registration",
            "affine",
            "syn: follow wide ventricles and unusual shapes; 20 s more.",
            choices=("affine", "syn"),
        ),
        Option(
            "strip",
            "opening",
            "How to cut the brain out of a whole head; deepbet is a network (extra strip).",
            choices=("opening", "deepbet"),
        ),
        Option(
            "rules",
            {},
            "Other rules for an object than the default ones, by name, as {min_length_mm: 3} "
            "(see pvsbook.pvs.objects.Rules).",
        ),
    ),
    measure=measure,
    validate=validate,
    columns_at="pvsbook.pvs.pipeline.COLUMNS",
    show=show,
    prose=_prose.pvs,
    find=find,
    look=_looks.pvs,
    preference="without contrast agent, then name",
    limits=(
        "A bright thread is not always a perivascular space: white-matter hyperintensities and "
        "lacunes look alike to any filter.",
        "Counts depend on voxel size, contrast and noise; compare scans of one protocol only.",
        "A larger perivascular space does not tell why it is larger, nor how fluid moves in it.",
    ),
    key_columns={
        "n_pvs": "perivascular spaces",
        "volume_mm3": "volume of perivascular spaces (mm3)",
        "contrast_to_noise": "contrast to noise",
        "registration_correlation": "correlation with the template",
    },
    compared={"n_pvs": "count", "volume_mm3": "mean"},
    datatype="anat",
    suffix="pvs",
    core="pvsbook.pvs.pipeline.measure",
    kept_back={"rng": "a fixed seed, so that the same scan gives the same number"},
)
