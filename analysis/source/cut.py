"""A cut network as modules that can be written down: sections of its graph, in operations of torch alone."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx import Node

from ...spaces.flow import Compact
from ...spaces.flow.primitives import AddAt, AddSlice, Choose, Pad, Take, Widen, interleave
from .sections import Part, parted
from .statements import one_of
from .trace import Call, Given, NotWritable, Trace, arguments_of, torch_class

TWIN = "_in_place"  # at the end of the name of an activation that has a twin out of place
Indices = tuple[int, ...]


class Section(nn.Module):
    """A part of a cut network with its own graph of stock operations, and the modules and lists that it uses.

    wanted: what its class should be called. indices: lists of channels by the name of their attribute; they are no
    weights, and stand in the source.
    """

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted = wanted
        self.graph = fx.Graph()
        self.indices: dict[str, Indices] = {}

    def forward(self, *inputs: Any) -> Any:
        """What its graph computes, of as many values as that takes."""
        return fx.Interpreter(self, graph=self.graph).run(*inputs)

    def indexed(self, wanted: str, index: Indices) -> str:
        """The name of the attribute for a list of channels, one for each list."""
        for name, other in self.indices.items():
            if other == index and name.startswith(wanted):
                return name
        name = _free(self, wanted)
        self.indices[name] = index
        setattr(self, name, index)
        return name

    def as_trace(self) -> Trace:
        """Its graph as what is traced of other modules."""
        inputs: dict[Node, tuple[Given, int | None]]
        inputs = {node: (Given(str(node.target)), None) for node in self.graph.nodes if node.op == "placeholder"}
        calls: dict[str, Call] = {}
        for node in self.graph.nodes:
            module = self.get_submodule(str(node.target)) if node.op == "call_module" else None
            if module is not None and torch_class(module) is None:
                call = tuple(given for given, _ in arguments_of(module, node.args, node.kwargs))
                if calls.setdefault(str(node.target), call) != call:
                    raise NotWritable(f"{type(module).__name__} is called in two ways")
        return Trace(self, tuple(given for given, _ in inputs.values()), self.graph, inputs, calls, {}, {}, {})


def in_sections(network: Compact) -> Section:
    """The cut network, which stays as it was, as sections: the same function to rounding.

    Its weights have the names they had, unless a part that was cut away left a gap in a numbered list.
    """
    least = max(16, network.minimum_size)
    with torch.no_grad():
        _Dimensions(network).run(torch.zeros(1, 3, least, least))
    return _section(network, parted(network))


class _Dimensions(fx.Interpreter):
    """Notes how many dimensions every tensor has."""

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        n.meta["dimensions"] = value.dim() if isinstance(value, Tensor) else 0
        return value


def _section(network: Compact, part: Part) -> Section:
    """The module for a part, its primitives written as what they do."""
    made = Section(_class_name(part.path))
    inner = {path: _without_wrapping(_section(network, each)) for path, each in part.inner.items()}
    paths = dict.fromkeys(str(node.target) for node in part.graph.nodes if node.op in ("call_module", "get_attr"))
    there = {path: inner[path] if path in inner else _at(network, path) for path in paths}
    kept = {path: value for path, value in there.items() if not isinstance(value, (*WRITERS, nn.Identity))}
    attributes = _put(made, part.path, kept)
    for node in list(part.graph.nodes):
        value = there[str(node.target)] if node.op in ("call_module", "get_attr") else node.target
        new = node
        with part.graph.inserting_before(node):
            if isinstance(value, nn.Identity):
                new = node.all_input_nodes[0]
            elif type(value) in WRITERS:
                new = WRITERS[type(value)](_Operations(made, part.graph), value, *node.args)
            elif value is operator.iadd:
                new = part.graph.call_method("add_", node.args)
            elif value is interleave:
                stacked = part.graph.call_function(torch.stack, (list(node.args),), {"dim": 2})
                new = part.graph.call_method("flatten", (stacked, 1, 2))
            elif node.op in ("call_module", "get_attr"):
                node.target = attributes[str(node.target)]
        if new is not node:
            new.meta.setdefault("dimensions", node.meta["dimensions"])
            node.replace_all_uses_with(new)
            part.graph.erase_node(node)
    made.graph = part.graph
    for name, modules in list(made.named_children()):
        if type(modules) is nn.ModuleList:
            _call_at_once(made, name, modules)
    return made


def _call_at_once(section: Section, name: str, modules: nn.ModuleList) -> None:
    """Makes a list of modules an nn.Sequential, where they are called one right after another and just so."""
    calls = [node for node in section.graph.nodes if str(node.target).startswith(f"{name}.")]
    in_order = [node.target for node in calls] == [f"{name}.{number}" for number in range(len(modules))]
    chained = all(
        later.args == (call,) and list(call.users) == [later] and call.next is later for call, later in pairwise(calls)
    )
    if in_order and chained and len(calls[0].args) == 1 and not any(node.kwargs for node in calls):
        setattr(section, name, nn.Sequential(*modules))
        with section.graph.inserting_before(calls[0]):
            calls[-1].replace_all_uses_with(section.graph.create_node("call_module", name, calls[0].args))
        for node in reversed(calls):
            section.graph.erase_node(node)


def _without_wrapping(section: Section) -> nn.Module:
    """The nn.Sequential that is all there is to a section, or the section."""
    nodes = [node for node in section.graph.nodes if node.op != "placeholder"]
    only = section.get_submodule(str(nodes[0].target)) if nodes[0].op == "call_module" else section
    return only if len(nodes) == 2 and type(only) is nn.Sequential else section


def _at(network: nn.Module, path: str) -> nn.Module | Tensor:
    """The module or the tensor at a path."""
    owner, _, last = path.rpartition(".")
    return getattr(network.get_submodule(owner), last)


# The primitives, in operations of torch


@dataclass
class _Operations:
    """Adds operations to the graph of a section."""

    section: Section
    graph: fx.Graph

    def index(self, wanted: str, index: Tensor) -> Node:
        """A list of channels."""
        return self.graph.create_node("get_attr", self.section.indexed(wanted, tuple(index.tolist())))

    def select(self, x: Node, dimension: int, wanted: str, index: Tensor) -> Node:
        """Chosen values along a dimension."""
        return self.graph.call_method("index_select", (x, dimension, self.index(wanted, index)))

    def pad(self, x: Node, before: int, after: int) -> Node:
        """Channels of zeros before and after."""
        return self.graph.call_function(F.pad, (x, (0, 0) * (x.meta["dimensions"] - 2) + (before, after)))


def _widen(to: _Operations, module: Widen, x: Node) -> Node:
    return to.select(to.pad(x, 0, 1), 1, "places", module.inverse)


def _add_slice(to: _Operations, module: AddSlice, wide: Node, part: Node) -> Node:
    summed = wide if module.in_place else to.graph.call_method("clone", (wide,))
    window = (slice(None), slice(module.start, module.start + module.count))
    there = to.graph.call_function(operator.getitem, (summed, window))
    to.graph.call_method("add_" if module.sign > 0 else "sub_", (there, part))
    return summed


def _add_at(to: _Operations, module: AddAt, wide: Node, part: Node) -> Node:
    method = "index_add_" if module.in_place else "index_add"
    sign: dict[str, Any] = {} if module.sign > 0 else {"alpha": module.sign}
    return to.graph.call_method(method, (wide, 1, to.index("places", module.index), part), sign)


WRITERS: dict[type, Callable[..., Node]] = {
    Take: lambda to, module, x: to.select(x, 1, "kept", module.index),
    Choose: lambda to, module, x: to.select(x, module.dimension, "kept", module.index),
    Pad: lambda to, module, x: to.pad(x, module.before, module.after),
    Widen: _widen,
    AddSlice: _add_slice,
    AddAt: _add_at,
}


# Names


def _class_name(path: str) -> str:
    """`Block` for `blocks.3`."""
    return "".join(word[:1].upper() + word[1:] for word in one_of(path).split("_"))


def _put(section: Section, above: str, found: Mapping[str, nn.Module | Tensor]) -> dict[str, str]:
    """Puts modules and tensors into a section; gives the attribute for the path of each.

    What stood in a numbered list does so again, without gaps; what stood deeper has all steps in its name.
    """
    short = {path: path.removesuffix(TWIN) for path in found if path.removesuffix(TWIN) not in found}
    attributes: dict[str, str] = {}
    lists: dict[str, dict[int, str]] = {}
    for path in found:
        steps = short.get(path, path)[len(above) + 1 if above else 0 :].split(".")
        holder, number = ("layers", *steps) if len(steps) == 1 else (steps[0], steps[-1])
        if number.isdigit() and len(steps) <= 2 and isinstance(found[path], nn.Module):
            attributes[path] = holder if holder in lists else _free(section, holder)
            lists.setdefault(holder, {})[int(number)] = path
            setattr(section, attributes[path], found[path])  # it stands where the first of them does
        else:
            attributes[path] = _free(section, "_".join(steps))
            setattr(section, attributes[path], found[path])
    for numbered in lists.values():
        paths = [numbered[number] for number in sorted(numbered)]
        if len(paths) > 1:
            modules: list[Any] = [found[path] for path in paths]
            setattr(section, attributes[paths[0]], nn.ModuleList(modules))
            attributes |= {path: f"{attributes[paths[0]]}.{at}" for at, path in enumerate(paths)}
    return attributes


def _free(section: Section, wanted: str) -> str:
    """The name, or the first one with a number after it, that is no attribute yet."""
    wanted = f"layer_{wanted}" if wanted[:1].isdigit() else wanted
    name, number = wanted, 1
    while hasattr(section, name):
        number += 1
        name = f"{wanted}_{number}"
    return name
