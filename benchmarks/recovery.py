"""One network, trained, cut to half of its FLOPs by Torch-Pruning and by us, and trained on: for torch_pruning.py.

Steps, batches, rates and loss are the same for all. The criterion is the same too: scores of ours (`taylor_gate`, of
the same batches) are handed to Torch-Pruning's pruner as its importance; its own Taylor importance stands beside it.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from guests import guest
from torch import Tensor, nn

from paretosr.proxies.complexity import complexity
from paretosr.proxies.latency import Protocol, Timing, time_together
from paretosr.proxies.losses import LOSSES
from paretosr.proxies.patches import Patches, mix
from paretosr.proxies.psnr import evaluate
from paretosr.proxies.training import State, Training, optimiser_of, train
from paretosr.proxies.weights import with_weights
from paretosr.proxies.work import Data, TrainWork, patches_of
from paretosr.pruning.criteria import CRITERIA, Scores
from paretosr.pruning.cutting import CUT, CutWork
from paretosr.pruning.gates import attach
from paretosr.pruning.settings import Pruning
from paretosr.spaces import Architecture, Block, Design, deployed, inference_form
from paretosr.spaces.plan import Plan

DESIGN = Design(Architecture(width=32, blocks=(Block.of("residual"),) * 4, image_skip="bicubic"))
SHARE = 0.5  # of the FLOPs
BATCHES = 16  # for scores
BISECTIONS = 8  # of their ratio of pruning
OURS, THEIRS, ALIGNED, OWN = ("group", "inner"), "theirs", "theirs, widths of 8", "theirs, own Taylor"

Importance = Callable[[nn.Module], Callable[[Any], Tensor]]  # of the network to cut, to a score for each group


@dataclass(frozen=True)
class Row:
    """One cut network of one seed: PSNR before recovery and after, shares that are left, time over that of `theirs`."""

    seed: int
    way: str
    cut_psnr_db: float
    psnr_db: float
    flops: float
    parameters: float
    activations: float
    latency_ms: float
    latency_ratio: float
    latency_low: float
    latency_high: float


@dataclass(frozen=True)
class Cut:
    """A cut network as it is trained, and as it is run."""

    network: nn.Module
    deployed: Callable[[nn.Module], nn.Module]


# ---- Torch-Pruning on the network that both cut


def by_scores(scores: Scores) -> Importance:
    """Scores of ours as an importance of theirs: added up over a group's layers and divided by the group's mean.

    Its own importances do the same by default (`group_reduction` and `normalizer` are "mean").
    """
    tp = guest("torch_pruning")

    def importance(network: nn.Module) -> Callable[[Any], Tensor]:
        names = {module: name for name, module in network.named_modules()}

        def of_group(group: Any) -> Tensor:
            total = torch.zeros(len(group[0].idxs))
            for item in group:
                pair = scores.get(names.get(item.dep.target.module, ""))
                if pair is not None:
                    side = pair[0] if item.dep.handler == tp.prune_conv_out_channels else pair[1]
                    assert side is not None, "a residual network has no grouped convolution"
                    _, idxs = item
                    total.scatter_add_(0, torch.tensor(item.root_idxs), side[list(idxs)])
            return total / total.mean()

        return of_group

    return importance


def own_taylor(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], loss: str) -> Importance:
    """Their Taylor importance, by the gradients of the same batches, added up."""
    tp, source = guest("torch_pruning"), copy.deepcopy(network)
    for lr, hr in batches:
        LOSSES[loss](source(lr), hr).backward()
    gradients = {name: parameter.grad for name, parameter in source.named_parameters()}

    def importance(network: nn.Module) -> Callable[[Any], Tensor]:
        for name, parameter in network.named_parameters():  # it reads them there
            parameter.grad = copy.deepcopy(gradients[name])
        return tp.importance.GroupTaylorImportance()

    return importance


def cut_by_theirs(network: nn.Module, importance: Importance, round_to: int | None = None) -> nn.Module:
    """The largest network within `SHARE` of the FLOPs that their pruner leaves, by bisection of its global ratio.

    round_to: what widths are to be multiples of; so the share may be missed by far.
    """
    tp = guest("torch_pruning")
    whole, found, most = complexity(network).flops_g, None, 0.0
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        ratio, cut = (low + high) / 2, copy.deepcopy(network)
        pruner = tp.pruner.BasePruner(
            cut,
            torch.rand(1, 3, 24, 24),
            importance(cut),
            global_pruning=True,
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=[cut.get_submodule("upsampler.conv")],  # its outputs are the image
        )
        pruner.step()
        left = complexity(cut).flops_g / whole
        low, high = (low, ratio) if left <= SHARE else (ratio, high)
        if most < left <= SHARE:
            found, most = cut, left
    if found is None:
        raise SystemExit(f"Torch-Pruning leaves no network within {SHARE} of the FLOPs")
    return found


# ---- the comparison


def cuts(base: Path, training: Training, data: Data, seed: int, folder: Path) -> dict[str, Cut]:
    """The network with the weights of `base`, cut in all ways."""
    network = inference_form(with_weights(DESIGN, base))
    # The batches that our cutting takes its scores of.
    patches = Patches(data.train(), training.patch, training.batch, mix(seed, 1_000_000))
    batches = [patches.batch(step) for step in range(BATCHES)]
    scored = copy.deepcopy(network)
    scores = CRITERIA["taylor_gate"](scored, attach(scored), batches, LOSSES[training.loss], torch.Generator())
    same = by_scores(scores)
    found = {
        THEIRS: Cut(cut_by_theirs(network, same), inference_form),
        ALIGNED: Cut(cut_by_theirs(network, same, round_to=8), inference_form),
        OWN: Cut(cut_by_theirs(network, own_taylor(network, batches, training.loss)), inference_form),
    }
    for strategy in OURS:
        pruning = Pruning({"flops": SHARE}, strategy=strategy, batches=BATCHES)
        into = folder / strategy
        work = CutWork(DESIGN, str(base), pruning, training, data, seed, "cpu", str(into))
        told = work.perform(lambda _: None, lambda: False)
        assert told is not None, "nobody asks for a stop"
        design = Design(DESIGN.architecture, Plan.from_json(told["plan"]))
        # A default holds this design for the function, which is called when the loop has gone on.
        found[strategy] = Cut(with_weights(design, into / CUT), lambda net, design=design: deployed(design, net))
    return found


def compared(seed: int, first: Training, recovery: Training, data: Data, protocol: Protocol) -> list[Row]:
    """Trains, cuts in all ways, trains on, times: one seed."""
    with tempfile.TemporaryDirectory() as folder:
        work = TrainWork(DESIGN, first, data, seed, "cpu", folder)
        trained = work.perform(lambda _: None, lambda: False)
        assert trained is not None, "nobody asks for a stop"
        base = Path(folder) / "model.safetensors"
        uncut = inference_form(with_weights(DESIGN, base))
        found = cuts(base, first, data, seed, Path(folder))
    before = {way: evaluate(cut.network, data.evaluation()).psnr_db for way, cut in found.items()}
    for way, cut in found.items():
        cut.network.train()
        state = State(cut.network, optimiser_of(cut.network, recovery), None)
        train(state, recovery, patches_of(data, recovery, seed + 1000, "cpu"), recovery.steps)
        sys.stderr.write(f"seed {seed}, {way}: trained\n")
    run = {way: cut.deployed(cut.network) for way, cut in found.items()}
    after = {way: evaluate(network, data.evaluation()).psnr_db for way, network in run.items()}
    timings = time_together({"uncut": uncut, **run}, THEIRS, protocol, "cpu")
    none = {"uncut": trained["psnr_db"]}
    return [
        row_of(seed, way, network, uncut, ({**none, **before}[way], {**none, **after}[way]), timings[way])
        for way, network in {"uncut": uncut, **run}.items()
    ]


def row_of(
    seed: int, way: str, network: nn.Module, uncut: nn.Module, psnr_db: tuple[float, float], timing: Timing
) -> Row:
    """A row of the comparison."""
    left, whole = complexity(network), complexity(uncut)
    return Row(
        *(seed, way, *psnr_db),
        flops=left.flops_g / whole.flops_g,
        parameters=left.parameters / whole.parameters,
        activations=left.activations_m / whole.activations_m,
        latency_ms=timing.latency_ms,
        latency_ratio=timing.ratio,
        latency_low=timing.ratio_low,
        latency_high=timing.ratio_high,
    )
