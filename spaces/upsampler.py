"""Ways from features at low resolution to an image four times as large. A new one: write it, name it in `UPSAMPLERS`.

An upsampler is a module `Upsampler(width, upsampler_width, slope)` from `[N, width, h, w]` to `[N, 3, 4h, 4w]`.
`WIDTH_STEP` is what its own width must be a multiple of; 0 where it has none.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import PixelAttention, conv3, leaky


class Direct(nn.Module):
    """One 3x3 convolution to 48 channels, then PixelShuffle by 4. Source: Shi et al. 2016, ESPCN."""

    WIDTH_STEP = 0

    def __init__(self, width: int, upsampler_width: int, slope: float) -> None:
        super().__init__()
        self.conv = conv3(width, 48)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))


class TwoStep(nn.Module):
    """Two steps of PixelShuffle by 2, then two 3x3 convolutions at full size. Source: MSRResNet, there 64 wide."""

    WIDTH_STEP = 1

    def __init__(self, width: int, upsampler_width: int, slope: float) -> None:
        super().__init__()
        self.step_1 = conv3(width, 4 * upsampler_width)
        self.step_2 = conv3(upsampler_width, 4 * upsampler_width)
        self.full = conv3(upsampler_width, upsampler_width)
        self.last = conv3(upsampler_width, 3)
        self.shuffle = nn.PixelShuffle(2)
        self.activation = leaky(slope)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.shuffle(self.step_1(x)))
        x = self.activation(self.shuffle(self.step_2(x)))
        return self.last(self.activation(self.full(x)))


class LightTwoStep(nn.Module):
    """Two steps of PixelShuffle by 2 that grow thinner: its width, then half of it. Source: LMSR of AIM 2020."""

    WIDTH_STEP = 2

    def __init__(self, width: int, upsampler_width: int, slope: float) -> None:
        super().__init__()
        half = upsampler_width // 2
        self.step_1 = conv3(width, 4 * upsampler_width)
        self.step_2 = conv3(upsampler_width, 4 * half)
        self.full = conv3(half, half)
        self.last = conv3(half, 3)
        self.shuffle = nn.PixelShuffle(2)
        self.activation = leaky(slope)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.shuffle(self.step_1(x)))
        x = self.activation(self.shuffle(self.step_2(x)))
        return self.last(self.activation(self.full(x)))


class NearestPixelAttention(nn.Module):
    """Twice: nearest x2, 3x3, pixel attention, 3x3; a last 3x3 at full size. Source: PAN, section 3.4 (U-PA)."""

    WIDTH_STEP = 1

    def __init__(self, width: int, upsampler_width: int, slope: float) -> None:
        super().__init__()
        self.grow = nn.ModuleList(conv3(inputs, upsampler_width) for inputs in (width, upsampler_width))
        self.attend = nn.ModuleList(PixelAttention(upsampler_width) for _ in range(2))
        self.refine = nn.ModuleList(conv3(upsampler_width, upsampler_width) for _ in range(2))
        self.last = conv3(upsampler_width, 3)
        self.activation = leaky(slope)

    def forward(self, x: Tensor) -> Tensor:
        for grow, attend, refine in zip(self.grow, self.attend, self.refine, strict=True):
            x = grow(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = self.activation(refine(self.activation(attend(x))))
        return self.last(x)


UPSAMPLERS: dict[str, Any] = {
    "direct": Direct,
    "two_step": TwoStep,
    "light_two_step": LightTwoStep,
    "nearest_pa": NearestPixelAttention,
}
