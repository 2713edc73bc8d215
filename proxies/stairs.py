"""How long a convolution takes over its widths: not a slope but stairs, whose steps are a device's own.

A width of 33 costs some devices what 48 costs. Who wants to make a network faster by taking channels away must know
where the steps are, so they are measured: for every kind of convolution that a network calls, on a grid of widths.
"""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .device import device_facts, device_lock, find_device, measuring
from .latency import LAYOUTS, PRECISIONS, Protocol
from .latency_methods import sample_ms
from .writing import cache_folder, write_json

STEP = 8  # channels between two points of a grid: vector units are 8 to 64 wide
POINTS = 12  # of a grid at most, for each side
SECONDS = 300.0  # for one network on a new device, at most
SAMPLE_MS = 2.0  # a sample is the mean over at least this long
MOST_ROUNDS = 12
# What is part of a measured time, of all that is known of a device.
FACTS = ("gpu", "cpu", "instruction_set", "torch", "cuda", "cudnn", "capability")


@dataclass(frozen=True)
class Kind:
    """What kind of convolution, on how large a map: `size` is (height, width) of its input, in pixels."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    depthwise: bool
    size: tuple[int, int]


@dataclass(frozen=True)
class Call:
    """One call of a convolution in a forward: its module's name, its kind, its widths (channels)."""

    name: str
    kind: Kind
    inputs: int
    outputs: int


def calls_of(network: nn.Module, size: tuple[int, int]) -> list[Call]:
    """The calls of all plain and depthwise convolutions, in order, on one image of `size` (height, width).

    Grouped and transposed ones are left out: their time belongs to the rest of the network.
    """
    calls: list[Call] = []

    def note(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
            kind = _kind(module, inputs[0])  # type: ignore[arg-type]
            calls.append(Call(name, kind, module.in_channels, module.out_channels))  # type: ignore[arg-type]

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and (module.groups == 1 or _is_depthwise(module))
    ]
    some = next(network.parameters())
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, *size, device=some.device, dtype=some.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1


def _kind(conv: nn.Conv2d, x: torch.Tensor) -> Kind:
    padding = (0, 0) if isinstance(conv.padding, str) else conv.padding
    pairs = (_pair(value) for value in (conv.kernel_size, conv.stride, padding, conv.dilation))
    return Kind(*pairs, depthwise=_is_depthwise(conv), size=_pair(x.shape[2:]))  # type: ignore[misc]


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def grid(width: int) -> tuple[int, ...]:
    """The widths at which a side of `width` channels is measured: all if it has few, else multiples of a step."""
    if width <= POINTS:
        return tuple(range(1, width + 1))
    step = STEP * math.ceil(width / STEP / POINTS) if width >= 4 * STEP else STEP // 2
    return tuple(sorted({*range(step, width + 1, step), width}))


@dataclass(frozen=True)
class Stairs:
    """Milliseconds of one call by kind and (inputs, outputs), on the grids of the widest that was asked for."""

    tables: Mapping[Kind, Mapping[tuple[int, int], float]]

    def ms(self, kind: Kind, inputs: int, outputs: int) -> float:
        """One call with these widths: that of the next point of the grid upwards. 0 for no channels at all.

        Raises KeyError where the kind, or so wide a one, was not measured.
        """
        if not inputs or not outputs:
            return 0.0
        table = self.tables[kind]
        if kind.depthwise:
            return table[_up(outputs, table, 1), _up(outputs, table, 1)]
        return table[_up(inputs, table, 0), _up(outputs, table, 1)]

    def widths(self, kind: Kind, side: int) -> tuple[int, ...]:
        """The widths of the grid on one side (0: inputs, 1: outputs), rising."""
        return tuple(sorted({point[side] for point in self.tables[kind]}))

    def total_ms(self, calls: Iterable[Call]) -> float:
        """All the calls of a network."""
        return sum(self.ms(call.kind, call.inputs, call.outputs) for call in calls)


def _up(width: int, table: Mapping[tuple[int, int], float], side: int) -> int:
    fitting = [point[side] for point in table if point[side] >= width]
    if not fitting:
        raise KeyError(f"a width of {width} was not measured")
    return min(fitting)


@dataclass(frozen=True)
class Estimate:
    """How long a network takes by the stairs, and what is not convolution.

    rest_ms: what of the whole unpruned network's time the stairs do not explain, `activations_m` at which it was found:
    the rest is taken to follow the activations.
    """

    stairs: Stairs
    rest_ms: float
    activations_m: float

    @classmethod
    def fitted(cls, stairs: Stairs, calls: Sequence[Call], latency_ms: float, activations_m: float) -> "Estimate":
        """From one measurement of the whole network; the rest is at least 0."""
        return cls(stairs, max(0.0, latency_ms - stairs.total_ms(calls)), activations_m)

    def ms(self, calls: Sequence[Call], activations_m: float) -> float:
        """A network of these calls and activations."""
        return self.stairs.total_ms(calls) + self.rest_ms * activations_m / self.activations_m


Sample = Callable[[Kind, int, int], float]  # ms of one call
Key = tuple[Kind, int, int]


