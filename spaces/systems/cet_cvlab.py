"""CET CVLab's network: wide activation blocks with channel attention, two x2 steps.

Source: AIM 2020 report (team CET CVLab); no public code. From the text: as WDSR (Yu et al. 2018), features widened
6-fold before the activation, channel attention, 32 channels, progressive upsampling, Charbonnier loss. Of Table 1 only
the parameters are known. A stand-in: 12 blocks; that both steps share one convolution and that the last one is 1x1
makes the 1.378 M equal in every printed digit (unshared, with a 3x3 at the end: +2.1 %).
"""

from torch import Tensor, nn

from ..layers import conv1
from .system import System

WIDTH, EXPANSION, BLOCKS, REDUCTION = 32, 6, 12, 16


class ChannelAttention(nn.Module):
    """Each channel is scaled by what all channels' means say, `[N, width, H, W]` to the same.

    Source: Zhang et al. 2018, "Image Super-Resolution Using Very Deep Residual Channel Attention Networks", eq. 11.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = conv1(width, width // REDUCTION)
        self.activation = nn.ReLU()
        self.excite = conv1(width // REDUCTION, width)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.activation(self.squeeze(x.mean((2, 3), keepdim=True)))))


class WideBlock(nn.Module):
    """3x3 to six times the channels, ReLU, 3x3 back, channel attention, identity: `[N, WIDTH, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(WIDTH, EXPANSION * WIDTH, 3, padding=1)
        self.activation = nn.ReLU()
        self.narrow = nn.Conv2d(EXPANSION * WIDTH, WIDTH, 3, padding=1)
        self.attention = ChannelAttention(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.narrow(self.activation(self.widen(x)))) + x


class ProgressiveWideActivation(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(WideBlock() for _ in range(BLOCKS)))
        self.body_conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.grow = nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1)  # called twice
        self.shuffle = nn.PixelShuffle(2)
        self.last = conv1(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        y = self.body_conv(self.blocks(shallow)) + shallow
        for _ in range(2):
            y = self.shuffle(self.grow(y))
        return self.last(y)


SYSTEM = System(
    ProgressiveWideActivation,
    title="PWAN",
    team="CET CVLab",
    source="AIM 2020 report; no public code",
    idea="WDSR's wide activation with channel attention, upsampled in two steps",
    basis="placeholder",
    note="only the parameters are known, and they fit; FLOPs, activations and convolutions are the stand-in's own",
)
