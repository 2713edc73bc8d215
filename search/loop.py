"""The search: propose, count, time, train, record; and begin again until the budget is spent.

A fresh run is the resume of an empty record: nothing here remembers anything that the record does not.
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ..proxies.complexity import complexity
from ..proxies.training import saved_step
from ..proxies.work import TimeWork, TrainWork
from ..proxies.writing import write_json
from ..spaces import NETWORKS, Design
from .candidate import TRAINED_ALIKE, Candidate
from .engine import Engine, Finished, Interrupted, Task
from .halving import Halving, rung_point
from .objectives import broken
from .proposing import Exhausted, next_proposal
from .settings import Settings, training_seed, with_timing
from .study import Record, belongs
from .view import View

HOPELESS = 500  # proposals in a row that break limits
FAILURES = 25  # failures in a row
SECONDS_S = 5.0  # the time spent is written about so often; a death forgets at most that much
NETWORK = "network"  # the name of the candidate in its own timing


class Search:
    """Drives one search. `on_change` is called after each event; `folder_of` says where a candidate's files lie.

    count: what gives a design its counts. keep: what writes the files beside the record.
    """

    def __init__(
        self,
        settings: Settings,
        record: Record,
        engine: Engine,
        folder_of: Callable[[int], Path],
        on_change: Callable[[], None] = lambda: None,
        count: Callable[[Design], Mapping[str, float]] = lambda design: complexity(design).numbers(),
        keep: Callable[[Path, Any], None] = write_json,
    ) -> None:
        self.settings, self.record, self.engine = settings, record, engine
        self.folder_of, self.on_change, self.count, self.keep = folder_of, on_change, count, keep
        first = record.attribute("first")
        self.steps: int = first["steps"]
        self.reference_ms: float = first["reference"]["numbers"].get("latency_ms", math.nan)
        self.training = replace(settings.training, steps=self.steps)
        self.running: dict[str, Candidate] = {}
        self.known = {c.design.hash for c in record.candidates if belongs(c, settings.space)}
        self.spent_before_s: float = record.attribute("seconds") or 0.0
        self.started = self.kept_at = time.monotonic()
        begun = {c.details.get("beside") or c.details.get("system") for c in record.candidates}
        self.beside = [(name, design) for name, design in settings.beside if name not in begun]
        self.view = View(record, settings, self.steps)
        self.halving = self.filled_rungs()

    # ---- the loop

    def run(self) -> None:
        """Searches until the budget is spent. Raises Exhausted where it cannot go on, Interrupted on a stop.

        Either only after everything that was running has ended and is recorded. Between any two proposals the engine is
        asked, which is how it hears of a stop.
        """
        exhausted = None
        try:
            self.resume()
        except Exhausted as error:
            exhausted = error
        while True:
            try:
                promotion = self.promotion() if self.has_room() else None
                proposing = exhausted is None and self.has_room() and (bool(self.beside) or self.wants_more())
                if proposing and self.beside:
                    self.begin_given(*self.beside.pop(0))
                elif promotion is not None:
                    self.promote(*promotion)
                elif proposing:
                    self.propose()
                idle = not proposing and promotion is None
                finished = self.engine.next(timeout_s=0.2 if self.running and idle else 0.01)
                if finished is not None:
                    self.receive(finished)
            except Exhausted as error:
                exhausted = error
            self.on_change()
            at_end = exhausted is not None or self.engine.stopping or not (self.beside or self.wants_more())
            if at_end and not self.running and (self.engine.stopping or self.promotion() is None):
                break
        self.keep_time(now=True)
        if self.engine.stopping:
            raise Interrupted
        if exhausted is not None:
            raise exhausted

    def has_room(self) -> bool:
        """Whether a worker waits for a candidate."""
        return not self.engine.stopping and len(self.running) < self.engine.slots

    @property
    def seconds(self) -> float:
        """Wall time spent in all lives of this run."""
        return self.spent_before_s + time.monotonic() - self.started

    def wants_more(self) -> bool:
        """Whether the budget leaves room for another candidate, those on their way included."""
        budget = self.settings.budget
        done = self.view.trained + sum(c.kind == "search" for c in self.running.values())
        if done >= budget.candidates or self.steps_are_spent():
            return False
        return budget.minutes is None or self.seconds < 60 * budget.minutes or done < budget.at_least

    def steps_are_spent(self) -> bool:
        """Whether no training may be begun, for those done and on their way use up the budget's steps."""
        budget = self.settings.budget
        if budget.steps is None:
            return False
        under_way = sum(c.target or self.steps for c in self.running.values() if c.kind == "search")
        return self.view.steps + under_way >= budget.steps

    def resume(self) -> None:
        """Sends on what was running when the last driver died; what it died of twice is failed."""
        for candidate in self.record.candidates:
            if candidate.kind not in TRAINED_ALIKE:
                continue
            if candidate.state == "paused":
                continue
            if candidate.state != "running":
                self.clear(candidate)  # the last driver may have died just before
                continue
            place = died_at(self.folder_of(candidate.number))
            if place is not None:
                self.finish(candidate, "failed", f"was running at two deaths of the driver, both at {place}")
            elif "psnr_db" not in candidate.numbers and (limit := broken(self.settings.limits, candidate.numbers)):
                self.finish(candidate, "pruned", f"broke {limit}")
            else:
                self.send_on(candidate)

    # ---- a candidate's way

    def propose(self) -> None:
        """Makes the next candidate of the search and enters it."""
        self.check_hope()
        proposal = next_proposal(self.settings, self.view.seen, self.known, self.count)
        self.known.add(proposal.architecture.hash)
        design = Design(proposal.architecture)
        details = {"target": self.halving.steps[0]} if self.halving else {}
        number = len(self.record.candidates)
        self.enter(Candidate(number, design, origin=proposal.origin, details=details), proposal.memory)

    def begin_given(self, name: str, design: Design) -> None:
        """Begins with a given network as with any other; a search may still find the same architecture itself."""
        number, details = len(self.record.candidates), {"system": name}
        known = Candidate(number, design, kind="published", origin=f"published network {name}", details=details)
        given = Candidate(number, design, origin=f"the network {name}", details={"beside": name})
        self.enter(known if name in NETWORKS else given)

    def enter(self, candidate: Candidate, memory: Mapping[str, Any] | None = None) -> None:
        """Counts a new candidate, records it whole, and sends it on if it breaks no limit."""
        numbers = self.count(candidate.design)
        candidate = replace(candidate, numbers=numbers)
        limit = broken(self.settings.limits, numbers)
        if limit is not None:
            candidate = replace(candidate, state="pruned", reason=f"broke {limit}")
        candidate = self.record.add(candidate, memory)
        if limit is None:
            self.send_on(candidate)

    # ---- rungs

    def filled_rungs(self) -> Halving | None:
        """The rungs as the record has them; None in a search without."""
        if self.settings.halving is None:
            return None
        rungs = self.settings.halving
        halving = Halving(rungs.steps(self.steps), rungs.eta, rungs.promote)
        for c in self.record.candidates:
            for step, psnr_db in c.rungs:
                halving.arrive(c.number, step, self.rung_point(c, psnr_db))
                if c.target is not None and c.target > step:
                    halving.promote(c.number, step)
        return halving

    def rung_point(self, candidate: Candidate, psnr_db: float) -> np.ndarray:
        """Where a candidate stands among those of a rung, at which it has this PSNR."""
        by = (self.settings.halving and self.settings.halving.by) or self.settings.objectives
        return rung_point(candidate.numbers, by, psnr_db)

    def promotion(self) -> tuple[int, int] | None:
        """The promotion that is due, as (number, step it stands at), where the budget lets it be trained."""
        return self.halving.due() if self.halving and not self.steps_are_spent() else None

    def promote(self, number: int, step: int) -> None:
        """Trains a paused candidate on to the next rung; recorded first, or a death between would promote another."""
        assert self.halving is not None
        self.halving.promote(number, step)
        candidate = self.record.candidates[number]
        details = {**candidate.details, "target": self.halving.after(step)}
        self.send_on(self.record.update(replace(candidate, state="running", details=details)))

    def send_on(self, candidate: Candidate) -> None:
        """Submits the next piece of work that the candidate needs; completes it where none is left."""
        settings, number, folder = self.settings, candidate.number, str(self.folder_of(candidate.number))
        if settings.needs("timed") and "latency_ratio" not in candidate.numbers:
            work = TimeWork(
                {NETWORK: candidate.design}, settings.reference[1], settings.protocol, settings.device, folder
            )
        elif settings.needs("trained") and "psnr_db" not in candidate.numbers:
            seed = training_seed(settings.seed, number)
            until, device = candidate.target, settings.device
            work = TrainWork(candidate.design, self.training, settings.data, seed, device, folder, until=until)
        else:
            self.finish(candidate, "complete")
            return
        rung = f"/{candidate.target}" if isinstance(work, TrainWork) and candidate.target else ""
        task = Task(f"{number}/{type(work).__name__}{rung}", work, settings.task_minutes)
        self.running[task.name] = candidate
        self.engine.submit(task)

    def receive(self, finished: Finished) -> None:
        """Records what a task gave, and sends its candidate on; one that stopped on request stays as it is."""
        candidate = self.running.pop(finished.task.name)
        (self.folder_of(candidate.number) / "running").unlink(missing_ok=True)
        if finished.failure:
            self.finish(candidate, "failed", finished.failure)
        elif finished.numbers is not None:
            self.measured(candidate, finished)
        self.keep_time()

    def keep_time(self, *, now: bool = False) -> None:
        """Writes the seconds spent, now and then."""
        if now or time.monotonic() > self.kept_at + SECONDS_S:
            self.kept_at = time.monotonic()
            self.record.set_attribute("seconds", self.seconds)

    def measured(self, candidate: Candidate, finished: Finished) -> None:
        """Adds the new numbers to the candidate, then ends it or sends it on."""
        was_training = isinstance(finished.task.work, TrainWork)
        numbers = dict(finished.numbers or {})
        if was_training and not math.isfinite(numbers["psnr_db"]):
            self.finish(candidate, "failed", f"PSNR is {numbers['psnr_db']}")
            return
        if was_training and self.halving and candidate.target is not None:
            candidate = self.reached_rung(candidate, numbers["psnr_db"])
            if candidate.target != self.steps:
                self.keep(self.folder_of(candidate.number) / "training.json", numbers)  # its curve so far
                self.record.update(replace(candidate, state="paused"))
                return
        candidate = self.trained(candidate, numbers) if was_training else self.timed(candidate, numbers[NETWORK])
        limit = broken(self.settings.limits, candidate.numbers)
        if limit is not None and not was_training:
            self.finish(candidate, "pruned", f"broke {limit}")
        elif was_training or not self.settings.needs("trained"):
            self.finish(candidate, "complete")
        else:
            self.record.update(candidate)
            if not self.engine.stopping:
                self.send_on(candidate)

    def reached_rung(self, candidate: Candidate, psnr_db: float) -> Candidate:
        """The candidate with what it has at its target."""
        assert self.halving is not None
        assert candidate.target is not None
        self.halving.arrive(candidate.number, candidate.target, self.rung_point(candidate, psnr_db))
        rungs = [*candidate.details.get("rungs", ()), [candidate.target, psnr_db]]
        return replace(candidate, details={**candidate.details, "rungs": rungs})

    def timed(self, candidate: Candidate, timing: dict[str, Any]) -> Candidate:
        """The candidate with its latency; the raw samples go to a file beside the record."""
        self.keep(self.folder_of(candidate.number) / "timing.json", timing)
        numbers, intervals = with_timing(candidate, timing, self.reference_ms, self.settings.reference[0])
        details = {**candidate.details, "timing_wide": timing["wide"]}
        return replace(candidate, numbers=numbers, intervals=intervals, details=details)

    def trained(self, candidate: Candidate, result: dict[str, Any]) -> Candidate:
        """The candidate with its PSNR; curve and per-image figures go to a file beside the record."""
        self.keep(self.folder_of(candidate.number) / "training.json", result)
        details = {name: result[name] for name in ("steps", "train_s", "seed", "threads", "torch", "instruction_set")}
        return replace(
            candidate,
            numbers={**candidate.numbers, "psnr_db": result["psnr_db"]},
            details={**candidate.details, **details},
        )

    def finish(self, candidate: Candidate, state: str, reason: str = "") -> None:
        """Writes the end of a candidate."""
        self.record.update(replace(candidate, state=state, reason=reason or candidate.reason))
        self.clear(candidate)
        if state == "failed":
            self.check_failures()

    def clear(self, candidate: Candidate) -> None:
        """Removes the state of a training; not before its end is recorded, or a death between would train it twice."""
        (self.folder_of(candidate.number) / "state.pt").unlink(missing_ok=True)

    # ---- when to give up

    def check_hope(self) -> None:
        """Raises Exhausted when the last proposals all broke limits, naming the tightest.

        That is the limit which most of them broke; of equals the one that the nearest of them misses by most.
        """
        searched = (c for c in reversed(self.record.candidates) if c.kind == "search")
        tail = list(takewhile(lambda c: c.state == "pruned", islice(searched, HOPELESS)))
        if len(tail) < HOPELESS:
            return
        judged = []
        for limit in self.settings.limits:
            values = [c.numbers[limit.name] for c in tail if limit.name in c.numbers]
            nearest = (min if limit.relation == "<=" else max)(values, default=limit.bound)
            missed_by = abs(nearest - limit.bound) / (abs(limit.bound) or 1.0)
            judged.append((sum(not limit.holds(value) for value in values), missed_by, limit, nearest))
        times, _, limit, nearest = max(judged, key=lambda j: j[:2])
        raise Exhausted(
            f"{HOPELESS} proposals in a row broke limits; the tightest is '{limit}' ({times} of them broke it, the "
            f"nearest has {nearest:.4g}): loosen it, or let the space hold networks that keep it",
            2,
        )

    def check_failures(self) -> None:
        """Raises Exhausted when the last candidates all failed; who reached a rung before it did has not."""
        tail = [
            c for c in self.record.candidates if c.kind == "search" and (c.rungs or c.state in ("failed", "complete"))
        ]
        tail = tail[-FAILURES:]
        if len(tail) == FAILURES and all(c.state == "failed" and not c.rungs for c in tail):
            raise Exhausted(f"{FAILURES} candidates in a row failed, the last one: {tail[-1].reason}", 1)


def died_at(folder: Path) -> str | None:
    """Where a candidate stood at two deaths of the driver, if it did not move in either life; None otherwise.

    A life that began at one step and saved a later one says nothing against the network. Called once by a new driver
    for each candidate that the last one left running.
    """
    marker, deaths_file = folder / "running", folder / "deaths.json"
    if not marker.exists():
        return None
    place = marker.read_text()
    began = re.search(r", step (\d+)$", place)
    if began and saved_step(folder / "state.pt") > int(began[1]):
        marker.unlink()
        return None
    deaths = json.loads(deaths_file.read_text()) if deaths_file.exists() else []
    marker.unlink()  # first: a death between the two lines must not count as two
    write_json(deaths_file, [*deaths, place])
    return place if place in deaths else None
