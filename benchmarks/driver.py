"""What a candidate costs the driver itself, at the beginning of a search and after thousands of candidates.

The record is SQLite on disk, status.json is written, the sampler and the halving are the real ones; only the trainings
and timings are made up by a formula, and take no time. CPU seconds of the driver's process, per candidate.

Then the decisions of the halving alone: all that an arrival and the promotion that it makes due cost, in a rung of as
many networks; where sizes and PSNRs are such that few dominate others, and where none does.

    python benchmarks/driver.py --candidates 10000 --measured 200 [--sampler evolution] [--csv FILE]

The record is filled once (minutes of CPU for 10,000 candidates) and kept, so that other samplers are quick.
"""

import argparse
import csv
import io
import math
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from rich.console import Console

from paretosr.proxies.work import TimeWork, TrainWork
from paretosr.runs.folder import RunFolder
from paretosr.runs.recipe_file import read_recipe
from paretosr.runs.status import Watch
from paretosr.runs.story import settings_of
from paretosr.search.candidate import Candidate
from paretosr.search.engine import Finished, Task
from paretosr.search.halving import Halving, Rungs
from paretosr.search.loop import Search
from paretosr.search.objectives import broken
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.spaces import Architecture, Design

STEPS = 270
FIRST = {
    "steps": STEPS,
    "bicubic_psnr_db": 24.0,
    "reference": {"name": "imdn", "numbers": {"latency_ms": 100.0, "latency_ratio": 1.0, "activations_m": 150.0}},
}


def size_of(design: Design) -> float:
    """A stand-in for everything that matters of a network."""
    assert isinstance(design.architecture, Architecture)
    return design.architecture.width * len(design.architecture.blocks) * Random(design.hash).uniform(0.7, 1.4)


def psnr_db(design: Design, step: int) -> float:
    """Larger is better, and longer is better."""
    noise = Random(f"{design.hash}:{step}").gauss(0, 0.1)
    return 24 + math.log(size_of(design)) - 2 / (1 + 10 * step / STEPS) + noise


class AtOnce:
    """An engine whose tasks end as soon as they are asked for."""

    def __init__(self, slots: int) -> None:
        self.slots, self.stopping = slots, False
        self.progress: Mapping[str, Mapping[str, Any]] = {}
        self.queue: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self.queue.append(task)

    def next(self, timeout_s: float) -> Finished | None:
        if not self.queue or (len(self.queue) < self.slots and timeout_s < 0.1):
            return None
        task = self.queue.popleft()
        if isinstance(task.work, TrainWork):
            known = {"seed": 0, "train_s": 1.0, "threads": 1, "torch": "none", "instruction_set": "none", "curve": []}
            value = psnr_db(task.work.design, task.work.steps)
            return Finished(task, {"psnr_db": value, "steps": task.work.steps, "psnr_per_image_db": {}, **known})
        assert isinstance(task.work, TimeWork)
        ((name, design),) = task.work.designs.items()
        ratio = 0.004 * size_of(design)
        return Finished(task, {name: {"ratio": ratio, "ratio_low": ratio, "ratio_high": ratio, "wide": False}})

    def close(self) -> None:
        """Nothing runs."""


def filled(path: Path, settings: Settings, count: int) -> None:
    """Writes candidates that a long search by rungs might have left: of each 9, 6 paused low, 2 higher, 1 whole."""
    record = Record(f"sqlite:///{path}", settings.objectives, settings.space)
    assert settings.space is not None
    random, known = Random(0), {c.design.hash for c in record.candidates}
    rungs = settings.halving.steps(STEPS) if settings.halving else (STEPS,)
    record.set_attribute("first", FIRST)
    while len(record.candidates) < count:
        design = Design(settings.space.sample(random))
        if design.hash in known:
            continue
        known.add(design.hash)
        number = len(record.candidates)
        reached = rungs[: 1 + (number % 3 == 0) + (number % 9 == 0)]
        numbers = {"activations_m": size_of(design), "parameters_m": 0.1, "latency_ratio": 0.004 * size_of(design)}
        at = [[step, psnr_db(design, step)] for step in reached]
        if reached == rungs:
            numbers["psnr_db"] = at[-1][1]
        limit = broken(settings.limits, numbers)
        state = "pruned" if limit else "complete" if reached == rungs else "paused"
        details = {} if limit else {"target": reached[-1], "rungs": at, "steps": reached[-1]}
        record.add(Candidate(number, design, state, origin="filled", numbers=numbers, details=details))
    record.close()


def measure(folder: Path, settings: Settings, recipe: Any, measured: int) -> float:
    """CPU seconds of the driver for each of so many more candidates."""
    run = RunFolder(folder)
    record = Record(f"sqlite:///{folder / 'study.db'}", settings.objectives, settings.space)
    trained = sum(c.state in ("complete", "paused") for c in record.candidates)
    settings = replace(settings, budget=Budget(trained + measured))
    engine = AtOnce(8)
    with Watch(run, recipe, record, engine, Console(file=io.StringIO())) as watch:
        search = Search(settings, record, engine, run.candidate, watch.changed)
        before, began = len(record.candidates), time.process_time()
        search.run()
        spent = time.process_time() - began
        made = len(record.candidates) - before
    record.close()
    return spent / made


def decision_ms(networks: int, measured: int, *, undominated: bool) -> tuple[float, float]:
    """CPU milliseconds of an arrival in a rung of so many networks, and of the promotion due: median and longest."""
    random, halving = Random(0), Halving((100, 300), 3)

    def point(number: int) -> np.ndarray:
        size = random.random()
        noise = 0.0 if undominated else random.gauss(0, 0.1)
        return np.array([-size + noise, size, size + (0.0 if undominated else random.gauss(0, 0.1))])

    taken = []
    for number in range(networks + measured):
        new, began = point(number), time.process_time()
        halving.arrive(number, 100, new)
        due = halving.due()
        if due is not None:
            halving.promote(*due)
        if number >= networks and due is not None:
            taken.append(1000 * (time.process_time() - began))
    return float(np.median(taken)), max(taken)


def main() -> None:
    """Prints a line for each sampler and length of the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--measured", type=int, default=200)
    parser.add_argument("--sampler", action="append")
    parser.add_argument("--kept", type=Path, default=Path("out/driver-benchmark"))
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    recipe = read_recipe("quick", ["train.fit=false", "pruning=null"])
    settings = replace(settings_of(recipe), halving=Rungs(3, 3), limits=())
    rows = []
    for count in (100, given.candidates):
        kept = given.kept / f"{count}.db"
        kept.parent.mkdir(parents=True, exist_ok=True)
        filled(kept, settings, count)
        for sampler in given.sampler or ["evolution", "random"]:
            with tempfile.TemporaryDirectory() as place:
                shutil.copy(kept, Path(place) / "study.db")
                cpu_s = measure(Path(place), replace(settings, sampler=sampler), recipe, given.measured)
            rows.append({"sampler": sampler, "candidates": count, "cpu_ms": round(1000 * cpu_s, 1)})
            sys.stdout.write(f"{sampler:<10} {count:>7,} candidates: {1000 * cpu_s:6.1f} ms of CPU a candidate\n")
            sys.stdout.flush()
    for undominated in (False, True):
        median, longest = decision_ms(given.candidates, 3 * given.measured, undominated=undominated)
        who = "none dominated" if undominated else "halving"
        sys.stdout.write(
            f"a decision, {who:<14} {given.candidates:>7,} networks: {median:.2f} ms, at most {longest:.1f}\n"
        )
        rows.append({"sampler": f"a decision, {who}", "candidates": given.candidates, "cpu_ms": round(median, 2)})
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
