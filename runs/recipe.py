"""A recipe: what a run is to do, as one frozen, strict model; `recipe_file.py` reads it.

Each part gives the plain object of the floor below that it describes (`make_space`, `make_protocol`, ...), and is
checked by making it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..proxies.latency import Protocol
from ..proxies.training import LOSSES, SCHEDULES
from ..search.objectives import OBJECTIVES, Limit
from ..search.samplers import SAMPLERS
from ..search.verdict import RANKED_BY, WinnerRule
from ..spaces import SYSTEMS, BlockChoices, Frame, InputError, Space, unknown


class Part(BaseModel):
    """Strict: no unknown keys, no silent conversions, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _known(what: str, names: Any) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in list(names):
            raise ValueError(unknown(what, value, names))
        return value

    return BeforeValidator(check)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _float(value: Any) -> Any:
    # PyYAML reads `1e-3` (no dot) as text; a person means a number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Number = Annotated[float, BeforeValidator(_float)]
Positive = Annotated[int, Field(gt=0)]


class DataPart(Part):
    """Images: `embedded` photos, a folder of HR images, or a DIV2K tree; `validation` may be a folder of its own."""

    source: str = "embedded"
    validation: str | None = None
    border: Literal["symmetric", "edge"] = "symmetric"
    held_out: Positive | None = None


class FramePart(Part):
    """What surrounds the body of every network of the space."""

    head_depth: int = 1
    head_activation: bool = False
    body_conv: str = "before_skip"
    feature_skip: bool = True
    slope: Number = 0.05
    mean_shift: bool = False
    value_range: int = 1


def _block(value: Any) -> Any:
    """`imdb`, or `imdb: {attention: [none, cca]}`."""
    if isinstance(value, str):
        return {value: {}}
    return {k: v or {} for k, v in value.items()} if isinstance(value, dict) else value


Choices = dict[str, list[str | int | Number]]
BlockPart = Annotated[dict[str, Choices], BeforeValidator(_block), Field(min_length=1, max_length=1)]


class SpacePart(Part):
    """The networks the search may visit: lists of what is allowed."""

    blocks: Annotated[list[BlockPart], Field(min_length=1)]
    widths: Annotated[list[int], Field(min_length=1)]
    depths: Annotated[list[int], Field(min_length=1)]
    fusion: list[str] = ["none"]
    upsampler: list[str] = ["direct"]
    upsampler_width: list[int] = []
    image_skip: list[str] = ["none"]
    frame: FramePart = FramePart()

    def space(self) -> Space:
        """The space these lists describe; InputError names the key."""
        blocks = []
        for index, entry in enumerate(self.blocks):
            ((type_, choices),) = entry.items()
            try:
                blocks.append(BlockChoices(type_, tuple((k, tuple(v)) for k, v in choices.items())))
            except InputError as error:
                raise InputError(f"blocks[{index}]: {error}") from None
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


class SearchPart(Part):
    """How to search, and for how long: `candidates` trained, `minutes`, training `steps` in all; the first to end."""

    sampler: Annotated[str, _known("sampler", SAMPLERS)] = "evolution"
    candidates: Positive = 100
    minutes: Annotated[Number, Field(gt=0)] | None = None
    steps: Positive | None = None
    at_least: Annotated[int, Field(ge=0)] = 0
    workers: Positive | None = None
    start: Positive = 24
    seeded_with: list[Annotated[str, _known("system", SYSTEMS)]] = []
    task_minutes: Annotated[Number, Field(gt=0)] | None = None


class TrainPart(Part):
    """How a network is trained; `fit` takes fewer steps where `search.minutes` would not suffice for `steps`."""

    steps: Positive = 20_000
    fit: bool = False
    batch: Positive = 16
    patch: Annotated[int, Field(ge=8)] = 48
    learning_rate: Annotated[Number, Field(gt=0)] = 5e-4
    schedule: Annotated[str, _known("schedule", SCHEDULES)] = "cosine"
    milestones: list[Annotated[Number, Field(gt=0, lt=1)]] = []
    loss: Annotated[str, _known("loss", LOSSES)] = "l1"
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None


