"""Pictures of results: one style, one colour for one thing."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submodules=[])
