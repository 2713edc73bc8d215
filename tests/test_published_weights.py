"""Published weights: their authors' names for our modules, how files are read, and what the weights compute."""

import itertools
import os
import re
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from paretosr.proxies.bicubic import downscale_x4
from paretosr.proxies.psnr import psnr_db
from paretosr.spaces import BUILDABLE, NETWORKS, InputError, Network, build, inference_form, load_published, published
from paretosr.spaces.systems.weights import WEIGHT_NORM, read_state_dict

# The authors' module paths ({1..3} counts, {a,b} lists), and how many tensors these own.
THEIR_MODULES: dict[str, tuple[int, list[str]]] = {
    "msrresnet": (
        74,
        ["conv_first", "recon_trunk.{0..15}.conv{1,2}", "upconv{1,2}", "HRconv", "conv_last"],
    ),
    "imdn": (
        86,
        [
            *("model.0", "model.1.sub.{0..7}.conv{1..3}.0", "model.1.sub.{0..7}.{conv4,conv1x1}"),
            *("model.1.sub.8", "model.2"),
        ],
    ),
    "imdn_paper": (
        92,
        ["fea_conv", "IMDB{1..6}.c{1..5}", "IMDB{1..6}.cca.conv_du.{0,2}", "c.0", "LR_conv", "upsampler.0"],
    ),
    "rfdn": (
        128,
        [
            *("fea_conv", "B{1..4}.c{1..3}_{d,r}", "B{1..4}.c{4,5}"),
            "B{1..4}.esa.{conv1,conv_f,conv_max,conv2,conv3,conv3_,conv4}",
            *("c.0", "LR_conv", "upsampler.0"),
        ],
    ),
    "pan": (
        146,
        [
            *("conv_first", "SCPA_trunk.{0..15}.{conv1_a,conv1_b,k1.0,PAConv.k2,PAConv.k3,PAConv.k4,conv3}"),
            *("trunk_conv", "upconv{1,2}", "att{1,2}.conv", "HRconv{1,2}", "conv_last"),
        ],
    ),
    "latticenet": (
        208,
        [
            *("sub_mean", "conv{1,2}", "body_unit{1..4}.conv_block{0,1}.{0,2,4}"),
            *("body_unit{1..4}.{fea,x}_ca{1,2}.conv_{mean,std}.{0,2}", "body_unit{1..4}.compress"),
            *("{T,L}_tdm{1..3}.0", "tail.{0,1}", "add_mean"),
        ],
    ),
    "gcsr": (
        132,
        [
            *("sub_mean", "head.0", "light{1..6}.c{1,2,3,4,6,7}"),
            "light{1..6}.c{22,33,66,77}.{primary_conv,cheap_operation}.0",
            *("GEF.0", "LR_conv", "tail.0", "add_mean"),
        ],
    ),
    "amaf_net": (
        114,
        [
            *("", "skip.0", "head.0", "body.{0..7}.body.{0,2}", "{x,res,auxilary}_scale_list.{0..7}"),
            *("fusion_conv_list.{0..7}.0", "dense_skip.{0..7}.0", "tail.0"),
        ],
    ),
    "spsr": (
        71,
        [
            *("gaussian_conv", "sparse_prior.{g,v1,t1,v2,t2,s0,s1,s2}", "conv"),
            *("sft_branch{0..5}.sft.scale_conv{0..3}", "sft_branch{0..5}.sft.shift_conv{0,1}"),
            *("sft_branch{0..5}.block.{1,3}", "content.{conv_1x1,conv_3x3,conv_fuse}"),
            *("content.level1_{1,2}", "content.level2_{1..4}", "up_conv.{up_conv_1,up_conv_2,conv_last}"),
        ],
    ),
    "rlfn": (
        78,
        [
            *("conv_1", "block_{1..4}.{c1_r,c2_r,c3_r,c5}", "block_{1..4}.esa.{conv1,conv_f,conv2,conv3,conv4}"),
            *("conv_2", "upsampler.0"),
        ],
    ),
    "efdn": (
        142,
        [
            *("head", "cells.{0..3}.conv1.{conv1x1,act}", "cells.{0..3}.conv{2,3}.{rep_conv,act}", "cells.{0..3}.fuse"),
            "cells.{0..3}.att.{conv1,conv_f,conv_max,conv2,conv3,conv3_,conv4}",
            *("cells.{0..3}.branch.{0..3}", "local_fuse.{0..2}", "tail.0"),
        ],
    ),
    "span": (
        164,
        [
            *("conv_{1,2}.{sk,conv.0,conv.1,conv.2}", "block_{1..6}.c{1..3}_r.{sk,conv.0,conv.1,conv.2}"),
            *("conv_cat", "upsampler.0"),
        ],
    ),
}
# What their modules may own: beside weight and bias the factors of weight norm, and scalars.
OWNED = ("weight", "bias", "weight_g", "weight_v", "scale", "theta", "dw")


