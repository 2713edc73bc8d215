"""The blocks a network may be made of. A new one: write its class in this folder, name it in `BLOCKS`.

A block is a module `Block(width, slope, **choices)` from `[N, width, H, W]` to the same shape. `CHOICES` names its own
settings and the values each may take, the published or plainest one first; a setting that means the same in two blocks
has the same name (`GENES` in `spaces/space.py` says how the sampler sees them). `slope` is the network's leaky ReLU
slope. A block that cannot take any size says so by `minimum_size` (pixels a side).
"""

from typing import Any

from .imdb import IMDB, IMDBR
from .lattice import Lattice
from .mobile import InvertedResidual, MobileNetV3
from .residual import Residual
from .rfdb import RFDB
from .scpa import SCPA

BLOCKS: dict[str, Any] = {
    "imdb": IMDB,
    "imdb_r": IMDBR,
    "rfdb": RFDB,
    "scpa": SCPA,
    "inverted_residual": InvertedResidual,
    "mobilenetv3": MobileNetV3,
    "lattice": Lattice,
    "residual": Residual,
}
