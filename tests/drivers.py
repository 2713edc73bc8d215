"""Drivers of searches as processes of their own, which tests kill; a small recipe; what must not depend on kills."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretosr.runs.inspection import read_run
from paretosr.search.candidate import Candidate

RECIPE = {
    "seed": 5,
    "device": "cpu",
    "data": {"source": "photos"},
    "space": {
        "blocks": [{"residual": {"attention": ["none", "cca"]}}, {"imdb": {"attention": ["none"]}}, "lattice"],
        "widths": [8, 12, 16],
        "depths": [1, 2],
        "fusion": ["none", "concat"],
        "image_skip": ["none", "bilinear"],
    },
    "objectives": ["psnr_db", "activations_m"],
    "search": {"candidates": 10, "workers": 1, "start": 4},
    "train": {"steps": 320, "batch": 4, "patch": 10, "learning_rate": 3e-3, "ema": 0.99},
}


class Driver:
    """A process that searches, in a process group of its own, as a shell starts it; perhaps on a Ray cluster."""

    def __init__(self, recipe: Path, out: Path, *overrides: str, ray: str = "") -> None:
        words = ["search", recipe, "--out", out, *(word for override in overrides for word in ("--set", override))]
        words += ["--ray", ray] if ray else []
        self.out, self.log, self.started = out, out.with_suffix(".log"), time.time()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "paretosr.runs.cli", *map(str, words)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, condition: Callable[[], Any], seconds: float = 90) -> Any:
        """Waits for a true answer, which must come while the process lives."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"waited {seconds} s in vain: {self.log.read_text()}"
            time.sleep(0.01)
        return answer

    def drives(self) -> bool:
        """Whether it has the lock."""
        with suppress(FileNotFoundError):
            return f"pid {self.process.pid} " in (self.out / "lock").read_text()
        return False

    def trains(self) -> bool:
        """Whether a training of this life has begun: it leaves word of it beside the candidate."""
        with suppress(FileNotFoundError):
            return any(file.stat().st_mtime > self.started for file in self.out.glob("candidates/*/running"))
        return False

    def children(self) -> list[int]:
        """Its workers, and multiprocessing's tracker."""
        return children(self.process.pid)

    def worker(self) -> int | None:
        """The pid of a worker, also of one that has barely begun."""
        for pid in self.children():
            with suppress(FileNotFoundError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def end(self, seconds: float = 240) -> int:
        """Waits for its end; gives the exit code."""
        return self.process.wait(seconds)


@contextmanager
def driving(recipe: Path, out: Path, *overrides: str, ray: str = "") -> Iterator[Driver]:
    """A driver that does not outlive the test."""
    driver = Driver(recipe, out, *overrides, ray=ray)
    try:
        yield driver
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.process.pid, signal.SIGKILL)
        driver.process.wait()


def check_gone(pids: list[int]) -> None:
    """No child outlives its driver by more than moments; a zombie that nobody has fetched yet is none."""
    deadline = time.monotonic() + 10
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                assert time.monotonic() < deadline, "a child lives on without its driver"
                time.sleep(0.01)


def candidates(out: Path) -> tuple[Candidate, ...]:
    return read_run(out)[2].candidates if (out / "study.db").exists() else ()


def comparable(c: Candidate) -> Candidate:
    """All of a candidate that must not depend on how often its driver was killed."""
    return replace(c, details={name: value for name, value in c.details.items() if name != "train_s"})


def children(pid: int) -> list[int]:
    """The processes that a process has begun and that are there still."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
