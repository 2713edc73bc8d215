"""Where a task runs on a cluster: what it needs of a node, which node has that, and which is cleared for a timing.

Ray's own scheduler keeps no room free for a large task while small ones come; so the driver places each task itself,
and only what fits now is handed to Ray.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...search.engine import Task
from .nodes import NodeFacts

EPSILON = 1e-6  # three thirds of a GPU are one


@dataclass(frozen=True)
class Need:
    """What a task takes of a node, in Ray's CPUs and GPUs. whole: a whole device, which on a CPU is the node."""

    cpus: float
    gpus: float
    whole: bool


@dataclass
class Node:
    """A node and what the driver has placed there.

    taken: what each task there takes. gpu_of: the GPU that a task has told it runs on, for Ray chooses it.
    cleared_for: the task that waits until enough of the node is free. broke: so many of its tasks in a row met an
    error that may be its own.
    """

    facts: NodeFacts
    taken: dict[str, Need] = field(default_factory=dict)
    gpu_of: dict[str, str] = field(default_factory=dict)
    cleared_for: str | None = None
    broke: int = 0

    @property
    def free_cpus(self) -> float:
        """CPUs that no task of this run has."""
        return self.facts.cpus - sum(need.cpus for need in self.taken.values())

    @property
    def free_gpus(self) -> float:
        """GPUs, and shares of them, that no task of this run has."""
        return self.facts.gpus - sum(need.gpus for need in self.taken.values())

    @property
    def whole_gpus(self) -> int:
        """GPUs on which no task of this run is; where that is not yet known of a task, it may be on one of its own."""
        taken = sum(need.gpus for need in self.taken.values() if need.gpus >= 1)
        sharing = [key for key, need in self.taken.items() if 0 < need.gpus < 1]
        told = {self.gpu_of[key] for key in sharing if key in self.gpu_of}
        return int(self.facts.gpus - taken) - len(told) - sum(key not in self.gpu_of for key in sharing)

    def fits(self, need: Need) -> bool:
        """Whether there is room for the task now."""
        if need.whole and self.whole_gpus < need.gpus:
            return False
        return need.cpus <= self.free_cpus + EPSILON and need.gpus <= self.free_gpus + EPSILON

    def forget(self, key: str) -> None:
        """Takes a task off the node."""
        self.taken.pop(key, None)
        self.gpu_of.pop(key, None)


def runs_on_gpu(task: Task) -> bool:
    """Whether the work of a task is done on a GPU; some, like the baseline, have no device of their own."""
    return str(getattr(task.work, "device", "cpu")).startswith("cuda")


def devices_of(task: Task) -> int:
    """How many devices of one node share a training; one of nearly all."""
    return int(getattr(task.work, "gpus", 1))


def need_of(task: Task, gpu_share: float, facts: NodeFacts) -> Need:
    """What a task takes of this node: a training a CPU, or its share of a GPU; a timing the whole device."""
    count = devices_of(task)
    whole = task.work.exclusive or task.alone
    if runs_on_gpu(task):
        several = whole or count > 1
        return Need(min(float(count), facts.cpus), float(count) if several else gpu_share, several)
    return Need(facts.cpus if whole else min(float(count), facts.cpus), 0.0, whole)


def slots_of(facts: NodeFacts, device: str, gpu_share: float) -> int:
    """How many trainings at a time a node holds: one a CPU, or one a share of a GPU, each with a CPU beside it."""
    if device == "cpu":
        return int(facts.cpus)
    return min(int(facts.cpus), int(facts.gpus) * math.floor(1 / gpu_share + EPSILON))


def is_of_use(row: Mapping[str, Any], device: str) -> bool:
    """Whether a node, by Ray's row of it, can do a run's trainings."""
    return row["Resources"].get("CPU", 0) >= 1 and (device == "cpu" or row["Resources"].get("GPU", 0) >= 1)


def candidates(task: Task, nodes: Iterable[Node], kind: str | None) -> list[Node]:
    """The nodes that the task may ever run on; timings go to those of one kind."""
    return [
        node
        for node in nodes
        if node.facts.cpus >= 1
        and (node.facts.gpus >= devices_of(task) or not runs_on_gpu(task))
        and (kind is None or node.facts.kind == kind or not task.work.exclusive)
    ]


def waited_for(nodes: Iterable[Node], kind: str | None) -> str:
    """What the run waits for with these nodes, in words to be added to the loss of one; empty where it can go on.

    kind: of the device that timings go to, None where nothing is timed.
    """
    kinds = {node.facts.kind for node in nodes}
    if not kinds:
        return "; none is left, the run waits for one"
    return (
        "" if kind is None or kind in kinds else f"; none is left of the kind to time on ({kind}), timings wait for one"
    )


def place(task: Task, nodes: Iterable[Node], kind: str | None, gpu_share: float) -> Node | None:
    """The node for a task, the emptiest that has room now; None where it has to wait.

    A node that is being cleared for another task takes nothing else.
    """
    fitting = [
        node
        for node in candidates(task, nodes, kind)
        if node.cleared_for in (None, task.name) and node.fits(need_of(task, gpu_share, node.facts))
    ]
    return max(fitting, key=lambda node: (node.cleared_for == task.name, node.free_gpus, node.free_cpus), default=None)


def node_to_clear(task: Task, nodes: Iterable[Node], kind: str | None) -> Node | None:
    """The node whose trainings give way to a task that needs a whole device: the one with the fewest."""
    open_ones = [node for node in candidates(task, nodes, kind) if node.cleared_for is None]
    return min(open_ones, key=lambda node: len(node.taken), default=None)


def giving_way(node: Node, need: Need) -> list[str]:
    """The trainings of a node that are to pause so that the task fits: on a CPU all, on GPUs those of one of them.

    A training that has a whole GPU is not paused: the two would only change places, and nothing stands idle meanwhile.
    """
    trainings = [key for key, taken in node.taken.items() if not taken.whole]
    if not need.gpus:
        return trainings
    groups: dict[str, list[str]] = defaultdict(list)
    for key in trainings:
        if key in node.gpu_of and 0 < node.taken[key].gpus < 1:
            groups[node.gpu_of[key]].append(key)
    fewest = sorted(groups.values(), key=len)[: int(need.gpus)]
    return [key for group in fewest for key in group]
