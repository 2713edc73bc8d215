import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from paretosr.analysis import export as exporting
from paretosr.analysis.export import ExportFailed, export, export_onnx, load_exported, onnx_difference
from paretosr.search.candidate import Candidate
from paretosr.spaces import BLOCKS, BUILDABLE, Architecture, Block, Design, InputError, build, published
from paretosr.spaces.fusion import FUSIONS
from paretosr.spaces.upsampler import UPSAMPLERS

DESIGN = Design(Architecture(8, (Block.of("imdb", attention="cca"), Block.of("rfdb")), image_skip="bicubic"))


def candidate(design: Design = DESIGN) -> Candidate:
    return Candidate(
        7, design, "complete", numbers={"psnr_db": 27.5, "activations_m": 3.2}, intervals={"psnr_db": (27.4, 27.6)}
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("export")
    network = build(DESIGN, seed=3).eval()
    save_file(network.state_dict(), folder / "weights.safetensors")
    export(candidate(), folder / "weights.safetensors", folder / "out", train_yaml="seed: 1\n", facts={"run": "a <b>"})
    return folder / "out", network


def test_the_folder_holds_all_and_only_what_is_promised(exported: tuple[Path, torch.nn.Module]):
    folder, _ = exported
    names = {path.name for path in folder.iterdir()}
    assert names == {"architecture.json", "model.safetensors", "model.onnx", "train.yaml", "card.md"}
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def test_it_loads_back_equal_to_the_last_bit(exported: tuple[Path, torch.nn.Module]):
    folder, network = exported
    x = torch.rand(1, 3, 17, 23)
    with torch.no_grad():
        assert torch.equal(load_exported(folder)(x), network(x))


def test_the_weights_carry_design_and_numbers(exported: tuple[Path, torch.nn.Module]):
    with safe_open(exported[0] / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert Design.from_json(json.loads(metadata["design"])) == DESIGN
    assert json.loads(metadata["numbers"])["psnr_db"] == 27.5


def test_the_card_gives_numbers_with_intervals(exported: tuple[Path, torch.nn.Module]):
    card = (exported[0] / "card.md").read_text()
    assert "27.50 dB" in card
    assert "27.4" in card
    assert "load_exported" in card


def test_onnx_runs_on_an_odd_size_as_torch_does(exported: tuple[Path, torch.nn.Module]):
    folder, network = exported
    x = torch.rand(1, 3, 51, 37)
    (given,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"lr": x.numpy()})
    with torch.no_grad():
        wanted = network(x).numpy()
    assert np.asarray(given).shape == (1, 3, 204, 148)
    assert np.abs(np.asarray(given) - wanted).max() < 1e-5


@pytest.mark.slow
def test_a_difference_is_found_and_the_file_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = build(DESIGN).eval()
    export_onnx(network, tmp_path / "a.onnx")
    with torch.no_grad():
        next(network.parameters()).add_(0.01)
    assert onnx_difference(network, tmp_path / "a.onnx") > 1e-4
    monkeypatch.setattr(exporting, "PARITY", -1.0)
    with pytest.raises(ExportFailed, match="differs"):
        export_onnx(network, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_a_failed_export_leaves_the_old_folder(exported: tuple[Path, torch.nn.Module], monkeypatch: pytest.MonkeyPatch):
    folder, _ = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(exporting, "PARITY", -1.0)
    with pytest.raises(ExportFailed):
        export(candidate(), folder.parent / "weights.safetensors", folder, train_yaml="", facts={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out", "weights.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "foreign", "garbage"])
def test_wrong_weights_are_one_line(tmp_path: Path, damage: str):
    file = tmp_path / "w.safetensors"
    if damage == "foreign":
        save_file(build(published("pan")).state_dict(), file)
    if damage == "garbage":
        file.write_bytes(b"not weights at all")
    with pytest.raises(InputError) as error:
        export(candidate(), file, tmp_path / "out", train_yaml="", facts={})
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_export_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"architecture\.json"):
        load_exported(tmp_path)


def small(block: Block, **parts: object) -> Architecture:
    return Architecture(8, (block, block), **parts)  # pyright: ignore[reportArgumentType]


EVERY_PART = {
    **{name: small(Block.of(name)) for name in BLOCKS},
    **{
        f"{name} {choice}={value}": small(Block.of(name, **{choice: value}))
        for name, block in BLOCKS.items()
        for choice, values in block.CHOICES.items()
        for value in values[1:]
    },
    **{f"fusion {name}": small(Block.of("residual"), fusion=name) for name in FUSIONS},
    **{f"up {name}": small(Block.of("residual"), upsampler=name, upsampler_width=8) for name in UPSAMPLERS},
    **{f"skip {name}": small(Block.of("residual"), image_skip=name) for name in ("nearest", "bilinear", "bicubic")},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", EVERY_PART)
def test_every_part_exports(part: str, tmp_path: Path):
    assert export_onnx(build(EVERY_PART[part], seed=1).eval(), tmp_path / "m.onnx") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDABLE)
def test_every_published_network_exports(name: str, tmp_path: Path):
    assert export_onnx(build(published(name), seed=1).eval(), tmp_path / "m.onnx") < 1e-5
