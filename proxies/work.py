"""The pieces of work that cost time, as plain data that a worker can be sent.

Each performs itself: `perform(report, stop)` gives numbers as plain data, whatever kind of network they are of; None
where `stop()` asked for an early end, saved. Where it runs is the engine's affair.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch

from ..spaces import Design, build, deployed, inference_form
from .bicubic import Border
from .image_sources import Role
from .images import ImageSet, load_images
from .latency import Protocol as TimingProtocol
from .latency import peak_memory_mb, time_together
from .losses import Extra, distillation
from .parallel import Peers, SharedPatches, together
from .patches import Patches
from .psnr import bicubic_baseline, evaluate
from .training import State, Training, begin, finished_network, load, save, train
from .weights import save_weights, with_weights

REFERENCE = "reference"  # the name of the reference network in a timing
SAVE_EVERY_S = 0.25  # at least this long between two saves, and
SAVE_SHARE = 0.04  # saving takes at most about this share of the time

Report = Callable[[dict[str, Any]], None]
Stop = Callable[[], bool]


class Work(Protocol):
    """What an engine can be given. One that is `exclusive` has its device for itself."""

    @property
    def exclusive(self) -> bool: ...

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Data:
    """Where the images come from: see `load_images`. validation: a folder of its own, or None for a held-out share."""

    source: str = "embedded"
    validation: str | None = None
    border: Border = "symmetric"
    held_out: int | None = None
    patch: int = 1

    def train(self) -> ImageSet:
        """The images to train on."""
        return _images(self.source, "all" if self.validation else "train", self.border, self.held_out, self.patch)

    def evaluation(self) -> ImageSet:
        """The images to measure PSNR on."""
        if self.validation:
            return _images(self.validation, "all", self.border, None, 1)
        return _images(self.source, "validation", self.border, self.held_out, 1)

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Decodes the images into their cache, where that has not been done; `progress` hears (done, in all)."""
        wanted: list[tuple[str, Role]] = [(self.source, "train"), (self.source, "validation")]
        if self.validation:
            wanted = [(self.source, "all"), (self.validation, "all")]
        for source, role in wanted:
            held_out = None if role == "all" else self.held_out
            load_images(source, role, border=self.border, held_out=held_out, progress=progress)


@lru_cache(maxsize=4)
def _images(source: str, role: Role, border: Border, held_out: int | None, minimum: int) -> ImageSet:
    return load_images(source, role, border=border, held_out=held_out, minimum=minimum)


@dataclass(frozen=True)
class TimeWork:
    """Times designs together, interleaved with the reference, untrained: weights do not change latency.

    folder: of the candidate whose timing this is, empty where it is nobody's.
    """

    designs: dict[str, Design]
    reference: Design
    protocol: TimingProtocol
    device: str
    folder: str = ""
    exclusive: bool = True

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        return measure_times(self)


@dataclass(frozen=True)
class TrainWork:
    """Trains a design and measures its PSNR; `folder` keeps the state as it goes, and the weights at the end.

    weights: a file to begin from, else they are drawn. teacher: a design, its weights, and the weight of its term.
    until: the step of a rung, at which the network is measured and from which another work goes on; None: the last.
    gpus: devices that share each batch, `device` and those after it; they are of one node.
    """

    design: Design
    training: Training
    data: Data
    seed: int
    device: str
    folder: str
    exclusive: bool = False
    weights: str = ""
    teacher: tuple[Design, str, float] | None = None
    until: int | None = None
    gpus: int = 1

    @property
    def steps(self) -> int:
        """The step at which this work ends."""
        return self.training.steps if self.until is None else self.until

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        return measure_training(self, report, stop)


@dataclass(frozen=True)
class SpeedWork:
    """Measures how long a training step of each design takes, and how long its evaluation."""

    designs: tuple[Design, ...]
    training: Training
    data: Data
    device: str
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        return measure_speed(self)


@dataclass(frozen=True)
class BaselineWork:
    """Measures MATLAB bicubic's PSNR on the evaluation images."""

    data: Data
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        return {"psnr_db": bicubic_baseline(self.data.evaluation()).psnr_db}


def measure_times(work: TimeWork) -> dict[str, Any]:
    """For each name, and the reference: median, interval of the ratio, raw samples, memory where there is any."""
    designs = {**work.designs, REFERENCE: work.reference}
    networks = {name: deployed(design, build(design, device=work.device)) for name, design in designs.items()}
    if work.folder:
        mark_running(Path(work.folder), "timing")
    timings = time_together(networks, REFERENCE, work.protocol, work.device)
    result: dict[str, Any] = {name: timing.to_json() for name, timing in timings.items()}
    for name, network in networks.items():
        memory_mb = peak_memory_mb(network, work.protocol, work.device)
        if memory_mb is not None:
            result[name]["memory_mb"] = memory_mb
    return result


