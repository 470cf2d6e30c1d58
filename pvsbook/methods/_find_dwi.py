"""Which diffusion series of a visit the ALPS index can be measured from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvsbook import images
from pvsbook._names import entities_of
from pvsbook.images import B0_BELOW_S_MM2
from pvsbook.images._diffusion import MIN_DIRECTIONS
from pvsbook.visit import BidsFile, Found, Visit, one_echo

DIRECTION = "PhaseEncodingDirection"
ROTATED = ".eddy_rotated_bvecs"  # beside an image that FSL's eddy wrote
CORRECTED = ("preproc", "eddy")  # desc of QSIPrep and others, and of snakedwi
OF_THE_HEAD = ("", "ACPC", "T1w", "T2w", "dwi", "individual", "orig", "scanner")
STEPS = {"denoise": None, "gibbs": False, "motion": False}  # ours, before the tensor


@dataclass(frozen=True)
class Series:
    """A diffusion series with its gradients.

    Attributes
    ----------
    file
        The image.
    gradients
        Paths by ``bval`` and ``bvec``.
    weighted
        Weighted volumes; None where the b-values cannot be read.
    corrected_by
        Pipeline that corrected it and turned its b-vectors; empty where none did.
    """

    file: BidsFile
    gradients: Mapping[str, Path]
    weighted: int | None
    corrected_by: str


def find(visit: Visit) -> list[Found]:
    """Take each diffusion series that can be measured alone, with its gradients.

    One that FSL's eddy, QSIPrep or the like corrected comes in place of those that it was made
    of, with the b-vectors that were turned with the head and the brain mask made of it.  A series
    of fewer directions than a tensor needs, such as the reverse of the phase encoding at b=0, is
    a part of another one.
    """
    raw = one_echo(visit.select("dwi", "dwi"))
    made, notes = _made(visit, raw)
    if not raw and not made:
        return [Found(lacks=("no *_dwi.nii.gz in dwi/", *notes))]
    whole, lacks = [], []
    for file in raw:
        series = _read(file, visit)
        if isinstance(series, str):
            lacks.append(series)
        else:
            whole.append(series)
    made_of = [s for s in whole if s.corrected_by and s.file.get("desc")] + made
    replaced = {
        s.file.path
        for s in whole
        if not s.corrected_by and any(m.file.is_of(s.file) for m in made_of)
    }
    whole = [s for s in (*made, *whole) if s.file.path not in replaced]
    if not whole:
        return [Found(lacks=tuple(lacks))]
    able = [s for s in whole if s.weighted is None or s.weighted >= MIN_DIRECTIONS] or whole
    parts = [s.file for s in whole if s not in able]
    able.sort(key=lambda s: (not s.corrected_by, -(s.weighted or 0)))
    found = [_found(series, visit, parts, [s.file for s in able]) for series in able]
    instead = ", ".join(sorted(path.name for path in replaced))
    notes += lacks
    if instead:
        notes.append(f"{instead} not measured: a corrected series has the same entities")
    first = found[0]
    return [
        Found(first.inputs, first.parameters, (), (*first.notes, *notes), fixed=first.fixed),
        *found[1:],
    ]


def _made(visit: Visit, raw: Sequence[BidsFile]) -> tuple[list[Series], list[str]]:
    """Find what another pipeline made of these series, and say what cannot be used."""
    made: dict[tuple, Series] = {}
    notes = []
    here = {file.visit for file in visit.files}
    files = [f for f in visit.derived if f.suffix == "dwi" and f.get("desc") in CORRECTED]
    for file in sorted(files, key=lambda f: CORRECTED.index(f.get("desc"))):
        series = _read(file, visit)
        key = tuple(sorted(file.series.items()))
        if file.visit not in here or (raw and not any(map(file.is_of, raw))):
            notes.append(f"{file.name} not used: no series of this visit has its entities")
        elif file.get("space") not in OF_THE_HEAD:
            notes.append(f"{file.name} not used: space-{file.get('space')} is not of this head")
        elif isinstance(series, str):
            notes.append(f"{series}, so not used")
        elif not series.corrected_by:
            notes.append(f"{file.name} not used: it has no .bvec of its own")
        elif key in made:
            notes.append(f"{file.name} not used, as {made[key].file.name} is")
        else:
            made[key] = series
    return list(made.values()), notes


def _read(file: BidsFile, visit: Visit) -> Series | str:
    """Find the gradients of a series; say which are missing."""
    paths = {end: next(visit.sidecars.files(file, f".{end}"), None) for end in ("bval", "bvec")}
    rotated = Path(images.stem(file.path) + ROTATED)
    if rotated.is_file():
        paths["bvec"] = rotated
    gradients = {end: path for end, path in paths.items() if path is not None}
    missing = [end for end in paths if end not in gradients]
    if missing:
        return f"{file.name}: no .{' and no .'.join(missing)}"
    maker, desc = "", entities_of(gradients["bvec"].name).get("desc")
    if gradients["bvec"] == rotated:
        maker = "eddy of FSL (version not recorded)"
    elif file.get("desc") == desc and desc in CORRECTED:
        maker = visit.sidecars.maker(file)
    return Series(file, gradients, _count_weighted(gradients["bval"]), maker)


def _found(
    series: Series, visit: Visit, parts: Sequence[BidsFile], others: Sequence[BidsFile]
) -> Found:
    """Give the files of a series, and say what was chosen and what belongs to it."""
    file, bvec = series.file, series.gradients["bvec"]
    notes, parameters = [], {}
    if series.corrected_by:
        parameters["corrected_by"] = series.corrected_by
        notes.append(
            f"corrected for motion before by {series.corrected_by}: b-vectors of {bvec.name}; "
            "not denoised or corrected again, since resampled noise no longer is as acquired"
        )
        if space := file.get("space"):
            text = f"in space-{space}, so the classic index is along its axes, not the scanner's"
            notes.append(text)
    elif file.get("desc") in CORRECTED:
        notes.append(f"{bvec.name} may be not turned with the head: {file.name} has no .bvec")
    else:
        notes += _reversed_notes(file, visit, parts, others)
    notes += [f"{part.name}: too few directions, so a part of this one" for part in parts]
    masks, said = visit.masks(file, brain="brain_mask")
    inputs = {"dwi": [str(file.path)], **{e: [str(p)] for e, p in series.gradients.items()}}
    fixed = STEPS if series.corrected_by else {}
    return Found(inputs, {**parameters, **masks}, (), (*notes, *said), fixed=fixed)


def opposite(direction: str) -> str:
    """Return the opposite of a BIDS direction: j- of j."""
    return direction.removesuffix("-") if direction.endswith("-") else f"{direction}-"


def _reversed_notes(
    file: BidsFile, visit: Visit, parts: Sequence[BidsFile], others: Sequence[BidsFile]
) -> list[str]:
    """Name images of the opposite phase encoding that are meant for a series."""
    direction = visit.sidecars.read(file).get(DIRECTION)
    if not direction:
        return []

    def is_reverse(other: BidsFile) -> bool:
        return visit.sidecars.read(other).get(DIRECTION) == opposite(str(direction))

    def is_meant(other: BidsFile) -> bool:
        meant = visit.sidecars.read(other).get("IntendedFor", file.name)
        names = [meant] if isinstance(meant, str) else meant
        return any(str(name).endswith(file.name) for name in names)

    notes = []
    meant = [f for f in visit.select("fmap", "epi") if is_meant(f)]
    if names := ", ".join(other.name for other in (*meant, *parts) if is_reverse(other)):
        notes.append(
            f"{names}: opposite phase encoding, not used; to correct the distortion, measure this "
            "scan alone with pvsbook alps --reverse"
        )
    if names := ", ".join(other.name for other in others if is_reverse(other)):
        notes.append(f"{names}: opposite phase encoding; each is measured as it was acquired")
    return notes


def _count_weighted(bval: Path) -> int | None:
    """Count weighted volumes; None where the file cannot be read, which fails when loaded."""
    try:
        values = [float(b) for b in bval.read_text("utf-8-sig").replace(",", " ").split()]
    except (OSError, ValueError):
        return None
    return sum(b >= B0_BELOW_S_MM2 for b in values)
