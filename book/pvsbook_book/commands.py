"""Commands that only the book needs: ``pvsbook rerun`` and ``pvsbook simulate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pvsbook._console import console
from pvsbook._errors import InputError
from pvsbook.cli import count, watch

__all__ = ["can_rerun", "rerun", "simulate"]


def can_rerun() -> str:
    """Tell in a line whether notebooks can be rerun here, for ``pvsbook doctor``."""
    from pvsbook_book.rerun import find_notebook, missing_packages

    if missing := missing_packages():
        return f"no: {', '.join(missing)} missing; pip install 'pvsbook[book]'"
    try:
        return f"yes, from {find_notebook('10').parent}"
    except InputError:
        return "no notebooks here: rerun takes them from a copy of the repository"


def rerun(
    notebook: Annotated[str, typer.Argument(help="Its number (20), its name or its path.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the notebook, its page and the outputs.")
    ],
    dataset: Annotated[
        str | None, typer.Option(help="A public scan from `data list`; by default the phantom.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Participant; the first by default.")] = None,
    session: Annotated[str | None, typer.Option(help="Visit; the first by default.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(help="Another value, as SNR=20; repeatable.")
    ] = None,
) -> None:
    """Run a notebook of the book on a public scan, or with other parameters."""
    from pvsbook_book import rerun as reruns

    done = reruns.rerun(
        notebook,
        out,
        dataset=dataset,
        subject=subject,
        session=session,
        changes=parameter or (),
        progress=sys.stderr.isatty(),
    )
    for what, where in (
        ("Notebook", done.notebook),
        ("Page", done.page),
        ("Outputs", done.outputs),
    ):
        if where:
            console().print(f"{what}: {where}", markup=False, soft_wrap=True)


def simulate(
    study: Annotated[
        Literal["nmosd", "migraine", "ms"], typer.Argument(help="Which of the three studies.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the table.")],
    n: Annotated[
        int | None,
        typer.Option("--n", help="Participants in all; by default as many as published."),
    ] = None,
    first: Annotated[
        int | None,
        typer.Option(help="Measure only so many of them now; run again without it for the rest."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the cohort; by default that of the stored table.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Cohorts, with seeds that count up from --seed.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes on this machine, one thread each; 0: no extra process."),
    ] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Bound of each process.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler, as tls://10.0.0.5:8786, instead."),
    ] = None,
) -> None:
    """Make the scans of a virtual study, measure them, and write the table.

    Simulated people: each gets scans with noise, pose and anatomy of their own, measured by the
    same functions as real ones. Writes OUT/STUDY.tsv, its dictionary and its provenance. After an
    interruption, run the same command: who is done is not done again.

    Ends with 0 when all is well, 1 when someone could not be measured, 2 when it cannot start.
    """
    from pvsbook import jobs
    from pvsbook_book.studies import cohorts

    if repeats < 1 or (first is not None and first < 1):
        raise InputError(f"--repeats, --first: {repeats}, {first}; give 1 or more")
    start = cohorts.SEEDS[study] if seed is None else seed
    seeds = range(start, start + repeats)
    total = sum(1 for _ in cohorts.tasks(study, seeds=seeds, n=n, first=first))
    with jobs.workers(workers, scheduler=scheduler, memory_gb=memory_gb) as client:
        steps = cohorts.make(study, out, seeds=seeds, n=n, first=first, client=client)
        records = watch(steps, total, "people")
    written = cohorts.write(study, out, seeds=seeds, n=n, first=first)
    count(records)
    for path in written:
        console().print(str(path), markup=False, soft_wrap=True)
    if any(r.status == "failed" for r in records):
        raise typer.Exit(1)
