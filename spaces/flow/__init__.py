"""The channel flow of a network: which convolution makes and reads which channel, and how a plan is cut, exactly."""

from .branches import Branch, passes_image
from .compact import Compact, compact
from .live import Live, live, settled
from .primitives import FORMS
from .slots import Member, Slot, Slots, closed, slots
from .trace import Flow, trace, without_batch_norm

__all__ = [
    "FORMS",
    "Branch",
    "Compact",
    "Flow",
    "Live",
    "Member",
    "Slot",
    "Slots",
    "barriers",
    "closed",
    "compact",
    "live",
    "passes_image",
    "settled",
    "slots",
    "trace",
    "without_batch_norm",
]


def barriers(flow: Flow) -> list[tuple[str, str]]:
    """The operations that channels do not pass: the name of the node and the reason. Exact, but full width."""
    return flow.barriers()
