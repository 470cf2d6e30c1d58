"""The command ``pvsbook``: one scan, many people, public data, and a look at the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from pvsbook._console import console
from pvsbook._data_commands import data
from pvsbook._environment import check_spelling
from pvsbook._errors import InputError
from pvsbook._method_commands import flag_of, make_command
from pvsbook._stop import Stopped, stoppable
from pvsbook._version import __version__

if TYPE_CHECKING:
    from pvsbook.jobs import Record

__all__ = ["app", "count", "main", "watch"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Perivascular spaces, ALPS and QSM: from one scan to a number with its uncertainty.",
)
app.add_typer(data, name="data")


def _print_version(version: bool) -> None:
    if version:
        console().print(f"pvsbook {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor() -> None:
    """Look at this machine: versions, cores, memory, cache, and what is missing."""
    import platform

    import psutil

    from pvsbook import manifest
    from pvsbook._version import required
    from pvsbook.manifest._download import without_password

    table = Table("what", "found", box=None)
    table.add_row("pvsbook", __version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.system()}")
    table.add_row("cores", str(psutil.cpu_count()))
    memory = psutil.virtual_memory()
    table.add_row("memory", f"{decimal(memory.available)} free of {decimal(memory.total)}")
    cache = manifest.cache()
    free = psutil.disk_usage(str(next(p for p in (cache, *cache.parents) if p.exists()))).free
    table.add_row("cache", f"{cache}, {decimal(free)} free")
    table.add_row("mirror", without_password(os.environ.get("PVSBOOK_MIRROR") or "none"))
    table.add_row("offline", "yes" if manifest.offline() else "no")
    missing = _versions(table, required())
    try:
        where = manifest.folder()
        table.add_row("manifest", f"{len(manifest.datasets())} data sets in {where}")
    except InputError as error:
        table.add_row("manifest", "none")
        missing.append(f"the manifest ({error})")
    for point in entry_points(group="pvsbook.doctor"):
        table.add_row(point.name, escape(point.load()()))
    table.add_row("missing", ", ".join(missing) or "nothing")
    console().print(table)
    if missing:
        raise InputError(
            f"missing: {', '.join(missing)}; run: pip install --force-reinstall pvsbook"
        )


def _versions(table: Table, names: list[str]) -> list[str]:
    """Put the version of each package into a table; return those that are not there."""
    from importlib.metadata import PackageNotFoundError, version

    missing = []
    for name in names:
        try:
            table.add_row(name, version(name))
        except PackageNotFoundError:
            missing.append(name)
    return missing


@app.command()
def run(
    bids_dir: Annotated[Path, typer.Argument(help="Top of a BIDS folder (with sub-*).")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the results (BIDS-Derivatives).")],
    level: Annotated[
        Literal["participant", "group"],
        typer.Argument(help="participant: measure each scan; group: then tables and one page."),
    ],
    participants: Annotated[
        list[str] | None,
        typer.Option("--participant-label", help="Only these people, as 01 02 or sub-01."),
    ] = None,
    sessions: Annotated[
        list[str] | None,
        typer.Option("--session-label", help="Only these visits, as 1 2 or ses-1."),
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
            help="Processes on this machine, one thread each; 0: no extra process. By default "
            "one a core, as long as each has 4 GB."
        ),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            help="Bound of each process. One that reaches 95 % of it is ended and its scan tried "
            "twice more. By default an equal share of 80 % of this machine's memory."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler, as tls://10.0.0.5:8786, instead."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run the methods on a BIDS folder of participants and visits.

    Each scan becomes maps, a table and a page under OUT_DIR; each participant gets a page
    (sub-*.html). A scan that fails stops no other, and says why. What is done is not done again
    while inputs, options and the code of pvsbook are the same: after an interruption, run the same
    command.

    Ends with 0 when all is well, 1 when scans failed or somebody has nothing that could be
    measured (they are listed), 2 when it cannot start.
    """
    from pvsbook import jobs
    from pvsbook.bids import app as bids_app
    from pvsbook.bids import inputs

    options = bids_app.read_settings(settings)
    names = None if methods is None else [m.strip() for m in methods.split(",") if m.strip()]
    folder = inputs.find(
        bids_dir,
        participants=participants or (),
        sessions=sessions or (),
        methods=names,
    )
    for note in folder.notes:
        console().print(f"note: {note}", markup=False, soft_wrap=True)
    if level == "group":
        from pvsbook.bids import group

        result = group.summarise(folder, out_dir, settings=options)
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
        return
    with jobs.workers(workers, scheduler=scheduler, memory_gb=memory_gb) as client:
        steps = bids_app.run_participants(folder, out_dir, settings=options, client=client)
        total = sum(1 for _ in bids_app.plan(folder, options))
        records = watch(steps, total)
    _report(records, out_dir, folder.labels)