def expanded(path: str) -> list[str]:
    """`a{1..2}.{x,y}` as the shell would write it out."""
    pieces = []
    for piece in re.split(r"(\{.*?\})", path):
        inside = piece[1:-1]
        if not piece.startswith("{"):
            pieces.append([piece])
        elif ".." in inside:
            first, last = inside.split("..")
            pieces.append([str(number) for number in range(int(first), int(last) + 1)])
        else:
            pieces.append(inside.split(","))
    return ["".join(combination) for combination in itertools.product(*pieces)]


def our_module(name: str, theirs: str) -> str:
    matches = [(re.fullmatch(pattern, theirs), ours) for pattern, ours in NETWORKS[name].renamed.items()]
    found = [match.expand(ours) for match, ours in matches if match]
    assert len(found) <= 1, f"{theirs} is named by {len(found)} patterns"
    return found[0] if found else theirs


def as_published(name: str, network: nn.Module) -> dict[str, Tensor]:
    """The network's weights under its authors' names."""
    ours = network.state_dict()
    theirs = [
        f"{module}.{parameter}".lstrip(".")
        for path in THEIR_MODULES[name][1]
        for module in expanded(path)
        for parameter in OWNED
    ]
    return {key: ours[mine] for key in theirs if (mine := our_key(name, key)) in ours}


def our_key(name: str, theirs: str) -> str:
    module, _, parameter = theirs.rpartition(".")
    parameter = WEIGHT_NORM.get(parameter, parameter)
    return f"{our_module(name, module)}.{parameter}".lstrip(".")


def save(file: Path, held: object) -> Path:
    torch.save(held, file)
    return file


