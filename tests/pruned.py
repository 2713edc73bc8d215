"""Runs with pruned children and controls, made by hand, for the tests of what the report shows of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from paretosr.analysis.summary import RunSummary
from paretosr.search.candidate import Candidate
from paretosr.spaces import Architecture, Block, Design

DESIGN = Design(Architecture(16, (Block("imdb"),)))

PATH = (
    {"stage": "start", "psnr_db": 27.4, "latency_ratio": 1.0, "flops": 1.0, "activations": 1.0, "parameters": 1.0},
    {"stage": "cut", "psnr_db": 27.0, "estimated_ratio": 0.8, "flops": 0.7, "activations": 0.9, "parameters": 0.7},
    {"stage": "cut", "psnr_db": 26.8, "estimated_ratio": 0.66, "flops": 0.5, "activations": 0.8, "parameters": 0.5},
    {"stage": "recovered", "psnr_db": 27.3, "flops": 0.48, "activations": 0.79, "parameters": 0.47},
)
KEPT = (
    {"name": "head", "outputs": [32, 32], "inputs": [3, 3]},
    {"name": "blocks.0.conv1", "outputs": [16, 32], "inputs": [16, 32]},
    {"name": "blocks.0.conv2", "outputs": [32, 32], "inputs": [16, 32]},
)


def network(number: int, psnr_db: float, ratio: float, **more: Any) -> Candidate:
    numbers = {"psnr_db": psnr_db, "latency_ratio": ratio, "activations_m": 10.0 + number}
    return Candidate(number, DESIGN, "complete", numbers=numbers, **more)


def child(number: int, strategy: str, psnr_db: float, ratio: float | None = 0.64, **more: Any) -> Candidate:
    """A child of network 1; `more` goes into the details, but for what a candidate itself has."""
    own = {key: more.pop(key) for key in ("parent", "kind", "tied_with") if key in more}
    pruning: dict[str, Any] = {
        "strategy": strategy,
        "criterion": "taylor_gate",
        "schedule": "gradual",
        "budget": {"latency_ratio": 0.65},
        "repeat": 0,
        "control": "",
        "path": [dict(step) for step in PATH],
        "kept": [dict(layer) for layer in KEPT],
        "verified": "compact equals masked (float64 1.1e-15)",
        "estimated_ratio": 0.66,
        "teacher": 0.5,
        "steps": {"pruning": 120, "recovery": 1300},
        **({} if ratio is None else {"latency_ratio": ratio}),
        **more,
    }
    kind = own.pop("kind", "control" if pruning["control"] else "pruned")
    numbers = {"psnr_db": psnr_db, "latency_ratio": 0.5 * (ratio or 1.0), "activations_m": 8.0}
    details = {"pruning": pruning}
    return Candidate(number, DESIGN, "complete", kind, own.pop("parent", 1), "", numbers, details=details, **own)


def run(*children: Candidate, **changed: Any) -> RunSummary:
    """Two networks, 1 the better, a longer training of it, and the children."""
    found = (network(0, 27.1, 0.2), network(1, 27.4, 0.5), network(2, 27.5, 0.5, kind="trained", parent=1))
    summary = RunSummary(
        name="demo",
        candidates=(*found, *children),
        objectives=("psnr_db", "latency_ratio"),
        front=(0, 1),
        winner=1,
        reference={"name": "imdn", "numbers": {"latency_ratio": 1.0}},
        bicubic_psnr_db=26.58,
        seconds=60.0,
    )
    return dataclasses.replace(summary, **changed)


def usual(**changed: Any) -> RunSummary:
    """Two pruned children, 3 of them on the front and chosen, a control, and a child that failed."""
    return run(
        child(3, "group", 27.30),
        child(4, "free", 27.20, 0.70),
        child(5, "group", 27.15, control="scratch"),
        Candidate(6, DESIGN, "failed", "pruned", 1, reason="diverged"),
        **{"front": (0, 1, 3), "winner": 3, **changed},
    )


def repeats(start: int, strategy: str, psnrs_db: Sequence[float], ratio: float = 0.64, **more: Any) -> list[Candidate]:
    return [child(start + i, strategy, psnr_db, ratio, repeat=i, **more) for i, psnr_db in enumerate(psnrs_db)]
