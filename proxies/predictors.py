"""Predictors: what a network may come to, guessed from what others came to, with an honest interval.

A prediction says which of several proposals is worth an evaluation. It is never a result: PSNR and latency that are
reported are measured. The models are scikit-learn's, named in `PREDICTORS`; a new one is a function of a seed to an
estimator. They learn from tables (`features.py`) of a few dozen to a thousand networks.

The interval is that of CV+ (Barber et al. 2021, "Predictive inference with the jackknife+", section 3): each network's
residual is that of a model which has not seen it, and the interval is made of these models' own predictions, moved by
these residuals. If the networks asked about are drawn as the ones learnt from were, 95 % of the intervals hold the
truth (proven: at least 90 %, but for a term that falls with the number of rows); a search that goes where it has not
been before is not such a draw, and there the intervals are too narrow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..spaces import InputError, unknown
from .features import ADDITIVE, Features

Numbers = NDArray[np.float64]

CONFIDENCE = 0.95
FEWEST_ROWS = 20  # of fewer than 19 residuals none is the 95 % quantile
OUTER_FOLDS = 5  # of a validation
FEWEST_VALIDATED = FEWEST_ROWS * OUTER_FOLDS // (OUTER_FOLDS - 1)  # networks; less a fold that is FEWEST_ROWS
FOLDS = 10  # of the residuals within a fit


@dataclass(frozen=True)
class Kind:
    """A model: its words for a reader, and the function that makes one from a seed.

    relative: its errors grow with what it predicts, which must be positive: latency. Intervals then are factors.
    columns: those it looks at, where it cannot use any other.
    """

    label: str
    make: Callable[[int], Any]
    relative: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictor:
    """A fitted model, and what its interval needs.

    `whole` has seen all rows, `parts[k]` all but those with `part_of == k`; `errors`, `[rows]`, are those of the part
    that has not seen the row: absolute, or where the kind is relative shares of the prediction.
    """

    kind: Kind
    names: tuple[str, ...]
    whole: Any
    parts: tuple[Any, ...]
    part_of: NDArray[np.integer]
    errors: Numbers

    def predict(self, features: Features) -> tuple[Numbers, Numbers, Numbers]:
        """Prediction, and low and high end of its 95 % interval, each `[N]`; the prediction lies in the interval.

        InputError for other columns than those of the fit.
        """
        _refuse_other_columns(features, self.names)
        table = _columns(self.kind, features)
        mean = _asked(self.whole, table)
        by_part = np.stack([_asked(part, table) for part in self.parts])
        centres = by_part[self.part_of]  # [rows, N]
        shifts = self.errors[:, None] * (np.abs(centres) if self.kind.relative else 1)
        rank = math.ceil(CONFIDENCE * (len(self.errors) + 1)) - 1
        low = -np.sort(shifts - centres, axis=0)[rank]
        high = np.sort(centres + shifts, axis=0)[rank]
        return mean, np.minimum(low, mean), np.maximum(high, mean)


def fit(features: Features, targets: Sequence[float] | Numbers, model: str, seed: int = 0) -> Predictor:
    """The model called `model` of `PREDICTORS`, fitted on `[N]` targets; deterministic in its arguments.

    InputError for fewer than `FEWEST_ROWS` rows, targets that are not finite, or not positive for a relative model.
    """
    kind, wanted = _kind(model), _targets(features, targets, model)
    if len(wanted) < FEWEST_ROWS:
        raise InputError(f"predictor '{model}': needs {FEWEST_ROWS} networks to learn from, not {len(wanted)}")
    table = _columns(kind, features)
    part_of = _deal(len(wanted), FOLDS, seed)
    parts = tuple(kind.make(seed).fit(table[part_of != k], wanted[part_of != k]) for k in range(FOLDS))
    errors = np.empty(len(wanted))
    for k, part in enumerate(parts):
        found = _asked(part, table[part_of == k])
        errors[part_of == k] = np.abs(wanted[part_of == k] - found) / (np.abs(found) if kind.relative else 1)
    return Predictor(kind, features.names, kind.make(seed).fit(table, wanted), parts, part_of, errors)


def quick_fit(
    features: Features, targets: Sequence[float] | Numbers, model: str, seed: int = 0
) -> Callable[[Features], Numbers]:
    """A function from features to predictions, `[N]`, of a model fitted once: without intervals, and ten times as fast.

    InputError as for `fit`, and from the function for other columns than those of the fit.
    """
    kind, wanted = _kind(model), _targets(features, targets, model)
    if len(wanted) < FEWEST_ROWS:
        raise InputError(f"predictor '{model}': needs {FEWEST_ROWS} networks to learn from, not {len(wanted)}")
    fitted = kind.make(seed).fit(_columns(kind, features), wanted)

    def predict(asked: Features) -> Numbers:
        _refuse_other_columns(asked, features.names)
        return _asked(fitted, _columns(kind, asked))

    return predict


@dataclass(frozen=True)
class Validation:
    """How well a model predicts networks it has not seen: a number for each fold, `[K]`.

    r2: 1 is perfect, 0 as good as the mean of the fold; NaN where all its truths are one. spearman: rank correlation.
    rmse: in the target's unit.
    coverage: share of the truths within their 95 % intervals. width: mean width of those, in the target's unit.
    """

    model: str
    rows: int
    r2: Numbers
    spearman: Numbers
    rmse: Numbers
    coverage: Numbers
    width: Numbers

    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation (of a sample) over the folds, by the name of the measure."""
        measures = {name: getattr(self, name) for name in ("r2", "spearman", "rmse", "coverage", "width")}
        return {name: (float(values.mean()), float(values.std(ddof=1))) for name, values in measures.items()}


