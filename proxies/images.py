"""The images a network is trained on and judged by: decoded once, kept as uint8 in one flat piece of memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..spaces.errors import InputError, unknown
from .bicubic import BORDERS, Border, downscale_x4
from .image_cache import BYTES_PER_LR_PIXEL, Progress, flat_hash, open_or_build
from .image_sources import Role, find


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pairs of HR and LR images, their pixels in one flat uint8 tensor: each image's HR bytes, then its LR bytes.

    `hr` and `lr` are views into `flat`, uint8 `[3, 4h, 4w]` and `[3, h, w]`; nothing is copied. `hash` covers names,
    sizes, pixels and border: equal hashes mean equal data. `notes` are sentences for the user ("2 greyscale images were
    converted to 8-bit RGB").

    A set from `load_images` lies in a file mapped into memory. Worker processes should call `load_images` again with
    the same arguments and share the pages; a pickled set carries all of its pixels.
    """

    label: str
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # height and width of each LR image
    flat: Tensor
    border: Border
    hash: str
    embedded: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ImageSet({self.label!r}, {len(self)} images, hash {self.hash[:12]})"

    @cached_property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """Where in `flat` each image's HR and LR bytes begin."""
        found, at = [], 0
        for height, width in self.sizes:
            found.append((at, at + 48 * height * width))
            at += BYTES_PER_LR_PIXEL * height * width
        return tuple(found)

    def flat_on(self, device: torch.device) -> Tensor:
        """The pixels on a device; copied there once, for as long as this set lives."""
        if device.type == self.flat.device.type:
            return self.flat
        if device not in self._copies:
            self._copies[device] = self.flat.to(device)
        return self._copies[device]

    def is_on(self, device: torch.device) -> bool:
        """Says whether the pixels are on a device already."""
        return device.type == self.flat.device.type or device in self._copies

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}

    @cached_property
    def hr(self) -> tuple[Tensor, ...]:
        """The originals, uint8 `[3, 4h, 4w]`."""
        pairs = zip(self.offsets, self.sizes, strict=True)
        return tuple(self.flat[hr : hr + 48 * h * w].view(3, 4 * h, 4 * w) for (hr, _), (h, w) in pairs)

    @cached_property
    def lr(self) -> tuple[Tensor, ...]:
        """The originals shrunk four times, uint8 `[3, h, w]`."""
        pairs = zip(self.offsets, self.sizes, strict=True)
        return tuple(self.flat[lr : lr + 3 * h * w].view(3, h, w) for (_, lr), (h, w) in pairs)


def in_memory(label: str, hr: Mapping[str, Tensor], border: Border = "symmetric") -> ImageSet:
    """Makes an image set of uint8 `[3, H, W]` tensors (sides multiples of 4), without a file; LR images are made."""
    lr = {name: downscale_x4(image, border) for name, image in hr.items()}
    sizes = tuple((image.shape[1], image.shape[2]) for image in lr.values())
    flat = torch.cat([part.flatten() for name in hr for part in (hr[name], lr[name])])
    return ImageSet(label, tuple(hr), sizes, flat, border, flat_hash(hr, sizes, flat, border))


def load_images(
    source: str | Path,
    role: Role,
    *,
    border: Border = "symmetric",
    held_out: int | None = None,
    limit: int | None = None,
    cache: Path | None = None,
    minimum: int = 0,
    progress: Progress | None = None,
) -> ImageSet:
    """Loads the images of a source that belong to a role; the same arguments and files always give the same set.

    Args:
        source: "embedded" for the photos inside the installed scikit-image and scikit-learn; a folder of HR images; or
            a folder laid out as DIV2K is (it holds `DIV2K_train_HR`, perhaps `DIV2K_valid_HR`, perhaps
            `DIV2K_train_LR_bicubic/X4`). LR images are read where such a folder has them and made by `downscale_x4`
            elsewhere. Images are cropped at the right and bottom to multiples of 4; what is not 8-bit RGB is converted
            and mentioned in `notes`.
        role: "train" or "validation" (no image is in both), or "all", for a folder that serves one purpose only (of a
            DIV2K tree: all training images).
        border: how LR images are made at the border; see `downscale_x4`.
        held_out: how many images "validation" gets, spread evenly by sorted name: by default a tenth, at least 1, at
            most 20. Where a DIV2K tree has its own validation images: how many of those, by default all. Must be the
            same for both roles.
        limit: at most this many images of the role, spread evenly.
        cache: folder for the decoded images; default $PARETOSR_CACHE, else ~/.cache/paretosr.
        minimum: the LR pixels a side that a training patch needs; a smaller image is refused.
        progress: called with (images decoded, images in all) while a cache is built.

    Raises:
        InputError: no such folder, no images in it, a damaged or too small image, a pair of different sizes, a split
            that leaves one side empty, a cache folder that may not be written.
        OSError: a full or failing disk while decoded images are written.
    """
    if border not in BORDERS:
        raise InputError(unknown("border", border, BORDERS))
    listing = find(source, role, held_out, limit)
    index, flat = open_or_build(listing, border, minimum, cache, progress)
    return ImageSet(
        listing.label, index.names, index.sizes, flat, border, index.hash, embedded=listing.embedded, notes=index.notes
    )
