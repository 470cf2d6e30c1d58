"""Results as BIDS-Derivatives: maps, one-row tables with their dictionary, and provenance."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pandas as pd

from pvsbook import images
from pvsbook._constants import SERIES
from pvsbook._errors import InputError
from pvsbook._ours import foreign, is_ours, same_sources
from pvsbook._version import __version__

__all__ = ["Writer", "prefix_from"]

_BIDS_VERSION = "1.10.0"
README = """\
Results of pvsbook: perivascular spaces, ALPS and QSM, as BIDS-Derivatives.

Each folder sub-*/[ses-*/] holds maps, one-row tables with a JSON dictionary of their columns, and
an HTML page a scan; sub-*.html leads to the pages of one person, group.html to those of all.

BIDS has no name yet for some of this, so .bidsignore keeps it from the validator:
- *_pvs, *_alps, *_qsm: the tables
- *_vesselness: filter response; *_dwimap: maps of the diffusion tensor (a BIDS proposal)
- *_fieldmap: fields computed for QSM; to BIDS a fieldmap is an acquisition with its magnitude
- *_swi, *_minIP: susceptibility-weighted image and its minimum projection (a BIDS proposal)
- *.changed: a result that was edited, set aside when it was written anew
- *.html, group_*, logs/: pages, tables of all people, and what happened when
- prov/: how each result was made (BIDS-Prov, a BIDS proposal)

