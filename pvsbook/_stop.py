"""Ctrl-C, and a request to end: a word to the user instead of a traceback."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
PATIENCE_S = 1.0  # a second signal after that ends the process at once

_held: list[int] = []  # signals that wait for the end of `uninterrupted`
_depth = 0


class Stopped(BaseException):
    """The user or the system asks this process to end.

    No `KeyboardInterrupt`: click and Dask catch that one, and an ``except Exception`` none.

    Attributes
    ----------
    code
        Exit code, 128 and the number of the signal, as a shell has it.
    progress
        How far the work was; empty where it has no steps.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        self.progress = ""

    def __str__(self) -> str:
        """Say it in one sentence, with what to do."""
        done = f"; {self.progress}" if self.progress else ""
        return f"stopped{done}; run the same command again to go on"


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in this block where a signal asks to end; end at once at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first_s = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        del frame
        if first_s:
            if time.monotonic() - first_s > PATIENCE_S:  # `timeout` sends each signal twice
                os._exit(128 + number)
            return
        first_s = time.monotonic()
        if _depth:
            _held.append(number)
        else:
            raise Stopped(number)

    # What the shell tells us to ignore (nohup, a job in the background) stays ignored.
    before = {n: signal.getsignal(n) for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish this block, which must be short, before a signal is heard."""
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _held and not _depth:
            raise Stopped(_held.pop())
