"""The binary code that each image of a batch leaves in a network: which of its activations are on.

An activation is on where its input is positive. For ReLU that is where the output is positive too, and the code says
in which linear piece of the network an image lies. For the others it is a definition of ours: leaky ReLU and PReLU
bend at 0, so that the pieces are the same ones; ReLU6 bends at 6 as well, which is left out; SiLU, GELU, hard swish
change there from letting through to holding back; a sigmoid, hard sigmoid or tanh has no pieces, and the code says on
which side of its middle a gate stands, which is less. Softmax, and a clamp of an image, are no activations here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..spaces.systems.lmsr import Mtlu, PackedMtlu

# By the name of the operation that torch runs: a module, a function and a method all end there, in place or not.
ACTIVATIONS = frozenset(
    {
        *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "_prelu_kernel", "rrelu_with_noise"),
        *("elu", "celu", "selu", "silu", "gelu", "mish", "hardswish", "softplus"),
        *("sigmoid", "hardsigmoid", "log_sigmoid_forward", "tanh"),
    }
)
LEARNED = (Mtlu, PackedMtlu)  # activations that are put together from other operations, by their module

Take = Callable[[Tensor], None]


class CodesFailed(RuntimeError):
    """A network has no such code, for the reason in the message."""


def take_codes(network: nn.Module, images: Tensor, take: Take) -> int:
    """Runs the network on `[N, 3, h, w]` and gives `take` the code of each activation, bool `[N, units]`, in order.

    Returns how many there were. The network is run as it stands, without gradients. CodesFailed for one without
    activations, and where an activation is of something else than N images.
    """
    count = 0

    def see(values: Tensor) -> None:
        nonlocal count
        if values.ndim < 2 or len(values) != len(images):
            raise CodesFailed(f"an activation of {list(values.shape)} is not one of {len(images)} images")
        count += 1
        take((values > 0).flatten(1))

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(inputs[0])

    handles = [m.register_forward_pre_hook(before) for m in network.modules() if isinstance(m, LEARNED)]
    try:
        with torch.no_grad(), _Watch(see):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise CodesFailed("the network has no activation")
    return count


class _Watch(TorchDispatchMode):
    """Shows `see` the input of every activation before it runs."""

    def __init__(self, see: Take) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name.removeprefix("aten::").removesuffix("_") in ACTIVATIONS:
            self.see(args[0])
        return func(*args, **(kwargs or {}))
