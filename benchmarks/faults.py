"""Damaged, impossible and hostile input: how much of it is told, and how much is believed.

    python benchmarks/faults.py [damage] [physics] [people] [results] [users]

Each part prints a table; without a word all parts run (about ten minutes).  Nothing here is a
person's scan.  What counts: no exception but `pvsbook.InputError`, no damaged voxel accepted, no
impossible scan under the status pass, nobody missing from the table, no file of others touched.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from pvsbook import InputError, bids, images
from pvsbook.bids.sessions import read_participants
from pvsbook.methods import by_name
from pvsbook.phantoms import diffusion, gradient_echo
from pvsbook_book.dataset import write_dataset

N_MUTATIONS = 2000  # of each kind of file


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """Return (refused | accepted | the exception's type, sentence)."""
    try:
        call()
    except InputError as error:
        return "refused", str(error)
    except Exception as error:  # the thing that is looked for
        return type(error).__name__, str(error)
    return "accepted", ""


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Change, cut, repeat or replace a few bytes, or put a token where one stood."""
    raw = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, max(len(raw), 1)))
        kind = rng.integers(0, 6)
        if kind == 0 and raw:
            raw[at % len(raw)] = int(rng.integers(0, 256))
        elif kind == 1:
            del raw[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            raw[at:at] = raw[at : at + 40]
        elif kind == 4:
            tokens = (b"nan", b"-1", b"1e400", b'"', b"[[", b"null", b"\xff\xfe", b"\t\t", b"{}")
            raw[at:at] = tokens[rng.integers(len(tokens))]
        else:
            raw = raw[:at]
    return bytes(raw)


# --- damage ------------------------------------------------------------------------------------


def damage(folder: Path) -> None:
    """Mutations of each kind of file, and single flipped bits of compressed scans."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4000, (6, 7, 8, 9)).astype(np.int16)
    series = nib.Nifti1Image(values, np.diag([2, 2, 2, 1]))
    bvals, bvecs = diffusion.gradient_scheme(8, rng=rng)
    paths = {name: folder / name for name in ("dwi.nii", "dwi.bval", "dwi.bvec")}
    paths["dwi.nii"].write_bytes(series.to_bytes())
    np.savetxt(paths["dwi.bval"], bvals[None], "%g")
    np.savetxt(paths["dwi.bvec"], bvecs.T, "%.6f")
    phase = rng.uniform(-np.pi, np.pi, (6, 7, 8)).astype(np.float32)
    phase[0, 0, :2] = -np.pi, np.pi
    for name, data in (("mag.nii", np.abs(phase) + 1), ("phase.nii", phase)):
        images.save(images.make(data, np.eye(4)), folder / name)
    (folder / "mag.json").write_text('{"EchoTime": 0.006}')
    sidecar = json.dumps({"EchoTime": 0.006, "MagneticFieldStrength": 3, "Units": "rad"})
    (folder / "phase.json").write_text(sidecar)
    people = folder / "bids"
    for label in ("01", "02"):
        (people / f"sub-{label}").mkdir(parents=True)
    table = "participant_id\tage\tgroup\nsub-01\t41\tMS\nsub-02\t38\tHC\n"
    (people / "participants.tsv").write_text(table)

    doors: dict[str, tuple[Path, Callable[[], Any]]] = {
        "NIfTI header": (paths["dwi.nii"], lambda: images.load_dwi(*paths.values())),
        "bval": (paths["dwi.bval"], lambda: images.load_dwi(*paths.values())),
        "bvec": (paths["dwi.bvec"], lambda: images.load_dwi(*paths.values())),
        "JSON sidecar": (
            folder / "phase.json",
            lambda: images.load_gre(folder / "mag.nii", folder / "phase.nii"),
        ),
        "participants.tsv": (people / "participants.tsv", lambda: _strict(people)),
    }
    print(f"{'mutations of':18}{'n':>7}{'refused':>9}{'accepted':>10}{'other':>7}{'unnamed':>9}")
    for kind, (path, door) in doors.items():
        whole, seen, unnamed = path.read_bytes(), Counter(), 0
        for _ in range(N_MUTATIONS):
            if kind == "NIfTI header":
                path.write_bytes(mutate(whole[:348], rng)[:348].ljust(348, b"\0") + whole[348:])
            else:
                path.write_bytes(mutate(whole, rng))
            what, sentence = outcome(door)
            seen[what] += 1
            unnamed += what == "refused" and not any(p.name in sentence for p in _near(path))
        path.write_bytes(whole)
        other = sum(n for what, n in seen.items() if what not in ("refused", "accepted"))
        print(
            f"{kind:18}{N_MUTATIONS:7}{seen['refused']:9}{seen['accepted']:10}{other:7}"
            f"{unnamed:9}  {[w for w in seen if w not in ('refused', 'accepted')] or ''}"
        )
    print()
    print(f"{'one flipped bit in':26}{'n':>5}{'refused':>9}{'same voxels':>13}{'changed':>9}")
    volume = images.make(rng.normal(900, 90, (40, 44, 36)).astype(np.float32), np.eye(4))
    for level, n in ((6, 360), (0, 180)):
        packed = folder / "scan.nii.gz"
        packed.write_bytes(gzip.compress(volume.to_bytes(), level))
        whole, told, same, wrong = packed.read_bytes(), 0, 0, 0
        for _ in range(n):
            raw = bytearray(whole)
            raw[rng.integers(10, len(raw))] ^= 1 << int(rng.integers(0, 8))
            packed.write_bytes(raw)
            try:
                again = images.load(packed)
            except InputError:
                told += 1
                continue
            equal = np.array_equal(images.array(again), images.array(volume))
            same, wrong = same + equal, wrong + (not equal)
        print(f"{f'gzip at level {level}':26}{n:5}{told:9}{same:13}{wrong:9}")


def _strict(folder: Path) -> None:
    """Read participants.tsv; what is told as a note counts as refused here."""
    notes = read_participants(folder)[2]
    if notes:
        raise InputError(notes[0])


def _near(path: Path) -> Iterator[Path]:
    """The file, and those that are read with it (an error may name the image of a sidecar)."""
    yield path
    yield from path.parent.glob(f"{path.stem}.*")


# --- physics -----------------------------------------------------------------------------------


def physics(folder: Path) -> None:
    """Gradient echoes and diffusion series that no scanner can have made."""
    head = gradient_echo.make_gre(np.random.default_rng(7), voxel_size_mm=3)
    gre = head.gre
    mag, phase = np.array(gre.magnitude), np.array(gre.phase_rad)
    times = gre.echo_times_s
    rng = np.random.default_rng(0)
    order = rng.permutation(times.size)
    stripped = head.brain[..., None]
    zero = mag.copy()
    zero[..., 1] = 0
    hole = phase.copy()
    hole[np.abs(hole) < 0.5] = 0.5
    same_echo = phase.copy()
    same_echo[..., 1] = phase[..., 0]
    noise = rng.uniform(-np.pi, np.pi, phase.shape).astype(np.float32)
    cases: dict[str, tuple[Any, Any, Any, float]] = {
        "as scanned": (mag, phase, times, 3.0),
        "phase in reversed echo order": (mag, phase[..., ::-1], times, 3.0),
        "both in reversed echo order": (mag[..., ::-1], phase[..., ::-1], times, 3.0),
        "both with echoes shuffled": (mag[..., order[::-1]], phase[..., order[::-1]], times, 3.0),
        "echo times x 10": (mag, phase, times * 10, 3.0),
        "echo times x 0.1": (mag, phase, times / 10, 3.0),
        "echo times x 2": (mag, phase, times * 2, 3.0),
        "echo times in ms": (mag, phase, times * 1e3, 3.0),
        "field strength 1.5 for 3 T": (mag, phase, times, 1.5),
        "field strength 7 for 3 T": (mag, phase, times, 7.0),
        "field strength 0.3 for 3 T": (mag, phase, times, 0.3),
        "magnitude and phase exchanged": (phase, mag, times, 3.0),
        "stripped, then exchanged": (phase * stripped, mag * stripped, times, 3.0),
        "magnitude given twice": (mag, mag, times, 3.0),
        "phase given twice": (phase, phase, times, 3.0),
        "one echo's magnitude zero": (zero, phase, times, 3.0),
        "second echo's phase is the first": (mag, same_echo, times, 3.0),
        "phase with a hole in its histogram": (mag, hole, times, 3.0),
        "phase of noise": (mag, noise, times, 3.0),
        "phase already unwrapped": (mag, np.unwrap(phase, axis=-1), times, 3.0),
        "phase high-pass filtered": (mag, _filtered(phase), times, 3.0),
        "phase of the other sign": (mag, -phase, times, 3.0),
        "phase constant": (mag, np.full_like(phase, 0.3), times, 3.0),
        "all echoes the same": (
            np.repeat(mag[..., :1], times.size, -1),
            np.repeat(phase[..., :1], times.size, -1),
            times,
            3.0,
        ),
        "phase mirrored left to right": (mag, phase[::-1], times, 3.0),
        "phase moved by 8 voxels": (mag, np.roll(phase, 8, 0), times, 3.0),
        "phase of another head": (
            mag,
            gradient_echo.make_gre(np.random.default_rng(8), voxel_size_mm=3).gre.phase_rad[
                ::-1, ::-1
            ],
            times,
            3.0,
        ),
    }
    print(f"{'gradient echo':38}{'status':10}why")
    for k, (name, (magnitude, stored, seconds, tesla)) in enumerate(cases.items()):
        top = folder / f"gre{k}"
        files: dict[str, list[Path]] = {"magnitude": [], "phase": []}
        for e, second in enumerate(seconds):
            for part, values in (("magnitude", magnitude), ("phase", stored)):
                stem = f"sub-1_echo-{e + 1}_part-{part[:5].replace('magni', 'mag')}_MEGRE"
                path = images.save(images.make(values[..., e], gre.affine), top / f"{stem}.nii.gz")
                meta = {"EchoTime": float(second), "MagneticFieldStrength": tesla}
                (top / f"{stem}.json").write_text(json.dumps(meta))
                files[part].append(path)
        print(f"{name:38}{_measured('qsm', files, top / 'out')}")


def _filtered(phase: np.ndarray) -> np.ndarray:
    """Remove the slow part of the phase, as a scanner's filter does."""
    smooth = [
        ndimage.gaussian_filter(part, (4, 4, 4, 0)) for part in (np.cos(phase), np.sin(phase))
    ]
    slow = smooth[0] + 1j * smooth[1]
    return np.angle(np.exp(1j * phase) * slow.conj()).astype(np.float32)


def _measured(method: str, inputs: dict[str, Any], out: Path) -> str:
    with np.errstate(all="ignore"):
        try:
            done = bids.measure_files(by_name(method), inputs, out)
        except InputError as error:
            return f"{'refused':10}{str(error)[:150]}"
        except Exception as error:
            return f"{'CRASH':10}{type(error).__name__}: {error}"
    return f"{done.status:10}{'; '.join(done.reasons)[:150]}"


def directions(folder: Path) -> None:
    """Diffusion series whose tables or volumes are not what they say."""
    top = write_dataset(folder / "bids", ["1"], rng=np.random.default_rng(1), methods=["alps"])
    series = nib.load(next(top.rglob("*_dwi.nii.gz")))
    data = np.asarray(series.dataobj, np.float32)
    bvals = np.loadtxt(next(top.rglob("*dwi.bval")))
    bvecs = np.loadtxt(next(top.rglob("*dwi.bvec")))
    weighted = bvals > 50
    rng = np.random.default_rng(0)

    def other(values: np.ndarray, where: Any, new: Any) -> np.ndarray:
        changed = values.copy()
        changed[where] = new
        return changed

    lost = int(np.flatnonzero(weighted)[2])
    shuffled = rng.permutation(bvecs.shape[1])
    cases = {
        "as scanned": (data, bvals, bvecs),
        "bval all 0": (data, bvals * 0, bvecs),
        "bval all 1000": (data, bvals * 0 + 1000, bvecs),
        "bval in ms/um2": (data, bvals / 1000, bvecs),
        "bval negative": (data, -bvals, bvecs),
        "b = 0 and b = 1000 exchanged": (data, np.where(weighted, 0, 1000), bvecs),
        "one direction for all": (data, bvals, np.where(weighted, bvecs[:, [lost]], 0)),
        "b-vectors not unit, x 0.5": (data, bvals, bvecs * 0.5),
        "b-vectors shuffled": (data, bvals, bvecs[:, shuffled]),
        "b-vectors of noise": (data, bvals, rng.normal(size=bvecs.shape)),
        "b-vectors in one plane": (data, bvals, bvecs * [[1], [1], [0]]),
        "one row of b-vectors missing": (data, bvals, bvecs[:2]),
        "a volume too many": (data, bvals[:-1], bvecs[:, :-1]),
        "a volume without signal": (other(data, (..., lost), 0), bvals, bvecs),
        "a volume at a third": (other(data, (..., lost), data[..., lost] / 3), bvals, bvecs),
        "a volume is a copy of b = 0": (other(data, (..., lost), data[..., 0]), bvals, bvecs),
        "slices of a volume lost": (
            other(data, (slice(None), slice(None), slice(0, None, 2), lost), 0), bvals, bvecs,
        ),
        "all volumes the same": (np.repeat(data[..., :1], data.shape[-1], -1), bvals, bvecs),
        "signal rises with b": (data[..., :1] * 2 - data * 0.9, bvals, bvecs),
        "volumes in reversed order": (data[..., ::-1], bvals, bvecs),
        "noise": (rng.rayleigh(50, data.shape), bvals, bvecs),
        "negative samples": (data - np.percentile(data[data > 0], 20), bvals, bvecs),
    }  # fmt: skip
    print(f"\n{'diffusion':38}{'status':10}why")
    for k, (name, (values, b, vectors)) in enumerate(cases.items()):
        there = folder / f"dwi{k}"
        there.mkdir()
        path = images.save(images.make(values, series.affine), there / "sub-1_dwi.nii.gz")
        np.savetxt(there / "sub-1_dwi.bval", np.atleast_2d(b), "%g")
        np.savetxt(there / "sub-1_dwi.bvec", vectors, "%.6f")
        files = {"dwi": path, "bval": there / "sub-1_dwi.bval", "bvec": there / "sub-1_dwi.bvec"}
        print(f"{name:38}{_measured('alps', files, there / 'out')}")


def anatomy(folder: Path) -> None:
    """Images in which no perivascular space can be seen."""
    top = write_dataset(folder / "head", ["1"], rng=np.random.default_rng(1), methods=["pvs"])
    scan = images.load(next(top.rglob("*_T2w.nii.gz")))
    data, affine = images.array(scan), np.array(scan.affine)
    rng = np.random.default_rng(0)
    bright = np.median(data[data > 0])
    ball = np.linalg.norm(np.indices(data.shape).T - np.array(data.shape) / 2, axis=-1).T
    cases = {
        "as scanned": (data, affine),
        "noise": (rng.rayleigh(100, data.shape), affine),
        "noise inside the head": (np.where(data > 0, rng.normal(500, 50, data.shape), 0), affine),
        "a ball of one brightness": (
            np.where(ball < 40, 800, 0) + rng.normal(0, 5, data.shape), affine,
        ),
        "its own negative": (data.max() - data, affine),
        "upside down": (data[:, :, ::-1], affine),
        "front to back": (data[:, ::-1], affine),
        "axes exchanged": (data.transpose(2, 1, 0), affine),
        "header in metres": (data, affine / 1000),
        "voxels twice as large": (data, affine @ np.diag([2, 2, 2, 1])),
        "voxels half as large": (data, affine @ np.diag([0.5, 0.5, 0.5, 1])),
        "one hemisphere": (np.where(np.arange(len(data))[:, None, None] < 45, data, 0), affine),
        "a slab of 20 mm": (data[:, :, 40:50], affine),
        "mask instead of scan": ((data > 0).astype(np.float32), affine),
        "two tissues only": (np.select([data > bright, data > 0], [2, 1]), affine),
        "blurred by 6 mm": (ndimage.gaussian_filter(data, 3), affine),
    }  # fmt: skip
    print(f"\n{'T2w':38}{'status':10}why")
    for k, (name, (values, where)) in enumerate(cases.items()):
        there = folder / f"t2{k}"
        path = there / "sub-1_T2w.nii.gz"
        path.parent.mkdir()
        nib.save(nib.Nifti1Image(values.astype(np.float32), where), path)
        print(f"{name:38}{_measured('pvs', {'image': path}, there / 'out')}")


# --- people ------------------------------------------------------------------------------------


def people(folder: Path) -> None:
    """Thirteen people: eleven are broken, each in another way, and two are whole."""
    labels = [f"{k:02}" for k in range(1, 14)]
    top = write_dataset(folder / "bids", labels, rng=np.random.default_rng(3), methods=["qsm"])

    def anat(label: str) -> list[Path]:
        return sorted((top / f"sub-{label}" / "anat").glob("*.nii.gz"))

    shutil.rmtree(top / "sub-02")  # listed, not there
    for path in anat("03"):
        path.unlink()  # empty folder
    whole = anat("04")[0].read_bytes()
    anat("04")[0].write_bytes(whole[:-20])  # cut short
    raw = bytearray(anat("05")[0].read_bytes())
    raw[len(raw) // 2] ^= 16  # a flipped bit
    anat("05")[0].write_bytes(raw)
    for path in anat("06"):  # half renamed
        path.rename(path.with_name(path.name.replace("sub-06", "sub-01")))
    first = anat("07")[-1]
    first.with_name(first.name.replace(".nii.gz", ".json")).write_text('{"EchoTime": "6 ms"}')
    os.mkfifo(anat("08")[0].with_name("sub-08_T2w.nii.gz"))  # a pipe that nobody fills
    for path in anat("09"):
        if "part-phase" in path.name:
            path.unlink()  # no phase
    deep = anat("10")[-1]
    deep.with_name(deep.name.replace(".nii.gz", ".json")).write_text("[" * 100_000)
    swap = [p for p in anat("11") if "echo-1" in p.name]  # magnitude and phase exchanged
    for path in swap:
        path.rename(path.with_name(f"x{path.name}"))
    for path in swap:
        new = path.name.replace("part-mag", "part-x").replace("part-phase", "part-mag")
        path.with_name(f"x{path.name}").rename(path.with_name(new.replace("part-x", "part-phase")))
    (top / "sub-12" / "anat" / "loop").symlink_to("..")  # a circle of links
    out = folder / "out"
    start = time.time()
    code, _ = _run(top, out, "participant", "--methods", "qsm,pvs")
    print(f"exit code {code} after {time.time() - start:.0f} s")
    group = _run(top, out, "group")
    table = pd.read_csv(out / "group_qsm.tsv", sep="\t", dtype=str)
    print(f"group: exit code {group[0]}")
    for row in table.fillna("").to_dict("records"):
        why = row["outcome_reason"] or row["reasons"]
        print(f"  {row['participant_id']:8}{row['outcome']:9}{row['status']:6}{why[:140]}")
    missing = {f"sub-{x}" for x in labels} - set(table["participant_id"])
    print(f"people in no row: {sorted(missing) or 'none'}")


def _run(*words: object, **more: Any) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pvsbook", "run", *map(str, words)],
        capture_output=True, text=True, timeout=900, check=False, **more,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


# --- results -----------------------------------------------------------------------------------


def results(folder: Path) -> None:
    """Somebody's folder as OUT, and records that ask for what a record must not have."""
    top = write_dataset(folder / "bids", ["1"], rng=np.random.default_rng(3), methods=["qsm"])
    out = folder / "theirs"
    theirs = {
        "README": "my own words\n",
        ".bidsignore": "sourcedata\n",
        "dataset_description.json": '{"Name": "mine", "BIDSVersion": "1.8.0"}',
        "group.html": "<p>mine</p>",
        "notes/sub-1/thoughts.txt": "keep",
        "sub-1/anat/sub-1_T1w.nii.gz": "not an image",
        "sub-1.html": "<p>mine</p>",
    }
    for name, text in theirs.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    codes = [_run(top, out, level)[0] for level in ("participant", "group")]
    changed = [n for n, text in theirs.items() if text not in (out / n).read_text()]
    print(f"a folder with files of others: exit codes {codes}, changed: {changed or 'none'}")

    ours = folder / "out"
    _run(top, ours, "participant")
    record = next((ours / ".pvsbook").rglob("*.json"))
    whole = json.loads(record.read_text())
    victim = folder / "victim.txt"
    victim.write_text("precious")
    digest = hashlib.sha256(b"precious").hexdigest()
    hostile: dict[str, Any] = {
        "a path outside": {**whole, "outputs": {"../victim.txt": [8, digest]}},
        "an absolute path": {**whole, "outputs": {str(victim): [8, digest]}},
        "outputs as a list": {**whole, "outputs": ["../victim.txt"]},
        "no name": {k: v for k, v in whole.items() if k != "name"},
        "result null": {**whole, "result": None},
        "result of text": {**whole, "result": "pass"},
        "status unknown": {**whole, "status": "excellent"},
        "a script as the report": {**whole, "result": {"report": "javascript:alert(1)"}},
        "markup as a reason": {**whole, "status": "failed", "reason": "<script>x</script>[/b]"},
        "a list": [whole],
        "cut short": json.dumps(whole)[:40],
        "not text": b"\xff\xfe\x00",
        "of 20 000 brackets": "[" * 20_000,
    }
    for name, content in hostile.items():
        raw = content if isinstance(content, bytes) else (
            content if isinstance(content, str) else json.dumps(content)
        ).encode()  # fmt: skip
        record.write_bytes(raw)
        codes = [_run(top, ours, level)[0] for level in ("participant", "group")]
        again = json.loads(record.read_text())
        page = (ours / "group.html").read_text()
        is_safe = victim.read_text() == "precious" and "javascript:" not in page
        is_same = again.get("outputs") == whole["outputs"]
        print(
            f"  record: {name:24} exit codes {codes}, "
            f"{'measured again' if is_same else 'NOT as before'}, "
            f"{'nothing else touched' if is_safe and '<script>x' not in page else 'HARM'}"
        )
    lock = ours / ".pvsbook" / "lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(victim)
    code, _ = _run(top, ours, "participant")
    print(f"  lock is a link: exit code {code}, victim {victim.read_text()!r}")


# --- users -------------------------------------------------------------------------------------


def users(folder: Path) -> None:
    """Another user of this machine calls scheduler and workers while they run."""
    if os.geteuid() != 0:
        print("not run: needs root, to become another user")
        return
    top = write_dataset(
        folder / "bids", [f"{k}" for k in range(6)], rng=np.random.default_rng(3), methods=["qsm"]
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "pvsbook", "run", top, folder / "out", "participant",
         "--workers", "2", "--memory-gb", "4"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    import psutil

    ports: set[int] = set()
    for _ in range(200):
        time.sleep(0.1)
        family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(True)]
        for process in family:
            try:
                listening = [c for c in process.net_connections() if c.status == "LISTEN"]
            except psutil.Error:
                continue
            ports |= {c.laddr.port for c in listening}
        if len(ports) >= 3 or running.poll() is not None:
            break
    call = (
        "import asyncio, os, sys\nfrom distributed.core import rpc\nos.setuid(65534)\n"
        "async def main(port):\n"
        "    for scheme in ('tcp', 'tls'):\n"
        "        try:\n"
        "            there = rpc(f'{scheme}://127.0.0.1:{port}', timeout=2)\n"
        "            print(port, scheme, await asyncio.wait_for(there.identity(), 3))\n"
        "        except BaseException as e:\n"
        "            print(port, scheme, 'shut:', type(e).__name__, str(e)[:60])\n"
        "for port in sys.argv[1:]:\n    asyncio.run(main(port))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", call, *map(str, sorted(ports))],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    print(f"ports that listen on this machine: {len(ports)}")
    print(answer.stdout or answer.stderr)
    code = running.wait(timeout=300)
    print(f"the run itself: exit code {code}")


PARTS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "damage": (damage,),
    "physics": (physics, directions, anatomy),
    "people": (people,),
    "results": (results,),
    "users": (users,),
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(f"== {part}", flush=True)
        for step in PARTS[part]:
            with tempfile.TemporaryDirectory() as scratch:
                step(Path(scratch))
