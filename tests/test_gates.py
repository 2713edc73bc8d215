"""Gates: nothing changes at one, closing is a zero, folding and removing leave what they should."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from paretosr.proxies.complexity import complexity
from paretosr.pruning.gates import Gates, attach
from paretosr.pruning.norms import norms_after
from paretosr.spaces import BLOCKS, Architecture, Block, Frame, InputError, build, inference_form, published
from paretosr.spaces.systems import NETWORKS

BUILDABLE = [name for name, system in NETWORKS.items() if system.network is not None]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network_of(block: str) -> nn.Module:
    architecture = Architecture(width=16, blocks=(Block.of(block),) * 2, frame=Frame(mean_shift=True))
    return inference_form(build(architecture, seed=1))


def image(network: nn.Module, batch: int = 1) -> Tensor:
    side = max(int(getattr(network, "minimum_size", 1)), 5)
    like = next(network.parameters())
    return noise(batch, 3, side, side + 2, dtype=like.dtype)


def move(gates: Gates, seed: int = 3) -> None:
    """Gates between 0.5 and 1.5, a third of the channels closed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in gates.parameters():
            gate.copy_(0.5 + torch.rand(len(gate), generator=generator, dtype=torch.float64))
        for name, (out, into) in gates.items():
            rows, columns = (
                torch.randperm(len(side), generator=generator)[: len(side) // 3].tolist() if side is not None else ()
                for side in (out, into)
            )
            gates.close(name, rows, columns)


class Tiny(nn.Module):
    """Convolutions shared, depthwise, without bias, frozen, transposed; a linear layer and a batch norm."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.plain = nn.Conv2d(6, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.excite = nn.Linear(6, 6)
        self.gather = nn.ConvTranspose2d(6, 7, 3, padding=1)
        self.tail = nn.Conv2d(7, 48, 3, padding=1)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.mean(x))
        y = self.depthwise(torch.relu(self.shared(torch.relu(self.shared(y)))))
        y = self.norm(self.plain(y))
        y = y * torch.sigmoid(self.excite(y.mean((2, 3))))[:, :, None, None]
        return self.shuffle(self.tail(self.gather(y)))


def tiny(dtype: torch.dtype = torch.float64) -> Tiny:
    generator = torch.Generator().manual_seed(4)
    network = Tiny().to(dtype)
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(0.3 * drawn)
    network.norm.get_buffer("running_var").abs_().add_(0.5)
    return network.eval()


# At one


@pytest.mark.parametrize("name", BUILDABLE)
def test_gates_of_one_change_no_bit_of_a_published_network(name: str) -> None:
    network = inference_form(build(published(name), seed=0))
    x = image(network)
    with torch.no_grad():
        plain = network(x)
        gates = attach(network)
        assert torch.equal(network(x), plain)
        gates.remove()
        assert torch.equal(network(x), plain)
    frozen = [k for k, m in network.named_modules() if isinstance(m, nn.Conv2d) and not m.weight.requires_grad]
    assert sorted(gates.left_out) == sorted(frozen)
    convolutions = [k for k, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    assert {*gates, *gates.left_out} == set(convolutions)


@pytest.mark.parametrize("block", BLOCKS)
def test_gates_of_one_change_no_bit_of_a_block(block: str) -> None:
    network = network_of(block)
    x = image(network)
    with torch.no_grad():
        plain = network(x)
        attach(network)
        assert torch.equal(network(x), plain)
        assert torch.equal(inference_form(network)(x), plain)


def test_a_gradient_is_that_of_the_weights() -> None:
    plain, gated = tiny().train(), tiny().train()
    gates = attach(gated)
    x = noise(2, 3, 5, 6, dtype=torch.float64)
    for network in (plain, gated):
        network(x).square().mean().backward()
    ungated = attach(plain)
    for name in gates:
        for one, other in zip(gates.originals(name), ungated.originals(name), strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one.grad, other.grad)


# What they do


def activation_gates(network: Tiny, gates: Gates, x: Tensor) -> Tensor:
    """The same function by multiplying what goes into a convolution and what comes out, behind its norm."""
    reference = tiny()
    handles = []
    for name, (out, into) in gates.items():
        masks = gates.masks(name)
        conv: nn.Module = reference.get_submodule(name)
        shape = (-1,) if isinstance(conv, nn.Linear) else (-1, 1, 1)
        if into is not None and masks.into is not None:
            factor = (into * masks.into).reshape(shape)
            handles.append(conv.register_forward_pre_hook(lambda m, x, f=factor: (x[0] * f,)))
        after = reference.norm if name == "plain" else conv
        factor = (out * masks.out).reshape(shape)
        handles.append(after.register_forward_hook(lambda m, x, y, f=factor: y * f))
    return reference(x)


def test_gates_on_weights_are_gates_on_activations() -> None:
    network = tiny()
    gates = attach(network)
    move(gates)
    x = noise(2, 3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), activation_gates(network, gates, x), rtol=1e-13, atol=1e-13)


def test_behind_a_batch_norm_that_trains_too() -> None:
    network, alone = tiny().train(), tiny().train()
    gates = attach(network, ["plain"])
    assert norms_after(alone) == {"plain": "norm"}
    with torch.no_grad():
        gates["plain"].out.mul_(0.5)
        seen: list[Tensor] = []
        for each in (network, alone):
            each.norm.register_forward_hook(lambda *call: seen.append(call[-1]))
            each(noise(2, 3, 5, 6, dtype=torch.float64))
    torch.testing.assert_close(seen[0], 0.5 * seen[1])


def test_a_closed_output_is_zero_bias_and_all() -> None:
    network = tiny()
    gates = attach(network)
    gates.close("head", outputs=[1, 4])
    gates.close("plain", outputs=[2])
    seen: dict[str, Tensor] = {}
    for name in ("head", "norm"):
        network.get_submodule(name).register_forward_hook(lambda m, x, y, name=name: seen.update({name: y}))
    with torch.no_grad():
        network(noise(1, 3, 5, 6, dtype=torch.float64))
    assert [c for c in range(6) if not seen["head"][:, c].any()] == [1, 4]
    assert [c for c in range(6) if not seen["norm"][:, c].any()] == [2]


def test_a_mask_holds_while_the_gate_trains_and_is_never_opened() -> None:
    network = tiny().train()
    gates = attach(network)
    gates.close("head", [0], [2])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(noise(2, 3, 5, 6, dtype=torch.float64)).square().mean().backward()
    assert gates["head"].out.grad is not None
    assert gates["head"].out.grad[0] == 0
    optimiser.step()
    gates.close("head", [1])
    gates.keep({"head": (range(6), range(3)), "tail": ((0, 1, 2), range(6)), "gather": ((1,), (2, 3))})
    assert gates.kept()["head"] == ((2, 3, 4, 5), (0, 1))
    assert gates.kept()["gather"] == ((1,), (2, 3))
    assert gates.weight("gather").shape[:2] == (7, 6)
    assert gates.kept()["tail"] == ((0, 1, 2), (0, 1, 2, 3, 4, 5))
    assert gates.kept()["depthwise"] == (tuple(range(6)), tuple(range(6)))
    assert not gates.weight("head")[:2].any()
    assert not gates.weight("head")[:, 2].any()


@pytest.mark.parametrize("side", ["outputs", "inputs"])
def test_one_side_closed_closes_the_other(side: str) -> None:
    network = tiny()
    gates = attach(network)
    gates.close("shared", **{side: range(6)})
    assert gates.kept()["shared"] == ((), ())
    gates.keep({"depthwise": (range(6), ())})
    assert gates.kept()["depthwise"][0] == ()
    with torch.no_grad():
        y = network.shared(noise(1, 6, 4, 4, dtype=torch.float64))
    assert not y.any()


def test_a_shared_convolution_has_one_gate() -> None:
    network = tiny()
    gates = attach(network)
    assert [name for name in gates if "shared" in name] == ["shared"]
    assert gates["depthwise"].into is None
    assert len(list(gates.parameters())) == 2 * len(gates) - 1


# Folding, removing, keeping


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_folding_keeps_the_function(dtype: torch.dtype, limit: float) -> None:
    networks = [tiny(dtype), *(network_of(block).to(dtype) for block in BLOCKS)]
    for network in networks:
        gates = attach(network)
        move(gates)
        x = image(network, batch=2)
        with torch.no_grad():
            gated = network(x)
            gates.fold()
            folded = network(x)
        assert float((folded - gated).abs().max()) <= limit * float(gated.abs().max())
        assert not any("parametrizations" in key for key in network.state_dict())


@pytest.mark.parametrize("leave", ["remove", "fold"])
def test_a_network_is_left_as_it_was_found(leave: str) -> None:
    network = tiny().train()
    network.shared.eval()
    network.head.weight.grad = torch.ones_like(network.head.weight)
    parameters, keys = list(network.named_parameters()), list(network.state_dict())
    values = {key: value.clone() for key, value in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    modes = [module.training for module in network.modules()]
    held = [sorted(vars(module)) for module in network.modules()]
    gates = attach(network)
    if leave == "remove":
        move(gates)
    getattr(gates, leave)()
    assert [(name, id(p)) for name, p in network.named_parameters()] == [(name, id(p)) for name, p in parameters]
    assert list(network.state_dict()) == keys
    assert [type(module) for module in network.modules()] == kinds
    assert [module.training for module in network.modules()] == modes
    assert [sorted(vars(module)) for module in network.modules()] == held
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not network.mean.weight.requires_grad
    assert network.head.weight.grad is not None
    assert all(torch.equal(value, values[key]) for key, value in network.state_dict().items())
    gates.remove()
    assert attach(network)


def test_the_state_is_kept() -> None:
    network, again = tiny(), tiny()
    gates = attach(network)
    move(gates)
    other = attach(again)
    state = network.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)  # each gate once
    again.load_state_dict(state)
    assert other.kept() == gates.kept()
    x = noise(1, 3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


def test_a_copy_is_another_network() -> None:
    network = tiny()
    gates = attach(network)
    move(gates)
    x = noise(1, 3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        gated = network(x)
        copied = copy.deepcopy(network)
        gates.remove()
        assert torch.equal(copied(x), gated)
        assert not torch.equal(network(x), gated)
        assert copied.float()(x.float()).dtype == torch.float32  # gates of biases move with those of weights


def test_a_gated_network_can_be_counted() -> None:
    network = tiny()
    plain = complexity(network, (8, 8))
    gates = attach(network)
    found = complexity(network, (8, 8))
    assert (found.macs_g, found.flops_g, found.activations_m) == (plain.macs_g, plain.flops_g, plain.activations_m)
    assert found.parameters == plain.parameters + sum(p.numel() for p in gates.parameters())


# Bad input


def test_what_cannot_be_gated_is_named() -> None:
    network = tiny()
    with pytest.raises(InputError, match=r"no convolution 'heat'; did you mean 'head'\?"):
        attach(network, ["heat"])
    with pytest.raises(InputError, match="'mean' can have none: its weight is frozen"):
        attach(network, ["mean"])
    with pytest.raises(InputError, match="Sequential has no convolution that can be pruned"):
        attach(nn.Sequential(nn.Conv2d(3, 3, 1).requires_grad_(False), nn.ReLU()))
    normed = nn.Sequential(weight_norm(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    normed[2].weight = normed[1].weight
    assert attach(normed).left_out == {
        "0": "its weight is made of others (its inference form has a plain one)",
        "1": "its weight is not its own",
        "2": "its weight is not its own",
    }


def test_what_cannot_be_closed_is_named() -> None:
    gates = attach(tiny())
    with pytest.raises(InputError, match="'head' has 6 gated outputs"):
        gates.close("head", [6])
    with pytest.raises(InputError, match="'depthwise' has 0 gated inputs"):
        gates.close("depthwise", (), [1])
    with pytest.raises(InputError, match="no gated convolution 'mean'"):
        gates.close("mean", [0])
    with pytest.raises(InputError, match="no gated convolution 'mean'"):
        gates.keep({"mean": ((), ())})
