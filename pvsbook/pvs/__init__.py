"""Perivascular spaces: vesselness, segmentation, counts and shape."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submodules=[])
