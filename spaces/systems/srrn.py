"""SRRN, InnoPeak SR's network of AIM 2020: sixteen residual blocks that are made from four sets of weights.

Source: the AIM 2020 Efficient Super-Resolution report; there is no public code. With the structure below, which is what
the report's text says, all four counts of its Table 1 come out to the printed digit. Not known: in which order the four
sets take turns (here 1, 2, 3, 4, again and again; the name says "shuffled") and the slope of the leaky ReLU.
"""

from torch import Tensor, nn

from ..layers import conv3, leaky
from .system import System

WIDTH = 64
SETS = 4
BLOCKS = 16
SLOPE = 0.1  # MSRResNet's


class Block(nn.Module):
    """`x + conv(leaky(conv(x)))`, `[N, 64, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv3(WIDTH, WIDTH)
        self.activation = leaky(SLOPE)
        self.second = conv3(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.activation(self.first(x)))


class Srrn(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = conv3(3, WIDTH)
        self.activation = leaky(SLOPE)
        self.blocks = nn.ModuleList(Block() for _ in range(SETS))
        self.body_conv = conv3(WIDTH, WIDTH)
        self.last = conv3(WIDTH, 48)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.activation(self.head(x))
        y = shallow
        for index in range(BLOCKS):
            y = self.blocks[index % SETS](y)
        return self.shuffle(self.last(self.body_conv(y) + shallow))


SYSTEM = System(
    Srrn,
    title="SRRN",
    team="InnoPeak SR",
    source="AIM 2020 report; no public code",
    idea="16 residual blocks from 4 sets of weights, each used four times: parameters and memory shrink, FLOPs do not",
    basis="reading",
    note="all counts fit; the order in which the sets take turns is not said, and counts do not depend on it",
)
