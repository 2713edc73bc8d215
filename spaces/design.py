"""A `Design` is what it takes to build one network; `build` is the one place where networks are made."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from .architecture import Architecture, member
from .errors import InputError
from .flow import compact
from .forms import inference_form
from .network import Network, check_size
from .plan import HASH_DIGITS, Plan
from .systems import NETWORKS

LAST_SCALE = 0.3


@dataclass(frozen=True)
class Published:
    """A published network that is a module of its own and no architecture of the space: its name in `NETWORKS`."""

    name: str

    def __post_init__(self) -> None:
        member("published network", self.name, (name for name in NETWORKS if is_module(name)))

    def canonical(self) -> "Published":
        """Itself: a name has one spelling."""
        return self

    @property
    def hash(self) -> str:
        """12 hexadecimal digits, from the name."""
        return hashlib.sha256(f"published:{self.name}".encode()).hexdigest()[:12]

    def summary(self) -> str:
        """The network in a few words."""
        return f"{NETWORKS[self.name].title}, as published"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {"system": self.name}


@dataclass(frozen=True)
class Design:
    """What builds one network, and for a pruned network its plan: which channels each convolution keeps.

    InputError for a plan that is for another architecture.
    """

    architecture: Architecture | Published
    plan: Plan | None = None

    def __post_init__(self) -> None:
        if self.plan is not None and self.plan.architecture != self.architecture.hash:
            raise InputError(
                f"design: the plan is for the architecture {self.plan.architecture}, not for {self.architecture.hash}"
            )

    @property
    def hash(self) -> str:
        """12 hexadecimal digits; equal designs build the same graph."""
        if self.plan is None:
            return self.architecture.hash
        return hashlib.sha256(f"{self.architecture.hash}:{self.plan.hash}".encode()).hexdigest()[:HASH_DIGITS]

    def summary(self) -> str:
        """The network in one line."""
        words = self.architecture.summary()
        if self.plan is None:
            return words
        return f"pruned, {self.plan.summary()}: {words.removesuffix(', as published')}"

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries; `from_json` takes them back."""
        plan = None if self.plan is None else self.plan.to_json()
        return {"architecture": self.architecture.to_json(), "plan": plan}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Design":
        """The design that `to_json` wrote; InputError names what is wrong."""
        if not isinstance(data, Mapping) or "architecture" not in data:
            raise InputError("design: must be a mapping with the key 'architecture'")
        for key in data:
            member("key of a design", key, ("architecture", "plan"))
        given, plan = data["architecture"], data.get("plan")
        is_name = isinstance(given, Mapping) and list(given) == ["system"]
        architecture = Published(given["system"]) if is_name else Architecture.from_json(given)
        return cls(architecture, None if plan is None else Plan.from_json(plan))


def is_module(name: str) -> bool:
    """Whether the published network `name` is built from a module of its own."""
    network = NETWORKS[name].network
    return network is not None and not isinstance(network, Architecture)


def published(name: str) -> Design:
    """The design of a published network by its name; InputError where there is none, or none that can be built."""
    system = NETWORKS[member("published network", name, NETWORKS)]
    if system.network is None:
        raise InputError(f"the published network '{name}' cannot be built: {system.why_not}")
    return Design(system.network if isinstance(system.network, Architecture) else Published(name))


def published_architecture(name: str) -> Architecture:
    """The architecture of a published network; InputError where it is none of the space's."""
    design = published(name)
    if isinstance(design.architecture, Published):
        raise InputError(f"the published network '{name}' is a module of its own, not an architecture of blocks")
    return design.architecture


def read_design(path: Path) -> Design:
    """The design in a JSON file, which may hold the architecture alone; InputError names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        is_design = isinstance(data, dict) and "architecture" in data
        return Design.from_json(data if is_design else {"architecture": data})
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON; a network is the architecture.json of an export") from None


def build(design: Design | Architecture | Published, *, seed: int = 0, device: str | torch.device = "cpu") -> Network:
    """Builds the network of a design in its training form, with weights that depend on `seed` alone.

    On the meta device, without weights. A published network with a module of its own has that class in place of
    `Network`, and takes and gives the same.

    The weights are drawn on the CPU from a generator of their own (the global random state is neither read nor
    moved), uniform within 1 / sqrt(fan-in), biases 0. The last convolution starts smaller, so that the image skip
    leads at first: with 400 steps that and the zero biases were worth 0.3 dB on the embedded photos.

    A design with a plan gives what the plan leaves of that network's inference form (`flow.compact`), with weights that
    are drawn for its own widths.
    """
    if isinstance(design, Design) and design.plan is not None:
        uncut = inference_form(build(design.architecture, seed=seed, device=device))
        cut = compact(uncut, design.plan).train()
        if torch.device(device).type != "meta":
            _draw_weights(cut, torch.Generator().manual_seed(seed))
        return cut  # type: ignore[return-value]
    architecture = (design.architecture if isinstance(design, Design) else design).canonical()
    if torch.device(device).type == "meta":
        with _Unfilled(), torch.device("meta"):
            return _unweighted(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # for what is not drawn again below; `torch.manual_seed` moves CUDA's
        network = _unweighted(architecture)
    _draw_weights(network, torch.Generator().manual_seed(seed))
    return network.to(device)


def deployed(design: Design, network: nn.Module, form: str = "run") -> Any:
    """The network of a design, with the weights of `network` (its training form), as it is run: a copy, in eval mode.

    form: of `FORMS`, for a cut network, whose graph differs in them; others have one inference form.
    """
    if design.plan is None:
        return inference_form(network)
    made = compact(inference_form(build(design.architecture)), design.plan, form)
    like = next(network.parameters(), None)  # a plan may leave none
    if like is not None:
        made = made.to(like.device, like.dtype)
    made.load_state_dict(network.state_dict())
    return made.eval()


class _Unfilled(TorchFunctionMode):
    """Leaves out the initial weights: on the meta device a third of the time of making a network, for nothing."""

    FILLS = frozenset({nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, nn.init.constant_})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.FILLS:
            return args[0] if args else kwargs["tensor"]  # type: ignore[index]
        return func(*args, **(kwargs or {}))


def _unweighted(architecture: Architecture | Published) -> Any:
    """The network, with whatever weights its modules come with."""
    if isinstance(architecture, Architecture):
        network: nn.Module = Network(architecture)
    else:
        network = NETWORKS[architecture.name].network()  # type: ignore[misc,operator]
    # A hook, not a line of forward: tracers do not see it, so that exports keep height and width free.
    network.register_forward_pre_hook(check_size)
    return network


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draws the weights of all convolutions that train; a weight under weight norm too, direction and length."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and trains(m)]
    for module in convolutions:
        fan_in = module.in_channels // module.groups * math.prod(module.kernel_size)
        bound = (LAST_SCALE if module is convolutions[-1] else 1) / math.sqrt(fan_in)
        drawn = torch.empty(module.weight.shape).uniform_(-bound, bound, generator=generator)
        if parametrize.is_parametrized(module, "weight"):
            module.weight = drawn  # type: ignore[assignment]  # the parametrisation splits it
        else:
            module.weight.data.copy_(drawn)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def trains(module: nn.Module) -> bool:
    """Whether any weight of the module is there to be trained."""
    return any(parameter.requires_grad for parameter in module.parameters())
