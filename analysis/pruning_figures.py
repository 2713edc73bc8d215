"""The figures of pruning: the ladder of a network, and of one child the path it came by and the widths it kept."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from ..search.candidate import Candidate
from .colours import CURVES, LIGHT, STRATEGIES
from .figures import axis, figure
from .ladder import (
    CONTROLS,
    Rung,
    budget_of,
    budget_text,
    control_text,
    is_cut,
    pruning_of,
    rungs,
    way_names,
)
from .summary import RunSummary
from .wording import finite, interval_text, measured, number_text

SYMBOLS = {
    "inner": "circle",
    "group": "square",
    "block": "diamond",
    "interval": "triangle-up",
    "free": "triangle-down",
    "uniform": "pentagon",
}
HOLLOW = {"scratch": "circle-open", "random": "diamond-open", "uniform": "square-open", "uncut": "star-open"}
DASHES = ("solid", "dash", "dot", "dashdot")  # for ways of one strategy
STAGES = 16  # more steps of a path than this are not all named on its axis
LEVEL = 6  # with more steps their names are turned
NAME_LENGTH = 30  # characters of a layer's name beside its bars; the end of a longer one
ROW_PX, PAIR_PX = 17, 26  # height of a layer with one bar and with two


def ladder_figures(summary: RunSummary) -> dict[str, go.Figure]:
    """Returns PSNR over measured latency for each pruned network, by its number; networks without both are left out."""
    placed = [r for r in rungs(summary.candidates) if None not in (r.psnr_db, r.latency_ratio)]
    parents = sorted({r.parent for r in placed}, key=lambda p: -1 if p is None else p)
    return {str(p): _ladder(summary, p, [r for r in placed if r.parent == p]) for p in parents}


def _ladder(summary: RunSummary, parent: int | None, found: Sequence[Rung]) -> go.Figure:
    names = way_names(found)
    traces = [_unpruned(summary, parent)]
    spare = iter(CURVES[len(STRATEGIES) :] * 2)
    used: Counter[str] = Counter()
    for way, name in sorted(names.items(), key=lambda item: (_rank(item[0][0]), item[1])):
        if way[4]:
            continue
        colour = STRATEGIES.get(way[0]) or next(spare, CURVES[0])
        dash = DASHES[used[way[0]] % len(DASHES)]
        used[way[0]] += 1
        steps = sorted((r for r in found if r.way == way), key=lambda r: r.latency_ratio or 0.0)
        look = {"line": {"color": colour, "width": 1.5, "dash": dash}, "mode": "lines+markers"}
        traces.append(_steps(steps, name, colour, SYMBOLS.get(way[0], "hexagon"), look))
    for control in [*CONTROLS, *sorted({r.way[4] for r in found} - set(CONTROLS))]:
        if control and any(r.way[4] == control for r in found):
            traces += _control(control, [r for r in found if r.way[4] == control])
    x = axis("measured latency (x unpruned)", tickformat=".2~f")
    return figure(traces, x, axis("PSNR (dB)"), height=460, hovermode="closest")


def _rank(strategy: str) -> int:
    return list(STRATEGIES).index(strategy) if strategy in STRATEGIES else len(STRATEGIES)


def _unpruned(summary: RunSummary, parent: int | None) -> go.Scatter:
    """The network that was pruned, at a latency of one; drawn only if its PSNR is known."""
    found = summary.candidate(parent)
    psnr_db = None if found is None else measured(found, "psnr_db")
    said = f"<b>Candidate {parent}</b>, unpruned<br>PSNR {number_text('psnr_db', psnr_db)}"
    marker = {"color": LIGHT["ink"], "size": 11, "symbol": "cross", "line": {"color": LIGHT["paper"], "width": 1}}
    known = psnr_db is not None
    return go.Scatter(
        x=[1.0] * known,
        y=[psnr_db] * known,
        name="unpruned" if parent is None else f"{parent}, unpruned",
        mode="markers",
        marker=marker,
        hovertext=[said] * known,
        hoverinfo="text",
        showlegend=known,
    )


def _steps(steps: Sequence[Rung], name: str, colour: str | list[str], symbol: str, look: dict[str, Any]) -> go.Scatter:
    """Markers of rungs with the intervals of their PSNR."""
    reach = [0.0 if r.interval_db is None else r.interval_db[1] - (r.psnr_db or 0.0) for r in steps]
    bar = colour if isinstance(colour, str) else LIGHT["other"]
    bars = {"type": "data", "array": reach, "color": bar, "thickness": 1, "width": 3} if any(reach) else None
    return go.Scatter(
        x=[r.latency_ratio for r in steps],
        y=[r.psnr_db for r in steps],
        error_y=bars,
        name=escape(name),
        marker={"color": colour, "size": 9, "symbol": symbol},
        hovertext=[_rung_hover(r) for r in steps],
        hoverinfo="text",
        showlegend=True,
        cliponaxis=False,
        **look,
    )


def _control(control: str, steps: Sequence[Rung]) -> list[go.Scatter]:
    """Hollow markers in the colours of the strategies they stand beside, and a grey one of the kind for the legend."""
    symbol = HOLLOW.get(control, "hexagon-open")
    colours = [STRATEGIES.get(r.way[0], LIGHT["muted"]) for r in steps]
    drawn = _steps(steps, control_text(control), colours, symbol, {"mode": "markers", "legendgroup": control})
    drawn.update(showlegend=False)
    grey = {"color": LIGHT["muted"], "size": 9, "symbol": symbol}
    name = escape(control_text(control))
    return [drawn, go.Scatter(x=[None], y=[None], name=name, mode="markers", marker=grey, legendgroup=control)]


def _rung_hover(rung: Rung) -> str:
    strategy, criterion, schedule, teacher, control = rung.way
    made = [strategy, criterion.replace("_", " "), schedule.replace("_", " "), f"teacher {teacher:g}" * (teacher > 0)]
    title = control_text(control) or rung.strategy
    interval = interval_text("psnr_db", rung.interval_db)
    lines = [
        f"<b>{escape(title)}</b>  budget {escape(budget_text(rung.budget))}",
        escape(", ".join(filter(None, made))),
        f"PSNR: <b>{number_text('psnr_db', rung.psnr_db)}</b>{f'  ({interval})' if interval else ''}",
        f"latency to the unpruned network: <b>{rung.latency_ratio:.3f}</b>"
        + (f"  ({rung.ratio_interval[0]:.3f} – {rung.ratio_interval[1]:.3f})" if rung.ratio_interval else ""),
        f"candidate{'s' if len(rung.numbers) > 1 else ''} {', '.join(map(str, rung.numbers))}",
    ]
    return "<br>".join(line for line in lines if line)


def children(summary: RunSummary) -> list[Candidate]:
    """Lists those of whom a path or kept widths are known, pruned ones before controls."""
    known = [c for c in summary.candidates if is_cut(c) and (path_of(c) or pruning_of(c).get("kept"))]
    return sorted(known, key=lambda c: (c.kind != "pruned", c.number))


def path_of(candidate: Candidate) -> list[dict[str, Any]]:
    """Returns the steps of a pruning; the last, the finished network, has the child's latencies where it lacks them."""
    pruning = pruning_of(candidate)
    path = [dict(step) for step in pruning.get("path") or ()]
    for name in ("latency_ratio", "estimated_ratio") if path else ():
        if finite(path[-1].get(name)) is None and finite(pruning.get(name)) is not None:
            path[-1][name] = pruning[name]
    return path


