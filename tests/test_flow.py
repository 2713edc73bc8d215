"""Cut networks give what masked ones give: every block, attention, fusion, upsampler and published network.

The reference are hooks on the network's own modules (`pruning.masks`), which share no code with what is tested.
"""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from plans import ANY, LIMITS, assert_exact, difference, formed, lived_in, noise, random_plan
from torch import Tensor, nn

from paretosr.pruning.verify import masked
from paretosr.spaces import BLOCKS, Architecture, Block, Frame, published
from paretosr.spaces.flow import (
    FORMS,
    barriers,
    compact,
    live,
    settled,
    trace,
)
from paretosr.spaces.fusion import FUSIONS
from paretosr.spaces.layers import ATTENTIONS
from paretosr.spaces.plan import Plan
from paretosr.spaces.systems import NETWORKS
from paretosr.spaces.upsampler import UPSAMPLERS

FAST = ("msrresnet", "rfdn", "imdn", "hcsrn", "neptuneai", "lmsr", "spsr", "isrresdnet")  # the others are slow tests
PUBLISHED = [name for name, system in NETWORKS.items() if system.network is not None]


def architectures(*, whole: bool) -> Iterator[Architecture]:
    """Every block with each of its choices; with `whole`, each attention with each fusion and upsampler too."""
    skips = ("none", "nearest", "bilinear", "bicubic")
    pairs = list(product(FUSIONS, UPSAMPLERS))
    for number, (kind, block) in enumerate(BLOCKS.items()):
        choices = block.CHOICES
        for turn in range(max(map(len, choices.values()))):
            blocks = [
                Block.of(kind, **{name: values[(turn * step) % len(values)] for name, values in choices.items()})
                for step in (1, 2)
            ]
            some = pairs if whole else [pairs[(number * 3 + turn * 5) % len(pairs)]]
            for fusion, upsampler in some:
                frame = Frame(
                    head_depth=1 + turn % 2, body_conv=("after_skip", "none")[turn % 2], mean_shift=turn % 2 == 0
                )
                yield Architecture(
                    12, (*blocks, blocks[0]), fusion, upsampler, 8, skips[(number + turn) % len(skips)], frame
                )


def name_of(architecture: Architecture) -> str:
    choices = "-".join(str(value) for _, value in architecture.blocks[1].choices)
    return f"{architecture.blocks[0].type}-{choices}-{architecture.fusion}-{architecture.upsampler}"


# Exactness


@pytest.mark.parametrize("architecture", list(architectures(whole=False)), ids=name_of)
def test_every_block_is_cut_exactly(architecture: Architecture) -> None:
    network = formed(architecture)
    flow = trace(network)
    assert_exact(network, [random_plan(network, seed) for seed in (0, 3)], flow=flow)
    assert barriers(flow) == []


def test_the_architectures_hold_every_part() -> None:
    seen = list(architectures(whole=False))
    assert {a.fusion for a in seen} == set(FUSIONS)
    assert {a.upsampler for a in seen} == set(UPSAMPLERS)
    assert {dict(b.choices).get("attention", "none") for a in seen for b in a.blocks} == set(ATTENTIONS)
    for kind, block in BLOCKS.items():
        for choice, values in block.CHOICES.items():
            assert {dict(b.choices)[choice] for a in seen for b in a.blocks if b.type == kind} == set(values)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_every_published_network_is_cut_exactly(name: str) -> None:
    network = formed(published(name))
    flow = trace(network)
    found = barriers(flow)
    # The noise estimate of one network works on the three colours alone; nothing else is left out.
    assert len(found) == (1 if name == "isrresdnet" else 0), found
    assert_exact(network, [random_plan(network, 3)], flow=flow)
    assert_exact(network, [random_plan(network, 0)], forms=["run"], flow=flow)
    if any(hasattr(module, "jumps") for module in network.modules()):
        network, flow = formed(published(name), jumps=False), None
    assert_exact(network, [random_plan(network, 4)], torch.float32, forms=["train"], flow=flow)


@pytest.mark.stress
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_many_plans_of_published_networks(name: str, dtype: torch.dtype) -> None:
    network = formed(published(name), jumps=dtype == torch.float64)
    assert_exact(network, [random_plan(network, seed) for seed in range(200)], dtype, in_turn=True)


@pytest.mark.stress
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("kind", BLOCKS)
def test_many_plans_of_all_combinations(kind: str, dtype: torch.dtype) -> None:
    for number, architecture in enumerate(a for a in architectures(whole=True) if a.blocks[0].type == kind):
        network = formed(architecture)
        assert_exact(network, [random_plan(network, seed) for seed in range(number, number + 9)], dtype, in_turn=True)


