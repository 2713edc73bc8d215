"""The record of a run: an Optuna study that this process alone writes, one transaction an event.

A candidate is one trial: its genome is the trial's parameters (none for a network outside the space), all else it
carries is JSON in two user attributes, `candidate` and `measured`, written whole, so that a kill leaves an event or no
event. Two and not eight, since each is queries of its own (benchmarks/driver.py). What belongs to the run (its first
record, the confirmations) is JSON in the study's user attributes.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..spaces import Design, Space
from .candidate import Candidate
from .objectives import OBJECTIVES

STATE_NAMES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "running",
}
TRIAL_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
OPEN = ("running", "paused")  # Optuna cannot reopen a trial: one that may still be promoted stays a running one there
STUDY_NAME = "paretosr"

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distributions(space: Space) -> dict[str, CategoricalDistribution]:
    """The genes of a space as Optuna knows them; the same for every candidate."""
    return {name: CategoricalDistribution(options) for name, options in space.genes().items()}


def belongs(candidate: Candidate, space: Space | None) -> bool:
    """Whether the candidate has a genome of the space; only these are shown to a sampler.

    A longer training, a pruned network and one outside the space have none.
    """
    design = candidate.design
    return candidate.kind == "search" and design.plan is None and space is not None and design.architecture in space


class Record:
    """All candidates of a run, and the only way to write one.

    url: a SQLAlchemy URL (`sqlite:///out/x/study.db`); None keeps nothing, for searches in simulated time. study: its
    name there, for a database may hold many. engine: what SQLAlchemy is to be told beside the URL. reading: writes
    nothing, not even what every driver writes when it opens a record; KeyError where there is no such study.
    """

    def __init__(
        self,
        url: str | None,
        objectives: Sequence[str],
        space: Space | None = None,
        *,
        study: str = STUDY_NAME,
        engine: Mapping[str, Any] | None = None,
        reading: bool = False,
    ) -> None:
        self.objectives = tuple(objectives)
        self.space = space
        self._distributions = distributions(space) if space else {}
        self._storage = _opened(url, engine, reading=reading) if url else optuna.storages.InMemoryStorage()
        if reading:
            self._study = optuna.load_study(study_name=study, storage=self._storage)
        else:
            self._study = _study(self._storage, study, self.objectives)
        self._study_id = self._storage.get_study_id_from_name(study)
        # Facts before trials: read while a driver writes, they speak of no candidate that is not there yet.
        self._attributes: dict[str, Any] = dict(self._study.user_attrs)
        trials = self._trials()
        self._trial_ids = [trial._trial_id for trial in trials]
        self._candidates = [_candidate(trial) for trial in trials]
        self._memories = {trial.number: dict(trial.system_attrs) for trial in trials}
        self._log = [c.number for c in self._candidates]  # the numbers of all that was written, in its order

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def close(self) -> None:
        """Lets go of the database."""
        self._storage.remove_session()
        if isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.engine.dispose()

    # ---- reading

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates by number, without curves (those are files)."""
        return tuple(self._candidates)

    def changes(self, mark: int) -> tuple[int, list[int]]:
        """The numbers of the candidates written since `mark` (0: ever), and the mark to ask with next."""
        return len(self._log), self._log[mark:]

    def memory(self, number: int) -> dict[str, Any]:
        """What the sampler asked to remember with this candidate."""
        return self._memories[number]

    def attribute(self, name: str) -> Any:
        """A fact of the run, None where it is not (yet) known."""
        return self._attributes.get(name)

    # ---- writing; each call is one transaction, or a few whose loss of the last ones does no harm

    def set_attribute(self, name: str, value: Any) -> None:
        """Writes a fact of the run."""
        self._study.set_user_attr(name, value)
        self._attributes[name] = value

    def add(self, candidate: Candidate, memory: Mapping[str, Any] | None = None) -> Candidate:
        """Writes a new candidate, whole, in the state it has; gives it back with its number."""
        number = len(self._candidates)
        # Optuna takes parameters that only some trials have; each that is written costs the driver 2 ms.
        params = self.space.used_genes(candidate.design.architecture) if belongs(candidate, self.space) else {}  # type: ignore[union-attr, arg-type]
        values = self._values(candidate) if candidate.state == "complete" else None
        trial = create_trial(
            state=TRIAL_STATES.get(candidate.state, TrialState.RUNNING),
            values=values,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            user_attrs={
                "candidate": {
                    "design": candidate.design.to_json(),
                    "kind": candidate.kind,
                    "parent": candidate.parent,
                    "origin": candidate.origin,
                    "summary": candidate.design.summary(),
                    "hash": candidate.design.hash,
                },
                "measured": _measured(candidate),
            },
            system_attrs=dict(memory or {}),
        )
        self._trial_ids.append(self._storage.create_new_trial(self._study_id, trial))
        self._candidates.append(replace(candidate, number=number))
        self._memories[number] = dict(memory or {})
        self._log.append(number)
        return self._candidates[number]

    def update(self, candidate: Candidate) -> Candidate:
        """Writes what was measured since: numbers first, then, where it ended, its state and values."""
        # By the storage, for `tell` reads the trial whole, twice.
        number, trial_id = candidate.number, self._trial_ids[candidate.number]
        self._storage.set_trial_user_attr(trial_id, "measured", _measured(candidate))
        if candidate.state not in OPEN:
            values = self._values(candidate) if candidate.state == "complete" else None
            self._storage.set_trial_state_values(trial_id, TRIAL_STATES[candidate.state], values)
        self._candidates[number] = candidate
        self._log.append(number)
        return candidate

    def _values(self, candidate: Candidate) -> list[float]:
        return [float(candidate.numbers[name]) for name in self.objectives]


