"""Simulated heads for `qsm_worlds.py` that share nothing with `pvsbook.phantoms` but the MNI152.

`draw` makes a head of the template's tissue maps and of the Tian atlas, bent, scaled and turned,
with air cavities, skull, scalp, dural veins and tissue that is not uniform.  `scan` computes its
field on a grid of half the voxel size, padded to twice its length, and adds up each voxel's
signal; `scan_qsm_forward` hands the head to the simulator of that name (GPL, from PyPI) instead,
on the voxel grid itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import edt
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook.atlas import templates

GAMMA_MHZ_T = 42.577
TIAN = "atlas_tian/Tian_Subcortex_S1_3T_1mm.nii.gz"
# Tissue: susceptibility (ppb), R2* at 3 T (1/s), signal at echo time zero.
TISSUE = {
    "white matter": (-22.0, 20.0, 0.68),
    "grey matter": (18.0, 16.0, 0.82),
    "fluid": (4.0, 2.0, 1.0),
    "skull": (-2300.0, 300.0, 0.05),
    "scalp": (450.0, 25.0, 0.9),
    "air": (9300.0, 0.0, 0.0),
    "blood": (310.0, 40.0, 0.6),
    "pineal": (-700.0, 90.0, 0.4),
}
# Nucleus: numbers in the Tian atlas (right, left), or centre and half axes of an ellipsoid in MNI
# mm on the left; susceptibility in ppb and R2*.
NUCLEI = {
    "caudate": ((8, 16), 58.0, 24.0),
    "putamen": ((7, 15), 62.0, 28.0),
    "pallidum": ((6, 14), 145.0, 42.0),
    "anterior thalamus": ((4, 12), 8.0, 20.0),
    "posterior thalamus": ((3, 11), 26.0, 21.0),
    "red nucleus": (((-5.0, -20.0, -8.0), (3.0, 3.5, 4.0)), 112.0, 34.0),
    "substantia nigra": (((-10.0, -17.0, -12.0), (3.0, 6.0, 4.0)), 135.0, 40.0),
    "dentate": (((-15.0, -57.0, -34.0), (5.0, 7.0, 4.0)), 105.0, 35.0),
}
# Air: centre and half axes in MNI mm; what would lie within 3 mm of the brain is left out.
AIR_MM = (
    ((4, 76, -4), (16, 7, 12)),  # frontal sinus
    ((0, 22, -42), (13, 13, 12)),  # sphenoid sinus
    ((0, 58, -44), (17, 24, 15)),  # ethmoid cells and nose
    ((30, 46, -62), (13, 16, 16)),  # maxillary sinuses
    ((-29, 45, -61), (14, 17, 15)),
    ((50, -30, -44), (8, 10, 11)),  # mastoid cells
    ((-51, -29, -43), (9, 11, 10)),
    ((66, -16, -38), (16, 4, 4)),  # ear canals
    ((-66, -16, -38), (16, 4, 4)),
    ((0, 18, -88), (10, 12, 26)),  # throat
)


@dataclass(frozen=True, eq=False)
class Head:
    """One simulated scan and what it was made of; volumes are (x, y, z) on the scan's grid."""

    name: str
    gre: images.Gre
    chi_ppm: NDArray[np.float32]
    local_ppm: NDArray[np.float32]
    total_ppm: NDArray[np.float32]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    nuclei: dict[int, str]


@dataclass(frozen=True)
class Look:
    """How a head differs from the template, and how it lies."""

    seed: int
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    change_ppb: tuple[tuple[str, float], ...] = ()  # of a nucleus, for a second visit
    is_drawn: bool = False  # cortex as a folded ribbon of one thickness, not the template's maps


