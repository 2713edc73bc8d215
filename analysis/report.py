"""The report of a run: one HTML file that needs no network and nothing beside it."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..proxies.writing import write_text
from ..search.candidate import STATES
from . import pareto, pruning_rows, report_rows
from .colours import DARK_OF_LIGHT, ROLES
from .figures import curves_figure, hypervolume_figure, rungs_figure
from .ladder import is_cut
from .placing import diameters_px, is_drawn
from .pruning_figures import children, ladder_figures, path_figure, widths_figure
from .summary import RunSummary
from .wording import CHILDREN, counted, duration_text, finite, headline, interval_text, label, measured, number_text


def write_report(summary: RunSummary, path: Path) -> None:
    """Writes the report of a run as one HTML file, whole or not at all; raises OSError.

    Equal summaries give equal files: nothing in it depends on the time or place of writing.
    """
    write_text(path, report_html(summary))


def report_html(summary: RunSummary) -> str:
    """Returns the report as HTML text; everything that came from outside is escaped."""
    templates = resources.files(__name__.rpartition(".")[0]) / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((templates / "report.html.j2").read_text(encoding="utf-8"))
    pruned = pruning_rows.section(summary)
    section = environment.from_string((templates / "pruning.html.j2").read_text(encoding="utf-8"))
    return template.render(
        summary=summary,
        headline=headline(summary),
        warning=_demo_warning(summary),
        standing=_standing(summary),
        tiles=_tiles(summary),
        choices=_choices(summary),
        sizes=_sizes(summary),
        table=report_rows.table(summary),
        pruning=Markup(section.render(pruned)) if pruned else "",
        facts=_facts(summary),
        roles=ROLES,
        data=script_json(_page_data(summary)),
        style=scripts("report.css", *(["pruning.css"] if pruned else [])),
        script=scripts("page.js", "report.js", *(["pruning.js"] if pruned else [])),
        plotly=Markup(get_plotlyjs()),
    )


def scripts(*names: str) -> Markup:
    """The text of scripts or styles that lie beside the templates, one after another."""
    folder = resources.files("paretosr.analysis") / "templates"
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in names))


def script_json(value: object) -> Markup:
    """Writes JSON that cannot end the script element it stands in, whatever it holds; NaN is refused (ValueError)."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _page_data(summary: RunSummary) -> dict[str, Any]:
    figures: dict[str, go.Figure] = {}
    if _has_front(summary):
        figures["front"] = pareto.front_figure(summary)
    if summary.hypervolume:
        figures["hypervolume"] = hypervolume_figure(summary)
    if any(len(c.curve) > 1 for c in summary.candidates):
        figures["curves"] = curves_figure(summary)
    if any(c.rungs for c in summary.candidates):
        figures["rungs"] = rungs_figure(summary)
    data: dict[str, Any] = {
        "name": summary.name,
        "figures": {name: _plain(figure) for name, figure in figures.items()},
        "front": pareto.front_choices(summary) if "front" in figures else None,
        "dark": DARK_OF_LIGHT,
    }
    if any(map(is_cut, summary.candidates)):
        data["pruning"] = _pruning_data(summary)
    return data


def _pruning_data(summary: RunSummary) -> dict[str, Any]:
    """Returns the ladders by parent, the paths and widths by child, and the child to begin with."""
    known = children(summary)
    drawn = {
        "ladders": ladder_figures(summary),
        "paths": {str(c.number): figure for c in known if (figure := path_figure(c)) is not None},
        "widths": {str(c.number): figure for c in known if (figure := widths_figure(c)) is not None},
    }
    data = {kind: {key: _plain(figure) for key, figure in figures.items()} for kind, figures in drawn.items()}
    return {**data, "first": str(known[0].number) if known else ""}


def _plain(figure: go.Figure) -> dict[str, Any]:
    return json.loads(str(figure.to_json()))


def _has_front(summary: RunSummary) -> bool:
    return len(pareto.choices(summary)) > 1


def _choices(summary: RunSummary) -> dict[str, Any] | None:
    if not _has_front(summary):
        return None
    x, y = pareto.default_pair(summary)
    return {"x": x, "y": y, "names": {name: label(name, summary.reference_name) for name in pareto.choices(summary)}}


