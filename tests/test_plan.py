"""A plan goes to JSON and back, and says what is wrong with one that is not right."""

import json
from typing import Any

import pytest
from plans import ANY, half

from paretosr.spaces import Architecture, Block, Design, InputError, build, inference_form, published
from paretosr.spaces.plan import Plan, check, widths

SMALL = Architecture(8, (Block.of("residual"),))
GOOD: dict[str, Any] = {"architecture": ANY, "kept": {"a": [[0, 2], [1]], "b": [[], []]}, "order": {"a": [2, 0]}}


def with_(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def test_a_plan_goes_to_json_and_back() -> None:
    plan = Plan.from_json(GOOD)
    assert plan.kept == {"a": ((0, 2), (1,)), "b": ((), ())}
    assert plan.to_json() == GOOD
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert hash(again) == hash(plan)


def test_the_hash_is_of_the_content() -> None:
    plan = Plan.from_json(GOOD)
    turned = Plan(ANY, dict(reversed(list(plan.kept.items()))), plan.order)
    assert turned.hash == plan.hash
    assert len(plan.hash) == 12
    others = [with_(order={}), with_(kept={"a": [[0, 2], [1]]}, order={}), with_(architecture="1" * 12)]
    assert len({plan.hash, *(Plan.from_json(other).hash for other in others)}) == 4


def test_a_plan_says_what_it_is() -> None:
    assert Plan.from_json(GOOD).summary() == "2 convolutions cut, 1 of them closed"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "must be a mapping with the keys 'architecture' and 'kept'"),
        ({"kept": {}}, "the key 'architecture' is missing"),
        ({"architecture": ANY}, "the key 'kept' is missing"),
        (with_(keep={}), "no key of a plan 'keep'; did you mean 'kept'"),
        (with_(architecture="12"), "'architecture' must be 12 hexadecimal digits, not '12'"),
        (with_(architecture=None), "'architecture' must be 12 hexadecimal digits, not None"),
        (with_(kept=[]), "'kept' must be a mapping"),
        (with_(order=[1]), "'order' must be a mapping"),
        (with_(kept={"a": [0, 1]}), r"kept\['a'\]\[0\] must be a list of channels"),
        (with_(kept={"a": [[0]]}), r"kept\['a'\] must be two lists"),
        (with_(kept={"a": "ab"}), r"kept\['a'\] must be two lists"),
        (with_(kept={"a": [[0, 1.0], []]}), r"kept\['a'\]\[0\] must be a list of channels, whole numbers from 0 on"),
        (with_(kept={"a": [[0], [True]]}), r"kept\['a'\]\[1\] must be a list of channels"),
        (with_(kept={"a": [[0], [-1]]}), r"kept\['a'\]\[1\] must be a list of channels"),
        (with_(kept={"a": [[1, 0], [0]]}), r"kept\['a'\]\[0\] must ascend, each channel once"),
        (with_(kept={"a": [[0, 0], [0]]}), r"kept\['a'\]\[0\] must ascend, each channel once"),
        (with_(order={"a": [0]}), r"order\['a'\] must hold each kept output of 'a' once"),
        (with_(order={"a": [0, 2, 2]}), r"order\['a'\] must hold each kept output of 'a' once"),
        (with_(order={"c": [0]}), r"order\['c'\] must hold each kept output"),
    ],
)
def test_what_is_wrong_is_said(data: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^plan: {said}"):
        Plan.from_json(data)


def test_a_plan_is_checked_against_a_network() -> None:
    network = inference_form(build(SMALL, device="meta"))
    assert widths(network)["upsampler.conv"] == (48, 8)
    check(half(network), network)
    check(half(network, SMALL.hash), network, SMALL.hash)
    with pytest.raises(InputError, match=f"plan: is for the architecture {ANY}, not for {SMALL.hash}"):
        check(half(network), network, SMALL.hash)
    with pytest.raises(InputError, match=r"plan: no convolution 'head.1'; did you mean 'head.0'\?"):
        check(Plan(ANY, {"head.1": ((0,), (0,))}), network)
    with pytest.raises(InputError, match=r"plan: 'head.0' has 8 outputs; there is no output 8"):
        check(Plan(ANY, {"head.0": ((8,), (0,))}), network)
    with pytest.raises(InputError, match=r"plan: 'head.0' has 3 inputs; there is no input 4"):
        check(Plan(ANY, {"head.0": ((7,), (0, 4))}), network)


@pytest.mark.parametrize("design", [Design(SMALL), published("gcsr")], ids=["architecture", "published"])
def test_a_design_carries_a_plan(design: Design) -> None:
    network = inference_form(build(design, device="meta"))
    pruned = Design(design.architecture, half(network, design.architecture.hash))
    assert Design.from_json(json.loads(json.dumps(pruned.to_json()))) == pruned
    assert pruned.hash != design.hash
    assert len(pruned.hash) == 12
    assert pruned.plan is not None
    whole = design.summary().removesuffix(", as published")  # a cut network is not as published
    assert pruned.summary() == f"pruned, {pruned.plan.summary()}: {whole}"
    with pytest.raises(InputError, match=f"design: the plan is for the architecture {ANY}, not for"):
        Design(design.architecture, half(network))
    with pytest.raises(InputError, match="plan: must be a mapping"):
        Design.from_json({"architecture": design.to_json()["architecture"], "plan": [1]})
