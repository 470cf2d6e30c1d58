"""Iterative inversions, background methods, sources, regions and change, against known truth."""

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pvsbook import InputError, images, qsm
from pvsbook.atlas import deep_grey, registration
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import make_gre
from pvsbook.qsm import (
    _change_error,
    _slopes,
    alignment,
    background,
    change,
    dipole,
    field,
    inversion,
    lesions,
    microbleeds,
    r2s,
    regions,
    separation,
    swi,
    unwrap,
)  # fmt: skip

SIZE = np.array([1.0, 1.2, 0.9])
B0 = np.array([0.1, -0.2, 0.97])
GRID = (np.indices((40, 36, 38)) - np.array([20, 18, 19]).reshape(3, 1, 1, 1)) * SIZE.reshape(
    3, 1, 1, 1
)
RADIUS = np.linalg.norm(GRID, axis=0)
MASK = RADIUS < 15
CHI = np.where(np.linalg.norm(GRID - 3, axis=0) < 4, 0.1, 0.0) - np.where(
    np.linalg.norm(GRID + 5, axis=0) < 3, 0.06, 0.0
)
FIELD = dipole.dipole_field(CHI, SIZE, B0, pad_mm=40)


def inverted_after_smv(field_ppm):
    local = background.smv(field_ppm, np.ones_like(MASK), SIZE, radius_mm=4)
    inside = MASK & local.mask
    return inversion.tv(local.field_ppm, inside, SIZE, B0, ball_mm=4, max_iterations=100)


def slope(found):
    inside = MASK & (np.abs(CHI) > 0.01)
    return np.polyfit(CHI[inside], found[inside], 1)[0]


def test_closed_form_l2_equals_an_independent_float64_inversion():
    rng = np.random.default_rng(0)
    shape, lam = (9, 8, 10), 0.07
    data, mask = rng.normal(0, 0.1, shape), rng.random(shape) > 0.2
    k = np.meshgrid(*map(np.fft.fftfreq, shape, SIZE), indexing="ij")
    square = sum(a**2 for a in k)
    square[0, 0, 0] = 1
    kernel = 1 / 3 - k[2] ** 2 / square
    kernel[0, 0, 0] = 0
    gradient = sum(
        np.abs(np.exp(2j * np.pi * a * s) - 1) ** 2 / s**2 for a, s in zip(k, SIZE, strict=True)
    )
    below = kernel**2 + lam**2 * gradient
    below[0, 0, 0] = 1
    expected = np.fft.ifftn(np.fft.fftn(np.where(mask, data, 0)) * kernel / below).real
    found = inversion.closed_form_l2(data, mask, SIZE, regularisation=lam, pad_mm=0)
    assert dipole.padded_shape(shape, SIZE, 0) == shape
    assert np.abs(found - np.where(mask, expected, 0)).max() < 1e-5


@pytest.mark.parametrize(
    ("solve", "low"),
    [
        (lambda f: inversion.tikhonov(f, MASK, SIZE, B0), 0.75),
        (lambda f: inversion.ndi(f, MASK, SIZE, B0, radians_per_ppm=12), 0.75),
        (lambda f: inversion.tv(f, MASK, SIZE, B0, regularisation=1e-4), 0.93),
        (lambda f: inversion.tv(f, MASK, SIZE, B0, weight=MASK * 2.0), 0.9),
        (lambda f: inversion.tv(f, MASK, SIZE, B0, magnitude=CHI), 0.9),
        (lambda f: inverted_after_smv(f), 0.85),
    ],
)
def test_iterative_inversions_come_near_the_truth_and_stop(solve, low):
    found = solve(FIELD)
    assert low < slope(found.chi_ppm) < 1.1
    assert not found.chi_ppm[~MASK].any()
    assert found.n_iterations > 1
    assert found.change < 0.02


