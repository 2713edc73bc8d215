"""GCSR of the team 404NotFound: ghost convolutions beside 1x3 convolutions, each fed with the other's input.

Source: AIM 2020 report (Zhang et al. 2020), team 404NotFound; structure and names after the authors' code,
xiaochaunLi/GCSR. All is exact: the counts are Table 1's in all four columns. The loss on gradients that the report
speaks of belongs to their training and is not part of the network. Their kernels are 1x3 only, never 3x1.
"""

import torch
from torch import Tensor, nn

from ..layers import conv1, conv3, leaky
from ..network import enlarge, mean_shift
from .system import System

WIDTH, BLOCKS, STEPS, SLOPE = 64, 6, 4, 0.05
VALUE_RANGE = 255


class Ghost(nn.Module):
    """Half of the outputs by a 3x3 convolution, the other half from those by a depthwise one; `[N, C, H, W]` to same.

    Source: Han et al. 2020, "GhostNet: More Features from Cheap Operations", section 3.1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.primary = conv3(width, width // 2, bias=False)
        self.cheap = conv3(width // 2, width // 2, groups=width // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = self.primary(x)
        return torch.cat((half, self.cheap(half)), 1)


class CrossedBlock(nn.Module):
    """Two paths of four convolutions, ghost and 1x3, over the halves of the channels: `[N, 64, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.first = conv3(WIDTH, WIDTH)
        self.ghosts = nn.ModuleList(Ghost(half) for _ in range(STEPS))
        self.rows = nn.ModuleList(nn.Conv2d(half, half, (1, 3), padding=(0, 1)) for _ in range(STEPS))
        self.fuse = conv1(2 * STEPS * half, WIDTH)
        self.activation = leaky(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        act = self.activation
        upper, lower = act(self.first(x)).chunk(2, 1)
        a1, b1 = act(self.ghosts[0](upper)), act(self.rows[0](lower))
        a2, b2 = act(self.ghosts[1](a1 + upper)), act(self.rows[1](b1 + lower))
        # From here on each path adds the half that the other one started from.
        a3, b3 = act(self.ghosts[2](a2 + lower)), act(self.rows[2](b2 + upper))
        a4, b4 = act(self.ghosts[3](a3 + lower)), act(self.rows[3](b3 + upper))
        # The order is that of the published weights; it is not regular.
        return act(self.fuse(torch.cat((a1, b1, a2, b2, b3, a3, b4, a4), 1))) + x


class GCSR(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped; inside 0 to 255."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.subtract_mean = mean_shift(-1, VALUE_RANGE)
        self.head = conv3(3, WIDTH)
        self.blocks = nn.ModuleList(CrossedBlock() for _ in range(BLOCKS))
        self.fusion = nn.Sequential(conv1(BLOCKS * WIDTH, WIDTH), leaky(SLOPE))
        self.body_conv = conv3(WIDTH, WIDTH)
        self.upsampler = nn.Sequential(conv3(WIDTH, 48), nn.PixelShuffle(4))
        self.add_mean = mean_shift(1, VALUE_RANGE)

    def forward(self, x: Tensor) -> Tensor:
        image = self.subtract_mean(x * VALUE_RANGE)
        shallow = features = self.head(image)
        outputs = []
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        y = self.upsampler(self.body_conv(self.fusion(torch.cat(outputs, 1))) + shallow)
        return self.add_mean(y + enlarge(image, "bicubic")) / VALUE_RANGE


# The authors' block #, from 1: its convolutions c1, c4; c2, c3, c6, c7 are 1x3, and doubled digits are ghosts.
_BLOCK = {
    r"c1": "first",
    r"c4": "fuse",
    **{rf"c{digit}": f"rows.{step}" for step, digit in enumerate("2367")},
    **{rf"c{digit}{digit}\.primary_conv\.0": f"ghosts.{step}.primary" for step, digit in enumerate("2367")},
    **{rf"c{digit}{digit}\.cheap_operation\.0": f"ghosts.{step}.cheap" for step, digit in enumerate("2367")},
}

SYSTEM = System(
    GCSR,
    title="GCSR",
    team="404NotFound",
    source="AIM 2020 report, team 404NotFound; code: xiaochaunLi/GCSR",
    idea="each block runs ghost convolutions and 1x3 convolutions side by side, with residuals crossing between them",
    note="24 of the parameters are the two frozen mean shifts",
    renamed={
        r"sub_mean": "subtract_mean",
        r"head\.0": "head",
        **{
            rf"light{block + 1}\.{theirs}": f"blocks.{block}.{ours}"
            for block in range(BLOCKS)
            for theirs, ours in _BLOCK.items()
        },
        r"GEF\.0": "fusion.0",
        r"LR_conv": "body_conv",
        r"tail\.0": "upsampler.0",
    },
)
