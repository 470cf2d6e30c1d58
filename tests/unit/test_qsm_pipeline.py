"""One scan from phase to a row: right on a known head, and plain about what it cannot do."""

import json
from dataclasses import replace

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, images, qsm
from pvsbook.atlas import deep_grey
from pvsbook.atlas.registration import MIN_CORRELATION
from pvsbook.figures import qsm as figures_qsm
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import reference, unwrap
from pvsbook.qsm._visits import one_scan
from pvsbook.qsm.field import hz_to_ppm

mpl.use("Agg")


@pytest.fixture(scope="module")
def head():
    return make_gre(np.random.default_rng(101), voxel_size_mm=2.5)


@pytest.fixture(scope="module")
def result(head):
    return qsm.reconstruct(head.gre)


def nuclei_ppb(head, chi_ppm, mask):
    """Return true and estimated means of the nuclei, relative to the mask's mean."""
    rows = []
    for label in deep_grey.table()["label"]:
        voxels = (head.labels == label) & mask
        if voxels.sum() >= 10:
            rows.append((head.chi_ppm[voxels].mean(), chi_ppm[voxels].mean()))
    true, found = 1e3 * np.array(rows).T
    return true - 1e3 * head.chi_ppm[mask].mean(), found - 1e3 * chi_ppm[mask].mean()


def test_field_of_a_known_head(head, result):
    mask = result.mask & head.brain
    error = 1e3 * (hz_to_ppm(result.field.field_hz, 3.0) - head.field_ppm)[mask]
    error -= np.median(error)
    # beside air the field turns over by more than a cycle within a voxel: nothing to compare
    steep = np.max(np.abs(np.gradient(head.field_ppm)), axis=0)[mask] > 0.15
    assert steep.mean() < 0.05
    assert np.sqrt(np.mean(error[~steep] ** 2)) < 4  # ppb
    assert np.mean(np.abs(error[~steep]) > 50) < 5e-4  # veins thinner than a voxel


def test_nuclei_of_a_known_head(head, result):
    true, found = nuclei_ppb(head, result.susceptibility.chi_ppm, result.local_field.mask)
    assert 0.75 < np.polyfit(true, found, 1)[0] < 1.05  # TKD at 0.15 loses about 15 %
    assert np.corrcoef(true, found)[0, 1] > 0.95
    assert result.status == "pass"
    assert not result.flags


def test_csf_is_found_without_the_truth(head, result):
    table = result.references.set_index("reference")
    fluid = reference.find_csf(
        head.gre.magnitude, head.gre.echo_times_s, result.local_field.mask, head.gre.voxel_size_mm
    )
    assert 1e3 * head.chi_ppm[fluid].mean() == pytest.approx(19, abs=0.5)  # CSF in the phantom
    assert table.loc["CSF", "n_voxels"] == fluid.sum() > 100
    assert np.isnan(table.loc["white matter", "reference_value_ppb"])
    assert "no mask" in table.loc["white matter", "note"]


def test_a_reference_that_is_not_there_says_why(head, result):
    chi, mask = result.susceptibility.chi_ppm, result.local_field.mask
    fast = head.gre.magnitude * np.exp(-20 * head.gre.echo_times_s).astype(np.float32)
    given = {"white matter": (head.chi_ppm < -0.02) & head.brain}
    table = reference.list_references(chi, mask, replace(head.gre, magnitude=fast), given=given)
    table = table.set_index("reference")
    assert "not found" in table.loc["CSF", "note"]
    assert np.isnan(table.loc["CSF", "reference_value_ppb"])
    assert table.loc["white matter", "note"] == "mask given"
    assert table.loc["white matter", "reference_value_ppb"] < -15
    single = replace(
        head.gre, magnitude=fast[..., :1], phase_rad=fast[..., :1], echo_times_s=np.array([0.01])
    )
    table = reference.list_references(chi, mask, single).set_index("reference")
    assert "two echoes" in table.loc["CSF", "note"]
    with pytest.raises(InputError, match="mask: is empty"):
        reference.find_csf(fast, head.gre.echo_times_s, 0 * mask, (1, 1, 1))


