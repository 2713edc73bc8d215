"""The work of a forward: launches by hand, multiply-adds as the counter of complexity has them, forms and cuts."""

import pytest
import torch
import torch.nn.functional as F
from plans import half
from torch import Tensor, nn

from paretosr.proxies.complexity import complexity
from paretosr.proxies.launches import work
from paretosr.spaces import (
    BLOCKS,
    BUILDABLE,
    Architecture,
    Block,
    Design,
    Frame,
    build,
    deployed,
    inference_form,
    published,
)

SIZE = (24, 20)


def macs_g(network: nn.Module | Design | Architecture, size: tuple[int, int] = SIZE) -> float:
    found = work(network, size)
    return found.dense_macs_g + found.pointwise_macs_g + found.grouped_macs_g


def test_msrresnet_by_hand() -> None:
    found = work(published("msrresnet"), (8, 10))
    # 37 convolutions, 16 ReLU and 4 leaky ones, 16 sums and the image's, 2 shuffles, 1 enlargement.
    assert found.launches == 37 + 20 + 17 + 2 + 1
    assert found.pointwise_macs_g == found.grouped_macs_g == 0
    pixels = 80
    inside = pixels * 64 * (33 + 32)  # what the 33 convolutions before the upsampler write, 32 of them read
    upsampler = pixels * (64 + 256 + 4 * (64 + 256) + 16 * (64 + 64) + 16 * (64 + 3))
    assert found.convolutions_moved_m == pytest.approx((inside + 3 * pixels + upsampler) / 1e6)
    residual = pixels * 64 * 16 * (2 + 3)  # a ReLU reads and writes, a sum reads two and writes
    leaky = pixels * 64 * (1 + 4 + 16 + 16) * 2
    shuffles = pixels * 256 * (1 + 4) * 2
    image = pixels * (3 + 48 + 3 * 48)
    assert found.rest_moved_m == pytest.approx((residual + leaky + shuffles + image) / 1e6)
    assert found.channels == (64 * 34 + 2 * 256 + 3) / 37


@pytest.mark.parametrize("name", BUILDABLE)
def test_the_multiply_adds_of_published_networks_are_those_of_the_counter(name: str) -> None:
    known = complexity(published(name), SIZE)
    # ISRResDNet estimates noise with fixed filters, which the challenge's counter does not count.
    assert macs_g(published(name)) == pytest.approx(known.macs_g, rel=1e-3 if name == "isrresdnet" else 1e-9)
    assert work(published(name), SIZE).launches >= known.convolutions


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_costs_what_one_more_of_it_adds(block: str) -> None:
    counts = [work(Architecture(8, (Block.of(block),) * depth), SIZE) for depth in (1, 2, 3)]
    for name in ("launches", "dense_macs_g", "pointwise_macs_g", "grouped_macs_g", "rest_moved_m"):
        first, second, third = (getattr(found, name) for found in counts)
        assert third - second == pytest.approx(second - first), name
    assert counts[1].launches > counts[0].launches


def test_convolutions_are_told_apart() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 6, 3, padding=1, stride=2, output_padding=1, groups=2),
        nn.ConvTranspose2d(6, 5, 1),
        nn.Conv2d(5, 4, 3, stride=2, padding=1),
    )
    found = work(network, (6, 10))
    assert found.launches == 5
    assert found.pointwise_macs_g == pytest.approx((60 * 3 * 8 + 240 * 6 * 5) / 1e9)
    assert found.grouped_macs_g == pytest.approx((60 * 8 * 9 + 60 * 8 * 3 * 9) / 1e9)
    assert found.dense_macs_g == pytest.approx(60 * 5 * 4 * 9 / 1e9)
    assert found.channels == (8 + 8 + 6 + 5 + 4) / 5


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.permute(0, 2, 3, 1)[..., 1:].transpose(1, 2), x.view(1, 3, -1), x.detach().expand(2, -1, -1, -1)
        x = torch.empty_like(x) if len(b) > 1 else x
        left, right, rest = torch.split(x, 1, dim=1)
        del a, c, rest
        return F.relu_(left + right)


def test_views_are_free_and_in_place_work_is_not() -> None:
    found = work(Views(), (4, 5))
    assert found.launches == 2
    assert found.rest_moved_m == pytest.approx(20 * (3 + 2) / 1e6)


def test_the_inference_form_is_counted() -> None:
    plain = Architecture(8, (Block.of("residual", norm="none"),) * 2)
    branched = Architecture(8, plain.blocks, frame=Frame(branches="asymmetric"))
    assert work(branched, SIZE) == work(plain, SIZE)
    network = build(branched)
    assert work(network, SIZE) == work(plain, SIZE)
    assert network.training


def test_a_cut_network_is_counted_as_it_is_run() -> None:
    architecture = Architecture(16, (Block.of("residual"), Block.of("imdb")))
    design = Design(architecture, half(inference_form(build(architecture)), architecture.hash))
    cut = work(design, SIZE)
    assert cut == work(deployed(design, build(design)), SIZE)
    assert macs_g(design) < macs_g(architecture)
    assert cut.rest_moved_m < work(architecture, SIZE).rest_moved_m


def test_the_numbers_carry_their_names() -> None:
    found = work(Architecture(8, (Block.of("scpa"),)), SIZE)
    assert found.numbers()["launches"] == found.launches
    assert set(found.numbers()) == set(found.__dataclass_fields__)
