"""What a search may aim for and what it may forbid: objectives with their directions, limits, and how both are read."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..spaces import InputError, unknown
from .candidate import Candidate
from .ntire import NTIRE_SCORES


@dataclass(frozen=True)
class Objective:
    """A measured number: its name in the records, how a person reads it, its unit, and which way is better.

    stage: what has to be done to know it: `counted`, `timed` or `trained`.
    """

    name: str
    label: str
    unit: str
    direction: str
    stage: str
    digits: int = 3

    @property
    def sign(self) -> int:
        """+1 where lower is better, -1 where higher is: times the value gives what the free functions minimise."""
        return 1 if self.direction == "min" else -1


OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective("psnr_db", "PSNR (dB)", "dB", "max", "trained", 2),
        Objective("latency_ratio", "Latency (x reference)", "x", "min", "timed"),
        Objective("latency_ms", "Latency (ms)", "ms", "min", "timed", 2),
        *(
            Objective(f"ntire_{year}", f"NTIRE {year} score", "", "min", "timed", 2) for year in NTIRE_SCORES
        ),  # only beside that year's baseline: see search/ntire.py
        Objective("memory_mb", "Peak memory (MB)", "MB", "min", "timed", 1),
        Objective("activations_m", "Activations (M)", "M", "min", "counted", 2),
        Objective("parameters_m", "Parameters (M)", "M", "min", "counted"),
        Objective("flops_g", "FLOPs (G)", "G", "min", "counted", 2),
        Objective("macs_g", "Multiply-adds (G)", "G", "min", "counted", 2),
        Objective("convolutions", "Convolutions", "", "min", "counted", 0),
    )
}

RELATIONS = {"<=": lambda value, bound: value <= bound, ">=": lambda value, bound: value >= bound}


@dataclass(frozen=True)
class Limit:
    """A bound on one measured number: `latency_ratio <= 0.5`."""

    name: str
    relation: str
    bound: float

    @classmethod
    def parse(cls, name: str, text: object) -> "Limit":
        """The limit on `name` that `text` (`'<= 150'`) says; InputError otherwise."""
        if name not in OBJECTIVES:
            raise InputError(unknown("number to limit", name, OBJECTIVES))
        match = re.fullmatch(r"\s*(<=|>=)\s*([0-9.eE+-]+)\s*", str(text))
        try:
            if match and math.isfinite(float(match[2])):
                return cls(name, match[1], float(match[2]))
        except ValueError:
            pass
        raise InputError(f"a limit on {name} is written like '<= 150' or '>= 29.0', not {text!r}")

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the limit."""
        return RELATIONS[self.relation](value, self.bound)

    def __str__(self) -> str:
        return f"{self.name} {self.relation} {self.bound:.12g}"


def broken(limits: Iterable[Limit], numbers: Mapping[str, float]) -> Limit | None:
    """The first limit that the numbers known so far break; those not yet known break nothing."""
    return next((lim for lim in limits if lim.name in numbers and not lim.holds(numbers[lim.name])), None)


def matrix(candidates: Sequence[Candidate], objectives: Sequence[str]) -> np.ndarray:
    """The objectives of the candidates, `[N, D]` float64, each signed so that lower is better."""
    rows = [[OBJECTIVES[name].sign * c.numbers[name] for name in objectives] for c in candidates]
    return np.array(rows, dtype=np.float64).reshape(len(candidates), len(objectives))
