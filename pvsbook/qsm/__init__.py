"""Quantitative susceptibility mapping from gradient-echo phase."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "background",
        "change",
        "field",
        "inversion",
        "mask",
        "metrics",
        "pipeline",
        "quality",
        "r2s",
        "reference",
        "regions",
        "regularisation",
        "separation",
        "swi",
        "unwrap",
    ],
    submod_attrs={"pipeline": ["QsmResult", "reconstruct"]},
)
