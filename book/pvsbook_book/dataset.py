"""A BIDS folder of simulated people: small, quick to make, and whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvsbook import images
from pvsbook.phantoms import brain, diffusion, gradient_echo, perivascular

__all__ = ["write_dataset"]

DWI_MM, GRE_MM, T2_MM = 3.0, 4.0, 2.0  # coarse: these scans are for the way, not for the result
SLAB_MM = (0.0, 50.0)
ECHOES_S = (0.006, 0.012, 0.018)
FIELD_T = 3.0


def write_dataset(
    folder: images.PathLike,
    people: Sequence[str],
    *,
    rng: np.random.Generator,
    sessions: Sequence[str] = ("",),
    methods: Sequence[str] = ("pvs", "alps", "qsm"),
) -> Path:
    """Write simulated people as a BIDS data set with inherited sidecars.

    All share one head.  Noise differs from scan to scan, and so does the share of perivascular
    fluid in the diffusion scans, hence the true ALPS index, which falls with the age that
    ``participants.tsv`` tells.

    Parameters
    ----------
    folder
        Top of the data set; made where it is missing.
    people
        Labels, without ``sub-``.
    rng
        Random numbers.
    sessions
        Labels, without ``ses-``; an empty one stands for no session.
    methods
        Whose scans to write: ``"pvs"`` (T2w, 2 mm), ``"alps"`` (a diffusion slab, 3 mm, 12
        directions), ``"qsm"`` (gradient echo, 4 mm, 3 echoes).

    Returns
    -------
    pathlib.Path
        The folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as top:
    ...     rng = np.random.default_rng(1)
    ...     _ = write_dataset(top, ["01"], rng=rng, methods=["qsm"])
    ...     sorted(p.name for p in Path(top).iterdir())[:3]
    ['MEGRE.json', 'dataset_description.json', 'echo-1_MEGRE.json']
    """
    top = Path(folder)
    about = {"Name": "Simulated people", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    _json(about, top / "dataset_description.json")
    ages = rng.integers(25, 85, len(people))
    table = pd.DataFrame({"participant_id": [f"sub-{p}" for p in people], "age": ages})
    table.to_csv(top / "participants.tsv", sep="\t", index=False)
    _json(
        {"age": {"Description": "age at the first visit", "Units": "year"}},
        top / "participants.json",
    )
    head = gradient_echo.make_gre(
        rng, voxel_size_mm=GRE_MM, echo_times_s=ECHOES_S, field_strength_t=FIELD_T, snr=np.inf
    ).gre if "qsm" in methods else None  # fmt: skip
    t2 = perivascular.make_phantom(rng, voxel_size_mm=T2_MM, diameters_mm=(1.5, 3.0)).scans[
        "T2w"
    ] if "pvs" in methods else None  # fmt: skip
    slab = brain.make_brain(DWI_MM, z_range_mni_mm=SLAB_MM) if "alps" in methods else None
    bvals, bvecs = diffusion.gradient_scheme(12, rng=rng)
    if head is not None:
        _json({"MagneticFieldStrength": FIELD_T}, top / "MEGRE.json")
        for k, seconds in enumerate(ECHOES_S, 1):
            _json({"EchoTime": seconds}, top / f"echo-{k}_MEGRE.json")
    for person, age in zip(people, ages, strict=True):
        for session in sessions:
            stem = f"sub-{person}" + (f"_ses-{session}" if session else "")
            place = top.joinpath(*stem.split("_"))
            if t2 is not None:
                values = images.array(t2)
                noisy = np.abs(values + rng.normal(0, 0.01 * values.max(), values.shape))
                images.save(images.make(noisy, t2.affine), place / "anat" / f"{stem}_T2w.nii.gz")
            if slab is not None:
                # chosen so that the index falls with age; nothing about people is claimed
                tissue = diffusion.Tissue()
                share = tissue.perivascular * (1.6 - age / 80 + rng.normal(0, 0.1))
                scan = diffusion.make_diffusion(
                    slab,
                    rng=rng,
                    tissue=replace(tissue, perivascular=max(share, 0.0)),
                    bvals_s_mm2=bvals,
                    bvecs_ras=bvecs,
                    snr=30,
                )
                stored = np.round(images.array(scan.dwi.image)).astype(np.int16)
                images.save(
                    images.make(stored, scan.dwi.image.affine),
                    place / "dwi" / f"{stem}_dwi.nii.gz",
                )
                np.savetxt(top / "dwi.bval", bvals[None], fmt="%g")
                np.savetxt(top / "dwi.bvec", diffusion.fsl_bvecs(scan.dwi), fmt="%.6f")
            if head is not None:
                _write_echoes(head, rng, place / "anat", stem)
    return top


def _write_echoes(head: images.Gre, rng: np.random.Generator, folder: Path, stem: str) -> None:
    """Add complex noise, and write phase as 12-bit integers, as scanners do."""
    sd = head.magnitude.max() / 100
    noise = rng.normal(0, sd, (2, *head.magnitude.shape))
    signal: NDArray = head.magnitude * np.exp(1j * head.phase_rad) + noise[0] + 1j * noise[1]
    phase = np.round(np.angle(signal) * 2048 / np.pi).clip(-2048, 2047).astype(np.int16)
    for part, values in (("mag", np.abs(signal).astype(np.float32)), ("phase", phase)):
        for k in range(values.shape[3]):
            path = folder / f"{stem}_echo-{k + 1}_part-{part}_MEGRE.nii.gz"
            images.save(images.make(values[..., k], head.affine), path)


def _json(content: dict, path: Path) -> None:
    images.write_bytes((json.dumps(content, indent=2) + "\n").encode(), path)
