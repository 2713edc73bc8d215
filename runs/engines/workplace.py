"""Where a run's work is done: on this machine, or on a Ray cluster (`--ray`)."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from ...proxies.device import find_device
from ...proxies.work import Data
from ...search.engine import Engine
from ...spaces import InputError
from ..summary import machine_facts
from .local import LocalEngine
from .nodes import the_kind

FULL_AT_ONCE = 2  # full trainings at a time on the CPU of one machine


class Workplace(Protocol):
    """A place with an engine, which is asked what it can do before anything is written."""

    def path(self, path: Path) -> Path:
        """A path as the workers are to be told it."""
        ...

    def device(self, name: str) -> str:
        """The device that `device` of a recipe means there, as works name it; InputError where there is none."""
        ...

    def check(self, at: Path, data: Data, device: str, timed_on: str | None, *, timed: bool) -> None:
        """InputError where a worker could not do its part: see the images, write to `at`, time on the kind `timed_on`.

        at: the run's folder, which may not exist yet. timed: whether the run times anything.
        """
        ...

    def slots(self, device: str, most: int | None, gpu_share: float) -> int:
        """How many trainings it does at a time, once it is checked; InputError where `most` are more than it can."""
        ...

    def most_gpus(self) -> int:
        """How many GPUs a single training may have: those of the node that has the most."""
        ...

    def facts(self, device: str) -> list[dict[str, str]]:
        """What to record of the machines that time, one for each; where nothing is timed, of all that train."""
        ...

    def engine(
        self,
        device: str,
        most: int | None,
        gpu_share: float,
        trainings: int | None,
        asked_to_stop: Callable[[], bool],
    ) -> AbstractContextManager[Engine]:
        """The engine. most: `search.workers`. trainings: where there are only so many, and all of them full ones."""
        ...


class ThisMachine:
    """The processes of this machine as a workplace."""

    def path(self, path: Path) -> Path:
        """The path itself."""
        return path

    def device(self, name: str) -> str:
        """The device with its index."""
        return str(find_device(name))

    def check(self, at: Path, data: Data, device: str, timed_on: str | None, *, timed: bool) -> None:
        """InputError where the recipe wants timings on another kind of device."""
        if timed and timed_on is not None:
            facts = machine_facts(device)
            the_kind(timed_on, [facts.get("gpu") or facts.get("cpu", "")], "this machine has")

    def slots(self, device: str, most: int | None, gpu_share: float) -> int:
        """As many as asked for; by default one a core on a CPU, and one a share of the GPU."""
        return most or (len(os.sched_getaffinity(0)) if device == "cpu" else int(1 / gpu_share + 1e-6))

    def most_gpus(self) -> int:
        """This machine's."""
        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    def facts(self, device: str) -> list[dict[str, str]]:
        """This machine's."""
        return [machine_facts(device)]

    def engine(
        self,
        device: str,
        most: int | None,
        gpu_share: float,
        trainings: int | None,
        asked_to_stop: Callable[[], bool],
    ) -> LocalEngine:
        """With so many workers; of full trainings two at a time."""
        if trainings is not None:
            return LocalEngine(min(self.slots(device, None, gpu_share), trainings, FULL_AT_ONCE), asked_to_stop)
        return LocalEngine(self.slots(device, most, gpu_share), asked_to_stop)


@contextmanager
def workplace(ray: str | None, note: Callable[[str], None]) -> Iterator[Workplace]:
    """This machine where `ray` is None; else the Ray cluster of that address, connected meanwhile.

    note: is told of nodes that come and go. InputError where Ray is not installed, or no cluster answers.
    """
    if ray is None:
        yield ThisMachine()
        return
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else Ray uploads the working directory of a `uv run`
    if ray == "local":  # by this Ray takes the loopback for its address: the ports of a cluster stand open to all
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        from .cluster import cluster  # not before it is asked for: Ray need not be installed
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(f"--ray {ray}: Ray is not installed; pip install 'paretosr[cluster]'") from None
    with cluster(ray, note) as found:
        yield found
