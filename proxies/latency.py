"""How long a network takes on the machine at hand, always beside a reference network, never from its FLOPs.

Two timings taken one after the other differ by what the machine did in between. So all networks are timed in the same
rounds, each round gives one ratio to the reference, and the ratio with its interval is the result. How it was
measured is a `Protocol`; numbers measured by protocols of different `label()` must never be compared.
"""

import copy
import math
import os
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces import InputError, unknown
from .device import device_facts as device_facts  # part of this door: what to record beside a timing
from .device import device_lock, find_device, measuring
from .latency_methods import METHODS, Forward, Timing
from .latency_methods import summarise as summarise  # part of this door

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
EXECUTIONS = ("eager", "compiled", "graph")

# What the challenges' scripts fix: with anything else the number would be none of theirs.
FIXED: dict[str, dict[str, Any]] = {
    "steady": {},
    "aim2020": {"execution": "eager", "batch": 1, "cudnn_benchmark": True},
    "ntire": {"execution": "eager", "batch": 1, "cudnn_benchmark": False},
}
# The fields that mean nothing to a protocol.
UNUSED: dict[str, tuple[str, ...]] = {
    "steady": ("images",),
    "aim2020": ("warmup_s", "rounds", "max_rounds"),
    "ntire": ("warmup_s", "rounds", "max_rounds"),
}


