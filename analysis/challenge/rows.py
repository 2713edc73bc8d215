"""The published networks as rows of plain values, for a CSV file and for the page."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ...proxies.writing import write_text
from .tables import COUNTS, Comparison
from .timings import Session

Value = str | int | float | bool | None


def write_systems_csv(comparisons: Sequence[Comparison], session: Session | None, path: Path) -> None:
    """Writes one line per network, whole or not at all; what is not known is empty. Raises OSError."""
    rows = [system_row(comparison, session) for comparison in comparisons]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def system_row(comparison: Comparison, session: Session | None) -> dict[str, Value]:
    """One network: our counts, Table 1's, how they compare, and its timing where there was any.

    `params` is a number of parameters, `deviation` ours / table - 1 in the column that is furthest off (0 where all
    printed digits agree, empty where nothing can be compared). `table_starred` names the cells that carry a star.
    """
    counts, row = comparison.counts, comparison.row
    values: dict[str, Value] = {
        "system": comparison.name,
        "params": counts.parameters if counts else None,
        **{column: comparison.count(column) for column in COUNTS if column != "params_m"},
        **{f"table_{column}": row.printed.get(column) if row else None for column in (*COUNTS, "runtime_s")},
        "mark": comparison.mark,
        "deviation": None if not comparison.deviations else comparison.largest[1] if comparison.largest else 0.0,
        "convs_training": comparison.convs_training,
        "basis": comparison.system.basis,
        "team": comparison.system.team,
        "table_starred": " ".join(column for column in row.printed if column in row.starred) if row else None,
    }
    return values | (_timed(comparison.name, session) if session else {})


def _timed(name: str, session: Session) -> dict[str, Value]:
    measured = session.measured.get(name)
    timing = measured.timing if measured else None
    return {
        "latency_ms": session.latency_ms(name),
        "latency_ratio": timing.ratio if timing else None,
        "latency_ratio_low": timing.ratio_low if timing else None,
        "latency_ratio_high": timing.ratio_high if timing else None,
        "latency_wide": timing.wide if timing else None,
        "memory_mb": measured.memory_mb if measured else None,
        "failure": measured.failure if measured else None,
        "protocol": session.protocol.label(),
        "machine": session.machine,
    }
