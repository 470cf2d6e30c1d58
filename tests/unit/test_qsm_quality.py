"""A magnitude that is a wrapped phase is told from every magnitude that only has sharp edges."""

from dataclasses import replace

import numpy as np
import pytest

from pvsbook import InputError, images, qsm
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import quality


@pytest.fixture(scope="module")
def head():
    return make_gre(np.random.default_rng(21), voxel_size_mm=4)


def as_12_bit(phase_rad):
    return np.round((phase_rad + np.pi) / (2 * np.pi) * 4095).astype(np.float32)


def is_flagged(gre, magnitude):
    changed = replace(gre, magnitude=np.asarray(magnitude, np.float32))
    return [flag.code for flag in quality.check_magnitude(changed)] == ["exchanged"]


def test_a_wrapped_phase_is_no_magnitude(head):
    stored, brain = as_12_bit(head.gre.phase_rad), head.brain[..., None]
    assert is_flagged(head.gre, stored)
    assert is_flagged(head.gre, stored * brain)
    assert is_flagged(head.gre, as_12_bit(head.gre.phase_rad * brain))


@pytest.fixture
def tissue_of_one_brightness_each(head):
    """Grey, white matter and CSF without texture, as phantoms of other makers have them."""
    is_csf = np.abs(head.chi_ppm - 0.019) < 0.003
    is_white = head.chi_ppm < -0.02
    density = np.select([is_csf, head.labels > 0, is_white], [100.0, 70.0, 65.0], 80.0)
    decay_hz = np.select([is_csf, head.labels > 0, is_white], [2.0, 35.0, 22.0], 17.0)
    return (
        density[..., None] * np.exp(-decay_hz[..., None] * head.gre.echo_times_s)
    ) * head.brain[..., None]


def test_sharp_edges_make_no_wrapped_phase(head, tissue_of_one_brightness_each):
    rng = np.random.default_rng(0)
    shape = head.gre.magnitude.shape
    brain = head.brain[..., None]
    flat = brain * 100 * np.exp(-head.gre.echo_times_s / 0.04)
    around = rng.uniform(0.5, 1.5, shape)
    thermal = rng.normal(0, 3, shape) + 1j * rng.normal(0, 3, shape)
    good = {
        "whole head": head.gre.magnitude,
        "stripped, zeros outside": head.gre.magnitude * brain,
        "flat brain, noise outside": flat + around,
        "flat brain, zeros outside": flat,
        "flat brain, thermal noise": np.abs(flat + thermal),
        "tissues, zeros outside": tissue_of_one_brightness_each,
        "tissues, noise outside": tissue_of_one_brightness_each + around,
        "tissues, thermal noise": np.abs(tissue_of_one_brightness_each + thermal),
    }
    assert [name for name, magnitude in good.items() if is_flagged(head.gre, magnitude)] == []


def test_a_stripped_brain_of_one_brightness_is_measured(head):
    flat = head.brain[..., None] * 100 * np.exp(-head.gre.echo_times_s / 0.04)
    noise = np.random.default_rng(0).uniform(0.5, 1.5, flat.shape)
    result = qsm.reconstruct(replace(head.gre, magnitude=(flat + noise).astype(np.float32)))
    assert "inversion" not in result.unsupported_steps


@pytest.mark.public
def test_the_first_cause_is_told_of_a_crop_whose_files_are_exchanged(public_file):
    gre = images.load_gre(
        public_file("gre_small_romeo", "Mag.nii"),
        public_file("gre_small_romeo", "Phase.nii"),
        echo_times_s=(0.004, 0.008, 0.012),
        field_strength_t=7,
    )
    assert not quality.check_magnitude(gre)
    turn = gre.magnitude / np.quantile(gre.magnitude, 0.9999)
    exchanged = replace(
        gre,
        magnitude=as_12_bit(gre.phase_rad),
        phase_rad=np.clip(2 * np.pi * turn - np.pi, -np.pi, np.pi).astype(np.float32),
    )
    with pytest.raises(InputError, match="are magnitude and phase exchanged"):
        qsm.reconstruct(exchanged)
