"""Searches in simulated time: what is replayed is what was recorded, time and steps add up, and the real loop runs."""

import csv
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from commands import refused
from recorded import RUNGS, SPACE, made
from sampling import EVERY_SAMPLER
from scipy import stats

from paretosr.analysis.simulation import Arm, Box, compare
from paretosr.analysis.simulation_page import verdict
from paretosr.proxies.latency import Protocol
from paretosr.proxies.training import Training
from paretosr.proxies.work import Data, TimeWork, TrainWork
from paretosr.search.engine import Task
from paretosr.search.halving import Rungs
from paretosr.search.objectives import Limit
from paretosr.search.recording import read_recording, write_recording
from paretosr.search.samplers import Start
from paretosr.search.settings import Budget, Settings
from paretosr.search.simulator import Pool, Replay, Whole, simulate
from paretosr.spaces import Architecture, Block, Design, InputError
from paretosr.spaces.mutations import MUTATIONS

RECORDING = made()
WHOLE = RUNGS[-1]
SETTINGS = Settings(
    space=SPACE,
    objectives=("psnr_db", "latency_ratio", "activations_m"),
    limits=(),
    sampler="evolution",
    start=Start(8),
    seed=0,
    budget=Budget(10_000, steps=20 * WHOLE),
    training=Training(steps=WHOLE),
    fit=False,
    data=Data(),
    reference=("imdn", Design(Architecture(8, (Block("residual"),)))),
    protocol=Protocol(),
    device="cpu",
    confirm_seeds=0,
    task_minutes=None,
)


def training(name: str, until: int) -> Task:
    design = Design(RECORDING.networks[name].architecture)
    return Task(f"{name}/{until}", TrainWork(design, SETTINGS.training, Data(), 0, "cpu", "", until=until))


# ---- the engine


def test_a_rung_gives_what_was_recorded_and_takes_the_time_since_the_last():
    engine, (name, network) = Replay(RECORDING, 1), next(iter(RECORDING.networks.items()))
    recorded, before_s, before = network.trainings[0], 0.0, 0
    for at, until in enumerate(RUNGS):
        engine.submit(training(name, until))
        finished = engine.next(1.0)
        assert finished is not None
        assert finished.numbers is not None
        assert finished.numbers["psnr_db"] == recorded.psnr_db[at]
        assert engine.now_s == pytest.approx(recorded.train_s[at])
        assert engine.spent == until
        before_s, before = engine.now_s, until
    assert [(w.hash, w.steps) for w in engine.whole] == [(name, WHOLE)]
    assert before == WHOLE
    assert before_s == pytest.approx(recorded.train_s[-1])


def test_workers_work_at_the_same_time_and_the_shortest_task_ends_first():
    names = sorted(RECORDING.networks, key=lambda name: -RECORDING.networks[name].trainings[0].train_s[0])[:5]
    seconds = [RECORDING.networks[name].trainings[0].train_s[0] for name in names]
    engine = Replay(RECORDING, 5)
    for name in names:
        engine.submit(training(name, RUNGS[0]))
    ends = []
    while (finished := engine.next(1.0)) is not None:
        ends.append((finished.task.name, engine.now_s))
    assert [end for _, end in ends] == pytest.approx(sorted(seconds))
    one_by_one = Replay(RECORDING, 1)
    for name in names:
        one_by_one.submit(training(name, RUNGS[0]))
    while one_by_one.next(1.0) is not None:
        pass
    assert one_by_one.now_s == pytest.approx(sum(seconds))


def test_no_time_passes_while_a_worker_is_free_and_the_driver_has_more_to_submit():
    engine, name = Replay(RECORDING, 2), next(iter(RECORDING.networks))
    engine.submit(training(name, RUNGS[0]))
    assert engine.next(0.01) is None
    assert engine.now_s == 0.0
    assert engine.next(0.2) is not None


def test_a_timing_is_replayed_with_its_interval():
    network = next(iter(RECORDING.networks.values()))
    engine, design = Replay(RECORDING, 1), Design(network.architecture)
    engine.submit(Task("timing", TimeWork({"network": design}, design, Protocol(), "cpu")))
    finished = engine.next(1.0)
    assert finished is not None
    assert finished.numbers is not None
    low, high = network.intervals["latency_ratio"]
    timing = finished.numbers["network"]
    assert (timing["ratio"], timing["ratio_low"], timing["ratio_high"]) == (network.numbers["latency_ratio"], low, high)
    assert "memory_mb" not in timing


