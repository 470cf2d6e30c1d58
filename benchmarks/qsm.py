"""Speed and accuracy of QSM: ``python benchmarks/qsm.py [speed] [unwrapping] [accuracy] ...``.

``--seeds`` takes other heads than the held-out ones, ``--only`` some of the rows.

Speed is CPU and wall seconds and memory of each stage on a head of 160 x 192 x 160 voxels of 1 mm
with five echoes, beside the floor that its Fourier transforms set.  Accuracy is measured on
seeds and poses that no parameter was chosen on.  QSM.rs figures were measured elsewhere, on
another machine and another simulated head, and stand beside ours for orientation only.  Peers:
see `peers`.
"""

from __future__ import annotations

import argparse
import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import qsm_metrics
from paired import paired
from scipy import fft
from skimage.restoration import unwrap_phase

from pvsbook import images, qsm
from pvsbook._constants import GAMMA_MHZ_T
from pvsbook.atlas import deep_grey
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import GrePhantom, make_gre
from pvsbook.qsm import background, field, inversion, unwrap
from pvsbook.qsm import change as change_settings

MATRIX = (160, 192, 160)
STATUS = Path("/proc/self/status")
# CPU seconds of QSM.rs on the same matrix, measured elsewhere.
QSM_RS_CPU_S = {
    "ROMEO, one echo": 0.69,
    "V-SHARP": 7.0,
    "RESHARP": 14.0,
    "TKD": 0.43,
    "TV": 18.0,
    "edge TV": 107.0,
    "whole": 32.5,
}
QSM_RS_ELSEWHERE = {  # the same, with accuracy over the deep grey nuclei
    "TKD, true field": {"cpu_s": 0.43, "nrmse_percent": 44.8},
    "TV, true field": {"cpu_s": 18.0},
    "edge TV, true field": {"cpu_s": 107.0},
    "RESHARP and TV": {"cpu_s": 32.5, "bias_mean_ppb": 7.5, "bias_max_ppb": 41.0},
    "RESHARP and HD-QSM": {"cpu_s": 33.8, "bias_mean_ppb": 7.2, "bias_max_ppb": 14.0},
}
CHANGE_HELD_OUT = (3201, 3202, 3203, 3204)  # background and radius were chosen on 3101 and 3102
HEADS = {  # seed: how the head lies, and voxel size in mm
    2001: ((0, 0, 0), 1.0),
    2002: ((10, -4, 6), 1.0),
    2003: ((-6, 3, 3), (0.9, 0.9, 1.5)),
    2011: ((5, 5, -8), 1.0),
    2012: ((-9, 2, -4), (1.2, 1.2, 1.2)),
    2301: ((0, 0, 0), 1.0),
    2302: ((7, 3, -6), 1.0),
    2303: ((-8, -3, 5), (0.9, 0.9, 1.5)),
    2101: ((0, 0, 0), 1.0),  # the last ones are there to choose on
    2102: ((9, -3, 5), 1.0),
    2103: ((-7, 4, -4), 1.2),
    3101: ((0, 0, 0), 1.0),
    3102: ((8, -3, 5), 1.0),
    3103: ((-5, 4, -6), 1.25),
}
HELD_OUT = (2001, 2002, 2003, 2011, 2012, 2301, 2302, 2303)


