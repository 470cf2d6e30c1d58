"""A BIDS folder of people through the methods: `pvsbook run`."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pvsbook import derivatives, images, jobs, report
from pvsbook._errors import InputError
from pvsbook._version import __version__
from pvsbook.bids.inputs import METHODS, Dataset, Scan
from pvsbook.qsm import pipeline as qsm_pipeline

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "CHANGE",
    "TITLES",
    "entries",
    "linked",
    "measure_scan",
    "read_settings",
    "run_people",
    "texts",
]

CHANGE = "qsmchange"  # two visits of one person; runs with qsm
TITLES = {
    "pvs": "Perivascular spaces",
    "alps": "ALPS index",
    "qsm": "Susceptibility (QSM)",
    CHANGE: "Change of susceptibility",
}
PERSONAL = ("wmh_mask", "brain_mask", "white_matter")  # files of one person, so no options for all


def measure_scan(
    inputs: Mapping[str, Sequence[str]], parameters: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """Do one task of `entries`: measure a scan, write its files, give back what tables need.

    Parameters
    ----------
    inputs
        Paths by role, from `pvsbook.bids.inputs.find`.
    parameters
        ``method`` and ``options``: defaults, what sidecars say, and settings, in this order.
    folder
        Where to write.

    Returns
    -------
    dict
        ``row``, ``summary``, ``status``, ``reasons`` and the path of the ``report``.
    """
    from pvsbook.bids import longitudinal, measure

    method = parameters["method"]
    options = parameters["options"]
    if method == "pvs":
        done = measure.measure_pvs(inputs["image"][0], folder, **options)
    elif method == "alps":
        dwi, bval, bvec = (inputs[role][0] for role in ("dwi", "bval", "bvec"))
        done = measure.measure_alps(dwi, bval, bvec, folder, **options)
    elif method == "qsm":
        done = measure.measure_qsm(inputs["magnitude"], inputs["phase"], folder, **options)
    else:
        first, second = (
            (inputs[f"magnitude_{k}"], inputs[f"phase_{k}"]) for k in ("first", "second")
        )
        done = longitudinal.measure_qsm_change(first, second, folder, **options)
    content = {
        "row": dict(done.row),
        "summary": done.summary,
        "status": done.status,
        "reasons": list(done.reasons),
        "report": done.report.relative_to(folder).as_posix(),
    }
    return json.loads(json.dumps(content, default=derivatives.plain))


def read_settings(path: images.PathLike | None) -> dict[str, dict[str, Any]]:
    """Read options of the methods, the same for all people.

    Parameters
    ----------
    path
        YAML or JSON: for each method its options by the names that `pvsbook.bids` gives them,
        as ``{qsm: {inversion: tkd}, alps: {rois: 5mm}}``.

    Returns
    -------
    dict
        Options by method.

    Raises
    ------
    InputError
        Not such a file, an unknown method or option, or an option that is a file of one person.

    Examples
    --------
    >>> read_settings(None)
    {'pvs': {}, 'alps': {}, 'qsm': {}, 'qsmchange': {}}
    """
    content: Any = {}
    if path is not None:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            first = str(error).splitlines()[0]
            raise InputError(f"--settings: {path} cannot be read ({first})") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise InputError(f"--settings: {path} must hold options by method, as qsm: {{...}}")
    for method, options in content.items():
        if method not in TITLES:
            raise InputError(f"--settings: {method!r} is no method; known: {', '.join(TITLES)}")
        allowed = _defaults(method)
        unknown = [name for name in options if name not in allowed]
        if unknown:
            raise InputError(
                f"--settings: {method} has no option {', '.join(map(str, unknown))}; "
                f"it has {', '.join(allowed)}"
            )
        for name, value in options.items():
            _check_option(method, name, value, allowed[name])
    shared = {
        k: v
        for k, v in content.get("qsm", {}).items()
        if k in ("phase_period", "phase_sign")  # of the scanner; the recipe of change is its own
    }
    return {m: dict(content.get(m, {})) for m in METHODS} | {
        CHANGE: {**shared, **content.get(CHANGE, {})}
    }


CHOICES: Mapping[str, Sequence[Any]] = {
    "contrast": ("t1", "t2"),
    "registration": ("affine", "syn"),
    "denoise": (None, "mppca", "patch2self"),
    "background": tuple(qsm_pipeline.BACKGROUNDS),
    "inversion": tuple(qsm_pipeline.INVERSIONS),
    "phase_sign": (1, -1),
}


def _check_option(method: str, name: str, value: Any, default: Any) -> None:
    """Refuse a value before anybody is measured with it."""
    where = f"--settings: {method}: {name} is {value!r}"
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise InputError(f"{where}; choose from {', '.join(map(str, CHOICES[name]))}")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{where}; give true or false")
    elif isinstance(default, int | float) or name in ("phase_period", "field_strength_t"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and np.isfinite(value)) and not (default is None and value is None):
            raise InputError(f"{where}; give a number")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise InputError(f"{where}; give text")
        if value.endswith((".nii", ".nii.gz")) and not Path(value).is_file():
            raise InputError(f"{where}, and there is no such file")


def entries(
    dataset: Dataset, settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Scan, jobs.Task | jobs.Record]]:
    """Give each visit and method its task, or the record that says why there is none.

    Where a person has a gradient echo at several visits, each later visit is compared with the
    first.

    Yields
    ------
    tuple of Scan and Task or Record
    """
    for _, group in itertools.groupby(dataset.scans, key=lambda s: s.participant):
        scans = list(group)
        for scan in scans:
            yield scan, _task(scan, settings)
        echoes = [s for s in scans if s.method == "qsm" and not s.lacks and s.session]
        for later in echoes[1:]:
            scan = _pair(echoes[0], later)
            yield scan, _task(scan, settings)


def _task(scan: Scan, settings: Mapping[str, Mapping[str, Any]]) -> jobs.Task | jobs.Record:
    if scan.lacks:
        return jobs.Record(scan.name, "skipped", reason="; ".join(scan.lacks))
    # Defaults are written out, so that a default by name is the same as none.
    options = {**_defaults(scan.method), **scan.parameters, **settings[scan.method]}
    # A file that an option names is an input as well: other contents, other results.
    files = {
        f"option {name}": [value]
        for name, value in options.items()
        if isinstance(value, str) and value.endswith((".nii", ".nii.gz"))
    }
    inputs = {**scan.inputs, **files}
    return jobs.Task(scan.name, inputs, {"method": scan.method, "options": options})


@functools.cache
def _defaults(method: str) -> dict[str, Any]:
    """Return the options of a method, less those that are a file of one person."""
    from pvsbook.bids import longitudinal, measure

    functions: dict[str, Callable[..., Any]] = {
        "pvs": measure.measure_pvs,
        "alps": measure.measure_alps,
        "qsm": measure.measure_qsm,
        CHANGE: longitudinal.measure_qsm_change,
    }
    return {
        name: parameter.default
        for name, parameter in inspect.signature(functions[method]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in PERSONAL
    }


def _pair(first: Scan, later: Scan) -> Scan:
    inputs = {
        f"{role}_{when}": scan.inputs[role]
        for when, scan in (("first", first), ("second", later))
        for role in ("magnitude", "phase")
    }
    both = {k: (first.parameters[k], later.parameters[k]) for k in first.parameters}
    few = min(len(times) for times in both["echo_times_s"])
    return Scan(
        later.participant,
        later.session,
        CHANGE,
        inputs,
        {"first_session": first.session, **both},
        notes=(later.order,) if later.order else (),
        lacks=() if few > 2 else (f"{few} echoes; the error of a change needs three or more",),
    )


def run_people(
    dataset: Dataset,
    out: images.PathLike,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    client: Client | None = None,
) -> Iterator[jobs.Record]:
    """Measure every visit of every person that is not done yet, and write their pages.

    Parameters
    ----------
    dataset
        From `pvsbook.bids.inputs.find`.
    out
        Folder for the BIDS-Derivatives.
    settings
        From `read_settings`.
    client
        From `pvsbook.jobs.workers`; None works in this process.

    Yields
    ------
    pvsbook.jobs.Record
        How each ended, as it ends.

    Raises
    ------
    InputError
        The folder is the data set itself, cannot be written, or another run is writing there.
    """
    top = Path(out)
    if top.resolve() == dataset.root.resolve():
        raise InputError(f"{out}: is the data set itself; give another folder for the results")
    derivatives.describe(top)
    settings = read_settings(None) if settings is None else settings
    plan = list(entries(dataset, settings))
    waiting = Counter(scan.participant for scan, _ in plan)
    owner = {scan.name: scan for scan, _ in plan}
    mine: dict[str, list[tuple[Scan, jobs.Record]]] = {p: [] for p in waiting}
    log = _log(top)
    try:
        for record in jobs.run(measure_scan, (item for _, item in plan), top, client=client):
            _note(log, record)
            scan = owner[record.name]
            mine[scan.participant].append((scan, record))
            waiting[scan.participant] -= 1
            if not waiting[scan.participant]:
                _write_person(top, scan.participant, mine.pop(scan.participant))
            yield record
    finally:
        for handler in log.handlers[:]:
            handler.close()
            log.removeHandler(handler)


def _log(top: Path) -> logging.Logger:
    """Open the file that says what happened when; nothing of it goes to the terminal."""
    path = top / "logs" / "run.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.Logger("pvsbook.run")
    log.addHandler(handler)
    log.info("pvsbook %s", __version__)
    return log


def _note(log: logging.Logger, record: jobs.Record) -> None:
    if not record.again:
        log.info("%s was done", record.name)
        return
    log.info(
        "%s %s %s(%.1f s, worker's peak %.0f MB)",
        record.name,
        record.status,
        f"{record.reason} " if record.reason else "",
        record.seconds,
        record.peak_mb,
    )
    if record.log:
        log.info("%s", record.log)


def _write_person(top: Path, person: str, held: list[tuple[Scan, jobs.Record]]) -> None:
    """Write the page of a person, with what earlier runs did by methods not asked for now."""
    order = (*METHODS, CHANGE)
    names = {scan.name for scan, _ in held}
    for session in {scan.session for scan, _ in held}:
        for scan in (Scan(person, session, method) for method in order):
            record = jobs.read_record(top, scan.name) if scan.name not in names else None
            if record is not None:
                held.append((scan, record))
    held.sort(key=lambda pair: (pair[0].session, order.index(pair[0].method)))
    visits = []
    for session, group in itertools.groupby(held, key=lambda pair: pair[0].session):
        visits.append((session or "only visit", [_person_row(*pair) for pair in group]))
    count = Counter(record.status for _, record in held)
    summary = "; ".join(f"{n} {status}" for status, n in sorted(count.items()))
    page = report.person_page(person, summary=f"Scans: {summary}.", visits=visits)
    images.write_bytes(page.encode(), top / f"{person}.html")


def linked(text: str, result: Mapping[str, Any]) -> Any:
    """Link to a scan's page, if it is one below this folder: a record may come from elsewhere."""
    where = result.get("report")
    if isinstance(where, str) and re.fullmatch(r"sub-[\w+-]+(?:/[\w+-]+)*/[\w+-]+\.html", where):
        return {"text": text, "href": where}
    return text


def texts(found: Any) -> list[str]:
    """Take a list of sentences from a record; nothing where there is none."""
    return [str(text) for text in found] if isinstance(found, list) else []


def _person_row(scan: Scan, record: jobs.Record) -> list[Any]:
    title: Any = TITLES[scan.method]
    result = record.result
    if record.status == "done":
        title = linked(title, result)
    know = [record.reason, *texts(result.get("reasons")), *scan.notes]
    return [
        title,
        record.status,
        str(result.get("status", "")),
        str(result.get("summary", "")),
        "; ".join(text for text in know if text),
    ]
