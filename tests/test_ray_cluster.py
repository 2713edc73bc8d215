"""Searches on a real cluster of several nodes, which loses a node, gains one, loses its driver: nothing is lost.

The nodes are raylets of this machine, each with a CPU of its own as far as Ray knows; the drivers are processes, as
people start them. Objectives are exact, so that numbers compare to the bit with a search without Ray.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hard_works
import pytest
import torch
import yaml
from drivers import RECIPE, candidates, comparable, driving
from hard_works import Nap, Sick
from ray import cloudpickle
from ray.cluster_utils import Cluster

from paretosr.proxies.training import Training
from paretosr.proxies.work import Data, TrainWork
from paretosr.runs.engines.cluster import cluster as connected
from paretosr.runs.engines.nodes import NodeFacts
from paretosr.runs.engines.ray_engine import alive
from paretosr.runs.engines.workplace import workplace
from paretosr.runs.inspection import read_run
from paretosr.runs.story import settings_of
from paretosr.search.candidate import Candidate
from paretosr.search.engine import Task
from paretosr.search.settings import training_seed
from paretosr.spaces import Architecture, Block, Design

cloudpickle.register_pickle_by_value(hard_works)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CANDIDATES = 4
SMALL_STORE = 80 * 2**20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that does not work, and two nodes with one CPU each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 0, "object_store_memory": SMALL_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=SMALL_STORE)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def recipe(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe beside its photos, whose proposals depend on nothing that two workers could do in another order."""
    folder = tmp_path_factory.mktemp("cluster")
    shutil.copytree(photos, folder / "photos")
    file = folder / "tiny.yaml"
    search = {"candidates": CANDIDATES, "sampler": "random"}
    file.write_text(yaml.safe_dump({**RECIPE, "search": search, "train": {**RECIPE["train"], "steps": 400}}))
    return file


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    """The same search on the local engine, left alone."""
    out = recipe.parent / "undisturbed"
    with driving(recipe, out) as driver:
        assert driver.end(600) == 0, driver.log.read_text()
    return out


def saved(out: Path) -> int:
    """How many trainings have saved a state and go on."""
    return len(list(out.glob("candidates/*/state.pt")))


