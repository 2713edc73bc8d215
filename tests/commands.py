"""What the tests of the command line share: a tiny recipe and network, and what is expected of a refusal."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paretosr.spaces import Architecture, Block, Design

NETWORK = Design(Architecture(width=4, blocks=(Block.of("residual"),), image_skip="bilinear"))
RECIPE = {
    "device": "cpu",
    "data": {"source": "photos"},
    "space": {"blocks": [{"residual": {"attention": ["none"]}}], "widths": [4, 5, 6, 7, 8], "depths": [1, 2, 3]},
    "objectives": ["psnr_db", "activations_m"],
    "search": {"candidates": 1, "workers": 1},
    "train": {"steps": 2, "batch": 1, "patch": 8},
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: object
    out: str
    err: str


Command = Callable[..., Outcome]


def refused(outcome: Outcome, *words: str) -> None:
    """Checks that a command ended with exit code 2 and one line on stderr that holds all the words."""
    assert outcome.code == 2
    assert re.fullmatch(r"paretosr: [^\n]+\n", outcome.err), outcome.err
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err + outcome.out


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def photo(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path
