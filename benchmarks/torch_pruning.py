"""Our pruning against Torch-Pruning: which of our networks it can cut at all, and how well the one that both cut ends.

`python benchmarks/torch_pruning.py --readme benchmarks/README.md --csv FILE` takes about 20 minutes on one core.
Torch-Pruning is an optional guest: `pip install 'paretosr[bench]'`. Where the environment `.venv-nni` is there
(`.ci/setup-nni`), nni's ModelSpeedup stands in the first table too.

The comparison: for each seed a plain residual network is trained on the embedded photos, cut to half of its FLOPs in
several ways, and trained on, with the same steps, batches, rates and loss. The criterion is the same: scores of ours
(`taylor_gate`, of the same batches) are handed to Torch-Pruning's pruner as its importance; its own Taylor importance
stands beside it. Photos to train on and to judge by are few: what is compared is the tools, not quality.
"""

import argparse
import csv
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from guests import TOOLS, Outcome, guest
from recovery import OURS, THEIRS, Row, compared
from scipy import stats

from paretosr.proxies.latency import Protocol, device_facts
from paretosr.proxies.training import Training
from paretosr.proxies.work import Data
from paretosr.spaces import BUILDABLE

LEAST_DB, SLOWEST = -0.02, 1.0  # the targets: of the lower end of the interval of PSNR, of the ratio of latency
NNI = Path(__file__).resolve().parents[1] / ".venv-nni/bin/python"
BEGIN, END = "<!-- torch_pruning.py writes from here -->\n", "<!-- torch_pruning.py ends here -->\n"

# ---- which networks can be cut


def tried(tools: Mapping[str, str], networks: Sequence[str], limit_s: float) -> list[Outcome]:
    """The outcomes of all tools, each tried by a Python of its own: by name, the path of that Python."""
    found = []
    for tool, python in tools.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "outcomes.json"
            script = Path(__file__).with_name("guests.py")
            command = [python, "-W", "ignore", str(script), tool, str(file), "--limit", str(limit_s)]
            subprocess.run([*command, "--networks", *networks], check=True)
            found += [Outcome(**outcome) for outcome in json.loads(file.read_text(encoding="utf-8"))]
    return found


# ---- what is told

RANKS = ("error", "time", "another function", "another size", "exact")  # of results, the best last


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and its 95 % Student interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def best_attempts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Outcome]]:
    """By network and tool, the attempt that came nearest to being right; of equals the last."""
    best: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        own = best.setdefault(outcome.network, {})
        if outcome.tool not in own or RANKS.index(outcome.result) >= RANKS.index(own[outcome.tool].result):
            own[outcome.tool] = outcome
    return best


def first_table(outcomes: Sequence[Outcome]) -> str:
    """One line for each network, one column for each tool, and how many each tool cuts exactly."""
    best = best_attempts(outcomes)
    tools = list(dict.fromkeys(outcome.tool for outcome in outcomes))
    lines = [f"| network | {' | '.join(tools)} |", "|---" * (len(tools) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cell(own[tool]) for tool in tools)} |" for name, own in best.items()]
    exact = [sum(own[tool].result == "exact" for own in best.values()) for tool in tools]
    counted = ", ".join(f"{tool} {count}" for tool, count in zip(tools, exact, strict=True))
    used = dict.fromkeys((one.tool, one.attempt) for own in best.values() for one in own.values() if one.attempt)
    notes = "".join(f" {tool}{mark(told)}: {told}." for tool, told in used)
    return "\n".join(lines) + f"\n\nExact, of {len(best)}: {counted}.{notes}"


def mark(told: str) -> str:
    """The sign of an attempt that needed to be told something, in Markdown."""
    return {told: r"\*" * at for attempts in TOOLS.values() for at, told in enumerate(attempts)}.get(told, "")


def cell(outcome: Outcome) -> str:
    """An outcome in a few words; the share of FLOPs that is left."""
    note = mark(outcome.attempt)
    flops = "" if outcome.flops is None else f"{outcome.flops:.2f}"
    if outcome.result == "exact":
        return f"exact{note}, {flops}"
    if outcome.result == "another function":
        said = outcome.said or f"off by {outcome.difference:.0e}"
        return f"**another function**{note}: {said}, {flops}"
    said = outcome.said.replace("|", "/")
    return f"{outcome.result}: {said if len(said) <= 90 else said[:87] + '...'}"


