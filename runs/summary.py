"""From a run's record to what its readers see: the summary for the report, and the lines of the terminal."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from ..analysis.summary import RunSummary
from ..proxies.device import device_facts
from ..search.candidate import Candidate
from ..search.study import Record
from ..search.verdict import PSNR_DOUBT_DB, Verdict, hypervolume_curve, pooled, verdict
from .folder import RunFolder
from .recipe import Recipe

PACKAGES = ("paretosr", "torch", "optuna", "numpy", "scikit-image", "scikit-learn", "onnxruntime", "plotly")


def judged(recipe: Recipe, record: Record) -> Verdict:
    """The front and the winner as the recipe wants them."""
    return verdict(record, recipe.objectives, recipe.make_limits(), recipe.make_winner())


def summary_of(folder: RunFolder, recipe: Recipe, record: Record, result: Verdict, *, finished: bool) -> RunSummary:
    """All that the report needs."""
    facts, first = folder.facts(), record.attribute("first") or {}
    data = first.get("data", {})
    candidates = tuple(with_curve(folder, c) for c in result.candidates)
    return RunSummary(
        name=recipe.report.title or facts["name"],
        candidates=candidates,
        objectives=tuple(recipe.objectives),
        front=result.front,
        winner=result.winner,
        winner_rule=str(recipe.make_winner()),
        reference=first.get("reference", {"name": recipe.reference, "numbers": {}}),
        bicubic_psnr_db=first.get("bicubic_psnr_db", float("nan")),
        hypervolume=tuple(hypervolume_curve(record.candidates, recipe.objectives, recipe.make_limits(), first))
        if first
        else (),
        seconds=record.attribute("wall_s") or 0.0,
        machine=record.attribute("machine") or {},
        versions=record.attribute("versions") or {},
        seed=recipe.seed,
        data={**data, "hash": ", ".join(f"{role} {digest[:16]}" for role, digest in data.get("hash", {}).items())},
        training={"steps": first.get("steps"), "batch": recipe.train.batch, "patch": recipe.train.patch},
        protocol=recipe.make_protocol().label() if first.get("reference", {}).get("timing") else "",
        command=facts["command"],
        finished=finished,
        notes=notes(recipe, record, result),
    )


def with_curve(folder: RunFolder, candidate: Candidate) -> Candidate:
    """The candidate with the training curve of its file, where there is one."""
    try:
        training = json.loads((folder.candidate(candidate.number) / "training.json").read_text())
    except (OSError, ValueError):
        return candidate
    details = {**candidate.details, "psnr_per_image_db": training["psnr_per_image_db"]}
    return replace(candidate, curve=tuple((int(s), float(v)) for s, v in training["curve"]), details=details)


def notes(recipe: Recipe, record: Record, result: Verdict) -> tuple[str, ...]:
    """What a reader should know before believing a number."""
    said = []
    if result.note:
        said.append(result.note[0].upper() + result.note[1:] + ".")
    first = record.attribute("first") or {}
    steps = first.get("steps", recipe.train.steps)
    if steps < recipe.train.steps:
        said.append(
            f"Each network was trained for {steps} steps, not {recipe.train.steps}: so many fit into the minutes asked."
        )
    said.extend(f"{note[0].upper()}{note[1:]}." for note in first.get("data", {}).get("notes", []))
    wide = [str(c.number) for c in result.candidates if c.number in result.front and c.details.get("timing_wide")]
    if wide:
        said.append(f"The timing interval of candidate {', '.join(wide)} is wider than the protocol asks.")
    said.extend(
        f"Candidate {c.number} could not be confirmed: {c.details['unconfirmed']}."
        for c in result.candidates
        if "unconfirmed" in c.details
    )
    spread_db, freedom = pooled([c.details["psnr_by_seed_db"] for c in result.candidates if c.confirmed])
    if freedom and spread_db > PSNR_DOUBT_DB:
        said.append(
            f"PSNR of one network varies by {spread_db:.2f} dB (standard deviation) from training to training, more "
            f"than the {PSNR_DOUBT_DB:g} dB within which candidates near the front were trained again."
        )
    children = [c for c in result.candidates if c.kind == "pruned" and c.state == "complete"]
    said.extend(
        f"Candidate {c.number} misses its budget: {c.details['pruning']['missed']}."
        for c in children
        if "missed" in c.details["pruning"]
    )
    if children:
        more = sorted({c.details["pruning"]["steps"]["pruning"] + c.details["steps"] for c in children})
        steps_text = f"{more[0]:,}" if len(more) == 1 else f"{more[0]:,} to {more[-1]:,}"
        said.append(
            f"What was pruned has been trained for {steps_text} steps more than the network it was cut from; what the "
            "steps alone give says the control 'uncut', the unpruned network trained as long."
        )
    failed = sum(c.state == "failed" for c in result.candidates)
    if failed:
        said.append(f"{failed} candidate{'s' * (failed > 1)} failed; the table gives the reasons.")
    return tuple(said)


def machine_facts(device: str) -> dict[str, str]:
    """The device and the machine, flat."""
    # The driver's own threads say nothing about timings and trainings, whose threads stand in their records.
    return {name: str(value) for name, value in device_facts(device).items() if name != "threads"}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose version can change a number."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def front_rows(result: Verdict, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """The front as plain rows: number, the objectives' values, the network in a line."""
    by_number = {c.number: c for c in result.candidates}
    return [
        {
            "number": number,
            **{name: by_number[number].numbers[name] for name in objectives},
            "summary": by_number[number].summary,
            "tied_with": list(by_number[number].tied_with),
            "winner": number == result.winner,
        }
        for number in result.front
    ]
