"""The stairs of a network as a piece of work: an estimate that is right about the network itself, timed once."""

import json
from pathlib import Path

import pytest

from paretosr.proxies import stairs as stairs_room
from paretosr.proxies.complexity import complexity
from paretosr.proxies.latency import Protocol
from paretosr.proxies.stairs import Estimate, calls_of
from paretosr.pruning.budget import Meter
from paretosr.pruning.cutting import StairsWork
from paretosr.spaces import Architecture, Block, Design, build, inference_form
from paretosr.spaces.plan import Plan

SMALL = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))


@pytest.fixture
def quick_stairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARETOSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stairs_room, "MOST_ROUNDS", 1)
    monkeypatch.setattr(stairs_room, "SAMPLE_MS", 0.1)


def test_the_stairs_say_one_of_the_network_itself_and_the_whole_is_timed_once(quick_stairs, tmp_path: Path) -> None:
    protocol = Protocol(size=(8, 8), warmup_s=0.005, rounds=5, max_rounds=5)
    work = StairsWork(SMALL, protocol, "cpu", str(tmp_path / "parent"))
    assert work.exclusive
    result = work.perform(lambda said: None, lambda: False)
    assert result is not None
    meter = Meter(SMALL, protocol, result["estimate"])
    assert meter.shares(Plan(SMALL.architecture.hash))["latency_ratio"] == 1
    calls = calls_of(inference_form(build(SMALL)), protocol.size)
    estimate: Estimate = result["estimate"]
    said_ms = estimate.ms(calls, complexity(SMALL).activations_m)
    assert said_ms == pytest.approx(max(result["latency_ms"], estimate.stairs.total_ms(calls)))
    half = Plan(SMALL.architecture.hash, {"blocks.0.first": (range(2), range(8))})  # type: ignore[dict-item]
    assert meter.shares(half)["latency_ratio"] < 1.5
    file = tmp_path / "parent" / "latency.json"
    assert json.loads(file.read_text()) == {"latency_ms": result["latency_ms"]}
    file.write_text(json.dumps({"latency_ms": 1234.0}))
    again = work.perform(lambda said: None, lambda: False)
    assert again is not None
    assert again["latency_ms"] == 1234.0
    assert again["estimate"].ms(calls, complexity(SMALL).activations_m) == pytest.approx(1234.0)
    assert again["estimate"].stairs == estimate.stairs
