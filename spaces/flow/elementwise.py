"""Operations that leave channels where they are: activations, pools, resizing, sums, products, per-channel modules."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from .channels import every, lowest
from .context import Binder, Context
from .primitives import Choose
from .rule import Rule
from .writer import Layout, Value, Writer

if TYPE_CHECKING:
    from .live import Sides


@dataclass(frozen=True)
class Elementwise(Rule):
    """An operation on one or more tensors that meets each channel alone.

    operands: first the `wide` ones, which have the channels of the output, then those taken whole (`widths` channels
    each: sizes, numbers, masks of one channel for all).
    constants: tensors of the network's own with a value per channel, and the dimension that has it.
    zero: what is zero for certain: `any` (a channel that is zero in any wide operand, or in all of a whole one: a
    product), `all` (zero in all: a sum), `never`. shrinks: the output is smaller than the input.
    """

    wide: int
    widths: tuple[int, ...] = ()
    constants: tuple[tuple[fx.Node, int], ...] = ()
    zero: str = "any"
    shrinks: bool = False

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        if self.zero == "never":
            return every(self.channels)
        found = given[0]
        for other in given[1 : self.wide]:
            found = found & other if self.zero == "any" else found | other
        return found if all(given[self.wide :]) else 0

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [held] * self.wide + [every(width) for width in self.widths]

    def write(self, node: fx.Node, writer: Writer) -> Value:
        first = writer.values[self.operands[0]]
        layout = first.natural(writer.held[node])
        if self.shrinks and self.wide == 1 and not first.is_slice(layout):
            layout = first.natural(first.placed)  # what gathers afterwards has less to gather
        return self._written(node, writer, layout)

    def _written(self, node: fx.Node, writer: Writer, layout: Layout, module: str | None = None) -> Value:
        given: dict[fx.Node, Any] = {}
        for operand in self.operands[: self.wide]:
            given[operand] = writer.take(writer.values[operand], layout)
        for constant, dimension in self.constants:
            given[constant] = self._chosen(writer, constant, dimension, layout)
        return writer.give(writer.copy(node, given, module), layout)

    def _chosen(self, writer: Writer, constant: fx.Node, dimension: int, layout: Layout) -> fx.Node:
        """The values of a constant for the channels of the layout."""
        whole = writer.whole(constant)
        if layout == tuple(range(self.channels)):
            return whole
        return writer.call("choose", Choose(layout, dimension, writer.form, writer.device), whole)


@dataclass(frozen=True)
class Sum(Rule):
    """`first + sign * second` of two tensors of the same size."""

    sign: int

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return given[0] | given[1]

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        # A channel that is asked for though it is zero in both is made by the first.
        return [held & (given[0] | ~given[1]), held & given[1]]

    def write(self, node: fx.Node, writer: Writer) -> Value:
        nothing = Value(None, 0, {})
        first, second = (writer.values.get(operand, nothing) for operand in self.operands)
        return writer.sum(node, first, second, self.sign)


@dataclass(frozen=True)
class PerChannel(Elementwise):
    """A module with parameters for each channel: those of the channels that stay are cut out, for each call anew."""

    narrow: Callable[[Any, Layout], nn.Module] | None = None

    def write(self, node: fx.Node, writer: Writer) -> Value:
        name = str(node.target)
        layout = writer.values[self.operands[0]].natural(writer.held[node])
        if self.narrow is None or layout == tuple(range(self.channels)):
            return self._written(node, writer, layout)
        module = self.narrow(writer.network.get_submodule(name), layout)
        return self._written(node, writer, layout, writer.add(name, module))


@dataclass(frozen=True)
class Reduction(Rule):
    """A mean or a sum over dimensions, that of the channels among them; a mean counts zeros too."""

    width: int
    mean: bool
    needs_size = True

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return every(self.channels) if given[0] else 0

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [given[0]]

    def write(self, node: fx.Node, writer: Writer) -> Value:
        source = writer.values[self.operands[0]]
        channels = writer.nonzero[self.operands[0]] or lowest(source.placed)
        layout = source.natural(channels)
        if len(layout) == self.width:
            layout = tuple(range(self.width))
        written = writer.copy(node, {self.operands[0]: writer.take(source, layout)})
        if self.mean and len(layout) < self.width:
            written = writer.graph.call_function(torch.mul, (written, len(layout) / self.width))
        return writer.give(written, range(self.channels))


def narrow_parameters(module: nn.Module, layout: Layout) -> nn.Module:
    """A copy of a module whose every tensor with a value per channel has those of the layout only."""
    cut = copy.deepcopy(module)
    index = list(layout)
    for name, parameter in module.named_parameters(recurse=False):
        setattr(cut, name, nn.Parameter(parameter.detach()[index], parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dim():
            setattr(cut, name, buffer[index])
    for size in ("num_features", "num_parameters"):
        if hasattr(cut, size):
            setattr(cut, size, len(layout))
    return cut


def narrow_table(module: Any, layout: Layout) -> nn.Module:
    """A copy of a `PackedMtlu` for the channels of the layout."""
    cut = copy.deepcopy(module)
    bins = len(module.table) // len(module.first_row)
    rows = module.table.detach().reshape(-1, bins, 2)[list(layout)]
    cut.table = nn.Parameter(rows.flatten(0, 1), module.table.requires_grad)
    cut.first_row = module.first_row[: len(layout)]
    return cut


def bind_alone(node: fx.Node, context: Context) -> Rule | str:
    """One tensor in, one out; what else it reads are numbers."""
    x = node.args[0]
    others = context.rest(node, x)  # type: ignore[arg-type]
    if any(isinstance(context.examples[other], Tensor) for other in others):
        return "more than one tensor"
    if not isinstance(x, fx.Node) or context.channels.get(x) != context.channels.get(node):
        return "the channels are not those of its input"
    before, after = context.examples[x], context.examples[node]
    zero = "any" if keeps_zero(node, x, context) else "never"
    widths = tuple(context.width(other) for other in others)
    return Elementwise(
        *(context.channels[node], (x, *others), 1, widths), zero=zero, shrinks=after.numel() < before.numel()
    )


def keeps_zero(node: fx.Node, x: fx.Node, context: Context) -> bool:
    """Whether the operation gives zeros for zeros: it is tried."""
    shape = list(context.examples[x].shape)
    zeros = torch.zeros(shape[0], 1, *shape[2:], device="cpu")
    given: dict[fx.Node, Any] = {**context.examples, x: zeros}
    args: Any = fx.map_arg(node.args, given.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, given.__getitem__)
    if node.op == "call_module":
        made = context.module(node)(*args, **kwargs)
    elif node.op == "call_method":
        made = getattr(zeros, str(node.target))(*args[1:], **kwargs)
    else:
        made = node.target(*args, **kwargs)  # type: ignore[operator]
    return not bool(made.any())


def _spatial(dimensions: Any, rank: int) -> bool:
    """Whether none of these dimensions is that of the images or that of the channels."""
    given = dimensions if isinstance(dimensions, tuple | list) else (dimensions,)
    return all(isinstance(d, int) and d % rank > 1 for d in given)


def bind_reduced(node: fx.Node, context: Context) -> Rule | str:
    """A mean or a sum over dimensions."""
    x = node.args[0]
    if len(node.args) > 1 and "dim" in node.kwargs:
        return "unusual arguments"
    dimensions = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if dimensions is None or not isinstance(x, fx.Node):
        return "a reduction over all dimensions"
    rank = context.examples[x].dim()
    if _spatial(dimensions, rank):
        return bind_alone(node, context)
    given = [d % rank for d in (dimensions if isinstance(dimensions, tuple | list) else (dimensions,))]
    keeps = context.examples[node].dim() == rank
    if 0 in given or not keeps:
        return "a reduction that drops channels"
    return Reduction(1, (x,), context.channels[x], getattr(node.target, "__name__", node.target) == "mean")


def bind_padded(node: fx.Node, context: Context) -> Rule | str:
    """`pad`, of height and width only."""
    pads, x = node.args[1], node.args[0]
    if not isinstance(pads, tuple | list) or len(pads) > 2 * (context.examples[x].dim() - 2):  # type: ignore[index]
        return "padding of channels"
    return bind_alone(node, context)


def per_channel(narrow: Callable[..., nn.Module], zero: Callable[[Any], bool]) -> Binder:
    """A module with parameters per channel, and whether zeros stay zeros."""

    def bind(node: fx.Node, context: Context) -> Rule | str:
        given = (context.channels[node], (node.args[0],), 1)
        module = context.module(node)
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            return Elementwise(*given)  # type: ignore[arg-type]
        return PerChannel(*given, zero="any" if zero(module) else "never", narrow=narrow)  # type: ignore[arg-type]

    return bind


def pair(kind: str) -> Binder:
    """`+`, `-`, `*`, `/`, or any other operation of two things on each element alone."""

    def bind(node: fx.Node, context: Context) -> Rule | str:
        if node.kwargs or len(node.args) != 2 or node not in context.channels:
            return "unusual arguments"
        wide: list[fx.Node] = []
        constants, whole = [], []
        for argument in node.args:
            if isinstance(argument, fx.Node):
                role = _role(argument, node, context)
                if role == "other":
                    return "channels that do not lie alike"
                if role == "wide":
                    wide.append(argument)
                elif role == "whole":
                    whole.append(argument)
                else:
                    constants.append((argument, int(role)))
        if not wide:
            return "channels that come from a constant"
        first, second = (context.examples.get(a) if isinstance(a, fx.Node) else a for a in node.args)
        if kind in "+-" and len(wide) == 2 and first.shape == second.shape:  # type: ignore[union-attr]
            return Sum(context.channels[node], tuple(wide), 1 if kind == "+" else -1)
        zero = "never"
        if kind == "*" or (kind == "/" and node.args[0] in wide and not isinstance(second, Tensor)):
            zero = "any"
        elif kind in "+-" and len(wide) == 2:
            zero = "all"
        # Constants are read too: without them they would not be written.
        others = (*whole, *(constant for constant, _ in constants))
        widths = tuple(context.width(other) for other in others)
        return Elementwise(
            *(context.channels[node], (*wide, *others), len(wide), widths), constants=tuple(constants), zero=zero
        )

    return bind


def _role(argument: fx.Node, node: fx.Node, context: Context) -> str:
    """How an argument meets the channels of the result: `wide`, `whole`, `other`, or a constant's dimension."""
    example, result = context.examples[argument], context.examples[node]
    if not isinstance(example, Tensor):
        return "whole"
    dimension = 1 - (result.dim() - example.dim())
    if dimension < 0 or example.shape[dimension] == 1 != result.shape[1]:
        return "whole"
    if argument in context.constant:
        return str(dimension) if example.shape[dimension] > 1 else "whole"
    return "wide" if dimension == 1 and argument in context.channels else "other"


def bind_power(node: fx.Node, context: Context) -> Rule | str:
    """A power, whose exponent is a number or a tensor."""
    number = len(node.args) == 2 and isinstance(node.args[1], int | float)
    return bind_alone(node, context) if number else pair("other")(node, context)
