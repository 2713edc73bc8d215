"""What is known of a traced network while its operations get their rules."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from .rule import Rule


class Context:
    """What binders know of a network: its modules, and what every node gave at two sizes of image."""

    def __init__(self, network: nn.Module, first: Mapping[fx.Node, Any], second: Mapping[fx.Node, Any]) -> None:
        self.network, self.examples = network, first
        self.channels: dict[fx.Node, int] = {}  # of the tensors that have channels
        self.constant: set[fx.Node] = set()  # what does not depend on the image
        for node, example in first.items():
            other = second[node]
            if isinstance(example, Tensor) and example.dim() > 1 and example.shape[1] == other.shape[1]:
                self.channels[node] = example.shape[1]
            sources = node.all_input_nodes
            if node.op == "get_attr" or (sources and all(source in self.constant for source in sources)):
                self.constant.add(node)
                self.channels.pop(node, None)

    def width(self, node: fx.Node) -> int:
        """The channels of a node; 1 where it is one thing."""
        return self.channels.get(node, 1)

    def module(self, node: fx.Node) -> Any:
        return self.network.get_submodule(str(node.target))

    def rest(self, node: fx.Node, *but: fx.Node) -> tuple[fx.Node, ...]:
        """What a node reads beside some operands."""
        return tuple(source for source in node.all_input_nodes if source not in but)


Binder = Callable[[fx.Node, Context], Rule | str]
