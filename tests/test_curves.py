"""Curves for TensorBoard, read back by TensorBoard's own reader: all points, each once, whatever was killed."""

import json
from pathlib import Path
from random import Random

import pytest
import yaml
from commands import RECIPE, refused
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from paretosr.runs.curves import curves_of
from paretosr.runs.folder import RunFolder
from paretosr.runs.inspection import read_run
from paretosr.runs.recipe_file import parse_recipe
from paretosr.search.candidate import Candidate
from paretosr.search.study import Record
from paretosr.spaces import Design, InputError

SPACE = {"blocks": ["residual", "imdb"], "widths": [8, 12], "depths": [1, 2, 3]}
AIMS = ["psnr_db", "latency_ratio", "activations_m"]
TOLD = parse_recipe({"objectives": AIMS, "space": SPACE, "report": {"tensorboard": True}}, "told.yaml")
UNTOLD = parse_recipe({"objectives": AIMS, "space": SPACE}, "untold.yaml")
RUNGS = [(2, 24.5), (6, 25.5), (18, 26.25)]
CURVE = [[2, 0.5], [6, 0.25], [18, 0.125]]


def points(out: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """What TensorBoard shows: for each run and tag, (step, value)."""
    reader = EventMultiplexer(size_guidance={"scalars": 0}).AddRunsFromDirectory(str(out / "tensorboard"))
    reader.Reload()
    return {
        run: {tag: [(e.step, e.value) for e in reader.Scalars(run, tag)] for tag in tags["scalars"]}
        for run, tags in reader.Runs().items()
    }


def designs(count: int) -> list[Design]:
    space = TOLD.make_space()
    assert space is not None
    return [Design(space.sample(Random(key))) for key in range(count)]


def life(number: int, design: Design, rungs: int) -> list[Candidate]:
    """A candidate of a search by rungs as it is recorded in turn, measured at so many; at 3 it is complete."""
    known = Candidate(number, design, numbers={"activations_m": 2.0})
    timed = {"activations_m": 2.0, "latency_ratio": 0.5}
    lives = [known, Candidate(number, design, numbers=timed, details={"target": 2})]
    for count in range(1, rungs + 1):
        reached = [list(rung) for rung in RUNGS[:count]]
        details = {"target": RUNGS[count - 1][0], "rungs": reached, "steps": 18}
        if count == 3:  # a kill may come between the numbers and the end
            end = {**timed, "psnr_db": 26.25}
            lives.append(Candidate(number, design, numbers=end, details=details))
            lives.append(Candidate(number, design, "complete", numbers=end, details=details))
        else:
            lives.append(Candidate(number, design, "paused", numbers=timed, details=details))
    return lives


def due(rungs: int) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard has to show of it in the end."""
    shown = {"latency_ratio": [(0, 0.5)]}
    if rungs:
        shown["psnr_db"] = RUNGS[:rungs]
        shown["loss"] = [(step, loss) for step, loss in CURVE[:rungs]]
    return shown


@pytest.mark.parametrize("seed", range(4))
def test_every_point_is_there_once_whenever_the_driver_was_killed(tmp_path, seed):
    chance, folder, record = Random(seed), RunFolder(tmp_path), Record(None, AIMS, TOLD.make_space())
    lives = [life(number, design, number) for number, design in enumerate(designs(4))]
    renew = curves_of(TOLD, folder, record)
    for candidate in [lives[number].pop(0) for number in range(4)]:
        record.add(candidate)
    while any(lives):
        candidate = chance.choice([left for left in lives if left]).pop(0)
        if candidate.rungs:  # the curve so far is written before the rung is recorded
            file = folder.candidate(candidate.number) / "training.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"curve": CURVE[: len(candidate.rungs)]}))
        record.update(candidate)
        if chance.random() < 0.6:  # else it is killed before the curves are written
            renew()
        if chance.random() < 0.4:
            renew = curves_of(TOLD, folder, record)  # the next driver
    curves_of(TOLD, folder, record)()
    shown = points(tmp_path)
    assert {run: {tag: sorted(series) for tag, series in tags.items()} for run, tags in shown.items()} == {
        f"{number:05d}": due(number) for number in range(4)
    }
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    curves_of(TOLD, folder, record)()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_network_without_rungs_has_its_psnr_at_its_last_step(tmp_path):
    folder, record = RunFolder(tmp_path), Record(None, ["psnr_db"])
    folder.candidate(0).mkdir(parents=True)
    (folder.candidate(0) / "training.json").write_text(json.dumps({"curve": CURVE}))
    (design,) = designs(1)
    record.add(Candidate(0, design, "complete", numbers={"psnr_db": 26.25}, details={"steps": 18}))
    curves_of(TOLD, folder, record)()
    assert points(tmp_path) == {"00000": {"loss": [tuple(point) for point in CURVE], "psnr_db": [(18, 26.25)]}}


def test_no_curves_where_none_are_asked_for(tmp_path):
    record = Record(None, AIMS)
    record.add(life(0, designs(1)[0], 1)[-1])
    curves_of(UNTOLD, RunFolder(tmp_path), record)()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["search", "train"])
def test_a_missing_package_is_said_at_the_start(paretosr, recipe, tmp_path, monkeypatch, command):
    monkeypatch.setattr("paretosr.runs.curves.find_spec", lambda name: None)
    if command == "train":
        content = {key: value for key, value in RECIPE.items() if key not in ("space", "search", "objectives")}
        recipe.write_text(yaml.safe_dump({**content, "network": "imdn"}))
    asked = paretosr(command, recipe, "--out", tmp_path / "run", "--set", "report.tensorboard=true")
    refused(asked, "report.tensorboard", "pip install 'paretosr[tensorboard]'")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"report\.tensorboard"):
        curves_of(TOLD, RunFolder(tmp_path), Record(None, AIMS))
    curves_of(UNTOLD, RunFolder(tmp_path), Record(None, AIMS))


@pytest.mark.slow
def test_a_search_by_rungs_writes_them_and_goes_on_with_them(paretosr, recipe, tmp_path):
    out = tmp_path / "run"
    words = ("search", recipe, "--out", out, "--set", "search.halving={rungs: 2, eta: 2}", "--set", "train.steps=8")
    assert paretosr(*words, "--set", "search.candidates=2").code == 0
    assert not (out / "tensorboard").exists()
    for _ in range(2):  # switched on later, it writes what there is; and then what is new
        words = (*words, "--set", "report.tensorboard=true")
        assert paretosr(*words, "--set", "search.candidates=4").code == 0
        candidates = read_run(out)[2].candidates
        assert {c.state for c in candidates} >= {"complete", "paused"}
        shown = points(out)
        for c in candidates:
            tags = shown[f"{c.number:05d}"]
            assert tags["psnr_db"] == [(step, pytest.approx(psnr_db)) for step, psnr_db in c.rungs]
            if c.state == "complete":
                training = json.loads((out / "candidates" / f"{c.number:05d}" / "training.json").read_text())
                assert tags["loss"] == [(step, pytest.approx(loss)) for step, loss in training["curve"]]

    (parent, *_) = [c for c in read_run(out)[2].candidates if c.state == "complete"]
    assert paretosr("train", out, "--candidate", parent.number).code == 0
    child = read_run(out)[2].candidates[-1]
    assert child.parent == parent.number
    tags = points(out)[f"{child.number:05d}"]
    assert tags["psnr_db"] == [(8, pytest.approx(child.numbers["psnr_db"]))]
    assert tags["loss"]
