"""Microbleeds, calcifications and lesions planted in heads: ``python benchmarks/qsm_objects.py``.

``MIRROR [--report] [--sources] [--keep FOLDER]``.  Limits were chosen on the heads of
`CHOOSING`; those of `REPORTING` chose nothing.  Simulated: balls and ellipsoids in two makers'
heads, with their veins, textures, edges of R2* and noise.
"""

from __future__ import annotations

import argparse
import math
import pickle
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import edt
import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qsm_heads import Look
from qsm_worlds import make
from scipy import ndimage

from pvsbook import images, qsm
from pvsbook._constants import RELAXIVITY_HZ_PPM
from pvsbook.atlas import deep_grey, templates
from pvsbook.atlas.registration import register_to_mni
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import _dipole_field, make_gre
from pvsbook.qsm.lesions import measure_lesions
from pvsbook.qsm.microbleeds import find_small_sources
from pvsbook.qsm.nuclei import MIN_WHITE, _place
from pvsbook.qsm.r2s import fit_r2s
from pvsbook.qsm.regions import measure_regions
from pvsbook.qsm.separation import separate_scan

GAMMA_MHZ_T = 42.577
# Maker, head, signal-to-noise ratio, voxel in mm (1 mm of the second maker needs 12 GB).
CHOOSING = (
    ("phantom", Look(7001), 60, 1.0),
    ("phantom", Look(7002, (8, -3, 5)), 30, 1.0),
    ("own", Look(7003), 50, 1.3),
)
REPORTING = (
    ("phantom", Look(7011, (-5, 3, -4)), 60, 1.0),
    ("phantom", Look(7012), 30, 1.0),
    ("own", Look(7013, (5, 2, 0)), 50, 1.3),
)
SOURCES = (7021, 7022, 7023)
N_BLEEDS, N_CALCIFIED, N_LESIONS = 10, 5, 16
APART_MM = 22.0


def _centres(free: NDArray, size: NDArray, n: int, rng: np.random.Generator) -> NDArray:
    """Draw places in a mask, far from each other."""
    places = rng.permutation(np.argwhere(free))
    chosen: list[NDArray] = []
    for place in places:
        if all(np.linalg.norm((place - other) * size) > APART_MM for other in chosen):
            chosen.append(place)
        if len(chosen) == n:
            break
    return np.array(chosen) + rng.uniform(-0.5, 0.5, (len(chosen), 3))


