"""The protocols of the challenges on forwards of known durations: what is run in which order, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretosr.proxies import latency_methods as methods_room
from paretosr.proxies.latency import (
    FIXED,
    METHODS,
    PROTOCOLS,
    UNUSED,
    Protocol,
    Timing,
    peak_memory_mb,
    time_together,
)
from paretosr.proxies.latency_methods import PASSES, summarise_passes
from paretosr.runs.recipe import Recipe
from paretosr.runs.recipe_file import parse_recipe
from paretosr.spaces import InputError

CHALLENGES = ("aim2020", "ntire")
CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Machine:
    """A clock that moves only while a forward runs, as long as it is told; `calls` remembers (network, image)."""

    def __init__(self, durations_ms: Mapping[str, Sequence[Sequence[float]]]) -> None:
        self.now_s, self.durations_ms, self.calls = 0.0, durations_ms, []  # of each network [passes][images]

    def perf_counter(self) -> float:
        return self.now_s

    def forwards(self) -> dict[str, list[Any]]:
        def forward(name: str, image: int) -> Any:
            def run() -> None:
                passed = self.calls.count((name, image))
                self.calls.append((name, image))
                self.now_s += self.durations_ms[name][passed][image] / 1e3

            return run

        return {
            name: [forward(name, image) for image in range(len(passes[0]))]
            for name, passes in self.durations_ms.items()
        }


def run(
    monkeypatch: pytest.MonkeyPatch, name: str, durations_ms: Mapping[str, Sequence[Sequence[float]]]
) -> tuple[dict[str, Timing], Machine]:
    machine = Machine(durations_ms)
    monkeypatch.setattr(methods_room, "time", SimpleNamespace(perf_counter=machine.perf_counter))
    return METHODS[name](machine.forwards(), "reference", PROTOCOLS[name], CPU), machine


# ---- what comes of the samples


def test_ntire_is_the_mean_over_the_images_the_first_forward_included(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = {"own": [[50.0, 2.0, 4.0, 2.0, 2.0]], "reference": [[70.0, 10.0, 20.0, 10.0, 10.0]]}
    timings, machine = run(monkeypatch, "ntire", durations)
    assert sorted(machine.calls) == sorted((name, image) for name in durations for image in range(5))
    assert timings["own"].latency_ms == pytest.approx(12.0)
    assert timings["reference"].latency_ms == pytest.approx(24.0)
    assert timings["own"].ratio == pytest.approx(0.5)
    assert timings["own"].samples_ms == pytest.approx(durations["own"][0])
    assert timings["own"].reference_samples_ms == pytest.approx(durations["reference"][0])
    assert timings["own"].iqr_ms == pytest.approx(2.0)
    assert timings["own"].ratio_low < 0.5 < timings["own"].ratio_high
    assert timings["own"].wide  # one image of five decides


def test_aim2020_is_the_lowest_of_three_means(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [[90.0, 3.0, 3.0, 3.0, 1.0], [1.0, 3.0, 2.0, 2.0, 2.0], [4.0, 3.0, 3.0, 3.0, 2.0]]  # 20, 2, 3
    reference = [[80.0, 30.0, 30.0, 30.0, 30.0], [8.0, 9.0, 8.0, 7.0, 8.0], [4.0, 6.0, 5.0, 5.0, 5.0]]  # 40, 8, 5
    timings, machine = run(monkeypatch, "aim2020", {"own": own, "reference": reference})
    assert len(machine.calls) == 2 * PASSES * 5
    assert timings["own"].latency_ms == pytest.approx(2.0)
    assert timings["reference"].latency_ms == pytest.approx(5.0)
    assert timings["own"].ratio == pytest.approx(0.4)  # each network's best, though of different passes
    assert timings["own"].samples_ms == pytest.approx([ms for of_pass in own for ms in of_pass])
    assert timings["own"].ratio_low <= timings["own"].ratio <= timings["own"].ratio_high


@pytest.mark.parametrize("name", CHALLENGES)
def test_networks_take_turns_on_each_image_in_changing_order(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    passes = [[1.0] * 8] * (PASSES if name == "aim2020" else 1)
    timings, machine = run(monkeypatch, name, {"a": passes, "reference": passes, "b": passes})
    turns = [machine.calls[at : at + 3] for at in range(0, len(machine.calls), 3)]
    assert [{image for _, image in turn} for turn in turns] == [{image} for image in range(8)] * len(passes)
    assert all({network for network, _ in turn} == {"a", "reference", "b"} for turn in turns)
    assert len({tuple(network for network, _ in turn) for turn in turns}) > 3
    assert list(timings) == ["a", "reference", "b"]
    reference = timings["reference"]
    assert (reference.ratio, reference.ratio_low, reference.ratio_high, reference.wide) == (1, 1, 1, False)


@pytest.mark.parametrize("passes", [1, PASSES])
def test_large_and_small_images_do_not_widen_the_interval(passes: int) -> None:
    reference = np.tile(np.linspace(1, 30, 40), (passes, 1))
    timing = summarise_passes(0.25 * reference, reference, 0.05)
    assert timing.iqr_ms > 3
    assert (timing.ratio_low, timing.ratio, timing.ratio_high) == pytest.approx((0.25, 0.25, 0.25), rel=1e-12)
    assert not timing.wide
    assert timing == summarise_passes(0.25 * reference, reference, 0.05)


@pytest.mark.parametrize("passes", [1, PASSES])
def test_the_interval_covers_a_known_ratio(passes: int) -> None:
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        sizes = generator.uniform(1, 3, 60)
        own, reference = (sizes * np.exp(generator.normal(0, 0.1, (passes, 60))) for _ in range(2))
        timing = summarise_passes(0.25 * own, reference, 0.2)
        held += timing.ratio_low <= 0.25 <= timing.ratio_high
        assert timing.ratio_low <= timing.ratio <= timing.ratio_high
        assert not timing.wide
    assert held >= 180  # of one pass 190 are expected


def test_noise_is_called_wide() -> None:
    generator = np.random.default_rng(5)
    own, reference = (np.exp(generator.normal(0, 0.5, (1, 20))) for _ in range(2))
    assert summarise_passes(own, reference, 0.05).wide
    with pytest.raises(ValueError, match="passes, images"):
        summarise_passes(own, reference[:, :5], 0.05)


# ---- the protocols


def test_every_protocol_has_a_method_and_says_what_it_fixes() -> None:
    assert list(METHODS) == list(PROTOCOLS) == list(FIXED) == list(UNUSED)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert Protocol(**protocol.to_json()) == protocol


def test_the_images_of_a_challenge_are_like_those_of_div2k() -> None:
    protocol = replace(PROTOCOLS["ntire"], images=9)
    usual = (339, 510)
    assert protocol.sizes == (usual, usual, (510, 339), usual, (384, 510), usual, (288, 510), usual, usual)
    assert len(PROTOCOLS["aim2020"].sizes) == 100
    assert Protocol(size=(8, 9)).sizes == ((8, 9),)


def test_labels_of_the_challenges_tell_all_that_matters_and_that_of_steady_is_as_it_was() -> None:
    assert Protocol().label() == "steady, fp32, NCHW, eager, batch 1 of 3x64x64, 1 CPU thread, cuDNN benchmark on"
    assert PROTOCOLS["ntire"].label() == (
        "ntire, fp32, NCHW, eager, 100 images like 3x339x510, 1 CPU thread, cuDNN benchmark off"
    )
    changes: list[dict[str, Any]] = [
        {"precision": "fp16"},
        {"layout": "nhwc"},
        {"size": (64, 48)},
        {"threads": 2},
        {"images": 10},
    ]
    labels = {replace(PROTOCOLS[name], **change).label() for name in CHALLENGES for change in [{}, *changes]}
    assert len(labels) == 2 * (1 + len(changes))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ntire", {"cudnn_benchmark": True}, "cudnn_benchmark must be false with the protocol 'ntire', not true"),
        ("aim2020", {"cudnn_benchmark": False}, "cudnn_benchmark must be true with the protocol 'aim2020', not false"),
        ("ntire", {"batch": 2}, "batch must be 1 with the protocol 'ntire', not 2"),
        ("aim2020", {"execution": "graph"}, "execution must be eager with the protocol 'aim2020', not graph"),
        ("ntire", {"warmup_s": 1.0}, "warmup_s has no effect with the protocol 'ntire'; leave it at 0.1"),
        ("aim2020", {"rounds": 20}, "rounds has no effect with the protocol 'aim2020'; leave it at 12"),
        ("ntire", {"max_rounds": 99}, "max_rounds has no effect with the protocol 'ntire'; leave it at 36"),
        ("steady", {"images": 10}, "images has no effect with the protocol 'steady'; leave it at 100"),
        ("ntire", {"images": 4}, "images must be a whole number of at least 5, not 4"),
    ],
)
def test_what_a_protocol_does_not_know_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(PROTOCOLS[name], **change)
    assert str(caught.value) == f"latency: {message}"


# ---- the real thing


class Notes(list[Any]):
    """Stays one and the same in all copies of the network that holds it."""

    def __deepcopy__(self, memo: object) -> "Notes":
        return self


class Probe(nn.Module):
    """Writes down what it is run on, and under which conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen = Notes()

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append((tuple(image.shape), torch.backends.cudnn.benchmark, torch.is_inference_mode_enabled()))
        return self.conv(image)


