"""Notebooks run again: on a public scan, and with other parameters."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pvsbook import InputError, manifest
from pvsbook_book import notebook_page, rerun

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def small_notebook(**tags):
    """Return a notebook of the book's shape that runs in a second."""
    cells = [
        new_markdown_cell("(nb-x)=\n# How many $n$?\n\nA simulated cube."),
        new_code_cell("from pathlib import Path\n\nfrom myst_nb import glue"),
        new_code_cell(
            "DATASET = None\nSUBJECT = SESSION = None\nOUT = None\nPREFIX = 'sub-phantom'\nN = 3",
            metadata={"tags": ["parameters"]},
        ),
        new_markdown_cell("## Count (simulated)"),
        new_code_cell(
            "if DATASET is not None:\n    from pvsbook_book import scans\n\n"
            "    shape = scans.anatomy(DATASET, subject=SUBJECT, session=SESSION).image.shape\n"
            "else:\n    shape = (N,) * 3\nglue('n', shape[0], display=False)\nprint(shape)"
        ),
        new_code_cell("truth = N", metadata={"tags": ["phantom"]}),
        new_code_cell("assert shape[0] == truth", metadata={"tags": ["phantom"]}),
        new_markdown_cell(
            "It is {glue:text}`n:.1f`, not {glue:text}`lost`. A {term}`voxel <voxels>` $x^2$."
        ),
        new_code_cell(
            "n = shape[0]",
            metadata={
                "mystnb": {"figure": {"caption": "A simulated cube."}, "image": {"alt": "Cube"}},
                "scan": {"caption": "The scan.", "alt": "Slice"},
            },
        ),
        new_markdown_cell("## Quiz"),
        new_markdown_cell("What is asked of the cube?"),
        new_markdown_cell("## Take home"),
        new_markdown_cell("Only of a scan.", metadata={"tags": ["remove-cell"]}),
        new_code_cell(
            "if OUT is not None:\n    Path(OUT).mkdir()\n    Path(OUT, PREFIX).touch()",
        ),
    ]
    return new_notebook(cells=cells, metadata={"pvsbook": {"method": "pvs"}})


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "90_small.ipynb"
    nbformat.write(small_notebook(), path)
    return path


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A data set of one small scan, in a mirror."""
    import hashlib

    import numpy as np
    import yaml

    from pvsbook import images

    mirror = tmp_path / "mirror"
    images.save(
        images.make(np.arange(120.0).reshape(4, 5, 6), np.eye(4)), mirror / "toy/t1.nii.gz"
    )
    content = (mirror / "toy/t1.nii.gz").read_bytes()
    entry = {
        "name": "toy",
        "title": "Toy",
        "description": "One scan.",
        "licence": "CC0-1.0",
        "citation": "None.",
        "authors": ["Nobody"],
        "version": "1",
        "repository": "https://example.org/toy",
        "files": [
            {
                "path": "t1.nii.gz",
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "url": "https://example.org/toy/t1.nii.gz",
            }
        ],
        "scans": [
            {
                "method": "pvs",
                "subject": "01",
                "session": "a",
                "files": {"image": "t1.nii.gz"},
                "options": {"contrast": "t1"},
                "beware": "It is a toy.",
            }
        ],
    }
    folder = tmp_path / "manifest"
    folder.mkdir()
    (folder / "toy.yml").write_text(yaml.safe_dump(entry))
    monkeypatch.setenv("PVSBOOK_MANIFEST", str(folder))
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PVSBOOK_OFFLINE", "1")
    monkeypatch.setenv("PVSBOOK_MIRROR", str(mirror))
    return mirror


def test_a_public_scan_takes_the_place_of_the_phantom(notebook, toy, tmp_path):
    done = rerun.rerun(str(notebook), tmp_path / "out", dataset="toy", subject="sub-01")
    cells = nbformat.read(done.notebook, 4).cells
    sources = [c.source for c in cells if c.cell_type == "code"]
    assert "truth = N" not in sources
    printed = [o.get("text", "") for c in cells for o in c.get("outputs", ())]
    assert "(4, 5, 6)\n" in printed
    assert [p.name for p in done.outputs.iterdir()] == ["sub-01_ses-a"]
    page = done.page.read_text()
    for words in (
        "rerun on toy 01 a",
        "It is a toy.",
        "Count (toy 01 a)",
        "2 cells of the page that need a known truth",
        "Only of a scan.",
        "<math",
    ):
        assert words in page, words
    assert "It is 4.0, not n/a. A voxel" in re.sub("<[^>]+>", "", page)
    for words in ("simulated", "What is asked", "assert shape"):
        assert words not in page, words
    assert "The scan." in [
        c.metadata.get("mystnb", {}).get("figure", {}).get("caption") for c in cells
    ]
    assert "{glue" not in page
    assert "<script" not in page
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == ["", ".html", ".ipynb"]


def test_other_parameters_for_the_phantom(notebook, tmp_path):
    done = rerun.rerun(str(notebook), tmp_path / "out", changes=["N=7"])
    assert "(7, 7, 7)" in done.page.read_text()
    assert "Count (simulated)" in done.page.read_text()
    assert "Only of a scan." not in done.page.read_text()
    assert done.outputs is None


def test_files_out_of_reach_are_named_before_anything_runs(notebook, toy, tmp_path, monkeypatch):
    monkeypatch.delenv("PVSBOOK_MIRROR")
    with pytest.raises(InputError) as caught:
        rerun.rerun(str(notebook), tmp_path / "out", dataset="toy")
    said = str(caught.value)
    assert "t1.nii.gz" in said
    assert "https://example.org/toy/t1.nii.gz" in said
    assert "pvsbook data fetch toy --method pvs --subject 01 --session a" in said
    assert not (tmp_path / "out").exists()


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path):
    broken = small_notebook()
    broken.cells.insert(4, new_code_cell("raise ValueError('too dark')"))
    path = tmp_path / "91_broken.ipynb"
    nbformat.write(broken, path)
    with pytest.raises(InputError, match="cell 3: ValueError: too dark") as caught:
        rerun.rerun(str(path), tmp_path / "out")
    kept = Path(str(caught.value).rsplit(" ", 1)[1])
    assert kept.name == "91_broken.failed.ipynb"
    assert [p.name for p in (tmp_path / "out").iterdir()] == [kept.name]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"changes": ["M=7"]}, "write NAME=VALUE with a name of 90_small: DATASET, SUBJECT"),
        ({"changes": ["N"]}, "write NAME=VALUE"),
        ({"subject": "01"}, "need --dataset"),
        ({"dataset": "toy", "subject": "02"}, "no pvs scan of 02; choose from: sub-01_ses-a"),
        ({"dataset": "joy"}, "did you mean toy"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(notebook, toy, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        rerun.rerun(str(notebook), tmp_path / "out", **options)


def test_a_notebook_that_takes_no_scan_names_those_that_do(tmp_path):
    with pytest.raises(InputError, match=r"23_alps_rel.*takes no scan.*20_alps_index \(alps\)"):
        rerun.rerun("23", tmp_path, dataset="dwi_philips_slab")


@pytest.mark.parametrize("name", ["99", "nothing.ipynb"])
def test_an_unknown_notebook_is_answered_with_the_known(name):
    with pytest.raises(InputError, match="20_alps_index"):
        rerun.find_notebook(name)


def test_no_notebooks_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(rerun, "__file__", str(tmp_path / "rerun.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no notebooks folder"):
        rerun.find_notebook("20")


def test_what_is_no_notebook_or_has_no_parameters(tmp_path, monkeypatch):
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(InputError, match="not a notebook"):
        rerun.rerun(str(tmp_path / "a.ipynb"), tmp_path)
    nbformat.write(new_notebook(cells=[new_code_cell("a = 1")]), tmp_path / "b.ipynb")
    with pytest.raises(InputError, match="no cell is tagged 'parameters'"):
        rerun.rerun(str(tmp_path / "b.ipynb"), tmp_path, changes=["a=2"])
    monkeypatch.setattr(rerun, "NEEDS", ("no_such_package",))
    with pytest.raises(InputError, match=r"pip install 'pvsbook\[book\]'"):
        rerun.rerun(str(tmp_path / "b.ipynb"), tmp_path)


def test_the_page_shows_directives_tables_and_pictures():
    picture = base64.b64encode(b"a picture").decode()
    figure = new_code_cell(
        "plt.show()",
        metadata={"mystnb": {"image": {"alt": "A line"}, "figure": {"caption": "It rises."}}},
        outputs=[
            new_output("display_data", data={"image/png": picture, "text/plain": "x"}),
            new_output("stream", name="stdout", text="3 < 4"),
        ],
    )
    table = new_code_cell(
        "table",
        outputs=[
            new_output("execute_result", data={"text/html": "<table></table>"}),
            new_output("stream", name="stderr", text="quiet"),
        ],
    )
    text = new_markdown_cell(
        "# T $x$\n\n% note\n\n```{admonition} What could fool\n:class: warning\nNoise & more.\n"
        "```\n```{exercise-start} Count *all*\n:label: ex-a\n```\nDo.\n```{exercise-end}\n```\n"
        "```{solution-start} ex-a\n:class: dropdown\n```\n```{solution-end}\n```\n"
        "```{dropdown} Hint\nLook.\n```\n\n```python\na < b\n```\n\n"
        "{cite:p}`lau2017,b` {ref}`nb-alps-index` {ref}`the page <nb-x>` {numref}`fig-a-b`"
    )
    folded = new_code_cell("import os", metadata={"tags": ["hide-input"]})
    page = notebook_page.render(new_notebook(cells=[text, folded, figure, table]), "x")
    for piece in (
        "<title>T x (x)</title>",
        "<h1>T <math",
        f'src="data:image/png;base64,{picture}"',
        'alt="A line"',
        "It rises.",
        "3 &lt; 4",
        "<table></table>",
        '<p class="admonition-title">What could fool</p>\n<p>Noise &amp; more.</p>',
        "<h3>Exercise: Count <em>all</em></h3>",
        "<h3>Solution</h3>",
        "<details><summary>Hint</summary><p>Look.</p>",
        "a &lt; b",
        "(Lau 2017; b) the page of the book on alps index the page the figure a b",
        "<details><summary>Show code cell source</summary>",
    ):
        assert piece in page, piece
    assert "quiet" not in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_chapter_can_be_a_page_of_its_own(path):
    page = notebook_page.render(nbformat.read(path, 4), "simulated")
    problems = re.findall(r'<aside class="system-message">.*?</aside>', page, re.DOTALL)
    assert not problems, "a role, directive or formula that only the book's build knows"
    assert "{glue" not in page


LOADERS = {
    "pvs": "scans.anatomy(DATASET",
    "alps": "scans.diffusion(DATASET",
    "qsm": "scans.gradient_echo(DATASET",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_parameters_and_takes_the_scans_that_it_declares(path):
    notebook = nbformat.read(path, 4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    text = "".join("\n".join(c.source for c in code).split())
    loaded = {method for method, call in LOADERS.items() if call in text}
    method = rerun.takes_scan(notebook)
    assert loaded == ({method} if method else set())
    names = rerun.parameters(path)
    if method:
        assert {"DATASET", "SUBJECT", "SESSION", "OUT", "PREFIX"} <= set(names)
        (cell,) = (c for c in code if "parameters" in c.metadata.get("tags", ()))
        assert "DATASET = None" in cell.source


@pytest.mark.public
@pytest.mark.rerun
@pytest.mark.parametrize(
    ("number", "dataset", "words"),
    [
        ("10", "openms_mni_p07", "uncertain"),
        ("12", "openms_mni_p07", "<th>midbrain</th>"),
        ("13", "openms_mni_p07", "Normalised vesselness of the scan"),
        ("14", "openms_mni_p07", "left after width &lt;= 3 mm: "),
        ("15", "openms_mni_p07", "are thinner than a voxel side of 1 mm"),
        ("20", "dwi_philips_slab", "12 directions, 5 volumes b=0"),
        ("21", "dwi_philips_slab", "b-vectors: as given"),
        ("22", "dwi_philips_slab", "shift in z (mm) [1.08 1.18 1.31"),
        ("30", "gre_small_romeo", "8 ms: 5829 before, 12 after"),
        ("31", "gre_small_romeo", "12 ms:  7031 pairs wrapped, 2 open loops"),
        ("32", "gre_small_romeo", "SD of the difference, ppb"),
        ("33", "gre_small_romeo", "noise is amplified most at 55 degrees"),
    ],
)
def test_the_book_runs_on_real_bytes(number, dataset, words, public_file, tmp_path, monkeypatch):
    method = rerun.takes_scan(nbformat.read(rerun.find_notebook(number), 4))
    entry = manifest.describe(dataset).scan(method)
    for file in manifest.describe(dataset).files_of(entry):
        if public_file(dataset, file.path).is_relative_to(Path.home()):
            monkeypatch.delenv("PVSBOOK_DATA", raising=False)  # it lies in the user's own cache
    monkeypatch.setenv("PVSBOOK_OFFLINE", "1")
    done = rerun.rerun(number, tmp_path / "out", dataset=dataset)
    page = done.page.read_text()
    assert words in page
    left_out = r'<div class="cell_input.*?</pre>|<iframe.*?</iframe>|data:image/\S+'
    read = re.sub(left_out, "", page, flags=re.DOTALL)
    assert not re.search(r"simulat|phantom", read, re.IGNORECASE)
    assert any(done.outputs.rglob("*.nii.gz"))
