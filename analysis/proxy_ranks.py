"""How well cheap numbers put networks into the order of their PSNR: scores, counts, early PSNR, and predictors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..proxies.features import Features, curve_features, genome_features, score_features, structure_features
from ..proxies.predictors import PSNR_MODELS, Validation, cross_validate
from ..proxies.scores import SCORES
from ..spaces import Architecture, Design, InputError, Space
from .correlation import Correlation, partial_rank_correlation, rank_correlation

FEWEST = 20  # networks, of which a ranking says anything
AT_RUNG = "psnr_db@"  # how the names of PSNR at a rung begin; its steps follow
COUNTED_AS = {"activations": "activations_m"}  # scores that are among the costs
COST_LABELS = {"latency_ratio": "latency, measured", "activations_m": "activations (M)"}
LATENCY_MODELS = ("sum", "ridge", "gradient_boosting")


@dataclass(frozen=True)
class Sample:
    """Networks with what was measured of them: PSNR at the end, and at the rungs before it where there are any.

    curves: `[N][rungs]`, PSNR in dB; rungs: their steps. costs: latency and activations, by name, which a search knows
    before it trains anything.
    """

    space: Space
    designs: tuple[Design, ...]
    psnr_db: tuple[float, ...]
    costs: Mapping[str, tuple[float, ...]]
    rungs: tuple[int, ...] = ()
    curves: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.designs) < FEWEST:
            raise InputError(f"{len(self.designs)} networks are trained to the end; a ranking needs {FEWEST}")

    @property
    def architectures(self) -> list[Architecture]:
        """Of the networks, which all lie in the space."""
        return [a for d in self.designs if isinstance(a := d.architecture, Architecture)]


@dataclass(frozen=True)
class Rank:
    """One number against PSNR: its rank correlation, and that given latency and activations. control: a plain count."""

    name: str
    label: str
    control: bool
    plain: Correlation
    partial: Correlation


def ranks(sample: Sample, scores: Mapping[str, Sequence[float]]) -> list[Rank]:
    """A row for each cost, each score, and PSNR at each rung; networks without a score are left out of its row."""
    columns: dict[str, tuple[str, bool, Sequence[float]]] = {}
    for name, values in sample.costs.items():
        columns[name] = (COST_LABELS.get(name, name), True, values)
    for name, values in scores.items():
        if COUNTED_AS.get(name) in sample.costs:
            continue  # the same number, at another size of image
        columns[name] = (SCORES[name].label, SCORES[name].control, values)
    for at, steps in enumerate(sample.rungs):
        columns[f"{AT_RUNG}{steps}"] = (f"PSNR after {steps:,} steps", False, [curve[at] for curve in sample.curves])
    truth, given = np.array(sample.psnr_db), np.column_stack([np.array(v) for v in sample.costs.values()])
    found = []
    for name, (label, control, values) in columns.items():
        column = np.array(values, dtype=np.float64)
        known = np.isfinite(column)
        plain = rank_correlation(zip(column[known], truth[known], strict=True))
        partial = Correlation(None, None, None, int(known.sum()))
        if name not in sample.costs:
            partial = partial_rank_correlation(column[known], truth[known], given[known])
        found.append(Rank(name, label, control, plain, partial))
    return found


@dataclass(frozen=True)
class Predicted:
    """A predictor, cross-validated: what it predicts, from what, and how well."""

    target: str
    features: str
    validation: Validation


def predictors(
    sample: Sample,
    scores: Mapping[str, Sequence[float]],
    psnr_models: Sequence[str] = PSNR_MODELS,
    latency_models: Sequence[str] = LATENCY_MODELS,
) -> Iterator[Predicted]:
    """Each PSNR model from each set of features, from the genome alone to the curve; each latency model from the
    structure."""
    genome = genome_features(sample.space, sample.architectures)
    known = {name: values for name, values in scores.items() if all(map(math.isfinite, values))}
    with_scores = genome.beside(score_features(known)) if known else genome
    words = "scores" if len(known) == len(scores) else f"{len(known)} of {len(scores)} scores"  # those that all have
    sets: dict[str, Features] = {"genome": genome, f"genome, {words}": with_scores}
    for at, steps in enumerate(sample.rungs, 1):
        sets[f"genome, {words}, PSNR to {steps:,} steps"] = with_scores.beside(curve_features(sample.curves, at))
    for words, features in sets.items():
        for model in psnr_models:
            yield Predicted("psnr_db", words, cross_validate(features, sample.psnr_db, model))
    if "latency_ratio" in sample.costs:
        structure = structure_features(sample.designs)
        for model in latency_models:
            found = cross_validate(structure, sample.costs["latency_ratio"], model)
            yield Predicted("latency_ratio", "structure", found)
