"""A recipe: what a run is to do, as one frozen, strict model; `recipe_file.py` reads it.

The string below a key is what editors and `docs/recipes.md` say about it. The methods `make_...` give the plain objects
of the floors below that the parts describe.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from ..proxies.bicubic import BORDERS
from ..proxies.latency import EXECUTIONS, LAYOUTS, PRECISIONS, PROTOCOLS, UNUSED, Protocol
from ..proxies.losses import LOSSES
from ..proxies.predictors import PSNR_MODELS
from ..proxies.training import SCHEDULES
from ..search.halving import PROMOTIONS
from ..search.objectives import OBJECTIVES, Limit
from ..search.samplers import SAMPLERS
from ..search.verdict import WinnerRule
from ..spaces import BUILDABLE, BlockChoices, Frame, InputError, Space
from ..spaces.architecture import BODY_CONVS, IMAGE_SKIPS, VALUE_RANGES, WIDEST
from ..spaces.branches import BRANCHES
from ..spaces.fusion import FUSIONS
from ..spaces.space import DEEPEST
from ..spaces.upsampler import UPSAMPLERS
from . import recipe_values as values
from .recipe_checks import refuse_impossible
from .recipe_part import Above0, Part, Positive
from .recipe_pruning import PruningPart
from .recipe_values import ONCE, OneOf

Path = Annotated[str, Field(min_length=1, title="a path")]
System = Annotated[str, OneOf("system", BUILDABLE)]
Number = Annotated[str, OneOf("number to limit", OBJECTIVES)]


class DataPart(Part):
    """The images to train on and to judge by."""

    source: Annotated[str, Field(min_length=1, title="embedded, or a path")] = "embedded"
    """`embedded` (eight photos that the installed packages bring), a folder of HR images, or a DIV2K tree (it holds
    `DIV2K_train_HR`; its LR images are used where it has them, and made otherwise)."""
    validation: Path | None = None
    """A folder of HR images to judge by, all of them. Without it some of the source's own are held out."""
    border: Annotated[str, OneOf("border", BORDERS)] = "symmetric"
    """How LR images are made at the border: `symmetric` as newer MATLAB and DIV2K do, `edge` as older MATLAB."""
    held_out: Positive | None = None
    """How many images of the source are held out to judge by. By default a tenth, at most 20; of a DIV2K tree that has
    validation images, all of these."""


class FramePart(Part):
    """What surrounds the body of every network of the space; fixed, not searched."""

    head_depth: Annotated[int, Field(ge=1, le=4)] = 1
    """3x3 convolutions before the body."""
    head_activation: bool = False
    """A leaky ReLU after the head."""
    body_conv: Annotated[str, OneOf("body_conv", BODY_CONVS)] = "before_skip"
    """Where a 3x3 convolution stands after the fusion: before the feature skip, after it, or nowhere."""
    feature_skip: bool = True
    """The head's output is added to the body's."""
    slope: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Slope of every leaky ReLU of the network on the negative side."""
    mean_shift: bool = False
    """DIV2K's mean colour is taken off inside the network, and put back at its end."""
    value_range: Annotated[int, OneOf("value_range", VALUE_RANGES)] = 1
    """Range of the values inside the network; networks take and give images in [0, 1] in any case."""
    branches: Annotated[str, OneOf("branches", BRANCHES)] = "none"
    """What the 3x3 convolutions of the blocks train with in parallel, merged before anything is timed or exported:
    nothing, 1x3 and 3x1 (`asymmetric`, as ACNet does), or these with a batch norm after each."""


Choices = dict[str, list[str | int | float]]
BlockPart = Annotated[dict[str, Choices], values.BLOCK, values.BLOCK_SCHEMA]


