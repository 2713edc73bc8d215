"""What the loop must know of the record at every event, kept up to date as candidates change and never recomputed."""

from dataclasses import replace

from .candidate import Candidate
from .objectives import matrix
from .seen import Seen
from .settings import Settings
from .study import Record, belongs

TRAINED = ("complete", "paused")


class View:
    """The candidates of the search as the sampler sees them, and how far they are trained.

    What has been written to the record since is taken in whenever it is asked.
    """

    def __init__(self, record: Record, settings: Settings, whole: int) -> None:
        """`whole` is the number of steps of a whole training."""
        self.record, self.settings, self.whole = record, settings, whole
        self._mark = self._steps = 0
        self._steps_of: dict[int, int] = {}
        self._trained: set[int] = set()  # the candidates of the search that are trained, to whatever rung
        self._seen: dict[int, Seen] = {}

    @property
    def seen(self) -> list[Seen]:
        """What the sampler is shown, in order of the numbers: the candidates whose genome lies in the space."""
        self._renew()
        return list(self._seen.values())

    @property
    def trained(self) -> int:
        """How many candidates of the search are trained, to whatever rung."""
        self._renew()
        return len(self._trained)

    @property
    def steps(self) -> int:
        """The steps that these have had in all, and those that failed on their way from a rung, up to that rung."""
        self._renew()
        return self._steps

    def _renew(self) -> None:
        self._mark, numbers = self.record.changes(self._mark)
        candidates = self.record.candidates if numbers else ()
        for number in dict.fromkeys(numbers):
            self._note(candidates[number])

    def _note(self, candidate: Candidate) -> None:
        self._steps -= self._steps_of.pop(candidate.number, 0)
        self._trained.discard(candidate.number)
        if candidate.kind == "search" and candidate.state in TRAINED:
            self._trained.add(candidate.number)
            self._steps_of[candidate.number] = candidate.target or self.whole
        elif candidate.kind == "search" and candidate.state == "failed" and candidate.rungs:
            self._steps_of[candidate.number] = candidate.rungs[-1][0]
        self._steps += self._steps_of.get(candidate.number, 0)
        if candidate.number in self._seen or belongs(candidate, self.settings.space):
            self._seen[candidate.number] = self._as_seen(candidate)

    def _as_seen(self, c: Candidate) -> Seen:
        # What a rung gave is shown as it is: samplers learn more from early PSNR than from none.
        known = replace(c, numbers={**c.numbers, "psnr_db": c.rungs[-1][1]}) if c.rungs else c
        measured = c.state == "complete" or bool(c.rungs)
        points = tuple(matrix([known], self.settings.objectives)[0]) if measured else None
        state, memory = "complete" if measured else c.state, self.record.memory(c.number)
        share = c.rungs[-1][0] / self.whole if c.rungs else 1.0
        return Seen(c.number, c.design.architecture, state, points, memory, share)  # type: ignore[arg-type]
