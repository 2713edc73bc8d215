"""What is to be pruned, as plain jobs: one for each child and each control, with a key that tells it again."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..pruning.nni_masks import PRUNERS
from ..pruning.settings import Pruning
from ..search.candidate import Candidate
from ..search.objectives import OBJECTIVES, matrix
from ..spaces.plan import Plan
from .recipe_pruning import PruningPart

UNCUT, SCRATCH, RANDOM, UNIFORM = "uncut", "scratch", "random", "uniform"


@dataclass(frozen=True)
class Recovery:
    """How a child is trained on: steps (None: a share of its parent's), rate and teacher, as in the recipe."""

    steps: int | None = None
    share: float = 0.5
    rate: float = 0.5
    teacher: float = 0.0

    def steps_after(self, parent_steps: int) -> int:
        """The steps for the child of a parent that was trained so long."""
        return self.steps or max(1, round(self.share * parent_steps))


@dataclass(frozen=True)
class Job:
    """One child to make, or one control.

    control: of `CONTROLS`, or "" for the child itself. beside: the key of the child that a control belongs to.
    plan: one that was decided elsewhere, in place of the pruning's own decision.
    """

    parent: int
    pruning: Pruning
    recovery: Recovery
    repeat: int = 0
    control: str = ""
    beside: str = ""
    plan: Plan | None = None

    @property
    def key(self) -> str:
        """Tells the job again in a later life of the run; also the name of its folder."""
        said = [self.pruning.to_json(), vars(self.recovery), self.repeat, self.control, self.plan and self.plan.hash]
        return f"{self.parent:05d}-{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]}"

    @property
    def label(self) -> str:
        """The job in a few words."""
        budget = ", ".join(f"{name} {share:g}" for name, share in self.pruning.budget.items())
        how = "a given plan" if self.plan is not None else f"{self.strategy} to {budget}"
        repeat = f", repeat {self.repeat}" if self.repeat else ""
        return f"{how}{f' ({self.control})' if self.control else ''}{repeat}"

    @property
    def strategy(self) -> str:
        """How it is decided, in a word: by a strategy, by nni, or elsewhere."""
        if self.plan is not None:
            return "given"
        return "nni" if self.pruning.criterion in PRUNERS else self.pruning.strategy

    def details(self) -> dict[str, Any]:
        """What the record says of it before anything is done."""
        return {
            "job": self.key,
            "strategy": self.strategy,
            "criterion": self.pruning.criterion,
            "schedule": self.pruning.schedule,
            "budget": {} if self.plan is not None else dict(self.pruning.budget),
            "repeat": self.repeat,
            "control": self.control,
            "teacher": self.recovery.teacher,
            "rate": self.recovery.rate,
            "path": [],
            "kept": [],
        }


def jobs(part: PruningPart, parents: Sequence[int], plan: Plan | None = None) -> Iterator[Job]:
    """All children and controls that a recipe's part asks for, of these parents.

    A control that is alike for several children (all weights drawn, nothing cut, evenly cut) is made once.
    """
    recovery = Recovery(part.recovery_steps, part.recovery_share, part.recovery_rate, part.teacher)
    seen: set[str] = set()
    for job in _all(part, parents, recovery, plan):
        if job.key not in seen:
            seen.add(job.key)
            yield job


def _all(part: PruningPart, parents: Sequence[int], recovery: Recovery, plan: Plan | None) -> Iterator[Job]:
    budgets = part.budgets if plan is None else part.budgets[:1]
    for parent in parents:
        for repeat in range(part.repeats):
            for budget in budgets:
                for strategy in part.strategies if plan is None else part.strategies[:1]:
                    child = Job(parent, part.pruning(strategy, budget), recovery, repeat, plan=plan)
                    yield child
                    yield from _controls(child, part)


def _controls(child: Job, part: PruningPart) -> Iterator[Job]:
    for control in part.controls:
        job = replace(child, control=control, beside=child.key)
        if control == RANDOM and child.plan is None:
            yield replace(job, pruning=replace(child.pruning, criterion="random"))
        elif control == UNIFORM and child.plan is None:
            yield replace(job, pruning=replace(child.pruning, strategy="uniform"))
        elif control == UNCUT:
            # Alike for every budget and strategy of the one-shot schedule; the first child's steps are taken.
            first = part.pruning(part.strategies[0], part.budgets[0])
            yield replace(job, pruning=first)
        elif control == SCRATCH:
            yield job


def furthest(
    front: Sequence[Candidate], winner: int | None, members: int | None, objectives: Sequence[str]
) -> list[int]:
    """Members of a front: the winner first, then each time the one that lies furthest from those chosen, by cost."""
    if not front:
        return []
    if members is None or members >= len(front):
        return [c.number for c in front]
    costs = [name for name in objectives if OBJECTIVES[name].direction == "min"] or list(objectives)
    along = {c.number: float(matrix([c], costs[:1])[0][0]) for c in front}
    chosen = [winner if winner in along else front[0].number]
    while len(chosen) < members:
        left = [number for number in along if number not in chosen]
        chosen.append(max(left, key=lambda number: min(abs(along[number] - along[other]) for other in chosen)))
    return [number for number in chosen if number is not None]
