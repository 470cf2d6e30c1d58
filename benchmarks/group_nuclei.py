"""Ten simulated people from files to a group table of nuclei, by the command line alone.

    python benchmarks/group_nuclei.py [--people 10] [--voxel-mm 2] [--out FOLDER]

Writes a BIDS folder of gradient echoes (each person has a head, a pose and susceptibilities of
their own), runs ``pvsbook run ... participant`` and ``... group`` on it, and prints the table
beside the truth.  Then one person is spoilt as people spoil data (sign, parts, order of echoes),
and each folder is run again: none may pass with numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pvsbook import images
from pvsbook.atlas import deep_grey
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import CHI_PPB, GrePhantom, make_gre

TIMES_S = (0.006, 0.012, 0.018, 0.024)
NUCLEI = deep_grey.table()
SHOWN = ("caudate", "putamen", "pallidum", "thalamus")
SETTINGS = "qsm: {atlas: schematic}\n"  # the shapes that the phantom has


def person(seed: int, voxel_mm: float) -> GrePhantom:
    """Simulate one person; each nucleus differs from the mean by a tenth or so."""
    rng = np.random.default_rng([seed, 16])
    regions = NUCLEI["region"].unique()
    chi = {r: CHI_PPB[r] * rng.normal(1, 0.12) + rng.normal(0, 4) for r in regions}
    return make_gre(
        rng, voxel_size_mm=voxel_mm, echo_times_s=TIMES_S, chi_ppb=chi,
        anatomy=np.random.default_rng([seed, 17]), margin_mm=8.0,
        mni_to_world=pose(rng.uniform(-8, 8, 3)) @ np.diag([*rng.uniform(0.95, 1.05, 3), 1]),
    )  # fmt: skip


def truth(head: GrePhantom) -> dict[str, float]:
    """Return the true mean of each nucleus, less that of the brain."""
    chi = 1e3 * (head.chi_ppm - head.chi_ppm[head.brain].mean(dtype=np.float64))
    return {
        f"{row.region.replace(' ', '_')}_{row.side}_ppb": float(
            chi[(head.labels == row.label) & head.brain].mean()
        )
        for row in NUCLEI.itertuples()
    }


def write(top: Path, label: str, magnitude: np.ndarray, phase: np.ndarray, affine) -> None:  # type: ignore[no-untyped-def]
    """Write one person's echoes, phase as 12-bit integers."""
    stored = np.round(phase * 2048 / np.pi).clip(-2048, 2047).astype(np.int16)
    for k, seconds in enumerate(TIMES_S):
        for part, values in (("mag", magnitude.astype(np.float32)), ("phase", stored)):
            stem = top / f"sub-{label}/anat/sub-{label}_echo-{k + 1}_part-{part}_MEGRE"
            images.save(images.make(values[..., k], affine), f"{stem}.nii.gz")
            meta = {"EchoTime": seconds, "MagneticFieldStrength": 3.0}
            Path(f"{stem}.json").write_text(json.dumps(meta))
    about = {"Name": "Simulated people", "BIDSVersion": "1.10.0"}
    (top / "dataset_description.json").write_text(json.dumps(about))


def command(*words: object) -> str:
    """Run ``pvsbook`` as a user does; return what it says."""
    line = [sys.executable, "-m", "pvsbook", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(line)}: {done.stderr[-2000:]}")
    return f"exit code {done.returncode}"


def measure(top: Path, out: Path) -> pd.DataFrame:
    """Run the folder, then the group; return the group's table."""
    settings = top.parent / "settings.yml"
    settings.write_text(SETTINGS)
    about = ("--methods", "qsm", "--settings", settings)
    for level in ("participant", "group"):
        workers = ("--workers", 1) if level == "participant" else ()
        said = command("run", top, out, level, *about, *workers)
        print(f"$ pvsbook run {top.name} {out.name} {level} --methods qsm "
              f"--settings settings.yml: {said}")  # fmt: skip
    return pd.read_csv(out / "group_qsm.tsv", sep="\t", dtype={"participant_id": str})


