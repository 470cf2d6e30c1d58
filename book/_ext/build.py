"""Execute what changed, then render the site into ``_build/html``.

Jupyter Book keeps executed notebooks in a cache that looks at the notebooks alone.  A change in
the package, the lock or the manifest would leave old numbers on the pages, so the cache is thrown
away whenever one of them changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
CACHE = BUILD / ".jupyter_cache"
KEY = CACHE / "made_of.txt"
DEPENDS_ON = (
    "pvsbook/**/*.py",
    "pvsbook/**/*.html",
    "book/pvsbook_book/**/*.py",
    "book/pvsbook_book/**/*.html",
    "book/pvsbook_book/**/*.yml",
    "book/pvsbook_book/**/*.tsv",
    "requirements.txt",
    "data_manifest/*.yml",
)


def fingerprint() -> str:
    """Hash everything beside the notebooks that their outputs depend on."""
    digest = hashlib.sha256(sys.version.encode())
    for pattern in DEPENDS_ON:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def execute() -> int:
    """Execute the notebooks that the cache does not hold, in parallel; return how many failed."""
    key = fingerprint()
    if CACHE.is_dir() and (not KEY.is_file() or KEY.read_text() != key):
        shutil.rmtree(CACHE)
    CACHE.mkdir(parents=True, exist_ok=True)
    cache = get_cache(CACHE)
    KEY.write_text(key)
    for record in cache.list_project_records():
        cache.remove_nb_from_project(record.pk)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cache.add_nb_to_project(str(path))
    result = load_executor("local-parallel", cache).run_and_cache(timeout=300)
    for path in result.errored + result.excepted:
        print(f"failed: {path}", file=sys.stderr)
        record = cache.get_project_record(path)
        print((record and record.traceback) or "", file=sys.stderr)
    print(f"notebooks executed: {len(result.succeeded)}; the others have not changed")
    return len(result.errored) + len(result.excepted)


def render() -> int:
    """Render afresh with warnings as errors; return Sphinx's exit status."""
    shutil.rmtree(BUILD / "html", ignore_errors=True)  # no page of an earlier table of contents
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(ROOT), "-W", "-n", "--keep-going"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def quiet_kernels() -> None:
    """Keep kernels from a warning per chapter: they are reached from this machine alone."""
    profile = BUILD / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    os.environ["IPYTHONDIR"] = str(profile.parent)


def main() -> int:
    """Execute, with the home page's figure drawn beside it, then render."""
    quiet_kernels()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    figure = subprocess.Popen([sys.executable, str(Path(__file__).with_name("overview.py"))])
    failed = execute()
    return 1 if figure.wait() or failed else render()


if __name__ == "__main__":
    sys.exit(main())
