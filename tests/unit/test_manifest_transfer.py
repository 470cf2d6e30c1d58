"""Transfers over loopback HTTP, with a server that does everything wrong."""

import hashlib
import io
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pvsbook import InputError, manifest
from pvsbook.manifest import _download

SIZE = 300_000
CONTENT = np.random.default_rng(7).bytes(SIZE)
CHUNK = _download.CHUNK


class Handler(BaseHTTPRequestHandler):
    """Answers each GET with the next fault in `server.faults`, then rightly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        faults = self.server.faults
        fault, _, value = (faults.pop(0) if faults else "right").partition(":")
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        self.server.hosts.append(self.path.split("/")[1])
        if "/loop/" in self.path:
            fault, value = "302", ""
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = CONTENT
        if fault in {"302", "404", "403", "400", "416", "503"}:
            self.send_response(int(fault))
            self.send_header("Location", self.path)
            if value:
                self.send_header("Retry-After", value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "silent":
            self.server.done.wait(5)
            self.close_connection = True
            return
        if fault == "slow":
            self.server.done.wait(0.2)
        if fault == "wrong":
            content = bytes(SIZE)
        if fault == "truncated":
            content = CONTENT[:-5]
        if fault == "grown":
            content = CONTENT + b"more"
        if fault == "norange":
            start = 0
        partial = bool(asked) and fault != "norange"
        body = content[start:]
        self.send_response(206 if partial else 200)
        if partial:
            first = start + 1 if fault == "shifted" else start
            self.send_header("Content-Range", f"bytes {first}-{SIZE - 1}/{SIZE}")
        if value != "unsaid":
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if fault in {"drop", "stall"}:
            body = body[: int(value)]
            self.close_connection = True
        if fault == "drip":
            for byte in body[: int(value)]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                self.server.done.wait(0.01)
            self.close_connection = True
            return
        self.server.sent.append(len(body))
        self.wfile.write(body)
        if fault == "stall":
            self.wfile.flush()
            self.server.stalled.set()
            self.server.done.wait(5)

    def do_HEAD(self):
        codes = {"held": 200, "odd": 500}
        self.send_response(codes.get(self.path.split("/")[1], 404))
        self.end_headers()

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the game."""