def path_figure(candidate: Candidate) -> go.Figure | None:
    """Draws PSNR and latency over the steps of a pruning, or None where no path is known.

    Latency is measured (filled) or, where it was not, estimated (hollow); a dotted line joins both.
    """
    path = path_of(candidate)
    if not path:
        return None
    stages = _stages(path)
    psnrs_db = [finite(step.get("psnr_db")) for step in path]
    ratios = [finite(step.get("latency_ratio")) for step in path]
    estimates = [finite(step.get("estimated_ratio")) for step in path]
    guesses = [e if m is None else None for m, e in zip(ratios, estimates, strict=True)]
    both = [e if m is None else m for m, e in zip(ratios, estimates, strict=True)]
    line, muted = {"color": LIGHT["front"], "width": 1.5}, {"color": LIGHT["other"], "width": 1, "dash": "dot"}
    hollow = {"symbol": "circle-open", "size": 8, "color": LIGHT["muted"]}
    traces = [
        _along(psnrs_db, stages, "PSNR {} dB", ".2f", mode="lines+markers", line=line, showlegend=False),
        go.Scatter(y=both, yaxis="y2", mode="lines", line=muted, connectgaps=True, hoverinfo="skip", showlegend=False),
        _along(ratios, stages, "latency {}, measured", ".3f", yaxis="y2", mode="lines+markers", line=line),
        _along(guesses, stages, "latency {}, estimated", ".3f", yaxis="y2", mode="markers", marker=hollow),
    ]
    traces[2].update(name="latency measured", showlegend=any(r is not None for r in ratios))
    traces[3].update(name="latency estimated", showlegend=any(g is not None for g in guesses))
    stride = -(-len(stages) // STAGES)
    ticks = list(range(len(stages)))[::-1][::stride][::-1]  # the last is always named
    x = axis("", tickmode="array", tickvals=ticks, ticktext=[escape(stages[i]) for i in ticks], anchor="y2")
    x |= {"range": [-0.4, len(stages) - 0.6], "tickangle": -45 if len(stages) > LEVEL else 0}
    budget = dict(budget_of(candidate)).get("latency_ratio")
    return figure(
        traces,
        x,
        axis("PSNR (dB)", domain=[0.56, 1], nticks=6),
        height=420,
        yaxis2=axis("latency, share", domain=[0, 0.46], anchor="x", nticks=6),
        **({} if budget is None else _budget_line(budget)),
    )


def _stages(path: Sequence[dict[str, Any]]) -> list[str]:
    """Names the steps; stages that come more than once are numbered: `start`, `cut 1`, `cut 2`, `recovered`."""
    kinds = [str(step.get("stage", "step")) for step in path]
    return [f"{k} {kinds[: i + 1].count(k)}" if kinds.count(k) > 1 else k for i, k in enumerate(kinds)]


def _along(values: Sequence[float | None], stages: Sequence[str], said: str, form: str, **look: Any) -> go.Scatter:
    texts = [
        "" if value is None else f"{escape(stage)}: {said.format(format(value, form))}"
        for stage, value in zip(stages, values, strict=True)
    ]
    return go.Scatter(y=list(values), hovertext=texts, hoverinfo="text", **look)


def _budget_line(budget: float) -> dict[str, Any]:
    """A dashed line at the latency that was asked for."""
    line = {"color": LIGHT["winner"], "width": 1.5, "dash": "dash"}
    where = {"xref": "paper", "yref": "y2"}
    shape = {"type": "line", "x0": 0, "x1": 1, "y0": budget, "y1": budget, "line": line, **where}
    font = {"color": LIGHT["winner"], "size": 12}
    words = {"text": "budget", "showarrow": False, "x": 0, "y": budget, "xanchor": "left", "yanchor": "bottom"}
    return {"shapes": [shape], "annotations": [{**words, "font": font, **where}]}


def widths_figure(candidate: Candidate) -> go.Figure | None:
    """Draws the share of channels kept in each layer, in network order downwards, or None where none are known.

    Outputs always; inputs where their (kept, full) differ from the outputs'. The figure grows with the layers.
    """
    layers = [_layer(entry) for entry in pruning_of(candidate).get("kept") or ()]
    if not layers:
        return None
    differing = [i for i, (_, outputs, inputs) in enumerate(layers) if inputs is not None and inputs != outputs]
    traces = [_bars("outputs", "front", [(i, name, kept) for i, (name, kept, _) in enumerate(layers)])]
    if differing:
        inputs = [(i, layers[i][0], kept) for i in differing if (kept := layers[i][2]) is not None]
        traces.append(_bars("inputs", "other", inputs))
    names = [name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}" for name, _, _ in layers]
    y = axis("", tickmode="array", tickvals=list(range(len(names))), ticktext=[escape(name) for name in names])
    y |= {"range": [len(names) - 0.5, -0.5], "tickfont": {"size": 11}, "showgrid": False}
    x = axis("", side="top", range=[0, 122], tickvals=[0, 50, 100], ticktext=["0", "50 %", "100 %"])
    height = 80 + len(layers) * (PAIR_PX if differing else ROW_PX)
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    margin = {"l": 56, "r": 16, "t": 48, "b": 16}
    return figure(traces, x, y, height=height, bargap=0.25, bargroupgap=0.05, legend=legend, margin=margin)


def _layer(entry: dict[str, Any]) -> tuple[str, tuple[int, int], tuple[int, int] | None]:
    """Returns a layer's name, and (kept, full) of its outputs and of its inputs where they are known."""
    kept, full = entry["outputs"]
    inputs = entry.get("inputs")
    return str(entry["name"]), (kept, full), None if inputs is None else (inputs[0], inputs[1])


def _bars(side: str, role: str, layers: Sequence[tuple[int, str, tuple[int, int]]]) -> go.Bar:
    return go.Bar(
        y=[i for i, _, _ in layers],
        x=[100 * kept / full if full else 0 for _, _, (kept, full) in layers],
        orientation="h",
        name=side,
        marker={"color": LIGHT[role]},
        text=[f"{kept} of {full}" for _, _, (kept, full) in layers],
        textposition="outside",
        textfont={"size": 10, "color": LIGHT["muted"]},
        hovertext=[f"{escape(name)}: {kept} of {full} {side} kept" for _, name, (kept, full) in layers],
        hoverinfo="text",
        cliponaxis=False,
        showlegend=True,
    )