def finished(out: Path) -> dict[int, tuple[int, bytes]]:
    """When the results of the finished trainings were written, and what they are."""
    files = out.glob("candidates/*/training.json")
    return {int(file.parent.name): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def trainers() -> set[int]:
    """The processes that perform a training for some driver; Ray puts the task's name into their title."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"TrainWork" in title:
            found.add(int(place.name))
    return found


def check_same(out: Path, other: Path) -> None:
    """All candidates are complete, and those of the other run to the bit."""
    assert [c.state for c in candidates(out)] == ["complete"] * CANDIDATES
    found, wanted = ({c.number: comparable(c) for c in candidates(run)} for run in (out, other))
    assert found == wanted
    for number in found:
        weights = [run / "candidates" / f"{number:05d}" / "model.safetensors" for run in (out, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("state.pt"))


def test_a_node_that_is_killed_in_mid_rung_costs_nothing_but_time(cluster, recipe, undisturbed):
    out = recipe.parent / "robbed"
    with driving(recipe, out, ray=cluster.address) as driver:
        driver.wait_until(lambda: saved(out) == 2, 180)
        before = finished(out)
        lost = next(iter(cluster.worker_nodes))
        cluster.remove_node(lost, allow_graceful=False)
        # Ray takes seconds to miss it. The other comes meanwhile, so that it is in time for what is left to do.
        cluster.add_node(num_cpus=1, object_store_memory=SMALL_STORE)
        assert driver.end(600) == 0, driver.log.read_text()
    for event in ("is gone", "has joined"):
        assert event in driver.log.read_text()
    after = finished(out)
    assert {number: after[number] for number in before} == before, "what was done is not done again"
    check_same(out, undisturbed)


def test_a_node_that_is_killed_in_mid_rung_loses_no_rung_of_a_halving(cluster, recipe):
    """Two work at a time, so that who is promoted depends on who ends first; every PSNR is that of a quiet training."""
    out, steps = recipe.parent / "rungs", [60, 180, 540]
    more = ["search.candidates=9", "search.halving={rungs: 3, eta: 3}", f"train.steps={steps[-1]}"]
    with driving(recipe, out, *more, ray=cluster.address) as driver:
        driver.wait_until(lambda: trainers() and sum(bool(c.rungs) for c in candidates(out)) >= 2, 180)
        before = {c.number: c.rungs for c in candidates(out)}
        lost = next(iter(cluster.worker_nodes))
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=SMALL_STORE)
        assert driver.end(600) == 0, driver.log.read_text()
    assert "is gone" in driver.log.read_text()
    found = candidates(out)
    assert {c.state for c in found} == {"complete", "paused"}
    assert sum(bool(c.rungs) for c in found) == 9
    assert all(c.rungs[: len(before[c.number])] == before[c.number] for c in found if c.number in before)
    reached = [sum(any(at == step for at, _ in c.rungs) for c in found) for step in steps]
    assert reached == [9, 3, 1]
    check_quiet(out, max(found, key=lambda c: len(c.rungs)))


def check_quiet(out: Path, c: Candidate) -> None:
    """The PSNR of a candidate at each of its rungs is, to the bit, that of a training that nobody disturbs."""
    _, recipe, _ = read_run(out)
    settings = settings_of(recipe)
    torch.set_num_threads(1)
    for steps, psnr_db in c.rungs:
        folder, seed = out / "again" / str(c.number), training_seed(settings.seed, c.number)
        work = TrainWork(c.design, settings.training, settings.data, seed, "cpu", str(folder), until=steps)
        result = work.perform(lambda said: None, lambda: False)
        assert result is not None
        assert result["psnr_db"] == psnr_db, f"candidate {c.number} at {steps} steps"


def test_a_timing_whose_node_is_killed_is_made_on_another(cluster):
    with connected(str(cluster.address)) as place:
        rows = [row for row in alive().values() if row["Resources"].get("CPU")]
        place.nodes = [NodeFacts(row["NodeID"], "host", "A CPU", 1, 0, {}) for row in rows]
        with place.engine("cpu", None, 1.0, None, lambda: False) as engine:
            engine.submit(Task("timing", Nap(8.0, exclusive=True)))
            until = time.monotonic() + 4.0
            while time.monotonic() < until:
                assert engine.next(0.1) is None
            (busy,) = [node.facts.id for node in engine._nodes.values() if node.taken]
            (lost,) = [node for node in cluster.worker_nodes if node.node_id == busy]
            cluster.remove_node(lost, allow_graceful=False)
            finished = engine.next(120)
            assert finished is not None
            assert finished.numbers is not None, finished.failure
            assert {node.facts.id for node in engine._nodes.values()} == {row["NodeID"] for row in rows} - {busy}


def test_a_node_where_everything_fails_gets_no_more_and_nothing_is_lost_to_it(cluster):
    said: list[str] = []
    words = "CUDA error: an illegal memory access was encountered"
    with connected(str(cluster.address), said.append) as place:
        rows = [row for row in alive().values() if row["Resources"].get("CPU")]
        place.nodes = [NodeFacts(row["NodeID"], f"host{i}", "A CPU", 1, 0, {}) for i, row in enumerate(rows)]
        sick, well = (row["NodeID"] for row in rows)
        with place.engine("cpu", None, 1.0, None, lambda: False) as engine:
            for number in range(12):
                engine.submit(Task(f"training {number}", Sick(words, node=sick, seconds=2.0)))
            for _ in range(12):
                finished = engine.next(120)
                assert finished is not None
                assert finished.failure == ""
                assert finished.numbers == {"node": well}
    assert [line for line in said if "no more" in line] == [
        f"node host0 gets no more tasks, 3 in a row failed there: RuntimeError: {words}"
    ]


def test_a_search_is_pruned_and_its_winner_trained_on_ray(photos, tmp_path):
    """By the commands, on a cluster of this machine; what is left out of them here is left out of their recipe."""
    shutil.copytree(photos, tmp_path / "photos")
    floors = {"floor_channels": 1, "floor_share": 0.1, "step": 1}
    recipe = {
        **RECIPE,
        "space": {**RECIPE["space"], "blocks": [{"imdb": {"attention": ["none"]}}], "widths": [12, 16], "depths": [2]},
        "search": {"candidates": 2, "start": 2},
        "train": {**RECIPE["train"], "steps": 20},
        "latency": {"size": [32, 32], "rounds": 5, "max_rounds": 5},
        "objectives": ["psnr_db", "latency_ratio"],
        "confirm": {"seeds": 2},
        "pruning": {"budgets": [{"latency_ratio": 0.9}], "members": 1, "batches": 2, "recovery_steps": 3, **floors},
    }
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "run"
    for words in (
        ("search", "cut.yaml", "--out", "run", "--set", "pruning=null"),
        ("prune", "run", "--recipe", "cut.yaml"),
        ("train", "run", "--seeds", "2"),
    ):
        command = [sys.executable, "-m", "paretosr.runs.cli", *words, "--ray", "local"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stderr
    found = candidates(out)
    kinds = [c.kind for c in found if c.state == "complete"]
    assert kinds.count("search") == 2
    assert kinds.count("pruned") == 1
    assert kinds.count("trained") == 1
    (cut,) = [c for c in found if c.kind == "pruned"]
    assert cut.numbers["latency_ratio"] > 0
    assert cut.details["pruning"]["verified"].startswith("compact equals masked")
    (trained,) = [c for c in found if c.kind == "trained"]
    assert len(trained.details["psnr_by_seed_db"]) == 2
    assert (out / f"trained-{trained.number:05d}" / "model.onnx").is_file()


def test_a_training_on_several_devices_is_one_task_of_ray(photos, tmp_path):
    """Processes of one CPU here, where one GPU each is meant; Ray starts the one that starts the others."""
    how = Training(steps=6, batch=4, patch=8)
    design = Design(Architecture(width=8, blocks=(Block.of("residual"),)))
    work = TrainWork(design, how, Data(str(photos)), 3, "cpu", str(tmp_path / "shared"), gpus=2)
    with workplace("local", lambda words: None) as place:
        place.check(tmp_path / "run", work.data, "cpu", None, timed=False)
        with place.engine("cpu", None, 1.0, None, lambda: False) as engine:
            engine.submit(Task("shared", work))
            finished = engine.next(180)
    assert finished is not None
    assert finished.numbers is not None, finished.failure
    assert finished.numbers["gpus"] == 2
    alone = replace(work, gpus=1, folder=str(tmp_path / "alone")).perform(lambda said: None, lambda: False)
    assert alone is not None
    assert finished.numbers["psnr_db"] == pytest.approx(alone["psnr_db"], abs=2e-3)


def test_a_driver_that_is_killed_leaves_no_tasks_and_its_run_goes_on(cluster, recipe, undisturbed):
    out = recipe.parent / "killed"
    with driving(recipe, out, ray=cluster.address) as driver:
        driver.wait_until(lambda: saved(out) == 2, 180)
        orphans = trainers()
        assert len(orphans) == 2
        driver.process.kill()
        driver.process.wait()
        # At once: the old tasks may still be running, and what they write is whole, and the same.
        with driving(recipe, out, ray=cluster.address) as next_driver:
            next_driver.wait_until(lambda: not orphans & trainers(), 60)
            assert next_driver.end(600) == 0, next_driver.log.read_text()
    check_same(out, undisturbed)


def test_a_stop_by_signal_ends_the_tasks_saved(cluster, recipe, undisturbed):
    out = recipe.parent / "stopped"
    with driving(recipe, out, ray=cluster.address) as driver:
        driver.wait_until(lambda: saved(out) == 2, 180)
        started = time.monotonic()
        driver.process.send_signal(signal.SIGTERM)
        assert driver.end(60) == 143, driver.log.read_text()
        assert time.monotonic() - started < 20
        assert not trainers()
    assert driver.log.read_text().splitlines()[-1] == "paretosr: stopped; the same command goes on from here"
    with driving(recipe, out, ray=cluster.address) as driver:
        assert driver.end(600) == 0, driver.log.read_text()
    check_same(out, undisturbed)


def test_of_two_gpus_a_timing_has_one_and_the_trainings_of_the_other_go_on(monkeypatch):
    """With Ray's count of GPUs, which are none: where things run is real, what they do there is sleep."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 8, "num_gpus": 2, "object_store_memory": SMALL_STORE, "include_dashboard": False}
    gpus = Cluster(initialize_head=True, head_node_args=head)
    try:
        with connected(str(gpus.address)) as place:
            (row,) = alive().values()
            place.nodes = [NodeFacts(row["NodeID"], "host", "A GPU", 8, 2, {})]
            with place.engine("cuda:0", None, 0.5, None, lambda: False) as engine:
                assert engine.slots == 4
                for number in range(4):
                    engine.submit(Task(f"training {number}", Nap(12.0, "cuda:0")))
                deadline = time.monotonic() + 120
                while len(engine.progress) < 4:
                    assert time.monotonic() < deadline, "not all began"
                    assert engine.next(0.1) is None
                engine.submit(Task("timing", Nap(0.5, "cuda:0", exclusive=True)))
                numbers = {}
                while len(numbers) < 5:
                    finished = engine.next(120)
                    assert finished is not None
                    assert finished.numbers is not None, finished.failure
                    numbers[finished.task.name] = finished.numbers
    finally:
        gpus.shutdown()
    timing = numbers.pop("timing")
    assert timing["gpus"] in ("0", "1")
    beside = [n for n in numbers.values() if n["began"] < timing["began"]]
    after = [n for n in numbers.values() if n["began"] >= timing["ended"]]
    assert [n["gpus"] == timing["gpus"] for n in beside] == [False, False], "two were left alone, on the other GPU"
    assert len(after) == 2, "and two gave way, and began again"


def test_a_gpu_that_was_kept_free_for_a_timing_works_on_after_it_was_taken_elsewhere(monkeypatch):
    """Trainings with a whole GPU do not give way, so the timing goes where one ends first."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 0, "object_store_memory": SMALL_STORE, "include_dashboard": False}
    gpus = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            gpus.add_node(num_cpus=4, num_gpus=1, object_store_memory=SMALL_STORE)
        with connected(str(gpus.address)) as place:
            rows = [row for row in alive().values() if row["Resources"].get("GPU")]
            place.nodes = [NodeFacts(row["NodeID"], row["NodeID"], "A GPU", 4, 1, {}) for row in rows]
            with place.engine("cuda:0", None, 1.0, None, lambda: False) as engine:
                numbers = {}

                def take_until(count: int) -> None:
                    while len(numbers) < count:
                        finished = engine.next(120)
                        assert finished is not None
                        assert finished.numbers is not None, finished.failure
                        numbers[finished.task.name] = finished.numbers

                engine.submit(Task("the one on the node that is cleared", Nap(12.0, "cuda:0")))
                engine.submit(Task("the one that ends first", Nap(4.0, "cuda:0")))
                deadline = time.monotonic() + 120
                while len(engine.progress) < 2:
                    assert time.monotonic() < deadline, "not both began"
                    assert engine.next(0.1) is None
                engine.submit(Task("timing", Nap(0.5, "cuda:0", exclusive=True)))
                take_until(3)
                for name in ("one more", "another"):
                    engine.submit(Task(name, Nap(8.0, "cuda:0")))
                take_until(5)
    finally:
        gpus.shutdown()
    assert numbers["timing"]["ended"] < numbers["the one on the node that is cleared"]["ended"]
    assert numbers["another"]["began"] < numbers["one more"]["ended"], "both GPUs are at work"
    assert numbers["one more"]["began"] < numbers["another"]["ended"]
    pids = [numbers[name].get("pid") for name in numbers]
    assert len(set(pids)) == len(pids), "a process that worked on a GPU is not used for another task"
