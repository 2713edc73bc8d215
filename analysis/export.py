"""Taking a network away: a folder with everything another program needs, and nothing of ours that runs code.

architecture.json   the design; with it and the weights, `load_exported(folder)` builds the network again
plan.json           of a pruned network: the channels that each convolution keeps, as they stand in the design too
model.safetensors   the weights, with the design and the numbers as metadata
model.onnx          the same network for onnxruntime, any height and width; checked against torch before it is kept
train.yaml          a recipe that trains exactly this network
card.md             what it is, how it was made, what it scored
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ..proxies.complexity import complexity
from ..proxies.weights import with_weights
from ..proxies.writing import write_bytes, write_json, write_text
from ..search.candidate import Candidate
from ..spaces import Design, InputError, build, deployed, inference_form, read_design
from ..spaces.plan import widths
from .wording import interval_text, label, number_text

PARITY = 1e-5  # the largest difference between torch and onnxruntime, relative to the largest output, that is accepted
# Where an activation jumps, rounding decides on which side: so large a share of the outputs may differ by more.
BESIDE_JUMPS = 0.05
CHECK_SIZES = ((33, 47), (24, 24))
OPSET = 18
PRUNING_FACTS = ("strategy", "criterion", "schedule", "control", "verified")  # of how it was cut, for the card


class ExportFailed(RuntimeError):
    """The exported network does not compute what the network computes."""


def export(
    candidate: Candidate, weights: Path, folder: Path, *, train_yaml: str, facts: Mapping[str, str], note: str = ""
) -> float:
    """Writes the folder, whole or not at all, in place of an older one; gives the largest relative ONNX difference.

    facts: lines for the card (run, data, training). Raises InputError where the weights cannot be read, ExportFailed
    where onnxruntime's output differs from torch's.
    """
    network = with_weights(candidate.design, weights)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_json(temporary / "architecture.json", candidate.design.to_json())
        if candidate.design.plan is not None:
            write_json(temporary / "plan.json", candidate.design.plan.to_json())
        metadata = {
            "design": json.dumps(candidate.design.to_json()),
            "numbers": json.dumps(dict(candidate.numbers)),
            "psnr_by_seed_db": json.dumps(by_seed(candidate)),  # the first is of these very weights
            "format": "pt",
        }
        weights_now = {name: value.contiguous() for name, value in network.state_dict().items()}
        write_bytes(temporary / "model.safetensors", to_bytes(weights_now, metadata))
        difference = _write_onnx(candidate.design, network, temporary / "model.onnx")
        write_text(temporary / "train.yaml", train_yaml)
        write_text(temporary / "card.md", card(candidate, facts, difference, note))
        replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return difference


def by_seed(candidate: Candidate) -> list[float]:
    """PSNR of each of its trainings, that of the weights which are kept first."""
    return list(candidate.details.get("psnr_by_seed_db") or [candidate.numbers["psnr_db"]])


def is_exported(candidate: Candidate, folder: Path) -> bool:
    """Whether the folder already holds this candidate with these numbers, whole."""
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            said = file.metadata() or {}
    except (OSError, SafetensorError):
        return False
    same = json.loads(said.get("numbers", "{}")) == dict(candidate.numbers)
    return same and said.get("design") == json.dumps(candidate.design.to_json()) and (folder / "card.md").exists()


def replace_folder(new: Path, folder: Path) -> None:
    """Puts `new` in the place of `folder`, which goes only once `new` stands there."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_exported(folder: str | Path) -> nn.Module:
    """The network of an exported folder, with its weights, in eval mode and as it is run: a pruned one changes sums in
    place. See `Network` for what it takes and gives. InputError where the folder does not hold one.
    """
    path = Path(folder)
    if not (path / "architecture.json").is_file():
        raise InputError(f"{path}: is not an exported network (it has no architecture.json)")
    design = read_design(path / "architecture.json")
    return deployed(design, with_weights(design, path / "model.safetensors"))


def _write_onnx(design: Design, network: nn.Module, path: Path) -> float:
    """As `export_onnx`; a cut network is written in the form that is meant for it, and compared with the one run."""
    if design.plan is None:
        return export_onnx(network, path)
    written = deployed(design, network, "export")
    between = form_difference(deployed(design, network), written)
    refuse_difference(between, "form of the cut network that ONNX is written from")
    return export_onnx(written, path) + between


def export_onnx(network: nn.Module, path: Path) -> float:
    """Writes the network as ONNX with free height and width; gives the largest difference to torch, relative.

    Raises ExportFailed where that is above PARITY: such a file is never kept. A cut network comes in its form for
    export.
    """
    model = inference_form(network)
    model._forward_pre_hooks.clear()  # the size check; in the graph it would be a guard on free dimensions
    least = int(getattr(network, "minimum_size", 1))
    example = torch.rand(1, 3, max(32, least), max(40, least), generator=torch.Generator().manual_seed(0))
    height, width = torch.export.Dim("height", min=least), torch.export.Dim("width", min=least)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are its authors' affair
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=True,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes={"x": {2: height, 3: width}},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    difference = onnx_difference(network, path)
    try:
        refuse_difference(difference, "ONNX model")
    except ExportFailed:
        path.unlink()
        raise
    return difference


