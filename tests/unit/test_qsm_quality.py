"""What no gradient echo of a head can be is told; what only looks odd is not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pvsbook import InputError, images, qsm
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import quality


@pytest.fixture(scope="module")
def head():
    return make_gre(np.random.default_rng(21), voxel_size_mm=4)


@pytest.fixture
def crop(public_file):
    """A block of a person's brain, three echoes."""
    return images.load_gre(
        public_file("gre_small_romeo", "Mag.nii"),
        public_file("gre_small_romeo", "Phase.nii"),
        echo_times_s=(0.004, 0.008, 0.012),
        field_strength_t=7,
    )


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
def test_the_first_cause_is_told_of_a_crop_whose_files_are_exchanged(crop):
    assert not quality.check_magnitude(crop)
    turn = crop.magnitude / np.quantile(crop.magnitude, 0.9999)
    exchanged = replace(
        crop,
        magnitude=as_12_bit(crop.phase_rad),
        phase_rad=np.clip(2 * np.pi * turn - np.pi, -np.pi, np.pi).astype(np.float32),
    )
    with pytest.raises(InputError, match="are magnitude and phase exchanged"):
        qsm.reconstruct(exchanged)


# --- magnitude and phase of one scan -----------------------------------------------------------


def _is_other_scan(gre):
    return [flag.code for flag in quality.check_pair(gre)] == ["other scan"]


def test_the_phase_of_another_visit_is_told():
    """The head lay elsewhere; the files have no names that would tell."""
    one, two = (
        make_gre(
            np.random.default_rng(40 + k), voxel_size_mm=2.5, anatomy=np.random.default_rng(3),
            echo_times_s=(0.005, 0.010, 0.015), mni_to_world=turned,
        ).gre
        for k, turned in enumerate((np.eye(4), pose((5, -3, 4), (4, 6, -3))))
    )  # fmt: skip
    shared = tuple(
        slice(min(n)) for n in zip(one.phase_rad.shape, two.phase_rad.shape, strict=True)
    )
    one, two = (
        replace(one, magnitude=g.magnitude[shared], phase_rad=g.phase_rad[shared])
        for g in (one, two)
    )
    assert not _is_other_scan(one)
    assert not _is_other_scan(two)
    crossed = replace(one, phase_rad=two.phase_rad)
    assert _is_other_scan(crossed)
    assert _is_other_scan(replace(two, phase_rad=one.phase_rad))
    assert not _is_other_scan(_first_two(crossed)), "two echoes do not tell"
    result = qsm.reconstruct(crossed)
    assert result.status == "fail"
    assert np.isnan(result.to_row()["chi_mean_ppb"])
    assert any("are they of one scan?" in reason for reason in result.reasons)


def _first_two(gre):
    return replace(
        gre,
        magnitude=gre.magnitude[..., :2],
        phase_rad=gre.phase_rad[..., :2],
        echo_times_s=gre.echo_times_s[:2],
    )


def test_nothing_is_said_of_a_pair_without_noise_or_without_voxels(head):
    still = np.broadcast_to(np.linspace(-1, 1, head.brain.shape[0])[:, None, None, None],
                            head.gre.phase_rad.shape).astype(np.float32)  # fmt: skip
    assert not _is_other_scan(replace(head.gre, phase_rad=still * head.gre.echo_times_s))
    nothing = np.zeros_like(head.gre.magnitude)
    nothing[0, 0, 0] = 1
    assert not _is_other_scan(replace(head.gre, magnitude=nothing))


@pytest.mark.public
@pytest.mark.parametrize("moved", [(0, 0, 0), (8, 0, 0), (0, 8, 0), (0, 0, 4)])
def test_the_phase_of_a_person_is_told_from_the_same_moved(crop, moved):
    there = tuple(slice(n, None) for n in moved)
    here = tuple(slice(size - n) for n, size in zip(moved, crop.phase_rad.shape, strict=False))
    pair = replace(crop, magnitude=crop.magnitude[there], phase_rad=crop.phase_rad[here])
    assert _is_other_scan(pair) is any(moved)


# --- phase in another order, or filtered -------------------------------------------------------


def codes(gre):
    return [flag.code for flag in qsm.reconstruct(gre).flags]


@pytest.mark.parametrize("times_s", [(0.005, 0.010, 0.015), (0.003, 0.012, 0.021), (0.004, 0.011)])
@pytest.mark.parametrize("seed", [3, 4])
def test_phase_images_in_reverse_order_are_told(times_s, seed):
    """The slope turns round, iron and myelin with it, and the magnitude does not know."""
    gre = make_gre(np.random.default_rng(seed), voxel_size_mm=4, echo_times_s=times_s).gre
    assert "echo order" not in codes(gre)
    result = qsm.reconstruct(replace(gre, phase_rad=gre.phase_rad[..., ::-1].copy()))
    assert "echo order" in [flag.code for flag in result.flags]
    assert result.status == "fail"


def test_a_high_pass_filtered_phase_is_told(head):
    gre = head.gre
    signal = gre.magnitude * np.exp(1j * gre.phase_rad)
    slow = ndimage.gaussian_filter(signal, (1.5, 1.5, 1.5, 0))
    filtered = np.angle(signal * slow.conj()).astype(np.float32)
    assert "filtered" not in codes(gre)
    assert "filtered" in codes(replace(gre, phase_rad=filtered))


def test_what_a_header_leaves_open_is_told(head):
    parts = [
        images.make(part, head.gre.affine) for part in (head.gre.magnitude, head.gre.phase_rad)
    ]
    for part in parts:
        part.set_sform(part.affine, 1)
        part.set_qform(part.affine @ np.diag([-1, 1, 1, 1]), 1)
    gre = images.load_gre(*parts, echo_times_s=head.gre.echo_times_s, field_strength_t=3)
    result = qsm.reconstruct(gre)
    assert [f.code for f in result.flags].count("header") == 1, "once, not once a file"
    assert result.unsupported_steps == ("inversion",), "the field's direction is not certain"


@pytest.mark.public
@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_order_is_told_on_real_echoes(crop, is_reversed):
    phase = crop.phase_rad[..., ::-1].copy() if is_reversed else crop.phase_rad
    assert ("echo order" in codes(replace(crop, phase_rad=phase))) == is_reversed


@pytest.mark.parametrize("turns", [1.0, 4095.0, 6.28])
@pytest.mark.parametrize("n_echoes", [1, 5])
def test_a_magnitude_in_place_of_the_phase_is_refused(head, turns, n_echoes):
    magnitude = head.gre.magnitude[..., :n_echoes] / head.gre.magnitude.max()
    as_phase = np.round(magnitude * turns, 0 if turns > 4000 else 6)
    files = [images.make(part, head.gre.affine) for part in (magnitude, as_phase)]
    times = head.gre.echo_times_s[:n_echoes]
    with pytest.raises(
        InputError, match=r"in other units|as a magnitude does|fits no known scale"
    ):
        images.load_gre(*files, echo_times_s=times, field_strength_t=3)
