"""The rank table of cheap numbers against trained PSNR: `paretosr proxies` on a run or on a recording."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..analysis.proxy_ranks import AT_RUNG, Predicted, Rank, Sample, predictors, ranks
from ..analysis.proxy_table import write_predictors_csv, write_ranks_csv
from ..proxies.predictors import FEWEST_VALIDATED
from ..proxies.score_work import ScoreWork
from ..proxies.scores import SCORES
from ..proxies.work import Data
from ..proxies.writing import write_json
from ..search.engine import RunFailed, Task, complete
from ..search.recording import FACTS, read_recording
from ..search.study import belongs
from ..spaces import Design, InputError, unknown
from .engines.local import LocalEngine
from .inspection import read_run
from .recipe import Recipe
from .recipe_file import parse_recipe
from .story import Stopped, data_of, signals

CHUNK = 8  # networks in a piece of work
BATCHES, BATCH, PATCH = 4, 16, 16  # what the scores see: 4 batches of 16 patches of 16x16 LR pixels
COSTS = ("latency_ratio", "activations_m")


def run(
    source: Path,
    names: Sequence[str] | None,
    workers: int | None,
    predict: bool,
    out: Path | None,
    console: Console,
) -> None:
    """Scores the networks of a run or a recording, prints how well each number ranks them, and writes it as CSV.

    Scores that were computed before are kept in the output folder. InputError for what the user can mend.
    """
    for name in names or ():
        if name not in SCORES:
            raise InputError(unknown("score", name, SCORES))
    recipe, sample = from_recording(source) if (source / FACTS).exists() else from_run(source)
    target = out or Path("out") / f"proxies-{source.resolve().name}"
    scores = scored(sample.designs, tuple(names or SCORES), recipe, workers, target / "scores.json", console)
    found = ranks(sample, scores)
    print_ranks(found, sample, console)
    write_ranks_csv(found, target / "ranks.csv")
    console.print(f"table    {target / 'ranks.csv'}", soft_wrap=True)
    if predict and len(sample.designs) < FEWEST_VALIDATED:
        console.print(
            f"{len(sample.designs)} networks are too few to validate predictors on; that takes {FEWEST_VALIDATED}"
        )
    elif predict:
        with console.status("cross-validating predictors"):
            validated = list(predictors(sample, scores))
        print_predictors(validated, console)
        write_predictors_csv(validated, target / "predictors.csv")
        console.print(f"table    {target / 'predictors.csv'}", soft_wrap=True)


# ---- where the networks come from


def from_recording(folder: Path) -> tuple[Recipe, Sample]:
    """The recipe and the networks of a recording, each with its first training."""
    recording = read_recording(folder)
    recipe = parse_recipe(recording.facts["recipe"], str(folder / FACTS))
    space = recipe.make_space()
    if space is None:
        raise InputError(f"{folder / FACTS}: its recipe has no 'space'")
    networks = list(recording.networks.values())
    outside = next((n.architecture for n in networks if n.architecture not in space), None)
    if outside is not None:
        raise InputError(f"{folder}: does not fit its space: {outside.summary()} lies outside")
    costs = costs_of([n.numbers for n in networks])
    curves = tuple(n.trainings[0].psnr_db[:-1] for n in networks)
    designs = tuple(Design(n.architecture) for n in networks)
    whole = tuple(n.trainings[0].psnr_db[-1] for n in networks)
    return recipe, Sample(space, designs, whole, costs, recording.rungs[:-1], curves)


def from_run(folder: Path) -> tuple[Recipe, Sample]:
    """The recipe of a run and the networks of its search that are trained to the end."""
    _, recipe, record = read_run(folder)
    space = recipe.make_space()
    if space is None:
        raise InputError(f"{folder}: was not made by a search; there is nothing to rank")
    whole = [c for c in record.candidates if belongs(c, space) and c.state == "complete" and "psnr_db" in c.numbers]
    costs = costs_of([c.numbers for c in whole])
    rungs = tuple(steps for steps, _ in whole[0].rungs[:-1]) if whole else ()
    curves = tuple(tuple(psnr_db for _, psnr_db in c.rungs[:-1]) for c in whole)
    designs = tuple(c.design for c in whole)
    return recipe, Sample(space, designs, tuple(c.numbers["psnr_db"] for c in whole), costs, rungs, curves)


def costs_of(numbers: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Latency and activations of all networks, as far as all have them."""
    return {name: tuple(own[name] for own in numbers) for name in COSTS if all(name in own for own in numbers)}


