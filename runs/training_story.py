"""Training one network longer: a candidate of a run, whose result has it as parent, or the one of a recipe."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..proxies.complexity import complexity
from ..proxies.losses import refuse_untrainable
from ..proxies.psnr import bicubic_baseline
from ..proxies.training import Training
from ..proxies.work import Data, TrainWork, plain
from ..proxies.writing import write_json
from ..search.candidate import Candidate
from ..search.engine import Engine, RunFailed, Task, complete
from ..search.settings import training_seed
from ..search.study import Record
from ..spaces import BUILDABLE, InputError, build
from .curves import curves_of, refuse_without_tensorboard
from .engines.workplace import Workplace, workplace
from .folder import RunFolder
from .recipe import TrainPart
from .recipe_file import network_of, read_recipe
from .storage import driven, usable
from .story import Stopped, conclude, data_of, say_notes, signals, training_of
from .summary import judged
from .winner import chosen, export_candidate


def train_candidate(
    path: Path,
    number: int | None,
    recipe_name: str | None,
    overrides: Sequence[str],
    seeds: int,
    console: Console,
    ray: str | None = None,
) -> None:
    """Trains a candidate of a run as another recipe says; records it as a child of that candidate, and exports it.

    The images are the run's, unless the other recipe names its own.
    """
    with workplace(ray, console.print) as place:
        _train_candidate(RunFolder(place.path(path)), number, recipe_name, overrides, seeds, console, place)


def _train_candidate(
    folder: RunFolder,
    number: int | None,
    recipe_name: str | None,
    overrides: Sequence[str],
    seeds: int,
    console: Console,
    place: Workplace,
) -> None:
    path = folder.path
    recipe = folder.recipe()
    if not recipe.has_front:
        raise InputError(f"{path}: was not made by a search; train its recipe instead")
    other = read_recipe(recipe_name, overrides) if recipe_name else recipe
    if recipe_name is None and overrides:
        raise InputError("--set changes a recipe: name one by --recipe")
    with folder.lock() as held:
        record = held.enter_context(driven(folder, recipe.objectives, recipe.make_space()))
        number = judged(recipe, record).winner if number is None else number
        if number is None:
            raise InputError(f"{path}: has no winner; name a candidate by --candidate")
        parent = chosen(record.candidates, number, folder)
        if parent.state != "complete":
            raise InputError(f"{path}: candidate {number} is {parent.state}; only a complete one is trained on")
        training = training_of(other)
        if recipe_name is None:
            training = replace(training, steps=(record.attribute("first") or {})["steps"])
        data = data_of(other) if "data" in other.model_fields_set else data_of(recipe)
        data = replace(data, patch=training.patch)
        say_notes(data, console)
        refuse_other_judges(folder, data, record)
        device = place.device(other.device)
        place.check(path, data, device, None, timed=False)
        place.slots(device, None, other.train.gpu_share)
        refuse_more_gpus(place, device, other.train.gpus)
        parent = next(c for c in judged(recipe, record).candidates if c.number == number)  # as it was confirmed
        child = child_of(record, parent, training, data, device, seeds)
        if child.state == "running":
            train(folder, record, child, training, data, device, seeds, recipe.seed, console, place, other.train)
        else:
            console.print(f"candidate {child.number} is this very training, done before")
        curves_of(recipe, folder, record)()
        conclude(folder, recipe, record, console)
        child = record.candidates[child.number]
        target = folder.path / f"trained-{child.number:05d}"
        export_candidate(folder, recipe, record, child, target)
        say(child, target, record, console)


def train_network(
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    seeds: int,
    console: Console,
    ray: str | None = None,
    storage: str | None = None,
) -> None:
    """Trains the one network that a recipe names and exports it to `winner/` of the folder."""
    with workplace(ray, console.print) as place:
        _train_network(name, out, overrides, seeds, console, place, usable(storage))


def _train_network(
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    seeds: int,
    console: Console,
    place: Workplace,
    storage: str | None,
) -> None:
    recipe = read_recipe(name, overrides).model_copy(update={"pruning": None})  # that is `prune`
    refuse_without_tensorboard(recipe)
    design = network_of(recipe)
    named = recipe.network if recipe.network in BUILDABLE else design.summary()
    refuse_untrainable(build(design, device="meta"), str(named), recipe.train.loss, bool(recipe.train.grow_at))
    folder = RunFolder(place.path(out or Path("out") / f"{Path(name).resolve().parent.name}-trained"))
    training, data = training_of(recipe), data_of(recipe)
    say_notes(data, console)
    device = place.device(recipe.device)
    place.check(folder.path, data, device, None, timed=False)
    place.slots(device, None, recipe.train.gpu_share)
    refuse_more_gpus(place, device, recipe.train.gpus)
    with folder.lock(storage) as held:
        folder.begin(recipe, Path(name).stem, shlex.join(["paretosr", *sys.argv[1:]]), storage)
        record = held.enter_context(driven(folder, ("psnr_db",)))
        if record.attribute("first") is None:
            bicubic_db = bicubic_baseline(data.evaluation()).psnr_db
            first = {"bicubic_psnr_db": bicubic_db, "data": data_facts(data), "steps": training.steps}
            record.set_attribute("first", first)
        if not record.candidates:
            numbers = complexity(design).numbers()
            record.add(Candidate(0, design, kind="trained", origin=f"recipe {name}", numbers=numbers))
        candidate = record.candidates[0]
        if candidate.design.hash != design.hash:
            raise InputError(f"{folder.path}: trains another network ({candidate.summary}); choose another --out")
        if candidate.state == "failed":
            raise RunFailed(
                f"{folder.path}: this training failed: {candidate.reason}; choose another --out to try again"
            )
        if candidate.state == "running":
            how = recipe.train
            train(folder, record, candidate, training, data, device, seeds, recipe.seed, console, place, how, own=True)
        candidate = record.candidates[0]
        curves_of(recipe, folder, record)()
        export_candidate(folder, recipe, record, candidate, folder.path / "winner")
        say(candidate, folder.path / "winner", record, console)


def refuse_more_gpus(place: Workplace, device: str, asked: int) -> None:
    """InputError where a training is to have more GPUs than any node has, from `device` on."""
    if asked == 1:
        return
    first, most = int(device.partition(":")[2] or 0), place.most_gpus()
    if first + asked > most:
        begins = f" from {device} on" if first else ""
        raise InputError(
            f"train.gpus: {asked} GPUs of one node{begins} are to share a training, and none has more than {most}"
        )


def refuse_other_judges(folder: RunFolder, data: Data, record: Record) -> None:
    """InputError where the child would be judged on other images than its parent: PSNR could not be compared."""
    known = (record.attribute("first") or {})["data"]["hash"]["validation"]
    if data.evaluation().hash != known:
        raise InputError(
            f"{folder.path}: was judged on other images; give the recipe the run's own as data.validation, "
            "or export the candidate and train its train.yaml"
        )


def data_facts(data: Data) -> dict[str, Any]:
    """What is recorded of the images that a network was trained and judged on."""
    images, validation = data.train(), data.evaluation()
    return {
        "label": images.label,
        "hash": {"train": images.hash, "validation": validation.hash},
        "validation_names": list(validation.names),
        "embedded": images.embedded,
    }


def child_of(record: Record, parent: Candidate, training: Training, data: Data, device: str, seeds: int) -> Candidate:
    """The child that this very training makes: the one begun or done already, or a new one."""
    details = {"training": plain(training), "data": asdict(data), "device": device, "asked_seeds": seeds}
    for candidate in record.candidates:
        same = {name: candidate.details.get(name) for name in details} == details
        if candidate.parent == parent.number and same and candidate.state in ("running", "complete"):
            return candidate
    details["data_facts"] = data_facts(data)
    if "system" in parent.details:
        details["system"] = parent.details["system"]
    numbers = {name: value for name, value in parent.numbers.items() if name != "psnr_db"}
    child = Candidate(
        0,
        parent.design,
        kind="trained",
        parent=parent.number,
        origin=f"candidate {parent.number}, trained for {training.steps} steps",
        numbers=numbers,
        intervals={name: ends for name, ends in parent.intervals.items() if name != "psnr_db"},
        details=details,
    )
    return record.add(child)


def train(
    folder: RunFolder,
    record: Record,
    candidate: Candidate,
    training: Training,
    data: Data,
    device: str,
    seeds: int,
    run_seed: int,
    console: Console,
    place: Workplace,
    how: TrainPart,
    *,
    own: bool = False,
) -> None:
    """Trains with each seed, goes on where a saved state lies, and records the candidate; Stopped after a signal.

    own: the run's seed is the training's first seed itself (a recipe that trains one network), not a key to it.
    """
    tasks = []
    for repeat in range(seeds):
        seed = run_seed if own and repeat == 0 else training_seed(run_seed, candidate.number, repeat)
        at = folder.candidate(candidate.number) / (f"seed{repeat}" if repeat else "")
        work = TrainWork(candidate.design, training, data, seed, device, str(at), gpus=how.gpus)
        tasks.append(Task(f"seed {seed}", work))
    with (
        signals() as asked,
        place.engine(device, None, how.gpu_share, seeds, lambda: bool(asked)) as engine,
        Progress(console=console) as bars,
    ):
        finished = {f.task.name: f for f in complete(engine, tasks, drawn(bars, engine, training.steps))}
    if asked:
        raise Stopped(asked[0])
    results = [finished[task.name] for task in tasks]
    failure = next((f.failure for f in results if f.failure), "")
    if failure:
        record.update(replace(candidate, state="failed", reason=failure))
        raise RunFailed(f"the training failed: {failure}")
    record.update(trained(folder, candidate, [dict(f.numbers or {}) for f in results]))
    for name in ("state.pt", "running"):
        for leftover in folder.candidate(candidate.number).rglob(name):
            leftover.unlink()


def trained(folder: RunFolder, candidate: Candidate, results: list[dict[str, Any]]) -> Candidate:
    """The candidate with the mean PSNR of its seeds; the first seed's curve and weights are the ones kept with it."""
    write_json(folder.candidate(candidate.number) / "training.json", results[0])
    psnr_db = [result["psnr_db"] for result in results]
    details = {name: results[0][name] for name in ("steps", "train_s", "seed", "threads", "torch", "instruction_set")}
    details["psnr_by_seed_db"] = psnr_db
    numbers = {**candidate.numbers, "psnr_db": float(np.mean(psnr_db))}
    return replace(candidate, state="complete", numbers=numbers, details={**candidate.details, **details})


def drawn(bars: Progress, engine: Engine, steps: int) -> Callable[[], None]:
    """What draws a bar for each training that reports."""
    known: dict[str, Any] = {}

    def draw() -> None:
        for name, said in engine.progress.items():
            if name not in known:
                known[name] = bars.add_task(name, total=steps)
            bars.update(known[name], completed=said["step"])

    return draw


def say(candidate: Candidate, target: Path, record: Record, console: Console) -> None:
    """The outcome in two lines."""
    bicubic_db = record.attribute("first")["bicubic_psnr_db"]
    psnr_db = candidate.numbers["psnr_db"]
    console.print(
        f"candidate {candidate.number}: {psnr_db:.3f} dB, {psnr_db - bicubic_db:+.2f} dB against bicubic; "
        f"{candidate.details['steps']} steps; {candidate.summary}",
        soft_wrap=True,
    )
    console.print(f"exported {target}", soft_wrap=True)
