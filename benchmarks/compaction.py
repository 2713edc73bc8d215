"""Times cut networks beside the uncut one, at half the channels, by five ways of choosing what to cut.

`python benchmarks/compaction.py --csv FILE --readme benchmarks/README.md` takes about 6 minutes on one core, prints
Markdown tables, writes every figure into the CSV file and puts the tables into their place in the README.

Time does not depend on which channels are kept, only on how many and where they lie: so the plans are drawn by chance,
and the networks are untrained. What a plan costs beyond its smaller convolutions is told by `same width`: the time of
the cut network over that of its convolutions called alone, over the same quotient of the `group` network, in which no
channel is ever gathered. That is the time against a dense network of the same widths.

The C library is told to keep the memory that is freed. As it comes, it hands tensors of some 100 kB back to the system
or not, as the heap happens to lie: page faults, some thousands per forward here, as many as chance has it for each
network and each run.
"""

import argparse
import copy
import csv
import ctypes
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_plans import plans
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from paretosr.proxies.complexity import complexity
from paretosr.proxies.latency import LAYOUTS, Protocol, Timing, device_facts, summarise, time_together
from paretosr.spaces import Architecture, Block, Design, build, inference_form, published
from paretosr.spaces.flow import compact, trace
from paretosr.spaces.flow.primitives import AddAt, AddSlice, Pad, Take, Widen

RESIDUAL = Architecture(width=64, blocks=(Block.of("residual"),) * 8)
NETWORKS = ("residual", "msrresnet", "rfdn", "imdn", "hcsrn", "pan", "latticenet")
PLAIN = ("residual", "msrresnet")
MOVES = {"gathers": (Take,), "adds of a part": (AddAt, AddSlice), "widenings": (Widen, Pad)}


# ---- what is timed


