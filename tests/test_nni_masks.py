"""Masks of nni as plans; nni's own pruners run in an environment of their own, by this file as a program."""

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plans import ANY, difference, formed, noise
from torch import Tensor, nn

from paretosr.proxies.training import Training
from paretosr.proxies.weights import save_weights
from paretosr.proxies.work import Data
from paretosr.pruning.cutting import CutWork
from paretosr.pruning.nni_masks import PRUNERS, nni_plan, plan_of_masks, prunable, read_masks
from paretosr.pruning.settings import Pruning
from paretosr.pruning.verify import verify
from paretosr.spaces import Architecture, Block, Design, InputError, build, inference_form
from paretosr.spaces.flow import Flow, compact, trace

REPOSITORY = Path(__file__).resolve().parents[1]
# A residual stream, a squeezed attention with linear layers, and a PixelShuffle.
NETWORKS = {
    "residual": Architecture(width=16, blocks=(Block.of("residual"),) * 2),
    "inverted": Architecture(width=8, blocks=(Block.of("residual"), Block.of("inverted_residual"))),
}


class Kinds(nn.Module):
    """Every kind of layer that a mask can be for."""

    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.transposed = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.linear = nn.Linear(6, 6)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transposed(torch.relu(self.grouped(torch.relu(self.depthwise(self.plain(x))))))
        return self.last(x * self.linear(x.mean((2, 3)))[:, :, None, None])


def kinds() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Kinds().double().eval()


def ones(network: nn.Module, *names: str) -> dict[str, dict[str, Tensor | None]]:
    weights = {name: network.get_submodule(name).weight for name in names}
    return {name: {"weight": torch.ones_like(weight), "bias": None} for name, weight in weights.items()}  # type: ignore[arg-type]


# By the layer: which part of its weight is masked, what is left of its outputs and of its inputs.
PARTS: dict[str, list[tuple[Any, set[int], set[int]]]] = {
    "plain": [((slice(2, 5),), {0, 1, 5, 6, 7}, {0, 1, 2}), ((slice(None), 1), set(range(8)), {0, 2})],
    "depthwise": [((slice(0, 3),), set(range(3, 8)), set(range(3, 8)))],
    "grouped": [
        ((slice(0, 2),), set(range(2, 12)), set(range(8))),
        ((slice(6, 12), 1), set(range(12)), set(range(8)) - {5}),  # the second group's second input
        ((slice(0, 6),), set(range(6, 12)), set(range(4, 8))),
    ],
    "transposed": [
        ((slice(3, 7),), set(range(6)), set(range(12)) - {3, 4, 5, 6}),
        ((slice(None), 0), {1, 2, 3, 4, 5}, set(range(12))),
    ],
    "linear": [((4,), {0, 1, 2, 3, 5}, set(range(6))), ((slice(None), slice(0, 2)), set(range(6)), {2, 3, 4, 5})],
}


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in PARTS.items() for part in parts])
def test_a_mask_becomes_what_it_closes(name: str, part: tuple[Any, set[int], set[int]]) -> None:
    """Said in channels, and in numbers: the cut network gives what the masked weights give."""
    network = kinds()
    where, outputs, inputs = part
    masks = ones(network, name)
    mask: Any = masks[name]["weight"]
    mask[where] = 0
    plan = plan_of_masks(masks, trace(network), ANY)
    assert {key: (set(outs), set(ins)) for key, (outs, ins) in plan.kept.items()} == {name: (outputs, inputs)}
    small, x = compact(network, plan), noise(2, 3, 9, 7)
    with torch.no_grad():
        module: Any = network.get_submodule(name)
        module.weight *= mask
        module.bias[[out for out in range(len(module.bias)) if out not in outputs]] = 0
        assert difference(small(x), network(x)) < 1e-12


