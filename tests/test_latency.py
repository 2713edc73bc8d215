"""The statistics against known ratios, what a protocol does to torch and takes back, and refusals. No test of speed."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretosr.proxies import device as device_room
from paretosr.proxies import latency as latency_room
from paretosr.proxies import latency_methods as methods_room
from paretosr.proxies.latency import METHODS, PROTOCOLS, Protocol, peak_memory_mb, summarise, time_together
from paretosr.spaces import InputError

QUICK = Protocol(size=(8, 8), warmup_s=0.005, rounds=5, max_rounds=5)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def short_samples_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(methods_room, "SAMPLE_MS", 1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Notes(dict[str, Any]):
    """Stays one and the same in all copies of the network that holds it."""

    def __deepcopy__(self, memo: object) -> "Notes":
        return self


class Probe(nn.Module):
    """Writes down under which conditions it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.seen = Notes()

    def forward(self, image: Tensor) -> Tensor:
        self.seen.update(
            threads=torch.get_num_threads(),
            benchmark=torch.backends.cudnn.benchmark,
            tf32=torch.backends.cudnn.allow_tf32,
            matmul_tf32=torch.backends.cuda.matmul.allow_tf32,
            deterministic=torch.are_deterministic_algorithms_enabled(),
            inference=torch.is_inference_mode_enabled(),
            autocast=torch.is_autocast_enabled("cpu"),
            training=self.training,
            collector=gc.isenabled(),
            shape=tuple(image.shape),
            precision=(image.dtype, self.conv.weight.dtype),
            nhwc=(image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()),
            low=float(image.min()),
            high=float(image.max()),
        )
        return self.conv(image)


def settings_now() -> dict[str, Any]:
    backends = torch.backends
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "benchmark": backends.cudnn.benchmark,
        "cudnn deterministic": backends.cudnn.deterministic,
        "tf32": backends.cudnn.allow_tf32,
        "matmul tf32": backends.cuda.matmul.allow_tf32,
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "collector": gc.isenabled(),
        "random": torch.random.get_rng_state().tolist(),
    }
    for path in device_room._switches(tf32=True, cudnn_benchmark=True):
        holder: Any = backends
        for name in path.split("."):
            holder = getattr(holder, name, None)
        found[path] = holder
    return found


# --- statistics -------------------------------------------------------------------------------------------------------


def test_interval_covers_a_known_ratio() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        machine = np.cumsum(generator.normal(0, 0.05, 24))  # drifts by a quarter over the rounds, for both
        reference = 60 * np.exp(machine + generator.normal(0, 0.01, 24))
        own = 0.25 * 60 * np.exp(machine + generator.normal(0, 0.01, 24))
        timing = summarise(own.tolist(), reference.tolist(), 0.05)
        held += timing.ratio_low <= 0.25 <= timing.ratio_high
        assert not timing.wide
        assert timing.ratio == pytest.approx(0.25, rel=0.03)
    assert 180 <= held <= 200  # 190 expected


def test_a_machine_that_is_slow_for_some_rounds_does_not_move_the_ratio() -> None:
    slow = np.array([1.0, 3.0] * 6)
    # The order within a round puts some spikes on one network only; most rounds agree.
    own, reference = 10 * slow, 40 * slow
    own[3] *= 4
    timing = summarise(own.tolist(), reference.tolist(), 0.05)
    assert (timing.ratio, timing.ratio_low, timing.ratio_high, timing.wide) == (0.25, 0.25, 0.25, False)


def test_noise_is_called_wide_and_quiet_is_not() -> None:
    generator = np.random.default_rng(2)
    reference = (10 * np.exp(generator.normal(0, 0.5, 12))).tolist()
    noisy = summarise((10 * np.exp(generator.normal(0, 0.5, 12))).tolist(), reference, 0.05)
    assert noisy.wide
    assert (noisy.ratio_high - noisy.ratio_low) / noisy.ratio > 0.05
    assert not summarise([2 * ms for ms in reference], reference, 0.05).wide


def test_median_and_interquartile_range_by_hand() -> None:
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0], [10.0] * 5, 0.05)
    assert (timing.latency_ms, timing.iqr_ms, timing.ratio) == (3.0, 2.0, 0.3)
    assert timing.samples_ms == (5.0, 1.0, 2.0, 4.0, 3.0)
    assert timing == summarise([5.0, 1.0, 2.0, 4.0, 3.0], [10.0] * 5, 0.05)
    assert timing.to_json()["samples_ms"] == [5.0, 1.0, 2.0, 4.0, 3.0]


