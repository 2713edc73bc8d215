"""What a search needs to know besides its space: what it aims for, what it may spend, how its numbers are born."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ..proxies.latency import Protocol
from ..proxies.training import Training
from ..proxies.work import Data
from ..spaces import Design, Space
from .candidate import Candidate
from .halving import Rungs
from .ntire import with_scores
from .objectives import OBJECTIVES, Limit
from .prefilter import Prefilter
from .samplers import Start


@dataclass(frozen=True)
class Budget:
    """When to stop proposing: whichever ends first. `minutes` never ends a search before `at_least` trained networks.

    candidates: networks trained, to whatever rung. minutes: wall time over all lives of the run. steps: training steps
    in all.
    """

    candidates: int
    minutes: float | None = None
    steps: int | None = None
    at_least: int = 0


@dataclass(frozen=True)
class Settings:
    """All that a search goes by.

    `training.steps` is the most a candidate is trained; with `fit` fewer, so that `minutes` suffice.
    space: None where no network is searched, and only those beside are trained.
    beside: given networks that are measured and trained like those found, by name; no sampler sees them.
    halving: the rungs at which training is spent; None: every network is trained to its end.
    prefilter: how one of several proposals is chosen; None: the first one is taken.
    """

    space: Space | None
    objectives: tuple[str, ...]
    limits: tuple[Limit, ...]
    sampler: str
    start: Start
    seed: int
    budget: Budget
    training: Training
    fit: bool
    data: Data
    reference: tuple[str, Design]
    protocol: Protocol
    device: str
    confirm_seeds: int
    task_minutes: float | None
    beside: tuple[tuple[str, Design], ...] = ()
    halving: Rungs | None = None
    prefilter: Prefilter | None = None

    def needs(self, stage: str) -> bool:
        """Whether an objective or a limit wants a number that is `timed` or `trained`."""
        names = (*self.objectives, *(limit.name for limit in self.limits))
        return any(OBJECTIVES[name].stage == stage for name in names)


def training_seed(seed: int, number: int, repeat: int = 0) -> int:
    """The seed of a candidate's weights and patches: a function of the run's seed, its number, and the repetition."""
    return Random(f"{seed}:{number}:training:{repeat}").getrandbits(31)


def with_timing(
    candidate: Candidate, timing: Mapping[str, Any], reference_ms: float, reference: str
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The candidate's numbers and intervals, and with them what a timing says in the run's terms.

    `latency_ms` is the ratio to the reference times the run's median of it. Beside a challenge's baseline there is its
    score too.
    """
    low, high = timing["ratio_low"], timing["ratio_high"]
    numbers = {
        **candidate.numbers,
        "latency_ratio": timing["ratio"],
        "latency_ms": timing["ratio"] * reference_ms,
        **({"memory_mb": timing["memory_mb"]} if "memory_mb" in timing else {}),
    }
    intervals = {
        **candidate.intervals,
        "latency_ratio": (low, high),
        "latency_ms": (low * reference_ms, high * reference_ms),
    }
    return with_scores(numbers, intervals, reference)