def test_memory_is_replayed_where_it_was_recorded():
    name, network = next(iter(RECORDING.networks.items()))
    with_memory = replace(network, numbers={**network.numbers, "memory_mb": 12.5})
    engine, design = Replay(replace(RECORDING, networks={name: with_memory}), 1), Design(network.architecture)
    engine.submit(Task("timing", TimeWork({"network": design}, design, Protocol(), "cpu")))
    finished = engine.next(1.0)
    assert finished is not None
    assert finished.numbers is not None
    assert finished.numbers["network"]["memory_mb"] == 12.5


# ---- searches


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
@pytest.mark.parametrize("halving", [None, Rungs(3, 3), Rungs(2, 3, by=("psnr_db",))])
def test_every_sampler_spends_its_budget_alike_twice(sampler, halving):
    wholes = 5 if halving else 8
    settings = replace(SETTINGS, sampler=sampler, halving=halving, budget=Budget(10_000, steps=wholes * WHOLE))
    whole = simulate(RECORDING, settings, 3)
    assert whole == simulate(RECORDING, settings, 3)
    assert whole
    assert len({w.hash for w in whole}) == len(whole)
    assert [w.steps for w in whole] == sorted(w.steps for w in whole)
    assert len(whole) <= wholes
    if halving is None:
        assert [w.steps for w in whole] == [WHOLE * (n + 1) for n in range(wholes)]


def test_another_seed_is_another_search():
    searches = [simulate(RECORDING, replace(SETTINGS, seed=seed), 4) for seed in (0, 1)]
    assert {w.hash for w in searches[0]} != {w.hash for w in searches[1]}


def test_a_search_of_all_that_was_recorded_ends():
    small = made(replace(SPACE, depths=(1,)))
    whole = simulate(small, replace(SETTINGS, space=replace(SPACE, depths=(1,)), budget=Budget(10_000)), 4)
    assert {w.hash for w in whole} == set(small.networks)


def test_a_search_says_how_many_networks_it_met_and_when_these_were_all():
    small, space = made(replace(SPACE, depths=(1,))), replace(SPACE, depths=(1,))
    settings = replace(SETTINGS, space=space, budget=Budget(10_000, steps=12 * WHOLE))
    search = simulate(small, settings, 1)
    assert (search.met, search.used_up) == (9, 8 * WHOLE)  # the last of nine was proposed when eight were trained
    assert search.ended == "all 9 networks of the space have been tried"
    assert len(search) == len(search.whole) == 9
    spent = simulate(small, replace(settings, budget=Budget(10_000, steps=5 * WHOLE)), 1)
    assert (spent.met, spent.used_up, spent.ended) == (5, None, "")
    rungs = simulate(RECORDING, replace(SETTINGS, halving=Rungs(3, 3)), 4)
    assert rungs.met > len(rungs)


def test_limits_that_nothing_recorded_keeps_are_refused():
    lowest = min(network.numbers["activations_m"] for network in RECORDING.networks.values())
    limits = (Limit("activations_m", "<=", lowest / 2), Limit("latency_ratio", "<=", 1.0))
    with pytest.raises(InputError, match=rf"none of the 117 .* keeps activations_m <= .* \(recorded: {lowest:.4g} to"):
        simulate(RECORDING, replace(SETTINGS, limits=limits), 4)


def test_a_search_that_gives_up_is_refused_with_its_reason():
    space = replace(SPACE, widths=(8, 12, 16, 20), depths=(1, 2, 3, 4, 5))
    large = made(space, 1100)  # of which one keeps the limit: before it or after it 500 in a row do not
    lowest = min(network.numbers["activations_m"] for network in large.networks.values())
    limits = (Limit("activations_m", "<=", lowest),)
    with pytest.raises(InputError, match="500 proposals in a row broke limits") as caught:
        simulate(large, replace(SETTINGS, space=space, sampler="random", limits=limits), 4)
    assert "\n" not in str(caught.value)


def test_by_rungs_fewer_steps_meet_more_networks():
    seen = []
    for halving in (None, Rungs(3, 3)):
        engine_networks = simulate(RECORDING, replace(SETTINGS, halving=halving), 4)
        seen.append(len(engine_networks))
    assert seen[0] == 20
    assert 5 <= seen[1] < 20  # fewer are trained to the end; the rest of the steps went into many more first rungs


