"""Who is promoted from a rung, against its definition; what rungs cost; that a rung filled again chooses alike."""

from random import Random

import numpy as np
import pytest

from paretosr.search.front import dominates, hypervolume
from paretosr.search.halving import FAR_END, MARGIN, MOST_AXES, PROMOTIONS, Halving, Rung, Rungs, rung_point

# ---- the rungs


@pytest.mark.parametrize(
    ("rungs", "whole", "steps"),
    [
        (Rungs(3, 3), 27, (3, 9, 27)),
        (Rungs(4, 3), 1350, (50, 150, 450, 1350)),
        (Rungs(2, 4), 10, (2, 10)),
        (Rungs(3, 3), 3, (1, 3)),  # two that fall together
        (Rungs(1, 3), 7, (7,)),
    ],
)
def test_rungs_are_spaced_by_eta_and_end_with_the_whole(rungs, whole, steps):
    assert rungs.steps(whole) == steps


@pytest.mark.parametrize("rungs", [Rungs(1, 3), Rungs(2, 2), Rungs(3, 3), Rungs(4, 3)])
def test_costs_are_what_a_long_search_spends(rungs):
    whole = rungs.eta ** (rungs.count - 1)
    halving, random, spent, measured, ended = Halving(rungs.steps(whole), rungs.eta), Random(0), 0, 0, 0
    networks = 2000
    for number in range(networks):
        at = [(number, 0, halving.steps[0])]
        while at:
            who, before, step = at.pop()
            spent, measured, ended = spent + step - before, measured + 1, ended + (step == whole)
            halving.arrive(who, step, np.array([random.random(), random.random()]))
            if (due := halving.due()) is not None:
                halving.promote(*due)
                at.append((due[0], due[1], halving.after(due[1])))
    assert spent / (networks * whole) == pytest.approx(rungs.trainings, rel=0.02)
    assert measured / networks == pytest.approx(rungs.evaluations, rel=0.02)
    assert ended / networks == pytest.approx(rungs.reaching_end, rel=0.02)


# ---- who is promoted, against the definition written out