def second_table(rows: Sequence[Row]) -> str:
    """One line for each way to cut, with means over the seeds, and differences to theirs with Student intervals."""
    ways = list(dict.fromkeys(row.way for row in rows))
    lines = [
        "| way | FLOPs | parameters | activations | just cut, dB | recovered, dB | minus theirs, dB | by seed "
        "| time over theirs | by seed |",
        "|---" * 10 + "|",
    ]
    for way in ways:
        own = of_way(rows, way)
        shares = [
            f"{np.mean([getattr(row, what) for row in own]):.3f}" for what in ("flops", "parameters", "activations")
        ]
        quality = [f"{np.mean([getattr(row, what) for row in own]):.3f}" for what in ("cut_psnr_db", "psnr_db")]
        differences, ratios = against_theirs(rows, way), [row.latency_ratio for row in own]
        cells = [way, *shares, *quality]
        if way == THEIRS:
            cells += ["", "", "1", ""]
        else:
            by_seed = ", ".join(f"{difference:+.3f}" for difference in differences)
            cells += [interval(student(differences), "+.3f"), by_seed]
            cells += [interval(student(ratios), ".2f"), ", ".join(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def of_way(rows: Sequence[Row], way: str) -> list[Row]:
    """The rows of one way, by seed."""
    return [row for row in rows if row.way == way]


def against_theirs(rows: Sequence[Row], way: str) -> list[float]:
    """The PSNR of a way minus that of theirs, by seed, in dB."""
    pairs = zip(of_way(rows, way), of_way(rows, THEIRS), strict=True)
    return [own.psnr_db - other.psnr_db for own, other in pairs]


def interval(found: tuple[float, float, float], form: str) -> str:
    """A mean with its interval."""
    mean, low, high = (f"{number:{form}}" for number in found)
    return f"{mean} [{low}, {high}]"


def verdict(rows: Sequence[Row], way: str) -> str:
    """Whether the targets are reached by a way of ours, in one line."""
    differences, ratios = student(against_theirs(rows, way)), student([row.latency_ratio for row in of_way(rows, way)])
    good, quick = differences[1] >= LEAST_DB, ratios[0] <= SLOWEST
    sure = "" if not ratios[1] <= SLOWEST < ratios[2] else ", which its interval leaves open"
    return (
        f"*{way}*: target {'reached' if good and quick else 'NOT reached'}: PSNR minus theirs "
        f"{interval(differences, '+.3f')} dB ({'not ' if good else ''}below {LEAST_DB} dB at its lower end), time over "
        f"theirs {interval(ratios, '.2f')} ({'not ' if quick else ''}slower{sure})."
    )


def versions() -> str:
    """The device and what took part, in one line."""
    facts = device_facts("cpu")
    said = [f"{fact}: {facts[fact]}" for fact in ("cpu", "cores", "torch") if fact in facts]
    said.append(f"torch-pruning: {importlib.metadata.version('torch-pruning')}")
    if NNI.exists():
        asked = "import importlib.metadata as m; print(m.version('nni'))"
        done = subprocess.run([str(NNI), "-c", asked], check=True, capture_output=True, text=True)
        said.append(f"nni: {done.stdout.strip()}")
    return f"{'; '.join(said)}; load average before {facts['load_1_minute']}"


def write_tables(outcomes: Sequence[Outcome], rows: Sequence[Row], options: argparse.Namespace, text: str) -> None:
    """The files that were asked for."""
    if options.json:
        content = {"outcomes": [asdict(outcome) for outcome in outcomes], "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.csv:
        lines = [asdict(outcome) for outcome in outcomes] + [asdict(row) for row in rows]
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)), restval="")
            writer.writeheader()
            writer.writerows(lines)
    if options.readme:
        before, found, rest = options.readme.read_text(encoding="utf-8").partition(BEGIN)
        if not found or END not in rest:
            raise SystemExit(f"{options.readme}: has not the marks {BEGIN.strip()} and {END.strip()}")
        options.readme.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(BUILDABLE), help="of the first table")
    parser.add_argument("--limit", type=float, default=120, help="seconds for each attempt of the first table")
    parser.add_argument("--seeds", type=int, default=5, help="of the comparison")
    parser.add_argument("--steps", type=int, default=400, help="of the first training")
    parser.add_argument("--recovery", type=int, default=300, help="steps after the cut")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--csv", type=Path, help="write every figure here")
    parser.add_argument("--readme", type=Path, help="put the tables between the marks of this file")
    return parser.parse_args(arguments)


def main() -> None:
    """Tries, compares, prints and writes."""
    options = options_of()
    try:
        guest("torch_pruning")
    except ModuleNotFoundError:
        raise SystemExit("torch-pruning is not installed: pip install 'paretosr[bench]'") from None
    torch.set_num_threads(1)
    about = versions()
    tools = {"torch_pruning": sys.executable, **({"nni": str(NNI)} if NNI.exists() else {}), "ours": sys.executable}
    outcomes = tried(tools, options.networks, options.limit) if options.networks else []
    first = Training(options.steps, batch=8, patch=24, learning_rate=1e-3)
    recovery = replace(first, steps=options.recovery)
    rows = [row for seed in range(options.seeds) for row in compared(seed, first, recovery, Data(), Protocol())]
    parts = [about + "."]
    if not NNI.exists():
        parts.append("nni is left out: there is no .venv-nni (.ci/setup-nni makes it).")
    if outcomes:
        parts.append(first_table(outcomes))
    if rows:
        settings = f"{options.seeds} seeds; {options.steps} steps, cut, {options.recovery} steps; {Protocol().label()}."
        parts += [settings, second_table(rows), "\n".join(f"* {verdict(rows, way)}" for way in OURS)]
    text = "\n\n".join(parts)
    sys.stdout.write(text + "\n")
    write_tables(outcomes, rows, options, text)


if __name__ == "__main__":
    main()
