"""The ladder of pruning: PSNR over measured latency, averaged over repeats, and which strategy is best there.

A *rung* is one way of pruning one network to one budget: its repeats differ in the seed alone. What the report draws
and what it says in words both come from here, so that the two cannot disagree.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..search.candidate import Candidate
from .wording import finite, listed, measured, number_text

FINE_GRAINED = ("block", "interval", "free")  # strategies that keep other channels on each side of a tensor
CONTROLS = {
    "": "",
    "scratch": "from scratch",
    "random": "random masks",
    "uniform": "uniform width",
    "uncut": "unpruned, trained as long",
}
SHARES = {
    "latency_ratio": "latency",
    "flops": "FLOPs",
    "activations": "activations",
    "parameters": "parameters",
    "channels": "channels",
}
NEAR = 0.03  # latencies that differ by no more than this share of the smaller one count as the same
CONFIDENCE = 0.95

Interval = tuple[float, float]
Way = tuple[str, str, str, float, str]  # strategy, criterion, schedule, teacher, control
Budget = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Rung:
    """The repeats of one way of pruning `parent` to one budget, averaged.

    way: strategy, criterion, schedule, weight of the teacher, control (empty for a pruned child). budget: names and
    shares of the unpruned network. numbers: the candidates. psnr_db, latency_ratio: means over those that have the
    number, the latter measured, to the unpruned network; None where none has it. interval_db, ratio_interval: 95 %
    intervals of the means, None for fewer than two repeats.
    """

    parent: int | None
    way: Way
    budget: Budget
    numbers: tuple[int, ...]
    psnr_db: float | None
    interval_db: Interval | None
    latency_ratio: float | None
    ratio_interval: Interval | None

    @property
    def strategy(self) -> str:
        """The strategy, or `not named`."""
        return self.way[0] or "not named"

    @property
    def control(self) -> str:
        """The kind of control, empty for a pruned child."""
        return self.way[4]


def is_cut(candidate: Candidate) -> bool:
    """Tells whether a candidate came of pruning: a pruned child, or a control beside one."""
    return candidate.kind in ("pruned", "control")


def pruning_of(candidate: Candidate) -> Mapping[str, Any]:
    """What is recorded of the pruning that made a candidate; empty where nothing is."""
    found = candidate.details.get("pruning")
    return found if isinstance(found, Mapping) else {}


def student_interval(values: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of a mean: mean ± t s / sqrt(n), of n - 1 degrees of freedom; None for n < 2."""
    if len(values) < 2:
        return None
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * float(np.std(values, ddof=1))
    mean, reach = float(np.mean(values)), reach / math.sqrt(len(values))
    return mean - reach, mean + reach


def rungs(candidates: Iterable[Candidate]) -> list[Rung]:
    """Averages the complete children of pruning over their repeats, in the order of their first members."""
    groups: dict[tuple[int | None, Way, Budget], list[Candidate]] = {}
    for c in candidates:
        if is_cut(c) and c.state == "complete":
            groups.setdefault((c.parent, way_of(c), budget_of(c)), []).append(c)
    return [_rung(parent, way, budget, members) for (parent, way, budget), members in groups.items()]


def _rung(parent: int | None, way: Way, budget: Budget, members: Sequence[Candidate]) -> Rung:
    psnrs_db = [value for c in members if (value := measured(c, "psnr_db")) is not None]
    ratios = [value for c in members if (value := finite(pruning_of(c).get("latency_ratio"))) is not None]
    return Rung(
        parent,
        way,
        budget,
        tuple(c.number for c in members),
        float(np.mean(psnrs_db)) if psnrs_db else None,
        student_interval(psnrs_db),
        float(np.mean(ratios)) if ratios else None,
        student_interval(ratios),
    )


def way_of(candidate: Candidate) -> Way:
    """Returns how a child was made, in all that must be equal for two of them to be repeats of one another."""
    pruning = pruning_of(candidate)
    words = [str(pruning.get(key) or "") for key in ("strategy", "criterion", "schedule")]
    # Of the network trained on without a cut there is no strategy to compare by, only the steps it was given.
    uncut = pruning.get("control") == "uncut"
    strategy, criterion, schedule = ["", "", ""] if uncut else words
    return strategy, criterion, schedule, finite(pruning.get("teacher")) or 0.0, str(pruning.get("control") or "")


def budget_of(candidate: Candidate) -> Budget:
    """Returns the budget as sorted names and shares."""
    budget = pruning_of(candidate).get("budget")
    known = budget.items() if isinstance(budget, Mapping) else ()
    return tuple(sorted((str(name), value) for name, share in known if (value := finite(share)) is not None))


def budget_text(budget: Budget) -> str:
    """Writes a budget, `latency 0.65`; an en dash for none."""
    return ", ".join(f"{SHARES.get(name, name.replace('_', ' '))} {share:.3g}" for name, share in budget) or "–"


