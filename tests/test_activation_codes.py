"""Every activation is seen, however it is called, in every block and every published network."""

from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from paretosr.proxies.activation_codes import LEARNED, CodesFailed, take_codes
from paretosr.spaces import BLOCKS, BUILDABLE, Architecture, Block, build, published

SIDE = 16
# Nodes of the graph that autograd keeps: a second, independent witness.
NODES = (
    *("Relu", "LeakyRelu", "PreluKernel", "Hardtanh", "Elu", "Silu", "Gelu", "Mish", "Hardswish", "Softplus"),
    *("Sigmoid", "Hardsigmoid", "LogSigmoid", "Tanh"),
)


def seen_and_drawn(network: nn.Module, side: int) -> tuple[int, int]:
    """How many activations `take_codes` sees, and how many stand in the graph of the output."""
    network.train()
    lr = torch.rand(2, 3, side, side)
    drawn = Counter[str]()
    todo, done = [network(lr).grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in done:
            done.add(node)
            drawn[node.name().removesuffix("Backward0").removesuffix("Backward1")] += 1
            todo += [before for before, _ in node.next_functions]
    learned = sum(isinstance(module, LEARNED) for module in network.modules())
    return take_codes(network, lr, lambda code: None), sum(drawn[node] for node in NODES) + learned


def variants(block: str) -> list[Architecture]:
    """A network of one such block for each of its choices."""
    choices = BLOCKS[block].CHOICES
    chosen = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    return [Architecture(8, (Block.of(block, **choice),), image_skip="bilinear") for choice in chosen]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_activation_of_a_block_is_seen(block: str) -> None:
    for architecture in variants(block):
        seen, drawn = seen_and_drawn(build(architecture), SIDE)
        assert seen == drawn, architecture.summary()


@pytest.mark.parametrize("name", BUILDABLE)
def test_every_activation_of_a_published_network_is_seen(name: str) -> None:
    network = build(published(name))
    seen, drawn = seen_and_drawn(network, max(SIDE, network.minimum_size))
    assert seen == drawn > 0


ALL_KINDS = [
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish),
    *(nn.Softplus, nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.RReLU),
]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_an_activation_is_one_code_of_the_signs_of_its_input(kind: type[nn.Module]) -> None:
    x, codes = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), []
    x[1, 2, 0, 1] = 0  # which is off
    assert take_codes(kind(), x.clone(), codes.append) == 1
    assert torch.equal(codes[0], (x > 0).flatten(1))


def test_in_place_and_functional_activations_are_seen() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(nn.functional.leaky_relu_(x.sigmoid().sub(0.5), 0.1)).tanh_()

    codes: list[Tensor] = []
    assert take_codes(nn.Sequential(Mixed(), nn.ReLU(inplace=True)), torch.randn(2, 3, 4, 4), codes.append) == 5
    assert all(code.shape == (2, 48) for code in codes)


def test_networks_without_codes_say_so() -> None:
    with pytest.raises(CodesFailed, match="the network has no activation"):
        take_codes(nn.Conv2d(3, 5, 1), torch.rand(2, 3, 4, 4), lambda code: None)

    class OfWeights(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * self.weight.sigmoid().mean()

    with pytest.raises(CodesFailed, match=r"of \[5, 3, 1, 1\] is not one of 2 images"):
        take_codes(OfWeights(3, 5, 1), torch.rand(2, 3, 4, 4), lambda code: None)
