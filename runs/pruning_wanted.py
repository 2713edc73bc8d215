"""What a run is to prune: what its recipe says, and what was asked for since; and what is refused."""

from collections.abc import Iterable, Sequence

from ..pruning.budget import Budget, Meter
from ..pruning.criteria import MEASURED_WITH
from ..pruning.decide import Decider
from ..pruning.nni_masks import PRUNERS
from ..search.candidate import TRAINED_ALIKE, Candidate
from ..search.settings import Settings
from ..search.study import Record
from ..search.verdict import WinnerRule, choose, eligible, on_front
from ..spaces.plan import Plan
from .pruning_jobs import Job, furthest, jobs
from .recipe import Recipe
from .recipe_file import network_of
from .recipe_pruning import PruningPart


def asked_for(recipe: Recipe, record: Record, settings: Settings) -> list[Job]:
    """All that is to be pruned: what the recipe says, and what was asked for since."""
    found: list[Job] = []
    if recipe.pruning is not None:
        parents = parents_of(recipe.pruning, record, settings, recipe.make_winner())
        found += jobs(recipe.pruning, parents)
    for request in record.attribute("pruning") or []:
        plan = request["plan"] and Plan.from_json(request["plan"])
        parents = [*request["parents"], *trained_systems(record, request["systems"])]
        found += jobs(PruningPart.model_validate(request["part"]), parents, plan)
    return list({job.key: job for job in found}.values())


def trained_systems(record: Record, names: Sequence[str]) -> list[int]:
    """The candidates of a run that are these published networks, as far as they are trained."""
    found = {c.details.get("system"): c.number for c in record.candidates if c.kind == "published" and is_whole(c)}
    return [found[name] for name in names if name in found]


def is_whole(candidate: Candidate) -> bool:
    """Whether a candidate can be pruned: trained to its end, and not cut already."""
    return candidate.state == "complete" and candidate.design.plan is None and "psnr_db" in candidate.numbers


def refuse_unreachable_of(recipe: Recipe) -> None:
    """InputError for a budget that the recipe's one network cannot be cut to, before it is trained."""
    if recipe.space is None and recipe.pruning is not None:
        refuse_unreachable(Meter(network_of(recipe)), jobs(recipe.pruning, [0]))


def parents_of(part: PruningPart, record: Record, settings: Settings, rule: WinnerRule) -> list[int]:
    """Which candidates a run's own recipe prunes: of the front of what was searched, however it looks when confirmed.

    Told from what does not change any more, so that a resumed run prunes the same.
    """
    fit = [c for c in eligible(record.candidates, settings.objectives, settings.limits) if c.kind in TRAINED_ALIKE]
    front = on_front(fit, settings.objectives)
    winner, _ = choose(front, settings.objectives, rule)
    return furthest(front, winner, part.members, settings.objectives)


def refuse_unreachable(meter: Meter, wanted: Iterable[Job]) -> None:
    """InputError, which says the least that can be had, for the first budget that a network cannot be cut to.

    Budgets on what the meter does not know (latency without stairs, memory without a GPU) are left to the pruning.
    """
    for job in wanted:
        known = {name: share for name, share in job.pruning.budget.items() if name in meter.whole}
        if known and job.plan is None and not job.control and job.pruning.criterion not in PRUNERS:
            decider = Decider(meter, job.pruning.strategy, job.pruning.floor, job.pruning.step)
            with_branches = job.pruning.criterion == MEASURED_WITH and job.pruning.schedule != "tick_tock"
            decider.refuse_unreachable(Budget(known), with_branches)
