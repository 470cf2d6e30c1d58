"""What only the book needs: its exercises, widgets, reruns and virtual studies."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "dataset",
        "exercises",
        "notebook_page",
        "rerun",
        "statistics_figures",
        "studies",
        "widgets",
    ],
    submod_attrs={"exercises": ["check"]},  # each chapter asks for it
)
