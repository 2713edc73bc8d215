"""Published networks that are architectures of the search space, by name; `SYSTEMS` lists them.

A new one: write its architecture here, name its authors' modules in `names.py`, and add it to `SYSTEMS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..architecture import Architecture, Block, Frame
from . import names


@dataclass(frozen=True)
class System:
    """A published network: its architecture, where it comes from, and how its authors' weights name our modules.

    `renamed`: pairs (pattern, replacement) for `re.fullmatch`, from the authors' module path to ours; none where
    weights are only known under our own names.
    """

    architecture: Architecture
    source: str
    renamed: Mapping[str, str] = field(default_factory=dict)


SYSTEMS: dict[str, System] = {
    "msrresnet": System(
        Architecture(
            width=64,
            blocks=(Block.of("residual"),) * 16,
            upsampler="two_step",
            upsampler_width=64,
            image_skip="bilinear",
            frame=Frame(head_activation=True, body_conv="none", feature_skip=False, slope=0.1),
        ),
        "MSRResNet, the baseline of AIM 2020 (KAIR's MSRResNet1): 1,517,571 parameters",
        names.MSRRESNET,
    ),
    "imdn": System(
        Architecture(width=64, blocks=(Block.of("imdb"),) * 8, frame=Frame(slope=0.05)),
        "IMDN as it won AIM 2019 (Hui et al.): 8 blocks, no attention, 893,936 parameters",
        names.IMDN,
    ),
    "imdn_paper": System(
        Architecture(
            width=64,
            blocks=(Block.of("imdb", attention="cca"),) * 6,
            fusion="concat",
            frame=Frame(slope=0.05),
        ),
        "IMDN, ACM Multimedia 2019 (Hui et al.): 6 blocks with contrast-aware channel attention, 715,176 parameters",
        names.IMDN_PAPER,
    ),
    "rfdn": System(
        Architecture(
            width=50,
            blocks=(Block.of("rfdb"),) * 4,
            fusion="concat",
            frame=Frame(slope=0.05, value_range=255),
        ),
        "RFDN, winner of AIM 2020 (Liu et al.): 433,448 parameters",
        names.RFDN,
    ),
    "pan": System(
        Architecture(
            width=40,
            blocks=(Block.of("scpa"),) * 16,
            upsampler="nearest_pa",
            upsampler_width=24,
            image_skip="bilinear",
            frame=Frame(slope=0.2),
        ),
        "PAN, third of AIM 2020 (Zhao et al.): 272,419 parameters",
        names.PAN,
    ),
    "latticenet": System(
        Architecture(
            width=64,
            blocks=(Block.of("lattice"),) * 4,
            fusion="backward",
            frame=Frame(head_depth=2, body_conv="after_skip", slope=0.05, mean_shift=True, value_range=255),
        ),
        "LatticeNet in AIM 2020's form (Luo et al.): 776,968 parameters",
        names.LATTICENET,
    ),
}