def _opened(url: str, engine: Mapping[str, Any] | None, *, reading: bool) -> optuna.storages.RDBStorage:
    """The storage of a database; KeyError where it is to be read and its first driver has not made the tables yet."""
    try:
        return optuna.storages.RDBStorage(url, dict(engine or {}), skip_table_creation=reading)
    except optuna.exceptions.StorageInternalError as error:
        if reading and "version_info" in str(error.__cause__):
            raise KeyError(url) from error
        raise


def for_dashboard(record: Record) -> optuna.storages.BaseStorage:
    """A copy of an open record in memory, as optuna-dashboard is to show it; its study has the record's name.

    What was measured stands there number by number. Candidates paused at a rung have their rungs as intermediate
    values, and are pruned trials where the run is finished: to Optuna's eyes they would run for ever.
    """
    storage, source = optuna.storages.InMemoryStorage(), record._study
    copy = _study(storage, source.study_name, record.objectives)
    for name, value in source.user_attrs.items():
        copy.set_user_attr(name, value)
    finished = bool(record.attribute("finished"))
    for trial in record._trials():
        candidate = _candidate(trial)
        over = finished and candidate.state == "paused"
        shown = FrozenTrial(
            number=trial.number,
            state=TrialState.PRUNED if over else trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_start if over else trial.datetime_complete,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=_described(trial)
            | dict(candidate.numbers)
            | {"state": candidate.state, "reason": candidate.reason},
            system_attrs={},
            intermediate_values=dict(candidate.rungs),
            trial_id=0,  # given anew by the storage
        )
        copy.add_trial(shown)
    return storage


def _study(storage: optuna.storages.BaseStorage, name: str, objectives: Sequence[str]) -> optuna.Study:
    """The study of this name, made where it is not there yet."""
    directions = [DIRECTIONS[OBJECTIVES[objective].direction] for objective in objectives]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    with warnings.catch_warnings():  # names for dashboards; "experimental" since 3.2
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    return study


def _measured(candidate: Candidate) -> dict[str, Any]:
    """All that was measured, as it is written."""
    return {
        "numbers": dict(candidate.numbers),
        "intervals": {name: list(interval) for name, interval in candidate.intervals.items()},
        "reason": candidate.reason,
        "details": dict(candidate.details),
        "paused": candidate.state == "paused",
    }


def _described(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial says of its candidate beside what was measured; in early records each in an attribute of its own."""
    every = trial.user_attrs
    return every["candidate"] if "candidate" in every else {k: v for k, v in every.items() if k != "measured"}


def _candidate(trial: FrozenTrial) -> Candidate:
    """The candidate that a trial holds."""
    attributes, measured = _described(trial), trial.user_attrs["measured"]
    return Candidate(
        number=trial.number,
        design=Design.from_json(attributes["design"]),
        state="paused" if measured.get("paused") else STATE_NAMES[trial.state],
        kind=attributes["kind"],
        parent=attributes["parent"],
        origin=attributes["origin"],
        numbers=measured["numbers"],
        intervals={name: (low, high) for name, (low, high) in measured["intervals"].items()},
        reason=measured["reason"],
        details=measured["details"],
    )
