"""Perivascular spaces: vesselness, segmentation, counts and shape."""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    __path__,
    pipeline=["PvsResult", "measure"],
    objects=["CLASSES", "Rules"],
    segmentation=["Segmentation", "segment"],
    vesselness=["Vesselness", "vesselness_filter"],
)
