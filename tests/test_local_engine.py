"""The local engine with real worker processes: what becomes of tasks, of workers that die, and of a stop.

A worker takes two seconds to start, so the first tests share an engine and use what the ones before them left.
"""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hard_works import Broken, Hungry

from paretosr.proxies.latency import Protocol
from paretosr.proxies.training import Training, saved_step
from paretosr.proxies.work import Data, TimeWork, TrainWork
from paretosr.runs.engines.local import LocalEngine
from paretosr.runs.engines.outcome import DEATHS, LACKS_MEMORY
from paretosr.search.engine import Finished, Task
from paretosr.spaces import Architecture, Block, Design

PATIENCE_S = 60
ENDLESS = 10**9
SMALL = Design(Architecture(width=4, blocks=(Block.of("residual"),)))
QUICK = Protocol(size=(16, 16), warmup_s=0.01, rounds=5, max_rounds=5, threads=2)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(1) as engine:
        yield engine


@pytest.fixture
def training(photos: Path, tmp_path: Path) -> Callable[..., TrainWork]:
    """Makes the work of training a tiny network for so many steps."""

    def make(steps: int, name: str = "candidate", source: Path = photos, **changes: Any) -> TrainWork:
        how = Training(steps=steps, batch=1, patch=8, **changes)
        return TrainWork(SMALL, how, Data(str(source)), 0, "cpu", str(tmp_path / name))

    return make


def finish(engine: LocalEngine, seconds: float = PATIENCE_S) -> Finished:
    finished = engine.next(seconds)
    assert finished is not None, f"nothing finished within {seconds} s"
    return finished


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.01)


def wait_until(engine: LocalEngine, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Lets the engine work until the condition holds; no task may finish meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        assert engine.next(0.02) is None


def workers() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid}


