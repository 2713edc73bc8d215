"""Commands on single networks from the outside: evaluate, upscale, measure."""

import json
from pathlib import Path

import pytest
import torch
from commands import NETWORK, contents, photo, refused
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from paretosr.runs import network_commands
from paretosr.spaces import NETWORKS, System, build, published


class Tiny(nn.Module):
    """A published network with a module of its own: weight norm, and an exit that only training uses."""

    minimum_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.leg = nn.Conv2d(3, 48, 1)
        self.body = weight_norm(nn.Conv2d(3, 48, 3, padding=1))
        self.shuffle = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.body(x))

    def merged(self) -> "Tiny":
        self.leg = nn.Identity()
        return self


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(NETWORKS, "tiny", System(Tiny, title="Tiny", source="nowhere", idea="none"))
    return "tiny"


# ---- evaluate


def test_evaluate_says_psnr_beside_bicubic(paretosr, model, recipe):
    done = paretosr("evaluate", model, "--data", "photos")
    assert done.code == 0, done.err
    for word in ("0.png", "3.png", "mean", "bicubic (dB)"):
        assert word in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "photos"], ["exported folder", "--weights"]),
        (["model", "--data", "photos", "--system", "rfdn"], ["exported folder", "--weights"]),
        (["photos", "--data", "photos"], ["photos: is not an exported network"]),
        (["model", "--data", "nowhere"], ["nowhere: no such folder"]),
        (["model", "--data", "photos", "--border", "round"], ["border", "round"]),
        (["--system", "rfdm", "--weights", "list.pth", "--data", "photos"], ["rfdm", "did you mean 'rfdn'"]),
        (["--system", "rfdn", "--weights", "nowhere.pth", "--data", "photos"], ["nowhere.pth"]),
        (["--system", "rfdn", "--weights", "list.pth", "--data", "photos"], ["list.pth", "state dict"]),
        (["--system", "rfdn", "--weights", "junk.pth", "--data", "photos"], ["junk.pth", "state dict"]),
        (["--system", "rfdn", "--weights", "code.pth", "--data", "photos"], ["code.pth", "state dict"]),
        (["--system", "rfdn", "--weights", "imdn.pth", "--data", "photos"], ["imdn.pth", "not weights of 'rfdn'"]),
        (["--system", "rfdn", "--weights", "photos", "--data", "photos"], ["photos"]),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(paretosr, model, recipe, words, said):
    torch.save([1, 2, 3], "list.pth")
    torch.save(NETWORK, "code.pth")  # a pickled object, not tensors
    torch.save(build(NETWORK).state_dict(), "imdn.pth")
    Path("junk.pth").write_bytes(b"junk" * 100)
    refused(paretosr("evaluate", *words), *said)


