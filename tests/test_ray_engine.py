"""The cluster's engine on a real Ray of this machine: its numbers, its timings, what becomes of what goes wrong.

A cluster takes seconds to start and a worker two, so all tests share one of two CPUs.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hard_works
import pytest
from commands import Command, refused
from hard_works import Deadly, Deaf, Hungry, Nap, Sick
from ray import cloudpickle

from paretosr.proxies.latency import Protocol
from paretosr.proxies.training import Training, saved_step
from paretosr.proxies.work import Data, TimeWork, TrainWork
from paretosr.runs.engines import cluster_engine
from paretosr.runs.engines.cluster import Cluster, cluster, reached
from paretosr.runs.engines.cluster_engine import ClusterEngine
from paretosr.runs.engines.local import LocalEngine
from paretosr.runs.engines.outcome import DEATHS, NODES_OWN
from paretosr.runs.engines.probe import installed
from paretosr.search.engine import Engine, Finished, Task
from paretosr.spaces import Architecture, Block, Design, InputError

cloudpickle.register_pickle_by_value(hard_works)  # what is not of the package is unknown to the workers

PATIENCE_S = 60
ENDLESS = 10**9
SMALL = Design(Architecture(width=4, blocks=(Block.of("residual"),)))
QUICK = Protocol(size=(16, 16), warmup_s=0.01, rounds=5, max_rounds=5, threads=2)


@pytest.fixture(scope="module")
def place(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this machine, two CPUs, checked."""
    with cluster("local") as place:
        place.check(tmp_path_factory.mktemp("runs") / "run", Data(str(photos)), "cpu", None, timed=True)
        yield place


@pytest.fixture
def engine(place: Cluster) -> Iterator[ClusterEngine]:
    with place.engine("cpu", None, 1.0, None, lambda: False) as engine:
        yield engine


@pytest.fixture
def training(photos: Path, tmp_path: Path) -> Callable[..., TrainWork]:
    """Makes the work of training a tiny network for so many steps."""

    def make(steps: int, name: str = "candidate", **changes: Any) -> TrainWork:
        how = Training(steps=steps, batch=1, patch=8, **changes)
        return TrainWork(SMALL, how, Data(str(photos)), 0, "cpu", str(tmp_path / name))

    return make


def finish(engine: Engine, seconds: float = PATIENCE_S) -> Finished:
    finished = engine.next(seconds)
    assert finished is not None, f"nothing finished within {seconds} s"
    return finished


def wait_until(engine: Engine, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Lets the engine work until the condition holds; no task may finish meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        assert engine.next(0.02) is None


def test_its_numbers_are_those_of_the_local_engine_to_the_last_digit(engine, training):
    engine.submit(Task("ray", training(7, "ray")))
    with LocalEngine(1) as local:
        local.submit(Task("local", training(7, "local")))
        ours = finish(local).numbers
    theirs = finish(engine).numbers
    assert ours is not None
    assert theirs is not None
    assert {**ours, "train_s": 0} == {**theirs, "train_s": 0}
    assert theirs["threads"] == 1
    weights = [Path(training(7, name).folder) / "model.safetensors" for name in ("ray", "local")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_trainings_give_way_to_a_timing_and_go_on_after_it(engine, training, tmp_path):
    engine.submit(Task("long", training(ENDLESS, "a")))
    wait_until(engine, lambda: engine.progress)
    assert engine.slots == 2
    engine.submit(Task("timing", TimeWork({"network": SMALL}, SMALL, QUICK, "cpu")))
    engine.submit(Task("waits", training(2, "b")))
    timing = finish(engine)
    assert (timing.task.name, timing.failure) == ("timing", "")
    assert timing.numbers is not None
    assert timing.numbers["network"]["ratio"] > 0
    stood_at = saved_step(tmp_path / "a" / "state.pt")
    assert stood_at > 0, "the training was saved when it gave way"
    assert finish(engine).task.name == "waits"
    wait_until(engine, lambda: engine.progress and engine.progress["long"]["step"] > stood_at)


@pytest.mark.slow
def test_nothing_runs_beside_a_timing(engine):
    for number in range(4):
        engine.submit(Task(f"nap {number}", Nap(0.4)))
    engine.submit(Task("timing", Nap(0.3, exclusive=True)))
    spans = {}
    for _ in range(5):
        finished = finish(engine)
        assert finished.numbers is not None
        spans[finished.task.name] = (finished.numbers["began"], finished.numbers["ended"])
    began, ended = spans.pop("timing")
    assert all(end <= began or start >= ended for start, end in spans.values()), spans


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"learning_rate": 1e30}, "non-finite loss ("), ({"loss": "multi_exit"}, "train.loss: 'multi_exit' needs a")],
)
def test_a_failure_has_its_reason_in_one_line(engine, training, change, reason):
    engine.submit(Task("bad", training(30, **change)))
    finished = finish(engine)
    assert finished.numbers is None
    assert finished.failure.startswith(reason)
    assert "\n" not in finished.failure


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time_and_one_that_always_dies_fails(engine, tmp_path):
    for name, times in (("twice", 2), ("always", 99)):
        engine.submit(Task(name, Deadly(str(tmp_path / name), times)))
    finished = {f.task.name: f for f in (finish(engine), finish(engine))}
    assert (finished["twice"].failure, finished["twice"].numbers) == ("", {"begun": 3})
    assert finished["always"].failure == "its worker died 3 times (out of memory?), on a whole device too"
    assert len(list((tmp_path / "always").iterdir())) == 3


