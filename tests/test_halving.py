"""A training by rungs, and a search by rungs: killed, stopped and gone on with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from lives import EXACT, SPACE, Here, Run, dying_after, raising, small_settings

from paretosr.proxies import work as work_room
from paretosr.proxies.training import begin, train
from paretosr.proxies.work import Data, TrainWork, patches_of
from paretosr.search import halving as halving_room
from paretosr.search.engine import Interrupted
from paretosr.search.halving import Halving, Rungs
from paretosr.search.samplers import SAMPLERS, Start
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.search.view import View

RUNGS = Rungs(3, 2)  # of 4 steps: 1, 2, 4


# ---- a rung of a training


@pytest.fixture(scope="module")
def settings(data: Data) -> Settings:
    return replace(small_settings(data), halving=RUNGS, budget=Budget(8))


def perform(work: TrainWork) -> Any:
    return work.perform(lambda said: None, lambda: False)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_training_by_rungs_is_the_one_that_was_not_interrupted(settings, data, tmp_path, ema):
    training = replace(settings.training, steps=6, ema=ema)
    design = settings.reference[1]
    whole = TrainWork(design, training, data, 3, "cpu", str(tmp_path / "whole"))
    rungs = [replace(whole, folder=str(tmp_path / "rungs"), until=until) for until in (1, 3, 6)]
    results = [perform(work) for work in rungs]
    expected = perform(whole)
    assert [result["steps"] for result in results] == [1, 3, 6]
    for name in ("psnr_db", "psnr_per_image_db", "curve"):
        assert results[-1][name] == expected[name]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "rungs")]
    assert weights[0] == weights[1]


def test_a_rung_measures_the_network_as_it_stands_there(settings, data, tmp_path):
    work = TrainWork(settings.reference[1], settings.training, data, 3, "cpu", str(tmp_path), until=2)
    result = perform(work)
    state = begin(work.design, work.training, seed=3)
    state = train(state, work.training, patches_of(data, work.training, 3, "cpu"), 2)
    standing = work_room.evaluate(state.network.eval(), data.evaluation(), device="cpu")
    assert result["psnr_db"] == pytest.approx(standing.psnr_db, abs=2e-3)  # the merged form rounds otherwise
    assert not (tmp_path / "model.safetensors").exists()
    assert perform(work)["psnr_db"] == result["psnr_db"]  # nothing is left to train, and it is measured again


def test_a_state_beyond_the_rung_is_not_taken_for_it(settings, data, tmp_path):
    further = TrainWork(settings.reference[1], settings.training, data, 3, "cpu", str(tmp_path), until=3)
    perform(further)
    result = perform(replace(further, until=2))
    assert result["steps"] == 2
    assert result["psnr_db"] == perform(replace(further, until=2, folder=str(tmp_path / "other")))["psnr_db"]


# ---- a search by rungs


def spent(run: Run) -> int:
    """Training steps that the record accounts for."""
    return sum(c.rungs[-1][0] for c in run.outcome()[0] if c.rungs)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("record") / "study.db"
    Record(f"sqlite:///{file}", EXACT, SPACE).close()
    return file


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory) -> tuple[Run, int]:
    run, steps = Run(settings, tmp_path_factory.mktemp("undisturbed")), []
    assert run.live(Here(lambda event: steps.extend([event] if event == "step" else [])))
    return run, len(steps)


def test_each_rung_promotes_its_share_and_only_whole_trainings_are_results(undisturbed):
    run, steps = undisturbed
    candidates, _, front, winner, _ = run.outcome()
    assert len(candidates) == 8
    reached = [[c for c in candidates if any(at == step for at, _ in c.rungs)] for step in (1, 2, 4)]
    assert [len(group) for group in reached] == [8, 4, 2]
    assert steps == spent(run) == 8 + 4 + 2 * 2
    whole = {c.number for c in reached[2]}
    for c in candidates:
        assert c.state == ("complete" if c.number in whole else "paused")
        assert ("psnr_db" in c.numbers) == (c.number in whole)
        assert (run.at(c.number) / "model.safetensors").exists() == (c.number in whole)
        assert (run.at(c.number) / "state.pt").exists() == (c.number not in whole)
        assert c.target == c.rungs[-1][0]
    assert set(front) <= whole
    assert winner in whole


@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_killed_again_and_again_equals_one_that_was_not(
    settings, tmp_path, empty, undisturbed, monkeypatch, seed
):
    monkeypatch.setattr(work_room, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(work_room, "SAVE_SHARE", float("inf"))
    run, random, log, lives = Run(settings, tmp_path / "run", empty), Random(seed), [], 1
    while not run.live(Here(dying_after(random.randint(4, 25), log))):
        lives += 1
    assert lives > 5
    assert run.outcome() == undisturbed[0].outcome()
    assert log.count("step") == undisturbed[1]  # no rung was done twice


def test_a_longer_budget_goes_on_with_the_paused_ones(settings, tmp_path, undisturbed):
    run = Run(replace(settings, budget=Budget(3)), tmp_path)
    run.live(Here())
    assert sum(c.state == "paused" for c in run.outcome()[0]) == 3 - 0
    run.settings = settings
    run.live(Here())
    before = [c.design for c in undisturbed[0].outcome()[0]]
    assert [c.design for c in run.outcome()[0]][:3] == before[:3]
    assert [sum(any(at == step for at, _ in c.rungs) for c in run.outcome()[0]) for step in (1, 2, 4)] == [8, 4, 2]


def test_a_stop_comes_between_two_rungs_and_is_gone_on_from(settings, tmp_path, undisturbed):
    run, engine, steps = Run(settings, tmp_path), Here(), []

    def ask(event: str) -> None:
        steps.extend([event] if event == "step" else [])
        engine.stopping = len(steps) >= 5

    engine.event = ask
    with pytest.raises(Interrupted):
        run.live(engine)
    assert any(c.state == "paused" for c in run.outcome()[0])
    assert run.live(Here())
    assert run.outcome() == undisturbed[0].outcome()


@pytest.mark.parametrize("steps", [5, 9])
def test_a_budget_of_steps_counts_every_rung(settings, tmp_path, steps):
    run = Run(replace(settings, budget=Budget(100, steps=steps)), tmp_path)
    run.live(Here())
    assert steps <= spent(run) < steps + 4  # nothing is begun once they are spent


def test_one_that_fails_at_a_rung_is_failed_and_the_search_goes_on(settings, tmp_path):
    run = Run(settings, tmp_path)
    run.search(Here(raising(RuntimeError("non-finite loss"), "begin 3/TrainWork/1")))
    candidates = run.outcome()[0]
    assert candidates[3].state == "failed"
    assert sum(c.state in ("paused", "complete") for c in candidates) == 8


def failing_at(*tasks: str) -> Callable[[str], None]:
    def event(name: str) -> None:
        if name.removeprefix("begin ") in tasks:
            raise RuntimeError("non-finite loss")

    return event


def test_failures_between_networks_that_wait_at_a_rung_are_not_in_a_row(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("paretosr.search.loop.FAILURES", 2)
    run = Run(settings, tmp_path)
    run.search(Here(failing_at("1/TrainWork/1", "3/TrainWork/1")))
    assert sum(c.state in ("paused", "complete") for c in run.outcome()[0]) == 8


def test_steps_up_to_a_rung_are_spent_though_the_network_fails_after_it(settings, tmp_path):
    run = Run(settings, tmp_path)
    second = settings.halving.steps(settings.training.steps)[1]
    run.search(Here(failing_at(*(f"{number}/TrainWork/{second}" for number in range(20)))))
    candidates = run.outcome()[0]
    failed = [c for c in candidates if c.state == "failed"]
    assert failed
    assert all(c.rungs for c in failed)
    with run.record() as record:
        view = View(record, settings, settings.training.steps)
        assert view.steps == spent(run)
        assert view.trained == len(candidates) - len(failed)


class Together(Here):
    """Several workers: the task that was submitted last ends first."""

    def next(self, timeout_s: float) -> Any:
        if len(self.queue) < self.slots and timeout_s < 0.1:
            return None
        self.queue.rotate(1)
        return super().next(timeout_s)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not name.startswith("nni_")])
def test_every_sampler_searches_by_rungs_on_several_workers(settings, tmp_path, sampler):
    run = Run(replace(settings, sampler=sampler, start=Start(2), budget=Budget(8)), tmp_path)
    run.search(Together(slots=3))
    candidates = run.outcome()[0]
    assert len({c.design.hash for c in candidates}) == len(candidates) == 8
    assert [sum(any(at == step for at, _ in c.rungs) for c in candidates) for step in (1, 2, 4)] == [8, 4, 2]


def test_a_published_network_beside_is_trained_whole_and_stands_on_no_rung(settings, tmp_path):
    run = Run(replace(settings, budget=Budget(2), beside=(("rlfn", settings.reference[1]),)), tmp_path)
    run.search(Here())
    beside = run.outcome()[0][0]
    assert (beside.state, beside.rungs, beside.details["steps"]) == ("complete", (), 4)


def test_the_sampler_is_shown_a_rung_as_it_is(settings, undisturbed):
    from paretosr.search.loop import Search

    run, _ = undisturbed
    assert run.kept is not None
    seen = Search(settings, run.kept, Here(), run.at).view.seen
    for s, c in zip(seen, run.outcome()[0], strict=True):
        assert s.state == "complete"
        assert s.points == pytest.approx((-c.rungs[-1][1], c.numbers["activations_m"]))


def test_the_order_of_arrival_does_not_matter_among_very_many_equals(monkeypatch):
    monkeypatch.setattr(halving_room, "MOST_EQUALS", 5)
    random, chosen = np.random.default_rng(0), []
    slopes = {number: np.array([number, -number], dtype=float) for number in range(40)}  # none dominates another
    for order in (range(40), random.permutation(40)):
        halving = Halving((1, 3), 2)
        for number in order:
            halving.arrive(int(number), 1, slopes[int(number)])
        picked = []
        while (due := halving.due()) is not None:
            halving.promote(*due)
            picked.append(due[0])
        chosen.append(picked)
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 20
