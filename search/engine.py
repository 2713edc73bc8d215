"""The seam between the search and whatever does its work: submit a task, take the next finished one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..proxies.work import Work


@dataclass(frozen=True)
class Task:
    """A piece of work with a name of its own; at most `minutes` long (None: no limit).

    alone: on a whole device, no training beside it; engines ask that for what ran out of memory before.
    """

    name: str
    work: Work
    minutes: float | None = None
    alone: bool = False


@dataclass(frozen=True)
class Finished:
    """A task that ended: with its numbers, with the reason why it failed, or (neither) stopped on request, saved."""

    task: Task
    numbers: Mapping[str, Any] | None = None
    failure: str = ""


class Engine(Protocol):
    """Worker processes of this machine, or a cluster.

    A work that is `exclusive` has its device for itself: nothing else runs on it meanwhile.
    """

    progress: Mapping[str, Mapping[str, Any]]  # task name -> what it last reported

    @property
    def slots(self) -> int:
        """How many trainings at a time; a cluster may grow and shrink."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for: tasks come back unfinished, saved; new ones are not begun."""
        ...

    def submit(self, task: Task) -> None:
        """Queues a task; it starts as soon as there is a worker for it."""
        ...

    def next(self, timeout_s: float) -> Finished | None:
        """The next finished task; None if none finished within the time."""
        ...

    def close(self) -> None:
        """Ends what still runs; nothing is asked of the engine after it."""
        ...


class RunFailed(RuntimeError):
    """Something without which the run cannot go on has failed, for the reason in the message."""


class Interrupted(Exception):
    """A stop was asked for before the work was done; what was running is saved."""


def complete(engine: Engine, tasks: Iterable[Task], on_wait: Callable[[], None] = lambda: None) -> Iterator[Finished]:
    """Submits the tasks and gives each as it finishes; calls `on_wait` between."""
    waiting = set()
    for task in tasks:
        engine.submit(task)
        waiting.add(task.name)
    while waiting:
        finished = engine.next(timeout_s=0.2)
        on_wait()
        if finished is not None:
            waiting.discard(finished.task.name)
            yield finished
