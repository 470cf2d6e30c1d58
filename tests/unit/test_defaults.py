"""The value that a user gets who sets nothing: pinned once, so that none changes unnoticed.

A changed default changes everybody's numbers.  Change it here too, and say in CHANGELOG.md on
what it was chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest

from pvsbook import InputError, alps, images
from pvsbook.methods import by_name
from pvsbook.qsm import change

DEFAULTS = {
    "pvs.pipeline.measure": {"contrast": "t2", "registration": "affine"},
    "pvs.objects.Rules": {
        "expected_false": 1.0,
        "min_contrast": 0.11,
        "low_to_high": 0.4,
        "min_length_mm": 2.5,
        "min_elongation": 1.6,
        "max_width_mm": 4.5,
        "blob_mm": 3.6,
        "wmh_overlap": 0.3,
        "fluid_like": 0.6,
        "space_contrast": 1.0,
        "max_border": 0.35,
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
        "rois": alps.SPHERES_2_5_MM,
        "search_mm": 0.0,
        "registration": "affine",
        "n_bootstrap": 1000,
    },
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
    "pvs": {"contrast": "t2", "registration": "affine", "rules": {}},
    "alps": {
        "rois": "2.5mm",
        "search_mm": 0.0,
        "registration": "affine",
        "denoise": None,
        "gibbs": False,
        "motion": False,
        "n_bootstrap": 1000,
    },
    "qsm": {
        "echo_times_s": None,
        "field_strength_t": None,
        "phase_period": None,
        "phase_sign": 1,
        "background": "lbv",
        "background_options": {},
        "inversion": "tv",
        "inversion_options": {},
        "harmonic_degree": 6,
        "reference": "whole brain",
    },
    "qsmchange": {
        "echo_times_s": None,
        "field_strength_t": None,
        "phase_period": None,
        "phase_sign": 1,
        "background": "smv",
        "inversion": "tv",
        "regularisation": 1e-4,
    },
}
LIMITS = {
    "pvs.quality.MIN_COVERAGE": 0.5,
    "pvs.quality.LIMITS": {
        "registration_overlap": (0.9, 0.7),
        "contrast_to_noise": (8.0, 4.0),
        "mask_ml": (2200.0, float("inf")),
        "thickest_voxel_side_mm": (2.5, float("inf")),
        "coverage": (0.95, float("-inf")),
        "wmh_outside_brain": (0.2, float("inf")),
        "wmh_in_regions": (0.25, float("inf")),
        "mirrored_per_pvs": (0.25, float("inf")),
    },
    "alps.quality.LIMITS": {
        "bvec_z": (1.0, 3.0),
        "registration_correlation": (0.5, 0.35),
        "registration_overlap": (0.9, 0.8),
        "left_minus_right": (0.3, 0.6),
        "head_tilt_deg": (10.0, float("inf")),
        "inside": (0.9, 0.5),
        "n_voxels": (3.0, 1.5),
        "fa": (0.25, 0.15),
        "angle_deg": (30.0, 45.0),
        "fluid_fraction": (0.2, 0.5),
        "mode": (0.3, float("-inf")),
        "tract_angle_deg": (60.0, 40.0),
    },
    "bids.group.OUTLYING": 3.5,  # Iglewicz and Hoaglin 1993
    "qsm.change.MIN_OVERLAP": 0.9,
    "qsm.change.MAX_TILT_DEG": 12.0,
    "qsm.quality.MIN_MASK_CM3": 1.0,
    "qsm.quality.BRAIN_CM3": 400.0,
    "qsm.quality.BORDER_SHARE": 0.2,
    "qsm.quality.RESIDUAL_RAD": 0.1,
    "qsm.pipeline.MAX_RESIDUAL_RAD": 0.2,
    "qsm.pipeline.MAX_DROPPED_SHARE": 0.2,
    "qsm.quality.DROPPED_SHARE": 0.02,
    "qsm.regions.MIN_REGION_VOXELS": 8,
    "_workers.MEMORY_PER_WORKER_GB": 4.0,
}


def _find(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(f"pvsbook.{module}"), attribute)


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


def test_the_recipe_of_change_is_this():
    assert dict(change.SETTINGS) == {
        "background": "smv",
        "inversion": "tv",
        "inversion_options": {"regularisation": 1e-4},
    }


def test_the_default_spheres_are_these():
    assert alps.SPHERES_2_5_MM.radius_mm == 2.5
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
