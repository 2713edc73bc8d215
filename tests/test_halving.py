"""Successive halving: what is promoted, against its definition; a search by rungs, killed, stopped and gone on with."""

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
from paretosr.search.front import dominates, hypervolume
from paretosr.search.halving import FAR_END, MARGIN, MOST_AXES, PROMOTIONS, Halving, Rungs, rung_point
from paretosr.search.samplers import SAMPLERS, Start
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.search.view import View

RUNGS = Rungs(3, 2)  # of 4 steps: 1, 2, 4


# ---- the rungs


@pytest.mark.parametrize(
    ("rungs", "whole", "steps"),
    [
        (Rungs(3, 3), 27, (3, 9, 27)),
        (Rungs(4, 3), 1350, (50, 150, 450, 1350)),
        (Rungs(2, 4), 10, (2, 10)),
        (Rungs(3, 3), 3, (1, 3)),  # two that fall together
        (Rungs(1, 3), 7, (7,)),
    ],
)
def test_rungs_are_spaced_by_eta_and_end_with_the_whole(rungs, whole, steps):
    assert rungs.steps(whole) == steps


@pytest.mark.parametrize("rungs", [Rungs(1, 3), Rungs(2, 2), Rungs(3, 3), Rungs(4, 3)])
def test_costs_are_what_a_long_search_spends(rungs):
    whole = rungs.eta ** (rungs.count - 1)
    halving, random, spent, measured, ended = Halving(rungs.steps(whole), rungs.eta), Random(0), 0, 0, 0
    networks = 2000
    for number in range(networks):
        at = [(number, 0, halving.steps[0])]
        while at:
            who, before, step = at.pop()
            spent, measured, ended = spent + step - before, measured + 1, ended + (step == whole)
            halving.arrive(who, step, np.array([random.random(), random.random()]))
            if (due := halving.due()) is not None:
                halving.promote(*due)
                at.append((due[0], due[1], halving.after(due[1])))
    assert spent / (networks * whole) == pytest.approx(rungs.trainings, rel=0.02)
    assert measured / networks == pytest.approx(rungs.evaluations, rel=0.02)
    assert ended / networks == pytest.approx(rungs.reaching_end, rel=0.02)


# ---- who is promoted, against the definition written out


