"""Counts against hand counts, closed forms, and the figures of the published networks."""

from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretosr.proxies.complexity import Complexity, complexity
from paretosr.spaces import (
    BLOCKS,
    BUILDABLE,
    BlockChoices,
    Design,
    InputError,
    Space,
    build,
    published,
    published_architecture,
)
from paretosr.spaces.architecture import IMAGE_SKIPS
from paretosr.spaces.forms import merge
from paretosr.spaces.fusion import FUSIONS
from paretosr.spaces.upsampler import UPSAMPLERS

EVERYTHING = Space(
    tuple(map(BlockChoices, BLOCKS)), (8, 16), (2, 4), tuple(FUSIONS), tuple(UPSAMPLERS), (8,), IMAGE_SKIPS
)

# parameters, flops_g, activations_m, convolutions, at 3x256x256. All but IMDN's paper version stand in AIM 2020's
# Table 1, with fewer digits (MSRResNet: 1.517 / 166.36 / 292.55 / 37).
PUBLISHED = {
    "msrresnet": (1_517_571, 166.3629, 292.5527, 37),
    "imdn": (893_936, 58.5315, 154.1407, 43),
    "imdn_paper": (715_176, 46.5987, 122.6838, 46),
    "rfdn": (433_448, 27.1026, 112.0342, 64),
    "pan": (272_419, 32.1908, 270.5326, 121),
    "latticenet": (776_968, 49.6790, 132.3194, 104),
}


def counts(network: nn.Module, height: int, width: int) -> tuple[int, int, int, int, int]:
    """Parameters, macs, flops, activations, convolutions as whole numbers."""
    found = complexity(network, (height, width))
    return (
        found.parameters,
        round(found.macs_g * 1e9),
        round(found.flops_g * 1e9),
        round(found.activations_m * 1e6),
        found.convolutions,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_published_counts(name: str) -> None:
    found = complexity(published(name))
    assert (
        found.parameters,
        round(found.flops_g, 4),
        round(found.activations_m, 4),
        found.convolutions,
    ) == PUBLISHED[name]


def test_msrresnet_to_the_last_unit() -> None:
    found = complexity(published("msrresnet"))
    pixels = 256 * 256
    # Convolutions, by hand: head, 32 in the body, two before the shuffles, one at full size, and the last.
    macs = pixels * 9 * (3 * 64 + 32 * 64 * 64 + 64 * 256 + 4 * 64 * 256 + 16 * 64 * 64 + 16 * 64 * 3)
    leaky = pixels * 64 * (1 + 4 + 16 + 16)
    assert found.macs_g == pytest.approx(macs / 1e9, abs=1e-9)
    assert found.flops_g == pytest.approx((macs + leaky) / 1e9, abs=1e-9)
    assert found.activations_m == 292.552704


def test_a_design_an_architecture_and_a_module_agree() -> None:
    architecture = published_architecture("imdn_paper")
    found = complexity(architecture, (20, 30))
    assert complexity(Design(architecture), (20, 30)) == found
    assert complexity(build(architecture, seed=0), (20, 30)) == found
    assert complexity(build(architecture, device="meta"), (20, 30)) == found


@pytest.mark.parametrize("name", BUILDABLE)
def test_convolutions_scale_with_the_pixels(name: str) -> None:
    small, large = (complexity(published(name), (side, side)) for side in (64, 128))
    assert large.parameters == small.parameters
    assert large.convolutions == small.convolutions
    # Attention works on pooled maps too, which do not grow by just four.
    assert large.macs_g == pytest.approx(4 * small.macs_g, rel=0.01)


@pytest.mark.parametrize("name", [*BUILDABLE, *range(12)])
def test_outputs_have_the_sizes_that_a_forward_gives_them(name: str | int) -> None:
    """Counting knows the shapes of much that PyTorch would have to work out: of nothing else than it would give."""
    design = published(name) if isinstance(name, str) else Design(EVERYTHING.sample(Random(name)))
    network = merge(build(design, device="meta").eval(), fold_weight_norm=False)
    sizes: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    with torch.inference_mode():
        network(torch.empty(1, 3, 53, 71, device="meta"))
    found = complexity(design, (53, 71))
    assert (found.convolutions, found.activations_m) == (len(sizes), sum(sizes) / 1e6)


def test_convolution_by_hand() -> None:
    macs = 5 * 7 * 8 * 27
    assert counts(nn.Conv2d(3, 8, 3, padding=1), 5, 7) == (224, macs, macs, 5 * 7 * 8, 1)


def test_strided_grouped_convolution_by_hand() -> None:
    network = nn.Conv2d(3, 6, (1, 5), stride=2, padding=(0, 2), groups=3, bias=False)
    macs = 3 * 4 * 6 * 5  # 3x4 outputs of 6 channels, each sees one channel and five pixels
    assert counts(network, 6, 8) == (30, macs, macs, 72, 1)


def test_transposed_convolution_counts_what_is_computed_and_what_the_challenge_prints() -> None:
    network = nn.ConvTranspose2d(3, 4, 2, stride=2)
    # 5x7 inputs of 3 channels each meet a 2x2 kernel of 4 channels; the challenge charges all 10x14 outputs 3x2x2.
    assert counts(network, 5, 7) == (52, 5 * 7 * 3 * 16, 10 * 14 * 4 * 12, 10 * 14 * 4, 1)
    same_size = nn.ConvTranspose2d(3, 4, 3, padding=1)
    assert counts(same_size, 5, 7)[1:3] == (5 * 7 * 3 * 36,) * 2


def test_linear_batch_norm_and_activations_by_hand() -> None:
    assert counts(nn.Linear(7, 2), 5, 7) == (16, 0, 3 * 5 * 7 * 2, 0, 0)
    assert counts(nn.BatchNorm2d(3), 5, 7) == (6, 0, 2 * 105, 0, 0)
    assert counts(nn.BatchNorm2d(3, affine=False), 5, 7) == (0, 0, 105, 0, 0)
    assert counts(nn.PReLU(), 5, 7) == (1, 0, 105, 0, 0)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.ReLU6])
