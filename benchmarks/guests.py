"""Cuts our published networks with other tools at half the channels of their groups, and tells what came of each.

`python benchmarks/guests.py TOOL FILE` writes one outcome for each attempt on each network into a JSON file. A tool may
need an environment of its own, so that torch_pruning.py starts this file with the Python of that environment.

Which channels a tool has left is read off the weights of what it gives, which are all different before. What the
network with all others masked by hooks computes, the cut one must too, in float64, at the size at which it was cut
and at another.
"""

import argparse
import contextlib
import copy
import importlib
import io
import json
import logging
import multiprocessing
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from random_plans import streams, tied
from torch import Tensor, fx, nn

from paretosr.proxies.complexity import complexity
from paretosr.pruning.masks import masked
from paretosr.pruning.verify import LIMITS, VerificationFailed, verify
from paretosr.spaces import BUILDABLE, InputError, build, inference_form, published
from paretosr.spaces.design import trains
from paretosr.spaces.flow import FORMS, Flow, closed, compact, settled, slots, trace, without_batch_norm
from paretosr.spaces.flow.routes import Shuffle
from paretosr.spaces.flow.slots import OUT
from paretosr.spaces.plan import Plan, Sides, widths

ANY = "0" * 12  # a plan here is for the network in hand
SIZES = ((24, 24), (31, 27))  # the first is what a tool sees
# What a tool may raise at a network that it cannot cut: anything.
ERRORS = (Exception,)


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt of one tool on one network.

    result: `exact`; `another function`; `another size` where it runs at the size it was cut at alone; `error`; `time`
    where it did not end. attempt: what the tool was told beside the network. difference: the largest, relative to the
    largest number of the masked network's image. flops: the share left. said: of an error or a failure.
    """

    network: str
    tool: str
    attempt: str
    result: str
    difference: float | None = None
    flops: float | None = None
    said: str = ""


class AnotherFunction(Exception):
    """What a cut network is where it can be told without running it."""


def guest(name: str) -> Any:
    """A package that may not be there, by its name; ModuleNotFoundError then.

    This folder has a script that is called what the package is called: it is not looked into.
    """
    path, here = list(sys.path), Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != here]
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = path


def subject(name: str) -> nn.Module:
    """A published network as it is run, batch norm folded, in float64, with weights and statistics as after a training.

    All weights differ. What an activation jumps by stays as it was made.
    """
    network: nn.Module = build(published(name), seed=1).double().eval()
    generator = torch.Generator().manual_seed(2)
    still = {p for m in network.modules() if hasattr(m, "jumps") for p in m.parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and parameter not in still:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
                module.get_buffer("running_var").uniform_(0.5, 2, generator=generator)
    return without_batch_norm(inference_form(network))


def images(network: nn.Module) -> list[Tensor]:
    """One of each size."""
    least, generator = int(getattr(network, "minimum_size", 1)), torch.Generator().manual_seed(3)
    sizes = [(max(height, least), max(width, least)) for height, width in SIZES]
    return [torch.rand(1, 3, *size, generator=generator, dtype=torch.float64) for size in sizes]


# ---- what a cut network is


def kept_channels(cut: nn.Module, network: nn.Module) -> dict[str, Sides]:
    """Which outputs and inputs of each convolution are left in a cut network.

    AnotherFunction where a weight or a bias is none of the network's, or the channels are not in their order.
    """
    kept: dict[str, Sides] = {}
    modules = dict(cut.named_modules())
    for name in widths(network):
        before: Any = network.get_submodule(name)
        after: Any = modules.get(name)
        if after is None:
            raise AnotherFunction(f"'{name}' is gone")
        if after.weight.shape == before.weight.shape and torch.equal(after.weight, before.weight):
            continue
        kept[name] = _sides(name, before, after)
    return kept


def _sides(name: str, before: Any, after: Any) -> Sides:
    """The outputs and inputs left in one convolution."""
    transposed = isinstance(before, nn.ConvTranspose2d)
    old, new = ((m.weight.transpose(0, 1) if transposed else m.weight).detach() for m in (before, after))
    values, order = old.flatten(2)[..., 0].flatten().sort() if old.dim() > 2 else old.flatten().sort()
    wanted = (new.flatten(2)[..., 0] if new.dim() > 2 else new).contiguous()
    found = order[torch.searchsorted(values, wanted).clamp(max=len(order) - 1)]
    rows, columns = found // old.shape[1], found % old.shape[1]
    if not torch.equal(old[rows, columns], new):
        raise AnotherFunction(f"weights of '{name}' are not the network's")
    # In a group of a grouped convolution the inputs are counted from the group's first.
    groups, new_groups = getattr(before, "groups", 1), getattr(after, "groups", 1)
    columns = columns + rows // (old.shape[0] // groups) * old.shape[1]
    columns = columns.reshape(new_groups, -1, new.shape[1])
    outs, ins = rows[:, 0].tolist(), columns[:, 0].flatten().tolist()
    if (rows != rows[:, :1]).any() or (columns != columns[:, :1]).any() or outs != sorted(outs) or ins != sorted(ins):
        raise AnotherFunction(f"channels of '{name}' are mixed up")
    if before.bias is not None and not (after.bias is not None and torch.equal(after.bias, before.bias[outs])):
        raise AnotherFunction(f"the bias of '{name}' is not the network's")
    return tuple(outs), tuple(ins)


def judged(cut: nn.Module, network: nn.Module) -> dict[str, Any]:
    """The fields of the outcome that hold for a network that a tool gave."""
    cut, found = cut.double().eval(), 0.0
    for number, image in enumerate(images(network)):
        with torch.no_grad():
            try:
                given = cut(image.clone())
            except ERRORS as error:
                return {"result": "another size" if number else "error", "said": f"when run: {in_words(error)}"}
            try:
                with masked(network, Plan(ANY, kept_channels(cut, network))):
                    wanted = network(image)
            except AnotherFunction as why:
                return {"result": "another function", "said": str(why), "flops": share_of(cut, network)}
        if given.shape != wanted.shape:
            return {"result": "another function", "said": f"its image is {list(given.shape)}"}
        found = max(found, float((given - wanted).abs().max() / wanted.abs().max()))
    result = "exact" if found <= LIMITS[torch.float64] else "another function"
    return {"result": result, "difference": found, "flops": share_of(cut, network)}


def share_of(cut: nn.Module, network: nn.Module) -> float | None:
    """The share of the FLOPs that is left; None where the cut network cannot be counted."""
    try:
        return complexity(cut).flops_g / complexity(network).flops_g
    except ERRORS:
        return None


def in_words(error: BaseException) -> str:
    """An error on one short line."""
    lines = str(error).strip().splitlines()
    said = " ".join((lines[0] if lines else "").split())
    return f"{type(error).__name__}{': ' if said else ''}{said}"[:160]


# ---- the tools: each gives its attempts by what it was told, one after another until one is exact

Attempt = Callable[[nn.Module, Flow], nn.Module]


def torch_pruning_local(network: nn.Module, flow: Flow, *spared: set[str]) -> nn.Module:
    """Half of each group, by magnitude.

    It is told what a user would know: to leave alone the convolutions that make the image, and those that are not
    trained (a shift of the mean, say); and also those of `spared`.
    """
    tp = guest(PACKAGES["torch_pruning"])
    untrained = {name for name in flow.widths if is_untrained(flow, name)}
    ignored = makers(flow, [next(reversed(flow.rules))]).union(untrained, *spared)
    pruner = tp.pruner.BasePruner(
        network,
        images(network)[0],
        tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[network.get_submodule(name) for name in sorted(ignored)],
    )
    pruner.step()
    return network


def makers(flow: Flow, nodes: Sequence[fx.Node]) -> set[str]:
    """The convolutions that make what these nodes hold, by whatever operations in between, untrained ones included."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if flow.rules[node].cuts:
            found.add(str(node.target))
        if not flow.rules[node].cuts or is_untrained(flow, str(node.target)):
            waiting += flow.rules[node].operands
    return found