def draw(look: Look, voxel_mm: float, mirror: Path) -> tuple[dict[str, NDArray], NDArray]:
    """Draw a head; return its volumes, and the affine of their grid."""
    rng = np.random.default_rng(look.seed)
    scale = rng.uniform(0.92, 1.08, 3)
    shear = np.eye(3) + np.triu(rng.normal(0, 0.02, (3, 3)), 1)
    turn = Rotation.from_euler("xyz", look.turn_deg, degrees=True).as_matrix()
    to_head = np.linalg.inv(turn @ shear @ np.diag(scale))  # scanner mm to template mm
    low, high = np.array([-98.0, -132.0, -112.0]), np.array([98.0, 104.0, 104.0])
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
    reach = np.linalg.inv(to_head) @ corners
    start = reach.min(1)
    shape = 2 * np.ceil((reach.max(1) - start) / (2 * voxel_mm)).astype(int)
    affine = nib.affines.from_matvec(voxel_mm * np.eye(3), start)
    steps = (
        np.arange(n, dtype=np.float32) * voxel_mm + a for n, a in zip(shape, start, strict=True)
    )
    grid = np.meshgrid(*steps, indexing="ij", sparse=True)
    at = [sum(np.float32(m) * g for m, g in zip(row, grid, strict=True)) for row in to_head]
    at = _bend(at, rng)

    def sample(data: NDArray, matrix: NDArray, order: int = 1) -> NDArray[np.float32]:
        back = np.linalg.inv(matrix)
        index = [
            sum(np.float32(back[i, j]) * at[j] for j in range(3)) + np.float32(back[i, 3])
            for i in range(3)
        ]
        return ndimage.map_coordinates(
            data.astype(np.float32), index, order=order, mode="nearest", output=np.float32
        )

    def noise(width_mm: float, seed: int) -> NDArray[np.float32]:
        n = np.ceil(np.array([240, 280, 260]) / width_mm).astype(int)
        values = np.random.default_rng([look.seed, seed]).standard_normal(n, np.float32)
        values = ndimage.gaussian_filter(values, 0.7, mode="wrap")
        matrix = nib.affines.from_matvec(width_mm * np.eye(3), (-120, -150, -140))
        return sample(values / values.std(), matrix)

    t1 = templates.mni("brain")
    mask = images.array(t1) > 0.5
    deep = ndimage.gaussian_filter(edt.edt(~mask) - edt.edt(mask), 1.2)
    outside = sample(deep, t1.affine) + 0.4 * noise(14.0, 1)  # mm, negative in the brain
    inner = images.array(
        t1
    ).shape  # the tissue is smaller than its skull by a few percent: atrophy
    wider = t1.affine.copy()
    wider[:3] *= 1 - rng.uniform(0, 0.06)
    wider[:3, 3] += (t1.affine - wider)[:3] @ [*(n / 2 for n in inner), 1] * (1, 1, 0.6)
    wm, gm = (sample(images.array(templates.mni(k)), wider) for k in ("wm", "gm"))
    if look.is_drawn:
        wm, gm = _ribbon(-outside, noise, at)
    total = np.maximum(wm + gm, 1)
    wm, gm = wm / total, gm / total
    values = {k: [v[0] * rng.uniform(0.85, 1.15), *v[1:]] for k, v in TISSUE.items()}
    for name, spread in (("white matter", 8), ("grey matter", 12), ("fluid", 14)):
        values[name][0] += rng.uniform(-spread, spread)
    maps = [
        sum(np.float32(values[n][i]) * p for n, p in
            (("white matter", wm), ("grey matter", gm), ("fluid", 1 - wm - gm)))
        for i in range(3)
    ]  # fmt: skip
    chi, r2s, signal = maps
    chi += wm * (7 * noise(15.0, 2) + 6 * noise(5.0, 3)) + gm * (
        7 * noise(20.0, 4) + 6 * noise(4.0, 5)
    )
    r2s *= 1 + 0.06 * noise(9.0, 6)
    labels = np.zeros(chi.shape, np.uint8)
    tian = images.load(mirror / TIAN)
    numbers = sample(images.array(tian), tian.affine, order=0)
    grain = noise(3.0, 7)
    changes = dict(look.change_ppb)
    number = 0
    for name, (place, ppb, rate) in NUCLEI.items():
        ppb = ppb * rng.uniform(0.85, 1.15) + changes.get(name, 0.0)
        for side in (0, 1):
            number += 1
            if isinstance(place[0], int):
                inside = (numbers == place[side]).astype(np.float32)
            else:
                centre, axes = np.array(place[0]), np.array(place[1])
                centre = centre * ((-1, 1, 1) if side == 0 else (1, 1, 1))
                square = sum(
                    ((at[i] - np.float32(centre[i])) / np.float32(axes[i])) ** 2 for i in range(3)
                )
                inside = (square < 1).astype(np.float32)
            inside *= outside < 0
            gradient = 1 + 0.08 * grain + 0.006 * (at[1] - np.float32(at[1][inside > 0].mean()))
            chi += inside * (np.float32(ppb) * gradient - chi)
            r2s += inside * (np.float32(rate) - r2s)
            labels[inside > 0] = number
    parts = [chi, r2s, signal]

    def put(name: str, where: NDArray) -> None:
        for volume, value in zip(parts, values[name], strict=True):
            volume[where] = value

    x, y, z = at
    put("pineal", sum(((a - c) / 2.5) ** 2 for a, c in zip(at, (0, -31, 3), strict=True)) < 1)
    for _ in range(40):  # veins of white matter, straight
        centre = np.array(
            [rng.choice((-1, 1)) * rng.uniform(14, 34), rng.uniform(-55, 35), rng.uniform(8, 38)]
        )
        along = rng.normal(0, 1, 3) * (1.5, 0.5, 0.8)
        along /= np.linalg.norm(along)
        t = sum(
            np.float32(u) * (a - np.float32(c)) for u, a, c in zip(along, at, centre, strict=True)
        )
        off = sum(
            (a - np.float32(c) - t * np.float32(u)) ** 2
            for u, a, c in zip(along, at, centre, strict=True)
        )
        put(
            "blood",
            (off < rng.uniform(0.35, 0.8) ** 2) & (np.abs(t) < rng.uniform(6, 14)) & (wm > 0.5),
        )
    fluid_mm = np.maximum(1.5 + 0.8 * noise(25.0, 8), 0.4)
    skull_mm = fluid_mm + np.maximum(6 + 1.5 * noise(30.0, 9), 3)
    put("fluid", outside > 0)
    sinus = (outside > 0) & (outside < 5) & (np.abs(x) < 4) & (z > -5)
    neck = (z < -52) & (np.hypot(x, y + 38) < 62)
    put("skull", outside > fluid_mm)
    put("scalp", outside > skull_mm)
    put("blood", sinus)
    put("air", (outside > skull_mm + 5) & ~(neck & (outside < 60)))
    for centre, axes in AIR_MM:
        axes = np.array(axes) * rng.uniform(0.85, 1.15)
        square = sum(
            ((a - np.float32(c)) / np.float32(w)) ** 2
            for a, c, w in zip(at, centre, axes, strict=True)
        )
        put("air", (square < 1) & (outside > 2.5))
    signal *= 1 + 0.2 * noise(60.0, 10)
    volumes = {"chi": 1e-3 * chi, "r2s": r2s, "signal": np.maximum(signal, 0), "labels": labels}
    return volumes | {"brain": outside <= 0}, affine


