"""The front as an interactive figure, for any pair of measured numbers.

A figure shows *rows*: row i is candidate i of the summary, and one row more is the reference network. A trace is a
list of rows; what changes with the pair of axes is only where the rows lie. So the page gets one figure and the rows'
values (`front_choices`), and its script places the same traces on another pair as `front_figure` does here.
"""

from html import escape
from itertools import permutations
from typing import Any

import plotly.graph_objects as go

from ..search.candidate import Candidate
from .colours import LIGHT
from .figures import axis, figure
from .hover import candidate_hover, reference_hover
from .placing import axis_facts, diameters_px, is_drawn, pair_facts
from .summary import RunSummary
from .wording import listed, lower_is_better, measured_names

Row = int | None  # None breaks a line

# The traces of the figure in drawing order. The rows of `staircase` and `labels` change with the pair of axes.
TRACES = (
    "connectors",
    "arrows",
    "staircase",
    "limit",
    "dominated",
    "front",
    "published",
    "trained",
    "pruned",
    "winner",
    "tied",
    "labels",
    "selection",
    "reference",
)
# By the kind of candidate; those of the search are circles.
SYMBOLS = {"trained": "diamond", "published": "triangle-up", "pruned": "triangle-down"}
NAMED_PARENTS = 3  # so many are named in the legend
BARRED = ("dominated", "front", *SYMBOLS, "winner")  # those with error bars


def front_figure(summary: RunSummary, x: str | None = None, y: str | None = None) -> go.Figure:
    """Draws the candidates on a pair of measured numbers, by default PSNR over latency or the first two objectives.

    Front members are filled, the winner stands out, published networks are triangles with their names, trained children
    are diamonds joined to their parents, an arrow leads from a network to each one pruned from it, a triangle on its
    point (controls are not drawn), members that cannot be told apart carry a ring; the reference network and
    bicubic are lines, 95% intervals are error bars.
    Raises ValueError if no complete candidate has two numbers.
    """
    x, y = (x, y) if x and y else default_pair(summary)
    pair = pair_facts(summary, x, y)
    rows = _rows(summary) | pair["rows"]
    axes = {name: axis_facts(summary, name) for name in (x, y)}
    traces = _traces(summary, rows)
    for name, trace in traces.items():
        trace.update(_placed(rows[name], axes[x], axes[y], with_bars=name in BARRED))
    traces["staircase"].update(line_shape=pair["shape"], showlegend=len(rows["staircase"]) > 1)
    traces["labels"].update(textposition=pair["textposition"])
    return figure(
        [traces[name] for name in TRACES],
        axis(axes[x]["title"]),
        axis(axes[y]["title"]),
        height=540,
        hovermode="closest",
        margin={"l": 56, "r": 40, "t": 16, "b": 48},  # room for the tools on the right
        **{kind: axes[x]["lines"]["x"][kind] + axes[y]["lines"]["y"][kind] for kind in ("shapes", "annotations")},
    )


def front_choices(summary: RunSummary) -> dict[str, Any]:
    """Returns what the page needs to show another pair: values, intervals and lines by axis, rows by trace and pair."""
    names = choices(summary)
    return {
        "traces": TRACES,
        "rows": _rows(summary),
        "numbers": [c.number for c in summary.candidates],
        "labels": [_label(summary, c) for c in summary.candidates],
        "finished": [i for i, c in enumerate(summary.candidates) if is_drawn(c)],
        "diameters_px": diameters_px(summary),
        "axes": {name: axis_facts(summary, name) for name in names},
        "pairs": {f"{x}|{y}": pair_facts(summary, x, y) for x, y in permutations(names, 2)},
    }


def choices(summary: RunSummary) -> list[str]:
    """Lists the numbers that can be an axis, objectives first."""
    return measured_names(summary.complete, summary.objectives)


def default_pair(summary: RunSummary) -> tuple[str, str]:
    """Chooses the axes to begin with: PSNR over latency, else the first two objectives (quality upward), else any two.

    Raises ValueError if no complete candidate has two numbers; ask `choices` first.
    """
    names = choices(summary)
    costs = [name for name in names if lower_is_better(name)]
    if len(names) < 2:
        raise ValueError(f"a front needs two measured numbers of complete candidates, not {names}")
    y = next((n for n in ("psnr_db", *names) if n in names and not lower_is_better(n)), names[1])
    x = next(n for n in ("latency_ratio", "latency_ms", *costs, *names) if n in names and n != y)
    return x, y


def _placed(rows: list[Row], x: dict[str, Any], y: dict[str, Any], *, with_bars: bool) -> dict[str, Any]:
    """Returns the coordinates of a trace on a pair of axes, and its error bars where it has them."""
    placed: dict[str, Any] = {}
    for direction, facts in (("x", x), ("y", y)):
        placed[direction] = [None if i is None else facts["values"][i] for i in rows]
        if with_bars and facts["plus"]:
            arms = {"array": [facts["plus"][i] for i in rows if i is not None]}
            arms["arrayminus"] = [facts["minus"][i] for i in rows if i is not None]
            placed[f"error_{direction}"] = arms
    return placed


def _rows(summary: RunSummary) -> dict[str, list[Row]]:
    """Returns the rows of each trace; a pair of axes adds those of the staircase and the labels."""
    of_number = {c.number: i for i, c in enumerate(summary.candidates)}
    rows: dict[str, list[Row]] = {name: [] for name in TRACES}
    rows["reference"] = [len(summary.candidates)]
    for i, candidate in enumerate(summary.candidates):
        if role := _role(summary, candidate):
            rows[role].append(i)
        if candidate.state == "complete" and candidate.tied_with and candidate.number in summary.front:
            rows["tied"].append(i)
        joined = {"trained": "connectors", "pruned": "arrows"}.get(candidate.kind)
        if joined and candidate.state == "complete" and candidate.parent in of_number:
            rows[joined] += [of_number[candidate.parent], i, None]
    return rows