def is_untrained(flow: Flow, name: str) -> bool:
    """Whether a convolution has but fixed weights."""
    return not trains(flow.network.get_submodule(name))


def shuffled(flow: Flow) -> set[str]:
    """The convolutions whose outputs go into a PixelShuffle."""
    return makers(
        flow, [source for rule in flow.rules.values() if isinstance(rule, Shuffle) for source in rule.operands]
    )


def frozen(flow: Flow) -> set[str]:
    """The convolutions whose outputs cannot be closed by themselves, as those before a sigmoid."""
    return {member.name for slot in slots(flow).fine if slot.frozen for member in slot.members if member.side == OUT}


def nni_speedup(network: nn.Module, flow: Flow, plan: Plan, graph: fx.GraphModule | None = None) -> nn.Module:
    """nni's ModelSpeedup of our plan: masks that agree within each group, which its own pruners no longer make here."""
    speedup = guest(PACKAGES["nni"])
    masks: dict[str, dict[str, Tensor]] = {}
    for name, (outputs, _) in plan.kept.items():
        module: Any = network.get_submodule(name)
        if len(outputs) == widths(network)[name][0]:
            continue
        out = torch.zeros(widths(network)[name][0])
        out[list(outputs)] = 1
        place = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        shape = [-1 if at == place else 1 for at in range(module.weight.dim())]
        masks[name] = {"weight": out.reshape(shape).expand_as(module.weight).contiguous()}
        if module.bias is not None:
            masks[name]["bias"] = out
    return speedup.ModelSpeedup(network, images(network)[0], masks, graph_module=graph).speedup_model()


