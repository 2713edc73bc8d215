"""Images: the three kinds of source, splits, conversions, what bad input gets, and the hash."""

import socket

import numpy as np
import pytest
import torch
from PIL import Image

from paretosr.proxies.bicubic import downscale_x4
from paretosr.proxies.image_sources import Role
from paretosr.proxies.images import ImageSet, in_memory, load_images
from paretosr.spaces.errors import InputError


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path, height=16, width=20, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width, seed)).save(path)
    return path


def folder_of(path, count, height=16, width=20):
    for i in range(count):
        write(path / f"{i:03}.png", height, width, seed=i)
    return path


@pytest.fixture
def load(tmp_path):
    """`load_images` with a cache of its own."""

    def load(source, role: Role = "all", **options) -> ImageSet:
        return load_images(source, role, cache=tmp_path / "cache", **options)

    return load


# Sources and splits


def test_the_embedded_photos_come_without_network(load, monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("the network was used"))
    train, validation, everything = load("embedded", "train"), load("embedded", "validation"), load("embedded", "all")
    assert validation.names == ("astronaut.png", "flower.jpg")
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(train.names)
    assert sorted(train.names + validation.names) == list(everything.names)
    assert len(everything) == 8
    assert all(s.embedded and s.notes == () and s.label == "embedded photos" for s in (train, validation, everything))
    for hr, lr in zip(everything.hr, everything.lr, strict=True):
        assert hr.dtype == lr.dtype == torch.uint8
        assert hr.shape == (3, 4 * lr.shape[1], 4 * lr.shape[2])
        assert torch.equal(downscale_x4(hr, "symmetric"), lr)


def test_the_split_of_the_embedded_photos_is_fixed(load):
    with pytest.raises(InputError, match="always the same"):
        load("embedded", "train", held_out=3)


def test_pixels_are_those_of_the_file_cropped_to_multiples_of_four(load, tmp_path):
    write(tmp_path / "photos" / "a.png", 19, 30, seed=5)
    images = load(tmp_path / "photos", border="edge")
    expected = torch.from_numpy(pixels(19, 30, seed=5)[:16, :28]).permute(2, 0, 1)
    assert torch.equal(images.hr[0], expected)
    assert torch.equal(images.lr[0], downscale_x4(expected, "edge"))
    assert images.sizes == ((4, 7),)
    assert (images.label, images.border, images.embedded) == ("photos", "edge", False)


@pytest.mark.parametrize(
    ("count", "held_out", "expected"), [(2, None, 1), (25, None, 2), (250, None, 20), (10, 4, 4), (10, 9, 9)]
)
def test_a_folder_is_split_evenly_and_without_overlap(load, tmp_path, count, held_out, expected):
    folder = folder_of(tmp_path / "photos", count, 12, 12)
    train, validation = (load(folder, role, held_out=held_out) for role in ("train", "validation"))
    assert len(validation) == expected
    assert sorted(train.names + validation.names) == [f"{i:03}.png" for i in range(count)]
    gaps = np.diff([int(name[:3]) for name in validation.names])
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_a_limit_takes_images_evenly(load, tmp_path):
    folder = folder_of(tmp_path / "photos", 9, 12, 12)
    assert load(folder, limit=3).names == ("001.png", "004.png", "007.png")
    assert len(load(folder, limit=100)) == 9


def test_other_files_and_hidden_ones_are_no_images(load, tmp_path):
    folder = folder_of(tmp_path / "photos", 1)
    (folder / "notes.txt").write_text("x")
    (folder / "._000.png").write_text("what some systems leave behind")
    (folder / "more.png").mkdir()
    write(folder / "B.JPG")
    assert load(str(folder)).names == ("000.png", "B.JPG")


def div2k(root, train=3, valid=0, lr=False):
    for part, first, count in (("train", 1, train), ("valid", 801, valid)):
        for i in range(first, first + count):
            write(root / f"DIV2K_{part}_HR" / f"{i:04}.png", 24, 32, seed=i)
            if lr:
                write(root / f"DIV2K_{part}_LR_bicubic" / "X4" / f"{i:04}x4.png", 6, 8, seed=10_000 + i)
    return root


