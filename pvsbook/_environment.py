"""What a machine may lack: a place for compiled code, a locale that can spell."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pvsbook._errors import InputError

WINDOWS = (
    "pvsbook needs Linux or macOS to work on many scans: Windows has neither the file locks nor "
    "the limits of a process that it uses; run it inside the Windows Subsystem for Linux (WSL)"
)


def place_numba_cache() -> None:
    """Give numba a folder of this process where it has none: read-only package and home."""
    if "NUMBA_CACHE_DIR" in os.environ or _can_write(Path(__file__).parent):
        return
    import platformdirs

    if _can_write(Path(platformdirs.user_cache_dir())):
        return
    folder = tempfile.mkdtemp(prefix="pvsbook-numba-")  # private: compiled code is trusted
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder  # worker processes inherit it


def _can_write(folder: Path) -> bool:
    there = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    return os.access(there, os.W_OK | os.X_OK)


def check_spelling(arguments: list[str]) -> None:
    """Refuse paths that this process cannot spell; print what a terminal cannot in escapes.

    Raises
    ------
    InputError
        An argument holds bytes that the locale has no letters for.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for word in arguments:
        if any("\udc80" <= letter <= "\udcff" for letter in word):
            shown = word.encode("ascii", "backslashreplace").decode()
            raise InputError(
                f"{shown}: the locale of this shell cannot spell it; set another one first "
                "(export LC_ALL=C.UTF-8, or PYTHONUTF8=1)"
            )
