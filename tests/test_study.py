"""The record of a run: what is written is there again, whole, one transaction an event, and Optuna can read it."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from paretosr.search.candidate import STATES, Candidate
from paretosr.search.study import STUDY_NAME, Record, _candidate, belongs
from paretosr.spaces import BlockChoices, Design, Space, published

AIMS = ("psnr_db", "latency_ratio", "activations_m")
SPACE = Space(
    blocks=(BlockChoices("residual"), BlockChoices("imdb"), BlockChoices("inverted_residual")),
    widths=(8, 12),
    depths=(1, 2, 3),
    fusions=("none", "backward"),
    image_skips=("none", "bilinear"),
)
OUTSIDE = published("rfdn")
COUNTS = {"activations_m": 12.5, "macs_g": 0.1}
MEASURED = {**COUNTS, "latency_ratio": 0.1 + 0.2, "latency_ms": 3.3, "psnr_db": 26.123456789012345}


class Killed(BaseException):
    """The process dies here."""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record without candidates; making its tables anew for each test would take most of the time."""
    file = tmp_path_factory.mktemp("record") / "study.db"
    Record(f"sqlite:///{file}", AIMS, SPACE).close()
    return file


@pytest.fixture
def url(empty: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty, tmp_path)}"


@pytest.fixture
def record(url: str) -> Iterator[Record]:
    record = Record(url, AIMS, SPACE)
    yield record
    record.close()


def design(key: int) -> Design:
    return Design(SPACE.sample(Random(key)))


def ended(candidate: Candidate, state: str) -> Candidate:
    """The candidate at its end, with all that this end has."""
    if state == "complete":
        intervals = {"latency_ratio": (0.29, 0.31)}
        details = {"steps": 7, "train_s": 1.5, "torch": "2.13", "nested": {"list": [1, 2.5, None]}}
        return replace(candidate, state=state, numbers=MEASURED, intervals=intervals, details=details)
    if state == "running":
        return replace(candidate, numbers={**COUNTS, "latency_ratio": 0.3})
    return replace(candidate, state=state, reason="broke activations_m <= 10, with 'quotes' and ünïcode")


def filled(record: Record) -> list[Candidate]:
    """One candidate in each state by the long way, one by the short way, and two that do not belong to the space."""
    written = []
    for key, state in enumerate(STATES):
        candidate = record.add(Candidate(0, design(key), origin=f"start: {key}", numbers=COUNTS), {"memory": [key]})
        written.append(record.update(ended(candidate, state)))
    written.append(record.add(ended(Candidate(0, design(10), origin="at once"), "pruned")))
    written.append(record.add(ended(Candidate(0, OUTSIDE, origin="published"), "complete")))
    child = Candidate(0, design(1), kind="trained", parent=1, origin="candidate 1, trained", numbers=COUNTS)
    written.append(record.update(ended(record.add(child), "complete")))
    return written


def on_commit(record: Record, call: Callable[[], None]) -> None:
    """Has `call` called just before each commit of something written; those that end a reading do not count."""
    storage: Any = record._storage
    dialect = storage.engine.dialect
    begin, commit, before = dialect.do_begin, dialect.do_commit, {}

    def beginning(connection):
        before[connection.driver_connection] = connection.total_changes
        begin(connection)

    def committing(connection):
        if connection.total_changes > before[connection.driver_connection]:
            call()
        commit(connection)

    setattr(dialect, "do_begin", beginning)  # noqa: B010  the type checker knows their arguments by other names
    setattr(dialect, "do_commit", committing)  # noqa: B010


# ---- round trip


def test_every_state_comes_back_from_a_new_record(record, url):
    written = filled(record)
    assert [c.number for c in written] == list(range(len(written)))
    assert {c.state for c in written} == set(STATES)
    assert list(record.candidates) == written
    again = Record(url, AIMS, SPACE)
    assert list(again.candidates) == written
    expected = [*({"memory": [key]} for key in range(len(STATES))), {}]
    assert [again.memory(c.number) for c in again.candidates[: len(expected)]] == expected
    assert again.candidates[STATES.index("complete")].numbers["psnr_db"] == MEASURED["psnr_db"]  # to the last digit
    again.close()


def test_a_reopened_record_goes_on_where_the_old_one_was(record, url):
    filled(record)
    again = Record(url, AIMS, SPACE)
    running = next(c for c in again.candidates if c.state == "running")
    again.update(ended(running, "complete"))
    assert again.add(Candidate(0, design(20))).number == len(record.candidates)
    third = Record(url, AIMS, SPACE)
    assert third.candidates == again.candidates
    again.close()
    third.close()


def test_facts_of_the_run_are_kept(record, url):
    facts = {"first": {"steps": 12, "reference": {"name": "imdn", "numbers": {"a": 0.1}}}, "seconds": 1.25, "n": None}
    for name, value in facts.items():
        record.set_attribute(name, value)
    record.set_attribute("seconds", 2.5)
    again = Record(url, AIMS, SPACE)
    for source in (record, again):
        assert source.attribute("first") == facts["first"]
        assert source.attribute("seconds") == 2.5
        assert source.attribute("n") is None
        assert source.attribute("never written") is None
    again.close()


def test_a_large_fact_fits(record, url):
    big = {f"confirm/training/{i}/1": {"psnr_db": 27.0 + i} for i in range(2000)}
    record.set_attribute("confirmed", big)
    again = Record(url, AIMS, SPACE)
    assert again.attribute("confirmed") == big
    again.close()


