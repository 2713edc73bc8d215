"""Scores of untrained networks: closed forms, nothing left behind, every activation seen, every network scored."""

import math

import pytest
import torch
from plans import half
from torch import Tensor, nn

from paretosr.proxies.complexity import complexity
from paretosr.proxies.images import in_memory
from paretosr.proxies.patches import Patches
from paretosr.proxies.scores import SCORES, ScoreFailed, score, score_batches, score_table, weights_of
from paretosr.spaces import (
    BLOCKS,
    BUILDABLE,
    Architecture,
    Block,
    Design,
    Frame,
    InputError,
    build,
    inference_form,
    published,
)

every_score = pytest.mark.parametrize("name", SCORES)
CONTROLS = [name for name, found in SCORES.items() if found.control]
SIDE = 16


def pairs(batches: int = 2, batch: int = 3, side: int = SIDE, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Noise: LR and HR of `batches` batches."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((batch, 3, side, side), (batch, 3, 4 * side, 4 * side))
    return [tuple(torch.rand(shape, generator=random) for shape in shapes) for _ in range(batches)]  # type: ignore[misc]


def one_block(block: str, **choices: str | float) -> Architecture:
    return Architecture(width=8, blocks=(Block.of(block, **choices),), image_skip="bilinear")


NORMED = one_block("inverted_residual", norm="batch")
BRANCHED = Architecture(8, (Block.of("rfdb"),), frame=Frame(branches="asymmetric_bn", mean_shift=True))
LEFT_AS_FOUND = {"batch norm": NORMED, "branches": BRANCHED, "weight norm": published("amaf_net")}


# Exactly as it was


def state_of(network: nn.Module) -> dict[str, object]:
    """All that a score might change, the numbers as copies."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {
        "numbers": {name: value.detach().clone() for name, value in named.items()},
        "identities": {name: id(value) for name, value in named.items()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()},
        "trains": {name: p.requires_grad for name, p in network.named_parameters()},
        "kinds": {name: (value.dtype, value.device) for name, value in named.items()},
        "modes": {name: module.training for name, module in network.named_modules()},
        "modules": {name: (id(module), type(module)) for name, module in network.named_modules()},
        "hooks": {
            name: [len(h) for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)]
            for name, m in network.named_modules()
        },
        "random": torch.get_rng_state(),
    }


def same(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict):
        assert isinstance(found, dict)
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and torch.equal(found, wanted)
    return found == wanted


@every_score
@pytest.mark.parametrize("kind", LEFT_AS_FOUND)
def test_a_score_leaves_the_network_exactly_as_it_was(name: str, kind: str) -> None:
    network = build(LEFT_AS_FOUND[kind])
    batches = pairs()
    with torch.enable_grad():
        network(batches[0][0]).square().mean().backward()  # gradients and statistics that must survive
    modules = list(network.modules())
    for module in modules[:: max(2, len(modules) // 3)]:
        module.training = False
    next(p for p in network.parameters() if p.requires_grad).requires_grad_(False)
    torch.manual_seed(5)
    before, images = state_of(network), [tuple(x.clone() for x in pair) for pair in batches]
    score(name, network, batches)
    after = state_of(network)
    for what, value in before.items():
        assert same(after[what], value), what
    assert all(
        torch.equal(x, y) for pair, kept in zip(batches, images, strict=True) for x, y in zip(pair, kept, strict=True)
    )


@every_score
def test_a_score_is_a_function_of_its_arguments(name: str) -> None:
    network, batches = build(NORMED), pairs(batch=10)
    first = score(name, network, batches)
    torch.manual_seed(7)
    network.eval()  # in whatever mode it is found
    assert score(name, network.double(), batches) == first
    assert torch.initial_seed() == 7
    other = score(name, build(NORMED, seed=1), pairs(batch=10, seed=1))
    assert (other == first) == (name in CONTROLS)


@every_score
def test_only_what_needs_images_looks_at_them(name: str) -> None:
    network = build(NORMED)
    looks = score(name, network, pairs(batch=10, seed=1)) != score(name, network, pairs(batch=10, seed=2))
    assert looks == (SCORES[name].needs == "images")


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_the_counts(name: str) -> None:
    found = complexity(NORMED)
    counted = {"parameters": found.parameters / 1e6, "flops": found.flops_g, "activations": found.activations_m}
    assert score(name, build(NORMED), []) == pytest.approx(counted.get(name, found.convolutions), abs=0)


# Closed forms. One 1x1 convolution to 48 channels, of images far above the originals: the gradient of the L1 loss by
# each of its 144 weights is the sum of an input channel over the number of outputs.


def one_convolution() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 48, 1), nn.PixelShuffle(4))
    generator = torch.Generator().manual_seed(1)
    network.get_parameter("0.weight").data.normal_(generator=generator)
    return network


def below(lr: Tensor) -> Tensor:
    """Originals that lie below anything the network gives."""
    return torch.full((len(lr), 3, 4 * lr.shape[2], 4 * lr.shape[3]), -1e4)


def slopes(lr: Tensor) -> Tensor:
    """The gradient by the weights of each of the three input channels, in float64."""
    return lr.double().sum((0, 2, 3)) / (lr.numel() * 16)


def test_gradient_norm_and_snip_of_one_convolution() -> None:
    network, batches = one_convolution(), [(lr, below(lr)) for lr, _ in pairs()]
    weight = network.get_parameter("0.weight").detach().double()
    mean = torch.stack([slopes(lr) for lr, _ in batches]).mean(0)
    assert score("gradient_norm", network, batches) == pytest.approx(float((48 * mean.square().sum()).sqrt()), rel=1e-5)
    by_hand = float((weight.abs() * mean[None, :, None, None]).sum())
    assert score("snip", network, batches) == pytest.approx(by_hand, rel=1e-5)


def test_gradient_norm_sums_over_kernels() -> None:
    first = nn.Conv2d(3, 3, 1, bias=False)
    first.weight.data.copy_(2 * torch.eye(3)[:, :, None, None])
    last = one_convolution()
    (lr, _), *_ = pairs(1)
    of_both = score("gradient_norm", nn.Sequential(first, *last), [(lr, below(lr))])
    of_last = score("gradient_norm", last, [(2 * lr, below(lr))])
    frozen = nn.Sequential(first.requires_grad_(False), *last)
    assert score("gradient_norm", frozen, [(lr, below(lr))]) == pytest.approx(of_last, rel=1e-6)
    assert of_both > of_last


def test_zico_of_one_convolution() -> None:
    network, batches = one_convolution(), [(lr, below(lr)) for lr, _ in pairs(3)]
    gradients = torch.stack([slopes(lr) for lr, _ in batches])
    ratio = gradients.mean(0) / (gradients - gradients.mean(0)).square().mean(0).sqrt()
    assert score("zico", network, batches) == pytest.approx(math.log(48 * float(ratio.sum())), rel=1e-3)


@pytest.mark.parametrize("name", ["gradient_norm", "nwot", "swap"])
def test_batch_norm_uses_the_batch(name: str) -> None:
    convolution, norm, last = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 48, 1)
    network = nn.Sequential(convolution, norm, nn.ReLU(), last, nn.PixelShuffle(4))
    convolution.requires_grad_(False)
    first = score(name, network, pairs())
    # What the batch's own statistics take away, and statistics of before would not.
    convolution.bias.data.add_(20)  # type: ignore[union-attr]
    norm.get_buffer("running_mean").fill_(-7)
    assert score(name, network, pairs()) == pytest.approx(first, rel=1e-3)


def test_zico_takes_sizes_and_skips_what_does_not_move() -> None:
    # Batches above and below the original: gradients of opposite signs and one size do not deviate in size.
    network, (lr, _) = one_convolution(), pairs(1)[0]
    with pytest.raises(ScoreFailed, match="no gradient changes"):
        score("zico", network, [(lr, below(lr)), (lr, -below(lr))])


def test_synflow_is_the_product_of_absolute_weights() -> None:
    first, norm, last = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 48, 1)
    norm.get_buffer("running_var").fill_(9)
    first.weight.data.mul_(100)  # far above the ceiling of ReLU6
    network = nn.Sequential(first, norm, nn.ReLU6(), last, nn.PixelShuffle(4), nn.PReLU())
    # Biases and norm are gone, and each of the two layers carries the whole flow.
    paths = last.weight.detach()[:, :, 0, 0].double().abs() @ first.weight.detach()[:, :, 0, 0].double().abs()
    flow = float(paths.sum()) * SIDE * SIDE
    assert score("synflow", network, pairs()) == pytest.approx(math.log(2 * flow), rel=1e-9)


def test_synflow_goes_where_float32_ends() -> None:
    convolutions = [nn.Conv2d(3, 3, 1, bias=False) for _ in range(60)]
    for convolution in convolutions:
        convolution.weight.data.fill_(-1e4 / 3)
    last = one_convolution()
    last.get_parameter("0.weight").data.fill_(1)
    log_flow = 60 * math.log(1e4) + math.log(48 * 3 * SIDE * SIDE)
    assert score("synflow", nn.Sequential(*convolutions, *last), pairs()) == pytest.approx(log_flow + math.log(61))
    with pytest.raises(ScoreFailed, match=r"synflow.*(inf|nan)"):
        score("synflow", nn.Sequential(*convolutions, *convolutions, *last), pairs())


def coded(codes: list[list[int]], activation: nn.Module) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A network of up to three units, and images of one pixel with these codes, in two batches."""
    pixels = torch.tensor(codes).float()[:, :, None, None] - 0.5
    spread = nn.Conv2d(pixels.shape[1], pixels.shape[1], 1, bias=False)
    spread.weight.data.copy_(torch.eye(pixels.shape[1])[:, :, None, None])
    return nn.Sequential(spread, activation), [(pixels[:1], pixels[:1]), (pixels[1:], pixels[1:])]


BENT = [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(), nn.SiLU(), nn.Sigmoid(), nn.Hardswish(), nn.ReLU6()]


@pytest.mark.parametrize("activation", BENT, ids=lambda module: type(module).__name__)
def test_nwot_and_swap_of_a_known_code(activation: nn.Module) -> None:
    network, batches = coded([[1, 1, 0], [1, 0, 0], [0, 0, 0]], activation)
    # The kernel is [[3, 2, 1], [2, 3, 2], [1, 2, 3]], whose determinant is 8; the three units say 110, 100 and 000.
    assert score("nwot", network, batches) == pytest.approx(math.log(8))
    assert score("swap", network, batches) == 3
    network, batches = coded([[1, 1, 0], [1, 1, 0], [0, 0, 0]], activation)
    assert score("swap", network, batches) == 2
    with pytest.raises(ScoreFailed, match=r"nwot.*same code"):
        score("nwot", network, batches)


def test_swap_counts_patterns_over_more_images_than_a_word_has_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(2, (150, 40), generator=generator)
    codes[:, 20:] = codes[:, :20]
    codes[130, 20:30] = 1 - codes[130, 20:30]  # a difference in the last word alone
    network, batches = coded(codes.tolist(), nn.ReLU())
    assert score("swap", network, batches) == 30


# Every network has every score


@every_score
@pytest.mark.parametrize("block", BLOCKS)
def test_networks_of_every_block_have_it(name: str, block: str) -> None:
    assert math.isfinite(score(name, build(one_block(block)), pairs()))


@pytest.mark.slow
@pytest.mark.parametrize("network", BUILDABLE)
def test_every_published_network_has_all(network: str) -> None:
    table = score_table([published(network)], pairs())
    assert table.failures == ()
    assert all(math.isfinite(value) for column in table.columns.values() for value in column)


@every_score
def test_a_cut_network_has_it(name: str) -> None:
    design = Design(Architecture(width=8, blocks=(Block.of("residual"),)))
    whole = build(design)
    cut = build(Design(design.architecture, half(inference_form(whole), design.hash)))
    assert math.isfinite(score(name, cut, pairs()))
    assert score("parameters", cut, pairs()) < score("parameters", whole, pairs())


def test_the_weights_are_the_kernels_that_train() -> None:
    found = weights_of(build(BRANCHED))
    assert all(weight.requires_grad and weight.ndim == 4 for weight in found)
    assert len(found) == sum(isinstance(m, nn.Conv2d) and m.weight.requires_grad for m in build(BRANCHED).modules())
    assert len(weights_of(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm2d(3), nn.PReLU(3)))) == 1