def control_text(control: str) -> str:
    """Writes the kind of a control in words, nothing for a pruned child."""
    return CONTROLS.get(control, control)


def way_names(found: Iterable[Rung]) -> dict[Way, str]:
    """Names each way by its strategy, or its control; what else differs among those of one name is said behind it."""
    ways = list(dict.fromkeys(rung.way for rung in found))
    names = {}
    for way in ways:
        alike = [other for other in ways if (other[0], other[4]) == (way[0], way[4])]
        differing = [i for i in (1, 2, 3) if len({other[i] for other in alike}) > 1]
        more = [f"teacher {way[3]:g}" if i == 3 else str(way[i] or "–").replace("_", " ") for i in differing]
        name = control_text(way[4]) or way[0] or "not named"
        names[way] = f"{name} ({', '.join(more)})" if more else name
    return names


def sentences(candidates: Iterable[Candidate]) -> list[str]:
    """Says of every pruned network and budget which strategy came out best; one sentence each, networks in order."""
    known = [r for r in rungs(candidates) if not r.control and None not in (r.psnr_db, r.latency_ratio)]
    places = sorted({(r.parent, r.budget) for r in known}, key=lambda p: (-1 if p[0] is None else p[0], _falling(p[1])))
    return [best_sentence([r for r in known if (r.parent, r.budget) == place]) for place in places]


def _falling(budget: Budget) -> list[tuple[str, float]]:
    return [(name, -share) for name, share in budget]


def beats(a: Rung, b: Rung) -> bool:
    """Tells whether a is better than b at b's latency: its PSNR interval lies wholly above, and it is not slower.

    Not slower means at most NEAR slower. A mean without an interval may lie anywhere: it beats nothing and nothing
    beats it.
    """
    if a.interval_db is None or b.interval_db is None or a.latency_ratio is None or b.latency_ratio is None:
        return False
    return a.interval_db[0] > b.interval_db[1] and a.latency_ratio <= (1 + NEAR) * b.latency_ratio


def best_sentence(tried: Sequence[Rung]) -> str:
    """Says which of the strategies tried on one network and budget is best at this latency, or why none can be named.

    All rungs must have a PSNR and a latency; none may be a control. What the outcome means for fine-grained pruning
    is said where both fine-grained strategies and others were tried, and comes out for, against or neither.
    """
    names = way_names(tried)
    ranked = sorted(tried, key=lambda r: -(r.psnr_db or 0.0))
    unbeaten = [r for r in ranked if not any(beats(other, r) for other in ranked)]
    beaten = [r for r in ranked if r not in unbeaten]
    where = "Budget " + budget_text(tried[0].budget)
    where += f", candidate {tried[0].parent}" if tried[0].parent is not None else ""
    if len(tried) == 1:
        return f"{where}: {_said(tried[0], names)} was the only strategy tried."
    said = listed([_said(r, names) for r in unbeaten])
    if len(unbeaten) == 1:
        gap_db = (ranked[0].psnr_db or 0.0) - (beaten[0].psnr_db or 0.0)
        gap = f"{gap_db:.2f} dB above {names[beaten[0].way]}, the next"
        return f"{where}: {said} comes out best, {gap}{_meaning(tried, unbeaten)}."
    fallen = f"; behind: {', '.join(names[r.way] for r in beaten)}" if beaten else ""
    return f"{where}: {said} {_doubt(unbeaten)}{fallen}{_meaning(tried, unbeaten)}."


def _said(rung: Rung, names: Mapping[Way, str]) -> str:
    return f"{names[rung.way]} ({number_text('psnr_db', rung.psnr_db)} at {rung.latency_ratio:.2f}x)"


def _doubt(unbeaten: Sequence[Rung]) -> str:
    """Why none of several is best: their intervals meet, there are none, or more PSNR was bought with latency."""
    if any(r.interval_db is None for r in unbeaten):
        return "cannot be told apart: without repeats there is no interval"
    ratios = [r.latency_ratio or 0.0 for r in unbeaten]
    intervals = [r.interval_db for r in unbeaten if r.interval_db is not None]
    if max(low for low, _ in intervals) > min(high for _, high in intervals):
        return "lie at different latencies, those with more PSNR at the longer ones, and none is best"
    apart = max(ratios) > (1 + NEAR) * min(ratios)
    return "cannot be told apart in PSNR within their intervals" + (", though their latencies differ" if apart else "")


def _meaning(tried: Sequence[Rung], unbeaten: Sequence[Rung]) -> str:
    """What it says of fine-grained pruning; nothing where it was not tried beside something else."""
    if len({r.strategy in FINE_GRAINED for r in tried}) == 1:
        return ""
    fine = {r.strategy in FINE_GRAINED for r in unbeaten}
    side = "neither for nor against" if len(fine) == 2 else "for" if True in fine else "against"
    return f"; this speaks {side} fine-grained pruning"