class SpacePart(Part):
    """The networks a search may visit. Every list names what is allowed; blocks may differ along a network."""

    blocks: Annotated[list[BlockPart], Field(min_length=1), ONCE]
    """The block types. A name alone, like `imdb`, leaves its choices open; `imdb: {attention: [none, cca]}`
    narrows them."""
    widths: Annotated[list[Annotated[int, Field(ge=4, le=WIDEST)]], Field(min_length=1), ONCE]
    """Channels of the body. A GPU likes multiples of 8."""
    depths: Annotated[list[Annotated[int, Field(ge=1, le=DEEPEST)]], Field(min_length=1), ONCE]
    """Numbers of blocks. Leave no gaps: networks grow and shrink by one block."""
    fusion: Annotated[list[Annotated[str, OneOf("fusion", FUSIONS)]], Field(min_length=1), ONCE] = ["none"]
    """How the outputs of the blocks become one: the last one alone, all concatenated, or two at a time backwards."""
    upsampler: Annotated[list[Annotated[str, OneOf("upsampler", UPSAMPLERS)]], Field(min_length=1), ONCE] = ["direct"]
    """How features become an image four times as large."""
    upsampler_width: Annotated[list[Annotated[int, Field(ge=1, le=WIDEST)]], ONCE] = []
    """Channels of the upsampler; `direct` has none of its own, the others need this list."""
    image_skip: Annotated[list[Annotated[str, OneOf("image_skip", IMAGE_SKIPS)]], Field(min_length=1), ONCE] = ["none"]
    """The interpolated input that is added to the output."""
    frame: FramePart = FramePart()

    def space(self) -> Space:
        """The space these lists describe."""
        blocks = [
            BlockChoices(name, tuple((choice, tuple(allowed)) for choice, allowed in choices.items()))
            for entry in self.blocks
            for name, choices in entry.items()
        ]
        return Space(
            blocks=tuple(blocks),
            widths=tuple(self.widths),
            depths=tuple(self.depths),
            fusions=tuple(self.fusion),
            upsamplers=tuple(self.upsampler),
            upsampler_widths=tuple(self.upsampler_width),
            image_skips=tuple(self.image_skip),
            frame=Frame(**self.frame.model_dump()),
        )


class HalvingPart(Part):
    """Multi-objective successive halving: all networks are trained for a little, the promising ones further."""

    rungs: Annotated[int, Field(ge=2, le=8)] = 3
    """Rungs at which a network is measured; the last one is the whole training."""
    eta: Annotated[int, Field(ge=2, le=10)] = 3
    """One of so many is trained on, and so many times as long: of 3 rungs the first is a ninth of the whole."""
    promote: Annotated[str, OneOf("promotion", PROMOTIONS)] = "hypervolume"
    """What decides between networks with equally few dominators: `hypervolume`, the one that adds most of it to those
    already trained on, or `distance`, the one farthest from them (always so with more than 4 objectives)."""


class PrefilterPart(Part):
    """Predictors choose which of several proposals is evaluated. What is recorded is measured, always."""

    proposals: Annotated[int, Field(ge=2, le=100)] = 8
    """Among so many."""
    model: Annotated[str, OneOf("predictor", PSNR_MODELS)] = "extra_trees"
    """What predicts PSNR, from the genome and the length of the training."""


