"""Ways to make one feature map of the outputs of all blocks. A new one: write it, name it in `FUSIONS`.

A fusion is a module `Fusion(width, count, slope)` from a list of `count` tensors `[N, width, H, W]` to one of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .layers import conv1, leaky


class LastOnly(nn.Module):
    """The last block's output: no fusion."""

    def __init__(self, width: int, count: int, slope: float) -> None:
        super().__init__()

    def forward(self, outputs: list[Tensor]) -> Tensor:
        return outputs[-1]


class Concat(nn.Module):
    """All outputs concatenated, then a 1x1 convolution and the leaky ReLU. Source: IMDN and RFDN."""

    def __init__(self, width: int, count: int, slope: float) -> None:
        super().__init__()
        self.fuse = conv1(width * count, width)
        self.activation = leaky(slope)

    def forward(self, outputs: list[Tensor]) -> Tensor:
        return self.activation(self.fuse(torch.cat(outputs, dim=1)))


class Backward(nn.Module):
    """From the last output to the first, two at a time: each is halved by a 1x1 and ReLU, the halves concatenated.

    Source: Luo et al. 2020, LatticeNet, section 3.3 (backward sequential concatenation).
    """

    def __init__(self, width: int, count: int, slope: float) -> None:
        super().__init__()
        half = width // 2
        self.later = nn.ModuleList(conv1(width, half) for _ in range(count - 1))
        self.earlier = nn.ModuleList(conv1(width, width - half) for _ in range(count - 1))
        self.activation = nn.ReLU()

    def forward(self, outputs: list[Tensor]) -> Tensor:
        fused = outputs[-1]
        for later, earlier, output in zip(self.later, self.earlier, reversed(outputs[:-1]), strict=True):
            fused = torch.cat((self.activation(later(fused)), self.activation(earlier(output))), dim=1)
        return fused


FUSIONS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "none": LastOnly,
    "concat": Concat,
    "backward": Backward,
}
