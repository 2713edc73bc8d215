"""Deciding: budgets reached and no further, on the cut network itself; what cannot be reached; the order of pieces."""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
import torch
from deciding import counted, drawn, meter_of, timed, whole

from paretosr.pruning.budget import BUDGETS, Budget, Meter
from paretosr.pruning.decide import Decider, by_worth, closing, evenly
from paretosr.pruning.strategies import STRATEGIES, Floor, Piece, Places, Track, inner
from paretosr.runs.pruning_jobs import furthest
from paretosr.search.candidate import Candidate
from paretosr.spaces import Architecture, Block, Design, InputError
from paretosr.spaces.flow import Member
from paretosr.spaces.flow.slots import IN, OUT
from paretosr.spaces.plan import Plan

FLOOR = Floor(4, 0.25)
COUNTED = tuple(name for name in BUDGETS if name != "memory")  # which needs a GPU
# All strategies by two kinds of budgets and all kinds by one strategy; the rest is slow only by its number.
QUICK = {
    *((strategy, kind) for strategy in STRATEGIES for kind in ("flops", "latency_ratio")),
    *(("group", k) for k in COUNTED),
}
PAIRS = [
    pytest.param(strategy, kind, marks=() if (strategy, kind) in QUICK else pytest.mark.slow)
    for strategy in STRATEGIES
    for kind in COUNTED
]


def reachable(meter: Meter, strategy: str, kind: str, part: float = 0.6) -> Budget:
    """A budget this part of the way to the least that a strategy can leave without taking branches."""
    decider = Decider(meter, strategy, FLOOR)
    pieces = decider.sequence(whole(meter), drawn(meter.flow), Budget({kind: 0.5}), {})
    least = counted(meter, closing(meter, whole(meter), pieces))[kind]
    assert least < 0.95
    return Budget({kind: 1 - part * (1 - least)})


def closed_by(meter: Meter, plan: Plan) -> set[Member]:
    """The channels that a plan closes."""
    return {
        Member(name, side, channel)
        for name, sides in plan.kept.items()
        for side, width, kept in zip((OUT, IN), meter.flow.widths[name], sides, strict=True)
        for channel in set(range(width)) - set(kept)
    }


def assert_no_further(meter: Meter, decider: Decider, budget: Budget, plan: Plan) -> None:
    """The pieces of the plan are the first ones of the order, and without the last of them the budget is missed."""
    pieces = decider.sequence(whole(meter), drawn(meter.flow), budget, {})
    gone = closed_by(meter, plan)
    count = next((at for at, piece in enumerate(pieces) if not gone.issuperset(piece.members)), len(pieces))
    bare = meter.settled(Plan(plan.architecture, plan.kept))
    while meter.settled(closing(meter, whole(meter), pieces[: count - 1])) == bare:
        count -= 1  # the last one went with the others
    assert meter.settled(closing(meter, whole(meter), pieces[:count])) == bare
    assert not budget.met(counted(meter, closing(meter, whole(meter), pieces[: count - 1])))


@pytest.mark.parametrize(("strategy", "kind"), PAIRS)
def test_every_budget_is_reached_on_the_cut_network_and_no_more_is_cut(strategy: str, kind: str) -> None:
    meter = timed("residual", 0.1)
    budget, decider = reachable(meter, strategy, kind), Decider(meter, strategy, FLOOR)
    plan = decider.decide(whole(meter), drawn(meter.flow), budget)
    found = counted(meter, plan)
    assert budget.met(found), found
    assert meter.shares(plan) == pytest.approx(found)
    assert_no_further(meter, decider, budget, plan)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name",
    ["blocks", "shuffles", "depthwise", *(pytest.param(n, marks=pytest.mark.slow) for n in ("msrresnet", "hcsrn"))],
)
def test_every_kind_of_network_is_cut(name: str, strategy: str) -> None:
    meter = meter_of(name)
    budget, decider = reachable(meter, strategy, "flops"), Decider(meter, strategy, FLOOR)
    plan = decider.decide(whole(meter), drawn(meter.flow), budget)
    assert budget.met(counted(meter, plan))
    assert_no_further(meter, decider, budget, plan)


def test_all_shares_of_a_budget_hold() -> None:
    meter = meter_of("residual")
    budget = Budget({"flops": 0.7, "parameters": 0.65, "activations": 0.9})
    found = counted(meter, Decider(meter, "inner", FLOOR).decide(whole(meter), drawn(meter.flow), budget))
    assert budget.met(found)
    assert found["parameters"] > 0.55  # not the least that there is


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cutting_further_only_closes_more(strategy: str) -> None:
    meter = meter_of("depthwise")
    decider, plan, plans = Decider(meter, strategy, FLOOR), whole(meter), set()
    for turn, part in enumerate((0.2, 0.45, 0.7)):
        before, budget = plan, reachable(meter, strategy, "flops", part)
        plan = decider.decide(before, drawn(meter.flow, seed=turn), budget)  # the scores are others each time
        assert budget.met(counted(meter, plan))
        for name, widths in meter.flow.widths.items():
            old, new = (p.kept.get(name, tuple(map(range, widths))) for p in (before, plan))
            assert all(set(n) <= set(o) for o, n in zip(old, new, strict=True)), name
        plans.add(plan.hash)
    assert len(plans) > 1


