"""The command line from the outside: what each command says, and that bad input gets one line and exit code 2."""

import errno
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import RECIPE, contents, photo, refused

from paretosr.runs import cli, inspection
from paretosr.runs.folder import RunFolder

# ---- a run from end to end


def test_a_run_and_what_is_done_with_it(paretosr, recipe, tmp_path):
    photo(tmp_path / "photos" / "5.png", 64, 64, "L")
    photo(tmp_path / "photos" / "6.png", 64, 64, "RGBA")
    photo(tmp_path / "photos" / "7.png", 64, 64, "L")
    done = paretosr("search", recipe, "--out", "run", "--set", "seed=1")
    assert done.code == 0, done.err
    assert done.out.count("2 greyscale images were converted to 8-bit RGB") == 1
    assert done.out.count("1 RGBA image was converted to 8-bit RGB") == 1
    assert "run/report.html" in done.out
    assert "run/winner/" in done.out
    assert RunFolder(Path("run")).facts()["command"] == f"paretosr search {recipe} --out run --set seed=1"

    assert "1 complete; 1 asked" in paretosr("status", "run").out
    assert json.loads(paretosr("status", "run", "--json").out)["stage"] == "finished"
    Path("run/report.html").unlink()
    assert paretosr("report", "run").code == 0
    assert Path("run/report.html").exists()
    taken = paretosr("export", "run", "--candidate", 0, "--out", "taken")
    assert taken.code == 0
    assert f"exported {tmp_path / 'taken'}" in taken.out
    assert Path("taken/model.safetensors").exists()

    refused(paretosr("export", "run", "--candidate", 9), "run: has no candidate 9; it has 0 to 0")
    refused(paretosr("train", "run", "--candidate", 9), "run: has no candidate 9")
    before = contents(tmp_path / "run")
    refused(paretosr("search", recipe, "--out", "run"), "seed is 1 there, 0 here", "--out", "--fresh")
    refused(paretosr("search", recipe, "--out", "run", "--set", "seed=1", "--set", "train.steps=3"), "train.steps is 2")
    with RunFolder(Path("run")).lock():
        before[tmp_path / "run" / "lock"] = (tmp_path / "run" / "lock").read_bytes()
        words = ("run: is being driven by pid", str(os.getpid()))
        refused(paretosr("search", recipe, "--out", "run", "--set", "seed=1"), *words)
        refused(paretosr("search", recipe, "--out", "run", "--set", "seed=1", "--fresh"), *words)
        refused(paretosr("train", "run"), *words)
    after = contents(tmp_path / "run")
    assert {path for path in before if after.get(path) != before[path]} <= {tmp_path / "run" / "lock"}
    assert set(after) == set(before)


