"""From a record to the front and the winner: contenders, confirmed numbers with intervals, ties, rules, the curve."""

import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from scipy import stats

from paretosr.search.candidate import Candidate
from paretosr.search.first import hypervolume_reference
from paretosr.search.objectives import Limit
from paretosr.search.study import Record
from paretosr.search.verdict import (
    PSNR_DOUBT_DB,
    WinnerRule,
    choose,
    confirmed,
    contenders,
    eligible,
    hypervolume_curve,
    on_front,
    pooled,
    verdict,
)
from paretosr.spaces import published

AIMS = ("psnr_db", "latency_ratio", "activations_m")
DESIGN = published("rfdn")
FIRST = {
    "bicubic_psnr_db": 25.0,
    "reference": {"name": "imdn", "numbers": {"latency_ratio": 1.0, "latency_ms": 20.0, "activations_m": 200.0}},
}


def measured(psnr_db, latency_ratio=0.3, activations_m=50.0, number=0, **more):
    numbers = {"psnr_db": psnr_db, "latency_ratio": latency_ratio, "activations_m": activations_m}
    return Candidate(number, DESIGN, **{"state": "complete", "numbers": numbers, **more})


@pytest.fixture
def recorded():
    """A record in memory with these candidates and facts."""
    records = []

    def make(*candidates, contenders=(), **facts):
        tasks = facts.get("confirmed", {})
        facts["contenders"] = {str(n): [name for name in tasks if about(n, name)] for n in contenders}
        record = Record("sqlite://", AIMS)
        for candidate in candidates:
            record.add(candidate)
        for name, value in {"first": FIRST, **facts}.items():
            record.set_attribute(name, value)
        records.append(record)
        return record

    yield make
    for record in records:
        record.close()


def about(number, task):
    kind, *numbers = task.removeprefix("confirm/").split("/")
    return str(number) in (numbers[0].split("+") if kind == "timing" else numbers[:1])


def timing(ratio, low, high, wide=False):
    return {"ratio": ratio, "ratio_low": low, "ratio_high": high, "wide": wide, "latency_ms": 1.0}


def trained(number, *psnrs_db):
    """What `confirm` records of further seeds."""
    return {f"confirm/training/{number}/{i}": {"psnr_db": p, "seed": i} for i, p in enumerate(psnrs_db, 1)}


def numbers_of(candidates):
    return [c.number for c in candidates]


# ---- who may stand on the front


def test_only_complete_searched_candidates_within_the_limits_are_eligible():
    candidates = [
        measured(27.0, number=0),
        measured(28.0, number=1, state="pruned"),
        measured(28.0, number=2, state="failed"),
        measured(28.0, number=3, state="running"),
        measured(28.0, number=4, kind="trained"),
        measured(28.0, number=5, numbers={"psnr_db": 28.0}),
        measured(28.0, activations_m=151.0, number=6),
        measured(26.0, number=7),
    ]
    limits = [Limit("activations_m", "<=", 150), Limit("psnr_db", ">=", 26.5), Limit("memory_mb", "<=", 1)]
    assert numbers_of(eligible(candidates, AIMS, limits)) == [0]


def test_the_front_is_of_those_that_nobody_dominates():
    candidates = [
        measured(27.0, 0.3, number=0),
        measured(26.9, 0.3, number=1),  # worse than 0
        measured(26.0, 0.2, number=2),
        measured(27.0, 0.3, number=3),  # the same as 0
        measured(27.5, 0.5, number=4),
    ]
    assert numbers_of(on_front(candidates, AIMS)) == [0, 2, 3, 4]
    assert on_front([], AIMS) == []


def test_contenders_are_the_front_and_those_whose_intervals_reach_it():
    def timed(number, psnr_db, low, ratio, high):
        return measured(psnr_db, ratio, number=number, intervals={"latency_ratio": (low, high)})

    candidates = [
        timed(0, 27.0, 0.29, 0.30, 0.31),
        timed(1, 27.0, 0.30, 0.32, 0.34),  # slower, but perhaps not
        timed(2, 27.0, 0.32, 0.33, 0.34),  # slower for certain, but perhaps better in PSNR
        timed(3, 27.0 - 3 * PSNR_DOUBT_DB, 0.32, 0.33, 0.34),  # worse for certain
        timed(4, 27.0 - 1.9 * PSNR_DOUBT_DB, 0.32, 0.33, 0.34),
    ]
    assert numbers_of(contenders(candidates, AIMS)) == [0, 1, 2, 4]
    assert contenders([], AIMS) == []


def test_with_exact_objectives_the_contenders_are_the_front():
    aims = ("latency_ratio", "activations_m")
    candidates = [measured(27.0, Random(i).random(), Random(-i).random(), number=i) for i in range(1, 60)]
    assert contenders(candidates, aims) == on_front(candidates, aims)


# ---- confirmed numbers


