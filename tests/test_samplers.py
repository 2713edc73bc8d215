"""Every sampler: proposals lie in the space, depend on the record and the key alone, begin as asked, and learn."""

import random
from dataclasses import replace
from functools import cache
from itertools import count, pairwise
from random import Random

import numpy as np
import pytest
from sampling import EVERY_SAMPLER

from paretosr.proxies.latency import Protocol
from paretosr.proxies.training import Training
from paretosr.proxies.work import Data
from paretosr.search import optuna_samplers
from paretosr.search import samplers as samplers_room
from paretosr.search.candidate import Candidate
from paretosr.search.front import hypervolume
from paretosr.search.loop import Search
from paretosr.search.optuna_samplers import GENERATION
from paretosr.search.proposing import next_proposal
from paretosr.search.samplers import SAMPLERS, Start, opened, population
from paretosr.search.seen import Proposal, Seen
from paretosr.search.settings import Budget, Settings
from paretosr.search.study import Record
from paretosr.spaces import BLOCKS, Architecture, Block, BlockChoices, Design, Space, published, published_architecture

AIMS = ("psnr_db", "activations_m")
TYPES = ("residual", "imdb", "rfdb", "scpa", "inverted_residual")

WIDE = Space(  # every block with all its choices
    blocks=tuple(BlockChoices(name) for name in BLOCKS),
    widths=(8, 16, 24),
    depths=(2, 3, 5),
    fusions=("none", "concat", "backward"),
    upsamplers=("direct", "nearest_pa"),
    upsampler_widths=(8, 16),
    image_skips=("none", "bilinear"),
)


def plain(name):
    """A block type without choices: the first value of each."""
    return BlockChoices(name, tuple((choice, (values[0],)) for choice, values in BLOCKS[name].CHOICES.items()))


PLAIN = Space(
    blocks=tuple(plain(name) for name in TYPES), widths=(8, 16, 24, 32), depths=(6,), image_skips=("none", "nearest")
)


def seen_of(space, count, state="complete", seed=0):
    """Candidates of a space with made-up numbers, as a sampler sees them."""
    found = []
    for number in range(count):
        draw = Random(f"{seed}:{number}")
        points = (draw.random(), draw.random()) if state == "complete" else None
        found.append(Seen(number, space.sample(draw), state, points))
    return found


def propose(name, space, seen, key, start=None):
    return SAMPLERS[name](space, seen, Random(key), start or Start(4), AIMS)


@pytest.mark.parametrize("name", EVERY_SAMPLER)
class TestEverySampler:
    def test_proposes_networks_of_the_space(self, name):
        seen = seen_of(WIDE, 30)
        for shown in (0, 1, 12, 30):
            for key in range(5):
                proposal = propose(name, WIDE, seen[:shown], key)
                assert proposal.architecture in WIDE
                assert proposal.architecture == proposal.architecture.canonical()
                assert proposal.origin

    def test_gives_the_same_for_the_same_record_and_key(self, name):
        seen = seen_of(WIDE, 25)
        first = [propose(name, WIDE, seen, f"0:{key}:0") for key in range(4)]
        again = [propose(name, WIDE, list(seen), f"0:{key}:0") for key in range(4)]
        assert [(p.architecture, p.origin, dict(p.memory)) for p in first] == [
            (p.architecture, p.origin, dict(p.memory)) for p in again
        ]

    def test_gives_something_else_for_another_key(self, name):
        seen = seen_of(WIDE, 25)
        hashes = {propose(name, WIDE, seen, f"0:{number}:0").architecture.hash for number in range(8)}
        assert len(hashes) > 4

    def test_neither_reads_nor_moves_the_global_random_state(self, name):
        def states():
            return random.getstate(), repr(np.random.get_state(legacy=False))  # noqa: NPY002

        seen = seen_of(WIDE, 25)
        random.seed(1)
        before = states()
        one = propose(name, WIDE, seen, 5)
        assert states() == before
        random.seed(2)
        assert propose(name, WIDE, seen, 5).architecture == one.architecture

    def test_begins_with_the_known_networks_that_lie_in_the_space(self, name):
        known = [PLAIN.sample(Random(i)) for i in range(3)]
        start = Start(2, (known[0], published_architecture("rfdn"), known[1], known[2]))
        seen = []
        for number in range(3):
            proposal = propose(name, PLAIN, seen, number, start)
            assert proposal.architecture == known[number]
            seen.append(Seen(number, proposal.architecture, "complete", (0.5, 0.5), proposal.memory))
        assert "published" not in propose(name, PLAIN, seen, 3, start).origin

    @pytest.mark.parametrize("state", ["running", "pruned", "failed"])
    def test_takes_candidates_without_numbers(self, name, state):
        seen = [*seen_of(WIDE, 12), *(replace(s, number=s.number + 12) for s in seen_of(WIDE, 6, state, seed=1))]
        assert propose(name, WIDE, seen, 0).architecture in WIDE
        assert propose(name, WIDE, seen[12:], 0).architecture in WIDE

    def test_takes_a_space_of_one_network(self, name):
        space = Space((plain("imdb"),), widths=(8,), depths=(1,))
        only = Architecture(8, (Block("imdb"),))
        assert propose(name, space, [], 0).architecture == only
        assert propose(name, space, [Seen(0, only, "complete", (0.0, 0.0))], 1).architecture == only

    def test_is_not_moved_by_records_that_do_not_belong_to_the_space(self, name):
        """Through the real record and the real search: what is drawn next, with its origin and its memory."""
        record = Record("sqlite://", AIMS, PLAIN)
        for number in range(24):
            proposal = drawn(searching(record, name))
            candidate = Candidate(0, Design(proposal.architecture), origin=proposal.origin)
            finish(record, record.add(candidate, proposal.memory), number)
        expected = drawn(searching(record, name))
        for foreign in foreigners(record):
            finish(record, record.add(foreign), 0)
            assert drawn(searching(record, name)) == expected
        assert len(record.candidates) == 24 + 4
        record.close()

    @pytest.mark.slow
    def test_learns(self, name):
        """Beats independent draws within 150 evaluations, on average over two landscapes."""
        gained = [explored(name, seed) - explored("random", seed) for seed in range(2)]
        assert np.mean(gained) > 0.05 if name != "random" else gained == [0.0, 0.0], gained


