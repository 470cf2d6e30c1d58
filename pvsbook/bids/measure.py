"""One scan through a method, from its files to tables, maps and a page on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from pvsbook import derivatives, images, report
from pvsbook._errors import InputError
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
    pvsbook._errors.InputError: options: pvs has no option contrasts; it has contrast, wmh_mask, ...
    """
    method.check(options, "options")
    settings = {**{o.name: o.default for o in method.options}, **options}
    files = {i.name: _as_list(inputs[i.name]) for i in method.inputs}
    scan = [path for paths in files.values() for path in paths]
    names = [Path(path).name for path in [*scan, *_option_files(settings)]]
    last = method.inputs[-1].name if method.compares else method.inputs[0].name
    prefix = derivatives.prefix_from(files[last][0])
    writer = derivatives.Writer(out, prefix=prefix, datatype=method.datatype)
    if all(Path(path).is_file() for path in scan):  # else loading names the one that is missing
        sources = derivatives.sources_of(scan)
        derivatives.claim(writer, method.suffix, sources, desc=f"{method.desc}sources")
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
        limits=method.limits,
        sources=names,
        status=result.status,
        reasons=result.reasons,
    )
    for figure, _, _ in shown.figures:
        plt.close(figure)
    derivatives.describe(out)
    # Nothing has its name before everything is there, and what an earlier run wrote goes: a map
    # that is now unsupported would else stay under its ordinary name.
    with tempfile.TemporaryDirectory(dir=out, prefix=".pvsbook-") as folder:
        result.save(folder, prefix=prefix, sources=names)
        draft = replace(writer, folder=folder)
        draft.text(page, method.suffix, ".html", desc=f"{method.desc}report")
        written = [p for p in Path(folder).rglob("*") if p.is_file() and p.parent != Path(folder)]
        outputs = sorted(path.name for path in written)
        # A mask may change and the results be replaced, the scan may not.
        record = {**sources, "Outputs": outputs}
        draft.json(record, method.suffix, desc=f"{method.desc}sources")
        claimed = writer.path(method.suffix, ".json", desc=f"{method.desc}sources")
        _remove_earlier(claimed, prefix)
        claimed.parent.mkdir(parents=True, exist_ok=True)
        for path in (*written, draft.path(method.suffix, ".json", desc=f"{method.desc}sources")):
            path.replace(claimed.parent / path.name)
    where = writer.path(method.suffix, ".html", desc=f"{method.desc}report")
    return Done(shown.summary, result.status, result.reasons, row, where)


def _remove_earlier(record: Path, prefix: str) -> None:
    """Remove the results that a record of an earlier run names, beside it and nowhere else."""
    known = images.read_json(record).get("Outputs") if record.is_file() else None
    for name in known if isinstance(known, list) else ():
        if isinstance(name, str) and name == Path(name).name and name.startswith(f"{prefix}_"):
            (record.parent / name).unlink(missing_ok=True)


def _as_list(paths: images.PathLike | Sequence[images.PathLike]) -> list[images.PathLike]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _option_files(settings: Mapping[str, Any]) -> list[str]:
    """Return the options that are images, such as masks."""
    texts = [str(value) for value in settings.values() if isinstance(value, str | Path)]
    return [text for text in texts if text.endswith((".nii", ".nii.gz"))]
