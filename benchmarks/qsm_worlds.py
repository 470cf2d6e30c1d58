"""QSM on simulators of different make: ``python benchmarks/qsm_worlds.py MIRROR [--report]``.

``--budget TABLE`` writes the loss budget of the page on background fields instead: the mean error
of the nuclei as stage after stage takes its own input in place of the truth.  ``--masks`` grows
and shrinks the tool's own mask by a voxel.
With ``--change``, the change between two visits of `VISITS` by the recipe of `pvsbook run`.

Three worlds: heads of `qsm_heads.py` (template maps or a drawn cortex), the same with the field
and signal of qsm-forward (``pip install pvsbook[bench]``), and the package's own phantom.  The
background step and its settings were chosen by the worst head of `CHOOSING`; `REPORTING` chose
nothing.  Values are means of nuclei, in ppb, referred to the mean of one region in truth and
result, the brain where susceptibility is known.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import qsm_metrics
from numpy.typing import NDArray
from qsm_heads import Head, Look, scan, scan_qsm_forward
from scipy import ndimage

from pvsbook import qsm
from pvsbook.atlas import deep_grey
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import background, change, inversion, pipeline
from pvsbook.qsm._solve import convolve, distance_inside, sphere, transfer_of
from pvsbook.qsm.background import LocalField
from pvsbook.qsm.dipole import padded_shape
from pvsbook.qsm.field import hz_to_ppm
from pvsbook.qsm.harmonic import remove_harmonic

CHOOSING: tuple[tuple[str, Look, tuple[float, float, float]], ...] = (
    ("own", Look(41), (1, 1, 1)),
    ("own", Look(42, (12, -4, 6)), (1, 1, 1)),
    ("own", Look(45, is_drawn=True), (1, 1, 1)),
    ("own", Look(46, (-10, 5, 3), is_drawn=True), (1, 1, 1)),
    ("qsm-forward", Look(43, (5, 3, 0)), (1, 1, 1)),
    ("qsm-forward", Look(47, is_drawn=True), (1, 1, 1)),
    ("phantom", Look(4001), (1, 1, 1)),
    ("phantom", Look(4002, (10, -4, 5)), (1.06, 0.95, 1.04)),
)
REPORTING: tuple[tuple[str, Look, tuple[float, float, float]], ...] = (
    ("own", Look(61), (1, 1, 1)),
    ("own", Look(62, (-8, 4, -7), is_drawn=True), (1, 1, 1)),
    ("own", Look(63, (15, 0, 0), is_drawn=True), (1, 1, 1)),
    ("qsm-forward", Look(64, (-6, 2, 4)), (1, 1, 1)),
    ("qsm-forward", Look(65, (8, 0, 0), is_drawn=True), (1, 1, 1)),
    ("phantom", Look(4011, (-7, 3, 6)), (0.96, 1.05, 0.98)),
)
VISITS = {45, 43, 4001}, {62, 64, 4011}  # seeds: the error of pose was chosen on the first three
CHANGES = (("caudate", 4.0), ("putamen", 2.0), ("posterior thalamus", -3.0))  # of the own heads
PHANTOM_PPB = {"caudate": 49.0, "thalamus": 16.0}  # of the phantom, 4 more than at the first visit
MIN_VOXELS = 8
THALAMUS = ("anterior thalamus", "posterior thalamus", "thalamus", "pulvinar")  # not in the score


def make(
    kind: str, look: Look, scale: tuple[float, float, float], mirror: Path, voxel_mm: float
) -> Head:
    """Simulate one head of a world; with changes, its later visit."""
    if kind != "phantom":
        return {"own": scan, "qsm-forward": scan_qsm_forward}[kind](
            look, mirror, voxel_mm=voxel_mm
        )
    p = make_gre(
        np.random.default_rng(
            [look.seed, int(10 * sum(look.turn_deg)) % 997, *([1] if look.change_ppb else [])]
        ),
        chi_ppb=PHANTOM_PPB if look.change_ppb else None,
        voxel_size_mm=voxel_mm, margin_mm=8.0, anatomy=np.random.default_rng(look.seed),
        mni_to_world=pose(look.turn_deg) @ np.diag([*scale, 1.0]),
    )  # fmt: skip
    table = deep_grey.table()
    names = dict(zip(table["label"], table["region"], strict=True))
    return Head(
        f"phantom {look.seed}", p.gre, p.chi_ppm, p.local_field_ppm, p.field_ppm, p.brain,
        p.labels, names,
    )  # fmt: skip


def score(head: Head, chi_ppm: NDArray, mask: NDArray) -> dict[str, float]:
    """Compare the means of the nuclei with the truth's, both less their mean over one region.

    ``deep nrmse`` is that of the QSM challenge (doi:10.1002/mrm.28754): voxels of the nuclei but
    the thalamus, less the straight line that fits best.
    """
    inside = mask & head.brain
    true, found = (1e3 * (v - v[inside].mean(dtype=np.float64)) for v in (head.chi_ppm, chi_ppm))
    pairs = []
    for name in dict.fromkeys(head.nuclei.values()):
        numbers = [n for n, other in head.nuclei.items() if other == name]
        where = np.isin(head.labels, numbers) & inside
        if where.sum() >= MIN_VOXELS:
            pairs.append((true[where].mean(), found[where].mean()))
    a, b = np.transpose(pairs)
    rest = (found - true)[inside]
    deep = [n for n, name in head.nuclei.items() if name not in THALAMUS]
    where = np.isin(head.labels, deep) & inside
    return {
        "slope": float(np.polyfit(a, b, 1)[0]),
        "error": float(np.abs(b - a).mean()),
        "signed": float((b - a).mean()),
        "max": float(np.abs(b - a).max()),
        "deep nrmse": qsm_metrics.nrmse_percent(found, true, where, detrend=True),
        "nrmse": float(100 * np.linalg.norm(rest) / np.linalg.norm(true[inside])),
        "kept": float(mask.sum() / head.brain.sum()),
    }


def ismv(
    field_ppm: NDArray, mask: NDArray, size_mm: NDArray, *, radius_mm: float = 5.0, n: int = 150
) -> LocalField:
    """Remove the background by repeated ball means, the rim held (Wen 2014, mrm.24998)."""
    served = distance_inside(mask, size_mm) > radius_mm * (1 + 1e-6)
    big = padded_shape(mask.shape, size_mm, pad_mm=radius_mm)
    mean = transfer_of(sphere(radius_mm, size_mm), big)
    total = np.where(mask, field_ppm, 0).astype(np.float32)
    smooth = total
    for _ in range(n):
        smooth = np.where(served, convolve(smooth, mean, big), total)
    return LocalField(np.where(served, total - smooth, np.float32(0)), served)


Chain = Callable[[NDArray, NDArray, NDArray, NDArray], tuple[NDArray, NDArray]]


def chains() -> Mapping[str, Chain]:
    """Return, by name, what leads from total field and mask to susceptibility and its mask."""

    def chain(
        remove: Callable[..., LocalField], *, unknown: bool, degree: int = 0, **more: Any
    ) -> Chain:
        def run(f: NDArray, m: NDArray, size: NDArray, b0: NDArray) -> tuple[NDArray, NDArray]:
            whole = ndimage.binary_fill_holes(m)
            local = remove(f, whole, size, b0)
            own = dict(more)
            if local.ball_mm:
                own["ball_mm"] = local.ball_mm
            elif unknown:
                own |= {"weight": local.mask & m, "tolerance": 0.01}
            chi = inversion.tv(local.field_ppm * m, local.mask, size, b0, **own).chi_ppm
            if degree:
                chi = remove_harmonic(chi, local.mask, size, b0, degree=degree)
            return chi, local.mask

        return run

    def without(method: Callable[..., LocalField], **more: Any) -> Callable[..., LocalField]:
        return lambda f, m, s, b0: method(f, m, s, **more)

    lbv = without(background.lbv)
    return {
        "LBV, TV": chain(lbv, unknown=False),
        "LBV, TV, outside unknown": chain(lbv, unknown=True),
        "LBV, TV, harmonic 6": chain(lbv, unknown=False, degree=6),
        "LBV, TV, outside unknown, harmonic 4": chain(lbv, unknown=True, degree=4),
        "LBV, TV, outside unknown, harmonic 6": chain(lbv, unknown=True, degree=6),
        "PDF, TV": chain(background.pdf, unknown=False),
        "PDF, TV, outside unknown, harmonic 6": chain(background.pdf, unknown=True, degree=6),
        "V-SHARP, TV": chain(without(background.vsharp), unknown=False),
        "V-SHARP 20 mm, TV, outside unknown": chain(
            without(background.vsharp, radii_mm=(20, 12, 8, 6, 4, 2)), unknown=True
        ),
        "RESHARP, TV": chain(without(background.resharp), unknown=False),
        "iSMV, TV": chain(without(ismv), unknown=True),
        "iSMV, TV, harmonic 6": chain(without(ismv), unknown=True, degree=6),
        "SMV in TV": chain(
            without(background.smv), unknown=True, **change.SETTINGS["inversion_options"]
        ),
    }


def rows(head: Head, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Measure the default and other chains on the tool's own field and mask."""
    g = head.gre
    result = qsm.reconstruct(g)
    about = {"head": head.name, "method": "default"}
    yield about | score(head, result.susceptibility.chi_ppm, result.local_field.mask)
    total = hz_to_ppm(result.field.field_hz, g.field_strength_t)
    known = chains()
    for name in names:
        start = time.process_time()
        chi, kept = known[name](total, result.mask, g.voxel_size_mm, g.b0_direction)
        cpu = time.process_time() - start
        yield {"head": head.name, "method": name} | score(head, chi, kept) | {"cpu_s": cpu}


