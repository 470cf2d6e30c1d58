"""Derivatives, templates, figures and reports."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pvsbook import InputError, derivatives, figures, images, report
from pvsbook.atlas import templates
from pvsbook.phantoms import brain

# --- derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("sub-01_T2w.nii.gz", "sub-01"),
        ("a/sub-01_ses-w1_acq-x_dir-AP_run-2_dwi.nii", "sub-01_ses-w1_acq-x_dir-AP_run-2"),
        ("scan_of-me.nii.gz", "sub-scanofme"),
        ("---.nii", "sub-scan"),
    ],
)
def test_prefix(name, prefix):
    assert derivatives.prefix_from(name) == prefix


def test_files_of_others_stay_as_they_are(tmp_path):
    mine = {
        "README": "notes of my own\n",
        "dataset_description.json": '{"Name": "My study", "BIDSVersion": "1.8.0"}',
        ".bidsignore": "mine/\n",
    }
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    derivatives.describe(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in mine} == mine


def test_files_of_an_earlier_version_are_brought_up_to_date(tmp_path):
    """What is ours is renewed; what was added by hand stays."""
    derivatives.describe(tmp_path)
    description = tmp_path / "dataset_description.json"
    ours = json.loads(description.read_text())
    content = ours | {"BIDSVersion": "1.8.0", "License": "CC0"}
    description.write_text(json.dumps(content))
    (tmp_path / ".bidsignore").write_text("*.html\nmine/\n")
    (tmp_path / "README").write_text("My words on these results.\n")
    derivatives.describe(tmp_path)
    assert json.loads(description.read_text()) == ours | {"License": "CC0"}
    lines = (tmp_path / ".bidsignore").read_text().splitlines()
    assert {"mine/", "group_*", "*.html"} <= set(lines)
    assert len(lines) == len(set(lines))
    assert (tmp_path / "README").read_text() == "My words on these results.\n"


@pytest.mark.parametrize("text", ["[]", "{", '{"GeneratedBy": "pvsbook"}', '{"GeneratedBy": [1]}'])
def test_an_odd_description_is_not_ours(tmp_path, text):
    (tmp_path / "dataset_description.json").write_text(text)
    derivatives.describe(tmp_path)
    assert (tmp_path / "dataset_description.json").read_text() == text


def test_results_of_other_files_are_not_replaced(tmp_path):
    for who in ("anna", "ben"):
        (tmp_path / who).mkdir()
        (tmp_path / who / "T2w.nii.gz").write_text(who)
    writer = derivatives.Writer(tmp_path / "out", prefix="sub-T2w")
    anna = derivatives.sources_of([tmp_path / "anna" / "T2w.nii.gz"])
    derivatives.claim(writer, "pvs", anna)
    writer.json(anna, "pvs", desc="sources")
    derivatives.claim(writer, "pvs", anna)
    ben = derivatives.sources_of([tmp_path / "ben" / "T2w.nii.gz"])
    with pytest.raises(InputError, match="holds results of another scan under the name sub-T2w"):
        derivatives.claim(writer, "pvs", ben)
    with pytest.raises(InputError, match="cannot be read"):
        derivatives.sources_of([tmp_path / "nobody"])


def test_writer_makes_a_bids_derivative(tmp_path):
    writer = derivatives.Writer(
        tmp_path, prefix="sub-01_ses-2", datatype="dwi", sources=["sub-01_ses-2_dwi.nii.gz"]
    )
    image = images.make(np.arange(8.0).reshape(2, 2, 2), np.eye(4))
    path = writer.image(image, "dwimap", param="fa", meta={"Units": "arbitrary"})
    assert path == tmp_path / "sub-01/ses-2/dwi/sub-01_ses-2_param-fa_dwimap.nii.gz"
    meta = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert meta == {"Units": "arbitrary", "Sources": ["sub-01_ses-2_dwi.nii.gz"]}

    columns = {"n": {"Description": "count"}, "x_mm": {"Description": "size", "Units": "mm"}}
    table = writer.table({"n": np.int64(3), "x_mm": float("nan")}, columns, "alps", desc="all")
    frame = pd.read_csv(table, sep="\t")
    assert frame["n"].item() == 3
    assert frame["x_mm"].isna().item()
    assert json.loads(table.with_suffix(".json").read_text())["x_mm"]["Units"] == "mm"
    described = json.loads((tmp_path / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "pvsbook"

    with pytest.raises(InputError, match="y have no description"):
        writer.table({"y": 1}, columns, "alps")
    assert writer.json({"a": np.float32(1.5), "b": np.arange(2)}, "x").read_text().count("1.5")
    assert writer.text("<p>", "report", ".html").name == "sub-01_ses-2_report.html"
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        writer.json({"a": object()}, "x")


# --- templates -------------------------------------------------------------------------------


def test_tissue_fractions_fill_the_brain():
    parts = [images.array(templates.mni(kind)) for kind in ("wm", "gm", "csf")]
    whole = images.array(templates.mni("brain"))
    inside = whole > 0.5
    np.testing.assert_allclose(sum(parts)[inside], 1, atol=0.02)
    with pytest.raises(InputError, match="'skull' is not one of"):
        templates.mni("skull")


def test_ventricles_are_csf_in_their_place():
    image = templates.mni("ventricles")
    values = images.array(image)
    assert (values <= images.array(templates.mni("csf"))).all()
    volume_ml = values.sum() / 1000
    assert 10 < volume_ml < 40  # the lateral and third ventricles of young adults
    to_voxel = np.linalg.inv(image.affine)
    for inside in ([10, 5, 20], [-10, 5, 20], [0, -8, 4]):
        x, y, z = np.round(nib.affines.apply_affine(to_voxel, inside)).astype(int)
        assert values[x - 4 : x + 5, y - 4 : y + 5, z - 4 : z + 5].max() > 0.5
    for outside in ([0, -40, -8], [0, 40, 0], [40, 0, 0], [0, 20, 40]):
        x, y, z = np.round(nib.affines.apply_affine(to_voxel, outside)).astype(int)
        assert values[x, y, z] == 0


# --- figures and report ----------------------------------------------------------------------


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SRA"])
def test_slices_show_the_left_on_the_right_whatever_the_storage(axcodes):
    """A mark on the person's left must be drawn in the right half of an axial picture."""
    grid = brain.make_brain(4.0, axcodes=axcodes)
    where = grid.mni_coordinates()
    mark = np.exp(-((where - [-40, 0, 20]) ** 2).sum(-1) / 200)
    at = [("axial", 20), ("coronal", 0)]
    plain = figures.show_slices(grid.image(mark), at)
    labelled = figures.show_slices(grid.image(mark), at, overlay=grid.image(mark > 0.5))
    for ax in (*plain.axes, *labelled.axes):
        drawn = ax.images[0].get_array()
        column = int(np.argmax(drawn.sum(axis=0)))
        left, right = ax.get_xlim()
        assert (column - left) / (right - left) > 0.6


