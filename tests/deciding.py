"""What tests of deciding share: small networks, drawn scores, stairs of 16 that nobody measured, and counts."""

from functools import lru_cache

import torch
from torch import nn

from paretosr.proxies.complexity import complexity
from paretosr.proxies.latency import Protocol
from paretosr.proxies.stairs import Call, Estimate, Kind, Stairs, calls_of, grid
from paretosr.pruning.budget import Meter
from paretosr.pruning.criteria import Scores
from paretosr.spaces import Architecture, Block, Design, build, inference_form, published
from paretosr.spaces.flow import Flow, compact, live
from paretosr.spaces.plan import Plan

PRIMITIVES = ("Take", "AddAt", "AddSlice", "Widen", "Pad")
PROTOCOL = Protocol(size=(16, 16))


def _of(width: int, *blocks: str, upsampler: str = "direct") -> Design:
    middle = 0 if upsampler == "direct" else width
    architecture = Architecture(
        width, tuple(map(Block, blocks)), upsampler=upsampler, upsampler_width=middle, image_skip="bilinear"
    )
    return Design(architecture)


DESIGNS = {
    "blocks": _of(16, "residual", "rfdb", "imdb"),
    "shuffles": _of(16, "residual", upsampler="two_step"),
    "depthwise": _of(16, "residual", "mobilenetv3"),
    "residual": _of(32, "residual", "residual"),
    "wide": _of(48, "residual", "imdb"),
}
PUBLISHED = ("msrresnet", "hcsrn")


@lru_cache
def meter_of(name: str) -> Meter:
    """The meter of a network by its name, here or among the published ones, without stairs."""
    return Meter(DESIGNS[name] if name in DESIGNS else published(name))


@lru_cache
def timed(name: str, rest_ms: float = 0.0) -> Meter:
    """The meter with the stairs of a device whose steps are 16 channels, and with what is no convolution."""
    design = DESIGNS[name]
    network = inference_form(build(design, device="meta"))
    calls = calls_of(network, PROTOCOL.size)
    estimate = Estimate(stairs_of_16(calls), rest_ms, complexity(network).activations_m)
    return Meter(design, PROTOCOL, estimate)


def sixteens(kind: Kind, inputs: int, outputs: int) -> float:
    """Milliseconds of one call on that device."""
    area = kind.kernel[0] * kind.kernel[1] * kind.size[0] * kind.size[1]
    return 1e-3 * area * -(-outputs // 16) * (1 if kind.depthwise else -(-inputs // 16))


def stairs_of_16(calls: list[Call]) -> Stairs:
    """The stairs of these calls."""
    widest: dict[Kind, tuple[int, int]] = {}
    for call in calls:
        inputs, outputs = widest.get(call.kind, (0, 0))
        widest[call.kind] = max(inputs, call.inputs), max(outputs, call.outputs)
    tables = {}
    for kind, (inputs, outputs) in widest.items():
        points = [(i, o) for i in grid(inputs) for o in grid(outputs)]
        points = [(o, o) for o in grid(outputs)] if kind.depthwise else points
        tables[kind] = {point: sixteens(kind, *point) for point in points}
    return Stairs(tables)


def whole(meter: Meter) -> Plan:
    """The plan that cuts nothing."""
    return Plan(meter.design.architecture.hash)


def drawn(flow: Flow, seed: int = 0) -> Scores:
    """A score for every channel, uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(outputs, generator=generator), torch.rand(inputs, generator=generator))
        for name, (outputs, inputs) in flow.widths.items()
    }


def counted(meter: Meter, plan: Plan) -> dict[str, float]:
    """The shares that a plan leaves, counted on the cut network itself and on the uncut one that `build` makes."""
    uncut = inference_form(build(meter.design, device="meta"))
    before, after = _amounts(uncut, meter), _amounts(compact(meter.flow, plan), meter)
    before["kept"] = float(sum(map(sum, meter.flow.widths.values())))
    after["kept"] = float(sum(map(sum, live(meter.flow, plan).widths.values())))
    return {name: amount / before[name] for name, amount in after.items()}


def _amounts(network: nn.Module, meter: Meter) -> dict[str, float]:
    counts = complexity(network)
    found = {"flops": counts.flops_g, "activations": counts.activations_m, "parameters": float(counts.parameters)}
    if meter.estimate is not None:
        calls_ms = sum(sixteens(c.kind, c.inputs, c.outputs) for c in calls_of(network, PROTOCOL.size))
        rest_ms = meter.estimate.rest_ms * counts.activations_m / meter.estimate.activations_m
        found["latency_ratio"] = calls_ms + rest_ms
    return found


def primitives_of(meter: Meter, plan: Plan) -> dict[str, str]:
    """What a cut network does with channels beside the stock operations: by its node, the kind."""
    small = compact(meter.flow, plan, "run")
    kinds = {
        node.name: type(small.get_submodule(str(node.target))).__name__
        for node in small.graph.nodes
        if node.op == "call_module"
    }
    return {name: kind for name, kind in kinds.items() if kind in PRIMITIVES}
