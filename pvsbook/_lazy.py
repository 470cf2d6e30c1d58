"""Files of a package, imported where they are first used."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from typing import Any

import lazy_loader


def attach(package: str, folder: Iterable[str], **names: list[str]) -> Any:
    """Attach the public files of a package; and names, listed by the file that defines them."""
    files = [file.name for file in pkgutil.iter_modules(folder) if file.name[0] != "_"]
    return lazy_loader.attach(package, submodules=files, submod_attrs=names)
