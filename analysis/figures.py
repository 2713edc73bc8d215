"""The report's smaller figures, hypervolume and training curves, and the look all its figures share."""

from typing import Any

import plotly.graph_objects as go

from ..search.candidate import Candidate
from .colours import CURVES, LIGHT
from .summary import RunSummary

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
NAMED_CURVES = 10  # beyond this many, curves share one grey line in the legend
CURVE_POINTS = 200  # of one curve, and
MADE_BY = {"trained": " (longer)", "pruned": " (pruned)"}  # in the legend, by the kind of candidate
ALL_POINTS = 20_000  # of all the others together: more cannot be seen and make the file heavy


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Returns the settings of a quiet axis: a title, a thin grid, no zero line."""
    return {
        "title": {"text": title, "standoff": 12},
        "gridcolor": LIGHT["rule"],
        "linecolor": LIGHT["rule"],
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        **more,
    }


def figure(traces: list[Any], x: dict[str, Any], y: dict[str, Any], *, height: int, **layout: Any) -> go.Figure:
    """Returns a figure in the report's look, on transparent paper, its legend in a row above the plot."""
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "itemwidth": 30}
    return go.Figure(
        traces,
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
            "font": {"family": FONT, "size": 13, "color": LIGHT["ink"]},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {
                "align": "left",
                "bgcolor": LIGHT["panel"],
                "bordercolor": LIGHT["rule"],
                "font": {"family": FONT, "size": 12.5, "color": LIGHT["ink"]},
            },
            "legend": legend,
            "modebar": {
                "orientation": "v",
                "bgcolor": "rgba(0,0,0,0)",
                "color": LIGHT["other"],
                "activecolor": LIGHT["ink"],
            },
            "xaxis": x,
            "yaxis": y,
            **layout,
        },
    )


def hypervolume_figure(summary: RunSummary) -> go.Figure:
    """Draws the hypervolume of the front found so far over the number of candidates finished."""
    trace = go.Scatter(
        x=[finished for finished, _ in summary.hypervolume],
        y=[volume for _, volume in summary.hypervolume],
        mode="lines+markers" if len(summary.hypervolume) <= 60 else "lines",
        line={"color": LIGHT["front"], "width": 2, "shape": "hv"},
        marker={"size": 5},
        hovertemplate="%{y:.4~g} after %{x} candidates<extra></extra>",
        showlegend=False,
    )
    few = max((finished for finished, _ in summary.hypervolume), default=0) <= 10
    x = axis("candidates finished", rangemode="tozero", tickformat=",d", dtick=1 if few else None)
    return figure([trace], x, axis("hypervolume", rangemode="tozero", tickformat=".3~g"), height=320)


def curves_figure(summary: RunSummary) -> go.Figure:
    """Draws the loss of every training over its steps; the front's have names and colours, the others share a grey.

    The loss, of the recipe's kind, is the mean since the point before, on a logarithmic axis; what is not positive is
    left out.
    """
    with_curve = [c for c in summary.candidates if len(_drawable(c)) > 1]
    first = {summary.winner, *summary.front} | {c.number for c in with_curve if c.kind == "trained"}
    ranked = sorted(with_curve, key=lambda c: (c.number != summary.winner, c.number not in summary.front, c.number))
    named = ([c for c in ranked if c.number in first] or ranked)[:NAMED_CURVES]
    others = [c for c in with_curve if c not in named]
    traces = [_shared_curve(others)] if others else []
    spare = iter(CURVES)
    for candidate in named:
        colour, width = (LIGHT["winner"], 2.5) if candidate.number == summary.winner else (next(spare), 1.5)
        traces.append(_named_curve(candidate, colour, width))
    last_steps = [_drawable(c)[-1][0] for c in with_curve]
    spread = bool(last_steps) and max(last_steps) > 5 * min(last_steps)
    x = axis("step", type="log" if spread else "linear", tickformat=",~s" if spread else ",d", nticks=6)
    y = axis("training loss", type="log", tickformat=".2~g", dtick="D2")
    beside = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top", "itemwidth": 30}
    return figure(traces, x, y, height=320, legend=beside)


