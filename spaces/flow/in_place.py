"""The form for running: sums and activations write over a tensor that nobody reads afterwards."""

import copy
import operator
from typing import Any

import torch
from torch import fx, nn

from .primitives import Adding, Pad, Take, Widen
from .writer import Writer

# What gives a tensor with memory of its own, and never a view of what it was given.
FRESH_MODULES = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Tanh),
    *(
        nn.Hardswish,
        nn.Sigmoid,
        nn.Hardsigmoid,
        nn.AvgPool2d,
        nn.MaxPool2d,
        nn.InstanceNorm2d,
        Take,
        Widen,
        Pad,
        Adding,
    ),
)
FRESH_FUNCTIONS = (operator.add, operator.sub, operator.mul, operator.truediv, torch.cat, torch.sigmoid, torch.tanh)


def change_in_place(writer: Writer) -> None:
    """Makes every sum and activation of the graph in place that may be.

    It may be where the tensor owns its memory and none of its data, seen through any view, is read by a later node.
    """
    nodes = list(writer.graph.nodes)
    place = {node: at for at, node in enumerate(nodes)}
    memory: dict[fx.Node, frozenset[fx.Node]] = {}  # the nodes whose memory this one's tensor may be in
    twins: dict[str, str] = {}  # activations out of place and in place, once for all calls
    lodgers: dict[fx.Node, list[fx.Node]] = {}  # the other way round

    def is_free(x: Any, node: fx.Node) -> bool:
        """Whether nobody but the first argument of `node` reads the memory of x at or after it."""
        if not isinstance(x, fx.Node) or not memory[x] or sum(other is x for other in node.args) > 1:
            return False
        if any(owner.op in ("placeholder", "get_attr") for owner in memory[x]):
            return False
        if any(isinstance(y, fx.Node) and y is not x and memory[y] & memory[x] for y in node.all_input_nodes):
            return False
        sharing = {lodger for owner in memory[x] for lodger in lodgers[owner]}
        return all(place[user] <= place[node] for one in sharing for user in one.users if not _reads_size(user))

    for node in nodes:
        module = writer.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        made_in_place = False
        if node.target is operator.add and node.meta.get("alike"):
            if not is_free(node.args[0], node) and is_free(node.args[1], node):
                node.args = (node.args[1], node.args[0])
            if is_free(node.args[0], node):
                node.target, made_in_place = operator.iadd, True
        elif isinstance(module, Adding) and module.form == "run" and is_free(node.args[0], node):
            module.in_place = made_in_place = True
        elif hasattr(module, "inplace") and is_free(node.args[0], node):
            name = str(node.target)
            if name not in twins:
                twins[name] = _in_place_twin(writer, module, name)
            node.target, made_in_place = twins[name], True
        fresh = isinstance(module, FRESH_MODULES) or node.target in FRESH_FUNCTIONS
        sources = frozenset().union(*(memory[x] for x in node.all_input_nodes)) if node.all_input_nodes else frozenset()
        if made_in_place:
            memory[node] = memory[node.args[0]]  # type: ignore[index]
        elif fresh or not sources:
            memory[node] = frozenset([node])
        else:
            memory[node] = sources
        for owner in memory[node]:
            lodgers.setdefault(owner, []).append(node)


def _reads_size(node: fx.Node) -> bool:
    return node.target is getattr or node.target == "size"


def _in_place_twin(writer: Writer, module: Any, name: str) -> str:
    """The same activation in place, beside the other; gives its name."""
    made = copy.deepcopy(module)
    made.inplace = True
    return writer.add(f"{name}_in_place", made)
