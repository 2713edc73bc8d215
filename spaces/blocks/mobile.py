"""The blocks of mobile networks: the inverted residual, and MobileNetV3's with squeeze and excitation."""

from torch import Tensor, nn

from ..layers import ATTENTIONS, KERNELS, NORMS, conv1, conv3, norm_layer


class InvertedResidual(nn.Module):
    """Inverted residual with a linear bottleneck, `[N, width, H, W]` to the same.

    Widen by 1x1, filter each channel alone, narrow by 1x1, add. Source: Sandler et al. 2018, MobileNetV2, section 3.3.
    Published form: `expansion` 6, norm `batch`; the challenge's neptuneai team searched over 3 and 6. Without batch
    norm (the default here: super-resolution is better without, Lim et al. 2017) the convolutions have biases.
    """

    CHOICES = {"expansion": (3, 6), "kernel": KERNELS, "norm": NORMS}

    def __init__(self, width: int, slope: float, *, expansion: int, kernel: str, norm: str) -> None:
        super().__init__()
        inner, bias = width * expansion, norm == "none"
        self.widen = conv1(width, inner, bias=bias)
        self.norm_1 = norm_layer(norm, inner)
        self.filter = conv3(inner, inner, kernel, groups=inner, bias=bias)
        self.norm_2 = norm_layer(norm, inner)
        self.narrow = conv1(inner, width, bias=bias)
        self.norm_3 = norm_layer(norm, width)
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm_1(self.widen(x)))
        y = self.activation(self.norm_2(self.filter(y)))
        return self.norm_3(self.narrow(y)) + x


class MobileNetV3(nn.Module):
    """MobileNetV3's block, `[N, width, H, W]` to the same: hard swish, and attention on the widened features.

    Source: Howard et al. 2019, "Searching for MobileNetV3", figure 4. Published form: attention `se`, norm `batch`.
    """

    CHOICES = {"expansion": (3, 6), "kernel": KERNELS, "attention": ("se", "none", "cca"), "norm": NORMS}

    def __init__(self, width: int, slope: float, *, expansion: int, kernel: str, attention: str, norm: str) -> None:
        super().__init__()
        inner, bias = width * expansion, norm == "none"
        self.widen = conv1(width, inner, bias=bias)
        self.norm_1 = norm_layer(norm, inner)
        self.filter = conv3(inner, inner, kernel, groups=inner, bias=bias)
        self.norm_2 = norm_layer(norm, inner)
        self.attention = ATTENTIONS[attention](inner)
        self.narrow = conv1(inner, width, bias=bias)
        self.norm_3 = norm_layer(norm, width)
        self.activation = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm_1(self.widen(x)))
        y = self.activation(self.attention(self.norm_2(self.filter(y))))
        return self.norm_3(self.narrow(y)) + x
