"""The masked reference of a plan, and whether what it leaves still depends on the network's body."""

import pytest
import torch
from torch import Tensor, nn

from paretosr.pruning.body import depends_on_body
from paretosr.pruning.gates import attach
from paretosr.pruning.masks import masked
from paretosr.spaces import InputError, build, inference_form, published
from paretosr.spaces.plan import Plan, widths
from paretosr.spaces.systems import NETWORKS

BUILDABLE = [name for name, system in NETWORKS.items() if system.network is not None]
ANY = "0" * 12
WIDTH = 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", BUILDABLE)
def test_masks_on_activations_are_masks_on_weights(name: str) -> None:
    """Two ways that share nothing: hooks, and gates; a plan that keeps all changes no bit."""
    network = inference_form(build(published(name), seed=0)).double()
    x = noise(1, 3, max(network.minimum_size, 5), max(network.minimum_size, 5) + 2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0, 0.1, generator=generator)
                module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
        for parameter in network.parameters():
            if parameter.ndim == 1 and parameter.requires_grad:  # biases are 0 at first, and would hide
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        plain = network(x)
        whole = {key: (tuple(range(out)), tuple(range(into))) for key, (out, into) in widths(network).items()}
        with masked(network, Plan(ANY, whole)):
            assert torch.equal(network(x), plain)
        gates = attach(network)
        for number, key in enumerate(gates):
            for side, mask in zip(("outputs", "inputs"), gates.masks(key), strict=True):
                if mask is not None:
                    share = 1.0 if number % 15 == 7 else 0.3  # some wholly dead, by one side or by both
                    closed = torch.rand(len(mask), generator=generator) < share
                    gates.close(key, **{side: closed.nonzero().flatten().tolist()})
        gated, plan = network(x), Plan(ANY, gates.kept())
        gates.remove()
        with masked(network, plan):
            found = network(x)
        assert torch.equal(network(x), plain)
    assert float((found - gated).abs().max()) <= 1e-12 * float(gated.abs().max())
    assert not torch.equal(found, plain)


def test_a_convolution_with_one_side_closed_gives_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, 4, 1)).double()
    for kept in ((tuple(range(4)), ()), ((), tuple(range(WIDTH)))):
        with masked(network, Plan(ANY, {"1": kept})), torch.no_grad():
            assert not network[1](noise(1, WIDTH, 4, 4)).any()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_masks_refuse_a_plan_of_another_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, 4, 1)).double()
    with (
        pytest.raises(InputError, match="no convolution '2'"),
        masked(network, Plan(ANY, {"2": ((0,), (0,))})),
    ):
        pass
    with pytest.raises(InputError, match="there is no output 8"), masked(network, Plan(ANY, {"0": ((8,), (0,))})):
        pass


@pytest.mark.parametrize("name", BUILDABLE)
def test_every_whole_network_depends_on_its_body(name: str) -> None:
    """And without any convolution that is trained, none does."""
    network = inference_form(build(published(name), seed=0)).double()
    side = max(network.minimum_size, 6)
    x, other = noise(1, 3, side, side), noise(1, 3, side, side, seed=1)
    assert depends_on_body(network, Plan(ANY), x, other)
    closed = {
        key: ((), ())
        for key, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.weight.requires_grad
    }
    assert not depends_on_body(network, Plan(ANY, closed), x, other)
