"""Fifty kills at random of a search by rungs, its driver and its workers: nothing is lost, nothing is done twice.

Run by `make stress`, on this machine's engine and on a Ray cluster of two nodes; leaves a table of the kills in
`out/stress/`.
"""

import csv
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from drivers import RECIPE, Driver, candidates, driving
from ray.cluster_utils import Cluster
from test_ray_cluster import SMALL_STORE, check_quiet, trainers

from paretosr.runs.inspection import read_run
from paretosr.search.candidate import Candidate

pytestmark = [pytest.mark.stress, pytest.mark.timeout(5400)]

KILLS, ENDLESS, ETA, CHECKED = 50, 100_000, 3, 6
STEPS = 540
TABLES = Path(__file__).resolve().parents[1] / "out" / "stress"


@contextmanager
def nothing() -> Iterator[str]:
    yield ""


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of a head that does not work and two nodes with a CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 0, "object_store_memory": SMALL_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=SMALL_STORE)
        yield str(cluster.address)
    finally:
        cluster.shutdown()


@pytest.fixture
def recipe(photos: Path, tmp_path: Path) -> Path:
    shutil.copytree(photos, tmp_path / "photos")
    search = {"candidates": ENDLESS, "sampler": "random", "workers": 2, "halving": {"rungs": 3, "eta": ETA}}
    train = {**RECIPE["train"], "steps": STEPS}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**RECIPE, "search": search, "train": train}))
    return tmp_path / "tiny.yaml"


def workers(driver: Driver, address: str) -> list[int]:
    """The processes that train for a driver now."""
    if address:
        return sorted(trainers())
    found = []
    for pid in driver.children():
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


class Known:
    """What was recorded once, and must stay so."""

    def __init__(self) -> None:
        self.rungs: dict[int, tuple[tuple[int, float], ...]] = {}
        self.hashes: dict[int, str] = {}
        self.ended: dict[int, Candidate] = {}

    def check(self, out: Path) -> dict[str, int]:
        """Every rung, every network and every end that was seen before is there still; gives the counts."""
        found = candidates(out)
        for c in found:
            before = self.rungs.get(c.number, ())
            assert c.rungs[: len(before)] == before, "a rung that was recorded has changed, or is gone"
            assert [steps for steps, _ in c.rungs] == sorted({steps for steps, _ in c.rungs}), "a rung is there twice"
            assert self.hashes.setdefault(c.number, c.design.hash) == c.design.hash
            if c.number in self.ended:
                assert c == self.ended[c.number], "a candidate that had ended has changed"
            if c.state in ("complete", "failed"):
                self.ended[c.number] = c
            self.rungs[c.number] = c.rungs
        assert set(self.hashes) == {c.number for c in found}, "a candidate is gone"
        assert len(set(self.hashes.values())) == len(self.hashes), "a network is there twice"
        states = ("complete", "paused", "running", "failed")
        counts = {state: sum(c.state == state for c in found) for state in states}
        return {**counts, "rungs": sum(len(rungs) for rungs in self.rungs.values())}


@pytest.mark.parametrize(("name", "place"), [("local", nothing), ("ray", two_nodes)])
def test_fifty_kills_lose_nothing_and_double_nothing(recipe, name, place):
    out, chance, known, rows = recipe.parent / "run", random.Random(name), Known(), []
    with place() as address:
        while len(rows) < KILLS:
            with driving(recipe, out, ray=address) as driver:
                early = chance.random() < 0.2
                driver.wait_until(driver.drives if early else driver.trains, 180)
                while len(rows) < KILLS:
                    waited_s = chance.uniform(0, 2.0 if early else 5.0)
                    time.sleep(waited_s)
                    assert driver.process.poll() is None, driver.log.read_text()
                    at_work = workers(driver, address)
                    victim = chance.choice(at_work) if at_work and chance.random() < 0.5 else driver.process.pid
                    with suppress(ProcessLookupError):  # a worker may have ended by itself
                        os.kill(victim, signal.SIGKILL)
                    was_driver = victim == driver.process.pid
                    if was_driver:
                        driver.process.wait()
                    counts = known.check(out)
                    what = "driver" if was_driver else "worker"
                    rows.append({"kill": len(rows) + 1, "of": what, "after_s": round(waited_s, 2), **counts})
                    if was_driver:
                        break
        asked = sum(bool(rungs) for rungs in known.rungs.values()) + 3
        with driving(recipe, out, f"search.candidates={asked}", ray=address) as driver:
            assert driver.end(1800) == 0, driver.log.read_text()
    counts = known.check(out)
    write(rows, {"kill": "end", "of": "", "after_s": "", **counts}, TABLES / f"kills-{name}.csv")
    assert rows[-1]["rungs"] > 10, "the kills came too fast for anything to be done between them"
    assert counts["running"] == 0
    failed = [c.reason for c in candidates(out) if c.state == "failed"]
    # What is hit again and again (three workers, or two drivers at one place) is given up.
    assert all("killed" in reason or "deaths" in reason or "died" in reason for reason in failed), failed
    assert len(failed) <= KILLS // 8, "only what was killed again and again may have failed"
    check_end(out, asked)


def write(rows: list[dict[str, Any]], last: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(last), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, last])


def check_end(out: Path, asked: int) -> None:
    """The run reached its number, made the promotions that are due, and its numbers are those of quiet trainings."""
    found = [c for c in candidates(out) if c.state != "failed"]
    assert len(found) >= asked
    rungs = sorted({steps for c in found for steps, _ in c.rungs})
    assert rungs == [STEPS // ETA**2, STEPS // ETA, STEPS]
    reached = [sum(any(at == steps for at, _ in c.rungs) for c in candidates(out)) for steps in rungs]
    for lower, higher in pairwise(reached):
        assert higher >= lower // ETA - sum(c.state == "failed" for c in candidates(out))
    assert not list(out.rglob("*.part"))
    for c in sorted(found, key=lambda c: -len(c.rungs))[:CHECKED]:
        check_quiet(out, c)
    _, _, record = read_run(out)
    assert record.attribute("finished")
