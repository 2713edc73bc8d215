"""Recording a space: many of its networks trained to the end and measured at every rung, for studies in simulated time.

Each network has a folder `networks/<hash>` with a file a training (rewritten at each rung) and one for its timing;
what is there is not done again, so a stopped recording goes on, and a longer one begins where a shorter one ended.
"""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..analysis.recording_card import card
from ..proxies.complexity import complexity
from ..proxies.work import TimeWork, TrainWork
from ..proxies.writing import write_json, write_text
from ..search.candidate import Candidate
from ..search.engine import Engine, RunFailed, Task, complete
from ..search.first import first_record
from ..search.recording import Measured, Recorded, Recording, read_recording, write_recording
from ..search.settings import Settings, training_seed, with_timing
from ..spaces import Architecture, Design, InputError
from .folder import RunFolder
from .recipe import Recipe
from .recipe_file import parse_recipe, read_recipe
from .story import THIS_MACHINE, Stopped, say_notes, settings_of, signals
from .summary import machine_facts, versions

DRAWS = 100  # for each network still missing, before the space counts as exhausted
NETWORK = "network"


@dataclass(frozen=True)
class Wanted:
    """How much to record: networks; how many of these with further seeds, and with how many seeds in all."""

    networks: int
    repeated: int
    seeds: int


def record(
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    wanted: Wanted,
    earlier: Path | None,
    *,
    time: bool,
    console: Console,
) -> None:
    """Records networks of a recipe's space, or goes on with it; then writes the recording to `recording/`.

    earlier: a recording by the same recipe whose trainings are taken over. Also after a signal what there is so far is
    written. Raises InputError for what the user can mend, Stopped after a signal.
    """
    recipe = read_recipe(name, overrides)
    if recipe.space is None or recipe.search.halving is None:
        raise InputError(f"{name}: a recording needs a 'space', and 'search.halving' for its rungs")
    settings = settings_of(recipe)
    known = read_recording(earlier) if earlier is not None else None
    say_notes(settings.data, console)
    folder = RunFolder(out or Path("out") / f"{Path(name).stem}-recording")
    with folder.lock():
        folder.begin(recipe, Path(name).stem, shlex.join(["paretosr", *sys.argv[1:]]))
        most, share = recipe.search.workers, recipe.train.gpu_share
        with signals() as asked, THIS_MACHINE.engine(settings.device, most, share, None, lambda: bool(asked)) as engine:
            first = _first(folder, settings, engine) if not asked else {}
            recorder = Recorder(settings, folder.path, engine, wanted, first.get("steps", 0), console)
            if earlier is not None and known is not None:
                recorder.take_over(known, recipe, earlier)
            for stage in (recorder.train, *([recorder.time] if time else [])):
                if not asked:
                    stage()
    path = folder.path / "recording"
    recording = recorder.recording(recipe, first)
    if recording.networks:
        write_recording(recording, path)
        write_text(path / "README.md", card(recording, Path(name).stem, folder.facts()["command"]))
    console.print(f"{len(recording.networks)} networks recorded in {path}", soft_wrap=True)
    if asked:
        raise Stopped(asked[0])


def _first(folder: RunFolder, settings: Settings, engine: Engine) -> dict[str, Any]:
    """The opening of the recording, measured once."""
    file = folder.path / "first.json"
    if not file.exists():
        facts = {"machine": machine_facts(settings.device), "versions": versions()}
        write_json(file, {**facts, "first": first_record(settings, engine)})
    return json.loads(file.read_text())["first"]