@pytest.mark.parametrize(
    ("axcodes", "rotation", "size"),
    [("LPS", (0, 0, 0), 3.0), ("RAS", (14, 6, 10), 3.0), ("SAL", (-10, 8, 0), (2.2, 2.6, 3.4))],
)
def test_storage_order_tilt_and_voxel_shape_do_not_matter(axcodes, rotation, size):
    head = make_gre(
        np.random.default_rng(55), voxel_size_mm=size, mni_to_world=pose(rotation), axcodes=axcodes
    )
    found = qsm.reconstruct(head.gre, mask=head.brain)
    true, estimate = nuclei_ppb(head, found.susceptibility.chi_ppm, found.local_field.mask)
    assert 0.7 < np.polyfit(true, estimate, 1)[0] < 1.05
    assert np.corrcoef(true, estimate)[0, 1] > 0.94


def test_phase_sign_turns_the_map_over(head):
    flipped = replace(head.gre, phase_rad=-head.gre.phase_rad)
    one = qsm.reconstruct(head.gre, mask=head.brain).susceptibility.chi_ppm
    other = qsm.reconstruct(flipped, mask=head.brain, phase_sign=-1).susceptibility.chi_ppm
    assert np.allclose(one, other, atol=1e-4)


def test_row_and_files(tmp_path, result):
    row = result.to_row()
    assert set(row) == set(qsm.pipeline.COLUMNS)
    assert row["chi_mean_ppb"] == pytest.approx(0, abs=1e-3)
    path = result.save(tmp_path, prefix="sub-01", sources=["phase.nii"])
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert table.loc[0, "reference"] == "whole brain"
    chi = nib.load(tmp_path / "sub-01/anat/sub-01_Chimap.nii.gz")
    assert np.allclose(chi.get_fdata(), result.susceptibility.chi_ppm, atol=1e-6)
    side = json.loads((tmp_path / "sub-01/anat/sub-01_Chimap.json").read_text())
    assert side["Units"] == "ppm"
    assert side["Settings"]["inversion"] == "tv"
    assert side["Supported"] is True
    other = pd.read_csv(tmp_path / "sub-01/anat/sub-01_desc-references_qsm.tsv", sep="\t")
    assert other["reference"].tolist() == ["none", "whole brain", "CSF", "white matter"]
    assert other["reference_value_ppb"].isna().tolist() == [False, False, False, True]


def test_figure(result):
    figure = figures_qsm.summary(result)
    assert "Quality: pass" in figure.get_suptitle()
    assert [ax.get_title() for ax in figure.axes[:4]][3] == "Susceptibility (ppb)"
    mpl.pyplot.close(figure)


