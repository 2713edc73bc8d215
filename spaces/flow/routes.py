"""Operations that carry channels elsewhere and change none: concat, split, slices, repeats, PixelShuffle."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from .channels import every, listed
from .context import Context
from .elementwise import bind_alone
from .rule import Number, Rule, Size, Unwritten, Whole, Zeros
from .writer import Value, Writer

if TYPE_CHECKING:
    from .live import Sides

Stretch = tuple[int, int, int, int]  # operand, its first channel, the output's first channel, how many


@dataclass(frozen=True)
class Route(Rule):
    """Each channel of the output is a channel of one of the operands, by stretches of channels that stay together.

    A part of one operand is not written at all: who reads it reads the operand. Several are concatenated, each as it
    lies in memory; whoever reads the result follows.
    """

    stretches: tuple[Stretch, ...]

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        found = 0
        for operand, source, target, count in self.stretches:
            found |= (given[operand] >> source & every(count)) << target
        return found

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        wanted = [0] * len(self.operands)
        for operand, source, target, count in self.stretches:
            wanted[operand] |= (held >> target & every(count)) << source
        return wanted

    def write(self, node: fx.Node, writer: Writer) -> Value:
        held = writer.held[node]
        pieces: list[list[tuple[int, int, int]]] = [[] for _ in self.operands]  # place, channel there, channel here
        for operand, source, target, count in self.stretches:
            value = writer.values.get(self.operands[operand])
            for channel in listed(held >> target & every(count)):
                if value is not None and source + channel in value.places:
                    pieces[operand].append((value.places[source + channel], source + channel, target + channel))
        filled = [(writer.values[self.operands[at]], sorted(piece)) for at, piece in enumerate(pieces) if piece]
        if len(filled) == 1:
            value, piece = filled[0]
            return Value(value.node, value.width, {here: place for place, _, here in piece})
        taken = [writer.take(value, tuple(there for _, there, _ in piece)) for value, piece in filled]
        written = writer.graph.create_node("call_function", torch.cat, (taken, 1), {}, node.name)
        return writer.give(written, [here for _, piece in filled for _, _, here in piece])


@dataclass(frozen=True)
class Shuffle(Rule):
    """PixelShuffle: `factor` x `factor` channels, a unit, become one; all of a unit stay if any does."""

    factor: int

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        unit = every(self.factor**2)
        return sum(1 << c for c in range(self.channels) if given[0] >> c * self.factor**2 & unit)

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        unit = every(self.factor**2)
        return [sum(unit << c * self.factor**2 for c in listed(held))]

    def write(self, node: fx.Node, writer: Writer) -> Value:
        source, size = writer.values[self.operands[0]], self.factor**2
        units = list(dict.fromkeys(c // size for c in source.natural(self.wants(writer.held[node], (), {})[0])))
        layout = tuple(c * size + at for c in units for at in range(size))
        return writer.give(writer.copy(node, {self.operands[0]: writer.take(source, layout)}), units)


def bind_through(node: fx.Node, context: Context) -> Rule | str:
    """What gives back what it is given."""
    x, channels = node.args[0], context.channels[node]
    return Route(channels, (x,), ((0, 0, 0, channels),))  # type: ignore[arg-type]


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def bind_joined(node: fx.Node, context: Context) -> Rule | str:
    """`cat`."""
    parts, dimension = node.args[0], _argument(node, 1, "dim", 0)
    if not isinstance(parts, tuple | list) or dimension % context.examples[node].dim() != 1:
        return "a concatenation of something else than channels"
    if not all(part in context.channels for part in parts):
        return "a concatenation with a constant"
    stretches: list[Stretch] = []
    start = 0
    for place, part in enumerate(parts):
        stretches.append((place, 0, start, context.channels[part]))  # type: ignore[index]
        start += context.channels[part]  # type: ignore[index]
    return Route(start, tuple(parts), tuple(stretches))  # type: ignore[arg-type]


def bind_interleaved(node: fx.Node, context: Context) -> Rule | str:
    """`interleave`."""
    count, width = len(node.args), context.channels.get(node, 0)
    if len({context.channels.get(x) for x in node.args}) != 1 or not width:  # type: ignore[arg-type]
        return "tensors that do not lie alike"
    stretches = [(place, c, c * count + place, 1) for c in range(width // count) for place in range(count)]
    return Route(width, node.args, tuple(stretches))  # type: ignore[arg-type]


def bind_repeated(node: fx.Node, context: Context) -> Rule | str:
    """`repeat`, of channels only."""
    x, times = node.args[0], node.args[1:]
    if not all(isinstance(t, int) for t in times) or [t for at, t in enumerate(times) if at != 1 and t != 1]:
        return "a repetition of something else than channels"
    if context.examples[x].dim() != len(times):  # type: ignore[index]
        return "a repetition along new dimensions"
    width = context.channels[x]  # type: ignore[index]
    stretches = tuple((0, 0, turn * width, width) for turn in range(times[1]))  # type: ignore[arg-type]
    return Route(context.channels[node], (x,), stretches)  # type: ignore[arg-type]


SPLITS = (torch.split, torch.chunk, "split", "chunk")


def bind_parts(node: fx.Node, context: Context) -> Rule | str:
    """`split` and `chunk`, whose parts are picked one by one."""
    x = node.args[0]
    if _argument(node, 2, "dim", 0) % context.examples[x].dim() != 1:  # type: ignore[index]
        return "a split of something else than channels"
    if not all(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users):
        return "a split whose parts are not picked one by one"
    return Unwritten(1, ())


def bind_shuffled(node: fx.Node, context: Context) -> Rule | str:
    """PixelShuffle, the module or the function."""
    factor = context.module(node).upscale_factor if node.op == "call_module" else node.args[1]
    return Shuffle(context.channels[node], (node.args[0],), factor)  # type: ignore[arg-type]


def bind_zeros(node: fx.Node, context: Context) -> Rule | str:
    """`zeros_like`."""
    return Zeros(context.channels[node], (node.args[0],))  # type: ignore[arg-type]


def bind_size(node: fx.Node, context: Context) -> Rule | str:
    """The size of a tensor, of which the number of channels is known and the rest is read when it runs."""
    x = node.args[0]
    what = node.args[1] if len(node.args) > 1 else None
    rank = context.examples[x].dim()  # type: ignore[index]
    if isinstance(what, int):
        fixed = what % rank == 1
        return Number(1, (), context.channels[x]) if fixed else Size(1, (x,))  # type: ignore[arg-type,index]
    if what not in (None, "shape", "dtype", "device", "ndim"):
        return f"the attribute {what}"
    if what in (None, "shape") and not all(_avoids_channels(user, rank) for user in node.users):
        return "a size that is used with its channels"
    return Size(1, (x,))  # type: ignore[arg-type]


def _avoids_channels(user: fx.Node, rank: int) -> bool:
    """Whether what is picked from a size is one number, or leaves out that of the channels."""
    if user.target is not operator.getitem:
        return False
    index = user.args[1]
    return isinstance(index, int) or (isinstance(index, slice) and 1 not in range(rank)[index])


def bind_picked(node: fx.Node, context: Context) -> Rule | str:
    """`x[...]` of a tensor, of its size, or of its parts."""
    source, index = node.args
    assert isinstance(source, fx.Node)
    if source in context.channels:
        return _sliced(node, source, index, context)
    x = source.args[0]
    if isinstance(context.examples[source], torch.Size):
        if isinstance(index, int) and index % len(context.examples[source]) == 1:
            return Number(1, (), context.channels[x])  # type: ignore[index,arg-type]
        return Whole(1, (source,), (1,))
    if source.target not in SPLITS or not isinstance(bind_parts(source, context), Unwritten):
        return "a part of what no rule is known for"
    sizes = [part.shape[1] for part in context.examples[source]]
    start = sum(sizes[:index])  # type: ignore[misc]
    return Route(sizes[index], (x,), ((0, start, 0, sizes[index]),))  # type: ignore[arg-type,index]


def _sliced(node: fx.Node, x: fx.Node, index: Any, context: Context) -> Rule | str:
    """A slice of a tensor: of its channels, or of its height and width, which leaves channels alone."""
    given = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in given:
        at, used = given.index(Ellipsis), sum(item is not None for item in given) - 1
        given[at : at + 1] = [slice(None)] * (context.examples[x].dim() - used)
    images, channels, *rest = [*given, slice(None), slice(None)]
    if images != slice(None) or not isinstance(channels, slice):
        return "picking of images, or of channels one by one"
    if not all(item is None or isinstance(item, int | slice | fx.Node) for item in rest):
        return "picking by a list"
    if channels == slice(None):
        return bind_alone(node, context)
    if channels.step not in (None, 1) or any(item not in (slice(None),) for item in rest):
        return "a slice of channels and of something else"
    if not all(end is None or isinstance(end, int) for end in (channels.start, channels.stop)):
        return "a slice of channels whose ends are computed"
    kept = range(context.channels[x])[channels]
    return Route(len(kept), (x,), ((0, kept.start, 0, len(kept)),))