class Recorder:
    """Does what is missing of a recording."""

    def __init__(
        self, settings: Settings, path: Path, engine: Engine, wanted: Wanted, steps: int, console: Console
    ) -> None:
        assert settings.space is not None
        assert settings.halving is not None
        self.settings, self.path, self.engine, self.wanted, self.console = settings, path, engine, wanted, console
        self.rungs = settings.halving.steps(steps or settings.training.steps)
        self.networks = drawn(settings, wanted.networks)

    def folder(self, architecture: Architecture) -> Path:
        """Where the files of a network lie."""
        return self.path / "networks" / architecture.hash

    def take_over(self, earlier: Recording, recipe: Recipe, path: Path) -> None:
        """Takes the trainings of another recording for this one's; its timings are of its machine, and stay there."""
        for part in ("space", "train", "data", "seed"):
            there, here = (json_of(r, part) for r in (parse_recipe(earlier.facts["recipe"], str(path)), recipe))
            if there != here:
                raise InputError(f"{path}: was recorded by a recipe with another '{part}'")
        if earlier.rungs != self.rungs:
            raise InputError(f"{path}: was measured at other steps ({', '.join(map(str, earlier.rungs))})")
        for network in earlier.networks.values():
            for repeat, t in enumerate(network.trainings):
                if not self._rungs_of(network.architecture, repeat):
                    at = zip(self.rungs, t.psnr_db, t.train_s, strict=True)
                    kept = [{"seed": t.seed, "steps": s, "psnr_db": p, "train_s": used} for s, p, used in at]
                    write_json(self.folder(network.architecture) / f"training{repeat}.json", kept)

    # ---- training

    def train(self) -> None:
        """Trains each network, rung by rung; the first of them, which come first, with all seeds."""
        repeated, once = self.networks[: self.wanted.repeated], self.networks[self.wanted.repeated :]
        plan = [(a, r) for a in repeated for r in range(self.wanted.seeds)] + [(a, 0) for a in once]
        todo = ((a, r) for a, r in plan if len(self._rungs_of(a, r)) < len(self.rungs))
        running: dict[str, tuple[Architecture, int]] = {}
        with self._bar("training", len(plan)) as advance:
            for _ in range(len(plan) - sum(len(self._rungs_of(a, r)) < len(self.rungs) for a, r in plan)):
                advance()
            while not self.engine.stopping:
                while len(running) < self.engine.slots and (job := next(todo, None)) is not None:
                    running[self._submit(*job)] = job
                if not running:
                    break
                finished = self.engine.next(timeout_s=0.2)
                if finished is None:
                    continue
                job = running.pop(finished.task.name)
                if finished.failure:
                    raise RunFailed(f"{job[0].summary()}: {finished.failure}")
                if finished.numbers is not None and self._keep(*job, dict(finished.numbers)):
                    advance()
                elif finished.numbers is not None:
                    running[self._submit(*job)] = job

    def _rungs_of(self, architecture: Architecture, repeat: int) -> list[dict[str, Any]]:
        file = self.folder(architecture) / f"training{repeat}.json"
        return json.loads(file.read_text()) if file.exists() else []

    def _submit(self, architecture: Architecture, repeat: int) -> str:
        rung = self.rungs[len(self._rungs_of(architecture, repeat))]
        seed = training_seed(self.settings.seed, int(architecture.hash[:12], 16), repeat)
        folder, settings = self.folder(architecture) / f"training{repeat}", self.settings
        design = Design(architecture)
        work = TrainWork(design, settings.training, settings.data, seed, settings.device, str(folder), until=rung)
        task = Task(f"{architecture.hash[:8]}/{repeat}/{rung}", work, settings.task_minutes)
        self.engine.submit(task)
        return task.name

    def _keep(self, architecture: Architecture, repeat: int, numbers: dict[str, Any]) -> bool:
        """Writes what a rung gave; whether that was the last."""
        kept = {name: numbers[name] for name in ("seed", "steps", "psnr_db", "train_s", "psnr_per_image_db")}
        so_far = [*self._rungs_of(architecture, repeat), {**kept, "steps": numbers["steps"]}]
        write_json(self.folder(architecture) / f"training{repeat}.json", so_far)
        if len(so_far) < len(self.rungs):
            return False
        for leftover in (self.folder(architecture) / f"training{repeat}").iterdir():
            leftover.unlink()
        return True

    # ---- timing

    def time(self) -> None:
        """Times each trained network beside the reference; nothing else runs meanwhile."""
        file = "timing.json"
        trained = [a for a in self.networks if len(self._rungs_of(a, 0)) == len(self.rungs)]
        missing = {a.hash: a for a in trained if not (self.folder(a) / file).exists()}
        tasks = [
            Task(name, TimeWork({NETWORK: Design(a)}, self.settings.reference[1], self.settings.protocol, self.device))
            for name, a in missing.items()
        ]
        with self._bar("timing", len(trained)) as advance:
            for _ in range(len(trained) - len(tasks)):
                advance()
            for finished in complete(self.engine, tasks):
                if finished.failure:
                    raise RunFailed(f"{missing[finished.task.name].summary()}: {finished.failure}")
                if finished.numbers is not None:
                    write_json(self.folder(missing[finished.task.name]) / file, finished.numbers[NETWORK])
                    advance()

    @property
    def device(self) -> str:
        """Where the networks are timed."""
        return self.settings.device

    # ---- the outcome

    def recording(self, recipe: Recipe, first: dict[str, Any]) -> Recording:
        """All networks that are trained to the end, in the order in which they were drawn, timed or not yet."""
        known = json.loads((self.path / "first.json").read_text())
        facts = {"recipe": recipe.model_dump(mode="json", exclude_defaults=True), **known}
        reference_ms = first["reference"]["numbers"]["latency_ms"]
        networks = {}
        for a in self.networks:
            timing = self.folder(a) / "timing.json"
            trainings = [self._rungs_of(a, repeat) for repeat in range(self.wanted.seeds)]
            whole = [t for t in trainings if len(t) == len(self.rungs)]
            if not whole:
                continue
            numbers, intervals = complexity(Design(a)).numbers(), {}
            if timing.exists():
                said, candidate = json.loads(timing.read_text()), Candidate(0, Design(a), numbers=numbers)
                numbers, intervals = with_timing(candidate, said, reference_ms, self.settings.reference[0])
            networks[a.hash] = Recorded(a, numbers, intervals, tuple(_measured(training) for training in whole))
        return Recording(self.rungs, networks, facts)

    def _bar(self, what: str, total: int) -> Any:
        return _Bar(what, total, self.console)


def json_of(recipe: Recipe, part: str) -> Any:
    """A part of a recipe as plain data."""
    return recipe.model_dump(mode="json")[part]


def _measured(training: list[dict[str, Any]]) -> Measured:
    return Measured(
        training[0]["seed"],
        tuple(rung["psnr_db"] for rung in training),
        tuple(rung["train_s"] for rung in training),
    )


def drawn(settings: Settings, count: int) -> list[Architecture]:
    """So many different networks of the space, at random, or all that it holds; a longer list begins with a shorter."""
    space = settings.space
    assert space is not None
    random, found = Random(f"{settings.seed}:recording"), {}
    for _ in range(DRAWS * count):
        if len(found) >= min(count, space.size):
            break
        architecture = space.sample(random)
        found.setdefault(architecture.hash, architecture)
    return list(found.values())


class _Bar:
    """A bar that says how long the rest will take; used as a context, it gives what moves it on by one."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        columns = (TextColumn(what), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console)
        self.task = self.progress.add_task(what, total=total)

    def __enter__(self) -> Callable[[], None]:
        self.progress.start()
        return lambda: self.progress.advance(self.task)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
