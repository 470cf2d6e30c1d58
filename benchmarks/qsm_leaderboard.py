"""Score the folders of ``benchmarks/qsm_ci`` as QSM-CI does, beside rows of its leaderboard.

    pip install 'pvsbook[bench]'
    python benchmarks/qsm_leaderboard.py [--mirror MIRROR] [--voxel-mm 1] [--only tv lbv]

Each folder runs by QSM-CI's own runner, on the files that its stage is given there (the true field
of the stage before), and is scored by QSM-CI's own scorer.  Two phantoms: the cylinders that
qsm-forward makes, and, where a folder with the Tian atlas is given, a head of `qsm_heads` with the
field and signal of qsm-forward at 7 T.  The leaderboard's head is not public, so its rows
(``qsm_ci/leaderboard.tsv``) were measured elsewhere, on another head: compare the order, not the
figures.  Those rows count only the voxels that a method gave, as the columns from ``nrmse`` on do
here; the scorer of today counts the whole mask, a lost rim as zero.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from qsm_heads import Look, scan_qsm_forward

HERE = Path(__file__).parent / "qsm_ci"
TRUE = ("totalfield", "localfield", "chimap")
KIND = {"totalfield": "field", "localfield": "field", "chimap": "chi"}
SHOWN = ["nrmse", "nrmse_detrend", "nrmse_dgm", "dgm_linearity", "xsim"]
# Numbers of QSM-CI's label map, of the nuclei that `qsm_heads` draws.
DSEG = {
    "caudate": 1,
    "pallidum": 2,
    "putamen": 3,
    "red nucleus": 4,
    "dentate": 5,
    "substantia nigra": 6,
    "anterior thalamus": 7,
    "posterior thalamus": 7,
}
TIMES_S = (0.004, 0.012, 0.020, 0.028)


def write(folder: Path, volumes: dict[str, NDArray], params: dict[str, Any]) -> Path:
    """Write the artifacts of a phantom under the names of the contract."""
    folder.mkdir(parents=True)
    for name, values in volumes.items():
        image = nib.Nifti1Image(values.astype(np.float32), np.diag([*params["voxel_size"], 1]))
        nib.save(image, folder / f"{name}.nii.gz")
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def cylinders(folder: Path) -> Path:
    """Make the simple phantom of qsm-forward, 100 x 100 x 100 voxels, by its command."""
    bids = folder / "bids"
    command = ["simple", str(bids), "--save-field", "--peak-snr", "100"]
    subprocess.run(
        [sys.executable, "-c", "from qsm_forward.main import main; main()", *command],
        check=True, capture_output=True,
    )  # fmt: skip

    def read(path: Path) -> NDArray:
        return np.asarray(nib.load(path).dataobj)

    anat, truth = bids / "sub-1/anat", bids / "derivatives/qsm-forward/sub-1/anat"
    known = {"totalfield": "fieldmap", "localfield": "fieldmap-local", "chimap": "Chimap"}
    volumes = {name: read(truth / f"sub-1_{other}.nii") for name, other in known.items()}
    for name, part in (("magnitude", "mag"), ("phase", "phase")):
        echoes = sorted(anat.glob(f"*_part-{part}_MEGRE.nii"))
        volumes[name] = np.stack([read(path) for path in echoes], -1)
    volumes |= {"mask": read(truth / "sub-1_mask.nii"), "dseg": read(truth / "sub-1_dseg.nii")}
    return write(folder / "cylinders", volumes, about(TIMES_S, 1.0))


def head(folder: Path, mirror: Path, voxel_mm: float) -> Path:
    """Make a head that chose no default, scanned at 7 T by qsm-forward."""
    made = scan_qsm_forward(
        Look(64, (-6, 2, 4)), mirror, voxel_mm=voxel_mm, field_t=7.0, times_s=TIMES_S
    )
    dseg = np.zeros(made.labels.shape, np.uint8)
    for number, name in made.nuclei.items():
        dseg[made.labels == number] = DSEG[name]
    volumes = {
        "phase": made.gre.phase_rad, "magnitude": made.gre.magnitude, "mask": made.brain,
        "totalfield": made.total_ppm, "localfield": made.local_ppm, "chimap": made.chi_ppm,
        "dseg": dseg,
    }  # fmt: skip
    return write(folder / "head", volumes, about(TIMES_S, voxel_mm))


def about(times_s: tuple[float, ...], voxel_mm: float) -> dict[str, Any]:
    return {"TE": list(times_s), "B0": 7.0, "B0_dir": [0, 0, 1], "voxel_size": [voxel_mm] * 3}


def algorithms() -> Iterator[dict[str, Any]]:
    """Read the description of each folder, in the order of the stages."""
    found = [
        yaml.safe_load(p.read_text()) | {"dir": p.parent} for p in HERE.glob("*/algorithm.yml")
    ]
    stages = ("field-mapping", "bfr", "dipole", "bfr+dipole", "end-to-end")
    yield from sorted(found, key=lambda a: (stages.index(a["stage"]), a["slug"]))


def score(about_algorithm: dict[str, Any], phantom: Path, out: Path) -> dict[str, Any]:
    """Run one folder by QSM-CI's runner; return its scores over the mask and where it answers."""
    from qsm_ci import qsm_eval, runner, stages  # type: ignore[import-not-found]

    (artifact,) = stages.STAGES[about_algorithm["stage"]]["produces"]
    given = [a for a in about_algorithm["inputs"] if a != "params"]
    made = out / f"{artifact}.nii.gz"
    argv = [str(about_algorithm["dir"]), "--runner", "local", "--out", str(made)]
    argv += ["--params", str(phantom / "params.json")]
    argv += [x for a in given for x in (f"--{a}", str(phantom / f"{a}.nii.gz"))]
    row = {"stage": about_algorithm["stage"], "method": about_algorithm["slug"]}
    told: list[str] = []
    if runner.run_command(argv, log=told.append):
        return row | {"note": "failed"}
    wrote = next(line for line in told if line.startswith("✓ wrote"))
    seconds = float(wrote.rsplit("(", 1)[1].removesuffix("s)"))
    load = qsm_eval.load
    found, truth = load(made), load(phantom / f"{artifact}.nii.gz")
    mask = load(phantom / "mask.nii.gz") > 0
    seg = np.rint(load(phantom / "dseg.nii.gz")).astype(int)
    kind, seg = KIND[artifact], seg if artifact == "chimap" and seg.max() > 1 else None
    whole = qsm_eval.score_arrays(found, truth, mask, kind, seg=seg)[0]
    part = qsm_eval.score_arrays(found, truth, mask & (found != 0), kind, seg=seg)[0]
    return (
        row
        | {"coverage": whole["coverage"], "nrmse, whole mask": whole["nrmse"]}
        | {name: part[name] for name in SHOWN if name in part}
        | {"wall_s": seconds}
    )


