"""Cutting a trained network for real, on small photos: every schedule, stopped and gone on, and what it leaves."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deciding import sixteens, stairs_of_16
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from paretosr.proxies.complexity import complexity
from paretosr.proxies.latency import Protocol
from paretosr.proxies.psnr import evaluate
from paretosr.proxies.stairs import Estimate, calls_of
from paretosr.proxies.training import Training
from paretosr.proxies.weights import save_weights, with_weights
from paretosr.proxies.work import Data
from paretosr.pruning.budget import Budget, Meter
from paretosr.pruning.cutting import BRANCH_BATCHES, CUT, Cutting, CutWork
from paretosr.pruning.decide import Decider
from paretosr.pruning.masks import masked
from paretosr.pruning.settings import SCHEDULES, Pruning
from paretosr.spaces import Architecture, Block, Design, InputError, build, inference_form
from paretosr.spaces.plan import Plan

SMALL = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))
WIDE = Design(Architecture(32, (Block("residual"),), image_skip="bilinear"))
SIZE = (16, 16)
TRAINING = Training(steps=40, batch=2, patch=8, learning_rate=2e-3, ema=0.9)
PRUNING = Pruning(
    budget={"flops": 0.7},
    strategy="group",
    floor_channels=1,
    step=1,
    batches=2,
    cuts=3,
    between=2,
    tick_steps=2,
    tick_share=0.04,
    ticks=2,
    tock_steps=2,
)


def trained(design: Design, seed: int, path: Path) -> str:
    """The file of a network's weights, its biases away from zero as after a training."""
    network, generator = build(design, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_weights(network, design, path)
    return str(path)


@pytest.fixture(scope="module")
def base(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CutWork:
    folder = tmp_path_factory.mktemp("cutting")
    weights = trained(SMALL, 1, folder / "whole.safetensors")
    return CutWork(SMALL, weights, PRUNING, TRAINING, Data(str(photos)), 3, "cpu", str(folder / "base"))


@pytest.fixture
def work(base: CutWork, tmp_path: Path) -> CutWork:
    return replace(base, folder=str(tmp_path / "cut"))


def run(work: CutWork, stop: Callable[[], bool] = lambda: False) -> Any:
    """What `perform` gives, after a check that a worker could send it."""
    result = work.perform(lambda said: None, stop)
    assert json.loads(json.dumps(result)) == result
    return result


def stop_after(calls: int) -> Callable[[], bool]:
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    return stop


def quiet(work: CutWork) -> Cutting:
    return Cutting(work, lambda said: None, lambda: False)


@pytest.fixture(scope="module")
def finished(base: CutWork, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[CutWork, Any, Cutting]]:
    """By schedule: a work that was not disturbed, what it gave, and the network that it trained, masks folded in."""

    @lru_cache
    def of(schedule: str, strategy: str = "group") -> tuple[CutWork, Any, Cutting]:
        pruning = replace(PRUNING, schedule=schedule, strategy=strategy)
        work = replace(base, pruning=pruning, folder=str(tmp_path_factory.mktemp(schedule)))
        cutting = quiet(work)
        return work, cutting.run(), cutting

    return of


# ---- every schedule


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_budget_is_met_and_the_path_leads_there(finished, schedule: str) -> None:
    work, result, _ = finished(schedule)
    plan = Plan.from_json(result["plan"])
    before, after = complexity(inference_form(build(SMALL))), complexity(build(Design(SMALL.architecture, plan)))
    assert after.flops_g <= 0.7 * before.flops_g
    assert result["shares"]["flops"] == pytest.approx(after.flops_g / before.flops_g)
    assert result["verified"].startswith("compact equals masked (float64 ")
    path, stages = result["path"], [row["stage"] for row in result["path"]]
    assert stages[0] == "start"
    assert (
        stages[1:]
        == {
            "one_shot": ["cut"],
            "gradual": ["cut"] * 3,
            # One tock first, then one after every two ticks.
            "tick_tock": [("tock", "tick", "tick")[at % 3] for at in range(len(path) - 1)],
        }[schedule]
    )
    for name in ("flops", "channels", "parameters", "activations"):
        shares = [row[name] for row in path]
        assert shares[0] == 1
        assert shares == sorted(shares, reverse=True)
    assert path[-1]["plan"] == result["plan"]
    steps = [row["steps"] for row in path]
    assert steps == sorted(steps)
    assert result["steps"] == steps[-1]
    assert result["steps"] == {"one_shot": 0, "gradual": 2 * 2, "tick_tock": 2 * (len(path) - 1)}[schedule]
    assert all("psnr_db" in row for row in path if row["stage"] != "tick")
    assert "psnr_db" in path[-1]
    assert path[0]["psnr_db"] == evaluate(with_weights(SMALL, Path(work.weights)), work.data.evaluation()).psnr_db
    if schedule == "tick_tock":
        assert path.count(path[-1]) == 1
        assert len(path) > 5  # a second tock


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_weights_compute_what_the_masked_network_did(finished, schedule: str) -> None:
    work, result, cutting = finished(schedule)
    design = Design(SMALL.architecture, Plan.from_json(result["plan"]))
    cut = build(design, seed=99)
    cut.load_state_dict(load_file(Path(work.folder) / CUT))
    with safe_open(Path(work.folder) / CUT, "pt") as file:
        assert Design.from_json(json.loads(file.metadata()["design"])) == design
    x = torch.rand(2, 3, 13, 11, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masked = cutting.network(x)
        torch.testing.assert_close(cut.eval()(x), masked, rtol=0, atol=5e-6)
        untrained = inference_form(with_weights(SMALL, Path(work.weights)))(x)
    assert not torch.allclose(masked, untrained, atol=1e-3)
    assert result["path"][-1]["psnr_db"] == pytest.approx(evaluate(cut, work.data.evaluation()).psnr_db, abs=1e-3)
    for name, module in cut.named_modules():
        if isinstance(module, nn.Conv2d):
            told = next(row for row in result["kept"] if row["name"] == name)
            assert (told["outputs"][0], told["inputs"][0]) == (module.out_channels, module.in_channels)


@pytest.mark.parametrize(
    ("schedule", "strategy"),
    [
        ("gradual", "interval"),
        *(pytest.param(name, "group", marks=pytest.mark.slow if name == "gradual" else ()) for name in SCHEDULES),
    ],
)
def test_a_stopped_cutting_goes_on_to_the_same_end(finished, work: CutWork, schedule: str, strategy: str) -> None:
    undisturbed, wanted, _ = finished(schedule, strategy)
    work = replace(work, pruning=undisturbed.pruning)
    for calls in (1, 2, 5, 4):
        assert run(work, stop_after(calls)) is None or (schedule == "one_shot" and calls > 2)
    assert run(work) == wanted
    assert (Path(work.folder) / CUT).read_bytes() == (Path(undisturbed.folder) / CUT).read_bytes()
    assert bool(wanted["plan"]["order"]) == (strategy == "interval")  # the order of its streams is kept too


def test_a_whole_branch_goes_and_the_rest_is_a_network(work: CutWork) -> None:
    """A branch whose last convolution is nearly closed costs the least; single channels may not go here."""
    whole = with_weights(SMALL, Path(work.weights))
    with torch.no_grad():
        for parameter in whole.get_submodule("blocks.0.second").parameters():
            parameter.mul_(1e-6)
    save_weights(whole, SMALL, Path(work.folder) / "whole.safetensors")
    work = replace(work, weights=str(Path(work.folder) / "whole.safetensors"))
    result = run(replace(work, pruning=replace(PRUNING, strategy="inner", budget={"kept": 0.9}, floor_share=0.99)))
    kept = {row["name"]: row["outputs"][0] for row in result["kept"]}
    assert kept["blocks.0.first"] == kept["blocks.0.second"] == 0
    assert kept["head.0"] == 8  # the skip is as wide as it was
    cut = with_weights(Design(SMALL.architecture, Plan.from_json(result["plan"])), Path(work.folder) / CUT)
    assert not any(name.startswith("blocks.0") for name in cut.state_dict())


def test_of_branches_and_channels_goes_what_costs_less(work: CutWork) -> None:
    """Which of two plans is taken is decided by the loss of each, whatever the scores said."""
    cutting = quiet(work)
    free = Decider(cutting.meter, "free", PRUNING.floor)
    scores = cutting._scores()
    turned = {name: (-out, None if into is None else -into) for name, (out, into) in scores.items()}
    plans = [free.decide(cutting.at.plan, each, Budget({"kept": 0.6})) for each in (scores, turned)]
    batches = list(cutting._batches(min(PRUNING.batches, BRANCH_BATCHES)))
    losses = []
    for plan in plans:
        with masked(cutting.network, plan), torch.no_grad():
            losses.append(sum(float(F.l1_loss(cutting.network(lr), hr)) for lr, hr in batches))
    assert losses[0] != losses[1]
    for order in (plans, plans[::-1]):
        assert cutting._best(order) == plans[losses.index(min(losses))]


def test_a_stopped_cutting_leaves_no_weights_and_does_not_begin_anew(work: CutWork) -> None:
    work = replace(work, pruning=replace(PRUNING, schedule="gradual"))
    assert run(work, stop_after(4)) is None  # two steps and a look, then in the first step of the second phase
    assert not (Path(work.folder) / CUT).exists()
    cutting = quiet(work)
    cutting._load()
    assert (cutting.at.phase, cutting.at.steps, [row["stage"] for row in cutting.at.path]) == (1, 2, ["start", "cut"])


OTHERS: dict[str, Callable[[CutWork, Path], CutWork]] = {
    "seed": lambda work, at: replace(work, seed=4),
    "budget": lambda work, at: replace(work, pruning=replace(work.pruning, budget={"parameters": 0.7})),
    "share": lambda work, at: replace(work, pruning=replace(work.pruning, budget={"flops": 0.6})),
    "strategy": lambda work, at: replace(work, pruning=replace(work.pruning, strategy="free")),
    "weights": lambda work, at: replace(work, weights=trained(SMALL, 2, at / "other.safetensors")),
    "training": lambda work, at: replace(work, training=replace(TRAINING, learning_rate=1e-3)),
    "plan": lambda work, at: replace(work, plan=Plan(SMALL.architecture.hash, {"head.0": ((0, 1), (0, 1, 2))})),
}


def test_the_state_of_another_work_is_not_used(work: CutWork, tmp_path: Path) -> None:
    work = replace(work, pruning=replace(PRUNING, schedule="gradual"))
    assert run(work, stop_after(4)) is None
    untouched = quiet(work)
    for name, change in OTHERS.items():
        other = change(work, tmp_path)
        cutting, fresh = quiet(other), quiet(other) if name == "weights" else untouched
        cutting._load()
        assert (cutting.at.phase, cutting.at.path) == (0, []), name
        for key, value in fresh.network.state_dict().items():
            assert torch.equal(cutting.network.state_dict()[key], value), name
    same = quiet(replace(work, training=replace(TRAINING, steps=80), tightened=0.9))  # neither is read here
    same._load()
    assert same.at.phase == 1


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def without_a_weight(file: Path) -> None:
    """As if another version had built the network otherwise: the rest would fit."""
    saved = torch.load(file, weights_only=True)
    saved["network"].popitem()
    torch.save(saved, file)


def without_the_path(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    torch.save({**saved, "at": "[1, 2]"}, file)


@pytest.mark.parametrize("damage", [cut_off, without_a_weight, without_the_path])
def test_a_damaged_state_starts_anew(work: CutWork, damage: Callable[[Path], None]) -> None:
    work = replace(work, pruning=replace(PRUNING, schedule="gradual"))
    assert run(work, stop_after(4)) is None
    damage(Path(work.folder) / "cutting.pt")
    cutting, fresh = quiet(work), quiet(work)
    cutting._load()
    assert (cutting.at.phase, cutting.at.path) == (0, [])
    for key, value in fresh.network.state_dict().items():
        assert torch.equal(cutting.network.state_dict()[key], value), key


# ---- what is decided elsewhere, and what cannot be done


def test_a_given_plan_is_cut_as_it_is(work: CutWork) -> None:
    """One that is not settled: outputs are closed that an input still names, and a writer that nobody reads is open."""
    every = tuple(range(8))
    kept = {"blocks.0.first": ((1, 4, 5), every), "blocks.0.second": (every, (1, 4, 7)), "body_conv": ((0, 3), every)}
    work = replace(work, plan=Plan(SMALL.architecture.hash, kept))
    assert run(work, stop_after(1)) is None
    assert run(work, stop_after(2)) is None  # after the cut, before the end
    result = run(work)
    assert [row["stage"] for row in result["path"]] == ["start", "cut"]
    plan = Plan.from_json(result["plan"])
    assert plan == Meter(SMALL).settled(Plan(SMALL.architecture.hash, kept))
    assert plan.kept["blocks.0.first"] == ((1, 4), every)
    assert plan.kept["blocks.0.second"] == (every, (1, 4))
    assert plan.kept["body_conv"] == ((0, 3), every)
    assert run(work) == result  # done again, nothing is done


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_is_written_where_the_budget_cannot_be_met(work: CutWork, schedule: str) -> None:
    pruning = replace(PRUNING, budget={"flops": 0.3}, floor_channels=7, schedule=schedule)
    with pytest.raises(InputError, match=r"'group' cannot reach flops <= 0\.3; the least .* is flops 0\.\d\d\d"):
        run(replace(work, pruning=pruning))
    assert not (Path(work.folder) / CUT).exists()


# ---- ticks and tocks


def values(cutting: Cutting) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in cutting.network.state_dict().items()}


def moved(cutting: Cutting, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in cutting.network.state_dict().items() if not torch.equal(value, before[name])}


def test_a_tick_moves_gates_alone_and_scores_them_on_the_way(work: CutWork) -> None:
    cutting = quiet(work)
    before = values(cutting)
    scores = cutting._tick()
    changed = moved(cutting, before)
    assert changed
    assert all(name.endswith((".out", ".into")) for name in changed)
    assert {name for name in before if name.endswith(".out")} <= changed
    assert cutting.at.steps == PRUNING.tick_steps
    assert set(scores) == set(cutting.gates)
    assert all((out > 0).all() for out, _ in scores.values())
    assert all(parameter.grad is None for parameter in cutting.network.parameters())
    cutting._train(2)
    assert {name for name in before if name.endswith("original")} <= moved(cutting, before)


def test_the_price_on_gates_makes_them_smaller(work: CutWork) -> None:
    sums = {}
    for decay in (0.0, 0.01):
        pruning = replace(PRUNING, gate_decay=decay)
        cutting = quiet(replace(work, pruning=pruning, training=replace(TRAINING, batch=1)))
        price = cutting._price_on_gates(torch.zeros(1), torch.zeros(1))
        assert float(price.detach()) == pytest.approx(
            decay * sum(gate.numel() for gate in cutting.gates.parameters()), rel=1e-5
        )
        cutting._train(6, cutting._price_on_gates)
        sums[decay] = sum(float(gate.detach().abs().sum()) for gate in cutting.gates.parameters())
    assert sums[0.01] < sums[0.0] - 0.05


def test_what_is_closed_stays_closed_while_the_rest_trains(work: CutWork) -> None:
    cutting = quiet(work)
    cutting._cut_to(cutting.meter.settled(Plan(SMALL.architecture.hash, {"blocks.0.first": ((2, 3), range(8))})), "cut")  # type: ignore[dict-item]
    cutting._train(2)
    weight = cutting.gates.weight("blocks.0.first")
    assert [bool(row.any()) for row in weight.flatten(1)] == [False, False, True, True, *[False] * 4]
    assert not cutting.gates.weight("blocks.0.second")[:, [0, 1, 4, 5, 6, 7]].any()


# ---- latency


def of_wide(work: CutWork, folder: Path) -> CutWork:
    calls = calls_of(inference_form(build(WIDE, device="meta")), SIZE)
    estimate = Estimate(stairs_of_16(calls), 0.0, complexity(WIDE).activations_m)
    pruning = replace(PRUNING, budget={"latency_ratio": 0.95}, step=None)
    weights = trained(WIDE, 1, folder / "wide.safetensors")
    protocol = Protocol(size=SIZE)
    return replace(work, design=WIDE, weights=weights, pruning=pruning, protocol=protocol, estimate=estimate)


def test_a_tightened_budget_goes_on_from_where_the_cutting_ended(work: CutWork, tmp_path: Path) -> None:
    work = of_wide(work, tmp_path)
    first = run(work)
    assert first["shares"]["latency_ratio"] <= 0.95
    assert first["path"][-1]["estimated_ratio"] == first["shares"]["latency_ratio"]
    factor = 0.9 * first["shares"]["latency_ratio"] / 0.95
    second = run(replace(work, tightened=factor))
    assert second["shares"]["latency_ratio"] <= 0.95 * factor
    assert second["path"][: len(first["path"])] == first["path"]
    assert len(second["path"]) == len(first["path"]) + 1
    plans = [Plan.from_json(result["plan"]).kept for result in (first, second)]
    for name, sides in plans[0].items():
        assert all(set(n) <= set(o) for o, n in zip(sides, plans[1][name], strict=True))
    small = inference_form(build(Design(WIDE.architecture, Plan.from_json(second["plan"])), device="meta"))
    uncut = inference_form(build(WIDE, device="meta"))
    ms = [sum(sixteens(c.kind, c.inputs, c.outputs) for c in calls_of(n, SIZE)) for n in (small, uncut)]
    assert ms[0] / ms[1] == pytest.approx(second["shares"]["latency_ratio"])
