"""The report's section on pruning in words: one row per child, what came out best, and what can be chosen."""

from collections.abc import Sequence
from typing import Any

from ..search.candidate import Candidate
from .ladder import (
    Rung,
    budget_of,
    budget_text,
    control_text,
    is_cut,
    pruning_of,
    rungs,
    sentences,
)
from .pruning_figures import children, ladder_figures, path_of
from .report_rows import Cell, Column
from .summary import RunSummary
from .wording import counted, finite, interval_text, measured, number_text

COLUMNS = (
    Column("Child", "", "number"),
    Column("Parent", "", "number"),
    Column("Strategy", "", "text"),
    Column("Criterion", "", "text"),
    Column("Schedule", "", "text"),
    Column("Budget", "", "text"),
    Column("Control", "", "text"),
    Column("PSNR", "dB", "number", "descending"),
    Column("To the parent", "dB", "number", "descending"),
    Column("Latency", "share, measured", "number"),
    Column("Latency", "share, estimated", "number"),
    Column("FLOPs", "share", "number"),
    Column("Activations", "share", "number"),
    Column("Parameters", "share", "number"),
    Column("Steps", "pruning + recovery", "number"),
    Column("Teacher", "weight", "number"),
    Column("Verified", "", "text"),
)
NONE = "–"


def section(summary: RunSummary) -> dict[str, Any] | None:
    """Returns what the section is made of, or None for a run without pruned children and controls.

    `sentences`; `parents` and `children` as (value, text) of the menus; `columns` and `rows` (`number`, `cells`).
    """
    cut = [c for c in summary.candidates if is_cut(c)]
    if not cut:
        return None
    repeats = {number: rung for rung in rungs(cut) for number in rung.numbers}
    ordered = sorted(cut, key=lambda c: (-1 if c.parent is None else c.parent, c.kind != "pruned", c.number))
    return {
        "sentences": sentences(cut),
        "parents": [(key, "not recorded" if key == "None" else key) for key in ladder_figures(summary)],
        "children": [(c.number, _child_text(c)) for c in children(summary)],
        "columns": COLUMNS,
        "rows": [{"number": c.number, "cells": _cells(summary, c, repeats.get(c.number))} for c in ordered],
    }


def _child_text(child: Candidate) -> str:
    pruning = pruning_of(child)
    how = control_text(str(pruning.get("control") or "")) or str(pruning.get("strategy") or "not named")
    budget = budget_of(child)
    asked = f", {budget_text(budget)}" if budget else ""
    return f"{child.number}: {how}{asked}, from {child.parent}"


def _cells(summary: RunSummary, child: Candidate, rung: Rung | None) -> Sequence[Cell]:
    pruning, last = pruning_of(child), (path_of(child) or [{}])[-1]
    words = [str(pruning.get(key) or "").replace("_", " ") for key in ("strategy", "criterion", "schedule")]
    words += [budget_text(budget_of(child)), control_text(str(pruning.get("control") or ""))]
    ratio, estimated = finite(pruning.get("latency_ratio")), finite(pruning.get("estimated_ratio"))
    return [
        Cell(str(child.number), str(child.number)),
        Cell(NONE) if child.parent is None else Cell(str(child.parent), str(child.parent)),
        *[Cell(word or NONE, word if word != NONE else "") for word in words],
        _psnr_cell(child, rung),
        _change_cell(summary, child),
        _share_cell(ratio),
        _share_cell(estimated, _error_text(ratio, estimated)),
        *[_share_cell(finite(last.get(name))) for name in ("flops", "activations", "parameters")],
        _steps_cell(pruning.get("steps") or {}),
        _share_cell(finite(pruning.get("teacher")), digits=2),
        Cell(line, line) if (line := str(pruning.get("verified") or "")) else Cell(NONE),
    ]


def _psnr_cell(child: Candidate, rung: Rung | None) -> Cell:
    """The child's own PSNR; below it the interval of the mean over its repeats, where there are any."""
    psnr_db = measured(child, "psnr_db")
    if psnr_db is None:
        return Cell(child.state if child.state != "complete" else NONE)
    interval = interval_text("psnr_db", rung.interval_db) if rung else ""
    small = f"{interval} over {counted(len(rung.numbers), 'repeat')}" if rung and interval else ""
    return Cell(number_text("psnr_db", psnr_db, with_unit=False), repr(psnr_db), small)


def _change_cell(summary: RunSummary, child: Candidate) -> Cell:
    parent = summary.candidate(child.parent)
    psnr_db, before_db = measured(child, "psnr_db"), None if parent is None else measured(parent, "psnr_db")
    if psnr_db is None or before_db is None:
        return Cell(NONE)
    return Cell(f"{psnr_db - before_db:+.2f}".replace("-", "−"), repr(psnr_db - before_db))  # noqa: RUF001 (a minus)


def _error_text(measured_ratio: float | None, estimated: float | None) -> str:
    if not measured_ratio or estimated is None:
        return ""
    return f"off by {100 * (estimated / measured_ratio - 1):+.1f} %".replace("-", "−")  # noqa: RUF001 (a minus)


def _share_cell(value: float | None, small: str = "", digits: int = 3) -> Cell:
    return Cell(NONE) if value is None else Cell(f"{value:.{digits}f}", repr(value), small)


def _steps_cell(steps: dict[str, Any]) -> Cell:
    known = [int(value) for key in ("pruning", "recovery") if (value := finite(steps.get(key))) is not None]
    return Cell(" + ".join(f"{count:,}" for count in known), str(sum(known))) if known else Cell(NONE)
