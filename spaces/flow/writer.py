"""Writes the graph of a cut network: tensors with their channels in some order, and what brings these into another."""

import copy
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from .channels import listed, these
from .primitives import AddAt, AddSlice, Pad, Take, Widen

if TYPE_CHECKING:
    from .live import Live

Layout = tuple[int, ...]  # the channels of the uncut network that a tensor holds, in the order in which they lie


@dataclass(frozen=True)
class Value:
    """Where the channels of one tensor of the uncut network are: in which tensor of the cut one, at which places.

    `width` is how many channels that tensor has; some may belong to others (a slice is not made before it is needed).
    A channel without a place is zero, or nobody asks for it. `node` is a plain number where the value is one.
    """

    node: Any
    width: int
    places: Mapping[int, int]

    @classmethod
    def of(cls, node: Any, layout: Iterable[int]) -> "Value":
        """A tensor that holds exactly the channels of the layout."""
        places = {channel: place for place, channel in enumerate(layout)}
        return cls(node, len(places), places)

    def natural(self, channels: int) -> Layout:
        """The set of channels in the order in which they lie; those without a place at the end."""
        there = sorted((place, channel) for channel, place in self.places.items() if channels >> channel & 1)
        held = tuple(channel for _, channel in there)
        return held + tuple(listed(channels & ~these(held)))

    @property
    def placed(self) -> int:
        """The set of channels that have a place."""
        return these(self.places)

    def is_slice(self, layout: Layout) -> bool:
        """Whether the channels of the layout lie one behind the other, so that no copy is needed."""
        places = [self.places.get(channel, -1) for channel in layout]
        return bool(places) and places[0] >= 0 and places == list(range(places[0], places[0] + len(places)))


