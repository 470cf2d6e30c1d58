"""What of a BIDS folder can be measured, told before an hour is spent, from names and headers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast

import nibabel as nib

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.bids.inputs import BidsFolder, Measurement
from pvsbook.methods import by_name
from pvsbook.visit import NIFTI

__all__ = ["survey"]

SERIES = ("_dwi", "_MEGRE", "_T2starw", "_GRE")  # may have a fourth dimension


def survey(folder: BidsFolder) -> tuple[list[str], bool]:
    """Say who has what each method needs, which protocols there are, and what cannot be used.

    Names, sidecars and headers are judged; what voxels say shows when they are measured.

    Parameters
    ----------
    folder
        From `pvsbook.bids.inputs.find`.

    Returns
    -------
    list of str
        Lines: for each method a count, the voxel sizes by how common they are, what is lacking
        and what was chosen, with the visits of which it is true.
    bool
        Whether everybody has what each method needs.
    """
    lines = [f"note: {note}" for note in folder.notes]
    is_whole = True
    for method in dict.fromkeys(m.method for m in folder.measurements):
        visits = [m for m in folder.measurements if m.method == method]
        without = {o.name for o in by_name(method).options if o.may_fail}
        faults = {m.name: [*m.lacks, *_unusable(m, but=without)] for m in visits}
        notes = {m.name: [*m.found.notes, *_unusable(m, only=without)] for m in visits}
        ready = sum(not found for found in faults.values())
        is_whole &= ready == len(visits)
        n = len({(m.participant, m.session) for m in visits})
        what = "visits" if n == len(visits) else f"series of {n} visits"
        lines.append(f"{method}: {ready} of {len(visits)} {what} can be measured")
        lines += _protocols(visits)
        said: dict[str, list[str]] = {}
        for visit in visits:
            for text in (*faults[visit.name], *(f"note: {note}" for note in notes[visit.name])):
                said.setdefault(text, []).append(visit.name)
        for text, names in said.items():
            who = "each of them" if len(names) == len(visits) > 1 else ", ".join(names)
            lines.append(f"  {who}: {text}")
    return lines, is_whole


def _unusable(
    measurement: Measurement, but: Collection[str] = (), only: Collection[str] | None = None
) -> list[str]:
    """Say which images cannot be used, by their headers alone."""
    faults = []
    for role, path, image in _images_of(measurement):
        if role in but or (only is not None and role not in only):
            continue
        try:
            if image is None:
                raise InputError(f"{path}: cannot be read as NIfTI")
            volumes = image.ndim if path.name.split(".")[0].endswith(SERIES) else 3
            ndim = min(volumes, max(3, sum(n > 1 for n in image.shape)))
            images.load(path, ndim=ndim, check_values=False)
        except InputError as error:
            faults.append(str(error).replace(str(path), path.name))
    return faults


def _protocols(visits: list[Measurement]) -> list[str]:
    """Count the voxel sizes of the first images, the most common first; name the single ones."""
    groups: dict[str, list[str]] = {}
    for visit in visits:
        *_, image = next(_images_of(visit), (None, None))
        if image is not None:
            size = " x ".join(f"{edge:.2g}" for edge in images.voxel_size_mm(image))
            volumes = f", {image.shape[3]} volumes" if image.ndim > 3 else ""
            groups.setdefault(f"{size} mm{volumes}", []).append(visit.name)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        f"  {len(names)} x {protocol}" + (f" ({names[0]})" if len(names) == 1 else "")
        for protocol, names in ordered
    ]


def _images_of(measurement: Measurement) -> Iterator[tuple[str, Path, nib.Nifti1Image | None]]:
    """Yield the images of a measurement with their headers; None where there is none to read."""
    parameters = measurement.found.parameters.items()
    beside = {n: [p] for n, p in parameters if isinstance(p, str)}  # FLAIR, masks
    for role, several in (*measurement.found.inputs.items(), *beside.items()):
        for path in map(Path, several):
            if path.name.endswith(NIFTI):
                try:
                    yield role, path, cast("nib.Nifti1Image", nib.load(path))
                except (OSError, nib.filebasedimages.ImageFileError):
                    yield role, path, None
