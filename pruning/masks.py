"""The masked network: the reference of a plan, made by hooks on the network's own modules.

It shares nothing with what makes compact networks, neither code nor a trace; that is what makes comparing worth
something.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.plan import Plan, check, widths
from .norms import norms_after

MASKED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@contextmanager
def masked(network: nn.Module, plan: Plan) -> Iterator[nn.Module]:
    """For the duration of a block, `network` (in its inference form) computes what `plan` leaves of it.

    What goes into a convolution is multiplied with the mask of its inputs, what comes out with that of its outputs;
    where a batch norm reads a convolution, what comes out of the norm. A convolution that keeps nothing on one side is
    closed, bias and all. What the plan keeps whole is not touched, so that a plan which cuts nothing changes no bit.
    InputError: the plan names a convolution or a channel that the network has not.
    """
    check(plan, network)
    width = widths(network)
    modules = dict(network.named_modules())
    norms = norms_after(network)
    handles = []
    try:
        for name, (outputs, inputs) in plan.kept.items():
            module = modules[name]
            out, into = (_mask(kept, count) for kept, count in zip((outputs, inputs), width[name], strict=True))
            if not (out.any() and into.any()):
                out, into = torch.zeros_like(out), torch.zeros_like(into)
            shape = (-1,) if isinstance(module, nn.Linear) else (-1, 1, 1)
            if not into.all():
                handles.append(module.register_forward_pre_hook(partial(_close_inputs, into.reshape(shape))))
            if not out.all():
                after = modules[norms[name]] if name in norms else module
                handles.append(after.register_forward_hook(partial(_close_outputs, out.reshape(shape))))
        yield network
    finally:
        for handle in handles:
            handle.remove()


def _mask(kept: Sequence[int], width: int) -> Tensor:
    """True for kept channels, `[width]`."""
    mask = torch.zeros(width, dtype=torch.bool)
    mask[list(kept)] = True
    return mask


def _close_inputs(mask: Tensor, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *rest = inputs
    return (x * mask.to(x), *rest)


def _close_outputs(mask: Tensor, module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
    return y * mask.to(y)
