"""Optuna's samplers as pure functions: a study in memory is built from what was seen, asked once, and forgotten.

That makes a resumed run propose what an undisturbed one does, at the price of building the study anew for each
proposal (about 0.06 ms a candidate seen). All proposals are in terms of the fixed-length genome.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..spaces import Space
from .front import layers
from .seen import Proposal, Seen

POPULATION = 20  # Optuna's default of 50 is slow to learn within some hundred candidates
GENERATION = "NSGAIISampler:generation"  # where Optuna keeps a trial's generation; it overlooks a trial without one
TPE_SEES = 1000  # TPE's time grows with what it sees; half of these are the latest, half the best by front
STATES = {
    "complete": TrialState.COMPLETE,
    "running": TrialState.RUNNING,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Gene(CategoricalDistribution):
    """A gene that all trials share, uncopied: copying and comparing genes was most of a proposal's time."""

    def __deepcopy__(self, _: dict[int, Any]) -> "Gene":
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    __hash__ = CategoricalDistribution.__hash__


class Past(FrozenTrial):
    """A trial that is told and never changed: the study shares its parts instead of copying them."""

    def __deepcopy__(self, _: dict[int, Any]) -> "Past":
        return copy.copy(self)


def nsga2(space: Space, seen: Sequence[Seen], seed: int, directions: Sequence[str]) -> Proposal:
    """NSGA-II, population 20. Source: Deb et al. 2002, as in Optuna's NSGAIISampler.

    What it did not propose itself (a published network, a random draw) belongs to the generation it came in.
    """
    generation, all_seen = 0, []
    for s in seen:
        generation = max(generation, s.memory.get(GENERATION, generation))
        all_seen.append(replace(s, memory={GENERATION: generation, **s.memory}))
    return _ask(optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed), space, all_seen, directions)


def tpe(space: Space, seen: Sequence[Seen], seed: int, directions: Sequence[str]) -> Proposal:
    """The multivariate tree-structured Parzen estimator. Source: Watanabe 2023, as in Optuna's TPESampler."""
    if len(seen) > TPE_SEES:
        latest = seen[-TPE_SEES // 2 :]
        earlier = [s for s in seen[: -TPE_SEES // 2] if s.points is not None]
        rank = layers(np.array([s.points for s in earlier], dtype=np.float64))
        best = sorted(np.argsort(rank, kind="stable")[: TPE_SEES // 2])
        seen = [*(earlier[i] for i in best), *latest]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
        # Its memory would be the genome once more.
        return replace(_ask(sampler, space, seen, directions), memory={})


def _ask(
    sampler: optuna.samplers.BaseSampler, space: Space, seen: Sequence[Seen], directions: Sequence[str]
) -> Proposal:
    # Inside, lower is better for every objective, so every direction is the same.
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, directions=[StudyDirection.MINIMIZE] * len(directions), sampler=sampler
    )
    genes = {name: Gene(options) for name, options in space.genes().items()}
    # Not by study.add_trials, which checks every trial anew: of many candidates that took longer than the proposal.
    study_id = storage.get_study_id_from_name(study.study_name)
    for s in seen:
        storage.create_new_trial(study_id, _past(space, s, genes))
    trial = study.ask(dict(genes))
    memory = study.get_trials(deepcopy=False)[-1].system_attrs
    return Proposal(space.decode(trial.params), type(sampler).__name__, dict(memory))


def _past(space: Space, s: Seen, genes: dict[str, Any]) -> Past:
    """What was seen, as Optuna keeps it; its number and the time are Optuna's own affair."""
    return Past(
        number=-1,
        trial_id=-1,
        state=STATES[s.state] if s.points is not None or s.state != "complete" else TrialState.FAIL,
        value=None,
        values=s.points if s.state == "complete" else None,
        datetime_start=None,
        datetime_complete=None,
        params=space.encode(s.architecture),
        distributions=genes,
        user_attrs={},
        system_attrs=dict(s.memory),
        intermediate_values={},
    )
