"""A recording made by a formula, for the tests of what replays one: no network of it was trained."""

import math
from random import Random

from paretosr.search.recording import Measured, Recorded, Recording
from paretosr.spaces import BLOCKS, Architecture, BlockChoices, Space

RUNGS = (10, 30, 90, 270)


def plain(name: str) -> BlockChoices:
    """A block type with a single choice of each kind."""
    return BlockChoices(name, tuple((choice, (values[0],)) for choice, values in BLOCKS[name].CHOICES.items()))


SPACE = Space(
    (plain("residual"), plain("scpa"), plain("imdb")), (8, 12, 16), (1, 2, 3), image_skips=("bilinear",)
)  # 117 networks
RECIPE = {
    "space": {
        "blocks": [{block.type: {name: list(values) for name, values in block.choices}} for block in SPACE.blocks],
        "widths": [8, 12, 16],
        "depths": [1, 2, 3],
        "image_skip": ["bilinear"],
    },
    "search": {"halving": {"rungs": 3, "eta": 3}, "start": 8},
    "train": {"steps": RUNGS[-1]},
}
FIRST = {
    "bicubic_psnr_db": 24.0,
    "reference": {
        "name": "imdn",
        "numbers": {"latency_ms": 100.0, "latency_ratio": 1.0, "activations_m": 150.0, "parameters_m": 0.9},
        "timing": {},
    },
}


def recorded(a: Architecture) -> Recorded:
    """Larger is better and slower, up to a quirk of each network; early PSNR says most of the late one."""
    random = Random(a.hash)
    size = a.width * len(a.blocks)
    quality = 25.0 + 1.2 * math.log(size) + random.gauss(0, 0.3)
    trainings = []
    for seed in range(2):
        noise = Random(f"{a.hash}:{seed}")
        psnr_db = [quality - 3.0 / (1 + at) + noise.gauss(0, 0.1 / (1 + at)) for at in range(len(RUNGS))]
        trainings.append(Measured(seed, tuple(psnr_db), tuple(0.01 * size * steps / 10 for steps in RUNGS)))
    ratio = 0.004 * size * random.uniform(0.7, 1.4)
    numbers = {
        "activations_m": 1.5 * size * random.uniform(0.8, 1.2),
        "parameters_m": 0.001 * size,
        "latency_ratio": ratio,
        "latency_ms": 100 * ratio,
    }
    intervals = {"latency_ratio": (0.98 * ratio, 1.02 * ratio), "latency_ms": (98 * ratio, 102 * ratio)}
    return Recorded(a, numbers, intervals, tuple(trainings))


def made(space: Space = SPACE, count: int | None = None) -> Recording:
    """So many networks of the space, by default all."""
    random, networks = Random(0), {}
    while len(networks) < (count or space.size):
        a = space.sample(random)
        networks.setdefault(a.hash, recorded(a))
    return Recording(RUNGS, networks, {"first": FIRST, "recipe": RECIPE})
