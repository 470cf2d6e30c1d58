"""One scan through a method, from its files to tables, maps and a page on disk."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from pvsbook import derivatives, images, report
from pvsbook._names import check_names, entities_of
from pvsbook._ours import refuse_foreign
from pvsbook._records import sha256
from pvsbook._stop import uninterrupted
from pvsbook.bids.citation import methods_text
from pvsbook.figures import use_style
from pvsbook.method import Method

__all__ = ["Done", "measure_files"]


@dataclass(frozen=True)
class Done:
    """The result of a scan, written to disk.

    Attributes
    ----------
    summary
        The result in one or two sentences, with its uncertainty.
    status
        ``"pass"``, ``"warn"`` or ``"fail"``.
    reasons
        Why the status is not a pass.
    row
        Every value, as in the table.
    report
        Path of the HTML page.
    """

    summary: str
    status: str
    reasons: tuple[str, ...]
    row: Mapping[str, Any]
    report: Path


def measure_files(
    method: Method,
    inputs: Mapping[str, images.PathLike | Sequence[images.PathLike]],
    out: images.PathLike,
    *,
    series: str | None = None,
    **options: Any,
) -> Done:
    """Measure a scan from its files, and write maps, tables and a page to a folder.

    Parameters
    ----------
    method
        From `pvsbook.methods.ALL`.
    inputs
        One path or several for each of the method's inputs.
    out
        Folder for the BIDS-Derivatives.
    series
        What tells the results from those of other scans of the visit, as ``acq-iso``, where the
        name of the scan does not.
    **options
        Of the method's options; the others have their defaults.

    Returns
    -------
    Done

    Raises
    ------
    InputError
        A file that cannot be used, an option that the method does not have, or a folder that
        holds results of another scan under this name.

    Examples
    --------
    >>> from pvsbook.methods import ALL
    >>> measure_files(ALL[0], {"image": "no.nii"}, "out", contrasts="t1")
    Traceback (most recent call last):
    pvsbook._errors.InputError: options: pvs has no option contrasts; it has contrast, flair...
    """
    return write_results(method, inputs, out, options, series=series)


def write_results(
    method: Method,
    inputs: Mapping[str, images.PathLike | Sequence[images.PathLike]],
    out: images.PathLike,
    options: Mapping[str, Any],
    *,
    series: str | None = None,
    activity: str = "",
    uris: Mapping[str, str] = MappingProxyType({}),
) -> Done:
    """Do as `measure_files`; say in the sidecars which activity made the files, of which inputs.

    Parameters
    ----------
    method, inputs, out, options, series
        Of `measure_files`.
    activity
        Identifier of the activity in ``prov/``; empty where none is described.
    uris
        BIDS URI of each input, by file name; one without is called by its name.
    """
    method.check(options, "options")
    settings = method.settled({**{o.name: o.default for o in method.options}, **options})
    files = {i.name: _as_list(inputs[i.name]) for i in method.inputs}
    check_names(files, _option_files(settings))
    scan = [path for paths in files.values() for path in paths]
    names = [Path(path).name for path in [*scan, *_option_files(settings)]]
    last = method.inputs[-1].name if method.compares else method.inputs[0].name
    prefix = derivatives.prefix_from(files[last][0])
    if series is not None:
        visit = [part for part in prefix.split("_") if part.startswith(("sub-", "ses-"))]
        prefix = "_".join([*visit, series])
    if method.compares:  # the later visit may be compared with several earlier ones
        first = entities_of(Path(files[method.inputs[0].name][0]).name).get("ses", "")
        prefix += f"_from-{derivatives.label(first)}" if first else ""
    writer = derivatives.Writer(out, prefix=prefix, datatype=method.datatype)
    if all(Path(path).is_file() for path in scan):  # else loading names the one that is missing
        sources = derivatives.sources_of(scan)
        derivatives.claim(writer, method.suffix, sources, desc=f"{method.desc}sources")
    where = writer.path(method.suffix, ".html", desc=f"{method.desc}report")
    row_at = writer.path(method.suffix, ".tsv", **({"desc": method.desc} if method.desc else {}))
    record = writer.path(method.suffix, ".json", desc=f"{method.desc}sources")
    before = dict.fromkeys([where.name, row_at.name, *_earlier(record)], "")
    refuse_foreign(where.parent, before)  # before minutes of work
    result = method.measure(*files.values(), **settings)
    row = result.to_row()
    with plt.rc_context():  # the caller's style stays
        use_style()
        shown = method.show(result)
    page = report.html_page(
        f"{method.title}: {prefix}",
        summary=shown.summary,
        row=row,
        columns=method.columns,
        figures=shown.figures,
        viewer=shown.viewer,
        limits=method.limits,
        sources=names,
        status=result.status,
        reasons=result.reasons,
        methods=methods_text([(method, settings, pd.DataFrame([row]))]),
    )
    for figure, _, _ in shown.figures:
        plt.close(figure)
    derivatives.describe(out)
    # Nothing has its name before everything is there, and what an earlier run wrote goes: a map
    # that is now unsupported would else stay under its ordinary name.
    with tempfile.TemporaryDirectory(dir=out, prefix=".pvsbook-") as folder:
        result.save(folder, prefix=prefix, sources=[uris.get(name, name) for name in names])
        for sidecar in Path(folder).rglob("*.json") if activity else ():
            content = {**images.read_json(sidecar), "GeneratedBy": [activity]}
            images.write_bytes((json.dumps(content, indent=2) + "\n").encode(), sidecar)
        draft = replace(writer, folder=folder)
        draft.text(page, method.suffix, ".html", desc=f"{method.desc}report")
        _publish(Path(folder), record, sources, prefix)
    return Done(shown.summary, result.status, result.reasons, row, where)


def _earlier(record: Path) -> dict[str, list[str]]:
    """Return the hashes of an earlier run's results, by name; only of files beside the record."""
    outputs = images.read_json(record).get("Outputs") if record.is_file() else None
    outputs = outputs if isinstance(outputs, dict) else {}
    return {n: h for n, h in outputs.items() if n == Path(n).name and isinstance(h, list)}


def _publish(draft: Path, record: Path, sources: Mapping[str, Any], prefix: str) -> None:
    """Move results to their place, with the record of what they are; remove earlier ones."""
    written = [p for p in draft.rglob("*") if p.is_file() and p.parent != draft]
    hashes = {path.name: sha256(path) for path in written}
    top = record.parent
    refuse_foreign(top, {**hashes, record.name: ""})
    before = _earlier(record)

    def claim(outputs: Mapping[str, Sequence[str]]) -> None:
        content = {**sources, "Outputs": dict(sorted(outputs.items()))}
        images.write_bytes((json.dumps(content, indent=2) + "\n").encode(), record)

    with uninterrupted():
        # Said before the first file is moved: whoever comes after a kill knows what is ours.
        claim({n: [*before.get(n, []), *([hashes[n]] if n in hashes else [])]
               for n in {*before, *hashes}})  # fmt: skip
        for name, known in before.items():
            path = top / name
            is_beside = name.startswith(f"{prefix}_") and path.is_file()
            if is_beside and name not in hashes and sha256(path) in known:
                path.unlink()
        for path in written:
            path.replace(top / path.name)
        claim({name: [digest] for name, digest in hashes.items()})


def _as_list(paths: images.PathLike | Sequence[images.PathLike]) -> list[images.PathLike]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _option_files(settings: Mapping[str, Any]) -> list[str]:
    """Return the options that are images, such as masks."""
    texts = [str(value) for value in settings.values() if isinstance(value, str | Path)]
    return [text for text in texts if text.endswith((".nii", ".nii.gz"))]
