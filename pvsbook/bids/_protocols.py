"""How each scan was acquired and read, so that unlike ones are not taken for alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, cast

import nibabel as nib
import numpy as np

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook._names import entities_of
from pvsbook.visit import NIFTI, BidsFile, Found, Sidecars

TOLERANCE = 0.05  # numbers that differ by less are alike: 2.89 and 3 T, not 0.94 and 1 mm
GAP = 100.0  # s/mm2: b-values further apart are two shells
UNKNOWN = "not stated"
# Name on the page, unit, and the factor of the unit, by the key of a sidecar.
NUMBERS = {
    "MagneticFieldStrength": ("field strength", "T", 1.0),
    "EchoTime": ("echo time", "ms", 1e3),
    "RepetitionTime": ("repetition time", "s", 1.0),
    "FlipAngle": ("flip angle", "degrees", 1.0),
}
SCANNER = ("Manufacturer", "ManufacturersModelName", "DeviceSerialNumber")

Protocol = dict[str, Any]  # texts, and numbers as a tuple with the unit last


def protocol_of(found: Found, sidecars: Sidecars) -> Protocol:
    """Describe a scan by headers, sidecars and b-values; what is not stated is None."""
    paths = [Path(p) for several in found.inputs.values() for p in several]
    scans = [p for p in paths if p.name.endswith(NIFTI)]
    meta = [_sidecar(path, sidecars) for path in scans]
    known: Protocol = {"voxels": None}
    try:
        image = cast("nib.Nifti1Image", nib.load(scans[0]))
        known["voxels"] = (*sorted(images.voxel_size_mm(image).tolist()), "mm")
        if image.ndim > 3 and image.shape[3] > 1:
            known["volumes"] = (float(image.shape[3]), "")
    except (OSError, IndexError, InputError, nib.filebasedimages.ImageFileError):
        pass
    for path in paths:
        if path.name.endswith(("bval", "bvals")):
            known["b-values"] = _shells(path)
    for key, (name, unit, factor) in NUMBERS.items():
        values = {factor * m[key] for m in meta if isinstance(m.get(key), int | float)}
        known[name] = (*sorted(values), unit) if values else None
    known["scanner"] = ", ".join(dict.fromkeys(
        text for m in meta
        if (text := " ".join(str(m[k]).strip() for k in SCANNER if m.get(k)))
    )) or None  # fmt: skip
    beside = [k for k, v in found.parameters.items() if isinstance(v, str) and v.endswith(NIFTI)]
    known["read with"] = ", ".join(beside) or "the scan alone"
    return known


def _sidecar(path: Path, sidecars: Sidecars) -> dict[str, Any]:
    """Read what applies to an image; beside it alone where another pipeline made it."""
    try:
        if any(path.is_relative_to(top) for top in sidecars.tops):
            return sidecars.read(BidsFile(path, path.parent.name, entities_of(path.name)))
        beside = Path(f"{images.stem(path)}.json")
        return images.read_json(beside) if beside.is_file() else {}
    except (OSError, InputError):
        return {}


def _shells(path: Path) -> tuple[Any, ...] | None:
    try:
        values = np.sort(np.loadtxt(path, ndmin=1).ravel())
    except (OSError, ValueError):
        return None
    shells = np.split(values, np.flatnonzero(np.diff(values) > GAP) + 1)
    return (*(50 * round(float(shell.mean()) / 50) for shell in shells if len(shell)), "s/mm2")


def name_protocols(
    protocols: Sequence[Mapping[str, Any] | None],
) -> tuple[list[str | None], dict[str, dict[str, str]]]:
    """Give scans that are alike one letter, A the most common.

    Returns
    -------
    list
        A letter for each scan; None where there is none.
    dict
        For each letter what its scans are, as texts by field.
    """
    fields = dict.fromkeys(name for p in protocols if p is not None for name in p)
    alike: dict[str, list[Any]] = {name: [] for name in fields}
    keys: list[tuple[int, ...] | None] = []
    for protocol in protocols:
        if protocol is None:
            keys.append(None)
            continue
        key = []
        for name, kinds in alike.items():
            value = protocol.get(name)
            same = [k for k, kind in enumerate(kinds) if _same(kind, value)]
            if not same:
                kinds.append(value)
            key.append(same[0] if same else len(kinds) - 1)
        keys.append(tuple(key))
    ordered = [key for key, _ in Counter(k for k in keys if k is not None).most_common()]
    letters = {key: _letter(n) for n, key in enumerate(ordered)}
    texts = {
        letters[key]: {n: _text(alike[n][k]) for n, k in zip(fields, key, strict=True)}
        for key in ordered
    }
    return [None if key is None else letters[key] for key in keys], texts


def _letter(n: int) -> str:
    return ascii_uppercase[n] if n < 26 else f"{_letter(n // 26 - 1)}{ascii_uppercase[n % 26]}"


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return one == other
    *a, unit = one
    *b, other_unit = other
    return unit == other_unit and len(a) == len(b) and np.allclose(a, b, rtol=TOLERANCE, atol=0)


def _text(value: Any) -> str:
    if not isinstance(value, tuple):
        return UNKNOWN if value is None else str(value)
    *numbers, unit = value
    joint = " x " if unit == "mm" else ", "
    return f"{joint.join(f'{v:.4g}' for v in numbers)} {unit}".strip()
