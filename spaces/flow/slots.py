"""What can be closed together: the channels that convolutions write and read, and who meets whom on the way.

A writer is a convolution's output channel, a reader an input channel. Where a channel has one writer and one reader,
closing one makes the other useless: they are one slot (the four or sixteen outputs that PixelShuffle lays beside each
other are one writer). In the `fine` view every other writer and reader is a slot of its own; in the `group` view all
that meet in any channel of any tensor are one, so that nothing has to be gathered. All is exact either way.

What is frozen (left alone, not forbidden) says why: the colours of the image, rows that reach the output, weights that
do not train, rows that no convolution reads (a mask that goes into a sigmoid: closing it would leave 0.5), barriers.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import fx, nn

from ..plan import Plan, Sides
from .branches import Branch, branches
from .convolutions import Convolution, Depthwise
from .elementwise import Elementwise, Sum
from .live import nonzero_of
from .routes import Route, Shuffle
from .rule import Rule, Whole
from .trace import Flow

OUT, IN = "out", "in"


class Member(NamedTuple):
    """One channel of one side of a convolution; `side` is "out" or "in"."""

    name: str
    side: str
    channel: int


@dataclass(frozen=True)
class Slot:
    """Channels that open and close together; with a reason in `frozen` they must not, or it would buy nothing."""

    members: tuple[Member, ...]
    frozen: str = ""

    @property
    def is_edge(self) -> bool:
        """Whether it has both ends of a channel: closing it needs no gather."""
        return {member.side for member in self.members} == {OUT, IN}


@dataclass(frozen=True)
class Slots:
    """The slots of a network in both views, and its removable branches."""

    fine: tuple[Slot, ...]
    group: tuple[Slot, ...]
    branches: tuple[Branch, ...]

    @cached_property
    def inner(self) -> tuple[Slot, ...]:
        """The free slots of edges between one writer and one reader."""
        return tuple(slot for slot in self.fine if slot.is_edge and not slot.frozen)


def slots(flow: Flow) -> Slots:
    """All slots of a network, the frozen ones with their reasons."""
    return _Meetings(flow).slots()


def closed(flow: Flow, slots: Sequence[Slot], architecture: str) -> Plan:
    """The plan that closes these slots and keeps all else."""
    gone: dict[str, dict[str, set[int]]] = defaultdict(lambda: {OUT: set(), IN: set()})
    for slot in slots:
        for name, side, channel in slot.members:
            gone[name][side].add(channel)
    kept: dict[str, Sides] = {}
    for name, sides in gone.items():
        outputs, inputs = flow.widths[name]
        kept[name] = (
            tuple(c for c in range(outputs) if c not in sides[OUT]),
            tuple(c for c in range(inputs) if c not in sides[IN]),
        )
    return Plan(architecture, kept)


class _Meetings:
    """Which writers and readers meet: a union-find over all channels of all tensors and of all convolutions' sides."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.parent: dict[object, object] = {}
        self.frozen: dict[object, str] = {}  # why a class is, by any of its elements
        self.untrained = _untrained(flow)
        # What is non-zero though every convolution is closed.
        self.always = nonzero_of(flow, dict.fromkeys(flow.calls, (0, 0)))
        for node, rule in flow.rules.items():
            self._meet(node, rule)
        self._freeze_ends()

    def find(self, element: object) -> object:
        """The element that stands for the class."""
        root = element
        while self.parent.setdefault(root, root) != root:
            root = self.parent[root]
        while self.parent[element] != root:
            self.parent[element], element = root, self.parent[element]
        return root

    def join(self, one: object, other: object) -> None:
        self.parent[self.find(one)] = self.find(other)

    def _meet(self, node: fx.Node, rule: Rule) -> None:
        """What an operation brings together."""
        if isinstance(rule, Depthwise):
            for c in range(rule.channels):
                self.join((node, c), (rule.operands[0], c))
                self.join((node, c), Member(rule.name, OUT, c))
        elif isinstance(rule, Convolution):
            outputs, inputs = self.flow.widths[rule.name]
            for c in range(outputs):
                self.join((node, c), Member(rule.name, OUT, c))
            for c in range(inputs):
                self.join((rule.operands[0], c), Member(rule.name, IN, c))
        elif isinstance(rule, Sum):
            for c in range(rule.channels):
                for operand in rule.operands:
                    self.join((node, c), (operand, c))
        elif isinstance(rule, Route):
            for operand, source, target, count in rule.stretches:
                for c in range(count):
                    self.join((node, target + c), (rule.operands[operand], source + c))
        elif isinstance(rule, Shuffle):
            for c in range(rule.channels * rule.factor**2):
                self.join((node, c // rule.factor**2), (rule.operands[0], c))
        elif isinstance(rule, Elementwise):
            self._meet_elementwise(node, rule)
        elif isinstance(rule, Whole) and rule.reason:
            for tensor, width in ((node, rule.channels), *zip(rule.operands, rule.widths, strict=True)):
                for c in range(width):
                    self.frozen[tensor, c] = f"'{node.name}' is a barrier: {rule.reason}"

    def _meet_elementwise(self, node: fx.Node, rule: Elementwise) -> None:
        wide = rule.operands[: rule.wide]
        for c in range(rule.channels):
            # A factor that is never zero (a sigmoid) does not decide whether the product is.
            deciding = [x for x in wide if not self.always[x] >> c & 1] if rule.zero == "any" else wide
            for operand in deciding or wide:
                self.join((node, c), (operand, c))

    def _freeze_ends(self) -> None:
        """What is still the image, and what only reaches the output: no trained convolution before, or none after."""
        trained = set(self.flow.calls) - self.untrained
        after: set[fx.Node] = set()
        for node in self.flow.rules:
            if str(node.target) in trained or any(source in after for source in node.all_input_nodes):
                after.add(node)
        before: set[fx.Node] = set()  # a trained convolution reads these, perhaps after others
        for node in reversed(self.flow.rules):
            if any(user in before or str(user.target) in trained for user in node.users):
                before.add(node)
        for node, rule in self.flow.rules.items():
            for c in range(rule.channels):
                if node not in after:
                    self.frozen[node, c] = "it is the image"
                elif node not in before:
                    self.frozen[node, c] = "it reaches the output"

    def slots(self) -> Slots:
        """Both views, the classes in the order of the network."""
        classes: dict[object, list[Member]] = {}
        for name, (outputs, inputs) in self.flow.widths.items():
            depthwise = isinstance(self.flow.rules[self.flow.calls[name][0]], Depthwise)
            for side, width in ((OUT, outputs), (IN, 0 if depthwise else inputs)):
                for channel in range(width):
                    member = Member(name, side, channel)
                    classes.setdefault(self.find(member), []).append(member)
        reasons: dict[object, list[str]] = defaultdict(list)
        for element, reason in self.frozen.items():
            if reason not in reasons[self.find(element)]:
                reasons[self.find(element)].append(reason)
        fine, group = [], []
        for root, members in classes.items():
            unread = "" if any(member.side == IN for member in members) else "no convolution reads it"
            reason = " and ".join(reasons[root]) or unread
            group.append(Slot(tuple(members), reason or self._still(members)))
            fine += [Slot(part, reason or self._still(part)) for part in self._parts(members)]
        return Slots(tuple(fine), tuple(group), tuple(branches(self.flow)))

    def _parts(self, members: list[Member]) -> Iterator[tuple[Member, ...]]:
        """A class in the fine view: one edge, or each convolution's channels for themselves."""
        ends: dict[tuple[str, str], list[Member]] = defaultdict(list)
        alone = {name for name, calls in self.flow.calls.items() if isinstance(self.flow.rules[calls[0]], Depthwise)}
        for member in members:
            ends[member.name, member.side].append(member)
        sides = [side for name, side in ends if name not in alone]
        if sorted(sides) == [IN, OUT]:
            yield tuple(members)
        else:
            yield from map(tuple, ends.values())

    def _still(self, members: Sequence[Member]) -> str:
        """Why weights that do not train freeze the slot of these members, if they do."""
        return next((f"'{member.name}' is not trained" for member in members if member.name in self.untrained), "")


def _untrained(flow: Flow) -> set[str]:
    """The convolutions whose weights are frozen."""
    modules: Mapping[str, nn.Module] = {name: flow.network.get_submodule(name) for name in flow.calls}
    return {name for name, m in modules.items() if not any(p.requires_grad for p in m.parameters())}
