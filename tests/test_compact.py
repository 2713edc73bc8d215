"""What a cut network is: plain, small, the same when copied or rebuilt, exportable; what cannot be cut is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from plans import ANY, assert_exact, difference, formed, half, lived_in, noise, random_plan
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paretosr.analysis.export import export_onnx
from paretosr.proxies.complexity import complexity
from paretosr.spaces import Design, InputError, build, deployed, inference_form, published
from paretosr.spaces.flow import FORMS, Compact, compact, trace, without_batch_norm
from paretosr.spaces.plan import Plan


@pytest.mark.parametrize("name", ["rfdn", "neptuneai", "amaf_net", "spsr", "lmsr"])
def test_a_cut_network_is_plain_and_smaller(name: str) -> None:
    network = formed(published(name))
    small = compact(network, half(network))
    before, after = complexity(network), complexity(small)
    assert after.parameters < 0.7 * before.parameters
    assert after.flops_g < 0.7 * before.flops_g
    assert after.activations_m < before.activations_m
    state = small.state_dict()
    assert set(state) <= set(without_batch_norm(network).state_dict())  # the old names, and nothing else
    for module in small.modules():
        assert not module._forward_hooks
        assert not hasattr(module, "parametrizations")
        assert not isinstance(module, nn.BatchNorm2d)
    assert {name for name, _ in small.named_parameters()} == set(state) - {name for name, _ in small.named_buffers()}
    states = [compact(network, half(network), form).state_dict() for form in FORMS]
    assert all(list(other) == list(state) for other in states)
    assert all(torch.equal(other[key], state[key]) for other in states for key in state)


def test_the_network_itself_stays_as_it_was() -> None:
    network = formed(published("neptuneai"))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    small = compact(network, half(network))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_an_input_is_not_written_to() -> None:
    network = formed(published("amaf_net"))
    x = noise(1, 3, 12, 13)
    small, before = compact(network, random_plan(network, 0), "run"), x.clone()
    with torch.no_grad():
        first, again = small(x), small(x)
    assert torch.equal(x, before)
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", ["esrnet", "rfdn", "amaf_net"])
def test_a_copy_is_the_same_network(name: str) -> None:
    network = formed(published(name))
    small = compact(network, random_plan(network, 0), "run")
    for other in (copy.deepcopy(small), inference_form(small)):
        x = noise(1, 3, 18, 17)
        with torch.no_grad():
            assert torch.equal(other(x), small(x))
        assert other.minimum_size == network.minimum_size
        assert type(other).__mro__[1] is Compact
        assert list(other.state_dict()) == list(small.state_dict())
        with pytest.raises(InputError, match=r"takes \[N, 3, h, w\]"):
            other(noise(1, 4, 18, 17))


def test_the_smallest_image_is_kept() -> None:
    network = formed(published("rfdn"))
    small = compact(network, half(network))
    assert small.minimum_size == 15
    with pytest.raises(InputError, match="at least 15x15 pixels"):
        small(noise(1, 3, 14, 20))


@pytest.mark.parametrize("name", ["rfdn", "neptuneai", "spsr", "srrn", "lmsr"])
def test_a_design_and_its_weights_make_the_network_again(name: str, tmp_path: Path) -> None:
    design = published(name)
    network = inference_form(lived_in(build(design, seed=3))).float()
    plan = random_plan(network, 0, design.architecture.hash)
    small = compact(network, plan)
    save_file({key: value.contiguous() for key, value in small.state_dict().items()}, tmp_path / "w.safetensors")
    read = Design.from_json(json.loads(json.dumps(Design(design.architecture, plan).to_json())))
    again = build(read, seed=0)
    assert again.training
    again.load_state_dict(load_file(tmp_path / "w.safetensors"))
    x = noise(1, 3, 20, 17).float()
    with torch.no_grad():
        assert torch.equal(again.eval()(x), small(x))
    assert complexity(read) == complexity(small)  # built without weights, the shapes are the same


def test_a_built_design_is_what_the_plan_leaves_with_weights_of_its_own() -> None:
    architecture = published("fimdn").architecture
    network = inference_form(build(published("fimdn"), seed=5))
    plan = half(network, architecture.hash)
    design, cut = Design(architecture, plan), compact(network, plan)
    small, again = build(design, seed=5), build(design, seed=5)
    assert small.training
    given, wanted = small.state_dict(), cut.state_dict()
    assert {name: value.shape for name, value in given.items()} == {n: v.shape for n, v in wanted.items()}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in given.items())
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d):  # drawn for its own fan-in, not sliced from the uncut network
            fan_in = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().abs().max()) <= fan_in**-0.5, name
            assert module.weight.numel() < 100 or float(module.weight.detach().abs().max()) > 0.25 * fan_in**-0.5, name


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_network_is_deployed_with_the_weights_it_was_trained_to(form: str) -> None:
    architecture = published("fimdn").architecture
    plan = random_plan(inference_form(build(published("fimdn"))), 1, architecture.hash)
    design = Design(architecture, plan)
    trained, x = lived_in(build(design, seed=3)), noise(1, 3, 20, 21)
    with torch.no_grad():
        assert difference(deployed(design, trained, form)(x), trained(x)) < 1e-12


def test_gradients_reach_what_is_alive() -> None:
    network = formed(published("rfdn"))
    small = compact(network, half(network)).train()
    small(noise(2, 3, 20, 20)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters() if parameter.requires_grad)


def test_layouts_say_which_channels_are_where() -> None:
    network = formed(published("msrresnet"))
    plan = random_plan(network, 0)
    small = compact(network, plan)
    held = small.layouts["head_0"]
    assert set(held) <= set(plan.kept["head.0"][0])
    assert len(held) == small.get_submodule("head.0").out_channels


class Tiny(nn.Module):
    """Two convolutions and what is made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.make()

    def make(self) -> None:
        """Modules of the operation's own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.first(x), self.second(x))

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError


class Crossed(Tiny):
    """Modules whose names are those that a cut network would give to others."""

    minimum_size = 3

    def make(self) -> None:
        self.act, self.act_1 = nn.PReLU(8), nn.Conv2d(8, 8, 1)
        self.channels, self.relu_in_place, self.relu = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 8, 1), nn.ReLU()

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        y = self.act(a) + self.relu(self.act_1(self.act(b)))
        return self.channels(self.relu(self.relu_in_place(y)) + a)


def test_names_do_not_meet() -> None:
    network = lived_in(Crossed())
    assert_exact(network, [random_plan(network, seed) for seed in range(6)])


# What is refused


class Branching(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return a if a.sum() > 0 else b


class Writing(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return a.add_(b) + a


class Grown(Tiny):
    def make(self) -> None:
        self.grow = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return self.grow(a) + b


def test_what_cannot_be_cut_is_refused() -> None:
    network = build(published("srrn"), seed=0)
    with pytest.raises(InputError, match="Srrn: the network must be in its inference form, in eval mode"):
        compact(network, Plan(ANY))
    with pytest.raises(InputError, match="no form of a cut network 'runs'; did you mean 'run'"):
        compact(network.eval(), Plan(ANY), "runs")
    with pytest.raises(InputError, match="plan: no convolution 'body'"):
        compact(network, Plan(ANY, {"body": ((), ())}))
    with pytest.raises(InputError, match="Branching: the network cannot be traced: symbolically traced"):
        trace(Branching().eval())
    with pytest.raises(InputError, match="Writing: 'add_' works in place"):
        trace(Writing().eval())
    with pytest.raises(InputError, match="plan: 'grow' cannot be cut: there is no rule for this ConvTranspose2d"):
        compact(Grown().eval(), Plan(ANY, {"grow": ((0,), (0,))}))
    with pytest.raises(InputError, match="Identity: has no convolution to cut"):
        compact(nn.Identity().eval(), Plan(ANY))


# Export


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msrresnet", "rfdn", "imdn", "pan", "sam_sr_lite", "hcsrn", "pfsnet"])
def test_the_export_form_goes_to_onnx(name: str, tmp_path: Path) -> None:
    network = without_batch_norm(formed(published(name))).float()
    plan = half(network)
    export_onnx(compact(network, plan, "export"), tmp_path / "small.onnx")  # raises where it differs
