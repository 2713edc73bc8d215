"""Combinations of keys that are impossible, though each key is right by itself.

A check takes the recipe and raises InputError; a new one: write it, name it in `CHECKS`. What depends on the machine is
`check_device`, which is asked once the device is known.
"""

from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import TYPE_CHECKING

from ..proxies.latency import misfits
from ..proxies.losses import OF_EXITS, refuse_untrainable
from ..search.ntire import NTIRE_SCORES
from ..search.objectives import OBJECTIVES
from ..spaces import Architecture, Block, Design, Frame, InputError, Published, Space, build, published
from ..spaces.upsampler import UPSAMPLERS

if TYPE_CHECKING:
    from .recipe import Recipe


def refuse_impossible(recipe: "Recipe") -> None:
    """Raises InputError for the first impossible combination."""
    for check in CHECKS:
        check(recipe)
    for make in (recipe.make_space, recipe.make_limits, recipe.make_winner, recipe.make_protocol):
        make()
    if recipe.device != "auto":
        check_device(recipe, recipe.device)


def check_device(recipe: "Recipe", device: str) -> None:
    """Raises InputError where the recipe wants of `device` (`cpu`, `cuda`, ...) what only a GPU can do."""
    if device != "cpu":
        return
    why = "device is cpu" if recipe.device == "cpu" else "this machine shows no GPU to torch"
    if recipe.latency.execution == "graph":
        raise InputError(f"latency.execution: 'graph' replays a CUDA graph, and {why}; take eager or compiled")
    if recipe.latency.precision == "tf32":
        raise InputError(f"latency.precision: 'tf32' exists on GPUs only, and {why}; take fp32")
    if recipe.train.gpus > 1:
        raise InputError(f"train.gpus: {recipe.train.gpus} GPUs are to share a training, and {why}")
    for where, name in _numbers_used(recipe):
        if name == "memory_mb":
            raise InputError(f"{where}: 'memory_mb' is measured on GPUs only, and {why}")
    for index, budget in enumerate(recipe.pruning.budgets if recipe.pruning else ()):
        if "memory" in budget:
            raise InputError(f"pruning.budgets[{index}]: 'memory' is measured on GPUs only, and {why}")


def _numbers_used(recipe: "Recipe") -> Iterator[tuple[str, str]]:
    """(key, number) for every place that names a measured number."""
    for index, name in enumerate(recipe.objectives):
        yield f"objectives[{index}]", name
    for name in recipe.limits:
        yield "limits", name
    if isinstance(recipe.winner, dict):
        for rule, condition in recipe.winner.items():
            for name in condition:
                yield f"winner.{rule}", name


# ---- the checks


def _one_purpose(recipe: "Recipe") -> None:
    if recipe.space is not None and recipe.network is not None:
        raise InputError("network: stands beside 'space'; a recipe searches a space or trains one network, not both")


def _data(recipe: "Recipe") -> None:
    data = recipe.data
    if data.validation is not None and data.validation == data.source:
        raise InputError(
            "data.validation: is the same as data.source, and networks must not be judged by what they learned from; "
            "without it some images are held out"
        )
    if data.held_out is not None and data.validation is not None:
        raise InputError("data.held_out: says how many images of data.source to hold out, but data.validation is given")
    if data.held_out is not None and data.source == "embedded":
        raise InputError("data.held_out: is for folders; of the embedded photos always the same two are held out")


def _upsamplers(recipe: "Recipe") -> None:
    space = recipe.space
    for name in space.upsampler if space else ():
        step, widths = UPSAMPLERS[name].WIDTH_STEP, space.upsampler_width if space else []
        if step and not widths:
            raise InputError(f"space.upsampler_width: the upsampler '{name}' needs at least one width, like [16]")
        for index, width in enumerate(widths):
            if step and width % step:
                raise InputError(
                    f"space.upsampler_width[{index}]: must be a multiple of {step} for '{name}', not {width}"
                )