def test_flags_say_what_a_poor_scan_cannot_support(head, tmp_path):
    crop = (slice(20, 44), slice(26, 50), slice(24, 44))
    affine = head.gre.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(head.gre.affine, [20, 26, 24])
    gre = replace(
        head.gre, magnitude=head.gre.magnitude[crop], phase_rad=head.gre.phase_rad[crop],
        affine=affine,
    )  # fmt: skip
    found = qsm.reconstruct(gre)
    assert found.status == "fail"
    assert found.unsupported_steps == ("background removal", "inversion")
    assert {"crop", "small mask"} <= {f.code for f in found.flags}
    found.save(tmp_path, prefix="sub-01")
    names = {p.name for p in (tmp_path / "sub-01" / "anat").glob("*.nii.gz")}
    assert "sub-01_desc-unsupported_Chimap.nii.gz" in names
    assert "sub-01_desc-localunsupported_fieldmap.nii.gz" in names
    assert not {"sub-01_Chimap.nii.gz", "sub-01_desc-local_fieldmap.nii.gz"} & names
    assert np.isnan(found.to_row()["chi_mean_ppb"])

    single = replace(
        head.gre, magnitude=head.gre.magnitude[..., 2:3], phase_rad=head.gre.phase_rad[..., 2:3],
        echo_times_s=head.gre.echo_times_s[2:3],
    )  # fmt: skip
    found = qsm.reconstruct(single, mask=head.brain)
    assert found.status == "warn"
    assert "one echo" in {f.code for f in found.flags}

    halves = head.brain.copy()
    halves[halves.shape[0] // 2 - 2 : halves.shape[0] // 2 + 2] = False
    found = qsm.reconstruct(head.gre, mask=halves)
    assert "pieces" in {f.code for f in found.flags}
    assert found.field.n_regions >= 2

    rng = np.random.default_rng(0)
    noise = rng.uniform(-np.pi, np.pi, head.gre.phase_rad.shape).astype(np.float32)
    with pytest.raises(InputError, match="of the mask jumps"):
        qsm.reconstruct(replace(head.gre, phase_rad=noise), mask=head.brain)

    half = np.where(rng.random(head.brain.shape)[..., None] < 0.03, noise, head.gre.phase_rad)
    found = qsm.reconstruct(replace(head.gre, phase_rad=half), mask=head.brain)
    assert "jumps" in {f.code for f in found.flags}


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"echo_times_s": np.arange(5.0, 30, 5)}, {}, "look like milliseconds"),
        ({"echo_times_s": np.array([0.005, 0.004, 0.01, 0.02, 0.03])}, {}, "positive and rising"),
        ({"echo_times_s": np.array([0.005, 0.01])}, {}, "but there are 5 echoes"),
        ({"phase_rad": np.zeros((4, 4, 4, 5), np.float32)}, {}, "phase: has shape"),
        ({}, {"mask": np.ones((4, 4, 4))}, "mask: has shape"),
        ({}, {"mask": "empty"}, "mask: holds 0 cm3"),
        ({}, {"mask": "labels"}, "give 0 and 1 only"),
        ({}, {"mask": "sheet"}, "all of them lie on its rim"),
        ({}, {"phase_sign": 0}, "phase_sign: 0"),
        (
            {},
            {"inversion": "tkd", "inversion_options": {"threshold": 1.0}},
            "threshold of tkd is 1",
        ),
        ({}, {"inversion": "medi"}, "inversion: 'medi'"),
        ({}, {"background": "sharp"}, "background: 'sharp'"),
        (
            {},
            {"background": "smv", "background_options": {"radius": 8}},
            "background_options: smv has no option radius; it has radius_mm",
        ),
        ({}, {"inversion_options": {"lambda": 1}}, "inversion_options: tv has no option lambda"),
        ({}, {"harmonic_degree": -1}, "harmonic_degree: -1; give 0"),
        ({}, {"harmonic_degree": 60}, "harmonic_degree: 60; give 0"),
    ],
)
def test_bad_input_is_refused(head, change, arguments, message):
    masks = {"empty": np.zeros(head.brain.shape), "labels": head.brain * 3}
    masks["sheet"] = np.zeros(head.brain.shape)
    masks["sheet"][:, :, head.brain.shape[2] // 2] = head.brain[:, :, head.brain.shape[2] // 2]
    if isinstance(arguments.get("mask"), str):
        arguments = {"mask": masks[arguments["mask"]]}
    with pytest.raises(InputError, match=message):
        qsm.reconstruct(replace(head.gre, **change), **arguments)


@pytest.fixture
def crop_of_a_person(public_file):
    return images.load_gre(
        public_file("gre_small_romeo", "Mag.nii"),
        public_file("gre_small_romeo", "Phase.nii"),
        echo_times_s=(0.004, 0.008, 0.012),
        field_strength_t=7,
    )


@pytest.mark.public
def test_crop_of_a_person_unwraps_without_a_jump_and_says_it_is_a_crop(crop_of_a_person):
    gre = crop_of_a_person
    found = qsm.reconstruct(gre)
    assert "ignored" in gre.phase_stored_as  # its header's scale factor is not a number
    assert found.unsupported_steps == ("background removal", "inversion")
    step = found.field.field_hz * np.float32(2 * np.pi * 0.004)
    assert unwrap.count_jumps(step, found.mask) == 0
    assert found.mask.mean() > 0.98
    assert found.to_row()["residual_p95_rad"] < 0.1
    # every echo on its own: jumps are left only beside veins in the third, where the wrapped phase
    # around some loops of four voxels does not add up to zero, which no unwrapping can mend
    for echo in range(3):
        wrapped, magnitude = gre.phase_rad[..., echo], gre.magnitude[..., echo]
        whole = unwrap.romeo(wrapped, found.mask, magnitude=magnitude).phase_rad
        open_loops = unwrap.count_open_loops(wrapped, found.mask)
        jumps = unwrap.count_jumps(whole, found.mask)
        assert unwrap.count_jumps(wrapped, found.mask) > 100
        assert jumps == 0 or open_loops > 0
        assert jumps < 0.002 * found.mask.sum()
        kept = unwrap.without_jumps(whole, found.mask)
        assert unwrap.count_jumps(whole, kept) == 0
        assert kept.sum() > 0.998 * found.mask.sum()


# --- physics: what decodes and has the right shape can still be no gradient echo -----------------


def _reversed(gre):
    return replace(gre, magnitude=gre.magnitude[..., ::-1], phase_rad=gre.phase_rad[..., ::-1])


def _exchanged(gre):
    turn = gre.magnitude / np.quantile(gre.magnitude, 0.9999)
    return replace(
        gre,
        magnitude=(gre.phase_rad + np.float32(np.pi)) * 600,
        phase_rad=np.clip(2 * np.pi * turn - np.pi, -np.pi, np.pi).astype(np.float32),
    )


def _silent(gre):
    magnitude = gre.magnitude.copy()
    magnitude[..., -1] = 0
    return replace(gre, magnitude=magnitude)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_reversed, "decay"),
        (lambda gre: replace(gre, magnitude=gre.magnitude[..., [0, 2, 1, 3, 4]]), "decay"),
        (_exchanged, "exchanged"),
        (_silent, "silent echo"),
        (lambda gre: replace(gre, echo_times_s=0.1 * gre.echo_times_s), "spread"),
        (lambda gre: replace(gre, echo_times_s=10 * gre.echo_times_s), "spread"),
        (lambda gre: replace(gre, field_strength_t=0.3), "spread"),
    ],
)
def test_what_no_gradient_echo_can_be_is_no_measurement(spoil, code):
    gre = make_gre(np.random.default_rng(5), voxel_size_mm=4).gre
    assert qsm.reconstruct(gre).status != "fail"
    result = qsm.reconstruct(spoil(gre))
    assert code in [flag.code for flag in result.flags]
    assert result.status == "fail"
    assert np.isnan(result.to_row()["chi_mean_ppb"])


