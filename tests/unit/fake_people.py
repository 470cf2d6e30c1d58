"""A BIDS folder of tiny images, with records of values that were drawn and not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pvsbook import images, jobs
from pvsbook._records import hash_inputs
from pvsbook.bids import app, group, inputs


def write_folder(
    top: Path, people: pd.DataFrame, *, absent=(), meta: Mapping[str, Mapping] | None = None
) -> None:
    """Write a T2w image of each person (index: label), and participants.tsv of the columns."""
    for label in people.index:
        sessions = people.at[label, "sessions"] if "sessions" in people else [""]
        for session in sessions if label not in absent else ():
            visit = [f"sub-{label}", *([f"ses-{session}"] if session else [])]
            stem = Path(top, *visit, "anat", "_".join([*visit, "T2w"]))
            images.save(images.make(np.ones((4, 4, 4), np.float32), np.eye(4)), f"{stem}.nii.gz")
            about = (meta or {}).get(label, {"EchoTime": 0.1, "MagneticFieldStrength": 3})
            Path(f"{stem}.json").write_text(json.dumps(about))
    table = people.drop(columns="sessions", errors="ignore").reset_index(names="participant_id")
    table["participant_id"] = "sub-" + table["participant_id"]
    table.to_csv(top / "participants.tsv", sep="\t", index=False, na_rep="n/a")


def record(top: Path, out: Path, values, *, methods=("pvs",)) -> inputs.BidsFolder:
    """Store a record of each visit; `values(measurement)` gives row, status and reasons."""
    folder = inputs.find(top, methods=list(methods))
    for measurement, task in app.plan(folder, {}):
        if not isinstance(task, jobs.Task):
            continue
        row, status, reasons = values(measurement)
        if status is None:
            continue
        hashes, _ = hash_inputs(task, out)
        result = {
            "row": {**row, "status": status},
            "status": status,
            "reasons": reasons,
            "report": f"{measurement.participant}/anat/{measurement.name}.html",
        }
        jobs.write_record(
            out,
            jobs.Record(
                task.name,
                "done",
                jobs.fingerprint(app.measure_task, task, hashes),
                result=result,
                inputs={Path(p).name: h for p, h in hashes.items()},
                parameters=json.loads(json.dumps(task.parameters)),
            ),
        )
        (out / f"{measurement.participant}.html").write_text("<title>a person</title>")
    return folder


def summarise(top: Path, out: Path, values, *, compare: str = "", methods=("pvs",)) -> group.Group:
    return group.summarise(record(top, out, values, methods=methods), out, compare=compare)
