"""Budgets and the meter: shares counted on cut networks, prices that say what a channel buys, what is refused."""

import json
from typing import Any

import pytest
from deciding import DESIGNS, PUBLISHED, counted, meter_of, timed, whole
from torch import nn

from paretosr.proxies.complexity import complexity
from paretosr.pruning.budget import BUDGETS, Budget, Footprint, Meter, footprints
from paretosr.pruning.settings import Pruning
from paretosr.spaces import Design, InputError, build
from paretosr.spaces.flow import closed
from paretosr.spaces.plan import Plan

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]

# ---- budgets


def test_all_shares_must_hold() -> None:
    budget = Budget({"flops": 0.5, "latency_ratio": 0.65})
    assert budget.met({"flops": 0.5, "latency_ratio": 0.65, "kept": 1.0})
    assert budget.met({"flops": 0.5 + 1e-12, "latency_ratio": 0.1})
    assert not budget.met({"flops": 0.51, "latency_ratio": 0.1})
    assert not budget.met({"flops": 0.1, "latency_ratio": 0.651})
    assert str(budget) == "flops <= 0.5, latency_ratio <= 0.65"


def test_part_of_the_way() -> None:
    budget = Budget({"flops": 0.6, "kept": 0.2})
    half = budget.towards(0.5).shares
    assert half == pytest.approx({"flops": 0.8, "kept": 0.6})
    assert budget.towards(1.0).shares == pytest.approx(budget.shares)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({}, "budget: must name at least one share, like flops: 0.5"),
        ({"flop": 0.5}, "no budget 'flop'"),
        *[({"flops": share}, "budget.flops: must be a share of the") for share in (0, 1, 1.5, -0.1, True, "0.5")],
        ({"kept": 0.5, "flops": float("nan")}, "budget.flops: must be a share of the"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(shares: dict, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Budget(shares)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the meter


@pytest.mark.parametrize("name", [*DESIGNS, *SLOW])
def test_the_whole_is_one_and_shares_are_those_of_the_cut_network(name: str) -> None:
    meter = meter_of(name)
    shares = meter.shares(whole(meter))
    assert shares == {"kept": 1, "flops": 1, "activations": 1, "parameters": 1}
    assert set(BUDGETS) - set(shares) == {"memory", "latency_ratio"}  # not without a GPU, not without stairs
    free = [slot for slot in meter.slots.group if not slot.frozen]
    plan = meter.settled(closed(meter.flow, free[::3], meter.design.architecture.hash))
    assert meter.shares(plan) == pytest.approx(counted(meter, plan))
    cut = build(Design(meter.design.architecture, plan), device="meta")
    assert meter.shares(plan)["flops"] == pytest.approx(complexity(cut).flops_g / complexity(meter.design).flops_g)
    assert max(meter.shares(plan).values()) < 1


def test_latency_is_that_of_the_stairs_and_of_the_rest_by_activations() -> None:
    plan = Plan(DESIGNS["wide"].architecture.hash, {"blocks.0.first": (tuple(range(32)), tuple(range(48)))})
    for rest_ms in (0.0, 50.0):
        meter = timed("wide", rest_ms)
        assert meter.shares(whole(meter))["latency_ratio"] == 1
        assert meter.shares(plan)["latency_ratio"] == pytest.approx(counted(meter, plan)["latency_ratio"])
    # By hand: with all its time in the rest, the share is that of the activations.
    far = timed("wide", 1e9)
    assert far.shares(plan)["latency_ratio"] == pytest.approx(far.shares(plan)["activations"], abs=1e-4)


def test_what_follows_from_a_plan_is_counted() -> None:
    """Closing the outputs alone closes the inputs that read them, and the shares are those of both."""
    meter = meter_of("residual")
    half = tuple(range(16))
    one = Plan(whole(meter).architecture, {"blocks.0.first": (half, tuple(range(32)))})
    both = Plan(one.architecture, {**one.kept, "blocks.0.second": (tuple(range(32)), half)})
    assert meter.settled(one) == both
    assert meter.shares(one) == meter.shares(both)
    assert meter.shares(one)["kept"] == pytest.approx(1 - 32 / sum(map(sum, meter.flow.widths.values())))


def test_the_inputs_of_a_depthwise_convolution_go_with_its_outputs() -> None:
    meter = meter_of("depthwise")
    slots = [slot for slot in meter.slots.group if not slot.frozen and slot.members[0].name == "blocks.1.widen"]
    plan = meter.settled(closed(meter.flow, slots[:8], whole(meter).architecture))
    assert [len(side) for side in plan.kept["blocks.1.filter"]] == [40, 40]
    assert meter.settled(plan) == plan


# ---- prices


@pytest.mark.parametrize("name", ["blocks", "depthwise", "shuffles"])
def test_footprints_tell_the_flops_of_the_whole(name: str) -> None:
    meter = meter_of(name)
    macs = sum(meter.footprints[n].macs(*widths) for n, widths in meter.flow.widths.items())
    counts = complexity(meter.design)
    # The challenge's FLOPs hold more than multiply-adds of convolutions; what is left out is small.
    assert macs / 1e9 == pytest.approx(counts.flops_g, rel=0.03)
    weights = sum(o * (meter.footprints[n].area * meter.footprints[n].fan_in(i) + 1) for n, (o, i) in widths_of(meter))
    assert weights == counts.parameters


def widths_of(meter: Meter) -> list[tuple[str, tuple[int, int]]]:
    return list(meter.flow.widths.items())


def test_a_footprint_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 5, padding=2, groups=8))
    shared = nn.Sequential(network, nn.Conv2d(8, 4, 1), nn.ConvTranspose2d(4, 2, 4, stride=2))
    found = footprints(shared.to("meta"))
    assert found["0.0"] == Footprint(128 * 128, 9, 1)
    assert found["0.1"] == Footprint(128 * 128, 25, 8)
    assert found["2"] == Footprint(128 * 128, 16, 1)  # of the input: each of its pixels meets the whole kernel
    assert found["0.0"].macs(8, 3) == 128 * 128 * 9 * 24
    assert found["0.1"].macs(8, 8) == 128 * 128 * 25 * 8
    assert found["0.1"].macs(5, 5) == found["0.1"].macs(5, 8) == 128 * 128 * 25 * 5
    assert not any(module._forward_hooks for module in shared.modules())


