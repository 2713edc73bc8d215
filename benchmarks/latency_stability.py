"""Shows why networks are timed in the same rounds, by a network against itself and a small one against a large one.

Each repeat measures the same ratio twice, interleaved (as `steady` does) and sequentially (all of A, then all of B),
and begins with the one or the other in turn, so that both meet the same machine. `python
benchmarks/latency_stability.py` prints a Markdown table after about 3 minutes on one core. Nothing else should run
meanwhile; or, to see what a busy machine does, something should.
"""

import argparse
import sys
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from paretosr.proxies.latency import Protocol, Timing, device_facts, time_together
from paretosr.spaces import Architecture, Block, build, published

SMALL = Architecture(width=24, blocks=(Block.of("residual"),) * 4)


@dataclass
class Ratios:
    """What one way of measuring gave, one entry per repeat."""

    way: str
    ratios: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    held_one: list[bool] = field(default_factory=list)

    def add(self, ratio: float, low: float, high: float) -> None:
        self.ratios.append(ratio)
        self.widths.append((high - low) / ratio)
        self.held_one.append(low <= 1 <= high)

    def row(self, pair: str, *, same: bool) -> str:
        """A row of the table; errors are against 1 where that is the truth, else against the median of the repeats."""
        ratios = np.array(self.ratios)
        truth = 1.0 if same else float(np.median(ratios))
        errors = np.abs(ratios / truth - 1)
        held = f"{sum(self.held_one)} of {len(ratios)}" if same else ""
        return (
            f"| {pair} | {self.way} | {np.median(ratios):.4f} | {errors.mean():.2%} | {errors.max():.2%} "
            f"| {np.median(self.widths):.2%} | {held} |"
        )


def ratio_of_medians(own: tuple[float, ...], reference: tuple[float, ...], *, paired: bool) -> tuple[float, ...]:
    """The ratio of two medians and its 95% bootstrap interval, drawing rounds (paired) or each list by itself."""
    a, b = np.array(own), np.array(reference)
    generator = np.random.default_rng(0)
    of_a = generator.integers(0, a.size, (2000, a.size))
    of_b = of_a if paired else generator.integers(0, b.size, (2000, b.size))
    draws = np.median(a[of_a], axis=1) / np.median(b[of_b], axis=1)
    return float(np.median(a) / np.median(b)), *(float(q) for q in np.quantile(draws, [0.025, 0.975]))


def interleaved(a: nn.Module, b: nn.Module, protocol: Protocol, device: str) -> Timing:
    """Both in the same rounds."""
    return time_together({"a": a, "b": b}, "b", protocol, device)["a"]


def sequential(a: nn.Module, b: nn.Module, protocol: Protocol, device: str) -> tuple[float, ...]:
    """All of A, then all of B."""
    first = time_together({"a": a}, "a", protocol, device)["a"].samples_ms
    second = time_together({"b": b}, "b", protocol, device)["b"].samples_ms
    return ratio_of_medians(first, second, paired=False)


def compare(a: nn.Module, b: nn.Module, repeats: int, protocol: Protocol, device: str) -> list[Ratios]:
    """Measures a / b in each way, `repeats` times."""
    paired = Ratios("interleaved, median of the rounds' ratios (`steady`)")
    medians = Ratios("interleaved, ratio of the medians (same samples)")
    apart = Ratios("sequential, ratio of the medians")
    for repeat in range(repeats):
        if repeat % 2:
            apart.add(*sequential(a, b, protocol, device))
        timing = interleaved(a, b, protocol, device)
        paired.add(timing.ratio, timing.ratio_low, timing.ratio_high)
        medians.add(*ratio_of_medians(timing.samples_ms, timing.reference_samples_ms, paired=True))
        if not repeat % 2:
            apart.add(*sequential(a, b, protocol, device))
    return [paired, medians, apart]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=Protocol.rounds)
    options = parser.parse_args()
    # As many rounds for each way, whatever the intervals say.
    protocol = Protocol(rounds=options.rounds, max_rounds=options.rounds)
    imdn, small = build(published("imdn"), seed=0), build(SMALL, seed=0)
    lines = [
        "| A / B | way | median ratio | mean error | largest error | median width of interval | intervals with 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair, a, b in (("IMDN / IMDN", imdn, imdn), ("small / IMDN", small, imdn)):
        found = compare(a, b, options.repeats, protocol, options.device)
        lines += [ratios.row(pair, same=a is b) for ratios in found]
    facts = [f"{name}: {fact}" for name, fact in device_facts(options.device).items()]
    sys.stdout.write("\n".join([protocol.label(), f"{options.rounds} rounds", *facts, "", *lines, ""]))


if __name__ == "__main__":
    main()