def rungs_figure(summary: RunSummary) -> go.Figure:
    """Draws PSNR at the rungs of a search by halving: which networks were trained on, and what that made of them.

    One grey line joins the rungs of each network; a ring stands where it was paused, and those of the front are drawn.
    """
    front = {summary.winner, *summary.front}
    climbing = [c for c in summary.candidates if c.rungs]
    joined: dict[str, list[Any]] = {"x": [], "y": [], "number": []}
    for candidate in climbing:
        joined["x"] += [steps for steps, _ in candidate.rungs] + [None]
        joined["y"] += [psnr_db for _, psnr_db in candidate.rungs] + [None]
        joined["number"] += [candidate.number] * (len(candidate.rungs) + 1)
    traces = [_rungs_trace("networks", joined, mode="lines", line={"color": LIGHT["other"], "width": 1}, opacity=0.5)]
    groups = {
        "paused": ([c for c in climbing if c.state == "paused"], "circle-open", LIGHT["other"]),
        "trained to the end": ([c for c in climbing if c.state == "complete"], "circle", LIGHT["other"]),
        "on the front": ([c for c in climbing if c.number in front], "circle", LIGHT["front"]),
    }
    for name, (members, symbol, colour) in groups.items():
        ends = [(*c.rungs[-1], c.number) for c in members]
        columns: dict[str, list[Any]] = {
            "x": [steps for steps, _, _ in ends],
            "y": [psnr_db for _, psnr_db, _ in ends],
            "number": [number for _, _, number in ends],
        }
        marker = {"symbol": symbol, "color": colour, "size": 7}
        traces += [_rungs_trace(name, columns, mode="markers", marker=marker)] if ends else []
    x = axis("step", type="log", tickformat=",~s", tickvals=sorted({steps for c in climbing for steps, _ in c.rungs}))
    return figure(traces, x, axis("PSNR (dB)"), height=320)


def _rungs_trace(name: str, columns: dict[str, list[Any]], **more: Any) -> go.Scatter:
    hover = "candidate %{customdata}: %{y:.2f} dB at step %{x:,}<extra></extra>"
    x, y = columns["x"], columns["y"]
    return go.Scatter(x=x, y=y, customdata=columns["number"], name=name, hovertemplate=hover, **more)


def _named_curve(candidate: Candidate, colour: str, width: float) -> go.Scatter:
    points = _drawable(candidate)
    name = f"{candidate.number}{MADE_BY.get(candidate.kind, '')}"
    return go.Scatter(
        x=[step for step, _ in points],
        y=[loss for _, loss in points],
        name=name,
        mode="lines",
        line={"color": colour, "width": width},
        hovertemplate=f"candidate {candidate.number}: %{{y:.4~f}} at step %{{x:,}}<extra></extra>",
        showlegend=True,
    )


def _shared_curve(candidates: list[Candidate]) -> go.Scatter:
    steps: list[int | None] = []
    losses: list[float | None] = []
    numbers: list[int | None] = []
    most = max(10, ALL_POINTS // len(candidates))
    for candidate in candidates:
        points = _drawable(candidate, most)
        steps += [step for step, _ in points] + [None]
        losses += [loss for _, loss in points] + [None]
        numbers += [candidate.number] * len(points) + [None]
    return go.Scatter(
        x=steps,
        y=losses,
        customdata=numbers,
        name="others",
        mode="lines",
        line={"color": LIGHT["other"], "width": 1},
        opacity=0.55,
        hovertemplate="candidate %{customdata}: %{y:.4~f} at step %{x:,}<extra></extra>",
        showlegend=True,
    )


def _drawable(candidate: Candidate, most: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """Returns at most about so many points of a curve, the last among them."""
    points = [(step, float(f"{loss:.4g}")) for step, loss in candidate.curve if 0 < loss < float("inf")]
    stride = max(1, -(-len(points) // most))
    thinned = points[::stride]
    return thinned if not points or thinned[-1] == points[-1] else [*thinned, points[-1]]