def half_of_groups(flow: Flow) -> Plan:
    """A plan that closes half of the channels of every group, by chance."""
    return closed(flow, list(tied(streams(flow), random.Random(0), 1)), ANY)


PACKAGES = {"torch_pruning": "torch_pruning", "nni": "nni.compression.speedup"}
TOOLS: dict[str, Mapping[str, Attempt]] = {
    "torch_pruning": {
        "": torch_pruning_local,
        "spared what a PixelShuffle reads": lambda n, f: torch_pruning_local(n, f, shuffled(f)),
        "and what a sigmoid and its like read": lambda n, f: torch_pruning_local(n, f, shuffled(f), frozen(f)),
    },
    "nni": {
        "": lambda n, f: nni_speedup(n, f, settled(f, half_of_groups(f))),
        "given a graph of torch.fx": lambda n, f: nni_speedup(
            n, f, settled(f, half_of_groups(f)), fx.symbolic_trace(n)
        ),
        "and masks without what follows from them": lambda n, f: nni_speedup(
            n, f, half_of_groups(f), fx.symbolic_trace(n)
        ),
    },
}


def attempt(name: str, tool: str, told: str) -> Outcome:
    """One attempt of a tool."""
    network = subject(name)
    flow = trace(network)
    if tool == "ours":
        return ours(name, network, flow)
    given = copy.deepcopy(network)
    for parameter in given.parameters():
        parameter.requires_grad_(True)  # tools that trace by autograd see nothing else
    try:
        cut = TOOLS[tool][told](given, flow)
    except ERRORS as error:
        return Outcome(name, tool, told, "error", said=in_words(error))
    return Outcome(name, tool, told, **judged(cut, network))


def ours(name: str, network: nn.Module, flow: Flow) -> Outcome:
    """`compact` in all forms, and `verify`, which has many sizes of image."""
    plan = half_of_groups(flow)
    try:
        forms = {form: compact(flow, plan, form) for form in FORMS}
        found = verify(network, plan, forms)
    except VerificationFailed as error:
        return Outcome(name, "ours", "", "another function", said=in_words(error))
    except InputError as error:
        return Outcome(name, "ours", "", "error", said=in_words(error))
    flops = found.after.flops_g / found.before.flops_g
    return Outcome(name, "ours", "", "exact", found.worst["float64"], flops)


# ---- one process for each attempt, so that none can take others down


def outcomes(tool: str, names: Sequence[str], limit_s: float) -> Iterator[Outcome]:
    """All attempts on all networks, each ended when its time is up; an attempt follows only where the last failed."""
    for name in names:
        for told in TOOLS.get(tool, {"": None}):
            found = in_process(name, tool, told, limit_s)
            sys.stderr.write(f"{tool}, {name}: {found.result} {found.said}\n")
            yield found
            if found.result == "exact":
                break


def in_process(name: str, tool: str, told: str, limit_s: float) -> Outcome:
    """An attempt in a copy of this process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name, tool, told))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            return Outcome(name, tool, told, "time", said=f"not done after {limit_s:g} s")
        return receiver.recv()
    except EOFError:
        process.join()
        return Outcome(name, tool, told, "error", said=f"the process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, name: str, tool: str, told: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # tools make modules of the default type
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        found = attempt(name, tool, told)
    sender.send(found)


def main() -> None:
    """Tries one tool on all networks asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=["ours", *TOOLS])
    parser.add_argument("file", type=Path, help="where the outcomes are written to, as JSON")
    parser.add_argument("--networks", nargs="+", default=list(BUILDABLE))
    parser.add_argument("--limit", type=float, default=120, help="seconds for each attempt")
    options = parser.parse_args()
    if options.tool in PACKAGES:
        guest(PACKAGES[options.tool])  # once, before processes are copied
    found = [asdict(outcome) for outcome in outcomes(options.tool, options.networks, options.limit)]
    options.file.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
