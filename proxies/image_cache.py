"""Decoded images in one flat file that every process of a run maps into memory instead of decoding them again.

Beside `<key>.u8` (for each image the HR bytes, then the LR bytes, channels first) stands `<key>.json` (names, LR sizes,
hash, notes). The key is made of the files' paths, sizes and times, the border and the layout version: a changed file
means another key. Processes map one and the same file, so the page cache holds it once. An old cache file is never in
the way and may be deleted at any time.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..spaces.errors import InputError
from .bicubic import Border, downscale_x4
from .image_decoding import decode, size_of
from .image_sources import Listing, Photo
from .writing import cache_folder

LAYOUT = 1
BYTES_PER_LR_PIXEL = 3 * (16 + 1)
VERIFIED_BYTES = 256 * 2**20  # this much is hashed in a fraction of a second; larger files are checked by their size
SMALLEST_LR_SIDE = 3  # below that nothing is left after PSNR's cut of 4 HR pixels on each side
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Index:
    """What the flat file holds: names, `(height, width)` of each LR image, the hash of it all, and remarks to show."""

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    hash: str
    notes: tuple[str, ...]


def _bytes_of(sizes: Iterable[tuple[int, int]]) -> int:
    return BYTES_PER_LR_PIXEL * sum(height * width for height, width in sizes)


class Digest:
    """The hash of an image set: sha256 over the border, then each image's name, size, HR and LR bytes."""

    def __init__(self, border: str):
        self._sha = hashlib.sha256(border.encode())

    def add(self, name: str, size: tuple[int, int], *pixels: np.ndarray) -> None:
        self._sha.update(f"\0{name}\0{size[0]}x{size[1]}\0".encode())
        for part in pixels:
            self._sha.update(part.tobytes())

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


def open_or_build(
    listing: Listing, border: Border, minimum: int, folder: Path | None, progress: Progress | None
) -> tuple[Index, Tensor]:
    """Gives the index and the flat uint8 tensor of a listing's images, decoding them only if there is no sound cache.

    Raises:
        InputError: an image or a pair that cannot be used, or a cache folder that may not be written.
        OSError: a disk that is full, or fails.
    """
    stem = (folder or cache_folder()) / _key(listing, border)
    opened = _open(stem, border)
    if opened is None:
        sizes = _lr_sizes(listing.photos)
        _check_sides(listing.photos, sizes, minimum)
        with _only_one_builder(stem):
            opened = _open(stem, border)  # another process may have built it while this one waited
            if opened is None:
                _build(stem, listing.photos, sizes, border, progress)
                opened = _open(stem, border)
    if opened is None:
        raise OSError(f"{stem}.u8 was just written and does not read back: is the disk sound?")
    _check_sides(listing.photos, opened[0].sizes, minimum)
    return opened


