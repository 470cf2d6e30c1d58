"""Perivascular spaces: vesselness, segmentation, counts and shape."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["anatomy", "morphometry", "pipeline", "rating", "segmentation", "vesselness"],
    submod_attrs={
        "pipeline": ["PvsResult", "measure"],
        "segmentation": ["Rules", "Segmentation", "segment"],
        "vesselness": ["Vesselness", "tube_directions", "vesselness_filter"],
    },
)
