"""Spearman's rank correlation with a bootstrap interval: how well one number puts networks into the order of another.

With a few tens of networks the interval is as telling as the number, so the two, and the count of rows, go together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

RESAMPLES = 10_000
FEWEST_ROWS = 3  # two rows always agree or disagree in full
FEWEST_RESAMPLED = 6  # of fewer rows too many draws are the same two or three, and the interval would pretend to know


@dataclass(frozen=True)
class Correlation:
    """A rank correlation in [-1, 1], its 95% interval, and how many rows stand behind it.

    None where it is not defined: too few rows (the interval wants more of them), or a side that does not vary.
    """

    rho: float | None
    low: float | None
    high: float | None
    rows: int

    def text(self, between: str = " ") -> str:
        """The number and its interval, `0.8737 [0.64, 0.97]`; an en dash where there is none."""
        if self.rho is None:
            return "–"
        interval = "too few rows" if self.low is None else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.rho:.4f}{between}[{interval}]"


def rank_correlation(pairs: Iterable[tuple[float | None, float | None]], *, seed: int = 0) -> Correlation:
    """Spearman's rho of the pairs, tied values sharing their mean rank; a pair that lacks a number is left out.

    The interval is the percentile bootstrap's: rows are drawn with replacement, `RESAMPLES` times, from a generator
    seeded with `seed`. A draw in which a side does not vary has no correlation and is dropped.
    Sources: Spearman 1904; Efron and Tibshirani 1993, chapter 13.
    """
    known = np.asarray([pair for pair in pairs if None not in pair], float).reshape(-1, 2)
    rows = len(known)
    rho = _spearman(known[:, 0][None], known[:, 1][None])[0] if rows >= FEWEST_ROWS else np.nan
    if np.isnan(rho):
        return Correlation(None, None, None, rows)
    if rows < FEWEST_RESAMPLED:
        return Correlation(float(rho), None, None, rows)
    draws = np.random.default_rng(seed).integers(0, rows, (RESAMPLES, rows))
    drawn = _spearman(known[:, 0][draws], known[:, 1][draws])
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return Correlation(float(rho), float(low), float(high), rows)


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rho of each line of `x` with that of `y`, `[N, rows]` each to `[N]`; NaN where a line is constant."""
    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(x, axis=1), rankdata(y, axis=1)))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    # Ranks are whole or half numbers, so a constant line has a spread of exactly 0.
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)


PARTIAL_RESAMPLES = 2_000  # each solves a small system of equations


def partial_rank_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64], *, seed: int = 0
) -> Correlation:
    """Spearman's rho of `[N]` x and y given the columns of `[N, K]`: what x says of y that those do not.

    Ranks of x and y are each explained by the ranks of `given` (linearly, with a constant), and what is left of them is
    correlated. The interval is the percentile bootstrap's over `PARTIAL_RESAMPLES` draws of the rows.
    Source: Kendall 1942, "Partial rank correlation", in its form for Spearman's rho.
    """
    table = np.column_stack((x, y, given))
    rows = len(table)
    if rows < FEWEST_ROWS + given.shape[1]:
        return Correlation(None, None, None, rows)
    rho = _partial(table[None])[0]
    if np.isnan(rho):
        return Correlation(None, None, None, rows)
    if rows < FEWEST_RESAMPLED + given.shape[1]:
        return Correlation(float(rho), None, None, rows)
    random = np.random.default_rng(seed)
    drawn = np.concatenate(
        [_partial(table[random.integers(0, rows, (100, rows))]) for _ in range(PARTIAL_RESAMPLES // 100)]
    )
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return Correlation(float(rho), float(low), float(high), rows)


def _partial(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each `[B, N, 2 + K]` table the correlation of the ranks of its first two columns given the others, `[B]`."""
    ranks = rankdata(tables, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    pair, given = ranks[:, :, :2], ranks[:, :, 2:]
    # By the pseudoinverse: a draw may make two of the given columns equal.
    explained = given @ (np.linalg.pinv(given) @ pair)
    left = pair - explained
    total = (pair**2).sum(axis=1)
    spread = (left**2).sum(axis=1)
    # What is explained whole leaves rounding errors, and these correlate with nothing.
    known = (spread > 1e-9 * np.maximum(total, 1.0)).all(axis=1)
    norm = np.sqrt(spread.prod(axis=1))
    return np.divide((left[:, :, 0] * left[:, :, 1]).sum(axis=1), norm, out=np.full(len(tables), np.nan), where=known)
