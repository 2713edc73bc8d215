"""Losses in closed form and by finite differences, and the training of networks with early exits and weight norm."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from paretosr.proxies.images import ImageSet, in_memory
from paretosr.proxies.losses import CHARBONNIER_EPS, GRADIENT_WEIGHT, LOSSES, OF_EXITS, batch_loss, distillation
from paretosr.proxies.patches import Patches
from paretosr.proxies.psnr import evaluate
from paretosr.proxies.training import State, Training, begin, finished_network, load, save, train
from paretosr.spaces import (
    BUILDABLE,
    NETWORKS,
    Architecture,
    Block,
    Design,
    InputError,
    System,
    build,
    inference_form,
    published,
)

SHORT = Training(steps=7, batch=2, patch=8, learning_rate=1e-3, loss="multi_exit")
PLAIN = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- the losses


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_zero_for_equal_images_and_not_else(name):
    image = noise(2, 3, 8, 8)
    assert LOSSES[name](image, image).item() == pytest.approx(0, abs=2e-3)
    assert LOSSES[name](image, 1 - image).item() > 0.1


def test_l1_and_l2_by_hand():
    sr, hr = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 0.5])
    assert LOSSES["l1"](sr, hr).item() == 1.0
    assert LOSSES["l2"](sr, hr).item() == 1.25


def test_charbonnier_is_eps_at_zero_and_l1_far_from_it():
    sr, hr = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.5, 0.0, 0.501])
    by_hand = [1e-3, math.sqrt(0.25 + 1e-6), math.sqrt(2e-6)]
    assert CHARBONNIER_EPS == 1e-3
    assert LOSSES["charbonnier"](sr, hr).item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    zero = torch.zeros(1, requires_grad=True)
    LOSSES["charbonnier"](zero, torch.zeros(1)).backward()
    assert zero.grad is not None
    assert zero.grad.item() == 0  # no corner, where L1 has one


def test_gradient_by_hand():
    sr, hr = torch.zeros(1, 1, 2, 3), torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.0, 2.0]]]])
    pixels, in_rows, in_columns = 4 / 6, (1 + 0 + 0 + 2) / 4, (0 + 1 + 1) / 3
    assert LOSSES["gradient"](sr, hr).item() == pytest.approx(pixels + GRADIENT_WEIGHT * (in_rows + in_columns))
    # An image that is off by a constant has all its gradients.
    assert LOSSES["gradient"](hr + 0.25, hr).item() == pytest.approx(0.25)


def test_an_early_exit_is_compared_with_the_original_averaged_down():
    hr = noise(2, 3, 8, 12)
    half = hr.reshape(2, 3, 4, 2, 6, 2).mean(dim=(3, 5))
    assert LOSSES["multi_exit"](half, hr).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES["multi_exit"](half + 0.5, hr).item() == pytest.approx(0.5, rel=1e-5)
    assert LOSSES["multi_exit"](hr, 1 - hr).item() == LOSSES["l1"](hr, 1 - hr).item()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    hr = noise(1, 3, 4, 6, dtype=torch.float64)
    for size in ((4, 6), (2, 3)) if name in OF_EXITS else ((4, 6),):
        sr = noise(1, 3, *size, seed=1, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda sr: LOSSES[name](sr, hr), sr, eps=1e-7)


# ---- what a network gives for a loss


class Forked(nn.Module):
    """Two exits besides the output, of which one is half as large; weight norm on two of the convolutions."""

    minimum_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.head = weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.early = nn.Sequential(nn.Conv2d(8, 12, 1), nn.PixelShuffle(2))
        self.leg = nn.Sequential(nn.Conv2d(8, 48, 1), nn.PixelShuffle(4))
        self.tail = nn.Sequential(weight_norm(nn.Conv2d(8, 48, 3, padding=1)), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x))

    def exits(self, x: Tensor) -> list[Tensor]:
        y = self.head(x)
        return [self.early(y), self.leg(y), self.tail(y)]

    def merged(self) -> "Forked":
        self.early = self.leg = nn.Identity()  # type: ignore[assignment]
        return self


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Design:
    monkeypatch.setitem(NETWORKS, "forked", System(Forked, title="Forked", source="nowhere", idea="none"))
    return published("forked")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    hr = {f"{i}": torch.randint(0, 256, (3, 96, 80), generator=generator, dtype=torch.uint8) for i in range(2)}
    return in_memory("noise", hr)


def test_multi_exit_is_the_mean_over_the_exits_and_any_other_loss_looks_at_the_output():
    network, lr, hr = Forked(), noise(2, 3, 5, 7), noise(2, 3, 20, 28, seed=1)
    half, leg, output = network.exits(lr)
    by_hand = [F.l1_loss(half, F.avg_pool2d(hr, 2)), F.l1_loss(leg, hr), F.l1_loss(output, hr)]
    assert batch_loss("multi_exit", network, lr, hr).item() == pytest.approx(sum(x.item() for x in by_hand) / 3)
    for name in set(LOSSES) - set(OF_EXITS):
        assert batch_loss(name, network, lr, hr).item() == LOSSES[name](network(lr), hr).item()


def test_a_network_without_exits_is_refused_before_the_first_step():
    with pytest.raises(InputError) as caught:
        begin(PLAIN, SHORT, seed=0)
    said = f"train.loss: 'multi_exit' needs a network with early exits, and {PLAIN.summary()} has none"
    assert str(caught.value) == said


def with_exits() -> list[str]:
    return [name for name in BUILDABLE if hasattr(NETWORKS[name].network, "exits")]


@pytest.mark.parametrize("name", with_exits())
def test_a_published_network_with_exits_trains_all_of_them(name):
    network: Any = build(published(name), seed=0)
    lr, hr = noise(1, 3, 16, 17), noise(1, 3, 64, 68, seed=1)
    exits = network.exits(lr)
    assert torch.equal(exits[-1], network(lr))
    loss = batch_loss("multi_exit", network, lr, hr)
    assert loss.item() == pytest.approx(sum(LOSSES["multi_exit"](x, hr).item() for x in exits) / len(exits))
    loss.backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


# ---- a term beside the loss


@pytest.mark.parametrize("name", LOSSES)
def test_a_term_is_added_of_the_input_and_the_output(name):
    network, lr, hr = Forked(), noise(2, 3, 5, 7), noise(2, 3, 20, 28, seed=1)
    seen = []

    def term(given: Tensor, made: Tensor) -> Tensor:
        seen.append((given, made))
        return made.square().sum()

    output = network(lr)
    wanted = batch_loss(name, network, lr, hr).item() + output.square().sum().item()
    loss = batch_loss(name, network, lr, hr, term)
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    assert torch.equal(seen[0][0], lr)
    assert torch.equal(seen[0][1], output)  # of a network with exits, what it gives in the end
    loss.backward()
    assert gradient_of_the_tail(network) > 0


def gradient_of_the_tail(network: nn.Module) -> float:
    """How much of a gradient the last bias got."""
    grad = network.get_parameter("tail.0.bias").grad
    return 0.0 if grad is None else float(grad.abs().sum())


def test_distillation_is_the_distance_to_the_teacher_and_trains_the_student_alone():
    teacher, student, lr = Forked(), Forked(), noise(2, 3, 5, 7)
    with torch.no_grad():
        wanted = 0.3 * (teacher(lr) - student(lr)).abs().mean().item()
    term = distillation(teacher, 0.3)
    value = term(lr, student(lr))
    assert value.item() == pytest.approx(wanted, rel=1e-6)
    value.backward()
    assert gradient_of_the_tail(student) > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert term(lr, teacher(lr)).item() == 0
    half = term(lr, student(lr).bfloat16())  # as autocast gives it
    assert half.item() == pytest.approx(wanted, rel=0.02)


# ---- training them


def patches_of(images: ImageSet, training: Training) -> Patches:
    return Patches(images, training.patch, training.batch, 5)


def content(state: State) -> tuple:
    weights = {name: value.tolist() for name, value in state.network.state_dict().items()}
    ema = state.ema and {name: value.tolist() for name, value in state.ema.items()}
    moments = {n: {k: v.tolist() for k, v in of.items()} for n, of in state.optimiser.state_dict()["state"].items()}
    return weights, ema, moments, state.step, state.curve, state.pending, state.facts


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("loss", ["multi_exit", "l1"])  # under l1 the exits have no gradient, so no moments either
def test_stopped_and_continued_equals_undisturbed(images, forked, tmp_path: Path, loss: str, ema: float | None):
    training = replace(SHORT, loss=loss, ema=ema)
    whole = train(begin(forked, training, seed=5), training, patches_of(images, training), training.steps)
    for stop in (1, 3, 4, training.steps):
        state = load(begin(forked, training, seed=5), training, tmp_path / "state.pt")
        state = train(state, training, patches_of(images, training), stop - state.step)
        assert state.step == stop
        save(state, tmp_path / "state.pt")
    state = load(begin(forked, training, seed=5), training, tmp_path / "state.pt")
    assert content(state) == content(whole)
    assert any("parametrizations" in name for name in state.network.state_dict())
    psnr_db = [evaluate(inference_form(finished_network(each)), images).psnr_db for each in (state, whole)]
    assert psnr_db[0] == psnr_db[1]
    assert math.isfinite(psnr_db[0])


def test_an_exit_learns_by_multi_exit_alone(images, forked):
    for loss in ("multi_exit", "l1"):
        training = replace(SHORT, loss=loss)
        state = begin(forked, training, seed=5)
        before = {name: value.clone() for name, value in state.network.state_dict().items()}
        state = train(state, training, patches_of(images, training), training.steps)
        moved = {name for name, value in state.network.state_dict().items() if not torch.equal(value, before[name])}
        assert {name for name in before if name.startswith("tail")} <= moved
        legs = {name for name in before if name.startswith(("leg", "early"))}
        assert legs & moved == (legs if loss == "multi_exit" else set())


def test_the_weights_that_are_kept_rebuild_the_network(images, forked):
    training = replace(SHORT, ema=0.9)
    state = train(begin(forked, training, seed=5), training, patches_of(images, training), training.steps)
    network = finished_network(state)
    # Inference folds weight norm and drops the exits; what is kept is the training form, by the design's own name.
    again = build(Design.from_json(json.loads(json.dumps(forked.to_json()))), seed=99)
    again.load_state_dict(network.state_dict())
    psnr_db = [evaluate(inference_form(each), images).psnr_db for each in (network, again)]
    assert psnr_db[0] == psnr_db[1]
    assert evaluate(network, images).psnr_db == pytest.approx(psnr_db[0], abs=0.01)
