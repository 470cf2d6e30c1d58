"""MNI templates, regions, and bringing them to a person."""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__, __path__, registration=["Registration", "register_to_mni"]
)
