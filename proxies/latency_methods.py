"""How a protocol turns forwards into timings: what is run in which order, and what is made of the samples.

A method takes the forwards of each network by its name (one for each image of the protocol), the name of the reference,
the protocol and the device. A new one: write it, name it in `METHODS`, give it a protocol in `PROTOCOLS` of latency.py.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from .latency import Protocol

# A sample of a quick network is the mean over at least this long. A few milliseconds would do for the clock, but not on
# a busy machine: against a reference of 65 ms, samples of 7 ms spread the ratio by 4.8%, samples of 30 ms by 2.0%.
SAMPLE_MS = 25.0
RESAMPLES = 2000  # of the bootstrap
PASSES = 3  # of `aim2020`

Forward = Callable[[], object]
Forwards = Mapping[str, Sequence[Forward]]


@dataclass(frozen=True)
class Timing:
    """One network's time for one forward of the protocol's batch; lower is better.

    `latency_ms` is what the protocol makes of the samples: `steady` their median, `ntire` their mean, `aim2020` the
    lowest mean of a pass. `iqr_ms` is their interquartile range, in the latter two over images of several sizes.
    `ratio` is the median over the rounds of (this network's time / the reference's time), in the latter two the ratio
    of the two `latency_ms`; `ratio_low` and `ratio_high` are its 95% bootstrap interval. Both lists of samples have one
    entry per round, or per forward: pass by pass, image by image. `wide`: the interval is wider than the protocol
    asked, in spite of more rounds where there are any.
    """

    latency_ms: float
    iqr_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    samples_ms: tuple[float, ...]
    reference_samples_ms: tuple[float, ...]
    wide: bool

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


# ---- steady


def steady(forwards: Forwards, reference: str, protocol: "Protocol", device: torch.device) -> dict[str, Timing]:
    """Warm-up by time, then rounds that time every network once, each in an order of its own (by a fixed seed).

    After each batch of rounds those networks go on whose interval is still too wide, and the reference with them.
    """
    repeats = {name: _warm_up(own[0], protocol, device) for name, own in forwards.items()}
    samples: dict[str, list[float]] = {name: [] for name in forwards}
    timings: dict[str, Timing] = {}
    running = list(forwards)
    done = 0
    while running and done < protocol.max_rounds:
        upto = min(done + protocol.rounds, protocol.max_rounds)
        for number in range(done, upto):
            for place in np.random.default_rng(number).permutation(len(running)):
                name = running[place]
                samples[name].append(sample_ms(forwards[name][0], repeats[name], device))
        done = upto
        timings |= {name: summarise(samples[name], samples[reference], protocol.interval) for name in running}
        wide = [name for name in running if timings[name].wide]
        running = [*wide, reference] if wide else []
    return {name: timings[name] for name in forwards}


def summarise(samples_ms: Sequence[float], reference_samples_ms: Sequence[float], interval: float) -> Timing:
    """The statistics of one network's samples beside the reference's of the same rounds; pure, and seeded.

    The ratio is the median of the rounds' ratios, not the ratio of the two medians: a machine that is slow for some of
    the rounds is slow for both networks, which a round's ratio does not see, while two medians may be taken from
    different states of the machine. Source of the interval: Efron and Tibshirani 1993, percentile bootstrap.
    """
    own, reference = np.asarray(samples_ms, float), np.asarray(reference_samples_ms, float)
    if own.shape != reference.shape or own.ndim != 1 or not own.size:
        raise ValueError(f"samples must be two lists of equal length, not of shapes {own.shape} and {reference.shape}")
    ratios = own / reference
    draws = np.random.default_rng(0).integers(0, own.size, (RESAMPLES, own.size))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    ratio = float(np.median(ratios))
    return Timing(
        latency_ms=float(np.median(own)),
        iqr_ms=float(np.subtract(*np.quantile(own, [0.75, 0.25]))),
        ratio=ratio,
        ratio_low=float(low),
        ratio_high=float(high),
        samples_ms=tuple(own.tolist()),
        reference_samples_ms=tuple(reference.tolist()),
        wide=bool(high - low > interval * ratio),
    )


def _warm_up(forward: Forward, protocol: "Protocol", device: torch.device) -> int:
    """Runs for the protocol's time, at least twice; gives how many forwards make a sample of `SAMPLE_MS`."""
    fastest, calls, start = math.inf, 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < protocol.warmup_s:
        fastest = min(fastest, sample_ms(forward, 1, device))
        calls += 1
    return max(1, math.ceil(SAMPLE_MS / max(fastest, 1e-3)))


# ---- as the challenges timed


