"""All candidates of a run as one pandas table, and as a CSV file."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..proxies.writing import write_text
from ..search.candidate import Candidate
from .ladder import is_cut, pruning_of
from .wording import measured_names

IDENTITY = ("number", "state", "kind", "parent", "summary", "hash")
STORY = ("on_front", "tied_with", "confirmed", "steps", "train_s", "reason", "origin")
PRUNING = ("strategy", "criterion", "control", "repeat")


def candidate_table(candidates: Iterable[Candidate], front: Iterable[int] = ()) -> pd.DataFrame:
    """Lays out candidates as rows, in the order given.

    Columns: number, state, kind, parent, summary, hash; then every number any candidate has, in its own unit, followed
    by `<name>_low` and `<name>_high` where any has a 95% interval; then on_front, tied_with (numbers, separated by
    spaces), confirmed, steps, train_s, reason, origin; then strategy, criterion, control (empty but for children of
    pruning) and repeat. What was not measured is missing (NaN; <NA> in whole numbers).
    """
    rows = list(candidates)
    on_front = set(front)
    columns = [*IDENTITY, *_number_columns(rows), *STORY, *PRUNING]
    frame = pd.DataFrame([_row(c, on_front) for c in rows], columns=pd.Index(columns))
    whole = dict.fromkeys(("number", "parent", "steps", "repeat"), "Int64")
    return frame.astype({**whole, "on_front": bool, "confirmed": bool, "train_s": float})


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes the table as UTF-8 CSV with a header, whole or not at all; raises OSError."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def _number_columns(rows: list[Candidate]) -> list[str]:
    with_interval = {name for c in rows for name in c.intervals}
    columns = []
    for name in measured_names(rows, ()):
        columns += [name, f"{name}_low", f"{name}_high"] if name in with_interval else [name]
    return columns


def _row(candidate: Candidate, on_front: set[int]) -> dict[str, object]:
    row: dict[str, object] = {
        "number": candidate.number,
        "state": candidate.state,
        "kind": candidate.kind,
        "parent": candidate.parent,
        "summary": candidate.summary,
        "hash": candidate.design.hash,
        **candidate.numbers,
        "on_front": candidate.number in on_front,
        "tied_with": " ".join(map(str, candidate.tied_with)),
        "confirmed": candidate.confirmed,
        "steps": candidate.details.get("steps"),
        "train_s": candidate.details.get("train_s"),
        "reason": candidate.reason,
        "origin": candidate.origin,
    }
    pruning = pruning_of(candidate) if is_cut(candidate) else {}
    row |= {name: str(pruning.get(name) or "") for name in PRUNING} | {"repeat": pruning.get("repeat")}
    for name, (low, high) in candidate.intervals.items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row
