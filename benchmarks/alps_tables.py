"""Faulty b-tables of real series: how many are told, and whether a right one ever is.

    python benchmarks/alps_tables.py SERIES [SERIES ...]

Each SERIES is the stem of a real series (``stem.nii.gz``, ``.bval``, ``.bvec``).  Faults are
made of it: flips, exchanged axes, rotations that were not applied, rows in another order, single
signs, scaled values, the table of another scan.  Right ones are the series themselves and
phantoms, in several storage orders and oblique.  A fault counts where it changes the index in
one of the three frames by more than 0.05; it is told where reading refuses it or a reason names
the b-vectors, b-values or rows.  Limits of `pvsbook.alps.quality` were chosen on the cases with
even numbers; those with odd numbers are reported apart.  A table per kind of fault is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from dipy.reconst.dti import fractional_anisotropy, mean_diffusivity
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pvsbook import InputError, alps, images
from pvsbook.alps import estimators, gradients, quality, series, tensor
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import fsl_bvecs, gradient_scheme, make_diffusion

CHANGE = 0.05
HALF_MM = 16.0  # slices kept on either side of the regions
Table = tuple[NDArray[np.float64], NDArray[np.float64]]  # b-values, b-vectors (3 rows)


def faults(
    bvals: NDArray, bvecs: NDArray, rng: np.random.Generator
) -> Iterator[tuple[str, Table]]:
    """Yield (kind, faulty tables)."""
    weighted = np.flatnonzero(bvals >= 50)
    for k in range(3):
        yield "flip", (bvals, bvecs * np.where(np.arange(3) == k, -1, 1)[:, None])
    for order in ([1, 0, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0], [2, 0, 1]):
        yield "axes", (bvals, bvecs[order])
        signs = np.where(np.arange(3) == rng.integers(3), -1, 1)[:, None]
        yield "axes and flip", (bvals, bvecs[order] * signs)
    for degrees in (10, 15, 20, 30, 45, 60, 90):
        for _ in range(4):
            axis = rng.normal(size=3)
            turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis))
            yield f"rotation {degrees}", (bvals, turn.as_matrix() @ bvecs)

    def reordered(new: NDArray[np.intp], old: NDArray[np.intp]) -> Table:
        changed = bvecs.copy()
        changed[:, new] = bvecs[:, old]
        return bvals, changed

    for _ in range(8):
        yield "shuffle", reordered(weighted, rng.permutation(weighted))
    for shift in (1, 2, -1):
        yield "shuffle", reordered(weighted, np.roll(weighted, shift))
    yield "shuffle", reordered(weighted, weighted[::-1])
    for _ in range(6):
        four = rng.choice(weighted, 4, replace=False)
        yield "four rows", reordered(four, np.roll(four, 1))
    for _ in range(12):
        two = rng.choice(weighted, 2, replace=False)
        yield "two rows", reordered(two, two[::-1])
    for _ in range(16):
        changed = bvecs.copy()
        changed[rng.integers(3), rng.choice(weighted)] *= -1
        yield "one sign", (bvals, changed)
    yield "no signs", (bvals, np.abs(bvecs))
    for k in range(3):
        changed = bvecs.copy()
        changed[k] = np.abs(changed[k])
        yield "no signs", (bvals, changed)
        for factor in (0.5, 0.7):
            changed = bvecs.copy()
            changed[k] *= factor
            yield "component scaled", (bvals, changed)
            length = np.maximum(np.linalg.norm(changed, axis=0), 1e-9)
            yield "component scaled, unit length", (bvals, changed / length)
    yield "scaled", (bvals, bvecs * 1.5)
    yield "scaled", (bvals / 1000, bvecs)
    yield "scaled", (10 * bvals, bvecs)
    for n in (1, 1, 2, 3, len(weighted) // 2):
        for factor in (0.5, 0.7):
            changed = bvals.copy()
            changed[rng.choice(weighted, n, replace=False)] *= factor
            yield "b-values", (changed, bvecs)
    for _ in range(8):
        changed = bvecs.copy()
        changed[:, weighted] = gradient_scheme(len(weighted), rng=rng)[1][1:].T
        yield "another scan", (bvals, changed)
    yield "order of b", (np.roll(bvals, 2), np.roll(bvecs, 2, axis=1))


class Scan:
    """A series that is measured with many tables: placed once, fitted for each.

    Only the slices around the regions are kept, so that hundreds of tables take minutes.
    """

    def __init__(
        self,
        dwi: images.Dwi,
        mask: NDArray | None = None,
        *,
        placed: bool,
        half_mm: float = HALF_MM,
    ) -> None:
        whole = series.canonical(dwi)
        inside = series.brain_mask(whole) if mask is None else mask
        self.result = alps.measure(dwi, n_bootstrap=10) if placed else None
        middle = inside.shape[2] // 2
        if self.result is not None:
            middle = round(np.mean([roi.voxels.index[:, 2].mean() for roi in self.result.rois]))
        half = round(half_mm / images.voxel_size_mm(whole.image)[2])
        self.first = max(middle - half, 0)
        kept = slice(self.first, middle + half + 1)
        self.mask = inside[:, :, kept]
        self.image = whole.image.slicer[:, :, kept]
        self.affine, self.size = self.image.affine, images.voxel_size_mm(self.image)
        self.bvals = whole.bvals_s_mm2
        self.bvecs = fsl_bvecs(images.Dwi(self.image, self.bvals, whole.bvecs_ras))
        self.data = images.array(self.image)

    def stored(self, codes: str) -> None:
        """Store the series in another order, with the table that belongs to it."""
        change = nib.orientations.ornt_transform(
            nib.io_orientation(self.affine), nib.orientations.axcodes2ornt(codes)
        )
        dwi = images.load_dwi(self.image, self.bvals, self.bvecs)
        self.image = self.image.as_reoriented(change)
        self.bvecs = fsl_bvecs(images.Dwi(self.image, self.bvals, dwi.bvecs_ras))

    def check(self, table: Table) -> tuple[dict[str, float], str, str, dict[str, float]]:
        """Return indices, verdict, the sentence, and the figures of a table."""
        try:
            dwi = images.load_dwi(self.image, *table)
            whole = series.canonical(dwi)
            shell = series.one_shell(whole.bvals_s_mm2)
            data, b, g = self.data[..., shell], whole.bvals_s_mm2[shell], whole.bvecs_ras[shell]
            series.check_order(data, self.mask, b, shell)
        except InputError as error:
            return {}, "refused", str(error), {}
        data, _ = series.raised(data, b)
        fit = tensor.fit_tensor(data, b, g, mask=self.mask)
        values, vectors = tensor.eigen(fit.d_mm2_s)
        fa = fit.fill(np.minimum(fractional_anisotropy(values), 1))
        white = self.mask & (fa > 0.25) & (fit.fill(mean_diffusivity(values)) < 1.1e-3)
        axes = images.rotation(self.affine).T
        check = gradients.check_bvecs(
            fit.fill(vectors[..., 0] @ axes.T),
            fa,
            white,
            self.size,
            to_file=gradients.file_axes(self.image.affine, self.affine),
        )
        rows = np.arange(len(whole.bvals_s_mm2))
        check = check.with_rows(
            self.data[white], whole.bvals_s_mm2, whole.bvecs_ras, rows, fitted=np.isin(rows, shell)
        )
        seen = {"z": check.z * (-1 if check.as_given else 1), "turn": check.turn_deg,
                "turn_z": check.turn_z, "gain": check.turn_gain,
                "row": check.row_deg, "row_b": check.row_b}  # fmt: skip
        alone = series.lone(whole.bvals_s_mm2)
        verdict, sentence = ("warn", str(alone)) if alone else ("pass", "")
        for key, where, value in quality.bvec_figures(check):
            warn, fail, words = quality.LIMITS[key]
            if value > warn:
                sentence = sentence or f"{where}{words} {value:.1f}"
                verdict = "fail" if value > fail or verdict == "fail" else "warn"
        return self.indices(fit), verdict, sentence, seen

    def indices(self, fit: tensor.TensorFit) -> dict[str, float]:
        if self.result is None:
            return {}
        d = np.zeros((*self.mask.shape, 3, 3))
        d[self.mask] = fit.d_mm2_s
        shift = [0, 0, self.first]
        means = {
            roi.name: roi.voxels.mean(d[tuple((roi.voxels.index - shift).T)])
            for roi in self.result.rois
        }
        frames: dict[str, Callable[..., Any]] = {
            "classic": lambda p, a: estimators.alps_in_axes(p, a, images.rotation(self.affine).T),
            "reoriented": lambda p, a: estimators.alps_in_axes(
                p, a, self.result.registration.rotation
            ),
            "tract": estimators.alps_in_tracts,
        }
        return {
            name: float(np.mean([
                index(means[f"{s}_projection"], means[f"{s}_association"])
                for s in ("left", "right")
            ]))
            for name, index in frames.items()
        }  # fmt: skip


def right(stems: list[str]) -> Iterator[tuple[str, Scan]]:
    for stem in stems:
        dwi = images.load_dwi(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
        scan = Scan(dwi, placed=False)
        for codes in ("LAS", "RAS", "LPS", "SAL", "PSR", "IRA"):
            scan.stored(codes)
            yield f"real {codes}", scan
    rng = np.random.default_rng(7000)
    for k in range(28):
        n, b, snr, mm = ((12, 1000, 25, 2.0), (20, 2000, 20, 2.5), (32, 1000, 12, 2.5),
                         (64, 3000, 15, 3.0), (6, 1000, 25, 2.5), (30, 700, 40, 3.0),
                         (15, 1500, 10, 2.0), (20, (1000, 2000), 20, 2.5),
                         (15, (700, 1400), 20, 2.5))[k % 9]  # fmt: skip
        bvals, bvecs = gradient_scheme(n, rng=rng, b_s_mm2=b, n_b0=1 + k % 3)
        tilt = (rng.normal(size=3) * 12).tolist() if k % 2 else (0, 0, 0)
        head = make_brain(mm, mni_to_world=pose(tilt), z_range_mni_mm=(-4, 58), margin_mm=2)
        made = make_diffusion(head, rng=rng, bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=snr)
        inside = np.asarray(nib.as_closest_canonical(made.mask).dataobj) > 0
        scan = Scan(made.dwi, inside, placed=False, half_mm=30)
        scan.stored(("LAS", "RAS", "LPI", "PSL")[k % 4])
        yield f"phantom {n} directions b={b}", scan


def main(stems: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    number = 0
    for stem in stems:
        scan = Scan(images.load_dwi(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec"), placed=True)
        true = scan.check((scan.bvals, scan.bvecs))[0]
        print(stem.rsplit("/", 1)[-1], {k: round(v, 3) for k, v in true.items()}, flush=True)
        for kind, table in faults(scan.bvals, scan.bvecs, np.random.default_rng(7)):
            found, verdict, sentence, seen = scan.check(table)
            moved = {f"d_{k}": abs(found[k] - true[k]) for k in found}
            changed = max(moved.values(), default=np.inf)
            rows.append({"kind": kind, "number": number, "change": changed, "verdict": verdict,
                         "sentence": sentence, **moved, **seen})  # fmt: skip
            number += 1
            pd.DataFrame(rows).to_csv("alps_tables.tsv", sep="\t", index=False)
    for kind, scan in right(stems):
        _, verdict, sentence, seen = scan.check((scan.bvals, scan.bvecs))
        rows.append({"kind": f"right: {kind}", "number": number, "change": 0.0,
                     "verdict": verdict, "sentence": sentence, **seen})  # fmt: skip
        number += 1
    table = pd.DataFrame(rows)
    table.to_csv("alps_tables.tsv", sep="\t", index=False, float_format="%.3f")
    pd.set_option("display.width", 160, "display.max_rows", 200)
    wrong = ~table.kind.str.startswith("right")
    counted = table[wrong & (table.change > CHANGE)]
    for name, half in (("all", counted), ("chosen on", counted[counted.number % 2 == 0]),
                       ("reported on", counted[counted.number % 2 == 1])):  # fmt: skip
        told = half.verdict != "pass"
        print(
            f"{name}: {told.sum()} of {len(half)} faults that change an index are told "
            f"({told.mean():.1%}), {(half.verdict.isin(['fail', 'refused'])).sum()} fail"
        )
    tract = counted[counted.d_tract > CHANGE]
    print(f"of these change the tract index: {len(tract)}, told {(tract.verdict != 'pass').sum()}")
    print(f"faults in all: {int(wrong.sum())}")
    print(pd.crosstab(table.kind[wrong & (table.change > CHANGE)], counted.verdict))
    good = table[~wrong]
    print(
        f"right: {len(good)}, fail {(good.verdict == 'fail').sum()}, "
        f"warn {(good.verdict == 'warn').sum()}, refused {(good.verdict == 'refused').sum()}"
    )
    print(
        good[["kind", "verdict", "z", "turn", "turn_z", "gain", "row", "row_b"]]
        .round(2)
        .to_string()
    )
    print(
        table.groupby(~wrong)[["turn_z", "gain", "row", "row_b"]].describe().round(2).T.to_string()
    )
    missed = counted[counted.verdict == "pass"]
    print(
        missed[["kind", "change", "d_tract", "z", "turn", "turn_z", "gain", "row", "row_b"]].round(
            2
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
