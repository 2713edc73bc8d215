"""IPCV_IITM's network of AIM 2020: residual blocks that split their channels, every other one gated by one shared gate.

Source: the AIM 2020 Efficient Super-Resolution report; there is no public code. The report says: 64 channels, residual
blocks with channel split, leaky ReLU after every convolution but the last 1x1, all block outputs fused by a 1x1, one
3x3 and PixelShuffle; one gate over space and channels, shared by every other block.

A reading: 59 convolutions and the activations leave seven blocks of three 3x3 and a 1x1, and four calls of a gate with
seven convolutions and 5.5 channels at full size, so one that works mostly on strided features. What is inside the gate
is a fit: parameters and convolutions come out to the printed digit, activations 0.02 % above, FLOPs 0.3 % below.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv1, conv3, leaky
from .system import System

WIDTH = 64
BLOCKS = 7
DISTILLED = 16  # channels that a split keeps aside
SLOPE = 0.05  # IMDN's
GATE_WIDTH = 4  # of the gate's look at space
GATE_HIDDEN = 48  # of the gate's look at channels


class Gate(nn.Module):
    """A mask over channels, from their means, times one over space, from a wide and strided look.

    `[N, 64, H, W]` to the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = conv1(WIDTH, GATE_HIDDEN)
        self.excite = conv1(GATE_HIDDEN, WIDTH)
        self.look = nn.Sequential(
            nn.Conv2d(WIDTH, GATE_WIDTH, 5, padding=2),
            leaky(SLOPE),
            nn.Conv2d(GATE_WIDTH, GATE_WIDTH, 3, stride=2, padding=1),
            leaky(SLOPE),
            nn.Conv2d(GATE_WIDTH, GATE_WIDTH, 3, stride=2, padding=1),
            leaky(SLOPE),
            conv3(GATE_WIDTH, GATE_WIDTH),
            leaky(SLOPE),
            conv1(GATE_WIDTH, 1),
        )
        self.activation = leaky(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.excite(self.activation(self.squeeze(x.mean((2, 3), keepdim=True))))
        space = F.interpolate(self.look(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(channels) * torch.sigmoid(space)


class Branch(nn.Module):
    """What a block adds to its input: three 3x3, the first two of which each lay 16 channels aside, and a 1x1 over all.

    `[N, 64, H, W]` to the same. Source: IMDN's block, with the last 3x3 kept whole.
    """

    def __init__(self) -> None:
        super().__init__()
        rest = WIDTH - DISTILLED
        self.stages = nn.ModuleList(conv3(inputs, WIDTH) for inputs in (WIDTH, rest, rest))
        self.fuse = conv1(WIDTH + 2 * DISTILLED, WIDTH)
        self.activation = leaky(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        *splitting, last = self.stages
        kept: list[Tensor] = []
        for stage in splitting:
            y = self.activation(stage(x))
            kept.append(y[:, :DISTILLED])
            x = y[:, DISTILLED:]
        kept.append(self.activation(last(x)))
        return self.fuse(torch.cat(kept, 1))


class IpcvIitm(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = conv3(3, WIDTH)
        self.branches = nn.ModuleList(Branch() for _ in range(BLOCKS))
        self.gate = Gate()
        self.fuse = conv1(BLOCKS * WIDTH, WIDTH)
        self.last = conv3(WIDTH, 48)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        y, outputs = shallow, []
        for index, branch in enumerate(self.branches):
            added = branch(y)
            y = y + (self.gate(added) if index % 2 == 0 else added)
            outputs.append(y)
        return self.shuffle(self.last(self.fuse(torch.cat(outputs, 1)) + shallow))


SYSTEM = System(
    IpcvIitm,
    title="IPCV_IITM",
    team="IPCV IITM",
    source="AIM 2020 report; no public code",
    idea="residual blocks that split their channels; one gate over space and channels is shared by every other block",
    basis="reading",
    note="the inside of the shared gate is a fit; FLOPs lie 0.3 % below the report's",
)