def _seeds(recipe: "Recipe") -> None:
    space = recipe.make_space()
    for index, name in enumerate(recipe.search.seeded_with):
        if space is None:
            raise InputError("search.seeded_with: needs a 'space' in which these networks lie")
        reasons = list(why_outside(space, published(name).architecture))
        if reasons:
            raise InputError(f"search.seeded_with[{index}]: '{name}' does not lie in the space: {', '.join(reasons)}")


def why_outside(space: Space, architecture: Architecture | Published) -> Iterator[str]:
    """What a space lacks to hold an architecture, in the recipe's words; nothing where it holds it."""
    if isinstance(architecture, Published):
        yield "it is no architecture of blocks"
        return
    a = architecture.canonical()
    for key, value, allowed in (
        ("widths", a.width, space.widths),
        ("depths", len(a.blocks), space.depths),
        ("fusion", a.fusion, space.fusions),
        ("upsampler", a.upsampler, space.upsamplers),
        ("upsampler_width", a.upsampler_width, (0, *space.upsampler_widths)),
        ("image_skip", a.image_skip, space.image_skips),
    ):
        if value not in allowed:
            yield f"space.{key} lacks {value}"
    for block in dict.fromkeys(a.blocks):
        pool = {choices.type: choices for choices in space.blocks}
        if block.type not in pool:
            yield f"space.blocks lacks {block.type}"
        elif not pool[block.type].holds(block):
            allowed = dict(pool[block.type].choices)
            lacking = [f"{name}: {value}" for name, value in block.choices if value not in allowed[name]]
            yield f"space.blocks: {block.type} lacks {', '.join(lacking)}"
    for key in Frame.__dataclass_fields__:
        if getattr(a.frame, key) != getattr(space.frame, key):
            yield f"space.frame.{key} would have to be {str(getattr(a.frame, key)).lower()}"


def _halving(recipe: "Recipe") -> None:
    halving = recipe.search.halving
    if halving is None:
        return
    if recipe.space is None:
        raise InputError("search.halving: compares the networks of a search, and the recipe has no 'space'")
    if "psnr_db" not in recipe.objectives:
        raise InputError("search.halving: promotes by PSNR beside the other objectives; add 'psnr_db' to these")
    if halving.eta ** (halving.rungs - 1) > recipe.train.steps:
        raise InputError(
            f"search.halving: of {halving.rungs} rungs with eta {halving.eta} the first would be shorter than one step "
            f"(train.steps: {recipe.train.steps})"
        )


def _gpus(recipe: "Recipe") -> None:
    train = recipe.train
    if train.gpus > 1 and train.batch % train.gpus:
        raise InputError(f"train.gpus: a batch of {train.batch} (train.batch) cannot be shared evenly by {train.gpus}")
    if train.gpus > 1 and train.gpu_share < 1:
        raise InputError("train.gpus: several whole GPUs, beside train.gpu_share, a part of one")


def _budget(recipe: "Recipe") -> None:
    search, train = recipe.search, recipe.train
    if train.fit and search.minutes is None:
        raise InputError("train.fit: fits the steps into search.minutes, which are not given")
    if search.steps is not None and search.steps < train.steps and not train.fit:
        raise InputError(f"search.steps: {search.steps} are fewer than one network takes (train.steps: {train.steps})")


def _milestones(recipe: "Recipe") -> None:
    train = recipe.train
    if train.schedule == "milestones" and not train.milestones:
        raise InputError("train.milestones: the schedule 'milestones' needs at least one, like [0.5, 0.8]")
    if train.schedule != "milestones" and train.milestones:
        raise InputError(f"train.milestones: has no effect with the schedule '{train.schedule}'; leave one of them out")
    if any(a >= b for a, b in zip(train.milestones, train.milestones[1:], strict=False)):
        raise InputError(f"train.milestones: must rise from one to the next, not {train.milestones}")


def _timing(recipe: "Recipe") -> None:
    latency = recipe.latency
    defaults = {key: field.default for key, field in type(latency).model_fields.items()}
    for key, why in misfits(latency.protocol, latency.model_dump(), defaults):
        raise InputError(f"latency.{key}: {why}")
    if latency.max_rounds < latency.rounds:
        raise InputError(f"latency.max_rounds: {latency.max_rounds} are fewer than latency.rounds ({latency.rounds})")


