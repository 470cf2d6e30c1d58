"""Perivascular spaces: vesselness, segmentation, counts and shape."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "anatomy",
        "morphometry",
        "objects",
        "pipeline",
        "quality",
        "rating",
        "segmentation",
        "vesselness",
    ],
    submod_attrs={
        "pipeline": ["PvsResult", "measure"],
        "objects": ["CLASSES", "Rules"],
        "segmentation": ["Segmentation", "segment"],
        "vesselness": ["Vesselness", "vesselness_filter"],
    },
)
