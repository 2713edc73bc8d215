"""What a training minimises: losses of an image and the original, and which images a network gives for one.

A new one is a function of (sr, hr), float `[N, 3, H, W]` in about [0, 1], to a scalar that is lower the nearer the two
are. Name it in `LOSSES`, and in `OF_EXITS` if it is meant for every early exit of a network.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spaces import InputError

CHARBONNIER_EPS = 1e-3  # on values in [0, 1], as Lai et al. have it
# Of the differences beside the pixels. A reading: in the public code of 404NotFound (github xiaochaunLi/GCSR, trainer)
# the gradients are computed, and 0.01 stands beside them in a comment, but the loss leaves them out. Its 3x3 filters
# answer six times as strongly as a difference of neighbours does.
GRADIENT_WEIGHT = 0.06


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """The mean of sqrt(d^2 + eps^2): L1 for large differences d, smooth at 0, where it is eps.

    Source: Charbonnier et al. 1994, "Two deterministic half-quadratic regularization algorithms"; for super-resolution
    Lai et al. 2017, "Deep Laplacian Pyramid Networks", section 3.3.
    """
    return (sr - hr).square().add(CHARBONNIER_EPS**2).sqrt().mean()


def gradient(sr: Tensor, hr: Tensor) -> Tensor:
    """L1 of the pixels, and `GRADIENT_WEIGHT` x L1 of the differences between neighbours in a row and in a column.

    Source: the gradient loss of 404NotFound's GCSR in the AIM 2020 challenge.
    """
    off = sr - hr
    return off.abs().mean() + GRADIENT_WEIGHT * (off.diff(dim=3).abs().mean() + off.diff(dim=2).abs().mean())


def l1_of_an_exit(sr: Tensor, hr: Tensor) -> Tensor:
    """L1; an image that is smaller than the original is compared with the original averaged down to its size."""
    if sr.shape != hr.shape:
        hr = F.interpolate(hr, size=sr.shape[2:], mode="area")
    return F.l1_loss(sr, hr)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "charbonnier": charbonnier,
    "l2": F.mse_loss,
    "gradient": gradient,
    # Source: MCML-Yonsei's LarvaNet in the AIM 2020 challenge (github Geunwoo-Jeon/LarvaNet).
    "multi_exit": l1_of_an_exit,
}
OF_EXITS = ("multi_exit",)  # the mean over all exits of a network, its own output among them


def refuse_untrainable(network: nn.Module, name: str, loss: str, grows: bool = False) -> None:
    """Raises InputError where the network, called `name`, cannot be trained so.

    It may not give what the loss compares, or may have nothing that grows while it trains.
    """
    if loss in OF_EXITS and not hasattr(network, "exits"):
        raise InputError(f"train.loss: '{loss}' needs a network with early exits, and {name} has none")
    if grows and not hasattr(network, "dilate"):
        raise InputError(f"train.grow_at: is for networks that grow while they train, and {name} does not")


Extra = Callable[[Tensor, Tensor], Tensor]  # of low-resolution images and what a network made of them, to a scalar


def batch_loss(loss: str, network: nn.Module, lr: Tensor, hr: Tensor, extra: Extra | None = None) -> Tensor:
    """The loss of a batch: of the network's output, or for `OF_EXITS` the mean over what `network.exits` gives.

    `extra` adds a term of (lr, output): what a teacher gives, a price on something.
    """
    images = network.exits(lr) if loss in OF_EXITS else [network(lr)]  # type: ignore[operator]
    value = torch.stack([LOSSES[loss](sr.float(), hr) for sr in images]).mean()
    return value if extra is None else value + extra(lr, images[-1].float())


def distillation(teacher: nn.Module, share: float) -> Extra:
    """`share` x L1 to what the teacher makes of the same images. Source: Hinton et al. 2015, here for regression."""

    def term(lr: Tensor, sr: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(lr)
        return share * F.l1_loss(sr, wanted.float())

    return term
