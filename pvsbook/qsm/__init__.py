"""Quantitative susceptibility mapping from gradient-echo phase."""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __path__, pipeline=["QsmResult", "reconstruct"])
