"""The facts of one run that the report and the picture are drawn from."""

from dataclasses import dataclass, field

from ..search.candidate import Candidate


@dataclass(frozen=True)
class RunSummary:
    """Says all that a reader of a run needs to know; `runs` fills it, `analysis` only reads it.

    candidates: every candidate of the run, also running, pruned and failed ones.
    objectives: names of the numbers the search optimised, in the recipe's order.
    front: numbers of the candidates on the (confirmed) front.
    winner: number of the chosen candidate, or None; `winner_rule` says in words how it was chosen.
    reference: `{"name": "imdn", "numbers": {"latency_ms": 12.3, "latency_ratio": 1.0, ...}}`.
    hypervolume: pairs of (number of candidates finished, hypervolume of the front found so far).
    seconds: time the run has taken, over all its starts.
    machine: flat names and values; `cores` and `gpu`, where present, end up in the opening sentence.
    data: `label`, `hash`, `train_images`, `validation_images` and `embedded` (True for the demo's own photos).
    training: `steps`, `batch` and `patch` (side of an LR patch in pixels) of the short training.
    protocol: the latency protocol in one line; empty if no latency was measured.
    notes: plain sentences to show, such as "The timing interval of candidate 4 is wider than asked."
    """

    name: str
    candidates: tuple[Candidate, ...]
    objectives: tuple[str, ...]
    front: tuple[int, ...] = ()
    winner: int | None = None
    winner_rule: str = ""
    reference: dict = field(default_factory=dict)
    bicubic_psnr_db: float = float("nan")
    hypervolume: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    data: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    protocol: str = ""
    command: str = ""
    finished: bool = True
    notes: tuple[str, ...] = ()

    def candidate(self, number: int | None) -> Candidate | None:
        """Returns the candidate of this number, or None if there is none."""
        return next((c for c in self.candidates if c.number == number), None)

    @property
    def reference_name(self) -> str:
        """The name of the reference network, or `reference`."""
        return str(self.reference.get("name") or "reference")

    @property
    def complete(self) -> tuple[Candidate, ...]:
        """The candidates that were trained to the end of their steps."""
        return tuple(c for c in self.candidates if c.state == "complete")
