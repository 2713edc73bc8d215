"""The lock against a second timing, the facts of the machine, and the refusal of devices that are not there."""

import fcntl
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paretosr.proxies import device as device_room
from paretosr.proxies.device import device_facts, device_lock, find_device, training_on
from paretosr.proxies.latency import Protocol, time_together
from paretosr.spaces import InputError


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "cuda:-1", "cuda:99", ""])
def test_unknown_and_absent_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        find_device(name)


@pytest.fixture
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "paretosr-cpu.lock"


def is_free(path: Path) -> bool:
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_lock_holds_while_networks_are_timed(lock_file: Path) -> None:
    free: list[bool] = []

    class Watch(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            free.append(is_free(lock_file))
            return image

    protocol = Protocol(size=(8, 8), warmup_s=0.005, rounds=5, max_rounds=5)
    time_together({"watch": Watch()}, "watch", protocol, "cpu")
    assert free
    assert not any(free)
    assert is_free(lock_file)


def test_a_second_timing_waits(lock_file: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with device_lock("cpu"):
            order.append("second")

    with device_lock("cpu"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_trainings_share_the_lock_and_keep_a_timing_out(lock_file: Path) -> None:
    with training_on("cpu"), training_on("cpu"):
        assert not is_free(lock_file)
        assert is_free(lock_file.with_suffix(".turnstile"))
    assert is_free(lock_file)


def test_a_stream_of_trainings_does_not_starve_a_timing(lock_file: Path) -> None:
    """One is always under way; a timing that waits is let in when they come between two steps, and then they go on."""
    order: list[str] = []
    asked, over = threading.Event(), threading.Event()

    def train(number: int) -> None:
        with training_on("cpu") as give_way:
            while not over.is_set():
                order.append(f"step of {number}")
                give_way()
                time.sleep(0.01)

    def measure() -> None:
        asked.set()
        with device_lock("cpu"):
            order.append("timing begins")
            time.sleep(0.2)
            order.append("timing ends")

    trainings = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    timing = threading.Thread(target=measure)
    for thread in trainings:
        thread.start()
    timing.start()
    timing.join(20)
    stood = len(order)
    assert "timing ends" in order
    while len(order) < stood + 3:
        time.sleep(0.01)
    over.set()
    for thread in trainings:
        thread.join(10)
    assert order.index("timing ends") == order.index("timing begins") + 1, "a training made a step beside the timing"


def test_who_waits_for_too_long_is_told(lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        training_on("cpu"),
        device_room._opened("cpu") as files,
        pytest.raises(TimeoutError, match=r"for 0\.1 s \(\S+paretosr-cpu\.lock is held\)"),
    ):
        device_room._pass(*files, fcntl.LOCK_EX, 0.1)
    monkeypatch.setattr(device_room, "PATIENCE_S", 0.1)
    with device_lock("cpu"), training_on("cpu"):
        pass  # a timing that is held up keeps no training from its end


def test_the_lock_of_another_user_will_do(lock_file: Path) -> None:
    lock_file.touch()
    lock_file.chmod(0o444)
    with device_lock("cpu"):
        assert not is_free(lock_file)


def test_the_lock_can_be_opened_by_others_whatever_the_umask(lock_file: Path) -> None:
    mask = os.umask(0o077)
    try:
        with device_lock("cpu"):
            pass
    finally:
        os.umask(mask)
    assert lock_file.stat().st_mode & 0o777 == 0o644


def test_facts_are_text_and_name_the_machine() -> None:
    facts = device_facts("cpu")
    assert {"device", "cores", "threads", "instruction_set", "torch", "python", "system"} <= set(facts)
    assert all(isinstance(fact, str) and fact for fact in facts.values())
    assert (facts["device"], facts["threads"]) == ("cpu", str(torch.get_num_threads()))


def test_facts_do_without_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no such file")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(device_room.shutil, "which", lambda name: None)
    assert "cpu_clock_mhz" not in device_facts("cpu")
    assert device_room._nvidia_smi("0") == {}


@pytest.mark.parametrize("answer", ["echo 'No devices were found'", "exit 9", "echo 570.1, 1980, 2619, 31, 700.0"])
def test_nvidia_smi_is_believed_only_when_it_answers(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{answer}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = device_room._nvidia_smi("0")
    if "570" in answer:
        assert found["driver"] == "570.1"
        assert found["gpu_clock_mhz"] == "1980"
    else:
        assert found == {}
