"""Run notebooks in a fresh kernel and keep their text outputs: ``python book/_ext/notebooks.py``.

Images and viewers are dropped before the file is written: they are made again by every build, and
a diff of them tells nobody anything.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
KEPT_METADATA = ("mystnb", "scan", "tags", "editable")


def slim(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Keep what a diff can show: text outputs, and the metadata that the book reads."""
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_METADATA}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if any(part in data.get("text/html", "") for part in ("<iframe", "<script")):
                del data["text/html"]
            for kind in [k for k in data if k.startswith("image/")]:
                del data[kind]
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k == "pvsbook"} | {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def run(path: Path) -> float:
    """Execute a notebook in place; return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=600,
        coalesce_streams=True,  # or a busy machine splits what a quiet one prints at once
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    seconds = time.perf_counter() - start
    temporary = path.with_suffix(".ipynb.part")
    nbformat.write(slim(notebook), temporary)
    temporary.replace(path)
    return seconds


def main() -> int:
    """Run the notebooks named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    names = parser.parse_args().notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    failed = 0
    for path in names:
        try:
            print(f"{path.name}: {run(path.resolve()):.1f} s")
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
