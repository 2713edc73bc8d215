"""AMAF-Net of the team Summer: every state sees all earlier ones, and every state adds its own image.

Source: AIM 2020 report (Zhang et al. 2020), team Summer; structure and names after the authors' code,
wxxxxxxh/AMAF-Net. All is exact: the counts are Table 1's in all four columns. Unlike in the report, the last two blocks
have 3x3 convolutions too: so it is in the code, and only so the counts fit.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..layers import conv1, conv3
from ..network import DIV2K_MEAN
from .scale import Scale
from .system import System

WIDTH, INNER_WIDTH, STEPS = 24, 128, 8
TO_IMAGE = 48  # channels that PixelShuffle by 4 turns into an image


class Step(nn.Module):
    """One more state from all the states so far, `[N, 24, H, W]` each, the newest last, and that state's image.

    The state is the sum of the newest one, of what a wide block makes of that, and of a fusion of all, each with a
    learned factor. The image is not shuffled yet, `[N, 48, H, W]`. `index` counts from 0.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            weight_norm(conv3(WIDTH, INNER_WIDTH)), nn.ReLU(), weight_norm(conv3(INNER_WIDTH, WIDTH))
        )
        self.keep, self.change, self.recall = Scale(), Scale(), Scale()
        self.fuse = conv1((index + 1) * WIDTH, WIDTH, bias=False)
        self.to_image = weight_norm(conv1(WIDTH, TO_IMAGE))

    def forward(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        newest, fused = states[-1], self.fuse(torch.cat(states, 1))
        state = self.keep(newest) + self.change(self.block(newest)) + self.recall(fused)
        return state, self.to_image(state)


class AMAFNet(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped.

    Inside, values are distances from the mean colour in units of half the range, as in the authors' code.
    """

    minimum_size = 1
    flops_counted = False  # for `dw`
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.dw = nn.Parameter(torch.randn(STEPS + 1))  # factors of the images: that of the input, those of the states
        self.skip = weight_norm(conv3(3, TO_IMAGE))
        self.head = weight_norm(conv3(3, WIDTH))
        self.steps = nn.ModuleList(Step(index) for index in range(STEPS))
        self.shuffle = nn.PixelShuffle(4)
        self.tail = weight_norm(conv3(WIDTH, TO_IMAGE))

    def forward(self, x: Tensor) -> Tensor:
        image = (x - self.mean) * 2  # theirs, on [0, 255]: (x - 255 mean) / 127.5
        # A quirk that the published weights were trained with: the repeated channels run r, g, b, r, g, b, ..., so
        # that PixelShuffle mixes the colours in a 4x4 pattern; this is not nearest-neighbour enlargement.
        images = image.repeat(1, 16, 1, 1) + self.skip(image) * self.dw[0]
        states = [self.head(image)]
        for index, step in enumerate(self.steps):
            state, residual = step(states)
            states.append(state)
            images = images + residual * self.dw[index + 1]
        images = images + self.tail(states[-1])
        # The authors shuffle each of the eleven and then add; shuffling only moves values, so that once is enough.
        return self.shuffle(images) / 2 + self.mean


SYSTEM = System(
    AMAFNet,
    title="AMAF-Net",
    team="Summer",
    source="AIM 2020 report, team Summer; code: wxxxxxxh/AMAF-Net",
    idea="each state is a learned mixture of the last one, its residual block and all earlier ones, and adds an image",
    note="the parameters include both factors of weight norm; the last two blocks are 3x3, not 1x1 as the report says",
    renamed={
        r"skip\.0": "skip",
        r"head\.0": "head",
        r"body\.(\d)\.body\.([02])": r"steps.\1.block.\2",
        r"x_scale_list\.(\d)": r"steps.\1.keep",
        r"res_scale_list\.(\d)": r"steps.\1.change",
        r"auxilary_scale_list\.(\d)": r"steps.\1.recall",
        r"fusion_conv_list\.(\d)\.0": r"steps.\1.fuse",
        # In the public code these have no `.0`; lists of the weights' keys have been seen with it.
        r"dense_skip\.(\d)(\.0)?": r"steps.\1.to_image",
        r"tail\.0": "tail",
    },
)
