"""What a cut network does with channels beside the stock operations: take some, put a part back, widen by zeros.

Each has its list of channels as a buffer that is not saved: it follows from the plan. `form` is one of `FORMS`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMS = {
    "train": "nothing is changed in place: for training",
    "run": "sums and activations are made in place where a tensor is used for the last time: for timing and use",
    "export": "Gather, Pad and Add alone, no look at memory layouts: for ONNX and other tracers",
}


def interleave(*tensors: Tensor) -> Tensor:
    """The channels of all tensors in turn: k times `[N, C, H, W]` to `[N, k C, H, W]`."""
    return torch.stack(tensors, 2).flatten(1, 2)


def _has_channels_last(x: Tensor) -> bool:
    # Not `is_contiguous(memory_format=...)`: a slice of channels fails that, and would take the slow way.
    return x.dim() == 4 and x.stride(1) == 1


def _has_even_pixels(x: Tensor) -> bool:
    """Whether all pixels lie as far apart, so that `_pixels` is no copy; a slice of channels has that."""
    images, _, height, width = x.shape
    return x.stride(2) == width * x.stride(3) and (images == 1 or x.stride(0) == height * x.stride(2))


def _pixels(x: Tensor) -> Tensor:
    """`[N, C, H, W]` as `[N H W, C]`, without a copy where the channels lie together."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _image(pixels: Tensor, like: Tensor) -> Tensor:
    """Back to `[N, C, H, W]`, channels together in memory."""
    return pixels.view(like.shape[0], like.shape[2], like.shape[3], pixels.shape[1]).permute(0, 3, 1, 2)


class _Indexed(nn.Module):
    index: Tensor

    def __init__(self, index: tuple[int, ...], form: str, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index, device=device), persistent=False)
        self.form = form
        self.count = len(index)

    def extra_repr(self) -> str:
        return f"{self.count} channels, form={self.form!r}"


class Take(_Indexed):
    """Chosen channels in a chosen order, any of them more than once: `[N, C, ...]` to `[N, len(index), ...]`."""

    def forward(self, x: Tensor) -> Tensor:
        # On channels_last, selecting along dimension 1 is ten times as slow as selecting columns of pixels.
        if self.form != "export" and _has_channels_last(x):
            return _image(_pixels(x).index_select(1, self.index), x)
        return x.index_select(1, self.index)


class Choose(_Indexed):
    """Chosen values along one dimension of a tensor that is the network's own (no image)."""

    def __init__(self, index: tuple[int, ...], dimension: int, form: str, device: torch.device) -> None:
        super().__init__(index, form, device)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.dimension, self.index)


class Widen(_Indexed):
    """Each channel i to place `index[i]` of `width`, zeros elsewhere: `[N, len(index), ...]` to `[N, width, ...]`."""

    inverse: Tensor

    def __init__(self, index: tuple[int, ...], width: int, form: str, device: torch.device) -> None:
        super().__init__(index, form, device)
        self.width = width
        where = {place: channel for channel, place in enumerate(index)}
        # Places that nobody fills take the one channel of zeros that is put behind.
        inverse = torch.tensor([where.get(place, len(index)) for place in range(width)], device=device)
        self.register_buffer("inverse", inverse, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "export":
            return F.pad(x, [0, 0] * (x.dim() - 2) + [0, 1]).index_select(1, self.inverse)
        if _has_channels_last(x):
            pixels = _pixels(x)
            return _image(pixels.new_zeros(pixels.shape[0], self.width).index_copy(1, self.index, pixels), x)
        return x.new_zeros(x.shape[0], self.width, *x.shape[2:]).index_copy(1, self.index, x)


class Pad(nn.Module):
    """Channels of zeros before and after: `[N, C, ...]` to `[N, before + C + after, ...]`."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, [0, 0] * (x.dim() - 2) + [self.before, self.after])

    def extra_repr(self) -> str:
        return f"{self.before}, {self.after}"


class Adding(nn.Module):
    """Adds a part (or, with sign -1, subtracts it), in place if `in_place` has been set."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign, self.in_place = sign, False

    def _pair(self, wide: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the precision of their sum (autocast mixes them), the first one free to be written to."""
        kind = torch.promote_types(wide.dtype, part.dtype)
        own = wide.to(kind) if self.in_place or wide.dtype != kind else wide.clone()
        return own, part.to(kind)


class AddSlice(Adding):
    """The wide tensor with the part added to its channels from `start` on: `[N, width, ...]` and a narrower one."""

    def __init__(self, start: int, count: int, width: int, sign: int, form: str) -> None:
        super().__init__(sign)
        self.start, self.count, self.width, self.form = start, count, width, form

    def forward(self, wide: Tensor, part: Tensor) -> Tensor:
        if self.form == "export":
            after = self.width - self.start - self.count
            return wide + self.sign * F.pad(part, [0, 0] * (part.dim() - 2) + [self.start, after])
        wide, part = self._pair(wide, part)
        wide.narrow(1, self.start, self.count).add_(part, alpha=self.sign)
        return wide

    def extra_repr(self) -> str:
        return f"{self.start}:{self.start + self.count} of {self.width}, sign={self.sign}, form={self.form!r}"


class AddAt(Adding):
    """The wide tensor with channel i of the part added to its channel `index[i]`."""

    index: Tensor

    def __init__(self, index: tuple[int, ...], width: int, sign: int, form: str, device: torch.device) -> None:
        super().__init__(sign)
        self.width, self.count, self.form = width, len(index), form
        self.register_buffer("index", torch.tensor(index, device=device), persistent=False)
        self.widen = Widen(index, width, form, device) if form == "export" else None

    def forward(self, wide: Tensor, part: Tensor) -> Tensor:
        if self.widen is not None:
            return wide + self.sign * self.widen(part)
        wide, part = self._pair(wide, part)
        if _has_channels_last(wide) and _has_even_pixels(wide):
            _pixels(wide).index_add_(1, self.index, _pixels(part), alpha=self.sign)
        else:
            wide.index_add_(1, self.index, part, alpha=self.sign)
        return wide

    def extra_repr(self) -> str:
        return f"{self.count} of {self.width}, sign={self.sign}, form={self.form!r}"
