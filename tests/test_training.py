"""Training to the last bit: repeated, stopped and continued; schedules and curve in closed form; failures."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from paretosr.proxies import training as training_room
from paretosr.proxies.images import in_memory
from paretosr.proxies.losses import LOSSES, OF_EXITS
from paretosr.proxies.patches import Patches
from paretosr.proxies.psnr import evaluate
from paretosr.proxies.training import (
    SCHEDULES,
    State,
    Training,
    TrainingFailed,
    begin,
    finished_network,
    load,
    save,
    saved_step,
    train,
)
from paretosr.proxies.weights import save_weights
from paretosr.spaces import BLOCKS, Architecture, Block, Design, InputError, build

SHORT = Training(steps=9, batch=2, patch=8, learning_rate=1e-3, milestones=(0.3, 0.7))
PLAIN = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))
NORMED = Design(Architecture(8, (Block.of("inverted_residual", norm="batch", expansion=3),), image_skip="bilinear"))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    hr = {f"{i}": torch.randint(0, 256, (3, 96, 80), generator=generator, dtype=torch.uint8) for i in range(2)}
    return in_memory("noise", hr)


def patches_of(images, training, seed):
    return Patches(images, training.patch, training.batch, seed)


def trained(images, design, training, seed=5) -> State:
    return train(begin(design, training, seed=seed), training, patches_of(images, training, seed), training.steps)


def in_pieces(images, design, training, file: Path, stops, seed=5) -> State:
    """Trained with a stop at each of these steps; each time a fresh object goes on from the file."""
    for stop in (*stops, training.steps):
        state = load(begin(design, training, seed=seed), training, file)
        state = train(state, training, patches_of(images, training, seed), stop - state.step)
        assert state.step == stop
        save(state, file)
    return load(begin(design, training, seed=seed), training, file)


def content(state: State):
    """All that a training is, but for the seconds it took."""
    return (
        state.network.state_dict(),
        state.optimiser.state_dict(),
        state.ema,
        state.step,
        state.curve,
        state.pending,
        state.facts,
    )


def same(a, b) -> bool:
    """Whether two contents are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


# ---- to the last bit


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in OF_EXITS])
@pytest.mark.parametrize("schedule", SCHEDULES)
class TestEveryWayToTrain:
    def test_the_same_seed_gives_the_same_weights_and_psnr(self, images, schedule, loss, ema):
        training = replace(SHORT, schedule=schedule, loss=loss, ema=ema)
        one, two = trained(images, PLAIN, training), trained(images, PLAIN, training)
        assert same(content(one), content(two))
        psnr_db = [evaluate(finished_network(state), images).psnr_db for state in (one, two)]
        assert psnr_db[0] == psnr_db[1]
        assert math.isfinite(psnr_db[0])
        other = trained(images, PLAIN, training, seed=6)
        assert not same(one.network.state_dict(), other.network.state_dict())

    def test_stopped_and_continued_equals_undisturbed(self, images, tmp_path, monkeypatch, schedule, loss, ema):
        monkeypatch.setattr(training_room, "CURVE_POINTS", 2)  # a point every four steps: stops fall between them
        training = replace(SHORT, schedule=schedule, loss=loss, ema=ema)
        whole = trained(images, PLAIN, training)
        pieces = in_pieces(images, PLAIN, training, tmp_path / "state.pt", (1, 3, 6))
        assert same(content(pieces), content(whole))
        assert len(whole.curve) == 3
        psnr_db = [evaluate(finished_network(state), images).psnr_db for state in (whole, pieces)]
        assert psnr_db[0] == psnr_db[1]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_batch_norm_goes_on_bit_equal_too(images, tmp_path, ema):
    training = replace(SHORT, ema=ema)
    whole = trained(images, NORMED, training)
    pieces = in_pieces(images, NORMED, training, tmp_path / "state.pt", (1, 2, 5))
    assert any(name.endswith("running_var") for name in whole.network.state_dict())
    assert same(content(pieces), content(whole))
    psnr_db = [evaluate(finished_network(state), images).psnr_db for state in (whole, pieces)]
    assert psnr_db[0] == psnr_db[1]


