"""Rank correlation and its interval, beside scipy's and where nothing is defined."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from paretosr.analysis.challenge.correlation import RESAMPLES, Correlation, rank_correlation


def pairs(rows: int, *, ties: bool) -> list[tuple[float | None, float | None]]:
    generator = np.random.default_rng(rows)
    x = generator.normal(size=rows)
    y = x + generator.normal(size=rows)
    decimals = 0 if ties else 9
    return [(float(a), float(b)) for a, b in zip(x.round(decimals), y.round(decimals), strict=True)]


def scipys(x: Any, y: Any) -> float:
    result: Any = stats.spearmanr(x, y)
    return float(result.statistic)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rows", [4, 21, 200])
def test_it_is_scipys_number_with_ties_averaged(rows, ties):
    given = pairs(rows, ties=ties)
    found = rank_correlation(given)
    assert found.rho == pytest.approx(scipys(*np.asarray(given, float).T), abs=1e-12)
    assert found.rows == rows


def test_the_interval_is_that_of_resampled_rows():
    given = pairs(21, ties=True)
    x, y = np.asarray(given, float).T
    draws = np.random.default_rng(5).integers(0, 21, (RESAMPLES, 21))
    drawn = [scipys(x[draw], y[draw]) for draw in draws[:300]]
    found = rank_correlation(given, seed=5)
    assert found.low is not None
    assert found.high is not None
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.08)  # 300 of 10,000 draws


def test_more_rows_make_a_narrower_interval():
    few, many = (rank_correlation(pairs(rows, ties=False)) for rows in (20, 400))
    assert few.high is not None
    assert few.low is not None
    assert many.high is not None
    assert many.low is not None
    assert many.high - many.low < (few.high - few.low) / 2


def test_one_seed_gives_one_interval():
    given = pairs(21, ties=True)
    assert rank_correlation(given, seed=1) == rank_correlation(given, seed=1)
    assert rank_correlation(given, seed=1) != rank_correlation(given, seed=2)


def test_order_alone_counts():
    given = [(1.0, 10.0), (2.0, 100.0), (3.0, 1e6), (4.0, 1e7)]
    assert rank_correlation(given).rho == pytest.approx(1)
    assert rank_correlation((x, -y) for x, y in given).rho == pytest.approx(-1)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ([], 0),
        ([(1.0, 2.0), (2.0, 3.0)], 2),
        ([(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)], 3),
        ([(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (4.0, 2.0)], 4),
        ([(1.0, None), (None, 2.0), (3.0, 4.0), (5.0, 6.0)], 2),
    ],
)
def test_where_none_is_defined_there_is_none_and_no_warning(given, rows):
    found = rank_correlation(given)
    assert found == Correlation(None, None, None, rows)
    assert found.text() == "–"


def test_draws_that_do_not_vary_are_dropped_without_a_warning():
    found = rank_correlation([(float(x), float(x // 5)) for x in range(6)])  # one draw in three is of equal y alone
    assert found.low is not None
    nearly_constant = rank_correlation([(0.0, float(y)) for y in range(9)] + [(1.0, 9.0)])
    assert nearly_constant.low is not None
    assert nearly_constant.low > 0


def test_of_few_rows_there_is_no_interval():
    found = rank_correlation([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)])
    assert (found.rho, found.low, found.high) == (pytest.approx(1), None, None)
    assert found.text() == "1.0000 [too few rows]"


def test_a_pair_that_lacks_a_number_is_left_out():
    given = pairs(12, ties=False)
    assert rank_correlation([*given, (None, 1.0), (1.0, None)]) == rank_correlation(given)


def test_its_text():
    assert Correlation(0.87366, 0.6404, 0.9729, 21).text() == "0.8737 [0.64, 0.97]"
    assert Correlation(-0.5, -1.0, 0.25, 3).text("\n") == "-0.5000\n[-1.00, 0.25]"
