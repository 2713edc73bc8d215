"""Multi-objective successive halving, asynchronous: which of the networks that reached a rung is trained on.

A rung is a number of training steps. Of the n networks that reached one, n // eta are promoted to the next, as soon as
they are due, from the top rung down; no network waits for the slowest of its rung. Promoted is the one with the fewest
dominators in (PSNR at this rung, latency, activations, ...); of equals the one that adds most hypervolume to those
already promoted, so that small networks are trained on as well as large ones. Networks are compared with those of
their own rung only.

Sources: Li et al. 2020 (ASHA) for the asynchronous rungs, Schmucker et al. 2021 (MO-ASHA) for fronts in place of one
metric, with an epsilon-net. Farthest-first, which is theirs without the net, is `promote: distance`. On the synthetic
landscape of the prototype the two were level, far ahead of promotion by PSNR alone; on real trainings (the recording
of benchmarks/) hypervolume needs the fewest steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .front import added_volume, non_dominated
from .objectives import OBJECTIVES

PROMOTIONS = ("hypervolume", "distance")  # what decides between equally few dominators
MARGIN = 1.1  # the reference of the hypervolume is as far from the best value of an axis as so many times the worst
SLACK = 1e-12  # of the largest volume there may be: to so much two workings-out of one volume may differ
MOST_AXES = 4  # a hypervolume of more takes too long where thousands wait; there distance decides
MOST_EQUALS = 1000  # so many are told apart; where more have equally few dominators, a part of them
FAR_END = 0.95  # an axis is as long as from its best value to this quantile: one outlier must not squeeze the rest


@dataclass(frozen=True)
class Rungs:
    """How training is spent: `count` rungs, each `eta` times as long as the one below; the last one is the whole.

    promote: what decides between networks with equally few dominators, of `PROMOTIONS`. by: the numbers by which is
    promoted; None: the search's objectives. PSNR alone is there to be compared with.
    """

    count: int = 3
    eta: int = 3
    promote: str = "hypervolume"
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

    def __init__(self, promote: str) -> None:
        self.by_volume = promote == "hypervolume"
        self.promoted: set[int] = set()
        self._count = 0
        self._numbers = np.empty(0, dtype=np.int64)  # [capacity], in order of arrival
        self._points = np.empty((0, 0))  # [capacity, D], a column after the other
        self._low = self._high = np.empty(0)  # [D]
        self._dominators = np.empty(0, dtype=np.int64)  # [capacity]: how many of the rung dominate each
        self._waiting = np.empty(0, dtype=bool)  # [capacity]: here, and not promoted
        self._reference = np.empty(0)  # [D]: for which these hold:
        self._at_most = np.empty(0)  # [capacity]: the volume that each adds to the promoted, at most

    def __len__(self) -> int:
        return self._count

    def add(self, number: int, point: NDArray[np.float64]) -> None:
        """A network arrives."""
        n = self._count
        if n == len(self._points):
            self._grow(len(point))
        here = self._points[:n]
        no_better, no_worse = np.ones(n, dtype=bool), np.ones(n, dtype=bool)  # than the one that arrives
        for column, value in zip(here.T, point, strict=True):
            no_better &= column >= value
            no_worse &= column <= value
        equal = no_better & no_worse
        self._dominators[:n] += no_better & ~equal
        self._points[n], self._dominators[n] = point, np.count_nonzero(no_worse & ~equal)
        self._waiting[n], self._at_most[n] = number not in self.promoted, np.inf
        self._low, self._high = (np.minimum(self._low, point), np.maximum(self._high, point)) if n else (point, point)
        self._numbers[n] = number
        self._count += 1

    def _grow(self, dimensions: int) -> None:
        def longer(kept: NDArray[Any], *more: int) -> NDArray[Any]:
            new = np.empty((max(64, 2 * self._count), *more), dtype=kept.dtype, order="F")
            new[: len(kept)] = kept
            return new

        self._points = longer(self._points.reshape(self._count, dimensions), dimensions)
        self._numbers, self._dominators = longer(self._numbers), longer(self._dominators)
        self._waiting, self._at_most = longer(self._waiting), longer(self._at_most)

    def promote(self, number: int) -> None:
        """A network goes on; it counts among the promoted from now on, whatever becomes of it."""
        self.promoted.add(number)
        self._waiting[: self._count][self._numbers[: self._count] == number] = False

    def best(self) -> int | None:
        """The number of the next to promote: fewest dominators, then what adds most volume, or is farthest."""
        waiting = np.flatnonzero(self._waiting[: self._count])
        if len(waiting) == 0:
            return None
        dominators = self._dominators[waiting]
        tied = waiting[dominators == dominators.min()]
        # In order of their numbers: a resumed search fills its rungs in that order, and must choose alike.
        tied = tied[np.argsort(self._numbers[tied])]
        tied = tied[:: math.ceil(len(tied) / MOST_EQUALS)]
        if len(tied) == 1:
            return int(self._numbers[tied[0]])
        most = self._adds_most(tied) if self.by_volume and self._points.shape[1] <= MOST_AXES else None
        return int(self._numbers[self._farthest(tied) if most is None else most])

    def _farthest(self, tied: NDArray[np.int64]) -> int:
        """Of these the one farthest from the promoted, on axes of equal length; of equals the first."""
        points, gone = self._points[: self._count], ~self._waiting[: self._count]
        if not gone.any():
            return int(tied[0])
        length = np.quantile(points, FAR_END, axis=0) - self._low
        scaled = points / np.where(length > 0, length, 1.0)
        distance, _ = KDTree(scaled[gone], balanced_tree=False, compact_nodes=False).query(scaled[tied], p=math.inf)
        return int(tied[int(np.argmax(distance))])

    def _adds_most(self, tied: NDArray[np.int64]) -> int | None:
        """Of these the one that adds most hypervolume to the promoted, of equals the first; None where none adds any.

        What one adds only shrinks as others are promoted, so what it added once bounds it, and few are worked out.
        """
        points, at_most = self._points[: self._count], self._at_most[: self._count]
        long = self._high > self._low
        reference = self._low + np.where(long, MARGIN * (self._high - self._low), 1.0)
        if len(self._reference) and not np.array_equal(reference, self._reference):
            # Each adds at most what it did, and all that its box (from it to the reference) has grown by. None of them
            # shrinks but along an axis on which all were equal, and there all that is in it shrinks alike.
            at_most += np.abs(np.prod(reference - points, axis=1) - np.prod(self._reference - points, axis=1))
        self._reference = reference
        at_most[tied] = np.minimum(at_most[tied], np.prod(reference - points[tied], axis=1))
        gone = np.flatnonzero(~self._waiting[: self._count])
        gone = gone[np.argsort(self._numbers[gone])]
        promoted = points[gone]
        promoted = promoted[non_dominated(promoted)]
        best, most, slack = None, 0.0, SLACK * float(np.prod(reference - self._low))
        for index in tied[np.argsort(-at_most[tied], kind="stable")].tolist():
            if at_most[index] < most - slack:
                break
            added = at_most[index] = added_volume(points[index], promoted, reference)
            if added > most or (added == most and best is not None and self._numbers[index] < self._numbers[best]):
                best, most = index, added
        return best


class Halving:
    """The rungs of a search, filled as results arrive; a resumed search fills them again from its record."""

    def __init__(self, steps: Sequence[int], eta: int, promote: str = "hypervolume") -> None:
        self.steps, self.eta = tuple(steps), eta
        self.rungs = {step: Rung(promote) for step in self.steps}

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
