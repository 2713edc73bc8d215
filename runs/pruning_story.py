"""Pruning within a run: children of its candidates are cut, checked, trained on, timed, and recorded beside them.

`Pruner.child` is the way of one child. A child enters the record once it is cut, whole; a
run that was killed before cuts it again from what the cutting saved.
"""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..proxies.complexity import complexity
from ..proxies.losses import OF_EXITS
from ..proxies.stairs import Estimate
from ..proxies.training import Training
from ..proxies.work import TimeWork, TrainWork, Work, plain
from ..proxies.writing import write_json
from ..pruning.cutting import CUT, CutWork, StairsWork
from ..search.candidate import Candidate
from ..search.engine import Engine, Finished, Interrupted, Task, complete
from ..search.first import numbers_of
from ..search.loop import NETWORK, died_at
from ..search.settings import Settings, training_seed, with_timing
from ..search.study import Record
from ..spaces import Design, InputError
from ..spaces.plan import Plan
from .folder import RunFolder
from .pruning_jobs import SCRATCH, UNCUT, Job

CHECKS = 5  # how often at most a budget on latency is tightened after a look at the clock
MARGIN = 0.99  # and by how much more than the look says
PATH_POINTS = 6  # of a path that are timed, beside its end

Steps = Generator[Task, Finished, Any]


class Failed(Exception):
    """A child cannot be made, for the reason in the message; the run goes on."""


class Unfinished(Exception):
    """A stop was asked for while a child was on its way."""


