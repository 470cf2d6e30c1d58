"""What a method would refuse, or warn of, by its files alone; nothing is fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.visit import NIFTI, Found


def pvs(found: Found) -> list[str]:
    """Load a scan and what lies beside it as `pvsbook.pvs.pipeline` does."""
    from pvsbook.pvs import anatomy, quality

    image = images.load(found.inputs["image"][0])
    anatomy.above_zero(image)
    notes = [*images.header_notes(image)]
    for name, path in beside(found):
        if name.endswith("mask"):
            images.load_mask(path, image)
            continue
        try:
            images.load(path)
        except InputError as error:  # it is done without
            notes.append(str(error).replace(str(path), path.name))
    if "brain_mask" not in found.parameters and anatomy.brain_mask(image)[1]:
        notes += quality.cut_out("opening")
    thickest = float(images.voxel_size_mm(image).max())
    if thickest > quality.LIMITS["thickest_voxel_side_mm"][0]:
        notes.append(quality.REASONS["thickest_voxel_side_mm"].format(thickest))
    return notes


def alps(found: Found) -> list[str]:
    """Read the header and the gradients of a series, and choose its shell."""
    from pvsbook.alps import pipeline, quality, series

    (dwi,), (bval,), (bvec,) = (found.inputs[name] for name in ("dwi", "bval", "bvec"))
    loaded = images.load_dwi(dwi, bval, bvec, check_values=False)
    pipeline.check_size(loaded)
    weighted = loaded.bvals_s_mm2[series.one_shell(loaded.bvals_s_mm2)]
    weighted = weighted[weighted >= images.B0_BELOW_S_MM2]
    notes = [*images.header_notes(loaded.image)]
    limit, _, words = quality.LIMITS["b_s_mm2"]
    if np.median(weighted) >= limit:
        notes.append(f"{words} {np.median(weighted):.0f} (limit {limit:g})")
    if weighted.size < quality.STEADY_DIRECTIONS:
        notes.append(quality.few_directions(weighted.size))
    return notes


def qsm(found: Found) -> list[str]:
    """Load a gradient echo, and compare its magnitude with its phase and the mask."""
    from pvsbook.qsm import quality

    names = ("echo_times_s", "field_strength_t", "real_imaginary")
    options = {name: found.parameters[name] for name in names}
    gre = images.load_gre(found.inputs["magnitude"], found.inputs["phase"], **options)
    grid = images.make(gre.magnitude[..., 0], gre.affine)
    masks = {name: images.load_mask(path, grid) for name, path in beside(found) if name != "t1w"}
    flags = quality.check_magnitude(gre) or quality.check_pair(gre)
    if "brain_mask" in masks:
        inside = quality.check_mask(masks["brain_mask"], gre)
        flags = quality.check_echoes(gre, inside, flags) + quality.check_extent(inside, gre)
    few = {1: "one echo", 2: "two echoes"}.get(gre.echo_times_s.size)
    flags += (quality.flag(few),) if few else ()
    return [*gre.notes, *(flag.message for flag in flags)]


def beside(found: Found) -> list[tuple[str, Path]]:
    """List the images that options name: FLAIR, T1w, masks."""
    values = found.parameters.items()
    return [(n, Path(v)) for n, v in values if isinstance(v, str) and v.endswith(NIFTI)]
