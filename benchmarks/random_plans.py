"""Plans at half the channels, drawn by chance, by five ways of choosing what to cut: what compaction.py times.

Half of the channels are closed: `inner`, only edges between one convolution and one other, tied; `group`, also the
streams of the skips, tied for all that write or read them; then, on the streams, each side of each convolution by
itself: `block`, aligned blocks of 8 channels; `interval`, one interval of a stream that lies permuted in memory; and
`free`, any channels.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretosr.spaces.flow import Flow, Slot, closed, live, passes_image, slots
from paretosr.spaces.flow.slots import IN, OUT
from paretosr.spaces.plan import Plan

STEP = 8  # channels


@dataclass(frozen=True)
class Stream:
    """Channels that meet, by their place: an edge between two convolutions, or what several write and read.

    slots: one for each place, tied (the `group` view). sides: for each convolution and side, in the order of the
    network, its own slot at each place where it has one (the `fine` view); none for an edge, which has but one choice.
    """

    slots: tuple[Slot, ...]
    sides: Mapping[tuple[str, str], Mapping[int, Slot]]

    def ends(self) -> set[tuple[str, str]]:
        """The first writer and the last reader, which keep all: else some plans would cut the stream through."""
        writers = [key for key in self.sides if key[1] == OUT]
        readers = [key for key in self.sides if key[1] == IN]
        return {*writers[:1], *readers[-1:]}


def streams(flow: Flow) -> list[Stream]:
    """All streams of a network that can be cut."""
    found = slots(flow)
    tied: dict[frozenset[tuple[str, str]], list[Slot]] = {}
    for slot in found.group:
        if not slot.frozen:
            tied.setdefault(frozenset((member.name, member.side) for member in slot.members), []).append(slot)
    place = {m: (key, at) for key, together in tied.items() for at, slot in enumerate(together) for m in slot.members}
    sides: dict[Any, dict[tuple[str, str], dict[int, Slot]]] = {key: {} for key in tied}
    inner = set(found.inner)
    for slot in found.fine:
        first = slot.members[0]
        if not slot.frozen and slot not in inner:
            key, at = place[first]
            sides[key].setdefault((first.name, first.side), {})[at] = slot
    order = {name: at for at, name in enumerate(flow.calls)}
    return [
        Stream(tuple(together), dict(sorted(sides[key].items(), key=lambda item: order[item[0][0]])))
        for key, together in tied.items()
    ]


def half(width: int, step: int) -> int:
    """Half of a width, to the nearest multiple of `step`; at least one step, at most all."""
    return min(width, max(step, step * round(width / 2 / step)))


def tied(found: Sequence[Stream], draw: random.Random, step: int) -> Iterator[Slot]:
    """The slots to close where each stream keeps half of its places for all its convolutions."""
    for stream in found:
        yield from draw.sample(stream.slots, len(stream.slots) - half(len(stream.slots), step))


Choice = Callable[[Stream, random.Random], Callable[[Mapping[int, Slot]], set[int]]]


def by_side(found: Sequence[Stream], draw: random.Random, choice: Choice, step: int) -> Iterator[Slot]:
    """The slots to close where each side has its own choice of places; the ends of a stream keep all.

    Edges have one choice for both ends; `step` is of their widths.
    """
    for stream in found:
        if not stream.sides:
            yield from tied([stream], draw, step)
            continue
        choose, ends = choice(stream, draw), stream.ends()
        for key, side in stream.sides.items():
            if key not in ends:
                kept = choose(side)
                yield from (slot for place, slot in side.items() if place not in kept)


def blocks(stream: Stream, draw: random.Random) -> Callable[[Mapping[int, Slot]], set[int]]:
    """Half of the aligned blocks of `STEP` places."""

    def choose(side: Mapping[int, Slot]) -> set[int]:
        there = sorted({place // STEP for place in side})
        kept = set(draw.sample(there, half(len(there), 1)))
        return {place for place in side if place // STEP in kept}

    return choose


def anywhere(stream: Stream, draw: random.Random) -> Callable[[Mapping[int, Slot]], set[int]]:
    """Half of the places."""
    return lambda side: set(draw.sample(sorted(side), half(len(side), 1)))


def intervals(stream: Stream, draw: random.Random) -> Callable[[Mapping[int, Slot]], set[int]]:
    """An interval of half the places, of a multiple of `STEP`, in the order in which the stream lies in memory."""
    rank = ranks(stream)

    def choose(side: Mapping[int, Slot]) -> set[int]:
        there = sorted(side, key=rank.__getitem__)
        count = half(len(there), STEP)
        start = STEP * draw.randint(0, (len(there) - count) // STEP)
        return set(there[start : start + count])

    return choose


def ranks(stream: Stream) -> list[int]:
    """The permuted order of a stream: the rank of each place; always the same for one width."""
    order = list(range(len(stream.slots)))
    random.Random(len(order)).shuffle(order)
    return order


def laid_out(flow: Flow, found: Sequence[Stream], plan: Plan) -> Plan:
    """The plan with the outputs of all convolutions in the permuted order of their streams."""
    whole = {name: (tuple(range(outs)), tuple(range(ins))) for name, (outs, ins) in flow.widths.items()}
    kept = {**whole, **plan.kept}
    rank: dict[tuple[str, int], tuple[int, int]] = {}
    for number, stream in enumerate(found):
        for slot, at in zip(stream.slots, ranks(stream), strict=True):
            rank |= {(member.name, member.channel): (number, at) for member in slot.members if member.side == OUT}
    order = {
        name: tuple(sorted(outs, key=lambda c, name=name: (*rank.get((name, c), (-1, 0)), c)))
        for name, (outs, _) in kept.items()
    }
    return Plan(plan.architecture, kept, order)


def plans(flow: Flow, architecture: str, draw: random.Random) -> dict[str, Plan]:
    """A plan of each strategy; none of them cuts the image off."""
    found = streams(flow)
    edges = [stream for stream in found if not stream.sides]
    close = {
        "inner": tied(edges, draw, STEP),
        "group": tied(found, draw, STEP),
        "block": by_side(found, draw, blocks, STEP),
        "interval": by_side(found, draw, intervals, STEP),
        "free": by_side(found, draw, anywhere, 1),
    }
    made = {strategy: closed(flow, list(slots), architecture) for strategy, slots in close.items()}
    made["interval"] = laid_out(flow, found, made["interval"])
    for strategy, plan in made.items():
        if not passes_image(flow, live(flow, plan)):
            raise RuntimeError(f"the plan '{strategy}' cuts the image off: take another --seed")
    return made
