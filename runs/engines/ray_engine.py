"""The one door to Ray: connects with a cluster, asks its nodes what they have, and runs tasks on the node named.

Which task runs where and when, and what becomes of one whose worker is gone, is decided in `cluster_engine.py`. Nothing
is uploaded: the nodes have the package installed.
"""

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
import torch
from ray import cloudpickle, exceptions
from ray._private import worker as ray_worker
from ray._private.services import canonicalize_bootstrap_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...proxies.device import training_on
from ...proxies.work import Work
from ...search.engine import RunFailed
from ...spaces import InputError
from . import probe
from .outcome import DIED, FAILED, NO_MEMORY, NODE_LOST, Outcome, outcome_of
from .placement import Need

cloudpickle.register_pickle_by_value(probe)

POLL_S = 0.5  # a worker asks this often whether to stop, and says how far it is
SILENCE_S = 3.0  # a work that has not looked by then says that it has begun
LOST_NODE = (
    exceptions.NodeDiedError,
    exceptions.TaskUnschedulableError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)
Words = Mapping[str, Mapping[str, Any]]  # what tasks said, by key: "gpu", and "said", their progress


# ---- in a worker


@ray.remote(num_cpus=0, max_restarts=-1)
class Board:
    """Where workers and driver leave word for each other, so that neither waits for the other."""

    def __init__(self) -> None:
        self.said: dict[str, Mapping[str, Any]] = {}
        self.stopping: frozenset[str] | None = frozenset()  # None: all

    def look(self, key: str, said: Mapping[str, Any]) -> bool:
        """Of a worker: what its task last reported; whether it is to save and stop."""
        self.said[key] = said
        return self.stopping is None or key in self.stopping

    def exchange(self, stopping: frozenset[str] | None) -> dict[str, Mapping[str, Any]]:
        """Of the driver: which tasks are to stop; what the workers said since it last came."""
        self.stopping = stopping
        said, self.said = self.said, {}
        return said


class Line:
    """A worker's line to the board. It never waits: the answer to one look is read at a later one."""

    def __init__(self, board: Any, key: str, gpu: str | None) -> None:
        self.board, self.key, self.gpu = board, key, gpu
        self.said: dict[str, Any] = {}
        self.stop = self.asked = False
        # Where many tasks begin together they do not all look together, while the driver hands out the rest.
        self.asked_at = time.monotonic() - POLL_S * random.random()
        self.answer: Any = None

    def _words(self) -> dict[str, Any]:
        return {"gpu": self.gpu, "said": self.said}

    def report(self, said: dict[str, Any]) -> None:
        """Notes how far the task is; the next look tells it."""
        self.said = said

    def look(self) -> bool:
        """Reads an answer that has come, and asks anew when it is time; says whether it asked."""
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            with suppress(exceptions.RayError):  # the board is being restarted
                self.stop = bool(ray.get(self.answer))
            self.answer = None
        due = time.monotonic() - self.asked_at > POLL_S
        if due and self.answer is None:
            self.ask()
        return bool(due)

    def ask_if_silent(self) -> None:
        """Looks now if it never has."""
        if not self.asked:
            self.ask()

    def ask(self) -> None:
        """Looks now."""
        self.asked, self.asked_at = True, time.monotonic()
        self.answer = self.board.look.remote(self.key, self._words())


def perform(work: Work, key: str, board: Any) -> Outcome:
    """Performs a work in a worker, with one thread; a training lets timings of other processes pass it by."""
    torch.set_num_threads(1)
    gpus = ray.get_gpu_ids()
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all of them to a task that asked for none
    line = Line(board, key, str(gpus[0]) if gpus else None)
    if work.exclusive:  # takes the device's lock itself, and hears nothing meanwhile
        line.ask()
        return outcome_of(work, line.report, lambda: False)
    devices = [f"cuda:{i}" for i in range(len(gpus))] if gpus and torch.cuda.is_available() else ["cpu"]
    with ExitStack() as stack:
        give_ways = [stack.enter_context(training_on(device)) for device in devices]

        def stop() -> bool:
            if line.look():
                for give_way in give_ways:
                    give_way()
            return line.stop

        def report(said: dict[str, Any]) -> None:
            line.report(said)
            stop()

        # A work looks between its steps; one that hangs before its first must be known to have begun, or no limit of
        # time would reach it. Most speak earlier, and a short one is spared the message.
        first_word = threading.Timer(SILENCE_S, line.ask_if_silent)
        first_word.daemon = True
        first_word.start()
        stack.callback(first_word.cancel)
        return outcome_of(work, report, stop)


perform_on_cpu = ray.remote(max_retries=0)(perform)
# In a worker of its own: CUDA looks at CUDA_VISIBLE_DEVICES once in a process, so that one which is used again would
# work on the GPU of its first task; and what it keeps of that GPU's memory, others want.
perform_on_gpu = ray.remote(max_retries=0, max_calls=1)(perform)


# ---- on the driver


@contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[None]:
    """Connects this process with a Ray cluster: `local` starts one of this machine, with so many `cpus` or its own.

    Else `address` is HOST:PORT of one that answers (`known_address`). InputError for one of another version.
    """
    options: dict[str, Any] = {"address": address, "logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        cpus = cpus or len(os.sched_getaffinity(0))
        options |= {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "object_store_memory": 2**28}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # of tasks that were ended by force: nobody asks for their results
    # Of a node that dies Ray prints the last lines of its log among our own; the engine says that it is gone.
    ray_worker.print_to_stdstream = lambda *_, **__: None
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError, exceptions.RayError) as error:
        first = first_line(error)
        if address == "local":
            raise RunFailed(f"Ray could not be started here: {first}") from None
        raise InputError(f"--ray {address}: {first}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    try:
        yield
    except exceptions.RayError as error:
        raise RunFailed(f"the Ray cluster failed: {type(error).__name__}: {first_line(error)}") from error
    finally:
        ray.shutdown()


def known_address(address: str) -> str | None:
    """HOST:PORT of what the user calls `auto` or by its address; None where nothing is running."""
    return canonicalize_bootstrap_address(address)


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [""])[0]


def alive() -> dict[str, dict[str, Any]]:
    """Ray's rows of the nodes that live, by their names."""
    return {row["NodeID"]: row for row in ray.nodes() if row["Alive"]}


def ask(node: str, wanted: Mapping[str, str], asked: Mapping[str, Any]) -> Any:
    """Asks a node what it has (`probe.look`); gives a reference. Where it looks at GPUs its worker ends after it."""
    there, calls = NodeAffinitySchedulingStrategy(node, soft=False), 1 if asked["device"] == "cuda" else 0
    look = ray.remote(num_cpus=0, max_calls=calls, max_retries=1)(probe.look)
    return look.options(scheduling_strategy=there).remote(dict(wanted), dict(asked))


def answered(refs: list[Any], timeout_s: float | None) -> list[Any]:
    """Those of the references whose answers came within the time; None waits for all."""
    return ray.wait(refs, num_returns=len(refs), timeout=timeout_s)[0]


def answer_of(ref: Any) -> dict[str, Any]:
    """The answer of a node, which has come; `problem` where it could give none."""
    try:
        return ray.get(ref)
    except exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [""]
        return {"problem": f"could not answer: {type(error).__name__}: {lines[-1]}"}


class RayTasks:
    """The tasks of one driver that run now, by a key of its choice, and the board that it shares with them."""

    def __init__(self) -> None:
        self._refs: dict[str, Any] = {}
        self.node: str = ray.get_runtime_context().get_node_id()  # where the driver is
        here = NodeAffinitySchedulingStrategy(self.node, soft=True)
        self._board: Any = Board.options(scheduling_strategy=here).remote()
        self._answer: Any = None  # of the board

    def start(self, key: str, work: Work, need: Need, node: str) -> None:
        """Begins a work on a node as soon as Ray, too, has room for it there."""
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "scheduling_strategy": there, "name": key}
        performed = perform_on_gpu if need.gpus else perform_on_cpu
        self._refs[key] = performed.options(**options).remote(work, key, self._board)

    def ended(self, timeout_s: float) -> list[tuple[str, Outcome]]:
        """What ended within the time, at most until the first does, and how."""
        if not self._refs:
            time.sleep(timeout_s)
            return []
        keys = {ref: key for key, ref in self._refs.items()}
        refs, _ = ray.wait(list(keys), timeout=timeout_s)
        if refs:
            refs, _ = ray.wait(list(keys), num_returns=len(keys), timeout=0)
        for ref in refs:
            del self._refs[keys[ref]]
        return [(keys[ref], result_of(ref)) for ref in refs]

    def cancel(self, key: str) -> None:
        """Ends a task by force; nothing more is heard of it."""
        with suppress(exceptions.RayError, ValueError):
            ray.cancel(self._refs.pop(key), force=True)

    def exchange(self, stopping: frozenset[str] | None) -> Words:
        """Tells the board which tasks are to stop (None: all), and gives what is new there; never waits for it."""
        words: Words = {}
        if self._answer is not None:
            if not ray.wait([self._answer], timeout=0)[0]:
                return words
            with suppress(exceptions.RayActorError):  # it is being restarted
                words = ray.get(self._answer)
        self._answer = self._board.exchange.remote(stopping)
        return words

    def close(self) -> None:
        """Ends all tasks, and the board."""
        for key in list(self._refs):
            self.cancel(key)
        ray.kill(self._board)


def result_of(ref: Any) -> Outcome:
    """How a task ended: by itself, or because its worker or its node did."""
    try:
        return ray.get(ref)
    except exceptions.OutOfMemoryError:
        return NO_MEMORY, "killed by Ray's memory monitor"
    except LOST_NODE as error:
        return NODE_LOST, first_line(error)
    except exceptions.WorkerCrashedError:
        return DIED, "its worker died"
    except exceptions.RayTaskError as error:
        return FAILED, str(error).strip().splitlines()[-1]
