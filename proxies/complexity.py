"""What a network costs on paper: parameters, multiply-adds, FLOPs, activations and convolutions.

Everything is counted from shapes, on the meta device: no weight is read, copied or computed with. The rules are those
of the AIM 2020 Efficient Super-Resolution challenge (Zhang et al. 2020, "AIM 2020 Challenge on Efficient
Super-Resolution: Methods and Results", and its published counter); they are the table `RULES` at the foot.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from ..spaces import Architecture, Design, InputError, build
from ..spaces.forms import merge

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Complexity:
    """The five counts of one network at one input size; lower is better in each.

    `parameters`: elements of all parameters, frozen ones included. `macs_g`: multiply-adds of the convolutions, in
    units of 10^9. `flops_g`: the challenge's count, in 10^9: those multiply-adds, plus one per output element of a
    counted activation, plus two per element of an affine batch norm, plus inputs times outputs of a linear layer;
    biases, sums, products, pooling and resizing are free. `activations_m`: elements of all convolution outputs, in
    10^6. `convolutions`: calls of a convolution in one forward (a shared one counts once per call).
    """

    parameters: int
    macs_g: float
    flops_g: float
    activations_m: float
    convolutions: int

    def numbers(self) -> dict[str, float]:
        """The counts under the names that a candidate carries; parameters in units of 10^6."""
        numbers = asdict(self)
        return {"parameters_m": numbers.pop("parameters") / 1e6, **numbers}


@dataclass(frozen=True)
class Cost:
    """What one call of one module adds."""

    macs: int = 0
    flops: int = 0
    activations: int = 0
    convolutions: int = 0


Rule = Callable[[Any, Inputs, Tensor], Cost]  # (module, what it was called with, what it gave) -> what that call adds


def complexity(network: nn.Module | Design | Architecture, size: tuple[int, int] = (256, 256)) -> Complexity:
    """Counts one network on one RGB image of `size` (height, width) low-resolution pixels.

    A design or an architecture is built on the meta device; a module is left exactly as it was. What is counted is the
    inference form, but both factors of weight norm, as the challenge did. Raises `InputError`
    where a network would be miscounted: a module with weights but without a rule, or a convolution that is called as
    a function. A module that says `flops_counted = False` is excused: what it does by itself counts nothing (its
    children do count).
    """
    whole = on_meta(network) if isinstance(network, nn.Module) else build(network, device="meta")
    model = merge(whole.eval(), fold_weight_norm=False)
    _refuse_unruled(model)
    costs: list[Cost] = []
    kind = next((p.dtype for p in model.parameters()), torch.get_default_dtype())
    image = torch.empty(1, 3, *size, device="meta", dtype=kind)
    with torch.inference_mode(), _counting(model, costs):
        model(image)
    return Complexity(
        parameters=sum(p.numel() for p in model.parameters()),
        macs_g=sum(cost.macs for cost in costs) / 1e9,
        flops_g=sum(cost.flops for cost in costs) / 1e9,
        activations_m=sum(cost.activations for cost in costs) / 1e6,
        convolutions=sum(cost.convolutions for cost in costs),
    )


def on_meta(network: nn.Module) -> nn.Module:
    """A copy that has the shapes of `network` and none of its numbers."""
    # deepcopy takes what its memo holds for done, so no weight is ever copied, and shared weights stay shared.
    shapes: dict[int, Any] = {}
    for module in network.modules():
        # The last group are plain tensors kept as attributes, as the older weight norm does.
        for held in (module._parameters, module._buffers, vars(module)):
            for tensor in held.values():
                if isinstance(tensor, Tensor):
                    shape = torch.empty_like(tensor, device="meta", requires_grad=False)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    shapes[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if is_parameter else shape
    return copy.deepcopy(network, shapes)


def _rule(module: nn.Module) -> Rule | None:
    """The rule for a module: that of its own type, or of the nearest type it derives from."""
    return next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)


def _excused(module: nn.Module) -> bool:
    """Whether a module declares that what it does by itself counts nothing."""
    return getattr(module, "flops_counted", True) is False


def _refuse_unruled(model: nn.Module) -> None:
    """Raises where a module has weights of its own and nothing says what using them costs."""
    for name, module in model.named_modules():
        owns_weights = next(module.parameters(recurse=False), None) is not None
        # A parametrisation (weight norm, say) makes weights; it does not apply them to the image.
        known = _rule(module) is not None or isinstance(module, ParametrizationList)
        if owns_weights and not known and not _excused(module):
            raise InputError(
                f"complexity: no counting rule for {type(module).__name__} (module '{name}'), which has weights; "
                f"add one to RULES in proxies/complexity.py, or set flops_counted = False on it if it counts nothing "
                f"(known: {', '.join(sorted(kind.__name__ for kind in RULES))})"
            )


@contextmanager
def _counting(model: nn.Module, costs: list[Cost]) -> Iterator[None]:
    """Appends to `costs` what each call inside the block adds; takes its hooks away at the end."""
    watch = _OnShapes()
    handles = []

    def enter(module: nn.Module, inputs: Inputs) -> None:
        watch.covered += 1

    def leave(module: nn.Module, inputs: Inputs, output: Tensor) -> None:
        watch.covered -= 1
        rule = _rule(module)
        if rule is not None:
            costs.append(rule(module, inputs, output))

    for module in model.modules():
        if _rule(module) is not None or _excused(module):
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _OnShapes(TorchFunctionMode):
    """Watches the functions that a network calls while it runs on shapes alone, and shortens what is slow there.

    Raises when a convolution runs that no module with a rule, and no excused one, stands around: the hooks never see
    such a call, so the network would look cheaper than it is.
    """

    CONVOLUTIONS = frozenset(
        {F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, torch.convolution}
    )

    # What gives an image as large as it takes; images are all that these are called with here.
    OF_ONE_SHAPE = frozenset(
        {F.relu, F.leaky_relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.batch_norm, torch.sigmoid}
    )

    ARITHMETIC = frozenset({Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, torch.add, torch.mul})

    def __init__(self) -> None:
        super().__init__()
        self.covered = 0  # how many modules with a rule, or excused ones, are running now

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.CONVOLUTIONS and not self.covered:
            raise InputError(
                f"complexity: {func.__name__} is called as a function, so no rule counts it; call a Conv2d module, "
                f"or set flops_counted = False on the module that calls it"
            )
        # On the meta device PyTorch works these out in Python, which was most of the time of a count.
        if func is F.interpolate:
            return _resized(*args, **(kwargs or {}))
        if args and (func in self.OF_ONE_SHAPE or (func in self.ARITHMETIC and not kwargs and _shaped_alike(*args))):
            return args[0]
        return func(*args, **(kwargs or {}))


def _shaped_alike(first: Any, *others: Any) -> bool:
    """Whether sums and products of these have the shape of the first."""
    return isinstance(first, Tensor) and all(
        o.shape == first.shape if isinstance(o, Tensor) else isinstance(o, int | float) for o in others
    )


def _resized(
    image: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    *_: Any,
    **__: Any,
) -> Tensor:
    """The shape of an interpolated image, `[N, C, H, W]`; as F.interpolate has it, rounded down."""
    sides = image.shape[2:]
    if size is not None:
        sides = [size] * len(sides) if isinstance(size, int) else size
    elif scale_factor is not None:
        factors = [scale_factor] * len(sides) if isinstance(scale_factor, int | float) else scale_factor
        sides = [math.floor(side * factor) for side, factor in zip(sides, factors, strict=True)]
    return image.new_empty((*image.shape[:2], *sides))


def _convolution(module: nn.Conv2d, inputs: Inputs, output: Tensor) -> Cost:
    macs = module.in_channels // module.groups * math.prod(module.kernel_size) * output.numel()
    return Cost(macs=macs, flops=macs, activations=output.numel(), convolutions=1)


def _transposed_convolution(module: nn.ConvTranspose2d, inputs: Inputs, output: Tensor) -> Cost:
    """Each input pixel is multiplied with the whole kernel; the challenge's counter charges each output pixel that.

    The two differ by the square of the stride. `macs` is what is computed, `flops` what the challenge would print.
    """
    macs = module.out_channels // module.groups * math.prod(module.kernel_size) * inputs[0].numel()
    flops = module.in_channels // module.groups * math.prod(module.kernel_size) * output.numel()
    return Cost(macs=macs, flops=flops, activations=output.numel(), convolutions=1)


def _linear(module: nn.Linear, inputs: Inputs, output: Tensor) -> Cost:
    return Cost(flops=module.in_features * output.numel())


def _batch_norm(module: nn.BatchNorm2d, inputs: Inputs, output: Tensor) -> Cost:
    return Cost(flops=output.numel() * (2 if module.affine else 1))


def _activation(module: nn.Module, inputs: Inputs, output: Tensor) -> Cost:
    # The challenge's counter sees modules only; which of ours stand for a published module is declared, not guessed.
    return Cost() if _excused(module) else Cost(flops=output.numel())


# What the challenge's counter knows. Other activations (sigmoid, hard swish, SiLU) are free in it; a module type that
# has weights and is not here is refused.
RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _activation,
    nn.LeakyReLU: _activation,
    nn.PReLU: _activation,
    nn.ELU: _activation,
    nn.ReLU6: _activation,
}
