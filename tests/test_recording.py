"""`paretosr record` on a machine that trains nothing: what fails, stops, and what must not be mixed."""

import json
import math
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import photo, refused
from recorded import SMALL, SMALL_RUNGS, Scripted, small_recipe

from paretosr.proxies.work import TrainWork, _images
from paretosr.runs import recording_story
from paretosr.runs.engines.workplace import ThisMachine
from paretosr.runs.recorder import FAILURES
from paretosr.search.engine import Task
from paretosr.search.recording import Recording, read_recording


@pytest.fixture
def recipe(paretosr: object) -> Path:
    return small_recipe()


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A machine that trains nothing in place of this one."""
    found = Scripted()
    monkeypatch.setattr(ThisMachine, "engine", lambda *words: found.start(words[-1]))
    monkeypatch.setattr(recording_story, "machine_facts", lambda device: {"device": device, "cpu": found.cpu})
    return found


def failing(*names: str, why: str = "the loss is nan") -> Callable[[Task], Mapping[str, Any]]:
    """Lets the trainings of these names (network/repeat) fail, and the timings of these (network)."""

    def happen(task: Task) -> Mapping[str, Any]:
        if (task.name.rpartition("/")[0] if isinstance(task.work, TrainWork) else task.name[:8]) in names:
            raise ValueError(why)
        return {}

    return happen


def ringing(number: int, at: Callable[[Task], bool]) -> Callable[[Task], Mapping[str, Any]]:
    """Sends the signal at the first task of which `at` is true."""

    def happen(task: Task) -> Mapping[str, Any]:
        if at(task):
            signal.raise_signal(number)
        return {}

    return happen


def here(folder: str = "run") -> Recording:
    return read_recording(Path(folder) / "recording")


def card_of(folder: str = "run") -> str:
    return (Path(folder) / "recording/README.md").read_text()


def short(recording: Recording) -> list[str]:
    """Its networks, as the names of tasks have them."""
    return [name[:8] for name in recording.networks]


# ---- what fails


def test_what_fails_is_left_out_and_not_tried_again(paretosr, recipe, workshop):
    some = ("record", recipe, "--networks", "4", "--repeated", "2", "--seeds", "3", "--out", "run")
    assert paretosr(*some).code == 0
    whole = here()
    first, second, third, fourth = short(whole)
    assert whole.facts["failed"] == []

    shutil.rmtree("run")
    workshop.happen = failing(f"{first}/0", f"{second}/1", third, why="the loss | is nan")
    done = paretosr(*some)
    assert done.code == 0, done.err
    words = f"3 failed and left out, the first of them training 0 of {next(iter(whole.networks))}: the loss "
    assert f"{words}| is nan" in done.out
    assert f"| failed | {words}\\| is nan |" in card_of()
    found = here()
    assert {n[:8]: len(r.trainings) for n, r in found.networks.items()} == {second: 1, fourth: 1}
    assert workshop.trained == [f"{first}/0", f"{second}/0", f"{second}/1", f"{third}/0", f"{fourth}/0"]
    assert [failed["what"] for failed in found.facts["failed"]] == ["training 0", "training 1", "timing"]
    assert not list(Path("run").rglob("state.pt"))

    workshop.happen = failing()
    assert paretosr(*some).code == 0
    assert workshop.tasks == []
    assert here() == found

    for file in Path("run/networks").rglob("failed*.json"):
        file.unlink()
    done = paretosr(*some)
    assert done.code == 0, done.err
    assert "failed" not in done.out + card_of()
    assert here() == whole


@pytest.mark.parametrize("psnr_db", [math.nan, math.inf])
def test_a_psnr_that_is_no_number_is_a_failure(paretosr, recipe, workshop, psnr_db):
    bad: list[str] = []

    def happen(task: Task) -> Mapping[str, Any]:
        if isinstance(task.work, TrainWork) and task.work.steps == SMALL_RUNGS[1] and not bad:
            bad.append(task.name[:8])
            return {"psnr_db": psnr_db}
        return {}

    workshop.happen = happen
    done = paretosr("record", recipe, "--networks", "2", "--out", "run", "--seeds", "1")
    assert done.code == 0, done.err
    assert f"1 failed and left out, the first of them training 0 of {bad[0]}" in done.out
    assert f": PSNR is {psnr_db}" in done.out
    assert len(here().networks) == 1
    assert bad[0] not in short(here())


def test_one_that_was_kept_before_is_trained_again(paretosr, recipe, workshop):
    some = ("record", recipe, "--networks", "2", "--seeds", "1", "--out", "run")
    assert paretosr(*some).code == 0
    whole = here()
    file = Path("run/networks", next(iter(whole.networks)), "training0.json")
    kept = json.loads(file.read_text())
    file.write_text(json.dumps([kept[0], {**kept[1], "psnr_db": math.nan}, kept[2]]))
    assert paretosr(*some).code == 0
    assert [task.name for task in workshop.tasks] == [f"{short(whole)[0]}/0/{steps}" for steps in SMALL_RUNGS[1:]]
    assert here() == whole


@pytest.mark.parametrize("stage", ["training", "timing"])
def test_many_failures_in_a_row_end_it_and_what_there_is_is_written(paretosr, recipe, workshop, stage):
    networks: list[str] = []

    def happen(task: Task) -> Mapping[str, Any]:
        concerns = isinstance(task.work, TrainWork) == (stage == "training") and not task.name.startswith("first/")
        if concerns and task.name[:8] not in networks:
            networks.append(task.name[:8])
            if len(networks) not in (2, 4):  # those in between that do well begin the count anew
                raise ValueError(f"broken at {networks[-1]}")
        return {}

    workshop.happen = happen
    done = paretosr("record", recipe, "--networks", "15", "--seeds", "1", "--out", "run")
    assert done.code == 1
    assert len(networks) == 4 + FAILURES
    assert f"paretosr: {FAILURES} in a row failed, the last one (" in done.err
    assert f"broken at {networks[-1]}; to have them tried again, remove run/networks/*/failed*.json" in done.err
    assert "Traceback" not in done.err
    in_between = {networks[1], networks[3]}
    assert in_between <= set(short(here()))
    assert len(here().networks) == (2 if stage == "training" else 15 - 2 - FAILURES)
    assert f"| failed | {2 + FAILURES} failed" in card_of()


def test_nothing_recorded_is_no_success(paretosr, recipe, workshop):
    def happen(task: Task) -> Mapping[str, Any]:
        if isinstance(task.work, TrainWork):
            raise ValueError("the loss is nan")
        return {}

    workshop.happen = happen
    done = paretosr("record", recipe, "--networks", "2", "--out", "run")
    assert done.code == 1
    assert done.err.startswith("paretosr: no network was recorded: 2 failed and left out")


# ---- what is timed


@pytest.fixture
def untimed(recipe: Path) -> Path:
    recipe.write_text(yaml.safe_dump({**SMALL, "objectives": ["psnr_db", "activations_m"]}))
    return recipe


def test_timings_need_an_objective_that_is_timed(paretosr, untimed, workshop):
    refused(paretosr("record", untimed, "--out", "run"), "no objective is timed; say --no-time, or add latency_ratio")
    assert not Path("run").exists()
    done = paretosr("record", untimed, "--networks", "2", "--no-time", "--out", "run")
    assert done.code == 0, done.err
    assert "| latency | not measured yet |" in card_of()


# ---- stops


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("at", ["engine", "first/reference", "first/bicubic"])
def test_a_stop_in_the_opening_is_one_line_and_the_same_command_goes_on(paretosr, recipe, workshop, number, code, at):
    some = ("record", recipe, "--networks", "2", "--out", "run")
    if at == "engine":
        workshop.open = lambda: signal.raise_signal(number)
    else:
        workshop.happen = ringing(number, lambda task: task.name == at)
    done = paretosr(*some)
    assert (done.code, done.err) == (code, "paretosr: stopped; the same command goes on from here\n")
    assert not Path("run/recording").exists()
    workshop.open, workshop.happen = (lambda: None), failing()
    assert paretosr(*some).code == 0
    assert len(here().networks) == 2


def test_a_stop_at_the_start_of_a_later_life_writes_what_there_is(paretosr, recipe, workshop):
    some = ("record", recipe, "--out", "run", "--networks")
    assert paretosr(*some, 2).code == 0
    known = here()
    shutil.rmtree("run/recording")
    workshop.open = lambda: signal.raise_signal(signal.SIGINT)
    assert paretosr(*some, 3).code == 130
    assert here() == known


def test_repeats_count_as_they_follow_a_whole_first_one(paretosr, recipe, workshop):
    some = ("record", recipe, "--networks", "2", "--repeated", "2", "--seeds", "3", "--out", "run")
    assert paretosr(*some).code == 0
    one, two = here().networks
    Path("run/networks", one, "training0.json").unlink()  # the others ended before it
    Path("run/networks", two, "training1.json").unlink()
    workshop.happen = ringing(signal.SIGINT, lambda task: True)
    assert paretosr(*some).code == 130
    found = here().networks
    assert list(found) == [two]
    seeds = json.loads(Path("run/networks", two, "training0.json").read_text())
    assert [t.seed for t in found[two].trainings] == [seeds[0]["seed"]]


# ---- what must not be mixed


def test_other_images_are_refused(paretosr, recipe, workshop):
    some = ("record", recipe, "--networks", "2", "--out")
    assert paretosr(*some, "run").code == 0
    photo(Path("photos/1.png"), 72, 64)
    _images.cache_clear()  # of this process, which outlives a command only here
    workshop.tasks.clear()
    words = "run: the validation images have changed since it was recorded ("
    refused(paretosr(*some, "run"), words, "photos); restore them, or begin another recording")
    refused(paretosr(*some, "other", "--from", "run/recording"), "run/recording: the validation images have changed")
    assert workshop.tasks == []
    assert not Path("other").exists()


def test_trainings_of_several_machines_are_said_and_timings_are_of_one(paretosr, recipe, workshop):
    some = ("record", recipe, "--out", "run", "--networks")
    assert paretosr(*some, 2).code == 0
    assert "| trained on | First CPU; one thread a training |" in card_of()
    assert "timed on First CPU beside imdn (50.0 ms)" in card_of()
    Path("run/machines.json").unlink()  # once they were not noted

    workshop.cpu = "Second CPU"
    words = "run: is timed on cpu First CPU, and this is Second CPU; say --no-time to train here"
    refused(paretosr(*some, 3), words, "by --from run/recording")
    assert len(here().networks) == 2
    done = paretosr(*some, 2, "--no-time")
    assert done.code == 0, done.err
    assert "| trained on | First CPU; one" in card_of()  # nothing was left to train
    assert paretosr(*some, 3, "--no-time").code == 0
    assert paretosr(*some, 4, "--no-time").code == 0
    assert [machine["cpu"] for machine in here().facts["machines"]] == ["First CPU", "Second CPU"]
    assert "| trained on | First CPU, Second CPU; one thread a training |" in card_of()
    assert "of 2, timed on First CPU beside" in card_of()

    workshop.cpu = "Third CPU"
    done = paretosr("record", recipe, "--out", "other", "--networks", 4, "--from", "run/recording")
    assert done.code == 0, done.err
    assert workshop.trained == []
    assert "| trained on | First CPU, Second CPU; one thread a training |" in card_of("other")
    assert "of 4, timed on Third CPU beside" in card_of("other")


def test_what_is_taken_over_takes_the_place_of_what_failed(paretosr, recipe, workshop):
    some = ("record", recipe, "--networks", "2", "--seeds", "1", "--out")
    assert paretosr(*some, "one").code == 0
    workshop.happen = failing(f"{short(here('one'))[0]}/0")
    assert paretosr(*some, "two").code == 0
    assert len(here("two").networks) == 1
    assert paretosr(*some, "two", "--from", "one/recording").code == 0
    assert here("two").networks == here("one").networks
    assert here("two").facts["failed"] == []


def test_who_would_be_promoted_changes_no_training(paretosr, recipe, workshop):
    assert paretosr("record", recipe, "--networks", "2", "--out", "one").code == 0
    search = SMALL["search"]
    other = {**search, "halving": {**search["halving"], "promote": "distance"}}
    Path("other.yaml").write_text(yaml.safe_dump({**SMALL, "search": other}))
    workshop.tasks.clear()
    done = paretosr("record", "other.yaml", "--networks", "2", "--out", "two", "--from", "one/recording")
    assert done.code == 0, done.err
    assert not [task for task in workshop.tasks if isinstance(task.work, TrainWork)]
    assert {n: r.trainings for n, r in here("two").networks.items()} == {
        n: r.trainings for n, r in here("one").networks.items()
    }


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"train": {**SMALL["train"], "batch": 2}}, "train"),
        ({"seed": 1}, "seed"),
        ({"search": {**SMALL["search"], "halving": {"rungs": 2, "eta": 2}}}, "search.halving.rungs"),
    ],
)
def test_another_recipe_is_refused_before_anything_is_measured(paretosr, recipe, workshop, change, key):
    assert paretosr("record", recipe, "--networks", "2", "--out", "one").code == 0
    Path("other.yaml").write_text(yaml.safe_dump({**SMALL, **change}))
    workshop.tasks.clear()
    refused(
        paretosr("record", "other.yaml", "--out", "two", "--from", "one/recording"),
        f"one/recording: was recorded by a recipe with another '{key}'",
    )
    assert workshop.tasks == []
    assert not Path("two").exists()
