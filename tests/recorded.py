"""A recording made by a formula, for the tests of what replays one, and an engine by which one is made as quickly.

No network of either was trained.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml
from commands import RECIPE as TINY
from commands import photo

from paretosr.proxies.work import REFERENCE, TimeWork, TrainWork
from paretosr.search.engine import Finished, Task
from paretosr.search.recording import Measured, Recorded, Recording
from paretosr.spaces import BLOCKS, Architecture, BlockChoices, Space

RUNGS = (10, 30, 90, 270)


def plain(name: str) -> BlockChoices:
    """A block type with a single choice of each kind."""
    return BlockChoices(name, tuple((choice, (values[0],)) for choice, values in BLOCKS[name].CHOICES.items()))


SPACE = Space(
    (plain("residual"), plain("scpa"), plain("imdb")), (8, 12, 16), (1, 2, 3), image_skips=("bilinear",)
)  # 117 networks
RECIPE = {
    "space": {
        "blocks": [{block.type: {name: list(values) for name, values in block.choices}} for block in SPACE.blocks],
        "widths": [8, 12, 16],
        "depths": [1, 2, 3],
        "image_skip": ["bilinear"],
    },
    "search": {"halving": {"rungs": 3, "eta": 3}, "start": 8},
    "train": {"steps": RUNGS[-1]},
}
FIRST = {
    "bicubic_psnr_db": 24.0,
    "reference": {
        "name": "imdn",
        "numbers": {"latency_ms": 100.0, "latency_ratio": 1.0, "activations_m": 150.0, "parameters_m": 0.9},
        "timing": {},
    },
}


def recorded(a: Architecture) -> Recorded:
    """Larger is better and slower, up to a quirk of each network; early PSNR says most of the late one."""
    random = Random(a.hash)
    size = a.width * len(a.blocks)
    quality = 25.0 + 1.2 * math.log(size) + random.gauss(0, 0.3)
    trainings = []
    for seed in range(2):
        noise = Random(f"{a.hash}:{seed}")
        psnr_db = [quality - 3.0 / (1 + at) + noise.gauss(0, 0.1 / (1 + at)) for at in range(len(RUNGS))]
        trainings.append(Measured(seed, tuple(psnr_db), tuple(0.01 * size * steps / 10 for steps in RUNGS)))
    ratio = 0.004 * size * random.uniform(0.7, 1.4)
    numbers = {
        "activations_m": 1.5 * size * random.uniform(0.8, 1.2),
        "parameters_m": 0.001 * size,
        "latency_ratio": ratio,
        "latency_ms": 100 * ratio,
    }
    intervals = {"latency_ratio": (0.98 * ratio, 1.02 * ratio), "latency_ms": (98 * ratio, 102 * ratio)}
    return Recorded(a, numbers, intervals, tuple(trainings))


def made(space: Space = SPACE, count: int | None = None) -> Recording:
    """So many networks of the space, by default all."""
    random, networks = Random(0), {}
    while len(networks) < (count or space.size):
        a = space.sample(random)
        networks.setdefault(a.hash, recorded(a))
    return Recording(RUNGS, networks, {"first": FIRST, "recipe": RECIPE})


class Scripted:
    """This machine, as the tests of `record` make it: its CPU, and an engine that does nothing.

    `open` is called as the engine starts. `happen` is told each task as it begins: it gives numbers that are to be
    others than usual, or raises the ValueError of which the task fails. tasks: those begun since the engine started.
    """

    slots = 1

    def __init__(self) -> None:
        self.cpu = "First CPU"
        self.open: Callable[[], object] = lambda: None
        self.happen: Callable[[Task], Mapping[str, Any]] = lambda task: {}
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.progress: Mapping[str, Mapping[str, Any]] = {}
        self.tasks: list[Task] = []
        self.queue: deque[Task] = deque()

    def start(self, asked_to_stop: Callable[[], bool]) -> "Scripted":
        self.asked_to_stop = asked_to_stop
        self.queue.clear()
        self.tasks.clear()
        self.open()
        return self

    @property
    def trained(self) -> list[str]:
        """The trainings begun since the engine started, as network/repeat."""
        return list(dict.fromkeys(t.name.rpartition("/")[0] for t in self.tasks if isinstance(t.work, TrainWork)))

    @property
    def stopping(self) -> bool:
        return self.asked_to_stop()

    def submit(self, task: Task) -> None:
        self.queue.append(task)

    def next(self, timeout_s: float) -> Finished | None:
        task = self.queue.popleft()
        if self.stopping:
            return Finished(task)
        self.tasks.append(task)
        if isinstance(task.work, TrainWork):
            Path(task.work.folder).mkdir(parents=True, exist_ok=True)
            (Path(task.work.folder) / "state.pt").touch()
        try:
            numbers = {**numbers_of(task), **self.happen(task)}
        except ValueError as error:
            return Finished(task, failure=str(error))
        return Finished(task, None if self.stopping else numbers)

    def close(self) -> None:
        """Nothing is left running."""

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def numbers_of(task: Task) -> dict[str, Any]:
    """What a task gives where nothing goes wrong."""
    if isinstance(task.work, TrainWork):
        of_rung = {"steps": task.work.steps, "train_s": 0.5 * task.work.steps}
        return {**of_rung, "seed": task.work.seed, "psnr_db": 20.0 + task.work.steps, "psnr_per_image_db": {}}
    if isinstance(task.work, TimeWork):
        timing = {"latency_ms": 50.0, "ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6}
        return dict.fromkeys((*task.work.designs, REFERENCE), timing)
    return {"psnr_db": 10.0}  # bicubic


SMALL_RUNGS = (1, 2, 4)
SMALL = {
    **TINY,
    "objectives": ["psnr_db", "latency_ratio", "activations_m"],
    "search": {"halving": {"rungs": 3, "eta": 2}, "workers": 1},
    "train": {"steps": 4, "batch": 1, "patch": 8},
    "latency": {"size": [8, 8], "warmup_s": 0.01, "rounds": 5, "max_rounds": 5, "interval": 10},
}


def small_recipe() -> Path:
    """The file of a recipe that can be recorded, and its photos beside it."""
    Path("photos").mkdir()
    for number in range(3):
        photo(Path("photos") / f"{number}.png", 64, 64)
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    return Path("small.yaml")