class LatencyPart(Part):
    """The timing protocol; all of it is part of the number."""

    protocol: Literal["steady"] = "steady"
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    execution: Literal["eager", "compiled", "graph"] = "eager"
    batch: Positive = 1
    size: Annotated[tuple[int, int], BeforeValidator(_tuple)] = (256, 256)
    threads: Positive = 1
    warmup_s: Annotated[Number, Field(ge=0)] = 0.1
    rounds: Positive = 15
    max_rounds: Positive = 60
    interval: Annotated[Number, Field(gt=0)] = 0.05


class ConfirmPart(Part):
    """What is done with the front at the end: further training `seeds` (timings are always taken again)."""

    seeds: Annotated[int, Field(ge=0)] = 0


class ReportPart(Part):
    """The report: its title."""

    title: str = ""


class Recipe(Part):
    """A whole recipe. A search needs `space`; the training of one given network needs `network` (a JSON file)."""

    description: str = ""
    seed: int = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    data: DataPart = DataPart()
    space: SpacePart | None = None
    network: str | None = None
    objectives: Annotated[list[Annotated[str, _known("objective", OBJECTIVES)]], Field(min_length=1)] = [
        "psnr_db",
        "latency_ratio",
        "activations_m",
    ]
    limits: dict[str, str] = {}
    reference: Annotated[str, _known("system", SYSTEMS)] = "imdn"
    search: SearchPart = SearchPart()
    train: TrainPart = TrainPart()
    latency: LatencyPart = LatencyPart()
    confirm: ConfirmPart = ConfirmPart()
    winner: str | dict[str, dict[str, str]] = "knee"
    report: ReportPart = ReportPart()

    @model_validator(mode="after")
    def _possible(self) -> "Recipe":
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: one of them stands twice")
        if self.search.at_least > self.search.candidates:
            raise ValueError(f"search.at_least: {self.search.at_least} is more than search.candidates")
        if self.train.fit and self.search.minutes is None:
            raise ValueError("train.fit: fitting the steps needs search.minutes")
        if self.train.schedule == "milestones" and not self.train.milestones:
            raise ValueError("train.milestones: the schedule 'milestones' needs at least one, like [0.5, 0.8]")
        for where, make in (("space", self.make_space), ("limits", self.make_limits), ("winner", self.make_winner)):
            try:
                make()
            except InputError as error:
                raise ValueError(f"{where}.{error}" if where == "space" else f"{where}: {error}") from None
        try:
            self.make_protocol()
        except InputError as error:
            raise ValueError(f"latency: {error}") from None
        return self

    def make_space(self) -> Space | None:
        """The search space, None in a recipe for one network."""
        return self.space.space() if self.space else None

    def make_limits(self) -> tuple[Limit, ...]:
        """The limits, parsed."""
        return tuple(Limit.parse(name, text) for name, text in self.limits.items())

    def make_winner(self) -> WinnerRule:
        """The rule by which the winner is chosen."""
        if self.winner == "knee":
            return WinnerRule()
        if isinstance(self.winner, dict) and len(self.winner) == 1:
            ((name, condition),) = self.winner.items()
            if name in RANKED_BY and len(condition) == 1:
                ((number, text),) = condition.items()
                return WinnerRule(name, Limit.parse(number, text))
        raise InputError(
            f"{self.winner!r} is none of: knee; fastest: {{psnr_db: '>= 29.0'}}; best_psnr: {{latency_ratio: '<= 0.5'}}"
        )

    def make_protocol(self) -> Protocol:
        """The timing protocol."""
        fields = self.latency.model_dump()
        return Protocol(name=fields.pop("protocol"), **fields)
