"""Budgets: how small a cut network must be, as shares of the uncut one, and what taking a channel away buys.

Shares are counted on the cut network itself, after the fixed point of the channel flow: sides that close independently
take more with them than was asked for. What a single channel buys is only estimated, for the order in which they go.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..proxies.complexity import complexity
from ..proxies.latency import Protocol, peak_memory_mb
from ..proxies.stairs import Call, Estimate, calls_of
from ..spaces import Design, InputError, build, deployed, inference_form, unknown
from ..spaces.flow import Flow, compact, live, passes_image, settled, slots, trace
from ..spaces.plan import Plan

BUDGETS = {
    "kept": "channels of all convolutions, inputs and outputs",
    "flops": "the challenge's FLOPs",
    "activations": "the challenge's activations",
    "parameters": "parameters",
    "memory": "peak memory, on a GPU only",
    "latency_ratio": "measured latency; decided by the measured stairs of the device",
}
COUNT_SIZE = (256, 256)


@dataclass(frozen=True)
class Budget:
    """The largest shares of the uncut network that are allowed, by names of `BUDGETS`; all of them must hold."""

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.shares:
            raise InputError("budget: must name at least one share, like flops: 0.5")
        for name, share in self.shares.items():
            if name not in BUDGETS:
                raise InputError(f"budget: {unknown('budget', name, BUDGETS)}")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
                raise InputError(f"budget.{name}: must be a share of the unpruned network's, above 0 and below 1")

    def __str__(self) -> str:
        return ", ".join(f"{name} <= {share:g}" for name, share in self.shares.items())

    def met(self, shares: Mapping[str, float]) -> bool:
        """Whether these shares keep it."""
        return all(shares[name] <= share + 1e-9 for name, share in self.shares.items())

    def towards(self, part: float) -> "Budget":
        """The budget of a network that has gone this part of the way to it, above 0 and at most 1."""
        return Budget({name: 1 - (1 - share) * part for name, share in self.shares.items()})


@dataclass(frozen=True)
class Footprint:
    """What the calls of one convolution cost together: pixels of the output (of a transposed one, of the input)."""

    pixels: int
    area: int
    groups: int

    def macs(self, outputs: int, inputs: int) -> float:
        """Multiply-adds at 3x256x256."""
        return self.pixels * self.area * outputs * self.fan_in(inputs)

    def fan_in(self, inputs: int) -> float:
        """How many inputs each output reads; of a depthwise convolution its own, however many are left."""
        return max(1.0, inputs / self.groups)


class Meter:
    """Tells how large a plan leaves the network of one design, in shares of the whole.

    estimate: of the device's stairs, for budgets on latency; at images of `protocol`'s size. device: for memory.
    InputError where the network cannot be traced, or has no convolution to prune.
    """

    def __init__(
        self, design: Design, protocol: Protocol | None = None, estimate: Estimate | None = None, device: str = "cpu"
    ) -> None:
        if design.plan is not None:
            raise InputError("prune: a network that is cut already is not cut again; prune the one it was cut from")
        self.design, self.protocol, self.estimate, self.device = design, protocol, estimate, device
        network = inference_form(build(design, device="meta"))
        self.flow: Flow = trace(network)
        if not self.flow.calls:
            raise InputError(f"prune: {type(network).__name__} has no convolution to prune")
        self.slots = slots(self.flow)
        self.footprints = footprints(self.flow.network)
        self.calls: dict[str, list[Call]] = {}
        for call in calls_of(self.flow.network, protocol.size) if protocol is not None else ():
            self.calls.setdefault(call.name, []).append(call)
        self.whole = self._amounts(Plan(design.architecture.hash))
        self._known: dict[str, dict[str, float]] = {}

    def shares(self, plan: Plan) -> dict[str, float]:
        """The shares that are left, of `BUDGETS`; memory on a GPU only, latency where there is an estimate."""
        if plan.hash not in self._known:
            amounts = self._amounts(plan)
            self._known[plan.hash] = {name: amount / self.whole[name] for name, amount in amounts.items()}
        return self._known[plan.hash]

    def settled(self, plan: Plan) -> Plan:
        """The plan as it comes out, what follows from it closed too."""
        return settled(self.flow, plan)

    def passes_image(self, plan: Plan) -> bool:
        """Whether the image still gets to the output through the body."""
        return passes_image(self.flow, live(self.flow, plan))

    def _amounts(self, plan: Plan) -> dict[str, float]:
        small = compact(self.flow, plan)
        counts = complexity(small)
        sides = settled(self.flow, plan).kept
        kept = sum(
            len(sides[name][0]) + len(sides[name][1]) if name in sides else sum(widths)
            for name, widths in self.flow.widths.items()
        )
        amounts = {
            "kept": float(kept),
            "flops": counts.flops_g,
            "activations": counts.activations_m,
            "parameters": float(counts.parameters),
        }
        if self.estimate is not None and self.protocol is not None:
            calls = calls_of(small, self.protocol.size)
            amounts["latency_ratio"] = self.estimate.ms(calls, counts.activations_m)
        if self.device.startswith("cuda"):
            design = Design(self.design.architecture, plan)
            network = deployed(design, build(design, device=self.device))
            memory_mb = peak_memory_mb(network, self.protocol or Protocol(size=COUNT_SIZE), self.device, calm=False)
            amounts["memory"] = memory_mb or 0.0
        return amounts

    def price(self, budget: Budget) -> Callable[[str, int, int], float]:
        """What a convolution of so many outputs and inputs costs, as a share of the network: by name, outputs, inputs.

        The sum over all that the budget names. Peak memory has no price of its own: activations stand for it.
        """
        prices = [self._prices()[name] for name in budget.shares]
        wholes = [sum(price(name, *self.flow.widths[name]) for name in self.flow.calls) or 1.0 for price in prices]

        def together(name: str, outputs: int, inputs: int) -> float:
            if not outputs or not inputs:
                return 0.0
            return sum(price(name, outputs, inputs) / whole for price, whole in zip(prices, wholes, strict=True))

        return together

    def _prices(self) -> dict[str, Callable[[str, int, int], float]]:
        marks = self.footprints
        activations = sum(marks[name].pixels * self.flow.widths[name][0] for name in self.flow.calls)
        prices: dict[str, Callable[[str, int, int], float]] = {
            "kept": lambda name, outputs, inputs: outputs + inputs,
            "flops": lambda name, outputs, inputs: marks[name].macs(outputs, inputs),
            "activations": lambda name, outputs, inputs: marks[name].pixels * outputs,
            "parameters": lambda name, outputs, inputs: outputs * (marks[name].area * marks[name].fan_in(inputs) + 1),
        }
        prices["memory"] = prices["activations"]
        if self.estimate is not None:
            prices["latency_ratio"] = partial(self._latency_ms, self.estimate, activations)
        return prices

    def _latency_ms(self, estimate: Estimate, activations: int, name: str, outputs: int, inputs: int) -> float:
        convolutions = sum(estimate.stairs.ms(call.kind, inputs, outputs) for call in self.calls.get(name, ()))
        return convolutions + estimate.rest_ms * self.footprints[name].pixels * outputs / activations


def footprints(network: nn.Module) -> dict[str, Footprint]:
    """The footprint of every convolution and linear layer, by name, from a forward on the meta device."""
    found: dict[str, Footprint] = {}

    def note(name: str, module: Any, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        seen = inputs[0] if isinstance(module, nn.ConvTranspose2d) else y
        pixels = 1 if isinstance(module, nn.Linear) else seen.shape[2] * seen.shape[3]
        area = 1 if isinstance(module, nn.Linear) else module.kernel_size[0] * module.kernel_size[1]
        before = found[name].pixels if name in found else 0
        found[name] = Footprint(before + pixels, area, getattr(module, "groups", 1))

    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]
    kind = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
    try:
        with torch.inference_mode():
            network(torch.empty(1, 3, *COUNT_SIZE, device="meta", dtype=kind))
    finally:
        for handle in handles:
            handle.remove()
    return found