def refusal(name: str, file: Path) -> str:
    """What `load_published` says, which is one line that starts with the file, without the file."""
    with pytest.raises(InputError) as caught:
        load_published(name, file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


@pytest.fixture
def rfdn() -> dict[str, Tensor]:
    return as_published("rfdn", build(published("rfdn"), seed=2))


# Names


def test_every_table_of_names_is_looked_at_here() -> None:
    assert {name for name, system in NETWORKS.items() if system.renamed} == set(THEIR_MODULES)


@pytest.mark.parametrize("name", THEIR_MODULES)
def test_the_authors_names_cover_our_weights_one_to_one(name: str) -> None:
    network = build(published(name), device="meta")
    count, paths = THEIR_MODULES[name]
    assert len(as_published(name, network)) == len(network.state_dict()) == count
    modules = [our_module(name, theirs) for path in paths for theirs in expanded(path)]
    assert len(set(modules)) == len(modules)


@pytest.mark.parametrize("name", THEIR_MODULES)
def test_no_pattern_takes_one_of_our_own_names_for_another(name: str) -> None:
    modules = {key.rpartition(".")[0] for key in build(published(name), device="meta").state_dict()}
    assert [module for module in modules if our_module(name, module) != module] == []


# Loading


def same(network: Network, other: Network) -> bool:
    mine, theirs = network.state_dict(), other.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", THEIR_MODULES)
def test_weights_load_under_the_authors_names_and_under_ours(name: str, tmp_path: Path) -> None:
    network = build(published(name), seed=3)
    for held in (as_published(name, network), network.state_dict()):
        assert same(load_published(name, save(tmp_path / "weights.pth", held)), network)


@pytest.mark.parametrize("name", BUILDABLE)
def test_our_own_weights_load_in_either_form(name: str, tmp_path: Path) -> None:
    network = build(published(name), seed=3)
    assert same(load_published(name, save(tmp_path / "training.pth", network.state_dict())), network)
    formed = inference_form(network)
    assert same(load_published(name, save(tmp_path / "inference.pth", formed.state_dict())), formed)


def test_what_a_foreign_key_holds_does_not_reach_the_terminal(tmp_path: Path) -> None:
    message = refusal("rfdn", save(tmp_path / "weights.pth", {"\x1b[31mred\n": torch.zeros(1)}))
    assert "\x1b" not in message
    assert r"\x1b[31mred" in message


def test_merged_weights_load_as_the_inference_form(tmp_path: Path) -> None:
    """SPAN's authors publish nothing else."""
    network = build(published("span"), seed=3)
    merged = inference_form(network)
    assert same(load_published("span", save(tmp_path / "ours.pth", merged.state_dict())), merged)
    theirs = {
        key: value
        for path in ("conv_{1,2}.eval_conv", "block_{1..6}.c{1..3}_r.eval_conv", "conv_cat", "upsampler.0")
        for module in expanded(path)
        for parameter in ("weight", "bias")
        if (value := merged.state_dict().get(our_key("span", key := f"{module}.{parameter}"))) is not None
    }
    assert len(theirs) == 44
    assert same(load_published("span", save(tmp_path / "theirs.pth", theirs)), merged)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params": state},
        lambda state: {"params_ema": state, "params": {"stale": torch.zeros(1)}},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: OrderedDict((f"module.{key}", value) for key, value in state.items()),
        lambda state: {"state_dict": {f"module.{key}": nn.Parameter(value.double()) for key, value in state.items()}},
    ],
    ids=["params", "params_ema", "state_dict", "module.", "both, in float64"],
)
def test_wrapped_weights_load(wrap: Any, rfdn: dict[str, Tensor], tmp_path: Path) -> None:
    network = load_published("rfdn", save(tmp_path / "weights.pth", wrap(rfdn)))
    assert same(network, build(published("rfdn"), seed=2))
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


def test_weights_load_from_torchs_old_format(rfdn: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(rfdn, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(load_published("rfdn", tmp_path / "old.pth"), build(published("rfdn"), seed=2))


def test_missing_foreign_and_reshaped_weights_are_named(rfdn: dict[str, Tensor], tmp_path: Path) -> None:
    for key in ("fea_conv.bias", "c.0.weight"):
        del rfdn[key]
    rfdn["B1.c9.weight"] = torch.zeros(1)
    rfdn["LR_conv.weight"] = torch.zeros(50, 50, 1, 1)
    assert refusal("rfdn", save(tmp_path / "weights.pth", rfdn)) == (
        "not weights of 'rfdn': 2 missing (head.0.bias, fusion.fuse.weight), 1 foreign (B1.c9.weight), "
        "1 of another shape (body_conv.weight [50, 50, 1, 1] instead of [50, 50, 3, 3])"
    )


def test_one_weight_under_two_names_is_foreign_once(rfdn: dict[str, Tensor], tmp_path: Path) -> None:
    rfdn["head.0.bias"] = rfdn["fea_conv.bias"]
    assert refusal("rfdn", save(tmp_path / "weights.pth", rfdn)) == "not weights of 'rfdn': 1 foreign (head.0.bias)"


def test_weights_of_another_network_are_named_by_the_first_few(rfdn: dict[str, Tensor], tmp_path: Path) -> None:
    message = refusal("imdn", save(tmp_path / "weights.pth", rfdn))
    assert re.fullmatch(
        r"not weights of 'imdn': 86 missing \((\S+, ){3}\.\.\.\), 128 foreign \((\S+, ){3}\.\.\.\)", message
    )


def test_an_unknown_system_is_named() -> None:
    with pytest.raises(InputError, match="no published network 'rfdm'; did you mean 'rfdn'"):
        load_published("rfdm", Path("absent.pth"))


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_no_code_of_the_file_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for held in (Runs(trace), {"params": Runs(trace)}, nn.Conv2d(1, 1, 1)):
        file = save(tmp_path / "weights.pth", held)
        assert refusal("rfdn", file) == "not a state dict that torch can read without running code from the file"
    assert not trace.exists()


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([1, 2], "not a state dict: it holds list"),
        (torch.zeros(3), "not a state dict: it holds Tensor"),
        ({}, "not a state dict: it holds nothing"),
        ({"params": {}}, "not a state dict: it holds nothing"),
        ({"model": {"a": torch.zeros(1)}}, "not a state dict: 'model' is no tensor of floating point numbers"),
        ({1: torch.zeros(1)}, "not a state dict: 1 is no tensor of floating point numbers"),
        ({"a": torch.zeros(1, dtype=torch.int64)}, "not a state dict: 'a' is no tensor of floating point numbers"),
        ({"a": torch.zeros(2, 2, device="meta")}, "not a state dict: 'a' is no tensor of floating point numbers"),
    ],
)
def test_what_is_no_state_dict_is_refused(held: object, said: str, tmp_path: Path) -> None:
    assert refusal("rfdn", save(tmp_path / "weights.pth", held)) == said


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal("rfdn", tmp_path / "absent.pth") == "cannot be read: No such file or directory"
    assert refusal("rfdn", tmp_path) == "cannot be read: Is a directory"


