"""A network as one Python file that needs nothing but torch, beside its weights: what the NTIRE challenge asks for.

models/teamNN_NAME.py       the network in its inference form, to be read by people; NAME in camel case is its class
model_zoo/teamNN_NAME.pth   its weights, a plain state dict

Source of the layout: the repositories Amazingren/NTIRE2024_ESR, NTIRE2025_ESR and NTIRE2026_ESR.
"""

import ast
import copy
import keyword
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from torch import Tensor, nn

from ..proxies.complexity import Complexity, complexity
from ..spaces import InputError, inference_form
from ..spaces.flow import Compact
from .export import PARITY, ExportFailed, largest_difference
from .source.classes import module_source, plain_line, summary_of
from .source.cut import in_sections
from .source.layout import WIDTH
from .source.trace import NotWritable

CHECK_SIZES = ((33, 47), (24, 41), (40, 32))
CHECK_SECONDS = 600
PRUNED = "A pruned x4 super-resolution network."
LISTS = (
    "Some of its channels were cut away. Buffers named `kept` list the channels of a tensor that the next step reads; "
    "those named `places` list the channels that a narrower tensor is added to, or spread over. They are no weights."
)
IMPORTS = {"torch": "import torch", "F": "import torch.nn.functional as F", "nn": "from torch import nn"}

# What checks the files, in a Python of its own where this package cannot be imported.
CHECK = """
import importlib.util, sys
import torch

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "paretosr":
            raise ImportError("the file must stand alone")

sys.meta_path.insert(0, Closed())
torch.set_num_threads(1)
stem, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location(stem, f"models/{stem}.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
network = getattr(module, name)()
network.load_state_dict(torch.load(f"model_zoo/{stem}.pth", weights_only=True), strict=True)
network.eval()
with torch.no_grad():
    torch.save([network(image) for image in torch.load("images.pt", weights_only=True)], "outputs.pt")
"""


def write_ntire(network: nn.Module, folder: Path, team: int, name: str, summary: str = "") -> float:
    """Writes both files into `folder`, or neither; gives the largest relative difference to the network's outputs.

    summary: what the network is, in a line, for the head of the file. The files are run in a Python of their own on
    images of several sizes before they are put in their place. Raises InputError where team or name cannot be used,
    ExportFailed where the network cannot be written as one file or the file computes something else.
    """
    class_name, folder = _class_name(team, name), folder.absolute()  # `.` has no name to put another beside
    stem = f"team{team:02}_{name}"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    for part in ("models", "model_zoo"):
        (temporary / part).mkdir(parents=True)
    try:
        source, weights = one_file(network, stem, class_name, summary)
        (temporary / "models" / f"{stem}.py").write_text(source, encoding="utf-8", newline="\n")
        torch.save(weights, temporary / "model_zoo" / f"{stem}.pth")
        difference = _checked(network, temporary, stem, class_name)
        for file in (f"model_zoo/{stem}.pth", f"models/{stem}.py"):  # code without weights would be half a network
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (temporary / file).replace(folder / file)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def one_file(network: nn.Module, stem: str, class_name: str, summary: str = "") -> tuple[str, dict[str, Tensor]]:
    """The source of the file, and the weights it takes, in float32 and on the CPU; nothing is checked.

    The counts in its head are those of this form, weight norm folded. Raises ExportFailed where the network does what
    cannot be written down.
    """
    model = inference_form(network).cpu().float()
    about = plain_line(summary) or (PRUNED if isinstance(model, Compact) else summary_of(network))
    try:
        written = in_sections(model) if isinstance(model, Compact) else model
        classes = module_source(written, class_name, about)
    except NotWritable as error:
        raise ExportFailed(f"the network cannot be written as one file: {error}") from error
    used = {node.id for node in ast.walk(ast.parse(classes)) if isinstance(node, ast.Name)}
    imports = "\n".join(line for name, line in IMPORTS.items() if name in used)
    lists = LISTS if any(getattr(module, "indices", None) for module in written.modules()) else ""
    head = "\n".join(_head(_counted(model), _least(network), stem, class_name, about, lists))
    weights = {key: value.detach().clone().contiguous() for key, value in written.state_dict().items()}
    return f"{head}\n\n{imports}\n\n\n{classes}\n", weights


