"""The AIM 2020 Efficient Super-Resolution challenge: its Table 1, its Table 2 made from that, and our counts beside it.

`aim2020.csv` holds Table 1 as printed (Zhang et al. 2020, arXiv 2009.06943): the digits of each cell, and the names of
the cells that carry a `*`, which the team reported and the organisers did not check.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from torch import nn

from ...proxies.complexity import Complexity, complexity
from ...spaces import SYSTEMS, System, build, published
from ..correlation import Correlation, rank_correlation

COUNTS = {  # the columns of Table 1 that can be counted, as (what to call it, its unit)
    "params_m": ("parameters", "M"),
    "flops_g": ("FLOPs", "G"),
    "activations_m": ("activations", "M"),
    "convs": ("convolutions", ""),
}
LABELS = {column: label for column, (label, _) in COUNTS.items()} | {
    "memory_m": "memory",
    "runtime_s": "Table 1's runtime",
}
TABLE_2 = {"params_m": 0.1734, "flops_g": 0.2397, "activations_m": 0.8737, "memory_m": 0.6671}  # as printed
PREDICTORS = (*TABLE_2, "convs")  # Table 2 leaves the convolutions out


@dataclass(frozen=True)
class Row:
    """One row of Table 1: the cells as printed, empty ones left out, and which of them are starred."""

    team: str
    printed: Mapping[str, str]
    starred: frozenset[str]

    def number(self, column: str) -> float | None:
        """A cell as a number, None where it is empty."""
        return float(self.printed[column]) if column in self.printed else None

    def text(self, column: str) -> str:
        """A cell as printed, with its star; an en dash where it is empty."""
        return self.printed.get(column, "–") + ("*" if column in self.starred and column in self.printed else "")

    @property
    def in_table_2(self) -> bool:
        """Whether Table 2 rests on this row too: all it compares is there, and none of the row is self-reported.

        The report does not say which rows it took; on these 21, and on no others that were tried, its figures come out.
        """
        return self.is_complete and not self.starred

    @property
    def is_complete(self) -> bool:
        """Whether all that Table 2 compares is there, starred or not."""
        return all(column in self.printed for column in ("runtime_s", *TABLE_2))


@dataclass(frozen=True)
class Comparison:
    """A published network, our counts of it, and its row of Table 1.

    `counts` is None where the network cannot be built, `row` where Table 1 has none for it. `convs_training` counts the
    convolution modules of the training form, each once however often it is called. `deviations` holds ours / table - 1
    by column, 0 where ours has the printed digits, for the columns that have both.
    """

    name: str
    system: System
    row: Row | None
    counts: Complexity | None
    convs_training: int | None
    deviations: Mapping[str, float]

    @property
    def mark(self) -> str:
        """How our network stands to that of the challenge.

        `exact`: all counts that Table 1 gives come out in the printed digits. `reading`, `placeholder`: they do not, or
        need not, as the system's basis says. `not described`: nothing is built. `no row`: Table 1 does not have it.
        `differs`: the authors' code was read and the counts still differ, which would be an error of ours.
        """
        if self.counts is None:
            return "not described"
        if self.row is None:
            return "no row"
        if self.system.basis == "placeholder":
            return "placeholder"
        if not any(self.deviations.values()):
            return "exact"
        return "differs" if self.system.basis == "code" else "reading"

    @property
    def largest(self) -> tuple[str, float] | None:
        """The column that deviates most and by how much; None where none does."""
        column = max(self.deviations, key=lambda column: abs(self.deviations[column]), default="")
        return (column, self.deviations[column]) if self.deviations.get(column) else None

    def count(self, column: str) -> float | None:
        """Our figure for a column of Table 1, in its unit."""
        return count_of(self.counts, column) if self.counts else None

    def count_text(self, column: str) -> str:
        """Our figure, or an en dash.

        Where Table 1's convolutions are the modules of the training form, their number follows in brackets.
        """
        value = self.count(column)
        if value is None:
            return "–"
        if column != "convs":
            return f"{value:.4f}"
        as_modules = self.row is not None and self.row.number(column) == self.convs_training != value
        return f"{value} ({self.convs_training})" if as_modules else str(value)

    def table_text(self, column: str) -> str:
        """Table 1's figure, or an en dash."""
        return self.row.text(column) if self.row else "–"

    def mark_text(self) -> str:
        """The mark, with the largest deviation where there is one."""
        if self.largest is None:
            return self.mark
        column, deviation = self.largest
        return f"{self.mark}, {LABELS[column]} {deviation:+.2%}".replace("%", " %")


@cache
def table_1() -> tuple[Row, ...]:
    """The 27 rows of Table 1, in its order."""
    path = resources.files(__name__.rpartition(".")[0]) / "aim2020.csv"
    rows = []
    for cells in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        team, starred = cells.pop("team"), cells.pop("starred")
        printed = {column: cell for column, cell in cells.items() if cell}
        rows.append(Row(team, printed, frozenset(starred.split())))
    return tuple(rows)


def table_2(rows: Iterable[Row] | None = None) -> dict[str, Correlation]:
    """The rank correlation of runtime with each of `PREDICTORS`; by default on the rows that Table 2 rests on."""
    chosen = [row for row in table_1() if row.in_table_2] if rows is None else list(rows)
    return {
        column: rank_correlation((row.number(column), row.number("runtime_s")) for row in chosen)
        for column in PREDICTORS
    }


def compare(name: str) -> Comparison:
    """Counts a published network by its name in `SYSTEMS` and sets it beside its row of Table 1."""
    system = SYSTEMS[name]
    row = next((row for row in table_1() if row.team == system.team), None)
    if system.network is None:
        return Comparison(name, system, row, None, None, {})
    counts, modules = complexity(published(name)), convolution_modules(build(published(name), device="meta"))
    deviations = {}
    for column in COUNTS if row else ():
        if row is not None and column in row.printed:
            # The challenge's counter followed calls; two teams' own figure is the number of modules they wrote.
            ours = [count_of(counts, column), *([modules] if column == "convs" else [])]
            as_printed = any(has_digits(value, row.printed[column]) for value in ours)
            deviations[column] = 0.0 if as_printed else ours[0] / float(row.printed[column]) - 1
    return Comparison(name, system, row, counts, modules, deviations)


def count_of(counts: Complexity, column: str) -> float:
    """The figure of Table 1's column among our counts, in its unit."""
    numbers = {
        "params_m": counts.parameters / 1e6,
        "flops_g": counts.flops_g,
        "activations_m": counts.activations_m,
        "convs": counts.convolutions,
    }
    return numbers[column]


def has_digits(value: float, printed: str) -> bool:
    """Whether a number can be what stands in print: it is off by less than one unit of the last digit.

    Table 1 cuts some numbers and rounds others.
    """
    unit = 10.0 ** -len(printed.partition(".")[2])
    return round(abs(value - float(printed)) / unit, 6) < 1  # rounded: 0.21 - 0.20 is a little below a whole unit


def convolution_modules(network: nn.Module) -> int:
    """How many convolutions a network is made of, each counted once."""
    return sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in network.modules())
