"""Searches in simulated time: the real loop, on a record in memory, with an engine that replays a recording.

A task takes as long as it took when it was recorded, on as many workers as asked for; no clock is looked at, so that
the same seed gives the same search on every machine.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..proxies.work import TimeWork, TrainWork
from ..spaces import Architecture, Design, InputError, Space
from .engine import Finished, Task
from .loop import Exhausted, Search
from .objectives import OBJECTIVES, broken
from .recording import Recorded, Recording
from .settings import Settings
from .study import Record

IN_MEMORY = Path("/nonexistent")  # no file of a simulated search is written
PATIENT_S = 0.1  # a driver that waits longer has nothing to submit, and time may pass


@dataclass(frozen=True)
class Pool(Space):
    """The recorded networks of a space: what a sampler may propose.

    Where a space is recorded whole it is that space. Otherwise a draw is one of those recorded, and a child, a mutant
    or a genome that was not recorded stands for the nearest by the number of differing genes; no mutant for its parent.
    """

    recorded: tuple[Architecture, ...] = ()
    _by_hash: dict[str, Architecture] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, space: Space, recording: Recording) -> "Pool":
        """The pool of a recording; InputError where one of its networks does not lie in the space."""
        for name, network in recording.networks.items():
            if network.architecture not in space:
                words = network.architecture.summary()
                raise InputError(f"the recording does not fit the space: network {name} lies outside ({words})")
        recorded = tuple(network.architecture for network in recording.networks.values())
        fields = {name: getattr(space, name) for name in Space.__dataclass_fields__}
        return cls(**fields, recorded=recorded, _by_hash={a.hash: a for a in recorded})

    @property
    def size(self) -> int:
        return len(self.recorded)

    def __contains__(self, architecture: object) -> bool:
        return isinstance(architecture, Architecture) and architecture.hash in self._by_hash

    def sample(self, random: Random, only_type: str | None = None) -> Architecture:
        if only_type is None:
            return random.choice(self.recorded)
        alike = [a for a in self.recorded if {block.type for block in a.blocks} == {only_type}]
        return random.choice(alike or self.recorded)

    def mutate(self, architecture: Architecture, random: Random) -> tuple[Architecture, str]:
        # In the whole space: hardly any neighbour may be recorded.
        changed, words = self._space.mutate(architecture, random)
        if changed.hash == architecture.hash or len(self.recorded) < 2:
            return architecture, "nothing"
        return self.nearest(changed, other_than=architecture), words

    def cross(self, first: Architecture, second: Architecture, random: Random) -> Architecture:
        return self.nearest(super().cross(first, second, random))

    def decode(self, genome: Mapping[str, Any]) -> Architecture:
        return self.nearest(super().decode(genome))

    def nearest(self, architecture: Architecture, other_than: Architecture | None = None) -> Architecture:
        """The network itself where it was recorded, else that with the fewest other genes, the earliest of equals."""
        if architecture.hash in self._by_hash:
            return self._by_hash[architecture.hash]
        codes, rows = self._coded
        genes = [code.get(gene, -1) for code, gene in zip(codes, self._genes_of(architecture), strict=True)]
        differing = np.count_nonzero(rows != np.array(genes), axis=1)
        if other_than is not None and other_than.hash in self._by_hash:
            differing[list(self._by_hash).index(other_than.hash)] = len(genes) + 1
        return self.recorded[int(np.argmin(differing))]

    @cached_property
    def _space(self) -> Space:
        return Space(**{name: getattr(self, name) for name in Space.__dataclass_fields__})

    @cached_property
    def _coded(self) -> tuple[list[dict[Any, int]], NDArray[np.int64]]:
        """For each gene the number of each value that was recorded, and what was recorded in these, `[N, genes]`."""
        genes = [self._genes_of(network) for network in self.recorded]
        columns = zip(*genes, strict=True)
        codes = [{value: code for code, value in enumerate(dict.fromkeys(column))} for column in columns]
        return codes, np.array([[code[gene] for code, gene in zip(codes, row, strict=True)] for row in genes])

    def _genes_of(self, architecture: Architecture) -> list[Any]:
        a = architecture.canonical()
        blocks = [(block.type, block.choices) for block in a.blocks]
        blocks += [(None, ())] * (self.depths[-1] - len(blocks))
        return [a.width, len(a.blocks), a.fusion, a.upsampler, a.upsampler_width, a.image_skip, *blocks]


@dataclass(frozen=True)
class Whole:
    """A network that was trained to the end: when, in training steps of the whole search and in simulated seconds."""

    steps: int
    seconds: float
    hash: str


@dataclass(frozen=True)
class Simulated:
    """One search in simulated time; it iterates over the networks that it trained to the end, in their order.

    met: networks that it proposed, whatever became of them. used_up: training steps spent when these were all that were
    recorded; None: never. ended: why it could propose no more before its budget was spent; empty where it could.
    """

    whole: tuple[Whole, ...]
    met: int
    used_up: int | None = None
    ended: str = ""

    def __iter__(self) -> Iterator[Whole]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)


class Replay:
    """Implements `search.engine.Engine` in simulated time.

    spent: training steps of all tasks that have ended. now_s: the simulated time. whole: what was trained to the end.
    """

    stopping = False

    def __init__(self, recording: Recording, slots: int) -> None:
        self.recording, self.slots = recording, slots
        self.progress: Mapping[str, Mapping[str, Any]] = {}
        self.now_s, self.spent = 0.0, 0
        self.whole: list[Whole] = []
        self._running: list[tuple[float, int, Task, dict[str, Any]]] = []  # a heap by the time of the end
        self._stands_at: dict[str, int] = {}  # the step to which a network is trained
        self._waiting: deque[Task] = deque()
        self._begun = 0

    def submit(self, task: Task) -> None:
        """Begins a task, or lets it wait for a worker."""
        self._waiting.append(task)
        self._begin()

    def next(self, timeout_s: float) -> Finished | None:
        """The task that ends next. A driver that asks for a moment only has more to submit: then no time passes."""
        free = self.slots > len(self._running)
        if not self._running or (free and timeout_s < PATIENT_S):
            return None
        self.now_s, _, task, numbers = heapq.heappop(self._running)
        if isinstance(task.work, TrainWork):
            self.spent += task.work.steps - self._stands_at.get(task.work.design.hash, 0)
            self._stands_at[task.work.design.hash] = task.work.steps
            if task.work.steps == self.recording.rungs[-1]:
                self.whole.append(Whole(self.spent, self.now_s, task.work.design.hash))
        self._begin()
        return Finished(task, numbers)

    def close(self) -> None:
        """Nothing is left running."""
        self._running.clear()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            task = self._waiting.popleft()
            numbers, seconds = self._result(task)
            self._begun += 1  # of two that end at once, the one that began first
            heapq.heappush(self._running, (self.now_s + seconds, self._begun, task, numbers))

    def _result(self, task: Task) -> tuple[dict[str, Any], float]:
        """What a task gives, and how long it takes."""
        if isinstance(task.work, TrainWork):
            return self._trained(task.work)
        if isinstance(task.work, TimeWork):
            ((name, design),) = task.work.designs.items()
            network = self._recorded(design)
            low, high = network.intervals["latency_ratio"]
            timing = {"ratio": network.numbers["latency_ratio"], "ratio_low": low, "ratio_high": high, "wide": False}
            if "memory_mb" in network.numbers:
                timing["memory_mb"] = network.numbers["memory_mb"]
            return {name: timing}, 0.0
        raise TypeError(f"{task.name}: {type(task.work).__name__} cannot be replayed")

    def _recorded(self, design: Design) -> Recorded:
        return self.recording.networks[design.hash]

    def _trained(self, work: TrainWork) -> tuple[dict[str, Any], float]:
        training, rungs = self._recorded(work.design).trainings[0], self.recording.rungs
        at, from_step = rungs.index(work.steps), self._stands_at.get(work.design.hash, 0)
        before_s = training.train_s[rungs.index(from_step)] if from_step else 0.0
        known = {"steps": work.steps, "train_s": training.train_s[at], "seed": training.seed}
        where = {"threads": 1, "torch": "replayed", "instruction_set": "replayed"}
        return {"psnr_db": training.psnr_db[at], **known, **where}, training.train_s[at] - before_s


def simulate(recording: Recording, settings: Settings, slots: int) -> Simulated:
    """One search in simulated time, until its budget is spent or all that was recorded has been tried.

    InputError where the recording does not fit the settings, or where the search gives up for another reason.
    """
    refuse_other_rungs(recording, settings)
    refuse_unmet_limits(recording, settings)
    assert settings.space is not None
    space = settings.space if isinstance(settings.space, Pool) else Pool.of(settings.space, recording)
    training = replace(settings.training, steps=recording.rungs[-1])
    settings = replace(settings, space=space, training=training, fit=False, beside=())
    record, engine = Record(None, settings.objectives, space), Replay(recording, slots)
    record.set_attribute("first", {**recording.facts["first"], "steps": training.steps})
    used_up: list[int] = []

    def note() -> None:
        if not used_up and len(search.known) >= space.size:
            used_up.append(engine.spent)

    search = Search(
        settings,
        record,
        engine,
        lambda number: IN_MEMORY / str(number),
        note,
        count=lambda design: _counts(recording.networks[design.hash]),
        keep=lambda path, content: None,
    )
    ended = ""
    try:
        search.run()
    except Exhausted as error:
        if error.exit_code:
            raise InputError(str(error)) from None
        ended = str(error)
    return Simulated(tuple(engine.whole), len(search.known), next(iter(used_up), None), ended)


def _counts(network: Recorded) -> dict[str, float]:
    """What is known of a network before anything is measured."""
    return {name: value for name, value in network.numbers.items() if OBJECTIVES[name].stage == "counted"}


def refuse_other_rungs(recording: Recording, settings: Settings) -> None:
    """InputError where the settings measure networks at steps at which the recording has nothing."""
    wanted = settings.halving.steps(recording.rungs[-1]) if settings.halving else ()
    missing = [step for step in wanted if step not in recording.rungs]
    if missing:
        known = ", ".join(map(str, recording.rungs))
        raise InputError(f"the recording has no rung at {missing[0]} steps, only at {known}; choose other rungs or eta")


def refuse_unmet_limits(recording: Recording, settings: Settings) -> None:
    """InputError where no recorded network keeps the limits: nothing would be trained."""
    networks = recording.networks.values()
    if not all(broken(settings.limits, network.numbers) for network in networks):
        return
    said = []
    for limit in settings.limits:
        values = [network.numbers[limit.name] for network in networks if limit.name in network.numbers]
        if values:
            said.append(f"{limit} (recorded: {min(values):.4g} to {max(values):.4g})")
    raise InputError(f"limits: none of the {len(networks)} recorded networks keeps {' and '.join(said)}; loosen them")
