"""MATLAB's bicubic resizing by a factor of four, down (how the LR images are made) and up (the baseline to beat).

MATLAB's `imresize` uses the cubic kernel of Keys (1981) with a = -0.5, widened by the factor when it shrinks an image.
At a factor of exactly four every sample lies an odd number of eighths from a kernel's centre, so all weights are
integers over a power of two. Sums of 8-bit pixels are therefore done in integers: no rounding error, no dependence on
the processor, the thread count or the order of additions, and "equal to the last bit" needs no tolerance.
"""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..spaces.errors import InputError, unknown

Border = Literal["edge", "symmetric"]
BORDERS: tuple[str, ...] = get_args(Border)


def _eighths(k: int) -> int:
    """Gives 1024 times Keys' cubic kernel at a distance of k/8, for 0 <= k <= 16."""
    return 3 * k**3 - 40 * k**2 + 1024 if k <= 8 else -(k**3) + 40 * k**2 - 512 * k + 2048


# The 16 pixels under one LR pixel's kernel, from 7.5 HR pixels before its centre to 7.5 after. The sum is 4096.
TAPS = tuple(_eighths(abs(2 * t - 15)) for t in range(16))


def _with_border(length: int, pad: int, border: str) -> np.ndarray:
    """Gives the source indices of a line of `length` pixels continued by `pad` pixels on both sides."""
    if border not in BORDERS:
        raise InputError(unknown("border", border, BORDERS))
    indices = np.arange(-pad, length + pad)
    if border == "edge":
        return indices.clip(0, length - 1)
    mirrored = indices % (2 * length)  # ... b a | a b c | c b ...: the edge pixel is repeated once
    return np.minimum(mirrored, 2 * length - 1 - mirrored)


def downscale_x4(hr: Tensor, border: Border = "symmetric") -> Tensor:
    """Shrinks an image four times exactly as MATLAB's `imresize(hr, 1/4)` does for uint8 images.

    Args:
        hr: uint8 `[3, H, W]` (any number of channels), H and W multiples of 4, on the CPU.
        border: what lies outside the image: "edge" repeats the last pixel (older MATLAB; Set5, Set14, B100),
            "symmetric" mirrors (newer MATLAB; DIV2K). Only the two outermost LR pixels of each side depend on it.

    Returns:
        uint8 `[3, H/4, W/4]`, rounded after each of the two passes, height first.

    Raises:
        InputError: a side that is not a positive multiple of 4, or an unknown border.
    """
    if hr.dtype != torch.uint8 or hr.ndim != 3:
        raise InputError(f"downscale_x4 takes uint8 [3, H, W], not {hr.dtype} {list(hr.shape)}")
    height, width = hr.shape[1:]
    if min(height, width) < 4 or height % 4 or width % 4:
        raise InputError(f"an image of {width}x{height} cannot be shrunk by 4: both sides must be multiples of 4")
    # numpy, not torch: images are shrunk from a pool of threads, in each of which torch would start threads of its own.
    return torch.from_numpy(_shrink(_shrink(hr.numpy(), 1, border), 2, border))


def _shrink(pixels: np.ndarray, axis: int, border: str) -> np.ndarray:
    """Shrinks one axis of a uint8 `[C, H, W]` array four times and rounds to uint8."""
    lines = np.moveaxis(pixels, axis, 0)
    length = lines.shape[0]
    lines = lines[_with_border(length, 6, border)]
    total = np.full((length // 4, *lines.shape[1:]), 2048, np.int32)  # a half, so that the shift rounds halves up
    for t, weight in enumerate(TAPS):
        total += weight * lines[t : t + length - 3 : 4].astype(np.int32)
    return np.ascontiguousarray(np.moveaxis((total >> 12).clip(0, 255).astype(np.uint8), 0, axis))


def upscale_x4(lr: Tensor, border: Border = "edge") -> Tensor:
    """Enlarges images four times with MATLAB's bicubic kernel: the baseline called "bicubic" (26.69 dB on Set5).

    Args:
        lr: `[N, 3, h, w]`, uint8, or float in [0, 1]; any device.
        border: what lies outside the image; see `downscale_x4`. It changes the eight outermost pixels of each side.

    Returns:
        float `[N, 3, 4h, 4w]`. From uint8: as MATLAB does for uint8 images, rounded to 1/255 steps after each pass, in
        [0, 1]. From float: neither rounded nor clamped, so it overshoots [0, 1] slightly at hard edges.
    """
    if lr.dtype == torch.uint8:
        return _enlarge(_enlarge(lr, 2, border), 3, border).to(torch.float32) / 255
    return _enlarge(_enlarge(lr, 2, border), 3, border)


def _enlarge(images: Tensor, axis: int, border: str) -> Tensor:
    """Enlarges one axis of `[N, C, H, W]` four times; uint8 stays uint8, rounded.

    HR pixel 4q + r takes from LR pixel q + m the weight that `_shrink` gives HR pixel r as seen from LR pixel m: one
    kernel serves both ways. Four neighbours reach each phase r; the others' weight is zero.
    """
    length = images.shape[axis]
    indices = torch.from_numpy(_with_border(length, 2, border)).to(images.device)
    lines = images.index_select(axis, indices)
    whole = images.dtype == torch.uint8
    lines = lines.to(torch.int32) if whole else lines
    phases = []
    for r in range(4):
        first = -2 if r < 2 else -1
        near = [TAPS[r - 4 * m + 6] * lines.narrow(axis, 2 + m, length) for m in range(first, first + 4)]
        phases.append(near[0] + near[1] + near[2] + near[3])
    total = torch.stack(phases, axis + 1).flatten(axis, axis + 1)
    return ((total + 512) >> 10).clamp(0, 255).to(torch.uint8) if whole else total / 1024
