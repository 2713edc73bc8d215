"""Which of several proposals is evaluated: the one that predictors expect most of. What is recorded is measured.

PSNR is predicted from the genome and how long a network was trained; what is timed from the work of a forward; what is
counted is counted. The models learn from the candidates seen so far, anew for each proposal, so that a resumed search
chooses as an undisturbed one does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..proxies.features import Features, genome_features, structure_features
from ..proxies.predictors import FEWEST_ROWS, quick_fit
from ..spaces import Architecture, Design, Space
from .objectives import OBJECTIVES
from .seen import Proposal, Seen

LEARNS_FROM = 1000  # candidates, the latest: more cost time and add little
TIMED_MODEL = "sum"


@dataclass(frozen=True)
class Prefilter:
    """proposals: among so many one is chosen. model: the name of a predictor of PSNR."""

    proposals: int = 8
    model: str = "extra_trees"


def chosen(
    prefilter: Prefilter,
    space: Space,
    objectives: Sequence[str],
    proposals: Sequence[Proposal],
    seen: Sequence[Seen],
    count: Callable[[Design], Mapping[str, float]],
) -> Proposal:
    """The proposal whose predicted point the fewest seen ones dominate; of equals the farthest from what was seen.

    The first proposal as long as too few candidates are measured to learn from.
    """
    measured = [s for s in seen if s.points is not None][-LEARNS_FROM:]
    if len(proposals) < 2 or len(measured) < FEWEST_ROWS:
        return proposals[0]
    known = np.array([s.points for s in measured], dtype=np.float64)
    architectures = [proposal.architecture for proposal in proposals]
    columns = []
    for at, name in enumerate(objectives):
        stage, sign = OBJECTIVES[name].stage, OBJECTIVES[name].sign
        if stage == "counted":
            columns.append(np.array([sign * count(Design(a))[name] for a in architectures]))
        elif stage == "trained":
            whole, expected = _psnr(prefilter.model, space, measured, known[:, at], architectures)
            known[:, at] = whole
            columns.append(expected)
        else:
            columns.append(_timed(name, measured, sign * known[:, at], architectures) * sign)
    best = _best(np.column_stack(columns), known)
    words = f"{proposals[best].origin}, chosen of {len(proposals)}"
    return Proposal(proposals[best].architecture, words, proposals[best].memory)


def _psnr(
    model: str, space: Space, measured: Sequence[Seen], points: NDArray[np.float64], asked: Sequence[Architecture]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minus the PSNR of whole trainings: of those measured `[M]`, and of those asked for `[N]`.

    Learnt from trainings of any length. Measured where the training was a whole one, expected elsewhere: an early PSNR
    is lower, and beside it almost any proposal would look good.
    """
    shares = np.array([[np.log(s.share)] for s in measured])
    genomes = genome_features(space, [s.architecture for s in measured])
    expect = quick_fit(genomes.beside(Features(("log_share",), shares)), points, model)

    def whole(genomes: Features) -> NDArray[np.float64]:
        return expect(genomes.beside(Features(("log_share",), np.zeros((len(genomes.values), 1)))))

    return np.where(shares[:, 0] < 0, whole(genomes), points), whole(genome_features(space, asked))


def _timed(
    name: str, measured: Sequence[Seen], values: NDArray[np.float64], asked: Sequence[Architecture]
) -> NDArray[np.float64]:
    """What is timed, expected of networks, `[N]`."""
    learnt = _structures([s.architecture for s in measured])
    return quick_fit(learnt, values, TIMED_MODEL)(_structures(asked))


def _structures(architectures: Sequence[Architecture]) -> Features:
    rows = [_structure(a) for a in architectures]
    return Features(rows[0].names, np.vstack([row.values for row in rows]))


@lru_cache(maxsize=4 * LEARNS_FROM)
def _structure(architecture: Architecture) -> Features:
    return structure_features([Design(architecture)])


def _best(expected: NDArray[np.float64], known: NDArray[np.float64]) -> int:
    """The index of the expected point, of `[N, D]`, that the fewest known `[M, D]` dominate; of equals the farthest."""
    no_worse = np.all(known[None] <= expected[:, None], axis=2)
    better = np.any(known[None] < expected[:, None], axis=2)
    dominators = (no_worse & better).sum(axis=1)
    low, length = known.min(axis=0), np.ptp(known, axis=0)
    scale = np.where(length > 0, length, 1.0)
    distance = np.abs((expected[:, None] - low) / scale - (known[None] - low) / scale).max(axis=2).min(axis=1)
    return min(range(len(expected)), key=lambda i: (dominators[i], -distance[i], i))
