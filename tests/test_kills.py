"""Searches that are killed, interrupted, and robbed of their workers: nothing is lost, nothing is done twice.

The drivers are processes of their own, as people start them; objectives are exact, so that numbers compare to the bit.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretosr.analysis.export import load_exported
from paretosr.runs.inspection import read_run
from paretosr.runs.summary import judged
from paretosr.search.candidate import Candidate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS, CANDIDATES, FEW = 20, 10, 2
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
    "search": {"candidates": CANDIDATES, "workers": 1, "start": 4},
    "train": {"steps": 320, "batch": 4, "patch": 10, "learning_rate": 3e-3, "ema": 0.99},
}


class Driver:
    """A process that searches, in a process group of its own, as a shell starts it."""

    def __init__(self, recipe: Path, out: Path, *overrides: str) -> None:
        words = ["search", recipe, "--out", out, *(word for override in overrides for word in ("--set", override))]
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
        with suppress(FileNotFoundError):
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        return []

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
def driving(recipe: Path, out: Path, *overrides: str) -> Iterator[Driver]:
    """A driver that does not outlive the test."""
    driver = Driver(recipe, out, *overrides)
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


@pytest.fixture(scope="module")
def place(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and the recipe `tiny.yaml`."""
    folder = tmp_path_factory.mktemp("kills")
    shutil.copytree(photos, folder / "photos")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Path:
    """The same search, left alone."""
    out = place / "undisturbed"
    with driving(place / "tiny.yaml", out) as driver:
        assert driver.end() == 0, driver.log.read_text()
    assert [c.state for c in candidates(out)] == ["complete"] * CANDIDATES
    return out


def check_finished_ones(out: Path, known: dict[int, tuple[Candidate, int, bytes]]) -> None:
    """Every candidate that was complete before is so still, with the same numbers and files; adds the new ones."""
    for c in candidates(out):
        if c.state == "complete":
            file = out / "candidates" / f"{c.number:05d}" / "training.json"
            now = (c, file.stat().st_mtime_ns, file.read_bytes())
            assert known.setdefault(c.number, now) == now
        else:
            assert c.state == "running", c.reason
            assert c.number not in known


def test_twenty_kills_lose_nothing_and_change_nothing(place, undisturbed):
    seconds = json.loads((undisturbed / "status.json").read_text())["seconds"]
    chance = random.Random(0)
    out, recipe = place / "killed", place / "tiny.yaml"
    known: dict[int, tuple[Candidate, int, bytes]] = {}
    killed_when, finished_when = 0, []
    while killed_when < KILLS:
        with driving(recipe, out) as driver:
            # Some while the record is opened and the worker starts, most while it trains, measures, is told what next.
            early = chance.random() < 0.3
            driver.wait_until(driver.drives if early else driver.trains)
            time.sleep(chance.uniform(0, 2.0 if early else 1.7 * seconds / KILLS))
            children = driver.children()
            assert driver.process.poll() is None, f"it ended before the {KILLS} kills: {driver.log.read_text()}"
            driver.process.kill()
            driver.process.wait()
            killed_when += 1
            check_gone(children)
        check_finished_ones(out, known)
        finished_when.append(len(known))
    assert 1 < finished_when[-1] < CANDIDATES, f"the kills came too soon or too late to try much: {finished_when}"

    # One more while the winner is exported, when all numbers are there; then the end.
    with driving(recipe, out) as driver:
        driver.wait_until(lambda: json.loads((out / "status.json").read_text())["stage"] == "finished", 240)
        time.sleep(1.0)
        driver.process.kill()
    with driving(recipe, out) as driver:
        assert driver.end() == 0, driver.log.read_text()
    check_finished_ones(out, known)
    assert sorted(known) == list(range(CANDIDATES))
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("state.pt"))

    assert [*map(comparable, candidates(out))] == [*map(comparable, candidates(undisturbed))]
    verdicts = [judged(recipe, record) for _, recipe, record in (read_run(out), read_run(undisturbed))]
    assert verdicts[0].front == verdicts[1].front
    assert verdicts[0].winner == verdicts[1].winner
    for number in range(CANDIDATES):
        weights = [run / "candidates" / f"{number:05d}" / "model.safetensors" for run in (out, undisturbed)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    load_exported(out / "winner")


def test_signals_stop_within_ten_seconds_and_the_run_goes_on(place, undisturbed):
    out, few = place / "stopped", f"search.candidates={FEW}"
    with driving(place / "tiny.yaml", out, few) as driver:
        driver.wait_until(driver.worker)
        time.sleep(0.3)  # the worker is still importing when Ctrl-C reaches the whole group
        stopped_within_ten_seconds(driver, 130, lambda: os.killpg(driver.process.pid, signal.SIGINT))
    with driving(place / "tiny.yaml", out, few) as driver:
        driver.wait_until(driver.trains)
        stopped_within_ten_seconds(driver, 143, driver.process.terminate)
    assert list(out.rglob("state.pt")), "the training was saved"
    with driving(place / "tiny.yaml", out, few) as driver:
        assert driver.end() == 0, driver.log.read_text()
    assert [*map(comparable, candidates(out))] == [*map(comparable, candidates(undisturbed))][:FEW]


def stopped_within_ten_seconds(driver: Driver, code: int, stop: Callable[[], None]) -> None:
    children, started = driver.children(), time.monotonic()
    stop()
    assert driver.end(30) == code, driver.log.read_text()
    assert time.monotonic() - started < 10
    check_gone(children)
    last = driver.log.read_text().splitlines()[-1]
    assert last == "paretosr: stopped; the same command goes on from here"
    assert "Traceback" not in driver.log.read_text()
    assert json.loads((driver.out / "status.json").read_text())["stage"] == "stopped"
    assert {c.state for c in candidates(driver.out)} <= {"running", "complete"}


def test_a_killed_worker_fails_its_candidate_and_the_search_goes_on(place):
    out = place / "robbed"
    with driving(place / "tiny.yaml", out, f"search.candidates={FEW}") as driver:
        driver.wait_until(driver.trains)
        worker = driver.worker()
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert driver.end() == 0, driver.log.read_text()
    first, *others = candidates(out)
    assert (first.state, first.reason) == ("failed", "the worker was killed by SIGKILL (out of memory?)")
    assert [c.state for c in others] == ["complete"] * FEW, "the failed one is not among those asked for"
    table = (out / "candidates.csv").read_text()
    assert "killed by SIGKILL" in table
    assert "1 candidate failed" in (out / "report.html").read_text()
