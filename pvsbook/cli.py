"""The command ``pvsbook``: one scan, many people, public data, and a look at the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from pvsbook._console import console, count, print_version, watch
from pvsbook._data_commands import data
from pvsbook._environment import check_spelling
from pvsbook._errors import USAGE, InputError
from pvsbook._method_commands import flag_of, make_command
from pvsbook._run_command import SEVERAL, names_of, run
from pvsbook._stop import Stopped, stoppable
from pvsbook._version import __version__

__all__ = ["app", "count", "main", "watch"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Perivascular spaces, ALPS and QSM: from one scan to a number with its uncertainty.",
)
app.add_typer(data, name="data")
app.command()(run)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(
    bids_dir: Annotated[
        Path | None,
        typer.Argument(help="A BIDS folder to look at as well, before it is run."),
    ] = None,
    derivatives: Annotated[
        list[Path] | None,
        typer.Option("--derivatives", "-d", help="Folders of other pipelines, with masks."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Which methods, with commas between them; by default all.")
    ] = None,
) -> None:
    """Look at this machine, or at a BIDS folder: who has what, what will be refused, what warns.

    Of the folder, each file is read once; nothing is fitted or registered. Ends with 1 where
    somebody lacks what a method needs.
    """
    if bids_dir is not None:
        _look_at(bids_dir, derivatives or (), methods)
        return
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


def _look_at(bids_dir: Path, derivatives: Sequence[Path], methods: str | None) -> None:
    """Print what of a BIDS folder can be measured."""
    from pvsbook.bids import inputs, survey

    folder = inputs.find(bids_dir, methods=names_of(methods), derivatives=derivatives)
    lines, is_whole = survey.survey(folder)
    for line in lines:
        console().print(line, markup=False, soft_wrap=True)
    if not is_whole:
        raise typer.Exit(1)


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


def expand_several(arguments: list[str]) -> list[str]:
    """Let ``--phase a b c`` mean ``--phase a --phase b --phase c``, as a shell's ``*`` writes it.

    Examples
    --------
    >>> expand_several(["qsm", "--phase", "a", "b", "--out", "o"])
    ['qsm', '--phase', 'a', '--phase', 'b', '--out', 'o']
    """
    from pvsbook.methods import ALL

    several = {flag_of(i.name) for method in ALL for i in method.inputs if i.is_several}
    several |= {*SEVERAL}
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

    `pvsbook run` tells kinds of bad input apart (see `pvsbook._run_command.run`).
    Where it is stopped by a signal, with 128 and its number: 130 for Ctrl-C, 143 for TERM.
    """
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    usage = USAGE if asked == "run" else 2
    try:
        with stoppable():
            check_spelling(sys.argv[1:])
            _add_commands(asked)
            app(args=expand_several(sys.argv[1:]), prog_name="pvsbook")
    except SystemExit as end:
        sys.exit(usage if end.code == 2 else end.code)
    except InputError as error:
        print(f"pvsbook: {error}", file=sys.stderr)
        sys.exit(usage if error.code is None or asked != "run" else error.code)
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
