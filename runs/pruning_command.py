"""`paretosr prune`: what to cut, asked for and refused before anything is written; then the run goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..pruning.budget import Meter
from ..pruning.nni_masks import plan_of_masks, read_masks
from ..search.candidate import Candidate
from ..search.study import Record
from ..spaces import BUILDABLE, Design, InputError, published, unknown
from ..spaces.plan import Plan, read_plan
from . import story
from .engines.workplace import Workplace, workplace
from .folder import RunFolder
from .pruning_jobs import jobs
from .pruning_wanted import is_whole, parents_of, refuse_unreachable
from .recipe import Recipe
from .recipe_file import changed, read_recipe
from .recipe_pruning import PruningPart
from .storage import driven
from .winner import chosen


@dataclass(frozen=True)
class Asked:
    """What a command names: candidates and systems (neither: the front), a recipe, or a plan or masks to cut by."""

    candidates: tuple[int, ...] = ()
    systems: tuple[str, ...] = ()
    recipe: str | None = None
    plan: Path | None = None
    masks: Path | None = None


def prune_network(
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    console: Console,
    ray: str | None = None,
    storage: str | None = None,
) -> None:
    """Trains the one network of a recipe and prunes it, or goes on with that."""
    recipe = read_recipe(name, overrides)
    if recipe.pruning is None:
        raise InputError(f"{name}: has no 'pruning'; give it one, or prune the folder of a run")
    story.search(name, out, overrides, fresh=False, console=console, ray=ray, storage=storage)


def prune_run(path: Path, asked: Asked, overrides: Sequence[str], console: Console, ray: str | None = None) -> None:
    """Adds to a run the children of some of its candidates, and confirms its front anew."""
    with workplace(ray, console.print) as place:
        _prune_run(RunFolder(place.path(path)), asked, overrides, console, place)


def _prune_run(folder: RunFolder, asked: Asked, overrides: Sequence[str], console: Console, place: Workplace) -> None:
    path = folder.path
    recipe = folder.recipe()
    if not recipe.has_front:
        raise InputError(f"{path}: was not made by a search; prune a recipe with 'network' and 'pruning' instead")
    part = part_of(path, recipe, asked, overrides)
    for name in asked.systems:
        if name not in BUILDABLE:
            raise InputError(unknown("system", name, BUILDABLE))
    settings = story.settings_of(recipe, place)
    story.say_notes(settings.data, console)
    story.check_place(place, folder, recipe, settings, timed=story.times_to_prune(part))
    with folder.lock() as held:
        record = held.enter_context(driven(folder, recipe.objectives, settings.space))
        story.refuse_other_images(folder.path, record.attribute("first"), settings.data)
        story.refuse_other_device(folder, settings, record, place)
        if record.attribute("first") is None:
            raise InputError(f"{path}: has nothing to prune yet; let the search begin first")
        parents = chosen_parents(folder, record, asked)
        if not parents and not asked.systems:  # of a front without what was pruned from it
            parents = [record.candidates[n] for n in parents_of(part, record, settings, recipe.make_winner())]
            if not parents:
                raise InputError(f"{path}: has no front to prune yet; name a candidate by --candidate")
        designs = [*(c.design for c in parents), *map(published, asked.systems)]
        plan = plan_of(asked, designs)
        for design in designs if plan is None else ():
            refuse_unreachable(Meter(design), jobs(part, [0]))
        request = {
            "parents": [c.number for c in parents],
            "systems": list(asked.systems),
            "part": part.model_dump(mode="json"),
            "plan": None if plan is None else plan.to_json(),
        }
        known = record.attribute("pruning") or []
        if request not in known:
            record.set_attribute("pruning", [*known, request])
        story.carry_on(folder, recipe, settings, record, console, place)


def part_of(path: Path, recipe: Recipe, asked: Asked, overrides: Sequence[str]) -> PruningPart:
    """How to prune: as another recipe says, or this run's own, or by the defaults; with what `--set` changes."""
    if asked.recipe is not None:
        part = read_recipe(asked.recipe, overrides).pruning
        if part is None:
            raise InputError(f"{asked.recipe}: has no 'pruning'")
        return part
    for override in overrides:
        if not override.strip().startswith("pruning."):
            raise InputError(f"--set {override}: of a run that is pruned only 'pruning' can be set")
    return changed(recipe, overrides, str(path)).pruning or PruningPart()


def chosen_parents(folder: RunFolder, record: Record, asked: Asked) -> list[Candidate]:
    """The candidates that the command names; InputError for one that cannot be pruned."""
    found = [chosen(record.candidates, number, folder) for number in asked.candidates]
    for candidate in found:
        if candidate.design.plan is not None:
            raise InputError(f"{folder.path}: candidate {candidate.number} is pruned already; prune its parent")
        if not is_whole(candidate):
            raise InputError(f"{folder.path}: candidate {candidate.number} is not trained ({candidate.state})")
    return found


def plan_of(asked: Asked, designs: Sequence[Design]) -> Plan | None:
    """The plan of a file, checked against the one network that it is for; None where none is given."""
    if asked.plan is None and asked.masks is None:
        return None
    if len(designs) != 1 or (asked.plan and asked.masks):
        raise InputError("--plan and --masks: one of them, for one --candidate or --system")
    meter = Meter(designs[0])
    plan = read_plan(asked.plan) if asked.plan else None
    masks = read_masks(asked.masks) if asked.masks else {}
    try:
        plan = plan or plan_of_masks(masks, meter.flow, designs[0].architecture.hash)
        Design(designs[0].architecture, plan)
        whole = meter.settled(plan)
        cut_off = not meter.passes_image(whole)
    except InputError as error:
        raise InputError(f"{asked.plan or asked.masks}: {error}") from None
    if cut_off:
        raise InputError(f"{asked.plan or asked.masks}: cuts the output off from the image; nothing would be left")
    return plan
