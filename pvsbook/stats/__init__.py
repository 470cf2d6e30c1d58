"""Statistics: tables in, tables out.

Every function checks its table first and gives a table with the same columns
(`pvsbook.stats.tables.COLUMNS`): estimate, confidence limits, test, p, n, and what was done about
multiplicity.  The computing is done by scipy, statsmodels, pingouin and scikit-learn.

Here is only what they lack.  For a t test, a rank test, a correlation, a linear or ordinal model,
or power, call them; the chapters on the three studies show how.
"""

from pvsbook._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __path__)
