"""Criteria: how much each channel matters, by convolution and side. A new one: write it, name it in `CRITERIA`.

A criterion is a function `(network, gates, batches, loss, generator)` that gives scores: for each gated convolution
those of its outputs `[O]` and of its inputs `[I]`, or None where it has no gates on them. Higher matters more, and a
closed channel scores 0. `batches` are pairs of images, low and high resolution, `[N, 3, h, w]` and `[N, 3, 4h, 4w]`;
`loss` takes what the network gives and the original. A criterion that reads weights alone needs no batch, and one
that draws nothing leaves the generator alone. The network is run in eval mode and left exactly as it was found.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..proxies.training import TrainingFailed
from ..spaces import InputError
from ..spaces.flow import Branch
from .gates import Gates

Scores = Mapping[str, tuple[Tensor, Tensor | None]]
Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Criterion = Callable[[nn.Module, Gates, Batches, Loss, torch.Generator], Scores]


def taylor_gate(network: nn.Module, gates: Gates, batches: Batches, loss: Loss, generator: torch.Generator) -> Scores:
    """What closing a channel would change the loss by, to first order: the sum over batches of |gate x gradient|.

    Source: You et al. 2019, "Gate Decorator", eq. 6 and 7; Molchanov et al. 2019, "Importance Estimation for Neural
    Network Pruning", section 3.2.
    """
    parameters = list(gates.parameters())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for gradients in gradients_of(network, parameters, batches, loss):
        for total, parameter, gradient in zip(sums, parameters, gradients, strict=True):
            total += (parameter.detach() * gradient).abs()
    found = iter(sums)
    return {name: (next(found), None if gate.into is None else next(found)) for name, gate in gates.items()}


def taylor_weight(network: nn.Module, gates: Gates, batches: Batches, loss: Loss, generator: torch.Generator) -> Scores:
    """The sum over batches and over a channel's weights (and its bias) of (weight x gradient)^2.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8.
    """
    originals = {name: gates.originals(name) for name in gates}
    parameters = [parameter for pair in originals.values() for parameter in pair if parameter is not None]
    sums = {parameter: torch.zeros_like(parameter) for parameter in parameters}
    for gradients in gradients_of(network, parameters, batches, loss):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # The same number as of the gated weight and its gradient: a gate's factor is in one or the other.
            sums[parameter] += (parameter.detach() * gradient).square()
    scores: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, (weight, bias) in originals.items():
        out, into = _both_sides(gates.outputs_first(name, sums[weight]), lambda rows: rows.sum(1))
        scores[name] = (out if bias is None else out + sums[bias], into)
    return _of_open_channels(gates, scores)


def l1(network: nn.Module, gates: Gates, batches: Batches, loss: Loss, generator: torch.Generator) -> Scores:
    """The sum of a channel's absolute weights, gates included. Source: Li et al. 2017, "Pruning Filters"."""
    return _of_weights(gates, lambda rows: rows.abs().sum(1))


def l2(network: nn.Module, gates: Gates, batches: Batches, loss: Loss, generator: torch.Generator) -> Scores:
    """The Euclidean length of a channel's weights, gates included. Source: He et al. 2018, "Soft Filter Pruning"."""
    return _of_weights(gates, lambda rows: rows.square().sum(1).sqrt())


def geometric_median(
    network: nn.Module, gates: Gates, batches: Batches, loss: Loss, generator: torch.Generator
) -> Scores:
    """The sum of the Euclidean distances to the other open channels of the convolution: low where others can stand in.

    Source: He et al. 2019, "Filter Pruning via Geometric Median", eq. 6.
    """

    def distances(rows: Tensor) -> Tensor:
        # Closed channels are rows of zeros, and no channel is worth more for being far from those.
        still_open = rows.ne(0).any(1).to(rows)
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") @ still_open

    return _of_weights(gates, distances)


def random(network: nn.Module, gates: Gates, batches: Batches, loss: Loss, generator: torch.Generator) -> Scores:
    """Uniform in [0, 1), from the generator: the control."""

    def draw(gate: Tensor) -> Tensor:
        return torch.rand(len(gate), generator=generator, device=generator.device).to(gate.device, gate.dtype)

    return _of_open_channels(
        gates, {name: (draw(gate.out), None if gate.into is None else draw(gate.into)) for name, gate in gates.items()}
    )


def branch_scores(
    network: nn.Module, gates: Gates, branches: Iterable[Branch], batches: Iterable[tuple[Tensor, Tensor]], loss: Loss
) -> dict[str, float]:
    """What closing a whole branch changes the loss by, summed over batches: measured, by its node.

    In the unit of `taylor_gate`. To first order a branch that holds half the network would seem worth no more than its
    last convolution. Left out: branches whose ends have no gates, or are closed already. The network is left as it was.
    """
    pairs, found = list(batches), {}
    with _ready(network, []), torch.no_grad():
        before = sum(float(loss(network(lr), hr)) for lr, hr in pairs)
        for branch in branches:
            masks = [gates.masks(name).out for name in branch.closes if name in gates]
            if len(masks) < len(branch.closes) or not any(mask.any() for mask in masks):
                continue
            kept = [mask.clone() for mask in masks]
            for mask in masks:
                mask.zero_()
            after = sum(float(loss(network(lr), hr)) for lr, hr in pairs)
            for mask, open_channels in zip(masks, kept, strict=True):
                mask.copy_(open_channels)
            found[branch.node] = max(0.0, after - before)
    return found


def gradients_of(
    network: nn.Module, parameters: list[nn.Parameter], batches: Batches, loss: Loss
) -> Iterator[list[Tensor]]:
    """The gradients of the loss for each batch; those that the parameters hold already are not touched."""
    count = 0
    for count, (lr, hr) in enumerate(batches, 1):
        with _ready(network, parameters), torch.enable_grad():
            value = loss(network(lr), hr)
            if not value.isfinite():
                raise TrainingFailed(f"non-finite loss ({value.item()}) in batch {count} of a criterion")
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        yield list(gradients)
    if not count:
        raise InputError("criterion: it needs batches of images, and none was given")


@contextmanager
def _ready(network: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Eval mode, and gradients for `parameters`, for the duration of a block."""
    modes = {module: module.training for module in network.modules()}
    trained = [parameter.requires_grad for parameter in parameters]
    try:
        network.eval()
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, train in zip(parameters, trained, strict=True):
            parameter.requires_grad_(train)


def _of_weights(gates: Gates, score: Callable[[Tensor], Tensor]) -> Scores:
    """Scores of the gated weights, where `score` is of rows `[channels, rest]`."""
    return _of_open_channels(gates, {name: _both_sides(gates.weight(name), score) for name in gates})


def _both_sides(weight: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`score` over the outputs and over the inputs of a weight `[O, I, ...]`."""
    return score(weight.flatten(1)), score(weight.transpose(0, 1).flatten(1))


def _of_open_channels(gates: Gates, scores: Scores) -> Scores:
    """The scores with 0 for closed channels, and without those of sides that have no gates."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, (out, into) in scores.items():
        masks = gates.masks(name)
        found[name] = (out * masks.out, None if masks.into is None or into is None else into * masks.into)
    return found


MEASURED_WITH = "taylor_gate"  # the criterion whose scores are changes of the loss, as those of branches are
CRITERIA: dict[str, Criterion] = {
    "taylor_gate": taylor_gate,
    "taylor_weight": taylor_weight,
    "l1": l1,
    "l2": l2,
    "geometric_median": geometric_median,
    "random": random,
}
