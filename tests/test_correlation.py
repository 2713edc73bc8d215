"""Rank correlation and its interval, beside scipy's and where nothing is defined."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from paretosr.analysis.correlation import RESAMPLES, Correlation, partial_rank_correlation, rank_correlation


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


# ---- given other numbers


def correlated(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y that have nothing in common but a cost that both follow."""
    random = np.random.default_rng(seed)
    cost = random.normal(size=(rows, 2))
    return cost.sum(1) + random.normal(size=rows), cost.sum(1) + random.normal(size=rows), cost


def test_a_partial_correlation_is_that_of_what_the_given_leaves_unexplained():
    x, y, given = correlated(120)
    ranks = [stats.rankdata(values) for values in (x, y, *given.T)]
    design = np.column_stack((np.ones(120), *ranks[2:]))
    left = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in ranks[:2]]
    assert partial_rank_correlation(x, y, given).rho == pytest.approx(float(np.corrcoef(*left)[0, 1]), abs=1e-12)


def test_with_one_given_it_is_the_closed_form():
    x, y, given = correlated(80)
    z = given[:, 0]
    xy, xz, yz = scipys(x, y), scipys(x, z), scipys(y, z)
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_rank_correlation(x, y, given[:, :1]).rho == pytest.approx(expected, abs=1e-12)


def test_what_only_a_common_cause_joins_is_told_from_what_is_joined():
    x, y, given = correlated(400)
    apart, joined = partial_rank_correlation(x, y, given), partial_rank_correlation(x, x + y, given)
    assert scipys(x, y) > 0.5
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low < 0 < apart.high
    assert joined.low is not None
    assert joined.low > 0.5


@pytest.mark.parametrize("given", [np.ones((30, 1)), np.column_stack((np.arange(30), np.arange(30)))])
def test_constant_and_repeated_givens_do_no_harm(given):
    x, y, _ = correlated(30)
    assert partial_rank_correlation(x, y, given).rho is not None


def test_what_is_explained_whole_has_no_partial_correlation():
    x, y, _ = correlated(30)
    assert partial_rank_correlation(x, y, x[:, None]) == Correlation(None, None, None, 30)
    assert partial_rank_correlation(x[:3], y[:3], np.ones((3, 2))).rho is None
