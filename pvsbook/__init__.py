"""Perivascular spaces, ALPS and QSM: the package beneath the book."""

import lazy_loader as _lazy

from pvsbook._errors import InputError
from pvsbook._version import __version__

__getattr__, __dir__, _ = _lazy.attach(
    __name__,
    submodules=[
        "alps",
        "atlas",
        "cohort",
        "derivatives",
        "exercises",
        "figures",
        "images",
        "manifest",
        "phantoms",
        "pvs",
        "qsm",
        "report",
        "stats",
        "studies",
    ],
)

__all__ = ["InputError", "__version__"]
