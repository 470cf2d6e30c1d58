"""A BIDS folder of many participants, or the files of one scan, to results on disk."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["app", "group", "inputs", "measure", "sessions"],
    submod_attrs={
        "app": ["run_participants"],
        "group": ["summarise"],
        "inputs": ["find"],
        "measure": ["Done", "measure_files"],
    },
)
