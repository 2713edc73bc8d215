"""Deciding on a plan: the pieces of all tracks in one order, least score for what it buys first, until it is enough."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ..spaces import InputError
from ..spaces.flow import Member
from ..spaces.flow.slots import IN, OUT
from ..spaces.plan import Plan, Sides
from .budget import Budget, Meter
from .criteria import Scores
from .strategies import STRATEGIES, Floor, Piece, Places, Strategy, Track, stream_order

Shares = Mapping[str, float]
Price = Callable[[str, int, int], float]  # of a convolution by its name, outputs, inputs


class Decider:
    """Finds plans for one network by one strategy, each going on from the one before; closed channels stay closed.

    per_cost: whether a score is divided by what its channel buys of the budget, or channels go by their scores alone.
    stream: the order of the streams that a strategy with one has settled on, as indices of slots; found with the first
    plan, and to be given again where a decision goes on later.
    """

    def __init__(
        self,
        meter: Meter,
        strategy: str,
        floor: Floor,
        step: int | None = None,
        per_cost: bool = True,
        stream: Sequence[int] | None = None,
    ) -> None:
        self.meter, self.name, self.floor, self.step, self.per_cost = meter, strategy, floor, step, per_cost
        self.stream = None if stream is None else tuple(stream)

    @property
    def strategy(self) -> Strategy:
        """The strategy by which plans are found."""
        return STRATEGIES[self.name]

    def decide(
        self,
        plan: Plan,
        scores: Scores,
        budget: Budget,
        branches: Mapping[str, float] | None = None,
        enough: Callable[[Shares], bool] | None = None,
    ) -> Plan:
        """The plan that closes the fewest pieces beyond `plan` by which the shares that are left are `enough`.

        branches: scores of whole branches by their node (`branch_scores`), for a strategy that knows branches; one
        without a score stays. enough: by default that the budget is met. InputError, which says what the least is,
        where the floors do not allow it, and where what is left would be the enlarged image alone.
        """
        enough = enough or budget.met
        pieces = self.sequence(plan, scores, budget, branches or {})
        options: list[tuple[float, Plan]] = []
        while True:
            count, found = self._fewest(plan, pieces, enough)
            if count is None:
                if not options:
                    raise InputError(self._unreachable(budget, self.meter.shares(found)))
                break
            options.append((sum(piece.score for piece in pieces[:count]), found))
            if not count or not pieces[count - 1].kills:
                break
            # A whole branch may go far beyond what was asked for: what comes after it may do for less.
            pieces = pieces[: count - 1] + pieces[count:]
        chosen = min(options, key=lambda option: option[0])[1]
        if not self.meter.passes_image(chosen):
            raise InputError(
                f"prune: what '{self.name}' leaves within {budget} is the enlarged image alone; raise the floor"
            )
        return self._laid_out(chosen)

    def _fewest(self, plan: Plan, pieces: Sequence[Piece], enough: Callable[[Shares], bool]) -> tuple[int | None, Plan]:
        """How many of the pieces are enough, and the plan without them; None and the least where all are not."""
        low, high, reached = 0, len(pieces), self.meter.settled(closing(self.meter, plan, pieces))
        if not enough(self.meter.shares(reached)):
            return None, reached
        while low < high:
            middle = (low + high) // 2
            tried = self.meter.settled(closing(self.meter, plan, pieces[:middle]))
            if enough(self.meter.shares(tried)):
                high, reached = middle, tried
            else:
                low = middle + 1
        return low, reached

    def refuse_unreachable(self, budget: Budget, with_branches: bool = True) -> None:
        """InputError where even all that the floors allow to go is not enough; whatever the scores.

        Where sides close independently, as if all kept the same channels: that much can be promised beforehand.
        """
        alike = {
            name: (torch.ones(outputs), torch.ones(inputs))
            for name, (outputs, inputs) in self.meter.flow.widths.items()
        }
        whole = Plan(self.meter.design.architecture.hash)
        branches = {branch.node: 1.0 for branch in self.meter.slots.branches} if with_branches else {}
        pieces = self.sequence(whole, alike, budget, branches)
        least = self.meter.shares(self.meter.settled(closing(self.meter, whole, pieces)))
        if not budget.met(least):
            raise InputError(self._unreachable(budget, least))

    def sequence(self, plan: Plan, scores: Scores, budget: Budget, branches: Mapping[str, float]) -> list[Piece]:
        """All pieces that could go, in the order in which they should."""
        bare = Places(self.meter.flow, self.meter.slots, scores, Plan(plan.architecture), self.floor, self.step)
        if self.strategy.ordered and self.stream is None:
            self.stream = tuple(stream_order(bare))
        places = Places(self.meter.flow, self.meter.slots, scores, plan, self.floor, self.step, self.stream, branches)
        tracks = [track for track in self.strategy.tracks(places) if track.pieces]
        if self.strategy.even:
            return evenly(tracks)
        priced = budget if self.per_cost else Budget({"kept": 0.5})  # there every channel costs one
        widths = {name: list(sides) for name, sides in self.meter.flow.widths.items()}
        for name, (outputs, inputs) in plan.kept.items():
            widths[name] = [len(outputs), len(inputs)]
        return list(self._safe(plan, by_worth(tracks, widths, self.meter.price(priced))))

    def _safe(self, plan: Plan, pieces: Iterable[Piece]) -> Iterable[Piece]:
        """Leaves out branches without which, what went before being gone, the image would not get through."""
        gone: list[Piece] = []
        for piece in pieces:
            if piece.kills and not self.meter.passes_image(closing(self.meter, plan, [*gone, piece])):
                continue
            gone.append(piece)
            yield piece

    def _laid_out(self, plan: Plan) -> Plan:
        """The plan with the order of its streams, for a strategy that has one."""
        if self.stream is None:
            return plan
        position = {m: at for at, index in enumerate(self.stream) for m in self.meter.slots.group[index].members}
        order, kept = {}, dict(plan.kept)
        for name, (outputs, inputs) in self.meter.flow.widths.items():
            outs = kept.get(name, (tuple(range(outputs)),))[0]
            laid = sorted(outs, key=lambda c, name=name: (position.get(Member(name, OUT, c), len(position)), c))
            if laid != list(outs):
                kept.setdefault(name, (tuple(range(outputs)), tuple(range(inputs))))
                order[name] = tuple(laid)
        return Plan(plan.architecture, kept, order)

    def _unreachable(self, budget: Budget, least: Shares) -> str:
        broken = [name for name, share in budget.shares.items() if least.get(name, 0) > share]
        said = ", ".join(f"{name} {least[name]:.3f}" for name in broken)
        return (
            f"prune: '{self.name}' cannot reach {budget}; the least that it leaves with the floor of "
            f"{self.floor.channels} channels and {self.floor.share:g} of each place is {said or 'not less'}"
        )


def closing(meter: Meter, plan: Plan, pieces: Iterable[Piece]) -> Plan:
    """`plan` without the channels of these pieces."""
    gone: dict[tuple[str, str], set[int]] = {}
    for piece in pieces:
        for name, side, channel in piece.members:
            gone.setdefault((name, side), set()).add(channel)
    kept: dict[str, Sides] = dict(plan.kept)
    for name in {name for name, _ in gone}:
        sides = kept.get(name) or (range(meter.flow.widths[name][0]), range(meter.flow.widths[name][1]))
        outputs, inputs = (
            tuple(channel for channel in channels if channel not in gone.get((name, side), ()))
            for side, channels in zip((OUT, IN), sides, strict=True)
        )
        kept[name] = outputs, inputs
    return Plan(plan.architecture, kept)


def evenly(tracks: Sequence[Track]) -> list[Piece]:
    """The pieces of all tracks in turn, so that each has lost about the same share of what it can lose."""
    placed = [
        ((at + 1) / len(track.pieces), number, piece)
        for number, track in enumerate(tracks)
        for at, piece in enumerate(track.pieces)
    ]
    return [piece for _, _, piece in sorted(placed, key=lambda entry: entry[:2])]


def by_worth(tracks: Sequence[Track], widths: dict[str, list[int]], price: Price) -> Iterable[Piece]:
    """The pieces of all tracks, those first whose score is least for what they buy.

    A track is looked along: a piece that buys nothing by itself (the tread of a stair) goes together with those after
    it, or not at all. `widths` (outputs and inputs by convolution) are moved on. Buying gets no better than it was when
    others go, so that a track is priced again only when it is on top.
    """
    gone: set[str] = set()
    heap = []
    for number, track in enumerate(tracks):
        if (best := _best(track.pieces, widths, gone, price)) is not None:
            heap.append((best[0], number, best[1], track.pieces))
    heapq.heapify(heap)
    while heap:
        _, number, count, pieces = heapq.heappop(heap)
        best = _best(pieces, widths, gone, price)
        if best is None:
            continue
        if heap and best[0] > heap[0][0]:
            heapq.heappush(heap, (best[0], number, best[1], pieces))
            continue
        count = best[1]
        for piece in pieces[:count]:
            _take(piece, widths, gone)
            yield piece
        if len(pieces) > count and (after := _best(pieces[count:], widths, gone, price)) is not None:
            heapq.heappush(heap, (after[0], number, after[1], pieces[count:]))


def _best(
    pieces: Sequence[Piece], widths: Mapping[str, Sequence[int]], gone: set[str], price: Price
) -> tuple[float, int] | None:
    """The least score per price over the first so many pieces, and how many; None where nothing can be bought."""
    best, score, lost, dead = None, 0.0, {}, set()
    for count, piece in enumerate(pieces, 1):
        score += piece.score
        for side, channels in piece.lost.items():
            lost[side] = lost.get(side, 0) + channels
        dead.update(piece.kills)
        bought = 0.0
        for name in {name for name, _ in lost} | dead:
            if name not in gone:
                outputs, inputs = widths[name]
                fewer = max(0, outputs - lost.get((name, OUT), 0)), max(0, inputs - lost.get((name, IN), 0))
                bought += price(name, outputs, inputs) - (0.0 if name in dead else price(name, *fewer))
        if bought > 1e-12 and (best is None or score / bought < best[0]):
            best = score / bought, count
    return best


def _take(piece: Piece, widths: dict[str, list[int]], gone: set[str]) -> None:
    """Moves the widths on by a piece that goes."""
    for (name, side), channels in piece.lost.items():
        at = 0 if side == OUT else 1
        widths[name][at] = max(0, widths[name][at] - channels)
    gone.update(piece.kills)