@pytest.mark.parametrize("spoiled", ["architecture.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_a_spoiled_export_is_one_line(paretosr, model, recipe, spoiled, content):
    (model / spoiled).write_bytes(content)
    refused(paretosr("evaluate", model, "--data", "photos"), str(model))
    (model / spoiled).unlink()
    refused(paretosr("evaluate", model, "--data", "photos"), str(model))


@pytest.mark.parametrize("names", ["ours", "the authors'"])
def test_a_published_module_is_evaluated_in_its_inference_form(paretosr, recipe, tiny, tmp_path, names):
    weights = build(published(tiny), seed=4).state_dict()
    if names != "ours":
        old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for new, name in old.items():
            weights[f"body.{name}"] = weights.pop(f"body.{new}")
    torch.save(weights, tmp_path / "tiny.pth")
    done = paretosr("evaluate", "--system", tiny, "--weights", "tiny.pth", "--data", "photos")
    assert done.code == 0, done.err
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "architecture.json").write_text(json.dumps(published(tiny).to_json()))
    save_file(build(published(tiny), seed=4).state_dict(), tmp_path / "model" / "model.safetensors")
    exported = paretosr("evaluate", "model", "--data", "photos")
    assert exported.code == 0, exported.err
    assert exported.out == done.out


# ---- upscale


def test_upscale_makes_any_image_four_times_as_large(paretosr, model, tmp_path):
    odd, grey = photo(tmp_path / "odd.png", 23, 17), photo(tmp_path / "grey.jpg", 8, 5, "L")
    done = paretosr("upscale", model, odd, grey, "--out", "large")
    assert done.code == 0, done.err
    assert "92x68" in done.out
    assert sorted(file.name for file in Path("large").iterdir()) == ["grey_x4.png", "odd_x4.png"]
    for name, size in (("odd_x4.png", (92, 68)), ("grey_x4.png", (32, 20))):
        with Image.open(Path("large") / name) as image:
            assert (image.size, image.mode) == (size, "RGB")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model", "fine.png", "text.png"], ["text.png: is not an image"]),
        (["model", "fine.png", "half.png"], ["half.png: is damaged"]),
        (["model", "fine.png", "nowhere.png"], ["nowhere.png: cannot be read"]),
        (["model", "fine.png", "model"], ["model: cannot be read"]),
        (["model", "fine.png", "fine.jpg"], ["the same name"]),
        (["model", "fine.png", "--out", "text.png"], ["text.png: cannot be a folder"]),
        (["fine.png", "fine.png"], ["fine.png: is not an exported network"]),
    ],
)
def test_what_cannot_be_upscaled_is_one_line_and_nothing_is_written(paretosr, model, tmp_path, words, said):
    fine = photo(tmp_path / "fine.png", 16, 16).read_bytes()
    photo(tmp_path / "fine.jpg", 16, 16)
    (tmp_path / "text.png").write_text("not at all")
    (tmp_path / "half.png").write_bytes(fine[: len(fine) // 2])
    before = contents(tmp_path)
    refused(paretosr("upscale", *words), *said)
    assert contents(tmp_path) == before


# ---- measure, and the rest


def test_measure_counts_by_name_by_file_and_by_folder(paretosr, model):
    counted = paretosr("measure", "msrresnet", "imdn", "model", "model/architecture.json", "--counts-only")
    assert counted.code == 0
    assert "1,517,571" in counted.out
    assert "893,936" in counted.out
    parameters = f"{sum(p.numel() for p in build(NETWORK).parameters()):,}"
    assert counted.out.count(f" {parameters} ") == 2


def test_measure_times_beside_the_reference(paretosr, model):
    timed = paretosr("measure", "model", "--reference", "model", "--size", 16, "--device", "cpu")
    assert timed.code == 0, timed.err
    assert "model (reference)" in timed.out
    assert "95 % interval" in timed.out
    assert "fp32" in timed.out


def test_measure_takes_a_published_module_by_name_and_by_file(paretosr, tiny, tmp_path):
    (tmp_path / "design.json").write_text(json.dumps(published(tiny).to_json()))
    (tmp_path / "alone.json").write_text('{"system": "tiny"}')
    how = ("--protocol", "ntire", "--size", 16, "--device", "cpu")
    timed = paretosr("measure", tiny, "design.json", "alone.json", "--reference", tiny, *how)
    assert timed.code == 0, timed.err
    # Both factors of weight norm count, the exit does not.
    assert timed.out.count(f" {48 * 27 + 48 + 48:,} ") == 4
    assert "tiny (reference)" in timed.out


def test_a_published_network_that_cannot_be_built_is_one_line(paretosr, monkeypatch):
    unknown = System(None, title="Unknown", source="nowhere", idea="none", why_not="nobody described it")
    monkeypatch.setitem(NETWORKS, "unknown", unknown)
    refused(paretosr("measure", "unknown", "--counts-only"), "'unknown' cannot be built: nobody described it")
    Path("w.pth").write_bytes(b"")
    refused(paretosr("evaluate", "--system", "unknown", "--weights", "w.pth", "--data", "embedded"), "nobody described")


def test_measure_times_as_it_is_told(paretosr, model, tmp_path, monkeypatch):
    protocols = []
    monkeypatch.setattr(
        network_commands, "time_together", lambda networks, named, how, place: protocols.append(how) or {}
    )
    (tmp_path / "mine.yaml").write_text("latency: {protocol: ntire, size: [20, 24], images: 7}\n")

    def label(*words):
        done = paretosr("measure", "model", "--reference", "model", "--device", "cpu", *words)
        assert done.code == 0, done.err
        return protocols[-1].label().removesuffix(", 1 CPU thread, cuDNN benchmark on")

    assert label() == "steady, fp32, NCHW, eager, batch 1 of 3x256x256"
    assert label("--size", 16) == "steady, fp32, NCHW, eager, batch 1 of 3x16x16"
    assert label("--protocol", "aim2020") == "aim2020, fp32, NCHW, eager, 100 images like 3x339x510"
    assert label("--protocol", "aim2020", "--size", 16) == "aim2020, fp32, NCHW, eager, 100 images like 3x16x16"
    assert label("--recipe", "quick") == "steady, fp32, NCHW, eager, batch 1 of 3x64x64"
    assert label("--recipe", "mine.yaml") == (
        "ntire, fp32, NCHW, eager, 7 images like 3x20x24, 1 CPU thread, cuDNN benchmark off"
    )


def test_measure_by_a_recipe_of_a_challenge(paretosr, model, tmp_path):
    (tmp_path / "mine.yaml").write_text("latency: {protocol: ntire, size: [20, 24], images: 7}\n")
    timed = paretosr("measure", "model", "--reference", "model", "--device", "cpu", "--recipe", "mine.yaml")
    assert timed.code == 0, timed.err
    assert "model (reference)" in timed.out
    assert "7 images like 3x20x24" in timed.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "ntir"], ["no protocol 'ntir'; did you mean 'ntire'"]),
        (["--recipe", "quick", "--protocol", "ntire"], ["leave --protocol and --size out"]),
        (["--recipe", "quick", "--size", "64"], ["leave --protocol and --size out"]),
        (["--recipe", "quik"], ["quik", "did you mean 'quick'"]),
    ],
)
def test_what_says_not_how_to_time_is_one_line(paretosr, model, words, said):
    refused(paretosr("measure", "model", "--device", "cpu", *words), *said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", ["a.json"]),
        (b"[]", ["a.json"]),
        (b"3", ["a.json"]),
        (b'"architecture"', ["a.json"]),
        (b"\xff\xff", ["a.json"]),
        (b'{"width": 8, "blocks": [{"type": "imbd"}]}', ["a.json", "imbd", "did you mean 'imdb'"]),
        (b'{"architecture": {"width": 8}, "plan": null}', ["a.json", "blocks"]),
        (b'{"architecture": [], "plan": null}', ["a.json"]),
        (b'{"system": "imdm"}', ["a.json", "imdm"]),
    ],
)
def test_a_bad_architecture_is_one_line(paretosr, tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    refused(paretosr("measure", "a.json", "--counts-only"), *said)


def test_an_unknown_network_is_one_line(paretosr):
    refused(paretosr("measure", "imdm", "--counts-only"), "imdm", "did you mean 'imdn'")
    refused(paretosr("measure", "imdn", "--reference", "imdm", "--device", "cpu"), "did you mean 'imdn'")
