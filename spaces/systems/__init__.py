"""Published networks that are architectures of the search space, by name; counts and sources in `System.source`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..architecture import Architecture, Block, Frame


@dataclass(frozen=True)
class System:
    """A published network: its architecture, where it comes from, and how its authors' weights name our modules.

    `renamed`: pairs (pattern, replacement) for `re.fullmatch`, from the authors' module path to ours.
    """

    architecture: Architecture
    source: str
    renamed: Mapping[str, str]


IMDN_FRAME = Frame(slope=0.05)

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
        {},
    ),
    "imdn": System(
        Architecture(width=64, blocks=(Block.of("imdb"),) * 8, frame=IMDN_FRAME),
        "IMDN as it won AIM 2019 (Hui et al.): 8 blocks, no attention, 893,936 parameters",
        {
            r"model\.0": "head.0",
            r"model\.1\.sub\.8": "body_conv",
            r"model\.1\.sub\.(\d)\.conv1\.0": r"blocks.\1.stages.0",
            r"model\.1\.sub\.(\d)\.conv2\.0": r"blocks.\1.stages.1",
            r"model\.1\.sub\.(\d)\.conv3\.0": r"blocks.\1.stages.2",
            r"model\.1\.sub\.(\d)\.conv4\.0": r"blocks.\1.last",
            r"model\.1\.sub\.(\d)\.conv4": r"blocks.\1.last",
            r"model\.1\.sub\.(\d)\.conv1x1": r"blocks.\1.fuse",
            r"model\.2(\.0)?": "upsampler.conv",
        },
    ),
    "imdn_paper": System(
        Architecture(
            width=64, blocks=(Block.of("imdb", attention="cca"),) * 6, fusion="concat", frame=IMDN_FRAME
        ),
        "IMDN, ACM Multimedia 2019 (Hui et al.): 6 blocks with contrast-aware channel attention, 715,176 parameters",
        {
            "fea_conv": "head.0",
            r"c\.0": "fusion.fuse",
            "LR_conv": "body_conv",
            r"upsampler\.0": "upsampler.conv",
            **{rf"IMDB{i + 1}\.c{j + 1}": f"blocks.{i}.stages.{j}" for i in range(6) for j in range(3)},
            **{rf"IMDB{i + 1}\.c4": f"blocks.{i}.last" for i in range(6)},
            **{rf"IMDB{i + 1}\.c5": f"blocks.{i}.fuse" for i in range(6)},
            **{rf"IMDB{i + 1}\.cca\.conv_du\.0": f"blocks.{i}.attention.squeeze" for i in range(6)},
            **{rf"IMDB{i + 1}\.cca\.conv_du\.2": f"blocks.{i}.attention.excite" for i in range(6)},
        },
    ),
    "rfdn": System(
        Architecture(
            width=50,
            blocks=(Block.of("rfdb"),) * 4,
            fusion="concat",
            frame=replace(IMDN_FRAME, value_range=255),
        ),
        "RFDN, winner of AIM 2020 (Liu et al.): 433,448 parameters",
        {
            "fea_conv": "head.0",
            r"c\.0": "fusion.fuse",
            "LR_conv": "body_conv",
            r"upsampler\.0": "upsampler.conv",
            **{rf"B{i + 1}\.c{j + 1}_d": f"blocks.{i}.distil.{j}" for i in range(4) for j in range(3)},
            **{rf"B{i + 1}\.c{j + 1}_r": f"blocks.{i}.refine.{j}" for i in range(4) for j in range(3)},
            **{rf"B{i + 1}\.c4": f"blocks.{i}.last" for i in range(4)},
            **{rf"B{i + 1}\.c5": f"blocks.{i}.fuse" for i in range(4)},
            **{
                rf"B{i + 1}\.esa\.{theirs}": f"blocks.{i}.attention.{ours}"
                for i in range(4)
                for theirs, ours in {
                    "conv1": "reduce",
                    "conv_f": "skip",
                    "conv2": "stride",
                    "conv_max": "pooled_1",
                    "conv3": "pooled_2",
                    "conv3_": "pooled_3",
                    "conv4": "expand",
                }.items()
            },
        },
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
        {},
    ),
    "latticenet": System(
        Architecture(
            width=64,
            blocks=(Block.of("lattice"),) * 4,
            fusion="backward",
            frame=Frame(head_depth=2, body_conv="after_skip", slope=0.05, mean_shift=True, value_range=255),
        ),
        "LatticeNet in AIM 2020's form (Luo et al.): 776,968 parameters",
        {},
    ),
}
