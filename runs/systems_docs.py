"""Writes docs/systems.md from the published systems: `python -m paretosr.runs.systems_docs docs/systems.md`.

A test compares the page with what this gives. A new system may be missing on it until it is written again.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..analysis.challenge.tables import COUNTS, LABELS, TABLE_2, Comparison, compare, table_1, table_2
from ..analysis.correlation import Correlation
from ..proxies.complexity import complexity
from ..search.ntire import NTIRE_SCORES
from ..spaces import SYSTEMS, published
from ..spaces.systems import NTIRE_BASELINES
from .recipe_docs import markdown

OPENING = """\
# Published systems

<!-- Written by `python -m paretosr.runs.systems_docs docs/systems.md`; the words are those of spaces/systems/. -->

The 27 rows of Table 1 of the AIM 2020 challenge on efficient super-resolution (Zhang et al. 2020, arXiv 2009.06943),
and two networks that belong to them: IMDN as its paper has it, and HCSRN before its pruning. What can be built is there
by name, untrained: `paretosr systems` counts it, `paretosr systems --measure` times it on your machine, and
`build(published("rfdn"))` makes it. `paretosr evaluate --system rfdn --weights FILE` runs the authors' weights where
there are any.

**How it is counted.** One 3x256x256 input, the inference form (parallel branches merged, training exits gone), the
rules of the challenge's own counter. Parameters: all, frozen ones and both factors of weight norm included. FLOPs: one
per multiply-add of a convolution, one per element of each activation that the published code wrote as a module, two per
element of a batch norm; biases, sums, pooling and resizing are free. Activations: elements of all convolutions'
outputs. Convolutions: calls. [numbers.md](numbers.md) says more.

**Exact** means that all figures that Table 1 gives come out *in the printed digits*: to less than one unit of the last
of them, since the table cuts most numbers and rounds some. It is a statement on counts. How far the structure is known
is the basis:

* **code**: the authors' code was read. Exact counts then are a check of ours.
* **reading**: there is no public code; the structure is proposed here, because it fits the report's text and comes
  nearest to its figures. Even an exact reading is evidence and no proof: where widths were free to choose, a wrong
  network may hit four numbers. A reading that is not exact carries its largest deviation, ours / Table 1 - 1.
* **placeholder**: the report says too little for a reading; something of that kind and size stands in.
* **not described**: nothing can be built.

A star marks what the team reported and nobody checked. Two teams' convolutions come out only if each module is counted
once, however often it is called: larvanet's with the legs that only training uses, lfn's with the cell that runs four
times. That count stands in brackets there.
"""

MEANING = """\
The challenge's Table 2 is Spearman's rank correlation of runtime with each number. The report does not say on which
rows it rests. It comes out, in all four digits, on the {rows} rows of Table 1 where runtime, parameters, FLOPs,
activations and memory are all given and none of the row is starred. Intervals: 95 %, percentile bootstrap over rows.
The last column adds the starred rows that have all five.

{table}

What it means: among these networks the number of **activations** nearly gives the order of runtimes, memory does so in
part. For parameters and FLOPs the intervals hold zero: on {rows} networks the table does not show that they tell
runtime at all, nor that they do not; two rows more take parameters from 0.17 to 0.05. So neither is a stand-in for a
timing, and ParetoSR measures. Two limits: all these networks were made for one PSNR, many of them for few parameters or
FLOPs, so that the table does not speak of networks at large; and the runtimes are of one GPU and one protocol. What
holds on your machine is what `paretosr systems --measure` prints beside these numbers.
"""


BASELINES = """\
What later challenges on efficient super-resolution measured against, by name like the others. Beside its year's
baseline a network has that year's score: `paretosr measure MINE --reference span`, or `ntire_2026` among a recipe's
objectives or limits with `reference: span` ([numbers.md](numbers.md)).
"""


def page() -> str:
    """The whole page."""
    comparisons = [compare(name) for name in SYSTEMS]
    found = table_2()
    table = "\n".join(markdown(_correlations(found)))
    meaning = MEANING.replace("{table}", table).replace("{rows}", str(found["params_m"].rows))
    parts = [OPENING.rstrip(), "", "## Counts", "", _tally(comparisons), "", *markdown(_counts(comparisons))]
    parts += ["", "## The networks", "", *markdown(_networks(comparisons))]
    parts += ["", "## Which number tells the runtime", "", meaning.rstrip()]
    parts += ["", "## Baselines of NTIRE", "", BASELINES.rstrip(), "", *markdown(_baselines())]
    return "\n".join(parts) + "\n"


def _tally(comparisons: Sequence[Comparison]) -> str:
    """How many rows of Table 1 are what."""
    in_table = [c for c in comparisons if c.row]
    marks, exact = Counter(c.mark for c in in_table), Counter(c.system.basis for c in in_table if c.mark == "exact")
    bases = f"{exact['code']} from code, {exact['reading']} by a reading"
    others = {"readings that deviate": "reading", "placeholders": "placeholder", "not described": "not described"}
    counted = ", ".join(f"{marks[mark]} {words}" for words, mark in others.items())
    return f"Of the {len(in_table)} rows, {marks['exact']} are exact ({bases}), {counted}. A cell: ours / Table 1's."


def _counts(comparisons: Sequence[Comparison]) -> list[list[str]]:
    headings = [
        f"{label} ({unit})" if unit and column != "params_m" else label for column, (label, unit) in COUNTS.items()
    ]
    rows = [["system", "row of Table 1", *headings, "mark", "largest deviation"]]
    for c in comparisons:
        ours = {column: c.count_text(column) for column in COUNTS}
        ours["params_m"] = f"{c.counts.parameters:,}" if c.counts else "–"
        table = {column: c.table_text(column) for column in COUNTS}
        table["params_m"] += " M" if c.row else ""
        deviation = c.mark_text().partition(", ")[2]
        cells = [f"{ours[column]} / {table[column]}" for column in COUNTS]
        rows.append([f"`{c.name}`", c.system.team or "none", *cells, c.mark, deviation])
    return rows


def _networks(comparisons: Sequence[Comparison]) -> list[list[str]]:
    rows = [["system", "name", "idea", "source", "basis", "note"]]
    for c in comparisons:
        s = c.system
        rows.append([f"`{c.name}`", s.title, s.idea, s.source, s.basis, s.note or s.why_not])
    return rows


def _baselines() -> list[list[str]]:
    rows = [["network", "year", "idea", "source", "parameters", "MACs (G)", "note"]]
    for score in NTIRE_SCORES.values():
        s, counts = NTIRE_BASELINES[score.baseline], complexity(published(score.baseline))
        numbers = (f"{counts.parameters:,}", f"{counts.macs_g:.4f}")
        rows.append([f"`{score.baseline}`", score.year, s.idea, s.source, *numbers, s.note])
    return rows


def _correlations(found: dict[str, Correlation]) -> list[list[str]]:
    complete = table_2([row for row in table_1() if row.is_complete])
    rows = [["runtime with", "Table 2", "computed", "interval", f"with starred rows ({complete['params_m'].rows})"]]
    for column, each in found.items():
        rho, _, interval = each.text().partition(" ")
        printed = f"{TABLE_2[column]:.4f}" if column in TABLE_2 else "not given"
        rows.append([LABELS[column], printed, rho, interval.strip("[]").replace(", ", " to "), complete[column].text()])
    return rows


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