def test_tv_reaches_the_minimum_of_its_objective():
    # No small step may lower the objective: the fixed point of ADMM is the minimiser.
    lam = 5e-4
    field_ = np.where(MASK, FIELD, 0)
    found = inversion.tv(
        field_, MASK, SIZE, B0, regularisation=lam, tolerance=1e-5, max_iterations=600, pad_mm=0
    )
    whole = inversion.tv(
        field_, np.ones_like(MASK), SIZE, B0, regularisation=lam, tolerance=1e-5,
        max_iterations=600, pad_mm=0,
    ).chi_ppm.astype(np.float64)  # fmt: skip
    assert np.allclose(whole[MASK], found.chi_ppm[MASK], atol=1e-6)

    def objective(chi):
        misfit = dipole.dipole_field(chi, SIZE, B0, pad_mm=0) - field_
        steps = [(np.roll(chi, -1, a) - chi) / s for a, s in enumerate(SIZE)]
        return 0.5 * (misfit**2).sum() + lam * np.sqrt(sum(s**2 for s in steps)).sum()

    rng = np.random.default_rng(1)
    best = objective(whole)
    for _ in range(5):
        step = ndimage.gaussian_filter(rng.standard_normal(whole.shape), 1.5)
        step -= step.mean()
        assert objective(whole + 2e-3 * step) > best - 1e-6


def test_passes_of_tv_bring_back_the_contrast_that_the_penalty_took_before_the_noise():
    for seed in range(3):
        noisy = FIELD + np.random.default_rng(seed).normal(0, 0.002, FIELD.shape)
        for weight in (None, MASK):
            known = {"weight": weight, "tolerance": 0.003, "max_iterations": 40}
            once, thrice, weak = (
                inversion.tv(noisy, MASK, SIZE, B0, regularisation=r, passes=n, **known).chi_ppm
                for r, n in ((8e-4, 1), (8e-4, 3), (8e-5, 1))
            )
            assert abs(slope(thrice) - 1) < 0.6 * abs(slope(once) - 1)
            even = (RADIUS < 13) & (CHI == 0)
            assert thrice[even].std() < 0.9 * weak[even].std()


@pytest.mark.parametrize(
    "run",
    [
        lambda n: background.resharp(FIELD, MASK, SIZE, radius_mm=3, max_iterations=n),
        lambda n: background.pdf(FIELD, MASK, SIZE, B0, max_iterations=n),
        lambda n: background.lbv(FIELD, MASK, SIZE, max_sweeps=n),
        lambda n: inversion.tikhonov(FIELD, MASK, SIZE, B0, max_iterations=n),
        lambda n: inversion.ndi(FIELD, MASK, SIZE, B0, radians_per_ppm=12, max_iterations=n),
        lambda n: inversion.ndi(FIELD, MASK, SIZE, B0, radians_per_ppm=300, max_iterations=n),
        lambda n: inversion.tv(FIELD, MASK, SIZE, B0, max_iterations=n),
        lambda n: inversion.tv(FIELD, MASK, SIZE, B0, weight=MASK, max_iterations=n),
        lambda n: inversion.tv(FIELD, MASK, SIZE, B0, passes=3, max_iterations=n),
        lambda n: inversion.tv(FIELD, MASK, SIZE, B0, magnitude=CHI, max_iterations=n),
    ],
)
def test_an_iterative_method_says_whether_it_met_its_tolerance(run):
    assert not run(1).is_settled
    assert run(400).is_settled


def test_ndi_does_not_mind_a_missed_wrap():
    radians = 60.0
    wrapped = FIELD.copy()
    spot = np.unravel_index(np.argmax(np.where(MASK & (RADIUS < 6), FIELD, 0)), FIELD.shape)
    wrapped[spot] -= 2 * np.pi / radians
    clean, again = (
        inversion.ndi(f, MASK, SIZE, B0, radians_per_ppm=radians).chi_ppm for f in (FIELD, wrapped)
    )
    linear, spoiled = (inversion.tikhonov(f, MASK, SIZE, B0).chi_ppm for f in (FIELD, wrapped))
    assert np.abs(again - clean).max() < 0.1 * np.abs(spoiled - linear).max()