@contextmanager
def running():
    server = Server(("127.0.0.1", 0), Handler)
    server.done, server.stalled = threading.Event(), threading.Event()
    server.faults, server.asked, server.sent, server.hosts = [], [], [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.done.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def scene(server, folder):
    """A manifest of one file on that server, an empty cache, and little patience."""
    port = server.server_address[1]
    entry = {
        "name": "toy", "title": "Toy", "description": "A toy.", "licence": "CC0-1.0",
        "citation": "Nobody.", "authors": ["Nobody"], "version": "1", "doi": "10.1234/toy",
        "files": [{
            "path": "sub-1/a.bin", "size": SIZE, "url": f"http://127.0.0.1:{port}/public/a.bin",
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        }],
    }  # fmt: skip
    (folder / "manifest").mkdir(parents=True)
    (folder / "manifest" / "toy.yml").write_text(yaml.safe_dump(entry))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVSBOOK_MANIFEST", str(folder / "manifest"))
        patch.setenv("PVSBOOK_DATA", str(folder / "cache"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("PVSBOOK_MIRROR", raising=False)
        patch.delenv("PVSBOOK_OFFLINE", raising=False)
        patch.setattr(_download, "BACKOFF_S", 0.001)
        patch.setattr(_download, "TIMEOUT_S", (0.3, 0.3))
        yield patch


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def patch(server, tmp_path):
    with scene(server, tmp_path) as patch:
        yield patch


@pytest.fixture
def local(patch, tmp_path):
    return tmp_path / "cache" / "toy" / "sub-1" / "a.bin"


def part(local):
    return local.with_name("a.bin.part")


def test_download_then_cache(server, local):
    fetched = manifest.fetch("toy")
    assert dict(fetched) == {"sub-1/a.bin": local}
    assert fetched.how == {"sub-1/a.bin": "downloaded"}
    assert local.read_bytes() == CONTENT
    assert manifest.fetch("toy").how == {"sub-1/a.bin": "cached"}
    assert len(server.asked) == 1
    assert os.listdir(local.parent) == ["a.bin"]  # noqa: PTH208


def test_a_dropped_connection_goes_on_where_it_stopped(server, local):
    server.faults = ["drop:150000", "drop:0", "drop:100000"]
    manifest.fetch("toy")
    assert local.read_bytes() == CONTENT
    assert server.asked == ["", "bytes=150000-", "bytes=150000-", "bytes=250000-"]
    assert server.sent == [150_000, 0, 100_000, 50_000]  # no byte twice


def test_a_later_call_resumes_an_interrupted_one(server, local):
    part(local).parent.mkdir(parents=True)
    part(local).write_bytes(CONTENT[:123_456])
    manifest.fetch("toy")
    assert server.asked == ["bytes=123456-"]
    assert server.sent == [SIZE - 123_456]
    assert local.read_bytes() == CONTENT
    assert not part(local).exists()


def test_a_complete_part_asks_for_nothing(server, local):
    part(local).parent.mkdir(parents=True)
    part(local).write_bytes(CONTENT)
    manifest.fetch("toy")
    assert server.asked == []
    assert local.read_bytes() == CONTENT


@pytest.mark.parametrize("beginning", [b"x" * 1000, b"x" * (SIZE + 1)])
def test_a_spoilt_part_costs_one_fresh_transfer(server, local, beginning):
    part(local).parent.mkdir(parents=True)
    part(local).write_bytes(beginning)
    manifest.fetch("toy")
    assert server.asked[-1] == ""
    assert local.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["norange", "shifted", "416"])
def test_a_server_that_cannot_resume_is_asked_for_everything(server, local, fault):
    server.faults = ["drop:150000", fault]
    manifest.fetch("toy")
    assert server.asked[1] == "bytes=150000-"
    assert local.read_bytes() == CONTENT


def test_busy_servers_are_waited_for(server, local, patch):
    pauses = []
    patch.setattr(time, "sleep", pauses.append)
    server.faults = ["503", "503:7", "503:soonish"]
    manifest.fetch("toy")
    assert local.read_bytes() == CONTENT
    assert pauses == [0.001, 7, 0.004]


FATAL = {
    "404": (["404"], "answers HTTP 404; the file has moved"),
    "403": (["403"], "answers HTTP 403; the file has moved"),
    "400": (["400"], "HTTP 400"),
    "busy for ever": (["503"] * 5, "the server answers HTTP 503; gave up at try 5"),
    "busy for hours": (["503:7200"], "HTTP 503, and asks to wait 7200 s; gave up at try 1"),
    "never answers": (["silent"] * 5, "does not answer in time; gave up at try 2"),
    "stalls": (["stall:10"] * 5, "does not answer in time; gave up at try 2"),
    "drips": (["drip:40"] * 5, "less than 65536 bytes in 0 s; gave up at try 2"),
    "always drops": (["drop:1000"] * 5, "the connection broke; gave up at try 5"),
    "other bytes": (
        ["wrong"],
        r"a.bin: SHA256 hash .* expected .* but got \w+; not the file that the manifest names",
    ),
    "fewer bytes": (["truncated"], "offers 299995 bytes, not 300000; not the file"),
    "fewer, unsaid": (["truncated:unsaid"] * 5, "after 299995 of 300000 bytes; gave"),
    "more bytes": (["grown"], "offers 300004 bytes, not 300000; not the file"),
    "more, unsaid": (["grown:unsaid"], "sends more than 300000 bytes; not the file"),
}


@pytest.mark.parametrize(("faults", "said"), FATAL.values(), ids=FATAL)
def test_what_cannot_be_mended_is_one_error_and_no_file(server, local, patch, faults, said):
    if faults[0] in {"silent", "stall:10", "drip:40"}:
        patch.setattr(_download, "TRIES", 2)
    if faults[0] == "drip:40":
        patch.setattr(_download, "SLOW_S", 0.1)
    server.faults = list(faults)
    with pytest.raises(InputError, match=said):
        manifest.fetch("toy")
    assert not local.exists()
    server.faults = []
    manifest.fetch("toy")  # and the next call mends it
    assert local.read_bytes() == CONTENT


def test_a_connection_that_brings_enough_may_take_its_time(local, patch):
    patch.setattr(_download, "SLOW_S", 0)
    patch.setattr(_download, "SLOW", 1)
    manifest.fetch("toy")
    assert local.read_bytes() == CONTENT


def test_a_connection_that_brings_much_may_break_often(server, local, patch):
    patch.setattr(_download, "TRIES", 2)
    patch.setattr(_download, "GAIN", CHUNK)
    server.faults = ["drop:70000"] * 4
    manifest.fetch("toy")
    assert local.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/a", "the server refuses the connection; gave up at try 5"),
        ("https://127.0.0.1:{port}/a", r"SSL.*; check the address and this machine"),
        ("http://127.0.0.1:{port}/loop/a", "Exceeded 30 redirects"),
    ],
)
def test_addresses_that_lead_nowhere(server, local, tmp_path, url, said):
    source = tmp_path / "manifest" / "toy.yml"
    entry = yaml.safe_load(source.read_text())
    entry["files"][0]["url"] = url.format(port=server.server_address[1])
    source.write_text(yaml.safe_dump(entry))
    with pytest.raises(InputError, match=said):
        manifest.fetch("toy")
    assert not local.exists()


