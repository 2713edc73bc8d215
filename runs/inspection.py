"""Commands that look at a run, or at the machine, and change neither."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..analysis.report import write_report
from ..analysis.table import candidate_table, write_csv
from ..analysis.wording import duration_text
from ..proxies.images import load_images
from ..search.candidate import Candidate
from ..search.study import Record
from ..spaces import InputError
from .folder import RunFolder
from .recipe import Recipe
from .status import words_of
from .storage import read
from .summary import judged, summary_of, versions
from .winner import chosen, export_candidate

OVER = ("finished", "stopped")  # stages in which nobody drives
FRESH_S = 60.0  # a driver renews its status.json every second or so; disks that are shared may be late
ROOM_GB = 2.0  # a run and a cache of decoded images want at least this much


def read_run(path: Path) -> tuple[RunFolder, Recipe, Record]:
    """A run as it stands, to read, whoever drives it meanwhile; of its record what has been read by then."""
    with open_run(path) as run:
        return run


@contextmanager
def open_run(path: Path) -> Iterator[tuple[RunFolder, Recipe, Record]]:
    """The same, with its record still open."""
    folder = RunFolder(path)
    recipe = folder.recipe()
    with read(folder, recipe.objectives if recipe.has_front else ["psnr_db"], recipe.make_space()) as record:
        yield folder, recipe, record


def report(path: Path, console: Console) -> None:
    """Writes report.html and candidates.csv anew."""
    folder, recipe, record = read_run(path)
    if not recipe.has_front:
        raise InputError(f"{path}: was not made by a search; there is nothing to report")
    result = judged(recipe, record)
    done = bool(record.attribute("finished"))
    write_report(summary_of(folder, recipe, record, result, finished=done), folder.path / "report.html")
    write_csv(candidate_table(result.candidates, result.front), folder.path / "candidates.csv")
    console.print(f"report   {folder.path / 'report.html'}", soft_wrap=True)


def export(path: Path, numbers: Sequence[int], front: bool, out: Path | None, console: Console) -> None:
    """Exports candidates, the whole front, or (where neither is asked) the winner."""
    folder, recipe, record = read_run(path)
    wanted = asked_for(folder, recipe, record, numbers, front)
    for candidate in wanted:
        target = (out or folder.path / "exported") / f"{candidate.number:05d}"
        if out is not None and len(wanted) == 1:
            target = out.resolve()
        difference = export_candidate(folder, recipe, record, candidate, target)
        console.print(f"exported {target} (ONNX within {difference:.1e} of torch)", soft_wrap=True)


def asked_for(
    folder: RunFolder, recipe: Recipe, record: Record, numbers: Sequence[int], front: bool
) -> list[Candidate]:
    """The candidates of these numbers and those on the front; the winner where neither is asked."""
    result = judged(recipe, record)
    wanted = list(dict.fromkeys([*numbers, *(result.front if front else ())]))
    if not wanted and not recipe.has_front:
        wanted = [c.number for c in result.candidates]  # the one network that was trained
    if not wanted:
        if result.winner is None:
            raise InputError(f"{folder.path}: has no winner yet; name a candidate by --candidate")
        wanted = [result.winner]
    return [chosen(result.candidates, number, folder) for number in wanted]


def status(path: Path, as_json: bool, console: Console) -> None:
    """Shows status.json."""
    RunFolder(path).facts()
    try:
        said: dict[str, Any] = json.loads((path / "status.json").read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: has no status.json yet") from None
    except ValueError as error:
        raise InputError(f"{path / 'status.json'}: cannot be read: {error}") from None
    if as_json:
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
        return
    counts = ", ".join(f"{count} {state}" for state, count in said["candidates"].items() if count)
    driver = RunFolder(path).driver() or _seen_lately(said, RunFolder(path))
    driven = f", driven by {driver}" if driver else ""
    if not driver and said["stage"] not in OVER:
        driven = ", its driver is gone; the same command goes on"
    console.print(f"{path}: {said['stage']} ({said['time']}{driven})", soft_wrap=True)
    console.print(f"{counts or 'no candidates yet'}; {said['asked']} asked; {said['seconds']:.0f} s")
    if said["rungs"]:
        rungs = ", ".join(f"{rung['reached']} at {rung['steps']:,}" for rung in said["rungs"])
        console.print(f"rungs (networks at steps): {rungs}")
    pace = said["pace"]
    speed = f"; {pace['networks_per_h']:g} networks/h, {pace['steps_per_s']:g} steps/s" if pace else ""
    left = f"; about {duration_text(said['left_s'])} left" if said["left_s"] and driver else ""
    workers = f"{said['workers']} worker{'' if said['workers'] == 1 else 's'}"
    console.print(f"{workers}, {len(said['running'])} busy{speed}{left}")
    for name, progress in said["running"].items():
        console.print(f"  {words_of(name)}: step {progress['step']} of {progress['steps']}")
    if said["front"]:
        table = Table(title="front so far")
        for heading in ("candidate", *said["objectives"], "network"):
            table.add_column(heading)
        for row in said["front"]:
            values = [f"{row[name]:.4g}" for name in said["objectives"]]
            table.add_row(str(row["number"]), *values, row["summary"])
        console.print(table)


def _seen_lately(said: Mapping[str, Any], folder: RunFolder) -> str | None:
    """The driver that the disk's locks do not show, for there are none or they do not reach its host; by its word."""
    fresh = time.time() - (folder.path / "status.json").stat().st_mtime < FRESH_S
    shown = said["host"] == socket.gethostname() and folder.can_lock()
    return None if not fresh or shown or said["stage"] in OVER else f"pid {said['pid']} on {said['host']}"


def doctor(console: Console) -> int:
    """Prints what there is and what is missing; gives the exit code."""
    problems = []
    for name, found in versions().items():
        console.print(f"{name:<14} {found}")
    cores = len(os.sched_getaffinity(0))
    console.print(f"{'cpu':<14} {cores} cores, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_properties(index).name
            free, total = torch.cuda.mem_get_info(index)
            console.print(f"cuda:{index:<9} {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    else:
        console.print(f"{'cuda':<14} none; searches run on the CPU")
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    console.print(f"{'disk':<14} {free_gb:.1f} GB free here")
    if free_gb < ROOM_GB:
        problems.append(f"less than {ROOM_GB:g} GB of disk are free here")
    try:
        images = load_images("embedded", "train")
        words = f"{len(images)} embedded photos for training, hash {images.hash[:12]}"
        console.print(f"{'photos':<14} {words}")
    except (InputError, OSError) as error:
        problems.append(f"the embedded photos: {error}")
    for problem in problems:
        console.print(f"{'missing':<14} {problem}", style="red")
    console.print("all is well" if not problems else "see above")
    return 1 if problems else 0
