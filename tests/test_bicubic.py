"""MATLAB bicubic x4, against golden images and a float64 reference written independently of the code under test.

`python tests/test_bicubic.py` writes the golden file again, from the reference alone.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paretosr.proxies.bicubic import BORDERS, TAPS, downscale_x4, upscale_x4
from paretosr.spaces.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "bicubic_x4.json"


def keys_cubic(x):
    x = np.abs(x)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def resize_lines(lines, length, border):
    """Resizes axis 0 to `length` as MATLAB's imresize does: weights of a widened kernel, normalised, over indices."""
    old = lines.shape[0]
    scale = length / old
    stretch = max(1.0, 1 / scale)
    centre = (np.arange(length) + 1) / scale + 0.5 * (1 - 1 / scale)  # one-based, as in MATLAB
    taps = int(np.ceil(4 * stretch)) + 2
    indices = np.floor(centre - 2 * stretch)[:, None] + np.arange(taps)
    weights = keys_cubic((centre[:, None] - indices) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    indices = indices.astype(int) - 1
    if border == "edge":
        indices = indices.clip(0, old - 1)
    else:
        there_and_back = np.concatenate([np.arange(old), np.arange(old)[::-1]])
        indices = there_and_back[indices % (2 * old)]
    return np.einsum("ot,ot...->o...", weights, lines.astype(np.float64)[indices])


def imresize(image, height, width, border, rounded=True):
    """`[C, H, W]` to `[C, height, width]`; rounded to uint8 after each pass (halves up), height first."""

    def rounding(x):
        return np.floor(x + 0.5).clip(0, 255) if rounded else x

    tall = rounding(resize_lines(image.transpose(1, 2, 0), height, border))
    wide = rounding(resize_lines(tall.transpose(1, 0, 2), width, border))
    return wide.transpose(2, 1, 0)


def formula(name):
    """Makes one of the golden HR images, uint8 `[3, H, W]`, from integer arithmetic alone."""
    height, width = {"chirp": (40, 56), "blocks": (36, 32), "noise": (12, 8)}[name]
    c, y, x = np.ogrid[:3, :height, :width]
    if name == "chirp":  # smooth in one corner, ever faster towards the other, with jumps from 255 to 0
        pixels = (3 * x * x + 5 * y * y + 7 * (c + 1) * x * y) // 8 % 256
    elif name == "blocks":  # black and white: overshoots are cut on both sides
        pixels = 255 * ((x // 3 + y // 5 + c) % 2)
    else:
        pixels = ((c * 96 + y * 8 + x + 1) * 2654435761) % 2**32 // 2**24
    return np.broadcast_to(pixels, (3, height, width)).astype(np.uint8)


NAMES = ("chirp", "blocks", "noise")


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_golden_images_are_met_to_the_last_bit(name, border):
    hr = formula(name)
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[name][border])
    height, width = hr.shape[1] // 4, hr.shape[2] // 4
    assert downscale_x4(torch.from_numpy(hr), border).numpy().tobytes() == golden
    assert imresize(hr, height, width, border).astype(np.uint8).tobytes() == golden


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 32), (8, 12), (64, 52), (100, 20)])
def test_any_size_equals_the_reference(height, width, border):
    hr = random_image(height, width, seed=height + width)
    lr = downscale_x4(torch.from_numpy(hr), border)
    assert lr.dtype == torch.uint8
    assert np.array_equal(lr.numpy(), imresize(hr, height // 4, width // 4, border))


@pytest.mark.shared
def test_all_119_matlab_pairs_are_met_to_the_last_bit(shared):
    exact = []
    for folder in ("Set5", "Set14", "B100"):
        for file in sorted((shared / "data" / f"{folder}_HR").iterdir()):
            hr = np.asarray(Image.open(file).convert("RGB"))
            hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4].transpose(2, 0, 1)
            golden = np.asarray(Image.open(shared / "data" / f"{folder}_LR_x4" / file.name).convert("RGB"))
            lr = downscale_x4(torch.from_numpy(hr.copy()), "edge").numpy()
            exact.append(np.array_equal(lr, golden.transpose(2, 0, 1)))
            if folder == "Set5":  # the reference is much slower
                assert np.array_equal(lr, imresize(hr, lr.shape[1], lr.shape[2], "edge"))
    assert len(exact) == 119
    assert all(exact)


def test_the_borders_differ_in_the_two_outermost_pixels_only():
    hr = torch.from_numpy(random_image(64, 80))
    difference = downscale_x4(hr, "edge") != downscale_x4(hr, "symmetric")
    assert difference.any()
    assert not difference[:, 2:-2, 2:-2].any()


def test_the_weights_are_those_of_the_widened_kernel():
    assert sum(TAPS) == 4096
    assert np.array_equal(np.array(TAPS) / 1024, keys_cubic((np.arange(16) - 7.5) / 4))


@pytest.mark.parametrize("shape", [(3, 10, 12), (3, 12, 10), (3, 0, 8), (12, 8), (1, 3, 8, 8)])
def test_a_size_that_four_does_not_divide_is_refused(shape):
    with pytest.raises(InputError, match=r"multiples of 4|uint8 \[3, H, W\]"):
        downscale_x4(torch.zeros(shape, dtype=torch.uint8))


def test_float_pixels_and_unknown_borders_are_refused():
    with pytest.raises(InputError, match="uint8"):
        downscale_x4(torch.zeros(3, 8, 8))
    with pytest.raises(InputError, match="did you mean 'symmetric'"):
        downscale_x4(torch.zeros(3, 8, 8, dtype=torch.uint8), "symetric")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (13, 9)])
def test_enlarging_equals_the_reference(height, width, border):
    lr = random_image(height, width)
    batch = torch.from_numpy(lr)[None]
    whole = upscale_x4(batch, border)
    assert whole.dtype == torch.float32
    expected = imresize(lr, 4 * height, 4 * width, border)
    assert np.array_equal((whole[0] * 255).round().numpy(), expected)
    smooth = upscale_x4(batch.double() / 255, border)[0].numpy() * 255
    assert np.allclose(smooth, imresize(lr, 4 * height, 4 * width, border, rounded=False), rtol=0, atol=1e-10)


def test_enlarging_keeps_a_constant_and_takes_batches():
    images = torch.stack([torch.full((3, 6, 7), 0.25), torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))])
    enlarged = upscale_x4(images)
    assert enlarged.shape == (2, 3, 24, 28)
    assert torch.equal(enlarged[0], torch.full((3, 24, 28), 0.25))
    assert torch.equal(enlarged[1:], upscale_x4(images[1:]))


def write_golden():
    golden = {}
    for name in NAMES:
        hr = formula(name)
        height, width = hr.shape[1] // 4, hr.shape[2] // 4
        golden[name] = {b: imresize(hr, height, width, b).astype(np.uint8).tobytes().hex() for b in BORDERS}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
