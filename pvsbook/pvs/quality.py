"""Whether the counts of a scan can be used: the status and its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pvsbook.atlas import perivascular
from pvsbook.atlas.registration import MIN_CORRELATION
from pvsbook.pvs._contrasts import MIN_AGREEMENT, MIN_COVERED
from pvsbook.pvs.anatomy import LARGEST_BRAIN_ML, PvsAnatomy
from pvsbook.pvs.objects import is_round
from pvsbook.pvs.segmentation import Segmentation

__all__ = ["LIMITS", "judge"]

MIN_COVERAGE = 0.5  # of a region by the field of view; below it, the region is not counted

LIMITS: Mapping[str, tuple[float, float]] = {
    "registration_correlation_t1": (0.6, MIN_CORRELATION["t1"]),
    "registration_correlation_t2": (0.45, MIN_CORRELATION["t2"]),
    "registration_overlap": (0.9, 0.7),
    "turn_deg": (45.0, np.inf),
    "contrast_to_noise": (8.0, 4.0),
    "mask_ml": (LARGEST_BRAIN_ML, np.inf),
    "thickest_voxel_side_mm": (2.5, np.inf),  # at 2 mm few PVS are lost, at 3 mm half the faint
    "coverage": (0.95, -np.inf),
    "wmh_outside_brain": (0.2, np.inf),
    "wmh_in_regions": (0.25, np.inf),
    "threshold_raised": (1.25, 4.0),
    "contrast_agreement": (0.72, MIN_AGREEMENT),
    "contrast_covered": (0.95, MIN_COVERED),
    "n_round": (3.0, np.inf),
    "largest_share": (0.5, np.inf),
    "centrum_semiovale_least_ml": (30.0, -np.inf),  # of a side; 44 on the template
    "centrum_semiovale_most_ml": (90.0, np.inf),
}
"""Where a quality figure warns and where it fails; which side is worse follows from the order."""

_UNLIKE = (
    "the scan correlates with the template by {:.2f}, so the regions may lie elsewhere: look at "
    "them, check the orientation in the header, and give a brain mask"
)
REASONS: Mapping[str, str] = {
    "registration_correlation_t1": _UNLIKE,
    "registration_correlation_t2": _UNLIKE,
    "turn_deg": "the head lies {:.0f} degrees from where the header says: check the orientation, "
    "or left and right may be exchanged",
    "registration_overlap": "the registration places {:.0%} of the brain on the template: look at "
    "the regions before the counts",
    "contrast_to_noise": "fluid stands out by {:.2g} standard deviations of the noise only: "
    "counts are too low",
    "mask_ml": "the mask holds {:.0f} ml, more than a brain: scalp is inside, and the regions may "
    "reach beyond the brain; give a brain mask",
    "thickest_voxel_side_mm": "voxels are {:.2g} mm thick: thin spaces are lost, neighbours "
    "merge, and lengths and directions across the slices cannot be measured",
    "threshold_raised": "objects of the opposite contrast, texture or vessels, raise the "
    "threshold {:.1f}-fold: faint spaces are not counted",
    "wmh_outside_brain": "{:.0%} of the mask of white-matter hyperintensities lies outside the "
    "brain: it may be of another scan",
    "wmh_in_regions": "the mask of white-matter hyperintensities covers {:.0%} of the regions, "
    "and objects in it are not counted",
}
_UNLIKELY_ML = (
    "{} holds {:.0f} ml, unlike that of an adult ({:.0f} to {:.0f}): look at the regions, or give "
    "a brain mask"
)
_WHOLE_HEAD = (
    "the scan holds the whole head, and the brain was cut out of it by {}: look at the regions, {}"
    "or give a brain mask"
)
_CUT = "is cut by the field of view or the brain mask"
_NOT_COUNTED = "is outside the field of view or the brain mask, and was not counted"
_MIN_OBJECTS = 8  # of fewer, one is easily half of the volume


def cut_out(by: str) -> list[str]:
    """Say that the brain was cut out of a whole head, and what else there is."""
    other = "" if by == "deepbet" else "try strip: deepbet, "
    return [_WHOLE_HEAD.format(by, other)] if by else []


def judge(
    segmentation: Segmentation,
    anatomy: PvsAnatomy,
    wmh: NDArray[np.bool_] | None,
    notes: Sequence[str] = (),
    agreement: Mapping[str, float] | None = None,
    covered: Mapping[str, float] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Compare quality figures with `LIMITS`; give the status and its reasons, failures first.

    Parameters
    ----------
    segmentation, anatomy
        Of the scan.
    wmh
        Mask of white-matter hyperintensities on the grid of the anatomy, if there is one.
    notes
        What the header of the scan leaves open: a warning each.
    agreement
        How well other contrasts of this head agree with the scan, by their names.
    covered
        Share of the regions that they show.
    """
    n_pvs = int((segmentation.objects["class"] == "pvs").sum())
    registration = anatomy.registration
    figures = {
        f"registration_correlation_{registration.contrast}": registration.correlation,
        "registration_overlap": registration.overlap,
        "turn_deg": np.degrees(Rotation.from_matrix(registration.rotation).magnitude()),
        "contrast_to_noise": segmentation.levels.contrast_to_noise,
        "threshold_raised": segmentation.raised,
        "mask_ml": anatomy.mask_ml,
        "thickest_voxel_side_mm": anatomy.voxel_size_mm.max(),
    }
    if wmh is not None and wmh.any():
        figures["wmh_outside_brain"] = (~anatomy.brain)[wmh].mean()
        figures["wmh_in_regions"] = wmh[anatomy.regions > 0].mean()
    checks = [(key, value, REASONS[key].format(value)) for key, value in figures.items()]
    for label, name in perivascular.REGIONS.items():
        coverage = anatomy.coverage[label]
        text = _CUT if coverage >= MIN_COVERAGE else _NOT_COUNTED
        checks.append(("coverage", coverage, f"{name} {text}"))
        if name.startswith("cso") and coverage >= LIMITS["coverage"][0]:
            ml = float((anatomy.regions == label).sum() * anatomy.voxel_size_mm.prod() / 1000)
            keys = [f"centrum_semiovale_{end}_ml" for end in ("least", "most")]
            adult_ml = [LIMITS[key][0] for key in keys]
            for key in keys:
                checks.append((key, ml, _UNLIKELY_ML.format(name, ml, *adult_ml)))
    for name, value in (agreement or {}).items():
        text = (
            f"edges of {name} agree with those of the scan by {value:.2f} only: look at both"
            if value >= MIN_AGREEMENT
            else f"{name} was not used: its edges agree with those of the scan by {value:.2f}, in "
            f"the same head by {MIN_AGREEMENT} and more; give that of this head, or none"
        )
        checks.append(("contrast_agreement", value, text))
    for name, value in (covered or {}).items():
        unused = "was not used, as it " if value < MIN_COVERED else ""
        text = f"{name} {unused}shows {value:.0%} of the regions: elsewhere it says nothing"
        checks.append(("contrast_covered", value, text))
    agrees = (agreement or {}).get("flair", 0) >= MIN_AGREEMENT
    if wmh is None and not (agrees and (covered or {}).get("flair", 1) >= MIN_COVERED):
        n_round = int(is_round(segmentation.objects).sum())
        text = (
            f"{n_round} bright objects in white matter are not slender, as lesions are: some may "
            "be counted; give a FLAIR or a mask of lesions"
        )
        checks.append(("n_round", n_round, text))
    volumes = segmentation.objects["volume_mm3"][segmentation.objects["class"] == "pvs"]
    if n_pvs >= _MIN_OBJECTS:
        share = volumes.max() / max(volumes.sum(), 1e-9)
        text = f"one object is {share:.0%} of the volume: look at it; the median says more"
        checks.append(("largest_share", share, text))
    failed, warned = [], [*notes, *cut_out(anatomy.stripped_by)]
    for key, value, text in checks:
        warn, fail = LIMITS[key]
        sign = 1 if fail > warn else -1
        if not sign * value <= sign * fail:  # NaN fails
            failed.append(text)
        elif sign * value > sign * warn:
            warned.append(text)
    if not n_pvs:
        warned.append("no perivascular space was found: look at the scan before you report zero")
    status = "fail" if failed else "warn" if warned else "pass"
    return status, (*failed, *warned)