@pytest.mark.parametrize("name", ["hcsrn", "lfn", "pan"])
def test_any_image_will_do(name: str) -> None:
    network = formed(published(name))
    plan = random_plan(network, 1)
    images = [noise(1, 3, 1, 9), noise(1, 3, 7, 1), noise(1, 3, 1, 1), torch.full_like(noise(1, 3, 8, 8), 0.5)]
    for form in FORMS:
        small = compact(network, plan, form)
        for x in (*images, torch.zeros_like(noise(1, 3, 9, 6)), noise(3, 3, 6, 5)):
            with torch.no_grad(), masked(network, plan):
                wanted = network(x)
            with torch.no_grad():
                assert difference(small(x), wanted) <= 1e-12


# Single operations


class Tiny(nn.Module):
    """Three convolutions with an operation in the middle; `[N, 3, H, W]` to `[N, outputs, H, W]`."""

    minimum_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 6, 3, padding=1)
        self.make()

    def make(self) -> None:
        """Modules of the operation's own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x), self.second(x)))

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError


class Subtracted(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b) - self.third(a - torch.relu(b))


class SigmoidBeforeBorder(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(a) + b * 0.5


class NormFirst(Tiny):
    def make(self) -> None:
        self.norm, self.scaled = nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scaled(self.third(self.norm(torch.relu(a)))) + b


class NormAfter(Tiny):
    def make(self) -> None:
        self.norm, self.plain = nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)
        self.alone = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(self.alone(torch.relu(a))) + self.plain(self.third(b))


class OneActivationTwice(Tiny):
    def make(self) -> None:
        self.slopes, self.slope = nn.PReLU(8), nn.PReLU()

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return self.slope(self.slopes(a) + self.slope(self.slopes(b)))


class InGroups(Tiny):
    def make(self) -> None:
        self.pairs = nn.Conv2d(8, 16, 3, padding=1, groups=4, bias=False)
        self.wide = nn.Conv2d(16, 8, 3, padding=1, groups=2)
        self.alone = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bare = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return self.alone(self.wide(torch.relu(self.pairs(a)))) + self.bare(b)


class SharedInGroups(Tiny):
    def make(self) -> None:
        self.pairs = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.alone = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return self.alone(self.pairs(self.pairs(a) + b)) * self.alone(b)


class Transposed(Tiny):
    def make(self) -> None:
        self.grow = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.grow(a), 2) + b


class MeanOverChannels(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return a * torch.sigmoid(b.mean(1, keepdim=True)) + b.sum(1, keepdim=True) * b


class Uneven(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b.mean((2, 3), keepdim=True) - torch.maximum(a, b) * b.mean((2, 3))[:, :, None, None]


class Constants(Tiny):
    def make(self) -> None:
        self.shift = nn.Parameter(torch.rand(8, 1, 1))
        self.factor = nn.Parameter(torch.rand(1))
        self.register_buffer("scale", torch.rand(1, 8, 1, 1), persistent=False)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + self.shift.exp()) * self.factor + b * self.get_buffer("scale") / self.factor


class Carried(Tiny):
    def make(self) -> None:
        self.narrow = nn.Conv2d(20, 8, 1)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        turns = torch.stack((a, b), 2).flatten(1, 2)[:, 3:-3]
        start, rest = turns.split((4, 6), 1)
        return self.narrow(torch.cat((rest, start.repeat(1, 2, 1, 1), rest), 1))


class Sizes(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        a = nn.functional.interpolate(a[..., : b.shape[2] // 2, :], size=b.shape[-2:])
        return a[:, :, : b.size(2)] * a.shape[1] + b / b.size(1)


class Zeros(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        state = torch.zeros_like(a)
        return torch.sigmoid(state) * b + torch.cat((state[:, :4], self.third(state)[:, 4:]), 1) + a


class Barred(Tiny):
    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        n, c, h, w = a.shape
        mixed = a.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return torch.softmax(self.third(b), 1) * mixed


class Layered(Tiny):
    def make(self) -> None:
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8, bias=False)

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        scale = nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(a.mean((2, 3))))))
        return a * scale[:, :, None, None] - b


class LongSkip(Tiny):
    """In place by mistake, the sum would be seen by those who read an earlier state, or a slice of one."""

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        part = a[:, 2:6]
        y = a + b
        z = torch.relu(y) + self.third(y)
        return torch.relu(z + self.third(z)) + y + a + torch.cat((part, part), 1) + a


TINY = [
    value for value in globals().values() if isinstance(value, type) and issubclass(value, Tiny) and value is not Tiny
]


@pytest.mark.parametrize("kind", TINY)
def test_every_operation_is_cut_exactly(kind: type[Tiny]) -> None:
    torch.manual_seed(3)
    network = lived_in(kind())
    assert_exact(network, [random_plan(network, seed) for seed in range(10)])
    with torch.no_grad():
        x = noise(2, 3, 9, 10)
        for form in FORMS:  # a plan that cuts nothing
            assert difference(compact(network, Plan(ANY), form)(x), network(x)) <= 1e-15


@pytest.mark.stress
@pytest.mark.parametrize("kind", TINY)
def test_many_plans_of_every_operation(kind: type[Tiny]) -> None:
    torch.manual_seed(4)
    network = lived_in(kind())
    assert_exact(network, [random_plan(network, seed) for seed in range(200)], in_turn=True)


@pytest.mark.parametrize("kind", TINY)
def test_only_what_mixes_channels_is_a_barrier(kind: type[Tiny]) -> None:
    reasons = {reason for _, reason in barriers(trace(kind().eval()))}
    assert bool(reasons) == (kind is Barred)
    assert kind is not Barred or {"no rule for softmax", "no rule for reshape"} <= reasons


def test_an_interval_needs_no_index() -> None:
    """Kept sets that lie together after one permutation of the stream: slices, no gathers."""
    torch.manual_seed(0)
    network = lived_in(LongSkip())
    plan = Plan(ANY, {"third": (tuple(range(4)), tuple(range(4, 8)))})
    kinds = {type(module).__name__ for module in compact(network, plan, "run").modules()}
    assert "AddSlice" in kinds
    assert not kinds & {"Take", "AddAt", "Widen"}


# Settled plans


def assert_settled(network: nn.Module, plan: Plan) -> None:
    """The same function, nothing opened, nothing that the fixed point would close but what stands for a constant."""
    flow = trace(network)
    found, x = settled(flow, plan), noise(1, 3, 17, 16)
    with torch.no_grad(), masked(network, plan):
        wanted = network(x)
    with torch.no_grad(), masked(network, found):
        assert difference(network(x), wanted) <= 1e-12
    with torch.no_grad():
        assert difference(compact(flow, found)(x), wanted) <= 1e-12
    alive = live(flow, plan).sides
    for name, widths in flow.widths.items():
        sides = found.kept.get(name, tuple(tuple(range(width)) for width in widths))
        outs, ins = (sum(1 << channel for channel in side) for side in sides)
        assert outs == alive[name][0], name
        assert bool(outs) == bool(ins), name  # without one of them it would give nothing, its bias included
        constant = outs and not alive[name][1]
        assert ins.bit_count() == 1 if constant else ins == (alive[name][1] if outs else 0), name
        assert name not in found.kept or name in found.order or sides != tuple(tuple(range(w)) for w in widths), name
        assert set(found.order.get(name, ())) <= set(plan.order.get(name, ()))


@pytest.mark.parametrize("kind", TINY)
def test_a_settled_plan_is_the_same_function(kind: type[Tiny]) -> None:
    torch.manual_seed(3)
    network = lived_in(kind())
    for seed in range(9):
        assert_settled(network, random_plan(network, seed))


@pytest.mark.parametrize("kinds", [("residual", "rfdb", "imdb"), ("inverted_residual", "mobilenetv3")], ids=str)
def test_a_settled_plan_of_a_network_is_the_same_function(kinds: tuple[str, ...]) -> None:
    network = formed(Architecture(16, tuple(map(Block, kinds)), image_skip="bilinear"))
    for seed in (0, 1, 2, 3, 6):
        assert_settled(network, random_plan(network, seed))


def test_a_constant_that_is_left_keeps_an_input() -> None:
    """The first convolution gives nothing; what reads it still gives its bias, and a plan must not close that."""
    torch.manual_seed(3)
    network = lived_in(Layered())
    closed = Plan(ANY, {"squeeze": ((0, 1, 2), ()), "first": ((), (0, 1, 2))})
    assert_settled(network, closed)
    dead = Plan(ANY, {"first": ((1,), (0, 1, 2)), "squeeze": ((0, 2), (4, 5))})
    assert_settled(network, dead)
    assert settled(trace(network), dead).kept["squeeze"] == ((0, 2), (4,))


def test_two_stretches_of_one_order_stay_in_it() -> None:
    """A sum of two that each lack another end: the part's first channels come first, and no index is needed."""
    torch.manual_seed(0)
    network = lived_in(LongSkip())
    order = (5, 2, 7, 0, 3, 6, 1, 4)
    late, early = order[2:], order[:6]
    kept = {"third": (tuple(sorted(early)), tuple(range(8))), "second": (tuple(sorted(late)), (0, 1, 2))}
    plan = Plan(
        ANY, {**kept, "first": (tuple(sorted(early)), (0, 1, 2))}, {"second": late, "first": early, "third": early}
    )
    assert_exact(network, [plan])
    small = compact(network, plan, "run")
    assert small.layouts["add"] == order
    added = next(str(node.target) for node in small.graph.nodes if node.name == "add")
    assert type(small.get_submodule(added)).__name__ == "AddSlice"
