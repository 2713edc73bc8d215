"""The first record of a run: what is measured once, before the first candidate, and holds for all of them."""

import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from ..proxies.complexity import complexity
from ..proxies.work import REFERENCE, BaselineWork, SpeedWork, TimeWork
from ..spaces import Design
from .candidate import Candidate
from .engine import Engine, Finished, Interrupted, RunFailed, Task, complete
from .halving import Rungs
from .settings import Settings, with_timing

FITTED_SHARE = 0.68  # of `search.minutes` that the trainings may fill; timings, evaluations and redraws take the rest
CONTENDERS_SHARE = 0.5  # of the candidates, about so many are trained again at the end
FEWEST_STEPS = 20


def first_record(settings: Settings, engine: Engine, on_wait: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Reference network, baseline, steps of a training, hypervolume's reference point; as plain data.

    on_wait: is called again and again meanwhile.
    """
    name, design = settings.reference
    numbers: dict[str, float] = complexity(design).numbers()
    timing = None
    if settings.needs("timed"):
        work = TimeWork({}, design, settings.protocol, settings.device)
        timing = numbers_of(next(complete(engine, [Task("first/reference", work)], on_wait)))[REFERENCE]
        own = {**timing, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
        numbers, _ = with_timing(Candidate(0, design, numbers=numbers), own, timing["latency_ms"], name)
    baseline = numbers_of(next(complete(engine, [Task("first/bicubic", BaselineWork(settings.data))], on_wait)))
    train, validation = settings.data.train(), settings.data.evaluation()
    return {
        "reference": {"name": name, "numbers": numbers, "timing": timing},
        "bicubic_psnr_db": baseline["psnr_db"],
        "steps": fitted_steps(settings, engine, on_wait) if settings.fit else settings.training.steps,
        "data": {
            "label": train.label,
            "hash": {"train": train.hash, "validation": validation.hash},
            "train_images": len(train.names),
            "validation_images": len(validation.names),
            "validation_names": list(validation.names),
            "embedded": train.embedded,
            "border": train.border,
            "notes": list(dict.fromkeys((*train.notes, *validation.notes))),
        },
    }


def fitted_steps(settings: Settings, engine: Engine, on_wait: Callable[[], None] = lambda: None) -> int:
    """As many training steps as let the asked number of candidates end within `minutes`, at most the recipe's.

    Measured on networks of the space, one of each block type, on all workers at once, as the search will run them;
    without a space, on those that are trained.
    """
    minutes = settings.budget.minutes
    if minutes is None:
        return settings.training.steps
    random, space = Random(f"{settings.seed}:speed"), settings.space
    designs = [design for _, design in settings.beside]
    if space is not None:
        designs = [Design(space.sample(random, only_type=block.type)) for block in space.blocks]
    tasks = [
        Task(f"first/speed {slot}", SpeedWork(tuple(designs), settings.training, settings.data, settings.device))
        for slot in range(engine.slots)
    ]
    speeds = [numbers_of(finished) for finished in complete(engine, tasks, on_wait)]
    step_s = sum(speed["step_s"] for speed in speeds) / len(speeds)
    evaluation_s = sum(speed["evaluation_s"] for speed in speeds) / len(speeds)
    wanted = settings.budget.candidates or len(settings.beside)
    rounds = math.ceil(wanted / engine.slots)
    rungs = settings.halving or Rungs(count=1)
    confirming = CONTENDERS_SHARE * settings.confirm_seeds * rungs.reaching_end
    trainings, evaluations = rungs.trainings + confirming, rungs.evaluations + confirming
    a_candidate_s = FITTED_SHARE * 60 * minutes / rounds
    a_training_s = a_candidate_s / trainings - evaluation_s * evaluations / trainings
    return max(FEWEST_STEPS, min(settings.training.steps, int(a_training_s / step_s)))


def numbers_of(finished: Finished) -> dict[str, Any]:
    """The numbers of a task without which the run cannot begin."""
    if finished.failure:
        raise RunFailed(f"{finished.task.name} failed: {finished.failure}")
    if finished.numbers is None:
        raise Interrupted
    return dict(finished.numbers)


def hypervolume_reference(objectives: Iterable[str], first: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """For each objective (zero, scale): a value counts as (value - zero) / scale against the reference point.

    PSNR counts as decibels above bicubic; everything else as a share of the reference network's, below 1.
    """
    numbers = first["reference"]["numbers"]
    return {
        name: (first["bicubic_psnr_db"], 1.0) if name == "psnr_db" else (0.0, numbers[name] or 1.0)
        for name in objectives
    }
