"""A BIDS folder of simulated participants: small, quick to make, and whole."""

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

DWI_MM, GRE_MM, T2_MM = 3.0, 4.0, 2.0  # coarse: the files matter here, not the result
SLAB_MM = (0.0, 50.0)
ECHOES_S = (0.006, 0.012, 0.018)
FIELD_T = 3.0


def write_dataset(
    folder: images.PathLike,
    participants: Sequence[str],
    *,
    rng: np.random.Generator,
    sessions: Sequence[str] = ("",),
    methods: Sequence[str] = ("pvs", "alps", "qsm"),
) -> Path:
    """Write simulated participants as a BIDS data set with inherited sidecars.

    All share one head.  Noise differs from scan to scan, and so does the fraction of perivascular
    fluid in the diffusion scans, hence the true ALPS index, which falls with the age in
    ``participants.tsv``.

    Parameters
    ----------
    folder
        Top of the data set; made where it is missing.
    participants
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
    _write_json(
        {"Name": "Simulated people", "BIDSVersion": "1.10.0", "DatasetType": "raw"},
        top / "dataset_description.json",
    )
    ages = rng.integers(25, 85, len(participants))
    table = pd.DataFrame({"participant_id": [f"sub-{p}" for p in participants], "age": ages})
    table.to_csv(top / "participants.tsv", sep="\t", index=False)
    _write_json(
        {"age": {"Description": "age at the first visit", "Units": "year"}},
        top / "participants.json",
    )
    gre = t2 = None
    if "qsm" in methods:
        gre = gradient_echo.make_gre(
            rng, voxel_size_mm=GRE_MM, echo_times_s=ECHOES_S, field_strength_t=FIELD_T, snr=np.inf
        ).gre
    if "pvs" in methods:
        phantom = perivascular.make_phantom(rng, voxel_size_mm=T2_MM, diameters_mm=(1.5, 3.0))
        t2 = phantom.scans["T2w"]
    slab = brain.make_brain(DWI_MM, z_range_mni_mm=SLAB_MM) if "alps" in methods else None
    bvals, bvecs = diffusion.gradient_scheme(12, rng=rng)
    if gre is not None:
        _write_json({"MagneticFieldStrength": FIELD_T}, top / "MEGRE.json")
        for k, seconds in enumerate(ECHOES_S, 1):
            _write_json({"EchoTime": seconds}, top / f"echo-{k}_MEGRE.json")
    for participant, age in zip(participants, ages, strict=True):
        for session in sessions:
            stem = f"sub-{participant}" + (f"_ses-{session}" if session else "")
            subfolder = top.joinpath(*stem.split("_"))
            if t2 is not None:
                values = images.array(t2)
                noisy = np.abs(values + rng.normal(0, 0.01 * values.max(), values.shape))
                images.save(
                    images.make(noisy, t2.affine), subfolder / "anat" / f"{stem}_T2w.nii.gz"
                )
            if slab is not None:
                # chosen so that the index falls with age; nothing about people is claimed
                tissue = diffusion.WhiteMatter()
                fraction = tissue.perivascular * (1.6 - age / 80 + rng.normal(0, 0.1))
                scan = diffusion.make_diffusion(
                    slab,
                    rng=rng,
                    tissue=replace(tissue, perivascular=max(fraction, 0.0)),
                    bvals_s_mm2=bvals,
                    bvecs_ras=bvecs,
                    snr=30,
                )
                stored = np.round(images.array(scan.dwi.image)).astype(np.int16)
                images.save(
                    images.make(stored, scan.dwi.image.affine),
                    subfolder / "dwi" / f"{stem}_dwi.nii.gz",
                )
                np.savetxt(top / "dwi.bval", bvals[None], fmt="%g")
                np.savetxt(top / "dwi.bvec", diffusion.fsl_bvecs(scan.dwi), fmt="%.6f")
            if gre is not None:
                _write_echoes(gre, rng, subfolder / "anat", stem)
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


def _write_json(content: dict, path: Path) -> None:
    images.write_bytes((json.dumps(content, indent=2) + "\n").encode(), path)
