"""ESR-Net: two successive x2 subnetworks, each a small residual dense network.

Source: AIM 2020 report (team HiImageTeam); no public code. The text says no more than that: x4 by two x2 subnetworks
(ESRB) with a residual dense network inside, L1 loss. The rest is a stand-in of the family of RDN (Zhang et al. 2018)
whose counts come nearest to Table 1: per subnetwork a head, 9 dense blocks with 4 layers of growth 9, 1x1 and 3x3 over
all block outputs, the head's output added, 3x3 and PixelShuffle, a 3x3 on the 16 channels at twice the size.
"""

import torch
from torch import Tensor, nn

from ..layers import conv1
from .system import System

WIDTH, GROWTH, LAYERS, BLOCKS = 44, 9, 4, 9
LARGE_WIDTH = 16  # channels at twice a subnetwork's size


class DenseBlock(nn.Module):
    """3x3 convolutions that each see all before them, a 1x1 over all, the identity: `[N, WIDTH, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH + layer * GROWTH, GROWTH, 3, padding=1), nn.ReLU()) for layer in range(LAYERS)
        )
        self.fuse = conv1(WIDTH + LAYERS * GROWTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer in self.layers:
            seen = torch.cat((seen, layer(seen)), dim=1)
        return self.fuse(seen) + x


class Subnetwork(nn.Module):
    """A residual dense network that doubles the size: `[N, inputs, H, W]` to `[N, LARGE_WIDTH, 2H, 2W]`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(inputs, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(DenseBlock() for _ in range(BLOCKS))
        self.fuse = conv1(BLOCKS * WIDTH, WIDTH)
        self.body_conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.grow = nn.Conv2d(WIDTH, 4 * LARGE_WIDTH, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.refine = nn.Conv2d(LARGE_WIDTH, LARGE_WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        y, outputs = shallow, []
        for block in self.blocks:
            y = block(y)
            outputs.append(y)
        y = self.body_conv(self.fuse(torch.cat(outputs, dim=1))) + shallow
        return self.refine(self.shuffle(self.grow(y)))


class ESRNet(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.subnetworks = nn.Sequential(Subnetwork(3), Subnetwork(LARGE_WIDTH))
        self.last = nn.Conv2d(LARGE_WIDTH, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.subnetworks(x))


SYSTEM = System(
    ESRNet,
    title="ESR-Net",
    team="HiImageTeam",
    source="AIM 2020 report; no public code",
    idea="two successive x2 subnetworks, each a residual dense network",
    basis="placeholder",
    note="the report gives no widths and no depth; these come nearest to the counts: parameters +0.7 %, FLOPs +0.3 %, "
    "activations -0.2 %, convolutions equal",
)
