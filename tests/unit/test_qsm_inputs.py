"""Kinds of input: few echoes, bipolar ones, parts, coils, and a T1w image beside them."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, cli, images, qsm
from pvsbook.atlas import deep_grey
from pvsbook.bids import inputs
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import _echoes, _placement, nuclei
from pvsbook.qsm.unwrap import wrap


@pytest.fixture(scope="module")
def head():
    turned = pose((4, -6, 3), (3, 2, -4))
    return make_gre(np.random.default_rng(5), voxel_size_mm=3, mni_to_world=turned)


@pytest.fixture(scope="module")
def result(head):
    return qsm.reconstruct(head.gre)


def t1w_of(turn_deg, shift_mm, scales=(1, 1, 1)):
    """Draw the T1w image of a head on another grid, with its brain mask."""
    brain = make_brain(2.5, mni_to_world=pose(turn_deg, shift_mm) @ np.diag([*scales, 1]))
    noise = np.random.default_rng(3).normal(0, 0.03, brain.shape)
    inside = brain.wm + brain.gm + brain.csf > 0.5
    values = np.maximum(brain.wm + 0.75 * brain.gm + 0.3 * brain.csf + noise, 0.001) * inside
    return brain.image(values), brain.image(inside.astype(np.uint8))


@pytest.fixture(scope="module")
def t1w():
    return t1w_of((-3, 2, 5), (-4, 3, 6))


def call(*arguments):
    """Run the command inside this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pvsbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)


def taken(gre, echoes):
    """Keep some echoes of a scan."""
    return replace(
        gre,
        magnitude=gre.magnitude[..., echoes],
        phase_rad=gre.phase_rad[..., echoes],
        echo_times_s=gre.echo_times_s[echoes],
    )


def codes(gre, **options):
    return {flag.code for flag in qsm.reconstruct(gre, **options).flags}


@pytest.mark.parametrize(("echoes", "code"), [([3], "one echo"), ([0, 3], "two echoes")])
def test_few_echoes_are_measured_and_say_what_they_lack(head, result, echoes, code):
    gre = taken(head.gre, echoes)
    few = qsm.reconstruct(gre)
    assert few.status == "warn"
    assert {flag.code for flag in few.flags} == {code}
    both = few.local_field.mask & result.local_field.mask
    one, other = (r.susceptibility.chi_ppm[both] for r in (few, result))
    assert np.corrcoef(one, other)[0, 1] > 0.85
    found = nuclei.measure_nuclei(gre, few, np.random.default_rng(0), atlas="schematic")
    assert found.table["mean_ppb"].notna().all()
    assert found.table["se_noise_ppb"].isna().all()
    assert (found.r2s_hz is None) == (len(echoes) == 1)


def moved(images_of_echoes, echo, axis=0):
    changed = images_of_echoes.copy()
    changed[..., echo] = np.roll(changed[..., echo], 1, axis)
    return changed


def negated(gre, echo):
    changed = gre.phase_rad.copy()
    changed[..., echo] *= -1
    return replace(gre, phase_rad=changed)


