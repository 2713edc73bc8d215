"""What a predictor may look at: tables of plain numbers, a row for each network, made of what is known before a result.

Each function here makes the columns of one kind; `beside` puts tables together. What a predictor was fitted on and what
it is asked about must have the same columns, so each table's columns depend on the space and on names alone, never on
the networks in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..spaces import BLOCKS, Architecture, Design, InputError, Space
from ..spaces.space import Choice, gene_of
from .complexity import complexity
from .launches import work

# Scores that span orders of magnitude from network to network; a linear model can use only their logarithm.
LOGARITHMIC = frozenset({"parameters", "flops", "activations", "convolutions", "gradient_norm", "snip", "swap"})
SMALLEST = 1e-30  # stands for 0 under a logarithm


@dataclass(frozen=True)
class Features:
    """A table of finite numbers `[N, D]` in float64, and the names of its D columns. InputError for anything else."""

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise InputError(f"features: {len(self.names)} names for a table of {list(self.values.shape)}")
        if len(set(self.names)) < len(self.names):
            raise InputError("features: two columns have one name")
        if not np.isfinite(self.values).all():
            row, column = np.argwhere(~np.isfinite(self.values))[0]
            raise InputError(f"features: '{self.names[column]}' of row {row} is {self.values[row, column]}")

    def __len__(self) -> int:
        return len(self.values)

    def beside(self, other: "Features") -> "Features":
        """This table with the columns of another, of the same networks, to its right."""
        if len(self) != len(other):
            raise InputError(f"features: {len(self)} rows beside {len(other)}")
        return Features(self.names + other.names, np.hstack((self.values, other.values)))

    def rows(self, chosen: NDArray[np.integer] | Sequence[int]) -> "Features":
        """These rows alone, in this order."""
        return Features(self.names, self.values[np.asarray(chosen, dtype=int)])


def genome_features(space: Space, architectures: Sequence[Architecture]) -> Features:
    """The genes of the space, one column for each option, and one more for the value of a gene of numbers.

    1 where the network has that option; a gene that a network does not use (of a position beyond its depth, or of
    another block type) has 0 in all of its columns. InputError for an architecture outside the space.
    """
    genes = space.genes()
    names = [f"{gene}={option}" for gene, options in genes.items() for option in options]
    numeric = [gene for gene, options in genes.items() if all(_is_number(option) for option in options)]
    rows = []
    for architecture in architectures:
        genome, used = space.encode(architecture), _used(architecture)
        row = [float(gene in used and genome[gene] == option) for gene, options in genes.items() for option in options]
        rows.append(row + [float(genome[gene]) * (gene in used) for gene in numeric])
    return _table((*names, *numeric), rows)


def _used(architecture: Architecture) -> set[str]:
    """The genes that say something of this architecture."""
    a = architecture.canonical()
    used = {"width", "depth", "fusion", "upsampler", "image_skip", *(["upsampler_width"] if a.upsampler_width else [])}
    for position, block in enumerate(a.blocks):
        used |= {f"block{position}.type", *(f"block{position}.{gene_of(name)}" for name, _ in block.choices)}
    return used


def _is_number(option: Choice) -> bool:
    return isinstance(option, int | float) and not isinstance(option, bool)


def structure_features(designs: Sequence[Design], size: tuple[int, int] = (256, 256)) -> Features:
    """What the networks' structure costs a device, at `size` (height, width): the columns of `ADDITIVE` and a few more.

    Those are the work of a forward (`launches.Work`); beside them stand the counts of the challenge, and how many
    blocks of each type there are. A published network that is a module of its own has no blocks.
    """
    rows = []
    for design in designs:
        blocks = design.architecture.blocks if isinstance(design.architecture, Architecture) else ()
        types = [float(sum(block.type == kind for block in blocks)) for kind in BLOCKS]
        counts = complexity(design, size)
        done = work(design, size).numbers()
        rows.append([*done.values(), counts.parameters / 1e6, counts.activations_m, float(counts.convolutions), *types])
    counted = ("parameters_m", "activations_m", "convolutions", *(f"blocks.{kind}" for kind in BLOCKS))
    return _table((*ADDITIVE, "channels", *counted), rows)


# What time may be a sum of: each column in proportion to a part of the work.
ADDITIVE = (
    "launches",
    "dense_macs_g",
    "pointwise_macs_g",
    "grouped_macs_g",
    "convolutions_moved_m",
    "rest_moved_m",
)


def score_features(columns: Mapping[str, Sequence[float]]) -> Features:
    """Scores as `score_table` gives them, `[N]` each; the logarithm (base 10) of those in `LOGARITHMIC`.

    InputError where a network has no such score: a predictor knows nothing of missing numbers.
    """
    found = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    made = [np.log10(np.maximum(v, SMALLEST)) if name in LOGARITHMIC else v for name, v in found.items()]
    rows = len(made[0]) if made else 0
    return Features(tuple(f"score.{name}" for name in found), np.stack(made, axis=1) if made else np.empty((rows, 0)))


def curve_features(curves: Sequence[Sequence[float]], rungs: int) -> Features:
    """The PSNR in dB at each of the first `rungs` rungs, and the last gain between two; no column where there is none.

    InputError for a network that has not come that far.
    """
    for row, curve in enumerate(curves):
        if len(curve) < rungs:
            raise InputError(f"features: row {row} has a PSNR at {len(curve)} rungs, not at {rungs}")
    values = np.array([list(curve[:rungs]) for curve in curves], dtype=np.float64).reshape(len(curves), rungs)
    names = tuple(f"psnr_db.rung{rung}" for rung in range(rungs))
    if rungs < 2:
        return Features(names, values)
    return Features((*names, "psnr_db.gain"), np.hstack((values, values[:, -1:] - values[:, -2:-1])))


def _table(names: tuple[str, ...], rows: list[list[float]]) -> Features:
    return Features(names, np.array(rows, dtype=np.float64).reshape(len(rows), len(names)))