def test_visits_of_other_protocols_are_told():
    """One head at two visits; what the sidecars say of the second differs."""
    gre = make_gre(np.random.default_rng(5), voxel_size_mm=4).gre
    other = make_gre(
        np.random.default_rng(6), voxel_size_mm=4, anatomy=np.random.default_rng(3)
    ).gre
    labels, table = deep_grey.labels(), deep_grey.table()

    def reasons(second):
        change = qsm.change.measure_visits(
            gre, second, labels, table, np.random.default_rng(0), n_repeats=1
        )
        assert change.status != "pass"
        return " ".join(change.reasons)

    assert "3 T at the first visit and 1.5 T" in reasons(replace(other, field_strength_t=1.5))
    later = replace(other, echo_times_s=1.1 * other.echo_times_s)
    assert "protocol: echo times of" in reasons(later)


def _from_zero(phase_rad):
    """Stored from 0 to 4095, as scanners do, and read again."""
    stored = np.round((phase_rad + np.pi) * 4095 / (2 * np.pi))
    turns = stored / 4096
    return (2 * np.pi * (turns - np.round(turns))).astype(np.float32)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            lambda gre, other: gre,
            "echo 1 of the first and echo 1 of the second hold the same phase",
        ),
        (lambda gre, other: replace(other, phase_rad=gre.phase_rad), "same phase"),
        (lambda gre, other: replace(other, phase_rad=-gre.phase_rad), "same phase"),
        (lambda gre, other: replace(other, phase_rad=gre.phase_rad[::-1]), "same phase"),
        (lambda gre, other: replace(other, phase_rad=np.round(gre.phase_rad, 3)), "same phase"),
        (lambda gre, other: replace(other, phase_rad=_from_zero(gre.phase_rad)), "same phase"),
        (lambda gre, other: replace(other, magnitude=gre.magnitude), "same magnitude"),
        (lambda gre, other: replace(other, magnitude=3 * gre.magnitude), "same magnitude"),
        (
            lambda gre, other: replace(
                other, phase_rad=np.roll(gre.phase_rad, 1, axis=3), magnitude=other.magnitude
            ),
            "echo 1 of the first and echo 2 of the second hold the same phase",
        ),
    ],
)
def test_one_scan_is_not_two_visits(head, second, words):
    """Whatever the files are called, and however the copy was stored."""
    other = make_gre(np.random.default_rng(31), voxel_size_mm=2.5).gre
    other = replace(head.gre, magnitude=other.magnitude, phase_rad=other.phase_rad)
    assert words in one_scan(head.gre, second(head.gre, other))
    assert one_scan(head.gre, other) == ""