def test_only_a_searched_network_of_the_space_belongs_to_it(record):
    inside = Candidate(0, design(0))
    assert belongs(inside, SPACE)
    assert not belongs(inside, None)
    assert not belongs(replace(inside, kind="trained"), SPACE)
    assert not belongs(replace(inside, design=OUTSIDE), SPACE)
    filled(record)
    with_genome = [bool(trial.params) for trial in record._trials()]
    assert with_genome == [belongs(c, SPACE) for c in record.candidates] == [True] * (len(STATES) + 1) + [False] * 2


def test_a_record_without_a_space_holds_any_network(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    record = Record(url, ("psnr_db",))
    record.update(ended(record.add(Candidate(0, OUTSIDE, kind="trained")), "complete"))
    again = Record(url, ("psnr_db",))
    assert again.candidates == record.candidates
    record.close()
    again.close()


# ---- one transaction an event


def test_each_event_is_one_transaction_and_an_end_two(record):
    seen: list[int] = []
    on_commit(record, lambda: seen.append(1))

    def count(write):
        before = len(seen)
        result = write()
        return result, len(seen) - before

    candidate, adding = count(lambda: record.add(Candidate(0, design(0), numbers=COUNTS), {"memory": 1}))
    candidate, measuring = count(lambda: record.update(ended(candidate, "running")))
    _, ending = count(lambda: record.update(ended(candidate, "complete")))
    _, noting = count(lambda: record.set_attribute("seconds", 1.0))
    _, pruning = count(lambda: record.add(ended(Candidate(0, design(1)), "pruned")))
    assert (adding, measuring, noting, pruning) == (1, 1, 1, 1)
    assert ending == 2  # the numbers, then state and values


def killed_at(record: Record, commit: int) -> None:
    """Dies instead of committing for the `commit`-th time from now."""
    left = [commit]

    def die():
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    on_commit(record, die)


def test_a_candidate_is_found_whole_or_not_at_all(record, url):
    before = record.add(Candidate(0, design(0), numbers=COUNTS))
    killed_at(record, 1)
    with pytest.raises(Killed):
        record.add(Candidate(0, design(1), numbers=COUNTS), {"memory": 1})
    record.close()
    again = Record(url, AIMS, SPACE)
    assert again.candidates == (before,)
    running = again.add(Candidate(0, design(1), origin="again", numbers=COUNTS), {"memory": 2})
    again.close()
    third = Record(url, AIMS, SPACE)  # as a driver finds it that was killed while the candidate ran
    assert third.candidates[1] == running
    assert third.memory(1) == {"memory": 2}
    assert third._trials()[1].params == SPACE.used_genes(running.design.architecture)  # type: ignore[arg-type]
    third.close()


@pytest.mark.parametrize(("commit", "numbers"), [(1, COUNTS), (2, MEASURED)])
def test_an_end_that_was_cut_short_leaves_the_candidate_running(record, url, commit, numbers):
    candidate = record.add(Candidate(0, design(0), numbers=COUNTS))
    killed_at(record, commit)
    with pytest.raises(Killed):
        record.update(ended(candidate, "complete"))
    record.close()
    again = Record(url, AIMS, SPACE)
    (found,) = again.candidates
    assert (found.state, found.numbers) == ("running", numbers)
    assert again.update(ended(found, "complete")).state == "complete"
    again.close()


def test_a_candidate_that_lacks_an_objective_is_not_written(record, url):
    with pytest.raises(KeyError, match="psnr_db"):
        record.add(Candidate(0, design(0), state="complete", numbers=COUNTS))
    assert record.candidates == ()
    assert record.add(Candidate(0, design(0))).number == 0


# ---- Optuna


def test_optuna_reads_parameters_values_and_states(record, url):
    written = filled(record)
    study = optuna.load_study(study_name=STUDY_NAME, storage=url)
    names = [direction.name for direction in study.directions]
    assert names == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert study.metric_names == list(AIMS)
    states = {"running": "RUNNING", "paused": "RUNNING", "complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for trial, candidate in zip(study.trials, written, strict=True):
        assert trial.number == candidate.number
        assert trial.state.name == states[candidate.state]
        if belongs(candidate, SPACE):
            assert SPACE.decode(trial.params) == candidate.design.architecture
            assert trial.params == SPACE.used_genes(candidate.design.architecture)  # type: ignore[arg-type]
            assert {name: trial.distributions[name].choices for name in trial.params} == {  # type: ignore[attr-defined]
                name: SPACE.genes()[name] for name in trial.params
            }
        if candidate.state == "complete":
            assert trial.values == [MEASURED[name] for name in AIMS]
        assert trial.user_attrs["candidate"]["hash"] == candidate.design.hash
        assert json.dumps(trial.user_attrs)
    assert {trial.number for trial in study.best_trials} == {c.number for c in written if c.state == "complete"}


def test_an_early_record_with_an_attribute_for_each_part_is_read_alike(record, url):
    written = filled(record)
    for trial in record._trials():
        (candidate,) = [c for c in written if c.number == trial.number]
        parts, measured = trial.user_attrs["candidate"], trial.user_attrs["measured"]
        early = create_trial(
            state=TrialState.RUNNING, user_attrs={**parts, "measured": measured}, params={}, distributions={}
        )
        assert replace(_candidate(early), number=candidate.number, state=candidate.state) == candidate


def test_the_record_is_one_file_that_passes_sqlites_own_check(record, url):
    filled(record)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