def test_several_masks_and_holes() -> None:
    network = kinds()
    masks = ones(network, "plain", "last", "linear")
    plain, linear = masks["plain"]["weight"], masks["linear"]["weight"]
    assert plain is not None
    assert linear is not None
    plain[0] = 0
    plain[1, :2] = 0  # a hole leaves its row and its column
    linear[:] = 0
    masks["grouped"] = {"weight": None, "bias": None}
    plan = plan_of_masks(masks, trace(network), ANY)
    assert plan.kept == {"linear": ((), ()), "plain": (tuple(range(1, 8)), (0, 1, 2))}


def spoilt(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    masks: dict[str, Any] = ones(kinds(), "plain")
    masks["plain"]["weight"][0] = 0
    change(masks)
    return masks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(plane=m.pop("plain")), "no convolution 'plane'; did you mean 'plain'?"),
        (lambda m: m["plain"].update(weight=torch.ones(8)), "must have the shape of its weight, 8x3x3x3, not 8"),
        (lambda m: m["plain"].update(weight=torch.ones(7, 3, 3, 3)), "8x3x3x3, not 7x3x3x3"),
        (lambda m: m["plain"]["weight"].mul_(0.5), "'plain' must hold zeros and ones only"),
        (lambda m: m["plain"]["weight"].fill_(torch.nan), "'plain' must hold zeros and ones only"),
        (lambda m: m["plain"]["weight"].fill_(1), "nothing is pruned"),
        (lambda m: m["plain"].update(weight=None), "nothing is pruned"),
        (lambda m: m.clear(), "nothing is pruned"),
    ],
)
def test_masks_that_are_none_for_the_network(change: Callable[[dict[str, Any]], object], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")) as error:
        plan_of_masks(spoilt(change), trace(kinds()), ANY)
    assert "\n" not in str(error.value)


def test_a_layer_that_cannot_be_cut_is_refused() -> None:
    network = kinds()
    network.transposed = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2).double()
    masks = ones(network, "transposed")
    masks["transposed"]["weight"][:6] = 0  # type: ignore[index]
    with pytest.raises(InputError, match="'transposed' cannot be cut: there is no rule for this ConvTranspose2d"):
        plan_of_masks(masks, trace(network), ANY)


class Foreign:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the file",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_masks_is_read(tmp_path: Path, zipped: bool) -> None:
    given: dict[str, dict[str, Tensor | None]] = defaultdict(dict)  # as nni's pruners give it
    given["plain"]["weight"], given["plain"]["bias"] = torch.tensor([1.0, 0.0]), None
    torch.save(given, tmp_path / "masks.pth", _use_new_zipfile_serialization=zipped)
    read = read_masks(tmp_path / "masks.pth")
    assert {name: list(targets) for name, targets in read.items()} == {"plain": ["weight", "bias"]}
    mask = read["plain"]["weight"]
    assert mask is not None
    assert mask.tolist() == [1.0, 0.0]
    assert read["plain"]["bias"] is None


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([torch.ones(1)], "must hold a dictionary of masks by the names of modules; it holds: list"),
        ({}, "it holds: nothing"),
        (
            {"plain.weight": torch.ones(1)},
            "'plain.weight' must be the name of a module, with a dictionary of its masks",
        ),
        ({"plain": {"weight": 1}}, "the mask 'weight' of 'plain' must be a tensor, not int"),
        ({3: {}}, "3 must be the name of a module"),
        ({"plain": Foreign()}, "no file of masks that torch can read without running code"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held: object, said: str
) -> None:
    file = tmp_path / "masks.pth"
    torch.save(held, file)
    with pytest.raises(InputError, match=said) as error:
        read_masks(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no masks")
    for name in ("text.pth", "missing.pth", "."):
        with pytest.raises(InputError, match=r"no file of masks|cannot be read: "):
            read_masks(tmp_path / name)


def test_what_reaches_the_output_is_not_for_nni() -> None:
    names = prunable(trace(formed(NETWORKS["residual"])))
    blocks = [f"blocks.{block}.{which}" for block in (0, 1) for which in ("first", "second")]
    assert names == ["head.0", *blocks, "body_conv"]


@pytest.mark.parametrize(
    ("name", "sparsity", "said"),
    [
        ("nni_l1", 1.0, "nni_l1: sparsity must lie between 0 and 1, not 1.0"),
        ("nni_l1", 0.0, "nni_l1: sparsity must lie between 0 and 1, not 0.0"),
        ("nni_l2", 0.5, "no pruner of nni 'nni_l2'"),
        ("nni_l1", 0.5, r"nni is not installed: pip install 'paretosr\[nni\]'"),
    ],
)
def test_what_nni_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, name: str, sparsity: float, said: str) -> None:
    monkeypatch.setitem(sys.modules, "nni", None)  # as where it is not installed
    network = formed(NETWORKS["residual"])
    with pytest.raises(InputError, match=said):
        nni_plan(name, network, trace(network), ANY, sparsity, [], F.l1_loss)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nni_decides_and_we_cut() -> None:
    """nni's own pruners, in .venv-nni (see .ci/setup-nni), with this file as a program; warnings are errors there."""
    for command in (["sh", ".ci/setup-nni"], [".venv-nni/bin/python", "-W", "error", "tests/test_nni_masks.py"]):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    decided = [f"{name} {pruner}" for name in NETWORKS for pruner in PRUNERS]
    assert done.stdout.splitlines() == [*decided, *(f"to a budget {pruner}" for pruner in PRUNERS)]


