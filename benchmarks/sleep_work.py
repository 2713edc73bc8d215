"""The work of `ray_engine.py`, in a file that its workers can import, as they import the real ones."""

import os
import time
from dataclasses import dataclass
from typing import Any

from paretosr.proxies.work import Report, Stop


@dataclass(frozen=True)
class Sleep:
    """A work that sleeps, and asks now and then whether to stop."""

    seconds: float
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any]:
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))
            stop()
        return {"pid": os.getpid()}
