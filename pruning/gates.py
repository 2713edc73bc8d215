"""Gates: factors before and after each convolution, put on its weight, so that no network is edited and none is traced.

A gate after a convolution scales its outputs, weight rows and bias alike; one before it scales its inputs, weight
columns. Both multiply the weight and not the activations: the function and the gradients are the same, and the price
is that of the weights' size, not of the image's (a training step of MSRResNet took 1.04 times as long on 4 patches of
32x32, of RFDN 1.09 times; one CPU thread). Where a batch norm reads the convolution, the gate after it is a
factor on the norm's weight and bias.

Source: You et al. 2019, "Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional Neural
Networks" (there on batch norms); before and after each convolution as SC-CVLAB's AHCSRN of the AIM 2020 challenge.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..spaces import InputError, unknown
from ..spaces.plan import Sides, widths
from .norms import norms_after

GATED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Gate(NamedTuple):
    """What belongs to one convolution, `[outputs]` and `[inputs]`; no `into` where the convolution is grouped."""

    out: Tensor
    into: Tensor | None


class GatedWeight(nn.Module):
    """The parametrisation of a gated weight, which holds the gates and masks of its convolution.

    The weight `[O, I, ...]` is multiplied with gate x mask of both sides; with `rows=False` of the inputs alone, for
    then a norm has the other. With `transposed` it is `[I, O, ...]`, as transposed convolutions have it. Masks are 0
    or 1.
    """

    flops_counted = False  # it works on weights, which the challenge's count does not see
    out_mask: Tensor
    into_mask: Tensor | None

    def __init__(self, weight: Tensor, *, columns: bool, rows: bool, transposed: bool) -> None:
        super().__init__()
        self.rows, self.transposed = rows, transposed
        outputs, inputs = self.outputs_first(weight.detach()).shape[:2]
        self.out = nn.Parameter(weight.detach().new_ones(outputs))
        self.into = nn.Parameter(weight.detach().new_ones(inputs)) if columns else None
        self.register_buffer("out_mask", weight.detach().new_ones(outputs))
        self.register_buffer("into_mask", weight.detach().new_ones(inputs) if columns else None)

    def forward(self, weight: Tensor) -> Tensor:
        return self.gated(weight, rows=self.rows)

    def gated(self, weight: Tensor, *, rows: bool) -> Tensor:
        """The weight times the gates; in one product of its own size, for the others are small."""
        factor = self.factor()[:, None] if rows else None
        if self.into is not None and self.into_mask is not None:
            columns = self.into * self.into_mask
            factor = columns[None, :] if factor is None else factor * columns
        if factor is None:
            return weight
        factor = self.outputs_first(factor)
        return weight * factor.reshape(*factor.shape, *[1] * (weight.ndim - 2))

    def outputs_first(self, weight: Tensor) -> Tensor:
        """Turns what is laid out as the weight to `[O, I, ...]`, and what is that back."""
        return weight.transpose(0, 1) if self.transposed else weight

    def factor(self) -> Tensor:
        """What multiplies the outputs, `[O]`."""
        return self.out * self.out_mask


class GatedOutputs(nn.Module):
    """The parametrisation of what has one number per output: a bias, a norm's weight, `[O]`."""

    def __init__(self, gate: GatedWeight) -> None:
        super().__init__()
        # Not as a child: the state dict shall have every gate once, and a copy of the network still shares it.
        self.__dict__["gate"] = gate

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers * self.__dict__["gate"].factor()


