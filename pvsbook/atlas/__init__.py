"""MNI templates, regions, and bringing them to a person."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["deep_grey", "perivascular", "registration", "templates", "tissue"],
    submod_attrs={"registration": ["Registration", "register_to_mni"]},
)
