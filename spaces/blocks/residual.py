"""The plain residual block."""

from torch import Tensor, nn

from ..layers import ATTENTIONS, KERNELS, conv3, leaky, uncounted


class Residual(nn.Module):
    """Two 3x3 convolutions, an activation between them, and the identity: `[N, width, H, W]` to the same.

    Source: Ledig et al. 2017, SRResNet, without batch norm as in Lim et al. 2017, EDSR. Published form: activation
    `relu`, attention `none` is MSRResNet's block (the challenge's baseline, whose code counts no FLOPs for this ReLU).
    """

    CHOICES = {
        "activation": ("relu", "leaky_relu"),
        "kernel": KERNELS,
        "attention": ("none", "cca", "esa", "pa"),
    }

    def __init__(self, width: int, slope: float, *, activation: str, kernel: str, attention: str) -> None:
        super().__init__()
        self.first = conv3(width, width, kernel)
        self.activation = uncounted(nn.ReLU()) if activation == "relu" else leaky(slope)
        self.second = conv3(width, width, kernel)
        self.attention = ATTENTIONS[attention](width)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.second(self.activation(self.first(x)))) + x
