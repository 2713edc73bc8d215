"""The prefilter: predictors choose which of several proposals is evaluated, and never what is recorded."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from recorded import SPACE, made
from test_simulator import SETTINGS, WHOLE

from paretosr.proxies.predictors import FEWEST_ROWS, PSNR_MODELS
from paretosr.search.halving import Rungs
from paretosr.search.prefilter import Prefilter, _psnr, chosen
from paretosr.search.proposing import Exhausted, next_proposal
from paretosr.search.seen import Proposal, Seen
from paretosr.search.settings import Budget
from paretosr.search.simulator import simulate
from paretosr.spaces import Architecture, Design

AIMS = ("psnr_db", "activations_m")


def activations(design: Design) -> dict[str, float]:
    a = design.architecture
    assert isinstance(a, Architecture)
    return {"activations_m": float(a.width)}


def seen_of(count: int) -> list[Seen]:
    """Wide networks are better, and the cost is the width: then the deeper of two equally wide ones is the better."""
    random, found = Random(1), []
    for number in range(count):
        a = SPACE.sample(random)
        psnr_db = 20 + a.width / 8 + len(a.blocks)
        found.append(Seen(number, a, "complete", (-psnr_db, float(a.width))))
    return found


def deep_and_shallow(width: int) -> list[Proposal]:
    random = Random(2)
    pool = [a for a in (SPACE.sample(random) for _ in range(400)) if a.width == width]
    shallow = next(a for a in pool if len(a.blocks) == 1)
    deep = next(a for a in pool if len(a.blocks) == 3)
    return [Proposal(shallow, "shallow"), Proposal(deep, "deep")]


@pytest.mark.parametrize("model", PSNR_MODELS)
@pytest.mark.parametrize("width", [8, 16])
def test_the_one_that_is_expected_to_be_better_at_the_same_cost_is_chosen(model, width):
    proposal = chosen(Prefilter(2, model), SPACE, AIMS, deep_and_shallow(width), seen_of(60), activations)
    assert proposal.origin == "deep, chosen of 2"


def test_a_short_training_is_not_held_against_a_network():
    """Deep networks were seen after a ninth of the training only, and 3 dB lower for it."""
    seen = []
    for s in seen_of(80):
        assert s.points is not None
        short = len(s.architecture.blocks) == 3 and s.number % 2 == 0
        points = (s.points[0] + (3.0 if short else 0.0), s.points[1])
        seen.append(replace(s, points=points, share=1 / 9 if short else 1.0))
    proposal = chosen(Prefilter(2, "ridge"), SPACE, AIMS, deep_and_shallow(8), seen, activations)
    assert proposal.origin.startswith("deep")


def test_with_too_few_to_learn_from_the_first_proposal_is_taken():
    proposals = deep_and_shallow(8)
    assert chosen(Prefilter(2), SPACE, AIMS, proposals, seen_of(FEWEST_ROWS - 1), activations) is proposals[0]


def test_what_is_timed_is_predicted_from_the_work():
    seen = [
        Seen(s.number, s.architecture, "complete", (-25.0, 0.01 * s.architecture.width * len(s.architecture.blocks)))
        for s in seen_of(40)
    ]
    aims = ("psnr_db", "latency_ratio")
    assert chosen(Prefilter(2, "ridge"), SPACE, aims, deep_and_shallow(16), seen, activations).origin.startswith(
        "shallow"
    )


def test_an_early_psnr_is_not_compared_with_that_of_whole_trainings():
    seen, true = [], []
    for s in seen_of(80):
        assert s.points is not None
        true.append(s.points[0])
        share = 1.0 if s.number % 2 else 1 / 9
        seen.append(replace(s, points=(s.points[0] - 1.5 * np.log(share), s.points[1]), share=share))
    points = np.array([s.points[0] for s in seen])
    whole, _ = _psnr("ridge", SPACE, seen, points, [seen[0].architecture])
    assert np.array_equal(whole[1::2], points[1::2]), "what was measured stands"
    assert np.abs(whole - true).max() < 0.5
    assert np.abs(points - true).max() > 3


@pytest.mark.parametrize("sampler", ["evolution", "random", "tpe"])
def test_a_space_is_tried_to_its_last_network(sampler):
    space, seen = replace(SPACE, depths=(1,)), []
    settings = replace(SETTINGS, space=space, sampler=sampler, objectives=AIMS, prefilter=Prefilter(8, "ridge"))
    while len(seen) < space.size:
        known = {s.architecture.hash for s in seen}
        a = next_proposal(settings, seen, known, activations).architecture
        assert a.hash not in known
        seen.append(Seen(len(seen), a, "complete", (-float(len(seen) % 5), float(a.width))))
    with pytest.raises(Exhausted, match="all 9 networks of the space have been tried"):
        next_proposal(settings, seen, {s.architecture.hash for s in seen}, activations)


def test_only_what_was_proposed_from_knowledge_is_weighed():
    settings = replace(SETTINGS, objectives=AIMS, prefilter=Prefilter(4, "ridge"))
    opening = next_proposal(settings, [], set(), activations)
    assert "chosen" not in opening.origin
    later = next_proposal(settings, seen_of(40), {s.architecture.hash for s in seen_of(40)}, activations)
    assert later.origin.endswith("chosen of 4")
    assert later == next_proposal(settings, seen_of(40), {s.architecture.hash for s in seen_of(40)}, activations)


@pytest.mark.parametrize("halving", [None, Rungs(3, 3)])
def test_a_search_with_it_spends_the_same_and_repeats_itself(halving):
    recording = made()
    settings = replace(
        SETTINGS,
        objectives=AIMS,
        halving=halving,
        prefilter=Prefilter(3, "ridge"),
        budget=Budget(10_000, steps=(26 if halving is None else 12) * WHOLE),
    )
    whole = simulate(recording, settings, 3)
    assert whole == simulate(recording, settings, 3)
    plain = simulate(recording, replace(settings, prefilter=None), 3)
    assert {w.hash for w in whole} != {w.hash for w in plain}
    if halving is None:
        assert len(whole) == len(plain) == 26
    assert np.isfinite([w.seconds for w in whole]).all()
