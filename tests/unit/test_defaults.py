"""The value that a user gets who sets nothing: pinned once, so that none changes unnoticed.

A changed default changes everybody's numbers.  Change it here too, and say in CHANGELOG.md on
what it was chosen.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name

import pytest

from pvsbook import InputError, alps, images
from pvsbook.alps import regions, uncertainty
from pvsbook.atlas import registration
from pvsbook.bids import _compare, _protocols
from pvsbook.images._files import FREQUENCY_TOLERANCE
from pvsbook.methods import by_name
from pvsbook.qsm import _echoes, _placement, _steps, change

DEFAULTS = {
    "pvs.pipeline.measure": {"contrast": "t2", "registration": "affine", "strip": "opening"},
    "pvs.objects.Rules": {
        "expected_false": 1.0,
        "min_contrast": 0.11,
        "low_to_high": 0.4,
        "min_length_mm": 2.5,
        "min_elongation": 1.6,
        "max_width_mm": 3.0,
        "blob_mm": 3.6,
        "fluid_like": 0.6,
        "space_contrast": 1.0,
        "min_depth_mm": 2.2,
    },
    "pvs.vesselness.vesselness_filter": {
        "voxel_size_mm": (1.0, 1.0, 1.0),
        "scales_mm": (0.4, 0.6, 0.9, 1.3),
        "polarity": "bright",
        "method": "frangi",
        "alpha": 0.5,
        "beta": 0.5,
    },
    "alps.pipeline.measure": {
        "rois": alps.SPHERES_5_MM,
        "search_mm": 0.0,
        "registration": "affine",
        "n_bootstrap": 1000,
    },
    "alps.pipeline.AlpsResult.remeasure": {"search_mm": 0.0, "n_bootstrap": 1000},
    "qsm.pipeline.reconstruct": {
        "reference": "whole brain",
        "background": "lbv",
        "inversion": "tv",
        "background_options": {},
        "inversion_options": {},
        "harmonic_degree": 6,
        "phase_sign": 1,
    },
    "qsm.harmonic.remove_harmonic": {"b0_direction": (0, 0, 1), "degree": 6},
    "qsm.background.lbv": {"tolerance": 1e-4, "max_sweeps": 400},
    "qsm.background.smv": {"radius_mm": 5.0},
    "qsm.background.vsharp": {"radii_mm": (8.0, 6.0, 4.0, 2.0, 1.0), "threshold": 0.05},
    "qsm.background.resharp": {
        "radius_mm": 6.0,
        "regularisation": 1e-4,
        "tolerance": 1e-3,
        "max_iterations": 100,
    },
    "qsm.background.pdf": {
        "b0_direction": (0, 0, 1),
        "tolerance": 0.01,
        "max_iterations": 60,
        "pad_mm": 24.0,
    },
    "qsm.inversion.tv": {
        "b0_direction": (0, 0, 1),
        "ball_mm": 0.0,
        "regularisation": 2e-4,
        "max_iterations": 60,
        "passes": 1,
        "pad_mm": 16.0,
    },
    "qsm.inversion.tkd": {"b0_direction": (0, 0, 1), "threshold": 0.15, "pad_mm": 16.0},
    "qsm.inversion.closed_form_l2": {
        "b0_direction": (0, 0, 1),
        "regularisation": 0.12,
        "pad_mm": 16.0,
    },
    "qsm.inversion.tikhonov": {
        "b0_direction": (0, 0, 1),
        "regularisation": 0.05,
        "tolerance": 0.01,
        "max_iterations": 50,
        "pad_mm": 16.0,
    },
    "qsm.inversion.ndi": {
        "b0_direction": (0, 0, 1),
        "regularisation": 0.001,
        "tolerance": 0.002,
        "max_iterations": 200,
        "pad_mm": 16.0,
    },
    "qsm.change.measure_visits": {
        "settings": change.SETTINGS,
        "erode": 1,
        "n_repeats": 2,
        "first_session": "first",
    },
    "qsm.change.measure_change": {"erode": 1, "n_repeats": 2},
    "qsm.regions.measure_regions": {"erode": 1},
    "qsm.mask.mask_from_gre": {
        "magnitude_fraction": 0.2,
        "quality": 0.5,
        "neck_mm": 3.0,
        "rim_mm": 2.0,
    },
    "qsm.reference.find_csf": {
        "r2s_below_hz": 5.0,
        "within_mm": 30.0,
        "depth_mm": 10.0,
        "n_pieces": 3,
    },
}
OPTIONS = {
    "pvs": {"contrast": "t2", "registration": "affine", "strip": "opening", "rules": {}},
    "alps": {
        "rois": "5mm",
        "search_mm": 0.0,
        "registration": "affine",
        "b0_threshold": 50.0,
        "denoise": None,
        "gibbs": False,
        "motion": False,
        "n_bootstrap": 1000,
    },
    "qsm": {
        "echo_times_s": None,
        "field_strength_t": None,
        "phase_period": None,
        "real_imaginary": False,
        "phase_sign": 1,
        "background": "lbv",
        "background_options": {},
        "inversion": "tv",
        "inversion_options": {},
        "harmonic_degree": 6,
        "reference": "whole brain",
        "atlas": "auto",
    },
    "qsmchange": {
        "echo_times_s": None,
        "field_strength_t": None,
        "phase_period": None,
        "real_imaginary": False,
        "phase_sign": 1,
        "background": "smv",
        "inversion": "tv",
        "regularisation": 1e-4,
        "atlas": "auto",
    },
}
LIMITS = {
    "pvs.quality.MIN_COVERAGE": 0.5,
    "pvs.quality.LIMITS": {
        "registration_correlation_t1": (0.6, 0.55),
        "registration_correlation_t2": (0.45, 0.35),
        "registration_overlap": (0.9, 0.7),
        "contrast_to_noise": (8.0, 4.0),
        "mask_ml": (2200.0, float("inf")),
        "thickest_voxel_side_mm": (2.5, float("inf")),
        "coverage": (0.95, float("-inf")),
        "wmh_outside_brain": (0.2, float("inf")),
        "wmh_in_regions": (0.25, float("inf")),
        "turn_deg": (45.0, float("inf")),
        "threshold_raised": (1.25, 4.0),
        "contrast_agreement": (0.72, 0.6),
        "contrast_covered": (0.95, 0.5),
        "n_round": (3.0, float("inf")),
        "largest_share": (0.5, math.inf),
        "centrum_semiovale_least_ml": (30.0, -math.inf),
        "centrum_semiovale_most_ml": (90.0, math.inf),
    },
    "pvs._contrasts.MIN_AGREEMENT": 0.6,
    "pvs._contrasts.MIN_COVERED": 0.5,
    "pvs._contrasts.RESAMPLED_GAIN": 0.02,
    "pvs._contrasts.CLEAR_SHARE": 0.3,
    "pvs._contrasts.EDGE_MM": 1.2,
    "pvs._contrasts.BACKGROUND_MM": 15.0,
    "pvs._contrasts.NORMAL_SD": 2.5,
    "pvs._contrasts.LESION_SD": 3.0,
    "pvs._contrasts.CONFIRM_SD": 1.0,
    "pvs._contrasts.LESION_MM3": 5.0,
    "pvs._contrasts.LESION_DEPTH_MM": 2.2,
    "pvs._contrasts.AROUND_MM": (2.0, 8.0),
    "pvs._contrasts.CSF_SD": 1.5,
    "pvs._contrasts.GREY_SHARE": 0.15,
    "pvs.objects.ROUND_MM3": 15.0,
    "alps.quality.LIMITS": {
        "bvec_z": (2.0, 3.0),
        "bvec_turn_deg": (10.0, float("inf")),
        "bvec_row_deg": (22.0, 35.0),
        "bvec_row_b": (1.25, 1.6),
        "registration_correlation": (0.42, 0.35),
        "registration_overlap": (0.9, 0.8),
        "left_minus_right": (0.3, 0.6),
        "head_tilt_deg": (10.0, float("inf")),
        "inside": (0.9, 0.5),
        "n_voxels": (3.0, 1.5),
        "fa": (0.25, 0.15),
        "b_s_mm2": (1550.0, float("inf")),
        "angle_deg": (30.0, 45.0),
        "fluid_fraction": (0.2, 0.5),
        "mode": (0.3, float("-inf")),
        "tract_angle_deg": (50.0, 40.0),
    },
    "alps.quality.NOTED": ("head_tilt_deg",),
    "alps.quality.TURN_Z": 2.5,
    "alps.quality.TURN_GAIN": 0.1,
    "alps.quality.MIDLINE_MM": 5.0,
    "alps.quality.ORDER_MM": 3.0,
    "alps.quality.ROBUST_DIFFERENCE": 0.08,
    "alps.preprocess.SMOOTHNESS_MM": 60.0,
    "alps.preprocess.UNLIKE_LEFT": 0.7,
    "alps.preprocess.GRID_MM": "24,12,6",
    "alps.series.MAX_B_S_MM2": 3000.0,
    "alps.series.FEW": 3,
    "alps.series.SAME_B0": 0.85,
    "alps.series.LOST_SIGNAL": 0.6,
    "alps.series.MOST_LOST": 1 / 3,
    "alps.series.MOST_LOW": 0.05,
    "bids.group.OUTLYING": 3.5,  # Iglewicz and Hoaglin 1993
    "qsm.change.MIN_OVERLAP": 0.9,
    "qsm.change.MAX_TILT_DEG": 12.0,
    "qsm._change_error.REGISTRATION_MM": 0.1,
    "qsm._change_error.POSE_PPB": 0.8,
    "qsm._change_error.POSE_PPB_PER_DEG": 0.13,
    "qsm._change_error.MIN_KNOWN": 0.99,
    "qsm._slopes.MIN_VISITS": 3,
    "qsm._visits.SAME_PHASE_RAD": 0.005,
    "qsm.quality.PAIR_GAIN": 0.02,
    "qsm.quality.PAIR_FIT": 0.2,
    "qsm.quality.PAIR_NOISE_RAD": 0.003,
    "qsm.quality.PAIR_MM": 2.0,
    "qsm.quality.PAIR_REACH_MM": 20.0,
    "images._phase.FULL": 0.98,
    "images._phase.FILLED": 0.9,
    "images._phase.JUMP": 0.8,
    "images._phase.JUMPS_SHARE": 0.002,
    "images._phase.WRAPS_SHARE": 0.7,
    "images._phase.NO_WRAP_SHARE": 1e-4,
    "images._phase.DECAY": 0.97,
    "qsm.quality.MIN_MASK_CM3": 1.0,
    "qsm.quality.BRAIN_CM3": 400.0,
    "qsm.quality.BORDER_SHARE": 0.2,
    "qsm.quality.RESIDUAL_RAD": 0.1,
    "qsm.pipeline.MAX_RESIDUAL_RAD": 0.2,
    "qsm.pipeline.MAX_DROPPED_SHARE": 0.2,
    "qsm._steps.RIM_MM": 2.0,
    "qsm.inversion.PASS_CHANGE": 0.1,
    "qsm.quality.DROPPED_SHARE": 0.02,
    "qsm.regions.MIN_REGION_VOXELS": 8,
    "qsm.separation.ASSUMED_R2_HZ": 12.5,
    "qsm.separation.ASSUMED_AT_T": (2.8, 3.2),
    "qsm.separation.MIN_ECHOES": 3,
    "qsm.microbleeds.AROUND_MM": 4.0,
    "qsm.microbleeds.SEED_PPB": 250.0,
    "qsm.microbleeds.GROWN_PPB": 75.0,
    "qsm.microbleeds.DIAMETER_MM": (2.0, 10.0),
    "qsm.microbleeds.MAX_ELONGATION": 2.5,
    "qsm.microbleeds.MIN_EDGE_MM": 4.0,
    "qsm.microbleeds.MIN_R2S_RISE_HZ": 10.0,
    "qsm.microbleeds.LOBE_MM": 10.0,
    "qsm.microbleeds.LOBE_RATIO": 2.0,
    "qsm.lesions.MIN_LESION_MM3": 14.0,
    "qsm.lesions.RIM_MM": 1.6,
    "qsm.lesions.AROUND_MM": (1.0, 4.0),
    "qsm.lesions.RIM_HEIGHT": 1 / 3,
    "qsm.lesions.MIN_COVER": 2 / 3,
    "qsm.lesions.MIN_SCORE": 3.0,
    "qsm.lesions.N_PLACES": 60,
    "qsm.lesions.MIN_PLACES": 20,
    "qsm.lesions.MIN_FREE": 0.9,
    "_workers.MEMORY_PER_WORKER_GB": 4.0,
}


def _find(name: str):
    return resolve_name(f"pvsbook.{name}")


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_a_measurement_are_these(name):
    """None and an empty place stand for: nothing given; every other default is in the table."""
    found = {
        key: parameter.default
        for key, parameter in inspect.signature(_find(name)).parameters.items()
        if parameter.default is not parameter.empty and parameter.default is not None
    }
    assert found == DEFAULTS[name]


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_are_these(name):
    found = _find(name)
    if isinstance(found, Mapping):  # warn, fail, and for some the words
        found = {key: tuple(limits[:2]) for key, limits in found.items()}
    assert found == LIMITS[name]


def test_the_recipe_of_tv_after_lbv_is_this():
    assert dict(_steps.TV_OPTIONS) == {
        "regularisation": 8e-4,
        "passes": 3,
        "max_iterations": 14,
        "tolerance": 0.003,
    }


def test_the_recipe_of_change_is_this():
    assert dict(change.SETTINGS) == {
        "background": "smv",
        "inversion": "tv",
        "inversion_options": {"regularisation": 1e-4},
    }


def test_the_default_spheres_are_these():
    assert (alps.SPHERES_2_5_MM.radius_mm, alps.SPHERES_5_MM.radius_mm) == (2.5, 5.0)
    assert (regions.WHITE_FA, regions.LEAST_WHITE, regions.FLUID_MD_MM2_S) == (0.2, 0.1, 1.1e-3)
    assert (uncertainty.PLACEMENT_MM, uncertainty.REGISTRATION_MM) == (1.0, 1.0)
    assert uncertainty.RADIUS_SHARE == 0.1
    assert alps.SPHERES_2_5_MM.centres_mm == {
        "left_projection": (-26.0, -16.0, 27.0),
        "left_association": (-38.0, -16.0, 27.0),
        "right_projection": (26.0, -16.0, 27.0),
        "right_association": (38.0, -16.0, 27.0),
    }


def test_a_write_that_is_cut_off_leaves_the_old_file_whole(tmp_path, monkeypatch):
    """The new content has no file of its name until all of it is there."""
    path = images.write_bytes(b"old", tmp_path / "row.tsv")
    names = []
    write = Path.write_bytes

    def write_half(self, content):
        write(self, content[: len(content) // 2])
        names.extend(p.name for p in tmp_path.iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(InputError, match="No space left"):
        images.write_bytes(b"new and longer", path)
    assert len(names) == 2, "half of the new file stands under another name"
    assert [p.name for p in tmp_path.iterdir()] == ["row.tsv"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", OPTIONS)
def test_the_defaults_of_a_method_are_these(name):
    assert by_name(name).defaults == OPTIONS[name]


def test_the_limits_of_a_registration_are_these():
    assert dict(registration.MIN_CORRELATION) == {"t1": 0.55, "t2": 0.35, "fa": 0.35}


def test_the_limits_of_what_is_given_to_qsm_are_these():
    assert (_echoes.GAIN, _echoes.OPPOSITE, _echoes.SURE) == (0.02, -0.05, 5.0)
    assert _placement.MAX_STRETCH == 0.03
    assert (_placement.WHITE_R2S_HZ, _placement.R2S_SHARE) == ((10.0, 3.4), (0.65, 1.75))
    assert FREQUENCY_TOLERANCE == 0.1


def test_rules_of_the_page_of_a_group():
    assert (_compare.LEAST, _compare.SPREAD, _compare.KNOWN) == (5, 2.0, 0.8)
    assert (_protocols.TOLERANCE, _protocols.GAP) == (0.05, 100.0)


# What judges each column that says how good a scan is, and not what was measured in it.
JUDGED_BY = {
    "pvs": {
        r"coverage_.*": "pvs.quality.LIMITS.coverage",
        r"contrast_agreement": "pvs.quality.LIMITS.contrast_agreement",
        r"n_round": "pvs.quality.LIMITS.n_round",
        r"n_mirrored|threshold": "pvs.quality.LIMITS.threshold_raised",
        r"largest_volume_mm3": "pvs.quality.LIMITS.largest_share",
        r"contrast_to_noise": "pvs.quality.LIMITS.contrast_to_noise",
        r"thickest_voxel_side_mm": "pvs.quality.LIMITS.thickest_voxel_side_mm",
        r"registration_correlation": "pvs.quality.LIMITS.registration_correlation_t2",
        r"registration_overlap": "pvs.quality.LIMITS.registration_overlap",
    },
    "alps": {
        r"\w+_(projection|association)_inside": "alps.quality.LIMITS.inside",
        r"\w+_(projection|association)_n_voxels": "alps.quality.LIMITS.n_voxels",
        r"\w+_(projection|association)_fa": "alps.quality.LIMITS.fa",
        r"\w+_(projection|association)_mode": "alps.quality.LIMITS.mode",
        r"\w+_(projection|association)_angle_deg": "alps.quality.LIMITS.angle_deg",
        r"\w+_(projection|association)_fluid_fraction": "alps.quality.LIMITS.fluid_fraction",
        r"(left|right)_tract_angle_deg": "alps.quality.LIMITS.tract_angle_deg",
        r"(pitch|roll|yaw)_deg": "alps.quality.LIMITS.head_tilt_deg",
        r"registration_correlation": "alps.quality.LIMITS.registration_correlation",
        r"registration_overlap": "alps.quality.LIMITS.registration_overlap",
        r"bvecs_z": "alps.quality.LIMITS.bvec_z",
        r"bvecs_turn_deg": "alps.quality.LIMITS.bvec_turn_deg",
        r"bvecs_turn_z": "alps.quality.TURN_Z",
        r"bvecs_row_deg": "alps.quality.LIMITS.bvec_row_deg",
        r"bvecs_row_b": "alps.quality.LIMITS.bvec_row_b",
        r"b_s_mm2": "alps.quality.LIMITS.b_s_mm2",
        r"n_directions": "alps.quality.STEADY_DIRECTIONS",
        r"alps_tract_restore": "alps.quality.ROBUST_DIFFERENCE",
    },
    "qsm": {
        r"chi_sd_ppb": "qsm.quality.CHI_SD_PPB",
        r"n_echoes": "qsm.quality.FLAGS.one echo",
        r"mask_cm3": "qsm.quality.BRAIN_CM3",
        r"n_regions": "qsm.quality.FLAGS.pieces",
        r"n_dropped": "qsm.quality.DROPPED_SHARE",
        r"residual_p95_rad": "qsm.quality.RESIDUAL_RAD",
        r"registration_correlation": "atlas.registration.MIN_CORRELATION.t2",
        r"pallidum_contrast_ppb": "qsm.nuclei.MIN_CONTRAST_PPB",
        r"n_rim_unknown": "qsm.lesions.MIN_PLACES",
    },
    "qsmchange": {
        r"overlap": "qsm.change.MIN_OVERLAP",
        r"tilt_difference_deg": "qsm.change.MAX_TILT_DEG",
        r"registration_correlation": "atlas.registration.MIN_CORRELATION.t2",
        r"pallidum_contrast_ppb": "qsm.nuclei.MIN_CONTRAST_PPB",
    },
}
MEASURED = {
    "pvs": r"n_.*|wmh_ml|volume_.*|tissue_.*|fraction_.*|median_.*",
    "alps": r"alps_\w+_(left|right|mean)(_low|_high)?|alps_tract_(nlls|free_water|radius_2_5_mm)"
    r"|\w+_(md|l1|l2|l3|dxx|dyy|dzz)_mm2_s",
    "qsm": r"reference_value_ppb|chi_(mean|p1|p99)_ppb"
    r"|(caudate|putamen|pallidum|thalamus|pulvinar|red_nucleus|substantia_nigra|dentate)"
    r"_(left|right)(_se)?_ppb"
    r"|n_(microbleeds|calcifications|rim_lesions)(_false)?|n_uncertain_objects|n_lesions"
    r"|lesions_white_ppb",
    "qsmchange": r"\w+_(change|error)_ppb",
}
WORDS = (
    r"status|reasons|contrast|has_wmh_mask|wmh_from|registration|registration_model|bvecs_best"
    r"|reference"
)
WORDS += r"|first_session|shells|left_out|notes|placed_by|sources_status"


@pytest.mark.parametrize("method", JUDGED_BY)
def test_every_figure_of_quality_has_a_limit_or_a_reason_for_none(method):
    """The reason stands where the column is described, for whoever reads the table."""
    for column, meaning in by_name(method).columns.items():
        judges = [j for pattern, j in JUDGED_BY[method].items() if re.fullmatch(pattern, column)]
        has_reason = re.search(r"no limit: \w", meaning["Description"]) is not None
        is_result = re.fullmatch(f"{MEASURED[method]}|{WORDS}", column) is not None
        assert len(judges) + has_reason == 1 or (is_result and not has_reason), column
    for judge in JUDGED_BY[method].values():
        place, _, key = judge.rpartition(".")
        assert key.isupper() or key in _find(place), judge
        assert not key.isupper() or _find(judge) is not None