def promoted_by_definition(points: dict[int, np.ndarray], promoted: set[int], promote: str) -> set[int]:
    """Those that may be promoted; several only where they are equal, to rounding."""
    waiting = [n for n in points if n not in promoted]
    dominators = {n: sum(dominates(other, points[n]) for other in points.values()) for n in waiting}
    fewest = sorted(n for n in waiting if dominators[n] == min(dominators.values()))
    everything = np.array(list(points.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    reference = low + np.where(high > low, MARGIN * (high - low), 1.0)
    gone = [points[n] for n in promoted]

    def volume(more: list[np.ndarray]) -> float:
        return hypervolume(np.array(gone + more), reference)

    if promote == "hypervolume":
        added = {n: volume([points[n]]) - volume([]) for n in fewest}
        if max(added.values()) > 1e-9:
            return {n for n in fewest if added[n] > max(added.values()) - 1e-9}
    length = np.quantile(everything, FAR_END, axis=0) - low
    length[length == 0] = 1.0

    def distance(n: int) -> float:
        return min((float(np.abs((points[n] - points[p]) / length).max()) for p in promoted if p in points), default=0)

    distances = {n: distance(n) for n in fewest}
    return {n for n in fewest if distances[n] > max(distances.values()) - 1e-9}


@pytest.mark.parametrize("promote", PROMOTIONS)
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["coarse", "fine", "growing"])
def test_promotions_follow_the_definition(dimensions, promote, kind):
    random = np.random.default_rng(dimensions)
    halving, points, promoted, made = Halving((1, 3, 9), 3, promote), {}, set(), 0
    for number in random.permutation(120):
        if kind == "coarse":  # equals and ties come up
            point = random.integers(0, 12, dimensions) / 4.0
        else:  # no or hardly any equals; or each axis as long again now and then, and no bound of before holds
            point = random.normal(size=dimensions) * (1.0 if kind == "fine" else 1.02 ** len(points))
        points[int(number)] = point
        halving.arrive(int(number), 1, point)
        due = halving.due()
        assert (due is not None) == (len(promoted) < len(points) // 3)
        if due is not None:
            assert due[1] == 1
            assert due[0] in promoted_by_definition(points, promoted, promote)
            halving.promote(*due)
            promoted.add(due[0])
            made += 1
    assert made == 40


def test_the_top_rung_comes_first_and_networks_are_compared_within_their_rung():
    halving = Halving((1, 2, 4), 2)
    for number, psnr in enumerate((20.0, 21.0, 22.0, 23.0)):
        halving.arrive(number, 1, np.array([-psnr]))
    for expected in (3, 2):
        assert halving.due() == (expected, 1)
        halving.promote(expected, 1)
    assert halving.due() is None
    halving.arrive(2, 2, np.array([-30.0]))
    halving.arrive(3, 2, np.array([-29.0]))
    halving.arrive(4, 1, np.array([-50.0]))
    halving.arrive(5, 1, np.array([-10.0]))
    assert halving.due() == (2, 2)  # though 4 has a place due, too
    halving.promote(2, 2)
    assert halving.due() == (4, 1)


def test_a_promoted_network_counts_though_it_never_arrives():
    halving = Halving((1, 2), 2)
    halving.arrive(0, 1, np.array([0.0]))
    halving.arrive(1, 1, np.array([1.0]))
    halving.promote(0, 1)
    assert halving.due() is None


@pytest.mark.parametrize(
    ("promote", "expected"),
    [
        ("distance", [0, 5, 2]),  # all undominated: the ends, then the earlier of the two middles
        ("hypervolume", [2, 4, 1]),  # the earlier of the two middles, and one on each side, neither of them an end
    ],
)
def test_a_constant_objective_does_not_spread_and_does_not_break(promote, expected):
    halving = Halving((1, 2), 2, promote)
    for number in range(6):
        halving.arrive(number, 1, np.array([float(number), 1.0, -float(number)]))
    chosen = []
    while (due := halving.due()) is not None:
        halving.promote(*due)
        chosen.append(due[0])
    assert chosen == expected


def test_on_more_axes_than_a_hypervolume_is_worked_out_for_distance_decides():
    random = np.random.default_rng(0)
    by_volume, by_distance = (Halving((1, 2), 2, promote) for promote in PROMOTIONS)
    for number in range(40):
        point = random.random(MOST_AXES + 1)
        for halving in (by_volume, by_distance):
            halving.arrive(number, 1, point)
        assert by_volume.due() == by_distance.due()
        if (due := by_volume.due()) is not None:
            by_volume.promote(*due)
            by_distance.promote(*due)


def test_a_point_is_psnr_as_it_is_and_the_rest_by_its_logarithm():
    numbers = {"latency_ratio": 0.5, "activations_m": 1.0, "convolutions": 0.0}
    objectives = ("psnr_db", "latency_ratio", "activations_m", "convolutions")
    assert rung_point(numbers, objectives, 27.5) == pytest.approx([-27.5, np.log(0.5), 0.0, 0.0])


@pytest.mark.parametrize("promote", PROMOTIONS)
@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("far", [10.0, 100.0, 1e4])
def test_a_rung_that_is_filled_again_chooses_as_the_one_that_saw_all_arrive(promote, dimensions, far):
    """None dominates another and many are equally good: on a plane of whole numbers, with ends far from all others."""
    random = np.random.default_rng(dimensions)
    live, points, chosen = Rung(promote), {}, []
    for number in map(int, random.permutation(90)):
        point = random.integers(0, 7, dimensions) / 7
        point[-1] = -point[:-1].sum()
        if number % 30 == 0:
            point = np.full(dimensions, far)
            point[number // 30 % dimensions] = -far
        points[number] = point
        live.add(number, point)
        again = Rung(promote)
        for known in sorted(points):
            again.add(known, points[known])
        for gone in chosen:
            again.promote(gone)
        assert live.best() == again.best()
        if len(points) // 3 > len(chosen):
            chosen.append(live.best())
            live.promote(chosen[-1])
    assert len(chosen) == 30


@pytest.mark.parametrize("promote", PROMOTIONS)
@pytest.mark.parametrize("fine", [True, False])
def test_the_order_of_arrival_does_not_matter(promote, fine):
    random = np.random.default_rng(0)
    points = random.random((60, 3)) if fine else random.integers(0, 4, (60, 3)) / 3
    orders = [range(60), random.permutation(60)]
    filled = []
    for order in orders:
        halving = Halving((1, 3), 3, promote)
        for number in order:
            halving.arrive(int(number), 1, points[number])
        chosen = []
        while (due := halving.due()) is not None:
            halving.promote(*due)
            chosen.append(due)
        filled.append(chosen)
    assert filled[0] == filled[1]
    assert len(filled[0]) == 20