def test_a_div2k_tree_with_everything(load, tmp_path):
    tree = div2k(tmp_path / "DIV2K", train=3, valid=4, lr=True)
    train, validation = load(tree, "train"), load(tree, "validation")
    assert train.names == ("0001.png", "0002.png", "0003.png")
    assert validation.names == ("0801.png", "0802.png", "0803.png", "0804.png")
    assert torch.equal(train.lr[1], torch.from_numpy(pixels(6, 8, seed=10_002)).permute(2, 0, 1))  # read, not made
    assert load(tree, "validation", held_out=2).names == ("0802.png", "0804.png")
    assert load(tree, "all").names == train.names
    assert train.label == "DIV2K (DIV2K layout)"


def test_a_div2k_tree_without_lr_and_validation(load, tmp_path):
    tree = div2k(tmp_path / "DIV2K", train=3)
    train, validation = load(tree, "train"), load(tree, "validation")
    assert train.names + validation.names == ("0001.png", "0003.png", "0002.png")
    assert torch.equal(train.lr[0], downscale_x4(train.hr[0], "symmetric"))


# Conversions


def test_what_is_not_8_bit_rgb_is_converted_and_said_once(load, tmp_path):
    folder = tmp_path / "photos"
    write(folder / "a.png")
    rgb = Image.fromarray(pixels(16, 20))
    for name in ("b.png", "c.png"):
        rgb.convert("L").save(folder / name)
    rgba = rgb.convert("RGBA")
    rgba.putalpha(7)
    rgba.save(folder / "d.png")
    Image.fromarray(np.full((16, 20), 40_000, np.uint16)).save(folder / "e.png")
    rgb.convert("P").save(folder / "f.png", transparency=bytes(range(256)))
    images = load(folder)
    assert images.notes == (
        "1 16-bit image was converted to 8-bit RGB",
        "1 RGBA image was converted to 8-bit RGB",
        "2 greyscale images were converted to 8-bit RGB",
        "1 palette image was converted to 8-bit RGB",
    )
    hr = dict(zip(images.names, images.hr, strict=True))
    assert torch.equal(hr["d.png"], hr["a.png"])
    assert torch.equal(hr["b.png"], torch.from_numpy(np.array(rgb.convert("L"))).expand(3, -1, -1))
    assert hr["e.png"].unique().tolist() == [round(40_000 / 257)]
    assert load(folder).notes == images.notes


# What bad input gets


def truncated(folder):
    file = write(folder / "b.png", 120, 120)
    file.write_bytes(file.read_bytes()[:5000])


def damaged(folder):
    file = write(folder / "b.png", 120, 120)
    content = bytearray(file.read_bytes())
    content[60:90] = bytes(30)
    file.write_bytes(content)


def no_image(folder):
    (folder / "b.png").write_text("not an image\n")


def floating_point(folder):
    Image.fromarray(np.zeros((120, 120), np.float32)).save(folder / "b.tif")


def small(folder):
    write(folder / "b.png", 95, 300)


BAD_FILES = {
    truncated: "b.png: is damaged",
    damaged: "b.png: is damaged",
    no_image: "b.png: is not an image",
    floating_point: "b.tif: holds floating-point pixels",
    small: "b.png: 300x92 pixels .* a training patch of 24x24 LR pixels needs at least 96x96",
}