def test_what_is_met_already_is_left_as_it_is() -> None:
    meter = meter_of("residual")
    decider, budget = Decider(meter, "free", FLOOR), Budget({"flops": 0.8})
    plan = decider.decide(whole(meter), drawn(meter.flow), budget)
    assert decider.decide(plan, drawn(meter.flow, seed=1), budget) == plan


# ---- what cannot be had


@pytest.mark.parametrize(("strategy", "kind"), PAIRS)
def test_the_least_is_said_where_a_budget_cannot_be_met(strategy: str, kind: str) -> None:
    meter = timed("residual", 0.1)
    decider, budget = Decider(meter, strategy, Floor(8, 0.5)), Budget({kind: 0.01})
    pieces = decider.sequence(whole(meter), drawn(meter.flow), budget, {})
    least = counted(meter, closing(meter, whole(meter), pieces))[kind]
    with pytest.raises(InputError) as caught:
        decider.decide(whole(meter), drawn(meter.flow), budget)
    with pytest.raises(InputError) as beforehand:
        decider.refuse_unreachable(budget, with_branches=False)
    numbers = []
    for error in (caught, beforehand):
        said = str(error.value)
        assert f"'{strategy}' cannot reach {kind} <= 0.01" in said
        assert "floor of 8 channels and 0.5 of each place" in said
        number = re.search(rf"is {kind} (\d\.\d+)$", said)
        assert number is not None, said
        numbers.append(float(number[1]))
    assert numbers[0] == pytest.approx(least, abs=6e-4)
    if strategy in ("inner", "group", "uniform"):  # which channels are left makes no difference
        assert numbers[1] == numbers[0]
    else:  # sides that keep the same channels have the most of them alive
        assert numbers[1] >= numbers[0]


def test_the_least_of_a_group_is_what_its_floors_leave() -> None:
    """By hand: every stream of 32 keeps 16, so that six of eight convolutions have a quarter of their weights."""
    meter = meter_of("residual")
    with pytest.raises(InputError, match=r"parameters (\d\.\d+)$") as caught:
        Decider(meter, "group", Floor(8, 0.5)).decide(whole(meter), drawn(meter.flow), Budget({"parameters": 0.01}))

    def parameters(width: int) -> int:
        body = 5 * (9 * width + 1) * width  # two blocks of two, and the one behind them
        return (9 * 3 + 1) * width + body + (9 * width + 1) * 48

    assert str(caught.value).endswith(f"{parameters(16) / parameters(32):.3f}")


def test_a_reachable_budget_is_not_refused() -> None:
    meter = meter_of("residual")
    for strategy in STRATEGIES:
        Decider(meter, strategy, FLOOR).refuse_unreachable(reachable(meter, strategy, "flops", 0.9))


def test_a_plan_that_leaves_the_image_alone_is_refused() -> None:
    """Sides that close independently may part for good: one block of 8 is written, and another one is read."""
    meter = Meter(Design(Architecture(16, (Block("residual"),), image_skip="bilinear")))
    scores = {name: (torch.ones(outs), torch.ones(ins)) for name, (outs, ins) in meter.flow.widths.items()}
    for name in ("head.0", "blocks.0.second", "body_conv"):
        scores[name][0][8:] = 0
    for name in ("blocks.0.first", "body_conv", "upsampler.conv"):
        scores[name][1][:8] = 0
    decider = Decider(meter, "block", Floor(8, 0.25), per_cost=False)
    with pytest.raises(InputError, match=r"'block' leaves within kept <= 0\.3 is the enlarged image alone; raise"):
        decider.decide(whole(meter), scores, Budget({"kept": 0.3}))


# ---- latency by stairs


@pytest.mark.parametrize("share", [0.9, 0.75, 0.6])
def test_inner_leaves_no_width_just_above_a_tread(share: float) -> None:
    meter = timed("wide")
    scores, budget = drawn(meter.flow), Budget({"latency_ratio": share})
    plan = Decider(meter, "inner", FLOOR).decide(whole(meter), scores, budget)
    assert counted(meter, plan)["latency_ratio"] <= share
    gone = closed_by(meter, plan)
    tracks = inner(Places(meter.flow, meter.slots, scores, whole(meter), FLOOR))
    taken = [[piece for piece in track.pieces if gone.issuperset(piece.members)] for track in tracks]
    assert sum(map(bool, taken)) > 1
    for track in filter(None, taken):  # what was taken last from each edge, given back, costs time
        others = [piece for pieces in taken for piece in pieces if piece is not track[-1]]
        back = counted(meter, closing(meter, whole(meter), others))["latency_ratio"]
        assert back > counted(meter, plan)["latency_ratio"] + 1e-6, track[-1].lost
    assert len(plan.kept.get("blocks.0.first", (range(48),))[0]) % 16 == 0


