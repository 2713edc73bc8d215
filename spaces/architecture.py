"""An `Architecture` says all there is to say about a network of the search space, without being one.

It is frozen, checks itself, goes to JSON and back, and has one canonical form per graph, whose hash is its name.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from .blocks import BLOCKS
from .branches import BRANCHES
from .errors import InputError, unknown
from .fusion import FUSIONS
from .upsampler import UPSAMPLERS

IMAGE_SKIPS = ("none", "nearest", "bilinear", "bicubic")
BODY_CONVS = ("none", "before_skip", "after_skip")
VALUE_RANGES = (1, 255)
# Settings that older architectures do not name, with the value that changes nothing: of the frame, of a block type.
LATER: dict[str, dict[str, str]] = {"frame": {"branches": "none"}, "residual": {"norm": "none"}}
WIDEST = 1024  # a width beyond this is a slip of the keyboard

Choice = str | int | float


def member(what: str, given: object, known: Iterable[Any]) -> Any:
    """The one of the `known` values that equals `given` (3 for 3.0, but nothing for true); InputError without one."""
    for value in known:
        if value == given and not isinstance(given, bool):
            return value
    raise InputError(unknown(what, given, map(str, known)))


def whole(what: str, given: object, low: int, high: int) -> None:
    """Raises InputError unless `given` is a whole number in [low, high]."""
    if not isinstance(given, int) or isinstance(given, bool) or not low <= given <= high:
        raise InputError(f"{what} must be a whole number from {low} to {high}, not {given!r}")


@dataclass(frozen=True)
class Block:
    """One block: its type, and that type's own choices (those left out take the first value of `CHOICES`)."""

    type: str
    choices: tuple[tuple[str, Choice], ...] = ()

    def __post_init__(self) -> None:
        member("block", self.type, BLOCKS)
        allowed, complete = BLOCKS[self.type].CHOICES, {}
        for name, value in self.choices:
            member(f"choice of block '{self.type}'", name, allowed)
            complete[name] = member(f"{name} of block '{self.type}'", value, allowed[name])
        in_order = ((name, complete.get(name, values[0])) for name, values in allowed.items())
        object.__setattr__(self, "choices", tuple(in_order))

    @classmethod
    def of(cls, type_: str, **choices: Choice) -> "Block":
        """The block `type_` with the choices named, the others at their first value."""
        return cls(type_, tuple(choices.items()))

    def summary(self) -> str:
        """Type and the choices that differ from the first value: `imdb(cca)`, `rfdb(distilled 0.25, no attention)`."""
        allowed = BLOCKS[self.type].CHOICES
        said = [_in_words(name, value) for name, value in self.choices if value != allowed[name][0]]
        return f"{self.type}({', '.join(said)})" if said else self.type


def _in_words(name: str, value: Choice) -> str:
    """A choice as short as it can be understood: a name speaks for itself, a number does not."""
    if isinstance(value, str):
        return f"no {name}" if value == "none" else value
    return f"{name} {value}"


@dataclass(frozen=True)
class Frame:
    """What surrounds the body; fixed by the recipe, not searched.

    head_depth: 3x3 convolutions before the body. head_activation: a leaky ReLU after the head.
    body_conv: a 3x3 convolution after the fusion, `before_skip`, `after_skip`, or `none`.
    feature_skip: the head's output is added to the body's. slope: of every leaky ReLU in the network.
    mean_shift: subtract DIV2K's mean colour inside. value_range: 1 or 255, the range the network works in inside.
    branches: what the 3x3 convolutions of the blocks train with in parallel, merged afterwards; a key of `BRANCHES`.
    """

    head_depth: int = 1
    head_activation: bool = False
    body_conv: str = "before_skip"
    feature_skip: bool = True
    slope: float = 0.05
    mean_shift: bool = False
    value_range: int = 1
    branches: str = "none"

    def __post_init__(self) -> None:
        whole("frame.head_depth", self.head_depth, 1, 4)
        member("frame.body_conv", self.body_conv, BODY_CONVS)
        member("frame.branches", self.branches, BRANCHES)
        for name in ("head_activation", "feature_skip", "mean_shift"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"frame.{name} must be true or false, not {getattr(self, name)!r}")
        if not isinstance(self.slope, (int, float)) or isinstance(self.slope, bool) or not 0 <= self.slope < 1:
            raise InputError(f"frame.slope must be a number from 0 to below 1, not {self.slope!r}")
        # One spelling of each number: the hash is made of the text, where 0 and 0.0 differ.
        object.__setattr__(self, "slope", float(self.slope))
        object.__setattr__(self, "value_range", member("frame.value_range", self.value_range, VALUE_RANGES))

    def canonical(self) -> "Frame":
        """The one form of all frames that build this graph: without a skip, its body convolution has but one place."""
        if self.body_conv == "after_skip" and not self.feature_skip:
            return replace(self, body_conv="before_skip")
        return self


