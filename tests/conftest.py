"""Real public files for tests, a cache that is not the user's, and a Chromium to read pages."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_own_cache = pytest.StashKey[str]()


def pytest_configure(config):
    """Keep tests out of the user's cache; xdist workers and notebook kernels inherit this."""
    if not os.environ.get("PVSBOOK_DATA") and os.environ.get("PVSBOOK_TEST_PUBLIC") != "1":
        os.environ["PVSBOOK_DATA"] = config.stash[_own_cache] = tempfile.mkdtemp("-pvsbook-test")


def pytest_unconfigure(config):
    if folder := config.stash.get(_own_cache, None):
        del os.environ["PVSBOOK_DATA"]
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def heeds_interrupts():
    """Take SIGINT, which a shell lets jobs in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def public_file() -> Callable[[str, str], Path]:
    """Give `public_file(dataset, path)`: a verified local copy, or skip the test.

    It comes from PVSBOOK_MIRROR, or from the cache (PVSBOOK_DATA or the user's own).  Only
    PVSBOOK_TEST_PUBLIC=1 lets it come from the public host, into the cache.
    """
    from pvsbook import manifest

    def cached(dataset: str, path: str) -> bool:
        return manifest.verify(dataset, path)[path] == "ok"

    def public_file(dataset: str, path: str) -> Path:
        online = os.environ.get("PVSBOOK_TEST_PUBLIC") == "1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PVSBOOK_OFFLINE", "0" if online else "1")
            if (
                cached(dataset, path)
                or path in manifest.available_from_mirror().get(dataset, ())
                or (online and manifest.describe(dataset).select(path)[0].url)
            ):
                return manifest.fetch(dataset, path)[path]
            target = manifest.path(dataset, path)
            patch.delenv("PVSBOOK_DATA", raising=False)
            if cached(dataset, path):  # in the user's own cache, which tests do not write to
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(manifest.path(dataset, path), target)
                return target
        pytest.skip(
            f"needs the public file {dataset}/{path}: set PVSBOOK_MIRROR to a folder that holds "
            "it, or PVSBOOK_TEST_PUBLIC=1 to fetch it"
        )

    return public_file


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    from playwright.sync_api import Error, sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        found = next((p for name in CHROMIUM if (p := shutil.which(name))), None)
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=options)
        except Error:
            pytest.skip(
                "NO CHROMIUM WAS FOUND: THE PAGES WERE NOT LOOKED AT. "
                "Debian: apt-get install chromium; elsewhere: playwright install chromium"
            )
        yield chromium
        chromium.close()
