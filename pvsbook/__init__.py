"""Perivascular spaces, ALPS and QSM: the package beneath the book."""

import lazy_loader as _lazy

from pvsbook._environment import place_numba_cache as _place_numba_cache
from pvsbook._errors import InputError
from pvsbook._version import __version__

_place_numba_cache()

__getattr__, __dir__, _ = _lazy.attach(
    __name__,
    submodules=[
        "alps",
        "atlas",
        "bids",
        "derivatives",
        "figures",
        "images",
        "manifest",
        "phantoms",
        "pvs",
        "qsm",
        "report",
        "stats",
    ],
)

__all__ = ["InputError", "__version__"]
