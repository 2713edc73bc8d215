"""Training form and inference form: what helps a network to train is merged or dropped before it is run.

A module that differs in the two has a method `merged()`, which gives what takes its place: another module, or itself
after it let go of parts. It is called on a copy, children before parents; the outermost module must give itself.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def inference_form(network: nn.Module) -> Any:
    """A copy of `network` as it is run, in eval mode: the same outputs, to rounding, by fewer and plainer operations.

    Parallel branches become one convolution, exits that only training uses are gone, weight norm is folded into the
    weights. The network itself stays as it was.
    """
    return merge(copy.deepcopy(network).eval())


def merge(network: nn.Module, *, fold_weight_norm: bool = True) -> nn.Module:
    """Brings `network` into its inference form, in place; for its own outputs it must be in eval mode.

    `fold_weight_norm=False` leaves weight norm standing: the challenge counted both of its factors as parameters, and
    so do our counts.
    """
    formed: dict[int, tuple[nn.Module, nn.Module]] = {}  # the originals are kept, or an id could be given out again

    def form(module: nn.Module) -> nn.Module:
        if id(module) not in formed:
            for name, child in module._modules.items():
                # A shared child keeps being one; what parametrises a weight is not part of the network's graph.
                if child is not None and name != "parametrizations":
                    module._modules[name] = form(child)
            if fold_weight_norm and parametrize.is_parametrized(module):
                fold(module)
            formed[id(module)] = (module, module.merged() if hasattr(module, "merged") else module)  # type: ignore[operator]
        return formed[id(module)][1]

    with torch.no_grad():
        return form(network)


def fold(module: nn.Module) -> None:
    """Puts plain parameters in the place of parametrised ones."""
    # torch takes a property off the class, which copies of the module share with it: this one gets its own.
    kind = type(module)
    module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))  # type: ignore[assignment]
    with torch.enable_grad():  # without gradients the result would be no parameter
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name)