SPOILED = {
    "phase of the first negated": (lambda g: negated(g, 0), "echo 2 has the other sign"),
    "phase of the middle negated": (lambda g: negated(g, 1), "echo 2 has the other sign"),
    "phase of the last negated": (lambda g: negated(g, 2), "echo 3 has the other sign"),
    "phase moved": (
        lambda g: replace(g, phase_rad=moved(g.phase_rad, 2)), "the phase of echo 3 fits"
    ),
    "magnitude moved": (
        lambda g: replace(g, magnitude=moved(g.magnitude, 1, 2)), "the magnitude of echo 2 fits"
    ),
    "both moved": (
        lambda g: replace(
            g, magnitude=moved(g.magnitude, 0, 1), phase_rad=moved(g.phase_rad, 0, 1)
        ),
        "echo 2 fits that of echo 1 when moved",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_an_echo_that_does_not_fit_the_others_is_no_measurement(head, case):
    spoil, words = SPOILED[case]
    three = taken(head.gre, [0, 2, 4])
    assert "odd echo" not in codes(three)
    assert words in found_of(spoil(three))


def found_of(gre):
    """Return why a scan is refused, or fails."""
    try:
        found = qsm.reconstruct(gre)
    except InputError as error:  # where too little of the brain fits a line
        return str(error)
    assert found.status == "fail"
    assert np.isnan(found.to_row()["chi_sd_ppb"])
    return "; ".join(found.reasons)


def test_an_odd_echo_of_a_person_is_told(public_file):
    files = [public_file("gre_small_romeo", name) for name in ("Mag.nii", "Phase.nii")]
    crop = images.load_gre(*files, echo_times_s=[0.004, 0.008, 0.012], field_strength_t=7)
    assert "odd echo" not in codes(crop)
    assert "echo 3 has the other sign" in found_of(negated(crop, 2))
    assert "echo 2 fits that of echo 1" in found_of(
        replace(crop, phase_rad=moved(crop.phase_rad, 1))
    )
    assert "echo 3 fits that of echo 2" in found_of(
        replace(crop, magnitude=moved(crop.magnitude, 2))
    )


def test_a_bipolar_readout_changes_no_nucleus_much(head, result):
    ramp = np.linspace(-1, 1, head.brain.shape[1], dtype=np.float32)[None, :, None]
    phase = head.gre.phase_rad.copy()
    phase[..., 1::2] += (ramp + 0.4 * ramp**2 + 0.3)[..., None]
    bipolar = qsm.reconstruct(replace(head.gre, phase_rad=wrap(phase)), mask=result.mask)
    assert "bipolar" in {flag.code for flag in bipolar.flags}
    both = bipolar.local_field.mask & result.local_field.mask
    one, other = (
        1e3 * np.array([r.susceptibility.chi_ppm[both & (head.labels == k)].mean()
                        for k in range(1, 11)])
        for r in (bipolar, result)
    )  # fmt: skip
    assert np.abs(one - other).mean() < 2


def test_white_matter_that_decays_too_slowly_asks_for_the_echo_times(head, result):
    def reasons(gre):
        found = nuclei.measure_nuclei(
            gre, qsm.reconstruct(gre), np.random.default_rng(0), atlas="schematic"
        )
        return [reason for reason in found.reasons if reason.startswith("decay rate")]

    assert reasons(head.gre) == []
    doubled = replace(head.gre, echo_times_s=2 * head.gre.echo_times_s)
    (reason,) = reasons(doubled)
    assert "at 3 T about 20 (13 to 35); check the echo times" in reason


def test_a_t1w_image_places_the_nuclei(head, result, t1w):
    rng = np.random.default_rng(0)
    found, plain = (
        nuclei.measure_nuclei(head.gre, result, rng, atlas="schematic", t1w=image)
        for image in (t1w, None)
    )
    assert (found.placed_by, plain.placed_by) == ("T1w", "magnitude")
    assert found.to_row()["placed_by"] == "T1w"
    assert found.reasons == plain.reasons == ()
    assert found.registration.contrast == "t1"
    overlap = [
        2 * ((f.labels > 0) & (head.labels > 0)).sum() / ((f.labels > 0) | (head.labels > 0)).sum()
        for f in (found, plain)
    ]
    assert overlap[0] > overlap[1] - 0.05
    notes = found.map.references.set_index("reference")["note"]
    assert "registration of the T1w" in notes["white matter"]


def other_head(image, mask):
    return t1w_of((-3, 2, 5), (-4, 3, 6), (0.94, 1.05, 1.06))


def upside_down(image, mask):
    return tuple(images.make(np.asarray(i.dataobj)[:, :, ::-1], i.affine) for i in (image, mask))


def of_another_contrast(image, mask):
    values = images.array(image)
    return images.make(np.where(images.array(mask) > 0, 1.5 - values, 0), image.affine), mask


def tiny(image, mask):
    return image.slicer[:12, :12, :12], mask.slicer[:12, :12, :12]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (other_head, "only if stretched by . %, as that of another person"),
        (upside_down, "(correlates with the template by|only if stretched)"),
        (of_another_contrast, "correlates with the template by"),
        (tiny, "less than 100 ml"),
    ],
)
def test_a_t1w_image_that_does_not_fit_is_told_and_not_used(head, result, t1w, spoil, words):
    """Without a usable T1w image the magnitude places the nuclei."""
    magnitude = head.image(head.gre.magnitude[..., -1]), head.image(result.mask.astype(np.uint8))
    assert re.search(words, _placement._through(spoil(*t1w), magnitude))