def crop(head: GrePhantom, shape: tuple[int, int, int]) -> tuple[images.Gre, np.ndarray]:
    """Return the scan and brain cut or padded to a matrix, around the brain's middle."""
    middle = np.argwhere(head.brain).mean(axis=0).round().astype(int)
    start = [
        max(0, min(m - n // 2, s - n))
        for m, n, s in zip(middle, shape, head.brain.shape, strict=True)
    ]
    box = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    affine = head.gre.affine.copy()
    affine[:3, 3] = (affine @ [*start, 1])[:3]

    def fit(volume: np.ndarray) -> np.ndarray:
        part = volume[box]
        pad = [(0, n - p) for n, p in zip(shape, part.shape[:3], strict=True)] + [(0, 0)] * (
            part.ndim - 3
        )
        return np.ascontiguousarray(np.pad(part, pad))

    g = head.gre
    return (
        images.Gre(fit(g.magnitude), fit(g.phase_rad), g.echo_times_s, g.field_strength_t, affine),
        fit(head.brain),
    )


def timed(run: Callable[[], Any], n: int = 3) -> tuple[float, float, Any]:
    """Return the smallest CPU and wall seconds of `n` runs, and the result."""
    cpu, wall = [], []
    for _ in range(n):
        c, w = time.process_time(), time.perf_counter()
        result = run()
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
    return min(cpu), min(wall), result


def speed(only: Sequence[str] = ()) -> pd.DataFrame:
    """Time every stage, and count the transforms that set its floor.

    The floor is the time of as many float32 transforms of the same sizes (``scipy.fft.rfftn``);
    stages without a transform have none.
    """
    gre, brain = crop(make_gre(np.random.default_rng(7), margin_mm=8.0), MATRIX)
    size, b0, times = gre.voxel_size_mm, gre.b0_direction, gre.echo_times_s
    fit = field.fit_field(gre.phase_rad, gre.magnitude, times, brain)
    total = field.hz_to_ppm(fit.field_hz, gre.field_strength_t).astype(np.float32)
    local = background.lbv(total, brain, size)
    f, m = local.field_ppm, local.mask
    mag, last = gre.magnitude, gre.magnitude[..., -1]
    radians = 2 * np.pi * GAMMA_MHZ_T * gre.field_strength_t * float(times.mean())
    stages: dict[str, Callable[[], Any]] = {
        "ROMEO, one echo": lambda: unwrap.romeo(
            gre.phase_rad[..., 0], brain, magnitude=mag[..., 0]
        ),
        "field of five echoes": lambda: field.fit_field(gre.phase_rad, mag, times, brain),
        "V-SHARP": lambda: background.vsharp(total, brain, size),
        "RESHARP": lambda: background.resharp(total, brain, size),
        "PDF": lambda: background.pdf(total, brain, size, b0),
        "LBV": lambda: background.lbv(total, brain, size),
        "TKD": lambda: inversion.tkd(f, m, size, b0),
        "closed-form L2": lambda: inversion.closed_form_l2(f, m, size, b0),
        "Tikhonov": lambda: inversion.tikhonov(f, m, size, b0),
        "NDI": lambda: inversion.ndi(f, m, size, b0, radians_per_ppm=radians),
        "TV": lambda: inversion.tv(f, m, size, b0),
        "edge TV": lambda: inversion.tv(f, m, size, b0, magnitude=last),
        "weighted TV": lambda: inversion.tv(f, m, size, b0, weight=m),
        "whole": lambda: qsm.reconstruct(gre, mask=brain),
    }
    seconds: dict[tuple[int, ...], float] = {}
    rows = []
    for name, run in stages.items():
        if only and name not in only:
            continue
        with counted() as made:
            run()  # compiles, too
        for shape in set(made) - set(seconds):
            volume = np.random.default_rng(0).standard_normal(shape, np.float32)
            seconds[shape] = timed(lambda v=volume: fft.rfftn(v), 7)[0]
        floor = sum(seconds[shape] for shape in made)
        memory = peak_mib(run)
        cpu, wall, _ = timed(run)
        rows.append(
            {
                "stage": name,
                "cpu_s": cpu,
                "wall_s": wall,
                "memory_mib": memory,
                "transforms": len(made),
                "floor_s": floor,
                "times_floor": cpu / floor if made else np.nan,
                "qsm_rs_cpu_s_elsewhere": QSM_RS_CPU_S.get(name, np.nan),
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs |= {
        "transform_ms": {s: round(1e3 * t, 1) for s, t in seconds.items()},
        "load": os.getloadavg()[0],
        "cpus": len(os.sched_getaffinity(0)),
    }
    return frame


@contextmanager
def counted() -> Iterator[list[tuple[int, ...]]]:
    """Note the shape of every volume that is Fourier-transformed inside."""
    made: list[tuple[int, ...]] = []
    plain = fft.rfftn, fft.irfftn

    def there(volume: np.ndarray, s: Any = None, **options: Any) -> np.ndarray:
        made.append(tuple(volume.shape if s is None else s))
        return plain[0](volume, s=s, **options)

    def back(spectrum: np.ndarray, s: Any, **options: Any) -> np.ndarray:
        made.append(tuple(s))
        return plain[1](spectrum, s=s, **options)

    fft.rfftn, fft.irfftn = there, back
    try:
        yield made
    finally:
        fft.rfftn, fft.irfftn = plain


def unwrapping() -> pd.DataFrame:
    """Unwrap the last echo by ROMEO and by scikit-image, in turn, from the same wrapped phase.

    The phase is the true field's, with complex noise; wrong is a voxel of the brain whose turn
    is not that of most.
    """
    head = make_gre(np.random.default_rng(7), margin_mm=8.0)
    gre, brain = head.gre, head.brain
    mag = gre.magnitude[..., -1]
    cycles = GAMMA_MHZ_T * gre.field_strength_t * float(gre.echo_times_s[-1])
    true = (2 * np.pi * cycles * head.field_ppm).astype(np.float32)
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((*true.shape, 2), np.float32).view(np.complex64)[..., 0]
    signal = mag * np.exp(1j * true) + np.median(mag[brain]) / 30 * noise
    wrapped, given = np.angle(signal).astype(np.float32), np.abs(signal)
    masked = np.ma.masked_array(wrapped, ~brain)
    pair = paired(
        lambda: unwrap.romeo(wrapped, brain, magnitude=given).phase_rad,
        lambda: np.asarray(unwrap_phase(masked, rng=0).data),
    )
    print(f"ROMEO beside skimage.restoration.unwrap_phase, {int(brain.sum())} voxels: {pair}")
    rows = []
    for name, found in {"ROMEO": pair.ours, "scikit-image": pair.peer}.items():
        turns = np.round((found - true)[brain] / (2 * np.pi))
        rows.append({"run": name, "wrong": int((turns != np.median(turns)).sum())})
    return pd.DataFrame(rows)


def peak_mib(run: Callable[[], Any]) -> float:
    """Return how far memory rises above what is held before; NaN where Linux is not beneath."""

    def held(name: str) -> float:
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith(name))
        return float(line.split()[1]) / 1024

    try:
        (STATUS.parent / "clear_refs").write_text("5")  # forget the highest so far
    except OSError:
        return float("nan")
    before = held("VmRSS")
    run()
    return held("VmHWM") - before


def accuracy(seeds: Sequence[int] = HELD_OUT, only: Sequence[str] = ()) -> pd.DataFrame:
    """Measure every inversion on the true local field, and the whole, on held-out heads."""
    rows = []
    for seed in seeds:
        rotation, size = HEADS[seed]
        head = make_gre(
            np.random.default_rng(seed), voxel_size_mm=size, mni_to_world=pose(rotation),
            margin_mm=8.0,
        )  # fmt: skip
        g, brain = head.gre, head.brain
        noise = np.random.default_rng(seed).normal(0, 0.0015, brain.shape)
        local = np.where(brain, head.local_field_ppm + noise, 0).astype(np.float32)
        known = (local, brain, g.voxel_size_mm, g.b0_direction)
        radians = 2 * np.pi * GAMMA_MHZ_T * g.field_strength_t * float(g.echo_times_s.mean())
        alone = {
            "TKD": lambda k: inversion.tkd(*k),
            "closed-form L2": lambda k: inversion.closed_form_l2(*k),
            "Tikhonov": lambda k: inversion.tikhonov(*k).chi_ppm,
            "NDI": lambda k, r=radians: inversion.ndi(*k, radians_per_ppm=r).chi_ppm,
            "TV": lambda k: inversion.tv(*k).chi_ppm,
            "TV, field outside unknown": lambda k: inversion.tv(*k, weight=k[1]).chi_ppm,
            "edge TV": lambda k, m=g.magnitude[..., -1]: inversion.tv(*k, magnitude=m).chi_ppm,
        }
        for name, invert in alone.items():
            if only and name not in only:
                continue
            rows.append({"seed": seed, "run": name, **measured(head, invert(known), brain)})
            print(rows[-1], flush=True)
        unknown = {"inversion_options": {"weight": np.ones(brain.shape)}}
        for name, options in (
            ("whole, true mask", {"mask": brain}),
            ("whole, own mask", {}),
            ("whole, own mask, field outside unknown", unknown),
            ("whole, as for change", change_settings.SETTINGS),
        ):
            if only and name not in only:
                continue
            result = qsm.reconstruct(g, **options)
            found = field.hz_to_ppm(result.field.field_hz, g.field_strength_t)
            error = 1e3 * (found - head.field_ppm)[result.mask & brain]
            inside = result.local_field.mask & brain
            row = {"seed": seed, "run": name, "field_rmse_ppb": float(error.std())}
            rows.append(row | measured(head, result.susceptibility.chi_ppm, inside))
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    return frame[["seed", "run", *(c for c in frame if c not in ("seed", "run"))]]


def measured(head: GrePhantom, chi_ppm: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return every metric."""
    return qsm_metrics.compare(chi_ppm, head.chi_ppm, mask, head.labels, head.calcification)


def change(
    seeds: Sequence[int] = CHANGE_HELD_OUT,
    only: Sequence[str] = ("change.SETTINGS", "vsharp", "lbv"),
) -> pd.DataFrame:
    """Measure the error of a known change, in the same pose and tilted.

    Errors are less their median over the nuclei, which a control region would take out; the column
    ``with common shift`` is before that.
    """
    rows = []
    for seed in seeds:
        scans: dict[tuple[str, str], tuple[GrePhantom, qsm.QsmResult]] = {}
        for visit, tilt, chi in (
            ("first", 0, {}),
            ("same pose", 0, {"caudate": 49.0, "thalamus": 16.0}),
            ("8 degrees", 8, {"caudate": 49.0, "thalamus": 16.0}),
            ("15 degrees", 15, {"caudate": 49.0, "thalamus": 16.0}),
            ("8 degrees, three axes", None, {"caudate": 49.0, "thalamus": 16.0}),
        ):
            turn = (-4, 6, 3) if tilt is None else (tilt, 0, 0)
            head = make_gre(
                np.random.default_rng(seed + 10 * sum(turn) + len(chi)), voxel_size_mm=1.25,
                mni_to_world=pose(turn), anatomy=np.random.default_rng(seed),
                chi_ppb=chi, margin_mm=8.0,
            )  # fmt: skip
            for method in only:
                ours = method == "change.SETTINGS"
                options = change_settings.SETTINGS if ours else {"background": method}
                result = qsm.reconstruct(head.gre, **options)
                scans[visit, method] = head, result
        for (visit, method), (later, again) in scans.items():
            if visit == "first":
                continue
            true0, found0 = _means(*scans["first", method])
            true1, found1 = _means(later, again)
            raw = (found1 - found0) - (true1 - true0)
            error = raw - np.nanmedian(raw)
            rows.append(
                {
                    "seed": seed,
                    "second visit": visit,
                    "background": method,
                    "mean_error_ppb": np.nanmean(np.abs(error)),
                    "max_error_ppb": np.nanmax(np.abs(error)),
                    "with common shift": np.nanmean(np.abs(raw)),
                    "found/true change": found_share(found1 - found0, true1 - true0),
                }
            )
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def found_share(found: np.ndarray, true: np.ndarray) -> float:
    """Return the change of caudate and thalamus, against each other, found over true."""
    region = deep_grey.table()["region"].to_numpy()
    parts = [v[region == "caudate"].mean() - v[region == "thalamus"].mean() for v in (found, true)]
    return parts[0] / parts[1]


def _means(head: GrePhantom, result: qsm.QsmResult) -> tuple[np.ndarray, np.ndarray]:
    from pvsbook.qsm.regions import measure_regions

    table = deep_grey.table()
    arguments = head.labels, table, result.local_field.mask, head.gre.voxel_size_mm
    true = measure_regions(head.chi_ppm, *arguments)["mean_ppb"].to_numpy()
    return true, measure_regions(result.susceptibility.chi_ppm, *arguments)["mean_ppb"].to_numpy()


PEER_MM = 2.0
L2_MM = 0.12
PEERS = {  # name on PyPI: version seen, and what became of it
    "qmrpy": "2.0.0: inverts; data must be padded to a cube, the field must lie along z",
    "nextqsm": "1.0.6: not tried, a trained network",
    "qsmxt": "8.3.4: not tried, a workflow around QSM.rs, whose figures stand above",
    "qsm-forward": "0.32: a simulator, see qsm_worlds.py",
    "qsm-ci": "0.6.2: runner and scorer of a leaderboard, see qsm_leaderboard.py",
}


def peers() -> pd.DataFrame:
    """Run what inverts and installs from PyPI (``pip install qmrpy``) beside ours, on one field.

    The true local field of a head of 2 mm with noise; ours at its defaults, the peer with the
    same regularisation, in its units.  Below the runs stand figures of QSM.rs, measured elsewhere
    on a larger matrix: they are not to be compared with the times above them.
    """
    for name, what in PEERS.items():
        print(f"{name} {what}")
    head = make_gre(np.random.default_rng(2001), voxel_size_mm=PEER_MM, margin_mm=8.0)
    brain, size = head.brain, head.gre.voxel_size_mm
    noise = np.random.default_rng(2001).normal(0, 0.0015, brain.shape)
    local = np.where(brain, head.local_field_ppm + noise, 0)
    runs: dict[str, Callable[[], np.ndarray]] = {
        "ours, L2": lambda: inversion.closed_form_l2(local, brain, size, regularisation=L2_MM),
        "ours, TV": lambda: inversion.tv(local, brain, size).chi_ppm,
        "ours, TV, field outside unknown": lambda: (
            inversion.tv(local, brain, size, weight=brain).chi_ppm
        ),
    }
    try:
        from qmrpy.models import qsm as qmrpy
    except ImportError as missing:
        print(f"qmrpy is not installed here ({missing})")
    else:
        n = 2 * fft.next_fast_len((max(brain.shape) + 13) // 2)
        pad = [(0, n - s) for s in brain.shape]
        cube, mask = np.pad(local, pad), np.pad(brain.astype(float), pad)
        box = tuple(slice(s) for s in brain.shape)
        grid = {"direction": "forward", "image_resolution_mm": size}
        runs["qmrpy, L2"] = lambda: qmrpy.calc_chi_l2(
            cube, lambda_l2=(L2_MM / PEER_MM) ** 2, mask=mask, padding_size=(0, 0, 0), **grid
        )[0][box]
        runs["qmrpy, split Bregman"] = lambda: (
            qmrpy.qsm_split_bregman(
                cube, mask, lambda_l1=2e-4 / PEER_MM, lambda_l2=0.02 / PEER_MM**2,
                pad_size=(0, 0, 0), **grid,
            )[box]
        )  # fmt: skip
    rows = []
    for name, run in runs.items():
        if name.startswith("ours"):
            run()  # compile
        cpu, _, chi = timed(run, 1)
        rows.append({"run": name, "cpu_s": cpu, **measured(head, chi, brain)})
        print(f"{name}: {cpu:.1f} s", flush=True)
    matrix = "x".join(map(str, MATRIX))
    elsewhere = [
        {"run": f"QSM.rs, {name}, {matrix}, measured elsewhere", **figures}
        for name, figures in QSM_RS_ELSEWHERE.items()
    ]
    return pd.DataFrame(rows + elsewhere)


def main() -> None:
    """Run what is named, or everything."""
    runs = {f.__name__: f for f in (speed, unwrapping, accuracy, change, peers)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help=", ".join(runs))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", help="rows by name")
    given = parser.parse_args()
    options = {k: v for k, v in (("seeds", given.seeds), ("only", given.only)) if v}
    pd.set_option("display.width", 220, "display.max_columns", 20)
    for name in given.what or runs:
        accepted = inspect.signature(runs[name]).parameters
        frame = runs[name](**{k: v for k, v in options.items() if k in accepted})
        print(
            f"\n{name}: {dict(frame.attrs)}\n{frame.round(2).to_string(index=False)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