def test_a_stop_between_two_points_of_the_curve_keeps_what_is_pending(images, tmp_path, monkeypatch):
    monkeypatch.setattr(training_room, "CURVE_POINTS", 2)
    state = train(begin(PLAIN, SHORT, seed=5), SHORT, patches_of(images, SHORT, 5), 6)
    assert [step for step, _ in state.curve] == [4]
    assert state.pending[1] == 2
    assert state.pending[0] > 0
    save(state, tmp_path / "state.pt")
    assert same(content(load(begin(PLAIN, SHORT, seed=5), SHORT, tmp_path / "state.pt")), content(state))


def test_a_stop_that_is_asked_for_comes_after_the_step(images):
    asked = []
    state = train(
        begin(PLAIN, SHORT, seed=5),
        SHORT,
        patches_of(images, SHORT, 5),
        SHORT.steps,
        lambda state: asked.append(state.step) or state.step == 3,
    )
    assert state.step == 3
    assert asked == [1, 2, 3]
    rest = train(state, SHORT, patches_of(images, SHORT, 5), 1000)  # never beyond the end
    assert rest.step == SHORT.steps
    assert same(content(rest), content(trained(images, PLAIN, SHORT)))
    assert train(rest, SHORT, patches_of(images, SHORT, 5), 1) is rest


