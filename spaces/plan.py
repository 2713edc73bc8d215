"""A `Plan` says which channels of which convolution a pruned network keeps; nothing else is needed to cut it again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from .errors import InputError, unknown

Sides = tuple[tuple[int, ...], tuple[int, ...]]  # kept outputs, kept inputs

HASH_DIGITS = 12


@dataclass(frozen=True)
class Plan:
    """The channels that each convolution keeps, by its name in the network's inference form.

    architecture: the hash of the architecture that the plan is for, 12 hexadecimal digits.
    kept: name to (kept outputs, kept inputs), ascending indices; one that is not named keeps all. A convolution without
    a kept output or without a kept input is closed: it gives zeros, its bias included.
    order: the order in which a convolution's kept outputs lie in memory. A hint: the function is the same without.
    Raises InputError where the lists are not what they should be.
    """

    architecture: str
    kept: Mapping[str, Sides] = field(default_factory=dict)
    order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _is_hash(self.architecture):
            raise InputError(
                f"plan: 'architecture' must be {HASH_DIGITS} hexadecimal digits, not {self.architecture!r}"
            )
        kept = {name: _sides(name, self.kept[name]) for name in sorted(self.kept)}
        order = {name: _indices(f"order['{name}']", self.order[name]) for name in sorted(self.order)}
        for name, laid_out in order.items():
            if name not in kept or tuple(sorted(laid_out)) != kept[name][0]:
                raise InputError(f"plan: order['{name}'] must hold each kept output of '{name}' once")
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "order", order)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits; equal plans, equal hashes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]

    def __hash__(self) -> int:
        return hash(self.hash)

    def summary(self) -> str:
        """The plan in a few words: of how many convolutions it closes channels."""
        closed = sum(not outputs or not inputs for outputs, inputs in self.kept.values())
        entirely = f", {closed} of them closed" if closed else ""
        return f"{len(self.kept)} convolutions cut{entirely}"

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries; `from_json` takes them back."""
        return {
            "architecture": self.architecture,
            "kept": {name: [list(side) for side in sides] for name, sides in self.kept.items()},
            "order": {name: list(laid_out) for name, laid_out in self.order.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> "Plan":
        """The plan that `to_json` wrote; InputError names what is wrong."""
        if not isinstance(data, Mapping):
            raise InputError("plan: must be a mapping with the keys 'architecture' and 'kept'")
        for key in data:
            if key not in ("architecture", "kept", "order"):
                raise InputError(f"plan: {unknown('key of a plan', key, ('architecture', 'kept', 'order'))}")
        for key in ("architecture", "kept"):
            if key not in data:
                raise InputError(f"plan: the key '{key}' is missing")
        kept, order = data["kept"], data.get("order", {})
        for key, value in (("kept", kept), ("order", order)):
            if not isinstance(value, Mapping):
                raise InputError(f"plan: '{key}' must be a mapping from the names of convolutions to lists")
        return cls(data["architecture"], dict(kept), dict(order))


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file: a plan alone, or the design of a pruned network; InputError names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON; a plan is the plan.json of an exported pruned network") from None
    # A design names its architecture in full, a plan by its hash.
    is_design = isinstance(data, dict) and "kept" not in data and not isinstance(data.get("architecture", ""), str)
    is_architecture = isinstance(data, dict) and ("blocks" in data or "system" in data)
    if (is_design and data.get("plan") is None) or is_architecture:
        raise InputError(f"{path}: holds a network but no plan: that network is not pruned")
    try:
        return Plan.from_json(data["plan"] if is_design else data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check(plan: Plan, network: nn.Module, architecture: str | None = None) -> None:
    """Raises InputError unless the plan fits `network`, which is in its inference form.

    `architecture` is the hash of what the network was built from; None where that is not known.
    """
    if architecture is not None and plan.architecture != architecture:
        raise InputError(f"plan: is for the architecture {plan.architecture}, not for {architecture}")
    there = widths(network)
    for name, (outputs, inputs) in plan.kept.items():
        if name not in there:
            raise InputError(f"plan: {unknown('convolution', name, there)}")
        for side, indices, width in zip(("outputs", "inputs"), (outputs, inputs), there[name], strict=True):
            if indices and indices[-1] >= width:
                raise InputError(f"plan: '{name}' has {width} {side}; there is no {side[:-1]} {indices[-1]}")


def widths(network: nn.Module) -> dict[str, tuple[int, int]]:
    """What a plan can name: the convolutions and linear layers of a network, with their outputs and inputs."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            found[name] = (module.out_channels, module.in_channels)
        elif isinstance(module, nn.Linear):
            found[name] = (module.out_features, module.in_features)
    return found


def _is_hash(given: object) -> bool:
    return isinstance(given, str) and len(given) == HASH_DIGITS and set(given) <= set("0123456789abcdef")


def _sides(name: object, given: Any) -> Sides:
    """Both sides of one convolution."""
    if not isinstance(name, str) or not _is_list(given) or len(given) != 2:
        raise InputError(f"plan: kept[{name!r}] must be two lists, of the kept outputs and of the kept inputs")
    sides = [_indices(f"kept['{name}'][{place}]", side) for place, side in enumerate(given)]
    for place, side in enumerate(sides):
        if any(later <= earlier for earlier, later in pairwise(side)):
            raise InputError(f"plan: kept['{name}'][{place}] must ascend, each channel once")
    return sides[0], sides[1]


def _indices(where: str, given: Any) -> tuple[int, ...]:
    """A list of channels."""
    if not _is_list(given) or not all(type(index) is int and index >= 0 for index in given):
        raise InputError(f"plan: {where} must be a list of channels, whole numbers from 0 on")
    return tuple(given)


def _is_list(given: object) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)
