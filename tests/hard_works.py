"""Works that do to their worker what clusters do: kill it, hang, run out of memory. They are sent to real workers."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[dict[str, Any]], None]
Stop = Callable[[], bool]


def begun(folder: str) -> int:
    """Notes in a folder that a work has begun there; how often it has by now."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    count = len(list(place.iterdir())) + 1
    (place / str(count)).touch()
    return count


@dataclass(frozen=True)
class Deadly:
    """Kills its worker the first few times."""

    folder: str
    times: int
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any]:
        count = begun(self.folder)
        if count <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"begun": count}


@dataclass(frozen=True)
class Hungry:
    """Runs out of memory as long as more works of its folder than `others` are under way, itself among them."""

    folder: str
    others: int
    patience_s: float = 0.0
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any]:
        here = Path(self.folder) / str(os.getpid())
        here.touch()
        try:
            time.sleep(self.patience_s)
            if len(list(Path(self.folder).iterdir())) > self.others:
                raise MemoryError
            return {"pid": os.getpid()}
        finally:
            here.unlink()


@dataclass(frozen=True)
class Broken:
    """Fails with these words."""

    words: str
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any]:
        raise RuntimeError(self.words)


@dataclass(frozen=True)
class Deaf:
    """Hears nothing, and ends never; a silent one hangs before it has said a word."""

    silent: bool = False
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any]:
        while True:
            if not self.silent:
                report({"step": 1, "steps": 2})
                stop()
            time.sleep(0.05)


@dataclass(frozen=True)
class Sick:
    """Meets an error of a node's the first few times, or always on one node of a Ray cluster; says where it ended."""

    words: str
    folder: str = ""
    times: int = 0
    node: str = ""
    seconds: float = 0.0
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any]:
        import ray  # the local engine needs none

        here = ray.get_runtime_context().get_node_id()
        if here == self.node or (self.folder and begun(self.folder) <= self.times):
            raise RuntimeError(self.words)
        time.sleep(self.seconds)
        return {"node": here}


@dataclass(frozen=True)
class Nap:
    """Sleeps, and says where and when; a stand-in for a training where only the engine is looked at."""

    seconds: float
    device: str = "cpu"
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        began = time.time()
        while time.time() - began < self.seconds:
            report({"step": 1, "steps": 2})
            if stop():
                return None
            time.sleep(0.01)
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return {"began": began, "ended": time.time(), "gpus": gpus, "pid": os.getpid()}
