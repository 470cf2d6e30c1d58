"""Diffusivity along the perivascular space (ALPS) from diffusion MRI."""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    __path__,
    pipeline=["AlpsResult", "measure"],
    regions=["SPHERES_2_5_MM", "SPHERES_5_MM", "RoiSet"],
)