def test_activations_that_the_challenge_counts(kind: type[nn.Module]) -> None:
    assert counts(kind(), 5, 7) == (0, 0, 105, 0, 0)


@pytest.mark.parametrize("kind", [nn.Sigmoid, nn.Hardswish, nn.SiLU, nn.Hardtanh, nn.Identity])
def test_activations_that_it_does_not_count(kind: type[nn.Module]) -> None:
    assert counts(kind(), 5, 7) == (0, 0, 0, 0, 0)


def test_a_declared_activation_is_free() -> None:
    relu = nn.ReLU()
    relu.flops_counted = False  # type: ignore[assignment]
    assert counts(nn.Sequential(relu, nn.ReLU()), 5, 7) == (0, 0, 105, 0, 0)


class Shared(nn.Module):
    """Calls one convolution three times and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 5, 1, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(self.conv(image)))


def test_a_shared_convolution_counts_per_call_and_an_unused_one_by_its_parameters() -> None:
    macs = 3 * 5 * 7 * 9
    assert counts(Shared(), 5, 7) == (9 + 15, macs, macs, 3 * 105, 3)


def test_frozen_parameters_count() -> None:
    assert counts(nn.Conv2d(3, 3, 1).requires_grad_(False), 5, 7)[0] == 12


def test_weight_norm_counts_its_own_parameters_and_one_convolution() -> None:
    new = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
    assert counts(new, 5, 7) == (224 + 8, 5 * 7 * 8 * 27, 5 * 7 * 8 * 27, 280, 1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(self.conv(image), self.conv.weight)


def test_a_convolution_behind_the_hooks_is_refused_unless_declared() -> None:
    network = Functional()
    with pytest.raises(InputError, match="conv2d is called as a function"):
        complexity(network)
    network.flops_counted = False  # type: ignore[assignment]
    assert complexity(network).convolutions == 1


@pytest.mark.parametrize(
    "module",
    [
        nn.InstanceNorm2d(3, affine=True),
        nn.LSTM(4, 4),
        nn.Conv1d(3, 3, 1),
        nn.GroupNorm(1, 3),
        nn.MultiheadAttention(4, 1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_weights_without_a_rule_are_refused_by_name(module: nn.Module) -> None:
    with pytest.raises(InputError, match=rf"no counting rule for \w*{type(module).__name__}\w* \(module '1[.\w]*'\)"):
        complexity(nn.Sequential(nn.Conv2d(3, 3, 1), module))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.scale


def test_a_learnt_scalar_must_be_declared_and_then_counts_as_parameter_only() -> None:
    network = Scale()
    with pytest.raises(InputError, match="no counting rule for Scale"):
        complexity(network)
    network.flops_counted = False  # type: ignore[assignment]
    assert counts(network, 5, 7) == (1, 0, 0, 0, 0)


def test_the_network_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def refuse(self: torch.Tensor, memo: object) -> torch.Tensor:
        raise AssertionError("a tensor was copied")

    monkeypatch.setattr(torch.Tensor, "__deepcopy__", refuse)
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", refuse)
    complexity(network)
    assert [module.training for module in network] == [True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_half_precision_networks_count_the_same() -> None:
    assert counts(nn.Conv2d(3, 8, 3).half(), 5, 7) == counts(nn.Conv2d(3, 8, 3), 5, 7)


def test_numbers_carry_their_units() -> None:
    assert Complexity(1_517_571, 1.0, 2.0, 3.0, 4).numbers() == {
        "parameters_m": 1.517571,
        "macs_g": 1.0,
        "flops_g": 2.0,
        "activations_m": 3.0,
        "convolutions": 4,
    }
