"""The residual feature distillation block of RFDN, with its shallow residual blocks."""

import torch
from torch import Tensor, nn

from ..layers import ATTENTIONS, KERNELS, conv1, conv3, leaky


class RFDB(nn.Module):
    """Residual feature distillation block, `[N, width, H, W]` to the same; it has no skip of its own.

    Three times, a 1x1 convolution keeps a share and a shallow residual block (SRB: activation of 3x3 plus identity)
    refines the whole. Source: Liu et al. 2020, RFDN, figure 1c-d. Published form: `distilled` 0.5, attention `esa`.
    """

    CHOICES = {"distilled": (0.5, 0.25), "kernel": KERNELS, "attention": ("esa", "cca", "pa", "none")}

    def __init__(self, width: int, slope: float, *, distilled: float, kernel: str, attention: str) -> None:
        super().__init__()
        kept = round(width * distilled)
        self.distil = nn.ModuleList(conv1(width, kept) for _ in range(3))
        self.refine = nn.ModuleList(conv3(width, width, kernel) for _ in range(3))
        self.last = conv3(width, kept, kernel)
        self.activation = leaky(slope)
        self.fuse = conv1(4 * kept, width)
        self.attention = ATTENTIONS[attention](width)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for distil, refine in zip(self.distil, self.refine, strict=True):
            kept.append(self.activation(distil(x)))
            x = self.activation(refine(x) + x)
        kept.append(self.activation(self.last(x)))
        return self.attention(self.fuse(torch.cat(kept, dim=1)))
