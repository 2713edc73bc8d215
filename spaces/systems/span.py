"""SPAN, the baseline of NTIRE 2026: an attention without parameters, the block's own output through a sigmoid.

Source: Wan et al. 2024 (CVPR workshops), "Swift Parameter-free Attention Network for Efficient Super-Resolution";
structure and names after the authors' code, hongyuanyu/SPAN, and their entry to Amazingren/NTIRE2024_ESR (team 38),
which Amazingren/NTIRE2026_ESR runs on [0, 1] as its baseline, with 28 channels where the authors' default is 48. All
is exact.

Two things that look like slips are what the weights were trained with. The image goes in as distances from the mean
colour on a scale of 255 and comes out on [0, 1], nothing added; there is no image skip, and before training the output
is of the order of 10. And what the last block hands to the end is its first convolution after the activation, because
the authors' code computes that in place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv1, conv3
from ..network import DIV2K_MEAN
from .system import System

WIDTH, BLOCKS, GAIN = 28, 6, 2
VALUE_RANGE = 255


class WidenedConv(nn.Module):
    """A 3x3 convolution that trains as a 1x1, a 3x3 and a 1x1, wider in between, beside another 1x1.

    `[N, C_in, H, W]` to `[N, C_out, H, W]`. Source: Wan et al. 2024, `Conv3XC` of their code.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = conv1(inputs, GAIN * inputs)
        self.look = nn.Conv2d(GAIN * inputs, GAIN * outputs, 3)
        self.narrow = conv1(GAIN * outputs, outputs)
        self.skip = conv1(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        # Padded before the first 1x1, so that its bias reaches the border too: merging is exact there as well.
        return self.narrow(self.look(self.widen(F.pad(x, (1, 1, 1, 1))))) + self.skip(x)

    def merged(self) -> nn.Module:
        """One convolution: the product of the three kernels, and the other 1x1 added in its centre."""
        look, narrow = self.look.weight, self.narrow.weight[:, :, 0, 0]
        kernel = torch.einsum("op,pqhw,qi->oihw", narrow, look, self.widen.weight[:, :, 0, 0])
        inner_bias = look.sum((2, 3)) @ self.widen.bias + self.look.bias  # type: ignore[operator]
        conv = conv3(self.skip.in_channels, self.skip.out_channels).to(kernel)
        conv.weight.copy_(kernel + F.pad(self.skip.weight, (1, 1, 1, 1)))  # type: ignore[operator]
        conv.bias.copy_(narrow @ inner_bias + self.narrow.bias + self.skip.bias)  # type: ignore[operator,union-attr]
        return conv


class AttentionBlock(nn.Module):
    """Three convolutions with a residual, scaled by what they made: `[N, 28, H, W]` to the same.

    The second output, of the same shape, is the first convolution's after the activation. Source: Wan et al. 2024,
    "swift parameter-free attention block".
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(WidenedConv(WIDTH, WIDTH) for _ in range(3))
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.activation(self.convs[0](x))
        y = self.convs[2](self.activation(self.convs[1](early)))
        return (y + x) * (torch.sigmoid(y) - 0.5), early


class SPAN(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = 1
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.head = WidenedConv(3, WIDTH)
        self.blocks = nn.ModuleList(AttentionBlock() for _ in range(BLOCKS))
        self.body_conv = WidenedConv(WIDTH, WIDTH)
        self.fuse = conv1(4 * WIDTH, WIDTH)
        self.upsampler = nn.Sequential(conv3(WIDTH, 48), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head((x - self.mean) * VALUE_RANGE)
        first, early = self.blocks[0](shallow)
        last = first
        for block in self.blocks[1:]:
            last, early = block(last)
        return self.upsampler(self.fuse(torch.cat((shallow, self.body_conv(last), first, early), 1)))


# A widened convolution in the authors' training form and in their merged one, which is the one they publish.
_CONV = {
    **{rf"\.conv\.{step}": f".{ours}" for step, ours in enumerate(("widen", "look", "narrow"))},
    r"\.sk": ".skip",
    r"\.eval_conv": "",
}

SYSTEM = System(
    SPAN,
    title="SPAN",
    source="Wan et al. 2024 (CVPR workshops), in NTIRE's form; code: hongyuanyu/SPAN, NTIRE2024_ESR, NTIRE2026_ESR",
    idea="each block scales its output by a sigmoid of that output; convolutions train as three in a row and a 1x1",
    note="28 channels, as in the challenge, where the authors' default is 48; published weights are merged ones",
    renamed={
        **{rf"conv_1{theirs}": f"head{ours}" for theirs, ours in _CONV.items()},
        **{
            rf"block_{block + 1}\.c{step + 1}_r{theirs}": f"blocks.{block}.convs.{step}{ours}"
            for block in range(BLOCKS)
            for step in range(3)
            for theirs, ours in _CONV.items()
        },
        **{rf"conv_2{theirs}": f"body_conv{ours}" for theirs, ours in _CONV.items()},
        r"conv_cat": "fuse",
    },
)