class Alone(nn.Module):
    """The convolutions and linear layers of a network, each called as often as there, on inputs of its own size.

    What has the same size is the same input: as in the network, it is near in memory.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        calls: list[tuple[nn.Module, tuple[int, ...]]] = []
        handles = [
            module.register_forward_pre_hook(lambda module, given: calls.append((module, tuple(given[0].shape))))
            for module in network.modules()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        ]
        with torch.no_grad():
            network(torch.rand(1, 3, *size))
        for handle in handles:
            handle.remove()
        self.called = nn.ModuleList(copy.deepcopy(module) for module, _ in calls)
        self.names = ["_".join(map(str, ("input", *shape))) for _, shape in calls]
        for name, (_, shape) in zip(self.names, calls, strict=True):
            if not hasattr(self, name):
                self.register_buffer(name, torch.rand(shape))

    def forward(self, image: Tensor) -> Tensor:
        for module, name in zip(self.called, self.names, strict=True):
            image = module(getattr(self, name))
        return image


@dataclass(frozen=True)
class Row:
    """What was found of one plan of one network in one layout; times are over those of other networks of the run.

    time: over the uncut network; same_width: against dense of the same widths; over_alone: over its own convolutions.
    """

    network: str
    layout: str
    strategy: str
    time: Timing
    same_width: Timing
    over_alone: Timing
    macs: float
    activations: float
    moves: Mapping[str, int]

    @property
    def target(self) -> float | None:
        """What `same_width` should be at most; None where it is one by definition."""
        if self.strategy == "group":
            return None
        if self.network in PLAIN:
            return 1.2 if self.strategy == "free" else 1.1
        if self.layout == "nhwc":
            return 1.5
        return 1.3 if self.strategy == "free" else 1.25

    def cells(self) -> dict[str, Any]:
        """The row of the CSV file."""
        numbers = {
            f"{name}{end}": f"{getattr(timing, which):.4f}"
            for name, timing in (("time", self.time), ("same_width", self.same_width), ("over_alone", self.over_alone))
            for end, which in (("", "ratio"), ("_low", "ratio_low"), ("_high", "ratio_high"))
        }
        return {
            "network": self.network,
            "layout": self.layout,
            "strategy": self.strategy,
            "latency_ms": f"{self.time.latency_ms:.3f}",
            **numbers,
            "same_width_target": self.target or "",
            "same_width_met": verdict(self.same_width, self.target) if self.target else "",
            "not_slower_than_uncut": verdict(self.time, 1.0),
            "macs": f"{self.macs:.4f}",
            "activations": f"{self.activations:.4f}",
            **{name.replace(" ", "_"): count for name, count in self.moves.items()},
        }


def verdict(timing: Timing, target: float) -> str:
    """`yes` or `no`: whether a ratio is at most the target; with a question mark where its interval holds that."""
    return ("yes" if timing.ratio <= target else "no") + ("?" if timing.ratio_low <= target < timing.ratio_high else "")


def keep_memory() -> None:
    """Makes the C library keep what is freed; one that is not glibc is left alone."""
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**25)  # the most that it takes


def designs(names: Sequence[str]) -> dict[str, Design]:
    """The networks asked for: `residual`, or published ones."""
    return {name: Design(RESIDUAL) if name == "residual" else published(name) for name in names}


def measure(name: str, design: Design, protocol: Protocol, device: str, seed: int) -> list[Row]:
    """Times all plans of a network in one layout, with the uncut network and the convolutions alone, in one run."""
    uncut = inference_form(build(design, seed=0))
    flow = trace(uncut)
    cut = {
        strategy: compact(flow, plan, "run")
        for strategy, plan in plans(flow, design.architecture.hash, random.Random(seed)).items()
    }
    alone = {f"{strategy}, alone": Alone(network, protocol.size) for strategy, network in cut.items()}
    timings = time_together({"uncut": uncut, **cut, **alone}, "uncut", protocol, device)
    before = complexity(uncut)

    def over(*names: str) -> Timing:
        """The first over the second network's time, times the third over the fourth, ..., round by round."""
        own, reference = [1.0] * protocol.rounds, [1.0] * protocol.rounds
        for place, name in enumerate(names):
            into = own if place % 2 == 0 else reference
            into[:] = [sample * factor for sample, factor in zip(timings[name].samples_ms, into, strict=True)]
        return summarise(own, reference, protocol.interval)

    rows = []
    for strategy, network in cut.items():
        after = complexity(network)
        kinds = [type(module) for module in network.modules()]
        rows.append(
            Row(
                *(name, protocol.layout, strategy, timings[strategy]),
                same_width=over(strategy, f"{strategy}, alone", "group, alone", "group"),
                over_alone=over(strategy, f"{strategy}, alone"),
                macs=after.macs_g / before.macs_g,
                activations=after.activations_m / before.activations_m,
                moves={move: sum(kind in which for kind in kinds) for move, which in MOVES.items()},
            )
        )
    return rows


# ---- what is told


def tables(rows: Sequence[Row]) -> str:
    """Markdown: time over the uncut network, against dense of the same widths, and the shares that are left."""
    strategies = list(dict.fromkeys(row.strategy for row in rows))

    def time(row: Row) -> str:
        return marked(row.time, 1.0)

    def same_width(row: Row) -> str:
        return "1 (by definition)" if row.target is None else marked(row.same_width, row.target)

    def shares(row: Row) -> str:
        moves = " + ".join(str(count) for count in row.moves.values())
        return f"{row.macs:.2f} / {row.activations:.2f} / {moves}"

    wholes = [row for row in rows if row.layout == rows[0].layout]
    return "\n\n".join(
        (
            f"Time over the uncut network (at most 1):\n\n{table(rows, strategies, time)}",
            f"Against dense of the same widths (targets above):\n\n{table(rows, strategies, same_width)}",
            "Multiply-adds / activations that are left, and how many gathers + adds of a part + widenings:\n\n"
            + table(wholes, strategies, shares, layout=False),
        )
    )


def marked(timing: Timing, target: float) -> str:
    """A ratio, bold where it misses its target, with its interval where that holds the target."""
    found = verdict(timing, target)
    ratio = f"{timing.ratio:.2f}" if found.startswith("yes") else f"**{timing.ratio:.2f}**"
    return f"{ratio} [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]" if found.endswith("?") else ratio