class Gates(Mapping[str, Gate]):
    """The gates of a network: for each gated convolution's name the factors, parameters that train with the network.

    They are part of the network's `state_dict` and of its `parameters()`; `left_out` says which convolutions have none,
    and why. A mask closes a channel, whatever its gate; a convolution without an open input gives nothing and one
    without an open output needs nothing, so that closing all of one side closes the other. Masks are never opened.
    """

    def __init__(self, network: nn.Module, held: Mapping[str, GatedWeight], left_out: Mapping[str, str]) -> None:
        self.network, self.left_out = network, left_out
        self._held = dict(held)
        self._gated: list[tuple[nn.Module, tuple[str, ...]]] = []  # modules with the order of their parameters

    def __getitem__(self, name: str) -> Gate:
        held = self._held[name]
        return Gate(held.out, held.into)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All gates."""
        for held in self._held.values():
            yield from held.parameters()

    def masks(self, name: str) -> Gate:
        """The masks of a convolution: 1 for an open channel, 0 for a closed one."""
        held = self._held[name]
        return Gate(held.out_mask, held.into_mask)

    def weight(self, name: str) -> Tensor:
        """The convolution's weight times the gates and masks of both sides, without gradient, `[O, I, ...]`."""
        with torch.no_grad():
            return self.outputs_first(name, self._held[name].gated(self.originals(name)[0], rows=True))

    def outputs_first(self, name: str, weight: Tensor) -> Tensor:
        """What is laid out as the convolution's weight, as `[O, I, ...]`."""
        return self._held[name].outputs_first(weight)

    def originals(self, name: str) -> tuple[nn.Parameter, nn.Parameter | None]:
        """The convolution's own weight and bias, which the gates multiply."""
        module = self.network.get_submodule(name)
        lists = getattr(module, "parametrizations", {})
        weight, bias = (lists[key].original if key in lists else getattr(module, key) for key in ("weight", "bias"))
        return weight, bias

    def close(self, name: str, outputs: Iterable[int] = (), inputs: Iterable[int] = ()) -> None:
        """Closes channels of one convolution; InputError for one that it has not."""
        if name not in self._held:
            raise InputError(unknown("gated convolution", name, self._held))
        for mask, channels, side in zip(self.masks(name), (outputs, inputs), ("output", "input"), strict=True):
            wanted = sorted(set(channels))
            count = 0 if mask is None else len(mask)
            if wanted and not (wanted[0] >= 0 and wanted[-1] < count):
                raise InputError(f"gates: '{name}' has {count} gated {side}s, so none can be closed of {wanted}")
            if mask is not None:
                mask[wanted] = 0
        out, into = self.masks(name)
        if into is not None and not (out.any() and into.any()):
            out.zero_()
            into.zero_()

    def keep(self, kept: Mapping[str, tuple[Iterable[int], Iterable[int]]]) -> None:
        """Closes what a plan's `kept` (outputs, inputs) leaves out; convolutions not named stay as they are."""
        for name, (outputs, inputs) in kept.items():
            if name not in self._held:
                raise InputError(unknown("gated convolution", name, self._held))
            out, into = self.masks(name)
            rows, columns = set(outputs), set(inputs)
            closed = set(range(len(out))) - (rows if columns else set())
            self.close(name, closed, () if into is None else set(range(len(into))) - columns)

    def kept(self) -> dict[str, Sides]:
        """The open outputs and inputs by convolution, as a plan has them; of a grouped one all inputs."""
        found: dict[str, Sides] = {}
        width = widths(self.network)
        for name in self:
            out, into = self.masks(name)
            inputs = range(width[name][1]) if into is None else into.nonzero().flatten().tolist()
            found[name] = (tuple(out.nonzero().flatten().tolist()), tuple(inputs))
        return found

    def fold(self) -> None:
        """Writes gates and masks into weights and biases and takes the gates off: the same function without them."""
        with torch.no_grad():
            folded = [
                (of.original, getattr(module, name).clone())
                for module, _ in self._gated
                for name, of in module.parametrizations.items()  # type: ignore[union-attr,operator]
            ]
            for original, value in folded:
                original.copy_(value)
        self.remove()

    def remove(self) -> None:
        """Takes the gates off: the network is then exactly what it was before `attach`, its parameters the same."""
        for module, order in self._gated:
            # torch takes a property off the class, which copies of the module share with it: this one gets its own.
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))  # type: ignore[assignment]
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            # They come back behind the others, and an optimiser's state goes by the order.
            parameters = {name: module._parameters[name] for name in order}
            module._parameters.clear()
            module._parameters.update(parameters)
        self._gated.clear()

    def _attach(self, module: nn.Module, parametrisations: Mapping[str, nn.Module]) -> None:
        self._gated.append((module, tuple(module._parameters)))
        for name, parametrisation in parametrisations.items():
            parametrize.register_parametrization(module, name, parametrisation, unsafe=True)  # else tried on the spot


def attach(network: nn.Module, names: Iterable[str] | None = None) -> Gates:
    """Puts gates of one on the convolutions and linear layers of `network`, on all that can have them or on `names`.

    The output stays equal to the last bit. The network should be in its inference form, whose names a plan has. A
    convolution that is called several times has one gate; a grouped one has none before it. InputError: a name that
    is none of a convolution, or of one that can have no gates; a network with nothing to gate.
    """
    modules = {name: module for name, module in network.named_modules() if isinstance(module, GATED)}
    norms = norms_after(network)
    left_out = _left_out(network, modules, norms)
    if names is None:
        chosen = [name for name in modules if name not in left_out]
    else:
        chosen = list(dict.fromkeys(names))
        for name in chosen:
            if name not in modules:
                raise InputError(unknown("convolution", name, modules))
            if name in left_out:
                raise InputError(f"gates: '{name}' can have none: {left_out[name]}")
    if not chosen:
        raise InputError(f"gates: {type(network).__name__} has no convolution that can be pruned")
    held = {
        name: GatedWeight(
            modules[name].weight,  # type: ignore[arg-type]
            columns=getattr(modules[name], "groups", 1) == 1,
            rows=name not in norms,
            transposed=isinstance(modules[name], nn.ConvTranspose2d),
        )
        for name in chosen
    }
    gates = Gates(network, held, left_out)
    for name, gate in held.items():
        module = modules[name]
        after = network.get_submodule(norms[name]) if name in norms else module
        gates._attach(module, {"weight": gate})
        gated = ("weight", "bias") if after is not module else ("bias",)
        numbers = {key: GatedOutputs(gate) for key in gated if getattr(after, key) is not None}
        if after is module:
            for key, outputs in numbers.items():
                parametrize.register_parametrization(module, key, outputs, unsafe=True)
        else:
            gates._attach(after, numbers)
    return gates


def _left_out(network: nn.Module, modules: Mapping[str, nn.Module], norms: Mapping[str, str]) -> dict[str, str]:
    """Which convolutions cannot have gates, each with the reason."""
    owners = Counter(id(module._parameters.get("weight")) for module in modules.values())
    reasons: dict[str, str] = {}
    for name, module in modules.items():
        norm = network.get_submodule(norms[name]) if name in norms else None
        if parametrize.is_parametrized(module):
            reasons[name] = "its weight is made of others (its inference form has a plain one)"
        elif module._parameters.get("weight") is None or owners[id(module._parameters["weight"])] > 1:
            reasons[name] = "its weight is not its own"
        elif not module.weight.requires_grad:  # type: ignore[union-attr]
            reasons[name] = "its weight is frozen"
        elif isinstance(module, nn.ConvTranspose2d) and module.groups > 1:
            reasons[name] = "it is transposed and grouped"
        elif norm is not None and norm.weight is None:
            reasons[name] = f"the batch norm '{norms[name]}' behind it has no weight"
    return reasons
