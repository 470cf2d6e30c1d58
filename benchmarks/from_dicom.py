"""From DICOM to a BIDS folder that passes: the commands of the page "From the scanner".

    python benchmarks/from_dicom.py OUT

Needs `pip install 'pvsbook[bench]'` (dcm2niix, pydicom).  The DICOM files are simulated: one
person, a T2w scan and a gradient echo of three echoes (magnitude and phase), from the phantoms.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from pvsbook import images
from pvsbook.phantoms import gradient_echo, perivascular

PAGE = Path(__file__).parents[1] / "book" / "from_scanner.md"
SEED = 6
ECHOES_S = (0.006, 0.012, 0.018)
TESLA = 3.0
VISIT = generate_uid()


def write_series(
    folder: Path,
    values: NDArray,
    affine: NDArray,
    number: int,
    name: str,
    kind: Sequence[str],
    echoes: Sequence[tuple[int, float]],
) -> None:
    """Write a volume an echo as slices, with what dcm2niix reads."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    to_lps = np.diag([-1, -1, 1, 1]) @ affine
    size = np.linalg.norm(to_lps[:3, :3], axis=0)
    axes = to_lps[:3, :3] / size
    for n_echo, (echo, seconds) in enumerate(echoes):
        for k in range(values.shape[2]):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = MRImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
            ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
                VISIT,
                series,
                VISIT,
            )
            ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "MR", "SIEMENS", "Simulated"
            ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", "4711", "19700101"
            ds.PatientPosition, ds.BodyPartExamined = "HFS", "BRAIN"
            ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = "20260102"
            ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = f"1000{number:02d}"
            ds.SeriesDescription = ds.ProtocolName = name
            ds.SeriesNumber, ds.AcquisitionNumber = number, 1
            ds.InstanceNumber = n_echo * values.shape[2] + k + 1
            ds.ImageType = list(kind)
            ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "GR", "SP", "3D"
            ds.EchoTime, ds.EchoNumbers, ds.RepetitionTime = 1000 * seconds, echo, 40.0
            ds.FlipAngle, ds.MagneticFieldStrength = 15.0, TESLA
            ds.ImagingFrequency = 42.577 * TESLA
            ds.SliceThickness = ds.SpacingBetweenSlices = float(size[2])
            ds.PixelSpacing = [float(size[1]), float(size[0])]
            ds.ImageOrientationPatient = [float(v) for v in (*axes[:, 0], *axes[:, 1])]
            ds.ImagePositionPatient = [float(v) for v in (to_lps @ [0, 0, k, 1])[:3]]
            ds.Rows, ds.Columns = values.shape[1], values.shape[0]
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            ds.PixelData = np.ascontiguousarray(
                values[:, :, k, n_echo].T.astype(np.uint16)
            ).tobytes()
            name_of_file = f"{number:03d}_{ds.InstanceNumber:04d}.dcm"
            ds.save_as(folder / name_of_file, enforce_file_format=True)


def write_visit(folder: Path) -> None:
    rng = np.random.default_rng(SEED)
    t2 = perivascular.make_phantom(rng, voxel_size_mm=2, diameters_mm=(1.5, 3.0)).scans["T2w"]
    values = images.array(t2)[..., None]
    values = np.clip(values + rng.normal(0, 0.01 * values.max(), values.shape), 0, None)
    original = ["ORIGINAL", "PRIMARY"]
    stored = np.round(4095 * values / values.max())
    write_series(folder, stored, t2.affine, 2, "t2_space", [*original, "M", "ND"], [(1, 0.4)])
    gre = gradient_echo.make_gre(
        rng, voxel_size_mm=4, echo_times_s=ECHOES_S, field_strength_t=TESLA, snr=100
    ).gre
    echoes = list(enumerate(ECHOES_S, 1))
    magnitude = np.round(4095 * gre.magnitude / gre.magnitude.max())
    phase = np.round((gre.phase_rad + np.pi) * 4095 / (2 * np.pi))
    for number, part, stored in ((3, "M", magnitude), (4, "P", phase)):
        kind = [*original, part, "ND"]
        write_series(folder, stored, gre.affine, number, "gre_qsm", kind, echoes)


def commands() -> str:
    """Take the commands of the page as a shell script."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    if odd := [line for line in lines if not line.startswith(("$ ", "> "))]:
        raise SystemExit(f"no command: {odd[0]}")
    return "\n".join(line[2:] for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    write_visit(out / "dicom")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        ["bash", "-e"], input=commands(), text=True, cwd=out, env={**os.environ, "PATH": path},
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