def test_a_broken_file_is_refused_whatever_is_broken(tmp_path: Path) -> None:
    """Random bytes, cuts and flips; torch's readers raise a dozen kinds of errors at these, some with warnings."""
    random = np.random.default_rng(0)
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = [save(tmp_path / "new.pth", {"a": torch.zeros(3)}).read_bytes(), (tmp_path / "old.pth").read_bytes()]
    file = tmp_path / "weights.pth"
    for trial in range(150):
        content = np.frombuffer(whole[trial % 2], np.uint8).copy()
        if trial % 5 == 0:
            content = random.integers(0, 256, trial, dtype=np.uint8)
        else:
            content[random.integers(0, content.size, 4)] = random.integers(0, 256, 4)
            content = content[: random.integers(1, content.size + 1)] if trial % 3 else content
        file.write_bytes(content.tobytes())
        with suppress(InputError):  # and nothing else; some flips do no harm
            read_state_dict(file)


# The authors' own weights, where they are at hand

OWN_WEIGHTS = {  # file in `published`, PSNR on Set5 in dB
    "imdn": ("imdn_aim19/imdn_baseline.pth", 30.334),
    "rfdn": ("rfdn/RFDN_AIM.pth", 30.254),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", OWN_WEIGHTS)
def test_the_authors_weights_reproduce_the_authors_outputs(name: str, shared: Path) -> None:
    file = shared / "published" / OWN_WEIGHTS[name][0]
    network = load_published(name, file).eval()
    records = sorted(file.parent.glob("*.npz"))
    assert records
    for record in records:
        with np.load(record) as arrays:
            for kind in ("", "_noise"):
                if f"input{kind}" in arrays:
                    with torch.inference_mode():
                        y = network(torch.from_numpy(arrays[f"input{kind}"])).numpy()
                    wanted = arrays[f"output{kind}"]
                    assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max(), f"{record.name} {kind}"


@pytest.mark.shared
@pytest.mark.parametrize("name", OWN_WEIGHTS)
def test_the_authors_weights_reach_the_published_psnr_on_set5(name: str, shared: Path) -> None:
    weights, wanted_db = OWN_WEIGHTS[name]
    network = load_published(name, shared / "published" / weights).eval()
    psnrs_db = []
    for file in sorted((shared / "data" / "Set5_HR").glob("*.png")):
        with Image.open(file) as image:
            hr = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        # The published figures are those of newer MATLAB's LR images; the pairs beside these HR images are older and
        # give 0.002 to 0.003 dB more.
        lr = downscale_x4(hr, "symmetric")
        with torch.inference_mode():
            psnrs_db.append(psnr_db(network(lr[None] / 255)[0], hr))
    assert len(psnrs_db) == 5
    assert round(sum(psnrs_db) / 5, 3) == wanted_db
