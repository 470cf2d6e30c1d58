"""A BIDS folder of participants through the methods: `pvsbook run`."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvsbook import derivatives, images, jobs, report
from pvsbook import methods as registry
from pvsbook._errors import InputError
from pvsbook._version import __version__
from pvsbook._yaml import read_yaml
from pvsbook.bids import _provenance
from pvsbook.bids._log import RunLog
from pvsbook.bids._trends import trend
from pvsbook.bids.inputs import BidsFolder, Measurement
from pvsbook.derivatives import prefix_from
from pvsbook.method import Method

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["link_to_page", "measure_task", "plan", "read_settings", "run_participants", "texts"]

Settings = Mapping[str, Mapping[str, Any]]


def measure_task(
    inputs: Mapping[str, Sequence[str]], parameters: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """Do one task of `plan`: measure a scan, write its files, return what tables need.

    Parameters
    ----------
    inputs
        Paths by role.
    parameters
        ``method``; ``options``: defaults, what sidecars say, and settings, in this order;
        ``uris``: BIDS URIs of the inputs, by role and name; and ``series``, where the names of
        results need more than that of the scan.
    folder
        Where to write.

    Returns
    -------
    dict
        ``row``, ``summary``, ``status``, ``reasons``, the path of the ``report``, and for the
        provenance ``activity``, ``version`` and ``environment``.
    """
    from pvsbook.bids.measure import write_results

    method = registry.by_name(parameters["method"])
    environment = _provenance.environment()
    uris = {n: uri for part in parameters["uris"].values() for n, uri in part.items()}
    options = {name: uris.get(Path(value).name, value) if isinstance(value, str) else value
               for name, value in parameters["options"].items()}  # fmt: skip
    activity = _provenance.identify(method.name, options, uris, __version__, environment)
    done = write_results(
        method, inputs, folder, parameters["options"], series=parameters.get("series"),
        activity=activity, uris=uris,
    )  # fmt: skip
    content = {
        "row": dict(done.row),
        "summary": done.summary,
        "status": done.status,
        "reasons": list(done.reasons),
        "report": done.report.relative_to(folder).as_posix(),
        "activity": activity,
        "version": __version__,
        "environment": environment,
    }
    return json.loads(json.dumps(content, default=derivatives.plain))


def read_settings(path: images.PathLike | None) -> dict[str, dict[str, Any]]:
    """Read options of the methods, the same for all participants.

    Parameters
    ----------
    path
        YAML or JSON: for each method its options by name, as
        ``{qsm: {inversion: tkd}, alps: {rois: 5mm}}``.

    Returns
    -------
    dict
        Options by method.

    Raises
    ------
    InputError
        Not such a file, an unknown method or option, a value that an option cannot have, or an
        option that is a file of one participant.

    Examples
    --------
    >>> read_settings(None)
    {'pvs': {}, 'alps': {}, 'qsm': {}, 'qsmchange': {}}
    """
    content: Any = {}
    if path is not None:
        try:
            content = read_yaml(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError) as error:
            raise InputError(f"--settings: {path} cannot be read ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise InputError(f"--settings: {path} must hold options by method, as qsm: {{...}}")
    return _complete(content, "--settings")


def _complete(given: Settings, where: str) -> dict[str, dict[str, Any]]:
    """Refuse settings that cannot work on any scan; give each method what it shares."""
    methods = {method.name: method for method in registry.ALL}
    given = {name: {k: _plain(v) for k, v in o.items()} for name, o in given.items()}
    for name, options in given.items():
        if name not in methods:
            raise InputError(f"{where}: {name!r} is no method; known: {', '.join(methods)}")
        methods[name].check(options, where, for_all=True)
    settings = {}
    for name, method in methods.items():
        scanner = given.get(method.compares, {})
        shared = {key: scanner[key] for key in method.shares if key in scanner}
        settings[name] = {**shared, **given.get(name, {})}
    return settings


def _plain(value: Any) -> Any:
    """Return a path as text and NumPy's numbers as Python's, as a settings file has them."""
    return str(value) if isinstance(value, Path) else getattr(value, "tolist", lambda: value)()


def plan(
    folder: BidsFolder, settings: Settings
) -> Iterator[tuple[Measurement, jobs.Task | jobs.Record]]:
    """Give each visit and method its task, or the record that says why there is none.

    Where a participant has scans of a method at several visits, and another method compares
    visits, each later visit is compared with the first.

    Yields
    ------
    tuple of Measurement and Task or Record

    Raises
    ------
    InputError
        Settings that cannot work on any scan.
    """
    settings = _complete(settings, "settings")
    names = data_sets(folder)
    comparing = [method for method in registry.ALL if method.compares]
    for _, group in itertools.groupby(folder.measurements, key=lambda m: m.participant):
        measurements = list(group)
        pairs = []
        for method in comparing:
            given = settings[method.name]
            shared = {name: given[name] for name in method.shares if name in given}
            scans = [m for m in measurements if m.method == method.compares and m.session]
            filled = [replace(m, found=m.found.fill(shared)) for m in scans]
            usable = [m for m in filled if not m.found.lacks]
            later = [m for m in usable if m.session != usable[0].session]
            pairs += [_pair(method, _first_of(usable, m), m) for m in later]
        filled = [replace(m, found=m.found.fill(settings[m.method])) for m in measurements]
        for measurement in (*filled, *pairs):
            yield measurement, _task(measurement, settings, names)


def data_sets(folder: BidsFolder) -> dict[Path, str]:
    """Name the data sets that inputs are from, the raw one and derivatives of other pipelines."""
    found = [m.found for m in folder.measurements]
    paths = [path for f in found for paths in f.inputs.values() for path in paths]
    given = (str(value) for f in found for value in f.parameters.values())
    return _provenance.name_data_sets(folder.root, [*paths, *filter(_is_image, given)])


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and value.endswith((".nii", ".nii.gz"))


def _task(
    measurement: Measurement, settings: Settings, names: Mapping[Path, str]
) -> jobs.Task | jobs.Record:
    method, found = registry.by_name(measurement.method), measurement.found
    if found.lacks:
        return jobs.Record(measurement.name, "skipped", reason="; ".join(found.lacks))
    # Defaults are written out, so that a default by name is the same as none.
    options = method.settled({**method.defaults, **settings[method.name], **found.parameters})
    # A file that an option names is an input as well: other contents, other results.
    files = {f"option {name}": [v] for name, v in options.items() if _is_image(v)}
    inputs = {**found.inputs, **files}
    uris = _provenance.uris_of(inputs, names)
    parameters = {"method": method.name, "options": options, "uris": uris}
    scan = found.inputs[method.inputs[-1 if method.compares else 0].name][0]
    own = [p for p in prefix_from(scan).split("_") if not p.startswith(("sub-", "ses-"))]
    if "_".join(own) != measurement.series:
        parameters["series"] = measurement.series
    return jobs.Task(measurement.name, inputs, parameters)


def _first_of(usable: Sequence[Measurement], later: Measurement) -> Measurement:
    """Return the scan of the first visit to compare with: of the same series, if there is one."""
    first = [m for m in usable if m.session == usable[0].session]
    return next((m for m in first if m.series == later.series), first[0])


def _pair(method: Method, first: Measurement, later: Measurement) -> Measurement:
    """Plan the comparison of two visits, named after both."""
    assert method.pair is not None
    found = method.pair(first.found, later.found, first.session)
    notes = (*found.notes, *((later.order,) if later.order else ()))
    if later.series != first.series:
        notes += (f"{later.series or 'a series without label'} is compared with "
                  f"{first.series or 'one without label'}",)  # fmt: skip
    found = replace(found, notes=notes)
    return replace(later, method=method.name, found=found, first=first.session)


def run_participants(
    folder: BidsFolder,
    out: images.PathLike,
    *,
    settings: Settings | None = None,
    client: Client | None = None,
    asked: str = "",
) -> Iterator[jobs.Record]:
    """Measure every visit of every participant that is not done yet, and write their pages.

    Parameters
    ----------
    folder
        From `pvsbook.bids.inputs.find`.
    out
        Folder for the BIDS-Derivatives.
    settings
        From `read_settings`.
    client
        From `pvsbook.jobs.workers`; None works in this process.
    asked
        What the user asked for, as the words of a command, for the log.

    Yields
    ------
    pvsbook.jobs.Record
        How each ended, as it ends.

    Raises
    ------
    InputError
        The folder is the data set itself, cannot be written, holds a page of the user's, or
        another run is writing there; settings that cannot work on any scan.
    """
    top = Path(out)
    if top.resolve() == folder.root.resolve():
        raise InputError(f"{out}: is the data set itself; give another folder for the results")
    inside = top.resolve()
    is_inside = inside.is_relative_to(folder.root.resolve())
    if is_inside and inside.relative_to(folder.root.resolve()).parts[0].startswith("sub-"):
        raise InputError(f"{out}: lies in the folder of a participant; give another folder")
    planned = list(plan(folder, settings or {}))
    waiting = Counter(measurement.participant for measurement, _ in planned)
    for label in waiting:
        jobs.check_page(top / f"{label}.html")
        _provenance.check(top, label)
    derivatives.describe(top, data_sets(folder))
    by_record = {measurement.name: measurement for measurement, _ in planned}
    ended: dict[str, list[tuple[Measurement, jobs.Record]]] = {label: [] for label in waiting}
    log = RunLog(
        top,
        [*([f"asked: {asked}"] if asked else []), f"settings: {settings or {}}", *folder.notes],
    )
    try:
        for record in jobs.run(measure_task, (item for _, item in planned), top, client=client):
            measurement = by_record[record.name]
            log.record(record, measurement.found.notes)
            label = measurement.participant
            ended[label].append((measurement, record))
            waiting[label] -= 1
            if not waiting[label]:
                _write_participant(top, folder.root, label, ended.pop(label))
            yield record
    finally:
        log.close(len(planned))


def _write_participant(
    top: Path, root: Path, label: str, ended: list[tuple[Measurement, jobs.Record]]
) -> None:
    """Write the page of a participant, with visits and methods of earlier runs."""
    titles = {method.name: method.title for method in registry.ALL}
    order = list(titles)
    names = {measurement.name for measurement, _ in ended}
    pages = {record.result.get("report") for _, record in ended}
    visited = {(m.session, m.method) for m, _ in ended}
    for record in jobs.read_records(top, label):
        earlier = Measurement.from_name(record.name)
        # What could not be measured, or has another name now, says nothing of the visit any more.
        is_over = (earlier.session, earlier.method) in visited and (
            record.status != "done" or record.result.get("report") in pages
        )
        if record.name not in names and earlier.method in order and not is_over:
            ended.append((earlier, record))
    ended.sort(key=lambda pair: (
        pair[0].session, order.index(pair[0].method), pair[0].first, pair[0].rank, pair[0].series
    ))  # fmt: skip
    visits = []
    for session, group in itertools.groupby(ended, key=lambda pair: pair[0].session):
        rows = [_describe(titles[m.method], m, record) for m, record in group]
        visits.append((session or "only visit", rows))
    count = Counter(record.status for _, record in ended)
    summary = "; ".join(f"{n} {status}" for status, n in sorted(count.items()))
    trends = [_trend(m, root, label, ended) for m in registry.ALL if m.trend is not None]
    page = report.person_page(
        label, summary=f"Scans: {summary}.", visits=visits, trends=[t for t in trends if t]
    )
    jobs.write_page(page, top / f"{label}.html")
    _provenance.write(top, label, [record for _, record in ended])


def _trend(
    method: Method, root: Path, label: str, ended: list[tuple[Measurement, jobs.Record]]
) -> dict[str, Any]:
    """Make the table of change per year for a page; nothing where no three visits were there."""
    if sum(m.method == method.name for m, _ in ended) < 2:
        return {}
    table = trend(method, root, label, ended)
    shown = table.dropna(axis="columns", how="all")
    rows = [
        [f"{v:.3g}" if isinstance(v, float) else v for v in row]
        for row in shown.astype(object).where(shown.notna(), "").to_numpy().tolist()
    ]
    return {"title": f"{method.title} per year", "head": list(shown.columns), "rows": rows}


def link_to_page(text: str, result: Mapping[str, Any]) -> Any:
    """Link to a scan's page, if it is one below this folder: a record may come from elsewhere."""
    where = result.get("report")
    if isinstance(where, str) and re.fullmatch(r"sub-[\w+-]+(?:/[\w+-]+)*/[\w+-]+\.html", where):
        return {"text": text, "href": where}
    return text


def texts(values: Any) -> list[str]:
    """Take a list of sentences from a record; nothing where there is none."""
    return [str(text) for text in values] if isinstance(values, list) else []


def _describe(title: str, measurement: Measurement, record: jobs.Record) -> list[Any]:
    """Make the row of a measurement on the page of its participant."""
    title += f" since {measurement.first}" if measurement.first else ""
    title += f" ({measurement.series.replace('_', ', ')})" if measurement.series else ""
    result = record.result
    remarks = [record.reason, *texts(result.get("reasons")), *measurement.found.notes]
    return [
        link_to_page(title, result) if record.status == "done" else title,
        record.status,
        str(result.get("status", "")),
        str(result.get("summary", "")),
        "; ".join(text for text in remarks if text),
    ]
