"""Comparing samplers and schedulers on a recording, in simulated time: `paretosr simulate`."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from joblib import Parallel, cpu_count, delayed
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..analysis.simulation import Arm, Box, Line, compare, crowded
from ..analysis.simulation_page import cells, write_simulation_csv, write_simulation_page
from ..search.nni_samplers import refuse_absent
from ..search.objectives import OBJECTIVES
from ..search.recording import FACTS, NETWORKS, Recording, read_recording
from ..search.samplers import SAMPLERS
from ..search.settings import Budget, Settings
from ..search.simulator import Pool, Simulated, refuse_other_rungs, simulate
from ..spaces import InputError, unknown
from .engines.workplace import ThisMachine
from .recipe_file import changed, parse_recipe
from .story import settings_of
from .tables import number_table, print_fitting

Plan = dict[str, tuple[Settings, str | None]]  # the arms by name, with the one that each is compared with
DEFAULT = ("evolution", "tpe", "nsga2", "random")
PSNR_ALONE = ("psnr_db",)
# Of the page's table: what a terminal does not show, and what a narrow one does.
ON_THE_PAGE = ("compared with", "within 1/3", "networks met")
FEW = ("Search", "at 1/3", "at 1/2", "at the end", "steps to equal")
# Parts of a recipe that say where and how was measured, or what is made of a run's end: nothing of that is done here.
NOT_REPLAYED = ("device", "latency", "data", "pruning", "confirm", "winner")


class AnyDevice(ThisMachine):
    """This machine, on which nothing will be measured: it may lack the device on which it was."""

    def device(self, name: str) -> str:
        """The name itself."""
        return name


def run(
    folder: Path,
    samplers: Sequence[str],
    seeds: int,
    trainings: int,
    workers: int,
    overrides: Sequence[str],
    out: Path | None,
    console: Console,
) -> None:
    """Searches the recording with each sampler, by rungs and without, with many seeds; prints a table, writes a page.

    The searches go on all cores, each in one process; what they find does not depend on how many. trainings: the
    budget, in whole trainings.
    """
    for name in samplers:
        if name not in SAMPLERS:
            raise InputError(unknown("sampler", name, SAMPLERS))
        refuse_absent(name)
    recording, plan = prepared(folder, samplers, trainings, overrides)
    objectives = next(settings.objectives for settings, _ in plan.values())
    box, budget = Box(recording, objectives), trainings * recording.rungs[-1]
    searches: dict[str, list[Simulated]] = {name: [] for name in plan}
    asked = Question(folder.resolve(), tuple(samplers), trainings, workers, tuple(overrides), time.time_ns())
    jobs = [(name, seed) for seed in range(seeds) for name in plan]
    side_by_side: Any = Parallel(n_jobs=min(cpu_count(), len(jobs)), return_as="generator")  # its type knows only lists
    found: Iterator[Simulated] = side_by_side(delayed(answer)(asked, *job) for job in jobs)
    for name, _ in track(jobs, "searching in simulated time", console=console, transient=True):
        searches[name].append(next(found))
    arms = [
        Arm(
            name,
            traces=tuple(search.whole for search in searches[name]),
            against=against,
            met=tuple(search.met for search in searches[name]),
            used_up=tuple(search.used_up for search in searches[name]),
        )
        for name, (_, against) in plan.items()
    ]
    lines, curves = compare(arms, box, budget)
    words = f"{seeds} seeds, {workers} workers, a budget of {trainings} whole trainings"
    print_lines(lines, f"{len(recording.networks)} recorded networks, {words}", console)
    target = out or Path("out") / f"simulation-{folder.resolve().name}"
    write_simulation_csv(lines, target / "simulation.csv")
    write_simulation_page(lines, curves, recording, words, trainings, target / "simulation.html")
    console.print(f"table    {target / 'simulation.csv'}", soft_wrap=True)
    console.print(f"report   {target / 'simulation.html'}", soft_wrap=True)


def prepared(folder: Path, samplers: Sequence[str], trainings: int, overrides: Sequence[str]) -> tuple[Recording, Plan]:
    """The recording, and the searches to be compared on it; InputError where they do not fit each other."""
    recording = read_recording(folder)
    refuse_incomplete(recording, folder)
    budget = Budget(10 * len(recording.networks), steps=trainings * recording.rungs[-1])
    return recording, arms_of(samplers, replace(simulated(recording, folder, overrides), budget=budget))


@dataclass(frozen=True)
class Question:
    """All that a process must be told to answer; asked_ns tells one comparison from the next.

    It is short: a process that is sent a recording, and whose driver is killed meanwhile, waits for the rest forever.
    """

    folder: Path
    samplers: tuple[str, ...]
    trainings: int
    workers: int
    overrides: tuple[str, ...]
    asked_ns: int


@lru_cache(maxsize=1)
def _prepared(asked: Question) -> tuple[Recording, Plan]:
    """Read once in a process, for all its searches of a comparison."""
    return prepared(asked.folder, asked.samplers, asked.trainings, asked.overrides)


def answer(asked: Question, name: str, seed: int) -> Simulated:
    """One search of a comparison."""
    recording, plan = _prepared(asked)
    return simulate(recording, replace(plan[name][0], seed=seed), asked.workers)


def refuse_incomplete(recording: Recording, folder: Path) -> None:
    """InputError where a recording lacks what a search needs beside its networks, or has none of these."""
    if not recording.networks:
        raise InputError(f"{folder / NETWORKS}: holds no network; let `paretosr record` go on")
    if not isinstance(recording.facts.get("recipe"), dict):
        raise InputError(f"{folder / FACTS}: has no 'recipe'; `paretosr record` writes there the one it went by")
    match recording.facts.get("first"):
        case {"bicubic_psnr_db": int() | float(), "reference": {"numbers": {}}}:
            return
    raise InputError(f"{folder / FACTS}: has no 'first' with 'bicubic_psnr_db' and the numbers of the 'reference'")


def simulated(recording: Recording, folder: Path, overrides: Sequence[str]) -> Settings:
    """The settings of the recording's own recipe, changed by `overrides`; InputError where these do not fit it."""
    raw = {key: part for key, part in recording.facts["recipe"].items() if key not in NOT_REPLAYED}
    if isinstance(raw.get("train"), dict):
        raw["train"] = {key: value for key, value in raw["train"].items() if key not in ("gpus", "gpu_share")}
    label = str(folder / FACTS)
    # What only a GPU can measure is not refused: it was measured.
    settings = settings_of(changed(parse_recipe({**raw, "device": "cuda"}, label), overrides, label), AnyDevice())
    if settings.space is None:
        raise InputError(f"{label}: its recipe has no 'space'")
    if not settings.needs("trained"):
        raise InputError("objectives: without 'psnr_db' nothing is trained, and trainings are what is compared")
    refuse_other_rungs(recording, settings)
    refuse_unmeasured(recording, settings)
    return replace(settings, space=Pool.of(settings.space, recording))


