"""Training is a function from a state and a number of steps to a state; short or full, it is this one.

A state that was saved and loaded goes on bit-equal to one that was not (same thread count, torch version and
instruction set): the patches of a step depend on the seed and the step alone, the learning rate on the step alone.
"""

import copy
import hashlib
import io
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces import Design, InputError, build, unknown
from .losses import LOSSES, Extra, batch_loss, refuse_untrainable
from .parallel import Peers, SharedPatches
from .patches import Patches
from .weights import with_weights
from .writing import write_bytes

CURVE_POINTS = 60  # a curve has about this many points, however long the training
# What torch.load and a foreign content may raise.
UNREADABLE = (
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    ValueError,
    pickle.UnpicklingError,
)


class TrainingFailed(RuntimeError):
    """The training cannot go on, for the reason in the message; the candidate has failed, the run has not."""


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    steps: optimiser steps in all. batch: patches a step. patch: low-resolution pixels a side. learning_rate: Adam's,
    at the start. schedule: `cosine` to 0, `milestones` (halved at each of these shares of the steps), `constant`.
    loss: a name of `LOSSES`. ema: decay of the running mean of the weights that is evaluated, or None. grow_at: shares
    of the steps at which a network that grows while it trains (one with a method `dilate`) gets another base kernel.
    """

    steps: int
    batch: int = 16
    patch: int = 48
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    loss: str = "l1"
    ema: float | None = None
    grow_at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(unknown("loss", self.loss, LOSSES))
        if self.schedule not in SCHEDULES:
            raise InputError(unknown("schedule", self.schedule, SCHEDULES))

    @property
    def stages(self) -> tuple[int, ...]:
        """The steps before which the network grows, rising."""
        return tuple(dict.fromkeys(round(share * self.steps) for share in self.grow_at))

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return self.learning_rate * SCHEDULES[self.schedule](step / self.steps, self.milestones)


SCHEDULES: dict[str, Callable[[float, tuple[float, ...]], float]] = {
    "cosine": lambda done, _: (1 + math.cos(math.pi * done)) / 2,
    "milestones": lambda done, milestones: 0.5 ** sum(done >= milestone for milestone in milestones),
    "constant": lambda done, _: 1.0,
}


@dataclass(frozen=True)
class State:
    """A training that stands at `step`: network, optimiser, running mean of the weights, curve, seconds spent.

    `curve` holds (step, mean loss since the last point); `pending` the sum and number of losses since then.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    ema: dict[str, Tensor] | None
    step: int = 0
    curve: tuple[tuple[int, float], ...] = ()
    pending: tuple[float, int] = (0.0, 0)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # what must not change when the training goes on


