"""SAM_SR_LITE: MobileNetV3's blocks with squeeze and excitation, two PixelShuffle steps, bicubic image skip.

Source: AIM 2020 report (team SAMSUNG TOR AIC); no public code. From the text: N + 1 modified MobileNetV3 blocks
(N = 16, 72 channels, expansion 2, batch norm), a skip from the first block's output to the last one's, two
PixelShuffles with convolutions and non-linearities, depthwise separable and 1x1 convolutions at the end, bicubic skip.
A reading: its counts equal Table 1 in every printed digit. The parameters beyond the FLOPs ask for linear layers in the
attention; two convolutions of 72 outputs at x1 with hardly any FLOPs are taken to be learned scales of the long skip's
two sides.
"""

from torch import Tensor, nn

from ..layers import conv1
from ..network import enlarge
from .system import System

WIDTH, EXPANDED, SQUEEZED, BLOCKS = 72, 144, 32, 16
POST_WIDTH = 6


def depthwise(width: int, *, bias: bool) -> nn.Conv2d:
    """A 3x3 convolution of each channel alone."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=bias)


class LinearSqueezeExcitation(nn.Module):
    """Squeeze and excitation by linear layers, `[N, width, H, W]` to the same."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, hidden)
        self.activation = nn.ReLU()
        self.excite = nn.Linear(hidden, width)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(self.excite(self.activation(self.squeeze(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class MobileBlock(nn.Module):
    """Widen by 1x1, filter each channel alone, narrow by 1x1, with batch norm: `[N, inputs, H, W]` to `outputs`."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.widen = conv1(inputs, inner, bias=False)
        self.norm_1 = nn.BatchNorm2d(inner)
        self.filter = depthwise(inner, bias=False)
        self.norm_2 = nn.BatchNorm2d(inner)
        self.activation = nn.Hardswish()
        # The first block, which sees the image, has no attention, and a convolution in its shortcut.
        same = inputs == outputs
        self.attention = LinearSqueezeExcitation(inner, SQUEEZED) if same else nn.Identity()
        self.narrow = conv1(inner, outputs, bias=False)
        self.norm_3 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(conv1(inputs, outputs, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm_1(self.widen(x)))
        y = self.activation(self.norm_2(self.filter(y)))
        return self.norm_3(self.narrow(self.attention(y))) + self.shortcut(x)


class SamSrLite(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.first = MobileBlock(3, 6, WIDTH)
        self.blocks = nn.Sequential(*(MobileBlock(WIDTH, EXPANDED, WIDTH) for _ in range(BLOCKS)))
        self.scale_first = nn.Conv2d(WIDTH, WIDTH, 1, groups=WIDTH, bias=False)
        self.scale_last = nn.Conv2d(WIDTH, WIDTH, 1, groups=WIDTH, bias=False)
        self.upsampler = nn.Sequential(
            *(conv1(WIDTH, 4 * WIDTH), nn.PixelShuffle(2), nn.Hardswish()),
            *(conv1(WIDTH, 4 * WIDTH), nn.PixelShuffle(2), nn.Hardswish()),
        )
        self.post = nn.Sequential(depthwise(WIDTH, bias=True), conv1(WIDTH, POST_WIDTH), conv1(POST_WIDTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y = self.scale_first(first) + self.scale_last(self.blocks(first))
        return self.post(self.upsampler(y)) + enlarge(x, "bicubic")


SYSTEM = System(
    SamSrLite,
    title="SAM_SR_LITE",
    team="SAMSUNG TOR AIC",
    source="AIM 2020 report; no public code",
    idea="16 of MobileNetV3's blocks with squeeze and excitation and batch norm: few parameters, many activations",
    basis="reading",
    note="all counts fit; the width of the attention and the scales on the long skip are inferred from them",
)
