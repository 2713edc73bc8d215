"""Comparing samplers and schedulers on a recording, in simulated time: `paretosr simulate`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..analysis.simulation import Arm, Box, Line, compare
from ..analysis.simulation_page import write_simulation_csv, write_simulation_page
from ..search.halving import Rungs
from ..search.nni_samplers import refuse_absent
from ..search.recording import Recording, read_recording
from ..search.samplers import SAMPLERS
from ..search.settings import Budget, Settings
from ..search.simulator import Pool, Whole, refuse_other_rungs, simulate
from ..spaces import InputError, unknown
from .recipe_file import changed, parse_recipe
from .story import settings_of

DEFAULT = ("evolution", "tpe", "nsga2", "random")
PSNR_ALONE = ("psnr_db",)


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

    trainings: the budget, in whole trainings.
    """
    recording = read_recording(folder)
    settings = simulated(recording, folder, overrides)
    for name in samplers:
        if name not in SAMPLERS:
            raise InputError(unknown("sampler", name, SAMPLERS))
        refuse_absent(name)
    budget = trainings * recording.rungs[-1]
    settings = replace(settings, budget=Budget(10 * len(recording.networks), steps=budget))
    plan = arms_of(samplers, settings)
    traces: dict[str, list[tuple[Whole, ...]]] = {name: [] for name in plan}
    jobs = [(name, seed) for seed in range(seeds) for name in plan]
    for name, seed in track(jobs, "searching in simulated time", console=console, transient=True):
        arm, _ = plan[name]
        traces[name].append(tuple(simulate(recording, replace(arm, seed=seed), workers)))
    arms = [Arm(name, tuple(traces[name]), against) for name, (_, against) in plan.items()]
    lines, curves = compare(arms, Box(recording, settings.objectives), budget)
    words = f"{seeds} seeds, {workers} workers, a budget of {trainings} whole trainings"
    print_lines(lines, f"{len(recording.networks)} recorded networks, {words}", console)
    target = out or Path("out") / f"simulation-{folder.resolve().name}"
    write_simulation_csv(lines, target / "simulation.csv")
    write_simulation_page(lines, curves, recording, words, trainings, target / "simulation.html")
    console.print(f"table    {target / 'simulation.csv'}", soft_wrap=True)
    console.print(f"report   {target / 'simulation.html'}", soft_wrap=True)


def simulated(recording: Recording, folder: Path, overrides: Sequence[str]) -> Settings:
    """The settings of the recording's own recipe, changed by `overrides`; InputError where these do not fit it."""
    # Where and how it was timed is in its numbers; the machine that replays them may lack that device.
    raw = {key: part for key, part in recording.facts["recipe"].items() if key not in ("device", "latency", "data")}
    label = str(folder / "recording.json")
    settings = settings_of(changed(parse_recipe({**raw, "device": "cpu"}, label), overrides, label))
    if settings.space is None:
        raise InputError(f"{label}: its recipe has no 'space'")
    refuse_other_rungs(recording, settings)
    missing = [
        n for n in settings.objectives if n != "psnr_db" and n not in next(iter(recording.networks.values())).numbers
    ]
    if missing:
        raise InputError(f"objectives: the recording has no '{missing[0]}'")
    return replace(settings, space=Pool.of(settings.space, recording))


def arms_of(samplers: Sequence[str], settings: Settings) -> dict[str, tuple[Settings, str | None]]:
    """The arms by name, with the one that each is compared with: random search at equal budget, or the same sampler's
    full training. Halving by PSNR alone goes with the first sampler."""
    halving = settings.halving or Rungs()
    found: dict[str, tuple[Settings, str | None]] = {}
    for name in samplers:
        own = replace(settings, sampler=name, halving=None)
        against = "random, full training" if name != "random" and "random" in samplers else None
        found[f"{name}, full training"] = (own, against)
    for name in samplers:
        found[f"{name}, halving"] = (replace(settings, sampler=name, halving=halving), f"{name}, full training")
    alone = replace(halving, by=PSNR_ALONE)
    first = samplers[0]
    found[f"{first}, halving by PSNR alone"] = (
        replace(settings, sampler=first, halving=alone),
        f"{first}, full training",
    )
    return found


def print_lines(lines: Sequence[Line], title: str, console: Console) -> None:
    """The comparison as a table."""
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("search")
    for heading in ("at 1/3", "at 1/2", "at the end", "difference", "steps to equal", "seeds <= 1/2", "whole"):
        table.add_column(heading, justify="right")
    for line in lines:
        low, high = line.gain_interval
        table.add_row(
            line.name,
            f"{line.at['1/3']:.3f}",
            f"{line.at['1/2']:.3f}",
            f"{line.share:.3f}",
            "" if math.isnan(line.gain) else f"{line.gain:+.3f} [{low:+.3f}, {high:+.3f}]",
            ""
            if not line.reached
            else f"{line.reached_median:.2f} ({line.quantile(0.25):.2f}-{line.quantile(0.75):.2f})",
            "" if not line.reached else f"{line.within(0.5):.0%}",
            f"{line.whole:.1f}",
        )
    console.print(table)
    console.print(
        "Shares of the hypervolume of all recorded networks. Difference (at the end) and steps to equal (median and "
        "quartiles, as a share of the budget): to the same sampler's full training; of full trainings, to random.",
        soft_wrap=True,
    )
