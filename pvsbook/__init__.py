"""Perivascular spaces, ALPS and QSM: the package beneath the book."""

from pvsbook._environment import place_numba_cache as _place_numba_cache
from pvsbook._errors import InputError
from pvsbook._lazy import attach as _attach
from pvsbook._version import __version__

_place_numba_cache()

__getattr__, __dir__, _ = _attach(__name__, __path__)

__all__ = ["InputError", "__version__"]
