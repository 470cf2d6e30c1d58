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
from rich.table import Table

from pvsbook._environment import check_spelling
from pvsbook._errors import InputError
from pvsbook._version import __version__

if TYPE_CHECKING:
    from pvsbook.bids import Done
    from pvsbook.jobs import Record

__all__ = ["app", "console", "count", "main", "watch"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Perivascular spaces, ALPS and QSM: from one scan to a number with its uncertainty.",
)
data = typer.Typer(no_args_is_help=True, help="List, fetch and verify the public data sets.")
app.add_typer(data, name="data")

SEVERAL = (
    "--magnitude",
    "--phase",
    "--participant-label",
    "--session-label",
)  # options that take several files after one flag

Out = Annotated[Path, typer.Option("--out", help="Folder for the results (BIDS-Derivatives).")]


def console() -> Console:
    """Print to a terminal with its width, to a pipe without folding."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=200)


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
        Literal["pvs", "alps", "qsm"] | None,
        typer.Option(help="Only the one scan that this method takes, with its sidecars."),
    ] = None,
) -> None:
    """Bring data sets into the cache, each file verified before it gets its name."""
    from pvsbook import manifest, scans

    if method:
        if files or not datasets or len(datasets) != 1:
            raise InputError("data fetch: --method takes one data set and no --file")
        found = manifest.describe(datasets[0]).scan(method, subject=subject, session=session)
        files, subject = [f.path for f in scans.files_of(datasets[0], found)], None
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


@app.command()
def doctor() -> None:
    """Look at this machine: versions, cores, memory, cache, and what is missing."""
    import platform

    import psutil

    from pvsbook import manifest
    from pvsbook._version import required

    table = Table("what", "found", box=None)
    table.add_row("pvsbook", __version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.system()}")
    table.add_row("cores", str(psutil.cpu_count()))
    memory = psutil.virtual_memory()
    table.add_row("memory", f"{decimal(memory.available)} free of {decimal(memory.total)}")
    cache = manifest.cache()
    free = psutil.disk_usage(str(next(p for p in (cache, *cache.parents) if p.exists()))).free
    table.add_row("cache", f"{cache}, {decimal(free)} free")
    table.add_row("mirror", os.environ.get("PVSBOOK_MIRROR") or "none")
    table.add_row("offline", "yes" if manifest.offline() else "no")
    missing = _versions(table, required())
    try:
        where = manifest.folder()
        table.add_row("manifest", f"{len(manifest.datasets())} data sets in {where}")
    except InputError as error:
        table.add_row("manifest", "none")
        missing.append(f"the manifest ({error})")
    for point in entry_points(group="pvsbook.doctor"):
        table.add_row(point.name, point.load()())
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
def pvs(
    image: Annotated[Path, typer.Argument(help="T2w scan (NIfTI); T1w with --contrast t1.")],
    out: Out,
    contrast: Annotated[
        Literal["t1", "t2"], typer.Option(help="t2: spaces are bright; t1: dark.")
    ] = "t2",
    wmh_mask: Annotated[
        Path | None, typer.Option(help="White-matter hyperintensities, on the grid of the scan.")
    ] = None,
    brain_mask: Annotated[
        Path | None, typer.Option(help="Brain, on the grid of the scan; for a whole head.")
    ] = None,
    registration: Annotated[
        Literal["affine", "syn"],
        typer.Option(help="syn: follow wide ventricles and unusual shapes; 20 s more."),
    ] = "affine",
) -> None:
    """Count and measure perivascular spaces in one scan."""
    from pvsbook import bids

    _say(
        bids.measure_pvs(
            image,
            out,
            contrast=contrast,
            wmh_mask=wmh_mask,
            brain_mask=brain_mask,
            registration=registration,
        )
    )


@app.command()
def alps(
    dwi: Annotated[Path, typer.Argument(help="Diffusion series (4D NIfTI).")],
    bval: Annotated[Path, typer.Option(help="b-values, FSL format.")],
    bvec: Annotated[Path, typer.Option(help="b-vectors, FSL format.")],
    out: Out,
    brain_mask: Annotated[Path | None, typer.Option(help="Brain, on the same grid.")] = None,
    rois: Annotated[
        str, typer.Option(help="2.5mm or 5mm spheres, or a label image drawn by hand.")
    ] = "2.5mm",
    search_mm: Annotated[
        float, typer.Option(help="Move each sphere by up to this, to where fibres run right.")
    ] = 0.0,
    nonlinear: Annotated[
        bool, typer.Option("--nonlinear", help="Refine the registration (SyN); 10 s more.")
    ] = False,
    denoise: Annotated[
        Literal["mppca", "patch2self"] | None, typer.Option(help="Denoise first; off by default.")
    ] = None,
    gibbs: Annotated[
        bool, typer.Option("--gibbs", help="Remove ringing; minutes for a whole brain.")
    ] = False,
    motion: Annotated[
        bool, typer.Option("--motion", help="Align the volumes and turn the b-vectors.")
    ] = False,
) -> None:
    """Measure the ALPS index of one diffusion scan."""
    from pvsbook import bids

    _say(
        bids.measure_alps(
            dwi,
            bval,
            bvec,
            out,
            brain_mask=brain_mask,
            rois=rois,
            search_mm=search_mm,
            nonlinear=nonlinear,
            denoise=denoise,
            gibbs=gibbs,
            motion=motion,
        )
    )


@app.command()
def qsm(
    magnitude: Annotated[
        list[Path], typer.Option(help="Magnitude: one file an echo, or one 4D file.")
    ],
    phase: Annotated[list[Path], typer.Option(help="Phase, in the same order.")],
    out: Out,
    echo_times: Annotated[
        str | None,
        typer.Option(help="Seconds, as 0.004,0.008,0.012; by default from the sidecars."),
    ] = None,
    field_strength: Annotated[
        float | None, typer.Option(help="Tesla; by default from the sidecars.")
    ] = None,
    phase_period: Annotated[
        float | None, typer.Option(help="Stored units of one full turn, where not recognised.")
    ] = None,
    flip_phase: Annotated[
        bool, typer.Option("--flip-phase", help="The phase falls in a stronger field.")
    ] = False,
    background: Annotated[
        Literal["lbv", "vsharp", "resharp", "pdf"], typer.Option(help="Background removal.")
    ] = "lbv",
    inversion: Annotated[
        Literal["tv", "edge tv", "tkd", "l2", "tikhonov", "ndi"],
        typer.Option(help="Dipole inversion."),
    ] = "tv",
    reference: Annotated[
        str, typer.Option(help="What is zero: 'whole brain', 'none', or a mask.")
    ] = "whole brain",
    brain_mask: Annotated[Path | None, typer.Option(help="Brain, on the same grid.")] = None,
    white_matter: Annotated[
        Path | None, typer.Option(help="White matter, for the table of references.")
    ] = None,
) -> None:
    """Map susceptibility from gradient-echo magnitude and phase."""
    from pvsbook import bids

    _say(
        bids.measure_qsm(
            magnitude,
            phase,
            out,
            echo_times_s=_seconds(echo_times),
            field_strength_t=field_strength,
            phase_period=phase_period,
            phase_sign=-1 if flip_phase else 1,
            background=background,
            inversion=inversion,
            reference=reference,
            brain_mask=brain_mask,
            white_matter=white_matter,
        )
    )


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
        str, typer.Option(help="Which methods, with commas between them.")
    ] = "pvs,alps,qsm",
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
        typer.Option(help="Address of a Dask scheduler, as tcp://10.0.0.5:8786, instead."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run the methods on a BIDS folder of people and visits.

    Each scan becomes maps, a table and a page under OUT_DIR; each person gets a page
    (sub-*.html). A scan that fails stops no other, and says why. What is done is not done again
    while inputs, options and the code of pvsbook are the same: after an interruption, run the same
    command.

    Ends with 0 when all is well, 1 when scans failed or somebody has nothing that could be
    measured (they are listed), 2 when it cannot start.
    """
    from pvsbook import jobs
    from pvsbook.bids import app as people
    from pvsbook.bids import inputs

    options = people.read_settings(settings)
    dataset = inputs.find(
        bids_dir,
        participants=participants or (),
        sessions=sessions or (),
        methods=[m.strip() for m in methods.split(",") if m.strip()],
    )
    for note in dataset.notes:
        console().print(f"note: {note}", markup=False, soft_wrap=True)
    if level == "group":
        from pvsbook.bids import group

        result = group.summarise(dataset, out_dir, settings=options)
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
        steps = people.run_people(dataset, out_dir, settings=options, client=client)
        total = sum(1 for _ in people.entries(dataset, options))
        records = watch(steps, total)
    _say_people(records, out_dir, dataset.people)


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
        for record in steps:
            failed += record.status == "failed"
            words = f"{what} ({failed} failed)" if failed else what
            bar.update(line, advance=1, description=words)
            kept.append(replace(record, result={}, inputs={}, outputs={}, log=""))
    return kept


