"""A learned factor, as several published networks put one before each term of a sum."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by one learned number, which starts at `start`; any shape to the same."""

    flops_counted = False

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
