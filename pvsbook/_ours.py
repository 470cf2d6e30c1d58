"""What in a folder of results is ours to replace, and what is the user's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook._records import STATE, sha256, write_json


def is_ours(content: Any) -> bool:
    """Tell whether a JSON file says that this package made it."""
    makers = content.get("GeneratedBy") if isinstance(content, dict) else None
    makers = makers if isinstance(makers, list) else []
    return any(isinstance(maker, dict) and maker.get("Name") == "pvsbook" for maker in makers)


def refuse_foreign(
    folder: Path,
    outputs: Mapping[str, str],
    *,
    recorded: Iterable[str] = (),
    draft: Path | None = None,
) -> dict[str, str]:
    """Refuse to write over files that this package did not write, or that were edited since.

    Parameters
    ----------
    folder
        Top of the results.
    outputs
        SHA-256 of what is to be written, by path in the folder.
    recorded
        Paths that the record of an earlier run names.
    draft
        Where the new files lie, to compare from which files each was made.

    Returns
    -------
    dict
        SHA-256 of what is there, of ours and not edited, though `recorded` does not name it.

    Raises
    ------
    InputError
        Names the first such file.
    """
    earlier, accepted = set(recorded), dict[str, str]()
    claims: dict[Path, dict[str, list[str]]] = {}
    for name, digest in outputs.items():
        path = folder / name
        if name in earlier or not os.path.lexists(path):
            continue
        if path.parent not in claims:
            claims[path.parent] = _claims(path.parent)
        known = [digest, *claims[path.parent].get(path.name, ())]
        accepted[name] = sha256(path) if path.is_file() else ""
        if accepted[name] in known:
            continue
        content = images.read_json(path) if "sources_" in path.name else {}
        if not is_ours(content):
            raise foreign(path)
        if draft is not None and not same_sources(content, images.read_json(draft / name)):
            raise InputError(f"{path}: is of another scan; give another folder for the results")
    return accepted


def keep_edited(path: Path, known: Iterable[Any]) -> None:
    """Set aside a result that is not as it was written, edited or damaged, as name.changed."""
    if path.is_file() and sha256(path) not in known:
        kept, n = path.with_name(f"{path.name}.changed"), 1
        while os.path.lexists(kept):  # what was set aside before stays
            kept, n = path.with_name(f"{path.name}.{n}.changed"), n + 1
        path.replace(kept)


def same_sources(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two results were made from files with the same contents."""
    hashes = (content.get("SourceSHA256") for content in (one, other))
    lists = [sorted(map(str, h)) if isinstance(h, list) else None for h in hashes]
    return lists[0] is not None and lists[0] == lists[1]


def foreign(path: Path) -> InputError:
    """Make the error for a file that stands in the way."""
    return InputError(
        f"{path}: is there, and is not as pvsbook wrote it; move or rename it, or give another "
        "folder for the results"
    )


def _claims(folder: Path) -> dict[str, list[str]]:
    """Return the SHA-256 of results in a folder, by name, from the files that name sources."""
    claims: dict[str, list[str]] = {}
    for path in folder.glob("*sources_*.json"):
        try:
            content = images.read_json(path)
        except InputError:
            continue
        outputs = content.get("Outputs") if is_ours(content) else None
        for name, hashes in outputs.items() if isinstance(outputs, dict) else ():
            claims.setdefault(name, []).extend(hashes if isinstance(hashes, list) else [])
    return claims


def write_page(content: str, path: Path, top: Path | None = None) -> Path:
    """Write a page or table of the results, unless it would replace a user's file.

    Parameters
    ----------
    content
        Its text.
    path
        Where it goes.
    top
        Folder of the results, where that is not the one of `path`.

    Raises
    ------
    InputError
        A file of this name is there that this package did not write, or that was edited since.
    """
    data, state = content.encode(), _hashes_of(path, top)
    earlier, digest = check_page(path, top), hashlib.sha256(data).hexdigest()
    if earlier != [digest]:
        # Said before it is written: a kill between the two does no harm.
        write_json({"SHA256": [*earlier, digest]}, state)
        images.write_bytes(data, path)
    write_json({"SHA256": [digest]}, state)
    return path


def check_page(path: Path, top: Path | None = None) -> list[str]:
    """Return the hash of a page of ours, nothing where none is; refuse another file there."""
    if not os.path.lexists(path):
        return []
    try:
        known = images.read_json(_hashes_of(path, top)).get("SHA256")
    except InputError:
        known = None
    digest = sha256(path) if path.is_file() else ""
    if not isinstance(known, list) or digest not in known:
        raise foreign(path)
    return [digest]


def _hashes_of(path: Path, top: Path | None) -> Path:
    top = path.parent if top is None else top
    return top / STATE / "pages" / f"{'+'.join(path.relative_to(top).parts)}.json"
