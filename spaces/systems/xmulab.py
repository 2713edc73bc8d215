"""XMUlab's network of AIM 2020: groups that see all earlier groups and the image, attention after the PixelShuffle.

Source: the AIM 2020 Efficient Super-Resolution report; there is no public code. A reading: the widths, depths and the
colours that are joined to the features were chosen so that the counts fit. Parameters, activations and convolutions are
those of Table 1 to the printed digit, FLOPs lie 0.2 % below. The counts leave the spatial attention no convolution, so
it is the mean over the channels through a sigmoid; the second ReLU of a residual block is a guess.
"""

import torch
from torch import Tensor, nn

from ..layers import conv1, conv3
from ..network import enlarge, mean_shift
from .system import System

WIDTH = 32
GROUPS = 7
BLOCKS = 4  # in a group
REDUCTION = 16
COLOURS = 3


class Block(nn.Module):
    """`relu(x + conv(relu(conv(x))))`, `[N, 32, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv3(WIDTH, WIDTH)
        self.second = conv3(WIDTH, WIDTH)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.second(self.activation(self.first(x))))


class Group(nn.Module):
    """A 1x1 that chooses from all that came before, `[N, inputs, H, W]`, then four residual blocks, `[N, 32, H, W]`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.gate = conv1(inputs, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.gate(x))


class Attention(nn.Module):
    """Scales channels by what their means say, then pixels by the mean over their channels; `[N, 32, H, W]` kept."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = conv1(WIDTH, WIDTH // REDUCTION)
        self.activation = nn.ReLU()
        self.excite = conv1(WIDTH // REDUCTION, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.excite(self.activation(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return x * torch.sigmoid(x.mean(1, keepdim=True))


class Xmulab(nn.Module):
    """`[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.subtract_mean = mean_shift(-1, 1)
        self.head = conv3(COLOURS, WIDTH)
        self.groups = nn.ModuleList(Group(COLOURS + WIDTH * (1 + earlier)) for earlier in range(GROUPS))
        self.fuse = conv3(GROUPS * WIDTH, WIDTH)
        self.step_1 = conv3(WIDTH + COLOURS, 4 * WIDTH)
        self.step_2 = conv3(WIDTH, 4 * WIDTH)
        self.shuffle = nn.PixelShuffle(2)
        self.activation = nn.ReLU()
        self.attention = Attention()
        self.add_mean = mean_shift(1, 1)
        self.last = conv3(WIDTH + COLOURS, 3)

    def forward(self, x: Tensor) -> Tensor:
        image = self.subtract_mean(x)
        shallow = self.head(image)
        outputs: list[Tensor] = []
        for group in self.groups:
            outputs.append(group(torch.cat((shallow, *outputs, image), 1)))
        y = self.fuse(torch.cat(outputs, 1)) + shallow
        y = self.activation(self.shuffle(self.step_1(torch.cat((y, image), 1))))
        y = self.attention(self.activation(self.shuffle(self.step_2(y))))
        enlarged = enlarge(image, "bicubic")
        return self.add_mean(self.last(torch.cat((y, enlarged), 1)) + enlarged)


SYSTEM = System(
    Xmulab,
    title="PixelShuffle attention",
    team="XMUlab",
    source="AIM 2020 report; no public code",
    idea="the image and all earlier groups are joined to a group's input; attention works on the enlarged features",
    basis="reading",
    note="parameters, activations and convolutions fit, FLOPs lie 0.2 % below the report's",
)
