"""`paretosr record`: a small space recorded for real, gone on with, taken over; and its card."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from commands import refused
from recorded import SMALL, SMALL_RUNGS, made, small_recipe

from paretosr.analysis.recording_card import card
from paretosr.search.recording import read_recording


@pytest.fixture
def recipe(paretosr: object) -> Path:
    return small_recipe()


@pytest.mark.slow
def test_a_space_is_recorded_and_gone_on_with_and_taken_over(paretosr, recipe):
    some = ("--repeated", "1", "--seeds", "2")
    done = paretosr("record", recipe, "--networks", "2", *some, "--out", "one")
    assert done.code == 0, done.err
    first = read_recording(Path("one/recording"))
    assert first.rungs == SMALL_RUNGS
    assert [len(n.trainings) for n in first.networks.values()] == [2, 1]
    assert all("latency_ratio" in n.intervals for n in first.networks.values())
    assert not list(Path("one").rglob("state.pt"))

    more = paretosr("record", recipe, "--networks", "3", *some, "--out", "one")
    assert more.code == 0, more.err
    longer = read_recording(Path("one/recording"))
    assert list(longer.networks)[:2] == list(first.networks)
    for name, network in first.networks.items():
        assert longer.networks[name].trainings == network.trainings  # nothing was done twice
    rows = list(csv.DictReader(Path("one/recording/trainings.csv").read_text().splitlines()))
    assert len(rows) == 4 * len(SMALL_RUNGS)
    assert "| steps |" in Path("one/recording/README.md").read_text()

    taken = paretosr("record", recipe, "--networks", "3", *some, "--out", "two", "--from", "one/recording", "--no-time")
    assert taken.code == 0, taken.err
    again = read_recording(Path("two/recording"))
    assert {n: r.trainings for n, r in again.networks.items()} == {n: r.trainings for n, r in longer.networks.items()}
    assert all("latency_ratio" not in n.numbers for n in again.networks.values())  # of this machine none was measured

    other = yaml.safe_load(recipe.read_text())
    other["train"]["batch"] = 2
    Path("other.yaml").write_text(yaml.safe_dump(other))
    refused(paretosr("record", "other.yaml", "--out", "three", "--from", "one/recording"), "with another 'train'")
    assert not Path("three").exists()


@pytest.mark.slow
def test_a_search_by_rungs_runs_from_the_command_line(paretosr, recipe):
    done = paretosr("search", recipe, "--set", "search.candidates=4", "--out", "run")
    assert done.code == 0, done.err
    said = paretosr("status", "run").out
    assert "rungs (networks at steps): 4 at 1, 2 at 2, 1 at 4" in said
    assert "1 complete, 3 paused" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search": {}}, ["a recording needs a 'space', and 'search.halving'"]),
        ({"search": {"halving": {"rungs": 4, "eta": 2}}}, ["search.halving: of 4 rungs with eta 2"]),
        ({"objectives": ["activations_m"]}, ["search.halving: promotes by PSNR"]),
    ],
)
def test_refusals(paretosr, recipe, change, words):
    recipe.write_text(yaml.safe_dump({**SMALL, **change}))
    refused(paretosr("record", recipe, "--out", "run"), *words)
    assert not Path("run").exists()


def test_no_recording_to_begin_from_is_refused_before_anything_is_written(paretosr, recipe):
    refused(paretosr("record", recipe, "--out", "run", "--from", "nowhere"), "nowhere: is not a recording")
    assert not Path("run").exists()


def test_the_card_tells_what_early_psnr_is_worth():
    text = card(made(count=60), "made", "paretosr record made.yaml")
    assert "60 different networks, each trained for 270 steps and measured after 10, 30, 90, 270" in text
    assert "given latency and activations" in text
    assert text.count("| 10 |") == 3  # among the ranks, between the rungs, and among the seeds
    assert "Between the rungs, overall / given latency and activations:" in text
    assert "| steps | 30 | 90 | 270 |" in text
    assert "Of 60 networks trained with further seeds" in text


def test_a_card_without_milliseconds():
    whole = made(count=3)
    first = {**whole.facts["first"], "reference": {"name": "imdn", "numbers": {}}}
    text = card(replace(whole, facts={**whole.facts, "first": first}), "made", "paretosr record made.yaml")
    assert "of 3, timed on not known beside imdn, untrained" in text
