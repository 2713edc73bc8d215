"""The story of a run, from a recipe to a winner: read from top to bottom.

A fresh run is the resume of an empty one: every step looks at the record first and does what is missing.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ..analysis.export import is_exported
from ..analysis.picture import write_front_svg
from ..analysis.report import write_report
from ..analysis.table import candidate_table, write_csv
from ..proxies.training import Training
from ..proxies.work import Data
from ..search.candidate import TRAINED_ALIKE
from ..search.engine import Engine, Interrupted
from ..search.first import first_record
from ..search.halving import Rungs
from ..search.loop import Exhausted, Search
from ..search.nni_samplers import refuse_absent
from ..search.objectives import OBJECTIVES
from ..search.prefilter import Prefilter
from ..search.samplers import Start
from ..search.settings import Budget, Settings
from ..search.study import Record
from ..search.verdict import Verdict, confirm
from ..spaces import InputError, published, published_architecture
from .curves import curves_of, refuse_without_tensorboard
from .engines.workplace import ThisMachine, Workplace, workplace
from .folder import RunFolder
from .pruning_story import Pruner
from .pruning_wanted import asked_for, refuse_unreachable_of
from .recipe import Recipe
from .recipe_checks import check_device
from .recipe_file import network_of, read_recipe
from .recipe_pruning import PruningPart
from .status import Watch
from .storage import driven, usable
from .summary import front_rows, judged, summary_of, versions
from .winner import export_candidate

TICK_S = 5.0
THIS_MACHINE = ThisMachine()


class Stopped(Exception):
    """A signal asked the run to stop; it can be resumed. `exit_code` is what the shell expects."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_code = 128 + signal_number


def search(
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    *,
    fresh: bool,
    console: Console,
    ray: str | None = None,
    storage: str | None = None,
) -> None:
    """Runs a recipe's search to its end, or on from where it was stopped; on a Ray cluster where `ray` names one.

    storage: the URL of a database for the record of a new run, in place of a file in its folder.
    Raises InputError for what the user can mend, Stopped after a signal, Exhausted where the search cannot go on.
    """
    recipe = read_recipe(name, overrides)
    if not recipe.has_front:
        raise InputError(f"{name}: has no 'space' to search")
    storage = usable(storage)
    refuse_without_tensorboard(recipe)
    if recipe.space is not None:
        refuse_absent(recipe.search.sampler)
    with workplace(ray, console.print) as place:
        settings = settings_of(recipe, place)
        refuse_unreachable_of(recipe)
        say_notes(settings.data, console)
        folder = RunFolder(place.path(out or Path("out") / Path(name).stem))
        check_place(place, folder, recipe, settings)
        aside = folder.move_aside() if fresh else None
        if aside:
            console.print(f"The earlier run now lies in {aside}", soft_wrap=True)
        with folder.lock(storage) as held:
            folder.begin(recipe, Path(name).stem, shlex.join(["paretosr", *sys.argv[1:]]), storage)
            record = held.enter_context(driven(folder, recipe.objectives, settings.space))
            carry_on(folder, recipe, settings, record, console, place)


def check_place(
    place: Workplace, folder: RunFolder, recipe: Recipe, settings: Settings, *, timed: bool = False
) -> None:
    """InputError where some worker could not do its part of the run; timed: also where no objective wants it."""
    timed = timed or settings.needs("timed") or times_to_prune(recipe.pruning)
    place.check(folder.path, settings.data, settings.device, recipe.latency.device_kind, timed=timed)
    place.slots(settings.device, recipe.search.workers, recipe.train.gpu_share)


def times_to_prune(part: PruningPart | None) -> bool:
    """Whether some budget is one on latency."""
    return part is not None and any("latency_ratio" in budget for budget in part.budgets)


def carry_on(
    folder: RunFolder, recipe: Recipe, settings: Settings, record: Record, console: Console, place: Workplace
) -> None:
    """Does what is left of a run whose folder is locked, and concludes it."""
    refuse_other_images(folder.path, record.attribute("first"), settings.data)
    refuse_other_device(folder, settings, record, place)
    if record.attribute("finished"):
        console.print(f"{folder.path} holds a finished run; nothing in it is done twice.")
    known = {name for name, _ in settings.beside}
    more = [n for request in record.attribute("pruning") or [] for n in request["systems"] if n not in known]
    settings = replace(settings, beside=(*settings.beside, *((n, published(n)) for n in dict.fromkeys(more))))
    ended = None
    with (
        signals() as asked,
        place.engine(
            settings.device, recipe.search.workers, recipe.train.gpu_share, None, lambda: bool(asked)
        ) as engine,
        Watch(folder, recipe, record, engine, console) as watch,
    ):
        try:
            ended = drive(settings, record, engine, folder, watch, recipe, place)
        except Interrupted:
            watch.enter("stopped")
        if asked:  # also where all was done by then: the report would take longer than a signal allows
            raise Stopped(asked[0])
    conclude(folder, recipe, record, console)
    if ended is not None:
        raise ended