def drawn(search: Search) -> Proposal:
    """What a search would try next."""
    return next_proposal(search.settings, search.view.seen, search.known, search.count)


def searching(record, sampler, known=()):
    """A search that only draws."""
    record.set_attribute("first", {"steps": 1, "reference": {"name": "rfdn", "numbers": {}}})
    settings = Settings(
        space=PLAIN,
        objectives=AIMS,
        limits=(),
        sampler=sampler,
        start=Start(6, known),
        seed=3,
        budget=Budget(100),
        training=Training(1),
        fit=False,
        data=Data(),
        reference=("rfdn", published("rfdn")),
        protocol=Protocol(),
        device="cpu",
        confirm_seeds=0,
        task_minutes=None,
    )
    return Search(settings, record, None, None)  # type: ignore[arg-type]


def finish(record, candidate, key):
    """Ends a candidate with made-up numbers."""
    numbers = {"psnr_db": 20 + Random(key).random(), "activations_m": Random(-key).random()}
    record.update(replace(candidate, state="complete", numbers=numbers))


def foreigners(record):
    """What may stand in a study without belonging to the space."""
    inside = record.candidates[5].design
    known, wider = published("rfdn"), replace(inside.architecture, width=10)
    yield Candidate(0, inside, kind="trained", parent=5, origin="candidate 5, trained longer")
    yield Candidate(0, known, kind="published", origin="published network")
    yield Candidate(0, known, origin="published network that lies outside")
    yield Candidate(0, Design(wider), parent=5, origin="a child that left the space")


# ---- do they learn?


@cache
def explored(name, seed, evaluations=150):
    """The hypervolume after so many different networks, where each block type has a worth and a cost of its own."""
    draw, weights = Random(f"landscape {seed}"), np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    worth, cost = ({name: draw.random() for name in TYPES} for _ in range(2))
    seen, known = [], set()
    for number in range(evaluations):
        draws = (propose(name, PLAIN, seen, f"{seed}:{number}:{attempt}", Start(20)) for attempt in count())
        proposal = next(p for p in draws if p.architecture.hash not in known)
        known.add(proposal.architecture.hash)
        wide, types = proposal.architecture.width / 32, [block.type for block in proposal.architecture.blocks]
        quality = np.average([worth[name] for name in types], weights=weights) * wide**0.5
        points = (float(1 - quality), float(np.mean([cost[name] for name in types]) * wide))
        seen.append(Seen(number, proposal.architecture, "complete", points, proposal.memory))
    return hypervolume(np.array([s.points for s in seen]), np.ones(2))