def measure_speed(work: SpeedWork) -> dict[str, Any]:
    """Seconds of one training step, the mean over the designs after a warm-up; and of one evaluation."""
    patches, validation = patches_of(work.data, work.training, 0, work.device), work.data.evaluation()
    # Never at an end, however short the recipe's training; at a rate of 0 it cannot diverge.
    endless = replace(work.training, steps=1_000_000, learning_rate=0.0)
    step_s, evaluation_s = [], []
    for design in work.designs:
        state = train(begin(design, endless, seed=0, device=work.device), endless, patches, 2)
        warm_s, warm_steps = state.seconds, state.step
        started = time.perf_counter()
        state = train(state, endless, patches, 1000, lambda _, t=started: time.perf_counter() - t > 0.7)
        step_s.append((state.seconds - warm_s) / (state.step - warm_steps))
        started = time.perf_counter()
        evaluate(inference_form(finished_network(state)), validation, device=work.device)
        evaluation_s.append(time.perf_counter() - started)
    return {"step_s": sum(step_s) / len(step_s), "evaluation_s": sum(evaluation_s) / len(evaluation_s)}


def patches_of(data: Data, training: Training, seed: int, device: str) -> Patches:
    """The training patches; the flat image buffer on the device is shared by all trainings of this process."""
    return Patches(data.train(), training.patch, training.batch, seed, device)


def measure_training(work: TrainWork, report: Report, stop: Stop) -> dict[str, Any] | None:
    """PSNR in all and per image, curve, steps, seconds; at the last step the weights are in `model.safetensors`.

    Measured at a rung, a training has the numbers that it would have had on its way through.
    """
    folder = Path(work.folder)
    file = folder / "state.pt"
    # The images are read first: a death meanwhile says nothing about this network.
    patches, validation = patches_of(work.data, work.training, work.seed, work.device), work.data.evaluation()
    start = Path(work.weights) if work.weights else None
    fresh = begin(work.design, work.training, seed=work.seed, device=work.device, weights=start)
    state = load(fresh, work.training, file)
    if state.step > work.steps:  # another has gone further: this rung is to be had from the start
        state = fresh
    save(state, file)
    began = f", step {state.step}"  # with the saved step it tells whether this life got any further
    mark_running(folder, f"training{began}")
    saver = Saver(file, work.steps, report, stop)
    with together(work) as peers:
        shared = SharedPatches(patches, peers) if peers else patches
        state = train(state, work.training, shared, work.steps - state.step, saver, _teaching(work), peers)
    save(state, file)
    if state.step < work.steps:
        return None
    network = finished_network(state)
    formed = inference_form(network)

    def before_image(name: str) -> None:
        # Where it stands goes into the word that is left: two deaths at one image may be its fault, at two hardly.
        mark_running(folder, f"measuring {name}{began}")
        report({"step": state.step, "steps": work.steps})  # and on a cluster a timing that waits is let in

    result = evaluate(formed, validation, device=work.device, before_image=before_image)
    if work.steps == work.training.steps:
        # One that has grown is kept merged: what `build` makes has fewer kernels.
        kept = formed if work.training.grow_at else network
        save_weights(kept, work.design, folder / "model.safetensors")
    return {
        "psnr_db": result.psnr_db,
        "psnr_per_image_db": dict(result.per_image_db),
        "curve": [list(point) for point in state.curve],
        "steps": state.step,
        "train_s": state.seconds,
        "seed": work.seed,
        "gpus": work.gpus,
        "training": plain(work.training),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }


def train_share(work: TrainWork, device: str, peers: Peers) -> None:
    """What a peer does of a training on several devices: its share of each batch, from where the saved state stands."""
    own = replace(work, device=device)
    patches = SharedPatches(patches_of(own.data, own.training, own.seed, device), peers)
    start = Path(own.weights) if own.weights else None
    state = begin(own.design, own.training, seed=own.seed, device=device, weights=start)
    state = load(state, own.training, Path(own.folder) / "state.pt")
    train(state, own.training, patches, own.steps - state.step, extra=_teaching(own), peers=peers)


def _teaching(work: TrainWork) -> Extra | None:
    """The term of the teacher, if there is one."""
    if work.teacher is None:
        return None
    design, weights, share = work.teacher
    return distillation(deployed(design, with_weights(design, Path(weights))).to(work.device), share)


def plain(training: Training) -> dict[str, Any]:
    """A training as JSON gives it back: its tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(training).items()}


def mark_running(folder: Path, what: str) -> None:
    """Leaves word that the work has truly begun, for the next driver should this one die; the driver takes it away."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "running").write_text(what)


class Saver:
    """Called after each step: saves now and then, reports progress, and says when to stop."""

    def __init__(self, file: Path, steps: int, report: Report, stop: Stop) -> None:
        self.file, self.steps, self.report, self.stop = file, steps, report, stop
        self.due = self.reported = time.monotonic()

    def __call__(self, state: State) -> bool:
        now = time.monotonic()
        if now > self.due:
            save(state, self.file)
            took = time.monotonic() - now
            self.due = time.monotonic() + max(SAVE_EVERY_S, took / SAVE_SHARE)
        if now - self.reported > 0.5:
            self.reported = now
            self.report({"step": state.step, "steps": self.steps})
        return self.stop()
