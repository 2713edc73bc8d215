"""The search with real, tiny trainings: resumed equals undisturbed, deaths, and what is recorded of each candidate."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lives import EXACT, SPACE, Here, Killed, Run, dying_after, raising, small_settings

from paretosr.proxies import latency_methods as latency_room
from paretosr.proxies import work as work_room
from paretosr.proxies.complexity import complexity
from paretosr.proxies.work import Data
from paretosr.search import loop as loop_room
from paretosr.search.engine import Interrupted
from paretosr.search.loop import Exhausted
from paretosr.search.objectives import Limit
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.search.verdict import confirm


@pytest.fixture(scope="module")
def settings(data: Data) -> Settings:
    return small_settings(data)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record without candidates; making its tables anew for each test would take most of the time."""
    file = tmp_path_factory.mktemp("record") / "study.db"
    Record(f"sqlite:///{file}", EXACT, SPACE).close()
    return file


@pytest.fixture(scope="module")
def undisturbed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """What comes of the run that is disturbed below, and the training steps it takes."""
    steps: list[str] = []

    def note(event: str) -> None:
        steps.extend([event] if event == "step" else [])

    run = Run(replace(settings, confirm_seeds=1), tmp_path_factory.mktemp("undisturbed"))
    assert run.live(Here(note))
    return run.outcome(), len(steps)


def stopped(run: Run, after_steps: int) -> bool:
    """One life of a run that is asked to stop after so many steps; False where it came to its end before."""
    engine, steps = Here(), []

    def ask(event: str) -> None:
        steps.extend([event] if event == "step" else [])
        engine.stopping = len(steps) >= after_steps

    engine.event = ask
    try:
        run.live(engine)
    except Interrupted:
        return True
    return False


