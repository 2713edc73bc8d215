"""Who records: trains the networks of a recording rung by rung, times them, and keeps what came of each in files.

Each network has a folder `networks/<hash>` with a file a training (rewritten at each rung) and one for its timing;
what is there is not done again, so a stopped recording goes on, and a longer one begins where a shorter one ended.
What failed has a file with the reason in place of its numbers, and is not tried again until that is removed.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..proxies.complexity import complexity
from ..proxies.work import TimeWork, TrainWork
from ..proxies.writing import write_json
from ..search.candidate import Candidate
from ..search.engine import Engine, RunFailed, Task, complete
from ..search.recording import Measured, Recorded, Recording, drawn
from ..search.settings import Settings, training_seed, with_timing
from ..spaces import Architecture, Design, InputError

FAILURES = 10  # in a row: by then it is more likely the device's fault than the networks'
NETWORK, TIMING = "network", "-timing"


@dataclass(frozen=True)
class Wanted:
    """How much to record: networks; how many of these with further seeds, and with how many seeds in all."""

    networks: int
    repeated: int
    seeds: int


class Recorder:
    """Does what is missing of a recording."""

    def __init__(
        self,
        settings: Settings,
        path: Path,
        engine: Engine,
        wanted: Wanted,
        opening: Mapping[str, Any],
        machine: dict[str, str],
        console: Console,
    ) -> None:
        self.settings, self.path, self.engine, self.wanted, self.console = settings, path, engine, wanted, console
        self.opening, self.machine = opening, machine
        assert settings.space is not None
        assert settings.halving is not None
        self.rungs = settings.halving.steps(opening["first"]["steps"])
        self.networks = drawn(settings.space, settings.seed, wanted.networks)
        self.failed_in_a_row = 0

    def folder(self, architecture: Architecture) -> Path:
        """Where the files of a network lie."""
        return self.path / "networks" / architecture.hash

    def take_over(self, earlier: Recording, path: Path) -> None:
        """Takes the trainings of another recording for this one's; its timings are of its machine, and stay there."""
        if earlier.rungs != self.rungs:  # by the same recipe only where its steps were fitted
            raise InputError(f"{path}: was measured at other steps ({', '.join(map(str, earlier.rungs))})")
        every = [(n.architecture, r, t) for n in earlier.networks.values() for r, t in enumerate(n.trainings)]
        every = [(a, r, t) for a, r, t in every if all(map(math.isfinite, t.psnr_db))]  # once others were kept, too
        missing = [(a, r, t) for a, r, t in every if self._failure(a, r) or not self._rungs_of(a, r)]
        if missing:
            self._note(earlier.facts.get("machines") or [earlier.facts.get("machine", {})])
        for a, r, t in missing:
            at = zip(self.rungs, t.psnr_db, t.train_s, strict=True)
            kept = [{"seed": t.seed, "steps": s, "psnr_db": p, "train_s": used} for s, p, used in at]
            write_json(self.folder(a) / f"training{r}.json", kept)
            (self.folder(a) / f"failed{r}.json").unlink(missing_ok=True)

    # ---- who trained

    def machines(self) -> list[dict[str, str]]:
        """The machines that trained, each kind once; where that was not noted yet, the one of the opening."""
        file = self.path / "machines.json"
        if file.exists():
            return json.loads(file.read_text())
        return [self.opening["machine"]] if any(self.path.glob("networks/*/training*.json")) else []

    def _note(self, machines: Sequence[dict[str, str]]) -> None:
        """Adds those that are of another kind than all that are known; before they train, so that none is missing."""
        every = [*self.machines(), *filter(None, machines)]
        first_of_kind = {(m.get("gpu"), m.get("cpu")): m for m in reversed(every)}
        write_json(self.path / "machines.json", list(reversed(first_of_kind.values())))

    # ---- training

    def train(self) -> None:
        """Trains each network, rung by rung; the first of them, which come first, with all seeds."""
        repeated, once = self.networks[: self.wanted.repeated], self.networks[self.wanted.repeated :]
        plan = [(a, r) for a in repeated for r in range(self.wanted.seeds)] + [(a, 0) for a in once]
        missing = [job for job in plan if not self._settled(*job)]
        if missing:
            self._note([self.machine])
        todo, running = iter(missing), dict[str, tuple[Architecture, int]]()
        with bar("training", len(plan), len(plan) - len(missing), self.console) as advance:
            while not self.engine.stopping:
                while len(running) < self.engine.slots and (job := next(todo, None)) is not None:
                    if self._settled(*job):  # meanwhile: an earlier seed of the network failed
                        advance()
                    else:
                        running[self._submit(*job)] = job
                if not running:
                    break
                finished = self.engine.next(timeout_s=0.2)
                if finished is None:
                    continue
                job = running.pop(finished.task.name)
                if finished.failure:
                    self._fail(*job, finished.failure)
                elif finished.numbers is not None:
                    self._keep(*job, finished.numbers)
                else:
                    continue
                if self._settled(*job):
                    advance()
                else:
                    running[self._submit(*job)] = job

    def _settled(self, architecture: Architecture, repeat: int) -> bool:
        """Whether a training is whole, or is not to be: it failed, or an earlier one of the network did."""
        failed = any(self._failure(architecture, earlier) for earlier in range(repeat + 1))
        return failed or self._is_whole(architecture, repeat)

    def _is_whole(self, architecture: Architecture, repeat: int) -> bool:
        return len(self._rungs_of(architecture, repeat)) == len(self.rungs)

    def _rungs_of(self, architecture: Architecture, repeat: int) -> list[dict[str, Any]]:
        """What a training has so far; nothing from a PSNR on that is no number, for once such were kept."""
        file = self.folder(architecture) / f"training{repeat}.json"
        kept = json.loads(file.read_text()) if file.exists() else []
        return list(takewhile(lambda rung: math.isfinite(rung["psnr_db"]), kept))

    def _failure(self, architecture: Architecture, what: int | str) -> str:
        """Why a training (by its repeat) or the timing failed; empty where it did not."""
        file = self.folder(architecture) / f"failed{what}.json"
        return json.loads(file.read_text())["reason"] if file.exists() else ""

    def _submit(self, architecture: Architecture, repeat: int) -> str:
        rung = self.rungs[len(self._rungs_of(architecture, repeat))]
        seed = training_seed(self.settings.seed, int(architecture.hash[:12], 16), repeat)
        folder, settings = self.folder(architecture) / f"training{repeat}", self.settings
        design = Design(architecture)
        work = TrainWork(design, settings.training, settings.data, seed, settings.device, str(folder), until=rung)
        task = Task(f"{architecture.hash[:8]}/{repeat}/{rung}", work, settings.task_minutes)
        self.engine.submit(task)
        return task.name

    def _keep(self, architecture: Architecture, repeat: int, numbers: Mapping[str, Any]) -> None:
        """Writes what a rung gave."""
        if not math.isfinite(numbers["psnr_db"]):
            self._fail(architecture, repeat, f"PSNR is {numbers['psnr_db']}")
            return
        self.failed_in_a_row = 0
        kept = {name: numbers[name] for name in ("seed", "steps", "psnr_db", "train_s", "psnr_per_image_db")}
        so_far = [*self._rungs_of(architecture, repeat), kept]
        write_json(self.folder(architecture) / f"training{repeat}.json", so_far)
        if len(so_far) == len(self.rungs):
            shutil.rmtree(self.folder(architecture) / f"training{repeat}", ignore_errors=True)

    def _fail(self, architecture: Architecture, what: int | str, reason: str) -> None:
        """Writes why a training or the timing failed; RunFailed where nothing else has come for some time."""
        write_json(self.folder(architecture) / f"failed{what}.json", {"reason": reason})
        shutil.rmtree(self.folder(architecture) / f"training{what}", ignore_errors=True)
        self.failed_in_a_row += 1
        if self.failed_in_a_row == FAILURES:
            raise RunFailed(
                f"{FAILURES} in a row failed, the last one ({architecture.summary()}): {reason}; "
                f"to have them tried again, remove {self.path}/networks/*/failed*.json"
            )

    # ---- timing

    def time(self) -> None:
        """Times each trained network beside the reference; nothing else runs meanwhile."""
        file = "timing.json"
        trained = [a for a in self.networks if self._is_whole(a, 0)]
        missing = {a.hash: a for a in trained if not (self._failure(a, TIMING) or (self.folder(a) / file).exists())}
        tasks = [
            Task(name, TimeWork({NETWORK: Design(a)}, self.settings.reference[1], self.settings.protocol, self.device))
            for name, a in missing.items()
        ]
        with bar("timing", len(trained), len(trained) - len(missing), self.console) as advance:
            for finished in complete(self.engine, tasks):
                network = missing[finished.task.name]
                if finished.failure:
                    self._fail(network, TIMING, finished.failure)
                elif finished.numbers is not None:
                    self.failed_in_a_row = 0
                    write_json(self.folder(network) / file, finished.numbers[NETWORK])
                else:
                    continue
                advance()

    @property
    def device(self) -> str:
        """Where the networks are timed."""
        return self.settings.device

    # ---- the outcome

    def recording(self, recipe: Mapping[str, Any]) -> Recording:
        """All networks that are trained to the end, in the order in which they were drawn, timed or not yet.

        A network that cannot be timed is left out: who replays a recording expects a latency of all or of none.
        """
        facts = {"recipe": recipe, **self.opening, "machines": self.machines(), "failed": self._failed()}
        networks = {}
        for a in self.networks:
            whole = list(takewhile(lambda repeat, a=a: self._is_whole(a, repeat), range(self.wanted.seeds)))
            if not whole or self._failure(a, TIMING):
                continue
            numbers, intervals = complexity(Design(a)).numbers(), {}
            timing = self.folder(a) / "timing.json"
            if timing.exists():
                said, candidate = json.loads(timing.read_text()), Candidate(0, Design(a), numbers=numbers)
                reference_ms = self.opening["first"]["reference"]["numbers"]["latency_ms"]
                numbers, intervals = with_timing(candidate, said, reference_ms, self.settings.reference[0])
            trainings = tuple(_measured(self._rungs_of(a, repeat)) for repeat in whole)
            networks[a.hash] = Recorded(a, numbers, intervals, trainings)
        return Recording(self.rungs, networks, facts)

    def _failed(self) -> list[dict[str, str]]:
        """What failed of the networks: which, what of it, and why."""
        whats = [*((str(r), f"training {r}") for r in range(self.wanted.seeds)), (TIMING, "timing")]
        every = [(a, said, self._failure(a, what)) for a in self.networks for what, said in whats]
        return [{"network": a.hash, "what": said, "reason": reason} for a, said, reason in every if reason]


def _measured(training: list[dict[str, Any]]) -> Measured:
    return Measured(
        training[0]["seed"],
        tuple(rung["psnr_db"] for rung in training),
        tuple(rung["train_s"] for rung in training),
    )


@contextmanager
def bar(what: str, total: int, done: int, console: Console) -> Iterator[Callable[[], None]]:
    """A bar that says how long the rest will take; gives what moves it on by one."""
    columns = (TextColumn(what), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda: progress.advance(task)
