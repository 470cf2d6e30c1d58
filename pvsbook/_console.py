"""Where commands print, and what they say of many records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from pvsbook._stop import Stopped
from pvsbook._version import __version__

if TYPE_CHECKING:
    from pvsbook.jobs import Record


def console() -> Console:
    """Print to a terminal with its width, to a pipe without folding."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=200)


def print_version(version: bool) -> None:
    """Print the version and end, where it is asked for."""
    if version:
        console().print(f"pvsbook {__version__}")
        raise typer.Exit


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