def _say_people(records: list[Record], out_dir: Path, people: list[str]) -> None:
    """Count, then name what failed or was skipped; exit with 1 where somebody was not measured."""
    count(records)
    where = f"Pages: {out_dir}/sub-*.html; log: {out_dir}/logs/run.log"
    console().print(where, markup=False, soft_wrap=True)
    ended = [r.status for r in records]
    if "done" not in ended and "failed" not in ended:
        raise InputError(f"{out_dir}: no scan has what a method needs; see the lines above")
    measured = {r.name.split("_")[0] for r in records if r.status in ("done", "failed")}
    nothing = [person for person in people if person not in measured]
    if nothing:
        words = f"nothing could be measured in {', '.join(nothing)}; see the lines above"
        console().print(words, markup=False, soft_wrap=True)
    if "failed" in ended or nothing:
        raise typer.Exit(1)


def count(records: list[Record]) -> None:
    """Count what was done; name what failed or was skipped."""
    out = console()
    done = [r for r in records if r.status == "done"]
    earlier = sum(not r.again for r in done)
    failed = [r for r in records if r.status == "failed"]
    skipped = [r for r in records if r.status == "skipped"]
    before = f" ({earlier} by an earlier run)" if earlier else ""
    out.print(f"{len(done)} done{before}, {len(failed)} failed, {len(skipped)} skipped")
    for record in (*failed, *skipped):
        out.print(
            f"  {record.status} {record.name}: {record.reason}", markup=False, soft_wrap=True
        )


def _seconds(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--echo-times: {text!r} is not a list of seconds; write it as 0.004,0.008,0.012"
        ) from None


def _say(done: Done) -> None:
    """Print the result, its quality and where the page lies."""
    out = console()
    out.print(done.summary, markup=False)
    out.print(f"Quality: {done.status}", markup=False)
    for reason in done.reasons:
        out.print(f"  - {reason}", markup=False)
    out.print(f"Report: {done.report}", markup=False, soft_wrap=True)


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


def _add_commands_of_others() -> None:
    """Take in the commands that other packages declare, such as those of the book."""
    for point in entry_points(group="pvsbook.commands"):
        app.command(point.name)(point.load())


def main() -> None:
    """Run the command; exit 0 when done, 2 on bad input, 1 when the fault is ours."""
    try:
        check_spelling(sys.argv[1:])
        _add_commands_of_others()
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


if __name__ == "__main__":
    main()
