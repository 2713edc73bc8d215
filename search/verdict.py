"""What comes of a search: the front, its confirmation by further timings and seeds, and the winner."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..proxies.work import TimeWork, TrainWork
from .candidate import ON_FRONT, Candidate
from .engine import Engine, Finished, Interrupted, Task, complete
from .first import hypervolume_reference
from .front import dominates, hypervolume, knee, non_dominated
from .objectives import OBJECTIVES, Limit, broken, matrix
from .settings import Settings, training_seed, with_timing
from .study import Record

PSNR_DOUBT_DB = 0.05  # before further seeds are trained, PSNR of one seed is taken to be known to about this
TIMED_TOGETHER = 12  # networks in one interleaved timing


def eligible(candidates: Sequence[Candidate], objectives: Sequence[str], limits: Sequence[Limit]) -> list[Candidate]:
    """The candidates that may stand on the front: trained as all of them, all objectives known, no limit broken."""
    return [
        c
        for c in candidates
        if c.state == "complete"
        and c.kind in ON_FRONT
        and all(name in c.numbers for name in objectives)
        and broken(limits, c.numbers) is None
    ]


def on_front(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    """The candidates that no other one dominates."""
    keep = non_dominated(matrix(candidates, objectives))
    return [c for c, kept in zip(candidates, keep, strict=True) if kept]


def bounds(c: Candidate, objectives: Sequence[str], doubt_db: float) -> tuple[np.ndarray, np.ndarray]:
    """The best and the worst that the candidate may be within its intervals, `[D]` each, lower is better."""
    best, worst = [], []
    for name in objectives:
        doubt = doubt_db if name == "psnr_db" else 0.0
        low, high = c.intervals.get(name, (c.numbers[name] - doubt, c.numbers[name] + doubt))
        ends = sorted((OBJECTIVES[name].sign * low, OBJECTIVES[name].sign * high))
        best.append(ends[0])
        worst.append(ends[1])
    return np.array(best), np.array(worst)


def contenders(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    """The front's members, and those whose intervals reach it: nobody's worst dominates their best."""
    if not candidates:
        return []
    ends = np.array([bounds(c, objectives, PSNR_DOUBT_DB) for c in candidates])  # [N, 2, D]
    best, worst = ends[:, 0], ends[:, 1]
    no_worse, better = worst[None] <= best[:, None], worst[None] < best[:, None]
    beaten = np.any(np.all(no_worse, axis=2) & np.any(better, axis=2), axis=1)
    return [c for c, out in zip(candidates, beaten, strict=True) if not out]


Retrain = Callable[[Candidate, int, str], TrainWork]  # the candidate's own training with another seed, to a folder


def confirm(
    settings: Settings,
    record: Record,
    engine: Engine,
    folder_of: Callable[[int], Path],
    on_change: Callable[[], None],
    retrain: Retrain | None = None,
) -> bool:
    """Times the contenders again, together, and trains them with further seeds; each result is recorded as it comes.

    retrain: how one is trained again; by default from new weights, as those of the search are. What an earlier life of
    the run has recorded is not done again; False where nothing was left to do. Raises Interrupted on a stop.
    """
    training = replace(settings.training, steps=record.attribute("first")["steps"])

    def anew(c: Candidate, seed: int, folder: str) -> TrainWork:
        return TrainWork(c.design, training, settings.data, seed, settings.device, folder)

    again = retrain or anew
    chosen = contenders(eligible(record.candidates, settings.objectives, settings.limits), settings.objectives)
    tasks: list[Task] = []
    if settings.needs("timed"):
        # In groups, so that no round of the interleaving gets long; each group has the reference among it.
        for at in range(0, len(chosen), TIMED_TOGETHER):
            group = {str(c.number): c.design for c in chosen[at : at + TIMED_TOGETHER]}
            work = TimeWork(group, settings.reference[1], settings.protocol, settings.device)
            tasks.append(Task(f"confirm/timing/{'+'.join(group)}", work, settings.task_minutes))
    if settings.needs("trained"):
        for c in chosen:
            for repeat in range(1, settings.confirm_seeds + 1):
                seed, folder = training_seed(settings.seed, c.number, repeat), folder_of(c.number) / f"seed{repeat}"
                work = again(c, seed, str(folder))
                tasks.append(Task(f"confirm/training/{c.number}/{repeat}", work, settings.task_minutes))
    done = record.attribute("confirmed") or {}
    missing = [task for task in tasks if task.name not in done]
    names = {str(c.number): names_of(c, tasks) for c in chosen}
    if record.attribute("contenders") != names:
        record.set_attribute("contenders", names)
    if not missing:
        return False
    for finished in complete(engine, missing, on_change):
        if finished.failure or finished.numbers is not None:
            done = {**done, finished.task.name: _kept(finished)}
            record.set_attribute("confirmed", done)
            if isinstance(finished.task.work, TrainWork):
                (Path(finished.task.work.folder) / "state.pt").unlink(missing_ok=True)
    if engine.stopping:
        raise Interrupted
    return True


def names_of(c: Candidate, tasks: Sequence[Task]) -> list[str]:
    """The tasks that confirm a candidate."""
    own = f"confirm/training/{c.number}/"
    timings = [task.name for task in tasks if isinstance(task.work, TimeWork) and str(c.number) in task.work.designs]
    return [*timings, *(task.name for task in tasks if task.name.startswith(own))]


def _kept(finished: Finished) -> dict[str, Any]:
    """What is recorded of a task: why it failed, or its numbers without samples and curves, which would only swell."""
    numbers = dict(finished.numbers or {})
    if finished.failure:
        return {"failure": finished.failure}
    if "psnr_db" in numbers and not math.isfinite(numbers["psnr_db"]):
        return {"failure": f"PSNR is {numbers['psnr_db']}"}
    if "psnr_db" in numbers:
        return {"psnr_db": numbers["psnr_db"], "seed": numbers["seed"]}
    return {
        name: {key: value for key, value in timing.items() if not key.endswith("samples_ms")}
        for name, timing in numbers.items()
    }


def confirmed(record: Record) -> list[Candidate]:
    """All candidates, those confirmed with their final numbers: mean PSNR over seeds, joint timing, intervals.

    One of which a timing or a training failed keeps what it has, and is not called confirmed.
    """
    done: Mapping[str, Any] = record.attribute("confirmed") or {}
    candidates = {c.number: c for c in record.candidates}
    wanted: Mapping[str, list[str]] = record.attribute("contenders") or {}
    if any(name not in done for names in wanted.values() for name in names):
        return list(record.candidates)  # not before all of them can be compared under the same conditions
    chosen = [int(number) for number in wanted]
    psnr = {n: _psnrs(candidates[n], done) for n in chosen}
    spread_db, freedom = pooled(list(psnr.values()))
    reference = (record.attribute("first") or {}).get("reference", {})
    reference_ms = reference.get("numbers", {}).get("latency_ms", math.nan)
    groups = [group for name, group in done.items() if "/timing/" in name and "failure" not in group]
    timings = {number: timing for group in groups for number, timing in group.items()}
    for number in chosen:
        c = candidates[number]
        numbers, intervals = dict(c.numbers), dict(c.intervals)
        if str(number) in timings:
            numbers, intervals = with_timing(c, timings[str(number)], reference_ms, reference.get("name", ""))
        if "psnr_db" in numbers:
            numbers["psnr_db"] = float(np.mean(psnr[number]))
            if freedom:
                half = float(stats.t.ppf(0.975, freedom)) * spread_db / math.sqrt(len(psnr[number]))
                intervals["psnr_db"] = (numbers["psnr_db"] - half, numbers["psnr_db"] + half)
        details = {**c.details, "psnr_by_seed_db": psnr[number]}
        if str(number) in timings:
            details["timing_wide"] = timings[str(number)]["wide"]
        failures = [done[name]["failure"] for name in wanted[str(number)] if "failure" in done[name]]
        if failures:
            details["unconfirmed"] = failures[0]
        candidates[number] = replace(c, numbers=numbers, intervals=intervals, confirmed=not failures, details=details)
    return list(candidates.values())


def _psnrs(c: Candidate, done: Mapping[str, Any]) -> list[float]:
    """PSNR of every seed that candidate was trained with, the search's own first."""
    own = f"confirm/training/{c.number}/"
    further = [result["psnr_db"] for name, result in done.items() if name.startswith(own) and "psnr_db" in result]
    return [c.numbers["psnr_db"], *further] if "psnr_db" in c.numbers else further


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The standard deviation within groups, pooled over them, and its degrees of freedom (0: not known)."""
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    squares = sum(float(np.sum((np.array(group) - np.mean(group)) ** 2)) for group in groups if len(group) > 1)
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


@dataclass(frozen=True)
class Verdict:
    """All candidates with their final numbers, the front by rising latency (or first objective), and the winner."""

    candidates: tuple[Candidate, ...]
    front: tuple[int, ...]
    winner: int | None
    note: str = ""


@dataclass(frozen=True)
class WinnerRule:
    """`knee`, or the best by `objective` among the candidates that keep `limit`."""

    name: str = "knee"
    limit: Limit | None = None

    def __str__(self) -> str:
        return self.name if self.limit is None else f"{self.name} with {self.limit}"


RANKED_BY = {"fastest": ("latency_ratio", "latency_ms", "activations_m"), "best_psnr": ("psnr_db",)}


def verdict(record: Record, objectives: Sequence[str], limits: Sequence[Limit], rule: WinnerRule) -> Verdict:
    """The front as far as it is known: of the confirmed candidates once there are any, of all of them before.

    Two members are tied if, within the intervals, one of them may as well dominate the other; exact numbers never tie.
    """
    candidates = confirmed(record)
    fit = eligible(candidates, objectives, limits)
    final = [c for c in fit if c.confirmed]
    front = on_front(final or fit, objectives)
    ends = {c.number: bounds(c, objectives, 0.0) for c in front}
    ties = {
        a: tuple(b for b in ends if a != b and (dominates(ends[b][0], ends[a][1]) or dominates(ends[a][0], ends[b][1])))
        for a in ends
    }
    candidates = [replace(c, tied_with=ties[c.number]) if c.number in ties else c for c in candidates]
    order = matrix(front, objectives)
    by = 1 if objectives[0] == "psnr_db" and len(objectives) > 1 else 0
    numbers = [front[i].number for i in np.argsort(order[:, by], kind="stable")] if front else []
    winner, note = choose(front, objectives, rule)
    return Verdict(tuple(candidates), tuple(numbers), winner, note)


def choose(front: Sequence[Candidate], objectives: Sequence[str], rule: WinnerRule) -> tuple[int | None, str]:
    """The winner's number among the front's members, and a note where there is none."""
    if not front:
        return None, "no candidate was trained to the end within the limits"
    if rule.limit is None:
        return front[knee(matrix(front, objectives))].number, ""
    name = next(n for n in RANKED_BY[rule.name] if all(n in c.numbers for c in front))
    known = [c for c in front if rule.limit.name in c.numbers]
    keeping = [c for c in known if rule.limit.holds(c.numbers[rule.limit.name])]
    if not keeping:
        values = [c.numbers[rule.limit.name] for c in known]
        nearest = (max if rule.limit.relation == ">=" else min)(values, default=math.nan)
        return None, f"no member of the front keeps {rule.limit} (the nearest has {nearest:.4g}), so there is no winner"
    sign = OBJECTIVES[name].sign
    return min(keeping, key=lambda c: (sign * c.numbers[name], c.number)).number, ""


def hypervolume_curve(
    candidates: Sequence[Candidate], objectives: Sequence[str], limits: Sequence[Limit], first: dict[str, Any]
) -> list[tuple[int, float]]:
    """(candidates finished, hypervolume of the front so far), in order of their numbers."""
    scale = hypervolume_reference(objectives, first)
    zero = np.array([OBJECTIVES[n].sign * scale[n][0] / scale[n][1] for n in objectives])
    span = np.array([scale[n][1] for n in objectives])
    corner = np.array([0.0 if n == "psnr_db" else OBJECTIVES[n].sign * 1.0 for n in objectives])
    fit = eligible(candidates, objectives, limits)
    points = matrix(fit, objectives) / span - zero
    return [(i + 1, hypervolume(points[: i + 1], corner)) for i in range(len(points))]
