"""PSNR as the AIM 2020 Efficient Super-Resolution challenge measures it: of an image, a network, or bicubic.

RGB, clamped to [0, 1], rounded to 8 bits, 4 pixels cut from each side, per image in float64, then the mean over the
images. Other papers measure on the luma channel, or pool the error over images: their numbers are not comparable with
these.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .bicubic import upscale_x4
from .images import ImageSet

BORDER = 4


@dataclass(frozen=True)
class Evaluation:
    """How close a network's images come to the originals: the mean PSNR in dB over the images, and each image's own."""

    psnr_db: float
    per_image_db: dict[str, float]


def psnr_db(sr: Tensor, hr: Tensor, border: int = BORDER) -> float:
    """Gives the challenge's PSNR of an image in dB; higher is better, infinite for equal images, NaN for a NaN in `sr`.

    Args:
        sr: float `[3, H, W]`, meant to be in [0, 1] (what lies outside is clamped).
        hr: uint8 `[3, H, W]`, the original, moved to the device of `sr`.
        border: pixels cut from each side before anything is compared.

    Raises:
        ValueError: shapes that differ, or an image that the cut leaves nothing of.
    """
    if sr.shape != hr.shape or sr.ndim != 3:
        raise ValueError(f"psnr_db compares two [3, H, W] of one shape, not {list(sr.shape)} with {list(hr.shape)}")
    height, width = hr.shape[1:]
    if min(height, width) <= 2 * border:
        raise ValueError(f"nothing is left of an image of {width}x{height} when {border} pixels are cut from each side")
    inside = (slice(None), slice(border, height - border), slice(border, width - border))
    rounded = (sr[inside].float().clamp(0, 1) * 255).round().double()
    difference = rounded - hr[inside].to(rounded.device).double()
    # A sum of squared integers is exact in float64: the number does not depend on the order of additions or the device.
    squared = float(difference.square().sum())
    if squared == 0:
        return math.inf
    return 10 * math.log10(255**2 * difference.numel() / squared)


def _evaluation(per_image_db: dict[str, float]) -> Evaluation:
    return Evaluation(math.fsum(per_image_db.values()) / len(per_image_db), per_image_db)


@contextmanager
def _inference_form(network: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode for a while; afterwards every module is in the mode it was found in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(
    network: nn.Module,
    images: ImageSet,
    device: torch.device | str = "cpu",
    *,
    border: int = BORDER,
    before_image: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Enlarges every image, whole, one at a time, in float32, and measures the PSNR of each.

    The network stands on `device` already and is left as it was found (weights, device, eval or training mode). A
    network that produces NaN gets NaN, which is for the caller to call a failure. `before_image` is told each name.
    """
    per_image_db = {}
    with _inference_form(network), torch.inference_mode():
        for name, lr, hr in zip(images.names, images.lr, images.hr, strict=True):
            before_image(name)
            sr = network(lr[None].to(device).float() / 255)[0]
            per_image_db[name] = psnr_db(sr, hr, border)
    return _evaluation(per_image_db)


def bicubic_baseline(images: ImageSet, *, border: int = BORDER) -> Evaluation:
    """Measures MATLAB's bicubic enlargement (a = -0.5) on the same images: what any network must beat."""
    pairs = zip(images.names, images.lr, images.hr, strict=True)
    return _evaluation({name: psnr_db(upscale_x4(lr[None], images.border)[0], hr, border) for name, lr, hr in pairs})
