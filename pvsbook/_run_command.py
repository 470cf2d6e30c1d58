"""The command ``pvsbook run``: a BIDS folder of participants, in the manner of a BIDS App."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvsbook._console import console, count, print_version, watch
from pvsbook._errors import (
    BAD_DATA,
    CANNOT_CREATE,
    NO_INPUT,
    UNKNOWN_LEVEL,
    USAGE,
    InputError,
)

if TYPE_CHECKING:
    from pvsbook.bids.inputs import BidsFolder
    from pvsbook.jobs import Record

__all__ = ["SEVERAL", "run"]

LEVELS = ("participant", "group")
_PEOPLE = ("--participant-label", "--participant_label", "--subject-label", "--subject_label")
_VISITS = ("--session-label", "--session_label")
SEVERAL = (*_PEOPLE, *_VISITS, "--derivatives", "-d")
"""Options that take several words, as a shell's ``*`` writes them."""


def run(
    bids_dir: Annotated[Path, typer.Argument(help="Top of a BIDS folder (with sub-*).")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the results (BIDS-Derivatives).")],
    level: Annotated[
        str,
        typer.Argument(
            metavar="{participant|group}",
            help="participant: measure each scan; group: then tables and one page.",
        ),
    ],
    participants: Annotated[
        list[str] | None, typer.Option(*_PEOPLE, help="Only these people, as 01 02 or sub-01.")
    ] = None,
    sessions: Annotated[
        list[str] | None, typer.Option(*_VISITS, help="Only these visits, as 1 2 or ses-1.")
    ] = None,
    filter_file: Annotated[
        Path | None,
        typer.Option(
            "--bids-filter-file",
            "--bids_filter_file",
            help='JSON file that says which scans to take, as {"t2w": {"acquisition": "iso"}}.',
        ),
    ] = None,
    derivatives: Annotated[
        list[Path] | None,
        typer.Option(
            "--derivatives",
            "-d",
            help="Folders of other pipelines, whose brain and lesion masks are used.",
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Which methods, with commas between them; by default all.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="YAML file of options, the same for all, as: qsm: {inversion: tkd}"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "--n-cpus",
            "--n_cpus",
            "--nprocs",
            help="Processes on this machine, one thread each; 0: no extra process. By default "
            "one a core, as long as each has 4 GB.",
        ),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            help="Bound of each process. One that reaches 95 % of it is ended and its scan tried "
            "twice more. By default an equal share of 80 % of this machine's memory."
        ),
    ] = None,
    mem_gb: Annotated[
        float | None,
        typer.Option("--mem-gb", "--mem_gb", help="Bound of all processes together."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler, as tls://10.0.0.5:8786, instead."),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", "--work_dir", "-w", help="Folder for temporary files."),
    ] = None,
    stop_on_first_crash: Annotated[
        bool,
        typer.Option(
            "--stop-on-first-crash",
            "--stop_on_first_crash",
            help="End when the first scan fails; the rest is measured when it is run again.",
        ),
    ] = False,
    compare: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[=REFERENCE]",
            help="Column of participants.tsv whose groups the group level compares; by default "
            "group, diagnosis or the like. none: no comparison.",
        ),
    ] = "",
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run the methods on a BIDS folder of participants and visits.

    Each scan becomes maps, a table and a page under OUT_DIR; each participant gets a page
    (sub-*.html). A scan that fails stops no other, and says why. What is done is not done again
    while inputs, options and the code of pvsbook are the same: after an interruption, run the same
    command.

    Ends with 0 when all is well, and with 1 when scans failed or somebody has nothing that could
    be measured (they are listed). Where it cannot start, with the codes of the BIDS execution
    specification: 16 no BIDS folder, 17 unknown level, 18 labels or filters that select nothing,
    64 a wrong command, 65 a file that cannot be used, 66 no input, 73 an output that cannot be
    written, 75 another run is writing there.
    """
    from pvsbook import jobs
    from pvsbook.bids import app as bids_app
    from pvsbook.bids import inputs

    if level not in LEVELS:
        raise InputError(f"{level}: is no level; choose participant or group", code=UNKNOWN_LEVEL)
    if compare and level != "group":
        raise InputError("--compare: is for the level group; leave it out here", code=USAGE)
    with _ends_with(USAGE):
        options = bids_app.read_settings(settings)
        filters = inputs.read_filters(filter_file)
        workers, memory_gb = _share(workers, memory_gb, mem_gb)
    names = None if methods is None else [m.strip() for m in methods.split(",") if m.strip()]
    with _ends_with(BAD_DATA):
        folder = inputs.find(
            bids_dir,
            participants=participants or (),
            sessions=sessions or (),
            methods=names,
            filters=filters,
            derivatives=derivatives or (),
        )
        for note in folder.notes:
            console().print(f"note: {note}", markup=False, soft_wrap=True)
        if level == "group":
            _summarise(folder, out_dir, options, compare)
            return
    with (
        _ends_with(USAGE),
        nullcontext() if work_dir is None else _temporary_in(work_dir),
        jobs.workers(workers, scheduler=scheduler, memory_gb=memory_gb) as client,
    ):
        steps = bids_app.run_participants(folder, out_dir, settings=options, client=client)
        if stop_on_first_crash:
            steps = _until_failure(steps)
        total = sum(1 for _ in bids_app.plan(folder, options))
        records = watch(steps, total)
    _report(records, out_dir, folder.labels, total)


@contextmanager
def _ends_with(code: int) -> Iterator[None]:
    """Give errors of the user in this block an exit code, where they have none."""
    try:
        yield
    except InputError as error:
        error.code = error.code or code
        raise


@contextmanager
def _temporary_in(folder: Path) -> Iterator[None]:
    """Put temporary files, and those of workers that start here, in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--work-dir: {folder} cannot be made ({error.strerror})", code=CANNOT_CREATE
        ) from error
    import dask

    before, tempfile.tempdir = (tempfile.tempdir, os.environ.get("TMPDIR")), str(folder.resolve())
    os.environ["TMPDIR"] = tempfile.tempdir
    try:
        with dask.config.set({"temporary-directory": tempfile.tempdir}):
            yield
    finally:
        tempfile.tempdir = before[0]
        if before[1] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before[1]


