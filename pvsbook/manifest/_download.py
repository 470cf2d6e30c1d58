"""A downloader for pooch that goes on where an earlier transfer stopped."""

import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from pvsbook._errors import InputError
from pvsbook._version import __version__

CHUNK = 1 << 16
TIMEOUT_S = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
TRIES = 5
GAIN = 1 << 20
"""Give up after `TRIES` failures in a row; a try that brought `GAIN` new bytes ends the row."""
SLOW_S = 60.0
SLOW = 1 << 16
"""Break off a connection that brings less than `SLOW` bytes in `SLOW_S` seconds."""
BACKOFF_S = 1.0
"""First pause between tries; each further one is twice as long."""
MAX_WAIT_S = 60.0
"""The longest pause that a server may ask for with Retry-After."""

BUSY = (408, 429, 500, 502, 503, 504)
ABSENT = (403, 404, 410)  # S3 answers 403 where one may not list
HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"pvsbook/{__version__}"}

OTHER_FILE = (
    "not the file that the manifest names, so it was not taken: correct or unset PVSBOOK_MIRROR, "
    "or tell the project that the public file has changed"
)
_log = logging.getLogger(__name__)


class AbsentError(Exception):
    """The address has no such file; another may."""


class _BrokenError(Exception):
    """A transfer that is worth another try, after `wait_s` seconds if the server says so."""

    def __init__(self, fault: str, wait_s: float | None = None):
        super().__init__(fault)
        self.wait_s = wait_s


def without_password(address: str) -> str:
    """Leave user and password out of an address, for messages."""
    return re.sub(r"//[^/]*@", "//", address)


def is_address(source: str) -> bool:
    """Tell an address from a path."""
    return "://" in source


def exists(url: str, session: requests.Session) -> bool:
    """Ask whether an address or a folder has a file, without its bytes."""
    if not is_address(url):
        return Path(url).is_file()
    try:
        code = session.head(url, timeout=TIMEOUT_S, allow_redirects=True).status_code
        fault = f"HTTP {code}"
    except requests.RequestException as error:
        code, fault = 0, _in_words(error)
    if code not in {200, *ABSENT}:
        raise InputError(f"{without_password(url)}: {fault}; check the address")
    return code == 200


def length(part: Path) -> int:
    """Return the bytes of a partial file; none where there is no file."""
    return part.stat().st_size if part.exists() else 0


@dataclass
class Downloader:
    """Download or copy into a partial file, which pooch gets when it is complete.

    The partial file is never removed for a fault of the network, so the next call goes on where
    this one stopped.  Whether the bytes are the right ones is for pooch to check.

    Attributes
    ----------
    part
        The growing file; it may hold the beginning already.
    size
        Bytes expected in all.
    session
        Keeps the connection from one file to the next.
    report
        Called with ``completed``, the bytes so far.
    """

    part: Path
    size: int
    session: requests.Session
    report: Callable[..., None]

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Bring the file.

        Raises
        ------
        AbsentError
            The address has no such file.
        InputError
            The server offers another size, or keeps failing.
        """
        if is_address(url):
            self._resume(url)
        else:
            self.part.unlink(missing_ok=True)
            shutil.copyfile(url, self.part)
        self.part.replace(output_file)

    def _resume(self, url: str) -> None:
        failures = 0
        while (start := length(self.part)) != self.size:
            try:
                self._receive(url, start if start < self.size else 0)
            except _BrokenError as broken:
                failures = 1 if length(self.part) - start >= GAIN else failures + 1
                fault, wait_s = str(broken), broken.wait_s
                if wait_s is None:
                    wait_s = BACKOFF_S * 2 ** (failures - 1)
                elif wait_s > MAX_WAIT_S:
                    fault += f", and asks to wait {wait_s:.0f} s"
                if failures >= TRIES or wait_s > MAX_WAIT_S:
                    raise InputError(
                        f"{fault}; gave up at try {failures}. Check the network and fetch again "
                        "later: what came so far is kept"
                    ) from None
                _log.info("%s: %s; again in %.1f s", without_password(url), fault, wait_s)
                time.sleep(wait_s)

    def _receive(self, url: str, start: int) -> None:
        """Ask once for the bytes from `start` on, and append what comes."""
        headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with self.session.get(
                url, headers=headers, stream=True, timeout=TIMEOUT_S
            ) as response:
                done = self._first_byte(start, response)
                since, before = time.monotonic(), done
                with self.part.open("ab" if done else "wb") as out:
                    # read1 gives what has come; read would lose it where the connection breaks
                    while chunk := response.raw.read1(CHUNK, decode_content=False):
                        done += out.write(chunk)
                        self.report(completed=done)
                        if done > self.size:
                            raise InputError(f"sends more than {self.size} bytes; {OTHER_FILE}")
                        if time.monotonic() - since > SLOW_S:
                            if done - before < SLOW:
                                raise _BrokenError(f"less than {SLOW} bytes in {SLOW_S:.0f} s")
                            since, before = time.monotonic(), done
        except (requests.exceptions.SSLError, requests.TooManyRedirects) as error:
            raise InputError(f"{error}; check the address and this machine's clock") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _BrokenError(_in_words(error)) from None
        if done < self.size:
            raise _BrokenError(f"the connection ended after {done} of {self.size} bytes")

    def _first_byte(self, start: int, response: requests.Response) -> int:
        """Judge a response by its head, and say from which byte on it sends the file."""
        code, sends = response.status_code, response.headers.get("Content-Range", "")
        if code in BUSY:
            seconds = response.headers.get("Retry-After", "")  # or a date, which we do not read
            wait_s = float(seconds) if seconds.isdigit() else None
            raise _BrokenError(f"the server answers HTTP {code}", wait_s)
        if code in ABSENT:
            raise AbsentError(f"answers HTTP {code}")
        if code == 416 or (code == 206 and not sends.startswith(f"bytes {start}-")):
            self.part.unlink(missing_ok=True)
            raise _BrokenError("the server cannot go on from where the transfer stopped")
        if code not in {200, 206}:
            raise InputError(f"HTTP {code} {response.reason}; check the address")
        first = start if code == 206 else 0  # 200: the whole file, asked for or not
        rest = response.headers.get("Content-Length", "")
        if rest.isdigit() and first + int(rest) != self.size:
            raise InputError(f"offers {first + int(rest)} bytes, not {self.size}; {OTHER_FILE}")
        return first


def _in_words(error: Exception) -> str:
    """Name a network error without the objects' addresses that its text is full of."""
    text = str(error).lower()
    for sign, words in {
        "timed out": "the server does not answer in time",
        "resol": "the host's name cannot be resolved",
        "refused": "the server refuses the connection",
    }.items():
        if sign in text:
            return words
    return "the connection broke"
