"""What a reader sees when the server of a public file misbehaves, fault by fault.

The server, on loopback, is that of the tests.  After each fault the fetch is asked for once, and
then once more from a server that behaves: the second must give the right bytes.

    python benchmarks/faulty_server.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
from test_manifest_transfer import CONTENT, SIZE, running, scene

from pvsbook import InputError, manifest

FAULTS = {
    "none": [],
    "connection dropped once": [f"drop:{SIZE // 3}"],
    "dropped three times": [f"drop:{SIZE // 4}"] * 3,
    "connection stalls": [f"stall:{SIZE // 3}"],
    "file 5 bytes short, always": ["truncated"] * 20,
    "file too long": ["grown"] * 20,
    "wrong bytes": ["wrong"] * 20,
    "404": ["404"] * 20,
    "403": ["403"] * 20,
    "503, Retry-After 1 s, once": ["503:1"],
    "503 without end": ["503"] * 20,
    "never answers": ["silent"] * 20,
    "answers once it is asked again": ["silent"],
    "resumes at the wrong place": [f"drop:{SIZE // 3}", "shifted"],
    "cannot resume": [f"drop:{SIZE // 3}", "norange"],
}


def main() -> None:
    """Print the table."""
    rows = []
    for name, faults in FAULTS.items():
        with (
            running() as server,
            tempfile.TemporaryDirectory() as folder,
            scene(server, Path(folder)),
        ):
            local = manifest.path("toy", "sub-1/a.bin")
            server.faults = list(faults)
            start = time.perf_counter()
            try:
                said = manifest.fetch("toy").how["sub-1/a.bin"]
            except InputError as error:
                said = str(error).replace(folder, "").splitlines()[0]
            seconds = time.perf_counter() - start
            left = [p.name for p in local.parent.glob("*")] if local.parent.is_dir() else []
            asked, server.faults = len(server.asked), []
            manifest.fetch("toy")
            assert local.read_bytes() == CONTENT
        rows.append(
            {
                "fault": name,
                "requests": asked,
                "seconds": round(seconds, 2),
                "left on disk": ", ".join(left) or "nothing",
                "said": said,
            }
        )
    print("Patience is cut to 0.3 s here; a reader waits longer before giving up.")
    print(pd.DataFrame(rows).to_string(index=False, max_colwidth=110))


if __name__ == "__main__":
    main()
