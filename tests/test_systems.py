"""The published networks, each by its row in `SYSTEMS`: counts, sizes, gradients, forms, weights, tracing.

What a new one needs of its own here is its counts; what only one has is at the end.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from plans import difference, lived_in
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretosr.proxies.complexity import complexity
from paretosr.search.ntire import NTIRE_SCORES
from paretosr.spaces import (
    BUILDABLE,
    NETWORKS,
    SYSTEMS,
    Architecture,
    Design,
    InputError,
    build,
    inference_form,
    published,
    published_architecture,
)
from paretosr.spaces.branches import BRANCHES, AsymmetricConv
from paretosr.spaces.systems.system import BASES

# Parameters, FLOPs in G, activations in M, convolutions, of the networks whose counts are those of their challenge.
COUNTS = {
    "msrresnet": (1_517_571, 166.3629, 292.5527, 37),
    "imdn": (893_936, 58.5315, 154.1407, 43),
    "imdn_paper": (715_176, 46.5987, 122.6838, 46),
    "rfdn": (433_448, 27.1026, 112.0342, 64),
    "fimdn": (687_056, 44.9839, 118.4891, 33),
    "pan": (272_419, 32.1908, 270.5326, 121),
    "latticenet": (776_968, 49.6790, 132.3194, 104),
    "gcsr": (599_880, 39.3610, 170.0659, 90),
    "maffsrn": (441_706, 27.1161, 212.2427, 159),
    "larvanet": (1_289_808, 84.4313, 188.7437, 60),
    "neptuneai": (1_227_587, 147.7276, 535.8223, 45),
    "srrn": (361_840, 81.7218, 145.7521, 35),
    "amaf_net": (488_105, 31.8280, 125.3048, 35),
    "spsr": (364_726, 32.0164, 170.4591, 67),
    "rlfn": (317_218, 19.6953, 80.0452, 39),
    "efdn": (276_192, 16.7288, 111.1167, 65),
    "span": (150_688, 9.8338, 41.6809, 22),
}
HALF_A_DIGIT = 0.5001e-4
FURTHEST = {"span": 20}  # takes 0..255 inside and gives [0, 1] without a division, as its authors do
buildable = pytest.mark.parametrize("name", BUILDABLE)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trained(name: str) -> nn.Module:
    """The network in float64 with weights and statistics as after a training: nothing at its first value."""
    return lived_in(build(published(name), seed=1))


# The table


def test_the_table_holds_the_challenge() -> None:
    assert len(SYSTEMS) == 29
    assert set(SYSTEMS) - set(BUILDABLE) == {"ahcsrn", "fssr"}
    assert set(BUILDABLE) - set(SYSTEMS) == {score.baseline for score in NTIRE_SCORES.values()}
    assert {name for name, system in SYSTEMS.items() if system.basis == "placeholder"} == {"cfn", "cet_cvlab", "esrnet"}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_says_what_a_reader_needs(name: str) -> None:
    system = NETWORKS[name]
    assert system.basis in BASES
    assert system.title
    assert system.source
    assert system.idea
    assert bool(system.why_not) == (system.network is None)
    for text in (system.title, system.source, system.idea, system.note, system.why_not):
        assert "\n" not in text
        assert text == text.strip()


@pytest.mark.parametrize("name", sorted(set(SYSTEMS) - set(BUILDABLE)))
def test_what_cannot_be_built_says_why(name: str) -> None:
    with pytest.raises(InputError, match=f"the published network '{name}' cannot be built: ."):
        published(name)


@buildable
def test_a_design_goes_to_json_and_back(name: str) -> None:
    design = published(name)
    assert Design.from_json(json.loads(json.dumps(design.to_json()))) == design
    assert len({published(other).hash for other in BUILDABLE}) == len(BUILDABLE)
    assert design.summary()


def test_a_design_of_no_system_is_refused() -> None:
    for name in ("rfdm", "rfdn", "fssr"):  # unknown; an architecture, which says what it is; not described
        with pytest.raises(InputError, match=f"no published network '{name}'"):
            Design.from_json({"architecture": {"system": name}})
    with pytest.raises(InputError, match="'gcsr' is a module of its own"):
        published_architecture("gcsr")


# Counts


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name: str) -> None:
    parameters, flops_g, activations_m, convolutions = COUNTS[name]
    found = complexity(published(name))
    assert (found.parameters, found.convolutions) == (parameters, convolutions)
    assert found.flops_g == pytest.approx(flops_g, abs=HALF_A_DIGIT)
    assert found.activations_m == pytest.approx(activations_m, abs=HALF_A_DIGIT)


@buildable
def test_a_form_and_a_module_count_alike(name: str) -> None:
    assert complexity(build(published(name), device="meta")) == complexity(published(name))


# Sizes


@buildable
@pytest.mark.parametrize("more", [(0, 0), (1, 2), (14, 7)], ids=["smallest", "odd", "larger"])
def test_any_size_from_the_smallest_on_becomes_four_times_as_large(name: str, more: tuple[int, int]) -> None:
    network = build(published(name), seed=0).eval()
    height, width = (network.minimum_size + extra for extra in more)
    with torch.inference_mode():
        y = network(noise(1, 3, height, width))
    assert y.shape == (1, 3, 4 * height, 4 * width)
    assert torch.isfinite(y).all()


@buildable
def test_the_images_of_a_batch_do_not_mix(name: str) -> None:
    network, x = build(published(name), seed=0).eval().double(), noise(2, 3, 21, 18, dtype=torch.float64)
    with torch.inference_mode():
        assert difference(network(x)[1:], network(x[1:])) < 1e-9


@buildable
def test_a_smaller_image_is_refused(name: str) -> None:
    network = build(published(name), device="meta")
    least = network.minimum_size
    with pytest.raises(InputError, match=f"at least {least}x{least} pixels"):
        network(torch.empty(1, 3, least, least - 1, device="meta"))


@buildable
def test_a_fresh_network_gives_an_image(name: str) -> None:
    """Whatever range it works in inside: what goes in as [0, 1] does not come out of another order of magnitude."""
    with torch.inference_mode():
        y = build(published(name), seed=0).eval()(noise(1, 3, 24, 24))
    assert float(y.abs().max()) < FURTHEST.get(name, 5)


# Training


@buildable
def test_gradients_reach_every_parameter_that_is_not_frozen(name: str) -> None:
    network = trained(name).train()
    for module in list(network.modules()):  # an attention has so few units that all of them may happen to be cut off
        for child_name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, child_name, nn.LeakyReLU(0.5))
    x = noise(2, 3, 20, 20, dtype=torch.float64)
    outputs = network.exits(x) if hasattr(network, "exits") else [network(x)]  # type: ignore[operator]
    torch.stack([(y - noise(*y.shape, seed=1)).abs().mean() for y in outputs]).sum().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    # Not scalars and biases: a bound may be far away, and a normalisation takes a bias off again.
    still = [n for n, p in network.named_parameters() if p.dim() > 1 and p.grad is not None and not p.grad.any()]
    assert still == []


@buildable
def test_the_last_exit_is_the_output(name: str) -> None:
    network = build(published(name), seed=0).eval()
    if not hasattr(network, "exits"):
        pytest.skip("has one output only")
    x = noise(1, 3, 20, 21)
    with torch.inference_mode():
        exits = network.exits(x)  # type: ignore[operator]
        assert torch.equal(exits[-1], network(x))
    assert len(exits) > 1


@buildable
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    one = build(published(name), seed=5)
    torch.manual_seed(2)
    same, other = build(published(name), seed=5), build(published(name), seed=6)
    states = [network.state_dict() for network in (one, same, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


# Forms


@buildable
def test_the_inference_form_gives_what_the_training_form_gives(name: str) -> None:
    network = trained(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    formed = inference_form(network)
    x = noise(1, 3, 19, 22, dtype=torch.float64)
    with torch.inference_mode():
        y, wanted = formed(x), network(x)
    assert difference(y, wanted) < 1e-9
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with torch.inference_mode():
        assert difference(formed.float()(x.float()), network.float()(x.float())) < 1e-5


@buildable
def test_the_inference_form_is_final_and_plain(name: str) -> None:
    formed = inference_form(build(published(name), seed=0))
    assert not any(parametrize.is_parametrized(module) for module in formed.modules())
    again = inference_form(formed)
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in formed.named_parameters()]
    with pytest.raises(InputError, match="pixels"):  # the check on sizes is still there
        formed(torch.zeros(1, 3, formed.minimum_size - 1, 20))


@buildable
def test_the_network_can_be_traced(name: str) -> None:
    """For the single file of an export, and for the pruner."""
    network = inference_form(trained(name))
    traced = torch.fx.symbolic_trace(network)
    for height, width in ((20, 23), (17, 17)):
        x = noise(1, 3, height, width, dtype=torch.float64)
        with torch.inference_mode():
            assert difference(traced(x), network(x)) < 1e-9


@buildable
def test_weights_go_to_safetensors_and_back(name: str, tmp_path: Path) -> None:
    network = build(published(name), seed=4)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "w.safetensors")
    other = build(published(name), seed=5)
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    x = noise(1, 3, 18, 18)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), other.eval()(x))


# Asymmetric branches, which an architecture trains with


@pytest.mark.parametrize("kind", [kind for kind, make in BRANCHES.items() if make is not None])
@pytest.mark.parametrize("name", [name for name, s in SYSTEMS.items() if isinstance(s.network, Architecture)])
def test_branches_are_merged_into_the_plain_network(name: str, kind: str) -> None:
    plain = published_architecture(name)
    plain = dataclasses.replace(plain, frame=dataclasses.replace(plain.frame, branches="none"))
    wide = dataclasses.replace(plain, frame=dataclasses.replace(plain.frame, branches=kind))
    assert wide.hash != plain.hash
    merged, alone = complexity(wide), complexity(plain)
    assert merged.parameters >= alone.parameters  # a batch norm gives a convolution a bias that may have had none
    assert dataclasses.replace(merged, parameters=alone.parameters) == alone
    network = build(wide, seed=1).double()
    assert any(isinstance(module, AsymmetricConv) for module in network.modules())
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
            module.get_buffer("running_var").uniform_(0.5, 2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.1, generator=generator)
    formed, x = inference_form(network), noise(1, 3, 17, 18, dtype=torch.float64)
    with torch.inference_mode():
        assert difference(formed(x), network.eval()(x)) < 1e-9
    assert not any(isinstance(module, AsymmetricConv) for module in formed.modules())
    if merged.parameters == alone.parameters:
        build(plain).load_state_dict(formed.float().state_dict())


def test_an_asymmetric_convolution_by_hand() -> None:
    conv = AsymmetricConv(1, 1, groups=1, bias=True, norm=False)
    for number, branch in enumerate(conv.branches):
        branch.weight.data.fill_(10.0**number)  # type: ignore[union-attr]
        branch.bias.data.fill_(10.0**number)  # type: ignore[union-attr]
    with torch.no_grad():
        merged = conv.merged()
    wanted = torch.tensor([[1.0, 101.0, 1.0], [11.0, 111.0, 11.0], [1.0, 101.0, 1.0]])
    assert torch.equal(merged.weight[0, 0], wanted)
    assert merged.bias is not None
    assert merged.bias.item() == 111.0
