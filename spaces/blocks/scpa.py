"""The self-calibrated block with pixel attention of PAN."""

import torch
from torch import Tensor, nn

from ..layers import KERNELS, conv1, conv3, leaky


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention, `[N, width, H, W]` to the same; the two halves of `width` part ways.

    Source: Zhao et al. 2020, PAN, section 3.3. Published form: kernel `3x3`.
    """

    CHOICES = {"kernel": KERNELS}

    def __init__(self, width: int, slope: float, *, kernel: str) -> None:
        super().__init__()
        half = width // 2
        self.plain_in = conv1(width, half, bias=False)
        self.gated_in = conv1(width, half, bias=False)
        self.plain = conv3(half, half, kernel, bias=False)
        self.mask = conv1(half, half)
        self.gated = conv3(half, half, kernel, bias=False)
        self.gated_out = conv3(half, half, kernel, bias=False)
        self.fuse = conv1(2 * half, width, bias=False)
        self.activation = leaky(slope)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.activation(self.plain_in(x))
        plain = self.activation(self.plain(plain))
        gated = self.activation(self.gated_in(x))
        gated = self.gated(gated) * torch.sigmoid(self.mask(gated))
        gated = self.activation(self.gated_out(gated))
        return self.fuse(torch.cat((plain, gated), dim=1)) + x
