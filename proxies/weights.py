"""Weights of a trained network: from a safetensors file into the network of a design, strictly."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from ..spaces import Design, InputError, build, inference_form
from .writing import write_bytes


def with_weights(design: Design, weights: Path) -> nn.Module:
    """The network of a design with the weights of a safetensors file, in eval mode; strict; InputError otherwise.

    In its inference form where the weights are that form's.
    """
    network = build(design)
    try:
        given = load_file(weights)
        if given.keys() != network.state_dict().keys():
            merged = inference_form(network)  # of one that grew in training this form alone is kept
            network = merged if given.keys() == merged.state_dict().keys() else network
        network.load_state_dict(given)
    except FileNotFoundError:
        raise InputError(f"{weights}: no such file; the weights of this candidate were not kept") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{weights}: these are not the weights of this network: {_first_line(error)}") from None
    return network.eval()


def save_weights(network: nn.Module, design: Design, path: Path) -> None:
    """Writes a network's weights beside what it is, whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_bytes(path, to_bytes(weights, {"design": json.dumps(design.to_json())}))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[1].split()) if len(lines) > 1 else (lines[0] if lines else type(error).__name__)
