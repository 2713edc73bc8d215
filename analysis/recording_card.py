"""The card of a recording: what was recorded and how, and what its numbers are worth."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..search.recording import Recorded, Recording
from ..search.verdict import pooled
from .correlation import Correlation, partial_rank_correlation, rank_correlation

COSTS = ("latency_ratio", "activations_m")


def card(recording: Recording, name: str, command: str) -> str:
    """The card as Markdown."""
    networks = list(recording.networks.values())
    facts, repeated = recording.facts, [n for n in networks if len(n.trainings) > 1]
    first, recipe = facts.get("first", {}), facts.get("recipe", {})
    machines = dict.fromkeys(map(_named, facts.get("machines") or [facts.get("machine", {})]))
    data, train = first.get("data", {}), recipe.get("train", {})
    timed = [n for n in networks if "latency_ratio" in n.numbers]
    rungs = ", ".join(f"{steps:,}" for steps in recording.rungs)
    how = ", ".join(f"{key} {value}" for key, value in train.items() if key != "steps")
    lines = [
        f"# Recording `{name}`",
        "",
        f"{len(networks)} different networks, each trained for {recording.rungs[-1]:,} steps and measured after "
        f"{rungs}; {len(repeated)} of them with {max((len(n.trainings) for n in networks), default=0)} seeds. "
        f"`paretosr simulate` replays it, `paretosr proxies` ranks by it.",
        "",
        "| | |",
        "|---|---|",
        f"| made by | `{command}` |",
        "| space | `recipe.space` of `recording.json` |",
        f"| training | Adam, {how}; the learning rate's schedule is that of the whole training |",
        f"| images | {data.get('label', '')}: {data.get('train_images', '?')} to train, "
        f"{data.get('validation_images', '?')} to judge; hash {str(data.get('hash', {}).get('train', ''))[:12]} |",
        f"| PSNR | RGB, rounded to 8 bits, 4 pixels cut on each side; MATLAB bicubic has "
        f"{first.get('bicubic_psnr_db', math.nan):.3f} dB |",
        f"| latency | {_latency(recording, timed)} |",
        f"| trained on | {', '.join(machines)}; one thread a training |",
        *([f"| failed | {said} |"] if (said := failures(recording).replace("|", "\\|")) else []),
        f"| versions | {', '.join(f'{k} {v}' for k, v in facts.get('versions', {}).items())} |",
        "",
        "## What its numbers are worth",
        "",
        *_ranks(recording, networks),
        "",
        *_between(recording, networks),
        "",
        *_seeds(recording, repeated),
        "",
        "## Limits",
        "",
        "Small networks, small patches, few images, a short training: rankings of samplers and schedulers may be read "
        "off it, with its noise in them; nothing about the quality of a network. `train_s` was measured on a machine "
        "that did other work, too, so simulated seconds are rough, while steps are exact.",
        "",
    ]
    return "\n".join(lines)


def failures(recording: Recording) -> str:
    """How much failed, and why the first of it did, in a line; empty where nothing did."""
    failed = recording.facts.get("failed", [])
    if not failed:
        return ""
    network, what, reason = (failed[0][key] for key in ("network", "what", "reason"))
    return f"{len(failed)} failed and left out, the first of them {what} of {network}: {reason}"


def _named(machine: Mapping[str, str]) -> str:
    return machine.get("gpu") or machine.get("cpu", "not known")


def _latency(recording: Recording, timed: Sequence[Recorded]) -> str:
    if not timed:
        return "not measured yet"
    reference = recording.facts["first"]["reference"]
    protocol = recording.facts["recipe"].get("latency", {})
    words = ", ".join(f"{key} {value}" for key, value in protocol.items())
    place, reference_ms = _named(recording.facts.get("machine", {})), reference["numbers"].get("latency_ms")
    took = "" if reference_ms is None else f" ({reference_ms:.1f} ms)"
    return f"of {len(timed)}, timed on {place} beside {reference['name']}{took}, untrained; {words}"


def _ranks(recording: Recording, networks: Sequence[Recorded]) -> list[str]:
    """How well PSNR at each rung ranks the networks by their PSNR at the end."""
    curves = np.array([n.trainings[0].psnr_db for n in networks])
    given, words = _costs(networks)
    lines = [
        "Spearman's rank correlation of PSNR at a rung with PSNR at the end, with its 95% bootstrap interval: over all "
        f"networks, and given {words} (what early PSNR says beyond the size of a network).",
        "",
        f"| steps | PSNR (dB), median | overall | given {words} |",
        "|---:|---:|---:|---:|",
    ]
    for at, steps in enumerate(recording.rungs):
        median = f"{np.median(curves[:, at]):.2f}"
        if at == len(recording.rungs) - 1:
            lines.append(f"| {steps:,} | {median} | | |")
            continue
        plain = rank_correlation(zip(curves[:, at], curves[:, -1], strict=True))
        partial = partial_rank_correlation(curves[:, at], curves[:, -1], given)
        lines.append(f"| {steps:,} | {median} | {_text(plain)} | {_text(partial)} |")
    return lines


def _between(recording: Recording, networks: Sequence[Recorded]) -> list[str]:
    """The rank correlation of each rung with each later one, and what is left of it given the costs."""
    curves, (given, words) = np.array([n.trainings[0].psnr_db for n in networks]), _costs(networks)
    later = recording.rungs[1:]
    lines = [
        f"Between the rungs, overall / given {words}:",
        "",
        f"| steps | {' | '.join(f'{steps:,}' for steps in later)} |",
        "|---:|" + "---:|" * len(later),
    ]
    for at, steps in enumerate(recording.rungs[:-1]):
        cells = [""] * at
        for to in range(at + 1, len(recording.rungs)):
            plain = rank_correlation(zip(curves[:, at], curves[:, to], strict=True)).rho
            partial = partial_rank_correlation(curves[:, at], curves[:, to], given).rho
            cells.append(" / ".join("–" if rho is None else f"{rho:.2f}" for rho in (plain, partial)))
        lines.append(f"| {steps:,} | {' | '.join(cells)} |")
    return lines


def _costs(networks: Sequence[Recorded]) -> tuple[NDArray[np.float64], str]:
    """The costs that all networks have, `[N, C]`, and their names in words."""
    names = [name for name in COSTS if all(name in n.numbers for n in networks)]
    given = np.array([[n.numbers[name] for name in names] for n in networks])
    return given, " and ".join(name.partition("_")[0] for name in names)


def _text(found: Correlation) -> str:
    if found.rho is None or found.low is None:
        return "–"
    return f"{found.rho:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _seeds(recording: Recording, repeated: Sequence[Recorded]) -> list[str]:
    """How far two trainings of one network lie apart, beside how far networks do."""
    if not repeated:
        return ["No network was trained with further seeds yet."]
    lines = [
        f"Of {len(repeated)} networks trained with further seeds: standard deviation of PSNR from seed to seed, beside "
        "that from network to network.",
        "",
        "| steps | seeds (dB) | networks (dB) | rank correlation of two seeds |",
        "|---:|---:|---:|---:|",
    ]
    for at, steps in enumerate(recording.rungs):
        groups = [[t.psnr_db[at] for t in n.trainings] for n in repeated]
        spread, _ = pooled(groups)
        between = float(np.std([np.mean(group) for group in groups], ddof=1)) if len(groups) > 1 else math.nan
        two = rank_correlation([(group[0], group[1]) for group in groups])
        lines.append(f"| {steps:,} | {spread:.3f} | {between:.3f} | {_text(two)} |")
    return lines
