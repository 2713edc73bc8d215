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

RENEW_S = 1.0  # status.json is renewed at most this often between events


class Watch:
    """Follows a run's record: renews status.json, draws the bars, prints a line for each candidate that ended."""

    def __init__(self, folder: RunFolder, recipe: Recipe, record: Record, engine: Engine, console: Console) -> None:
        self.folder, self.recipe, self.record, self.engine, self.console = folder, recipe, record, engine, console
        self.stage = "searching"
        self.shown = {c.number for c in record.candidates if c.state != "running"}
        self.renewed = 0.0
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
        news = [c for c in self.record.candidates if c.state != "running" and c.number not in self.shown]
        for candidate in news:
            self.console.print(line(candidate), no_wrap=True, overflow="ellipsis")
        self.shown.update(c.number for c in news)
        if self.stage == "searching":
            trained = sum(c.state == "complete" and c.kind in TRAINED_ALIKE for c in self.record.candidates)
            self.progress.update(self.overall, completed=trained)
        if self.stage == "pruning":
            children = sum(c.kind in ("pruned", "control") and c.state != "running" for c in self.record.candidates)
            self.progress.update(self.overall, completed=children)
        self._draw_bars()
        if force or news or time.monotonic() - self.renewed > RENEW_S:
            self.renewed = time.monotonic()
            write_json(self.folder.path / "status.json", self.status())

    def _draw_bars(self) -> None:
        for name, said in self.engine.progress.items():
            if name not in self.bars:
                words = f"  {name.replace('/TrainWork', ': training').replace('confirm/training/', 'seed ')}"
                self.bars[name] = self.progress.add_task(words, total=said.get("steps"))
            self.progress.update(self.bars[name], completed=said.get("step", 0))
        for name in [name for name in self.bars if name not in self.engine.progress]:
            self.progress.remove_task(self.bars.pop(name))

    def status(self) -> dict[str, Any]:
        """The content of status.json: plain data, complete in itself."""
        # Longer trainings were not asked for.
        candidates = [c for c in self.record.candidates if c.kind in TRAINED_ALIKE]
        states = ("complete", "pruned", "failed", "running")
        return {
            "stage": self.stage,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "seconds": round(self.record.attribute("wall_s") or 0.0, 1),
            "candidates": {state: sum(c.state == state for c in candidates) for state in states},
            "asked": networks_of(self.recipe),
            "workers": self.engine.slots,
            "running": {name: dict(said) for name, said in self.engine.progress.items()},
            "objectives": list(self.recipe.objectives),
            "front": front_rows(judged(self.recipe, self.record), self.recipe.objectives),
        }


def networks_of(recipe: Recipe) -> int:
    """How many networks a recipe wants trained: those of the search, and the published ones beside it."""
    return (recipe.search.candidates if recipe.space else 1) + len(recipe.search.beside)


def line(c: Candidate) -> Text:
    """One candidate in one line of the terminal."""
    said = {
        "psnr_db": "{:.2f} dB",
        "latency_ratio": "{:.3f}x",
        "activations_m": "{:.1f} M act.",
    }
    numbers = "  ".join(text.format(c.numbers[name]) for name, text in said.items() if name in c.numbers)
    ending = "" if c.state == "complete" else f"{c.state}: {c.reason}  "
    colour = "yellow" if c.state == "pruned" else "red"
    return Text.assemble(f"{c.number:>4}  ", (ending, colour), f"{numbers}  ", (c.summary, "dim"))
