"""The network around the blocks: fusions, upsamplers, image skips, frames, and how `build` draws its weights."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paretosr.spaces import BLOCKS, Architecture, Block, Design, Frame, InputError, Network, build
from paretosr.spaces.architecture import BODY_CONVS, IMAGE_SKIPS
from paretosr.spaces.fusion import FUSIONS
from paretosr.spaces.network import DIV2K_MEAN, enlarge
from paretosr.spaces.upsampler import UPSAMPLERS

RESIDUAL = Block.of("residual")
FRAMES = {
    "plain": Frame(),
    "deep head": Frame(head_depth=3, head_activation=True),
    "no body convolution": Frame(body_conv="none"),
    "body convolution after the skip": Frame(body_conv="after_skip"),
    "no skip": Frame(feature_skip=False),
    "bare": Frame(body_conv="none", feature_skip=False, slope=0),
    "shifted, 0 to 255": Frame(mean_shift=True, value_range=255),
}


def architecture(depth: int = 2, **parts: Any) -> Architecture:
    return Architecture(**{"width": 6, "blocks": (RESIDUAL,) * depth, **parts})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def silenced(network: Network) -> Network:
    """The same network with weights and biases of 0, but for the frozen ones of the mean shift."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.zeros_(parameter)
    return network


# Shapes


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("image_skip", IMAGE_SKIPS)
def test_every_body_takes_any_size(fusion: str, upsampler: str, image_skip: str) -> None:
    network = build(architecture(3, fusion=fusion, upsampler=upsampler, upsampler_width=4, image_skip=image_skip))
    assert network.minimum_size == 1
    for height, width in ((16, 17), (1, 1), (5, 2)):
        y = network(noise(2, 3, height, width))
        assert y.shape == (2, 3, 4 * height, 4 * width)
        assert y.isfinite().all()


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_every_frame_takes_any_size(frame: Frame) -> None:
    network = build(architecture(frame=frame, image_skip="bilinear"))
    for height, width in ((16, 17), (1, 1)):
        assert network(noise(2, 3, height, width)).shape == (2, 3, 4 * height, 4 * width)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_gradients_reach_all_that_is_not_frozen(frame: Frame) -> None:
    network = build(architecture(frame=frame, fusion="concat", image_skip="nearest"), seed=1)
    network(noise(2, 3, 16, 17)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == ("mean" not in name)
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


@pytest.mark.parametrize("shape", [(3, 16, 17), (1, 1, 16, 17), (1, 4, 16, 17), (16, 17)])
def test_what_is_no_batch_of_rgb_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes \[N, 3, h, w\]"):
        build(architecture())(noise(*shape))


def test_the_neediest_block_decides_the_minimum_size() -> None:
    network = build(architecture(blocks=(RESIDUAL, Block.of("lattice"), Block.of("rfdb"))))
    assert network.minimum_size == 15
    with pytest.raises(InputError, match="at least 15x15 pixels, not 40x14"):
        network(noise(1, 3, 14, 40))


# Fusions


def test_no_fusion_is_the_last_output() -> None:
    outputs = [noise(1, 4, 3, 3, seed=seed) for seed in range(3)]
    assert FUSIONS["none"](4, 3, 0.1)(outputs) is outputs[-1]


def test_concat_is_a_weighted_sum_of_all_outputs() -> None:
    outputs = [noise(1, 4, 3, 3, seed=seed) - 0.5 for seed in range(3)]
    fusion = FUSIONS["concat"](4, 3, 0.1)
    weights = torch.cat([factor * torch.eye(4) for factor in (1.0, 2.0, -3.0)], dim=1)
    fusion.load_state_dict({"fuse.weight": weights[:, :, None, None], "fuse.bias": torch.zeros(4)})
    total = outputs[0] + 2 * outputs[1] - 3 * outputs[2]
    torch.testing.assert_close(fusion(outputs), torch.where(total > 0, total, 0.1 * total))


def test_backward_fusion_goes_from_the_last_output_to_the_first() -> None:
    outputs = [torch.full((1, 4, 2, 2), value) for value in (1.0, 10.0, 100.0)]
    fusion = FUSIONS["backward"](4, 3, 0.1)
    for parameter in fusion.parameters():  # each half is the mean of its input's four channels
        nn.init.constant_(parameter, 0.25 if parameter.dim() == 4 else 0)
    # First step: halves 100 and 10, whose mean is 55; second step: 55 and the first output.
    assert fusion(outputs)[0, :, 0, 0].tolist() == [55, 55, 1, 1]


def test_backward_fusion_cuts_negative_halves() -> None:
    fusion = FUSIONS["backward"](5, 2, 0.1)
    assert (fusion([noise(1, 5, 3, 3) - 0.5, noise(1, 5, 3, 3) - 0.5]) >= 0).all()


# Upsamplers and image skips


def test_direct_upsampling_lays_out_48_channels() -> None:
    network = silenced(build(architecture()))
    network.load_state_dict({**network.state_dict(), "upsampler.conv.bias": torch.arange(48.0)})
    y = network(noise(1, 3, 5, 4))
    tile = torch.arange(48.0).reshape(1, 3, 4, 4)
    assert torch.equal(y, tile.repeat(1, 1, 5, 4))


@pytest.mark.parametrize(
    ("upsampler", "width", "wanted"),
    [
        ("direct", 0, 48 * 9 * 6 + 48),
        ("two_step", 4, (16 * 9 * 6 + 16) + (16 * 9 * 4 + 16) + (4 * 9 * 4 + 4) + (3 * 9 * 4 + 3)),
        ("light_two_step", 4, (16 * 9 * 6 + 16) + (8 * 9 * 4 + 8) + (2 * 9 * 2 + 2) + (3 * 9 * 2 + 3)),
        ("nearest_pa", 4, (4 * 9 * 6 + 4) + 3 * (4 * 9 * 4 + 4) + 2 * (4 * 4 + 4) + (3 * 9 * 4 + 3)),
    ],
)
def test_upsamplers_have_the_parameters_counted_by_hand(upsampler: str, width: int, wanted: int) -> None:
    assert sum(p.numel() for p in UPSAMPLERS[upsampler](6, width, 0.1).parameters()) == wanted


@pytest.mark.parametrize("image_skip", [skip for skip in IMAGE_SKIPS if skip != "none"])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_silent_network_with_an_image_skip_only_enlarges(image_skip: str, frame: Frame) -> None:
    network, x = silenced(build(architecture(image_skip=image_skip, frame=frame))), noise(2, 3, 16, 17)
    torch.testing.assert_close(network(x), enlarge(x, image_skip), atol=1e-5, rtol=0)


def test_nearest_repeats_pixels() -> None:
    x = noise(1, 3, 3, 5)
    assert torch.equal(enlarge(x, "nearest"), x.repeat_interleave(4, 2).repeat_interleave(4, 3))


def triangle(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def cubic(distance: float) -> float:
    """Keys' kernel with torch's a = -0.75."""
    a, d = -0.75, abs(distance)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


@pytest.mark.parametrize(("mode", "kernel"), [("bilinear", triangle), ("bicubic", cubic)])
def test_smooth_enlargements_spread_a_pixel_by_their_kernel(mode: str, kernel: Callable[[float], float]) -> None:
    image = torch.zeros(1, 3, 9, 9)
    image[..., 4, 4] = 1
    line = torch.tensor([kernel((column + 0.5) / 4 - 0.5 - 4) for column in range(36)])
    torch.testing.assert_close(enlarge(image, mode)[0, 0], torch.outer(line, line))


@pytest.mark.parametrize("value_range", [1, 255])
def test_a_silent_network_with_a_mean_shift_gives_the_mean_colour(value_range: int) -> None:
    frame = Frame(mean_shift=True, value_range=value_range)
    y = silenced(build(architecture(frame=frame)))(noise(1, 3, 4, 5))
    torch.testing.assert_close(y, torch.tensor(DIV2K_MEAN)[:, None, None].expand(1, 3, 16, 20))


# Frames


def test_range_255_scales_what_the_biases_are_measured_in() -> None:
    """A leaky ReLU network is homogeneous: 255 times the image and the biases is 255 times the result."""
    parts: dict[str, Any] = {"fusion": "concat", "upsampler": "two_step", "upsampler_width": 4, "image_skip": "bicubic"}
    small = build(architecture(**parts), seed=1)
    large = build(architecture(**parts, frame=Frame(value_range=255)))
    biased = {
        key: noise(*value.shape, seed=2) if key.endswith("bias") else value for key, value in small.state_dict().items()
    }
    small.load_state_dict(biased)
    large.load_state_dict({key: value * 255 if key.endswith("bias") else value for key, value in biased.items()})
    x = noise(2, 3, 16, 17)
    torch.testing.assert_close(large(x), small(x), rtol=1e-4, atol=1e-4)


def test_the_mean_shift_centres_the_image() -> None:
    """A flat image of the mean colour looks black inside, so that biases of 0 leave nothing but the mean."""
    network = build(architecture(frame=Frame(mean_shift=True, value_range=255)), seed=3)
    mean = torch.tensor(DIV2K_MEAN)[:, None, None]
    torch.testing.assert_close(network(mean.expand(1, 3, 5, 6)), mean.expand(1, 3, 20, 24), atol=1e-5, rtol=0)


@pytest.mark.parametrize("feature_skip", [True, False])
@pytest.mark.parametrize("body_conv", BODY_CONVS)
def test_the_body_convolution_stands_where_the_frame_says(body_conv: str, feature_skip: bool) -> None:
    network = build(architecture(frame=Frame(body_conv=body_conv, feature_skip=feature_skip)))
    if network.body_conv is not None:  # doubles what it gets
        network.body_conv.load_state_dict({"weight": 2 * centre(6), "bias": torch.zeros(6)})
    seen: list[Tensor] = []
    network.upsampler.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = noise(1, 3, 7, 6)
    network(x)
    shallow = network.head(x)
    body, skip = network.body(shallow), shallow * feature_skip
    wanted = {"none": body + skip, "before_skip": 2 * body + skip, "after_skip": 2 * (body + skip)}
    torch.testing.assert_close(seen[0], wanted[body_conv])


def centre(width: int) -> Tensor:
    """The 3x3 kernels that pass each channel on."""
    kernel = torch.zeros(width, width, 3, 3)
    kernel[range(width), range(width), 1, 1] = 1
    return kernel


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_head_has_its_depth_and_activation(depth: int) -> None:
    network = build(architecture(frame=Frame(head_depth=depth, head_activation=True, slope=0.25)))
    *convolutions, activation = network.head
    assert [m.in_channels for m in convolutions if isinstance(m, nn.Conv2d)] == [3] + [6] * (depth - 1)
    assert isinstance(activation, nn.LeakyReLU)
    assert activation.negative_slope == 0.25


def test_the_slope_reaches_every_leaky_relu() -> None:
    blocks = tuple(Block(type_) for type_ in BLOCKS)
    network = build(
        architecture(
            blocks=blocks,
            fusion="concat",
            upsampler="two_step",
            upsampler_width=4,
            frame=Frame(slope=0.125, head_activation=True),
        )
    )
    slopes = [module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert len(slopes) > 5
    assert set(slopes) == {0.125}


# How `build` draws


FULL = architecture(
    blocks=tuple(
        Block.of(type_, **({"norm": "batch"} if "batch" in BLOCKS[type_].CHOICES.get("norm", ()) else {}))
        for type_ in BLOCKS
    ),
    fusion="backward",
    upsampler="nearest_pa",
    upsampler_width=4,
    frame=Frame(mean_shift=True),
)


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_seed_alone_decides_the_weights() -> None:
    torch.rand(3)
    first = build(FULL, seed=5)
    torch.rand(5)
    assert equal(first, build(FULL, seed=5))
    assert equal(first, build(Design(FULL), seed=5))
    other = build(FULL, seed=6)
    assert not equal(first, other)
    drawn = [k for k, v in first.state_dict().items() if k.endswith("weight") and v.dim() == 4 and "mean" not in k]
    assert not [key for key in drawn if torch.equal(first.state_dict()[key], other.state_dict()[key])]


def test_the_global_generator_is_neither_moved_nor_read() -> None:
    before = torch.get_rng_state()
    build(FULL, seed=1)
    build(FULL, seed=1, device="meta")
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_that_draw_for_themselves_follow_the_seed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mixing(nn.Module):
        CHOICES: dict[str, tuple[str, ...]] = {}

        def __init__(self, width: int, slope: float) -> None:
            super().__init__()
            self.mix = nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x.movedim(1, -1)).movedim(-1, 1)

    monkeypatch.setitem(BLOCKS, "mixing", Mixing)
    mixing = architecture(blocks=(Block("mixing"),))
    first = build(mixing, seed=1)
    torch.rand(7)
    assert equal(first, build(mixing, seed=1))
    assert not equal(first, build(mixing, seed=2))


def test_weights_lie_within_the_stated_bounds() -> None:
    network = build(architecture(width=32), seed=4)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            bound = (0.3 if name == "upsampler.conv" else 1) / math.sqrt(9 * module.in_channels)
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert module.bias is not None
            assert not module.bias.any()


def test_meta_builds_without_weights() -> None:
    network = build(FULL, device="meta")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    wanted = {key: value.shape for key, value in build(FULL).state_dict().items()}
    assert {key: value.shape for key, value in network.state_dict().items()} == wanted
    side = network.minimum_size
    assert network(torch.empty(1, 3, side, side + 1, device="meta")).shape == (1, 3, 4 * side, 4 * side + 4)


def test_what_the_form_leaves_out_is_not_built() -> None:
    one = architecture(1, fusion="backward", upsampler_width=8)
    assert equal(build(one), build(one.canonical()))
    assert not list(build(one).fusion.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])  # noqa: S301
def test_a_network_can_be_copied_and_sent_to_another_process(copied: Any) -> None:
    network = build(FULL).eval()
    side = network.minimum_size
    twin, x = copied(network), noise(1, 3, side, side + 1)
    assert torch.equal(twin(x), network(x))
    with pytest.raises(InputError):
        twin(noise(1, 3, side - 1, side))
