"""Add a participant of an OpenNeuro data set to the manifest, from a clone and its keys.

OpenNeuro keeps a data set as a git repository in which large files are git-annex links: the name
of the link's target (the key) holds size and checksum, so neither needs the bytes.

.. code-block:: console

   $ git clone https://github.com/OpenNeuroDatasets/ds000221 && cd ds000221
   $ git annex whereis --json sub-010005 > keys.jsonl
   $ python tools/openneuro.py ds000221 --clone . --keys keys.jsonl --subject sub-010005
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from pvsbook import bids, images, manifest, methods
from pvsbook._errors import InputError
from pvsbook._names import natural
from pvsbook.visit import NIFTI

__all__ = ["add", "find_scans", "main", "read_keys", "write_entry"]

KEY = re.compile(r"(MD5E?|SHA256E?)-s(\d+)--([0-9a-f]+)")
RAW = "https://raw.githubusercontent.com/OpenNeuroDatasets"


def read_keys(lines: Iterable[str]) -> list[manifest.File]:
    """Read what ``git annex whereis --json`` prints.

    Parameters
    ----------
    lines
        One JSON object a line, with ``file``, ``key`` and ``whereis``.

    Returns
    -------
    list of File
        Size and checksum from the key, address with the version of the bytes.

    Raises
    ------
    InputError
        A line that is no such object, a key without a checksum, a file without an address that
        names its version.

    Examples
    --------
    >>> url = "https://s3.amazonaws.com/openneuro.org/ds1/sub-1/a.nii.gz?versionId=x"
    >>> key = "MD5E-s12--" + "0" * 32 + ".nii.gz"
    >>> line = {"file": "sub-1/a.nii.gz", "key": key, "whereis": [{"urls": [url]}]}
    >>> read_keys([json.dumps(line)])[0].size
    12
    """
    files = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"keys, line {number}"
        try:
            entry = json.loads(line)
            path, key, places = entry["file"], entry["key"], entry["whereis"]
            urls = [url for place in places for url in place.get("urls", ())]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{where}: not a line of `git annex whereis --json`: {line.strip()[:60]!r}"
            ) from None
        match = KEY.match(key)
        if not match:
            raise InputError(f"{where}: the key {key!r} holds no size and md5 or sha256")
        versioned = [u.replace("http://", "https://", 1) for u in urls if "versionId=" in u]
        if not versioned:
            raise InputError(
                f"{where}: {path} has no address with a versionId; "
                "run `git annex enableremote s3-PUBLIC` and list again"
            )
        kind = "md5" if match[1].startswith("MD5") else "sha256"
        content = {"path": path, "size": int(match[2]), kind: match[3], "url": versioned[0]}
        try:
            files.append(manifest.File.model_validate(content))
        except pydantic.ValidationError as error:
            raise InputError(f"{where}: {error.errors()[0]['msg']}: {path}") from None
    return files


def find_scans(clone: images.PathLike, subject: str) -> list[manifest.Scan]:
    """List the scans of one participant in a clone, as the BIDS finder of each method takes them.

    Parameters
    ----------
    clone
        A clone of the data set; names and sidecars are enough.
    subject
        ``sub-010005`` or ``010005``.

    Returns
    -------
    list of Scan
        One for each visit and method that has its files, with what names and sidecars say as
        options.

    Raises
    ------
    InputError
        No BIDS folder, or nobody of that name in it.
    """
    root = Path(clone)
    several = {m.name: {i.name for i in m.inputs if i.is_several} for m in methods.ALL}
    scans = []
    for one in bids.find(root, participants=[subject]).measurements:
        if one.lacks or one.rank:  # an entry has one scan for each visit and method
            continue
        paths = {
            role: [str(Path(path).relative_to(root)) for path in files]
            for role, files in one.found.inputs.items()
        }
        content = {
            "method": one.method,
            "subject": one.participant.removeprefix("sub-"),
            "session": one.session.removeprefix("ses-") or None,
            "files": {r: p if r in several[one.method] else p[0] for r, p in paths.items()},
            # A file beside the scan would stand there with the path of this clone.
            "options": {
                name: value
                for name, value in one.found.parameters.items()
                if not str(value).endswith(NIFTI)
            },
        }
        scans.append(manifest.Scan.model_validate(content))
    return scans


def add(dataset: str, clone: images.PathLike, keys: Iterable[str], *, subject: str) -> Path:
    """Add one participant's files and scans to the entry of an OpenNeuro data set.

    Parameters
    ----------
    dataset
        A data set that the manifest has already.
    clone
        A clone of its repository, for the small files that git itself keeps.
    keys
        Lines of ``git annex whereis --json``.
    subject
        ``sub-010005`` or ``010005``.

    Returns
    -------
    pathlib.Path
        The entry, written anew.

    Raises
    ------
    InputError
        No clone, nobody of that name in it, or a listing that cannot be read.
    """
    entry = manifest.describe(dataset)
    person = subject.removeprefix("sub-")
    root = Path(clone)
    commit = _git(root, "rev-parse", "HEAD").strip()
    names = _git(root, "ls-files", "-z", f"sub-{person}").split("\0")[:-1]
    if not names:
        raise InputError(f"{root}: nothing of sub-{person} is in this clone; is it {dataset}?")
    listed = {file.path: file for file in read_keys(keys)}
    scans = find_scans(root, person)
    files = {file.path: file for file in entry.files}
    # b-values and b-vectors may lie above the participant's folder
    for name in {*names, *(path for scan in scans for path in scan.paths if path not in files)}:
        if name in listed:
            files[name] = listed[name]
            continue
        if (root / name).is_symlink():
            raise InputError(f"keys: {name} is annexed but not listed; list all of sub-{person}")
        content = (root / name).read_bytes()
        tracked = {
            "path": name,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "url": f"{RAW}/{dataset}/{commit}/{name}",
        }
        files[name] = manifest.File.model_validate(tracked)
    scans += [scan for scan in entry.scans if scan.subject != person]
    changed = entry.model_copy(
        update={
            "files": tuple(sorted(files.values(), key=lambda f: natural(f.path))),
            "scans": tuple(sorted(scans, key=lambda s: (s.method, natural(s.label)))),
        }
    )
    return write_entry(changed)


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"{root}: git cannot read it ({getattr(error, 'stderr', '') or error}); "
            "give --clone a clone of the data set's repository"
        ) from None
    return done.stdout


class _Dumper(yaml.SafeDumper):
    """Indent lists, and fold long text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)


