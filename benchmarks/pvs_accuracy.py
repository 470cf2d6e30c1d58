"""Accuracy of the perivascular-space method on simulated brains, beside its targets.

Parameters were chosen on seeds 1 and 2; the seeds here are others.  Each brain has white-matter
hyperintensities and lacunes.

    python benchmarks/pvs_accuracy.py [--seeds 3] [--fine] [--out table.tsv]
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from scipy import ndimage

from pvsbook import pvs
from pvsbook.atlas import register_to_mni
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.perivascular import PvsPhantom, make_phantom
from pvsbook.pvs.anatomy import brain_mask
from pvsbook.pvs.pipeline import PvsResult

TARGETS = {
    ("csf", 1.0): "sensitivity >= .95 for d >= .75; F1 >= .93; <= 5 false (mask), <= 10 (none)",
    ("weak", 1.0): "sensitivity >= .90 for d >= 1.5; F1 >= .75",
    ("csf", 0.5): "F1 >= .95",
    ("weak", 0.5): "sensitivity >= .95 for d >= .75; F1 >= .90",
}


def match(phantom: PvsPhantom, result: PvsResult) -> tuple[np.ndarray, list[int], int]:
    """Pair objects with true spaces; an object must lie mostly on its target.

    Returns the object of each true space (-1: missed), the objects paired, and how many others
    were called perivascular spaces.
    """
    box = result.anatomy.box
    truth = np.asarray(phantom.labels.dataobj)[box]
    grown = np.where(truth > 0, truth, ndimage.maximum_filter(truth, size=3))
    labels = result.segmentation.labels
    owner = np.full(len(phantom.truth), -1)
    size = np.zeros(len(owner))
    false = 0
    for n in np.flatnonzero(result.objects["class"] == "pvs"):
        on = np.bincount(grown[labels == n + 1], minlength=len(owner) + 1)
        best = int(on[1:].argmax())
        if on[best + 1] < 0.5 * on.sum():
            false += 1
        elif on[best + 1] > size[best]:
            owner[best], size[best] = n, on[best + 1]
    return owner, sorted(set(owner[owner >= 0])), false


def score(phantom: PvsPhantom, result: PvsResult, strength: str) -> dict[str, float]:
    owner, _, false = match(phantom, result)
    truth = phantom.truth
    hit = owner >= 0
    wide = truth["diameter_mm"].to_numpy() >= 1.5
    one = hit & (truth["diameter_mm"].to_numpy() >= 1.0)
    found, true = result.objects.iloc[owner[one]], truth[one]
    axes = [f"direction_{a}" for a in "xyz"]
    cosine = np.abs((found[axes].to_numpy() * true[axes].to_numpy()).sum(axis=1)).clip(0, 1)
    # Faint spaces are 38 % brighter than the tissue around them: known in white matter, here.
    scale = 1.0 if strength == "csf" else 0.38 / 2.0
    white = true["region"].str.startswith("cso").to_numpy()
    volume = found[white]["volume_mm3"].sum() / true[white]["volume_mm3"].sum()
    return {
        "sensitivity": hit.mean(),
        "sensitivity_d1.5": hit[wide].mean(),
        "false": false,
        "f1": 2 * hit.sum() / (2 * hit.sum() + false + (~hit).sum()),
        "volume_ratio": volume / scale,
        "voxel_ratio": found["volume_voxels_mm3"].sum() / true["volume_mm3"].sum(),
        "length_error": np.median(np.abs(found["length_mm"].to_numpy() / true["length_mm"] - 1)),
        "angle_deg": np.median(np.rad2deg(np.arccos(cosine))),
    }


def run(seeds: range, voxel_mm: float) -> pd.DataFrame:
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        phantom = make_phantom(
            rng,
            voxel_size_mm=voxel_mm,
            n_wmh=10,
            n_periventricular=3,
            n_lacunes=4,
            diameters_mm=(0.75, 3.0),
            mni_to_world=pose(rng.uniform(-10, 10, 3), rng.uniform(-8, 8, 3)),
            axcodes=("RAS", "LAS", "LPI", "ASR")[seed % 4],
        )
        scan = phantom.scans["T2w"]
        where = register_to_mni(scan, contrast="t2", mask=brain_mask(scan))
        for strength in ("csf", "weak"):
            if strength == "weak":
                scan = phantom.scan_again(rng, strength="weak")
            for with_mask in (False, True):
                mask = phantom.wmh if with_mask else None
                result = pvs.measure(scan, wmh_mask=mask, registration=where)
                key = {"voxel_mm": voxel_mm, "strength": strength, "wmh_mask": with_mask}
                rows.append({**key, "seed": seed, **score(phantom, result, strength)})
                print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--fine", action="store_true", help="0.5 mm too; takes 3 GB and minutes")
    parser.add_argument("--out")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    table = pd.concat([run(seeds, 1.0)] + ([run(seeds, 0.5)] if options.fine else []))
    mean = table.drop(columns="seed").groupby(["voxel_mm", "strength", "wmh_mask"]).mean()
    print(mean.round(3).to_string())
    for (strength, voxel), text in TARGETS.items():
        print(f"target at {voxel} mm, {strength}: {text}")
    print("target: volume within 10 %, length within 6 %, angle within 3 degrees for d >= 1 mm")
    if options.out:
        table.to_csv(options.out, sep="\t", index=False)


if __name__ == "__main__":
    main()
