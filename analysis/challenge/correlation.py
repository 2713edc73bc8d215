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