@pytest.mark.slow
def test_what_ran_out_of_memory_beside_others_has_the_device_alone(engine, tmp_path):
    engine.submit(Task("beside", Hungry(str(tmp_path), 9, patience_s=1.0)))
    engine.submit(Task("hungry", Hungry(str(tmp_path), 1, patience_s=0.3)))
    finished = [finish(engine), finish(engine)]
    assert [f.failure for f in finished] == ["", ""]
    engine.submit(Task("too large", Hungry(str(tmp_path), 0)))
    assert finish(engine).failure == "out of memory, on a whole device too"


@pytest.mark.parametrize("words", NODES_OWN)
def test_an_error_that_may_be_the_nodes_is_met_again_before_the_task_has_failed(engine, tmp_path, words):
    engine.submit(Task("soon well", Sick(f"{words} said the node", str(tmp_path / "a"), DEATHS - 1)))
    finished = finish(engine)
    assert (finished.failure, bool(finished.numbers)) == ("", True)
    engine.submit(Task("never well", Sick(f"{words} said the node", str(tmp_path / "b"), DEATHS)))
    assert finish(engine).failure == f"RuntimeError: {words} said the node"
    assert len(list((tmp_path / "b").iterdir())) == DEATHS


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_a_task_that_hangs_is_ended(engine, silent):
    engine.submit(Task("deaf", Deaf(silent), minutes=0.02))
    assert finish(engine).failure == "took longer than 0.02 minutes"
    engine.submit(Task("next", Nap(0.0)))
    assert finish(engine).numbers


@pytest.mark.slow
def test_a_stop_saves_and_returns_everything_unfinished(place, training, tmp_path, monkeypatch):
    """Within the time of grace, which is shorter here; what hears nothing is ended by force."""
    monkeypatch.setattr(cluster_engine, "GRACE_S", 3.0)
    asked: list[int] = []
    with place.engine("cpu", None, 1.0, None, lambda: bool(asked)) as engine:
        engine.submit(Task("long", training(ENDLESS)))
        engine.submit(Task("deaf", Deaf()))
        engine.submit(Task("waits", training(2, "b")))
        wait_until(engine, lambda: {"long", "deaf"} <= set(engine.progress))
        before = saved_step(tmp_path / "candidate" / "state.pt")
        started = time.monotonic()
        asked.append(signal.SIGINT)
        finished = [finish(engine, 10) for _ in range(3)]
        assert time.monotonic() - started < 6
        assert {f.task.name for f in finished} == {"long", "deaf", "waits"}
        assert all(f.numbers is None and f.failure == "" for f in finished)
        assert saved_step(tmp_path / "candidate" / "state.pt") > before
        late = Task("late", training(2))
        engine.submit(late)
        assert finish(engine, 1) == Finished(late)


# ---- refusals


def test_more_workers_than_the_cluster_holds_are_refused(place):
    with (
        pytest.raises(InputError, match=r"search\.workers: 3 trainings at a time, and the cluster has 2 CPUs"),
        place.engine("cpu", 3, 1.0, None, lambda: False),
    ):
        pytest.fail("must not be entered")


def test_a_gpu_that_nobody_has_is_refused(place):
    with pytest.raises(InputError, match="no node of the Ray cluster"):
        place.device("cuda")
    with pytest.raises(InputError, match="a cluster hands them out"):
        place.device("cuda:1")
    assert place.device("auto") == "cpu"


@pytest.mark.parametrize("wanted", [{"version": "0.0.1"}, {"sources": "0" * 64}])
def test_a_node_with_another_package_is_refused(place, photos, tmp_path, wanted, monkeypatch):
    monkeypatch.setattr("paretosr.runs.engines.cluster.installed", lambda: {**installed(), **wanted})
    with pytest.raises(InputError, match=r"^node \S+: has (other sources of )?paretosr [\d.]+"):
        place.check(tmp_path / "run", Data(str(photos)), "cpu", None, timed=False)
    assert not list(tmp_path.rglob("*.part"))


def test_a_node_with_other_images_is_refused(place, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("paretosr.runs.engines.cluster.hashes", lambda data: {"train": "0" * 64})
    with pytest.raises(InputError, match=r"has other train images at the same path than are here"):
        place.check(tmp_path / "run", Data(str(photos)), "cpu", None, timed=False)
    assert not list(tmp_path.rglob("*"))


def test_another_kind_of_device_is_refused_by_name(place, photos, tmp_path):
    with pytest.raises(InputError, match=r"latency\.device_kind: 'H100' fits none of what the cluster has: '"):
        place.check(tmp_path / "run", Data(str(photos)), "cpu", "H100", timed=True)


def test_an_address_without_a_cluster_is_refused_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "nobody.invalid:6379", "nonsense", "ray://127.0.0.1:10001"):
        with pytest.raises(InputError, match=f"^--ray {address}: "):
            reached(address)


def test_the_working_directory_stays_where_it_is_also_under_uv_run():
    """Ray reads the switch when it is imported, so this is seen in a process of its own."""
    look = """
from paretosr.runs.engines.workplace import workplace
from paretosr.spaces import InputError
try:
    with workplace("127.0.0.1:1", print):
        raise SystemExit("connected with nothing")
except InputError:
    from ray._private import ray_constants
    raise SystemExit(int(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV))
"""
    assert subprocess.run([sys.executable, "-c", look], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("words", [("search", "quick"), ("train", "quick"), ("prune", "quick")])
def test_a_missing_ray_is_one_line(paretosr: Command, monkeypatch: pytest.MonkeyPatch, tmp_path, words):
    for name in [
        name
        for name in sys.modules
        if name in ("ray", "paretosr.runs.engines.cluster", "paretosr.runs.engines.ray_engine")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(paretosr(*words, "--ray", "auto"), "Ray is not installed", "pip install 'paretosr[cluster]'")
    assert not list(tmp_path.iterdir())
