"""Which images a BIDS folder holds, and which of them are left out."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pathspec

from pvsbook._errors import INVALID_BIDS, NOTHING_SELECTED, USAGE, InputError
from pvsbook._names import fault_of, natural
from pvsbook.visit import NIFTI, BidsFile


def sort_out(
    top: Path, files: Iterable[BidsFile], ignored: Ignored
) -> tuple[list[BidsFile], dict[str, list[str]], list[str]]:
    """Keep images with sound names that agree with their folder; say what else there is."""
    kept: list[BidsFile] = []
    misplaced: dict[str, list[str]] = {}
    left_out: set[str] = set()
    for file in files:
        inside = file.path.relative_to(top)
        label = inside.parts[0]
        if ignored(inside):
            left_out.add(label if ignored(Path(label)) else str(inside))
            continue
        if fault := fault_of(file.name):
            misplaced.setdefault(label, []).append(f"{file.name}: {fault}; rename the file")
            continue
        place = (*(part for part in file.visit if part), file.datatype)
        if inside.parts[:-1] == place:
            kept.append(file)
        elif inside.parts[:-1][: len(place)] != place:  # else: deeper than BIDS has it
            misplaced.setdefault(label, []).append(
                f"{file.name} lies in {inside.parent.as_posix()}/: folder and name disagree, "
                "so it is nobody's; rename one of them"
            )
    notes = [f"left out by .bidsignore: {', '.join(sorted(left_out, key=natural))}"]
    return kept, misplaced, notes if left_out else []


class Ignored:
    """Tells what ``.bidsignore`` leaves out; its patterns are those of ``.gitignore``."""

    def __init__(self, top: Path) -> None:
        path = top / ".bidsignore"
        try:
            if path.exists() and not path.is_file():
                raise OSError("not a regular file")
            lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}), so nobody can tell who is to be left out; "
                "repair it"
            ) from error
        self.spec = pathspec.GitIgnoreSpec.from_lines(lines)

    def __call__(self, path: Path) -> bool:
        """Ask for a file, or for a folder as a whole."""
        name = path.as_posix()
        return self.spec.match_file(name) or self.spec.match_file(f"{name}/")


def full_label(text: str, entity: str) -> str:
    """Return ``sub-01`` for ``sub-01`` and ``01``."""
    label = text.removeprefix(f"{entity}-")
    if not re.fullmatch(r"[0-9A-Za-z+]+", label):
        raise InputError(
            f"{text!r}: a BIDS label has letters and digits only, as {entity}-01",
            code=USAGE,
        )
    return f"{entity}-{label}"


def list_images(top: Path, labels: Sequence[str]) -> list[BidsFile]:
    """List the images of a data set with their entities."""
    import bids2table

    existing = {p.name for p in top.glob("sub-*") if p.is_dir()}
    if not existing:
        raise InputError(
            f"{top}: has no sub-* folder; give the top of a BIDS folder, not a folder within",
            code=INVALID_BIDS,
        )
    missing = [label for label in labels if label not in existing]
    if missing:
        raise InputError(
            f"--participant-label: {', '.join(missing)} not in {top} "
            f"({len(existing)} participants there)",
            code=NOTHING_SELECTED,
        )
    log = logging.getLogger("bids2table")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # bids2table reads no folder with a dot in its name, and takes brackets for a pattern.
        with tempfile.TemporaryDirectory(prefix="pvsbook") as folder:
            link = Path(folder, "dataset")
            link.symlink_to(top.resolve(), target_is_directory=True)
            table = bids2table.index_dataset(link, list(labels) or None)
    finally:
        log.setLevel(level)
    files = []
    for path in table.column("path").to_pylist():
        if path.endswith(NIFTI):
            known = bids2table.parse_bids_entities(path)
            datatype = known.pop("datatype", "")
            entities = {"suffix": "", **{k: v for k, v in known.items() if k != "ext"}}
            files.append(BidsFile(top / path, datatype, entities))
    return files


def unused(top: Path) -> list[str]:
    """Say what of another pipeline is there and has no use here."""
    kinds = ("dseg", "probseg", "xfm")
    found = {kind: next(top.glob(f"sub-*/**/*_{kind}.*"), None) for kind in kinds}
    there = [f"{kind} ({path.name})" for kind, path in found.items() if path is not None]
    why = "tissue is told and regions are placed by the scan itself"
    return [f"{top.name}: {', '.join(there)} not used; {why}"] if there else []
