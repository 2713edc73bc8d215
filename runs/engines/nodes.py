"""What is checked of the nodes of a cluster before a run begins there, and which of them may time.

`facts_of` runs on a node; the rest judges the answers, in one line each.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...proxies.device import device_facts
from ...proxies.work import Data
from ...proxies.writing import writer
from ...spaces import InputError

SHARED_DISK_S = 5.0  # a shared disk may show a new file so much later to another node
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class NodeFacts:
    """A node that may work: Ray's name for it, its host, what it has, and the facts that are recorded of it.

    kind: the name of its GPUs, or of its CPU where the run is on CPUs; numbers of different kinds are never compared.
    """

    id: str
    host: str
    kind: str
    cpus: float
    gpus: float
    facts: Mapping[str, str]


# ---- on the node


def facts_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of this node: its devices; whether it sees the token in the run's folder; the hash of its images.

    asked: `device` (cpu or cuda), `token` (a file and what stands in it) and `data`, the last two or None.
    """
    # Ray hides the GPUs from what asks for none; this one only wants their names.
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]
    torch.set_num_threads(1)
    on_gpu = asked["device"] == "cuda"
    count = torch.cuda.device_count() if on_gpu and torch.cuda.is_available() else 0
    answer: dict[str, Any] = {
        "gpus": [torch.cuda.get_device_properties(number).name for number in range(count)],
        "facts": device_facts("cuda:0" if count else "cpu"),
    }
    try:
        if asked["token"] is not None:
            check_token(Path(asked["token"][0]), asked["token"][1])
        if asked["data"] is not None:
            data: Data = asked["data"]
            data.prepare(lambda done, total: None)
            answer["hash"] = hashes(data)
    except InputError as error:
        answer["problem"] = str(error)
    return answer


def check_token(file: Path, token: str) -> None:
    """InputError where this node does not see the file with the token, or may not write beside it."""
    deadline = time.monotonic() + SHARED_DISK_S
    while True:
        with suppress(OSError):
            if file.read_text() == token:
                break
        if time.monotonic() > deadline:
            raise InputError(f"does not see the folder {file.parent}; --out must lie on a disk that all nodes share")
        time.sleep(0.2)
    trial = file.with_name(f".trial.{writer()}.part")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(f"cannot write into the folder {file.parent} ({error.strerror})") from None


def hashes(data: Data) -> dict[str, str]:
    """The hash of the images to train on, and of those to judge by."""
    return {"train": data.train().hash, "validation": data.evaluation().hash}


# ---- on the driver


def problem_of(answer: Answer, wanted: Mapping[str, str], hash_here: Mapping[str, str], gpus: float) -> str | None:
    """Why a node that answered so cannot work for this run; None where it can. gpus: how many Ray says it has."""
    found = answer.get("installed")
    if found is None:
        return str(answer["problem"])
    if not found:
        return "has no package paretosr; install it there, the same version as here"
    if found["version"] != wanted["version"]:
        return f"has paretosr {found['version']}, and here it is {wanted['version']}; install the same"
    if found["sources"] != wanted["sources"]:
        return f"has other sources of paretosr {found['version']} than are here; install the same"
    if "problem" in answer:
        return str(answer["problem"])
    for role, known in hash_here.items():
        if "hash" in answer and answer["hash"][role] != known:
            return f"has other {role} images at the same path than are here"
    if gpus and not answer["gpus"]:
        return f"has {gpus:g} GPUs by Ray's count, and torch there shows none; install its CUDA build"
    if gpus and len(set(answer["gpus"])) > 1:
        kinds = ", ".join(sorted(set(answer["gpus"])))
        return f"has GPUs of several kinds ({kinds}); start Ray there with only one of them in CUDA_VISIBLE_DEVICES"
    return None


def described(node: Mapping[str, Any], answer: Answer, gpus: float) -> NodeFacts:
    """A node that can work, from Ray's row of it and its own answer."""
    facts = {name: fact for name, fact in answer["facts"].items() if name != "threads"}
    kind = answer["gpus"][0] if gpus else facts.get("cpu", "a CPU without a name")
    cpus = float(node["Resources"].get("CPU", 0))
    return NodeFacts(node["NodeID"], node["NodeManagerHostname"], kind, cpus, gpus, facts)


def kind_to_time_on(wanted: str | None, nodes: Iterable[NodeFacts]) -> str:
    """The kind of device that timings go to: the only one there is, or the one that the recipe names, or a part of it.

    InputError where several are there and none is named, or the name fits none or several.
    """
    return the_kind(wanted, [node.kind for node in nodes], "the cluster has")


def the_kind(wanted: str | None, kinds: Sequence[str], there: str) -> str:
    """The one of these kinds that is wanted; `there` begins the sentence that lists them."""
    known = sorted(set(kinds))
    listed = ", ".join(f"'{kind}'" for kind in known)
    if wanted is None:
        if len(known) == 1:
            return known[0]
        raise InputError(
            f"latency.device_kind: {there} devices of several kinds, and latencies of two never compare; "
            f"name the one to time on: {listed}"
        )
    fitting = [kind for kind in known if kind == wanted] or [k for k in known if wanted.casefold() in k.casefold()]
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(f"latency.device_kind: '{wanted}' fits {len(fitting) or 'none'} of what {there}: {listed}")
