"""nni's tuners as pure functions: a tuner is built, told what was seen, asked once, and forgotten.

nni (Neural Network Intelligence, Microsoft) is an optional guest: `pip install 'paretosr[nni]'`. Two of its tuners can
be told of networks that they did not propose (`import_data`), which a search that is stopped and goes on needs. nni's
Evolution cannot: its `import_data` does nothing, it takes results only for what the same object has proposed, and it
draws from Python's global generator. It is left out; the sampler `evolution` is ours. Source: nni 3.0,
`nni.algorithms.hpo`.
"""

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spaces import InputError, Space
from .seen import Proposal, Seen

SEES = 500  # a proposal's time grows with what a tuner is told; half of these are the latest, half the best
EVEN = 0.05  # the part of the sum beside the maximum, as in ParEGO
CANDIDATES = 2  # that TPE draws for a gene, to keep the better; of its 24 the best of few options always is the same
NEEDS = {"nni_tpe": "nni.algorithms.hpo.tpe_tuner", "nni_anneal": "nni.algorithms.hpo.hyperopt_tuner"}


def nni_tpe(space: Space, seen: Sequence[Seen], seed: int, directions: Sequence[str]) -> Proposal:
    """A tree-structured Parzen estimator for each gene by itself. Source: Bergstra et al. 2011, as in nni's TpeTuner.

    Random until it is told of 20 networks.
    """
    with _quiet():
        tuner = _module("nni_tpe").TpeTuner("minimize", seed, {"n_ei_candidates": CANDIDATES})
        return _ask("nni_tpe", tuner, space, seen, seed)


def nni_anneal(space: Space, seen: Sequence[Seen], seed: int, directions: Sequence[str]) -> Proposal:
    """Draws near one of the best, gene by gene, and nearer the more were seen. Source: hyperopt's anneal, by nni."""
    with _quiet():
        tuner = _module("nni_anneal").HyperoptTuner("anneal", "minimize")
        return _ask("nni_anneal", tuner, space, seen, seed)


def one_number(points: NDArray[np.float64], random: Random) -> NDArray[np.float64]:
    """Several objectives as one number, lower is better: `[N, D]` to `[N]`, 0 or more.

    The augmented Chebyshev norm, by weights drawn uniformly from all that add up to 1: each proposal aims at another
    part of the front, and the union of what they find is the front. The layer of the front as the number would put its
    far ends first, which tuners that look at each gene by itself then mix. 0 is the best in an objective, 1 its median:
    with the worst for 1, a training that collapsed squeezes all others together. (Hypervolume that TPE gained over
    random draws, where one training in forty collapsed: 0.14 so, 0.06 with the worst, 0.13 with layers.) Source:
    Knowles 2006, "ParEGO", which has the worst for 1.
    """
    drawn = np.array([random.expovariate(1) for _ in range(points.shape[1])])
    best = points.min(axis=0)
    span = np.median(points, axis=0) - best
    weighted = drawn / drawn.sum() * (points - best) / np.where(span > 0, span, 1)
    return weighted.max(axis=1) + EVEN * weighted.sum(axis=1)


def told(space: Space, seen: Sequence[Seen], random: Random) -> list[dict[str, Any]]:
    """What a tuner is told, in the order of the record: genomes with their numbers, as nni's `import_data` takes them.

    What broke a limit is told as worse than all that is measured: TPE learns to keep away from it, and anneal never
    starts there. What failed is left out, as nni does itself, and so is what is on its way: other weights keep
    proposals of the same time apart.
    """
    measured = [i for i, s in enumerate(seen) if s.points is not None]
    numbers: dict[int, float] = {}
    if measured:
        values = one_number(np.array([seen[i].points for i in measured], dtype=np.float64), random)
        numbers = dict(zip(measured, (1 + values).tolist(), strict=True))  # nni's anneal overlooks a 0
    worst = 1 + max(numbers.values(), default=0)
    numbers |= {i: worst for i, s in enumerate(seen) if s.points is None and s.state == "pruned"}
    places = sorted(numbers)
    if len(places) > SEES:
        latest = places[-(SEES // 2) :]
        best = sorted(places[: -(SEES // 2)], key=lambda i: (numbers[i], i))[: SEES - len(latest)]
        places = sorted([*best, *latest])
    return [{"parameter": space.encode(seen[i].architecture), "value": numbers[i]} for i in places]


def refuse_absent(sampler: str) -> None:
    """InputError where a sampler is one of nni's, and nni is not there."""
    if sampler in NEEDS:
        with _quiet():
            _module(sampler)


class _Anything:
    """Stands for nni's memory of what it has proposed.

    The search draws again what it knows. nni's own writes every genome out once for each gene: 20 s for 1,000 of 90.
    """

    def add_history(self, genome: Mapping[Any, Any]) -> None:
        pass

    def __call__(self, genome: Mapping[Any, Any]) -> Mapping[Any, Any]:
        return genome


def _ask(sampler: str, tuner: Any, space: Space, seen: Sequence[Seen], seed: int) -> Proposal:
    genes = space.genes()
    if not genes:
        return Proposal(space.decode({}), sampler)
    tuner.update_search_space({name: {"_type": "choice", "_value": list(options)} for name, options in genes.items()})
    if sampler == "nni_tpe":
        tuner.dedup = _Anything()
    else:
        tuner.rval.rstate.seed(seed)  # it takes no seed, and would take one from the clock
    tuner.import_data(told(space, seen, Random(seed)))
    return Proposal(space.decode(tuner.generate_parameters(0)), sampler)


def _module(sampler: str) -> Any:
    """The module of nni that holds a sampler's tuner; InputError where it, or what it needs, is not installed."""
    try:
        # By name, since it is an optional guest that type checkers do not find.
        module = importlib.import_module(NEEDS[sampler])
        importlib.import_module("nni").silence_stdout()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        which = "nni, which" if missing == "nni" else f"nni's '{missing}', which"
        raise InputError(
            f"the sampler '{sampler}' needs {which} is not installed: pip install 'paretosr[nni]', in an environment "
            "of its own"
        ) from None
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """What nni warns of is not told, for the duration of a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
