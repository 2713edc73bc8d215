"""Searches that are killed, interrupted, and robbed of their workers: nothing is lost, nothing is done twice.

The drivers are processes of their own, as people start them; objectives are exact, so that numbers compare to the bit.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from drivers import RECIPE, Driver, candidates, check_gone, comparable, driving

from paretosr.analysis.export import load_exported
from paretosr.runs.engines.outcome import DEATHS
from paretosr.runs.inspection import read_run
from paretosr.runs.summary import judged
from paretosr.search.candidate import Candidate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS, CANDIDATES, FEW = 20, 10, 2


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
            # The pace follows what is left, so that a machine whose load changes meanwhile changes little.
            left = max(0, CANDIDATES - 1 - len(known)) / CANDIDATES * seconds / (KILLS - killed_when)
            time.sleep(chance.uniform(0, 2.0 if early else 1.7 * left))
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


def test_a_worker_that_is_killed_again_and_again_fails_its_candidate_and_the_search_goes_on(place):
    out = place / "robbed"
    with driving(place / "tiny.yaml", out, f"search.candidates={FEW}") as driver:
        driver.wait_until(driver.trains)
        killed: set[int | None] = {None}
        for _ in range(DEATHS):
            worker = driver.wait_until(lambda: driver.worker() not in killed and driver.worker())
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
        assert driver.end() == 0, driver.log.read_text()
    first, *others = candidates(out)
    assert first.state == "failed"
    assert first.reason.startswith("the worker was killed by SIGKILL (out of memory?), on a whole device too; its ten")
    assert [c.state for c in others] == ["complete"] * FEW, "the failed one is not among those asked for"
    table = (out / "candidates.csv").read_text()
    assert "killed by SIGKILL" in table
    assert "1 candidate failed" in (out / "report.html").read_text()


def test_a_worker_that_is_killed_once_costs_nothing(place, undisturbed):
    out = place / "robbed once"
    with driving(place / "tiny.yaml", out, f"search.candidates={FEW}") as driver:
        driver.wait_until(driver.trains)
        worker = driver.worker()
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert driver.end() == 0, driver.log.read_text()
    assert [*map(comparable, candidates(out))] == [*map(comparable, candidates(undisturbed))][:FEW]