def test_overlay_colour_bar_zoom_and_bad_places():
    grid = brain.make_brain(4.0)
    labels = grid.image((grid.ventricles > 0.5).astype(np.uint8))
    figure = figures.show_slices(
        grid.image(grid.wm), [("axial", 10)], overlay=labels, zoom_mm=60, label="fraction"
    )
    assert len(figure.axes) == 2
    left, right = figure.axes[0].get_xlim()
    assert abs(left - right) == pytest.approx(15)
    with pytest.raises(InputError, match="lies outside the image"):
        figures.show_slices(grid.image(grid.wm), [("axial", 400)])
    with pytest.raises(InputError, match="'top' is not one of"):
        figures.show_slices(grid.image(grid.wm), [("top", 0)])


def test_viewer_has_a_title_and_asks_nobody():
    grid = brain.make_brain(4.0)
    page = figures.viewer(
        grid.image(grid.ventricles),
        background=grid.image(grid.wm),
        title='Ventricles & "more"',
        threshold=0.5,
    ).data
    assert 'title="Ventricles &amp; &quot;more&quot;"' in page
    assert 'loading="lazy"' in page
    assert "raw.githubusercontent.com" not in page


def test_report_escapes_and_shows_everything():
    figure = Figure(figsize=(1, 1))
    page = report.html_page(
        "Scan <1>",
        summary="Two & three",
        row={"a_mm": 1.23456, "b": float("nan"), "c": "x"},
        columns={"a_mm": {"Description": "length", "Units": "mm"}},
        figures=[(figure, "a square", "Nothing.")],
        limits=["It <cannot>."],
        sources=["a.nii"],
        status="warn",
        reasons=["tilted"],
    )
    assert "<h1>Scan &lt;1&gt;</h1>" in page
    for words in ("1.235", "n/a", "length", 'alt="a square"', "Quality: warn", "tilted"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")


# --- the package -----------------------------------------------------------------------------


def test_importing_does_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import pvsbook; "
        "heavy = {'numpy', 'nibabel', 'scipy', 'dipy', 'numba', 'matplotlib', 'pandas'}; "
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
