"""Virtual cohorts of three published studies, and what can be recomputed from their print.

Nobody here has the raw data.  Each study is a declared model, every parameter of which names its
source or says that it is assumed; people are drawn from it, measured, and analysed as the paper
was, beside what a reader should ask.  What comes out is a re-analysis on simulated data
calibrated to published summaries, never a reproduction.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "cohorts",
        "migraine",
        "model",
        "ms",
        "nmosd",
        "persons",
        "published",
        "repeat",
    ],
    submod_attrs={"model": ["describe"], "persons": ["measure_person"]},
)