class SearchPart(Part):
    """How to search, and for how long: `candidates`, `minutes` and `steps` end it, whichever comes first."""

    sampler: Annotated[str, OneOf("sampler", SAMPLERS)] = "evolution"
    """Who proposes: `evolution` (mutates and crosses networks block by block), `nsga2`, `tpe`, or `random`. With the
    extra `nni` also two of nni's tuners, `nni_tpe` and `nni_anneal`, which know one number: each proposal weighs the
    objectives anew. nni's Evolution cannot be told what others proposed, so a search could not go on with it."""
    candidates: Positive = 100
    """Networks to train, with `halving` to whatever rung. Those that break a limit before their training do not
    count."""
    minutes: Above0 | None = None
    """Wall time, over all lives of a run that is stopped and resumed. No new network is begun after it."""
    steps: Positive | None = None
    """Training steps of all networks together."""
    at_least: Annotated[int, Field(ge=0)] = 0
    """Networks that are trained even where `minutes` are over before."""
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Trainings at a time. By default one for each core of a CPU, and one for each share of a GPU (`train.gpu_share`).
    With `--ray` it counts over the whole cluster, and more than that holds is refused."""
    start: Positive = 24
    """Networks drawn at random, after those of `seeded_with`, before `evolution` begins; every block type comes up."""
    seeded_with: Annotated[list[System], ONCE] = []
    """Published networks to begin with. They must lie in the space, its frame included."""
    beside: Annotated[list[System], ONCE] = []
    """Published networks that are measured and trained as those of the search are, and shown beside them; they need not
    lie in the space, and `candidates` does not count them."""
    halving: HalvingPart | None = None
    """Trains in rungs: of all networks measured at a rung, those with the fewest dominators in the objectives, PSNR so
    far among them, are trained on. Only networks trained to the end stand on the front. Without it all of them are."""
    prefilter: PrefilterPart | None = None
    """Lets predictors, which learn from the candidates so far, choose which of several proposals is evaluated."""
    task_minutes: Above0 | None = None
    """A single training or timing that takes longer has failed."""


class TrainPart(Part):
    """How a network is trained: Adam, on random crops, turned and flipped."""

    steps: Positive = 20_000
    """Optimiser steps of one network."""
    fit: bool = False
    """Fewer steps where otherwise not all `search.candidates` would be trained within `search.minutes`."""
    batch: Positive = 16
    """Patches in a step."""
    patch: Annotated[int, Field(ge=8, le=1024)] = 48
    """LR pixels a side of a patch; the HR patch has four times as many. No image may be smaller."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    """Adam's, at the start."""
    schedule: Annotated[str, OneOf("schedule", SCHEDULES)] = "cosine"
    """What becomes of the learning rate: `cosine` falls to 0, `milestones` halves it at each one, `constant` stays."""
    milestones: list[Annotated[float, Field(gt=0, lt=1, title="a share of the steps, above 0 and below 1")]] = []
    """For that schedule: the shares of the steps after which the rate is halved, like [0.5, 0.8]."""
    loss: Annotated[str, OneOf("loss", LOSSES)] = "l1"
    """What is minimised: `l1`; `charbonnier`, which is smooth at 0; `l2`; `gradient`, L1 of pixels and a little of the
    differences between neighbours; `multi_exit`, the mean L1 over all exits of a network that has early ones."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the running mean of the weights, which is then what is judged and kept; 0.999 is usual."""
    grow_at: list[Annotated[float, Field(gt=0, lt=1, title="a share of the steps, above 0 and below 1")]] = []
    """Shares of the steps at which a network whose kernels grow while it trains gets more of them, like [0.25, 0.5].
    That is uestc_medialab; all others are refused."""
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How much of a GPU one training takes: with 0.25 four of them share one. Its memory is divided by nothing but
    their sizes; what finds too little is tried once more on a whole GPU."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of one node that share each batch of a full training (`paretosr train`). A network of a search has one."""


class LatencyPart(Part):
    """How latency is measured. All of it is part of the number: figures that differ in any of it do not compare."""

    protocol: Annotated[str, OneOf("protocol", PROTOCOLS)] = "steady"
    """`steady`: warm up, then time all networks and the reference in turn, round by round, and take medians. Two
    others time whole images of several sizes, one at a time and without a warm-up, as challenges did: `aim2020` takes
    the mean over the images, best of three passes; `ntire` the mean of one pass, with cuDNN's benchmark off. Both want
    `execution: eager` and `batch: 1`."""
    precision: Annotated[str, OneOf("precision", PRECISIONS)] = "fp32"
    """Of weights and input. `fp32` has TF32 off; `tf32` exists on a GPU only."""
    layout: Annotated[str, OneOf("layout", LAYOUTS)] = "nchw"
    """Of the pixels in memory; with `fp16` on a GPU, `nhwc` is the faster one."""
    execution: Annotated[str, OneOf("execution", EXECUTIONS)] = "eager"
    """`eager`, `compiled` by torch.compile, or a replayed CUDA `graph` (on a GPU only)."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 1
    """Images in a forward."""
    size: Annotated[tuple[int, int], values.SIZE, values.SIZE_SCHEMA] = (256, 256)
    """LR pixels of the timed image. For `aim2020` and `ntire` of most images, by default [339, 510]; of eight one is
    turned by a quarter, one a little higher and one a little lower."""
    images: Annotated[int, Field(ge=5, le=1000)] = 100
    """For `aim2020` and `ntire`: images of a pass. Their pixels are noise, which changes no time."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Of a forward on a CPU."""
    cudnn_benchmark: bool = True
    """On a GPU: cuDNN tries its algorithms and takes the fastest. `aim2020` has it on, `ntire` off."""
    warmup_s: Annotated[float, Field(gt=0, le=600)] = 0.1
    """For `steady`: seconds of warm-up for each network."""
    rounds: Annotated[int, Field(ge=5, le=10_000)] = 15
    """For `steady`: rounds at first, and again as long as an interval is too wide."""
    max_rounds: Annotated[int, Field(ge=5, le=10_000)] = 60
    """For `steady`: rounds at most. An interval that is too wide even then is marked in the report."""
    interval: Above0 = 0.05
    """The widest 95 % interval that is accepted, as a share of the ratio to the reference."""
    device_kind: Annotated[str, Field(min_length=1, title="a device's name, or a part of it")] | None = None
    """The kind of GPU (or CPU, where `device` is cpu) to time on, by its name as `paretosr doctor` shows it, or a part
    of that, like H100. A cluster with several kinds needs it: figures of two kinds do not compare."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_protocol_has_it(cls, given: Any) -> Any:
        """Where a challenge's protocol is asked for, its own image size and cuDNN setting, unless others are given."""
        name = given.get("protocol") if isinstance(given, dict) else None
        if not isinstance(name, str) or name == "steady" or name not in PROTOCOLS:
            return given
        own = PROTOCOLS[name]
        return {"size": own.size, "cudnn_benchmark": own.cudnn_benchmark, **given}


