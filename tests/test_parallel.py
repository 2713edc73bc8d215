"""A training shared by several processes of this machine: its numbers beside those of one, stops, deaths, refusals."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from paretosr.proxies import parallel as parallel_room
from paretosr.proxies.parallel import Peers, device_of, refuse_uneven
from paretosr.proxies.training import Training, saved_step
from paretosr.proxies.work import Data, TrainWork
from paretosr.spaces import Architecture, Block, Design, InputError

DESIGN = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))
pytestmark = pytest.mark.slow  # every peer imports torch


@pytest.fixture
def work(data: Data, tmp_path: Path) -> TrainWork:
    training = Training(steps=6, batch=4, patch=8, learning_rate=1e-3, ema=0.9)
    return TrainWork(DESIGN, training, data, 3, "cpu", str(tmp_path / "one"))


def perform(work: TrainWork, stop: Any = lambda: False) -> Any:
    return work.perform(lambda said: None, stop)


@pytest.mark.parametrize("count", [2, 4])
def test_shared_batches_train_what_whole_batches_do(work, tmp_path, count):
    one = perform(work)
    shared = perform(replace(work, gpus=count, folder=str(tmp_path / "shared")))
    assert shared["gpus"] == count
    assert shared["psnr_db"] == pytest.approx(one["psnr_db"], abs=2e-3)  # the mean of means rounds otherwise
    for (step, loss), (same, expected) in zip(shared["curve"], one["curve"], strict=True):
        assert step == same
        assert loss == pytest.approx(expected, rel=1e-4)


def test_a_stop_is_one_step_for_all_and_it_goes_on_from_there(work, tmp_path):
    shared, calls = replace(work, gpus=2, folder=str(tmp_path / "shared")), []

    def stop() -> bool:
        calls.append(1)
        return len(calls) >= 3

    assert perform(shared, stop) is None
    assert saved_step(Path(shared.folder) / "state.pt") == 3
    through = perform(replace(shared, folder=str(tmp_path / "through")))
    assert perform(shared)["psnr_db"] == pytest.approx(through["psnr_db"], abs=1e-6)


def test_a_peer_that_dies_ends_the_training_and_leaves_none_behind(work, monkeypatch):
    started: list[subprocess.Popen[bytes]] = []
    start = parallel_room._start

    def noted(*args: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args))
        return started[-1]

    monkeypatch.setattr(parallel_room, "_start", noted)

    def kill() -> None:
        time.sleep(0.3)
        os.kill(started[0].pid, signal.SIGKILL)

    long = replace(work, gpus=3, training=replace(work.training, steps=100_000, batch=6))
    steps: list[int] = []

    def stop() -> bool:
        if not steps:
            Thread(target=kill).start()
        steps.append(1)
        return False

    with pytest.raises(RuntimeError, match=r"^another device of the training: killed by SIGKILL$"):
        perform(long, stop)
    assert steps
    assert all(process.poll() is not None for process in started)


def test_a_peer_that_cannot_begin_ends_the_training_at_once_with_its_reason(work, monkeypatch):
    start = parallel_room._start
    broken = replace(work, gpus=2, device="nowhere")

    def misled(work: TrainWork, *where: Any) -> subprocess.Popen[bytes]:
        return start(broken, *where)

    monkeypatch.setattr(parallel_room, "_start", misled)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"^another device of the training: .*nowhere"):
        perform(replace(work, gpus=2))
    assert time.monotonic() - began < 60


def test_peers_share_every_patch_once():
    import torch

    batch = torch.arange(12.0)[:, None], torch.arange(12.0)[:, None]
    shares = [Peers(rank, 3).share(*batch)[0].flatten().tolist() for rank in range(3)]
    assert sorted(patch for share in shares for patch in share) == list(range(12))
    assert {len(share) for share in shares} == {4}


def test_devices_follow_one_another_and_a_cpu_is_shared():
    assert [device_of("cuda:1", rank) for rank in range(3)] == ["cuda:1", "cuda:2", "cuda:3"]
    assert device_of("cpu", 2) == "cpu"


def test_a_batch_that_cannot_be_shared_evenly_is_refused(work):
    with pytest.raises(InputError, match=r"train.gpus: a batch of 4 cannot be shared by 3 devices"):
        perform(replace(work, gpus=3))
    refuse_uneven(16, 4)
