"""ISRResDNet: five steps of proximal gradient descent at full size, each with a small residual denoiser of its own.

Source: AIM 2020 report (team MLP SR). Its own code is not public, that of its larger sibling is (Umer et al. 2020,
"Deep Iterative Residual Convolutional Network for Single Image Super-Resolution"; code: RaoUmer/ISRResCNet): one
denoiser for all steps, with residual blocks inside. From that code: extrapolation, gradient of the data term by
bilinear resizing, the denoiser's 5x5 convolutions (the second transposed), projection, noise estimate. A reading of
Table 1: FLOPs, activations and the 10 convolutions are exactly those of five denoisers without residual blocks; the
parameters (+3.5 %) say that these do not share weights. Not taken over: the sibling recentres its filters in each
forward, uses weight norm, and resizes with the corners aligned, as no LR image is made.

The network works in 0..255. A step has the image x, the one before it, and the LR image:

    y = x + exp(w) (x - previous)      extrapolation; before training exp(w) is k / (k + 3) in step k
    z = y - enlarge(shrink(y) - lr)    down the gradient of half the squared distance to what was seen
    x = z - project(denoise(z))        the residual, cut to an l2 ball of radius exp(alpha) x noise level x root(values)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import VARIANCE_FLOOR
from ..network import enlarge
from .system import System

RANGE = 255
STEPS = 5
WIDTH = 64
FIRST_RADIUS, LAST_RADIUS = 2.0, 1.0  # exp(alpha) at the first and the last step, before training
MAD_OF_NORMAL = 0.6745  # median absolute deviation of a standard normal variable
# High-pass decomposition filter of the Daubechies wavelet with 7 vanishing moments.
DAUBECHIES_7 = (
    *(-0.07785205408506236, 0.39653931948230575, -0.7291320908465551, 0.4697822874053586, 0.14390600392910627),
    *(-0.22403618499416572, -0.07130921926705004, 0.0806126091510659, 0.03802993693503463, -0.01657454163101562),
    *(-0.012550998556013784, 0.00042957797300470274, 0.0018016407039998328, 0.0003537138000010399),
)


class NoiseLevel(nn.Module):
    """Standard deviation of the noise in an image, `[N, 3, H, W]` to `[N, 1, 1, 1]` in its unit, the channels' mean.

    The median of the absolute diagonal wavelet coefficients over `MAD_OF_NORMAL`. Needs 8 pixels a side (reflection).
    Source: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage".
    """

    minimum_size = 8
    flops_counted = False  # fixed filters, called as a function

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.tensor(DAUBECHIES_7), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pad = len(DAUBECHIES_7) // 2
        taps = self.get_buffer("filter").expand(3, 1, 1, -1)
        rows = F.conv2d(F.pad(x, (0, 0, pad, pad), mode="reflect"), taps.transpose(2, 3), stride=(2, 1), groups=3)
        diagonal = F.conv2d(F.pad(rows, (pad, pad, 0, 0), mode="reflect"), taps, stride=(1, 2), groups=3)
        ordered = diagonal.abs().flatten(2).sort(dim=2).values
        median = ordered[:, :, (ordered.shape[2] - 1) // 2]
        return median.mean(1)[:, None, None, None] / MAD_OF_NORMAL


class Denoiser(nn.Module):
    """What is noise in an image, `[N, 3, H, W]` to the same: a 5x5 convolution, PReLU, a transposed one, projection.

    The projection is onto the l2 ball of radius exp(alpha) x noise level x root(values), where alpha is learned; the
    sibling takes one value less.
    """

    flops_counted = False  # for alpha; the children count

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.spread = nn.Conv2d(3, WIDTH, 5, padding=2, padding_mode="reflect")
        self.activation = nn.PReLU(WIDTH, init=0.1)
        self.gather = nn.ConvTranspose2d(WIDTH, 3, 5, padding=2)
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        found = self.gather(self.activation(self.spread(x)))
        # Both norms are taken over root(values): a sum of squares over an image is beyond half precision.
        norm = (found.pow(2).mean((1, 2, 3), keepdim=True) + VARIANCE_FLOOR).sqrt()
        radius = self.alpha.exp() * noise_level
        return found * (radius / torch.maximum(norm, radius))


class Step(nn.Module):
    """One step of proximal gradient descent on `[N, 3, H, W]`, given the image before and the LR image."""

    flops_counted = False  # for w; the children count

    def __init__(self, w: float, alpha: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.denoiser = Denoiser(alpha)

    def forward(self, x: Tensor, previous: Tensor, lr: Tensor, noise_level: Tensor) -> Tensor:
        y = x + self.w.exp() * (x - previous)
        seen = F.interpolate(y, size=lr.shape[2:], mode="bilinear", align_corners=False)
        z = y - enlarge(seen - lr, "bilinear")
        return z - self.denoiser(z, noise_level)


class ISRResDNet(nn.Module):
    """The network, `[N, 3, h, w]` to `[N, 3, 4h, 4w]`; between the steps the image is kept within its range."""

    minimum_size = NoiseLevel.minimum_size

    def __init__(self) -> None:
        super().__init__()
        self.noise_level = NoiseLevel()
        radii = torch.linspace(math.log(FIRST_RADIUS), math.log(LAST_RADIUS), STEPS, device="cpu").tolist()
        # The first step has nothing to extrapolate from: its w is there in the sibling's code too, and does nothing.
        ws = [math.log(max(k, 1) / (max(k, 1) + 3)) for k in range(STEPS)]
        self.steps = nn.ModuleList(Step(w, alpha) for w, alpha in zip(ws, radii, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        lr = x * RANGE
        noise_level = self.noise_level(lr)
        y = previous = enlarge(lr, "bilinear")
        for step in self.steps:
            current = y.clamp(0, RANGE)
            y, previous = step(current, previous, lr, noise_level), current
        return y / RANGE


SYSTEM = System(
    ISRResDNet,
    title="ISRResDNet",
    team="MLP SR",
    source="AIM 2020 report; Umer et al. 2020 (ICPR) describe its larger sibling, code: RaoUmer/ISRResCNet",
    idea="five steps of proximal gradient descent at full size, each with a denoiser of two 5x5 convolutions",
    basis="reading",
    note="FLOPs, activations and convolutions fit, parameters +3.5 %",
)
