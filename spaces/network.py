"""The network of an architecture: frame, body, fusion, upsampler, image skip, in the order in which the image goes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture
from .blocks import BLOCKS
from .branches import with_branches
from .errors import InputError
from .fusion import FUSIONS
from .layers import conv3, leaky
from .upsampler import UPSAMPLERS

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # mean colour of DIV2K's training images, in [0, 1]


def mean_shift(sign: int, value_range: int) -> nn.Conv2d:
    """A frozen 1x1 convolution that adds `sign` x the mean colour; a convolution because the challenge counted one."""
    shift = nn.Conv2d(3, 3, 1)
    shift.weight.data.copy_(torch.eye(3).reshape(3, 3, 1, 1))
    shift.bias.data.copy_(sign * value_range * torch.tensor(DIV2K_MEAN))  # type: ignore[union-attr]
    return shift.requires_grad_(False)


class Network(nn.Module):
    """A x4 super-resolution network: `[N, 3, h, w]` in [0, 1] to `[N, 3, 4h, 4w]` in about [0, 1], not clamped.

    `minimum_size` is the smallest h and w it can take; on a smaller input a network from `build` raises InputError.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a, frame = architecture, architecture.frame
        self.value_range, self.image_skip, self.feature_skip = frame.value_range, a.image_skip, frame.feature_skip
        self.subtract_mean = mean_shift(-1, frame.value_range) if frame.mean_shift else None
        self.head = nn.Sequential(*(conv3(3 if i == 0 else a.width, a.width) for i in range(frame.head_depth)))
        if frame.head_activation:
            self.head.append(leaky(frame.slope))
        self.blocks = nn.ModuleList(BLOCKS[b.type](a.width, frame.slope, **dict(b.choices)) for b in a.blocks)
        with_branches(self.blocks, frame.branches)
        self.fusion = FUSIONS[a.fusion](a.width, len(a.blocks), frame.slope)
        self.body_conv = conv3(a.width, a.width) if frame.body_conv != "none" else None
        self.body_conv_after_skip = frame.body_conv == "after_skip"
        self.upsampler = UPSAMPLERS[a.upsampler](a.width, a.upsampler_width, frame.slope)
        self.add_mean = mean_shift(1, frame.value_range) if frame.mean_shift else None
        self.minimum_size = max(getattr(module, "minimum_size", 1) for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        image = x * self.value_range if self.value_range != 1 else x
        if self.subtract_mean is not None:
            image = self.subtract_mean(image)
        shallow = self.head(image)
        y = self.body(shallow)
        if self.body_conv is not None and not self.body_conv_after_skip:
            y = self.body_conv(y)
        if self.feature_skip:
            y = y + shallow
        if self.body_conv is not None and self.body_conv_after_skip:
            y = self.body_conv(y)
        y = self.upsampler(y)
        if self.image_skip != "none":
            y = y + enlarge(image, self.image_skip)
        if self.add_mean is not None:
            y = self.add_mean(y)
        return y / self.value_range if self.value_range != 1 else y

    def body(self, features: Tensor) -> Tensor:
        """The blocks one after another and the fusion of their outputs, `[N, width, h, w]` to the same."""
        outputs = []
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        return self.fusion(outputs)


def enlarge(image: Tensor, mode: str) -> Tensor:
    """The image four times as large by torch's interpolation (for `bicubic` that is the kernel with a = -0.75)."""
    if mode == "nearest":
        return F.interpolate(image, scale_factor=4.0, mode=mode)
    return F.interpolate(image, scale_factor=4.0, mode=mode, align_corners=False)


def check_size(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raises InputError unless the input is `[N, 3, h, w]` with h and w at least `network.minimum_size`."""
    shape, least = tuple(inputs[0].shape), network.minimum_size
    if len(shape) != 4 or shape[1] != 3:
        raise InputError(f"the network takes [N, 3, h, w], not {list(shape)}")
    if min(shape[2:]) < least:  # type: ignore[operator]
        raise InputError(f"the network needs images of at least {least}x{least} pixels, not {shape[3]}x{shape[2]}")