@dataclass(frozen=True)
class Protocol:
    """How latency is measured; all that changes the number is in `label()`.

    `name`: of `METHODS`, which say what is faithful in those of the challenges. `precision`: fp32 (TF32 off), tf32
    (CUDA only), fp16 or bf16 (weights and input cast). `layout`: nchw or nhwc. `execution`: eager, compiled
    (torch.compile), or graph (a replayed CUDA graph). `batch` images of `size` (height, width) low-resolution pixels.
    `threads`: on a CPU. `interval`: the widest that is not marked, its width over its ratio.

    Of `steady` alone: `warmup_s`, seconds per network; `rounds`, how many at first, and again while an interval is
    wider than `interval`, up to `max_rounds`. Of the challenges alone: `images`, how many there are in a pass; most of
    them have `size` (see `sizes`). Raises InputError where a value makes no sense, or none with this `name`.
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
    images: int = 100  # as many as DIV2K has for validation

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
            ("images", self.images, 5),
            ("max_rounds", self.max_rounds, self.rounds),
        ):
            if not isinstance(given, int) or isinstance(given, bool) or given < least:
                raise InputError(f"latency: {what} must be a whole number of at least {least}, not {given!r}")
        if not isinstance(self.cudnn_benchmark, bool):
            raise InputError(f"latency: cudnn_benchmark must be true or false, not {self.cudnn_benchmark!r}")
        for what, given in (("warmup_s", self.warmup_s), ("interval", self.interval)):
            if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given < math.inf:
                raise InputError(f"latency: {what} must be a positive number, not {given!r}")
        defaults = {field.name: field.default for field in fields(self)}
        for what, why in misfits(self.name, asdict(self), defaults):
            raise InputError(f"latency: {what} {why}")

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The size of every image of a pass, in order; `steady` has one image.

        Of eight images of a challenge five have `size`, one is turned by a quarter, one is 17/15 and one 17/20 as high:
        339x510 gives 510x339, 384x510 and 288x510, shapes that DIV2K's x4 images have. The mix is ours.
        """
        height, width = self.size
        if self.name == "steady":
            return (self.size,)
        flat, tall = (round(height * 17 / 20), width), (round(height * 17 / 15), width)
        mix = (self.size, self.size, (width, height), self.size, tall, self.size, flat, self.size)
        return tuple(mix[number % len(mix)] for number in range(self.images))

    @property
    def smallest(self) -> int:
        """The shortest side of all images, in pixels."""
        return min(side for size in self.sizes for side in size)

    def label(self) -> str:
        """All that changes the number, in one line."""
        height, width = self.size
        threads = f"{self.threads} CPU thread{'' if self.threads == 1 else 's'}"
        benchmark = "on" if self.cudnn_benchmark else "off"
        input_ = f"batch {self.batch} of" if self.name == "steady" else f"{self.images} images like"
        return (
            f"{self.name}, {self.precision}, {self.layout.upper()}, {self.execution}, "
            f"{input_} 3x{height}x{width}, {threads}, cuDNN benchmark {benchmark}"
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values; `Protocol(**data)` takes them back."""
        return {**asdict(self), "size": list(self.size)}


def misfits(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, why) for each value that does not go with the protocol `name`: another than it fixes, or without effect.

    A field without effect must stand at its default, so that nobody believes in a setting that changes nothing.
    """
    for what, value in FIXED[name].items():
        if given[what] != value:
            yield what, f"must be {str(value).lower()} with the protocol '{name}', not {str(given[what]).lower()}"
    for what in UNUSED[name]:
        if given[what] != defaults[what]:
            yield what, f"has no effect with the protocol '{name}'; leave it at {defaults[what]}"


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


def refuse_small_images(least: Mapping[str, int], protocol: Protocol) -> None:
    """Raises InputError for the first network, by name, that needs larger images than the protocol's."""
    for name, side in least.items():
        if protocol.smallest < side:
            wanted = f"needs images of {side}x{side} pixels"
            raise InputError(f"'{name}' {wanted}, and those to time have down to {protocol.smallest}")


def peak_memory_mb(network: nn.Module, protocol: Protocol, device: str, *, calm: bool = True) -> float | None:
    """The most memory that weights, input and one forward held at once, in units of 2^20 bytes; None on a CPU.

    It is `max_memory_allocated`, less what was allocated before. A graph is measured as eager, whose buffers it keeps.
    Of images of several sizes the largest counts; one of each other size is there beside it. calm: whether timings of
    other processes are kept from being disturbed. A work that is not exclusive says no: it may be suspended with the
    lock in hand, and the timing that it is suspended for would wait for it.
    """
    found = find_device(device)
    if found.type != "cuda":
        return None
    _refuse_impossible(protocol, found)
    with device_lock(device) if calm else nullcontext(), _conditions(protocol, found):
        before = torch.cuda.memory_allocated(found)
        forwards = _prepare(network, protocol, found, execution="eager" if protocol.execution == "graph" else None)
        forwards = list(dict.fromkeys(forwards))  # one for each size
        for forward in forwards:
            forward()  # compiles, and tries cuDNN's algorithms, whose workspaces are not the network's
        torch.cuda.synchronize(found)
        torch.cuda.reset_peak_memory_stats(found)
        for forward in forwards:
            forward()
        torch.cuda.synchronize(found)
        return (torch.cuda.max_memory_allocated(found) - before) / 2**20


def _conditions(protocol: Protocol, device: torch.device) -> AbstractContextManager[None]:
    """The settings of a protocol, for the duration of a block."""
    return measuring(
        device, threads=protocol.threads, tf32=protocol.precision == "tf32", cudnn_benchmark=protocol.cudnn_benchmark
    )


def _prepare(
    network: nn.Module, protocol: Protocol, device: torch.device, execution: str | None = None
) -> list[Forward]:
    """For each image of the protocol one call without arguments, all of one copy of the network in the protocol's form.

    Images of one size are one image, since pixels do not change the time.
    """
    kind, layout = PRECISIONS[protocol.precision], LAYOUTS[protocol.layout]
    images = {}
    with torch.inference_mode(False), torch.no_grad():
        model = copy.deepcopy(network).eval().to(device, kind).to(memory_format=layout)  # type: ignore[call-overload]
        for size in set(protocol.sizes):
            shape = (protocol.batch, 3, *size)
            image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
            images[size] = image.to(device=device, dtype=kind, memory_format=layout)
    forwards = {size: _forward(model, image, execution or protocol.execution) for size, image in images.items()}
    return [forwards[size] for size in protocol.sizes]


def _forward(model: nn.Module, image: Tensor, execution: str) -> Forward:
    """The model applied to the image, executed as asked, as a call without arguments."""
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


# The protocols by name, with their defaults.
PROTOCOLS: dict[str, Protocol] = {
    "steady": Protocol(),
    "aim2020": Protocol("aim2020", size=(339, 510)),
    "ntire": Protocol("ntire", size=(339, 510), cudnn_benchmark=False),
}
