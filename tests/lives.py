"""What tests of the search's lives share: an engine in the test's own process, and a run that can be killed."""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paretosr.proxies.latency import Protocol
from paretosr.proxies.training import Training
from paretosr.proxies.work import Data
from paretosr.search.engine import Finished, Task
from paretosr.search.first import first_record
from paretosr.search.loop import Search
from paretosr.search.samplers import Start
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.search.verdict import WinnerRule, confirm, verdict
from paretosr.spaces import Architecture, Block, BlockChoices, Design, Space

EXACT = ("psnr_db", "activations_m")
RESIDUAL = BlockChoices("residual", (("attention", ("none", "cca", "pa")), ("norm", ("none",))))
SPACE = Space((RESIDUAL, BlockChoices("inverted_residual")), (8,), (1, 2), image_skips=("bilinear",))


class Killed(BaseException):
    """The driver dies here, and whatever it was doing."""


class Here:
    """An engine that performs a task, really, when the next finished one is asked for.

    `event` is told of each beginning, step and end; it may raise Killed, or set `stopping`.
    """

    def __init__(self, event: Callable[[str], None] = lambda event: None, slots: int = 1) -> None:
        self.event, self.slots, self.stopping = event, slots, False
        self.progress: Mapping[str, Mapping[str, Any]] = {}
        self.queue: deque[Task] = deque()
        self.done: list[str] = []

    def submit(self, task: Task) -> None:
        self.queue.append(task)

    def next(self, timeout_s: float) -> Finished | None:
        if not self.queue:
            return None
        task = self.queue.popleft()
        if self.stopping:
            return Finished(task)
        try:
            self.event(f"begin {task.name}")
            numbers = task.work.perform(lambda said: None, self.stop)
            self.event("end")
        except Exception as error:  # noqa: BLE001  as the real engines do
            return Finished(task, failure=str(error).splitlines()[0])
        self.done.append(task.name)
        return Finished(task, numbers)

    def stop(self) -> bool:
        self.event("step")
        return self.stopping

    def close(self) -> None:
        """Nothing is left running."""


def photos(folder: Path) -> None:
    """Writes three photos of soft coloured waves."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        rows, columns = np.mgrid[:96, :112]
        waves = random.uniform(0.05, 1.2, (3, 6, 3))
        planes = [sum(np.sin(rows * a + columns * b + c) for a, b, c in plane) for plane in waves]
        pixels = (np.stack(planes, axis=-1) * 20 + 128).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")


def small_settings(data: Data) -> Settings:
    """A search of six tiny networks, without timings, so that it always comes out the same."""
    return Settings(
        space=SPACE,
        objectives=EXACT,
        limits=(),
        sampler="evolution",
        start=Start(3),
        seed=1,
        budget=Budget(6),
        training=Training(steps=4, batch=2, patch=8, learning_rate=2e-3),
        fit=False,
        data=data,
        reference=("small", Design(Architecture(16, (Block("residual"),) * 2))),
        protocol=Protocol(size=(8, 8), warmup_s=0.005, rounds=5, max_rounds=5),
        device="cpu",
        confirm_seeds=0,
        task_minutes=None,
    )


class Run:
    """A run in a folder: `live` is one life of its driver."""

    def __init__(self, settings: Settings, folder: Path, empty: Path | None = None) -> None:
        self.settings, self.folder = settings, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"sqlite:///{shutil.copy(empty, folder)}" if empty else "sqlite://"
        self.kept = None if empty else Record(self.url, settings.objectives, settings.space)

    @contextmanager
    def record(self) -> Iterator[Record]:
        """The record, opened anew where it is a file."""
        record = self.kept or Record(self.url, self.settings.objectives, self.settings.space)
        yield record
        if record is not self.kept:
            record.close()

    def live(self, engine: Here) -> bool:
        """Drives until the end (True), or until it is killed; what each write does is an event, too."""
        with self.record() as record:
            try:
                if self.kept is None:
                    watch(record, engine.event)
                self.search(engine, record)
                confirm(self.settings, record, engine, self.at, lambda: None)
                return True
            except Killed:
                return False

    def search(self, engine: Here, record: Record | None = None) -> Record:
        record = record or self.kept
        assert record is not None
        if record.attribute("first") is None:
            record.set_attribute("first", first_record(self.settings, engine))
        Search(self.settings, record, engine, self.at).run()
        return record

    def at(self, number: int) -> Path:
        return self.folder / f"{number:05d}"

    def outcome(self) -> Any:
        """All that must be equal in a run that was stopped and one that was not."""
        with self.record() as record:
            result = verdict(record, self.settings.objectives, self.settings.limits, WinnerRule())
            candidates = [
                replace(c, details={name: value for name, value in c.details.items() if name != "train_s"})
                for c in result.candidates
            ]
            memories = [record.memory(c.number) for c in candidates]
            return candidates, memories, result.front, result.winner, record.attribute("confirmed")


def watch(record: Record, event: Callable[[str], None]) -> None:
    """Makes an event of what happens before and after each write, and between the two halves of an end."""
    for name in ("add", "update", "set_attribute"):
        setattr(record, name, watched(getattr(record, name), name, event))
    storage, name = record._storage, "set_trial_state_values"
    setattr(storage, name, watched(getattr(storage, name), "tell", event))


def watched(write: Callable[..., Any], name: str, event: Callable[[str], None]) -> Callable[..., Any]:
    def around(*args: Any, **more: Any) -> Any:
        event(f"before {name}")
        result = write(*args, **more)
        event(f"after {name}")
        return result

    return around


def raising(error: BaseException, at: str) -> Callable[[str], None]:
    """An event that raises whenever it is this one."""

    def event(name: str) -> None:
        if name == at:
            raise error

    return event


def dying_after(events: int, log: list[str]) -> Callable[[str], None]:
    """An event that kills when it comes for the `events`-th time."""
    left = [events]

    def event(name: str) -> None:
        log.append(name)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return event
