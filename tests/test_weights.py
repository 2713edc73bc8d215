"""Weights of designs in safetensors files: whole and cut networks, written and read back to the last bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from paretosr.proxies.weights import save_weights, with_weights
from paretosr.spaces import Architecture, Block, Design, Frame, InputError, build, inference_form
from paretosr.spaces.branches import BRANCHES
from paretosr.spaces.plan import Plan

WHOLE = Design(Architecture(8, (Block("residual"),), image_skip="bilinear"))
CUT = Design(WHOLE.architecture, Plan(WHOLE.hash, {"blocks.0.first": ((1, 2), tuple(range(8)))}))
NORMED = Design(Architecture(8, (Block.of("inverted_residual", norm="batch", expansion=3),), image_skip="bilinear"))


@pytest.mark.parametrize("design", [WHOLE, CUT, NORMED], ids=["whole", "cut", "batch norm"])
def test_what_is_written_is_read_back_to_the_last_bit(design: Design, tmp_path: Path) -> None:
    network = build(design, seed=5).train()
    save_weights(network, design, tmp_path / "deep" / "weights.safetensors")
    again = with_weights(design, tmp_path / "deep" / "weights.safetensors")
    assert not again.training
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in network.state_dict().items())
    with safe_open(tmp_path / "deep" / "weights.safetensors", "pt") as file:
        assert Design.from_json(json.loads(file.metadata()["design"])) == design
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["weights.safetensors"]
    assert network.training


def test_weights_that_lie_otherwise_in_memory_are_written(tmp_path: Path) -> None:
    network = build(WHOLE, seed=5).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(network, WHOLE, tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(with_weights(WHOLE, tmp_path / "w.safetensors")(x), network.eval()(x))


@pytest.mark.parametrize("kind", sorted(set(BRANCHES) - {"none"}))
def test_each_form_that_was_kept_comes_back_as_that_form(kind: str, tmp_path: Path) -> None:
    design = Design(Architecture(8, (Block("residual"),), frame=Frame(branches=kind)))
    network = build(design, seed=2)
    merged = inference_form(network)
    assert merged.state_dict().keys() != network.state_dict().keys()
    x = torch.rand(1, 3, 9, 8)
    for form in (network, merged):
        save_weights(form, design, tmp_path / "w.safetensors")
        again = with_weights(design, tmp_path / "w.safetensors")
        assert again.state_dict().keys() == form.state_dict().keys()
        with torch.no_grad():
            torch.testing.assert_close(again(x), network.eval()(x))


def test_what_are_no_weights_of_it_is_said_in_one_line(tmp_path: Path) -> None:
    save_weights(build(WHOLE), WHOLE, tmp_path / "whole.safetensors")
    narrower = {name: value[:2] for name, value in build(WHOLE).state_dict().items()}
    save_file({name: value.contiguous() for name, value in narrower.items()}, tmp_path / "narrow.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"no such thing")
    (tmp_path / "folder").mkdir()
    for design, name in (
        (CUT, "whole.safetensors"),  # the same names, other widths
        (WHOLE, "narrow.safetensors"),
        (NORMED, "whole.safetensors"),
        (WHOLE, "noise.safetensors"),
        (WHOLE, "folder"),
    ):
        with pytest.raises(InputError) as caught:
            with_weights(design, tmp_path / name)
        said = str(caught.value)
        assert said.startswith(f"{tmp_path / name}: these are not the weights of this network: "), said
        assert "\n" not in said
    with pytest.raises(InputError, match=r"none\.safetensors: no such file; the weights of this candidate were not"):
        with_weights(WHOLE, tmp_path / "none.safetensors")
