"""Whether an output still depends on what a network computes, or is left with the enlarged image alone.

A plan that cuts the body off is exact, small and fast; it only computes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.plan import Plan
from .masks import MASKED, masked

Call = tuple[str, int]  # a convolution's name, and which of its calls
LEAST = 1e-12  # of the largest output; below that it is rounding


def depends_on_body(network: nn.Module, plan: Plan, x: Tensor, other: Tensor) -> bool:
    """Whether, under the plan, the image reaches the output by way of the body, and not by the image skip alone.

    The body are the trained convolutions that see the image through others only. `x` and `other` are two images of one
    size, in float64: the network is run on `other` with the body reading what it read of `x`; if that gives what
    `other` gives anyway, the body does not matter. True for a network whose convolutions all read the image itself.
    """
    body = _body(network, x, other)
    if not body:
        return True
    with masked(network, plan):
        _, read, _ = _run(network, x)
        y, _, _ = _run(network, other)
        held, _, _ = _run(network, other, reads={call: read[call] for call in body})
    # The other way round, numbers that are not finite would be called cut off.
    return not float((y - held).abs().max()) <= LEAST * float(y.abs().max())


def _body(network: nn.Module, x: Tensor, other: Tensor) -> set[Call]:
    """The calls of trained convolutions whose input stays the same if all trained convolutions give the same."""
    _, read, given = _run(network, x)
    _, read_other, _ = _run(network, other, gives=given)
    return {call for call, tensor in read.items() if torch.equal(tensor, read_other[call])}


def _run(
    network: nn.Module, x: Tensor, *, reads: dict[Call, Tensor] | None = None, gives: dict[Call, Tensor] | None = None
) -> tuple[Tensor, dict[Call, Tensor], dict[Call, Tensor]]:
    """The output, and what each call of a trained convolution read and gave; `reads` and `gives` are put in place."""
    read: dict[Call, Tensor] = {}
    given: dict[Call, Tensor] = {}

    def enter(name: str, numbers: Iterator[int], module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        call = (name, next(numbers))
        read[call] = inputs[0].clone()
        return ((reads or {}).get(call, inputs[0]), *inputs[1:])

    def leave(name: str, numbers: Iterator[int], module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
        call = (name, next(numbers))
        given[call] = y.clone()
        return (gives or {}).get(call, y).clone()

    with _hooked(network, enter, leave), torch.no_grad():
        return network(x.clone()), read, given


@contextmanager
def _hooked(network: nn.Module, enter: Callable[..., Any], leave: Callable[..., Any]) -> Iterator[None]:
    """Hooks on all trained convolutions; on all, if none is trained."""
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, MASKED)}
    trained = {name: m for name, m in convolutions.items() if any(p.requires_grad for p in m.parameters())}
    handles = []
    for name, module in (trained or convolutions).items():
        handles.append(module.register_forward_pre_hook(partial(enter, name, count())))
        handles.append(module.register_forward_hook(partial(leave, name, count())))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
