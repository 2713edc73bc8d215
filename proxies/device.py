"""The device that a number is measured on: which one is meant, what it is, and the calm that a timing needs."""

import fcntl
import gc
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from operator import attrgetter
from pathlib import Path

import torch

from ..spaces import InputError, unknown

KINDS = ("cpu", "cuda")
PATIENCE_S = 900.0  # a timing takes seconds, stairs some minutes


def find_device(name: str) -> torch.device:
    """The device called `name` (`cpu`, `cuda`, `cuda:1`), with its index; InputError where it is unknown or absent.

    `auto` is a GPU where there is one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in KINDS or (index and not index.isdigit()):
        raise InputError(unknown("device", name, KINDS))
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(index) if index else (torch.cuda.current_device() if count else 0)
    if number >= count:
        raise InputError(f"device '{name}': this machine shows {count} CUDA devices to torch; known: {_present(count)}")
    return torch.device("cuda", number)


def _present(count: int) -> str:
    return ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Waits until no other process of this machine times on the physical device, and keeps others out until the end.

    Raises TimeoutError after PATIENCE_S: a process that was suspended in the middle of a timing would else hold up all.
    The locks (flock) die with the process. They are files in the folder for temporary files, so processes that have
    different TMPDIRs do not see each other. Not reentrant: `time_together` takes it itself, so do not hold it then, nor
    inside `training_on`.

    There are two files. The lock itself is held alone by a timing, and shared by the trainings of a cluster
    (`training_on`). The turnstile is held by whoever waits for the lock, so that those who come later queue behind: a
    stream of trainings cannot starve a timing. The trainings of one machine's own engine hold neither, since it
    suspends them while it times.
    """
    with _opened(device) as (turnstile, lock):
        _pass(turnstile, lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Explicitly, since a child forked meanwhile may hold the file open beyond our close.
            fcntl.flock(lock, fcntl.LOCK_UN)


@contextmanager
def training_on(device: str) -> Iterator[Callable[[], None]]:
    """Keeps timings of other processes off the physical device while the block trains there, beside other trainings.

    Gives a function to be called between two steps: where a timing waits, it lets it pass. One that is held up for
    PATIENCE_S is not waited for any longer.
    """
    with _opened(device) as (turnstile, lock):

        def enter() -> None:
            with suppress(TimeoutError):
                _pass(turnstile, lock, fcntl.LOCK_SH, PATIENCE_S)

        def leave() -> None:
            fcntl.flock(lock, fcntl.LOCK_UN)

        def give_way() -> None:
            if _taken(turnstile, fcntl.LOCK_EX):
                fcntl.flock(turnstile, fcntl.LOCK_UN)
                return
            leave()
            enter()

        enter()
        try:
            yield give_way
        finally:
            leave()


@contextmanager
def _opened(device: str) -> Iterator[tuple[int, int]]:
    """The files of the turnstile and of the lock, open."""
    name = _physical_name(find_device(device))
    paths = [Path(tempfile.gettempdir()) / f"paretosr-{name}.{kind}" for kind in ("turnstile", "lock")]
    with ExitStack() as stack:
        handles = []
        for path in paths:
            handles.append(_open_lock(path))
            stack.callback(os.close, handles[-1])
        yield handles[0], handles[1]


def _pass(turnstile: int, lock: int, kind: int, patience_s: float = PATIENCE_S) -> None:
    """Takes the lock by way of the turnstile."""
    deadline = time.monotonic() + patience_s
    try:
        for handle, how in ((turnstile, fcntl.LOCK_EX), (lock, kind)):
            while not _taken(handle, how):
                if time.monotonic() > deadline:
                    held = os.readlink(f"/proc/self/fd/{handle}")
                    raise TimeoutError(f"another process has kept the device for {patience_s:g} s ({held} is held)")
                time.sleep(0.02)
    finally:
        fcntl.flock(turnstile, fcntl.LOCK_UN)


def _taken(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock(path: Path) -> int:
    """Opens the lock file, which another user may own: for reading is enough to lock it."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_RDONLY)
    except FileNotFoundError:
        pass
    try:
        handle = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # another process was quicker
        return os.open(path, flags | os.O_RDONLY)
    os.fchmod(handle, 0o644)  # whatever the umask: other users must be able to open it
    return handle


def _physical_name(device: torch.device) -> str:
    """A name that stays the same whatever CUDA_VISIBLE_DEVICES hides; a CPU is the whole machine."""
    if device.type == "cpu":
        return "cpu"
    return f"cuda-{getattr(torch.cuda.get_device_properties(device), 'uuid', device.index)}"


@contextmanager
def measuring(device: torch.device, *, threads: int, tf32: bool, cudnn_benchmark: bool) -> Iterator[None]:
    """Inference mode under exactly these settings, for the duration of a block; then all is as it was.

    `threads` holds on a CPU only. Autocast, deterministic algorithms and Python's garbage collector are off meanwhile.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        else:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        mode = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        stack.callback(torch.use_deterministic_algorithms, mode, warn_only=warn_only)
        torch.use_deterministic_algorithms(False)
        stack.enter_context(_switched(_switches(tf32=tf32, cudnn_benchmark=cudnn_benchmark)))
        if gc.isenabled():
            stack.callback(gc.enable)
            gc.disable()
        yield


def _switches(*, tf32: bool, cudnn_benchmark: bool) -> dict[str, bool | str]:
    """Torch's global switches by their path below `torch.backends`, in the order in which they must be set.

    TF32 has an old switch (allow_tf32) and since torch 2.9 a new one (fp32_precision); both are set, the old one first,
    because torch refuses to read the old one while the two disagree, and torch.compile reads it.
    """
    precision = "tf32" if tf32 else "ieee"
    return {
        "cudnn.benchmark": cudnn_benchmark,
        "cudnn.deterministic": False,
        "cudnn.allow_tf32": tf32,
        "cuda.matmul.allow_tf32": tf32,
        "cudnn.conv.fp32_precision": precision,
        "cudnn.rnn.fp32_precision": precision,  # not used here, but the old switch asks that the two agree
        "cuda.matmul.fp32_precision": precision,
        "mkldnn.conv.fp32_precision": "ieee",
        "mkldnn.matmul.fp32_precision": "ieee",
    }


@contextmanager
def _switched(switches: dict[str, bool | str]) -> Iterator[None]:
    """Sets switches below `torch.backends` for the duration of a block; those that this torch lacks are skipped."""
    wanted: list[tuple[object, str, object]] = []
    before: list[tuple[object, str, object]] = []
    for path, value in switches.items():  # all are read before any is set, since they move each other
        parent, _, name = path.rpartition(".")
        try:
            holder = attrgetter(parent)(torch.backends)
            old = getattr(holder, name)
        except AttributeError:
            continue
        except RuntimeError:  # the user's old and new TF32 switches disagree; the new ones alone are put back then
            continue
        wanted.append((holder, name, value))
        before.append((holder, name, old))
    try:
        for holder, name, value in wanted:
            setattr(holder, name, value)
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def device_facts(device: str) -> dict[str, str]:
    """What to record beside every number measured on `device`: names, versions, clocks as they are now.

    Facts that the machine does not tell are left out. On CUDA this asks `nvidia-smi`, which can take half a second.
    """
    found = find_device(device)
    facts = {
        "device": str(found),
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(torch.get_num_threads()),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cpu_clock_mhz": _cpu_clock_mhz(),
        "load_1_minute": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if found.type == "cuda":
        facts |= _cuda_facts(found)
    return {name: fact for name, fact in facts.items() if fact}


def _cuda_facts(device: torch.device) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(device)
    uuid = str(getattr(properties, "uuid", "")).removeprefix("GPU-")
    return {
        "gpu": properties.name,
        "gpu_memory_gib": f"{properties.total_memory / 2**30:.1f}",
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),
        **_nvidia_smi(f"GPU-{uuid}" if uuid else str(device.index)),
    }


def _nvidia_smi(gpu: str) -> dict[str, str]:
    """Driver, clocks and temperature by the driver's own tool; empty where that is missing or does not answer."""
    fields = {
        "driver": "driver_version",
        "gpu_clock_mhz": "clocks.sm",
        "gpu_memory_clock_mhz": "clocks.mem",
        "gpu_temperature_c": "temperature.gpu",
        "gpu_power_limit_w": "power.limit",
    }
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--id={gpu}", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in answer.strip().split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_clock_mhz() -> str:
    return _cpuinfo("cpu MHz")


def _cpuinfo(key: str) -> str:
    """The first value of a key in Linux' /proc/cpuinfo, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