def test_pooled_deviation_is_numpys():
    groups = [[27.0, 27.2, 27.1], [26.0, 26.3], [25.0]]
    spread, freedom = pooled(groups)
    assert freedom == 3
    within = [np.array(group) - np.mean(group) for group in groups]
    assert spread == pytest.approx(math.sqrt(np.sum(np.concatenate(within) ** 2) / 3))
    one = [26.0, 26.5, 27.5, 28.0]
    assert pooled([one])[0] == pytest.approx(np.std(one, ddof=1))
    assert pooled([[1.0], [2.0]])[1] == 0
    assert math.isnan(pooled([])[0])


def test_without_a_confirmation_the_numbers_stay_as_they_are(recorded):
    record = recorded(measured(27.0), measured(26.0))
    assert tuple(confirmed(record)) == record.candidates


def test_confirmed_numbers_are_means_and_joint_timings_with_intervals(recorded):
    done = {
        "confirm/timing/0+1": {"0": timing(0.25, 0.24, 0.26), "1": timing(0.4, 0.3, 0.5, True), "reference": {}},
        **trained(0, 27.2),
        **trained(1, 26.4),
        **trained(11, 10.0),  # whose name begins as that of candidate 1 does
    }
    record = recorded(measured(27.0), measured(26.0), measured(20.0), contenders=[0, 1], confirmed=done)
    first, second, third = confirmed(record)
    assert first.numbers["psnr_db"] == pytest.approx(27.1)
    assert first.numbers["latency_ratio"] == 0.25
    assert first.numbers["latency_ms"] == 0.25 * 20.0  # of the run's reference
    assert first.intervals["latency_ratio"] == (0.24, 0.26)
    assert first.intervals["latency_ms"] == pytest.approx((4.8, 5.2))
    assert first.numbers["activations_m"] == 50.0
    spread = math.sqrt((2 * 0.1**2 + 2 * 0.2**2) / 2)
    half = stats.t.ppf(0.975, 2) * spread / math.sqrt(2)
    assert first.intervals["psnr_db"] == pytest.approx((27.1 - half, 27.1 + half))
    assert second.intervals["psnr_db"] == pytest.approx((26.2 - half, 26.2 + half))
    assert second.details["psnr_by_seed_db"] == [26.0, 26.4]
    assert (first.details["timing_wide"], second.details["timing_wide"]) == (False, True)
    assert [c.confirmed for c in (first, second, third)] == [True, True, False]
    assert third.numbers == record.candidates[2].numbers


def test_what_failed_in_the_confirmation_keeps_the_numbers_of_the_search(recorded):
    done = {"confirm/timing/0": {"failure": "out of memory"}, "confirm/training/0/1": {"failure": "non-finite loss"}}
    (candidate,) = confirmed(recorded(measured(27.0), contenders=[0], confirmed=done))
    assert candidate.numbers == {"psnr_db": 27.0, "latency_ratio": 0.3, "activations_m": 50.0}
    assert "psnr_db" not in candidate.intervals
    assert not candidate.confirmed
    assert candidate.details["unconfirmed"] == "out of memory"


def test_nothing_is_confirmed_before_all_is(recorded):
    record = recorded(measured(27.0), measured(26.0, 0.1), contenders=[0, 1], confirmed=trained(0, 27.2))
    record.set_attribute("contenders", {"0": ["confirm/training/0/1"], "1": ["confirm/training/1/1"]})
    assert confirmed(record) == list(record.candidates)


# ---- the verdict


def test_the_front_is_ordered_by_latency_and_has_a_winner(recorded):
    record = recorded(
        measured(27.0, 0.5),
        measured(25.2, 0.1),
        measured(26.8, 0.3),
        measured(26.0, 0.4),
        measured(30.0, state="failed"),
    )
    result = verdict(record, AIMS, (), WinnerRule())
    assert result.front == (1, 2, 0)
    assert result.winner == 2
    assert result.note == ""
    assert len(result.candidates) == 5


def test_without_psnr_the_front_is_ordered_by_the_first_objective(recorded):
    record = recorded(measured(27.0, 0.5, 10.0), measured(27.0, 0.1, 30.0), measured(27.0, 0.3, 20.0))
    assert verdict(record, ("latency_ratio", "activations_m"), (), WinnerRule()).front == (1, 2, 0)
    assert verdict(record, ("activations_m",), (), WinnerRule()).front == (0,)


def test_a_limit_keeps_a_candidate_off_the_front(recorded):
    record = recorded(measured(27.0, 0.5), measured(25.2, 0.1), measured(26.8, 0.3))
    assert verdict(record, AIMS, (Limit("latency_ratio", "<=", 0.4),), WinnerRule()).front == (1, 2)
    nobody = verdict(record, AIMS, (Limit("psnr_db", ">=", 40),), WinnerRule())
    assert (nobody.front, nobody.winner) == ((), None)
    assert "within the limits" in nobody.note


def test_the_final_front_is_drawn_from_the_confirmed_alone(recorded):
    done = {"confirm/timing/0+1": {"0": timing(0.3, 0.29, 0.31), "1": timing(0.28, 0.27, 0.29)}}
    record = recorded(measured(27.0), measured(26.5), measured(26.9, 0.2), contenders=[0, 1], confirmed=done)
    assert verdict(record, AIMS, (), WinnerRule()).front == (1, 0)
    assert verdict(record, AIMS, (Limit("latency_ratio", "<=", 0.29),), WinnerRule()).front == (1,)
    # Timed together, none of the confirmed keeps the limit: the others are asked.
    assert verdict(record, AIMS, (Limit("latency_ratio", "<=", 0.25),), WinnerRule()).front == (2,)


