"""The manifest's schema, its real entries, and what it asks of the environment."""

import errno
import hashlib
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath

import platformdirs
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pvsbook import InputError, manifest
from pvsbook.manifest import _entries

BYTES = b"a space"
SHA256 = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture
def entry():
    """A small valid entry."""
    return {
        "name": "toy",
        "title": "Toy",
        "description": "A toy & no more.",
        "licence": "CC0-1.0",
        "citation": "Nobody. Toy. 2026.",
        "authors": ["A. Nobody", "B. Nobody"],
        "version": "1.0",
        "doi": "10.1234/toy",
        "files": [
            {
                "path": "dataset_description.json",
                "size": 3,
                "md5": "0" * 32,
                "url": "https://a.b/c",
            },
            {"path": "sub-1/anat/a.nii.gz", "size": 5, "sha256": "a" * 64, "url": "https://a.b/d"},
            {"path": "sub-2/a.nii.gz", "size": 7, "sha256": SHA256, "url": "https://a.b/e"},
        ],
    }


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write an entry into a manifest folder of its own; no mirror, an empty cache."""
    folder = tmp_path / "manifest"
    folder.mkdir()
    monkeypatch.setenv("PVSBOOK_MANIFEST", str(folder))
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("PVSBOOK_MIRROR", raising=False)
    monkeypatch.delenv("PVSBOOK_OFFLINE", raising=False)

    def write(content, name="toy.yml"):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (folder / name).write_text(text, encoding="utf-8")

    return write


def change(entry, where, value):
    for key in where[:-1]:
        entry = entry[key]
    if value is None:
        del entry[where[-1]]
    else:
        entry[where[-1]] = value


FAULTS = [
    (("titel",), "Toy", ["titel is 'Toy'", "known here: name, title"]),
    (("files", 0, "sise"), 3, ["files[0].sise is 3", "known here: path, size"]),
    (("title",), None, ["title: Field required; needed: one line"]),
    (("title",), "", ["title is ''", "one line"]),
    (("name",), "Toy Data", ["name is 'Toy Data'", "without .yml"]),
    (("name",), "other", ["name is 'other'", "needed: 'toy'"]),
    (("doi",), "doi:10.1234/toy", ["doi is 'doi:10.1234/toy'", "without https:// or doi:"]),
    (("doi",), None, ["the entry: no source; give doi or repository"]),
    (("authors",), [], ["authors is []", "a list of names"]),
    (("files",), [], ["files is []", "a list of files"]),
    (("files", 1, "size"), "5", ["files[1].size is '5'", "whole number"]),
    (("files", 1, "size"), 0, ["files[1].size is 0", "whole number"]),
    (("files", 1, "size"), 5.0, ["files[1].size is 5.0", "whole number"]),
    (("files", 1, "sha256"), "A" * 64, ["files[1].sha256 is 'AAAA", "small hexadecimal"]),
    (("files", 1, "sha256"), None, ["files[1]: no checksum; give sha256 or md5"]),
    (("files", 0, "md5"), "0" * 64, ["files[0].md5 is '0000", "32 small"]),
    (("files", 0, "url"), "ftp://a.b/c", ["files[0].url is 'ftp://a.b/c'", "http(s)"]),
    (
        ("files", 0, "url"),
        None,
        ["files[0].url: Field required", "or null with derived_from"],
    ),
    (("files", 0, "derived_from"), "a wish", ["files[0]: give either url"]),
    (("files", 0, "path"), "/etc/passwd", ["files[0].path is '/etc/passwd'", "relative path"]),
    (("files", 0, "path"), "../up.txt", ["files[0].path is '../up.txt'", "relative path"]),
    (("files", 0, "path"), "SUB-2/A.nii.gz", ["two files claim the place 'SUB-2/A.nii.gz'"]),
    (("files", 2, "path"), "sub-1/anat", ["two files claim the place 'sub-1/anat'"]),
    (("files", 2, "path"), "sub-1/anat/a.nii.gz/b", ["claim the place 'sub-1/anat/a.nii.gz'"]),
]


@pytest.mark.parametrize(("where", "value", "said"), FAULTS)
def test_schema_names_file_field_value_and_fix(write, entry, where, value, said):
    change(entry, where, value)
    write(entry)
    with pytest.raises(InputError) as caught:
        manifest.describe("toy")
    for words in ["toy.yml: ", *said]:
        assert words in str(caught.value)


def test_url_null_needs_its_source_in_words(write, entry):
    entry["files"][0]["url"] = None
    write(entry)
    with pytest.raises(InputError, match=r"files\[0\]: give either url, or url: null and derived"):
        manifest.describe("toy")
    entry["files"][0]["derived_from"] = "the first bytes of example.org/a"
    write(entry)
    assert manifest.describe("toy").files[0].url is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: toy\nname: toy\n", "the key 'name' stands twice"),
        ("name: [toy\n", "not YAML"),
        ("", "the entry is None"),
    ],
)
def test_broken_yaml_is_an_input_error(write, text, said):
    write(text)
    with pytest.raises(InputError, match=said):
        manifest.describe("toy")


def test_an_edited_entry_is_read_again(write, entry):
    write(entry)
    assert manifest.describe("toy").title == "Toy"
    write(entry | {"title": "Toy, second edition"})
    os.utime(Path(os.environ["PVSBOOK_MANIFEST"]) / "toy.yml", (2e9, 2e9))
    assert manifest.describe("toy").title == "Toy, second edition"


def test_unknown_names_are_answered_with_known_ones(write, entry):
    write(entry)
    with pytest.raises(InputError, match=r"did you mean toy\?"):
        manifest.describe("toys")
    with pytest.raises(InputError, match="choose from: toy"):
        manifest.describe("/etc/passwd")
    with pytest.raises(InputError, match=r"did you mean sub-2/a\.nii\.gz"):
        manifest.path("toy", "sub-2/b.nii.gz")
    with pytest.raises(InputError, match="a pattern; give one path"):
        manifest.path("toy", "sub-2/*")
    with pytest.raises(InputError, match=r"no subject 'sub-3' .*did you mean sub-2, sub-1"):
        manifest.fetch("toy", subject="3")
    with pytest.raises(InputError, match="choose from: sub-1, sub-2"):
        manifest.fetch("toy", subject="nobody")


def test_select_by_pattern_and_subject(write, entry):
    write(entry)
    toy = manifest.describe("toy")
    assert toy.size == 15
    names = [[file.path for file in chosen] for chosen in (
        toy.select(), toy.select("*.nii.gz"), toy.select(subject="sub-1"),
        toy.select(["*a.nii.gz"], subject="2"), toy.select([]),
    )]  # fmt: skip
    every = ["dataset_description.json", "sub-1/anat/a.nii.gz", "sub-2/a.nii.gz"]
    assert names == [every, every[1:], every[:2], every[2:], []]


# --- paths stay inside ---

part = st.sampled_from(["..", ".", "", "a", "B_1", "c.nii.gz", "C:", "~", "\\", "a\x00", "é", "-"])


@given(st.one_of(st.text(max_size=30), st.lists(part, max_size=5).map("/".join)))
@example("..")
@example("a/../../b")
@example("C:/a")
@example("a\\..\\b")
@example("a\n")
def test_an_accepted_path_stays_in_its_folder(text):
    try:
        file = manifest.File(path=text, size=1, md5="0" * 32, url="https://a.b/c")
    except ValidationError:
        return
    base = Path("/cache/toy")
    assert Path(os.path.normpath(base / file.path)).is_relative_to(base)
    assert base / file.path != base
    assert PurePosixPath(file.path).as_posix() == file.path
    assert not PureWindowsPath(file.path).anchor
    assert "\\" not in file.path


@given(st.lists(st.from_regex(r"[A-Za-z0-9_+-]{1,8}", fullmatch=True), min_size=1, max_size=5))
def test_ordinary_paths_are_accepted(names):
    text = "/".join(names) + ".nii.gz"
    assert manifest.File(path=text, size=1, md5="0" * 32, url="https://a.b/c").path == text


def test_a_link_that_leaves_the_cache_is_refused(write, entry, tmp_path):
    write(entry)
    (tmp_path / "outside").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "toy").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="leads out of the cache"):
        manifest.fetch("toy")
    assert not list((tmp_path / "outside").iterdir())


# --- the environment ---


def test_manifest_folder_is_found_or_asked_for(monkeypatch, tmp_path, write, entry):
    monkeypatch.setenv("PVSBOOK_MANIFEST", str(tmp_path))
    with pytest.raises(InputError, match=r"holds no \*\.yml"):
        manifest.datasets()
    monkeypatch.delenv("PVSBOOK_MANIFEST")
    assert "ds000221" in manifest.datasets()  # above the package
    installed = tmp_path / "lib" / "pvsbook"
    monkeypatch.setattr(_entries, "__file__", str(installed / "manifest" / "_entries.py"))
    with pytest.raises(InputError, match="this installation is broken"):
        manifest.datasets()
    carried = installed / "data_manifest"  # as in a wheel
    carried.mkdir(parents=True)
    (carried / "toy.yml").write_text(yaml.safe_dump(entry))
    assert manifest.datasets() == ("toy",)


def test_cache_is_where_the_platform_or_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path / "here"))
    assert manifest.cache() == tmp_path / "here"
    monkeypatch.delenv("PVSBOOK_DATA")
    assert manifest.cache().parts[-2:] == ("pvsbook", "data")


@pytest.mark.parametrize("mirror", ["file:///data", "http://", "/no/such/folder"])
def test_a_mirror_that_is_none_is_refused(write, entry, monkeypatch, mirror):
    write(entry)
    monkeypatch.setenv("PVSBOOK_MIRROR", mirror)
    with pytest.raises(InputError, match="PVSBOOK_MIRROR="):
        manifest.fetch("toy")


def test_offline_is_yes_or_no(write, entry, monkeypatch):
    write(entry)
    monkeypatch.setenv("PVSBOOK_OFFLINE", "perhaps")
    with pytest.raises(InputError, match="PVSBOOK_OFFLINE='perhaps'"):
        manifest.fetch("toy")


def test_offline_says_what_is_missing_and_how_to_get_it(write, entry, monkeypatch, tmp_path):
    entry["files"][1] |= {"url": None, "derived_from": "a conversion of example.org/b"}
    write(entry)
    damaged = tmp_path / "cache" / "toy" / "dataset_description.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"1234")
    for word in ("1", "Yes"):
        monkeypatch.setenv("PVSBOOK_OFFLINE", word)
        with pytest.raises(InputError) as caught:
            manifest.fetch("toy", subject="sub-1")
        lines = str(caught.value).splitlines()
        assert lines[0].startswith("toy: 2 files (8 bytes) are not in the cache ")
        assert lines[0].endswith("and PVSBOOK_OFFLINE forbids the network:")
        assert lines[1:] == [
            "  dataset_description.json  3 bytes  https://a.b/c"
            "  (damaged in the cache: 4 bytes instead of 3)",
            "  sub-1/anat/a.nii.gz  5 bytes  no public address: a conversion of example.org/b",
            "With a network: PVSBOOK_OFFLINE=0 pvsbook data fetch toy --subject sub-1",
            "With a copy: set PVSBOOK_MIRROR to a folder that holds toy/<path>",
        ]


def test_derived_bytes_without_a_mirror_are_asked_for_before_any_download(
    write, entry, monkeypatch, tmp_path
):
    entry["files"][1] |= {"url": None, "derived_from": "a conversion of example.org/b"}
    write(entry)
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("PVSBOOK_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(
        InputError, match=r"nor in PVSBOOK_MIRROR:\n  sub-1/anat/a.nii.gz"
    ) as caught:
        manifest.fetch("toy")
    assert "With a network" not in str(caught.value)


def test_too_small_a_disk_is_noticed_before_the_transfer(write, entry, monkeypatch):
    write(entry)
    usage = shutil.disk_usage("/")._replace(free=14)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"toy needs 15 bytes in .*where 14 bytes are free"):
        manifest.fetch("toy")


@pytest.mark.parametrize("kind", [PermissionError(errno.EACCES, "Permission denied"), None])
def test_a_cache_that_cannot_be_written_is_named(write, entry, monkeypatch, tmp_path, kind):
    write(entry)
    if kind is None:
        (tmp_path / "cache").write_text("a file, no folder")
    else:
        monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: (_ for _ in ()).throw(kind))
    with pytest.raises(InputError, match=r"cache.*: (Permission denied|File exists|Not a dir).*"):
        manifest.fetch("toy")


def test_cite_gives_text_and_bibtex(write, entry):
    write(entry | {"title": "Toy & sons"})
    write(
        {**entry, "name": "more", "doi": None, "repository": "https://a.b/more"}, name="more.yml"
    )
    assert manifest.cite(["toy", "more"]) == (
        "toy (CC0-1.0): Toy & sons\n"
        "Nobody. Toy. 2026.\n\n"
        "@misc{toy,\n"
        "  author = {A. Nobody and B. Nobody},\n"
        "  title = {{Toy \\& sons}},\n"
        "  version = {1.0},\n"
        "  note = {Licence: CC0-1.0},\n"
        "  doi = {10.1234/toy}\n"
        "}\n\n"
        "more (CC0-1.0): Toy\n"
        "Nobody. Toy. 2026.\n\n"
        "@misc{more,\n"
        "  author = {A. Nobody and B. Nobody},\n"
        "  title = {{Toy}},\n"
        "  version = {1.0},\n"
        "  note = {Licence: CC0-1.0},\n"
        "  url = {https://a.b/more}\n"
        "}"
    )


# --- the entries of this project ---


def test_every_entry_of_the_project_is_sound():
    folder = manifest.folder()
    assert {item.suffix for item in folder.iterdir()} == {".yml"}
    for name in manifest.datasets():
        data = manifest.describe(name)
        assert data.name in manifest.cite(name)
        for file in data.files:
            assert file.url is None or file.url.startswith("https://")
            if file.url and "openneuro.org" in file.url:
                assert "?versionId=" in file.url  # the bytes of that version, for ever
            elif file.url and not name.startswith("tpl_"):  # TemplateFlow's have no version
                assert f"/{data.version}/" in file.url or "OpenNeuroDatasets" in file.url


def test_the_core_of_the_public_scans_is_complete():
    people = {
        "ds000114": 2,
        "ds000221": 2,
        "ds004856": 2,
        "ds004884": 1,
        "ds004958": 2,
        "ds005713": 3,
        "ds007418": 1,
    }
    assert {n: len(manifest.describe(n).subjects) for n in people} == people

    def count(name, pattern, subject):
        files = manifest.describe(name).select(subject=subject)
        return sum(fnmatchcase(file.path, pattern) for file in files)

    for pattern in ("*_T1w.nii.gz", "*_T2w.nii.gz", "*_FLAIR.nii.gz", "*_dwi.bvec"):
        assert count("ds000221", pattern, "010002") == 1
    assert count("ds004856", "*_dwi.nii.gz", "1003") == count("ds004856", "*.bval", "1003") == 3
    for part in ("mag", "phase"):
        assert count("ds004958", f"*_part-{part}_MEGRE.nii.gz", "fsm79bf") == 12
        assert count("ds004958", f"*_part-{part}_MEGRE.json", "fsm79bf") == 12
    for pattern in ("*T1w*.nii.gz", "*T1w*.json", "*T2w.nii.gz", "*T2w.json"):
        assert count("ds004958", pattern, "fsm79bf") == 1
    for name in people:
        assert count(name, "dataset_description.json", None) == 1


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    folder = os.environ.get("PVSBOOK_MIRROR", "")
    if not folder or "://" in folder:
        pytest.skip("needs PVSBOOK_MIRROR: a folder that holds <data set>/<path> of public files")
    monkeypatch.setenv("PVSBOOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PVSBOOK_OFFLINE", "1")
    return Path(folder)


def test_public_file_skips_in_clear_words_where_there_are_no_bytes(
    public_file, write, entry, monkeypatch, tmp_path
):
    write(entry)
    users = tmp_path / "users"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *args, **kwargs: users)
    monkeypatch.delenv("PVSBOOK_TEST_PUBLIC", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"set PVSBOOK_MIRROR to a folder that holds"):
        public_file("toy", "sub-2/a.nii.gz")
    theirs = users / "data" / "toy" / "sub-2" / "a.nii.gz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(BYTES)
    copy = public_file("toy", "sub-2/a.nii.gz")
    assert copy.read_bytes() == theirs.read_bytes()
    assert copy != theirs  # a test may do with its cache what it likes
    copy.unlink()
    monkeypatch.setenv("PVSBOOK_MIRROR", str(users / "data"))
    assert public_file("toy", "sub-2/a.nii.gz").is_relative_to(tmp_path / "cache")


@pytest.mark.public
def test_every_mirrored_file_is_brought_and_verified(mirror):
    held = manifest.available_from_mirror()
    assert held, f"{mirror} holds no file of the manifest"
    for name, files in held.items():
        fetched = manifest.fetch(name, files)
        assert tuple(fetched) == files
        assert set(fetched.how.values()) == {"mirrored"}
        assert set(manifest.verify(name, files).values()) == {"ok"}
        assert set(manifest.fetch(name, files).how.values()) == {"cached"}


@pytest.mark.public
def test_one_flipped_byte_in_the_mirror_is_refused(mirror, monkeypatch, tmp_path):
    held = manifest.available_from_mirror()
    name = min(held, key=lambda name: manifest.describe(name).size)
    shutil.copytree(mirror / name, tmp_path / "copy" / name)
    victim = tmp_path / "copy" / name / held[name][-1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    monkeypatch.setenv("PVSBOOK_MIRROR", str(tmp_path / "copy"))
    with pytest.raises(InputError, match="not the file that the manifest names"):
        manifest.fetch(name, held[name])
    assert manifest.verify(name, held[name][-1]) == {held[name][-1]: "missing"}
    assert not list((tmp_path / "cache" / name).rglob("*.part"))