def aim2020(forwards: Forwards, reference: str, protocol: "Protocol", device: torch.device) -> dict[str, Timing]:
    """The mean over the images, best of three: as the AIM 2020 Efficient Super-Resolution challenge timed.

    Three passes over a set of whole images, each forward timed once and by itself; the mean of a pass is its result,
    the lowest of the three the network's. Source: the challenge's report (arXiv 2009.06943) and its `test_demo.py`
    (github znsc/MSRResNet), which has no warm-up, cuDNN's benchmark on, and events around each forward.

    Not as there: images of noise in sizes like those of DIV2K, all of them on the device beforehand; inference mode and
    a silent garbage collector; the inference form of the network; no process of its own for each network and pass.
    So cuDNN tries its algorithms in the first pass only, which the lowest mean then leaves out.
    """
    return _mean_over_images(forwards, reference, protocol, device, PASSES)


def ntire(forwards: Forwards, reference: str, protocol: "Protocol", device: torch.device) -> dict[str, Timing]:
    """The mean over the images of one pass, nothing warmed up: as the test script of the NTIRE challenges times.

    Source: `test_demo.py` of the Efficient Super-Resolution challenges (github Amazingren/NTIRE2024_ESR): whole images
    one at a time, events around each forward, cuDNN's benchmark off. What the first forwards cost is part of the mean.
    There TF32 is as torch has it, on in the convolutions of GPUs since Ampere: `precision` tf32 is nearest to that.

    Not as there: what `aim2020` does not do either. In one process the networks share what only the first forwards of
    all pay for (a kernel that is loaded), and which of them pays is chance; the interval shows how much that matters.
    """
    return _mean_over_images(forwards, reference, protocol, device, 1)


def _mean_over_images(
    forwards: Forwards, reference: str, protocol: "Protocol", device: torch.device, passes: int
) -> dict[str, Timing]:
    """In each pass one forward of every image; the networks take turns on each image, in an order of its own.

    The turns are not the challenges': there a network has the machine for itself for minutes, and two of them may find
    it in different states.
    """
    names = list(forwards)
    images = len(forwards[reference])
    samples = {name: np.empty((passes, images)) for name in names}
    _wake(device)
    for number in range(passes * images):
        at = divmod(number, images)
        for place in np.random.default_rng(number).permutation(len(names)):
            name = names[place]
            samples[name][at] = sample_ms(forwards[name][at[1]], 1, device)
    return {name: summarise_passes(samples[name], samples[reference], protocol.interval) for name in names}


def summarise_passes(own: np.ndarray, reference: np.ndarray, interval: float) -> Timing:
    """The statistics of one network's samples `[passes, images]` in ms beside the reference's; pure, and seeded.

    The interval is a percentile bootstrap that draws passes and images, the same ones for both networks.
    """
    if own.shape != reference.shape or own.ndim != 2 or not own.size:
        raise ValueError(f"samples must be two [passes, images], not of shapes {own.shape} and {reference.shape}")
    passes, images = own.shape
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, passes, (RESAMPLES, passes, 1)), generator.integers(0, images, (RESAMPLES, 1, images))
    latency_ms = float(_best_mean(own))
    ratio = latency_ms / float(_best_mean(reference))
    low, high = np.quantile(_best_mean(own[drawn]) / _best_mean(reference[drawn]), [0.025, 0.975])
    # The lowest of three is an extreme, which draws with repetition may miss: the interval holds it in any case.
    low, high = min(float(low), ratio), max(float(high), ratio)
    return Timing(
        latency_ms=latency_ms,
        iqr_ms=float(np.subtract(*np.quantile(own, [0.75, 0.25]))),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        samples_ms=tuple(own.ravel().tolist()),
        reference_samples_ms=tuple(reference.ravel().tolist()),
        wide=high - low > interval * ratio,
    )


def _best_mean(samples: np.ndarray) -> np.ndarray:
    """`[..., passes, images]` to `[...]`: the lowest of the passes' means."""
    return samples.mean(axis=-1).min(axis=-1)


def _wake(device: torch.device) -> None:
    """Sets up torch's libraries on a GPU, half a second that the first network of all would pay for the others."""
    if device.type == "cuda":
        F.conv2d(torch.zeros(1, 1, 8, 8, device=device), torch.zeros(1, 1, 3, 3, device=device))
        torch.cuda.synchronize(device)


# ---- one sample


def sample_ms(forward: Forward, repeats: int, device: torch.device) -> float:
    """Milliseconds of one forward, the mean over `repeats` in a row; on CUDA, between two events of its stream."""
    if device.type == "cpu":
        start = time.perf_counter()
        for _ in range(repeats):
            forward()
        return (time.perf_counter() - start) * 1e3 / repeats
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(repeats):
        forward()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


METHODS: dict[str, Callable[[Forwards, str, "Protocol", torch.device], dict[str, Timing]]] = {
    "steady": steady,
    "aim2020": aim2020,
    "ntire": ntire,
}
