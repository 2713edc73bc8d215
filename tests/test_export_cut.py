"""Taking a cut network away: the folder, ONNX, the one file, and training it again, of networks cut at random."""

import json
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from plans import half, lived_in, random_plan
from safetensors.torch import save_file
from torch import nn

from paretosr.analysis import export as exporting
from paretosr.analysis.export import ExportFailed, export, is_exported, load_exported
from paretosr.proxies.complexity import complexity
from paretosr.proxies.losses import refuse_untrainable
from paretosr.proxies.weights import with_weights
from paretosr.runs.recipe_file import network_of, read_recipe
from paretosr.runs.winner import EXPORTED
from paretosr.search.candidate import Candidate
from paretosr.spaces import (
    BUILDABLE,
    Architecture,
    Block,
    Design,
    InputError,
    build,
    deployed,
    inference_form,
    published,
)
from paretosr.spaces.flow.primitives import AddAt, AddSlice, Take
from paretosr.spaces.plan import read_plan

MOBILE = Design(
    Architecture(8, (Block.of("mobilenetv3"), Block.of("inverted_residual"), Block.of("imdb", attention="cca")))
)
RFDB = Design(Architecture(12, (Block.of("rfdb"), Block.of("rfdb")), fusion="concat", image_skip="bicubic"))
DESIGNS = {"mobile": MOBILE, "rfdb": RFDB, **{name: published(name) for name in BUILDABLE}}
SEEDS = (None, 0, 1, 3)  # halves, and shares of 90 %, 50 % and one each; in the second and the last with an order
FAST = ("mobile", "rfdn", "span")  # the others are slow tests
FORBIDDEN = {"ScatterND", "ScatterElements", "NonZero", "Where", "If", "Loop"}


def cut(design: Design, seed: int | None) -> Design:
    """The design with a plan: halves, or independent sides drawn from a seed, of those that leave something."""
    network = inference_form(build(design, device="meta"))
    plan = half(network, design.hash) if seed is None else random_plan(network, seed, design.hash)
    made = Design(design.architecture, plan)
    if seed is not None and not any(True for _ in build(made, device="meta").parameters()):
        return cut(design, seed + 12)  # of the same share, and with an order if this had one
    return made


def trained(design: Design) -> nn.Module:
    """The network of a cut design with weights as after a training, in float32."""
    return lived_in(build(design, seed=1), jumps=False).float()


def take_away(design: Design, folder: Path, **more: Any) -> nn.Module:
    """Exports a cut design with weights as after a training to `folder / "out"`; gives the network."""
    network = trained(design)
    save_file(network.state_dict(), folder / "w.safetensors")
    candidate = Candidate(7, design, "complete", "pruned", 2, numbers={"psnr_db": 27.5}, **more)
    assert export(candidate, folder / "w.safetensors", folder / "out", train_yaml="", facts={"run": "r"}) < 1e-5
    assert is_exported(candidate, folder / "out")
    return network


# The folder


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Design, nn.Module]:
    """A folder, its design, whose plan has independent sides and an order, and the network in its training form."""
    folder, design = tmp_path_factory.mktemp("cut"), cut(RFDB, 0)
    assert design.plan is not None
    assert design.plan.order
    pruning = {"strategy": "group", "criterion": "taylor_gate", "verified": "compact equals masked", "teacher": 0}
    network = take_away(design, folder, details={"pruning": pruning})
    (folder / "out" / "train.yaml").write_text(yaml.safe_dump({"network": "architecture.json"}))
    return folder / "out", design, network


def test_the_folder_holds_the_plan_beside_the_design(taken: tuple[Path, Design, nn.Module]):
    folder, design, _ = taken
    assert {path.name for path in folder.iterdir()} == EXPORTED
    assert design.plan is not None
    assert json.loads((folder / "plan.json").read_text()) == design.plan.to_json()
    assert read_plan(folder / "plan.json") == read_plan(folder / "architecture.json") == design.plan


def test_it_loads_back_equal_to_the_last_bit_in_the_form_that_is_run(taken: tuple[Path, Design, nn.Module]):
    folder, design, network = taken
    x = torch.rand(2, 3, 17, 23)
    loaded = load_exported(folder)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
        assert torch.equal(with_weights(design, folder / "model.safetensors")(x), network(x))
    assert {m.form for m in loaded.modules() if isinstance(m, AddAt | AddSlice)} == {"run"}
    assert not loaded.training


def test_the_card_says_what_was_cut_and_of_what(taken: tuple[Path, Design, nn.Module]):
    folder, design, _ = taken
    card = (folder / "card.md").read_text()
    assert "candidate 2 of the run: 12 wide" in card
    found = re.search(r"([\d,]+) of its ([\d,]+) channels were kept", card)
    assert found is not None
    kept, of = (int(number.replace(",", "")) for number in found.groups())
    convolutions = [m for m in build(design).modules() if isinstance(m, nn.Conv2d)]
    assert kept == sum(m.out_channels for m in convolutions) < of
    whole, small = complexity(Design(design.architecture)), complexity(design)
    assert f"| Convolutions | {whole.convolutions} | {small.convolutions} |" in card
    assert f"{small.flops_g / whole.flops_g:.0%} |" in card
    assert "- verified: compact equals masked" in card
    assert "teacher" not in card