STAGES = ("reference", "inversion", "background", "mask", "phase and field")


def budget(head: Head) -> Iterator[dict[str, Any]]:
    """Measure the default as stage after stage, from the last on, gets no truth any more.

    The first row has the true map, less its mean over the tool's mask instead of the brain's; the
    second is the inversion of the true local field in the true mask, and so on to the whole chain.
    The labels are the true ones throughout.  Errors are absolute, in ppb, over the nuclei.
    """
    g = head.gre
    whole = qsm.reconstruct(g)
    known = whole.local_field.mask
    own_ppm = np.where(head.brain, head.local_ppm, np.float32(0))
    hz = head.total_ppm / hz_to_ppm(np.float64(1), g.field_strength_t)

    def map_of(local: LocalField, mask: NDArray) -> tuple[NDArray, NDArray]:
        return pipeline._chi(g, local, mask, whole.field, "tv", {}, 6)[0], local.mask

    def removed(mask: NDArray) -> tuple[NDArray, NDArray]:
        return map_of(pipeline._local_field(g, hz, mask, "lbv", {}), mask)

    maps = {
        "reference": (head.chi_ppm, known),
        "inversion": map_of(LocalField(own_ppm, head.brain), head.brain),
        "background": removed(head.brain),
        "mask": removed(whole.mask),
        "phase and field": (whole.susceptibility.chi_ppm, known),
    }
    true = 1e3 * (head.chi_ppm - head.chi_ppm[head.brain].mean(dtype=np.float64))
    names = dict.fromkeys(head.nuclei.values())
    nuclei = [np.isin(head.labels, [n for n, m in head.nuclei.items() if m == k]) for k in names]
    for stage in STAGES:
        chi, mask = maps[stage]
        rest = 1e3 * (chi - chi[mask].mean(dtype=np.float64)) - true
        inside = [at & mask for at in nuclei]
        errors = [abs(rest[at].mean()) for at in inside if at.sum() >= MIN_VOXELS]
        yield {"world": head.name.split()[0], "head": head.name, "stage": stage,
               "error_ppb": round(float(np.mean(errors)), 2)}  # fmt: skip


