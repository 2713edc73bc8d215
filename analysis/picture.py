"""The front as a still picture, an SVG file of our own on light paper: for a README, a talk, a mail."""

import math
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..proxies.writing import write_text
from .colours import LIGHT
from .figures import FONT
from .pareto import default_pair
from .placing import Baseline, baselines, diameters_px, find_places, is_drawn, pair_facts
from .summary import RunSummary
from .wording import headline, label, lower_is_better, number_text

WIDTH, HEIGHT = 880, 520
LEFT, RIGHT, TOP, BOTTOM = 84, 846, 108, 430  # edges of the plot in pixels
HEAD_PX = 9.0  # length of an arrow's head
FARTHEST = 1.8  # a baseline is drawn if it widens the scale to no more than this many times the candidates' own


@dataclass(frozen=True)
class Scale:
    """Maps the numbers of one axis to pixels; `start` and `end` are the pixels of the `low` and the `high` end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def write_front_svg(summary: RunSummary, path: Path) -> None:
    """Writes the front on its default pair of numbers as an SVG picture, whole or not at all.

    Raises ValueError if no complete candidate has two numbers, OSError if the file cannot be written.
    """
    write_text(path, front_svg(summary))


def front_svg(summary: RunSummary) -> str:
    """Returns the picture as SVG text; raises ValueError if no complete candidate has two numbers."""
    x, y = default_pair(summary)
    places = find_places(summary, x, y)
    across = _scale([px for px, _ in places.values()], baselines(summary, x), LEFT, RIGHT)
    up = _scale([py for _, py in places.values()], baselines(summary, y), BOTTOM, TOP)
    outcome, _, circumstances = headline(summary).partition("; ")
    title = textwrap.shorten(outcome, 84, placeholder=" …")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="{escape(FONT)}"><title>{escape(headline(summary))}</title>',
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="{LIGHT["paper"]}" '
        f'stroke="{LIGHT["rule"]}"/>',
        _text(32, 46, title, "ink", anchor="start", size=18, weight=600),
        _text(32, 70, circumstances, anchor="start", size=14),
        *_axes(summary, x, y, across, up),
        *_baselines(summary, x, y, across, up),
        *_marks(summary, x, y, across, up),
        *_legend(summary),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _scale(values: list[float], compared: list[Baseline], start: float, end: float) -> Scale:
    """Returns the scale that shows all values, and those baselines that do not crowd the rest."""
    low, high = min(values), max(values)
    near = [value for value, _, _ in compared if max(high, value) - min(low, value) <= FARTHEST * (high - low)]
    low, high = min([low, *near]), max([high, *near])
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - room, high + room, start, end)


def _ticks(scale: Scale) -> list[float]:
    """Returns four to eight round numbers within the scale, 1, 2 or 5 times a power of ten apart."""
    rough = (scale.high - scale.low) / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [i * step for i in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]


def _axes(summary: RunSummary, x: str, y: str, across: Scale, up: Scale) -> list[str]:
    parts = []
    for tick in _ticks(across):
        parts += [_line(across(tick), TOP, across(tick), BOTTOM, "rule"), _text(across(tick), 450, f"{tick:.6g}")]
    for tick in _ticks(up):
        parts += [
            _line(LEFT, up(tick), RIGHT, up(tick), "rule"),
            _text(LEFT - 8, up(tick) + 4, f"{tick:.6g}", anchor="end"),
        ]
    titles = [
        f"{label(n, summary.reference_name)} · {'lower' if lower_is_better(n) else 'higher'} is better" for n in (x, y)
    ]
    parts.append(_text((LEFT + RIGHT) / 2, 474, titles[0], "ink"))
    middle = (TOP + BOTTOM) / 2
    return [*parts, f'<g transform="rotate(-90 28 {middle})">{_text(28, middle, titles[1], "ink")}</g>']


def _baselines(summary: RunSummary, x: str, y: str, across: Scale, up: Scale) -> list[str]:
    """Draws what the numbers are compared to as dashed lines; for one beyond the edge, an arrow says where it is."""
    parts = []
    dashed = 'stroke-width="1.5" stroke-dasharray="6 5"'
    for value, who, role in baselines(summary, x):
        if across.low <= value <= across.high:
            parts.append(_line(across(value), TOP, across(value), BOTTOM, role, dashed))
            parts.append(_text(across(value) - 6, TOP + 12, who, role, anchor="end"))
        else:
            words = (
                f"{who} at {number_text(x, value)} →" if value > across.high else f"← {who} at {number_text(x, value)}"
            )
            parts.append(_text(RIGHT, TOP - 8, words, role, anchor="end"))
    for i, (value, who, role) in enumerate(baselines(summary, y)):
        if up.low <= value <= up.high:
            parts.append(_line(LEFT, up(value), RIGHT, up(value), role, dashed))
            parts.append(_text(RIGHT, up(value) - 6, who, role, anchor="end"))
        else:
            words = f"{who} at {number_text(y, value)} {'↑' if value > up.high else '↓'}"
            parts.append(
                _text(RIGHT - 8, (TOP + 18 if value > up.high else BOTTOM - 10) - 16 * i, words, role, anchor="end")
            )
    return parts


def _marks(summary: RunSummary, x: str, y: str, across: Scale, up: Scale) -> list[str]:
    """Draws staircase and arrows, the markers with the front's on top, the rings of those that are tied, numbers."""
    places, sizes, pair = find_places(summary, x, y), diameters_px(summary), pair_facts(summary, x, y)
    at = {row: (across(px), up(py)) for row, (px, py) in places.items()}
    stairs = [at[row] for row in pair["rows"]["staircase"]]
    path = "".join(
        f"H{px}V{py}" if pair["shape"] == "hv" and i else f"V{py}H{px}" if i else f"M{px} {py}"
        for i, (px, py) in enumerate(stairs)
    )
    parts = [f'<path d="{path}" fill="none" stroke="{LIGHT["front"]}" stroke-width="1.5"/>'] if stairs else []
    row_of = {c.number: row for row, c in enumerate(summary.candidates)}
    for row, child in ((row, summary.candidates[row]) for row in at if summary.candidates[row].kind == "pruned"):
        parent = row_of.get(child.parent) if child.parent is not None else None
        if parent in at:
            parts += _arrow(at[parent], at[row], sizes[row] / 2)
    for row in sorted(at, key=lambda r: (summary.candidates[r].number in summary.front, -sizes[r])):
        candidate, (px, py) = summary.candidates[row], at[row]
        role = (
            "winner"
            if candidate.number == summary.winner
            else "front"
            if candidate.number in summary.front
            else "other"
        )
        parts.append(_marker(px, py, sizes[row] / 2, role, candidate.kind))
        if candidate.kind == "published":
            parts.append(_text(px, round(py + sizes[row] / 2 + 12, 1), str(candidate.details.get("system")), size=11))
        if candidate.tied_with and candidate.number in summary.front:
            parts.append(f'<circle cx="{px}" cy="{py}" r="{sizes[row] / 2 + 4}" fill="none" stroke="{LIGHT["ink"]}"/>')
    vertical, horizontal = pair["textposition"].split()
    for row in pair["rows"]["labels"]:
        (px, py), away = at[row], 0.35 * sizes[row] + 5
        text_y = round(py - away if vertical == "top" else py + away + 9, 1)
        text_x = round(px - away if horizontal == "left" else px + away, 1)
        anchor = "end" if horizontal == "left" else "start"
        parts.append(_text(text_x, text_y, str(summary.candidates[row].number), "ink", anchor=anchor))
    return parts


