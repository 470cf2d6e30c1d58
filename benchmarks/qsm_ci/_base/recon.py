"""Run a step of pvsbook as a stage of QSM-CI: ``recon.py FOLDER_OF_ALGORITHM INPUT OUTPUT``.

Reads and writes what the contract of QSM-CI names: fields and susceptibility in ppm, phase in
radians, ``params.json``, and ``config.json`` where somebody set an option.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pvsbook import images, qsm
from pvsbook._constants import GAMMA_MHZ_T
from pvsbook.qsm import background, inversion
from pvsbook.qsm.field import fit_field, hz_to_ppm
from pvsbook.qsm.harmonic import remove_harmonic

PRODUCES = {
    "field-mapping": "totalfield",
    "bfr": "localfield",
    "dipole": "chimap",
    "bfr+dipole": "chimap",
    "end-to-end": "chimap",
}


def reconstruct(algorithm: Path, source: Path) -> tuple[str, NDArray[np.float32]]:
    """Return the artifact that an algorithm's stage produces, and its values inside the mask."""
    about = yaml.safe_load((algorithm / "algorithm.yml").read_text())
    stage, name = about["stage"], about["algorithm"]
    params = json.loads((source / "params.json").read_text())
    config = source / "config.json"
    options = json.loads(config.read_text()) if config.exists() else {}
    b0 = np.array(params["B0_dir"], float)
    b0 /= np.linalg.norm(b0)
    size = np.array(params["voxel_size"], float)

    def read(artifact: str) -> NDArray[np.float32]:
        return images.array(images.load(source / f"{artifact}.nii.gz")).astype(np.float32)

    mask = read("mask") > 0.5
    if stage in ("field-mapping", "end-to-end"):
        gre = images.load_gre(
            source / "magnitude.nii.gz", source / "phase.nii.gz", echo_times_s=params["TE"],
            field_strength_t=params["B0"], phase_period=2 * np.pi,
        )  # fmt: skip
        # The direction of B0 stands in params.json: an affine that has it along world z.
        turn = Rotation.align_vectors([[0, 0, 1]], b0[None])[0].as_matrix()
        gre = replace(gre, affine=from_matvec(turn * size), notes=())
        if stage == "field-mapping":
            fit = fit_field(gre.phase_rad, gre.magnitude, gre.echo_times_s, mask)
            found = hz_to_ppm(fit.field_hz, gre.field_strength_t)
        else:
            result = qsm.reconstruct(gre, mask=mask, reference="none", **options)
            print("\n".join((f"status: {result.status}", *result.reasons)), file=sys.stderr)
            if result.unsupported_steps:
                raise SystemExit(f"not supported: {', '.join(result.unsupported_steps)}")
            found = result.susceptibility.chi_ppm
    elif stage == "dipole":
        if name == "ndi":
            radians = 2 * np.pi * GAMMA_MHZ_T * float(params["B0"]) * float(np.mean(params["TE"]))
            options = {"radians_per_ppm": radians, **options}
        found = _invert(name, read("localfield"), mask, size, b0, options)
    else:
        first = name.split("+")[0]
        place = {"b0_direction": b0} if first == "pdf" else {}
        own = options if stage == "bfr" else {}
        local = getattr(background, first)(read("totalfield"), mask, size, **place, **own)
        found, kept = local.field_ppm, local.mask
        if stage == "bfr+dipole":  # as the default of `pvsbook qsm`
            more = {"weight": kept, "tolerance": 0.01, **options}
            found = _invert(name.split("+")[1], found, kept, size, b0, more)
            found = remove_harmonic(found, kept, size, b0, degree=6)
    return PRODUCES[stage], np.where(mask, found, np.float32(0)).astype(np.float32)


def _invert(
    name: str, local: NDArray, mask: NDArray, size: NDArray, b0: NDArray, options: dict[str, Any]
) -> NDArray[np.float32]:
    found = getattr(inversion, name)(local, mask, size, b0, **options)
    return getattr(found, "chi_ppm", found)


def main() -> None:
    algorithm, source, target = map(Path, sys.argv[1:])
    artifact, values = reconstruct(algorithm, source)
    grid = images.load(source / "mask.nii.gz")
    target.mkdir(parents=True, exist_ok=True)
    images.save(images.make(values, grid.affine), target / f"{artifact}.nii.gz")


if __name__ == "__main__":
    main()