def masks(head: Head) -> Iterator[dict[str, Any]]:
    """Measure what a mask one voxel too small or too large costs; the tool makes the first one."""
    g = head.gre
    own = qsm.reconstruct(g, inversion="tkd").mask
    for name, mask in (
        ("own", own),
        ("a voxel smaller", ndimage.binary_erosion(own)),
        ("a voxel larger", ndimage.binary_dilation(own) & (g.magnitude[..., 0] > 0)),
    ):
        result = qsm.reconstruct(g, mask=mask)
        about = {"head": head.name, "method": name, "status": result.status}
        yield about | score(head, result.susceptibility.chi_ppm, result.local_field.mask)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the worst and the mean head of each method."""
    groups = frame.groupby("method", sort=False)
    return pd.DataFrame(
        {
            "worst error": groups["error"].max(),
            "mean error": groups["error"].mean(),
            "signed": groups["signed"].mean(),
            "lowest slope": groups["slope"].min(),
            "highest slope": groups["slope"].max(),
            "deep nrmse": groups["deep nrmse"].mean(),
            "nrmse": groups["nrmse"].mean(),
            "kept": groups["kept"].mean(),
        }
    ).reset_index()


def changes(
    kind: str, look: Look, scale: tuple[float, float, float], mirror: Path, voxel_mm: float
) -> Iterator[pd.DataFrame]:
    """Measure a head's change in the same pose, and tilted by 8 degrees, as the command does.

    ``off`` is from the true change of the nucleus, ``off_there`` from that of the true maps in the
    regions that were measured (without what misplaced labels lose), ``given`` what the true
    labels and the true pose give on the same maps.
    """
    x, y, z = look.turn_deg
    tilted = (x + (-8 if x > 0 else 8), y, z)
    poses = (look.turn_deg, look.turn_deg, tilted)
    looks = [
        replace(look, turn_deg=p, change_ppb=CHANGES if k else ()) for k, p in enumerate(poses)
    ]
    first, *later = (make(kind, one, scale, mirror, voxel_mm) for one in looks)
    maps: dict[int, qsm.QsmResult] = {}

    def once(gre: Any, **settings: Any) -> qsm.QsmResult:
        if id(gre) not in maps:
            maps[id(gre)] = qsm.reconstruct(gre, **settings)
        return maps[id(gre)]

    labels, table = deep_grey.nuclei()

    def measure(later: Head, n_repeats: int) -> change.Change:
        rng = np.random.default_rng(0)
        return change.measure_visits(first.gre, later.gre, labels, table, rng, n_repeats=n_repeats)

    with patch.object(change, "reconstruct", once):
        for pose_of, head in zip(("same pose", "8 degrees"), later, strict=True):
            found = measure(head, 1)
            results = {id(h.gre): maps[id(h.gre)] for h in (first, head)}
            given = [
                _region_means(h, results[id(h.gre)].susceptibility.chi_ppm) for h in (first, head)
            ]
            for h in (first, head):
                result = results[id(h.gre)]
                truth = 1.0 * (h.chi_ppm - h.chi_ppm[h.brain].mean(dtype=np.float64))
                maps[id(h.gre)] = replace(
                    result, susceptibility=replace(result.susceptibility, chi_ppm=truth)
                )
            there = measure(head, 0).table["change_ppb"]  # of the true maps, in the same regions
            maps |= results
            true = _region_means(head, head.chi_ppm) - _region_means(first, first.chi_ppm)
            # NaN for thalamus and pulvinar of the own heads, which divide it otherwise
            rows = found.table.assign(head=first.name, pose=pose_of, status=found.status)
            rows["true_ppb"] = true.reindex(rows["region"]).to_numpy()
            rows["off_ppb"] = rows["change_ppb"] - rows["true_ppb"]
            rows["off_there_ppb"] = rows["change_ppb"] - there
            for name in ("off", "off_there"):
                off = rows[f"{name}_ppb"]
                rows[f"held_{name}"] = (off.abs() < 1.96 * rows["error_ppb"]).where(off.notna())
            off = (given[1] - given[0] - true).abs()
            rows["given_mean_ppb"], rows["given_max_ppb"] = off.mean(), off.max()
            yield rows


def mean_size(off_ppb: pd.Series) -> float:
    """Return the mean absolute error."""
    return float(off_ppb.abs().mean())


def _region_means(head: Head, chi_ppm: NDArray) -> pd.Series:
    """Return the mean of each true nucleus less that of the brain, in ppb."""
    names = dict.fromkeys(head.nuclei.values())
    numbers = {n: [k for k, other in head.nuclei.items() if other == n] for n in names}
    brain = chi_ppm[head.brain].mean(dtype=np.float64)
    means = {n: chi_ppm[np.isin(head.labels, k)].mean(dtype=np.float64) - brain
             for n, k in numbers.items()}  # fmt: skip
    return 1e3 * pd.Series(means)


def main() -> None:
    """Print a row per head and method, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mirror", type=Path, help="folder with atlas_tian")
    parser.add_argument("--report", action="store_true", help="heads that chose nothing")
    parser.add_argument("--change", action="store_true", help="two visits of a few heads")
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--only", nargs="+", default=list(chains()))
    parser.add_argument("--budget", type=Path, help="table to write")
    parser.add_argument("--masks", action="store_true")
    given = parser.parse_args()
    pd.set_option("display.width", 220, "display.max_columns", 20, "display.max_rows", 500)
    if given.change:
        seeds = VISITS[given.report]
        chosen = [h for h in (REPORTING if given.report else CHOOSING) if h[1].seed in seeds]
        every = [f for h in chosen for f in changes(*h, given.mirror, given.voxel_mm)]
        frame = pd.concat(every)
        print(frame.round(2).to_string(index=False))
        print(
            frame.groupby(["head", "pose"], sort=False).agg(
                n=("off_ppb", "count"), off=("off_ppb", mean_size),
                off_there=("off_there_ppb", mean_size), error=("error_ppb", "mean"),
                held=("held_off", "mean"), held_there=("held_off_there", "mean"),
                given=("given_mean_ppb", "first"), given_max=("given_max_ppb", "first"),
            ).astype(float).round(2)
        )  # fmt: skip
        return
    found: list[dict[str, Any]] = []
    for kind, look, scale in REPORTING if given.report else CHOOSING:
        head = make(kind, look, scale, given.mirror, given.voxel_mm)
        for row in (
            budget(head) if given.budget
            else masks(head) if given.masks
            else rows(head, tuple(given.only))
        ):  # fmt: skip
            found.append(row)
            print(
                {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True
            )
    frame = pd.DataFrame(found)
    if given.budget:
        frame.to_csv(given.budget, sep="\t", index=False)
        print(frame.pivot_table("error_ppb", "head", "stage", sort=False)[list(STAGES)])
        return
    print("\n" + summary(frame).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
