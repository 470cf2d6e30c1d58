"""What the table of an ALPS result holds, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pvsbook.alps.regions import NAMES, RoiMeasure
from pvsbook.method import describe_columns

SIDES = ("left", "right", "mean")
ESTIMATORS = {
    "classic": "along the axes of the voxels",
    "reoriented": "along the axes of the head",
    "tract": "in the frame of the two tracts",
}


def figures_of(roi: RoiMeasure) -> dict[str, Any]:
    """Give the figures of a region by the names of their columns, and more."""
    return {
        **vars(roi),
        "inside": roi.voxels.inside,
        "white": roi.voxels.white,
        "fluid_fraction": roi.fluid_fraction,
        **{f"l{k}_mm2_s": value for k, value in enumerate(roi.eigenvalues_mm2_s, 1)},
        **{f"d{a}{a}_mm2_s": value for a, value in zip("xyz", np.diag(roi.d_mm2_s), strict=True)},
    }


_OF_ROI = (
    ("n_voxels", "voxels of white matter in the region, by the fraction of each inside"),
    ("inside", "fraction of the region inside mask and field of view"),
    ("white", "fraction of that which is white matter, measured; no limit: see n_voxels"),
    ("fa", "fractional anisotropy of the mean tensor"),
    ("md_mm2_s", "mean diffusivity", "mm2/s"),
    ("l1_mm2_s", "largest eigenvalue of the mean tensor", "mm2/s"),
    ("l2_mm2_s", "middle eigenvalue of the mean tensor", "mm2/s"),
    ("l3_mm2_s", "smallest eigenvalue of the mean tensor", "mm2/s"),
    ("mode", "mode of anisotropy of the mean tensor, -1 disc to 1 stick"),
    ("dxx_mm2_s", "diffusivity along x (left-right) of the head", "mm2/s"),
    ("dyy_mm2_s", "diffusivity along y (back-front) of the head", "mm2/s"),
    ("dzz_mm2_s", "diffusivity along z (feet-head) of the head", "mm2/s"),
    ("angle_deg", "angle of the principal direction to the expected axis", "deg"),
    (
        "dispersion_deg",
        "root mean square angle of the voxels' directions; no limit: see fa and mode",
        "deg",
    ),
    ("fluid_fraction", "fraction with mean diffusivity above 1.1e-3 mm2/s"),
    ("fluid_distance_mm", "distance to the nearest fluid; no limit: see fluid_fraction", "mm"),
    (
        "displacement_mm",
        "how far the search moved the region; no limit: at most what was asked for",
        "mm",
    ),
)
_OF_INDEX = (
    ("", "ALPS index {words}, {side}"),
    ("_low", "alps_{frame}_{side}: lower end of the 95 % interval"),
    ("_high", "alps_{frame}_{side}: upper end of the 95 % interval"),
)
SHARES = (
    ("noise_sd", "SD by the noise of the scan"),
    ("placement_sd", "SD by the place of each region, and by its radius"),
    ("registration_sd", "SD by a shift of all regions, as of a registration"),
)
COLUMNS: Mapping[str, Mapping[str, str]] = describe_columns(
    *(
        (f"alps_{frame}_{side}{end}", text.format(frame=frame, side=side, words=words))
        for frame, words in ESTIMATORS.items()
        for side in SIDES
        for end, text in _OF_INDEX
    ),
    *(
        (f"alps_tract_{side}_{share}", f"alps_tract_{side}: {words}; no limit: in the interval")
        for side in SIDES
        for share, words in SHARES
    ),
    ("status", "pass, warn or fail"),
    ("reasons", "why the status is not pass, the worst first"),
    ("notes", "what to know of the classic and the reoriented index, or none"),
    *((f"{name}_{key}", *words) for name in NAMES for key, *words in _OF_ROI),
    ("alps_tract_nlls", "tract index, mean, by nonlinear least squares"),
    ("alps_tract_restore", "tract index, mean, by RESTORE"),
    ("alps_tract_free_water", "tract index, mean, with free water removed (two shells)"),
    ("alps_tract_radius_2_5_mm", "tract index, mean, with spheres of 2.5 mm"),
    ("left_tract_angle_deg", "angle between the tracts, left", "deg"),
    ("right_tract_angle_deg", "angle between the tracts, right", "deg"),
    ("pitch_deg", "rotation of the head about x", "deg"),
    ("roll_deg", "rotation of the head about y", "deg"),
    ("yaw_deg", "rotation of the head about z", "deg"),
    ("registration_correlation", "FA with the template inside both brains, Pearson's"),
    ("registration_overlap", "fraction of the scan's brain on the template's"),
    (
        "registration_coverage",
        "fraction of the template's brain in the scan; no limit: a slab will do, see inside",
    ),
    ("registration_model", "transform that was found: rigid, scaling or affine"),
    ("bvecs_best", "change of the rows of the file under which fibres line up best"),
    ("bvecs_certainty", "probability that it beats its rival; no limit: see bvecs_z"),
    ("bvecs_z", "the same as a z-score"),
    ("bvecs_turn_deg", "rotation of all b-vectors by which fibres line up best", "deg"),
    ("bvecs_turn_z", "how sure that is, as a z-score"),
    ("bvecs_row_deg", "largest angle between a row and the direction its volume fits", "deg"),
    ("bvecs_row_b", "largest factor between a b-value and that which its volume fits"),
    ("b_s_mm2", "b-value that was used", "s/mm2"),
    ("n_directions", "volumes at that b-value that were used"),
    ("n_b0", "volumes without diffusion weighting that were used; no limit: one will do"),
    ("shells", "what the series holds"),
    ("corrected_by", "pipeline that corrected the series before; no limit: a name"),
    ("left_out", "numbers (from 0) of volumes left out: lost signal, or a map; or none"),
)
"""What each column of `AlpsResult.to_row` is, as BIDS writes it."""
