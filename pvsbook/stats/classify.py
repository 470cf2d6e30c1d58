"""Tell groups apart by logistic regression, and say how well it would do on others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from pvsbook._errors import InputError
from pvsbook.stats._regression import coefficients, design
from pvsbook.stats.tables import check, listed, required, result

__all__ = ["Classifier", "logistic"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A logistic model and how well it tells the groups apart.

    Attributes
    ----------
    coefficients
        Odds ratios per standard deviation of each predictor, with limits by Wald.
    performance
        Four kinds of R2, and the area under the ROC curve (AUC): of the participants that the
        model was fitted to, with the optimism taken off by bootstrap, and cross-validated;
        calibration.  Limits of an AUC are percentiles of a bootstrap of participants within the
        groups, who keep their predictions, of that same AUC; where the optimism is taken off,
        they are shifted by it.  They leave out that other participants would have given another
        model, and are too narrow with few: at 10 and 10, 88 % hold the expected AUC.  Limits of
        the calibration are by Wald.
    predictions
        Held-out probability of each participant, mean of the repeats: ``outcome`` (0 or 1) and
        ``probability``.  Ranked together, probabilities from different folds give an AUC below
        a half where there is no effect; ``AUC, cross-validated`` compares within folds only.
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
    person: str | None = None,
) -> Classifier:
    """Fit a logistic model, and validate it inside the sample.

    statsmodels fits it and scikit-learn cross-validates it; neither refuses separated groups or
    takes off the optimism by bootstrap.

    The cross-validated AUC is the share of pairs, one participant of each group held out in the
    same fold, that are in the right order.  Without an effect it is 0.5 on average
    (``benchmarks/stats.py``).

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
    person
        Column of participants; one who stands in two rows is then refused by name.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, not two groups, groups that the predictors separate
        without error, or all but ties (odds ratios are then infinite), predictors that repeat each
        other, or fewer participants in a group than folds.

    References
    ----------
    Harrell, Lee and Mark 1996, Stat Med 15:361 (optimism); Steyerberg, Clinical Prediction
    Models (calibration); Airola et al. 2011, doi:10.1016/j.csda.2010.11.018 (pairs within a fold).

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
    for name, count, few in (("n_folds", n_folds, 2), ("n_repeats", n_repeats, 1),
                             ("n_bootstrap", n_bootstrap, 2)):  # fmt: skip
        if not isinstance(count, int | np.integer) or count < few:
            raise InputError(f"{name}: {count}; give a whole number from {few}")
    required(group=group, predictors=listed(predictors))
    checked = check(table, value=listed(predictors), group=group, person=person, least=n_folds)
    clean, counts = checked.table, checked.counts
    positive = positive.strip() if isinstance(positive, str) else positive
    if clean[group].nunique() != 2 or positive not in set(clean[group]):
        raise InputError(
            f"{group}: {', '.join(map(str, clean[group].unique()))}; two groups are needed, one "
            f"of them {positive!r}"
        )
    y = (clean[group] == positive).to_numpy(np.int64)
    x, names, _ = design(clean, listed(predictors))
    x[:, 1:] /= np.sqrt(len(x) / (len(x) - 1))  # per standard deviation of the sample
    _not_separated(x, y, group, names)
    fit = _fit(y, x)
    if fit is None:
        raise InputError(
            f"{', '.join(names)}: they all but separate the groups of {group!r}, and the model "
            "did not converge; take some out"
        )
    with warnings.catch_warnings():  # where a draw is separated the order of people is still right
        warnings.simplefilter("ignore", ConvergenceWarning)
        rows, held_out = _validate(x[:, 1:], y, rng, n_folds, n_repeats, n_bootstrap, counts)
    rows = [*_r_squared(fit, fit.predict(), y, counts), *rows]
    rows += _calibration(y, held_out, counts)
    predictions = pd.DataFrame({"outcome": y, "probability": held_out})
    ratios = coefficients(
        fit.params[1:], fit.bse[1:], names, "odds ratio per SD", df=np.inf, exponential=True,
        test="Wald z", **counts,
    )  # fmt: skip
    return Classifier(pd.DataFrame(ratios), pd.DataFrame(rows), predictions)


def _fit(y: NDArray, x: NDArray) -> Any:
    with warnings.catch_warnings(record=True):  # convergence is asked for
        warnings.simplefilter("always")
        try:
            fit = sm.Logit(y, x).fit(disp=0)
        except np.linalg.LinAlgError:
            return None
    usable = fit.mle_retvals["converged"] and np.isfinite(fit.bse).all()
    return fit if usable else None


def _not_separated(x: NDArray, y: NDArray, group: str, names: Sequence[str]) -> None:
    """Refuse a direction along which no participant is on the wrong side (Konis 2007)."""
    signed = x * (2 * y - 1)[:, None]
    best = optimize.linprog(
        -signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(y)), bounds=(-1, 1)
    )
    if -best.fun > 1e-6:
        raise InputError(
            f"{', '.join(names)}: they separate the groups of {group!r} without error (but for "
            "ties); take some out"
        )