# ---- a recording of a part of a space


def test_what_was_not_recorded_stands_for_its_nearest():
    part = made(count=40)
    pool = Pool.of(SPACE, part)
    assert pool.size == 40
    random = Random(0)
    for _ in range(50):
        outside = SPACE.sample(random)
        nearest = pool.nearest(outside)
        assert nearest.hash in part.networks
        if outside.hash in part.networks:
            assert nearest == outside
        assert pool.sample(random) in pool
        assert pool.mutate(nearest, random)[0] in pool
        assert pool.cross(nearest, pool.sample(random), random) in pool
        assert pool.decode(SPACE.encode(outside)) in pool
    assert {block.type for block in pool.sample(random, only_type="scpa").blocks} == {"scpa"}


def test_the_nearest_differs_in_the_fewest_genes_and_is_the_earliest_of_these():
    pool, random = Pool.of(SPACE, made(count=40)), Random(1)

    def genes(a: Architecture) -> list[object]:
        return [a.width, len(a.blocks), *(block.type for block in a.blocks), *(3 - len(a.blocks)) * [None]]

    for _ in range(50):
        outside = SPACE.sample(random)
        differing = [sum(a != b for a, b in zip(genes(outside), genes(a), strict=True)) for a in pool.recorded]
        assert pool.nearest(outside) == pool.recorded[differing.index(min(differing))]


def test_a_part_is_mutated_to_another_of_its_networks():
    few, random = Pool.of(SPACE, made(count=10)), Random(0)  # too few to hold the neighbours of each
    for parent in few.recorded:
        children = [few.mutate(parent, random) for _ in range(20)]
        assert all(child in few and child != parent for child, _ in children)
        assert {words for _, words in children} <= set(MUTATIONS)
        assert len({child for child, _ in children}) > 1
    alone = Pool.of(SPACE, made(count=1))
    assert alone.mutate(alone.recorded[0], random) == (alone.recorded[0], "nothing")


def test_a_space_that_is_recorded_whole_is_mutated_as_it_would_be_itself():
    pool = Pool.of(SPACE, RECORDING)
    for seed in range(100):
        parent = SPACE.sample(Random(f"parent {seed}"))
        assert pool.mutate(parent, Random(seed)) == SPACE.mutate(parent, Random(seed))


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_a_part_can_be_searched_whole(sampler):
    part = made(count=15)
    whole = simulate(part, replace(SETTINGS, sampler=sampler, budget=Budget(10_000)), 4)
    assert {w.hash for w in whole} == set(part.networks)


# ---- what does not fit


def test_a_recording_of_another_space_is_refused():
    with pytest.raises(InputError, match=r"does not fit the space: network \w+ lies outside"):
        simulate(RECORDING, replace(SETTINGS, space=replace(SPACE, widths=(8, 12))), 1)


def test_rungs_that_were_not_recorded_are_refused():
    with pytest.raises(InputError, match="no rung at 135 steps, only at 10, 30, 90, 270"):
        simulate(RECORDING, replace(SETTINGS, halving=Rungs(2, 2)), 1)


# ---- files


def test_a_recording_comes_back_from_its_files(tmp_path):
    write_recording(RECORDING, tmp_path)
    again = read_recording(tmp_path)
    assert again.rungs == RECORDING.rungs
    assert again.facts == RECORDING.facts
    assert list(again.networks) == list(RECORDING.networks)
    for name, network in RECORDING.networks.items():
        found = again.networks[name]
        assert found.architecture == network.architecture
        assert found.numbers == pytest.approx(network.numbers, rel=1e-6)
        assert found.intervals.keys() == network.intervals.keys()
        for training_, expected in zip(found.trainings, network.trainings, strict=True):
            assert training_.seed == expected.seed
            assert training_.psnr_db == pytest.approx(expected.psnr_db, abs=1e-5)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("recording.json", None, r"is not a recording \(it has no recording.json\)"),
        ("networks.csv", None, r"is not a recording \(it has no networks.csv\)"),
        ("recording.json", ("[", "{"), "cannot|can be read"),
        ("trainings.csv", ("steps", "step"), "can be read"),
        ("trainings.csv", (",10,", ",11,"), "was not measured at every rung"),
        ("networks.csv", ('""width"": 8', '""width"": 12'), "has another hash|stands twice"),
    ],
)
def test_a_damaged_recording_is_refused_in_one_line(tmp_path, file, change, words):
    write_recording(RECORDING, tmp_path)
    if change is None:
        (tmp_path / file).unlink()
    else:
        text = (tmp_path / file).read_text()
        assert change[0] in text
        (tmp_path / file).write_text(text.replace(*change, 1))
    with pytest.raises(InputError, match=words) as caught:
        read_recording(tmp_path)
    assert "\n" not in str(caught.value)


