"""What `pvsbook.qsm` makes of other inputs than combined magnitude and phase of many echoes.

``python benchmarks/qsm_inputs.py echoes`` prints how the fine structure of echoes agrees, in place
and moved by a voxel (`pvsbook.qsm._echoes`), and how many spoiled echoes are told; ``inputs`` the
error of the nuclei with few echoes, bipolar ones, coils and parts; ``t1w`` how the nuclei lie when
a T1w image places them, and how far one of another head must be stretched.  The heads are
simulated (`qsm_heads.py`); limits were chosen on the first of each make.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qsm_heads import NUCLEI, Head, Look, draw
from qsm_worlds import make, score
from scipy import ndimage
from scipy.spatial.transform import Rotation

import pvsbook
from pvsbook import images
from pvsbook.atlas import deep_grey, registration
from pvsbook.qsm import _echoes, _placement, reconstruct
from pvsbook.qsm.mask import mask_from_gre
from pvsbook.qsm.unwrap import wrap

HEADS = (
    ("own", Look(71, (5, 0, 3)), (1, 1, 1)),
    ("own", Look(72, (-4, 3, 0), is_drawn=True), (1, 1, 1)),
    ("qsm-forward", Look(43, (5, 3, 0)), (1, 1, 1)),
    ("phantom", Look(4011, (-7, 3, 6)), (0.96, 1.05, 0.98)),
)
OF_ATLAS = ("caudate", "putamen", "pallidum", "thalamus")


def mask_of(gre: images.Gre) -> NDArray[np.bool_]:
    """Mask the brain as the pipeline does."""
    return mask_from_gre(
        gre.magnitude, gre.phase_rad, gre.voxel_size_mm, echo_times_s=gre.echo_times_s
    )


def spoiled(gre: images.Gre) -> Iterator[images.Gre]:
    """Negate the phase of each echo in turn, and move each image by a voxel along each axis."""
    for e in range(gre.echo_times_s.size):
        phase = gre.phase_rad.copy()
        phase[..., e] *= -1
        yield replace(gre, phase_rad=phase)
        for axis in range(3):
            both = gre.magnitude.copy(), gre.phase_rad.copy()
            for series in both:
                series[..., e] = np.roll(series[..., e], 1, axis)
            yield replace(gre, magnitude=both[0])
            yield replace(gre, phase_rad=both[1])
            yield replace(gre, magnitude=both[0], phase_rad=both[1])


def echoes(heads: list[Head]) -> None:
    """Print how many spoiled scans of each head are told, and whether the sound one is."""
    for head in heads:
        inside = mask_of(head.gre)
        told = [bool(_echoes.odd_echo(gre, inside)) for gre in spoiled(head.gre)]
        sound = _echoes.odd_echo(head.gre, inside) or "nothing"
        print(
            f"{head.name:16} sound: {sound}; spoiled: {sum(told)} of {len(told)} told", flush=True
        )
        for what, echo, still, moved, _ in _echoes.agreement(head.gre, inside):
            print(f"{what:>27} {echo}-{echo + 1}: r {still:.2f} in place, {moved:.2f} if moved")


def variants(gre: images.Gre) -> Iterator[tuple[str, images.Gre]]:
    """Give the scan as other inputs."""
    yield "all echoes", gre
    last = gre.echo_times_s.size - 1
    for name, kept in (("one echo", [last]), ("two echoes", [0, last])):
        yield name, replace(
            gre, magnitude=gre.magnitude[..., kept], phase_rad=gre.phase_rad[..., kept],
            echo_times_s=gre.echo_times_s[kept],
        )  # fmt: skip
    y = np.linspace(-1, 1, gre.phase_rad.shape[1], dtype=np.float32)[None, :, None]
    for name, bend in (("bipolar, ramp", 0.0), ("bipolar, ramp and bend", 0.4)):
        phase = gre.phase_rad.copy()
        phase[..., 1::2] += (y + np.float32(bend) * (y**2 + 1))[..., None]
        yield name, replace(gre, phase_rad=wrap(phase))
    signal = gre.magnitude * np.exp(1j * gre.phase_rad)
    scanner = {"echo_times_s": gre.echo_times_s, "field_strength_t": gre.field_strength_t}

    def loaded(values: NDArray) -> images.Gre:
        parts = (images.make(v.astype(np.float32), gre.affine) for v in (values.real, values.imag))
        return images.load_gre(*parts, **scanner, real_imaginary=True)

    yield "real and imaginary", loaded(signal)
    at = np.meshgrid(*[np.linspace(-1, 1, n) for n in signal.shape[:3]], indexing="ij")
    rng = np.random.default_rng(1)
    coils = []
    for angle in np.arange(8) * np.pi / 4:
        off = (at[0] - 1.3 * np.cos(angle)) ** 2 + (at[1] - 1.3 * np.sin(angle)) ** 2
        turn = rng.uniform(0, 6) + 2 * np.cos(angle) * at[1] + 2 * np.sin(angle) * at[2]
        coils.append(np.exp(-0.5 * off + 1j * turn))
    whole = signal[..., None] * np.stack(coils, -1)[..., None, :]
    sd = 0.005 * np.abs(signal).max()  # of each coil, beside the noise that the scan has
    whole += sd * (rng.standard_normal(whole.shape) + 1j * rng.standard_normal(whole.shape))
    yield "eight coils", loaded(whole)


def inputs(heads: list[Head]) -> None:
    """Print the error of the nuclei by input."""
    for head in heads:
        for name, gre in variants(head.gre):
            found = reconstruct(gre)
            s = score(head, found.susceptibility.chi_ppm, found.local_field.mask)
            codes = ", ".join(flag.code for flag in found.flags)
            print(
                f"{head.name:16} {name:24} error {s['error']:4.1f} max {s['max']:4.1f} ppb, slope "
                f"{s['slope']:.2f}, {found.status} {codes}", flush=True,
            )  # fmt: skip


def t1w_of(look: Look, mirror: Path, size_mm: float = 1.6) -> _placement.Masked:
    """Draw the T1w image of a head: its own grid and pose, a receive field, noise."""
    volumes, affine = draw(look, size_mm, mirror)
    t1 = np.interp(volumes["r2s"], [0, 2, 16, 20, 60], [0.3, 0.3, 0.75, 1.0, 1.0])
    for number, name in enumerate(NUCLEI):
        value = {"pallidum": 0.92, "anterior thalamus": 0.85, "posterior thalamus": 0.85}
        if name in value:
            t1[np.isin(volumes["labels"], (2 * number + 1, 2 * number + 2))] = value[name]
    brain = ndimage.binary_dilation(volumes["brain"])
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", (6, -4, 8), degrees=True).as_matrix()
    moved[:3, 3] = 5, -8, 4
    shape = tuple(int(n * 1.15) for n in t1.shape)
    grid = moved @ affine
    grid[:3, :3] = np.diag(np.full(3, size_mm))
    there = np.linalg.inv(moved @ affine) @ grid
    values, inside = (
        ndimage.affine_transform(v.astype(np.float32), there, output_shape=shape, order=1)
        for v in (t1 * brain, brain)
    )
    rng = np.random.default_rng(look.seed)
    x = np.linspace(-0.15, 0.15, shape[0])[:, None, None]
    noisy = np.maximum(values * (1 + x) + rng.normal(0, 0.03, shape), 0.001) * (inside > 0.5)
    whole = images.make(noisy.astype(np.float32), grid)
    return whole, images.make((inside > 0.5).astype(np.uint8), grid)


def overlap(head: Head, found: registration.Registration) -> float:
    """Mean Dice of the nuclei that both the head and the Melbourne atlas have."""
    atlas, table = deep_grey.nuclei("melbourne")
    to_scan = np.linalg.inv(found.native_to_mni)
    labels = registration.resample_labels(atlas, to_scan, head.labels.shape, head.gre.affine)
    values = []
    for name in OF_ATLAS:
        regions = (name, "pulvinar") if name == "thalamus" else (name,)
        ours = np.isin(labels, table["label"][table["region"].isin(regions)])
        true = np.isin(head.labels, [k for k, v in head.nuclei.items() if v.endswith(name)])
        values.append(2 * (ours & true).sum() / (ours.sum() + true.sum()))
    return float(np.mean(values))


def t1w(heads: list[Head], mirror: Path) -> None:
    """Print Dice by the magnitude and by the T1w image, and what is said of wrong ones."""
    looks = [look for kind, look, _ in HEADS if kind != "phantom"]
    drawn = [t1w_of(look, mirror) for look in looks]
    for head in [h for h in heads if "phantom" not in h.name]:
        inside = mask_of(head.gre).astype(np.uint8)
        last = images.make(head.gre.magnitude[..., -1], head.gre.affine)
        magnitude = last, images.make(inside, head.gre.affine)
        own = _placement.place(magnitude, None).registration
        print(f"{head.name:16} magnitude: Dice {overlap(head, own):.3f}, r {own.correlation:.2f}")
        for look, image in zip(looks, drawn, strict=True):
            found = _placement._through(image, magnitude)
            words = found if isinstance(found, str) else f"Dice {overlap(head, found):.3f}, used"
            print(f"{'':16} T1w of {look.seed}: {words}", flush=True)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", choices=("echoes", "inputs", "t1w"))
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    arguments = parser.parse_args()
    mirror = Path(os.environ["PVSBOOK_MIRROR"])
    heads = []
    for kind, look, scale in HEADS:
        try:
            heads.append(make(kind, look, scale, mirror, arguments.voxel_mm))
        except ModuleNotFoundError as error:
            print(f"{kind} {look.seed}: left out ({error})")
    print(f"pvsbook {pvsbook.__version__}, simulated heads, voxels of {arguments.voxel_mm:g} mm")
    for table in arguments.tables:
        if table == "t1w":
            t1w(heads, mirror)
        else:
            {"echoes": echoes, "inputs": inputs}[table](heads)


if __name__ == "__main__":
    main()