def test_the_global_random_state_is_nobodys_business(images):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = trained(images, PLAIN, SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(content(trained(images, PLAIN, SHORT)), content(one))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_trains(images, name):
    choices = BLOCKS[name].CHOICES
    first, last = Block(name), Block(name, tuple((choice, values[-1]) for choice, values in choices.items()))
    training = replace(SHORT, steps=3, patch=16, learning_rate=1e-2)
    design = Design(Architecture(8, (first, last), fusion="concat", image_skip="nearest"))
    before = begin(design, training, seed=0).network.state_dict()
    state = trained(images, design, training, seed=0)
    assert all(math.isfinite(loss) for _, loss in state.curve)
    after = state.network.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    for part in ("head", "blocks.0", "blocks.1", "fusion", "body_conv", "upsampler"):  # units may be dead, parts not
        assert any(key.startswith(f"{part}.") for key in moved), part
    assert math.isfinite(evaluate(finished_network(state), images).psnr_db)


# ---- closed forms


def test_schedules_in_closed_form():
    cosine = Training(steps=4, learning_rate=1.0, schedule="cosine")
    assert [cosine.rate(step) for step in range(5)] == pytest.approx([1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0])
    steps = Training(steps=10, learning_rate=8.0, schedule="milestones", milestones=(0.2, 0.5))
    assert [steps.rate(step) for step in range(10)] == [8, 8, 4, 4, 4, 2, 2, 2, 2, 2]
    constant = Training(steps=10, learning_rate=3.0, schedule="constant")
    assert {constant.rate(step) for step in range(10)} == {3.0}


def test_the_curve_is_the_mean_of_the_losses_since_its_last_point(images):
    # At a rate of 0 the network stays, so that every loss can be computed by itself. 130 steps: a point every second.
    training = replace(SHORT, steps=131, learning_rate=0.0, schedule="constant")
    patches = patches_of(images, training, 5)
    state = train(begin(PLAIN, training, seed=5), training, patches, training.steps)
    network = begin(PLAIN, training, seed=5).network
    with torch.no_grad():
        batches = (patches.batch(step) for step in range(training.steps))
        losses = [F.l1_loss(network(lr), hr).item() for lr, hr in batches]
    expected = [(end, (losses[end - 2] + losses[end - 1]) / 2) for end in range(2, 131, 2)] + [(131, losses[130])]
    assert [step for step, _ in state.curve] == [step for step, _ in expected]
    assert [loss for _, loss in state.curve] == pytest.approx([loss for _, loss in expected], rel=1e-5)


def test_the_running_mean_follows_its_recursion(images):
    training = replace(SHORT, ema=0.5)
    state, patches = begin(PLAIN, training, seed=5), patches_of(images, training, 5)
    mean = {name: value.double() for name, value in state.network.state_dict().items()}
    for step in range(training.steps):
        state = train(state, training, patches, 1)
        decay = min(0.5, (1 + step) / (10 + step))  # quick at first, so that the start is soon forgotten
        for name, value in state.network.state_dict().items():
            mean[name] = decay * mean[name] + (1 - decay) * value.double()
    weights = state.network.state_dict()["head.0.weight"].clone()
    network = finished_network(state)
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.allclose(value.double(), mean[name], atol=1e-6), name
    assert not torch.equal(network.state_dict()["head.0.weight"], weights)


def test_without_a_running_mean_the_last_weights_are_kept(images):
    state = trained(images, PLAIN, SHORT)
    weights = {name: value.clone() for name, value in state.network.state_dict().items()}
    assert same(finished_network(state).state_dict(), weights)


def test_training_makes_the_loss_smaller():
    rows = torch.arange(96, dtype=torch.float32)
    stripes = ((torch.sin(rows / 3) * 0.4 + 0.5) * 255).to(torch.uint8).expand(3, 96, 96)
    smooth = in_memory("stripes", {"one": stripes.contiguous(), "two": stripes.transpose(1, 2).contiguous()})
    state = trained(smooth, PLAIN, replace(SHORT, steps=60, learning_rate=5e-3))
    assert state.curve[-1][1] < 0.7 * state.curve[0][1]


@pytest.mark.parametrize(("field", "value"), [("loss", "l3"), ("schedule", "cosin")])
def test_an_unknown_way_to_train_is_refused(field, value):
    with pytest.raises(InputError, match=f"no {field} '{value}'"):
        Training(**{"steps": 3, field: value})


# ---- what goes wrong


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step(images):
    training = replace(SHORT, learning_rate=1e30, schedule="constant")
    with pytest.raises(TrainingFailed, match=r"^non-finite loss \((nan|inf)\) at step [1-8]$"):
        trained(images, PLAIN, training)
    wild = begin(PLAIN, SHORT, seed=5)
    with torch.no_grad():
        next(wild.network.parameters()).fill_(math.inf)
    with pytest.raises(TrainingFailed, match=r"at step 0$"):
        train(wild, SHORT, patches_of(images, SHORT, 5), 1)


class Malicious:
    """What a pickle would run on loading."""

    def __reduce__(self):
        return os.mkdir, ("was_run",)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def written(value):
    def write(file: Path) -> None:
        torch.save(value, file)

    return write


def without_a_weight(file: Path) -> None:
    """As if another version had built the network otherwise: the rest would fit."""
    saved = torch.load(file, weights_only=True)
    saved["network"].popitem()
    torch.save(saved, file)


def with_another_optimiser(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    saved["optimiser"]["param_groups"][0]["params"].pop()
    torch.save(saved, file)


DAMAGES = {
    "absent": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "noise": lambda file: file.write_bytes(bytes(range(256)) * 8),
    "truncated": truncated,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a list": written([1, 2]),
    "a tensor": written(torch.zeros(3)),
    "a number": written(3),
    "weights alone": written({"head.0.weight": torch.zeros(3)}),
    "code": written(Malicious()),
    "a weight less": without_a_weight,
    "another optimiser": with_another_optimiser,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_starts_anew(images, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    file, training = tmp_path / "state.pt", replace(SHORT, steps=3, ema=0.9)
    save(trained(images, PLAIN, training), file)
    DAMAGES[damage](file)
    fresh = begin(PLAIN, training, seed=5)
    state = load(begin(PLAIN, training, seed=5), training, file)
    assert same(content(state), content(fresh))
    assert not (tmp_path / "was_run").exists()
    if damage not in ("a weight less", "another optimiser"):
        assert saved_step(file) == 0
    again = train(state, training, patches_of(images, training, 5), training.steps)
    assert same(content(again), content(trained(images, PLAIN, training)))


@pytest.mark.parametrize("foreign", ["design", "seed", "steps", "rate"])
def test_the_state_of_another_training_starts_anew(images, tmp_path, foreign):
    other = {"steps": replace(SHORT, steps=8), "rate": replace(SHORT, learning_rate=1e-4)}.get(foreign, SHORT)
    design, seed = (NORMED if foreign == "design" else PLAIN), (6 if foreign == "seed" else 5)
    state = train(begin(design, other, seed=seed), other, patches_of(images, other, seed), 2)
    save(state, tmp_path / "state.pt")
    assert saved_step(tmp_path / "state.pt") == 2
    loaded = load(begin(PLAIN, SHORT, seed=5), SHORT, tmp_path / "state.pt")
    assert same(content(loaded), content(begin(PLAIN, SHORT, seed=5)))


def test_a_save_that_fails_leaves_the_old_file(images, tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    save(begin(PLAIN, SHORT, seed=5), file)
    before = file.read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="No space left"):
        save(trained(images, PLAIN, SHORT), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


# ---- from weights that are there


@pytest.mark.parametrize("design", [PLAIN, NORMED], ids=["plain", "batch norm"])
def test_a_training_begins_from_given_weights(images, tmp_path, design):
    trained_before, file = trained(images, design, SHORT), tmp_path / "weights.safetensors"
    save_weights(trained_before.network, design, file)
    training = replace(SHORT, ema=0.9)
    state = begin(design, training, seed=6, weights=file)
    assert same(state.network.state_dict(), trained_before.network.state_dict())
    assert same(state.ema, trained_before.network.state_dict())  # the mean begins there too
    assert (state.step, state.curve) == (0, ())
    assert state.network.training
    held = {id(p) for group in state.optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in state.network.parameters()}  # those that are trained, not others
    after = train(state, training, patches_of(images, training, 6), 1)
    assert not same(after.network.state_dict(), trained_before.network.state_dict())


def test_the_state_of_a_training_from_other_weights_starts_anew(images, tmp_path):
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, file in enumerate(files, 1):
        save_weights(build(PLAIN, seed=seed), PLAIN, file)
    state = train(begin(PLAIN, SHORT, seed=5, weights=files[0]), SHORT, patches_of(images, SHORT, 5), 2)
    save(state, tmp_path / "state.pt")
    for weights, step in ((files[0], 2), (files[1], 0), (None, 0)):
        loaded = load(begin(PLAIN, SHORT, seed=5, weights=weights), SHORT, tmp_path / "state.pt")
        assert loaded.step == step
        if not step:
            assert same(content(loaded), content(begin(PLAIN, SHORT, seed=5, weights=weights)))
    files[0].rename(tmp_path / "elsewhere.safetensors")  # what they are counts, not where they lie
    assert (
        load(begin(PLAIN, SHORT, seed=5, weights=tmp_path / "elsewhere.safetensors"), SHORT, tmp_path / "state.pt").step
        == 2
    )


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(build(NORMED), NORMED, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors: these are not the weights of this network"):
        begin(PLAIN, SHORT, seed=5, weights=tmp_path / "w.safetensors")


def test_a_term_beside_the_loss_is_trained(images):
    """One that asks for black images, and strongly: the output gets darker than without."""
    lr = torch.full((1, 3, 8, 8), 0.5)
    means = []
    for extra in (None, lambda lr, sr: 100 * sr.square().mean()):
        state, patches = begin(PLAIN, SHORT, seed=5), patches_of(images, SHORT, 5)
        state = train(state, SHORT, patches, SHORT.steps, extra=extra)
        with torch.no_grad():
            means.append(float(finished_network(state)(lr).mean()))
    assert means[1] < means[0] - 0.02
