"""Pareto arithmetic against brute force, hand values, and inclusion and exclusion."""

from itertools import combinations

import numpy as np
import pytest

from paretosr.search.front import added_volume, crowding, dominates, hypervolume, knee, layers, non_dominated


def integers(seed, count, dimensions):
    """Points with many ties and repetitions, which is where such code goes wrong."""
    return np.random.default_rng(seed).integers(0, 5, (count, dimensions)).astype(np.float64)


def plainly_dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def plainly_non_dominated(points):
    return [not any(plainly_dominates(other, point) for other in points) for point in points]


def test_dominance_wants_something_better_and_nothing_worse():
    a = np.array([1.0, 2.0])
    assert dominates(a, np.array([1.0, 3.0]))
    assert not dominates(np.array([1.0, 3.0]), a)
    assert not dominates(a, a)
    assert not dominates(a, np.array([0.0, 3.0]))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_brute_force_finds(seed, dimensions):
    points = integers(seed, 60, dimensions)
    assert non_dominated(points).tolist() == plainly_non_dominated(points.tolist())
    smooth = np.random.default_rng(seed).standard_normal((60, dimensions))
    assert non_dominated(smooth).tolist() == plainly_non_dominated(smooth.tolist())


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_layers_are_fronts_peeled_off_one_after_another(dimensions):
    points = integers(7, 80, dimensions)
    expected, left = np.full(len(points), -1), list(range(len(points)))
    for depth in range(len(points)):
        front = plainly_non_dominated(points[left].tolist())
        expected[[i for i, first in zip(left, front, strict=True) if first]] = depth
        left = [i for i, first in zip(left, front, strict=True) if not first]
        if not left:
            break
    assert layers(points).tolist() == expected.tolist()


def test_equal_points_share_the_front():
    points = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    assert non_dominated(points).tolist() == [True, True, False]
    assert layers(points).tolist() == [0, 0, 1]


def test_a_view_into_other_points_is_taken_as_it_is_seen():
    points = integers(3, 40, 4)
    view = points[::2, 1:3]
    assert not view.flags.c_contiguous
    assert non_dominated(view).tolist() == plainly_non_dominated(view.tolist())
    assert hypervolume(view, np.array([9.0, 9.0])) == hypervolume(view.copy(), np.array([9.0, 9.0]))


def test_crowding_of_four_points_by_hand():
    # Both inner points: their neighbours lie 3 of 4 apart in each column.
    points = np.array([[4.0, 0.0], [0.0, 4.0], [3.0, 1.0], [1.0, 3.0]])
    assert crowding(points).tolist() == [np.inf, np.inf, 1.5, 1.5]
    constant = np.column_stack([points, np.full(4, 9.0)])  # nobody is far apart where all are equal
    assert crowding(constant)[3] == 1.5
    assert crowding(points[:2]).tolist() == [np.inf, np.inf]
    assert crowding(points[:1]).tolist() == [0.0]


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_added_volume_is_what_the_hypervolume_grows_by(dimensions):
    random = np.random.default_rng(dimensions)
    points, reference = random.random((12, dimensions)), np.full(dimensions, 0.9)
    for point in random.random((20, dimensions)):
        grown = hypervolume(np.vstack([points, point]), reference) - hypervolume(points, reference)
        assert added_volume(point, points, reference) == pytest.approx(grown, abs=1e-12)
    assert added_volume(points[0], points[:0], reference) == pytest.approx(hypervolume(points[:1], reference))


def test_what_is_known_or_dominated_adds_no_volume():
    points, reference = np.array([[0.1, 0.7], [0.3, 0.3]]), np.ones(2)
    for point in ([0.3, 0.3], [0.3, 0.4], [0.1, 0.9], [1.0, 0.0], [2.0, 0.0]):
        assert added_volume(np.array(point), points, reference) == 0.0
    assert added_volume(np.array([0.2, 0.6]), points, reference) == pytest.approx(0.1 * 0.1)


def test_hypervolume_by_hand():
    assert hypervolume(np.array([[1.0, 2.0]]), np.array([3.0, 5.0])) == 6.0
    # Two boxes of 2 x 3 and 1 x 4 that share 1 x 3.
    assert hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 5.0])) == pytest.approx(7.0)
    assert hypervolume(np.array([[1.0, 1.0, 1.0]]), np.array([3.0, 4.0, 6.0])) == pytest.approx(30.0)
    assert hypervolume(np.array([[1.0]]), np.array([3.0])) == 2.0


@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_hypervolume_is_that_of_inclusion_and_exclusion(seed, dimensions):
    points, corner = np.random.default_rng(seed).random((7, dimensions)) * 1.3, np.ones(dimensions)
    expected = 0.0
    for size in range(1, len(points) + 1):
        for chosen in combinations(points, size):
            sides = np.clip(corner - np.max(chosen, axis=0), 0, None)
            expected += (-1) ** (size + 1) * np.prod(sides)
    assert hypervolume(points, corner) == pytest.approx(expected, abs=1e-12)


def test_points_not_better_than_the_reference_add_nothing():
    corner = np.array([1.0, 1.0])
    assert hypervolume(np.array([[1.0, 0.0], [0.5, 1.0], [2.0, -5.0]]), corner) == 0.0
    assert hypervolume(np.array([[0.5, 0.5], [2.0, -5.0]]), corner) == 0.25


def test_the_knee_is_nearest_to_the_ideal_corner():
    points = np.array([[0.0, 10.0], [1.0, 2.0], [10.0, 0.0]])
    assert knee(points) == 1
    assert knee(points * np.array([1000.0, 0.001])) == 1  # units do not matter
    assert knee(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0  # the first of equals
    assert knee(np.array([[5.0, 2.0], [5.0, 1.0]])) == 1  # a column without differences decides nothing
    assert knee(np.array([[3.0, 3.0]])) == 0


def test_no_points():
    nothing = np.zeros((0, 2))
    assert non_dominated(nothing).shape == (0,)
    assert layers(nothing).shape == (0,)
    assert crowding(nothing).shape == (0,)
    assert hypervolume(nothing, np.ones(2)) == 0.0
    with pytest.raises(ValueError, match="at least one point"):
        knee(nothing)
