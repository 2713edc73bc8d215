"""IdleSR: residual blocks on fewer and fewer channels, upsampling by PixelShuffle of concatenated features alone.

Source: AIM 2020 report (team ZJUESR2020; Xiong et al. 2020, ECCV workshops); no public code. From the text: the frame
is NoUCSR's, that is MSRResNet whose upsampling convolutions are replaced by the concatenation of features from several
levels; the idle block keeps IMDB's hierarchy at the granularity of residual blocks, with fewer splits and no 1x1 at its
end; kernels are 1x5 and 5x1. A reading, but its counts equal Table 1 in every printed digit: widths 64, 48, 32, 16
within a block, 64 channels between a residual block's two convolutions, 4 blocks at x1 and one at x2, LeakyReLU as a
module. Slope and image skip are MSRResNet's; nothing is said of them.
"""

import torch
from torch import Tensor, nn

from ..layers import leaky
from ..network import enlarge
from .system import System

WIDTH = 64
WIDTHS = (64, 48, 32, 16)
BLOCKS = 4  # at x1; their outputs side by side hold `WIDTH` channels at x2
SLOPE = 0.1


class AsymmetricResidual(nn.Module):
    """1x5 to `WIDTH` channels, leaky ReLU, 5x1 back, and the identity: `[N, width, H, W]` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.row = nn.Conv2d(width, WIDTH, (1, 5), padding=(0, 2))
        self.activation = leaky(SLOPE)
        self.column = nn.Conv2d(WIDTH, width, (5, 1), padding=(2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.column(self.activation(self.row(x))) + x


class IdleBlock(nn.Module):
    """Four residual blocks; after each but the last, 16 channels go idle to the end: `[N, 64, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(AsymmetricResidual(width) for width in WIDTHS)

    def forward(self, x: Tensor) -> Tensor:
        idle = []
        for stage, width, narrower in zip(self.stages, WIDTHS, (*WIDTHS[1:], 0), strict=True):
            done, x = stage(x).split((width - narrower, narrower), dim=1)
            idle.append(done)
        return torch.cat(idle, dim=1)


class IdleSR(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(IdleBlock() for _ in range(BLOCKS))
        self.shuffle = nn.PixelShuffle(2)
        self.large_block = IdleBlock()
        self.last = nn.Conv2d(WIDTH // 4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y, levels = self.head(x), []
        for block in self.blocks:
            y = block(y)
            levels.append(y)
        y = self.shuffle(torch.cat(levels, dim=1))
        y = self.shuffle(self.large_block(y))
        return self.last(y) + enlarge(x, "bilinear")


SYSTEM = System(
    IdleSR,
    title="IdleSR",
    team="ZJUESR2020",
    source="AIM 2020 report; Xiong et al. 2020 (ECCV workshops); no public code",
    idea="idle blocks: residual blocks of 1x5 and 5x1 on ever fewer channels; upsampling without convolutions",
    basis="reading",
    note="all counts fit; that the second convolution leads back from 64 channels is inferred from them",
)
