"""Information multi-distillation blocks: three convolutions each give a share away, a fourth takes the rest."""

import torch
from torch import Tensor, nn

from ..layers import ATTENTIONS, KERNELS, conv1, conv3, leaky


class IMDB(nn.Module):
    """Information multi-distillation block, `[N, width, H, W]` to the same.

    Source: Hui et al. 2019, IMDN, section 3.2. Published forms: `distilled` 0.25 with attention `cca` (the paper) or
    `none` (the winner of AIM 2019). The attention sits before the last 1x1 convolution, as published.
    """

    CHOICES = {"distilled": (0.25, 0.5), "kernel": KERNELS, "attention": ("none", "cca", "esa", "pa")}

    def __init__(self, width: int, slope: float, *, distilled: float, kernel: str, attention: str) -> None:
        super().__init__()
        self.kept = round(width * distilled)
        self.passed = width - self.kept
        self.stages = nn.ModuleList(conv3(inputs, width, kernel) for inputs in (width, self.passed, self.passed))
        self.last = conv3(self.passed, self.kept, kernel)
        self.activation = leaky(slope)
        self.attention = ATTENTIONS[attention](4 * self.kept)
        self.fuse = conv1(4 * self.kept, width)

    def forward(self, x: Tensor) -> Tensor:
        rest, kept = x, []
        for stage in self.stages:
            share, rest = torch.split(self.activation(stage(rest)), [self.kept, self.passed], dim=1)
            kept.append(share)
        kept.append(self.last(rest))
        return self.fuse(self.attention(torch.cat(kept, dim=1))) + x


class IMDBR(nn.Module):
    """The IMDB rewritten: each convolution before a split becomes two parallel ones.

    Source: Liu et al. 2020, RFDN, figure 1b ("IMDB-R"). With kernel `3x3` it is the same function as `imdb`, with the
    same parameters and activations and 3 more convolutions; a factorised pair is thinner here than before a split.
    """

    CHOICES = IMDB.CHOICES

    def __init__(self, width: int, slope: float, *, distilled: float, kernel: str, attention: str) -> None:
        super().__init__()
        kept = round(width * distilled)
        passed = width - kept
        inputs = (width, passed, passed)
        self.distil = nn.ModuleList(conv3(i, kept, kernel) for i in inputs)
        self.refine = nn.ModuleList(conv3(i, passed, kernel) for i in inputs)
        self.last = conv3(passed, kept, kernel)
        self.activation = leaky(slope)
        self.attention = ATTENTIONS[attention](4 * kept)
        self.fuse = conv1(4 * kept, width)

    def forward(self, x: Tensor) -> Tensor:
        rest, kept = x, []
        for distil, refine in zip(self.distil, self.refine, strict=True):
            kept.append(self.activation(distil(rest)))
            rest = self.activation(refine(rest))
        kept.append(self.last(rest))
        return self.fuse(self.attention(torch.cat(kept, dim=1))) + x