def cross_validate(
    features: Features, targets: Sequence[float] | Numbers, model: str, *, folds: int = OUTER_FOLDS, seed: int = 0
) -> Validation:
    """Fits on all folds but one and predicts that one, for each; InputError where that leaves too few rows.

    A fold has two rows at least, or there would be nothing to rank.
    """
    wanted, found = _targets(features, targets, model), []
    left = len(wanted) - math.ceil(len(wanted) / max(folds, 1))
    if folds < 2 or len(wanted) < 2 * folds or left < FEWEST_ROWS:
        raise InputError(
            f"predictor '{model}': {len(wanted)} networks are too few for {folds} folds; two folds or more, of two "
            f"networks each, must leave {FEWEST_ROWS} to learn from"
        )
    fold_of = _deal(len(wanted), folds, seed)
    for k in range(folds):
        inside, outside = np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)
        mean, low, high = fit(features.rows(inside), wanted[inside], model, seed).predict(features.rows(outside))
        found.append(_measures(wanted[outside], mean, low, high))
    return Validation(model, len(wanted), *np.array(found).T)


def _measures(truth: Numbers, mean: Numbers, low: Numbers, high: Numbers) -> tuple[float, ...]:
    missed, spread = float(((truth - mean) ** 2).mean()), float(truth.var())
    r2 = 1 - missed / spread if spread else math.nan
    inside = float(((low <= truth) & (truth <= high)).mean())
    return r2, rank_correlation(truth, mean), math.sqrt(missed), inside, float((high - low).mean())


def rank_correlation(a: Numbers, b: Numbers) -> float:
    """Spearman's; 0 where one of the two is constant, for it ranks nothing."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (a, b)]
    size = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / size if size else 0.0


def _refuse_other_columns(features: Features, names: tuple[str, ...]) -> None:
    if features.names != names:
        odd = sorted(set(features.names) ^ set(names))
        named = ", ".join(odd[:5]) or "none, but their order differs"
        raise InputError(f"predictor: it was fitted on other columns; not in both: {named}")


def _kind(model: str) -> Kind:
    if model not in PREDICTORS:
        raise InputError(unknown("predictor", model, PREDICTORS))
    return PREDICTORS[model]


def _targets(features: Features, targets: Sequence[float] | Numbers, model: str) -> Numbers:
    wanted = np.asarray(targets, dtype=np.float64)
    if wanted.shape != (len(features),):
        raise InputError(f"predictor '{model}': {len(features)} networks and {wanted.size} numbers to learn")
    if not np.isfinite(wanted).all():
        raise InputError(f"predictor '{model}': what it learns must be finite")
    if _kind(model).relative and not (wanted > 0).all():
        raise InputError(f"predictor '{model}': what it learns must be positive, as a latency is")
    return wanted


def _columns(kind: Kind, features: Features) -> Numbers:
    """What a model of this kind looks at."""
    if not kind.columns:
        return features.values
    lacking = [name for name in kind.columns if name not in features.names]
    if lacking:
        raise InputError(f"predictor '{kind.label}': needs the columns of structure_features; not there: {lacking[0]}")
    return features.values[:, [features.names.index(name) for name in kind.columns]]


def _asked(model: Any, table: Numbers) -> Numbers:
    return np.asarray(model.predict(table), dtype=np.float64).reshape(len(table))


def _deal(rows: int, folds: int, seed: int) -> NDArray[np.integer]:
    """The fold of each row: as equal in size as can be, at random."""
    return np.random.default_rng(seed).permutation(rows) % folds


class Sum(RegressorMixin, BaseEstimator):
    """A sum of columns, each times a factor that is not negative, and a constant part: what time is on a device.

    It minimises the squares of relative errors, for a slow network's milliseconds would outweigh all others.
    """

    def fit(self, table: Numbers, targets: Numbers) -> "Sum":
        self.scale_ = np.maximum(np.abs(table).max(axis=0), 1e-300)
        shares = self._terms(table) / targets[:, None]
        # The penalty only decides between columns that say the same.
        self.model_ = Ridge(alpha=1e-6, positive=True, fit_intercept=False, max_iter=100_000)
        self.model_.fit(shares, np.ones(len(targets)))
        return self

    def predict(self, table: Numbers) -> Numbers:
        return self._terms(table) @ self.model_.coef_

    def _terms(self, table: Numbers) -> Numbers:
        return np.hstack((table / self.scale_, np.ones((len(table), 1))))


def _ridge(seed: int) -> Any:
    return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13)))


def _extra_trees(seed: int) -> Any:
    return ExtraTreesRegressor(100, min_samples_leaf=2, max_features=0.5, random_state=seed)


def _gradient_boosting(seed: int) -> Any:
    return GradientBoostingRegressor(
        n_estimators=100, learning_rate=0.1, max_depth=3, min_samples_leaf=3, subsample=0.7, random_state=seed
    )


# Ridge sees what adds up: a curve that a last part is added to, work that takes its time. It cannot see that one choice
# matters with another only; trees see that, and cannot predict beyond what they have seen. On 53 small networks trained
# for 60 steps the rank correlation was 0.79 (extra trees) against 0.71 from the genome, and 0.86 against 0.90 from the
# curve up to half of the steps. The sum alone goes on beyond what it has seen, and never predicts a negative time.
PREDICTORS: dict[str, Kind] = {
    "ridge": Kind("ridge", _ridge),
    "extra_trees": Kind("extra trees", _extra_trees),
    "gradient_boosting": Kind("gradient boosting", _gradient_boosting),
    "sum": Kind("sum of the work", lambda seed: Sum(), relative=True, columns=ADDITIVE),
}
PSNR_MODELS = tuple(name for name, kind in PREDICTORS.items() if not kind.relative)