def _ball(affine: NDArray, b0: NDArray, shape: tuple, centre: NDArray, row: Mapping[str, Any],
          omega: float, times: NDArray) -> tuple[tuple[slice, ...], NDArray]:  # fmt: skip
    """Return a box and what a ball multiplies the signal by: 27 parts a voxel, exact field."""
    size = nib.affines.voxel_sizes(affine)
    reach = np.ceil(12 / size).astype(int)
    low = np.maximum(np.rint(centre).astype(int) - reach, 0)
    high = np.minimum(np.rint(centre).astype(int) + reach + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    index = np.moveaxis(np.mgrid[box], 0, -1).astype(float)
    out = np.zeros((*index.shape[:3], times.size), complex)
    for part in np.ndindex(3, 3, 3):
        away = (index + (np.array(part) - 1) / 3 - centre) * size
        r = np.linalg.norm(away, axis=-1)
        cosine = away @ b0 / np.maximum(r, 1e-6)
        inside = r < row["radius_mm"]
        ratio = (row["radius_mm"] / np.maximum(r, row["radius_mm"])) ** 3
        field = np.where(inside, 0, row["chi_ppb"] * 1e-3 / 3 * ratio * (3 * cosine**2 - 1))
        for e, t in enumerate(times):
            out[..., e] += np.exp(1j * omega * field * t - inside * row["r2s_hz"] * t) / 27
    return box, out


def _lesion(size: NDArray, shape: tuple, centre: NDArray, row: Mapping[str, Any],
            turn: NDArray) -> tuple[tuple[slice, ...], NDArray]:  # fmt: skip
    """Return a box and the distance in mm of its voxels to an ellipsoid's surface, about."""
    reach = np.ceil(14 / size).astype(int)
    low = np.maximum(np.rint(centre).astype(int) - reach, 0)
    high = np.minimum(np.rint(centre).astype(int) + reach + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    away = ((np.moveaxis(np.mgrid[box], 0, -1) - centre) * size) @ turn
    axes = np.array(row["axes_mm"])
    level = np.linalg.norm(away / axes, axis=-1)
    slope = np.linalg.norm(away / axes**2, axis=-1) / np.maximum(level, 1e-6)
    return box, (level - 1) / np.maximum(slope, 1e-6)


def plant(head: Any, snr: float, seed: int) -> tuple[images.Gre, pd.DataFrame, NDArray]:
    """Add objects to a scan; return it, what was added, and a mask of the lesions."""
    rng = np.random.default_rng([seed, 99])
    g = head.gre
    size, b0, times = g.voxel_size_mm, g.b0_direction, g.echo_times_s
    depth = edt.edt(head.brain, anisotropy=tuple(size))
    smooth = ndimage.gaussian_filter(np.where(head.brain, head.chi_ppm, 0), 2 / size)
    white = (smooth < -0.008) & (depth > 9) & (ndimage.maximum_filter(head.labels, 5) == 0)
    places = _centres(white, size, N_BLEEDS + N_CALCIFIED + N_LESIONS, rng)
    rows: list[dict[str, Any]] = []
    omega = 2 * math.pi * GAMMA_MHZ_T * g.field_strength_t
    scan = g.magnitude * np.exp(1j * g.phase_rad)
    noise = 0.68 / snr
    factor = np.ones(scan.shape, complex)
    fine_shape = tuple(2 * n for n in head.brain.shape)
    fine = np.zeros(fine_shape, np.float32)
    mask = np.zeros(head.brain.shape, bool)
    for n, place in enumerate(places):
        about = {"x": place[0], "y": place[1], "z": place[2], "kind": "bleed"}
        if n < N_BLEEDS + N_CALCIFIED:
            row = about | {"radius_mm": rng.uniform(1.0, 3.0), "r2s_hz": rng.uniform(50, 200),
                           "chi_ppb": rng.uniform(300, 1500)}  # fmt: skip
            if n >= N_BLEEDS:
                row |= {"kind": "calcification", "chi_ppb": -row["chi_ppb"]}
            box, times_factor = _ball(g.affine, b0, head.brain.shape, place, row, omega, times)
            factor[box] *= times_factor
        else:
            kind = ("rim", "bright", "rim", "faint")[n % 4]
            mean = rng.uniform(2.5, 7.5)
            row = about | {"kind": kind, "radius_mm": mean,
                           "axes_mm": mean * np.array([1.15, 1.0, 0.87])}  # fmt: skip
            turn = np.linalg.qr(rng.normal(0, 1, (3, 3)))[0]
            box, level = _lesion(size / 2, fine_shape, 2 * place + 0.5, row, turn)
            inside = np.clip(0.5 - level / float(size.mean() / 2), 0, 1)
            core = {"rim": rng.uniform(5, 20), "bright": rng.uniform(15, 45),
                    "faint": rng.uniform(-5, 10)}[kind]  # fmt: skip
            row |= {"core_ppb": core, "rim_ppb": 0.0}
            chi = core * inside
            if kind == "rim":
                thick = rng.uniform(1.0, 2.0)
                row["rim_ppb"] = rng.uniform(25, 80)
                inner = np.clip(0.5 - (level + thick) / float(size.mean() / 2), 0, 1)
                side = np.moveaxis(np.mgrid[box], 0, -1) - (2 * place + 0.5)
                kept = side @ rng.normal(0, 1, 3) / np.maximum(np.linalg.norm(side, axis=-1), 1)
                covered = kept > np.quantile(kept[level < 0], rng.choice([0.0, 0.2]))
                chi = chi + row["rim_ppb"] * (inside - inner) * covered
            fine[box] += np.float32(1e-3) * chi.astype(np.float32)
            box, level = _lesion(size, head.brain.shape, place, row, turn)
            mask[box] |= level < rng.uniform(-0.7, 0.7)
        rows.append(row)
    field = _dipole_field(fine, size / 2, b0)
    field = sum(
        field[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)
    ) / np.float32(8)
    factor *= np.exp(1j * omega * field[..., None] * times)
    # What an object takes of the signal it would take of the noise too, so noise is added.
    lost = np.sqrt(np.maximum(1 - np.abs(factor) ** 2, 0))
    extra = noise * lost * (rng.normal(size=scan.shape) + 1j * rng.normal(size=scan.shape))
    scan = scan * factor + extra
    gre = images.Gre(
        np.abs(scan).astype(np.float32), np.angle(scan).astype(np.float32), times,
        g.field_strength_t, g.affine, "radians",
    )  # fmt: skip
    return gre, pd.DataFrame(rows), mask


def measured(kind: str, look: Look, snr: float, mirror: Path, voxel_mm: float) -> dict[str, Any]:
    """Simulate and reconstruct one head; return what the search is given, and the truth."""
    head = make(kind, look, (1, 1, 1), mirror, voxel_mm)
    gre, truth, lesions = plant(head, snr, look.seed)
    start = time.process_time()
    result = qsm.reconstruct(gre)
    brain = images.make(result.mask.astype(np.uint8), gre.affine)
    found = register_to_mni(images.make(gre.magnitude[..., -1], gre.affine), contrast="t2",
                            mask=brain)  # fmt: skip
    atlas, _ = deep_grey.nuclei("melbourne" if deep_grey.has_tian() else "schematic")
    labels = _place(atlas, found, result, (0.0, 0.0, 0.0))
    like = images.make(gre.magnitude[..., 0], gre.affine)
    white = images.array(found.to_native(templates.mni("wm"), like, order=1)) > MIN_WHITE
    print(f"{head.name}: {result.status}, {result.reasons}, {time.process_time() - start:.0f} s",
          flush=True)  # fmt: skip
    own, n = ndimage.label(ndimage.binary_erosion(head.brain, iterations=4)
                           & (head.chi_ppm < -0.2))  # fmt: skip
    extra = [dict(zip("xyz", c, strict=True), kind="calcification", radius_mm=2.5, chi_ppb=np.nan)
             for c in ndimage.center_of_mass(own > 0, own, range(1, n + 1))]  # fmt: skip
    truth = pd.concat([truth, pd.DataFrame(extra)], ignore_index=True)
    return {
        "name": f"{head.name} snr {snr}", "chi_ppm": result.susceptibility.chi_ppm,
        "known": result.local_field.mask, "r2s_hz": fit_r2s(
            gre.magnitude, gre.echo_times_s, result.mask), "measured": result.mask,
        "labels": labels, "white": white & result.local_field.mask, "affine": gre.affine,
        "lesions": lesions, "truth": truth.to_dict("list"),
    }  # fmt: skip


def score_objects(d: Mapping[str, Any]) -> pd.DataFrame:
    """Match objects with what was planted: one row a planted or a falsely found object."""
    found = find_small_sources(
        d["chi_ppm"], d["known"], d["r2s_hz"], d["affine"], measured=d["measured"],
        nuclei=d["labels"],
    )  # fmt: skip
    truth = pd.DataFrame(d["truth"])
    truth = truth[truth["kind"].isin(["bleed", "calcification"])].reset_index(drop=True)
    places = nib.affines.apply_affine(d["affine"], truth[["x", "y", "z"]])
    points = found.table[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    apart = np.linalg.norm(points[:, None] - places[None], axis=2)
    near = apart < truth["radius_mm"].to_numpy() + 2
    rows = []
    names = {"bleed": "microbleed", "calcification": "calcification"}
    expected = found.to_row()
    for kind, name in names.items():
        called = (found.table["class"] == name).to_numpy()
        right = near[:, (truth["kind"] == kind).to_numpy()].any(axis=1)
        for n in np.flatnonzero(truth["kind"] == kind):
            rows.append({"head": d["name"], "kind": name, "radius_mm": truth["radius_mm"][n],
                         "chi_ppb": truth["chi_ppb"][n],
                         "outcome": "hit" if (called & near[:, n]).any() else "miss"})  # fmt: skip
        rows += [{"head": d["name"], "kind": name, "outcome": "false"}] * int(
            (called & ~right).sum()
        )
        rows.append({"head": d["name"], "kind": name, "outcome": "expected false",
                     "n": expected[f"n_{name}s_false"]})  # fmt: skip
    veins = (found.table["class"] == "vein").to_numpy()
    for is_planted in near[veins].any(axis=1):
        rows.append({"head": d["name"], "kind": "vein",
                     "outcome": "planted ball" if is_planted else "other"})  # fmt: skip
    return pd.DataFrame(rows)


def score_lesions(d: Mapping[str, Any]) -> pd.DataFrame:
    """Match measured lesions with what was planted: one row a lesion."""
    found = measure_lesions(
        d["chi_ppm"], d["lesions"], d["known"], d["affine"], np.random.default_rng(0),
        white_matter=d["white"],
    )  # fmt: skip
    truth = pd.DataFrame(d["truth"])
    truth = truth[truth["kind"].isin(["rim", "bright", "faint"])].reset_index(drop=True)
    places = nib.affines.apply_affine(d["affine"], truth[["x", "y", "z"]])
    points = found.table[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    nearest = np.linalg.norm(points[:, None] - places[None], axis=2).argmin(axis=1)
    columns = ["kind", "core_ppb", "rim_ppb", "radius_mm"]
    about = truth.loc[nearest, columns].reset_index(drop=True).add_prefix("true_")
    table = pd.concat([about, found.table.reset_index(drop=True)], axis=1)
    return table.assign(head=d["name"], n_false=found.n_false)


def summarise(objects: pd.DataFrame, lesions: pd.DataFrame) -> None:
    """Print F1 of the objects, by size, and sensitivity and specificity of the rims."""
    sizes = [0, 1.5, 2.2, 4]
    for kind in ("microbleed", "calcification"):
        own = objects[objects["kind"] == kind]
        for head, part in [*own.groupby("head"), ("all", own)]:
            n = part["outcome"].value_counts().reindex(["hit", "miss", "false"], fill_value=0)
            f1 = 2 * n["hit"] / max(2 * n["hit"] + n["miss"] + n["false"], 1)
            print(f"{kind:14s}{head:28s} hit {n['hit']:2d} miss {n['miss']:2d} false "
                  f"{n['false']:2d} (expected {part['n'].sum():.1f})  F1 {f1:.2f}")  # fmt: skip
        planted = own.dropna(subset=["chi_ppb"])
        print((planted["outcome"] == "hit").groupby(
            [pd.cut(2 * planted["radius_mm"], [2 * s for s in sizes]),
             pd.cut(planted["chi_ppb"].abs(), [0, 600, 1000, 1600])], observed=True,
        ).agg(["mean", "size"]).round(2).to_string())  # fmt: skip
    print("veins:", objects[objects["kind"] == "vein"]["outcome"].value_counts().to_dict())
    told = lesions[lesions["rim"] != "n/a"]
    groups = [pd.cut(2 * told["true_radius_mm"], [0, 6, 8, 10, 12, 16])]
    for keys in (groups, [told["head"]], [told["true_kind"]]):
        print((told["rim"] == "yes").groupby([told["true_kind"] == "rim", *keys], observed=True)
              .agg(["mean", "size"]).round(2).to_string())  # fmt: skip
    error = lesions["mean_around_ppb"]
    print(f"rims not told: {(lesions['rim'] == 'n/a').sum()} of {len(lesions)}; false rims "
          f"{((told['rim'] == 'yes') & (told['true_kind'] != 'rim')).sum()}, expected "
          f"{lesions.groupby('head')['n_false'].first().sum():.1f}; mean less around "
          f"{error.mean():.1f} ppb")  # fmt: skip


def sources() -> pd.DataFrame:
    """Errors of para- and diamagnetic susceptibility of each nucleus, ppb, found less true.

    Heads of two sources that obey the equations solved (`make_gre`, sources=True); then with a
    relaxivity of myelin that is 0.6 of iron's, which the equations take to be the same.
    """
    table, rows = deep_grey.table(), []
    for seed in SOURCES:
        turned = pose((seed % 7 - 3, 3, -2))
        head = make_gre(np.random.default_rng(seed), voxel_size_mm=2, sources=True,
                        chi_ppb={"csf": 0.0}, mni_to_world=turned)  # fmt: skip
        lost = 0.4 * RELAXIVITY_HZ_PPM * head.myelin_ppm[..., None] * head.gre.echo_times_s
        weak = replace(head.gre, magnitude=(head.gre.magnitude * np.exp(lost)).astype("f4"))
        for world, gre, r2 in (
            ("R2 known", head.gre, head.r2_hz), ("R2 assumed", head.gre, None),
            ("R2 4 per s off", head.gre, head.r2_hz + 4),
            ("weaker myelin", weak, head.r2_hz),
        ):  # fmt: skip
            result = qsm.reconstruct(gre)
            rate = fit_r2s(gre.magnitude, gre.echo_times_s, result.mask)
            found, status = separate_scan(gre, result, rate, r2)
            if found is None:
                print(seed, world, status)
                continue
            about = head.labels, table, result.local_field.mask, gre.voxel_size_mm
            for source in ("iron_ppm", "myelin_ppm"):
                true = measure_regions(getattr(head, source), *about, erode=1)
                ours = measure_regions(getattr(found, source), *about, erode=1)
                rows += [
                    {"world": world, "source": source, "nucleus": n, "seed": seed, "error": e}
                    for n, e in zip(true["region"], ours["mean_ppb"] - true["mean_ppb"],
                                    strict=True)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Simulate, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--sources", action="store_true")
    options = parser.parse_args()
    if options.sources:
        errors = sources().dropna()
        print(errors.pivot_table(index="nucleus", columns=["world", "source"], values="error",
                                 aggfunc="mean", sort=False).round(0).to_string())  # fmt: skip
        print(
            errors.assign(size=errors["error"].abs())
            .groupby(["world", "source"], sort=False)
            .agg({"error": "mean", "size": ["mean", "max"]})
            .round(1)
            .to_string()
        )
        return
    objects, lesions = [], []
    for kind, look, snr, voxel_mm in REPORTING if options.report else CHOOSING:
        kept = options.keep and options.keep / f"{look.seed}.pkl"
        if kept and kept.exists():
            with kept.open("rb") as file:
                d = pickle.load(file)
        else:
            d = measured(kind, look, snr, options.mirror, voxel_mm)
        if kept and not kept.exists():
            kept.parent.mkdir(exist_ok=True, parents=True)
            with kept.open("wb") as file:
                pickle.dump(d, file)
        start = time.process_time()
        objects.append(score_objects(d))
        middle = time.process_time()
        lesions.append(score_lesions(d))
        print(f"{d['name']}: objects {middle - start:.1f} CPU s, lesions "
              f"{time.process_time() - middle:.1f} CPU s")  # fmt: skip
    summarise(pd.concat(objects, ignore_index=True), pd.concat(lesions, ignore_index=True))


if __name__ == "__main__":
    main()
