"""A `Candidate` is one network with its numbers: what was proposed, what was measured, who its parent was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..spaces import NETWORKS, Design, Published

TRAINED_ALIKE = ("search", "published")  # the kinds that a search measures and trains, all in one way
ON_FRONT = (*TRAINED_ALIKE, "pruned")  # the kinds that may stand on the front
STATES = ("running", "complete", "pruned", "failed", "paused")


@dataclass(frozen=True)
class Candidate:
    """One network of a run.

    number: its place in the study. state: `complete`; `pruned` (it broke a limit before training, `reason` says which);
    `failed` (`reason` says why); `running`; `paused` at a rung, trained no further unless promoted. kind: `search`;
    `published` for a published network that is trained beside those found; `trained` for a longer training of
    `parent`; `pruned` for what was cut out of it; `control` for what such a cut is compared with.
    origin: how it was proposed. numbers: what was measured, the unit in the name. intervals: 95 % intervals of those
    that have one. curve: (step, mean loss since the last point). confirmed: timed again together with the front and
    trained with further seeds. tied_with: members of the front that it cannot be told apart from.
    """

    number: int
    design: Design
    state: str = "running"
    kind: str = "search"
    parent: int | None = None
    origin: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reason: str = ""
    curve: tuple[tuple[int, float], ...] = ()
    confirmed: bool = False
    tied_with: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rungs(self) -> tuple[tuple[int, float], ...]:
        """(steps, PSNR in dB) at each rung that it has reached; these are no results, and never among its numbers."""
        return tuple((int(steps), float(psnr_db)) for steps, psnr_db in self.details.get("rungs", ()))

    @property
    def target(self) -> int | None:
        """The step to which it is, or was, trained in a search by rungs."""
        return self.details.get("target")

    @property
    def summary(self) -> str:
        """The network in one line; a published one by its name first."""
        system = self.details.get("system")
        words = self.design.summary()
        if system is None or isinstance(self.design.architecture, Published):
            return words
        return f"{NETWORKS[system].title}, as published: {words}"
