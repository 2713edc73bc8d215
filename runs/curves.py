"""Curves for TensorBoard, where a recipe asks for them: a folder for each candidate, written by the driver alone.

tensorboard/00012/ events.out.tfevents.000000.latency, ...000001.rung-300, ...000002.end

Each file holds what one event of the candidate brought, appears whole, and is never written twice: a run that goes on
after a kill writes what is missing, and no point is doubled. Numbers rise, for TensorBoard reads on from the last file.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from ..proxies.writing import writer
from ..search.candidate import Candidate
from ..search.study import Record
from ..spaces import InputError
from .folder import RunFolder
from .recipe import Recipe

PREFIX = "events.out.tfevents"  # by which TensorBoard knows its files
Points = list[tuple[str, float, int]]  # (tag, value, step)


def refuse_without_tensorboard(recipe: Recipe) -> None:
    """InputError where the recipe asks for curves and the package is not there."""
    if recipe.report.tensorboard and find_spec("tensorboard") is None:
        raise InputError(
            "report.tensorboard: the package tensorboard is not installed; pip install 'paretosr[tensorboard]'"
        )


def curves_of(recipe: Recipe, folder: RunFolder, record: Record) -> Callable[[], None]:
    """What writes the curves of all that has changed in the record since it was last called; at first of everything.

    It does nothing where the recipe asks for no curves.
    """
    refuse_without_tensorboard(recipe)
    if not recipe.report.tensorboard:
        return lambda: None
    mark = 0

    def renew() -> None:
        nonlocal mark
        mark, numbers = record.changes(mark)
        for number in dict.fromkeys(numbers):
            _write_missing(folder, record.candidates[number])

    return renew


def _write_missing(folder: RunFolder, candidate: Candidate) -> None:
    place = folder.path / "tensorboard" / folder.candidate(candidate.number).name
    known = {file.name.removeprefix(f"{PREFIX}.").partition(".")[2] for file in place.glob(f"{PREFIX}.*")}
    for what, points in _events(folder, candidate):
        if what not in known and points:
            _write(place / f"{PREFIX}.{len(known):06d}.{what}", points)
            known.add(what)


def _events(folder: RunFolder, candidate: Candidate) -> Iterator[tuple[str, Points]]:
    """What has happened to a candidate so far, each thing by a name of its own."""
    if "latency_ratio" in candidate.numbers:
        yield "latency", [("latency_ratio", candidate.numbers["latency_ratio"], 0)]
    losses, before = _losses(folder.candidate(candidate.number)), 0
    for step, psnr_db in candidate.rungs:
        # The curve in the file is that of the last rung: it has all that was there at the ones below.
        yield f"rung-{step}", [*(point for point in losses if before < point[2] <= step), ("psnr_db", psnr_db, step)]
        before = step
    last = candidate.details.get("steps")
    if candidate.state == "complete" and last is not None and last > before:
        psnr = [("psnr_db", candidate.numbers["psnr_db"], int(last))] if "psnr_db" in candidate.numbers else []
        yield "end", [*(point for point in losses if point[2] > before), *psnr]


def _losses(files: Path) -> Points:
    """The loss curve as far as it goes."""
    try:
        curve = json.loads((files / "training.json").read_text())["curve"]
    except (OSError, ValueError, KeyError):
        return []
    return [("loss", float(loss), int(step)) for step, loss in curve]


def _write(file: Path, points: Points) -> None:
    from torch.utils.tensorboard import SummaryWriter  # imports the package, which not everybody has

    with tempfile.TemporaryDirectory(prefix="paretosr-") as place:
        with SummaryWriter(place) as board:
            for tag, value, step in points:
                board.add_scalar(tag, value, step)
        (written,) = Path(place).iterdir()
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not by `whole`: TensorBoard reads whatever has `tfevents` in its name, half written or not.
        temporary = file.with_name(f".curves.{writer()}.part")
        temporary.write_bytes(written.read_bytes())
        temporary.replace(file)
