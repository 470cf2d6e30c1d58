"""Run a notebook of the book again: on a public scan, or with other parameters.

A notebook that measures a scan takes its phantom by default.  Given a data set, the same cells
run on the scan.  Cells tagged ``phantom``, which need the truth, the quiz and the exercises are
left out, and figures take the words of their metadata key ``scan`` instead of those for the
phantom.  Cells tagged ``remove-cell`` have something to do on a scan alone: the book and other
reruns leave them out.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvsbook import images, manifest
from pvsbook._errors import InputError
from pvsbook_book import scans

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "Rerun",
    "find_notebook",
    "missing_packages",
    "parameters",
    "rerun",
    "takes_scan",
    "without_phantom",
]

NEEDS = ("docutils", "ipykernel", "myst_nb", "nbformat", "papermill")
TEACHING = ("Quiz", "Exercises")  # sections of the book that a rerun leaves out


@dataclass(frozen=True)
class Rerun:
    """Where the results of a rerun lie.

    Attributes
    ----------
    notebook
        The executed notebook.
    page
        The same as one HTML page.
    outputs
        Folder of what the notebook saved, or None where it saved nothing.
    """

    notebook: Path
    page: Path
    outputs: Path | None


def missing_packages() -> list[str]:
    """List the packages that a rerun needs and that are not installed."""
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


def find_notebook(name: str) -> Path:
    """Find a notebook by its path, its name or its number.

    Parameters
    ----------
    name
        ``"notebooks/20_alps_index.ipynb"``, ``"20_alps_index"`` or ``"20"``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        There is no such notebook; the message lists those that there are.

    Examples
    --------
    >>> find_notebook("20").name
    '20_alps_index.ipynb'
    """
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    for top in (*Path(__file__).resolve().parents, Path.cwd(), *Path.cwd().parents):
        if chapters := sorted((top / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            break
    else:
        raise InputError(
            f"no notebooks folder above {Path(__file__).parent} or {Path.cwd()}; "
            "run this in a copy of the repository, or give the path of a notebook"
        )
    stem = name.removesuffix(".ipynb")
    for path in chapters:
        if stem in {path.stem, path.stem.split("_")[0]}:
            return path
    raise InputError(
        f"no notebook {name!r} in {top / 'notebooks'}; "
        f"choose from: {', '.join(p.stem for p in chapters)}"
    )


def takes_scan(notebook: NotebookNode) -> str | None:
    """Say which method's scans a notebook takes, or None: ``pvsbook.method`` of its metadata.

    Parameters
    ----------
    notebook
        As read by nbformat.

    Returns
    -------
    "pvs", "alps", "qsm" or None
    """
    return notebook.metadata.get("pvsbook", {}).get("method")


def parameters(path: images.PathLike) -> list[str]:
    """List the parameters of a notebook, which a rerun can change.

    Parameters
    ----------
    path
        A notebook.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        The notebook has no cell tagged ``parameters``.

    Examples
    --------
    >>> "SEED" in parameters(find_notebook("20"))
    True
    """
    for cell in _read(Path(path)).cells:
        if "parameters" in cell.metadata.get("tags", ()):
            names = (
                node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)
            )
            return [name.id for name in names if isinstance(name.ctx, ast.Store)]
    raise InputError(f"{path}: no cell is tagged 'parameters'; this notebook cannot be rerun")


def _read(path: Path) -> NotebookNode:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise InputError(f"{path}: not a notebook: {str(error).splitlines()[0]}") from None


def rerun(
    notebook: str,
    out: images.PathLike,
    *,
    dataset: str | None = None,
    subject: str | None = None,
    session: str | None = None,
    changes: Sequence[str] = (),
    progress: bool = False,
) -> Rerun:
    """Execute a notebook on a public scan or with other parameters, and render it.

    Parameters
    ----------
    notebook
        See `find_notebook`.
    out
        Folder for the executed notebook, its HTML page and what it saves.
    dataset, subject, session
        The scan; by default the notebook's phantom.
    changes
        ``"NAME=VALUE"``, as ``"SNR=20"``.
    progress
        Show a bar.

    Returns
    -------
    Rerun

    Raises
    ------
    InputError
        An unknown notebook, parameter or scan, files out of reach, or a cell that fails.  What
        ran up to there is kept as ``NAME.failed.ipynb``.
    """
    if missing := missing_packages():
        raise InputError(
            f"rerun needs {', '.join(missing)}; install the book's packages: "
            "pip install 'pvsbook[book]', or run make setup"
        )
    import nbformat
    import papermill

    from pvsbook_book import notebook_page

    logging.getLogger("papermill").setLevel(logging.ERROR)
    source = find_notebook(notebook)
    content, folder = _read(source), Path(os.fspath(out)).absolute()
    values = _changed_values(source, changes)
    title = "simulated"
    if dataset is not None:
        scan = _find_scan(source, content, dataset, subject, session)
        values |= _scan_parameters(dataset, scan, folder)
        title = " ".join([dataset, *(x for x in (scan.subject, scan.session) if x)])
        content = without_phantom(content, title, scan.beware)
    elif subject or session:
        raise InputError("--subject and --session need --dataset")
    else:
        content.cells = [
            c for c in content.cells if "remove-cell" not in c.metadata.get("tags", ())
        ]
    stem = source.stem + ("" if dataset is None else re.sub(r"\W+", "_", f" {title}"))
    target, failed = folder / f"{stem}.ipynb", folder / f"{stem}.failed.ipynb"
    prepared, running = folder / f".{stem}.in.ipynb", folder / f".{stem}.part.ipynb"
    images.write_bytes(nbformat.writes(content).encode(), prepared)
    try:
        with _own_kernel() as kernel:
            papermill.execute_notebook(
                str(prepared),
                str(running),
                parameters=values,
                kernel_name=kernel,
                language="python",
                cwd=str(folder),
                progress_bar=progress,
                log_output=False,
                extra_arguments=["--log-level=ERROR"],
            )
    except papermill.PapermillExecutionError as error:
        running.replace(failed)
        raise InputError(
            f"{source.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"What ran up to there is in {failed}"
        ) from None
    finally:
        prepared.unlink(missing_ok=True)
    done = _read(running)
    done.metadata["kernelspec"] = {"display_name": "Python 3", "name": "python3"}
    images.write_bytes(nbformat.writes(done).encode(), running)
    page = target.with_suffix(".html")
    images.write_bytes(notebook_page.render(done, title).encode(), page)
    running.replace(target)
    failed.unlink(missing_ok=True)  # of an earlier try
    outputs = folder / "derivatives"
    return Rerun(target, page, outputs if outputs.is_dir() else None)


@contextlib.contextmanager
def _own_kernel() -> Iterator[str]:
    """Name a kernel of this very Python: the first one found may be another's."""
    from ipykernel.kernelspec import write_kernel_spec

    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="pvsbook-kernel-") as folder:
        write_kernel_spec(Path(folder, "kernels", "pvsbook"))
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, *([before] if before else [])])
        try:
            yield "pvsbook"
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def _changed_values(source: Path, changes: Sequence[str]) -> dict[str, Any]:
    known = parameters(source)
    values: dict[str, Any] = {}
    for change in changes:
        name, sign, text = change.partition("=")
        if not sign or name not in known:
            raise InputError(
                f"--parameter {change!r}: write NAME=VALUE with a name of {source.stem}: "
                + ", ".join(known)
            )
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def _find_scan(
    source: Path, content: NotebookNode, dataset: str, subject: str | None, session: str | None
) -> manifest.Scan:
    """Make sure that the files of the scan are here, before anything runs."""
    method = takes_scan(content)
    if method is None:
        methods = {p.stem: takes_scan(_read(p)) for p in sorted(source.parent.glob("*.ipynb"))}
        raise InputError(
            f"{source.stem} teaches on simulated data and takes no scan; these do: "
            + ", ".join(f"{name} ({method})" for name, method in methods.items() if method)
        )
    return scans.locate(dataset, method, subject=subject, session=session)[0]