def say_notes(data: Data, console: Console) -> None:
    """Loads the images: what is wrong with them is said now, not by a worker, and what was converted is said once."""
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task("decoding images", visible=False)
        data.prepare(lambda done, total: bars.update(bar, completed=done, total=total, visible=True))
    for note in dict.fromkeys((*data.train().notes, *data.evaluation().notes)):
        console.print(note)


def refuse_other_images(
    path: Path,
    first: Mapping[str, Any] | None,
    data: Data,
    *,
    since: str = "this run began",
    way_out: str = "choose another --out, or --fresh",
) -> None:
    """InputError where the images are not those that what lies at `path` began with: its numbers could not be compared.

    first: its opening, if it has one yet.
    """
    known = (first or {}).get("data", {}).get("hash", {})
    now = {"train": data.train().hash, "validation": data.evaluation().hash}
    changed = [role for role in known if known[role] != now[role]]
    if changed:
        raise InputError(
            f"{path}: the {changed[0]} images have changed since {since} ({data.source}); restore them, or {way_out}"
        )


def refuse_other_device(folder: RunFolder, settings: Settings, record: Record, place: Workplace = THIS_MACHINE) -> None:
    """InputError where the run would go on on another device: latencies of two devices are never put on one axis.

    The kind of a device is the name of the GPU, and on a CPU that of the CPU.
    """
    began, found = record.attribute("machine") or {}, place.facts(settings.device)
    parts = ("device", "gpu", "cpu") if settings.needs("timed") and settings.device == "cpu" else ("device", "gpu")
    if any(all(began.get(part) == facts.get(part) for part in parts) for facts in found):
        return
    here = found[0]
    for part in parts:
        if began and began.get(part) != here.get(part):
            raise InputError(
                f"{folder.path}: began on {part} {began.get(part, 'none')}, and this is {here.get(part, 'none')}; "
                "go on there, or choose another --out, or --fresh"
            )


def drive(
    settings: Settings,
    record: Record,
    engine: Engine,
    folder: RunFolder,
    watch: Watch,
    recipe: Recipe,
    place: Workplace,
) -> Exhausted | None:
    """Opening, search, pruning, confirmation; gives the reason where the search ended before its budget."""
    clock, renew_curves = Clock(record), curves_of(recipe, folder, record)
    if record.attribute("first") is None:
        watch.enter("measuring the reference")
        record.set_attribute("machine", place.facts(settings.device)[0])
        record.set_attribute("versions", versions())
        record.set_attribute("first", first_record(settings, engine, watch.changed))

    def look() -> None:
        watch.changed()
        clock.tick()
        renew_curves()

    run = Search(settings, record, engine, folder.candidate, look)
    pruner = Pruner(settings, record, engine, folder, look)
    if record.attribute("finished"):
        if run.wants_more() or run.beside or pruner.lacks(asked_for(recipe, record, settings)):
            record.set_attribute("finished", False)
            record.set_attribute("contenders", {})  # the front is open again
        else:
            clock.stop()
    watch.enter("searching", settings.budget.candidates + len(settings.beside))
    ended = None
    try:
        run.run()
    except Exhausted as error:
        ended = error
    wanted = asked_for(recipe, record, settings)
    if pruner.lacks(wanted):
        watch.enter("pruning", len(wanted))
        pruner.run(wanted)
    watch.enter("confirming the front")
    confirm(settings, record, engine, folder.candidate, look, pruner.training_of)
    renew_curves()
    clock.tick(now=True)
    if not record.attribute("finished"):
        record.set_attribute("finished", True)
    watch.enter("finished")
    return ended


class Clock:
    """The wall time of a run over all its lives, opening and confirmation included, kept in its record."""

    def __init__(self, record: Record) -> None:
        self.record, self.before, self.started = record, record.attribute("wall_s") or 0.0, time.monotonic()
        self.written, self.running = self.started, True

    def tick(self, *, now: bool = False) -> None:
        """Writes the time, at most every few seconds."""
        if self.running and (now or time.monotonic() - self.written > TICK_S):
            self.written = time.monotonic()
            self.record.set_attribute("wall_s", self.before + self.written - self.started)

    def stop(self) -> None:
        """Counts no further: only the report is made anew."""
        self.running = False


