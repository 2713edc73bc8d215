"""What passes between the search and a sampler: what it is shown, and what it proposes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..spaces import Architecture


@dataclass(frozen=True)
class Seen:
    """A candidate as a sampler sees it. points: its objectives, lower is better, or None while they are not known.

    share: of a whole training, after which its PSNR is what it is.
    """

    number: int
    architecture: Architecture
    state: str
    points: Sequence[float] | None
    memory: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0

    @property
    def types(self) -> frozenset[str]:
        """The block types it is made of."""
        return frozenset(block.type for block in self.architecture.blocks)


@dataclass(frozen=True)
class Proposal:
    """An architecture to try, how it came about, and what the sampler wants to be reminded of with it.

    guided: drawn because of what was seen before, not at random or to begin with.
    """

    architecture: Architecture
    origin: str
    memory: Mapping[str, Any] = field(default_factory=dict)
    guided: bool = True
