"""The report's table: one row per candidate, each cell with the text to show and the value to sort by."""

from dataclasses import dataclass
from typing import Any

from ..search.candidate import Candidate
from .hover import standing
from .summary import RunSummary
from .wording import finite, interval_text, label, lower_is_better, measured, measured_names, number_text, significant

# The best first.
STANDINGS = ("winner", "front", "trained", "dominated", "control", "paused", "running", "pruned", "failed")
DETAILS = {"steps": "Steps", "train_s": "Training (s)"}


@dataclass(frozen=True)
class Cell:
    """One cell: `text` to read, `key` to sort by (empty: missing, always last), `small` for a second, quieter line."""

    text: str
    key: str = ""
    small: str = ""


@dataclass(frozen=True)
class Column:
    """One column: `kind` decides alignment and sorting: number, text, or rank (sorts by number, reads as text).

    first: the order that a first click on its heading gives, that with the better end on top.
    """

    title: str
    unit: str
    kind: str
    first: str = "ascending"


def table(summary: RunSummary) -> dict[str, Any]:
    """Returns `columns` and `rows` (`number`, `place`, `kind`, `cells`): best standing first, then better PSNR."""
    goals = measured_names(summary.candidates, summary.objectives)
    first = [name for name in goals if name in summary.objectives]
    rest = [name for name in goals if name not in summary.objectives]
    details = [d for d in DETAILS if any(finite(c.details.get(d)) is not None for c in summary.candidates)]
    columns = [Column("No.", "", "number"), Column("Standing", "", "rank")]
    columns += [_number_column(summary, name) for name in first]
    columns += [Column("Network", "", "text")]
    columns += [_number_column(summary, name) for name in rest]
    columns += [Column(*_split(DETAILS[d]), "number") for d in details]
    columns += [Column("Remarks", "", "text")]
    rows = []
    for candidate in sorted(summary.candidates, key=lambda c: _order(summary, c)):
        rank = STANDINGS.index(place(summary, candidate))
        words = standing(summary, candidate)
        cells = [
            Cell(str(candidate.number), str(candidate.number)),
            Cell(words[0], str(rank), ", ".join(words[1:])),
            *[_number_cell(candidate, name) for name in first],
            Cell(candidate.summary, candidate.summary, candidate.design.hash),
            *[_number_cell(candidate, name) for name in rest],
            *[_detail_cell(candidate, name) for name in details],
            Cell(remark := _remark(candidate), remark),
        ]
        kind = "cut" if candidate.kind == "pruned" else ""  # `pruned` is the place of one that broke a limit
        rows.append({"number": candidate.number, "place": STANDINGS[rank], "kind": kind, "cells": cells})
    return {"columns": columns, "rows": rows}


def place(summary: RunSummary, candidate: Candidate) -> str:
    """Returns which of STANDINGS a candidate has."""
    if candidate.state != "complete":
        return candidate.state
    if candidate.number == summary.winner:
        return "winner"
    if candidate.number in summary.front:
        return "front"
    return candidate.kind if candidate.kind in ("trained", "control") else "dominated"


def _order(summary: RunSummary, candidate: Candidate) -> tuple[int, float, int]:
    psnr_db = measured(candidate, "psnr_db")
    return STANDINGS.index(place(summary, candidate)), -(psnr_db or 0.0), candidate.number


def _number_column(summary: RunSummary, name: str) -> Column:
    first = "ascending" if lower_is_better(name) else "descending"
    return Column(*_split(label(name, summary.reference_name)), "number", first)


def _split(title: str) -> tuple[str, str]:
    words, _, unit = title.partition(" (")
    return words, unit.removesuffix(")")


def _number_cell(candidate: Candidate, name: str) -> Cell:
    value = measured(candidate, name)
    if value is None:
        return Cell(number_text(name, None))
    interval = interval_text(name, candidate.intervals.get(name))
    return Cell(number_text(name, value, with_unit=False), repr(value), interval)


def _detail_cell(candidate: Candidate, name: str) -> Cell:
    value = finite(candidate.details.get(name))
    if value is None:
        return Cell("–")
    return Cell(f"{value:,.0f}" if value.is_integer() else significant(value), repr(value))


def _remark(candidate: Candidate) -> str:
    tied = ", ".join(map(str, candidate.tied_with))
    reached = candidate.rungs[-1:] if candidate.state == "paused" else ()
    rungs = "".join(f"{psnr_db:.2f} dB at {steps:,} steps" for steps, psnr_db in reached)
    parts = [candidate.reason, rungs, f"cannot be told apart from {tied}" if tied else "", candidate.origin]
    return "; ".join(part for part in parts if part)
