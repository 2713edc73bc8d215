"""Commands on single networks from the outside: evaluate, upscale, measure."""

from pathlib import Path

import pytest
import torch
from commands import NETWORK, contents, photo, refused
from PIL import Image

from paretosr.spaces import build

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
    ],
)
def test_a_bad_architecture_is_one_line(paretosr, tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    refused(paretosr("measure", "a.json", "--counts-only"), *said)


def test_an_unknown_network_is_one_line(paretosr):
    refused(paretosr("measure", "imdm", "--counts-only"), "imdm", "did you mean 'imdn'")
    refused(paretosr("measure", "imdn", "--reference", "imdm", "--device", "cpu"), "did you mean 'imdn'")
