"""A Ray cluster as a place to work: connected, and its nodes asked whether they can, before anything is written."""

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...proxies.work import Data
from ...proxies.writing import writer
from ...spaces import InputError
from .cluster_engine import ClusterEngine
from .nodes import NodeFacts, described, hashes, kind_to_time_on, problem_of
from .placement import is_of_use, slots_of
from .probe import installed
from .ray_engine import alive, answer_of, answered, ask, connected, first_line, known_address

REACH_S = 5.0  # to reach a cluster's address
ANSWER_S = 120.0  # a node may take this long to say what it has: it starts a worker and imports torch


@contextmanager
def cluster(
    address: str, note: Callable[[str], None] = lambda words: None, cpus: int | None = None
) -> Iterator["Cluster"]:
    """A connected cluster: `local` (of this machine, started here), `auto` (the one that runs), or HOST:PORT.

    note: is told of nodes that come and go. cpus: what `local` counts as its own, by default what it has.
    """
    with connected("local" if address == "local" else reached(address), cpus):
        found = Cluster(address, note)
        try:
            yield found
        finally:
            found.take_token_away()


def reached(address: str) -> str:
    """HOST:PORT of a cluster that answers, which Ray itself would try for minutes; InputError where none does."""
    if "://" in address:
        raise InputError(f"--ray {address}: must be HOST:PORT of the head node, and the command run on a node of it")
    try:
        found = known_address(address)
    except ConnectionError:
        found = None
    except (ValueError, OSError) as error:
        raise InputError(f"--ray {address}: {first_line(error)}; known: auto, local, HOST:PORT") from None
    if found is None:
        raise InputError(
            f"--ray {address}: no Ray cluster is running here; start one with `ray start --head`, or use --ray local"
        )
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--ray {address}: no Ray cluster answers at {found} ({why})") from None
    return found