For teaching and research; not a medical device.
"""
IGNORED = (
    "*.html", "*_alps.*", "*_dwimap.*", "*_fieldmap.*", "*_minIP.*", "*_pvs.*", "*_qsm.*",
    "*_swi.*", "*_vesselness.*", "group_*", "logs/", "prov",
    "*.changed",
)  # fmt: skip
# What BIDS requires or recommends to say of a map, by suffix, or suffix and desc; every map here
# is on the grid of its scan, and zero outside the brain.
REQUIRED_META: Mapping[str, Mapping[str, Any]] = {
    "Chimap": {"SkullStripped": True, "Description": "Magnetic susceptibility."},
    "R2starmap": {"SkullStripped": True, "Description": "Effective transverse relaxation rate."},
    "dseg": {"SpatialReference": "orig"},
    "mask": {"SpatialReference": "orig"},
    "Chimap paramagnetic": {"Description": "Susceptibility of paramagnetic sources, as iron."},
    "Chimap diamagnetic": {"Description": "Susceptibility of diamagnetic sources, as myelin."},
    "Chimap unsupported": {"Description": "Susceptibility that the scan does not support."},
    "dseg alps": {"Description": "Regions of projection and association fibres."},
    "dseg lesions": {"Description": "Lesions of the given mask, numbered as in the table."},
    "dseg nuclei": {"Description": "Deep grey nuclei."},
    "dseg objects": {"Description": "Candidates of microbleeds and calcifications."},
    "dseg pvs": {"Description": "Voxels by class of object: spaces, lacunes, lesions."},
    "dseg pvsobjects": {"Description": "Objects, numbered as in the table of objects."},
    "dseg pvsregions": {"Description": "Regions in which perivascular spaces are counted."},
    "mask brain": {"Type": "Brain", "Description": "Brain in which the field was estimated."},
    "mask chi": {"Type": "ROI", "Description": "Part of the brain that has a susceptibility."},
    "mask wmh": {"Type": "Lesion", "Description": "Lesions that were found on the FLAIR."},
}

Columns = Mapping[str, Mapping[str, str]]
_MAKER = {"Name": "pvsbook", "Version": __version__}
_DESCRIPTION: Mapping[str, Any] = {
    "Name": "pvsbook derivatives",
    "BIDSVersion": _BIDS_VERSION,
    "DatasetType": "derivative",
}


def prefix_from(path: images.PathLike) -> str:
    """Return the BIDS entities that results of a scan keep in their names.

    Parameters
    ----------
    path
        The scan.  A name without ``sub-`` becomes a subject label of its letters and digits.

    Examples
    --------
    >>> prefix_from("in/sub-01_ses-2_echo-1_part-phase_MEGRE.nii.gz")
    'sub-01_ses-2'
    >>> prefix_from("my T2 scan.nii")
    'sub-myT2scan'
    """
    stem = images.stem(Path(path).name)
    pairs = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    if "sub" in pairs:
        return "_".join(f"{k}-{label(pairs[k])}" for k in ("sub", "ses", *SERIES) if k in pairs)
    return "sub-" + (label(stem) or "scan")


def label(text: str) -> str:
    """Keep the letters and digits of a text, which is what a BIDS label may have."""
    return re.sub(r"[^0-9A-Za-z]", "", text)


@dataclass(frozen=True)
class Writer:
    """Writes the results of one scan into a BIDS-Derivatives data set.

    Parameters
    ----------
    folder
        The top of the data set; made where it is missing.
    prefix
        Entities of the scan, ``sub-01`` or ``sub-01_ses-2`` (see `prefix_from`).
    datatype
        BIDS data type: ``anat`` or ``dwi``.
    sources
        Names of the input files, kept in the sidecars.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out:
    ...     writer = Writer(out, prefix="sub-01", datatype="anat")
    ...     path = writer.table({"n": 3}, {"n": {"Description": "objects"}}, "pvs", desc="count")
    ...     path.relative_to(out).as_posix()
    'sub-01/anat/sub-01_desc-count_pvs.tsv'
    """

    folder: images.PathLike
    prefix: str = "sub-scan"
    datatype: str = "anat"
    sources: Sequence[str] = ()

    def path(self, suffix: str, extension: str, **entities: str) -> Path:
        """Return where a result goes: ``sub-*/[ses-*/]datatype/prefix_[entity-value_]suffix``."""
        parts = self.prefix.split("_")
        folders = [p for p in parts if p.startswith(("sub-", "ses-"))]
        names = parts + [f"{k}-{v}" for k, v in entities.items()] + [suffix]
        return Path(self.folder, *folders, self.datatype, "_".join(names) + extension)

    def image(
        self,
        image: nib.Nifti1Image,
        suffix: str,
        *,
        meta: Mapping[str, Any] | None = None,
        **entities: str,
    ) -> Path:
        """Write a map and its JSON sidecar; return the path of the map."""
        path = images.save(image, self.path(suffix, ".nii.gz", **entities))
        known = REQUIRED_META.get(f"{suffix} {entities.get('desc', '')}", {})
        about = {**REQUIRED_META.get(suffix, {}), **known, **(meta or {})}
        self._sidecar(about, suffix, **entities)
        return path

    def segmentation(
        self,
        image: nib.Nifti1Image,
        names: Mapping[int, str],
        *,
        meta: Mapping[str, Any] | None = None,
        **entities: str,
    ) -> Path:
        """Write a label image, and beside it the table of what its numbers mean."""
        rows = pd.DataFrame({"index": list(names), "name": list(names.values())})
        text = rows.to_csv(sep="\t", index=False, lineterminator="\n")
        self.text(text, "dseg", ".tsv", **entities)
        return self.image(image, "dseg", meta=meta, **entities)

    def table(
        self,
        rows: Mapping[str, Any] | Sequence[Mapping[str, Any]] | pd.DataFrame,
        columns: Columns,
        suffix: str,
        **entities: str,
    ) -> Path:
        """Write rows as TSV beside a JSON dictionary of the columns; return the TSV's path.

        Raises
        ------
        InputError
            A column has no entry in the dictionary.
        """
        frame = pd.DataFrame([rows] if isinstance(rows, Mapping) else rows)
        unknown = [str(c) for c in frame.columns if c not in columns]
        if unknown:
            raise InputError(f"columns: {', '.join(unknown)} have no description; add one each")
        text = frame.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n")
        path = self.text(text, suffix, ".tsv", **entities)
        self._sidecar({str(c): dict(columns[c]) for c in frame.columns}, suffix, **entities)
        return path

    def _sidecar(self, content: Mapping[str, Any], suffix: str, **entities: str) -> None:
        sources = {"Sources": list(self.sources)} if self.sources else {}
        self.json({**content, **sources}, suffix, **entities)

    def json(self, content: Mapping[str, Any], suffix: str, **entities: str) -> Path:
        """Write a JSON object; numpy numbers and arrays are turned into plain ones."""
        text = json.dumps(content, indent=2, default=plain, ensure_ascii=False) + "\n"
        return self.text(text, suffix, ".json", **entities)

    def text(self, content: str, suffix: str, extension: str, **entities: str) -> Path:
        """Write a text file, such as an HTML report; describe the data set where it is new."""
        describe(self.folder)
        return images.write_bytes(content.encode(), self.path(suffix, extension, **entities))


def container() -> dict[str, str]:
    """Return what the image of this container says of itself; nothing outside of one.

    The recipes of the images (``containers/``) set the variables of the environment.
    """
    found = {k: os.environ.get(f"PVSBOOK_CONTAINER_{k.upper()}") for k in ("Type", "Tag", "URI")}
    return {k: text for k, text in found.items() if text}


def describe(folder: images.PathLike, sources: Mapping[Path, str] = MappingProxyType({})) -> None:
    """Write what a BIDS-Derivatives data set has at its top, where it is not there already.

    That is ``dataset_description.json``, ``README`` and ``.bidsignore``.  A file that this package
    did not write stays as it is.

    Parameters
    ----------
    folder
        Top of the data set.
    sources
        Tops of the data sets that it is made from, each with its name in BIDS URIs.  They become
        ``SourceDatasets`` and ``DatasetLinks``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out:
    ...     describe(out)
    ...     sorted(path.name for path in Path(out).iterdir())
    ['.bidsignore', 'README', 'dataset_description.json']
    """
    top = Path(folder)
    path, readme, ignored = top / "dataset_description.json", top / "README", top / ".bidsignore"
    known: dict[str, Any] = {"GeneratedBy": [{"Name": "pvsbook"}]}
    try:
        known = images.read_json(path) if os.path.lexists(path) else known
    except InputError:
        return
    if not is_ours(known):
        return
    makers = [_as_maker(m) if is_ours({"GeneratedBy": [m]}) else m for m in known["GeneratedBy"]]
    # What was added by hand stays.
    merged = {**known, **_DESCRIPTION, "Name": known.get("Name", _DESCRIPTION["Name"])}
    merged["GeneratedBy"] = makers
    _link(merged, top, sources)
    if merged != known or not path.exists():
        images.write_bytes((json.dumps(merged, indent=2) + "\n").encode(), path)
    if not os.path.lexists(readme):
        images.write_bytes(README.encode(), readme)
    if os.path.lexists(ignored) and not ignored.is_file():
        return
    text = ignored.read_bytes() if ignored.exists() else b""
    present = {line.strip() for line in text.removeprefix(codecs.BOM_UTF8).splitlines()}
    if missing := [line for line in IGNORED if line.encode() not in present]:
        # Ours come first: where lines contradict each other, the last one, the user's, holds.
        ours = "".join(f"{line}\n" for line in missing).encode()
        images.write_bytes(ours + text.removeprefix(codecs.BOM_UTF8), ignored)


def _as_maker(known: Mapping[str, Any]) -> dict[str, Any]:
    """Describe this version and its container; what was added by hand stays."""
    urls = (line.partition(", ") for line in metadata("pvsbook").get_all("Project-URL") or ())
    code = [url for name, _, url in urls if name == "Repository"]
    made = {**known, **_MAKER, **({"CodeURL": code[0]} if code else {})}
    if image := container():
        made["Container"] = image
    elif "Type" in made.get("Container", {}):  # as an image of ours says it, of an earlier run
        del made["Container"]
    return made


def _link(description: dict[str, Any], top: Path, sources: Mapping[Path, str]) -> None:
    """Name the data sets that results are made from, by DOI or address, else by relative path."""
    links = dict(description.get("DatasetLinks", {}))
    stated = list(description.get("SourceDatasets", []))
    for root, name in sources.items():
        try:
            known = images.read_json(root / "dataset_description.json")
        except InputError:
            known = {}
        links[name] = quote(Path(os.path.relpath(root.resolve(), top.resolve())).as_posix())
        doi = re.sub("^(doi:|https?://(dx[.])?doi[.]org/)", "", str(known.get("DatasetDOI", "")))
        about = {
            **({"DOI": f"doi:{doi}"} if doi else {}),
            "URL": known.get("URL") or (f"https://doi.org/{doi}" if doi else f"bids:{name}:."),
            "Version": known.get("DatasetVersion") or known.get("Version"),
        }
        entry = {key: value for key, value in about.items() if isinstance(value, str)}
        stated = [s for s in stated if s != {"URL": f"bids:{name}:."} and s != entry] + [entry]
    if sources:
        description |= {"SourceDatasets": stated, "DatasetLinks": links}


def sources_of(paths: Sequence[images.PathLike]) -> dict[str, list[Any]]:
    """Name the files that a result was made from, and hash their contents."""
    hashes = []
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    names = [Path(p).name for p in paths]
    return {"GeneratedBy": [dict(_MAKER)], "Sources": names, "SourceSHA256": hashes}


def claim(
    writer: Writer, suffix: str, sources: Mapping[str, Sequence[str]], *, desc: str = "sources"
) -> None:
    """Refuse to replace results of other files, before anything is measured.

    Parameters
    ----------
    writer
        Of the results.
    suffix
        Of their table: ``pvs``, ``alps`` or ``qsm``.
    sources
        From `sources_of`.
    desc
        Of the file that keeps the sources of such results.

    Raises
    ------
    InputError
        The folder cannot be written, or holds results of this name that were made from files
        with other contents.
    """
    top = Path(writer.folder).absolute()
    there = next(p for p in (top, *top.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{writer.folder}: cannot be written; choose another folder")
    record = writer.path(suffix, ".json", desc=desc)
    if not os.path.lexists(record):
        return
    content = images.read_json(record)
    if "SourceSHA256" in content and not same_sources(content, sources):
        raise InputError(
            f"{writer.folder}: holds results of another scan under the name {writer.prefix} "
            f"({record.name}); give another folder (--out)"
        )
    if not is_ours(content):
        raise foreign(record)


def plain(value: Any) -> Any:
    """Turn a numpy number or array into a plain one; for ``json.dumps(..., default=plain)``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
