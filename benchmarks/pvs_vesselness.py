"""Time, memory and agreement of the vesselness filter beside its peers, in one run.

Each filter runs in a process of its own, so that its peak memory is its own; times are CPU
seconds, so that a busy machine changes little.  A peer that is not installed, or that outlasts the
limit of wall time, is named with the reason in the place of its figures.

Tools run in turn, several rounds; a ratio is of one round, given as its median and range.

    python benchmarks/pvs_vesselness.py [--large] [--rounds 3] [--limit-s 600] [--out table.tsv]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from scipy import ndimage

SCALES = (0.8, 1.2, 1.6, 2.0)
SIZES = {"small": (256, 256, 176), "large": (400, 400, 280)}
NEEDS = {
    "pvsbook": "numba",
    "pvsbook, white-matter mask": "numba",
    "scikit-image": "skimage",
    "SimpleITK": "SimpleITK",
    "ITK": "itk",
    "ANTsPy": "ants",
}


def volume(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth texture with bright tubes along each axis."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.0)
    for axis in range(3):
        for _ in range(40):
            at = [
                slice(None) if k == axis else rng.integers(8, n - 8) for k, n in enumerate(shape)
            ]
            image[tuple(at)] += 4
    return ndimage.gaussian_filter(image, 0.7)


def white_matter(shape: tuple[int, int, int]) -> np.ndarray:
    """Ellipsoid that fills a tenth of the volume, about what white matter does."""
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return sum(a**2 for a in axes) < 0.58**2


def run_pvsbook(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    from pvsbook.pvs import vesselness_filter

    return vesselness_filter(image, scales_mm=SCALES, c=0.5, mask=mask).response


def run_skimage(image: np.ndarray) -> np.ndarray:
    from skimage.filters import frangi

    return frangi(image, sigmas=SCALES, alpha=0.5, beta=0.5, gamma=0.5, black_ridges=False)


def run_simpleitk(image: np.ndarray) -> np.ndarray:
    import SimpleITK as sitk

    given, best = sitk.GetImageFromArray(image), None
    for scale in SCALES:
        smooth = sitk.SmoothingRecursiveGaussian(given, scale)
        out = sitk.ObjectnessMeasure(
            smooth, 0.5, 0.5, 0.5 / scale**2, scaleObjectnessMeasure=False, objectDimension=1
        )
        out = sitk.GetArrayFromImage(out)
        best = out if best is None else np.maximum(best, out)
    return best


def run_itk(image: np.ndarray) -> np.ndarray:
    import itk

    given = itk.image_from_array(image)
    kind = type(given)
    hessian = itk.Image[itk.SymmetricSecondRankTensor[itk.D, 3], 3]
    objectness = itk.HessianToObjectnessMeasureImageFilter[hessian, kind].New()
    objectness.SetBrightObject(True)
    objectness.SetObjectDimension(1)
    objectness.SetScaleObjectnessMeasure(False)
    objectness.SetAlpha(0.5)
    objectness.SetBeta(0.5)
    objectness.SetGamma(0.5)
    many = itk.MultiScaleHessianBasedMeasureImageFilter[kind, hessian, kind].New(given)
    many.SetHessianToMeasureFilter(objectness)
    many.SetSigmaStepMethodToEquispaced()
    many.SetSigmaMinimum(SCALES[0])
    many.SetSigmaMaximum(SCALES[-1])
    many.SetNumberOfSigmaSteps(len(SCALES))
    many.Update()
    return itk.array_from_image(many.GetOutput())


def run_ants(image: np.ndarray) -> np.ndarray:
    import ants

    return ants.hessian_objectness(
        ants.from_numpy(image),
        object_dimension=1,
        sigma_min=SCALES[0],
        sigma_max=SCALES[-1],
        number_of_sigma_steps=len(SCALES),
        use_sigma_logarithmic_spacing=False,
        gamma=0.5,
        set_scale_objectness_measure=False,
    ).numpy()


def reference(image: np.ndarray) -> np.ndarray:
    """Double precision and LAPACK, with the scale-normalised Frangi formula."""
    best = np.zeros(image.shape)
    for s in SCALES:
        hessian = np.empty((*image.shape, 3, 3))
        for i in range(3):
            for j in range(3):
                order = [(i == k) + (j == k) for k in range(3)]
                hessian[..., i, j] = s**2 * ndimage.gaussian_filter(
                    image.astype(float), s, order=order, truncate=6
                )
        e3, e2, e1 = np.moveaxis(np.linalg.eigvalsh(-hessian), -1, 0)
        with np.errstate(all="ignore"):
            v = (1 - np.exp(-((e2 / e1) ** 2) / 0.5)) * np.exp(-(e3**2) / (e1 * e2) / 0.5)
            v *= 1 - np.exp(-(e1**2 + e2**2 + e3**2) / (2 * 0.5**2))
        best = np.maximum(best, np.where(e2 > np.abs(e3), v, 0))
    return best


def one(name: str, size: str) -> dict[str, float]:
    runner = {
        "pvsbook": run_pvsbook,
        "pvsbook, white-matter mask": lambda v: run_pvsbook(v, white_matter(v.shape)),
        "scikit-image": run_skimage,
        "SimpleITK": run_simpleitk,
        "ITK": run_itk,
        "ANTsPy": run_ants,
    }[name]
    crop = volume((64, 64, 48))
    # A masked run answers inside its mask alone, so it is compared there.
    inside = white_matter(crop.shape) if name.endswith("mask") else np.ones(crop.shape, bool)
    agree = np.corrcoef(runner(crop)[inside], reference(crop)[inside])[0, 1]  # warms up, too
    image = volume(SIZES[size])
    start, wall = time.process_time(), time.perf_counter()
    runner(image)
    return {
        "cpu_s": time.process_time() - start,
        "wall_s": time.perf_counter() - wall,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "r_reference": float(agree),
    }


def apart(name: str, size: str, limit_s: float) -> dict[str, float | str]:
    """Run one tool in a process of its own: its figures, or why there are none."""
    if importlib.util.find_spec(NEEDS[name]) is None:
        return {"not_run": "not installed"}
    command = [sys.executable, __file__, "--one", name, size]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return {"not_run": f"stopped after {limit_s:.0f} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing on stderr"]
        return {"not_run": f"exit code {done.returncode}: {said[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="400x400x280 too: peers take minutes")
    parser.add_argument("--limit-s", type=float, default=600, help="wall time that each may take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(NEEDS), choices=list(NEEDS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    rows = []
    for size in ("small", "large") if options.large else ("small",):
        stopped: dict[str, dict[str, float | str]] = {}
        for k in range(options.rounds):
            ours = np.nan
            for name in options.only:
                row = stopped.get(name) or apart(name, size, options.limit_s)
                if "not_run" in row:
                    stopped[name] = row
                elif name == "pvsbook":
                    ours = row["cpu_s"]
                ratio = row.get("cpu_s", np.nan) / ours
                rows.append({"size": size, "tool": name, "round": k, **row, "ratio": ratio})
                print(rows[-1], flush=True)
    runs = pd.DataFrame(rows)
    groups = runs.groupby(["size", "tool"], sort=False)
    table = groups.median(numeric_only=True).drop(columns="round")
    table = table.assign(lowest_ratio=groups["ratio"].min(), highest_ratio=groups["ratio"].max())
    if "not_run" in runs:
        table["not_run"] = groups["not_run"].first()
    table = table.reset_index()
    print(f"{options.rounds} rounds; load {os.getloadavg()[0]:.0f}")
    print(table.round(3).fillna("").to_string(index=False))
    if options.out:
        table.to_csv(options.out, sep="\t", index=False)


if __name__ == "__main__":
    main()