@pytest.mark.parametrize("name", CHALLENGES)
def test_whole_images_are_timed_one_at_a_time_and_nothing_is_warmed_up(name: str) -> None:
    protocol = replace(PROTOCOLS[name], size=(30, 40), images=9)
    probe, passes = Probe(), PASSES if name == "aim2020" else 1
    timings = time_together({"probe": probe, "reference": nn.Conv2d(3, 4, 3)}, "reference", protocol, "cpu")
    expected = [((1, 3, *size), protocol.cudnn_benchmark, True) for size in protocol.sizes] * passes
    assert probe.seen == expected
    assert len(timings["probe"].samples_ms) == len(timings["probe"].reference_samples_ms) == 9 * passes
    assert min(timings["probe"].samples_ms) > 0
    assert timings["reference"].ratio == 1


@needs_cuda
@pytest.mark.parametrize("name", CHALLENGES)
def test_cuda(name: str) -> None:
    small, large = nn.Conv2d(3, 4, 3), nn.Sequential(*(nn.Conv2d(3, 3, 7, padding=3) for _ in range(50)))
    protocol = replace(PROTOCOLS[name], images=40)
    timings = time_together({"small": small, "large": large}, "small", protocol, "cuda")
    assert timings["large"].ratio > 2
    assert (peak_memory_mb(large, protocol, "cuda") or 0) > 0