class Cluster:
    """A connected cluster as a `workplace.Workplace`."""

    def __init__(self, address: str, note: Callable[[str], None]) -> None:
        self.address, self.note = address, note
        self.wanted: dict[str, str] = {}  # what must be installed on a node
        self.nodes: list[NodeFacts] = []
        self.kind: str | None = None  # of the device that timings go to; None where nothing is timed
        self.asked: dict[str, Any] = {}
        self.hashes: dict[str, str] = {}
        self.folder = Path()  # where the token is left
        self.token: Path | None = None
        self.waited_for = 0  # nodes that are still to answer, for whom the token lies there

    def path(self, path: Path) -> Path:
        """A path as the nodes are told it."""
        return path.absolute()

    def device(self, name: str) -> str:
        """`cpu` or `cuda:0`, which in a task is the GPU that it was given; InputError where nobody has one."""
        if name.partition(":")[2]:
            raise InputError(f"device: '{name}' names one GPU, and a cluster hands them out; say cuda")
        gpus = sum(row["Resources"].get("GPU", 0) for row in alive().values())
        if name == "cuda" and not gpus:
            raise InputError(f"device: 'cuda', and no node of the Ray cluster ({self.address}) has a GPU")
        return "cpu" if name == "cpu" or not gpus else "cuda:0"

    def check(self, at: Path, data: Data, device: str, timed_on: str | None, *, timed: bool) -> None:
        """Asks every node that will work; InputError where one cannot, or where it is not said which ones time.

        at: the run's folder, or one that is to hold it. timed_on: the recipe's `latency.device_kind`.
        """
        self.wanted = installed()
        self.asked = {"device": device.partition(":")[0], "data": None, "token": None}
        rows = [row for row in alive().values() if is_of_use(row, device)]
        if not rows:
            raise InputError(f"--ray {self.address}: no node of the cluster has a CPU to work with")
        self.nodes = self.answers(rows, ANSWER_S)  # first without the images, which may take minutes
        if timed:
            self.kind = kind_to_time_on(timed_on, self.nodes)
        self.hashes = hashes(data)
        self.folder = next(folder for folder in (at, *at.parents) if folder.is_dir())
        self.asked["data"] = data
        self.nodes = self.answers(rows, None)

    def answers(self, rows: list[dict[str, Any]], patience_s: float | None) -> list[NodeFacts]:
        """What the nodes say of themselves; InputError for the first that cannot work, or does not answer."""
        refs = [self.ask(row) for row in rows]
        ready = answered(refs, patience_s)
        for row, ref in zip(rows, refs, strict=True):
            if ref not in ready:
                raise InputError(f"node {row['NodeManagerHostname']}: did not answer within {patience_s:g} s")
        return [self.judged(row, ref) for row, ref in zip(rows, refs, strict=True)]

    def ask(self, row: Mapping[str, Any]) -> Any:
        """Asks a node what it has; gives the reference of its answer, for `judged`."""
        if self.asked["data"] is not None and self.token is None:
            self.leave_token()
        self.waited_for += 1
        return ask(row["NodeID"], self.wanted, self.asked)

    def judged(self, row: Mapping[str, Any], ref: Any) -> NodeFacts:
        """A node by its answer, which has come; InputError where it cannot work."""
        gpus = float(row["Resources"].get("GPU", 0)) if self.asked["device"] == "cuda" else 0.0
        answer = answer_of(ref)
        self.waited_for -= 1
        if not self.waited_for:
            self.take_token_away()
        problem = problem_of(answer, self.wanted, self.hashes, gpus)
        if problem is not None:
            raise InputError(f"node {row['NodeManagerHostname']}: {problem}")
        return described(row, answer, gpus)

    def leave_token(self) -> None:
        """Leaves a word in the run's folder, by which a node shows that it sees the same one."""
        file, word = self.folder / f".seen.{writer()}.part", secrets.token_hex(8)
        try:
            file.write_text(word)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written into ({error.strerror})") from None
        self.token, self.asked["token"] = file, (str(file), word)

    def take_token_away(self) -> None:
        """Once nobody looks for it any more."""
        if self.token is not None:
            self.token.unlink(missing_ok=True)
        self.token = self.asked["token"] = None

    def slots(self, device: str, most: int | None, gpu_share: float) -> int:
        """How many trainings the nodes that were checked do at a time; InputError where `most` are more than that."""
        held = sum(slots_of(node, device, gpu_share) for node in self.nodes)
        if most is not None and most > held:
            what = f"{sum(node.gpus for node in self.nodes):g} GPUs" if device != "cpu" else f"{held} CPUs"
            share = f" at train.gpu_share {gpu_share:g}" if device != "cpu" else ""
            raise InputError(f"search.workers: {most} trainings at a time, and the cluster has {what}{share}: {held}")
        if not held:
            raise InputError(f"--ray {self.address}: no node has a CPU left beside a GPU, which a training needs")
        return most or held

    def most_gpus(self) -> int:
        """Of the node that has the most."""
        return int(max((row["Resources"].get("GPU", 0) for row in alive().values()), default=0))

    def facts(self, device: str) -> list[dict[str, str]]:
        """The facts of each node whose timings count, for the record."""
        counted = [node for node in self.nodes if self.kind in (None, node.kind)]
        return [{**node.facts, "device": device, "nodes": str(len(self.nodes))} for node in counted]

    @contextmanager
    def engine(
        self,
        device: str,
        most: int | None,
        gpu_share: float,
        trainings: int | None,
        asked_to_stop: Callable[[], bool],
    ) -> Iterator[ClusterEngine]:
        """The engine of the nodes that were checked; they come and go, and with them what can be done at a time."""
        self.slots(device, most, gpu_share)
        limits = [limit for limit in (most, trainings) if limit is not None]
        engine = ClusterEngine(self, device, gpu_share, min(limits, default=None), asked_to_stop, self.note)
        try:
            yield engine
        finally:
            engine.close()