@pytest.mark.parametrize(
    "call",
    [
        lambda: inversion.closed_form_l2(FIELD, MASK, SIZE, regularisation=0),
        lambda: inversion.tikhonov(FIELD, MASK, SIZE, regularisation=-1),
        lambda: inversion.tv(FIELD, MASK, SIZE, regularisation=0),
        lambda: inversion.tv(FIELD, MASK, SIZE, weight=-1.0 * MASK),
        lambda: background.resharp(FIELD, MASK, SIZE, radius_mm=40),
        lambda: r2s.fit_r2s(np.ones((3, 3, 3, 1)), [0.01]),
        lambda: r2s.fit_r2s(np.ones((3, 3, 3, 2)), [0.01, 0.02], np.ones((2, 2, 2))),
        lambda: separation.separate(CHI, CHI, MASK[1:]),
        lambda: separation.separate(CHI, CHI, MASK, relaxivity_hz_ppm=0),
        lambda: swi.weight_by_phase(CHI, CHI[1:], SIZE),
        lambda: microbleeds.find_small_sources(CHI, MASK[1:], CHI, np.eye(4), measured=MASK),
        lambda: lesions.measure_lesions(CHI, MASK[1:], MASK, np.eye(4), np.random.default_rng(0)),
        lambda: lesions.measure_lesions(CHI, ~MASK, MASK, np.eye(4), np.random.default_rng(0)),
        lambda: unwrap.laplacian(np.full((4, 4, 4), np.nan), SIZE),
        lambda: field.check_readout(np.zeros((3, 3, 3, 2)), 0, [0.01, 0.02], MASK, SIZE),
        lambda: regions.measure_regions(CHI, CHI[1:], deep_grey.table(), MASK, SIZE),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()


@pytest.mark.parametrize(
    ("remove", "share"),
    [
        (lambda f, m: background.lbv(f, m, SIZE, tolerance=1e-6), 0.05),
        (lambda f, m: background.vsharp(f, m, SIZE), 0.05),
        (lambda f, m: background.resharp(f, m, SIZE), 0.05),
        (lambda f, m: background.smv(f, m, SIZE), 0.05),
        (lambda f, m: background.pdf(f, m, SIZE, B0, tolerance=1e-3), 0.2),
    ],
)
def test_background_methods_remove_an_outer_source_on_anisotropic_voxels(remove, share):
    big = np.indices((40, 36, 60)) - np.array([20, 18, 19]).reshape(3, 1, 1, 1)
    big = big * SIZE.reshape(3, 1, 1, 1)
    away = np.linalg.norm(big - np.array([0, 0, 25]).reshape(3, 1, 1, 1), axis=0)
    outer = 6.0 * np.clip((5 - away) / 4 + 0.5, 0, 1)  # a soft edge, which does not ring
    far = dipole.dipole_field(outer, SIZE, B0, pad_mm=40)[:, :, :38]
    deep = RADIUS < 8
    assert far[deep].std() > 0.01
    found = remove(FIELD + far, MASK)
    alone = remove(FIELD, MASK)
    left = np.abs(found.field_ppm - alone.field_ppm)[deep & found.mask].max()
    assert left < share * np.ptp(far[deep])
    assert not found.mask[~MASK].any()


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(1, 200), first=st.floats(1e-3, 1e-2), gap=st.floats(2e-3, 1e-2))
def test_r2s_of_a_pure_decay_is_exact(rate, first, gap):
    times = first + gap * np.arange(5)
    magnitude = 700 * np.exp(-rate * times)
    found = r2s.fit_r2s(magnitude[None, None, None], times).item()
    assert found == pytest.approx(rate, rel=2e-3)


@settings(max_examples=30, deadline=None)
@given(iron=st.floats(0, 0.3), myelin=st.floats(0, 0.3), zero=st.floats(-0.05, 0.05))
def test_separation_inverts_its_own_equations(iron, myelin, zero):
    one = np.ones((2, 2, 2))
    found = separation.separate(
        (iron - myelin + zero) * one, 137 * 7 / 3 * (iron + myelin) * one, one,
        field_strength_t=7, zero_ppm=zero,
    )  # fmt: skip
    assert found.iron_ppm == pytest.approx(iron, abs=1e-6)
    assert found.myelin_ppm == pytest.approx(myelin, abs=1e-6)


def test_laplacian_unwraps_a_smooth_volume_up_to_a_constant():
    rng = np.random.default_rng(2)
    truth = ndimage.gaussian_filter(rng.standard_normal((14, 12, 10)), 3) * 60
    error = unwrap.laplacian(unwrap.wrap(truth), SIZE) - truth
    assert np.ptp(error) < 1e-3


def test_swi_darkens_what_is_paramagnetic():
    phase = np.zeros((20, 20, 20))
    phase[10, 10, :] = 1.0
    phase[5, 5, :] = -1.0
    image = swi.weight_by_phase(np.ones(phase.shape), phase, (1, 1, 1))
    assert image[10, 10, 10] < 0.4 < 0.9 < image[5, 5, 10]
    assert swi.minimum_projection(image, (1, 1, 2), thickness_mm=8).min() == image.min()


def test_two_visits_give_the_known_change_and_an_alignment():
    # Same anatomy, new noise and shim, head turned: only the caudate changes.
    turned = pose((6, 3, 0), (4, -3, 2))
    heads = [
        make_gre(
            np.random.default_rng(40 + k), voxel_size_mm=2.5, mni_to_world=at,
            anatomy=np.random.default_rng(4), chi_ppb=chi,
        )
        for k, (at, chi) in enumerate(((np.eye(4), {}), (turned, {"caudate": 64.0})))
    ]  # fmt: skip
    results = [qsm.reconstruct(h.gre) for h in heads]
    between = alignment.align_visits(
        *(h.image(h.gre.magnitude[..., 4]) for h in heads), *(r.mask for r in results)
    )
    miss = between.first_to_second @ np.linalg.inv(turned)
    assert np.abs(miss - np.eye(4))[:3, :3].max() < 0.01
    assert np.abs(miss - np.eye(4))[:3, 3].max() < 0.5
    assert between.overlap > 0.97
    halves = np.linalg.inv(between.second_to_halfway) @ between.first_to_halfway
    assert np.allclose(halves, between.first_to_second, atol=1e-6)
    table = deep_grey.table().head(8)
    pairs = tuple((h.gre, r) for h, r in zip(heads, results, strict=True))
    arguments = (deep_grey.labels(), between.first_to_halfway, table)
    found = change.measure_change(
        *pairs, *arguments, np.random.default_rng(0), alignment=between, control="putamen"
    )
    moved = found.table.groupby("region")["change_ppb"].mean()
    assert moved["caudate"] - moved["putamen"] == pytest.approx(20, abs=6)
    shares = found.table.filter(regex=r"(noise|placement|registration|pose)_error_ppb")
    assert shares.shape[1] == 4
    assert (shares > 0).all(axis=None)
    assert np.allclose(np.linalg.norm(shares, axis=1), found.table["error_ppb"])
    assert set(found.table.columns) == set(change.REGION_COLUMNS)
    assert "caudate_left_change_ppb" in found.to_row()
    assert found.tilt_difference_deg == pytest.approx(6.7, abs=0.5)
    other = qsm.reconstruct(heads[1].gre, inversion="tkd")
    with pytest.raises(InputError, match="reconstructed differently"):
        change.measure_change(
            pairs[0], (heads[1].gre, other), *arguments, np.random.default_rng(0),
            alignment=between,
        )  # fmt: skip
    with pytest.raises(InputError, match="control: 'pons'"):
        change.measure_change(
            *pairs, *arguments, np.random.default_rng(0), alignment=between, control="pons"
        )


def test_a_region_is_the_same_on_two_grids():
    """A map of fine stripes: whole voxels of two grids would hold other parts of them."""
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[6:18, 6:18, 6:18] = 1
    labels = images.make(labels, np.eye(4))
    table = pd.DataFrame({"label": [1], "region": ["putamen"], "side": ["left"]})
    points, point_mm3 = _change_error.region_points(labels, table, 1)
    assert len(points[0]) == 1000
    assert point_mm3 == 1
    means = []
    for at in (pose((0, 0, 0)), pose((8, 0, 0), (0.7, 0.3, -0.4))):
        affine = at @ np.diag([2.0, 2, 2, 1]) @ nib.affines.from_matvec(np.eye(3), (-3, -3, -3))
        x = nib.affines.apply_affine(np.linalg.inv(at) @ affine,
                                     np.moveaxis(np.indices((20, 20, 20)), 0, -1))  # fmt: skip
        chi = 0.05 * np.tanh(x[..., 0] - 12) + 0.02 * (x[..., 1] > 9)
        result = SimpleNamespace(
            local_field=SimpleNamespace(mask=np.ones(chi.shape, bool)),
            susceptibility=SimpleNamespace(chi_ppm=chi.astype(np.float32)),
            affine=affine,
        )
        visit = _change_error.Visit(result, at, point_mm3)
        means.append(visit.measure(visit.chi_ppm, points).iloc[0])
        moved = visit.moved_ppb(points)
        assert moved.shape == (3, 1)
        assert abs(moved[0, 0]) > 5, "a label that crosses an edge moves with it"
        assert abs(moved[2, 0]) < 1, "there is no edge along z"
    assert means[0]["n_voxels"] == means[1]["n_voxels"] == 125
    assert means[0]["mean_ppb"] == pytest.approx(means[1]["mean_ppb"], abs=1.0)
    known = np.zeros((20, 20, 20), bool)
    known[:9] = True
    visit.known = known.astype(np.float32)
    ((part,), whole) = _change_error.in_both([visit], points), points[0]
    assert 0 < len(part) < len(whole)


def test_every_share_is_in_the_error_of_a_change():
    shares = _change_error.errors_ppb(
        [np.array([3.0]), np.array([4.0])], [np.zeros((3, 1)), np.full((3, 1), 2.0)], 10.0
    )
    assert shares["noise_error_ppb"] == [5.0]
    assert shares["placement_error_ppb"] == pytest.approx([2 * np.sqrt(3)])
    assert shares["registration_error_ppb"] == pytest.approx([0.2 * np.sqrt(3)])
    assert shares["pose_error_ppb"] == pytest.approx([np.hypot(0.8, 1.3)])


@pytest.mark.parametrize("n", [2, 4])
def test_the_interval_of_a_slope_holds_the_truth(n):
    rng = np.random.default_rng(n)
    years = np.arange(1, n + 1) * np.array(1.3)
    errors = np.sqrt(1.0 + np.linspace(1, 2, n) ** 2)  # first visit 1 ppb, later ones 1 to 2
    inside = []
    for _ in range(400):
        values = np.r_[0, 2.0 * years] + rng.normal(0, np.r_[1, np.linspace(1, 2, n)])
        found = _slopes.fit_slope(years, values[1:] - values[0], errors)
        inside.append(found["low_ppb_per_year"] < 2 < found["high_ppb_per_year"])
    assert 0.92 < np.mean(inside) <= 1
    line = _slopes.fit_slope([1, 2, 3], [9.0, 0.0, 9.0], [0.1, 0.1, 0.1])
    assert line["scatter"] > 10
    assert line["se_ppb_per_year"] > 1, "scatter beyond the errors widens it"


def test_doubts_are_said():
    heads = [
        make_gre(
            np.random.default_rng(k), voxel_size_mm=4, anatomy=np.random.default_rng(4),
            chi_ppb={"putamen": chi_ppb},
        )
        for k, chi_ppb in enumerate((30.0, 90.0))
    ]  # fmt: skip
    first, second = ((h.gre, qsm.reconstruct(h.gre, mask=h.brain)) for h in heads)
    found = change.measure_change(
        first,
        second,
        deep_grey.labels(),
        np.eye(4),
        deep_grey.table().query("region == 'putamen'"),
        np.random.default_rng(0),
        alignment=alignment.Alignment(pose((20, 0, 0)), 0.5, 20.0),
        control="putamen",
        erode=0,
        n_repeats=1,
    )
    assert {r.split(":")[0] for r in found.reasons} >= {"overlap", "tilt", "control"}


def test_labels_are_resampled_not_blurred():
    rng = np.random.default_rng(5)
    values = rng.integers(0, 5, (8, 8, 8)).astype(np.uint8)
    labels = images.make(values, np.diag([2.0, 2, 2, 1]))
    resampled = registration.resample_labels(
        labels, pose((10, 0, 0), (1, 0, 0)), (9, 9, 9), np.eye(4) * 2
    )
    assert set(np.unique(resampled)) <= set(range(5))
    frame = regions.measure_regions(
        values * 0.01, values, pd.DataFrame({"label": [9], "region": ["x"], "side": ["left"]}),
        values >= 0, (1, 1, 1),
    )  # fmt: skip
    assert np.isnan(frame["mean_ppb"].iloc[0])


def test_smv_leaves_the_ball_mean_to_tv_alone():
    gre = make_gre(np.random.default_rng(0), voxel_size_mm=4).gre
    found = qsm.reconstruct(gre, **change.SETTINGS)
    assert found.settings["background"] == "smv"
    assert found.local_field.ball_mm == 5
    with pytest.raises(InputError, match="ball mean that background 'smv' subtracts"):
        qsm.reconstruct(gre, background="smv", inversion="tkd")


def test_sign_check_and_every_method_runs_from_the_pipeline():
    head = make_gre(np.random.default_rng(12), voxel_size_mm=3.5)
    pallidum = np.isin(head.labels, (5, 6)) | (head.veins > 0.2) | (head.labels == 7)
    white = (head.chi_ppm < -0.02) & head.brain
    for name in ("lbv", "vsharp", "resharp", "pdf"):
        result = qsm.reconstruct(head.gre, mask=head.brain, background=name, inversion="tkd")
        assert regions.phase_sign_agrees(result, white, pallidum)
    for name in ("edge tv", "l2", "tikhonov", "ndi"):
        result = qsm.reconstruct(head.gre, mask=head.brain, inversion=name)
        assert regions.phase_sign_agrees(result, white, pallidum)
    wrong = qsm.reconstruct(head.gre, mask=head.brain, phase_sign=-1)
    assert not regions.phase_sign_agrees(wrong, white, pallidum)
    with pytest.raises(InputError, match="diamagnetic"):
        regions.phase_sign_agrees(wrong, white & False, pallidum)


def test_a_bipolar_scan_is_told_and_mended():
    head = make_gre(np.random.default_rng(13), voxel_size_mm=3)
    ramp = np.linspace(-0.6, 0.6, head.brain.shape[1], dtype=np.float32)[None, :, None, None]
    phase = head.gre.phase_rad.copy()
    phase[..., 1::2] += ramp
    spoiled = replace(head.gre, phase_rad=unwrap.wrap(phase))
    good, mended = (qsm.reconstruct(g, mask=head.brain) for g in (head.gre, spoiled))
    assert "bipolar" not in {f.code for f in good.flags}
    assert "bipolar" in {f.code for f in mended.flags}
    both = good.local_field.mask & mended.local_field.mask
    difference = good.susceptibility.chi_ppm - mended.susceptibility.chi_ppm
    assert 1e3 * difference[both].std() < 8


def test_phantom_sources_bleeds_and_anisotropy():
    plain, aniso = (
        make_gre(
            np.random.default_rng(6), voxel_size_mm=4, sources=True, anisotropy_ppb=a,
            n_microbleeds=5, anatomy=np.random.default_rng(6),
        )
        for a in (0.0, 30.0)
    )  # fmt: skip
    tissue = plain.brain & (plain.veins == 0) & (plain.calcification == 0) & (plain.bleeds == 0)
    net = (plain.iron_ppm - plain.myelin_ppm - plain.chi_ppm)[tissue]
    assert np.quantile(np.abs(net), 0.95) < 5e-3
    assert plain.bleeds.max() > 0.05
    moved = 1e3 * (aniso.chi_ppm - plain.chi_ppm)[plain.brain]
    assert moved.min() == pytest.approx(-10, abs=1)  # across: -1/3 of 30 ppb
    assert moved.max() == pytest.approx(20, abs=2)  # along: 2/3
    with pytest.raises(InputError, match="myelin_ppb"):
        make_gre(np.random.default_rng(0), myelin_ppb={"bone": 1.0})
