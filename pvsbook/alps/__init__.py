"""Diffusivity along the perivascular space (ALPS) from diffusion MRI."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "estimators",
        "pipeline",
        "preprocess",
        "probability",
        "quality",
        "regions",
        "series",
        "tensor",
    ],
    submod_attrs={"pipeline": ["AlpsResult", "measure"], "regions": ["SPHERES_2_5_MM", "RoiSet"]},
)
