"""RLFN, the baseline of NTIRE 2024: plain convolutions and a slim spatial attention, nothing distilled any more.

Source: Kong et al. 2022 (CVPR workshops), "Residual Local Feature Network for Efficient Super-Resolution"; structure
and names after the authors' code, bytedance/RLFN (`rlfn_ntire`), which Amazingren/NTIRE2024_ESR runs unchanged on
[0, 255]. All is exact. This is the pruned network that won the runtime track of NTIRE 2022: 4 blocks of 46 channels,
48 between their convolutions; the paper's RLFN has 6 blocks of 52. There is neither a mean shift nor an image skip.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import conv1, conv3, leaky
from .system import System

WIDTH, INNER_WIDTH, ATTENTION_WIDTH, BLOCKS, SLOPE = 46, 48, 16, 4, 0.05
VALUE_RANGE = 255


class SlimSpatialAttention(nn.Module):
    """Enhanced spatial attention with one convolution after the pool instead of three: `[N, 46, H, W]` to the same.

    Needs 15 pixels a side, as the full one does (`EnhancedSpatialAttention`). Source: Kong et al. 2022, from RFDN's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reduce = conv1(WIDTH, ATTENTION_WIDTH)
        self.stride = nn.Conv2d(ATTENTION_WIDTH, ATTENTION_WIDTH, 3, stride=2)
        self.pooled = conv3(ATTENTION_WIDTH, ATTENTION_WIDTH)
        self.skip = conv1(ATTENTION_WIDTH, ATTENTION_WIDTH)
        self.expand = conv1(ATTENTION_WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        far = self.pooled(F.max_pool2d(self.stride(reduced), kernel_size=7, stride=3))
        far = F.interpolate(far, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.expand(far + self.skip(reduced)))


class LocalBlock(nn.Module):
    """Three convolutions with a residual, a 1x1 and the attention: `[N, 46, H, W]` to the same.

    Source: Kong et al. 2022, "residual local feature block".
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv3(WIDTH, INNER_WIDTH), leaky(SLOPE)),
            *(conv3(INNER_WIDTH, INNER_WIDTH), leaky(SLOPE)),
            *(conv3(INNER_WIDTH, WIDTH), leaky(SLOPE)),
        )
        self.fuse = conv1(WIDTH, WIDTH)
        self.attention = SlimSpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.fuse(self.body(x) + x))


class RLFN(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped; inside 0 to 255."""

    minimum_size = 15

    def __init__(self) -> None:
        super().__init__()
        self.head = conv3(3, WIDTH)
        self.blocks = nn.Sequential(*(LocalBlock() for _ in range(BLOCKS)))
        self.body_conv = conv3(WIDTH, WIDTH)
        self.upsampler = nn.Sequential(conv3(WIDTH, 48), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x * VALUE_RANGE)
        return self.upsampler(self.body_conv(self.blocks(shallow)) + shallow) / VALUE_RANGE


# The authors' block #, from 1.
_BLOCK = {
    **{rf"c{step + 1}_r": f"body.{2 * step}" for step in range(3)},
    r"c5": "fuse",
    r"esa\.conv1": "attention.reduce",
    r"esa\.conv2": "attention.stride",
    r"esa\.conv3": "attention.pooled",
    r"esa\.conv_f": "attention.skip",
    r"esa\.conv4": "attention.expand",
}

SYSTEM = System(
    RLFN,
    title="RLFN",
    source="Kong et al. 2022 (CVPR workshops), in NTIRE's form; code: bytedance/RLFN, NTIRE2024_ESR",
    idea="three plain convolutions in place of the distillation of RFDN, a spatial attention with fewer convolutions",
    note="NTIRE printed 19.70 G, which is `flops_g`, and 19.67 G, which is `macs_g` and 4 an element of the bilinear "
    "enlargements in the attentions",
    renamed={
        r"conv_1": "head",
        **{
            rf"block_{block + 1}\.{theirs}": f"blocks.{block}.{ours}"
            for block in range(BLOCKS)
            for theirs, ours in _BLOCK.items()
        },
        r"conv_2": "body_conv",
    },
)
