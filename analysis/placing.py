"""Where candidates lie on a pair of measured numbers, what they are compared to there, and which of them are best."""

from html import escape
from typing import Any

import numpy as np

from ..search.candidate import Candidate
from ..search.front import non_dominated
from .colours import LIGHT
from .summary import RunSummary
from .wording import finite, label, lower_is_better, measured

Baseline = tuple[float, str, str]  # value, name, role of its colour
Places = dict[int, tuple[float, float]]  # of rows, in the units of the axes

LARGEST_PX, SMALLEST_PX = 27.0, 5.0  # diameters of markers; the area between is proportional to activations
CROWD = 150  # with more markers than this they shrink
PLOT_PX = (900, 400)  # what labels are spaced for
TEXT_PX = np.array([20, 13])  # of a label


def axis_facts(summary: RunSummary, name: str) -> dict[str, Any]:
    """Returns a number's values and 95% intervals by row, its axis title, and its lines as an x or as a y axis.

    Controls have no value here: they show what pruning is worth and are no candidates for the front.
    """
    of_candidates = [None if c.kind == "control" else measured(c, name) for c in summary.candidates]
    values = [*of_candidates, finite(summary.reference.get("numbers", {}).get(name))]
    arms = [_arms(c, name) for c in summary.candidates] + [(0.0, 0.0)]
    any_interval = any(arm != (0.0, 0.0) for arm in arms)
    title = f"{label(name, summary.reference_name)}  ·  {'lower' if lower_is_better(name) else 'higher'} is better"
    return {
        "title": escape(title),
        "values": values,
        "plus": [upper for _, upper in arms] if any_interval else [],
        "minus": [lower for lower, _ in arms] if any_interval else [],
        "lines": {direction: _lines(baselines(summary, name), direction) for direction in ("x", "y")},
    }


def _arms(candidate: Candidate, name: str) -> tuple[float, float]:
    """Returns how far the interval reaches below and above the value; nothing where there is none."""
    value = measured(candidate, name)
    low, high = (finite(bound) for bound in candidate.intervals.get(name, (None, None)))
    if value is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, value - low), max(0.0, high - value)


def baselines(summary: RunSummary, name: str) -> list[Baseline]:
    """Returns what a number is compared to, as (value, name, role): the reference network, and bicubic for PSNR."""
    reference = finite(summary.reference.get("numbers", {}).get(name))
    bicubic_db = finite(summary.bicubic_psnr_db) if name == "psnr_db" else None
    known = [(reference, summary.reference_name, "reference"), (bicubic_db, "bicubic", "bicubic")]
    return [(value, who, role) for value, who, role in known if value is not None]


def _lines(compared: list[Baseline], direction: str) -> dict[str, list[dict[str, Any]]]:
    """Returns a dashed line right across the plot for each baseline, and its name beside it, inside the plot."""
    across = "y" if direction == "x" else "x"
    shapes, annotations = [], []
    for value, who, role in compared:
        ends = {f"{direction}0": value, f"{direction}1": value, f"{across}0": 0, f"{across}1": 1}
        where = {f"{direction}ref": direction, f"{across}ref": "paper"}
        line = {"color": LIGHT[role], "width": 1.5, "dash": "dash"}
        shapes.append({"type": "line", "layer": "above", "line": line, **where, **ends})
        annotations.append(
            {
                "text": escape(who),
                "font": {"color": LIGHT[role], "size": 12},
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "top" if direction == "x" else "bottom",
                **where,
                direction: value,
                across: 1,
            }
        )
    return {"shapes": shapes, "annotations": annotations}


def pair_facts(summary: RunSummary, x: str, y: str) -> dict[str, Any]:
    """Returns what depends on both axes: the rows and shape of the staircase, and the rows named beside points."""
    signs = [1 if lower_is_better(name) else -1 for name in (x, y)]
    places = find_places(summary, x, y)
    members = [i for i in places if summary.candidates[i].number in summary.front]
    best = non_dominated(np.array([places[i] for i in members], dtype=np.float64).reshape(-1, 2) * signs)
    return {
        "rows": {
            "staircase": sorted((members[k] for k in np.flatnonzero(best)), key=lambda i: places[i]),
            "labels": _labelled(summary, places, x, y, signs),
        },
        "shape": "hv" if signs[0] > 0 else "vh",
        # Towards the better corner of a member there is no other: nothing dominates it.
        "textposition": f"{'top' if signs[1] < 0 else 'bottom'} {'left' if signs[0] > 0 else 'right'}",
    }


def find_places(summary: RunSummary, x: str, y: str) -> Places:
    """Returns where the rows of complete candidates lie on a pair of axes, for those that have both numbers."""
    of_row = {i: (measured(c, x), measured(c, y)) for i, c in enumerate(summary.candidates) if is_drawn(c)}
    return {i: (px, py) for i, (px, py) in of_row.items() if px is not None and py is not None}


def is_drawn(candidate: Candidate) -> bool:
    """Tells whether a candidate has a marker on the front: all that are complete, but for controls."""
    return candidate.state == "complete" and candidate.kind != "control"


def _labelled(summary: RunSummary, places: Places, x: str, y: str, signs: list[int]) -> list[int]:
    """Chooses rows of the front whose numbers can be written without touching a marker or one another.

    The winner always has its number. The plot is taken to be that on a wide screen; for another it is a guess.
    """
    if not places:
        return []
    radii_px = np.array(diameters_px(summary))[list(places)] / 2
    markers_px = _pixels(summary, places, x, y)
    taken_px: list[Any] = []
    rows: list[int] = []
    members = [(k, i) for k, i in enumerate(places) if summary.candidates[i].number in summary.front]
    for k, i in sorted(members, key=lambda m: summary.candidates[m[1]].number != summary.winner):
        text_px = markers_px[k] - np.array(signs) * (0.7 * radii_px[k] + 8)
        covered = np.linalg.norm(markers_px - text_px, axis=1) < radii_px + 8
        covered[k] = False
        apart = all(np.any(np.abs(text_px - other) > TEXT_PX) for other in taken_px)
        if summary.candidates[i].number == summary.winner or (apart and not covered.any()):
            taken_px.append(text_px)
            rows.append(i)
    return rows


def _pixels(summary: RunSummary, places: Places, x: str, y: str) -> Any:
    """Returns where markers are drawn, `[N, 2]` in pixels from the lower left, when the baselines are in view."""
    points = np.array(list(places.values()), dtype=np.float64)
    pixels = np.empty_like(points)
    for column, (name, side_px) in enumerate(zip((x, y), PLOT_PX, strict=True)):
        shown = [*points[:, column], *(value for value, _, _ in baselines(summary, name))]
        low, high = min(shown), max(shown)
        pixels[:, column] = (points[:, column] - low) / ((high - low) or 1.0) * side_px
    return pixels


def diameters_px(summary: RunSummary) -> list[float]:
    """Returns marker diameters by row, their areas proportional to activations down to the smallest."""
    areas = [measured(c, "activations_m") or 0.0 for c in summary.candidates]
    drawn = [area for area, c in zip(areas, summary.candidates, strict=True) if is_drawn(c)]
    largest = max(drawn, default=0.0) or 1.0
    widest_px = LARGEST_PX * min(1.0, (CROWD / max(len(drawn), 1)) ** 0.3)
    areas.append(finite(summary.reference.get("numbers", {}).get("activations_m")) or 0.0)
    return [round(min(max(widest_px * (a / largest) ** 0.5, SMALLEST_PX), 2 * LARGEST_PX), 1) for a in areas]
