"""The challenge's scores, against its repositories' worked example and figures worked out by hand."""

import math

import pytest

from paretosr.search.ntire import NTIRE_SCORES

# Ave Time [ms], FLOPs [G] and Params [M] of rows of results.txt in NTIRE2026_ESR, the baseline's time there being 7.74
# ms; and what their scores come to by hand (the report's own were not at hand). The last: 0.8 e^1.35401 + 0.1 e^0.32350
# + 0.1 e^1.84106 = 0.8 x 3.87292 + 0.1 x 1.38195 + 0.1 x 6.30320.
RESULTS_2026 = {
    "01_PDS": (6.70, 9.25, 0.142, 5.83077),
    "20_ERRN2": (9.37, 16.06, 0.246, 14.23255),
    "22_SPANV2_ESR_C2": (5.24, 1.59, 0.139, 3.86684),
}


@pytest.mark.parametrize("year", NTIRE_SCORES)
def test_the_baseline_scores_what_the_challenge_says(year: str) -> None:
    score = NTIRE_SCORES[year]
    own = score(score.runtime_ms, score.flops_g, score.parameters_m, baseline_ms=score.runtime_ms)
    assert round(own, 4) == 7.3891
    assert sum(score.weights) == pytest.approx(1)


def test_the_last_row_by_hand() -> None:
    by_hand = 0.8 * 3.87292 + 0.1 * 1.38195 + 0.1 * 6.30320
    assert by_hand == pytest.approx(RESULTS_2026["22_SPANV2_ESR_C2"][3], abs=2e-5)


@pytest.mark.parametrize("team", RESULTS_2026)
def test_scores_of_published_figures(team: str) -> None:
    runtime_ms, flops_g, parameters_m, wanted = RESULTS_2026[team]
    score = NTIRE_SCORES["2026"](runtime_ms, flops_g, parameters_m, baseline_ms=7.74)
    assert score == pytest.approx(wanted, abs=2e-5)


def test_the_weights_of_the_years() -> None:
    for year, weights in (("2024", (0.7, 0.15, 0.15)), ("2025", (0.7, 0.15, 0.15)), ("2026", (0.8, 0.1, 0.1))):
        score = NTIRE_SCORES[year]
        free = [score.of_ratio(1, score.flops_g, 0), score.of_ratio(1, 0, score.parameters_m)]
        free.append(score.of_ratio(0, score.flops_g, score.parameters_m))
        gains = [math.exp(2) - value for value in free]  # what each part is worth, the parameters' first
        assert gains == pytest.approx([weight * (math.exp(2) - 1) for weight in (weights[2], weights[1], weights[0])])


def test_less_is_better_in_each_part() -> None:
    score = NTIRE_SCORES["2025"]
    worst = score.of_ratio(0.9, 16.0, 0.2)
    assert all(score.of_ratio(*less) < worst for less in ((0.8, 16.0, 0.2), (0.9, 15.0, 0.2), (0.9, 16.0, 0.19)))


def test_only_the_ratio_of_runtimes_counts() -> None:
    score = NTIRE_SCORES["2024"]
    assert score(3.0, 10.0, 0.2, baseline_ms=4.0) == score(30.0, 10.0, 0.2, baseline_ms=40.0)
    assert score(3.0, 10.0, 0.2, baseline_ms=4.0) == score.of_ratio(0.75, 10.0, 0.2)


def test_another_baseline_scores_the_same_against_itself() -> None:
    score = NTIRE_SCORES["2026"].against("imdn", 58.4262, 0.893936)
    assert score.of_ratio(1.0, 58.4262, 0.893936) == pytest.approx(math.exp(2))
    assert (score.baseline, score.weights) == ("imdn", NTIRE_SCORES["2026"].weights)
    assert math.isnan(score.runtime_ms)
