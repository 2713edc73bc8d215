"""What a rule of the channel flow is, and the plainest ones: an operation that takes and gives whole tensors.

A tensor's channels are its dimension 1, where that has the same length at every image size; anything else (a size, a
mean over all channels, a tuple) is one thing, written as the single channel 0.

Two sets are found for every tensor. Forwards, `nonzero`: the channels that may differ from exact zero. Backwards,
`held`: the channels that the cut network must have a place for. That is what somebody reads and may be non-zero
("needed"), and what is zero but turned into something else ("forced": a sigmoid makes 0.5 of it, PixelShuffle lays it
beside others); the convolution before it makes it as zeros. A rule gives each set in terms of the other end of its
operation. Both may be too large, never too small; that is all exactness needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import fx

from .channels import every

if TYPE_CHECKING:
    from .live import Sides
    from .writer import Value, Writer


@dataclass(frozen=True)
class Rule:
    """One operation as the flow sees it.

    channels: of its output. operands: the nodes it reads.
    needs_size: whether the operands must exist even if none of their channels is held.
    cuts: whether it is one of the modules that a plan names.
    """

    channels: int
    operands: tuple[fx.Node, ...]
    needs_size: ClassVar[bool] = False
    cuts: ClassVar[bool] = False

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        """The channels of the output that may be non-zero, given those of the operands."""
        raise NotImplementedError

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        """The channels that each operand must hold, if the output holds `held` (which is not empty)."""
        raise NotImplementedError

    def reads(self, held: int, given: Sequence[int], sides: "Sides") -> int:
        """The inputs of which a call makes use, where it cuts."""
        return 0

    def write(self, node: fx.Node, writer: "Writer") -> "Value":
        """Writes the operation into the cut network."""
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Rule):
    """An operation that is copied as it is, with whole inputs: all there is to be said of it is exact.

    `widths` are the channels of the operands. With a `reason` it is a barrier: channels could pass here, but do not.
    """

    widths: tuple[int, ...]
    reason: str = ""

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return every(self.channels)

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [every(width) for width in self.widths]

    def write(self, node: fx.Node, writer: "Writer") -> "Value":
        return writer.give(writer.copy(node, {}), range(self.channels))


@dataclass(frozen=True)
class Size(Rule):
    """Reads the size of a tensor, of which the number of channels is not used."""

    needs_size = True

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return 1

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [0]

    def write(self, node: fx.Node, writer: "Writer") -> "Value":
        source = self.operands[0]
        return writer.give(writer.copy(node, {source: writer.values[source].node}), [0])


@dataclass(frozen=True)
class Number(Rule):
    """A number that is known beforehand: how many channels the uncut tensor has."""

    number: int

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return 1

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return []

    def write(self, node: fx.Node, writer: "Writer") -> "Value":
        from .writer import Value

        return Value.of(self.number, [0])


@dataclass(frozen=True)
class Unwritten(Rule):
    """A tuple whose members are read one by one: they refer to where it came from."""

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return 0

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [0 for _ in self.operands]


@dataclass(frozen=True)
class Zeros(Rule):
    """Zeros of the size of a tensor."""

    def nonzero(self, given: Sequence[int], sides: "Sides") -> int:
        return 0

    def wants(self, held: int, given: Sequence[int], sides: "Sides") -> Sequence[int]:
        return [held]

    def write(self, node: fx.Node, writer: "Writer") -> "Value":
        source = writer.values[self.operands[0]]
        layout = source.natural(writer.held[node])
        return writer.give(writer.copy(node, {self.operands[0]: writer.take(source, layout)}), layout)
