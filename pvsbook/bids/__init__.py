"""A BIDS folder of many participants, or the files of one scan, to results on disk."""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    __path__,
    app=["run_participants"],
    group=["summarise"],
    inputs=["find"],
    measure=["Done", "measure_files"],
)
