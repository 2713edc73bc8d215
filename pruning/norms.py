"""Which batch norm reads a convolution's output: a channel of such a convolution is closed behind the norm.

A compact network has its batch norms folded into the convolutions before them, so that a closed channel is zero where
the norm ends. Zero before the norm would come out of it as a constant.
"""

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

PROBE_SIDE = 8  # pixels; a probe only shows who reads what


def norms_after(network: nn.Module) -> dict[str, str]:
    """The names of convolutions whose output a batch norm reads directly, and of those norms.

    Only pairs: a convolution that is read by two norms, or a norm that reads two convolutions, is not named. Found by
    running the network once on zeros, in eval mode and without a trace; a network without batch norm is not run.
    """
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    if not norms:
        return {}
    written: dict[int, tuple[Tensor, int, str]] = {}  # the tensors are kept, or an id could be given out again
    readers: dict[str, set[str]] = defaultdict(set)
    writers: dict[str, set[str]] = defaultdict(set)

    def write(name: str, module: nn.Module, inputs: Any, y: Tensor) -> None:
        written[id(y)] = (y, y._version, name)

    def read(norm: str, module: nn.Module, inputs: Any) -> None:
        _, version, convolution = written.get(id(inputs[0]), (None, -1, ""))
        if version == inputs[0]._version:  # or something has worked on it in place since
            readers[convolution].add(norm)
            writers[norm].add(convolution)
        else:
            writers[norm].add("")  # reads something else too

    handles = [
        *(module.register_forward_hook(partial(write, name)) for name, module in convolutions.items()),
        *(module.register_forward_pre_hook(partial(read, name)) for name, module in norms.items()),
    ]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            network(probe(network))
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    pairs = ((convolution, next(iter(found))) for convolution, found in readers.items() if len(found) == 1)
    return {convolution: norm for convolution, norm in pairs if len(writers[norm]) == 1}


def probe(network: nn.Module) -> Tensor:
    """A black image that the network can take, of its kind and on its device: `[1, 3, side, side]`."""
    like: Any = next(network.parameters())
    side = max(int(getattr(network, "minimum_size", 1)), PROBE_SIDE)
    return torch.zeros(1, 3, side, side, dtype=like.dtype, device=like.device)