def test_a_fresh_run_moves_the_old_one_aside(paretosr, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("paretosr.runs.story.drive", lambda *_: None)
    monkeypatch.setattr("paretosr.runs.story.conclude", lambda *_: None)
    assert paretosr("search", recipe).code == 0
    assert (tmp_path / "out" / "tiny" / "run.json").exists(), "out/NAME is where a run goes"
    (tmp_path / "out" / "tiny" / "winner").mkdir()
    done = paretosr("search", recipe, "--set", "seed=2", "--fresh")
    assert done.code == 0
    (aside,) = (folder for folder in (tmp_path / "out").iterdir() if folder.name != "tiny")
    assert str(aside) in done.out
    assert (aside / "winner").is_dir()
    assert RunFolder(tmp_path / "out" / "tiny").recipe().seed == 2


# ---- a search that cannot go on


def test_limits_nobody_can_keep_end_with_the_tightest(paretosr, recipe, monkeypatch):
    monkeypatch.setattr("paretosr.search.loop.HOPELESS", 8)
    limits = "limits={parameters_m: '<= 1', activations_m: '<= 0.001'}"
    outcome = paretosr("search", recipe, "--out", "run", "--set", limits)
    refused(outcome, "8 proposals in a row broke limits", "'activations_m <= 0.001'", "nearest has")
    assert Path("run/report.html").exists()
    assert json.loads(paretosr("status", "run", "--json").out)["candidates"]["pruned"] == 8


def test_a_space_that_is_used_up_is_a_finished_search(paretosr, recipe):
    space = (
        "space={blocks: [{residual: {activation: [relu], kernel: [3x3], attention: [none], norm: [none]}}], "
        "widths: [4], depths: [1]}"
    )
    outcome = paretosr("search", recipe, "--out", "run", "--set", space, "--set", "search.candidates=5")
    assert (outcome.code, outcome.err) == (0, "paretosr: all 1 networks of the space have been tried\n")
    assert Path("run/winner/model.safetensors").exists()


def test_candidates_that_all_fail_end_the_search_with_the_reason(paretosr, recipe, monkeypatch):
    monkeypatch.setattr("paretosr.search.loop.FAILURES", 3)
    outcome = paretosr("search", recipe, "--out", "run", "--set", "search.task_minutes=0.001")
    reason = "took longer than 0.001 minutes"
    assert outcome.code == 1
    assert outcome.err == f"paretosr: 3 candidates in a row failed, the last one: {reason}\n"
    assert json.loads(paretosr("status", "run", "--json").out)["candidates"]["failed"] == 3
    assert Path("run/candidates.csv").read_text().count(reason) == 3
    assert "No winner" in outcome.out


# ---- bad recipes

GOOD = yaml.safe_dump(RECIPE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["bad.yaml", "no such"]),
        (b"", ["bad.yaml", "is empty"]),
        (b"\x89PNG\r\n\x1a\n\x00\xff", ["bad.yaml", "not"]),
        (b"space: [unclosed", ["bad.yaml", "line 1"]),
        (b"- a\n- list\n", ["bad.yaml"]),
        (b"!!python/object/apply:os.system ['touch pwned']", ["bad.yaml"]),
        (b"seed: !!python/name:os.system\n", ["bad.yaml"]),
        (GOOD.replace("search:", "serach:").encode(), ["bad.yaml", "serach", "did you mean 'search'"]),
        (GOOD.replace("residual", "residaul").encode(), ["space.blocks", "residaul", "did you mean 'residual'"]),
        (GOOD.replace("steps: 2", "steps: -2").encode(), ["train.steps", "-2"]),
        (GOOD.replace("steps: 2", "steps: two").encode(), ["train.steps", "two"]),
        (GOOD.replace("- psnr_db", "- psnr").encode(), ["objectives", "psnr", "did you mean"]),
        (yaml.safe_dump({**RECIPE, "space": {**RECIPE["space"], "blocks": []}}).encode(), ["space.blocks"]),
        (yaml.safe_dump({k: v for k, v in RECIPE.items() if k != "space"}).encode(), ["space"]),
        (yaml.safe_dump({**RECIPE, "limits": {"speed": "<= 1"}}).encode(), ["limits", "speed"]),
        (yaml.safe_dump({**RECIPE, "limits": {"activations_m": 5}}).encode(), ["limits", "activations_m"]),
        (yaml.safe_dump({**RECIPE, "winner": "fastest"}).encode(), ["winner", "fastest"]),
    ],
)
def test_a_bad_recipe_is_one_line_and_leaves_nothing(paretosr, recipe, tmp_path, content, words):
    bad = tmp_path / "bad.yaml"
    if content is not None:
        bad.write_bytes(content)
    before = contents(tmp_path)
    refused(paretosr("search", bad, "--out", "run"), *words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "."], ["is a folder"]),
        (["search", "quikc"], ["quikc", "quick"]),
        (["search", "tiny.yaml", "--set", "search.candidates"], ["search.candidates", "="]),
        (["search", "tiny.yaml", "--set", "search.candidate=5"], ["candidate", "did you mean 'candidates'"]),
        (["search", "tiny.yaml", "--set", "search.candidates=none"], ["search.candidates"]),
        (["search", "tiny.yaml", "--set", "search.seeded_with=[imdn]"], ["imdn", "space"]),
        (["search", "tiny.yaml", "--out", "photos"], ["photos: holds other files (0.png"]),
        (["search", "tiny.yaml", "--out", "tiny.yaml"], ["tiny.yaml: cannot be the folder of a run"]),
        (["search", "full"], ["space"]),
        (["train", "tiny.yaml"], ["network"]),
        (["train", "photos"], ["photos: is not the folder of a run"]),
        (["train", "nowhere"], ["nowhere"]),
        (["report", "photos"], ["photos: is not the folder of a run"]),
        (["export", "photos"], ["photos: is not the folder of a run"]),
        (["status", "nowhere"], ["nowhere: is not the folder of a run"]),
        (["status", "tiny.yaml"], ["tiny.yaml: is not the folder of a run"]),
    ],
)
def test_a_command_that_cannot_be_is_one_line_and_leaves_nothing(paretosr, recipe, tmp_path, words, said):
    before = contents(tmp_path)
    refused(paretosr(*words), *said)
    assert contents(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_said_so(paretosr, recipe):
    refused(paretosr("search", recipe, "--set", "device=cuda"), "cuda")
    refused(paretosr("measure", "imdn", "--device", "cuda"), "cuda")
    refused(paretosr("measure", "imdn", "--device", "tpu"), "tpu")


# ---- bad images


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def truncated(folder: Path) -> None:
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])


