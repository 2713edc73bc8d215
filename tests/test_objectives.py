"""Objectives and limits: every one of them, how limits are read, and which way the signs point."""

import math

import numpy as np
import pytest

from paretosr.search.candidate import Candidate
from paretosr.search.ntire import NTIRE_SCORES, with_scores
from paretosr.search.objectives import OBJECTIVES, Limit, broken, matrix
from paretosr.spaces import InputError, published

DESIGN = published("rfdn")
UNITS = {"psnr_db": "dB", "latency_ms": "ms", "memory_mb": "MB", "activations_m": "M", "flops_g": "G"}


def measured(**numbers):
    return Candidate(0, DESIGN, state="complete", numbers=numbers)


@pytest.mark.parametrize("name", OBJECTIVES)
class TestEveryObjective:
    def test_is_described(self, name):
        objective = OBJECTIVES[name]
        assert objective.name == name
        assert objective.label
        assert objective.direction in ("min", "max")
        assert objective.stage in ("counted", "timed", "trained")
        assert objective.unit == UNITS.get(name, objective.unit)
        assert objective.digits >= 0

    def test_may_be_limited_from_both_sides(self, name):
        below, above = Limit.parse(name, "<= 2.5"), Limit.parse(name, " >=2.5 ")
        assert (below.holds(2.5), below.holds(2.4), below.holds(2.6)) == (True, True, False)
        assert (above.holds(2.5), above.holds(2.4), above.holds(2.6)) == (True, False, True)
        assert Limit.parse(name, str(below).removeprefix(name)) == below

    def test_the_better_value_is_the_lower_one_in_the_matrix(self, name):
        higher = OBJECTIVES[name].direction == "max"
        better, worse = measured(**{name: 2.0 if higher else 1.0}), measured(**{name: 1.0 if higher else 2.0})
        points = matrix([better, worse], [name])
        assert points[0, 0] < points[1, 0]


def test_psnr_is_the_one_number_that_should_be_high():
    assert [name for name, objective in OBJECTIVES.items() if objective.direction == "max"] == ["psnr_db"]


@pytest.mark.parametrize(
    ("text", "relation", "bound"),
    [("<= 150", "<=", 150.0), (">=29.0", ">=", 29.0), ("<=1e-3", "<=", 0.001), ("  <=  +0.5 ", "<=", 0.5)],
)
def test_limits_are_read(text, relation, bound):
    assert Limit.parse("activations_m", text) == Limit("activations_m", relation, bound)


@pytest.mark.parametrize(
    "text", ["150", "< 150", "== 3", "<= ", "<= many", "<= 1 2", "<= 1-2", "<= 1e999", "", 150, None]
)
def test_what_is_no_limit_is_refused_with_an_example(text):
    with pytest.raises(InputError, match=r"activations_m is written like '<= 150'") as caught:
        Limit.parse("activations_m", text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


def test_an_unknown_number_is_named_with_the_nearest_known_one():
    with pytest.raises(InputError, match=r"'latency_rato'.*did you mean 'latency_ratio'"):
        Limit.parse("latency_rato", "<= 0.5")


def test_a_limit_is_shown_with_the_digits_it_has():
    assert str(Limit("parameters_m", "<=", 0.123456789)) == "parameters_m <= 0.123456789"
    assert str(Limit("latency_ratio", "<=", 0.5)) == "latency_ratio <= 0.5"


def test_the_first_broken_limit_is_named_and_unknown_numbers_break_none():
    limits = [Limit("latency_ratio", "<=", 0.5), Limit("activations_m", "<=", 10), Limit("psnr_db", ">=", 29)]
    assert broken(limits, {"activations_m": 9.0}) is None
    assert broken(limits, {}) is None
    assert broken(limits, {"activations_m": 11.0}) == limits[1]
    assert broken(limits, {"activations_m": 11.0, "latency_ratio": 0.6}) == limits[0]
    assert broken(limits, {"psnr_db": math.nan}) == limits[2]  # what is no number keeps nothing


def test_the_matrix_has_a_row_for_each_candidate_and_a_column_for_each_objective():
    names = ["psnr_db", "latency_ratio", "activations_m"]
    candidates = [measured(psnr_db=27.5, latency_ratio=0.4, activations_m=50.0, macs_g=1.0) for _ in range(2)]
    assert matrix(candidates, names).tolist() == [[-27.5, 0.4, 50.0]] * 2
    assert matrix(candidates, names).dtype == np.float64
    assert matrix([], names).shape == (0, 3)


# The scores of NTIRE


@pytest.mark.parametrize("year", NTIRE_SCORES)
def test_a_score_is_known_beside_its_years_baseline_alone(year: str) -> None:
    score = NTIRE_SCORES[year]
    numbers = {"latency_ratio": 0.5, "macs_g": score.flops_g / 2, "parameters_m": score.parameters_m / 2}
    said, bounds = with_scores(numbers, {"latency_ratio": (0.4, 0.6)}, score.baseline)
    assert said == {**numbers, f"ntire_{year}": pytest.approx(math.e)}
    low, high = bounds[f"ntire_{year}"]
    assert low < math.e < high
    assert low == pytest.approx(score.weights[0] * math.exp(0.8) + (1 - score.weights[0]) * math.e)
    assert with_scores(numbers, {}, "imdn") == (numbers, {})
    assert with_scores({"macs_g": 1.0}, {}, score.baseline) == ({"macs_g": 1.0}, {})