def measure_stairs(
    calls: Iterable[Call],
    protocol: Protocol,
    device: str,
    *,
    seconds: float = SECONDS,
    folder: Path | None = None,
    sample: Sample | None = None,
) -> Stairs:
    """The stairs of all kinds of convolutions among the calls, within about `seconds`; what is known is not redone.

    They are kept in `folder` (by default beside the decoded images, see PARETOSR_CACHE), by device, versions,
    precision, layout and thread count. All points are sampled in turn, round by round, and the median counts.
    """
    widest: dict[Kind, tuple[int, int]] = {}
    for call in calls:
        inputs, outputs = widest.get(call.kind, (0, 0))
        widest[call.kind] = (max(inputs, call.inputs), max(outputs, call.outputs))
    file = _file(protocol, device, folder)
    known = _read(file)
    wanted = {kind: _points(kind, *widths) for kind, widths in widest.items()}
    missing = [(kind, *p) for kind, points in wanted.items() for p in points if p not in known.get(kind, {})]
    if missing:
        found = find_device(device)
        conditions = measuring(
            found, threads=protocol.threads, tf32=protocol.precision == "tf32", cudnn_benchmark=protocol.cudnn_benchmark
        )
        with device_lock(device), conditions, torch.inference_mode():
            times = _sampled(missing, sample or _sampler(protocol, found), seconds)
        for (kind, inputs, outputs), ms in times.items():
            known.setdefault(kind, {})[inputs, outputs] = ms
        _write(file, known)
    return Stairs({kind: {p: known[kind][p] for p in points} for kind, points in wanted.items()})


def _points(kind: Kind, inputs: int, outputs: int) -> list[tuple[int, int]]:
    if kind.depthwise:
        return [(width, width) for width in grid(outputs)]
    return [(i, o) for i in grid(inputs) for o in grid(outputs)]


def _sampled(points: Sequence[Key], sample: Sample, seconds: float) -> dict[Key, float]:
    """The median of each point's samples: as many rounds as fit into the time, one in any case."""
    samples: dict[Key, list[float]] = {point: [] for point in points}
    started, rounds = time.perf_counter(), 0
    while True:
        for point in points:
            samples[point].append(sample(*point))
        rounds += 1
        spent = time.perf_counter() - started
        if rounds == MOST_ROUNDS or spent * (rounds + 1) / rounds > seconds:
            return {point: statistics.median(own) for point, own in samples.items()}


def _sampler(protocol: Protocol, device: torch.device) -> Sample:
    """Times real convolutions in the protocol's form. All read one buffer: pixels do not change the time."""
    dtype, layout = PRECISIONS[protocol.precision], LAYOUTS[protocol.layout]
    buffer = torch.empty(0, device=device, dtype=dtype)
    made: dict[Key, tuple[nn.Module, int]] = {}

    def sample(kind: Kind, inputs: int, outputs: int) -> float:
        nonlocal buffer
        batch, (height, width) = protocol.batch, kind.size
        if buffer.numel() < batch * inputs * height * width:
            buffer = torch.full((batch * inputs * height * width,), 0.5, device=device, dtype=dtype)
        flat = buffer[: batch * inputs * height * width]
        x = flat.view(batch, inputs, height, width)
        if layout is torch.channels_last:
            x = flat.view(batch, height, width, inputs).permute(0, 3, 1, 2)
        key = (kind, inputs, outputs)
        if key not in made:
            conv = _conv(*key).to(device, dtype).to(memory_format=layout)  # type: ignore[call-overload]
            conv(x)
            made[key] = conv, max(1, math.ceil(SAMPLE_MS / max(sample_ms(lambda: conv(x), 1, device), 1e-3)))
        conv, repeats = made[key]
        return sample_ms(lambda: conv(x), repeats, device)

    return sample


def _conv(kind: Kind, inputs: int, outputs: int) -> nn.Conv2d:
    groups = outputs if kind.depthwise else 1
    return nn.Conv2d(inputs, outputs, kind.kernel, kind.stride, kind.padding, kind.dilation, groups)


# ---- what is kept


def _file(protocol: Protocol, device: str, folder: Path | None) -> Path:
    """Where the stairs of this device, these versions and this protocol lie."""
    facts = device_facts(device)
    same = {name: str(facts.get(name, "")) for name in FACTS}
    how = {name: getattr(protocol, name) for name in ("precision", "layout", "batch", "threads", "cudnn_benchmark")}
    text = json.dumps([same, how], sort_keys=True)
    return (folder or cache_folder()) / f"stairs-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> dict[Kind, dict[tuple[int, int], float]]:
    """What is known; nothing where there is no such file, or none that can be read."""
    try:
        entries = json.loads(file.read_text())
        return {_kind_from(e["kind"]): {_pair(p[:2]): float(p[2]) for p in e["points"]} for e in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _kind_from(said: Mapping[str, Any]) -> Kind:
    pairs = {name: _pair(said[name]) for name in ("kernel", "stride", "padding", "dilation", "size")}
    return Kind(**pairs, depthwise=bool(said["depthwise"]))


def _write(file: Path, tables: Mapping[Kind, Mapping[tuple[int, int], float]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = [
        {"kind": asdict(kind), "points": [[i, o, ms] for (i, o), ms in sorted(table.items())]}
        for kind, table in tables.items()
    ]
    write_json(file, entries)


def narrowed(calls: Iterable[Call], kept: Mapping[str, tuple[int, int]]) -> list[Call]:
    """The calls with the widths (inputs, outputs) that `kept` gives to modules by name; the others as they are."""
    return [
        replace(call, inputs=kept[call.name][0], outputs=kept[call.name][1]) if call.name in kept else call
        for call in calls
    ]