def test_what_a_plan_has_cut_already_is_priced_as_it_is() -> None:
    """From 40 channels one piece crosses the tread at 32, which from 48 it would not."""
    meter, ends = timed("wide"), ("blocks.0.first", "blocks.0.second")
    few, all_ = tuple(range(40)), tuple(range(48))
    plan = Plan(whole(meter).architecture, {ends[0]: (few, all_), ends[1]: (all_, few)})
    decider = Decider(meter, "inner", Floor(32, 0.0))
    pieces = decider.sequence(plan, drawn(meter.flow), Budget({"latency_ratio": 0.9}), {})
    assert [dict(piece.lost) for piece in pieces if (ends[0], OUT) in piece.lost] == [
        {(ends[0], OUT): 8, (ends[1], IN): 8}
    ]


def test_by_counts_widths_between_the_treads_are_left() -> None:
    """The same network and scores by FLOPs: without that the test above could not fail."""
    meter = timed("wide")
    plan = Decider(meter, "inner", FLOOR).decide(whole(meter), drawn(meter.flow), Budget({"flops": 0.75}))
    assert len(plan.kept["blocks.0.first"][0]) % 16


# ---- whole branches


def test_a_branch_that_goes_beyond_the_budget_is_weighed_against_what_comes_after_it() -> None:
    meter = meter_of("residual")
    branch = meter.slots.branches[0]
    scores, budget = drawn(meter.flow), Budget({"flops": 0.97})
    decider = Decider(meter, "inner", FLOOR)
    channels = decider.decide(whole(meter), scores, budget)
    gone = closed_by(meter, channels)
    pieces = decider.sequence(whole(meter), scores, budget, {})
    alone = sum(piece.score for piece in pieces if gone.issuperset(piece.members))
    for score, taken in ((0.9 * alone, True), (1.1 * alone, False)):  # for what it buys it is the best either way
        assert decider.sequence(whole(meter), scores, budget, {branch.node: score})[0].kills
        plan = decider.decide(whole(meter), scores, budget, {branch.node: score})
        assert (plan.kept.get(branch.closes[0]) == ((), ())) == taken
        assert taken or plan == channels


def test_a_branch_without_which_nothing_gets_through_is_left_out() -> None:
    meter = meter_of("residual")
    head = [Member("head.0", OUT, channel) for channel in range(32)]
    half = Piece(tuple(head[:16]), 0.0, kills=("head.0",))  # by itself it may go
    rest = Piece(tuple(head[16:]), 0.0, kills=("head.0",))
    last = Piece((Member("body_conv", OUT, 0),), 1.0)
    decider = Decider(meter, "inner", FLOOR)
    assert list(decider._safe(whole(meter), [half, rest, last])) == [half, last]


def test_the_image_still_gets_through_when_every_branch_is_worth_nothing() -> None:
    meter = meter_of("blocks")
    branches = dict.fromkeys((branch.node for branch in meter.slots.branches), 0.0)
    plan = Decider(meter, "inner", FLOOR).decide(whole(meter), drawn(meter.flow), Budget({"flops": 0.3}), branches)
    assert meter.passes_image(plan)
    dead = [name for name, (outs, _) in plan.kept.items() if not outs]
    assert dead
    killed = {name for branch in meter.slots.branches for name in branch.convolutions}
    assert set(dead) <= killed


# ---- the order of pieces, on tracks made by hand


def track(name: str, *scores: float, kills: tuple[str, ...] = ()) -> Track:
    return Track(tuple(Piece((Member(name, OUT, at),), score, kills) for at, score in enumerate(scores)))


def order(tracks: Sequence[Track], widths: Mapping[str, Sequence[int]], price) -> list[tuple[str, int]]:
    """Which pieces go, by convolution and channel."""
    pieces = by_worth(tracks, {name: list(sides) for name, sides in widths.items()}, price)
    return [(piece.members[0].name, piece.members[0].channel) for piece in pieces]


def test_the_least_score_for_what_it_buys_goes_first() -> None:
    tracks = [track("a", 0.1, 0.2), track("b", 0.5, 1.1)]
    widths = {"a": [4, 1], "b": [4, 1]}
    assert order(tracks, widths, lambda name, outs, ins: outs) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    dear = order(tracks, widths, lambda name, outs, ins: outs * (10 if name == "b" else 1))
    assert dear == [("b", 0), ("a", 0), ("b", 1), ("a", 1)]  # 0.05, 0.1, 0.11, 0.2


