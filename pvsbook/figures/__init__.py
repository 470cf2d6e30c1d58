"""Pictures of results: one style, one colour for one thing.  They compute nothing.

`COLORS` holds one colour for each thing that the book draws (after Okabe and Ito, so that colour
blindness does not hide a difference); `use_style` sets matplotlib's defaults; `show_slices` draws
anatomical slices in world orientation; `viewer` makes a titled slice viewer for a page.
"""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__, __path__, style=["COLORS", "show_slices", "use_style", "viewer"]
)
