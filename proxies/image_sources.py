"""Which files a source of images consists of, and which of them are held out for validation."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..spaces.errors import InputError, unknown

Role = Literal["train", "validation", "all"]
ROLES: tuple[str, ...] = get_args(Role)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MOST_HELD_OUT = 20

# Natural RGB photos inside the wheels of scikit-image and scikit-learn, and their PSNR in dB under MATLAB bicubic x4
# (symmetric border). The two motorcycles are one scene seen by two eyes and must stay on one side of the split. The two
# held-out photos, a portrait and a flower, are those on which a small network (24 channels, 4 residual blocks, batch 8
# of 24x24 LR pixels) trained on other photos gained most over bicubic, so that differences show after a short training:
# 0.66 and 0.48 dB after 400 steps, 1.47 and 1.19 dB after 1,500. On the others, held out in their turn, it gained less
# after 1,500: coffee 0.86, motorcycles 0.77, chelsea 0.56, china 0.29, rocket 0.17.
EMBEDDED_TRAIN = (
    ("skimage", "data/chelsea.png"),  # 30.05
    ("skimage", "data/coffee.png"),  # 25.80
    ("skimage", "data/motorcycle_left.png"),  # 23.76
    ("skimage", "data/motorcycle_right.png"),  # 23.72
    ("skimage", "data/rocket.jpg"),  # 27.49
    ("sklearn", "datasets/images/china.jpg"),  # 21.07
)
EMBEDDED_HELD_OUT = (
    ("skimage", "data/astronaut.png"),  # 25.34
    ("sklearn", "datasets/images/flower.jpg"),  # 29.20
)


@dataclass(frozen=True)
class Photo:
    """One HR file and, where the source has it, the LR file that belongs to it."""

    name: str
    hr: Path
    lr: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The files chosen for one role, sorted by name, and what the source is called in reports."""

    label: str
    photos: tuple[Photo, ...]
    embedded: bool = False


def find(source: str | Path, role: Role, held_out: int | None = None, limit: int | None = None) -> Listing:
    """Lists the photos of a source that belong to a role; see `images.load_images` for the meaning of the arguments."""
    if role not in ROLES:
        raise InputError(unknown("role of images", role, ROLES))
    for name, number in (("held_out", held_out), ("limit", limit)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be 1 or more, not {number}")
    if str(source) == "embedded":
        listing = _embedded(role, held_out)
    else:
        folder = _existing_folder(source)
        layout = _div2k if (folder / "DIV2K_train_HR").is_dir() else _plain
        listing = layout(folder, role, held_out)
    photos = listing.photos if limit is None else spread(listing.photos, limit)[0]
    return Listing(listing.label, photos, listing.embedded)


def spread(photos: tuple[Photo, ...], count: int) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Splits photos into `count` that lie evenly spread in their order, and the rest; both keep the order."""
    total = len(photos)
    if count >= total:
        return photos, ()
    chosen = {(2 * i + 1) * total // (2 * count) for i in range(count)}
    rest = tuple(photo for i, photo in enumerate(photos) if i not in chosen)
    return tuple(photos[i] for i in sorted(chosen)), rest


def _embedded(role: Role, held_out: int | None) -> Listing:
    if held_out is not None:
        fixed = ", ".join(Path(file).name for _, file in EMBEDDED_HELD_OUT)
        raise InputError(f"held_out is for folders; of the embedded photos always the same are held out ({fixed})")
    files = {"train": EMBEDDED_TRAIN, "validation": EMBEDDED_HELD_OUT, "all": EMBEDDED_TRAIN + EMBEDDED_HELD_OUT}[role]
    photos = [Photo(Path(file).name, _inside_package(package, file)) for package, file in files]
    return Listing("embedded photos", tuple(sorted(photos, key=lambda photo: photo.name)), embedded=True)


def _inside_package(package: str, file: str) -> Path:
    """Finds a data file of an installed package without importing it: no loader of its own reaches for the network."""
    wheel = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the embedded photos need {wheel}, which is not installed: pip install {wheel}")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise InputError(f"the installed {wheel} holds no {file}: install the version named in constraints.txt")
    return path


def _existing_folder(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if not folder.exists():
        raise InputError(f"{folder}: no such folder of images (or write 'embedded' for the photos that come along)")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; a folder of images is wanted")
    return folder.resolve()


def _images_in(folder: Path) -> list[Path]:
    """Lists the image files directly inside a folder, sorted by name; hidden files are none."""
    try:
        found = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.name[0] != "." and f.is_file()]
        inner = [f for f in folder.iterdir() if f.is_dir()] if not found else []
    except PermissionError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    if not found:
        hint = f"; it holds the folder {sorted(inner)[0].name}: name that one?" if inner else ""
        raise InputError(f"{folder}: holds no images ({', '.join(suffix[1:] for suffix in SUFFIXES)}){hint}")
    return sorted(found, key=lambda file: file.name)


def _plain(folder: Path, role: Role, held_out: int | None) -> Listing:
    photos = tuple(Photo(file.name, file) for file in _images_in(folder))
    return Listing(folder.name, _split(folder, photos, role, held_out))


def _split(folder: Path, photos: tuple[Photo, ...], role: Role, held_out: int | None) -> tuple[Photo, ...]:
    if role == "all":
        return photos
    if len(photos) == 1:
        raise InputError(
            f"{folder}: its only image, {photos[0].name}, cannot be split into training and validation: add images, "
            "or name another folder for validation"
        )
    count = held_out if held_out is not None else min(max(len(photos) // 10, 1), MOST_HELD_OUT)
    if count >= len(photos):
        raise InputError(f"{folder}: holding out {count} of {len(photos)} images leaves none to train on")
    validation, train = spread(photos, count)
    return validation if role == "validation" else train


def _div2k(folder: Path, role: Role, held_out: int | None) -> Listing:
    """Lists a tree laid out as DIV2K is: its own validation images where it has them, else some held out of the others.

    "all" means the training images: a caller who validates elsewhere must not train on images others validate on.
    """
    label = f"{folder.name} (DIV2K layout)"
    train = _with_lr(folder / "DIV2K_train_HR", folder / "DIV2K_train_LR_bicubic" / "X4")
    if role == "all":
        return Listing(label, train)
    if not (folder / "DIV2K_valid_HR").is_dir():
        return Listing(label, _split(folder / "DIV2K_train_HR", train, role, held_out))
    if role == "train":
        return Listing(label, train)
    valid = _with_lr(folder / "DIV2K_valid_HR", folder / "DIV2K_valid_LR_bicubic" / "X4")
    return Listing(label, valid if held_out is None else spread(valid, held_out)[0])


def _with_lr(hr_folder: Path, lr_folder: Path) -> tuple[Photo, ...]:
    hr_files = _images_in(hr_folder)
    if not lr_folder.is_dir():
        return tuple(Photo(hr.name, hr) for hr in hr_files)
    photos = tuple(Photo(hr.name, hr, lr_folder / f"{hr.stem}x4.png") for hr in hr_files)
    missing = [photo for photo in photos if photo.lr is not None and not photo.lr.is_file()]
    if missing:
        raise InputError(
            f"{missing[0].lr}: the LR image of {missing[0].name} is missing ({len(missing)} of {len(photos)} are): "
            f"complete {lr_folder.name}, or move it away to have the LR images made"
        )
    return photos
