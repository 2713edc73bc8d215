"""A recording: networks of a space with what was measured of each, to be replayed in place of training them again.

A folder of plain files:
networks.csv    one row a network: hash, its architecture as JSON, counts, latency with its interval
trainings.csv   one row a measurement: hash, repeat (0: the first seed), seed, steps, psnr_db, train_s so far
recording.json  rungs, the recipe, the opening of the run (reference, bicubic), versions, the machine that timed, all
                that trained, what failed
README.md       the card, for people
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ..proxies.writing import write_json, write_text
from ..spaces import Architecture, InputError, Space

NETWORKS, TRAININGS, FACTS = "networks.csv", "trainings.csv", "recording.json"
DRAWS = 100  # for each network still missing, before the space counts as exhausted
LOW, HIGH = "_low", "_high"


@dataclass(frozen=True)
class Measured:
    """One training of a network, measured at every rung: PSNR in dB and seconds of training up to there."""

    seed: int
    psnr_db: tuple[float, ...]
    train_s: tuple[float, ...]


@dataclass(frozen=True)
class Recorded:
    """One network: counts and latency by name, 95 % intervals of those that have one, and its trainings by repeat."""

    architecture: Architecture
    numbers: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    trainings: tuple[Measured, ...]


@dataclass(frozen=True)
class Recording:
    """All of it. rungs: training steps, rising. networks: by hash.

    facts: recipe, first (the opening), versions, machine (that timed), machines (that trained), failed.
    """

    rungs: tuple[int, ...]
    networks: Mapping[str, Recorded]
    facts: Mapping[str, Any] = field(default_factory=dict)


def drawn(space: Space, seed: int, count: int) -> list[Architecture]:
    """So many different networks of the space, at random, or all that it holds; a longer list begins with a shorter."""
    random, found = Random(f"{seed}:recording"), {}
    for _ in range(DRAWS * count):
        if len(found) >= min(count, space.size):
            break
        architecture = space.sample(random)
        found.setdefault(architecture.hash, architecture)
    return list(found.values())


def write_recording(recording: Recording, folder: Path) -> None:
    """Writes the three files, each whole or not at all; floats with what a measurement is good for."""
    networks, trainings = [], []
    for name, network in recording.networks.items():
        row: dict[str, Any] = {"hash": name, "architecture": json.dumps(network.architecture.to_json())}
        row |= {key: f"{value:.7g}" for key, value in network.numbers.items()}
        for key, (low, high) in network.intervals.items():
            row |= {f"{key}{LOW}": f"{low:.7g}", f"{key}{HIGH}": f"{high:.7g}"}
        networks.append(row)
        for repeat, training in enumerate(network.trainings):
            for steps, psnr_db, train_s in zip(recording.rungs, training.psnr_db, training.train_s, strict=True):
                what = {"hash": name, "repeat": repeat, "seed": training.seed, "steps": steps}
                trainings.append({**what, "psnr_db": f"{psnr_db:.5f}", "train_s": f"{train_s:.2f}"})
    write_text(folder / NETWORKS, _csv(networks))
    write_text(folder / TRAININGS, _csv(trainings))
    write_json(folder / FACTS, {"rungs": list(recording.rungs), **recording.facts})


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_recording(folder: Path) -> Recording:
    """Reads a recording; InputError in one line where it is none, or where its parts do not fit together."""
    try:
        facts = json.loads((folder / FACTS).read_text())
        rungs = tuple(int(steps) for steps in facts.pop("rungs"))
        networks = {row.pop("hash"): row for row in _rows(folder / NETWORKS)}
        trainings: dict[str, dict[int, list[dict[str, str]]]] = {}
        for row in _rows(folder / TRAININGS):
            trainings.setdefault(row["hash"], {}).setdefault(int(row["repeat"]), []).append(row)
        recorded = {name: _recorded(row, trainings.get(name, {}), rungs) for name, row in networks.items()}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder}: is not a recording (it has no {Path(error.filename).name})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: is not a recording that can be read: {error}") from None
    wrong = [name for name, network in recorded.items() if network.architecture.hash != name]
    if wrong:
        raise InputError(f"{folder / NETWORKS}: the architecture of {wrong[0]} has another hash")
    return Recording(rungs, recorded, facts)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _recorded(row: dict[str, str], trainings: Mapping[int, list[dict[str, str]]], rungs: tuple[int, ...]) -> Recorded:
    architecture = Architecture.from_json(json.loads(row.pop("architecture")))
    values = {key: float(value) for key, value in row.items() if value != ""}
    ends = {key.removesuffix(LOW) for key in values if key.endswith(LOW)}
    intervals = {key: (values.pop(f"{key}{LOW}"), values.pop(f"{key}{HIGH}")) for key in sorted(ends)}
    measured = []
    for repeat in sorted(trainings):
        at = {int(training["steps"]): training for training in trainings[repeat]}
        if tuple(sorted(at)) != rungs:
            raise ValueError(f"{architecture.hash} was not measured at every rung")
        psnr_db = tuple(float(at[steps]["psnr_db"]) for steps in rungs)
        train_s = tuple(float(at[steps]["train_s"]) for steps in rungs)
        measured.append(Measured(int(at[rungs[0]]["seed"]), psnr_db, train_s))
    if not measured:
        raise ValueError(f"{architecture.hash} was never trained")
    return Recorded(architecture, values, intervals, tuple(measured))