# ---- in a recipe


def recipe(**latency: Any) -> Recipe:
    space = {"blocks": ["imdb"], "widths": [16], "depths": [2]}
    return parse_recipe({"space": space, "latency": latency}, "my.yaml")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_recipe_that_names_a_protocol_need_not_say_more(name: str) -> None:
    given = recipe(protocol=name)
    if name != "steady":
        assert given.make_protocol() == PROTOCOLS[name]
    assert given.make_protocol().name == name
    assert parse_recipe(given.model_dump(mode="json"), "run.json") == given


def test_what_a_recipe_says_goes_before_the_protocols_own() -> None:
    protocol = recipe(protocol="ntire", size=[64, 80], images=12, precision="bf16", interval=0.2).make_protocol()
    assert protocol == replace(PROTOCOLS["ntire"], size=(64, 80), images=12, precision="bf16", interval=0.2)


@pytest.mark.parametrize(
    ("latency", "said"),
    [
        (
            {"protocol": "ntire", "rounds": 30},
            "latency.rounds: has no effect with the protocol 'ntire'; leave it at 15",
        ),
        ({"protocol": "ntire", "cudnn_benchmark": True}, "latency.cudnn_benchmark: must be false with the protocol"),
        ({"protocol": "aim2020", "execution": "compiled"}, "latency.execution: must be eager with the protocol"),
        ({"images": 10}, "latency.images: has no effect with the protocol 'steady'; leave it at 100"),
        ({"protocol": "ntire", "size": [16, 16]}, "latency.size: imdb(esa) needs at least 15 pixels a side, not 14"),
    ],
)
def test_what_does_not_go_together_in_a_recipe_is_one_line(latency: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(**latency)
    assert str(caught.value).startswith(f"my.yaml: {said}")
    assert "\n" not in str(caught.value)
