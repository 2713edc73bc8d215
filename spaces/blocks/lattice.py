"""The lattice block of LatticeNet: two residual branches, woven together by four learned coefficients."""

import torch
from torch import Tensor, nn

from ..layers import KERNELS, VARIANCE_FLOOR, conv1, conv3, leaky


class Coefficients(nn.Module):
    """Combination coefficients `[N, width, 1, 1]` in (0, 1): the mean of what the mean and the deviation say.

    Source: Luo et al. 2020, LatticeNet, section 3.2; the deviation divides by (pixels - 1), as in the authors' code.
    """

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.mean = nn.Sequential(conv1(width, hidden), nn.ReLU(), conv1(hidden, width), nn.Sigmoid())
        self.deviation = nn.Sequential(conv1(width, hidden), nn.ReLU(), conv1(hidden, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        pixels = x.shape[2] * x.shape[3]
        deviation = ((x - mean).pow(2).sum((2, 3), keepdim=True) / (pixels - 1) + VARIANCE_FLOOR).sqrt()
        return (self.mean(mean) + self.deviation(deviation)) / 2


class Lattice(nn.Module):
    """Lattice block, `[N, width, H, W]` to the same; no skip over the block.

    Source: Luo et al. 2020, "LatticeNet: Towards Lightweight Image Super-resolution with Lattice Block", figure 3.
    Published form: width 64, `narrowed` 0.25 (the residual branches are 48 wide inside).
    """

    CHOICES = {"narrowed": (0.25, 0.5), "kernel": KERNELS}
    minimum_size = 2  # the deviation of a single pixel is not defined

    def __init__(self, width: int, slope: float, *, narrowed: float, kernel: str) -> None:
        super().__init__()
        inner = width - round(width * narrowed)
        self.branches = nn.ModuleList(self._branch(width, inner, kernel, slope) for _ in range(2))
        self.coefficients = nn.ModuleList(Coefficients(width) for _ in range(4))
        self.fuse = conv1(2 * width, width)

    @staticmethod
    def _branch(width: int, inner: int, kernel: str, slope: float) -> nn.Sequential:
        return nn.Sequential(
            *(conv3(width, inner, kernel), leaky(slope)),
            *(conv3(inner, inner, kernel), leaky(slope)),
            *(conv3(inner, width, kernel), leaky(slope)),
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.branches[0](x)
        p = x + self.coefficients[0](first) * first
        q = first + self.coefficients[1](x) * x
        second = self.branches[1](p)
        p_out = second + self.coefficients[2](q) * q
        q_out = q + self.coefficients[3](second) * second
        return self.fuse(torch.cat((p_out, q_out), dim=1))
