"""From a run to exported networks: which candidate, with what said about it, and a recipe that trains it again."""

from pathlib import Path
from typing import Any

import yaml

from ..analysis.export import by_seed, export
from ..search.candidate import Candidate
from ..search.study import Record
from ..spaces import InputError
from .folder import RunFolder
from .recipe import Recipe

EXPORTED = {"architecture.json", "plan.json", "model.safetensors", "model.onnx", "train.yaml", "card.md"}
DEMO_NOTE = "Trained for a short while on a few demo photos: its PSNR says nothing about the quality it could reach."


def export_candidate(folder: RunFolder, recipe: Recipe, record: Record, candidate: Candidate, target: Path) -> float:
    """Exports one trained candidate of a run to `target`; gives the largest relative difference of its ONNX form."""
    if candidate.state != "complete" or "psnr_db" not in candidate.numbers:
        raise InputError(f"{folder.path}: candidate {candidate.number} was not trained to its end ({candidate.state})")
    refuse_foreign(target)
    first = record.attribute("first") or {}
    # A longer training may have had other training images than the run.
    data = {**first.get("data", {}), **candidate.details.get("data_facts", {})}
    facts = {
        "run": folder.facts()["name"],
        "how it was found": candidate.origin or candidate.kind,
        "training": f"{candidate.details['steps']} steps, seed {candidate.details['seed']}",
        "PSNR of these very weights": f"{by_seed(candidate)[0]:.3f} dB (RGB, uint8, 4 pixels cut on each side)",
        "trained on": f"{data.get('label', '?')}, hash {data.get('hash', {}).get('train', '?')[:12]}",
        "judged on": ", ".join(data.get("validation_names", [])[:10]),
        "latency reference": recipe.reference,
        "latency protocol": recipe.make_protocol().label(),
    }
    return export(
        candidate,
        folder.candidate(candidate.number) / "model.safetensors",
        target,
        train_yaml=train_yaml(recipe, candidate),
        facts=facts,
        note=DEMO_NOTE if data.get("embedded") else "",
    )


def refuse_foreign(target: Path) -> None:
    """InputError where an export to `target` would take the place of anything but an earlier export."""
    if target.exists():
        foreign = [target.name] if not target.is_dir() else sorted({file.name for file in target.iterdir()} - EXPORTED)
        if foreign:
            raise InputError(f"{target}: holds other files ({foreign[0]}); move them away, or export to another folder")


def train_yaml(recipe: Recipe, candidate: Candidate) -> str:
    """A recipe that trains exactly this network, beside its architecture.json, as this run did."""
    whole = recipe.model_dump(mode="json")
    training: dict[str, Any] = {**whole["train"], **dict(candidate.details.get("training", {}))}
    content = {
        "description": f"Trains candidate {candidate.number} again: {candidate.summary}",
        "seed": candidate.details["seed"],
        "device": candidate.details.get("device", whole["device"]),
        "data": {**whole["data"], **{k: v for k, v in candidate.details.get("data", {}).items() if k != "patch"}},
        "network": "architecture.json",
        "objectives": ["psnr_db"],
        "train": {**training, "steps": candidate.details["steps"], "fit": False},
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def chosen(record_candidates: tuple[Candidate, ...], number: int, folder: RunFolder) -> Candidate:
    """The candidate of that number; InputError names the numbers there are."""
    for candidate in record_candidates:
        if candidate.number == number:
            return candidate
    last = len(record_candidates) - 1
    raise InputError(f"{folder.path}: has no candidate {number}; it has 0 to {last}" if last >= 0 else "it has none")
