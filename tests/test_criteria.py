"""Criteria: closed forms, finite differences, and networks that are left alone."""

import pytest
import torch
import torch.nn.functional as F
from plans import formed
from torch import Tensor, nn

from paretosr.proxies.training import TrainingFailed
from paretosr.pruning.criteria import CRITERIA, Scores, branch_scores
from paretosr.pruning.gates import Gates, attach
from paretosr.spaces import Architecture, Block, InputError
from paretosr.spaces.flow import Branch, slots, trace

Batch = tuple[Tensor, Tensor]


class Small(nn.Module):
    """Three convolutions, one depthwise, and a batch norm that is behind none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.drop = nn.Dropout(0.5)
        self.tail = nn.Conv2d(5, 48, 3, padding=1, bias=False)
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.tanh(self.head(x)))
        return self.shuffle(self.tail(self.drop(torch.tanh(self.depthwise(y)))))


def small() -> tuple[Small, Gates]:
    """In float64, gates away from one."""
    generator = torch.Generator().manual_seed(1)
    network = Small().double().eval()
    gates = attach(network)
    with torch.no_grad():
        for parameter in network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.4 * drawn)
        for gate in gates.parameters():
            gate.copy_(1 + 0.5 * gate)
    return network, gates


def batches(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64),
            torch.rand(2, 3, 20, 24, generator=generator, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def scored(name: str, network: nn.Module, gates: Gates, seed: int = 0, data: list[Batch] | None = None) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return CRITERIA[name](network, gates, batches() if data is None else data, F.mse_loss, generator)


def loss_without(network: nn.Module, gate: Tensor, channel: int, value: float, batch: Batch) -> float:
    """The loss with one gate set to `value` for a moment."""
    with torch.no_grad():
        before = float(gate.detach()[channel])
        gate[channel] = value
        loss = float(F.mse_loss(network(batch[0]), batch[1]))
        gate[channel] = before
    return loss


# Against finite differences


def test_taylor_on_gates_is_the_derivative_towards_a_closed_channel() -> None:
    network, gates = small()
    scores, step = scored("taylor_gate", network, gates), 1e-5
    for name, gate in gates.items():
        for score, side in zip(scores[name], gate, strict=True):
            if side is None or score is None:
                assert score is None
                continue
            for channel in range(len(side)):
                value = float(side.detach()[channel])
                # The gate on its way to zero: how the loss moves per share of the way.
                wanted = sum(
                    abs(
                        loss_without(network, side, channel, value * (1 + step), batch)
                        - loss_without(network, side, channel, value * (1 - step), batch)
                    )
                    / (2 * step)
                    for batch in batches()
                )
                assert float(score[channel]) == pytest.approx(wanted, rel=1e-6, abs=1e-11)


def test_taylor_on_gates_is_what_closing_a_small_channel_changes_the_loss_by() -> None:
    network, gates = small()
    data = batches(1)
    for name in ("head", "tail"):
        for side in (0, 1):
            gate = gates[name][side]
            assert gate is not None
            with torch.no_grad():
                gate[1] = 1e-4  # so small that higher orders are below a thousandth
            score = scored("taylor_gate", network, gates, data=data)[name][side]
            assert score is not None
            full = loss_without(network, gate, 1, 1e-4, data[0])
            closed = loss_without(network, gate, 1, 0.0, data[0])
            assert float(score[1]) == pytest.approx(abs(closed - full), rel=2e-3)


def test_taylor_on_weights_by_hand() -> None:
    network, gates = small()
    scores = scored("taylor_weight", network, gates)
    weight, bias = gates.originals("head")
    assert bias is not None
    rows, columns = torch.zeros(5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for lr, hr in batches():
        grad_weight, grad_bias = torch.autograd.grad(F.mse_loss(network(lr), hr), (weight, bias))
        share = (weight * grad_weight).detach() ** 2
        rows += share.sum((1, 2, 3)) + (bias * grad_bias).detach() ** 2
        columns += share.sum((0, 2, 3))
    torch.testing.assert_close(scores["head"], (rows, columns))


def test_a_gate_in_the_weight_does_not_change_taylor_on_weights() -> None:
    network, gates = small()
    gated = scored("taylor_weight", network, gates)
    gates.fold()
    plain = scored("taylor_weight", network, attach(network))
    for name, (out, into) in gated.items():
        torch.testing.assert_close(plain[name], (out, into))


# Closed forms


def test_of_weights_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU())
    gates = attach(network)
    weight = torch.tensor([[3.0, -4.0], [0.0, 1.0], [6.0, 8.0]])
    with torch.no_grad():
        gates.originals("0")[0].copy_(weight[:, :, None, None])
        gates["0"].out.copy_(torch.tensor([1.0, 2.0, 0.5]))
    # Rows with gates: (3, -4), (0, 2), (3, 4).
    wanted = {
        "l1": ([7, 2, 7], [6, 10]),
        "l2": ([5, 2, 5], [18**0.5, 6]),
        "geometric_median": ([45**0.5 + 8, 45**0.5 + 13**0.5, 8 + 13**0.5], [54**0.5] * 2),
    }
    for name, (rows, columns) in wanted.items():
        out, into = scored(name, network, gates)["0"]
        assert into is not None
        assert out.tolist() == pytest.approx(rows), name
        assert into.tolist() == pytest.approx(columns), name
    gates.close("0", outputs=[1])
    assert scored("geometric_median", network, gates)["0"][0].tolist() == pytest.approx([8, 0, 8])


def test_random_follows_its_seed_and_its_seed_alone() -> None:
    network, gates = small()
    one, again, other = (scored("random", network, gates, seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name][0], again[name][0]) for name in gates)
    assert not torch.equal(one["head"][0], other["head"][0])
    gates.close("head", [2])
    masked = scored("random", network, gates)
    assert masked["head"][0][2] == 0
    assert torch.equal(masked["tail"][0], one["tail"][0])  # a closed channel leaves the others' draws as they are
    assert float(one["tail"][0].min()) >= 0
    assert float(one["tail"][0].max()) < 1


# What all have in common


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_have_the_gates_shapes_and_closed_channels_none(name: str) -> None:
    network, gates = small()
    gates.close("head", [1, 3], [0])
    gates.close("tail", [], [4])
    scores = scored(name, network, gates)
    assert list(scores) == list(gates)
    for key, masks in ((key, gates.masks(key)) for key in gates):
        for score, mask in zip(scores[key], masks, strict=True):
            assert (score is None) == (mask is None)
            if score is not None and mask is not None:
                assert score.shape == mask.shape
                assert not score.requires_grad
                assert (score >= 0).all()
                assert not score[mask == 0].any(), key


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_left_as_it_was_found(name: str, frozen: bool) -> None:
    network, gates = small()
    network.train()
    network.norm.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(not frozen)
    bias = network.norm.bias
    bias.grad = torch.ones_like(bias)
    values = {key: value.clone() for key, value in network.state_dict().items()}
    held = [(p, p.grad, p.requires_grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()]
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()
    with torch.no_grad():
        scored(name, network, gates)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, values[key]) for key, value in network.state_dict().items())
    for parameter, grad, trained, copy in held:
        assert parameter.grad is grad
        assert parameter.requires_grad == trained
        assert grad is None or (copy is not None and torch.equal(grad, copy))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["taylor_gate", "taylor_weight"])
def test_what_cannot_be_scored_is_said(name: str) -> None:
    network, gates = small()
    with pytest.raises(InputError, match="it needs batches of images, and none was given"):
        scored(name, network, gates, data=[])
    lr, hr = batches(1)[0]
    with pytest.raises(TrainingFailed, match=r"non-finite loss \(nan\) in batch 1"):
        scored(name, network.train(), gates, data=[(lr * float("nan"), hr)])
    assert network.training


# Whole branches


def branched(*kinds: str) -> tuple[nn.Module, Gates, tuple[Branch, ...]]:
    """A network with gates away from one, and its branches."""
    network = formed(Architecture(8, tuple(map(Block, kinds)), image_skip="bilinear"))
    branches = slots(trace(network)).branches
    gates, generator = attach(network), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for gate in gates.parameters():
            gate.uniform_(0.7, 1.3, generator=generator)
    return network, gates, branches


def pairs(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    shapes = ((2, 3, 16, 17), (2, 3, 64, 68))
    return [tuple(torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes) for _ in range(count)]  # type: ignore[misc]


def loss_of(network: nn.Module, data: list[Batch]) -> float:
    with torch.no_grad():
        return sum(float(F.l1_loss(network(lr), hr)) for lr, hr in data)


def nothing(module: nn.Module, given: object, y: Tensor) -> Tensor:
    """A hook that makes what a module gives zero, its bias too."""
    return torch.zeros_like(y)


@pytest.mark.parametrize("kinds", [("residual", "residual"), ("rfdb",), ("mobilenetv3", "residual")], ids=str)
def test_a_branch_is_worth_what_the_loss_rises_by_without_it(kinds: tuple[str, ...]) -> None:
    network, gates, branches = branched(*kinds)
    data = [(lr, network(lr).detach() + 1e-9 * hr) for lr, hr in pairs()]  # near a minimum: whatever goes is missed
    found, before = branch_scores(network, gates, branches, data, F.l1_loss), loss_of(network, data)
    assert branches
    assert list(found) == [branch.node for branch in branches]
    for branch in branches:
        # By hand: what the convolutions at its end give, bias and all, is made zero.
        ends = [network.get_submodule(name) for name in branch.closes]
        handles = [end.register_forward_hook(nothing) for end in ends]
        without = loss_of(network, data)
        for handle in handles:
            handle.remove()
        assert found[branch.node] == pytest.approx(max(0.0, without - before), rel=1e-9, abs=1e-12)
    assert min(found.values()) > 1e-8
    assert found == {k: pytest.approx(v) for k, v in branch_scores(network, gates, branches, data, F.l1_loss).items()}


def test_a_branch_that_does_harm_is_worth_nothing() -> None:
    network, gates, branches = branched("residual")
    with torch.no_grad():
        gates["blocks.0.second"].out.mul_(100)
    found = branch_scores(network, gates, branches, pairs(1), F.l1_loss)
    assert min(found.values()) == 0.0


def test_scoring_branches_leaves_the_network_as_it_was() -> None:
    network, gates, branches = branched("residual", "residual")
    gates.close("blocks.0.second", [1, 5])
    network.train()
    network.get_submodule("blocks.1").eval()
    held = next(network.parameters())
    held.grad = torch.ones_like(held)
    values = {key: value.clone() for key, value in network.state_dict().items()}  # masks are among them
    modes = [module.training for module in network.modules()]
    branch_scores(network, gates, branches, pairs(1), F.l1_loss)
    assert all(torch.equal(value, values[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert held.grad is not None
    assert torch.equal(held.grad, torch.ones_like(held))
    assert all(parameter.grad is None for parameter in gates.parameters())


def test_branches_that_are_closed_or_have_no_gates_get_no_score() -> None:
    network, gates, branches = branched("residual", "residual")
    assert {branch.closes for branch in branches} >= {("blocks.0.second",), ("blocks.1.second",)}
    gates.close("blocks.0.second", range(8))
    gates.remove()
    some = attach(network, [name for name in gates if name != "blocks.1.second"] or None)
    found = branch_scores(network, some, branches, pairs(1), F.l1_loss)
    wanted = {branch.node for branch in branches if branch.closes != ("blocks.1.second",)}
    assert set(found) == wanted
    some.close("blocks.0.second", range(8))
    found = branch_scores(network, some, branches, pairs(1), F.l1_loss)
    assert set(found) == wanted - {branch.node for branch in branches if branch.closes == ("blocks.0.second",)}