def begin(design: Design, training: Training, *, seed: int, device: str = "cpu", weights: Path | None = None) -> State:
    """A training at step 0; the weights depend on `seed` alone, or come from a safetensors file.

    InputError for a loss that is not for this network, and for a file of other weights.
    """
    network: nn.Module = build(design, seed=seed, device=device)
    if weights is not None:
        network = with_weights(design, weights).to(device)
    network.train()
    refuse_untrainable(network, design.summary(), training.loss, bool(training.grow_at))
    if device.startswith("cuda"):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    facts = {"design": design.hash, "seed": seed, "training": repr(training)}
    if weights is not None:
        facts["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return State(network, optimiser_of(network, training), _running_mean(network, training), facts=facts)


def optimiser_of(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Adam over the weights of a network that train."""
    weights = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.Adam(weights, lr=training.learning_rate, betas=(0.9, 0.99), fused=True)


def _running_mean(network: nn.Module, training: Training) -> dict[str, Tensor] | None:
    if training.ema is None:
        return None
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def grown(state: State, training: Training, stage: int) -> State:
    """The state with a network that has grown for the `stage`-th time, counted from 0; its weights are new parameters.

    Optimiser and running mean begin anew. What is drawn depends on the training's seed and the stage alone.
    """
    state.network.dilate(1, seed=Random(f"{state.facts['seed']}:stage {stage}").getrandbits(31))  # type: ignore[operator]
    ema = _running_mean(state.network, training)
    return replace(state, optimiser=optimiser_of(state.network, training), ema=ema)


def train(
    state: State,
    training: Training,
    patches: Patches | SharedPatches,
    steps: int,
    after_step: Callable[[State], bool] = lambda state: False,
    extra: Extra | None = None,
    peers: Peers | None = None,
) -> State:
    """The state after `steps` more steps, or earlier where `after_step(state)` asks for a stop by giving True.

    `extra` adds a term to the loss (`losses.batch_loss`). `peers` are those who train other shares of the same batches.

    The network and the optimiser of `state` are moved on in place. Raises TrainingFailed on a non-finite loss.
    """
    network, device = state.network, next(state.network.parameters()).device
    on_cuda, stages = device.type == "cuda", training.stages
    every = max(1, training.steps // CURVE_POINTS)
    for step in range(state.step, min(state.step + steps, training.steps)):
        started = time.perf_counter()
        if step in stages:
            state = grown(state, training, stages.index(step))
        optimiser = state.optimiser
        lr, hr = patches.batch(step)
        if on_cuda:
            lr = lr.contiguous(memory_format=torch.channels_last)
        for group in optimiser.param_groups:
            group["lr"] = training.rate(step)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_cuda):
            loss = batch_loss(training.loss, network, lr, hr, extra)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        # One look at the loss a step is also the one place where a GPU is waited for; among peers they meet here.
        value = loss.item() if peers is None else peers.average(network, loss.item())
        optimiser.step()
        if state.ema is not None and training.ema is not None:
            follow(state.ema, network, min(training.ema, (1 + step) / (10 + step)))
        if not math.isfinite(value):
            raise TrainingFailed(f"non-finite loss ({value}) at step {step}")
        pending, curve = (state.pending[0] + value, state.pending[1] + 1), state.curve
        if (step + 1) % every == 0 or step + 1 == training.steps:
            pending, curve = (0.0, 0), (*curve, (step + 1, pending[0] / pending[1]))
        spent = state.seconds + time.perf_counter() - started
        state = replace(state, step=step + 1, curve=curve, pending=pending, seconds=spent)
        stop = after_step(state)
        if stop if peers is None else peers.agree(stop, device):
            break
    return state


def follow(ema: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Moves the running mean a step towards the weights; what is not a float (a counter) is copied."""
    for name, value in network.state_dict().items():
        if value.dtype.is_floating_point:
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)


def finished_network(state: State) -> nn.Module:
    """The network to evaluate and keep, in eval mode: the running mean of the weights where there is one."""
    if state.ema is not None:
        state.network.load_state_dict(state.ema)
    return state.network.eval()


def save(state: State, path: Path) -> None:
    """Writes the state to `path` under a temporary name first, so that a kill leaves the old file or the new one."""
    content = {
        "network": state.network.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "ema": state.ema,
        "step": state.step,
        "curve": list(state.curve),
        "pending": list(state.pending),
        "seconds": state.seconds,
        "facts": state.facts,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load(state: State, training: Training, path: Path) -> State:
    """The state saved in `path`, in place of the fresh `state` of the same design, training and seed.

    A file of another training, or one that cannot be read, gives `state` back untouched: then the training starts anew.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["facts"] != state.facts:
            return state
        step = int(saved["step"])
        # Into a copy, for half of it may be taken over before the rest does not fit.
        network = copy.deepcopy(state.network)
        loaded = replace(state, network=network, optimiser=optimiser_of(network, training))
        for stage, begins in enumerate(training.stages):
            if begins < step:  # at that very step it has not grown yet
                loaded = grown(loaded, training, stage)
        loaded.network.load_state_dict(saved["network"])
        loaded.optimiser.load_state_dict(saved["optimiser"])
        ema = loaded.ema and {name: saved["ema"][name].to(value.device) for name, value in loaded.ema.items()}
        return replace(
            loaded,
            ema=ema,
            step=step,
            curve=tuple((int(step), float(loss)) for step, loss in saved["curve"]),
            pending=(float(saved["pending"][0]), int(saved["pending"][1])),
            seconds=float(saved["seconds"]),
        )
    except UNREADABLE:
        return state


def saved_step(path: Path) -> int:
    """The step at which the state saved in `path` stands; 0 where there is none that can be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["step"])
    except UNREADABLE:
        return 0
