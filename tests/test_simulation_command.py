"""`paretosr simulate`: what it says of how much was recorded, and what recordings it takes or refuses in one line."""

import csv
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Outcome, refused
from drivers import children
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor
from recorded import RECIPE, SPACE, made

from paretosr.analysis.simulation import Arm, Box, compare, crowded
from paretosr.analysis.simulation_page import met_text, verdict
from paretosr.search.recording import Recorded, Recording, write_recording
from paretosr.search.simulator import Whole

RECORDING = made()
PART = made(count=20)
BRIEF = ("--seeds", "2", "--sampler", "evolution", "--out", "out")


def simulated(paretosr: Callable[..., Outcome], recording: Recording, *words: str) -> Outcome:
    write_recording(recording, Path("recording"))
    return paretosr("simulate", "recording", *BRIEF, *words)


def rows() -> dict[str, dict[str, str]]:
    return {row["search"]: row for row in csv.DictReader(Path("out/simulation.csv").read_text().splitlines())}


def changed(recording: Recording, change: Callable[[int, Recorded], Recorded]) -> Recording:
    networks = {name: change(at, network) for at, (name, network) in enumerate(recording.networks.items())}
    return replace(recording, networks=networks)


def by_recipe(**parts: Any) -> Recording:
    """A recording with memory, by the recipe with these parts beside its own."""
    with_memory = changed(
        PART, lambda at, network: replace(network, numbers={**network.numbers, "memory_mb": 10.0 + at})
    )
    return replace(with_memory, facts={**PART.facts, "recipe": {**RECIPE, **parts}})


# ---- how much of the recording a search meets


def test_a_comparison_that_uses_up_the_recording_says_so(paretosr):
    done = simulated(paretosr, PART, "--trainings", "15")
    assert done.code == 0, done.err
    full, halving, alone = rows().values()
    assert (float(full["met"]), full["recorded"], full["used_up_at_median"]) == (15, "20", "inf")
    assert float(halving["met"]) == 20
    assert 0 < float(halving["used_up_at_median"]) < 0.5
    assert alone["search"] == "evolution, halving by PSNR alone"
    assert alone["compared_with"] == "evolution, halving"
    assert float(alone["difference_low"]) <= float(alone["difference"]) <= float(alone["difference_high"])
    arms = "evolution, halving; evolution, halving by PSNR alone"
    warning = f"Warning: more than 90% of 20 recorded networks were met by {arms}: "
    page = Path("out/simulation.html").read_text()
    assert done.out.count(warning) == page.count(warning) == 1
    used_up = f"20.0 all at {float(halving['used_up_at_median']):.2f}"
    for words in ("met of 20", used_up, "15.0", "of halving by PSNR alone, to halving by all objectives"):
        assert words in done.out
    assert ">15 of 20<" in page
    assert f">20 of 20, all at {float(halving['used_up_at_median']):.2f}<" in page
    assert "evolution, halving by all objectives at equal steps" in page


def test_without_halving_full_trainings_alone_are_compared(paretosr):
    more = ("--trainings", "5", "--sampler", "random", "--set", "search.halving=null")
    done = simulated(paretosr, RECORDING, *more)
    assert done.code == 0, done.err
    assert "halving" not in set(" ".join(rows()).split())
    assert all(name.endswith(", full training") for name in rows())


