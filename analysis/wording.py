"""Numbers in words: labels, rounded values with units, durations, and the sentence that opens a report."""

import math
from collections.abc import Iterable, Sequence

from ..search.candidate import Candidate
from ..search.objectives import OBJECTIVES
from .summary import RunSummary

CHILDREN = ("trained", "pruned", "control")  # kinds that were made from another candidate, not found


def label(name: str, reference: str = "reference") -> str:
    """Returns the label of a number with its unit, `PSNR (dB)`; a number no objective describes keeps its own name."""
    return OBJECTIVES[name].label.replace("reference", reference) if name in OBJECTIVES else name


def lower_is_better(name: str) -> bool:
    """Tells the better direction of a number; what no objective describes is a cost."""
    return name not in OBJECTIVES or OBJECTIVES[name].direction == "min"


def measured(candidate: Candidate, name: str) -> float | None:
    """Returns a finite number of a candidate, or None where it was not measured."""
    return finite(candidate.numbers.get(name))


def finite(value: object) -> float | None:
    """Returns the value as a float, or None for what is missing, NaN or infinite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def measured_names(candidates: Iterable[Candidate], first: Iterable[str]) -> list[str]:
    """Lists the numbers that any of the candidates has: those of `first`, then the known ones, then others by name."""
    present = {name for c in candidates for name in c.numbers if measured(c, name) is not None}
    others = sorted(present - set(OBJECTIVES))
    return [name for name in dict.fromkeys([*first, *OBJECTIVES, *others]) if name in present]


def number_text(name: str, value: float | None, *, with_unit: bool = True) -> str:
    """Rounds a number as its unit deserves: `27.41 dB`, `0.462x`, `12.3 M`, `37`; an en dash stands for none."""
    if value is None:
        return "–"
    unit = OBJECTIVES[name].unit if name in OBJECTIVES else ""
    if unit == "dB":
        digits = f"{value:.2f}"
    elif not unit and float(value).is_integer():
        digits = f"{value:,.0f}"
    else:
        digits = significant(value)
    return digits if not with_unit or not unit else f"{digits}{'' if unit == 'x' else ' '}{unit}"


def significant(value: float, figures: int = 3) -> str:
    """Rounds to so many significant figures without an exponent; thousands stay whole: `0.0462`, `12.3`, `1,520`."""
    if value == 0:
        return "0"
    decimals = figures - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(decimals, 0), 9)}f}"


def interval_text(name: str, interval: tuple[float, float] | None) -> str:
    """Writes a 95% interval without its unit, `27.35 – 27.47`, or nothing where there is none."""
    if interval is None or finite(interval[0]) is None or finite(interval[1]) is None:
        return ""
    return " – ".join(number_text(name, bound, with_unit=False) for bound in interval)


def duration_text(seconds: float) -> str:
    """Writes a duration in its two largest units: `48 s`, `5 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    start = next((i for i, (amount, _) in enumerate(parts) if amount), 3)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[start : start + 2] if amount or unit == "s")


def counted(amount: int, noun: str) -> str:
    """Writes an amount with its noun, `1 network` or `16 networks`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Joins words as a sentence does: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def headline(summary: RunSummary) -> str:
    """Says the outcome of a run in one sentence made of its numbers.

    "Candidate 12: 27.41 dB, 0.46x the latency of imdn, 0.83 dB above bicubic; 16 networks, 5 min 12 s, 2 cores"
    """
    winner = summary.candidate(summary.winner)
    tail = ", ".join([_networks(summary), duration_text(summary.seconds), *_hardware(summary.machine)])
    return f"{_outcome(summary, winner)}; {tail}" if winner else f"No network was chosen; {tail}"


def _outcome(summary: RunSummary, winner: Candidate) -> str:
    psnr_db, ratio = measured(winner, "psnr_db"), measured(winner, "latency_ratio")
    bicubic_db = finite(summary.bicubic_psnr_db)
    parts = [] if psnr_db is None else [number_text("psnr_db", psnr_db)]
    if ratio is not None:
        rounded = significant(ratio, 2) if ratio < 0.1 else f"{ratio:,.2f}"
        parts.append(f"{rounded}x the latency of {summary.reference_name}")
    else:
        costs = [n for n in summary.objectives if n != "psnr_db" and measured(winner, n) is not None]
        parts += [_named(name, measured(winner, name)) for name in costs[:1]]
    if psnr_db is not None and bicubic_db is not None:
        gain_db = psnr_db - bicubic_db
        parts.append(f"{abs(gain_db):.2f} dB {'above' if gain_db >= 0 else 'below'} bicubic")
    return f"Candidate {winner.number}: {', '.join(parts)}" if parts else f"Candidate {winner.number}"


def _named(name: str, value: float | None) -> str:
    return f"{number_text(name, value)} {label(name).split(' (')[0].lower()}"


def _networks(summary: RunSummary) -> str:
    trained = sum(c.kind not in CHILDREN for c in summary.complete)
    cut = sum(c.kind == "pruned" for c in summary.complete)
    if trained:
        return counted(trained, "network") + (f" and {cut} pruned from them" if cut else "")
    if cut:
        return counted(cut, "pruned network")
    return f"none of {counted(sum(c.kind not in CHILDREN for c in summary.candidates), 'candidate')} trained"


def _hardware(machine: dict[str, str]) -> list[str]:
    if machine.get("gpu"):
        return [str(machine["gpu"])]
    cores = str(machine.get("cores", ""))
    return [counted(int(cores), "core")] if cores.isdigit() else []
