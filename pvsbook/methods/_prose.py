"""What a paper has to say of each method: a paragraph made from options and results.

The points follow what authors are asked to report: for QSM the consensus of its study group
(Bilgic et al. 2024), for perivascular spaces STRIVE-2 (Duering et al. 2023).  A reference stands
as ``[@key]``, with its entry in ``pvsbook/templates/references.bib``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

Options = Mapping[str, Any]
STEPS = {
    "smv": "subtraction of the spherical mean, which the inversion allows for",
    "lbv": "the Laplacian boundary value method [@zhou2014]",
    "vsharp": "V-SHARP [@wu2012]",
    "resharp": "RESHARP [@sun2014]",
    "pdf": "projection onto dipole fields [@liu2011pdf]",
    "tv": "total-variation regularisation [@bilgic2014]",
    "edge tv": "total variation weighted by the edges of the magnitude [@liu2012]",
    "tkd": "a truncated k-space kernel [@shmueli2009]",
    "l2": "L2 regularisation of the gradient [@bilgic2014l2]",
    "tikhonov": "Tikhonov regularisation [@bilgic2014l2]",
    "ndi": "nonlinear dipole inversion [@polak2020]",
}


def pvs(options: Options, table: pd.DataFrame) -> str:
    """Perivascular spaces."""
    from pvsbook.pvs._contrasts import LESION_SD
    from pvsbook.pvs.objects import Rules

    rules = Rules(**options["rules"])
    scans = {"t2": "T2-weighted", "t1": "T1-weighted"}
    contrasts = _names(table, "contrast", scans)
    lesions = {
        "FLAIR": "White-matter hyperintensities were found on FLAIR (above "
        f"{LESION_SD:g} robust standard deviations of white matter) and cut out before spaces "
        "were formed.",
        "mask": "White-matter hyperintensities were cut out with a given mask before spaces were "
        "formed.",
        "none": "No lesions were masked, so lesions may be counted.",
    }
    words = " ".join(_each(table, "wmh_from", lesions))
    return (
        f"Perivascular spaces (STRIVE-2 [@duering2023]) were counted on {contrasts} scans with "
        f"voxels of {_range(table, 'voxel_mm3', 'mm3')}. Centrum semiovale, basal ganglia and "
        f"midbrain were placed by a registration to MNI152 ({options['registration']}). "
        "Tubes were found with a multi-scale vesselness filter [@frangi1998], whose threshold "
        f"lets noise make {rules.expected_false:g} false object a scan and is at least the "
        f"response to a tube of {rules.min_contrast:g} of the contrast of CSF. A space was "
        f"counted where it was at least {rules.min_length_mm:g} mm long and "
        f"{rules.min_elongation:g} times as long as wide, at most {rules.max_width_mm:g} mm wide, "
        f"and half of it at least {rules.min_depth_mm:g} mm deep in white matter or a deep "
        f"nucleus. {words} Volumes were corrected for partial volume. As a control, "
        f"{_range(table, 'n_mirrored', '')} objects of the opposite contrast a scan passed the "
        f"same rules, where {_range(table, 'n_pvs', '')} spaces did. "
    )


def alps(options: Options, table: pd.DataFrame) -> str:
    """ALPS index."""
    rois = str(options["rois"])
    where = (
        f"spheres of {rois.removesuffix('mm')} mm radius, placed from MNI152 by a registration of "
        f"the FA map ({options['registration']})"
        if rois.endswith("mm")
        else "regions drawn by hand"
    )
    steps = [
        f"denoised ({options['denoise']})" if options["denoise"] else "",
        "freed of Gibbs ringing" if options["gibbs"] else "",
        "aligned, with the b-vectors turned" if options["motion"] else "",
    ]
    done = ", ".join(step for step in steps if step) or "used as they were given"
    before = table.get("corrected_by", pd.Series(dtype=str)).replace("nothing before", pd.NA)
    if before.notna().any():
        made = _names(before.to_frame("corrected_by"), "corrected_by", {})
        others = f"; the others were {done}" if before.isna().any() else ""
        done = f"corrected before by {made}, whose b-vectors were used, and not again{others}"
    return (
        "The index of diffusivity along the perivascular space (ALPS [@taoka2017]) was measured "
        f"from series with {_range(table, 'n_directions', 'directions')} at "
        f"{_range(table, 'b_s_mm2', 's/mm2')}; the series were {done}. Tensors were fitted by "
        "weighted least squares, and their scalars are those of DIPY [@garyfallidis2014]. "
        f"Regions were {where}, one in projection and one in association fibres of each "
        "side. The index is the ratio of diffusivities in the frame of the two tracts of each "
        "head; the classic index, along the axes of the scanner, is given beside it "
        f"and changes where the head is tilted (pitch {_range(table, 'pitch_deg', 'degrees')}). "
        "Intervals of 95 % hold noise "
        f"({options['n_bootstrap']} wild bootstraps), the place of the regions and the "
        "registration. The index is a ratio of diffusivities at one site, not a measure of "
        "glymphatic flow. "
    )


def qsm(options: Options, table: pd.DataFrame) -> str:
    """Susceptibility of one scan."""
    zero = table.get("reference_value_ppb", pd.Series(dtype=float)).astype(float)
    reference = "No reference was subtracted."
    if options["reference"] != "none":
        name = str(options["reference"])
        place = "a given mask" if name.endswith((".nii", ".nii.gz")) else f"the {name}"
        reference = (
            f"Values are relative to {place}, whose mean ({zero.mean():.1f} ppb, SD "
            f"{zero.std(ddof=0):.1f} between scans) was subtracted."
        )
    return (
        "Susceptibility was mapped from gradient echoes at "
        f"{_range(table, 'field_strength_t', 'T')} with {_range(table, 'n_echoes', 'echoes')}"
        f"{_echo_times(options)}, the main field tilted by "
        f"{_range(table, 'b0_tilt_deg', 'degrees')} against the slices. Phase was unwrapped with "
        "ROMEO [@dymerska2021] and the field fitted over the echoes, weighted by the magnitude. "
        f"Background fields were removed by {STEPS[options['background']]}, and dipoles inverted "
        f"by {STEPS[options['inversion']]}. {reference} "
        f"Deep grey nuclei were placed by the {_names(table, 'placed_by', {})} from "
        f"{_ATLAS.get(options['atlas'], options['atlas'])}; the report follows the QSM consensus "
        "[@bilgic2024]. "
    )


def qsmchange(options: Options, table: pd.DataFrame) -> str:
    """Change of susceptibility."""
    return (
        "For the change of susceptibility both visits were reconstructed alike (background "
        f"fields by {STEPS[options['background']]}, inversion by {STEPS[options['inversion']]}), "
        "aligned rigidly, and measured in the same region of the head. The visits overlapped by "
        f"{_range(table, 'overlap', '(Dice)')}, and the field in the head differed by "
        f"{_range(table, 'tilt_difference_deg', 'degrees')}. Errors hold noise, placement, "
        "registration and pose. "
    )


_ATLAS = {
    "melbourne": "the Melbourne subcortex atlas [@tian2020]",
    "schematic": "schematic shapes, too coarse to compare people by",
    "auto": "schematic shapes, too coarse to compare people by",
}


def _echo_times(options: Options) -> str:
    times = options.get("echo_times_s")
    if not times or any(t is None for t in times):
        return ""
    return f" ({', '.join(f'{1000 * t:.3g}' for t in times)} ms)"


def _range(table: pd.DataFrame, column: str, unit: str) -> str:
    """One value, or the median with the range."""
    values = pd.to_numeric(table.get(column, pd.Series(dtype=float)), errors="coerce").dropna()
    unit = f" {unit}" if unit else ""
    if values.empty:
        return f"unknown{unit}"
    if values.max() - values.min() < 1e-6 * abs(values.max()):
        return f"{_number(values.iloc[0])}{unit}"
    middle, least, most = map(_number, (values.median(), values.min(), values.max()))
    return f"{middle} ({least} to {most}){unit}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _each(table: pd.DataFrame, column: str, words: Mapping[str, str]) -> list[str]:
    """Words for the values of a column, with their number where they differ."""
    values = table[column].dropna().astype(str) if column in table else pd.Series(dtype=str)
    counts = values[values != ""].value_counts()
    known = [(words.get(str(name), str(name)), n) for name, n in counts.items()]
    if len(known) == 1:
        return [known[0][0]]
    return [f"{text} ({n} {'scan' if n == 1 else 'scans'})" for text, n in known]


def _names(table: pd.DataFrame, column: str, words: Mapping[str, str]) -> str:
    return " and ".join(_each(table, column, words)) or "unknown"
