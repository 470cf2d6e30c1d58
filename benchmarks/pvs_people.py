"""Perivascular spaces on people: what three contrasts of one person say of each object.

Nobody has counted these people's spaces.  But a space is bright on T2w and dark on T1w and FLAIR,
lies inside white matter or a nucleus, and is found on T2w and T1w alike; sulci and lesions are
not.  Tissue is judged on T1w by k-means, apart from the method.  Chance: the same after the other
contrast's objects are moved by 8 mm, six ways.

    python benchmarks/pvs_people.py MIRROR      # the folder that the manifest's paths start from
    python benchmarks/pvs_people.py MIRROR --masks   # whole heads: our brain beside deepbet's
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edt
import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.cluster import KMeans

from pvsbook import images, pvs
from pvsbook.pvs import anatomy
from pvsbook.pvs.pipeline import PvsResult

STEM = "N4_noneck_reduced_winsor_regtoFLAIR"
NAMES = {
    "T2w": f"T2_{STEM}_brain_N4_regtoMNI",
    "T1w": f"T1_{STEM}_brain_N4_regtoMNI",
    "FLAIR": f"FLAIR_{STEM}_brain_N4_regtoMNI",
    "lesions": f"GOLD_STANDARD_{STEM}_regtoMNI",
}
PEOPLE = ("openms_mni_p07", "openms_mni_p26")
WHOLE_HEADS = {
    "first visit": "openms_longitudinal_p01/study1_T2W.nii.gz",
    "second visit": "openms_longitudinal_p01/study2_T2W.nii.gz",
}
HEADS = (
    "t2w_whole_head/T2w.nii.gz",
    *(
        f"openms_longitudinal_p01/study{k}_{c}.nii.gz"
        for k in (1, 2)
        for c in ("T2W", "T1W", "FLAIR")
    ),
)
MARGIN = 9  # voxels of 1 mm around an object
NEAR_MM = 2.0


def white_matter(t1: np.ndarray) -> np.ndarray:
    """What lies nearer white than grey on T1w, by k-means of three classes."""
    inside, smooth = t1 > 0, ndimage.gaussian_filter(t1, 0.5)
    sample = np.random.default_rng(0).choice(smooth[inside], 20_000)[:, None]
    _, grey, white = np.sort(
        KMeans(3, n_init=4, random_state=0).fit(sample).cluster_centers_[:, 0]
    )
    return inside & (smooth > (grey + white) / 2)


def excess(values: np.ndarray, inside: np.ndarray, around: np.ndarray) -> float:
    """Median of an object against that of white matter around it, in robust SD."""
    sample = values[around]
    middle = np.median(sample)
    return float((np.median(values[inside]) - middle) / (1.4826 * np.median(abs(sample - middle))))


def found(result: PvsResult) -> np.ndarray:
    """Label of each object that is counted, elsewhere 0."""
    labels = np.asarray(result.labels.dataobj)
    kept = np.r_[False, result.objects["class"] == "pvs"]
    return np.where(kept[labels], labels, 0)


def judge(scans: dict, result: PvsResult, other: PvsResult) -> dict:
    """Shares of the objects of one contrast."""
    labels, regions = found(result), np.asarray(result.regions.dataobj)
    white = white_matter(scans["T1w"])
    deep = regions >= 3
    distance = edt.edt(found(other) == 0)
    moved = [np.roll(distance, 8 * way, axis) for axis in range(3) for way in (1, -1)]
    rows = []
    for label, place in enumerate(ndimage.find_objects(labels), 1):
        if place is None:
            continue
        box = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in place)
        inside = labels[box] == label
        away = edt.edt(~inside)
        around = (away >= 2) & (away <= 8) & white[box]
        shell = (away >= 1) & (away <= 3)
        z = {name: excess(scans[name][box], inside, around) for name in ("T2w", "T1w", "FLAIR")}
        rows.append(
            {
                "csf_like": z["T2w"] > 1.5 and z["T1w"] < -1.5 and z["FLAIR"] < 1.5,
                "white_shell": (white | deep)[box][shell].mean() >= 0.7,
                "on_both": distance[box][inside].min() <= NEAR_MM,
                "by_chance": np.mean([d[box][inside].min() <= NEAR_MM for d in moved]),
                "in_lesion": scans["lesions"][box][inside].mean() >= 0.3,
            }
        )
    table = pd.DataFrame(
        rows, columns=["csf_like", "white_shell", "on_both", "by_chance", "in_lesion"]
    )
    volumes = result.objects["volume_mm3"][result.objects["class"] == "pvs"]
    return {
        "n": len(table),
        **table.mean().to_dict(),
        "csf_like_of_white_shell": table["csf_like"][table["white_shell"]].mean(),
        "volume_mm3": volumes.sum(),
        "largest_share": volumes.max() / volumes.sum(),
        "opposite": result.segmentation.n_mirrored,
        "status": result.status,
    }


def compare_masks(mirror: Path) -> None:
    """Overlap and volume of the brain that each tool cuts out of a whole head."""
    for name in HEADS:
        image = images.load(mirror / name)
        ours, theirs = (
            np.asarray(anatomy.brain_mask(image, strip)[0].dataobj) > 0
            for strip in ("opening", "deepbet")
        )
        ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        print(
            f"{name}: {ours.sum() * ml:.0f} ml, deepbet {theirs.sum() * ml:.0f} ml, "
            f"Dice {dice:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--masks", action="store_true")
    given = parser.parse_args()
    mirror = given.mirror
    if given.masks:
        compare_masks(mirror)
        return
    rows = []
    for person in PEOPLE:
        files = {name: mirror / person / f"{stem}.nii.gz" for name, stem in NAMES.items()}
        scans = {name: images.array(images.load(path)) for name, path in files.items()}
        place = None
        for mask in (None, files["lesions"]):
            results = {}
            for name in ("T2w", "T1w"):
                results[name] = pvs.measure(
                    files[name],
                    contrast=name[:2].lower(),
                    wmh_mask=mask,
                    registration="affine" if place is None else place[name],
                )
            place = {name: result.anatomy.registration for name, result in results.items()}
            for name, other in (("T2w", "T1w"), ("T1w", "T2w")):
                key = {"person": person, "scan": name, "mask": mask is not None}
                rows.append(key | judge(scans, results[name], results[other]))
    print(pd.DataFrame(rows).round(2).to_string(index=False), flush=True)
    for name, path in WHOLE_HEADS.items():
        result = pvs.measure(mirror / path)
        row = result.to_row()
        volumes = result.objects["volume_mm3"][result.objects["class"] == "pvs"]
        print(
            f"{name}: {row['n_pvs']} spaces, {row['volume_mm3']:.0f} mm3, the largest "
            f"{volumes.max():.0f}; centrum semiovale {row['tissue_cso_left_ml']:.0f} ml on the "
            f"left; {row['status']}: {row['reasons']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
