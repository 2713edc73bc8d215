"""The stairs of convolutions: which calls a network makes, on which grid they are timed, what is made of the times."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from paretosr.proxies.latency import Protocol
from paretosr.proxies.stairs import STEP, Call, Estimate, Kind, Stairs, calls_of, grid, measure_stairs, narrowed
from paretosr.spaces import build, inference_form, published

KIND = Kind((3, 3), (1, 1), (1, 1), (1, 1), depthwise=False, size=(16, 16))
CHEAP = Protocol(size=(16, 16))


def sixteens(kind: Kind, inputs: int, outputs: int) -> float:
    """A device whose stairs are 16 wide."""
    return float(-(-inputs // 16) * -(-outputs // 16))


def test_every_plain_and_depthwise_call_is_seen() -> None:
    calls = calls_of(inference_form(build(published("neptuneai"), seed=0)), (16, 17))
    assert len(calls) == 45
    assert {call.kind.size for call in calls} == {(16, 17), (32, 34), (64, 68)}
    assert sum(call.kind.depthwise for call in calls) == 8
    shared = calls_of(inference_form(build(published("srrn"), seed=0)), (16, 16))
    assert len(shared) == 35
    assert len({call.name for call in shared}) == 3 + 8  # four weight sets of two convolutions


@pytest.mark.parametrize("width", [1, 5, 12, 13, 24, 32, 48, 50, 64, 100, 256, 1024])
def test_a_grid_is_small_rises_and_ends_at_the_width(width: int) -> None:
    points = grid(width)
    assert points == tuple(sorted(set(points)))
    assert points[-1] == width
    assert len(points) <= 13
    assert all(point % 4 == 0 or width <= 12 for point in points[:-1])
    if 32 <= width <= 96:
        assert all(point % STEP == 0 for point in points[:-1])


def test_times_are_those_of_the_next_point_upwards(tmp_path: Path) -> None:
    stairs = measure_stairs([Call("a", KIND, 64, 48)], CHEAP, "cpu", folder=tmp_path, sample=sixteens)
    assert stairs.widths(KIND, 0) == (8, 16, 24, 32, 40, 48, 56, 64)
    assert stairs.widths(KIND, 1) == (8, 16, 24, 32, 40, 48)
    assert stairs.ms(KIND, 64, 48) == 12
    assert stairs.ms(KIND, 33, 17) == sixteens(KIND, 40, 24) == 6
    assert stairs.ms(KIND, 32, 16) == 2
    assert stairs.ms(KIND, 0, 16) == stairs.ms(KIND, 16, 0) == 0
    with pytest.raises(KeyError, match="49"):
        stairs.ms(KIND, 16, 49)


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    seen: list[tuple[Kind, int, int]] = []

    def noted(kind: Kind, inputs: int, outputs: int) -> float:
        seen.append((kind, inputs, outputs))
        return sixteens(kind, inputs, outputs)

    other, first = replace(KIND, kernel=(1, 1), padding=(0, 0)), [Call("a", KIND, 32, 32)]
    one = measure_stairs(first, CHEAP, "cpu", folder=tmp_path, sample=noted)
    assert len(set(seen)) == 16
    seen.clear()
    again = measure_stairs([*first, Call("b", other, 16, 8)], CHEAP, "cpu", folder=tmp_path, sample=noted)
    assert {kind for kind, _, _ in seen} == {other}
    assert again.tables[KIND] == one.tables[KIND]
    seen.clear()
    measure_stairs(first, replace(CHEAP, threads=2), "cpu", folder=tmp_path, sample=noted)
    assert seen  # other conditions, other stairs
    for file in tmp_path.iterdir():
        file.write_text("[{}]")
    seen.clear()
    measure_stairs(first, CHEAP, "cpu", folder=tmp_path, sample=noted)
    assert seen  # a damaged file is measured anew


def test_the_time_asked_for_is_kept(tmp_path: Path) -> None:
    seen: list[int] = []

    def noted(kind: Kind, inputs: int, outputs: int) -> float:
        seen.append(inputs)
        return 1.0

    measure_stairs([Call("a", KIND, 16, 16)], CHEAP, "cpu", folder=tmp_path, sample=noted, seconds=0)
    assert len(seen) == 16  # one round


def test_an_estimate_adds_the_rest_by_activations() -> None:
    stairs = Stairs({KIND: {(i, o): sixteens(KIND, i, o) for i in (16, 32) for o in (16, 32)}})
    calls = [Call("a", KIND, 32, 32), Call("b", KIND, 32, 32)]
    estimate = Estimate.fitted(stairs, calls, latency_ms=10.0, activations_m=4.0)
    assert estimate.rest_ms == 2.0
    assert estimate.ms(calls, 4.0) == 10.0
    cut = narrowed(calls, {"a": (32, 16), "c": (1, 1)})
    assert cut == [replace(calls[0], outputs=16), calls[1]]
    assert estimate.ms(cut, 3.0) == 2 + 4 + 1.5
    assert Estimate.fitted(stairs, calls, latency_ms=5.0, activations_m=4.0).rest_ms == 0


def test_real_convolutions_are_timed(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 4, 1))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    calls = calls_of(network, (16, 16))
    assert [(c.inputs, c.outputs, c.kind.depthwise) for c in calls] == [(3, 8, False), (8, 8, True), (8, 4, False)]
    for layout in ("nchw", "nhwc"):
        stairs = measure_stairs(calls, replace(CHEAP, layout=layout), "cpu", folder=tmp_path, seconds=0.1)
        assert stairs.total_ms(calls) > 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training
    assert not network[0]._forward_hooks
