"""One source for each fact of a method: options, columns, command, settings, tables."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pvsbook import InputError, cli, images, methods
from pvsbook.bids import app, group, inputs
from pvsbook.bids.measure import measure_files
from pvsbook.derivatives import Writer
from pvsbook.method import Input, Method, Option, Shown, describe_columns
from pvsbook.visit import Found

ROOT = Path(__file__).resolve().parents[2]


def core(method: Method) -> dict[str, inspect.Parameter]:
    module, _, name = method.core.rpartition(".")
    return dict(inspect.signature(getattr(import_module(module), name)).parameters)


@pytest.mark.parametrize("method", methods.ALL, ids=lambda m: m.name)
def test_every_keyword_of_the_library_is_an_option_or_has_a_reason(method):
    keywords = {n for n, p in core(method).items() if p.kind is p.KEYWORD_ONLY}
    options = {o.name for o in method.options}
    assert keywords <= options | set(method.kept_back)
    assert not options & set(method.kept_back)
    assert set(method.kept_back) <= set(core(method)), "a reason for a keyword that is gone"
    assert all(len(reason.split()) > 2 for reason in method.kept_back.values())


@pytest.mark.parametrize("method", methods.ALL, ids=lambda m: m.name)
def test_a_default_is_that_of_the_library(method):
    from pvsbook.alps.regions import SPHERES_5_MM
    from pvsbook.qsm import change

    same = {"5mm": SPHERES_5_MM}
    for option in method.options:
        parameter = core(method).get(option.name)
        if parameter is None or parameter.default is parameter.empty:
            continue
        if option.type is dict:
            assert not option.default
            assert not parameter.default
        else:
            assert parameter.default == same.get(option.default, option.default)
    if method.name == "qsmchange":
        recipe = change.SETTINGS
        assert method.defaults["background"] == recipe["background"]
        assert method.defaults["inversion"] == recipe["inversion"]
        options = {"regularisation": method.defaults["regularisation"]}
        assert options == recipe["inversion_options"]


def test_the_choices_are_those_of_the_library():
    from pvsbook.qsm import pipeline

    for name in ("qsm", "qsmchange"):
        options = {o.name: o for o in methods.by_name(name).options}
        assert set(options["background"].choices) == set(pipeline.BACKGROUNDS)
        assert set(options["inversion"].choices) == set(pipeline.INVERSIONS)


@pytest.mark.parametrize("method", methods.ALL, ids=lambda m: m.name)
def test_what_a_group_page_draws_are_columns(method):
    assert set(method.key_columns) <= set(method.columns)
    assert all(column["Description"] for column in method.columns.values())


def test_no_other_file_knows_a_method_by_name():
    shared = [*(ROOT / "pvsbook" / "bids").glob("*.py")]
    shared += [ROOT / "pvsbook" / f"{name}.py" for name in ("cli", "report", "jobs", "method")]
    names = re.compile(r"[\"'](?:pvs|alps|qsm|qsmchange)[\"']")
    for path in shared:
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        assert not names.search(code), path.name


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (Option("k", 1.0, "h"), "2", "give a number"),
        (Option("k", 1, "h"), 1.5, "give a whole number"),
        (Option("k", 1.0, "h"), float("nan"), "give a number"),
        (Option("k", 1.0, "h"), None, "give a number"),
        (Option("k", False, "h"), 1, "give true or false"),
        (Option("k", "a", "h", choices=("a", "b")), "c", "choose from a, b"),
        (Option("k", 1, "h", choices=(1, -1)), True, "choose from 1, -1"),
        (Option("k", 1, "h"), 1000.0, "give a whole number"),
        (Option("k", 1.0, "h"), 10**400, "give a number"),
        (Option("k", 1.0, "h"), "1e-4", "YAML reads 1e-4 as text; write 1.0e-4"),
        (Option("k", {}, "h"), [1], "give settings by name"),
        (Option("k", {}, "h"), {"a": "1e-4"}, "a must be a number .* write 1.0e-4"),
        (Option("k", {}, "h"), {"a": None}, "a must be a number or a list of numbers"),
        (Option("k", {}, "h"), {"a": []}, "a must be a number or a list of numbers"),
        (Option("k", None, "h", kind=list), "hello", "give a list of numbers"),
        (Option("k", None, "h", kind=list), ["4e-3"], "write 1.0e-4"),
        (Option("k", None, "h", kind=list), [], "give a list of numbers"),
        (Option("k", "a", "h"), 1, "give text"),
        (Option("k", "a", "h", choices=("a",), or_file=True), "x/y.nii", "no such file"),
        (Option("k", "a", "h", choices=("a",), or_file=True), "b", "choose from a, or give the"),
        (Option("k", None, "h", kind=Path), "x/y.nii", "no such file; correct the path"),
        (Option("k", None, "h", kind=Path), "x.txt", "give the path of a NIfTI file"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused(option, value, message):
    with pytest.raises(InputError, match=message):
        option.check(value, "here")
    option.check(option.default, "here")


# --- a method that nobody knew -----------------------------------------------------------------


@dataclass(frozen=True)
class Volume:
    """Volume of what is bright."""

    volume_ml: float
    status: str = "pass"
    reasons: tuple[str, ...] = ()

    def to_row(self):
        return {"volume_ml": self.volume_ml, "status": self.status}

    def save(self, folder, *, prefix="sub-scan", sources=()):
        writer = Writer(folder, prefix=prefix, datatype="anat", sources=sources)
        writer.table(self.to_row(), TOY.columns, "toy")


def measure_volume(image, *, threshold):
    scan = images.load(image[0])
    n_voxels = int((images.array(scan) > threshold).sum())
    return Volume(n_voxels * float(np.prod(images.voxel_size_mm(scan))) / 1000)


def show_volume(result):
    figure, ax = plt.subplots()
    ax.bar(["volume"], [result.volume_ml])
    return Shown(f"{result.volume_ml:.3g} ml are bright.", [(figure, "One bar.", "The volume.")])


def find_flair(visit):
    files = visit.select("anat", "FLAIR")
    return Found({"image": [str(files[0].path)]}) if files else Found(lacks=("no FLAIR",))


TOY_COLUMNS = describe_columns(
    ("volume_ml", "volume above the threshold", "mL"), ("status", "pass, warn or fail")
)
TOY = Method(
    name="toy",
    title="Bright volume",
    help="Measure what is bright.",
    inputs=(Input("image", "FLAIR scan.", is_option=False),),
    options=(Option("threshold", 1.0, "Above it, a voxel is bright."),),
    measure=measure_volume,
    columns_at="test_methods.TOY_COLUMNS",
    show=show_volume,
    find=find_flair,
    limits=("What is bright need not be a lesion.",),
    key_columns={"volume_ml": "bright volume (ml)"},
    datatype="anat",
    suffix="toy",
)


@pytest.fixture
def with_toy(monkeypatch):
    monkeypatch.setattr(methods, "ALL", (*methods.ALL, TOY))


def test_a_fourth_method_is_one_object(with_toy, monkeypatch, capsys, tmp_path):
    """Command, settings, BIDS run, group table and pages follow from it alone."""
    for label, level in (("a", 2.0), ("b", 0.5)):
        cube = np.zeros((10, 10, 10), np.float32)
        cube[:5] = level
        images.save(
            images.make(cube, np.eye(4)),
            tmp_path / f"bids/sub-{label}/anat/sub-{label}_FLAIR.nii.gz",
        )
    settings = tmp_path / "settings.yml"
    settings.write_text("toy: {threshold: 0.2}\n")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["pvsbook", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), capsys.readouterr().out

    scan = tmp_path / "bids/sub-a/anat/sub-a_FLAIR.nii.gz"
    code, out = call("toy", scan, "--out", tmp_path / "one", "--threshold", "1.5")
    assert (code, "0.5 ml are bright" in out) == (0, True)
    assert json.loads((tmp_path / "one/sub-a/anat/sub-a_toy.json").read_text())["volume_ml"]
    assert (
        "What is bright need not be a lesion."
        in next((tmp_path / "one").rglob("*desc-report_toy.html")).read_text()
    )

    folder = inputs.find(tmp_path / "bids", methods=["toy"])
    out = tmp_path / "out"
    records = list(app.run_participants(folder, out, settings=app.read_settings(settings)))
    assert [r.status for r in records] == ["done", "done"]
    group.summarise(folder, out, settings=app.read_settings(settings))
    table = pd.read_csv(out / "group_toy.tsv", sep="\t")
    assert table["volume_ml"].tolist() == [0.5, 0.5]
    assert "Bright volume" in (out / "group.html").read_text()
    assert "0.5 ml are bright" in (out / "sub-b.html").read_text()
    settings.write_text("toy: {level: 1}\n")
    with pytest.raises(InputError, match="toy has no option level; it has threshold"):
        app.read_settings(settings)


def test_what_an_earlier_run_wrote_goes_and_a_failure_changes_nothing(tmp_path):
    """A map that is now unsupported must not stay under its ordinary name."""
    scan = tmp_path / "sub-a_FLAIR.nii.gz"
    cube = np.zeros((10, 10, 10), np.float32)
    cube[:5] = 2
    images.save(images.make(cube, np.eye(4)), scan)

    class WithMap(Volume):
        desc = "good"

        def save(self, folder, *, prefix="sub-scan", sources=()):
            super().save(folder, prefix=prefix, sources=sources)
            Writer(folder, prefix=prefix).text("map", "toymap", ".txt", desc=self.desc)

    class Unsupported(WithMap):
        desc = "unsupported"

    def toy(result, show=show_volume):
        return replace(TOY, measure=lambda image, *, threshold: result(0.5), show=show)

    out = tmp_path / "out"
    own = out / "sub-a" / "anat" / "notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("of the user")
    measure_files(toy(WithMap), {"image": scan}, out)
    measure_files(toy(Unsupported), {"image": scan}, out)
    assert [p.name for p in out.rglob("*toymap.txt")] == ["sub-a_desc-unsupported_toymap.txt"]
    assert own.read_text() == "of the user"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def broken(result):
        raise ValueError("cannot be drawn")

    with pytest.raises(ValueError, match="cannot be drawn"):
        measure_files(toy(WithMap, broken), {"image": scan}, out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_record_of_results_removes_nothing_elsewhere(tmp_path):
    scan = tmp_path / "sub-a_FLAIR.nii.gz"
    cube = np.zeros((10, 10, 10), np.float32)
    cube[:5] = 2
    images.save(images.make(cube, np.eye(4)), scan)
    out = tmp_path / "out"
    measure_files(TOY, {"image": scan}, out, threshold=1.0)
    (record,) = out.rglob("*desc-sources_toy.json")
    outside, other = tmp_path / "sub-a_x.txt", record.parent / "mine.txt"
    for path in (outside, other):
        path.write_text("kept")
    known = json.loads(record.read_text())
    digest = hashlib.sha256(b"kept").hexdigest()
    names = ["../../../sub-a_x.txt", "mine.txt", str(outside)]
    record.write_text(json.dumps({**known, "Outputs": {name: [digest] for name in names}}))
    with pytest.raises(InputError, match="is not as pvsbook wrote it"):
        measure_files(TOY, {"image": scan}, out, threshold=2.0)
    outputs = {**known["Outputs"], **{name: [digest] for name in names}, "sub-a_x": 3}
    record.write_text(json.dumps({**known, "Outputs": outputs}))
    measure_files(TOY, {"image": scan}, out, threshold=1.0)
    assert outside.exists()
    assert other.exists()


def test_settings_of_the_scanner_hold_for_change_too(tmp_path):
    settings = tmp_path / "s.yml"
    settings.write_text(
        "qsm: {echo_times_s: [0.003, 0.006, 0.009], phase_sign: -1, inversion: tkd}"
    )
    read = app.read_settings(settings)
    assert read["qsmchange"] == {"echo_times_s": [0.003, 0.006, 0.009], "phase_sign": -1}
    settings.write_text("qsmchange: {first_session: ses-9}")
    with pytest.raises(InputError, match="qsmchange has no option first_session"):
        app.read_settings(settings)


def test_regularisation_of_another_inversion_is_refused():
    with pytest.raises(InputError, match="belongs to TV and the inversion is tkd"):
        methods.by_name("qsmchange").check(
            {"inversion": "tkd", "regularisation": 0.7, "background": "pdf"}, "here"
        )


IMPOSSIBLE = [
    ("alps", {"rois": "3mm"}, "rois is '3mm'; choose from 2.5mm, 5mm, or give the path"),
    ("alps", {"rois": "no.nii"}, "there is no such file"),
    ("alps", {"search_mm": 4}, "search_mm is 4; use 0"),
    ("alps", {"search_mm": -1.0}, "search_mm is -1.0; use 0"),
    ("alps", {"n_bootstrap": 3}, "n_bootstrap is 3; give"),
    ("pvs", {"rules": {"min_length": 3}}, "known are expected_false"),
    ("pvs", {"rules": {"min_contrast": -1}}, "min_contrast is -1; give a number above 0"),
    ("pvs", {"rules": {"max_width_mm": [1, 2]}}, "max_width_mm is .1, 2.; give a number"),
    ("qsm", {"reference": "wholebrain"}, "choose from whole brain, none, or give the path"),
    ("qsm", {"reference": 5}, "reference is 5; choose from whole brain"),
    ("qsm", {"background": "smv", "inversion": "tkd"}, "cannot undo the ball mean"),
    ("qsm", {"inversion": "tkd", "inversion_options": {"threshold": 0.7}}, "below 0.667"),
    ("qsm", {"inversion_options": {"threshold": 0.2}}, "tv has no option threshold"),
    ("qsm", {"inversion_options": {"max_iterations": 2.5}}, "give a whole number above 0"),
    ("qsm", {"inversion_options": {"regularisation": True}}, "give a number above 0"),
    ("qsm", {"inversion_options": {"regularisation": [1e-4]}}, "give a number above 0"),
    ("qsm", {"background": "vsharp", "background_options": {"radii_mm": 8}}, "give numbers"),
    ("qsm", {"background": "vsharp", "background_options": {"threshold": 1}}, "below 1"),
    ("qsm", {"background": "pdf", "background_options": {"b0_direction": [1, 1, 1]}}, "has no"),
    ("qsm", {"background_options": {"tolerance": 1}}, "below 1"),
    ("qsm", {"echo_times_s": [5, 10, 15]}, "look like milliseconds"),
    ("qsm", {"echo_times_s": [0.01, 0.005]}, "positive and rising"),
    ("qsm", {"field_strength_t": 300}, "300 T is not plausible"),
    ("qsm", {"phase_period": 0}, "phase_period: 0, but it must be positive"),
    ("qsmchange", {"inversion": "l2"}, "cannot undo the ball mean"),
    ("qsmchange", {"regularisation": 0}, "regularisation of tv is 0; give a number above 0"),
    ("qsmchange", {"field_strength_t": (3, 300)}, "300 T is not plausible"),
]


@pytest.mark.parametrize(("name", "options", "message"), IMPOSSIBLE)
def test_what_can_never_work_is_refused_before_any_scan(tmp_path, name, options, message):
    """In a file of settings, in Python, and by the function that every command calls."""
    method = methods.by_name(name)
    if not isinstance(options.get("field_strength_t"), tuple):
        path = tmp_path / "s.yml"
        path.write_text(json.dumps({name: options}))
        with pytest.raises(InputError, match=message):
            app.read_settings(path)
    (tmp_path / "bids/sub-a/anat").mkdir(parents=True)
    (tmp_path / "bids/sub-a/anat/sub-a_T2w.nii.gz").touch()
    folder = inputs.find(tmp_path / "bids", methods=["pvs"])
    with pytest.raises(InputError, match=message):
        next(app.run_participants(folder, tmp_path / "out", settings={name: options}))
    with pytest.raises(InputError, match=message):
        measure_files(method, {i.name: "no.nii" for i in method.inputs}, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_every_default_can_work():
    for method in methods.ALL:
        method.check({o.name: o.default for o in method.options}, "here")
    both = {"echo_times_s": (np.array([0.01, 0.02]), [0.01]), "field_strength_t": (3.0, 7)}
    methods.by_name("qsmchange").check(both, "here")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "s.yml"
    for text in ("qsm: {}\nqsm: {}\n", "qsm: {inversion: tkd, inversion: l2}", "a: [" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"stands twice; remove one|cannot be read"):
            app.read_settings(path)


def test_schematic_nuclei_of_a_change_are_told(monkeypatch):
    from pvsbook.qsm import alignment, change

    empty = change.Change(
        pd.DataFrame({"change_ppb": []}), alignment.Alignment(np.eye(4), 1.0, 0.0), 0.0, ()
    )
    monkeypatch.setattr(images, "load_gre", lambda *args, **options: None)
    monkeypatch.setattr(change, "measure_visits", lambda *args, **options: empty)
    method = methods.by_name("qsmchange")
    options = {o.name: o.default for o in method.options}
    told = method.measure("m", "p", "m", "p", **{**options, "atlas": "auto"})
    assert told.status == "warn"
    assert "the Melbourne atlas is not at hand" in told.reasons[0]
    assert method.measure("m", "p", "m", "p", **{**options, "atlas": "schematic"}).reasons == ()
