"""The published networks timed on the machine at hand, and what their counts then say about runtime."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ...proxies.latency import Protocol, Timing, peak_memory_mb, refuse_small_images, time_together
from ...spaces import build, inference_form, published
from ..correlation import Correlation, rank_correlation
from .tables import PREDICTORS, Comparison, table_2

REFERENCE = "imdn"


@dataclass(frozen=True)
class Measured:
    """One network's time beside the reference's and, on a GPU, the most memory a forward held; or what went wrong."""

    timing: Timing | None
    reference_ms: float | None = None
    memory_mb: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Session:
    """A round of timings on one machine: what was measured by name, how, and on which machine."""

    measured: Mapping[str, Measured]
    protocol: Protocol
    machine: str

    def ratio(self, name: str) -> float | None:
        """How many times the reference's time a network took; None where it was not timed."""
        timing = self.measured[name].timing if name in self.measured else None
        return timing.ratio if timing else None

    @property
    def reference_ms(self) -> float | None:
        """The reference's time: the median of those that were taken beside the networks."""
        known = [each.reference_ms for each in self.measured.values() if each.reference_ms is not None]
        return median(known) if known else None

    def latency_ms(self, name: str) -> float | None:
        """A network's time: its ratio times the reference's, so that times stand to each other as the ratios do."""
        ratio, reference_ms = self.ratio(name), self.reference_ms
        return None if ratio is None or reference_ms is None else ratio * reference_ms

    def memory_mb(self, name: str) -> float | None:
        """The peak memory of a network, None where it was not measured."""
        return self.measured[name].memory_mb if name in self.measured else None


def measure_systems(names: Sequence[str], protocol: Protocol, device: str) -> Iterator[tuple[str, Measured]]:
    """Times the networks one after another, each in the same rounds as the reference; gives each as it is done.

    Only two networks are in memory at a time. One that does not fit into a GPU's memory is given without a timing.
    Raises InputError before anything is timed where a network cannot take images of the protocol's size.
    """
    refuse_small_images({name: build(published(name), device="meta").minimum_size for name in names}, protocol)
    return ((name, _measure(name, protocol, device)) for name in names)


def _measure(name: str, protocol: Protocol, device: str) -> Measured:
    try:
        networks = {each: inference_form(build(published(each), device=device)) for each in {REFERENCE, name}}
        timings = time_together(networks, REFERENCE, protocol, device)
        memory_mb = peak_memory_mb(networks[name], protocol, device)
        return Measured(timings[name], timings[REFERENCE].latency_ms, memory_mb)
    except torch.cuda.OutOfMemoryError:
        return Measured(None, failure="out of memory")
    finally:
        networks = {}  # before the cache is emptied, or it would hold them
        if device != "cpu":
            torch.cuda.empty_cache()


def runtime_correlations(
    comparisons: Sequence[Comparison], session: Session, *, only_table_2: bool = False
) -> dict[str, Correlation]:
    """The rank correlation of the measured runtime with each of `PREDICTORS` and with Table 1's own `runtime_s`.

    Runtime is the ratio to the reference, which drifts less than milliseconds do; the counts are ours. With
    `only_table_2`, on those networks alone whose row stands behind the challenge's Table 2.
    """
    chosen = [c for c in comparisons if not only_table_2 or (c.row is not None and c.row.in_table_2)]

    def predictor(comparison: Comparison, column: str) -> float | None:
        if column == "runtime_s":
            return comparison.row.number(column) if comparison.row else None
        return session.memory_mb(comparison.name) if column == "memory_m" else comparison.count(column)

    return {
        column: rank_correlation((predictor(c, column), session.ratio(c.name)) for c in chosen)
        for column in (*PREDICTORS, "runtime_s")
    }


def correlation_columns(
    comparisons: Sequence[Comparison], session: Session | None
) -> dict[str, dict[str, Correlation]]:
    """What to show side by side, by heading: Table 2 made from Table 1 and, where there is any, what was measured."""
    if session is None:
        return {"Table 2": table_2()}
    return {
        "Table 2": table_2(),
        "here": runtime_correlations(comparisons, session),
        "here, those of Table 2": runtime_correlations(comparisons, session, only_table_2=True),
    }
