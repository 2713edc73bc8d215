"""LFN, Zhang9678's network of AIM 2020: the outputs of four blocks are read as a time series by a convolutional LSTM.

Source: the AIM 2020 Efficient Super-Resolution report; there is no public code. The report says: a convolution, four
blocks ("DB") one after another, their outputs as the four steps of a modified convLSTM whose states start at 0; the
last hidden state and the first features are joined by a 1x1, then 3x3 and PixelShuffle by 4.

A reading, fitted to the counts, which are the authors' own (0.664 M, 48.08 G, 36 convolutions): the cell's weights are
used four times, so the FLOPs leave it a 1x1 of three gates (forget and input coupled), and 36 convolutions leave eight
to a block. Taken for such a block: RFDN's without its attention, 48 channels distilled at a time and 32 at the end,
with leaky ReLUs that were not counted. That gives 0.662 M and 48.10 G.
"""

import torch
from torch import Tensor, nn

from ..layers import conv1, conv3, leaky, uncounted
from .system import System

WIDTH = 64
BLOCKS = 4
REFINED = 3  # times that a block distils and refines
DISTILLED = 48
LAST_DISTILLED = 32
SLOPE = 0.05  # RFDN's


class DistillationBlock(nn.Module):
    """Thrice a 1x1 keeps a part and a 3x3 with a skip refines the whole; what was kept is fused by a 1x1.

    `[N, 64, H, W]` to the same. Source: RFDN's block (Liu et al. 2020).
    """

    def __init__(self) -> None:
        super().__init__()
        self.distil = nn.ModuleList(conv1(WIDTH, DISTILLED) for _ in range(REFINED))
        self.refine = nn.ModuleList(conv3(WIDTH, WIDTH) for _ in range(REFINED))
        self.last = conv3(WIDTH, LAST_DISTILLED)
        self.fuse = conv1(REFINED * DISTILLED + LAST_DISTILLED, WIDTH)
        self.activation = uncounted(leaky(SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        kept, y = [], x
        for distil, refine in zip(self.distil, self.refine, strict=True):
            kept.append(self.activation(distil(y)))
            y = self.activation(refine(y) + y)
        kept.append(self.activation(self.last(y)))
        return x + self.fuse(torch.cat(kept, 1))


class LstmCell(nn.Module):
    """One step of a convolutional LSTM with a 1x1 kernel, whose input gate is what the forget gate leaves.

    Features, hidden state and cell state, all `[N, 64, H, W]`, to the next hidden and cell state. Source: Shi et al.
    2015, "Convolutional LSTM Network", with the gates coupled as in Greff et al. 2017, "LSTM: A Search Space
    Odyssey".
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates = conv1(2 * WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        forget, output, new = self.gates(torch.cat((x, hidden), 1)).chunk(3, 1)
        forget = torch.sigmoid(forget)
        cell = forget * cell + (1 - forget) * torch.tanh(new)
        return torch.sigmoid(output) * torch.tanh(cell), cell


class Lfn(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = conv3(3, WIDTH)
        self.blocks = nn.ModuleList(DistillationBlock() for _ in range(BLOCKS))
        self.cell = LstmCell()
        self.fuse = conv1(2 * WIDTH, WIDTH)
        self.last = conv3(WIDTH, 48)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        y, hidden, cell = shallow, torch.zeros_like(shallow), torch.zeros_like(shallow)
        for block in self.blocks:
            y = block(y)
            hidden, cell = self.cell(y, hidden, cell)
        return self.shuffle(self.last(self.fuse(torch.cat((hidden, shallow), 1))))


SYSTEM = System(
    Lfn,
    title="LFN",
    team="Zhang9678",
    source="AIM 2020 report; no public code",
    idea="a convolutional LSTM reads the outputs of the four blocks as a time series and so decides what to keep",
    basis="reading",
    note="a fit to the authors' own figures; of the 39 convolutions 4 are calls of one, which their 36 count once",
)
