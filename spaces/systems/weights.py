"""Weights that a published network's authors trained, read into our form of it."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..design import build, published
from ..errors import InputError
from ..forms import inference_form
from ..network import Network
from . import NETWORKS

WRAPPERS = ("params_ema", "params", "state_dict", "net")  # the averaged weights first: they are the published ones
BATCHES = "num_batches_tracked"  # a whole number that every batch norm keeps
PARALLEL_PREFIX = "module."  # what DataParallel writes before every key
# The two factors of weight norm, as torch's older form names them and as its newer one does.
WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
FEW = 3  # keys to name in a message


def load_published(name: str, path: Path) -> Network:
    """The published network `name` with the weights of the file at `path`, float32, on the CPU.

    The file is a state dict as `torch.save` writes it, under its authors' names or ours, bare or inside one of
    `WRAPPERS`; its keys and shapes must be exactly the network's. The network comes in its training form, or in its
    inference form where the file has only that. No code of the file is run. Raises InputError: no such system, a
    file that cannot be read or holds no state dict, keys missing or foreign, shapes that differ.
    """
    training = build(published(name))
    inference = inference_form(training)
    held = read_state_dict(path)
    named = {key: _our_name(key, NETWORKS[name].renamed) for key in held}
    network = min((training, inference), key=lambda form: len(form.state_dict().keys() ^ set(named.values())))
    wanted, merged = network.state_dict(), inference.state_dict()
    weights: dict[str, Tensor] = {}
    foreign: list[str] = []
    for key, ours in named.items():
        if ours in wanted and ours not in weights:
            weights[ours] = held[key]
        # SPAN's code saves what is merged beside what it is merged from, and the latter says all.
        elif ours in wanted or ours not in merged:
            foreign.append(key)
    missing = [key for key in wanted if key not in weights]
    reshaped = [
        f"{key} {list(tensor.shape)} instead of {list(wanted[key].shape)}"
        for key, tensor in weights.items()
        if tensor.shape != wanted[key].shape
    ]
    found = (("missing", missing), ("foreign", foreign), ("of another shape", reshaped))
    wrong = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in found if keys]
    if wrong:
        raise InputError(f"{path}: not weights of '{name}': {', '.join(wrong)}")
    network.load_state_dict(weights, strict=True)
    return network


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` file by name, without wrappers and prefix; InputError where it is no state dict."""
    held = _load(path)
    if isinstance(held, Mapping):
        held = next((held[wrapper] for wrapper in WRAPPERS if isinstance(held.get(wrapper), Mapping)), held)
    if not isinstance(held, Mapping) or not held:
        raise InputError(f"{path}: not a state dict: it holds {'nothing' if held == {} else type(held).__name__}")
    for key, value in held.items():
        if not isinstance(key, str) or not _is_weight(key, value):
            raise InputError(f"{path}: not a state dict: {key!r} is no tensor of floating point numbers")
    prefixed = all(key.startswith(PARALLEL_PREFIX) for key in held)
    return {key.removeprefix(PARALLEL_PREFIX) if prefixed else key: value for key, value in held.items()}


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on a file before it refuses it; one line is enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # on a file that is broken or of another kind, torch's readers raise whatever comes up
        raise InputError(f"{path}: not a state dict that torch can read without running code from the file") from error


def _is_weight(key: str, value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and (value.is_floating_point() or key.endswith(BATCHES))
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def _our_name(key: str, renamed: Mapping[str, str]) -> str:
    module, _, parameter = key.rpartition(".")
    matches = ((re.fullmatch(theirs, module), ours) for theirs, ours in renamed.items())
    found = next((match.expand(ours) for match, ours in matches if match), module)
    parameter = WEIGHT_NORM.get(parameter, parameter)
    return f"{found}.{parameter}" if found else parameter


def _first(keys: Iterable[str]) -> str:
    keys = [ascii(key)[1:-1] for key in keys]  # a foreign file's keys may hold anything
    return ", ".join(keys[:FEW]) + (", ..." if len(keys) > FEW else "")