def test_a_recipe_of_the_folder_trains_the_cut_network(
    taken: tuple[Path, Design, nn.Module], monkeypatch: pytest.MonkeyPatch
):
    folder, design, _ = taken
    monkeypatch.chdir(folder)
    recipe = read_recipe("train.yaml", ())
    assert network_of(recipe) == design
    network = build(design, device="meta")
    refuse_untrainable(network, design.summary(), "l1")
    with pytest.raises(InputError, match="early exits"):
        refuse_untrainable(network, design.summary(), "multi_exit")


def test_another_plans_weights_are_refused(taken: tuple[Path, Design, nn.Module]):
    folder, *_ = taken
    with pytest.raises(InputError, match="not the weights of this network"):
        with_weights(cut(RFDB, 2), folder / "model.safetensors")


def test_a_whole_network_has_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "export_onnx", lambda network, path: path.write_bytes(b"") * 0.0)
    save_file(build(RFDB).state_dict(), tmp_path / "w.safetensors")
    candidate = Candidate(1, RFDB, "complete", numbers={"psnr_db": 27.0})
    export(candidate, tmp_path / "w.safetensors", tmp_path / "out", train_yaml="", facts={})
    assert {path.name for path in (tmp_path / "out").iterdir()} == EXPORTED - {"plan.json"}
    assert "Pruned" not in (tmp_path / "out" / "card.md").read_text()


# ONNX


def check_onnx(folder: Path, network: nn.Module) -> None:
    graph = onnx.load(folder / "model.onnx").graph
    assert not {node.op_type for node in graph.node} & FORBIDDEN
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    least = int(network.minimum_size)  # pyright: ignore[reportArgumentType]
    for height, width in ((max(least, 19), max(least, 31)), (max(least, 51), max(least, 37))):
        x = torch.rand(1, 3, height, width)
        (given,) = session.run(None, {"lr": x.numpy()})
        with torch.no_grad():
            wanted = network(x).numpy()
        assert np.asarray(given).shape == (1, 3, 4 * height, 4 * width)
        assert np.abs(np.asarray(given) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_onnx_gathers_and_adds_at_any_size(taken: tuple[Path, Design, nn.Module]):
    folder, design, network = taken
    kinds = {type(module) for module in build(design).modules()}
    assert {Take, AddAt} <= kinds
    check_onnx(folder, network)


def test_the_form_that_is_written_is_compared_with_the_one_that_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    design = cut(Design(Architecture(4, (Block.of("residual"),))), None)

    def other_weights(design: Design, network: nn.Module, form: str = "run") -> nn.Module:
        return deployed(design, build(design, seed=2) if form == "export" else network, form)

    monkeypatch.setattr(exporting, "deployed", other_weights)
    with pytest.raises(ExportFailed, match="that ONNX is written from differs from the network"):
        take_away(design, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), list(zip(DESIGNS, cycle(SEEDS), strict=False)))
def test_every_cut_network_is_taken_away(name: str, seed: int | None, tmp_path: Path):
    network = take_away(cut(DESIGNS[name], seed), tmp_path)
    x = torch.rand(1, 3, *(max(side, int(network.minimum_size)) for side in (17, 23)))  # pyright: ignore
    with torch.no_grad():
        assert torch.equal(load_exported(tmp_path / "out")(x), network(x))
    check_onnx(tmp_path / "out", network)


# The plan in a file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON; a plan is the plan.json of an exported pruned network"),
        (b"\xff\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "plan: must be a mapping with the keys 'architecture' and 'kept'"),
        (b"{}", "plan: the key 'architecture' is missing"),
        (b'{"architecture": "000000000000"}', "plan: the key 'kept' is missing"),
        (b'{"architecture": "x", "kept": {}}', "must be 12 hexadecimal digits"),
        (b'{"architecture": "000000000000", "kept": {"a": 1}}', "must be two lists"),
        (b'{"architecture": "000000000000", "kept": {}, "keep": 1}', "did you mean 'kept'"),
        (json.dumps(RFDB.to_json()).encode(), "holds a network but no plan: that network is not pruned"),
        (json.dumps(RFDB.architecture.to_json()).encode(), "holds a network but no plan"),
        (json.dumps({**RFDB.to_json(), "plan": 3}).encode(), "plan: must be a mapping"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path):
    file = tmp_path / "p.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_plan(file)
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plan_that_cannot_be_read_is_refused(tmp_path: Path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read: (No such file|Is a directory)"):
            read_plan(path)
