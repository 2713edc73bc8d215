"""Samplers: each is a function from what has been seen to the next proposal.

A new one: write it, name it in `SAMPLERS`.

A sampler holds no state. It is shown the candidates whose genome lies in the space, in order of their numbers, and a
`random.Random` keyed by (seed, candidate number, attempt): the same record gives the same proposal, in a run that was
stopped and one that was not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random

import numpy as np

from ..spaces import Architecture, Space
from .front import crowding, layers
from .nni_samplers import nni_anneal, nni_tpe
from .optuna_samplers import nsga2, tpe
from .seen import Proposal, Seen

POPULATION = 20
FORCED = 3  # networks of one block type alone that may break a limit before the start goes on without that type
CROSSOVER = 0.4
SECOND_MUTATION = 0.4


@dataclass(frozen=True)
class Start:
    """How a search begins: with these known networks, then with random ones, `count` in all."""

    count: int = 24
    known: tuple[Architecture, ...] = field(default_factory=tuple)


Sampler = Callable[[Space, Sequence[Seen], Random, Start, Sequence[str]], Proposal]


def evolution(space: Space, seen: Sequence[Seen], random: Random, start: Start, directions: Sequence[str]) -> Proposal:
    """Our own: parents by tournament on (front, crowding), crossed or not, one or two block-level mutations.

    Source: the recipe of the prototype (population 20 beat 10, 40, 80 on a synthetic landscape; crossover was neutral).
    """
    opening = opened(space, seen, random, start)
    measured = [s for s in seen if s.points is not None]
    if opening is not None or not measured:
        return opening or Proposal(space.sample(random), "start: random", guided=False)
    parents = population(measured)
    first, second = _tournament(parents, random), _tournament(parents, random)
    child, words = first.architecture, f"child of {first.number}"
    if random.random() < CROSSOVER and second.number != first.number:
        child, words = space.cross(child, second.architecture, random), f"cross of {first.number} and {second.number}"
    for _ in range(2 if random.random() < SECOND_MUTATION else 1):
        child, change = space.mutate(child, random)
        words += f", {change}"
    return Proposal(child, words)


def opened(space: Space, seen: Sequence[Seen], random: Random, start: Start) -> Proposal | None:
    """The next network of the start: known ones first, then one of each block type alone, then random; None when over.

    A type that no network has yet may break the limits by itself: after FORCED tries the start goes on without it.
    """
    tried = {s.architecture.hash for s in seen} if start.known else set[str]()
    for known in start.known:
        if known in space and known.hash not in tried:
            return Proposal(known.canonical(), "start: published network", guided=False)
    alive = list(islice((s for s in seen if s.state != "pruned"), start.count))
    if len(alive) >= start.count:
        return None
    for block in space.blocks:
        tries = sum(s.types == {block.type} for s in seen)
        if tries < FORCED and not any(block.type in s.types for s in alive):
            return Proposal(space.sample(random, only_type=block.type), f"start: all {block.type}", guided=False)
    return Proposal(space.sample(random), "start: random", guided=False)


def population(measured: Sequence[Seen]) -> list[Seen]:
    """The best POPULATION of the measured ones, best first: by front, then by crowding."""
    points = np.array([s.points for s in measured], dtype=np.float64)
    rank = layers(points)
    # Only the fronts that reach into the population are told apart further.
    last = int(np.sort(rank)[min(POPULATION, len(rank)) - 1])
    spread = np.zeros(len(points))
    for layer in range(last + 1):
        members = rank == layer
        spread[members] = crowding(points[members])
    best = np.flatnonzero(rank <= last).tolist()
    order = sorted(best, key=lambda i: (rank[i], -spread[i], measured[i].number))
    return [measured[i] for i in order[:POPULATION]]


def _tournament(parents: Sequence[Seen], random: Random) -> Seen:
    """The better of two; parents stand best first."""
    return parents[min(random.randrange(len(parents)), random.randrange(len(parents)))]


def uniform(space: Space, seen: Sequence[Seen], random: Random, start: Start, directions: Sequence[str]) -> Proposal:
    """Random search: every proposal an independent draw (after the known networks of the start)."""
    return opened(space, seen, random, Start(0, start.known)) or Proposal(space.sample(random), "random")


def _after_known(of: Callable[..., Proposal]) -> Sampler:
    def propose(
        space: Space, seen: Sequence[Seen], random: Random, start: Start, directions: Sequence[str]
    ) -> Proposal:
        known = opened(space, seen, random, Start(0, start.known))
        return known or of(space, seen, random.getrandbits(31), directions)

    return propose


SAMPLERS: Mapping[str, Sampler] = {
    "evolution": evolution,
    "nsga2": _after_known(nsga2),
    "tpe": _after_known(tpe),
    "random": uniform,
    "nni_tpe": _after_known(nni_tpe),
    "nni_anneal": _after_known(nni_anneal),
}