def table(rows: Sequence[Row], strategies: Sequence[str], cell: Callable[[Row], str], *, layout: bool = True) -> str:
    """One row per network (and layout), one column per strategy."""
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = (row.network, row.layout.upper()) if layout else (row.network,)
        cells.setdefault(key, {})[row.strategy] = cell(row)
    heads = ("network", "layout") if layout else ("network",)
    lines = [f"| {' | '.join((*heads, *strategies))} |", "|---" * (len(heads) + len(strategies)) + "|"]
    lines += [f"| {' | '.join((*key, *(found[s] for s in strategies)))} |" for key, found in cells.items()]
    return "\n".join(lines)


def operations(name: str, design: Design, protocol: Protocol, seed: int) -> str:
    """Which of torch's operations take how much of the time of each plan, on the CPU: for the question what costs."""
    uncut = inference_form(build(design, seed=0))
    flow = trace(uncut)
    made = plans(flow, design.architecture.hash, random.Random(seed))
    networks = {"uncut": uncut, **{strategy: compact(flow, plan, "run") for strategy, plan in made.items()}}
    lines = []
    layout: Any = LAYOUTS[protocol.layout]
    torch.set_num_threads(protocol.threads)
    image = torch.rand(1, 3, *protocol.size).contiguous(memory_format=layout)
    for strategy, network in networks.items():
        network.to(memory_format=layout)  # type: ignore[call-overload]
        with torch.inference_mode():
            for _ in range(3):
                network(image)
            with profile(activities=[ProfilerActivity.CPU]) as found:
                for _ in range(10):
                    network(image)
        events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
        most = ", ".join(f"{event.key} {event.self_cpu_time_total / 1e4:.2f} ms" for event in events[:9])
        lines.append(f"{name}, {protocol.layout}, {strategy}: {most}")
    return "\n".join(lines)


def write_between(file: Path, text: str) -> None:
    """Puts the text between the two marks of this benchmark in a file."""
    begin, end = "<!-- compaction.py writes from here -->\n", "<!-- to here -->\n"
    before, found, rest = file.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{file}: has not the marks {begin.strip()} and {end.strip()}")
    file.write_text(f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="residual, or published networks")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--size", type=int, default=64, help="height and width, in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--execution", default="eager", help="eager, compiled, or graph (CUDA)")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of the plans")
    parser.add_argument("--csv", type=Path, help="write every figure here")
    parser.add_argument("--readme", type=Path, help="put the tables between the marks of this file")
    parser.add_argument("--profile", action="store_true", help="tell the costliest operations instead of timing")
    return parser.parse_args(arguments)


def main() -> None:
    """Measures, prints and writes."""
    options = options_of()
    keep_memory()
    rows: list[Row] = []
    facts = device_facts(options.device)
    label = ""
    for name, design in designs(options.networks).items():
        for layout in options.layouts:
            # As many rounds for all, whatever the intervals say: the quotients are made round by round.
            protocol = Protocol(
                layout=layout,
                size=(options.size, options.size),
                execution=options.execution,
                rounds=options.rounds,
                max_rounds=options.rounds,
            )
            label = label or protocol.label().replace(f", {layout.upper()},", ",")
            if options.profile:
                sys.stdout.write(operations(name, design, protocol, options.seed) + "\n")
            else:
                rows += measure(name, design, protocol, options.device, options.seed)
                sys.stderr.write(f"{name}, {layout}: timed\n")
    if not rows:
        return
    about = [f"{fact}: {facts[fact]}" for fact in ("cpu", "cores", "gpu", "torch") if fact in facts]
    load = f"load average {facts['load_1_minute']} before, {os.getloadavg()[0]:.2f} after"
    text = f"{'; '.join([label, f'{options.rounds} rounds', *about, load])}.\n\n{tables(rows)}"
    sys.stdout.write(f"{text}\n")
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0].cells()))
            writer.writeheader()
            writer.writerows(row.cells() for row in rows)
    if options.readme:
        write_between(options.readme, text)


if __name__ == "__main__":
    main()
