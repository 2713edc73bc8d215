"""PFSNet, MDISL-lab's network of AIM 2020: blocks whose later features come by cheap operations from the first ones.

Source: the AIM 2020 Efficient Super-Resolution report; there is no public code. The counts say: mean shifts, eight
blocks of seven convolutions with 256 output channels each, one more convolution of 64. What the seven are is a reading,
chosen among many that come near because it fits all four counts of Table 1 to the printed digit: three 3x3 and three
cheap ones (grouped 5x5) that make 32 channels each, with a ReLU after each, and a 1x1 that fuses all of these.

Table 1's parameters exceed what the FLOPs leave room for by 11,000, so some do next to no work for a pixel. Linear
layers that scale channels by their means are taken for them; nothing we know of the report's text names them.
"""

import torch
from torch import Tensor, nn

from ..layers import conv1, conv3
from ..network import mean_shift
from .system import System

WIDTH = 64
BLOCKS = 8
SHARED = 32
CHEAP_KERNEL = 5
CHEAP_GROUPS = 16
REDUCTION = 4


class CheapFeatures(nn.Module):
    """32 channels from 32 by a grouped 5x5, scaled by what their means say: `[N, 32, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(SHARED, SHARED, CHEAP_KERNEL, padding=CHEAP_KERNEL // 2, groups=CHEAP_GROUPS)
        self.activation = nn.ReLU()
        self.squeeze = nn.Linear(SHARED, SHARED // REDUCTION)
        self.excite = nn.Linear(SHARED // REDUCTION, SHARED)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.conv(x))
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        return y * scale[:, :, None, None]


class Block(nn.Module):
    """A first half of the channels is made once and shared: each later step adds cheap features of it.

    `[N, 64, H, W]` to the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.split = conv3(WIDTH, SHARED)
        self.cheap = nn.ModuleList(CheapFeatures() for _ in range(3))
        self.steps = nn.ModuleList(conv3(2 * SHARED, SHARED) for _ in range(2))
        self.fuse = conv1(6 * SHARED, WIDTH)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shared = self.activation(self.split(x))
        *cheap, last = (make(shared) for make in self.cheap)
        made = [shared]
        for features, step in zip(cheap, self.steps, strict=True):
            y = self.activation(step(torch.cat((made[-1], features), 1)))
            made += [features, y]
        return x + self.fuse(torch.cat((*made, last), 1))


class PfsNet(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.subtract_mean = mean_shift(-1, 1)
        self.head = conv3(3, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.body_conv = conv3(WIDTH, WIDTH)
        self.add_mean = mean_shift(1, 1)
        self.last = conv3(WIDTH, 48)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(self.subtract_mean(x))
        y = self.body_conv(self.blocks(shallow)) + shallow
        return self.add_mean(self.shuffle(self.last(y)))


SYSTEM = System(
    PfsNet,
    title="PFSNet",
    team="MDISL-lab",
    source="AIM 2020 report; no public code",
    idea="each block makes half of its channels once and shares them: later steps add cheap features of these",
    basis="reading",
    note="all counts fit, but by a fit: other structures come as near, and the Linear layers stand in for parameters "
    "that the report does not explain",
)
