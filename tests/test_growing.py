"""Kernels that grow while a network trains (UESTC-MediaLab's dilation), from the convolution to the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Command, contents, refused
from torch import Tensor

from paretosr.analysis.export import load_exported
from paretosr.proxies.complexity import complexity
from paretosr.proxies.patches import Patches
from paretosr.proxies.training import State, Training, begin, load, save, train
from paretosr.proxies.work import Data
from paretosr.spaces import InputError, build, inference_form, published
from paretosr.spaces.systems.uestc_medialab import BASES, DilatedKernelConv

DESIGN = published("uestc_medialab")
TRAINING = Training(steps=6, batch=1, patch=8, ema=0.9, grow_at=(0.34, 0.67))  # before the steps 2 and 4


def kernels(state: State) -> int:
    """How many base kernels each growing convolution has."""
    counts = {len(m.kernels) for m in state.network.modules() if isinstance(m, DilatedKernelConv)}
    assert len(counts) == 1
    return counts.pop()


def content(state: State) -> list[Tensor]:
    """All numbers of a state, in order."""
    optimiser = [v for s in state.optimiser.state_dict()["state"].values() for v in s.values()]
    return [*state.network.state_dict().values(), *(state.ema or {}).values(), *optimiser]


@pytest.fixture
def patches(photos: Path) -> Patches:
    return Patches(Data(str(photos), patch=8).train(), 8, 1, seed=5, device="cpu")


def test_merging_gives_the_same_after_growing() -> None:
    network = build(DESIGN, seed=1).double().eval()
    network.dilate(2, seed=3)  # type: ignore[operator]
    x = torch.rand(1, 3, 9, 10, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(inference_form(network)(x), network(x), rtol=1e-12, atol=1e-12)
    assert complexity(network) == complexity(DESIGN)


def test_each_stage_adds_a_kernel(patches: Patches) -> None:
    assert TRAINING.stages == (2, 4)
    state, seen = begin(DESIGN, TRAINING, seed=5), []
    for _ in range(6):
        state = train(state, TRAINING, patches, 1)
        seen.append(kernels(state) - BASES)
    assert seen == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_training_that_was_stopped_goes_on_bit_equal(stop: int, patches: Patches, tmp_path: Path) -> None:
    whole = train(begin(DESIGN, TRAINING, seed=5), TRAINING, patches, 6)
    save(train(begin(DESIGN, TRAINING, seed=5), TRAINING, patches, stop), tmp_path / "state.pt")
    state = load(begin(DESIGN, TRAINING, seed=5), TRAINING, tmp_path / "state.pt")
    assert state.step == stop
    state = train(state, TRAINING, patches, 6)
    assert len(content(state)) == len(content(whole))
    assert all(torch.equal(a, b) for a, b in zip(content(state), content(whole), strict=True))


def test_a_network_that_does_not_grow_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.grow_at"):
        begin(published("rfdn"), replace(TRAINING, patch=16), seed=0)


@pytest.mark.slow
def test_it_is_trained_and_kept_merged(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    words = ("--set", "space=null", "--set", "network=uestc_medialab", "--set", "objectives=[psnr_db]")
    outcome = paretosr("train", recipe, "--out", "run", *words, "--set", "train.grow_at=[0.5]")
    assert outcome.code == 0, outcome.err
    network = load_exported(tmp_path / "run" / "winner")
    assert not any(isinstance(module, DilatedKernelConv) for module in network.modules())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["train"]["grow_at"] == [0.5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("search", "--set", "train.loss=multi_exit"), "a network of the space has none"),
        (("search", "--set", "train.grow_at=[0.5]"), "a network of the space does not"),
        (("train", "--set", "space=null", "--set", "network=gcsr", "--set", "train.loss=multi_exit"), "gcsr has none"),
        (("train", "--set", "space=null", "--set", "network=fssr"), "the report describes nothing"),
        (("train", "--set", "space=null", "--set", "network=imdnn"), "did you mean 'imdn'"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_before_anything_is_written(
    words: tuple[str, ...], said: str, paretosr: Command, recipe: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    command, *rest = words
    refused(paretosr(command, recipe, *rest, "--out", "run"), said)
    assert contents(tmp_path) == before
