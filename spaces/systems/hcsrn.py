"""HCSRN: hybrid blocks of asymmetric and of shrunk convolutions; the network from which AHCSRN was pruned.

Source: AIM 2020 report (team SC-CVLAB) and Chen et al. 2020 (ECCV workshops, doi 10.1007/978-3-030-67070-2_7); no
public code. From the text: asymmetric and shrunk spatial convolutions run in parallel, the outputs of all blocks of a
stage are concatenated, upsampling goes by two steps. A reading: 10 blocks at x1 and 4 at x2 (14 blocks of 6 and 7
further convolutions make Table 1's 91) of 32 channels; the width before pruning is not public, nor are slope and skip.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv1, leaky
from ..network import enlarge
from .system import System

WIDTH = 32
DEPTHS = (10, 4)  # hybrid blocks at x1 and at x2
SLOPE = 0.1


class ShrunkBranch(nn.Module):
    """Two 3x3 convolutions at half the size, `[N, width, H, W]` to the same; PixelShuffle leads back.

    At an odd side the last row or column is averaged alone, and what it has too much afterwards is cut.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.activation = leaky(SLOPE)
        self.second = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        half = F.avg_pool2d(x, 2, ceil_mode=True)
        y = self.shuffle(self.second(self.activation(self.first(half))))
        return y[..., : x.shape[2], : x.shape[3]]


class HybridBlock(nn.Module):
    """The identity and three branches: 3x1 then 1x3, 1x3 then 3x1, the shrunk one; `[N, width, H, W]` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.column_first = nn.Sequential(
            nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
            leaky(SLOPE),
            nn.Conv2d(width, width, (1, 3), padding=(0, 1)),
        )
        self.row_first = nn.Sequential(
            nn.Conv2d(width, width, (1, 3), padding=(0, 1)),
            leaky(SLOPE),
            nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
        )
        self.shrunk = ShrunkBranch(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.column_first(x) + self.row_first(x) + self.shrunk(x)


class Stage(nn.Module):
    """Hybrid blocks, a 1x1 over all their outputs, the stage's input added, then x2: `[N, width, H, W]` to `2H, 2W`."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HybridBlock(width) for _ in range(depth))
        self.fuse = conv1(depth * width, width)
        self.grow = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.activation = leaky(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        y, outputs = x, []
        for block in self.blocks:
            y = block(y)
            outputs.append(y)
        y = self.fuse(torch.cat(outputs, dim=1)) + x
        return self.activation(self.shuffle(self.grow(y)))


class HCSRN(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`; odd sides too."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.stages = nn.Sequential(*(Stage(WIDTH, depth) for depth in DEPTHS))
        self.full = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.activation = leaky(SLOPE)
        self.last = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.full(self.stages(self.head(x))))
        return self.last(y) + enlarge(x, "bilinear")


SYSTEM = System(
    HCSRN,
    title="HCSRN (unpruned)",
    source="AIM 2020 report; Chen et al. 2020 (ECCV workshops); no public code",
    idea="blocks of asymmetric and half-size convolutions in parallel; what AHCSRN was pruned from",
    basis="reading",
    note="has no row of its own: Table 1 holds AHCSRN, pruned from it; only the 91 convolutions can be compared",
)
