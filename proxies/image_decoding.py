"""One image file to 8-bit RGB pixels: what is converted, and what is said of a file that is no image."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ..spaces.errors import InputError

Result = TypeVar("Result")

# What Pillow raises on damaged files, found by damaging some thousand of them.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_KINDS = {
    "1": "black-and-white",
    "L": "greyscale",
    "LA": "greyscale",
    "La": "greyscale",
    "P": "palette",
    "PA": "palette",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGBA",
}


def _read(path: Path, what: Callable[[Image.Image], Result]) -> Result:
    try:
        with Image.open(path) as image:
            return what(image)
    except InputError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        reason = "is not an image" if isinstance(error, Image.UnidentifiedImageError) else f"is damaged ({error})"
        raise InputError(" ".join(f"{path}: {reason}".split())) from error


def size_of(path: Path) -> tuple[int, int]:
    """Reads the height and width of an image from its header, without decoding it."""
    width, height = _read(path, lambda image: image.size)
    return height, width


def decode(path: Path) -> tuple[np.ndarray, str]:
    """Decodes an image to uint8 `[3, H, W]` and says what kind it was if it had to be converted ("" if 8-bit RGB).

    Transparency is dropped, 16 bits are rounded to 8, of several frames the first is taken, an EXIF rotation is not
    applied.

    Raises:
        InputError: a file that is missing, no image, truncated, damaged, or holds floating-point pixels.
    """

    def pixels(image: Image.Image) -> tuple[np.ndarray, str]:
        kind = _kind(image)
        return np.array(np.moveaxis(_rgb(image, path), 2, 0), order="C"), kind

    return _read(path, pixels)


def _kind(image: Image.Image) -> str:
    if image.mode.startswith("I") or ";16" in str(getattr(image, "tile", "")):
        return "16-bit"  # Pillow calls 16-bit RGB "RGB" too; only its decoder's name tells
    return "" if image.mode == "RGB" else _KINDS.get(image.mode, image.mode)


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Gives `[H, W, 3]` uint8."""
    if image.mode == "F":
        raise InputError(f"{path}: holds floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16-bit greys at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
