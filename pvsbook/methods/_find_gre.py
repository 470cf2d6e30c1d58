"""Which gradient echoes of a visit susceptibility can be measured from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook._names import natural
from pvsbook.visit import BidsFile, Found, Visit, one_echo

PARTS = {
    "mag": "mag", "": "mag", "phase": "phase", "pha": "phase", "real": "real", "imag": "imag",
}  # fmt: skip
COIL = ("coil", "ch")  # entities of files that hold one receive coil
GRADIENT_ECHO = ("MEGRE", "T2starw", "GRE")
IN_SIDECARS = {"EchoTime": "echo_times_s", "MagneticFieldStrength": "field_strength_t"}
EXAMPLES = {"echo_times_s": "[0.004, 0.008, 0.012]", "field_strength_t": "3"}


def find(visit: Visit) -> list[Found]:
    """Take each gradient echo, that of most echoes first, and a T1w image to place nuclei by."""
    files = visit.select("anat", *GRADIENT_ECHO)
    if not files:
        return [Found(lacks=(f"no {', '.join(GRADIENT_ECHO)} in anat/",))]

    def series(file: BidsFile) -> tuple:
        same = {k: v for k, v in file.entities.items() if k not in ("part", "echo", "suffix")}
        return (GRADIENT_ECHO.index(file.suffix), *sorted(same.items()))

    files.sort(key=series)
    tried = [_try_series(list(group), visit) for _, group in groupby(files, key=series)]
    # A setting may give what sidecars lack.
    usable = [found for found in tried if set(found.lacks) == set(found.settable)]
    left = tuple(dict.fromkeys(text for f in tried if f not in usable for text in f.lacks))
    if not usable:
        return [Found(lacks=left)]
    usable.sort(key=lambda f: (bool(f.lacks), -len(f.parameters["echo_times_s"])))
    usable[0] = replace(usable[0], notes=(*usable[0].notes, *left))
    return [_placed(found, visit) for found in usable]


def _try_series(files: Sequence[BidsFile], visit: Visit) -> Found:
    """Read one gradient echo, or say what is wrong with it: another one may be sound."""
    try:
        return _read_series(files, visit)
    except InputError as error:
        return Found(lacks=(str(error),))


def _placed(found: Found, visit: Visit) -> Found:
    """Add the T1w image of a visit that is most like a gradient echo."""
    files = [f for f in visit.files if str(f.path) in found.inputs["magnitude"]]
    t1w = one_echo(visit.select("anat", "T1w"))
    if not t1w:
        return found
    chosen, notes = visit.beside(files[0], t1w)
    place_by = {} if chosen is None else {"t1w": str(chosen.path)}
    said = notes if len(t1w) > 1 or chosen is None else []
    parameters = {**found.parameters, **place_by}
    return replace(found, parameters=parameters, notes=(*found.notes, *said))


def _read_series(files: Sequence[BidsFile], visit: Visit) -> Found:
    """Sort one gradient echo into magnitude and phase, and read what its sidecars say."""
    example = files[0].name
    if any(file.get(entity) for file in files for entity in COIL):
        text = (
            f"{example}: one file a coil; combine the coils, or join them in one file with axes "
            "x, y, z, echo, coil for each of magnitude and phase"
        )
        return Found(lacks=(text,))
    parts: dict[str, list[BidsFile]] = {part: [] for part in PARTS.values()}
    for file in files:
        part = PARTS.get(file.get("part"))
        if part:
            parts[part].append(file)
    are_parts = bool(parts["real"] and parts["imag"] and not parts["phase"])
    pair = ("real", "imag") if are_parts else ("mag", "phase")
    if not parts[pair[0]] or not parts[pair[1]]:
        missing = "phase (part-phase)" if parts["mag"] else "magnitude (part-mag)"
        if parts["real"] or parts["imag"]:
            missing = "part-real and part-imag, nor part-mag and part-phase,"
        return Found(lacks=(f"{example}: no {missing} beside it",))
    parts = {"mag": parts[pair[0]], "phase": parts[pair[1]]}
    for members in parts.values():
        members.sort(key=lambda f: (natural(f.get("echo")), f.name))
    echoes = {part: [f.get("echo") for f in members] for part, members in parts.items()}
    if echoes["mag"] != echoes["phase"]:
        one, other = (",".join(labels) or "none" for labels in echoes.values())
        text = f"{example}: echoes {one} of {pair[0]}, but {other} of {pair[1]}"
        return Found(lacks=(text,))
    times: list[float | None] = []
    strengths: set[float] = set()
    settable: dict[str, tuple[str, ...]] = {}
    for magnitude, file in zip(parts["mag"], parts["phase"], strict=True):
        meta = visit.sidecars.read(file)
        images.same_acquisition(
            visit.sidecars.read(magnitude), meta, name=magnitude.name, other_name=file.name
        )
        absent = [key for key in IN_SIDECARS if key not in meta]
        if absent:
            options = tuple(IN_SIDECARS[key] for key in absent)
            advice = ", ".join(f"{o}: {EXAMPLES[o]}" for o in options)
            settable[
                f"{file.name}: no {' and no '.join(absent)} in its sidecars; write it there, or "
                f"give it for all scans with --settings, as qsm: {{{advice}}}"
            ] = options
        times += (
            images.number(meta, "EchoTime", source=file.name) if "EchoTime" in meta else [None]
        )
        if "MagneticFieldStrength" in meta:
            strengths |= set(images.number(meta, "MagneticFieldStrength", source=file.name))
    if len(strengths) > 1:
        return Found(lacks=(f"{example}: echoes with different MagneticFieldStrength",))
    known = [time for time in times if time is not None]
    for file in parts["phase"] if known and strengths else []:
        images.check_scanner(
            visit.sidecars.read(file), last_echo_s=max(known), field_strength_t=max(strengths),
            source=file.name,
        )  # fmt: skip
    odd = [f.name for f in parts["phase"] if f.get("part") == "pha"]
    notes = [f"{odd[0]}: part-pha, which BIDS calls part-phase, read as phase"] if odd else []
    masks, said = visit.masks(parts["mag"][0], brain="brain_mask", lesion="lesions")
    return Found(
        {
            "magnitude": [str(f.path) for f in parts["mag"]],
            "phase": [str(f.path) for f in parts["phase"]],
        },
        {
            "echo_times_s": times,
            "field_strength_t": strengths.pop() if strengths else None,
            "real_imaginary": are_parts,
            **masks,
        },
        lacks=tuple(settable),
        notes=(*notes, *said),
        settable=settable,
    )
