"""What a run is doing, for other shells: a small status.json, and live bars for the terminal that drives it."""

import os
import socket
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..proxies.writing import write_json
from ..search.candidate import TRAINED_ALIKE, Candidate
from ..search.engine import Engine
from ..search.study import Record
from .folder import RunFolder
from .recipe import Recipe
from .summary import front_rows, judged
from .tally import Tally, left_s

RENEW_S = 1.0  # status.json is renewed about this often, whatever happens,
RENEW_SHARE = 0.02  # or less often, so that judging the front takes at most this share of the driver's time


class Watch:
    """Follows a run's record: renews status.json, draws the bars, prints a line for each candidate that ended."""

    def __init__(self, folder: RunFolder, recipe: Recipe, record: Record, engine: Engine, console: Console) -> None:
        self.folder, self.recipe, self.record, self.engine, self.console = folder, recipe, record, engine, console
        self.stage = "searching"
        self.tally = Tally(record)
        self.due = 0.0
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.overall = self.progress.add_task(self.stage, total=networks_of(recipe))

    def __enter__(self) -> "Watch":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def enter(self, stage: str, total: int | None = None) -> None:
        """Says what the run does from here on."""
        self.stage = stage
        self.progress.update(self.overall, description=stage, total=total)
        self.changed(force=True)

    def changed(self, *, force: bool = False) -> None:
        """Called after each event, and now and then between: shows what is new."""
        for candidate in self.tally.renew():
            if candidate.state != "running":
                self.console.print(line(candidate), no_wrap=True, overflow="ellipsis")
        if self.stage == "searching":
            self.progress.update(self.overall, completed=self.tally.count(TRAINED_ALIKE, "complete", "paused"))
        if self.stage == "pruning":
            children = self.tally.count(("pruned", "control"), "complete", "failed", "pruned")
            self.progress.update(self.overall, completed=children)
        self._draw_bars()
        if force or time.monotonic() > self.due:
            began = time.monotonic()
            write_json(self.folder.path / "status.json", self.status())
            took_s = time.monotonic() - began
            self.due = time.monotonic() + max(RENEW_S, took_s / RENEW_SHARE)

    def _draw_bars(self) -> None:
        for name, said in self.engine.progress.items():
            if name not in self.bars:
                words = f"  {words_of(name)}"
                self.bars[name] = self.progress.add_task(words, total=said.get("steps"))
            self.progress.update(self.bars[name], completed=said.get("step", 0))
        for name in [name for name in self.bars if name not in self.engine.progress]:
            self.progress.remove_task(self.bars.pop(name))

    def status(self) -> dict[str, Any]:
        """The content of status.json: plain data, complete in itself."""
        asked, pace = networks_of(self.recipe), self.tally.pace()
        missing = max(0, asked - self.tally.count(TRAINED_ALIKE, "complete", "paused"))
        searching = self.stage == "searching"
        return {
            "stage": self.stage,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "seconds": round(self.record.attribute("wall_s") or 0.0, 1),
            "candidates": self.tally.states(),  # longer trainings were not asked for
            "asked": asked,
            "rungs": self.tally.rungs(),
            "pace": pace,
            "left_s": left_s(pace, missing) if searching else None,
            "workers": self.engine.slots,
            "running": {name: dict(said) for name, said in self.engine.progress.items()},
            "objectives": list(self.recipe.objectives),
            "front": front_rows(judged(self.recipe, self.record), self.recipe.objectives),
        }


def networks_of(recipe: Recipe) -> int:
    """How many networks a recipe wants trained: those of the search, and the published ones beside it."""
    return (recipe.search.candidates if recipe.space else 1) + len(recipe.search.beside)


def words_of(task: str) -> str:
    """A task's name for people: `7: training to 450`."""
    number, _, rung = task.partition("/TrainWork")
    if number != task:
        return f"{number}: training" + (f" to {rung[1:]}" if rung else "")
    return task.replace("confirm/training/", "seed ")


def line(c: Candidate) -> Text:
    """One candidate in one line of the terminal."""
    said = {
        "psnr_db": "{:.2f} dB",
        "latency_ratio": "{:.3f}x",
        "activations_m": "{:.1f} M act.",
    }
    numbers = "  ".join(text.format(c.numbers[name]) for name, text in said.items() if name in c.numbers)
    if c.state == "paused":
        steps, psnr_db = c.rungs[-1]
        ending, colour = f"{psnr_db:.2f} dB at {steps:,} steps  ", "dim"
    else:
        ending = "" if c.state == "complete" else f"{c.state}: {c.reason}  "
        colour = "yellow" if c.state == "pruned" else "red"
    return Text.assemble(f"{c.number:>4}  ", (ending, colour), f"{numbers}  ", (c.summary, "dim"))
