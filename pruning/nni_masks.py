"""Masks of nni as plans: nni's pruners, or a file of masks that they made, may decide; what is cut is cut here.

nni (Neural Network Intelligence, Microsoft) is an optional guest, needed by `nni_plan` alone:
`pip install 'paretosr[nni]'`. Its masks are one dictionary, the name of a module to `{"weight": mask, "bias": mask}`,
where a mask has the shape of what it masks and holds zeros and ones. Source: nni 3.0, `nni.compression.pruning`.
"""

import importlib
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..proxies.training import TrainingFailed
from ..spaces import InputError, unknown
from ..spaces.flow import Flow, slots, without_batch_norm
from ..spaces.plan import Plan, Sides, widths
from .criteria import Batches, Loss

Masks = Mapping[str, Mapping[str, Tensor | None]]

# By the names that nni's own modules have; both kinds have the outputs first in their weights.
PRUNED = {nn.Conv2d: "Conv2d", nn.Linear: "Linear"}
# What reading a foreign file may raise.
UNREADABLE = (RuntimeError, ValueError, TypeError, LookupError, EOFError, AttributeError, pickle.UnpicklingError)


# ---- masks to a plan


def _plain(factory: object) -> dict[object, object]:
    """Stands for `defaultdict`, which nni's pruners give and which torch's safe reader does not fill."""
    return {}


# What a file of masks may name beside tensors.
READABLE: list[Any] = [(_plain, "collections.defaultdict"), (dict, "builtins.dict"), (dict, "__builtin__.dict")]


def plan_of_masks(masks: Masks, flow: Flow, architecture: str) -> Plan:
    """The plan that keeps what the masks leave anything of: an output by its row of the weight, an input by its column.

    A mask that is zero in places only leaves both sides of such a place: a plan knows whole channels. Modules without a
    mask of their weight keep all. `architecture`: the hash that the plan is for. InputError: a name that is no
    convolution of the network or one that cannot be cut, a mask of another shape than its weight, one with other values
    than 0 and 1, masks that close no channel.
    """
    there = widths(flow.network)
    kept: dict[str, Sides] = {}
    for name, targets in masks.items():
        if name not in there:
            raise InputError(f"masks: {unknown('convolution', name, there)}")
        mask = targets.get("weight")
        if mask is None:
            continue
        module: Any = flow.network.get_submodule(name)
        _check(name, mask, module.weight)
        outputs, inputs = _open_channels(mask, module)
        if not (outputs.all() and inputs.all()):
            kept[name] = tuple(outputs.nonzero().flatten().tolist()), tuple(inputs.nonzero().flatten().tolist())
    if not kept:
        raise InputError(f"masks: nothing is pruned: no channel of the {len(masks)} modules named is masked as a whole")
    flow.refuse_uncut(kept)
    return Plan(architecture, kept)


def _check(name: str, mask: Tensor, weight: Tensor) -> None:
    """Raises InputError for a mask that is none for this weight."""
    if mask.shape != weight.shape:
        wanted, given = ("x".join(map(str, tensor.shape)) for tensor in (weight, mask))
        raise InputError(f"masks: the mask of '{name}' must have the shape of its weight, {wanted}, not {given}")
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError(f"masks: the mask of '{name}' must hold zeros and ones only")


def _open_channels(mask: Tensor, module: Any) -> tuple[Tensor, Tensor]:
    """Which outputs and which inputs of a module a mask leaves anything of, as booleans `[O]` and `[I]`."""
    groups = getattr(module, "groups", 1)
    # `[groups, rows of a group, columns of a group]`; a transposed convolution has its inputs first.
    left = mask.ne(0).flatten(2).any(2) if mask.dim() > 2 else mask.ne(0)
    left = left.reshape(groups, -1, left.shape[1])
    rows, columns = left.any(2).flatten(), left.any(1).flatten()
    return (columns, rows) if isinstance(module, nn.ConvTranspose2d) else (rows, columns)