# Mistakes, and many networks


def test_mistakes_are_one_line() -> None:
    network = build(NORMED)
    with pytest.raises(InputError, match=r"no score 'synflo'.*synflow"):
        score("synflo", network, pairs())
    with pytest.raises(InputError, match="score 'zico': it needs at least two batches, not 1"):
        score("zico", network, pairs(1))
    with pytest.raises(ScoreFailed, match="score 'swap': the network has no activation"):
        score("swap", one_convolution(), pairs())
    with pytest.raises(ScoreFailed, match="score 'snip': the network has no weights that train"):
        score("snip", network.requires_grad_(False), pairs())


@pytest.mark.parametrize("name", [name for name, found in SCORES.items() if not found.control])
def test_a_score_without_images_says_so(name: str) -> None:
    with pytest.raises(InputError, match=f"score '{name}': it needs batches of images"):
        score(name, build(NORMED), [])


def test_the_table_has_a_column_for_each_score_and_a_line_for_each_failure() -> None:
    designs = [Design(NORMED), Design(one_block("residual"))]
    (lr, hr), _ = pairs()
    alike = [(lr[:1].expand_as(lr), hr), (lr[:1].expand_as(lr), hr + 1)]
    table = score_table(designs, alike, ["snip", "nwot"], seed=3)
    assert table.columns["snip"] == [score("snip", build(design, seed=3), alike) for design in designs]
    assert all(math.isnan(value) for value in table.columns["nwot"])
    assert [line.partition(": score")[0] for line in table.failures] == [design.summary() for design in designs]
    assert table.seconds.keys() == {"snip", "nwot"}


def test_batches_are_patches_of_the_images() -> None:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 64, 80), dtype=torch.uint8, generator=random)
    images = in_memory("noise", {"0": pixels})
    found = score_batches(images, patch=8, batch=5, count=3, seed=4)
    patches = Patches(images, 8, 5, 4)
    assert len(found) == 3
    for step, (lr, hr) in enumerate(found):
        assert torch.equal(lr, patches.batch(step)[0])
        assert torch.equal(hr, patches.batch(step)[1])
