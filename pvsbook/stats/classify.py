"""Tell groups apart by logistic regression, and say how well it would do on others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from pvsbook._errors import InputError
from pvsbook.stats.tables import check, coefficients, result

__all__ = ["Classifier", "logistic"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A logistic model and how well it tells the groups apart.

    Attributes
    ----------
    coefficients
        Odds ratios per standard deviation of each predictor.
    performance
        Four kinds of R2, and the area under the ROC curve: of the participants that the model was
        fitted to, with the optimism taken off by bootstrap, and cross-validated; calibration.
    predictions
        Cross-validated probability of each participant: ``outcome`` (0 or 1) and ``probability``.
    """

    coefficients: pd.DataFrame
    performance: pd.DataFrame
    predictions: pd.DataFrame


def logistic(
    table: pd.DataFrame,
    *,
    group: str,
    positive: str,
    predictors: Sequence[str],
    rng: Generator,
    n_folds: int = 10,
    n_repeats: int = 10,
    n_bootstrap: int = 200,
) -> Classifier:
    """Fit a logistic model, and validate it inside the sample.

    statsmodels fits it and scikit-learn cross-validates it; neither refuses separated groups or
    takes off the optimism by bootstrap.

    Parameters
    ----------
    table
        One row per participant.
    group
        Column with two groups.
    positive
        The group whose probability is modelled.
    predictors
        Columns of numbers, chosen before the groups were seen.  Ten participants of the smaller
        group per predictor is a low bar already.
    rng
        Folds and bootstrap.
    n_folds, n_repeats
        Stratified folds, and how often they are drawn.
    n_bootstrap
        Draws, for the optimism and for the intervals.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, not two groups, groups that the predictors separate
        without error (odds ratios are then infinite), or fewer participants in a group than folds.

    References
    ----------
    Harrell, Lee and Mark 1996, Stat Med 15:361 (optimism); Steyerberg, Clinical Prediction
    Models (calibration).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"g": ["p"] * 30 + ["c"] * 30, "alps": rng.normal(size=60)})
    >>> people.loc[:29, "alps"] -= 1
    >>> model = logistic(people, group="g", positive="p", predictors=["alps"], rng=rng,
    ...                  n_repeats=1, n_bootstrap=20)
    >>> model.performance["measure"][:3].tolist()
    ['R2, McFadden', 'R2, Cox and Snell', 'R2, Nagelkerke']
    """
    clean = check(table, value=list(predictors), group=group, least=n_folds).table
    if clean[group].nunique() != 2 or positive not in set(clean[group]):
        raise InputError(
            f"{group}: {', '.join(map(str, clean[group].unique()))}; two groups are needed, one "
            f"of them {positive!r}"
        )
    y = (clean[group] == positive).to_numpy(np.int64)
    x = clean[list(predictors)].to_numpy(np.float64)
    fit = _fit(x, y, group, predictors)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=500))
    apparent = model.fit(x, y).predict_proba(x)[:, 1]
    folds = np.stack([_out_of_fold(model, x, y, n_folds, rng) for _ in range(n_repeats)])
    held_out = folds.mean(axis=0)
    draws = []
    for _ in range(n_bootstrap):
        drawn = _stratified_draw(y, rng)
        refit = model.fit(x[drawn], y[drawn])
        drawn_auc = roc_auc_score(y[drawn], refit.predict_proba(x[drawn])[:, 1])
        optimism = drawn_auc - roc_auc_score(y, refit.predict_proba(x)[:, 1])
        spread = [roc_auc_score(y[drawn], p[drawn]) for p in (apparent, held_out)]
        draws.append((optimism, *spread))
    excess = np.mean([optimism for optimism, *_ in draws])
    _, of_apparent, of_held_out = np.percentile(draws, (2.5, 97.5), axis=0).T
    auc, n = roc_auc_score(y, apparent), len(y)
    measures = {
        "AUC, apparent": (auc, *of_apparent),
        "AUC, optimism taken off": (auc - excess, *(of_apparent - excess)),
        "AUC, cross-validated": (np.mean([roc_auc_score(y, f) for f in folds]), *of_held_out),
        "Brier score, held out": (brier_score_loss(y, held_out),),
    }
    rows = [*_r_squared(fit, apparent, y)]
    rows += [result("model", measure, *values, n=n) for measure, values in measures.items()]
    rows += _calibration(y, held_out)
    predictions = pd.DataFrame({"outcome": y, "probability": held_out})
    ratios = coefficients(
        fit, predictors, "odds ratio per SD", exponential=True, n=n, test="Wald z"
    )
    return Classifier(pd.DataFrame(ratios), pd.DataFrame(rows), predictions)


def _fit(x, y, group: str, predictors: Sequence[str]):  # type: ignore[no-untyped-def]
    design = sm.add_constant((x - x.mean(axis=0)) / x.std(axis=0, ddof=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = sm.Logit(y, design).fit(disp=0)
        except np.linalg.LinAlgError:
            fit = None
    separated = any(issubclass(c.category, PerfectSeparationWarning) for c in caught)
    if fit is None or separated or not fit.mle_retvals["converged"]:
        raise InputError(
            f"{', '.join(predictors)}: they separate the groups of {group!r} without error, or "
            "repeat each other; take some out"
        )
    return fit


def _out_of_fold(model, x, y, n_folds: int, rng: Generator) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=int(rng.integers(2**31)))
    return cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1]


def _stratified_draw(y: NDArray, rng: Generator) -> NDArray[np.int64]:
    parts = [np.flatnonzero(y == k) for k in (0, 1)]
    return np.concatenate([rng.choice(part, len(part)) for part in parts])


def _r_squared(fit, probability: NDArray, y: NDArray):  # type: ignore[no-untyped-def]
    n = len(y)
    cox = 1 - np.exp(2 * (fit.llnull - fit.llf) / n)
    test = {"test": "likelihood ratio", "statistic": fit.llr, "df": f"{fit.df_model:.0f}"}
    yield result("model", "R2, McFadden", fit.prsquared, n=n, p=fit.llr_pvalue, **test)
    yield result("model", "R2, Cox and Snell", cox, n=n)
    yield result("model", "R2, Nagelkerke", cox / (1 - np.exp(2 * fit.llnull / n)), n=n)
    tjur = probability[y == 1].mean() - probability[y == 0].mean()
    yield result("model", "R2, Tjur", tjur, n=n)


def _calibration(y: NDArray, probability: NDArray) -> list[dict]:
    """Regress the outcome on the held-out log odds: intercept 0 and slope 1 are perfect."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    fit = sm.Logit(y, sm.add_constant(np.log(p / (1 - p)))).fit(disp=0)
    limits = fit.conf_int()
    names = ("calibration intercept, held out", "calibration slope, held out")
    return [result("model", names[k], fit.params[k], *limits[k], n=len(y)) for k in (0, 1)]