class ConfirmPart(Part):
    """What is done with the front's members at the end, beside timing them again, all together."""

    seeds: Annotated[int, Field(ge=0, le=100)] = 0
    """Further trainings of each, with other seeds: they give PSNR its interval."""


class ReportPart(Part):
    """The report."""

    title: str = ""
    """Its title; by default the recipe's name."""
    tensorboard: bool = False
    """Writes curves for TensorBoard, into `tensorboard/` of the run's folder; wants the extra `[tensorboard]`."""


class Recipe(Part):
    """A whole recipe. A search needs `space`; one that trains or prunes a given network has `network` instead."""

    description: str = ""
    """One sentence for people."""
    seed: Annotated[int, Field(ge=0)] = 0
    """All random draws depend on it and on the candidate's number, on nothing else."""
    device: Annotated[str, values.DEVICE, values.DEVICE_SCHEMA] = "auto"
    """Where networks are trained and timed; `auto` is a GPU where there is one."""
    data: DataPart = DataPart()
    space: SpacePart | None = None
    network: Annotated[str, Field(min_length=1, title="a published network, or a path")] | None = None
    """The one network to train: a published one by its name, or a JSON file such as the `architecture.json` of an
    export."""
    objectives: Annotated[list[Annotated[str, OneOf("objective", OBJECTIVES)]], Field(min_length=1), ONCE] = [
        "psnr_db",
        "latency_ratio",
        "activations_m",
    ]
    """What the front is drawn over; each knows which way is better."""
    limits: Annotated[
        dict[Annotated[str, OneOf("number to limit", OBJECTIVES)], Annotated[str, values.CONDITION]],
        values.LIMITS_SCHEMA,
    ] = {}
    """What a network must keep to, like `activations_m: '<= 150'`. A network that breaks a limit on its counts or its
    latency is recorded and not trained."""
    reference: System = "imdn"
    """The published network that latency is compared with."""
    search: SearchPart = SearchPart()
    train: TrainPart = TrainPart()
    latency: LatencyPart = LatencyPart()
    pruning: PruningPart | None = None
    confirm: ConfirmPart = ConfirmPart()
    winner: Annotated[str | dict[str, dict[str, str]], values.WINNER, values.WINNER_SCHEMA] = "knee"
    """Which member of the front wins: the `knee`, the `fastest` that keeps a condition (the challenge's rule), or the
    `best_psnr` that keeps one."""
    report: ReportPart = ReportPart()

    @model_validator(mode="after")
    def _possible(self) -> "Recipe":
        refuse_impossible(self)
        return self

    @property
    def has_front(self) -> bool:
        """Whether its runs compare networks by all objectives, and not only train one."""
        return self.space is not None or self.pruning is not None

    def make_space(self) -> Space | None:
        """The search space, None in a recipe without one."""
        try:
            return self.space.space() if self.space else None
        except InputError as error:
            raise InputError(f"space.{error}") from None

    def make_limits(self) -> tuple[Limit, ...]:
        """The limits, parsed."""
        return tuple(Limit.parse(name, text) for name, text in self.limits.items())

    def make_winner(self) -> WinnerRule:
        """The rule by which the winner is chosen."""
        if isinstance(self.winner, str):
            return WinnerRule(self.winner)
        ((rule, condition),) = self.winner.items()
        ((number, text),) = condition.items()
        return WinnerRule(rule, Limit.parse(number, text))

    def make_protocol(self) -> Protocol:
        """The timing protocol."""
        fields = self.latency.model_dump(exclude={"device_kind"})
        name = fields.pop("protocol")
        return Protocol(name=name, **{key: value for key, value in fields.items() if key not in UNUSED[name]})
