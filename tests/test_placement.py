"""Where tasks are placed on a cluster: what they need, which node has it, who gives way."""

from dataclasses import dataclass

import pytest

from paretosr.runs.engines.nodes import NodeFacts
from paretosr.runs.engines.placement import Need, Node, giving_way, need_of, node_to_clear, place, slots_of, waited_for
from paretosr.search.engine import Task


@dataclass(frozen=True)
class Work:
    """What placement looks at in a work."""

    device: str
    exclusive: bool = False
    gpus: int = 1

    def perform(self, report, stop):
        raise AssertionError("it is not to be performed")


def node(name: str, cpus: float, gpus: float = 0, kind: str = "A") -> Node:
    return Node(NodeFacts(name, name, kind, cpus, gpus, {}))


def task(device: str = "cpu", *, timing: bool = False, alone: bool = False, name: str = "t") -> Task:
    return Task(name, Work(device, timing), alone=alone)


CPU, GPU = task(), task("cuda:0")
CPU_TIMING, GPU_TIMING = task(timing=True), task("cuda:0", timing=True)


@pytest.mark.parametrize(
    ("asked", "gpus", "need"),
    [
        (CPU, 0, Need(1, 0, False)),
        (CPU_TIMING, 0, Need(8, 0, True)),
        (task(alone=True), 0, Need(8, 0, True)),
        (GPU, 2, Need(1, 0.25, False)),
        (GPU_TIMING, 2, Need(1, 1, True)),
        (task("cuda:0", alone=True), 2, Need(1, 1, True)),
        (Task("t", Work("cuda:0", gpus=2)), 2, Need(2, 2, True)),
    ],
)
def test_what_a_task_takes(asked, gpus, need):
    assert need_of(asked, 0.25, node("n", 8, gpus).facts) == need


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "share", "slots"),
    [
        (8, 0, "cpu", 1, 8),
        (8.9, 0, "cpu", 1, 8),
        (8, 2, "cuda", 1, 2),
        (8, 2, "cuda", 0.25, 8),
        (6, 2, "cuda", 0.25, 6),
        (8, 1, "cuda", 1 / 3, 3),
        (8, 1, "cuda", 0.4, 2),
        (8, 0, "cuda", 1, 0),
        (0, 2, "cuda", 1, 0),
    ],
)
def test_slots(cpus, gpus, device, share, slots):
    assert slots_of(node("n", cpus, gpus).facts, device, share) == slots


def fill(nodes: list[Node], asked: Task, share: float = 1.0) -> list[str]:
    """Places a task as often as there is room; the names of the nodes."""
    where = []
    while (found := place(asked, nodes, None, share)) is not None:
        found.taken[f"{found.facts.id}{len(found.taken)}"] = need_of(asked, share, found.facts)
        where.append(found.facts.id)
    return where


def test_trainings_spread_and_a_node_takes_as_many_as_it_has_slots():
    assert fill([node("a", 2), node("b", 2)], CPU) == ["a", "b", "a", "b"]
    assert sorted(fill([node("a", 9, 1), node("b", 9, 2)], GPU, 1 / 3)) == ["a"] * 3 + ["b"] * 6
    assert fill([node("a", 8), node("b", 8, 1)], GPU) == ["b"], "a node without a GPU trains on none"


def test_a_timing_goes_to_a_free_device_of_its_kind_only():
    fast, slow = node("fast", 2, 1, "H100"), node("slow", 2, 1, "T4")
    assert place(GPU_TIMING, [slow, fast], "H100", 1.0) is fast
    fast.taken["x"] = need_of(GPU, 1.0, fast.facts)
    assert place(GPU_TIMING, [slow, fast], "H100", 1.0) is None
    assert place(GPU, [slow, fast], "H100", 1.0) is slow, "trainings go anywhere"
    assert node_to_clear(GPU_TIMING, [slow, fast], "H100") is fast


def test_a_node_that_is_cleared_takes_only_what_it_is_cleared_for():
    busy, idle = node("busy", 2), node("idle", 2)
    busy.taken = {"a": need_of(CPU, 1, busy.facts), "b": need_of(CPU, 1, busy.facts)}
    idle.taken = {"c": need_of(CPU, 1, idle.facts)}
    assert node_to_clear(CPU_TIMING, [busy, idle], None) is idle
    idle.cleared_for = CPU_TIMING.name
    assert giving_way(idle, need_of(CPU_TIMING, 1, idle.facts)) == ["c"]
    assert place(task(name="other"), [busy, idle], None, 1.0) is None
    assert node_to_clear(task(timing=True, name="second"), [busy, idle], None) is busy
    idle.forget("c")
    assert place(CPU_TIMING, [busy, idle], None, 1.0) is idle


def test_of_several_gpus_one_is_cleared_and_only_where_trainings_share_it():
    shared = node("shared", 8, 2)
    shared.taken = {key: Need(1, 0.5, False) for key in ("a", "b", "c")}
    shared.gpu_of = {"a": "0", "b": "0", "c": "1"}
    whole = need_of(GPU_TIMING, 0.5, shared.facts)
    assert not shared.fits(whole)
    assert giving_way(shared, whole) == ["c"]
    shared.gpu_of = {"a": "0", "b": "0"}
    assert shared.whole_gpus == 0, "c has not said yet where it runs"
    shared.forget("c")
    assert shared.fits(whole)
    alone = node("alone", 8, 1)
    alone.taken, alone.gpu_of = {"a": Need(1, 1.0, False)}, {"a": "0"}
    assert giving_way(alone, whole) == []


def test_a_training_on_several_gpus_has_them_all_on_one_node():
    small, large, both = node("small", 8, 1), node("large", 8, 4), Task("t", Work("cuda:0", gpus=2))
    large.taken = {"a": Need(1, 0.5, False), "b": Need(1, 0.5, False), "c": Need(1, 0.5, False), "d": Need(1, 1, True)}
    large.gpu_of = {"a": "0", "b": "1", "c": "1", "d": "2"}
    assert place(both, [small, large], None, 0.5) is None
    assert node_to_clear(both, [small, large], None) is large
    assert sorted(giving_way(large, need_of(both, 0.5, large.facts))) == ["a", "b", "c"]
    large.forget("a")
    assert place(both, [small, large], None, 0.5) is large
    large.taken["t"] = need_of(both, 0.5, large.facts)
    assert large.whole_gpus == 0


def test_halves_on_two_gpus_leave_no_whole_one():
    two = node("two", 8, 2)
    two.taken, two.gpu_of = {"a": Need(1, 0.5, False), "b": Need(1, 0.5, False)}, {"a": "0", "b": "1"}
    assert two.free_gpus == 1
    assert not two.fits(Need(1, 1.0, True))


@pytest.mark.parametrize(
    ("kinds", "kind", "words"),
    [
        ("", None, "; none is left, the run waits for one"),
        ("", "A", "; none is left, the run waits for one"),
        ("B", "A", "; none is left of the kind to time on (A), timings wait for one"),
        ("B", None, ""),
        ("AB", "A", ""),
    ],
)
def test_what_a_run_waits_for_after_a_loss(kinds, kind, words):
    assert waited_for([node(str(i), 8, 1, k) for i, k in enumerate(kinds)], kind) == words
