"""MAFFSRN of the team MLVC: blocks gated by two attentions, fused pairwise with their channels shuffled.

Source: Muqeet et al. 2020 (ECCV workshops), "Multi-Attention Based Ultra Lightweight Image Super-Resolution"; structure
after the authors' code, AbdulMoqeet/MAFFSRN (no weights are published there). All is exact: the counts are Table 1's in
all four columns. What the report does not say: a ReLU stands before the sigmoid of the first attention, so that mask is
never below 0.5; the tail has a 3x3 and a 5x5 convolution; the dilated convolutions have dilations 1 and 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..layers import conv1, conv3, leaky
from ..network import enlarge
from .scale import Scale
from .system import System

WIDTH, GROUPS, BLOCKS, SLOPE = 32, 4, 4, 0.05
TO_IMAGE = 48  # channels that PixelShuffle by 4 turns into an image


class MultiAttentionBlock(nn.Module):
    """Two convolutions, masked by a wide, pooled look and by a pixel's neighbours: `[N, 32, H, W]` to the same."""

    minimum_size = 13  # the stride leaves 7 pixels, which the pool needs

    def __init__(self) -> None:
        super().__init__()
        inner = WIDTH // 4
        self.body = nn.Sequential(conv3(WIDTH, WIDTH), leaky(SLOPE), conv3(WIDTH, WIDTH))
        self.reduce = conv1(WIDTH, inner)
        self.stride = nn.Conv2d(inner, inner, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(7, stride=3)
        self.near = nn.Sequential(conv3(inner, inner), leaky(SLOPE))
        self.far = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=2, dilation=2), leaky(SLOPE))
        self.expand = nn.Sequential(conv1(inner, WIDTH), nn.ReLU())
        self.neighbours = nn.Sequential(conv1(WIDTH, WIDTH), nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        reduced = self.reduce(y)
        pooled = self.pool(self.stride(reduced))
        wide = F.interpolate(self.near(pooled) + self.far(pooled), size=reduced.shape[2:], mode="nearest")
        return torch.sigmoid(self.expand(wide + reduced)) * y * torch.sigmoid(self.neighbours(y))


def shuffled(x: Tensor, y: Tensor) -> Tensor:
    """The channels of both in turn, x first: twice `[N, C, H, W]` to `[N, 2C, H, W]`."""
    return torch.stack((x, y), 2).flatten(1, 2)


class FeatureFusionGroup(nn.Module):
    """Four blocks, whose outputs are fused one after another: `[N, 32, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MultiAttentionBlock() for _ in range(BLOCKS))
        self.fuse = nn.ModuleList(weight_norm(conv1(2 * WIDTH, WIDTH)) for _ in range(BLOCKS - 1))
        self.change, self.keep = Scale(), Scale()

    def forward(self, x: Tensor) -> Tensor:
        y0 = self.blocks[0](x)
        y1 = self.blocks[1](y0) + y0
        y2 = self.blocks[2](y1) + y1
        y3 = self.blocks[3](y2)
        fused = self.fuse[0](shuffled(y0, y1))
        fused = self.fuse[1](shuffled(fused, y2))
        fused = self.fuse[2](shuffled(fused, y3))
        return self.change(fused) + self.keep(x)


class MAFFSRN(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = MultiAttentionBlock.minimum_size

    def __init__(self) -> None:
        super().__init__()
        self.head = weight_norm(conv3(3, WIDTH))
        self.groups = nn.Sequential(*(FeatureFusionGroup() for _ in range(GROUPS)))
        self.small = nn.Sequential(weight_norm(conv3(WIDTH, TO_IMAGE)), Scale(0.5))
        self.large = nn.Sequential(weight_norm(nn.Conv2d(WIDTH, TO_IMAGE, 5, padding=2)), Scale(0.5))
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.groups(self.head(x))
        return self.shuffle(self.small(features) + self.large(features)) + enlarge(x, "bicubic")


SYSTEM = System(
    MAFFSRN,
    title="MAFFSRN",
    team="MLVC",
    source="Muqeet et al. 2020 (ECCV workshops); code: AbdulMoqeet/MAFFSRN, without weights",
    idea="blocks gated by a pooled, dilated attention and by a pixel's neighbours, fused in pairs of shuffled channels",
    note="the parameters include both factors of weight norm; this is the form with 4 groups, the larger one has 8",
)
