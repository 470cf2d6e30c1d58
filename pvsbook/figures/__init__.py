"""Pictures of results: one style, one colour for one thing.  They compute nothing.

`COLORS` holds one colour for each thing that the book draws (after Okabe and Ito, so that colour
blindness does not hide a difference); `use_style` sets matplotlib's defaults; `show_slices` draws
anatomical slices in world orientation; `viewer` makes a titled slice viewer for a page.
"""

import lazy_loader as _lazy

__getattr__, __dir__, _names = _lazy.attach(
    __name__,
    submodules=["alps", "people", "pvs", "qsm", "style"],
    submod_attrs={
        "style": ["COLORS", "show_slices", "use_style", "viewer"],
    },
)

__all__ = list(_names)