# ---- the command


def test_the_command_compares_searches_and_says_who_wins(paretosr, tmp_path):
    write_recording(RECORDING, tmp_path / "recording")
    some = ("--seeds", "3", "--trainings", "10", "--sampler", "evolution", "--sampler", "random")
    done = paretosr("simulate", "recording", *some, "--out", "one")
    assert done.code == 0, done.err
    rows = {row["search"]: row for row in csv.DictReader((tmp_path / "one/simulation.csv").read_text().splitlines())}
    assert list(rows) == [
        "evolution, full training",
        "random, full training",
        "evolution, halving",
        "random, halving",
        "evolution, halving by PSNR alone",
    ]
    assert rows["evolution, full training"]["compared_with"] == "random, full training"
    assert rows["evolution, halving by PSNR alone"]["compared_with"] == "evolution, halving"
    assert rows["random, full training"]["difference"] == ""
    assert float(rows["random, full training"]["trained_whole"]) == 10
    page = (tmp_path / "one/simulation.html").read_text()
    assert page.count("<td") > 40
    assert "at equal steps" in page
    again = paretosr("simulate", "recording", *some, "--out", "two")
    assert again.code == 0
    for name in ("simulation.csv", "simulation.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "space.widths=[8]"], ["the recording does not fit the space"]),
        (["--set", "search.halving.eta=2"], ["the recording has no rung at"]),
        (["--set", "objectives=[psnr_db, memory_mb]"], ["memory_mb"]),
        (["--sampler", "evolutoin"], ["no sampler 'evolutoin'; did you mean 'evolution'?"]),
    ],
)
def test_the_command_refuses_what_does_not_fit(paretosr, tmp_path, arguments, words):
    write_recording(RECORDING, tmp_path / "recording")
    refused(paretosr("simulate", "recording", "--seeds", "1", *arguments), *words)
    assert not (tmp_path / "out").exists()


# ---- how they are compared


def test_all_networks_have_the_whole_volume_and_a_share_only_grows():
    box = Box(RECORDING, SETTINGS.objectives)
    everything = [Whole(at, 0.0, name) for at, name in enumerate(RECORDING.networks)]
    shares = box.shares(everything)
    assert shares[-1] == pytest.approx(1.0)
    assert (np.diff(shares) >= -1e-12).all()


def test_lines_are_paired_by_seed():
    names = list(RECORDING.networks)
    few = tuple(tuple(Whole(WHOLE * (n + 1), 0.0, names[seed + n]) for n in range(3)) for seed in range(4))
    more = tuple((*trace, Whole(4 * WHOLE, 0.0, names[-1 - seed])) for seed, trace in enumerate(few))
    lines, curves = compare([Arm("few", few), Arm("more", more, "few")], Box(RECORDING, SETTINGS.objectives), 4 * WHOLE)
    gains = curves["more"][:, -1] - curves["few"][:, -1]
    assert lines[1].gain == pytest.approx(gains.mean())
    assert lines[1].gain_interval == pytest.approx(stats.t.interval(0.95, 3, gains.mean(), stats.sem(gains)))
    assert max(lines[1].reached) <= 0.75 + 1e-9  # it had as much when the other one ended
    assert lines[0].reached == ()


def test_a_search_that_never_gets_there_is_said_so():
    names = list(RECORDING.networks)
    nothing, something = ((), ()), ((Whole(WHOLE, 0.0, names[0]),), (Whole(WHOLE, 0.0, names[1]),))
    lines, _ = compare(
        [Arm("much", something), Arm("none", nothing, "much")], Box(RECORDING, SETTINGS.objectives), 2 * WHOLE
    )
    assert lines[1].reached_median == np.inf
    assert "never gets as far" in verdict(lines)[0]
