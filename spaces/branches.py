"""Parallel branches that a convolution trains with and that are merged into it afterwards. A new kind: `BRANCHES`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AsymmetricConv(nn.Module):
    """A 3x3 convolution that trains as the sum of a 3x3, a 1x3 and a 3x1, each with batch norm if `norm` says so.

    `[N, C_in, H, W]` to `[N, C_out, H, W]`. Source: Ding et al. 2019, "ACNet: Strengthening the Kernel Skeletons for
    Powerful CNN via Asymmetric Convolution Blocks", section 3.3, where each branch has its batch norm.
    """

    def __init__(self, inputs: int, outputs: int, *, groups: int, bias: bool, norm: bool) -> None:
        super().__init__()
        shapes = ((3, 3), (1, 3), (3, 1))
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, outputs, (h, w), padding=(h // 2, w // 2), groups=groups, bias=bias and not norm)
            for h, w in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) if norm else nn.Identity() for _ in shapes)

    def forward(self, x: Tensor) -> Tensor:
        square, row, column = (norm(branch(x)) for branch, norm in zip(self.branches, self.norms, strict=True))
        return square + row + column

    def merged(self) -> nn.Conv2d:
        """One convolution: the kernels, padded to 3x3, and the biases added, batch norm folded in before."""
        square = self.branches[0]
        weights, biases = [], []
        for branch, norm in zip(self.branches, self.norms, strict=True):
            weight, bias = folded(branch, norm)  # type: ignore[arg-type]
            height, width = weight.shape[2:]
            aside, above = (3 - width) // 2, (3 - height) // 2
            weights.append(F.pad(weight, (aside, aside, above, above)))
            biases.append(bias)
        has_bias = any(bias is not None for bias in biases)
        kind = {"dtype": weights[0].dtype, "device": weights[0].device}
        conv = nn.Conv2d(
            square.in_channels,  # type: ignore[arg-type]
            square.out_channels,  # type: ignore[arg-type]
            3,
            padding=1,
            groups=square.groups,  # type: ignore[arg-type]
            bias=has_bias,
            **kind,
        )
        conv.weight.copy_(torch.stack(weights).sum(0))
        if conv.bias is not None:
            conv.bias.copy_(torch.stack([bias for bias in biases if bias is not None]).sum(0))
        return conv


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the convolution that does what `conv` and then `norm`, in eval mode, do."""
    if not isinstance(norm, nn.BatchNorm2d):
        return conv.weight, conv.bias
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight / (variance + norm.eps).sqrt()
    if conv.bias is not None:
        mean = mean - conv.bias
    return conv.weight * scale[:, None, None, None], norm.bias - mean * scale


def with_branches(module: nn.Module, kind: str) -> None:
    """Gives every 3x3 convolution (stride 1, same padding) inside `module` the branches that `kind` says, in place."""
    make = BRANCHES[kind]
    if make is None:
        return
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            if (child.kernel_size, child.stride, child.padding) == ((3, 3), (1, 1), (1, 1)):
                setattr(module, name, make(child))
        else:
            with_branches(child, kind)


def _asymmetric(norm: bool) -> Callable[[nn.Conv2d], nn.Module]:
    def make(conv: nn.Conv2d) -> nn.Module:
        bias = conv.bias is not None
        return AsymmetricConv(conv.in_channels, conv.out_channels, groups=conv.groups, bias=bias, norm=norm)

    return make


BRANCHES: dict[str, Callable[[nn.Conv2d], nn.Module] | None] = {
    "none": None,
    "asymmetric": _asymmetric(norm=False),
    "asymmetric_bn": _asymmetric(norm=True),
}
