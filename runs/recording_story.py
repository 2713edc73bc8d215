"""The command that records a space: many of its networks trained to the end and measured at every rung.

The recording is for studies in simulated time. Who does the work, and what lies in the folder, is in recorder.py.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from rich.console import Console

from ..analysis.recording_card import card, failures
from ..proxies.writing import write_json, write_text
from ..search.engine import Engine, Interrupted, RunFailed
from ..search.first import first_record
from ..search.recording import Recording, read_recording, write_recording
from ..search.settings import Settings
from ..spaces import InputError
from .folder import RunFolder
from .recipe import Recipe
from .recipe_file import parse_recipe, read_recipe
from .recorder import Recorder, Wanted
from .story import THIS_MACHINE, Stopped, refuse_other_images, say_notes, settings_of, signals
from .summary import machine_facts, versions


def record(
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    wanted: Wanted,
    earlier: Path | None,
    *,
    time: bool,
    console: Console,
) -> None:
    """Records networks of a recipe's space, or goes on with it; then writes the recording to `recording/`.

    earlier: a recording by the same recipe whose trainings are taken over. Also after a signal, or where so much failed
    that it cannot go on, what there is so far is written. Raises InputError for what the user can mend, Stopped after a
    signal, RunFailed.
    """
    recipe, settings = _recordable(name, overrides, time=time)
    taken = (read_recording(earlier), earlier) if earlier is not None else None
    say_notes(settings.data, console)
    if taken is not None:
        refuse_unlike(*taken, recipe, settings)
    folder, machine = RunFolder(out or Path("out") / f"{Path(name).stem}-recording"), machine_facts(settings.device)
    failed = None
    with folder.lock():
        folder.begin(recipe, Path(name).stem, shlex.join(["paretosr", *sys.argv[1:]]))
        refuse_elsewhere(folder.path, settings, machine, time=time)
        most, share = recipe.search.workers, recipe.train.gpu_share
        with signals() as asked, THIS_MACHINE.engine(settings.device, most, share, None, lambda: bool(asked)) as engine:
            try:
                opening = _opening(folder.path, settings, engine, machine)
            except Interrupted:
                raise Stopped(asked[0]) from None
            recorder = Recorder(settings, folder.path, engine, wanted, opening, machine, console)
            if taken is not None:
                recorder.take_over(*taken)
            try:
                for stage in (recorder.train, *([recorder.time] if time else [])):
                    if not asked:
                        stage()
            except RunFailed as error:
                failed = error
        recording = recorder.recording(recipe.model_dump(mode="json", exclude_defaults=True))
        _write(recording, folder, Path(name).stem, console)
    if asked:
        raise Stopped(asked[0])
    if failed is not None:
        raise failed
    if not recording.networks:
        raise RunFailed(f"no network was recorded: {failures(recording)}")


def _recordable(name: str, overrides: Sequence[str], *, time: bool) -> tuple[Recipe, Settings]:
    """The recipe and what it describes; InputError where no recording comes of it."""
    recipe = read_recipe(name, overrides)
    if recipe.space is None or recipe.search.halving is None:
        raise InputError(f"{name}: a recording needs a 'space', and 'search.halving' for its rungs")
    settings = settings_of(recipe)
    if time and not settings.needs("timed"):
        raise InputError(f"{name}: no objective is timed; say --no-time, or add latency_ratio to 'objectives'")
    return recipe, settings


def _write(recording: Recording, folder: RunFolder, name: str, console: Console) -> None:
    """The recording with its card, and a word of it for the terminal."""
    path = folder.path / "recording"
    if recording.networks:
        write_recording(recording, path)
        write_text(path / "README.md", card(recording, name, folder.facts()["command"]))
    console.print(f"{len(recording.networks)} networks recorded in {path}", soft_wrap=True)
    if failures(recording):
        console.print(failures(recording), soft_wrap=True)


def _opening(path: Path, settings: Settings, engine: Engine, machine: Mapping[str, str]) -> dict[str, Any]:
    """The opening of the recording, measured once, and the machine and the versions of that. Interrupted on a stop."""
    file = path / "first.json"
    if not file.exists():
        facts = {"machine": machine, "versions": versions()}
        write_json(file, {**facts, "first": first_record(settings, engine)})
    return json.loads(file.read_text())


# ---- what must not be mixed


def refuse_unlike(earlier: Recording, path: Path, recipe: Recipe, settings: Settings) -> None:
    """InputError where the trainings of another recording are not such as this one would make."""
    there = parse_recipe(earlier.facts["recipe"], str(path))
    for key in ("space", "train", "data", "seed", "search.halving.rungs", "search.halving.eta"):
        if json_of(there, key) != json_of(recipe, key):
            raise InputError(f"{path}: was recorded by a recipe with another '{key}'")
    _refuse_other_images(path, earlier.facts.get("first", {}), settings)


def _refuse_other_images(path: Path, first: Mapping[str, Any], settings: Settings) -> None:
    refuse_other_images(path, first, settings.data, since="it was recorded", way_out="begin another recording")


def refuse_elsewhere(path: Path, settings: Settings, machine: Mapping[str, str], *, time: bool) -> None:
    """InputError where a begun recording cannot go on here: with other images, or timings of another machine.

    Trainings may be of many machines. All timings are of the one that timed the reference, for `latency_ms` is in its
    milliseconds.
    """
    if not (path / "first.json").exists():
        return
    began = json.loads((path / "first.json").read_text())
    _refuse_other_images(path, began["first"], settings)
    for part in ("gpu", "cpu"):
        there, here = began["machine"].get(part, "none"), machine.get(part, "none")
        if time and there != here:
            raise InputError(
                f"{path}: is timed on {part} {there}, and this is {here}; say --no-time to train here, "
                f"or take its trainings over into another --out by --from {path / 'recording'}"
            )


def json_of(recipe: Recipe, key: str) -> Any:
    """A part of a recipe as plain data."""
    return reduce(getitem, key.split("."), recipe.model_dump(mode="json"))
