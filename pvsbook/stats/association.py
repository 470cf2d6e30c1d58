"""Association: correlations with and without covariates, linear and ordinal models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
from scipy import stats
from statsmodels.miscmodels.ordinal_model import OrderedModel

from pvsbook._errors import InputError
from pvsbook.stats.tables import check, design, result

__all__ = ["correlate", "correlation_from_summary", "linear", "ordinal"]

METHODS = ("pearson", "spearman")


def correlate(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    method: str = "pearson",
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Correlate two columns, given others.

    Parameters
    ----------
    table
        One row a person.
    x, y
        Columns.
    method
        ``"pearson"``, or ``"spearman"`` for ranks and counts.
    covariates
        Columns of numbers to hold fixed (partial correlation).

    Returns
    -------
    pandas.DataFrame
        One row; limits by Fisher's z.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, an unknown method, or a column that does not vary.

    Examples
    --------
    >>> people = pd.DataFrame({"a": [1.0, 2, 3, 4, 5, 6], "b": [2.0, 1, 4, 3, 6, 5]})
    >>> correlate(people, "a", "b")[["estimate", "p"]].round(3).to_numpy().tolist()
    [[0.829, 0.042]]
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r}; one of {', '.join(METHODS)}")
    least = 5 + len(covariates)
    clean = check(table, value=[x, y, *covariates], least=least).table.astype(np.float64)
    flat = [c for c in (x, y, *covariates) if clean[c].nunique() < 2]
    if flat:
        raise InputError(f"{flat[0]}: the same value in every row; nothing varies with it")
    if covariates:
        found = pingouin.partial_corr(clean, x, y, list(covariates), method=method).iloc[0]
    else:
        found = pingouin.corr(clean[x], clean[y], method=method).iloc[0]
    r, n = float(found["r"]), int(found["n"])
    low, high = _fisher(r, n - len(covariates))
    given = f" given {', '.join(covariates)}" if covariates else ""
    name = "Pearson" if method == "pearson" else "Spearman"
    return pd.DataFrame(
        [
            result(
                f"{x} ~ {y}{given}", f"{name} correlation (Fisher z CI)", r, low, high, n=n,
                test=f"{name} t", p=float(found["p_val"]), df=str(n - 2 - len(covariates)),
                statistic=r * np.sqrt((n - 2 - len(covariates)) / (1 - r**2)),
            )
        ]
    )  # fmt: skip


def correlation_from_summary(r: float, n: int) -> pd.DataFrame:
    """Give a published correlation the interval that it was printed without.

    Raises
    ------
    InputError
        A correlation outside -1 to 1, or fewer than four people.

    Examples
    --------
    >>> correlation_from_summary(-0.47, 28)[["low", "high"]].round(2).to_numpy().tolist()
    [[-0.72, -0.12]]
    """
    if not -1 < r < 1 or n < 4:
        raise InputError(f"r, n: {r}, {n}; give -1 < r < 1 and at least four people")
    t = r * np.sqrt((n - 2) / (1 - r**2))
    return pd.DataFrame(
        [
            result(
                "published", "correlation (Fisher z CI)", r, *_fisher(r, n), n=n, test="t",
                statistic=t, df=str(n - 2), p=2 * stats.t.sf(abs(t), n - 2),
            )
        ]
    )  # fmt: skip


def _fisher(r: float, n: int) -> tuple[float, float]:
    if abs(r) >= 1:
        return r, r
    low, high = pingouin.compute_esci(r, n, eftype="r", decimals=6)
    return float(low), float(high)


def linear(table: pd.DataFrame, *, value: str, predictors: Sequence[str]) -> pd.DataFrame:
    """Fit a linear model and return its coefficients, R2 and adjusted R2.

    Parameters
    ----------
    table
        One row a person.
    value
        Column of the outcome.
    predictors
        Columns of numbers or categories, as in `pvsbook.stats.tables.check`.

    Returns
    -------
    pandas.DataFrame
        A row for each coefficient (change of the outcome per unit), then R2, with the F test of
        the whole model, and adjusted R2.  R2 is of the people that the model was fitted to; for
        others it is lower.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, or too few people.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame(rng.normal(size=(30, 2)), columns=["alps", "edss"])
    >>> linear(people, value="edss", predictors=["alps"])["term"].tolist()
    ['alps', 'model', 'model']
    """
    clean = check(table, value=value, covariates=predictors, least=len(predictors) + 3).table
    x, names = design(clean, predictors)
    fit = sm.OLS(clean[value].to_numpy(np.float64), x).fit()
    limits = fit.conf_int()
    rows = [
        result(
            name, "coefficient", fit.params[k], *limits[k], n=len(clean), test="OLS t",
            statistic=fit.tvalues[k], df=f"{fit.df_resid:.0f}", p=fit.pvalues[k],
        )
        for k, name in enumerate(names, start=1)
    ]  # fmt: skip
    df = f"{fit.df_model:.0f}, {fit.df_resid:.0f}"
    rows.append(
        result(
            "model", "R2", fit.rsquared, n=len(clean), test="F", statistic=fit.fvalue, df=df,
            p=fit.f_pvalue,
        )
    )  # fmt: skip
    rows.append(result("model", "adjusted R2", fit.rsquared_adj, n=len(clean)))
    return pd.DataFrame(rows)


def ordinal(table: pd.DataFrame, *, value: str, predictors: Sequence[str]) -> pd.DataFrame:
    """Fit a proportional-odds model: for scores whose steps are not equal, such as EDSS.

    Parameters
    ----------
    table
        One row a person.
    value
        Ordered scores, as numbers.
    predictors
        Columns of numbers.

    Returns
    -------
    pandas.DataFrame
        For each predictor the odds ratio of a higher score, per standard deviation of it.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, fewer than three scores, or no convergence.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"alps": rng.normal(size=60)})
    >>> people["edss"] = np.digitize(rng.normal(size=60) - people["alps"], [-1, 0, 1])
    >>> bool(ordinal(people, value="edss", predictors=["alps"])["estimate"][0] < 1)
    True
    """
    least = 10 + len(predictors)
    clean = check(table, value=[value, *predictors], least=least).table
    if clean[value].nunique() < 3:
        raise InputError(f"{value}: {clean[value].nunique()} scores; use a logistic model for two")
    x = clean[list(predictors)].astype(np.float64)
    x = (x - x.mean()) / x.std()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        fit = OrderedModel(
            pd.Categorical(clean[value], ordered=True), x, distr="logit"
        ).fit(method="bfgs", disp=0, maxiter=500)  # fmt: skip
    if not fit.mle_retvals["converged"] or not np.isfinite(fit.bse).all():
        raise InputError(
            f"{value}: the ordinal model did not converge; join scores with few people"
        )
    limits = fit.conf_int()
    return pd.DataFrame(
        [
            result(
                name, "odds ratio of a higher score, per SD",
                *np.exp([fit.params[name], *limits.loc[name]]), n=len(clean),
                test="proportional odds, Wald z", statistic=fit.tvalues[name],
                p=fit.pvalues[name],
            )
            for name in predictors
        ]
    )  # fmt: skip