def test_a_name_that_nobody_knows(local, patch):
    def nobody(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    patch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(InputError, match="the host's name cannot be resolved; gave up at try 5"):
        manifest.fetch("toy")
    assert not local.exists()


@given(st.lists(st.sampled_from([
    "drop:0", "drop:100", "drop:70000", "drop:299999", "503", "503:0", "norange", "shifted",
    "416", "404", "wrong", "truncated", "truncated:unsaid", "grown:unsaid",
]), max_size=6))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_run_of_faults_ends_in_the_right_bytes_or_in_none(shared, faults):
    server, folder = shared
    with scene(server, folder / str(next(shared_count))) as patch:
        server.faults = list(faults)
        local = manifest.path("toy", "sub-1/a.bin")
        try:
            manifest.fetch("toy")
        except InputError:
            assert not local.exists()
            server.faults = []
            manifest.fetch("toy")
        assert local.read_bytes() == CONTENT
        assert [item.name for item in local.parent.iterdir()] == ["a.bin"]
        patch.undo()


shared_count = iter(range(10_000))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running() as server:
        yield server, tmp_path_factory.mktemp("shared")


# --- mirrors ---


def test_a_mirror_folder_is_asked_first(server, local, patch, tmp_path):
    copy = tmp_path / "mirror" / "toy" / "sub-1" / "a.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    patch.setenv("PVSBOOK_MIRROR", str(tmp_path / "mirror"))
    assert manifest.available_from_mirror() == {"toy": ("sub-1/a.bin",)}
    part(local).parent.mkdir(parents=True)
    part(local).write_bytes(b"of an earlier attempt")
    old = os.umask(0o022)
    try:
        assert manifest.fetch("toy").how == {"sub-1/a.bin": "mirrored"}
    finally:
        os.umask(old)
    assert local.read_bytes() == CONTENT
    assert stat.S_IMODE(local.stat().st_mode) == 0o644
    assert [item.name for item in local.parent.iterdir()] == ["a.bin"]
    assert server.asked == []


def test_what_a_mirror_folder_lacks_comes_from_the_public_address(patch, local, tmp_path, caplog):
    (tmp_path / "mirror").mkdir()
    patch.setenv("PVSBOOK_MIRROR", str(tmp_path / "mirror"))
    assert manifest.available_from_mirror() == {}
    with caplog.at_level(logging.WARNING):
        assert manifest.fetch("toy").how == {"sub-1/a.bin": "downloaded"}
    assert "toy/sub-1/a.bin: the mirror does not hold it" in caplog.text


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:9] * 2])
def test_wrong_bytes_in_a_mirror_are_refused_though_the_public_ones_are_right(
    server, local, patch, tmp_path, spoil
):
    copy = tmp_path / "mirror" / "toy" / "sub-1" / "a.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(spoil(CONTENT))
    patch.setenv("PVSBOOK_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(
        InputError, match=r"mirror/toy.*a.bin: SHA256 hash .*; not the file that the man"
    ):
        manifest.fetch("toy")
    assert list(local.parent.iterdir()) == []
    assert server.asked == []