def refuse_unmeasured(recording: Recording, settings: Settings) -> None:
    """InputError where an objective or a limit wants a number that some recorded network lacks."""
    wanted = [*settings.objectives, *(limit.name for limit in settings.limits)]
    timed = ["latency_ratio"] if settings.needs("timed") else []  # no timing is replayed without it
    for name in (*timed, *wanted):
        lacking = sum(name not in network.numbers for network in recording.networks.values())
        if name == "psnr_db" or not lacking:
            continue
        of = f"{lacking} of {len(recording.networks)}"
        if name in timed:
            untimed = ", ".join(n for n in settings.objectives if OBJECTIVES[n].stage != "timed")
            raise InputError(
                f"{of} recorded networks are not timed; let `paretosr record` go on to the end of its timing, "
                f"or leave out objectives and limits that are timed: --set 'objectives=[{untimed}]'"
            )
        where = "objectives" if name in settings.objectives else "limits"
        raise InputError(f"{where}: the recording has no '{name}' of {of} networks; leave that out")


def arms_of(samplers: Sequence[str], settings: Settings) -> Plan:
    """The arms by name, with the one that each is compared with: random search at equal budget, or the same sampler's
    full training. Halving by PSNR alone goes with the first sampler, against halving by all objectives. Where the
    settings have no halving, full trainings alone."""
    halving = settings.halving
    found: Plan = {}
    for name in samplers:
        own = replace(settings, sampler=name, halving=None)
        against = "random, full training" if name != "random" and "random" in samplers else None
        found[f"{name}, full training"] = (own, against)
    if halving is None:
        return found
    for name in samplers:
        found[f"{name}, halving"] = (replace(settings, sampler=name, halving=halving), f"{name}, full training")
    alone = replace(halving, by=PSNR_ALONE)
    first = samplers[0]
    found[f"{first}, halving by PSNR alone"] = (replace(settings, sampler=first, halving=alone), f"{first}, halving")
    return found


def print_lines(lines: Sequence[Line], title: str, console: Console) -> None:
    """The comparison as a table; a narrow terminal has the shares and the steps alone."""
    rows = []
    for line in lines:
        row = {name: cell for name, cell in cells(line).items() if name not in ON_THE_PAGE}
        row[f"met of {line.recorded}"] = f"{line.met:.1f}"
        if math.isfinite(line.used_up_median):
            row[f"met of {line.recorded}"] += f" all at {line.used_up_median:.2f}"
        rows.append(row)

    def table(names: Collection[str]) -> Table:
        made = number_table(*names, words=FEW[:1])
        made.title = title
        for row in rows:
            made.add_row(*(row[name] for name in names))
        return made

    print_fitting(table(rows[0]), table(FEW), console)
    console.print(
        "Shares of the hypervolume of all recorded networks. Difference (at the end) and steps to equal (median and "
        "quartiles, as a share of the budget): to the same sampler's full training; of full trainings, to random; of "
        "halving by PSNR alone, to halving by all objectives. Met: to any rung, or refused by a limit; and at which "
        "share of the budget these were all that were recorded.",
        soft_wrap=True,
    )
    if crowded(lines):
        console.print(crowded(lines), soft_wrap=True)
