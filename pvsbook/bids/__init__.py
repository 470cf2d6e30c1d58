"""From files to results on disk: one scan, or a BIDS folder of many people."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["app", "group", "inputs", "longitudinal", "measure"],
    submod_attrs={
        "app": ["run_people"],
        "group": ["summarise"],
        "inputs": ["find"],
        "longitudinal": ["measure_qsm_change"],
        "measure": ["Done", "measure_alps", "measure_pvs", "measure_qsm"],
    },
)