def state(pid: int) -> str:
    """R, S, D, T (stopped) or Z; "gone" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


# ---- one engine, one slot


def test_a_task_is_done_though_a_ctrl_c_reaches_its_worker_in_the_cradle(engine, training, tmp_path):
    engine.submit(Task("first", training(3)))
    (worker,) = workers()
    os.kill(worker, signal.SIGINT)  # the terminal sends it to the whole process group
    os.kill(worker, signal.SIGTERM)
    finished = finish(engine)
    assert (finished.task.name, finished.failure) == ("first", "")
    numbers = finished.numbers
    assert numbers is not None
    assert numbers["steps"] == 3
    assert numbers["threads"] == 1
    assert numbers["psnr_db"] == pytest.approx(sum(numbers["psnr_per_image_db"].values()))
    assert (tmp_path / "candidate" / "model.safetensors").is_file()
    assert engine.next(0) is None
    assert workers() == {worker}, "the worker waits for the next task"


def test_a_timing_leaves_its_worker_with_one_thread(engine, training):
    engine.submit(Task("timing", TimeWork({"network": SMALL}, SMALL, QUICK, "cpu")))
    timing = finish(engine).numbers
    assert timing is not None
    assert timing["network"]["ratio"] > 0
    engine.submit(Task("after", training(2)))
    numbers = finish(engine).numbers
    assert numbers is not None
    assert numbers["threads"] == 1
    assert len(workers()) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learning_rate": 1e30}, "non-finite loss ("),
        ({"loss": "multi_exit"}, f"train.loss: 'multi_exit' needs a network with early exits, and {SMALL.summary()}"),
        ({"source": Path("/nowhere/photos")}, "/nowhere/photos: no such folder of images"),
    ],
)
def test_a_failure_has_its_reason_in_one_line(engine, training, change, reason):
    engine.submit(Task("bad", training(30, **change)))
    finished = finish(engine)
    assert finished.numbers is None
    assert finished.failure.startswith(reason)
    assert "\n" not in finished.failure


def test_a_worker_that_died_in_its_sleep_is_replaced_and_nobody_blamed(engine, training):
    (idle,) = multiprocessing.active_children()
    idle.kill()
    idle.join(10)
    engine.submit(Task("next", training(2)))
    assert finish(engine).failure == ""
    assert idle.pid not in workers()


def test_what_was_killed_is_tried_again_then_alone_and_then_fails(engine, training):
    """A SIGKILL may be what the system does to the largest process when memory ends."""
    engine.submit(Task("long", training(ENDLESS, "a")))
    engine.submit(Task("next", training(2, "b")))
    killed = set()
    for _ in range(DEATHS):
        wait_until(engine, lambda: engine.progress)
        assert engine.progress["long"]["steps"] == ENDLESS
        (worker,) = workers()
        killed.add(worker)
        os.kill(worker, signal.SIGKILL)
        if len(killed) < DEATHS:
            wait_until(engine, lambda: not engine.progress)
    finished = finish(engine)
    assert len(killed) == DEATHS
    assert (finished.task.name, finished.numbers) == ("long", None)
    why = "the worker was killed by SIGKILL (out of memory?), on a whole device too; its tensors were to take 0 MB"
    assert finished.failure == why
    assert not engine.progress
    finished = finish(engine)
    assert (finished.task.name, finished.failure) == ("next", "")


def test_what_ran_out_of_memory_beside_others_has_the_device_alone(tmp_path):
    with LocalEngine(2) as engine:
        engine.submit(Task("beside", Hungry(str(tmp_path), 9, patience_s=1.0)))
        engine.submit(Task("hungry", Hungry(str(tmp_path), 1, patience_s=0.2)))
        engine.submit(Task("third", Hungry(str(tmp_path), 9, patience_s=0.2)))
        finished = [finish(engine) for _ in range(3)]
    assert all(f.failure == "" for f in finished), finished
    assert [f.task.name for f in finished].index("hungry") < 2, "its second chance comes before what waited behind it"


def test_what_runs_out_of_memory_alone_fails_and_says_so(engine, tmp_path):
    engine.submit(Task("too large", Hungry(str(tmp_path), 0)))
    assert finish(engine).failure == "out of memory, on a whole device too"


def test_a_worker_whose_gpu_is_out_of_order_does_nothing_more(engine, training):
    (worker,) = workers()
    engine.submit(Task("broken", Broken("CUDA error: an illegal memory access was encountered")))
    engine.submit(Task("next", training(2)))
    assert finish(engine).failure == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert finish(engine).failure == ""
    assert state(worker) == "gone"


@pytest.mark.parametrize("words", LACKS_MEMORY)
def test_a_lack_of_memory_is_known_by_its_many_names(engine, words):
    engine.submit(Task("too large", Broken(f"{words}, said the library")))
    assert finish(engine).failure == "out of memory, on a whole device too"


def test_a_task_that_takes_too_long_is_ended(engine, training):
    (worker,) = workers()
    engine.submit(Task("slow", training(ENDLESS), minutes=0.02))
    assert finish(engine).failure == "took longer than 0.02 minutes"
    assert state(worker) == "gone"
    assert not workers()


# ---- exclusive tasks


def test_an_exclusive_task_has_the_machine_for_itself(training):
    others = workers()
    with LocalEngine(1) as engine:
        engine.submit(Task("long", training(ENDLESS)))
        wait_until(engine, lambda: engine.progress)
        (trainer,) = workers() - others
        engine.submit(Task("timing", TimeWork({"network": SMALL}, SMALL, QUICK, "cpu")))
        engine.submit(Task("waits", training(2, "b")))
        until(lambda: state(trainer) == "T")
        seen, steps = set(), set()
        while (finished := engine.next(0.02)) is None:
            seen.add(state(trainer))
            steps.add(engine.progress["long"]["step"])
        assert finished.task.name == "timing"
        assert finished.numbers is not None
        assert seen == {"T"}, "the trainer was to be suspended, all the time"
        assert len(steps) == 1
        assert len(workers() - others) == 2
        (stood_at,) = steps
        wait_until(engine, lambda: engine.progress["long"]["step"] > stood_at)
        assert state(trainer) != "T"
        # A suspended worker that is killed is noticed, too; its training goes on in another.
        engine.submit(Task("timing again", TimeWork({"network": SMALL}, SMALL, QUICK, "cpu")))
        os.kill(trainer, signal.SIGKILL)
        assert finish(engine).task.name == "timing again"
        wait_until(engine, lambda: engine.progress and engine.progress["long"]["step"] > stood_at)


# ---- a stop


def test_a_stop_saves_and_returns_everything_unfinished_within_ten_seconds(training, tmp_path):
    asked: list[int] = []
    others = workers()
    endless = Protocol(size=(16, 16), warmup_s=1000.0, rounds=5, max_rounds=5)
    with LocalEngine(1, lambda: bool(asked)) as engine:
        engine.submit(Task("long", training(ENDLESS)))
        wait_until(engine, lambda: engine.progress)
        (trainer,) = workers() - others
        engine.submit(Task("waits", training(2, "b")))
        engine.submit(Task("timing", TimeWork({"network": SMALL}, SMALL, endless, "cpu")))
        wait_until(engine, lambda: state(trainer) == "T")
        saved = tmp_path / "candidate" / "state.pt"
        before = saved_step(saved)
        saved.unlink()  # it may stand at the very step of the suspension: only a new one proves that the stop saved
        started = time.monotonic()
        asked.append(signal.SIGINT)
        assert engine.stopping
        finished = [finish(engine, 10) for _ in range(3)]
        assert time.monotonic() - started < 10
        assert {f.task.name for f in finished} == {"long", "waits", "timing"}
        assert all(f.numbers is None and f.failure == "" for f in finished)
        assert saved_step(saved) >= before > 0
        late = Task("late", training(2))
        engine.submit(late)
        assert finish(engine, 1) == Finished(late)
    assert workers() == others


DRIVER = """
import sys
from paretosr.proxies.latency import Protocol
from paretosr.proxies.training import Training
from paretosr.proxies.work import Data, TimeWork, TrainWork
from paretosr.runs.engines.local import LocalEngine
from paretosr.runs.engines.outcome import DEATHS, LACKS_MEMORY
from paretosr.search.engine import Task
from paretosr.spaces import Architecture, Block, Design
import multiprocessing

