"""Optuna's samplers as pure functions: a study in memory is built from what was seen, asked once, and forgotten.

That makes a resumed run propose what an undisturbed one does, at the price of building the study anew for each
proposal (about 0.2 ms a candidate seen). All proposals are in terms of the fixed-length genome.
"""

import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState, create_trial

from ..spaces import Space
from .seen import Proposal, Seen
from .study import distributions

POPULATION = 20  # Optuna's default of 50 is slow to learn within some hundred candidates
TPE_SEES = 1000  # TPE's time grows with what it sees; half of these are the latest, half the best on the front
STATES = {
    "complete": TrialState.COMPLETE,
    "running": TrialState.RUNNING,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def nsga2(space: Space, seen: Sequence[Seen], seed: int, directions: Sequence[str]) -> Proposal:
    """NSGA-II, population 20. Source: Deb et al. 2002, as in Optuna's NSGAIISampler."""
    return _ask(optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed), space, seen, directions)


def tpe(space: Space, seen: Sequence[Seen], seed: int, directions: Sequence[str]) -> Proposal:
    """The multivariate tree-structured Parzen estimator. Source: Watanabe 2023, as in Optuna's TPESampler."""
    if len(seen) > TPE_SEES:
        latest = seen[-TPE_SEES // 2 :]
        earlier = [s for s in seen[: -TPE_SEES // 2] if s.points is not None]
        best = sorted(earlier, key=lambda s: sum(s.points or ()))[: TPE_SEES // 2]
        seen = sorted([*best, *latest], key=lambda s: s.number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
        return _ask(sampler, space, seen, directions)


def _ask(
    sampler: optuna.samplers.BaseSampler, space: Space, seen: Sequence[Seen], directions: Sequence[str]
) -> Proposal:
    # Inside, lower is better for every objective, so every direction is the same.
    study = optuna.create_study(directions=["minimize"] * len(directions), sampler=sampler)
    genes = distributions(space)
    study.add_trials(
        [
            create_trial(
                state=STATES[s.state] if s.points is not None or s.state != "complete" else TrialState.FAIL,
                values=list(s.points) if s.points is not None and s.state == "complete" else None,
                params=space.encode(s.architecture),
                distributions=dict(genes),
                system_attrs=dict(s.memory),
            )
            for s in seen
        ]
    )
    trial = study.ask(dict(genes))
    memory = study.get_trials(deepcopy=False)[-1].system_attrs
    return Proposal(space.decode(trial.params), f"{type(sampler).__name__}", dict(memory))
