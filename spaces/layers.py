"""Layers that every block may use: convolutions of either kernel shape, activations, and the attentions.

All take and give `[N, C, H, W]`. An activation whose floating point operations the challenge's counter does not see
(the published code called it as a function, not as a module) is marked `flops_counted = False` here, where it is made.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNELS = ("3x3", "1x3+3x1")
NORMS = ("none", "batch")
VARIANCE_FLOOR = 1e-12  # a constant channel has no contrast: the root of exactly 0 has no gradient


def conv3(
    inputs: int,
    outputs: int,
    kernel: str = "3x3",
    *,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A 3x3 convolution, or its factorisation into 1x3 then 3x1; same padding, stride 1.

    Source of the factorisation: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 3.2.
    """
    if kernel == "3x3":
        return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=bias)
    # The first of the pair needs no bias: the second one's covers it, up to the zero border.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, (1, 3), padding=(0, 1), groups=groups, bias=False),
        nn.Conv2d(outputs, outputs, (3, 1), padding=(1, 0), groups=groups, bias=bias),
    )


def conv1(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


def uncounted(activation: nn.Module) -> nn.Module:
    """Marks an activation that the published code applied as a function, so that the challenge counted no FLOPs."""
    activation.flops_counted = False  # pyright: ignore[reportArgumentType]  # read by proxies/complexity.py
    return activation


def leaky(slope: float) -> nn.Module:
    """The network's leaky ReLU."""
    return nn.LeakyReLU(slope)


def norm_layer(kind: str, width: int) -> nn.Module:
    """Batch norm or nothing; `kind` is one of `NORMS`."""
    return nn.BatchNorm2d(width) if kind == "batch" else nn.Identity()


def population_std(x: Tensor) -> Tensor:
    """Standard deviation over height and width, `[N, C, 1, 1]`, dividing by the number of pixels."""
    centred = x - x.mean((2, 3), keepdim=True)
    return (centred.pow(2).mean((2, 3), keepdim=True) + VARIANCE_FLOOR).sqrt()


class ContrastChannelAttention(nn.Module):
    """Contrast-aware channel attention: each channel is scaled by what its mean and its contrast say.

    Source: Hui et al. 2019, "Lightweight Image Super-Resolution with Information Multi-distillation Network", eq. 5.
    """

    minimum_size = 1

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.squeeze = conv1(width, hidden)
        self.activation = nn.ReLU()
        self.excite = conv1(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        statistic = population_std(x) + x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(self.activation(self.squeeze(statistic))))


class EnhancedSpatialAttention(nn.Module):
    """Enhanced spatial attention: a mask from a strided, pooled, wide look at a quarter of the channels.

    Needs 15 pixels a side (a stride-2 convolution, then a 7x7 pool). Source: Liu et al. 2020, "Residual Feature
    Aggregation Network for Image Super-Resolution", in the form of RFDN (Liu et al. 2020), with width // 4 channels.
    """

    minimum_size = 15

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 4)
        self.reduce = conv1(width, inner)
        self.skip = conv1(inner, inner)
        self.stride = nn.Conv2d(inner, inner, 3, stride=2)
        self.pooled_1 = conv3(inner, inner)
        self.pooled_2 = conv3(inner, inner)
        self.pooled_3 = conv3(inner, inner)
        self.expand = conv1(inner, width)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        far = F.max_pool2d(self.stride(reduced), kernel_size=7, stride=3)
        far = self.activation(self.pooled_1(far))
        far = self.pooled_3(self.activation(self.pooled_2(far)))
        far = F.interpolate(far, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.expand(far + self.skip(reduced)))


class PixelAttention(nn.Module):
    """Pixel attention: a full-size mask from one 1x1 convolution.

    Source: Zhao et al. 2020, "Efficient Image Super-Resolution Using Pixel Attention", eq. 4.
    """

    minimum_size = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = conv1(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.mask(x))


class SqueezeExcitation(nn.Module):
    """Squeeze and excitation with a hard sigmoid, as in MobileNetV3.

    Source: Howard et al. 2019, "Searching for MobileNetV3", section 5.3 (reduction 4).
    """

    minimum_size = 1

    def __init__(self, width: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.squeeze = conv1(width, hidden)
        self.activation = nn.ReLU()
        self.excite = conv1(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        statistic = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.excite(self.activation(self.squeeze(statistic))))


class NoAttention(nn.Identity):
    """Leaves the features as they are."""

    minimum_size = 1

    def __init__(self, width: int) -> None:
        super().__init__()


ATTENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": NoAttention,
    "cca": ContrastChannelAttention,
    "esa": EnhancedSpatialAttention,
    "pa": PixelAttention,
    "se": SqueezeExcitation,
}
