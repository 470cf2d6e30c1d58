"""Write a BIDS folder of ten people, real and simulated, with faults, and masks in a derivative.

    python benchmarks/bids_folder.py MIRROR OUT

MIRROR holds the public files of `data_manifest/`, and OUT gets `bids/` and `masks/`.  Person 10
is named in participants.tsv and has no scan; the simulated ones are 07, 08 and 09.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from pvsbook import images
from pvsbook_book.dataset import write_dataset

SEED = 18
MS = "{}_N4_noneck_reduced_winsor_regtoFLAIR{}_regtoMNI.nii.gz"
PEOPLE = [  # participant_id, age, sex, group, what it is; ages of 03 to 06 are made up
    ("sub-01", 40, "F", "patient", "real: multiple sclerosis, 1 mm, stripped, with masks"),
    ("sub-02", 20, "F", "patient", "real: multiple sclerosis, two visits, slices of 3 to 4 mm"),
    ("sub-03", 51, "M", "control", "real: whole head, T2w"),
    ("sub-04", 35, "M", "control", "real: diffusion slab; a FLAIR that is named T2w"),
    ("sub-05", 44, "F", "control", "real: diffusion, without b-vectors"),
    ("sub-06", 29, "M", "control", "real: gradient echo, a crop, with a brain mask"),
    ("sub-07", 63, "F", "patient", "simulated: all scans, with masks"),
    ("sub-08", 58, "M", "patient", "simulated: echo times in ms, slices of 6 mm"),
    ("sub-09", 71, "F", "control", "simulated: a truncated file, an overflow, stripped and cut"),
    ("sub-10", 47, "M", "control", "nobody: a row without a scan"),
]


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def write_json(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_tables(bids: Path, masks: Path) -> None:
    write_json(
        {"Name": "Ten people", "BIDSVersion": "1.10.0", "DatasetType": "raw"},
        bids / "dataset_description.json",
    )
    write_json(
        {
            "Name": "Masks of ten people",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bids_folder"}],
        },
        masks / "dataset_description.json",
    )
    columns = ["participant_id", "age", "sex", "group", "what"]
    pd.DataFrame(PEOPLE, columns=columns).to_csv(bids / "participants.tsv", sep="\t", index=False)
    write_json(
        {
            "age": {"Description": "age", "Units": "year"},
            "sex": {"Description": "sex", "Levels": {"F": "female", "M": "male"}},
            "group": {"Description": "group", "Levels": {"patient": "MS", "control": "none"}},
            "what": {"Description": "origin of the scans, and what is wrong with them"},
        },
        bids / "participants.json",
    )


def write_mask(inside: np.ndarray, like: nib.Nifti1Image, path: Path) -> None:
    images.save(images.make(inside, like.affine), path)


def write_real(mirror: Path, bids: Path, masks: Path) -> None:
    """Copy the public files under BIDS names, and take brain masks of what is stripped."""
    anat = bids / "sub-01" / "anat"
    for contrast, suffix in (("T2", "T2w"), ("T1", "T1w"), ("FLAIR", "FLAIR")):
        source = mirror / "openms_mni_p07" / MS.format(contrast, "_brain_N4")
        scan = copy(source, anat / f"sub-01_{suffix}.nii.gz")
    image = images.load(scan)
    write_mask(images.array(image) > 0, image, masks / "sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    gold = mirror / "openms_mni_p07" / MS.format("GOLD_STANDARD", "")
    copy(gold, masks / "sub-01/anat/sub-01_label-lesion_mask.nii.gz")

    for study, days in ((1, 0), (2, 203)):
        stem = f"sub-02_ses-{study}"
        anat = bids / "sub-02" / f"ses-{study}" / "anat"
        for contrast, suffix in (("T2W", "T2w"), ("T1W", "T1w"), ("FLAIR", "FLAIR")):
            source = mirror / "openms_longitudinal_p01" / f"study{study}_{contrast}.nii.gz"
            copy(source, anat / f"{stem}_{suffix}.nii.gz")
        source = mirror / "openms_longitudinal_p01" / "brainmask.nii.gz"  # on another grid
        copy(source, masks / f"sub-02/ses-{study}/anat/{stem}_desc-brain_mask.nii.gz")
        day = pd.Timestamp("2010-01-01") + pd.Timedelta(days=days)
        table = bids / "sub-02" / "sub-02_sessions.tsv"
        line = f"ses-{study}\t{day.isoformat()}\n"
        head = "" if table.exists() else "session_id\tacq_time\n"
        table.write_text((table.read_text() if table.exists() else head) + line)

    copy(mirror / "t2w_whole_head" / "T2w.nii.gz", bids / "sub-03/anat/sub-03_T2w.nii.gz")

    for person, source, left_out in (
        ("sub-04", "dwi_philips_slab/701_DTI_Biobank_2mm_MB3S2_EPI", ()),
        ("sub-05", "dwi_prisma_ap/4_DWI_SagAPmosaic", ("bvec",)),
    ):
        for end in {"nii.gz", "json", "bval", "bvec"} - {*left_out}:
            copy(mirror / f"{source}.{end}", bids / person / "dwi" / f"{person}_dwi.{end}")
    flair = mirror / "openms_mni_p26" / MS.format("FLAIR", "_brain_N4")
    scan = copy(flair, bids / "sub-04/anat/sub-04_T2w.nii.gz")
    meta = {"SeriesDescription": "3D dark fluid", "InversionTime": 1.8, "EchoTime": 0.39}
    write_json(meta, scan.with_name("sub-04_T2w.json"))  # as dcm2niix leaves it; made up

    stem = "sub-06"
    for part, name in (("mag", "Mag"), ("phase", "Phase")):
        crop = nib.load(mirror / "gre_small_romeo" / f"{name}.nii")
        stored = np.asarray(crop.dataobj.get_unscaled())  # its scl_slope is wrong
        for k in range(3):
            one = images.make(np.ascontiguousarray(stored[..., k]), crop.affine)
            path = bids / stem / "anat" / f"{stem}_echo-{k + 1}_part-{part}_MEGRE.nii.gz"
            images.save(one, path)
            meta = {"EchoTime": 0.004 * (k + 1), "MagneticFieldStrength": 7}
            write_json(meta, path.with_name(path.name.replace(".nii.gz", ".json")))
        if part == "mag":
            inside = stored[..., 0] > 0.1 * np.percentile(stored[..., 0], 99)
            write_mask(inside, one, masks / stem / "anat" / f"{stem}_desc-brain_mask.nii.gz")


def write_simulated(bids: Path, masks: Path) -> None:
    """Write three people of the book's phantoms, and put faults in two of them."""
    rng = np.random.default_rng(SEED)
    write_dataset(bids, ["07", "08", "09"], rng=rng)
    for person in ("07", "08", "09"):  # else those of real people would inherit these
        for end in ("bval", "bvec"):
            copy(bids / f"dwi.{end}", bids / f"sub-{person}/dwi/sub-{person}_dwi.{end}")
        image = images.load(bids / f"sub-{person}/anat/sub-{person}_T2w.nii.gz")
        values = images.array(image)
        brain = values > 0.15 * np.percentile(values, 99)
        where = masks / f"sub-{person}/anat"
        write_mask(brain, image, where / f"sub-{person}_space-T2w_desc-brain_mask.nii.gz")
    for end in ("bval", "bvec"):
        (bids / f"dwi.{end}").unlink()

    anat = bids / "sub-08" / "anat"
    for part in ("mag", "phase"):
        for k, ms in enumerate((6, 12, 18), 1):  # BIDS asks for seconds
            path = anat / f"sub-08_echo-{k}_part-{part}_MEGRE.json"
            write_json({"EchoTime": ms}, path)
    scan = anat / "sub-08_T2w.nii.gz"
    image = images.load(scan)
    step = round(6 / images.voxel_size_mm(image)[2])
    values = images.array(image)
    n = values.shape[2] // step
    thick = values[:, :, : n * step].reshape(*values.shape[:2], n, step).mean(3)
    affine = image.affine @ np.diag([1, 1, step, 1])
    affine[:3, 3] = image.affine[:3, 3] + image.affine[:3, 2] * (step - 1) / 2
    images.save(images.make(thick, affine), scan)

    anat = bids / "sub-09" / "anat"
    cut = anat / "sub-09_echo-2_part-phase_MEGRE.nii.gz"
    cut.write_bytes(cut.read_bytes()[:2000])
    scan = anat / "sub-09_T2w.nii.gz"
    image = images.load(scan)
    values = images.array(image)
    scale = 40_000 / values.max()  # above 32 767, stored in 16 bits: it wraps around
    wrapped = np.round(values * scale).astype(np.int64).astype(np.int16)
    images.save(images.make(wrapped, image.affine), scan)
    dwi = bids / "sub-09" / "dwi" / "sub-09_dwi.nii.gz"
    series = images.load(dwi, ndim=4)
    images.save(images.make(images.array(series)[..., :9], series.affine), dwi)  # b-values of 13


def write_folder(mirror: Path, out: Path) -> tuple[Path, Path]:
    bids, masks = out / "bids", out / "masks"
    write_simulated(bids, masks)
    write_real(mirror, bids, masks)
    write_tables(bids, masks)
    return bids, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mirror", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    for folder in write_folder(options.mirror, options.out):
        print(folder, len(list(folder.rglob("*.nii.gz"))), "images")


if __name__ == "__main__":
    main()
