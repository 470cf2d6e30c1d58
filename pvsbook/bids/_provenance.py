"""Which data sets the inputs are from, and how each result was made.

The files under ``prov/`` have the form of BIDS-Prov (BEP028) as proposed for the specification in
June 2026 (bids-specification, pull request 2099, commit f1f0e53): for each participant the
activities (``_act``), their inputs (``_io``), software (``_soft``) and environments (``_env``).
A sidecar names the activity that made its file under ``GeneratedBy``.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pvsbook import derivatives, images, jobs
from pvsbook import methods as registry
from pvsbook._errors import InputError
from pvsbook._version import required
from pvsbook.method import Method

PARTS = {"act": "Activities", "io": "Files", "soft": "Software", "env": "Environments"}
Uris = Mapping[str, Mapping[str, str]]


def root_of(path: images.PathLike) -> Path | None:
    """Return the top of the data set that a file lies in: the folder above ``sub-*``."""
    parts = Path(path).absolute().parts[:-1]
    inside = [n for n, part in enumerate(parts) if part.startswith("sub-")]
    return Path(*parts[: inside[-1]]) if inside else None


def name_data_sets(root: images.PathLike, paths: Iterable[str]) -> dict[Path, str]:
    """Name the data sets of some files, as BIDS URIs have them: the raw one, and derivatives."""
    names = {Path(root).absolute(): "raw"}
    for top in sorted({found for path in paths if (found := root_of(path))}):
        if top not in names:
            name = derivatives.label(top.name) or "derivatives"
            while name in names.values():
                name += "2"
            names[top] = name
    return names


def uris_of(inputs: Mapping[str, Sequence[str]], names: Mapping[Path, str]) -> Uris:
    """Return the BIDS URI of each input, by role and name; of one outside, its name alone."""

    def uri(path: str) -> str:
        top = root_of(path)
        if top is None or top not in names:
            return f"bids::prov#entity-{Path(path).name}"
        return f"bids:{names[top]}:{Path(path).absolute().relative_to(top).as_posix()}"

    return {role: {Path(p).name: uri(p) for p in paths} for role, paths in inputs.items()}


def environment() -> dict[str, Any]:
    """Describe the software environment of this process."""
    container = derivatives.container()
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    known = {"AlternativeIdentifier": [container["URI"]]} if "URI" in container else {}
    return {
        "Label": container.get("Tag") or system,
        **known,
        "OperatingSystem": f"{system}, {platform.system()} {platform.release()}",
        "Dependencies": {
            "python": platform.python_version(),
            **{name: version(name) for name in required()},
        },
    }


def identify(label: str, *content: Any) -> str:
    """Make an identifier that differs where the content does."""
    text = json.dumps(content, sort_keys=True, default=derivatives.plain)
    return f"bids::prov#{label}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check(top: Path, label: str) -> None:
    """Refuse a file of the user's that provenance would replace, before anything is measured."""
    for path in (*(_path(top, label, part) for part in PARTS), top / "prov/provenance.tsv"):
        jobs.check_page(path, top)


def write(top: Path, label: str, records: Iterable[jobs.Record]) -> None:
    """Write the provenance of a participant's results, with what earlier runs said of them.

    Parameters
    ----------
    top
        Folder of the results.
    label
        Of the participant, ``sub-01``.
    records
        Of all tasks about the participant; those that are not done are passed over.
    """
    objects: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    earlier = _read(_path(top, label, "act"))
    for record in records:
        if record.status != "done" or "activity" not in record.result:
            continue
        method = registry.by_name(record.parameters["method"])
        where = record.result["environment"]
        ids = {"env": identify("environment", where)}
        maker = {"Label": "pvsbook", "Version": record.result["version"]}
        ids["soft"] = identify("pvsbook", maker)
        uris: Uris = record.parameters["uris"]
        used = {uri: name for part in uris.values() for name, uri in part.items()}
        name = record.result["activity"]
        objects["act"][name] = {
            "Label": f"{method.title}, {record.name}",
            "Command": shlex.join(_command(method, uris, record.parameters["options"])),
            "AssociatedWith": [ids["soft"]],
            "Used": [*used, ids["env"]],
            **(earlier.get(name, {}) if record.is_cached else _times(record)),
        }
        objects["soft"][ids["soft"]] = maker
        objects["env"][ids["env"]] = where
        for uri, file in used.items():
            digest = {
                "ChecksumAlgorithm": "spdx:checksumAlgorithm_sha256",
                "ChecksumValue": record.inputs[file],
            }
            objects["io"][uri] = {"Label": file, "Checksum": [digest]}
    if not objects["act"]:
        return
    for part, key in PARTS.items():
        content = {key: [{"Id": n, **entry} for n, entry in sorted(objects[part].items())]}
        jobs.write_page(json.dumps(content, indent=2) + "\n", _path(top, label, part), top)
    rows = sorted(path.name for path in (top / "prov").glob("prov-*") if path.is_dir())
    text = "".join(
        f"{n}\thow the results of sub-{n.removeprefix('prov-sub')} were made\n" for n in rows
    )
    jobs.write_page("provenance_id\tdescription\n" + text, top / "prov" / "provenance.tsv", top)


def _path(top: Path, label: str, part: str) -> Path:
    group = f"prov-{derivatives.label(label)}"
    return top / "prov" / group / f"{group}_{part}.json"


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return when activities of earlier runs started and ended."""
    try:
        known = images.read_json(path)["Activities"]
        return {a["Id"]: {k: a[k] for k in a if k.endswith("AtTime")} for a in known}
    except (InputError, KeyError, TypeError):
        return {}


def _times(record: jobs.Record) -> dict[str, str]:
    """Return start and end of a task of this run."""
    times = (record.started_s, record.started_s + record.seconds)
    texts = [datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for t in times]
    return dict(zip(("StartedAtTime", "EndedAtTime"), texts, strict=True))


def _command(method: Method, uris: Uris, options: Mapping[str, Any]) -> list[str]:
    """Write the command of one scan that does the same; options at their default are not said."""
    words = ["pvsbook", method.name]
    for i in method.inputs:
        files = list(uris.get(i.name, {}).values())
        words += ["--" + i.name.replace("_", "-"), *files] if i.is_option else files
    for option in method.options:
        value = options.get(option.name, option.default)
        if value is None or value == option.default:
            continue
        words += _words(option.command_line, option.flag_value, value)
        if f"option {option.name}" in uris:
            words[-1] = next(iter(uris[f"option {option.name}"].values()))
    return words


def _words(flag: str, flag_value: Any, value: Any) -> list[str]:
    if flag_value is not None:
        return [flag]
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list | tuple):
        return [flag, ",".join(map(str, value))]
    return [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
