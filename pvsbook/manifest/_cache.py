"""The cache of verified files, the mirror, and how files come from one address or the other."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import platformdirs
import pooch
import pydantic
import requests
import rich.console
import rich.progress
from rich.filesize import decimal

from pvsbook._errors import InputError
from pvsbook.manifest import _download
from pvsbook.manifest._download import Downloader, is_address, without_password
from pvsbook.manifest._entries import File, datasets, describe, web_address

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Fetched",
    "available_from_mirror",
    "cache",
    "fetch",
    "is_at_hand",
    "offline",
    "path",
    "verify",
]

_log = logging.getLogger(__name__)
# It announces every address, with the password of a mirror.
pooch.get_logger().setLevel(logging.WARNING)


class Fetched(dict[str, Path]):
    """Local paths by the file's path in the data set, and how each file came.

    Attributes
    ----------
    how : dict of str to str
        ``"cached"``, ``"mirrored"`` or ``"downloaded"``.
    """

    def __init__(self, paths: Mapping[str, Path], how: Mapping[str, str]):
        super().__init__(paths)
        self.how = dict(how)


def cache() -> Path:
    """Return the folder of the verified files.

    Returns
    -------
    pathlib.Path
        ``PVSBOOK_DATA``, or the platform's place for caches.  It need not exist.
    """
    own = os.environ.get("PVSBOOK_DATA")
    if own:
        return Path(own).expanduser().absolute()
    return platformdirs.user_cache_path("pvsbook", appauthor=False) / "data"


def path(dataset: str, file: str) -> Path:
    """Return the path of a file in the cache, whether it is there yet or not.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.
    file : str
        The file's path in the data set.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        If the manifest does not know the file, or a link in the cache leads out of it.

    Examples
    --------
    >>> from pvsbook import manifest
    >>> manifest.path("fa_template", "MNI_FA_template.nii.gz").parts[-2:]
    ('fa_template', 'MNI_FA_template.nii.gz')
    """
    if [known.path for known in describe(dataset).select(file)] != [file]:
        raise InputError(f"{dataset}: {file!r} is a pattern; give one path")
    local = cache() / dataset / file
    if not local.resolve().is_relative_to(cache().resolve()):
        raise InputError(
            f"{local} leads out of the cache to {local.resolve()}; "
            "remove the link, or set PVSBOOK_DATA to the folder that you want to use"
        )
    return local


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn an error of the file system into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or cache()}: {error.strerror or error}; free some space there, make "
            "it readable and writable, or set PVSBOOK_DATA to another folder, and fetch again: "
            "what came so far is kept"
        ) from error


@_disk_errors()
def verify(dataset: str, files: str | Iterable[str] | None = None) -> dict[str, str]:
    """Compare cached files with the manifest, by size and checksum.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.
    files
        As in :meth:`Dataset.select`.

    Returns
    -------
    dict of str to str
        ``"ok"``, ``"missing"``, or what is wrong with the file.

    Raises
    ------
    InputError
        If the manifest does not know a file, or the cache cannot be read.
    """
    chosen = describe(dataset).select(files)
    return {file.path: _state(path(dataset, file.path), file) for file in chosen}


@_disk_errors()
def is_at_hand(dataset: str, files: Iterable[str]) -> bool:
    """Return whether files are in the cache, whole, or in a mirror that is a folder.

    The network is not asked.
    """
    mirror = _mirror()
    folder = Path(mirror) / dataset if mirror and not is_address(mirror) else None
    return all(
        state == "ok" or (folder is not None and (folder / name).is_file())
        for name, state in verify(dataset, files).items()
    )


@_disk_errors()
def available_from_mirror() -> dict[str, tuple[str, ...]]:
    """List the manifest's files that the mirror holds.

    Returns
    -------
    dict of str to tuple of str
        File paths by data set; empty without a mirror.  Bytes are not compared here.

    Raises
    ------
    InputError
        If the mirror cannot be reached.
    """
    mirror = _mirror()
    if not mirror or (is_address(mirror) and offline()):
        return {}
    with requests.Session() as session:
        available = {
            name: tuple(
                file.path
                for file in describe(name).files
                if _download.exists(f"{mirror}/{name}/{file.path}", session)
            )
            for name in datasets()
        }
    return {name: files for name, files in available.items() if files}


def offline() -> bool:
    """Return whether PVSBOOK_OFFLINE forbids the network.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        The variable is neither yes nor no.
    """
    value = os.environ.get("PVSBOOK_OFFLINE", "").strip() or "no"
    try:
        return pydantic.TypeAdapter(bool).validate_python(value)
    except pydantic.ValidationError:
        raise InputError(f"PVSBOOK_OFFLINE={value!r} is neither yes nor no; use 1 or 0") from None


def _mirror() -> str:
    """Return the folder or address that is asked first; empty where there is none."""
    value = os.environ.get("PVSBOOK_MIRROR", "").strip()
    if is_address(value):
        try:
            return web_address(value).rstrip("/")
        except ValueError:
            raise InputError(
                f"PVSBOOK_MIRROR={without_password(value)!r} is no http(s) address; "
                "for a folder, give its path"
            ) from None
    if value and not Path(value).expanduser().is_dir():
        raise InputError(f"PVSBOOK_MIRROR={value!r} is no folder; correct or unset it")
    return value and str(Path(value).expanduser().absolute())


def _state(local: Path, file: File) -> str:
    if not local.exists():
        return "missing"
    if (size := local.stat().st_size) != file.size:
        return f"{size} bytes instead of {file.size}"
    algorithm, digest = file.checksum
    actual = pooch.file_hash(str(local), alg=algorithm)
    return "ok" if actual == digest else f"{algorithm} {actual} instead of {digest}"


@_disk_errors()
def fetch(
    dataset: str,
    files: str | Iterable[str] | None = None,
    *,
    subject: str | None = None,
    command: str | None = None,
) -> Fetched:
    """Fetch files into the cache, and verify them by size and checksum.

    A file that is there already is checked and kept.  Others come from the mirror, or else from
    their public address; an interrupted transfer goes on where it stopped.  A progress bar is
    shown where standard error is a terminal.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.
    files : str or iterable of str, optional
        Paths or patterns (``"*_dwi.*"``); all files by default.
    subject : str, optional
        ``"sub-1003"`` or ``"1003"``: this person's files, and those that belong to nobody.
    command : str, optional
        The command that a message tells to run where files are out of reach; by default the one
        that fetches the data set, or the subject.

    Returns
    -------
    Fetched
        A dict from the file's path in the data set to its local path; its ``how`` says of each
        file whether it was cached, mirrored or downloaded.

    Raises
    ------
    InputError
        If a file cannot be had: offline, wrong bytes, no such address, a full disk, a server
        that keeps failing.  Nothing is then left under the file's name.

    Examples
    --------
    >>> from pvsbook import manifest
    >>> paths = manifest.fetch("ds004856", "*ses-wave1*_dwi.*")  # doctest: +SKIP
    >>> paths.how  # doctest: +SKIP
    {'sub-1003/ses-wave1/dwi/sub-1003_ses-wave1_acq-DTI_run-1_dwi.bval': 'downloaded', ...}
    """
    chosen = describe(dataset).select(files, subject=subject)
    states = verify(dataset, [file.path for file in chosen])
    needed = [file for file in chosen if states[file.path] != "ok"]
    sources = {file.path: _sources(dataset, file) for file in needed}
    if unreachable := [file for file in needed if not sources[file.path]]:
        if command is None:
            command = f"pvsbook data fetch {dataset}" + f" --subject {subject}" * bool(subject)
        raise _out_of_reach(dataset, unreachable, states, command)
    how = dict.fromkeys(states, "cached")
    if needed:
        _check_room(dataset, needed)
        with requests.Session() as session, _progress_bar() as bar:
            if not bar.disable:
                size = decimal(sum(file.size for file in needed))
                text = f"{dataset}: {len(needed)} files, {size}, into {cache() / dataset}"
                bar.console.print(text, highlight=False)
            task = bar.add_task(dataset)
            for file in needed:
                bar.reset(task, total=file.size, description=file.path.split("/")[-1])
                part, report = _part(dataset, file), functools.partial(bar.update, task)
                downloader = Downloader(part, file.size, session, report)
                how[file.path] = _fetch_file(dataset, file, sources[file.path], downloader)
    return Fetched({name: path(dataset, name) for name in states}, how)


def _sources(dataset: str, file: File) -> dict[str, str]:
    """List where to get a file from, in order, by the word for `Fetched.how`."""
    mirror, is_offline = _mirror(), offline()
    copy = f"{mirror}/{dataset}/{file.path}"
    if mirror and not is_address(mirror):
        if Path(copy).is_file() and Path(copy).resolve() != path(dataset, file.path).resolve():
            return {"mirrored": copy}
        _log.warning("%s/%s: the mirror does not hold it", dataset, file.path)
    sources = {"mirrored": copy if is_address(mirror) else None, "downloaded": file.url}
    return {how: source for how, source in sources.items() if source and not is_offline}


def _out_of_reach(
    dataset: str, files: list[File], states: Mapping[str, str], command: str
) -> InputError:
    lines = [
        f"{dataset}: {len(files)} files ({decimal(sum(f.size for f in files))}) are not in the "
        f"cache {cache() / dataset}"
        + ", nor in PVSBOOK_MIRROR" * bool(_mirror())
        + ", and PVSBOOK_OFFLINE forbids the network" * offline()
        + ":"
    ]
    for file in files:
        source = file.url or f"no public address: {file.derived_from}"
        lines.append(f"  {file.path}  {decimal(file.size)}  {source}")
        if states[file.path] != "missing":
            lines[-1] += f"  (damaged in the cache: {states[file.path]})"
    if any(file.url for file in files):
        lines.append(f"With a network: PVSBOOK_OFFLINE=0 {command}")
    lines.append(f"With a copy: set PVSBOOK_MIRROR to a folder that holds {dataset}/<path>")
    return InputError("\n".join(lines))


def _part(dataset: str, file: File) -> Path:
    local = path(dataset, file.path)
    return local.with_name(f"{local.name}.part")


def _progress_bar() -> rich.progress.Progress:
    return rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        console=rich.console.Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _check_room(dataset: str, files: list[File]) -> None:
    cache().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache()).free
    need = sum(file.size - _download.length(_part(dataset, file)) for file in files)
    if need > free:
        raise InputError(
            f"{dataset} needs {decimal(need)} in {cache()}, where {decimal(free)} are free; make "
            "room, or set PVSBOOK_DATA to a folder on another disk"
        )


@contextlib.contextmanager
def _lock(file: File) -> Iterator[None]:
    """Let one process at a time fetch a file; the kernel frees the lock of one that dies.

    Where there are no such locks (Windows, some network disks), two at once may spoil each
    other's transfer; the checksum then refuses it.
    """
    lock = cache() / ".locks" / file.checksum[1]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch_file(
    dataset: str, file: File, sources: Mapping[str, str], downloader: Downloader
) -> str:
    """Fetch one file from the first source that has it; return the word for `Fetched.how`."""
    local = path(dataset, file.path)
    absent = []
    with _lock(file):
        state = _state(local, file)
        if state == "ok":  # another process was faster
            return "cached"
        if state != "missing":
            _log.warning("%s: %s: damaged, so fetched again", local, state)
            local.unlink()
        for how, source in sources.items():
            try:
                _retrieve(source, file, local, downloader)
            except _download.AbsentError as error:
                absent.append(f"{without_password(source)} {error}")
                _log.warning("%s/%s: %s", dataset, file.path, absent[-1])
            else:
                return how
    raise InputError(
        f"{dataset}/{file.path}: {'; '.join(absent)}; the file has moved or the manifest errs: "
        "set PVSBOOK_MIRROR to a folder or address that holds it, and tell the project"
    )


def _retrieve(source: str, file: File, local: Path, downloader: Downloader) -> None:
    """Let pooch download a file, check it, and give it its final name."""
    is_resumed = downloader.part.exists()
    known_hash = ":".join(file.checksum)
    try:
        pooch.retrieve(source, known_hash, local.name, local.parent, downloader=downloader)
    except InputError as error:
        raise InputError(f"{without_password(source)}: {error}") from None
    except ValueError as error:  # another checksum, and pooch has removed what came
        if is_resumed:  # its beginning may have been at fault
            return _retrieve(source, file, local, downloader)
        reason = str(error).partition(". Deleted")[0]
        raise InputError(f"{without_password(source)}: {reason}; {_download.OTHER_FILE}") from None
