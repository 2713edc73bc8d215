"""UESTC-MediaLab's network of AIM 2020: IMDN with grouped convolutions, and kernels that grow ("dilate") in training.

Source: the AIM 2020 Efficient Super-Resolution report; there is no public code. The report says: IMDN whose 3x3
convolutions become units of a grouped 3x3 that doubles the maps, a PReLU and a 1x1; adaptive skips between the outputs
of the blocks; kernel dilation while it trains.

A reading: four blocks of six units, 42 channels of which each unit but the last lays 6 aside, groups of 2, mean shifts,
the block outputs fused by a 1x1. Of some millions of structures tried it is the only one that has all four counts of
Table 1 to the printed digit, which may still be chance. Every unit widens to twice the network's width.
The adaptive skips are learned sums, and all convolutions of the units are dilated: both guesses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv1, conv3, leaky
from ..network import mean_shift
from .system import System

WIDTH = 42
BLOCKS = 4
UNITS = 6  # in a block
DISTILLED = 6
GROUPS = 2
BASES = 3  # to begin with (the report's N_0)
SLOPE = 0.05  # IMDN's


class DilatedKernelConv(nn.Module):
    """A convolution (stride 1, same padding) whose kernel is a weighted sum of basis kernels; more can be added.

    `[N, C_in, H, W]` to `[N, C_out, H, W]`. Each of the n kernels begins Xavier-uniform with weight 1 / n, the bias
    with 0. Merged into one plain convolution for inference. Source: AIM 2020 report, UESTC-MediaLab.
    """

    flops_counted = False  # what is counted is the merged form

    def __init__(self, inputs: int, outputs: int, size: int, *, groups: int = 1) -> None:
        super().__init__()
        self.groups, self.padding = groups, size // 2
        self.kernels = nn.Parameter(_drawn(BASES, (outputs, inputs // groups, size, size), None))
        self.weights = nn.Parameter(torch.full((BASES,), 1 / BASES))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, padding=self.padding, groups=self.groups)

    def kernel(self) -> Tensor:
        """The kernel as it is now, `[C_out, C_in / groups, size, size]`."""
        return (self.weights[:, None, None, None, None] * self.kernels).sum(0)

    def dilate(self, more: int, generator: torch.Generator) -> None:
        """Adds `more` random kernels, drawn on the CPU; all weights, old and new, are then 1 / their number."""
        added = _drawn(more, self.kernels.shape[1:], generator).to(self.kernels)
        count = len(self.kernels) + more
        self.kernels = nn.Parameter(torch.cat((self.kernels.detach(), added)))
        self.weights = nn.Parameter(self.weights.new_full((count,), 1 / count))

    def merged(self) -> nn.Conv2d:
        """One convolution with the summed kernel."""
        kernel = self.kernel()
        outputs, inputs, size, _ = kernel.shape
        conv = nn.Conv2d(
            inputs * self.groups,
            outputs,
            size,
            padding=self.padding,
            groups=self.groups,
            dtype=kernel.dtype,
            device=kernel.device,
        )
        conv.weight.copy_(kernel)
        conv.bias.copy_(self.bias)  # type: ignore[union-attr]
        return conv


def _drawn(count: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """`count` kernels, Xavier-uniform."""
    kernels = torch.empty(count, *shape)
    for kernel in kernels:
        nn.init.xavier_uniform_(kernel, generator=generator)
    return kernels


class Block(nn.Module):
    """IMDN's block of six units: each but the last lays 6 channels aside; a 1x1 fuses what was kept, + the input.

    `[N, 42, H, W]` to the same.
    """

    def __init__(self) -> None:
        super().__init__()
        rest = WIDTH - DISTILLED
        self.units = nn.ModuleList(
            nn.Sequential(
                DilatedKernelConv(WIDTH if index == 0 else rest, 2 * WIDTH, 3, groups=GROUPS),
                nn.PReLU(2 * WIDTH),
                DilatedKernelConv(2 * WIDTH, rest if index == UNITS - 1 else WIDTH, 1),
            )
            for index in range(UNITS)
        )
        self.activation = leaky(SLOPE)
        self.fuse = conv1((UNITS - 1) * DISTILLED + rest, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        *splitting, last = self.units
        kept, rest = [], x
        for unit in splitting:
            y = self.activation(unit(rest))
            kept.append(y[:, :DISTILLED])
            rest = y[:, DISTILLED:]
        kept.append(last(rest))
        return x + self.fuse(torch.cat(kept, 1))


class AdaptiveSkip(nn.Module):
    """The sum of all features so far, with a learned weight each; begins as the newest alone. All `[N, C, H, W]`."""

    flops_counted = False

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter((torch.arange(count) == count - 1).float())

    def forward(self, features: list[Tensor]) -> Tensor:
        y = self.weights[0] * features[0]
        for index in range(1, len(features)):
            y = y + self.weights[index] * features[index]
        return y


class UestcMediaLab(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.subtract_mean = mean_shift(-1, 1)
        self.head = conv3(3, WIDTH)
        self.skips = nn.ModuleList(AdaptiveSkip(1 + earlier) for earlier in range(BLOCKS))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.fuse = conv1(BLOCKS * WIDTH, WIDTH)
        self.add_mean = mean_shift(1, 1)
        self.last = conv3(WIDTH, 48)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(self.subtract_mean(x))
        features = [shallow]
        for skip, block in zip(self.skips, self.blocks, strict=True):
            features.append(block(skip(features)))
        y = self.fuse(torch.cat(features[1:], 1)) + shallow
        return self.add_mean(self.shuffle(self.last(y)))

    def dilate(self, more: int, *, seed: int) -> None:
        """Begins a stage of training (`train.grow_at`): every dilated kernel gets more, all weights are made equal.

        The output changes. The parameters are new, so an optimiser must be made anew; weights saved after it load
        into a network that was dilated as often.
        """
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, DilatedKernelConv):
                module.dilate(more, generator)


SYSTEM = System(
    UestcMediaLab,
    title="UESTC-MediaLab",
    team="UESTC-MediaLab",
    source="AIM 2020 report; no public code",
    idea="IMDN with grouped convolutions and adaptive skips; kernels train as sums of ever more kernels, then merged",
    basis="reading",
    note="all counts fit, but by a fit: widths, depths and what is skipped how are guesses",
)
