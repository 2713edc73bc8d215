"""Strategies: what may be taken out of a network at once, and in which order within a place. A new one: write it, name
it in `STRATEGIES`.

A strategy turns a network's slots and the scores of its channels into tracks. A track is one place where channels are
alike as to what they cost (one edge between two convolutions, one side of a convolution, one stream of a skip), cut
into pieces in the order in which they would go; which track gives its next piece is decided elsewhere (`decide.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from ..proxies.stairs import STEP, grid
from ..spaces.flow import Flow, Member, Slot, Slots
from ..spaces.flow.convolutions import Depthwise
from ..spaces.flow.slots import IN, OUT
from ..spaces.plan import Plan
from .criteria import Scores

Place = tuple[tuple[str, str, int], ...]  # (convolution, side, channels of it in one slot), of all that a slot ties


@dataclass(frozen=True)
class Piece:
    """What goes at once: channels of convolutions, their score, and the convolutions that go with them as a whole."""

    members: tuple[Member, ...]
    score: float
    kills: tuple[str, ...] = ()

    @cached_property
    def lost(self) -> Mapping[tuple[str, str], int]:
        """How many channels each side of a convolution loses."""
        return Counter((member.name, member.side) for member in self.members)


@dataclass(frozen=True)
class Track:
    """The pieces of one place, those first that would go first."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Floor:
    """How many channels every place keeps at least: so many, and such a share."""

    channels: int = 8
    share: float = 0.25

    def of(self, width: int) -> int:
        """The least that a place of `width` channels keeps; 1 in any case."""
        return min(width, max(1, self.channels, ceil(self.share * width - 1e-9)))


class Places:
    """A network as strategies see it: its slots with scores, without what a plan has closed already.

    floor: what every place keeps. step: the widths that a place may be left with are multiples of it, and blocks are
    so large; None for those at which convolutions are timed (`proxies.stairs.grid`), and blocks of 8.
    stream: the slots of the group view in the order in which streams are laid out, by their index; None: as they are.
    branches: the scores of those branches, by their node, that may go as a whole.
    """

    def __init__(
        self,
        flow: Flow,
        slots: Slots,
        scores: Scores,
        plan: Plan,
        floor: Floor = Floor(),
        step: int | None = None,
        stream: Sequence[int] | None = None,
        branches: Mapping[str, float] | None = None,
    ) -> None:
        self.slots, self.scores, self.floor, self.step = slots, scores, floor, step
        self.branches = branches or {}
        self.block = step or STEP
        self.stream = range(len(slots.group)) if stream is None else stream
        self._alone = {name for name, calls in flow.calls.items() if isinstance(flow.rules[calls[0]], Depthwise)}
        self._kept = {name: {OUT: set(outputs), IN: set(inputs)} for name, (outputs, inputs) in plan.kept.items()}

    def is_open(self, member: Member) -> bool:
        """Whether the plan still keeps this channel."""
        return member.name not in self._kept or member.channel in self._kept[member.name][member.side]

    def open(self, slot: Slot) -> Slot | None:
        """What of a slot is still open; None if it is frozen, has no gates, or has lost one of its ends."""
        members = tuple(filter(self.is_open, slot.members))
        if slot.frozen or self._ends(members) != self._ends(slot.members):
            return None
        return None if any(self.score(member) is None for member in members) else Slot(members)

    def _ends(self, members: Sequence[Member]) -> set[str]:
        return {member.side for member in members if member.name not in self._alone} or {m.side for m in members}

    def value(self, members: Sequence[Member]) -> float:
        """What closing them costs: the sum over writers and that over readers tell the same; their mean.

        A depthwise convolution on the way tells it once more, and is asked only if it stands alone.
        """
        telling = [member for member in members if member.name not in self._alone] or members
        sums: dict[str, float] = {}
        for member in telling:
            sums[member.side] = sums.get(member.side, 0.0) + (self.score(member) or 0.0)
        return sum(sums.values()) / len(sums)

    def score(self, member: Member) -> float | None:
        """The criterion's score of one channel; None where there are no gates."""
        pair = self.scores.get(member.name)
        side = None if pair is None else pair[0 if member.side == OUT else 1]
        return None if side is None else float(side[member.channel])

    def tracks(self, slots: Sequence[Slot]) -> Iterator[tuple[list[Slot], int]]:
        """By place: its open slots in the order of the network, and how many it had at first."""
        found: dict[Place, list[Slot]] = defaultdict(list)
        for slot in slots:
            if not slot.frozen:
                found[place_of(slot)].append(slot)
        for members in found.values():
            still = [slot for slot in map(self.open, members) if slot is not None]
            if still:
                yield still, len(members)

    def stepped(self, slots: list[Slot], width: int) -> Track:
        """The least valued go first, so many at a time that the widths left are steps of the stairs."""
        steps = grid(width) if self.step is None else range(self.step, width, self.step)
        return self.cut(slots, width, sorted(steps, reverse=True))

    def cut(self, slots: list[Slot], width: int, widths: Sequence[int]) -> Track:
        """A track of a place of once `width` channels that is left with these widths one after another."""
        ordered, pieces = sorted(slots, key=lambda slot: self.value(slot.members)), []
        for target in widths:
            if self.floor.of(width) <= target < len(ordered):
                gone = len(ordered) - target
                pieces.append(self.piece(ordered[:gone]))
                ordered = ordered[gone:]
        return Track(tuple(pieces))

    def floored(self, pieces: Sequence[Piece], slots: Sequence[Slot], width: int) -> Track:
        """These pieces of a place, as far as its floor allows."""
        left, kept = len(slots), []
        for piece in pieces:
            gone = len(piece.members) // len(slots[0].members)
            if left - gone >= self.floor.of(width):
                kept.append(piece)
                left -= gone
        return Track(tuple(kept))

    def piece(self, slots: Sequence[Slot]) -> Piece:
        """Slots that go together."""
        members = tuple(member for slot in slots for member in slot.members)
        return Piece(members, sum(self.value(slot.members) for slot in slots))


