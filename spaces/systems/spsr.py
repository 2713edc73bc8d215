"""SPSR of the team H-ZnCa: a sparse code of the image's details modulates the features of every block.

Source: AIM 2020 report (Zhang et al. 2020), team H-ZnCa; structure and names after the authors' code,
CS-SL/AIM2020-Efficient-SR. All is exact: the counts are Table 1's in all four columns. Only the head has biases.
The instance norms look at the statistics of the whole image, so tiles give other outputs than the image they are cut
from; on a single pixel they have none, hence the smallest size.
"""

import torch
from torch import Tensor, nn

from ..layers import conv1, conv3, uncounted
from ..network import enlarge
from .system import System

WIDTH, BLOCKS, SLOPE = 32, 6, 0.1
BLUR_SIZE, BLUR_SIGMA = 9, 1.3
CODING_STEPS, CODING_DILATION, THRESHOLD = 2, 5, 0.2
CONTENT_DILATIONS = ((2, 2), (3, 5, 3, 5))  # of the first and the second level


def dilated(inputs: int, outputs: int, dilation: int) -> nn.Conv2d:
    """A dilated 3x3 convolution, same padding, no bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)


def quiet_leaky() -> nn.Module:
    """A leaky ReLU that the authors called as a function."""
    return uncounted(nn.LeakyReLU(SLOPE))


def blur() -> nn.Conv2d:
    """A frozen Gaussian blur of each colour, zero padding."""
    conv = nn.Conv2d(3, 3, BLUR_SIZE, padding=BLUR_SIZE // 2, groups=3, bias=False)
    distance = torch.arange(BLUR_SIZE) - BLUR_SIZE // 2
    line = torch.softmax(-(distance**2) / (2 * BLUR_SIGMA**2), 0)
    conv.weight.data.copy_(torch.outer(line, line).expand_as(conv.weight))
    return conv.requires_grad_(False)


class SoftThreshold(nn.Module):
    """Moves every value towards 0 by a learned threshold and stops there; any shape to the same."""

    flops_counted = False  # for `theta`; its ReLU counts

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(THRESHOLD))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * self.activation(x.abs() - self.theta)


class SparseCode(nn.Module):
    """A sparse code of the image's details by two unrolled steps: `[N, 3, H, W]` to `[N, 32, H, W]`.

    Source: Gregor and LeCun 2010, "Learning Fast Approximations of Sparse Coding", in a convolutional form.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encode = dilated(3, WIDTH, CODING_DILATION)
        self.decodes = nn.ModuleList(dilated(WIDTH, 3, CODING_DILATION) for _ in range(CODING_STEPS))
        self.encodes = nn.ModuleList(dilated(3, WIDTH, CODING_DILATION) for _ in range(CODING_STEPS))
        self.thresholds = nn.ModuleList(SoftThreshold() for _ in range(CODING_STEPS + 1))

    def forward(self, details: Tensor) -> Tensor:
        start = self.encode(details)
        code = self.thresholds[0](start)
        for step in range(CODING_STEPS):
            explained = self.encodes[step](self.decodes[step](code))
            code = self.thresholds[step + 1](code - explained + start)
        return code


