"""Folded phantoms beside two people: how near surface fluid and cortex come to white matter.

Tissues of the people are told apart on T1w by k-means of three classes, those of the phantoms by
their fractions.  White matter is that above z = -5 mm in MNI space, the centrum semiovale the
atlas's.  ``--picture`` puts slices of the T2w scans side by side.

    python benchmarks/pvs_heads.py MIRROR [--seeds 1 2 3] [--picture heads.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cc3d
import edt
import numpy as np
import pandas as pd
from nibabel.processing import resample_from_to
from scipy import ndimage
from sklearn.cluster import KMeans

from pvsbook import images
from pvsbook.atlas import deep_grey, perivascular, templates
from pvsbook.phantoms.perivascular import make_phantom

STEM = "N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI"
PEOPLE = ("openms_mni_p07", "openms_mni_p26")
NUCLEI = ("caudate", "putamen", "pallidum", "thalamus")


def near(white: np.ndarray, regions: np.ndarray, fluid: np.ndarray, cortex: np.ndarray) -> dict:
    """Distances in mm, voxels of 1 mm."""
    from_fluid, from_cortex = edt.edt(~fluid), edt.edt(~cortex)
    centrum = white & (regions >= 1) & (regions <= 2)
    levels = (0.01, 0.05, 0.25, 0.5, 0.75)
    quantiles = np.quantile(from_fluid[centrum], levels)
    return {
        **{f"fluid_{100 * q:.0f}%": mm for q, mm in zip(levels, quantiles, strict=True)},
        "white_3mm_of_cortex": (from_cortex[white] <= 3).mean(),
        "white_5mm_of_fluid": (from_fluid[white] <= 5).mean(),
    }


def phantom_head(seed: int, folded: bool) -> tuple[dict, np.ndarray, np.ndarray]:
    options = {"counts": {}, "snr": 50, "folded": folded, "contrasts": ("T2w", "T1w")}
    made = make_phantom(np.random.default_rng(seed), **options)
    brain = made.brain
    mni = brain.mni_coordinates()
    atlas = perivascular.regions()
    index = np.moveaxis(mni - atlas.affine[:3, 3].astype(np.float32), -1, 0)
    regions = ndimage.map_coordinates(np.asarray(atlas.dataobj), index, order=0)
    fluid = (brain.csf - brain.ventricles > 0.5) | (brain.brain < 0.5)
    nuclei = sum(brain.nuclei.values()) if folded else 0
    white = (brain.wm > 0.5) & (mni[..., 2] > -5)
    row = near(white, regions, fluid, brain.gm - nuclei > 0.5)
    for contrast, scan in made.scans.items():
        for name, share in brain.nuclei.items():
            row[f"{name}_{contrast}"] = np.median(images.array(scan)[share > 0.9]) / 100
    return row, images.array(made.scans["T2w"]) / 100, brain.affine


def person_head(folder: Path) -> tuple[dict, np.ndarray, np.ndarray]:
    t2 = images.load(folder / f"T2_{STEM}.nii.gz")
    scans = {
        "T2w": images.array(t2),
        "T1w": images.array(images.load(folder / f"T1_{STEM}.nii.gz")),
    }

    def onto(image, order=0):
        return np.asarray(resample_from_to(image, t2, order=order).dataobj)

    regions, deep = onto(perivascular.regions()), onto(deep_grey.region()) > 0
    chambers, names = onto(templates.mni("ventricles"), 1) > 0.1, onto(deep_grey.labels())
    t1, inside = scans["T1w"], scans["T1w"] > 0
    smooth = ndimage.gaussian_filter(t1, 0.4)
    sample = np.random.default_rng(0).choice(smooth[inside], 20_000)[:, None]
    centres = np.sort(KMeans(3, n_init=4, random_state=0).fit(sample).cluster_centers_[:, 0])
    tissue = np.digitize(t1, (centres[1:] + centres[:-1]) / 2)
    ventricles = ndimage.binary_dilation(chambers, iterations=3)
    fluid = inside & (tissue == 0) & ~ventricles & ~deep
    fluid = (cc3d.dust(fluid, 100) > 0) | ~ndimage.binary_fill_holes(inside)
    cortex = cc3d.dust(inside & (tissue == 1) & ~deep & ~ventricles, 200) > 0
    heights = np.arange(t2.shape[2]) + t2.affine[2, 3]
    white = inside & (tissue == 2) & ~deep & (heights > -5)
    row = near(white, regions, fluid, cortex)
    levels = {k: np.median(v[white & (regions > 0)]) for k, v in scans.items()}
    table = deep_grey.table().set_index("label")["region"]
    for contrast, values in scans.items():
        for name in NUCLEI:
            part = np.isin(names, table.index[table == name])
            row[f"{name}_{contrast}"] = np.median(values[part]) / levels[contrast]
    return row, scans["T2w"] / levels["T2w"], t2.affine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    heads = {name: person_head(options.mirror / name) for name in PEOPLE}
    heads |= {f"folded {seed}": phantom_head(seed, True) for seed in options.seeds}
    heads["average"] = phantom_head(0, False)
    table = pd.DataFrame({name: row for name, (row, _, _) in heads.items()})
    print(table.round(2).to_string())
    if options.picture:
        import matplotlib.pyplot as plt

        heights_mm = (40, 28, 4)
        figure, axes = plt.subplots(3, len(heads), figsize=(4 * len(heads), 14))
        for column, (name, (_, values, affine)) in zip(axes.T, heads.items(), strict=True):
            column[0].set_title(name)
            for axis, height in zip(column, heights_mm, strict=True):
                level = values[:, :, round(height - affine[2, 3])]
                axis.imshow(np.rot90(level), cmap="gray", vmin=0, vmax=2.6)
                axis.axis("off")
        figure.savefig(options.picture, dpi=50, bbox_inches="tight")


if __name__ == "__main__":
    main()