def people(top: Path, n: int, voxel_mm: float) -> None:
    """Print the table of the group beside the truth, and the error of each nucleus."""
    true = {}
    for k in range(1, n + 1):
        head = person(k, voxel_mm)
        write(top / "bids", f"{k:02d}", head.gre.magnitude, head.gre.phase_rad, head.gre.affine)
        true[f"sub-{k:02d}"] = truth(head)
    table = measure(top / "bids", top / "out").set_index("participant_id")
    known = pd.DataFrame(true).T
    found = table[list(known)]
    shown = [c for c in known if c.rsplit("_", 2)[0] in SHOWN]
    pairs = {
        c: [f"{a:.0f} | {b:.0f}" for a, b in zip(found[c], known.loc[found.index, c], strict=True)]
        for c in shown
    }
    print("\nfound | true, ppb above the whole brain, simulated people")
    print(pd.DataFrame({"status": table["status"], **pairs}).to_string())
    error = found - known.loc[found.index]
    between = pd.DataFrame(
        {
            "mean error": error.mean(),
            "mean |error|": error.abs().mean(),
            "largest": error.abs().max(),
            "SD of error": error.std(ddof=1),
            "SD of truth": known.std(ddof=1),
            "r over people": [found[c].corr(known[c]) for c in known],
            "SE given": [table[c.replace("_ppb", "_se_ppb")].mean() for c in known],
        }
    )
    print(f"\nerror of each nucleus over {len(found)} people, ppb")
    print(between.round(2).to_string())
    print(f"mean |error| {error.abs().to_numpy().mean():.2f} ppb, worst person "
          f"{error.abs().mean(axis=1).max():.2f}, without a value "
          f"{int(found.isna().to_numpy().sum())} of {found.size}")  # fmt: skip


def spoilt(top: Path, voxel_mm: float) -> None:
    """Run a person whose data are wrong in one way; print what the table says."""
    head = person(1, voxel_mm)
    mag, phase, affine = head.gre.magnitude, head.gre.phase_rad, head.gre.affine
    cases = {
        "right": (mag, phase),
        "sign": (mag, -phase),
        "parts": (mag, phase),
        "echoes": (mag[..., ::-1], phase[..., ::-1]),
        "phasesonly": (mag, phase[..., ::-1]),
    }
    for label, (magnitude, stored) in cases.items():
        write(top / "spoilt", label, magnitude, stored, affine)
    for path in (top / "spoilt/sub-parts/anat").glob("*_part-mag_MEGRE.nii.gz"):
        other = path.with_name(path.name.replace("part-mag", "part-phase"))
        kept = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    table = measure(top / "spoilt", top / "spoilt_out").set_index("participant_id")
    values = table[[c for c in table if c in truth(head)]].notna().sum(axis=1)
    print("\nsign: flipped; parts: magnitude and phase exchanged; echoes: both in reversed order; "
          "phasesonly: the phase alone")  # fmt: skip
    for name, row in table.iterrows():
        reason = row["outcome_reason"] if row["outcome"] == "failed" else row["reasons"]
        print(f"{name:16}{row['outcome']:9}{row['status']!s:6}{values[name]:3} nuclei  {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--spoilt-only", action="store_true")
    parser.add_argument("--out", type=Path, help="keep the folders here")
    given = parser.parse_args()
    pd.set_option("display.width", 250, "display.max_columns", 40)
    with tempfile.TemporaryDirectory() as name:
        top = given.out or Path(name)
        for old in ("bids", "out", "spoilt", "spoilt_out"):
            shutil.rmtree(top / old, ignore_errors=True)
        if not given.spoilt_only:
            people(top, given.people, given.voxel_mm)
        spoilt(top, given.voxel_mm)


if __name__ == "__main__":
    main()
