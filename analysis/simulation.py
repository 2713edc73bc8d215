"""Searches in simulated time compared: what share of a recording's hypervolume each has, by training steps spent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..search.front import hypervolume
from ..search.objectives import OBJECTIVES
from ..search.recording import Recording
from ..search.simulator import Whole
from ..spaces import InputError

Floats = NDArray[np.float64]
GRID = 200  # points of a curve
CONFIDENCE = 0.95
CROWDED = 0.9  # a search that meets a larger share of what was recorded has little left to choose


@dataclass(frozen=True)
class Arm:
    """A way to search: its name, and what every seed trained to the end. `against`: the arm it is compared with.

    Where it is known, for every seed: how many networks it met, and the training steps spent when these were all that
    were recorded (None: never).
    """

    name: str
    traces: tuple[tuple[Whole, ...], ...]
    against: str | None = None
    met: tuple[int, ...] = ()
    used_up: tuple[int | None, ...] = ()


class Box:
    """The hypervolume of recorded networks as a share of that of all of them.

    PSNR counts as decibels above bicubic; everything else by its logarithm, from the best recorded value to the worst.
    InputError where they have no hypervolume.
    """

    def __init__(self, recording: Recording, objectives: Sequence[str]) -> None:
        self.at = {name: row for row, name in enumerate(recording.networks)}
        columns = [self._column(recording, name) for name in objectives]
        self.points = np.column_stack(columns)  # [N, D], lower is better, 1 at the reference point
        self.whole = self._volume(self.points)
        if not self.whole > 0:
            bicubic = recording.facts["first"]["bicubic_psnr_db"]
            raise InputError(
                f"none of the {len(self.at)} recorded networks is better than bicubic ({bicubic:.2f} dB) without being "
                "the worst in another objective: no hypervolume to compare searches by; record longer trainings"
            )

    @staticmethod
    def _column(recording: Recording, name: str) -> Floats:
        if name == "psnr_db":
            values = np.array([network.trainings[0].psnr_db[-1] for network in recording.networks.values()])
            gain = values - recording.facts["first"]["bicubic_psnr_db"]
            return 1 - gain / max(gain.max(), 1e-9)
        values = OBJECTIVES[name].sign * np.log([network.numbers[name] for network in recording.networks.values()])
        return (values - values.min()) / max(np.ptp(values), 1e-9)

    def _volume(self, points: Floats) -> float:
        return hypervolume(points, np.ones(points.shape[1]))

    def shares(self, trace: Sequence[Whole]) -> Floats:
        """The share after each network of a trace, `[len(trace)]`."""
        points = self.points[[self.at[whole.hash] for whole in trace]]
        return np.array([self._volume(points[: n + 1]) / self.whole for n in range(len(trace))])


def curve(box: Box, trace: Sequence[Whole], budget: int) -> Floats:
    """The share at each of GRID + 1 equally spaced numbers of steps from 0 to `budget`."""
    shares = np.concatenate([[0.0], box.shares(trace)])
    ends = np.array([whole.steps for whole in trace])
    return shares[np.searchsorted(ends, np.linspace(0, budget, GRID + 1), side="right")]


@dataclass(frozen=True)
class Line:
    """One arm in numbers; pairs are (low, high) of a 95 % interval of a mean over seeds.

    share: of the recording's hypervolume at the end of the budget; at: the same at a third and at half of it.
    reached: the share of the budget at which it has what the arm it is compared with has at the end, for each seed
    (inf: never). gain: the paired difference at the end to that arm. whole: networks trained to the end.
    met: networks met, trained or not, of so many `recorded`; nan where it is not known. used_up: the share of the
    budget at which the recording was used up, for each seed (inf: never).
    """

    name: str
    against: str | None
    share: float
    share_interval: tuple[float, float]
    at: Mapping[str, float]
    reached: tuple[float, ...]
    gain: float
    gain_interval: tuple[float, float]
    whole: float
    met: float
    recorded: int
    used_up: tuple[float, ...]

    @property
    def reached_median(self) -> float:
        """The middle of `reached`; inf where half of the seeds never got there."""
        return _middle(self.reached)

    @property
    def used_up_median(self) -> float:
        """The middle of `used_up`; inf where half of the seeds never met all that was recorded."""
        return _middle(self.used_up)

    def quantile(self, q: float) -> float:
        """A quantile of `reached`, without taking the mean with an infinity."""
        return float(np.quantile(self.reached, q, method="nearest")) if self.reached else math.nan

    def within(self, share: float) -> float:
        """The share of seeds that got there within this share of the budget."""
        return float(np.mean(np.array(self.reached) <= share)) if self.reached else math.nan


def compare(arms: Sequence[Arm], box: Box, budget: int) -> tuple[list[Line], dict[str, Floats]]:
    """Every arm in numbers, and its curves `[seeds, GRID + 1]` by name. Seeds are paired across arms."""
    curves = {arm.name: np.array([curve(box, trace, budget) for trace in arm.traces]) for arm in arms}
    lines = []
    for arm in arms:
        own = curves[arm.name]
        theirs = curves[arm.against] if arm.against else own
        reached = tuple(_reached(mine, target) for mine, target in zip(own, theirs[:, -1], strict=True))
        gain = own[:, -1] - theirs[:, -1]
        lines.append(
            Line(
                name=arm.name,
                against=arm.against,
                share=float(own[:, -1].mean()),
                share_interval=interval_of_mean(own[:, -1]),
                at={"1/3": float(own[:, GRID // 3].mean()), "1/2": float(own[:, GRID // 2].mean())},
                reached=reached if arm.against else (),
                gain=float(gain.mean()) if arm.against else math.nan,
                gain_interval=interval_of_mean(gain) if arm.against else (math.nan, math.nan),
                whole=float(np.mean([len(trace) for trace in arm.traces])),
                met=float(np.mean(arm.met)) if arm.met else math.nan,
                recorded=len(box.at),
                used_up=tuple(math.inf if steps is None else steps / budget for steps in arm.used_up),
            )
        )
    return lines, curves


def crowded(lines: Sequence[Line]) -> str:
    """A sentence of warning about the arms that met nearly all that was recorded; empty where none did."""
    names = [line.name for line in lines if line.met > CROWDED * line.recorded]
    if not names:
        return ""
    return (
        f"Warning: more than {CROWDED:.0%} of {lines[0].recorded} recorded networks were met by {'; '.join(names)}: "
        "nearly everything is tried, whatever the sampler proposes; take fewer --trainings, or record more networks."
    )


def _middle(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.5, method="higher")) if values else math.nan


def _reached(own: Floats, target: float) -> float:
    there = np.flatnonzero(own >= target - 1e-12)
    return float(there[0]) / GRID if len(there) else math.inf


def interval_of_mean(values: Floats) -> tuple[float, float]:
    """The 95 % Student interval of the mean of `[N]` values; not known (nan) of a single one."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * float(stats.sem(values))
    return float(values.mean()) - half, float(values.mean()) + half
