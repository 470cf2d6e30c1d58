"""Bring the bytes of one address to a file, whatever the network does.

The file grows in place and is never removed for a fault of the network, so that the next call
goes on where this one stopped.  Whether the bytes are the right ones is for the caller to check.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3

from pvsbook._errors import InputError
from pvsbook._version import __version__

CHUNK = 1 << 16
TIMEOUT_S = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
SLOW_S = 60.0
SLOW = 1 << 16
"""Break off a connection that brings less than `SLOW` bytes in `SLOW_S` seconds."""
TRIES = 5
GAIN = 1 << 20
"""Give up after `TRIES` failures in a row; a try that brought `GAIN` new bytes ends the row."""
BACKOFF_S = 1.0
"""First pause between tries; each further one is twice as long."""
MAX_WAIT_S = 60.0
"""The longest pause that a server may ask for with Retry-After."""

BUSY = (408, 429, 500, 502, 503, 504)
NOT_THERE = (403, 404, 410)  # S3 answers 403 where one may not list

OTHER_FILE = (
    "not the file that the manifest names, so it was not taken: correct or unset PVSBOOK_MIRROR, "
    "or tell the project that the public file has changed"
)
_log = logging.getLogger(__name__)


class Absent(Exception):
    """The address has no such file; another may."""


class _Broken(Exception):
    """A transfer that is worth another try, after `wait_s` seconds if the server says so."""

    def __init__(self, message: str, wait_s: float | None = None):
        super().__init__(message)
        self.wait_s = wait_s


def session() -> requests.Session:
    """Open connections that are kept from one file to the next."""
    opened = requests.Session()
    opened.headers["User-Agent"] = f"pvsbook/{__version__}"
    return opened


def exists(url: str, session: requests.Session) -> bool:
    """Ask whether an address has a file, without its bytes."""
    try:
        code = session.head(url, timeout=TIMEOUT_S, allow_redirects=True).status_code
    except requests.RequestException as error:
        raise InputError(f"{url}: {_in_words(error)}; check the address") from None
    if code not in {200, *NOT_THERE}:
        raise InputError(f"{url}: HTTP {code}; check the address")
    return code == 200


def download(
    url: str,
    part: Path,
    size: int,
    session: requests.Session,
    report: Callable[[int, int], None],
) -> None:
    """Append to `part` until it has `size` bytes.

    Parameters
    ----------
    url : str
        Where the bytes are.
    part : pathlib.Path
        The growing file; it may hold the beginning already.
    size : int
        Bytes expected in all.
    session : requests.Session
        From :func:`session`.
    report : callable
        Called with the bytes so far and the bytes in all.

    Raises
    ------
    Absent
        If the address has no such file.
    InputError
        If the server offers another size, or keeps failing.
    OSError
        If the disk fails.
    """
    failures = 0
    while True:
        start = part.stat().st_size if part.exists() else 0
        try:
            return _receive(url, part, start, size, session, report)
        except _Broken as broken:
            gained = part.stat().st_size - start if part.exists() else 0
            failures = 1 if gained >= GAIN else failures + 1
            wait_s = BACKOFF_S * 2 ** (failures - 1) if broken.wait_s is None else broken.wait_s
            if failures >= TRIES or wait_s > MAX_WAIT_S:
                asks = f", and asks to wait {wait_s:.0f} s" * (wait_s > MAX_WAIT_S)
                raise InputError(
                    f"{url}: {broken}{asks}; gave up at try {failures}. Check the network "
                    "and fetch again later: what came so far is kept"
                ) from None
            _log.info("%s: %s; trying again in %.1f s", url, broken, wait_s)
            time.sleep(wait_s)


def _receive(
    url: str,
    part: Path,
    start: int,
    size: int,
    session: requests.Session,
    report: Callable[[int, int], None],
) -> None:
    """Ask once for the bytes from `start` on, and append what comes."""
    if start == size:
        return
    if start > size:  # not the beginning of this file
        start = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            start = done = _begin(url, part, start, size, response)
            with part.open("ab" if start else "wb") as out:
                since, before = time.monotonic(), done
                while chunk := response.raw.read1(CHUNK, decode_content=False):
                    done += len(chunk)
                    if done > size:
                        break
                    out.write(chunk)
                    report(done, size)
                    if time.monotonic() - since > SLOW_S:
                        if done - before < SLOW:
                            raise _Broken(f"less than {SLOW} bytes in {SLOW_S:.0f} s")
                        since, before = time.monotonic(), done
    except (requests.exceptions.SSLError, requests.TooManyRedirects) as error:
        raise InputError(f"{url}: {error}; check the address and this machine's clock") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Broken(_in_words(error)) from None
    if done > size:
        part.unlink()
        raise InputError(f"{url}: more than the {size} bytes expected; {OTHER_FILE}")
    if done < size:
        raise _Broken(f"the connection ended after {done} of {size} bytes")


def _begin(url: str, part: Path, start: int, size: int, response: requests.Response) -> int:
    """Judge a response by its head, and say from which byte on it sends the file."""
    code = response.status_code
    sends = response.headers.get("Content-Range", "")
    if code in BUSY:
        raise _Broken(f"the server answers HTTP {code}", _retry_after_s(response))
    if code in NOT_THERE:
        raise Absent(f"{url} answers HTTP {code}")
    if code == 416 or (code == 206 and not sends.startswith(f"bytes {start}-")):
        part.unlink(missing_ok=True)
        raise _Broken("the server cannot go on from where the transfer stopped")
    if code not in {200, 206}:
        raise InputError(f"{url}: HTTP {code} {response.reason}; check the address")
    if code == 200:  # the whole file, asked for or not
        start = 0
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and start + int(length) != size:
        raise InputError(
            f"{url}: offers {start + int(length)} bytes instead of {size}; {OTHER_FILE}"
        )
    return start


def _retry_after_s(response: requests.Response) -> float | None:
    try:
        return float(urllib3.Retry().parse_retry_after(response.headers["Retry-After"]))
    except (KeyError, urllib3.exceptions.InvalidHeader):
        return None


def _in_words(error: Exception) -> str:
    """Tell a network error without the objects' addresses that its text is full of."""
    text = str(error).lower()
    for sign, words in {
        "timed out": "the server does not answer in time",
        "resol": "the host's name cannot be resolved",
        "refused": "the server refuses the connection",
    }.items():
        if sign in text:
            return words
    return "the connection broke"