def test_a_mirror_address(server, local, patch, caplog):
    port = server.server_address[1]
    patch.setenv("PVSBOOK_MIRROR", f"http://127.0.0.1:{port}/held/")
    assert manifest.available_from_mirror() == {"toy": ("sub-1/a.bin",)}
    server.faults = ["drop:150000"]
    assert manifest.fetch("toy").how == {"sub-1/a.bin": "mirrored"}
    assert server.hosts == ["held", "held"]
    local.unlink()
    server.faults, server.hosts = ["404"], []
    assert manifest.fetch("toy").how == {"sub-1/a.bin": "downloaded"}
    assert server.hosts == ["held", "public"]
    assert "/held/toy/sub-1/a.bin answers HTTP 404" in caplog.text
    local.unlink()
    server.faults = ["wrong"]
    with pytest.raises(InputError, match=r"/held/toy/sub-1/a.bin: SHA256 .* not the file"):
        manifest.fetch("toy")
    assert not local.exists()


def test_the_password_of_a_mirror_is_never_shown(server, local, patch, caplog, capfd):
    caplog.set_level(logging.DEBUG, "pvsbook")
    for address in ("http://me:secret@127.0.0.1:{}/held", "httq://me:secret@127.0.0.1:{}"):
        patch.setenv("PVSBOOK_MIRROR", address.format(server.server_address[1]))
        for fault in ("wrong", "grown", "grown:unsaid", "400", "503:7200"):
            server.faults = ["503", fault]
            with pytest.raises(InputError, match=r"127\.0\.0\.1") as caught:
                manifest.fetch("toy")
            assert "secret" not in str(caught.value)
    patch.setenv("PVSBOOK_MIRROR", "http://me:secret@127.0.0.1:9")
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/toy/sub-1/a.bin: the server ref"):
        manifest.available_from_mirror()
    patch.setenv("PVSBOOK_MIRROR", f"http://me:secret@127.0.0.1:{server.server_address[1]}/held")
    server.faults = ["404"]
    assert manifest.fetch("toy").how == {"sub-1/a.bin": "downloaded"}
    assert "answers HTTP 404" in caplog.text
    assert "secret" not in caplog.text + "".join(capfd.readouterr())