def test_a_t1w_image_that_cannot_be_read_leaves_the_magnitude(head, result):
    found = nuclei.measure_nuclei(
        head.gre, result, np.random.default_rng(0), atlas="schematic", t1w="T1w.nii: is damaged"
    )
    assert (found.placed_by, found.status) == ("magnitude", "warn")
    assert "not by the T1w image: T1w.nii: is damaged; give the T1w" in found.reasons[0]
    assert found.contrast_ppb > 90


def write(top, stem, values, affine, **meta):
    path = Path(top, f"{stem}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save(images.make(values.astype(np.float32), affine), path)
    if meta:
        Path(top, f"{stem}.json").write_text(json.dumps(meta))
    return path


def write_echoes(top, person, gre, parts, *, entity=""):
    """Write a participant's echoes to a BIDS folder, as polar or as real and imaginary parts."""
    signal = gre.magnitude * np.exp(1j * gre.phase_rad)
    pairs = {"mag": np.abs, "phase": np.angle, "real": np.real, "imag": np.imag}
    for part in parts:
        for e, time in enumerate(gre.echo_times_s, 1):
            echo = f"_echo-{e}" if gre.echo_times_s.size > 1 else ""
            suffix = "MEGRE" if echo else "T2starw"
            write(
                top, f"sub-{person}/anat/sub-{person}{entity}{echo}_part-{part}_{suffix}",
                pairs[part](signal[..., e - 1]), gre.affine,
                EchoTime=float(time), MagneticFieldStrength=3,
            )  # fmt: skip


@pytest.fixture(scope="module")
def folder(head, t1w, tmp_path_factory):
    """Make a BIDS folder with a participant of each kind of input."""
    top = tmp_path_factory.mktemp("bids")
    Path(top, "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    three = taken(head.gre, [0, 2, 4])
    write_echoes(top, "plain", three, ("mag", "phase"))
    write_echoes(top, "parts", three, ("real", "imag"))
    write_echoes(top, "single", taken(head.gre, [3]), ("mag", "phase"))
    write_echoes(top, "withT1w", three, ("mag", "phase"))
    write(top, "sub-withT1w/anat/sub-withT1w_T1w", images.array(t1w[0]), t1w[0].affine)
    write(top, "sub-withT1w/anat/sub-withT1w_ce-gd_T1w", images.array(t1w[0]), t1w[0].affine)
    for coil in (1, 2):
        write_echoes(top, "coils", three, ("mag", "phase"), entity=f"_coil-{coil}")
    write_echoes(top, "real", three, ("real",))
    write_echoes(top, "fast", three, ("mag", "phase"))
    for path in Path(top, "sub-fast", "anat").glob("*.json"):
        meta = json.loads(path.read_text()) | {"ImagingFrequency": 63.87}
        path.write_text(json.dumps(meta))
    return top


def test_what_is_found_of_each_kind_of_input(folder):
    found = {m.participant: m.found for m in inputs.find(folder, methods=["qsm"]).measurements}
    assert found["sub-plain"].parameters["real_imaginary"] is False
    assert found["sub-parts"].parameters["real_imaginary"] is True
    assert "part-real" in found["sub-parts"].inputs["magnitude"][0]
    assert "part-imag" in found["sub-parts"].inputs["phase"][0]
    assert found["sub-single"].parameters["echo_times_s"] == [0.02]
    assert found["sub-withT1w"].parameters["t1w"].endswith("sub-withT1w_T1w.nii.gz")
    (note,) = found["sub-withT1w"].notes
    assert note == "sub-withT1w_T1w.nii.gz beside it, the closest of 2 by its name"
    assert "t1w" not in found["sub-plain"].parameters
    assert "join them in one file with axes x, y, z, echo, coil" in found["sub-coils"].lacks[0]
    assert "no part-real and part-imag, nor" in found["sub-real"].lacks[0]
    assert "as at 1.5 T, but the field strength is 3 T" in found["sub-fast"].lacks[0]


def test_run_measures_each_kind_of_input(folder, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("qsm: {atlas: schematic}\n")
    arguments = [folder, tmp_path / "out", "participant", "--methods", "qsm"]
    arguments += ["--settings", settings, "--workers", 1]
    for person in ("parts", "single", "withT1w"):
        arguments += ["--participant-label", person]
    assert call("run", *arguments) == 0
    rows = {
        path.name.split("_")[0]: pd.read_csv(path, sep="\t").iloc[0]
        for path in Path(tmp_path, "out").glob("sub-*/anat/sub-*_qsm.tsv")
        if "desc-" not in path.name
    }
    parts, single, with_t1w = (rows[f"sub-{kind}"] for kind in ("parts", "single", "withT1w"))
    assert parts["pallidum_left_ppb"] == pytest.approx(with_t1w["pallidum_left_ppb"], abs=15)
    assert (parts["placed_by"], with_t1w["placed_by"]) == ("magnitude", "T1w")
    assert (parts["status"], with_t1w["status"], single["status"]) == ("pass", "pass", "warn")
    assert np.isnan(single["pallidum_left_se_ppb"])
    assert single["pallidum_left_ppb"] == pytest.approx(parts["pallidum_left_ppb"], abs=25)


def test_the_command_takes_parts_and_coils_and_a_t1w_image(head, t1w, tmp_path):
    three = taken(head.gre, [0, 2, 4])
    signal = three.magnitude * np.exp(1j * three.phase_rad)
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in head.brain.shape], indexing="ij")
    coils = np.stack([np.exp(-((x - a) ** 2) + 2j * a * y) for a in (-1, 1)], axis=-1)
    whole = signal[..., None] * coils[..., None, :]
    files = [
        write(tmp_path, f"sub-c_part-{part}_MEGRE", value, three.affine)
        for part, value in (("real", whole.real), ("imag", whole.imag))
    ]
    other = write(tmp_path, "sub-d_T1w", images.array(t1w[0]), t1w[0].affine)
    own = write(tmp_path, "sub-c_T1w", images.array(t1w[0]), t1w[0].affine)
    arguments = ["qsm", "--magnitude", files[0], "--phase", files[1], "--real-imaginary"]
    arguments += ["--echo-times", "0.005,0.015,0.025", "--field-strength", 3]
    arguments += ["--atlas", "schematic", "--out", tmp_path / "out"]
    assert call(*arguments, "--t1w", other) == 2  # of another participant
    assert call(*arguments, "--t1w", own) == 0
    row = pd.read_csv(tmp_path / "out/sub-c/anat/sub-c_qsm.tsv", sep="\t").iloc[0]
    assert row["placed_by"] == "T1w"
    assert row["status"] == "pass"
    assert row["pallidum_contrast_ppb"] > 90


def test_the_nuclei_of_the_atlas_follow_the_t1w_image(head, t1w):
    brain = head.image(head.brain.astype(np.uint8))
    placed = _placement.place((head.image(head.gre.magnitude[..., -1]), brain), t1w)
    assert placed.image == "T1w"
    point = np.array([[18.0, -4.0, -1.0]])
    found = placed.registration.points_to_native(point)
    true = nib.affines.apply_affine(head.mni_to_world, point)
    assert np.linalg.norm(found - true) < 2.5
    assert deep_grey.table().shape == (16, 3)


def test_noise_alone_is_no_moved_echo():
    """Of 20 scans without any structure none is called moved or negated."""
    rng = np.random.default_rng(6)
    inside = np.zeros((30, 30, 30), bool)
    inside[2:-2, 2:-2, 2:-2] = True
    magnitude = np.ones((30, 30, 30, 3), np.float32)
    times, told = np.array([0.004, 0.008, 0.012]), []
    for _ in range(20):
        phase = rng.normal(0, 0.3, magnitude.shape).astype(np.float32)
        gre = images.Gre(magnitude + phase[..., ::-1] / 9, phase, times, 3.0, np.eye(4))
        told.append(_echoes.odd_echo(gre, inside))
    assert not any(told), told