class Pruner:
    """Makes the children of a run's candidates, as many at a time as the engine has room for."""

    def __init__(
        self,
        settings: Settings,
        record: Record,
        engine: Engine,
        folder: RunFolder,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.record, self.engine, self.folder = settings, record, engine, folder
        self.on_change = on_change
        first = record.attribute("first")
        self.steps: int = first["steps"]
        self.reference_ms: float = first["reference"]["numbers"].get("latency_ms", math.nan)
        self.estimates: dict[int, Estimate] = {}

    def lacks(self, wanted: Iterable[Job]) -> bool:
        """Whether any of the jobs is not done yet."""
        return any(not self._is_over(job.key) for job in wanted)

    def run(self, wanted: Sequence[Job]) -> None:
        """Makes what is missing of the jobs."""
        waiting = [job for job in wanted if not self._is_over(job.key)]
        self.measure_stairs(waiting)
        under_way: dict[str, tuple[Job, Steps]] = {}
        while waiting or under_way:
            while len(under_way) < self.engine.slots and not self.engine.stopping:
                job = next((job for job in waiting if self._is_ready(job, wanted)), None)
                if job is None:
                    break
                waiting.remove(job)
                self._step(job, self.child(job), None, under_way)
            if not under_way and (self.engine.stopping or waiting):
                break
            finished = self.engine.next(timeout_s=0.2)
            if finished is not None:
                job, steps = under_way.pop(finished.task.name)
                self._step(job, steps, finished, under_way)
            self.on_change()
        if self.engine.stopping:
            raise Interrupted

    def _step(self, job: Job, steps: Steps, finished: Finished | None, under_way: dict[str, tuple[Job, Steps]]) -> None:
        """Moves a child on by one task, the last of which gave `finished`."""
        try:
            task = next(steps) if finished is None else steps.send(finished)
        except StopIteration:
            return
        except Unfinished:  # a stop is no death, which the marker would be taken for
            self._forget_running(job)
            return
        except Failed as error:
            self._fail(job, str(error))
            return
        under_way[task.name] = job, steps
        self.engine.submit(task)

    def _is_ready(self, job: Job, wanted: Sequence[Job]) -> bool:
        """A control that depends on its child waits for it, unless nobody makes that."""
        waits = job.control in (SCRATCH, UNCUT) and any(other.key == job.beside for other in wanted)
        return not waits or self._is_over(job.beside)

    def measure_stairs(self, wanted: Sequence[Job]) -> None:
        """The stairs for all parents that are to be cut to a budget on latency."""
        parents = {job.parent for job in wanted if "latency_ratio" in job.pruning.budget and job.plan is None}
        tasks = []
        for number in sorted(parents - set(self.estimates)):
            at = str(self.folder.cutting(f"{number:05d}"))
            work = StairsWork(self.of(number).design, self.settings.protocol, self.settings.device, at)
            tasks.append(Task(f"prune {number}: stairs", work))
        for finished in complete(self.engine, tasks, self.on_change):
            number = int(finished.task.name.split()[1].rstrip(":"))
            self.estimates[number] = numbers_of(finished)["estimate"]

    # ---- the way of one child

    def child(self, job: Job) -> Steps:
        """Cut, check, record, time, train on; each piece of work is asked for by a `yield`."""
        candidate = self._found(job.key)
        if candidate is not None:
            place = died_at(self.folder.candidate(candidate.number))
            if place is not None:
                raise Failed(f"was running at two deaths of the driver, both at {place}")
        elif job.control in (SCRATCH, UNCUT):
            candidate = self._control(job)
        else:
            candidate = yield from self._cut(job)
        if self.settings.needs("timed") and "latency_ratio" not in candidate.numbers:
            candidate = yield from self._timed(job, candidate)
        candidate = yield from self._trained(job, candidate)
        self.record.update(replace(candidate, state="complete"))
        for name in ("state.pt", "running"):
            (self.folder.candidate(candidate.number) / name).unlink(missing_ok=True)
        (self.folder.cutting(job.key) / "cutting.pt").unlink(missing_ok=True)

    def _cut(self, job: Job) -> Steps:
        """The child as it comes out of the cut, recorded; where its measured time is too long, cut further first."""
        parent, settings, tightened = self.of(job.parent), self.settings, 1.0
        wanted = job.pruning.budget.get("latency_ratio") if job.plan is None else None
        work = CutWork(
            design=parent.design,
            weights=str(self.weights_of(parent)),
            pruning=job.pruning,
            training=self._training(),
            data=settings.data,
            seed=training_seed(settings.seed, job.parent, 1000 + job.repeat),
            device=settings.device,
            folder=str(self.folder.cutting(job.key)),
            protocol=settings.protocol if settings.needs("timed") or wanted else None,
            estimate=self.estimates.get(job.parent),
            plan=job.plan,
        )
        cut = yield from self._ask(job, "cut", work, None)
        for check in range(CHECKS if work.protocol is not None else 0):
            yield from self._time_path(job, parent, cut)
            measured = cut["path"][-1]["latency_ratio"]
            if wanted is None or measured <= wanted or check == CHECKS - 1:
                break
            # The estimate said less than the clock does: what it may say is lowered by as much, and the cut goes on.
            tightened = min(tightened, cut["shares"]["latency_ratio"] / measured) * MARGIN
            cut = yield from self._ask(job, f"cut {check + 2}", replace(work, tightened=tightened), None)
        design = Design(parent.design.architecture, Plan.from_json(cut["plan"]))
        return self._record(job, parent, design, cut)

    def _time_path(self, job: Job, parent: Candidate, cut: dict[str, Any]) -> Steps:
        """Adds measured latencies, as shares of the unpruned network's, to some points of a path and to its end."""
        path = cut["path"]
        inner = range(1, len(path) - 1)
        some = [inner[round(i * (len(inner) - 1) / (PATH_POINTS - 1))] for i in range(PATH_POINTS)] if inner else []
        at = sorted({*some, len(path) - 1})
        architecture = parent.design.architecture
        designs = {str(i): Design(architecture, Plan.from_json(path[i]["plan"])) for i in at}
        work = TimeWork(designs, parent.design, self.settings.protocol, self.settings.device)
        timing = yield from self._ask(job, "check", work, self.settings.task_minutes)
        path[0]["latency_ratio"] = 1.0
        for i in at:
            path[i]["latency_ratio"] = timing[str(i)]["ratio"]
        path[-1]["interval"] = [timing[str(at[-1])][end] for end in ("ratio_low", "ratio_high")]

    def _record(self, job: Job, parent: Candidate, design: Design, cut: Mapping[str, Any]) -> Candidate:
        """Enters the child into the study."""
        path = [{name: value for name, value in row.items() if name != "plan"} for row in cut["path"]]
        recovery = job.recovery.steps_after(int(parent.details["steps"]))
        details = {
            **job.details(),
            "path": path,
            "kept": cut["kept"],
            "verified": cut["verified"],
            "steps": {"pruning": cut["steps"], "recovery": recovery},
            **{name: path[-1][name] for name in ("latency_ratio", "estimated_ratio", "interval") if name in path[-1]},
        }
        wanted = details["budget"].get("latency_ratio")
        if wanted is not None and details["latency_ratio"] > wanted:
            details["missed"] = f"latency_ratio {details['latency_ratio']:.3f}, and {wanted:g} was asked for"
        return self.record.add(
            Candidate(
                0,
                design,
                kind="control" if job.control else "pruned",
                parent=parent.number,
                origin=f"pruned from candidate {parent.number}: {job.label}",
                numbers=complexity(design).numbers(),
                details={"pruning": details},
            )
        )

    def _control(self, job: Job) -> Candidate:
        """A control that is not cut itself: its child's widths with new weights, or the parent as it is."""
        child, parent = self._found(job.beside), self.of(job.parent)
        if child is None or child.state != "complete":
            raise Failed("the child that it belongs to was not made")
        model = parent if job.control == UNCUT else child
        told = child.details["pruning"]
        details = {**job.details(), "steps": told["steps"], "latency_ratio": 1.0}
        if job.control == SCRATCH:
            same = ("latency_ratio", "estimated_ratio", "interval", "kept", "verified")
            details |= {name: told[name] for name in same if name in told}
            details["path"] = [{k: v for k, v in told["path"][-1].items() if k != "psnr_db"} | {"stage": "start"}]
        words = {SCRATCH: f"the widths of candidate {child.number} from new weights", UNCUT: "trained on, not pruned"}
        return self.record.add(
            Candidate(
                0,
                model.design,
                kind="control",
                parent=parent.number,
                origin=f"control beside candidate {child.number}: {words[job.control]}",
                numbers={name: value for name, value in model.numbers.items() if name != "psnr_db"},
                intervals={name: ends for name, ends in model.intervals.items() if name != "psnr_db"},
                details={"pruning": details},
            )
        )

    def _timed(self, job: Job, candidate: Candidate) -> Steps:
        settings, at = self.settings, self.folder.candidate(candidate.number)
        work = TimeWork({NETWORK: candidate.design}, settings.reference[1], settings.protocol, settings.device, str(at))
        timing = (yield from self._ask(job, "timing", work, settings.task_minutes))[NETWORK]
        write_json(at / "timing.json", timing)
        numbers, intervals = with_timing(candidate, timing, self.reference_ms, settings.reference[0])
        details = {**candidate.details, "timing_wide": timing["wide"]}
        return self.record.update(replace(candidate, numbers=numbers, intervals=intervals, details=details))

    def _trained(self, job: Job, candidate: Candidate) -> Steps:
        at = self.folder.candidate(candidate.number)
        seed = training_seed(self.settings.seed, candidate.number)
        work = self.training_of(candidate, seed, str(at))
        result = yield from self._ask(job, "training", work, self.settings.task_minutes)
        if not math.isfinite(result["psnr_db"]):
            raise Failed(f"PSNR is {result['psnr_db']}")
        write_json(at / "training.json", result)
        facts = {name: result[name] for name in ("steps", "train_s", "seed", "threads", "torch", "instruction_set")}
        told = dict(candidate.details["pruning"])
        if told["path"]:
            told["path"] = [*told["path"], {**told["path"][-1], "stage": "recovered", "psnr_db": result["psnr_db"]}]
        details = {**candidate.details, **facts, "training": plain(work.training), "pruning": told}
        numbers = {**candidate.numbers, "psnr_db": result["psnr_db"]}
        return replace(candidate, numbers=numbers, details=details)

    def training_of(self, candidate: Candidate, seed: int, folder: str) -> TrainWork:
        """How a child or a control is trained, from its record alone; other candidates from new weights."""
        settings, training = self.settings, self._training()
        told = candidate.details.get("pruning")
        if told is None or candidate.parent is None:
            return TrainWork(candidate.design, training, settings.data, seed, settings.device, folder)
        parent = self.of(candidate.parent)
        recovery, pruning = told["steps"]["recovery"], told["steps"]["pruning"]
        own = {"loss": "l1" if training.loss in OF_EXITS else training.loss, "grow_at": ()}
        if told["control"] == SCRATCH:
            steps = int(parent.details["steps"]) + pruning + recovery
            training = replace(training, **own, steps=steps)
            return TrainWork(candidate.design, training, settings.data, seed, settings.device, folder)
        steps = recovery + (pruning if told["control"] == UNCUT else 0)
        training = replace(training, **own, steps=steps, learning_rate=training.learning_rate * told["rate"])
        whole = str(self.weights_of(parent))
        start = whole if told["control"] == UNCUT else str(self.folder.cutting(told["job"]) / CUT)
        teacher = (parent.design, whole, told["teacher"]) if told["teacher"] else None
        return TrainWork(
            candidate.design,
            training,
            settings.data,
            seed,
            settings.device,
            folder,
            weights=start,
            teacher=teacher,
        )

    # ---- small things

    def _ask(self, job: Job, what: str, work: Work, minutes: float | None) -> Steps:
        """One piece of work; its numbers."""
        finished = yield Task(f"prune {job.key}: {what}", work, minutes)
        if finished.failure:
            raise Failed(finished.failure)
        if finished.numbers is None:
            raise Unfinished
        return dict(finished.numbers)

    def _forget_running(self, job: Job) -> None:
        """Takes away what says where a child was when its driver died."""
        candidate = self._found(job.key)
        if candidate is not None:
            (self.folder.candidate(candidate.number) / "running").unlink(missing_ok=True)

    def _fail(self, job: Job, reason: str) -> None:
        candidate = self._found(job.key)
        if candidate is not None:
            self.record.update(replace(candidate, state="failed", reason=reason))
            self._forget_running(job)
            return
        kind, details = "control" if job.control else "pruned", {"pruning": job.details()}
        origin = f"to be pruned from candidate {job.parent}: {job.label}"
        design = self.of(job.parent).design
        self.record.add(Candidate(0, design, "failed", kind, job.parent, origin, details=details, reason=reason))

    def _training(self) -> Training:
        return replace(self.settings.training, steps=self.steps)

    def of(self, number: int) -> Candidate:
        """A candidate of the run."""
        return self.record.candidates[number]

    def weights_of(self, parent: Candidate) -> Path:
        """The weights of a parent; InputError where they are gone."""
        file = self.folder.candidate(parent.number) / "model.safetensors"
        if not file.exists():
            raise InputError(f"{file}: no such file; the weights of candidate {parent.number} were not kept")
        return file

    def _found(self, key: str) -> Candidate | None:
        for candidate in self.record.candidates:
            if candidate.details.get("pruning", {}).get("job") == key:
                return candidate
        return None

    def _is_over(self, key: str) -> bool:
        found = self._found(key)
        return found is not None and found.state != "running"