def _validate(  # type: ignore[no-untyped-def]
    x, y, rng: Generator, n_folds: int, n_repeats: int, n_bootstrap: int, counts: dict
) -> tuple[list[dict], NDArray[np.float64]]:
    """Return the rows of AUC and Brier score, and the held-out probabilities."""
    model = LogisticRegression(C=np.inf, max_iter=500)  # without a penalty, scale is nothing
    apparent = model.fit(x, y).predict_proba(x)[:, 1]
    held_out, right, pairs = _out_of_fold(model, x, y, n_folds, n_repeats, rng)
    positive, negative = (np.flatnonzero(y == k) for k in (1, 0))
    draws = []
    for _ in range(n_bootstrap):
        drawn = _stratified_draw(y, rng)
        refit = model.fit(x[drawn], y[drawn])
        drawn_auc = roc_auc_score(y[drawn], refit.predict_proba(x[drawn])[:, 1])
        optimism = drawn_auc - roc_auc_score(y, refit.predict_proba(x)[:, 1])
        times = np.bincount(drawn, minlength=len(y))
        weights = np.outer(times[positive], times[negative])
        crossed = (weights * right).sum() / (weights * pairs).sum()
        draws.append((optimism, roc_auc_score(y[drawn], apparent[drawn]), crossed))
    excess = np.mean([optimism for optimism, *_ in draws])
    _, of_apparent, of_crossed = np.percentile(draws, (2.5, 97.5), axis=0).T
    auc = roc_auc_score(y, apparent)
    measures = {
        "AUC, apparent": (auc, *of_apparent),
        "AUC, optimism taken off": (auc - excess, *(of_apparent - excess)),
        "AUC, cross-validated": (right.sum() / pairs.sum(), *of_crossed),
    }
    about = {"interval": "bootstrap", **counts}
    rows = [result("model", measure, *values, **about) for measure, values in measures.items()]
    brier = brier_score_loss(y, held_out)
    return [*rows, result("model", "Brier score, held out", brier, **counts)], held_out


def _out_of_fold(model, x, y, n_folds: int, n_repeats: int, rng: Generator):  # type: ignore[no-untyped-def]
    """Return mean held-out probabilities, and of each pair how often it was in the right order.

    A pair is one participant of each group; also returned is how often it was held out in one
    fold.  A tie is half right.
    """
    probability = np.zeros(len(y))
    right, pairs = np.zeros((2, y.sum(), len(y) - y.sum()))
    place = np.where(y == 1, np.cumsum(y), np.cumsum(1 - y)) - 1  # within the group
    for _ in range(n_repeats):
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=int(rng.integers(2**31)))
        for learn, test in folds.split(x, y):
            found = model.fit(x[learn], y[learn]).predict_proba(x[test])[:, 1]
            probability[test] += found / n_repeats
            ill = y[test] == 1
            order = 0.5 * (1 + np.sign(found[ill][:, None] - found[~ill]))
            cells = np.ix_(place[test][ill], place[test][~ill])
            right[cells] += order
            pairs[cells] += 1
    return probability, right, pairs


def _stratified_draw(y: NDArray, rng: Generator) -> NDArray[np.int64]:
    parts = [np.flatnonzero(y == k) for k in (0, 1)]
    return np.concatenate([rng.choice(part, len(part)) for part in parts])


def _r_squared(fit, probability: NDArray, y: NDArray, counts: dict):  # type: ignore[no-untyped-def]
    n = len(y)
    cox = 1 - np.exp(2 * (fit.llnull - fit.llf) / n)
    test = {"test": "likelihood ratio", "statistic": fit.llr, "df": f"{fit.df_model:.0f}"}
    yield result("model", "R2, McFadden", fit.prsquared, p=fit.llr_pvalue, **test, **counts)
    yield result("model", "R2, Cox and Snell", cox, **counts)
    yield result("model", "R2, Nagelkerke", cox / (1 - np.exp(2 * fit.llnull / n)), **counts)
    tjur = probability[y == 1].mean() - probability[y == 0].mean()
    yield result("model", "R2, Tjur", tjur, **counts)


def _calibration(y: NDArray, probability: NDArray, counts: dict) -> list[dict]:
    """Regress the outcome on the held-out log odds: intercept 0 and slope 1 are perfect.

    NaN where these separate the groups.
    """
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    fit = _fit(y, sm.add_constant(np.log(p / (1 - p)), has_constant="add"))
    names = ("calibration intercept, held out", "calibration slope, held out")
    if fit is None:
        return [result("model", name, np.nan, **counts) for name in names]
    limits = fit.conf_int()
    about = {"interval": "Wald", **counts}
    return [result("model", names[k], fit.params[k], *limits[k], **about) for k in (0, 1)]
