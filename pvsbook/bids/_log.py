"""A file for each run: what was asked, what happened to each scan, and how it ended."""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pvsbook import jobs
from pvsbook._errors import CANNOT_CREATE, InputError
from pvsbook._version import __version__, required


class RunLog:
    """The log of one run, at ``logs/run-TIME.log``; nothing of it goes to the terminal.

    Parameters
    ----------
    top
        Folder of the results.
    asked
        What the user asked for, a line each.

    Raises
    ------
    InputError
        The folder ``logs`` cannot be written.
    """

    def __init__(self, top: Path, asked: Sequence[str]) -> None:
        self._start, self._ended = time.monotonic(), Counter[str]()
        name = time.strftime("run-%Y%m%dT%H%M%SZ", time.gmtime())
        self._log = logging.Logger("pvsbook.run")
        for n in range(1, 1000):  # runs that start in one second, as of a cluster
            path = top / "logs" / f"{name}{'' if n == 1 else f'-{n}'}.log"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._handler = logging.FileHandler(path, mode="x", encoding="utf-8")
                break
            except FileExistsError as error:
                if path.parent.is_dir():
                    continue
                raise InputError(f"{path.parent}: is no folder; remove it") from error
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be written ({error.strerror})", code=CANNOT_CREATE
                ) from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._log.addHandler(self._handler)
        self.say(
            f"pvsbook {__version__}, Python {platform.python_version()}, {platform.platform()}"
        )
        self.say(", ".join(f"{name} {version(name)}" for name in required()))
        for line in asked:
            self.say(line)

    def say(self, text: str) -> None:
        """Write a line, with the time before it."""
        self._log.info("%s", text)

    def record(self, record: jobs.Record, notes: Sequence[str]) -> None:
        """Write how a scan ended, with its seconds, warnings and what was found odd in it."""
        self._ended[record.status] += 1
        if record.is_cached:
            self.say(f"{record.name} was done")
            return
        reason = f"{record.reason} " if record.reason else ""
        used = f"({record.seconds:.1f} s, worker's peak {record.peak_mb:.0f} MB)"
        self.say(f"{record.name} {record.status} {reason}{used}")
        if record.result.get("status", "pass") != "pass":
            reasons = "; ".join(map(str, record.result.get("reasons", ())))
            self.say(f"{record.name} quality {record.result['status']}: {reasons}")
        for note in notes:
            self.say(f"{record.name} note: {note}")
        if record.log:
            self.say(record.log)

    def close(self, total: int) -> None:
        """Write the counts and the time of the run."""
        counts = ", ".join(f"{n} {status}" for status, n in sorted(self._ended.items()))
        left = total - self._ended.total()
        stopped = f"; stopped, {left} scans before the end" if left else ""
        self.say(f"ended after {time.monotonic() - self._start:.0f} s: {counts or '0'}{stopped}")
        self._handler.close()
