"""How long a network takes on the machine at hand, always beside a reference network, never from its FLOPs.

Two timings taken one after the other differ by what the machine did in between. So all networks are timed in the same
rounds, each round gives one ratio to the reference, and the ratio with its interval is the result. How it was
measured is a `Protocol`; numbers measured by protocols of different `label()` must never be compared.
"""

import copy
import math
import os
import shutil
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..spaces import InputError, unknown
from .device import device_facts as device_facts  # part of this door: what to record beside a timing
from .device import device_lock, find_device, measuring

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
EXECUTIONS = ("eager", "compiled", "graph")

# A sample of a quick network is the mean over at least this long. A few milliseconds would do for the clock, but not on
# a busy machine: against a reference of 65 ms, samples of 7 ms spread the ratio by 4.8%, samples of 30 ms by 2.0%.
SAMPLE_MS = 25.0
RESAMPLES = 2000  # of the bootstrap

Forward = Callable[[], object]


@dataclass(frozen=True)
class Protocol:
    """How latency is measured; all that changes the number is in `label()`.

    `precision`: fp32 (TF32 off), tf32 (CUDA only), fp16 or bf16 (weights and input cast). `layout`: nchw or nhwc.
    `execution`: eager, compiled (torch.compile), or graph (a replayed CUDA graph). `batch` images of `size` (height,
    width) low-resolution pixels. `threads`: on a CPU. `warmup_s`: seconds per network. `rounds`: how many at first,
    and again while an interval is wider than `interval` (its width over its ratio), up to `max_rounds`.
    Raises InputError where a value makes no sense.
    """

    name: str = "steady"
    precision: str = "fp32"
    layout: str = "nchw"
    execution: str = "eager"
    batch: int = 1
    size: tuple[int, int] = (64, 64)
    threads: int = 1
    cudnn_benchmark: bool = True
    warmup_s: float = 0.1
    rounds: int = 12
    max_rounds: int = 36
    interval: float = 0.05

    def __post_init__(self) -> None:
        for what, given, known in (
            ("protocol", self.name, METHODS),
            ("precision", self.precision, PRECISIONS),
            ("layout", self.layout, LAYOUTS),
            ("execution", self.execution, EXECUTIONS),
        ):
            if given not in list(known):  # a list, since what is not hashable may be given
                raise InputError(f"latency: {unknown(what, given, known)}")
        if not isinstance(self.size, tuple | list) or len(self.size) != 2:
            raise InputError(f"latency: size must be two whole numbers, height and width, not {self.size!r}")
        object.__setattr__(self, "size", tuple(self.size))  # YAML and JSON know lists only
        height, width = self.size
        for what, given, least in (
            ("batch", self.batch, 1),
            ("size", height, 1),
            ("size", width, 1),
            ("threads", self.threads, 1),
            ("rounds", self.rounds, 5),  # fewer give no interval worth the name
            ("max_rounds", self.max_rounds, self.rounds),
        ):
            if not isinstance(given, int) or isinstance(given, bool) or given < least:
                raise InputError(f"latency: {what} must be a whole number of at least {least}, not {given!r}")
        if not isinstance(self.cudnn_benchmark, bool):
            raise InputError(f"latency: cudnn_benchmark must be true or false, not {self.cudnn_benchmark!r}")
        for what, given in (("warmup_s", self.warmup_s), ("interval", self.interval)):
            if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given < math.inf:
                raise InputError(f"latency: {what} must be a positive number, not {given!r}")

    def label(self) -> str:
        """All that changes the number, in one line."""
        height, width = self.size
        threads = f"{self.threads} CPU thread{'' if self.threads == 1 else 's'}"
        benchmark = "on" if self.cudnn_benchmark else "off"
        return (
            f"{self.name}, {self.precision}, {self.layout.upper()}, {self.execution}, "
            f"batch {self.batch} of 3x{height}x{width}, {threads}, cuDNN benchmark {benchmark}"
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values; `Protocol(**data)` takes them back."""
        return {**asdict(self), "size": list(self.size)}


@dataclass(frozen=True)
class Timing:
    """One network's time for one forward of the protocol's batch; lower is better.

    `latency_ms` is the median, `iqr_ms` the interquartile range. `ratio` is the median over the rounds of (this
    network's time / the reference's time), `ratio_low` and `ratio_high` its 95% bootstrap interval. Both lists of
    samples have one entry per round. `wide`: the interval is wider than the protocol asked, in spite of more rounds.
    """

    latency_ms: float
    iqr_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    samples_ms: tuple[float, ...]
    reference_samples_ms: tuple[float, ...]
    wide: bool

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def summarise(samples_ms: Sequence[float], reference_samples_ms: Sequence[float], interval: float) -> Timing:
    """The statistics of one network's samples beside the reference's of the same rounds; pure, and seeded.

    The ratio is the median of the rounds' ratios, not the ratio of the two medians: a machine that is slow for some of
    the rounds is slow for both networks, which a round's ratio does not see, while two medians may be taken from
    different states of the machine. Source of the interval: Efron and Tibshirani 1993, percentile bootstrap.
    """
    own, reference = np.asarray(samples_ms, float), np.asarray(reference_samples_ms, float)
    if own.shape != reference.shape or own.ndim != 1 or not own.size:
        raise ValueError(f"samples must be two lists of equal length, not of shapes {own.shape} and {reference.shape}")
    ratios = own / reference
    draws = np.random.default_rng(0).integers(0, own.size, (RESAMPLES, own.size))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    ratio = float(np.median(ratios))
    return Timing(
        latency_ms=float(np.median(own)),
        iqr_ms=float(np.subtract(*np.quantile(own, [0.75, 0.25]))),
        ratio=ratio,
        ratio_low=float(low),
        ratio_high=float(high),
        samples_ms=tuple(own.tolist()),
        reference_samples_ms=tuple(reference.tolist()),
        wide=bool(high - low > interval * ratio),
    )


def time_together(
    networks: Mapping[str, nn.Module], reference: str, protocol: Protocol, device: str
) -> dict[str, Timing]:
    """Times all `networks` in the same rounds on `device`; one of them, named `reference`, is the yardstick.

    Weights do not change latency, so untrained networks will do. Copies are timed: the networks, torch's settings and
    the number of threads are afterwards what they were. No other process times on the device meanwhile (`device_lock`);
    keeping trainings away is the caller's part. Raises InputError where protocol and device do not go together.
    """
    if reference not in networks:
        raise InputError(f"latency: {unknown('reference network', reference, networks)}")
    found = find_device(device)
    _refuse_impossible(protocol, found)
    with device_lock(device), _conditions(protocol, found):
        forwards = {name: _prepare(network, protocol, found) for name, network in networks.items()}
        return METHODS[protocol.name](forwards, reference, protocol, found)


def peak_memory_mb(network: nn.Module, protocol: Protocol, device: str) -> float | None:
    """The most memory that weights, input and one forward held at once, in units of 2^20 bytes; None on a CPU.

    It is `max_memory_allocated`, less what was allocated before. A graph is measured as eager, whose buffers it keeps.
    """
    found = find_device(device)
    if found.type != "cuda":
        return None
    _refuse_impossible(protocol, found)
    with device_lock(device), _conditions(protocol, found):
        before = torch.cuda.memory_allocated(found)
        forward = _prepare(network, protocol, found, execution="eager" if protocol.execution == "graph" else None)
        forward()  # compiles, and tries cuDNN's algorithms, whose workspaces are not the network's
        torch.cuda.synchronize(found)
        torch.cuda.reset_peak_memory_stats(found)
        forward()
        torch.cuda.synchronize(found)
        return (torch.cuda.max_memory_allocated(found) - before) / 2**20


def _conditions(protocol: Protocol, device: torch.device) -> AbstractContextManager[None]:
    """The settings of a protocol, for the duration of a block."""
    return measuring(
        device, threads=protocol.threads, tf32=protocol.precision == "tf32", cudnn_benchmark=protocol.cudnn_benchmark
    )


def _steady(
    forwards: Mapping[str, Forward], reference: str, protocol: Protocol, device: torch.device
) -> dict[str, Timing]:
    """Warm-up by time, then rounds that time every network once, each in an order of its own (by a fixed seed).

    After each batch of rounds those networks go on whose interval is still too wide, and the reference with them.
    """
    repeats = {name: _warm_up(forward, protocol, device) for name, forward in forwards.items()}
    samples: dict[str, list[float]] = {name: [] for name in forwards}
    timings: dict[str, Timing] = {}
    running = list(forwards)
    done = 0
    while running and done < protocol.max_rounds:
        upto = min(done + protocol.rounds, protocol.max_rounds)
        for number in range(done, upto):
            for place in np.random.default_rng(number).permutation(len(running)):
                name = running[place]
                samples[name].append(_sample_ms(forwards[name], repeats[name], device))
        done = upto
        timings |= {name: summarise(samples[name], samples[reference], protocol.interval) for name in running}
        wide = [name for name in running if timings[name].wide]
        running = [*wide, reference] if wide else []
    return {name: timings[name] for name in forwards}


def _warm_up(forward: Forward, protocol: Protocol, device: torch.device) -> int:
    """Runs for the protocol's time, at least twice; gives how many forwards make a sample of `SAMPLE_MS`."""
    fastest, calls, start = math.inf, 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < protocol.warmup_s:
        fastest = min(fastest, _sample_ms(forward, 1, device))
        calls += 1
    return max(1, math.ceil(SAMPLE_MS / max(fastest, 1e-3)))


def _sample_ms(forward: Forward, repeats: int, device: torch.device) -> float:
    """Milliseconds of one forward, the mean over `repeats` in a row; on CUDA, between two events of its stream."""
    if device.type == "cpu":
        start = time.perf_counter()
        for _ in range(repeats):
            forward()
        return (time.perf_counter() - start) * 1e3 / repeats
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(repeats):
        forward()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def _prepare(network: nn.Module, protocol: Protocol, device: torch.device, execution: str | None = None) -> Forward:
    """A copy of the network in the protocol's form, and its input, as one call without arguments."""
    kind, layout = PRECISIONS[protocol.precision], LAYOUTS[protocol.layout]
    with torch.inference_mode(False), torch.no_grad():
        model = copy.deepcopy(network).eval().to(device, kind).to(memory_format=layout)  # type: ignore[call-overload]
        shape = (protocol.batch, 3, *protocol.size)
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        image = image.to(device=device, dtype=kind, memory_format=layout)
    execution = execution or protocol.execution
    if execution == "graph":
        return _graphed(model, image)
    forward = torch.compile(_own_code(model), dynamic=False, fullgraph=True) if execution == "compiled" else model
    return lambda: forward(image)


def _own_code(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model as a function with a code object of its own.

    torch.compile keeps its results per code object and, from the ninth network of one class on, would run the rest
    uncompiled.
    """

    def forward(image: Tensor) -> Tensor:
        return model(image)

    return types.FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)


def _graphed(model: nn.Module, image: Tensor) -> Forward:
    """The forward as a CUDA graph, which is replayed without Python and without launching kernels one by one."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as the capture asks: libraries set themselves up on another stream
        for _ in range(3):
            model(image)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = model(image)

    def replay() -> Tensor:
        graph.replay()
        return output

    replay.keeps = (model, image)  # type: ignore[attr-defined]  # the graph reads their memory and does not own it
    return replay


def _refuse_impossible(protocol: Protocol, device: torch.device) -> None:
    """Raises where the machine cannot do what the protocol says."""
    if device.type == "cpu" and protocol.execution == "graph":
        raise InputError("latency: execution 'graph' replays a CUDA graph and needs a CUDA device; a CPU has none")
    if device.type == "cpu" and protocol.precision == "tf32":
        raise InputError("latency: precision 'tf32' exists on CUDA devices only; on a CPU take fp32, fp16 or bf16")
    compilers = (os.environ.get("CXX", "").partition(" ")[0], "g++", "c++", "clang++")
    if protocol.execution == "compiled" and not any(name and shutil.which(name) for name in compilers):
        raise InputError("latency: execution 'compiled' needs a C++ compiler (g++ or clang++), and none is installed")


# How a protocol turns prepared forwards into timings: (forwards by name, reference, protocol, device) -> timings.
METHODS: dict[str, Callable[[Mapping[str, Forward], str, Protocol, torch.device], dict[str, Timing]]] = {
    "steady": _steady,
}

# The protocols by name, with their defaults.
PROTOCOLS: dict[str, Protocol] = {
    "steady": Protocol(),
}
