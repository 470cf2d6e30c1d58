"""Scans of the public data sets, loaded: what a notebook measures in place of its phantom.

The entry of a data set says which files make a scan and what they leave out (echo times,
contrast); files come from the cache, the mirror or their public address, and are verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib

from pvsbook import images, manifest
from pvsbook._errors import InputError

__all__ = ["Anatomy", "anatomy", "diffusion", "gradient_echo", "locate"]


# By method: the files and options that an entry must have, and the options that it may have.
_ENTRIES: dict[str, tuple[set[str], set[str]]] = {
    "pvs": ({"image", "contrast"}, set()),
    "alps": ({"dwi", "bval", "bvec"}, set()),
    "qsm": ({"magnitude", "phase"}, {"echo_times_s", "field_strength_t", "phase_period"}),
}


@dataclass(frozen=True)
class Anatomy:
    """An anatomical scan and what is known beside it.

    Attributes
    ----------
    image
        T2w or T1w.
    contrast
        ``"t2"``: perivascular spaces are bright; ``"t1"``: dark.
    wmh_mask, brain_mask
        On the same grid, or None.
    """

    image: nib.Nifti1Image
    contrast: Literal["t1", "t2"]
    wmh_mask: nib.Nifti1Image | None = None
    brain_mask: nib.Nifti1Image | None = None


def locate(
    dataset: str,
    method: str,
    *,
    subject: str | None = None,
    session: str | None = None,
) -> tuple[manifest.Scan, dict[str, Any]]:
    """Bring the files of a scan and say where they are.

    Parameters
    ----------
    dataset
        A name of `pvsbook.manifest.datasets`.
    method
        Its name in the manifest: ``"pvs"``, ``"alps"`` or ``"qsm"``.
    subject, session
        Labels; the first person and visit by default.

    Returns
    -------
    tuple of pvsbook.manifest.Scan and dict
        What the manifest says of it; and by role its file, or its files in the order of the
        echoes.

    Raises
    ------
    InputError
        No such scan, an entry that lacks what the method needs, or files that cannot be had; the
        message names files, sizes and addresses.
    """
    entry = manifest.describe(dataset).scan(method, subject=subject, session=session)
    needed, optional = _ENTRIES.get(method, (set(), set(entry.options)))
    names = {*entry.files, *entry.options}
    if not needed <= names or not set(entry.options) <= needed | optional:
        raise InputError(
            f"{dataset}: the entry of its {method} scan has {', '.join(sorted(names))}; "
            f"needed: {', '.join(sorted(needed))}; correct files and options in data_manifest"
        )
    command = f"pvsbook data fetch {dataset} --method {method}"
    command += f" --subject {entry.subject}" * bool(entry.subject)
    command += f" --session {entry.session}" * bool(entry.session)
    wanted = [file.path for file in manifest.describe(dataset).files_of(entry)]
    fetched = manifest.fetch(dataset, wanted, command=command)
    return entry, {
        role: fetched[files] if isinstance(files, str) else [fetched[f] for f in files]
        for role, files in entry.files.items()
    }


def anatomy(dataset: str, *, subject: str | None = None, session: str | None = None) -> Anatomy:
    """Load the T2w (or T1w) scan in which perivascular spaces are counted.

    Parameters
    ----------
    dataset, subject, session
        As in `locate`.

    Returns
    -------
    Anatomy

    Raises
    ------
    InputError
        See `locate` and `pvsbook.images.load`.

    Examples
    --------
    >>> scan = anatomy("openms_mni_p07")  # doctest: +SKIP
    >>> scan.contrast  # doctest: +SKIP
    't2'
    """
    entry, paths = locate(dataset, "pvs", subject=subject, session=session)
    loaded: dict[str, Any] = {
        role: images.load(paths[role])
        for role in ("image", "wmh_mask", "brain_mask")
        if role in paths
    }
    return Anatomy(**loaded, **dict[str, Any](entry.options))


def diffusion(
    dataset: str, *, subject: str | None = None, session: str | None = None
) -> images.Dwi:
    """Load a diffusion series with its gradients.

    Parameters
    ----------
    dataset, subject, session
        As in `locate`.

    Returns
    -------
    Dwi

    Raises
    ------
    InputError
        See `locate` and `pvsbook.images.load_dwi`.

    Examples
    --------
    >>> dwi = diffusion("ds000114", subject="01", session="retest")  # doctest: +SKIP
    """
    _, paths = locate(dataset, "alps", subject=subject, session=session)
    return images.load_dwi(paths["dwi"], paths["bval"], paths["bvec"])


def gradient_echo(
    dataset: str, *, subject: str | None = None, session: str | None = None
) -> images.Gre:
    """Load magnitude and phase of a gradient echo.

    Parameters
    ----------
    dataset, subject, session
        As in `locate`.

    Returns
    -------
    Gre

    Raises
    ------
    InputError
        See `locate` and `pvsbook.images.load_gre`.

    Examples
    --------
    >>> gre = gradient_echo("gre_small_romeo")  # doctest: +SKIP
    >>> gre.echo_times_s  # doctest: +SKIP
    array([0.004, 0.008, 0.012])
    """
    entry, paths = locate(dataset, "qsm", subject=subject, session=session)
    return images.load_gre(paths["magnitude"], paths["phase"], **dict[str, Any](entry.options))
