"""The cache of decoded images: built once, mapped by all, whole or not there, and never trusted when damaged."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from paretosr.proxies import image_cache
from paretosr.proxies.images import ImageSet, load_images
from paretosr.spaces.errors import InputError


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def write(path, seed):
    Image.fromarray(pixels(seed)).save(path)


@pytest.fixture
def load(tmp_path):
    """Loads all images of a folder with a cache of its own."""

    def load(source, **options) -> ImageSet:
        return load_images(source, "all", cache=tmp_path / "cache", **options)

    return load


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        write(folder / f"{i:03}.png", seed=i)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files decoded since the test began."""
    names = []

    def decode(path, original=image_cache.decode):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(image_cache, "decode", decode)
    return names


def test_images_are_decoded_once(load, photos, decoded):
    first = load(photos)
    assert len(decoded) == 4
    again = load(photos)
    assert len(decoded) == 4
    assert again.hash == first.hash
    assert torch.equal(again.flat, first.flat)


def test_a_set_may_be_written_to_without_harm(load, photos):
    images = load(photos)
    images.hr[0].zero_()
    assert load(photos).hr[0].any()


def shorten(cache):
    file = next(cache.glob("*.u8"))
    os.truncate(file, file.stat().st_size - 1)


def flip_a_bit(cache):
    file = next(cache.glob("*.u8"))
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)


def lose_pixels(cache):
    next(cache.glob("*.u8")).unlink()


def lose_index(cache):
    next(cache.glob("*.json")).unlink()


def tear_index(cache):
    next(cache.glob("*.json")).write_text('{"names": ["000.png"')


def foreign_index(cache):
    next(cache.glob("*.json")).write_bytes(b"[1, 2]")


@pytest.mark.parametrize("harm", [shorten, flip_a_bit, lose_pixels, lose_index, tear_index, foreign_index])
def test_a_damaged_cache_is_built_again(load, photos, decoded, tmp_path, harm):
    whole = load(photos)
    pixels_before = whole.flat.clone()
    harm(tmp_path / "cache")
    again = load(photos)
    assert len(decoded) == 8
    assert again.hash == whole.hash
    assert torch.equal(again.flat, pixels_before)


def test_a_changed_file_is_noticed(load, photos):
    before = load(photos)
    write(photos / "001.png", seed=99)
    after = load(photos)
    assert after.hash != before.hash
    assert torch.equal(after.hr[1], torch.from_numpy(pixels(99)).permute(2, 0, 1))


def test_processes_that_start_together_decode_once(load, photos, decoded):
    with ThreadPoolExecutor(4) as pool:
        hashes = {images.hash for images in pool.map(lambda _: load(photos), range(4))}
    assert len(hashes) == 1
    assert len(decoded) == 4


def test_an_interruption_leaves_no_half_written_file(load, photos, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(photos, progress=interrupt)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(load(photos)) == 4


def test_progress_is_reported(load, photos):
    seen = []
    load(photos, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_full_disk_is_no_input_error_and_leaves_nothing(load, photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        load(photos)
    assert caught.value.errno == errno.ENOSPC
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_is_named(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/cache: .* set PARETOSR_CACHE"):
        load_images(photos, "all", cache=tmp_path / "file" / "cache")


def test_a_cache_on_a_disk_without_locks_is_named(load, photos, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(image_cache.fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"cache: .* locks no files .* set PARETOSR_CACHE"):
        load(photos)


def test_the_cache_goes_where_the_environment_says(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOSR_CACHE", str(tmp_path / "elsewhere"))
    load_images(photos, "all")
    assert {file.suffix for file in (tmp_path / "elsewhere").iterdir()} == {".u8", ".json", ".lock"}
