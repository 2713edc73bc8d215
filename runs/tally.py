"""How far a run is, counted from what changes in its record: candidates by state, rungs, throughput, time left.

Nothing is counted anew at an event, so that a run of ten thousand candidates costs its driver no more than a short one.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ..search.candidate import STATES, TRAINED_ALIKE, Candidate
from ..search.study import Record

WINDOW_S = 1800.0  # throughput is that of the last so many seconds of this life
FEWEST_S = 5.0  # of a shorter time none is said


class Tally:
    """Counts of a record; `renew` brings them up to date and gives what changed."""

    def __init__(self, record: Record, clock: Callable[[], float] = time.monotonic) -> None:
        self.record, self.clock = record, clock
        self.kinds: Counter[tuple[str, str]] = Counter()  # (kind, state)
        self.reached: Counter[int] = Counter()  # candidates measured at each rung, by its steps
        self._known: dict[int, Candidate] = {}
        self._mark = 0
        self._events: deque[tuple[float, int, int]] = deque()  # when, networks newly trained, training steps
        self.renew()
        self._events.clear()  # what an earlier life did says nothing about this one's pace
        self._since = clock()

    def renew(self) -> list[Candidate]:
        """Counts what has changed since the last time; the candidates that changed, as they are now."""
        self._mark, numbers = self.record.changes(self._mark)
        candidates = self.record.candidates if numbers else ()
        changed = [candidates[number] for number in dict.fromkeys(numbers)]
        for candidate in changed:
            self._count(candidate)
        return changed

    def _count(self, c: Candidate) -> None:
        before = self._known.get(c.number)
        if before is not None:
            self.kinds[before.kind, before.state] -= 1
        self.kinds[c.kind, c.state] += 1
        self.reached.update(steps for steps, _ in c.rungs[len(before.rungs) if before else 0 :])
        networks = (trained_steps(c) > 0) - (before is not None and trained_steps(before) > 0)
        steps = trained_steps(c) - (trained_steps(before) if before else 0)
        if steps > 0:
            self._events.append((self.clock(), networks, steps))
        self._known[c.number] = c

    def states(self) -> dict[str, int]:
        """How many networks that are searched for, or published beside them, are in each state."""
        counts = {state: sum(self.kinds[kind, state] for kind in TRAINED_ALIKE) for state in STATES}
        return {state: count for state, count in counts.items() if state != "paused" or self.reached}

    def count(self, kinds: tuple[str, ...], *states: str) -> int:
        """How many candidates of these kinds are in these states."""
        return sum(self.kinds[kind, state] for kind in kinds for state in states)

    def rungs(self) -> list[dict[str, int]]:
        """For each rung, rising, how many networks were measured there."""
        return [{"steps": steps, "reached": self.reached[steps]} for steps in sorted(self.reached)]

    def pace(self) -> dict[str, float] | None:
        """Networks an hour and training steps a second, over the last WINDOW_S of this life; None at its beginning."""
        now = self.clock()
        while self._events and self._events[0][0] < now - WINDOW_S:
            self._events.popleft()
        span_s = min(now - self._since, WINDOW_S)
        if span_s < FEWEST_S or not self._events:
            return None
        networks = sum(event[1] for event in self._events)
        steps = sum(event[2] for event in self._events)
        return {"networks_per_h": round(3600 * networks / span_s, 2), "steps_per_s": round(steps / span_s, 2)}


def trained_steps(c: Candidate) -> int:
    """Training steps that a candidate has had, as far as they are recorded."""
    if c.rungs:
        return c.rungs[-1][0]
    return int(c.details.get("steps") or 0) if c.state == "complete" else 0


def left_s(pace: dict[str, Any] | None, missing: int) -> float | None:
    """Seconds until so many more networks are trained; None where that cannot be said."""
    if pace is None or not pace["networks_per_h"]:
        return None
    return round(3600 * missing / pace["networks_per_h"], 1)