def _loss(recipe: "Recipe") -> None:
    """Some losses and settings are for networks of one kind, which no architecture of a space is."""
    space = recipe.make_space()
    if space is None or (recipe.train.loss not in OF_EXITS and not recipe.train.grow_at):
        return  # the one network of a recipe without a space is looked at when it is read
    networks = {f"the published network {name}": published(name) for name in recipe.search.beside}
    networks["a network of the space"] = Design(space.sample(Random(0)))
    for words, design in networks.items():
        refuse_untrainable(build(design, device="meta"), words, recipe.train.loss, bool(recipe.train.grow_at))


def _winner(recipe: "Recipe") -> None:
    """The winner's rule may look only at numbers that some objective or limit has measured."""
    measured = {OBJECTIVES[name].stage for name in (*recipe.objectives, *recipe.limits)} | {"counted"}
    needed = [name for where, name in _numbers_used(recipe) if where.startswith("winner")]
    if isinstance(recipe.winner, dict) and "best_psnr" in recipe.winner:
        needed.append("psnr_db")
    for name in needed:
        if OBJECTIVES[name].stage not in measured:
            raise InputError(f"winner: needs '{name}', which is not measured; add it to objectives or limits")


def _scores(recipe: "Recipe") -> None:
    """The score of a challenge's year weighs a network against that year's baseline, timed on the same device."""
    for where, name in _numbers_used(recipe):
        score = NTIRE_SCORES.get(name.removeprefix("ntire_"))
        if score and recipe.reference != score.baseline:
            raise InputError(
                f"{where}: '{name}' weighs networks against that year's baseline; it needs reference: {score.baseline}"
            )


def _small_images(recipe: "Recipe") -> None:
    """No patch and no timed image may be smaller than what some network of the space can take."""
    timed = any(OBJECTIVES[name].stage == "timed" for _, name in _numbers_used(recipe))
    sides = [("train.patch", recipe.train.patch)]
    if timed:
        sides.append(("latency.size", recipe.make_protocol().smallest))
    space = recipe.make_space()
    networks = [block for choices in space.blocks for block in _kinds(choices.type, choices.choices)] if space else []
    for key, side in sides:
        for block in networks:
            if side < _least(block):
                raise InputError(f"{key}: {block.summary()} needs at least {_least(block)} pixels a side, not {side}")
        known = [(f"the published network {name}", name) for name in recipe.search.beside if space]
        if space and key == "latency.size":
            known.append((f"the reference {recipe.reference}", recipe.reference))
        for words, name in known:
            if side < (least := least_side(published(name))):
                raise InputError(f"{key}: {words} needs at least {least} pixels a side, not {side}")


def _kinds(type_: str, choices: tuple[tuple[str, tuple], ...]) -> Iterator[Block]:
    """One block for each attention; no other choice says how small an image may be."""
    attentions = dict(choices).get("attention")
    for attention in attentions or (None,):
        yield Block.of(type_, attention=attention) if attention else Block(type_)


@cache
def _least(block: Block) -> int:
    """The smallest image that a block takes, pixels a side."""
    return least_side(Design(Architecture(8, (block,))))


@cache
def least_side(design: Design) -> int:
    """The smallest image that a network takes, pixels a side."""
    return build(design, device="meta").minimum_size


def _pruning(recipe: "Recipe") -> None:
    """What is pruned must have been trained, and each budget must be one."""
    part = recipe.pruning
    if part is None:
        return
    if "psnr_db" not in {name for _, name in _numbers_used(recipe)}:
        raise InputError("pruning: needs trained networks; add psnr_db to objectives")
    for index, budget in enumerate(part.budgets):
        try:
            part.pruning(part.strategies[0], budget)
        except InputError as error:
            raise InputError(f"pruning.budgets[{index}]: {str(error).removeprefix('budget: ')}") from None


CHECKS: tuple[Callable[["Recipe"], None], ...] = (
    _one_purpose,
    _data,
    _upsamplers,
    _seeds,
    _budget,
    _halving,
    _gpus,
    _milestones,
    _loss,
    _timing,
    _winner,
    _scores,
    _small_images,
    _pruning,
)
