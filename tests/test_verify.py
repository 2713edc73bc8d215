"""verify: compact networks that are right, or wrong in one place that must be named."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paretosr.pruning.verify import Verification, VerificationFailed, inputs, verify
from paretosr.spaces import InputError
from paretosr.spaces.plan import Plan

ANY = "0" * 12
WIDTH = 8


class Small(nn.Module):
    """Mean shift, two residual blocks that share their convolutions, PixelShuffle, image skip."""

    minimum_size = 1

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.mean = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.head = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH) if norm else nn.Identity()
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.tail = nn.Conv2d(WIDTH, 48, 3, padding=1)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        image = self.mean(x)
        y = self.head(image)
        for _ in range(2):
            y = y + self.second(torch.relu(self.norm(self.first(y))))
        return self.shuffle(self.tail(y)) + image.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Cut(Small):
    """`Small` cut by hand to `FIRST` outputs of `first`, in an order of its own, and `SECOND` outputs of `second`."""

    def __init__(self, whole: Small, first: list[int], second: list[int], *, in_place: bool = False) -> None:
        super().__init__()
        self.to(next(whole.parameters()).dtype)
        self.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("norm")})
        scale, shift = torch.ones(WIDTH), torch.zeros(WIDTH)
        if isinstance(whole.norm, nn.BatchNorm2d):
            norm = whole.norm
            scale = norm.weight.detach() / (norm.get_buffer("running_var") + norm.eps).sqrt()
            shift = norm.bias.detach() - scale * norm.get_buffer("running_mean")
        weight, bias = whole.first.weight.detach(), whole.first.bias
        assert bias is not None
        assert whole.second.bias is not None
        bias = bias.detach() * scale.to(weight) + shift.to(weight)
        weight = weight * scale.to(weight)[:, None, None, None]
        self.first = conv(weight[first], bias[first])
        self.second = conv(whole.second.weight.detach()[second][:, first], whole.second.bias.detach()[second])
        self.register_buffer("into", torch.tensor(second), persistent=False)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        image = self.mean(x)
        y = self.head(image)
        for _ in range(2):
            change = self.first(y)
            change = self.second(change.relu_() if self.in_place else change.relu())
            into = self.get_buffer("into")
            y = y.index_add_(1, into, change) if self.in_place else y.index_add(1, into, change)
        return self.shuffle(self.tail(y)) + image.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Bare(nn.Module):
    """`Small` without its blocks."""

    def __init__(self, whole: Small) -> None:
        super().__init__()
        self.mean, self.head, self.tail, self.shuffle = whole.mean, whole.head, whole.tail, whole.shuffle

    def forward(self, x: Tensor) -> Tensor:
        image = self.mean(x)
        y = self.shuffle(self.tail(self.head(image)))
        return y + image.repeat_interleave(4, 2).repeat_interleave(4, 3)


def conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, dtype=weight.dtype)
    made.weight.data, made.bias.data = weight.clone(), bias.clone()  # type: ignore[union-attr]
    return made


FIRST, SECOND = (0, 2, 5), (1, 2, 3, 6)
EVERY = tuple(range(WIDTH))
PLAN = Plan(ANY, {"first": (FIRST, EVERY), "second": (SECOND, FIRST)})


def small(norm: bool = False) -> Small:
    generator = torch.Generator().manual_seed(4)
    network = Small(norm).double()
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(0.2 * drawn)
    if isinstance(network.norm, nn.BatchNorm2d):
        network.norm.get_buffer("running_var").abs_().add_(0.5)
    return network.eval()


def cut(whole: Small) -> dict[str, Cut]:
    return {
        "train": Cut(whole, [5, 0, 2], [3, 1, 2, 6]),
        "run": Cut(whole, [5, 0, 2], [3, 1, 2, 6], in_place=True),
        "export": Cut(whole, list(FIRST), list(SECOND)),
    }


# Compact networks that are right


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_right_one_passes(dtype: torch.dtype) -> None:
    network = small().to(dtype)
    found = verify(network, PLAN, cut(network))
    assert isinstance(found, Verification)
    assert found.forms == ("train", "run", "export")
    assert found.worst["float64"] <= 1e-14
    assert found.worst["float32"] <= 2e-6
    assert found.after.parameters < found.before.parameters
    assert found.after.convolutions == found.before.convolutions == 7
    assert found.memory_mb is None
    assert "compact equals masked (float64 " in found.summary()
    assert [name.split()[0] for name in found.inputs] == [
        "odd",
        "batch",
        "smallest",
        "narrow",
        "slender",
        "constant",
        "black",
    ]


def test_one_with_its_batch_norm_folded_passes_in_float64() -> None:
    network = small(norm=True)
    assert verify(network, PLAN, cut(network)).worst["float64"] <= 1e-14
    with pytest.raises(InputError, match=r"with batch norms must be compared in float64"):
        verify(network.float(), PLAN, cut(network))


def test_both_sides_are_left_as_they_were() -> None:
    network, forms = small(), cut(small())
    network.train()
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(forms["run"].state_dict())
    verify(network, PLAN, forms)
    for module, state in zip((network, forms["run"]), before, strict=True):
        assert module.training
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        assert next(module.parameters()).dtype == torch.float64


def test_inputs_begin_at_the_smallest_image() -> None:
    network = small()
    network.minimum_size = 15  # type: ignore[assignment]
    shapes = [tuple(sample.image.shape) for sample in inputs(network)]
    assert shapes == [
        (1, 3, 37, 41),
        (3, 3, 19, 20),
        (1, 3, 15, 15),
        (1, 3, 15, 23),
        (1, 3, 21, 15),
        (1, 3, 19, 20),
        (1, 3, 19, 20),
    ]
    assert {1} <= {min(sample.image.shape[2:]) for sample in inputs(small())}


# Compact networks that are wrong


def one_weight_off(module: Cut) -> None:
    module.second.weight.data[1, 2, 0, 1] += 1e-7


def a_bias_off(module: Cut) -> None:
    assert module.tail.bias is not None
    module.tail.bias.data[3] += 1e-7


def inputs_swapped(module: Cut) -> None:
    module.second.weight.data = module.second.weight.data[:, [1, 0, 2]]


def outputs_swapped(module: Cut) -> None:
    """The rows alone: each is right, and `second` reads them in the wrong order."""
    for tensor in module.first.parameters():
        tensor.data = tensor.data[[1, 0, 2]]


def put_elsewhere(module: Cut) -> None:
    module.get_buffer("into")[0] = 4


def a_wrong_channel_kept(module: Cut) -> None:
    whole = small()
    assert whole.first.bias is not None
    assert module.first.bias is not None
    module.first.weight.data[0] = whole.first.weight.data[7]
    module.first.bias.data[0] = whole.first.bias.data[7]


def overwritten(module: Cut) -> None:
    """In place on what is read again: the trunk loses what is below zero."""
    module.head.register_forward_hook(lambda m, x, y: None)
    module.first.register_forward_pre_hook(lambda m, x: (x[0].relu_(),))


WRONG: dict[Callable[[Cut], None], str] = {
    one_weight_off: r"the first layer that differs is 'second' in its call 1",
    a_bias_off: r"the first layer that differs is 'tail'",
    inputs_swapped: r"the first layer that differs is 'second' in its call 1",
    outputs_swapped: r"the first layer that differs is 'second' in its call 1",
    put_elsewhere: r"the first difference is between 'second' and the input of 'first' in its call 2",
    a_wrong_channel_kept: r"the first layer that differs is 'first' in its call 1",
    overwritten: r"the first difference is between 'head' and the input of 'first' in its call 1",
}


@pytest.mark.parametrize("mistake", WRONG, ids=lambda mistake: mistake.__name__)
def test_a_wrong_one_is_caught_and_its_layer_named(mistake: Callable[[Cut], None]) -> None:
    network = small()
    forms = cut(network)
    mistake(forms["run"])
    with pytest.raises(VerificationFailed, match=rf"form 'run', float64, contiguous, input odd .*; {WRONG[mistake]}$"):
        verify(network, PLAN, forms)


def test_a_difference_behind_the_last_layer_is_said_to_be_there() -> None:
    network = small()
    forms = {"train": cut(network)["train"]}
    forms["train"].shuffle.register_forward_pre_hook(lambda module, x: (x[0] + 1e-6,))
    with pytest.raises(VerificationFailed, match=r"all layers agree, it is what follows them$"):
        verify(network, PLAN, forms)


def test_a_layer_whose_difference_the_output_does_not_show_is_named() -> None:
    network = small()
    assert network.first.bias is not None
    network.first.bias.data.fill_(-100)  # the ReLU behind it is closed
    forms = cut(network)
    one_weight_off(forms["export"])
    forms["export"].first.weight.data[1, 0, 1, 1] += 1e-3
    with pytest.raises(VerificationFailed, match=r"'export'.*is that of the masked network, but .* is 'first' in its"):
        verify(network, PLAN, forms)


def test_what_is_wrong_in_one_layout_or_type_is_caught() -> None:
    network = small()
    for wrong, where in (
        (lambda y: y.stride(1) == 1 and y.shape[2] > 1, "float64, channels_last, input"),
        (lambda y: y.dtype == torch.float32, "float32, contiguous"),
    ):
        forms = cut(network)

        def disturb(module: nn.Module, x: tuple[Tensor], wrong: Callable[[Tensor], bool] = wrong) -> tuple[Tensor]:
            return (x[0] + 1e-3 * float(wrong(x[0])),)

        forms["export"].shuffle.register_forward_pre_hook(disturb)
        with pytest.raises(VerificationFailed, match=f"form 'export', {where}"):
            verify(network, PLAN, forms)


def test_what_is_wrong_at_one_size_is_caught() -> None:
    network = small()
    forms = cut(network)
    forms["train"].head.register_forward_hook(lambda module, x, y: y * (1 + 1e-6 * (y.shape[2] == 1)))
    with pytest.raises(VerificationFailed, match="input smallest 1x3x1x1"):
        verify(network, PLAN, forms)


def test_another_shape_or_type_is_a_difference() -> None:
    network = small()
    for change in (lambda y: y[..., :-1], lambda y: y.float(), lambda y: y * float("nan")):
        forms = {"train": After(cut(network)["train"], change)}
        with pytest.raises(VerificationFailed, match=r"form 'train', float64, contiguous, .* by (inf|nan) of the"):
            verify(network, PLAN, forms)


def test_one_that_cannot_be_run_is_caught() -> None:
    network = small()
    forms = {"train": After(cut(network)["train"], lambda y: y.reshape(-1, 2, 3, 5))}
    with pytest.raises(VerificationFailed, match=r"input odd 1x3x9x13: the compact network cannot be run: shape "):
        verify(network, PLAN, forms)


def test_writing_into_the_image_or_the_weights_is_caught() -> None:
    network = small()
    module = After(cut(network)["run"], lambda y: y, read=Tensor.zero_)
    with pytest.raises(VerificationFailed, match=r"form 'run', float64, contiguous, .* writes into its input"):
        verify(network, PLAN, {"run": module})
    module = After(cut(network)["run"], lambda y: y)
    module.step = 1.0
    with pytest.raises(VerificationFailed, match=r"running the compact network changes its 'count'$"):
        verify(network, PLAN, {"run": module})


class After(nn.Module):
    """A network whose output, and then input, something else is done to; and which may count its calls."""

    def __init__(
        self, network: nn.Module, change: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network, self.change, self.read, self.step = network, change, read, 0.0
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.change(self.network(x))
        self.get_buffer("count").add_(self.step)
        if self.read is not None:
            self.read(x)
        return y


def test_a_network_with_numbers_that_are_not_finite_is_refused() -> None:
    network = small()
    network.tail.weight.data[0, 0] = float("inf")
    with pytest.raises(VerificationFailed, match="the masked network itself gives numbers that are not finite"):
        verify(network, PLAN, cut(network))


# What must have gone down, and what must not have gone


def test_a_network_that_is_no_smaller_is_refused() -> None:
    network = small()
    closed = copy.deepcopy(network)
    assert closed.first.bias is not None
    for channel in set(EVERY) - set(FIRST):
        closed.first.weight.data[channel] = 0
        closed.first.bias.data[channel] = 0
    plan = Plan(ANY, {"first": (FIRST, EVERY)})
    with pytest.raises(VerificationFailed, match="parameters has not gone down: 4,908 before, 4,908 after"):
        verify(network, plan, {"train": closed})
    assert verify(network, Plan(ANY), {"train": network}).worst["float64"] <= 1e-14


@pytest.mark.parametrize("closed", ["head", "tail"])
def test_a_network_cut_off_from_its_body_is_refused(closed: str) -> None:
    network = small()
    with pytest.raises(VerificationFailed, match="cuts the output off from the network's body"):
        verify(network, Plan(ANY, {closed: ((), ())}), {"train": network})


def test_a_body_whose_blocks_are_closed_is_the_identity() -> None:
    network = small()
    plan = Plan(ANY, {"first": ((), ()), "second": ((), ())})
    assert verify(network, plan, {"train": Bare(network)}).after.convolutions == 3


def test_no_form_is_nothing_to_verify() -> None:
    with pytest.raises(InputError, match="there is no form"):
        verify(small(), PLAN, {})