def elsewhere(stage: str) -> pd.DataFrame:
    """Return the leaderboard's rows of a stage, best first."""
    rows = pd.read_csv(HERE / "leaderboard.tsv", sep="\t", comment="#")
    return rows[rows["stage"] == stage].sort_values("nrmse")


def take(index: Path) -> pd.DataFrame:
    """Take the rows of single stages from ``results/index.json`` of QSM-CI, defaults only."""
    rows = [
        {"stage": r["stage"], "method": r["slug"], **{k: r["metrics"].get(k) for k in SHOWN}}
        for r in json.loads(index.read_text())["runs"]
        if r.get("phantom") == "sim" and r["mode"] == "isolated" and r["metrics"]
        and r["variant"] == "default" and r["stage"] != "unwrap+bfr"
    ]  # fmt: skip
    return pd.DataFrame(rows).sort_values(["stage", "nrmse"])


def main() -> None:
    """Print, stage by stage, our rows and the stored ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, help="folder with atlas_tian: the head too")
    parser.add_argument("--voxel-mm", type=float, default=1.0, help="of the head")
    parser.add_argument("--only", nargs="+", help="words in the names of folders")
    parser.add_argument("--take", type=Path, help="results/index.json: print its rows, and end")
    given = parser.parse_args()
    if given.take:
        print(take(given.take).round(3).to_csv(sep="\t", index=False), end="")
        return
    pd.set_option("display.width", 220, "display.max_columns", 20, "display.max_rows", 500)
    # run.sh calls python3: this one, with what it can import
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        phantoms = [cylinders(top)]
        if given.mirror:
            phantoms.append(head(top, given.mirror, given.voxel_mm))
        for phantom in phantoms:
            rows = []
            for algorithm in algorithms():
                if not given.only or any(word in algorithm["slug"] for word in given.only):
                    rows.append(score(algorithm, phantom, top / "out"))
                    print(rows[-1], flush=True)
            ours = pd.DataFrame(rows)
            size = "1" if phantom.name == "cylinders" else f"{given.voxel_mm:g}"
            print(f"\n{phantom.name}, 7 T, {size} mm, scored here")
            print(ours.round(3).to_string(index=False, na_rep=""))
    for stage in dict.fromkeys(ours["stage"]):
        print(f"\n{stage}: rows of QSM-CI, MEASURED ELSEWHERE on another head at 7 T")
        print(elsewhere(stage).round(3).to_string(index=False, na_rep=""))


if __name__ == "__main__":
    main()