# ---- scores


def scored(
    designs: Sequence[Design],
    names: Sequence[str],
    recipe: Recipe,
    workers: int | None,
    kept: Path,
    console: Console,
) -> dict[str, list[float]]:
    """The scores of all networks, by name; those that `kept` holds are not computed again."""
    data = data_of(recipe)
    how = {"seed": recipe.seed, "batches": BATCHES, "batch": BATCH, "patch": PATCH, "images": data.train().hash}
    known = _read(kept, how)
    missing = {d.hash: d for d in designs if any(name not in known.get(d.hash, {}) for name in names)}
    for hashes, columns in _computed(missing, names, recipe.seed, data, workers, console):
        for at, name_of_network in enumerate(hashes):
            known.setdefault(name_of_network, {}).update({name: column[at] for name, column in columns.items()})
        write_json(kept, {"how": how, "scores": known})
    return {name: [_number(known[d.hash][name]) for d in designs] for name in names}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _read(kept: Path, how: Mapping[str, object]) -> dict[str, dict[str, float | None]]:
    """What an earlier run has computed in the same way."""
    try:
        said = json.loads(kept.read_text())
        return said["scores"] if said["how"] == how else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _computed(
    missing: Mapping[str, Design],
    names: Sequence[str],
    seed: int,
    data: Data,
    workers: int | None,
    console: Console,
) -> Iterator[tuple[list[str], dict[str, list[float | None]]]]:
    """Scores networks in chunks on all workers; yields the hashes of each chunk with its columns."""
    hashes = list(missing)
    chunks = {f"scores/{at}": hashes[at : at + CHUNK] for at in range(0, len(hashes), CHUNK)}
    tasks = [
        Task(
            task,
            ScoreWork(tuple(missing[h] for h in chunk), tuple(names), data, PATCH, BATCH, BATCHES, seed, "cpu"),
        )
        for task, chunk in chunks.items()
    ]
    with (
        signals() as asked,
        LocalEngine(workers or len(os.sched_getaffinity(0)), lambda: bool(asked)) as engine,
        Progress(console=console, transient=True) as bars,
    ):
        bar = bars.add_task("scoring networks", total=len(hashes))
        for finished in complete(engine, tasks):
            if finished.failure:
                raise RunFailed(f"the scores could not be computed: {finished.failure}")
            if finished.numbers is None:
                break
            bars.advance(bar, len(chunks[finished.task.name]))
            columns = finished.numbers["columns"]
            plain = {name: [None if math.isnan(v) else v for v in column] for name, column in columns.items()}
            yield chunks[finished.task.name], plain
            for line in finished.numbers["failures"]:
                console.print(line, soft_wrap=True)
    if asked:
        raise Stopped(asked[0])


# ---- for people


def print_ranks(found: Sequence[Rank], sample: Sample, console: Console) -> None:
    """The rank table, best first within its groups."""
    given = " and ".join(name.partition("_")[0] for name in sample.costs)
    table = Table(title=f"Spearman's rank correlation with PSNR, {len(sample.designs)} networks", box=SIMPLE_HEAD)
    table.add_column("number")
    table.add_column("with PSNR", justify="right")
    table.add_column(f"given {given}", justify="right")
    table.add_column("networks", justify="right")
    for rank in sorted(found, key=_place):
        label = f"{rank.label} (a control)" if rank.control else rank.label
        table.add_row(label, rank.plain.text(), rank.partial.text(), str(rank.plain.rows))
    console.print(table)


def _place(rank: Rank) -> tuple[bool, bool, float]:
    """Controls first, then scores, then PSNR at the rungs, as they follow one another."""
    at_rung = rank.name.startswith(AT_RUNG)
    return not rank.control, at_rung, 0.0 if at_rung else -abs(rank.plain.rho or 0.0)


def print_predictors(found: Sequence[Predicted], console: Console) -> None:
    """The predictors, means over the folds."""
    table = Table(title="Predictors, cross-validated: mean and deviation over the folds", box=SIMPLE_HEAD)
    for heading in ("of", "from", "model"):
        table.add_column(heading)
    for heading in ("Spearman", "R2", "RMSE", "95% hold"):
        table.add_column(heading, justify="right")
    for row in found:
        said = row.validation.summary()
        numbers = [f"{said[name][0]:.3f} ± {said[name][1]:.3f}" for name in ("spearman", "r2", "rmse")]
        table.add_row(row.target, row.features, row.validation.model, *numbers, f"{said['coverage'][0]:.0%}")
    console.print(table)