def prune_with_nni(architecture: Architecture, pruner: str) -> None:
    """nni closes half of each convolution that may be, those that the papers say; the cut network is verified."""
    network = inference_form(build(architecture, seed=1))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    batches = [(noise(2, 3, 12, 12, seed=s).float(), noise(2, 3, 48, 48, seed=s + 9).float()) for s in range(3)]
    flow = trace(network)
    plan = nni_plan(pruner, network, flow, architecture.hash, 0.5, batches, F.l1_loss)
    assert list(plan.kept) == sorted(prunable(flow))
    for name, score in scores(pruner, flow, batches).items():
        assert list(plan.kept[name][0]) == score.topk(len(score) // 2).indices.sort().values.tolist(), name
    verify(network, plan, {form: compact(flow, plan, form) for form in ("run", "export")})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(parameter.grad is not None for parameter in network.parameters())


def cut_to_a_budget(architecture: Architecture, pruner: str, folder: Path) -> None:
    """The sparsity is found by which a budget holds, and no less would do."""
    design, weights = Design(architecture), folder / "whole.safetensors"
    save_weights(build(design, seed=1), design, weights)
    pruning = Pruning({"flops": 0.6}, criterion=pruner, batches=2)
    training = Training(steps=1, batch=2, patch=16)
    work = CutWork(design, str(weights), pruning, training, Data(patch=16), 0, "cpu", str(folder / pruner))
    found = work.perform(lambda said: None, lambda: False)
    assert found is not None
    assert 0.5 < found["shares"]["flops"] <= 0.6
    assert "compact equals masked" in found["verified"]


def scores(pruner: str, flow: Flow, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """What the papers say of each output, from the weights and gradients themselves: `[O]` for each convolution."""
    weights: dict[str, Any] = {name: flow.network.get_submodule(name).weight for name in prunable(flow)}
    rows = {name: weight.detach().flatten(1) for name, weight in weights.items()}
    if pruner == "nni_l1":
        return {name: row.abs().sum(1) for name, row in rows.items()}
    if pruner == "nni_fpgm":
        return {name: torch.cdist(row, row).sum(1) for name, row in rows.items()}
    found = {name: torch.zeros(len(row)) for name, row in rows.items()}
    for lr, hr in batches:
        gradients = torch.autograd.grad(F.l1_loss(flow.network(lr), hr), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            found[name] += (rows[name] * gradient.flatten(1)).square().sum(1)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for network_name, network_architecture in NETWORKS.items():
        for each in PRUNERS:
            prune_with_nni(network_architecture, each)
            sys.stdout.write(f"{network_name} {each}\n")
    with tempfile.TemporaryDirectory() as place:
        for each in PRUNERS:
            cut_to_a_budget(next(iter(NETWORKS.values())), each, Path(place))
            sys.stdout.write(f"to a budget {each}\n")
