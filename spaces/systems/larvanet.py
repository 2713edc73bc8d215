"""LarvaNet of the team MCML-Yonsei: four modules in a row, each with a leg of its own to the image in training.

Source: Jeon et al. 2020 (ECCV workshops), "LarvaNet: Hierarchical Super-Resolution via Multi-exit Architecture";
structure after the authors' code, Geunwoo-Jeon/LarvaNet, its second version (no weights are published there), with the
4 modules of 7 blocks that the counts pin. Parameters, FLOPs and activations are Table 1's. Its 68 convolutions count
the 8 of the legs, which are modules of the code but never run; those that run are 60. Unlike in the report, every leg
adds to the same enlarged input, not to the image of the leg before.
"""

import torch
from torch import Tensor, nn

from ..layers import conv3
from ..network import enlarge
from .system import System

WIDTH, MODULES, BLOCKS = 48, 4, 7
VALUE_RANGE = 255


def pair() -> nn.Sequential:
    """Two 3x3 convolutions with a ReLU between them."""
    return nn.Sequential(conv3(WIDTH, WIDTH), nn.ReLU(), conv3(WIDTH, WIDTH))


class Residual(nn.Module):
    """What `body` makes of its input, and that input: `[N, 48, H, W]` to the same."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class LarvaNet(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped; inside 0 to 255."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = conv3(3, WIDTH)
        self.bodies = nn.ModuleList(
            Residual(nn.Sequential(*(Residual(pair()) for _ in range(BLOCKS)))) for _ in range(MODULES)
        )
        self.legs = nn.ModuleList(nn.Sequential(pair(), nn.PixelShuffle(4)) for _ in range(MODULES))
        self.merge = conv3(MODULES * WIDTH, WIDTH)
        self.tail = nn.Sequential(pair(), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        image = x * VALUE_RANGE
        y = self.tail(self.merge(torch.cat(self.features(image), 1)))
        return (y + enlarge(image, "bicubic")) / VALUE_RANGE

    def exits(self, x: Tensor) -> list[Tensor]:
        """The images of all legs (the inference form has none) and the network's own, which is the last one.

        The authors minimise the mean of the L1 losses of the five.
        """
        image = x * VALUE_RANGE
        features, large = self.features(image), enlarge(image, "bicubic")
        residuals = [leg(y) for leg, y in zip(self.legs, features, strict=False)]
        residuals.append(self.tail(self.merge(torch.cat(features, 1))))
        return [(residual + large) / VALUE_RANGE for residual in residuals]

    def merged(self) -> "LarvaNet":
        """Itself, without the legs."""
        self.legs = nn.ModuleList()
        return self

    def features(self, image: Tensor) -> list[Tensor]:
        """The outputs of all modules, `[N, 48, h, w]` each."""
        y, outputs = self.head(image), []
        for body in self.bodies:
            y = body(y)
            outputs.append(y)
        return outputs


SYSTEM = System(
    LarvaNet,
    title="LarvaNet",
    team="MCML-Yonsei",
    source="Jeon et al. 2020 (ECCV workshops); code: Geunwoo-Jeon/LarvaNet (V2), without weights",
    idea="modules of residual blocks with an exit each, all trained together; without the exits afterwards",
    note="Table 1's 68 convolutions count the 8 of the exits, which never run; its other columns leave the exits out. "
    "With them there are 1,456,080 parameters",
)