def _ribbon(
    depth_mm: NDArray, noise: Callable[[float, int], NDArray], at: list[NDArray]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw white and grey matter: a ribbon along the surface and along sulci, and ventricles."""
    sulcus = np.abs(noise(22.0, 11)) * 12 + np.maximum(depth_mm - 10, 0)  # about mm from a sulcus
    thick = 3.2 + 0.5 * noise(30.0, 12)
    near = np.minimum(depth_mm, sulcus - 0.7)
    ventricle = np.full(depth_mm.shape, -9.0, np.float32)
    for side in (-1, 1):
        for centre, axes in (((13, 8, 18), (6, 24, 7)), ((22, -40, 16), (7, 18, 7))):
            square = sum(
                ((a - np.float32(c)) / np.float32(w)) ** 2
                for a, c, w in zip(at, (side * centre[0], *centre[1:]), axes, strict=True)
            )
            ventricle = np.maximum(ventricle, 6 * (1 - np.sqrt(square)))
    fluid = np.clip(np.maximum(0.5 - near, 0.5 + ventricle), 0, 1)
    gm = np.clip(thick - near + 0.5, 0, 1) * (1 - fluid)
    return 1 - fluid - gm, gm


def _bend(at: list[NDArray], rng: np.random.Generator) -> list[NDArray]:
    """Bend the head by waves of 60 to 120 mm, a few mm high."""
    moves = []
    for _ in range(3):
        k = rng.normal(0, 1, 3)
        k *= 2 * np.pi / rng.uniform(60, 120) / np.linalg.norm(k)
        wave = sum(np.float32(c) * a for c, a in zip(k, at, strict=True))
        moves.append(
            np.float32(rng.uniform(1.5, 3.0)) * np.sin(wave + np.float32(rng.uniform(0, 6)))
        )
    return [a + m for a, m in zip(at, moves, strict=True)]


def _field(chi_ppm: NDArray, voxel_mm: float) -> NDArray[np.float32]:
    """Field of sources in air, B0 along z, on a grid of twice the length."""
    air = chi_ppm[0, 0, -1]
    big = [fft.next_fast_len(2 * n, real=True) for n in chi_ppm.shape]
    spectrum = fft.rfftn((chi_ppm - air).astype(np.float32), s=big)
    x, y, z = (
        f(n).astype(np.float32)
        for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), big, strict=True)
    )
    for i, plane in enumerate(spectrum):
        square = x[i] ** 2 + y[:, None] ** 2 + z**2
        plane *= 1 / np.float32(3) - z**2 / np.maximum(square, np.float32(1e-12))
    spectrum[0, 0, 0] = 0
    a, b, c = chi_ppm.shape
    return fft.irfftn(spectrum, s=big)[:a, :b, :c].copy()


def _shim(field: NDArray, brain: NDArray) -> NDArray[np.float32]:
    """Take off the plane and the quadratic harmonics that fit the brain best."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) * n / field.shape[0] for n in field.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    terms = (1 + 0 * x, x, y, z, x * y, y * z, x * z, x * x - y * y, 2 * z * z - x * x - y * y)
    step = (slice(None, None, 4),) * 3
    inside = brain[step]
    basis = np.stack([np.broadcast_to(t, field.shape)[step][inside] for t in terms], 1)
    weights = np.linalg.lstsq(basis, field[step][inside], rcond=None)[0]
    return field - sum(np.float32(w) * t for w, t in zip(weights, terms, strict=True))


def _blocks(fine: NDArray) -> list[NDArray]:
    return [fine[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]


def _mean(fine: NDArray) -> NDArray[np.float32]:
    return (sum(b.astype(np.float32) for b in _blocks(fine)) / 8).astype(np.float32)


def _crop(brain: NDArray, margin: int) -> tuple[slice, ...]:
    places = np.argwhere(brain)
    return tuple(
        slice(max(0, a - margin), min(n, b + margin + 1))
        for a, b, n in zip(places.min(0), places.max(0), brain.shape, strict=True)
    )


def scan(
    look: Look,
    mirror: Path,
    *,
    voxel_mm: float = 2.0,
    field_t: float = 3.0,
    snr: float = 50.0,
    times_s: tuple[float, ...] = (0.006, 0.012, 0.018, 0.024),
) -> Head:
    """Scan a head: field on a fine grid, shim, coil phase, decay, eight parts a voxel, noise."""
    fine, affine = draw(look, voxel_mm / 2, mirror)
    total = _field(fine["chi"], voxel_mm / 2)
    # Bring the sources of the brain alone into empty space, so that its own field is known.
    local = _field(np.where(fine["brain"], fine["chi"], np.float32(0)), voxel_mm / 2)
    total = _shim(total, fine["brain"])
    rng = np.random.default_rng(
        [look.seed, int(10 * sum(look.turn_deg)) % 997, len(look.change_ppb)]
    )
    brain = _mean(fine["brain"]) > 0.5
    box = _crop(brain, int(14 / voxel_mm))
    shape = tuple(s.stop - s.start for s in box)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    offset = (
        rng.uniform(-3, 3) + 2 * np.sin(1.3 * x + rng.normal()) + 1.5 * y * z + rng.normal() * z
    )
    wide = tuple(slice(2 * s.start, 2 * s.stop) for s in box)
    parts = [_blocks(np.ascontiguousarray(v[wide])) for v in (fine["signal"], fine["r2s"], total)]
    clean = np.empty((*shape, len(times_s)), np.complex64)
    omega = 2 * np.pi * GAMMA_MHZ_T * field_t
    for e, t in enumerate(times_s):
        clean[..., e] = sum(
            s * np.exp(-r * np.float32(t * field_t / 3) + np.complex64(1j * omega * t) * f)
            for s, r, f in zip(*parts, strict=True)
        ) / 8 * np.exp(1j * offset)  # fmt: skip
    sd = np.float32(0.68 / snr)
    noise = rng.standard_normal((*clean.shape, 2), np.float32).view(np.complex64)[..., 0]
    data = clean + sd * noise
    labels = np.sort(_blocks(fine["labels"]), axis=0)
    labels = np.where(labels[1] == labels[6], labels[3], 0).astype(np.uint8)[box]
    return _head(
        f"own {look.seed}", np.abs(data), np.angle(data), times_s, field_t,
        affine @ nib.affines.from_matvec(2 * np.eye(3), [2 * s.start + 0.5 for s in box]),
        _mean(fine["chi"])[box], _mean(local)[box], _mean(total)[box], brain[box], labels,
    )  # fmt: skip


def _head(name, mag, phase, times_s, field_t, affine, chi, local, total, brain, labels) -> Head:  # type: ignore[no-untyped-def]
    gre = images.Gre(
        mag.astype(np.float32), phase.astype(np.float32), np.asarray(times_s), float(field_t),
        affine, "radians",
    )  # fmt: skip
    names = {2 * i + side + 1: n for i, n in enumerate(NUCLEI) for side in (0, 1)}
    return Head(name, gre, chi, local, total, brain, labels, names)


def scan_qsm_forward(
    look: Look, mirror: Path, *, voxel_mm: float = 2.0, field_t: float = 3.0, snr: float = 100.0,
    times_s: tuple[float, ...] = (0.004, 0.012, 0.020, 0.028)
) -> Head:  # fmt: skip
    """Scan a head with qsm-forward: its field, shim, phase offset, spoiled signal and noise."""
    import qsm_forward as qf  # type: ignore[import-not-found]

    volumes, affine = draw(look, voxel_mm, mirror)
    chi, brain = volumes["chi"], volumes["brain"]
    total = qf.generate_field(chi, voxel_size=[voxel_mm] * 3)
    empty = np.where(brain, chi, 0)
    local = qf.generate_field(empty, voxel_size=[voxel_mm] * 3)
    _, shimmed, _ = qf.generate_shimmed_field(total, brain, order=2)
    m0 = volumes["signal"]
    offset = qf.generate_phase_offset(m0, brain, brain.shape)
    rng = np.random.default_rng([look.seed, 1, len(look.change_ppb)])
    echoes = []
    for t in times_s:
        signal = qf.generate_signal(
            shimmed, B0=field_t, TR=0.05, TE=t, flip_angle=15, phase_offset=offset, R1=1.0,
            R2star=volumes["r2s"] * field_t / 3, M0=m0,
        )  # fmt: skip
        echoes.append(qf.add_noise(signal, peak_snr=snr, rng=rng))
    box = _crop(brain, int(14 / voxel_mm))
    data = np.stack(echoes, -1)[box].astype(np.complex64)
    affine = affine @ nib.affines.from_matvec(np.eye(3), [s.start for s in box])
    f32 = (v[box].astype(np.float32) for v in (chi, local, shimmed))
    return _head(
        f"qsm-forward {look.seed}", np.abs(data), np.angle(data), times_s, field_t, affine, *f32,
        brain[box], volumes["labels"][box],
    )  # fmt: skip
