"""Quantitative susceptibility mapping from gradient-echo phase."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "alignment",
        "background",
        "change",
        "dipole",
        "field",
        "inversion",
        "mask",
        "pipeline",
        "quality",
        "r2s",
        "reference",
        "regions",
        "separation",
        "swi",
        "unwrap",
    ],
    submod_attrs={"pipeline": ["QsmResult", "reconstruct"]},
)
