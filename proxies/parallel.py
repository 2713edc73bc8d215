"""One training on several devices of a node: every step's batch is shared out, and the gradients are averaged.

The task's own process is the first of the peers; it starts the others, each with a share of every batch and a copy of
the network, and alone saves, measures and reports. The patches of a step are those of a training on one device, and so
is the loss that is minimised; results differ by the rounding of the average, and where a network has batch norms, whose
statistics are those of a share. Source: data parallelism as in Li et al. 2020, "PyTorch Distributed".
"""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..spaces import InputError
from .patches import Patches

if TYPE_CHECKING:
    from .work import TrainWork

PATIENCE_S = 300.0  # so long a peer may keep the others waiting: at the beginning it reads images and starts a device
DYING_S = 2.0  # from the end of its connections to that of a process
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Peers:
    """This process among those that train together: number `rank` of `count`, from 0."""

    rank: int
    count: int

    def share(self, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Its share of a batch `[N, ...]`: every `count`-th patch."""
        return lr[self.rank :: self.count], hr[self.rank :: self.count]

    def average(self, network: nn.Module, loss: float) -> float:
        """Puts the mean over the peers in the place of each gradient; gives the mean of their losses."""
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        device = gradients[0].device
        flat = torch.cat([torch.tensor([loss], device=device), *(g.flatten().float() for g in gradients)])
        dist.all_reduce(flat)
        flat /= self.count
        at = 1
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        return float(flat[0])

    def agree(self, stop: bool, device: torch.device) -> bool:
        """Whether the first peer wants to stop: all of them end at the same step."""
        said = torch.tensor([float(stop)], device=device)
        dist.broadcast(said, 0)
        return bool(said.item())


def refuse_uneven(batch: int, count: int) -> None:
    """InputError where a batch cannot be shared out evenly: the mean of the shares' means would not be its mean."""
    if batch % count:
        raise InputError(f"train.gpus: a batch of {batch} cannot be shared by {count} devices; train.batch must divide")


@contextmanager
def together(work: "TrainWork") -> Iterator[Peers | None]:
    """The peers of a work that wants several devices, started here and ended with the block; None where it wants one.

    RuntimeError where a peer has died, with what it died of.
    """
    if work.gpus == 1:
        yield None
        return
    refuse_uneven(work.training.batch, work.gpus)
    with tempfile.TemporaryDirectory(prefix="paretosr-peers-") as place:
        started: list[subprocess.Popen[bytes]] = []
        try:
            # One by one: where the second cannot be started, the first is known, and is ended below.
            started.extend(_start(work, rank, place) for rank in range(1, work.gpus))
            _wait_for(started, place)
            _join(0, work.gpus, place, work.device)
            yield Peers(0, work.gpus)
        except RuntimeError as error:
            # Of one that is gone the others hear that a connection was closed; what it died of it alone knew.
            of_the_connection = type(error) is RuntimeError or isinstance(error, dist.DistError)
            if of_the_connection and (told := _last_words(started, place)):
                raise RuntimeError(f"another device of the training: {told}") from error
            raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for process in started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()


def _start(work: "TrainWork", rank: int, place: str) -> subprocess.Popen[bytes]:
    """Starts a peer; it is told what to do by its standard input."""
    with (Path(place) / f"{rank}.log").open("wb") as log:
        command = [sys.executable, "-m", "paretosr.proxies.parallel"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # it has died; `_wait_for` says of what
        process.stdin.write(pickle.dumps((work, rank, place, os.getpid())))
    return process


def _wait_for(started: Sequence[subprocess.Popen[bytes]], place: str) -> None:
    """Waits until all peers are about to join; RuntimeError as soon as one has died, or after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not all((Path(place) / f"{rank}.ready").exists() for rank in range(1, len(started) + 1)):
        if any(process.poll() is not None for process in started):
            raise RuntimeError("a peer has died")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the other devices of the training were not ready within {PATIENCE_S:g} s")
        time.sleep(0.02)


def _last_words(started: Sequence[subprocess.Popen[bytes]], place: str) -> str:
    """What the first of the peers that died by themselves died of; empty where all live."""
    deadline = time.monotonic() + DYING_S
    while time.monotonic() < deadline:
        for rank, process in enumerate(started, 1):
            if process.poll():
                lines = (Path(place) / f"{rank}.log").read_text(errors="replace").strip().splitlines()
                killed = f"killed by {signal.Signals(-process.returncode).name}" if process.returncode < 0 else ""
                return killed or (lines[-1] if lines else f"exit code {process.returncode}")
        time.sleep(0.02)
    return ""


def _join(rank: int, count: int, place: str, device: str) -> None:
    """Meets the other peers, over the loopback: they are of one node."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # who waits in vain gets an error, and is not aborted
        torch.cuda.set_device(device)
    if rank:
        (Path(place) / f"{rank}.ready").touch()
    dist.init_process_group(
        backend,
        init_method=f"file://{place}/meeting",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=PATIENCE_S),
    )


def device_of(device: str, rank: int) -> str:
    """The device of a peer: `cuda:2` for the third of those that begin with `cuda:0`; a CPU is shared."""
    kind, _, first = device.partition(":")
    return device if kind == "cpu" else f"{kind}:{int(first or 0) + rank}"


def _peer(train_share: Callable[..., None]) -> None:
    """The life of a peer: trains its share from where the work stands, and ends with the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work, rank, place, parent = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    torch.set_num_threads(1)
    device = device_of(work.device, rank)
    _join(rank, work.gpus, place, device)
    try:
        train_share(work, device, Peers(rank, work.gpus))
    finally:
        dist.destroy_process_group()


class SharedPatches:
    """Patches of which each batch is one peer's share."""

    def __init__(self, patches: Patches, peers: Peers) -> None:
        self.patches, self.peers = patches, peers

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The peer's share of the batch of a step."""
        return self.peers.share(*self.patches.batch(step))


if __name__ == "__main__":
    from .work import train_share

    _peer(train_share)