def promoted_by_definition(points: dict[int, np.ndarray], promoted: set[int], promote: str) -> set[int]:
    """Those that may be promoted; several only where they are equal, to rounding."""
    waiting = [n for n in points if n not in promoted]
    dominators = {n: sum(dominates(other, points[n]) for other in points.values()) for n in waiting}
    fewest = sorted(n for n in waiting if dominators[n] == min(dominators.values()))
    everything = np.array(list(points.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    reference = low + np.where(high > low, MARGIN * (high - low), 1.0)
    gone = [points[n] for n in promoted]

    def volume(more: list[np.ndarray]) -> float:
        return hypervolume(np.array(gone + more), reference)

    if promote == "hypervolume":
        added = {n: volume([points[n]]) - volume([]) for n in fewest}
        if max(added.values()) > 1e-9:
            return {n for n in fewest if added[n] > max(added.values()) - 1e-9}
    length = np.quantile(everything, FAR_END, axis=0) - low
    length[length == 0] = 1.0

    def distance(n: int) -> float:
        return min((float(np.abs((points[n] - points[p]) / length).max()) for p in promoted if p in points), default=0)

    distances = {n: distance(n) for n in fewest}
    return {n for n in fewest if distances[n] > max(distances.values()) - 1e-9}


@pytest.mark.parametrize("promote", PROMOTIONS)
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["coarse", "fine", "growing"])
def test_promotions_follow_the_definition(dimensions, promote, kind):
    random = np.random.default_rng(dimensions)
    halving, points, promoted, made = Halving((1, 3, 9), 3, promote), {}, set(), 0
    for number in random.permutation(120):
        if kind == "coarse":  # equals and ties come up
            point = random.integers(0, 12, dimensions) / 4.0
        else:  # no or hardly any equals; or each axis as long again now and then, and no bound of before holds
            point = random.normal(size=dimensions) * (1.0 if kind == "fine" else 1.02 ** len(points))
        points[int(number)] = point
        halving.arrive(int(number), 1, point)
        due = halving.due()
        assert (due is not None) == (len(promoted) < len(points) // 3)
        if due is not None:
            assert due[1] == 1
            assert due[0] in promoted_by_definition(points, promoted, promote)
            halving.promote(*due)
            promoted.add(due[0])
            made += 1
    assert made == 40


def test_the_top_rung_comes_first_and_networks_are_compared_within_their_rung():
    halving = Halving((1, 2, 4), 2)
    for number, psnr in enumerate((20.0, 21.0, 22.0, 23.0)):
        halving.arrive(number, 1, np.array([-psnr]))
    for expected in (3, 2):
        assert halving.due() == (expected, 1)
        halving.promote(expected, 1)
    assert halving.due() is None
    halving.arrive(2, 2, np.array([-30.0]))
    halving.arrive(3, 2, np.array([-29.0]))
    halving.arrive(4, 1, np.array([-50.0]))
    halving.arrive(5, 1, np.array([-10.0]))
    assert halving.due() == (2, 2)  # though 4 has a place due, too
    halving.promote(2, 2)
    assert halving.due() == (4, 1)


def test_a_promoted_network_counts_though_it_never_arrives():
    halving = Halving((1, 2), 2)
    halving.arrive(0, 1, np.array([0.0]))
    halving.arrive(1, 1, np.array([1.0]))
    halving.promote(0, 1)
    assert halving.due() is None


@pytest.mark.parametrize(
    ("promote", "expected"),
    [
        ("distance", [0, 5, 2]),  # all undominated: the ends, then the earlier of the two middles
        ("hypervolume", [2, 4, 1]),  # the earlier of the two middles, and one on each side, neither of them an end
    ],
)
def test_a_constant_objective_does_not_spread_and_does_not_break(promote, expected):
    halving = Halving((1, 2), 2, promote)
    for number in range(6):
        halving.arrive(number, 1, np.array([float(number), 1.0, -float(number)]))
    chosen = []
    while (due := halving.due()) is not None:
        halving.promote(*due)
        chosen.append(due[0])
    assert chosen == expected


def test_on_more_axes_than_a_hypervolume_is_worked_out_for_distance_decides():
    random = np.random.default_rng(0)
    by_volume, by_distance = (Halving((1, 2), 2, promote) for promote in PROMOTIONS)
    for number in range(40):
        point = random.random(MOST_AXES + 1)
        for halving in (by_volume, by_distance):
            halving.arrive(number, 1, point)
        assert by_volume.due() == by_distance.due()
        if (due := by_volume.due()) is not None:
            by_volume.promote(*due)
            by_distance.promote(*due)


def test_a_point_is_psnr_as_it_is_and_the_rest_by_its_logarithm():
    numbers = {"latency_ratio": 0.5, "activations_m": 1.0, "convolutions": 0.0}
    objectives = ("psnr_db", "latency_ratio", "activations_m", "convolutions")
    assert rung_point(numbers, objectives, 27.5) == pytest.approx([-27.5, np.log(0.5), 0.0, 0.0])


@pytest.mark.parametrize("promote", PROMOTIONS)
@pytest.mark.parametrize("fine", [True, False])
def test_the_order_of_arrival_does_not_matter(promote, fine):
    random = np.random.default_rng(0)
    points = random.random((60, 3)) if fine else random.integers(0, 4, (60, 3)) / 3
    orders = [range(60), random.permutation(60)]
    filled = []
    for order in orders:
        halving = Halving((1, 3), 3, promote)
        for number in order:
            halving.arrive(int(number), 1, points[number])
        chosen = []
        while (due := halving.due()) is not None:
            halving.promote(*due)
            chosen.append(due)
        filled.append(chosen)
    assert filled[0] == filled[1]
    assert len(filled[0]) == 20


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