def _legend(summary: RunSummary) -> list[str]:
    complete = [c for c in summary.candidates if is_drawn(c)]
    shown = {
        "chosen": ("winner", "search", summary.winner is not None),
        "on the front": ("front", "search", bool(summary.front)),
        "dominated": ("other", "search", any(c.number not in summary.front for c in complete)),
        "published": ("other", "published", any(c.kind == "published" for c in complete)),
        "trained longer": ("other", "trained", any(c.kind == "trained" for c in complete)),
        "pruned": ("other", "pruned", any(c.kind == "pruned" for c in complete)),
    }
    parts, at = [], LEFT
    for words, (role, kind, present) in shown.items():
        if present:
            parts += [_marker(at + 6, 496, 6, role, kind), _text(at + 18, 500, words, anchor="start")]
            at += 36 + 7 * len(words)
    if any("activations_m" in c.numbers for c in complete):
        parts.append(_text(RIGHT, 500, "area of a marker: activations", anchor="end"))
    return parts


def _marker(x: float, y: float, radius: float, role: str, kind: str) -> str:
    """A circle; of another training a diamond, of a published network a triangle, of a pruned one one on its point."""
    look = f'fill="{LIGHT[role]}" stroke="{LIGHT["paper"]}"'
    if kind == "published":
        width = 1.8 * radius
        return f'<path d="M{x} {y - radius:.1f}l{width / 2:.1f} {width:.1f}h-{width:.1f}z" {look}/>'
    if kind == "pruned":
        width = 1.8 * radius
        return f'<path d="M{x} {y + radius:.1f}l{width / 2:.1f} -{width:.1f}h-{width:.1f}z" {look}/>'
    if kind == "trained":
        return f'<path d="M{x} {y - radius:.1f}l{radius} {radius}l-{radius} {radius}l-{radius} -{radius}z" {look}/>'
    return f'<circle cx="{x}" cy="{y}" r="{radius}" {look}/>'


def _arrow(start: tuple[float, float], end: tuple[float, float], radius: float) -> list[str]:
    """A line with a head that stops short of the marker at its end; nothing where the two markers touch."""
    (x1, y1), (x2, y2) = start, end
    length = math.hypot(x2 - x1, y2 - y1)
    if length <= radius + HEAD_PX:
        return []
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    tip, base = (x2 - ux * radius, y2 - uy * radius), (x2 - ux * (radius + HEAD_PX), y2 - uy * (radius + HEAD_PX))
    corners = [tip, *((base[0] + s * uy * HEAD_PX / 2.5, base[1] - s * ux * HEAD_PX / 2.5) for s in (1, -1))]
    head = "L".join(f"{px:.1f} {py:.1f}" for px, py in corners)
    line = _line(x1, y1, round(base[0], 1), round(base[1], 1), "other")
    return [line, f'<path d="M{head}z" fill="{LIGHT["other"]}"/>']


def _line(x1: float, y1: float, x2: float, y2: float, role: str, more: str = "") -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LIGHT[role]}" {more}/>'


def _text(
    x: float, y: float, words: str, role: str = "muted", *, anchor: str = "middle", size: int = 13, weight: int = 400
) -> str:
    look = f'fill="{LIGHT[role]}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" {look}>{escape(words)}</text>'
