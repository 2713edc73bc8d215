"""What a forward makes a device do: how many operations it launches, and how much each kind of them works and moves.

Counted on the meta device from what torch runs at the bottom, below modules and functions: no weight is read and
nothing is timed. Time on a device is about a sum of these counts, each times a constant of the device, which is what a
predictor of latency may learn (`features.py`); that latency itself is measured, always.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..spaces import Architecture, Design, build, inference_form
from ..spaces.flow import compact
from ..spaces.forms import merge
from .complexity import on_meta

# What only names or reserves memory; views are told by their schema.
FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"})
CONVOLUTIONS = ("convolution", "_convolution", "conv2d", "conv_transpose2d")


@dataclass(frozen=True)
class Work:
    """The work of one forward of the inference form on one image; lower is better in each.

    launches: operations that compute or copy, not views. An estimate of the kernels that run in eager mode: a library
    may launch several for one (a bias, a change of layout), and a compiler fewer. The multiply-adds of convolutions in
    10^9: dense ones (3x3 and the like), 1x1, and those in groups (depthwise). Elements read and written, in 10^6: by
    convolutions, their weights not included, and by all the rest. channels: mean output channels of the convolutions.
    """

    launches: int
    dense_macs_g: float
    pointwise_macs_g: float
    grouped_macs_g: float
    convolutions_moved_m: float
    rest_moved_m: float
    channels: float

    def numbers(self) -> dict[str, float]:
        """The counts by name."""
        return {name: float(value) for name, value in asdict(self).items()}


def work(network: nn.Module | Design | Architecture, size: tuple[int, int] = (256, 256)) -> Work:
    """Counts one forward on one RGB image of `size` (height, width) low-resolution pixels.

    A design is counted as it is run, a cut one too; a module in its inference form, and left as it was.
    """
    model = _as_run(network)
    kind = next((p.dtype for p in model.parameters()), torch.get_default_dtype())
    image = torch.empty(1, 3, *size, device="meta", dtype=kind)
    # Not inference_mode: there torch leaves operations whole that are several.
    with torch.no_grad(), _Tally() as tally:
        model(image)
    return tally.work()


def _as_run(network: nn.Module | Design | Architecture) -> nn.Module:
    if isinstance(network, nn.Module):
        return merge(on_meta(network).eval())
    if isinstance(network, Design) and network.plan is not None:
        return compact(inference_form(build(network.architecture, device="meta")), network.plan, "run")
    return merge(build(network, device="meta").eval())


class _Tally(TorchDispatchMode):
    """Adds up what runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.macs = {"dense": 0, "pointwise": 0, "grouped": 0}
        self.moved = {"convolutions": 0, "rest": 0}
        self.channels: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        is_view = any(given.alias_info is not None and not given.alias_info.is_write for given in func._schema.returns)
        if is_view or name in FREE:
            return output
        self.launches += 1
        if name in CONVOLUTIONS:
            self._convolution(args[0], args[1], output, transposed="transpose" in name or (len(args) > 6 and args[6]))
        else:
            self.moved["rest"] += sum(tensor.numel() for tensor in _tensors((args, output)))
        return output

    def _convolution(self, image: Tensor, weight: Tensor, output: Tensor, *, transposed: bool) -> None:
        # A weight is [out, in / groups, ...], a transposed one [in, out / groups, ...]; each of its elements meets each
        # pixel of the output, or of a transposed one's input.
        pixels = image if transposed else output
        groups = output.shape[1] // weight.shape[1] if transposed else image.shape[1] // weight.shape[1]
        kind = "grouped" if groups > 1 else "pointwise" if weight.shape[2:].numel() == 1 else "dense"
        self.macs[kind] += weight.numel() * pixels.numel() // pixels.shape[1]
        self.moved["convolutions"] += image.numel() + output.numel()
        self.channels.append(output.shape[1])

    def work(self) -> Work:
        return Work(
            launches=self.launches,
            dense_macs_g=self.macs["dense"] / 1e9,
            pointwise_macs_g=self.macs["pointwise"] / 1e9,
            grouped_macs_g=self.macs["grouped"] / 1e9,
            convolutions_moved_m=self.moved["convolutions"] / 1e6,
            rest_moved_m=self.moved["rest"] / 1e6,
            channels=sum(self.channels) / max(1, len(self.channels)),
        )


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
