"""Digital phantoms with known truth, made from the MNI152 maps that nilearn carries."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__, submodules=["brain", "diffusion", "gradient_echo", "people", "perivascular"]
)
