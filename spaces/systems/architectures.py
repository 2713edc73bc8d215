"""The published networks that are architectures of the search space: they can seed a search, be mutated, be pruned."""

from ..architecture import Architecture, Block, Frame
from . import names
from .system import System

MSRRESNET_FRAME = Frame(head_activation=True, body_conv="none", feature_skip=False, slope=0.1)

MSRRESNET = System(
    Architecture(
        width=64,
        blocks=(Block.of("residual"),) * 16,
        upsampler="two_step",
        upsampler_width=64,
        image_skip="bilinear",
        frame=MSRRESNET_FRAME,
    ),
    title="MSRResNet",
    team="Baseline",
    source="Wang et al. 2018, after SRResNet; code: znsc/MSRResNet, KAIR's MSRResNet1",
    idea="16 plain residual blocks without batch norm, two PixelShuffle steps, bilinear image skip: the baseline",
    note="the ReLU inside the blocks is a function in the code, so the challenge counted no FLOPs for it",
    renamed=names.MSRRESNET,
)

IMDN = System(
    Architecture(width=64, blocks=(Block.of("imdb"),) * 8, frame=Frame(slope=0.05)),
    title="IMDN",
    team="Winner AIM19",
    source="Hui et al. 2019 (ACM Multimedia), as it won AIM 2019; code: KAIR, NTIRE2022_ESR",
    idea="information multi-distillation: each convolution hands a quarter of its channels to the end of the block",
    renamed=names.IMDN,
)

IMDN_PAPER = System(
    Architecture(width=64, blocks=(Block.of("imdb", attention="cca"),) * 6, fusion="concat", frame=Frame(slope=0.05)),
    title="IMDN (paper)",
    source="Hui et al. 2019 (ACM Multimedia); code: Zheng222/IMDN",
    idea="the paper's form: 6 blocks with contrast-aware channel attention, all their outputs fused by a 1x1",
    renamed=names.IMDN_PAPER,
)

FIMDN = System(
    Architecture(width=64, blocks=(Block.of("imdb"),) * 6, frame=Frame(slope=0.05, branches="asymmetric")),
    title="FIMDN",
    team="AiriA CG",
    source="AIM 2020 report, section 4.2; no public code",
    idea="IMDN with 6 blocks whose 3x3 convolutions train with 1x3 and 3x1 beside them, merged afterwards (ACNet)",
    basis="reading",
    note="all counts fit; whether the branches had batch norm (`frame.branches: asymmetric_bn`) is not said",
)

RFDN = System(
    Architecture(
        width=50,
        blocks=(Block.of("rfdb"),) * 4,
        fusion="concat",
        frame=Frame(slope=0.05, value_range=255),
    ),
    title="RFDN",
    team="NJU MCG",
    source="Liu et al. 2020 (ECCV workshops); code: njulj/RFDN",
    idea="distillation by 1x1 convolutions beside shallow residual ones, enhanced spatial attention: the winner",
    renamed=names.RFDN,
)

PAN = System(
    Architecture(
        width=40,
        blocks=(Block.of("scpa"),) * 16,
        upsampler="nearest_pa",
        upsampler_width=24,
        image_skip="bilinear",
        frame=Frame(slope=0.2),
    ),
    title="PAN",
    team="XPixel",
    source="Zhao et al. 2020 (ECCV workshops); code: zhaohengyuan1/PAN",
    idea="pixel attention (a full-size mask from one 1x1) in self-calibrated blocks and in the upsampler",
    renamed=names.PAN,
)

LATTICENET = System(
    Architecture(
        width=64,
        blocks=(Block.of("lattice"),) * 4,
        fusion="backward",
        frame=Frame(head_depth=2, body_conv="after_skip", slope=0.05, mean_shift=True, value_range=255),
    ),
    title="LatticeNet",
    team="HaiYun",
    source="Luo et al. 2020 (ECCV), in the challenge's form; code: ymff0592/super-resolution",
    idea="two residual paths cross like a lattice filter, with coefficients from means and deviations of channels",
    renamed=names.LATTICENET,
)

_E3 = Block.of("inverted_residual", expansion=3, norm="batch")
_E6 = Block.of("inverted_residual", expansion=6, norm="batch")
_PLAIN = Block.of("residual", activation="relu", norm="batch")
_LEAKY = Block.of("residual", activation="leaky_relu", norm="batch")

NEPTUNEAI = System(
    Architecture(
        width=64,
        blocks=(_LEAKY, _E3, _LEAKY, _E6) * 2 + (_PLAIN, _E3, _LEAKY, _E6, _PLAIN, _E3, _LEAKY, _E3),
        upsampler="two_step",
        upsampler_width=64,
        image_skip="bilinear",
        frame=MSRRESNET_FRAME,
    ),
    title="neptuneai",
    team="neptuneai",
    source="AIM 2020 report, section 4.16; no public code",
    idea="MSRResNet whose 16 blocks were searched among two inverted residuals and two residual blocks",
    basis="reading",
    note="the counts pin the blocks (5 inverted residuals with expansion 3, 3 with 6, and 8 residual, one or two of "
    "them with a plain ReLU that counts no FLOPs, as in MSRResNet), not their order",
)