def _role(summary: RunSummary, candidate: Candidate) -> str | None:
    if candidate.kind == "control":
        return None
    if candidate.state != "complete":
        return "limit" if candidate.state == "pruned" else None
    if candidate.number == summary.winner:
        return "winner"
    if candidate.kind in SYMBOLS:
        return candidate.kind
    return "front" if candidate.number in summary.front else "dominated"


def _label(summary: RunSummary, candidate: Candidate) -> str:
    """What stands beside a marker: the number; a published network that was chosen has lost its triangle and name."""
    chosen = candidate.number == summary.winner
    return str(candidate.details.get("system", candidate.number) if chosen else candidate.number)


def _traces(summary: RunSummary, rows: dict[str, list[Row]]) -> dict[str, go.Scatter]:
    of_row = summary.candidates
    edge = {"color": LIGHT["paper"], "width": 1}
    no_fill = {"color": "rgba(0,0,0,0)", "line": {"color": LIGHT["ink"], "width": 1.5}}
    cross = {"symbol": "x-thin", "size": 8, "line": {"color": LIGHT["other"], "width": 1.5}}
    lying = {name: [i for i in rows[name] if i is not None] for name in TRACES}
    by_standing = {
        name: [LIGHT["front" if of_row[i].number in summary.front else "other"] for i in lying[name]]
        for name in SYMBOLS
    }
    symbols = [SYMBOLS.get(of_row[i].kind, "circle") for i in lying["winner"]]
    sizes = diameters_px(summary)
    wide = [sizes[i] + 8 for i in lying["tied"]]
    texts = [candidate_hover(summary, c) for c in of_row] + [reference_hover(summary)]
    said_of = {"published": "published", "trained": "trained longer", "pruned": _pruned_from(summary)}
    markers: dict[str, tuple[str, dict[str, Any], str]] = {
        "limit": ("over a limit", cross, ""),
        "dominated": ("dominated", {"color": LIGHT["other"], "line": edge}, LIGHT["rule"]),
        "front": ("on the front", {"color": LIGHT["front"], "line": edge}, LIGHT["front"]),
        **{
            name: (said, {"color": by_standing[name], "symbol": SYMBOLS[name], "line": edge}, LIGHT["other"])
            for name, said in said_of.items()
        },
        "winner": ("chosen", {"color": LIGHT["winner"], "symbol": symbols, "line": edge}, LIGHT["winner"]),
        "tied": ("cannot be told apart", {**no_fill, "size": wide}, ""),
        "selection": ("selected", no_fill, ""),
        "reference": (
            escape(summary.reference_name),
            {"color": LIGHT["reference"], "symbol": "square", "line": edge},
            "",
        ),
    }
    traces = {
        name: _points(said, {"size": [sizes[i] for i in lying[name]], **marker}, [texts[i] for i in lying[name]], bars)
        for name, (said, marker, bars) in markers.items()
    }
    labels = [_label(summary, of_row[i]) for i in lying["labels"]]
    unseen = {"size": [sizes[i] for i in lying["labels"]], "opacity": 0}  # keeps the numbers clear of the markers
    quiet = {"hoverinfo": "skip", "cliponaxis": False}
    thin, strong = {"color": LIGHT["other"], "dash": "dot", "width": 1}, {"color": LIGHT["front"], "width": 1.5}
    names = [str(of_row[i].details.get("system", "")) for i in lying["published"]]
    small = {"size": 11, "color": LIGHT["muted"]}
    traces["published"].update(mode="markers+text", text=names, textposition="bottom center", textfont=small)
    traces["selection"].update(showlegend=False, hoverinfo="skip", hovertext=None)
    return traces | {
        "connectors": go.Scatter(name="trained from", mode="lines", line=thin, showlegend=False, **quiet),
        "arrows": _arrows([0 if i is None else sizes[i] for i in rows["arrows"]]),
        "staircase": go.Scatter(name="best of the front on these two", mode="lines", line=strong, **quiet),
        "labels": go.Scatter(
            name="numbers", mode="markers+text", text=labels, marker=unseen, showlegend=False, **quiet
        ),
    }


def _pruned_from(summary: RunSummary) -> str:
    parents = sorted({c.parent for c in summary.complete if c.kind == "pruned" and c.parent is not None})
    return f"pruned from {listed([str(n) for n in parents])}" if 0 < len(parents) <= NAMED_PARENTS else "pruned"


def _arrows(diameters_px: list[float]) -> go.Scatter:
    """Lines from parent to child whose heads stop short of the child's marker, whatever the axes.

    plotly draws a head turned by `angleref` at the points that follow another one, and none at the first of a line.
    """
    head = {"symbol": "arrow", "angleref": "previous", "size": 9, "color": LIGHT["other"], "opacity": 1}
    head |= {"standoff": [diameter / 2 for diameter in diameters_px], "line": {"width": 0}}
    line = {"color": LIGHT["other"], "width": 1}
    return go.Scatter(
        name="pruned from",
        mode="lines+markers",
        line=line,
        marker=head,
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
    )


def _points(name: str, marker: dict[str, Any], texts: list[str], bars: str) -> go.Scatter:
    error = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": bars}
    errors = {"error_x": error, "error_y": error} if bars else {}
    return go.Scatter(
        name=name,
        mode="markers",
        marker={"opacity": 1, **marker},
        hovertext=texts,
        hoverinfo="text",
        cliponaxis=False,
        showlegend=bool(texts),
        **errors,
    )