def test_mirror_addresses_that_do_not_answer_or_err(server, patch):
    port = server.server_address[1]
    patch.setenv("PVSBOOK_MIRROR", f"http://127.0.0.1:{port}/lacks")
    assert manifest.available_from_mirror() == {}
    patch.setenv("PVSBOOK_MIRROR", f"http://127.0.0.1:{port}/odd")
    with pytest.raises(InputError, match="HTTP 500; check the address"):
        manifest.available_from_mirror()
    patch.setenv("PVSBOOK_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="refuses the connection; check the address"):
        manifest.available_from_mirror()


def test_offline_asks_no_mirror_address(server, patch):
    patch.setenv("PVSBOOK_MIRROR", f"http://127.0.0.1:{server.server_address[1]}/held")
    patch.setenv("PVSBOOK_OFFLINE", "1")
    assert manifest.available_from_mirror() == {}
    with pytest.raises(InputError, match=r"a.bin  300.0 kB  http://127.*/public/a.bin"):
        manifest.fetch("toy")
    assert server.asked == []


def test_a_cache_that_is_its_own_mirror_is_not_copied_onto_itself(patch, local, tmp_path):
    local.parent.mkdir(parents=True)
    local.write_bytes(b"damaged")
    patch.setenv("PVSBOOK_MIRROR", str(tmp_path / "cache"))
    assert manifest.fetch("toy").how == {"sub-1/a.bin": "downloaded"}
    assert local.read_bytes() == CONTENT


# --- the disk ---


@pytest.mark.parametrize("bad", [CONTENT[:-1], bytes(SIZE)])
def test_a_damaged_file_in_the_cache_is_noticed_and_replaced(local, caplog, bad):
    local.parent.mkdir(parents=True)
    local.write_bytes(bad)
    assert "instead of" in manifest.verify("toy")["sub-1/a.bin"]
    assert manifest.fetch("toy").how == {"sub-1/a.bin": "downloaded"}
    assert "damaged, so fetched again" in caplog.text
    assert manifest.verify("toy") == {"sub-1/a.bin": "ok"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk always full")
def test_a_disk_that_fills_up_on_the_way(server, local):
    part(local).parent.mkdir(parents=True)
    part(local).symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"No space left on device; free some space there"):
        manifest.fetch("toy")
    assert not local.exists()
    part(local).unlink()
    manifest.fetch("toy")
    assert local.read_bytes() == CONTENT


def test_a_folder_under_the_files_name(local):
    local.mkdir(parents=True)
    with pytest.raises(InputError, match=r"a.bin: (Is a directory|Operation not|Permiss)"):
        manifest.fetch("toy")


FETCH = "from pvsbook import manifest; print(*manifest.fetch('toy').how.values())"


def start():
    return subprocess.Popen(
        [sys.executable, "-c", FETCH],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(manifest.__file__).parents[1])},
    )


def test_two_threads_at_once_share_one_transfer(server, local):
    server.faults = ["slow"]
    with ThreadPoolExecutor(2) as pool:
        said = [now.result() for now in [pool.submit(manifest.fetch, "toy") for _ in range(2)]]
    assert sorted(fetched.how["sub-1/a.bin"] for fetched in said) == ["cached", "downloaded"]
    assert server.asked == [""]


def test_three_processes_at_once_share_one_transfer(server, local):
    processes = [start() for _ in range(3)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert said == ["cached", "cached", "downloaded"]
    assert server.asked == [""]
    assert local.read_bytes() == CONTENT


def test_a_killed_process_leaves_a_part_that_the_next_resumes(server, local):
    server.faults = [f"stall:{2 * CHUNK}"]
    with start() as process:
        assert server.stalled.wait(60)
        deadline = time.monotonic() + 20
        while not (part(local).exists() and part(local).stat().st_size) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = part(local).stat().st_size
    assert kept > 0
    assert not local.exists()
    server.done.set()
    manifest.fetch("toy")
    assert server.asked == ["", f"bytes={kept}-"]
    assert local.read_bytes() == CONTENT


# --- what is shown ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_the_size_before_and_a_bar(patch, local):
    patch.setattr(sys, "stderr", Terminal())
    patch.setenv("TERM", "xterm")
    patch.setenv("COLUMNS", "200")
    manifest.fetch("toy")
    shown = sys.stderr.getvalue()
    assert "toy: 1 files, 300.0 kB, into" in shown
    assert "a.bin" in shown
    sys.stderr.seek(0)
    sys.stderr.truncate()
    manifest.fetch("toy")
    assert sys.stderr.getvalue() == ""


def test_elsewhere_nothing_is_printed(local, capfd):
    manifest.fetch("toy")
    assert capfd.readouterr() == ("", "")
