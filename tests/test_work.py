"""`perform` on small real images: timings, trainings and speeds as plain data, what it leaves behind, how it stops."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from paretosr.proxies import latency_methods as latency_room
from paretosr.proxies import work as work_room
from paretosr.proxies.latency import Protocol
from paretosr.proxies.psnr import evaluate
from paretosr.proxies.training import Training, TrainingFailed, saved_step
from paretosr.proxies.weights import save_weights, with_weights
from paretosr.proxies.work import REFERENCE, Data, SpeedWork, TimeWork, TrainWork, mark_running, patches_of
from paretosr.spaces import Architecture, Block, Design, InputError, build
from paretosr.spaces.plan import Plan

QUICK = Protocol(size=(8, 8), warmup_s=0.005, rounds=5, max_rounds=5)
SHORT = Training(steps=5, batch=2, patch=8, learning_rate=1e-3, ema=0.9)
SMALL = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))
LARGE = Design(Architecture(32, (Block("residual"),) * 4, image_skip="bilinear"))


def photo(seed: int, height: int, width: int) -> Image.Image:
    """Soft coloured blobs: something to learn, and no flat areas."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    planes = [
        sum(np.sin(rows * a + columns * b + c) for a, b, c in random.uniform(0.05, 1.2, (6, 3))) for _ in range(3)
    ]
    return Image.fromarray((np.stack(planes, axis=-1) * 20 + 128).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """Four photos, of which one is held out."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        photo(seed, 96, 80 + 8 * seed).save(folder / f"{seed}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Data(str(folder), patch=8)


@pytest.fixture
def work(data: Data, tmp_path: Path) -> TrainWork:
    return TrainWork(SMALL, SHORT, data, seed=3, device="cpu", folder=str(tmp_path / "candidate"))


def run(work, report=lambda said: None, stop=lambda: False) -> Any:
    """What `perform` gives, after a check that a worker could send it."""
    result = work.perform(report, stop)
    assert json.loads(json.dumps(result)) == result
    return result


def stop_after(steps: int):
    """Asks for a stop after so many steps."""
    left = [steps]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    return stop


# ---- training


def test_a_training_gives_its_numbers_and_leaves_its_weights(work, data):
    result = run(work)
    folder = Path(work.folder)
    assert result["steps"] == 5
    assert [step for step, _ in result["curve"]] == [1, 2, 3, 4, 5]
    assert result["train_s"] > 0
    assert (result["seed"], result["threads"], result["torch"]) == (3, 1, torch.__version__)
    assert result["training"]["learning_rate"] == 1e-3
    per_image_db = result["psnr_per_image_db"]
    assert list(per_image_db) == list(data.evaluation().names)
    assert result["psnr_db"] == math.fsum(per_image_db.values()) / len(per_image_db)
    assert (folder / "running").read_text() == f"measuring {data.evaluation().names[-1]}, step 0"
    assert saved_step(folder / "state.pt") == 5
    assert not list(folder.glob("*.part"))


def test_the_weights_rebuild_the_network_with_that_psnr(work, data):
    result = run(work)
    with safe_open(Path(work.folder) / "model.safetensors", "pt") as file:
        design = Design.from_json(json.loads(file.metadata()["design"]))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    assert design == SMALL
    network = build(design, seed=99)
    network.load_state_dict(weights)
    assert evaluate(network, data.evaluation()).psnr_db == result["psnr_db"]


def test_the_same_work_gives_the_same_numbers(work, tmp_path):
    one, two = run(work), run(replace(work, folder=str(tmp_path / "other")))
    for result in (one, two):
        result.pop("train_s")
    assert one == two
    assert run(replace(work, seed=4, folder=str(tmp_path / "seed")))["psnr_db"] != one["psnr_db"]


@pytest.mark.parametrize("stops", [(1,), (3,), (1, 2, 1)])
def test_a_stopped_training_goes_on_to_the_same_end(work, tmp_path, stops):
    for stop in stops:
        assert run(work, stop=stop_after(stop)) is None
        assert not (Path(work.folder) / "model.safetensors").exists()
    assert saved_step(Path(work.folder) / "state.pt") == sum(stops)
    result, undisturbed = run(work), run(replace(work, folder=str(tmp_path / "undisturbed")))
    for name in ("psnr_db", "psnr_per_image_db", "curve", "steps"):
        assert result[name] == undisturbed[name]
    weights = [(Path(f) / "model.safetensors").read_bytes() for f in (work.folder, tmp_path / "undisturbed")]
    assert weights[0] == weights[1]


def test_a_death_between_two_saves_costs_only_what_came_after_the_last(work, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed():
        raise Killed

    monkeypatch.setattr(work_room, "SAVE_EVERY_S", 1000.0)  # after the first step, never again
    calls = []
    with pytest.raises(Killed):
        work.perform(lambda said: None, lambda: calls.append(1) or (killed() if len(calls) == 3 else False))
    folder = Path(work.folder)
    assert saved_step(folder / "state.pt") == 1
    assert (folder / "running").read_text() == "training, step 0"
    assert run(work)["psnr_db"] == run(replace(work, folder=str(tmp_path / "undisturbed")))["psnr_db"]


def test_a_finished_training_is_measured_again_without_a_step(work):
    first, steps = run(work), []
    second = run(work, stop=lambda: bool(steps.append(1)))
    assert steps == []
    assert second["psnr_db"] == first["psnr_db"]
    assert second["train_s"] == first["train_s"]


def test_progress_is_reported_now_and_then(work, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(work_room.time, "monotonic", lambda: float(next(seconds)))
    said = []
    run(work, report=said.append)
    assert said
    assert all(0 < word["step"] <= word["steps"] == 5 for word in said)


def test_saving_takes_a_small_share_of_the_time(work, monkeypatch):
    clock = [0.0]
    saves = []
    monkeypatch.setattr(work_room.time, "monotonic", lambda: clock[0])

    def slow_save(state, file):
        saves.append(state.step)
        clock[0] += 0.1  # what a save takes; a step takes as long

    monkeypatch.setattr(work_room, "save", slow_save)

    def stop():
        clock[0] += 0.1
        return False

    run(replace(work, training=replace(SHORT, steps=100)), stop=stop)
    # One before the first step, one after it, then one in 0.1 / SAVE_SHARE seconds, one at the end.
    assert saves[:2] == [0, 2]
    assert saves[-1] == 100
    assert 4 <= len(saves) <= 8


def test_a_training_that_fails_says_at_which_step(work):
    wild = replace(work, training=replace(SHORT, learning_rate=1e30, schedule="constant"))
    with pytest.raises(TrainingFailed, match=r"non-finite loss .* at step"):
        wild.perform(lambda said: None, lambda: False)
    assert not (Path(work.folder) / "model.safetensors").exists()


def test_a_loss_that_the_network_cannot_train_with_is_said_before_anything_is_left(work):
    with pytest.raises(InputError, match=r"'multi_exit' needs a network with early exits, and .* has none$"):
        replace(work, training=replace(SHORT, loss="multi_exit")).perform(lambda said: None, lambda: False)
    assert not Path(work.folder).exists()


def test_bad_images_are_said_before_the_training_is_marked_as_running(work, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        replace(work, data=Data(str(tmp_path / "nowhere"))).perform(lambda said: None, lambda: False)
    assert not (Path(work.folder) / "running").exists()


def test_validation_images_may_have_a_folder_of_their_own(work, data, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    photo(9, 64, 64).save(others / "nine.png")
    separate = replace(data, validation=str(others))
    assert list(run(replace(work, data=separate))["psnr_per_image_db"]) == ["nine.png"]
    assert separate.train().names == ("0.png", "1.png", "2.png", "3.png")
    assert sorted((*data.train().names, *data.evaluation().names)) == ["0.png", "1.png", "2.png", "3.png"]


def test_images_are_read_once_for_all_trainings_of_a_process(data):
    assert data.train() is replace(data).train()
    patches = [patches_of(data, SHORT, seed, "cpu") for seed in (1, 2)]
    assert patches[0]._flat is patches[1]._flat


def test_a_mark_is_left_where_no_folder_was(tmp_path):
    mark_running(tmp_path / "new" / "folder", "timing")
    assert (tmp_path / "new" / "folder" / "running").read_text() == "timing"
    shutil.rmtree(tmp_path / "new")


# ---- from weights, with a teacher

CUT = Design(SMALL.architecture, Plan(SMALL.hash, {"blocks.0.first": ((1, 3, 4), tuple(range(8)))}))


def weights_of(design: Design, seed: int, file: Path) -> str:
    save_weights(build(design, seed=seed), design, file)
    return str(file)


@pytest.mark.parametrize("design", [SMALL, CUT], ids=["whole", "cut"])
def test_a_training_goes_on_from_weights(work, data, tmp_path, design):
    start = weights_of(design, 7, tmp_path / "start.safetensors")
    still = replace(SHORT, learning_rate=0.0)
    result = run(replace(work, design=design, weights=start, training=still))
    assert result["psnr_db"] == evaluate(with_weights(design, Path(start)), data.evaluation()).psnr_db
    assert (
        result["psnr_db"] != run(replace(work, design=design, training=still, folder=str(tmp_path / "new")))["psnr_db"]
    )
    moved = run(replace(work, design=design, weights=start, folder=str(tmp_path / "moved")))
    assert moved["psnr_db"] != result["psnr_db"]


def test_a_state_that_began_from_other_weights_is_not_taken_over(work, tmp_path):
    first, second = (weights_of(SMALL, seed, tmp_path / f"{seed}.safetensors") for seed in (7, 8))
    assert run(replace(work, weights=first), stop=stop_after(3)) is None
    here = run(replace(work, weights=second))
    assert here["psnr_db"] == run(replace(work, weights=second, folder=str(tmp_path / "fresh")))["psnr_db"]
    assert len(here["curve"]) == 5


def test_a_stopped_training_from_weights_with_a_teacher_goes_on(work, tmp_path):
    teacher = (LARGE, weights_of(LARGE, 9, tmp_path / "teacher.safetensors"), 0.5)
    taught = replace(work, weights=weights_of(SMALL, 7, tmp_path / "start.safetensors"), teacher=teacher)
    assert run(taught, stop=stop_after(2)) is None
    assert saved_step(Path(work.folder) / "state.pt") == 2
    undisturbed = run(replace(taught, folder=str(tmp_path / "undisturbed")))
    assert run(taught)["psnr_db"] == undisturbed["psnr_db"]
    untaught = run(replace(taught, teacher=None, folder=str(tmp_path / "untaught")))
    assert untaught["curve"] != undisturbed["curve"]


@pytest.mark.parametrize("design", [SMALL, CUT], ids=["whole", "cut"])
def test_the_teacher_draws_the_student_to_it(work, data, tmp_path, design):
    file = tmp_path / "teacher.safetensors"
    taught_by = (SMALL, weights_of(SMALL, 9, file), 20.0)
    teacher, training = with_weights(SMALL, file), replace(SHORT, steps=20, ema=None, learning_rate=3e-3)
    lr, _ = patches_of(data, SHORT, 1, "cpu").batch(0)
    start = weights_of(design, 7, tmp_path / "start.safetensors")
    distances = []
    for how, share in (("alone", None), ("taught", taught_by)):
        folder = tmp_path / how
        run(replace(work, design=design, training=training, weights=start, teacher=share, folder=str(folder)))
        student = with_weights(design, folder / "model.safetensors")
        with torch.no_grad():
            distances.append(float((student(lr) - teacher(lr)).abs().mean()))
    assert distances[1] < 0.8 * distances[0]


# ---- timing and speed


def test_designs_are_timed_together_with_the_reference(monkeypatch):
    monkeypatch.setattr(latency_room, "SAMPLE_MS", 1.0)
    result = run(TimeWork({"network": SMALL, "17": SMALL}, LARGE, QUICK, "cpu"))
    assert set(result) == {"network", "17", REFERENCE}
    assert result[REFERENCE]["ratio"] == 1.0
    for timing in result.values():
        assert 0 < timing["ratio_low"] <= timing["ratio"] <= timing["ratio_high"]
        assert len(timing["samples_ms"]) == len(timing["reference_samples_ms"]) == 5
        assert timing["latency_ms"] > 0
        assert "memory_mb" not in timing  # nothing is invented on a CPU
    assert result["network"]["ratio"] < 1


def test_the_reference_alone_may_be_timed(monkeypatch):
    monkeypatch.setattr(latency_room, "SAMPLE_MS", 1.0)
    assert set(run(TimeWork({}, SMALL, QUICK, "cpu"))) == {REFERENCE}


def test_a_timing_wants_the_device_for_itself_and_nothing_else_does(work, data):
    assert TimeWork({}, SMALL, QUICK, "cpu").exclusive
    assert not work.exclusive
    assert not SpeedWork((SMALL,), SHORT, data, "cpu").exclusive


@pytest.mark.parametrize("steps", [1, 50])
def test_speed_is_measured_however_short_or_wild_the_training(data, steps):
    training = replace(SHORT, steps=steps, learning_rate=1e30)
    result = run(SpeedWork((SMALL,), training, data, "cpu"))
    assert 0 < result["step_s"] < 0.5
    assert 0 < result["evaluation_s"] < 5