def watch(steps: Iterator[Record], total: int, what: str = "scans") -> list[Record]:
    """Show a bar on a terminal; be quiet in a pipe.  Keep what is told at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    kept = []
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as bar:
        line = bar.add_task(what, total=total)
        failed = 0
        try:
            for record in steps:
                failed += record.status == "failed"
                words = f"{what} ({failed} failed)" if failed else what
                bar.update(line, advance=1, description=words)
                kept.append(replace(record, result={}, inputs={}, outputs={}, log=""))
        except Stopped as stop:
            stop.progress = f"{len(kept)} of {total} {what} done"
            raise
    return kept


def _report(records: list[Record], out_dir: Path, labels: list[str]) -> None:
    """Count, then name what failed or was skipped; exit with 1 where somebody was not measured."""
    count(records)
    where = f"Pages: {out_dir}/sub-*.html; log: {out_dir}/logs/run.log"
    console().print(where, markup=False, soft_wrap=True)
    ended = [r.status for r in records]
    if "done" not in ended and "failed" not in ended:
        raise InputError(f"{out_dir}: no scan has what a method needs; see the lines above")
    measured = {r.name.split("_")[0] for r in records if r.status in ("done", "failed")}
    nothing = [label for label in labels if label not in measured]
    if nothing:
        words = f"nothing could be measured in {', '.join(nothing)}; see the lines above"
        console().print(words, markup=False, soft_wrap=True)
    if "failed" in ended or nothing:
        raise typer.Exit(1)


def count(records: list[Record]) -> None:
    """Count what was done; name what failed or was skipped."""
    out = console()
    done = [r for r in records if r.status == "done"]
    earlier = sum(r.is_cached for r in done)
    failed = [r for r in records if r.status == "failed"]
    skipped = [r for r in records if r.status == "skipped"]
    before = f" ({earlier} by an earlier run)" if earlier else ""
    out.print(f"{len(done)} done{before}, {len(failed)} failed, {len(skipped)} skipped")
    for record in (*failed, *skipped):
        out.print(
            f"  {record.status} {record.name}: {record.reason}", markup=False, soft_wrap=True
        )


def expand_several(arguments: list[str]) -> list[str]:
    """Let ``--phase a b c`` mean ``--phase a --phase b --phase c``, as a shell's ``*`` writes it.

    Examples
    --------
    >>> expand_several(["qsm", "--phase", "a", "b", "--out", "o"])
    ['qsm', '--phase', 'a', '--phase', 'b', '--out', 'o']
    """
    from pvsbook.methods import ALL

    several = {flag_of(i.name) for method in ALL for i in method.inputs if i.is_several}
    several |= {"--participant-label", "--session-label"}
    expanded: list[str] = []
    current, taken = "", 0
    for word in arguments:
        if word.startswith("-"):
            current, taken = (word, 0) if word in several else ("", 0)
        elif current:
            taken += 1
            if taken > 1:
                expanded.append(current)
        expanded.append(word)
    return expanded


def _add_commands(asked: str) -> None:
    """Add a command for each method, and those that other packages declare, as the book does."""
    from pvsbook import methods

    for method in methods.ALL:
        if method.name == asked:
            app.command(method.name)(make_command(method))
        else:  # its options are not asked for, so that nothing of it needs to be loaded
            app.command(method.name, help=method.help)(lambda: None)
    for point in entry_points(group="pvsbook.commands"):
        app.command(point.name)(point.load())


def main() -> None:
    """Run the command; exit 0 when done, 2 on bad input, 1 when the fault is ours.

    Where it is stopped by a signal, with 128 and its number: 130 for Ctrl-C, 143 for TERM.
    """
    try:
        with stoppable():
            check_spelling(sys.argv[1:])
            _add_commands(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
            app(args=expand_several(sys.argv[1:]), prog_name="pvsbook")
    except InputError as error:
        print(f"pvsbook: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(f"pvsbook: {stop}", file=sys.stderr)
        sys.exit(stop.code)
    except Exception as error:
        if os.environ.get("PVSBOOK_DEBUG"):
            raise
        print(
            f"pvsbook: this is our fault, not yours: {type(error).__name__}: {error}\n"
            "Run it again with PVSBOOK_DEBUG=1 for the whole story, and please report it.",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
