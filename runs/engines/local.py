"""The engine of one machine: worker processes, one task each at a time.

An exclusive task (a timing) has the machine for itself: the workers are suspended while it runs, and go on after it.
A training that ran out of memory is tried once more when no other runs, and no idle worker keeps any; one whose
worker was killed, so too, after it was tried beside others.
A worker dies with the driver, even when the driver is killed, so that no orphan trains on.
"""

import ctypes
import errno
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import torch

from ...search.engine import Finished, Task
from .outcome import DONE, FULL_DISK, NO_MEMORY, after_death, alone_in_vain, once_more_alone, outcome_of, spoils_worker

FAREWELL_S = 3.0  # so long a waiting worker may take to end by itself
GRACE_S = 7.0  # a stopping worker may take this long to end its step and save
PR_SET_PDEATHSIG = 1


def serve(connection: Connection, stop: Any, driver: int) -> None:
    """A worker's life: take a task, perform it, send back its numbers or why it failed; one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what a Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        return
    torch.set_num_threads(1)
    with suppress(OSError):
        connection.send(("ready", None))
    while True:
        try:
            task: Task = connection.recv()
            connection.send(outcome_of(task.work, lambda said: connection.send(("progress", said)), lambda: stop.value))
        except (EOFError, OSError):  # the driver is gone, and so will be this process in a moment
            return


@dataclass
class Worker:
    """One process and what it is doing."""

    process: Any
    connection: Any
    task: Task | None = None
    ready: bool = False  # from then on it dies with the driver, and may be suspended
    worked_s: float = 0.0  # time on the task, suspensions not counted
    looked: float = field(default_factory=time.monotonic)


class LocalEngine:
    """Implements `search.engine.Engine` with `slots` worker processes, and one more for exclusive tasks."""

    def __init__(self, slots: int, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        self.slots = slots
        self._stopping = False
        self._asked_to_stop = asked_to_stop
        self.progress: Mapping[str, Mapping[str, Any]] = {}
        self._context = multiprocessing.get_context("spawn")  # a forked child would inherit the run's lock
        self._stop = self._context.RawValue(ctypes.c_bool, False)  # no lock that a killed worker could keep
        self._queue: deque[Task] = deque()
        self._workers: list[Worker] = []
        self._ready: deque[Finished] = deque()
        self._deaths: Counter[str] = Counter()  # of workers, by the name of what they were doing
        self._suspended = False
        self._stop_by: float | None = None

    # ---- the seam

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for; asks anew, so that a driver that waits for no task notices too."""
        if not self._stopping and self._asked_to_stop():
            self._begin_to_stop()
        return self._stopping

    def submit(self, task: Task) -> None:
        """Queues a task; it starts as soon as there is a worker for it. While stopping it comes back unfinished."""
        if self.stopping:
            self._ready.append(Finished(task))
        else:
            del self._deaths[task.name]
            self._queue.append(task)
            self._dispatch()

    def next(self, timeout_s: float) -> Finished | None:
        """The next finished task; None if none finished within the time."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            if self.stopping and self._ready:
                break
            self._dispatch()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._listen(min(left, 0.1))
            self._watch()
        return self._ready.popleft()

    def close(self) -> None:
        """Ends all workers: those that work at once, those that wait by hanging up, so that they clear up."""
        for worker in self._workers:
            if worker.task is None and worker.ready:
                worker.connection.close()
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(FAREWELL_S)
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    def _begin_to_stop(self) -> None:
        """Asks every task to save and end; `next` then gives them back, unfinished."""
        self._stopping = True
        self._stop.value = True
        self._stop_by = time.monotonic() + GRACE_S
        timing = self._exclusive()
        if timing is not None:  # beside the others, which go on now to save, its figures would be worth nothing
            self._bury(timing, "")
        self._resume()
        while self._queue:
            self._ready.append(Finished(self._queue.popleft()))

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _exclusive(self) -> Worker | None:
        return next((worker for worker in self._busy() if worker.task and worker.task.work.exclusive), None)

    def _dispatch(self) -> None:
        """Gives queued tasks to idle workers; an exclusive one first suspends all others."""
        while self._queue and self._exclusive() is None:
            exclusive = next((task for task in self._queue if task.work.exclusive), None)
            if exclusive is not None and not all(worker.ready for worker in self._busy()):
                return
            task = exclusive or self._queue[0]
            if (exclusive is None or task.alone) and not self._has_room(task):
                return
            if task.alone:
                self._dismiss_idle()
            self._queue.remove(task)
            worker = self._hand_over(task)
            if exclusive is not None:
                self._suspend(all_but=worker)

    def _has_room(self, task: Task) -> bool:
        """Whether another training may begin: there is a slot, and nobody asks to be alone."""
        busy = self._busy()
        alone = task.alone or any(worker.task and worker.task.alone for worker in busy)
        return not busy if alone else len(busy) < self.slots

    def _dismiss_idle(self) -> None:
        """Ends the workers that wait: what they keep of a GPU's memory is wanted now."""
        for worker in [worker for worker in self._workers if worker.task is None]:
            self._bury(worker, "")

    def _hand_over(self, task: Task) -> Worker:
        """Sends the task to an idle worker; one that has died in its sleep is replaced."""
        while True:
            idle = (worker for worker in self._workers if worker.task is None and worker.process.is_alive())
            worker = next(idle, None) or self._hire()
            try:
                worker.connection.send(task)
            except OSError:
                self._bury(worker, "")
                continue
            worker.task, worker.worked_s, worker.looked = task, 0.0, time.monotonic()
            return worker

    def _hire(self) -> Worker:
        ours, theirs = Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._stop, os.getpid()), daemon=True)
        # A Ctrl-C goes to the whole process group: until `serve` ignores it, it would kill the worker in its cradle.
        resource_tracker.ensure_running()  # would be started below, and lifts the block
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._workers.append(Worker(process, ours))
        return self._workers[-1]

    def _suspend(self, all_but: Worker) -> None:
        for worker in self._busy():
            if worker is not all_but and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGSTOP)
        self._suspended = True

    def _resume(self) -> None:
        for worker in self._workers:
            if worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGCONT)
        self._suspended = False

    def _listen(self, timeout_s: float) -> None:
        """Takes what the workers have to say, and notices those that have died."""
        by_source: dict[Any, Worker] = {}
        for worker in self._workers:
            by_source[worker.process.sentinel] = worker
            # A suspended worker may stand in the middle of a message: waiting for its rest would be waiting for ever.
            if not self._suspended or (worker.task is not None and worker.task.work.exclusive):
                by_source[worker.connection] = worker
        if not by_source:
            time.sleep(timeout_s)
            return
        for worker in {id(by_source[s]): by_source[s] for s in wait(list(by_source), timeout_s)}.values():
            while True:
                try:
                    if not worker.connection.poll():
                        break
                    said = worker.connection.recv()
                except (EOFError, OSError):
                    self._mourn(worker)
                    break
                self._take(worker, *said)
                if worker not in self._workers:
                    break

    def _take(self, worker: Worker, kind: str, content: Any) -> None:
        if kind == "ready":
            worker.ready = True
        if kind == "ready" or worker.task is None:
            return
        if kind == "progress":
            self.progress = {**self.progress, worker.task.name: content}
            return
        task, worker.task = worker.task, None
        self._forget(task)
        if spoils_worker(kind, content):
            self._bury(worker, "")
        if kind == FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), content)
        if kind == NO_MEMORY:
            self._again_or_fail(task, content)
        else:
            self._ready.append(Finished(task, content) if kind == DONE else Finished(task, failure=content))
        if task.work.exclusive:
            self._resume()

    def _again_or_fail(self, task: Task, why: str) -> None:
        """Of a task that ran out of memory: once more alone, next of all."""
        self._try_again(task, once_more_alone(task), why)

    def _try_again(self, task: Task, again: Task | None, why: str) -> None:
        if again is None:
            self._ready.append(Finished(task, failure=alone_in_vain(task, why)))
        elif self._stopping:
            self._ready.append(Finished(task))
        else:
            self._queue.appendleft(again)

    def _forget(self, task: Task) -> None:
        self.progress = {name: said for name, said in self.progress.items() if name != task.name}

    def _watch(self) -> None:
        """Ends tasks that exceed their time, and, while stopping, workers that do not."""
        now = time.monotonic()
        for worker in self._busy():
            task = worker.task
            if task is None:
                continue
            if not (self._suspended and not task.work.exclusive):
                worker.worked_s += now - worker.looked
            worker.looked = now
            if task.minutes is not None and worker.worked_s > 60 * task.minutes:
                self._bury(worker, f"took longer than {task.minutes:g} minutes")
            elif self._stop_by is not None and now > self._stop_by:
                self._bury(worker, "")

    def _mourn(self, worker: Worker) -> None:
        """Of a worker that died by itself: a SIGKILL is what the system does to those that take too much memory.

        Its task is tried again, next of all; somebody else may have been meant.
        """
        cause, task = _cause_of_death(worker), worker.task
        if task is None or self._stopping or signal.SIGKILL.name not in cause:
            self._bury(worker, "" if self._stopping else cause)
            return
        worker.task = None
        self._bury(worker, "")
        self._forget(task)
        self._deaths[task.name] += 1
        self._try_again(task, after_death(task, self._deaths[task.name]), cause)
        if task.work.exclusive:
            self._resume()

    def _bury(self, worker: Worker, reason: str) -> None:
        """Ends a worker and its task: failed for the reason, or merely unfinished where there is none."""
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        task = worker.task
        if task is not None:
            self._forget(task)
            self._ready.append(Finished(task, failure=reason))
            if task.work.exclusive:
                self._resume()


def _cause_of_death(worker: Worker) -> str:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"the worker was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the worker died with exit code {code}"
