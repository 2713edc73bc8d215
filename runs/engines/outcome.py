"""What comes of a task in a worker, whichever engine it belongs to: its numbers, or why there are none, in one line."""

from dataclasses import replace
from typing import Any

import torch

from ...proxies.training import Training, TrainingFailed
from ...proxies.training_memory import training_memory_mb
from ...proxies.work import Report, Stop, Work
from ...proxies.writing import is_full_disk
from ...search.engine import Task
from ...spaces import Design, InputError

DONE, FAILED, NO_MEMORY, FULL_DISK = "done", "failed", "out of memory", "disk full"
# What a lack of memory says of itself, a GPU's libraries in their own words.
LACKS_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute",
    "Unable to find a valid cuDNN algorithm",
)
# A GPU that is out of order, and a network disk that is (EIO, ESTALE).
NODES_OWN = ("CUDA error", "[Errno 5]", "[Errno 116]")
DEATHS = 3  # a task whose worker died so often has failed; also one that met a node's own errors so often
DIED, NODE_LOST = "died", "node lost"  # said of a worker, not by it
Outcome = tuple[str, Any]


def outcome_of(work: Work, report: Report, stop: Stop) -> Outcome:
    """(DONE, numbers), (FAILED, reason), (NO_MEMORY, reason) or (FULL_DISK, file).

    Whatever a network does wrong is its own failure; a full disk is everybody's, and no candidate is blamed for it.
    """
    try:
        return DONE, work.perform(report, stop)
    except Exception as error:  # noqa: BLE001  a candidate's failure must not end the run, whatever it is
        if is_full_disk(error):
            return FULL_DISK, getattr(error, "filename", None)
        told = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in told for words in LACKS_MEMORY):
            return NO_MEMORY, "out of memory"
        return FAILED, reason(error)


def spoils_worker(kind: str, content: Any) -> bool:
    """Whether a worker that said this is of no use any more: after such an error all that it does on its GPU fails."""
    return kind == FAILED and "CUDA error" in str(content)


def may_be_the_nodes(kind: str, content: Any) -> bool:
    """Whether a failure may be the fault of the node that it was met on, and not of the network."""
    return kind == FAILED and any(words in str(content) for words in NODES_OWN)


def reason(error: Exception) -> str:
    """Why a work failed, in one line."""
    lines = str(error).strip().splitlines() or [""]
    expected = isinstance(error, TrainingFailed | InputError)
    return lines[0] if expected else f"{type(error).__name__}: {lines[0]}"


def after_death(task: Task, deaths: int) -> Task | None:
    """The task as it is tried again after so many deaths of its workers: the last time alone, for it may be memory.

    None where that was in vain: by then it is more likely its own fault than somebody else's.
    """
    if deaths >= DEATHS:
        return None
    return replace(task, alone=True) if deaths == DEATHS - 1 else task


def once_more_alone(task: Task) -> Task | None:
    """The task as it is tried again after it ran out of memory: on a whole device. None where it was that already."""
    return None if task.alone else replace(task, alone=True)


def alone_in_vain(task: Task, why: str) -> str:
    """The reason of a task that ran out of memory on a whole device, too; with the memory that it should have taken."""
    memory_mb = predicted_memory_mb(task.work)
    predicted = "" if memory_mb is None else f"; its tensors were to take {memory_mb:,.0f} MB"
    return f"{why}, on a whole device too{predicted}"


def predicted_memory_mb(work: Work) -> float | None:
    """What a training will take (an upper bound on a GPU); None for a work that is none, or is not understood."""
    design, training = getattr(work, "design", None), getattr(work, "training", None)
    if not isinstance(design, Design) or not isinstance(training, Training):
        return None
    teacher = getattr(work, "teacher", None)
    training = replace(training, batch=training.batch // getattr(work, "gpus", 1))
    try:
        return training_memory_mb(design, training, teacher[0] if teacher else None)
    except (InputError, RuntimeError, ValueError):  # what cannot be trained at all has failed for another reason
        return None
