"""Slots: which channels close together, which are frozen and why, which branches can go."""

import pytest
from plans import ANY, assert_exact, formed

from paretosr.spaces import build, inference_form, published
from paretosr.spaces.flow import Flow, Member, Slot, closed, compact, live, passes_image, slots, trace
from paretosr.spaces.plan import Plan


@pytest.mark.parametrize("name", ["msrresnet", "imdn_paper", "lmsr"])
def test_a_group_is_closed_without_a_gather(name: str) -> None:
    network = formed(published(name))
    flow = trace(network)
    for view in ("group", "inner"):
        free = [slot for slot in getattr(slots(flow), view) if not slot.frozen]
        plan = closed(flow, free[::2], ANY)
        assert_exact(network, [plan], forms=["run"], flow=flow)
        kinds = {type(module).__name__ for module in compact(flow, plan).modules()}
        assert not kinds & {"Take", "AddAt", "AddSlice", "Widen", "Pad"}, (view, kinds)


@pytest.mark.parametrize(
    "name", ["rfdn", "uestc_medialab", "pfsnet", "maffsrn", "xmulab", "lfn", "spsr", "isrresdnet", "neptuneai"]
)
def test_every_channel_is_in_one_slot(name: str) -> None:
    flow = trace(inference_form(build(published(name), device="meta")))
    found = slots(flow)
    wanted = sum(sum(sides) for sides in flow.widths.values())
    wanted -= sum(flow.widths[name][1] for name in depthwise(flow))
    for view in (found.fine, found.group):
        members = [member for slot in view for member in slot.members]
        assert len(members) == len(set(members)) == wanted
        assert any(slot.frozen for slot in view)
    assert all(slot.is_edge and not slot.frozen for slot in found.inner)
    assert {m for s in found.group if not s.frozen for m in s.members} <= {
        m for s in found.fine if not s.frozen for m in s.members
    }


def depthwise(flow: Flow) -> list[str]:
    modules = {name: flow.network.get_submodule(name) for name in flow.calls}
    return [name for name, m in modules.items() if getattr(m, "groups", 1) == getattr(m, "in_channels", 0)]


def test_slots_say_what_belongs_together() -> None:
    found = slots(trace(formed(published("hcsrn"))))
    block = "stages.0.blocks.3"
    assert Slot((Member(f"{block}.row_first.0", "out", 5), Member(f"{block}.row_first.2", "in", 5))) in found.inner
    unit = tuple(Member(f"{block}.shrunk.second", "out", 8 + number) for number in range(4))
    assert Slot(unit) in found.fine
    stream = next(slot for slot in found.group if Member("head", "out", 2) in slot.members)
    assert not stream.frozen
    assert set(unit) <= set(stream.members)
    # The image skip joins the colours of both ends.
    ends = [(Member("head", "in", colour), Member("last", "out", colour)) for colour in range(3)]
    frozen = [slot for slot in found.fine if slot.frozen]
    assert frozen == [Slot(members, "it is the image and it reaches the output") for members in ends]


def test_a_branch_can_go() -> None:
    network = formed(published("hcsrn"))
    flow = trace(network)
    found = {branch.closes: branch for branch in slots(flow).branches}
    for block in (f"stages.{stage}.blocks.{number}" for stage, depth in ((0, 10), (1, 4)) for number in range(depth)):
        for first, last in (("column_first.0", "column_first.2"), ("row_first.0", "row_first.2")):
            assert found[f"{block}.{last}",].convolutions == (f"{block}.{first}", f"{block}.{last}")
    branch = found["stages.0.blocks.2.shrunk.second",]
    plan = Plan(ANY, dict.fromkeys(branch.closes, ((), ())))
    assert_exact(network, [plan])
    gone = set(network.state_dict()) - set(compact(flow, plan).state_dict())
    assert gone == {f"{name}.{kind}" for name in branch.convolutions for kind in ("weight", "bias")}
    assert passes_image(flow, live(flow, plan))
    assert not passes_image(flow, live(flow, Plan(ANY, {"head": ((), ())})))
