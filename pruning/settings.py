"""What pruning goes by: strategy, criterion, schedule, budget, floors, and the training that belongs to each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..spaces import InputError, unknown
from .budget import Budget
from .criteria import CRITERIA
from .nni_masks import PRUNERS
from .strategies import STRATEGIES, Floor

# What may say which channels go: scores of ours, by which a strategy decides, or one of nni's pruners by itself.
DECIDING = (*CRITERIA, *PRUNERS)


@dataclass(frozen=True)
class Pruning:
    """How one network is pruned; see `docs/recipes.md`, section pruning, for what each means.

    budget: shares of the unpruned network. batches: for scores. cuts, between: of the schedule `gradual`. Then those of
    `tick_tock`: a tick is `tick_steps` steps of the gates alone and removes `tick_share` of the channels left;
    after every `ticks` ticks a tock trains all for `tock_steps` steps with `gate_decay` x the sum of |gates|.
    rate_share: of the training's learning rate, for all that is trained before the last cut.
    """

    budget: Mapping[str, float]
    strategy: str = "inner"
    criterion: str = "taylor_gate"
    schedule: str = "one_shot"
    floor_channels: int = 8
    floor_share: float = 0.25
    step: int | None = None
    per_cost: bool = True
    batches: int = 16
    cuts: int = 4
    between: int = 100
    tick_steps: int = 20
    tick_share: float = 0.02
    ticks: int = 10
    tock_steps: int = 200
    gate_decay: float = 1e-5
    rate_share: float = 0.2

    def __post_init__(self) -> None:
        for what, given, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("criterion", self.criterion, DECIDING),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if given not in known:
                raise InputError(f"pruning: {unknown(what, given, known)}")
        if self.criterion in PRUNERS and self.schedule != "one_shot":
            raise InputError(f"pruning: '{self.criterion}' decides by itself and at once: schedule must be one_shot")
        Budget(self.budget)

    @property
    def limits(self) -> Budget:
        """The budget, checked."""
        return Budget(self.budget)

    @property
    def floor(self) -> Floor:
        """What every place keeps."""
        return Floor(self.floor_channels, self.floor_share)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "budget": dict(self.budget)}


# What a schedule does, for people; `cutting.py` does it.
SCHEDULES = {
    "one_shot": "scores once, then cuts at once",
    "gradual": "several cuts with new scores, all weights trained between them",
    "tick_tock": "Gate Decorator's: ticks train and score the gates and remove a little, tocks train all",
}
