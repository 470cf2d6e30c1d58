"""Small files beside images: JSON sidecars in, whole files out."""

from __future__ import annotations

import contextlib
import json
import os
import reprlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pvsbook._constants import GAMMA_MHZ_T
from pvsbook._errors import CANNOT_CREATE, InputError

PathLike = str | os.PathLike[str]


def stem(path: PathLike) -> str:
    """Return the path of an image without ``.nii`` or ``.nii.gz``."""
    return os.fspath(path).removesuffix(".gz").removesuffix(".nii")


def sidecar(path: PathLike) -> dict:
    """Read the BIDS JSON sidecar beside an image; an empty dict where there is none.

    Raises
    ------
    InputError
        The sidecar is there, but is not a JSON object.

    Examples
    --------
    >>> sidecar("no_such_scan.nii.gz")
    {}
    """
    beside = Path(stem(path) + ".json")
    return read_json(beside) if beside.is_file() else {}


def read_json(path: PathLike) -> dict:
    """Read a JSON object.

    Raises
    ------
    InputError
        It cannot be read, is not JSON, or holds something else.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would keep its reader waiting
        raise InputError(f"{path}: is not a regular file; remove it")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=_without_doubles)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: is not JSON ({reason}); repair or remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, but an object is needed")
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; of a key that stands there twice JSON takes the last."""
    names = [name for name, _ in pairs]
    again = (
        [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    )
    if again:
        raise ValueError(f"{again[0]} stands there twice")
    return dict(pairs)


def number(content: Mapping[str, Any], key: str, *, source: object) -> tuple[float, ...]:
    """Read a number, or a list of them, from what a sidecar holds.

    Parameters
    ----------
    content
        As `sidecar` returns it.
    key
        Of the number; it is there.
    source
        What to name in an error: the image, or the sidecar.

    Raises
    ------
    InputError
        Text, a truth value, nothing, or a number that is not finite.

    Examples
    --------
    >>> number({"EchoTime": 0.006}, "EchoTime", source="scan.json")
    (0.006,)
    >>> number({"MagneticFieldStrength": "3T"}, "MagneticFieldStrength", source="scan.json")
    Traceback (most recent call last):
    pvsbook._errors.InputError: scan.json: MagneticFieldStrength is '3T', but a number is needed...
    """
    value = content[key]
    values: list[Any] = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if len(values) == 0:
        raise InputError(f"{source}: {key} is empty; give the number")
    for one in values:
        plain = isinstance(one, int | float | np.integer | np.floating)
        if not plain or isinstance(one, bool) or not abs(one) < 1e300:
            what = f"{key} is " if key else ""
            raise InputError(
                f"{source}: {what}{reprlib.repr(value)}, but a number is needed; write it without "
                "unit or quotes"
            )
    return tuple(float(one) for one in values)


def same_acquisition(
    magnitude: Mapping[str, Any], phase: Mapping[str, Any], *, name: object, other_name: object
) -> None:
    """Refuse magnitude and phase of one echo whose sidecars do not name the same acquisition.

    Raises
    ------
    InputError
        ``EchoTime`` or ``MagneticFieldStrength`` stand in both and differ by more than 1 %.

    Examples
    --------
    >>> same_acquisition({"EchoTime": 0.006}, {"EchoTime": 0.006}, name="a", other_name="b")
    """
    for key in ("EchoTime", "MagneticFieldStrength"):
        if key not in magnitude or key not in phase:
            continue
        one, other = number(magnitude, key, source=name), number(phase, key, source=other_name)
        if len(one) == len(other) and not np.allclose(one, other, rtol=0.01, atol=0):
            a, b = (", ".join(f"{v:g}" for v in values) for values in (one, other))
            raise InputError(
                f"{name}: {key} is {a}, but {b} for {other_name}; correct the wrong sidecar"
            )


FREQUENCY_TOLERANCE = 0.1  # scanners sold as 3 T have 2.89 T and more


def check_scanner(
    content: Mapping[str, Any], *, last_echo_s: float, field_strength_t: float, source: object
) -> None:
    """Refuse echo times and a field strength that other fields of a sidecar contradict.

    Raises
    ------
    InputError
        ``ImagingFrequency`` (MHz) is another field strength's by more than a tenth, or the last
        echo comes after ``RepetitionTime`` (s).

    Examples
    --------
    >>> scan = {"ImagingFrequency": 123.25, "RepetitionTime": 0.035}
    >>> check_scanner(scan, last_echo_s=0.025, field_strength_t=3, source="a")
    >>> check_scanner(scan, last_echo_s=0.025, field_strength_t=1.5, source="a")
    Traceback (most recent call last):
    pvsbook._errors.InputError: a: ImagingFrequency is 123.25 MHz, as at 2.89 T, but the field...
    """
    mhz = content.get("ImagingFrequency")
    if isinstance(mhz, int | float) and mhz > 0:
        tesla = mhz / GAMMA_MHZ_T
        if abs(tesla / field_strength_t - 1) > FREQUENCY_TOLERANCE:
            raise InputError(
                f"{source}: ImagingFrequency is {mhz:g} MHz, as at {tesla:.3g} T, but the field "
                f"strength is {field_strength_t:g} T; correct the wrong one"
            )
    repetition_s = content.get("RepetitionTimeExcitation", content.get("RepetitionTime"))
    if isinstance(repetition_s, int | float) and 0 < repetition_s <= last_echo_s:
        raise InputError(
            f"{source}: the last echo time is {last_echo_s:g} s, but RepetitionTime is "
            f"{repetition_s:g} s, and an echo comes before the next excitation; correct the "
            "wrong one"
        )


def write_bytes(content: bytes, path: PathLike) -> Path:
    """Write a file under a temporary name in the same folder, then rename it.

    Raises
    ------
    InputError
        The folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another folder or free space",
            code=CANNOT_CREATE,
        ) from error
    return path
