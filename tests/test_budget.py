"""When a search ends: its budgets, an exhausted space, limits that nothing keeps, failures; and its first record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from lives import Here
from PIL import Image
from sampling import EVERY_SAMPLER

from paretosr.proxies import latency_methods as latency_room
from paretosr.proxies.complexity import complexity
from paretosr.proxies.latency import Protocol
from paretosr.proxies.psnr import bicubic_baseline
from paretosr.proxies.training import Training
from paretosr.proxies.work import Data, SpeedWork
from paretosr.search import loop as loop_room
from paretosr.search.candidate import Candidate
from paretosr.search.engine import Finished, Interrupted
from paretosr.search.first import FEWEST_STEPS, FITTED_SHARE, first_record, fitted_steps
from paretosr.search.halving import Rungs
from paretosr.search.loop import FAILURES, HOPELESS, Exhausted, Search
from paretosr.search.objectives import Limit
from paretosr.search.samplers import Start
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.spaces import BLOCKS, Architecture, Block, BlockChoices, Design, Space, published, published_architecture

COUNTED = ("activations_m", "convolutions")  # such candidates need no work at all


def plain(name: str) -> BlockChoices:
    """A block type without choices: the first value of each."""
    return BlockChoices(name, tuple((choice, (values[0],)) for choice, values in BLOCKS[name].CHOICES.items()))


TINY = Space((plain("residual"), plain("scpa")), (8,), (1, 2), image_skips=("bilinear", "nearest"))  # 12 networks
SPACE = Space((plain("residual"), plain("scpa")), (8, 9, 10, 11, 12), (1, 2, 3), image_skips=("bilinear", "nearest"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64 + 8 * seed, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Data(str(folder), patch=8)


@pytest.fixture(scope="module")
def settings(data: Data) -> Settings:
    return Settings(
        space=SPACE,
        objectives=COUNTED,
        limits=(),
        sampler="evolution",
        start=Start(4),
        seed=0,
        budget=Budget(10),
        training=Training(steps=100, batch=2, patch=8),
        fit=False,
        data=data,
        reference=("small", Design(Architecture(16, (Block("residual"),) * 2))),
        protocol=Protocol(size=(8, 8), warmup_s=0.005, rounds=5, max_rounds=5),
        device="cpu",
        confirm_seeds=0,
        task_minutes=None,
    )


@pytest.fixture
def record_for():
    """Makes a record in memory that a search can begin with."""
    made = []

    def make(settings: Settings) -> Record:
        record = Record("sqlite://", settings.objectives, settings.space)
        record.set_attribute("first", {"steps": settings.training.steps, "reference": {"name": "small", "numbers": {}}})
        made.append(record)
        return record

    yield make
    for record in made:
        record.close()


def search(settings: Settings, record: Record, folder: Path, engine: Here | None = None) -> tuple[Candidate, ...]:
    Search(settings, record, engine or Here(), lambda number: folder / str(number)).run()
    return record.candidates


# ---- budgets


def test_the_budget_is_so_many_trained_networks(settings, record_for, tmp_path):
    """What a limit pruned does not count."""
    limited = replace(settings, limits=(Limit("convolutions", "<=", 9),))
    candidates = search(limited, record_for(limited), tmp_path)
    states = [c.state for c in candidates]
    assert states.count("complete") == 10
    assert states.count("pruned") == len(states) - 10 > 0
    assert states[-1] == "complete"


def test_training_steps_may_be_the_budget(settings, record_for, tmp_path):
    limited = replace(settings, budget=Budget(10, steps=350))
    assert len(search(limited, record_for(limited), tmp_path)) == 4  # the fourth begins at 300 steps


def test_minutes_end_a_search_but_not_before_enough_networks(settings, record_for, tmp_path):
    limited = replace(settings, budget=Budget(10, minutes=0.0, at_least=3))
    assert len(search(limited, record_for(limited), tmp_path)) == 3
    nothing = replace(settings, budget=Budget(10, minutes=0.0))
    assert search(nothing, record_for(nothing), tmp_path) == ()


def test_minutes_are_counted_over_all_lives_of_a_run(settings, record_for, tmp_path):
    limited = replace(settings, budget=Budget(3, minutes=2.0))
    record = record_for(limited)
    record.set_attribute("seconds", 119.0)
    assert len(search(limited, record, tmp_path)) == 3  # a second is left
    spent = record_for(limited)
    spent.set_attribute("seconds", 120.0)
    assert search(limited, spent, tmp_path) == ()


def test_networks_on_their_way_count(settings, record_for, tmp_path):
    trained = replace(settings, objectives=("psnr_db",), budget=Budget(3), training=replace(settings.training, steps=2))
    record = record_for(trained)
    assert len(search(trained, record, tmp_path, Here(slots=2))) == 3


def test_longer_trainings_and_foreign_networks_count_for_nothing(settings, record_for, tmp_path):
    record = record_for(settings)
    numbers = {"activations_m": 1.0, "convolutions": 1.0}
    for kind, architecture in (("trained", SPACE.sample(Random(0))), ("published", published_architecture("rfdn"))):
        record.add(Candidate(0, Design(architecture), kind=kind, state="complete", numbers=numbers))
    searched = [c for c in search(settings, record, tmp_path) if c.kind == "search"]
    assert len(searched) == 10


# ---- a space has an end


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_no_network_is_tried_twice_and_a_small_space_is_tried_whole(settings, record_for, tmp_path, sampler):
    small = replace(settings, space=TINY, sampler=sampler, budget=Budget(100))
    record = record_for(small)
    with pytest.raises(Exhausted, match="all 12 networks of the space have been tried") as ended:
        search(small, record, tmp_path)
    assert ended.value.exit_code == 0
    hashes = [c.design.hash for c in record.candidates]
    assert len(hashes) == len(set(hashes)) == TINY.size == 12
    with pytest.raises(Exhausted, match="all 12 networks"):
        search(small, record, tmp_path)
    assert len(record.candidates) == 12


def test_a_network_from_outside_does_not_make_the_space_smaller(settings, record_for, tmp_path):
    small = replace(settings, space=TINY, budget=Budget(100))
    record = record_for(small)
    record.add(Candidate(0, published("rfdn"), state="pruned", reason="broke something"))
    with pytest.raises(Exhausted, match="all 12"):
        search(small, record, tmp_path)
    assert len(record.candidates) == 13


# ---- limits that nothing keeps


def test_the_patience_is_what_the_manual_says():
    assert (HOPELESS, FAILURES) == (500, 25)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(loop_room, "HOPELESS", 30)
    return 30


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_limits_that_nothing_keeps_end_the_search_and_the_tightest_is_named(
    settings, record_for, tmp_path, impatient, sampler
):
    # All break the first, but the second by far more; the third is kept by most.
    limits = (
        Limit("convolutions", "<=", 5),
        Limit("activations_m", "<=", 0.001),
        Limit("parameters_m", "<=", 1),
    )
    hopeless = replace(settings, limits=limits, sampler=sampler, budget=Budget(100))
    record = record_for(hopeless)
    with pytest.raises(Exhausted) as ended:
        search(hopeless, record, tmp_path)
    message = str(ended.value)
    nearest = min(c.numbers["activations_m"] for c in record.candidates)
    assert message.startswith(
        "30 proposals in a row broke limits; the tightest is 'activations_m <= 0.001' (30 of them"
    )
    assert f"the nearest has {nearest:.4g}" in message
    assert "\n" not in message
    assert ended.value.exit_code == 2
    assert len(record.candidates) == impatient
    assert {c.state for c in record.candidates} == {"pruned"}
    assert len({c.design.hash for c in record.candidates}) == impatient


def test_a_search_that_gave_up_gives_up_again_without_another_try(settings, record_for, tmp_path, impatient):
    hopeless = replace(settings, limits=(Limit("activations_m", ">=", 1000),))
    record = record_for(hopeless)
    for _ in range(2):
        with pytest.raises(Exhausted, match="activations_m >= 1000"):
            search(hopeless, record, tmp_path)
        assert len(record.candidates) == impatient


def test_one_that_keeps_the_limits_renews_the_patience(settings, record_for, tmp_path, impatient):
    some = replace(settings, limits=(Limit("convolutions", "<=", 7),), budget=Budget(6))
    candidates = search(some, record_for(some), tmp_path)
    assert sum(c.state == "complete" for c in candidates) == 6


def test_a_stop_is_heard_between_two_proposals(settings, record_for, tmp_path):
    """And not only when the limits let one through, which may take minutes."""
    hopeless, engine = replace(settings, limits=(Limit("activations_m", "<=", 0.001),)), Here()
    record = record_for(hopeless)
    asked = []

    def ask(timeout_s: float) -> None:
        asked.append(timeout_s)
        engine.stopping = len(asked) == 5

    engine.next = ask
    with pytest.raises(Interrupted):
        search(hopeless, record, tmp_path, engine)
    assert len(record.candidates) == 5


# ---- failures


def test_failures_in_a_row_end_the_search_with_the_last_reason(settings, record_for, tmp_path):
    wild = replace(
        settings,
        objectives=("psnr_db",),
        sampler="random",
        training=replace(settings.training, steps=5, learning_rate=1e30, schedule="constant"),
    )
    record = record_for(wild)
    with pytest.raises(Exhausted, match=r"^25 candidates in a row failed, the last one: non-finite loss") as ended:
        search(wild, record, tmp_path)
    assert ended.value.exit_code == 1
    assert [c.state for c in record.candidates] == ["failed"] * FAILURES
    assert all(c.reason.startswith("non-finite loss") for c in record.candidates)
    assert not list(tmp_path.glob("*/state.pt"))


# ---- the first record


def test_the_first_record_holds_what_is_measured_once(settings, monkeypatch):
    monkeypatch.setattr(latency_room, "SAMPLE_MS", 1.0)
    timed = replace(settings, objectives=("psnr_db", "latency_ratio"))
    first = first_record(timed, Here())
    numbers = first["reference"]["numbers"]
    assert complexity(settings.reference[1]).numbers().items() <= numbers.items()
    assert numbers["latency_ratio"] == 1.0
    assert numbers["latency_ms"] == first["reference"]["timing"]["latency_ms"] > 0
    assert first["bicubic_psnr_db"] == bicubic_baseline(settings.data.evaluation()).psnr_db
    assert first["steps"] == 100
    assert (first["data"]["train_images"], first["data"]["validation_images"]) == (2, 1)
    assert first["data"]["hash"] == {"train": settings.data.train().hash, "validation": settings.data.evaluation().hash}
    assert not first["data"]["embedded"]
    assert "latency_ms" not in first_record(settings, Here())["reference"]["numbers"]


class Stopwatch(Here):
    """Trainings take so long, it says."""

    def next(self, timeout_s: float) -> Finished | None:
        task = self.queue.popleft()
        assert isinstance(task.work, SpeedWork)
        firsts = [design.architecture.blocks[0] for design in task.work.designs]  # type: ignore[union-attr]
        assert [block.type for block in firsts] == ["residual", "scpa"]
        return Finished(task, {"step_s": 0.5, "evaluation_s": 2.0})


def test_steps_are_fitted_into_the_minutes(settings):
    def fitted(slots: int = 1, confirm_seeds: int = 0, steps: int = 10_000, **budget: Any) -> int:
        wanted = replace(
            settings,
            budget=Budget(**budget),
            confirm_seeds=confirm_seeds,
            training=replace(settings.training, steps=steps),
        )
        return fitted_steps(wanted, Stopwatch(slots=slots))

    # Ten minutes for 20 networks: so many seconds for each, less its evaluation, half a second a step.
    assert fitted(candidates=20, minutes=10) == int((600 * FITTED_SHARE / 20 - 2) / 0.5)
    assert fitted(slots=2, candidates=20, minutes=10) == int((600 * FITTED_SHARE / 10 - 2) / 0.5)
    assert fitted(confirm_seeds=1, candidates=20, minutes=10) < fitted(candidates=20, minutes=10)
    assert fitted(candidates=20, minutes=10, steps=30) == 30  # never more than the recipe asks for
    assert fitted(candidates=20, minutes=0.01) == FEWEST_STEPS
    assert fitted(candidates=20) == 10_000


def test_by_rungs_longer_trainings_fit_into_the_same_minutes(settings):
    def fitted(halving: Rungs | None, confirm_seeds: int = 0) -> int:
        budget = Budget(candidates=20, minutes=60)
        wanted = replace(settings, budget=budget, halving=halving, confirm_seeds=confirm_seeds)
        wanted = replace(wanted, training=replace(settings.training, steps=10**6))
        return fitted_steps(wanted, Stopwatch())

    # A network costs 1/9 + 2/27 + 2/27 of a whole training on average, and is measured 1 + 1/3 + 1/9 times.
    each_s = 3600 * FITTED_SHARE / 20
    assert fitted(Rungs(3, 3)) == int((each_s - 2.0 * 13 / 9) / (7 / 27) / 0.5)
    assert fitted(Rungs(1, 3)) == fitted(None)
    # One in nine stands at the end, and about half of these are trained again.
    assert fitted(Rungs(3, 3), confirm_seeds=1) == int((each_s - 2.0 * (13 / 9 + 1 / 18)) / (7 / 27 + 1 / 18) / 0.5)