@pytest.mark.parametrize("spoil", BAD_FILES, ids=lambda spoil: spoil.__name__)
def test_a_bad_file_is_named_in_one_line_and_nothing_is_left_behind(load, tmp_path, spoil):
    folder = folder_of(tmp_path / "photos", 3, 100, 100)
    spoil(folder)
    for _ in range(2):
        with pytest.raises(InputError, match=BAD_FILES[spoil]) as caught:
            load(folder, minimum=24)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*.part")) + list(tmp_path.glob("cache/*.u8"))


def test_a_cached_image_is_still_measured_against_the_patch(load, tmp_path):
    folder = folder_of(tmp_path / "photos", 3, 40, 40)
    assert load(folder, minimum=10).sizes[0] == (10, 10)
    with pytest.raises(InputError, match="needs at least 44x44; 3 of 3 images are too small"):
        load(folder, minimum=11)


def test_an_image_too_small_for_psnr_is_refused(load, tmp_path):
    with pytest.raises(InputError, match="measuring PSNR needs at least 12x12"):
        load(folder_of(tmp_path / "photos", 2, 11, 30))


def absent(_):
    pass


def a_file(folder):
    folder.write_text("x")


def empty(folder):
    folder.mkdir()


def nested(folder):
    folder_of(folder / "inner", 2)


def single(folder):
    folder_of(folder, 1)


BAD_FOLDERS = {
    absent: "no such folder",
    a_file: "is a file",
    empty: r"holds no images \(png, ",
    nested: "it holds the folder inner",
    single: "its only image, 000.png, cannot be split",
}


@pytest.mark.parametrize("make", BAD_FOLDERS, ids=lambda make: make.__name__)
def test_a_bad_folder_gets_one_line_with_its_path(load, tmp_path, make):
    make(tmp_path / "photos")
    with pytest.raises(InputError, match=BAD_FOLDERS[make]) as caught:
        load(tmp_path / "photos", "train")
    assert str(tmp_path / "photos") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pair_of_different_sizes_is_refused_with_both(load, tmp_path):
    tree = div2k(tmp_path / "DIV2K", lr=True)
    write(tree / "DIV2K_train_LR_bicubic" / "X4" / "0003x4.png", 7, 8)
    with pytest.raises(InputError, match=r"0003.png is 32x24, .* should be 8x6, but .*0003x4.png is 8x7"):
        load(tree, "train")


def test_a_missing_lr_image_is_named(load, tmp_path):
    tree = div2k(tmp_path / "DIV2K", lr=True)
    (tree / "DIV2K_train_LR_bicubic" / "X4" / "0002x4.png").unlink()
    with pytest.raises(InputError, match=r"0002x4.png: the LR image of 0002.png is missing \(1 of 3 are\)"):
        load(tree, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "valid"}, "did you mean 'validation'"),
        ({"border": "mirror"}, "known: edge, symmetric"),
        ({"role": "train", "held_out": 3}, "holding out 3 of 3 images leaves none to train on"),
        ({"role": "train", "held_out": 0}, "held_out must be 1 or more, not 0"),
        ({"limit": -1}, "limit must be 1 or more, not -1"),
    ],
)
def test_impossible_wishes_are_refused(load, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        load(folder_of(tmp_path / "photos", 3), **options)


# The hash


def test_the_hash_covers_names_pixels_and_border_but_not_where_files_lie(load, tmp_path):
    hr = {
        name: torch.from_numpy(pixels(16, 20, seed)).permute(2, 0, 1)
        for seed, name in enumerate(("000.png", "001.png"))
    }
    plain = in_memory("x", hr)
    assert load(folder_of(tmp_path / "here", 2)).hash == load(folder_of(tmp_path / "there", 2)).hash == plain.hash
    changed = {**hr, "001.png": hr["001.png"].clone()}
    changed["001.png"][2, 15, 19] ^= 1
    others = [
        in_memory("x", changed),
        in_memory("x", hr, border="edge"),
        in_memory("x", {"a.png": hr["000.png"], "001.png": hr["001.png"]}),
        in_memory("x", {name: image.reshape(3, 20, 16) for name, image in hr.items()}),
    ]
    assert len({plain.hash, *(other.hash for other in others)}) == 5
    assert in_memory("y", hr).hash == plain.hash


def test_an_image_set_in_memory_equals_its_tensors():
    hr = {name: torch.from_numpy(pixels(*size)).permute(2, 0, 1) for name, size in (("a", (16, 20)), ("b", (12, 40)))}
    images = in_memory("made", hr)
    assert all(torch.equal(a, b) for a, b in zip(images.hr, hr.values(), strict=True))
    assert all(torch.equal(a, downscale_x4(b)) for a, b in zip(images.lr, hr.values(), strict=True))
    assert repr(images).startswith("ImageSet('made', 2 images, hash ")