def _sizes(summary: RunSummary) -> list[dict[str, Any]]:
    """Returns the smallest and the largest marker with their activations, for the key below the front."""
    drawn = zip(summary.candidates, diameters_px(summary), strict=False)
    known = [(measured(c, "activations_m"), d) for c, d in drawn if is_drawn(c)]
    ordered = sorted({(activations, d) for activations, d in known if activations is not None})
    ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
    return [{"text": number_text("activations_m", activations), "px": d} for activations, d in ends]


def _demo_warning(summary: RunSummary) -> str:
    if not summary.data.get("embedded"):
        return ""
    count = summary.data.get("validation_images")
    judged = f" The PSNR is that of {counted(count, 'photo')} held out." if isinstance(count, int) else ""
    return f"These are demo photos: they show that everything runs, and prove nothing about quality.{judged}"


def _standing(summary: RunSummary) -> str:
    """Says in a line what became of the candidates."""
    searched = [c for c in summary.candidates if c.kind not in CHILDREN]
    known = sum(c.kind == "published" for c in searched)
    longer, cut, controls = (sum(c.kind == kind for c in summary.complete) for kind in CHILDREN)
    states = {state: sum(c.state == state for c in searched) for state in STATES}
    parts = [
        f"{states['complete']:,} trained{f' ({longer} of them longer)' if longer else ''}",
        f"{len(summary.front)} on the front" if summary.front else "",
        f"{states['pruned']:,} over a limit" if states["pruned"] else "",
        f"{states['failed']:,} failed" if states["failed"] else "",
        f"{states['paused']:,} trained for a part of the steps" if states["paused"] else "",
        f"{states['running']:,} still running" if states["running"] else "",
    ]
    beside = f", {known} of them published networks" if known else ""
    said = ", ".join(part for part in parts if part)
    if cut or controls:
        beside_cut = f" beside {counted(controls, 'control')}" if controls else ""
        said += f"; {cut:,} pruned from them{beside_cut}"
    return f"{counted(len(searched), 'candidate')}{beside}: {said}." if searched else ""


def _tiles(summary: RunSummary) -> list[dict[str, str]]:
    """Returns the winner's objectives, each with its interval and what it compares to."""
    winner = summary.candidate(summary.winner)
    if winner is None:
        return []
    reference = summary.reference.get("numbers", {})
    names = dict.fromkeys([*summary.objectives, "psnr_db", "latency_ms", "activations_m", "parameters_m"])
    tiles = []
    for name in [n for n in names if measured(winner, n) is not None]:
        against = [("bicubic", finite(summary.bicubic_psnr_db))] if name == "psnr_db" else []
        if name != "latency_ratio":
            against.append((summary.reference_name, finite(reference.get(name))))
        interval = interval_text(name, winner.intervals.get(name))
        tiles.append(
            {
                "label": label(name, summary.reference_name).split(" (")[0],
                "value": number_text(name, measured(winner, name)),
                "interval": f"95% {interval}" if interval else "",
                "against": ", ".join(f"{who} {number_text(name, v)}" for who, v in against if v is not None),
            }
        )
    return tiles


def _facts(summary: RunSummary) -> dict[str, dict[str, str]]:
    """Returns how the numbers came about, as titled lists of names and values."""
    training, data = summary.training, summary.data
    uses = {"train_images": "to train", "validation_images": "to judge"}
    images = [f"{data[key]} {use}" for key, use in uses.items() if key in data]
    words = {
        "steps": lambda v: f"{v:,}" if isinstance(v, int) else str(v),
        "patch": lambda v: f"{v} x {v} LR pixels" if isinstance(v, int) else str(v),
    }
    how = {
        "Objectives": ", ".join(label(name, summary.reference_name) for name in summary.objectives),
        "Reference network": summary.reference_name if summary.reference else "",
        "Latency": summary.protocol or "not measured",
        "PSNR": "RGB, rounded to 8 bits, 4 pixels cut on each side, mean over the images",
        "Data": str(data.get("label", "")),
        "Images": ", ".join(images),
        "Data hash": str(data.get("hash", "")),
        **{f"Training: {k.replace('_', ' ')}": words.get(k, str)(v) for k, v in training.items()},
        "Seed": str(summary.seed),
        "Time": duration_text(summary.seconds),
    }
    machine = {k.replace("_", " "): str(v) for k, v in summary.machine.items()}
    lists = {"Measurement": how, "Machine": machine, "Versions": {k: str(v) for k, v in summary.versions.items()}}
    return {title: {k: v for k, v in facts.items() if v} for title, facts in lists.items() if facts}
