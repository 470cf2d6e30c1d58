"""Commands for the public data sets: ``pvsbook data list|fetch|verify|cite``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from pvsbook._console import console
from pvsbook._errors import InputError

data = typer.Typer(no_args_is_help=True, help="List, fetch and verify the public data sets.")


@data.command("list")
def data_list() -> None:
    """List the data sets: size, licence, and what is here already."""
    from pvsbook import manifest

    table = Table("data set", "files", "size", "here", "licence", "title", box=None)
    for name in manifest.datasets():
        entry = manifest.describe(name)
        here = sum(manifest.path(name, f.path).is_file() for f in entry.files)
        table.add_row(
            name,
            str(len(entry.files)),
            decimal(entry.size),
            f"{here}/{len(entry.files)}",
            entry.licence,
            entry.title,
        )
    console().print(table)
    console().print(f"Files are kept in {manifest.cache()} (PVSBOOK_DATA changes it).")


@data.command("fetch")
def data_fetch(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Names from `data list`; with a mirror, all it has.")
    ] = None,
    files: Annotated[
        list[str] | None, typer.Option("--file", help="Only this file or pattern; repeatable.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only this person, as sub-1003.")] = None,
    session: Annotated[str | None, typer.Option(help="With --method: this visit.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Only the one scan that this method takes, with its sidecars."),
    ] = None,
) -> None:
    """Bring data sets into the cache, each file verified before it gets its name."""
    from pvsbook import manifest

    if method:
        if files or not datasets or len(datasets) != 1:
            raise InputError("data fetch: --method takes one data set and no --file")
        entry = manifest.describe(datasets[0])
        scan = entry.scan(method, subject=subject, session=session)
        files, subject = [file.path for file in entry.files_of(scan)], None
    wanted: dict[str, list[str] | None] = dict.fromkeys(datasets or (), files)
    if not wanted:
        wanted = {name: list(held) for name, held in manifest.available_from_mirror().items()}
    if not wanted:
        raise InputError(
            "data fetch: no data set is named and there is no mirror (PVSBOOK_MIRROR); "
            f"name one of: {', '.join(manifest.datasets())}"
        )
    for name, chosen in wanted.items():
        picked = manifest.describe(name).select(chosen, subject=subject)
        console().print(f"{name}: {len(picked)} files, {decimal(sum(f.size for f in picked))}")
        done = manifest.fetch(name, [f.path for f in picked])
        for file, how in done.how.items():
            console().print(f"  {how:<10} {file}")


@data.command("verify")
def data_verify(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Names from `data list`; by default all.")
    ] = None,
) -> None:
    """Check cached files against the manifest, by size and checksum."""
    from pvsbook import manifest

    wrong = []
    for name in datasets or manifest.datasets():
        states = manifest.verify(name)
        present = {f: s for f, s in states.items() if s != "missing"}
        wrong += [f"{name}/{f}: {s}" for f, s in present.items() if s != "ok"]
        good = sum(s == "ok" for s in present.values())
        console().print(f"{name}: {good} good, {len(states) - len(present)} not here")
    if wrong:
        raise InputError(
            "these cached files are not those of the manifest; remove them and fetch again:\n  "
            + "\n  ".join(wrong)
        )


@data.command("cite")
def data_cite(
    datasets: Annotated[list[str], typer.Argument(help="Names from `data list`.")],
) -> None:
    """Print how to cite data sets."""
    from pvsbook import manifest

    console().print(manifest.cite(datasets), markup=False)