def test_a_scan_given_twice_is_a_row_without_numbers(head):
    """Under another field strength, so that the protocols are told as well."""
    again = replace(head.gre, field_strength_t=1.5)
    found = qsm.change.measure_visits(
        head.gre, again, deep_grey.labels(), deep_grey.table(), np.random.default_rng(0),
        n_repeats=1,
    )  # fmt: skip
    assert found.status == "fail"
    assert found.reasons[0].startswith("visits: echo 1 of the first and echo 1 of the second")
    assert any("1.5 T at the second" in reason for reason in found.reasons)
    assert found.table["change_ppb"].isna().all()


def test_nuclei_that_cannot_be_placed_have_no_change():
    """A first visit that is stored upside down, under a header that says otherwise."""
    gre, other = (
        make_gre(np.random.default_rng(k), voxel_size_mm=4, anatomy=np.random.default_rng(3)).gre
        for k in (5, 6)
    )
    turned = [
        replace(g, magnitude=g.magnitude[:, ::-1, ::-1], phase_rad=g.phase_rad[:, ::-1, ::-1])
        for g in (gre, other)
    ]
    change = qsm.change.measure_visits(
        *turned, deep_grey.labels(), deep_grey.table(), np.random.default_rng(0), n_repeats=1
    )
    assert change.registration_correlation < MIN_CORRELATION["t2"]
    assert change.status == "fail"
    assert change.reasons[0].startswith("registration: ")
    assert change.table["change_ppb"].isna().all()


def test_a_pallidum_not_above_white_matter_has_no_change(monkeypatch):
    """Both visits of the other sign: their maps agree, and iron is below white matter in both."""
    gre, other = (
        make_gre(np.random.default_rng(k), voxel_size_mm=4, anatomy=np.random.default_rng(3)).gre
        for k in (5, 6)
    )
    negated = [replace(g, phase_rad=-g.phase_rad) for g in (gre, other)]
    table = deep_grey.table()
    change = qsm.change.measure_visits(
        *negated, deep_grey.labels(), table, np.random.default_rng(0), n_repeats=1
    )
    assert change.status == "fail"
    assert change.contrast_ppb < -20
    assert "negate it" in change.reasons[0]
    assert change.table["change_ppb"].isna().all()
    assert change.to_row()["pallidum_contrast_ppb"] == change.contrast_ppb


