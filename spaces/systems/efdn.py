"""EFDN, the baseline of NTIRE 2025: feature distillation whose 3x3 convolutions were trained with edge filters beside.

Source: Wang 2022 (CVPR workshops), "Edge-enhanced Feature Distillation Network for Efficient Super-Resolution";
structure and names after the authors' code, icandle/EFDN (`EFDN_deploy`), which Amazingren/NTIRE2025_ESR runs on
[0, 1]. The network is exact, in its inference form only: both repositories have the class of the branches that the 3x3
convolutions trained with (3x3, 1x1, and Sobel and Laplacian filters after a 1x1; some are optional), but no network
that says which of them it used, and the published weights are merged. So ours trains in this form too. Theirs clamps
the image to [0, 1] at the end; ours does not, as everywhere here. There is neither a mean shift nor an image skip.
"""

import torch
from torch import Tensor, nn

from ..layers import EnhancedSpatialAttention, conv1, conv3
from .system import System

WIDTH, BLOCKS = 48, 4


def activated(conv: nn.Module) -> nn.Sequential:
    """The convolution and a PReLU with a slope for each channel."""
    return nn.Sequential(conv, nn.PReLU(WIDTH))


class DistillationBlock(nn.Module):
    """Three convolutions in a row, half as many channels from each and from the input, fused: `[N, 48, H, W]` to same.

    Source: Wang 2022, where a search over architectures found it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refine = nn.ModuleList(
            (activated(conv1(WIDTH, WIDTH)), activated(conv3(WIDTH, WIDTH)), activated(conv3(WIDTH, WIDTH)))
        )
        self.distil = nn.ModuleList(conv1(WIDTH, WIDTH // 2) for _ in range(4))
        self.fuse = conv1(2 * WIDTH, WIDTH)
        self.attention = EnhancedSpatialAttention(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for refine in self.refine:
            states.append(refine(states[-1]))
        kept = [distil(state) for distil, state in zip(self.distil, states, strict=True)]
        return self.attention(self.fuse(torch.cat(kept, 1))) + x


class EFDN(nn.Module):
    """The network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped."""

    minimum_size = EnhancedSpatialAttention.minimum_size

    def __init__(self) -> None:
        super().__init__()
        self.head = conv3(3, WIDTH)
        self.blocks = nn.ModuleList(DistillationBlock() for _ in range(BLOCKS))
        self.fuse = nn.ModuleList(conv1(2 * WIDTH, WIDTH) for _ in range(BLOCKS - 1))
        self.upsampler = nn.Sequential(conv3(WIDTH, 48), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        first = self.blocks[0](shallow)
        second = self.blocks[1](first)
        third = self.blocks[2](self.fuse[0](torch.cat((first, second), 1)))
        fourth = self.blocks[3](self.fuse[1](torch.cat((second, third), 1)))
        # The second one again, not the third: so it is in the code, and the weights were trained with it.
        return self.upsampler(self.fuse[2](torch.cat((second, fourth), 1)) + shallow)


SYSTEM = System(
    EFDN,
    title="EFDN",
    source="Wang 2022 (CVPR workshops); code: icandle/EFDN, NTIRE2025_ESR",
    idea="a searched distillation block; its 3x3 convolutions trained with edge filters beside them and were merged",
    note="the inference form only: how the branches of the training form were put together is not in the code. NTIRE's "
    "16.70 G are `macs_g` and 4 an element of the bilinear enlargements in the attentions",
    renamed={
        r"cells\.(\d)\.conv1\.conv1x1": r"blocks.\1.refine.0.0",
        r"cells\.(\d)\.conv1\.act": r"blocks.\1.refine.0.1",
        **{rf"cells\.(\d)\.conv{step + 1}\.rep_conv": rf"blocks.\1.refine.{step}.0" for step in (1, 2)},
        **{rf"cells\.(\d)\.conv{step + 1}\.act": rf"blocks.\1.refine.{step}.1" for step in (1, 2)},
        r"cells\.(\d)\.branch\.(\d)": r"blocks.\1.distil.\2",
        r"cells\.(\d)\.fuse": r"blocks.\1.fuse",
        r"cells\.(\d)\.att\.conv1": r"blocks.\1.attention.reduce",
        r"cells\.(\d)\.att\.conv_f": r"blocks.\1.attention.skip",
        r"cells\.(\d)\.att\.conv2": r"blocks.\1.attention.stride",
        r"cells\.(\d)\.att\.conv_max": r"blocks.\1.attention.pooled_1",
        r"cells\.(\d)\.att\.conv3": r"blocks.\1.attention.pooled_2",
        r"cells\.(\d)\.att\.conv3_": r"blocks.\1.attention.pooled_3",
        r"cells\.(\d)\.att\.conv4": r"blocks.\1.attention.expand",
        r"local_fuse\.(\d)": r"fuse.\1",
        r"tail\.0": "upsampler.0",
    },
)