def conclude(folder: RunFolder, recipe: Recipe, record: Record, console: Console) -> None:
    """Report, table, winner; and what a person at the terminal wants to see."""
    result = judged(recipe, record)
    summary = summary_of(folder, recipe, record, result, finished=True)
    write_report(summary, folder.path / "report.html")
    if result.front:
        write_front_svg(summary, folder.path / "front.svg")
    write_csv(candidate_table(result.candidates, result.front), folder.path / "candidates.csv")
    print_front(result, recipe, console)
    winner = next((c for c in result.candidates if c.number == result.winner), None)
    if winner is None:
        console.print(f"No winner: {result.note}")
    elif "psnr_db" in winner.numbers:
        if not is_exported(winner, folder.path / "winner"):
            export_candidate(folder, recipe, record, winner, folder.path / "winner")
        console.print(f"winner   {folder.path / 'winner'}{os.sep}", soft_wrap=True)
    console.print(f"table    {folder.path / 'candidates.csv'}", soft_wrap=True)
    console.print(f"report   {folder.path / 'report.html'}", soft_wrap=True)


def print_front(result: Verdict, recipe: Recipe, console: Console) -> None:
    """The front as a table, the winner marked."""
    rows = front_rows(result, recipe.objectives)
    trained = sum(c.state == "complete" and c.kind in TRAINED_ALIKE for c in result.candidates)
    pruned = sum(c.state == "complete" and c.kind == "pruned" for c in result.candidates)
    cut = f" and {pruned} pruned from them" if pruned else ""
    networks = f"{trained} network{'' if trained == 1 else 's'}{cut}"
    table = Table(title=f"{len(rows)} on the front of {networks}", box=SIMPLE_HEAD)
    table.add_column("candidate", justify="right", no_wrap=True)
    for name in recipe.objectives:
        table.add_column(OBJECTIVES[name].label.replace(" (", "\n("), justify="right", no_wrap=True)
    table.add_column("network")  # the one column that gives way on a narrow terminal
    for row in rows:
        values = [f"{row[name]:.{OBJECTIVES[name].digits}f}" for name in recipe.objectives]
        mark = ("*" if row["winner"] else "") + ("~" if row["tied_with"] else "")
        network = Text(row["summary"], no_wrap=True, overflow="ellipsis")
        table.add_row(f"{mark}{row['number']}", *values, network, style="bold" if row["winner"] else "")
    console.print(table)
    tied = any(row["tied_with"] for row in rows)
    words = "; ~ cannot be told apart from another member within the intervals" if tied else ""
    console.print(f"* the winner ({recipe.make_winner()}){words}")


# ---- from the recipe to the search's terms


def settings_of(recipe: Recipe, place: Workplace = THIS_MACHINE) -> Settings:
    """The settings that a recipe describes, for the place where the work is done."""
    space = recipe.make_space()
    beside = [(name, published(name)) for name in recipe.search.beside]
    if space is None:
        if recipe.network is None:
            raise InputError("the recipe has no 'space' to search, and no 'network' to prune")
        beside.insert(0, (Path(recipe.network).name, network_of(recipe)))
    known = tuple(published_architecture(name) for name in recipe.search.seeded_with)
    device = place.device(recipe.device)
    check_device(recipe, device)  # with `device: auto` this could not be known before
    return Settings(
        space=space,
        objectives=tuple(recipe.objectives),
        limits=recipe.make_limits(),
        sampler=recipe.search.sampler,
        start=Start(recipe.search.start, known),
        seed=recipe.seed,
        budget=Budget(
            recipe.search.candidates if space else 0,
            recipe.search.minutes,
            recipe.search.steps,
            recipe.search.at_least,
        ),
        training=training_of(recipe),
        fit=recipe.train.fit,
        data=data_of(recipe),
        reference=(recipe.reference, published(recipe.reference)),
        protocol=recipe.make_protocol(),
        device=device,
        confirm_seeds=recipe.confirm.seeds,
        task_minutes=recipe.search.task_minutes,
        beside=tuple(beside),
        halving=Rungs(part.rungs, part.eta, part.promote) if (part := recipe.search.halving) else None,
        prefilter=Prefilter(**recipe.search.prefilter.model_dump()) if recipe.search.prefilter else None,
    )


def training_of(recipe: Recipe) -> Training:
    """How the recipe trains."""
    fields = recipe.train.model_dump(exclude={"fit", "gpu_share", "gpus"})
    lists = {name: tuple(fields[name]) for name in ("milestones", "grow_at")}
    return Training(**{**fields, **lists})


def data_of(recipe: Recipe) -> Data:
    """The images of the recipe."""
    return Data(**recipe.data.model_dump(), patch=recipe.train.patch)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a third one ends the process at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        asked.append(number)
        if len(asked) > 2:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