def test_an_unknown_control_is_told_before_anything_is_measured(head, monkeypatch):
    monkeypatch.setattr(qsm.change, "reconstruct", None)
    with pytest.raises(InputError, match="control: 'putamin' is not a region"):
        qsm.change.measure_visits(
            head.gre, head.gre, deep_grey.labels(), deep_grey.table(),
            np.random.default_rng(0), control="putamin",
        )  # fmt: skip


def test_a_visit_whose_phase_has_the_other_sign_is_no_change():
    gre, other = (
        make_gre(
            np.random.default_rng(5 + k), voxel_size_mm=4, anatomy=np.random.default_rng(3),
            mni_to_world=turned,
        ).gre
        for k, turned in enumerate((np.eye(4), pose((6, 3, 0), (4, -3, 2))))
    )  # fmt: skip
    labels, table = deep_grey.labels(), deep_grey.table()

    def measured(second):
        return qsm.change.measure_visits(
            gre, second, labels, table, np.random.default_rng(0), n_repeats=1
        )

    negated = measured(replace(other, phase_rad=-other.phase_rad))
    assert negated.status == "fail"
    assert negated.reasons[0].startswith("sign: ")
    assert negated.table["change_ppb"].isna().all()
    assert not any("sign" in r for r in measured(other).reasons), "what the message advises"


def test_voxels_left_out_in_one_place_deep_inside_are_named_as_a_strong_source(head):
    at = np.argwhere(head.brain).mean(axis=0).reshape(3, 1, 1, 1)
    away_mm = 2.5 * np.linalg.norm(np.indices(head.brain.shape) - at, axis=0)
    steep = np.random.default_rng(4).uniform(-np.pi, np.pi, head.gre.phase_rad.shape)
    for radius_mm, is_flagged in ((2.0, False), (7.0, True)):  # one voxel, and many
        phase = np.where((away_mm < radius_mm)[..., None], steep, head.gre.phase_rad)
        gre = replace(head.gre, phase_rad=phase.astype(np.float32))
        codes = {flag.code for flag in qsm.reconstruct(gre, inversion="tkd").flags}
        assert ("strong source" in codes) == is_flagged


def test_harmonic_susceptibility_is_removed_after_the_methods_that_keep_the_slow_field(head):
    for background in ("lbv", "pdf", "vsharp"):
        given = {"background": background, "inversion": "tkd"}
        kept = qsm.reconstruct(head.gre, harmonic_degree=0, **given)
        found = qsm.reconstruct(head.gre, **given)
        inside = found.local_field.mask
        difference = 1e3 * (found.susceptibility.chi_ppm - kept.susceptibility.chi_ppm)[inside]
        assert (difference.std() > 0.5) == (background != "vsharp")
        assert found.settings["harmonic_degree"] == (0 if background == "vsharp" else 6)


def test_a_method_that_runs_out_of_iterations_is_a_warning(head):
    few = {"max_iterations": 2}
    hurried = (
        {"background": "lbv", "background_options": {"max_sweeps": 2}, "inversion": "tkd"},
        {"background": "pdf", "background_options": few, "inversion": "tkd"},
        {"inversion": "tikhonov", "inversion_options": few},
        {"inversion": "tv", "inversion_options": {"max_iterations": 1}},
    )
    for given in hurried:
        found = qsm.reconstruct(head.gre, **given)
        assert found.status != "pass", given
        assert "unsettled" in [flag.code for flag in found.flags], given
    assert not qsm.reconstruct(head.gre).flags