def _share(
    workers: int | None, memory_gb: float | None, mem_gb: float | None
) -> tuple[int | None, float | None]:
    """Share a bound of all processes among them."""
    if mem_gb is not None and memory_gb is not None:
        raise InputError("--mem-gb, --memory-gb: bound all processes together, or each; not both")
    if workers == 0 and (mem_gb is not None or memory_gb is not None):
        name = "--memory-gb" if mem_gb is None else "--mem-gb"
        raise InputError(f"{name}: bounds no process with --workers 0; use --workers 1")
    if mem_gb is None:
        return workers, memory_gb
    if mem_gb < 1:
        raise InputError(f"--mem-gb: {mem_gb:g}; give 1 GB at least, and 4 GB for a whole head")
    from pvsbook._workers import MEMORY_PER_WORKER_GB, default_workers

    n = workers
    if n is None:
        n = max(1, min(default_workers(), int(mem_gb / MEMORY_PER_WORKER_GB)))
    return n, mem_gb / n


def _summarise(folder: BidsFolder, out_dir: Path, options: dict[str, Any], compare: str) -> None:
    """Write the tables and the page of all people, and say where."""
    from pvsbook.bids import group

    result = group.summarise(folder, out_dir, settings=options, compare=compare)
    for name, table in result.tables.items():
        counts = table["outcome"].value_counts().to_dict()
        text = f"{name}: {', '.join(f'{n} {outcome}' for outcome, n in counts.items())}"
        console().print(text, markup=False, soft_wrap=True)
    for path in (*result.files, result.report):
        console().print(str(path), markup=False, soft_wrap=True)
    if not result.participants_match:
        console().print(
            "participants.tsv matches nobody who was measured, so its columns are not in the "
            "tables; write its labels like the folders",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


def _until_failure(steps: Iterator[Record]) -> Iterator[Record]:
    for record in steps:
        yield record
        if record.status == "failed":
            return


def _report(records: list[Record], out_dir: Path, labels: list[str], total: int) -> None:
    """Count, then name what failed or was skipped; exit with 1 where somebody was not measured."""
    count(records)
    where = f"Pages: {out_dir}/sub-*.html; log: {out_dir}/logs/run.log"
    console().print(where, markup=False, soft_wrap=True)
    if len(records) < total:
        words = f"stopped at the first failure, {total - len(records)} scans before the end"
        console().print(words, markup=False, soft_wrap=True)
        raise typer.Exit(1)
    ended = [r.status for r in records]
    if "done" not in ended and "failed" not in ended:
        raise InputError(
            f"{out_dir}: no scan has what a method needs; see the lines above", code=NO_INPUT
        )
    measured = {r.name.split("_")[0] for r in records if r.status in ("done", "failed")}
    nothing = [label for label in labels if label not in measured]
    if nothing:
        words = f"nothing could be measured in {', '.join(nothing)}; see the lines above"
        console().print(words, markup=False, soft_wrap=True)
    if "failed" in ended or nothing:
        raise typer.Exit(1)
