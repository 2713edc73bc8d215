"""The part of a recipe that says how trained networks are cut."""

from typing import Annotated

from pydantic import Field

from ..pruning.budget import BUDGETS
from ..pruning.settings import DECIDING, SCHEDULES, Pruning
from ..pruning.strategies import LADDER
from .recipe_part import Part, Positive, Share
from .recipe_values import ONCE, OneOf

Shares = Annotated[
    dict[Annotated[str, OneOf("budget", BUDGETS)], Share],
    Field(title="a mapping of shares, like {latency_ratio: 0.65}"),
]
CONTROLS = {
    "scratch": "the same widths, trained from new weights for all the steps that parent and child had together",
    "random": "the same strategy, the channels chosen at random",
    "uniform": "every stream and every inner edge loses the same share",
    "uncut": "the unpruned network, trained on for as many steps as its child was",
}


class PruningPart(Part):
    """Cutting trained networks: members of the front (or the recipe's one network), each by every strategy and budget.

    The children are candidates of the same study, trained on after the cut, timed, and on the front like all others.
    """

    members: Positive | None = None
    """How many members of the front are pruned: the winner first, then those that lie furthest apart in latency. By
    default all of them."""
    strategies: Annotated[list[Annotated[str, OneOf("strategy", LADDER)]], Field(min_length=1), ONCE] = ["inner"]
    """What may go together: `inner` (edges with one producer and one consumer, in steps of the stairs, and whole
    branches), `group` (channels tied over skips), and the fine-grained `block` (aligned blocks on each side of a
    convolution), `interval` (one stretch of each stream on each side), `free` (any channel on any side)."""
    budgets: Annotated[list[Shares], Field(min_length=1)] = [{"latency_ratio": 0.65}]
    """How small a child must be, each budget a mapping of shares of the unpruned network that all must hold:
    `latency_ratio` (measured), `flops`, `activations`, `parameters`, `kept` (channels), `memory` (on a GPU)."""
    criterion: Annotated[str, OneOf("criterion", DECIDING)] = "taylor_gate"
    """What says how much a channel matters. The `nni_...` are nni's own pruners, which decide alone, whatever the
    strategy; they need the extra `nni`."""
    per_cost: bool = True
    """A channel's score is divided by what closing it buys of the budget; else channels go by their scores alone."""
    schedule: Annotated[str, OneOf("schedule", SCHEDULES)] = "one_shot"
    """`one_shot` scores and cuts once; `gradual` cuts several times and trains between; `tick_tock` is Gate
    Decorator's: ticks train and score the gates alone and remove a little, tocks train all, with a price on gates."""
    floor_channels: Positive = 8
    """Channels that every edge, stream or side keeps at least (whole branches may go)."""
    floor_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """And the share of its channels that it keeps at least."""
    step: Positive | None = None
    """Widths are cut to multiples of it, and blocks are so large; by default the widths at which convolutions are
    timed, and blocks of 8. `free` goes channel by channel."""
    batches: Positive = 16
    """Batches of patches that scores are gathered over."""
    cuts: Positive = 4
    """For `gradual`: how many cuts."""
    between: Positive = 200
    """For `gradual`: training steps between two cuts."""
    tick_steps: Positive = 20
    """For `tick_tock`: steps of a tick, in which only the gates move."""
    tick_share: Share = 0.02
    """For `tick_tock`: the share of the channels left that a tick removes."""
    ticks: Positive = 10
    """For `tick_tock`: ticks between two tocks."""
    tock_steps: Positive = 200
    """For `tick_tock`: steps of a tock."""
    gate_decay: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """For `tick_tock`: the price of the sum of all |gates| in a tock."""
    rate_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Learning rate of what is trained between cuts, as a share of `train.learning_rate`."""
    recovery_steps: Positive | None = None
    """Training steps after the last cut; by default `recovery_share` says how many."""
    recovery_share: Annotated[float, Field(gt=0, le=10)] = 0.5
    """The same as a share of the steps that the unpruned network had."""
    recovery_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Learning rate of the recovery at its start, as a share of `train.learning_rate`."""
    teacher: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of a term that pulls the child to what the unpruned network gives; 0 is none."""
    repeats: Annotated[int, Field(ge=1, le=20)] = 1
    """Each child so many times, with other batches and patches: they give its interval."""
    controls: Annotated[list[Annotated[str, OneOf("control", CONTROLS)]], ONCE] = []
    """What a child is compared with: `scratch` (the same widths from new weights, for all the steps), `random`
    (channels chosen at random), `uniform` (everywhere the same share), `uncut` (the unpruned network, trained on)."""

    def pruning(self, strategy: str, budget: dict[str, float], criterion: str | None = None) -> Pruning:
        """The settings of one child."""
        given = self.model_dump()
        fields = {name: given[name] for name in Pruning.__dataclass_fields__ if name in given}
        return Pruning(**{**fields, "strategy": strategy, "budget": budget, "criterion": criterion or self.criterion})
