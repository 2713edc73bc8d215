"""From a network to its channel flow: the graph of its operations, each with its rule."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call

from ..branches import folded
from ..errors import InputError
from ..plan import widths
from .context import Context
from .primitives import interleave
from .rule import Rule, Whole
from .rules import LEAVES, rule_of


@dataclass(frozen=True)
class Flow:
    """The operations of one network, in the order in which they run, as rules over channels.

    network: a copy in inference form with batch norm folded; `rules` refer to its modules by name. calls: for each
    convolution that can be cut, its nodes. widths: its outputs and inputs.
    """

    network: nn.Module
    rules: dict[fx.Node, Rule]
    calls: Mapping[str, list[fx.Node]]
    widths: Mapping[str, tuple[int, int]]

    def barriers(self) -> list[tuple[str, str]]:
        """The operations that channels do not pass, with the reason: exact, but full width."""
        return [
            (node.name, rule.reason) for node, rule in self.rules.items() if isinstance(rule, Whole) and rule.reason
        ]

    def refuse_uncut(self, names: Iterable[str]) -> None:
        """Raises InputError for a convolution that is there and called, but cannot be cut."""
        called = {str(node.target) for node in self.rules if node.op == "call_module"}
        for name in names:
            if name in called and name not in self.calls:
                kind = type(self.network.get_submodule(name)).__name__
                raise InputError(f"plan: '{name}' cannot be cut: there is no rule for this {kind}")


class _Tracer(fx.Tracer):
    """Stops at torch's own modules and at those that have a rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LEAVES or super().is_leaf_module(m, module_qualified_name)


def graph_of(network: nn.Module) -> fx.Graph:
    """The operations of a network; InputError where they depend on the values of the image, or change them in place."""
    try:
        graph = _Tracer().trace(network)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{type(network).__name__}: the network cannot be traced: {said}") from None
    for node in graph.nodes:
        method = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
        module = node.op == "call_module" and getattr(network.get_submodule(str(node.target)), "inplace", False)
        if method or (module and any(len(source.users) > 1 for source in node.all_input_nodes)):
            raise InputError(f"{type(network).__name__}: '{node.name}' works in place, so the network cannot be cut")
    return graph


def without_batch_norm(network: nn.Module) -> Any:
    """A copy of a network in inference form whose batch norms are folded into the convolutions before them.

    Exact in eval mode. A batch norm that follows no convolution, or one that is called elsewhere too, stays. Masks of a
    plan are meant for this form: a closed channel is zero after the batch norm.
    """
    if network.training:
        raise InputError(f"{type(network).__name__}: the network must be in its inference form, in eval mode")
    network = copy.deepcopy(network)
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    graph = graph_of(network)
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        norm, conv = (network.get_submodule(str(n.target)) for n in (node, source))
        once = len(source.users) == called.count(str(node.target)) == called.count(str(source.target)) == 1
        if once and type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            _fold(conv, norm)
            owner, _, last = str(node.target).rpartition(".")
            setattr(network.get_submodule(owner), last, nn.Identity())
    return network


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Makes the convolution do, in place, what it and then the batch norm did."""
    if not norm.affine:
        norm.weight = nn.Parameter(torch.ones_like(norm.get_buffer("running_mean")))
        norm.bias = nn.Parameter(torch.zeros_like(norm.get_buffer("running_mean")))
    weight, bias = folded(conv, norm)
    conv.weight.data = weight.detach()
    conv.bias = None if bias is None else nn.Parameter(bias.detach(), conv.weight.requires_grad)


def trace(network: nn.Module) -> Flow:
    """The channel flow of a network in its inference form, which is left as it was.

    InputError where it cannot be traced. Nothing depends on the weights; one on the meta device has the same flow.
    """
    network = without_batch_norm(network)
    graph = graph_of(network)
    _join_interleaving(graph)
    least = max(getattr(network, "minimum_size", 1), 16)
    first, second = (
        _examples(network, graph, size) for size in ((1, 3, least, least + 1), (2, 3, least + 5, least + 8))
    )
    context = Context(network, first, second)
    rules = {node: rule_of(node, context) for node in graph.nodes}
    calls: dict[str, list[fx.Node]] = {}
    for node, rule in rules.items():
        if rule.cuts:
            calls.setdefault(str(node.target), []).append(node)
    known = widths(network)
    return Flow(network, rules, calls, {name: known[name] for name in calls})


def _join_interleaving(graph: fx.Graph) -> None:
    """Writes `stack(tensors, 2).flatten(1, 2)` as the one operation on channels that it is."""
    for node in list(graph.nodes):
        stacked = node.args[0] if node.args else None
        if node.op != "call_method" or node.target != "flatten" or node.args[1:] != (1, 2):
            continue
        if isinstance(stacked, fx.Node) and stacked.target is torch.stack and stacked.args[1:] == (2,):
            with graph.inserting_before(node):
                joined = graph.call_function(interleave, tuple(stacked.args[0]))  # type: ignore[arg-type]
            node.replace_all_uses_with(joined)
            graph.erase_node(node)
            if not stacked.users:
                graph.erase_node(stacked)


class _Recorder(nn.Module):
    """Runs a graph with the modules of a network and keeps what every node gave."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self.network, self.graph = network, graph
        self.examples: dict[fx.Node, Any] = {}

    def forward(self, x: torch.Tensor) -> None:
        recorder = self

        class Keeping(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                recorder.examples[n] = super().run_node(n)
                return recorder.examples[n]

        Keeping(self.network, graph=self.graph).run(x)


def _examples(network: nn.Module, graph: fx.Graph, size: tuple[int, ...]) -> dict[fx.Node, Any]:
    """What every node gives for an image of this size, on the meta device: shapes without numbers."""
    recorder = _Recorder(network, graph)
    tensors = [*recorder.named_parameters(), *recorder.named_buffers()]
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    kind = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
    with torch.no_grad():
        functional_call(recorder, shapes, torch.empty(size, dtype=kind, device="meta"))
    return recorder.examples
