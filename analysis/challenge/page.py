"""The published networks as one HTML page that works offline: table, correlations and, where timed, two figures."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ...proxies.writing import write_text
from ..colours import DARK_OF_LIGHT, LIGHT, ROLES
from ..correlation import Correlation
from ..figures import axis, figure
from ..report import script_json, scripts
from ..report_rows import Cell, Column
from .tables import COUNTS, LABELS, Comparison
from .timings import REFERENCE, Session, correlation_columns

DRAWN = ("activations_m", "flops_g")  # what tells the runtime, and what does not


def write_systems_page(comparisons: Sequence[Comparison], session: Session | None, path: Path) -> None:
    """Writes the page, whole or not at all; raises OSError."""
    write_text(path, systems_html(comparisons, session))


def systems_html(comparisons: Sequence[Comparison], session: Session | None) -> str:
    """Returns the page as HTML text; everything that came from outside is escaped."""
    templates = resources.files("paretosr.analysis") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((templates / "systems.html.j2").read_text(encoding="utf-8"))
    figures = {column: runtime_figure(comparisons, session, column) for column in DRAWN} if session else {}
    data = {
        "dark": DARK_OF_LIGHT,
        "figures": {column: json.loads(str(drawn.to_json())) for column, drawn in figures.items()},
    }
    return template.render(
        columns=_columns(session),
        rows=[_cells(comparison, session) for comparison in comparisons],
        correlations=_correlations(comparisons, session),
        figures={column: LABELS[column] for column in figures},
        session=session,
        reference=REFERENCE,
        roles=ROLES,
        data=script_json(data),
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=scripts("page.js", "systems.js"),
        plotly=Markup(get_plotlyjs()) if figures else "",
    )


def runtime_figure(comparisons: Sequence[Comparison], session: Session, column: str) -> go.Figure:
    """Draws the measured runtime of each network over one of its counts, both on logarithmic axes."""
    known = [(c, c.count(column), session.ratio(c.name)) for c in comparisons]
    drawn = [(c, x, y) for c, x, y in known if x is not None and y is not None]
    unit = COUNTS[column][1]
    trace = go.Scatter(
        x=[x for _, x, _ in drawn],
        y=[y for _, _, y in drawn],
        text=[c.name for c, _, _ in drawn],
        customdata=[c.mark_text() for c, _, _ in drawn],
        mode="markers+text",
        textposition="top center",
        textfont={"size": 10.5, "color": LIGHT["muted"]},
        marker={"size": 8, "color": [LIGHT["reference" if c.name == REFERENCE else "front"] for c, _, _ in drawn]},
        hovertemplate=f"%{{text}}: %{{y:.3f}}x {REFERENCE}<br>%{{x:.4~g}} {unit} {LABELS[column]}"
        "<br>%{customdata}<extra></extra>",
        showlegend=False,
    )
    x = axis(f"{LABELS[column]} ({unit})", type="log", tickformat=".3~g", dtick="D2")
    y = axis(f"runtime (x {REFERENCE})", type="log", tickformat=".2~g", dtick="D2")
    return figure([trace], x, y, height=460)


def _columns(session: Session | None) -> list[Column]:
    counts = [Column(_capital(label), unit, "number") for label, unit in COUNTS.values()]
    timed = [
        Column("Latency", "ms", "number"),
        Column(f"x {REFERENCE}", "", "number"),
        Column("Memory", "MB", "number"),
    ]
    words = [Column("System", "", "text"), Column("Mark", "", "text")]
    table_s = Column("Table 1's runtime", "s", "number")
    return [*words, *counts, *(timed if session else []), table_s, Column("Idea, source, note", "", "text")]


def _cells(c: Comparison, session: Session | None) -> list[Cell]:
    counts = [Cell(c.count_text(column), _key(c.count(column)), c.table_text(column)) for column in COUNTS]
    runtime_s = c.row.number("runtime_s") if c.row else None
    note = c.system.note or c.system.why_not
    about = Cell(c.system.idea, c.system.idea, "; ".join(part for part in (c.system.source, note) if part))
    return [
        Cell(c.name, c.name, c.system.title if not c.system.team else f"{c.system.title} ({c.system.team})"),
        Cell(c.mark_text(), c.mark_text(), f"basis: {c.system.basis}"),
        *counts,
        *(_timed(c.name, session) if session else []),
        Cell(c.table_text("runtime_s"), _key(runtime_s)),
        about,
    ]


def _timed(name: str, session: Session) -> list[Cell]:
    result = session.measured.get(name)
    memory = Cell("–") if result is None or result.memory_mb is None else _number(result.memory_mb, 0)
    latency_ms = session.latency_ms(name)
    if result is None or result.timing is None or latency_ms is None:
        return [Cell("–", "", result.failure if result else ""), Cell("–"), memory]
    t = result.timing
    ratio = Cell(
        f"{t.ratio:.3f}", repr(t.ratio), f"{t.ratio_low:.3f} to {t.ratio_high:.3f}{', wide' if t.wide else ''}"
    )
    return [_number(latency_ms, 2), ratio, memory]


def _number(value: float, decimals: int) -> Cell:
    return Cell(f"{value:,.{decimals}f}", repr(value))


def _key(value: float | None) -> str:
    return "" if value is None else repr(value)


def _correlations(comparisons: Sequence[Comparison], session: Session | None) -> dict[str, Any]:
    """Returns the headings and lines of the small table: Table 2 made again and, beside it, what was measured."""
    found = correlation_columns(comparisons, session)
    lines = {
        _capital(LABELS[column]): [_correlation_cell(each.get(column)) for each in found.values()]
        for column in dict.fromkeys(column for each in found.values() for column in each)
    }
    return {"headings": list(found), "lines": lines}


def _correlation_cell(found: Correlation | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    return found.text(), f"{found.rows} rows" if found.rho is not None else ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
