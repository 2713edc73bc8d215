"""LMSR of AIM 2020: a shorter MSRResNet with a thin upsampler and trainable activations (MTLU) in place of ReLU.

Sources: the AIM 2020 Efficient Super-Resolution report (no public code); the activation is from Gu et al. 2019, "Fast
Image Restoration with Multi-bin Trainable Linear Units". The report names MSRResNet, its 13 blocks and MTLU. The rest
is a reading: the upsampler (64 to 32 to 16 channels) and where MTLU stands were chosen so that activations,
convolutions and parameters are those of Table 1: 40 bins on 13 x 64 + 2 x 16 channels. The leaky ReLU stays after the
first convolution and the first PixelShuffle.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv3, leaky
from ..network import enlarge
from .system import System

WIDTH = 64
BLOCKS = 13
SLOPE = 0.1  # MSRResNet's
BINS = 40
BINS_PER_UNIT = 20.0  # bins 0.05 wide (Gu et al.), so that 40 of them reach from -1 to 1


class Mtlu(nn.Module):
    """A multi-bin trainable linear unit: each channel has its own slope and offset in each of 40 bins of its input.

    `[N, C, H, W]` to the same. The bins lie evenly in [-1, 1]; the outermost go on without end. It starts as a ReLU.
    The pieces need not meet: a trained unit jumps at the edges of its bins, so that two programs that round differently
    (torch and onnxruntime, say) differ by more than rounding near a value on an edge. Source: Gu et al. 2019.
    """

    flops_counted = False  # the challenge's counter did not know it
    jumps = True  # read where outputs of two programs are compared

    def __init__(self, channels: int) -> None:
        super().__init__()
        positive = (torch.arange(BINS) >= BINS // 2).float()
        self.slope = nn.Parameter(positive.repeat(channels, 1))
        self.offset = nn.Parameter(torch.zeros(channels, BINS))
        self.register_buffer("first_row", _first_rows(channels, positive.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        row = _row(x, self.first_row)  # type: ignore[arg-type]
        return self.slope.take(row) * x + self.offset.take(row)

    def merged(self) -> "PackedMtlu":
        """The same unit with slopes and offsets in one table, so that an element costs one look-up in place of two."""
        return PackedMtlu(self.slope, self.offset)


class PackedMtlu(nn.Module):
    """The inference form of `Mtlu`: row `channel * 40 + bin` of its table holds a slope and an offset."""

    flops_counted = Mtlu.flops_counted
    jumps = Mtlu.jumps

    def __init__(self, slope: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.stack((slope, offset), -1).flatten(0, 1))
        self.register_buffer("first_row", _first_rows(len(slope), slope.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        slope, offset = F.embedding(_row(x, self.first_row), self.table).unbind(-1)  # type: ignore[arg-type]
        return slope * x + offset


def _first_rows(channels: int, device: torch.device) -> Tensor:
    """The row at which each channel's bins begin, `[C, 1, 1]`."""
    return (torch.arange(channels, device=device) * BINS).view(-1, 1, 1)


def _row(x: Tensor, first_row: Tensor) -> Tensor:
    """The row of each element of `x` in a table of all channels' bins."""
    # Clamped as whole numbers: a NaN has no bin, and a row outside the table would end the program.
    return (x * BINS_PER_UNIT + BINS // 2).floor().long().clamp(0, BINS - 1) + first_row


class Block(nn.Module):
    """`x + conv(mtlu(conv(x)))`, `[N, 64, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv3(WIDTH, WIDTH)
        self.activation = Mtlu(WIDTH)
        self.second = conv3(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.activation(self.first(x)))


class Lmsr(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.leaky = leaky(SLOPE)
        self.shuffle = nn.PixelShuffle(2)
        self.head = conv3(3, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.step_1 = conv3(WIDTH, 4 * 32)
        self.step_2 = conv3(32, 4 * 16)
        self.activation_2 = Mtlu(16)
        self.full = conv3(16, 16)
        self.activation_full = Mtlu(16)
        self.last = conv3(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.leaky(self.head(x))
        for block in self.blocks:
            y = block(y)
        y = self.leaky(self.shuffle(self.step_1(y)))
        y = self.activation_2(self.shuffle(self.step_2(y)))
        y = self.last(self.activation_full(self.full(y)))
        return y + enlarge(x, "bilinear")


SYSTEM = System(
    Lmsr,
    title="LMSR",
    team="LMSR",
    source="AIM 2020 report, with the activation of Gu et al. 2019; no public code",
    idea="MSRResNet with 13 blocks, a thin upsampler, and activations that are learned piece by piece (MTLU)",
    basis="reading",
    note="the authors' own figures; parameters, activations and convolutions fit, FLOPs lie 0.3 % below theirs, which "
    "about 3 for each element of an MTLU would explain (the challenge's counter gives it none)",
)
