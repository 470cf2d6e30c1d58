"""Digital phantoms with known truth, made from the MNI152 maps that nilearn carries."""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __path__)