@dataclass(frozen=True)
class Architecture:
    """A network of the search space: `[N, 3, h, w]` to `[N, 3, 4h, 4w]`, both in [0, 1]."""

    width: int
    blocks: tuple[Block, ...]
    fusion: str = "none"
    upsampler: str = "direct"
    upsampler_width: int = 0
    image_skip: str = "none"
    frame: Frame = field(default_factory=Frame)

    def __post_init__(self) -> None:
        whole("width", self.width, 4, WIDEST)
        if not self.blocks:
            raise InputError("blocks: a network needs at least one block")
        member("fusion", self.fusion, FUSIONS)
        member("upsampler", self.upsampler, UPSAMPLERS)
        member("image_skip", self.image_skip, IMAGE_SKIPS)
        step = UPSAMPLERS[self.upsampler].WIDTH_STEP
        if step:
            whole("upsampler_width", self.upsampler_width, step, WIDEST)
            if self.upsampler_width % step:
                raise InputError(
                    f"upsampler_width of '{self.upsampler}' must be a multiple of {step}, not {self.upsampler_width}"
                )
        else:
            whole("upsampler_width", self.upsampler_width, 0, WIDEST)

    def canonical(self) -> "Architecture":
        """The one form of all architectures that build this graph: what has no effect is set to its plain value."""
        fusion = "none" if self.fusion == "backward" and len(self.blocks) == 1 else self.fusion
        upsampler_width = self.upsampler_width if UPSAMPLERS[self.upsampler].WIDTH_STEP else 0
        frame = self.frame.canonical()
        if (fusion, upsampler_width, frame) == (self.fusion, self.upsampler_width, self.frame):
            return self  # with the hash that it may know already
        return replace(self, fusion=fusion, upsampler_width=upsampler_width, frame=frame)

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits, equal for architectures that build the same graph, and across machines."""
        said = self.canonical().to_json()
        # What came later is left out where it is plain, so that a network keeps the name it had before.
        for part in (said["frame"], *said["blocks"]):
            for key, plain in LATER.get(part.get("type", "frame"), {}).items():
                if part[key] == plain:
                    del part[key]
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries; `from_json` takes them back."""
        return {
            "width": self.width,
            "blocks": [{"type": block.type, **dict(block.choices)} for block in self.blocks],
            "fusion": self.fusion,
            "upsampler": self.upsampler,
            "upsampler_width": self.upsampler_width,
            "image_skip": self.image_skip,
            "frame": asdict(self.frame),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """The architecture that `to_json` wrote; InputError names what is missing, foreign or wrong."""
        given = _checked_keys("architecture", data, cls)
        blocks = given.get("blocks")
        if not isinstance(blocks, (list, tuple)):
            raise InputError("architecture: blocks must be a list")
        frame = Frame(**_checked_keys("frame", given.get("frame", {}), Frame))
        return cls(**{**given, "blocks": tuple(_block(i, b) for i, b in enumerate(blocks)), "frame": frame})

    def summary(self) -> str:
        """One line: `32 wide: imdb, 2 x rfdb(no attention); concat fusion; direct; bilinear skip`."""
        runs: list[tuple[int, str]] = []
        for text in (block.summary() for block in self.blocks):
            if runs and runs[-1][1] == text:
                runs[-1] = (runs[-1][0] + 1, text)
            else:
                runs.append((1, text))
        body = ", ".join(f"{n} x {text}" if n > 1 else text for n, text in runs)
        parts = [f"{self.width} wide: {body}"]
        if self.fusion != "none":
            parts.append(f"{self.fusion} fusion")
        parts.append(f"{self.upsampler} {self.upsampler_width}" if self.canonical().upsampler_width else self.upsampler)
        if self.image_skip != "none":
            parts.append(f"{self.image_skip} skip")
        return "; ".join(parts)


def _block(index: int, data: Any) -> Block:
    if not isinstance(data, Mapping) or "type" not in data:
        raise InputError(f"architecture: blocks[{index}] must be a mapping with a 'type', not {data!r}")
    try:
        return Block(data["type"], tuple((k, v) for k, v in data.items() if k != "type"))
    except InputError as error:
        raise InputError(f"architecture: blocks[{index}]: {error}") from None


def _checked_keys(where: str, data: Any, model: type) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: must be a mapping, not {type(data).__name__}")
    known = {f.name for f in fields(model)}
    for key in data:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, known)}")
    if model is Architecture and "width" not in data:
        raise InputError(f"{where}: 'width' is missing")
    return dict(data)
