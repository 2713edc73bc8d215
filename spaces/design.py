"""A `Design` is what it takes to build one network; `build` is the one place where networks are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .architecture import Architecture, member
from .errors import InputError
from .network import Network

LAST_SCALE = 0.3


@dataclass(frozen=True)
class Design:
    """An architecture, and for a pruned network its plan (kept channels per convolution; none are made yet)."""

    architecture: Architecture
    plan: None = None

    @property
    def hash(self) -> str:
        """12 hexadecimal digits; equal designs build the same graph."""
        return self.architecture.hash

    def summary(self) -> str:
        """The network in one line."""
        return self.architecture.summary()

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries; `from_json` takes them back."""
        return {"architecture": self.architecture.to_json(), "plan": self.plan}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Design":
        """The design that `to_json` wrote; InputError names what is wrong."""
        if not isinstance(data, Mapping) or "architecture" not in data:
            raise InputError("design: must be a mapping with the key 'architecture'")
        for key in data:
            member("key of a design", key, ("architecture", "plan"))
        if data.get("plan") is not None:
            raise InputError("design: this version builds no pruned networks ('plan' must be null)")
        return cls(Architecture.from_json(data["architecture"]))


def build(design: Design | Architecture, *, seed: int = 0, device: str | torch.device = "cpu") -> Network:
    """Builds the network of a design, with weights that depend on `seed` alone; on the meta device, without weights.

    The weights are drawn on the CPU from a generator of their own (the global random state is neither read nor
    moved), uniform within 1 / sqrt(fan-in), biases 0. The last convolution starts smaller, so that the image skip
    leads at first: with 400 steps that and the zero biases were worth 0.3 dB on the embedded photos.
    """
    architecture = (design.architecture if isinstance(design, Design) else design).canonical()
    if torch.device(device).type == "meta":
        with torch.device("meta"):
            return Network(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # for what is not drawn again below; `torch.manual_seed` moves CUDA's
        network = Network(architecture)
    generator = torch.Generator().manual_seed(seed)
    last = [module for module in network.upsampler.modules() if isinstance(module, nn.Conv2d)][-1]
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            bound = (LAST_SCALE if module is last else 1) / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.to(device)
