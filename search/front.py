"""Pareto arithmetic as free functions on `[N, D]` float64 arrays; lower is better in every column."""

import moocore
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
ROUNDING = 1e-12  # relative: a difference of volumes below it is nothing


def _plain(points: Points) -> Points:
    return np.ascontiguousarray(points, dtype=np.float64)


def dominates(a: Points, b: Points) -> bool:
    """Whether point `a` `[D]` is nowhere worse than `b` `[D]` and somewhere better."""
    return bool(np.all(a <= b) and np.any(a < b))


def non_dominated(points: Points) -> NDArray[np.bool_]:
    """Which of `[N, D]` points no other point dominates, `[N]`; equal points do not dominate each other."""
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(_plain(points), keep_weakly=True), dtype=bool)


def layers(points: Points) -> NDArray[np.int64]:
    """The front each of `[N, D]` points belongs to when fronts are peeled off one after another, `[N]`, 0 first."""
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.asarray(moocore.pareto_rank(_plain(points)), dtype=np.int64)


def crowding(points: Points) -> NDArray[np.float64]:
    """Crowding distance of each of `[N, D]` points, `[N]`; the extremes are infinitely far. Source: NSGA-II, III-B.

    A column in which all are equal has no extremes.
    """
    distance = np.zeros(len(points))
    for column in points.T if len(points) else ():
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        if spread > 0:
            distance[order[[0, -1]]] = np.inf
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def hypervolume(points: Points, reference: Points) -> float:
    """The volume that `[N, D]` points dominate below the `reference` `[D]`; points not better than it add nothing."""
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(_plain(points), ref=np.asarray(reference, dtype=np.float64)))


def added_volume(point: Points, points: Points, reference: Points) -> float:
    """The volume below the `reference` `[D]` that `point` `[D]` dominates and none of `[N, D]` points does."""
    alone = float(np.prod(np.maximum(reference - point, 0.0)))
    if len(points) == 0:
        return alone
    shared = np.maximum(points, point)  # what another dominates of its box, that one's corner in it dominates
    added = alone - hypervolume(shared, reference)
    return added if added > ROUNDING * alone else 0.0


def knee(points: Points) -> int:
    """The index of the point nearest to the ideal corner after each column is scaled to [0, 1] over the points.

    Raises ValueError where there are no points; the first of equals wins.
    """
    if len(points) == 0:
        raise ValueError("a knee needs at least one point")
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin(np.linalg.norm(scaled, axis=1)))