def _fold(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = ">" if len(text) > 80 and " " in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _fold)


def write_entry(entry: manifest.Dataset) -> Path:
    """Write an entry of the manifest as YAML, checked again before it gets its name.

    Parameters
    ----------
    entry
        The data set.

    Returns
    -------
    pathlib.Path
    """
    head = entry.model_dump(mode="json", exclude={"files", "scans"}, exclude_none=True)
    files = [_file(f) for f in entry.files]
    scans = [s.model_dump(mode="json", exclude_defaults=True) for s in entry.scans]
    text = "\n".join(
        yaml.dump(part, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
        for part, width in ((head, 96), ({"files": files}, 10**6), ({"scans": scans}, 96))
        if any(part.values())
    )
    manifest.Dataset.model_validate(yaml.safe_load(text))
    path = manifest.folder() / f"{entry.name}.yml"
    return images.write_bytes(text.encode(), path)


def _file(file: manifest.File) -> Mapping[str, Any]:
    """Keep ``url: null``, which says that there is none, and drop what is not known."""
    return {k: v for k, v in file.model_dump(mode="json").items() if v is not None or k == "url"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Add the participant that the command line names, and print the path of the entry."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("dataset", help="a data set of the manifest, such as ds000221")
    parser.add_argument("--clone", required=True, type=Path, help="a clone of its repository")
    parser.add_argument(
        "--keys", required=True, type=Path, help="what `git annex whereis --json` printed there"
    )
    parser.add_argument("--subject", required=True, help="the participant, such as sub-010005")
    chosen = parser.parse_args(arguments)
    try:
        lines = chosen.keys.read_text(encoding="utf-8").splitlines()
        print(add(chosen.dataset, chosen.clone, lines, subject=chosen.subject))
    except (InputError, OSError, UnicodeDecodeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