@pytest.mark.parametrize("kind", ["flops", "activations", "parameters", "kept"])
def test_a_price_is_what_closing_an_edge_takes_off(kind: str) -> None:
    meter = meter_of("residual")
    price = meter.price(Budget({kind: 0.5}))
    gone = [slot for slot in meter.slots.inner if slot.members[0].name == "blocks.0.first"][:8]
    plan = closed(meter.flow, gone, whole(meter).architecture)
    bought = sum(price(n, *meter.flow.widths[n]) for n in meter.flow.widths) - sum(
        price(n, *(len(side) for side in plan.kept.get(n, map(range, meter.flow.widths[n])))) for n in meter.flow.widths
    )
    assert sum(price(n, *meter.flow.widths[n]) for n in meter.flow.widths) == pytest.approx(1)
    assert bought == pytest.approx(1 - counted(meter, plan)[kind], rel=0.02)
    assert price("head.0", 0, 3) == price("head.0", 32, 0) == 0


def test_a_price_in_milliseconds_has_the_steps_of_the_stairs() -> None:
    meter = timed("wide")
    price = meter.price(Budget({"latency_ratio": 0.5}))
    prices = [price("blocks.0.first", width, 48) for width in (48, 40, 33, 32, 17, 16)]
    assert prices[0] == prices[1] == prices[2] > prices[3] == prices[4] > prices[5]
    two = meter.price(Budget({"latency_ratio": 0.5, "flops": 0.5}))
    flops = meter.price(Budget({"flops": 0.5}))
    assert two("blocks.0.first", 40, 48) == pytest.approx(prices[1] + flops("blocks.0.first", 40, 48))


# ---- what is refused


def test_a_network_that_is_cut_already_is_refused() -> None:
    design = Design(DESIGNS["residual"].architecture, whole(meter_of("residual")))
    with pytest.raises(InputError, match="a network that is cut already is not cut again"):
        Meter(design)


def test_the_meter_leaves_no_weights_behind() -> None:
    """Everything is on the meta device: the counts of a large network cost no memory."""
    meter = meter_of("blocks")
    assert {parameter.device.type for parameter in meter.flow.network.parameters()} == {"meta"}


# ---- settings


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"strategy": "iner"}, "no strategy 'iner'"),
        ({"criterion": "l3"}, "no criterion 'l3'"),
        ({"schedule": "twice"}, "no schedule 'twice'"),
        ({"budget": {}}, "budget: must name at least one share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(what: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Pruning(**{"budget": {"flops": 0.7}, **what})


def test_settings_go_to_json_and_back() -> None:
    pruning = Pruning(budget={"flops": 0.7}, floor_channels=3, floor_share=0.3, schedule="gradual")
    assert pruning.limits == Budget({"flops": 0.7})
    assert [pruning.floor.of(width) for width in (2, 10, 20)] == [2, 3, 6]
    assert Pruning(**json.loads(json.dumps(pruning.to_json()))) == pruning
