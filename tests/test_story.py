"""One tiny real search from recipe to winner, and all that people do with its folder afterwards.

The search runs once; what changes a run works on a copy of its folder. ONNX is written for real there alone.
"""

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from paretosr.analysis.export import load_exported
from paretosr.proxies.images import load_images
from paretosr.proxies.psnr import bicubic_baseline, evaluate
from paretosr.proxies.work import _images
from paretosr.runs import inspection, story, training_story
from paretosr.runs.engines.local import LocalEngine
from paretosr.runs.folder import RunFolder
from paretosr.runs.inspection import read_run
from paretosr.runs.summary import judged
from paretosr.search.candidate import Candidate
from paretosr.spaces import InputError

CANDIDATES, STEPS = 4, 6
RECIPE = {
    "seed": 3,
    "device": "cpu",
    "data": {"source": "photos"},
    "space": {
        "blocks": [{"residual": {"attention": ["none"]}}, {"imdb": {"attention": ["none", "cca"]}}],
        "widths": [8, 12],
        "depths": [1, 2],
    },
    "objectives": ["psnr_db", "activations_m"],
    "search": {"candidates": CANDIDATES, "workers": 1, "start": 3},
    "train": {"steps": STEPS, "batch": 2, "patch": 8, "learning_rate": 3e-3},
}


@dataclass(frozen=True)
class Ran:
    """The search of this module: its recipe file, its photos, its folder, and what it said."""

    recipe: Path
    photos: Path
    out: Path
    said: str


def said_by(act: Callable[[Console], object]) -> str:
    """What the terminal shows while `act` works."""
    text = io.StringIO()
    act(Console(file=text, width=200, markup=False))
    return text.getvalue()


def search(recipe: Path, out: Path, *overrides: str, fresh: bool = False) -> str:
    return said_by(lambda console: story.search(str(recipe), out, overrides, fresh=fresh, console=console))


def candidates(out: Path) -> tuple[Candidate, ...]:
    return read_run(out)[2].candidates


