"""What a marker says when pointed at: the network and all its numbers, in the small HTML that plotly reads."""

import textwrap
from html import escape

from ..search.candidate import Candidate
from .ladder import budget_of, budget_text, control_text, is_cut, pruning_of
from .summary import RunSummary
from .wording import finite, interval_text, label, measured, measured_names, number_text

LINE = 78  # characters; a longer architecture is wrapped so that the box stays on the page


def candidate_hover(summary: RunSummary, candidate: Candidate) -> str:
    """Returns the hover text of a candidate: standing, architecture, every number with its interval, ties, origin."""
    lines = [f"<b>Candidate {candidate.number}</b>  {' · '.join(standing(summary, candidate))}"]
    lines += [escape(line) for line in textwrap.wrap(candidate.summary, LINE)]
    for name in measured_names([candidate], summary.objectives):
        interval = interval_text(name, candidate.intervals.get(name))
        line = _number_line(summary, name, measured(candidate, name))
        lines.append(f"{line}  ({interval})" if interval else line)
    lines += _pruning_lines(candidate)
    if candidate.tied_with:
        lines.append(f"cannot be told apart from {_listed(candidate.tied_with)}")
    if candidate.origin:
        lines += [f"<i>{escape(line)}</i>" for line in textwrap.wrap(candidate.origin, LINE)]
    return "<br>".join(lines)


def reference_hover(summary: RunSummary) -> str:
    """Returns the hover text of the reference network."""
    numbers = summary.reference.get("numbers", {})
    name = escape(summary.reference_name)
    known = [(key, finite(value)) for key, value in numbers.items()]
    lines = [_number_line(summary, key, value) for key, value in known if value is not None]
    return "<br>".join([f"<b>{name}</b>  the reference", *lines])


def standing(summary: RunSummary, candidate: Candidate) -> list[str]:
    """Says in a few words how a candidate stands in its run, most important first."""
    if candidate.state != "complete":
        return ["over a limit" if candidate.state == "pruned" else candidate.state]
    if candidate.kind == "control":
        said = control_text(str(pruning_of(candidate).get("control", "")))
        return ["control", f"{said}, of {candidate.parent}" if said else f"of {candidate.parent}"]
    words = [
        "chosen" if candidate.number == summary.winner else "",
        "on the front" if candidate.number in summary.front else "",
        "published" if candidate.kind == "published" else "",
        f"trained longer from {candidate.parent}" if candidate.kind == "trained" else "",
        f"pruned from {candidate.parent}" if candidate.kind == "pruned" else "",
        "confirmed" if candidate.confirmed else "",
    ]
    words = [word for word in words if word]
    on_top = candidate.number == summary.winner or candidate.number in summary.front
    if words in ([], ["published"]) or (candidate.kind == "pruned" and not on_top):
        return ["dominated", *words]
    return words


def _pruning_lines(candidate: Candidate) -> list[str]:
    """Says how a child was pruned and how much of the time is left; nothing for any other candidate."""
    pruning = pruning_of(candidate)
    if not is_cut(candidate) or not pruning:
        return []
    how = [str(pruning.get(key) or "").replace("_", " ") for key in ("strategy", "criterion", "schedule")]
    budget = budget_of(candidate)
    line = ", ".join([*filter(None, how), *([f"budget {budget_text(budget)}"] if budget else [])])
    lines = [escape(part) for part in textwrap.wrap(line, LINE)]
    ratio = finite(pruning.get("latency_ratio"))
    return lines if ratio is None else [*lines, f"latency to the unpruned network: <b>{ratio:.3f}</b>"]


def _number_line(summary: RunSummary, name: str, value: float | None) -> str:
    return f"{escape(label(name, summary.reference_name))}: <b>{number_text(name, value, with_unit=False)}</b>"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