@pytest.mark.parametrize(("own", "reference"), [([1.0], [1.0, 2.0]), ([], [])])
def test_samples_must_pair(own: list[float], reference: list[float]) -> None:
    with pytest.raises(ValueError, match="equal length"):
        summarise(own, reference, 0.05)


# --- rounds -----------------------------------------------------------------------------------------------------------


class FakeClock:
    """Stands for `sample_ms`: forwards are names here, and times are drawn; `calls` remembers the order."""

    def __init__(self, noise: dict[str, float]) -> None:
        self.noise, self.calls = noise, []
        self.generator = np.random.default_rng(3)

    def __call__(self, forward: Any, repeats: int, device: torch.device) -> float:
        self.calls.append(forward)
        return 10 * float(np.exp(self.generator.normal(0, self.noise[forward])))


def run_steady(monkeypatch: pytest.MonkeyPatch, noise: dict[str, float], rounds: int, max_rounds: int):
    clock = FakeClock(noise)
    monkeypatch.setattr(methods_room, "sample_ms", clock)
    monkeypatch.setattr(methods_room, "_warm_up", lambda forward, protocol, device: 1)
    protocol = Protocol(rounds=rounds, max_rounds=max_rounds)
    names: Any = {name: [name] for name in noise}
    return METHODS["steady"](names, "reference", protocol, torch.device("cpu")), clock


def test_each_round_times_every_network_once_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {"reference": 1e-4, "a": 1e-4, "b": 1e-4}
    timings, clock = run_steady(monkeypatch, noise, 12, 36)
    rounds = [tuple(clock.calls[i : i + 3]) for i in range(0, len(clock.calls), 3)]
    assert len(rounds) == 12
    assert all(sorted(names) == ["a", "b", "reference"] for names in rounds)
    assert len(set(rounds)) > 3
    assert list(timings) == list(noise)
    assert timings["reference"].ratio == timings["reference"].ratio_low == timings["reference"].ratio_high == 1
    assert not any(timing.wide for timing in timings.values())


def test_only_what_is_wide_goes_on_and_is_marked_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    timings, _ = run_steady(monkeypatch, {"quiet": 1e-4, "reference": 1e-4, "noisy": 0.8}, 6, 15)
    assert len(timings["quiet"].samples_ms) == 6
    assert len(timings["noisy"].samples_ms) == len(timings["noisy"].reference_samples_ms) == 15
    assert timings["noisy"].wide
    assert not timings["quiet"].wide
    assert timings["noisy"].reference_samples_ms[:6] == timings["quiet"].reference_samples_ms


def test_more_rounds_narrow_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    timings, _ = run_steady(monkeypatch, {"reference": 1e-4, "a": 0.05}, 8, 400)
    assert 8 < len(timings["a"].samples_ms) < 400
    assert not timings["a"].wide


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_fifty_times_the_work_takes_longer() -> None:
    small = nn.Conv2d(3, 4, 3, padding=1)
    large = nn.Sequential(*(nn.Conv2d(3, 3, 7, padding=3) for _ in range(50)))
    timings = time_together({"small": small, "large": large}, "small", replace(QUICK, size=(32, 32)), "cpu")
    assert list(timings) == ["small", "large"]
    assert timings["large"].ratio > 2
    assert timings["small"].ratio == 1
    assert all(len(timing.samples_ms) == 5 and min(timing.samples_ms) > 0 for timing in timings.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_protocol_holds_inside_and_nothing_is_left_behind(precision: str, layout: str) -> None:
    network = Probe().train()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    torch.set_num_threads(2)
    before = settings_now()
    protocol = replace(QUICK, precision=precision, layout=layout, batch=2, size=(8, 6), threads=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        time_together({"probe": network}, "probe", protocol, "cpu")
    assert settings_now() == before
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    low, high = network.seen.pop("low"), network.seen.pop("high")
    assert 0 <= low < high <= 1
    assert network.seen == {
        "threads": 1,
        "benchmark": True,
        "tf32": False,
        "matmul_tf32": False,
        "deterministic": False,
        "inference": True,
        "autocast": False,
        "training": False,
        "collector": False,
        "shape": (2, 3, 8, 6),
        "precision": (kind, kind),
        "nhwc": layout == "nhwc",
    }
    assert network.training
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_settings_come_back_after_an_error_too() -> None:
    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("broken")

    before = settings_now()
    with pytest.raises(RuntimeError, match="broken"):
        time_together({"broken": Broken()}, "broken", replace(QUICK, cudnn_benchmark=False), "cpu")
    assert settings_now() == before


def test_every_switch_is_set_and_put_back_whatever_it_was() -> None:
    before = settings_now()
    try:
        for old in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = old
            torch.backends.cudnn.allow_tf32 = old
            torch.backends.cudnn.benchmark = old
            torch.use_deterministic_algorithms(old, warn_only=True)
            as_set = settings_now()
            for tf32 in (True, False):
                cpu = torch.device("cpu")
                with device_room.measuring(cpu, threads=1, tf32=tf32, cudnn_benchmark=not old):
                    inside = settings_now()
                assert inside["tf32"] is inside["matmul tf32"] is tf32
                assert inside["benchmark"] is (not old)
                assert inside["deterministic"] is False
                assert settings_now() == as_set
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before["benchmark"]
        torch.backends.cuda.matmul.allow_tf32 = before["matmul tf32"]
        torch.backends.cudnn.allow_tf32 = before["tf32"]


def test_ten_networks_of_one_class_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    real_compile = torch.compile

    def backend(graph: Any, inputs: object) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda function, **options: real_compile(function, backend=backend, **options)
    )
    networks: dict[str, nn.Module] = {
        str(width): nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU()) for width in range(4, 14)
    }
    timings = time_together(networks, "4", replace(QUICK, execution="compiled"), "cpu")
    assert len(compiled) == len(timings) == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler calls what torch deprecates
