"""The pruned network as a plain small one: `compact` cuts what a plan says, exactly."""

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from ..errors import InputError, unknown
from ..plan import Plan
from .in_place import change_in_place
from .live import live
from .primitives import FORMS
from .trace import Flow, trace
from .writer import Layout, Writer


class Compact(fx.GraphModule):
    """A cut network: stock modules under their old names, a few primitives under `channels`, no masks and no gates.

    layouts: by the name of a node of its graph, which is that of the uncut network's node, the channels of the uncut
    network that its tensor holds, in their order.
    """

    minimum_size: int
    layouts: Mapping[str, Layout]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Compact":
        made: Compact = super().__deepcopy__(memo)  # type: ignore[misc]
        made.minimum_size, made.layouts = self.minimum_size, self.layouts
        # torch's own copy loses these.
        made._forward_pre_hooks.update(self._forward_pre_hooks)
        _carry_over(self, made)
        return made.train(self.training)


def compact(network: nn.Module | Flow, plan: Plan, form: str = "train") -> Compact:
    """The network that a plan leaves of `network` (in its inference form, or its flow), in eval mode; exact.

    Weights are copied, so the network stays as it was; batch norm is folded. `form` is one of `FORMS`; all three have
    the same names and weights. InputError for a plan of another network, and for a network that cannot be traced.
    """
    if form not in FORMS:
        raise InputError(unknown("form of a cut network", form, FORMS))
    flow = network if isinstance(network, Flow) else trace(network)
    found = live(flow, plan)
    device = next((p.device for p in flow.network.parameters()), None)
    if device is None or not flow.calls:
        raise InputError(f"{type(flow.network).__name__}: has no convolution to cut")
    writer = Writer(flow.network, found, plan.order, form, device)
    for node, rule in flow.rules.items():
        if found.held[node] or node.op == "placeholder":
            writer.values[node] = rule.write(node, writer)
    if form == "run":
        change_in_place(writer)
    made = Compact(writer.root, writer.graph, class_name="Compact")
    made.minimum_size = getattr(flow.network, "minimum_size", 1)
    made.layouts = writer.layouts
    made._forward_pre_hooks.update(flow.network._forward_pre_hooks)
    _carry_over(writer.root, made)
    return made.eval()


def _carry_over(source: nn.Module, made: nn.Module) -> None:
    """What torch's graph modules lose of the modules whose tensors they read directly."""
    there = dict(made.named_modules())
    for name, module in source.named_modules():
        if name in there:
            there[name]._non_persistent_buffers_set.update(
                module._non_persistent_buffers_set & set(there[name]._buffers)
            )
            if hasattr(module, "flops_counted"):  # read by proxies/complexity.py
                there[name].flops_counted = module.flops_counted