def refuse_difference(difference: float, what: str) -> None:
    """Raises ExportFailed where a relative difference to the network is above PARITY, or no number."""
    if not difference <= PARITY:
        raise ExportFailed(f"the {what} differs from the network by {difference:.2g} (at most {PARITY:g} is accepted)")


def onnx_difference(network: nn.Module, path: Path) -> float:
    """The largest |onnxruntime - torch| over max |torch|, on random images of two sizes that are not the example's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _worst(network, lambda x: np.asarray(session.run(None, {"lr": x.numpy()})[0]))


def form_difference(network: nn.Module, other: nn.Module) -> float:
    """The largest difference of two forms of a network, relative to the first one's outputs, on the same images."""
    return _worst(network, lambda x: other(x).numpy())


def _worst(network: nn.Module, outputs: Callable[[Tensor], np.ndarray]) -> float:
    differences = []
    for index, (height, width) in enumerate(CHECK_SIZES):
        x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(index))
        with torch.no_grad():
            differences.append(largest_difference(network, outputs(x), network(x).numpy()))
    return max(differences)


def largest_difference(network: nn.Module, given: np.ndarray, wanted: np.ndarray) -> float:
    """The largest |given - wanted| over max |wanted|; of a network that jumps, of all but a share `BESIDE_JUMPS`."""
    differences = np.abs(given - wanted) / (np.abs(wanted).max() or 1)
    jumps = any(getattr(module, "jumps", False) for module in network.modules())
    return float(np.quantile(differences, 1 - BESIDE_JUMPS) if jumps else differences.max())


def card(candidate: Candidate, facts: Mapping[str, str], difference: float, note: str) -> str:
    """The card as Markdown: the network in one line, its numbers, how it was made, how to use it."""
    seeds = len(by_seed(candidate))
    means = {"psnr_db": f", mean of {seeds} trainings"} if seeds > 1 else {}
    rows = []
    for name, value in candidate.numbers.items():
        interval = interval_text(name, candidate.intervals.get(name))
        rows.append(f"| {label(name)}{means.get(name, '')} | {number_text(name, value)} | {interval} |")
    made = [f"- {name}: {value}" for name, value in facts.items()]
    parts = [
        f"# Candidate {candidate.number}: a x4 super-resolution network",
        candidate.summary,
        *([note] if note else []),
        *([cut_text(candidate)] if candidate.design.plan else []),
        "| | | 95 % interval |\n|---|---|---|\n" + "\n".join(rows),
        "\n".join(made),
        "```python\nfrom paretosr.analysis.export import load_exported\n\n"
        'network = load_exported("this/folder")  # [N, 3, h, w] in [0, 1] -> [N, 3, 4h, 4w]\n```',
        f"`model.onnx` takes `lr` and gives `sr` of the same kind, any height and width from "
        f"{getattr(build(candidate.design, device='meta'), 'minimum_size', 1)} pixels; its outputs differ from torch's "
        f"by at most {difference:.1e} of the largest (onnxruntime, CPU).",
        "`train.yaml` trains this network again: `paretosr train train.yaml --out FOLDER`.",
    ]
    return "\n\n".join(parts) + "\n"


def cut_text(candidate: Candidate) -> str:
    """What was cut from what, as Markdown: of a candidate whose design has a plan."""
    design, pruning = candidate.design, candidate.details.get("pruning", {})
    uncut, cut = inference_form(build(design.architecture, device="meta")), build(design, device="meta")
    there, left = widths(uncut), widths(cut)
    channels = [(left.get(name, (0, 0))[0], outputs) for name, (outputs, _) in there.items()]
    kept, of = (sum(side) for side in zip(*channels, strict=True))
    gone = sum(name not in left for name in there)
    whole = f", {gone} of {len(there)} convolutions cut away whole" if gone else ""
    rows = [f"| output channels of its convolutions | {of:,} | {kept:,} | {kept / of:.0%} |"]
    before, after = complexity(Design(design.architecture)), complexity(design)
    for name, value in before.numbers().items():
        now = after.numbers()[name]
        rows.append(f"| {label(name)} | {number_text(name, value)} | {number_text(name, now)} | {now / value:.0%} |")
    how = [f"- {name.replace('_', ' ')}: {pruning[name]}" for name in PRUNING_FACTS if pruning.get(name)]
    parent = f", candidate {candidate.parent} of the run" if candidate.parent is not None else ""
    return "\n\n".join(
        [
            f"**Pruned.** It was cut out of another network{parent}: {design.architecture.summary()}. {kept:,} of its "
            f"{of:,} channels were kept ({kept / of:.0%}){whole}; `plan.json` names them. What is left is a plain "
            "small network, without masks.",
            "| | uncut | this one | kept |\n|---|---|---|---|\n" + "\n".join(rows),
            *(["\n".join(how)] if how else []),
        ]
    )
