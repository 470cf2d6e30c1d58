"""The methods: one module each, and the one list of them.

A further method is a module here with a `pvsbook.method.Method`, and its name in `ALL`.
"""

from pvsbook._errors import InputError
from pvsbook.method import Method
from pvsbook.methods import alps, change, pvs, qsm

__all__ = ["ALL", "by_name"]

ALL: tuple[Method, ...] = (pvs.METHOD, alps.METHOD, qsm.METHOD, change.METHOD)


def by_name(name: str) -> Method:
    """Return a method.

    Raises
    ------
    InputError
        No method has this name.

    Examples
    --------
    >>> by_name("alps").title
    'ALPS index'
    """
    for method in ALL:
        if method.name == name:
            return method
    raise InputError(f"{name!r} is no method; known: {', '.join(m.name for m in ALL)}")
