"""What tests of whole and of cut networks share: networks that look trained, the difference that counts, plans."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paretosr.pruning.verify import masked
from paretosr.spaces import Architecture, Design, build, inference_form
from paretosr.spaces.flow import FORMS, Flow, compact, trace, without_batch_norm
from paretosr.spaces.plan import Plan, Sides, widths

ANY = "0" * 12
SHARES = (0.9, 0.5, 0.1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_plan(network: nn.Module, seed: int, architecture: str = ANY) -> Plan:
    """Independent sides of one share, or of one each; 3 % wholly dead convolutions; in every third plan an order."""
    draw = random.Random(seed)
    kept: dict[str, Sides] = {}

    def side(width: int) -> tuple[int, ...]:
        share = draw.choice((*SHARES, 1.0)) if seed % 4 == 3 else SHARES[seed % 4]
        return tuple(channel for channel in range(width) if draw.random() < share)

    for name, (outputs, inputs) in widths(network).items():
        out, into = side(outputs), side(inputs)
        if draw.random() < 0.03:
            out, into = ((), into) if draw.random() < 0.5 else (out, ())
        kept[name] = (out, into)
    shuffled = {name: tuple(draw.sample(out, len(out))) for name, (out, _) in kept.items()}
    return Plan(architecture, kept, shuffled if seed % 3 == 0 else {})


def half(network: nn.Module, architecture: str = ANY) -> Plan:
    """Every other channel of each convolution but those that see three colours or make them."""
    kept: dict[str, Sides] = {}
    for name, (outputs, inputs) in widths(network).items():
        step = 1 if 48 in (outputs, inputs) or 3 in (outputs, inputs) else 2
        kept[name] = tuple(range(0, outputs, step)), tuple(range(0, inputs, step))
    return Plan(architecture, kept)


def lived_in(network: nn.Module, *, jumps: bool = True) -> nn.Module:
    """The network in float64 and eval mode, with weights and statistics as after a training.

    With `jumps=False` activations that jump between two values keep their first weights, with which they do not.
    """
    network = network.double().eval()
    generator = torch.Generator().manual_seed(2)
    still = set() if jumps else {p for m in network.modules() if hasattr(m, "jumps") for p in m.parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and parameter not in still:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
                module.get_buffer("running_var").uniform_(0.5, 2, generator=generator)
    return network


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number wanted."""
    assert found.shape == wanted.shape
    largest = float(wanted.abs().max())
    gap = float((found - wanted).abs().max())
    return gap / largest if largest else gap


SIZES = ((17, 15), (16, 16), (15, 20), (21, 17))
LIMITS = {torch.float64: 1e-12, torch.float32: 5e-6}


def assert_exact(
    network: nn.Module,
    plans: list[Plan],
    dtype: torch.dtype = torch.float64,
    *,
    forms: Sequence[str] = tuple(FORMS),
    in_turn: bool = False,
    flow: Flow | None = None,
) -> None:
    """All forms of all plans against the masked network, which comes in float64; `flow` is its own, if it is there.

    `in_turn`: one form for each plan, both layouts. In float32, where folding rounds, batch norm is folded in both.
    """
    flow, least = flow or trace(network), int(getattr(network, "minimum_size", 1))
    network = network if dtype == torch.float64 else without_batch_norm(network).to(dtype)
    for number, plan in enumerate(plans):
        height, width = (max(side, least) for side in SIZES[number % len(SIZES)])
        x = noise(1 + number % 2, 3, height, width, seed=number).to(dtype)
        with torch.no_grad(), masked(network, plan):
            wanted = network(x)
        for turn, form in enumerate(forms):
            if in_turn and turn != number % len(forms):
                continue
            small = compact(flow, plan, form).to(dtype)
            for channels_last in (False, True) if in_turn else ((number + turn) % 2 == 1,):
                memory = torch.channels_last if channels_last else torch.contiguous_format
                with torch.no_grad():
                    found = small(x.contiguous(memory_format=memory))
                assert difference(found, wanted) <= LIMITS[dtype], (number, form, memory)


def formed(design: Design | Architecture, *, jumps: bool = True) -> nn.Module:
    """The inference form of a network that looks trained, in float64."""
    return inference_form(lived_in(build(design, seed=1), jumps=jumps))
