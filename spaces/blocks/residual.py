"""The plain residual block."""

from torch import Tensor, nn

from ..layers import ATTENTIONS, KERNELS, NORMS, conv3, leaky, norm_layer, uncounted


class Residual(nn.Module):
    """Two 3x3 convolutions, an activation between them, and the identity: `[N, width, H, W]` to the same.

    Source: Ledig et al. 2017, SRResNet, without batch norm as in Lim et al. 2017, EDSR. Published form: activation
    `relu`, attention `none` is MSRResNet's block (the challenge's baseline, whose code counts no FLOPs for this ReLU).
    With norm `batch` each convolution is followed by one, as in SRResNet and in the space of the team neptuneai.
    """

    CHOICES = {
        "activation": ("relu", "leaky_relu"),
        "kernel": KERNELS,
        "attention": ("none", "cca", "esa", "pa"),
        "norm": NORMS,
    }

    def __init__(self, width: int, slope: float, *, activation: str, kernel: str, attention: str, norm: str) -> None:
        super().__init__()
        self.first = conv3(width, width, kernel)
        self.norm_1 = norm_layer(norm, width)
        self.activation = uncounted(nn.ReLU()) if activation == "relu" else leaky(slope)
        self.second = conv3(width, width, kernel)
        self.norm_2 = norm_layer(norm, width)
        self.attention = ATTENTIONS[attention](width)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.norm_2(self.second(self.activation(self.norm_1(self.first(x)))))) + x
