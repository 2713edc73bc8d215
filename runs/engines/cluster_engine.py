"""The engine of a Ray cluster: which task runs on which node and when, and what becomes of what is lost.

The driver alone knows the study; a task is one rung or one timing. A worker or a node that is lost costs what was done
since the last save, and the task is begun again elsewhere. A timing has a whole device: trainings that are in its way
save, come back, and go on after it. A run expects its nodes for itself: beside others its tasks wait in Ray's queue.
"""

import errno
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...search.engine import Finished, RunFailed, Task
from ...spaces import InputError
from .outcome import (
    DEATHS,
    DIED,
    DONE,
    FULL_DISK,
    NO_MEMORY,
    NODE_LOST,
    after_death,
    alone_in_vain,
    may_be_the_nodes,
    once_more_alone,
)
from .placement import (
    Node,
    candidates,
    devices_of,
    giving_way,
    is_of_use,
    need_of,
    node_to_clear,
    place,
    slots_of,
    waited_for,
)
from .ray_engine import RayTasks, alive, answered

if TYPE_CHECKING:
    from .cluster import Cluster

READ_S = 0.25  # what the tasks said is read this often
NODES_S = 2.0  # and nodes that came or went are looked for
SICK = 3  # a node where so many tasks in a row met errors that may be its own gets no more
GRACE_S = 7.0  # a stopping worker may take this long to end its step and save


@dataclass
class Going:
    """A task on its way; `key` is the name of one attempt at it."""

    task: Task
    key: str = ""
    node: Node | None = None
    began: float | None = None  # when its worker truly began, as far as the driver has heard
    spent_s: float = 0.0  # in earlier attempts that saved and came back
    died_on: list[str] = field(default_factory=list)  # the nodes where a worker died of it
    broke_on: list[str] = field(default_factory=list)  # the nodes where it met an error that may be theirs