class ModulatedBlock(nn.Module):
    """Features scaled and shifted by what the code says, then a residual block: both `[N, 32, H, W]`, to the same.

    Source: Wang et al. 2018, "Recovering Realistic Texture in Image Super-resolution by Deep Spatial Feature
    Transform".
    """

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Sequential(conv3(WIDTH, WIDTH, bias=False), quiet_leaky(), conv3(WIDTH, WIDTH, bias=False))
        self.scale = nn.Sequential(conv1(WIDTH, WIDTH, bias=False), quiet_leaky(), conv1(WIDTH, WIDTH, bias=False))
        self.shift = nn.Sequential(conv1(WIDTH, WIDTH, bias=False), quiet_leaky(), conv1(WIDTH, WIDTH, bias=False))
        self.body = nn.Sequential(
            nn.InstanceNorm2d(WIDTH),
            conv3(WIDTH, WIDTH, bias=False),
            nn.LeakyReLU(SLOPE),
            conv3(WIDTH, WIDTH, bias=False),
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        side = self.side(code)
        return self.body(self.scale(side) * x + self.shift(side)) + x


class Content(nn.Module):
    """A tree of dilated convolutions, whose levels are all fused: `[N, 32, H, W]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.widen = conv1(WIDTH, 2 * WIDTH, bias=False)
        self.first = nn.ModuleList(dilated(WIDTH, WIDTH, dilation) for dilation in CONTENT_DILATIONS[0])
        self.second = nn.ModuleList(dilated(half, half, dilation) for dilation in CONTENT_DILATIONS[1])
        self.plain = conv3(WIDTH, half, bias=False)
        self.fuse = conv1(2 * WIDTH + 5 * half, WIDTH, bias=False)
        self.activation = quiet_leaky()

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.chunk(self.widen(x), 2, 1)
        first = [self.activation(conv(wide[i])) for i, conv in enumerate(self.first)]
        halves = [torch.chunk(branch, 2, 1) for branch in first]
        second = [self.activation(conv(halves[i // 2][i % 2])) for i, conv in enumerate(self.second)]
        return self.fuse(torch.cat((*first, *second, self.plain(x)), 1))


class SPSR(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.blur = blur()
        self.sparse_code = SparseCode()
        self.head = conv3(3, WIDTH)
        self.blocks = nn.ModuleList(ModulatedBlock() for _ in range(BLOCKS))
        self.content = Content()
        self.upsampler = nn.Sequential(
            conv3(WIDTH, 4 * WIDTH, bias=False),
            nn.PixelShuffle(2),
            uncounted(nn.ReLU()),
            conv3(WIDTH, 4 * WIDTH, bias=False),
            nn.PixelShuffle(2),
            conv3(WIDTH, 3, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        code = self.sparse_code(x - self.blur(x))
        features = self.head(x)
        for block in self.blocks:
            features = block(features, code)
        return self.upsampler(self.content(features)) + enlarge(x, "bilinear")


SYSTEM = System(
    SPSR,
    title="SPSR",
    team="H-ZnCa",
    source="AIM 2020 report, team H-ZnCa; code: CS-SL/AIM2020-Efficient-SR",
    idea="a sparse code of what a Gaussian blur takes away scales and shifts the features of every residual block",
    note="243 of the parameters are the frozen blur; the leaky ReLUs outside the residual blocks are functions in the "
    "code, so the challenge counted no FLOPs for them",
    renamed={
        r"gaussian_conv": "blur",
        r"sparse_prior\.g": "sparse_code.encode",
        **{rf"sparse_prior\.v{step + 1}": f"sparse_code.decodes.{step}" for step in range(CODING_STEPS)},
        **{rf"sparse_prior\.t{step + 1}": f"sparse_code.encodes.{step}" for step in range(CODING_STEPS)},
        r"sparse_prior\.s(\d)": r"sparse_code.thresholds.\1",
        r"conv": "head",
        r"sft_branch(\d)\.sft\.scale_conv0": r"blocks.\1.side.0",
        r"sft_branch(\d)\.sft\.scale_conv1": r"blocks.\1.side.2",
        r"sft_branch(\d)\.sft\.scale_conv2": r"blocks.\1.scale.0",
        r"sft_branch(\d)\.sft\.scale_conv3": r"blocks.\1.scale.2",
        r"sft_branch(\d)\.sft\.shift_conv0": r"blocks.\1.shift.0",
        r"sft_branch(\d)\.sft\.shift_conv1": r"blocks.\1.shift.2",
        r"sft_branch(\d)\.block\.([13])": r"blocks.\1.body.\2",
        r"content\.conv_1x1": "content.widen",
        r"content\.conv_3x3": "content.plain",
        **{rf"content\.level1_{i + 1}": f"content.first.{i}" for i in range(2)},
        **{rf"content\.level2_{i + 1}": f"content.second.{i}" for i in range(4)},
        r"content\.conv_fuse": "content.fuse",
        r"up_conv\.up_conv_1": "upsampler.0",
        r"up_conv\.up_conv_2": "upsampler.3",
        r"up_conv\.conv_last": "upsampler.5",
    },
)