def _scan_parameters(dataset: str, scan: manifest.Scan, folder: Path) -> dict[str, Any]:
    prefix = "sub-" + re.sub(r"\W|_", "", scan.subject or dataset)
    return {
        "DATASET": dataset,
        "SUBJECT": scan.subject,
        "SESSION": scan.session,
        "OUT": str(folder / "derivatives"),
        "PREFIX": f"{prefix}_ses-{scan.session}" if scan.session else prefix,
    }


def without_phantom(notebook: NotebookNode, title: str, beware: str | None) -> NotebookNode:
    """Make a notebook true of a scan: without what needs the phantom, and under another title.

    Parameters
    ----------
    notebook
        As read by nbformat; it is changed.
    title
        Names the scan, in place of "simulated" in headings.
    beware
        What the manifest warns of in this scan.

    Returns
    -------
    NotebookNode
    """
    from nbformat.v4 import new_markdown_cell

    cells: list[NotebookNode] = []
    n_left_out = 0
    section = ""
    for cell in notebook.cells[1:]:
        is_text = cell.cell_type == "markdown"
        if is_text and (heading := re.match(r"## (.+)", cell.source)):
            section = heading[1]
        of_phantom = "phantom" in cell.metadata.get("tags", ())
        if of_phantom or section in TEACHING:
            n_left_out += of_phantom and not is_text
            continue
        if is_text:
            cell.source = re.sub(
                r"^(#+ .*)\(simulated\)", rf"\1({title})", cell.source, flags=re.M
            )
        if words := cell.metadata.get("scan"):
            shown = cell.metadata["mystnb"]
            shown["figure"]["caption"] = words["caption"]
            shown["image"]["alt"] = words["alt"]
        cells.append(cell)
    first = notebook.cells[0]
    first.source = "\n".join(re.findall(r"^(?:\(nb-[\w-]+\)=|# .*)$", first.source, flags=re.M))
    words = (
        f"**This is a rerun on {title}**, a scan without a known truth: every number below is "
        f"this scan's. {n_left_out} cells of the page that need a known truth, the quiz and the "
        "exercises are left out; the page in the book has them."
    ) + (f"\n\n**Beware:** {beware}" if beware else "")
    notebook.cells = [first, new_markdown_cell(words), *cells]
    return notebook