def _lr_sizes(photos: tuple[Photo, ...]) -> tuple[tuple[int, int], ...]:
    """Reads the LR height and width of each photo from the headers; a pair that does not fit is an InputError."""
    sizes = []
    for photo in photos:
        height, width = size_of(photo.hr)
        sizes.append((height // 4, width // 4))
        if photo.lr is not None and (found := size_of(photo.lr)) != sizes[-1]:
            raise InputError(
                f"{photo.hr} is {width}x{height}, so its LR image should be {width // 4}x{height // 4}, "
                f"but {photo.lr} is {found[1]}x{found[0]}"
            )
    return tuple(sizes)


def _check_sides(photos: tuple[Photo, ...], sizes: tuple[tuple[int, int], ...], minimum: int) -> None:
    needed = max(minimum, SMALLEST_LR_SIDE)
    small = [i for i, size in enumerate(sizes) if min(size) < needed]
    if small:
        height, width = sizes[small[0]]
        what = f"a training patch of {minimum}x{minimum} LR pixels" if minimum >= SMALLEST_LR_SIDE else "measuring PSNR"
        more = f"; {len(small)} of {len(sizes)} images are too small" if len(small) > 1 else ""
        raise InputError(
            f"{photos[small[0]].hr}: {4 * width}x{4 * height} pixels (cropped to multiples of 4) are too few: "
            f"{what} needs at least {4 * needed}x{4 * needed}{more}"
        )


def _key(listing: Listing, border: Border) -> str:
    facts: list[object] = [LAYOUT, border]
    for photo in listing.photos:
        for file in (photo.hr, photo.lr):
            if file is not None:
                status = file.stat()
                facts.append([photo.name, str(file.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


@contextmanager
def _only_one_builder(stem: Path) -> Iterator[None]:
    """Holds a lock that dies with the process, so that one process decodes and the others wait for its result."""
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        lock = stem.with_suffix(".lock").open("wb")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise
        raise InputError(
            f"{stem.parent}: decoded images cannot be kept here ({error.strerror}); "
            "set PARETOSR_CACHE to a folder that can be written"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(
                f"{stem.parent}: decoded images cannot be kept on a disk that locks no files ({error.strerror}); "
                "set PARETOSR_CACHE to a folder of a local disk"
            ) from None
        yield


def _open(stem: Path, border: Border) -> tuple[Index, Tensor] | None:
    """Maps a cache into memory; None if there is none or it is damaged."""
    try:
        found = json.loads(stem.with_suffix(".json").read_text())
        sizes = tuple((int(height), int(width)) for height, width in found["sizes"])
        index = Index(tuple(found["names"]), sizes, str(found["hash"]), tuple(found["notes"]))
        total = _bytes_of(sizes)
        if len(index.names) != len(sizes) or stem.with_suffix(".u8").stat().st_size != total:
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None
    # A private mapping: the tensor may be written to without touching the file, so torch has nothing to warn about.
    flat = torch.from_file(str(stem.with_suffix(".u8")), shared=False, size=total, dtype=torch.uint8)
    if total <= VERIFIED_BYTES and flat_hash(index.names, index.sizes, flat, border) != index.hash:
        return None
    return index, flat


def flat_hash(names: Iterable[str], sizes: Iterable[tuple[int, int]], flat: Tensor, border: str) -> str:
    """Hashes the images that lie in a flat tensor."""
    digest, pixels, at = Digest(border), flat.numpy(), 0
    for name, (height, width) in zip(names, sizes, strict=True):
        end = at + BYTES_PER_LR_PIXEL * height * width
        digest.add(name, (height, width), pixels[at:end])
        at = end
    return digest.hexdigest()


def _build(
    stem: Path,
    photos: tuple[Photo, ...],
    sizes: tuple[tuple[int, int], ...],
    border: Border,
    progress: Progress | None,
) -> None:
    """Decodes all images, a few at once, straight into the flat file; both files get their names when complete."""
    parts = {suffix: stem.with_suffix(f"{suffix}.part") for suffix in (".u8", ".json")}
    try:
        with parts[".u8"].open("wb") as file:
            # A disk without room for it all says so here, not after minutes of decoding.
            os.posix_fallocate(file.fileno(), 0, _bytes_of(sizes))
            index = _stream(file, photos, border, progress)
            _to_disk(file)
        with parts[".json"].open("wb") as file:
            file.write(json.dumps(asdict(index)).encode())
            _to_disk(file)
        for suffix, part in parts.items():
            part.replace(stem.with_suffix(suffix))
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _stream(file: BinaryIO, photos: tuple[Photo, ...], border: Border, progress: Progress | None) -> Index:
    digest, sizes, kinds = Digest(border), [], Counter[str]()
    for photo, (hr, lr, converted) in zip(photos, _decoded(photos, border), strict=True):
        size = (lr.shape[1], lr.shape[2])
        digest.add(photo.name, size, hr, lr)
        file.write(hr.tobytes())
        file.write(lr.tobytes())
        sizes.append(size)
        kinds.update([converted] if converted else [])
        if progress is not None:
            progress(len(sizes), len(photos))
    notes = tuple(
        f"{count} {kind} image{'s were' if count > 1 else ' was'} converted to 8-bit RGB"
        for kind, count in sorted(kinds.items())
    )
    return Index(tuple(photo.name for photo in photos), tuple(sizes), digest.hexdigest(), notes)


def _decoded(photos: tuple[Photo, ...], border: Border) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Yields the photos decoded, in order, a few ahead of the reader (Pillow and numpy let threads run at once)."""
    threads = min(len(os.sched_getaffinity(0)), 16)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[tuple[np.ndarray, np.ndarray, str]]] = deque()
        try:
            for photo in photos:
                ahead.append(pool.submit(_pair, photo, border))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _pair(photo: Photo, border: Border) -> tuple[np.ndarray, np.ndarray, str]:
    """Decodes one photo to HR (cropped to multiples of 4) and LR (read or made), and says what kind was converted."""
    hr, kind = decode(photo.hr)
    height, width = hr.shape[1] // 4 * 4, hr.shape[2] // 4 * 4
    hr = np.ascontiguousarray(hr[:, :height, :width])
    if photo.lr is None:
        return hr, downscale_x4(torch.from_numpy(hr), border).numpy(), kind
    lr, lr_kind = decode(photo.lr)
    return hr, lr, kind or lr_kind
