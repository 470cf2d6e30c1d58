"""The command ``pvsbook``: one scan to a number, public data, and a look at the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pvsbook._errors import InputError
from pvsbook._version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Perivascular spaces, ALPS and QSM: from one scan to a number with its uncertainty.",
)
data = typer.Typer(no_args_is_help=True, help="List, fetch and verify the public data sets.")
app.add_typer(data, name="data")

SEVERAL = ("--magnitude", "--phase")  # options that take several files after one flag

Out = Annotated[Path, typer.Option("--out", help="Folder for the results (BIDS-Derivatives).")]


def _out() -> Console:
    """Print to a terminal with its width, to a pipe without folding."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        _out().print(f"pvsbook {__version__}")
        raise typer.Exit


def expand_several(arguments: list[str]) -> list[str]:
    """Let ``--phase a b c`` mean ``--phase a --phase b --phase c``, as a shell's ``*`` writes it.

    Examples
    --------
    >>> expand_several(["qsm", "--phase", "a", "b", "--out", "o"])
    ['qsm', '--phase', 'a', '--phase', 'b', '--out', 'o']
    """
    expanded: list[str] = []
    current, taken = "", 0
    for word in arguments:
        if word.startswith("-"):
            current, taken = (word, 0) if word in SEVERAL else ("", 0)
        elif current:
            taken += 1
            if taken > 1:
                expanded.append(current)
        expanded.append(word)
    return expanded


def main() -> None:
    """Run the command; exit 0 when done, 2 on bad input, 1 when the fault is ours."""
    try:
        app(args=expand_several(sys.argv[1:]), prog_name="pvsbook")
    except InputError as error:
        print(f"pvsbook: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pvsbook: stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("PVSBOOK_DEBUG"):
            raise
        print(
            f"pvsbook: this is our fault, not yours: {type(error).__name__}: {error}\n"
            "Run it again with PVSBOOK_DEBUG=1 for the whole story, and please report it.",
            file=sys.stderr,
        )
        sys.exit(1)