def too_small(folder: Path) -> None:
    photo(folder / "3.png", 28, 64)


def not_an_image(folder: Path) -> None:
    (folder / "2.png").write_text("not at all")


def only_one(folder: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, ["photos: no such folder"]),
        (emptied, ["photos: holds no images"]),
        (truncated, ["2.png: is damaged"]),
        (not_an_image, ["2.png: is not an image"]),
        (too_small, ["3.png: 28x64 pixels", "8x8", "32x32"]),
        (only_one, ["0.png"]),
    ],
)
def test_bad_images_are_one_line_and_no_run_begins(paretosr, recipe, tmp_path, spoil, words):
    spoil(tmp_path / "photos")
    before = contents(tmp_path)
    refused(paretosr("search", recipe, "--out", "run"), *words)
    assert contents(tmp_path) == before


def test_a_pair_of_two_sizes_in_a_div2k_tree_is_one_line(paretosr, recipe, tmp_path):
    hr, lr = tmp_path / "tree" / "DIV2K_train_HR", tmp_path / "tree" / "DIV2K_train_LR_bicubic" / "X4"
    hr.mkdir(parents=True)
    lr.mkdir(parents=True)
    for name in ("0001", "0002"):
        photo(hr / f"{name}.png", 64, 48)
        photo(lr / f"{name}x4.png", 16, 12)
    photo(lr / "0002x4.png", 16, 13)
    outcome = paretosr("search", recipe, "--out", "run", "--set", "data.source=tree")
    refused(outcome, "0002.png is 64x48", "should be 16x12", "0002x4.png is 16x13")
    assert not Path("run").exists()


# ---- what speaks of itself


def test_recipes_and_schema_and_doctor_speak(paretosr):
    listed = paretosr("recipes")
    assert listed.code == 0
    for name in ("quick", "div2k", "full"):
        assert re.search(rf"^{name} ", listed.out, re.MULTILINE)
    schema = paretosr("schema")
    assert schema.code == 0
    assert "search" in json.loads(schema.out)["properties"]
    doctor = paretosr("doctor")
    assert doctor.code in (0, 1)  # 1 where the disk is nearly full
    for word in ("torch", "disk", "cores"):
        assert word in doctor.out


@pytest.mark.parametrize(
    "words",
    [
        ["serach", "quick"],
        ["search"],
        ["search", "quick", "--candidates", "5"],
        ["train", "run", "--seeds", "0"],
        ["train", "run", "--candidate", "best"],
        ["measure", "imdn", "--size", "4"],
        ["upscale", "model"],
    ],
)
def test_unknown_words_are_exit_code_two(paretosr, words):
    outcome = paretosr(*words)
    assert outcome.code == 2
    assert outcome.err
    assert "Traceback" not in outcome.err


def test_help_names_every_command(paretosr):
    shown = paretosr("--help")
    assert shown.code == 0
    commands = ("search", "train", "report", "export", "measure", "evaluate", "upscale", "status", "recipes", "schema")
    for name in (*commands, "doctor"):
        assert name in shown.out


# ---- what the user cannot mend


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/run/state.pt")


def full_database(*_: object) -> None:
    raise RuntimeError("(sqlite3.OperationalError) database or disk is full")


def wrapped_full_disk(*_: object) -> None:
    try:
        full_disk()
    except OSError as error:
        raise RuntimeError("could not be written") from error


@pytest.mark.parametrize("broken", [full_disk, full_database, wrapped_full_disk])
def test_a_full_disk_is_exit_code_one_and_says_what_to_do(paretosr, monkeypatch, broken):
    monkeypatch.setattr(inspection, "report", broken)
    outcome = paretosr("report", "run")
    assert outcome.code == 1
    assert outcome.err.startswith("paretosr: the disk is full: free some space")
    assert outcome.err.count("\n") == 1
    if broken is full_disk:
        assert "/data/run" in outcome.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_has_its_exit_code(paretosr, monkeypatch, number, code):
    monkeypatch.setattr(inspection, "doctor", lambda console: signal.raise_signal(number))
    assert paretosr("doctor").code == code


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def mistake(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(inspection, "report", mistake)
    monkeypatch.setattr(sys, "argv", ["paretosr", "report", "run"])
    with pytest.raises(ZeroDivisionError):
        cli.main()