def test_compiled_execution() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    timings = time_together({"a": network}, "a", replace(QUICK, execution="compiled"), "cpu")
    assert timings["a"].latency_ms > 0


@needs_cuda
@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_cuda(execution: str, precision: str) -> None:
    small, large = nn.Conv2d(3, 4, 3), nn.Sequential(*(nn.Conv2d(3, 3, 7, padding=3) for _ in range(50)))
    protocol = replace(QUICK, execution=execution, precision=precision, size=(64, 64))
    timings = time_together({"small": small, "large": large}, "small", protocol, "cuda")
    assert timings["large"].ratio > 2
    assert (peak_memory_mb(large, protocol, "cuda") or 0) > 0
    assert next(large.parameters()).device.type == "cpu"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "stedy"}, "no protocol 'stedy'; did you mean 'steady'"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"layout": "NCHW"}, "no layout 'NCHW'; did you mean 'nchw'"),
        ({"execution": "graphs"}, "did you mean 'graph'"),
        ({"precision": ["fp32"]}, "no precision"),
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
        ({"threads": True}, "threads must be a whole number"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"rounds": 4}, "rounds must be a whole number of at least 5"),
        ({"max_rounds": 3}, "max_rounds must be a whole number of at least 12"),
        ({"size": 64}, "size must be two whole numbers"),
        ({"size": (64,)}, "size must be two whole numbers"),
        ({"size": (64, -1)}, "size must be"),
        ({"size": ("a", 1)}, "size must be"),
        ({"interval": 0}, "interval must be a positive number"),
        ({"warmup_s": float("nan")}, "warmup_s must be a positive number"),
        ({"warmup_s": "1"}, "warmup_s must be a positive number"),
        ({"cudnn_benchmark": 1}, "cudnn_benchmark must be true or false"),
    ],
)
def test_a_protocol_checks_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Protocol(**change)
    assert "\n" not in str(caught.value)


def test_a_protocol_survives_json_and_its_label_tells_all_that_matters() -> None:
    protocol = Protocol(precision="bf16", size=(48, 64))
    assert Protocol(**protocol.to_json()) == protocol
    changes: list[dict[str, Any]] = [
        {"precision": "fp16"},
        {"layout": "nhwc"},
        {"execution": "compiled"},
        {"batch": 2},
        {"size": (64, 48)},
        {"threads": 2},
        {"cudnn_benchmark": False},
    ]
    labels = {replace(protocol, **change).label() for change in changes}
    assert len(labels | {protocol.label()}) == len(changes) + 1
    assert PROTOCOLS["steady"] == Protocol()


@pytest.mark.parametrize(("change", "message"), [({"execution": "graph"}, "CUDA"), ({"precision": "tf32"}, "CUDA")])
def test_what_a_cpu_cannot_do_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        time_together({"a": nn.Conv2d(3, 3, 1)}, "a", replace(QUICK, **change), "cpu")


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(InputError, match="no reference network 'idmn'; did you mean 'imdn'"):
        time_together({"imdn": nn.Conv2d(3, 3, 1)}, "idmn", QUICK, "cpu")


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_room.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"C\+\+ compiler"):
        time_together({"a": nn.Conv2d(3, 3, 1)}, "a", replace(QUICK, execution="compiled"), "cpu")


def test_memory_is_not_invented_on_a_cpu() -> None:
    assert peak_memory_mb(nn.Conv2d(3, 3, 1), QUICK, "cpu") is None
