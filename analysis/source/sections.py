"""A cut network's one flat graph as modules inside each other again, so that it is written as several short classes.

What is under one path of the network, and the operations that lie between, becomes a section: a module with a graph of
its own. What cannot be told apart so (something outside stands between) stays in the section around it.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn
from torch.fx import Node

from ...spaces.flow import Compact
from ...spaces.flow.primitives import Adding, Choose, Pad, Take, Widen

PRIMITIVES = (Take, Widen, Pad, Choose, Adding)
GATHERS = (Take, Widen, Pad, Choose)
SCALINGS = (operator.add, operator.sub, operator.mul, operator.truediv)


@dataclass
class Part:
    """The graph of one section before it is a module: targets are paths of the cut network, or of inner parts."""

    path: str
    graph: fx.Graph
    inner: dict[str, "Part"] = field(default_factory=dict)


def parted(network: Compact) -> Part:
    """The graph of a cut network, which stays as it was, with the sections inside it taken out, and those in these."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    return _Parting(network, "", graph).part()


def in_place(network: nn.Module, node: Node) -> bool:
    """Whether the node writes over what it is given."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return bool(getattr(module, "inplace", False) or getattr(module, "in_place", False))
    return node.target is operator.iadd


class _Parting:
    """Takes the sections out of the graph of what is at `path`."""

    def __init__(self, network: Compact, path: str, graph: fx.Graph) -> None:
        self.network, self.path, self.graph = network, path, graph
        self.not_one: set[str] = set()  # paths that are no section of their own

    def part(self) -> Part:
        """All of it, sections inside sections too."""
        made = Part(self.path, self.graph)
        groups = self._groups()
        while (broken := [path for path, nodes in groups.items() if not self._stands_alone(nodes)]) != []:
            self.not_one.update(broken)
            groups = self._groups()
        for path, nodes in groups.items():
            inner = self._taken_out(path, nodes)
            made.inner[path] = _Parting(self.network, path, inner).part()
        return made

    # Which node belongs where

    def _groups(self) -> dict[str, list[Node]]:
        """The nodes of each section, in order."""
        nodes = [node for node in self.graph.nodes if node.op not in ("placeholder", "output")]
        group = {node: key for node in nodes if (key := self._key(node))}
        now: dict[Node, str | None] = {}  # the section of the last module that was called before
        key = None
        for node in nodes:
            key = group.get(node) if self._is_own(node) else key
            now[node] = key
        self._join_makers(nodes, group, now)
        self._leave_scalings(nodes, group)
        for node in reversed(nodes):
            if node in group:
                continue
            keys = {group.get(user) for user in node.users}
            if self._is_gather(node):
                own = group.get(node.all_input_nodes[0])
                key = keys.pop() if len(keys) == 1 else own if own in keys else None
            else:
                key = now[node] if keys == {now[node]} else None
            if key is not None:
                group[node] = key
        found: dict[str, list[Node]] = {}
        for node in nodes:
            if node in group:
                found.setdefault(group[node], []).append(node)
        return found

    def _join_makers(self, nodes: list[Node], group: dict[Node, str], now: dict[Node, str | None]) -> None:
        """Puts operations on what a section made into it, if they follow at once and need nothing it has not read."""
        reads: dict[str, set[Node]] = {}
        for node in nodes:
            sources = {source for given in node.all_input_nodes for source in self._behind(given, group)}
            key = group.get(node)
            if key is None and not self._is_gather(node):
                key = now[node]
                made_here = any(group.get(source) == key for source in sources)
                known = all(group.get(source) == key or source in reads.get(str(key), ()) for source in sources)
                if key is None or not made_here or not known:
                    continue
                group[node] = key
            if key is not None:
                reads.setdefault(key, set()).update(source for source in sources if group.get(source) != key)

    def _key(self, node: Node) -> str | None:
        """The path of the section that a node belongs to by its own path, if any."""
        if not self._is_own(node):
            return None
        steps = str(node.target).split(".")
        for count in range(len(self.path.split(".")) if self.path else 0, len(steps) - 1):
            is_list = steps[count + 1][:1].isdigit() and not steps[count][:1].isdigit()
            key = ".".join(steps[: count + 1])
            if not is_list and key not in self.not_one:
                return key
        return None

    def _is_own(self, node: Node) -> bool:
        """Whether a node is a module or a tensor of the network, rather than an operation."""
        if node.op == "call_module":
            return not isinstance(self.network.get_submodule(str(node.target)), PRIMITIVES)
        return node.op == "get_attr"

    def _is_gather(self, node: Node) -> bool:
        """Whether a node only picks something out of one other, so that it may be computed where that is used."""
        if node.op == "call_module":
            return isinstance(self.network.get_submodule(str(node.target)), GATHERS)
        return node.target in (operator.getitem, getattr, "size") and len(node.all_input_nodes) == 1

    def _behind(self, node: Node, group: dict[Node, str]) -> Iterator[Node]:
        """What a value is picked out of."""
        while node not in group and node.op != "placeholder" and self._is_gather(node):
            node = node.all_input_nodes[0]
        yield node

    def _leave_scalings(self, nodes: list[Node], group: dict[Node, str]) -> None:
        """Leaves out what is done with a number after a section, like going back from [0, 255]."""
        for node in reversed(nodes):
            key = group.get(node)
            with_number = node.target in SCALINGS and len(node.all_input_nodes) == 1
            if key and with_number and all(group.get(user) != key for user in node.users):
                del group[node]

    def _stands_alone(self, nodes: list[Node]) -> bool:
        """Whether the nodes can be computed all at once, when the last one is, and are worth it."""
        members = set(nodes)
        for node in _between(nodes):
            moves = in_place(self.network, node) or any(given in members for given in node.all_input_nodes)
            if node not in members and moves:
                return False
        return len(nodes) > 1 and any(self._is_own(node) for node in nodes)

    # Taking one out

    def _taken_out(self, path: str, nodes: list[Node]) -> fx.Graph:
        """The nodes as a graph of their own; in this one a call of it takes their place."""
        members = set(nodes)
        inputs = list(dict.fromkeys(x for node in nodes for x in node.all_input_nodes if x not in members))
        outputs = [node for node in nodes if any(user not in members for user in node.users)]
        inner = fx.Graph()
        names = ["x"] if len(inputs) == 1 else [f"x_{number}" for number in range(1, len(inputs) + 1)]
        inside = {given: inner.placeholder(name) for given, name in zip(inputs, names, strict=True)}
        for given, placeholder in inside.items():
            placeholder.meta = dict(given.meta)
        for node in nodes:
            inside[node] = inner.node_copy(node, inside.__getitem__)
        given_back = tuple(inside[node] for node in outputs)
        inner.output(given_back[0] if len(outputs) == 1 else given_back)
        with self.graph.inserting_after(nodes[-1]):
            call = self.graph.create_node("call_module", path, tuple(inputs))
        at = call
        for number, node in enumerate(outputs):
            if len(outputs) > 1:
                with self.graph.inserting_after(at):
                    at = self.graph.call_function(operator.getitem, (call, number))
            at.meta = dict(node.meta)
            node.replace_all_uses_with(at, lambda user: user not in members)
        for node in reversed(nodes):
            self.graph.erase_node(node)
        return inner


def _between(nodes: list[Node]) -> Iterator[Node]:
    """All nodes of the graph from the first of these to the last."""
    node = nodes[0]
    while node is not nodes[-1]:
        yield node
        node = node.next