def test_a_tread_goes_with_the_step_below_it_or_not_at_all() -> None:
    def stairs(name: str, outs: int, ins: int) -> float:
        return -(-outs // 2) if name == "a" else outs

    a, b = track("a", 1.0, 1.0, 1.0), track("b", 1.5, 1.6)
    # From 4 channels two must go for a step: together 2.0 for one; the third alone buys nothing.
    assert order([a, b], {"a": [4, 1], "b": [4, 1]}, stairs) == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    # From 3 the first buys a step by itself.
    assert order([a, b], {"a": [3, 1], "b": [4, 1]}, stairs) == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2)]


def test_a_dead_convolution_buys_nothing_more() -> None:
    tracks = [track("a", 0.1, kills=("a", "b")), track("b", 0.9, 0.9), track("c", 5.0)]
    widths = {"a": [2, 1], "b": [2, 1], "c": [2, 1]}
    assert order(tracks, widths, lambda name, outs, ins: outs) == [("a", 0), ("c", 0)]


def greedy(tracks: Sequence[Track], widths: dict[str, list[int]], price) -> list[Piece]:
    """The same rule with every track priced anew at every step."""
    left, found = [list(t.pieces) for t in tracks], []
    while True:
        best = None
        for pieces in left:
            score, lost = 0.0, {name: [0, 0] for name in widths}
            for count, piece in enumerate(pieces, 1):
                score += piece.score
                for member in piece.members:
                    lost[member.name][member.side == IN] += 1
                bought = sum(
                    price(n, *widths[n]) - price(n, *(w - gone for w, gone in zip(widths[n], lost[n], strict=True)))
                    for n in widths
                )
                if bought > 1e-12 and (best is None or score / bought < best[0]):
                    best = score / bought, pieces, count
        if best is None:
            return found
        for piece in best[1][: best[2]]:
            found.append(piece)
            for member in piece.members:
                widths[member.name][member.side == IN] -= 1
        del best[1][: best[2]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tread", [1, 3])
def test_pricing_a_track_only_when_it_is_on_top_gives_what_pricing_all_does(seed: int, tread: int) -> None:
    """Edges of a chain of convolutions, whose price is a product: each edge makes its neighbours cheaper."""
    draw = random.Random(seed)
    names = "abcdef"
    tracks = []
    for one, two in pairwise(names):
        scores = sorted(draw.random() for _ in range(6))
        members = [(Member(one, OUT, c), Member(two, IN, c)) for c in range(6)]
        tracks.append(Track(tuple(Piece(pair, score) for pair, score in zip(members, scores, strict=True))))
    costs = {name: draw.random() for name in names}

    def price(name: str, outs: int, ins: int) -> float:
        return costs[name] * -(-outs // tread) * -(-ins // tread)

    found = list(by_worth(tracks, {name: [8, 8] for name in names}, price))
    assert found == greedy(tracks, {name: [8, 8] for name in names}, price)
    assert len(found) > 10


def test_evenly_all_tracks_lose_the_same_share() -> None:
    tracks = [track("a", *[9.0] * 8), track("b", *[1.0] * 4), track("c", 5.0, 1.0)]
    pieces = evenly(tracks)
    assert len(pieces) == 14
    for count in range(15):
        gone = {name: sum(p.members[0].name == name for p in pieces[:count]) for name in "abc"}
        shares = [gone[name] / len(of.pieces) for name, of in zip("abc", tracks, strict=True)]
        assert max(shares) - min(shares) <= 0.5  # one piece of the shortest
    assert [p.members[0].channel for p in pieces if p.members[0].name == "c"] == [0, 1]


# ---- which members of a front are pruned


def member(number: int, ratio: float, psnr_db: float = 27.0) -> Candidate:
    design = Design(Architecture(8, (Block("residual"),)))
    return Candidate(number, design, "complete", numbers={"psnr_db": psnr_db, "latency_ratio": ratio})


def test_the_winner_and_then_who_lies_furthest_off() -> None:
    front = [member(n, ratio) for n, ratio in enumerate((0.1, 0.2, 0.5, 0.55, 1.0))]
    objectives = ("psnr_db", "latency_ratio")
    assert furthest(front, 3, 1, objectives) == [3]
    assert furthest(front, 3, 3, objectives) == [3, 0, 4]  # 0.45 off either way: the first; then 1.0
    assert furthest(front, 3, 4, objectives) == [3, 0, 4, 1]  # 0.1 from 0, 2 is 0.05 from 3
    assert furthest(front, 3, None, objectives) == furthest(front, 3, 9, objectives) == [0, 1, 2, 3, 4]
    assert furthest(front, None, 2, objectives) == [0, 4]
    assert furthest([], 3, 2, objectives) == []
