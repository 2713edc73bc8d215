"""Scoring networks as a piece of work for an engine."""

from dataclasses import dataclass
from typing import Any

from ..spaces import Design
from .scores import score_batches, score_table
from .work import Data, Report, Stop


@dataclass(frozen=True)
class ScoreWork:
    """Gives networks, drawn anew from `seed`, the scores called `names`; on `batches` batches of training patches.

    All networks of all works with equal data and seed see the same patches. `perform` gives `columns`, by the name of
    the score one number a design (NaN: it has none), and `failures`, a line each.
    """

    designs: tuple[Design, ...]
    names: tuple[str, ...]
    data: Data
    patch: int
    batch: int
    batches: int
    seed: int
    device: str
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        """The table of scores; None where a stop was asked for between two networks."""
        images = self.data.train()
        seen = score_batches(
            images, patch=self.patch, batch=self.batch, count=self.batches, seed=self.seed, device=self.device
        )
        columns: dict[str, list[float]] = {name: [] for name in self.names}
        failures: list[str] = []
        for done, design in enumerate(self.designs):
            if stop():
                return None
            report({"step": done, "steps": len(self.designs)})
            table = score_table([design], seen, self.names, seed=self.seed, device=self.device)
            for name, column in table.columns.items():
                columns[name] += column
            failures += table.failures
        return {"columns": columns, "failures": failures}
