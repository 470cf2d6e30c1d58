"""How much of what a run says did a look before it say?

    python benchmarks/bids_folder.py MIRROR DIR
    pvsbook run DIR/bids DIR/out participant --derivatives DIR/masks
    python benchmarks/foretold.py DIR/bids DIR/masks DIR/out

Each refusal of the run (skipped or failed) is compared with the look of `pvsbook doctor`, and so
is each reason of a result's status.  A reason that was not foretold is listed, so that the reader
can judge whether it could have been known.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pvsbook import bids, jobs
from pvsbook.bids.survey import judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("bids", "masks", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    folder = bids.find(options.bids, derivatives=[options.masks])
    start = time.process_time()
    looks = {m.name: (m, *judge(m)) for m in folder.measurements}
    seconds = time.process_time() - start
    refused = foretold = alarms = told = warned = 0
    later = []
    for name, (measurement, faults, warnings) in looks.items():
        record = jobs.read_record(options.out, name)
        is_refused = record.status != "done"
        is_told = bool(measurement.lacks or faults)
        refused += is_refused
        foretold += is_refused and is_told
        alarms += is_told and not is_refused
        if is_refused and not is_told:
            later.append(f"{name}: {record.reason}")
        reasons = [] if is_refused else record.result["reasons"]
        for text in warnings:
            hit = any(text in reason or reason in text for reason in reasons)
            told += hit
            if not hit and not is_refused:
                alarms += 1
                print(f"false alarm: {name}: {text}")
        warned += len(reasons)
        later += [f"{name}: {r}" for r in reasons if not any(w in r or r in w for w in warnings)]
    print(f"{len(looks)} visits and methods, looked at in {seconds:.1f} s of one core")
    print(f"refused: {refused}, of these foretold: {foretold}; false alarms: {alarms}")
    print(f"reasons of warnings in the results: {warned}, of these foretold: {told}")
    print("known by the measurement alone:", *later, sep="\n  ")


if __name__ == "__main__":
    main()
