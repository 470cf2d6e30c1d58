"""Draw the home page's figure: the way from a scan to a table, for each method, on phantoms.

``make`` measures three simulated scans with the functions that the chapters teach and leaves
pictures and a piece of HTML in a folder; ``setup`` puts that piece into the home page.  The text
is the page's own, so that it can be read at the width of a phone and in both themes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
from sphinx.application import Sphinx

from pvsbook import alps, images, pvs, qsm
from pvsbook.atlas import deep_grey
from pvsbook.figures import COLORS, show_slices
from pvsbook.figures.pvs import CLASS_COLORS
from pvsbook.phantoms.brain import make_brain
from pvsbook.phantoms.diffusion import WhiteMatter, make_diffusion
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.phantoms.perivascular import make_phantom
from pvsbook.pvs.objects import CLASSES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "_build" / "way"
PAGE = "book/intro"
MARK = "<!-- the way from scan to table -->"
SEED = 2026
HALF_FIELD_MM = (76.0, 92.0)  # of each picture, around the middle of the brain

Step = tuple[str, str, str]  # file, what it is called, alt text
Row = tuple[str, str]


def draw(path: Path, image: nib.Nifti1Image, z_mm: float, **options: object) -> None:
    """Draw one axial slice without any frame, cropped to the head."""
    figure = mpl.figure.Figure(figsize=(2.4, 2.9), dpi=125, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    shown = nib.as_closest_canonical(image)
    show_slices(image, [("axial", z_mm)], axes=[axes], **options)  # type: ignore[arg-type]
    axes.set_title("")
    axes.images[0].set_interpolation("bilinear")
    voxel = images.voxel_size_mm(shown)
    middle = np.linalg.inv(shown.affine) @ (0.0, -18.0, z_mm, 1.0)
    x, y = np.array(HALF_FIELD_MM) / voxel[:2]
    axes.set(xlim=(middle[0] + x, middle[0] - x), ylim=(middle[1] - y, middle[1] + y))
    axes.set_aspect("auto")
    figure.savefig(path)


def perivascular(folder: Path, rng: np.random.Generator) -> tuple[list[Step], list[Row]]:
    """Count perivascular spaces on a T2-weighted scan."""
    phantom = make_phantom(rng, voxel_size_mm=1.2, n_wmh=6, n_lacunes=2, snr=20.0)
    scan = phantom.scans["T2w"]
    result = pvs.measure(scan)
    objects, row = result.objects, result.to_row()
    heights = objects.loc[objects["class"] == "pvs", "z_mm"].round()
    z = float(heights[heights.between(22, 45)].mode().iloc[0])
    draw(folder / "pvs_scan.png", scan, z, limits=(0, 250))
    response = np.sqrt(images.array(result.response))
    top = float(np.quantile(response[response > 0], 0.995))
    image = images.make(response, result.response.affine)
    draw(folder / "pvs_map.png", image, z, limits=(0, top), cmap="magma")
    palette = {CLASSES[name]: color for name, color in CLASS_COLORS.items()}
    draw(
        folder / "pvs_regions.png",
        scan,
        z,
        limits=(0, 250),
        overlay=result.classes,
        colors=palette,
    )
    steps = [
        ("pvs_scan.png", "T2-weighted scan", "Axial slice of a simulated T2-weighted brain."),
        ("pvs_map.png", "Vesselness", "The same slice: bright where intensities form a tube."),
        ("pvs_regions.png", "Objects", "The scan again, with the detected PVS in colour."),
    ]
    return steps, [
        ("PVS", f"{row['n_pvs']:.0f} ± {row['n_pvs_se']:.0f}"),
        ("placed", f"{len(phantom.truth)}"),
        ("volume", f"{row['volume_mm3']:.0f} mm³"),
        ("placed", f"{phantom.truth['volume_mm3'].sum():.0f} mm³"),
    ]


def alps_index(folder: Path, rng: np.random.Generator) -> tuple[list[Step], list[Row]]:
    """Measure the ALPS index of a diffusion series."""
    brain = make_brain(2.2, z_range_mni_mm=(-4, 60))
    phantom = make_diffusion(brain, rng=rng, tissue=WhiteMatter(perivascular=0.08), snr=30)
    result = alps.measure(phantom.dwi, mask=phantom.mask)
    labels = np.asarray(result.labels.dataobj)
    centres_mm = nib.affines.apply_affine(result.labels.affine, np.argwhere(labels > 0))
    z = float(round(centres_mm[:, 2].mean()))
    weighted = images.array(phantom.dwi.image, dtype=np.float32)[..., -1]
    affine = phantom.dwi.image.affine
    draw(folder / "alps_scan.png", images.make(weighted, affine), z)
    colours = np.clip(1.3 * images.array(result.colour_fa), 0, 1)
    draw(folder / "alps_map.png", images.make(colours, affine), z)
    shades = {n: COLORS["projection" if n % 2 else "association"] for n in (1, 2, 3, 4)}
    draw(
        folder / "alps_regions.png", result.fa, z, limits=(0, 1), overlay=result.labels,
        colors=shades,
    )  # fmt: skip
    index = result.indices["tract"]["mean"]
    steps = [
        ("alps_scan.png", "Diffusion series", "Axial slice of one simulated diffusion volume."),
        ("alps_map.png", "Tensor", "The direction of diffusion in colour, in the same slice."),
        ("alps_regions.png", "Regions", "Four small regions beside the ventricles, two a side."),
    ]
    return steps, [
        ("index", f"{index.value:.2f}"),
        ("95 % interval", f"{index.low:.2f} to {index.high:.2f}"),
        ("simulated", f"{phantom.index:.2f}"),
        ("quality", result.status),
    ]


def susceptibility(folder: Path, rng: np.random.Generator) -> tuple[list[Step], list[Row]]:
    """Turn the phase of a gradient echo into the susceptibility of nuclei."""
    head = make_gre(rng, voxel_size_mm=2.0)
    gre = head.gre
    result = qsm.reconstruct(gre)
    affine, z = gre.affine, 0.0
    inside = result.mask
    phase = np.where(inside, gre.phase_rad[..., -1], -np.pi)
    chi_ppb = 1e3 * result.susceptibility.chi_ppm
    draw(folder / "qsm_scan.png", images.make(phase, affine), z, limits=(-np.pi, np.pi))
    shown = np.where(inside, chi_ppb, -100)
    draw(folder / "qsm_map.png", images.make(shown, affine), z, limits=(-100, 150))
    table = deep_grey.table()
    shades = [COLORS[k] for k in ("subcortical", "lacune", "pvs", "wmh", "association")]
    names = list(dict.fromkeys(table["region"]))
    colors = {
        int(label): shades[names.index(region) % len(shades)]
        for label, region in zip(table["label"], table["region"], strict=True)
    }
    draw(
        folder / "qsm_regions.png", images.make(shown, affine), z, limits=(-100, 150),
        overlay=images.make(head.labels, affine), colors=colors,
    )  # fmt: skip
    means = qsm.regions.measure_regions(
        chi_ppb / 1e3, head.labels, table, result.local_field.mask, gre.voxel_size_mm
    )
    by_region = means.groupby("region")["mean_ppb"].mean()
    steps = [
        ("qsm_scan.png", "Phase", "Axial slice of a simulated phase image, wrapped into stripes."),
        ("qsm_map.png", "Susceptibility", "The susceptibility of the same slice: nuclei bright."),
        ("qsm_regions.png", "Nuclei", "The same map with the deep grey nuclei in colour."),
    ]
    rows = [(name, f"{by_region[name]:.0f} ppb") for name in ("pallidum", "caudate", "thalamus")]
    return steps, [*rows, ("zero is", f"the {result.susceptibility.reference}")]


METHODS = (
    ("PVS", "perivascular spaces", perivascular),
    ("ALPS", "diffusion along them", alps_index),
    ("QSM", "magnetic susceptibility", susceptibility),
)


def html(name: str, long_name: str, steps: Sequence[Step], rows: Sequence[Row]) -> str:
    """Write one method: three pictures and a table, in their order."""
    pictures = "".join(
        f'<li><img src="../_static/way/{file}" width="300" height="362" alt="{escape(alt)}">'
        f"<span>{escape(title)}</span></li>"
        for file, title, alt in steps
    )
    cells = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
        for key, value in rows
    )
    return (
        f'<p class="way-name"><b>{name}</b> {escape(long_name)}</p>'
        f'<ol class="way-steps">{pictures}<li class="way-table"><table>'
        f'<caption class="visually-hidden">{escape(long_name)} of the simulated scan</caption>'
        f"<tbody>{cells}</tbody></table><span>Table</span></li></ol>"
    )


def fingerprint() -> str:
    """Hash what the pictures depend on: this file and the package."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (Path(__file__), *sorted((ROOT / "pvsbook").rglob("*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def make(folder: Path = FOLDER) -> str:
    """Draw the pictures, unless nothing has changed; return the figure's HTML."""
    facts, key = folder / "way.json", fingerprint()
    if facts.is_file():
        known = json.loads(facts.read_text("utf-8"))
        if known["key"] == key:
            return str(known["html"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = [
        html(name, long_name, *measure(folder, np.random.default_rng(SEED)))
        for name, long_name, measure in METHODS
    ]
    text = "".join(parts)
    facts.write_text(json.dumps({"key": key, "html": text}), "utf-8")
    return text


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the figure where the home page marks it."""
    if docname == PAGE:
        app.env.note_dependency(str(FOLDER / "way.json"))
        source[0] = source[0].replace(MARK, make())


def copy(app: Sphinx, error: Exception | None) -> None:
    """Copy the pictures into the site."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir, "_static", "way")
        shutil.copytree(
            FOLDER, target, ignore=shutil.ignore_patterns("*.json"), dirs_exist_ok=True
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps."""
    app.connect("source-read", fill)
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    make()
