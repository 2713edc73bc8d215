"""What is known of a published network: a row of `SYSTEMS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..architecture import Architecture

BASES = ("code", "reading", "placeholder", "not described")


@dataclass(frozen=True)
class System:
    """A published network: what builds it, where it comes from, and how sure that is.

    network: an architecture of the search space where it can be written as one, otherwise the class of its module;
    None where nothing can be built, and then `why_not` says why. The module takes and gives what `Network` does and has
    a `minimum_size`; it is built in its training form (`inference_form` gives the other one).
    team: its row in Table 1 of the AIM 2020 report, empty where it has none. title: its name as people write it.
    source: paper and code. idea: what is new in it, in a line. basis: one of `BASES`: the authors' code was read; a
    structure proposed here that fits the report's text and counts; a stand-in where the report says too little.
    note: what a reader of its counts must know.
    renamed: pairs (pattern, replacement) for `re.fullmatch`, from the authors' module path to ours; none where weights
    are only known under our own names.
    """

    network: Architecture | Callable[[], nn.Module] | None
    title: str
    source: str
    idea: str
    team: str = ""
    basis: str = "code"
    note: str = ""
    why_not: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