def test_on_several_cores_the_searches_are_those_of_one(paretosr, monkeypatch):
    more = ("--trainings", "5", "--sampler", "nsga2")
    assert simulated(paretosr, RECORDING, *more).code == 0
    on_one = rows()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    done = simulated(paretosr, RECORDING, *more)
    assert done.code == 0, done.err
    assert rows() == on_one
    workers = [pid for pid in children(os.getpid()) if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    get_reusable_executor().shutdown(wait=True)  # or they would be taken for the workers of other tests
    assert len(workers) == (2 if cpu_count() > 1 else 0)


def test_a_narrow_terminal_has_a_line_for_each_search(paretosr, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = simulated(paretosr, RECORDING, "--trainings", "5")
    assert done.code == 0, done.err
    for name, row in rows().items():
        (line,) = [line for line in done.out.splitlines() if re.match(rf" *{re.escape(name)} +\d", line)]
        assert line.split()[-4 if row["compared_with"] else -3] == f"{float(row['share_at_third']):.3f}"
    assert "quartiles" not in done.out.partition("Shares of")[0]


def test_a_comparison_that_leaves_much_untried_warns_of_nothing(paretosr):
    done = simulated(paretosr, RECORDING, "--trainings", "5")
    assert done.code == 0, done.err
    assert "Warning: more than" not in done.out + Path("out/simulation.html").read_text()
    assert {row["used_up_at_median"] for row in rows().values()} == {"inf"}


def test_what_was_met_is_the_mean_of_the_seeds_and_used_up_their_middle():
    names = list(PART.networks)
    traces = tuple((Whole(270, 0.0, name),) for name in names[:3])
    arms = [
        Arm("many", traces, met=(20, 20, 19), used_up=(270, 540, None)),
        Arm("few", traces, met=(2, 3, 4), used_up=(None, None, None)),
        Arm("unknown", traces, "few"),
    ]
    many, few, unknown = compare(arms, Box(PART, ("psnr_db", "latency_ratio")), 1080)[0]
    assert (many.met, many.recorded, many.used_up_median) == (pytest.approx(59 / 3), 20, 0.5)
    assert (few.met, few.used_up_median) == (3, math.inf)
    assert met_text(many) == "20 of 20, all at 0.50"
    assert met_text(unknown) == ""
    assert "met by many:" in crowded([many, few, unknown])
    assert crowded([few, unknown]) == ""
    assert len(verdict([many, few, unknown])) == 1


@pytest.mark.parametrize("limit", ["limits.activations_m=<= 0.001", "limits.latency_ratio=<= 0.001"])
def test_limits_that_nobody_keeps_are_refused(paretosr, limit):
    refused(simulated(paretosr, PART, "--set", limit), "limits: none of the 20 recorded networks keeps", "(recorded: ")
    assert not Path("out").exists()


# ---- recordings that are not whole


def test_a_recording_that_was_stopped_while_it_was_timed_is_refused_as_such(paretosr):
    def untimed(at: int, network: Recorded) -> Recorded:
        numbers = {name: value for name, value in network.numbers.items() if not name.startswith("latency")}
        return network if at < 15 else replace(network, numbers=numbers, intervals={})

    outcome = simulated(paretosr, changed(PART, untimed))
    refused(outcome, "5 of 20 recorded networks are not timed", "'objectives=[psnr_db, activations_m]'")
    counted = simulated(paretosr, changed(PART, untimed), "--set", "objectives=[psnr_db, activations_m]")
    assert counted.code == 0, counted.err
    limited = ("--set", "objectives=[psnr_db, activations_m]", "--set", "limits.latency_ratio=<= 0.5")
    refused(simulated(paretosr, changed(PART, untimed), *limited), "5 of 20 recorded networks are not timed")


def test_networks_that_are_all_worse_than_bicubic_are_refused(paretosr):
    poor = replace(PART, facts={**PART.facts, "first": {**PART.facts["first"], "bicubic_psnr_db": 60.0}})
    refused(simulated(paretosr, poor), "none of the 20 recorded networks is better than bicubic (60.00 dB)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts.pop("recipe"), "has no 'recipe'"),
        (lambda facts: facts.update(recipe=[]), "has no 'recipe'"),
        (lambda facts: facts.pop("first"), "has no 'first'"),
        (lambda facts: facts["first"].pop("bicubic_psnr_db"), "'bicubic_psnr_db'"),
        (lambda facts: facts["first"].update(reference=None), "'reference'"),
    ],
)
def test_a_recording_without_its_facts_is_refused(paretosr, change, words):
    write_recording(PART, Path("recording"))
    file = Path("recording/recording.json")
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    refused(paretosr("simulate", "recording", *BRIEF), "recording.json: ", words)


@pytest.mark.parametrize("text", ["", "hash,architecture,activations_m\n"])
def test_a_recording_without_networks_is_refused(paretosr, text):
    write_recording(PART, Path("recording"))
    Path("recording/networks.csv").write_text(text)
    refused(paretosr("simulate", "recording", *BRIEF), "networks.csv: holds no network")


def test_a_search_without_psnr_is_refused(paretosr):
    aims = ("--set", "search.halving=null", "--set", "objectives=[activations_m, latency_ratio]")
    refused(simulated(paretosr, PART, *aims), "without 'psnr_db' nothing is trained")


# ---- recordings of other machines


@pytest.mark.parametrize(
    "parts",
    [
        {"device": "cuda", "objectives": ["psnr_db", "memory_mb"], "winner": {"fastest": {"memory_mb": "<= 100"}}},
        {"device": "cuda", "latency": {"precision": "tf32", "execution": "graph"}},
        {"device": "cuda", "train": {**RECIPE["train"], "gpus": 2}},
        {"device": "cuda", "train": {**RECIPE["train"], "gpu_share": 0.25}},
        {"device": "auto", "limits": {"memory_mb": "<= 25"}},
    ],
)
def test_a_recording_of_a_gpu_is_replayed_anywhere(paretosr, parts):
    done = simulated(paretosr, by_recipe(**parts), "--trainings", "3")
    assert done.code == 0, done.err
    assert float(rows()["evolution, full training"]["trained_whole"]) == 3


def test_memory_that_was_not_recorded_is_refused_as_that(paretosr):
    aims = ("--set", "objectives=[psnr_db, memory_mb]")
    refused(simulated(paretosr, PART, *aims), "objectives: the recording has no 'memory_mb' of 20 of 20 networks")
    refused(simulated(paretosr, PART, "--set", "limits.memory_mb=<= 25"), "limits: the recording has no 'memory_mb'")


# ---- a part of a large space


def test_evolution_searches_a_part_of_a_large_space(paretosr):
    space = replace(SPACE, widths=tuple(range(8, 40, 4)), depths=(1, 2, 3, 4, 5, 6))
    assert space.size > 8000
    recipe = {**RECIPE, "space": {**RECIPE["space"], "widths": list(space.widths), "depths": list(space.depths)}}
    part = replace(made(space, 400), facts={**PART.facts, "recipe": recipe})
    done = simulated(paretosr, part, "--seeds", "1", "--trainings", "30")
    assert done.code == 0, done.err
    assert 100 < float(rows()["evolution, halving"]["met"]) < 400
