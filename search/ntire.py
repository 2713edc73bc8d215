"""The scores of the NTIRE efficient super-resolution challenges of 2024, 2025 and 2026; lower is better.

Each of runtime, FLOPs and parameters gives exp(2 x own / baseline's), and the score is their weighted sum, so that the
baseline itself scores e squared, 7.3891. Weights and figures are those of the challenges' repositories
Amazingren/NTIRE2024_ESR, NTIRE2025_ESR and NTIRE2026_ESR (README, "How the Ranking Strategy Works?"); the report of
2025 (Ren et al. 2025) gives the same formula. Networks below 26.90 dB on DIV2K_LSDIR_valid or 26.99 dB on
DIV2K_LSDIR_test are not ranked, whatever they score.

What goes in, as the challenges measured it: runtime is the mean over both data sets, in ms; parameters are all of the
inference form. FLOPs are what fvcore counts at 3x256x256, with one for each multiply-add, so `macs_g` is the number to
give here, not `flops_g`. fvcore counts no activations, but, unlike `macs_g`, linear layers, norms (2 an element for
batch norm, 4 or 5 for others) and enlargement (4 an element of the output where bilinear, 1 where nearest, none where
bicubic). For RFDN that would add 0.05 %.

The runtime of the baseline has to be measured on the same device by the same protocol. The published ones serve only
beside runtimes of the same table: SPAN took 5.59 ms as announced in 2026, and 7.74 ms in that repository's results.txt.
RLFN's FLOPs are 19.67 G in a later README of 2024, and 19.70 G in an earlier one and in results.txt. The tables of the
reports, with the teams' scores, were not at hand to check against.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class NtireScore:
    """One year's score: its baseline, by name and as published, and the weights of runtime, FLOPs and parameters."""

    year: str
    baseline: str
    runtime_ms: float
    flops_g: float
    parameters_m: float
    device: str
    weights: tuple[float, float, float]

    def __call__(self, runtime_ms: float, flops_g: float, parameters_m: float, *, baseline_ms: float) -> float:
        """The score of a network that took `runtime_ms` where the baseline took `baseline_ms`."""
        return self.of_ratio(runtime_ms / baseline_ms, flops_g, parameters_m)

    def of_ratio(self, latency_ratio: float, flops_g: float, parameters_m: float) -> float:
        """The score of a network that took `latency_ratio` times as long as the baseline."""
        ratios = (latency_ratio, flops_g / self.flops_g, parameters_m / self.parameters_m)
        return sum(weight * math.exp(2 * ratio) for weight, ratio in zip(self.weights, ratios, strict=True))

    def against(self, baseline: str, flops_g: float, parameters_m: float) -> "NtireScore":
        """The same formula with another network as its baseline, which is measured where the score is used.

        Not the challenge's number any more: it says how its rule weighs runtime, FLOPs and parameters against that
        network, and ranks networks otherwise than the published baseline does.
        """
        return replace(
            self, baseline=baseline, runtime_ms=math.nan, flops_g=flops_g, parameters_m=parameters_m, device=""
        )


NTIRE_SCORES: dict[str, NtireScore] = {
    s.year: s
    for s in (
        NtireScore("2024", "rlfn", 13.54, 19.67, 0.317, "NVIDIA GeForce RTX 3090", (0.7, 0.15, 0.15)),
        NtireScore("2025", "efdn", 16.69, 16.70, 0.276, "NVIDIA RTX A6000", (0.7, 0.15, 0.15)),
        NtireScore("2026", "span", 5.59, 9.83, 0.151, "NVIDIA RTX A6000", (0.8, 0.1, 0.1)),
    )
}


def with_scores(
    numbers: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], reference: str
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Numbers and their intervals, and with them the scores of those years whose baseline is the run's reference.

    A score follows from `latency_ratio`, `macs_g` and `parameters_m`; it rises with the ratio, so its interval is that
    of the ratio, mapped. Without these numbers there is none.
    """
    said, bounds = dict(numbers), dict(intervals)
    for year, score in NTIRE_SCORES.items():
        if score.baseline != reference or not {"latency_ratio", "macs_g", "parameters_m"} <= said.keys():
            continue
        costs = said["macs_g"], said["parameters_m"]
        said[f"ntire_{year}"] = score.of_ratio(said["latency_ratio"], *costs)
        if "latency_ratio" in bounds:
            low, high = bounds["latency_ratio"]
            bounds[f"ntire_{year}"] = (score.of_ratio(low, *costs), score.of_ratio(high, *costs))
    return said, bounds
