"""verify: a compact network must compute what the masked one does, and must have become smaller.

It knows nothing of how a compact network is made: what it compares with are hooks on the original modules
(`masks.py`). It runs after every compaction, and what it finds is an error.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..proxies.complexity import Complexity, complexity
from ..proxies.latency import Protocol, peak_memory_mb
from ..spaces import InputError
from ..spaces.plan import Plan, widths
from .body import depends_on_body
from .first_difference import first_difference
from .masks import masked

__all__ = ["Verification", "VerificationFailed", "masked", "verify"]

# Relative to the largest number of the masked output. Float64 comes first: there a difference is no rounding, so that
# the layer to blame is found.
LIMITS = {torch.float64: 1e-12, torch.float32: 5e-6}
LAYER_LIMIT = 1e-9  # in float64, relative to the largest number of the layer, which may be small by cancellation
MEMORY_SIZE = (256, 256)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class VerificationFailed(RuntimeError):
    """A compact network is not what its plan says."""


@dataclass(frozen=True)
class Verification:
    """What was found: the worst differences by type, relative to the largest output; what was tried; the counts.

    `memory_mb` is the peak before and after on a GPU (units of 2^20 bytes, a 256x256 image), None on a CPU.
    """

    worst: Mapping[str, float]
    inputs: tuple[str, ...]
    forms: tuple[str, ...]
    before: Complexity
    after: Complexity
    memory_mb: tuple[float, float] | None = None

    def summary(self) -> str:
        """The result in one line."""
        worst = ", ".join(f"{kind} {difference:.1e}" for kind, difference in self.worst.items())
        return (
            f"compact equals masked ({worst}; forms {', '.join(self.forms)}; {len(self.inputs)} inputs, both layouts); "
            f"parameters {self.before.parameters:,} to {self.after.parameters:,}, "
            f"FLOPs {self.before.flops_g:.2f} to {self.after.flops_g:.2f} G, "
            f"activations {self.before.activations_m:.2f} to {self.after.activations_m:.2f} M"
        )


class Sample(NamedTuple):
    """One input, in float64: what it is in words, and the image."""

    name: str
    image: Tensor


def verify(network: nn.Module, plan: Plan, compacted: Mapping[str, nn.Module]) -> Verification:
    """Compares the forms of a compact network with the masked `network`, which is in its inference form.

    In float64 and float32, in both layouts, on random, constant, black, small, odd-sized images and a batch. All are
    copied before. A network with batch norms must come in float64, with forms that were made from it so: folding
    rounds, and in float32 that is more than is allowed here.

    Raises VerificationFailed, which names the form, the input and the first layer that differs: outputs that are not
    equal to 1e-12 (float64) or 5e-6 (float32) of the largest one; a form that writes into its input or its weights;
    parameters, FLOPs or activations (or memory, on a GPU) that are no lower; an output cut off from the body.
    InputError: no form; a plan for another network.
    """
    if not compacted:
        raise InputError("verify: there is no form of the compact network to compare")
    narrow = next(network.parameters()).dtype != torch.float64
    if narrow and any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        raise InputError("verify: a network with batch norms must be compared in float64, network.double()")
    samples = tuple(inputs(network))
    with _full_precision():
        _check_body(copy.deepcopy(network).double().eval(), plan, samples[0].image.shape)
        worst = {
            str(dtype).removeprefix("torch."): _compare(network, plan, compacted, samples, dtype) for dtype in LIMITS
        }
    before, after = _check_counts(network, plan, compacted)
    return Verification(
        worst=worst,
        inputs=tuple(sample.name for sample in samples),
        forms=tuple(compacted),
        before=before,
        after=after,
        memory_mb=_check_memory(network, compacted),
    )


def inputs(network: nn.Module) -> Iterator[Sample]:
    """What the networks are compared on, from the smallest image that `network` can take."""
    least = int(getattr(network, "minimum_size", 1))
    generator = torch.Generator().manual_seed(0)
    sizes = {
        # First, and large enough that what has strides and pools (the smallest images tell of those) keeps a border.
        "odd": (1, 2 * least + 7, 2 * least + 11),
        "batch": (3, least + 4, least + 5),
        "smallest": (1, least, least),
        "narrow": (1, least, least + 8),  # one pixel wide where that can be
        "slender": (1, least + 6, least),
    }
    for kind, (batch, height, width) in sizes.items():
        shape = (batch, 3, height, width)
        yield Sample(f"{kind} {batch}x3x{height}x{width}", torch.rand(shape, generator=generator, dtype=torch.float64))
    for kind, value in (("constant", 0.7), ("black", 0.0)):
        shape = (1, 3, least + 4, least + 5)
        yield Sample(f"{kind} 1x3x{shape[2]}x{shape[3]}", torch.full(shape, value, dtype=torch.float64))


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 on a GPU, in which float32 has 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _compare(
    network: nn.Module,
    plan: Plan,
    compacted: Mapping[str, nn.Module],
    samples: tuple[Sample, ...],
    dtype: torch.dtype,
) -> float:
    """The worst difference in one type; VerificationFailed where it is too large."""
    reference = copy.deepcopy(network).to(dtype).eval()
    device = next(network.parameters()).device
    tried = [
        (form, layout, copy.deepcopy(module).to(dtype).eval().to(memory_format=memory_format))  # type: ignore[call-overload]
        for form, module in compacted.items()
        for layout, memory_format in LAYOUTS.items()
    ]
    worst = 0.0
    for sample in samples:
        x = sample.image.to(device, dtype)
        with masked(reference, plan), torch.no_grad():
            wanted = reference(x.clone())
        if not wanted.isfinite().all():
            raise VerificationFailed(
                f"verify: the masked network itself gives numbers that are not finite on {sample.name}"
            )
        for form, layout, module in tried:
            given = x.clone(memory_format=LAYOUTS[layout])
            where = f"verify: form '{form}', {str(dtype).removeprefix('torch.')}, {layout}, input {sample.name}"
            try:
                with torch.no_grad():
                    found = module(given)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                said = str(error).partition("\n")[0]
                raise VerificationFailed(f"{where}: the compact network cannot be run: {said}") from error
            difference = _difference(found, wanted)
            if not difference <= LIMITS[dtype]:
                layer = first_difference(reference, plan, module, x.clone(memory_format=LAYOUTS[layout]), LIMITS[dtype])
                raise VerificationFailed(
                    f"{where}: differs from the masked network by {difference:.1e} of the largest output "
                    f"(allowed {LIMITS[dtype]:.0e}); {layer or 'all layers agree, it is what follows them'}"
                )
            if not torch.equal(given, x):
                raise VerificationFailed(f"{where}: the compact network writes into its input")
            worst = max(worst, difference)
            if dtype == torch.float64 and sample is samples[0] and layout == "contiguous":
                # What the layers behind it make small, or closed activations hide, is seen here all the same.
                layer = first_difference(reference, plan, module, x, LAYER_LIMIT)
                if layer:
                    raise VerificationFailed(f"{where}: the output is that of the masked network, but {layer}")
    for form, layout, module in tried:
        _check_weights(compacted[form], module, f"verify: form '{form}', {layout}")
    return worst


def _difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference relative to the largest number wanted; infinite where the two cannot be compared."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return math.inf
    difference, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    return 0.0 if difference == 0 else difference / largest if largest else math.inf


def _check_weights(before: nn.Module, after: nn.Module, where: str) -> None:
    """Raises where running a compact network has changed its parameters or buffers."""
    held = {**dict(before.named_parameters()), **dict(before.named_buffers())}
    for name, tensor in {**dict(after.named_parameters()), **dict(after.named_buffers())}.items():
        if not torch.equal(tensor, held[name].to(tensor.dtype)):
            raise VerificationFailed(f"{where}: running the compact network changes its '{name}'")


def _check_body(network: nn.Module, plan: Plan, shape: Sequence[int]) -> None:
    """Raises where the output no longer depends on the body; `network` in float64."""
    generator = torch.Generator().manual_seed(1)
    device = next(network.parameters()).device
    x, other = (torch.rand(shape, generator=generator, dtype=torch.float64).to(device) for _ in range(2))
    if not depends_on_body(network, plan, x, other):
        raise VerificationFailed(
            "verify: the plan cuts the output off from the network's body; what is left is the image skip"
        )


def _check_counts(network: nn.Module, plan: Plan, compacted: Mapping[str, nn.Module]) -> tuple[Complexity, Complexity]:
    """The counts before and after; raises where what the plan cuts has not gone down."""
    width = widths(network)
    cuts_outputs = any(len(outputs) < width[name][0] for name, (outputs, _) in plan.kept.items())
    cuts = cuts_outputs or any(len(inputs) < width[name][1] for name, (_, inputs) in plan.kept.items())
    before = complexity(network)
    found = {form: complexity(module) for form, module in compacted.items()}
    must_fall = {"parameters": cuts, "flops_g": cuts, "activations_m": cuts_outputs}
    for form, after in found.items():
        for count, falls in must_fall.items():
            old, new = getattr(before, count), getattr(after, count)
            if new > old or (falls and new == old):
                raise VerificationFailed(
                    f"verify: form '{form}': {count} has not gone down: {old:,} before, {new:,} after"
                )
    return before, next(iter(found.values()))


def _check_memory(network: nn.Module, compacted: Mapping[str, nn.Module]) -> tuple[float, float] | None:
    """The peak before and after on a GPU, of the first form; raises where it has risen."""
    device = str(next(network.parameters()).device)
    protocol = Protocol(size=MEMORY_SIZE)
    networks = network, next(iter(compacted.values()))
    before, after = (peak_memory_mb(each, protocol, device, calm=False) for each in networks)
    if before is None or after is None:
        return None
    if after > before:
        raise VerificationFailed(f"verify: peak memory has risen: {before:.1f} MiB before, {after:.1f} after")
    return before, after
