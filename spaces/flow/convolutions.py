"""Convolutions and linear layers: the places where channels begin, end, and are cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from .channels import every, listed, lowest
from .context import Context
from .rule import Rule
from .writer import Layout, Value, Writer

if TYPE_CHECKING:
    from .live import Sides

FILLER = -1  # stands in a layout for a channel of zeros that fills a group up


@dataclass(frozen=True)
class Convolution(Rule):
    """A convolution without groups, a transposed one, or a linear layer on `[N, C]`.

    Its sets belong to the module: where that is called more than once, they are those of all calls together.
    """

    name: str
    has_bias: bool
    needs_size = True
    cuts = True

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        outs, ins = sides[self.name]
        return outs if given[0] & ins or self.has_bias else 0

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        outs, ins = sides[self.name]
        return [ins if held & outs else 0]

    def reads(self, held: int, given: Sequence[int], sides: "Sides") -> int:
        outs, ins = sides[self.name]
        return ins & given[0] if held & outs else 0

    def write(self, node: fx.Node, writer: Writer) -> Value:
        source = writer.values[self.operands[0]]
        if self.name not in writer.ins:
            self._cut(source, writer)
        outs = writer.outs[self.name]
        written = writer.copy(node, {self.operands[0]: self._taken(source, writer)}, self.name)
        writer.layouts[written.name] = outs
        return Value(written, len(outs), {c: place for place, c in enumerate(outs) if c != FILLER})

    def _taken(self, source: Value, writer: Writer) -> fx.Node:
        # What is not there is not asked for by this call, or meets weights of zero: anything of its size will do.
        some = min(source.places)
        return writer.take(source, tuple(c if c in source.places else some for c in writer.ins[self.name]))

    def _cut(self, source: Value, writer: Writer) -> None:
        """Makes the small module, and settles what it reads and gives in which order."""
        live_outs, live_ins = writer.sides[self.name]
        outs = ordered(writer.module_held[self.name], writer.order.get(self.name, ()))
        ins = source.natural(live_ins or lowest(source.placed))
        module: Any = writer.network.get_submodule(self.name)
        weight = module.weight.detach()
        transposed = isinstance(module, nn.ConvTranspose2d)
        if transposed:
            weight = weight.transpose(0, 1)
        weight = weight[list(outs)][:, list(ins)]
        _zero(weight, outs, live_outs)
        _zero(weight.transpose(0, 1), ins, live_ins)
        writer.add(self.name, small(module, weight.transpose(0, 1) if transposed else weight, outs, live_outs))
        writer.outs[self.name], writer.ins[self.name] = outs, ins


@dataclass(frozen=True)
class Depthwise(Rule):
    """A convolution of each channel alone. One whose input is not kept gives its bias."""

    name: str
    has_bias: bool
    cuts = True

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        outs, ins = sides[self.name]
        return outs if self.has_bias else outs & ins & given[0]

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [held]

    def reads(self, held: int, given: Sequence[int], sides: "Sides") -> int:
        return sides[self.name][1] & held & given[0]

    def write(self, node: fx.Node, writer: Writer) -> Value:
        source = writer.values[self.operands[0]]
        if self.name not in writer.ins:
            outs, ins = writer.sides[self.name]
            layout = writer.ins[self.name] = source.natural(writer.module_held[self.name])
            module: Any = writer.network.get_submodule(self.name)
            weight = module.weight.detach()[list(layout)]
            _zero(weight, layout, outs & ins)
            writer.add(self.name, small(module, weight, layout, outs, groups=len(layout)))
        layout = writer.ins[self.name]
        written = writer.copy(node, {self.operands[0]: writer.take(source, layout)}, self.name)
        return writer.give(written, layout)


@dataclass(frozen=True)
class Grouped(Convolution):
    """A convolution in groups, which stay equally wide: one with fewer channels than others is filled up with zeros.

    A group none of whose outputs is held is left out. per_group: the outputs and the inputs of one.
    """

    groups: int
    per_group: tuple[int, int]

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        outs, ins = sides[self.name]
        return outs if self.has_bias else sum(outs & made for made, read in self._groups() if ins & read & given[0])

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        outs, ins = sides[self.name]
        return [sum(ins & read for made, read in self._groups() if held & outs & made)]

    def reads(self, held: int, given: Sequence[int], sides: "Sides") -> int:
        return self.wants(held, given, sides)[0] & given[0]

    def _groups(self) -> list[tuple[int, int]]:
        """Outputs and inputs of each group, as sets."""
        out, into = self.per_group
        return [(every(out) << group * out, every(into) << group * into) for group in range(self.groups)]

    def _cut(self, source: Value, writer: Writer) -> None:
        live_outs, live_ins = writer.sides[self.name]
        held, order = writer.module_held[self.name], writer.order.get(self.name, ())
        parts = [
            (group, ordered(held & made, order), source.natural(live_ins & read))
            for group, (made, read) in enumerate(self._groups())
            if held & made
        ]
        out, into = max(len(outs) for _, outs, _ in parts), max(1, *(len(ins) for _, _, ins in parts))
        module: Any = writer.network.get_submodule(self.name)
        weights = []
        for group, outs, ins in parts:
            first = group * self.per_group[1]
            given = module.weight.detach()[list(outs)][:, [c - first for c in ins]]
            _zero(given, outs, live_outs)
            weight = given.new_zeros(out, into, *given.shape[2:])
            weight[: len(outs), : len(ins)] = given
            weights.append(weight)
        outs = writer.outs[self.name] = _filled([part[1] for part in parts], out)
        writer.ins[self.name] = _filled([part[2] for part in parts], into)
        writer.add(self.name, small(module, torch.cat(weights), outs, live_outs, groups=len(parts)))


def _filled(layouts: list[Layout], width: int) -> Layout:
    """The layouts of all groups one after another, each filled up to the same width."""
    return tuple(c for layout in layouts for c in (*layout, *[FILLER] * (width - len(layout))))


def ordered(channels: int, order: Layout) -> Layout:
    """The set of channels: first those that the hint names, in its order, then the others, ascending."""
    first = [channel for channel in order if channels >> channel & 1]
    return (*first, *(channel for channel in listed(channels) if channel not in set(first)))


def _zero(weight: Tensor, channels: Layout, live: int) -> None:
    """Closes the rows of a weight (a copy) whose channels are not alive."""
    closed = [place for place, channel in enumerate(channels) if channel == FILLER or not live >> channel & 1]
    if closed:
        weight[closed] = 0


def small(module: Any, weight: Tensor, outs: Layout, live: int, groups: int = 1) -> nn.Module:
    """A convolution or linear layer like `module` with this weight, and the biases of the outputs that are alive."""
    bias, trains = None, module.weight.requires_grad
    if module.bias is not None:
        bias = module.bias.detach()[[max(channel, 0) for channel in outs]]
        _zero(bias, outs, live)
    if isinstance(module, nn.Linear):
        made: Any = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    else:
        transposed = isinstance(module, nn.ConvTranspose2d)
        ins = weight.shape[0] if transposed else weight.shape[1] * groups
        also = {"output_padding": module.output_padding} if transposed else {}
        made = type(module)(
            *(ins, len(outs), module.kernel_size, module.stride, module.padding),
            dilation=module.dilation,
            groups=groups,
            bias=bias is not None,
            padding_mode=module.padding_mode,
            device="meta",
            **also,
        )
    made.weight = nn.Parameter(weight.contiguous(), trains)
    if bias is not None:
        made.bias = nn.Parameter(bias, trains)
    return made.train(module.training)


def bind_convolution(node: fx.Node, context: Context) -> Rule | str:
    """A convolution, by how its channels are grouped, or a linear layer."""
    module, x = context.module(node), node.args[0]
    name, has_bias = str(node.target), module.bias is not None
    if isinstance(module, nn.Linear):
        if context.examples[x].dim() != 2:  # type: ignore[index]
            return "a linear layer on the last of more than two dimensions"
        return Convolution(module.out_features, (x,), name, has_bias)  # type: ignore[arg-type]
    out, ins, groups = module.out_channels, module.in_channels, module.groups
    if groups == 1:
        return Convolution(out, (x,), name, has_bias)  # type: ignore[arg-type]
    if isinstance(module, nn.ConvTranspose2d):
        return "a transposed convolution in groups"
    if groups == out == ins:
        return Depthwise(out, (x,), name, has_bias)  # type: ignore[arg-type]
    return Grouped(out, (x,), name, has_bias, groups, (out // groups, ins // groups))  # type: ignore[arg-type]
