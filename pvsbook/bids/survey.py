"""What of a BIDS folder can be measured, and what of it will warn, before an hour is spent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import nibabel as nib

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.bids.inputs import BidsFolder, Measurement
from pvsbook.images._volumes import open_image
from pvsbook.methods import by_name
from pvsbook.methods._looks import beside
from pvsbook.visit import NIFTI, Found

__all__ = ["survey"]


def survey(folder: BidsFolder) -> tuple[list[str], bool]:
    """Say who has what each method needs, which protocols there are, and what cannot be used.

    Names, sidecars, headers and gradient tables are judged, and of gradient echoes and anatomical
    scans the voxels as they are loaded.  What a fit or a registration says shows when they are
    measured.

    Parameters
    ----------
    folder
        From `pvsbook.bids.inputs.find`.

    Returns
    -------
    list of str
        Lines: for each method a count, the voxel sizes by how common they are, what is lacking,
        what the result will warn of and what was chosen, with the visits of which it is true.
    bool
        Whether everybody has what each method needs.
    """
    lines = [f"note: {note}" for note in folder.notes]
    is_whole = True
    for method in dict.fromkeys(m.method for m in folder.measurements):
        visits = [m for m in folder.measurements if m.method == method]
        judged = {m.name: judge(m) for m in visits}
        faults = {m.name: [*m.lacks, *judged[m.name][0]] for m in visits}
        warned = sum(not faults[name] and bool(found[1]) for name, found in judged.items())
        ready = sum(not found for found in faults.values())
        is_whole &= ready == len(visits)
        n = len({(m.participant, m.session) for m in visits})
        what = "visits" if n == len(visits) else f"series of {n} visits"
        words = f"; {warned} of them will warn" if warned else ""
        lines.append(f"{method}: {ready} of {len(visits)} {what} can be measured{words}")
        lines += _protocols(visits)
        said: dict[str, list[str]] = {}
        for visit in visits:
            warnings = [f"will warn: {text}" for text in judged[visit.name][1]]
            notes = [f"note: {note}" for note in visit.found.notes]
            for text in (*faults[visit.name], *warnings, *notes):
                said.setdefault(text, []).append(visit.name)
        for text, names in said.items():
            who = "each of them" if len(names) == len(visits) > 1 else ", ".join(names)
            lines.append(f"  {who}: {text}")
    return lines, is_whole


def judge(measurement: Measurement) -> tuple[list[str], list[str]]:
    """Say why a visit will be refused, and of what its result will warn."""
    method, found = by_name(measurement.method), measurement.found
    done_without = {"t1w", *(option.name for option in method.options if option.may_fail)}
    faults: list[str] = []
    warnings: list[str] = []
    if not found.inputs:
        return [], []
    for name, path in beside(found):
        try:
            images.load(path, check_values=False)
        except InputError as error:  # without a T1w image nuclei are placed by the scan itself
            (warnings if name in done_without else faults).append(_named(error, path))
    paths = [Path(path) for several in found.inputs.values() for path in several]
    damaged = [text for text in map(_damage, paths) if text]
    if not damaged:
        try:
            warnings += method.look(found) if method.look else []
        except InputError as error:
            damaged.append(_named(error, *paths, *(path for _, path in beside(found))))
    return [*dict.fromkeys([*faults, *damaged])], [*dict.fromkeys(warnings)]


def _named(error: InputError, *paths: Path) -> str:
    """Say an error with the names of files and not their folders."""
    text = str(error)
    for path in paths:
        text = text.replace(str(path), path.name)
    return text


def _damage(path: Path) -> str:
    """Say why a file cannot be read to its end; nothing where it can."""
    if not path.name.endswith(NIFTI):
        return ""
    try:
        _, image = open_image(path, path.name)
    except InputError as error:
        return _named(error, path)
    return "" if all(image.shape) else f"{path.name}: is empty; export the series again"


def _protocols(visits: list[Measurement]) -> list[str]:
    """Count the voxel sizes of the first images, the most common first; name the single ones."""
    groups: dict[str, list[str]] = {}
    for visit in visits:
        image = next(_headers(visit.found), None)
        if image is not None:
            size = " x ".join(f"{edge:.2g}" for edge in images.voxel_size_mm(image))
            volumes = f", {image.shape[3]} volumes" if image.ndim > 3 else ""
            groups.setdefault(f"{size} mm{volumes}", []).append(visit.name)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        f"  {len(names)} x {protocol}" + (f" ({names[0]})" if len(names) == 1 else "")
        for protocol, names in ordered
    ]


def _headers(found: Found) -> Iterator[nib.Nifti1Image]:
    """Yield the images of a visit that can be opened."""
    for path in (path for several in found.inputs.values() for path in several):
        if path.endswith(NIFTI):
            try:
                yield cast("nib.Nifti1Image", nib.load(path))
            except (OSError, nib.filebasedimages.ImageFileError):
                continue
