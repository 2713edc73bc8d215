"""Multi-objective successive halving, asynchronous: which of the networks that reached a rung is trained on.

A rung is a number of training steps. Of the n networks that reached one, n // eta are promoted to the next, as soon as
they are due, from the top rung down; no network waits for the slowest of its rung. Promoted is the one with the fewest
dominators in (PSNR at this rung, latency, activations, ...); of equals the one farthest from those already promoted, so
that the front is trained along its whole length. Networks are compared with those of their own rung only.

Sources: Li et al. 2020 (ASHA) for the asynchronous rungs, Schmucker et al. 2021 (MO-ASHA) for fronts in place of one
metric; farthest-first in place of their epsilon-net. On a synthetic landscape of the prototype it beat crowding, was
level with hypervolume contributions, and far ahead of promotion by PSNR alone. On real trainings (the recording of
benchmarks/) it reaches more than full training in as many steps, and as much in about half of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .objectives import OBJECTIVES

MOST_EQUALS = 1000  # so many are told apart by distance; where more have equally few dominators, a part of them
FAR_END = 0.95  # an axis is as long as from its best value to this quantile: one outlier must not squeeze the rest


@dataclass(frozen=True)
class Rungs:
    """How training is spent: `count` rungs, each `eta` times as long as the one below; the last one is the whole.

    by: the numbers by which is promoted; None: the search's objectives. PSNR alone is there to be compared with.
    """

    count: int = 3
    eta: int = 3
    by: tuple[str, ...] | None = None

    def steps(self, whole: int) -> tuple[int, ...]:
        """The steps of the rungs, rising; those of a very short training that fall together count once."""
        steps = (max(1, round(whole / self.eta**below)) for below in reversed(range(self.count)))
        return tuple(dict.fromkeys(steps))

    # What a network costs on average when every promotion that is due is made:

    @property
    def reaching_end(self) -> float:
        """The share of networks that are trained to the end."""
        return float(self.eta) ** -(self.count - 1)

    @property
    def evaluations(self) -> float:
        """Measurements of a network."""
        return sum(float(self.eta) ** -rung for rung in range(self.count))

    @property
    def trainings(self) -> float:
        """Steps of a network, as a share of a whole training."""
        # A promotion adds 1 - 1/eta of the rung that it leads to, and eta times fewer are made at each.
        return self.reaching_end * (1 + (self.count - 1) * (1 - 1 / self.eta))


def rung_point(numbers: Mapping[str, float], objectives: Sequence[str], psnr_db: float) -> NDArray[np.float64]:
    """A network at a rung, `[D]`, lower is better: PSNR in dB, everything else by its logarithm where that exists."""
    values = {**numbers, "psnr_db": psnr_db}
    point = []
    for name in objectives:
        value = OBJECTIVES[name].sign * values[name]
        point.append(math.log(value) if name != "psnr_db" and value > 0 else value)
    return np.array(point, dtype=np.float64)


class Rung:
    """The networks that have reached one rung. An arrival costs time in proportion to their number, nothing more."""

    def __init__(self) -> None:
        self.numbers: list[int] = []  # in order of arrival
        self.promoted: set[int] = set()
        self._points = np.empty((0, 0))  # [capacity, D]
        self._dominators = np.empty(0, dtype=np.int64)  # [capacity]: how many of the rung dominate each
        self._waiting = np.empty(0, dtype=bool)  # [capacity]: here, and not promoted

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, number: int, point: NDArray[np.float64]) -> None:
        """A network arrives."""
        n = len(self)
        if n == len(self._points):
            self._grow(len(point))
        here = self._points[:n]
        dominate = np.all(here <= point, axis=1) & np.any(here < point, axis=1)
        dominated = np.all(point <= here, axis=1) & np.any(point < here, axis=1)
        self._dominators[:n] += dominated
        self._points[n], self._dominators[n] = point, np.count_nonzero(dominate)
        self._waiting[n] = number not in self.promoted
        self.numbers.append(number)

    def _grow(self, dimensions: int) -> None:
        capacity = max(64, 2 * len(self))
        self._points = np.resize(self._points.reshape(len(self), dimensions), (capacity, dimensions))
        self._dominators = np.resize(self._dominators, capacity) if len(self) else np.zeros(capacity, dtype=np.int64)
        self._waiting = np.resize(self._waiting, capacity) if len(self) else np.zeros(capacity, dtype=bool)

    def promote(self, number: int) -> None:
        """A network goes on; it counts among the promoted from now on, whatever becomes of it."""
        self.promoted.add(number)
        self._waiting[self.numbers.index(number)] = False

    def best(self) -> int | None:
        """The number of the next to promote: fewest dominators, then farthest from the promoted, then the earliest."""
        n = len(self)
        waiting = np.flatnonzero(self._waiting[:n])
        if len(waiting) == 0:
            return None
        dominators = self._dominators[waiting]
        tied = waiting[dominators == dominators.min()]
        gone = ~self._waiting[:n]
        # In order of their numbers: a resumed search fills its rungs in that order, and must choose alike.
        tied = tied[np.argsort(np.array(self.numbers)[tied])]
        tied = tied[:: math.ceil(len(tied) / MOST_EQUALS)]
        if len(tied) > 1 and gone.any():
            points = self._points[:n]
            low = points.min(axis=0)
            length = np.quantile(points, FAR_END, axis=0) - low
            scaled = points / np.where(length > 0, length, 1.0)
            distance, _ = KDTree(scaled[gone], balanced_tree=False, compact_nodes=False).query(scaled[tied], p=math.inf)
            return self.numbers[tied[int(np.argmax(distance))]]
        return self.numbers[tied[0]]


class Halving:
    """The rungs of a search, filled as results arrive; a resumed search fills them again from its record."""

    def __init__(self, steps: Sequence[int], eta: int) -> None:
        self.steps, self.eta = tuple(steps), eta
        self.rungs = {step: Rung() for step in self.steps}

    def after(self, step: int) -> int:
        """The rung after the one at `step`; ValueError after the last."""
        return self.steps[self.steps.index(step) + 1]

    def arrive(self, number: int, step: int, point: NDArray[np.float64]) -> None:
        """Network `number` was measured at the rung of `step`."""
        self.rungs[step].add(number, point)

    def promote(self, number: int, step: int) -> None:
        """Network `number`, which arrived at `step`, is trained on from there."""
        self.rungs[step].promote(number)

    def due(self) -> tuple[int, int] | None:
        """The next promotion, as (number, step it stands at); None where none is due."""
        for step in reversed(self.steps[:-1]):
            rung = self.rungs[step]
            if len(rung.promoted) < len(rung) // self.eta and (number := rung.best()) is not None:
                return number, step
        return None