def stamps(out: Path, numbers: Sequence[int] = range(CANDIDATES)) -> dict[Path, int]:
    """When each file of these candidates was written."""
    files = [file for number in numbers for file in (out / "candidates" / f"{number:05d}").rglob("*")]
    return {file.relative_to(out): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def ran(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    place = tmp_path_factory.mktemp("story")
    shutil.copytree(photos, place / "photos")
    recipe = place / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = place / "out [a] 100%"  # a name that neither markup nor a database URL should trip over
    return Ran(recipe, place / "photos", out, search(recipe, out))


@pytest.fixture
def copy(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run; exports write no ONNX."""

    def no_onnx(network: torch.nn.Module, path: Path) -> float:
        path.write_bytes(b"")
        return 0.0

    monkeypatch.setattr("paretosr.analysis.export.export_onnx", no_onnx)
    shutil.copytree(ran.out, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if anything is trained."""
    monkeypatch.setattr(LocalEngine, "submit", lambda self, task: pytest.fail(f"{task.name} is done twice"))


# ---- what the search leaves


def test_all_candidates_are_trained_and_recorded(ran):
    record = read_run(ran.out)[2]
    assert [c.number for c in record.candidates] == list(range(CANDIDATES))
    assert len({c.design.hash for c in record.candidates}) == CANDIDATES
    for c in record.candidates:
        assert (c.state, c.kind, c.details["steps"], c.details["threads"]) == ("complete", "search", STEPS, 1)
        training = json.loads((ran.out / "candidates" / f"{c.number:05d}" / "training.json").read_text())
        assert training["psnr_db"] == c.numbers["psnr_db"]
        assert training["curve"][-1][0] == STEPS
    assert record.attribute("finished") is True
    assert record.attribute("first")["steps"] == STEPS
    assert sorted(file.name for file in (ran.out / "candidates" / "00000").iterdir()) == [
        "model.safetensors",
        "training.json",
    ]
    assert not list(ran.out.rglob("*.part"))


def test_the_baseline_is_bicubic_on_the_held_out_photo(ran):
    first = read_run(ran.out)[2].attribute("first")
    held_out = load_images(ran.photos, "validation")
    assert first["bicubic_psnr_db"] == bicubic_baseline(held_out).psnr_db
    assert first["data"]["validation_names"] == list(held_out.names)
    assert (first["data"]["train_images"], first["data"]["embedded"]) == (3, False)
    assert first["data"]["hash"]["validation"] == held_out.hash


def test_the_terminal_shows_each_candidate_the_front_and_the_paths(ran):
    for c in candidates(ran.out):
        assert f"{c.numbers['psnr_db']:.2f} dB" in ran.said
        assert c.design.summary() in ran.said
    for file in ("report.html", "candidates.csv", "winner/"):
        assert f"{ran.out}/{file}" in ran.said


def test_the_front_is_readable_on_a_narrow_terminal(ran):
    text = io.StringIO()
    _, recipe, record = read_run(ran.out)
    result = judged(recipe, record)
    story.print_front(result, recipe, Console(file=text, width=60, markup=False))
    lines = text.getvalue().splitlines()
    for number in result.front:
        numbers = record.candidates[number].numbers
        words = f"{number} +{numbers['psnr_db']:.2f} +{numbers['activations_m']:.2f}"
        assert sum(bool(re.search(words, line)) for line in lines) == 1
    assert max(map(len, lines)) <= 60


def test_the_status_says_that_it_is_finished(ran):
    status = json.loads((ran.out / "status.json").read_text())
    assert (status["stage"], status["asked"], status["workers"]) == ("finished", CANDIDATES, 1)
    assert status["candidates"] == {"complete": CANDIDATES, "pruned": 0, "failed": 0, "running": 0}
    assert status["running"] == {}
    assert status["seconds"] > 0
    by_number = {c.number: c for c in candidates(ran.out)}
    for row in status["front"]:
        assert row["psnr_db"] == by_number[row["number"]].numbers["psnr_db"]
    said = said_by(lambda console: inspection.status(ran.out, False, console))
    assert "finished" in said
    assert "driven" not in said


def test_report_and_table_hold_all_candidates(ran):
    report = (ran.out / "report.html").read_text()
    table = pd.read_csv(ran.out / "candidates.csv")
    _, recipe, record = read_run(ran.out)
    result = judged(recipe, record)
    assert list(table["number"]) == list(range(CANDIDATES))
    assert set(table["number"][table["on_front"]]) == set(result.front)
    for c in record.candidates:
        assert c.design.hash in report or c.design.summary() in report
        row = table.to_dict("records")[c.number]
        assert row["psnr_db"] == pytest.approx(c.numbers["psnr_db"], abs=1e-12)
        assert row["hash"] == c.design.hash
    assert "tiny" in report


def test_the_winner_loads_back_as_the_network_that_was_measured(ran):
    _, recipe, record = read_run(ran.out)
    number = judged(recipe, record).winner
    assert number is not None
    candidate = record.candidates[number]
    network = load_exported(ran.out / "winner")
    kept = load_file(ran.out / "candidates" / f"{number:05d}" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert evaluate(network, load_images(ran.photos, "validation")).psnr_db == candidate.numbers["psnr_db"]
    assert json.loads((ran.out / "winner" / "architecture.json").read_text()) == candidate.design.to_json()
    assert (ran.out / "winner" / "model.onnx").stat().st_size > 1000
    assert f"Candidate {number}" in (ran.out / "winner" / "card.md").read_text()


# ---- the same network again


def test_train_yaml_trains_the_same_network_to_the_last_digit(ran, copy, tmp_path):
    _, recipe, record = read_run(copy)
    winner = record.candidates[judged(recipe, record).winner or 0]
    again, yaml_file = tmp_path / "again", copy / "winner" / "train.yaml"
    said = said_by(lambda console: training_story.train_network(str(yaml_file), again, [], 1, console))
    (trained,) = candidates(again)
    assert trained.numbers["psnr_db"] == winner.numbers["psnr_db"]
    assert f"{winner.numbers['psnr_db']:.3f} dB" in said
    before, after = (load_file(out / "winner" / "model.safetensors") for out in (copy, again))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # The same command a second time has nothing to train; another network is not mistaken for this one.
    stamp = stamps(again, [0])
    said_by(lambda console: training_story.train_network(str(yaml_file), again, [], 1, console))
    assert stamps(again, [0]) == stamp
    other = next(c for c in record.candidates if c.number != winner.number)
    (copy / "winner" / "architecture.json").write_text(json.dumps(other.design.to_json()))
    with pytest.raises(InputError, match="trains another network"):
        said_by(lambda console: training_story.train_network(str(yaml_file), again, [], 1, console))


# ---- going on


@pytest.mark.usefixtures("no_workers")
def test_a_finished_run_is_only_reported_again(ran, copy):
    numbers, stamp = candidates(copy), stamps(copy)
    (copy / "report.html").unlink()
    started = time.monotonic()
    said = search(ran.recipe, copy)
    assert time.monotonic() - started < 10
    assert "nothing in it is done twice" in said
    assert candidates(copy) == numbers
    assert stamps(copy) == stamp
    assert (copy / "report.html").exists()


@pytest.mark.slow
def test_more_candidates_leave_the_old_ones_untouched(ran, copy):
    numbers, stamp = candidates(copy), stamps(copy)
    search(ran.recipe, copy, "search.candidates=6")
    extended = candidates(copy)
    assert extended[:CANDIDATES] == numbers
    assert stamps(copy) == stamp
    assert [c.state for c in extended] == ["complete"] * 6
    assert len({c.design.hash for c in extended}) == 6
    assert len(pd.read_csv(copy / "candidates.csv")) == 6
    assert RunFolder(copy).recipe().search.candidates == 6


@pytest.mark.usefixtures("no_workers")
def test_another_rule_for_the_winner_needs_no_training(ran, copy):
    for objective, rule in (
        ("psnr_db", "{best_psnr: {activations_m: '<= 1e6'}}"),
        ("", "{best_psnr: {psnr_db: '>= 99'}}"),
    ):
        said = search(ran.recipe, copy, f"winner={rule}")
        if not objective:
            assert "No winner: no member of the front keeps psnr_db >= 99" in said
            continue
        best = max(candidates(copy), key=lambda c: c.numbers[objective])
        assert json.loads((copy / "winner" / "architecture.json").read_text()) == best.design.to_json()


@pytest.mark.slow
def test_further_seeds_confirm_the_front_and_leave_the_search_as_it_was(ran, copy):
    numbers = candidates(copy)
    search(ran.recipe, copy, "confirm.seeds=1")
    assert candidates(copy) == numbers
    _, recipe, record = read_run(copy)
    result = judged(recipe, record)
    assert all(result.candidates[number].confirmed for number in result.front)
    for c in (c for c in result.candidates if c.confirmed):
        first, second = c.details["psnr_by_seed_db"]
        assert first == numbers[c.number].numbers["psnr_db"] != second
        assert c.numbers["psnr_db"] == pytest.approx((first + second) / 2)
        low, high = c.intervals["psnr_db"]
        assert low < c.numbers["psnr_db"] < high
    done = record.attribute("confirmed")
    search(ran.recipe, copy, "confirm.seeds=1")
    assert read_run(copy)[2].attribute("confirmed") == done


@pytest.mark.usefixtures("no_workers")
def test_other_images_are_not_mixed_in(ran, copy):
    extra = ran.photos / "extra.png"
    _images.cache_clear()  # another process would not know the images of this one
    shutil.copy(ran.photos / "0.png", extra)
    try:
        with pytest.raises(InputError, match="the train images have changed since this run began"):
            search(ran.recipe, copy, "search.candidates=6")
    finally:
        extra.unlink()
        _images.cache_clear()


# ---- trained longer


def test_a_candidate_trained_longer_is_a_child_of_it(ran, copy, tmp_path):
    longer = tmp_path / "longer.yaml"
    longer.write_text(yaml.safe_dump({"device": "cpu", "train": {**RECIPE["train"], "steps": 9}}))
    before = candidates(copy)
    said_by(lambda console: training_story.train_candidate(copy, 1, str(longer), ["train.batch=1"], 2, console))
    *old, child = candidates(copy)
    assert tuple(old) == before
    assert (child.number, child.parent, child.kind, child.state) == (CANDIDATES, 1, "trained", "complete")
    assert child.design == before[1].design
    assert (child.details["steps"], child.details["training"]["batch"]) == (9, 1)
    first, second = child.details["psnr_by_seed_db"]
    assert first != second
    assert child.numbers["psnr_db"] == pytest.approx((first + second) / 2)
    assert child.numbers["activations_m"] == before[1].numbers["activations_m"]
    exported = copy / f"trained-{child.number:05d}"
    network = load_exported(exported)
    assert evaluate(network, load_images(ran.photos, "validation")).psnr_db == first
    written = yaml.safe_load((exported / "train.yaml").read_text())
    assert (written["train"]["steps"], written["train"]["batch"]) == (9, 1)
    assert list(pd.read_csv(copy / "candidates.csv")["parent"].dropna()) == [1]
    # The search goes on as if it had never seen the child.
    search(ran.recipe, copy, "search.candidates=5")
    assert [c.kind for c in candidates(copy)] == ["search"] * 4 + ["trained", "search"]


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("number", "recipe", "overrides", "message"),
    [
        (17, None, [], "has no candidate 17; it has 0 to 3"),
        (0, None, ["train.steps=9"], "name one by --recipe"),
        (0, "full", ["data.source=/nowhere"], "/nowhere: no such folder"),
        (0, "full", ["train.patch=512"], "a training patch of 512x512"),
    ],
)
def test_a_training_that_cannot_be_leaves_no_child(copy, number, recipe, overrides, message):
    with pytest.raises(InputError, match=message):
        said_by(lambda console: training_story.train_candidate(copy, number, recipe, overrides, 1, console))
    assert len(candidates(copy)) == CANDIDATES


# ---- taken away


def test_the_front_is_exported_member_by_member(copy, tmp_path):
    _, recipe, record = read_run(copy)
    front = judged(recipe, record).front
    said_by(lambda console: inspection.export(copy, [], True, tmp_path / "taken", console))
    assert {folder.name for folder in (tmp_path / "taken").iterdir()} == {f"{number:05d}" for number in front}
    for number in front:
        exported = json.loads((tmp_path / "taken" / f"{number:05d}" / "architecture.json").read_text())
        assert exported == record.candidates[number].design.to_json()


def test_an_export_takes_the_place_of_an_export_and_of_nothing_else(copy, tmp_path):
    mine = tmp_path / "mine"
    for number in (0, 1):
        said_by(lambda console, number=number: inspection.export(copy, [number], False, mine, console))
        shown = json.loads((mine / "architecture.json").read_text())
        assert shown == candidates(copy)[number].design.to_json()
    (mine / "thesis.tex").write_text("two years of work")
    with pytest.raises(InputError, match=r"mine: holds other files \(thesis\.tex\)"):
        said_by(lambda console: inspection.export(copy, [2], False, mine, console))
    assert (mine / "thesis.tex").read_text() == "two years of work"
    assert json.loads((mine / "architecture.json").read_text()) == shown
    with pytest.raises(InputError, match="has no candidate 9"):
        said_by(lambda console: inspection.export(copy, [9], False, None, console))


# ---- read while it is driven


def test_a_run_can_be_read_and_reported_while_a_driver_holds_it(ran, copy):
    before = (copy / "study.db").read_bytes()
    with RunFolder(copy).lock():
        assert candidates(copy) == candidates(ran.out)
        said = said_by(lambda console: inspection.report(copy, console))
        assert "report.html" in said
        assert "driven by pid" in said_by(lambda console: inspection.status(copy, False, console))
        with pytest.raises(InputError, match="is being driven by pid"):
            search(ran.recipe, copy)
        with pytest.raises(InputError, match="is being driven by pid"):
            search(ran.recipe, copy, fresh=True)
    assert (copy / "study.db").read_bytes() == before
    assert not list(copy.glob(".*"))


def test_a_driver_that_is_gone_is_said_to_be(copy):
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps({**status, "stage": "searching"}))
    assert "its driver is gone" in said_by(lambda console: inspection.status(copy, False, console))