class Writer:
    """The graph that is being written, its modules, and the value of every node of the uncut graph so far.

    network: the uncut one, whose modules are cut. live: which channels are alive. order: the plan's hints.
    """

    def __init__(
        self, network: nn.Module, live: "Live", order: Mapping[str, Layout], form: str, device: torch.device
    ) -> None:
        self.network, self.order, self.form, self.device = network, order, form, device
        self.held, self.nonzero, self.sides, self.module_held = live.held, live.nonzero, live.sides, live.module_held
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.values: dict[fx.Node, Value] = {}
        self.layouts: dict[str, Layout] = {}  # what the tensors written hold, by the name of their node
        self.ins: dict[str, Layout] = {}  # what a convolution that was written reads, by its name
        self.outs: dict[str, Layout] = {}
        self._own = {name for name, _ in network.named_modules()}
        self._apart = "channels"  # the primitives stand together, apart from the network's own modules
        while hasattr(network, self._apart):
            self._apart += "_"
        self._numbers: dict[str, int] = {}  # how many modules beside the first have a name
        self._made: dict[tuple[Any, ...], fx.Node] = {}

    # Nodes and modules

    def copy(self, node: fx.Node, given: Mapping[fx.Node, Any], module: str | None = None) -> fx.Node:
        """The same operation with other inputs; what is not given is taken whole. `module` is another one to call."""

        def given_or_whole(n: fx.Node) -> Any:
            return given[n] if n in given else self.whole(n)

        args, kwargs = fx.map_arg(node.args, given_or_whole), fx.map_arg(node.kwargs, given_or_whole)
        target = node.target
        if node.op == "call_module":
            target = module or self.same_module(str(node.target))
        elif node.op == "get_attr":
            self._bring(str(node.target))
        return self.graph.create_node(node.op, target, args, kwargs, node.name)

    def same_module(self, name: str) -> str:
        """A copy of a module as it is, once for all its calls; gives its name."""
        if not self.has(name):
            module = copy.deepcopy(self.network.get_submodule(name))
            if getattr(module, "inplace", False):
                module.inplace = False  # pyright: ignore[reportArgumentType]
            self.add(name, module)
        return name

    def has(self, name: str) -> bool:
        """Whether there is something under this name already."""
        owner: Any = self.root
        for part in name.split("."):
            if not hasattr(owner, part):
                return False
            owner = getattr(owner, part)
        return True

    def add(self, name: str, module: nn.Module) -> str:
        """Puts a module there, or beside what is there and what may come there; gives the name."""
        free = name
        while self.has(free) or (free != name and free in self._own):
            self._numbers[name] = self._numbers.get(name, 0) + 1
            free = f"{name}_{self._numbers[name]}"
        owner, last = self._owner(free)
        owner.add_module(last, module)
        return free

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds what has this name, made where it is missing."""
        owner, (*path, last) = self.root, name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner, last

    def _bring(self, name: str) -> None:
        """A parameter, buffer or plain tensor of the network's own, under the same name."""
        if self.has(name):
            return
        path, _, last = name.rpartition(".")
        source, (owner, _) = self.network.get_submodule(path), self._owner(name)
        if hasattr(source, "flops_counted"):
            owner.flops_counted = source.flops_counted
        tensor = getattr(source, last)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, nn.Parameter(tensor.detach().clone(), tensor.requires_grad))
        else:
            owner.register_buffer(last, tensor.clone(), persistent=last not in source._non_persistent_buffers_set)

    # Values

    def give(self, written: fx.Node, layout: Iterable[int]) -> Value:
        """Says what a tensor just written holds."""
        value = Value.of(written, layout)
        self.layouts[written.name] = tuple(value.places)
        return value

    def whole(self, node: fx.Node) -> Any:
        """All channels of a value in their own order; a number as it is."""
        value = self.values[node]
        return self.take(value, tuple(listed(self.held[node]))) if isinstance(value.node, fx.Node) else value.node

    def take(self, value: Value, layout: Layout) -> fx.Node:
        """The tensor that holds the channels of the layout, in its order; zeros for those that have no place."""
        places = [value.places.get(channel, -1) for channel in layout]
        if places == list(range(value.width)):
            return value.node
        if -1 in places:
            return self._widened(value, layout)
        if value.is_slice(layout):
            window = (slice(None), slice(places[0], places[0] + len(places)))
            key = (value.node, "slice", places[0], len(places))
            if key not in self._made:
                self._made[key] = self.graph.call_function(operator.getitem, (value.node, window))
        else:
            key = (value.node, "take", *places)
            if key not in self._made:
                self._made[key] = self.call("take", Take(tuple(places), self.form, self.device), value.node)
        self.layouts[self._made[key].name] = layout
        return self._made[key]

    def _widened(self, value: Value, layout: Layout) -> fx.Node:
        """As `take`, where zeros are wanted too."""
        there = tuple(channel for channel in layout if channel in value.places)
        assert there, f"nothing of {value.node} is there to be widened"
        node = self.take(value, there)
        index = tuple(place for place, channel in enumerate(layout) if channel in value.places)
        key = (node, "widen", len(layout), *index)
        if key not in self._made:
            if index == tuple(range(index[0], index[0] + len(index))):
                module: nn.Module = Pad(index[0], len(layout) - index[-1] - 1)
            else:
                module = Widen(index, len(layout), self.form, self.device)
            self._made[key] = self.call("widen", module, node)
            self.layouts[self._made[key].name] = layout
        return self._made[key]

    def call(self, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        """A call of one of the primitives."""
        return self.graph.call_module(self.add_apart(name, module), inputs)

    def add_apart(self, name: str, module: nn.Module) -> str:
        """Puts a primitive with the others; gives its whole name."""
        return self.add(f"{self._apart}.{name}", module)

    # Sums

    def sum(self, node: fx.Node, first: Value, second: Value, sign: int) -> Value:
        """`first + sign * second` of two tensors of the same size, each of which may lack channels the other has."""
        held = self.held[node]
        ours, theirs = first.placed & held, second.placed & held
        if not theirs:
            return Value(first.node, first.width, {c: p for c, p in first.places.items() if held >> c & 1})
        if not ours and sign > 0:
            return Value(second.node, second.width, {c: p for c, p in second.places.items() if held >> c & 1})
        if not ours:
            layout = second.natural(theirs)
            return self.give(self.graph.call_function(operator.neg, (self.take(second, layout),)), layout)
        if ours == theirs:
            mine = first.natural(ours)
            layout = mine if len(mine) == first.width else second.natural(theirs)
            taken = (self.take(first, layout), self.take(second, layout))
            function = operator.add if sign > 0 else operator.sub
            written = self.graph.create_node("call_function", function, taken, {}, node.name)
            written.meta["alike"] = True
            return self.give(written, layout)
        if ours | theirs == theirs and sign > 0:
            return self._partly(node, second, first, theirs, ours, 1)
        return self._partly(node, first, second, ours, theirs, sign)

    def _partly(self, node: fx.Node, wide: Value, part: Value, ours: int, theirs: int, sign: int) -> Value:
        """A sum in which the part has other channels than the wide tensor, which is widened where it lacks some."""
        order, both = part.natural(theirs), ours & theirs
        # What the part has before anything of both comes first: two stretches of one order stay one stretch each.
        first = next((place for place, channel in enumerate(order) if both >> channel & 1), 0)
        after = tuple(channel for channel in order[first:] if not ours >> channel & 1)
        layout = (*order[:first], *wide.natural(ours), *after)
        where = {channel: place for place, channel in enumerate(layout)}
        if len(order) != part.width:  # it is gathered anyway: then in the order in which it is added
            order = tuple(sorted(order, key=where.__getitem__))
        index = tuple(where[channel] for channel in order)
        if index == tuple(range(index[0], index[0] + len(index))):
            module: nn.Module = AddSlice(index[0], len(index), len(layout), sign, self.form)
        else:
            module = AddAt(index, len(layout), sign, self.form, self.device)
        name = self.add_apart("add", module)
        inputs = (self.take(wide, layout), self.take(part, order))
        return self.give(self.graph.create_node("call_module", name, inputs, {}, node.name), layout)
