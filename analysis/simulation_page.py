"""The comparison of simulated searches as a page, and as a CSV file."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..proxies.writing import write_text
from ..search.recording import Recording
from .colours import CURVES, DARK_OF_LIGHT, ROLES
from .figures import axis, figure
from .report import script_json, scripts
from .simulation import GRID, Floats, Line, crowded, interval_of_mean

HALVING = "halving"


def write_simulation_csv(lines: Sequence[Line], path: Path) -> None:
    """Writes one row an arm; raises OSError."""
    rows = [
        {
            "search": line.name,
            "compared_with": line.against or "",
            "share_at_third": line.at["1/3"],
            "share_at_half": line.at["1/2"],
            "share": line.share,
            "share_low": line.share_interval[0],
            "share_high": line.share_interval[1],
            "difference": line.gain,
            "difference_low": line.gain_interval[0],
            "difference_high": line.gain_interval[1],
            "steps_to_equal_median": line.reached_median,
            "steps_to_equal_q25": line.quantile(0.25),
            "steps_to_equal_q75": line.quantile(0.75),
            "seeds_within_half": line.within(1 / 2),
            "seeds_within_third": line.within(1 / 3),
            "trained_whole": line.whole,
            "met": line.met,
            "recorded": line.recorded,
            "used_up_at_median": line.used_up_median,
        }
        for line in lines
    ]
    write_text(path, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n", float_format="%.4f"))


def share_figure(curves: Mapping[str, Floats], trainings: int) -> go.Figure:
    """Mean share of the hypervolume over the steps spent, one line an arm; full training dashed, halving drawn."""
    spent = np.linspace(0, trainings, GRID + 1)
    samplers = list(dict.fromkeys(name.partition(",")[0] for name in curves))
    traces = []
    for name, curve in curves.items():
        sampler, _, how = name.partition(", ")
        colour = CURVES[samplers.index(sampler) % len(CURVES)]
        dash = "solid" if how == HALVING else "dot" if how.startswith(HALVING) else "dash"
        low, high = interval_of_mean(curve[:, -1])
        end = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
        traces.append(
            go.Scatter(
                x=spent,
                y=curve.mean(axis=0),
                name=name,
                mode="lines",
                line={"color": colour, "width": 2, "dash": dash},
                hovertemplate=f"{name}<br>%{{x:.1f}} trainings: %{{y:.3f}}<br>at the end{end}<extra></extra>",
            )
        )
    x = axis("Training steps spent, in whole trainings")
    return figure(traces, x, axis("Share of the recording's hypervolume"), height=520)


def write_simulation_page(
    lines: Sequence[Line],
    curves: Mapping[str, Floats],
    recording: Recording,
    words: str,
    trainings: int,
    path: Path,
) -> None:
    """Writes one HTML file that needs nothing beside it; everything that came from outside is escaped."""
    templates = resources.files(__name__.rpartition(".")[0]) / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((templates / "simulation.html.j2").read_text(encoding="utf-8"))
    drawn = json.loads(str(share_figure(curves, trainings).to_json()))
    text = template.render(
        rows=[cells(line) for line in lines],
        verdict=[*filter(None, [crowded(lines)]), *verdict(lines)],
        words=words,
        networks=len(recording.networks),
        rungs=", ".join(f"{steps:,}" for steps in recording.rungs),
        machine=recording.facts.get("machine", {}),
        roles=ROLES,
        data=script_json({"figures": {"shares": drawn}, "dark": DARK_OF_LIGHT}),
        style=scripts("report.css"),
        script=scripts("page.js", "simulation.js"),
        plotly=Markup(get_plotlyjs()),
    )
    write_text(path, text)


def cells(line: Line) -> dict[str, str]:
    """An arm as a row of a table: what stands under each heading."""
    low, high = line.gain_interval
    return {
        "Search": line.name,
        "at 1/3": f"{line.at['1/3']:.3f}",
        "at 1/2": f"{line.at['1/2']:.3f}",
        "at the end": f"{line.share:.3f}",
        "difference": "" if line.against is None else f"{line.gain:+.3f} [{low:+.3f}, {high:+.3f}]",
        "compared with": line.against or "",
        "steps to equal": share_text(line.reached_median) if line.reached else "",
        "quartiles": f"{share_text(line.quantile(0.25))} to {share_text(line.quantile(0.75))}" if line.reached else "",
        "seeds within 1/2": f"{line.within(1 / 2):.0%}" if line.reached else "",
        "within 1/3": f"{line.within(1 / 3):.0%}" if line.reached else "",
        "trained to the end": f"{line.whole:.1f}",
        "networks met": met_text(line),
    }


def met_text(line: Line) -> str:
    """How many networks an arm met of how many recorded, and at which share of the budget all; empty if not known."""
    if math.isnan(line.met):
        return ""
    when = f", all at {line.used_up_median:.2f}" if math.isfinite(line.used_up_median) else ""
    return f"{line.met:.0f} of {line.recorded}{when}"


def share_text(value: float) -> str:
    """A share of the budget; one that was never reached is said so."""
    return "never" if math.isinf(value) else f"{value:.2f}"


def verdict(lines: Sequence[Line]) -> list[str]:
    """What the numbers say, a sentence an arm, whichever way it came out."""
    said = []
    for line in lines:
        if line.against is None:
            continue
        low, high = line.gain_interval
        if low > 0:
            won = "is ahead of"
        elif high < 0:
            won = "is behind"
        else:
            won = "cannot be told apart from"
        # Beside halving by PSNR alone it must be said by what the other one promotes.
        rival = f"{line.against} by all objectives" if line.against.endswith(f", {HALVING}") else line.against
        reached = line.reached_median
        when = (
            "; the median seed never gets as far as that one's end"
            if math.isinf(reached)
            else f"; the median seed has that one's end after {reached:.2f} of the steps"
        )
        said.append(
            f"{line.name[0].upper()}{line.name[1:]} {won} {rival} at equal steps "
            f"({line.gain:+.3f} [{low:+.3f}, {high:+.3f}]){when}."
        )
    return said