class ClusterEngine:
    """Implements `search.engine.Engine` on the nodes of a cluster, of which `cluster` asks those that join later."""

    def __init__(
        self,
        cluster: "Cluster",
        device: str,
        gpu_share: float,
        most: int | None,
        asked_to_stop: Callable[[], bool] = lambda: False,
        note: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._cluster, self._device, self._gpu_share, self._most = cluster, device, gpu_share, most
        self._asked_to_stop, self._note = asked_to_stop, note
        self.progress: Mapping[str, Mapping[str, Any]] = {}
        self._nodes = {facts.id: Node(facts) for facts in cluster.nodes}
        self._joining: dict[str, tuple[Mapping[str, Any], Any]] = {}
        self._refused: set[str] = set()
        self._queue: deque[Going] = deque()
        self._whole: deque[Going] = deque()  # those that need a whole device
        self._running: dict[str, Going] = {}
        self._pausing: set[str] = set()
        self._ready: deque[Finished] = deque()
        self._attempts = itertools.count()
        self._stopping, self._stop_by = False, None
        self._tasks = RayTasks()
        self._read_at = self._followed_at = time.monotonic()

    # ---- the seam

    @property
    def slots(self) -> int:
        """How many trainings at a time: what the nodes hold now, at most as many as were asked for."""
        held = sum(slots_of(node.facts, self._device, self._gpu_share) for node in self._nodes.values())
        return held if self._most is None else min(held, self._most)

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for; asks anew, so that a driver that waits for no task notices too."""
        if not self._stopping and self._asked_to_stop():
            self._begin_to_stop()
        return self._stopping

    def submit(self, task: Task) -> None:
        """Queues a task; it starts as soon as a node has room. While stopping it comes back unfinished."""
        if self.stopping:
            self._ready.append(Finished(task))
        else:
            self._enqueue(Going(task))
            self._dispatch()

    def next(self, timeout_s: float) -> Finished | None:
        """The next finished task; None if none finished within the time."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            if self.stopping and self._ready:
                break
            self._follow_nodes()
            self._dispatch()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for key, outcome in self._tasks.ended(min(left, 0.1)):
                self._take(self._running[key], *outcome)
            if time.monotonic() - self._read_at > READ_S:
                self._read()
            self._watch()
        return self._ready.popleft()

    def close(self) -> None:
        """Ends all tasks at once."""
        self._tasks.close()

    # ---- inside

    def _enqueue(self, going: Going, *, first: bool = False) -> None:
        task = going.task
        whole = task.work.exclusive or task.alone or devices_of(task) > 1
        queue = self._whole if whole else self._queue
        (queue.appendleft if first else queue.append)(going)

    def _begin_to_stop(self) -> None:
        """Asks every task to save and end; `next` then gives them back, unfinished."""
        self._stopping, self._stop_by = True, time.monotonic() + GRACE_S
        for going in (*self._whole, *self._queue):
            self._ready.append(Finished(going.task))
        self._whole.clear()
        self._queue.clear()
        for going in [going for going in self._running.values() if going.task.work.exclusive]:
            self._cancel(going, "")  # timings have nothing to save
        self._read()

    def _dispatch(self) -> None:
        """Hands to Ray what a node has room for; where a whole device is needed, trainings give way."""
        kind, share = self._cluster.kind, self._gpu_share
        for going in list(self._whole):
            nodes = self._open_to(going)
            node = place(going.task, nodes, kind, share)
            if node is not None:
                self._whole.remove(going)
                self._start(going, node)
                continue
            cleared = next((n for n in nodes if n.cleared_for == going.task.name), None)
            node = cleared or node_to_clear(going.task, nodes, kind)
            if node is not None:
                node.cleared_for = going.task.name
                self._pausing.update(giving_way(node, need_of(going.task, share, node.facts)))
        for going in list(self._queue):
            if sum(not g.task.work.exclusive for g in self._running.values()) >= self.slots:
                return
            node = place(going.task, self._open_to(going), kind, share)
            if node is not None:
                self._queue.remove(going)
                self._start(going, node)
            elif not going.broke_on:  # nor is there room for any behind it; one that may not go anywhere keeps none up
                return

    def _open_to(self, going: Going) -> list[Node]:
        """The nodes that a task may go to: not those where it met an error that may be theirs, if there are others."""
        nodes = list(self._nodes.values())
        if not going.broke_on:
            return nodes
        others = [node for node in nodes if node.facts.id not in going.broke_on]
        return others if candidates(going.task, others, self._cluster.kind) else nodes

    def _start(self, going: Going, node: Node) -> None:
        task, need = going.task, need_of(going.task, self._gpu_share, node.facts)
        going.key, going.node, going.began = f"{task.name} #{next(self._attempts)}", node, None
        node.taken[going.key] = need
        for other in self._nodes.values():  # it may have found room elsewhere than where it was being made
            if other.cleared_for == task.name:
                other.cleared_for = None
        self._tasks.start(going.key, task.work, need, node.facts.id)
        self._running[going.key] = going

    def _take(self, going: Going, kind: str, content: Any) -> None:
        """What becomes of a task that has ended, in whatever way. A node's loss says nothing against it."""
        paused = kind == DONE and content is None and going.key in self._pausing
        spent_s = going.spent_s
        self._release(going)
        if not paused:  # what was lost is not held against it
            going.spent_s = spent_s
        if kind in (DIED, NODE_LOST):
            self._followed_at = 0.0
        if kind == FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), content)
        if kind in (DIED, NODE_LOST) and self._stopping:
            self._ready.append(Finished(going.task))
        elif kind == NODE_LOST or (paused and not self._stopping):
            self._enqueue(going, first=True)
        elif kind == DIED:
            self._died(going)
        elif kind == NO_MEMORY:
            self._again_or_fail(going, str(content))
        elif may_be_the_nodes(kind, content):
            self._broke(going, str(content))
        else:
            if going.node is not None:
                going.node.broke = 0
            self._ready.append(
                Finished(going.task, content) if kind == DONE else Finished(going.task, failure=str(content))
            )

    def _died(self, going: Going) -> None:
        """Of a task whose worker died: again, or failed.

        A node that was lost took its workers with it, so deaths there do not count.
        """
        assert going.node is not None
        going.died_on.append(going.node.facts.id)
        here = alive()
        deaths = sum(node in here for node in going.died_on)
        again = after_death(going.task, deaths)
        if again is None:
            why = f"its worker died {deaths} times (out of memory?)"
            self._ready.append(Finished(going.task, failure=alone_in_vain(going.task, why)))
            return
        going.task = again
        self._enqueue(going, first=True)

    def _broke(self, going: Going, why: str) -> None:
        """Of a task that met an error which may be its node's: again, elsewhere where it can, or failed.

        A node that spoils one task after another would go through a whole search in a night: it gets no more, unless
        there is no other, or none of the kind to time on.
        """
        node, kind = going.node, self._cluster.kind
        assert node is not None
        node.broke += node.facts.id not in going.broke_on  # what fails there again may be to blame itself
        going.broke_on.append(node.facts.id)
        others = [other.facts.kind for other in self._nodes.values() if other is not node]
        needed = not others or (node.facts.kind == kind and kind not in others)
        if node.broke >= SICK and not needed and self._nodes.pop(node.facts.id, None) is not None:
            self._refused.add(node.facts.id)
            waits = waited_for(self._nodes.values(), self._cluster.kind)
            self._note(f"node {node.facts.host} gets no more tasks, {SICK} in a row failed there: {why}{waits}")
        if len(going.broke_on) >= DEATHS:
            self._ready.append(Finished(going.task, failure=why))
        elif self._stopping:
            self._ready.append(Finished(going.task))
        else:
            self._enqueue(going, first=True)

    def _again_or_fail(self, going: Going, why: str) -> None:
        """Of a task that ran out of memory: once more on a whole device."""
        again = once_more_alone(going.task)
        if again is None:
            self._ready.append(Finished(going.task, failure=alone_in_vain(going.task, why)))
        elif self._stopping:
            self._ready.append(Finished(going.task))
        else:
            going.task = again
            self._enqueue(going, first=True)

    def _release(self, going: Going) -> None:
        """Takes a task off its node; the time it has spent counts on where it comes back unfinished."""
        if going.node is not None:
            going.node.forget(going.key)
        if going.began is not None:
            going.spent_s += time.monotonic() - going.began
        del self._running[going.key]
        self._pausing.discard(going.key)
        self.progress = {name: said for name, said in self.progress.items() if name != going.task.name}

    def _cancel(self, going: Going, failure: str) -> None:
        """Ends a task by force: failed for the reason, or merely unfinished where there is none."""
        self._release(going)
        self._tasks.cancel(going.key)
        self._ready.append(Finished(going.task, failure=failure))

    def _read(self) -> None:
        """Tells the tasks which of them are to stop, and takes what they said."""
        self._read_at = now = time.monotonic()
        for key, word in self._tasks.exchange(None if self._stopping else frozenset(self._pausing)).items():
            going = self._running.get(key)
            if going is None or going.node is None:
                continue
            if going.began is None:
                going.began = now
            if word["gpu"] is not None:
                going.node.gpu_of[key] = word["gpu"]
            if word["said"]:
                self.progress = {**self.progress, going.task.name: word["said"]}

    def _watch(self) -> None:
        """Ends tasks that exceed their time, and, while stopping, those that do not end by themselves."""
        now = time.monotonic()
        for going in list(self._running.values()):
            spent_s = going.spent_s + (now - going.began if going.began is not None else 0.0)
            minutes = going.task.minutes
            if self._stop_by is not None and now > self._stop_by:
                self._cancel(going, "")
            elif minutes is not None and spent_s > 60 * minutes:
                self._cancel(going, f"took longer than {minutes:g} minutes")

    def _follow_nodes(self) -> None:
        """Lets go of nodes that left; asks those that came, and takes them in if they can work."""
        for id_, (row, ref) in list(self._joining.items()):
            if answered([ref], 0):
                del self._joining[id_]
                try:
                    self._nodes[id_] = Node(self._cluster.judged(row, ref))
                    self._note(f"node {row['NodeManagerHostname']} has joined")
                except InputError as error:
                    self._refused.add(id_)
                    self._note(f"not taken in: {error}")
        if time.monotonic() - self._followed_at < NODES_S:
            return
        self._followed_at = time.monotonic()
        rows = alive()
        if self._tasks.node not in rows:
            raise RunFailed(
                "the Ray node that this run is driven from is gone; start it again, then run the same command to go on"
            )
        for id_ in [id_ for id_ in self._nodes if id_ not in rows]:
            host = self._nodes.pop(id_).facts.host
            self._note(f"node {host} is gone{waited_for(self._nodes.values(), self._cluster.kind)}")
        for id_, row in rows.items():
            known = id_ in self._nodes or id_ in self._joining or id_ in self._refused
            if not known and is_of_use(row, self._device):
                self._joining[id_] = row, self._cluster.ask(row)
