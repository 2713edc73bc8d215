"""Strategies: what goes together, in which steps, down to which floors, and what that makes of the cut network."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from deciding import DESIGNS, drawn, meter_of, primitives_of, whole

from paretosr.proxies.stairs import grid
from paretosr.pruning.budget import Budget, Meter
from paretosr.pruning.criteria import Scores
from paretosr.pruning.decide import Decider, closing
from paretosr.pruning.strategies import LADDER, STRATEGIES, Floor, Places, place_of, stream_order
from paretosr.spaces.flow import Member, Slot
from paretosr.spaces.flow.slots import IN, OUT
from paretosr.spaces.plan import Plan

FLOOR = Floor(4, 0.25)
NAMES = ("blocks", "shuffles", "depthwise", "residual")


def cut(name: str, strategy: str, share: float = 0.6, floor: Floor = FLOOR, scores: Scores | None = None) -> Plan:
    meter = meter_of(name)
    decider = Decider(meter, strategy, floor)
    return decider.decide(whole(meter), scores or drawn(meter.flow), Budget({"flops": share}))


def least(meter: Meter, strategy: str, floor: Floor, step: int | None = None) -> Plan:
    """All that the floors allow to go, without what follows from it."""
    decider = Decider(meter, strategy, floor, step)
    return closing(meter, whole(meter), decider.sequence(whole(meter), drawn(meter.flow), Budget({"kept": 0.5}), {}))


def is_open(meter: Meter, plan: Plan, member: Member) -> bool:
    outs, ins = plan.kept.get(member.name, tuple(map(range, meter.flow.widths[member.name])))
    return member.channel in (outs if member.side == OUT else ins)


def open_of(meter: Meter, plan: Plan, slots: list[Slot]) -> list[Slot]:
    return [slot for slot in slots if all(is_open(meter, plan, member) for member in slot.members)]


def placed(slots: tuple[Slot, ...]) -> Iterator[list[Slot]]:
    """The slots that are free to go, by where they are."""
    found: dict[object, list[Slot]] = {}
    for slot in slots:
        if not slot.frozen:
            found.setdefault(place_of(slot), []).append(slot)
    return iter(found.values())


# ---- inner


@pytest.mark.parametrize("name", NAMES)
def test_inner_leaves_the_skips_as_they_are_and_gathers_nothing(name: str) -> None:
    meter, plan = meter_of(name), least(meter_of(name), "inner", FLOOR)
    assert plan.kept
    for slot in meter.slots.fine:
        if not slot.is_edge or slot.frozen:
            assert all(is_open(meter, plan, member) for member in slot.members), slot
    assert not primitives_of(meter, plan)
    narrowed = 0
    for slots in placed(meter.slots.inner):
        left = len(open_of(meter, plan, slots))
        assert left in grid(len(slots))
        narrowed += left < len(slots)
        # Both ends of an edge lose the same channels.
        assert left == sum(any(is_open(meter, plan, m) for m in slot.members) for slot in slots)
    assert narrowed


@pytest.mark.parametrize("name", NAMES)
def test_every_branch_goes_whole_and_alone(name: str) -> None:
    meter = meter_of(name)
    assert meter.slots.branches
    for branch in meter.slots.branches:
        decider = Decider(meter, "inner", Floor(1024, 0))  # no edge can go
        pieces = decider.sequence(whole(meter), drawn(meter.flow), Budget({"flops": 0.5}), {branch.node: 1.0})
        assert len(pieces) == 1
        plan = meter.settled(closing(meter, whole(meter), pieces))
        assert {n for n, (outs, _) in plan.kept.items() if not outs} == set(branch.convolutions)
        assert pieces[0].score == 1.0


# ---- group and uniform


@pytest.mark.parametrize("strategy", ["group", "uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_all_sides_of_a_stream_keep_the_same_channels(name: str, strategy: str) -> None:
    meter = meter_of(name)
    plan, streams = meter.settled(least(meter, strategy, FLOOR)), 0
    for slot in meter.slots.group:
        states = {is_open(meter, plan, member) for member in slot.members}
        assert len(states) == 1 or slot.frozen, slot
        streams += states == {False} and len({member.name for member in slot.members}) > 2
    assert streams  # a skip was narrowed
    assert not primitives_of(meter, plan)


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("name", NAMES)
def test_uniform_takes_the_same_share_everywhere(name: str, share: float) -> None:
    meter, plan = meter_of(name), cut(name, "uniform", share, Floor(1, 0.25))
    shares, steps = [], []
    for slots in placed(meter.slots.group):
        shares.append(len(open_of(meter, plan, slots)) / len(slots))
        widths = (0, *grid(len(slots)))
        steps.append(max(b - a for a, b in pairwise(widths)) / len(slots))
    assert max(shares) - min(shares) <= max(steps) + 1e-9
    assert min(shares) < 1


# ---- the fine-grained ones


def test_block_keeps_aligned_blocks_of_the_streams() -> None:
    meter, plan = meter_of("residual"), cut("residual", "block", 0.5, Floor(8, 0.25))
    edges = {(m.name, m.side) for slot in meter.slots.inner for m in slot.members}
    narrowed = set()
    for name, widths in meter.flow.widths.items():
        for side, width, kept in zip((OUT, IN), widths, plan.kept.get(name, ()), strict=False):
            if (name, side) not in edges and len(kept) < width:
                narrowed.add(side)
                assert set(kept) == {c for c in range(width) if c - c % 8 in kept}, (name, side)
    assert IN in narrowed


def test_a_block_of_what_pixelshuffle_lays_together_is_as_wide_as_its_pixels() -> None:
    """One slot of four outputs: a block of 8 are 32 outputs, and the 8 inputs behind them."""
    meter = meter_of("shuffles")
    units = [slot for slot in meter.slots.fine if slot.is_edge and slot.members[0].name == "upsampler.step_1"]
    assert [len(unit.members) for unit in units] == [5] * 16
    plan = least(meter, "block", Floor(8, 0.25))
    left = open_of(meter, plan, units)
    assert len(left) == 8
    outs = sorted(m.channel for slot in left for m in slot.members if m.side == OUT)
    assert all({c - c % 4 + i for i in range(4)} <= set(outs) for c in outs)


def stretches(meter: Meter, plan: Plan, decider: Decider) -> Iterator[tuple[str, str, list[int], list[int]]]:
    """For each side of a convolution on a stream: the places of the stream that are alive, and those it keeps."""
    assert decider.stream is not None
    place = {m: at for at, index in enumerate(decider.stream) for m in meter.slots.group[index].members}
    stream = {m: place_of(slot) for slot in meter.slots.group if not slot.frozen for m in slot.members}
    alive: dict[object, set[int]] = {}
    kept: dict[tuple[str, str, object], list[int]] = {}
    for member, of in stream.items():
        if is_open(meter, plan, member):
            alive.setdefault(of, set()).add(place[member])
            kept.setdefault((member.name, member.side, of), []).append(place[member])
    for (name, side, of), places in kept.items():
        yield name, side, sorted(alive[of]), sorted(places)


@pytest.mark.parametrize("name", ["residual", "blocks"])
def test_interval_keeps_one_stretch_of_each_stream(name: str) -> None:
    meter = meter_of(name)
    decider = Decider(meter, "interval", Floor(4, 0.25), step=4)
    plan = decider.decide(whole(meter), drawn(meter.flow), Budget({"flops": 0.4}))
    narrowed = 0
    for side in stretches(meter, plan, decider):
        _, _, alive, places = side
        at = alive.index(places[0])
        assert places == alive[at : at + len(places)], side
        narrowed += len(places) < len(alive)
    assert narrowed
    assert plan.order


def low_outputs(meter: Meter, seed: int) -> Scores:
    """Scores by which what writes to the streams goes first, each from another end."""
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: (10 * torch.rand(outputs, generator=generator), 10 * torch.rand(inputs, generator=generator))
        for name, (outputs, inputs) in meter.flow.widths.items()
    }
    for name in ("head.0", "blocks.0.second", "blocks.1.second", "body_conv"):
        scores[name] = 0.01 * torch.rand(32, generator=generator) ** 4, scores[name][1]
    return scores


@pytest.mark.parametrize("share", [0.85, 0.6])
@pytest.mark.parametrize("seed", [0, 7, 12, 14])
def test_interval_needs_no_index_on_residual_networks(seed: int, share: float) -> None:
    """Two writers of a stream that lack another end each: their sum is laid out as the stream is."""
    meter = meter_of("residual")
    decider = Decider(meter, "interval", Floor(8, 0.25))
    plan = decider.decide(whole(meter), low_outputs(meter, seed), Budget({"activations": share}))
    kinds = set(primitives_of(meter, plan).values())
    assert kinds <= {"AddSlice", "Pad"}
    assert "AddSlice" in kinds


def test_interval_gathers_no_image_and_only_masks_of_attentions() -> None:
    """Masks stay as they are made; nothing in between them and the stream says how it lies."""
    meter, plan = meter_of("blocks"), cut("blocks", "interval", 0.6)
    small = primitives_of(meter, plan)
    assert set(small.values()) <= {"AddSlice", "Pad", "Take"}
    assert sum(kind == "Take" for kind in small.values()) <= 1
    for name, widths in meter.flow.widths.items():  # the colours of the output lie as they did
        if widths[0] == 48:
            assert name not in plan.order


def test_free_goes_channel_by_channel() -> None:
    meter = meter_of("depthwise")
    tracks = STRATEGIES["free"].tracks(Places(meter.flow, meter.slots, drawn(meter.flow), whole(meter), Floor(1, 0)))
    slots = {frozenset(slot.members) for slot in meter.slots.fine if not slot.frozen}
    pieces = [piece for track in tracks for piece in track.pieces]
    assert {frozenset(piece.members) for piece in pieces} <= slots
    assert len(pieces) == len(slots) - len(tracks)  # one of each place stays
    for track in tracks:
        assert [p.score for p in track.pieces] == sorted(p.score for p in track.pieces)


# ---- floors


@pytest.mark.parametrize("floor", [Floor(6, 0.0), Floor(1, 0.5), Floor(4, 0.25)], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_place_keeps_its_floor_and_can_go_down_to_it(strategy: str, floor: Floor) -> None:
    meter = meter_of("blocks")
    plan = least(meter, strategy, floor, step=2)
    view = {"inner": meter.slots.inner, "group": meter.slots.group, "uniform": meter.slots.group}
    reached = 0
    for slots in placed(view.get(strategy, meter.slots.fine)):
        left = len(open_of(meter, plan, slots))
        assert left >= floor.of(len(slots)), place_of(slots[0])
        # Steps of 2: at most one more than the floor stays, on each of up to four streams that a side reads.
        reached += left <= floor.of(len(slots)) + 1
    assert reached > 5
    if strategy in ("inner", "group", "uniform"):
        assert reached == sum(1 for _ in placed(view[strategy]))


def test_a_floor_by_count_and_by_share() -> None:
    assert [Floor(8, 0.25).of(width) for width in (4, 8, 16, 32, 33, 64, 100)] == [4, 8, 8, 8, 9, 16, 25]
    assert [Floor(1, 0.0).of(width) for width in (1, 50)] == [1, 1]
    assert Floor(0, 0.0).of(5) == 1  # never a whole place
    assert Floor(1, 0.3).of(10) == 3  # 0.3 * 10 is a little more than 3


# ---- scores


def test_both_ends_of_an_edge_tell_the_same_and_a_depthwise_convolution_on_the_way_once_more() -> None:
    meter = meter_of("depthwise")
    scores = {name: (torch.zeros(o), torch.zeros(i)) for name, (o, i) in meter.flow.widths.items()}
    places = Places(meter.flow, meter.slots, scores, whole(meter))
    first, second = Member("blocks.0.first", OUT, 3), Member("blocks.0.second", IN, 3)
    scores["blocks.0.first"][0][3] = 2.0
    assert places.value([first, second]) == 1.0
    scores["blocks.1.filter"][0][3] = 7.0
    filtered = Member("blocks.1.filter", OUT, 3)
    assert places.value([first, filtered, second]) == 1.0
    assert places.value([filtered]) == 7.0
    other = Member("blocks.0.second", OUT, 3)
    scores["blocks.0.second"][0][3] = 4.0
    assert places.value([first, other, second]) == 3.0  # two writers (2 + 4) against one reader (0)


def test_a_slot_without_gates_on_a_side_or_without_an_end_stays() -> None:
    meter = meter_of("residual")
    bare = {name: pair for name, pair in drawn(meter.flow).items() if name != "blocks.0.first"}
    places = Places(meter.flow, meter.slots, bare, whole(meter))
    assert not any(
        "blocks.0.first" in {m.name for m in s.members} for t, _ in places.tracks(meter.slots.fine) for s in t
    )
    slot = next(s for s in meter.slots.inner if s.members[0].name == "blocks.1.first")
    channel = slot.members[0].channel
    half = Plan(
        whole(meter).architecture, {"blocks.1.first": (tuple(c for c in range(32) if c != channel), tuple(range(32)))}
    )
    assert Places(meter.flow, meter.slots, drawn(meter.flow), half).open(slot) is None


def test_streams_are_laid_out_by_value_and_what_is_frozen_as_it_is() -> None:
    meter = meter_of("blocks")
    places = Places(meter.flow, meter.slots, drawn(meter.flow), whole(meter))
    order = stream_order(places)
    assert sorted(order) == list(range(len(meter.slots.group)))
    last = None
    seen: list[object] = []
    for index in order:
        slot = meter.slots.group[index]
        value = places.value(slot.members) if not slot.frozen else -index
        if last is not None and last[0] == place_of(slot):
            assert last[1] >= value
        else:
            assert place_of(slot) not in seen  # a stream lies together
            seen.append(place_of(slot))
        last = place_of(slot), value


@pytest.mark.parametrize("strategy", LADDER)
def test_those_worth_least_go(strategy: str) -> None:
    """The lower half of the channels is worth nothing, on every side alike, and just as much may go."""
    meter = meter_of("residual")
    scores = {}
    for name, (outputs, inputs) in meter.flow.widths.items():
        scores[name] = tuple(torch.tensor([float(c >= n // 2) for c in range(n)]) for n in (outputs, inputs))
    pieces = Decider(meter, strategy, Floor(8, 0.5)).sequence(whole(meter), scores, Budget({"flops": 0.5}), {})
    assert not any(piece.score for piece in pieces)
    plan = closing(meter, whole(meter), pieces)
    assert plan.kept["blocks.0.first"][0] == tuple(range(16, 32))
    for sides in plan.kept.values():
        assert set(sides) <= {tuple(range(16, 32)), *(tuple(range(n)) for n in (3, 32, 48))}


def test_all_strategies_are_on_the_ladder_but_the_control() -> None:
    assert set(STRATEGIES) == {*LADDER, "uniform"}
    assert all(len(design.architecture.hash) == 12 for design in DESIGNS.values())
