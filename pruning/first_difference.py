"""Where a compact network leaves the masked one: the first convolution whose numbers are not the reference's.

Convolutions are matched by name, their channels by content: whatever order a compact network keeps its channels in,
each must be one that the masked network has at that place, or zero.
"""

from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..spaces.plan import Plan
from .masks import MASKED, masked
from .norms import norms_after


class Seen(NamedTuple):
    """What went into or came out of a convolution in one of its calls."""

    name: str
    side: str  # "input" or "output"
    channels: Tensor  # `[C, numbers]`


def first_difference(network: nn.Module, plan: Plan, compact: nn.Module, x: Tensor, limit: float) -> str:
    """Says in words where `compact` first gives on `x` what the masked `network` does not; "" where all layers agree.

    `limit` is relative to the largest number at that place. A convolution differs if what it reads is right and what
    it gives is wrong; if what it reads is wrong, something between it and those before it is.
    """
    with masked(network, plan):
        reference = _by_place(_record(network, x))
    steps = [step for step in _record(compact, x) if (step.name, step.side) in reference]
    calls = {place: len(found) for place, found in _by_place(steps).items()}
    done: dict[tuple[str, str], int] = dict.fromkeys(calls, 0)
    before = "the image"
    for step in steps:
        place = (step.name, step.side)
        index, done[place] = done[place], done[place] + 1
        rows = reference[place]
        if len(rows) == calls[place]:  # else a call of a shared convolution has gone
            rows = rows[index : index + 1]
        if not any(_among(step.channels, known, limit) for known in rows):
            call = f" in its call {index + 1}" if calls[place] > 1 else ""
            if step.side == "output":
                return f"the first layer that differs is '{step.name}'{call}"
            return f"the first difference is between {before} and the input of '{step.name}'{call}"
        before = f"'{step.name}'"
    return ""


def _record(network: nn.Module, x: Tensor) -> list[Seen]:
    """What the convolutions of a network read and give on `x`, in order; behind a norm where one reads them."""
    norms = norms_after(network)
    modules = dict(network.named_modules())
    found: list[Seen] = []

    def see(name: str, side: str, module: nn.Module, tensor: Tensor, which: Tensor | slice = slice(None)) -> None:
        axis = -1 if isinstance(module, nn.Linear) else 1
        # Cloned, for others may write into it later.
        found.append(Seen(name, side, tensor.movedim(axis, 0).flatten(1)[which].clone()))

    def read(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        see(name, "input", module, inputs[0], _read(module))

    def give(name: str, module: nn.Module, inputs: Any, y: Tensor) -> None:
        see(name, "output", module, y)

    handles = []
    for name, module in modules.items():
        if isinstance(module, MASKED):
            after = modules[norms[name]] if name in norms else module
            handles.append(module.register_forward_pre_hook(partial(read, name)))
            handles.append(after.register_forward_hook(partial(give, name)))
    try:
        with torch.no_grad():
            network(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _read(module: nn.Module) -> Tensor | slice:
    """The input channels that a convolution has weights for; the others may hold anything."""
    if getattr(module, "groups", 1) > 1:
        return slice(None)
    weight: Tensor = module.weight.detach()  # type: ignore[assignment,operator,union-attr]
    inputs = weight if isinstance(module, nn.ConvTranspose2d) else weight.transpose(0, 1)
    return inputs.flatten(1).ne(0).any(1)


def _by_place(steps: list[Seen]) -> dict[tuple[str, str], list[Tensor]]:
    """The channels at each place, one entry per call."""
    ordered = sorted(steps, key=lambda step: (step.name, step.side))  # stable, so that calls stay in order
    return {
        place: [step.channels for step in found]
        for place, found in groupby(ordered, key=lambda step: (step.name, step.side))
    }


def _among(channels: Tensor, known: Tensor, limit: float) -> bool:
    """Whether each channel is one of those known, or zero."""
    if channels.shape[1] != known.shape[1]:
        return False
    known = torch.cat((known, known.new_zeros(1, known.shape[1])))
    if not len(channels):
        return True
    distances = torch.cdist(channels, known, p=float("inf")).amin(1)
    return bool((distances <= limit * known.abs().max()).all())