def read_masks(path: Path) -> dict[str, dict[str, Tensor | None]]:
    """The masks in a file that `torch.save` wrote of what a pruner of nni gave; on the CPU. No code of it is run.

    InputError: the file cannot be read, or holds something else.
    """
    try:
        with torch.serialization.safe_globals(READABLE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on a file before it refuses it; one line is enough
            held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UNREADABLE:
        raise InputError(f"{path}: no file of masks that torch can read without running code from it") from None
    if not isinstance(held, dict) or not held:
        kind = "nothing" if isinstance(held, dict) else type(held).__name__
        raise InputError(f"{path}: must hold a dictionary of masks by the names of modules; it holds: {kind}")
    for name, targets in held.items():
        if not isinstance(name, str) or not isinstance(targets, dict):
            raise InputError(f"{path}: {name!r} must be the name of a module, with a dictionary of its masks")
        for target, mask in targets.items():
            if not isinstance(target, str) or not (mask is None or isinstance(mask, Tensor)):
                raise InputError(f"{path}: the mask {target!r} of '{name}' must be a tensor, not {type(mask).__name__}")
    return {name: dict(targets) for name, targets in held.items()}


# ---- nni's pruners


def nni_plan(
    name: str,
    network: nn.Module,
    flow: Flow,
    architecture: str,
    sparsity: float,
    batches: Batches,
    loss: Loss,
) -> Plan:
    """The plan of one of nni's pruners, by its name in `PRUNERS`, for a network in its inference form; `flow` is its.

    sparsity: the share of outputs to close, in ]0, 1[, the same in each convolution that may be pruned: those of whose
    outputs none is frozen (`spaces/flow/slots.py`); transposed convolutions, whose outputs nni does not know, are left
    out. batches: pairs of images, low and high resolution; loss: of what the network gives and the original. Pruners
    that read weights alone need no batch. nni works on a copy whose batch norms are folded; the network stays as it is.

    InputError: nni is not there, a sparsity out of range, no pruner of that name, nothing to prune, batches missing.
    TrainingFailed: the loss is not finite.
    """
    if name not in PRUNERS:
        raise InputError(unknown("pruner of nni", name, PRUNERS))
    if not 0 < sparsity < 1:
        raise InputError(f"{name}: sparsity must lie between 0 and 1, not {sparsity}")
    targets = prunable(flow)
    if not targets:
        raise InputError(f"{name}: the network has no convolution of whose outputs none is frozen")
    model = without_batch_norm(network)
    kinds = sorted({PRUNED[type(model.get_submodule(target))] for target in targets})
    config = [{"op_types": kinds, "op_names": targets, "sparse_ratio": sparsity}]
    with _quiet():
        masks = PRUNERS[name](_nni(), model, config, list(batches), loss)
    return plan_of_masks(masks, flow, architecture)


def prunable(flow: Flow) -> list[str]:
    """The convolutions and linear layers of whose outputs none is frozen, in the order of the network."""
    frozen = {
        member.name for slot in slots(flow).fine if slot.frozen for member in slot.members if member.side == "out"
    }
    return [name for name in flow.calls if name not in frozen and type(flow.network.get_submodule(name)) in PRUNED]


def nni_l1(nni: Any, model: nn.Module, config: Sequence[Any], batches: Sequence[Any], loss: Loss) -> Masks:
    """The smallest sums of absolute weights. Source: Li et al. 2017, "Pruning Filters"; nni's L1NormPruner."""
    return nni.compression.pruning.L1NormPruner(model, config).compress()[1]


def nni_fpgm(nni: Any, model: nn.Module, config: Sequence[Any], batches: Sequence[Any], loss: Loss) -> Masks:
    """The filters that others can stand in for. Source: He et al. 2019, "Geometric Median"; nni's FPGMPruner."""
    return nni.compression.pruning.FPGMPruner(model, config).compress()[1]


def nni_taylor(nni: Any, model: nn.Module, config: Sequence[Any], batches: Sequence[Any], loss: Loss) -> Masks:
    """The smallest sums over batches of (weight x gradient)^2.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning"; nni's TaylorPruner.
    """
    if not batches:
        raise InputError("nni_taylor: it needs batches of images, and none was given")

    def training_step(batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
        lr, hr = batch
        value = loss(model(lr), hr)
        if not value.isfinite():
            raise TrainingFailed(f"non-finite loss ({value.item()}) while nni's TaylorPruner collects gradients")
        return value

    def train(model: nn.Module, optimizers: Any, training_step: Callable[..., Tensor], *_: Any, **__: Any) -> None:
        for batch in batches:
            optimizers.zero_grad()
            training_step(batch, model).backward()
            optimizers.step()

    # nni counts the steps of the optimizer; with a rate of 0 they leave the weights as they are.
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.0)
    evaluator = nni.compression.TorchEvaluator(train, optimizer, training_step)
    with torch.enable_grad():
        return nni.compression.pruning.TaylorPruner(model, config, evaluator, len(batches)).compress()[1]


PRUNERS: dict[str, Callable[[Any, nn.Module, Sequence[Any], Sequence[Any], Loss], Masks]] = {
    "nni_l1": nni_l1,
    "nni_fpgm": nni_fpgm,
    "nni_taylor": nni_taylor,
}


def _nni() -> Any:
    """The package nni with what is used of it; InputError where it is not installed."""
    try:
        # By name, since it is an optional guest that type checkers do not find.
        importlib.import_module("nni.compression.pruning")
        return importlib.import_module("nni")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "nni":
            raise InputError(f"nni is installed, but '{error.name}', which it needs, is not") from None
        raise InputError("nni is not installed: pip install 'paretosr[nni]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """What nni logs and warns of is not told, for the duration of a block."""
    logger = logging.getLogger("nni")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