if __name__ == "__main__":
    photos, folder = sys.argv[1:]
    small = Design(Architecture(width=4, blocks=(Block.of("residual"),)))
    engine = LocalEngine(1)
    work = TrainWork(small, Training(10**9, batch=1, patch=8), Data(photos), 0, "cpu", folder)
    engine.submit(Task("long", work))
    while not engine.progress:
        engine.next(0.1)
    protocol = Protocol(size=(16, 16), warmup_s=1000.0, rounds=5, max_rounds=5)
    engine.submit(Task("timing", TimeWork({"network": small}, small, protocol, "cpu")))
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    while True:
        engine.next(1.0)
"""


def test_no_worker_outlives_a_killed_driver_suspended_or_not(photos, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(photos), str(tmp_path / "candidate")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            pids = [int(pid) for pid in driver.stdout.readline().split()]
            assert len(pids) == 2
            until(lambda: sorted(state(pid) == "T" for pid in pids) == [False, True])
        finally:
            driver.kill()
    # One of them may still be starting: it looks for its driver once it has.
    until(lambda: all(state(pid) in ("gone", "Z") for pid in pids), 20)


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no program to mount a small disk with")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("filled_bytes", [0, 524_288])
def test_a_full_disk_is_nobodys_failure(engine, training, small_disk, filled_bytes):
    """Also one that has room for small files: what could not be written whole is taken away, and leaves room again."""
    wide = Design(Architecture(width=64, blocks=(Block.of("residual"),)))
    (small_disk / "filler").write_bytes(bytes(filled_bytes))
    work = training(2)
    big = TrainWork(wide, work.training, work.data, 0, "cpu", str(small_disk / "candidate"))
    engine.submit(Task("big", big))
    with pytest.raises(OSError, match="No space left") as raised:
        finish(engine)
    assert raised.value.errno == errno.ENOSPC
    assert str(raised.value.filename).startswith(str(small_disk))
    assert not list(small_disk.rglob("*.part"))