def test_members_that_may_dominate_another_are_marked(recorded):
    done = {
        "confirm/timing/0+1+2": {
            "0": timing(0.30, 0.28, 0.32),
            "1": timing(0.31, 0.29, 0.33),
            "2": timing(0.60, 0.59, 0.61),
        },
        **trained(0, 27.02),
        **trained(1, 27.06),
        **trained(2, 28.02),
    }
    record = recorded(measured(27.0), measured(27.04), measured(28.0), contenders=[0, 1, 2], confirmed=done)
    result = verdict(record, AIMS, (), WinnerRule())
    assert result.front == (0, 1, 2)
    assert [c.tied_with for c in result.candidates] == [(1,), (0,), ()]


def test_exact_numbers_never_tie(recorded):
    record = recorded(*(measured(27 + 1e-9 * i, 0.3 + 1e-9 * i) for i in range(4)))
    result = verdict(record, AIMS, (), WinnerRule())
    assert len(result.front) == 4
    assert all(c.tied_with == () for c in result.candidates)


# ---- the winner


FRONT = [measured(29.5, 0.8, number=3), measured(29.1, 0.4, number=5), measured(28.0, 0.2, number=8)]


@pytest.mark.parametrize(
    ("rule", "limit", "winner"),
    [
        ("fastest", "psnr_db >= 29.0", 5),
        ("fastest", "psnr_db >= 29.5", 3),
        ("fastest", "psnr_db >= 20", 8),
        ("best_psnr", "latency_ratio <= 0.5", 5),
        ("best_psnr", "latency_ratio <= 0.8", 3),
        ("best_psnr", "activations_m <= 100", 3),
    ],
)
def test_the_winner_is_the_best_that_keeps_its_condition(rule, limit, winner):
    name, _, condition = limit.partition(" ")
    chosen, note = choose(FRONT, AIMS, WinnerRule(rule, Limit.parse(name, condition)))
    assert (chosen, note) == (winner, "")


def test_where_none_keeps_the_condition_the_nearest_is_named():
    chosen, note = choose(FRONT, AIMS, WinnerRule("fastest", Limit("psnr_db", ">=", 30)))
    assert chosen is None
    assert "psnr_db >= 30" in note
    assert "29.5" in note
    chosen, note = choose(FRONT, AIMS, WinnerRule("best_psnr", Limit("latency_ratio", "<=", 0.1)))
    assert chosen is None
    assert "0.2" in note


def test_the_fastest_is_the_least_active_where_nothing_was_timed():
    front = [measured(29.0, number=i, numbers={"psnr_db": 29.0, "activations_m": 10.0 - i}) for i in range(3)]
    assert choose(front, AIMS, WinnerRule("fastest", Limit("psnr_db", ">=", 29)))[0] == 2


def test_rules_say_what_they_are():
    assert str(WinnerRule()) == "knee"
    assert str(WinnerRule("fastest", Limit("psnr_db", ">=", 29))) == "fastest with psnr_db >= 29"


# ---- hypervolume over candidates


def test_hypervolume_of_one_candidate_by_hand():
    assert hypervolume_reference(AIMS, FIRST) == {
        "psnr_db": (25.0, 1.0),
        "latency_ratio": (0.0, 1.0),
        "activations_m": (0.0, 200.0),
    }
    # 2 dB above bicubic, 0.7 below the reference's latency, 0.75 below its activations.
    ((count, volume),) = hypervolume_curve([measured(27.0, 0.3, 50.0)], AIMS, (), FIRST)
    assert count == 1
    assert volume == pytest.approx(2 * 0.7 * 0.75)


def test_candidates_worse_than_bicubic_or_the_reference_add_nothing():
    worse = [measured(24.9, 0.1), measured(27.0, 1.1), measured(27.0, 0.1, 201.0), measured(25.0, 0.1)]
    assert [volume for _, volume in hypervolume_curve(worse, AIMS, (), FIRST)] == [0.0] * 4


def test_the_curve_never_falls_and_leaves_out_what_is_not_eligible():
    random = Random(0)
    candidates = [
        measured(24 + 4 * random.random(), random.random(), 250 * random.random(), number=i) for i in range(40)
    ]
    curve = hypervolume_curve(candidates, AIMS, (), FIRST)
    assert [count for count, _ in curve] == list(range(1, 41))
    assert all(before <= after for (_, before), (_, after) in pairwise(curve))
    assert curve[-1][1] > 0
    limited = hypervolume_curve(candidates, AIMS, (Limit("latency_ratio", "<=", 0.5),), FIRST)
    assert len(limited) == sum(c.numbers["latency_ratio"] <= 0.5 for c in candidates)
    assert limited[-1][1] <= curve[-1][1]
    assert hypervolume_curve([], AIMS, (), FIRST) == []