def test_nsga2_breeds_from_networks_it_did_not_propose():
    # Optuna overlooks trials without a generation: published networks of the start would teach it nothing.
    residual = seen_of(Space((plain("residual"),), PLAIN.widths, (6,)), 20)
    types = [block.type for key in range(10) for block in propose("nsga2", PLAIN, residual, key).architecture.blocks]
    assert types.count("residual") / len(types) > 0.6  # 0.2 by chance
    later = [replace(s, memory={GENERATION: 0} if s.number < 10 else {}) for s in residual]
    assert propose("nsga2", PLAIN, later, 0) == propose("nsga2", PLAIN, residual, 0)


def test_nsga2_remembers_its_generation():
    seen = []
    for number in range(45):
        proposal = propose("nsga2", PLAIN, seen, number)
        points = (Random(number).random(), Random(-number).random())
        seen.append(Seen(number, proposal.architecture, "complete", points, proposal.memory))
    generations = [s.memory[GENERATION] for s in seen]
    assert generations == [0] * 20 + [1] * 20 + [2] * 5


def test_tpe_sees_the_latest_and_the_best_by_front(monkeypatch):
    shown = []
    monkeypatch.setattr(optuna_samplers, "TPE_SEES", 8)
    ask = optuna_samplers._ask
    monkeypatch.setattr(optuna_samplers, "_ask", lambda s, space, seen, d: shown.extend(seen) or ask(s, space, seen, d))
    seen = seen_of(PLAIN, 20)
    # Of the first, 2 and 9 make the front, though their numbers add up to more than those of the others do.
    for number, points in {2: (-1e-3, 50.0), 9: (50.0, -1e-3)}.items():
        seen[number] = replace(seen[number], points=points)
    assert propose("tpe", PLAIN, seen, 0).architecture in PLAIN
    numbers = [s.number for s in shown]
    assert len(numbers) == 8
    assert numbers[4:] == [16, 17, 18, 19]
    assert {2, 9} < set(numbers)
    assert all(a < b for a, b in pairwise(numbers))


# ---- the start, and evolution's parts


def begun(space, start, state_of=lambda architecture: "complete", count=60):
    """What the start proposes, one after another, until it is over."""
    seen = []
    for number in range(count):
        proposal = opened(space, seen, Random(number), start)
        if proposal is None:
            return seen
        seen.append(Seen(number, proposal.architecture, state_of(proposal.architecture), None))
    return seen


def test_the_start_tries_every_block_type_and_ends():
    seen = begun(WIDE, Start(12))
    assert len(seen) == 12
    assert [s.types for s in seen[: len(BLOCKS)]] == [{name} for name in BLOCKS]


def test_what_is_pruned_does_not_count_for_the_start():
    seen = begun(WIDE, Start(12), lambda a: "pruned" if a.width == 24 else "complete")
    alive = [s for s in seen if s.state != "pruned"]
    assert len(alive) == 12 < len(seen)
    assert set().union(*(s.types for s in alive)) == set(BLOCKS)


def test_a_block_type_that_breaks_the_limits_by_itself_does_not_hold_up_the_start():
    seen = begun(WIDE, Start(12), lambda a: "pruned" if any(b.type == "residual" for b in a.blocks) else "complete")
    alive = [s for s in seen if s.state != "pruned"]
    assert len(alive) == 12
    assert set().union(*(s.types for s in alive)) == set(BLOCKS) - {"residual"}
    assert sum(s.types == {"residual"} for s in seen) >= samplers_room.FORCED


def test_evolution_goes_on_from_what_it_has_measured():
    seen = seen_of(WIDE, 30)
    origins = [propose("evolution", WIDE, seen, key).origin for key in range(30)]
    assert all(origin.startswith(("child of", "cross of")) for origin in origins)
    assert {origin.split(" ")[0] for origin in origins} == {"child", "cross"}
    assert propose("evolution", WIDE, seen_of(WIDE, 30, "failed"), 0).origin == "start: random"


def test_the_population_is_the_best_by_front_then_by_crowding():
    architecture = PLAIN.sample(Random(0))
    front = [(i / 30, 1 - i / 30) for i in range(31)]
    points = [(2.0, 2.0), *front]
    seen = [Seen(i, architecture, "complete", p) for i, p in enumerate(points)]
    best = population(seen)
    assert len(best) == samplers_room.POPULATION
    assert {best[0].number, best[1].number} == {1, 31}  # the extremes of the front
    assert all(s.number for s in best)  # not the one that all others dominate
    few = population(seen[:3])
    assert [s.number for s in few] == [1, 2, 0]