def place_of(slot: Slot) -> Place:
    """Where a slot is: the sides of convolutions that it ties, and how many channels of each."""
    return tuple(sorted((*side, count) for side, count in Counter((m.name, m.side) for m in slot.members).items()))


def stream_order(places: Places) -> list[int]:
    """The slots of the group view as streams are laid out: those of a stream together, the most valued first."""
    where: dict[Place, int] = {}
    for slot in places.slots.group:
        where.setdefault(place_of(slot), len(where))

    def rank(index: int) -> tuple[int, float]:
        slot = places.slots.group[index]
        scored = [member for member in slot.members if places.score(member) is not None]
        # What is frozen stays as it is: the colours of the output would have to be gathered at its full size.
        return where[place_of(slot)], -places.value(scored) if scored and not slot.frozen else 0.0

    return sorted(range(len(places.slots.group)), key=rank)


# ---- the strategies


def inner(places: Places) -> list[Track]:
    """Edges with one producer and one consumer, in steps of the stairs, and branches as a whole; skips stay wide."""
    tracks = [places.stepped(slots, width) for slots, width in places.tracks(places.slots.inner)]
    for branch in places.slots.branches:
        outs = {m for slot in places.slots.fine for m in slot.members if m.side == OUT and m.name in branch.closes}
        still = sorted(filter(places.is_open, outs))
        if still and branch.node in places.branches:
            tracks.append(Track((Piece(tuple(still), places.branches[branch.node], branch.convolutions),)))
    return tracks


def group(places: Places) -> list[Track]:
    """Channels tied over skips: all that write to or read from a channel of a stream lose it together."""
    return [places.stepped(slots, width) for slots, width in places.tracks(places.slots.group)]


def block(places: Places) -> list[Track]:
    """Each side of a convolution for itself, in aligned blocks of neighbouring channels."""
    tracks = []
    for slots, width in places.tracks(places.slots.fine):
        if slots[0].is_edge:  # there only their number matters
            tracks.append(places.stepped(slots, width))
            continue
        size, blocks = places.block * len(slots[0].members), defaultdict(list)
        for slot in slots:
            blocks[min(member.channel for member in slot.members) // size].append(slot)
        pieces = sorted((places.piece(members) for members in blocks.values()), key=lambda piece: piece.score)
        tracks.append(places.floored(pieces, slots, width))
    return tracks


def interval(places: Places) -> list[Track]:
    """Each side for itself, and what it keeps of a stream lies in one stretch of the stream's order."""
    position = {m: at for at, index in enumerate(places.stream) for m in places.slots.group[index].members}
    stream_of = {m: place_of(slot) for slot in places.slots.group for m in slot.members}
    tracks = []
    for slots, width in places.tracks(places.slots.fine):
        if slots[0].is_edge:
            tracks.append(places.stepped(slots, width))
            continue
        streams: dict[Place, list[Slot]] = defaultdict(list)
        for slot in slots:  # one side may read several streams, one behind the other
            streams[stream_of[slot.members[0]]].append(slot)
        for members in streams.values():
            ordered, pieces = sorted(members, key=lambda slot: position[slot.members[0]]), []
            while ordered:  # from either end, whichever is worth less
                first, last = places.piece(ordered[: places.block]), places.piece(ordered[-places.block :])
                pieces.append(min(first, last, key=lambda piece: piece.score))
                ordered = ordered[places.block :] if pieces[-1] is first else ordered[: -places.block]
            tracks.append(places.floored(pieces, members, round(width * len(members) / len(slots))))
    return tracks


def free(places: Places) -> list[Track]:
    """Each side for itself, channel by channel: the challenge's fine-grained pruning."""
    return [places.cut(slots, width, range(width - 1, 0, -1)) for slots, width in places.tracks(places.slots.fine)]


@dataclass(frozen=True)
class Strategy:
    """How to find tracks; `even`: all of them lose the same share, whatever their scores; `ordered`: streams are."""

    tracks: Callable[[Places], list[Track]]
    even: bool = False
    ordered: bool = False


STRATEGIES: dict[str, Strategy] = {
    "inner": Strategy(inner),
    "group": Strategy(group),
    "block": Strategy(block),
    "interval": Strategy(interval, ordered=True),
    "free": Strategy(free),
    "uniform": Strategy(group, even=True),  # a control: every stream and every edge loses the same share
}
LADDER = ("inner", "group", "block", "interval", "free")
