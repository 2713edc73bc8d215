"""CFN: coarse and fine networks at two levels, x2 each; the image of a level is the next one's input.

Source: AIM 2020 report (team lyl); no public code. The text: a CoarseNet and a FineNet, x2 and again x2, a lightweight
upsampling module whose output corrects the input of the next level, a loss at each level, low-level features handed
on. Nothing on kernels, widths, depth, and of Table 1 only starred figures. All else is a stand-in, made to have the 128
convolutions: two levels of 64, 19 channels, 30 residual blocks each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv1, leaky
from .system import System

WIDTH = 19
BLOCKS = 15  # residual blocks of a coarse or of a fine network
SLOPE = 0.2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, a leaky ReLU between them, and the identity: `[N, WIDTH, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.activation = leaky(SLOPE)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.first(x))) + x


class Level(nn.Module):
    """One x2 step: image `[N, 3, H, W]` and features `[N, WIDTH, H, W]` to both of them at `2H, 2W`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock() for _ in range(BLOCKS)))
        self.merge = conv1(2 * WIDTH, WIDTH)
        self.fine = nn.Sequential(*(ResidualBlock() for _ in range(BLOCKS)))
        self.grow = nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.correct = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, image: Tensor, handed_on: Tensor | None) -> tuple[Tensor, Tensor]:
        low = self.head(image)
        if handed_on is not None:
            low = low + handed_on
        features = self.fine(self.merge(torch.cat((low, self.coarse(low)), dim=1)))
        features = self.shuffle(self.grow(features))
        twice = F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
        return twice + self.correct(features), features


class CFN(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.level_1 = Level()
        self.level_2 = Level()

    def forward(self, x: Tensor) -> Tensor:
        return self.exits(x)[-1]

    def exits(self, x: Tensor) -> list[Tensor]:
        """The image at x2, `[N, 3, 2h, 2w]`, and at x4, `[N, 3, 4h, 4w]`: the loss is taken at both."""
        twice, features = self.level_1(x, None)
        return [twice, self.level_2(twice, features)[0]]


SYSTEM = System(
    CFN,
    title="CFN",
    team="lyl",
    source="AIM 2020 report; no public code",
    idea="coarse and fine networks at two levels; each level's image corrects the input of the next",
    basis="placeholder",
    note="the report gives no kernels, widths or depth, and its figures are unverified; parameters +3.4 %, "
    "convolutions equal, the rest cannot be compared",
)
