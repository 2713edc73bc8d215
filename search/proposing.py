"""How the next network comes about: the sampler asked until it names one that is not known, and which of several."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random

from ..spaces import Design, Space
from .prefilter import chosen
from .samplers import SAMPLERS
from .seen import Proposal, Seen
from .settings import Settings

REDRAWS = 50  # attempts at a network not yet known, before looking for one at random
RANDOM_DRAWS = 20_000  # and of these, before the space counts as exhausted

Count = Callable[[Design], Mapping[str, float]]


class Exhausted(Exception):
    """The search cannot go on, for the reason in the message; what it has is recorded.

    exit_code: 0 where it has tried everything, 2 where the recipe asks for what the space does not hold, 1 otherwise.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def next_proposal(settings: Settings, seen: Sequence[Seen], known: Collection[str], count: Count) -> Proposal:
    """A network that is not known yet, from the sampler; from a random draw where it only repeats itself.

    The draw is keyed by how many candidates the sampler has seen, not by how many records there are: one that does not
    belong to the space moves nothing. known: hashes of all networks that were tried. Raises Exhausted.
    """
    space = settings.space
    assert space is not None  # without one nothing is proposed
    if len(known) >= space.size:
        raise Exhausted(f"all {space.size} networks of the space have been tried", 0)
    proposals = _proposals(settings, space, seen, known)
    if settings.prefilter is None:
        return next(proposals)
    several = [next(proposals)]
    # A random draw, or one of the start, is not weighed against others: it is there to see what nobody expects.
    while several[-1].guided and len(several) < settings.prefilter.proposals:
        try:
            more = next(proposals)
        except Exhausted:  # these are the last
            break
        if not more.guided:
            break
        several.append(more)
    return chosen(settings.prefilter, space, settings.objectives, several, seen, count)


def _proposals(settings: Settings, space: Space, seen: Sequence[Seen], known: Collection[str]) -> Iterator[Proposal]:
    """Different networks that are not known, without an end but Exhausted."""
    number, given = len(seen), set[str]()
    for attempt in range(REDRAWS):
        random = Random(f"{settings.seed}:{number}:{attempt}")
        proposal = SAMPLERS[settings.sampler](space, seen, random, settings.start, settings.objectives)
        if proposal.architecture.hash not in known and proposal.architecture.hash not in given:
            given.add(proposal.architecture.hash)
            yield proposal
    random = Random(f"{settings.seed}:{number}:random")
    for _ in range(RANDOM_DRAWS):
        architecture = space.sample(random)
        if architecture.hash not in known and architecture.hash not in given:
            given.add(architecture.hash)
            yield Proposal(architecture, "random: the sampler repeated itself", guided=False)
    raise Exhausted(f"no network was found that has not been tried; the space holds {space.size}", 0)