@pytest.fixture
def saved_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves do not wait for their time, so that a death loses no step and the tests no determinism."""
    monkeypatch.setattr(work_room, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(work_room, "SAVE_SHARE", float("inf"))


# ---- resumed equals undisturbed


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_again_and_again_equals_one_that_was_not(
    settings, tmp_path, empty, undisturbed, saved_each_step, seed
):
    run = Run(replace(settings, confirm_seeds=1), tmp_path / "run", empty)
    random, log, lives = Random(seed), [], 1
    while not run.live(Here(dying_after(random.randint(4, 20), log))):
        lives += 1
    expected, steps = undisturbed
    assert lives > 8
    assert run.outcome() == expected
    assert log.count("step") == steps  # no step was done twice
    assert not list(run.folder.glob("*/state.pt"))
    assert not list(run.folder.glob("*/running"))


def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_end(settings, tmp_path, empty, undisturbed, saved_each_step):
    run = Run(replace(settings, confirm_seeds=1), tmp_path / "run", empty)
    stops = 0
    while stopped(run, after_steps=2):
        stops += 1
        assert not list(run.folder.glob("*/deaths.json"))  # a stop is no death
        assert stops < 40
    assert stops > 5
    assert run.outcome() == undisturbed[0]


def test_a_finished_run_does_nothing_more(settings, tmp_path):
    run = Run(replace(settings, budget=Budget(2), confirm_seeds=1), tmp_path)
    assert run.live(Here())
    before, engine = run.outcome(), Here()
    assert run.live(engine)
    assert engine.done == []
    assert run.outcome() == before
    assert run.kept is not None
    assert not confirm(run.settings, run.kept, engine, run.at, lambda: None)


def test_a_longer_budget_goes_on_where_the_run_ended(settings, tmp_path, undisturbed):
    run = Run(replace(settings, budget=Budget(3)), tmp_path)
    run.live(Here())
    run.settings = replace(run.settings, budget=Budget(6))
    run.live(Here())
    assert [c.design for c in run.outcome()[0]] == [c.design for c in undisturbed[0][0]]


def test_a_death_between_the_numbers_and_the_end_does_not_judge_anew(settings, tmp_path, empty):
    """A limit on PSNR keeps a candidate off the front; it is no reason to call it untrained."""
    run = Run(replace(settings, budget=Budget(1), limits=(Limit("psnr_db", ">=", 90),)), tmp_path / "run", empty)
    assert not run.live(Here(raising(Killed(), "before tell")))
    engine = Here()
    run.live(engine)
    assert engine.done == []
    candidates, _, front, winner, _ = run.outcome()
    assert [c.state for c in candidates] == ["complete"]
    assert (front, winner) == ((), None)


# ---- deaths at one place


def test_a_candidate_that_the_driver_dies_of_twice_is_failed(settings, tmp_path, empty, monkeypatch):
    run = Run(replace(settings, budget=Budget(3)), tmp_path / "run", empty)
    train, deaths = work_room.train, []

    def deadly(state: Any, *args: Any) -> Any:
        if len(deaths) < 2:
            deaths.append(1)
            raise Killed
        return train(state, *args)

    monkeypatch.setattr(work_room, "train", deadly)
    assert [run.live(Here()) for _ in range(3)] == [False, False, True]
    candidates = run.outcome()[0]
    assert [c.state for c in candidates] == ["failed", "complete", "complete", "complete"]
    assert candidates[0].reason == "was running at two deaths of the driver, both at training, step 0"


def test_a_candidate_that_gets_on_between_two_deaths_is_not(settings, tmp_path, empty, saved_each_step):
    run = Run(replace(settings, budget=Budget(1)), tmp_path / "run", empty)
    assert [run.live(Here(raising(Killed(), "step"))) for _ in range(3)] == [False] * 3
    assert run.live(Here())
    assert [c.state for c in run.outcome()[0]] == ["complete"]


# ---- what is recorded


def test_each_candidate_is_a_network_of_its_own_with_its_numbers(undisturbed, settings):
    candidates = undisturbed[0][0]
    assert len({c.design.hash for c in candidates}) == len(candidates) == 6
    bodies = [c.design.architecture.blocks for c in candidates]
    assert {block.type for body in bodies for block in body} == {"residual", "inverted_residual"}
    for c in candidates:
        assert c.state == "complete"
        assert c.design.architecture in settings.space
        assert complexity(c.design).numbers().items() <= c.numbers.items()
        assert c.details["steps"] == 4
    assert len({c.details["seed"] for c in candidates}) == 6
    assert any(c.confirmed and "psnr_db" in c.intervals for c in candidates)


def test_latency_is_measured_before_training_and_not_again(settings, tmp_path, empty, monkeypatch):
    monkeypatch.setattr(latency_room, "SAMPLE_MS", 1.0)
    file = tmp_path / "timed.db"
    Record(f"sqlite:///{file}", ("psnr_db", "latency_ratio"), SPACE).close()
    run = Run(replace(settings, objectives=("psnr_db", "latency_ratio"), budget=Budget(1)), tmp_path / "run", file)
    assert not run.live(Here(raising(Killed(), "begin 0/TrainWork")))
    engine = Here()
    assert run.live(engine)
    assert engine.done == ["0/TrainWork", "confirm/timing/0"]
    (candidate,) = run.outcome()[0]
    assert candidate.state == "complete"
    assert set(candidate.intervals) == {"latency_ratio", "latency_ms"}
    assert {"timing.json", "training.json", "model.safetensors"} <= {f.name for f in run.at(0).iterdir()}


def test_a_limit_on_latency_prunes_before_training(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(latency_room, "SAMPLE_MS", 1.0)
    monkeypatch.setattr(loop_room, "HOPELESS", 3)
    run = Run(replace(settings, limits=(Limit("latency_ratio", "<=", 1e-6),)), tmp_path)
    engine = Here()
    with pytest.raises(Exhausted, match=r"tightest is 'latency_ratio <= 1e-06' \(3 of them broke it"):
        run.live(engine)
    assert all("TimeWork" in name or name.startswith("first/") for name in engine.done)
    for c in run.outcome()[0]:
        assert (c.state, c.reason) == ("pruned", "broke latency_ratio <= 1e-06")
        assert "psnr_db" not in c.numbers
        assert not (run.at(c.number) / "model.safetensors").exists()
        assert (run.at(c.number) / "timing.json").exists()


def test_a_task_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(settings, tmp_path):
    fail = raising(RuntimeError("out of memory\nand more lines"), "begin 1/TrainWork")
    run = Run(replace(settings, budget=Budget(2)), tmp_path)
    run.search(Here(fail))
    candidates = run.outcome()[0]
    assert [c.state for c in candidates] == ["complete", "failed", "complete"]
    assert candidates[1].reason == "out of memory"


def test_a_failed_confirmation_is_recorded_and_not_tried_again(settings, tmp_path):
    fail = raising(RuntimeError("the worker died"), "begin confirm/training/0/1")
    run = Run(replace(settings, budget=Budget(1), confirm_seeds=1), tmp_path)
    assert run.kept is not None
    run.search(Here(fail))
    assert confirm(run.settings, run.kept, Here(fail), run.at, lambda: None)
    assert run.kept.attribute("confirmed") == {"confirm/training/0/1": {"failure": "the worker died"}}
    assert not confirm(run.settings, run.kept, Here(), run.at, lambda: None)