def _counted(model: nn.Module) -> Complexity:
    """Its counts; ExportFailed where a cut network does by functions what the uncut one has a module for."""
    try:
        return complexity(model)
    except InputError as error:
        raise ExportFailed(f"the network cannot be written as one file: {error}") from error


def _class_name(team: object, name: object) -> str:
    """The name in camel case; InputError where the challenge's loader or Python could not use team or name."""
    if not isinstance(team, int) or isinstance(team, bool) or not 0 <= team <= 99:
        raise InputError(f"the team must be a number from 0 to 99, not {team!r}")
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(f"the name must be of letters, digits and underscores, a letter first, not {name!r}")
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if keyword.iskeyword(name) or keyword.iskeyword(camel) or camel == "F":
        raise InputError(f"the name {name!r} means something else in Python or in the file; take another")
    return camel


def _head(counts: Complexity, least: int, stem: str, class_name: str, about: str, lists: str) -> list[str]:
    """The comment at the head of the file; `lists` says what the lists of channels in it are, if there are any."""
    size = f", from {least} x {least} pixels on" if least > 1 else ""
    paragraphs = [
        f"{class_name}: {about}" if about else f"{class_name}: x4 super-resolution",
        f"Takes RGB images [N, 3, h, w] of any size{size}, and gives [N, 3, 4h, 4w], not clamped. data_range is 1.0: "
        "input and output are in [0, 1]. This is the inference form: what only training needs is merged or gone.",
        f"On an input of 3 x 256 x 256: {counts.parameters:,} parameters, {counts.flops_g:.4f} G FLOPs "
        f"({counts.macs_g:.4f} G multiply-adds of convolutions), {counts.activations_m:.4f} M activations, "
        f"{counts.convolutions} convolutions, as AIM 2020 counted them.",
        *([lists] if lists else []),
    ]
    lines = [line for text in paragraphs for line in [*textwrap.wrap(text, WIDTH - 2), ""]]
    lines += [
        f"    from models.{stem} import {class_name}",
        f'    name, data_range = "{stem.removeprefix("team")}", 1.0',
        f"    model = {class_name}()",
        f'    model.load_state_dict(torch.load("model_zoo/{stem}.pth"), strict=True)',
    ]
    return [f"# {line}".rstrip() for line in lines]


def _least(network: nn.Module) -> int:
    return int(getattr(network, "minimum_size", 1))


def _checked(network: nn.Module, folder: Path, stem: str, class_name: str) -> float:
    """Runs the files where only torch can be imported; the largest relative difference, ExportFailed above PARITY."""
    least = _least(network)
    images = [
        torch.rand(1 + (index == 1), 3, max(h, least), max(w, least), generator=torch.Generator().manual_seed(index))
        for index, (h, w) in enumerate((*CHECK_SIZES, (least, least)))
    ]
    torch.save(images, folder / "images.pt")
    command = [sys.executable, "-I", "-c", CHECK, stem, class_name]
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ExportFailed(f"{stem}.py did not finish within {CHECK_SECONDS} s") from None
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
        raise ExportFailed(f"{stem}.py does not run by itself: {said[-1]}")
    given = torch.load(folder / "outputs.pt", weights_only=True)
    reference = copy.deepcopy(network).cpu().float().eval()
    with torch.no_grad():
        wanted = [reference(image) for image in images]
    if [tuple(y.shape) for y in given] != [tuple(y.shape) for y in wanted]:
        raise ExportFailed(f"{stem}.py gives images of other sizes than the network")
    pairs = zip(given, wanted, strict=True)
    difference = max(largest_difference(network, mine.numpy(), theirs.numpy()) for mine, theirs in pairs)
    if not difference <= PARITY:  # so, for it may be no number
        raise ExportFailed(f"{stem}.py differs from the network by {difference:.2g} (at most {PARITY:g} is accepted)")
    return difference
